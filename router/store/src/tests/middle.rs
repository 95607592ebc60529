//! What expires behind a head that does not: it leaves space and counts, is told once, and nothing else is touched.

use super::*;
use crate::block::Block;
use crate::husks::Range;
use crate::keys::{self, FAMILY_LOG, FAMILY_STATE};
use crate::{Expired, Inspection, LossKind, Space};
use std::collections::BTreeSet;

pub(super) const BEGIN: Timestamp = Timestamp(1_000_000);
/// A short time to live is over, and a long one is not.
pub(super) const LATER: Timestamp = Timestamp(1_062_000);
pub(super) const MINUTE: Option<Timestamp> = Some(Timestamp(1_060_000));
pub(super) const HOUR: Option<Timestamp> = Some(Timestamp(4_600_000));

/// Where whoever keeps a ledger would put it.
pub(super) const LEDGER: Space = Space(6);

/// One group of `count` records.
pub(super) fn write(log: &mut Log, lane: LaneId, count: u64, expires: Option<Timestamp>) {
    let tail = log.lane_state(lane).unwrap().tail.get();
    for place in tail..tail + count {
        log.append(lane, &[&payload(lane, place, 1_000)], BEGIN, expires).unwrap();
    }
    log.commit().unwrap();
}

/// Ten messages that never expire, fifty of a minute, ten of an hour, fifty of a minute, ten for ever; by place the last of each.
pub(super) fn mixed(log: &mut Log) -> LaneId {
    let lane = log.lane("u/plant/5").unwrap();
    for (count, expires) in [(10, None), (50, MINUTE), (10, HOUR), (50, MINUTE), (10, None)] {
        write(log, lane, count, expires);
    }
    lane
}

/// Everything that is due, with its commit, as the disk thread does it; the ranges that were told.
pub(super) fn look(log: &mut Log, now: Timestamp) -> Vec<(u64, u64)> {
    let mut told: Vec<(u64, u64)> = Vec::new();
    loop {
        let Expired { lost, collected, more, passed_by } = log.expire(now).unwrap();
        assert_eq!(passed_by, None);
        for lost in lost {
            match told.last_mut() {
                Some((_, last)) if *last + 1 == lost.from.get() => *last = lost.up_to.get(),
                _ => told.push((lost.from.get(), lost.up_to.get())),
            }
        }
        if collected {
            log.commit().unwrap();
        }
        if !more {
            return told;
        }
    }
}

/// As long as anything comes of it: what a start has to read through first is read in portions.
pub(super) fn look_through(log: &mut Log, now: Timestamp) -> Vec<(u64, u64)> {
    (0..400).flat_map(|_| look(log, now)).collect()
}

pub(super) fn messages(log: &Log, lane: LaneId) -> u64 {
    log.lane_state(lane).unwrap().messages()
}

/// Places that a reader gets, and how many it passes over because they have expired.
pub(super) fn read(log: &Log, lane: LaneId, now: Timestamp) -> (Vec<u64>, u64) {
    let (all, expired) = read_all(log, lane, seq(1), now).unwrap();
    for (place, bytes) in &all {
        assert_eq!(*bytes, payload(lane, *place, 1_000), "what is not over is as it was");
    }
    (all.into_iter().map(|(place, _)| place).collect(), expired)
}

pub(super) fn alive() -> Vec<u64> {
    [1..=10, 61..=70, 121..=130].into_iter().flatten().collect()
}

pub(super) fn check_sound(log: &Log) {
    assert_eq!(log.reader().verify().unwrap().problems, Vec::<String>::new());
}

#[test]
fn what_expires_behind_a_head_that_does_not_leaves_counts_and_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    let before = log.lane_state(lane).unwrap();
    assert_eq!(look(&mut log, BEGIN), [], "nothing is over");
    assert_eq!(messages(&log, lane), 130);

    assert_eq!(look(&mut log, LATER), [(11, 60), (71, 120)]);
    let state = log.lane_state(lane).unwrap();
    assert_eq!((state.head, state.tail, state.husks), (before.head, before.tail, 100), "places stay");
    assert_eq!((state.messages(), state.bytes), (30, before.bytes - 100 * 1_024));
    assert_eq!(log.reader().stats().unwrap().live_messages, 30);
    assert_eq!(look(&mut log, LATER), [], "once");
    // A reader passes over them, and notes nothing; a clock that is set back brings nothing back.
    for now in [LATER, BEGIN] {
        assert_eq!(read(&log, lane, now), (alive(), 0));
    }
    assert_eq!(log.take_losses(), (vec![], 0));
    check_sound(&log);
    let report = log.reader().verify().unwrap().lanes.remove(0);
    assert_eq!((report.records, report.husks, report.lost), (30, 100, 0));
}

