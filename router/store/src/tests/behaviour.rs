//! What the store promises, one promise per test.

use super::*;
use crate::{OpenError, Space};
use std::fs;
use std::ops::ControlFlow;

const NOW: Timestamp = Timestamp(1_000);

fn append(log: &mut Log, lane: LaneId, count: u64) {
    for _ in 0..count {
        let place = log.lane_state(lane).unwrap().tail.get() + log.staging_of(lane);
        let seq = log.append(lane, &[&payload(lane, place, 40)], NOW, None).unwrap();
        assert_eq!(seq.get(), place);
    }
}

impl Log {
    /// Places handed out and not committed.
    fn staging_of(&self, lane: LaneId) -> u64 {
        self.staging.growth().find(|growth| growth.lane.id == lane).map_or(0, |growth| growth.records)
    }
}

#[track_caller]
fn check_lane(log: &Log, lane: LaneId, head: u64, tail: u64) {
    let state = log.lane_state(lane).unwrap();
    assert_eq!((state.head.get(), state.tail.get()), (head, tail));
    let (records, expired) = read_all(log, lane, seq(1), NOW).unwrap();
    let expected: Vec<_> = (head..tail).map(|place| (place, payload(lane, place, 40))).collect();
    assert_eq!(records, expected);
    assert_eq!(expired, 0);
    assert_eq!(state.bytes, (tail - head) * 64);
    assert_eq!(state.oldest, (head < tail).then_some(NOW));
    log.invariants();
}

#[test]
fn what_is_committed_is_read_back_in_order_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let (a, b) = (log.lane("u/plant/default").unwrap(), log.lane("s/klient-Ω").unwrap());
    append(&mut log, a, 700); // three blocks
    append(&mut log, b, 1);
    let committed = log.commit().unwrap();
    assert_eq!((committed.records, committed.bytes), (701, 701 * 64));
    assert_eq!(committed.lanes, [(a, seq(700)), (b, seq(1))]);
    append(&mut log, a, 5);
    log.commit().unwrap();
    check_lane(&log, a, 1, 706);
    drop(log);
    let mut log = open(&directory);
    assert_eq!(log.find_lane("s/klient-Ω"), Some(b));
    assert_eq!(log.lane("u/plant/default"), Ok(a));
    check_lane(&log, a, 1, 706);
    check_lane(&log, b, 1, 2);
}

#[test]
fn what_is_not_committed_is_neither_visible_nor_kept() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("a").unwrap();
    append(&mut log, lane, 3);
    check_lane(&log, lane, 1, 1);
    log.state_put(Space(1), b"k", b"v").unwrap();
    assert_eq!(log.state_get(Space(1), b"k"), Ok(None));
    drop(log);
    let log = open(&directory);
    assert_eq!(log.find_lane("a"), None);
    assert_eq!(log.state_get(Space(1), b"k"), Ok(None));
}

#[test]
fn cursors_survive_when_flushed_and_repeat_when_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("a").unwrap();
    append(&mut log, lane, 10);
    log.commit().unwrap();
    log.advance(lane, seq(4)).unwrap();
    log.advance(lane, seq(2)).unwrap(); // going back does nothing
    log.flush_cursors().unwrap();
    log.advance(lane, seq(7)).unwrap();
    check_lane(&log, lane, 8, 11);
    assert!(matches!(log.advance(lane, seq(11)), Err(StoreError::NotAppended { .. })));
    drop(log);
    let mut log = open(&directory);
    check_lane(&log, lane, 5, 11);
    log.advance(lane, seq(9)).unwrap();
    log.close().unwrap();
    check_lane(&open(&directory), lane, 10, 11);
}

#[test]
fn places_are_never_used_again_after_all_is_delivered_and_reclaimed() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("a").unwrap();
    append(&mut log, lane, 3_000);
    log.commit().unwrap();
    log.advance(lane, seq(3_000)).unwrap();
    log.reclaim(NOW).unwrap();
    log.reclaim(Timestamp(60_000)).unwrap();
    assert_eq!(log.blocks_on_disk(), 0);
    drop(log); // no close: the head went with the deletion
    let mut log = open(&directory);
    check_lane(&log, lane, 3_001, 3_001);
    append(&mut log, lane, 1);
    log.commit().unwrap();
    check_lane(&log, lane, 3_001, 3_002);
}

