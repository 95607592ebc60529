//! Slots: everything that the conditions of a table look at, numbered, and filled once per message.
//!
//! Knows: which property, body path or MQTT field fills which slot. May use: `value`, `paths`, `model`.
//! In:  names while a table compiles; a message while it is matched. Out: slot numbers, then values.
//! Invariant: a slot's value counts only if it was written since [`Filled::begin`]; so nothing is cleared.

use model::Message;
use rustc_hash::FxHashMap;

use crate::paths::{Paths, Step};
use crate::value::{Origin, TextAt, Value, fold_into, folded};

/// A slot of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SlotId(pub(crate) u32);

/// What fills a slot. Names of properties are folded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origins {
    /// `name`: an application property.
    Property(String),
    /// `{$name}`: a system property, name without dollar.
    System(String),
    /// `$name`: an application property of that literal name (with dollar), else the system property.
    Dollar(String),
    /// `{$body.path}`.
    Body(Vec<Step>),
    /// `$body.path`: an application property of that literal name (folded, with dollar), else the body.
    DollarBody(Vec<Step>, String),
    /// `$body.path[*]`: where the array starts whose elements an `ANY` or `ALL` looks at, as a number of bytes; without a
    /// value if it is none.
    Elements(Vec<Step>),
    /// `$topic`
    Topic,
    /// `$topic[n]`, from 0.
    TopicLevel(u32),
    /// `$clientId`
    ClientId,
    /// `$user`; an anonymous publisher has none.
    User,
    /// `$qos`
    Qos,
    /// `$retain`
    Retain,
}

impl Origins {
    /// Whether the body fills it.
    pub(crate) fn is_body(&self) -> bool {
        matches!(self, Origins::Body(_) | Origins::DollarBody(..) | Origins::Elements(_))
    }

    /// Whether an application or system property can fill it.
    pub(crate) fn is_property(&self) -> bool {
        matches!(
            self,
            Origins::Property(_) | Origins::System(_) | Origins::Dollar(_) | Origins::DollarBody(..)
        )
    }
}

/// The slots of one table.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    by_origin: FxHashMap<Origins, SlotId>,
    origins: Vec<Origins>,
    properties: FxHashMap<Box<str>, Vec<SlotId>>,
    system: FxHashMap<Box<str>, Vec<SlotId>>,
    fields: Vec<SlotId>,
    paths: Paths,
}

impl Slots {
    /// The slot that `origins` fill, new or known.
    pub(crate) fn intern(&mut self, origins: Origins) -> SlotId {
        if let Some(&slot) = self.by_origin.get(&origins) {
            return slot;
        }
        let slot =
            SlotId(u32::try_from(self.origins.len()).expect("slots are bounded by the bytes of all routes"));
        match &origins {
            Origins::Property(name) => name_slot(&mut self.properties, name, slot),
            Origins::System(name) => name_slot(&mut self.system, name, slot),
            Origins::Dollar(name) => {
                name_slot(&mut self.properties, name, slot);
                name_slot(&mut self.system, &name[1..], slot);
            }
            Origins::Body(path) => self.paths.add(path, slot),
            Origins::Elements(path) => self.paths.add_array(path, slot),
            Origins::DollarBody(path, name) => {
                self.paths.add(path, slot);
                name_slot(&mut self.properties, name, slot);
            }
            Origins::Topic
            | Origins::TopicLevel(_)
            | Origins::ClientId
            | Origins::User
            | Origins::Qos
            | Origins::Retain => self.fields.push(slot),
        }
        self.origins.push(origins.clone());
        self.by_origin.insert(origins, slot);
        slot
    }

    pub(crate) fn origins(&self, slot: SlotId) -> &Origins {
        &self.origins[slot.0 as usize]
    }

    pub(crate) fn paths(&self) -> &Paths {
        &self.paths
    }

    pub(crate) fn len(&self) -> usize {
        self.origins.len()
    }

    /// Fills what properties and the fields of the PUBLISH give. Comes after the body: a property named
    /// `$body.x` wins over the body's `x`, and one named `$x` over the system property `x` (§3.5).
    pub(crate) fn fill(&self, message: &Message<'_>, filled: &mut Filled, name: &mut String) {
        self.fill_fields(message, filled);
        // Backwards: if two properties differ only in case, the first one counts.
        if !self.system.is_empty() {
            for (at, property) in message.system.iter().enumerate().rev() {
                fill_named(&self.system, property, Origin::System, at, filled, name);
            }
        }
        if !self.properties.is_empty() {
            for (at, property) in message.properties.iter().enumerate().rev() {
                fill_named(&self.properties, property, Origin::Property, at, filled, name);
            }
        }
    }

