//! What holds for any packet and for any bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::generators::{AnyPacket, any_packet, any_version};
use super::{ANY_SIZE, encode};
use crate::{Packet, Version, decode, split};

/// Everything that can be asked of a packet; a lazy answer could panic as well as an eager one.
fn ask_everything(packet: &Packet<'_>) -> usize {
    match packet {
        Packet::Publish(publish) => {
            let properties = &publish.properties;
            properties.user_properties().count()
                + properties.subscription_ids().count()
                + usize::from(properties.payload_is_utf8().is_some())
                + properties.content_type().map_or(0, str::len)
                + properties.response_topic().map_or(0, str::len)
                + properties.correlation().map_or(0, <[u8]>::len)
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack.user_properties().count() + ack.reason_string().map_or(0, str::len)
        }
        other => format!("{other:?}").len(),
    }
}

/// Reads all that can be read, in both versions, and writes it again; nothing may panic.
fn feed(bytes: &[u8]) {
    for version in [Version::V3, Version::V5] {
        let mut rest = bytes;
        while let Ok(Some(frame)) = split(rest, ANY_SIZE) {
            rest = &rest[frame.total_len()..];
            match decode(frame, version) {
                Ok(packet) => {
                    ask_everything(&packet);
                    // Packets that cannot be written again were read from what we would not write.
                    encode(&mut Vec::new(), version, &packet).ok();
                }
                Err(malformed) => {
                    assert!(malformed.reason_code().is_error());
                    assert!(!malformed.to_string().is_empty());
                    malformed.refusal();
                }
            }
        }
    }
}

fn one_packet() -> impl Strategy<Value = (Version, AnyPacket)> {
    any_version().prop_flat_map(|version| (Just(version), any_packet(version)))
}

fn session(packets_max: usize) -> impl Strategy<Value = (Version, Vec<AnyPacket>)> {
    any_version().prop_flat_map(move |version| (Just(version), vec(any_packet(version), 0..packets_max)))
}

proptest! {
    /// What is written is read back the same, and written the same again.
    #[test]
    fn decode_undoes_encode((version, packet) in one_packet()) {
        let bytes = packet.bytes(version);
        let frame = split(&bytes, ANY_SIZE).unwrap().unwrap();
        prop_assert_eq!(frame.total_len(), bytes.len());
        let read = decode(frame, version).unwrap();
        prop_assert_eq!(&read, &packet.packet());
        let mut again = Vec::new();
        encode(&mut again, version, &read).unwrap();
        prop_assert_eq!(again, bytes);
    }

    /// The same packets come out however the network cut the bytes.
    #[test]
    fn framing_ignores_read_boundaries((version, packets) in session(12), cuts in vec(1..200_usize, 1..40)) {
        let bytes: Vec<u8> = packets.iter().flat_map(|packet| packet.bytes(version)).collect();
        let mut buffer: Vec<u8> = Vec::new();
        let mut seen = 0;
        let (mut at, mut cut) = (0, cuts.iter().cycle());
        while at < bytes.len() {
            let end = bytes.len().min(at + cut.next().unwrap());
            buffer.extend_from_slice(&bytes[at..end]);
            at = end;
            let mut consumed = 0;
            while let Some(frame) = split(&buffer[consumed..], ANY_SIZE).unwrap() {
                prop_assert_eq!(decode(frame, version).unwrap(), packets[seen].packet());
                consumed += frame.total_len();
                seen += 1;
            }
            buffer.drain(..consumed);
        }
        prop_assert_eq!(seen, packets.len());
        prop_assert!(buffer.is_empty());
    }

    /// A packet cut short is waited for, or refused, but never taken.
    #[test]
    fn no_part_of_a_packet_is_a_packet((version, packet) in one_packet(), at in any::<prop::sample::Index>()) {
        let bytes = packet.bytes(version);
        prop_assert_eq!(split(&bytes[..at.index(bytes.len())], ANY_SIZE), Ok(None));
    }

    /// A body that ends early within a legal frame is refused or shorter, but never read beyond.
    #[test]
    fn shortened_bodies_do_not_panic((version, packet) in one_packet()) {
        let bytes = packet.bytes(version);
        let frame = split(&bytes, ANY_SIZE).unwrap().unwrap();
        for len in 0..frame.body().len().min(300) {
            feed(&super::packet(bytes[0], &[&frame.body()[..len]]));
        }
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..300)) {
        feed(&bytes);
    }

    /// Random bodies under a legal header get further than random bytes do.
    #[test]
    fn random_bodies_do_not_panic(kind in 0..16_u8, flags in 0..16_u8, body in vec(any::<u8>(), 0..120)) {
        let flags = match kind { 3 => flags, 6 | 8 | 10 => 2, _ => 0 };
        feed(&super::packet(kind << 4 | flags, &[&body]));
    }

    #[test]
    fn mutated_packets_do_not_panic(
        (version, packets) in session(4),
        changes in vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..8),
    ) {
        let mut bytes: Vec<u8> = packets.iter().flat_map(|packet| packet.bytes(version)).collect();
        for (at, byte, how) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        feed(&bytes);
    }

    /// Changes within the body keep the frame whole, so that every decoder is reached.
    #[test]
    fn packets_with_a_mutated_body_do_not_panic(
        (version, packet) in one_packet(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = packet.bytes(version);
        let body_at = bytes.len() - split(&bytes, ANY_SIZE).unwrap().unwrap().body().len();
        if body_at < bytes.len() {
            for (at, byte) in changes {
                let at = body_at + at.index((bytes.len() - body_at).min(200));
                bytes[at] = byte;
            }
        }
        feed(&bytes);
    }

    /// Looking at eight bytes at a time finds what looking at each finds.
    #[test]
    fn what_a_topic_may_not_hold_is_found(text in prop_oneof!["[a/+#\\x00\u{E0}\u{123}]{0,40}", "[a/*,\"$\u{E0}-\u{123}]{0,40}"]) {
        let null = text.bytes().any(|byte| byte == 0);
        prop_assert_eq!(crate::text::contains_null(&text), null);
        prop_assert_eq!(crate::text::contains_null_or_wildcard(&text), null || text.contains(['+', '#']));
    }

    /// Lengths are written in as few bytes as possible and read back [MQTT-1.5.5-1].
    #[test]
    fn varints_round_trip(value in 0..=268_435_455_u32) {
        let mut bytes = Vec::new();
        crate::varint::write(&mut bytes, value);
        prop_assert_eq!(bytes.len(), crate::varint::len(value));
        prop_assert_eq!(crate::varint::read(&bytes), crate::varint::Varint::Whole(value, bytes.len()));
    }
}

/// Table 1-1 of 5.0, Table 2.4 of 3.1.1.
#[test]
fn varints_at_their_borders() {
    for (value, bytes) in [
        (0, &b"\x00"[..]),
        (127, b"\x7F"),
        (128, b"\x80\x01"),
        (16_383, b"\xFF\x7F"),
        (16_384, b"\x80\x80\x01"),
        (2_097_151, b"\xFF\xFF\x7F"),
        (2_097_152, b"\x80\x80\x80\x01"),
        (268_435_455, b"\xFF\xFF\xFF\x7F"),
    ] {
        let mut out = Vec::new();
        crate::varint::write(&mut out, value);
        assert_eq!(out, bytes);
    }
}