#[test]
fn a_lane_through_which_everything_passes_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("a").unwrap();
    append(&mut log, lane, 3);
    log.commit().unwrap();
    let written = |log: &Log| log.reader().stats().unwrap().written_bytes;
    log.advance(lane, seq(3)).unwrap();
    log.flush_cursors().unwrap();
    let before = written(&log);
    for place in 4..=100 {
        log.pass(lane, seq(place)).unwrap();
        log.pass(lane, seq(place - 1)).unwrap(); // going back does nothing
        log.commit().unwrap();
        log.flush_cursors().unwrap();
        log.reclaim(NOW).unwrap();
    }
    check_lane(&log, lane, 101, 101);
    assert_eq!(written(&log), before);
    // The next record comes behind them, and a crash finds it there: the head that knows of the hole is with it.
    append(&mut log, lane, 2);
    assert_eq!(log.pass(lane, seq(102)), Err(StoreError::Collecting(lane)));
    log.commit().unwrap();
    log.pass(lane, seq(102)).unwrap();
    drop(log);
    let log = open(&directory);
    check_lane(&log, lane, 101, 103);
    assert_eq!(log.reader().verify().unwrap().problems, Vec::<String>::new());
}

#[test]
fn places_that_were_passed_over_are_free_again_after_a_crash_and_not_after_a_close() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("a").unwrap();
    log.commit().unwrap();
    log.pass(lane, seq(5)).unwrap();
    drop(log);
    let mut log = open(&directory);
    check_lane(&log, lane, 1, 1);
    log.pass(lane, seq(5)).unwrap();
    log.close().unwrap();
    check_lane(&open(&directory), lane, 6, 6);
}

impl Log {
    fn blocks_on_disk(&self) -> usize {
        let engine = self.reader.shared.engine().unwrap();
        let mut blocks = engine.range(crate::keys::FAMILY_LOG, &[], &[0xff; 12], false);
        blocks.seek_to_first();
        let mut count = 0;
        while blocks.valid() {
            count += 1;
            blocks.next();
        }
        count
    }
}

#[test]
fn expired_records_are_skipped_and_counted_and_whole_blocks_reclaimed() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("a").unwrap();
    for place in 1..=600u64 {
        let expires = if place <= 300 { Some(Timestamp(2_000)) } else { None };
        log.append(lane, &[&payload(lane, place, 40)], NOW, expires).unwrap();
    }
    log.commit().unwrap();
    let (before, expired) = read_all(&log, lane, seq(1), Timestamp(1_999)).unwrap();
    assert_eq!((before.len(), expired), (600, 0));
    let (after, expired) = read_all(&log, lane, seq(1), Timestamp(2_000)).unwrap();
    assert_eq!((after.len(), expired), (300, 300));
    assert_eq!(after[0].0, 301);
    let found = log.expire(Timestamp(2_000)).unwrap();
    assert!(!found.more);
    let lost = found.lost[0];
    // Whole blocks: the second one has records that never expire.
    assert_eq!((lost.from.get(), lost.up_to.get(), lost.bytes, lost.messages()), (1, 256, 256 * 64, 256));
    assert_eq!(log.lane_state(lane).unwrap().head.get(), 257);
    assert_eq!(log.expire(Timestamp(2_000)).unwrap().lost, []);
    // A reader has come across all of them; for the ledger each counts once.
    let (noted, forgotten) = log.take_losses();
    let places: Vec<_> =
        noted.iter().map(|it| (it.lost.from.get(), it.lost.up_to.get(), it.lost.bytes)).collect();
    assert_eq!((places, forgotten), (vec![(1, 300, 300 * 64)], 0));
    assert_eq!(log.not_noted(&lost), []);
    log.reclaim(Timestamp(2_000)).unwrap();
    log.reclaim(Timestamp(60_000)).unwrap();
    assert_eq!(log.blocks_on_disk(), 2);
}

