//! One uplink: connect, carry, wait, again.

use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use broker::uplink::{Backoff, Carrier, ClockWatch, LinkError, LocalError, TargetRules, Targets};
use model::{LaneId, Limits, Seq};
use store::{ReadOut, StoreError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, WriteHalf};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use super::drains::Lanes;
use super::faults::Faults;
use super::local::{LOCAL_BYTES_MAX, LocalSession, LocalWriter};
use super::poison::SharedTray;
use super::sentences::with_advice;
use super::source::Source;
use super::transport::{self, ConnectError, Patience, Stream};
use super::{Gateway, LocalDoor, UplinkSetup, UplinkState, backoff, carrier, link_setup, watchdogs};
use crate::clock::{Clock, entropy};
use crate::config::Transport;
use crate::net::CertificateError;
use crate::packing::{self, Packer};

mod certificates;
pub(super) mod pooled;
mod reading;

/// How long the goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a connection must last before the next failure counts as the first one again.
const LASTING: Duration = Duration::from_secs(10);
/// Time between looks at keep-alive and at what else time brings.
const TICK: Duration = Duration::from_millis(250);
/// How long a connection outlives the hours of its link with nothing to do.
const LINGER_MILLIS: u64 = 5_000;
/// Time between looks at whether the hours have come.
const HOURS_LOOK: Duration = Duration::from_secs(1);
/// How long what is in flight may take before the connection is given up for one to the first address.
const QUIET: Duration = Duration::from_secs(10);
/// What the kernel's own watch over the connection comes to.
const VANISHED: &str =
    "what was sent does not arrive any more: the other end, or the way to it, is gone without a word";
/// How long messages wait that our own broker had no room for, before they are asked for again.
const UNROOMED: Duration = Duration::from_secs(30);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Socket(String),
    #[error("the upstream closed the connection")]
    Closed,
    #[error("the upstream reset the connection")]
    Reset,
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error("this router does not take the uplink as its client: {0}")]
    NoSession(std::io::Error),
    #[error(
        "this router has closed the session that publishes what comes from upstream; messages are sent again"
    )]
    SessionClosed,
    #[error("this router had no room for what came from upstream; it is asked for again")]
    Unroomed,
    #[error("the first address takes connections again")]
    Returns,
    #[error("the router stops")]
    Stopped,
    #[error("the hours of this link are over")]
    OutOfHours,
}

impl Ended {
    /// Whether the fault is here, so that another address would be no better.
    fn is_ours(&self) -> bool {
        matches!(
            self,
            Ended::Store(_)
                | Ended::NoSession(_)
                | Ended::SessionClosed
                | Ended::Unroomed
                | Ended::Link(LinkError::Local(_))
        )
    }
}

impl From<LocalError> for Ended {
    fn from(error: LocalError) -> Ended {
        Ended::Link(LinkError::Local(error))
    }
}

/// One uplink at work.
pub(super) struct Uplink {
    setup: UplinkSetup,
    name: Rc<str>,
    source: Source,
    limits: Limits,
    stop: watch::Receiver<bool>,
    clock: Clock,
    carrier: Carrier,
    /// How its lanes drain, as the carrier knows it.
    drains: Option<Lanes>,
    records: ReadOut,
    packer: Option<Packer>,
    delivered: Vec<(LaneId, Seq)>,
    out: Vec<u8>,
    tray: SharedTray,
    wake_keeper: Rc<Notify>,
    clocks: ClockWatch,
    faults: Faults,
    next_tick: model::Instant,
    /// When it is shown next whose messages were taken.
    sources_at: model::Instant,
    /// Outside its hours, with nothing to send, since then.
    useless_since: Option<model::Instant>,
    /// When the connection at hand, or the last one, came up; `None` if it has not.
    up_since: Option<Instant>,
    gateway: Rc<Gateway>,
    local: Rc<LocalDoor>,
    targets: Targets,
    /// Messages that our own broker had no room for, when they were last asked for again.
    unroomed: u64,
}

