//! Payloads that can be judged: who sent them, which one, when it was due, and a checksum over everything.
//!
//! Knows: the forms: a compact binary header, JSON telemetry, and the same telemetry as CBOR. Never: MQTT, sockets, clocks.
//! In:  a [`Stamp`] and a buffer. Out: bytes; and from bytes the stamp again, or why they are not ours.
//! Invariant: one flipped bit anywhere in a payload of ours is found, but for one in 2⁶⁴.

use std::io::Write;

use crate::clock::Micros;
use crate::ledger::PublisherId;
use crate::random::Random;

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
    /// Telemetry, as JSON or CBOR.
    Telemetry(Box<Telemetry>),
}

/// How telemetry is written.
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

    /// Payloads with random walks of temperature, vibration and humidity.
    ///
    /// `bytes` is the exact length of each, at least [`TELEMETRY_BYTES_MIN`] (padded), or `None` for as short as
    /// it goes.
    #[must_use]
    pub fn telemetry(form: Form, bytes: Option<usize>, seed: u64) -> Payload {
        let mut random = Random::new(seed);
        Payload::Telemetry(Box::new(Telemetry {
            form,
            temperature: Walk::new(2_000 + random.below(1_000) as i64, (1_000, 9_000), 12),
            vibration: Walk::new(200 + random.below(300) as i64, (0, 8_000), 40),
            humidity: Walk::new(300 + random.below(300) as i64, (100, 950), 3),
            random,
            bytes,
            text: Vec::with_capacity(bytes.unwrap_or(TELEMETRY_BYTES_MIN)),
        }))
    }

    /// The next payload. Cost: the header for binary, a formatted line for telemetry.
    pub fn next(&mut self, stamp: Stamp) -> &[u8] {
        match self {
            Payload::Binary { bytes, body } => {
                write_header(bytes, *body, stamp);
                bytes
            }
            Payload::Telemetry(telemetry) => telemetry.next(stamp),
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
        return read_telemetry(payload);
    }
    if matches!(payload.first(), Some(0xA8 | 0xA9)) && payload[1..].starts_with(CBOR_RUN) {
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

/// A value that wanders between two bounds, in steps of at most `step`.
#[derive(Clone, Debug)]
struct Walk {
    value: i64,
    bounds: (i64, i64),
    step: i64,
}

impl Walk {
    fn new(value: i64, bounds: (i64, i64), step: i64) -> Walk {
        Walk { value, bounds, step }
    }

    fn next(&mut self, random: &mut Random) -> i64 {
        let step = random.below(2 * self.step as u64 + 1) as i64 - self.step;
        self.value = (self.value + step).clamp(self.bounds.0, self.bounds.1);
        self.value
    }
}

/// The state of one simulated device.
#[derive(Clone, Debug)]
pub struct Telemetry {
    form: Form,
    /// In hundredths of a degree.
    temperature: Walk,
    /// In thousandths of a millimetre per second.
    vibration: Walk,
    /// In tenths of a percent.
    humidity: Walk,
    random: Random,
    bytes: Option<usize>,
    text: Vec<u8>,
}

/// What ends every telemetry payload: the name, 16 hexadecimal digits, quote and brace.
const SUM: &[u8] = b",\"sum\":\"";
const SUM_BYTES: usize = SUM.len() + 16 + 2;
const PAD: &[u8] = b",\"pad\":\"\"";

impl Telemetry {
    fn next(&mut self, stamp: Stamp) -> &[u8] {
        let temperature = self.temperature.next(&mut self.random);
        let vibration = self.vibration.next(&mut self.random);
        let humidity = self.humidity.next(&mut self.random);
        self.text.clear();
        match self.form {
            Form::Json => self.write_json(stamp, temperature, vibration, humidity),
            Form::Cbor => self.write_cbor(stamp, temperature, vibration, humidity),
        }
        &self.text
    }

    fn write_json(&mut self, stamp: Stamp, temperature: i64, vibration: i64, humidity: i64) {
        write!(
            self.text,
            "{{\"run\":{},\"publisher\":{},\"seq\":{},\"intended_us\":{},\
             \"temperature\":{}.{:02},\"vibration\":{}.{:03},\"humidity\":{}.{}",
            stamp.run.0,
            stamp.publisher.0,
            stamp.sequence,
            stamp.intended.0,
            temperature / 100,
            temperature % 100,
            vibration / 1_000,
            vibration % 1_000,
            humidity / 10,
            humidity % 10,
        )
        .expect("writing to memory cannot fail");
        if let Some(bytes) = self.bytes {
            let missing = bytes.saturating_sub(self.text.len() + SUM_BYTES + PAD.len());
            self.text.extend_from_slice(&PAD[..PAD.len() - 1]);
            self.text.resize(self.text.len() + missing, b'.');
            self.text.push(b'"');
        }
        let sum = hash(&self.text);
        self.text.extend_from_slice(SUM);
        write!(self.text, "{sum:016x}\"}}").expect("writing to memory cannot fail");
    }

    fn write_cbor(&mut self, stamp: Stamp, temperature: i64, vibration: i64, humidity: i64) {
        let padded = self.bytes.is_some();
        self.text.push(0xA8 + u8::from(padded));
        for (name, value) in [
            (&b"run"[..], u64::from(stamp.run.0)),
            (b"publisher", u64::from(stamp.publisher.0)),
            (b"seq", stamp.sequence),
            (b"intended_us", stamp.intended.0),
        ] {
            self.cbor_name(name);
            // Always eight bytes long, so that every payload is as long as the first.
            self.text.push(0x1B);
            self.text.extend_from_slice(&value.to_be_bytes());
        }
        for (name, value, unit) in [
            (&b"temperature"[..], temperature, 100.0),
            (b"vibration", vibration, 1_000.0),
            (b"humidity", humidity, 10.0),
        ] {
            self.cbor_name(name);
            self.text.push(0xFB);
            self.text.extend_from_slice(&(value as f64 / unit).to_be_bytes());
        }
        if let Some(bytes) = self.bytes {
            self.cbor_name(b"pad");
            // A text with its length in four bytes.
            let missing = bytes.saturating_sub(self.text.len() + 5 + CBOR_SUM_BYTES);
            self.text.push(0x7A);
            self.text.extend_from_slice(&(missing as u32).to_be_bytes());
            self.text.resize(self.text.len() + missing, b'.');
        }
        let sum = hash(&self.text);
        self.text.extend_from_slice(CBOR_SUM);
        self.text.extend_from_slice(&sum.to_be_bytes());
    }

    /// A text of at most 23 bytes.
    fn cbor_name(&mut self, name: &[u8]) {
        self.text.push(0x60 + name.len() as u8);
        self.text.extend_from_slice(name);
    }
}

/// What starts every CBOR payload behind the number of its pairs, and what ends it: the name, and eight bytes.
const CBOR_RUN: &[u8] = b"\x63run\x1B";
const CBOR_SUM: &[u8] = b"\x63sum\x1B";
const CBOR_SUM_BYTES: usize = CBOR_SUM.len() + 8;

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
        let (run, rest) = number(&content[1..], b"run")?;
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

fn read_telemetry(payload: &[u8]) -> Result<Stamp, NotOurs> {
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
