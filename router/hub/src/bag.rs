//! Property bags: the properties of a message as one level of its topic (`reference/edgehub.md` §2.5), and the short
//! names of system properties on the wire (§2.6).
//!
//! May use: `escape`. In: the level, or properties. Out: properties, or the level.
//! Bound: `properties_max`, given by the caller. Cost: linear in the text for the few properties that messages have.
//! Invariant: names in a [`Bag`] differ; what `encode` writes `decode` reads back.

use std::borrow::Cow;

use crate::escape::{escape_into, unescape};

/// A decoded bag, in the order of first mention.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bag<'t> {
    entries: Vec<Entry<'t>>,
}

/// One name with its value; `None` for `name` and `name=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'t> {
    /// Decoded.
    pub name: Cow<'t, str>,
    /// Decoded.
    pub value: Option<Cow<'t, str>>,
}

/// Why a level is no property bag. The sender's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BagError {
    /// `&&`, `=x`, `a&`
    #[error("a property has no name")]
    NoName,
    /// `a=b=c`
    #[error("a value contains an unescaped '='")]
    SecondEquals,
    /// `%ff`
    #[error("an escaped name or value is not UTF-8")]
    NotUtf8,
    /// Over the caller's bound.
    #[error("it has more than {0} properties")]
    TooMany(usize),
}

impl BagError {
    /// For counters: one word.
    pub const fn label(self) -> &'static str {
        match self {
            BagError::NoName => "no_name",
            BagError::SecondEquals => "second_equals",
            BagError::NotUtf8 => "not_utf8",
            BagError::TooMany(_) => "too_many",
        }
    }
}

/// Reads a bag. The empty text is the empty bag; of several values of one name the last stays.
///
/// A leading `?` is not stripped: it belongs to the first name, as in edgeHub.
pub fn decode(text: &str, properties_max: usize) -> Result<Bag<'_>, BagError> {
    let mut bag = Bag::default();
    if text.is_empty() {
        return Ok(bag);
    }
    for pair in text.split('&') {
        let (name, value) = match pair.split_once('=') {
            None => (pair, None),
            Some((_, value)) if value.contains('=') => return Err(BagError::SecondEquals),
            Some((name, "")) => (name, None),
            Some((name, value)) => (name, Some(value)),
        };
        if name.is_empty() {
            return Err(BagError::NoName);
        }
        let name = unescape(name).ok_or(BagError::NotUtf8)?;
        let value = value.map(|value| unescape(value).ok_or(BagError::NotUtf8)).transpose()?;
        if let Some(have) = bag.entries.iter_mut().find(|have| have.name == name) {
            have.value = value;
        } else if bag.entries.len() < properties_max {
            bag.entries.push(Entry { name, value });
        } else {
            return Err(BagError::TooMany(properties_max));
        }
    }
    Ok(bag)
}

/// Appends properties to `out` as a bag: `a=1&b&c=%2F`. A name without value has no `=`.
pub fn encode<'a>(properties: impl IntoIterator<Item = (&'a str, Option<&'a str>)>, out: &mut String) {
    let start = out.len();
    for (name, value) in properties {
        if out.len() > start {
            out.push('&');
        }
        escape_into(name, out);
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            out.push('=');
            escape_into(value, out);
        }
    }
}

impl<'t> Bag<'t> {
    /// Name and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.entries.iter().map(|entry| (&*entry.name, entry.value.as_deref()))
    }

    /// The value of `name`; the outer `None` if there is no such property.
    pub fn find(&self, name: &str) -> Option<Option<&str>> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| entry.value.as_deref())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of it.
    pub fn into_entries(self) -> Vec<Entry<'t>> {
        self.entries
    }
}

/// A system property: its name on the wire, and as routes and stores know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemProperty {
    /// `$.mid`
    pub wire: &'static str,
    /// `messageId`
    pub name: &'static str,
    /// Whether a client may set it.
    pub inbound: bool,
    /// Whether a client gets to see it.
    pub outbound: bool,
}

const fn both(wire: &'static str, name: &'static str) -> SystemProperty {
    SystemProperty { wire, name, inbound: true, outbound: true }
}

const fn inbound(wire: &'static str, name: &'static str) -> SystemProperty {
    SystemProperty { wire, name, inbound: true, outbound: false }
}

const fn outbound(wire: &'static str, name: &'static str) -> SystemProperty {
    SystemProperty { wire, name, inbound: false, outbound: true }
}

/// All of them (`reference/edgehub.md` §2.6), in the order in which they are written.
pub const SYSTEM: [SystemProperty; 16] = [
    both("$.mid", "messageId"),
    both("$.cid", "cid"),
    both("$.ct", "contentType"),
    both("$.ce", "contentEncoding"),
    both("$.to", "to"),
    both("$.uid", "userId"),
    both("$.exp", "absolute-expiry-time"),
    inbound("$.on", "outputName"),
    both("$.schema", "messageSchema"),
    both("$.ctime", "creationTime"),
    inbound("$.ifid", "iothub-interface-id"),
    both("$.sub", "dt-subject"),
    both("ack", "ack"),
    both("iothub-operation", "operation"),
    outbound("$.cdid", "connectionDeviceId"),
    outbound("$.cmid", "connectionModuleId"),
];

/// What a client's property of this wire name is, if it is a system property. Anything else is the application's.
pub fn from_client(wire: &str) -> Option<&'static SystemProperty> {
    // Nearly every application property is decided by its first byte.
    if !wire.starts_with(['$', 'a', 'i']) {
        return None;
    }
    SYSTEM.iter().find(|property| property.inbound && property.wire == wire)
}

/// The wire name under which a client gets the system property of this name.
pub fn to_client(name: &str) -> Option<&'static str> {
    SYSTEM.iter().find(|property| property.outbound && property.name == name).map(|property| property.wire)
}

#[cfg(test)]
mod tests;
