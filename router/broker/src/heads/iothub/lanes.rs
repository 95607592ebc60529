//! Messages for inputs of modules on their way: a lane for each input and priority of a module, so that an input that is not
//! acknowledged holds up nothing but itself, and urgent messages go first (decision 0075).
//!
//! In: publications to inputs, acknowledgements, lanes that are open or were read. Out: as `delivery`, to the same client.
//! Always: per sender, input and priority messages leave in the order in which they came. What the session's own lane has of
//! an input (it came before there was a lane, or there are as many as may be) goes before what is in the lane of that.
//! Bound: `Limits::module_lanes_max`; further inputs share the session's own lane.

use std::num::NonZeroU16;

use model::{LaneId, Limits, Now, Priority, Qos, Seq, SpillTicket, Ticket};

use crate::broker::{Broker, RecordRead, append};
use crate::connections::Connection;
use crate::delivery::{Terms, is_clear, parts_of, send, send_parts, session_record};
use crate::dispatch::Publication;
use crate::effects::{Effects, Request, Write};
use crate::plan::SinkPlan;
use crate::sessions::record::encode_head;
use crate::sessions::{Inputs, Kept, Queued, Session, Stored};
use crate::subscriptions::SessionKey;

impl Broker {
    /// Brings a lane back at start, behind its session; `false`: there is no such session, and nobody needs the lane.
    pub fn restore_input(
        &mut self,
        client_id: &str,
        (input, priority): (&str, Priority),
        (lane, head, next): (LaneId, Seq, Seq),
    ) -> bool {
        let key = self.by_client.get(client_id).copied();
        let Some(session) = key.and_then(|key| self.sessions.get_mut(key.0 as usize)) else { return false };
        let Some(own) = session.stored().copied() else { return false };
        // Anything there was may have been sent, unless the module has never come.
        let sent_before = if session.owner.is_some() { next } else { head };
        let stored = Stored { sent_before, ..Stored::new(lane, head, next) };
        let inputs = session.inputs.get_or_insert_default();
        inputs.add(input, priority, 0, Some(stored), own.next);
        true
    }

    /// Asks for the lanes of those inputs of a module that routes lead to; nothing is read before they are open.
    pub(super) fn open_input_lanes(&mut self, key: SessionKey, effects: &mut Effects) {
        let plan = std::rc::Rc::clone(&self.plan);
        let Some(setup) = self.hub.clone() else { return };
        for route in plan.table.routes() {
            for sink in route.sinks() {
                let at = sink.0 as usize;
                let Some(routes::Sink::Input { module, input }) = plan.table.sinks().get(at) else {
                    continue;
                };
                let Some(session) = self.sessions.get(key.0 as usize) else { return };
                let is_its =
                    session.client_id.strip_prefix(&*setup.edge_device).and_then(|it| it.strip_prefix('/'))
                        == Some(module);
                let is_known = session
                    .inputs
                    .as_ref()
                    .is_some_and(|inputs| inputs.find(input, route.priority()).is_some());
                if is_its
                    && !is_known
                    && matches!(plan.sinks.get(at), Some(SinkPlan::Input))
                    && let Some(lane) = self.open_input(key, input, route.priority(), effects)
                    && let Some(inputs) = self.inputs_of(key)
                {
                    inputs.lane_mut(lane).awaited = true;
                    self.inputs_opening += 1;
                }
            }
        }
    }

    /// Asks for a lane; `None` if there are as many as may be.
    fn open_input(
        &mut self,
        key: SessionKey,
        input: &str,
        priority: Priority,
        effects: &mut Effects,
    ) -> Option<usize> {
        let lanes_max = usize::from(self.setup.limits.module_lanes_max);
        let session = self.sessions.get_mut(key.0 as usize)?;
        let next = session.stored()?.next;
        if session.inputs.as_ref().map_or(0, |inputs| inputs.len()) >= lanes_max {
            return None;
        }
        self.generation = self.generation.wrapping_add(1);
        let inputs = session.inputs.get_or_insert_default();
        let at = inputs.add(input, priority, self.generation, None, next);
        effects.requests.push(Request::OpenLane {
            session: key,
            generation: self.generation,
            client_id: (*session.client_id).into(),
            input: Some((input.into(), priority)),
        });
        Some(at)
    }

