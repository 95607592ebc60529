//! Station 7's edge: the thread that carries kept messages upstream. Sockets and timers; decisions are in `broker::uplink`.
//!
//! In: how far the lanes reach, records read from them. Out: bytes to the upstream, positions for the store, a state to
//! look at. Bound: `uplink_inflight_max` publications and `uplink_read_bytes_max` bytes per link.
//! An uplink that is down costs a timer; its messages stay in their lanes.

mod link;
mod status;
mod tails;
mod transport;
mod trust;

use std::sync::Arc;

use broker::uplink::{Backoff, LinkSetup};
use model::{LaneId, Limits, Priority};
use tokio::sync::watch;
use wire::Version;

use crate::config::{MqttVersion, Uplink};

pub(crate) use status::{LinkStatus, UplinkState};
pub(crate) use tails::{Bell, Tails};
pub(crate) use trust::client_config;

/// One uplink with its lanes.
pub(crate) struct UplinkSetup {
    /// As configured.
    pub config: Uplink,
    /// Every lane that leads to it.
    pub lanes: Vec<(LaneId, Priority)>,
    /// Rings when one of its lanes grows.
    pub bell: Arc<Bell>,
    /// For people.
    pub status: Arc<LinkStatus>,
}

/// Runs all uplinks on this thread until `stop` says so.
pub(crate) fn run(
    uplinks: Vec<UplinkSetup>,
    reader: &store::Reader,
    limits: &Limits,
    stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let links: Vec<_> = uplinks
            .into_iter()
            .map(|setup| {
                tokio::task::spawn_local(link::run(setup, reader.clone(), limits.clone(), stop.clone()))
            })
            .collect();
        for link in links {
            if let Err(error) = link.await {
                tracing::error!(%error, "an uplink ended by a defect; please report");
            }
        }
    });
    Ok(())
}

fn link_setup(config: &Uplink, limits: &Limits) -> LinkSetup {
    LinkSetup {
        version: match config.version {
            MqttVersion::V311 => Version::V3,
            MqttVersion::V5 => Version::V5,
        },
        client_id: config.client_id.clone(),
        user: config.user.clone(),
        password: config.password.as_ref().map(|password| password.reveal().as_bytes().to_vec()),
        keep_alive_secs: config.keep_alive_secs,
        topic_prefix: config.topic_prefix.clone(),
        inflight_max: config.window.min(limits.uplink_inflight_max),
        packet_bytes_max: limits.packet_bytes_max,
    }
}

fn backoff(config: &Uplink) -> Backoff {
    Backoff::new(config.backoff_min_millis, config.backoff_max_millis)
}
