//! What this router can know of an upstream that wants less: the rule of `uplink/quotas.rs`, said a second time.
//!
//! In: answers in the order in which they came, with whom they are for, and ends of connections. Out: whether they are a sign
//! of throttling, and how many signs there were. Bound: what came within one span.

use std::collections::BTreeSet;

/// So many refusals for a quota in a row; or so many from the first one of a span on, and not of one sender alone.
const MANY: usize = 8;
const SPAN_MILLIS: u64 = 1_000;

/// What came since this router started.
#[derive(Default)]
pub(super) struct Quotas {
    /// Refusals in a row.
    in_a_row: usize,
    /// Those of the span at hand: when, and of whom.
    span: Vec<(u64, usize)>,
    /// Signs of throttling.
    pub(super) signs: u64,
}

impl Quotas {
    /// A message of this sender is answered. Whether that is a sign.
    pub(super) fn answered(&mut self, is_quota: bool, sender: usize, now: u64) -> bool {
        if !is_quota {
            self.in_a_row = 0;
            return false;
        }
        self.in_a_row += 1;
        if self.span.first().is_some_and(|(began, _)| now > began + SPAN_MILLIS) {
            self.span.clear();
        }
        self.span.push((now, sender));
        let senders: BTreeSet<_> = self.span.iter().map(|(_, sender)| sender).collect();
        let is_sign = self.in_a_row >= MANY || self.span.len() >= MANY && senders.len() > 1;
        self.signs += u64::from(is_sign);
        is_sign
    }
}