#[test]
fn a_start_knows_what_is_over_and_finds_what_will_be() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    look(&mut log, LATER);
    write(&mut log, lane, 5, Some(Timestamp(2_000_000)));
    write(&mut log, lane, 5, None);
    let before = log.lane_state(lane).unwrap();
    drop(log);
    {
        let inspection = Inspection::open(options(&directory).path).unwrap();
        assert_eq!(inspection.verify().unwrap().problems, Vec::<String>::new());
        assert_eq!(inspection.reader().lane_state(lane).unwrap(), before);
    }
    let mut log = open(&directory);
    assert_eq!(log.lane_state(lane).unwrap(), before);
    assert_eq!(look_through(&mut log, LATER), [], "it is told once, also over a start");
    // Nobody remembers when these are over, but it is found out.
    assert_eq!(look_through(&mut log, Timestamp(2_010_000)), [(131, 135)]);
    assert_eq!(look_through(&mut log, Timestamp(5_000_000)), [(61, 70)]);
    assert_eq!(messages(&log, lane), 25);
    check_sound(&log);
}

/// Entry and husk are in one group: a crash before it leaves the records and no entry, one behind it both.
#[test]
fn a_crash_finds_the_records_or_the_entry() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    let expired = log.expire(LATER).unwrap();
    assert!(expired.collected && expired.lost.len() == 2);
    log.state_put(LEDGER, b"entry", b"100 expired").unwrap();
    assert_eq!(messages(&log, lane), 130, "not yet");
    log.middle.expiries.read_anew(lane, (1, 130));
    assert_eq!(log.expire(LATER).unwrap().lost, [], "told, and waiting for the commit");
    drop(log);

    let mut log = open(&directory);
    assert_eq!((messages(&log, lane), log.state_get(LEDGER, b"entry")), (130, Ok(None)));
    assert_eq!(read(&log, lane, BEGIN).0.len(), 130, "all of them");
    assert_eq!(look_through(&mut log, BEGIN), []);
    let expired = log.expire(LATER).unwrap();
    assert_eq!(expired.lost.len(), 2);
    log.state_put(LEDGER, b"entry", b"100 expired").unwrap();
    log.commit().unwrap();
    drop(log);

    let mut log = open(&directory);
    assert_eq!((messages(&log, lane), read(&log, lane, BEGIN)), (30, (alive(), 0)));
    assert_eq!(log.state_get(LEDGER, b"entry").unwrap().unwrap(), b"100 expired");
    assert_eq!(look_through(&mut log, LATER), []);
    check_sound(&log);
}

#[test]
fn the_space_comes_back_from_memory_and_from_sorted_files() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(&small(&directory)).unwrap();
    let lane = log.lane("u/plant/5").unwrap();
    write(&mut log, lane, 64, None);
    for _ in 0..80 {
        write(&mut log, lane, 128, MINUTE);
    }
    write(&mut log, lane, 64, None);
    log.reader().merge_all().unwrap();
    let full = log.reader().occupied().unwrap();
    assert!(full.sorted_bytes > 9 << 20, "{full:?}");
    let released = log.reader().stats().unwrap().released_bytes;

    assert_eq!(look(&mut log, LATER), [(65, 64 + 80 * 128)]);
    let husk_bytes = 80 * 128 * 1_024;
    assert_eq!(log.reader().stats().unwrap().released_bytes - released, husk_bytes);
    assert_eq!(log.reader().unmerged_bytes(), husk_bytes, "what a merge gives back");
    // The way of a store that is short of space, and the usual one behind it.
    assert_eq!(log.reader().merge_released(), Ok(husk_bytes));
    let after = log.reader().occupied().unwrap();
    assert!(after.sorted_bytes < 1 << 20, "{after:?} of {full:?}");
    assert_eq!(read(&log, lane, BEGIN).0.len(), 128);
    check_sound(&log);

    // When the head has passed them nothing is counted twice, and nothing is left.
    let tail = log.lane_state(lane).unwrap().tail.get();
    log.advance(lane, seq(1)).unwrap();
    log.reclaim(Timestamp(0)).unwrap();
    let released = log.reader().stats().unwrap().released_bytes;
    log.advance(lane, seq(64)).unwrap();
    while log.reclaim(Timestamp(10_000)).unwrap() {}
    assert_eq!(log.reader().stats().unwrap().released_bytes - released, 63 * 1_024);
    assert_eq!(look(&mut log, LATER), []);
    assert_eq!(log.lane_state(lane).unwrap().head, seq(tail - 64), "the head passes over what is gone");
    log.commit().unwrap();
    while log.reclaim(Timestamp(20_000)).unwrap() {}
    assert_eq!(log.reader().stats().unwrap().released_bytes - released, 63 * 1_024);
    assert_eq!(own_entries(&log), [keys::timed_lane(lane).to_vec(), keys::KEY_TIMED_NOTED.to_vec()]);
}

