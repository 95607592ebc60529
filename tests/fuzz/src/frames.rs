//! Target `frames`: any bytes to packets and back, in both versions.
//!
//! In: a byte that says how to read the rest, then either a stream as it came from a socket, or the first byte and the
//! body of one packet, which gets its length here: so changes of a body do not end at a wrong length.
//! Held against each input: nothing panics; packets are the same wherever the network cuts; what was understood can be
//! written, is read back the same, and is written the same again.
#![no_main]

use std::num::{NonZeroU16, NonZeroU32};

use fuzz::{Choices, frame, write_seeds};
use model::Qos;
use wire::{
    AckKind, Auth, BlockBuilder, ConnAck, Connect, Disconnect, OutgoingPublish, Packet, ReasonCode, SubAck,
    Subscribe, Subscription, Unencodable, UnsubAck, Unsubscribe, Version, Will, bytes_needed, decode, split,
};

const VERSIONS: [Version; 2] = [Version::V3, Version::V5];
/// Of `how`, the first byte: the rest is one packet without its length.
const FRAMED: u8 = 1;

libfuzzer_sys::fuzz_target!(init: write_seeds(seeds), |data: &[u8]| {
    let mut choices = Choices::new(data);
    let how = choices.byte();
    let packet_bytes_max = if how & 2 == 0 { u32::MAX } else { 64 };
    if how & FRAMED != 0 {
        let (header, mut bytes) = (choices.byte(), Vec::new());
        frame(&mut bytes, header, choices.take_rest());
        stream(&bytes, packet_bytes_max);
    } else {
        let cut = 1 + usize::from(how >> 2);
        let bytes = choices.take_rest();
        stream(bytes, packet_bytes_max);
        cut_stream(bytes, cut, packet_bytes_max);
    }
});

fn stream(mut rest: &[u8], packet_bytes_max: u32) {
    while let Ok(Some(frame)) = split(rest, packet_bytes_max) {
        assert_eq!(frame.bytes(), &rest[..frame.total_len()]);
        assert_eq!(bytes_needed(rest), Some(frame.total_len()));
        assert!(frame.total_len() as u64 <= u64::from(packet_bytes_max));
        for version in VERSIONS {
            if let Ok(packet) = decode(frame, version) {
                look(&packet);
                comes_back(&packet, version);
            }
        }
        rest = &rest[frame.total_len()..];
    }
}

/// The first packet that is whole, or refused, is so with every later cut.
fn cut_stream(mut rest: &[u8], cut: usize, packet_bytes_max: u32) {
    loop {
        let whole = split(rest, packet_bytes_max);
        let mut len = 0;
        while len < rest.len() {
            len = rest.len().min(len + cut);
            match (split(&rest[..len], packet_bytes_max), &whole) {
                (Ok(None), Ok(Some(frame))) => assert!(len < frame.total_len()),
                (Ok(None), _) => {}
                (seen, whole) => assert_eq!(&seen, whole, "{len} of {} bytes", rest.len()),
            }
        }
        let Ok(Some(frame)) = whole else { return };
        rest = &rest[frame.total_len()..];
    }
}

/// Everything that is read only when somebody asks.
fn look(packet: &Packet<'_>) {
    match packet {
        Packet::Publish(publish) => {
            let properties = &publish.properties;
            assert_eq!(properties.has_subscription_ids(), properties.subscription_ids().next().is_some());
            assert!(properties.user_properties().count() <= properties.block().len());
            let _ = (properties.payload_is_utf8(), properties.content_type(), properties.response_topic());
            let _ = properties.correlation();
            let again = wire::PublishProperties::from_block(properties.block()).map(|it| it.block());
            assert_eq!(again, Ok(properties.block()));
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            let _ = (ack.reason_string(), ack.user_properties().count());
        }
        other => assert!(!format!("{other:?}").is_empty()),
    }
}

fn comes_back(packet: &Packet<'_>, version: Version) {
    let mut out = Vec::new();
    let written = encode(&mut out, version, packet);
    assert_eq!(written, Ok(()), "{version} {packet:?}");
    let frame = split(&out, u32::MAX).expect("we write what we read").expect("a whole packet");
    assert_eq!(frame.total_len(), out.len());
    let read = decode(frame, version).unwrap_or_else(|fault| panic!("{version} {packet:?}: {fault:?}"));
    assert!(same(packet, &read), "{version} {packet:?} became {read:?}");
    let mut again = Vec::new();
    assert_eq!(encode(&mut again, version, &read), Ok(()));
    assert_eq!(again, out, "{version} {packet:?}");
}