    /// A lane is open; `false` if it is none of an input of this session.
    pub(crate) fn on_input_opened(
        &mut self,
        key: SessionKey,
        generation: u32,
        (lane, head, next): (LaneId, Seq, Seq),
        effects: &mut Effects,
    ) -> bool {
        let Some(inputs) = self.inputs_of(key) else { return false };
        let Some(at) = inputs.opening(generation) else { return false };
        let opened = inputs.lane_mut(at);
        // What is in it belongs to an earlier session.
        opened.stored = Some(Stored::new(lane, next, next));
        let is_awaited = std::mem::take(&mut opened.awaited);
        if let Some(last) = Seq::new(next.get() - 1).filter(|last| *last >= head) {
            effects.advance(lane, last);
        }
        if is_awaited {
            self.inputs_are_open(effects);
        }
        true
    }

    /// A session ends, with the lanes of its inputs.
    #[cold]
    pub(crate) fn end_inputs(&mut self, session: &mut Session, effects: &mut Effects) {
        let Some(inputs) = session.inputs.take() else { return };
        for lane in inputs.lanes() {
            match &lane.stored {
                Some(stored) => effects.requests.push(Request::RemoveLane { lane: stored.lane }),
                None => self.ended_opening.push((lane.generation, std::rc::Rc::clone(&session.client_id))),
            }
            if lane.awaited {
                self.inputs_are_open(effects);
            }
        }
    }

    /// Sends a publication to an input by its lane; the ticket of its record. `None`: it has no lane that is open.
    #[inline(never)]
    pub(crate) fn deliver_to_input(
        &mut self,
        key: SessionKey,
        priority: Priority,
        publication: &Publication<'_>,
        terms: Terms<'_>,
        effects: &mut Effects,
    ) -> Option<Ticket> {
        let input = publication.envelope.topic.split('/').nth(5)?;
        if terms.qos != Qos::AtLeastOnce || !terms.share.is_empty() {
            return None;
        }
        let known = self.inputs_of(key).and_then(|inputs| inputs.find(input, priority));
        let at = match known {
            Some(at) => at,
            None => self.open_input(key, input, priority, effects)?,
        };
        let full = self.is_memory_full();
        let limits = &self.setup.limits;
        let session = self.sessions.get_mut(key.0 as usize)?;
        let own = session.stored()?.next;
        let inputs = session.inputs.as_mut()?;
        let Some(stored) = inputs.lane(at).stored else {
            inputs.lane_mut(at).after = own.next(); // behind the record that it becomes there
            return None;
        };
        let connection = session.conn.and_then(|conn| self.connections.find(conn));
        if !publication.is_written
            && !full
            && let Some(connection) = connection
            && session.inputs.as_ref().is_some_and(|inputs| inputs.lane(at).is_next())
            && has_room(connection, session, at, limits)
            && let Some(packet_id) = free_id(session)
        {
            if send(connection, publication, terms, Some(packet_id), &mut self.scratch.frames, effects) {
                connection.count_outbox(&mut self.waiting_bytes);
                let kept = Kept { record: session_record(publication, terms), expires: publication.expires };
                self.waiting_bytes += kept.record.len();
                let inputs = session.inputs.as_mut()?;
                inputs.sent(at, packet_id, None, Some(kept));
                self.counters.delivered += 1;
                self.counters.delivered_unwritten += 1;
            } else {
                self.counters.dropped_too_large += 1; // [MQTT-3.1.2-25]
            }
            return Some(Ticket(0));
        }
        if stored.backlog() >= limits.session_stored_messages_max {
            self.counters.dropped_session_full += 1;
            return Some(Ticket(0));
        }
        self.counters.appended += 1;
        let start = effects.appends.bytes.len();
        let ticket = append(&mut self.appended_bytes, effects, |bytes| {
            encode_head(bytes, terms.qos, terms.retain, terms.subscription_ids, terms.share);
            publication.envelope.encode(bytes);
            let len = (bytes.len() - start) as u32;
            let (enqueued, expires) = (publication.now.timestamp, publication.expires);
            Write::Record { lane: stored.lane, len, enqueued, expires, spill: SpillTicket(0) }
        });
        let connection = session.conn.and_then(|conn| self.connections.find(conn));
        let inputs = session.inputs.as_mut()?;
        let is_live = stored.is_live() && !full && connection.is_some() && inputs.fits(at, limits);
        let is_next = inputs.lane(at).next_queued().is_none();
        if let Some(own) = &mut inputs.lane_mut(at).stored {
            own.next = stored.next.next();
            if is_live {
                own.read_to = own.next;
            }
        }
        let Some(connection) = connection.filter(|_| is_live) else { return Some(ticket) };
        if is_next
            && has_room(connection, session, at, limits)
            && let Some(packet_id) = free_id(session)
        {
            let is_sent =
                send(connection, publication, terms, Some(packet_id), &mut self.scratch.frames, effects);
            let inputs = session.inputs.as_mut()?;
            if is_sent {
                connection.count_outbox(&mut self.waiting_bytes);
                self.counters.delivered += 1;
                inputs.sent(at, packet_id, Some(stored.next), None);
            } else {
                self.counters.dropped_too_large += 1; // [MQTT-3.1.2-25]
                advance(inputs, at, effects);
            }
        } else {
            let record: std::rc::Rc<[u8]> = effects.appends.bytes[start..].into();
            self.waiting_bytes += record.len();
            let (seq, expires) = (Some(stored.next), publication.expires);
            session.inputs.as_mut()?.enqueue(at, Queued { record, seq, expires, after: Ticket(0) });
        }
        Some(ticket)
    }

