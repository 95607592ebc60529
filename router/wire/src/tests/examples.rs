//! One example at least of every packet in both versions, byte by byte, both ways.

use std::num::{NonZeroU16, NonZeroU32};

use model::Qos;

use super::{decode, encode, id, packet};
use crate::Version::{V3, V5};
use crate::{
    Ack, Auth, BlockBuilder, ConnAck, Connect, Disconnect, Packet, Publish, PublishProperties, ReasonCode,
    RetainHandling, SubAck, Subscribe, Subscription, UnsubAck, Unsubscribe, Version, Will,
};

/// These bytes are this packet, and this packet is written as these bytes.
#[track_caller]
fn check(version: Version, bytes: &[u8], expected: &Packet<'_>) {
    assert_eq!(&decode(version, bytes), expected, "read");
    let mut out = b"kept".to_vec();
    encode(&mut out, version, expected).unwrap();
    assert_eq!(&out[4..], bytes, "written");
    assert_eq!(&out[..4], b"kept");
}

/// These bytes are this packet, though we would write it in fewer.
#[track_caller]
fn check_read(version: Version, bytes: &[u8], expected: &Packet<'_>) {
    assert_eq!(&decode(version, bytes), expected, "read");
}

fn publish<'t>(topic: &'t str, payload: &'t [u8]) -> Publish<'t> {
    Publish {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        packet_id: None,
        topic,
        properties: PublishProperties::NONE,
        payload,
    }
}

fn will_block() -> Vec<u8> {
    let mut block = BlockBuilder::new();
    block.payload_is_utf8(true).content_type("t").unwrap().response_topic("r").unwrap();
    block.correlation(b"c").unwrap().user("a", "b").unwrap();
    block.into_bytes()
}

