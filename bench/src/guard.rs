//! `bench guard`: does this change make a hot row slower, beside mosquitto in the same run?
//!
//! Knows: the hot rows, a stored baseline of ratios. May use: `compare`. In: findings. Out: a [`Line`] per row.
//! How: contestants take turns within each round, so that a slow minute hits both of a pair; the figure is Millrace's CPU
//! per message by mosquitto's, round by round. It fails only beyond noise: the whole spread of the new rounds must lie
//! above the baseline's own spread and the allowance on top of it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::compare::Finding;
use crate::contestants::System;
use crate::stats::Spread;

/// What may be added to the baseline before it counts as slower: another machine has other caches and other clocks.
const ALLOWANCE: f64 = 0.15;

/// Ratios of CPU per message, by row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// Where and when they were measured.
    pub(crate) measured: String,
    pub(crate) cpu_by_mosquitto: BTreeMap<String, Spread>,
}

/// One row beside its baseline.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) row: String,
    pub(crate) found: Spread,
    pub(crate) baseline: Option<Spread>,
    pub(crate) slower: bool,
}

impl Baseline {
    /// Reads a baseline.
    pub(crate) fn load(file: &Path) -> anyhow::Result<Baseline> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no baseline", file.display()))
    }

    /// Makes one of what was found.
    pub(crate) fn of(findings: &[Finding], measured: String) -> Baseline {
        let ratios =
            findings.iter().filter_map(|finding| Some((finding.row.to_owned(), cpu_ratio(finding)?)));
        Baseline { measured, cpu_by_mosquitto: ratios.collect() }
    }

    /// Writes it.
    pub(crate) fn store(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Puts what was found beside it.
    pub(crate) fn judge(&self, findings: &[Finding]) -> Vec<Line> {
        let ratios = findings.iter().filter_map(|finding| Some((finding.row, cpu_ratio(finding)?)));
        ratios.map(|(row, found)| self.line(row, found)).collect()
    }

    fn line(&self, row: &str, found: Spread) -> Line {
        let baseline = self.cpu_by_mosquitto.get(row).copied();
        let slower = baseline.is_some_and(|baseline| {
            found.min > baseline.max && found.median > baseline.median * (1.0 + ALLOWANCE)
        });
        Line { row: row.to_owned(), found, baseline, slower }
    }
}

fn cpu_ratio(finding: &Finding) -> Option<Spread> {
    finding.ratios.iter().find(|ratio| ratio.peer == System::Mosquitto).map(|ratio| ratio.cpu)
}

impl Line {
    /// One line for people.
    pub(crate) fn text(&self) -> String {
        let spread = |spread: &Spread| format!("{:.4} ({:.4}–{:.4})", spread.median, spread.min, spread.max);
        let word = match (self.slower, self.baseline) {
            (true, _) => "SLOWER",
            (false, Some(_)) => "within noise, or faster",
            (false, None) => "no baseline yet",
        };
        let baseline = self.baseline.as_ref().map_or_else(|| "–".to_owned(), spread);
        format!("{:12} CPU by mosquitto {}, baseline {baseline}: {word}", self.row, spread(&self.found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::HOT_ROWS;

    fn spread(median: f64, min: f64, max: f64) -> Spread {
        Spread { median, min, max }
    }

    #[track_caller]
    fn check(found: Spread, slower: bool) {
        let ratios = BTreeMap::from([("row".to_owned(), spread(0.030, 0.028, 0.034))]);
        let baseline = Baseline { measured: String::new(), cpu_by_mosquitto: ratios };
        assert_eq!(baseline.line("row", found).slower, slower, "{found:?}");
    }

    #[test]
    fn only_a_clear_regression_fails() {
        check(spread(0.030, 0.028, 0.034), false);
        check(spread(0.020, 0.018, 0.021), false);
        check(spread(0.038, 0.033, 0.050), false);
        check(spread(0.0343, 0.0341, 0.035), false);
        check(spread(0.040, 0.036, 0.044), true);
    }

    #[test]
    fn a_row_without_a_baseline_is_said_to_have_none() {
        let line = Baseline::default().line("new", spread(1.0, 1.0, 1.0));
        assert!(!line.slower && line.text().ends_with("no baseline yet"), "{}", line.text());
    }

    #[test]
    fn the_baseline_that_we_ship_has_every_row() {
        let baseline = Baseline::load(Path::new("baseline.json")).unwrap();
        assert!(HOT_ROWS.iter().all(|row| baseline.cpu_by_mosquitto.contains_key(*row)), "{baseline:?}");
    }

    #[test]
    fn what_is_guarded_exists_and_has_the_peer() {
        for name in HOT_ROWS {
            let row = crate::rows::ROWS.iter().find(|row| row.name == *name).unwrap();
            assert!(row.peers.contains(&System::Mosquitto));
        }
    }
}
