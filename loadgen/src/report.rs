//! The report of one run, as JSON and as text.
//!
//! Knows: what a reader needs to believe a figure: load model, validity, machine, configuration. Never: sockets.
//! In:  counters, histograms and the ledger of a finished run. Out: a [`Report`].

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::calibrate::Calibration;
use crate::hlog::Interval;
use crate::ledger::{Ledger, Verdict};
use crate::measure::Mark;
use crate::process::Usage;
use crate::run::Outcome;
use crate::scenario::{Pacing, Scenario};

mod histograms;
mod merge;
mod text;

pub use histograms::Histograms;
pub use merge::{BrokerSecond, Part, merge, number_of};
pub(crate) use text::thousands;

/// A wall clock that moved less against the monotonic one was not set.
const CLOCK_STEP_MICROS: u64 = 100_000;

/// Start and end of the measured interval, as they were met.
pub(crate) struct Window {
    pub(crate) from: Mark,
    pub(crate) to: Mark,
}

/// What one run has shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// What it is about.
    pub description: String,
    /// `"open"`: arrivals from a schedule. `"closed"`: as fast as the broker takes them; its latencies say nothing.
    pub load_model: String,
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
    /// Microseconds from the intended send time to the PUBACK or PUBCOMP.
    pub ack_micros: Percentiles,
    /// Microseconds from when a client that comes and goes was due to connect until it was there.
    pub connect_micros: Percentiles,
    /// The latency at more quantiles, for a curve: pairs of quantile and microseconds.
    pub latency_curve: Vec<(f64, u64)>,
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
    /// Connections of clients that come and go.
    pub connects: u64,
    /// Attempts of theirs that failed, or connections that broke.
    pub connects_failed: u64,
    /// The first connection errors.
    pub errors: Vec<String>,
    /// Where it ran.
    pub machine: Machine,
    /// How many processes offered the load.
    #[serde(default = "one")]
    pub processes: u32,
    /// The scenario as used, overrides applied.
    pub config: toml::Table,
    /// What the verdict is about; not part of the JSON, see `--ledger`.
    #[serde(skip)]
    pub ledger: Ledger,
    /// The latencies of each second; not part of the JSON, see `--hlog`.
    #[serde(skip)]
    pub intervals: Vec<Interval>,
    /// The distributions that the percentiles are of; not part of the JSON.
    #[serde(skip)]
    pub histograms: Histograms,
    /// What the generator itself costs, if it was measured before: `loadgen calibrate`.
    pub calibration: Option<Calibration>,
}

fn one() -> u32 {
    1
}

/// How long the parts of a run took, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Spans {
    /// From the first connection attempt until all were up and subscribed.
    pub connect_secs: f64,
    /// From the first message until the last was sent; where subscribers join later, until all were acknowledged.
    pub load_secs: f64,
    /// From then until the last message arrived; where subscribers join later, all that was retained.
    pub drain_secs: f64,
}

/// Messages counted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Slip {
    /// Messages due.
    pub scheduled: u64,
    /// Sent late though nothing was in the way: the generator could not keep up.
    pub slipped: u64,
    /// The same in percent of what was due.
    pub slipped_percent: f64,
    /// Sent late or not at all because the broker did not take more.
    pub blocked: u64,
    /// Never sent, whoever was in the way: no latency shows them.
    #[serde(default)]
    pub unsent: u64,
    /// Microseconds from the intended to the actual send time, of all messages sent.
    pub lateness_micros: Percentiles,
}

