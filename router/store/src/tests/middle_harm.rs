//! What expires behind a head, where something goes wrong: readers came by, notes and blocks contradict each other, commits fail,
//! sectors are bad, lanes compete for room.

use super::damage::{flip, uncached};
use super::middle::*;
use super::*;
use crate::husks::Range;
use crate::keys::{self, FAMILY_LOG, FAMILY_STATE};

/// Everything that is due, as the disk thread does it: what readers noted is told once.
fn tell(log: &mut Log, now: Timestamp) -> Vec<(u64, u64)> {
    let mut told = Vec::new();
    loop {
        let expired = log.expire(now).unwrap();
        for lost in &expired.lost {
            told.extend(log.not_noted(lost).iter().map(|it| (it.from.get(), it.up_to.get())));
        }
        if expired.collected {
            log.commit().unwrap();
        }
        if !expired.more {
            return told;
        }
    }
}

/// What the store knows of husks takes no room from what readers noted.
#[test]
fn what_a_reader_noted_is_told_once_however_many_ranges_were_taken_out() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(&Options { sync: false, ..options(&directory) }).unwrap();
    let lane = log.lane("u/plant/5").unwrap();
    let mixed = |log: &mut Log, count| {
        for _ in 0..count {
            for expires in [MINUTE, HOUR] {
                log.append(lane, &[&payload(lane, 2, 1_000)], BEGIN, expires).unwrap();
            }
            log.commit().unwrap();
        }
    };
    write(&mut log, lane, 1, None);
    mixed(&mut log, 150);
    assert_eq!(read_all(&log, lane, seq(1), LATER).unwrap().1, 150);
    mixed(&mut log, 1);
    for _ in 0..300 {
        write(&mut log, lane, 1, MINUTE);
        write(&mut log, lane, 1, None);
    }
    // More at once than are remembered, some of them before what a reader comes across, and some behind.
    assert_eq!(tell(&mut log, LATER).len(), 300);
    assert_eq!(read_all(&log, lane, seq(1), LATER).unwrap().1, 151);
    let (noted, _) = log.take_losses();
    let places = (1..=151).map(|at| 2 * at);
    assert_eq!(
        noted.iter().map(|it| it.lost.from.get()).collect::<Vec<_>>(),
        places.clone().collect::<Vec<_>>()
    );
    let rest: Vec<_> = places.map(|place| (place + 1, place + 1)).collect();
    assert_eq!(tell(&mut log, Timestamp(4_700_000)), rest, "the other records of those blocks");
    check_sound(&log);
}

/// A store as an earlier version would leave it, with nothing noted.
fn forget_notes(log: &Log) {
    let engine = log.reader.shared.engine().unwrap();
    for key in own_entries(log) {
        engine.db.delete_cf(engine.family(FAMILY_STATE), key).unwrap();
    }
}

/// What it notes for itself only saves work: that is no reason not to open.
#[test]
fn a_start_writes_nothing_and_its_notes_go_with_the_next_commit() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    forget_notes(&log);
    drop(log);
    let mut log = open(&directory);
    assert_eq!((log.reader().stats().unwrap().written_bytes, own_entries(&log)), (0, vec![]));
    log.append(lane, &[&payload(lane, 131, 1_000)], BEGIN, None).unwrap();
    log.commit().unwrap();
    assert_eq!(own_entries(&log), [keys::timed_lane(lane).to_vec(), keys::KEY_TIMED_NOTED.to_vec()]);
}

