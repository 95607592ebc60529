//! Bytes that are not what was written: noticed, named, and no reason to lose what is intact.

use super::*;
use crate::keys::{self, FAMILY_LOG};
use crate::{FaultKind, Inspection, RECORD_OVERHEAD_BYTES};

const NOW: Timestamp = Timestamp(1);
const LENGTH: usize = 40;

/// A store with one lane of `count` records in blocks of 256; closed.
fn store(directory: &tempfile::TempDir, count: u64) -> LaneId {
    let mut log = open(directory);
    let lane = log.lane("a").unwrap();
    for place in 1..=count {
        log.append(lane, &[&payload(lane, place, LENGTH)], NOW, None).unwrap();
    }
    log.commit().unwrap();
    lane
}

/// Changes the block that ends at `last` behind the store's back.
fn tamper(log: &Log, lane: LaneId, last: u64, change: impl FnOnce(&mut Vec<u8>)) {
    let engine = log.reader.shared.engine().unwrap();
    let (family, key) = (engine.family(FAMILY_LOG), keys::block(lane, seq(last)));
    let mut value = engine.db.get_cf(family, key).unwrap().unwrap();
    change(&mut value);
    if value.is_empty() {
        engine.db.delete_cf(family, key).unwrap();
    } else {
        engine.db.put_cf(family, key, value).unwrap();
    }
}

