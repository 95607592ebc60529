//! The PUBLISH packets of one publisher, made cheaply: a copy and two patches where all are alike.
//!
//! Knows: topics, properties, payloads of one publisher. May use: `payload`, `wire`. Never: when, or how many.

use std::num::NonZeroU16;

use model::Qos;
use wire::{BlockBuilder, OutgoingPublish, Placed, Version};

use crate::conn::ConnError;
use crate::pattern::Pattern;
use crate::payload::{HEADER_BYTES, Payload, Stamp};

/// What every PUBLISH of one publisher has in common.
pub(super) struct Head {
    topic: String,
    /// Where there are several topics: how they are named, whose they are, how many there are.
    topics: Option<(Pattern, u32, u64)>,
    qos: Qos,
    retain: bool,
    /// A block of properties; empty in 3.1.1.
    properties: Vec<u8>,
}

impl Head {
    /// `number` is the publisher's; `properties` is a block of [`properties`].
    pub(super) fn new(
        topic: &Pattern,
        topics: u32,
        number: u32,
        (qos, retain): (Qos, bool),
        properties: Vec<u8>,
    ) -> Head {
        let several = (topics > 1).then(|| (topic.clone(), number, u64::from(topics)));
        Head { topic: topic.expand_with(number, 1), topics: several, qos, retain, properties }
    }

    fn choose_topic(&mut self, sequence: u64) {
        if let Some((pattern, number, topics)) = &self.topics {
            self.topic = pattern.expand_with(*number, (sequence - 1) % topics + 1);
        }
    }

    fn publish<'t>(&'t self, payload: &'t [u8], packet_id: Option<NonZeroU16>) -> OutgoingPublish<'t> {
        OutgoingPublish {
            qos: self.qos,
            retain: self.retain,
            packet_id,
            topic: &self.topic,
            properties: &self.properties,
            payload,
            ..OutgoingPublish::default()
        }
    }
}

/// The block of every PUBLISH; empty in 3.1.1, which has no properties.
pub(super) fn properties(
    version: Version,
    content_type: Option<&str>,
    user: &[(String, String)],
) -> Result<Vec<u8>, ConnError> {
    let mut block = BlockBuilder::new();
    if version == Version::V5 {
        if let Some(content_type) = content_type {
            block.content_type(content_type)?;
        }
        for (name, value) in user {
            block.user(name, value)?;
        }
    }
    Ok(block.into_bytes())
}

/// Makes the frames of one publisher.
pub(super) enum Frames {
    /// All alike but for packet identifier and payload header: a copy and two patches.
    Template { frame: Vec<u8>, placed: Placed, payload_at: usize, body: u64 },
    /// Encoded one by one.
    Each { payload: Payload, head: Head, version: Version },
}

impl Frames {
    pub(super) fn new(payload: Payload, head: Head, version: Version) -> Result<Frames, ConnError> {
        match &payload {
            Payload::Binary { bytes, body } if head.topics.is_none() => {
                let mut frame = Vec::new();
                let placed = wire::encode_publish(&mut frame, version, &head.publish(bytes, None))?;
                Ok(Frames::Template { payload_at: frame.len() - bytes.len(), frame, placed, body: *body })
            }
            _ => Ok(Frames::Each { payload, head, version }),
        }
    }

    #[inline]
    pub(super) fn write(
        &mut self,
        out: &mut Vec<u8>,
        stamp: Stamp,
        packet_id: Option<NonZeroU16>,
    ) -> Result<(), ConnError> {
        match self {
            Frames::Template { frame, placed, payload_at, body } => {
                if let Some(packet_id) = packet_id {
                    placed.patch(frame, packet_id);
                }
                crate::payload::write_header(&mut frame[*payload_at..], *body, stamp);
                out.extend_from_slice(frame);
            }
            Frames::Each { payload, head, version } => {
                head.choose_topic(stamp.sequence);
                wire::encode_publish(out, *version, &head.publish(payload.next(stamp), packet_id))?;
            }
        }
        Ok(())
    }
}

const _: () =
    assert!(HEADER_BYTES < 64, "a header is patched per message and should stay within a cache line");

#[cfg(test)]
mod tests {
    use wire::Packet;

    use super::*;
    use crate::clock::Micros;
    use crate::ledger::PublisherId;
    use crate::payload::RunId;

    fn stamp(sequence: u64) -> Stamp {
        Stamp { run: RunId(1), publisher: PublisherId(1), sequence, intended: Micros(9) }
    }

    fn head(pattern: &str, topics: u32, version: Version) -> Head {
        let pattern = Pattern::parse(pattern, &["publisher", "topic"]).unwrap();
        let user = [("site".to_owned(), "north".to_owned()), ("site".to_owned(), "south".to_owned())];
        let block = properties(version, Some("text/plain"), &user).unwrap();
        Head::new(&pattern, topics, 1, (Qos::AtLeastOnce, false), block)
    }

    #[test]
    fn a_template_writes_what_the_encoder_would() {
        for version in [Version::V3, Version::V5] {
            let mut payload = Payload::binary(100, 5);
            let mut frames =
                Frames::new(payload.clone(), head("load/{publisher}", 1, version), version).unwrap();
            for sequence in 1..4 {
                let (mut made, mut expected) = (Vec::new(), Vec::new());
                let packet_id = NonZeroU16::new(sequence as u16);
                frames.write(&mut made, stamp(sequence), packet_id).unwrap();
                let publish = head("load/{publisher}", 1, version);
                let publish = publish.publish(payload.next(stamp(sequence)), packet_id);
                wire::encode_publish(&mut expected, version, &publish).unwrap();
                assert_eq!(made, expected);
            }
        }
    }

    #[test]
    fn several_topics_take_turns_and_user_properties_keep_their_order() {
        let version = Version::V5;
        let mut frames =
            Frames::new(Payload::binary(64, 5), head("r/{publisher}/{topic:02}", 3, version), version);
        let frames = frames.as_mut().unwrap();
        let mut topics = Vec::new();
        for sequence in 1..=4 {
            let mut out = Vec::new();
            frames.write(&mut out, stamp(sequence), NonZeroU16::new(1)).unwrap();
            let frame = wire::split(&out, 1 << 20).unwrap().unwrap();
            let Packet::Publish(publish) = wire::decode(frame, version).unwrap() else { panic!("a PUBLISH") };
            topics.push(publish.topic.to_owned());
            let user: Vec<_> = publish.properties.user_properties().collect();
            assert_eq!(user, [("site", "north"), ("site", "south")]);
        }
        assert_eq!(topics, ["r/1/01", "r/1/02", "r/1/03", "r/1/01"]);
    }
}
