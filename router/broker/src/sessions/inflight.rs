//! QoS 1 and 2 messages on their way to one client: packet identifiers in, places in the lane out.
//!
//! Identifiers are handed out in a ring, so an acknowledgement is found by subtraction, in any order.
//! A stored session's identifier follows from the record's place, `(seq − 1) mod 65 535 + 1`: a message that is sent
//! again after a crash has the identifier it had before [MQTT-4.4.0-1], and nothing has to be written for it.
//! How far a QoS 2 exchange is does not follow from anything: its [`Mark`] is written (see [`crate::exchanges`]).
//! Invariant: the identifiers of `entries` are consecutive in the ring; the first entry is open.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use model::{Qos, Seq};

/// Identifiers are 1 to 65 535 (MQTT 5.0 §2.2.1).
pub(super) const RING: u32 = 65_535;

/// How far a message is that was sent (MQTT 5.0 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// QoS 1: waits for PUBACK.
    Sent,
    /// QoS 2: waits for PUBREC.
    Published,
    /// QoS 2: PUBREC came, PUBREL is sent or will be; waits for PUBCOMP.
    Released,
    /// Done; at QoS 2 without a mark.
    Settled,
    /// QoS 2, done; its mark stays until everything before it is done.
    Completed,
}

impl State {
    const fn is_open(self) -> bool {
        matches!(self, State::Sent | State::Published | State::Released)
    }
}

/// What must be known of a message in a lane when its client comes back. What has none is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// QoS 2: PUBREC came. Only PUBREL is sent from now on [MQTT-4.3.3-6]. On disk, too.
    Released,
    /// QoS 2: PUBCOMP came, and something before it is not done. On disk, too.
    Completed,
    /// Done, and something before it is not. Only in memory: it may be sent again after a restart.
    Settled,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    seq: Option<Seq>,
    state: State,
}

/// What an acknowledgement settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acked {
    /// It was in flight. `head`: the first place in the lane that is still open, if that moved.
    Known {
        /// Everything before this place is acknowledged.
        head: Option<Seq>,
    },
    /// No message with this identifier waits for this acknowledgement.
    Unknown,
}

/// What a PUBREC came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// The client has the message from now on; its place in the lane of a stored session.
    First(Option<Seq>),
    /// It had it before.
    Again,
    /// No QoS 2 message with this identifier is in flight.
    Unknown,
}

/// The delivery window of one session.
#[derive(Debug, Default)]
pub(crate) struct Inflight {
    entries: VecDeque<Entry>,
    /// Identifier of the first entry, or of the next one if there is none; zero-based in the ring.
    first: u32,
    /// Entries that are open.
    open: usize,
    /// Completed places that left the window: their marks are to be deleted.
    finished: Vec<Seq>,
}

impl Inflight {
    /// Messages that are sent and not done: what the client's Receive Maximum bounds [MQTT-3.3.4-9].
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

    /// Whether the window, `span` places wide, reaches this place: two open messages never share an identifier.
    #[inline]
    pub(crate) fn has_place(&self, seq: Option<Seq>, span: u32) -> bool {
        self.index(seq) < u64::from(span.min(RING))
    }

    /// Adds a message that is sent with `qos` and gives it its identifier. The caller asks [`Inflight::has_place`] first.
    ///
    /// Places between the last one and this (expired, and never read) count as done.
    #[inline]
    pub(crate) fn push(&mut self, seq: Option<Seq>, qos: Qos) -> NonZeroU16 {
        let state = if qos == Qos::ExactlyOnce { State::Published } else { State::Sent };
        self.push_as(seq, state)
    }

    /// Adds a message of which more is known than that it was sent; its identifier, and the head if that moved.
    pub(crate) fn resume(&mut self, seq: Seq, mark: Mark) -> (NonZeroU16, Option<Seq>) {
        let state = match mark {
            Mark::Released => State::Released,
            Mark::Completed => State::Completed,
            Mark::Settled => State::Settled,
        };
        (self.push_as(Some(seq), state), self.drop_front())
    }

    #[inline]
    fn push_as(&mut self, seq: Option<Seq>, state: State) -> NonZeroU16 {
        let index = self.index(seq);
        assert!(index < u64::from(RING), "the window is smaller than the ring");
        if let (Some(seq), true) = (seq, self.entries.is_empty()) {
            self.first = ((seq.get() - 1) % u64::from(RING)) as u32;
        }
        while (self.entries.len() as u64) < index {
            let seq = self.entries.back().and_then(|entry| entry.seq).map(Seq::next);
            self.entries.push_back(Entry { seq, state: State::Settled });
        }
        let place = (self.first + index as u32) % RING;
        self.entries.push_back(Entry { seq, state });
        self.open += usize::from(state.is_open());
        NonZeroU16::new(place as u16 + 1).expect("1 to 65535")
    }

    /// Takes the identifier of a record that is not sent (it expired): it counts as done.
    pub(crate) fn skip(&mut self, seq: Seq) -> Option<Seq> {
        self.resume(seq, Mark::Settled).1
    }

    /// The message pushed last could not be sent: it counts as done. The head, if that moved.
    pub(crate) fn abandon_last(&mut self) -> Option<Seq> {
        let last = self.entries.back_mut()?;
        self.open -= usize::from(last.state.is_open());
        last.state = State::Settled;
        self.drop_front()
    }

    /// Where in the ring the first entry stands, or the next one if there is none.
    pub(super) fn first_place(&self) -> u32 {
        self.first
    }