/// Reads on behind damage, as an uplink would; gives the places read and the ranges lost.
fn read_around(log: &Log, lane: LaneId) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (mut read, mut lost, mut from) = (Vec::new(), Vec::new(), seq(1));
    loop {
        let mut out = ReadOut::new();
        match log.read_lane(lane, from, ReadLimits { messages_max: 1_000, bytes_max: 1 << 20 }, NOW, &mut out)
        {
            Ok(()) if out.is_empty() && out.next() <= from => return (read, lost),
            Ok(()) => {
                for record in out.records() {
                    assert_eq!(record.bytes, payload(lane, record.seq.get(), LENGTH));
                    read.push(record.seq.get());
                }
                from = out.next();
            }
            Err(StoreError::Damaged { lane: at, from: first, up_to }) => {
                assert_eq!((at, first), (lane, from));
                lost.push((first.get(), up_to.get()));
                from = up_to.next();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[track_caller]
fn check(change: impl FnOnce(&Log, LaneId), lost: (u64, u64)) {
    let directory = tempfile::tempdir().unwrap();
    let lane = store(&directory, 700);
    let log = open(&directory);
    change(&log, lane);
    let (read, found) = read_around(&log, lane);
    assert_eq!(found, [lost]);
    let expected: Vec<u64> = (1..=700).filter(|place| !(lost.0..=lost.1).contains(place)).collect();
    assert_eq!(read, expected);
    drop(log);
    let report = Inspection::open(options(&directory).path).unwrap().verify().unwrap();
    assert!(report.problems_total > 0);
    assert_eq!(report.lanes[0].lost, lost.1 - lost.0 + 1, "{:?}", report.problems);
}

#[test]
fn one_flipped_byte_of_a_payload_costs_one_record() {
    let at = crate::block::HEADER_BYTES + 9 * (RECORD_OVERHEAD_BYTES + LENGTH) + RECORD_OVERHEAD_BYTES;
    check(|log, lane| tamper(log, lane, 512, |value| value[at] ^= 1), (266, 266));
}

#[test]
fn a_damaged_length_costs_the_rest_of_the_block() {
    let at = crate::block::HEADER_BYTES + 9 * (RECORD_OVERHEAD_BYTES + LENGTH) + 4;
    check(|log, lane| tamper(log, lane, 512, |value| value[at] ^= 1), (266, 512));
}

#[test]
fn a_damaged_header_costs_the_block() {
    check(|log, lane| tamper(log, lane, 512, |value| value[9] ^= 1), (257, 512));
}

#[test]
fn a_missing_block_is_a_gap_with_a_name() {
    check(|log, lane| tamper(log, lane, 512, Vec::clear), (257, 512));
}

/// Damage at the head is for readers to step over: who asks how much waits is told all the same.
#[test]
fn a_lane_whose_head_is_damaged_says_what_is_behind_it() {
    let changes: [fn(&mut Vec<u8>); 2] = [|value| value[9] ^= 1, Vec::clear];
    for change in changes {
        let directory = tempfile::tempdir().unwrap();
        let lane = store(&directory, 700);
        let mut log = open(&directory);
        tamper(&log, lane, 256, change);
        let record_bytes = (RECORD_OVERHEAD_BYTES + LENGTH) as u64;
        let state = log.lane_state(lane).unwrap();
        assert_eq!((state.head.get(), state.tail.get(), state.bytes), (1, 701, 444 * record_bytes));
        assert_eq!(state.oldest, Some(NOW));
        // What the policy gives up goes with the damage in front of it, and that is told apart.
        let lost = log.drop_oldest(lane, record_bytes).unwrap();
        let ranges = |lost: &[crate::Lost]| -> Vec<(u64, u64, u64)> {
            lost.iter().map(|it| (it.from.get(), it.up_to.get(), it.bytes)).collect()
        };
        assert_eq!(ranges(&lost), [(257, 512, 256 * record_bytes)]);
        let (noted, _) = log.take_losses();
        assert!(noted.iter().all(|it| it.kind == crate::LossKind::Damaged));
        assert_eq!(ranges(&noted.iter().map(|it| it.lost).collect::<Vec<_>>()), [(1, 256, 0)]);
        assert_eq!(log.lane_state(lane).unwrap().head.get(), 513);
    }
}

#[test]
fn a_lane_whose_last_header_is_damaged_keeps_its_weight_over_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let lane = store(&directory, 700);
    tamper(&open(&directory), lane, 700, |value| value[9] ^= 1);
    let mut log = open(&directory);
    let record_bytes = (RECORD_OVERHEAD_BYTES + LENGTH) as u64;
    assert_eq!(log.lane_state(lane).unwrap().bytes, 700 * record_bytes);
    log.append(lane, &[&payload(lane, 701, LENGTH)], NOW, None).unwrap();
    log.commit().unwrap();
    assert_eq!(log.lane_state(lane).unwrap().bytes, 701 * record_bytes);
}

/// What one lane hides does not hide what another one lost.
#[test]
fn what_expires_is_told_also_behind_damage_and_beside_a_damaged_lane() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lanes = ["first", "second"].map(|name| log.lane(name).unwrap());
    for lane in lanes {
        for place in 1..=700 {
            log.append(lane, &[&payload(lane, place, LENGTH)], NOW, Some(Timestamp(100))).unwrap();
        }
    }
    log.commit().unwrap();
    tamper(&log, lanes[0], 256, |value| value[9] ^= 1);
    let expired = log.expire(Timestamp(100)).unwrap();
    let mut lost: Vec<_> = expired.lost.iter().map(|it| (it.lane, it.from.get(), it.up_to.get())).collect();
    lost.sort_unstable();
    assert_eq!(lost, [(lanes[0], 257, 700), (lanes[1], 1, 700)]);
    assert_eq!(expired.passed_by, None);
    let (noted, _) = log.take_losses();
    let places: Vec<_> = noted.iter().map(|it| (it.kind, it.lost.from.get(), it.lost.up_to.get())).collect();
    assert_eq!(places, [(crate::LossKind::Damaged, 1, 256)]);
    assert!(lanes.iter().all(|lane| log.lane_state(*lane).unwrap().messages() == 0));
}

#[test]
fn a_missing_end_is_noticed_while_the_process_remembers_it() {
    let directory = tempfile::tempdir().unwrap();
    let lane = store(&directory, 700);
    let log = open(&directory);
    tamper(&log, lane, 700, Vec::clear);
    assert_eq!(read_around(&log, lane).1, [(513, 700)]);
}

#[test]
fn a_sound_store_has_no_problems_and_a_running_one_is_not_inspected() {
    let directory = tempfile::tempdir().unwrap();
    store(&directory, 700);
    let inspection = Inspection::open(options(&directory).path).unwrap();
    let report = inspection.verify().unwrap();
    assert_eq!((report.problems_total, report.lanes[0].records, report.lanes[0].blocks), (0, 700, 3));
    assert_eq!(inspection.reader().lanes().unwrap()[0].messages(), 700);
    assert!(matches!(Log::open(&options(&directory)), Err(crate::OpenError::LockedByAnother { .. })));
    drop(inspection);
    let log = open(&directory);
    assert!(matches!(
        Inspection::open(options(&directory).path),
        Err(crate::OpenError::LockedByAnother { .. })
    ));
    assert_eq!(log.reader().verify().unwrap().problems_total, 0);
}

/// Two commits of ten records; `tear` does to the write-ahead log what a power cut during the second one may do.
#[track_caller]
fn check_torn(tear: impl FnOnce(&mut Vec<u8>)) {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("a").unwrap();
    for _ in 0..2 {
        for _ in 0..10 {
            log.append(lane, &[&[1; 100]], NOW, None).unwrap();
        }
        log.commit().unwrap();
    }
    drop(log);
    let wal = std::fs::read_dir(options(&directory).path.join("rocksdb"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&wal).unwrap();
    tear(&mut bytes);
    std::fs::write(&wal, bytes).unwrap();
    let mut log = open(&directory);
    assert_eq!(log.lane_state(lane).unwrap().tail.get(), 11, "the first commit is whole, the second is gone");
    assert_eq!(log.reader().verify().unwrap().problems_total, 0);
    assert_eq!(log.append(lane, &[b"x"], NOW, None), Ok(seq(11)));
    log.commit().unwrap();
    drop(log);
    assert_eq!(open(&directory).lane_state(lane).unwrap().tail.get(), 12);
}

#[test]
fn a_torn_tail_of_the_write_ahead_log_is_cut() {
    check_torn(|wal| wal.truncate(wal.len() - 700));
}

#[test]
fn a_tail_whose_earlier_page_never_arrived_is_cut() {
    check_torn(|wal| {
        let end = wal.len();
        wal[end - 900..end - 500].fill(0);
    });
}

#[test]
fn a_tail_with_old_bytes_behind_it_is_cut() {
    check_torn(|wal| {
        let old = wal[..700].to_vec();
        wal.truncate(wal.len() - 700);
        wal.extend_from_slice(&old);
    });
}

/// Small sorted files.
fn small(directory: &tempfile::TempDir) -> Options {
    Options { memtable_bytes: 256 << 10, sorted_file_bytes: 256 << 10, sync: false, ..options(directory) }
}

/// A lane whose first record lies where RocksDB cannot read: the lane is there, what is behind it expires, is given up and given
/// back as ever.
#[test]
fn a_bad_sector_at_the_head_stops_nothing_but_what_is_in_it() {
    const RECORDS: u64 = 20_000;
    for expires in [None, Some(Timestamp(100))] {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(&small(&directory)).unwrap();
        let lane = log.lane("a").unwrap();
        for place in 1..=RECORDS {
            log.append(lane, &[&payload(lane, place, LENGTH)], NOW, expires).unwrap();
            if place % 100 == 0 {
                log.commit().unwrap();
            }
        }
        drop(log);
        drop(Log::open(&small(&directory)).unwrap()); // what was in memory is in sorted files now
        let head = payload(lane, 1, LENGTH);
        let sorted = std::fs::read_dir(small(&directory).path.join("rocksdb")).unwrap();
        let flipped = sorted.map(|entry| entry.unwrap().path()).any(|path| {
            let mut bytes = std::fs::read(&path).unwrap_or_default();
            let is_sorted = path.extension().is_some_and(|kind| kind == "sst");
            let Some(at) = bytes.windows(LENGTH).position(|it| is_sorted && it == head) else { return false };
            bytes[at] ^= 8;
            std::fs::write(&path, bytes).is_ok()
        });
        assert!(flipped, "the first record lies in a sorted file as it is");

        let mut log = Log::open(&small(&directory)).unwrap();
        let record_bytes = (RECORD_OVERHEAD_BYTES + LENGTH) as u64;
        let state = log.lane_state(lane).unwrap();
        assert_eq!((state.head.get(), state.messages()), (1, RECORDS));
        assert!((18_000 * record_bytes..20_000 * record_bytes).contains(&state.bytes), "{}", state.bytes);
        assert_eq!(log.lanes().unwrap(), [state]);
        let gone = match expires {
            None => log.drop_oldest(lane, 5_000 * record_bytes).unwrap(),
            Some(now) => log.expire(now).unwrap().lost,
        };
        let [gone] = gone[..] else { panic!("one range: {gone:?}") };
        let (noted, _) = log.take_losses();
        let [damaged] = noted[..] else { panic!("one range: {noted:?}") };
        assert_eq!((damaged.kind, damaged.lost.from), (crate::LossKind::Damaged, seq(1)));
        assert_eq!(damaged.lost.up_to.next(), gone.from);
        assert_eq!(log.lane_state(lane).unwrap().head, gone.up_to.next());
        log.reclaim(Timestamp(1_000_000)).unwrap();
        log.append(lane, &[b"x"], NOW, None).unwrap();
        log.commit().unwrap();
        assert_eq!(log.lane_state(lane).unwrap().tail.get(), RECORDS + 2);
    }
}

#[test]
fn a_bad_sector_in_a_sorted_file_costs_what_is_in_it() {
    const RECORDS: u64 = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let small = small(&directory);
    let mut log = Log::open(&small).unwrap();
    let lane = log.lane("a").unwrap();
    for place in 1..=RECORDS {
        log.append(lane, &[&payload(lane, place, LENGTH)], NOW, None).unwrap();
        if place % 100 == 0 {
            log.commit().unwrap();
        }
    }
    log.commit().unwrap();
    drop(log);
    drop(Log::open(&small).unwrap()); // what was in memory is in sorted files now
    let sorted = std::fs::read_dir(small.path.join("rocksdb"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "sst"))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&sorted).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 512].fill(0xA5);
    std::fs::write(&sorted, bytes).unwrap();

    let log = Log::open(&small).unwrap();
    let (read, lost) = read_around(&log, lane);
    let &[(first, last)] = &lost[..] else { panic!("one range is lost: {lost:?}") };
    assert!(last - first < 2_000, "at most a few blocks: {first} to {last}");
    let expected: Vec<u64> = (1..=RECORDS).filter(|place| !(first..=last).contains(place)).collect();
    assert_eq!(read, expected);
    let report = log.reader().verify().unwrap();
    assert_eq!(report.lanes[0].lost, last - first + 1, "{:?}", report.problems);
    assert_eq!(report.problems_total, 1);
}

