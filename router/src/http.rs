//! What operators and their tools ask over HTTP: health, readiness, metrics, status.
//!
//! In: GET requests. Out: numbers as last published. Never: a change, a secret, a wait for a shard.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde::Serialize;

use crate::disk::losses::{Entry, Sum};
use crate::disk::vanished::Vanished;
use crate::disk::{DiskState, RouteNames};
use crate::fronts::FrontBoard;
use crate::iotedge::{Common, Gatekeeper};
use crate::levels::{LevelBoard, word_of};
use crate::net::{CertificateInfo, Door};
use crate::promises::RouteStatus;
use crate::services::Known;
use crate::telemetry::{ShardReport, total};
use crate::upstream::LinkStatus;

/// Everything that can be asked about.
pub(crate) struct Overview {
    /// When the process started.
    pub started: Instant,
    /// Every listener accepts.
    pub ready: AtomicBool,
    /// Indexed by shard.
    pub shards: Vec<Arc<ShardReport>>,
    /// Name and numbers of each uplink.
    pub uplinks: Vec<(String, Arc<LinkStatus>)>,
    /// Which of them the router is not ready without.
    pub required_uplinks: Vec<bool>,
    /// The disk thread.
    pub disk: Arc<DiskState>,
    /// What of `spill` routes need not be written now.
    pub fronts: Arc<FrontBoard>,
    /// How much room there is.
    pub levels: Arc<LevelBoard>,
    /// What waits for uplinks with a bound.
    pub rooms: Arc<broker::Rooms>,
    /// Most bytes that the store may take, if somebody said so.
    pub store_bytes_max: Option<u64>,
    /// Lanes and sizes.
    pub reader: store::Reader,
    /// Every listener, in the order of the configuration.
    pub doors: Vec<Arc<Door>>,
    /// What an edge device counts, if this is one.
    pub edge: Option<EdgeNumbers>,
    /// What each route promises, for people.
    pub routes: Mutex<Vec<RouteStatus>>,
    /// Why the last reload changed nothing.
    pub reload_error: Mutex<Option<String>>,
}

/// What an edge device counts.
pub(crate) struct EdgeNumbers {
    /// Who lets identities in.
    pub gatekeeper: Arc<Gatekeeper>,
    /// How its series are labelled.
    pub common: Common,
    /// The services of the IoT Hub dialect.
    pub services: Arc<Mutex<Known>>,
}

/// The format of `/metrics`.
pub(crate) const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Entries of the loss ledger in `/status`.
const LOSSES_SHOWN: usize = 50;

/// The answer to `/status`.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    version: &'static str,
    uptime_ms: u64,
    ready: bool,
    shards: usize,
    clients: usize,
    sessions: usize,
    received: u64,
    delivered: u64,
    acknowledged: u64,
    dropped: u64,
    /// Clients that are not read until there is room on the disk.
    withheld: usize,
    counters: std::collections::BTreeMap<&'static str, u64>,
    listeners: Vec<ListenerReport>,
    uplinks: Vec<UplinkReport>,
    lanes: Vec<LaneReport>,
    vanished_lanes: Vec<Vanished>,
    losses: LossesReport,
    store: StoreReport,
    routes: Vec<RouteStatus>,
    reload_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct ListenerReport {
    name: String,
    kind: String,
    address: String,
    open: u32,
    accepted: u64,
    /// Only reasons that have occurred.
    refused: std::collections::BTreeMap<&'static str, u64>,
    certificates: Vec<CertificateReport>,
}

#[derive(Debug, Serialize)]
struct CertificateReport {
    file: String,
    names: Vec<String>,
    /// Negative once it has expired.
    expires_in_days: i64,
}

