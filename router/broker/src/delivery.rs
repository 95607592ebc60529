//! Station 5, this shard's part: one publication into the outbox, the queue or the lane of each of its subscribers.
//!
//! In: a publication and the subscriptions it met; acknowledgements; what was read back from a lane.
//! Out: bytes in outboxes, records on the append tray, reads of lanes, and the ticket that a promise must wait for.
//! Always: a session gets a publication once, at the highest QoS of its matching filters; several subscription
//! identifiers travel together (MQTT 5.0 §3.3.4). Per session, QoS 1 and 2 leave in the order in which they came.

use std::num::NonZeroU16;
use std::rc::Rc;

use model::{Limits, Now, Qos, Seq, SpillTicket, Ticket, Timestamp};
use wire::{OutgoingPublish, Placed, Version};

use crate::Counters;
use crate::acks::Promise;
use crate::aliases::Spelling;
use crate::broker::{Broker, RecordRead, append};
use crate::connections::{Connection, Phase};
use crate::dispatch::Publication;
use crate::effects::{Effects, Request, Write};
use crate::envelope::Envelope;
use crate::exchanges::{catch_up, in_exchange};
use crate::retained::WALK_QUEUED_LOW;
use crate::sessions::record::{MessageHead, decode_head, encode_head};
use crate::sessions::{Acked, Keeping, Queued, Session, Stored};
use crate::sharing::Lent;
use crate::subscriptions::{Entry, Found, SessionKey};

/// A PUBLISH encoded once per class for all receivers of one publication.
///
/// Class: version, QoS and RETAIN flag. The packet identifier is patched into each copy.
#[derive(Debug, Default)]
pub(crate) struct FrameCache {
    frames: [(Vec<u8>, Option<Placed>); 16],
    valid: u16,
}

impl FrameCache {
    /// Forgets the last publication, not its buffers.
    pub(crate) fn clear(&mut self) {
        self.valid = 0;
    }

    /// The frame of a class; `None` if it is longer than MQTT can say.
    #[inline]
    fn frame(
        &mut self,
        version: Version,
        qos: Qos,
        retain: bool,
        publication: &Publication<'_>,
    ) -> Option<(&[u8], Placed)> {
        let class =
            usize::from(version == Version::V5) << 3 | usize::from(qos.bits()) << 1 | usize::from(retain);
        let (bytes, placed) = &mut self.frames[class];
        if self.valid & 1 << class == 0 {
            self.valid |= 1 << class;
            bytes.clear();
            let outgoing = outgoing(publication, qos, retain, publication.now);
            *placed = wire::encode_publish(bytes, version, &outgoing).ok();
        }
        placed.map(|placed| (&bytes[..], placed))
    }
}

/// How one session is to get a publication.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: &'a [u32],
    /// The group of which the session is the member chosen; empty if it is not shared.
    pub(crate) share: &'a str,
}

impl Broker {
    /// Sends a publication to the subscribers of this shard; `found` is what its topic met.
    #[inline]
    pub(crate) fn deliver_all(
        &mut self,
        found: &mut Found,
        publication: &Publication<'_>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) {
        self.subscriptions.find(publication.envelope.topic, found);
        if let Some(properties) = publication.hub {
            self.leave_out_sender(found, properties);
        }
        self.scratch.frames.clear();
        for entries in found.entries.chunk_by(|one, other| one.session == other.session) {
            let ticket = self.deliver(entries, "", publication, effects);
            promise.ticket = promise.ticket.max(ticket);
        }
    }