/// Nothing is kept in memory of what was read: a block that goes bad is noticed.
pub(super) fn uncached(directory: &tempfile::TempDir) -> Options {
    Options { cache_bytes: 1, sync: false, ..options(directory) }
}

fn fill(log: &mut Log, lane: LaneId, places: std::ops::RangeInclusive<u64>) {
    for place in places {
        log.append(lane, &[&payload(lane, place, LENGTH)], NOW, None).unwrap();
        if place % 100 == 0 {
            log.commit().unwrap();
        }
    }
}

/// Flips a bit of a record where it lies in a sorted file, or flips it back.
pub(super) fn flip(directory: &tempfile::TempDir, lane: LaneId, place: u64) {
    let wanted = payload(lane, place, LENGTH);
    let sorted = std::fs::read_dir(options(directory).path.join("rocksdb")).unwrap();
    let flipped = sorted.map(|entry| entry.unwrap().path()).any(|path| {
        let mut bytes = std::fs::read(&path).unwrap_or_default();
        let is_sorted = path.extension().is_some_and(|kind| kind == "sst");
        let Some(at) = bytes.windows(LENGTH).position(|it| is_sorted && it[1..] == wanted[1..]) else {
            return false;
        };
        bytes[at] ^= 8;
        std::fs::write(&path, bytes).is_ok()
    });
    assert!(flipped, "place {place} of lane {lane} lies in a sorted file as it is");
}