fn user(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn connect_3() {
    let bytes = packet(0x10, &[b"\0\x04MQTT\x04\x02\0\x3C\0\x03dev"]);
    let mut connect = Connect::new(V3, "dev");
    connect.keep_alive_secs = 60;
    check(V3, &bytes, &Packet::Connect(Box::new(connect)));
}

/// The example of 3.1.1 §3.1.2: user name, password, Will with QoS 1, clean session, keep alive 10 s.
#[test]
fn connect_3_with_everything() {
    let bytes =
        packet(0x10, &[b"\0\x04MQTT\x04\xEE\0\x0A", b"\0\x03dev", b"\0\x01w\0\x02\xFF\0", b"\0\x01u\0\x01p"]);
    let connect = Connect {
        keep_alive_secs: 10,
        user_name: Some("u".into()),
        password: Some(b"p".to_vec()),
        will: Some(Will {
            topic: "w".into(),
            payload: vec![0xFF, 0],
            qos: Qos::AtLeastOnce,
            retain: true,
            ..Will::default()
        }),
        ..Connect::new(V3, "dev")
    };
    assert_eq!(connect.session_secs(), 0);
    check(V3, &bytes, &Packet::Connect(Box::new(connect)));
}

#[test]
fn connect_5() {
    let bytes = packet(0x10, &[b"\0\x04MQTT\x05\0\0\0\0\0\x03dev"]);
    let connect = Connect { clean_start: false, ..Connect::new(V5, "dev") };
    assert_eq!(connect.session_secs(), 0);
    check(V5, &bytes, &Packet::Connect(Box::new(connect.clone())));
    // The version on the connection does not matter: CONNECT says its own.
    check_read(V3, &bytes, &Packet::Connect(Box::new(connect)));
}

#[test]
fn connect_5_with_everything() {
    let properties: &[&[u8]] = &[
        b"\x11\0\0\0\x78",
        b"\x15\0\x01m",
        b"\x16\0\x02\0\xFF",
        b"\x17\0",
        b"\x19\x01",
        b"\x21\0\x14",
        b"\x27\0\0\x01\0",
        b"\x22\0\x0A",
        b"\x26\0\x01k\0\x01v",
        b"\x26\0\x01k\0\x01w",
    ];
    let will: &[&[u8]] = &[
        b"\x18\0\0\0\x05",
        b"\x02\0\0\0\x09",
        b"\x01\x01",
        b"\x03\0\x01t",
        b"\x08\0\x01r",
        b"\x09\0\x01c",
        b"\x26\0\x01a\0\x01b",
    ];
    let (properties, will) = (properties.concat(), will.concat());
    let bytes = packet(
        0x10,
        &[
            b"\0\x04MQTT\x05\xD6\0\x1E",
            &[properties.len() as u8],
            &properties,
            b"\0\x03dev",
            &[will.len() as u8],
            &will,
            b"\0\x01w\0\x02\xFF\0",
            b"\0\x01u\0\x01p",
        ],
    );
    let connect = Connect {
        clean_start: true,
        keep_alive_secs: 30,
        session_expiry_secs: 120,
        authentication_method: Some("m".into()),
        authentication_data: Some(vec![0, 0xFF]),
        request_problem_information: false,
        request_response_information: true,
        receive_max: NonZeroU16::new(20).unwrap(),
        packet_bytes_max: NonZeroU32::new(256),
        topic_alias_max: 10,
        user_properties: vec![user("k", "v"), user("k", "w")],
        user_name: Some("u".into()),
        password: Some(b"p".to_vec()),
        will: Some(Will {
            topic: "w".into(),
            payload: vec![0xFF, 0],
            qos: Qos::ExactlyOnce,
            retain: false,
            delay_secs: 5,
            expiry_secs: Some(9),
            // Everything but delay and expiry, in the order of the packet.
            properties: will_block(),
        }),
        ..Connect::new(V5, "dev")
    };
    assert_eq!(connect.session_secs(), 120);
    assert_eq!(decode(V5, &bytes), Packet::Connect(Box::new(connect.clone())));
    // ntex writes the Will's properties in an order of its own; the content is the same.
    let mut out = Vec::new();
    encode(&mut out, V5, &Packet::Connect(Box::new(connect.clone()))).unwrap();
    assert_eq!(out.len(), bytes.len());
    let Packet::Connect(again) = decode(V5, &out) else { panic!() };
    let (will, expected) = (again.will.unwrap(), connect.will.unwrap());
    let properties = PublishProperties::from_block(&will.properties).unwrap();
    assert_eq!(properties.content_type(), Some("t"));
    assert_eq!(properties.response_topic(), Some("r"));
    assert_eq!(properties.correlation(), Some(&b"c"[..]));
    assert_eq!(properties.payload_is_utf8(), Some(true));
    assert_eq!(properties.user_properties().collect::<Vec<_>>(), [("a", "b")]);
    assert_eq!((will.delay_secs, will.expiry_secs), (expected.delay_secs, expected.expiry_secs));
}

/// 5.0 lets a client send a password without a user name (§3.1.2.9).
#[test]
fn connect_5_with_a_token_as_password() {
    let bytes = packet(0x10, &[b"\0\x04MQTT\x05\x42\0\0\0\0\0\0\x03tok"]);
    let connect = Connect { password: Some(b"tok".to_vec()), ..Connect::new(V5, "") };
    check(V5, &bytes, &Packet::Connect(Box::new(connect)));
}

/// A Will may carry an expiry of 0, which ntex would refuse.
#[test]
fn connect_5_with_a_will_that_expires_at_once() {
    let bytes = packet(0x10, &[b"\0\x04MQTT\x05\x06\0\0\0\0\0\x05\x02\0\0\0\0\0\x01w\0\0"]);
    let Packet::Connect(connect) = decode(V5, &bytes) else { panic!() };
    assert_eq!(connect.will.unwrap().expiry_secs, Some(0));
}

#[test]
fn a_session_of_3_lasts_for_ever_or_not_at_all() {
    let connect = Connect { clean_start: false, ..Connect::new(V3, "dev") };
    assert_eq!(connect.session_secs(), u32::MAX);
    assert_eq!(Connect::new(V3, "dev").session_secs(), 0);
}

#[test]
fn secrets_are_not_shown() {
    let connect = Connect {
        password: Some(b"hunter2".to_vec()),
        authentication_data: Some(b"hunter2".to_vec()),
        ..Connect::new(V5, "dev")
    };
    let auth = Auth { data: Some(b"hunter2".to_vec()), ..Auth::default() };
    let shown = format!("{connect:?} {auth:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
    assert!(shown.contains("hidden"));
}

#[test]
fn connack_3() {
    check(V3, b"\x20\x02\0\0", &Packet::ConnAck(Box::new(ConnAck::new(false, ReasonCode::SUCCESS))));
    check(V3, b"\x20\x02\x01\0", &Packet::ConnAck(Box::new(ConnAck::new(true, ReasonCode::SUCCESS))));
    for (code, reason) in [
        (1, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION),
        (2, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID),
        (3, ReasonCode::SERVER_UNAVAILABLE),
        (4, ReasonCode::BAD_USER_NAME_OR_PASSWORD),
        (5, ReasonCode::NOT_AUTHORIZED),
    ] {
        check(V3, &[0x20, 2, 0, code], &Packet::ConnAck(Box::new(ConnAck::new(false, reason))));
    }
}

#[test]
fn connack_5() {
    check(V5, b"\x20\x03\0\0\0", &Packet::ConnAck(Box::new(ConnAck::new(false, ReasonCode::SUCCESS))));
    check(V5, b"\x20\x03\0\x8A\0", &Packet::ConnAck(Box::new(ConnAck::new(false, ReasonCode::BANNED))));
}

#[test]
fn connack_5_with_everything() {
    let properties: &[&[u8]] = &[
        b"\x11\0\0\0\x3C",
        b"\x21\0\x0A",
        b"\x24\x01",
        b"\x25\0",
        b"\x27\0\x10\0\0",
        b"\x12\0\x02id",
        b"\x22\0\x05",
        b"\x28\0",
        b"\x29\0",
        b"\x2A\0",
        b"\x13\0\x1E",
        b"\x1A\0\x01r",
        b"\x1C\0\x01s",
        b"\x15\0\x01m",
        b"\x16\0\x01d",
        b"\x26\0\x01k\0\x01v",
        b"\x1F\0\x02ok",
    ];
    let properties = properties.concat();
    let bytes = packet(0x20, &[b"\x01\0", &[properties.len() as u8], &properties]);
    let ack = ConnAck {
        session_expiry_secs: Some(60),
        receive_max: NonZeroU16::new(10).unwrap(),
        qos_max: Qos::AtLeastOnce,
        retain_available: false,
        packet_bytes_max: NonZeroU32::new(1 << 20),
        assigned_client_id: Some("id".into()),
        topic_alias_max: 5,
        wildcard_subscriptions_available: false,
        subscription_ids_available: false,
        shared_subscriptions_available: false,
        keep_alive_secs: Some(30),
        response_information: Some("r".into()),
        server_reference: Some("s".into()),
        authentication_method: Some("m".into()),
        authentication_data: Some(b"d".to_vec()),
        user_properties: vec![user("k", "v")],
        reason_string: Some("ok".into()),
        ..ConnAck::new(true, ReasonCode::SUCCESS)
    };
    check(V5, &bytes, &Packet::ConnAck(Box::new(ack)));
}

#[test]
fn publish_3() {
    check(V3, b"\x30\x05\0\x01ahi", &Packet::Publish(publish("a", b"hi")));
    check(V3, b"\x31\x03\0\x01a", &Packet::Publish(Publish { retain: true, ..publish("a", b"") }));
    // The example of 3.1.1 §3.3.2: topic a/b, packet identifier 10.
    let example = Publish { qos: Qos::AtLeastOnce, packet_id: Some(id(10)), ..publish("a/b", b"") };
    check(V3, b"\x32\x07\0\x03a/b\0\x0A", &Packet::Publish(example));
    check(V3, b"\x3A\x07\0\x03a/b\0\x0A", &Packet::Publish(Publish { dup: true, ..example }));
    check(V3, b"\x34\x07\0\x03a/b\0\x0A", &Packet::Publish(Publish { qos: Qos::ExactlyOnce, ..example }));
}

/// U+FEFF is a character like any other [MQTT-1.5.4-3] [MQTT3-1.5.3-3], and a topic may hold any other one as well.
#[test]
fn publish_with_an_odd_topic() {
    check(V3, b"\x30\x05\0\x03\xEF\xBB\xBF", &Packet::Publish(publish("\u{FEFF}", b"")));
    check(V3, b"\x30\x06\0\x04\xF0\xAA\x9B\x94", &Packet::Publish(publish("\u{2A6D4}", b"")));
    check(V3, b"\x30\x03\0\x01/", &Packet::Publish(publish("/", b"")));
}

#[test]
fn publish_5() {
    check(V5, b"\x30\x06\0\x01a\0hi", &Packet::Publish(publish("a", b"hi")));
    let qos1 = Publish { qos: Qos::AtLeastOnce, packet_id: Some(id(10)), ..publish("a/b", b"") };
    check(V5, b"\x32\x08\0\x03a/b\0\x0A\0", &Packet::Publish(qos1));
}

#[test]
fn publish_5_with_everything() {
    // In the order in which `encode_publish` writes what belongs to the hop; the rest keeps its own order.
    let properties: &[&[u8]] = &[
        b"\x23\0\x07",
        b"\x02\0\0\0\x3C",
        b"\x0B\x01",
        b"\x0B\x80\x01",
        b"\x26\0\x01k\0\x01v",
        b"\x01\x01",
        b"\x03\0\x0Atext/plain",
        b"\x26\0\x01k\0\0",
        b"\x08\0\x03r/t",
        b"\x09\0\x02\0\xFF",
    ];
    let block = properties.concat();
    let bytes = packet(0x3D, &[b"\0\x01a\0\x0A", &[block.len() as u8], &block, b"payload"]);
    let Packet::Publish(publish) = decode(V5, &bytes) else { panic!() };
    assert_eq!(
        (publish.dup, publish.qos, publish.retain, publish.packet_id, publish.topic, publish.payload),
        (true, Qos::ExactlyOnce, true, Some(id(10)), "a", &b"payload"[..])
    );
    let properties = publish.properties;
    assert_eq!(properties.topic_alias(), NonZeroU16::new(7));
    assert_eq!(properties.expiry_secs(), Some(60));
    assert!(properties.has_subscription_ids());
    assert_eq!(properties.subscription_ids().map(NonZeroU32::get).collect::<Vec<_>>(), [1, 128]);
    assert_eq!(properties.payload_is_utf8(), Some(true));
    assert_eq!(properties.content_type(), Some("text/plain"));
    assert_eq!(properties.response_topic(), Some("r/t"));
    assert_eq!(properties.correlation(), Some(&b"\0\xFF"[..]));
    assert_eq!(properties.user_properties().collect::<Vec<_>>(), [("k", "v"), ("k", "")]);
    assert_eq!(properties.block(), block);
    let mut out = Vec::new();
    encode(&mut out, V5, &Packet::Publish(publish)).unwrap();
    assert_eq!(out, bytes);
}

#[test]
fn publish_5_with_an_alias_instead_of_a_topic() {
    let Packet::Publish(publish) = decode(V5, b"\x30\x07\0\0\x03\x23\0\x01x") else { panic!() };
    assert_eq!((publish.topic, publish.properties.topic_alias()), ("", NonZeroU16::new(1)));
}

#[test]
fn acknowledgements() {
    let ack = Ack::new(id(0x1234), ReasonCode::SUCCESS);
    for version in [V3, V5] {
        check(version, b"\x40\x02\x12\x34", &Packet::PubAck(ack));
        check(version, b"\x50\x02\x12\x34", &Packet::PubRec(ack));
        check(version, b"\x62\x02\x12\x34", &Packet::PubRel(ack));
        check(version, b"\x70\x02\x12\x34", &Packet::PubComp(ack));
    }
    // A Remaining Length of 3: a reason code and no properties (5.0 §3.4.2.2.1).
    check(
        V5,
        b"\x40\x03\x12\x34\x10",
        &Packet::PubAck(Ack::new(id(0x1234), ReasonCode::NO_MATCHING_SUBSCRIBERS)),
    );
    check(V5, b"\x50\x03\x12\x34\x97", &Packet::PubRec(Ack::new(id(0x1234), ReasonCode::QUOTA_EXCEEDED)));
    check(
        V5,
        b"\x62\x03\x12\x34\x92",
        &Packet::PubRel(Ack::new(id(0x1234), ReasonCode::PACKET_IDENTIFIER_NOT_FOUND)),
    );
    check(
        V5,
        b"\x70\x03\x12\x34\x92",
        &Packet::PubComp(Ack::new(id(0x1234), ReasonCode::PACKET_IDENTIFIER_NOT_FOUND)),
    );
    check_read(V5, b"\x40\x03\x12\x34\0", &Packet::PubAck(ack));
    check_read(V5, b"\x40\x04\x12\x34\0\0", &Packet::PubAck(ack));
    let bytes = packet(0x40, &[b"\x12\x34\x87\x0C", b"\x1F\0\x02no", b"\x26\0\x01k\0\x01v"]);
    let mut bytes = bytes;
    bytes[5] = 5 + 7;
    let Packet::PubAck(ack) = decode(V5, &bytes) else { panic!() };
    assert_eq!(ack.reason, ReasonCode::NOT_AUTHORIZED);
    assert_eq!(ack.reason_string(), Some("no"));
    assert_eq!(ack.user_properties().collect::<Vec<_>>(), [("k", "v")]);
}

#[test]
fn pings() {
    for version in [V3, V5] {
        check(version, b"\xC0\0", &Packet::PingReq);
        check(version, b"\xD0\0", &Packet::PingResp);
    }
}

#[test]
fn subscribe_3() {
    // The example of 3.1.1 §3.8.3: a/b with QoS 1, c/d with QoS 2.
    let bytes = packet(0x82, &[b"\0\x0A", b"\0\x03a/b\x01", b"\0\x03c/d\x02"]);
    let subscribe = Subscribe {
        packet_id: id(10),
        subscription_id: None,
        user_properties: Vec::new(),
        subscriptions: vec![
            Subscription::new("a/b", Qos::AtLeastOnce),
            Subscription::new("c/d", Qos::ExactlyOnce),
        ],
    };
    check(V3, &bytes, &Packet::Subscribe(Box::new(subscribe)));
}

#[test]
fn subscribe_5() {
    let bytes = packet(
        0x82,
        &[
            b"\0\x0A",
            b"\x0A",
            b"\x0B\x80\x01",
            b"\x26\0\x01k\0\x01v",
            b"\0\x01#\x2D",
            b"\0\x0A$share/g/a\x10",
        ],
    );
    let subscribe = Subscribe {
        packet_id: id(10),
        subscription_id: NonZeroU32::new(128),
        user_properties: vec![user("k", "v")],
        subscriptions: vec![
            Subscription {
                no_local: true,
                retain_as_published: true,
                retain_handling: RetainHandling::DoNotSend,
                ..Subscription::new("#", Qos::AtLeastOnce)
            },
            Subscription {
                retain_handling: RetainHandling::SendIfNew,
                ..Subscription::new("$share/g/a", Qos::AtMostOnce)
            },
        ],
    };
    check(V5, &bytes, &Packet::Subscribe(Box::new(subscribe)));
}

#[test]
fn suback_3() {
    // The example of 3.1.1 §3.9.3.
    let ack = SubAck::new(
        id(10),
        vec![ReasonCode::GRANTED_QOS_0, ReasonCode::GRANTED_QOS_2, ReasonCode::UNSPECIFIED_ERROR],
    );
    check(V3, b"\x90\x05\0\x0A\0\x02\x80", &Packet::SubAck(Box::new(ack)));
    // 3.1.1 knows one failure only.
    let mut out = Vec::new();
    let ack = SubAck::new(id(10), vec![ReasonCode::NOT_AUTHORIZED]);
    crate::encode_suback(&mut out, V3, &ack).unwrap();
    assert_eq!(out, b"\x90\x03\0\x0A\x80");
}

#[test]
fn suback_5() {
    let ack = SubAck::new(id(10), vec![ReasonCode::GRANTED_QOS_1, ReasonCode::TOPIC_FILTER_INVALID]);
    check(V5, b"\x90\x05\0\x0A\0\x01\x8F", &Packet::SubAck(Box::new(ack.clone())));
    let ack = SubAck { reason_string: Some("no".into()), user_properties: vec![user("k", "v")], ..ack };
    let bytes = packet(0x90, &[b"\0\x0A", b"\x0C", b"\x26\0\x01k\0\x01v", b"\x1F\0\x02no", b"\x01\x8F"]);
    check(V5, &bytes, &Packet::SubAck(Box::new(ack)));
}

#[test]
fn unsubscribe() {
    let mut packet = Unsubscribe {
        packet_id: id(10),
        user_properties: Vec::new(),
        filters: vec!["a/b".into(), "c/d".into()],
    };
    check(V3, b"\xA2\x0C\0\x0A\0\x03a/b\0\x03c/d", &Packet::Unsubscribe(Box::new(packet.clone())));
    check(V5, b"\xA2\x0D\0\x0A\0\0\x03a/b\0\x03c/d", &Packet::Unsubscribe(Box::new(packet.clone())));
    packet.user_properties = vec![user("k", "v")];
    packet.filters.truncate(1);
    check(V5, b"\xA2\x0F\0\x0A\x07\x26\0\x01k\0\x01v\0\x03a/b", &Packet::Unsubscribe(Box::new(packet)));
}

#[test]
fn unsuback() {
    check(V3, b"\xB0\x02\0\x0A", &Packet::UnsubAck(Box::new(UnsubAck::new(id(10), Vec::new()))));
    let ack = UnsubAck::new(id(10), vec![ReasonCode::SUCCESS, ReasonCode::NO_SUBSCRIPTION_EXISTED]);
    check(V5, b"\xB0\x05\0\x0A\0\0\x11", &Packet::UnsubAck(Box::new(ack.clone())));
    // In 3.1.1 the reasons have no place.
    let mut out = Vec::new();
    crate::encode_unsuback(&mut out, V3, &ack).unwrap();
    assert_eq!(out, b"\xB0\x02\0\x0A");
}

#[test]
fn disconnect() {
    check(V3, b"\xE0\0", &Packet::Disconnect(Box::default()));
    check_read(V5, b"\xE0\0", &Packet::Disconnect(Box::default()));
    check_read(V5, b"\xE0\x01\0", &Packet::Disconnect(Box::default()));
    check(V5, b"\xE0\x02\0\0", &Packet::Disconnect(Box::default()));
    let mut disconnect = Disconnect::new(ReasonCode::SESSION_TAKEN_OVER);
    check(V5, b"\xE0\x02\x8E\0", &Packet::Disconnect(Box::new(disconnect.clone())));
    check_read(V5, b"\xE0\x01\x8E", &Packet::Disconnect(Box::new(disconnect.clone())));
    disconnect.session_expiry_secs = Some(5);
    disconnect.server_reference = Some("s".into());
    disconnect.user_properties = vec![user("k", "v")];
    disconnect.reason_string = Some("no".into());
    let bytes = packet(
        0xE0,
        &[b"\x8E\x15", b"\x11\0\0\0\x05", b"\x1C\0\x01s", b"\x26\0\x01k\0\x01v", b"\x1F\0\x02no"],
    );
    check(V5, &bytes, &Packet::Disconnect(Box::new(disconnect)));
}

#[test]
fn auth() {
    check(V5, b"\xF0\0", &Packet::Auth(Box::default()));
    let auth = Auth {
        reason: ReasonCode::CONTINUE_AUTHENTICATION,
        method: Some("m".into()),
        data: Some(b"\0\xFF".to_vec()),
        reason_string: Some("no".into()),
        user_properties: vec![user("k", "v")],
    };
    let bytes = packet(
        0xF0,
        &[b"\x18\x15", b"\x15\0\x01m", b"\x16\0\x02\0\xFF", b"\x26\0\x01k\0\x01v", b"\x1F\0\x02no"],
    );
    check(V5, &bytes, &Packet::Auth(Box::new(auth)));
}

/// §2.4 has 43 codes; no two share a name.
#[test]
fn reason_codes() {
    let codes: Vec<ReasonCode> = (0..=u8::MAX).filter_map(ReasonCode::from_bits).collect();
    assert_eq!(codes.len(), 43);
    let names: std::collections::BTreeSet<&str> = codes.iter().map(|code| code.name()).collect();
    assert_eq!(names.len(), codes.len());
    assert_eq!(ReasonCode::QUOTA_EXCEEDED.to_string(), "Quota exceeded (0x97)");
    assert!(ReasonCode::UNSPECIFIED_ERROR.is_error() && !ReasonCode::RE_AUTHENTICATE.is_error());
    assert_eq!(ReasonCode::granted(Qos::ExactlyOnce), ReasonCode::GRANTED_QOS_2);
}
