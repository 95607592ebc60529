//! CBOR (RFC 8949) and MessagePack bodies into the same slots as JSON.
//!
//! Knows: both formats, as far as they say what JSON can say. May use: `paths`, `slots`, `value`, `scan` (faults).
//! In:  a body, the paths somebody needs. Out: slot values; texts are copied beside the body, because they need
//! not be valid UTF-8 as a whole there.
//! Invariant: no recursion; each byte is looked at once; a length larger than the body is a fault, not a loop.

use crate::paths::{NOBODY, Paths};
use crate::scan::BodyFault;
use crate::slots::Filled;
use crate::value::{Origin, TextAt, Value};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Cbor,
    MessagePack,
}

/// What stands at a place of a body.
enum Item<'b> {
    Value(Value),
    Text(&'b [u8]),
    /// Bytes, an extension, a tag's content that is no JSON: there, but undefined.
    Opaque,
    /// Elements; `None` until a break.
    Array(Option<u64>),
    /// Pairs; `None` until a break.
    Map(Option<u64>),
    Break,
}

/// An open array or map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    node: u32,
    is_map: bool,
    /// Values still to come; `None` until a break.
    left: Option<u64>,
    index: u32,
}

/// Fills the slots of `paths` from `body`. On an error some may be filled: the caller forgets them.
pub(crate) fn scan(
    body: &[u8],
    encoding: Encoding,
    paths: &Paths,
    depth_max: u32,
    opened: &mut Vec<Open>,
    filled: &mut Filled,
) -> Result<(), BodyFault> {
    opened.clear();
    let mut reader = Reader { body, at: 0, encoding };
    let Item::Map(left) = reader.item()? else { return Err(BodyFault::Malformed) };
    opened.push(Open { node: 0, is_map: true, left, index: 0 });
    reader.fill(paths, depth_max, opened, filled)?;
    if reader.at == body.len() { Ok(()) } else { Err(BodyFault::Malformed) }
}

/// Where the first element of the array at `at` is, and how many there are, if that is said.
pub(crate) fn first_element(body: &[u8], encoding: Encoding, at: usize) -> (usize, Option<u64>) {
    let mut reader = Reader { body, at, encoding };
    match reader.item() {
        Ok(Item::Array(left)) => (reader.at, left),
        // The scan was there before and saw an array.
        _ => (body.len(), Some(0)),
    }
}

/// Fills the slots of `paths` from the element at a place of a body that was scanned, and gives where it ends; `None`
/// if there is no element. `left` counts those still to come.
pub(crate) fn element(
    body: &[u8],
    encoding: Encoding,
    (at, left): (usize, &mut Option<u64>),
    paths: &Paths,
    opened: &mut Vec<Open>,
    filled: &mut Filled,
) -> Option<usize> {
    let mut reader = Reader { body, at, encoding };
    if *left == Some(0) || (left.is_none() && reader.take_break()) {
        return None;
    }
    *left = left.map(|left| left - 1);
    opened.clear();
    match reader.item().ok()? {
        Item::Array(left) => opened.push(Open { node: 0, is_map: false, left, index: 0 }),
        Item::Map(left) => opened.push(Open { node: 0, is_map: true, left, index: 0 }),
        scalar => write(&scalar, 0, paths, filled),
    }
    if !opened.is_empty() {
        write(&Item::Opaque, 0, paths, filled);
        // The depth of the whole body was judged before.
        reader.fill(paths, u32::MAX, opened, filled).ok()?;
    }
    Some(reader.at)
}

fn write(item: &Item<'_>, node: u32, paths: &Paths, filled: &mut Filled) {
    if node == NOBODY || paths.slots(node).is_empty() {
        return;
    }
    let value = match item {
        Item::Value(value) => *value,
        Item::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => {
                let start = filled.unescaped.len() as u32;
                filled.unescaped.push_str(text);
                Value::Text(TextAt { origin: Origin::Unescaped, start, length: text.len() as u32 })
            }
            Err(_) => Value::Undefined,
        },
        _ => Value::Undefined,
    };
    for &slot in paths.slots(node) {
        filled.write(slot, value);
    }
}

