//! Stations 3 and 4: where a publication goes, and what its acknowledgement must wait for.
//!
//! In: a publication that passed the session rules. Out: deliveries, appends, handoffs, and a [`Promise`].
//! Always: routes are evaluated once, on the shard that received the publication; subscriptions on each shard that
//! has a match. A session gets a publication once, at the highest QoS of its matching filters; several subscription
//! identifiers travel together (MQTT 5.0 §3.3.4).

use std::num::NonZeroU16;
use std::rc::Rc;

use model::{Match, Message, Now, Property, Qos, Ticket, Timestamp};
use wire::{OutgoingPublish, Placed, Version};

use crate::acks::Promise;
use crate::broker::{Broker, RecordRead, append};
use crate::connections::{Connection, Phase};
use crate::effects::{Control, Effects, HandoffBatch, Request, Write};
use crate::envelope::Envelope;
use crate::plan::Durability;
use crate::sessions::record::{decode_head, encode_head};
use crate::sessions::{Keeping, Queued, Session, Stored};
use crate::subscriptions::{Entry, Found, SessionKey};

/// A publication on its way, borrowed for the turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publication<'t> {
    pub(crate) envelope: Envelope<'t>,
    /// When it is worth nothing any more (MQTT 5.0 §3.3.2.3.3).
    pub(crate) expires: Option<Timestamp>,
}

/// A PUBLISH encoded once per class for all receivers of one publication.
///
/// Class: version, QoS and RETAIN flag. The packet identifier is patched into each copy.
#[derive(Debug, Default)]
pub(crate) struct FrameCache {
    frames: [(Vec<u8>, Option<Placed>); 8],
    valid: u8,
}

impl FrameCache {
    fn clear(&mut self) {
        self.valid = 0;
    }

    /// The frame of a class; `None` if it is longer than MQTT can say.
    #[inline]
    fn frame(
        &mut self, version: Version, qos: Qos, retain: bool, publication: &Publication<'_>, now: Now,
    ) -> Option<(&[u8], Placed)> {
        let class = usize::from(version == Version::V5) << 2 | usize::from(qos != Qos::AtMostOnce) << 1 | usize::from(retain);
        let (bytes, placed) = &mut self.frames[class];
        if self.valid & 1 << class == 0 {
            self.valid |= 1 << class;
            bytes.clear();
            let outgoing = outgoing(publication, qos, retain, now);
            *placed = wire::encode_publish(bytes, version, &outgoing).ok();
        }
        placed.map(|placed| (&bytes[..], placed))
    }
}

/// How one session is to get a publication.
#[derive(Clone, Copy, Debug)]
struct Terms<'a> {
    qos: Qos,
    retain: bool,
    subscription_ids: &'a [u32],
}

impl Broker {
    /// Sends a publication everywhere it belongs.
    pub(crate) fn dispatch(&mut self, publication: &Publication<'_>, now: Now, effects: &mut Effects) -> Promise {
        let mut promise = Promise::default();
        let mut matched = self.publish(publication, now, &mut promise, effects);
        if !self.setup.plan.table.is_empty() {
            matched |= self.route(publication, now, &mut promise, effects);
        }
        if !matched {
            self.counters.unmatched += 1;
        }
        promise
    }

    /// Sends it to subscribers, here and on other shards; whether there was one.
    fn publish(&mut self, publication: &Publication<'_>, now: Now, promise: &mut Promise, effects: &mut Effects) -> bool {
        let found = std::mem::take(&mut self.scratch.found);
        let found = self.deliver_all(found, publication, now, promise, effects);
        let remote = found.remote;
        let matched = !found.entries.is_empty() || remote.any != 0;
        self.scratch.found = found;
        if remote.any != 0 {
            let kept = if publication.envelope.qos == Qos::AtMostOnce { 0 } else { remote.kept };
            self.hand_off(publication, remote.any, kept, promise, effects);
        }
        matched
    }

