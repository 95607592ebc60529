//! Variable Byte Integer: seven bits a byte, least significant first, at most four bytes (MQTT 5.0 §1.5.5).
//!
//! Knows: the encoding. May use: the standard library. Never: packets, errors with clauses.

/// Largest number it can carry; also the largest Remaining Length.
pub(crate) const VARINT_MAX: u32 = 268_435_455;

/// What stands at the start of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Varint {
    /// A number and how many bytes it takes.
    Whole(u32, usize),
    /// The bytes end before the number does.
    Cut,
    /// The fourth byte announces a fifth.
    TooLong,
}

/// Reads a number from the start of `bytes`.
#[inline]
pub(crate) fn read(bytes: &[u8]) -> Varint {
    // Nearly every packet and every block of properties is shorter than 128 bytes or than 16 384.
    match *bytes {
        [low @ 0..=0x7F, ..] => Varint::Whole(u32::from(low), 1),
        [low, high @ 0..=0x7F, ..] => Varint::Whole(u32::from(low & 0x7F) | u32::from(high) << 7, 2),
        _ => read_long(bytes),
    }
}

fn read_long(bytes: &[u8]) -> Varint {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Varint::Whole(value, at + 1);
        }
    }
    if bytes.len() < 4 { Varint::Cut } else { Varint::TooLong }
}

/// Bytes that `value` takes when encoded, 1 to 4; `value` is at most [`VARINT_MAX`].
#[inline]
pub(crate) const fn len(value: u32) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Appends `value`, which is at most [`VARINT_MAX`], in as few bytes as possible [MQTT-1.5.5-1].
#[inline]
pub(crate) fn write(out: &mut Vec<u8>, value: u32) {
    debug_assert!(value <= VARINT_MAX);
    let mut rest = value;
    while rest > 0x7F {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
