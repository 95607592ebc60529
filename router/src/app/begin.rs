//! What a start writes into the store before anything else runs: lanes of uplinks, a life of each, what vanished.
//!
//! In: an open store. Out: all of it on the disk; nothing else wrote yet.
//! Always: a store with a damaged file starts, too. RocksDB merges as soon as it is open, and refuses all writes once that met
//! damage; then the store is written anew, as in a running router, and the start notes what it has to once more.

use std::sync::Arc;

use anyhow::Context as _;
use model::Priority;
use store::{CommitLog as _, FaultKind};
use tracing::warn;

use crate::clock::Clock;
use crate::config::Config;
use crate::disk::DiskState;
use crate::disk::losses::Ledger;
use crate::disk::vanished::VanishedLanes;
use crate::iotedge::EdgeNode;
use crate::upstream::poison::poison_lane_name;
use crate::upstream::{self, Bell, Gateway, LinkStatus, Tails, UplinkSetup};

/// What was noted.
pub(super) struct Begun {
    pub(super) uplinks: Vec<UplinkSetup>,
    pub(super) tails: Tails,
    pub(super) gateway: Gateway,
    pub(super) disk_state: DiskState,
}

/// Notes it, and once more if damage refused it.
pub(super) fn begin(config: &Config, log: &mut store::Log, edge: Option<&EdgeNode>) -> anyhow::Result<Begun> {
    let begun = try_begin(config, log, edge);
    match (log.poison(), begun) {
        (Some(fault), Err(_)) if fault.kind == FaultKind::Corrupt => {
            warn!(%fault, "a damaged file refused the first write; the store is written anew without what is damaged");
            log.try_recover()?;
            try_begin(config, log, edge)
        }
        (_, begun) => begun,
    }
}

fn try_begin(config: &Config, log: &mut store::Log, edge: Option<&EdgeNode>) -> anyhow::Result<Begun> {
    let mut tails = Tails::default();
    let uplinks = uplinks(config, log, &mut tails, edge)?;
    let mut gateway = Gateway::new(&config.gateway, log)?;
    gateway.begin_life(uplinks.iter().flat_map(UplinkSetup::lanes), log)?;
    let disk_state = disk_state(config, log)?;
    log.commit().context("the lanes of the routes cannot be written")?;
    Ok(Begun { uplinks, tails, gateway, disk_state })
}

/// The lane of an uplink for one priority.
pub(super) fn lane_name(uplink: &str, priority: Priority) -> String {
    format!("u/{uplink}/{priority}")
}

/// Every uplink with a lane for each priority, whether or not a route uses it now: a reload needs no new lanes, and what
/// a route that is gone has left behind drains.
fn uplinks(
    config: &Config,
    log: &mut store::Log,
    tails: &mut Tails,
    edge: Option<&EdgeNode>,
) -> anyhow::Result<Vec<UplinkSetup>> {
    let mut setups = Vec::new();
    for uplink in &config.uplinks {
        if let Some(tls) = &uplink.transport.tls {
            upstream::client_config(&uplink.name, tls)?; // read anew for each connection; now, so that a mistake is told
        }
        let bell = Arc::new(Bell::default());
        let mut lanes = Vec::new();
        for priority in Priority::all() {
            let lane = log.lane(&lane_name(&uplink.name, priority))?;
            tails.add(lane, Arc::clone(&bell));
            lanes.push((lane, priority));
        }
        let filters = uplink.topics.inbound.iter().map(|entry| entry.filter.as_str());
        setups.push(UplinkSetup {
            config: uplink.clone(),
            gone: upstream::begin_subscriptions(&uplink.name, filters, log)?.into(),
            lanes,
            poison: log.lane(&poison_lane_name(&uplink.name))?,
            bell,
            status: Arc::new(LinkStatus::default()),
            signer: edge
                .filter(|_| uplink.hub.as_ref().is_some_and(|hub| hub.is_edge))
                .and_then(EdgeNode::signer),
            line: None,
            counts_sources: config.edge.is_some(),
        });
        for transport in &uplink.failover.transports {
            if let Some(tls) = &transport.tls {
                upstream::client_config(&uplink.name, tls)?;
            }
        }
    }
    Ok(setups)
}

/// What the disk thread remembers from earlier runs.
fn disk_state(config: &Config, log: &mut store::Log) -> anyhow::Result<DiskState> {
    let ledger = Ledger::load(&log.reader(), config.limits.losses_max as usize)?;
    let is_configured = |name: &str| config.uplinks.iter().any(|uplink| uplink.name == name);
    let now = Clock::default().now().timestamp;
    let vanished = VanishedLanes::load(log, is_configured, config.store.keep_vanished_secs, now)?;
    let series_bytes_max = config.edge.as_ref().map(|_| config.limits.series_bytes_max as usize);
    Ok(DiskState::new(ledger, vanished, series_bytes_max))
}