/// What the store has noted for itself.
pub(super) fn own_entries(log: &Log) -> Vec<Vec<u8>> {
    let engine = log.reader.shared.engine().unwrap();
    let mut entries = engine.db.raw_iterator_cf(engine.family(FAMILY_STATE));
    entries.seek([keys::SPACE_OWN]);
    let mut found = Vec::new();
    while let Some(key) = entries.key() {
        found.push(key.to_vec());
        entries.next();
    }
    found
}

/// First and last place of the blocks of a lane, and whether each is a husk.
pub(super) fn blocks(log: &Log, lane: LaneId) -> Vec<(u64, u64, bool)> {
    let engine = log.reader.shared.engine().unwrap();
    let mut entries = engine.range(FAMILY_LOG, &keys::lane_start(lane), &keys::lane_end(lane), false);
    entries.seek_to_first();
    let mut found = Vec::new();
    while let Some((key, value)) = entries.item() {
        let block = Block::parse(key, value).unwrap();
        found.push((block.first, block.last, block.is_husk()));
        entries.next();
    }
    found
}

#[test]
fn small_blocks_in_a_row_are_one_husk() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("u/plant/5").unwrap();
    write(&mut log, lane, 1, None);
    for _ in 0..600 {
        write(&mut log, lane, 1, MINUTE);
    }
    write(&mut log, lane, 1, None);
    assert_eq!(look(&mut log, LATER), [(2, 601)]);
    let husks = [(2, 257, true), (258, 513, true), (514, 601, true)];
    assert_eq!(blocks(&log, lane), [&[(1, 1, false)], &husks[..], &[(602, 602, false)]].concat());
    assert_eq!(own_entries(&log).len(), 3, "and one range: {:?}", own_entries(&log));
    // A head in the middle of one.
    log.advance(lane, seq(300)).unwrap();
    let state = log.lane_state(lane).unwrap();
    assert_eq!((state.messages(), state.husks, state.bytes), (1, 301, 1_024));
    assert_eq!(read(&log, lane, BEGIN), (vec![602], 0));
    check_sound(&log);
}

/// A block is over when its last record is; the one that the head stands in is not taken from the middle.
#[test]
fn a_block_with_a_record_that_is_not_over_is_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("u/plant/5").unwrap();
    write(&mut log, lane, 1, None);
    for expires in [MINUTE, HOUR, MINUTE] {
        log.append(lane, &[&payload(lane, 2, 1_000)], BEGIN, expires).unwrap();
    }
    log.commit().unwrap();
    assert_eq!(look(&mut log, LATER), []);
    assert_eq!(blocks(&log, lane), [(1, 1, false), (2, 4, false)]);
    assert_eq!(look(&mut log, Timestamp(4_599_999)), []);
    assert_eq!(look(&mut log, Timestamp(4_620_000)), [(2, 4)]);
}

#[test]
fn what_a_reader_has_noted_is_not_told_again_and_what_is_told_no_reader_notes() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    assert_eq!(read(&log, lane, LATER), (alive(), 100));
    let (noted, _) = log.take_losses();
    assert_eq!(noted.len(), 2);
    assert!(noted.iter().all(|loss| loss.kind == LossKind::Expired));
    let expired = log.expire(LATER).unwrap();
    assert_eq!(expired.lost.len(), 2);
    let fresh: Vec<_> = expired.lost.iter().rev().flat_map(|lost| log.not_noted(lost)).collect();
    assert_eq!(fresh, [], "the ledger has them");
    log.commit().unwrap();
    assert_eq!(read(&log, lane, LATER), (alive(), 0));
    assert_eq!(log.take_losses(), (vec![], 0));
}

#[test]
fn giving_up_the_oldest_passes_over_what_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    look(&mut log, LATER);
    let lost = log.drop_oldest(lane, 15 * 1_024).unwrap();
    let places: Vec<_> = lost.iter().map(|lost| (lost.from.get(), lost.up_to.get())).collect();
    assert_eq!(places, [(1, 10), (61, 70)]);
    assert_eq!(lost.iter().map(|lost| lost.bytes).sum::<u64>(), 20 * 1_024, "what they free");
    assert_eq!(messages(&log, lane), 10);
    check_sound(&log);
}

#[test]
fn a_repair_keeps_what_is_known_and_a_removal_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    look(&mut log, LATER);
    let before = log.lane_state(lane).unwrap();
    log.close().unwrap();
    let repaired = crate::repair(&options(&directory)).unwrap();
    assert_eq!((repaired.lost.len(), repaired.state_gaps), (0, 0));
    let mut log = open(&directory);
    assert_eq!(log.lane_state(lane).unwrap(), before);
    assert_eq!(read(&log, lane, BEGIN), (alive(), 0));
    check_sound(&log);
    log.remove_lane(lane).unwrap();
    log.commit().unwrap();
    assert_eq!(own_entries(&log), [keys::KEY_TIMED_NOTED.to_vec()]);
}

