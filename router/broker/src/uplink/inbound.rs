//! What comes from an upstream: which of it, under which topic it is published here, and when the upstream is told.
//!
//! Knows: the map of an operator, and a session of our own broker, whose client this is: so a message from upstream is a
//! publication like any other, with rights and routes. In: publications from upstream, bytes of that session. Out: bytes
//! for both sides. Always: PUBACK goes upstream only after our own broker's; what is not published is acknowledged and
//! counted, but for what there is no room for now: that stays unacknowledged, and the upstream sends it again.
//! Never: a message that this gateway has sent itself (its id says so). Bound: `open_max` unacknowledged publications, and in
//! 3.1.1, which cannot be told, those of one read.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{Qos, filter_matches, validate_name};
use wire::{AckKind, Connect, OutgoingPublish, Packet, ReasonCode, Subscription, Version};

use super::dialect::{Form, Origin};
use super::mapping::Packing;
use super::template::{Fields, Template};
use crate::envelope::Envelope;

const RING: u32 = 65_535;

/// One line of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundEntry {
    /// What is subscribed to there.
    pub filter: String,
    /// What becomes of its topics here.
    pub template: Template,
    /// Highest QoS, 0 or 1.
    pub qos: Qos,
    /// Whether RETAIN is passed on.
    pub retain: bool,
}

/// What is taken from an upstream.
#[derive(Clone, Debug)]
pub struct InboundRules {
    /// The map, in order.
    pub entries: Vec<InboundEntry>,
    /// Our client identifier and user at our own broker.
    pub identity: String,
    /// The name of this gateway.
    pub gateway: String,
    /// What the ids of our own messages begin with.
    pub origin: Origin,
    /// The property that ids are in.
    pub id_property: Option<String>,
    /// How properties come in 3.1.1.
    pub packing: Option<Arc<dyn Packing>>,
    /// Publications that may wait for our own broker.
    pub open_max: u16,
    /// Largest packet.
    pub packet_bytes_max: u32,
}

/// What came of the publications from upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InboundCounts {
    /// Published here.
    pub published: u64,
    /// Sent by this gateway itself, and dropped.
    pub loops: u64,
    /// No entry matches, or what the entry makes of it is no topic; dropped.
    pub unmapped: u64,
    /// Refused by our own broker, for want of rights mostly; dropped.
    pub refused: u64,
    /// Not taken by our own broker for want of room; not acknowledged.
    pub unroomed: u64,
}

impl InboundCounts {
    /// Both together.
    pub(super) fn plus(self, other: InboundCounts) -> InboundCounts {
        InboundCounts {
            published: self.published + other.published,
            loops: self.loops + other.loops,
            unmapped: self.unmapped + other.unmapped,
            refused: self.refused + other.refused,
            unroomed: self.unroomed + other.unroomed,
        }
    }
}

/// Why our own session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// Our own broker does not take the session.
    #[error(
        "this router does not take the uplink as its client: {0}; is its identity's client identifier in use, or auth.client_id against it?"
    )]
    Refused(ReasonCode),
    /// It has ended it.
    #[error(
        "this router has ended the session that publishes what comes from upstream ({0}); messages are sent again"
    )]
    Ended(ReasonCode),
    /// It cannot be understood.
    #[error("this router's own bytes are no packets; please report")]
    Malformed,
}

/// The way in of one link.
#[derive(Debug)]
pub(super) struct Inbound {
    rules: Arc<InboundRules>,
    /// Upstream's identifiers of what waits for our broker; `None` once that has answered.
    open: VecDeque<Option<NonZeroU16>>,
    /// Ring position of the first one in our session.
    first: u32,
    counts: InboundCounts,
    form: Form,
}

impl Inbound {
    /// For a new link; the CONNECT of the session at our own broker is appended to `local`.
    pub(super) fn new(rules: Arc<InboundRules>, local: &mut Vec<u8>) -> Inbound {
        let mut connect = Connect::new(Version::V5, rules.identity.clone());
        connect.packet_bytes_max = rules.packet_bytes_max.try_into().ok();
        // A name this short can always be encoded.
        wire::encode_connect(local, &connect).ok();
        Inbound {
            rules,
            open: VecDeque::new(),
            first: 0,
            counts: InboundCounts::default(),
            form: Form::default(),
        }
    }

    /// What to subscribe to at the upstream.
    pub(super) fn subscriptions(&self) -> Vec<Subscription> {
        let subscription = |entry: &InboundEntry| Subscription {
            // Our own messages do not come back. 3.1.1 has no such wish: there, ids tell, or topics that do not meet.
            no_local: !entry.filter.starts_with("$share/"),
            retain_as_published: true,
            ..Subscription::new(entry.filter.clone(), entry.qos)
        };
        self.rules.entries.iter().map(subscription).collect()
    }

    pub(super) fn filter(&self, index: usize) -> &str {
        self.rules.entries.get(index).map_or("", |entry| &entry.filter)
    }

    pub(super) fn counts(&self) -> InboundCounts {
        self.counts
    }

    /// Whether so much waits for our own broker that nothing more should be read: more than an upstream of 5.0 was told it
    /// may send. That one sends no more than it may, and what it acknowledges, or answers to a ping, must be read.
    pub(super) fn is_full(&self) -> bool {
        self.open.len() > usize::from(self.rules.open_max)
    }

