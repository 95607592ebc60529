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
pub enum Acked {
    /// It was in flight. `head`: the first place in the lane that is still open, if that moved.
    Known {
        /// Everything before this place is acknowledged.
        head: Option<Seq>,
    },
    /// No message with this identifier is in flight.
    Unknown,
}

/// The delivery window of one session.
#[derive(Debug)]
pub struct Inflight {
    entries: VecDeque<Entry>,
    /// Identifier of the first entry, or of the next one if there is none; zero-based in the ring.
    first: u32,
}

impl Default for Inflight {
    fn default() -> Self {
        Inflight { entries: VecDeque::new(), first: 0 }
    }
}

impl Inflight {
    /// Slots in use.
    #[inline]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is in flight.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a message and gives it its identifier. The caller keeps [`Inflight::len`] below 65 535.
    #[inline]
    pub fn push(&mut self, seq: Option<Seq>) -> NonZeroU16 {
        assert!(self.entries.len() < RING as usize, "the window is smaller than the ring");
        if let (Some(seq), true) = (seq, self.entries.is_empty()) {
            self.first = ((seq.get() - 1) % u64::from(RING)) as u32;
        }
        let place = (self.first + self.entries.len() as u32) % RING;
        self.entries.push_back(Entry { seq, acknowledged: false });
        NonZeroU16::new(place as u16 + 1).expect("1 to 65535")
    }

    /// Takes an identifier for a record that is not sent (it expired): it counts as acknowledged.
    pub fn skip(&mut self, seq: Seq) -> Option<Seq> {
        self.push(Some(seq));
        if let Some(last) = self.entries.back_mut() {
            last.acknowledged = true;
        }
        self.drop_front()
    }

    /// Settles one identifier.
    #[inline]
    pub fn acknowledge(&mut self, packet_id: NonZeroU16) -> Acked {
        let place = u32::from(packet_id.get() - 1);
        let index = (place + RING - self.first) % RING;
        match self.entries.get_mut(index as usize) {
            Some(entry) if !entry.acknowledged => entry.acknowledged = true,
            _ => return Acked::Unknown,
        }
        Acked::Known { head: self.drop_front() }
    }

    /// Drops the acknowledged front; the first place that is still open, if the front moved.
    fn drop_front(&mut self) -> Option<Seq> {
        let mut head = None;
        while let Some(entry) = self.entries.front().filter(|entry| entry.acknowledged) {
            head = entry.seq.map(Seq::next);
            self.entries.pop_front();
            self.first = (self.first + 1) % RING;
        }
        head
    }
}

#[cfg(test)]
mod tests;
