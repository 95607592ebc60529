//! What a client may send us, and what we then owe it (MQTT 5.0 §3.3–§3.14, §4.3).
//!
//! In: the bytes of one connection. Out: publications for `dispatch`, answers, or the fault that ends the connection.
//! Always: packets are taken in order; a publication is acknowledged exactly when its promise is kept.

use std::num::NonZeroU16;

use model::{ConnId, Now, Qos, Ticket, TopicFilter};
use wire::{AckKind, Packet, Publish, ReasonCode, SubAck, Subscribe, UnsubAck, Unsubscribe, Version};

use super::{Fault, PeerFault, topic_fits, words};
use crate::acks::{Acks, Answer, OwedAck, Promise};
use crate::broker::{Broker, acknowledge};
use crate::connections::Phase;
use crate::dispatch::Publication;
use crate::effects::Effects;
use crate::envelope::Envelope;
use crate::heads::iothub::is_reserved;
use crate::retained::is_system;
use crate::sessions::SubscriptionOptions;
use crate::subscriptions::SessionKey;

impl Broker {
    /// Takes every whole packet in `bytes` and returns how many bytes that was.
    ///
    /// What remains is the start of a packet, or must wait: for credit ([`Broker::may_read`]), or because the connection
    /// is closing or moves to another shard. The caller keeps it and offers it again with what follows.
    pub fn read(&mut self, conn: ConnId, bytes: &[u8], now: Now, effects: &mut Effects) -> usize {
        let mut taken = 0;
        while self.may_read(conn) {
            match self.read_some(conn, &bytes[taken..], now, effects) {
                Ok(0) => break,
                Ok(len) => taken += len,
                Err(fault) => {
                    self.end_by_fault(conn, fault, now, effects);
                    return bytes.len();
                }
            }
        }
        self.counters.bytes_in += taken as u64;
        // The keep alive counts packets: bytes that never become one do not keep a connection [MQTT-3.1.2-22].
        if taken > 0
            && let Some(connection) = self.connections.find(conn)
        {
            connection.heard = now.instant;
        }
        taken
    }

    /// Takes a run of publications, or else one packet; 0 if there is none in whole, or none that may be taken here.
    #[inline]
    fn read_some(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        now: Now,
        effects: &mut Effects,
    ) -> Result<usize, Fault> {
        if wire::Run::may_start(bytes)
            && let Some(len) = self.read_run(conn, bytes, now, effects)?
        {
            return Ok(len);
        }
        self.read_one(conn, bytes, now, effects)
    }

    /// Takes one packet; 0 if there is none in whole, or none that may be taken here.
    fn read_one(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        now: Now,
        effects: &mut Effects,
    ) -> Result<usize, Fault> {
        let Some(connection) = self.connections.get(conn) else { return Ok(0) };
        let Some(frame) = wire::split(bytes, connection.inbound_bytes_max)? else { return Ok(0) };
        let len = frame.total_len();
        let phase = connection.phase;
        if self.is_careful
            && let Phase::Open(key) = phase
            && (self.is_tight || self.setup.rooms.is_near())
        {
            return self.read_gated(conn, key, frame, now, effects);
        }
        let packet = wire::decode(frame, connection.version)?;
        match phase {
            Phase::Open(key) => self.on_packet(conn, key, packet, now, effects)?,
            Phase::Greeting => match packet {
                Packet::Connect(connect) => {
                    if !self.on_connect(conn, *connect, now, effects) {
                        return Ok(0);
                    }
                }
                _ => return Err(Fault::Peer(PeerFault::NotConnected)),
            },
            Phase::Authenticating | Phase::Joining(_) | Phase::Closing => return Ok(0),
        }
        Ok(len)
    }

    /// The same as [`Broker::on_packet`], where it need not be fast.
    #[cold]
    pub(super) fn on_packet_apart(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        packet: Packet<'_>,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        self.on_packet(conn, key, packet, now, effects)
    }