    /// Takes a publication from upstream: to our session through `local`, or an answer at once through `out`.
    pub(super) fn take(
        &mut self,
        publish: &wire::Publish<'_>,
        version: Version,
        local: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) {
        let packet_id = publish.packet_id.filter(|_| publish.qos > Qos::AtMostOnce);
        let Some(kept) = self.publish(publish, local) else {
            if let Some(packet_id) = packet_id {
                wire::encode_ack(out, version, AckKind::PubAck, packet_id, ReasonCode::SUCCESS);
            }
            return;
        };
        if kept {
            self.open.push_back(packet_id);
            return;
        }
        self.counts.published += 1;
        // At QoS 1 there and QoS 0 here: nobody will answer, and the upstream would send it again and again.
        if let Some(packet_id) = packet_id {
            wire::encode_ack(out, version, AckKind::PubAck, packet_id, ReasonCode::SUCCESS);
        }
    }

    /// Appends the publication for our own broker. Whether its answer is waited for; `None` if it is not published.
    fn publish(&mut self, publish: &wire::Publish<'_>, local: &mut Vec<u8>) -> Option<bool> {
        let rules = &*self.rules;
        let form = &mut self.form;
        form.clear();
        let unpacked = rules.packing.as_ref().is_some_and(|packing| packing.unpack(publish, form));
        let mut came = std::mem::take(&mut form.topic);
        if !unpacked {
            publish.topic.clone_into(&mut came);
            form.properties.begin(publish.properties.block());
            form.payload = None;
        }
        let block = wire::PublishProperties::from_block(form.properties.as_bytes()).unwrap_or_default();
        let is_loop = rules.id_property.as_deref().is_some_and(|name| {
            block.user_properties().any(|(have, id)| have == name && rules.origin.is_mine(id))
        });
        if is_loop {
            self.counts.loops += 1;
            return None;
        }
        let envelope = Envelope {
            user: "",
            topic: &came,
            client_id: "",
            qos: publish.qos,
            retain: publish.retain,
            properties: form.properties.as_bytes(),
            payload: form.payload.as_deref().unwrap_or(publish.payload),
        };
        let entry = rules.entries.iter().find(|entry| filter_matches(unshared(&entry.filter), &came));
        let fields = Fields { envelope: &envelope, gateway: &rules.gateway };
        let mut topic = String::new();
        let rendered =
            entry.and_then(|entry| entry.template.render(&fields, &mut topic).ok().map(|()| entry));
        let Some(entry) = rendered.filter(|_| validate_name(&topic).is_ok()) else {
            self.counts.unmapped += 1;
            return None;
        };
        let qos = publish.qos.min(entry.qos);
        let place = (self.first + self.open.len() as u32) % RING;
        let outgoing = OutgoingPublish {
            topic: &topic,
            qos,
            retain: publish.retain && entry.retain,
            packet_id: NonZeroU16::new(place as u16 + 1),
            payload: envelope.payload,
            properties: envelope.properties,
            expiry_secs: publish.properties.expiry_secs(),
            ..OutgoingPublish::default()
        };
        let start = local.len();
        let encoded = wire::encode_publish(local, Version::V5, &outgoing);
        let fits = local.len() - start <= self.rules.packet_bytes_max as usize;
        if encoded.is_err() || !fits {
            local.truncate(start);
            self.counts.unmapped += 1;
            return None;
        }
        Some(qos > Qos::AtMostOnce)
    }

    /// Takes every whole packet of our own broker; returns how many bytes that were. Answers go to `out`, upstream.
    pub(super) fn read_local(
        &mut self,
        bytes: &[u8],
        version: Version,
        out: &mut Vec<u8>,
    ) -> Result<usize, LocalError> {
        let mut taken = 0;
        loop {
            let frame = wire::split(&bytes[taken..], self.rules.packet_bytes_max);
            let Some(frame) = frame.map_err(|_| LocalError::Malformed)? else { return Ok(taken) };
            taken += frame.total_len();
            match wire::decode(frame, Version::V5).map_err(|_| LocalError::Malformed)? {
                Packet::ConnAck(ack) if ack.reason.is_error() => return Err(LocalError::Refused(ack.reason)),
                Packet::PubAck(ack) => self.on_puback(ack.packet_id, ack.reason, version, out),
                Packet::Disconnect(disconnect) => return Err(LocalError::Ended(disconnect.reason)),
                _ => {}
            }
        }
    }

    fn on_puback(&mut self, packet_id: NonZeroU16, reason: ReasonCode, version: Version, out: &mut Vec<u8>) {
        let index = (u32::from(packet_id.get() - 1) + RING - self.first) % RING;
        let upstream = self.open.get_mut(index as usize).and_then(Option::take);
        while self.open.front() == Some(&None) {
            self.open.pop_front();
            self.first = (self.first + 1) % RING;
        }
        let Some(upstream) = upstream else { return };
        if reason == ReasonCode::QUOTA_EXCEEDED {
            self.counts.unroomed += 1;
            return;
        }
        if reason.is_error() {
            self.counts.refused += 1;
        } else {
            self.counts.published += 1;
        }
        wire::encode_ack(out, version, AckKind::PubAck, upstream, ReasonCode::SUCCESS);
    }
}

/// The filter of a shared subscription itself; of any other, all of it.
pub fn unshared(filter: &str) -> &str {
    let rest = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    rest.map_or(filter, |(_, filter)| filter)
}

#[cfg(test)]
mod tests;