    /// Sends it to one session, as a member of the group `share` unless that is empty; the ticket of its record, if it
    /// is kept on disk.
    pub(crate) fn deliver(
        &mut self,
        entries: &[Entry],
        share: &str,
        publication: &Publication<'_>,
        effects: &mut Effects,
    ) -> Ticket {
        let key = entries[0].session;
        let Some(session) = self.sessions.get(key.0 as usize) else {
            self.counters.bugs += 1;
            return Ticket(0);
        };
        let mut ids = std::mem::take(&mut self.scratch.ids);
        ids.clear();
        let mut ticket = Ticket(0);
        let Envelope { client_id, retain, .. } = publication.envelope;
        if let Some((granted, retain)) = agree(entries, session, client_id, retain, &mut ids) {
            let qos = publication.envelope.qos.min(granted);
            let terms = Terms { qos, retain, subscription_ids: &ids, share };
            ticket = self.deliver_on(key, session.keeping, publication, terms, effects);
        }
        self.scratch.ids = ids;
        ticket
    }

    /// Sends a session a message that nobody else gets in this turn.
    pub(crate) fn deliver_alone(
        &mut self,
        key: SessionKey,
        publication: &Publication<'_>,
        terms: Terms<'_>,
        effects: &mut Effects,
    ) {
        self.scratch.frames.clear();
        let Some(session) = self.sessions.get(key.0 as usize) else { return };
        self.deliver_on(key, session.keeping, publication, terms, effects);
    }

    /// Sends it as agreed; the ticket of its record, if it is kept on disk.
    #[inline]
    fn deliver_on(
        &mut self,
        key: SessionKey,
        keeping: Keeping,
        publication: &Publication<'_>,
        terms: Terms<'_>,
        effects: &mut Effects,
    ) -> Ticket {
        match (terms.qos, keeping) {
            (Qos::AtMostOnce, _) => self.deliver_now(key, publication, terms, effects),
            (_, Keeping::Clean) => self.deliver_clean(key, publication, terms, effects),
            (_, Keeping::Stored(stored)) => {
                return self.deliver_stored(key, stored, publication, terms, effects);
            }
            // A session has no subscription before its lane is open.
            (_, Keeping::Opening) => self.counters.bugs += 1,
        }
        Ticket(0)
    }

    /// Whether clients together hold as much as they may.
    #[inline]
    pub(crate) fn is_memory_full(&self) -> bool {
        self.waiting_bytes > self.waiting_bytes_max
    }

    /// QoS 0: to the socket or nowhere.
    #[inline]
    fn deliver_now(
        &mut self,
        key: SessionKey,
        publication: &Publication<'_>,
        terms: Terms<'_>,
        effects: &mut Effects,
    ) {
        let full = self.is_memory_full();
        let session = &self.sessions[key.0 as usize];
        let Some(connection) = session.conn.and_then(|conn| self.connections.find(conn)) else { return };
        if !matches!(connection.phase, Phase::Open(_)) {
            return; // nothing goes before CONNACK or after DISCONNECT
        }
        if full {
            self.counters.dropped_memory_full += 1;
        } else if connection.outbox.len() > self.setup.limits.outbox_bytes_max as usize {
            self.counters.dropped_outbox_full += 1;
        } else if send(connection, publication, terms, None, &mut self.scratch.frames, effects) {
            connection.count_outbox(&mut self.waiting_bytes);
            self.counters.delivered += 1;
        } else {
            self.counters.dropped_too_large += 1;
        }
    }

    /// QoS 1 or 2 to a clean session: in flight, or in its queue, or dropped and counted.
    #[inline]
    fn deliver_clean(
        &mut self,
        key: SessionKey,
        publication: &Publication<'_>,
        terms: Terms<'_>,
        effects: &mut Effects,
    ) {
        if self.is_memory_full() {
            self.counters.dropped_memory_full += 1;
            return;
        }
        let limits = &self.setup.limits;
        let session = &mut self.sessions[key.0 as usize];
        let Some(connection) = session.conn.and_then(|conn| self.connections.find(conn)) else { return };
        if session.queue.is_empty() && has_room(connection, session, None, limits) {
            let packet_id = session.inflight.push(None, terms.qos);
            if send(connection, publication, terms, Some(packet_id), &mut self.scratch.frames, effects) {
                connection.count_outbox(&mut self.waiting_bytes);
                self.counters.delivered += 1;
                if !terms.share.is_empty() && terms.qos == Qos::AtLeastOnce {
                    let record = session_record(publication, terms);
                    self.waiting_bytes += record.len();
                    let expires = publication.expires;
                    session.lend(Lent { packet_id: Some(packet_id), record, expires });
                }
            } else {
                // As if sent and acknowledged: it will never fit [MQTT-3.1.2-25].
                session.inflight.abandon_last();
                self.counters.dropped_too_large += 1;
            }
        } else if fits_queue(session, limits) {
            let record = session_record(publication, terms);
            self.waiting_bytes += record.len();
            let after = Ticket(0);
            session.enqueue(Queued { record, seq: None, expires: publication.expires, after });
        } else {
            self.counters.dropped_queue_full += 1;
        }
    }

