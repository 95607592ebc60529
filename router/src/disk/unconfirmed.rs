//! What the disk was given and has not confirmed: kept until then, so that a disk that fails for a while loses nothing.
//!
//! In: trays, and how far they were put into groups and made durable. Out: what to put into the next group.
//! Bound: shards stop reading once `limits.commit_bytes_max` of theirs is not durable, so little more than that each.
//! Invariant: trays stand in the order in which they came; everything before `staged` is in the group being collected.

use std::collections::VecDeque;

use broker::{AppendTray, Write};
use model::{ShardId, SpillTicket};

/// A tray, and how much of it earlier groups made durable.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) shard: ShardId,
    pub(super) tray: AppendTray,
    /// Numbers of the records of `spill` routes in it.
    pub(super) spills: Vec<SpillTicket>,
    place: Place,
}

/// A place in a tray: so many writes and bytes lie before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    writes: usize,
    bytes: usize,
}

/// All trays that are not durable as a whole.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    trays: VecDeque<Kept>,
    /// Trays whose writes are all in the group being collected …
    staged: usize,
    /// … and the place in the next one up to which its writes are.
    staged_to: Place,
}

impl Unconfirmed {
    /// Puts a tray behind the others.
    pub(super) fn push(&mut self, shard: ShardId, tray: AppendTray, spills: Vec<SpillTicket>) {
        self.trays.push_back(Kept { shard, tray, spills, place: Place::default() });
    }

    /// All trays that are not durable as a whole, in their order.
    pub(super) fn trays(&self) -> impl Iterator<Item = &AppendTray> {
        self.trays.iter().map(|kept| &kept.tray)
    }

    /// Records that are not durable: all of them, and those that were acknowledged when they came.
    pub(super) fn records(&self) -> (u64, u64) {
        let writes = self.trays.iter().flat_map(|kept| &kept.tray.writes[kept.place.writes..]);
        writes.fold((0, 0), |(all, acknowledged), write| match write {
            Write::Record { spill: SpillTicket::NOBODY, .. } => (all + 1, acknowledged + 1),
            Write::Record { .. } => (all + 1, acknowledged),
            _ => (all, acknowledged),
        })
    }

    /// Whether everything is durable.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.trays.is_empty()
    }

    /// The next write that is in no group yet, with its bytes.
    pub(super) fn next(&mut self) -> Option<(Write, &[u8])> {
        self.pass_over_staged();
        let kept = self.trays.get(self.staged)?;
        let write = kept.tray.writes[self.staged_to.writes];
        let end = self.staged_to.bytes + bytes_of(&write);
        Some((write, &kept.tray.bytes[self.staged_to.bytes..end]))
    }

    /// If the next write is the first of its tray, the bytes that the whole tray may take in the log; else 0.
    pub(super) fn tray_ahead(&mut self) -> u64 {
        self.pass_over_staged();
        let begins = self.staged_to == Place::default();
        self.trays.get(self.staged).filter(|_| begins).map_or(0, |kept| {
            (kept.tray.bytes.len() + kept.tray.writes.len() * store::RECORD_OVERHEAD_BYTES) as u64
        })
    }

    fn pass_over_staged(&mut self) {
        while let Some(kept) = self.trays.get(self.staged) {
            if self.staged_to.writes < kept.tray.writes.len() {
                return;
            }
            self.staged += 1;
            self.staged_to = self.trays.get(self.staged).map_or(Place::default(), |next| next.place);
        }
    }

    /// The write that [`Unconfirmed::next`] gave is in the group.
    pub(super) fn staged(&mut self, write: &Write) {
        self.staged_to.writes += 1;
        self.staged_to.bytes += bytes_of(write);
    }

    /// The group is durable: takes out the next tray that is so as a whole.
    pub(super) fn confirmed(&mut self) -> Option<Kept> {
        let whole = self.trays.front().is_some_and(|front| {
            self.staged > 0 || self.staged_to.writes == front.tray.writes.len() && self.staged == 0
        });
        if !whole {
            if let Some(front) = self.trays.front_mut() {
                front.place = self.staged_to;
            }
            return None;
        }
        let kept = self.trays.pop_front();
        if self.staged > 0 {
            self.staged -= 1;
        } else {
            self.staged_to = Place::default();
        }
        kept
    }

    /// The group came to nothing: everything that is not durable is to be put into groups again.
    pub(super) fn start_over(&mut self) {
        self.staged = 0;
        self.staged_to = self.trays.front().map_or(Place::default(), |front| front.place);
    }
}

