//! Entries of the loss ledger that may still grow: the newest one of each lane, route, reason and sender.
//!
//! In: entries as they begin and as they leave the ledger. Out: the entry that a loss may belong to, and whether its sender
//! may have one of its own. Never: the entries themselves; the ledger judges whether one really takes a loss.
//! Invariant: not more here than there are entries: each points at one, the newest of its kind, and leaves with it.
//! Bound: of one kind [`NAMED_MAX`] entries with a sender begin in [`MERGE_MILLIS`], however many senders lose in turn.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use super::losses::{Entry, Reason};

/// Losses of the same kind within this time of the first one are one entry.
pub(super) const MERGE_MILLIS: u64 = 60_000;
/// Senders of one lane, route and reason that have entries of their own within that time; what others lose is nobody's.
pub(super) const NAMED_MAX: u32 = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Growing {
    newest: HashMap<u64, u64>,
    kinds: HashMap<u64, Kind>,
    hasher: RandomState,
}

/// Entries of one lane, route and reason.
#[derive(Clone, Copy, Debug)]
struct Kind {
    since_ms: u64,
    /// So many with a sender have begun since then.
    named: u32,
    newest: u64,
}

impl Growing {
    /// The number of the newest entry that a loss like this may belong to.
    pub(super) fn newest(&self, like: &Entry) -> Option<u64> {
        self.newest.get(&self.key(like)).copied()
    }

    /// Whether one more sender of this kind may have an entry of its own; those below `published` count no more.
    pub(super) fn has_a_name_left(&self, like: &Entry, published: u64) -> bool {
        let kind = self.kinds.get(&self.kind(like)).filter(|it| it.goes_on(like, published));
        kind.is_none_or(|it| it.named < NAMED_MAX)
    }

    /// This entry begins, with this number.
    pub(super) fn begins(&mut self, entry: &Entry, number: u64, published: u64) {
        self.newest.insert(self.key(entry), number);
        let new = Kind { since_ms: entry.first_ms, named: 0, newest: number };
        let kind = self.kinds.entry(self.kind(entry)).or_insert(new);
        if !kind.goes_on(entry, published) {
            *kind = new;
        }
        // What an operator drops keeps its sender, however many times.
        kind.named += u32::from(entry.sender.is_some() && entry.reason != Reason::PoisonDropped);
        kind.newest = number;
    }

    /// This entry is not in the ledger any more.
    pub(super) fn left(&mut self, entry: &Entry, number: u64) {
        let (key, kind) = (self.key(entry), self.kind(entry));
        if self.newest.get(&key) == Some(&number) {
            self.newest.remove(&key);
        }
        if self.kinds.get(&kind).is_some_and(|it| it.newest == number) {
            self.kinds.remove(&kind);
        }
    }

    fn key(&self, entry: &Entry) -> u64 {
        self.hasher.hash_one((self.kind(entry), &entry.sender, entry.places.is_some()))
    }

    fn kind(&self, entry: &Entry) -> u64 {
        self.hasher.hash_one((&entry.lane, &entry.route, entry.reason))
    }

    /// Bytes of its tables: a byte of each place beside the pair, and some behind the last one.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        let table = |capacity: usize, pair: usize| (capacity * 8 / 7).next_power_of_two() * (pair + 1) + 16;
        table(self.newest.capacity(), size_of::<(u64, u64)>())
            + table(self.kinds.capacity(), size_of::<(u64, Kind)>())
    }

    /// What must always hold; for tests.
    #[cfg(test)]
    pub(super) fn invariants(&self, entries: usize) {
        assert!(self.newest.len() <= entries && self.kinds.len() <= entries);
    }
}

