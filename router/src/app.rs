//! The composition root: from a `Config` to running threads, and back to a clean stop.
//!
//! In: a configuration that was judged. Out: exit by signal, everything acknowledged on disk.
//! Order of the start: store, lanes, sessions, listeners, disk, shards, uplinks, HTTP, then `ready`. What fails before
//! `ready` stops the start with one sentence, and nothing was delivered or lost. The stop goes the other way round.

use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use broker::access::ListenerAccess;
use broker::{
    HubSetup, Plan, RetainedRecord, RoomSetup, Rooms, Setup, SinkPlan, StateSpace, StoredSessions,
    decode_retained,
};
use crossbeam::channel::{Receiver, Sender, bounded};
use model::{LaneId, Priority, ShardId};
use store::CommitLog as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::access::{Verifier, VerifierSetup};
use crate::clock::entropy;
use crate::config::{Config, ConfigErrors, Drain, Drains, Durability, Uplink, WhenFull};
use crate::disk::budget::{Allowance, UplinkAllowance, part};
use crate::disk::reports;
use crate::disk::space::{SpaceWatch, UplinkLane};
use crate::disk::{
    Disk, DiskState, Job, ReadJob, RouteNames, Waiting, run_lane_reader, run_merger, space_of,
};
use crate::fronts::{FrontBoard, LaneFront};
use crate::http::{EdgeNumbers, Overview};
use crate::iotedge::{Common, EdgeNode, Gatekeeper};
use crate::levels::LevelBoard;
use crate::mail::{Mail, Mailbox};
use crate::net::{Door, EdgeCertificate, Gate};
use crate::promises::promises;
use crate::services::Desk;
use crate::shard::{InputAtStart, SessionAtStart, ShardSetup};
use crate::telemetry::{ShardReport, start_logging};
use crate::upstream::poison::{Command, DiskAccess};
use crate::upstream::{Gateway, LaneDrains, LocalDoor, Source, Tails, UplinkSetup};
use crate::{control, http, net, shard, system, upstream};

mod begin;
mod hub;

use self::begin::{Begun, begin, lane_name};

pub use crate::iotedge::StartError;
pub use crate::net::OpenError;

/// Jobs that may wait for the disk thread; a shard that finds the queue full keeps its job and stops reading.
const JOBS_MAX: usize = 4_096;
/// Reads of sessions' lanes that may wait.
const READS_MAX: usize = 1_024;
/// Commands of operators that may wait.
const COMMANDS_MAX: usize = 16;
/// Stack of our threads. Nothing below recurses deeper than a topic has levels or a route has nesting.
const STACK_BYTES: usize = 1 << 20;

/// Reads the configuration anew, from the same sources as at the start.
pub type Reload<'a> = &'a dyn Fn() -> Result<Config, ConfigErrors>;

/// Runs the router until SIGTERM or SIGINT. `ready_file` is written once every listener accepts.
///
/// SIGHUP reads the configuration anew through `reload`: routes are replaced as a whole, clients stay connected; a
/// configuration with any mistake changes nothing and is reported in the log and in `/status`.
pub fn run(config: Config, ready_file: Option<&Path>, reload: Reload<'_>) -> anyhow::Result<()> {
    start_logging(&config.log);
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before the start, so that no signal finds nobody.
        let mut signals = Signals::new()?;
        let store = config.store.path.clone();
        let started = Router::start(config, ready_file).await;
        let mut router = started.map_err(|error| with_advice(&store, error))?;
        let mut certificates = router.edge.as_ref().map(EdgeNode::certificates);
        let mut petitions = router.petitions.take();
        loop {
            tokio::select! {
                told = signals.next() => match told {
                    Told::Reload => router.reload(reload),
                    Told::Stop => break,
                },
                () = changed(&mut certificates) => router.renew(),
                wish = hub::next(&mut petitions) => {
                    let granted = router.grant(&wish);
                    if granted.is_ok() {
                        router.open_doors()?;
                    }
                    if let Some(petitions) = &petitions {
                        petitions.answer(wish.version, granted).await;
                    }
                }
            }
        }
        router.stop();
        Ok(())
    })
}

