//! How a connection ends: by DISCONNECT, by silence, by a fault, by another connection, by the socket.
//!
//! In: the cause. Out: a last packet where the version has one, the will where it is due, the session's rest.
//! Always: an ending is counted under one cause; the will is published unless the client said goodbye [MQTT-3.14.4-3].

use std::collections::VecDeque;

use model::{ConnId, Now};
use wire::{Disconnect, ReasonCode, Version};

use super::{Fault, PeerFault, words};
use crate::acks::{Acks, Answer, NOBODY, Promise};
use crate::broker::{Broker, ends_at};
use crate::connections::{Phase, Will};
use crate::dispatch::Publication;
use crate::effects::Effects;
use crate::envelope::Envelope;
use crate::sessions::{DelayedWill, Session};
use crate::subscriptions::SessionKey;

impl Broker {
    /// The socket of `conn` is gone: nothing of the connection remains but its session.
    pub fn closed(&mut self, conn: ConnId, now: Now, effects: &mut Effects) {
        self.detach(conn, now, effects);
        if let Some(connection) = self.connections.remove(conn) {
            self.waiting_bytes -= connection.counted;
        }
    }

    /// Parts a connection from its session: the session goes its own way, then the will is published, so that a client
    /// that subscribes to its own will gets it in its next life or not at all. The session is written down last: while
    /// its record has the will, it is published after a crash.
    fn detach(&mut self, conn: ConnId, now: Now, effects: &mut Effects) {
        let Some(connection) = self.connections.find(conn) else { return };
        let will = connection.will.take();
        let Some(key) = connection.session.take() else { return };
        if self.has_hub {
            self.tell_disconnected(conn, effects);
        }
        let Some(session) = self.sessions.get(key.0 as usize).filter(|session| session.conn == Some(conn))
        else {
            return;
        };
        let (client_id, owner) = (std::rc::Rc::clone(&session.client_id), session.owner.clone());
        let survives = self.leave(key, now, effects);
        match (will, self.sessions.get_mut(key.0 as usize).filter(|_| survives)) {
            (Some(will), Some(session)) => session.delayed_will = Some(DelayedWill::new(will, now)),
            (Some(will), None) => {
                self.publish_will(&client_id, owner.as_deref(), &will, now, effects);
            }
            (None, _) => {}
        }
        if survives {
            self.publish_will_if_due(key, now, effects);
            self.save_session(key, effects);
        }
    }

    fn publish_will(
        &mut self,
        client_id: &str,
        user: Option<&str>,
        will: &Will,
        now: Now,
        effects: &mut Effects,
    ) -> Promise {
        self.counters.wills += 1;
        let (qos, retain) =
            if self.is_tight { self.as_room_allows(will.qos, will.retain) } else { (will.qos, will.retain) };
        let envelope = Envelope {
            user: "",
            topic: &will.topic,
            client_id,
            qos,
            retain,
            properties: &will.properties,
            payload: &will.payload,
        };
        let expires = will.expiry_secs.map(|secs| now.timestamp.plus_millis(u64::from(secs) * 1_000));
        let user = user.unwrap_or_default();
        let publication =
            Publication { envelope, user, expires, now, hub: None, is_written: true, input: None };
        self.publishes_will = true;
        let by_hub = if self.has_hub { self.publish_hub_will(&publication, effects) } else { None };
        let promise = by_hub.unwrap_or_else(|| self.dispatch(&publication, effects).0);
        self.publishes_will = false;
        promise
    }

    /// The session ends, or its will's delay is over [MQTT-3.1.3-9]. The caller writes the session down, behind the
    /// will's records.
    ///
    /// If other shards must keep the will, its session keeps it until they have: a crash before that must not lose it.
    pub(crate) fn publish_delayed_will(&mut self, key: SessionKey, now: Now, effects: &mut Effects) {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        let Some(delayed) = session.delayed_will.take_if(|delayed| !delayed.published) else { return };
        let (client_id, owner) = (std::rc::Rc::clone(&session.client_id), session.owner.clone());
        let promise = self.publish_will(&client_id, owner.as_deref(), &delayed.will, now, effects);
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        if promise.shards != 0 && session.is_stored() {
            let answer = Answer::Will(key, session.generation);
            session.delayed_will = Some(DelayedWill { published: true, ..delayed });
            self.acks.wait(Acks::queue(&promise), NOBODY, promise, answer);
        }
    }

