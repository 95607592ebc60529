//! One report of the parts that several processes had in a run.
//!
//! In:  a [`Part`] of each process. Out: a [`Report`] of the whole. How: counts and rates add up, percentiles are those of
//! the added histograms, the verdict is that of the merged ledger; what concerns the broker is the caller's, who watched it
//! once for all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Counts, Histograms, Percentiles, Rates, Report, Second, Slip, Spans};
use crate::clock::Micros;
use crate::hlog::{Interval, by_second};
use crate::ledger::{Ledger, Rules};

/// What one process has to say, in whole: its report, and what is not part of the JSON of a report.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    report: Report,
    ledger: Ledger,
    intervals: Vec<Interval>,
    histograms: Histograms,
}

impl From<Report> for Part {
    fn from(mut report: Report) -> Part {
        Part {
            ledger: std::mem::take(&mut report.ledger),
            intervals: std::mem::take(&mut report.intervals),
            histograms: std::mem::take(&mut report.histograms),
            report,
        }
    }
}

/// What the caller saw of the broker in one second.
#[derive(Clone, Copy, Debug)]
pub struct BrokerSecond {
    /// Processors that it kept busy; `None` in the first second, which has nothing to compare with.
    pub processors: Option<f64>,
    /// Its resident memory.
    pub rss_bytes: u64,
}

/// Makes one report of all parts; `None` without any. Each has its number, from 1.
///
/// `start` is when the load began, the same for all; `broker` is by the number of the second. Valid only if all parts are.
#[must_use]
pub fn merge(
    parts: Vec<(u32, Part)>,
    start: Micros,
    rules: Rules,
    broker: &BTreeMap<u64, BrokerSecond>,
) -> Option<Report> {
    let processes = parts.len();
    let (mut ledger, mut histograms, mut intervals) = (Ledger::new(), Histograms::default(), Vec::new());
    let (mut seconds, mut whole) = (BTreeMap::new(), None::<Report>);
    for (number, part) in parts {
        ledger.merge(&part.ledger);
        histograms.add(&part.histograms);
        let Report { series, remarks, .. } = &part.report;
        let keys = seconds_of(series);
        for interval in part.intervals {
            let ends = interval.at.plus(interval.lasts).since(start) as f64 / 1e6;
            intervals.extend(key_at(series, &keys, ends).map(|key| (key, interval)));
        }
        add_seconds(&mut seconds, &keys, series);
        let remarks = remarks.iter().map(|remark| name(number, remark)).collect();
        let report = Report { series: Vec::new(), remarks, ..part.report };
        match &mut whole {
            None => whole = Some(report),
            Some(whole) => whole.add(report),
        }
    }
    let mut whole = whole?;
    let intervals = by_second(intervals);
    for (key, interval) in &intervals {
        if let Some(second) = seconds.get_mut(key) {
            second.latency = Percentiles::of(&interval.values());
        }
    }
    for (key, seen) in broker {
        if let Some(second) = seconds.get_mut(key) {
            second.broker_processors = seen.processors;
            second.broker_rss_bytes = Some(seen.rss_bytes);
        }
    }
    whole.series = seconds.into_values().collect();
    whole.slip.slipped_percent = 100.0 * whole.slip.slipped as f64 / whole.slip.scheduled.max(1) as f64;
    let [latency, ack, lateness, connect] = histograms.short();
    (whole.latency_micros, whole.ack_micros, whole.connect_micros) = (latency, ack, connect);
    whole.slip.lateness_micros = lateness;
    whole.latency_curve = histograms.latency_curve();
    whole.loadgen = whole.loadgen.map(|usage| usage.shared_by(whole.measured.arrived));
    whole.verdict = ledger.verdict(rules);
    if let Some(run) = whole.config.get_mut("run").and_then(toml::Value::as_table_mut) {
        run.retain(|key, _| !["part", "id", "begin_at_micros"].contains(&key));
    }
    whole.processes = processes as u32;
    Some(Report { ledger, histograms, intervals: intervals.into_values().collect(), ..whole })
}

/// `INVALID` stays in front, where readers look for it.
fn name(number: u32, remark: &str) -> String {
    match remark.strip_prefix("INVALID: ") {
        Some(rest) => format!("INVALID: process {number}: {rest}"),
        None => format!("process {number}: {remark}"),
    }
}

/// The number of a second of one process, after the one with the number `last`. A look comes at a whole second or a
/// little late, and the last one, after the stragglers, comes at any time.
#[must_use]
pub fn number_of(last: u64, second: &Second) -> u64 {
    (second.at_secs as u64).max(last + 1)
}

fn seconds_of(series: &[Second]) -> Vec<u64> {
    let mut last = 0;
    let number = |second: &Second| {
        last = number_of(last, second);
        last
    };
    series.iter().map(number).collect()
}

/// The number of the second that ends nearest to `ends`.
fn key_at(series: &[Second], keys: &[u64], ends: f64) -> Option<u64> {
    let distance = |second: &Second| (second.at_secs - ends).abs();
    let pairs = series.iter().zip(keys);
    pairs.min_by(|(a, _), (b, _)| distance(a).total_cmp(&distance(b))).map(|(_, key)| *key)
}

