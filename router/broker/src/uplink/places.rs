//! A set of places of one lane, compressed: what waits is many, and mostly in rows.
//!
//! Knows: places. Never: why they are in it. Cost: two bytes a place at most, an eighth of one where they stand close
//! together, and some tens of bytes for each 65 536 places of the lane that it reaches over.

use model::Seq;
use roaring::RoaringTreemap;

/// Places, ascending.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Places {
    set: RoaringTreemap,
    /// Counted here, because the set would have to look at all its parts.
    len: u64,
}

impl Places {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn first(&self) -> Option<Seq> {
        self.set.min().and_then(Seq::new)
    }

    /// The first one from `from` on.
    pub(super) fn first_from(&self, from: Seq) -> Option<Seq> {
        if self.len == 0 { None } else { self.from(from).next() }
    }

    /// Those from `from` on.
    pub(super) fn from(&self, from: Seq) -> impl Iterator<Item = Seq> {
        let mut places = self.set.iter();
        places.advance_to(from.get());
        places.filter_map(Seq::new)
    }

    /// How many there are from `from` to `to` (not included).
    pub(super) fn count(&self, from: Seq, to: Seq) -> u64 {
        if self.len == 0 { 0 } else { self.set.range_cardinality(from.get()..to.get().max(from.get())) }
    }

    pub(super) fn contains(&self, seq: Seq) -> bool {
        self.len > 0 && self.set.contains(seq.get())
    }

    /// Says whether it is new.
    pub(super) fn insert(&mut self, seq: Seq) -> bool {
        let is_new = self.set.insert(seq.get());
        self.len += u64::from(is_new);
        is_new
    }

    /// Says whether it was there.
    pub(super) fn remove(&mut self, seq: Seq) -> bool {
        if self.len == 0 {
            return false;
        }
        let was_there = self.set.remove(seq.get());
        self.len -= u64::from(was_there);
        was_there
    }

    pub(super) fn pop_first(&mut self) -> Option<Seq> {
        let first = self.first()?;
        self.remove(first);
        Some(first)
    }

    /// Every place from `from` to `to` (not included).
    pub(super) fn insert_range(&mut self, from: Seq, to: Seq) {
        self.len += self.set.insert_range(from.get()..to.get().max(from.get()));
    }

    /// Takes every place from `from` to `to` (not included) out of it.
    pub(super) fn remove_range(&mut self, from: Seq, to: Seq) {
        if self.len > 0 {
            self.len -= self.set.remove_range(from.get()..to.get().max(from.get()));
        }
    }

    /// The same; gives what was there.
    pub(super) fn take_range(&mut self, from: Seq, to: Seq) -> Places {
        let mut range = Places::default();
        if self.len > 0 {
            range.insert_range(from, to);
        }
        self.take(&range)
    }

    /// Takes out what is in `others`, too.
    pub(super) fn take(&mut self, others: &Places) -> Places {
        if self.len == 0 || others.len == 0 {
            return Places::default();
        }
        let set = &self.set & &others.set;
        self.set -= &set;
        let taken = Places { len: set.len(), set };
        self.len -= taken.len;
        taken
    }

    /// Adds all of `others`, of which none is here.
    pub(super) fn add(&mut self, others: Places) {
        if self.len == 0 {
            *self = others;
        } else if others.len > 0 {
            self.set |= others.set;
            self.len += others.len;
        }
    }

    /// What must always hold; for tests.
    #[cfg(test)]
    pub(super) fn invariants(&self) {
        assert_eq!(self.set.len(), self.len);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.set.serialized_size()
    }
}