    fn fill_fields(&self, message: &Message<'_>, filled: &mut Filled) {
        for &slot in &self.fields {
            let value = match self.origins(slot) {
                Origins::Topic => whole(Origin::Topic, message.topic),
                Origins::TopicLevel(level) => topic_level(message.topic, *level),
                Origins::ClientId => whole(Origin::ClientId, message.client_id),
                Origins::User if message.user.is_empty() => Value::Undefined,
                Origins::User => whole(Origin::User, message.user),
                Origins::Qos => Value::Number(f64::from(message.qos.bits())),
                _ => Value::Bool(message.retain),
            };
            if value.is_defined() {
                filled.write(slot, value);
            }
        }
    }
}

fn name_slot(names: &mut FxHashMap<Box<str>, Vec<SlotId>>, name: &str, slot: SlotId) {
    names.entry(folded(name).into()).or_default().push(slot);
}

fn fill_named(
    names: &FxHashMap<Box<str>, Vec<SlotId>>,
    property: &model::Property<'_>,
    origin: Origin,
    at: usize,
    filled: &mut Filled,
    name: &mut String,
) {
    name.clear();
    fold_into(property.name, name);
    let Some(slots) = names.get(name.as_str()) else { return };
    let value = match property.value {
        Some(text) => Value::Text(TextAt { origin, start: at as u32, length: text.len() as u32 }),
        None => Value::Null,
    };
    for &slot in slots {
        filled.write(slot, value);
    }
}

fn whole(origin: Origin, text: &str) -> Value {
    Value::Text(TextAt { origin, start: 0, length: text.len() as u32 })
}

fn topic_level(topic: &str, level: u32) -> Value {
    let mut start = 0;
    for (number, text) in topic.split('/').enumerate() {
        if number as u32 == level {
            return Value::Text(TextAt {
                origin: Origin::Topic,
                start: start as u32,
                length: text.len() as u32,
            });
        }
        start += text.len() + 1;
    }
    Value::Undefined
}

/// The slots' values for one message; reused for the next.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    values: Vec<Written>,
    /// When the scanner last entered a node of the paths.
    entered: Vec<u64>,
    /// Numbers every write since the scratch exists: 2^64 of them never come.
    sequence: u64,
    /// Writes up to this one belong to earlier messages.
    begun: u64,
    duplicates: bool,
    written: Vec<SlotId>,
    /// Texts of the body that had escapes.
    pub(crate) unescaped: String,
}

#[derive(Clone, Copy, Debug)]
struct Written {
    at: u64,
    value: Value,
}

impl Filled {
    /// Forgets everything, for a table with so many slots and nodes of paths. Cost: none per slot, except when there
    /// are more than ever before.
    #[inline]
    pub(crate) fn begin(&mut self, slots: usize, nodes: usize) {
        if self.values.len() < slots {
            self.values.resize(slots, Written { at: 0, value: Value::Missing });
        }
        if self.entered.len() < nodes {
            self.entered.resize(nodes, 0);
        }
        self.forget();
    }

    /// Forgets what was written; also called when a body turns out to be broken.
    pub(crate) fn forget(&mut self) {
        self.begun = self.sequence;
        self.duplicates = false;
        self.written.clear();
        self.unescaped.clear();
    }

    #[inline]
    pub(crate) fn write(&mut self, slot: SlotId, value: Value) {
        self.sequence += 1;
        let written = &mut self.values[slot.0 as usize];
        if written.at <= self.begun {
            self.written.push(slot);
        }
        *written = Written { at: self.sequence, value };
    }

    #[inline]
    pub(crate) fn read(&self, slot: SlotId) -> Value {
        let written = self.values[slot.0 as usize];
        if written.at > self.begun { written.value } else { Value::Missing }
    }

    /// The slots that have a value, each once, in no order.
    pub(crate) fn written(&self) -> &[SlotId] {
        &self.written
    }

    /// The scanner is at a key or index that somebody wants something of.
    #[inline]
    pub(crate) fn enter(&mut self, node: u32) {
        self.sequence += 1;
        let entered = &mut self.entered[node as usize];
        self.duplicates |= *entered > self.begun;
        *entered = self.sequence;
    }

    /// After the scan: of duplicate keys the last one counts, wholly; what an earlier one wrote is taken back.
    pub(crate) fn settle(&mut self, paths: &Paths) {
        if !self.duplicates {
            return;
        }
        let (values, entered) = (&mut self.values, &self.entered);
        self.written.retain(|slot| {
            let written = &mut values[slot.0 as usize];
            let current = paths.ancestors(*slot).all(|node| entered[node as usize] < written.at);
            if !current {
                written.at = 0;
            }
            current
        });
    }
}
