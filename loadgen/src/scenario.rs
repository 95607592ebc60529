//! A scenario: who publishes what how fast, who subscribes, and what is promised.
//!
//! In:  TOML text and `key=value` overrides. Out: a [`Scenario`] in which every value makes sense, or every
//! error at once, each naming the file, the key, the value found and the values allowed.
//! May use: the section reader (`scenario/section.rs`). Never: sockets, clocks.

use std::path::Path;
use std::time::Duration;

use model::Qos;
use wire::Version;

use crate::address::Address;
use crate::ledger::Rules;
use crate::pattern::Pattern;
use crate::payload::{HEADER_BYTES, TELEMETRY_BYTES_MIN};
use crate::schedule::Arrivals;

mod section;

use section::Section;

/// A closed loop at most so far ahead of its subscribers: far enough for large batches, and 50 publishers of 256 B
/// stay below the queues that brokers usually have.
const AHEAD_DEFAULT: u32 = 1024;

/// A load to offer, as used: every value is within its bounds.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// A short name for reports.
    pub name: String,
    /// One sentence for people.
    pub description: String,
    /// How long, how many threads, what is promised.
    pub run: RunPlan,
    /// The senders; none if the scenario only receives.
    pub publishers: Option<Publishers>,
    /// The receivers; none if the scenario only sends.
    pub subscribers: Option<Subscribers>,
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
    /// MQTT keep alive; 0 switches it off.
    pub keep_alive: Duration,
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
    /// At most once or at least once.
    pub qos: Qos,
    /// The RETAIN flag.
    pub retain: bool,
    /// When messages are due.
    pub pacing: Pacing,
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
    /// At absolute times, whatever the broker does.
    Open {
        /// Messages a second and publisher, above 0.
        rate: f64,
        /// How they are spread.
        arrivals: Arrivals,
    },
}

