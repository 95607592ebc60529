//! Twins: the document, patches, what IoT Hub takes as one (`reference/edgehub.md` §2.7, §9.5).
//!
//! May use: JSON. In: documents and patches. Out: documents, patches, what to tell the client.
//! Bound: [`DOCUMENT_BYTES_MAX`] for reported properties, [`PENDING_BYTES_MAX`] for what is pending of them; [`DEPTH_MAX`] for
//! their nesting.
//! Invariant: a stored document has no nulls; a pending patch keeps them, because they delete.
//! Reading order: this, `pending`.

mod pending;

pub use pending::{PENDING_BYTES_MAX, Pending};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A JSON object.
pub type Object = Map<String, Value>;

/// Levels of objects below the root.
pub const DEPTH_MAX: usize = 10;
/// Longest property name, in bytes.
pub const NAME_BYTES_MAX: usize = 1_024;
/// Longest string value, in bytes.
pub const STRING_BYTES_MAX: usize = 4_096;
/// Largest absolute value of an integer.
pub const INTEGER_MAX: i64 = 1 << 52;
/// Largest document of reported properties, as compact JSON.
pub const DOCUMENT_BYTES_MAX: usize = 32 * 1_024;

const VERSION: &str = "$version";

/// The twin of a device or module, as far as we know it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Twin {
    /// What the cloud wants.
    pub desired: Object,
    /// Its version; `None` if we never heard.
    pub desired_version: Option<u64>,
    /// What the client says.
    pub reported: Object,
    /// Its version upstream; `None` if we never heard.
    pub reported_version: Option<u64>,
    /// What the client said and upstream has not taken yet.
    #[serde(flatten)]
    pub pending: Pending,
}

/// Why something is no twin, or no patch of one. All but [`TwinError::Pending`] are the sender's mistake: 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TwinError {
    /// Not JSON.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// Not `{…}`.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// Over [`DEPTH_MAX`].
    #[error("{0}: nested deeper than {DEPTH_MAX}")]
    Depth(String),
    /// Over [`NAME_BYTES_MAX`].
    #[error("{0}…: the name is longer than {NAME_BYTES_MAX} bytes")]
    LongName(String),
    /// What no name has.
    #[error("{0:?}: a name has no '.', '$', '#', whitespace or control characters")]
    Name(String),
    /// Over [`STRING_BYTES_MAX`].
    #[error("{0}: the string is longer than {STRING_BYTES_MAX} bytes")]
    LongString(String),
    /// Over [`INTEGER_MAX`].
    #[error("{0}: the integer is not between -2^52 and 2^52")]
    Integer(String),
    /// `[null]`
    #[error("{0}: null in an array")]
    NullInArray(String),
    /// Over [`DOCUMENT_BYTES_MAX`].
    #[error("the document would have {0} bytes; {DOCUMENT_BYTES_MAX} is the most")]
    Size(usize),
    /// Over [`PENDING_BYTES_MAX`] together: later, when upstream has taken some, it may fit.
    #[error("what upstream has not taken yet would have {0} bytes; {PENDING_BYTES_MAX} is the most")]
    Pending(usize),
}

/// What a patch of desired properties did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desired {
    /// It is in the document now: send it on.
    Applied,
    /// One or more before it are missing: ask for the whole twin.
    Gap,
    /// We had it: nothing to send.
    Old,
}

impl Twin {
    /// Reads what IoT Hub answers to GET: `{"desired":{…},"reported":{…}}`.
    pub fn parse(body: &[u8]) -> Result<Twin, TwinError> {
        let mut document = object(body)?;
        let mut part = |name: &str| match document.remove(name) {
            None => Ok((Object::new(), None)),
            Some(Value::Object(part)) => Ok(split_version(part)),
            Some(_) => Err(TwinError::NotAnObject),
        };
        let (desired, desired_version) = part("desired")?;
        let (reported, reported_version) = part("reported")?;
        Ok(Twin { desired, desired_version, reported, reported_version, pending: Pending::default() })
    }

    /// What a client gets for GET: with versions where they are known.
    pub fn to_body(&self) -> Vec<u8> {
        let document = serde_json::json!({
            "desired": with_version(&self.desired, self.desired_version),
            "reported": with_version(&self.reported, self.reported_version),
        });
        document.to_string().into_bytes()
    }

    /// Takes a client's patch of reported properties: checked, merged, and pending until upstream has it.
    /// Errors change nothing.
    pub fn report(&mut self, patch: &Object) -> Result<(), TwinError> {
        check(patch)?;
        let mut reported = self.reported.clone();
        merge(&mut reported, patch);
        check_size(&reported)?;
        self.pending.add(patch)?;
        self.reported = reported;
        Ok(())
    }

    /// What upstream is to be told now; the same again until it has it.
    pub fn next_report(&mut self) -> Option<&Object> {
        self.pending.next()
    }

    /// Upstream has taken `sent`, or refused it for good; what came meanwhile stays.
    pub fn reported(&mut self, sent: &Object, version: Option<u64>) {
        self.reported_version = version.or(self.reported_version);
        self.pending.taken(sent);
    }

    /// There is no upstream: what was reported is all there is, in this version.
    pub fn keep_here(&mut self, version: u64) {
        self.reported_version = Some(version);
        self.pending = Pending::default();
    }

