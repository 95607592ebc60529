//! What the disk of the simulation takes out behind the head of a lane, because the carrier said that it is delivered.
//!
//! In: ranges from the carrier. Out: husks, with the next group. It plays the part of `router/store/src/{ahead,middle}.rs`, with
//! blocks of a few records. Always: nothing is named that is not with the upstream, expired, or safe in the poison lane; nothing
//! that is on its way is taken out; a crash forgets what no group has.

use std::collections::{BTreeMap, BTreeSet};

use super::{LANES, World};
use crate::random::Random;
use crate::uplink::Ahead;

/// Most records of a block.
const BLOCK: u64 = 3;

/// Of one lane.
#[derive(Clone, Default)]
pub(super) struct Taken {
    /// Last places of blocks by first, on the disk.
    blocks: BTreeMap<u64, u64>,
    /// Places whose records are gone, on the disk.
    husks: BTreeSet<u64>,
    /// First places of blocks that are taken out with the group that is being collected.
    coming: BTreeSet<u64>,
    /// Delivered behind the head, in memory.
    ahead: BTreeSet<u64>,
}

impl Taken {
    pub(super) fn is_husk(&self, place: u64) -> bool {
        self.husks.contains(&place)
    }

    pub(super) fn is_coming(&self) -> bool {
        !self.coming.is_empty()
    }

    /// Records are durable.
    pub(super) fn written(&mut self, from: u64, end: u64) {
        let mut first = from;
        while first < end {
            let last = (first + BLOCK).min(end) - 1;
            self.blocks.insert(first, last);
            first = last + 1;
        }
    }

    /// The group is not written.
    pub(super) fn failed(&mut self) {
        self.coming.clear();
    }

    /// The lane ends here, for a start that knows only what the disk has.
    pub(super) fn start(&mut self) {
        self.coming.clear();
        self.ahead.clear();
    }
}

/// Drawn beside everything else, so that a seed stays what it was where nothing is taken out.
pub(super) struct Taking {
    random: Random,
    is_on: bool,
    /// Records that were taken out.
    pub(super) records: u64,
}

impl Taking {
    pub(super) fn new(seed: u64) -> Taking {
        let mut random = Random(seed.rotate_left(32) ^ 0xA4EA_D0F0);
        Taking { is_on: random.one_in(2), random, records: 0 }
    }
}

impl World {
    /// The edge asks at its ticks.
    pub(super) fn look_ahead(&mut self) {
        let taking = &mut self.disk.taking;
        if !taking.is_on || !taking.random.one_in(2) {
            return;
        }
        let mut told = Vec::new();
        self.carrier.delivered_ahead(&mut told);
        for Ahead { lane, from, up_to } in told {
            let index = LANES.iter().position(|it| *it == lane).expect("one of them");
            for place in from.get()..=up_to.get() {
                assert!(self.is_settled(index, place), "{place} of lane {index} is not delivered");
                let lane = &mut self.lanes[index];
                if place < lane.log_end {
                    lane.taken.ahead.insert(place);
                }
            }
        }
    }

    /// With the upstream, expired, or safe in the poison lane.
    pub(super) fn is_settled(&self, index: usize, place: u64) -> bool {
        let number = self.lanes[index].places[place as usize - 1];
        let is_safe = self.accepted.contains(&number) || self.disk.poison.contains(&number);
        is_safe || self.has_expired(number)
    }

    /// The disk thread looks for blocks that are delivered as a whole.
    pub(super) fn take_out(&mut self) {
        for lane in &mut self.lanes {
            let head = lane.delivered + 1;
            let Taken { blocks, husks, coming, ahead } = &mut lane.taken;
            let is_whole = |first: u64, last: u64| (first..=last).all(|place| ahead.contains(&place));
            let over = blocks.iter().filter(|(first, last)| **first > head && is_whole(**first, **last));
            coming.extend(over.map(|(first, _)| *first).filter(|first| !husks.contains(first)));
        }
    }

    /// The group is durable.
    pub(super) fn is_taken_out(&mut self) {
        for index in 0..LANES.len() {
            for first in std::mem::take(&mut self.lanes[index].taken.coming) {
                let last = self.lanes[index].taken.blocks[&first];
                for place in first..=last {
                    assert!(self.is_settled(index, place), "{place} of lane {index} is needed");
                    self.lanes[index].taken.husks.insert(place);
                    self.disk.taking.records += 1;
                }
            }
        }
    }
}
