//! What messages of the dialect are counted by, for edgeHub's series (`reference/edgehub.md` §8).
//!
//! In: what happened to a message, and whose it was. Out: counts by name. Cost: one search for a message, no allocation but for
//! a name that is new. Bound: [`NAMES_MAX`] names; messages of further ones are counted together.

use std::collections::BTreeMap;

/// Names that are kept apart.
const NAMES_MAX: usize = 10_000;
/// Between the parts of a name; no id has it.
pub const SEPARATOR: char = '\0';

/// Counts by name: a word, then what labels it, each behind [`SEPARATOR`].
#[derive(Debug, Default)]
pub(crate) struct Series {
    counts: BTreeMap<Box<str>, u64>,
    name: String,
}

impl Series {
    /// One more of these.
    pub(super) fn count(&mut self, word: &str, labels: &[&str]) {
        self.name.clear();
        self.name.push_str(word);
        for label in labels {
            self.name.push(SEPARATOR);
            self.name.push_str(label);
        }
        if let Some(count) = self.counts.get_mut(self.name.as_str()) {
            *count += 1;
            return;
        }
        let is_full = self.counts.len() >= NAMES_MAX;
        let name = if is_full { "further" } else { self.name.as_str() };
        *self.counts.entry(name.into()).or_default() += 1;
    }

    /// All of them.
    pub(crate) fn counts(&self) -> &BTreeMap<Box<str>, u64> {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_counted_apart_as_long_as_there_is_room() {
        let mut series = Series::default();
        for number in 0..NAMES_MAX + 5 {
            series.count("received", &[&number.to_string(), "out"]);
        }
        series.count("received", &["0", "out"]);
        assert_eq!(series.counts().len(), NAMES_MAX + 1);
        assert_eq!((series.counts()["received\x000\x00out"], series.counts()["further"]), (2, 5));
    }
}
