//! What `Options` bounds besides memory and the write-ahead log: open files, and RocksDB's diary.

use super::*;
use std::fs;

const NOW: Timestamp = Timestamp(1_000);
/// With `open_files_max` 64: logs, manifest, diary and lock come besides.
const FILES_MAX: usize = 64 + 16;

/// Files of the store that this process has open.
fn open_files(directory: &tempfile::TempDir) -> usize {
    let root = options(directory).path.join("rocksdb");
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
    descriptors.filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path.starts_with(&root))).count()
}

#[test]
fn open_files_are_bounded_whatever_the_number_of_lanes() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        open_files_max: 64,
        memtable_bytes: 1 << 20,
        sorted_file_bytes: 64 << 10,
        ..small(&directory)
    };
    let mut log = Log::open(&options).unwrap();
    let lanes: Vec<_> = (0..2_000).map(|at| log.lane(&format!("lane/{at}")).unwrap()).collect();
    let mut most = 0;
    for round in 1..=5 {
        for &lane in &lanes {
            log.append(lane, &[&payload(lane, round, 4_000)], NOW, None).unwrap();
            if log.staged_bytes() > 200_000 {
                log.commit().unwrap();
            }
        }
        log.commit().unwrap();
        most = most.max(open_files(&directory));
    }
    // A merge at work has its own files open besides.
    assert!(most <= FILES_MAX + 32, "{most} files were open");
    log.reader().merge_all().unwrap();
    for &lane in &lanes {
        assert_eq!(read_all(&log, lane, seq(1), NOW).unwrap().0.len(), 5);
    }
    let files = fs::read_dir(options.path.join("rocksdb")).unwrap().count();
    // More than may be open, or the next line could not fail.
    assert!(files > FILES_MAX + 32, "{files} files are not many");
    let open = open_files(&directory);
    assert!(open <= FILES_MAX, "{open} of {files} files are open");
    // One lane or two thousand: it opens no more of them to start.
    log.close().unwrap();
    let log = Log::open(&options).unwrap();
    assert!(open_files(&directory) <= FILES_MAX, "{}", open_files(&directory));
    drop(log);
}

#[test]
fn the_diary_of_rocksdb_is_bounded_over_many_starts() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..12 {
        let mut log = open(&directory);
        let lane = log.lane("a").unwrap();
        log.append(lane, &[&payload(lane, 1, 1_000)], NOW, None).unwrap();
        log.commit().unwrap();
        log.close().unwrap();
    }
    let entries = fs::read_dir(options(&directory).path.join("rocksdb")).unwrap().filter_map(Result::ok);
    let is_diary = |name: &str| name == "LOG" || name.starts_with("LOG.old");
    let diary: Vec<_> = entries.filter(|entry| is_diary(&entry.file_name().to_string_lossy())).collect();
    assert!((1..=2).contains(&diary.len()), "{diary:?}");
    let bytes: u64 = diary.iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes <= 2 << 20, "{bytes}");
}