/// Adds what one process saw to what others saw in the same seconds.
fn add_seconds(seconds: &mut BTreeMap<u64, Second>, keys: &[u64], series: &[Second]) {
    for (&key, second) in keys.iter().zip(series) {
        match seconds.get_mut(&key) {
            Some(own) => own.add(second),
            None => {
                seconds.insert(key, Second { latency: Percentiles::default(), ..*second });
            }
        }
    }
}

impl Report {
    fn add(&mut self, other: Report) {
        self.valid &= other.valid;
        self.remarks.extend(other.remarks);
        self.errors.extend(other.errors);
        self.measured_secs = self.measured_secs.max(other.measured_secs);
        self.spans.widen(&other.spans);
        self.measured.add(&other.measured);
        self.total.add(&other.total);
        self.rates.add(&other.rates);
        self.slip.add(&other.slip);
        self.loadgen = self.loadgen.zip(other.loadgen).map(|(own, theirs)| own.beside(&theirs));
        self.lost_connections += other.lost_connections;
        self.reconnects += other.reconnects;
        self.sessions_lost += other.sessions_lost;
        self.connects += other.connects;
        self.connects_failed += other.connects_failed;
    }
}

impl Spans {
    fn widen(&mut self, other: &Spans) {
        self.connect_secs = self.connect_secs.max(other.connect_secs);
        self.load_secs = self.load_secs.max(other.load_secs);
        self.drain_secs = self.drain_secs.max(other.drain_secs);
    }
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.sent += other.sent;
        self.resent += other.resent;
        self.acked += other.acked;
        self.refused += other.refused;
        self.arrived += other.arrived;
        self.arrived_bytes += other.arrived_bytes;
    }
}

impl Rates {
    fn add(&mut self, other: &Rates) {
        self.sent_per_sec += other.sent_per_sec;
        self.acked_per_sec += other.acked_per_sec;
        self.arrived_per_sec += other.arrived_per_sec;
        self.arrived_bytes_per_sec += other.arrived_bytes_per_sec;
    }
}

impl Slip {
    fn add(&mut self, other: &Slip) {
        self.scheduled += other.scheduled;
        self.slipped += other.slipped;
        self.blocked += other.blocked;
        self.unsent += other.unsent;
    }
}

impl Second {
    /// What another process saw in the same second; latencies are the caller's, who has the histograms.
    pub fn add(&mut self, other: &Second) {
        self.sent_per_sec += other.sent_per_sec;
        self.acked_per_sec += other.acked_per_sec;
        self.arrived_per_sec += other.arrived_per_sec;
        self.sent += other.sent;
        self.acked += other.acked;
        self.arrived += other.arrived;
        self.arrived_first += other.arrived_first;
        self.owed += other.owed;
        // Who sends and who receives may be different processes: only the sums belong together.
        self.missing = self.owed.saturating_sub(self.arrived_first);
        self.connections += other.connections;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_halves_make_one_whole() {
        let report = crate::report::example();
        let (series, latency) = (report.series.clone(), report.histograms.latency.clone());
        let start = Micros(report.intervals[0].at.0);
        let part = || {
            let text = serde_json::to_string(&Part::from(report.clone())).unwrap();
            serde_json::from_str::<Part>(&text).unwrap()
        };
        let whole = merge(vec![(1, part()), (2, part())], start, Rules::default(), &BTreeMap::new()).unwrap();
        assert_eq!(whole.measured.arrived, 2 * report.measured.arrived);
        assert_eq!(whole.latency_micros.count, 2 * latency.len());
        assert_eq!(whole.latency_micros.p99, report.latency_micros.p99, "twice the same values");
        assert_eq!((whole.series.len(), whole.processes), (series.len(), 2));
        assert_eq!(whole.series[0].arrived, 2 * series[0].arrived);
        assert_eq!(whole.series[0].latency.count, 2 * series[0].latency.count);
        // The same messages by the same publisher, twice: that is what the referee is for.
        assert!(!whole.kept() && whole.verdict.sent == report.verdict.sent, "{:?}", whole.verdict);
    }

    #[test]
    fn what_is_wrong_with_one_is_wrong_with_the_whole_and_named() {
        let good = crate::report::example();
        let remarks = vec!["INVALID: too late".to_owned(), "closed loop".to_owned()];
        let bad = Report { valid: false, remarks, ..good.clone() };
        let parts = vec![(1, good.into()), (2, bad.into())];
        let whole = merge(parts, Micros(0), Rules::default(), &BTreeMap::new()).unwrap();
        let named = |text: &str| whole.remarks.iter().any(|remark| remark == text);
        assert!(!whole.valid && named("INVALID: process 2: too late") && named("process 2: closed loop"));
        assert!(merge(Vec::new(), Micros(0), Rules::default(), &BTreeMap::new()).is_none());
    }
}
