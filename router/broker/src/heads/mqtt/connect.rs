//! How a session begins: CONNECT, whose session it is, CONNACK (MQTT 5.0 §3.1, §3.2, §4.1).
//!
//! In: a CONNECT. Out: a CONNACK, at once or when the lane or the disk is ready; or the socket for another shard.
//! Always: a client identifier has one session and at most one connection [MQTT-3.1.4-3].

use model::{ConnId, Now, Qos, ShardId, Ticket};
use wire::{ConnAck, Connect, ReasonCode, Version};

use crate::acks::{Answer, Promise};
use crate::broker::{Broker, home};
use crate::connections::{Held, Phase, Will};
use crate::effects::{Effects, Request};
use crate::sessions::{Keeping, Stored};
use crate::subscriptions::SessionKey;

impl Broker {
    /// A CONNECT came. `false`: the connection belongs to another shard, which will read the CONNECT itself.
    pub(super) fn on_connect(&mut self, conn: ConnId, mut connect: Connect, now: Now, effects: &mut Effects) -> bool {
        let assigned = connect.client_id.is_empty();
        if assigned {
            connect.client_id = self.assign_client_id();
        }
        let home = self.home(&connect.client_id);
        if home != self.setup.shard {
            effects.relocations.push((conn, home));
            return false;
        }
        if let Some(reason) = self.refusal(&connect) {
            self.refuse(conn, connect.version, reason, now, effects);
            return true;
        }
        self.take_over(&connect.client_id, now, effects);
        let (key, session_present, ticket) = self.join(&connect, effects);
        self.describe(conn, key, &connect, now);
        let ack = self.connack(&connect, session_present, assigned);
        let mut bytes = Vec::new();
        let encoded = wire::encode_connack(&mut bytes, connect.version, &ack);
        debug_assert!(encoded.is_ok(), "our own CONNACK can be encoded");
        self.counters.connects_accepted += 1;
        self.hold_connack(conn, key, bytes, ticket, now, effects);
        true
    }

    /// CONNACK leaves when the session's lane is open and an earlier session's end is durable.
    fn hold_connack(&mut self, conn: ConnId, key: SessionKey, bytes: Vec<u8>, ticket: Ticket, now: Now, effects: &mut Effects) {
        let mut needs = 0;
        if let Some(session) = self.sessions.get(key.0 as usize)
            && session.keeping == Keeping::Opening
        {
            needs += 1;
            let (generation, client_id) = (session.generation, (*session.client_id).into());
            effects.requests.push(Request::OpenLane { session: key, generation, client_id });
        }
        let promise = Promise { ticket, ..Promise::default() };
        if self.acks.check(&promise).is_none() {
            needs += 1;
            self.acks.wait(conn, promise, Answer::Held);
        }
        self.hold(conn, bytes, needs, effects);
        if needs == 0 {
            self.enter(conn, key, now, effects);
        }
    }

    /// Sends an answer, or keeps it until `needs` things have come true.
    pub(super) fn hold(&mut self, conn: ConnId, bytes: Vec<u8>, needs: u32, effects: &mut Effects) {
        let Some(connection) = self.connections.find(conn) else { return };
        if needs == 0 {
            connection.write(&mut effects.dirty).extend_from_slice(&bytes);
        } else {
            connection.held = Some(Held { bytes, needs });
        }
    }

    /// The client is connected: what waited for it may go.
    fn enter(&mut self, conn: ConnId, key: SessionKey, now: Now, effects: &mut Effects) {
        if let Some(connection) = self.connections.find(conn) {
            connection.phase = Phase::Open(key);
            self.pump(key, now, effects);
        }
    }

    /// The lane of a new stored session is open.
    pub(crate) fn on_lane_opened(&mut self, key: SessionKey, generation: u32, stored: Stored, now: Now, effects: &mut Effects) {
        let Some(session) = self.sessions.get_mut(key.0 as usize).filter(|have| have.generation == generation) else {
            // The session ended while its lane was opened.
            effects.requests.push(Request::RemoveLane { lane: stored.lane });
            return;
        };
        session.keeping = Keeping::Stored(stored);
        let conn = session.conn;
        self.save_session(key, effects);
        if let Some(conn) = conn {
            self.let_go(conn, now, effects);
        }
    }

