//! Topic names and topic filters (MQTT 5.0 §4.7).

/// Longest topic that fits MQTT's two-byte length, in bytes.
const TOPIC_BYTES_MAX: usize = 65_535;

/// Why a string is no topic name or no topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopic {
    /// [MQTT-4.7.3-1]
    #[error("it is empty; a topic has at least one character")]
    Empty,
    /// [MQTT-4.7.3-3]
    #[error("it is longer than 65535 bytes")]
    TooLong,
    /// [MQTT-4.7.3-2]
    #[error("it contains the null character U+0000")]
    Null,
    /// [MQTT-4.7.0-1]
    #[error("it contains a wildcard ('+' or '#'), which a topic name may not")]
    WildcardInName,
    /// [MQTT-4.7.1-1]
    #[error("'#' must be the last character and stand alone in its level")]
    MisplacedHash,
    /// [MQTT-4.7.1-2]
    #[error("'+' must stand alone in its level")]
    MisplacedPlus,
    /// [MQTT-4.8.2-1], [MQTT-4.8.2-2]
    #[error("a shared subscription is '$share/NAME/FILTER', NAME without '/', '+' and '#'")]
    ShareName,
}

/// Checks a topic name, as in PUBLISH (MQTT 5.0 §4.7).
#[inline]
pub fn validate_name(name: &str) -> Result<(), InvalidTopic> {
    check_length(name)?;
    for &byte in name.as_bytes() {
        match byte {
            b'+' | b'#' => return Err(InvalidTopic::WildcardInName),
            0 => return Err(InvalidTopic::Null),
            _ => {}
        }
    }
    Ok(())
}

/// Checks a topic filter, as in SUBSCRIBE, without a `$share` prefix (MQTT 5.0 §4.7).
pub fn validate_filter(filter: &str) -> Result<(), InvalidTopic> {
    check_length(filter)?;
    if filter.as_bytes().contains(&0) {
        return Err(InvalidTopic::Null);
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        if level.contains('#') && !(level == "#" && last) {
            return Err(InvalidTopic::MisplacedHash);
        }
        if level.contains('+') && level != "+" {
            return Err(InvalidTopic::MisplacedPlus);
        }
    }
    Ok(())
}

/// Whether a valid filter matches a valid name (MQTT 5.0 §4.7), the plain way; the oracle for every index.
///
/// A wildcard in the first level does not match a name that starts with `$` [MQTT-4.7.2-1].
pub fn filter_matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = name.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true; // also the parent level: `a/#` matches `a`
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// A valid topic name, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicName<'t>(&'t str);

impl<'t> TopicName<'t> {
    /// Checks and wraps `name`.
    #[inline]
    pub fn new(name: &'t str) -> Result<TopicName<'t>, InvalidTopic> {
        validate_name(name).map(|()| TopicName(name))
    }

    /// The text.
    #[inline]
    pub const fn as_str(self) -> &'t str {
        self.0
    }
}

/// A valid topic filter, owned, with its share name split off.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter {
    share: Option<Box<str>>,
    filter: Box<str>,
}

impl TopicFilter {
    /// Checks `text`, which may be `$share/NAME/FILTER` (MQTT 5.0 §4.8.2).
    pub fn new(text: &str) -> Result<TopicFilter, InvalidTopic> {
        let (share, filter) = split_share(text)?;
        Ok(TopicFilter { share: share.map(Into::into), filter: filter.into() })
    }

    /// Checks `text` as [`TopicFilter::new`] does, and keeps nothing.
    pub fn check(text: &str) -> Result<(), InvalidTopic> {
        split_share(text).map(|_| ())
    }

    /// The filter itself, without the share prefix.
    pub fn as_str(&self) -> &str {
        &self.filter
    }

    /// The share name, for a shared subscription.
    pub fn share(&self) -> Option<&str> {
        self.share.as_deref()
    }
}

/// Share name and filter of a valid text.
fn split_share(text: &str) -> Result<(Option<&str>, &str), InvalidTopic> {
    // The `$share` check comes first: `$share/g/#` would otherwise look like a filter that starts with `$`.
    let Some(rest) = text.strip_prefix("$share/") else {
        validate_filter(text)?;
        return Ok((None, text));
    };
    let (share, filter) = rest.split_once('/').ok_or(InvalidTopic::ShareName)?;
    if share.is_empty() || share.contains(['+', '#']) || filter.is_empty() {
        return Err(InvalidTopic::ShareName);
    }
    validate_filter(filter)?;
    Ok((Some(share), filter))
}

fn check_length(text: &str) -> Result<(), InvalidTopic> {
    match text.len() {
        0 => Err(InvalidTopic::Empty),
        1..=TOPIC_BYTES_MAX => Ok(()),
        _ => Err(InvalidTopic::TooLong),
    }
}

#[cfg(test)]
mod tests;
