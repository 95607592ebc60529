//! Payloads that can be judged: who sent them, which one, when it was due, and a checksum over everything.
//!
//! Knows: the forms: a compact binary header, and fields from a template as JSON or CBOR. Never: MQTT, sockets, clocks.
//! In:  a [`Stamp`] and a buffer. Out: bytes; and from bytes the stamp again, or why they are not ours.
//! Invariant: one flipped bit anywhere in a payload of ours is found, but for one in 2⁶⁴.

use crate::clock::Micros;
use crate::ledger::PublisherId;
use crate::random::Random;

mod template;

pub use template::{Field, RESERVED, Range, Scalar, Template, bytes_max};

/// Length of the binary header, and so the smallest binary payload, in bytes.
///
/// Layout, little-endian: magic `mlr1` · run u32 · publisher u32 · payload length u32 · sequence u64 ·
/// intended time u64 (µs since 1970) · checksum u64 over all bytes but its own.
pub const HEADER_BYTES: usize = 40;

/// Length of the shortest telemetry payload that can always be made, in bytes.
pub const TELEMETRY_BYTES_MIN: usize = 256;

const MAGIC: [u8; 4] = *b"mlr1";
const CHECKSUM_AT: usize = 32;

/// One run of the generator; tells its messages from those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId(pub u32);

/// What every message says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run.
    pub run: RunId,
    /// Who sent it.
    pub publisher: PublisherId,
    /// Which one it is, from 1 upwards per publisher.
    pub sequence: u64,
    /// When it should have been sent.
    pub intended: Micros,
}

/// Why bytes have no stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// Does not start like a payload of this generator: somebody else publishes here too.
    #[error("not made by this load generator")]
    Foreign,
    /// Starts like one, but the rest does not fit its checksum.
    #[error("changed on its way")]
    Corrupt,
}

/// Makes the payloads of one publisher.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Binary: header and a body that stays the same.
    Binary {
        /// Header and body; the header is overwritten per message.
        bytes: Vec<u8>,
        /// Checksum of the body, which never changes.
        body: u64,
    },
    /// The same in lengths that differ from message to message.
    Lengths(Box<Lengths>),
    /// Fields, as JSON or CBOR.
    Template(Box<Template>),
}

/// Binary payloads of several lengths.
#[derive(Clone, Debug)]
pub struct Lengths {
    /// Header and the longest body; shorter ones are its beginning.
    bytes: Vec<u8>,
    /// Each length, with the checksum of its body.
    choices: Vec<(usize, u64)>,
    random: Random,
}

/// How fields are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON object (RFC 8259).
    Json,
    /// A CBOR map with the same names (RFC 8949).
    Cbor,
}

impl Payload {
    /// Binary payloads of `bytes` bytes, at least [`HEADER_BYTES`]; random content from `seed`.
    #[must_use]
    pub fn binary(bytes: usize, seed: u64) -> Payload {
        let mut payload = vec![0; bytes.max(HEADER_BYTES)];
        Random::new(seed).fill(&mut payload[HEADER_BYTES..]);
        payload[..4].copy_from_slice(&MAGIC);
        let body = hash(&payload[HEADER_BYTES..]);
        Payload::Binary { bytes: payload, body }
    }

    /// Binary payloads, each with one of these lengths, at random; at least one.
    #[must_use]
    pub fn lengths(lengths: &[usize], seed: u64) -> Payload {
        let mut random = Random::new(seed);
        let longest = lengths.iter().copied().max().unwrap_or(0).max(HEADER_BYTES);
        let mut bytes = vec![0; longest];
        random.fill(&mut bytes[HEADER_BYTES..]);
        let choice = |length: &usize| {
            let length = (*length).max(HEADER_BYTES);
            (length, hash(&bytes[HEADER_BYTES..length]))
        };
        let choices = lengths.iter().map(choice).collect();
        Payload::Lengths(Box::new(Lengths { bytes, choices, random }))
    }