    /// The will of a session without connection, if its delay is over.
    pub(crate) fn publish_will_if_due(&mut self, key: SessionKey, now: Now, effects: &mut Effects) {
        let will = self.sessions.get(key.0 as usize).and_then(|session| session.delayed_will.as_ref());
        if will.is_some_and(|will| will.is_due(now)) {
            self.publish_delayed_will(key, now, effects);
        }
    }

    /// All shards have kept a will that was published: its session need not keep it any more.
    pub(crate) fn forget_will(&mut self, key: SessionKey, generation: u32, effects: &mut Effects) {
        let session =
            self.sessions.get_mut(key.0 as usize).filter(|session| session.generation == generation);
        let published = session.and_then(|session| session.delayed_will.take_if(|delayed| delayed.published));
        if published.is_some() {
            self.save_session(key, effects);
        }
    }

    /// Publishes every will whose delay is over.
    pub(crate) fn publish_due_wills(&mut self, now: Now, effects: &mut Effects) {
        if self.unknown_shards != 0 {
            return; // those who want it may be there
        }
        let is_due = |session: &Session| session.delayed_will.as_ref().is_some_and(|will| will.is_due(now));
        let due = self.sessions.iter().filter(|(_, session)| is_due(session));
        let due: Vec<SessionKey> = due.map(|(key, _)| SessionKey(key as u32)).collect();
        for key in due {
            self.publish_delayed_will(key, now, effects);
            self.save_session(key, effects); // behind the will's records [MQTT-3.1.2-10]
        }
    }