#[derive(Debug, Serialize)]
struct UplinkReport {
    name: String,
    state: &'static str,
    /// The address in use, or tried.
    target: String,
    /// Whether there is room on the disk for more.
    room: &'static str,
    inflight: u64,
    forwarded: u64,
    sent: u64,
    reconnects: u64,
    refused: u64,
    waiting_senders: u64,
    /// Messages that may be in flight now.
    window: u64,
    /// Shortest round trip to an acknowledgement, microseconds; 0 before the first.
    delay_micros: u64,
    /// Whether the upstream wants less than the link could carry.
    throttled: bool,
    /// How often it said or showed so.
    throttles: u64,
    /// Whoever answers is believed: `insecure = true`.
    insecure: bool,
    /// Days until the other end's certificate ends.
    certificate_days: Option<i64>,
    clock_jumps: u64,
    /// How often the store did not read a lane, or keep a position.
    store_faults: u64,
    poisoned: u64,
    dropped: u64,
    missing_fields: u64,
    /// Messages moved aside because they say they are from somebody who their publisher is not.
    foreign_senders: u64,
    properties_dropped: u64,
    failovers: u64,
    /// Links that are up, where identities have their own.
    links: u64,
    inbound: InboundReport,
    last_error: Option<String>,
    /// What does not work although it is up: the first few, in one text.
    warning: Option<String>,
    /// So much does not.
    warnings: usize,
}

/// What comes from an upstream.
#[derive(Debug, Serialize)]
struct InboundReport {
    published: u64,
    /// Ours, come back, either way.
    loops_prevented: u64,
    unmapped: u64,
    refused: u64,
    unroomed: u64,
}

#[derive(Debug, Serialize)]
struct LaneReport {
    name: String,
    /// Messages that wait, those in memory alone included.
    backlog: u64,
    /// What of them is in the store.
    backlog_bytes: u64,
    oldest_ms: Option<u64>,
    /// Messages of `spill` routes among them that are in memory alone.
    in_memory: u64,
}

#[derive(Debug, Default, Serialize)]
struct StoreReport {
    state: &'static str,
    /// Whether there is room on the disk for more.
    room: &'static str,
    bytes_on_disk: u64,
    wal_bytes: u64,
    records: u64,
    record_bytes: u64,
    written_bytes: u64,
    commits: u64,
    syncs: u64,
    expired: u64,
    damaged: u64,
    /// Ranges found damaged since the start.
    quarantined: u64,
    bytes_max: Option<u64>,
    /// Bytes that the file system still has.
    bytes_free: u64,
    device_bytes: u64,
}

/// What the loss ledger says, newest first.
#[derive(Debug, Serialize)]
struct LossesReport {
    sums: Vec<LossSum>,
    latest: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct LossSum {
    sink: String,
    reason: String,
    #[serde(flatten)]
    sum: Sum,
}

impl Overview {
    /// The numbers now. Lanes of sessions are summed up in one line, so that the answer stays small.
    pub(crate) fn status(&self) -> Status {
        let numbers = total(self.shards.iter().map(|report| &**report));
        let counters: std::collections::BTreeMap<_, _> = numbers.counters.each().collect();
        let dropped =
            counters.iter().filter(|(name, _)| name.starts_with("dropped_")).map(|(_, count)| count).sum();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            ready: self.ready.load(Ordering::Relaxed),
            shards: self.shards.len(),
            clients: numbers.connections,
            sessions: numbers.sessions,
            received: numbers.counters.received,
            delivered: numbers.counters.delivered,
            acknowledged: numbers.counters.acknowledged,
            dropped,
            withheld: numbers.withheld,
            counters,
            listeners: self.doors.iter().map(|door| listener_report(door)).collect(),
            uplinks: self.uplinks(),
            lanes: self.lanes(),
            vanished_lanes: self.disk.vanished.list(),
            losses: self.losses(),
            store: self.store(),
            routes: lock(&self.routes).clone(),
            reload_error: lock(&self.reload_error).clone(),
        }
    }

    /// The routes were replaced.
    pub(crate) fn set_routes(&self, routes: Vec<RouteStatus>, names: RouteNames) {
        self.disk.set_routes(names);
        *lock(&self.routes) = routes;
    }

