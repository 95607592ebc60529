//! What a client has reported and upstream has not taken: patches in order, which do together what all reports did one by one.
//!
//! In: reports. Out: patches for upstream, one at a time, none larger than upstream takes at once.
//! Always: whoever applies what is left, in order, to the document that upstream has, gets what the client said; also if the patch
//! that is on its way is applied twice.
//! How: one patch cannot say "delete `a`, then set `a.b`": it would merge into the old `a`. So there are two: `first`, and `after` with
//! what stands where `first` has put a null or a value. Any number of reports fits into two.
//! Bound: [`PENDING_BYTES_MAX`] for what gathers, and as much for what is leaving.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DOCUMENT_BYTES_MAX, Object, TwinError, bytes_of, merge};

/// Most that may gather, as compact JSON. Values alone are never more than a document; names that were deleted come on top.
pub const PENDING_BYTES_MAX: usize = 4 * DOCUMENT_BYTES_MAX;

/// What upstream has not taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Gathers; its name in twins that are kept is older than the others.
    #[serde(default, rename = "pending")]
    first: Object,
    /// Gathers behind `first`, without nulls.
    #[serde(default, skip_serializing_if = "Object::is_empty")]
    after: Object,
    /// What gathered until a patch was wanted, in the pieces that are sent; the first one may be on its way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    leaving: Vec<Object>,
}

impl Pending {
    /// Whether upstream has everything.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.after.is_empty() && self.leaving.is_empty()
    }

    /// Whether a part of what was sent together is still to be sent.
    pub fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Puts a report behind all others. An error changes nothing.
    pub(super) fn add(&mut self, patch: &Object) -> Result<(), TwinError> {
        let (mut first, mut after) = (self.first.clone(), self.after.clone());
        gather(&mut first, &mut after, patch);
        let bytes = bytes_of(&first)? + bytes_of(&after)?;
        if bytes > PENDING_BYTES_MAX {
            return Err(TwinError::Pending(bytes));
        }
        (self.first, self.after) = (first, after);
        Ok(())
    }

    /// What is to be sent now; the same again until it was [`Pending::taken`]. What is reported from here on comes behind it.
    pub(super) fn next(&mut self) -> Option<&Object> {
        if self.leaving.is_empty() {
            let parts = [std::mem::take(&mut self.first), std::mem::take(&mut self.after)];
            self.leaving = parts.into_iter().flat_map(|part| pieces(part, DOCUMENT_BYTES_MAX)).collect();
        }
        self.leaving.first()
    }

    /// Upstream has taken `sent`, or never will. What is not next here is sent again, which does no harm.
    pub(super) fn taken(&mut self, sent: &Object) {
        if self.leaving.first() == Some(sent) {
            self.leaving.remove(0);
        }
    }

    /// Does to a document what upstream will have done to it.
    pub(super) fn apply(&self, document: &mut Object) {
        let patches = self.leaving.iter().chain([&self.first, &self.after]);
        patches.for_each(|patch| merge(document, patch));
    }

    #[cfg(test)]
    pub(super) fn gathered(&self) -> (&Object, &Object) {
        (&self.first, &self.after)
    }
}

/// Puts `patch` behind `first` and `after`. `after` has a name only where `first` has it, too.
fn gather(first: &mut Object, after: &mut Object, patch: &Object) {
    for (name, value) in patch {
        match (first.get_mut(name), value) {
            (Some(Value::Object(have)), Value::Object(below)) => {
                let mut rest = match after.remove(name) {
                    Some(Value::Object(rest)) => rest,
                    _ => Object::new(),
                };
                gather(have, &mut rest, below);
                if !rest.is_empty() {
                    after.insert(name.clone(), Value::Object(rest));
                }
            }
            // An object over a null or a value: what was below is gone whatever upstream has there, and nothing is left to delete.
            (Some(_), Value::Object(below)) => {
                if let Value::Object(place) =
                    after.entry(name.clone()).or_insert_with(|| Value::Object(Object::new()))
                {
                    merge(place, below);
                }
            }
            _ => {
                after.remove(name);
                first.insert(name.clone(), value.clone());
            }
        }
    }
}

/// A patch as patches of at most `bytes_max` each, which do the same one after the other: deletions go first, so that the document
/// is not larger in between than before or after. A single value with its path is never cut.
fn pieces(patch: Object, bytes_max: usize) -> Vec<Object> {
    match bytes_of(&patch) {
        _ if patch.is_empty() => Vec::new(),
        Ok(bytes) if bytes <= bytes_max => vec![patch],
        _ => {
            let mut cutter = Cutter { bytes_max, ..Cutter::default() };
            for deletions in [true, false] {
                cutter.walk(&patch, deletions);
            }
            cutter.pieces
        }
    }
}

/// Fills one piece after the other with single values, in the order of their paths.
#[derive(Default)]
struct Cutter {
    bytes_max: usize,
    pieces: Vec<Object>,
    /// Bytes of the last piece, at most.
    bytes: usize,
    /// The objects that lead to the next value, and those that led to the one before it.
    path: Vec<String>,
    last: Vec<String>,
}

impl Cutter {
    fn walk(&mut self, object: &Object, deletions: bool) {
        for (name, value) in object {
            match value {
                Value::Object(below) if !below.is_empty() => {
                    self.path.push(name.clone());
                    self.walk(below, deletions);
                    self.path.pop();
                }
                _ if value.is_null() == deletions => self.put(name, value),
                _ => {}
            }
        }
    }

    fn put(&mut self, name: &str, value: &Value) {
        // Name, colon, comma; an object that is opened has two braces besides.
        let named = |name: &str| json_bytes(&Value::from(name)) + 2;
        let common = self.path.iter().zip(&self.last).take_while(|(one, other)| one == other).count();
        let own = named(name) + json_bytes(value);
        let opened = |path: &[String]| path.iter().map(|name| named(name) + 2).sum::<usize>();
        let needs = own + opened(&self.path[common..]);
        if self.pieces.is_empty() || self.bytes + needs > self.bytes_max {
            self.pieces.push(Object::new());
            self.bytes = "{}".len() + own + opened(&self.path);
        } else {
            self.bytes += needs;
        }
        self.last.clone_from(&self.path);
        let mut place = self.pieces.last_mut();
        for name in &self.path {
            let below = place.map(|place| place.entry(name.clone()).or_insert_with(|| Object::new().into()));
            place = below.and_then(Value::as_object_mut);
        }
        if let Some(place) = place {
            place.insert(name.to_owned(), value.clone());
        }
    }
}

fn json_bytes(value: &Value) -> usize {
    bytes_of(value).unwrap_or(usize::MAX / 4)
}

#[cfg(test)]
mod tests;
