//! `Config`: a configuration as used. Complete, consistent, and made in one place only: [`Config::check`].
//!
//! Knows: what two keys mean together, and which route leads to which uplink. Never: how a layer spells keys.
//! In:  a `Raw`. Out: a `Config` that needs no further question, or every mistake.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker::access::ListenerAccess;
use model::Limits;
use routes::{RouteSpec, RouteTable, Sink};

use super::auth::{self, Auth};
use super::budgets;
use super::drains::Drain;
use super::edge::{self, Edge};
use super::errors::{ConfigError, ConfigErrors};
use super::forwarding::Forwarding;
use super::iothub::{self, IotHub};
use super::judge::{Judge, is_word};
use super::listeners::{Listener, check_listeners};
use super::manifest;
use super::pacing::Pacing;
use super::packing::Compression;
use super::raw::Raw;
use super::routing;
use super::schema;
use super::suggest;
use super::topics::{self, Topics};
use super::transport::{self, Failover, Transport};
use super::warnings;

/// Everything the router needs to know before it starts. Never changes within a turn; a reload makes another.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads that serve connections, at least 1.
    pub shards: usize,
    /// Where clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// The commit log.
    pub store: Store,
    /// Sessions that outlive their connection.
    pub session: Session,
    /// Who may connect, and who may do what.
    pub auth: Auth,
    /// This gateway's place in Azure IoT Edge, if it has one.
    pub edge: Option<Edge>,
    /// What clients are told beside the bounds.
    pub offers: broker::Offers,
    /// How often `$SYS/broker/` is published, in seconds; 0 for never.
    pub sys_interval_secs: u64,
    /// Where the loss ledger is published, if anywhere.
    pub losses: Option<LossReports>,
    /// Where health and metrics are served, if anywhere.
    pub http: Option<SocketAddr>,
    /// The Unix socket for operators' commands; `None` for none.
    pub control: Option<PathBuf>,
    /// What this gateway is called by those who get its messages.
    pub gateway: String,
    /// The other ends, ordered by name.
    pub uplinks: Vec<Uplink>,
    /// The routes, ordered by name; `table` numbers them in this order.
    pub routes: Vec<Route>,
    /// The same routes, compiled.
    pub table: Arc<RouteTable>,
    /// What routes promise that do not say it.
    pub durability: Durability,
    /// Time to live of messages whose route states none, where routes come from a manifest or a twin. Other routes state what
    /// holds for them.
    pub ttl_millis: Option<u64>,
    /// Most bytes that may wait in all lanes together, where a manifest or a twin says it.
    pub store_limit_bytes: Option<u64>,
    /// Every bound.
    pub limits: Limits,
    /// What is logged, and how.
    pub log: Log,
    /// What is legal and probably not meant; for the log and for `millrace check`.
    pub warnings: Vec<Warning>,
}

/// The commit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Its directory.
    pub path: PathBuf,
    /// Memory for writes that are in no table file yet, in bytes.
    pub memtable_bytes: usize,
    /// Whether acknowledgements wait for the disk.
    pub sync: bool,
    /// Least time between two small groups on their way to the disk.
    pub commit_interval: Duration,
    /// Most bytes on the disk; `None` is what the file system has.
    pub bytes_max: Option<u64>,
    /// Part of every budget that is kept for the priorities 0 to 2, in percent.
    pub reserve_percent: u8,
    /// How long messages for an uplink that is gone are kept, in seconds.
    pub keep_vanished_secs: u64,
}

/// How the loss ledger is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossReports {
    /// The topic; not one of our own.
    pub topic: String,
    /// How often, if there is anything new.
    pub interval_secs: u64,
}

/// Sessions that outlive their connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Where they keep subscriptions and waiting messages.
    pub durability: Durability,
}

/// What an acknowledgement promises (DESIGN §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// The message is on the disk and synced.
    Disk,
    /// The upstream has the message, or it is on the disk and synced, whichever is first.
    Spill,
    /// The router holds the message.
    Memory,
}

