//! A scenario: who publishes what how fast, who subscribes, and what is promised.
//!
//! In:  TOML text and `key=value` overrides. Out: a [`Scenario`] in which every value makes sense, or every
//! error at once, each naming the file, the key, the value found and the values allowed.
//! May use: the judge (`scenario/check.rs`) and the section reader (`scenario/section.rs`). Never: sockets, clocks.

use std::path::Path;
use std::time::Duration;

use model::Qos;
use wire::Version;

use crate::address::Address;
use crate::clock::Micros;
use crate::ledger::Rules;
use crate::null::Manners;
use crate::pattern::Pattern;
use crate::payload::{Field, Form};
use crate::replay::Replay;
use crate::schedule::Arrivals;
use crate::tls::TlsPlan;

mod check;
mod fields;
mod section;

use section::Section;

/// A load to offer, as used: every value is within its bounds.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// A short name for reports.
    pub name: String,
    /// One sentence for people.
    pub description: String,
    /// How long, how many threads, what is promised.
    pub run: RunPlan,
    /// Certificates, where an address is encrypted.
    pub tls: TlsPlan,
    /// The senders; none if the scenario only receives.
    pub publishers: Option<Publishers>,
    /// Those that come and go; none if there are none.
    pub clients: Option<Clients>,
    /// The receivers; none if the scenario only sends.
    pub subscribers: Option<Subscribers>,
    /// What the router under test sends upstream to, where that is ours to play.
    pub upstream: Option<UpstreamPlan>,
    /// The text it was read from, with overrides applied; for reports.
    pub source: toml::Table,
}

/// What concerns the run as a whole.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// Length of the measured interval, after the warm-up.
    pub duration: Duration,
    /// Load before the measured interval: judged by the referee, not measured.
    pub warmup: Duration,
    /// Longest wait for stragglers after the last message was sent.
    pub drain: Duration,
    /// Worker threads; connections are dealt out to them in turn.
    pub threads: u32,
    /// A worker that has something due within so long does not sleep until then, so that it wakes in time; this costs it
    /// the processor that it runs on.
    pub spin: Duration,
    /// Seed of payloads and of Poisson gaps.
    pub seed: u64,
    /// Above this share of messages sent late by the generator itself, the run is invalid.
    pub slip_max_percent: f64,
    /// A message is late when it is sent this long after its intended time.
    pub slip_tolerance: Duration,
    /// What counts as a broken promise.
    pub rules: Rules,
    /// Whether lost connections are opened again, and unacknowledged messages sent again.
    pub reconnect: bool,
    /// The mark of this run in every message; `None` takes a new one. Processes that share a run share it.
    pub id: Option<u32>,
    /// Which part of the connections this process has: number, from 0, and how many processes there are.
    pub part: (u32, u32),
    /// When the load begins, in microseconds since 1970; `None` is as soon as everybody is connected.
    pub begin_at: Option<Micros>,
    /// MQTT keep alive; 0 switches it off.
    pub keep_alive: Duration,
}

impl RunPlan {
    /// Which of `count` connections are this process's, thread by thread.
    pub(crate) fn mine(&self, thread: u32, count: u32) -> impl Iterator<Item = u32> + use<> {
        let (part, parts) = self.part;
        (part * self.threads + thread..count).step_by((parts * self.threads) as usize)
    }

    /// How many of `count` connections are this process's.
    pub(crate) fn share(&self, count: u32) -> u32 {
        (0..self.threads).map(|thread| self.mine(thread, count).count() as u32).sum()
    }
}

/// How a client reaches its broker.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where the broker listens.
    pub address: Address,
    /// Protocol version.
    pub version: Version,
    /// Client identifiers.
    pub client_id: Pattern,
    /// Clean start (5.0) or clean session (3.1.1).
    pub clean: bool,
    /// User name and password, if any.
    pub login: Option<(String, String)>,
}

/// A null sink in the place of a plant or a cloud.
#[derive(Clone, Debug)]
pub struct UpstreamPlan {
    /// Where it listens, `HOST:PORT`.
    pub listen: String,
    /// How it treats what it gets.
    pub manners: Manners,
}

