//! What of a directory would be left after a power cut: its synced bytes under its synced names.
//!
//! In: what was written, named and synced, in order. Out: a second directory beside it, `left`.
//! Always: `left` never holds what was not synced, and it holds all that was when the sync returns. Folders inside the
//! directory are taken as there at once.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Where the bytes of files stand whose names may not be synced, inside `left`.
pub(crate) const FILES: &str = ".files";

/// A file, whatever its name is now.
type FileId = u64;

/// What a file descriptor is.
#[derive(Clone, Debug)]
enum Opened {
    File(FileId),
    Folder(PathBuf),
}

/// Names of a folder that changed, to be done with the folder's next sync.
#[derive(Clone, Debug)]
enum Change {
    Link { path: PathBuf, file: FileId },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
}

impl Change {
    /// Whether it is a change of this folder's names.
    fn is_in(&self, folder: &Path) -> bool {
        let is_in = |path: &Path| path.parent() == Some(folder);
        match self {
            Change::Link { path, .. } | Change::Unlink { path } => is_in(path),
            Change::Rename { from, to } => is_in(from) || is_in(to),
        }
    }
}

/// The bookkeeping.
#[derive(Debug)]
pub(crate) struct Disk {
    real: PathBuf,
    left: PathBuf,
    by_fd: HashMap<i32, Opened>,
    by_path: HashMap<PathBuf, FileId>,
    /// Written and not synced: from, to.
    unsynced: HashMap<FileId, Vec<(u64, u64)>>,
    changes: Vec<Change>,
    next: FileId,
    /// As long as this file is there syncs are lies: `all` of them, or `half`.
    lies: Option<PathBuf>,
    syncs: u64,
}

impl Disk {
    /// Starts with an empty `left`, or with what is in `real` already: that is taken as synced.
    pub(crate) fn open(real: PathBuf, left: PathBuf) -> io::Result<Disk> {
        let mut disk = Disk {
            real,
            left,
            by_fd: HashMap::new(),
            by_path: HashMap::new(),
            unsynced: HashMap::new(),
            changes: Vec::new(),
            next: 0,
            lies: std::env::var_os("MILLRACE_POWER_LIES").map(PathBuf::from),
            syncs: 0,
        };
        if disk.left.exists() {
            fs::remove_dir_all(&disk.left)?;
        }
        fs::create_dir_all(disk.left.join(FILES))?;
        if disk.real.exists() {
            disk.take_over(&disk.real.clone())?;
        }
        Ok(disk)
    }