/// One other end and how to deal with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// What is at the other end.
    pub kind: UplinkKind,
    /// The IoT Hub, if it is one.
    pub hub: Option<IotHub>,
    /// Where the other end is, and what lies between.
    pub transport: Transport,
    /// Where else it is.
    pub failover: Failover,
    /// Whether the router is not ready while this is down.
    pub required: bool,
    /// Protocol version to speak.
    pub version: MqttVersion,
    /// Client identifier there; not empty.
    pub client_id: String,
    /// User name there.
    pub user: Option<String>,
    /// Password there; only with a user.
    pub password: Option<Secret>,
    /// Longest silence before a PINGREQ, in seconds; 0 sends none.
    pub keep_alive_secs: u16,
    /// Messages on their way without acknowledgement, 1 to `limits.uplink_inflight_max`.
    pub window: u16,
    /// Put before every topic; may be empty.
    pub topic_prefix: String,
    /// What becomes of topics and properties, there and here.
    pub topics: Topics,
    /// Longest wait before the first new attempt, in milliseconds.
    pub backoff_min_millis: u64,
    /// Longest wait before any new attempt, in milliseconds; not below `backoff_min_millis`.
    pub backoff_max_millis: u64,
    /// Most messages per second; `None` is as fast as the other end takes them.
    pub pace_messages_per_sec: Option<NonZeroU32>,
    /// Whose turn it is, and what becomes of what the other end refuses.
    pub forwarding: Forwarding,
    /// How much it may ask of its link, and how long it waits for it.
    pub pacing: Pacing,
    /// How payloads are packed, if they are.
    pub compression: Option<Compression>,
    /// Most bytes of messages that wait for it; `None` is as many as the store takes.
    pub bytes_max: Option<u64>,
    /// What happens when there is no room.
    pub when_full: WhenFull,
}

impl Uplink {
    /// Whether messages there depend on who their publishers have logged in as.
    pub(crate) fn asks_for_user(&self) -> bool {
        self.hub.is_some() || self.topics.ask_for_user()
    }
}

/// What happens to messages for an uplink when its budget, or that of the store, is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Publishers are told, or wait.
    #[default]
    Refuse,
    /// The oldest of the least urgent messages are given up.
    DropOldest,
    /// What comes is acknowledged and dropped.
    DropNewest,
}

/// What is at the other end of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkKind {
    /// An MQTT broker.
    Mqtt,
    /// A Millrace of the next level.
    Parent,
    /// Azure IoT Hub, or an edgeHub of the next level.
    IotHub,
}

/// Protocol version of an MQTT uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqttVersion {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

/// Text that must not reach a log; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(crate) String);

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Name, text, priority and time to live.
    pub spec: RouteSpec,
    /// What an acknowledgement of its messages promises.
    pub durability: Durability,
    /// Whether what comes after a reconnect passes what waited; `None` is as its uplink says.
    pub drain: Option<Drain>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or directives as `tracing_subscriber::EnvFilter` reads them.
    pub filter: String,
    /// Shape of a line.
    pub format: LogFormat,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
    /// With syslog's severity in front, as edgeHub's.
    Syslog,
}

/// Something legal that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The key it is about.
    pub key: String,
    /// What will happen.
    pub text: String,
}

/// What the defaults depend on and no key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Name of this machine.
    pub name: String,
    /// Cores that this process may use.
    pub cores: usize,
}