/// A part of the small state is lost: the husks are found again, and told no second time.
#[test]
fn husks_whose_note_is_lost_are_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    look(&mut log, LATER);
    let before = log.lane_state(lane).unwrap();
    {
        let engine = log.reader.shared.engine().unwrap();
        for key in own_entries(&log) {
            engine.db.delete_cf(engine.family(FAMILY_STATE), key).unwrap();
        }
    }
    drop(log);
    let mut log = open(&directory);
    assert_eq!(log.lane_state(lane).unwrap().husks, 0, "nobody knows");
    assert_eq!(look_through(&mut log, BEGIN), []);
    assert_eq!(log.lane_state(lane).unwrap(), before);
    check_sound(&log);
}

/// A store of an earlier version has noted nothing, and something may expire in any of its lanes.
#[test]
fn a_store_of_before_is_read_through_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    let forever = log.lane("u/plant/6").unwrap();
    write(&mut log, forever, 3, None);
    {
        let engine = log.reader.shared.engine().unwrap();
        for key in own_entries(&log) {
            engine.db.delete_cf(engine.family(FAMILY_STATE), key).unwrap();
        }
    }
    drop(log);
    let mut log = open(&directory);
    assert_eq!(look_through(&mut log, BEGIN), []);
    assert_eq!(look_through(&mut log, LATER), [(11, 60), (71, 120)]);
    log.commit().unwrap();
    drop(log);
    let log = open(&directory);
    let marks: Vec<_> = own_entries(&log).into_iter().filter(|key| key[1] == b'T').collect();
    assert_eq!(marks, [keys::timed_lane(lane)], "in the other lane nothing expires");
}

#[test]
fn lanes_that_are_to_stay_whole_and_lanes_without_a_time_cost_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let with = Options { whole_lanes: Some("s/"), ..options(&directory) };
    let mut log = Log::open(&with).unwrap();
    let (session, forever) = (log.lane("s/historian").unwrap(), log.lane("u/plant/5").unwrap());
    for expires in [None, MINUTE, None] {
        write(&mut log, session, 10, expires);
        write(&mut log, forever, 10, None);
    }
    assert_eq!(look(&mut log, LATER), []);
    assert_eq!(messages(&log, session), 30);
    assert_eq!(own_entries(&log), [keys::KEY_TIMED_NOTED.to_vec()]);
    let written = log.reader().stats().unwrap().written_bytes;
    for _ in 0..10 {
        look(&mut log, LATER);
        log.commit().unwrap();
    }
    assert_eq!(log.reader().stats().unwrap().written_bytes, written, "nothing is collected");
    // What is at the head of such a lane goes as ever.
    log.advance(session, seq(10)).unwrap();
    assert_eq!(look(&mut log, LATER), [(11, 20)]);
}

/// Every other block: each is a range of its own, and there is an end to how many are remembered. Far more are over than have
/// room; they are read once, and not again before there is room.
#[test]
fn memory_is_bounded_and_what_has_no_room_waits() {
    let directory = tempfile::tempdir().unwrap();
    let with = Options { sync: false, ..options(&directory) };
    let mut log = Log::open(&with).unwrap();
    let lane = log.lane("u/plant/5").unwrap();
    let (spans_max, ranges_max) = (with.expiry_entries_max(), with.expiry_entries_max() / 2);
    let count = 20 * ranges_max as u64;
    for place in 1..=2 * count {
        let expires = MINUTE.filter(|_| place % 2 == 0);
        log.append(lane, &[b"x"], BEGIN, expires).unwrap();
        log.commit().unwrap();
    }
    let told = look(&mut log, LATER);
    assert_eq!(told.len(), ranges_max);
    for cycle in 1..=5 {
        let now = Timestamp(LATER.0 + cycle * 60_000);
        assert_eq!(log.expire(now).unwrap(), Expired::default(), "cycle {cycle}: nothing to do");
        assert!(log.middle.expiries.len() <= spans_max.min(2), "cycle {cycle}");
    }
    assert_eq!(messages(&log, lane), 2 * count - told.len() as u64);
    // The head has passed some, and as many of the rest are found.
    log.advance(lane, seq(1_000)).unwrap();
    log.commit().unwrap();
    while log.reclaim(Timestamp(LATER.0 + 10_000)).unwrap() {}
    let more = look_through(&mut log, LATER);
    assert_eq!(more.len(), 500);
    let all: BTreeSet<_> = told.iter().chain(&more).collect();
    assert_eq!(all.len(), ranges_max + 500, "each once");
    assert_eq!(messages(&log, lane), 2 * count - 1_000 - ranges_max as u64);
    check_sound(&log);
    drop(log);
    // A start reads it through, has no room either, and the next one is to know of what waits.
    let mut log = Log::open(&with).unwrap();
    assert_eq!(look_through(&mut log, LATER), []);
    log.commit().unwrap();
    assert!(own_entries(&log).contains(&keys::timed_lane(lane).to_vec()));
}

