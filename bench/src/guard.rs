//! `bench guard`: does this change make a hot row slower, beside a relay in the same run?
//!
//! Knows: the rows that a relay can carry, a stored baseline of ratios. May use: `compare`, `stats`. In: findings. Out: a
//! [`Line`] per row and figure.
//! How: contestants take turns within each round, so that a slow minute hits both of a pair, and the relay goes the same way
//! through the same kernel: what changes from day to day changes for both. The figures are Millrace's CPU per message and
//! rate by the relay's, round by round. It fails only beyond noise: the whole interval in which the median lies with 95 %
//! (by order statistics: no assumption about the noise) must be worse than the baseline's own interval, and worse than the
//! baseline by the allowance. mosquitto is printed and not judged: its own figures move by more than that from day to day.
//! What this is too coarse for, `instructions` sees to the percent.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::compare::{Contest, Finding};
use crate::contestants::System;
use crate::load::Sample;
use crate::stats::{Interval, ratios_of};

/// What is measured beside Millrace.
const PEER: System = System::Relay;
pub(crate) fn contest() -> Contest {
    Contest { noise_percent_max: NOISE_PERCENT_MAX, ..Contest::with(&[PEER]) }
}
/// The rows that a relay can carry.
pub(crate) const ROWS: [&str; 2] = ["qos0-pairs", "qos1-pairs"];
/// Below that many rounds there is no interval of 95 %.
pub(crate) const ROUNDS_MIN: u32 = 6;
/// Rounds with mosquitto, for the reader.
pub(crate) const MOSQUITTO_ROUNDS: u32 = 1;

/// How much worse than the baseline it may be before it counts as slower: another machine has other caches and clocks.
const ALLOWANCE: f64 = 0.25;
/// A round in which others used more of the machine than this says nothing: it is repeated, or left out.
const NOISE_PERCENT_MAX: f64 = 15.0;

/// A figure that is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Figure {
    /// CPU per message by the relay's: less is better.
    Cpu,
    /// Messages a second by the relay's: more is better. It sees what waits without working.
    Rate,
}

/// Ratios by row and figure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// Where and when they were measured.
    pub(crate) measured: String,
    pub(crate) rows: BTreeMap<String, BTreeMap<Figure, Interval>>,
}

/// One figure beside its baseline.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) row: String,
    pub(crate) figure: Figure,
    /// `None` if too few rounds can be used.
    pub(crate) found: Option<Interval>,
    pub(crate) baseline: Option<Interval>,
    pub(crate) slower: bool,
}

impl Baseline {
    /// Reads a baseline.
    pub(crate) fn load(file: &Path) -> anyhow::Result<Baseline> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no baseline", file.display()))
    }

    /// Makes one of what was found; fails if a figure is missing.
    pub(crate) fn of(findings: &[Finding], measured: String) -> anyhow::Result<Baseline> {
        let mut baseline = Baseline { measured, ..Baseline::default() };
        for finding in findings {
            for figure in Figure::ALL {
                let found = figure.of(&finding.samples).with_context(|| {
                    format!("{}, {}: too few rounds on a quiet machine", finding.row, figure.name())
                })?;
                baseline.rows.entry(finding.row.to_owned()).or_default().insert(figure, found);
            }
        }
        Ok(baseline)
    }

    /// Writes it.
    pub(crate) fn store(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Puts what was found beside it.
    pub(crate) fn judge(&self, findings: &[Finding]) -> Vec<Line> {
        let figures = findings.iter().flat_map(|finding| Figure::ALL.map(|figure| (finding, figure)));
        figures.map(|(finding, figure)| self.line(finding.row, figure, figure.of(&finding.samples))).collect()
    }

    fn line(&self, row: &str, figure: Figure, found: Option<Interval>) -> Line {
        let baseline = self.rows.get(row).and_then(|figures| figures.get(&figure)).copied();
        let slower = found.zip(baseline).is_some_and(|(found, baseline)| figure.is_worse(found, baseline));
        Line { row: row.to_owned(), figure, found, baseline, slower }
    }
}

impl Figure {
    const ALL: [Figure; 2] = [Figure::Cpu, Figure::Rate];