#[test]
fn dropping_the_oldest_frees_at_least_what_was_asked_and_says_what_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("a").unwrap();
    append(&mut log, lane, 1_000);
    log.commit().unwrap();
    log.advance(lane, seq(10)).unwrap();
    let lost = log.drop_oldest(lane, 257 * 64).unwrap()[0];
    assert_eq!((lost.from.get(), lost.up_to.get(), lost.bytes), (11, 512, 502 * 64));
    check_lane(&log, lane, 513, 1_001);
    assert_eq!(log.drop_oldest(lane, u64::MAX).unwrap().len(), 1);
    assert_eq!(log.drop_oldest(lane, 1), Ok(Vec::new()));
    check_lane(&log, lane, 1_001, 1_001);
}

#[test]
fn state_is_written_with_the_records_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("a").unwrap();
    append(&mut log, lane, 1);
    for key in [&b"s/1"[..], b"s/2", b"t/1", b""] {
        log.state_put(Space(3), key, &[key, b"!"].concat()).unwrap();
    }
    log.state_put(Space(4), b"s/0", b"other").unwrap();
    log.commit().unwrap();
    log.state_delete(Space(3), b"s/1").unwrap();
    log.commit().unwrap();
    drop(log);
    let log = open(&directory);
    let scan = |space, prefix: &[u8]| {
        let mut seen = Vec::new();
        log.state_scan(space, prefix, &mut |key, value| {
            seen.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
        seen
    };
    assert_eq!(scan(Space(3), b"s/"), [(b"s/2".to_vec(), b"s/2!".to_vec())]);
    assert_eq!(scan(Space(3), b"").len(), 3);
    assert_eq!(scan(Space(2), b""), []);
    assert_eq!(log.state_get(Space(4), b"s/0").unwrap().as_deref(), Some(&b"other"[..]));
}

#[test]
fn a_removed_lane_is_gone_and_its_number_is_not_reused() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let (a, b) = (log.lane("a").unwrap(), log.lane("b").unwrap());
    append(&mut log, a, 2_500);
    append(&mut log, b, 3);
    log.commit().unwrap();
    append(&mut log, b, 300); // a block is closed already, another is open
    log.advance(b, seq(1)).unwrap();
    log.remove_lane(b).unwrap();
    log.remove_lane(a).unwrap();
    assert_eq!(log.remove_lane(b), Err(StoreError::UnknownLane(b)));
    assert!(matches!(log.append(b, &[b"x"], NOW, None), Err(StoreError::UnknownLane(_))));
    let again = log.lane("b").unwrap();
    assert_ne!(again, b);
    append(&mut log, again, 2);
    assert_eq!(log.commit().unwrap().records, 2);
    assert_eq!(log.blocks_on_disk(), 1);
    drop(log);
    let mut log = open(&directory);
    assert_eq!(log.lanes().unwrap().len(), 1);
    check_lane(&log, again, 1, 3);
    log.remove_lane(again).unwrap();
    log.commit().unwrap();
    drop(log);
    let mut log = open(&directory);
    assert!(log.lane("c").unwrap() > again);
}

#[test]
fn limits_refuse_and_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(&Options { commit_bytes_max: 1_000, ..options(&directory) }).unwrap();
    let lane = log.lane("a").unwrap();
    assert!(matches!(log.append(lane, &[&[0; 1_000]], NOW, None), Err(StoreError::RecordTooLarge { .. })));
    append(&mut log, lane, 15);
    assert!(matches!(log.append(lane, &[&[0; 40]], NOW, None), Err(StoreError::CommitFull { .. })));
    log.commit().unwrap();
    append(&mut log, lane, 1);
    log.commit().unwrap();
    check_lane(&log, lane, 1, 17);
    assert!(matches!(log.lane(""), Err(StoreError::LaneName { bytes: 0 })));
    assert!(matches!(log.append(LaneId(99), &[b"x"], NOW, None), Err(StoreError::UnknownLane(LaneId(99)))));
}