    /// Payloads with random walks of temperature, vibration and humidity.
    ///
    /// `bytes` is the exact length of each, at least [`TELEMETRY_BYTES_MIN`] (padded), or `None` for as short as
    /// it goes.
    #[must_use]
    pub fn telemetry(form: Form, bytes: Option<usize>, seed: u64) -> Payload {
        let mut random = Random::new(seed);
        let mut walk = |name: &str, (low, high, digits), (from, spread), step| {
            let start = Some(from + random.below(spread) as i64);
            (name.to_owned(), Field::Walk { range: Range { low, high, digits }, step, start })
        };
        let fields = [
            walk("temperature", (1_000, 9_000, 2), (2_000, 1_000), 12),
            walk("vibration", (0, 8_000, 3), (200, 300), 40),
            walk("humidity", (100, 950, 1), (300, 300), 3),
        ];
        Payload::Template(Box::new(Template::new(form, &fields, bytes, 0, random)))
    }

    /// Payloads with these fields, of the publisher with this number.
    ///
    /// `bytes` is the exact length of each, at least [`bytes_max`] (padded), or `None` for as short as it goes.
    #[must_use]
    pub fn template(
        form: Form,
        fields: &[(String, Field)],
        bytes: Option<usize>,
        number: u32,
        seed: u64,
    ) -> Payload {
        Payload::Template(Box::new(Template::new(form, fields, bytes, number, Random::new(seed))))
    }

    /// The next payload. Cost: the header for binary, every field that changes for a template.
    pub fn next(&mut self, stamp: Stamp) -> &[u8] {
        match self {
            Payload::Binary { bytes, body } => {
                write_header(bytes, *body, stamp);
                bytes
            }
            Payload::Lengths(lengths) => {
                let choice = lengths.random.below(lengths.choices.len() as u64) as usize;
                let (length, body) = lengths.choices[choice];
                let bytes = &mut lengths.bytes[..length];
                write_header(bytes, body, stamp);
                bytes
            }
            Payload::Template(template) => template.next(stamp),
        }
    }
}

