//! Whether the write-ahead log that was written last is still there. RocksDB knows which older ones there must be, and
//! takes the absence of the newest one for an empty store of new records.
//!
//! Knows: names of files. Never: what is in them. In: the directories of a store. Out: a note of the newest log's number, and
//! a sentence if that log, or every log, is gone.
//! Invariant: the note names a log only after its name is synced, so a power cut does not make it a false alarm.

use std::fs;
use std::io;
use std::path::Path;

/// The note, beside the marker of the store.
const NOTE: &str = "newest-log";
/// What it is called while it is written.
const NOTE_UNFINISHED: &str = "newest-log.new";

/// Notes the newest log if it is another than `noted`.
pub(crate) fn note(root: &Path, engine: &Path, noted: &mut u64) -> io::Result<()> {
    let newest = newest(engine)?.unwrap_or(0);
    if newest == *noted {
        return Ok(());
    }
    fs::File::open(engine)?.sync_all()?;
    fs::write(root.join(NOTE_UNFINISHED), newest.to_string())?;
    fs::rename(root.join(NOTE_UNFINISHED), root.join(NOTE))?;
    *noted = newest;
    Ok(())
}

/// Forgets which log is the newest: another database takes the place of this one.
pub(crate) fn forget(root: &Path) -> io::Result<()> {
    match fs::remove_file(root.join(NOTE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What is missing, if anything is.
pub(crate) fn missing(root: &Path, engine: &Path) -> io::Result<Option<String>> {
    let noted: Option<u64> =
        fs::read_to_string(root.join(NOTE)).ok().and_then(|number| number.trim().parse().ok());
    let is_there = newest(engine)?.is_some_and(|newest| noted.is_none_or(|noted| newest >= noted));
    let name = noted.map_or_else(String::new, |noted| format!(" {noted:06}.log"));
    Ok((!is_there)
        .then(|| format!("its write-ahead log{name} is missing, and with it what was written last")))
}

/// The number of the newest log.
fn newest(engine: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    for entry in fs::read_dir(engine)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log")?.parse().ok());
        newest = newest.max(number);
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_gone_is_missed_and_one_that_is_new_is_not() {
        let home = tempfile::tempdir().unwrap();
        let (root, engine) = (home.path(), home.path().join("rocksdb"));
        fs::create_dir(&engine).unwrap();
        assert!(missing(root, &engine).unwrap().is_some(), "there is none at all");
        fs::write(engine.join("000009.log"), "").unwrap();
        assert_eq!(missing(root, &engine).unwrap(), None, "nobody noted any");
        let mut noted = 0;
        note(root, &engine, &mut noted).unwrap();
        fs::write(engine.join("000012.log"), "").unwrap();
        assert_eq!((missing(root, &engine).unwrap(), noted), (None, 9));
        note(root, &engine, &mut noted).unwrap();
        fs::remove_file(engine.join("000012.log")).unwrap();
        assert!(missing(root, &engine).unwrap().is_some_and(|text| text.contains("000012.log")));
        forget(root).unwrap();
        assert_eq!(missing(root, &engine).unwrap(), None);
    }
}
