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
    let bytes = body.as_bytes();
    let mut scanner = Scanner { body, bytes, at: 0, paths, dates_are_undefined, filled };
    scanner.blank();
    if scanner.peek() != b'{' {
        return Err(BodyFault::Malformed);
    }
    scanner.value(0, depth_max, levels)?;
    if scanner.at == bytes.len() { Ok(()) } else { Err(BodyFault::Malformed) }
}

/// Where the first element of the array that starts at `at` is, or its closing bracket.
pub(crate) fn first_element(body: &str, at: usize) -> usize {
    let blank = |byte: &&u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    at + 1 + body.as_bytes()[at + 1..].iter().take_while(blank).count()
}

/// Fills the slots of `paths` from the element at `at` of a body that was scanned, and gives where the next one or the
/// closing bracket is; `None` if it stands at the closing bracket.
pub(crate) fn element(
    body: &str,
    at: usize,
    paths: &Paths,
    levels: &mut Vec<Level>,
    filled: &mut Filled,
) -> Option<usize> {
    let mut scanner = Scanner { body, bytes: body.as_bytes(), at, paths, dates_are_undefined: false, filled };
    if scanner.peek() == b']' {
        return None;
    }
    // The depth of the whole body was judged before.
    scanner.value(0, u32::MAX, levels).ok()?;
    if scanner.peek() == b',' {
        scanner.at += 1;
        scanner.blank();
    }
    Some(scanner.at)
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
    /// Takes one value, whatever it holds, and the white space behind it.
    #[inline(always)]
    fn value(&mut self, mut node: u32, depth_max: u32, levels: &mut Vec<Level>) -> Result<(), BodyFault> {
        levels.clear();
        // `levels` holds what is open around `open`; the innermost one stays out of memory.
        let mut open = Level { node: NOBODY, index: None };
        loop {
            // A value starts here; an opening bracket goes one level down and stays in the loop.
            match self.peek() {
                bracket @ (b'{' | b'[') => {
                    if levels.len() >= depth_max as usize {
                        return Err(BodyFault::TooDeep);
                    }
                    if let Some(inner) = self.open(bracket, node) {
                        levels.push(open);
                        open = inner;
                        node = self.member(&open)?;
                        continue;
                    }
                }
                first => self.scalar(first, node)?,
            }
            // A value ended here; close what it closes, or go on to the next one.
            loop {
                self.blank();
                if levels.is_empty() {
                    return Ok(());
                }
                let byte = self.peek();
                self.at += 1;
                if byte == b',' {
                    open.index = open.index.map(|index| index + 1);
                    self.blank();
                    node = self.member(&open)?;
                    break;
                }
                if byte != (if open.index.is_none() { b'}' } else { b']' }) {
                    return Err(BodyFault::Malformed);
                }
                open = levels.pop().ok_or(BodyFault::Malformed)?;
            }
        }
    }

    /// The byte here; 0, which no rule accepts, behind the end.
    #[inline(always)]
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn blank(&mut self) {
        // Most bodies are written without white space.
        if self.peek() <= b' ' {
            self.blanks();
        }
    }

    fn blanks(&mut self) {
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

    /// Remembers where an array starts, if an `ANY` or `ALL` asks for its elements.
    #[inline]
    fn array(&mut self, node: u32, start: usize) {
        if let Some(slot) = self.paths.array(node) {
            self.filled.write(slot, Value::Number(start as f64));
        }
    }

    #[inline]
    fn wanted(&self, node: u32) -> bool {
        node != NOBODY && !self.paths.slots(node).is_empty()
    }

    /// Takes an opening bracket; `None` if it is closed at once.
    #[inline(always)]
    fn open(&mut self, bracket: u8, node: u32) -> Option<Level> {
        let start = self.at;
        self.at += 1;
        self.write(node, Value::Undefined);
        self.blank();
        let (close, index) = if bracket == b'{' {
            (b'}', None)
        } else {
            self.array(node, start);
            (b']', Some(0))
        };
        if self.peek() == close {
            self.at += 1;
            return None;
        }
        Some(Level { node, index })
    }

    /// The node of the next value in `open`; its key, if it has one, is read.
    #[inline(always)]
    fn member(&mut self, open: &Level) -> Result<u32, BodyFault> {
        match open.index {
            None => self.key(open.node),
            Some(index) => Ok(self.element(open.node, index)),
        }
    }

    /// Reads `"key":` and the white space around the colon; gives the node of its value.
    #[inline(always)]
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
        let node = match key.escaped {
            false => self.paths.key(parent, &self.bytes[key.start..key.end]),
            true => self.escaped_key(parent, &key),
        };
        if node != NOBODY {
            self.filled.enter(node);
        }
        Ok(node)
    }

    #[cold]
    fn escaped_key(&mut self, parent: u32, key: &Quoted) -> u32 {
        let start = self.filled.unescaped.len();
        unescape(&self.body[key.start..key.end], &mut self.filled.unescaped);
        let node = self.paths.key(parent, &self.filled.unescaped.as_bytes()[start..]);
        self.filled.unescaped.truncate(start);
        node
    }

    #[inline(always)]
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

    #[inline(always)]
    fn scalar(&mut self, first: u8, node: u32) -> Result<(), BodyFault> {
        match first {
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

    #[inline(always)]
    fn number(&mut self, node: u32) -> Result<(), BodyFault> {
        let start = self.at;
        let end = number_end(self.bytes, start).ok_or(BodyFault::Malformed)?;
        self.at = end;
        if self.wanted(node) {
            let number = self.body[start..end].parse().unwrap_or(f64::NAN);
            self.write(node, Value::number(number));
        }
        Ok(())
    }

    /// Reads a text with its quotes.
    #[inline(always)]
    fn quoted(&mut self) -> Result<Quoted, BodyFault> {
        if self.peek() != b'"' {
            return Err(BodyFault::Malformed);
        }
        let start = self.at + 1;
        let end = plain_end(self.bytes, start);
        if self.bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(Quoted { start, end, escaped: false });
        }
        self.escaped(start, end)
    }

    /// The rest of a text that has an escape at `at`, or is broken there.
    #[cold]
    fn escaped(&mut self, start: usize, mut at: usize) -> Result<Quoted, BodyFault> {
        loop {
            match self.bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Quoted { start, end: at, escaped: true });
                }
                Some(b'\\') => at += escape_length(&self.bytes[at..]).ok_or(BodyFault::Malformed)?,
                _ => return Err(BodyFault::Malformed),
            }
            at = plain_end(self.bytes, at);
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

/// Where the number that starts at `at` ends (RFC 8259 §6); `None` if it is none.
#[inline(always)]
fn number_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let digits = |mut at: usize| {
        while byte(at).is_ascii_digit() {
            at += 1;
        }
        at
    };
    at += usize::from(byte(at) == b'-');
    at = match byte(at) {
        b'0' => at + 1,
        b'1'..=b'9' => digits(at + 1),
        _ => return None,
    };
    if byte(at) == b'.' {
        let end = digits(at + 1);
        (end > at + 1).then_some(())?;
        at = end;
    }
    if byte(at) | 0x20 == b'e' {
        let from = at + 1 + usize::from(matches!(byte(at + 1), b'+' | b'-'));
        let end = digits(from);
        (end > from).then_some(())?;
        at = end;
    }
    Some(at)
}

/// Where the run of plain characters from `at` ends: at a quote, a backslash, a control character or the end.
#[inline(always)]
pub(crate) fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word;
    // Eight bytes at a time: a byte is interesting if it equals '"' or '\', or is below 0x20. The lowest
    // marked byte is exact; higher marks may be false, and are not used.
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = has_zero(word ^ (ONES * b'"' as u64));
        let backslash = has_zero(word ^ (ONES * b'\\' as u64));
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let marks = (quote | backslash | control) & HIGHS;
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

/// Whether `raw`, whose escapes are valid, stands for `text`.
pub(crate) fn means(raw: &str, text: &str) -> bool {
    let (mut raw, mut text) = (raw, text);
    while let Some(at) = raw.find('\\') {
        let Some(rest) = text.strip_prefix(&raw[..at]) else { return false };
        let (c, length) = unescape_one(&raw[at..]);
        let Some(rest) = rest.strip_prefix(c) else { return false };
        (raw, text) = (&raw[at + length..], rest);
    }
    raw == text
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

#[cfg(test)]
mod tests;