impl Config {
    /// Judges a configuration as written. The only way to a `Config`.
    ///
    /// `Err` holds every mistake, not the first one: of reading, of single keys, of keys together, of routes.
    pub fn check(raw: &Raw, host: &Host) -> Result<Config, ConfigErrors> {
        let mut judge = Judge::new(raw);
        let mut limits = schema::limits(|key| judge.integer(key, "").unwrap_or_default());
        let shards = match judge.integer(&schema::SHARDS, "").unwrap_or_default() {
            0 => (host.cores / 2).max(1),
            count => count as usize,
        };
        let listeners = check_listeners(&mut judge, &limits);
        let store = check_store(&mut judge);
        let session = Session { durability: durability(judge.text(&schema::SESSION_DURABILITY, "")) };
        let auth = auth::check(&mut judge, &limits, host.cores);
        let is_wanted = listeners.iter().any(Listener::needs_edge);
        let edge = edge::check(&mut judge, host, is_wanted);
        let offers = check_offers(&mut judge);
        let sys_interval_secs = judge.integer(&schema::MQTT_SYS_INTERVAL_SECS, "").unwrap_or_default();
        let losses = check_losses(&mut judge);
        let http = judge.address(&schema::HTTP_BIND, "");
        let control = judge.text(&schema::CONTROL_PATH, "").map(PathBuf::from);
        let control = control.unwrap_or_else(|| store.path.join("control.sock"));
        let gateway = judge.text(&schema::kinds::GATEWAY_NAME, "").unwrap_or_else(|| host.word());
        let mut names = judge.names(&["uplink"]);
        // A gateway of IoT Edge sends to its hub, as edgeHub does, unless something else is written.
        let is_implied = names.is_empty() && edge.as_ref().is_some_and(Edge::has_cloud);
        if is_implied {
            names.push(UPSTREAM.to_owned());
        }
        let around = Around {
            limits: &limits,
            host,
            edge: edge.as_ref(),
            trust: store.path.join(EDGE_FOLDER).join(TRUST_FILE),
            is_implied,
        };
        let uplinks: Vec<_> =
            names.iter().filter_map(|name| check_uplink(&mut judge, name, &around)).collect();
        budgets::check(&mut judge, &store, &uplinks, &limits);
        limits.commit_bytes_max = budgets::commit_bytes_max(&store, shards, &limits);
        let uplink_names = names;
        let names = judge.names(&["routes"]);
        let usual = routing::usual(&mut judge);
        let written: Vec<_> =
            names.iter().filter_map(|name| routing::check_route(&mut judge, name, usual)).collect();
        let mode = routing::mode(&mut judge);
        let has_written = !written.is_empty();
        let manifest = manifest::check(&mut judge, usual, &limits);
        let (routes, mode, place) = match &manifest {
            Some(manifest) => (manifest.routes.clone(), routes::Mode::EdgeHub, Some(&schema::EDGE_MANIFEST)),
            None => (written, mode, None),
        };
        let log = check_log(&mut judge);
        let table = routing::compile(&mut judge, &routes, mode, &limits, place);
        if let Some(table) = &table {
            routing::check_sinks(&mut judge, table, &routes, (&uplink_names[..], edge.is_some()), place);
        }

        let errors = judge.into_errors();
        // `compile` gives a table or complains, so that `Err` is never empty.
        let Some(table) = table.map(Arc::new).filter(|_| errors.is_empty()) else {
            return Err(ConfigErrors::new(errors));
        };
        let mut config = Config {
            shards,
            listeners,
            store,
            session,
            auth,
            edge,
            offers,
            sys_interval_secs,
            losses,
            http,
            control: Some(control).filter(|path| path.as_os_str() != "off"),
            gateway,
            uplinks,
            routes,
            table,
            durability: usual.durability,
            ttl_millis: manifest.as_ref().and_then(|manifest| manifest.ttl_millis),
            store_limit_bytes: manifest.as_ref().and_then(|manifest| manifest.store_limit_bytes),
            limits,
            log,
            warnings: Vec::new(),
        };
        let notes = raw.notes().iter().map(|(key, text)| Warning { key: key.clone(), text: text.clone() });
        config.warnings = notes.chain(warnings::warnings(&config)).collect();
        if let Some(manifest) = manifest {
            config.warnings.extend(warnings::of_manifest(&manifest.ignored, has_written));
        }
        Ok(config)
    }