/// A histogram in short. All values are microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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

    /// Figure by figure the middle one of several; their extremes and their count in all. All zero of none.
    pub(crate) fn median(all: &[Percentiles]) -> Percentiles {
        let middle = |pick: fn(&Percentiles) -> u64| {
            let mut values: Vec<u64> = all.iter().map(pick).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied().unwrap_or(0)
        };
        let count: u64 = all.iter().map(|it| it.count).sum();
        Percentiles {
            count,
            mean: all.iter().map(|it| it.mean * it.count as f64).sum::<f64>() / count.max(1) as f64,
            min: all.iter().map(|it| it.min).min().unwrap_or(0),
            p50: middle(|it| it.p50),
            p90: middle(|it| it.p90),
            p99: middle(|it| it.p99),
            p999: middle(|it| it.p999),
            p9999: middle(|it| it.p9999),
            max: all.iter().map(|it| it.max).max().unwrap_or(0),
        }
    }
}

/// One second of a run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
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
    /// First copies owed to subscribers so far, by what this process sent.
    #[serde(default)]
    pub owed: u64,
    /// Owed to subscribers and not arrived yet.
    pub missing: u64,
    /// Connections that are up.
    pub connections: u64,
    /// Latencies of this second, if it is measured.
    pub latency: Percentiles,
    /// Processors that the broker kept busy, if it is watched.
    pub broker_processors: Option<f64>,
    /// Resident memory of the broker, in bytes, if it is watched.
    pub broker_rss_bytes: Option<u64>,
}

/// Where a run took place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Logical processors that this process may use.
    pub processors: usize,
    /// Their model.
    pub processor: String,
    /// Kernel release.
    pub kernel: String,
}

