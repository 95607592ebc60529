//! Runs: consecutive QoS 0 PUBLISH packets to one topic, taken as one (MQTT 5.0 §3.3): hot path.
//!
//! Knows: when one look at a topic is enough for many packets. May use: `frames`, `publish`. Never: allocation.
//! In: what has been read so far. Out: the packets as they are, because a receiver of the same version gets the same
//! bytes. Invariant: every packet of a run is one that `decode` would accept, and says the same but for its payload.

use crate::frames::{Frame, split};
use crate::packet::Version;
use crate::publish;

/// A PUBLISH with QoS 0 and neither DUP nor RETAIN.
const HEADER: u8 = 0b0011_0000;

/// At least two PUBLISH packets with QoS 0, without RETAIN and properties, to one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<'t> {
    bytes: &'t [u8],
    topic: &'t str,
    /// Bytes of topic and empty properties at the start of each body.
    head_len: usize,
    count: usize,
    largest: usize,
    payload_bytes: usize,
}

impl<'t> Run<'t> {
    /// Whether it is worth a look.
    #[inline]
    pub fn may_start(bytes: &[u8]) -> bool {
        bytes.first() == Some(&HEADER)
    }

    /// Takes the run at the start of `bytes`, if there is one; of at most `bytes_max` bytes, or little more.
    ///
    /// Everything else, faults included, is left to [`split`] and `decode`.
    #[inline]
    pub fn split(
        bytes: &'t [u8],
        version: Version,
        packet_bytes_max: u32,
        bytes_max: usize,
    ) -> Option<Run<'t>> {
        let first = publish_at(bytes, packet_bytes_max)?;
        let end = first.total_len();
        let second = publish_at(&bytes[end..], packet_bytes_max)?;
        let topic_len = usize::from(u16::from_be_bytes(*first.body().first_chunk()?));
        let head_len = 2 + topic_len + usize::from(version == Version::V5);
        // The same length and topic, and in 5.0 the same first byte of the properties; that it is 0 is seen below.
        let head = first.body().get(..head_len)?;
        if !second.body().starts_with(head) {
            return None;
        }
        let publish = publish::decode(first, version).ok()?;
        if publish.topic.is_empty() || !publish.properties.block().is_empty() {
            return None;
        }
        let payload_bytes = publish.payload.len();
        let mut run = Run { bytes, topic: publish.topic, head_len, count: 1, largest: end, payload_bytes };
        let mut end = end;
        let mut next = Some(second);
        while let Some(frame) = next.filter(|frame| frame.body().starts_with(head)) {
            run.count += 1;
            run.largest = run.largest.max(frame.total_len());
            run.payload_bytes += frame.body().len() - head_len;
            end += frame.total_len();
            next = if end < bytes_max { publish_at(&bytes[end..], packet_bytes_max) } else { None };
        }
        run.bytes = &bytes[..end];
        Some(run)
    }

    /// The packets, end to end.
    #[inline]
    pub const fn bytes(&self) -> &'t [u8] {
        self.bytes
    }

    /// Their topic.
    #[inline]
    pub const fn topic(&self) -> &'t str {
        self.topic
    }

    /// How many there are; never fewer than 2.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Bytes of the largest packet.
    #[inline]
    pub const fn largest(&self) -> usize {
        self.largest
    }

    /// Bytes of all payloads.
    #[inline]
    pub const fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Their payloads, in order.
    #[inline]
    pub fn payloads(&self) -> impl Iterator<Item = &'t [u8]> + use<'t> {
        let (mut rest, head_len) = (self.bytes, self.head_len);
        std::iter::from_fn(move || {
            let frame = split(rest, u32::MAX).ok().flatten()?;
            rest = &rest[frame.total_len()..];
            frame.body().get(head_len..)
        })
    }
}

