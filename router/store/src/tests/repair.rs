//! Damage that stops RocksDB: the store is written anew with all that can be read, and says what it lost.

use super::*;
use crate::{Inspection, Loss, LossKind, OpenError, repair};
use std::fs;
use std::path::PathBuf;

const NOW: Timestamp = Timestamp(1_000);
/// Records of a lane that has a store for itself.
const COUNT: u64 = 6_000;

/// A closed store with two lanes of 6 000 records of a kilobyte, mostly in sorted files, and a value of state.
fn filled(directory: &tempfile::TempDir) -> [LaneId; 2] {
    let (log, lanes) = filling(directory);
    log.close().unwrap();
    lanes
}

/// The same, and open.
fn filling(directory: &tempfile::TempDir) -> (Log, [LaneId; 2]) {
    let mut log = Log::open(&small(directory)).unwrap();
    let lanes = [log.lane("a").unwrap(), log.lane("b").unwrap()];
    log.state_put(crate::Space(9), b"key", b"value").unwrap();
    for round in 0..60 {
        for lane in lanes {
            for place in 1..=100 {
                log.append(lane, &[&payload(lane, round * 100 + place, 1_000)], NOW, None).unwrap();
            }
        }
        log.commit().unwrap();
    }
    (log, lanes)
}

/// A sorted file that alone has its records, in the middle of a lane.
///
/// A store that was just closed has more: files that were merged and are not deleted yet, and write-ahead logs kept for
/// reuse, with records that sorted files have, too. A repair takes them from there, and rightly loses nothing. Opening
/// a store deletes both. And where two lanes meet in the file that is gone, nobody knows how far the first one reached
/// (storage-format.md §10), so its end would not be missed.
fn only_copy(directory: &tempfile::TempDir) -> PathBuf {
    Log::open(&small(directory)).unwrap().close().unwrap();
    let inspection = Inspection::open(small(directory).path).unwrap();
    let live = inspection.reader().shared.engine().unwrap().db.live_files().unwrap();
    let mut names: Vec<_> = live.iter().map(|file| file.name.trim_start_matches('/').to_owned()).collect();
    names.sort();
    let root = small(directory).path.join("rocksdb");
    let in_directory = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap());
    let (mut sorted, mut log_bytes) = (Vec::new(), 0);
    for entry in in_directory {
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".sst") {
            sorted.push(name);
        } else if name.ends_with(".log") {
            log_bytes += entry.metadata().unwrap().len();
        }
    }
    sorted.sort();
    assert_eq!(sorted, names, "no sorted file but those that count");
    assert!(log_bytes < 1_000, "{log_bytes} bytes of write-ahead log");
    let lane =
        |key: &Option<Vec<u8>>| key.as_deref().and_then(crate::keys::parse_block).map(|(lane, _)| lane);
    let is_of_one_lane = |file: &&rocksdb::LiveFile| {
        file.column_family_name == "log"
            && lane(&file.start_key).is_some()
            && lane(&file.start_key) == lane(&file.end_key)
    };
    let mut files: Vec<_> = live.iter().filter(is_of_one_lane).collect();
    files.sort_by(|one, other| one.start_key.cmp(&other.start_key));
    root.join(files[1].name.trim_start_matches('/'))
}

/// The sorted files that count, without the small ones: one that was merged and is not deleted yet (see [`only_copy`]) may have any
/// bit flipped, and nobody reads it.
fn sorted_files(directory: &tempfile::TempDir) -> Vec<PathBuf> {
    Log::open(&small(directory)).unwrap().close().unwrap();
    let inspection = Inspection::open(small(directory).path).unwrap();
    let live = inspection.reader().shared.engine().unwrap().db.live_files().unwrap();
    let root = small(directory).path.join("rocksdb");
    let mut files: Vec<_> = live
        .iter()
        .map(|file| root.join(file.name.trim_start_matches('/')))
        .filter(|path| fs::metadata(path).unwrap().len() > 100_000)
        .collect();
    files.sort();
    assert!(files.len() > 5, "{files:?}");
    files
}

/// What can be read of a lane is right, and with what is lost it is everything.
fn check_all(log: &Log, lane: LaneId) -> u64 {
    check_places(log, lane, COUNT)
}