/// Heads stop within ranges, too.
#[test]
fn what_was_taken_out_is_released_once_also_where_the_head_passes_it_in_parts() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("u/plant/5").unwrap();
    write(&mut log, lane, 1, None);
    (0..600).for_each(|_| write(&mut log, lane, 1, MINUTE));
    write(&mut log, lane, 1, None);
    let released = |log: &Log| log.reader().stats().unwrap().released_bytes;
    assert_eq!(look(&mut log, LATER), [(2, 601)]);
    assert_eq!(released(&log), 600 * 1_024);
    log.advance(lane, seq(1)).unwrap();
    while log.reclaim(Timestamp(0)).unwrap() {}
    let mut now = 0;
    for (head, more) in [(300, 0), (513, 0), (601, 0), (602, 1_024)] {
        let before = released(&log);
        log.advance(lane, seq(head)).unwrap();
        now += 10_000;
        while log.reclaim(Timestamp(now)).unwrap() {}
        assert_eq!(released(&log) - before, more, "up to {head}");
    }
}

/// The block that ends at `last`, as it lies in the store.
fn block(log: &Log, lane: LaneId, last: u64) -> Vec<u8> {
    let engine = log.reader.shared.engine().unwrap();
    engine.db.get_cf(engine.family(FAMILY_LOG), keys::block(lane, seq(last))).unwrap().unwrap()
}

fn put_block(log: &Log, lane: LaneId, last: u64, value: &[u8]) {
    let engine = log.reader.shared.engine().unwrap();
    engine.db.put_cf(engine.family(FAMILY_LOG), keys::block(lane, seq(last)), value).unwrap();
}

/// `mixed` with both of its minutes taken out and noted, and the records of the first one back: a file that was lost had the husk.
fn with_records_back(log: &mut Log) -> LaneId {
    let lane = mixed(log);
    let records = block(log, lane, 60);
    assert_eq!(tell(log, LATER), [(11, 60), (71, 120)]);
    put_block(log, lane, 60, &records);
    lane
}

/// Notes that are newer than blocks: the ledger has what they say, whoever comes by.
#[test]
fn what_is_noted_as_told_is_not_told_again_where_its_records_are_back() {
    type Way = fn(&mut Log, LaneId) -> Vec<crate::Lost>;
    let ways: [Way; 3] = [
        |log, _| log.expire(LATER).unwrap().lost,
        |log, lane| log.drop_oldest(lane, 50 * 1_024).unwrap(),
        |log, lane| {
            read_all(log, lane, seq(11), LATER).unwrap();
            log.take_losses().0.iter().map(|loss| loss.lost).collect()
        },
    ];
    for (at, way) in ways.into_iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = open(&directory);
        let lane = with_records_back(&mut log);
        log.advance(lane, seq(10)).unwrap();
        assert_eq!(way(&mut log, lane), [], "way {at}");
        assert_eq!(log.take_losses(), (vec![], 0), "way {at}");
    }
}

/// The same for a husk that is damaged: what was told as expired is not told as damaged.
#[test]
fn a_damaged_husk_is_no_loss_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    look(&mut log, LATER);
    let mut husk = block(&log, lane, 60);
    husk[9] ^= 1;
    put_block(&log, lane, 60, &husk);
    let limits = ReadLimits { messages_max: 100, bytes_max: 1 << 20 };
    let read = log.read_lane(lane, seq(11), limits, LATER, &mut ReadOut::new());
    assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
    assert_eq!(log.take_losses(), (vec![], 0));
    log.advance(lane, seq(10)).unwrap();
    let lost = log.drop_oldest(lane, 1_024).unwrap();
    assert_eq!((lost[0].from.get(), log.take_losses()), (61, (vec![], 0)));
}

/// A note of some places of a block: the others are told, and the notes are true behind that.
#[test]
fn a_note_within_a_block_hides_none_of_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    {
        let engine = log.reader.shared.engine().unwrap();
        for (first, last) in [(20, 30), (40, 60)] {
            let range = Range { first, last, bytes: ((first - 1) * 1_024, last * 1_024) };
            engine.db.put_cf(engine.family(FAMILY_STATE), keys::husks(lane, first), range.encode()).unwrap();
        }
    }
    drop(log);
    let mut log = open(&directory);
    let told: Vec<_> = (0..10).flat_map(|_| tell(&mut log, LATER)).collect();
    assert_eq!(told, [(11, 19), (31, 39), (71, 120)]);
    assert_eq!((log.lane_state(lane).unwrap().husks, messages(&log, lane)), (100, 30));
    check_sound(&log);
    drop(log);
    assert_eq!(open(&directory).lane_state(lane).unwrap().husks, 100);
}

