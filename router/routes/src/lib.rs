//! Floor 1: the route language. Route text is compiled to a table once; a message gives matches.
//!
//! Knows: edgeHub's routing rules and our extensions (`router/docs/routes.md`), JSON bodies, topic filters.
//! May use: `model`. Never: I/O, clocks, threads, randomness, other rooms.
//! In:  named route texts; then messages, borrowed for a turn. Out: errors that help, or a table; then sinks,
//! each once, with priority and time to live.
//! Reading order. Text to meaning: `diagnostic`, `lexer`, `syntax`, `parser`, `types`, `functions`, `check`. What a
//! message has: `topics`, `memo`, `paths`, `slots`, `scan`, `binary`, `body`, `value`. Asking: `program`, `pattern`, `time`,
//! `elements`, `few`, `index`, `boxes`. Around it: `sink`, `project`, `gates`, `scratch`, `table` (the public face), `explain`.
//! Tests by tables and oracles: `conformance`, `reference` (the fuzz target asks it through `oracle`), `docs`.
#![forbid(unsafe_code)]

mod binary;
mod body;
mod boxes;
mod check;
#[cfg(test)]
mod conformance;
mod diagnostic;
#[cfg(test)]
mod docs;
mod document;
mod dotnet;
mod elements;
mod explain;
mod few;
mod functions;
mod gates;
mod index;
mod lexer;
mod memo;
#[cfg(feature = "oracle")]
pub mod oracle;
mod parser;
mod paths;
mod pattern;
mod program;
mod project;
#[cfg(test)]
mod reference;
#[cfg(all(feature = "oracle", not(test)))]
mod reference;
mod scan;
mod scratch;
mod sha256;
mod sink;
mod slots;
mod syntax;
mod table;
mod time;
mod topics;
mod types;
mod value;

pub use diagnostic::RouteError;
pub use explain::{Cost, Explanation, Reason, RouteExplanation, RoutePlan, Verdict};
pub use gates::State;
pub use project::{ProjectError, Projected};
pub use scratch::{Counters, Scratch};
pub use sink::{RenderError, Sink, TopicTemplate};
pub use table::{CompiledRoute, Options, RouteSpec, RouteTable};

/// Whose rules hold where edgeHub's behaviour is a bug or where it knows less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// What edgeHub accepts means what it means there, except where that is plainly a bug
    /// (`router/docs/routes.md` §6); and there is more: topic filters, more sinks, more operators.
    #[default]
    Millrace,
    /// Bug for bug as edgeHub 1.5; what it refuses is refused.
    EdgeHub,
}
