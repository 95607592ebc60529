//! What a client of the dialect publishes: telemetry, requests, and what is neither (`reference/edgehub.md` §2.4, §2.9).
//!
//! In: a PUBLISH that passed the rules of MQTT. Out: a publication that names its sender, a question on the tray, or an
//! outcome that is counted, noted for the log, and told where the version has a word for it.

use std::rc::Rc;

use hub::HubId;
use hub::mapping::{DUP, MESSAGE_BYTES_MAX, Properties, RETAIN, Sender};
use hub::topics::{self, Inbound, UnknownTopic};
use model::{ConnId, Now, Qos};
use wire::{AckKind, Publish, ReasonCode, Version};

use super::{HubClient, HubFault, HubRequest, HubSetup, is_reserved};
use crate::access::DeniedV3;
use crate::acks::{OwedAck, Promise};
use crate::admit::Needs;
use crate::broker::Broker;
use crate::dispatch::Publication;
use crate::effects::Effects;
use crate::envelope::Envelope;
use crate::heads::mqtt::{Fault, PeerFault};
use crate::subscriptions::{Found, SessionKey};

/// The parts of a telemetry topic.
#[derive(Clone, Copy)]
struct Named<'t> {
    device: &'t str,
    module: Option<&'t str>,
    bag: &'t str,
}

impl Broker {
    /// A PUBLISH of a client of the dialect.
    pub(in crate::heads) fn on_hub_publish(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        client: &HubClient,
        publish: &Publish<'_>,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let id = || client.id.as_str().into();
        let request = match topics::inbound(publish.topic) {
            Ok(Inbound::Telemetry { device, module, bag }) => {
                let named = Named { device, module, bag };
                return self.on_telemetry(conn, key, client, publish, named, now, effects);
            }
            Ok(Inbound::TwinGet { rid }) => HubRequest::TwinGet { conn, client: id(), rid: rid.into() },
            Ok(Inbound::TwinReported { rid }) => HubRequest::TwinReported {
                conn,
                client: id(),
                rid: rid.map(Into::into),
                patch: publish.payload.into(),
            },
            Ok(Inbound::MethodResponse { status, rid }) => HubRequest::MethodResponse {
                client: id(),
                rid: rid.into(),
                status: status.into(),
                payload: publish.payload.into(),
            },
            // A topic outside of the dialect is the rules' business; without rules there is no such topic.
            Err(UnknownTopic::NoTemplate) if self.has_rules && !is_reserved(publish.topic) => {
                return self.take_plain_publish(conn, key, publish, now, effects);
            }
            Err(unknown) => {
                return self.refuse_hub(conn, client, publish, HubFault::Topic(unknown), effects);
            }
        };
        self.counters.received += 1;
        self.counters.received_bytes += publish.payload.len() as u64;
        if effects.hub.len() >= super::requests::REQUESTS_PER_TURN_MAX {
            // The client is not read again before the tray was taken; what it asked for in between is refused.
            self.counters.hub_requests_refused += 1;
            let is_v3 = self.connections.get(conn).is_none_or(|connection| connection.version == Version::V3);
            if is_v3 && publish.packet_id.is_some() {
                // 3.1.1 has no word for it, and an acknowledgement would be a lie.
                return Err(Fault::Peer(PeerFault::HubRequests));
            }
            return self.acknowledge_hub(conn, key, publish, ReasonCode::QUOTA_EXCEEDED, effects);
        }
        self.counters.hub_requests += 1;
        effects.hub.push(request);
        self.acknowledge_hub(conn, key, publish, ReasonCode::SUCCESS, effects)
    }

    #[expect(clippy::too_many_arguments, reason = "a packet, who sent it, and what its topic says")]
    fn on_telemetry(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        client: &HubClient,
        publish: &Publish<'_>,
        named: Named<'_>,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let Some(setup) = self.hub.clone() else { return Err(Fault::Bug("hub")) };
        let mut topic = std::mem::take(&mut self.scratch.hub_topic);
        let properties = match read(&setup, client, publish, named, &mut topic) {
            Ok(properties) => properties,
            Err(fault) => {
                self.scratch.hub_topic = topic;
                return self.refuse_hub(conn, client, publish, fault, effects);
            }
        };
        self.counters.received += 1;
        self.counters.received_bytes += publish.payload.len() as u64;
        let session = &self.sessions[key.0 as usize];
        let client_id = Rc::clone(&session.client_id);
        let expires = publish.properties.expiry_secs();
        let publication = Publication {
            envelope: Envelope { topic: &topic, retain: false, ..Envelope::of(publish, &client_id) },
            user: client.id.as_str(),
            expires: expires.map(|secs| now.timestamp.plus_millis(u64::from(secs) * 1_000)),
            now,
            hub: Some(&properties),
            is_written: true,
            input: None,
        };
        let (promise, matched) = self.dispatch(&publication, effects);
        let output = properties.system("outputName").unwrap_or_default();
        self.hub_series.count("received", &[client.id.as_str(), output]);
        let bytes = publish.payload.len() + properties.bytes();
        self.hub_series.observe("size", &[client.id.as_str()], bytes as f64, now.timestamp);
        if !matched {
            self.hub_series.count("no_route", &[client.id.as_str(), output]);
        }
        self.acknowledge_publish(conn, key, publish, (promise, matched), effects);
        self.scratch.hub_topic = topic;
        Ok(())
    }