/// A bad sector in places that are due, and in such as a start reads through, costs what is in it. When it is back, so is that.
#[test]
fn a_bad_sector_hides_nothing_behind_it() {
    const BAD: u64 = 3_000;
    // What is known to be due when the sector goes bad, and what a start reads through when it is.
    for is_known in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(&uncached(&directory)).unwrap();
        let lane = log.lane("u/plant/5").unwrap();
        for place in 1..=6_000 {
            let expires = MINUTE.filter(|_| place > 100);
            log.append(lane, &[&payload(lane, place, 40)], BEGIN, expires).unwrap();
            if place % 100 == 0 {
                log.commit().unwrap();
            }
        }
        drop(log);
        drop(Log::open(&uncached(&directory)).unwrap()); // what was in memory is in sorted files now
        let start = |now| {
            let mut log = Log::open(&uncached(&directory)).unwrap();
            let told: Vec<_> = (0..40).flat_map(|_| tell(&mut log, now)).collect();
            log.commit().unwrap();
            (log, told)
        };
        let known = is_known.then(|| start(BEGIN).0);
        flip(&directory, lane, BAD);
        let (log, told) = match known {
            Some(mut log) => {
                let told = tell(&mut log, LATER);
                (log, told)
            }
            None => start(LATER),
        };
        let [(101, before), (behind, 6_000)] = told[..] else { panic!("{is_known}: {told:?}") };
        assert!((before..behind).contains(&BAD) && behind - before < 2_000, "{before} to {behind}");
        drop(log);
        let (log, told) = start(LATER);
        assert_eq!(told, [], "{is_known}");
        assert!(own_entries(&log).contains(&keys::timed_lane(lane).to_vec()), "it is looked at again");
        drop(log);
        flip(&directory, lane, BAD);
        let (log, told) = start(LATER);
        assert_eq!(told, [(before + 1, behind - 1)], "{is_known}");
        assert_eq!(messages(&log, lane), 100);
        check_sound(&log);
    }
}

/// The first start after an earlier version: thousands of sessions cost nothing, and lanes in which nothing expires a share of a
/// look each.
#[test]
fn a_store_of_many_lanes_is_soon_read_through() {
    let directory = tempfile::tempdir().unwrap();
    let with = Options { whole_lanes: Some("s/"), ..options(&directory) };
    let mut log = Log::open(&with).unwrap();
    let names = (0..200).map(|number| format!("u/plant{number}/5")).chain(["s/historian".into()]);
    let lanes: Vec<_> = names.map(|name| log.lane(&name).unwrap()).collect();
    for &lane in &lanes {
        log.append(lane, &[b"x"], BEGIN, None).unwrap();
    }
    log.commit().unwrap();
    let timed = lanes[150];
    log.append(timed, &[b"x"], BEGIN, MINUTE).unwrap();
    log.commit().unwrap();
    forget_notes(&log);
    drop(log);
    let mut log = Log::open(&with).unwrap();
    log.append(timed, &[b"x"], BEGIN, None).unwrap();
    log.commit().unwrap();
    assert_eq!(own_entries(&log).len(), 201, "all but the session, and that they are noted");
    for _ in 0..4 {
        log.expire(BEGIN).unwrap();
    }
    log.append(timed, &[b"x"], BEGIN, None).unwrap();
    log.commit().unwrap();
    assert_eq!(own_entries(&log), [keys::timed_lane(timed).to_vec(), keys::KEY_TIMED_NOTED.to_vec()]);
}