/// A disk that is taken away and given back is there under its path before the database is opened anew; what our files cannot
/// give meanwhile is not damage.
#[test]
fn nothing_is_damaged_while_another_file_system_stands_at_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(&uncached(&directory)).unwrap();
    let lane = log.lane("a").unwrap();
    fill(&mut log, lane, 1..=2_000);
    drop(log);
    drop(Log::open(&uncached(&directory)).unwrap()); // what was in memory is in sorted files now
    flip(&directory, lane, 1);
    let log = Log::open(&uncached(&directory)).unwrap();
    let limits = ReadLimits { messages_max: 10, bytes_max: 1 << 20 };
    let read = || log.read_lane(lane, seq(1), limits, NOW, &mut ReadOut::new());
    let is_damaged = || matches!(read(), Err(StoreError::Damaged { from, .. }) if from == seq(1));
    assert!(is_damaged());

    let (ours, away) = (options(&directory).path.join("rocksdb"), directory.path().join("away"));
    std::fs::rename(&ours, &away).unwrap();
    std::fs::create_dir(&ours).unwrap();
    for entry in std::fs::read_dir(&away).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), ours.join(entry.file_name())).unwrap();
    }
    assert!(matches!(read(), Err(StoreError::Unreadable(_))), "{:?}", read());
    std::fs::remove_dir_all(&ours).unwrap();
    assert!(matches!(read(), Err(StoreError::Unreadable(_))), "{:?}", read());
    std::fs::rename(&away, &ours).unwrap();
    assert!(is_damaged());
}