impl Machine {
    /// Looks around.
    #[must_use]
    pub fn here() -> Machine {
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
        let [latency_micros, ack_micros, lateness_micros, connect_micros] = outcome.times.short();
        let closed = scenario.publishers.as_ref().is_some_and(|p| p.pacing == Pacing::Max);
        let slip = Slip {
            scheduled: live.scheduled,
            slipped: live.slipped,
            slipped_percent: 100.0 * live.slipped as f64 / live.scheduled.max(1) as f64,
            blocked: live.blocked,
            unsent: live.unsent,
            lateness_micros,
        };
        let mut report = Report {
            load_model: if closed { "closed" } else { "open" }.to_owned(),
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
            latency_micros,
            ack_micros,
            connect_micros,
            latency_curve: outcome.times.latency_curve(),
            slip,
            verdict: outcome.ledger.verdict(scenario.run.rules),
            broker: usage(from.broker, to.broker),
            loadgen: usage(from.own, to.own),
            series,
            lost_connections: live.lost_connections,
            reconnects: live.reconnects,
            sessions_lost: live.sessions_lost,
            connects: live.connects,
            connects_failed: live.connects_failed,
            errors: outcome.errors.clone(),
            machine: Machine::here(),
            processes: 1,
            scenario: scenario.name.clone(),
            description: scenario.description.clone(),
            config: scenario.source.clone(),
            ledger: outcome.ledger.clone(),
            intervals: Vec::new(),
            histograms: outcome.times.clone(),
            calibration: None,
        };
        report.judge(&scenario, interrupted);
        report.judge_clock(outcome.clock_step_micros, scenario.run.part.1 > 1);
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
        let unsent_percent = 100.0 * self.slip.unsent as f64 / self.slip.scheduled.max(1) as f64;
        if unsent_percent > scenario.run.slip_max_percent {
            self.valid = false;
            self.remarks.push(format!(
                "INVALID: {unsent_percent:.2} % of the messages due were never sent, and no latency shows them; {} % are \
                 allowed (run.slip_max_percent). Offer less: `loadgen saturate` finds how much is taken",
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
        if self.connects_failed > 0 {
            self.remarks.push(format!(
                "{} connections of clients that come and go failed or broke: {}",
                self.connects_failed,
                self.errors.join("; ")
            ));
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

    /// Times within one process do not depend on the wall clock, those between processes do; and whoever reads the
    /// report by its dates must know.
    fn judge_clock(&mut self, step_micros: i64, is_part: bool) {
        if step_micros.unsigned_abs() < CLOCK_STEP_MICROS {
            return;
        }
        let secs = step_micros.unsigned_abs() as f64 / 1e6;
        let text = if step_micros < 0 { "went back" } else { "was set forward" };
        let text = format!("the system's clock {text} by {secs:.1} s during the run");
        if step_micros < 0 || is_part {
            self.valid = false;
            self.remarks
                .push(format!("INVALID: {text}: keep it from being set (NTP may slew it), and run again"));
        } else {
            self.remarks.push(format!("{text}; figures come from a clock that does not step"));
        }
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn kept(&self) -> bool {
        self.verdict.kept()
    }
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

/// A small report with something in every part, for the tests of those who show it.
#[cfg(test)]
pub(crate) fn example() -> Report {
    let broker = crate::null::NullBroker::start(crate::null::Faults::default()).unwrap();
    let text = "name = \"example\"\n[run]\nduration_secs = 2.2\nwarmup_secs = 0\nslip_max_percent = 100\n\
                [publishers]\nrate = 500\n[subscribers]\n";
    let scenario = Scenario::parse("s.toml", text, &[format!("url={}", broker.url())]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let watch = crate::measure::Watch { broker: Some(std::process::id()), metrics: None };
    runtime.block_on(crate::measure::measure(scenario, watch, |_| ())).unwrap()
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
        report_with(overrides, live, 0)
    }

    fn report_with(overrides: &[&str], live: crate::stats::Live, clock_step_micros: i64) -> Report {
        let text = "[run]\nduration_secs = 1\n[publishers]\nrate = 1000\n[subscribers]";
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        let scenario = Scenario::parse("s.toml", text, &overrides).unwrap();
        let mark = |at, live| Mark { at: crate::clock::Micros(at), live, broker: None, own: None };
        let window = Window { from: mark(0, crate::stats::Live::default()), to: mark(2_000_000, live) };
        let outcome = Outcome {
            ledger: Ledger::new(),
            live,
            times: Histograms::default(),
            clock_step_micros,
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
    fn what_was_never_sent_makes_a_run_invalid_whoever_was_in_the_way() {
        let live =
            |unsent| crate::stats::Live { scheduled: 1_000, blocked: unsent, unsent, ..Default::default() };
        assert!(report(&[], live(10)).valid);
        let omitted = report(&[], live(11));
        assert!(
            !omitted.valid
                && omitted.remarks[0].starts_with("INVALID: 1.10 % of the messages due were never sent")
        );
        assert!(report(&["run.slip_max_percent=2"], live(11)).valid);
    }

    #[test]
    fn lost_connections_make_a_run_invalid_unless_it_may_reconnect() {
        let live = crate::stats::Live { lost_connections: 1, ..Default::default() };
        assert_eq!(report(&[], live).remarks, ["INVALID: 1 connections were lost: publisher 1: gone"]);
        assert!(report(&["run.reconnect=true"], live).valid);
    }

    #[test]
    fn a_clock_that_goes_back_makes_a_run_invalid() {
        let with = |overrides: &[&str], step| report_with(overrides, crate::stats::Live::default(), step);
        let back = with(&[], -3_200_000);
        assert!(!back.valid, "{:?}", back.remarks);
        assert!(back.remarks[0].starts_with("INVALID: the system's clock went back by 3.2 s during the run"));
        let forward = with(&[], 3_200_000);
        assert!(
            forward.valid && forward.remarks[0].contains("set forward by 3.2 s"),
            "{:?}",
            forward.remarks
        );
        assert!(!with(&["run.part=1/2"], 3_200_000).valid, "another process has another clock");
        assert!(with(&[], -50_000).valid);
    }

    #[test]
    fn a_closed_loop_is_named_and_rates_are_those_of_the_interval() {
        let live = crate::stats::Live { arrived: 5_000, ..Default::default() };
        let report = report(&["publishers.rate=max"], live);
        assert_eq!((report.load_model.as_str(), report.rates.arrived_per_sec), ("closed", 2_500.0));
        assert!(report.text().contains("(closed loop)"));
    }
}