    /// The last reload failed, or did not.
    pub(crate) fn set_reload_error(&self, error: Option<String>) {
        *lock(&self.reload_error) = error;
    }

    fn uplinks(&self) -> Vec<UplinkReport> {
        let levels = self.levels.read();
        let rooms = (0..).map(|number| word_of(levels.uplink(number)));
        let uplinks = self.uplinks.iter().zip(rooms);
        uplinks.map(|((name, status), room)| uplink_report(name, status, room)).collect()
    }

    fn lanes(&self) -> Vec<LaneReport> {
        let now = crate::clock::Clock::default().now().timestamp;
        let mut sessions = LaneReport {
            name: "sessions".into(),
            backlog: 0,
            backlog_bytes: 0,
            oldest_ms: None,
            in_memory: 0,
        };
        let mut reports = Vec::new();
        for state in self.reader.lanes().unwrap_or_default() {
            let oldest_ms = state.oldest.map(|at| now.0.saturating_sub(at.0));
            let in_memory = self.fronts.messages(state.id);
            let backlog = state.messages() + in_memory;
            if state.name.starts_with("s/") {
                sessions.backlog += backlog;
                sessions.backlog_bytes += state.bytes;
                sessions.oldest_ms = sessions.oldest_ms.max(oldest_ms);
            } else if state.tail > model::Seq::FIRST || in_memory > 0 {
                // Lanes that nothing ever went through are not worth a line.
                reports.push(LaneReport {
                    name: state.name.to_string(),
                    backlog,
                    backlog_bytes: state.bytes,
                    oldest_ms,
                    in_memory,
                });
            }
        }
        reports.push(sessions);
        reports
    }

    fn losses(&self) -> LossesReport {
        let sums = self.disk.ledger.sums().into_iter();
        LossesReport {
            sums: sums.map(|((sink, reason), sum)| LossSum { sink, reason, sum }).collect(),
            latest: self.disk.ledger.latest(LOSSES_SHOWN),
        }
    }

    fn store(&self) -> StoreReport {
        let state = if self.disk.poisoned.load(Ordering::Relaxed) { "poisoned" } else { "ok" };
        let (expired, damaged) =
            (self.disk.expired.load(Ordering::Relaxed), self.disk.damaged.load(Ordering::Relaxed));
        let room = word_of(self.levels.read().store);
        match self.reader.stats() {
            Ok(stats) => StoreReport {
                state,
                room,
                bytes_on_disk: stats.disk_bytes,
                wal_bytes: stats.wal_bytes,
                records: stats.records,
                record_bytes: stats.record_bytes,
                written_bytes: stats.written_bytes,
                commits: stats.commits,
                syncs: stats.syncs,
                expired,
                damaged,
                quarantined: self.disk.quarantined.load(Ordering::Relaxed),
                bytes_max: self.store_bytes_max,
                bytes_free: self.disk.room.free.load(Ordering::Relaxed),
                device_bytes: stats.device_bytes,
            },
            Err(_) => StoreReport { state: "unreadable", room, expired, damaged, ..StoreReport::default() },
        }
    }

