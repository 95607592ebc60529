//! What comes from an upstream: which of it, under which topic it is published here, and when the upstream is told.
//!
//! Knows: the map of an operator, and a session of our own broker, whose client this is: so a message from upstream is a
//! publication like any other, with rights and routes. In: publications from upstream, bytes of that session. Out: bytes
//! for both sides. Always: PUBACK and PUBREC go upstream only after our own broker's, in the order of their publications; what
//! is not published is acknowledged and counted, but for what there is no room for now: that stays unacknowledged, and the
//! upstream sends it again. An exchange of QoS 2 is passed through to our own session, under the upstream's identifier: that
//! session remembers what has come over all connections, as long as the upstream remembers it, too.
//! Never: a message that this gateway has sent itself (its id says so). Bound: `open_max` unacknowledged publications and as
//! many exchanges; in 3.1.1, which cannot be told, of the former those of one read.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{Qos, filter_matches, validate_name};
use wire::{AckKind, Connect, OutgoingPublish, Packet, ReasonCode, Subscription, Version};

use super::dialect::{Form, Origin};
use super::mapping::Packing;
use super::template::{Fields, Template};
use crate::envelope::Envelope;

/// How long our own session outlives its connection, if it has exchanges of QoS 2: as long as that at the upstream.
pub(super) const SESSION_SECS: u32 = 24 * 3600;
/// What a 3.1.1 upstream is told that has more exchanges open than we take; one of 5.0 is told how many it may have.
const TOO_MANY: &str = "more messages of QoS 2 at once than limits.receive_max; raise that, or lower it there (max_inflight_messages)";

/// One line of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundEntry {
    /// What is subscribed to there.
    pub filter: String,
    /// What becomes of its topics here.
    pub template: Template,
    /// Highest QoS.
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

/// A publication from upstream that is to be answered.
#[derive(Clone, Copy, Debug)]
struct Owed {
    packet_id: NonZeroU16,
    kind: AckKind,
    state: Owing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owing {
    /// Our own broker has not answered yet.
    Waits,
    /// It may be answered, when its turn comes.
    Answered,
    /// It is not answered: it shall come again.
    Left,
}

/// The way in of one link.
#[derive(Debug)]
pub(super) struct Inbound {
    rules: Arc<InboundRules>,
    /// In the order in which they came.
    open: VecDeque<Owed>,
    /// Exchanges of QoS 2 that are not over, of those that began on this link.
    exchanges: BTreeSet<NonZeroU16>,
    counts: InboundCounts,
    form: Form,
    /// Our own session: asked for, to go on or to begin anew; and there.
    is_asked: Option<bool>,
    is_there: bool,
}

impl Inbound {
    /// For a new link.
    pub(super) fn new(rules: Arc<InboundRules>) -> Inbound {
        Inbound {
            rules,
            open: VecDeque::new(),
            exchanges: BTreeSet::new(),
            counts: InboundCounts::default(),
            form: Form::default(),
            is_asked: None,
            is_there: false,
        }
    }

    /// The upstream has let us in: appends the CONNECT of the session at our own broker to `local`. `continues`: the upstream
    /// knows us, and our own session is of the time with this upstream, so that identifiers mean to both what they did.
    pub(super) fn begin(&mut self, continues: bool, local: &mut Vec<u8>) {
        let mut connect = Connect::new(Version::V5, self.rules.identity.clone());
        connect.packet_bytes_max = self.rules.packet_bytes_max.try_into().ok();
        if self.rules.entries.iter().any(|entry| entry.qos == Qos::ExactlyOnce) {
            connect.clean_start = !continues;
            connect.session_expiry_secs = SESSION_SECS;
        }
        // A name this short can always be encoded.
        wire::encode_connect(local, &connect).ok();
        self.is_asked = Some(!connect.clean_start);
    }

    /// Whether our own session was asked for; `Some(true)`: to go on.
    pub(super) fn is_asked(&self) -> Option<bool> {
        self.is_asked
    }