/// What messages carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// A binary header and random bytes.
    Binary {
        /// Length in all.
        bytes: usize,
    },
    /// JSON with random walks.
    Telemetry {
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
        let scenario = check(Section::root(file, &table, &mut errors));
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

/// Judges the whole. `None` only if an error was noted.
fn check(mut root: Section<'_>) -> Option<Scenario> {
    let name = root.text("name").unwrap_or_else(|| "unnamed".to_owned());
    let description = root.text("description").unwrap_or_default();
    let url = root.text("url").unwrap_or_else(|| "mqtt://127.0.0.1:1883".to_owned());
    let login = login(&mut root);
    let run = root.section("run").and_then(check_run);
    let keep = Defaults { url, login };
    let publishers = if root.has("publishers") {
        root.section("publishers").map(|s| check_publishers(s, &keep))
    } else {
        None
    };
    let subscribers = if root.has("subscribers") {
        root.section("subscribers").map(|s| check_subscribers(s, &keep))
    } else {
        None
    };
    if publishers.is_none() && subscribers.is_none() {
        root.error("publishers", "at least one of [publishers] and [subscribers] must be there");
    }
    let mut run = run?;
    let publishers = match publishers {
        Some(found) => Some(found?),
        None => None,
    };
    let subscribers = match subscribers {
        Some(found) => Some(found?),
        None => None,
    };
    let messages = publishers.as_ref().and_then(|publishers: &Publishers| publishers.messages);
    match (run.duration, messages) {
        // A count alone bounds the run; a day is there so that a lost message does not make it endless.
        (None, Some(_)) => run.duration = Some(Duration::from_secs(24 * 3600)),
        (None, None) => root.error("run.duration_secs", "missing: give it, or publishers.messages"),
        (Some(_), _) => {}
    }
    root.finish();
    Some(Scenario {
        name,
        description,
        run: run.into_plan()?,
        publishers,
        subscribers,
        source: toml::Table::new(),
    })
}

struct Defaults {
    url: String,
    login: Option<(String, String)>,
}

/// [`RunPlan`], while the duration may still come from elsewhere.
struct RawRun {
    duration: Option<Duration>,
    plan: RunPlan,
}

impl RawRun {
    fn into_plan(self) -> Option<RunPlan> {
        Some(RunPlan { duration: self.duration?, ..self.plan })
    }
}

fn check_run(mut run: Section<'_>) -> Option<RawRun> {
    let day = 24.0 * 3600.0;
    let duration = run.seconds("duration_secs", 0.1..=7.0 * day);
    let plan = RunPlan {
        duration: Duration::ZERO,
        warmup: run.seconds("warmup_secs", 0.0..=day).unwrap_or(Duration::from_secs(1)),
        drain: run.seconds("drain_secs", 0.0..=day).unwrap_or(Duration::from_secs(10)),
        threads: run.number("threads", 1..=64).unwrap_or(1),
        seed: run.number("seed", 0..=i64::MAX).unwrap_or(1),
        slip_max_percent: run.real("slip_max_percent", 0.0..=100.0).unwrap_or(1.0),
        slip_tolerance: Duration::from_millis(run.number("slip_tolerance_millis", 1..=60_000).unwrap_or(10)),
        rules: Rules {
            expect_qos0: run.flag("expect_qos0").unwrap_or(false),
            expect_order: run.flag("expect_order").unwrap_or(true),
        },
        reconnect: run.flag("reconnect").unwrap_or(false),
        keep_alive: Duration::from_secs(run.number("keep_alive_secs", 0..=65_535).unwrap_or(60)),
    };
    run.finish();
    Some(RawRun { duration, plan })
}

fn check_publishers(mut section: Section<'_>, defaults: &Defaults) -> Option<Publishers> {
    let count = section.number("count", 1..=100_000).unwrap_or(1);
    let first = section.number("first", 1..=1_000_000_000).unwrap_or(1);
    let endpoint = check_endpoint(&mut section, defaults, "publisher", "loadgen-p{publisher}");
    let topic = section.pattern("topic", "publisher", "load/{publisher}");
    if let Some(Err(error)) = topic.as_ref().map(|topic| model::validate_name(&topic.expand(first))) {
        section.error("topic", &format!("not a topic name: {error}"));
    }
    let qos = section.qos("qos");
    let batch = section.number("batch", 1..=65_535).unwrap_or(64);
    let pacing = check_pacing(&mut section, count, batch);
    let window = section.number("window", 1..=65_535).unwrap_or(100);
    let ahead = section.number("ahead", 0..=1_000_000).unwrap_or(AHEAD_DEFAULT);
    let retain = section.flag("retain").unwrap_or(false);
    let messages = section.number("messages", 1..=i64::MAX);
    let payload = section.section("payload").and_then(check_payload);
    section.finish();
    Some(Publishers {
        count,
        first,
        endpoint: endpoint?,
        topic: topic?,
        qos: qos?,
        retain,
        pacing: pacing?,
        batch,
        window,
        ahead,
        messages,
        payload: payload?,
    })
}

fn check_pacing(section: &mut Section<'_>, count: u32, batch: u32) -> Option<Pacing> {
    let arrivals_name = section.choice("arrivals", &["constant", "poisson", "bursts"]).unwrap_or("constant");
    let burst = section.number("burst", 1..=1_000_000);
    if burst.is_some() && arrivals_name != "bursts" {
        section.error("burst", "only means something with arrivals = \"bursts\"");
    }
    let arrivals = match arrivals_name {
        "poisson" => Arrivals::Poisson,
        "bursts" => Arrivals::Bursts(burst.unwrap_or(batch)),
        _ => Arrivals::Constant,
    };
    let total = section.real("rate_total", 0.001..=1e9);
    if section.is_text("rate") {
        section.choice("rate", &["max"])?;
        if total.is_some() {
            section.error("rate_total", "cannot stand beside rate = \"max\": take one of them");
        }
        if section.has("arrivals") {
            section.error("arrivals", "means nothing with rate = \"max\": there is no schedule");
        }
        return Some(Pacing::Max);
    }
    let rate = match (section.real("rate", 0.001..=1e9), total) {
        (Some(_), Some(_)) => {
            section.error("rate", "cannot stand beside rate_total: take one of them");
            None
        }
        (Some(rate), None) => Some(rate),
        (None, Some(total)) => Some(total / f64::from(count)),
        (None, None) => {
            if !section.has("rate") && !section.has("rate_total") {
                section.error(
                    "rate",
                    "missing: messages a second and publisher, or \"max\"; or give rate_total",
                );
            }
            None
        }
    };
    Some(Pacing::Open { rate: rate?, arrivals })
}

fn check_payload(mut payload: Section<'_>) -> Option<PayloadKind> {
    let kind = payload.choice("kind", &["binary", "telemetry"]).unwrap_or("binary");
    let smallest = if kind == "binary" { HEADER_BYTES } else { TELEMETRY_BYTES_MIN };
    let bytes = payload.number("bytes", smallest as i64..=1 << 24);
    payload.finish();
    Some(match kind {
        "telemetry" => PayloadKind::Telemetry { bytes },
        _ => PayloadKind::Binary { bytes: bytes.unwrap_or(256) },
    })
}

fn check_subscribers(mut section: Section<'_>, defaults: &Defaults) -> Option<Subscribers> {
    let count = section.number("count", 1..=100_000).unwrap_or(1);
    let first = section.number("first", 1..=1_000_000_000).unwrap_or(1);
    let endpoint = check_endpoint(&mut section, defaults, "subscriber", "loadgen-s{subscriber}");
    let filter = section.pattern("filter", "subscriber", "load/{subscriber}");
    if let Some(Err(error)) = filter.as_ref().map(|f| model::TopicFilter::new(&f.expand(first))) {
        section.error("filter", &format!("not a topic filter: {error}"));
    }
    let qos = section.qos("qos");
    section.finish();
    Some(Subscribers { count, first, endpoint: endpoint?, filter: filter?, qos: qos? })
}

fn check_endpoint(
    section: &mut Section<'_>,
    defaults: &Defaults,
    placeholder: &str,
    client_id: &str,
) -> Option<Endpoint> {
    let url = section.text("url").unwrap_or_else(|| defaults.url.clone());
    let address = section.parsed("url", Address::parse(&url));
    let version = match section.choice("version", &["3.1.1", "5"]).unwrap_or("3.1.1") {
        "5" => Version::V5,
        _ => Version::V3,
    };
    let client_id = section.pattern("client_id", placeholder, client_id);
    if client_id.as_ref().is_some_and(|pattern| !pattern.varies())
        && section.integer("count").unwrap_or(1) > 1
    {
        section.error("client_id", &format!("several clients need {{{placeholder}}} in it, to differ"));
    }
    let clean = section.flag("clean").unwrap_or(true);
    let login = login(section).or_else(|| defaults.login.clone());
    Some(Endpoint { address: address?, version, client_id: client_id?, clean, login })
}

fn login(section: &mut Section<'_>) -> Option<(String, String)> {
    let (user, password) = (section.text("username"), section.text("password"));
    if user.is_none() && password.is_some() {
        section.error("password", "needs a username beside it");
    }
    Some((user?, password.unwrap_or_default()))
}

#[cfg(test)]
mod tests;