/// A start that the store stops: where it is, and what helps.
fn with_advice(store: &Path, error: anyhow::Error) -> anyhow::Error {
    let is_damage = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(store::StoreError::Unreadable(_)))
    };
    if !error.chain().any(is_damage) {
        return error;
    }
    error.context(format!(
        "the store at {} is damaged; keep a copy of the directory, then run `millrace store repair`, which keeps all that \
         can be read, or start with an empty store.path",
        store.display()
    ))
}

/// Waits for the next certificate; for ever, where there will be none.
async fn changed(certificates: &mut Option<watch::Receiver<Option<Arc<EdgeCertificate>>>>) {
    let is_new = match certificates {
        Some(certificates) => certificates.changed().await.is_ok(),
        None => false,
    };
    if !is_new {
        std::future::pending::<()>().await;
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Reload,
    Stop,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Not asked for anything: with somebody to hear it, a write beyond the limit on file sizes is an error of that
    /// write, like any other, and not the end of the process.
    _too_large: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            _too_large: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => info!("SIGTERM: stopping"),
            _ = self.interrupt.recv() => info!("SIGINT: stopping"),
            _ = self.hangup.recv() => return Told::Reload,
        }
        Told::Stop
    }
}

/// A running router.
struct Router {
    mailboxes: Vec<Arc<Mailbox>>,
    shards: Vec<JoinHandle<()>>,
    upstream: JoinHandle<()>,
    disk: DiskThreads,
    jobs: Sender<Job>,
    verifier: Verifier,
    stop_upstream: watch::Sender<bool>,
    overview: Arc<Overview>,
    /// How the lanes of each uplink drain.
    drains: Vec<Arc<LaneDrains>>,
    edge: Option<EdgeNode>,
    /// What the gateway's twin wants, if routes come from there.
    petitions: Option<hub::Petitions>,
    /// Routes have come from there.
    is_led: bool,
    /// What is not open yet.
    doors: Option<Doors>,
    started: Instant,
    config: Config,
}

/// Listeners that are bound and do not accept yet, and who is told when they do.
struct Doors {
    listeners: Vec<(net::Bound, Arc<Door>)>,
    http: Option<SocketAddr>,
    ready_file: Option<PathBuf>,
}