    /// Sends it to the subscribers of this shard.
    fn deliver_all(
        &mut self, mut found: Found, publication: &Publication<'_>, now: Now, promise: &mut Promise, effects: &mut Effects,
    ) -> Found {
        self.subscriptions.find(publication.envelope.topic, &mut found);
        self.scratch.frames.clear();
        if found.places > 1 {
            found.entries.sort_unstable_by_key(|entry| entry.session);
        }
        for entries in found.entries.chunk_by(|one, other| one.session == other.session) {
            let ticket = self.deliver(entries, publication, now, effects);
            promise.ticket = promise.ticket.max(ticket);
        }
        found
    }

    /// Sends it to one session; the ticket of its record, if it is kept on disk.
    fn deliver(&mut self, entries: &[Entry], publication: &Publication<'_>, now: Now, effects: &mut Effects) -> Ticket {
        let envelope = &publication.envelope;
        let Some(session) = self.sessions.get_mut(entries[0].session.0 as usize) else {
            self.counters.bugs += 1;
            return Ticket(0);
        };
        let mut ids = std::mem::take(&mut self.scratch.ids);
        ids.clear();
        let mut granted = None;
        let mut retain = false;
        for entry in entries {
            // [MQTT-3.8.3-3]
            if entry.no_local && *session.client_id == *envelope.client_id {
                continue;
            }
            granted = granted.max(Some(entry.qos));
            retain |= entry.retain_as_published && envelope.retain;
            if entry.subscription_id != 0 {
                ids.push(entry.subscription_id);
            }
        }
        let mut ticket = Ticket(0);
        if let Some(granted) = granted {
            let terms = Terms { qos: envelope.qos.min(granted), retain, subscription_ids: &ids };
            ticket = match (terms.qos, &mut session.keeping) {
                (Qos::AtMostOnce, _) => {
                    self.deliver_now(entries[0].session, publication, terms, now, effects);
                    Ticket(0)
                }
                (_, Keeping::Clean) => {
                    self.deliver_clean(entries[0].session, publication, terms, now, effects);
                    Ticket(0)
                }
                (_, Keeping::Stored(_)) => self.deliver_stored(entries[0].session, publication, terms, now, effects),
                (_, Keeping::Opening) => {
                    self.counters.bugs += 1; // a session has no subscription before its lane is open
                    Ticket(0)
                }
            };
        }
        self.scratch.ids = ids;
        ticket
    }

    /// QoS 0: to the socket or nowhere.
    #[inline]
    fn deliver_now(&mut self, key: SessionKey, publication: &Publication<'_>, terms: Terms<'_>, now: Now, effects: &mut Effects) {
        let session = &self.sessions[key.0 as usize];
        let Some(connection) = session.conn.and_then(|conn| self.connections.find(conn)) else { return };
        if connection.outbox.len() > self.setup.limits.outbox_bytes_max as usize {
            self.counters.dropped_outbox_full += 1;
            return;
        }
        let sent = send(connection, publication, terms, None, now, &mut self.scratch.frames, effects);
        self.count_sent(sent);
    }

    /// QoS 1 to a clean session: in flight, or in its queue, or dropped and counted.
    #[inline]
    fn deliver_clean(&mut self, key: SessionKey, publication: &Publication<'_>, terms: Terms<'_>, now: Now, effects: &mut Effects) {
        let limits = &self.setup.limits;
        let session = &mut self.sessions[key.0 as usize];
        let Some(connection) = session.conn.and_then(|conn| self.connections.find(conn)) else { return };
        if session.queue.is_empty() && has_room(connection, session, limits) {
            let packet_id = session.inflight.push(None);
            let sent = send(connection, publication, terms, Some(packet_id), now, &mut self.scratch.frames, effects);
            if !sent {
                // As if sent and acknowledged: it will never fit [MQTT-3.1.2-25].
                session.inflight.acknowledge(packet_id);
            }
            self.count_sent(sent);
        } else if fits_queue(session, limits) {
            session.enqueue(Queued { record: session_record(publication, terms), seq: None, expires: publication.expires });
        } else {
            self.counters.dropped_queue_full += 1;
        }
    }