/// Writes the header of `stamp` to the start of a binary payload whose body has the checksum `body`.
#[inline]
pub(crate) fn write_header(payload: &mut [u8], body: u64, stamp: Stamp) {
    let length = payload.len() as u32;
    let mut header = [0; CHECKSUM_AT];
    header[..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&stamp.run.0.to_le_bytes());
    header[8..12].copy_from_slice(&stamp.publisher.0.to_le_bytes());
    header[12..16].copy_from_slice(&length.to_le_bytes());
    header[16..24].copy_from_slice(&stamp.sequence.to_le_bytes());
    header[24..32].copy_from_slice(&stamp.intended.0.to_le_bytes());
    payload[..CHECKSUM_AT].copy_from_slice(&header);
    let checksum = mix(hash(&header), body);
    payload[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads the stamp of a payload and verifies every byte of it.
#[inline]
pub fn read(payload: &[u8]) -> Result<Stamp, NotOurs> {
    if payload.starts_with(&MAGIC) {
        return read_binary(payload);
    }
    if payload.starts_with(b"{\"run\":") {
        return read_json(payload);
    }
    if cbor_pairs(payload).is_some_and(|pairs| pairs.starts_with(CBOR_RUN)) {
        return read_cbor(payload);
    }
    Err(NotOurs::Foreign)
}

fn read_binary(payload: &[u8]) -> Result<Stamp, NotOurs> {
    if payload.len() < HEADER_BYTES {
        return Err(NotOurs::Corrupt);
    }
    let (header, body) = payload.split_at(HEADER_BYTES);
    let checksum = mix(hash(&header[..CHECKSUM_AT]), hash(body));
    if word(&header[CHECKSUM_AT..]) != checksum || half(&header[12..]) as usize != payload.len() {
        return Err(NotOurs::Corrupt);
    }
    Ok(Stamp {
        run: RunId(half(&header[4..])),
        publisher: PublisherId(half(&header[8..])),
        sequence: word(&header[16..]),
        intended: Micros(word(&header[24..])),
    })
}

/// What ends every JSON payload: the name, 16 hexadecimal digits, quote and brace.
const SUM: &[u8] = b",\"sum\":\"";
const SUM_BYTES: usize = SUM.len() + 16 + 2;
const PAD: &[u8] = b",\"pad\":\"\"";

/// What starts every CBOR payload behind the number of its pairs, and what ends it: the name, and eight bytes.
const CBOR_RUN: &[u8] = b"\x63run\x1B";
const CBOR_SUM: &[u8] = b"\x63sum\x1B";
const CBOR_SUM_BYTES: usize = CBOR_SUM.len() + 8;

/// What is behind the head of a CBOR map of up to 65 535 pairs.
fn cbor_pairs(payload: &[u8]) -> Option<&[u8]> {
    match payload.first()? {
        0xA0..=0xB7 => payload.get(1..),
        0xB8 => payload.get(2..),
        0xB9 => payload.get(3..),
        _ => None,
    }
}

fn read_cbor(payload: &[u8]) -> Result<Stamp, NotOurs> {
    fn number<'t>(bytes: &'t [u8], name: &[u8]) -> Option<(u64, &'t [u8])> {
        let rest =
            bytes.strip_prefix(&[0x60 + name.len() as u8])?.strip_prefix(name)?.strip_prefix(&[0x1B])?;
        let (value, rest) = rest.split_first_chunk()?;
        Some((u64::from_be_bytes(*value), rest))
    }
    fn parse(payload: &[u8]) -> Option<Stamp> {
        let (content, end) = payload.split_at_checked(payload.len().checked_sub(CBOR_SUM_BYTES)?)?;
        let (sum, _) = end.strip_prefix(CBOR_SUM)?.split_first_chunk()?;
        let (run, rest) = number(cbor_pairs(content)?, b"run")?;
        let (publisher, rest) = number(rest, b"publisher")?;
        let (sequence, rest) = number(rest, b"seq")?;
        let (intended, _) = number(rest, b"intended_us")?;
        (u64::from_be_bytes(*sum) == hash(content)).then_some(Stamp {
            run: RunId(u32::try_from(run).ok()?),
            publisher: PublisherId(u32::try_from(publisher).ok()?),
            sequence,
            intended: Micros(intended),
        })
    }
    parse(payload).ok_or(NotOurs::Corrupt)
}

fn read_json(payload: &[u8]) -> Result<Stamp, NotOurs> {
    fn number<'t>(text: &'t [u8], name: &[u8]) -> Option<(u64, &'t [u8])> {
        let text = text.strip_prefix(name)?;
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let value = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
        Some((value, &text[digits..]))
    }
    fn parse(payload: &[u8]) -> Option<Stamp> {
        let (content, end) = payload.split_at_checked(payload.len().checked_sub(SUM_BYTES)?)?;
        let digits = end.strip_prefix(SUM)?.strip_suffix(b"\"}")?;
        // Upper case would be the same number: a flipped bit that nobody sees.
        if digits.iter().any(u8::is_ascii_uppercase) {
            return None;
        }
        let sum = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        let (run, rest) = number(content, b"{\"run\":")?;
        let (publisher, rest) = number(rest, b",\"publisher\":")?;
        let (sequence, rest) = number(rest, b",\"seq\":")?;
        let (intended, _) = number(rest, b",\"intended_us\":")?;
        (sum == hash(content)).then_some(Stamp {
            run: RunId(u32::try_from(run).ok()?),
            publisher: PublisherId(u32::try_from(publisher).ok()?),
            sequence,
            intended: Micros(intended),
        })
    }
    parse(payload).ok_or(NotOurs::Corrupt)
}

const SEED: u64 = 0x9E37_79B9_7F4A_7C15;
const K: u64 = 0xD6E8_FEB8_6659_FD93;

