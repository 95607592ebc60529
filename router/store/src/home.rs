//! The directory of a store: whose it is, which format it has, and that only one process is in it.
//!
//! Knows: the marker file, its lock, the name of the inner directory. Never: RocksDB.
//! In:  a path. Out: the lock, held as long as the value lives, and where RocksDB may work.
//! Invariant: before lock and format are known to be right nothing in the directory is created, changed or removed;
//! the marker appears only after RocksDB has made its first files, so a marker without them is damage, not a start.
//!
//! Why a marker beside RocksDB and not only a key inside: RocksDB changes files by merely opening them.

use crate::error::OpenError;
use crate::newest_log;
use crate::options::Options;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The format that this version writes, and the newest it reads (storage-format.md §1).
pub const FORMAT_VERSION: u32 = 1;

/// Name of the marker file.
pub(crate) const MARKER: &str = "MILLRACE-STORE";
/// What the marker is called until the store is complete.
pub(crate) const MARKER_UNFINISHED: &str = "MILLRACE-STORE.creating";
/// Name of the inner directory.
pub(crate) const ENGINE_DIRECTORY: &str = "rocksdb";
/// Name of the file that tells whether the disk takes writes, while that is in doubt.
const PROBE: &str = "probe";
/// Bytes of it: enough for what RocksDB writes first when it opens.
const PROBE_BYTES: usize = 1 << 20;
/// First line of the marker.
const MARKER_TITLE: &str = "millrace store";
/// RocksDB's file that names its current manifest: there is no database without it.
const ENGINE_CURRENT: &str = "CURRENT";
/// What a fresh file system has in its root; a mount point is still an empty directory to us.
const IGNORED: &str = "lost+found";

/// A locked directory.
#[derive(Debug)]
pub(crate) struct Home {
    root: PathBuf,
    /// Locked until dropped (flock); the kernel releases it when the process dies.
    lock: File,
    unfinished: bool,
}

impl Home {
    /// Judges and locks the directory; makes one if that is allowed and nothing is there.
    pub(crate) fn enter(options: &Options) -> Result<Home, OpenError> {
        let root = &options.path;
        match look(root)? {
            Found::Store => Home::enter_existing(root),
            Found::Nothing | Found::UnfinishedStore if options.create_if_missing => Home::create(root),
            Found::Nothing | Found::UnfinishedStore => Err(OpenError::Missing { path: root.clone() }),
            Found::Other(found) => Err(OpenError::NotAStore { path: root.clone(), found }),
        }
    }

    /// Like [`Home::enter`] for a store that must exist, as inspection needs it.
    pub(crate) fn enter_existing(root: &Path) -> Result<Home, OpenError> {
        match look(root)? {
            Found::Store => {}
            Found::Nothing | Found::UnfinishedStore => {
                return Err(OpenError::Missing { path: root.to_owned() });
            }
            Found::Other(found) => return Err(OpenError::NotAStore { path: root.to_owned(), found }),
        }
        let marker = root.join(MARKER);
        let lock = File::open(&marker).map_err(|e| OpenError::from_io(root, e))?;
        lock_now(&lock, root)?;
        let text = fs::read_to_string(&marker).map_err(|e| OpenError::from_io(root, e))?;
        let found = parse_marker(&text).ok_or_else(|| OpenError::NotAStore {
            path: root.to_owned(),
            found: format!("its file {MARKER} was not written by us"),
        })?;
        if found > FORMAT_VERSION {
            return Err(OpenError::NewerFormat { path: root.to_owned(), found, supported: FORMAT_VERSION });
        }
        let home = Home { root: root.to_owned(), lock, unfinished: false };
        crate::repair::finish_swap(root).map_err(|e| OpenError::from_io(root, e))?;
        if !home.engine_path().join(ENGINE_CURRENT).exists() {
            let detail = format!("its directory {ENGINE_DIRECTORY} is missing or empty");
            return Err(OpenError::Corrupt { path: root.to_owned(), detail });
        }
        Ok(home)
    }

    /// Whether this store is only now coming to life.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// To be called when RocksDB's files are complete and synced: from now on this is a store.
    pub(crate) fn finish(&mut self) -> Result<(), OpenError> {
        if self.unfinished {
            let rename = fs::rename(self.root.join(MARKER_UNFINISHED), self.root.join(MARKER));
            rename
                .and_then(|()| sync_directory(&self.root))
                .map_err(|e| OpenError::from_io(&self.root, e))?;
            self.unfinished = false;
        }
        Ok(())
    }

