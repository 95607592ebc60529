//! What is counted and measured by name, for edgeHub's series (`reference/edgehub.md` §8).
//!
//! In: what happened to a message, a twin, a call, and whose it was. Out: counts and summaries by name. Cost: one search, no
//! allocation but for a name that is new. Bound: [`COUNTS_MAX`] names of counts and [`SUMMARIES_MAX`] of summaries, and the bytes
//! of [`Series::within`]; further ones are counted together by word, and not measured. Labels are cut at [`LABEL_BYTES_MAX`].

use std::collections::BTreeMap;

use model::Timestamp;

use crate::summary::Summary;

/// Names of counts that are kept apart.
const COUNTS_MAX: usize = 10_000;
/// Names of summaries.
const SUMMARIES_MAX: usize = 2_000;
/// Bytes of a label: a device with its module. Clients choose names of outputs, which may be longer.
const LABEL_BYTES_MAX: usize = 257;
/// What a count takes beside its name, and a summary: some hundred boxes.
const COUNT_BYTES: usize = 64;
const SUMMARY_BYTES: usize = 4_096;
/// The label of all that had no room for one of its own.
pub const FURTHER: &str = "further";
/// Between the parts of a name; no id has it.
pub const SEPARATOR: char = '\0';

/// By name: a word, then what labels it, each behind [`SEPARATOR`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    counts: BTreeMap<Box<str>, u64>,
    summaries: BTreeMap<Box<str>, Summary>,
    name: String,
    /// What names, counts and summaries take, and may take; `None`: these are sums of others.
    bytes: usize,
    bytes_max: Option<usize>,
}

impl Series {
    /// Nothing yet, and never more than that.
    pub fn within(bytes_max: usize) -> Series {
        Series { bytes_max: Some(bytes_max), ..Series::default() }
    }

    /// One more of these.
    pub fn count(&mut self, word: &str, labels: &[&str]) {
        self.add(word, labels, 1);
    }

    /// So many more.
    pub fn add(&mut self, word: &str, labels: &[&str], number: u64) {
        self.spell(word, labels);
        if let Some(count) = self.counts.get_mut(self.name.as_str()) {
            *count += number;
            return;
        }
        if self.counts.len() >= COUNTS_MAX || !self.takes(COUNT_BYTES) {
            self.spell(word, &[FURTHER]); // one for each word: there are a dozen
        }
        *self.counts.entry(self.name.as_str().into()).or_default() += number;
    }

    /// Something was measured.
    pub fn observe(&mut self, word: &str, labels: &[&str], value: f64, now: Timestamp) {
        self.spell(word, labels);
        if let Some(summary) = self.summaries.get_mut(self.name.as_str()) {
            summary.observe(value, now);
        } else if self.summaries.len() < SUMMARIES_MAX && self.takes(SUMMARY_BYTES) {
            self.summaries.entry(self.name.as_str().into()).or_default().observe(value, now);
        }
    }

    /// Counts by name.
    pub fn counts(&self) -> &BTreeMap<Box<str>, u64> {
        &self.counts
    }

    /// Summaries by name.
    pub fn summaries(&self) -> &BTreeMap<Box<str>, Summary> {
        &self.summaries
    }

    /// Whether nothing has happened.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.summaries.is_empty()
    }

    /// Adds what another one knows.
    pub fn merge(&mut self, other: &Series) {
        for (name, count) in &other.counts {
            *self.counts.entry(name.clone()).or_default() += count;
        }
        for (name, summary) in &other.summaries {
            self.summaries.entry(name.clone()).or_default().merge(summary);
        }
    }

    /// Takes room for the name that was spelled and what goes with it, if there is some.
    fn takes(&mut self, beside: usize) -> bool {
        let bytes = self.bytes + self.name.len() + beside;
        let fits = self.bytes_max.is_none_or(|max| bytes <= max);
        if fits {
            self.bytes = bytes;
        }
        fits
    }

    fn spell(&mut self, word: &str, labels: &[&str]) {
        self.name.clear();
        self.name.push_str(word);
        for label in labels {
            self.name.push(SEPARATOR);
            self.name.push_str(&label[..label.floor_char_boundary(LABEL_BYTES_MAX)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_counted_apart_as_long_as_there_is_room() {
        let mut series = Series::default();
        for number in 0..COUNTS_MAX + 5 {
            series.count("received", &[&number.to_string(), "out"]);
            series.observe("size", &[&number.to_string()], 1.0, Timestamp(1));
        }
        series.count("received", &["0", "out"]);
        assert_eq!(series.counts().len(), COUNTS_MAX + 1);
        assert_eq!((series.counts()["received\x000\x00out"], series.counts()["received\0further"]), (2, 5));
        assert_eq!(series.summaries().len(), SUMMARIES_MAX);
        let mut sum = series.clone();
        sum.merge(&series);
        assert_eq!((sum.counts()["received\0further"], sum.summaries()["size\x000"].count()), (10, 2));
    }

    /// Names of outputs are a client's choice.
    #[test]
    fn names_take_no_more_than_they_may() {
        let mut series = Series::within(100_000);
        for number in 0..1_000 {
            series.count("received", &["d1", &format!("{number}{}", "é".repeat(2_000))]);
            series.observe("size", &[&number.to_string()], 1.0, Timestamp(1));
        }
        let names = series.counts().keys().chain(series.summaries().keys());
        let bytes: usize = names.map(|name| name.len()).sum();
        let held = bytes + COUNT_BYTES * series.counts().len() + SUMMARY_BYTES * series.summaries().len();
        assert!((90_000..=100_500).contains(&held), "{held}");
        let counted: u64 = series.counts().values().sum();
        assert_eq!(counted, 1_000);
        assert!(
            series.counts()["received\0further"] > 500 && series.counts().keys().all(|name| name.len() < 300)
        );
    }
}