/// Equal, but for what encoders leave out or put into another order.
fn same(one: &Packet<'_>, other: &Packet<'_>) -> bool {
    match (one, other) {
        (Packet::Publish(one), Packet::Publish(other)) => {
            let (ours, theirs) = (&one.properties, &other.properties);
            (one.dup, one.qos, one.retain, one.packet_id)
                == (other.dup, other.qos, other.retain, other.packet_id)
                && (one.topic, one.payload) == (other.topic, other.payload)
                && (ours.topic_alias(), ours.expiry_secs()) == (theirs.topic_alias(), theirs.expiry_secs())
                && ours.subscription_ids().eq(theirs.subscription_ids())
                && (ours.payload_is_utf8(), ours.content_type())
                    == (theirs.payload_is_utf8(), theirs.content_type())
                && (ours.response_topic(), ours.correlation())
                    == (theirs.response_topic(), theirs.correlation())
                && ours.user_properties().eq(theirs.user_properties())
        }
        // What comes with an acknowledgement is not passed on.
        (Packet::PubAck(one), Packet::PubAck(other))
        | (Packet::PubRec(one), Packet::PubRec(other))
        | (Packet::PubRel(one), Packet::PubRel(other))
        | (Packet::PubComp(one), Packet::PubComp(other)) => {
            (one.packet_id, one.reason) == (other.packet_id, other.reason)
        }
        _ => one == other,
    }
}

/// Writes any packet with the function that is there for it.
fn encode(out: &mut Vec<u8>, version: Version, packet: &Packet<'_>) -> Result<(), Unencodable> {
    let mut ack = |kind, ack: &wire::Ack<'_>| {
        wire::encode_ack(out, version, kind, ack.packet_id, ack.reason);
        Ok(())
    };
    match packet {
        Packet::PubAck(it) => ack(AckKind::PubAck, it),
        Packet::PubRec(it) => ack(AckKind::PubRec, it),
        Packet::PubRel(it) => ack(AckKind::PubRel, it),
        Packet::PubComp(it) => ack(AckKind::PubComp, it),
        Packet::Publish(publish) => {
            let ids: Vec<u32> = publish.properties.subscription_ids().map(NonZeroU32::get).collect();
            let outgoing = OutgoingPublish {
                dup: publish.dup,
                qos: publish.qos,
                retain: publish.retain,
                packet_id: publish.packet_id,
                topic: publish.topic,
                topic_alias: publish.properties.topic_alias(),
                expiry_secs: publish.properties.expiry_secs(),
                subscription_ids: &ids,
                properties: publish.properties.block(),
                payload: publish.payload,
            };
            wire::encode_publish(out, version, &outgoing).map(drop)
        }
        Packet::PingReq => {
            wire::encode_pingreq(out);
            Ok(())
        }
        Packet::PingResp => {
            wire::encode_pingresp(out);
            Ok(())
        }
        Packet::Connect(it) => wire::encode_connect(out, it),
        Packet::ConnAck(it) => wire::encode_connack(out, version, it),
        Packet::Subscribe(it) => wire::encode_subscribe(out, version, it),
        Packet::SubAck(it) => wire::encode_suback(out, version, it),
        Packet::Unsubscribe(it) => wire::encode_unsubscribe(out, version, it),
        Packet::UnsubAck(it) => wire::encode_unsuback(out, version, it),
        Packet::Disconnect(it) => wire::encode_disconnect(out, version, it),
        Packet::Auth(it) => wire::encode_auth(out, it),
    }
}