fn check_places(log: &Log, lane: LaneId, count: u64) -> u64 {
    let (mut from, mut read, mut lost) = (seq(1), 0, 0);
    let mut out = ReadOut::new();
    loop {
        match log.read_lane(lane, from, ReadLimits { messages_max: 500, bytes_max: 1 << 20 }, NOW, &mut out) {
            Ok(()) if out.is_empty() && out.next() <= from => break,
            Ok(()) => {
                for record in out.records() {
                    assert_eq!(record.bytes, payload(lane, record.seq.get(), 1_000));
                    read += 1;
                }
                from = out.next();
            }
            Err(StoreError::Damaged { from: first, up_to, .. }) => {
                lost += up_to.get() - first.get() + 1;
                from = up_to.next();
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(read + lost, count, "lane {lane}");
    lost
}

/// Flips a bit in a file, not where its lanes meet. Where a lane ends a store must be readable to open: then it is flipped back.
fn flipped(directory: &tempfile::TempDir, path: &std::path::Path) -> Option<Log> {
    let sound = fs::read(path).unwrap();
    let mut bytes = sound.clone();
    bytes[sound.len() / 4] ^= 4;
    fs::write(path, &bytes).unwrap();
    let opened = Log::open(&small(directory)).ok();
    if opened.is_none() {
        fs::write(path, &sound).unwrap();
    }
    opened
}

#[test]
fn a_deleted_sorted_file_costs_what_was_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let (log, lanes) = filling(&directory);
    log.reader().merge_all().unwrap();
    log.close().unwrap();
    fs::remove_file(only_copy(&directory)).unwrap();
    let error = Log::open(&small(&directory)).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. } | OpenError::Io { .. }), "{error}");
    assert!(error.to_string().contains("millrace store repair"), "{error}");

    let repaired = repair(&small(&directory)).unwrap();
    assert!(!repaired.lost.is_empty());
    let mut log = Log::open(&small(&directory)).unwrap();
    let lost: u64 = lanes.iter().map(|&lane| check_all(&log, lane)).sum();
    assert_eq!(lost, repaired.lost.iter().map(|(_, lost)| lost.messages()).sum::<u64>());
    assert!((1..3_000).contains(&lost), "{lost}");
    assert_eq!(log.state_get(crate::Space(9), b"key").unwrap().as_deref(), Some(&b"value"[..]));
    // It goes on where it was, and places are not used again.
    assert_eq!(log.append(lanes[0], &[b"x"], NOW, None).unwrap().get(), 6_001);
    log.commit().unwrap();
    assert_eq!(log.take_losses().0.iter().map(|it| it.lost.messages()).sum::<u64>(), lost);
}

/// Files of one lane are as they were written out: each lies behind the one before, so RocksDB moves them down and merges
/// none. The one in the middle is missed by those around it, the newest by nobody but the list of files.
#[test]
fn a_deleted_file_that_was_never_merged_costs_what_was_in_it() {
    for is_newest in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(&small(&directory)).unwrap();
        let lane = log.lane("a").unwrap();
        for place in 1..=COUNT {
            log.append(lane, &[&payload(lane, place, 1_000)], NOW, None).unwrap();
            if place % 100 == 0 {
                log.commit().unwrap();
            }
        }
        log.close().unwrap();
        // Opening deletes write-ahead logs that are kept for reuse and have the same records.
        Log::open(&small(&directory)).unwrap().close().unwrap();
        let files = files_by_place(&directory);
        assert!(files.len() > 3, "{files:?}");
        let at = if is_newest { files.len() - 1 } else { files.len() / 2 };
        let expected = files[at].0 - files[at - 1].0;
        fs::remove_file(&files[at].1).unwrap();
        let error = Log::open(&small(&directory)).map(drop).unwrap_err();
        assert!(error.to_string().contains("millrace store repair"), "{error}");

        let repaired = repair(&small(&directory)).unwrap();
        let lost: u64 = repaired.lost.iter().map(|(_, lost)| lost.messages()).sum();
        assert_eq!(lost, expected, "{:?}", repaired.lost);
        let mut log = Log::open(&small(&directory)).unwrap();
        assert_eq!(check_places(&log, lane, COUNT), lost);
        assert_eq!(log.append(lane, &[b"x"], NOW, None).unwrap().get(), COUNT + 1, "no place is used twice");
    }
}

/// The sorted files of a lane, with the last place in each, in their order.
fn files_by_place(directory: &tempfile::TempDir) -> Vec<(u64, PathBuf)> {
    let inspection = Inspection::open(small(directory).path).unwrap();
    let live = inspection.reader().shared.engine().unwrap().db.live_files().unwrap();
    let last = |key: &Option<Vec<u8>>| {
        key.as_deref().and_then(crate::keys::parse_block).map_or(0, |(_, last)| last.get())
    };
    let of_log = live.iter().filter(|file| file.column_family_name == "log");
    let path = |name: &str| small(directory).path.join("rocksdb").join(name.trim_start_matches('/'));
    let mut files: Vec<_> = of_log.map(|file| (last(&file.end_key), path(&file.name))).collect();
    files.sort();
    files
}