    /// A session loses its connection; whether it goes on without. The caller writes it down then.
    fn leave(&mut self, key: SessionKey, now: Now, effects: &mut Effects) -> bool {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return false };
        let ends = session.expiry_secs == 0;
        let lent = if ends { self.take_lent(key) } else { VecDeque::new() };
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return false };
        let inputs = session.inputs.as_ref().map_or(0, |inputs| inputs.bytes());
        self.waiting_bytes -= session.queue_bytes + session.lent_bytes + inputs;
        session.disconnect();
        if session.inputs.is_some() {
            self.write_left(key, now, effects);
        }
        let Some(session) = self.sessions.get(key.0 as usize) else { return false };
        if !session.unwritten.is_empty() {
            self.write_unwritten(key, now, effects);
        }
        self.abandon_posts(key, effects);
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return false };
        session.disconnected_at = now.timestamp;
        self.walks.leave(key);
        if session.expiry_secs == 0 {
            self.end_session(key, effects);
            self.pass_on(lent, now, effects);
            return false;
        }
        session.ends_at = ends_at(session, now);
        self.announce_member(key, false, effects);
        true
    }

    /// The client says goodbye.
    pub(super) fn on_disconnect(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        disconnect: &Disconnect,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let Some(connection) = self.connections.find(conn) else { return Ok(()) };
        if let Some(expiry_secs) = disconnect.session_expiry_secs {
            if connection.expiry_secs == 0 && expiry_secs > 0 {
                return Err(Fault::Peer(PeerFault::ExpiryRaised));
            }
            let granted = expiry_secs.min(self.setup.limits.session_expiry_secs_max);
            let has_queue = connection.hub.as_ref().is_some_and(|client| client.is_own_module);
            if !has_queue && let Some(session) = self.sessions.get_mut(key.0 as usize) {
                session.expiry_secs = granted;
            }
        }
        if disconnect.reason == ReasonCode::NORMAL_DISCONNECTION {
            connection.will = None; // [MQTT-3.14.4-3]; any other reason is not a goodbye
        }
        self.close(conn, now, effects);
        Ok(())
    }

    /// Ends a connection because of what came from it.
    pub(super) fn end_by_fault(&mut self, conn: ConnId, fault: Fault, now: Now, effects: &mut Effects) {
        match fault {
            Fault::Malformed(_) => self.counters.closed_malformed += 1,
            Fault::Peer(_) => self.counters.closed_protocol += 1,
            Fault::Bug(_) => self.counters.bugs += 1,
        }
        self.last_fault = Some(fault.to_string());
        let greeting =
            self.connections.get(conn).is_some_and(|connection| connection.phase == Phase::Greeting);
        match fault {
            Fault::Malformed(malformed) if greeting => {
                self.counters.connects_refused += 1;
                if let Some(refusal) = malformed.refusal()
                    && let Some(connection) = self.connections.find(conn)
                {
                    let ack = wire::ConnAck::new(false, refusal.reason);
                    wire::encode_connack(connection.write(&mut effects.dirty), refusal.version, &ack).ok();
                }
                self.close(conn, now, effects);
            }
            _ if greeting => self.close(conn, now, effects),
            _ => {
                let reason_string = Some(fault.to_string());
                self.part(
                    conn,
                    Disconnect { reason_string, ..Disconnect::new(fault.reason_code()) },
                    now,
                    effects,
                );
            }
        }
    }

    /// Closes because this process stops, and says where to go instead if that is known (MQTT 5.0 §4.11).
    pub(crate) fn send_off(&mut self, conn: ConnId, now: Now, effects: &mut Effects) {
        let disconnect = match &self.setup.offers.redirect {
            Some(redirect) => {
                let server_reference = Some(redirect.to.to_string());
                Disconnect { server_reference, ..Disconnect::new(ReasonCode::USE_ANOTHER_SERVER) }
            }
            None => Disconnect::new(ReasonCode::SERVER_SHUTTING_DOWN),
        };
        self.part(conn, disconnect, now, effects);
    }

    /// Closes with a DISCONNECT where the version has one.
    pub(crate) fn say_goodbye(&mut self, conn: ConnId, reason: ReasonCode, now: Now, effects: &mut Effects) {
        self.part(conn, Disconnect::new(reason), now, effects);
    }

    fn part(&mut self, conn: ConnId, disconnect: Disconnect, now: Now, effects: &mut Effects) {
        if let Some(connection) = self.connections.find(conn)
            && connection.version == Version::V5
            && matches!(connection.phase, Phase::Open(_))
        // [MQTT-3.14.0-1]: never before CONNACK
        {
            let room = words::room(connection);
            let bare = Disconnect { reason_string: None, ..disconnect.clone() };
            // A reason that DISCONNECT cannot carry, or this client does not take, is said by closing.
            words::append_fitting(connection.write(&mut effects.dirty), room, |out, full| {
                wire::encode_disconnect(out, Version::V5, if full { &disconnect } else { &bare })
            });
        }
        self.close(conn, now, effects);
    }

    /// Lets the edge close the socket once the outbox is written. Nothing more is read, and the session is on its own.
    pub(crate) fn close(&mut self, conn: ConnId, now: Now, effects: &mut Effects) {
        let Some(connection) = self.connections.find(conn) else { return };
        if connection.phase != Phase::Closing {
            connection.phase = Phase::Closing;
            connection.held = None;
            effects.closing.push(conn);
            self.detach(conn, now, effects);
        }
    }

    /// Ends what has been silent for too long, and gives idle memory back.
    pub(crate) fn end_silent_connections(&mut self, now: Now, effects: &mut Effects) {
        let saturated = self.is_saturated();
        let receive_max = u32::from(self.setup.limits.receive_max);
        let connect_timeout = self.setup.limits.connect_timeout_millis;
        let mut silent = Vec::new();
        for connection in self.connections.iter_mut() {
            if !std::mem::take(&mut connection.wrote) {
                connection.outbox.trim();
            }
            let waits = connection.held.is_some() || connection.withheld.is_some();
            if saturated || waits || connection.acks_owed >= receive_max {
                connection.heard = now.instant; // we do not listen: the silence is ours
            }
            let quiet = now.instant.millis_since(connection.heard);
            let limit = connection.silence_millis_max;
            match connection.phase {
                Phase::Greeting if now.instant.millis_since(connection.opened) > connect_timeout => {
                    silent.push((connection.id, true));
                }
                Phase::Open(_) if limit > 0 && quiet > limit => silent.push((connection.id, false)),
                _ => {}
            }
        }
        for (conn, greeting) in silent {
            if greeting {
                self.counters.closed_connect_timeout += 1;
                self.close(conn, now, effects);
            } else {
                self.counters.closed_keep_alive += 1;
                self.say_goodbye(conn, ReasonCode::KEEP_ALIVE_TIMEOUT, now, effects); // [MQTT-3.1.2-22]
            }
        }
    }

    /// Why the last connection was closed, for the log; taken once.
    pub fn take_last_fault(&mut self) -> Option<String> {
        self.last_fault.take()
    }
}
