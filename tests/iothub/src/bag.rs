//! Property bags and percent-encoding, as IoT Hub reads them and stricter: what a lenient reader would guess is an error.
//!
//! Knows: `k=v&k2=v2`, both sides percent-encoded UTF-8; the names of system properties on the wire.
//! In: one topic level, or the query of a topic. Out: pairs in order, or what is wrong with it.

/// System properties that a device may set, as they stand on the wire.
const SYSTEM: &[&str] = &[
    "$.mid", "$.cid", "$.ct", "$.ce", "$.to", "$.uid", "$.exp", "$.on", "$.schema", "$.ctime", "$.ifid",
    "$.sub",
];

/// Names and values, in order.
pub type Pairs = Vec<(String, String)>;

/// A bag, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bag {
    /// By their names on the wire: `$.mid`.
    pub system: Pairs,
    /// Everything else.
    pub application: Pairs,
}

impl Bag {
    /// Reads the bag of a device's message. Empty is legal.
    pub fn parse(text: &str) -> Result<Bag, String> {
        let mut bag = Bag::default();
        for (key, value) in pairs(text)? {
            let kind = if key.starts_with("$.") { &mut bag.system } else { &mut bag.application };
            if key.starts_with("$.") && !SYSTEM.contains(&key.as_str()) {
                return Err(format!("a device cannot set the system property {key}"));
            }
            if kind.iter().any(|(known, _)| *known == key) {
                return Err(format!("the property {key} stands there twice"));
            }
            kind.push((key, value));
        }
        Ok(bag)
    }

    /// A system property by its name on the wire.
    pub fn system(&self, name: &str) -> Option<&str> {
        self.system.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads `k=v&k2=v2`; empty text is no pairs.
pub fn pairs(text: &str) -> Result<Pairs, String> {
    let mut found = Vec::new();
    if text.is_empty() {
        return Ok(found);
    }
    for pair in text.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key.is_empty() {
            return Err(format!("a property without a name in {text:?}"));
        }
        if key.starts_with('?') {
            return Err(format!("a question mark before the properties in {text:?}"));
        }
        if value.contains('=') {
            return Err(format!("a raw = in the value of {key:?}"));
        }
        found.push((decode(key)?, decode(value)?));
    }
    Ok(found)
}

/// Undoes percent-encoding. Strict: only the characters that a query may have raw, and UTF-8 in the end.
pub fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|it| it.and_then(|it| (it as char).to_digit(16)));
                let [Some(high), Some(low)] = digits else {
                    return Err(format!("a % without two hexadecimal digits in {text:?}"));
                };
                bytes.push((high * 16 + low) as u8);
            }
            // Unreserved, and the sub-delimiters that encoders of the SDKs leave alone; `;` stands in chains.
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => bytes.push(byte),
            b'-' | b'.' | b'_' | b'~' | b'!' | b'\'' | b'(' | b')' | b'*' | b'$' | b':' | b';' | b','
            | b'@' => {
                bytes.push(byte);
            }
            _ => return Err(format!("{:?} stands unencoded in {text:?}", byte as char)),
        }
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is not UTF-8 when decoded"))
}

/// Percent-encodes everything but unreserved characters, as IoT Hub does.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Writes pairs as a bag.
pub fn write<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> String {
    let mut out = String::new();
    for (key, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(&encode(key));
        out.push('=');
        out.push_str(&encode(value));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Bag, decode, encode, pairs};

    #[test]
    fn a_bag_is_split_into_system_and_application_properties() {
        let bag = Bag::parse("%24.ct=application%2Fjson&$.mid=42&level=high&empty=&bare").expect("a bag");
        assert_eq!(bag.system("$.ct"), Some("application/json"));
        assert_eq!(bag.system("$.mid"), Some("42"));
        let application: Vec<_> = bag.application.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        assert_eq!(application, [("level", "high"), ("empty", ""), ("bare", "")]);
    }

    #[test]
    fn what_a_lenient_reader_would_guess_is_an_error() {
        for bad in [
            "a=1&&b=2",
            "=1",
            "a=1&",
            "a=b=c",
            "?a=1",
            "a=%4",
            "a=%ZZ",
            "a=b c",
            "a=%FF",
            "a=1&a=2",
            "%24.cdid=x",
        ] {
            assert!(Bag::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(pairs(""), Ok(vec![]));
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for text in ["", "a b", "ä=&%+/?#", "x-y_z.~"] {
            assert_eq!(decode(&encode(text)).as_deref(), Ok(text));
        }
    }
}
