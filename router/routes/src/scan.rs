//! One pass over a JSON body that fills the slots of all routes (RFC 8259).
//!
//! Knows: JSON's grammar, in full: a body is used only if all of it is well-formed. May use: `paths`, `slots`, `value`.
//! In:  a body as text, the paths somebody needs. Out: slot values; texts stay in the body unless they had escapes.
//! Invariant: no recursion, no allocation after warm-up, time linear in the body, whatever it contains.
//! Of duplicate keys the last one counts, as in edgeHub's parser.

use crate::paths::{NOBODY, Paths};
use crate::slots::Filled;
use crate::value::{Origin, TextAt, Value};

/// Why a body gives no values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFault {
    /// It is not well-formed, or its root is no object.
    Malformed,
    /// It is nested deeper than allowed.
    TooDeep,
}

/// An open object or array.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    node: u32,
    /// `None` in an object, else the index of the element.
    index: Option<u32>,
}

/// Fills the slots of `paths` from `body`. On an error some may be filled: the caller forgets them.
pub(crate) fn scan(
    body: &str,
    paths: &Paths,
    depth_max: u32,
    dates_are_undefined: bool,
    levels: &mut Vec<Level>,
    filled: &mut Filled,
) -> Result<(), BodyFault> {
    levels.clear();
    let bytes = body.as_bytes();
    let mut scanner = Scanner { body, bytes, at: 0, paths, dates_are_undefined, filled };
    scanner.blank();
    if scanner.peek() != b'{' {
        return Err(BodyFault::Malformed);
    }
    let mut node = 0;
    loop {
        // A value starts here; an opening bracket goes one level down and stays in the loop.
        let opened = match scanner.peek() {
            b'{' => Some(None),
            b'[' => Some(Some(0)),
            _ => None,
        };
        if let Some(index) = opened {
            if levels.len() >= depth_max as usize {
                return Err(BodyFault::TooDeep);
            }
            scanner.at += 1;
            scanner.write(node, Value::Undefined);
            scanner.blank();
            let close = if index.is_none() { b'}' } else { b']' };
            if scanner.peek() == close {
                scanner.at += 1;
            } else {
                levels.push(Level { node, index });
                node = if index.is_none() { scanner.key(node)? } else { scanner.element(node, 0) };
                continue;
            }
        } else {
            scanner.scalar(node)?;
        }
        // A value ended here; close what it closes, or go on to the next one.
        loop {
            scanner.blank();
            let Some(level) = levels.last_mut() else {
                return if scanner.at == bytes.len() { Ok(()) } else { Err(BodyFault::Malformed) };
            };
            match (scanner.peek(), &mut level.index) {
                (b',', None) => {
                    scanner.at += 1;
                    scanner.blank();
                    node = scanner.key(level.node)?;
                    break;
                }
                (b',', Some(index)) => {
                    scanner.at += 1;
                    scanner.blank();
                    *index += 1;
                    node = scanner.element(level.node, *index);
                    break;
                }
                (b'}', None) | (b']', Some(_)) => {
                    scanner.at += 1;
                    levels.pop();
                }
                _ => return Err(BodyFault::Malformed),
            }
        }
    }
}

struct Scanner<'s> {
    body: &'s str,
    bytes: &'s [u8],
    at: usize,
    paths: &'s Paths,
    dates_are_undefined: bool,
    filled: &'s mut Filled,
}

/// A text between its quotes.
struct Quoted {
    start: usize,
    end: usize,
    escaped: bool,
}

