//! What a start writes into the store before anything else runs: lanes of uplinks, a life of each, what vanished.
//!
//! In: an open store. Out: all of it on the disk; nothing else wrote yet.
//! Always: a merge that meets damage ends no start. RocksDB merges as soon as it is open, and refuses all writes after that; then the
//! store is written anew, as in a running router, and the start notes what it has to once more. It fails where that does: without
//! room for a second copy, or if no name of a lane can be read.

use std::sync::Arc;

use anyhow::Context as _;
use model::Priority;
use store::{CommitLog as _, FaultKind};
use tracing::warn;

use crate::clock::Clock;
use crate::config::Config;
use crate::disk::losses::Ledger;
use crate::disk::vanished::VanishedLanes;
use crate::disk::{DiskState, tell_repaired};
use crate::iotedge::EdgeNode;
use crate::upstream::poison::poison_lane_name;
use crate::upstream::{self, Bell, Gateway, LaneDrains, LinkStatus, Tails, UplinkSetup};

/// For systemd: what takes long, and an hour in which it is no reason to begin again.
const REBUILDING: &str = "STATUS=writing a damaged store anew\nEXTEND_TIMEOUT_USEC=3600000000";

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
            warn!(
                %fault,
                "a damaged file refused the first write; the store is written anew without what is damaged, which takes as long \
                 as reading and writing all that waits"
            );
            super::notify_systemd(REBUILDING);
            log.try_recover()?.iter().for_each(tell_repaired);
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
            drains: Arc::new(LaneDrains::new(Arc::clone(&bell))),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, ConfigArgs};
    use store::{ReadLimits, ReadOut};

    const WAITING: u64 = 20_000;

    /// Makes a store with one bad block of a waiting lane; gives back the configuration that names it.
    fn damaged(folder: &std::path::Path) -> Config {
        let file = folder.join("gateway.toml");
        let text = format!(
            "[store]\npath = {:?}\nmemtable_bytes = 1048576\n[uplink.plant]\nurl = \"mqtt://127.0.0.1:1\"\n",
            folder.join("store")
        );
        std::fs::write(&file, text).expect("a file");
        let args = ConfigArgs { config: Some(file), ..ConfigArgs::default() };
        let config = config::load(&args, std::iter::empty()).expect("a good configuration");
        // What nothing can compress is in the file as it is.
        let payload = |number: u64| {
            let word = |at: u64| {
                (number * 25 + at)
                    .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                    .rotate_left(29)
                    .wrapping_mul(number | 1)
            };
            (0..25).flat_map(|at| word(at).to_be_bytes()).collect::<Vec<u8>>()
        };
        let mut log = store::Log::open(&config.store_options()).expect("a new store");
        let lane = log.lane(&lane_name("plant", Priority::DEFAULT)).expect("a lane");
        for number in 1..=WAITING {
            log.append(lane, &[&payload(number)], Clock::default().now().timestamp, None).expect("room");
            if number % 100 == 0 {
                log.commit().expect("it is written");
            }
        }
        drop(log);
        drop(store::Log::open(&config.store_options()).expect("it opens")); // all of it is in sorted files now
        let wanted = payload(WAITING / 2);
        let files = std::fs::read_dir(folder.join("store").join("rocksdb")).expect("it is there");
        let flipped = files.map(|entry| entry.expect("an entry").path()).any(|path| {
            let mut bytes = std::fs::read(&path).unwrap_or_default();
            let is_sorted = path.extension().is_some_and(|kind| kind == "sst");
            let found = bytes.windows(wanted.len()).position(|it| is_sorted && it == wanted);
            let Some(at) = found else { return false };
            bytes[at] ^= 8;
            std::fs::write(&path, bytes).is_ok()
        });
        assert!(flipped);
        config
    }

    #[test]
    fn a_merge_that_meets_damage_before_the_first_write_ends_no_start() {
        let folder = tempfile::tempdir().expect("a directory");
        let config = damaged(folder.path());
        let mut log = store::Log::open(&config.store_options()).expect("it opens");
        log.reader().merge_all().expect("it is asked for");
        assert!(try_begin(&config, &mut log, None).is_err(), "RocksDB has met the damage, and refuses");

        let begun = begin(&config, &mut log, None).expect("a start");
        assert!(log.poison().is_none());
        let lane = log.find_lane(&lane_name("plant", Priority::DEFAULT)).expect("it is there");
        assert!(begun.uplinks[0].lanes().any(|it| it == lane));
        let (losses, unnoted) = log.take_losses();
        let lost: u64 = losses.iter().map(|loss| loss.lost.messages()).sum();
        assert!(
            (1..1_000).contains(&lost) && unnoted == 0 && losses.iter().all(|loss| loss.lost.lane == lane)
        );
        let (mut read, mut from, mut out) = (0, model::Seq::FIRST, ReadOut::new());
        let limits = ReadLimits { messages_max: 1_000, bytes_max: 1 << 20 };
        while from < log.end_of(lane).expect("it is there") {
            match log.read_lane(lane, from, limits, model::Timestamp(1), &mut out) {
                Ok(()) => (read, from) = (read + out.len() as u64, out.next()),
                Err(store::StoreError::Damaged { up_to, .. }) => from = up_to.next(),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(read + lost, WAITING);
    }
}
