//! One run of one load against one contestant, in numbers.
//!
//! Knows: the load generator. May use: `contestants`, `machine`. Never: rounds, tables.
//! In:  a scenario and a running contestant. Out: a [`Sample`].

use anyhow::Context;
use loadgen::measure::{Watch, measure};
use loadgen::report::Report;
use loadgen::scenario::Scenario;
use serde::Serialize;

use crate::child::KEEP_ALIVE_SECS;
use crate::contestants::{Running, System};
use crate::machine::Processors;

/// One run in numbers. Quantiles are microseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) system: System,
    /// 1 for the first.
    pub(crate) round: u32,
    pub(crate) measured_secs: f64,
    /// Copies that arrived at subscribers.
    pub(crate) delivered_per_sec: f64,
    /// PUBACKs that arrived at publishers.
    pub(crate) acknowledged_per_sec: f64,
    /// User and system time of the contestant per million delivered, or acknowledged where nobody subscribes.
    pub(crate) cpu_secs_per_million: f64,
    /// The same of the load generator.
    pub(crate) load_cpu_secs_per_million: f64,
    pub(crate) rss_bytes: u64,
    pub(crate) latency: Quantiles,
    pub(crate) puback: Quantiles,
    /// Sent and not arrived, at any QoS.
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) out_of_order: u64,
    /// What was broken of MQTT's promises; empty if nothing.
    pub(crate) broken: Vec<String>,
    /// Whether the load was offered as planned.
    pub(crate) valid: bool,
    pub(crate) remarks: Vec<String>,
    /// Share of the machine that others used during the run.
    pub(crate) others_percent: f64,
    /// Share of the machine that the host gave to others during the run.
    pub(crate) stolen_percent: f64,
}

impl Sample {
    /// Share of the machine that neither load nor contestant used, idle time aside.
    pub(crate) fn noise_percent(&self) -> f64 {
        self.others_percent + self.stolen_percent
    }
}

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) warmup_secs: f64,
    pub(crate) measured_secs: f64,
}

impl Times {
    /// After one second of warm-up.
    pub(crate) const fn measured(measured_secs: f64) -> Times {
        Times { warmup_secs: 1.0, measured_secs }
    }
}

/// Some quantiles, in microseconds; all 0 if nothing was timed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Quantiles {
    fn of(values: &loadgen::report::Percentiles) -> Quantiles {
        Quantiles { p50: values.p50, p99: values.p99, p999: values.p999, max: values.max }
    }
}

/// Offers the load of `scenario` (TOML; its `url` is ours) for as long as `times` says, and looks at everything.
pub(crate) async fn run(
    system: System,
    running: &mut Running,
    scenario: &str,
    times: Times,
    round: u32,
) -> anyhow::Result<Sample> {
    let mut overrides = vec![
        format!("url=\"mqtt://{}\"", running.address),
        format!("run.duration_secs={}", times.measured_secs),
        format!("run.warmup_secs={}", times.warmup_secs),
    ];
    if let System::Foreign(_) = system {
        overrides.push(format!("run.keep_alive_secs={KEEP_ALIVE_SECS}"));
    }
    let scenario = Scenario::parse("the scenario of this row", scenario, &overrides)?;
    let uses = |pid: u32| loadgen::process::Sample::of(pid).map(|sample| sample.cpu_secs);
    let (own, broker) = (std::process::id(), running.pid());
    let before = (Processors::now(), uses(own)? + uses(broker)?, std::time::Instant::now());
    let report = measure(scenario, Watch { broker: Some(broker), metrics: None }, |_| {}).await;
    // Whatever the load generator says: that its broker ended explains it.
    running.check()?;
    let report = report.with_context(|| format!("the load against {} did not come about", system.name()))?;
    let all = Processors::now().since(before.0);
    let ours = uses(own)? + uses(broker)? - before.1;
    let capacity = before.2.elapsed().as_secs_f64() * report.machine.processors.max(1) as f64;
    let percent = |secs: f64| (100.0 * secs / capacity).clamp(0.0, 100.0);
    Ok(Sample {
        others_percent: percent(all.busy_secs - ours),
        stolen_percent: percent(all.stolen_secs),
        ..sample(&report, system, round)
    })
}

fn sample(report: &Report, system: System, round: u32) -> Sample {
    let counted = if report.config.contains_key("subscribers") {
        report.measured.arrived
    } else {
        report.measured.acked
    };
    let per_million = |secs: f64| if counted == 0 { 0.0 } else { secs * 1e6 / counted as f64 };
    let verdict = &report.verdict;
    Sample {
        system,
        round,
        measured_secs: report.measured_secs,
        delivered_per_sec: report.rates.arrived_per_sec,
        acknowledged_per_sec: report.rates.acked_per_sec,
        cpu_secs_per_million: per_million(report.broker.map_or(0.0, |usage| usage.cpu_secs)),
        load_cpu_secs_per_million: per_million(report.loadgen.map_or(0.0, |usage| usage.cpu_secs)),
        rss_bytes: report.broker.map_or(0, |usage| usage.rss_bytes),
        latency: Quantiles::of(&report.latency_micros),
        puback: Quantiles::of(&report.ack_micros),
        lost: verdict.lost + verdict.lost_qos0 + verdict.unacknowledged,
        duplicated: verdict.duplicates + verdict.duplicates_qos0,
        out_of_order: verdict.out_of_order,
        broken: verdict.broken.clone(),
        valid: report.valid,
        remarks: report.remarks.clone(),
        others_percent: 0.0,
        stolen_percent: 0.0,
    }
}
