//! What matching writes to: one per shard, reused for every message.
//!
//! Knows: the working space of every step. May use: `slots`, `program`, `scan`, `table` (a route's face).
//! In and out: nothing that outlives a call but counters and capacity.
//! Invariant: after warm-up no call allocates; a scratch serves any table, also one that replaced another.

use model::{Match, RouteId};

use crate::index::Candidate;
use crate::program::Stack;
use crate::scan::Level;
use crate::slots::Filled;
use crate::table::CompiledRoute;

/// Working space for [`crate::RouteTable::matches`]. One per shard.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) filled: Filled,
    pub(crate) stack: Stack,
    pub(crate) levels: Vec<Level>,
    /// Groups of routes that the message concerns.
    pub(crate) groups: Vec<u32>,
    /// Routes of one source that may match.
    pub(crate) candidates: Vec<Candidate>,
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
    /// Bodies of a content type that cannot be read.
    pub bodies_other_type: u64,
}

/// The best match of each sink.
#[derive(Debug, Default)]
pub(crate) struct Found {
    best: Vec<Option<Match>>,
    touched: Vec<u32>,
}

impl Found {
    pub(crate) fn begin(&mut self, sinks: usize) {
        if self.best.len() < sinks {
            self.best.resize(sinks, None);
        }
    }

    pub(crate) fn add(&mut self, id: RouteId, route: &CompiledRoute) {
        for &sink in &route.sinks {
            let best = &mut self.best[sink.0 as usize];
            let better = match best {
                None => {
                    self.touched.push(sink.0);
                    true
                }
                Some(best) => (route.priority, id) < (best.priority, best.route),
            };
            if better {
                *best =
                    Some(Match { sink, route: id, priority: route.priority, ttl_millis: route.ttl_millis });
            }
        }
    }

    /// Moves what was found behind `matches`, ascending, and is empty again.
    pub(crate) fn take(&mut self, matches: &mut Vec<Match>) {
        self.touched.sort_unstable();
        matches.extend(self.touched.iter().filter_map(|sink| self.best[*sink as usize].take()));
        self.touched.clear();
    }
}