    /// Telemetry does not go back to whom it names as its sender: the filter by which a module gets its inputs,
    /// `devices/E/modules/M/#`, fits the topic under which it sends.
    #[inline(never)]
    pub(crate) fn leave_out_sender(&self, found: &mut Found, properties: &Properties<'_>) {
        let device = properties.system("connectionDeviceId").unwrap_or_default();
        let module = properties.system("connectionModuleId");
        let is_sender = |id: &str| match id.split_once('/') {
            Some((its_device, its_module)) => its_device == device && module == Some(its_module),
            None => id == device && module.is_none(),
        };
        found.entries.retain(|entry| {
            let session = self.sessions.get(entry.session.0 as usize);
            session.is_none_or(|session| !is_sender(&session.client_id))
        });
    }

    /// What a telemetry message needs that there may be too little of; `None` if it is none, or not a good one.
    pub(in crate::heads) fn needs_of_hub(
        &mut self,
        client: &HubClient,
        publish: &Publish<'_>,
        now: Now,
    ) -> Option<Needs> {
        let setup = self.hub.clone()?;
        let Ok(Inbound::Telemetry { device, module, bag }) = topics::inbound(publish.topic) else {
            return None;
        };
        let mut topic = String::new();
        let properties = read(&setup, client, publish, Named { device, module, bag }, &mut topic).ok()?;
        let envelope = Envelope { topic: &topic, retain: false, ..Envelope::of(publish, client.id.as_str()) };
        let user = client.id.as_str();
        Some(self.needs_of(&Publication {
            envelope,
            user,
            expires: None,
            now,
            hub: Some(&properties),
            is_written: true,
            input: None,
        }))
    }

    /// A message is not acknowledged now, because there is no room for it, or the disk fails.
    pub(in crate::heads) fn note_unacknowledged(&mut self, conn: ConnId, publish: &Publish<'_>) {
        let Some(client) = self.hub_client(conn) else { return };
        if let Ok(Inbound::Telemetry { bag, .. }) = topics::inbound(publish.topic) {
            let properties = Properties::read(bag, Sender::default(), hub_properties_max(self));
            let properties = properties.unwrap_or_default();
            let output = properties.system("outputName").unwrap_or_default();
            self.hub_series.count("unacknowledged", &[client.id.as_str(), output]);
        }
    }

    /// The will of a client of the dialect (§2.2): an ordinary message with `MessageType` = `Will`. Only such a client could
    /// leave one there; what is none all the same is counted and dropped. `None`: its topic is a plain one.
    pub(in crate::heads) fn publish_hub_will(
        &mut self,
        will: &Publication<'_>,
        effects: &mut Effects,
    ) -> Option<Promise> {
        let setup = self.hub.clone()?;
        if !is_reserved(will.envelope.topic) {
            return None;
        }
        let named = topics::inbound(will.envelope.topic);
        let (Some(client), Ok(Inbound::Telemetry { device, module, bag })) =
            (will_owner(&setup, will), named)
        else {
            self.counters.hub_unknown_topics += 1;
            return Some(Promise::default());
        };
        let mut topic = String::new();
        let parts =
            Parts { dup: false, retain: will.envelope.retain, payload: will.envelope.payload, is_will: true };
        match read_parts(&setup, &client, parts, Named { device, module, bag }, &mut topic) {
            Ok(properties) => {
                let envelope = Envelope { topic: &topic, retain: false, ..will.envelope };
                let publication = Publication { envelope, hub: Some(&properties), ..*will };
                Some(self.dispatch(&publication, effects).0)
            }
            Err(fault) => {
                self.count_hub_fault(fault);
                Some(Promise::default())
            }
        }
    }

    fn count_hub_fault(&mut self, fault: HubFault) {
        let counter = match fault {
            HubFault::Topic(UnknownTopic::NoTemplate) => &mut self.counters.hub_unknown_topics,
            HubFault::Topic(_) => &mut self.counters.hub_bad_twin_topics,
            HubFault::Sender => &mut self.counters.hub_sender_mismatches,
            HubFault::Bag(_) => &mut self.counters.hub_bad_bags,
            HubFault::TooLarge => &mut self.counters.hub_too_large,
        };
        *counter += 1;
    }