#[test]
fn what_fills_the_gap_between_ranges_needs_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let with = Options { sync: false, ..options(&directory) };
    let mut log = Log::open(&with).unwrap();
    let lane = log.lane("u/plant/5").unwrap();
    let ranges_max = with.expiry_entries_max() / 2;
    write(&mut log, lane, 1, None);
    for at in 0..2 * ranges_max {
        write(&mut log, lane, 1, if at % 2 == 0 { MINUTE } else { HOUR });
    }
    write(&mut log, lane, 1, None);
    assert_eq!(look(&mut log, LATER).len(), ranges_max);
    let gaps = look(&mut log, Timestamp(4_700_000));
    assert_eq!(gaps.len(), ranges_max);
    assert_eq!((messages(&log, lane), own_entries(&log).len()), (2, 3), "and one range is left");
    check_sound(&log);
}

/// With the disk away one span is tried per look, not each that is due.
#[test]
fn a_look_ends_with_the_first_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    for number in 0..9 {
        let lane = log.lane(&format!("u/plant{number}/5")).unwrap();
        write(&mut log, lane, 1, None);
        write(&mut log, lane, 1, MINUTE);
    }
    log.reader.shared.replace_engine(None);
    for _ in 0..3 {
        let expired = log.expire(LATER).unwrap();
        assert!(expired.passed_by.is_some() && !expired.more);
    }
    let left = std::iter::from_fn(|| log.middle.expiries.take_due(LATER.0)).count();
    assert_eq!(left, 6);
}

/// What a lane is removed with was told already where it expired in between.
#[test]
fn what_remains_of_a_lane_is_what_was_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    let remains = |log: &Log| {
        let lost = log.remains_of(lane).unwrap();
        lost.iter().map(|it| (it.from.get(), it.up_to.get(), it.bytes / 1_024)).collect::<Vec<_>>()
    };
    assert_eq!(remains(&log), [(1, 130, 130)]);
    let told: u64 = log.expire(LATER).unwrap().lost.iter().map(crate::Lost::messages).sum();
    let expected = [(1, 10, 10), (61, 70, 10), (121, 130, 10)];
    assert_eq!((told, remains(&log)), (100, expected.to_vec()), "told with the same group");
    log.commit().unwrap();
    assert_eq!(remains(&log), expected);
    log.advance(lane, seq(65)).unwrap();
    assert_eq!(remains(&log), [(66, 70, 5), (121, 130, 10)]);
    log.advance(lane, seq(130)).unwrap();
    assert_eq!(remains(&log), []);
}

/// What whoever keeps the ledger had before it was written: nobody hears of it, on no way.
#[test]
fn what_was_told_before_it_was_written_is_not_told_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut on_disk = open(&directory);
    told_before(&mut on_disk);
    assert_eq!(on_disk.take_losses(), (vec![], 0), "nor noted by a reader");
    check_sound(&on_disk);
    told_before(&mut crate::MemoryLog::new(8 << 20));
}

fn told_before(log: &mut dyn CommitLog) {
    let lane = log.lane("u/plant/5").unwrap();
    let told = Some(Timestamp(0));
    for expires in [None, None, told, told, MINUTE, MINUTE, told, None] {
        log.append(lane, &[b"x"], BEGIN, expires).unwrap();
    }
    log.append(lane, &[b"x"], BEGIN, told).unwrap();
    log.commit().unwrap();
    let places = |log: &dyn CommitLog| {
        let (all, expired) = read_all(log, lane, seq(1), BEGIN).unwrap();
        (all.into_iter().map(|(place, _)| place).collect::<Vec<_>>(), expired)
    };
    assert_eq!(places(log), (vec![1, 2, 5, 6, 8], 0));
    // Out of the middle.
    let expired = log.expire(BEGIN).unwrap();
    assert_eq!((expired.lost, expired.collected), (vec![], true));
    log.commit().unwrap();
    assert_eq!((places(log), log.lane_state(lane).unwrap().messages()), ((vec![1, 2, 5, 6, 8], 0), 5));
    let lost: Vec<_> = log.expire(LATER).unwrap().lost;
    assert_eq!(
        lost.iter().map(|it| (it.from.get(), it.up_to.get(), it.bytes)).collect::<Vec<_>>(),
        [(5, 6, 50)]
    );
    log.commit().unwrap();
    // From the head on, and with what is given up.
    for expires in [told, None, told] {
        log.append(lane, &[b"x"], BEGIN, expires).unwrap();
    }
    log.commit().unwrap();
    log.advance(lane, seq(9)).unwrap();
    assert_eq!(log.expire(BEGIN).unwrap().lost, []);
    let lost = log.drop_oldest(lane, 1_000).unwrap();
    assert_eq!(lost.iter().map(crate::Lost::messages).sum::<u64>(), 1);
    assert_eq!(log.lane_state(lane).unwrap().messages(), 0);
}

