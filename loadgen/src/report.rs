//! The report of one run, as JSON and as text.
//!
//! Knows: what a reader needs to believe a figure: load model, validity, machine, configuration. Never: sockets.
//! In:  counters, histograms and the ledger of a finished run. Out: a [`Report`].

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::ledger::{Ledger, Verdict};
use crate::measure::Mark;
use crate::process::Usage;
use crate::run::Outcome;
use crate::scenario::{Pacing, Scenario};

/// Start and end of the measured interval, as they were met.
pub(crate) struct Window {
    pub(crate) from: Mark,
    pub(crate) to: Mark,
}

/// What one run has shown.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// What it is about.
    pub description: String,
    /// `"open"`: arrivals from a schedule. `"closed"`: as fast as the broker takes them; its latencies say nothing.
    pub load_model: &'static str,
    /// Whether the figures may be used. The verdict holds in any case.
    pub valid: bool,
    /// Why not, or what to know about them; one sentence each.
    pub remarks: Vec<String>,
    /// Length of the measured interval in seconds, as it was met.
    pub measured_secs: f64,
    /// How long the parts of the run took.
    pub spans: Spans,
    /// Counts within the measured interval.
    pub measured: Counts,
    /// Counts from the first to the last message, warm-up and drain included.
    pub total: Counts,
    /// Rates within the measured interval.
    pub rates: Rates,
    /// Microseconds from the intended send time to the arrival.
    pub latency_micros: Percentiles,
    /// Microseconds from the intended send time to the PUBACK.
    pub ack_micros: Percentiles,
    /// How well the schedule was kept.
    pub slip: Slip,
    /// The referee's findings.
    pub verdict: Verdict,
    /// What the broker's process used in the measured interval, per million deliveries.
    pub broker: Option<Usage>,
    /// What this process used in the same interval.
    pub loadgen: Option<Usage>,
    /// One entry a second.
    pub series: Vec<Second>,
    /// Connections lost before the end.
    pub lost_connections: u64,
    /// Connections opened again.
    pub reconnects: u64,
    /// Of those, without the session that should have waited for them.
    pub sessions_lost: u64,
    /// The first connection errors.
    pub errors: Vec<String>,
    /// Where it ran.
    pub machine: Machine,
    /// The scenario as used, overrides applied.
    pub config: toml::Table,
    /// What the verdict is about; not part of the JSON, see `--ledger`.
    #[serde(skip)]
    pub ledger: Ledger,
}

/// How long the parts of a run took, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spans {
    /// From the first connection attempt until all were up and subscribed.
    pub connect_secs: f64,
    /// From the first message until the last was sent; where subscribers join later, until all were acknowledged.
    pub load_secs: f64,
    /// From then until the last message arrived; where subscribers join later, all that was retained.
    pub drain_secs: f64,
}

/// Messages counted.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counts {
    /// Handed to sockets.
    pub sent: u64,
    /// Sent again after a reconnect.
    pub resent: u64,
    /// Acknowledged to their publishers.
    pub acked: u64,
    /// Acknowledged with a reason code that is an error.
    pub refused: u64,
    /// Copies that arrived.
    pub arrived: u64,
    /// Payload bytes that arrived.
    pub arrived_bytes: u64,
}

/// Messages a second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    /// Handed to sockets.
    pub sent_per_sec: f64,
    /// Acknowledged.
    pub acked_per_sec: f64,
    /// Arrived.
    pub arrived_per_sec: f64,
    /// Payload bytes that arrived.
    pub arrived_bytes_per_sec: f64,
}

/// How well the schedule of an open loop was kept, in the measured interval.
#[derive(Clone, Debug, Serialize)]
pub struct Slip {
    /// Messages due.
    pub scheduled: u64,
    /// Sent late though nothing was in the way: the generator could not keep up.
    pub slipped: u64,
    /// The same in percent of what was due.
    pub slipped_percent: f64,
    /// Sent late or not at all because the broker did not take more.
    pub blocked: u64,
    /// Microseconds from the intended to the actual send time, of all messages sent.
    pub lateness_micros: Percentiles,
}

