//! What is wrong with a route, told so that its author can repair it.
//!
//! Knows: spans (byte ranges of the route text) and how to show them. May use: the standard library.
//! In:  a route's name and text, a span, a message and perhaps a proposal. Out: one readable error.
//! Invariant: a span lies within its text and on character boundaries, or it is moved there before it is shown.

use std::fmt;
use std::ops::Range;

/// Bytes of the route text, from its first to behind its last.
pub(crate) type Span = Range<usize>;

/// Why a route does not compile.
///
/// `Display` gives several lines: the message, the line of the route, a caret under the offending
/// token, and the proposal if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteError {
    /// Name of the route.
    pub route: String,
    /// What is wrong and what was expected, one sentence.
    pub message: String,
    /// The offending token, in bytes of `text`.
    pub span: Range<usize>,
    /// The route as written.
    pub text: String,
    /// What the author may have meant.
    pub help: Option<String>,
}

impl RouteError {
    /// Line and column of the offending token, both from 1; columns count characters.
    pub fn position(&self) -> (usize, usize) {
        let start = floor_boundary(&self.text, self.span.start);
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    fn line(&self) -> &str {
        let start = floor_boundary(&self.text, self.span.start);
        let from = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let to = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
        self.text[from..to].trim_end_matches('\r')
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.position();
        let shown: String = self.line().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let start = floor_boundary(&self.text, self.span.start);
        let end = floor_boundary(&self.text, self.span.end.max(start));
        let room = shown.chars().count() + 1 - column.min(shown.chars().count() + 1);
        let width = self.text[start..end].chars().count().clamp(1, room.max(1));
        writeln!(f, "route '{}' (line {line}, column {column}): {}", self.route, self.message)?;
        writeln!(f, "  | {shown}")?;
        write!(f, "  | {}{}", " ".repeat(column - 1), "^".repeat(width))?;
        match &self.help {
            Some(help) => write!(f, "\n  = help: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for RouteError {}

/// An error that does not know yet which route it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) message: String,
    pub(crate) span: Span,
    pub(crate) help: Option<String>,
}

impl Fault {
    pub(crate) fn new(span: Span, message: impl Into<String>) -> Fault {
        Fault { message: message.into(), span, help: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn in_route(self, route: &str, text: &str) -> RouteError {
        let start = floor_boundary(text, self.span.start);
        let end = floor_boundary(text, self.span.end).max(start);
        RouteError {
            route: route.to_owned(),
            message: self.message,
            span: start..end,
            text: text.to_owned(),
            help: self.help,
        }
    }
}

/// The proposal nearest to `word`, if one is near enough to be a slip of the finger.
pub(crate) fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let allowed = 1 + word.chars().count() / 4;
    known
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance without regard to ASCII case; words are short here.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().map(|c| c.to_ascii_lowercase()).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let substitution = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests;
