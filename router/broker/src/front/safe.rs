//! Which records of one shard's `spill` routes are safe: delivered upstream, or durable, whichever was first.
//!
//! In: the numbers of records as they come, and as they become safe, in any order. Out: the highest number up to which all
//! are. Bound: one bit or so for each record that is not safe, and for those behind the oldest of them.

use std::collections::VecDeque;

use model::SpillTicket;

/// See the charter.
#[derive(Debug, Default)]
pub struct Safe {
    up_to: u64,
    /// Of the numbers behind `up_to`, whether they are safe.
    behind: VecDeque<bool>,
}

impl Safe {
    /// The next number has come. They come one after the other.
    pub fn came(&mut self, ticket: SpillTicket) {
        if ticket == SpillTicket::NOBODY {
            return;
        }
        self.behind.push_back(false);
        assert_eq!(ticket.0, self.up_to + self.behind.len() as u64, "numbers come one after the other");
    }

    /// What has this number is safe. Twice is once.
    pub fn is_safe(&mut self, ticket: SpillTicket) {
        let Some(index) = ticket.0.checked_sub(self.up_to + 1) else { return };
        if let Some(entry) = self.behind.get_mut(index as usize) {
            *entry = true;
        }
        while self.behind.front() == Some(&true) {
            self.behind.pop_front();
            self.up_to += 1;
        }
    }

    /// All up to this one are safe.
    pub fn up_to(&self) -> SpillTicket {
        SpillTicket(self.up_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_waits_for_the_oldest_that_is_not_safe() {
        let mut safe = Safe::default();
        (1..=5).for_each(|number| safe.came(SpillTicket(number)));
        safe.is_safe(SpillTicket(2));
        safe.is_safe(SpillTicket(3));
        assert_eq!(safe.up_to(), SpillTicket(0));
        safe.is_safe(SpillTicket(1));
        safe.is_safe(SpillTicket(1));
        assert_eq!(safe.up_to(), SpillTicket(3));
        safe.is_safe(SpillTicket(5));
        assert_eq!(safe.up_to(), SpillTicket(3));
        safe.is_safe(SpillTicket(4));
        assert_eq!((safe.up_to(), safe.behind.len()), (SpillTicket(5), 0));
        safe.came(SpillTicket(6));
        assert_eq!(safe.up_to(), SpillTicket(5));
    }
}