struct Reader<'b> {
    body: &'b [u8],
    at: usize,
    encoding: Encoding,
}

impl<'b> Reader<'b> {
    /// Takes what is in `opened`, and all it holds.
    fn fill(
        &mut self,
        paths: &Paths,
        depth_max: u32,
        opened: &mut Vec<Open>,
        filled: &mut Filled,
    ) -> Result<(), BodyFault> {
        while let Some(open) = opened.last_mut() {
            if open.left == Some(0) || (open.left.is_none() && self.take_break()) {
                opened.pop();
                continue;
            }
            open.left = open.left.map(|left| left - 1);
            let node = match open.is_map {
                true => self.key(open.node, paths)?,
                false => {
                    open.index = open.index.saturating_add(1);
                    if open.node == NOBODY { NOBODY } else { paths.index(open.node, open.index - 1) }
                }
            };
            if node != NOBODY {
                filled.enter(node);
            }
            let start = self.at;
            let item = self.item()?;
            let (is_map, left) = match item {
                Item::Array(left) => (false, left),
                Item::Map(left) => (true, left),
                Item::Break => return Err(BodyFault::Malformed),
                scalar => {
                    write(&scalar, node, paths, filled);
                    continue;
                }
            };
            if opened.len() >= depth_max as usize {
                return Err(BodyFault::TooDeep);
            }
            write(&Item::Opaque, node, paths, filled);
            if let Some(slot) = paths.array(node).filter(|_| !is_map) {
                filled.write(slot, Value::Number(start as f64));
            }
            opened.push(Open { node, is_map, left, index: 0 });
        }
        Ok(())
    }