/// Notes that cannot be true take nothing apart: one that lies in another, and one of records that are there.
#[test]
fn notes_of_husks_that_contradict_others_or_the_blocks_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    look(&mut log, LATER);
    {
        let engine = log.reader.shared.engine().unwrap();
        for (first, last) in [(20, 30), (61, 70)] {
            let range = Range { first, last, bytes: ((first - 1) * 1_024, last * 1_024) };
            engine.db.put_cf(engine.family(FAMILY_STATE), keys::husks(lane, first), range.encode()).unwrap();
        }
    }
    drop(log);
    let mut log = open(&directory);
    assert_eq!(log.lane_state(lane).unwrap().husks, 110);
    assert_eq!(look_through(&mut log, Timestamp(4_700_000)), [], "noted as told");
    log.commit().unwrap();
    assert!(!own_entries(&log).contains(&keys::husks(lane, 20).to_vec()));
}

/// What the head stands in is given up from the head on, however long it takes until its lane is looked at.
#[test]
fn what_is_delivered_of_a_block_is_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lanes: Vec<_> = (0..200).map(|number| log.lane(&format!("u/plant{number}/5")).unwrap()).collect();
    for &lane in &lanes {
        write(&mut log, lane, 10, MINUTE);
        log.advance(lane, seq(5)).unwrap();
    }
    let mut told = Vec::new();
    for _ in 0..5 {
        let expired = log.expire(LATER).unwrap();
        told.extend(expired.lost.iter().map(|lost| (lost.lane, lost.from.get(), lost.up_to.get())));
        log.commit().unwrap();
    }
    told.sort_unstable();
    assert_eq!(told, lanes.iter().map(|lane| (*lane, 6, 10)).collect::<Vec<_>>());
}

/// A head that moves over what is about to be taken out leaves nothing behind.
#[test]
fn what_is_delivered_meanwhile_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    assert!(log.expire(LATER).unwrap().collected);
    log.advance(lane, seq(130)).unwrap();
    log.reclaim(LATER).unwrap();
    assert_eq!(messages(&log, lane), 0);
    log.commit().unwrap();
    while log.reclaim(Timestamp(LATER.0 + 60_000)).unwrap() {}
    assert_eq!(blocks(&log, lane), []);
    assert_eq!(own_entries(&log).len(), 2);
    assert_eq!(look_through(&mut log, LATER), []);
}

/// Blocks of these sizes, none of which expires.
fn blocks_of(log: &mut Log, sizes: &[u64]) -> LaneId {
    let lane = log.lane("u/plant/5").unwrap();
    sizes.iter().for_each(|count| write(log, lane, *count, None));
    lane
}

fn deliver_ahead(log: &mut dyn CommitLog, lane: LaneId, from: u64, up_to: u64) {
    log.deliver_ahead(lane, seq(from), seq(up_to)).unwrap();
}

/// As [`look`], and once more when what is little has waited.
fn look_at_all(log: &mut Log, now: Timestamp) -> Vec<(u64, u64)> {
    [look(log, now), look(log, Timestamp(now.0 + 5_000))].concat()
}

#[test]
fn what_is_delivered_behind_a_head_that_waits_leaves_space_and_counts_and_no_ledger_hears_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = blocks_of(&mut log, &[10, 50, 10, 50, 10]);
    let before = log.lane_state(lane).unwrap();
    let released = log.reader().stats().unwrap().released_bytes;
    for (from, up_to) in [(11, 40), (71, 120), (41, 60), (90, 120)] {
        deliver_ahead(&mut log, lane, from, up_to);
    }
    assert_eq!(look_at_all(&mut log, BEGIN), [], "nothing is lost");
    let state = log.lane_state(lane).unwrap();
    assert_eq!((state.head, state.tail, state.husks), (before.head, before.tail, 100), "places stay");
    assert_eq!((state.messages(), state.bytes), (30, before.bytes - 100 * 1_024));
    let stats = log.reader().stats().unwrap();
    assert_eq!((stats.live_messages, stats.released_bytes - released), (30, 100 * 1_024));
    assert_eq!(read(&log, lane, BEGIN), (alive(), 0), "nobody gets them again");
    assert_eq!(log.take_losses(), (vec![], 0));
    check_sound(&log);
    // A start knows it, and nothing is noted but what is gone: it reads nothing through.
    drop(log);
    let mut log = open(&directory);
    assert_eq!(log.lane_state(lane).unwrap(), state);
    assert_eq!(read(&log, lane, BEGIN), (alive(), 0));
    assert_eq!(own_entries(&log).len(), 3);
    // The head goes over them, and no byte is counted twice.
    let released = log.reader().stats().unwrap().released_bytes;
    log.advance(lane, seq(1)).unwrap();
    while log.reclaim(Timestamp(0)).unwrap() {}
    log.advance(lane, seq(130)).unwrap();
    while log.reclaim(Timestamp(BEGIN.0 + 10_000)).unwrap() {}
    assert_eq!(log.reader().stats().unwrap().released_bytes - released, 29 * 1_024);
    assert_eq!((blocks(&log, lane), own_entries(&log).len()), (vec![], 1));
}