/// What is written to files that nobody finds again is no promise: writing stops, also if nobody wrote, and goes on in what is there.
#[test]
fn a_directory_that_was_exchanged_is_noticed_and_opened_anew() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("a").unwrap();
    fill(&mut log, lane, 1..=100);
    log.check_place().unwrap();
    let (ours, away) = (options(&directory).path.join("rocksdb"), directory.path().join("away"));
    std::fs::rename(&ours, &away).unwrap();
    let refused = |it: Result<(), StoreError>| matches!(it, Err(StoreError::Poisoned(fault)) if fault.kind == FaultKind::Io);
    assert!(refused(log.check_place()));
    assert!(log.append(lane, &[b"x"], NOW, None).is_err());
    assert!(log.try_recover().is_err(), "nothing is there");
    std::fs::create_dir_all(&ours).unwrap(); // trying may have made it
    for entry in std::fs::read_dir(&away).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), ours.join(entry.file_name())).unwrap();
    }
    log.try_recover().unwrap();
    log.check_place().unwrap();
    fill(&mut log, lane, 101..=200);
    assert_eq!(read_around(&log, lane), ((1..=200).collect(), vec![]));
}

/// The last block of a file that is not the last one of its lane, and of the one that is: an iterator from the end gives nothing at all.
#[test]
fn a_bad_sector_at_the_end_of_a_file_stops_no_start() {
    for place in [5_000, 10_000] {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(&uncached(&directory)).unwrap();
        let (before, lane, behind) = (log.lane("a").unwrap(), log.lane("b").unwrap(), log.lane("c").unwrap());
        for (lane, count) in [(before, 300), (behind, 700)] {
            fill(&mut log, lane, 1..=count);
            drop(log);
            log = Log::open(&uncached(&directory)).unwrap(); // each in a file of its own
        }
        for places in [1..=5_000, 5_001..=10_000] {
            fill(&mut log, lane, places);
            drop(log);
            log = Log::open(&uncached(&directory)).unwrap();
        }
        let sound = log.lane_state(lane).unwrap();
        drop(log);
        flip(&directory, lane, place);

        let mut log = Log::open(&uncached(&directory)).unwrap();
        let tails = [before, lane, behind].map(|lane| log.lane_state(lane).unwrap().tail.get());
        assert_eq!(tails, [301, 10_001, 701]);
        let bytes = log.lane_state(lane).unwrap().bytes;
        assert!(bytes <= sound.bytes && bytes > sound.bytes / 2, "{bytes} of {}", sound.bytes);
        assert_eq!(log.append(lane, &[&payload(lane, 10_001, LENGTH)], NOW, None).unwrap(), seq(10_001));
        log.commit().unwrap();
        let (read, lost) = read_around(&log, lane);
        let [(first, last)] = lost[..] else { panic!("one range: {lost:?}") };
        assert!((first..=last).contains(&place) && last - first < 2_000, "{first} to {last}");
        assert_eq!(read, (1..=10_001).filter(|it| !(first..=last).contains(it)).collect::<Vec<_>>());
    }
}