    fn item(&mut self) -> Result<Item<'b>, BodyFault> {
        match self.encoding {
            Encoding::Cbor => self.cbor(),
            Encoding::MessagePack => self.message_pack(),
        }
    }

    /// The node of a map's next key; a key that is no text leads nowhere.
    fn key(&mut self, parent: u32, paths: &Paths) -> Result<u32, BodyFault> {
        match self.item()? {
            Item::Text(key) if parent != NOBODY => Ok(paths.key(parent, key)),
            Item::Text(_) | Item::Value(_) | Item::Opaque => Ok(NOBODY),
            // A key that is itself a map has no counterpart in JSON.
            Item::Array(_) | Item::Map(_) | Item::Break => Err(BodyFault::Malformed),
        }
    }

    fn take_break(&mut self) -> bool {
        let found = self.body.get(self.at) == Some(&0xFF);
        self.at += usize::from(found);
        found
    }

    fn bytes(&mut self, length: u64) -> Result<&'b [u8], BodyFault> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let length = usize::try_from(length).map_err(|_| BodyFault::Malformed)?;
        let bytes = rest.get(..length).ok_or(BodyFault::Malformed)?;
        self.at += length;
        Ok(bytes)
    }

    /// A big-endian number of 1, 2, 4 or 8 bytes.
    fn number(&mut self, length: u64) -> Result<u64, BodyFault> {
        Ok(self.bytes(length)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn cbor(&mut self) -> Result<Item<'b>, BodyFault> {
        loop {
            let first = self.number(1)?;
            let (major, info) = (first >> 5, first & 0x1F);
            let argument = match info {
                0..=23 => Some(info),
                24..=27 => Some(self.number(1 << (info - 24))?),
                31 => None,
                _ => return Err(BodyFault::Malformed),
            };
            return Ok(match (major, argument) {
                (0, Some(number)) => Item::Value(Value::Number(number as f64)),
                (1, Some(number)) => Item::Value(Value::Number(-1.0 - number as f64)),
                (2, Some(length)) => {
                    self.bytes(length)?;
                    Item::Opaque
                }
                (3, Some(length)) => Item::Text(self.bytes(length)?),
                (2 | 3, None) => self.cbor_chunks(major)?,
                (4, count) => Item::Array(count),
                (5, count) => Item::Map(count),
                // A tag says how to read what follows; to conditions it is what follows.
                (6, Some(_)) => continue,
                (7, None) => Item::Break,
                (7, Some(argument)) => cbor_simple(info, argument),
                _ => return Err(BodyFault::Malformed),
            });
        }
    }

    /// A text in chunks is rare and is not put together.
    fn cbor_chunks(&mut self, major: u64) -> Result<Item<'b>, BodyFault> {
        while !self.take_break() {
            let first = self.number(1)?;
            let length = match (first >> 5 == major, first & 0x1F) {
                (true, info @ 0..=23) => info,
                (true, info @ 24..=27) => self.number(1 << (info - 24))?,
                _ => return Err(BodyFault::Malformed),
            };
            self.bytes(length)?;
        }
        Ok(Item::Opaque)
    }

    fn message_pack(&mut self) -> Result<Item<'b>, BodyFault> {
        let first = self.number(1)?;
        let sized = |reader: &mut Reader<'b>, bytes: u64| reader.number(bytes);
        Ok(match first {
            0x00..=0x7F => Item::Value(Value::Number(first as f64)),
            0x80..=0x8F => Item::Map(Some(first & 0x0F)),
            0x90..=0x9F => Item::Array(Some(first & 0x0F)),
            0xA0..=0xBF => Item::Text(self.bytes(first & 0x1F)?),
            0xC0 => Item::Value(Value::Null),
            0xC2 | 0xC3 => Item::Value(Value::Bool(first == 0xC3)),
            0xC4..=0xC6 => {
                let length = sized(self, 1 << (first - 0xC4))?;
                self.bytes(length)?;
                Item::Opaque
            }
            0xC7..=0xC9 => {
                let length = sized(self, 1 << (first - 0xC7))?;
                self.bytes(length.saturating_add(1))?;
                Item::Opaque
            }
            0xCA => Item::Value(Value::number(f64::from(f32::from_bits(self.number(4)? as u32)))),
            0xCB => Item::Value(Value::number(f64::from_bits(self.number(8)?))),
            0xCC..=0xCF => Item::Value(Value::Number(self.number(1 << (first - 0xCC))? as f64)),
            0xD0..=0xD3 => {
                let bits = 8u32 << (first - 0xD0);
                let number = self.number(1 << (first - 0xD0))?;
                let signed = (number << (64 - bits)) as i64 >> (64 - bits);
                Item::Value(Value::Number(signed as f64))
            }
            0xD4..=0xD8 => {
                self.bytes((1 << (first - 0xD4)) + 1)?;
                Item::Opaque
            }
            0xD9..=0xDB => {
                let length = sized(self, 1 << (first - 0xD9))?;
                Item::Text(self.bytes(length)?)
            }
            0xDC | 0xDD => Item::Array(Some(sized(self, 2 << (first - 0xDC))?)),
            0xDE | 0xDF => Item::Map(Some(sized(self, 2 << (first - 0xDE))?)),
            0xE0..=0xFF => Item::Value(Value::Number(first as f64 - 256.0)),
            _ => return Err(BodyFault::Malformed),
        })
    }
}

fn cbor_simple<'b>(info: u64, argument: u64) -> Item<'b> {
    match info {
        20 | 21 => Item::Value(Value::Bool(info == 21)),
        22 => Item::Value(Value::Null),
        25 => Item::Value(Value::number(half(argument as u16))),
        26 => Item::Value(Value::number(f64::from(f32::from_bits(argument as u32)))),
        27 => Item::Value(Value::number(f64::from_bits(argument))),
        _ => Item::Opaque,
    }
}

/// A number of 16 bits (RFC 8949, appendix D).
fn half(bits: u16) -> f64 {
    let (exponent, mantissa) = (bits >> 10 & 0x1F, f64::from(bits & 0x3FF));
    let size = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (mantissa + 1024.0) * 2f64.powi(i32::from(exponent) - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests;