    /// QoS 1 or 2 to a stored session: on disk first, and in flight or in its queue if there is room.
    ///
    /// QoS 1 goes out at once. QoS 2 waits until its record is durable: were it lost in a crash, its identifier would go
    /// to another message, which the client would take for a repeat.
    fn deliver_stored(
        &mut self,
        key: SessionKey,
        stored: Stored,
        publication: &Publication<'_>,
        terms: Terms<'_>,
        effects: &mut Effects,
    ) -> Ticket {
        if let Some(priority) = publication.input
            && let Some(ticket) = self.deliver_to_input(key, priority, publication, terms, effects)
        {
            return ticket;
        }
        if !publication.is_written && self.deliver_unwritten(key, stored, publication, terms, effects) {
            return Ticket(0);
        }
        if stored.backlog() >= self.setup.limits.session_stored_messages_max {
            self.counters.dropped_session_full += 1;
            return Ticket(0);
        }
        let (seq, lane) = (stored.next, stored.lane);
        self.counters.appended += 1;
        let start = effects.appends.bytes.len();
        let ticket = append(&mut self.appended_bytes, effects, |bytes| {
            encode_head(bytes, terms.qos, terms.retain, terms.subscription_ids, terms.share);
            publication.envelope.encode(bytes);
            let len = (bytes.len() - start) as u32;
            let (enqueued, expires) = (publication.now.timestamp, publication.expires);
            Write::Record { lane, len, enqueued, expires, spill: SpillTicket(0) }
        });
        let full = self.is_memory_full();
        let limits = &self.setup.limits;
        let session = &mut self.sessions[key.0 as usize];
        let connection = session.conn.and_then(|conn| self.connections.find(conn));
        let live = stored.is_live() && !full && connection.is_some() && fits_queue(session, limits);
        if let Some(stored) = session.stored_mut() {
            stored.next = seq.next();
            if live {
                stored.read_to = stored.next;
            }
        }
        let Some(connection) = connection.filter(|_| live) else { return ticket };
        let exactly_once = terms.qos == Qos::ExactlyOnce;
        if exactly_once || !session.queue.is_empty() || !has_room(connection, session, Some(seq), limits) {
            let record: Rc<[u8]> = effects.appends.bytes[start..].into();
            self.waiting_bytes += record.len();
            let after = if exactly_once { ticket } else { Ticket(0) };
            session.enqueue(Queued { record, seq: Some(seq), expires: publication.expires, after });
            if exactly_once {
                self.sends_waiting.push_back((ticket, key, session.generation));
            }
            return ticket;
        }
        let packet_id = session.inflight.push(Some(seq), terms.qos);
        if send(connection, publication, terms, Some(packet_id), &mut self.scratch.frames, effects) {
            connection.count_outbox(&mut self.waiting_bytes);
            self.counters.delivered += 1;
        } else {
            self.counters.dropped_too_large += 1; // [MQTT-3.1.2-25]
            let head = session.inflight.abandon_last();
            advance(session, head, effects);
            self.write_finished(key, effects);
        }
        ticket
    }

