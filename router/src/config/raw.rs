//! `Raw`: a configuration as written, layer over layer; nothing in it is judged yet.
//!
//! Knows: TOML, and where every value was written. Never: which keys exist, what they mean.
//! In:  the text of a layer. Out: one tree in which the last layer that wrote a key has won.
//! Not a serde struct: serde stops at the first mistake and forgets where a value came from, and we owe the
//! reader every mistake with its key and its line.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::errors::ConfigError;

/// A configuration as written: sections, keys and values of all layers, each with its origin.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    root: Section,
    faults: Vec<ConfigError>,
    notes: Vec<(String, String)>,
}

/// The keys of one TOML table.
pub(super) type Section = BTreeMap<String, Node>;

/// What a key leads to.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Section(Section, Origin),
    Value(Value, Origin),
}

/// One value as written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    String(String),
    Integer(i128),
    Boolean(bool),
    /// Its values, each with its origin.
    List(Vec<(Value, Origin)>),
    /// A float or a date, kept as text: no key takes one.
    Other(String),
    /// From the environment or `--set`, where nothing says which type is meant: the key decides.
    Untyped(String),
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the error is about a value that is missing.
    Nowhere,
    /// A profile of the program, by name.
    Profile(Arc<str>),
    /// A configuration file, with the line if known (the first is 1).
    File {
        /// The path as given on the command line.
        path: Arc<str>,
        /// The line of the key or of the mistake.
        line: Option<usize>,
    },
    /// The environment, with the name of the variable.
    Environment(Arc<str>),
    /// A `--set` flag on the command line.
    Set,
}

impl Raw {
    /// Lays `text`, a TOML document, over what is there. `origin` makes the origin of a line.
    ///
    /// Every syntax error becomes a fault; the rest of the document still counts, so that one run shows as
    /// many mistakes as possible.
    pub(super) fn add_document(&mut self, text: &str, origin: &dyn Fn(usize) -> Origin) {
        let lines = Lines::new(text);
        let (table, faults) = DeTable::parse_recoverable(text);
        for fault in faults {
            let line = fault.span().map_or(1, |span| lines.line_at(span.start));
            self.faults.push(ConfigError {
                hint: lines.text(line).map(|text| format!("the line reads: {}", without_secret(text.trim()))),
                ..ConfigError::new(origin(line), "", format!("not valid TOML: {}", fault.message()))
            });
        }
        let added = section(table.get_ref(), &|at| origin(lines.line_at(at)));
        merge(&mut self.root, added, &mut Vec::new());
    }

    /// Lays one value over what is there.
    pub(super) fn add_value(&mut self, path: &[String], value: &str, origin: &Origin) {
        let Some((last, sections)) = path.split_last() else { return };
        let mut added = Section::from([(last.clone(), untyped(value, origin))]);
        for name in sections.iter().rev() {
            added = Section::from([(name.clone(), Node::Section(added, origin.clone()))]);
        }
        merge(&mut self.root, added, &mut Vec::new());
    }

    /// The spelling that a name already has in this tree, if it has one; else the name itself.
    ///
    /// Names of uplinks and routes may hold capitals and `-`, which the environment cannot carry.
    pub(super) fn existing_spelling(&self, path: &[String]) -> Vec<String> {
        let fold = |name: &str| name.to_lowercase().replace('-', "_");
        let mut section = Some(&self.root);
        path.iter()
            .map(|name| {
                let mut same = section.iter().flat_map(|s| s.keys()).filter(|key| fold(key) == fold(name));
                let found = match (same.next(), same.next()) {
                    (Some(only), None) => only.clone(),
                    _ => name.clone(),
                };
                section = section.and_then(|s| s.get(&found)).and_then(|node| match node {
                    Node::Section(section, _) => Some(section),
                    Node::Value(..) => None,
                });
                found
            })
            .collect()
    }

    /// What stands at a path, if anything does.
    pub(super) fn node(&self, path: &[&str]) -> Option<&Node> {
        let (last, sections) = path.split_last()?;
        let mut section = &self.root;
        for name in sections {
            match section.get(*name)? {
                Node::Section(below, _) => section = below,
                Node::Value(..) => return None,
            }
        }
        section.get(*last)
    }

    /// Forgets every section but one.
    pub(super) fn keep_section(&mut self, section: &str) {
        self.root.retain(|name, _| name == section);
    }

    /// Notes that a layer, or a part of it, could not be read at all.
    pub(super) fn add_fault(&mut self, fault: ConfigError) {
        self.faults.push(fault);
    }

    /// Notes something that was written and does nothing: where, and why.
    pub(super) fn add_note(&mut self, about: String, text: String) {
        self.notes.push((about, text));
    }

    /// What was written and does nothing.
    pub(super) fn notes(&self) -> &[(String, String)] {
        &self.notes
    }

    /// What could not be read.
    pub(super) fn faults(&self) -> &[ConfigError] {
        &self.faults
    }

    /// The whole tree.
    pub(super) fn root(&self) -> &Section {
        &self.root
    }
}

