//! Tells the quota of one sender from that of the whole link, by the answers that are about quotas.
//!
//! In: answers and whom they are for. Out: whether they are a sign that the upstream wants less of all. Many in a row without
//! anything taken in between are one, and so are as many within a second that strike more than one sender: a bucket of tokens
//! takes most of what comes, and refuses the rest of everybody.

use model::Instant;

/// So many refusals, in a row or within [`SPAN_MILLIS`].
const MANY: u32 = 8;
const SPAN_MILLIS: u64 = 1_000;

#[derive(Debug, Default)]
pub(super) struct Quotas {
    /// In a row.
    run: u32,
    /// Within the span that began then.
    refusals: u32,
    began: Instant,
    /// The first sender that was refused within it.
    first: u64,
    has_others: bool,
}

impl Quotas {
    /// Something was taken, or refused for another reason.
    pub(super) fn other(&mut self) {
        self.run = 0;
    }

    /// A message of this sender was refused for a quota. Whether that is a sign.
    pub(super) fn refused(&mut self, client: u64, now: Instant) -> bool {
        self.run = self.run.saturating_add(1);
        if self.refusals == 0 || now.millis_since(self.began) > SPAN_MILLIS {
            (self.refusals, self.began, self.first, self.has_others) = (0, now, client, false);
        }
        self.refusals = self.refusals.saturating_add(1);
        self.has_others |= client != self.first;
        self.run >= MANY || self.refusals >= MANY && self.has_others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::default().plus_millis(millis)
    }

    #[test]
    fn refusals_of_several_senders_within_a_second_are_a_sign_whatever_is_taken_in_between() {
        let mut quotas = Quotas::default();
        for number in 0..7 {
            assert!(!quotas.refused(number % 3, at(number * 100)));
            quotas.other();
        }
        assert!(quotas.refused(1, at(900)));
        quotas.other();
        assert!(!quotas.refused(1, at(1_001)), "a new second");
    }

    #[test]
    fn one_sender_among_others_that_are_taken_is_that_senders_matter() {
        let mut quotas = Quotas::default();
        for number in 0..100 {
            assert!(!quotas.refused(7, at(number)));
            quotas.other();
        }
    }

    #[test]
    fn many_in_a_row_are_a_sign_whosever_they_are() {
        let mut quotas = Quotas::default();
        let signs = (0..8).map(|number| quotas.refused(7, at(number * 10_000))).collect::<Vec<_>>();
        assert_eq!(signs, [false, false, false, false, false, false, false, true]);
    }
}