    /// How long a message of a route may wait; `None` for as long as it takes.
    pub fn ttl_of(&self, route: &Route) -> Option<u64> {
        route.spec.ttl_millis.or(self.ttl_millis)
    }

    /// Where a route leads; at least one. `route` counts as `routes` does; none beyond its end.
    pub fn sinks(&self, route: usize) -> impl Iterator<Item = &Sink> {
        routing::sinks(&self.table, route)
    }

    /// The sections in which `new` differs and that only a start reads: not routes, users, rules, certificates and what
    /// listeners ask of clients.
    pub fn differs_beyond_routes(&self, new: &Config) -> Vec<&'static str> {
        let sections = [
            ("shards", self.shards == new.shards),
            ("listener", !listeners_need_restart(&self.listeners, &new.listeners)),
            ("store", self.store == new.store),
            ("session", self.session == new.session),
            ("auth", !self.auth.needs_restart(&new.auth)),
            ("edge", self.edge == new.edge),
            ("mqtt and redirect", self.offers == new.offers),
            ("mqtt.sys_interval_secs", self.sys_interval_secs == new.sys_interval_secs),
            ("losses", self.losses == new.losses),
            ("http", self.http == new.http),
            ("control", self.control == new.control),
            ("gateway", self.gateway == new.gateway),
            ("uplink", self.uplinks == new.uplinks),
            ("limits", self.limits == new.limits),
            ("log", self.log == new.log),
        ];
        sections.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }

    /// What a listener asks of clients; it may be one of another configuration that still runs.
    pub fn listener_access(&self, listener: &Listener) -> ListenerAccess {
        ListenerAccess {
            anonymous: listener.anonymous.unwrap_or(self.auth.anonymous),
            packet_bytes_max: listener.packet_bytes_max,
            identities: listener.identities,
        }
    }

    /// Routes with a sink that is an uplink which this configuration does not have.
    pub fn routes_without_uplink(&self) -> Vec<String> {
        let lost = |index: usize| {
            self.sinks(index)
                .any(|sink| matches!(sink, Sink::Upstream | Sink::Uplink(_)) && self.uplink(sink).is_none())
        };
        let names = self.routes.iter().enumerate().filter(|(index, _)| lost(*index));
        names.map(|(_, route)| route.spec.name.clone()).collect()
    }

    /// The uplink that a sink leads to; `None` for sinks inside the router.
    ///
    /// `$upstream` is the uplink named `upstream`, or the only one. `check` has made sure that it is there.
    pub fn uplink(&self, sink: &Sink) -> Option<&Uplink> {
        let name = match sink {
            Sink::Upstream => match self.uplinks.as_slice() {
                [only] => return Some(only),
                _ => UPSTREAM,
            },
            Sink::Uplink(name) => name,
            _ => return None,
        };
        self.uplinks.iter().find(|uplink| uplink.name == *name)
    }
}

fn check_offers(judge: &mut Judge<'_>) -> broker::Offers {
    let always = judge.text(&schema::REDIRECT_WHEN, "").as_deref() == Some("always");
    let to = judge.text(&schema::REDIRECT_TO, "");
    if to.is_none() && always {
        judge.complain(&schema::REDIRECT_WHEN, "", |error| ConfigError {
            problem: "says when clients go elsewhere, but `redirect.to` does not say where".to_owned(),
            ..error
        });
    }
    broker::Offers {
        response_information: judge.text(&schema::MQTT_RESPONSE_INFORMATION, "").map(Into::into),
        redirect: to.map(|to| broker::Redirect { to: to.into(), moved: always }),
        check_payload_format: judge.boolean(&schema::MQTT_CHECK_PAYLOAD_FORMAT, "").unwrap_or_default(),
    }
}