/// The packet at the start of `bytes`, if it may be part of a run.
#[inline]
fn publish_at(bytes: &[u8], packet_bytes_max: u32) -> Option<Frame<'_>> {
    if !Run::may_start(bytes) {
        return None;
    }
    // Not a length in more bytes than it takes: 5.0 forbids it, and nobody else shall see it.
    split(bytes, packet_bytes_max).ok().flatten().filter(Frame::is_minimal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{OutgoingPublish, Packet, decode, encode_publish};

    fn encode(version: Version, publish: &OutgoingPublish<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_publish(&mut bytes, version, publish).expect("small");
        bytes
    }

    /// Bytes of some packets: few topics, flags and sizes, so that runs are frequent.
    fn packets(version: Version) -> impl Strategy<Value = Vec<u8>> {
        let topic = prop_oneof![4 => Just("a/b"), 1 => Just("a"), 1 => Just("a/bc")];
        let packet = (topic, 0..200usize, 0..12u8).prop_map(move |(topic, len, kind)| {
            let payload = vec![b'x'; len];
            let mut publish = OutgoingPublish { topic, payload: &payload, ..OutgoingPublish::default() };
            match kind {
                0 => publish.retain = true,
                1 => publish.qos = model::Qos::AtLeastOnce,
                2 => publish.expiry_secs = Some(9),
                _ => {}
            }
            publish.packet_id = std::num::NonZeroU16::new(7);
            encode(version, &publish)
        });
        proptest::collection::vec(packet, 1..12).prop_map(|packets| packets.concat())
    }

    proptest! {
        /// A run says what its packets say, one by one, and ends where they differ.
        #[test]
        fn a_run_is_what_its_packets_are(
            (version, bytes) in prop_oneof![Just(Version::V3), Just(Version::V5)]
                .prop_flat_map(|version| (Just(version), packets(version))),
            cut in 0..40usize,
        ) {
            let bytes = &bytes[..bytes.len().saturating_sub(cut)];
            let Some(run) = Run::split(bytes, version, 1 << 20, usize::MAX) else { return Ok(()) };
            prop_assert!(run.len() >= 2);
            let (mut rest, mut seen, mut largest) = (run.bytes(), Vec::new(), 0);
            while let Some(frame) = split(rest, 1 << 20).expect("legal") {
                let Packet::Publish(publish) = decode(frame, version).expect("legal") else { panic!("a PUBLISH") };
                prop_assert_eq!((publish.topic, publish.qos, publish.retain, publish.dup), (run.topic(), model::Qos::AtMostOnce, false, false));
                prop_assert!(publish.properties.block().is_empty());
                seen.push(publish.payload);
                largest = largest.max(frame.total_len());
                rest = &rest[frame.total_len()..];
            }
            prop_assert!(rest.is_empty(), "whole packets");
            prop_assert_eq!(run.payloads().collect::<Vec<_>>(), seen.clone());
            prop_assert_eq!(run.payload_bytes(), seen.concat().len());
            prop_assert_eq!((run.len(), run.largest()), (seen.len(), largest));
        }
    }

    #[test]
    fn packets_that_differ_in_more_than_payload_are_no_run() {
        for version in [Version::V3, Version::V5] {
            let plain = OutgoingPublish { topic: "a/b", payload: b"x", ..OutgoingPublish::default() };
            let one = encode(version, &plain);
            let run = |second: &OutgoingPublish<'_>| {
                let bytes = [&one[..], &encode(version, second)].concat();
                Run::split(&bytes, version, 1 << 20, usize::MAX).map(|run| run.len())
            };
            assert_eq!(run(&plain), Some(2));
            assert_eq!(run(&OutgoingPublish { topic: "a/c", ..plain }), None);
            assert_eq!(run(&OutgoingPublish { topic: "a/bc", ..plain }), None);
            assert_eq!(run(&OutgoingPublish { retain: true, ..plain }), None);
            assert_eq!(run(&OutgoingPublish { qos: model::Qos::AtLeastOnce, ..plain }), None);
        }
        let aged = OutgoingPublish { topic: "a", expiry_secs: Some(1), ..OutgoingPublish::default() };
        let bytes = encode(Version::V5, &aged).repeat(2);
        assert_eq!(
            Run::split(&bytes, Version::V5, 1 << 20, usize::MAX),
            None,
            "properties differ per packet"
        );
    }

    #[test]
    fn a_length_in_too_many_bytes_ends_a_run() {
        let one = b"\x30\x04\x00\x01ax";
        let long = b"\x30\x84\x00\x00\x01ax";
        let bytes = [&one[..], one, long, one].concat();
        let run = Run::split(&bytes, Version::V3, 1 << 20, usize::MAX).expect("two");
        assert_eq!((run.len(), run.bytes().len()), (2, 12));
    }
}