/// With the disk away a start that reads lanes through tries one per look, and each once a minute.
#[test]
fn a_lane_that_cannot_be_read_through_waits_and_lets_others_be() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    for name in ["u/plant/5", "u/plant/6"] {
        let lane = log.lane(name).unwrap();
        write(&mut log, lane, 1, None);
        write(&mut log, lane, 1, HOUR);
    }
    drop(log);
    let mut log = open(&directory);
    log.reader.shared.replace_engine(None);
    for _ in 0..2 {
        assert!(log.expire(BEGIN).unwrap().passed_by.is_some());
    }
    assert_eq!(log.middle.expiries.take_unread(BEGIN.0 + 59_999), None);
    let again = BEGIN.0 + 60_000;
    assert!((0..2).all(|_| log.middle.expiries.take_unread(again).is_some()));
}

/// Notes that are newer than blocks are made true: by what a start reads through, and a repair lets it read through everything.
#[test]
fn records_that_are_back_are_taken_out_again_and_told_to_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = with_records_back(&mut log);
    let state = log.lane_state(lane).unwrap();
    let problems = log.reader().verify().unwrap().problems;
    assert_eq!(problems, ["lane 1: 100 places are noted as expired and taken out, and 50 are"]);
    log.close().unwrap();
    // Nothing in it expires any more, as far as is noted.
    let log = open(&directory);
    {
        let engine = log.reader.shared.engine().unwrap();
        engine.db.delete_cf(engine.family(FAMILY_STATE), keys::timed_lane(lane)).unwrap();
    }
    log.close().unwrap();
    let repaired = crate::repair(&options(&directory)).unwrap();
    assert_eq!(repaired.lost, []);
    let mut log = open(&directory);
    let told: Vec<_> = (0..10).flat_map(|_| tell(&mut log, LATER)).collect();
    assert_eq!((told, log.lane_state(lane).unwrap()), (vec![], state));
    assert_eq!(read(&log, lane, BEGIN), (alive(), 0));
    check_sound(&log);
    assert!(own_entries(&log).contains(&keys::KEY_TIMED_NOTED.to_vec()));
}

/// Small blocks that come back beside the one husk that took their place are counted once.
#[test]
fn a_report_counts_each_place_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = log.lane("u/plant/5").unwrap();
    for expires in [None, MINUTE, MINUTE, MINUTE, None] {
        write(&mut log, lane, 1, expires);
    }
    let records = block(&log, lane, 2);
    assert_eq!(look(&mut log, LATER), [(2, 4)]);
    put_block(&log, lane, 2, &records);
    let report = log.reader().verify().unwrap();
    let counts = (report.lanes[0].records, report.lanes[0].husks, report.lanes[0].lost);
    assert_eq!((counts, report.problems_total), ((3, 2, 0), 1), "{:?}", report.problems);
    // A husk that is damaged is one problem, not two.
    log.advance(lane, seq(2)).unwrap();
    let mut husk = block(&log, lane, 4);
    husk[9] ^= 1;
    put_block(&log, lane, 4, &husk);
    let report = log.reader().verify().unwrap();
    assert_eq!(report.lanes[0].lost, 2);
    assert_eq!(report.problems, ["lane 1: the header of the block that ends at place 4 is damaged"]);
}

/// Lanes with a block that never expires, and behind it one of a minute and one of `other` in turn, more of them than one lane may
/// note ranges of.
fn competing(log: &mut Log, lanes: &[LaneId], other: &[Option<Timestamp>]) {
    lanes.iter().for_each(|lane| write(log, *lane, 1, None));
    for at in 0..log.options.expiry_entries_max() as u64 + 200 {
        for (&lane, &other) in lanes.iter().zip(other) {
            let expires = if at % 2 == 0 { other } else { MINUTE };
            log.append(lane, &[b"x"], BEGIN, expires).unwrap();
        }
        log.commit().unwrap();
    }
}