    /// Sends what waits for a session, as far as its window and its socket allow; then reads on from its lane.
    pub(crate) fn pump(&mut self, key: SessionKey, now: Now, effects: &mut Effects) {
        let full = self.is_memory_full();
        let limits = &self.setup.limits;
        let redelivered = self.counters.redelivered;
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        let Some(connection) = session.conn.and_then(|conn| self.connections.find(conn)) else { return };
        if !matches!(connection.phase, Phase::Open(_)) {
            return;
        }
        let durable = self.acks.durable_ticket();
        while let Some(next) = session.queue.front()
            && has_room(connection, session, next.seq, limits)
            && next.after <= durable
        {
            let seq = next.seq;
            // Before it is taken from the queue: while it is there, the head cannot move over it.
            let is_marked = catch_up(connection, session, seq, effects);
            if !is_marked && !session.inflight.has_place(seq, limits.session_inflight_span()) {
                break; // what was released is in flight again
            }
            let Some(queued) = session.dequeue() else { break };
            self.waiting_bytes -= queued.record.len();
            if is_marked {
                continue;
            }
            let lent = session.lent_bytes;
            if queued.expires.is_some_and(|at| at <= now.timestamp) && !in_exchange(session, &queued) {
                self.counters.dropped_expired += 1;
                skip(session, &queued, effects);
            } else {
                send_queued(connection, session, &queued, now, &mut self.counters, effects);
                self.waiting_bytes += session.lent_bytes - lent;
                if !session.posts.is_empty() {
                    session.note_post_sent(&queued.record);
                }
            }
        }
        if session.queue.is_empty()
            && let Keeping::Stored(stored) = session.keeping
        {
            catch_up(connection, session, Seq::new(stored.read_to.get() - 1), effects);
            advance(session, None, effects);
        }
        connection.count_outbox(&mut self.waiting_bytes);
        let has_few = session.queue.len() <= WALK_QUEUED_LOW;
        let finished = session.inflight.has_finished();
        let has_posts = !session.posts.is_empty();
        if let Keeping::Stored(stored) = &mut session.keeping
            && session.queue.is_empty()
            && !stored.is_live()
            && stored.reading.is_none()
            && !full
        {
            self.reads = self.reads.wrapping_add(1);
            stored.reading = Some(self.reads);
            effects.requests.push(Request::ReadLane {
                session: key,
                generation: self.reads,
                lane: stored.lane,
                from: stored.read_to,
                bytes_max: limits.session_queue_bytes_max / 4,
                expired_too: stored.read_to < stored.sent_before,
            });
        }
        if finished {
            self.write_finished(key, effects);
        }
        self.pump_inputs(key, now, effects);
        if has_posts {
            self.drop_lost_posts(key, effects);
        }
        if self.has_hub && redelivered != self.counters.redelivered {
            self.note_redelivered(key, self.counters.redelivered - redelivered);
        }
        if has_few && !self.walks.is_empty() {
            self.wake_walk(key, effects);
        }
    }

    /// Sends what waited for our disk.
    pub(crate) fn send_durable(&mut self, now: Now, effects: &mut Effects) {
        let mut last = None;
        while let Some(&(ticket, key, generation)) = self.sends_waiting.front()
            && ticket <= self.acks.durable_ticket()
        {
            self.sends_waiting.pop_front();
            let waits = self.sessions.get(key.0 as usize).is_some_and(|it| it.generation == generation);
            if waits && last.replace(key) != Some(key) {
                self.pump(key, now, effects);
            }
        }
    }

    /// Asks again for lanes of connected sessions that nothing else would ask for: the last answer was empty (the disk
    /// is not that far), or there was no memory to read into.
    pub(crate) fn read_what_fell_behind(&mut self, now: Now, effects: &mut Effects) {
        let is_behind = |stored: &Stored| !stored.is_live() && stored.reading.is_none();
        let behind = |session: &Session| {
            let inputs = session.inputs.iter().flat_map(|inputs| inputs.lanes());
            let mut lanes =
                session.stored().into_iter().chain(inputs.filter_map(|lane| lane.stored.as_ref()));
            session.conn.is_some() && lanes.any(is_behind)
        };
        let keys: Vec<SessionKey> = self
            .sessions
            .iter()
            .filter(|(_, session)| behind(session))
            .map(|(key, _)| SessionKey(key as u32))
            .collect();
        for key in keys {
            self.pump(key, now, effects);
        }
    }

