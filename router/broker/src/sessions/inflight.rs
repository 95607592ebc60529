//! QoS 1 messages on their way to one client: packet identifiers in, places in the lane out.
//!
//! Identifiers are handed out in a ring, so an acknowledgement is found by subtraction, in any order.
//! A stored session's identifier follows from the record's place, `(seq − 1) mod 65 535 + 1`: a message that is sent
//! again after a crash has the identifier it had before [MQTT-4.4.0-1], and nothing has to be written for it.
//! Invariant: the identifiers of `entries` are consecutive in the ring; the first entry is not acknowledged.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use model::Seq;

/// Identifiers are 1 to 65 535 (MQTT 5.0 §2.2.1).
const RING: u32 = 65_535;

#[derive(Clone, Copy, Debug)]
struct Entry {
    seq: Option<Seq>,
    acknowledged: bool,
}

/// What an acknowledgement settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acked {
    /// It was in flight. `head`: the first place in the lane that is still open, if that moved.
    Known {
        /// Everything before this place is acknowledged.
        head: Option<Seq>,
    },
    /// No message with this identifier is in flight.
    Unknown,
}

/// The delivery window of one session.
#[derive(Debug, Default)]
pub(crate) struct Inflight {
    entries: VecDeque<Entry>,
    /// Identifier of the first entry, or of the next one if there is none; zero-based in the ring.
    first: u32,
    /// Entries that are not acknowledged.
    open: usize,
}

impl Inflight {
    /// Messages that are sent and not acknowledged.
    #[inline]
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Places in use, acknowledged ones behind an open one included.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is in flight.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the ring has an identifier left for this place: two open messages never share one.
    #[inline]
    pub(crate) fn has_place(&self, seq: Option<Seq>) -> bool {
        self.index(seq) < u64::from(RING)
    }

    /// Adds a message and gives it its identifier. The caller asks [`Inflight::has_place`] first.
    ///
    /// Places between the last one and this (expired, and never read) count as acknowledged.
    #[inline]
    pub(crate) fn push(&mut self, seq: Option<Seq>) -> NonZeroU16 {
        let index = self.index(seq);
        assert!(index < u64::from(RING), "the window is smaller than the ring");
        if let (Some(seq), true) = (seq, self.entries.is_empty()) {
            self.first = ((seq.get() - 1) % u64::from(RING)) as u32;
        }
        while (self.entries.len() as u64) < index {
            let seq = self.entries.back().and_then(|entry| entry.seq).map(Seq::next);
            self.entries.push_back(Entry { seq, acknowledged: true });
        }
        let place = (self.first + index as u32) % RING;
        self.entries.push_back(Entry { seq, acknowledged: false });
        self.open += 1;
        NonZeroU16::new(place as u16 + 1).expect("1 to 65535")
    }

    /// Takes the identifier of a record that is not sent (it expired): it counts as acknowledged.
    pub(crate) fn skip(&mut self, seq: Seq) -> Option<Seq> {
        let packet_id = self.push(Some(seq));
        match self.acknowledge(packet_id) {
            Acked::Known { head } => head,
            Acked::Unknown => None,
        }
    }

    /// Settles one identifier.
    #[inline]
    pub(crate) fn acknowledge(&mut self, packet_id: NonZeroU16) -> Acked {
        let place = u32::from(packet_id.get() - 1);
        let index = (place + RING - self.first) % RING;
        match self.entries.get_mut(index as usize) {
            Some(entry) if !entry.acknowledged => entry.acknowledged = true,
            _ => return Acked::Unknown,
        }
        self.open -= 1;
        Acked::Known { head: self.drop_front() }
    }

    /// Where a place stands, counted from the first entry; places are sent in order.
    #[inline]
    fn index(&self, seq: Option<Seq>) -> u64 {
        match (seq, self.entries.front().and_then(|entry| entry.seq)) {
            (Some(seq), Some(first)) => seq.get() - first.get(),
            _ => self.entries.len() as u64,
        }
    }

    /// Drops the acknowledged front; the first place that is still open, if the front moved.
    #[inline]
    fn drop_front(&mut self) -> Option<Seq> {
        let mut head = None;
        while let Some(entry) = self.entries.front().filter(|entry| entry.acknowledged) {
            head = entry.seq.map(Seq::next);
            self.entries.pop_front();
            self.first = (self.first + 1) % RING;
        }
        head
    }

    /// Checks what must hold between turns.
    pub(crate) fn invariants(&self) {
        let open = self.entries.iter().filter(|entry| !entry.acknowledged).count();
        assert_eq!(self.open, open, "open entries are counted");
        assert!(self.entries.front().is_none_or(|entry| !entry.acknowledged), "the first entry is open");
        for (index, entry) in self.entries.iter().enumerate() {
            let place = (u64::from(self.first) + index as u64) % u64::from(RING);
            let own = entry.seq.map_or(place, |seq| (seq.get() - 1) % u64::from(RING));
            assert_eq!(own, place, "an identifier follows from the place in the lane");
        }
    }
}

#[cfg(test)]
mod tests;