    /// Whether it is there.
    pub(super) fn is_there(&self) -> bool {
        self.is_there
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
    ) -> Result<(), &'static str> {
        let kind = match publish.qos {
            Qos::AtMostOnce => None,
            Qos::AtLeastOnce => Some(AckKind::PubAck),
            Qos::ExactlyOnce => Some(AckKind::PubRec),
        };
        let owed = publish.packet_id.zip(kind);
        if let Some((packet_id, AckKind::PubRec)) = owed {
            let is_it = |it: &Owed| (it.packet_id, it.state) == (packet_id, Owing::Waits);
            if !self.exchanges.insert(packet_id) && self.open.iter().any(is_it) {
                return Ok(()); // a repeat on the same connection: both are answered by the answer to the first
            }
            if self.exchanges.len() > usize::from(self.rules.open_max) {
                return Err(TOO_MANY);
            }
        }
        let state = match self.publish(publish, local) {
            Some(true) => Owing::Waits,
            // At QoS 1 there and QoS 0 here nobody will answer, and the upstream would send it again and again.
            Some(false) => {
                self.counts.published += 1;
                Owing::Answered
            }
            None => Owing::Answered,
        };
        if let Some((packet_id, kind)) = owed {
            self.open.push_back(Owed { packet_id, kind, state });
            self.answer(version, out);
        }
        Ok(())
    }

    /// The upstream knows that a message of QoS 2 has come: so may our own session, whose answer is passed on.
    pub(super) fn release(&self, packet_id: NonZeroU16, local: &mut Vec<u8>) {
        wire::encode_ack(local, Version::V5, AckKind::PubRel, packet_id, ReasonCode::SUCCESS);
    }

    /// Answers what may be answered, in order [MQTT-4.6.0-2].
    fn answer(&mut self, version: Version, out: &mut Vec<u8>) {
        while let Some(owed) = self.open.front().copied().filter(|owed| owed.state != Owing::Waits) {
            self.open.pop_front();
            if owed.state == Owing::Answered {
                wire::encode_ack(out, version, owed.kind, owed.packet_id, ReasonCode::SUCCESS);
            }
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
        let outgoing = OutgoingPublish {
            topic: &topic,
            qos,
            retain: publish.retain && entry.retain,
            packet_id: publish.packet_id,
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
                Packet::ConnAck(_) => self.is_there = true,
                Packet::PubAck(ack) | Packet::PubRec(ack) => {
                    self.on_answer(ack.packet_id, ack.reason, version, out);
                }
                Packet::PubComp(ack) => {
                    self.exchanges.remove(&ack.packet_id);
                    wire::encode_ack(out, version, AckKind::PubComp, ack.packet_id, ReasonCode::SUCCESS);
                }
                Packet::Disconnect(disconnect) => return Err(LocalError::Ended(disconnect.reason)),
                _ => {}
            }
        }
    }

    fn on_answer(&mut self, packet_id: NonZeroU16, reason: ReasonCode, version: Version, out: &mut Vec<u8>) {
        // Mostly the first one.
        let waits = |owed: &&mut Owed| (owed.packet_id, owed.state) == (packet_id, Owing::Waits);
        let Some(owed) = self.open.iter_mut().find(waits) else { return };
        owed.state = if reason == ReasonCode::QUOTA_EXCEEDED { Owing::Left } else { Owing::Answered };
        let count = match (owed.state, reason.is_error()) {
            (Owing::Left, _) => &mut self.counts.unroomed,
            (_, true) => &mut self.counts.refused,
            (_, false) => &mut self.counts.published,
        };
        *count += 1;
        self.answer(version, out);
    }
}

/// The filter of a shared subscription itself; of any other, all of it.
pub fn unshared(filter: &str) -> &str {
    let rest = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    rest.map_or(filter, |(_, filter)| filter)
}

#[cfg(test)]
mod tests;