    const fn name(self) -> &'static str {
        match self {
            Figure::Cpu => "CPU",
            Figure::Rate => "rate",
        }
    }

    fn of(self, samples: &[Sample]) -> Option<Interval> {
        let quiet = samples.iter().filter(|sample| sample.noise_percent() <= NOISE_PERCENT_MAX);
        let of = |system: System, round: u32| {
            quiet.clone().find(|sample| sample.system == system && sample.round == round)
        };
        let rounds = samples.iter().map(|sample| sample.round).max().unwrap_or(0);
        let pairs = (1..=rounds).filter_map(|round| of(System::Millrace, round).zip(of(PEER, round)));
        let value = |sample: &Sample| match self {
            Figure::Cpu => sample.cpu_secs_per_million,
            Figure::Rate => sample.delivered_per_sec,
        };
        Interval::of_median(&ratios_of(pairs.map(|(ours, theirs)| (value(ours), value(theirs)))))
    }

    fn is_worse(self, found: Interval, baseline: Interval) -> bool {
        match self {
            Figure::Cpu => found.low > baseline.high && found.low > baseline.median * (1.0 + ALLOWANCE),
            Figure::Rate => found.high < baseline.low && found.high < baseline.median / (1.0 + ALLOWANCE),
        }
    }
}

impl Line {
    /// One line for people.
    pub(crate) fn text(&self) -> String {
        let show = |interval: &Interval| {
            format!("{:.3} ({:.3}–{:.3})", interval.median, interval.low, interval.high)
        };
        let word = match (self.slower, self.found, self.baseline) {
            (true, ..) => "SLOWER",
            (false, None, _) => "not judged: others used the machine in too many rounds",
            (false, _, Some(_)) => "within noise, or better",
            (false, _, None) => "no baseline yet",
        };
        let or_dash = |interval: &Option<Interval>| interval.as_ref().map_or_else(|| "–".to_owned(), show);
        let (found, baseline) = (or_dash(&self.found), or_dash(&self.baseline));
        let (row, figure) = (&self.row, self.figure.name());
        format!("{row:12} {figure:4} by the relay's {found}, baseline {baseline}: {word}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(median: f64, low: f64, high: f64) -> Interval {
        Interval { median, low, high }
    }

    #[track_caller]
    fn check(figure: Figure, found: Interval, slower: bool) {
        let figures =
            BTreeMap::from([(Figure::Cpu, interval(2.0, 1.8, 2.3)), (Figure::Rate, interval(0.8, 0.7, 0.9))]);
        let baseline =
            Baseline { measured: String::new(), rows: BTreeMap::from([("row".to_owned(), figures)]) };
        assert_eq!(baseline.line("row", figure, Some(found)).slower, slower, "{figure:?} {found:?}");
    }

    #[test]
    fn only_what_is_worse_as_a_whole_and_by_more_than_the_allowance_fails() {
        check(Figure::Cpu, interval(2.0, 1.8, 2.3), false);
        check(Figure::Cpu, interval(1.0, 0.9, 1.1), false);
        check(Figure::Cpu, interval(3.0, 2.4, 3.5), false);
        check(Figure::Cpu, interval(3.0, 2.6, 3.5), true);
        check(Figure::Rate, interval(0.8, 0.7, 0.9), false);
        check(Figure::Rate, interval(1.2, 1.1, 1.3), false);
        check(Figure::Rate, interval(0.6, 0.5, 0.69), false);
        check(Figure::Rate, interval(0.5, 0.4, 0.6), true);
    }

    #[test]
    fn what_cannot_be_judged_is_said_to_be_so() {
        let line = Baseline::default().line("new", Figure::Cpu, Some(interval(1.0, 1.0, 1.0)));
        assert!(!line.slower && line.text().ends_with("no baseline yet"), "{}", line.text());
        let line = Baseline::default().line("new", Figure::Rate, None);
        assert!(!line.slower && line.text().contains("not judged"), "{}", line.text());
    }

    #[test]
    fn the_baseline_that_we_ship_has_every_row() {
        let baseline = Baseline::load(Path::new("baseline.json")).unwrap();
        let whole = |row: &&str| baseline.rows.get(*row).is_some_and(|figures| figures.len() == 2);
        assert!(ROWS.iter().all(whole), "{baseline:?}");
    }

    #[test]
    fn what_is_guarded_exists_and_has_the_peer() {
        for name in ROWS {
            let row = crate::rows::ROWS.iter().find(|row| row.name == name).unwrap();
            assert!(row.peers.contains(&PEER));
        }
    }
}