/// Half of a block stays until the rest of it is delivered, in whatever order that comes, and the head's own block, too.
#[test]
fn a_block_goes_once_all_of_it_is_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = blocks_of(&mut log, &[10, 10, 10, 10]);
    let husks = |log: &mut Log| {
        look_at_all(log, BEGIN);
        blocks(log, lane).into_iter().filter(|it| it.2).map(|it| (it.0, it.1)).collect::<Vec<_>>()
    };
    deliver_ahead(&mut log, lane, 2, 19);
    assert_eq!(husks(&mut log), []);
    deliver_ahead(&mut log, lane, 22, 29);
    assert_eq!(husks(&mut log), []);
    deliver_ahead(&mut log, lane, 20, 20);
    assert_eq!(husks(&mut log), [(11, 20)], "it ends where something else begins");
    deliver_ahead(&mut log, lane, 30, 35);
    assert_eq!(husks(&mut log), [(11, 20)]);
    deliver_ahead(&mut log, lane, 21, 21);
    assert_eq!(husks(&mut log), [(11, 20), (21, 30)]);
    assert_eq!((messages(&log, lane), read(&log, lane, BEGIN).0.len()), (20, 20));
    // Beyond the end there is nothing yet; what comes there is not delivered.
    deliver_ahead(&mut log, lane, 36, 60);
    write(&mut log, lane, 10, None);
    assert_eq!(husks(&mut log), [(11, 20), (21, 30), (31, 40)]);
    assert_eq!(messages(&log, lane), 20);
    assert_eq!(log.deliver_ahead(LaneId(99), seq(1), seq(2)), Err(StoreError::UnknownLane(LaneId(99))));
    check_sound(&log);
}

#[test]
fn a_crash_before_the_commit_leaves_all_that_was_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = blocks_of(&mut log, &[10, 50, 10]);
    deliver_ahead(&mut log, lane, 11, 60);
    assert_eq!(log.expire(BEGIN).unwrap(), Expired::default(), "it is little, and waits for more");
    log.take_out_all();
    assert_eq!(log.expire(BEGIN).unwrap(), Expired { collected: true, ..Expired::default() });
    assert_eq!(messages(&log, lane), 70, "not yet");
    drop(log);
    let mut log = open(&directory);
    assert_eq!((messages(&log, lane), read(&log, lane, BEGIN).0.len()), (70, 70));
    assert_eq!(look_through(&mut log, BEGIN), []);
    assert_eq!(messages(&log, lane), 70, "nobody remembers");
}

/// Each time costs a group: what comes one by one goes together.
#[test]
fn few_places_wait_for_more_and_not_for_long() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = blocks_of(&mut log, &[1; 300]);
    let mut now = BEGIN;
    let mut looks = Vec::new();
    for place in 2..=201 {
        deliver_ahead(&mut log, lane, place, place);
        let before = messages(&log, lane);
        assert_eq!(look(&mut log, now), []);
        looks.extend(Some(before - messages(&log, lane)).filter(|gone| *gone > 0));
        now = now.plus_millis(10);
    }
    assert_eq!(looks, [64, 64, 64]);
    for millis in [0, 4_900] {
        assert_eq!((look(&mut log, now.plus_millis(millis)), messages(&log, lane)), (vec![], 108));
    }
    // A clock that was set back by years makes nobody wait.
    assert_eq!((look(&mut log, Timestamp(1)), messages(&log, lane)), (vec![], 100));
    deliver_ahead(&mut log, lane, 202, 202);
    assert_eq!((look(&mut log, now), messages(&log, lane)), (vec![], 100));
    assert_eq!((look(&mut log, now.plus_millis(5_000)), messages(&log, lane)), (vec![], 99));
    check_sound(&log);
}