    fn refusal(&self, connect: &Connect) -> Option<ReasonCode> {
        let limits = &self.setup.limits;
        if connect.authentication_method.is_some() {
            return Some(ReasonCode::BAD_AUTHENTICATION_METHOD); // [MQTT-4.12.0-1]
        }
        if connect.client_id.len() > limits.client_id_bytes_max as usize {
            return Some(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
        }
        if !self.setup.anonymous {
            return Some(ReasonCode::NOT_AUTHORIZED);
        }
        if connect.will.as_ref().is_some_and(|will| will.qos == Qos::ExactlyOnce) {
            return Some(ReasonCode::QOS_NOT_SUPPORTED); // [MQTT-3.2.2-12]
        }
        let known = self.by_client.contains_key(connect.client_id.as_str());
        let sessions_max = limits.sessions_max.div_ceil(u32::from(self.setup.shards)) as usize;
        if !known && self.sessions.len() >= sessions_max {
            return Some(ReasonCode::QUOTA_EXCEEDED);
        }
        None
    }

    fn refuse(&mut self, conn: ConnId, version: Version, reason: ReasonCode, now: Now, effects: &mut Effects) {
        self.counters.connects_refused += 1;
        let Some(connection) = self.connections.find(conn) else { return };
        connection.version = version;
        let ack = ConnAck::new(false, reason);
        // A reason that this version cannot say is said by closing.
        let _ = wire::encode_connack(connection.write(&mut effects.dirty), version, &ack);
        self.close(conn, now, effects);
    }

    /// The old connection of this client identifier ends [MQTT-3.1.4-3].
    fn take_over(&mut self, client_id: &str, now: Now, effects: &mut Effects) {
        let Some(&key) = self.by_client.get(client_id) else { return };
        let Some(old) = self.sessions.get(key.0 as usize).and_then(|session| session.conn) else { return };
        self.counters.closed_taken_over += 1;
        self.say_goodbye(old, ReasonCode::SESSION_TAKEN_OVER, now, effects);
    }

    /// Finds or makes the session. Returns it, whether it was there, and what must be durable before CONNACK.
    fn join(&mut self, connect: &Connect, effects: &mut Effects) -> (SessionKey, bool, Ticket) {
        let mut ticket = Ticket(0);
        if let Some(&key) = self.by_client.get(connect.client_id.as_str()) {
            if !connect.clean_start {
                return (key, true, ticket);
            }
            ticket = self.end_session(key, effects); // [MQTT-3.1.2-4]
        }
        let keeping = if self.expiry_secs(connect) > 0 { Keeping::Opening } else { Keeping::Clean };
        let session = self.new_session(&connect.client_id, keeping);
        (self.adopt(session), false, ticket)
    }

    /// Notes what CONNECT agreed on.
    fn describe(&mut self, conn: ConnId, key: SessionKey, connect: &Connect, now: Now) {
        let expiry_secs = self.expiry_secs(connect);
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        session.conn = Some(conn);
        session.expiry_secs = expiry_secs;
        session.ends_at = None;
        session.disconnected_at = now.timestamp;
        let Some(connection) = self.connections.find(conn) else { return };
        connection.phase = Phase::Joining(key);
        connection.session = Some(key);
        connection.version = connect.version;
        // [MQTT-3.1.2-22]: one and a half times the keep-alive.
        connection.silence_millis_max = u64::from(connect.keep_alive_secs) * 1_500;
        connection.window = connect.receive_max.get().min(self.setup.limits.session_inflight_max);
        connection.packet_bytes_max = connect.packet_bytes_max.map_or(u32::MAX, |bytes| bytes.get());
        connection.problem_information = connect.request_problem_information;
        connection.expiry_secs = expiry_secs;
        connection.will = connect.will.as_ref().map(|will| Will {
            topic: will.topic.as_str().into(),
            payload: will.payload.as_slice().into(),
            qos: will.qos,
            retain: will.retain,
            properties: will.properties.as_slice().into(),
        });
    }

    /// How long the session outlives its connection. A 3.1.1 session without Clean Session stays as long as we allow.
    fn expiry_secs(&self, connect: &Connect) -> u32 {
        let wanted = match (connect.version, connect.clean_start) {
            (Version::V3, true) => 0,
            (Version::V3, false) => u32::MAX,
            (Version::V5, _) => connect.session_expiry_secs,
        };
        wanted.min(self.setup.limits.session_expiry_secs_max)
    }

    fn connack(&self, connect: &Connect, session_present: bool, assigned: bool) -> ConnAck {
        let limits = &self.setup.limits;
        let mut ack = ConnAck::new(session_present, ReasonCode::SUCCESS);
        let expiry_secs = self.expiry_secs(connect);
        ack.session_expiry_secs = (expiry_secs != connect.session_expiry_secs).then_some(expiry_secs);
        ack.receive_max = limits.receive_max.try_into().unwrap_or(wire::RECEIVE_MAX_DEFAULT);
        ack.qos_max = Qos::AtLeastOnce;
        ack.packet_bytes_max = limits.packet_bytes_max.try_into().ok();
        ack.shared_subscriptions_available = false;
        ack.assigned_client_id = assigned.then(|| connect.client_id.clone()); // [MQTT-3.1.3-7]
        ack
    }

    /// A client identifier that nobody has, at home in this shard, so that the socket need not move.
    fn assign_client_id(&mut self) -> String {
        loop {
            self.ids_assigned += 1;
            let unique = self.setup.seed ^ self.ids_assigned.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let client_id = format!("auto-{unique:016x}");
            let here: ShardId = home(self.setup.home_seed, self.setup.shards, &client_id);
            if here == self.setup.shard && !self.by_client.contains_key(client_id.as_str()) {
                return client_id;
            }
        }
    }
}