/// A histogram in short. All values are microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many values.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The smallest.
    pub min: u64,
    /// Half are below.
    pub p50: u64,
    /// 90 % are below.
    pub p90: u64,
    /// 99 % are below.
    pub p99: u64,
    /// 99.9 % are below.
    pub p999: u64,
    /// 99.99 % are below.
    pub p9999: u64,
    /// The largest.
    pub max: u64,
}

impl Percentiles {
    /// Sums up a histogram. All zero if it is empty.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Percentiles {
        if histogram.is_empty() {
            return Percentiles::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        Percentiles {
            count: histogram.len(),
            mean: histogram.mean(),
            min: histogram.min(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max(),
        }
    }
}

/// One second of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Second {
    /// Since the load started.
    pub at_secs: f64,
    /// Handed to sockets, a second.
    pub sent_per_sec: u64,
    /// Acknowledged, a second.
    pub acked_per_sec: u64,
    /// Arrived, a second.
    pub arrived_per_sec: u64,
    /// Sent so far.
    pub sent: u64,
    /// Acknowledged so far.
    pub acked: u64,
    /// Arrived so far, repeats included.
    pub arrived: u64,
    /// Arrived so far, each message once per receiver.
    pub arrived_first: u64,
    /// Owed to subscribers and not arrived yet.
    pub missing: u64,
    /// Connections that are up.
    pub connections: u64,
    /// Latencies of this second, if it is measured.
    pub latency: Percentiles,
}

/// Where a run took place.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Logical processors that this process may use.
    pub processors: usize,
    /// Their model.
    pub processor: String,
    /// Kernel release.
    pub kernel: String,
}