    /// The client acknowledged a QoS 1 message.
    #[inline(always)]
    pub(crate) fn on_puback(
        &mut self,
        key: SessionKey,
        packet_id: NonZeroU16,
        now: Now,
        effects: &mut Effects,
    ) {
        let mut session = &mut self.sessions[key.0 as usize];
        if !session.posts.is_empty() {
            self.settle_post(key, packet_id, now, effects);
            session = &mut self.sessions[key.0 as usize];
        }
        let Acked::Known { head } = session.inflight.acknowledge(packet_id) else {
            if !self.settle_input(key, packet_id, now, effects)
                && !self.settle_unwritten(key, packet_id, now, effects)
            {
                self.counters.unexpected_acks += 1;
            }
            return;
        };
        advance(session, head, effects);
        if !session.lent.is_empty() {
            self.waiting_bytes -= session.settle_lent(packet_id);
        }
        if session.is_stored() || !session.queue.is_empty() {
            self.pump(key, now, effects);
        }
    }

    /// The lane of a stored session was read.
    pub(crate) fn on_lane_read(
        &mut self,
        key: SessionKey,
        read: u32,
        records: Vec<RecordRead>,
        next: Seq,
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        let Some(stored) = session.stored_mut().filter(|stored| stored.reading == Some(read)) else {
            return self.on_input_read(key, read, records, next, now, effects);
        };
        stored.reading = None;
        let (from, end) = (stored.read_to, stored.next);
        let mut read_to = from;
        for RecordRead { seq, expires, bytes } in records {
            if seq < read_to || seq >= end {
                self.counters.bugs += 1;
                continue;
            }
            read_to = seq.next();
            self.waiting_bytes += bytes.len();
            session.enqueue(Queued { record: bytes, seq: Some(seq), expires, after: Ticket(0) });
        }
        let next = next.min(end).max(read_to);
        if next == from {
            return; // the disk is not that far; time will tell, and not a loop
        }
        if let Some(stored) = session.stored_mut() {
            stored.read_to = next;
        }
        self.pump(key, now, effects);
    }
}

/// What the matching subscriptions of a session agree on: QoS and RETAIN flag, identifiers into `ids`.
/// `None` if the session must not get its own publication [MQTT-3.8.3-3].
#[inline]
pub(crate) fn agree(
    entries: &[Entry],
    session: &Session,
    client_id: &str,
    published_retain: bool,
    ids: &mut Vec<u32>,
) -> Option<(Qos, bool)> {
    let mut granted = None;
    let mut retain = false;
    for entry in entries {
        if entry.no_local && *session.client_id == *client_id {
            continue;
        }
        granted = granted.max(Some(entry.qos));
        retain |= entry.retain_as_published && published_retain;
        if entry.subscription_id != 0 {
            ids.push(entry.subscription_id);
        }
    }
    granted.map(|qos| (qos, retain))
}

/// Whether anything of QoS 1 or 2 may go to the socket now, whatever its lane.
#[inline]
pub(crate) fn is_clear(connection: &Connection, session: &Session, limits: &Limits) -> bool {
    let of_inputs = session.inputs.as_ref().map_or(0, |inputs| inputs.open());
    matches!(connection.phase, Phase::Open(_))
        && connection.held.is_none() // behind the SUBACK of what it is for
        && !session.parked
        && session.inflight.open() + session.unwritten.len() + of_inputs < usize::from(connection.window)
        && connection.outbox.len() <= limits.outbox_bytes_max as usize
}

/// Whether a QoS 1 or 2 message of the session's own lane may go to the socket now.
#[inline]
pub(crate) fn has_room(
    connection: &Connection,
    session: &Session,
    seq: Option<Seq>,
    limits: &Limits,
) -> bool {
    is_clear(connection, session, limits)
        && session.inflight.has_place(seq, limits.session_inflight_span())
        && session.unwritten.leaves(seq)
        && session.inputs.as_ref().is_none_or(|inputs| inputs.leaves(seq))
}

