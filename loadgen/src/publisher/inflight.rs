//! The messages of one publisher that are sent and not settled, by packet identifier (MQTT 5.0 §4.3, §4.4).
//!
//! Knows: the sender's side of QoS 1 and 2. Never: sockets, ledgers.
//! Invariant: a packet identifier is in use exactly from its PUBLISH until its PUBACK or PUBCOMP, over any number of
//! connections; after PUBREC it is released, and its PUBLISH is never sent again [MQTT-4.3.3-6].

use std::num::NonZeroU16;

use wire::{AckKind, ReasonCode, Version};

use crate::clock::Micros;

/// What is under way.
pub(super) struct Inflight {
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// How many may be in flight: our window, or the broker's Receive Maximum if that is less.
    allowed: usize,
    keep_frames: bool,
}

#[derive(Clone, Default)]
struct Slot {
    /// 0: the slot is free.
    sequence: u64,
    intended: Micros,
    /// QoS 2: PUBREC has come, PUBREL is out.
    released: bool,
    frame: Vec<u8>,
}

impl Inflight {
    pub(super) fn new(window: u16, keep_frames: bool) -> Inflight {
        Inflight {
            slots: vec![Slot::default(); usize::from(window)],
            free: (0..window).rev().collect(),
            allowed: usize::from(window),
            keep_frames,
        }
    }

    /// Takes over the broker's Receive Maximum [MQTT-3.3.4-9].
    pub(super) fn allow(&mut self, receive_max: u16) {
        self.allowed = self.slots.len().min(usize::from(receive_max));
    }

    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn room(&self) -> u64 {
        self.allowed.saturating_sub(self.len()) as u64
    }

    pub(super) fn reserve(&mut self, sequence: u64, intended: Micros) -> Option<NonZeroU16> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[usize::from(index)];
        slot.sequence = sequence;
        slot.intended = intended;
        slot.released = false;
        NonZeroU16::new(index + 1)
    }

    /// Keeps the frame, in case that it must be sent again on another connection.
    pub(super) fn keep(&mut self, packet_id: NonZeroU16, frame: &[u8]) {
        if self.keep_frames {
            let kept = &mut self.slots[usize::from(packet_id.get() - 1)].frame;
            kept.clear();
            kept.extend_from_slice(frame);
        }
    }

    /// PUBREC: the broker has the message. Its number if it is the first PUBREC of it; `None` if nothing is in
    /// flight with that identifier.
    pub(super) fn release(&mut self, packet_id: NonZeroU16) -> Option<Released> {
        let slot = self.slots.get_mut(usize::from(packet_id.get() - 1)).filter(|slot| slot.sequence > 0)?;
        let first = !std::mem::replace(&mut slot.released, true);
        Some(Released { sequence: slot.sequence, first })
    }

    /// PUBACK or PUBCOMP: the identifier is free again. The number and intended time of its message.
    pub(super) fn take(&mut self, packet_id: NonZeroU16) -> Option<(u64, Micros)> {
        let index = packet_id.get() - 1;
        let slot = self.slots.get_mut(usize::from(index)).filter(|slot| slot.sequence > 0)?;
        let sequence = std::mem::take(&mut slot.sequence);
        self.free.push(index);
        Some((sequence, slot.intended))
    }

    /// Writes everything in flight again, oldest first: PUBLISH marked as a repeat, or PUBREL; how many.
    pub(super) fn write_again(&mut self, out: &mut Vec<u8>, version: Version) -> u64 {
        let mut waiting: Vec<usize> =
            (0..self.slots.len()).filter(|&index| self.slots[index].sequence > 0).collect();
        waiting.sort_by_key(|&index| self.slots[index].sequence);
        for &index in &waiting {
            let slot = &self.slots[index];
            if slot.released {
                let packet_id = NonZeroU16::MIN.saturating_add(index as u16);
                wire::encode_ack(out, version, AckKind::PubRel, packet_id, ReasonCode::SUCCESS);
                continue;
            }
            let start = out.len();
            out.extend_from_slice(&slot.frame);
            wire::set_dup(&mut out[start..]);
        }
        waiting.len() as u64
    }
}

/// A message that the broker has taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) sequence: u64,
    /// Whether this is its first PUBREC.
    pub(super) first: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    #[test]
    fn the_window_bounds_what_is_in_flight() {
        let mut inflight = Inflight::new(2, false);
        let first = inflight.reserve(1, Micros(10)).unwrap();
        let second = inflight.reserve(2, Micros(11)).unwrap();
        assert!(first != second && inflight.room() == 0 && inflight.reserve(3, Micros(12)).is_none());
        assert_eq!(inflight.take(first), Some((1, Micros(10))));
        assert_eq!(inflight.take(first), None, "an acknowledgement counts once");
        assert_eq!((inflight.room(), inflight.take(id(9))), (1, None));
    }

    #[test]
    fn a_receive_maximum_below_the_window_wins() {
        let mut inflight = Inflight::new(100, false);
        inflight.allow(1);
        inflight.reserve(1, Micros(0)).unwrap();
        assert_eq!(inflight.room(), 0);
    }

    /// [MQTT-4.4.0-1] [MQTT-4.6.0-1]: the original order, DUP set; after PUBREC only PUBREL.
    #[test]
    fn what_is_in_flight_is_sent_again_in_order_and_marked() {
        let mut inflight = Inflight::new(4, true);
        for sequence in 1..=4 {
            let packet_id = inflight.reserve(sequence, Micros(0)).unwrap();
            inflight.keep(packet_id, &[0x34, sequence as u8]);
        }
        inflight.take(id(1)).unwrap();
        assert_eq!(inflight.release(id(2)), Some(Released { sequence: 2, first: true }));
        assert_eq!(inflight.release(id(2)), Some(Released { sequence: 2, first: false }));
        let packet_id = inflight.reserve(5, Micros(0)).unwrap();
        inflight.keep(packet_id, &[0x34, 5]);
        let mut out = Vec::new();
        assert_eq!(inflight.write_again(&mut out, Version::V5), 4);
        assert_eq!(out, [0x62, 2, 0, 2, 0x3C, 3, 0x3C, 4, 0x3C, 5]);
    }

    /// [MQTT-4.3.3-7]: the identifier is not used anew before PUBCOMP.
    #[test]
    fn a_released_identifier_is_in_use_until_pubcomp() {
        let mut inflight = Inflight::new(1, false);
        inflight.reserve(1, Micros(5)).unwrap();
        inflight.release(id(1)).unwrap();
        assert_eq!((inflight.room(), inflight.reserve(2, Micros(6))), (0, None));
        assert_eq!(inflight.take(id(1)), Some((1, Micros(5))));
        assert_eq!(inflight.release(id(1)), None);
        assert_eq!(inflight.room(), 1);
    }
}