    fn take_over(&mut self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                self.take_over(&path)?;
                continue;
            }
            let file = self.new_file();
            fs::copy(&path, self.bytes_of(file))?;
            self.apply(&Change::Link { path: path.clone(), file })?;
            self.by_path.insert(path, file);
        }
        Ok(())
    }

    fn new_file(&mut self) -> FileId {
        self.next += 1;
        self.next
    }

    fn bytes_of(&self, file: FileId) -> PathBuf {
        self.left.join(FILES).join(file.to_string())
    }

    /// A file or folder was opened.
    pub(crate) fn opened(&mut self, fd: i32, path: &Path, creates: bool, empties: bool) {
        if !path.starts_with(&self.real) {
            return;
        }
        if path.is_dir() {
            self.by_fd.insert(fd, Opened::Folder(path.to_owned()));
            return;
        }
        let known = self.by_path.get(path).copied().filter(|_| !creates);
        let file = known.unwrap_or_else(|| {
            let file = self.new_file();
            self.by_path.insert(path.to_owned(), file);
            self.changes.push(Change::Link { path: path.to_owned(), file });
            file
        });
        if empties {
            self.unsynced.insert(file, vec![(0, 0)]); // its length is taken with its next sync
        }
        self.by_fd.insert(fd, Opened::File(file));
    }

    /// A descriptor stands for nothing any more.
    pub(crate) fn closed(&mut self, fd: i32) {
        self.by_fd.remove(&fd);
    }

    /// So many bytes were written.
    pub(crate) fn written(&mut self, fd: i32, at: u64, len: u64) {
        let Some(Opened::File(file)) = self.by_fd.get(&fd) else { return };
        let ranges = self.unsynced.entry(*file).or_default();
        match ranges.last_mut() {
            Some((_, end)) if *end == at => *end += len,
            _ => ranges.push((at, at + len)),
        }
    }

    /// A file or folder was synced: what it is now is left.
    pub(crate) fn synced(&mut self, fd: i32) -> io::Result<()> {
        if self.is_lie() {
            return Ok(());
        }
        match self.by_fd.get(&fd).cloned() {
            None => Ok(()),
            Some(Opened::File(file)) => self.keep_bytes(fd, file),
            Some(Opened::Folder(folder)) => self.keep_names(&folder),
        }
    }

    /// Whether this sync is only said to be done.
    fn is_lie(&mut self) -> bool {
        let Some(lies) = self.lies.as_ref().and_then(|path| fs::read_to_string(path).ok()) else {
            return false;
        };
        // SplitMix64, so that no rhythm of the program meets one of the disk.
        self.syncs = self.syncs.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.syncs ^ self.syncs >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        lies.trim() == "all" || (mixed >> 40) & 1 == 0
    }

    fn keep_bytes(&mut self, fd: i32, file: FileId) -> io::Result<()> {
        // The descriptor itself may be for writing only.
        let from = File::open(format!("/proc/self/fd/{fd}"))?;
        let to = OpenOptions::new().write(true).create(true).truncate(false).open(self.bytes_of(file))?;
        let mut buffer = vec![0; 64 << 10];
        for (mut at, end) in self.unsynced.remove(&file).unwrap_or_default() {
            while at < end {
                let wanted = buffer.len().min((end - at) as usize);
                let len = from.read_at(&mut buffer[..wanted], at)?;
                if len == 0 {
                    break; // it was cut since
                }
                to.write_all_at(&buffer[..len], at)?;
                at += len as u64;
            }
        }
        to.set_len(from.metadata()?.len())
    }

    fn keep_names(&mut self, folder: &Path) -> io::Result<()> {
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.changes).into_iter().partition(|change| change.is_in(folder));
        self.changes = later;
        now.iter().try_for_each(|change| self.apply(change))
    }

    fn apply(&self, change: &Change) -> io::Result<()> {
        match change {
            Change::Link { path, file } => {
                let (bytes, name) = (self.bytes_of(*file), self.in_left(path));
                OpenOptions::new().write(true).create(true).truncate(false).open(&bytes)?;
                if let Some(folder) = name.parent() {
                    fs::create_dir_all(folder)?;
                }
                remove_if_there(&name)?;
                fs::hard_link(bytes, name)
            }
            Change::Unlink { path } => remove_if_there(&self.in_left(path)),
            Change::Rename { from, to } => fs::rename(self.in_left(from), self.in_left(to)),
        }
    }

    fn in_left(&self, path: &Path) -> PathBuf {
        self.left.join(path.strip_prefix(&self.real).expect("only the disk's own paths are noted"))
    }

    /// A file has another name.
    pub(crate) fn renamed(&mut self, from: &Path, to: &Path) {
        if let Some(file) = self.by_path.remove(from) {
            self.by_path.insert(to.to_owned(), file);
            self.changes.push(Change::Rename { from: from.to_owned(), to: to.to_owned() });
        }
    }

    /// A file has one more name.
    pub(crate) fn linked(&mut self, from: &Path, to: &Path) {
        if let Some(file) = self.by_path.get(from).copied() {
            self.by_path.insert(to.to_owned(), file);
            self.changes.push(Change::Link { path: to.to_owned(), file });
        }
    }

    /// A name is gone.
    pub(crate) fn unlinked(&mut self, path: &Path) {
        if self.by_path.remove(path).is_some() {
            self.changes.push(Change::Unlink { path: path.to_owned() });
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    use super::*;

    struct Bench {
        home: tempfile::TempDir,
        disk: Disk,
    }

    impl Bench {
        fn new() -> Bench {
            let home = tempfile::tempdir().unwrap();
            fs::create_dir(home.path().join("real")).unwrap();
            let disk = Disk::open(home.path().join("real"), home.path().join("left")).unwrap();
            Bench { home, disk }
        }

        fn real(&self, name: &str) -> PathBuf {
            self.home.path().join("real").join(name)
        }

        /// Writes behind what is there, as the program under test would.
        fn append(&mut self, name: &str, text: &str) -> File {
            let path = self.real(name);
            let is_new = !path.exists();
            let mut file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
            let at = file.metadata().unwrap().len();
            self.disk.opened(file.as_raw_fd(), &path, is_new, false);
            file.write_all(text.as_bytes()).unwrap();
            self.disk.written(file.as_raw_fd(), at, text.len() as u64);
            file
        }

        fn sync(&mut self, file: &File) {
            self.disk.synced(file.as_raw_fd()).unwrap();
        }

        fn sync_folder(&mut self) {
            let path = self.real("");
            let folder = File::open(&path).unwrap();
            self.disk.opened(folder.as_raw_fd(), path.components().as_path(), false, false);
            self.sync(&folder);
        }

        fn left(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.home.path().join("left").join(name)).ok()
        }
    }

    #[test]
    fn bytes_are_left_once_they_and_their_name_are_synced() {
        let mut bench = Bench::new();
        let file = bench.append("a", "one");
        assert_eq!(bench.left("a"), None);
        bench.sync(&file);
        assert_eq!(bench.left("a"), None, "its name is not synced");
        bench.sync_folder();
        assert_eq!(bench.left("a").as_deref(), Some("one"));
        let file = bench.append("a", " two");
        assert_eq!(bench.left("a").as_deref(), Some("one"));
        bench.sync(&file);
        assert_eq!(bench.left("a").as_deref(), Some("one two"));
    }

    #[test]
    fn a_name_without_synced_bytes_is_an_empty_file() {
        let mut bench = Bench::new();
        bench.append("a", "lost");
        bench.sync_folder();
        assert_eq!(bench.left("a").as_deref(), Some(""));
    }

    #[test]
    fn names_change_with_the_sync_of_their_folder() {
        let mut bench = Bench::new();
        let file = bench.append("a", "one");
        bench.sync(&file);
        bench.sync_folder();
        let (a, b) = (bench.real("a"), bench.real("b"));
        bench.disk.renamed(&a, &b);
        assert_eq!((bench.left("a").as_deref(), bench.left("b")), (Some("one"), None));
        bench.sync_folder();
        assert_eq!((bench.left("a"), bench.left("b").as_deref()), (None, Some("one")));
        bench.disk.unlinked(&b);
        assert_eq!(bench.left("b").as_deref(), Some("one"));
        bench.sync_folder();
        assert_eq!(bench.left("b"), None);
    }

    #[test]
    fn what_is_there_at_the_start_is_left() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("real/below")).unwrap();
        fs::write(home.path().join("real/below/a"), "old").unwrap();
        Disk::open(home.path().join("real"), home.path().join("left")).unwrap();
        assert_eq!(fs::read_to_string(home.path().join("left/below/a")).unwrap(), "old");
    }
}