impl Uplink {
    /// `tray` leads to the keeper of poison lanes, which `wake_keeper` wakes.
    pub(super) fn new(
        setup: UplinkSetup,
        source: Source,
        limits: Limits,
        (tray, wake_keeper): (SharedTray, Rc<Notify>),
        (gateway, local): (Rc<Gateway>, Rc<LocalDoor>),
        stop: watch::Receiver<bool>,
    ) -> Uplink {
        let failover = &setup.config.failover;
        let targets = Targets::new(TargetRules {
            count: 1 + failover.transports.len(),
            attempts: failover.attempts,
            return_millis: failover.return_secs * 1_000,
        });
        let mut carrier = carrier(&setup.config, &gateway, &limits);
        if setup.counts_sources {
            carrier.count_sources(limits.series_bytes_max as usize);
        }
        for (lane, priority) in &setup.lanes {
            match source.bounds(*lane) {
                Ok((head, tail)) => carrier.add_lane(*lane, *priority, head, tail),
                Err(error) => {
                    error!(%error, %lane, "a lane cannot be read; its messages stay where they are")
                }
            }
        }
        let is_insecure = setup.config.transport.tls.as_ref().is_some_and(|tls| tls.insecure);
        setup.status.insecure.store(is_insecure, Ordering::Relaxed);
        Uplink {
            name: setup.config.name.as_str().into(),
            setup,
            source,
            limits,
            stop,
            clock: Clock::default(),
            carrier,
            drains: None,
            records: ReadOut::new(),
            packer: None,
            delivered: Vec::new(),
            out: Vec::new(),
            tray,
            wake_keeper,
            clocks: ClockWatch::default(),
            faults: Faults::default(),
            next_tick: model::Instant::default(),
            sources_at: model::Instant::default(),
            useless_since: None,
            up_since: None,
            gateway,
            local,
            targets,
            unroomed: 0,
        }
    }

    /// Carries until told to stop.
    pub(super) async fn run(mut self) {
        let mut backoff = backoff(&self.setup.config);
        loop {
            if self.rest().await {
                return;
            }
            let ended = self.carry().await;
            match ended {
                Ended::Stopped => return,
                Ended::OutOfHours => {
                    info!(uplink = %self.name, "the hours of this link are over; messages wait in their lanes");
                    continue;
                }
                _ => {}
            }
            if matches!(ended, Ended::Returns) {
                self.targets.go_back();
                self.setup.status.failovers.store(self.targets.changes(), Ordering::Relaxed);
                info!(uplink = %self.name, target = %self.target(), "the first address takes connections again; going back");
                continue;
            }
            // From when it was up: an address that swallows everything takes longer than this to fail.
            if self.up_since.is_some_and(|since| since.elapsed() >= LASTING) {
                backoff.succeeded();
            }
            // To let us in, and to answer pings, is not enough.
            let is_good = self.up_since.is_some()
                && self.carrier.is_proven()
                && !matches!(ended, Ended::Link(LinkError::Unanswered { .. }));
            if !is_good && !ended.is_ours() && self.targets.failed() {
                warn!(uplink = %self.name, target = %self.target(), "trying another address");
            }
            self.setup.status.failovers.store(self.targets.changes(), Ordering::Relaxed);
            if self.wait(&mut backoff, &ended).await {
                return;
            }
        }
    }

    /// Connects and carries until the connection ends.
    async fn carry(&mut self) -> Ended {
        self.setup.status.set(UplinkState::Connecting, None);
        self.setup.status.set_target(self.target());
        self.out.clear();
        self.up_since = None;
        let ended = match self.try_carry().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        // Only what the other side did, and with everything written, can be a message's fault.
        let (by_peer, error) = match &ended {
            Ended::Closed | Ended::Reset => (self.out.is_empty(), None),
            Ended::Link(error @ LinkError::Disconnected(_)) => (self.out.is_empty(), Some(error)),
            Ended::Link(error) => (false, Some(error)),
            _ => (false, None),
        };
        self.look_at_proof();
        let now = self.clock.now().instant;
        if matches!(ended, Ended::Closed | Ended::Reset) {
            self.carrier.cut_off(now);
        }
        self.carrier.lost(by_peer, error, now);
        self.report();
        self.keep_positions();
        self.keep_ahead();
        self.source.set_link(self.setup.lanes(), false);
        ended
    }