    /// Why the router is not ready; `None` if it is.
    fn not_ready(&self) -> Option<&'static str> {
        let is_down = |((_, status), required): (&(String, Arc<LinkStatus>), &bool)| {
            *required && !status.get().0.is_up()
        };
        if self.disk.poisoned.load(Ordering::Relaxed) {
            Some("the store takes no writes; see the log")
        } else if !self.ready.load(Ordering::Relaxed) {
            Some("starting")
        } else if self.uplinks.iter().zip(&self.required_uplinks).any(is_down) {
            Some("a required uplink is down")
        } else {
            None
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listener_report(door: &Door) -> ListenerReport {
    let certificates = door.tls().map_or_else(Vec::new, |tls| tls.certificates.clone());
    ListenerReport {
        name: door.listener.name.clone(),
        kind: door.kind().to_string(),
        address: door.address.clone(),
        open: door.open(),
        accepted: door.accepted(),
        refused: door.refused().filter(|(_, count)| *count > 0).collect(),
        certificates: certificates.into_iter().map(certificate_report).collect(),
    }
}

fn certificate_report(certificate: CertificateInfo) -> CertificateReport {
    CertificateReport {
        expires_in_days: certificate.days_left(),
        file: certificate.path.display().to_string(),
        names: certificate.names,
    }
}

fn uplink_report(name: &str, status: &LinkStatus, room: &'static str) -> UplinkReport {
    let (state, last_error) = status.get();
    let (warning, warnings) = status.warnings();
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    UplinkReport {
        name: name.to_owned(),
        state: state.as_str(),
        target: status.target(),
        room,
        inflight: load(&status.inflight),
        forwarded: load(&status.forwarded),
        sent: load(&status.sent),
        reconnects: load(&status.connects).saturating_sub(1),
        refused: load(&status.refused),
        waiting_senders: load(&status.waiting_senders),
        window: load(&status.window),
        delay_micros: load(&status.delay_micros),
        throttled: status.throttled.load(Ordering::Relaxed),
        throttles: load(&status.throttles),
        insecure: status.insecure.load(Ordering::Relaxed),
        certificate_days: status
            .has_certificate
            .load(Ordering::Relaxed)
            .then(|| status.certificate_days.load(Ordering::Relaxed)),
        clock_jumps: load(&status.clock_jumps),
        store_faults: load(&status.store_faults),
        poisoned: load(&status.poisoned),
        dropped: load(&status.poison_dropped) + load(&status.dropped_expired) + load(&status.dropped_damaged),
        missing_fields: load(&status.missing_fields),
        foreign_senders: load(&status.foreign_senders),
        properties_dropped: load(&status.poorer),
        failovers: load(&status.failovers),
        links: load(&status.links),
        inbound: InboundReport {
            published: load(&status.inbound),
            loops_prevented: load(&status.inbound_loops) + load(&status.own),
            unmapped: load(&status.inbound_unmapped),
            refused: load(&status.inbound_refused),
            unroomed: load(&status.inbound_unroomed),
        },
        last_error,
        warning,
        warnings,
    }
}

/// A bound HTTP listener.
pub(crate) struct Bound {
    /// The address it really has.
    pub address: SocketAddr,
    listener: tokio::net::TcpListener,
}

/// Takes the address.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<Bound> {
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| {
        anyhow::anyhow!("http.bind = \"{address}\": {error}; choose another port (0 takes any free one)")
    })?;
    Ok(Bound { address: listener.local_addr()?, listener })
}

/// What can be asked, here and at the control door.
pub(crate) fn routes(overview: Arc<Overview>) -> axum::Router {
    axum::Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(overview)
}

/// Answers for ever.
pub(crate) async fn serve(bound: Bound, overview: Arc<Overview>) {
    if let Err(error) = axum::serve(bound.listener, routes(overview)).await {
        tracing::error!(%error, "HTTP ends");
    }
}

async fn readyz(State(overview): State<Arc<Overview>>) -> impl IntoResponse {
    let problem = overview.not_ready();
    let code = if problem.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut text = format!("{}\n", problem.unwrap_or("ready"));
    for ((name, status), required) in overview.uplinks.iter().zip(&overview.required_uplinks) {
        let required = if *required { ", required" } else { "" };
        text += &format!("uplink {name}: {}{required}\n", status.get().0.as_str());
    }
    (code, text)
}

async fn status(State(overview): State<Arc<Overview>>) -> impl IntoResponse {
    Json(overview.status())
}

async fn metrics(State(overview): State<Arc<Overview>>) -> impl IntoResponse {
    match crate::metrics::encode(&overview) {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