    /// The module acknowledges a message to an input; `false` if it is none.
    #[inline(never)]
    pub(crate) fn settle_input(
        &mut self,
        key: SessionKey,
        packet_id: NonZeroU16,
        now: Now,
        effects: &mut Effects,
    ) -> bool {
        let Some(inputs) = self.inputs_of(key) else { return false };
        let before = inputs.bytes();
        let Some(at) = inputs.settle(packet_id) else { return false };
        let given_back = before - inputs.bytes();
        advance(inputs, at, effects);
        self.waiting_bytes -= given_back;
        self.pump(key, now, effects);
        true
    }

    /// Sends what waits for the inputs of a session, as far as its window and its socket allow; then reads on from lanes.
    #[inline]
    pub(crate) fn pump_inputs(&mut self, key: SessionKey, now: Now, effects: &mut Effects) {
        let inputs = self.sessions.get_mut(key.0 as usize).and_then(|session| session.inputs.as_mut());
        if let Some(inputs) = inputs {
            inputs.rotate();
            let lanes = inputs.len();
            for turn in 0..lanes {
                self.pump_input(key, (turn, lanes), now, effects);
            }
        }
    }

    fn pump_input(
        &mut self,
        key: SessionKey,
        (turn, lanes): (usize, usize),
        now: Now,
        effects: &mut Effects,
    ) {
        let full = self.is_memory_full();
        let limits = &self.setup.limits;
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        let Some(connection) = session.conn.and_then(|conn| self.connections.find(conn)) else { return };
        let Some(inputs) = session.inputs.as_ref() else { return };
        let (before, at) = (inputs.bytes(), inputs.in_turn(turn));
        let Some(stored) = inputs.lane(at).stored else { return };
        let mut is_moved = false;
        while session.inputs.as_ref().is_some_and(|inputs| inputs.lane(at).next_queued().is_some())
            && has_room(connection, session, at, limits)
            && let Some(packet_id) = free_id(session)
        {
            let Some(inputs) = session.inputs.as_mut() else { return };
            let Some(queued) = inputs.dequeue(at) else { break };
            is_moved = true;
            if queued.expires.is_some_and(|expires| expires <= now.timestamp) {
                self.counters.dropped_expired += 1;
                if let Some((from, output)) = crate::labels::sender_of_record("m/", &queued.record) {
                    self.hub_series.count("expired", &[&from, &output]);
                }
                continue;
            }
            let is_resent = queued.seq.is_some_and(|seq| seq < stored.sent_before);
            let sent = parts_of(&queued.record).map(|(envelope, head)| {
                let how = (packet_id, is_resent);
                send_parts(connection, (envelope, &head), queued.expires, how, now, effects)
            });
            match sent {
                Some(true) => {
                    self.counters.delivered += 1;
                    self.counters.redelivered += u64::from(is_resent);
                    inputs.sent(at, packet_id, queued.seq, None);
                }
                Some(false) => self.counters.dropped_too_large += 1, // [MQTT-3.1.2-25]
                None => self.counters.dropped_unreadable += 1,
            }
        }
        connection.count_outbox(&mut self.waiting_bytes);
        let Some(inputs) = session.inputs.as_mut() else { return };
        self.waiting_bytes -= before - inputs.bytes();
        if is_moved || stored.head < stored.read_to {
            advance(inputs, at, effects);
        }
        let lane = inputs.lane_mut(at);
        if lane.next_queued().is_none()
            && let Some(stored) = &mut lane.stored
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
                // All lanes may be read at once.
                bytes_max: (limits.session_queue_bytes_max / 4 / u32::try_from(lanes).unwrap_or(u32::MAX))
                    .max(1),
                expired_too: false,
            });
        }
    }

    /// A lane of an input was read.
    pub(crate) fn on_input_read(
        &mut self,
        key: SessionKey,
        read: u32,
        records: Vec<RecordRead>,
        next: Seq,
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(inputs) = self.inputs_of(key) else { return };
        let Some(at) = inputs.reading(read) else { return };
        let Some(stored) = &mut inputs.lane_mut(at).stored else { return };
        stored.reading = None;
        let (from, end) = (stored.read_to, stored.next);
        let (mut read_to, mut bugs) = (from, 0);
        let before = inputs.bytes();
        for RecordRead { seq, expires, bytes } in records {
            if seq < read_to || seq >= end {
                bugs += 1;
                continue;
            }
            read_to = seq.next();
            inputs.enqueue(at, Queued { record: bytes, seq: Some(seq), expires, after: Ticket(0) });
        }
        let more = inputs.bytes() - before;
        let next = next.min(end).max(read_to);
        if let Some(stored) = &mut inputs.lane_mut(at).stored {
            stored.read_to = next;
        }
        self.counters.bugs += bugs;
        self.waiting_bytes += more;
        // If the disk is not that far, time will tell, and not a loop.
        if next != from {
            self.pump(key, now, effects);
        }
    }

    /// The connection has ended: what it left of inputs and stands in no lane is written.
    #[cold]
    pub(crate) fn write_left(&mut self, key: SessionKey, now: Now, effects: &mut Effects) {
        let Some(inputs) = self.inputs_of(key) else { return };
        for (at, Kept { record, expires }) in inputs.take_left() {
            let limit = self.setup.limits.session_stored_messages_max;
            let Some(inputs) = self.inputs_of(key) else { return };
            let Some(stored) = &mut inputs.lane_mut(usize::from(at)).stored else { continue };
            let lane = stored.take_place(limit);
            self.write_left_over(lane, &record, expires, now, effects);
        }
    }

    fn inputs_of(&mut self, key: SessionKey) -> Option<&mut Inputs> {
        self.sessions.get_mut(key.0 as usize)?.inputs.as_deref_mut()
    }
}

