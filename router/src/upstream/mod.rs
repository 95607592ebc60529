//! Station 7's edge: the thread that carries kept messages upstream. Sockets and timers; decisions are in `broker::uplink`.
//!
//! In: how far the lanes reach, records read from them. Out: bytes to the upstream, positions for the store, a state to
//! look at. Bound: `uplink_inflight_max` publications and `uplink_read_bytes_max` bytes per link.
//! An uplink that is down costs a timer; its messages stay in their lanes.

mod dialects;
mod drains;
mod faults;
mod iothub;
mod line;
mod link;
mod lives;
mod local;
mod packing;
pub(crate) mod poison;
mod sentences;
mod source;
mod status;
mod subscribed;
mod tails;
mod theirs;
mod transport;
mod trust;
mod watchdogs;
mod websocket;

use std::rc::Rc;
use std::sync::Arc;

use broker::uplink::{Backoff, Carrier, LinkSetup, PoolRules, Rules, Schedule};
use model::{LaneId, Limits, Priority};
use tokio::sync::{Notify, mpsc, watch};

use self::iothub::Keyring;
use self::poison::{Command, DiskAccess, Keeper, PoisonLane};
use crate::clock::entropy;
use crate::config::{Drain, Uplink};

pub(crate) use dialects::Gateway;
pub(crate) use drains::LaneDrains;
pub(crate) use iothub::{About, LinkNews, Signature, Signer};
pub(crate) use line::{Line, News, ORDERS_MAX, Operator, Order, line};
pub(crate) use local::LocalDoor;
pub(crate) use source::Source;
pub(crate) use status::{LinkStatus, UplinkState};
pub(crate) use subscribed::begin as begin_subscriptions;
pub(crate) use tails::{Bell, Tails};
pub(crate) use trust::client_config;

/// What a link of its own holds besides an incomplete packet: buffers of both directions, TLS among them.
pub(crate) const LINK_BYTES_MAX: u64 = 256 << 10;

/// One uplink with its lanes.
pub(crate) struct UplinkSetup {
    /// As configured.
    pub config: Uplink,
    /// Every lane that leads to it, from the most urgent one on.
    pub lanes: Vec<(LaneId, Priority)>,
    /// Where messages go that it never accepts.
    pub poison: LaneId,
    /// Rings when one of its lanes grows.
    pub bell: Arc<Bell>,
    /// Which of its lanes live messages may pass.
    pub drains: Arc<LaneDrains>,
    /// What it has subscribed to in earlier lives and is not to any more.
    pub gone: Arc<[String]>,
    /// For people.
    pub status: Arc<LinkStatus>,
    /// Signs this gateway's tokens instead of the key in the configuration, for IoT Hub.
    pub signer: Option<Arc<dyn Signer>>,
    /// Services that speak over its links, for IoT Hub.
    pub line: Option<Line>,
    /// Whether somebody wants to know from whom the messages were that it took.
    pub counts_sources: bool,
}

impl UplinkSetup {
    /// Every lane that leads to it.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = LaneId> + use<'_> {
        self.lanes.iter().map(|(lane, _)| *lane)
    }

    /// Whether this is the gateway's own identity at IoT Hub.
    fn is_own(&self, identity: &str) -> bool {
        self.config.hub.as_ref().is_some_and(|hub| hub.id.as_str() == identity)
    }
}