    /// QoS 1 to a stored session: on disk first, and in flight or in its queue if there is room.
    fn deliver_stored(
        &mut self, key: SessionKey, publication: &Publication<'_>, terms: Terms<'_>, now: Now, effects: &mut Effects,
    ) -> Ticket {
        let limits = &self.setup.limits;
        let session = &mut self.sessions[key.0 as usize];
        let Some(stored) = session.stored_mut() else { return Ticket(0) };
        if stored.backlog() >= limits.session_stored_messages_max {
            self.counters.dropped_session_full += 1;
            return Ticket(0);
        }
        let (seq, was_live, lane) = (stored.next, stored.is_live(), stored.lane);
        stored.next = seq.next();
        self.counters.appended += 1;
        let ticket = append(&mut self.appended_bytes, effects, |bytes| {
            let start = bytes.len();
            encode_head(bytes, terms.qos, terms.retain, terms.subscription_ids);
            publication.envelope.encode(bytes);
            let len = (bytes.len() - start) as u32;
            Write::Record { lane, len, enqueued: now.timestamp, expires: publication.expires }
        });
        if was_live && session.conn.is_some() && fits_queue(session, limits) {
            let record = session_record(publication, terms);
            if let Some(stored) = session.stored_mut() {
                stored.read_to = stored.next;
            }
            session.enqueue(Queued { record, seq: Some(seq), expires: publication.expires });
            self.pump(key, now, effects);
        }
        ticket
    }

    /// Sends what waits for a session, as far as its window and its socket allow; then reads on from its lane.
    pub(crate) fn pump(&mut self, key: SessionKey, now: Now, effects: &mut Effects) {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        let Some(connection) = session.conn.and_then(|conn| self.connections.find(conn)) else { return };
        if !matches!(connection.phase, Phase::Open(_)) {
            return;
        }
        let limits = &self.setup.limits;
        self.scratch.frames.clear();
        while has_room(connection, session, limits)
            && let Some(queued) = session.dequeue()
        {
            let expired = queued.expires.is_some_and(|at| at <= now.timestamp);
            let sent = !expired && send_queued(connection, session, &queued, now, &mut self.counters, effects);
            if !sent && let Some(seq) = queued.seq {
                let head = session.inflight.skip(seq);
                advance(session, head, effects);
            }
            self.counters.dropped_expired += u64::from(expired);
        }
        read_on(key, session, limits.session_queue_bytes_max, effects);
    }

    /// The client acknowledged a QoS 1 message.
    #[inline]
    pub(crate) fn on_puback(&mut self, key: SessionKey, packet_id: NonZeroU16, now: Now, effects: &mut Effects) {
        use crate::sessions::Acked;
        let session = &mut self.sessions[key.0 as usize];
        match session.inflight.acknowledge(packet_id) {
            Acked::Unknown => self.counters.unexpected_acks += 1,
            Acked::Known { head } => {
                advance(session, head, effects);
                let stored = session.is_stored();
                if stored || !session.queue.is_empty() {
                    self.pump(key, now, effects);
                }
            }
        }
    }

    /// The lane of a stored session was read.
    pub(crate) fn on_lane_read(
        &mut self, key: SessionKey, generation: u32, records: Vec<RecordRead>, next: model::Seq, now: Now, effects: &mut Effects,
    ) {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        let connected = session.conn.is_some();
        let Some(stored) = session.stored_mut() else { return };
        // The client may have gone and come back while the disk was read; that answer is to an old question.
        if !stored.reading {
            return;
        }
        stored.reading = false;
        if !connected || session.generation != generation {
            return;
        }
        for record in records {
            let Some(stored) = session.stored_mut() else { return };
            if record.seq < stored.read_to {
                continue;
            }
            self.counters.dropped_expired += record.seq.get() - stored.read_to.get();
            stored.read_to = record.seq.next();
            session.enqueue(Queued { record: record.bytes, seq: Some(record.seq), expires: record.expires });
        }
        if let Some(stored) = session.stored_mut() {
            let next = next.min(stored.next);
            if next > stored.read_to {
                self.counters.dropped_expired += next.get() - stored.read_to.get();
                stored.read_to = next;
            }
            // Nothing was left of it: all of the lane up to here is done.
            if session.queue.is_empty() && session.inflight.is_empty() {
                let head = session.stored_mut().map(|stored| stored.read_to);
                advance(session, head, effects);
            }
        }
        self.pump(key, now, effects);
    }