    /// Takes a patch of desired properties from upstream.
    pub fn desire(&mut self, patch: &Object, version: u64) -> Desired {
        match self.desired_version {
            Some(have) if version <= have => Desired::Old,
            Some(have) if version == have + 1 => {
                let (patch, _) = split_version(patch.clone());
                merge(&mut self.desired, &patch);
                self.desired_version = Some(version);
                Desired::Applied
            }
            _ => Desired::Gap,
        }
    }

    /// Takes the whole twin from upstream; the patch that brings a client that knew the old one up to date, with
    /// `$version` in it. `None`: nothing changed for the client.
    ///
    /// What is pending stays reported: upstream does not know it yet.
    pub fn renew(&mut self, fresh: Twin) -> Option<Object> {
        let knew = self.desired_version.is_some();
        let mut patch = diff(&self.desired, &fresh.desired);
        self.desired = fresh.desired;
        self.desired_version = fresh.desired_version;
        self.reported = fresh.reported;
        self.reported_version = fresh.reported_version;
        self.pending.apply(&mut self.reported);
        if patch.is_empty() || !knew {
            return None;
        }
        if let Some(version) = self.desired_version {
            patch.insert(VERSION.to_owned(), version.into());
        }
        Some(patch)
    }
}

/// Reads a patch.
pub fn object(body: &[u8]) -> Result<Object, TwinError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(TwinError::NotAnObject),
        Err(error) => Err(TwinError::Json(error.to_string())),
    }
}

/// `$version` of a patch of desired properties, if it has one.
pub fn version_of(patch: &Object) -> Option<u64> {
    patch.get(VERSION).and_then(Value::as_u64)
}

fn split_version(mut part: Object) -> (Object, Option<u64>) {
    let version = part.remove(VERSION).and_then(|version| version.as_u64());
    part.remove("$metadata");
    (part, version)
}

fn with_version(part: &Object, version: Option<u64>) -> Object {
    let mut part = part.clone();
    if let Some(version) = version {
        part.insert(VERSION.to_owned(), version.into());
    }
    part
}

/// Checks a patch of reported properties.
pub fn check(patch: &Object) -> Result<(), TwinError> {
    check_size(patch)?;
    check_object(patch, 0, "")
}

fn check_size(document: &Object) -> Result<(), TwinError> {
    let bytes = bytes_of(document)?;
    if bytes > DOCUMENT_BYTES_MAX { Err(TwinError::Size(bytes)) } else { Ok(()) }
}

/// The length of something as compact JSON.
fn bytes_of(document: &impl Serialize) -> Result<usize, TwinError> {
    let mut counted = Counted(0);
    serde_json::to_writer(&mut counted, document).map_err(|error| TwinError::Json(error.to_string()))?;
    Ok(counted.0)
}

/// Counts what is written.
struct Counted(usize);

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn check_object(object: &Object, depth: usize, path: &str) -> Result<(), TwinError> {
    if depth > DEPTH_MAX {
        return Err(TwinError::Depth(path.to_owned()));
    }
    for (name, value) in object {
        if name.len() > NAME_BYTES_MAX {
            return Err(TwinError::LongName(name.chars().take(32).collect()));
        }
        let strange = |at: char| at.is_control() || at.is_whitespace() || matches!(at, '.' | '$' | '#');
        if name.is_empty() || name.contains(strange) {
            return Err(TwinError::Name(name.clone()));
        }
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        check_value(value, depth, &path)?;
    }
    Ok(())
}

fn check_value(value: &Value, depth: usize, path: &str) -> Result<(), TwinError> {
    match value {
        Value::Object(object) => check_object(object, depth + 1, path),
        Value::Array(elements) => elements.iter().try_for_each(|element| {
            // JSON itself nests at most 128 deep (serde_json), arrays in arrays included.
            if element.is_null() {
                return Err(TwinError::NullInArray(path.to_owned()));
            }
            check_value(element, depth, path)
        }),
        Value::String(text) if text.len() > STRING_BYTES_MAX => Err(TwinError::LongString(path.to_owned())),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            let fits = number.as_i64().is_some_and(|number| (-INTEGER_MAX..=INTEGER_MAX).contains(&number));
            if fits { Ok(()) } else { Err(TwinError::Integer(path.to_owned())) }
        }
        _ => Ok(()),
    }
}

/// Applies a patch to a document: null deletes, objects are merged, everything else replaces.
pub fn merge(document: &mut Object, patch: &Object) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                document.remove(name);
            }
            Value::Object(below) => match document.get_mut(name) {
                Some(Value::Object(have)) => merge(have, below),
                _ => {
                    let mut fresh = Object::new();
                    merge(&mut fresh, below);
                    document.insert(name.clone(), Value::Object(fresh));
                }
            },
            other => {
                document.insert(name.clone(), other.clone());
            }
        }
    }
}

/// The patch that turns `old` into `new`.
pub fn diff(old: &Object, new: &Object) -> Object {
    let mut patch = Object::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in new {
        match (old.get(name), value) {
            (Some(have), value) if have == value => {}
            (Some(Value::Object(have)), Value::Object(below)) => {
                patch.insert(name.clone(), Value::Object(diff(have, below)));
            }
            _ => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    patch
}

#[cfg(test)]
mod tests;
