//! Which life of the store gave which places of a lane: what tells ids of messages apart that have the same place.
//!
//! A place is given again after a crash if nothing was written for it: it was delivered from the front of its lane
//! (decision 0012), or nothing is synced and the power failed, or a damaged log was cut. So each start takes a number, and
//! from the end of a lane on places have that one; those before keep theirs, so that a repeat is still known as one.
//! In: lanes, what was kept. Out: what is to be kept and used. Bound: [`LIVES_MAX`] for each lane; those of which nothing waits
//! any more are forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use model::{LaneId, Seq};
use store::{CommitLog as _, Log, StoreError};

use crate::disk::GATEWAY;

/// Lives that a lane knows.
const LIVES_MAX: usize = 64;
/// What keys begin with; the lane follows, big endian.
const KEY: &[u8] = b"lives/";

/// First places and numbers, ascending.
pub(super) type Lives = Vec<(Seq, u32)>;

/// Begins another life, and gives those of each lane. The next commit keeps them.
pub(super) fn begin(
    lanes: impl Iterator<Item = LaneId>,
    number: u32,
    log: &mut Log,
) -> Result<BTreeMap<LaneId, Lives>, StoreError> {
    let mut all = BTreeMap::new();
    for lane in lanes {
        let kept = log.state_get(GATEWAY, &key(lane))?;
        let state = log.lane_state(lane)?;
        let lives = next(parse(&kept.unwrap_or_default()), (state.head, state.tail), number);
        log.state_put(GATEWAY, &key(lane), &write(&lives))?;
        all.insert(lane, lives);
    }
    forget_others(&all.keys().copied().collect(), log)?;
    Ok(all)
}

/// Lanes that no uplink has any more: what is left of them is shown and removed, and never sent.
fn forget_others(lanes: &BTreeSet<LaneId>, log: &mut Log) -> Result<(), StoreError> {
    let mut gone = Vec::new();
    log.state_scan(GATEWAY, KEY, &mut |found, _| {
        if !lanes.iter().any(|lane| key(*lane) == found) {
            gone.push(found.to_vec());
        }
        ControlFlow::Continue(())
    })?;
    gone.iter().try_for_each(|key| log.state_delete(GATEWAY, key))
}

/// The lives of a lane that holds the places from `head` up to `end`, once another one has begun.
fn next(mut lives: Lives, (head, end): (Seq, Seq), number: u32) -> Lives {
    // Nothing is left of what an earlier life has put there.
    lives.retain(|(from, _)| *from < end);
    let over = lives.partition_point(|(from, _)| *from <= head).saturating_sub(1);
    lives.drain(..over);
    lives.push((end, number));
    if lives.len() > LIVES_MAX {
        // Whoever crashes so often has the oldest messages with other ids than before: a repeat may be taken for a new
        // message, never a new one for a repeat.
        lives.drain(..lives.len() - LIVES_MAX);
        lives[0] = (Seq::FIRST, number);
    }
    lives
}

fn key(lane: LaneId) -> Vec<u8> {
    [KEY, &lane.0.to_be_bytes()].concat()
}

/// What is no place and number is left out.
fn parse(bytes: &[u8]) -> Lives {
    let (entries, _) = bytes.as_chunks::<12>();
    let entry = |bytes: &[u8; 12]| {
        let (from, number) = (bytes.first_chunk()?, bytes.last_chunk()?);
        Some((Seq::new(u64::from_le_bytes(*from))?, u32::from_le_bytes(*number)))
    };
    entries.iter().filter_map(entry).collect()
}

fn write(lives: &[(Seq, u32)]) -> Vec<u8> {
    lives
        .iter()
        .flat_map(|(from, number)| [&from.get().to_le_bytes()[..], &number.to_le_bytes()].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use model::Timestamp;
    use store::Options;

    use super::*;

    fn seq(number: u64) -> Seq {
        Seq::new(number).expect("not 0")
    }

    fn lives(of: &[(u64, u32)]) -> Lives {
        of.iter().map(|(from, number)| (seq(*from), *number)).collect()
    }

    #[track_caller]
    fn check(kept: &[(u64, u32)], head: u64, end: u64, expected: &[(u64, u32)]) {
        assert_eq!(next(lives(kept), (seq(head), seq(end)), 99), lives(expected));
        assert_eq!(parse(&write(&lives(kept))), lives(kept));
    }

    #[test]
    fn what_waits_keeps_its_life_and_what_comes_has_another() {
        check(&[], 1, 1, &[(1, 99)]);
        check(&[], 3, 9, &[(9, 99)]);
        check(&[(1, 7)], 1, 1, &[(1, 99)]);
        check(&[(1, 7)], 1, 5, &[(1, 7), (5, 99)]);
        check(&[(1, 7), (5, 8)], 1, 5, &[(1, 7), (5, 99)]);
        check(&[(1, 7), (5, 8)], 1, 9, &[(1, 7), (5, 8), (9, 99)]);
        // Nothing of it waits any more.
        check(&[(1, 7), (5, 8)], 5, 9, &[(5, 8), (9, 99)]);
        check(&[(1, 7), (5, 8)], 9, 9, &[(5, 8), (9, 99)]);
        // The end was in a log that is lost.
        check(&[(1, 7), (5, 8), (20, 9)], 2, 4, &[(1, 7), (4, 99)]);
    }

    #[test]
    fn the_oldest_of_very_many_share_a_number_that_nobody_had() {
        let many: Vec<_> = (1..=64).map(|it| (it * 10, it as u32)).collect();
        let next = next(lives(&many), (seq(1), seq(1_000)), 99);
        assert_eq!(next.len(), LIVES_MAX);
        assert_eq!((&next[..2], next[63]), (&lives(&[(1, 99), (30, 3)])[..], (seq(1_000), 99)));
    }

    #[test]
    fn a_store_keeps_them_by_lane() {
        let dir = tempfile::tempdir().expect("a directory");
        let start = |number: u32, keep: usize| {
            let mut log = Log::open(&Options::new(dir.path())).expect("a store");
            let lanes = ["a", "b"].map(|name| log.lane(name).expect("a lane"));
            let all = begin(lanes.into_iter().take(keep), number, &mut log).expect("a life");
            log.commit().expect("a commit");
            log.append(lanes[0], &[b"x"], Timestamp(1), None).expect("a record");
            log.commit().expect("a commit");
            log.close().expect("closed");
            all.into_values().collect::<Vec<_>>()
        };
        assert_eq!(start(7, 2), [lives(&[(1, 7)]), lives(&[(1, 7)])]);
        assert_eq!(start(8, 1), [lives(&[(1, 7), (2, 8)])]);
        // What is known of the other one is forgotten with it.
        assert_eq!(start(9, 2), [lives(&[(1, 7), (2, 8), (3, 9)]), lives(&[(1, 9)])]);
    }
}