#[test]
fn bits_that_flip_in_a_sorted_file_cost_its_blocks_and_are_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let lanes = filled(&directory);
    let files = sorted_files(&directory);
    let log = files.iter().find_map(|path| flipped(&directory, path)).unwrap();
    let lost: u64 = lanes.iter().map(|&lane| check_all(&log, lane)).sum();
    assert!((1..=256).contains(&lost), "{lost}");
    let (noted, _) = { log }.take_losses();
    let [Loss { kind: LossKind::Damaged, lost: range }] = noted[..] else { panic!("{noted:?}") };
    assert_eq!(range.messages(), lost);
    let log = Log::open(&small(&directory)).unwrap();
    assert!(log.set_aside(&range).unwrap() > 0);
    let kept: Vec<_> = fs::read_dir(small(&directory).path.join("quarantine")).unwrap().collect();
    assert!(!kept.is_empty());
    drop(log);

    let repaired = repair(&small(&directory)).unwrap();
    assert_eq!(repaired.lost.iter().map(|(_, lost)| lost.messages()).sum::<u64>(), lost);
    let report = Inspection::open(small(&directory).path).unwrap().verify().unwrap();
    let still_lost = report.lanes.iter().map(|lane| lane.lost).sum::<u64>();
    // RocksDB finds a place right behind the damage only on the way to it: a reader gives it up, a copy has it.
    assert!((lost - 2..=lost).contains(&still_lost), "a gap stays a gap: {still_lost} of {lost}");
}

#[test]
fn a_sorted_file_that_cannot_be_merged_does_not_poison_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let lanes = filled(&directory);
    for path in sorted_files(&directory) {
        drop(flipped(&directory, &path));
    }
    let mut log = Log::open(&small(&directory)).unwrap();
    let mut was_poisoned = false;
    // Enough for several merges. On a busy machine RocksDB may not have begun by then: it is told to.
    for round in 0..400u64 {
        if round >= 200 && was_poisoned {
            break;
        }
        if round == 200 {
            log.reader().merge_all().unwrap();
        }
        let appended = log.append(lanes[1], &[&[round as u8; 100_000]], NOW, None).and_then(|_| {
            log.commit()?;
            Ok(())
        });
        match appended {
            Ok(()) => {}
            Err(StoreError::Poisoned(_)) => {
                was_poisoned = true;
                log.try_recover().unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(was_poisoned, "RocksDB came across the damage when it merged");
    assert!(log.poison().is_none());
    check_all(&log, lanes[0]);
    assert!(log.take_losses().0.iter().all(|it| it.kind == LossKind::Damaged));
}

#[test]
fn a_sound_store_is_the_same_after_a_repair() {
    let directory = tempfile::tempdir().unwrap();
    let lanes = filled(&directory);
    let repaired = repair(&small(&directory)).unwrap();
    assert_eq!((repaired.lost, repaired.state_gaps, repaired.set_aside_bytes), (Vec::new(), 0, 0));
    let log = Log::open(&small(&directory)).unwrap();
    assert_eq!(lanes.map(|lane| check_all(&log, lane)), [0, 0]);
    assert!(matches!(repair(&small(&directory)), Err(OpenError::LockedByAnother { .. })));
}

/// Cut behind each step of the change. The note of the newest log is the old database's until the new one is in its place.
#[test]
fn a_repair_that_was_cut_while_changing_places_is_finished() {
    for is_new_inside in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let lanes = filled(&directory);
        let root = small(&directory).path;
        if !is_new_inside {
            fs::rename(root.join("rocksdb"), root.join("rocksdb.repaired")).unwrap();
        }
        fs::create_dir(root.join("rocksdb.damaged")).unwrap();
        fs::write(root.join("newest-log"), "999999").unwrap();
        let log = Log::open(&synced(&directory)).unwrap();
        assert_eq!(lanes.map(|lane| check_all(&log, lane)), [0, 0]);
        assert!(!root.join("rocksdb.damaged").exists());
    }
}

#[test]
fn a_repair_that_was_cut_before_the_change_leaves_the_missing_log_missed() {
    let directory = tempfile::tempdir().unwrap();
    filled(&directory);
    let root = small(&directory).path;
    fs::create_dir(root.join("rocksdb.repaired")).unwrap();
    fs::write(root.join("newest-log"), "999999").unwrap();
    let error = Log::open(&synced(&directory)).map(drop).unwrap_err();
    assert!(error.to_string().contains("999999.log is missing"), "{error}");
    repair(&synced(&directory)).unwrap();
    assert!(!root.join("newest-log").exists(), "it was of another database");
    Log::open(&synced(&directory)).map(drop).unwrap();
}

/// Whose newest log is noted and missed.
fn synced(directory: &tempfile::TempDir) -> crate::Options {
    crate::Options { sync: true, ..small(directory) }
}