    async fn try_carry(&mut self) -> Result<std::convert::Infallible, Ended> {
        let stream = self.connect().await?;
        self.packer = self.packer()?;
        let mut repairs = watchdogs::Repairs::of(stream.tcp());
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut link = link_setup(&self.setup.config, &self.gateway, &self.limits);
        link.address = self.targets.current();
        link.gone = Arc::clone(&self.setup.gone);
        let mut wants_session = link.inbound.as_ref().map(|rules| rules.identity.clone());
        let (mut local, mut local_writer) = LocalSession::none();
        self.look_at_drains();
        self.carrier.connected(link, self.clock.now(), &mut self.out)?;
        let mut look = None;
        let mut give_up = Deadlines::default();
        let mut buffer = vec![0; 64 << 10];
        let mut unread = Vec::new();
        let mut unflushed = false;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = self.clock.now().instant;
            if now >= self.next_tick {
                self.on_tick()?;
                if let Some(round_trip) = repairs.as_mut().and_then(watchdogs::Repairs::look) {
                    self.carrier.repaired(round_trip, now);
                }
                self.look_at_rooms(&mut give_up)?;
                if look.is_none() && self.carrier.is_up() && self.targets.should_look(now) {
                    look = Some(self.look_at_first());
                }
            }
            match give_up.returns {
                None => self.fill()?,
                // A quiet point: nothing new is sent, and what is in flight has its time.
                Some(until) if self.carrier.inflight() == 0 || Instant::now() >= until => {
                    self.carrier.close(&mut self.out);
                    self.say_goodbye(&mut writer).await;
                    return Err(Ended::Returns);
                }
                Some(_) => {}
            }
            // Not before: whether it begins anew depends on what the upstream remembers.
            if self.carrier.is_up()
                && let Some(identity) = wants_session.take()
            {
                (local, local_writer) =
                    LocalSession::open(&self.local, &identity).map_err(Ended::NoSession)?;
            }
            let takes_more =
                self.carrier.local_bytes().len() < LOCAL_BYTES_MAX && !self.carrier.is_inbound_full();
            let wait = self.carrier.wait_millis(self.clock.now().instant).map(Duration::from_millis);
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => {
                    self.carrier.close(&mut self.out);
                    self.say_goodbye(&mut writer).await;
                    return Err(Ended::Stopped);
                }
                read = reader.read(&mut buffer), if takes_more => {
                    let len = read.map_err(|error| self.broken(&error))?;
                    self.take_in(&buffer[..len], &mut unread)?;
                }
                pushed = push(&mut writer, &self.out), if !self.out.is_empty() || unflushed => {
                    let len = pushed.map_err(|error| self.broken(&error))?;
                    self.out.drain(..len);
                    unflushed = len > 0;
                }
                came = local.read() => {
                    if came.map_err(Ended::NoSession)? == 0 {
                        return Err(Ended::SessionClosed);
                    }
                    let taken = self.carrier.read_local(&local.unread, &mut self.out)?;
                    local.unread.drain(..taken);
                }
                pushed = local_writer.write(self.carrier.local_bytes()), if has_local(&local_writer, &self.carrier) => {
                    let len = pushed.map_err(Ended::NoSession)?;
                    self.carrier.wrote_local(len);
                }
                is_back = looked(&mut look) => {
                    look = None;
                    if is_back {
                        give_up.returns = Some(Instant::now() + QUIET);
                    }
                }
                () = self.setup.bell.wait() => self.look_at_tails()?,
                () = tokio::time::sleep(wait.unwrap_or(TICK)), if wait.is_some() => {}
                // Under load it would never be its turn here.
                _ = tick.tick() => {}
            }
            if self
                .useless_since
                .is_some_and(|since| self.clock.now().instant.millis_since(since) > LINGER_MILLIS)
            {
                self.carrier.close(&mut self.out);
                self.say_goodbye(&mut writer).await;
                return Err(Ended::OutOfHours);
            }
        }
    }

    /// What time brings: keep-alive, hours, a clock that was set.
    fn on_tick(&mut self) -> Result<(), Ended> {
        let now = self.clock.now();
        self.next_tick = now.instant.plus_millis(TICK.as_millis() as u64);
        if let Some(millis) = self.clocks.look(now) {
            self.setup.status.clock_jumps.fetch_add(1, Ordering::Relaxed);
            warn!(uplink = %self.name, jump_ms = millis, "the wall clock jumped; the connection is probed");
            self.carrier.probe(now, &mut self.out);
        }
        let is_open = self.look_at_hours();
        let is_useless = !is_open && self.carrier.inflight() == 0 && !self.carrier.has_something_to_go();
        self.useless_since = if is_useless { self.useless_since.or(Some(now.instant)) } else { None };
        self.carrier.tick(now, &mut self.out)?;
        self.look_at_proof();
        self.look_at_tails()?;
        self.keep_ahead();
        self.report();
        Ok(())
    }

    /// An address at which something was answered is a good one.
    fn look_at_proof(&mut self) {
        if self.up_since.is_some() && self.carrier.is_proven() {
            self.targets.succeeded();
        }
    }

    /// Whether the link may be used for everything now; the carrier is told.
    fn look_at_hours(&mut self) -> bool {
        let pacing = &self.setup.config.pacing;
        let is_open = pacing.hours.is_open(self.clock.now().timestamp);
        self.carrier.set_open(is_open, pacing.hours_always);
        is_open
    }

    /// Waits for the hours of a metered link, or for something that may go at any hour; whether the router stops.
    async fn rest(&mut self) -> bool {
        self.useless_since = None;
        while !self.look_at_hours() {
            self.look_at_tails_or_say();
            if self.carrier.has_something_to_go() {
                return false;
            }
            self.setup.status.set(UplinkState::Resting, None);
            tokio::select! {
                () = stopped(&mut self.stop) => return true,
                () = self.setup.bell.wait() => {}
                () = tokio::time::sleep(HOURS_LOOK) => {}
            }
        }
        false
    }

    /// What people may see of the pace.
    fn report(&mut self) {
        let (pressure, status) = (self.carrier.pressure(), &self.setup.status);
        status.window.store(pressure.window as u64, Ordering::Relaxed);
        status.delay_micros.store(pressure.delay_micros, Ordering::Relaxed);
        status.throttles.store(pressure.throttles, Ordering::Relaxed);
        let was = status.throttled.swap(pressure.is_throttled, Ordering::Relaxed);
        if was != pressure.is_throttled {
            let window = pressure.window;
            if pressure.is_throttled {
                warn!(uplink = %self.name, window, "the upstream wants less; nothing is lost, messages wait in their lanes");
            } else {
                info!(uplink = %self.name, window, "the upstream takes everything again");
            }
        }
        if self.carrier.is_up() || self.carrier.is_own_up() {
            status.set(if pressure.is_throttled { UplinkState::Throttled } else { UplinkState::Up }, None);
        }
    }

    /// Once a second, since it takes a while where there are many.
    fn show_sources(&mut self) {
        let now = self.clock.now().instant;
        if self.sources_at <= now
            && let Some(series) = self.carrier.source_series()
        {
            self.sources_at = now.plus_millis(1_000);
            *self.setup.status.sources.lock().unwrap_or_else(PoisonError::into_inner) = series;
        }
    }

    async fn connect(&mut self) -> Result<Stream, Ended> {
        let to = self.transport().clone();
        self.say_if_insecure(&to);
        let patience = Patience::of_secs(self.setup.config.pacing.connect_timeout_secs);
        tokio::select! {
            () = stopped(&mut self.stop) => Err(Ended::Stopped),
            connected = transport::connect(&self.name, &to, patience) => {
                let stream = connected?;
                watchdogs::watch_socket(stream.tcp(), self.setup.config.keep_alive_secs);
                self.look_at_certificate(&stream);
                if let Some(text) = to.tls.as_ref().and_then(|tls| self.look_at_own_certificate(tls, None)) {
                    warn!(uplink = %self.name, "{text}");
                }
                Ok(stream)
            }
        }
    }

    /// What packs the messages of a new connection.
    fn packer(&self) -> Result<Option<Packer>, ConnectError> {
        let Some(settings) = &self.setup.config.compression else { return Ok(None) };
        let dictionary = match &settings.dictionary {
            None => Vec::new(),
            Some(path) => packing::read_dictionary(path).map_err(|problem| {
                let section = format!("uplink.{}", self.name);
                CertificateError::new(&section, "compression_dictionary", path, problem)
            })?,
        };
        Ok(Some(Packer::new(settings.level, &dictionary)))
    }

    /// The address in use.
    fn transport(&self) -> &Transport {
        let config = &self.setup.config;
        match self.targets.current() {
            0 => &config.transport,
            other => &config.failover.transports[other - 1],
        }
    }

    fn target(&self) -> String {
        self.transport().to_string()
    }

    /// Finds out whether the first address takes connections; nothing is said over it.
    fn look_at_first(&self) -> JoinHandle<bool> {
        let (name, transport) = (Rc::clone(&self.name), self.setup.config.transport.clone());
        let patience = Patience::of_secs(self.setup.config.pacing.connect_timeout_secs);
        tokio::task::spawn_local(async move {
            match transport::connect(&name, &transport, patience).await {
                Ok(_) => true,
                Err(error) => {
                    debug!(uplink = %name, %error, "the first address is still down");
                    false
                }
            }
        })
    }

    /// What our own broker had no room for is asked for again after a while, by a new connection.
    fn look_at_rooms(&mut self, give_up: &mut Deadlines) -> Result<(), Ended> {
        let unroomed = self.carrier.counts().inbound.unroomed;
        if unroomed == self.unroomed {
            return Ok(());
        }
        let until = *give_up.unroomed.get_or_insert_with(|| Instant::now() + UNROOMED);
        if Instant::now() < until {
            return Ok(());
        }
        self.unroomed = unroomed;
        Err(Ended::Unroomed)
    }

    fn broken(&self, error: &std::io::Error) -> Ended {
        match error.kind() {
            ErrorKind::ConnectionReset => Ended::Reset,
            ErrorKind::TimedOut => Ended::Socket(VANISHED.to_owned()),
            kind => {
                let said = transport::said(error, &self.name);
                // A refusal of our certificate comes with the first bytes in TLS 1.3.
                let own = self.transport().tls.as_ref().and_then(|tls| self.own_certificate(tls, None));
                match own.filter(|notice| notice.is_over) {
                    Some(notice) => Ended::Socket(format!("{said}; {}", notice.text)),
                    // An end without TLS's goodbye is an end like any other: many front ends close so.
                    None if kind == ErrorKind::UnexpectedEof => Ended::Closed,
                    None => Ended::Socket(said),
                }
            }
        }
    }

    /// Sends what is left and closes. Whether it arrives or not: what is not acknowledged is sent again.
    async fn say_goodbye(&self, writer: &mut WriteHalf<Stream>) {
        let said = async {
            writer.write_all(&self.out).await?;
            writer.shutdown().await
        };
        if let Ok(Err(error)) = timeout(GOODBYE_TIMEOUT, said).await {
            debug!(uplink = %self.name, %error, "the goodbye did not leave");
        }
    }

    /// What came from the upstream; nothing is the end.
    fn take_in(&mut self, bytes: &[u8], unread: &mut Vec<u8>) -> Result<(), Ended> {
        if bytes.is_empty() {
            return Err(Ended::Closed);
        }
        unread.extend_from_slice(bytes);
        let was_up = self.carrier.is_up();
        let taken = self.carrier.read(unread, self.clock.now(), &mut self.out)?;
        unread.drain(..taken);
        for (filter, reason) in self.carrier.take_unsubscribed() {
            let warning = format!(
                "the upstream refuses the subscription to {filter}: {reason}; ask for the right to it there, or mend \
                 uplink.{}.inbound",
                self.name
            );
            warn!(uplink = %self.name, "{warning}");
            let most = self.limits.uplink_links_max as usize;
            self.setup.status.warn_about(&filter, warning, most);
        }
        if !was_up && self.carrier.is_up() {
            self.on_up();
        }
        Ok(())
    }

    fn on_up(&mut self) {
        self.up_since = Some(Instant::now());
        self.setup.status.connects.fetch_add(1, Ordering::Relaxed);
        self.setup.status.set(UplinkState::Up, None);
        self.source.set_link(self.setup.lanes(), true);
        self.setup.status.all_works();
        self.targets.let_in(self.clock.now().instant);
        self.report();
        info!(uplink = %self.name, target = %self.target(), backlog = self.carrier.backlog(), "uplink is up");
    }

    /// Waits before the next attempt; whether the router stops.
    async fn wait(&mut self, backoff: &mut Backoff, ended: &Ended) -> bool {
        let millis = backoff.failed(entropy());
        let reason = match ended {
            Ended::Link(error) => with_advice(error, &self.name),
            ended => ended.to_string(),
        };
        warn!(uplink = %self.name, %reason, retry_in_ms = millis, "uplink is down; messages wait in their lanes");
        self.setup.status.set(UplinkState::Waiting, Some(reason));
        let until = Instant::now() + Duration::from_millis(millis);
        tokio::select! {
            () = stopped(&mut self.stop) => return true,
            () = sleep_until(until) => {}
        }
        // What came meanwhile.
        self.look_at_tails_or_say();
        false
    }
}

/// When a connection that works is given up.
#[derive(Debug, Default)]
struct Deadlines {
    /// For the first address.
    returns: Option<Instant>,
    /// To get again what there was no room for.
    unroomed: Option<Instant>,
}

fn has_local(writer: &LocalWriter, carrier: &Carrier) -> bool {
    writer.is_open() && !carrier.local_bytes().is_empty()
}

/// What a look at the first address came to; for ever, without one.
async fn looked(look: &mut Option<JoinHandle<bool>>) -> bool {
    match look {
        Some(look) => look.await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

/// Writes, or flushes what was written; how many bytes were taken. Nothing is lost if it is not waited for.
async fn push(writer: &mut WriteHalf<Stream>, bytes: &[u8]) -> std::io::Result<usize> {
    if bytes.is_empty() {
        return writer.flush().await.map(|()| 0);
    }
    writer.write(bytes).await
}

/// Returns when the router stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop, too.
    drop(stop.wait_for(|stop| *stop).await);
}