impl Router {
    async fn start(config: Config, ready_file: Option<&Path>) -> anyhow::Result<Router> {
        let started = Instant::now();
        let mut log = open_store(&config)?;
        let mailboxes: Vec<_> = (0..config.shards)
            .map(|_| Arc::new(Mailbox::new(config.limits.handoff_batches_max as usize * config.shards)))
            .collect();
        // Before the uplinks, which trust what it trusts and have it sign.
        let edge = EdgeNode::start(&config, &mailboxes).await?;
        let Begun { mut uplinks, tails, gateway, disk_state } = begin(&config, &mut log, edge.as_ref())?;
        let hub = hub::parts(&config, edge.as_ref(), &mut uplinks, &mailboxes)?;
        let plan = Arc::new(plan(&config, &log.reader()));
        let sessions = stored_sessions(&config, &log)?;
        let retained = retained(&log)?;

        let certificate = edge.as_ref().and_then(|edge| edge.certificates().borrow().clone());
        let listeners = net::open(&config, certificate.as_deref())?;
        let doors = listeners.iter().map(|(_, door)| Arc::clone(door)).collect();
        let http = match config.http {
            Some(address) => Some(http::bind(address).await?),
            None => None,
        };
        let control = config.control.as_deref().map(control::bind).transpose()?;

        let gatekeeper = edge.as_ref().map(|edge| Arc::clone(&edge.gatekeeper));
        let (jobs, job_queue) = bounded(JOBS_MAX);
        let fronts = fronts(&uplinks, &log, &jobs)?;
        let overview = overview(
            &config,
            &log,
            disk_state,
            (&uplinks[..], &fronts),
            doors,
            edge_numbers(&config, gatekeeper.clone(), hub.as_ref()),
            started,
        );
        let keeper_mailbox = Arc::new(Mailbox::new(1)); // for watermarks alone
        let boxes = mailboxes.iter().chain([&keeper_mailbox]).cloned().collect();
        let space = space_watch(&config, &uplinks, &fronts, Arc::clone(&overview.rooms));
        let waiting = Waiting {
            // Where nothing is synced nothing is spared.
            commit_interval: if config.store.sync { config.store.commit_interval } else { Duration::ZERO },
            fronts: Arc::clone(&fronts),
            spill_bytes_max: config.limits.spill_bytes_max,
        };
        let disk = start_disk(log, job_queue, boxes, (tails, space, waiting), &overview)?;
        let verifier = start_verifier(&config, &mailboxes, gatekeeper)?;
        let stored = (sessions, retained);
        let (hub, petitions) = match hub {
            Some(hub::Parts { shards, service, web: (web, arrivals), petitions }) => {
                tokio::spawn(service.run());
                tokio::spawn(web.serve(arrivals, Arc::clone(&overview)));
                (Some(shards), petitions)
            }
            None => (None, None),
        };
        let shards = start_shards(&config, &plan, stored, &mailboxes, &jobs, &verifier, (&overview, hub))?;
        let (stop_upstream, stop) = watch::channel(false);
        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let access = DiskAccess {
            shard: ShardId(config.shards as u16),
            jobs: jobs.clone(),
            mailbox: keeper_mailbox,
            source: Source::new(overview.reader.clone(), fronts),
            rooms: Arc::clone(&overview.rooms),
        };
        let number = overview.doors.len() as u16;
        let us = (gateway, LocalDoor::new(number, &config.limits, mailboxes.clone()));
        let drains: Vec<_> = uplinks.iter().map(|uplink| Arc::clone(&uplink.drains)).collect();
        tell_drains(&config, &drains);
        let upstream = start_upstream(uplinks, access, command_queue, us, &config, stop)?;

        let mut router = Router {
            mailboxes,
            shards,
            upstream,
            disk,
            jobs,
            verifier,
            stop_upstream,
            overview,
            drains,
            edge,
            petitions,
            is_led: false,
            doors: None,
            started,
            config,
        };
        match control {
            Some(door) => drop(tokio::spawn(control::serve(door, Arc::clone(&router.overview), commands))),
            // The keeper of poison lanes runs as long as somebody may command it.
            None => drop(tokio::spawn(async move { commands.closed().await })),
        }
        router.doors = Some(Doors {
            listeners,
            http: http.as_ref().map(|bound| bound.address),
            ready_file: ready_file.map(Path::to_owned),
        });
        router.run_edges(http);
        if router.petitions.is_some() {
            info!("waiting for the module twin: no client is let in before its routes are known");
        } else {
            router.open_doors()?;
        }
        Ok(router)
    }

    /// Replaces the routes by those of a configuration read anew, or says why not.
    fn reload(&mut self, load: Reload<'_>) {
        notify_systemd("RELOADING=1");
        match load() {
            Ok(config) => self.take_over(config),
            Err(errors) => {
                error!("SIGHUP: the new configuration has mistakes; nothing was changed\n{errors}");
                self.overview.set_reload_error(Some(errors.to_string()));
            }
        }
        notify_systemd("READY=1");
    }

    fn take_over(&mut self, config: Config) {
        for key in self.config.differs_beyond_routes(&config) {
            warn!("SIGHUP: {key} has changed; that takes effect at the next start");
        }
        // Everything but routes, users, rules and certificates stays as it was: sinks are resolved against the uplinks
        // that really run.
        let Config { listeners, auth, .. } = config;
        let mut config = match self.is_led {
            true => self.config.clone(),
            false => {
                let Config { routes, table, ttl_millis, store_limit_bytes, .. } = config;
                Config { routes, table, ttl_millis, store_limit_bytes, ..self.config.clone() }
            }
        };
        (config.listeners, config.auth) = (listeners, auth);
        let unknown = config.routes_without_uplink();
        if !unknown.is_empty() {
            let text = format!("routes lead to uplinks that need a restart: {}", unknown.join(", "));
            error!("SIGHUP: {text}; nothing was changed");
            self.overview.set_reload_error(Some(text));
            return;
        }
        if let Some(Err(problem)) = self.edge.as_ref().map(EdgeNode::reread_certificate) {
            error!("SIGHUP: {problem}; nothing was changed");
            self.overview.set_reload_error(Some(problem.to_string()));
            return;
        }
        let own = self.edge_certificate();
        let certificates = match net::read_anew(&self.overview.doors, &config, own.as_deref()) {
            Ok(certificates) => certificates,
            Err(problem) => {
                error!("SIGHUP: {problem}; nothing was changed");
                self.overview.set_reload_error(Some(problem.to_string()));
                return;
            }
        };
        certificates.take_effect();
        // First the passwords: a client that is let in from now on is let in by the new ones.
        self.verifier.replace(config.auth.users.clone());
        let doors = &self.overview.doors;
        let changed = self.config.auth != config.auth
            || listener_access(&self.config, doors) != listener_access(&config, doors);
        let access = changed.then(|| Arc::new(config.auth.access(listener_access(&config, doors))));
        for mailbox in &self.mailboxes {
            if let Some(access) = &access {
                send(mailbox, Mail::Access(Arc::clone(access)));
            }
        }
        self.overview.set_reload_error(None);
        let rules = config.auth.rules.as_ref().map_or(0, Vec::len);
        info!(
            routes = config.routes.len(),
            rules,
            access_changed = access.is_some(),
            "SIGHUP: routes, users and rules replaced"
        );
        self.swap(config);
    }

