//! How a session begins: CONNECT, whose session it is, CONNACK (MQTT 5.0 §3.1, §3.2, §4.1).
//!
//! In: a CONNECT. Out: a CONNACK, at once or when the lane or the disk is ready; or the socket for another shard.
//! Always: a client identifier has one session and at most one connection [MQTT-3.1.4-3].

use model::{ConnId, LaneId, Now, Seq, ShardId, Ticket};
use wire::{ConnAck, Connect, ReasonCode, Version};

use super::{topic_fits, words};
use crate::acks::{Acks, Answer, Promise};
use crate::aliases::OutboundAliases;
use crate::broker::{Broker, home};
use crate::connections::{Held, Phase, Will};
use crate::effects::{Effects, Request};
use crate::retained::is_system;
use crate::sessions::{Keeping, Session, Stored, Vouched};
use crate::subscriptions::SessionKey;
use crate::uplink::OWN_CLIENTS;

impl Broker {
    /// A CONNECT came. `false`: the connection belongs to another shard, which will read the CONNECT itself.
    pub(super) fn on_connect(
        &mut self,
        conn: ConnId,
        mut connect: Connect,
        now: Now,
        effects: &mut Effects,
    ) -> bool {
        self.note(conn, &connect);
        if let Some(reason) = self.connections.get(conn).and_then(|connection| connection.peer.turned_away) {
            self.refuse(conn, connect.version, reason, now, effects);
            return true;
        }
        if self.setup.offers.redirect.as_ref().is_some_and(|redirect| redirect.moved) {
            self.refuse(conn, connect.version, ReasonCode::SERVER_MOVED, now, effects);
            return true;
        }
        let assigned = connect.client_id.is_empty();
        if assigned {
            connect.client_id = self.assign_client_id();
        }
        let home = self.home(&connect.client_id);
        if home != self.setup.shard {
            effects.relocations.push((conn, home));
            return false;
        }
        let refusal = self
            .refusal(&connect)
            .or_else(|| self.refusal_by_name(conn, &connect.client_id))
            .or_else(|| self.refusal_by_size(conn, &connect, assigned));
        if let Some(reason) = refusal {
            self.refuse(conn, connect.version, reason, now, effects);
            return true;
        }
        self.admit(conn, connect, assigned, now, effects);
        true
    }

    /// Gives a client that may come in its session.
    pub(super) fn welcome(
        &mut self,
        conn: ConnId,
        connect: &Connect,
        assigned: bool,
        now: Now,
        effects: &mut Effects,
    ) {
        let has_queue = self.hub_client(conn).is_some_and(|client| client.is_own_module);
        self.take_over(&connect.client_id, now, effects);
        let (key, session_present, ended) = self.join(connect, has_queue, now, effects);
        self.describe(conn, key, connect, has_queue, now);
        if has_queue && self.sessions[key.0 as usize].keeping != Keeping::Opening {
            self.subscribe_inputs(key, effects); // of a session from before there were inputs
        }
        if session_present && self.has_rules {
            self.recheck_subscriptions(conn, key, effects);
        }
        if self.has_hub {
            let features = self.features_of(key);
            self.park_on_connect(key, features);
        }
        let mut bytes = Vec::new();
        let ack = self.connack(conn, connect, session_present, assigned);
        let fits = self.append_connack(conn, connect.version, ack, &mut bytes);
        debug_assert!(fits, "our own CONNACK can be encoded, and `refusal_by_size` has tried");
        self.counters.connects_accepted += 1;
        // Saved: what is sent from now on may have been sent when it is sent again after a crash.
        let ticket = ended.max(self.save_session(key, effects));
        let opening = self.sessions[key.0 as usize].keeping == Keeping::Opening;
        let inherits = self.waits_for_estate(conn, &connect.client_id);
        self.hold(conn, bytes, u32::from(opening) + u32::from(inherits), ticket, now, effects);
    }

    /// Sends an answer once `ticket` is durable and `needs` more things have come true; until then its connection is
    /// not read.
    pub(super) fn hold(
        &mut self,
        conn: ConnId,
        bytes: Vec<u8>,
        mut needs: u32,
        ticket: Ticket,
        now: Now,
        effects: &mut Effects,
    ) {
        let promise = Promise { ticket, ..Promise::default() };
        if self.acks.check(&promise).is_none() {
            needs += 1;
            self.acks.wait(Acks::queue(&promise), conn, promise, Answer::Held);
        }
        let Some(connection) = self.connections.find(conn) else { return };
        connection.held = Some(Held { bytes, needs });
        if needs == 0 {
            self.answer(conn, now, effects);
        }
    }