    /// Publications from another shard: their routes were evaluated there, their subscribers are here.
    pub(crate) fn on_handoff(&mut self, from: model::ShardId, batch: &HandoffBatch, now: Now, effects: &mut Effects) {
        let mut rest = &batch.bytes[..];
        let mut promise = Promise::default();
        while let Some((publication, after)) = next_handed_over(rest) {
            rest = after;
            let found = std::mem::take(&mut self.scratch.found);
            self.scratch.found = self.deliver_all(found, &publication, now, &mut promise, effects);
        }
        if !rest.is_empty() {
            self.counters.bugs += 1;
        }
        if !batch.wants_mark {
            return;
        }
        if self.marks_owed.is_empty() && self.acks.check(&promise).is_some() {
            effects.controls.push((from, Control::Kept { from: self.setup.shard, up_to: batch.last }));
        } else {
            // Not its own ticket but the latest: marks then leave in the order of their tickets.
            self.marks_owed.push_back((effects.appends.last, from, batch.last));
        }
    }

    fn hand_off(&mut self, publication: &Publication<'_>, any: u64, kept: u64, promise: &mut Promise, effects: &mut Effects) {
        self.handoff += 1;
        self.counters.handed_off += 1;
        promise.shards |= kept;
        promise.handoff = self.handoff;
        let mut shards = any;
        while shards != 0 {
            let shard = shards.trailing_zeros();
            shards &= shards - 1;
            let batch = &mut effects.handoffs[shard as usize];
            let len = publication.envelope.encoded_len() as u32;
            batch.bytes.extend_from_slice(&len.to_le_bytes());
            batch.bytes.extend_from_slice(&publication.expires.map_or(0, |at| at.0).to_le_bytes());
            publication.envelope.encode(&mut batch.bytes);
            batch.last = self.handoff;
            batch.wants_mark |= kept & 1 << shard != 0;
        }
    }

    /// Evaluates the routes and acts on every match; whether there was one.
    fn route(&mut self, publication: &Publication<'_>, now: Now, promise: &mut Promise, effects: &mut Effects) -> bool {
        let plan = std::sync::Arc::clone(&self.setup.plan);
        let mut matches = std::mem::take(&mut self.scratch.matches);
        let parts = MessageParts::new(publication, plan.table.needs_properties());
        let message = parts.message(publication);
        plan.table.matches(&message, &mut self.scratch.routes, &mut matches);
        for found in &matches {
            match plan.lane(found.sink, found.priority) {
                Some(lane) => {
                    let ticket = self.append_to_lane(lane, publication, found.ttl_millis.or(plan.ttl_millis), now, effects);
                    if plan.durability(found.route) == Durability::Disk {
                        promise.ticket = promise.ticket.max(ticket);
                    }
                }
                None => self.republish(found, &plan.table, &message, publication, now, promise, effects),
            }
        }
        let matched = !matches.is_empty();
        self.counters.routed += u64::from(matched);
        self.scratch.matches = matches;
        matched
    }

    fn append_to_lane(
        &mut self, lane: model::LaneId, publication: &Publication<'_>, ttl_millis: Option<u64>, now: Now, effects: &mut Effects,
    ) -> Ticket {
        let by_route = ttl_millis.map(|millis| now.timestamp.plus_millis(millis));
        let expires = [by_route, publication.expires].into_iter().flatten().min();
        self.counters.appended += 1;
        append(&mut self.appended_bytes, effects, |bytes| {
            publication.envelope.encode(bytes);
            Write::Record { lane, len: publication.envelope.encoded_len() as u32, enqueued: now.timestamp, expires }
        })
    }

    /// A sink in our own topic space. Routes are not evaluated again: a route cannot feed itself.
    #[expect(clippy::too_many_arguments, reason = "the turn's context, passed through once")]
    fn republish(
        &mut self, found: &Match, table: &routes::RouteTable, message: &Message<'_>, publication: &Publication<'_>, now: Now,
        promise: &mut Promise, effects: &mut Effects,
    ) {
        let Some(routes::Sink::Topic(template)) = table.sinks().get(found.sink.0 as usize) else {
            self.counters.bugs += 1;
            return;
        };
        let mut topic = std::mem::take(&mut self.scratch.topic);
        topic.clear();
        if template.render(message, &mut topic).is_ok() && model::validate_name(&topic).is_ok() {
            let envelope = Envelope { topic: &topic, retain: false, ..publication.envelope };
            self.publish(&Publication { envelope, ..*publication }, now, promise, effects);
        } else {
            self.counters.dropped_invalid_template += 1;
        }
        self.scratch.topic = topic;
    }