impl Scanner<'_> {
    /// The byte here; 0, which no rule accepts, behind the end.
    #[inline]
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    fn blank(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    #[inline]
    fn write(&mut self, node: u32, value: Value) {
        if node == NOBODY {
            return;
        }
        for &slot in self.paths.slots(node) {
            self.filled.write(slot, value);
        }
    }

    #[inline]
    fn wanted(&self, node: u32) -> bool {
        node != NOBODY && !self.paths.slots(node).is_empty()
    }

    /// Reads `"key":` and the white space around the colon; gives the node of its value.
    #[inline]
    fn key(&mut self, parent: u32) -> Result<u32, BodyFault> {
        let key = self.quoted()?;
        self.blank();
        if self.peek() != b':' {
            return Err(BodyFault::Malformed);
        }
        self.at += 1;
        self.blank();
        if parent == NOBODY {
            return Ok(NOBODY);
        }
        let node = if key.escaped {
            let start = self.filled.unescaped.len();
            unescape(&self.body[key.start..key.end], &mut self.filled.unescaped);
            let node = self.paths.key(parent, &self.filled.unescaped[start..]);
            self.filled.unescaped.truncate(start);
            node
        } else {
            self.paths.key(parent, &self.body[key.start..key.end])
        };
        if node != NOBODY {
            self.filled.enter(node);
        }
        Ok(node)
    }

    #[inline]
    fn element(&mut self, parent: u32, index: u32) -> u32 {
        if parent == NOBODY {
            return NOBODY;
        }
        let node = self.paths.index(parent, index);
        if node != NOBODY {
            self.filled.enter(node);
        }
        node
    }

    #[inline]
    fn scalar(&mut self, node: u32) -> Result<(), BodyFault> {
        match self.peek() {
            b'"' => {
                let quoted = self.quoted()?;
                if self.wanted(node) {
                    let value = self.text(&quoted);
                    self.write(node, value);
                }
                Ok(())
            }
            b'-' | b'0'..=b'9' => self.number(node),
            b't' => self.word(b"true", node, Value::Bool(true)),
            b'f' => self.word(b"false", node, Value::Bool(false)),
            b'n' => self.word(b"null", node, Value::Null),
            _ => Err(BodyFault::Malformed),
        }
    }

    fn word(&mut self, word: &[u8], node: u32, value: Value) -> Result<(), BodyFault> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(BodyFault::Malformed);
        }
        self.at += word.len();
        self.write(node, value);
        Ok(())
    }

    fn number(&mut self, node: u32) -> Result<(), BodyFault> {
        let start = self.at;
        if self.peek() == b'-' {
            self.at += 1;
        }
        match self.peek() {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return Err(BodyFault::Malformed),
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.some_digits()?;
        }
        if self.wanted(node) {
            let number = self.body[start..self.at].parse().unwrap_or(f64::NAN);
            self.write(node, Value::number(number));
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Result<(), BodyFault> {
        if !self.peek().is_ascii_digit() {
            return Err(BodyFault::Malformed);
        }
        self.digits();
        Ok(())
    }

    /// Reads a text with its quotes.
    #[inline]
    fn quoted(&mut self) -> Result<Quoted, BodyFault> {
        if self.peek() != b'"' {
            return Err(BodyFault::Malformed);
        }
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at = plain_end(self.bytes, self.at);
            match self.peek() {
                b'"' => {
                    let end = self.at;
                    self.at += 1;
                    return Ok(Quoted { start, end, escaped });
                }
                b'\\' => {
                    escaped = true;
                    self.at += escape_length(&self.bytes[self.at..]).ok_or(BodyFault::Malformed)?;
                }
                _ => return Err(BodyFault::Malformed),
            }
        }
    }

    fn text(&mut self, quoted: &Quoted) -> Value {
        let raw = &self.body[quoted.start..quoted.end];
        let (at, text) = if quoted.escaped {
            let start = self.filled.unescaped.len();
            unescape(raw, &mut self.filled.unescaped);
            let text = &self.filled.unescaped[start..];
            (TextAt { origin: Origin::Unescaped, start: start as u32, length: text.len() as u32 }, text)
        } else {
            (TextAt { origin: Origin::Body, start: quoted.start as u32, length: raw.len() as u32 }, raw)
        };
        if self.dates_are_undefined && crate::dotnet::looks_like_date(text) {
            return Value::Undefined;
        }
        Value::Text(at)
    }
}

/// Where the run of plain characters from `at` ends: at a quote, a backslash, a control character or the end.
#[inline]
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    // Eight bytes at a time: a byte is interesting if it equals '"' or '\', or is below 0x20. The lowest
    // marked byte is exact; higher marks may be false, and are not used.
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("the slice has eight bytes"));
        let quote = has_zero(word ^ (ONES * b'"' as u64));
        let backslash = has_zero(word ^ (ONES * b'\\' as u64));
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let marks = quote | backslash | control;
        if marks != 0 {
            return at + marks.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            break;
        }
        at += 1;
    }
    at
}

fn escape_length(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => bytes.get(2..6)?.iter().all(u8::is_ascii_hexdigit).then_some(6),
        _ => None,
    }
}

/// Appends `raw`, whose escapes are valid. Half of a surrogate pair becomes U+FFFD.
pub(crate) fn unescape(raw: &str, out: &mut String) {
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let (c, length) = unescape_one(&rest[at..]);
        out.push(c);
        rest = &rest[at + length..];
    }
    out.push_str(rest);
}

fn unescape_one(text: &str) -> (char, usize) {
    let simple = match text.as_bytes()[1] {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unescape_unit(text),
        other => char::from(other),
    };
    (simple, 2)
}

fn unescape_unit(text: &str) -> (char, usize) {
    let unit = |at: usize| {
        let escape = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(escape, 16).ok()
    };
    let first = unit(0).unwrap_or(0xFFFD);
    if let (0xD800..=0xDBFF, Some(second @ 0xDC00..=0xDFFF)) = (first, unit(6)) {
        let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        return (char::from_u32(code).unwrap_or('\u{FFFD}'), 12);
    }
    (char::from_u32(first).unwrap_or('\u{FFFD}'), 6)
}
