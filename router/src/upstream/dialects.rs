//! From a configuration to what messages look like at an upstream, and what comes from there looks like here.
//!
//! In: the configuration of an uplink, who this gateway is. Out: a dialect, and the rules for what comes in.

use std::sync::Arc;

use broker::uplink::{Dialect, InboundRules, Mapping, OWN_CLIENTS, Origin, Packing};
use model::{LaneId, Limits};
use store::CommitLog;
use wire::Version;

use super::iothub::HubDialect;
use super::lives;
use super::packing::{InPayload, InTopic};
use crate::clock::entropy;
use crate::config::{MqttVersion, Properties, Topics, Uplink};
use crate::disk::GATEWAY;

/// Who this gateway is to those who get its messages.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    /// Its name.
    pub name: String,
    /// With it, what the ids of its messages begin with.
    pub origin: Origin,
}

impl Gateway {
    /// The gateway with this name and store. A store that has no number gets one; the next commit keeps it. Without syncs a
    /// power cut takes messages whose ids somebody has already, and their places are given again: such a store has another
    /// number after each boot of the machine, of which `boot` is the name.
    pub(crate) fn new(
        name: &str,
        log: &mut store::Log,
        syncs: bool,
        boot: &[u8],
    ) -> Result<Gateway, store::StoreError> {
        let unsynced_in = log.state_get(GATEWAY, b"unsynced")?;
        let kept = match &unsynced_in {
            Some(earlier) if earlier != boot => None,
            _ => log.state_get(GATEWAY, b"incarnation")?,
        };
        let number = match kept.as_deref().and_then(<[u8]>::first_chunk::<4>) {
            Some(bytes) => u32::from_le_bytes(*bytes),
            None => {
                let number = entropy() as u32;
                log.state_put(GATEWAY, b"incarnation", &number.to_le_bytes())?;
                number
            }
        };
        if !syncs {
            log.state_put(GATEWAY, b"unsynced", boot)?;
        } else if unsynced_in.is_some() {
            log.state_delete(GATEWAY, b"unsynced")?;
        }
        Ok(Gateway { name: name.to_owned(), origin: Origin::new(name, number) })
    }

    /// Begins another life of the store, for the lanes of uplinks. The next commit keeps it.
    pub(crate) fn begin_life(
        &mut self,
        lanes: impl Iterator<Item = LaneId>,
        log: &mut store::Log,
    ) -> Result<(), store::StoreError> {
        for (lane, lives) in lives::begin(lanes, entropy() as u32, log)? {
            self.origin.add_lives(lane, &lives);
        }
        Ok(())
    }
}

/// The name that the kernel gave to this boot of the machine; another one each time where it gives none.
pub(crate) fn boot() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| entropy().to_le_bytes().to_vec())
}

/// The user, and the client identifier, that what comes from an uplink is published by.
pub(crate) fn identity(uplink: &str) -> String {
    format!("{OWN_CLIENTS}{uplink}")
}

/// What messages look like there.
pub(super) fn dialect(config: &Uplink, gateway: &Gateway) -> Arc<dyn Dialect> {
    if let Some(hub) = &config.hub {
        return Arc::new(HubDialect::new(config, hub, gateway.origin.clone()));
    }
    let Topics { entries, qos, keeps_retain, id_property, .. } = config.topics.clone();
    Arc::new(Mapping {
        version: version(config.version),
        prefix: config.topic_prefix.clone(),
        entries,
        qos,
        keeps_retain,
        gateway: gateway.name.clone(),
        origin: gateway.origin.clone(),
        id_property,
        packing: packing(config),
    })
}

/// What is taken from there; `None` if nothing is.
pub(super) fn inbound(config: &Uplink, gateway: &Gateway, limits: &Limits) -> Option<Arc<InboundRules>> {
    let topics = &config.topics;
    (!topics.inbound.is_empty()).then(|| {
        Arc::new(InboundRules {
            entries: topics.inbound.clone(),
            identity: identity(&config.name),
            gateway: gateway.name.clone(),
            origin: gateway.origin.clone(),
            id_property: topics.id_property.clone(),
            packing: packing(config),
            open_max: limits.receive_max,
            packet_bytes_max: limits.packet_bytes_max,
        })
    })
}

fn packing(config: &Uplink) -> Option<Arc<dyn Packing>> {
    match (config.version, config.topics.properties) {
        (MqttVersion::V5, _) | (_, Properties::Drop) => None,
        (MqttVersion::V311, Properties::Topic) => Some(Arc::new(InTopic)),
        (MqttVersion::V311, Properties::Json) => Some(Arc::new(InPayload)),
    }
}

pub(super) fn version(version: MqttVersion) -> Version {
    match version {
        MqttVersion::V311 => Version::V3,
        MqttVersion::V5 => Version::V5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_one_number_and_without_syncs_one_for_each_boot() {
        let home = tempfile::tempdir().expect("a directory");
        let mut log = store::Log::open(&store::Options::small(home.path().join("store"))).expect("a store");
        let mut start = |syncs, boot: &[u8]| {
            let gateway = Gateway::new("gw1", &mut log, syncs, boot).expect("readable");
            log.commit().expect("the disk takes it");
            gateway.origin
        };
        let first = start(true, b"one");
        assert_eq!(start(true, b"two"), first, "what is synced is there after a power cut");
        assert_eq!(start(false, b"two"), first);
        assert_eq!(start(false, b"two"), first, "a crash of the process takes nothing");
        let second = start(false, b"three");
        assert_ne!(second, first, "a power cut may have taken places");
        assert_eq!(start(true, b"three"), second);
        start(false, b"three");
        let third = start(true, b"four");
        assert_ne!(third, second, "also if it is synced from now on");
        assert_eq!(start(true, b"five"), third);
    }
}