fn check_losses(judge: &mut Judge<'_>) -> Option<LossReports> {
    let interval_secs = judge.integer(&schema::LOSSES_INTERVAL_SECS, "");
    let topic = judge.text(&schema::LOSSES_TOPIC, "").filter(|topic| !topic.is_empty())?;
    if topic.starts_with('$') || model::validate_name(&topic).is_err() {
        judge.complain(&schema::LOSSES_TOPIC, "", |error| ConfigError {
            problem: "is no topic that clients could publish to".to_owned(),
            found: Some(format!("{topic:?}")),
            allowed: Some("a topic name that does not begin with $, or \"\" for none".to_owned()),
            ..error
        });
    }
    Some(LossReports { topic, interval_secs: interval_secs? })
}

/// The folder of the gateway's identities and secrets, in `store.path`.
pub(crate) const EDGE_FOLDER: &str = "edge";
/// The gateway's trust bundle, in that folder.
pub(crate) const TRUST_FILE: &str = "trust.pem";

/// The uplink that `$upstream` means if there are several.
pub(super) const UPSTREAM: &str = "upstream";

impl Host {
    /// This machine. A name or a count that the system does not tell becomes `localhost` and 1.
    pub fn detect() -> Host {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = if name.trim().is_empty() { "localhost" } else { name.trim() };
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
        Host { name: name.to_owned(), cores }
    }

    /// Its name, with `-` for what may not stand in the name of a gateway.
    fn word(&self) -> String {
        self.name.chars().map(|c| if is_word(c) { c } else { '-' }).collect()
    }
}

impl Secret {
    /// The text, for the one who must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Durability {
    /// What a PUBACK to the publisher says, as a sentence.
    pub fn promise(self) -> &'static str {
        match self {
            Durability::Disk => "the message survives a crash and a power cut",
            Durability::Spill => {
                "the upstream has acknowledged the message, or it survives a crash and a power cut, whichever is first"
            }
            Durability::Memory => {
                "the router holds the message; a crash or a power cut loses it, an orderly restart does not"
            }
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Disk => "disk",
            Durability::Spill => "spill",
            Durability::Memory => "memory",
        })
    }
}

impl From<WhenFull> for broker::WhenFull {
    fn from(policy: WhenFull) -> broker::WhenFull {
        match policy {
            WhenFull::Refuse => broker::WhenFull::Refuse,
            WhenFull::DropOldest => broker::WhenFull::DropOldest,
            WhenFull::DropNewest => broker::WhenFull::DropNewest,
        }
    }
}

impl fmt::Display for WhenFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WhenFull::Refuse => "refuse",
            WhenFull::DropOldest => "drop-oldest",
            WhenFull::DropNewest => "drop-newest",
        })
    }
}

impl fmt::Display for MqttVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MqttVersion::V311 => "3.1.1",
            MqttVersion::V5 => "5",
        })
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

fn listeners_need_restart(old: &[Listener], new: &[Listener]) -> bool {
    old.len() != new.len() || old.iter().zip(new).any(|(old, new)| old.needs_restart_for(new))
}

fn check_store(judge: &mut Judge<'_>) -> Store {
    Store {
        path: judge.text(&schema::STORE_PATH, "").unwrap_or_default().into(),
        memtable_bytes: judge.integer(&schema::STORE_MEMTABLE_BYTES, "").unwrap_or_default() as usize,
        sync: judge.boolean(&schema::STORE_SYNC, "").unwrap_or(true),
        commit_interval: Duration::from_millis(
            judge.integer(&schema::STORE_COMMIT_INTERVAL_MS, "").unwrap_or_default(),
        ),
        bytes_max: judge.integer(&schema::STORE_BYTES_MAX, "").filter(|bytes| *bytes > 0),
        reserve_percent: judge.integer(&schema::STORE_RESERVE_PERCENT, "").unwrap_or_default() as u8,
        keep_vanished_secs: judge.integer(&schema::STORE_KEEP_VANISHED_SECS, "").unwrap_or_default(),
    }
}