    /// Drops a publication that means nothing here: counted, noted, and told in MQTT 5; in 3.1.1 it is acknowledged or
    /// ends the connection, as `auth.denied_v3` wants it. A twin topic that is none ends it in 3.1.1 always, as in edgeHub.
    fn refuse_hub(
        &mut self,
        conn: ConnId,
        client: &HubClient,
        publish: &Publish<'_>,
        fault: HubFault,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        self.counters.received += 1;
        self.counters.received_bytes += publish.payload.len() as u64;
        self.count_hub_fault(fault);
        self.note_hub_denial(&client.id, "publish", publish.topic, fault.to_string(), effects);
        let is_v3 = self.connections.get(conn).is_none_or(|connection| connection.version == Version::V3);
        let closes = matches!(fault, HubFault::Topic(unknown) if unknown.closes());
        if is_v3 && (closes || self.setup.access.denied_v3 == DeniedV3::Disconnect) {
            return Err(Fault::Peer(PeerFault::HubTopic));
        }
        let reason = match fault {
            HubFault::Topic(_) | HubFault::Bag(_) => ReasonCode::TOPIC_NAME_INVALID,
            HubFault::Sender => ReasonCode::NOT_AUTHORIZED,
            HubFault::TooLarge => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
        };
        let kind = if publish.qos == Qos::ExactlyOnce { AckKind::PubRec } else { AckKind::PubAck };
        if let Some(packet_id) = publish.packet_id {
            self.owe(conn, OwedAck { kind, packet_id, reason }, Promise::default(), effects);
        }
        Ok(())
    }

    /// Acknowledges a request: it is on the tray, or it is not.
    fn acknowledge_hub(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        publish: &Publish<'_>,
        reason: ReasonCode,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let Some(packet_id) = publish.packet_id else { return Ok(()) };
        let (kind, promise) = match publish.qos {
            Qos::ExactlyOnce if !reason.is_error() => {
                (AckKind::PubRec, self.begin_exchange(key, packet_id, Promise::default(), effects))
            }
            Qos::ExactlyOnce => (AckKind::PubRec, Promise::default()),
            _ => (AckKind::PubAck, Promise::default()),
        };
        self.owe(conn, OwedAck { kind, packet_id, reason }, promise, effects);
        Ok(())
    }
}

fn hub_properties_max(broker: &Broker) -> usize {
    broker.hub.as_ref().map_or(0, |setup| setup.properties_max)
}

/// Whose will it is: its session belongs to it. The connection may be long gone.
fn will_owner(setup: &HubSetup, will: &Publication<'_>) -> Option<HubClient> {
    let id = HubId::parse(will.envelope.client_id).ok().filter(|id| id.as_str() == will.user)?;
    let is_own_module = id.module_id().is_some() && id.device_id() == &*setup.edge_device;
    Some(HubClient { id, model_id: None, is_own_module })
}

/// What of a packet becomes part of a message besides its topic.
#[derive(Clone, Copy)]
struct Parts<'t> {
    dup: bool,
    retain: bool,
    payload: &'t [u8],
    is_will: bool,
}

fn read<'t>(
    setup: &'t HubSetup,
    client: &'t HubClient,
    publish: &Publish<'t>,
    named: Named<'t>,
    topic: &mut String,
) -> Result<Properties<'t>, HubFault> {
    let parts = Parts { dup: publish.dup, retain: publish.retain, payload: publish.payload, is_will: false };
    read_parts(setup, client, parts, named, topic)
}

/// Reads a message, and writes the topic under which it is kept: it names the sender, and its bag has everything.
fn read_parts<'t>(
    setup: &'t HubSetup,
    client: &'t HubClient,
    parts: Parts<'t>,
    Named { device, module, bag }: Named<'t>,
    topic: &mut String,
) -> Result<Properties<'t>, HubFault> {
    let is_own = client.id.is(device, module);
    if !is_own && !setup.allow_sender_mismatch {
        return Err(HubFault::Sender);
    }
    let sender = Sender {
        device,
        module,
        edge_device: &setup.edge_device,
        model_id: client.model_id.as_deref().filter(|_| is_own),
    };
    let mut properties = Properties::read(bag, sender, setup.properties_max).map_err(HubFault::Bag)?;
    let id = HubId::new(device, module).map_err(|_| HubFault::Sender)?;
    topics::events(&id, bag, topic);
    let mut is_first = bag.is_empty();
    for (is_set, name, value) in
        [(parts.retain, RETAIN, "true"), (parts.dup, DUP, "true"), (parts.is_will, "MessageType", "Will")]
    {
        if !is_set {
            continue;
        }
        properties.set(name, value);
        for part in [if is_first { "" } else { "&" }, name, "=", value] {
            topic.push_str(part);
        }
        is_first = false;
    }
    let bytes = parts.payload.len() + properties.bytes();
    if bytes > MESSAGE_BYTES_MAX || model::validate_name(topic).is_err() {
        return Err(HubFault::TooLarge);
    }
    Ok(properties)
}
