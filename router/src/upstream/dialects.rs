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
    /// The gateway with this name and store. A store that has no number gets one; the next commit keeps it.
    pub(crate) fn new(name: &str, log: &mut store::Log) -> Result<Gateway, store::StoreError> {
        let kept = log.state_get(GATEWAY, b"incarnation")?;
        let number = match kept.as_deref().and_then(<[u8]>::first_chunk::<4>) {
            Some(bytes) => u32::from_le_bytes(*bytes),
            None => {
                let number = entropy() as u32;
                log.state_put(GATEWAY, b"incarnation", &number.to_le_bytes())?;
                number
            }
        };
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
    fn a_store_has_one_number() {
        let home = tempfile::tempdir().expect("a directory");
        let start = |store: &str| {
            let mut log = store::Log::open(&store::Options::small(home.path().join(store))).expect("a store");
            let gateway = Gateway::new("gw1", &mut log).expect("readable");
            log.commit().expect("the disk takes it");
            log.close().expect("closed");
            gateway.origin
        };
        let first = start("store");
        assert_eq!(start("store"), first);
        assert_ne!(start("another"), first);
    }
}
