//! Clauses that depend on earlier messages: `SAMPLE`, `THROTTLE`, `CHANGED`, each optionally `BY` a key.
//!
//! Knows: when such a clause lets a message pass. May use: `syntax`, `check`, `program`, `sha256`, `model`.
//! In:  a message whose condition holds, the time, a [`State`] of the caller. Out: whether it passes; a newer state.
//! Invariant: a state never holds more than `keys_max` keys; the keys longest unused are forgotten first, and a
//! forgotten key starts afresh, as if it had never been seen. Windows and alerts will live beside these.

use std::hash::Hasher;

use model::{Instant, Limits};
use rustc_hash::{FxHashMap, FxHasher};

use crate::Mode;
use crate::check::check_value;
use crate::diagnostic::Fault;
use crate::program::{Code, Machine, Program};
use crate::sha256;
use crate::slots::{SlotId, Slots};
use crate::syntax::{GateKind, GateText};
use crate::value::Value;

/// Longest key that is kept as it is, in bytes; of a longer one its hash is kept.
const KEY_BYTES_MAX: usize = 256;

/// A compiled clause.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    kind: Kind,
    by: Option<Code>,
    /// Of the route's name and text and the place of the clause: survives a reload that leaves the route alone.
    identity: u64,
}

#[derive(Debug, Clone)]
enum Kind {
    Sample { one_in: u64 },
    Throttle { messages: u64, micros: u64 },
    Changed { value: Code, delta: f64 },
}

/// What `SAMPLE`, `THROTTLE` and `CHANGED` remember. Owned by the caller, one per shard, bounded.
///
/// Outlives route tables: a route with the same name and text finds its entries again.
#[derive(Debug)]
pub struct State {
    /// Keys used lately; when it is half of what is allowed, it becomes `old`.
    young: FxHashMap<Box<str>, Entry>,
    old: FxHashMap<Box<str>, Entry>,
    keys_max: usize,
    forgotten: u64,
    key: String,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    since: Instant,
    count: u64,
    last: Last,
}

#[derive(Debug, Clone, Default, PartialEq)]
enum Last {
    #[default]
    Nothing,
    Null,
    Bool(bool),
    Number(f64),
    Text(Box<str>),
}

impl State {
    /// Empty, for at most `keys_max` keys (at least 2).
    pub fn new(keys_max: usize) -> State {
        let (young, old) = (FxHashMap::default(), FxHashMap::default());
        State { young, old, keys_max: keys_max.max(2), forgotten: 0, key: String::new() }
    }

    /// Keys held now.
    pub fn keys(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Keys forgotten because there were too many. If it grows, rates and changes are judged too kindly.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The entry of `self.key`, moved among the young ones.
    fn entry(&mut self) -> &mut Entry {
        if !self.young.contains_key(self.key.as_str()) {
            let (key, entry) = match self.old.remove_entry(self.key.as_str()) {
                Some(known) => known,
                None => (self.key.as_str().into(), Entry::default()),
            };
            if self.young.len() >= self.keys_max / 2 {
                self.forgotten += self.old.len() as u64;
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(key, entry);
        }
        self.young.get_mut(self.key.as_str()).expect("it was there or has just been put there")
    }
}

impl Gate {
    /// Compiles the clauses of one route; the slots they read are appended to `read`.
    pub(crate) fn compile_all(
        texts: &[GateText],
        route: (&str, &str),
        (mode, limits): (Mode, &Limits),
        slots: &mut Slots,
        program: &mut Program,
        read: &mut Vec<SlotId>,
    ) -> Result<Vec<Gate>, Vec<Fault>> {
        let mut code = |expr: &_| {
            let node = check_value(expr, mode, limits, slots)?;
            read.extend(node.slots());
            Ok::<Code, Vec<Fault>>(program.emit_route(&node))
        };
        let mut gates = Vec::new();
        for (place, text) in texts.iter().enumerate() {
            let kind = match &text.kind {
                GateKind::Sample { one_in } => Kind::Sample { one_in: *one_in },
                GateKind::Throttle { messages, micros } => {
                    Kind::Throttle { messages: *messages, micros: *micros }
                }
                GateKind::Changed { value, delta } => Kind::Changed { value: code(value)?, delta: *delta },
            };
            let by = text.by.as_ref().map(&mut code).transpose()?;
            gates.push(Gate { kind, by, identity: identity(route, place) });
        }
        Ok(gates)
    }

    /// Whether the message passes; remembers that it did.
    pub(crate) fn passes(&self, machine: &mut Machine<'_>, now: Instant, state: &mut State) -> bool {
        self.find_key(machine, state);
        match &self.kind {
            Kind::Sample { one_in } => {
                let entry = state.entry();
                entry.count = entry.count % one_in + 1;
                entry.count == 1
            }
            Kind::Throttle { messages, micros } => {
                let entry = state.entry();
                let over = now.0.saturating_sub(entry.since.0) >= *micros;
                if entry.count == 0 || over {
                    (entry.since, entry.count) = (now, 0);
                }
                entry.count = entry.count.saturating_add(1);
                entry.count <= *messages
            }
            Kind::Changed { value, delta } => {
                let value = machine.run(value);
                let entry = state.entry();
                let changed = has_changed(&entry.last, value, *delta, machine);
                if changed {
                    entry.last = remember(value, machine);
                }
                changed
            }
        }
    }

    fn find_key(&self, machine: &mut Machine<'_>, state: &mut State) {
        use std::fmt::Write;
        state.key.clear();
        write!(state.key, "{:016x}", self.identity).expect("writing to a String cannot fail");
        let Some(by) = &self.by else { return };
        match machine.run(by) {
            Value::Text(text) => {
                let text = machine.text(text);
                state.key.push('t');
                match text.len() <= KEY_BYTES_MAX {
                    true => state.key.push_str(text),
                    false => state.key.push_str(sha256::hex(&[text.as_bytes()]).as_str()),
                }
            }
            Value::Number(number) => write!(state.key, "n{number}").expect("writing to a String cannot fail"),
            Value::Bool(value) => state.key.push(if value { '1' } else { '0' }),
            Value::Null => state.key.push('z'),
            Value::Missing | Value::Undefined => {}
        }
    }
}

/// Undefined is no value and no change. The first value is one.
fn has_changed(last: &Last, value: Value, delta: f64, machine: &Machine<'_>) -> bool {
    match (last, value) {
        (_, Value::Missing | Value::Undefined) => false,
        (Last::Number(last), Value::Number(value)) if delta > 0.0 => (value - last).abs() >= delta,
        (Last::Number(last), Value::Number(value)) => *last != value,
        (Last::Bool(last), Value::Bool(value)) => *last != value,
        (Last::Text(last), Value::Text(value)) => **last != *machine.text(value),
        (Last::Null, Value::Null) => false,
        _ => true,
    }
}

fn remember(value: Value, machine: &Machine<'_>) -> Last {
    match value {
        Value::Missing | Value::Undefined => Last::Nothing,
        Value::Null => Last::Null,
        Value::Bool(value) => Last::Bool(value),
        Value::Number(value) => Last::Number(value),
        // A text too long to keep counts as changed next time: its first bytes differ in length.
        Value::Text(text) => {
            let text = machine.text(text);
            let mut end = text.len().min(4 * KEY_BYTES_MAX);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            Last::Text(text[..end].into())
        }
    }
}

fn identity((name, text): (&str, &str), place: usize) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(name.as_bytes());
    hasher.write_u8(0xFF);
    hasher.write(text.as_bytes());
    hasher.write_usize(place);
    hasher.finish()
}

#[cfg(test)]
mod tests;