    #[inline(always)]
    fn on_packet(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        packet: Packet<'_>,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        match packet {
            Packet::Publish(publish) => self.on_publish(conn, key, &publish, now, effects),
            Packet::PubAck(ack) => {
                self.on_puback(key, ack.packet_id, now, effects);
                Ok(())
            }
            Packet::PingReq => {
                if let Some(connection) = self.connections.find(conn) {
                    wire::encode_pingresp(connection.write(&mut effects.dirty)); // [MQTT-3.12.4-1]
                }
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.on_subscribe(conn, key, &subscribe, now, effects),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(conn, key, &unsubscribe, now, effects),
            Packet::Disconnect(disconnect) => self.on_disconnect(conn, key, &disconnect, now, effects),
            Packet::Connect(_) => Err(Fault::Peer(PeerFault::ConnectedTwice)),
            Packet::PubRec(ack) => {
                self.on_pubrec(conn, key, ack.packet_id, ack.reason, now, effects);
                Ok(())
            }
            Packet::PubRel(ack) => {
                self.on_pubrel(conn, key, ack.packet_id, effects);
                Ok(())
            }
            Packet::PubComp(ack) => {
                self.on_pubcomp(key, ack.packet_id, now, effects);
                Ok(())
            }
            Packet::Auth(_) => Err(Fault::Peer(PeerFault::UnexpectedAuth)),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(Fault::Peer(PeerFault::NotForServers))
            }
        }
    }

    #[inline]
    fn on_publish(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        publish: &Publish<'_>,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        self.check_publish(publish)?;
        if let Some(alias) = publish.properties.topic_alias() {
            return self.on_aliased(conn, key, publish, alias, now, effects);
        }
        self.take_publish(conn, key, publish, now, effects)
    }

    /// A PUBLISH with a topic alias: introduces it, or stands for what it was introduced with.
    #[inline(never)]
    fn on_aliased(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        publish: &Publish<'_>,
        alias: NonZeroU16,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        if alias.get() > self.setup.limits.topic_alias_max {
            return Err(Fault::Peer(PeerFault::TopicAliasTooHigh)); // [MQTT-3.3.2-9]
        }
        let Some(connection) = self.connections.find(conn) else { return Ok(()) };
        let aliases = connection.aliases_in.get_or_insert_default();
        if !publish.topic.is_empty() {
            aliases.set(alias, publish.topic);
            return self.take_publish(conn, key, publish, now, effects);
        }
        let Some(known) = aliases.topic(alias) else {
            return Err(Fault::Peer(PeerFault::TopicAliasUnknown));
        };
        let mut topic = std::mem::take(&mut self.scratch.aliased);
        topic.clear();
        topic.push_str(known);
        let taken = self.take_publish(conn, key, &Publish { topic: &topic, ..*publish }, now, effects);
        self.scratch.aliased = topic;
        taken
    }

    #[inline]
    fn take_publish(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        publish: &Publish<'_>,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let exactly_once = publish.qos == Qos::ExactlyOnce;
        // First of all: what was accepted once stays accepted.
        if exactly_once && self.is_repeat(conn, key, publish, effects)? {
            return Ok(());
        }
        if self.has_hub
            && let Some(client) = self.hub_client(conn)
        {
            return self.on_hub_publish(conn, key, &client, publish, now, effects);
        }
        self.take_plain_publish(conn, key, publish, now, effects)
    }

    /// A publication in the free topic space.
    #[inline]
    pub(in crate::heads) fn take_plain_publish(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        publish: &Publish<'_>,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let exactly_once = publish.qos == Qos::ExactlyOnce;
        if self.has_rules && !self.may_publish(conn, publish.topic) {
            let ack = self.deny_publish(conn, key, publish, effects)?;
            self.owe_denial(conn, ack, effects);
            return Ok(());
        }
        if self.setup.offers.check_payload_format && !payload_is_as_told(publish) {
            return self.refuse_payload(conn, publish, effects);
        }
        self.counters.received += 1;
        self.counters.received_bytes += publish.payload.len() as u64;
        if let Some(reason) = self.refusal_of(conn, publish) {
            if let Some(packet_id) = publish.packet_id {
                let kind = if exactly_once { AckKind::PubRec } else { AckKind::PubAck };
                let ack = OwedAck { kind, packet_id, reason };
                self.owe(conn, ack, Promise::default(), effects);
            }
            return Ok(());
        }
        let session = &self.sessions[key.0 as usize];
        let (client_id, user) = (std::rc::Rc::clone(&session.client_id), session.owner.clone());
        let publication = Publication {
            envelope: Envelope::of(publish, &client_id),
            user: user.as_deref().unwrap_or_default(),
            expires: publish
                .properties
                .expiry_secs()
                .map(|secs| now.timestamp.plus_millis(u64::from(secs) * 1_000)),
            now,
            hub: None,
            is_written: true,
            input: None,
        };
        let dispatched = self.dispatch(&publication, effects);
        self.acknowledge_publish(conn, key, publish, dispatched, effects);
        Ok(())
    }

    /// Owes the acknowledgement of a publication that was dispatched: with what promise, and whether anybody took it.
    #[inline]
    pub(in crate::heads) fn acknowledge_publish(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        publish: &Publish<'_>,
        (promise, matched): (Promise, bool),
        effects: &mut Effects,
    ) {
        if let Some(packet_id) = publish.packet_id {
            // Accepted all the same; 3.1.1 has no word for it (MQTT 5.0 §3.4.2.1, §3.5.2.1).
            let reason = if matched { ReasonCode::SUCCESS } else { ReasonCode::NO_MATCHING_SUBSCRIBERS };
            let (kind, promise) = match publish.qos == Qos::ExactlyOnce {
                false => (AckKind::PubAck, promise),
                true => (AckKind::PubRec, self.begin_exchange(key, packet_id, promise, effects)),
            };
            self.owe(conn, OwedAck { kind, packet_id, reason }, promise, effects);
        }
    }

    /// The payload is not the UTF-8 that its publisher calls it. With an acknowledgement it says so, otherwise by
    /// closing: a publisher that must close would come back and send it again.
    fn refuse_payload(
        &mut self,
        conn: ConnId,
        publish: &Publish<'_>,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        self.counters.dropped_payload_format += 1;
        let Some(packet_id) = publish.packet_id else { return Err(Fault::Peer(PeerFault::PayloadFormat)) };
        let kind = if publish.qos == Qos::ExactlyOnce { AckKind::PubRec } else { AckKind::PubAck };
        let ack = OwedAck { kind, packet_id, reason: ReasonCode::PAYLOAD_FORMAT_INVALID };
        self.owe(conn, ack, Promise::default(), effects);
        Ok(())
    }

    /// Why a legal publication is not taken; it is acknowledged with that, which 3.1.1 cannot say.
    #[inline]
    fn refusal_of(&mut self, conn: ConnId, publish: &Publish<'_>) -> Option<ReasonCode> {
        // What belongs to the IoT Hub dialect says who sent it: nobody else publishes there.
        if is_system(publish.topic) || self.has_hub && is_reserved(publish.topic) {
            self.counters.dropped_system_topic += 1;
            return Some(ReasonCode::NOT_AUTHORIZED);
        }
        let refuses = publish.retain && self.refuses_to_retain(self.version(conn), publish);
        refuses.then_some(ReasonCode::QUOTA_EXCEEDED)
    }

    pub(crate) fn check_publish(&self, publish: &Publish<'_>) -> Result<(), Fault> {
        if publish.properties.has_subscription_ids() {
            return Err(Fault::Peer(PeerFault::SubscriptionId));
        }
        if !topic_fits(publish.topic, &self.setup.limits) {
            return Err(Fault::Peer(PeerFault::TopicTooLong));
        }
        Ok(())
    }

    /// Acknowledges something, now if its promise is kept and nothing waits before it.
    ///
    /// A client never gets beyond our Receive Maximum: with that much owed it is not read ([`Broker::may_read`]).
    #[inline]
    pub(crate) fn owe(&mut self, conn: ConnId, ack: OwedAck, promise: Promise, effects: &mut Effects) {
        let Some(connection) = self.connections.find(conn) else { return };
        if connection.acks_owed == 0
            && let Some(kept) = self.acks.check(&promise)
        {
            self.counters.acknowledged += u64::from(ack.is_of_publication());
            acknowledge(connection, ack, kept, effects);
            return;
        }
        if connection.acks_owed == 0 {
            connection.ack_queue = Acks::queue(&promise);
        }
        connection.acks_owed += 1;
        self.acks.wait(connection.ack_queue, conn, promise, Answer::Ack(ack));
    }

    fn on_subscribe(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        subscribe: &Subscribe,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let id = subscribe.subscription_id.map_or(0, std::num::NonZeroU32::get);
        let (mut needs, mut ticket) = (0, Ticket(0));
        let mut reasons = Vec::with_capacity(subscribe.subscriptions.len());
        let mut refused = None;
        for wanted in &subscribe.subscriptions {
            let existed = self.sessions[key.0 as usize].subscriptions.contains_key(wanted.filter.as_str());
            let reason = self.grant(conn, key, wanted, id, effects);
            if reason.is_error() {
                self.counters.subscriptions_refused += 1;
                refused = refused.or(Some((&wanted.filter, reason)));
            } else {
                needs += self.announce(&wanted.filter, Some(conn), effects);
                needs += self.send_retained(conn, key, wanted, existed, effects);
                ticket = ticket.max(self.save_subscription(key, &wanted.filter, effects));
            }
            reasons.push(reason);
        }
        let own = self.sessions[key.0 as usize].subscriptions.len();
        let version = self.version(conn);
        let bare = SubAck::new(subscribe.packet_id, reasons);
        let reason_string =
            refused.map(|(filter, reason)| words::of_filter(filter, reason, own, &self.setup.limits));
        let full = SubAck { reason_string, ..bare.clone() };
        let (room, mut bytes) = (self.room(conn, refused.is_some()), Vec::new());
        let encode =
            |out: &mut Vec<u8>, words| wire::encode_suback(out, version, if words { &full } else { &bare });
        if !words::append_fitting(&mut bytes, room, encode) {
            return Err(unsaid("SUBACK", room));
        }
        self.hold(conn, bytes, needs, ticket, now, effects);
        if self.has_hub {
            self.tell_features(conn, key, now, effects); // what it lets go comes behind SUBACK
        }
        Ok(())
    }

    /// Adds one subscription; what SUBACK says about it (MQTT 5.0 §3.9.3).
    fn grant(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        wanted: &wire::Subscription,
        subscription_id: u32,
        effects: &mut Effects,
    ) -> ReasonCode {
        let Ok(filter) = TopicFilter::new(&wanted.filter) else { return ReasonCode::TOPIC_FILTER_INVALID };
        if !self.may_subscribe(conn, &filter, effects) {
            return ReasonCode::NOT_AUTHORIZED;
        }
        let limits = &self.setup.limits;
        if !topic_fits(&wanted.filter, limits) {
            return ReasonCode::TOPIC_FILTER_INVALID;
        }
        let Some(session) = self.sessions.get_mut(key.0 as usize) else {
            return ReasonCode::UNSPECIFIED_ERROR;
        };
        let stored = session.is_stored();
        let known = session.subscriptions.contains_key(wanted.filter.as_str());
        let subscriptions_max = limits.subscriptions_max.div_ceil(u32::from(self.setup.shards)) as usize;
        let full = session.subscriptions.len() >= limits.subscriptions_per_session_max as usize
            || self.subscriptions.len() >= subscriptions_max;
        if !known && full {
            return ReasonCode::QUOTA_EXCEEDED;
        }
        let options = SubscriptionOptions {
            qos: wanted.qos,
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
            subscription_id,
        };
        session.subscriptions.insert(wanted.filter.as_str().into(), options); // [MQTT-3.8.4-3]
        session.shares |= filter.share().is_some();
        self.subscriptions.insert(&wanted.filter, options.entry(key, stored), true);
        ReasonCode::granted(options.qos)
    }

    fn on_unsubscribe(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        unsubscribe: &Unsubscribe,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let mut ticket = Ticket(0);
        let mut reasons = Vec::with_capacity(unsubscribe.filters.len());
        let client_id = std::rc::Rc::clone(&self.sessions[key.0 as usize].client_id);
        let implied = self.inputs_filter(&client_id);
        for filter in &unsubscribe.filters {
            if implied.as_deref() == Some(filter) {
                reasons.push(ReasonCode::NO_SUBSCRIPTION_EXISTED); // the queue of a module is not its to end
                continue;
            }
            let forgotten = self.forget_subscription(key, filter, effects);
            ticket = forgotten.unwrap_or(ticket);
            reasons.push(match forgotten {
                Some(_) => ReasonCode::SUCCESS,
                None => ReasonCode::NO_SUBSCRIPTION_EXISTED,
            });
        }
        if self.has_hub {
            self.tell_features(conn, key, now, effects);
        }
        let (version, mut bytes) = (self.version(conn), Vec::new());
        let ack = UnsubAck::new(unsubscribe.packet_id, reasons);
        let room = self.room(conn, false);
        if !words::append_fitting(&mut bytes, room, |out, _| wire::encode_unsuback(out, version, &ack)) {
            return Err(unsaid("UNSUBACK", room));
        }
        self.hold(conn, bytes, 0, ticket, now, effects);
        Ok(())
    }

    /// Removes a subscription; what must be durable then, or `None` if there was none.
    pub(in crate::heads) fn forget_subscription(
        &mut self,
        key: SessionKey,
        filter: &str,
        effects: &mut Effects,
    ) -> Option<Ticket> {
        self.sessions[key.0 as usize].subscriptions.remove(filter)?;
        self.walks.forget(key, filter);
        let before = self.presence(filter);
        self.subscriptions.remove(filter, key);
        if self.presence(filter) != before {
            self.announce(filter, None, effects);
        }
        Some(self.delete_subscription(key, filter, effects))
    }

    /// What bounds an answer to `conn`, with words if there are any.
    fn room(&self, conn: ConnId, words: bool) -> (bool, u32) {
        let (wants_words, bytes_max) = self.connections.get(conn).map_or((false, u32::MAX), words::room);
        (words && wants_words, bytes_max)
    }

    pub(super) fn version(&self, conn: ConnId) -> Version {
        self.connections.get(conn).map_or(Version::V3, |connection| connection.version)
    }
}

/// Why an answer of ours could not be written: the client takes none so large, or it is our mistake.
fn unsaid(packet: &'static str, (_, bytes_max): (bool, u32)) -> Fault {
    if bytes_max < u32::MAX { Fault::Peer(PeerFault::AnswerTooLarge) } else { Fault::Bug(packet) }
}

/// Whether a payload is UTF-8 if its publisher says so (MQTT 5.0 §3.3.2.3.2).
fn payload_is_as_told(publish: &Publish<'_>) -> bool {
    publish.properties.payload_is_utf8() != Some(true) || std::str::from_utf8(publish.payload).is_ok()
}