    #[inline]
    fn count_sent(&mut self, sent: bool) {
        if sent {
            self.counters.delivered += 1;
        } else {
            self.counters.dropped_too_large += 1;
        }
    }
}

/// Whether a QoS 1 message may go to the socket now.
#[inline]
fn has_room(connection: &Connection, session: &Session, limits: &model::Limits) -> bool {
    session.inflight.len() < usize::from(connection.window) && connection.outbox.len() <= limits.outbox_bytes_max as usize
}

fn fits_queue(session: &Session, limits: &model::Limits) -> bool {
    session.queue.len() < limits.session_queue_messages_max as usize
        && session.queue_bytes < limits.session_queue_bytes_max as usize
}

/// Encodes a publication into a connection's outbox; `false` if it exceeds what the client takes.
#[inline]
fn send(
    connection: &mut Connection, publication: &Publication<'_>, terms: Terms<'_>, packet_id: Option<NonZeroU16>, now: Now,
    frames: &mut FrameCache, effects: &mut Effects,
) -> bool {
    if !terms.subscription_ids.is_empty() && connection.version == Version::V5 {
        let mut outgoing = outgoing(publication, terms.qos, terms.retain, now);
        outgoing.subscription_ids = terms.subscription_ids;
        outgoing.packet_id = packet_id;
        return send_alone(connection, &outgoing, effects).is_some();
    }
    let Some((frame, placed)) = frames.frame(connection.version, terms.qos, terms.retain, publication, now) else {
        return false;
    };
    if frame.len() > connection.packet_bytes_max as usize {
        return false;
    }
    let out = connection.write(&mut effects.dirty);
    let start = out.len();
    out.extend_from_slice(frame);
    if let Some(packet_id) = packet_id {
        placed.patch(&mut out[start..], packet_id);
    }
    true
}

/// Encodes one PUBLISH that nobody else gets; `None` if it exceeds what the client takes.
fn send_alone(connection: &mut Connection, outgoing: &OutgoingPublish<'_>, effects: &mut Effects) -> Option<()> {
    let (version, packet_bytes_max) = (connection.version, connection.packet_bytes_max as usize);
    let out = connection.write(&mut effects.dirty);
    let start = out.len();
    let encoded = wire::encode_publish(out, version, outgoing);
    if encoded.is_err() || out.len() - start > packet_bytes_max {
        out.truncate(start); // [MQTT-3.1.2-24]
        return None;
    }
    Some(())
}

/// Sends a queued message; `false` if it can never be sent to this client.
fn send_queued(
    connection: &mut Connection, session: &mut Session, queued: &Queued, now: Now, counters: &mut crate::Counters, effects: &mut Effects,
) -> bool {
    let parts = decode_head(&queued.record).ok().and_then(|head| Some((Envelope::decode(head.envelope).ok()?, head)));
    let Some((envelope, head)) = parts else {
        counters.dropped_unreadable += 1;
        return false;
    };
    let resent = match (&session.keeping, queued.seq) {
        (Keeping::Stored(stored), Some(seq)) => seq < stored.sent_before,
        _ => false,
    };
    let publication = Publication { envelope, expires: queued.expires };
    let ids: Vec<u32> = head.subscription_ids().collect();
    let packet_id = session.inflight.push(queued.seq);
    let mut outgoing = outgoing(&publication, head.qos, head.retain, now);
    outgoing.packet_id = Some(packet_id);
    outgoing.subscription_ids = &ids;
    outgoing.dup = resent; // [MQTT-3.3.1-1]
    let sent = send_alone(connection, &outgoing, effects).is_some();
    counters.delivered += u64::from(sent);
    counters.redelivered += u64::from(sent && resent);
    if !sent {
        counters.dropped_too_large += 1;
        if let crate::sessions::Acked::Known { head } = session.inflight.acknowledge(packet_id) {
            advance(session, head, effects);
        }
        return true; // its place is settled, nothing is left to skip
    }
    true
}