    /// Fails if the log that was written last is gone.
    pub(crate) fn check_newest_log(&self) -> Result<(), OpenError> {
        let missing = newest_log::missing(&self.root, &self.engine_path());
        match missing.map_err(|error| OpenError::from_io(&self.root, error))? {
            Some(detail) if !self.unfinished => Err(OpenError::Corrupt { path: self.root.clone(), detail }),
            _ => Ok(()),
        }
    }

    /// The file system may be another one by now, under the same path: locks what is there.
    pub(crate) fn lock_again(&mut self) -> Result<(), OpenError> {
        let io = |error| OpenError::from_io(&self.root, error);
        let marker = File::open(self.root.join(MARKER)).map_err(io)?;
        let which = |file: &File| file.metadata().map(|about| (about.dev(), about.ino()));
        if which(&marker).map_err(io)? != which(&self.lock).map_err(io)? {
            lock_now(&marker, &self.root)?;
            self.lock = marker;
        }
        Ok(())
    }

    /// Says whether the disk takes writes: writes a file, syncs it and removes it again.
    pub(crate) fn probe(&self) -> Result<(), OpenError> {
        let path = self.root.join(PROBE);
        let written = write_durably(&path, &[0; PROBE_BYTES]);
        match fs::remove_file(&path) {
            Err(error) if written.is_ok() => Err(error),
            _ => written,
        }
        .map_err(|error| OpenError::from_io(&self.root, error))
    }

    /// The directory of the store.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where RocksDB works.
    pub(crate) fn engine_path(&self) -> PathBuf {
        self.root.join(ENGINE_DIRECTORY)
    }

    fn create(root: &Path) -> Result<Home, OpenError> {
        let io = |e: io::Error| OpenError::from_io(root, e);
        fs::create_dir_all(root).map_err(io)?;
        let path = root.join(MARKER_UNFINISHED);
        let mut lock = File::options().write(true).create(true).truncate(false).open(&path).map_err(io)?;
        lock_now(&lock, root)?;
        // Between our look and our lock another process may have finished the store: then its marker is there.
        if root.join(MARKER).exists() {
            drop(lock);
            return Home::enter_existing(root);
        }
        // What a start that died left behind was never confirmed to anybody.
        match fs::remove_dir_all(root.join(ENGINE_DIRECTORY)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
            _ => {}
        }
        lock.set_len(0).map_err(io)?;
        write!(lock, "{MARKER_TITLE}\nformat {FORMAT_VERSION}\n").map_err(io)?;
        lock.sync_all().map_err(io)?;
        sync_directory(root).map_err(io)?;
        if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent).map_err(io)?;
        }
        Ok(Home { root: root.to_owned(), lock, unfinished: true })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Closing alone is not enough: a child process that another thread starts just now holds a copy of the
        // descriptor until its exec, and the lock would outlive us by that moment.
        if let Err(error) = self.lock.unlock() {
            debug_assert!(false, "a lock we hold can be given back: {error}");
        }
    }
}

/// Writes a file and syncs it.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

enum Found {
    Nothing,
    UnfinishedStore,
    Store,
    Other(String),
}

/// Says what is at `root` without touching it.
fn look(root: &Path) -> Result<Found, OpenError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(Found::Other("it is a file".into())),
        Err(e) => return Err(OpenError::from_io(root, e)),
    };
    let mut unfinished = false;
    let mut other = None;
    for entry in entries {
        let name = entry.map_err(|e| OpenError::from_io(root, e))?.file_name();
        match name.to_str() {
            Some(MARKER) => return Ok(Found::Store),
            Some(MARKER_UNFINISHED) => unfinished = true,
            Some(IGNORED) => {}
            _ => other = Some(name),
        }
    }
    Ok(match other {
        None if !unfinished => Found::Nothing,
        Some(name) if !unfinished => Found::Other(format!("it contains {:?} and no {MARKER}", name)),
        _ => Found::UnfinishedStore,
    })
}

fn lock_now(file: &File, root: &Path) -> Result<(), OpenError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::LockedByAnother { path: root.to_owned() },
        TryLockError::Error(e) => OpenError::from_io(root, e),
    })
}

fn parse_marker(text: &str) -> Option<u32> {
    let (title, rest) = text.split_once('\n')?;
    let version = rest.lines().next()?.strip_prefix("format ")?.parse().ok()?;
    (title == MARKER_TITLE && version > 0).then_some(version)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
