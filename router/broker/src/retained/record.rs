//! A retained message on disk, as bytes; its key is the topic.
//!
//! Version 1: `u8` version · `u64` version of the message (see [`super::Version`]) · `u64` expiry in wall milliseconds
//! (0 for none) · envelope (see [`crate::envelope`]); little endian.

use std::sync::Arc;

use model::Timestamp;

use super::Version;
use crate::envelope::Envelope;

const VERSION: u8 = 1;

/// What survives of a retained message. A clone shares the bytes, so that all shards can hold the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedRecord {
    pub(super) version: u64,
    pub(super) expires: Option<Timestamp>,
    pub(super) envelope: Arc<[u8]>,
}

impl RetainedRecord {
    /// Its payload, for tests.
    #[cfg(test)]
    pub(crate) fn payload(&self) -> String {
        String::from_utf8(Envelope::decode(&self.envelope).unwrap().payload.to_vec()).unwrap()
    }
}

/// The bytes are no record that this version understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a retained message of version 1 (damaged, or written by a newer Millrace)")]
pub struct InvalidRetained;

/// Appends a retained message's record to `out`.
pub(super) fn encode(
    out: &mut Vec<u8>,
    version: Version,
    expires: Option<Timestamp>,
    envelope: &Envelope<'_>,
) {
    out.push(VERSION);
    out.extend_from_slice(&version.0.to_le_bytes());
    out.extend_from_slice(&expires.map_or(0, |at| at.0).to_le_bytes());
    envelope.encode(out);
}

/// A record as the disk holds it, for tests that start with many.
#[cfg(test)]
pub(crate) fn on_disk(topic: &str, payload: &str, qos: model::Qos) -> Vec<u8> {
    let (properties, payload) = (&[][..], payload.as_bytes());
    let mut bytes = Vec::new();
    let envelope = Envelope { topic, client_id: "early", user: "", qos, retain: true, properties, payload };
    encode(&mut bytes, Version(1 << 6), None, &envelope);
    bytes
}

/// Reads a retained message of `topic`.
pub fn decode_retained(topic: &[u8], bytes: &[u8]) -> Result<RetainedRecord, InvalidRetained> {
    let (&[layout], rest) = bytes.split_first_chunk().ok_or(InvalidRetained)?;
    let (version, rest) = rest.split_first_chunk().ok_or(InvalidRetained)?;
    let (expires, rest) = rest.split_first_chunk().ok_or(InvalidRetained)?;
    let envelope = Envelope::decode(rest).map_err(|_| InvalidRetained)?;
    if layout != VERSION || envelope.topic.as_bytes() != topic || envelope.payload.is_empty() {
        return Err(InvalidRetained);
    }
    let expires = u64::from_le_bytes(*expires);
    Ok(RetainedRecord {
        version: u64::from_le_bytes(*version),
        expires: (expires != 0).then_some(Timestamp(expires)),
        envelope: rest.into(),
    })
}
