//! Messages on their way to the client of a stored session that stand nowhere but in memory: those of `memory` routes to
//! inputs, while the module keeps up.
//!
//! Their identifiers are not those that follow from places in the lane: they are taken half a ring away from the places in
//! flight. Always: an identifier is used once at a time; what is not acknowledged when the connection ends is written to the
//! lane then. Bound: the client's window, which counts them.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::rc::Rc;

use model::{Seq, Timestamp};

use super::inflight::{Inflight, RING, packet_id_of};
use super::inputs::Inputs;

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) packet_id: NonZeroU16,
    /// The session record: see [`super::record`].
    pub(crate) record: Rc<[u8]>,
    pub(crate) expires: Option<Timestamp>,
}

/// All of a session, in the order in which they were sent.
#[derive(Debug, Default)]
pub(crate) struct Unwritten {
    sent: VecDeque<Sent>,
    bytes: usize,
    /// The identifier given last, so that none comes again soon.
    last: Option<NonZeroU16>,
}

impl Unwritten {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.sent.len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Memory that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the identifier of this place in the lane is free of them.
    #[inline]
    pub(crate) fn leaves(&self, seq: Option<Seq>) -> bool {
        self.sent.is_empty() || seq.is_none_or(|seq| !self.has(packet_id_of(seq)))
    }

    /// An identifier for the next one; `inputs` are those of the same session.
    pub(crate) fn free_id(&self, inflight: &Inflight, inputs: Option<&Inputs>) -> NonZeroU16 {
        let after = self.last.map(|last| u64::from(last.get()));
        let mut place =
            after.unwrap_or_else(|| u64::from(inflight.first_place() + RING / 2)) % u64::from(RING);
        // There are far more identifiers than a window has.
        while self.has(id_of(place))
            || inflight.covers(place as u32)
            || inputs.is_some_and(|inputs| inputs.has(id_of(place)))
        {
            place = (place + 1) % u64::from(RING);
        }
        id_of(place)
    }

    pub(crate) fn push(&mut self, sent: Sent) {
        self.bytes += sent.record.len();
        self.last = Some(sent.packet_id);
        self.sent.push_back(sent);
    }

    /// Its bytes, if it is one.
    pub(crate) fn settle(&mut self, packet_id: NonZeroU16) -> Option<usize> {
        let at = self.sent.iter().position(|sent| sent.packet_id == packet_id)?;
        let len = self.sent.remove(at).map_or(0, |sent| sent.record.len());
        self.bytes -= len;
        Some(len)
    }

    /// All of them, to be written.
    pub(crate) fn take(&mut self) -> VecDeque<Sent> {
        self.bytes = 0;
        std::mem::take(&mut self.sent)
    }

    /// The identifier of the one sent last.
    pub(crate) fn last_id(&self) -> Option<NonZeroU16> {
        self.sent.back().map(|last| last.packet_id)
    }

    /// Whether one has this identifier.
    pub(crate) fn has(&self, packet_id: NonZeroU16) -> bool {
        self.sent.iter().any(|sent| sent.packet_id == packet_id)
    }

    /// Checks what must hold between turns.
    pub(crate) fn invariants(&self, inflight: &Inflight) {
        let bytes: usize = self.sent.iter().map(|sent| sent.record.len()).sum();
        assert_eq!(self.bytes, bytes, "bytes on their way are counted");
        for sent in &self.sent {
            assert!(inflight.sent_as(sent.packet_id).is_none(), "an identifier is used once");
        }
    }
}

fn id_of(place: u64) -> NonZeroU16 {
    NonZeroU16::new(place as u16 + 1).expect("1 to 65535")
}
