//! Reads one TOML table key by key and notes every error with file, key, value found and values allowed.
//!
//! Knows: TOML values. Never: what keys mean.
//! Invariant: after `finish`, every key of the table was asked for, or an error names it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use model::Qos;
use toml::{Table, Value};

use crate::pattern::Pattern;

/// One table of a file, while it is being read.
pub(super) struct Section<'a> {
    file: &'a str,
    path: String,
    table: &'a Table,
    asked: Vec<String>,
    errors: &'a mut Vec<String>,
}

static NOTHING: std::sync::LazyLock<Table> = std::sync::LazyLock::new(Table::new);

impl<'a> Section<'a> {
    pub(super) fn root(file: &'a str, table: &'a Table, errors: &'a mut Vec<String>) -> Section<'a> {
        Section { file, path: String::new(), table, asked: Vec::new(), errors }
    }

    /// The table at `key`; an empty one if it is missing; `None` if it is something else.
    pub(super) fn section(&mut self, key: &str) -> Option<Section<'_>> {
        let table = match self.value(key) {
            None => &*NOTHING,
            Some(Value::Table(table)) => table,
            Some(other) => {
                self.error(key, &format!("{} found, a table [{}] expected", shown(other), self.full(key)));
                return None;
            }
        };
        let path = self.full(key);
        Some(Section { file: self.file, path, table, asked: Vec::new(), errors: self.errors })
    }

    /// The table at place `index` of the list at `key`.
    pub(super) fn item<'s>(&'s mut self, key: &str, index: usize, table: &'s Table) -> Section<'s> {
        let path = format!("{}[{index}]", self.full(key));
        Section { file: self.file, path, table, asked: Vec::new(), errors: self.errors }
    }

    /// Every key that is there, in order.
    pub(super) fn keys(&self) -> Vec<String> {
        self.table.keys().cloned().collect()
    }

    /// Whether the key is there at all.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn is_text(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(Value::is_str)
    }

    /// The whole number at a key, without judging it.
    pub(super) fn integer(&self, key: &str) -> Option<i64> {
        self.table.get(key).and_then(Value::as_integer)
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        match self.value(key)? {
            Value::String(text) => Some(text.clone()),
            other => self.refuse(key, other, "a text in quotes"),
        }
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        match self.value(key)? {
            Value::Boolean(flag) => Some(*flag),
            other => self.refuse(key, other, "true or false"),
        }
    }

    /// A whole number within `allowed`.
    pub(super) fn number<T: TryFrom<i64>>(&mut self, key: &str, allowed: RangeInclusive<i64>) -> Option<T> {
        let value = self.value(key)?;
        value
            .as_integer()
            .filter(|number| allowed.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .or_else(|| {
                let top =
                    if *allowed.end() == i64::MAX { "up".to_owned() } else { allowed.end().to_string() };
                self.refuse(key, value, &format!("a whole number from {} to {top}", allowed.start()))
            })
    }

    /// A number within `allowed`.
    pub(super) fn real(&mut self, key: &str, allowed: RangeInclusive<f64>) -> Option<f64> {
        let value = self.value(key)?;
        let number = match value {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        };
        number.filter(|number| allowed.contains(number)).or_else(|| {
            self.refuse(key, value, &format!("a number from {} to {}", allowed.start(), allowed.end()))
        })
    }

    pub(super) fn seconds(&mut self, key: &str, allowed: RangeInclusive<f64>) -> Option<Duration> {
        self.real(key, allowed).map(Duration::from_secs_f64)
    }

    pub(super) fn choice(&mut self, key: &str, allowed: &[&'static str]) -> Option<&'static str> {
        let value = self.value(key)?;
        // `version = 5` means "5"; so that a shell need not be fought over quotes.
        let text =
            value.as_integer().map_or_else(|| value.as_str().map(str::to_owned), |n| Some(n.to_string()));
        let found = text.and_then(|text| allowed.iter().find(|name| **name == text).copied());
        found.or_else(|| {
            let names: Vec<_> = allowed.iter().map(|name| format!("\"{name}\"")).collect();
            self.refuse(key, value, &names.join(" or "))
        })
    }

    /// 0 to 2, and 0 if it is missing.
    pub(super) fn qos(&mut self, key: &str) -> Option<Qos> {
        let missing = !self.has(key);
        let number = self.number(key, 0..=2);
        Qos::from_bits(if missing { 0 } else { number? })
    }

    /// A pattern with placeholders; `default` if it is missing.
    pub(super) fn pattern(&mut self, key: &str, placeholders: &[&str], default: &str) -> Option<Pattern> {
        let missing = !self.has(key);
        let text = self.text(key);
        let text = if missing { default.to_owned() } else { text? };
        self.parsed(key, Pattern::parse(&text, placeholders))
    }

    /// A list of pairs of texts; none if it is missing.
    pub(super) fn pairs(&mut self, key: &str) -> Option<Vec<(String, String)>> {
        let Some(value) = self.value(key) else { return Some(Vec::new()) };
        let pair = |value: &Value| match value.as_array()?.as_slice() {
            [Value::String(name), Value::String(value)] => Some((name.clone(), value.clone())),
            _ => None,
        };
        let pairs = value.as_array().and_then(|list| list.iter().map(pair).collect());
        pairs.or_else(|| self.refuse(key, value, "a list of pairs, as in [[\"name\", \"value\"]]"))
    }

    /// The value, or its error noted at `key`.
    pub(super) fn parsed<T, E: Display>(&mut self, key: &str, parsed: Result<T, E>) -> Option<T> {
        parsed.map_err(|error| self.error(key, &error.to_string())).ok()
    }

    /// Notes an error at a key.
    pub(super) fn error(&mut self, key: &str, text: &str) {
        self.errors.push(format!("{}: {}: {text}", self.file, self.full(key)));
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys().filter(|key| !self.asked.contains(key)) {
            let mut known = self.asked.clone();
            known.sort();
            known.dedup();
            self.errors.push(format!(
                "{}: {}: not a key of a scenario; here are known: {}",
                self.file,
                self.full(key),
                known.join(", ")
            ));
        }
    }

    /// Whatever is there.
    pub(super) fn value(&mut self, key: &str) -> Option<&'a Value> {
        self.asked.push(key.to_owned());
        self.table.get(key)
    }

    fn refuse<T>(&mut self, key: &str, found: &Value, expected: &str) -> Option<T> {
        self.error(key, &format!("{} found, {expected} expected", shown(found)));
        None
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    }
}
