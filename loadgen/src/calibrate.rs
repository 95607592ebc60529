//! What the generator itself can do and costs, against its own null sink: no figure of a broker can be better.
//!
//! In:  the address of a null sink, in a process of its own. Out: a [`Calibration`].
//! How: a closed loop of small QoS 0 messages that nobody gets (the ceiling, per second of the generator's CPU), the
//! same in pairs, an open loop far below both (how late a message leaves, and how long it takes through the sink:
//! an upper bound of what the generator adds, as kernel and sink are in it), and a crowd of connections (memory).

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::measure::{Watch, measure};
use crate::process::allow_open_files;
use crate::report::{Machine, Percentiles, Report, thousands};
use crate::run::{FILES_BESIDE, RunError};
use crate::scenario::Scenario;

/// The rate at which the added latency is measured.
const ADDED_AT_PER_SEC: u32 = 20_000;

/// What was found, on the machine and at the time it was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Messages published per second of the generator's CPU: batched, QoS 0, 64 B, nobody subscribes.
    pub published_per_cpu_sec: f64,
    /// Messages published a second, as far as the null sink kept up.
    pub published_per_sec: f64,
    /// Messages published and received per second of the generator's CPU, in pairs.
    pub paired_per_cpu_sec: f64,
    /// The rate of the open loop that the following times belong to.
    pub open_per_sec: u32,
    /// Microseconds from the intended to the actual send time.
    pub lateness_micros: Percentiles,
    /// Microseconds from the intended send time to the arrival, through the null sink.
    pub latency_micros: Percentiles,
    /// Whether all runs were valid and all promises kept.
    pub valid: bool,
    /// What many connections take; `None` if it was not measured.
    #[serde(default)]
    pub crowd: Option<Crowd>,
    /// Where.
    #[serde(default)]
    pub machine: Option<Machine>,
    /// Of which version of the generator.
    #[serde(default)]
    pub version: String,
    /// When, in seconds since 1970.
    #[serde(default)]
    pub at_secs: u64,
}

/// Many connections of one process, half of them publishers with a message a second, half subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crowd {
    /// How many.
    pub connections: u32,
    /// What the process takes with them, in bytes of resident memory.
    pub rss_bytes: u64,
}

/// This version, as it stands in a calibration.
fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// Measures for `seconds` each, three times.
pub async fn calibrate(url: &str, seconds: f64) -> Result<Calibration, RunError> {
    let alone = load(
        url,
        seconds,
        "[publishers]\ncount = 4\nrate = \"max\"\nbatch = 1024\nahead = 0\npayload = { kind = \"binary\", bytes = 64 }\n",
    );
    let paired = load(
        url,
        seconds,
        "[publishers]\ncount = 4\nrate = \"max\"\nbatch = 256\nahead = 4096\npayload = { kind = \"binary\", bytes = 64 }\n\
         [subscribers]\ncount = 4\n",
    );
    let open = format!(
        "[publishers]\ncount = 10\nrate_total = {ADDED_AT_PER_SEC}\narrivals = \"poisson\"\n[subscribers]\ncount = 10\n"
    );
    let open = load(url, seconds, &open);
    let (alone, paired, open) = (run(alone).await?, run(paired).await?, run(open).await?);
    let cpu_secs = |report: &Report| report.loadgen.map_or(f64::INFINITY, |usage| usage.cpu_secs.max(0.01));
    Ok(Calibration {
        published_per_cpu_sec: alone.measured.sent as f64 / cpu_secs(&alone),
        published_per_sec: alone.rates.sent_per_sec,
        paired_per_cpu_sec: paired.measured.arrived as f64 / cpu_secs(&paired),
        open_per_sec: ADDED_AT_PER_SEC,
        lateness_micros: open.slip.lateness_micros,
        latency_micros: open.latency_micros,
        valid: [&alone, &paired, &open].iter().all(|report| report.valid && report.kept()),
        crowd: None,
        machine: Some(Machine::here()),
        version: version(),
        at_secs: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    })
}

