//! Messages that the upstream never accepts: why, and how they stand in their poison lane.
//!
//! In: a refusal and the record it is about. Out: one record for the lane `p/UPLINK`, and its parts again, borrowed.
//! Layout, version 1, little endian: `u8` version · `u8` kind of reason · `u8` MQTT reason code, missing field or 0 · `u8` 0 ·
//! `u16` attempts · `u16` 0 · `u32` lane it comes from · `u32` most bytes the upstream takes, entry of the topic map or 0 ·
//! `u64` its place there ·
//! `u64` moved aside, Unix ms · `u64` enqueued, Unix ms · `u64` expires, Unix ms, 2⁶⁴ − 1 for never · the record as it was.

use std::fmt;

use model::{LaneId, Seq, Timestamp};
use wire::ReasonCode;

use super::template::Hole;

const VERSION: u8 = 1;
const HEAD: usize = 48;

/// Why the upstream never accepts a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It answered so.
    Answered(ReasonCode),
    /// It takes no packet of this size.
    TooLarge {
        /// The largest it takes.
        bytes_max: u32,
    },
    /// What is stored is no message that this version can read.
    Unreadable,
    /// It ends the connection whenever the message comes; with this reason, if it gives one.
    EndsLink(Option<ReasonCode>),
    /// Its topic there needs something that it does not have.
    MissingField {
        /// The entry of the topic map, counted from 1.
        entry: u32,
        /// What it does not have.
        hole: Hole,
    },
    /// It has something that the other end has no way to be told.
    Unfit(Unfit),
}

/// What the other end has no way to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Its topic there would be none: wildcards, nothing, or too long.
    Topic,
    /// Its properties fit nowhere.
    Properties,
    /// It names an identity that has no way of its own to the other end.
    Identity,
    /// It names an identity that is not its publisher's, and its publisher may not speak for others.
    Sender,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Answered(reason) => write!(f, "the upstream answers {reason}"),
            Refusal::TooLarge { bytes_max } => {
                write!(f, "it is larger than the {bytes_max} bytes that the upstream takes")
            }
            Refusal::Unreadable => f.write_str("its record cannot be read"),
            Refusal::EndsLink(None) => f.write_str("the upstream ends the connection at it"),
            Refusal::EndsLink(Some(reason)) => write!(f, "the upstream ends the connection at it: {reason}"),
            Refusal::MissingField { entry, hole } => {
                let what = match hole {
                    Hole::Level => "a topic level",
                    Hole::ClientId => "a client identifier",
                    Hole::User => "a user (its publisher is anonymous)",
                    Hole::Property => "a property",
                };
                write!(
                    f,
                    "entry {entry} of the uplink's topics needs {what} that it does not have; give the hole another text \
                     ({{hole|text}}) or its publisher the field, then retry it"
                )
            }
            Refusal::Unfit(Unfit::Topic) => f.write_str(
                "what the uplink's topics make of it is no topic (it has a wildcard, is empty or too long); mend the entry, then retry it",
            ),
            Refusal::Unfit(Unfit::Properties) => f.write_str(
                "it has properties that the upstream has no place for; change them at their publisher, or drop it",
            ),
            Refusal::Unfit(Unfit::Identity) => f.write_str(
                "it is from an identity that may not use this uplink; add the identity there, then retry it",
            ),
            Refusal::Unfit(Unfit::Sender) => f.write_str(
                "its topic says that it is from a device or module that its publisher is not; let its publisher log in as that one, or \
                 add the publisher's user to the uplink's speakers, then retry it",
            ),
        }
    }
}

/// One record of a poison lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poison<'a> {
    /// Why it is there.
    pub why: Refusal,
    /// How often it was tried.
    pub attempts: u16,
    /// The lane it comes from.
    pub lane: LaneId,
    /// Its place there.
    pub seq: Seq,
    /// When it was moved aside.
    pub moved: Timestamp,
    /// When it was enqueued there.
    pub enqueued: Timestamp,
    /// From when on it does not matter any more.
    pub expires: Option<Timestamp>,
    /// The record as it was.
    pub record: &'a [u8],
}

/// The bytes are no record of a poison lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no record of a poison lane in version 1 (damaged, or written by a newer Millrace)")]
pub struct InvalidPoison;

