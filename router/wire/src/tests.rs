//! Rules of the room, in four files: what packets look like, what is refused, what comes back, what never breaks.

mod examples;
mod fanout;
mod generators;
mod illegal;
mod round_trips;

use std::num::NonZeroU16;

use crate::{Frame, Packet, Version, split};

const ANY_SIZE: u32 = u32::MAX;

fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

/// The one frame that `bytes` are.
#[track_caller]
fn frame(bytes: &[u8]) -> Frame<'_> {
    let frame = split(bytes, ANY_SIZE).unwrap().expect("a whole packet");
    assert_eq!(frame.total_len(), bytes.len(), "bytes beyond the packet");
    frame
}

#[track_caller]
fn decode(version: Version, bytes: &[u8]) -> Packet<'_> {
    crate::decode(frame(bytes), version).unwrap()
}

/// Parts of a packet, written one after the other: literal bytes and strings, as examples in the standard have them.
fn packet(header: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut bytes = vec![header];
    crate::varint::write(&mut bytes, body.len() as u32);
    bytes.extend_from_slice(&body);
    bytes
}

/// Writes any packet with the function that is there for it.
fn encode(out: &mut Vec<u8>, version: Version, packet: &Packet<'_>) -> Result<(), crate::Unencodable> {
    use crate::AckKind;
    match packet {
        Packet::Publish(publish) => {
            let ids: Vec<u32> =
                publish.properties.subscription_ids().map(std::num::NonZeroU32::get).collect();
            let outgoing = crate::OutgoingPublish {
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
            crate::encode_publish(out, version, &outgoing).map(|_| ())
        }
        Packet::PubAck(ack) => {
            crate::encode_ack(out, version, AckKind::PubAck, ack.packet_id, ack.reason);
            Ok(())
        }
        Packet::PubRec(ack) => {
            crate::encode_ack(out, version, AckKind::PubRec, ack.packet_id, ack.reason);
            Ok(())
        }
        Packet::PubRel(ack) => {
            crate::encode_ack(out, version, AckKind::PubRel, ack.packet_id, ack.reason);
            Ok(())
        }
        Packet::PubComp(ack) => {
            crate::encode_ack(out, version, AckKind::PubComp, ack.packet_id, ack.reason);
            Ok(())
        }
        Packet::PingReq => {
            crate::encode_pingreq(out);
            Ok(())
        }
        Packet::PingResp => {
            crate::encode_pingresp(out);
            Ok(())
        }
        Packet::Connect(connect) => crate::encode_connect(out, connect),
        Packet::ConnAck(ack) => crate::encode_connack(out, version, ack),
        Packet::Subscribe(subscribe) => crate::encode_subscribe(out, version, subscribe),
        Packet::SubAck(ack) => crate::encode_suback(out, version, ack),
        Packet::Unsubscribe(unsubscribe) => crate::encode_unsubscribe(out, version, unsubscribe),
        Packet::UnsubAck(ack) => crate::encode_unsuback(out, version, ack),
        Packet::Disconnect(disconnect) => crate::encode_disconnect(out, version, disconnect),
        Packet::Auth(auth) => crate::encode_auth(out, auth),
    }
}