pub(crate) fn fits_queue(session: &Session, limits: &Limits) -> bool {
    session.queue.len() < limits.session_queue_messages_max as usize
        && session.queue_bytes < limits.session_queue_bytes_max as usize
}

/// Encodes a publication into a connection's outbox; `false` if it exceeds what the client takes.
#[inline]
pub(crate) fn send(
    connection: &mut Connection,
    publication: &Publication<'_>,
    terms: Terms<'_>,
    packet_id: Option<NonZeroU16>,
    frames: &mut FrameCache,
    effects: &mut Effects,
) -> bool {
    let alone = !terms.subscription_ids.is_empty() && connection.version == Version::V5;
    if alone || connection.aliases_out.is_some() {
        let mut outgoing = outgoing(publication, terms.qos, terms.retain, publication.now);
        outgoing.subscription_ids = terms.subscription_ids;
        outgoing.packet_id = packet_id;
        return send_alone(connection, &outgoing, effects);
    }
    let Some((frame, placed)) = frames.frame(connection.version, terms.qos, terms.retain, publication) else {
        return false;
    };
    if frame.len() > connection.packet_bytes_max as usize {
        return false; // [MQTT-3.1.2-24]
    }
    let out = connection.write(&mut effects.dirty);
    let start = out.len();
    out.extend_from_slice(frame);
    if let Some(packet_id) = packet_id {
        placed.patch(&mut out[start..], packet_id);
    }
    true
}

/// Encodes one PUBLISH that nobody else gets; `false` if it exceeds what the client takes.
///
/// The topic goes out by its alias, if the client takes aliases and the topic is worth one.
fn send_alone(connection: &mut Connection, outgoing: &OutgoingPublish<'_>, effects: &mut Effects) -> bool {
    let Some(aliases) = &mut connection.aliases_out else { return send_as(connection, outgoing, effects) };
    match aliases.spell(outgoing.topic) {
        Spelling::Plain => send_as(connection, outgoing, effects),
        Spelling::Alias(alias) => {
            let short = OutgoingPublish { topic: "", topic_alias: Some(alias), ..*outgoing };
            send_as(connection, &short, effects)
        }
        Spelling::Introduce(alias) => {
            let both = OutgoingPublish { topic_alias: Some(alias), ..*outgoing };
            if !send_as(connection, &both, effects) {
                // Not sent, so the alias stands for nothing; without its three bytes the packet may fit.
                return send_as(connection, outgoing, effects);
            }
            if let Some(aliases) = &mut connection.aliases_out {
                aliases.set(alias, outgoing.topic);
            }
            true
        }
    }
}

/// Encodes one PUBLISH as it is; `false` if it exceeds what the client takes.
fn send_as(connection: &mut Connection, outgoing: &OutgoingPublish<'_>, effects: &mut Effects) -> bool {
    let (version, packet_bytes_max) = (connection.version, connection.packet_bytes_max as usize);
    let out = connection.write(&mut effects.dirty);
    let start = out.len();
    let encoded = wire::encode_publish(out, version, outgoing);
    let fits = encoded.is_ok() && out.len() - start <= packet_bytes_max;
    if !fits {
        out.truncate(start); // [MQTT-3.1.2-24]
    }
    fits
}

/// What a message from a queue says; `None`: it cannot be read.
#[inline]
pub(crate) fn parts_of(record: &[u8]) -> Option<(Envelope<'_>, MessageHead<'_>)> {
    let head = decode_head(record).ok()?;
    Some((Envelope::decode(head.envelope).ok()?, head))
}