    /// One of the things that the held answer of `conn` waits for came true.
    pub(crate) fn let_go(&mut self, conn: ConnId, now: Now, effects: &mut Effects) {
        let Some(held) = self.connections.find(conn).and_then(|connection| connection.held.as_mut()) else {
            return;
        };
        held.needs -= 1;
        if held.needs == 0 {
            effects.resumed.push(conn);
            self.answer(conn, now, effects);
        }
    }

    /// The held answer leaves; behind it, what waited for the client.
    fn answer(&mut self, conn: ConnId, now: Now, effects: &mut Effects) {
        let Some(connection) = self.connections.find(conn) else { return };
        let Some(held) = connection.held.take() else { return };
        connection.write(&mut effects.dirty).extend_from_slice(&held.bytes);
        if let Phase::Joining(key) = connection.phase {
            connection.phase = Phase::Open(key);
            self.announce_member(key, true, effects);
            if self.has_hub {
                self.tell_connected(conn, key, effects);
            }
        }
        let Some(connection) = self.connections.find(conn) else { return };
        if let Phase::Open(key) = connection.phase {
            self.pump(key, now, effects); // behind CONNACK or SUBACK, what waited for it
        }
    }

    /// The lane of a new stored session is open.
    pub(crate) fn on_lane_opened(
        &mut self,
        key: SessionKey,
        generation: u32,
        (lane, head, next): (LaneId, Seq, Seq),
        now: Now,
        effects: &mut Effects,
    ) {
        let opened = self.sessions.get_mut(key.0 as usize).filter(|session| session.generation == generation);
        let Some(session) = opened.filter(|session| session.keeping == Keeping::Opening) else {
            if self.has_hub && self.on_input_opened(key, generation, (lane, head, next), effects) {
                return;
            }
            self.on_lane_unwanted(generation, lane, effects);
            return;
        };
        // The session is new. What is in its lane belongs to an earlier one, which ended just before a crash.
        session.keeping = Keeping::Stored(Stored::new(lane, next, next));
        let conn = session.conn;
        if let Some(last) = Seq::new(next.get() - 1).filter(|last| *last >= head) {
            effects.advance(lane, last);
        }
        let ticket = self.save_session(key, effects);
        if self.has_hub {
            self.open_inputs(key, effects);
        }
        let Some(conn) = conn else { return };
        // CONNACK promises the session: a client that is told of another one after a crash drops what it has not finished.
        let promise = Promise { ticket, ..Promise::default() };
        match self.acks.check(&promise) {
            Some(_) => self.let_go(conn, now, effects),
            None => self.acks.wait(Acks::queue(&promise), conn, promise, Answer::Held),
        }
    }

    /// The session ended while its lane was being opened. Lanes are found by client identifier: if the client has a
    /// stored session again, this is its lane now.
    fn on_lane_unwanted(&mut self, generation: u32, lane: LaneId, effects: &mut Effects) {
        let Some(at) = self.ended_opening.iter().position(|(have, _)| *have == generation) else { return };
        let (_, client_id) = self.ended_opening.swap_remove(at);
        let again = self.by_client.get(&client_id).and_then(|key| self.sessions.get(key.0 as usize));
        if !again.is_some_and(Session::is_stored) {
            effects.requests.push(Request::RemoveLane { lane });
        }
    }