/// A 64-bit checksum: four lanes of multiply and fold, so that the multiplications overlap.
///
/// Not a CRC: its instruction needs `unsafe`, and a table walks byte by byte, which would make the generator cost
/// more than the broker under test.
#[inline]
fn hash(bytes: &[u8]) -> u64 {
    let mut lanes = [SEED, SEED.rotate_left(17), SEED.rotate_left(31), SEED.rotate_left(47)];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, piece) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            *lane = fold(*lane ^ word(piece));
        }
    }
    let mut state = fold(bytes.len() as u64 ^ SEED);
    for lane in lanes {
        state = mix(state, lane);
    }
    let mut words = blocks.remainder().chunks_exact(8);
    for piece in &mut words {
        state = fold(state ^ word(piece));
    }
    let mut last = [0; 8];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    fold(state ^ u64::from_le_bytes(last))
}

/// Invertible, so that two states that differ stay different.
#[inline]
fn fold(state: u64) -> u64 {
    let product = state.wrapping_mul(K);
    product ^ (product >> 32)
}

#[inline]
fn mix(a: u64, b: u64) -> u64 {
    fold(fold(a ^ SEED).rotate_left(23) ^ b)
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes are eight bytes"))
}

#[inline]
fn half(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("four bytes are four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        run: RunId(77),
        publisher: PublisherId(4_000_000_000),
        sequence: 123_456_789_012,
        intended: Micros(1_795_000_000_123_456),
    };

    fn kinds() -> Vec<Payload> {
        vec![
            Payload::binary(HEADER_BYTES, 1),
            Payload::binary(47, 1),
            Payload::binary(256, 2),
            Payload::lengths(&[HEADER_BYTES, 47, 300], 2),
            Payload::telemetry(Form::Json, None, 3),
            Payload::telemetry(Form::Json, Some(400), 4),
            Payload::telemetry(Form::Cbor, None, 5),
            Payload::telemetry(Form::Cbor, Some(300), 6),
        ]
    }

    #[test]
    fn a_stamp_survives_its_payload() {
        for mut payload in kinds() {
            for sequence in [1, 2, u64::MAX] {
                let stamp = Stamp { sequence, ..STAMP };
                assert_eq!(read(payload.next(stamp)), Ok(stamp));
            }
        }
    }

    #[test]
    fn any_flipped_bit_is_found() {
        for mut payload in kinds() {
            let mut bytes = payload.next(STAMP).to_vec();
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(read(&bytes).is_err(), "bit {bit} of {}", bytes.len());
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            assert_eq!(read(&bytes[..bytes.len() - 1]).ok(), None, "a shortened payload");
            bytes.push(0);
            assert_eq!(read(&bytes).ok(), None, "a lengthened payload");
        }
    }

    #[test]
    fn the_payload_of_somebody_else_is_foreign_not_corrupt() {
        for text in ["", "hello", "{\"temperature\":20}", "mlr"] {
            assert_eq!(read(text.as_bytes()), Err(NotOurs::Foreign));
        }
    }

    #[test]
    fn lengths_take_turns_at_random_and_no_other_comes() {
        let mut payload = Payload::lengths(&[41, 64, 4_096], 9);
        let mut seen = std::collections::BTreeMap::new();
        for sequence in 1..=300 {
            let bytes = payload.next(Stamp { sequence, ..STAMP });
            assert_eq!(read(bytes).unwrap().sequence, sequence);
            *seen.entry(bytes.len()).or_insert(0) += 1;
        }
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [41, 64, 4_096]);
        assert!(seen.values().all(|count| *count > 60), "{seen:?}");
    }

    #[test]
    fn telemetry_is_json_of_the_length_asked_for() {
        let mut payload = Payload::telemetry(Form::Json, Some(TELEMETRY_BYTES_MIN), 9);
        let widest = Stamp { run: RunId(u32::MAX), sequence: u64::MAX, ..STAMP };
        for stamp in [STAMP, widest] {
            let text = payload.next(stamp).to_vec();
            assert_eq!(text.len(), TELEMETRY_BYTES_MIN);
            let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(value["seq"], stamp.sequence);
            assert!((10.0..=90.0).contains(&value["temperature"].as_f64().unwrap()));
        }
    }
}
