//! `bench guard`: does this change make a hot row slower, beside a relay and beside mosquitto in the same run?
//!
//! Knows: the rows that a relay can carry, a stored baseline of ratios. May use: `compare`, `stats`. In: findings. Out: a
//! [`Line`] per row, peer and figure.
//! How: contestants take turns within each round, so that a slow minute hits all of them; the figures are Millrace's CPU per
//! message and rate by the peer's, round by round. It fails only beyond noise: the whole interval in which the median lies
//! with 95 % (by order statistics: no assumption about the noise) must be worse than the baseline's own interval, and worse
//! than the baseline's median by the allowance. The relay goes the same way through the same kernel, so what changes from day
//! to day changes for both: its allowance is a quarter. mosquitto's own cost moves by a third from day to day: its allowance
//! is three quarters, which still sees what makes Millrace twice as dear. What both are too coarse for, `instructions` sees
//! to the percent (decisions 0011, 0026).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::compare::{Contest, Finding};
use crate::contestants::System;
use crate::load::Sample;
use crate::machine::Facts;
use crate::stats::{Interval, ratios_of};

/// What is measured beside Millrace, and how much worse than the baseline it may be before it counts as slower.
const PEERS: &[(System, f64)] = &[(System::Relay, 0.25), (System::Mosquitto, 0.75)];

pub(crate) fn contest() -> Contest {
    let peers: Vec<System> = PEERS.iter().map(|(peer, _)| *peer).collect();
    Contest { noise_percent_max: NOISE_PERCENT_MAX, failures_max: FAILURES_MAX, ..Contest::with(&peers) }
}

/// The rows that a relay can carry.
pub(crate) const ROWS: [&str; 2] = ["qos0-pairs", "qos1-pairs"];
/// Below that many rounds there is no interval of 95 %.
pub(crate) const ROUNDS_MIN: u32 = 6;

/// Another machine has other caches and clocks: there the allowance is wider by this factor.
const ELSEWHERE: f64 = 2.0;
/// A round in which others used more of the machine than this says nothing: it is repeated, or left out.
const NOISE_PERCENT_MAX: f64 = 15.0;
/// Rounds of a row that may not come about at all, each once: the gate is about speed, and a port that somebody else took says nothing of it.
const FAILURES_MAX: u32 = 3;

/// A figure that is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Figure {
    /// CPU per message by the peer's: less is better.
    Cpu,
    /// Messages a second by the peer's: more is better. It sees what waits without working.
    Rate,
}

/// Ratios by peer and figure.
type Ratios = BTreeMap<String, BTreeMap<Figure, Interval>>;

/// Ratios by row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// Where and when they were measured.
    pub(crate) measured: String,
    /// The same as [`Facts::kind`] says it.
    pub(crate) machine: String,
    pub(crate) rows: BTreeMap<String, Ratios>,
}

/// One figure beside its baseline.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) row: String,
    pub(crate) peer: &'static str,
    pub(crate) figure: Figure,
    /// `None` if too few rounds can be used.
    pub(crate) found: Option<Interval>,
    pub(crate) baseline: Option<Interval>,
    /// How much worse than the baseline's median it may be.
    pub(crate) allowance: f64,
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
    pub(crate) fn of(findings: &[Finding], facts: &Facts) -> anyhow::Result<Baseline> {
        let mut baseline = Baseline { measured: facts.line(), machine: facts.kind(), ..Baseline::default() };
        for (finding, peer, figure) in all(findings) {
            let found = figure.of(&finding.samples, peer).with_context(|| {
                let (row, peer, figure) = (finding.row, peer.name(), figure.name());
                format!("{row} beside {peer}, {figure}: too few rounds on a quiet machine")
            })?;
            let row = baseline.rows.entry(finding.row.to_owned()).or_default();
            row.entry(peer.name().to_owned()).or_default().insert(figure, found);
        }
        Ok(baseline)
    }

    /// Writes it.
    pub(crate) fn store(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Whether it was measured on a machine of this kind.
    pub(crate) fn is_of(&self, facts: &Facts) -> bool {
        self.machine == facts.kind()
    }

    /// Puts what was found beside it.
    pub(crate) fn judge(&self, findings: &[Finding], facts: &Facts) -> Vec<Line> {
        let factor = if self.is_of(facts) { 1.0 } else { ELSEWHERE };
        let line = |(finding, peer, figure): (&Finding, System, Figure)| {
            self.line(finding.row, (peer, figure), factor, figure.of(&finding.samples, peer))
        };
        all(findings).map(line).collect()
    }

    fn line(
        &self,
        row: &str,
        (peer, figure): (System, Figure),
        factor: f64,
        found: Option<Interval>,
    ) -> Line {
        let stored = self.rows.get(row).and_then(|ratios| ratios.get(peer.name()));
        let baseline = stored.and_then(|figures| figures.get(&figure)).copied();
        let allowed = PEERS.iter().find(|(known, _)| *known == peer).map_or(0.0, |(_, allowed)| *allowed);
        let allowance = factor * allowed;
        let slower =
            found.zip(baseline).is_some_and(|(found, baseline)| figure.is_worse(found, baseline, allowance));
        Line { row: row.to_owned(), peer: peer.name(), figure, found, baseline, allowance, slower }
    }
}