#[test]
fn a_large_record_is_given_alone_even_over_the_limit_of_a_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("a").unwrap();
    for length in [10, 1 << 20, 10] {
        log.append(lane, &[&vec![7; length]], NOW, None).unwrap();
    }
    log.commit().unwrap();
    let mut out = ReadOut::new();
    let limits = ReadLimits { messages_max: 10, bytes_max: 100 };
    let mut sizes = Vec::new();
    for _ in 0..3 {
        log.read_lane(lane, out.next(), limits, NOW, &mut out).unwrap();
        sizes.push(out.records().map(|record| record.bytes.len()).collect::<Vec<_>>());
    }
    assert_eq!(sizes, [vec![10], vec![1 << 20], vec![10]]);
}

#[test]
fn a_second_open_is_refused_at_once_until_the_first_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(&directory);
    let reader = log.reader();
    let error = Log::open(&options(&directory)).err().unwrap();
    assert!(matches!(error, OpenError::LockedByAnother { .. }), "{error}");
    drop(log);
    let log = open(&directory); // although the reader is still there
    assert_eq!(reader.lanes(), Err(StoreError::Closed));
    drop(log);
}

/// While the store recovers, readers meet `Closed`: what they hold of an earlier read is not what this one gave.
#[test]
fn a_read_that_fails_gives_nothing_of_the_read_before() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let (a, b) = (log.lane("a").unwrap(), log.lane("b").unwrap());
    log.append(a, &[b"of lane a"], NOW, None).unwrap();
    log.commit().unwrap();
    let (reader, mut out) = (log.reader(), ReadOut::new());
    let limits = ReadLimits { messages_max: 10, bytes_max: 100 };
    let read = |lane, out: &mut ReadOut| reader.read_lane(lane, Seq::FIRST, limits, NOW, out);
    read(a, &mut out).unwrap();
    assert_eq!(out.len(), 1);
    assert_eq!(read(LaneId(99), &mut out), Err(StoreError::UnknownLane(LaneId(99))));
    assert!(out.is_empty(), "what is of another lane");
    read(a, &mut out).unwrap();
    drop(log);
    assert_eq!(read(b, &mut out), Err(StoreError::Closed));
    assert!(out.is_empty(), "what is of another lane");
}

/// Everything in a directory: names, contents.
fn snapshot(path: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(snapshot(&path));
        } else {
            all.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

#[test]
fn a_newer_format_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(&directory);
    drop(open(&directory));
    fs::write(options.path.join(crate::home::MARKER), "millrace store\nformat 2\nsomething we do not know\n")
        .unwrap();
    let before = snapshot(&options.path);
    let error = Log::open(&options).err().unwrap();
    assert!(matches!(error, OpenError::NewerFormat { found: 2, supported: 1, .. }), "{error}");
    assert_eq!(snapshot(&options.path), before);
}

#[test]
fn a_directory_with_something_else_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(&directory);
    fs::create_dir_all(&options.path).unwrap();
    fs::write(options.path.join("holiday.jpg"), "x").unwrap();
    let before = snapshot(&options.path);
    let error = Log::open(&options).err().unwrap();
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
    assert_eq!(snapshot(&options.path), before);
    let file = Options { path: options.path.join("holiday.jpg"), ..options.clone() };
    assert!(matches!(Log::open(&file), Err(OpenError::NotAStore { .. })));
}

#[test]
fn nothing_is_created_unless_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { create_if_missing: false, ..options(&directory) };
    assert!(matches!(Log::open(&options), Err(OpenError::Missing { .. })));
    assert!(!options.path.exists());
}

#[test]
fn a_mount_point_is_an_empty_directory() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("store/lost+found")).unwrap();
    drop(open(&directory));
    drop(open(&directory));
}

#[test]
fn a_creation_that_died_starts_again_and_a_store_without_its_files_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let path = options(&directory).path;
    drop(open(&directory));
    fs::rename(path.join(crate::home::MARKER), path.join(crate::home::MARKER_UNFINISHED)).unwrap();
    drop(open(&directory));
    assert!(path.join(crate::home::MARKER).exists());
    fs::remove_dir_all(path.join(crate::home::ENGINE_DIRECTORY)).unwrap();
    let error = Log::open(&options(&directory)).err().unwrap();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}