/// Sends what a message from a queue says; `false` if it exceeds what the client takes.
#[inline]
pub(crate) fn send_parts(
    connection: &mut Connection,
    (envelope, head): (Envelope<'_>, &MessageHead<'_>),
    expires: Option<Timestamp>,
    (packet_id, is_resent): (NonZeroU16, bool),
    now: Now,
    effects: &mut Effects,
) -> bool {
    let (hub, is_written, input) = (None, true, None);
    let publication = Publication { envelope, user: "", expires, now, hub, is_written, input };
    let ids: Vec<u32> = head.subscription_ids().collect();
    let mut outgoing = outgoing(&publication, head.qos, head.retain, now);
    outgoing.packet_id = Some(packet_id);
    outgoing.subscription_ids = &ids;
    outgoing.dup = is_resent; // [MQTT-3.3.1-1]
    send_alone(connection, &outgoing, effects)
}

/// Sends a message from the queue; what can never be sent to this client is counted and passed over.
fn send_queued(
    connection: &mut Connection,
    session: &mut Session,
    queued: &Queued,
    now: Now,
    counters: &mut Counters,
    effects: &mut Effects,
) {
    let Some((envelope, head)) = parts_of(&queued.record) else {
        counters.dropped_unreadable += 1;
        return skip(session, queued, effects);
    };
    let resent = match (&session.keeping, queued.seq) {
        (Keeping::Stored(stored), Some(seq)) => seq < stored.sent_before,
        _ => false,
    };
    let packet_id = session.inflight.push(queued.seq, head.qos);
    if send_parts(connection, (envelope, &head), queued.expires, (packet_id, resent), now, effects) {
        counters.delivered += 1;
        counters.redelivered += u64::from(resent);
        if queued.seq.is_none() && head.qos == Qos::AtLeastOnce && !head.share.is_empty() {
            let record = Rc::clone(&queued.record);
            session.lend(Lent { packet_id: Some(packet_id), record, expires: queued.expires });
        }
    } else {
        counters.dropped_too_large += 1; // [MQTT-3.1.2-25]
        let head = session.inflight.abandon_last();
        advance(session, head, effects);
    }
}

/// A message from the queue will not be sent: its place in the lane is done.
fn skip(session: &mut Session, queued: &Queued, effects: &mut Effects) {
    if let Some(seq) = queued.seq {
        let head = session.inflight.skip(seq);
        advance(session, head, effects);
    }
}

/// Moves the head of a stored session's lane: to `head`, or to all that was read once nothing of it is left.
#[inline]
pub(crate) fn advance(session: &mut Session, head: Option<Seq>, effects: &mut Effects) {
    let nothing_left = session.inflight.is_empty() && session.queue.is_empty();
    let first_mark = session.marks.first_key_value().map(|(seq, _)| *seq);
    let Some(stored) = session.stored_mut() else { return };
    let nothing_left = nothing_left && first_mark.is_none_or(|seq| seq >= stored.read_to);
    // What lies behind the last acknowledged place, up to `read_to`, has expired.
    let Some(head) = (if nothing_left { Some(stored.read_to) } else { head }) else { return };
    if head > stored.head {
        stored.head = head;
        let done = Seq::new(head.get() - 1).expect("a head above another is above 1");
        effects.advance(stored.lane, done);
    }
}

pub(crate) fn session_record(publication: &Publication<'_>, terms: Terms<'_>) -> Rc<[u8]> {
    let mut bytes = Vec::with_capacity(
        publication.envelope.encoded_len() + 4 + 4 * terms.subscription_ids.len() + terms.share.len(),
    );
    encode_head(&mut bytes, terms.qos, terms.retain, terms.subscription_ids, terms.share);
    publication.envelope.encode(&mut bytes);
    bytes.into()
}

fn outgoing<'a>(publication: &Publication<'a>, qos: Qos, retain: bool, now: Now) -> OutgoingPublish<'a> {
    let left =
        |at: model::Timestamp| at.0.saturating_sub(now.timestamp.0).div_ceil(1_000).min(u64::from(u32::MAX));
    OutgoingPublish {
        topic: publication.envelope.topic,
        qos,
        retain,
        payload: publication.envelope.payload,
        properties: publication.envelope.properties,
        // [MQTT-3.3.2-6]: the time it may still wait.
        expiry_secs: publication.expires.map(|at| left(at) as u32),
        ..OutgoingPublish::default()
    }
}