fn husks_of(log: &Log, lanes: &[LaneId]) -> Vec<u64> {
    lanes.iter().map(|lane| log.lane_state(*lane).map_or(0, |state| state.husks)).collect()
}

/// All the room there is, and what one look may find above that, and no lane has more than half.
#[track_caller]
fn check_full(log: &Log, found: &[u64]) {
    let most = log.options.expiry_entries_max() as u64;
    assert!((most..most + 128).contains(&found.iter().sum()), "{found:?} of {most}");
    assert!(found.iter().all(|it| *it <= most / 2), "{found:?} of {most}");
}

/// Three lanes take all the room there is, and none of them more than half. Those that wait have their turn when one is removed, and
/// not before, whoever starts in between.
#[test]
fn a_lane_takes_half_of_the_room_and_all_of_them_no_more_than_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let with = Options { sync: false, ..options(&directory) };
    let mut log = Log::open(&with).unwrap();
    let lanes = [5, 6, 7].map(|at| log.lane(&format!("u/plant/{at}")).unwrap());
    let half = with.expiry_entries_max() as u64 / 2;
    competing(&mut log, &lanes, &[None; 3]);
    look_through(&mut log, LATER);
    let found = husks_of(&log, &lanes);
    check_full(&log, &found);
    log.close().unwrap();
    let mut log = Log::open(&with).unwrap();
    look_through(&mut log, LATER);
    assert_eq!(husks_of(&log, &lanes), found);
    log.remove_lane(lanes[0]).unwrap();
    log.commit().unwrap();
    look_through(&mut log, LATER);
    assert_eq!(husks_of(&log, &lanes), [0, half, half]);
    check_sound(&log);
}

/// The same when the gaps between their ranges are over, too: what grows together frees what it took.
#[test]
fn ranges_that_grow_together_make_room_for_another_lane() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(&Options { sync: false, ..options(&directory) }).unwrap();
    let lanes = [5, 6, 7].map(|at| log.lane(&format!("u/plant/{at}")).unwrap());
    let half = log.options.expiry_entries_max() as u64 / 2;
    competing(&mut log, &lanes, &[HOUR, HOUR, None]);
    look_through(&mut log, LATER);
    check_full(&log, &husks_of(&log, &lanes));
    look_through(&mut log, Timestamp(4_700_000));
    let count = 2 * half + 200;
    assert_eq!(husks_of(&log, &lanes), [count, count, half]);
    let ranges = own_entries(&log).into_iter().filter(|key| key[1] == b'H').count();
    assert_eq!(ranges as u64, 2 + half);
    check_sound(&log);
}

/// A group that fails takes nothing out. What it told stands with whoever keeps the ledger and waits for the disk to be well: it is
/// taken out then, and told no second time.
#[test]
fn after_a_group_that_failed_what_is_over_is_taken_out_and_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&directory);
    let lane = mixed(&mut log);
    let expired = log.expire(LATER).unwrap();
    let told: Vec<_> = expired.lost.iter().flat_map(|lost| log.not_noted(lost)).collect();
    assert_eq!((told.len(), expired.collected), (2, true));
    let (ours, away) = (options(&directory).path.join("rocksdb"), directory.path().join("away"));
    std::fs::rename(&ours, &away).unwrap();
    assert!(log.check_place().is_err());
    assert!(matches!(log.commit(), Err(StoreError::Poisoned(_))));
    std::fs::rename(&away, &ours).unwrap();
    assert_eq!(messages(&log, lane), 130, "not yet");
    log.try_recover().unwrap();
    assert_eq!(messages(&log, lane), 130);
    let again: Vec<_> = (0..10).flat_map(|_| tell(&mut log, LATER)).collect();
    assert_eq!((again, messages(&log, lane)), (vec![], 30));
    assert_eq!(read(&log, lane, BEGIN), (alive(), 0));
    check_sound(&log);
}