/// Moves the head of a stored session's lane.
fn advance(session: &mut Session, head: Option<model::Seq>, effects: &mut Effects) {
    let (Some(head), Some(stored)) = (head, session.stored_mut()) else { return };
    if head > stored.head {
        stored.head = head;
        let done = model::Seq::new(head.get() - 1).expect("a head above another is above 1");
        effects.advances.push((stored.lane, done));
    }
}

/// Asks for the next part of a lane, once memory has nothing left of it.
fn read_on(key: SessionKey, session: &mut Session, bytes_max: u32, effects: &mut Effects) {
    let generation = session.generation;
    if !session.queue.is_empty() {
        return;
    }
    if let Keeping::Stored(stored @ Stored { reading: false, .. }) = &mut session.keeping
        && !stored.is_live()
    {
        stored.reading = true;
        let (lane, from) = (stored.lane, stored.read_to);
        effects.requests.push(Request::ReadLane { session: key, generation, lane, from, bytes_max: bytes_max / 4 });
    }
}

fn session_record(publication: &Publication<'_>, terms: Terms<'_>) -> Rc<[u8]> {
    let mut bytes = Vec::with_capacity(publication.envelope.encoded_len() + 2 + 4 * terms.subscription_ids.len());
    encode_head(&mut bytes, terms.qos, terms.retain, terms.subscription_ids);
    publication.envelope.encode(&mut bytes);
    bytes.into()
}

fn outgoing<'a>(publication: &Publication<'a>, qos: Qos, retain: bool, now: Now) -> OutgoingPublish<'a> {
    OutgoingPublish {
        topic: publication.envelope.topic,
        qos,
        dup: false,
        retain,
        packet_id: None,
        payload: publication.envelope.payload,
        properties: publication.envelope.properties,
        // [MQTT-3.3.2-6]: the time it may still wait.
        expiry_secs: publication.expires.map(|at| (at.0.saturating_sub(now.timestamp.0).div_ceil(1_000)).min(u64::from(u32::MAX)) as u32),
        subscription_ids: &[],
        topic_alias: None,
    }
}

fn next_handed_over(bytes: &[u8]) -> Option<(Publication<'_>, &[u8])> {
    let (len, rest) = bytes.split_at_checked(4)?;
    let (expires, rest) = rest.split_at_checked(8)?;
    let len = u32::from_le_bytes(len.try_into().ok()?) as usize;
    let (envelope, rest) = rest.split_at_checked(len)?;
    let expires = u64::from_le_bytes(expires.try_into().ok()?);
    let publication = Publication {
        envelope: Envelope::decode(envelope).ok()?,
        expires: (expires != 0).then_some(Timestamp(expires)),
    };
    Some((publication, rest))
}

/// The properties of a publication as routes see them.
struct MessageParts<'t> {
    properties: Vec<Property<'t>>,
    system: Vec<Property<'t>>,
}

impl<'t> MessageParts<'t> {
    fn new(publication: &Publication<'t>, wanted: bool) -> MessageParts<'t> {
        let mut parts = MessageParts { properties: Vec::new(), system: Vec::new() };
        let raw = publication.envelope.properties;
        if !raw.is_empty()
            && let Ok(block) = wire::PublishProperties::from_block(raw)
        {
            if let Some(content_type) = block.content_type() {
                parts.system.push(Property { name: "contentType", value: Some(content_type) });
            }
            if wanted {
                let pairs = block.user_properties();
                parts.properties.extend(pairs.map(|(name, value)| Property { name, value: Some(value) }));
            }
        }
        if wanted {
            parts.system.push(Property { name: "connectionDeviceId", value: Some(publication.envelope.client_id) });
        }
        parts
    }

    fn message<'a>(&'a self, publication: &Publication<'a>) -> Message<'a>
    where
        't: 'a,
    {
        Message {
            properties: &self.properties,
            system: &self.system,
            client_id: publication.envelope.client_id,
            qos: publication.envelope.qos,
            retain: publication.envelope.retain,
            ..Message::new(publication.envelope.topic, publication.envelope.payload)
        }
    }
}