    /// Routes by another configuration from now on.
    fn swap(&mut self, config: Config) {
        let plan = Arc::new(plan(&config, &self.overview.reader));
        tell_drains(&config, &self.drains);
        for mailbox in &self.mailboxes {
            send(mailbox, Mail::Plan(Arc::clone(&plan)));
        }
        self.overview.set_routes(promises(&config), route_names(&config));
        self.overview.disk.room.set_limit(config.store_limit_bytes);
        self.config = config;
    }

    /// The gateway's certificate now.
    fn edge_certificate(&self) -> Option<Arc<EdgeCertificate>> {
        self.edge.as_ref().and_then(|edge| edge.certificates().borrow().clone())
    }

    /// The gateway has a new certificate: clients that connect from now on see it.
    fn renew(&self) {
        let own = self.edge_certificate();
        match net::read_anew(&self.overview.doors, &self.config, own.as_deref()) {
            Ok(certificates) => certificates.take_effect(),
            Err(problem) => {
                error!("the gateway's new certificate cannot be used: {problem}; the old one stays")
            }
        }
    }

    /// Starts what runs on its own and lets nobody in.
    fn run_edges(&mut self, http: Option<http::Bound>) {
        tokio::spawn(net::watch_certificates(self.overview.doors.clone()));
        if let Some(edge) = &mut self.edge {
            edge.run();
        }
        if let Some(bound) = http {
            tokio::spawn(http::serve(bound, Arc::clone(&self.overview)));
        }
        if self.config.sys_interval_secs > 0 {
            let interval = Duration::from_secs(self.config.sys_interval_secs);
            tokio::spawn(system::run(Arc::clone(&self.overview), Arc::clone(&self.mailboxes[0]), interval));
        }
        if let Some(losses) = self.config.losses.clone() {
            tokio::spawn(reports::run(losses, Arc::clone(&self.overview), Arc::clone(&self.mailboxes[0])));
        }
    }

    /// Lets listeners accept, and says so everywhere; once.
    fn open_doors(&mut self) -> anyhow::Result<()> {
        let Some(Doors { listeners, http: http_address, ready_file }) = self.doors.take() else {
            return Ok(());
        };
        let limits = Arc::new(self.config.limits.clone());
        let gate = Arc::new(Gate::new(&limits));
        for (bound, door) in listeners {
            let (limits, gate) = (Arc::clone(&limits), Arc::clone(&gate));
            tokio::spawn(net::serve(bound, door, self.mailboxes.clone(), limits, gate));
        }
        let doors = &self.overview.doors;
        self.overview.ready.store(true, Ordering::Relaxed);
        if let Some(path) = &ready_file {
            write_ready_file(path, doors, http_address)?;
        }
        let listed: Vec<_> =
            doors.iter().map(|door| format!("{}={}", door.listener.name, door.address)).collect();
        let (millis, shards) = (self.started.elapsed().as_millis() as u64, self.config.shards);
        let http = http_address.map_or("off".to_owned(), |address| address.to_string());
        info!(listeners = listed.join(" "), http, shards, start_ms = millis, "ready");
        notify_systemd("READY=1");
        Ok(())
    }

