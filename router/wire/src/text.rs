//! The elementary fields of every packet: integers, strings, binary data (MQTT 5.0 §1.5).
//!
//! Knows: how each field is written and what makes one invalid. May use: `varint`, `malformed`.
//! Never: which packet a field belongs to; the caller adds that to the error.
//! In: a borrowed body. Out: values borrowed from it.
//! Invariant: nothing is read beyond the end of the body, whatever the lengths in it say.

use crate::malformed::Rule;
use crate::varint::{self, Varint};

/// Reads fields one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'t> {
    rest: &'t [u8],
}

impl<'t> Reader<'t> {
    #[inline]
    pub(crate) const fn new(bytes: &'t [u8]) -> Reader<'t> {
        Reader { rest: bytes }
    }

    /// What has not been read yet.
    #[inline]
    pub(crate) const fn rest(&self) -> &'t [u8] {
        self.rest
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'t [u8], Rule> {
        // [MQTT-4.13.1-1]: a field that reaches beyond its packet cannot be parsed.
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Rule::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, Rule> {
        let (&byte, rest) = self.rest.split_first().ok_or(Rule::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    pub(crate) fn two(&mut self) -> Result<u16, Rule> {
        let (&bytes, rest) = self.rest.split_first_chunk().ok_or(Rule::Truncated)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(bytes))
    }

    #[inline]
    pub(crate) fn four(&mut self) -> Result<u32, Rule> {
        let (&bytes, rest) = self.rest.split_first_chunk().ok_or(Rule::Truncated)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(bytes))
    }

    /// A Variable Byte Integer, in as few bytes as possible [MQTT-1.5.5-1].
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u32, Rule> {
        match varint::read(self.rest) {
            Varint::Whole(value, len) => {
                if len != varint::len(value) {
                    return Err(Rule::VarintNotMinimal);
                }
                self.rest = &self.rest[len..];
                Ok(value)
            }
            Varint::Cut => Err(Rule::Truncated),
            Varint::TooLong => Err(Rule::VarintTooLong),
        }
    }

    /// Binary Data: two bytes of length, then that many bytes (MQTT 5.0 §1.5.6).
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'t [u8], Rule> {
        let len = self.two()?;
        self.take(usize::from(len))
    }

    /// A UTF-8 Encoded String (MQTT 5.0 §1.5.4).
    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'t str, Rule> {
        let text = self.utf8()?;
        // [MQTT-1.5.4-2] [MQTT3-1.5.3-2]
        if contains_null(text) { Err(Rule::NullCharacter) } else { Ok(text) }
    }

    /// A string of which only the UTF-8 has been checked; for callers that look at every byte anyway.
    #[inline]
    pub(crate) fn utf8(&mut self) -> Result<&'t str, Rule> {
        // [MQTT-1.5.4-1] [MQTT3-1.5.3-1]: surrogates are not UTF-8 to Rust either.
        // [MQTT-1.5.4-3] [MQTT3-1.5.3-3]: U+FEFF stays where it is.
        std::str::from_utf8(self.binary()?).map_err(|_| Rule::InvalidUtf8)
    }

    /// A packet identifier, which is never 0.
    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<std::num::NonZeroU16, Rule> {
        // [MQTT-2.2.1-3] [MQTT-2.2.1-4] [MQTT3-2.3.1-1]
        std::num::NonZeroU16::new(self.two()?).ok_or(Rule::PacketIdZero)
    }

    /// Nothing may follow.
    #[inline]
    pub(crate) fn finish(self) -> Result<(), Rule> {
        if self.rest.is_empty() { Ok(()) } else { Err(Rule::TrailingBytes) }
    }
}

/// Whether a string holds U+0000.
#[inline]
pub(crate) fn contains_null(text: &str) -> bool {
    any_word(text.as_bytes(), has_zero)
}

/// Whether a topic name holds what it may not: U+0000 or a wildcard.
#[inline]
pub(crate) fn contains_null_or_wildcard(text: &str) -> bool {
    const PLUS: u64 = EVERY_BYTE * b'+' as u64;
    const HASH: u64 = EVERY_BYTE * b'#' as u64;
    any_word(text.as_bytes(), |word| has_zero(word) | has_zero(word ^ PLUS) | has_zero(word ^ HASH))
}

const EVERY_BYTE: u64 = 0x0101_0101_0101_0101;

/// The high bit of every byte that is 0 (and perhaps of some above one that is).
#[inline]
const fn has_zero(word: u64) -> u64 {
    word.wrapping_sub(EVERY_BYTE) & !word & (EVERY_BYTE << 7)
}

/// Whether `test` finds something in any eight bytes. Topics are short: eight at a time, the last eight once more,
/// costs half of what a loop over bytes does, vectorised or not.
#[inline]
fn any_word(bytes: &[u8], test: impl Fn(u64) -> u64) -> bool {
    let (words, _) = bytes.as_chunks::<8>();
    let mut found = 0;
    for &word in words {
        found |= test(u64::from_le_bytes(word));
    }
    match bytes.last_chunk::<8>() {
        Some(&last) => found |= test(u64::from_le_bytes(last)),
        None => {
            // 0xFF stands where there is nothing: it is in no UTF-8 and nobody looks for it.
            let mut word = [0xFF; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            found |= test(u64::from_le_bytes(word));
        }
    }
    found != 0
}