impl Kind {
    fn goes_on(&self, next: &Entry, published: u64) -> bool {
        self.newest >= published && next.first_ms.abs_diff(self.since_ms) < MERGE_MILLIS
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::Timestamp;
    use store::CommitLog as _;

    use super::super::losses::{Ledger, Sum};
    use super::super::whose::Parts;
    use super::*;

    const LANE: &str = "u/plant/5";

    /// Looks of 200 ms, each with a row of places of these senders in turn. Messages by sender as they were, and the number
    /// of entries after each look.
    struct Looks {
        place: u64,
        lost: BTreeMap<String, u64>,
        entries: Vec<usize>,
    }

    /// Enters what these parts say is lost.
    fn enter(
        ledger: &Ledger,
        log: &mut store::MemoryLog,
        (lane, route): (&str, Option<&str>),
        parts: Parts,
        at_ms: u64,
    ) {
        for part in parts.finish() {
            let entry = Entry::part(lane, route, Reason::Expired, &part, Timestamp(at_ms));
            ledger.add(log, entry).expect("the disk takes it");
        }
    }

    /// These places are lost, of ten bytes each.
    fn lose(
        ledger: &Ledger,
        log: &mut store::MemoryLog,
        (lane, sender): (&str, Option<&str>),
        (first, last): (u64, u64),
        at_ms: u64,
    ) {
        let messages = last - first + 1;
        let mut parts = Parts::default();
        parts.add(sender, (first, last), messages, 10 * messages);
        enter(ledger, log, (lane, None), parts, at_ms);
    }

    fn look(ledger: &Ledger, log: &mut store::MemoryLog, looks: &mut Looks, senders: u64, at: u64) {
        let mut parts = Parts::default();
        for _ in 0..25 {
            looks.place += 1;
            let sender = format!("dev{:03}", looks.place % senders);
            parts.add(Some(&sender), (looks.place, looks.place), 1, 10);
            *looks.lost.entry(sender).or_default() += 1;
        }
        enter(ledger, log, (LANE, Some("hot")), parts, 200 * at);
        log.commit().expect("the disk takes it");
        ledger.written();
        let contents = ledger.contents();
        contents.invariants();
        looks.entries.push(contents.entries.len());
    }

    /// So many entries after `minutes` in which these senders lose messages in turn; sums are exact, and nobody is said to
    /// have lost what was not his.
    fn entries_of(senders: u64, minutes: u64) -> usize {
        let mut log = store::MemoryLog::new(1 << 24);
        let ledger = Ledger::with_entries_max(10_000);
        let mut looks = Looks { place: 0, lost: BTreeMap::new(), entries: Vec::new() };
        (0..300 * minutes).for_each(|at| look(&ledger, &mut log, &mut looks, senders, at));
        let sums = ledger.sums();
        let sum = Sum { messages: looks.place, bytes: 10 * looks.place };
        assert_eq!(sums, BTreeMap::from([(("plant".to_owned(), "expired".to_owned()), sum)]));
        let contents = ledger.contents();
        let mut in_entries = BTreeMap::<Option<&str>, u64>::new();
        for (_, entry) in &contents.entries {
            *in_entries.entry(entry.sender.as_deref()).or_default() += entry.messages;
            let (first, last) = entry.places.expect("they had places");
            assert!(1 <= first && last <= looks.place && entry.messages <= last - first + 1, "{entry:?}");
            assert!(entry.last_ms - entry.first_ms < MERGE_MILLIS);
        }
        assert_eq!(in_entries.values().sum::<u64>(), looks.place);
        for (sender, lost) in &looks.lost {
            assert!(in_entries.get(&Some(sender.as_str())).is_none_or(|entered| entered <= lost), "{sender}");
        }
        contents.entries.len()
    }

    #[test]
    fn forty_senders_that_lose_in_turn_are_an_entry_each_and_one_for_nobody_in_a_minute() {
        assert_eq!(entries_of(40, 1), 41);
        assert!(entries_of(40, 3) <= 3 * 41);
    }

    #[test]
    fn more_senders_than_have_entries_of_their_own_make_no_more_entries() {
        let most = NAMED_MAX as usize + 1;
        assert_eq!(entries_of(1_000, 1), most);
        assert!(entries_of(1_000, 3) <= 3 * most);
    }

    /// Each of many lanes goes on with its own entry, however many others lose something in between.
    #[test]
    fn many_lanes_that_lose_in_turn_have_one_entry_each() {
        let mut log = store::MemoryLog::new(1 << 24);
        let ledger = Ledger::with_entries_max(10_000);
        for at in 0..100 {
            for lane in 0..200 {
                let name = format!("s/dev{lane}");
                lose(&ledger, &mut log, (&name, None), (2 * at + 1, 2 * at + 1), at);
            }
        }
        let contents = ledger.contents();
        assert_eq!(contents.entries.len(), 200);
        assert!(contents.entries.iter().all(|(_, it)| it.messages == 100 && it.places == Some((1, 199))));
    }

    /// Old and new messages of a lane may expire beside each other.
    #[test]
    fn losses_that_come_out_of_order_are_one_entry() {
        let mut log = store::MemoryLog::new(1 << 20);
        let ledger = Ledger::with_entries_max(100);
        for places in [(500, 509), (1, 10), (510, 519), (11, 20)] {
            lose(&ledger, &mut log, (LANE, None), places, 5);
        }
        let contents = ledger.contents();
        let entries: Vec<_> = contents.entries.iter().collect();
        let [(_, entry)] = entries[..] else { panic!("{entries:?}") };
        assert_eq!((entry.places, entry.messages, entry.bytes), (Some((1, 519)), 40, 400));
    }

    /// What is published begins anew: other senders may have entries of their own then.
    #[test]
    fn a_published_entry_counts_no_more() {
        let mut log = store::MemoryLog::new(1 << 20);
        let ledger = Ledger::with_entries_max(1_000);
        let add = |log: &mut store::MemoryLog, sender: u64| {
            let name = format!("dev{sender}");
            lose(&ledger, log, (LANE, Some(&name)), (sender + 1, sender + 1), 5);
        };
        (0..100).for_each(|sender| add(&mut log, sender));
        assert_eq!(ledger.contents().entries.len(), NAMED_MAX as usize + 1);
        let next = ledger.publish(0, |_, _| true);
        (0..100).for_each(|sender| add(&mut log, sender));
        let contents = ledger.contents();
        assert_eq!(contents.entries.len(), 2 * (NAMED_MAX as usize + 1));
        assert!(contents.entries.iter().all(|(number, it)| *number < next || it.messages <= 36));
    }

    #[test]
    fn what_is_forgotten_grows_no_more() {
        let mut log = store::MemoryLog::new(1 << 20);
        let ledger = Ledger::with_entries_max(16);
        for at in 0..400 {
            for sender in 0..20 {
                let name = format!("dev{sender}");
                lose(&ledger, &mut log, (LANE, Some(&name)), (at + 1, at + 1), 200 * at);
            }
            ledger.contents().invariants();
        }
        assert_eq!(ledger.sums().values().map(|sum| sum.messages).sum::<u64>(), 8_000);
        assert_eq!(ledger.contents().entries.len(), 16);
    }
}