/// Each kind of packet by itself, and a conversation with odd cuts, in both versions.
fn seeds() -> Vec<Vec<u8>> {
    let id = NonZeroU16::new(7).expect("7 is not 0");
    let mut block = BlockBuilder::new();
    let whole = block
        .payload_is_utf8(true)
        .content_type("application/json")
        .and_then(|it| it.response_topic("r/1"))
        .and_then(|it| it.correlation(&[1, 0, 255]))
        .and_then(|it| it.user("name", "value"));
    assert!(whole.is_ok());
    let user = vec![("k".to_owned(), "v".to_owned()), ("k".to_owned(), String::new())];
    let mut seeds = Vec::new();
    for version in VERSIONS {
        let will = Will {
            topic: "w".into(),
            payload: b"gone".to_vec(),
            qos: Qos::AtLeastOnce,
            delay_secs: u32::from(version == Version::V5) * 3,
            properties: if version == Version::V5 { block.as_bytes().to_vec() } else { Vec::new() },
            ..Will::default()
        };
        let mut rich = Connect {
            clean_start: false,
            keep_alive_secs: 60,
            user_name: Some("u".into()),
            password: Some(vec![0, 1]),
            will: Some(will),
            ..Connect::new(version, "c")
        };
        let mut welcome = ConnAck::new(true, ReasonCode::SUCCESS);
        let mut bye = Disconnect::default();
        if version == Version::V5 {
            rich.user_properties = user.clone();
            rich.session_expiry_secs = 3_600;
            rich.topic_alias_max = 5;
            welcome.user_properties = user.clone();
            welcome.assigned_client_id = Some("auto".into());
            bye =
                Disconnect { reason_string: Some("why".into()), ..Disconnect::new(ReasonCode::SERVER_BUSY) };
        }
        let user = if version == Version::V5 { user.clone() } else { Vec::new() };
        let mut subscriptions = vec![Subscription::new("a/+/#", Qos::AtLeastOnce)];
        subscriptions.push(Subscription::new("$share/g/b", Qos::AtMostOnce));
        let granted = vec![ReasonCode::granted(Qos::AtLeastOnce), ReasonCode::UNSPECIFIED_ERROR];
        let subscription_id = NonZeroU32::new(300).filter(|_| version == Version::V5);
        let packets = [
            Packet::Connect(Box::new(Connect::new(version, "c"))),
            Packet::Connect(Box::new(rich)),
            Packet::ConnAck(Box::new(welcome)),
            Packet::Subscribe(Box::new(Subscribe {
                packet_id: id,
                subscription_id,
                user_properties: user.clone(),
                subscriptions,
            })),
            Packet::SubAck(Box::new(SubAck {
                packet_id: id,
                reasons: granted,
                reason_string: None,
                user_properties: user.clone(),
            })),
            Packet::Unsubscribe(Box::new(Unsubscribe {
                packet_id: id,
                user_properties: user.clone(),
                filters: vec!["a".into(), "b".into()],
            })),
            Packet::UnsubAck(Box::new(UnsubAck {
                packet_id: id,
                reasons: vec![ReasonCode::SUCCESS],
                reason_string: None,
                user_properties: user,
            })),
            Packet::Disconnect(Box::new(bye)),
            Packet::PubAck(wire::Ack::new(id, ReasonCode::SUCCESS)),
            Packet::PingReq,
        ];
        let mut talk = vec![3 << 2];
        for packet in &packets {
            let mut bytes = Vec::new();
            encode(&mut bytes, version, packet).expect("seeds can be written");
            talk.extend_from_slice(&bytes);
            seeds.push(framed(&bytes));
        }
        let publish = OutgoingPublish {
            qos: Qos::AtLeastOnce,
            packet_id: Some(id),
            topic: "plant/7/temp",
            topic_alias: NonZeroU16::new(2),
            expiry_secs: Some(60),
            subscription_ids: &[1, 300],
            properties: block.as_bytes(),
            payload: b"21.5",
            ..OutgoingPublish::default()
        };
        let mut bytes = Vec::new();
        wire::encode_publish(&mut bytes, version, &publish).expect("seeds can be written");
        talk.extend_from_slice(&bytes);
        seeds.push(framed(&bytes));
        seeds.push(talk);
    }
    let auth = Auth { method: Some("m".into()), data: Some(vec![9]), ..Auth::default() };
    let mut bytes = Vec::new();
    wire::encode_auth(&mut bytes, &auth).expect("seeds can be written");
    seeds.push(framed(&bytes));
    // Every property of an acknowledgement, a length that is too long, a length written in too many bytes.
    seeds.push(b"\x01\x40\x00\x07\x10\x08\x1F\x00\x01r\x26\x00\x01k\x00\x01v".to_vec());
    seeds.push(b"\x00\x30\xFF\xFF\xFF\xFF\x7F".to_vec());
    seeds.push(b"\x00\xC0\x80\x00\x30\x03\x00\x01t".to_vec());
    seeds
}

/// `packet` as a seed without its length.
fn framed(packet: &[u8]) -> Vec<u8> {
    let body = split(packet, u32::MAX).ok().flatten().expect("a whole packet").body();
    [&[FRAMED, packet[0]], body].concat()
}
