//! Twins: two JSON objects with versions, changed by merge patches within the limits of the service.
//!
//! In: patches. Out: the documents, or the rule that a patch breaks. Invariant: a refused patch changes nothing.

use serde_json::{Map, Value, json};

/// Deepest nesting of a property.
const DEPTH_MAX: usize = 10;
/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 1_024;
/// Longest string, in bytes.
const STRING_BYTES_MAX: usize = 4_096;
/// Largest document of one half, in bytes.
const DOCUMENT_BYTES_MAX: usize = 32 << 10;
/// Largest whole number, either sign.
const INTEGER_MAX: i64 = 1 << 52;

/// One half: what the service wants, or what the device says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Half {
    /// The properties, without `$version`.
    pub properties: Map<String, Value>,
    /// Grows by one with every patch.
    pub version: u64,
}

impl Half {
    fn new() -> Half {
        Half { properties: Map::new(), version: 1 }
    }

    /// With `$version` among the properties.
    pub fn document(&self) -> Value {
        let mut document = self.properties.clone();
        document.insert("$version".into(), json!(self.version));
        Value::Object(document)
    }

    /// Merges a patch in; the new version, or why nothing has changed.
    pub fn patch(&mut self, patch: &Value) -> Result<u64, String> {
        let Value::Object(patch) = patch else { return Err("a patch must be an object".into()) };
        check(patch, 1)?;
        let mut merged = self.properties.clone();
        merge(&mut merged, patch);
        if Value::Object(merged.clone()).to_string().len() > DOCUMENT_BYTES_MAX {
            return Err(format!("the document would have more than {DOCUMENT_BYTES_MAX} bytes"));
        }
        self.properties = merged;
        self.version += 1;
        Ok(self.version)
    }
}

/// Both halves.
#[derive(Clone, Debug, PartialEq)]
pub struct Twin {
    /// What the service wants.
    pub desired: Half,
    /// What the device says.
    pub reported: Half,
}

impl Default for Twin {
    fn default() -> Self {
        Twin { desired: Half::new(), reported: Half::new() }
    }
}

impl Twin {
    /// As a client gets it.
    pub fn document(&self) -> Value {
        json!({"desired": self.desired.document(), "reported": self.reported.document()})
    }
}

fn merge(into: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                into.remove(name);
            }
            Value::Object(inner) => {
                let place = into.entry(name.clone()).or_insert_with(|| json!({}));
                if !place.is_object() {
                    *place = json!({});
                }
                if let Value::Object(place) = place {
                    merge(place, inner);
                }
            }
            other => {
                into.insert(name.clone(), other.clone());
            }
        }
    }
}

fn check(object: &Map<String, Value>, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("properties are nested deeper than {DEPTH_MAX}"));
    }
    for (name, value) in object {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(format!("a name of {} bytes; 1 to {NAME_BYTES_MAX} are allowed", name.len()));
        }
        if name.chars().any(|it| it.is_control() || it.is_whitespace() || ".$#".contains(it)) {
            return Err(format!("the name {name:?} has a character that is not allowed"));
        }
        check_value(name, value, depth, false)?;
    }
    Ok(())
}

fn check_value(name: &str, value: &Value, depth: usize, in_array: bool) -> Result<(), String> {
    match value {
        Value::Null if in_array => Err(format!("{name} has a null within an array")),
        Value::String(text) if text.len() > STRING_BYTES_MAX => {
            Err(format!("{name} is a string of {} bytes; at most {STRING_BYTES_MAX} are allowed", text.len()))
        }
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            let fits = number.as_i64().is_some_and(|it| (-INTEGER_MAX..=INTEGER_MAX).contains(&it));
            if fits { Ok(()) } else { Err(format!("{name} is {number}, beyond ±2^52")) }
        }
        Value::Array(items) => items.iter().try_for_each(|item| check_value(name, item, depth + 1, true)),
        Value::Object(inner) => check(inner, depth + 1),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Twin;

    #[test]
    fn a_patch_merges_and_counts() {
        let mut twin = Twin::default();
        assert_eq!(twin.reported.patch(&json!({"a": {"x": 1, "y": 2}, "b": 1})), Ok(2));
        assert_eq!(twin.reported.patch(&json!({"a": {"x": null}, "b": {"z": 1}})), Ok(3));
        assert_eq!(twin.document()["reported"], json!({"a": {"y": 2}, "b": {"z": 1}, "$version": 3}));
    }

    #[test]
    fn a_refused_patch_changes_nothing() {
        let mut twin = Twin::default();
        let mut deep = json!(1);
        for _ in 0..11 {
            deep = json!({"a": deep});
        }
        for bad in [
            json!([]),
            json!({"$x": 1}),
            json!({"a.b": 1}),
            json!({"a b": 1}),
            json!({"": 1}),
            json!({"a": [null]}),
            json!({"a": "x".repeat(4_097)}),
            json!({"a": (1_i64 << 52) + 1}),
            deep,
        ] {
            assert!(twin.reported.patch(&bad).is_err(), "{bad}");
        }
        let large: serde_json::Map<_, _> =
            (0..9).map(|it| (format!("k{it}"), json!("x".repeat(4_000)))).collect();
        assert!(twin.reported.patch(&large.into()).is_err());
        assert_eq!(twin, Twin::default());
    }
}