fn check_log(judge: &mut Judge<'_>) -> Log {
    Log {
        filter: judge.text(&schema::LOG_LEVEL, "").unwrap_or_default(),
        format: match judge.text(&schema::LOG_FORMAT, "").as_deref() {
            Some("json") => LogFormat::Json,
            Some("syslog") => LogFormat::Syslog,
            _ => LogFormat::Text,
        },
    }
}

/// What stands around an uplink.
struct Around<'a> {
    limits: &'a Limits,
    host: &'a Host,
    edge: Option<&'a Edge>,
    /// Where the gateway's trust bundle lies.
    trust: PathBuf,
    /// It is not written, and is there for the gateway of `[edge]`.
    is_implied: bool,
}

/// `None` if a required key is missing or refused; then an error says so.
fn check_uplink(judge: &mut Judge<'_>, name: &str, around: &Around<'_>) -> Option<Uplink> {
    let (limits, host) = (around.limits, around.host);
    // Names become directory and metric names, and stand unquoted in routes.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_plain) {
        judge.push(ConfigError {
            found: Some(format!("{name:?}")),
            allowed: Some(format!("1 to {NAME_BYTES_MAX} letters, digits, _ and -")),
            ..ConfigError::new(
                judge.origin("uplink.*", name),
                suggest::dotted(&["uplink", name]),
                "is no name for an uplink",
            )
        });
    }
    let kind = judge.text(&schema::UPLINK_KIND, name).map(|word| match &*word {
        _ if around.is_implied => UplinkKind::IotHub,
        "parent" => UplinkKind::Parent,
        "iothub" => UplinkKind::IotHub,
        _ => UplinkKind::Mqtt,
    });
    let hub = match kind {
        Some(UplinkKind::IotHub) => Some(iothub::check(judge, name, around.edge)?),
        _ => {
            iothub::refuse(judge, name);
            None
        }
    };
    let mut transport =
        transport::check_transport(judge, name, hub.as_ref().and_then(|hub| hub.host.as_deref()));
    if hub.as_ref().is_some_and(|hub| hub.is_edge)
        && let Some(tls) = transport.as_mut().and_then(|transport| transport.tls.as_mut())
    {
        tls.also = Some(around.trust.clone());
    }
    let version = match judge.text(&schema::UPLINK_VERSION, name).as_deref() {
        _ if hub.is_some() => MqttVersion::V311,
        Some("3.1.1") => MqttVersion::V311,
        _ => MqttVersion::V5,
    };
    let client_id = judge.text(&schema::UPLINK_CLIENT_ID, name).unwrap_or_else(|| {
        hub.as_ref().map_or_else(|| format!("millrace-{}-{name}", host.name), |hub| hub.id.to_string())
    });
    let user = judge.text(&schema::UPLINK_USER, name);
    let password = judge.text(&schema::UPLINK_PASSWORD, name).map(Secret);
    if password.is_some() && !judge.is_written(&schema::UPLINK_USER, name) {
        // 3.1.1 forbids it ([MQTT3-3.1.2-22]), and no broker we know uses it in version 5.
        judge.complain(&schema::UPLINK_PASSWORD, name, |error| ConfigError {
            problem: "needs a user beside it".to_owned(),
            hint: Some(format!("add {}", suggest::dotted(&["uplink", name, "user"]))),
            ..error
        });
    }
    let keep_alive_secs = judge.integer(&schema::UPLINK_KEEP_ALIVE_SECS, name).unwrap_or_default() as u16;
    let window = judge.integer(&schema::UPLINK_WINDOW, name).map(|window| window as u16);
    if let Some(window) = window.filter(|window| *window > limits.uplink_inflight_max) {
        let max = limits.uplink_inflight_max;
        judge.complain(&schema::UPLINK_WINDOW, name, |error| ConfigError {
            problem: "is above limits.uplink_inflight_max".to_owned(),
            found: Some(window.to_string()),
            allowed: Some(format!("a whole number from 1 to {max}")),
            hint: Some("raise limits.uplink_inflight_max as well".to_owned()),
            ..error
        });
    }
    let topic_prefix = judge.text(&schema::UPLINK_TOPIC_PREFIX, name).unwrap_or_default();
    let topics = topics::check(judge, name, version, &topic_prefix);
    if kind == Some(UplinkKind::Parent) {
        refuse_changes(judge, name, version);
    }
    let backoff_min_millis = judge.integer(&schema::UPLINK_BACKOFF_MIN_MS, name);
    let backoff_max_millis = judge.integer(&schema::UPLINK_BACKOFF_MAX_MS, name);
    if let (Some(min), Some(max)) = (backoff_min_millis, backoff_max_millis)
        && min > max
    {
        judge.complain(&schema::UPLINK_BACKOFF_MAX_MS, name, |error| ConfigError {
            problem: "is below backoff_min_ms".to_owned(),
            found: Some(max.to_string()),
            allowed: Some(format!("a whole number from {min} to 3600000")),
            ..error
        });
    }
    let pace = judge.integer(&schema::UPLINK_PACE, name).unwrap_or_default() as u32;
    let bytes_max = judge.integer(&schema::UPLINK_BYTES_MAX, name);
    let when_full = match judge.text(&schema::UPLINK_WHEN_FULL, name).as_deref() {
        Some("drop-oldest") => WhenFull::DropOldest,
        Some("drop-newest") => WhenFull::DropNewest,
        _ => WhenFull::Refuse,
    };
    // Everything is judged before anything is missed, so that all mistakes are told at once.
    let failover = transport::check_failover(judge, name, transport.as_ref(), hub.is_some());
    let required = judge.boolean(&schema::kinds::UPLINK_REQUIRED, name).unwrap_or_default();
    let forwarding = Forwarding::check(judge, name);
    let pacing = Pacing::check(judge, name, window.unwrap_or(limits.uplink_inflight_max));
    let compression = Compression::check(judge, name, version);
    Some(Uplink {
        name: name.to_owned(),
        hub,
        kind: kind?,
        failover,
        transport: transport?,
        required,
        version,
        client_id,
        user,
        password,
        keep_alive_secs,
        window: window.unwrap_or(limits.uplink_inflight_max),
        topic_prefix,
        topics,
        backoff_min_millis: backoff_min_millis?,
        backoff_max_millis: backoff_max_millis?,
        pace_messages_per_sec: NonZeroU32::new(pace),
        forwarding: forwarding?,
        pacing: pacing?,
        compression,
        bytes_max: bytes_max.filter(|bytes| *bytes > 0),
        when_full,
    })
}

/// A parent gets everything as it is; what would change it is a mistake.
fn refuse_changes(judge: &mut Judge<'_>, name: &str, version: MqttVersion) {
    let changes = [
        &schema::UPLINK_TOPIC_PREFIX,
        &schema::kinds::UPLINK_TOPICS,
        &schema::kinds::UPLINK_QOS,
        &schema::kinds::UPLINK_RETAIN,
    ];
    for key in changes.into_iter().filter(|key| judge.is_written(key, name)).collect::<Vec<_>>() {
        judge.complain(key, name, |error| ConfigError {
            problem:
                "changes messages, and a parent gets them as they are; write kind = \"mqtt\" to change them"
                    .to_owned(),
            ..error
        });
    }
    if version != MqttVersion::V5 {
        judge.complain(&schema::UPLINK_VERSION, name, |error| ConfigError {
            problem: "loses properties, and a parent gets them all".to_owned(),
            allowed: Some("\"5\"".to_owned()),
            ..error
        });
    }
}

const NAME_BYTES_MAX: usize = 64;

pub(super) fn durability(word: Option<String>) -> Durability {
    match word.as_deref() {
        Some("spill") => Durability::Spill,
        Some("memory") => Durability::Memory,
        _ => Durability::Disk,
    }
}