pub(super) fn bytes_of(write: &Write) -> usize {
    match *write {
        Write::Record { len, .. } => len as usize,
        Write::Put { key_len, len, .. } => key_len as usize + len as usize,
        Write::Delete { key_len, .. } => key_len as usize,
        Write::Advance { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use broker::StateSpace;
    use model::Ticket;

    use super::*;

    fn tray(last: u64, keys: &[&str]) -> AppendTray {
        let writes = keys
            .iter()
            .map(|key| Write::Delete { space: StateSpace::Sessions, key_len: key.len() as u32 })
            .collect();
        AppendTray { bytes: keys.concat().into_bytes(), writes, last: Ticket(last), spills: 0 }
    }

    /// Puts up to `count` writes into the group; their bytes.
    fn stage(unconfirmed: &mut Unconfirmed, count: usize) -> Vec<String> {
        let mut staged = Vec::new();
        while staged.len() < count
            && let Some((write, bytes)) = unconfirmed.next()
        {
            staged.push(String::from_utf8(bytes.to_vec()).unwrap());
            unconfirmed.staged(&write);
        }
        staged
    }

    fn confirm(unconfirmed: &mut Unconfirmed) -> Vec<u64> {
        std::iter::from_fn(|| unconfirmed.confirmed()).map(|kept| kept.tray.last.0).collect()
    }

    fn with_two_trays() -> Unconfirmed {
        let mut unconfirmed = Unconfirmed::default();
        unconfirmed.push(ShardId(0), tray(2, &["a", "bb"]), Vec::new());
        unconfirmed.push(ShardId(1), tray(7, &["ccc", "d"]), Vec::new());
        unconfirmed
    }

    #[test]
    fn a_tray_is_confirmed_once_all_of_it_is_durable() {
        let mut unconfirmed = with_two_trays();
        assert_eq!(stage(&mut unconfirmed, 3), ["a", "bb", "ccc"]);
        assert_eq!(confirm(&mut unconfirmed), [2]);
        assert_eq!(stage(&mut unconfirmed, 9), ["d"]);
        assert_eq!(confirm(&mut unconfirmed), [7]);
        assert!(unconfirmed.is_empty());
    }

    #[test]
    fn after_a_failed_group_only_what_is_not_durable_comes_again() {
        let mut unconfirmed = with_two_trays();
        stage(&mut unconfirmed, 1);
        assert_eq!(confirm(&mut unconfirmed), [] as [u64; 0]);
        assert_eq!(stage(&mut unconfirmed, 2), ["bb", "ccc"]);
        unconfirmed.start_over();
        assert_eq!(stage(&mut unconfirmed, 9), ["bb", "ccc", "d"]);
        unconfirmed.start_over();
        unconfirmed.push(ShardId(0), tray(3, &["e"]), Vec::new());
        assert_eq!(stage(&mut unconfirmed, 9), ["bb", "ccc", "d", "e"]);
        assert_eq!(confirm(&mut unconfirmed), [2, 7, 3]);
        assert!(unconfirmed.is_empty());
    }

    #[test]
    fn only_the_first_write_of_a_tray_has_all_of_it_ahead() {
        let mut unconfirmed = with_two_trays();
        let overhead = 2 * store::RECORD_OVERHEAD_BYTES as u64;
        assert_eq!(unconfirmed.tray_ahead(), 3 + overhead);
        stage(&mut unconfirmed, 1);
        assert_eq!(unconfirmed.tray_ahead(), 0);
        stage(&mut unconfirmed, 1);
        assert_eq!(unconfirmed.tray_ahead(), 4 + overhead);
        stage(&mut unconfirmed, 9);
        assert_eq!(unconfirmed.tray_ahead(), 0);
    }

    #[test]
    fn an_empty_tray_is_confirmed_with_those_around_it() {
        let mut unconfirmed = Unconfirmed::default();
        unconfirmed.push(ShardId(0), tray(1, &[]), Vec::new());
        assert_eq!(stage(&mut unconfirmed, 9), [] as [&str; 0]);
        assert_eq!(confirm(&mut unconfirmed), [1]);
        assert!(unconfirmed.is_empty());
    }
}
