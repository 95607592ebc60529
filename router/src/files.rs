//! Files that hold secrets: written whole, readable by their owner alone.
//!
//! In: a path and bytes. Out: the file, replaced; nobody ever sees half of it, and a crash leaves the old one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Replaces a file. A link keeps leading to the file; its owner stays who it was.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let unfinished = folder.join(name);
    let write = || {
        // Of a process of this number that was cut off; in a container all have the same.
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        if let Ok(old) = fs::metadata(&target) {
            // Run by root, the router must still be able to read it.
            let current = file.metadata()?;
            if (old.uid(), old.gid()) != (current.uid(), current.gid()) {
                std::os::unix::fs::chown(&unfinished, Some(old.uid()), Some(old.gid()))?;
            }
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, &target)?;
        File::open(folder)?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&unfinished)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_power_cut_left_is_in_nobodys_way() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("trust.pem");
        let left = folder.path().join(format!("trust.pem.{}.tmp", std::process::id()));
        fs::write(&left, "half of").expect("a leftover");
        replace(&path, b"all of it").expect("replaced");
        assert_eq!((fs::read(&path).expect("the file"), left.exists()), (b"all of it".to_vec(), false));
    }
}