    /// Says goodbye to clients, then lets the disk finish, so that every promise that was given is kept.
    fn stop(self) {
        notify_systemd("STOPPING=1");
        self.overview.ready.store(false, Ordering::Relaxed);
        self.stop_upstream.send_replace(true);
        for mailbox in &self.mailboxes {
            send(mailbox, Mail::Stop);
        }
        for shard in self.shards {
            join(shard, "shard");
        }
        join(self.upstream, "upstream");
        // The queue is drained in order: everything the shards sent comes before this.
        if self.jobs.send(Job::Stop).is_err() {
            warn!("the disk thread ended early");
        }
        let DiskThreads { disk, reader, merger, stop_merger } = self.disk;
        drop(stop_merger);
        join(disk, "disk");
        join(merger, "merger");
        join(reader, "lane reader");
        info!("stopped");
    }
}

/// Puts mail into a box that may be full for a moment.
fn send(mailbox: &Mailbox, mail: Mail) {
    let mut mail = mail;
    while let Err(back) = mailbox.send(mail) {
        mail = back;
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn join(thread: JoinHandle<()>, name: &str) {
    if thread.join().is_err() {
        error!(thread = name, "a thread ended by a defect; please report");
    }
}

fn open_store(config: &Config) -> anyhow::Result<store::Log> {
    Ok(store::Log::open(&config.store_options())?)
}

/// A front for each lane of an uplink: a reload may lead a `spill` route to any of them.
fn fronts(uplinks: &[UplinkSetup], log: &store::Log, jobs: &Sender<Job>) -> anyhow::Result<Arc<FrontBoard>> {
    let mut lanes = Vec::new();
    for (number, setup) in uplinks.iter().enumerate() {
        for &(lane, _) in &setup.lanes {
            let state = log.lane_state(lane)?;
            let after_millis = setup.config.forwarding.spill_after_millis;
            lanes.push(LaneFront::new((lane, number), (state.head, state.tail), after_millis));
        }
    }
    Ok(Arc::new(FrontBoard::new(lanes, jobs.clone())))
}

fn plan(config: &Config, reader: &store::Reader) -> Plan {
    let table = Arc::clone(&config.table);
    let number =
        |name: &str| config.uplinks.iter().position(|uplink| uplink.name == name).unwrap_or_default() as u32;
    let sinks = table.sinks().iter().map(|sink| match config.uplink(sink) {
        Some(uplink) => {
            let lanes = lanes_of(reader, &uplink.name);
            SinkPlan::Lanes { uplink: number(&uplink.name), lanes, when_full: uplink.when_full.into() }
        }
        None if matches!(sink, routes::Sink::Input { .. }) => SinkPlan::Input,
        None => SinkPlan::Topic,
    });
    let sinks = sinks.collect();
    let durabilities = config.routes.iter().map(|route| match route.durability {
        Durability::Disk => broker::Durability::Disk,
        Durability::Spill => broker::Durability::Spill,
        Durability::Memory => broker::Durability::Memory,
    });
    let keeps_user = config.uplinks.iter().any(|uplink| uplink.asks_for_user());
    Plan { sinks, durabilities: durabilities.collect(), table, keeps_user, ttl_millis: config.ttl_millis }
}

fn lanes_of(reader: &store::Reader, uplink: &str) -> Vec<(Priority, LaneId)> {
    Priority::all()
        .filter_map(|priority| Some((priority, reader.find_lane(&lane_name(uplink, priority))?)))
        .collect()
}

/// The sessions in the store, by the shard they are at home in.
fn stored_sessions(config: &Config, log: &store::Log) -> anyhow::Result<SessionsAtStart> {
    let home_seed = entropy();
    let mut by_shard: Vec<Vec<SessionAtStart>> = (0..config.shards).map(|_| Vec::new()).collect();
    let mut stored = StoredSessions::default();
    for space in StoredSessions::SPACES {
        let mut unreadable = None;
        log.state_scan(space_of(space), b"", &mut |key, value| match stored.add(space, key, value) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                // What stands before the 0 is the client identifier, see the broker's records.
                let client_id = key.split(|byte| *byte == 0).next().unwrap_or_default();
                unreadable = Some((String::from_utf8_lossy(client_id).into_owned(), error));
                ControlFlow::Break(())
            }
        })?;
        if let Some((client_id, error)) = unreadable {
            return Err(error).with_context(|| {
                format!("the stored session of client \"{client_id}\" cannot be read; nothing was changed")
            });
        }
    }
    let orphans = stored.take_orphans();
    let mut inputs: Vec<Vec<InputAtStart>> = (0..config.shards).map(|_| Vec::new()).collect();
    for state in log.lanes()? {
        if let Some((client_id, input, priority)) = broker::read_input_lane_name(&state.name) {
            let home = broker::home(home_seed, config.shards as u16, client_id);
            inputs[usize::from(home.0)].push(InputAtStart {
                client_id: client_id.into(),
                input: (input.into(), priority),
                places: (state.id, state.head, state.tail),
            });
        }
    }
    for (client_id, session) in stored {
        let lane = log.lane_state(session.lane()).with_context(|| {
            format!("the lane of client \"{client_id}\" cannot be read; nothing was changed")
        })?;
        let home = broker::home(home_seed, config.shards as u16, &client_id);
        let (head, next) = (lane.head, lane.tail);
        by_shard[usize::from(home.0)].push(SessionAtStart { client_id, session, head, next });
    }
    Ok(SessionsAtStart { home_seed, by_shard, inputs, orphans })
}