    /// Why a client cannot be served, whoever it is.
    pub(super) fn refusal(&self, connect: &Connect) -> Option<ReasonCode> {
        let limits = &self.setup.limits;
        if let Some(refused) = enhanced_authentication(connect) {
            return Some(refused);
        }
        if connect.client_id.len() > limits.client_id_bytes_max as usize {
            return Some(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
        }
        if connect.will.as_ref().is_some_and(|will| is_system(&will.topic)) {
            return Some(ReasonCode::NOT_AUTHORIZED);
        }
        if connect.will.as_ref().is_some_and(|will| !topic_fits(&will.topic, limits)) {
            return Some(ReasonCode::TOPIC_NAME_INVALID);
        }
        let known = self.by_client.contains_key(connect.client_id.as_str());
        let sessions_max = limits.sessions_max.div_ceil(u32::from(self.setup.shards)) as usize;
        if !known && self.sessions.len() >= sessions_max {
            return Some(ReasonCode::QUOTA_EXCEEDED);
        }
        if self.is_tight && self.cannot_remember(&connect.client_id, self.expiry_secs(connect)) {
            return Some(ReasonCode::SERVER_UNAVAILABLE);
        }
        None
    }

    /// Who took the client identifier of an uplink that is down would keep it out, and what it published would be taken for
    /// what came from upstream, and never go there.
    fn refusal_by_name(&self, conn: ConnId, client_id: &str) -> Option<ReasonCode> {
        let user = self.connections.get(conn).and_then(|it| it.peer.certificate_user.as_deref());
        let is_taken = client_id.starts_with(OWN_CLIENTS) && user != Some(client_id);
        is_taken.then_some(ReasonCode::NOT_AUTHORIZED)
    }

    pub(super) fn refuse(
        &mut self,
        conn: ConnId,
        version: Version,
        reason: ReasonCode,
        now: Now,
        effects: &mut Effects,
    ) {
        self.counters.connects_refused += 1;
        let mut ack = ConnAck::new(false, reason);
        let connection = self.connections.get(conn);
        let at_the_door = connection.is_some_and(|connection| connection.peer.turned_away.is_some());
        ack.reason_string = words::of_refusal(reason, at_the_door, &self.setup.limits);
        if matches!(reason, ReasonCode::SERVER_MOVED | ReasonCode::USE_ANOTHER_SERVER) {
            let redirect = self.setup.offers.redirect.as_ref();
            ack.server_reference = redirect.map(|redirect| redirect.to.to_string());
        }
        let mut bytes = Vec::new();
        // What this version cannot say, or this client does not take, is said by closing.
        if self.append_connack(conn, version, ack, &mut bytes)
            && let Some(connection) = self.connections.find(conn)
        {
            connection.version = version;
            connection.write(&mut effects.dirty).extend_from_slice(&bytes);
        }
        self.close(conn, now, effects);
    }

    /// Notes what bounds our answer, whatever it will be.
    fn note(&mut self, conn: ConnId, connect: &Connect) {
        let Some(connection) = self.connections.find(conn) else { return };
        connection.version = connect.version;
        connection.wants_words = connect.request_problem_information;
        connection.packet_bytes_max = connect.packet_bytes_max.map_or(u32::MAX, |bytes| bytes.get());
    }

    /// A client that cannot even take our CONNACK must be told before it has a session.
    fn refusal_by_size(&mut self, conn: ConnId, connect: &Connect, assigned: bool) -> Option<ReasonCode> {
        connect.packet_bytes_max?;
        let ack = self.connack(conn, connect, false, assigned);
        let fits = self.append_connack(conn, connect.version, ack, &mut Vec::new());
        (!fits).then_some(ReasonCode::PACKET_TOO_LARGE)
    }

    /// Appends a CONNACK, if need be without what a client can do without; `false` if that is still too large.
    fn append_connack(&self, conn: ConnId, version: Version, ack: ConnAck, out: &mut Vec<u8>) -> bool {
        let Some(connection) = self.connections.get(conn) else { return false };
        let bare = ConnAck { reason_string: None, response_information: None, ..ack.clone() };
        let (wants_words, bytes_max) = words::room(connection);
        // Response Information was asked for, whatever the client thinks of words.
        let room = (wants_words || ack.response_information.is_some(), bytes_max);
        let ack = ConnAck { reason_string: ack.reason_string.filter(|_| wants_words), ..ack };
        words::append_fitting(out, room, |out, full| {
            wire::encode_connack(out, version, if full { &ack } else { &bare })
        })
    }

    /// The old connection of this client identifier ends [MQTT-3.1.4-3].
    fn take_over(&mut self, client_id: &str, now: Now, effects: &mut Effects) {
        let Some(&key) = self.by_client.get(client_id) else { return };
        let Some(old) = self.sessions.get(key.0 as usize).and_then(|session| session.conn) else { return };
        self.counters.closed_taken_over += 1;
        self.say_goodbye(old, ReasonCode::SESSION_TAKEN_OVER, now, effects);
    }

    /// Finds or makes the session. Returns it, whether it was there, and what must be durable before CONNACK.
    fn join(
        &mut self,
        connect: &Connect,
        has_queue: bool,
        now: Now,
        effects: &mut Effects,
    ) -> (SessionKey, bool, Ticket) {
        let mut ticket = Ticket(0);
        if let Some(&key) = self.by_client.get(connect.client_id.as_str()) {
            let session = &self.sessions[key.0 as usize];
            let opening = session.keeping == Keeping::Opening;
            if has_queue && session.is_stored() && !session.is_over(now) {
                // Nobody has had a session that only waited for its module.
                let present = !connect.clean_start && !opening && session.owner.is_some();
                if connect.clean_start {
                    self.publish_delayed_will(key, now, effects); // what it was is over
                    self.begin_module_anew(key, effects);
                } else {
                    self.publish_will_if_due(key, now, effects);
                }
                return (key, present, effects.appends.last);
            }
            if !connect.clean_start && !session.is_over(now) {
                self.publish_will_if_due(key, now, effects);
                // While its lane is being opened nobody was told of the session, and an end before it may not be
                // durable yet.
                return (key, !opening, if opening { effects.appends.last } else { ticket });
            }
            self.publish_delayed_will(key, now, effects); // its session ends: the delay is over
            ticket = self.end_session(key, effects); // [MQTT-3.1.2-4]
        }
        let keeping =
            if has_queue || self.expiry_secs(connect) > 0 { Keeping::Opening } else { Keeping::Clean };
        let session = self.new_session(&connect.client_id, keeping);
        let key = self.adopt(session);
        if keeping == Keeping::Opening {
            self.open_lane(key, effects);
        }
        (key, false, ticket)
    }

    /// Notes what CONNECT agreed on.
    fn describe(&mut self, conn: ConnId, key: SessionKey, connect: &Connect, has_queue: bool, now: Now) {
        // The queue of a module is there as long as the module.
        let expiry_secs = if has_queue { u32::MAX } else { self.expiry_secs(connect) };
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        session.conn = Some(conn);
        session.expiry_secs = expiry_secs;
        session.ends_at = None;
        session.delayed_will = None; // [MQTT-3.1.3-9]
        session.disconnected_at = now.timestamp;
        let Some(connection) = self.connections.find(conn) else { return };
        session.owner = connection.identity.user.clone();
        session.vouched = match (connection.identity.by_edge, connection.identity.certificate) {
            (true, _) => Vouched::Edge,
            (false, true) => Vouched::Certificate,
            (false, false) => Vouched::Users,
        };
        connection.phase = Phase::Joining(key);
        connection.session = Some(key);
        // [MQTT-3.1.2-22]: one and a half times the keep-alive; ours, if the client was told one [MQTT-3.2.2-21].
        let keep_alive_secs =
            server_keep_alive(connect, &self.setup.limits).unwrap_or(connect.keep_alive_secs);
        connection.silence_millis_max = u64::from(keep_alive_secs) * 1_500;
        connection.window = connect.receive_max.get().min(self.setup.limits.session_inflight_max);
        // [MQTT-3.3.2-11]
        let aliases_max = connect.topic_alias_max.min(self.setup.limits.topic_alias_max);
        connection.aliases_out = OutboundAliases::new(aliases_max);
        connection.expiry_secs = expiry_secs;
        connection.will = connect.will.as_ref().map(|will| Will {
            topic: will.topic.as_str().into(),
            payload: will.payload.as_slice().into(),
            qos: will.qos,
            retain: will.retain,
            delay_secs: will.delay_secs,
            expiry_secs: will.expiry_secs,
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

    fn connack(&self, conn: ConnId, connect: &Connect, session_present: bool, assigned: bool) -> ConnAck {
        let limits = &self.setup.limits;
        let mut ack = ConnAck::new(session_present, ReasonCode::SUCCESS);
        let expiry_secs = self.expiry_secs(connect);
        ack.session_expiry_secs = (expiry_secs != connect.session_expiry_secs).then_some(expiry_secs);
        ack.receive_max = limits.receive_max.try_into().unwrap_or(wire::RECEIVE_MAX_DEFAULT);
        let inbound = self.connections.get(conn).map(|connection| connection.inbound_bytes_max);
        ack.packet_bytes_max = inbound.unwrap_or(limits.packet_bytes_max).try_into().ok();
        ack.topic_alias_max = limits.topic_alias_max;
        ack.keep_alive_secs = server_keep_alive(connect, limits);
        if connect.request_response_information {
            ack.response_information = self.setup.offers.response_information(&connect.client_id); // [MQTT-3.1.2-28]
        }
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

/// The keep-alive that we tell a client in place of its own: if it wants a longer one than we allow, or none.
/// 3.1.1 has no way to say so.
fn server_keep_alive(connect: &Connect, limits: &model::Limits) -> Option<u16> {
    let (wanted, longest) = (connect.keep_alive_secs, limits.keep_alive_secs_max);
    let too_long = longest > 0 && (wanted == 0 || wanted > longest);
    (connect.version == Version::V5 && too_long).then_some(longest)
}

/// Where an exchange of AUTH packets would begin (MQTT 5.0 §4.12). There is no method that we know, so whoever names one is
/// refused, and no exchange is ever under way: an AUTH packet is a protocol error ([MQTT-4.12.0-6]).
fn enhanced_authentication(connect: &Connect) -> Option<ReasonCode> {
    connect.authentication_method.as_ref().map(|_| ReasonCode::BAD_AUTHENTICATION_METHOD) // [MQTT-4.12.0-1]
}
