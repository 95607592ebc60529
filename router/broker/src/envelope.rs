//! A message as bytes: in the commit log, in session queues and between shards.
//!
//! In: the parts of a publication. Out: one compact record, and the parts again, borrowed.
//! Layout, version 1: `u8` version · `u8` flags (bits 0–1 QoS, bit 2 retain) · `u16` topic length · `u16` client
//! identifier length · `u32` properties length · topic · client identifier · raw MQTT 5 properties · payload; with bit 3 of
//! the flags, `u16` length of the user · user behind the client identifier; little endian. The store keeps expiry beside the record, so it is not repeated here.

use model::Qos;

const VERSION: u8 = 1;
const HEAD: usize = 10;
const RETAIN: u8 = 0b100;
const USER: u8 = 0b1000;

/// The parts of a message that is kept or handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Client identifier of the publisher.
    pub client_id: &'a str,
    /// The publisher's user, where somebody further on wants it ([`crate::Plan::keeps_user`]); else empty.
    pub user: &'a str,
    /// QoS it was published with.
    pub qos: Qos,
    /// The RETAIN flag it was published with.
    pub retain: bool,
    /// MQTT 5 properties as raw block, without topic alias and message expiry.
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

/// The bytes are no envelope that this version understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record is not a message envelope of version 1 (damaged, or written by a newer Millrace)")]
pub struct InvalidEnvelope;

impl<'a> Envelope<'a> {
    /// What a client published, as it came.
    #[inline]
    pub(crate) fn of(publish: &wire::Publish<'a>, client_id: &'a str) -> Envelope<'a> {
        Envelope {
            topic: publish.topic,
            client_id,
            user: "",
            qos: publish.qos,
            retain: publish.retain,
            properties: publish.properties.block(),
            payload: publish.payload,
        }
    }

    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        out.push(VERSION);
        let user = if self.user.is_empty() { 0 } else { USER };
        out.push(self.qos.bits() | if self.retain { RETAIN } else { 0 } | user);
        out.extend_from_slice(&(self.topic.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.client_id.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.properties.len() as u32).to_le_bytes());
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(self.client_id.as_bytes());
        if !self.user.is_empty() {
            out.extend_from_slice(&(self.user.len() as u16).to_le_bytes());
            out.extend_from_slice(self.user.as_bytes());
        }
        out.extend_from_slice(self.properties);
        out.extend_from_slice(self.payload);
    }

    /// Bytes that [`Envelope::encode`] appends.
    pub fn encoded_len(&self) -> usize {
        let user = if self.user.is_empty() { 0 } else { 2 + self.user.len() };
        HEAD + self.topic.len() + self.client_id.len() + user + self.properties.len() + self.payload.len()
    }

    /// Reads a record; everything is borrowed from `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Envelope<'a>, InvalidEnvelope> {
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or(InvalidEnvelope)?;
        if head[0] != VERSION || head[1] & !(USER | RETAIN | 0b11) != 0 {
            return Err(InvalidEnvelope);
        }
        let qos = Qos::from_bits(head[1] & 0b11).ok_or(InvalidEnvelope)?;
        let topic_len = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let client_len = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let properties_len = u32::from_le_bytes([head[6], head[7], head[8], head[9]]) as usize;
        let (topic, rest) = rest.split_at_checked(topic_len).ok_or(InvalidEnvelope)?;
        let (client_id, rest) = rest.split_at_checked(client_len).ok_or(InvalidEnvelope)?;
        let (user, rest) = if head[1] & USER == 0 {
            (&rest[..0], rest)
        } else {
            let (len, rest) = rest.split_first_chunk::<2>().ok_or(InvalidEnvelope)?;
            // Nobody has no name: that is written without the flag.
            let len = Some(usize::from(u16::from_le_bytes(*len))).filter(|len| *len > 0);
            rest.split_at_checked(len.ok_or(InvalidEnvelope)?).ok_or(InvalidEnvelope)?
        };
        let (properties, payload) = rest.split_at_checked(properties_len).ok_or(InvalidEnvelope)?;
        Ok(Envelope {
            topic: std::str::from_utf8(topic).map_err(|_| InvalidEnvelope)?,
            client_id: std::str::from_utf8(client_id).map_err(|_| InvalidEnvelope)?,
            user: std::str::from_utf8(user).map_err(|_| InvalidEnvelope)?,
            qos,
            retain: head[1] & RETAIN != 0,
            properties,
            payload,
        })
    }
}

/// The topic of a record that was made by [`Envelope::encode`].
#[inline]
pub(crate) fn topic_of(record: &[u8]) -> &[u8] {
    let len = usize::from(u16::from_le_bytes([record[2], record[3]]));
    &record[HEAD..HEAD + len]
}

/// Whether such a record has a payload.
#[inline]
pub(crate) fn has_payload(record: &[u8]) -> bool {
    let texts = [u16::from_le_bytes([record[2], record[3]]), u16::from_le_bytes([record[4], record[5]])];
    let properties_len = u32::from_le_bytes([record[6], record[7], record[8], record[9]]) as usize;
    let texts_len = usize::from(texts[0]) + usize::from(texts[1]);
    let user_len = if record[1] & USER == 0 {
        0
    } else {
        let at = HEAD + texts_len;
        2 + usize::from(u16::from_le_bytes([record[at], record[at + 1]]))
    };
    record.len() > HEAD + texts_len + user_len + properties_len
}

#[cfg(test)]
mod tests;
