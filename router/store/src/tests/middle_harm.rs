//! What expires behind a head, where something goes wrong: readers came by, notes and blocks contradict each other, commits fail,
//! sectors are bad, lanes compete for room.

use super::middle::*;
use super::*;
use crate::keys::{self, FAMILY_STATE};

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