/// The name of a lane of an input; see [`read_input_lane_name`].
pub fn input_lane_name(client_id: &str, input: &str, priority: Priority) -> String {
    format!("m/{client_id}/{input}/{priority}")
}

/// Module, input and priority of the lane of an input; `None` if this is the name of another lane.
pub fn read_input_lane_name(name: &str) -> Option<(&str, &str, Priority)> {
    let (rest, priority) = name.strip_prefix("m/")?.rsplit_once('/')?;
    let (client_id, input) = rest.rsplit_once('/')?;
    let priority = match priority {
        "default" => Priority::DEFAULT,
        number => Priority::new(number.parse().ok()?).ok()?,
    };
    Some((client_id, input, priority))
}

/// Whether a message of this lane may go to the socket now.
fn has_room(connection: &Connection, session: &Session, at: usize, limits: &Limits) -> bool {
    let (Some(inputs), Some(sent_to)) = (&session.inputs, session.sent_to()) else { return false };
    is_clear(connection, session, limits) && inputs.may_send(at, connection.window, sent_to, limits)
}

fn free_id(session: &mut Session) -> Option<NonZeroU16> {
    let Session { inputs, inflight, unwritten, .. } = session;
    inputs.as_mut()?.free_id(|id| inflight.covers(u32::from(id.get()) - 1) || unwritten.has(id))
}

/// Moves the head of a lane.
fn advance(inputs: &mut Inputs, at: usize, effects: &mut Effects) {
    if let Some((lane, done)) = inputs.advance(at) {
        effects.advance(lane, done);
    }
}