/// Asks the system for the files that both ends of so many connections need; before the sink is started, which
/// inherits it.
pub fn allow_crowd(connections: u32) {
    allow_open_files(u64::from(connections) + FILES_BESIDE);
}

/// Measures what so many connections take. Fails if the system does not allow them, with the number that it takes.
pub async fn crowd(url: &str, seconds: f64, connections: u32) -> Result<Crowd, RunError> {
    let pairs = (connections / 2).max(1);
    let text = format!("[publishers]\ncount = {pairs}\nrate = 1\n[subscribers]\ncount = {pairs}\n",);
    let report = run(load(url, seconds, &text)).await?;
    let rss_bytes = report.loadgen.map_or(0, |usage| usage.rss_bytes);
    Ok(Crowd { connections: 2 * pairs, rss_bytes })
}

fn load(url: &str, seconds: f64, rest: &str) -> Scenario {
    let text = format!(
        "name = \"calibrate\"\nurl = \"{url}\"\n[run]\nduration_secs = {seconds}\nwarmup_secs = 0.5\ndrain_secs = 2\n\
         keep_alive_secs = 0\n{rest}"
    );
    Scenario::parse("the calibration", &text, &[]).expect("its text is ours, and a test parses it")
}

async fn run(scenario: Scenario) -> Result<Report, RunError> {
    measure(scenario, Watch::default(), |_| ()).await
}

impl Calibration {
    /// A few lines for a person.
    #[must_use]
    pub fn text(&self) -> String {
        let Calibration { lateness_micros, latency_micros, .. } = self;
        format!(
            "  ceiling   {} messages per CPU second published ({} /s met), {} in pairs\n\
             \x20 added     at {} /s: leaves p50 {} µs, p99 {} late; through the null sink p50 {} µs, p99 {}\n{}",
            thousands(self.published_per_cpu_sec),
            thousands(self.published_per_sec),
            thousands(self.paired_per_cpu_sec),
            thousands(f64::from(self.open_per_sec)),
            lateness_micros.p50,
            lateness_micros.p99,
            latency_micros.p50,
            latency_micros.p99,
            if self.valid {
                ""
            } else {
                "  note      NOT VALID: the machine was too busy for the schedule\n"
            }
        ) + &self.crowd.map_or_else(String::new, |crowd| crowd.text())
    }

    /// Whether it tells something of this version of the generator on this machine.
    #[must_use]
    pub fn is_of_here(&self) -> bool {
        self.version == version() && self.machine.as_ref() == Some(&Machine::here())
    }
}

impl Crowd {
    fn text(&self) -> String {
        format!(
            "  memory    {} connections in {:.1} MiB, {:.1} KiB each\n",
            thousands(f64::from(self.connections)),
            self.rss_bytes as f64 / 1_048_576.0,
            self.rss_bytes as f64 / 1_024.0 / f64::from(self.connections.max(1)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::null::{Faults, NullBroker};

    #[test]
    fn a_short_calibration_has_all_figures() {
        let broker = NullBroker::start(Faults::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = runtime.block_on(calibrate(&broker.url(), 0.2)).unwrap();
        assert!(found.published_per_sec > 0.0 && found.published_per_cpu_sec > 0.0, "{found:?}");
        assert!(found.paired_per_cpu_sec > 0.0 && found.latency_micros.count > 0, "{found:?}");
        assert!(found.text().contains("through the null sink"));
        assert!(found.is_of_here());
        let elsewhere = Machine { processor: "another".to_owned(), ..Machine::here() };
        assert!(!Calibration { machine: Some(elsewhere), ..found.clone() }.is_of_here());
        let crowd = runtime.block_on(crowd(&broker.url(), 0.2, 100)).unwrap();
        assert!(crowd.connections == 100 && crowd.rss_bytes > 0, "{crowd:?}");
        let text = Calibration { crowd: Some(crowd), ..found }.text();
        assert!(text.contains("memory    100 connections in "), "{text}");
    }
}
