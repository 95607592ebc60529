//! What the generator itself can do and costs, against its own null sink: no figure of a broker can be better.
//!
//! In:  the addresses of null sinks, in processes of their own. Out: a [`Calibration`].
//! How: a closed loop of small QoS 0 messages that nobody gets (the ceiling, per second of the generator's CPU), the
//! same in pairs, an open loop far below both (how late a message leaves, and how long it takes through the sink:
//! an upper bound of what the generator adds, as kernel and sink are in it), and a crowd of connections (memory).
//! The open loop is run in two ways, as a run does it that says nothing and with `run.spin_micros`, each beside the least
//! that this machine can do: a byte to an echo and back at the same times (`floor`). All four take turns in short rounds,
//! and the medians count: where others have a part of the machine, one long measurement tells mostly of them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::measure::{Watch, measure};
use crate::process::allow_open_files;
use crate::report::{Machine, Percentiles, Report, thousands};
use crate::run::{FILES_BESIDE, RunError};
use crate::scenario::Scenario;

#[cfg(target_os = "linux")]
mod floor;

#[cfg(target_os = "linux")]
pub use floor::floor;

/// The rate at which the added latency is measured.
const ADDED_AT_PER_SEC: u32 = 20_000;

/// What it may add at most, at p99.
pub const ADDED_P99_MICROS_MAX: u64 = 200;

/// Rounds in which everything about that rate is measured in turn.
const ROUNDS: u32 = 5;

/// Ten times the mean gap between two messages at that rate: the generator does not sleep while the load lasts.
pub const SPIN_MICROS: u64 = 500;

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
    /// Microseconds from the intended to the actual send time, awake (`run.spin_micros`).
    pub lateness_micros: Percentiles,
    /// Microseconds from the intended send time to the arrival, through a null sink, both awake.
    pub latency_micros: Percentiles,
    /// The same, both asleep until the kernel wakes them: what a run does that says nothing.
    #[serde(default)]
    pub asleep: Option<Times>,
    /// The least that this machine can do at the same times; `None` if it was not measured.
    #[serde(default)]
    pub floor: Option<Floor>,
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

/// How late something left, and when it was there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Microseconds from the intended to the actual send time.
    pub lateness_micros: Percentiles,
    /// Microseconds from the intended send time to the arrival.
    pub latency_micros: Percentiles,
}

/// How one waits for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The kernel wakes the thread.
    Asleep,
    /// The thread asks again and again.
    Awake,
}

/// The machine's own delay can be measured with Linux's timer only.
#[cfg(not(target_os = "linux"))]
pub fn floor(_per_sec: u32, _seconds: f64, _waiting: Waiting) -> std::io::Result<Times> {
    Err(std::io::ErrorKind::Unsupported.into())
}

impl Times {
    /// Figure by figure, the middle one. All zero of none.
    fn median(all: &[Times]) -> Times {
        let of = |pick: fn(&Times) -> Percentiles| {
            let all: Vec<Percentiles> = all.iter().map(pick).collect();
            Percentiles::median(&all)
        };
        Times { lateness_micros: of(|it| it.lateness_micros), latency_micros: of(|it| it.latency_micros) }
    }

    fn of(report: &Report) -> Times {
        Times { lateness_micros: report.slip.lateness_micros, latency_micros: report.latency_micros }
    }
}

/// A byte to an echo and back, by system calls alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// Both ends sleep until the kernel wakes them: how late is what the machine takes to wake a thread.
    pub asleep: Times,
    /// Both ends ask again and again: what is late here was not running when it should have been.
    pub awake: Times,
}

/// Null sinks to calibrate against, each in a process of its own.
#[derive(Clone, Copy, Debug)]
pub struct Sinks<'a> {
    /// The URL of one that sleeps when there is nothing to do.
    pub asleep: &'a str,
    /// The URL of one that does not ([`SPIN_MICROS`]).
    pub awake: &'a str,
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

/// Measures for about `seconds` each; blocks its thread for the machine's own part.
pub async fn calibrate(sinks: Sinks<'_>, seconds: f64) -> Result<Calibration, RunError> {
    let url = sinks.asleep;
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
    let spin = format!("spin_micros = {SPIN_MICROS}\n{open}");
    let (alone, paired) = (run(alone).await?, run(paired).await?);
    let each = (seconds / f64::from(ROUNDS)).max(0.1);
    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS {
        rounds.add(run(load(url, each, &open)).await?, run(load(sinks.awake, each, &spin)).await?);
        rounds.add_floor(each)?;
    }
    let Times { lateness_micros, latency_micros } = Times::median(&rounds.awake);
    let cpu_secs = |report: &Report| report.loadgen.map_or(f64::INFINITY, |usage| usage.cpu_secs.max(0.01));
    Ok(Calibration {
        published_per_cpu_sec: alone.measured.sent as f64 / cpu_secs(&alone),
        published_per_sec: alone.rates.sent_per_sec,
        paired_per_cpu_sec: paired.measured.arrived as f64 / cpu_secs(&paired),
        open_per_sec: ADDED_AT_PER_SEC,
        lateness_micros,
        latency_micros,
        asleep: Some(Times::median(&rounds.asleep)),
        floor: rounds.floor(),
        // A median stands whatever became of less than half.
        valid: alone.valid && paired.valid && rounds.kept && rounds.invalid <= ROUNDS,
        crowd: None,
        machine: Some(Machine::here()),
        version: version(),
        at_secs: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    })
}

/// What the rounds of the open loop have shown.
struct Rounds {
    asleep: Vec<Times>,
    awake: Vec<Times>,
    floor_asleep: Vec<Times>,
    floor_awake: Vec<Times>,
    kept: bool,
    /// Of two runs a round.
    invalid: u32,
}