/// Every retained message in the store.
fn retained(log: &store::Log) -> anyhow::Result<Arc<[RetainedRecord]>> {
    let mut found = Vec::new();
    let mut damaged = None;
    log.state_scan(space_of(StateSpace::Retained), b"", &mut |topic, value| {
        match decode_retained(topic, value) {
            Ok(record) => found.push(record),
            Err(error) => damaged = Some((String::from_utf8_lossy(topic).into_owned(), error)),
        }
        if damaged.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some((topic, error)) = damaged {
        let text = format!("the retained message of topic \"{topic}\" cannot be read; nothing was changed");
        return Err(error).context(text);
    }
    Ok(found.into())
}

struct SessionsAtStart {
    home_seed: u64,
    by_shard: Vec<Vec<SessionAtStart>>,
    inputs: Vec<Vec<InputAtStart>>,
    orphans: Vec<(StateSpace, Box<[u8]>)>,
}

/// What an edge device counts, and how edgeHub's series name it.
fn edge_numbers(
    config: &Config,
    gatekeeper: Option<Arc<Gatekeeper>>,
    parts: Option<&hub::Parts>,
) -> Option<EdgeNumbers> {
    let edge = config.edge.as_ref()?;
    let common = Common {
        hub_host: edge.hub_host.clone().unwrap_or_default(),
        device: edge.device.to_string(),
        instance: format!("{:016x}", entropy()),
    };
    Some(EdgeNumbers { gatekeeper: gatekeeper?, common, services: parts?.service.numbers() })
}

fn overview(
    config: &Config,
    log: &store::Log,
    disk: DiskState,
    (uplinks, fronts): (&[UplinkSetup], &Arc<FrontBoard>),
    doors: Vec<Arc<Door>>,
    edge: Option<EdgeNumbers>,
    started: Instant,
) -> Arc<Overview> {
    disk.room.set_limit(config.store_limit_bytes);
    disk.set_routes(route_names(config));
    Arc::new(Overview {
        started,
        ready: AtomicBool::new(false),
        shards: (0..config.shards).map(|_| Arc::new(ShardReport::default())).collect(),
        uplinks: uplinks.iter().map(|setup| (setup.config.name.clone(), Arc::clone(&setup.status))).collect(),
        required_uplinks: uplinks.iter().map(|setup| setup.config.required).collect(),
        disk: Arc::new(disk),
        fronts: Arc::clone(fronts),
        levels: Arc::new(LevelBoard::new(uplinks.len())),
        rooms: Arc::new(rooms(config)),
        store_bytes_max: config.store.bytes_max,
        reader: log.reader(),
        doors,
        edge,
        routes: Mutex::new(promises(config)),
        reload_error: Mutex::new(None),
    })
}

/// The lanes of all uplinks, in the order of the configuration, drain as these routes want it.
fn tell_drains(config: &Config, told: &[Arc<LaneDrains>]) {
    let drains = Drains::of(config);
    for (uplink, told) in config.uplinks.iter().zip(told) {
        told.set(|priority| drains.of_lane(uplink, priority) == Drain::LiveFirst);
    }
}

/// What routes are called, and which lanes they lead to.
fn route_names(config: &Config) -> RouteNames {
    let mut names = RouteNames::default();
    for (index, route) in config.routes.iter().enumerate() {
        let uplinks = config.sinks(index).filter_map(|sink| config.uplink(sink));
        names.add(&route.spec.name, uplinks.map(|uplink| lane_name(&uplink.name, route.spec.priority)));
    }
    names
}

/// What each uplink may have waiting.
fn rooms(config: &Config) -> Rooms {
    let bound = |uplink: &Uplink| {
        let bytes_max = uplink.bytes_max?;
        let reserve_bytes = part(bytes_max, config.store.reserve_percent);
        let only_counts = uplink.when_full == WhenFull::DropOldest;
        Some(RoomSetup { bytes_max, reserve_bytes, only_counts })
    };
    Rooms::new(
        config.uplinks.iter().map(bound),
        config.shards as u16,
        config.limits.record_bytes_max(),
        store::RECORD_OVERHEAD_BYTES as u64,
    )
}

/// Who watches the budgets.
fn space_watch(
    config: &Config,
    uplinks: &[UplinkSetup],
    fronts: &Arc<FrontBoard>,
    rooms: Arc<Rooms>,
) -> SpaceWatch {
    let allowance = Allowance {
        bytes_max: config.store.bytes_max,
        reserve_percent: config.store.reserve_percent,
        unwritten_bytes_max: u64::from(config.limits.commit_bytes_max) * config.shards as u64,
        options: config.store_options(),
        uplinks: config
            .uplinks
            .iter()
            .map(|uplink| UplinkAllowance { bytes_max: uplink.bytes_max, when_full: uplink.when_full.into() })
            .collect(),
    };
    let lanes = uplinks.iter().enumerate().flat_map(|(uplink, setup)| {
        setup.lanes.iter().map(move |&(lane, priority)| UplinkLane { uplink, priority, lane })
    });
    SpaceWatch::new(allowance, lanes.collect(), Arc::clone(fronts), rooms)
}

/// The threads that write, read and merge.
struct DiskThreads {
    disk: JoinHandle<()>,
    reader: JoinHandle<()>,
    merger: JoinHandle<()>,
    /// The merger ends when this is gone.
    stop_merger: Sender<()>,
}

fn start_disk(
    log: store::Log,
    job_queue: Receiver<Job>,
    mailboxes: Vec<Arc<Mailbox>>,
    (tails, mut space, waiting): (Tails, SpaceWatch, Waiting),
    overview: &Overview,
) -> anyhow::Result<DiskThreads> {
    let (reads, read_queue) = bounded::<ReadJob>(READS_MAX);
    let lane_reader = log.reader();
    space.see_lanes(&lane_reader);
    let state = Arc::clone(&overview.disk);
    let boxes = mailboxes.clone();
    let reader = thread("lane-reader", move || run_lane_reader(&lane_reader, &read_queue, &boxes, &state))?;
    let (state, levels) = (Arc::clone(&overview.disk), Arc::clone(&overview.levels));
    let tails = Arc::new(tails);
    let disk = Disk::new(log, job_queue, reads, mailboxes, tails, state, (levels, space, waiting));
    let (stop_merger, stopped) = bounded(1);
    let (lanes, state) = (overview.reader.clone(), Arc::clone(&overview.disk));
    let merger = thread("merger", move || run_merger(&lanes, &stopped, &state))?;
    Ok(DiskThreads { disk: thread("disk", move || disk.run())?, reader, merger, stop_merger })
}

fn start_shards(
    config: &Config,
    plan: &Arc<Plan>,
    (sessions, retained): (SessionsAtStart, Arc<[RetainedRecord]>),
    mailboxes: &[Arc<Mailbox>],
    jobs: &Sender<Job>,
    verifier: &Verifier,
    (overview, hub): (&Overview, Option<(HubSetup, Desk)>),
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let limits = Arc::new(config.limits.clone());
    let access = Arc::new(config.auth.access(listener_access(config, &overview.doors)));
    let offers = Arc::new(config.offers.clone());
    let home_seed = sessions.home_seed;
    let mut threads = Vec::new();
    let leaving = Arc::new(AtomicUsize::new(0));
    let mut orphans = sessions.orphans; // the first shard takes them
    let stored = sessions.by_shard.into_iter().zip(sessions.inputs);
    for (index, (sessions, inputs)) in stored.enumerate() {
        let setup = ShardSetup {
            broker: Setup {
                shard: ShardId(index as u16),
                shards: config.shards as u16,
                limits: Arc::clone(&limits),
                access: Arc::clone(&access),
                plan: Arc::clone(plan),
                offers: Arc::clone(&offers),
                rooms: Arc::clone(&overview.rooms),
                seed: entropy(),
                home_seed,
            },
            sessions,
            retained: Arc::clone(&retained),
            inputs,
            orphans: std::mem::take(&mut orphans),
            mailboxes: mailboxes.to_vec(),
            disk: jobs.clone(),
            levels: Arc::clone(&overview.levels),
            verifier: verifier.clone(),
            hub: hub.clone(),
            report: Arc::clone(&overview.shards[index]),
            leaving: Arc::clone(&leaving),
        };
        threads.push(thread(&format!("shard-{index}"), move || {
            if let Err(error) = shard::run(setup) {
                error!(%error, "a shard cannot start");
            }
        })?);
    }
    Ok(threads)
}

/// What the listeners that run ask of clients, in their order; one that `config` does not know keeps what it had. Behind
/// them the door of uplinks, which takes whatever a packet may have: what it did not take would come again and again.
fn listener_access(config: &Config, doors: &[Arc<Door>]) -> Vec<ListenerAccess> {
    let of_door = |door: &Arc<Door>| {
        let known = config.listeners.iter().find(|listener| listener.name == door.listener.name);
        config.listener_access(known.unwrap_or(&door.listener))
    };
    let uplinks = ListenerAccess { anonymous: false, packet_bytes_max: None, identities: false };
    doors.iter().map(of_door).chain([uplinks]).collect()
}

/// The threads that verify passwords.
fn start_verifier(
    config: &Config,
    mailboxes: &[Arc<Mailbox>],
    gatekeeper: Option<Arc<Gatekeeper>>,
) -> anyhow::Result<Verifier> {
    let auth = &config.auth;
    let setup = VerifierSetup {
        passwords: auth.users.clone(),
        threads: auth.verify_threads,
        recent_millis: auth.cache_secs * 1_000,
        failures_free: auth.failures_free,
        limits: &config.limits,
        mailboxes: mailboxes.to_vec(),
        gatekeeper,
    };
    Verifier::start(setup).context("passwords cannot be verified")
}

fn start_upstream(
    uplinks: Vec<UplinkSetup>,
    disk: DiskAccess,
    commands: mpsc::Receiver<Command>,
    us: (Gateway, LocalDoor),
    config: &Config,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<JoinHandle<()>> {
    let limits = config.limits.clone();
    thread("upstream", move || {
        if let Err(error) = upstream::run(uplinks, disk, commands, us, &limits, stop) {
            error!(%error, "the uplinks cannot start");
        }
    })
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
    builder.spawn(body).with_context(|| format!("thread {name} cannot start"))
}

/// Writes the bound addresses as JSON; the file appears whole or not at all.
fn write_ready_file(path: &Path, doors: &[Arc<Door>], http: Option<SocketAddr>) -> anyhow::Result<()> {
    let listeners: Vec<_> = doors
        .iter()
        .map(|door| {
            let (name, kind) = (&door.listener.name, door.kind().to_string());
            serde_json::json!({ "name": name, "kind": kind, "address": door.address })
        })
        .collect();
    let ready = serde_json::json!({
        "pid": std::process::id(),
        "listeners": listeners,
        "http": http.map(|address| address.to_string()),
    });
    let unfinished = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&unfinished)?;
        writeln!(file, "{ready}")?;
        std::fs::rename(&unfinished, path)
    };
    write().with_context(|| format!("--ready-file {} cannot be written", path.display()))
}

/// Tells systemd, if it started us (`Type=notify`).
fn notify_systemd(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = std::os::unix::net::UnixDatagram::unbound().and_then(|socket| {
        match path.to_string_lossy().strip_prefix('@') {
            Some(name) => {
                use std::os::linux::net::SocketAddrExt as _;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(state.as_bytes(), &address)
            }
            None => socket.send_to(state.as_bytes(), &path),
        }
    });
    if let Err(error) = sent {
        warn!(%error, "systemd could not be told: {state}");
    }
}
