//! What matching writes to: one per shard, reused for every message.
//!
//! Knows: the working space of every step. May use: `slots`, `program`, `scan`, `table` (a route's face).
//! In and out: nothing that outlives a call but counters and capacity.
//! Invariant: after warm-up no call allocates; a scratch serves any table, also one that replaced another.

use model::{Match, RouteId, SinkId};

use crate::binary::Open;
use crate::index::Candidate;
use crate::memo::Memo;
use crate::program::Stack;
use crate::scan::Level;
use crate::slots::Filled;
use crate::table::Hot;

/// Working space for [`crate::RouteTable::matches`]. One per shard.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) filled: Filled,
    pub(crate) stack: Stack,
    pub(crate) levels: Vec<Level>,
    pub(crate) opened: Vec<Open>,
    pub(crate) memo: Memo,
    /// Routes of one source that may match.
    pub(crate) candidates: Vec<Candidate>,
    /// Routes as bits.
    pub(crate) bits: Vec<u64>,
    /// A folded name or path.
    pub(crate) name: String,
    /// A body that did not come as UTF-8.
    pub(crate) decoded: String,
    pub(crate) found: Found,
    pub(crate) counters: Counters,
}

impl Scratch {
    /// Empty; grows to what the tables need within the first messages.
    pub fn new() -> Scratch {
        Scratch::default()
    }
}

/// What was counted by one scratch, since it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that were matched.
    pub messages: u64,
    /// Bodies that a condition wanted and that were scanned.
    pub bodies_scanned: u64,
    /// Bodies that were not well-formed.
    pub bodies_malformed: u64,
    /// Bodies longer than `Limits::body_scan_bytes_max`.
    pub bodies_too_long: u64,
    /// Bodies deeper than `Limits::body_depth_max`.
    pub bodies_too_deep: u64,
    /// `ANY` and `ALL` that found no end within `Limits::body_elements_bytes_max` and were undefined.
    pub arrays_given_up: u64,
    /// Bodies of a content type that cannot be read.
    pub bodies_other_type: u64,
    /// Messages without matches because two of their properties had one name (edgeHub mode).
    pub messages_dropped: u64,
    /// Matches that `SAMPLE`, `THROTTLE` or `CHANGED` held back.
    pub held_back: u64,
}

/// The best match of each sink.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Per sink the priority and the number of its best route, the smaller the better; `NOTHING` if none.
    best: Vec<u64>,
    touched: Vec<u32>,
    /// One bit per sink, all zero between messages.
    bits: Vec<u64>,
}

const NOTHING: u64 = u64::MAX;

/// From this many sinks on, a pass over the bits is faster than sorting.
const SORTED_MAX: usize = 24;

impl Found {
    pub(crate) fn begin(&mut self, sinks: usize) {
        if self.best.len() < sinks {
            self.best.resize(sinks, NOTHING);
            self.bits.resize(sinks.div_ceil(64), 0);
        }
    }

    #[inline]
    pub(crate) fn add(&mut self, id: RouteId, route: &Hot, sinks: &[SinkId]) {
        let rank = u64::from(route.priority.get()) << 32 | u64::from(id.0);
        for sink in &sinks[route.sinks.start as usize..route.sinks.end as usize] {
            let best = &mut self.best[sink.0 as usize];
            if *best == NOTHING {
                self.touched.push(sink.0);
            }
            *best = rank.min(*best);
        }
    }

    /// Moves what was found behind `matches`, ascending, and is empty again.
    pub(crate) fn take(&mut self, routes: &[Hot], matches: &mut Vec<Match>) {
        if self.touched.len() <= SORTED_MAX {
            self.touched.sort_unstable();
        } else {
            self.sort_by_bits();
        }
        for &sink in &self.touched {
            let rank = std::mem::replace(&mut self.best[sink as usize], NOTHING);
            let id = RouteId(rank as u32);
            let route = &routes[id.0 as usize];
            let (priority, ttl_millis) = (route.priority, route.ttl_millis);
            matches.push(Match { sink: SinkId(sink), route: id, priority, ttl_millis });
        }
        self.touched.clear();
    }

    fn sort_by_bits(&mut self) {
        for &sink in &self.touched {
            self.bits[sink as usize / 64] |= 1 << (sink % 64);
        }
        self.touched.clear();
        for (word, bits) in self.bits.iter_mut().enumerate() {
            let mut rest = std::mem::take(bits);
            while rest != 0 {
                self.touched.push(word as u32 * 64 + rest.trailing_zeros());
                rest &= rest - 1;
            }
        }
    }
}