impl Machine {
    fn here() -> Machine {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Machine {
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            processor: model.map_or_else(String::new, |(_, model)| model.trim().to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

impl Report {
    pub(crate) fn new(
        scenario: Scenario,
        window: &Window,
        series: Vec<Second>,
        outcome: &Outcome,
        spans: Spans,
        interrupted: bool,
    ) -> Report {
        let (from, to) = (&window.from, &window.to);
        let span = to.at.since(from.at).max(1) as f64 / 1e6;
        let measured = Counts::between(&from.live, &to.live);
        let rate = |count: u64| count as f64 / span;
        let usage = |before: Option<crate::process::Sample>, after: Option<crate::process::Sample>| {
            Some(after?.since(&before?, measured.arrived))
        };
        let live = &outcome.live;
        let closed = scenario.publishers.as_ref().is_some_and(|p| p.pacing == Pacing::Max);
        let slip = Slip {
            scheduled: live.scheduled,
            slipped: live.slipped,
            slipped_percent: 100.0 * live.slipped as f64 / live.scheduled.max(1) as f64,
            blocked: live.blocked,
            lateness_micros: Percentiles::of(&outcome.lateness),
        };
        let mut report = Report {
            load_model: if closed { "closed" } else { "open" },
            valid: true,
            remarks: Vec::new(),
            measured_secs: span,
            spans,
            rates: Rates {
                sent_per_sec: rate(measured.sent),
                acked_per_sec: rate(measured.acked),
                arrived_per_sec: rate(measured.arrived),
                arrived_bytes_per_sec: rate(measured.arrived_bytes),
            },
            measured,
            total: Counts::between(&crate::stats::Live::default(), live),
            latency_micros: Percentiles::of(&outcome.latency),
            ack_micros: Percentiles::of(&outcome.ack),
            slip,
            verdict: outcome.ledger.verdict(scenario.run.rules),
            broker: usage(from.broker, to.broker),
            loadgen: usage(from.own, to.own),
            series,
            lost_connections: live.lost_connections,
            reconnects: live.reconnects,
            sessions_lost: live.sessions_lost,
            errors: outcome.errors.clone(),
            machine: Machine::here(),
            scenario: scenario.name.clone(),
            description: scenario.description.clone(),
            config: scenario.source.clone(),
            ledger: outcome.ledger.clone(),
        };
        report.judge(&scenario, interrupted);
        report
    }

    /// Says whether the figures may be used, and what a reader must know.
    fn judge(&mut self, scenario: &Scenario, interrupted: bool) {
        if self.slip.slipped_percent > scenario.run.slip_max_percent {
            self.valid = false;
            self.remarks.push(format!(
                "INVALID: {:.2} % of the messages left more than {} ms late by the generator's own fault; \
                 {} % are allowed (run.slip_max_percent). Lower the rate, or give it more threads or a freer machine",
                self.slip.slipped_percent,
                scenario.run.slip_tolerance.as_millis(),
                scenario.run.slip_max_percent
            ));
        }
        if self.lost_connections > 0 && !scenario.run.reconnect {
            self.valid = false;
            self.remarks.push(format!(
                "INVALID: {} connections were lost: {}",
                self.lost_connections,
                self.errors.join("; ")
            ));
        }
        if self.load_model == "closed" {
            self.remarks.push(
                "closed loop (rate = \"max\"): good for CPU per message; latencies depend on the window"
                    .to_owned(),
            );
        }
        if self.slip.blocked > 0 {
            self.remarks.push(format!(
                "the broker did not take the offered load: {} of {} messages left late or not at all because of it",
                self.slip.blocked, self.slip.scheduled
            ));
        }
        if self.total.refused > 0 {
            self.remarks
                .push(format!("the broker refused {} messages in its acknowledgement", self.total.refused));
        }
        if self.sessions_lost > 0 {
            self.remarks.push(format!(
                "the broker had forgotten {} sessions that should have waited for their clients",
                self.sessions_lost
            ));
        }
        if interrupted {
            self.remarks.push("interrupted: shorter than planned".to_owned());
        }
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn kept(&self) -> bool {
        self.verdict.kept()
    }

    /// The report for a person, a screen long.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to memory cannot fail");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let rates = &self.rates;
        writeln!(
            out,
            "\n{} ({} loop), measured {:.2} s",
            self.scenario, self.load_model, self.measured_secs
        )?;
        writeln!(
            out,
            "  rates     sent {} /s, acknowledged {} /s, arrived {} /s, {:.1} MB/s",
            thousands(rates.sent_per_sec),
            thousands(rates.acked_per_sec),
            thousands(rates.arrived_per_sec),
            rates.arrived_bytes_per_sec / 1e6
        )?;
        writeln!(
            out,
            "  spans     connecting {:.3} s, load {:.3} s, stragglers {:.3} s",
            self.spans.connect_secs, self.spans.load_secs, self.spans.drain_secs
        )?;
        write_percentiles(out, "latency", &self.latency_micros)?;
        write_percentiles(out, "acks", &self.ack_micros)?;
        write_percentiles(out, "lateness", &self.slip.lateness_micros)?;
        if self.load_model == "open" {
            writeln!(
                out,
                "  schedule  {} due, {} slipped ({:.3} %), {} blocked by the broker",
                self.slip.scheduled, self.slip.slipped, self.slip.slipped_percent, self.slip.blocked
            )?;
        }
        for (name, usage) in [("broker", &self.broker), ("loadgen", &self.loadgen)] {
            let Some(usage) = usage else { continue };
            let per_million = usage
                .cpu_secs_per_million
                .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.3} s per 10⁶ delivered"));
            writeln!(
                out,
                "  {name:9} CPU {:.2} s, {per_million}, RSS {:.1} MiB, PSS {:.1} MiB, {} context switches",
                usage.cpu_secs,
                usage.rss_bytes as f64 / 1_048_576.0,
                usage.pss_bytes as f64 / 1_048_576.0,
                usage.context_switches
            )?;
        }
        write_verdict(out, &self.verdict)?;
        for remark in &self.remarks {
            writeln!(out, "  note      {remark}")?;
        }
        Ok(())
    }
}

fn write_percentiles(out: &mut String, name: &str, values: &Percentiles) -> std::fmt::Result {
    if values.count == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "  {name:9} p50 {} µs, p90 {}, p99 {}, p99.9 {}, max {}",
        values.p50, values.p90, values.p99, values.p999, values.max
    )
}

/// Writes the ledger's findings, a few lines.
pub(crate) fn write_verdict(out: &mut String, verdict: &Verdict) -> std::fmt::Result {
    writeln!(
        out,
        "  ledger    sent {}, acknowledged {}, arrived {} of {} expected",
        verdict.sent, verdict.acked, verdict.arrived, verdict.expected
    )?;
    writeln!(
        out,
        "            lost {} (QoS 0: {}; never acknowledged: {}), duplicated {}, out of order {}, corrupt {}, foreign {}",
        verdict.lost,
        verdict.lost_qos0,
        verdict.unacknowledged,
        verdict.duplicates + verdict.duplicates_qos0 + verdict.duplicates_qos2,
        verdict.out_of_order,
        verdict.corrupt,
        verdict.foreign
    )?;
    if verdict.kept() {
        return writeln!(out, "  verdict   every promise was kept");
    }
    for broken in &verdict.broken {
        writeln!(out, "  BROKEN    {broken}")?;
    }
    for example in &verdict.examples {
        writeln!(out, "            {example}")?;
    }
    Ok(())
}

/// A whole number with thin groups: 1234567 becomes "1 234 567".
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

impl Counts {
    fn between(from: &crate::stats::Live, to: &crate::stats::Live) -> Counts {
        Counts {
            sent: to.sent - from.sent,
            resent: to.resent - from.resent,
            acked: to.acked - from.acked,
            refused: to.refused - from.refused,
            arrived: to.arrived - from.arrived,
            arrived_bytes: to.arrived_bytes - from.arrived_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_distribution_are_known() {
        let mut histogram = crate::stats::histogram();
        (1..=1_000).for_each(|value| histogram.saturating_record(value));
        let short = Percentiles::of(&histogram);
        assert_eq!((short.count, short.min, short.p50, short.p99, short.max), (1_000, 1, 500, 990, 1_000));
        assert_eq!(Percentiles::of(&crate::stats::histogram()), Percentiles::default());
    }

    #[test]
    fn numbers_are_grouped_for_people() {
        assert_eq!(thousands(0.0), "0");
        assert_eq!(thousands(999.6), "1 000");
        assert_eq!(thousands(1_234_567.0), "1 234 567");
    }

    /// A report of a run of which `slipped` of 1 000 messages left late.
    fn report(overrides: &[&str], live: crate::stats::Live) -> Report {
        let text = "[run]\nduration_secs = 1\n[publishers]\nrate = 1000\n[subscribers]";
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        let scenario = Scenario::parse("s.toml", text, &overrides).unwrap();
        let mark = |at, live| Mark { at: crate::clock::Micros(at), live, broker: None, own: None };
        let window = Window { from: mark(0, crate::stats::Live::default()), to: mark(2_000_000, live) };
        let histogram = crate::stats::histogram;
        let outcome = Outcome {
            ledger: Ledger::new(),
            live,
            latency: histogram(),
            ack: histogram(),
            lateness: histogram(),
            errors: vec!["publisher 1: gone".to_owned()],
        };
        Report::new(scenario, &window, Vec::new(), &outcome, Spans::default(), false)
    }

    #[test]
    fn more_slip_than_allowed_makes_a_run_invalid() {
        let live = |slipped| crate::stats::Live { scheduled: 1_000, slipped, ..Default::default() };
        assert!(report(&[], live(10)).valid);
        let late = report(&[], live(11));
        assert!(
            !late.valid
                && late.remarks[0].starts_with("INVALID: 1.10 % of the messages left more than 10 ms")
        );
        assert!(report(&["run.slip_max_percent=2"], live(11)).valid);
    }

    #[test]
    fn what_the_broker_did_not_take_is_its_own_doing() {
        let report = report(&[], crate::stats::Live { scheduled: 1_000, blocked: 500, ..Default::default() });
        assert!(
            report.valid
                && report.remarks[0].starts_with("the broker did not take the offered load: 500 of 1000")
        );
    }

    #[test]
    fn lost_connections_make_a_run_invalid_unless_it_may_reconnect() {
        let live = crate::stats::Live { lost_connections: 1, ..Default::default() };
        assert_eq!(report(&[], live).remarks, ["INVALID: 1 connections were lost: publisher 1: gone"]);
        assert!(report(&["run.reconnect=true"], live).valid);
    }

    #[test]
    fn a_closed_loop_is_named_and_rates_are_those_of_the_interval() {
        let live = crate::stats::Live { arrived: 5_000, ..Default::default() };
        let report = report(&["publishers.rate=max"], live);
        assert_eq!((report.load_model, report.rates.arrived_per_sec), ("closed", 2_500.0));
        assert!(report.text().contains("(closed loop)"));
    }
}