    /// Whether an entry stands there in the ring.
    pub(crate) fn covers(&self, place: u32) -> bool {
        ((place + RING - self.first) % RING) < self.entries.len() as u32
    }

    /// The place of what waits for PUBACK under this identifier; `None`: nothing does.
    pub(crate) fn sent_as(&self, packet_id: NonZeroU16) -> Option<Option<Seq>> {
        let index = (u32::from(packet_id.get() - 1) + RING - self.first) % RING;
        self.entries.get(index as usize).filter(|entry| entry.state == State::Sent).map(|entry| entry.seq)
    }

    /// Whether what stands at this place waits for PUBACK.
    pub(crate) fn is_sent(&self, seq: Seq) -> bool {
        self.sent_as(packet_id_of(seq)) == Some(Some(seq))
    }

    /// The identifier of the last message, if it waits for PUBACK.
    pub(crate) fn last_sent(&self) -> Option<NonZeroU16> {
        let last = self.entries.back().filter(|entry| entry.state == State::Sent);
        let place = (self.first + self.entries.len() as u32).checked_sub(1)? % RING;
        last.and_then(|_| NonZeroU16::new(place as u16 + 1))
    }

    /// PUBACK: settles one QoS 1 message.
    #[inline]
    pub(crate) fn acknowledge(&mut self, packet_id: NonZeroU16) -> Acked {
        match self.find(packet_id) {
            Some(entry) if entry.state == State::Sent => entry.state = State::Settled,
            _ => return Acked::Unknown,
        }
        self.open -= 1;
        Acked::Known { head: self.drop_front() }
    }

    /// PUBREC: the client has a QoS 2 message.
    pub(crate) fn receive(&mut self, packet_id: NonZeroU16) -> Received {
        match self.find(packet_id) {
            Some(entry) if entry.state == State::Published => {
                entry.state = State::Released;
                Received::First(entry.seq)
            }
            Some(entry) if entry.state == State::Released => Received::Again,
            _ => Received::Unknown,
        }
    }

    /// PUBCOMP (`released`), or a PUBREC that refuses the message (not `released`): the exchange is over.
    ///
    /// If it stays in the window behind another, its place: it needs its mark.
    pub(crate) fn complete(&mut self, packet_id: NonZeroU16, released: bool) -> (Acked, Option<Seq>) {
        let expected = if released { State::Released } else { State::Published };
        let seq = match self.find(packet_id) {
            Some(entry) if entry.state == expected => {
                entry.state = State::Completed;
                entry.seq
            }
            _ => return (Acked::Unknown, None),
        };
        self.open -= 1;
        let head = self.drop_front();
        let waits = head.is_none() && !self.entries.is_empty();
        (Acked::Known { head }, seq.filter(|_| waits))
    }

    /// Whether [`Inflight::take_finished`] has something.
    #[inline]
    pub(crate) fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Places whose marks are to be deleted, once the head has moved over them.
    pub(crate) fn take_finished(&mut self) -> Vec<Seq> {
        std::mem::take(&mut self.finished)
    }

    /// What is known of the messages in flight beyond that they were sent, in order.
    pub(crate) fn marks(&self) -> impl Iterator<Item = (Seq, Mark)> + '_ {
        self.entries.iter().filter_map(|entry| {
            let mark = match entry.state {
                State::Sent | State::Published => return None,
                State::Released => Mark::Released,
                State::Settled => Mark::Settled,
                State::Completed => Mark::Completed,
            };
            Some((entry.seq?, mark))
        })
    }

    #[inline]
    fn find(&mut self, packet_id: NonZeroU16) -> Option<&mut Entry> {
        let place = u32::from(packet_id.get() - 1);
        let index = (place + RING - self.first) % RING;
        self.entries.get_mut(index as usize)
    }

    /// Where a place stands, counted from the first entry; places are sent in order.
    #[inline]
    fn index(&self, seq: Option<Seq>) -> u64 {
        match (seq, self.entries.front().and_then(|entry| entry.seq)) {
            (Some(seq), Some(first)) => seq.get() - first.get(),
            _ => self.entries.len() as u64,
        }
    }

    /// Drops the front that is done; the first place that is still open, if the front moved.
    #[inline]
    fn drop_front(&mut self) -> Option<Seq> {
        let mut head = None;
        while let Some(entry) = self.entries.front().filter(|entry| !entry.state.is_open()) {
            head = entry.seq.map(Seq::next);
            if entry.state == State::Completed {
                self.finished.extend(entry.seq);
            }
            self.entries.pop_front();
            self.first = (self.first + 1) % RING;
        }
        head
    }

    /// Checks what must hold between turns.
    pub(crate) fn invariants(&self) {
        let open = self.entries.iter().filter(|entry| entry.state.is_open()).count();
        assert_eq!(self.open, open, "open entries are counted");
        assert!(self.entries.front().is_none_or(|entry| entry.state.is_open()), "the first entry is open");
        assert!(self.finished.is_empty(), "what is finished is written");
        for (index, entry) in self.entries.iter().enumerate() {
            let place = (u64::from(self.first) + index as u64) % u64::from(RING);
            let own = entry.seq.map_or(place, |seq| (seq.get() - 1) % u64::from(RING));
            assert_eq!(own, place, "an identifier follows from the place in the lane");
        }
    }
}

/// The identifier that follows from a place in the lane of a session.
pub(super) fn packet_id_of(seq: Seq) -> NonZeroU16 {
    NonZeroU16::new(((seq.get() - 1) % u64::from(RING)) as u16 + 1).expect("1 to 65535")
}

#[cfg(test)]
mod tests;