/// The senders.
#[derive(Clone, Debug)]
pub struct Publishers {
    /// How many.
    pub count: u32,
    /// The number of the first one, so that several processes can share a run.
    pub first: u32,
    /// How they connect.
    pub endpoint: Endpoint,
    /// Where each publishes.
    pub topic: Pattern,
    /// How many topics each takes in turn, message by message.
    pub topics: u32,
    /// The QoS of every message.
    pub qos: Qos,
    /// The RETAIN flag.
    pub retain: bool,
    /// 5.0: user properties of every message, in order; subscribers check them.
    pub user_properties: Vec<(String, String)>,
    /// 5.0: what kind of payload every message says it has.
    pub content_type: Option<String>,
    /// When messages are due.
    pub pacing: Pacing,
    /// The recording, with [`Pacing::Replay`].
    pub replay: Option<Replay>,
    /// Most frames written at once.
    pub batch: u32,
    /// Most unacknowledged messages of one publisher; means nothing at QoS 0.
    pub window: u16,
    /// Most messages of one publisher that were sent and have not arrived at the subscribers of this process; means
    /// nothing in an open loop, where a schedule waits for nobody. 0: no bound but TCP's, and whatever queues the broker has will overflow.
    pub ahead: u32,
    /// Messages per publisher, if the run is bounded by a count.
    pub messages: Option<u64>,
    /// What is in them.
    pub payload: PayloadKind,
}

/// When messages are due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pacing {
    /// As fast as the broker takes them. A closed loop: good for CPU per message, wrong for latency.
    Max,
    /// At the times of a recording (`Publishers::replay`), whatever the broker does.
    Replay,
    /// At absolute times, whatever the broker does.
    Open {
        /// Messages a second and publisher, above 0.
        rate: f64,
        /// How they are spread.
        arrivals: Arrivals,
    },
}

/// What messages carry.
#[derive(Clone, Debug, PartialEq)]
pub enum PayloadKind {
    /// A binary header and random bytes.
    Binary {
        /// Length in all.
        bytes: usize,
    },
    /// The same in several lengths, at random.
    Lengths(Vec<usize>),
    /// Fields of one's own.
    Template {
        /// As JSON or CBOR.
        form: Form,
        /// Names and what they are, in order.
        fields: Vec<(String, Field)>,
        /// Length in all, or as short as it goes.
        bytes: Option<usize>,
    },
    /// Random walks.
    Telemetry {
        /// As JSON or CBOR.
        form: Form,
        /// Length in all, or as short as it goes.
        bytes: Option<usize>,
    },
}

/// The receivers.
#[derive(Clone, Debug)]
pub struct Subscribers {
    /// How many.
    pub count: u32,
    /// The number of the first one.
    pub first: u32,
    /// How they connect.
    pub endpoint: Endpoint,
    /// What each subscribes to.
    pub filter: Pattern,
    /// Highest QoS they want.
    pub qos: Qos,
    /// When they subscribe.
    pub join: Join,
    /// Further filters of each, that match nothing of this load: weight for the broker's index.
    pub ballast: u32,
    /// How many of them, from the first, read slowly; their latencies are not measured.
    pub slow: u32,
    /// How long a slow one rests after each read of a few KiB.
    pub slow_pause: Duration,
    /// When they leave (since the load started) and for how long; needs sessions that last.
    pub away: Option<(Duration, Duration)>,
}

/// When subscribers subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Before the first message.
    Before,
    /// After the last one is acknowledged: they get what is retained.
    After,
}

/// Clients that come and go.
#[derive(Clone, Debug)]
pub struct Clients {
    /// How many.
    pub count: u32,
    /// The number of the first one.
    pub first: u32,
    /// How they connect.
    pub endpoint: Endpoint,
    /// First connections a second, in all; `None` is all at once.
    pub connect_rate: Option<f64>,
    /// Connections of each, one after the other.
    pub cycles: u32,
    /// How long a connection stays; `None` is to the end, or to the storm.
    pub stay: Option<Duration>,
    /// When the first connections of all leave at the same moment, since the load started.
    pub storm: Option<Duration>,
    /// How they leave.
    pub leave: Leave,
    /// What each subscribes to; what arrives is not judged.
    pub filter: Option<Pattern>,
    /// Highest QoS of that.
    pub qos: Qos,
    /// What is to be published when they vanish.
    pub will: Option<WillPlan>,
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// With a DISCONNECT.
    Disconnect,
    /// Without: the connection ends.
    Vanish,
}