/// RocksDB's iterator gives nothing before the bad block: not in the first file, not in another lane. The block costs what is in it
/// all the same, for readers, for whoever gives up what is oldest, for the report, and for a repair.
#[test]
fn a_bad_sector_at_the_beginning_of_a_file_that_was_never_merged_hides_no_other_file() {
    for is_shared in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(&uncached(&directory)).unwrap();
        let lanes = ["first", "second"].map(|name| log.lane(name).unwrap());
        fill(&mut log, lanes[0], 1..=1_000);
        drop(log);
        let mut log = Log::open(&uncached(&directory)).unwrap(); // what was in memory is in a sorted file now
        let mut ends = [1_000, 3_000];
        if is_shared {
            ends[0] = 4_000;
            fill(&mut log, lanes[0], 1_001..=4_000);
        }
        fill(&mut log, lanes[1], 1..=3_000);
        drop(log);
        drop(Log::open(&uncached(&directory)).unwrap());
        let mut log = Log::open(&uncached(&directory)).unwrap();
        let files = log.reader.shared.engine().unwrap().db.live_files().unwrap();
        assert_eq!(files.iter().filter(|file| file.column_family_name == "log").count(), 2);
        let (hit, bad) = if is_shared { (0, 1_001) } else { (1, 1) };
        flip(&directory, lanes[hit], bad);

        let mut lost_to = 0;
        for (at, lane) in lanes.into_iter().enumerate() {
            let (read, lost) = read_around(&log, lane);
            if at == hit {
                let [(first, last)] = lost[..] else { panic!("one range is lost: {lost:?}") };
                assert_eq!(first, bad);
                assert!(last < bad + 1_100, "one sector: up to {last}");
                lost_to = last;
            } else {
                assert_eq!(lost, [], "another lane, shared {is_shared}");
            }
            let is_lost = |place: &u64| at == hit && (bad..=lost_to).contains(place);
            let expected: Vec<u64> = (1..=ends[at]).filter(|place| !is_lost(place)).collect();
            assert_eq!(read, expected);
        }
        let report = log.reader().verify().unwrap();
        assert_eq!(report.problems_total, 1, "{:?}", report.problems);
        let lost: Vec<u64> = report.lanes.iter().map(|lane| lane.lost).collect();
        assert_eq!(lost[hit], lost_to - bad + 1, "{:?}", report.problems);
        assert_eq!(lost[1 - hit], 0, "{:?}", report.problems);
        let record_bytes = (RECORD_OVERHEAD_BYTES + LENGTH) as u64;
        if is_shared {
            assert_eq!(log.lane_state(lanes[0]).unwrap().bytes, 4_000 * record_bytes);
            let gone = log.drop_oldest(lanes[0], 100 * record_bytes).unwrap();
            assert_eq!(gone.iter().map(|it| (it.from.get(), it.up_to.get())).collect::<Vec<_>>(), [(1, 100)]);
            log.commit().unwrap();
        }
        drop(log);

        let repaired = crate::repair(&uncached(&directory)).unwrap();
        let within = |lost: &crate::Lost| {
            lost.lane == lanes[hit] && lost.from.get() >= bad && lost.up_to.get() <= lost_to
        };
        assert!(repaired.lost.iter().all(|(_, lost)| within(lost)), "{:?}", repaired.lost);
        let log = Log::open(&uncached(&directory)).unwrap();
        let (read, lost) = read_around(&log, lanes[1 - hit]);
        assert_eq!((read.len() as u64, lost), (ends[1 - hit], Vec::new()));
        let (read, _) = read_around(&log, lanes[hit]);
        let sound = |place: &u64| !(bad..=lost_to).contains(place) && (!is_shared || *place > 100);
        assert!((1..=ends[hit]).filter(sound).all(|place| read.binary_search(&place).is_ok()));
    }
}
