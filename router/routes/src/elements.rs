//! The elements of one array, one after the other: what `ANY` and `ALL` look at.
//!
//! Knows: where the scan of the body met the array, so nothing in front of it is looked at again.
//! May use: `scan`, `binary`, `paths`, `slots`. In: a body that was found well-formed, the place of an array in it, the
//! paths that one `ANY` or `ALL` wants of each element. Out: the parts of one element at a time.
//! Invariant: the same rules as in the body (of duplicate keys the last one counts, whatever the format); no recursion,
//! no allocation after warm-up; of one message at most `Limits::body_elements_bytes_max` bytes are looked at this way,
//! all routes together, so a hostile body costs what it costs once and not once per route.

use model::Limits;

use crate::binary::{self, Encoding, Open};
use crate::paths::Paths;
use crate::scan::{self, Level};
use crate::slots::{Filled, SlotId};
use crate::value::{Origin, TextAt, Value};

/// A body after its scan.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scanned<'b> {
    Json(&'b str),
    Binary(&'b [u8], Encoding),
}

/// What walking needs, and the element at hand.
#[derive(Debug, Default)]
pub(crate) struct Elements {
    filled: Filled,
    levels: Vec<Level>,
    opened: Vec<Open>,
    /// What may still be looked at for this message.
    bytes_left: usize,
    /// Walks that stopped because that was used up.
    pub(crate) given_up: u64,
}

/// A place between two elements of an array.
#[derive(Debug)]
pub(crate) struct Cursor {
    at: usize,
    /// Elements still to come, where the format says so in advance.
    left: Option<u64>,
}

/// What stands at a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// An element; its parts are there.
    Element,
    /// The end of the array.
    End,
    /// An element that would cost more than is left.
    TooMuch,
}

impl Elements {
    /// A new message.
    pub(crate) fn begin(&mut self, limits: &Limits) {
        self.bytes_left = limits.body_elements_bytes_max as usize;
    }

    /// In front of the first element of the array that starts at `at`.
    pub(crate) fn walk(&self, body: Scanned<'_>, at: usize) -> Cursor {
        match body {
            Scanned::Json(text) => Cursor { at: scan::first_element(text, at), left: None },
            Scanned::Binary(bytes, encoding) => {
                let (at, left) = binary::first_element(bytes, encoding, at);
                Cursor { at, left }
            }
        }
    }

    /// Takes the next element and keeps those of its parts that `paths` want.
    pub(crate) fn next(&mut self, body: Scanned<'_>, cursor: &mut Cursor, paths: &Paths) -> Step {
        self.filled.begin(paths.slot_count(), paths.len());
        let (filled, from) = (&mut self.filled, cursor.at);
        let end = match body {
            Scanned::Json(text) => scan::element(text, from, paths, &mut self.levels, filled),
            Scanned::Binary(bytes, encoding) => {
                let left = &mut cursor.left;
                binary::element(bytes, encoding, (from, left), paths, &mut self.opened, filled)
            }
        };
        let Some(end) = end else { return Step::End };
        cursor.at = end;
        match self.bytes_left.checked_sub(end - from) {
            Some(left) => self.bytes_left = left,
            None => {
                // What is left is not enough for this one, and nothing behind it is looked at either.
                self.bytes_left = 0;
                self.given_up += 1;
                return Step::TooMuch;
            }
        }
        self.filled.settle(paths);
        Step::Element
    }

    /// A part of the element at hand, by its number among the paths.
    pub(crate) fn part(&self, number: u32) -> Value {
        match self.filled.read(SlotId(number)) {
            Value::Missing => Value::Undefined,
            // It lies here, not beside the texts of the whole body.
            Value::Text(at @ TextAt { origin: Origin::Unescaped, .. }) => {
                Value::Text(TextAt { origin: Origin::Element, ..at })
            }
            value => value,
        }
    }

    /// The texts of the element that could not stay in the body.
    pub(crate) fn texts(&self) -> &str {
        &self.filled.unescaped
    }
}

#[cfg(test)]
mod tests;