impl Origin {
    /// Order of the layers, and of the lines within one.
    pub(super) fn rank(&self) -> (u8, usize) {
        match self {
            Origin::Nowhere => (0, 0),
            Origin::Profile(_) => (1, 0),
            Origin::File { line, .. } => (2, line.unwrap_or_default()),
            Origin::Environment(_) => (3, 0),
            Origin::Set => (4, 0),
        }
    }
}

impl Node {
    pub(super) fn origin(&self) -> &Origin {
        match self {
            Node::Section(_, origin) | Node::Value(_, origin) => origin,
        }
    }
}

impl fmt::Display for Value {
    /// As TOML would write it; untyped values as they were typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::String(text) => write!(f, "{text:?}"),
            Value::Integer(number) => number.fmt(f),
            Value::Boolean(truth) => truth.fmt(f),
            Value::List(values) => write!(f, "a list of {} values", values.len()),
            Value::Other(text) | Value::Untyped(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Nowhere => f.write_str("configuration"),
            Origin::Profile(name) => write!(f, "profile {name}"),
            Origin::File { path, line: Some(line) } => write!(f, "{path}:{line}"),
            Origin::File { path, line: None } => f.write_str(path),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Set => f.write_str("--set"),
        }
    }
}

/// The segments of a dotted TOML key, quoted ones included (`routes."a.b".ttl`); `None` if it is none.
pub(super) fn split_key(text: &str) -> Option<Vec<String>> {
    let document = format!("{text} = 0");
    let table = DeTable::parse(&document).ok()?;
    let mut table = table.get_ref();
    let mut path = Vec::new();
    loop {
        let mut entries = table.iter();
        let (Some((key, value)), None) = (entries.next(), entries.next()) else { return None };
        path.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(below) => table = below,
            // `a=1\nb` and `x = 1 #` would sneak in more than a key.
            DeValue::Integer(zero) if zero.as_str() == "0" && !text.contains(['\n', '#', '=']) => {
                return Some(path);
            }
            _ => return None,
        }
    }
}

/// Puts `added` over `base`: sections are joined key by key, values replace.
fn merge(base: &mut Section, added: Section, path: &mut Vec<String>) {
    for (name, node) in added {
        path.push(name.clone());
        match (base.get_mut(&name), node) {
            (Some(Node::Section(old, _)), Node::Section(new, _)) => merge(old, new, path),
            // A route may be written as its text alone; a later layer may still add a priority to it.
            (Some(old @ Node::Value(..)), Node::Section(new, origin)) if is_route(path) => {
                let mut joined = Section::from([("route".to_owned(), old.clone())]);
                merge(&mut joined, new, path);
                *old = Node::Section(joined, origin);
            }
            (_, node) => {
                base.insert(name, node);
            }
        }
        path.pop();
    }
}

/// A line as it may be shown: without the value of a secret key, which may well be what is not TOML.
fn without_secret(line: &str) -> &str {
    match line.split_once(['=', ':']) {
        _ if !line.contains("password") => line,
        Some((key, _)) => key.trim_end(),
        None => "",
    }
}

fn is_route(path: &[String]) -> bool {
    matches!(path, [section, _] if section == "routes")
}

fn section(table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Section {
    table
        .iter()
        .map(|(key, value)| (key.get_ref().to_string(), node(value.get_ref(), key.span().start, origin)))
        .collect()
}

fn node(value: &DeValue<'_>, at: usize, origin: &dyn Fn(usize) -> Origin) -> Node {
    let value = match value {
        DeValue::Table(table) => return Node::Section(section(table, origin), origin(at)),
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other(number.to_string()),
        },
        DeValue::Float(number) => Value::Other(number.to_string()),
        DeValue::Datetime(time) => Value::Other(time.to_string()),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| match node(item.get_ref(), item.span().start, origin) {
                    Node::Value(value, origin) => (value, origin),
                    Node::Section(_, origin) => (Value::Other("a table".to_owned()), origin),
                })
                .collect(),
        ),
    };
    Node::Value(value, origin(at))
}

/// A value from the environment or `--set`: a quoted string or an inline table is read as TOML, everything
/// else stays text until its key says what it should be.
fn untyped(text: &str, origin: &Origin) -> Node {
    let text = text.trim();
    if text.starts_with(['"', '\'', '{', '['])
        && let Ok(value) = DeValue::parse(text)
    {
        return node(value.get_ref(), 0, &|_| origin.clone());
    }
    Node::Value(Value::Untyped(text.to_owned()), origin.clone())
}

/// Finds the line of a byte.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Lines<'t> {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Lines { text, starts: std::iter::once(0).chain(newlines).collect() }
    }

    /// Counted from 1.
    fn line_at(&self, byte: usize) -> usize {
        self.starts.partition_point(|start| *start <= byte)
    }

    fn text(&self, line: usize) -> Option<&'t str> {
        self.text.lines().nth(line.checked_sub(1)?).filter(|text| !text.trim().is_empty())
    }
}
