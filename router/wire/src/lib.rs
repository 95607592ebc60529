//! Floor 1: MQTT bytes to packets and back, 3.1.1 and 5.0.
//!
//! Knows: the standard, as far as one packet alone can obey or break it; every rule has its clause beside it.
//! May use: `model`, and ntex-mqtt's codecs for packets off the hot path, whose types nobody outside sees.
//! Never: sockets, clocks, sessions, or state from one packet to the next.
//! In: bytes as they were read. Out: packets that borrow from them, or the rule they break and what to answer.
//! Invariant: what `encode_*` writes, [`split`] and [`decode`] read back the same; no bytes make them panic.
//!
//! ```
//! use wire::{OutgoingPublish, Packet, Version, decode, encode_publish, split};
//!
//! let mut out = Vec::new();
//! let publish = OutgoingPublish { topic: "plant/7/temp", payload: b"21.5", ..Default::default() };
//! encode_publish(&mut out, Version::V5, &publish)?;
//!
//! let mut rest = &out[..];
//! while let Some(frame) = split(rest, 1 << 20)? {
//!     rest = &rest[frame.total_len()..];
//!     let Packet::Publish(publish) = decode(frame, Version::V5)? else { unreachable!() };
//!     assert_eq!((publish.topic, publish.payload), ("plant/7/temp", &b"21.5"[..]));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod acks;
mod bridge;
mod connect;
mod disconnect;
mod frames;
mod malformed;
mod packet;
mod properties;
mod publish;
mod reason;
mod runs;
mod subscribe;
mod text;
mod varint;

pub use acks::{Ack, AckKind, encode_ack, encode_pingreq, encode_pingresp, encode_refusal};
pub use connect::{ConnAck, Connect, RECEIVE_MAX_DEFAULT, Will, encode_connack, encode_connect};
pub use disconnect::{Auth, Disconnect, encode_auth, encode_disconnect};
pub use frames::{Frame, bytes_needed, split};
pub use malformed::{Malformed, Refusal, Rule};
pub use packet::{Packet, PacketType, Unencodable, Version, decode, decode_apart};
pub use properties::{BlockBuilder, PublishProperties, SubscriptionIds, UserProperties};
pub use publish::{OutgoingPublish, Placed, Publish, encode_publish, encode_publish_head, set_dup};
pub use reason::ReasonCode;
pub use runs::Run;
pub use subscribe::{
    RetainHandling, SubAck, Subscribe, Subscription, UnsubAck, Unsubscribe, encode_suback, encode_subscribe,
    encode_unsuback, encode_unsubscribe,
};

#[cfg(test)]
mod tests;