/// Every figure that is guarded.
fn all(findings: &[Finding]) -> impl Iterator<Item = (&Finding, System, Figure)> {
    findings.iter().flat_map(|finding| {
        PEERS.iter().flat_map(move |(peer, _)| Figure::ALL.map(|figure| (finding, *peer, figure)))
    })
}

impl Figure {
    const ALL: [Figure; 2] = [Figure::Cpu, Figure::Rate];

    const fn name(self) -> &'static str {
        match self {
            Figure::Cpu => "CPU",
            Figure::Rate => "rate",
        }
    }

    fn of(self, samples: &[Sample], peer: System) -> Option<Interval> {
        let quiet = samples.iter().filter(|sample| sample.noise_percent() <= NOISE_PERCENT_MAX);
        let of = |system: System, round: u32| {
            quiet.clone().find(|sample| sample.system == system && sample.round == round)
        };
        let rounds = samples.iter().map(|sample| sample.round).max().unwrap_or(0);
        let pairs = (1..=rounds).filter_map(|round| of(System::Millrace, round).zip(of(peer, round)));
        let value = |sample: &Sample| match self {
            Figure::Cpu => sample.cpu_secs_per_million,
            Figure::Rate => sample.delivered_per_sec,
        };
        Interval::of_median(&ratios_of(pairs.map(|(ours, theirs)| (value(ours), value(theirs)))))
    }

    fn is_worse(self, found: Interval, baseline: Interval, allowance: f64) -> bool {
        match self {
            Figure::Cpu => found.low > baseline.high && found.low > baseline.median * (1.0 + allowance),
            Figure::Rate => found.high < baseline.low && found.high < baseline.median / (1.0 + allowance),
        }
    }
}