impl Default for Rounds {
    fn default() -> Self {
        let none = Vec::new;
        let [asleep, awake, floor_asleep, floor_awake] = [none(), none(), none(), none()];
        Rounds { asleep, awake, floor_asleep, floor_awake, kept: true, invalid: 0 }
    }
}

impl Rounds {
    fn add(&mut self, asleep: Report, awake: Report) {
        for report in [&asleep, &awake] {
            self.kept &= report.kept();
            self.invalid += u32::from(!report.valid);
        }
        self.asleep.push(Times::of(&asleep));
        self.awake.push(Times::of(&awake));
    }

    fn add_floor(&mut self, seconds: f64) -> Result<(), RunError> {
        for (waiting, all) in
            [(Waiting::Asleep, &mut self.floor_asleep), (Waiting::Awake, &mut self.floor_awake)]
        {
            match floor(ADDED_AT_PER_SEC, seconds, waiting) {
                Ok(times) => all.push(times),
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn floor(&self) -> Option<Floor> {
        let measured = !self.floor_awake.is_empty();
        measured.then(|| Floor {
            asleep: Times::median(&self.floor_asleep),
            awake: Times::median(&self.floor_awake),
        })
    }
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
        "name = \"calibrate\"\nurl = \"{url}\"\n[run]\nduration_secs = {seconds}\nwarmup_secs = 0.2\ndrain_secs = 2\n\
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
        let Calibration { lateness_micros, latency_micros, .. } = *self;
        let awake = Times { lateness_micros, latency_micros };
        let line = |name: &str, how: &str, what: &str, times: Times| {
            let Times { lateness_micros: late, latency_micros: there } = times;
            format!(
                "  {name:<9} {how}: {what} p50 {} µs, p99 {} late, is there at p50 {} µs, p99 {}\n",
                late.p50, late.p99, there.p50, there.p99
            )
        };
        let by_machine = |pick: fn(&Floor) -> Times, how: &str| {
            self.floor.as_ref().map_or_else(String::new, |floor| {
                line("", how, "of that the machine: an echoed byte leaves", pick(floor))
            })
        };
        let asleep = self.asleep.map_or_else(String::new, |asleep| {
            line("", "  asleep", "a message leaves", asleep) + &by_machine(|floor| floor.asleep, "  asleep")
        });
        format!(
            "  ceiling   {} messages per CPU second published ({} /s met), {} in pairs\n\
             \x20 added     at {} /s, through the null sink; medians of {ROUNDS} rounds\n{}{}{asleep}{}",
            thousands(self.published_per_cpu_sec),
            thousands(self.published_per_sec),
            thousands(self.paired_per_cpu_sec),
            thousands(f64::from(self.open_per_sec)),
            line("", "  awake ", "a message leaves", awake),
            by_machine(|floor| floor.awake, "  awake "),
            if self.valid {
                ""
            } else {
                "  note      NOT VALID: the machine was too busy for the schedule\n"
            }
        ) + &self.crowd.map_or_else(String::new, |crowd| crowd.text())
    }

    /// What a reader must know where the target of added latency is missed and the machine alone would miss it, too.
    #[must_use]
    pub fn share_of_the_machine(&self) -> Option<String> {
        let awake = self.floor?.awake;
        let missed = self.latency_micros.p99 >= ADDED_P99_MICROS_MAX;
        (missed && awake.latency_micros.p99 >= ADDED_P99_MICROS_MAX).then(|| {
            format!(
                "an echoed byte alone, by threads that never sleep, is {} µs on its way at p99 and misses \
                 the target, too: whatever the machine was busy with meanwhile is in both figures",
                awake.latency_micros.p99
            )
        })
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
    fn the_median_of_rounds_is_taken_figure_by_figure() {
        let times = |p50, p99| {
            let latency_micros = Percentiles { count: 10, p50, p99, max: p99, ..Percentiles::default() };
            Times { lateness_micros: Percentiles::default(), latency_micros }
        };
        let median = Times::median(&[times(10, 900), times(30, 100), times(20, 200)]).latency_micros;
        assert_eq!((median.p50, median.p99, median.count, median.max), (20, 200, 30, 900));
        assert_eq!(Times::median(&[]).latency_micros, Percentiles::default());
    }

    #[test]
    fn a_short_calibration_has_all_figures() {
        let broker = NullBroker::start(Faults::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let url = broker.url();
        let found = runtime.block_on(calibrate(Sinks { asleep: &url, awake: &url }, 0.2)).unwrap();
        assert!(found.published_per_sec > 0.0 && found.published_per_cpu_sec > 0.0, "{found:?}");
        assert!(found.paired_per_cpu_sec > 0.0 && found.latency_micros.count > 0, "{found:?}");
        assert!(found.asleep.is_some_and(|asleep| asleep.latency_micros.count > 0), "{found:?}");
        assert!(found.text().contains("through the null sink"));
        let floor = found.floor.unwrap();
        assert!(floor.asleep.latency_micros.p50 > 0 && floor.awake.latency_micros.p50 > 0, "{floor:?}");
        assert!(found.text().contains("of that the machine"), "{}", found.text());
        assert!(found.is_of_here());
        let elsewhere = Machine { processor: "another".to_owned(), ..Machine::here() };
        assert!(!Calibration { machine: Some(elsewhere), ..found.clone() }.is_of_here());
        let crowd = runtime.block_on(crowd(&broker.url(), 0.2, 100)).unwrap();
        assert!(crowd.connections == 100 && crowd.rss_bytes > 0, "{crowd:?}");
        let text = Calibration { crowd: Some(crowd), ..found }.text();
        assert!(text.contains("memory    100 connections in "), "{text}");
    }
}
