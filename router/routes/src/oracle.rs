//! The naive evaluator, for the fuzz target that holds tables against it. Behind the feature `oracle`, for nothing else.
//!
//! Knows: what `reference` says of a condition, and which sources fit a message. May use: `reference`, `parser`, `syntax`.
//! In:  the text of a route, and a message. Out: whether it is legal, and whether it matches.

use model::{Limits, Message, filter_matches};

use crate::Mode;
use crate::parser;
use crate::reference::evaluate;
use crate::syntax::Source;

/// Whether the route `text` should compile; `None` if only the compiler knows (it selects, or has a gate).
pub fn is_legal(text: &str, mode: Mode) -> Option<bool> {
    match parser::parse(text, mode, &Limits::DEFAULT) {
        Ok(route) if route.select.is_some() || !route.gates.is_empty() => None,
        Ok(route) => Some(evaluate(&route.condition, mode, &Message::new("t", b"")).is_ok()),
        Err(_) => Some(false),
    }
}

/// Whether `message` comes from the source of the route `text` and its condition is true; gates let it pass. False for
/// what is not legal.
pub fn holds(text: &str, mode: Mode, message: &Message<'_>) -> bool {
    let name = |at: usize| message.properties[at].name.to_lowercase();
    let twice = (0..message.properties.len()).any(|at| (0..at).any(|before| name(before) == name(at)));
    if mode == Mode::EdgeHub && twice {
        return false;
    }
    let Ok(route) = parser::parse(text, mode, &Limits::DEFAULT) else { return false };
    let fits = match &route.source {
        Source::Filter(filter) => filter_matches(filter, message.topic),
        Source::Path(path) => {
            let path = format!("{}/", path.trim_end_matches('*').trim_end_matches('/'));
            message.source.to_lowercase().starts_with(&path.to_lowercase())
        }
    };
    fits && evaluate(&route.condition, mode, message).is_ok_and(|truth| truth == Some(true))
}