impl Line {
    /// One line for people.
    pub(crate) fn text(&self) -> String {
        // Three digits that say something: mosquitto's ratios are small or large.
        let number = |value: f64| match value {
            large if large >= 10.0 => format!("{large:.1}"),
            middle if middle >= 0.5 => format!("{middle:.2}"),
            small => format!("{small:.4}"),
        };
        let show = |interval: &Interval| {
            let [median, low, high] = [interval.median, interval.low, interval.high].map(number);
            format!("{median} ({low}–{high})")
        };
        let word = match (self.slower, self.found, self.baseline) {
            (true, ..) => "SLOWER",
            (false, None, _) => "not judged: others used the machine in too many rounds",
            (false, _, Some(_)) => "within noise, or better",
            (false, _, None) => "no baseline yet",
        };
        let or_dash = |interval: &Option<Interval>| interval.as_ref().map_or_else(|| "–".to_owned(), show);
        let (found, baseline) = (or_dash(&self.found), or_dash(&self.baseline));
        let Line { row, peer, allowance, .. } = self;
        let figure = self.figure.name();
        let allowed = 100.0 * allowance;
        format!("{row:11} {figure:4} by {peer:9} {found}, baseline {baseline} + {allowed:.0} %: {word}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(median: f64, low: f64, high: f64) -> Interval {
        Interval { median, low, high }
    }

    fn line(peer: System, figure: Figure, factor: f64, found: Interval) -> Line {
        let figures =
            BTreeMap::from([(Figure::Cpu, interval(2.0, 1.8, 2.3)), (Figure::Rate, interval(0.8, 0.7, 0.9))]);
        let ratios = Ratios::from([("relay".to_owned(), figures.clone()), ("mosquitto".to_owned(), figures)]);
        let baseline = Baseline { rows: BTreeMap::from([("row".to_owned(), ratios)]), ..Baseline::default() };
        baseline.line("row", (peer, figure), factor, Some(found))
    }

    #[track_caller]
    fn check(figure: Figure, found: Interval, slower: bool) {
        assert_eq!(line(System::Relay, figure, 1.0, found).slower, slower, "{figure:?} {found:?}");
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
    fn mosquitto_and_other_machines_have_a_wider_allowance() {
        let (third, double) = (interval(3.0, 2.7, 3.3), interval(4.2, 3.8, 4.5));
        assert!(line(System::Relay, Figure::Cpu, 1.0, third).slower);
        assert!(!line(System::Mosquitto, Figure::Cpu, 1.0, third).slower, "it moves so far by itself");
        assert!(line(System::Mosquitto, Figure::Cpu, 1.0, double).slower);
        assert!(!line(System::Relay, Figure::Cpu, ELSEWHERE, third).slower);
        assert!(line(System::Relay, Figure::Cpu, ELSEWHERE, double).slower);
    }

    /// A day on which mosquitto costs a third less, and each round is off by a tenth (standard deviation) for each of both:
    /// a thousand gates of nine rounds without any regression, and a thousand with one of a factor of 2.5.
    #[test]
    fn noise_does_not_fail_the_gate_and_a_large_regression_does() {
        let mut state = 1_u64;
        let mut unit = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1_u64 << 31) as f64
        };
        let mut noise = |deviation: f64| ((0..12).map(|_| unit()).sum::<f64>() - 6.0) * deviation;
        let mut failed = |factor: f64| {
            let gates = (0..1_000).filter(|_| {
                let rounds: Vec<f64> = (0..9).map(|_| 2.0 * factor * noise(0.14).exp()).collect();
                let found = Interval::of_median(&rounds).unwrap();
                line(System::Mosquitto, Figure::Cpu, 1.0, found).slower
            });
            gates.count()
        };
        assert_eq!(failed(4.0 / 3.0), 0, "mosquitto's day, and no change of ours");
        assert!(failed(2.5) > 990, "two and a half times as dear");
    }

    #[test]
    fn what_cannot_be_judged_is_said_to_be_so() {
        let baseline = Baseline::default();
        let figure = (System::Relay, Figure::Cpu);
        let line = baseline.line("new", figure, 1.0, Some(interval(1.0, 1.0, 1.0)));
        assert!(!line.slower && line.text().ends_with("no baseline yet"), "{}", line.text());
        let line = baseline.line("new", figure, 1.0, None);
        assert!(!line.slower && line.text().contains("not judged"), "{}", line.text());
    }

    #[test]
    fn the_baseline_that_we_ship_has_every_row_and_peer() {
        let baseline = Baseline::load(Path::new("baseline.json")).unwrap();
        for row in ROWS {
            for (peer, _) in PEERS {
                let figures = baseline.rows.get(row).and_then(|ratios| ratios.get(peer.name()));
                assert!(figures.is_some_and(|figures| figures.len() == 2), "{row} {}", peer.name());
            }
        }
        assert!(!baseline.machine.is_empty());
    }

    #[test]
    fn what_is_guarded_exists_and_has_the_peers() {
        for name in ROWS {
            let row = crate::rows::ROWS.iter().find(|row| row.name == name).unwrap();
            assert!(PEERS.iter().all(|(peer, _)| row.peers.contains(peer)));
        }
    }
}