/// A write that failed: what was to be taken out with it is, once the store writes again.
#[test]
fn what_is_delivered_is_known_after_a_recovery() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = blocks_of(&mut log, &[10, 50, 10]);
    deliver_ahead(&mut log, lane, 11, 60);
    log.take_out_all();
    assert!(log.expire(BEGIN).unwrap().collected);
    let moved = directory.path().join("store").join("elsewhere");
    let engine = directory.path().join("store").join("rocksdb");
    std::fs::rename(&engine, &moved).unwrap();
    std::fs::create_dir(&engine).unwrap();
    assert!(log.check_place().is_err());
    std::fs::remove_dir(&engine).unwrap();
    std::fs::rename(&moved, &engine).unwrap();
    log.try_recover().unwrap();
    assert_eq!(messages(&log, lane), 70);
    assert_eq!(look_at_all(&mut log, BEGIN), []);
    assert_eq!((messages(&log, lane), read(&log, lane, BEGIN).0.len()), (20, 20));
    check_sound(&log);
}

/// What an upstream has is lost to nobody, whatever becomes of its record afterwards.
#[test]
fn what_is_delivered_and_then_expires_or_is_given_up_is_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut on_disk = open(&directory);
    delivered_and_over(&mut on_disk);
    check_sound(&on_disk);
    delivered_and_over(&mut crate::MemoryLog::new(8 << 20));
}

fn delivered_and_over(log: &mut dyn CommitLog) {
    let lane = log.lane("u/plant/5").unwrap();
    for (count, expires) in [(10, None), (50, MINUTE), (50, MINUTE), (10, None), (10, None)] {
        for _ in 0..count {
            log.append(lane, &[&[7; 76]], BEGIN, expires).unwrap();
        }
        log.commit().unwrap();
    }
    let places = |lost: Vec<crate::Lost>| {
        lost.iter().map(|it| (it.from.get(), it.up_to.get(), it.bytes / 100)).collect::<Vec<_>>()
    };
    // One block as a whole, and of the next some.
    deliver_ahead(log, lane, 11, 60);
    deliver_ahead(log, lane, 71, 80);
    deliver_ahead(log, lane, 101, 115);
    assert_eq!(places(log.expire(LATER).unwrap().lost), [(61, 70, 10), (81, 100, 20)]);
    log.commit().unwrap();
    assert_eq!(log.lane_state(lane).unwrap().messages(), 30);
    assert_eq!(log.expire(LATER).unwrap(), Expired::default());
    assert_eq!(places(log.drop_oldest(lane, 2_500).unwrap()), [(1, 10, 10), (116, 130, 15)]);
    assert_eq!(log.lane_state(lane).unwrap().messages(), 0);
}

/// A lane is removed: what was delivered behind its head is not among what was lost with it.
#[test]
fn what_remains_of_a_lane_is_not_what_was_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = blocks_of(&mut log, &[10, 50, 10]);
    deliver_ahead(&mut log, lane, 11, 60);
    look_at_all(&mut log, BEGIN);
    let remains: Vec<_> =
        log.remains_of(lane).unwrap().iter().map(|it| (it.from.get(), it.up_to.get())).collect();
    assert_eq!(remains, [(1, 10), (61, 70)]);
    deliver_ahead(&mut log, lane, 61, 65);
    log.remove_lane(lane).unwrap();
    log.commit().unwrap();
    assert_eq!((look_at_all(&mut log, BEGIN), own_entries(&log).len()), (vec![], 1));
}

/// More than fits into one look, and more rows than have room: it ends, and what had no room waits for the head.
#[test]
fn what_is_delivered_behind_a_head_is_bounded_like_what_expires() {
    let directory = tempfile::tempdir().unwrap();
    let with = Options { sync: false, ..options(&directory) };
    let mut log = Log::open(&with).unwrap();
    let lane = log.lane("u/plant/5").unwrap();
    let ranges_max = with.expiry_entries_max() / 2;
    let count = 2 * ranges_max as u64 + 501;
    for _ in 1..=count {
        log.append(lane, &[b"x"], BEGIN, None).unwrap();
        log.commit().unwrap();
    }
    for place in (2..=count).step_by(2) {
        deliver_ahead(&mut log, lane, place, place);
    }
    assert_eq!(look_at_all(&mut log, BEGIN), []);
    assert_eq!(messages(&log, lane), count - ranges_max as u64);
    assert_eq!(log.expire(BEGIN).unwrap(), Expired::default(), "there is nothing to do");
    // What was between them is delivered, too: one row.
    deliver_ahead(&mut log, lane, 2, count - 1);
    assert_eq!(look_at_all(&mut log, BEGIN), []);
    assert_eq!((messages(&log, lane), own_entries(&log).len()), (2, 2));
    check_sound(&log);
    // Sessions' lanes stay whole.
    drop(log);
    let mut log = Log::open(&Options { whole_lanes: Some("u/"), ..with }).unwrap();
    write(&mut log, lane, 10, None);
    deliver_ahead(&mut log, lane, count, count + 9);
    assert_eq!((look_at_all(&mut log, BEGIN), messages(&log, lane)), (vec![], 12));
}
