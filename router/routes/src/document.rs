//! Walking a JSON text that is known to be well-formed: the body after its scan.
//!
//! Knows: where values start and end. May use: `scan`, `paths`. In: a text, a path. Out: pieces of the text.
//! Invariant: each call takes time linear in what it passes over; the text is not checked again, so a text that
//! is not well-formed gives nonsense, but no panic and no endless loop.

use crate::paths::Step;
use crate::scan::{means, plain_end};

/// A place in a well-formed document.
pub(crate) struct Walker<'b> {
    body: &'b str,
    at: usize,
}

impl<'b> Walker<'b> {
    /// Stands before the first value of `body`.
    pub(crate) fn new(body: &'b str) -> Walker<'b> {
        let mut walker = Walker { body, at: 0 };
        walker.blank();
        walker
    }

    pub(crate) fn peek(&self) -> u8 {
        self.body.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    fn blank(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// Takes a string; gives what stands between its quotes, escapes and all.
    fn text(&mut self) -> &'b str {
        let start = self.at + 1;
        self.at = start;
        loop {
            self.at = plain_end(self.body.as_bytes(), self.at);
            match self.peek() {
                b'\\' => self.at += 2,
                _ => break,
            }
        }
        let text = &self.body[start..self.at];
        self.at += 1;
        text
    }

    /// Takes any value; gives it as written.
    pub(crate) fn value(&mut self) -> &'b str {
        let (start, mut depth) = (self.at, 0);
        loop {
            match self.peek() {
                b'"' => {
                    self.text();
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                _ => self.word(),
            }
            if depth == 0 || self.at >= self.body.len() {
                return &self.body[start..self.at];
            }
        }
    }

    /// Takes a number, `true`, `false` or `null`.
    fn word(&mut self) {
        while !matches!(self.peek(), b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t' | 0) {
            self.at += 1;
        }
    }

    /// Takes an opening bracket and calls `with` at each member: its key or index comes as an argument, the
    /// walker stands before its value, which `with` must take.
    pub(crate) fn members(&mut self, mut with: impl FnMut(&mut Walker<'b>, Member<'_>)) {
        let object = self.peek() == b'{';
        self.at += 1;
        let mut index = 0;
        loop {
            self.blank();
            match self.peek() {
                b'}' | b']' | 0 => {
                    self.at += 1;
                    return;
                }
                b',' => {
                    self.at += 1;
                    continue;
                }
                _ => {}
            }
            if object {
                let raw = self.text();
                self.blank();
                self.at += 1;
                self.blank();
                with(self, Member::Key(raw));
            } else {
                with(self, Member::Index(index));
                index += 1;
            }
        }
    }
}

/// What leads to a value.
pub(crate) enum Member<'m> {
    /// The key as written, escapes and all.
    Key(&'m str),
    Index(u32),
}

impl Member<'_> {
    /// Whether it is this key, however that is written in the document.
    pub(crate) fn is_key(&self, wanted: &str) -> bool {
        match self {
            Member::Key(raw) => means(raw, wanted),
            Member::Index(_) => false,
        }
    }
}

/// The part at `path`, of duplicate keys the last.
pub(crate) fn find<'b>(body: &'b str, path: &[Step]) -> Option<&'b str> {
    let mut found = Some(Walker::new(body).value());
    for step in path {
        let within = found?;
        let mut walker = Walker::new(within);
        if !matches!((walker.peek(), step), (b'{', Step::Key(_)) | (b'[', Step::Index(_))) {
            return None;
        }
        found = None;
        walker.members(|walker, member| {
            let value = walker.value();
            match (member, step) {
                (member, Step::Key(wanted)) if member.is_key(wanted) => found = Some(value),
                (Member::Index(index), Step::Index(wanted)) if index == *wanted => found = Some(value),
                _ => {}
            }
        });
    }
    found
}