/// The will of each client.
#[derive(Clone, Debug)]
pub struct WillPlan {
    /// Where it is published.
    pub topic: Pattern,
    /// With which QoS.
    pub qos: Qos,
}

impl Clients {
    /// When the first connection of the client with this index is due.
    pub(crate) fn due(&self, start: Micros, index: u32) -> Micros {
        let since = self.connect_rate.map_or(0.0, |rate| f64::from(index) / rate);
        start.plus(Duration::from_secs_f64(since))
    }

    /// When connection number `cycle`, due at `due`, leaves; `None` if it stays.
    pub(crate) fn leave_at(&self, start: Micros, due: Micros, cycle: u64) -> Option<Micros> {
        match (self.storm, self.stay) {
            (Some(storm), _) if cycle == 1 => Some(start.plus(storm)),
            (_, Some(stay)) => Some(due.plus(stay)),
            (_, None) => None,
        }
    }
}

/// Why a scenario is not used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read the scenario {file}: {error}")]
    Unreadable {
        /// Which file.
        file: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The text is not TOML.
    #[error("{file} is not valid TOML: {error}")]
    NotToml {
        /// Which file.
        file: String,
        /// Line and column, and what is wrong there.
        error: Box<toml::de::Error>,
    },
    /// An override is not `key=value`.
    #[error("--set {0}: write it as key=value, for example publishers.count=10")]
    NotAnOverride(String),
    /// Keys or values that make no sense; all of them.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

impl Scenario {
    /// Whether an address is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        let publishers = self.publishers.as_ref().map(|publishers| &publishers.endpoint);
        let subscribers = self.subscribers.as_ref().map(|subscribers| &subscribers.endpoint);
        let clients = self.clients.as_ref().map(|clients| &clients.endpoint);
        [publishers, subscribers, clients].into_iter().flatten().any(|it| it.address.transport.is_encrypted())
    }

    /// Reads a scenario from a file; see [`Scenario::parse`].
    pub fn load(path: &Path, overrides: &[String]) -> Result<Scenario, ScenarioError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ScenarioError::Unreadable { file: file.clone(), error })?;
        Scenario::parse(&file, &text, overrides)
    }

    /// Reads a scenario from text. `file` is its name in errors.
    ///
    /// `overrides` are `section.key=value`, applied in order, the last one wins; a value that is not TOML is taken
    /// as text. Fails with every error found.
    pub fn parse(file: &str, text: &str, overrides: &[String]) -> Result<Scenario, ScenarioError> {
        let mut table: toml::Table = text
            .parse()
            .map_err(|error| ScenarioError::NotToml { file: file.to_owned(), error: Box::new(error) })?;
        for text in overrides {
            set(&mut table, text)?;
        }
        let mut errors = Vec::new();
        let scenario = check::scenario(Section::root(file, &table, &mut errors));
        match scenario {
            Some(scenario) if errors.is_empty() => Ok(Scenario { source: table, ..scenario }),
            _ => Err(ScenarioError::Invalid(errors)),
        }
    }
}

/// Puts one `a.b=value` into the table.
fn set(table: &mut toml::Table, text: &str) -> Result<(), ScenarioError> {
    let invalid = || ScenarioError::NotAnOverride(text.to_owned());
    let (path, value) = text.split_once('=').ok_or_else(invalid)?;
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut names: Vec<&str> = path.trim().split('.').collect();
    let last = names.pop().filter(|name| !name.is_empty()).ok_or_else(invalid)?;
    let mut place = table;
    for name in names {
        let entry = place.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        place = entry.as_table_mut().ok_or_else(invalid)?;
    }
    // An override takes the place of what it contradicts, or a file with one could not be run with the other.
    let contradicted: &[&str] = match (last, value.as_str()) {
        ("rate", Some("max")) => &["rate_total", "arrivals", "burst"],
        ("rate", _) => &["rate_total"],
        ("rate_total", _) => &["rate"],
        _ => &[],
    };
    place.retain(|key, _| !contradicted.contains(&key));
    place.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests;
