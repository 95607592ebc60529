//! A store on a disk whose power can be cut, and what is left of it then.
//!
//! In: a setup, to be run with the library `powercut` between it and its disk; the moment of the cut. Out: the store as a
//! disk would have it afterwards: everything synced, and of the rest nothing, or whatever pages and names happened to be
//! written back before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use harness::{Setup, millrace};

use crate::chaos::Chaos;

/// What a disk writes at once or not at all.
const PAGE: usize = 4_096;
/// Where the library keeps bytes whose names are not synced.
const FILES: &str = ".files";

/// The disk.
pub(crate) struct Power {
    home: tempfile::TempDir,
}

impl Power {
    /// An empty one.
    pub(crate) fn new() -> Power {
        Power { home: tempfile::tempdir().expect("a directory for the test") }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.home.path().join("store")
    }

    fn left(&self) -> PathBuf {
        self.home.path().join("left")
    }

    /// Puts the store of a router on it.
    #[track_caller]
    pub(crate) fn feeds(&self, setup: Setup) -> Setup {
        let library = millrace().with_file_name("libpowercut.so");
        assert!(library.is_file(), "there is no {}: run `make test`, which builds it", library.display());
        setup
            .store(&self.store())
            .env("LD_PRELOAD", library)
            .env("MILLRACE_POWER_DISK", self.store())
            .env("MILLRACE_POWER_LEFT", self.left())
            .env("MILLRACE_POWER_LIES", self.lies())
    }

    fn lies(&self) -> PathBuf {
        self.home.path().join("lies")
    }

    /// From now on the disk says that things are synced which are not: `all` of them, or `half`; until the next cut.
    #[track_caller]
    pub(crate) fn lie(&self, which: &str) {
        fs::write(self.lies(), which).expect("a file can be written");
    }

    /// Cuts the power; its router is dead. What was not synced is gone.
    #[track_caller]
    pub(crate) fn cut(&self) {
        self.replace(|_, _| Ok(())).expect("the disk can be put together");
    }

    /// As `cut`, but whatever was not synced may have been written back, page by page and name by name.
    #[track_caller]
    pub(crate) fn cut_torn(&self, chaos: &mut Chaos) {
        self.replace(|next, real| tear(next, real, chaos)).expect("the disk can be put together");
    }

    fn replace(&self, change: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
        if self.lies().exists() {
            fs::remove_file(self.lies())?;
        }
        let next = self.home.path().join("next");
        copy_tree(&self.left(), &next)?;
        change(&next, &self.store())?;
        fs::remove_dir_all(self.store())?;
        fs::rename(next, self.store())
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_name() == FILES {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Lets some of what is in `real` and not in `next` be written back.
fn tear(next: &Path, real: &Path, chaos: &mut Chaos) -> io::Result<()> {
    for entry in fs::read_dir(real)? {
        let entry = entry?;
        let target = next.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            tear(&target, &entry.path(), chaos)?;
        } else if entry.file_type()?.is_file() && (target.exists() || chaos.below(2) == 0) {
            let synced = fs::read(&target).unwrap_or_default();
            fs::write(&target, torn(synced, &fs::read(entry.path())?, chaos))?;
        }
    }
    Ok(())
}

/// Every page is either as synced or as written; the length lies between both.
fn torn(synced: Vec<u8>, written: &[u8], chaos: &mut Chaos) -> Vec<u8> {
    let mut bytes = synced;
    let grown = written.len().saturating_sub(bytes.len()) as u64;
    bytes.resize(bytes.len() + chaos.below(grown + 1) as usize, 0);
    let len = bytes.len().min(written.len());
    for (page, was) in bytes[..len].chunks_mut(PAGE).zip(written[..len].chunks(PAGE)) {
        if page != was && chaos.below(2) == 0 {
            page.copy_from_slice(was);
        }
    }
    bytes
}