/// Runs all uplinks on this thread until `stop` says so; `commands` come from operators.
pub(crate) fn run(
    uplinks: Vec<UplinkSetup>,
    disk: DiskAccess,
    commands: mpsc::Receiver<Command>,
    (gateway, local): (Gateway, LocalDoor),
    limits: &Limits,
    stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async move {
        let (gateway, local) = (Rc::new(gateway), Rc::new(local));
        let wake_keeper = Rc::new(Notify::new());
        let (mut links, mut lanes) = (Vec::new(), Vec::new());
        for mut setup in uplinks {
            let line = setup.line.take();
            let tray = poison::SharedTray::default();
            let forwarding = &setup.config.forwarding;
            let lane = PoisonLane {
                uplink: setup.config.name.clone(),
                lane: setup.poison,
                messages_max: forwarding.poison_messages_max,
                bytes_max: forwarding.poison_bytes_max,
                status: Arc::clone(&setup.status),
            };
            lanes.push((lane, Rc::clone(&tray), Arc::clone(&setup.bell)));
            let (source, limits, wake, stop) =
                (disk.source.clone(), limits.clone(), Rc::clone(&wake_keeper), stop.clone());
            let us = (Rc::clone(&gateway), Rc::clone(&local));
            let keyring = setup.config.hub.as_ref().map(|hub| Keyring::new(hub, setup.signer.clone()));
            let link = link::Uplink::new(setup, source, limits, (tray, wake), us, stop);
            links.push(match keyring {
                Some(keyring) => tokio::task::spawn_local(link::pooled::run(link, keyring, line)),
                None => tokio::task::spawn_local(link.run()),
            });
        }
        let keeper = tokio::task::spawn_local(Keeper::new(disk, lanes, commands).run(wake_keeper));
        let mut stop = stop;
        // An error means that the sender is gone, which is a stop, too. Without uplinks operators are still served.
        drop(stop.wait_for(|stop| *stop).await);
        for link in links {
            if let Err(error) = link.await {
                tracing::error!(%error, "an uplink ended by a defect; please report");
            }
        }
        // What it was doing is in the disk's queue, or happens again.
        keeper.abort();
    });
    Ok(())
}

/// With one link, or with one for each identity.
fn carrier(config: &Uplink, gateway: &Gateway, limits: &Limits) -> Carrier {
    let rules = rules(config, limits);
    let Some(hub) = &config.hub else { return Carrier::new(rules) };
    let pool = PoolRules {
        links_max: limits.uplink_links_max as usize,
        opens_per_sec: limits.uplink_opens_per_sec,
        idle_millis: hub.link_idle_millis,
        answer_millis: hub.answer_millis,
        backoff_millis: (config.backoff_min_millis, config.backoff_max_millis),
        own: hub.id.as_str().into(),
        seed: entropy(),
    };
    Carrier::pooled(rules, pool, dialects::dialect(config, gateway))
}

fn rules(config: &Uplink, limits: &Limits) -> Rules {
    let forwarding = &config.forwarding;
    Rules {
        schedule: if forwarding.weighted { Schedule::Weighted } else { Schedule::Strict },
        live_first: forwarding.drain == Drain::LiveFirst,
        history_share_percent: forwarding.history_share_percent,
        messages_per_sec: config.pace_messages_per_sec.map_or(0, |pace| pace.get().into()),
        bytes_per_sec: forwarding.pace_bytes_per_sec,
        drain_jitter_millis: forwarding.drain_jitter_millis,
        window: (config.pacing.window_min.into(), config.window.min(limits.uplink_inflight_max).into()),
        attempts_max: forwarding.attempts_max,
        retry_millis: (config.backoff_min_millis, config.backoff_max_millis),
        look_ahead_max: limits.uplink_look_ahead_max as usize,
        held_max: limits.uplink_held_messages_max as usize,
        senders_max: limits.uplink_waiting_senders_max as usize,
        identity: (!config.topics.inbound.is_empty()).then(|| dialects::identity(&config.name)),
        read_bytes_max: limits.uplink_read_bytes_max as usize,
        seed: entropy(),
    }
}

fn link_setup(config: &Uplink, gateway: &Gateway, limits: &Limits) -> LinkSetup {
    LinkSetup {
        version: dialects::version(config.version),
        client_id: config.client_id.clone(),
        user: config.user.clone(),
        password: config.password.as_ref().map(|password| password.reveal().as_bytes().to_vec()),
        keep_alive_secs: config.keep_alive_secs,
        greeting_millis: config.pacing.connect_timeout_secs * 1_000,
        answer_millis: config.pacing.ack_timeout_secs * 1_000,
        dialect: dialects::dialect(config, gateway),
        inbound: dialects::inbound(config, gateway, limits),
        inflight_max: config.window.min(limits.uplink_inflight_max),
        packet_bytes_max: limits.packet_bytes_max,
        is_exact: config.hub.is_none() && config.topics.may_be_exact(),
        address: 0,
        gone: [].into(),
        keeps_session: config.hub.is_some(),
    }
}

fn backoff(config: &Uplink) -> Backoff {
    Backoff::new(config.backoff_min_millis, config.backoff_max_millis)
}
