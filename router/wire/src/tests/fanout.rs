//! One encoding for many: patching, passing properties on, gathered writes, bounds.

use std::num::NonZeroU16;

use model::Qos;

use super::{decode, id};
use crate::Version::{V3, V5};
use crate::{
    BlockBuilder, OutgoingPublish, Packet, Placed, PublishProperties, Rule, Unencodable, encode_publish,
    encode_publish_head, set_dup,
};

const MESSAGE: OutgoingPublish<'static> = OutgoingPublish {
    dup: false,
    qos: Qos::AtLeastOnce,
    retain: false,
    packet_id: None,
    topic: "a/b",
    topic_alias: None,
    expiry_secs: None,
    subscription_ids: &[],
    properties: &[],
    payload: b"payload",
};

#[test]
fn a_copy_takes_another_packet_identifier() {
    for version in [V3, V5] {
        let mut shared = vec![0xEE; 3];
        let placed = encode_publish(&mut shared, version, &MESSAGE).unwrap();
        assert_eq!(placed.len, shared.len() - 3);
        for number in [1, 0xABCD, u16::MAX] {
            let mut copy = shared[3..].to_vec();
            placed.patch(&mut copy, id(number));
            let Packet::Publish(publish) = decode(version, &copy) else { panic!() };
            assert_eq!(publish.packet_id, Some(id(number)));
            assert_eq!((publish.topic, publish.payload), ("a/b", &b"payload"[..]));
        }
    }
}

#[test]
fn qos_0_has_nothing_to_patch_and_no_dup() {
    let message = OutgoingPublish { qos: Qos::AtMostOnce, dup: true, packet_id: Some(id(9)), ..MESSAGE };
    let mut out = Vec::new();
    let placed = encode_publish(&mut out, V5, &message).unwrap();
    assert_eq!(placed, Placed { len: out.len(), packet_id_at: None });
    let mut copy = out.clone();
    placed.patch(&mut copy, id(7));
    set_dup(&mut copy);
    assert_eq!(copy, out);
    let Packet::Publish(publish) = decode(V5, &out) else { panic!() };
    assert_eq!((publish.dup, publish.packet_id), (false, None)); // [MQTT-3.3.1-2] [MQTT-2.2.1-2]
}

/// [MQTT-3.3.1-1]
#[test]
fn dup_is_set_in_place() {
    let mut out = Vec::new();
    encode_publish(&mut out, V3, &OutgoingPublish { packet_id: Some(id(7)), ..MESSAGE }).unwrap();
    set_dup(&mut out);
    let Packet::Publish(publish) = decode(V3, &out) else { panic!() };
    assert!(publish.dup);
}

#[test]
fn patching_something_else_does_no_harm() {
    let placed = encode_publish(&mut Vec::new(), V3, &MESSAGE).unwrap();
    for len in 0..placed.packet_id_at.unwrap() + 2 {
        let mut short = vec![0; len];
        placed.patch(&mut short, id(1));
        assert_eq!(short, vec![0; len]);
    }
    set_dup(&mut []);
}

#[test]
fn a_head_counts_the_payload_and_leaves_it_out() {
    for version in [V3, V5] {
        let (mut whole, mut head) = (Vec::new(), Vec::new());
        let placed = encode_publish(&mut whole, version, &MESSAGE).unwrap();
        let head_placed = encode_publish_head(&mut head, version, &MESSAGE).unwrap();
        assert_eq!(head_placed.len, head.len());
        assert_eq!(head_placed.packet_id_at, placed.packet_id_at);
        head.extend_from_slice(MESSAGE.payload);
        assert_eq!(head, whole);
    }
}

/// What belongs to the hop is replaced, all else is passed on unaltered and in order
/// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20].
#[test]
fn properties_are_passed_on() {
    let (mut before, mut after) = (BlockBuilder::new(), BlockBuilder::new());
    before.user("first", "1").unwrap().content_type("t").unwrap();
    after.user("second", "").unwrap().correlation(b"\0").unwrap().payload_is_utf8(false);
    let (before, after) = (before.into_bytes(), after.into_bytes());
    let block = [&before[..], b"\x23\0\x07", b"\x02\0\0\0\x3C", b"\x0B\x05", &after].concat();
    let message = OutgoingPublish {
        properties: &block,
        topic_alias: NonZeroU16::new(2),
        expiry_secs: Some(59),
        subscription_ids: &[1, 0, 268_435_455, 268_435_456],
        ..MESSAGE
    };
    let mut out = Vec::new();
    let placed = encode_publish(&mut out, V5, &message).unwrap();
    placed.patch(&mut out, id(1));
    let Packet::Publish(publish) = decode(V5, &out) else { panic!() };
    let expected =
        [b"\x23\0\x02", &b"\x02\0\0\0\x3B"[..], b"\x0B\x01", b"\x0B\xFF\xFF\xFF\x7F", &before, &after]
            .concat();
    assert_eq!(publish.properties.block(), expected);
    assert_eq!(publish.payload, MESSAGE.payload);

    // Nothing of it reaches 3.1.1.
    let (mut with, mut without) = (Vec::new(), Vec::new());
    encode_publish(&mut with, V3, &message).unwrap();
    encode_publish(&mut without, V3, &MESSAGE).unwrap();
    assert_eq!(with, without);
}

#[test]
fn a_kept_block_is_checked_again() {
    let mut block = BlockBuilder::new();
    block.response_topic("r").unwrap().user("k", "v").unwrap();
    assert_eq!(PublishProperties::from_block(block.as_bytes()).unwrap().response_topic(), Some("r"));
    assert_eq!(PublishProperties::from_block(b"\x03\0\x05abc"), Err(Rule::Truncated));
    assert_eq!(PublishProperties::from_block(b"\x11\0\0\0\0"), Err(Rule::PropertyNotAllowed));
}

/// A block that nobody checked cannot make us write a packet that cannot be read.
#[test]
fn a_broken_block_ends_early() {
    let broken = [&b"\x26\0\x01k\0\x01v"[..], b"\x03\xFF\xFFx"].concat();
    let mut out = Vec::new();
    let message = OutgoingPublish { properties: &broken, qos: Qos::AtMostOnce, ..MESSAGE };
    encode_publish(&mut out, V5, &message).unwrap();
    let Packet::Publish(publish) = decode(V5, &out) else { panic!() };
    assert_eq!(publish.properties.block(), &broken[..7]);
}

#[test]
fn what_is_too_long_is_refused_whole() {
    let mut out = b"kept".to_vec();
    let topic = "x".repeat(65_536);
    let mut block = BlockBuilder::new();
    assert_eq!(block.user("k", &topic), Err(Unencodable::TooLong));
    assert_eq!(block.as_bytes(), b"");
    let message = OutgoingPublish { topic: &topic, ..MESSAGE };
    assert_eq!(encode_publish(&mut out, V5, &message), Err(Unencodable::TooLong));
    let payload = vec![0; 268_435_455];
    let message = OutgoingPublish { payload: &payload, ..MESSAGE };
    assert_eq!(encode_publish(&mut out, V3, &message), Err(Unencodable::TooLong));
    assert_eq!(encode_publish_head(&mut out, V3, &message), Err(Unencodable::TooLong));
    assert_eq!(out, b"kept");
}