impl<'a> Poison<'a> {
    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, code, number) = match self.why {
            Refusal::Answered(reason) => (1, reason.bits(), 0),
            Refusal::TooLarge { bytes_max } => (2, 0, bytes_max),
            Refusal::Unreadable => (3, 0, 0),
            Refusal::EndsLink(reason) => (4, reason.map_or(0, ReasonCode::bits), 0),
            Refusal::MissingField { entry, hole } => {
                let hole = match hole {
                    Hole::Level => 0,
                    Hole::ClientId => 1,
                    Hole::Property => 2,
                    Hole::User => 3,
                };
                (5, hole, entry)
            }
            Refusal::Unfit(Unfit::Topic) => (6, 0, 0),
            Refusal::Unfit(Unfit::Properties) => (6, 1, 0),
            Refusal::Unfit(Unfit::Identity) => (6, 2, 0),
            Refusal::Unfit(Unfit::Sender) => (6, 3, 0),
        };
        out.reserve(HEAD + self.record.len());
        out.extend_from_slice(&[VERSION, kind, code, 0]);
        out.extend_from_slice(&self.attempts.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.lane.0.to_le_bytes());
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&self.seq.get().to_le_bytes());
        out.extend_from_slice(&self.moved.0.to_le_bytes());
        out.extend_from_slice(&self.enqueued.0.to_le_bytes());
        out.extend_from_slice(&self.expires.map_or(u64::MAX, |at| at.0).to_le_bytes());
        out.extend_from_slice(self.record);
    }

    /// Reads a record; what it holds is borrowed from `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Poison<'a>, InvalidPoison> {
        let (head, record) = bytes.split_first_chunk::<HEAD>().ok_or(InvalidPoison)?;
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let reason = ReasonCode::from_bits(head[2]);
        let why = match (head[0], head[1]) {
            (VERSION, 1) => Refusal::Answered(reason.ok_or(InvalidPoison)?),
            (VERSION, 2) => Refusal::TooLarge { bytes_max: u32_at(12) },
            (VERSION, 3) => Refusal::Unreadable,
            (VERSION, 4) => Refusal::EndsLink(reason.filter(|reason| reason.is_error())),
            (VERSION, 5) => {
                let hole = match head[2] {
                    0 => Hole::Level,
                    1 => Hole::ClientId,
                    2 => Hole::Property,
                    3 => Hole::User,
                    _ => return Err(InvalidPoison),
                };
                Refusal::MissingField { entry: u32_at(12), hole }
            }
            (VERSION, 6) => Refusal::Unfit(match head[2] {
                0 => Unfit::Topic,
                1 => Unfit::Properties,
                2 => Unfit::Identity,
                3 => Unfit::Sender,
                _ => return Err(InvalidPoison),
            }),
            _ => return Err(InvalidPoison),
        };
        Ok(Poison {
            why,
            attempts: u16::from_le_bytes([head[4], head[5]]),
            lane: LaneId(u32_at(8)),
            seq: Seq::new(u64_at(16)).ok_or(InvalidPoison)?,
            moved: Timestamp(u64_at(24)),
            enqueued: Timestamp(u64_at(32)),
            expires: Some(u64_at(40)).filter(|at| *at != u64::MAX).map(Timestamp),
            record,
        })
    }
}

/// What an answer to a publication means for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Taken.
    Taken,
    /// Not now: tried again for ever. The upstream wants less, not something else.
    Later,
    /// Not so: tried again, a bounded number of times. Rights and limits at the upstream may be mended.
    Perhaps,
    /// Never: the same bytes get the same answer.
    Never,
}

/// What an answer to a publication means for it.
pub(super) fn judge(answer: ReasonCode) -> Verdict {
    match answer {
        _ if !answer.is_error() => Verdict::Taken,
        ReasonCode::QUOTA_EXCEEDED
        | ReasonCode::MESSAGE_RATE_TOO_HIGH
        | ReasonCode::PACKET_IDENTIFIER_IN_USE => Verdict::Later,
        ReasonCode::TOPIC_NAME_INVALID
        | ReasonCode::PAYLOAD_FORMAT_INVALID
        | ReasonCode::PACKET_TOO_LARGE => Verdict::Never,
        _ => Verdict::Perhaps,
    }
}

/// Whether the upstream wants less with this: fewer messages, or fewer connections.
pub(super) fn is_throttling(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::QUOTA_EXCEEDED
            | ReasonCode::MESSAGE_RATE_TOO_HIGH
            | ReasonCode::CONNECTION_RATE_EXCEEDED
            | ReasonCode::SERVER_BUSY
    )
}

/// Whether an end of the connection with this reason may be about what was in flight.
pub(super) fn is_about_a_message(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::UNSPECIFIED_ERROR
            | ReasonCode::MALFORMED_PACKET
            | ReasonCode::PROTOCOL_ERROR
            | ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
            | ReasonCode::NOT_AUTHORIZED
            | ReasonCode::TOPIC_NAME_INVALID
            | ReasonCode::PACKET_TOO_LARGE
            | ReasonCode::PAYLOAD_FORMAT_INVALID
            | ReasonCode::RETAIN_NOT_SUPPORTED
            | ReasonCode::QOS_NOT_SUPPORTED
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_anything_else_is_refused() {
        for why in [
            Refusal::Answered(ReasonCode::NOT_AUTHORIZED),
            Refusal::TooLarge { bytes_max: 200 },
            Refusal::Unreadable,
            Refusal::EndsLink(None),
            Refusal::EndsLink(Some(ReasonCode::PROTOCOL_ERROR)),
            Refusal::MissingField { entry: 3, hole: Hole::Level },
            Refusal::MissingField { entry: 1, hole: Hole::ClientId },
            Refusal::MissingField { entry: 1, hole: Hole::Property },
            Refusal::MissingField { entry: 2, hole: Hole::User },
            Refusal::Unfit(Unfit::Topic),
            Refusal::Unfit(Unfit::Properties),
            Refusal::Unfit(Unfit::Identity),
            Refusal::Unfit(Unfit::Sender),
        ] {
            let poison = Poison {
                why,
                attempts: 5,
                lane: LaneId(7),
                seq: Seq::new(1 << 40).expect("not zero"),
                moved: Timestamp(3),
                enqueued: Timestamp(2),
                expires: (why != Refusal::Unreadable).then_some(Timestamp(9)),
                record: b"as it was",
            };
            let mut bytes = Vec::new();
            poison.encode(&mut bytes);
            assert_eq!(Poison::decode(&bytes), Ok(poison));
            for cut in 0..HEAD {
                assert_eq!(Poison::decode(&bytes[..cut]), Err(InvalidPoison));
            }
            bytes[0] = 2;
            assert_eq!(Poison::decode(&bytes), Err(InvalidPoison));
        }
    }
}
