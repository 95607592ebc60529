//! Who comes in: what a CONNECT shows, who verifies it, and whose session it may take (MQTT 5.0 §4.12, §5.4).
//!
//! In: a CONNECT; later the verdict on its password. Out: a welcome, a question on the tray, or a CONNACK that refuses.
//! Always: while somebody verifies, the connection is not read, and it waits at most
//! `limits.authentication_timeout_millis`; a session belongs to the user who made it as long as that user exists.

use std::rc::Rc;

use model::{ConnId, Now};
use wire::{Connect, ReasonCode, Version};

use crate::access::{Admission, Verdict};
use crate::broker::Broker;
use crate::connections::{Asked, Identity, Phase};
use crate::effects::{Authentication, Effects};
use crate::sessions::Vouched;

impl Broker {
    /// Lets a client in, asks about it, or turns it away.
    pub(super) fn admit(
        &mut self,
        conn: ConnId,
        connect: Connect,
        assigned: bool,
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(connection) = self.connections.get(conn) else { return };
        let peer = &connection.peer;
        match self.setup.access.admit(peer, &connect) {
            Admission::Anonymous => {
                self.enter(conn, connect, assigned, Identity::default(), now, effects);
            }
            Admission::Certificate => {
                let user = peer.certificate_user.as_deref().map(Rc::from);
                let identity = Identity { user, certificate: true, ..Identity::default() };
                self.enter(conn, connect, assigned, identity, now, effects);
            }
            Admission::Ask => self.ask(conn, connect, assigned, false, now, effects),
            Admission::AskIdentity => self.ask(conn, connect, assigned, true, now, effects),
            Admission::Refused(reason) => self.turn_away(conn, connect.version, reason, now, effects),
        }
    }

    /// Puts the question who a client is on the tray; its CONNECT waits.
    fn ask(
        &mut self,
        conn: ConnId,
        connect: Connect,
        assigned: bool,
        is_identity: bool,
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(connection) = self.connections.find(conn) else { return };
        effects.authentications.push(Authentication {
            conn,
            listener: connection.peer.listener,
            client_id: connect.client_id.as_str().into(),
            user: connect.user_name.as_deref().unwrap_or_default().into(),
            password: connect.password.as_deref().map(Into::into),
            is_identity,
            shown: connection.peer.shown.clone().filter(|_| is_identity),
        });
        connection.phase = Phase::Authenticating;
        connection.asked = Some(Box::new(Asked { connect, assigned }));
        self.asked.push_back((now.instant, conn));
    }

    /// Somebody verified a password; the client may be gone, or may have waited too long.
    pub(crate) fn on_authenticated(
        &mut self,
        conn: ConnId,
        verdict: Verdict,
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(asked) = self.connections.find(conn).and_then(|connection| connection.asked.take()) else {
            return;
        };
        let Asked { connect, assigned } = *asked;
        effects.resumed.push(conn);
        let reason = match verdict {
            // Users may have been replaced while it was verified.
            Verdict::Accepted { user, print } if self.setup.access.print_of(&user) == Some(print) => {
                let identity =
                    Identity { user: Some(Rc::from(&*user)), print: Some(print), ..Identity::default() };
                self.enter(conn, connect, assigned, identity, now, effects);
                return;
            }
            Verdict::Identified { user } => {
                let identity =
                    Identity { user: Some(Rc::from(&*user)), by_edge: true, ..Identity::default() };
                self.enter(conn, connect, assigned, identity, now, effects);
                return;
            }
            Verdict::Accepted { .. } | Verdict::BadCredentials => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
            Verdict::NotAuthorized => ReasonCode::NOT_AUTHORIZED,
            Verdict::TooManyAttempts => ReasonCode::CONNECTION_RATE_EXCEEDED,
            Verdict::Busy => ReasonCode::SERVER_BUSY,
            Verdict::Unusable => ReasonCode::SERVER_UNAVAILABLE,
            Verdict::TooManyClients => ReasonCode::QUOTA_EXCEEDED,
        };
        self.turn_away(conn, connect.version, reason, now, effects);
    }

    /// The edge does not know the client any more, or what it showed has expired.
    pub(crate) fn on_withdrawn(&mut self, conn: ConnId, now: Now, effects: &mut Effects) {
        let is_known = |connection: &crate::connections::Connection| connection.identity.by_edge;
        if self.connections.get(conn).is_some_and(is_known) {
            self.counters.closed_access_withdrawn += 1;
            self.say_goodbye(conn, ReasonCode::NOT_AUTHORIZED, now, effects);
        }
    }

    /// Ends the wait of clients whose password nobody verified in time.
    pub(crate) fn end_unverified(&mut self, now: Now, effects: &mut Effects) {
        let timeout = self.setup.limits.authentication_timeout_millis;
        while let Some(&(since, conn)) = self.asked.front() {
            let waits = self.connections.find(conn).filter(|connection| connection.asked.is_some());
            let Some(connection) = waits else {
                self.asked.pop_front();
                continue;
            };
            if now.instant.millis_since(since) <= timeout {
                return;
            }
            self.asked.pop_front();
            let version = connection.asked.take().map_or(Version::V3, |asked| asked.connect.version);
            self.turn_away(conn, version, ReasonCode::SERVER_UNAVAILABLE, now, effects);
        }
    }

    /// A client whose identity is known: what it asks for must be allowed, and then it has its session.
    fn enter(
        &mut self,
        conn: ConnId,
        connect: Connect,
        assigned: bool,
        identity: Identity,
        now: Now,
        effects: &mut Effects,
    ) {
        // Again, if it was asked about: other clients have come meanwhile.
        if let Some(reason) = self.refusal(&connect) {
            self.refuse(conn, connect.version, reason, now, effects);
            return;
        }
        let user = identity.user.as_deref();
        let id_fits = assigned || self.setup.access.takes_client_id(user, &connect.client_id);
        if !id_fits || !self.may_take_session(&identity, &connect.client_id) {
            self.turn_away(conn, connect.version, ReasonCode::NOT_AUTHORIZED, now, effects);
            return;
        }
        let Some(connection) = self.connections.find(conn) else { return };
        connection.identity = identity;
        self.recognise(conn, &connect);
        self.grant_rights(conn, &connect.client_id);
        if let Some(will) = &connect.will
            && !self.may_leave_will(conn, &connect.client_id, &will.topic, effects)
        {
            self.turn_away(conn, connect.version, ReasonCode::NOT_AUTHORIZED, now, effects);
            return;
        }
        self.welcome(conn, &connect, assigned, now, effects);
    }

    /// Whether the session of this client identifier, if there is one, is open to `user`.
    ///
    /// It belongs to the user who made it: another one would get its messages, or end its connection. Where nobody owns
    /// it, or its owner exists no longer, it goes to whoever comes.
    fn may_take_session(&self, identity: &Identity, client_id: &str) -> bool {
        let user = identity.user.as_deref();
        // The queue of a module is the module's, also before it has come for the first time.
        if self.has_hub && self.inputs_filter(client_id).is_some() {
            return identity.by_edge && user == Some(client_id);
        }
        let session = self.by_client.get(client_id).and_then(|key| self.sessions.get(key.0 as usize));
        let Some(owner) = session.and_then(|session| session.owner.as_deref()) else { return true };
        if user == Some(owner) {
            return true;
        }
        let is_gone = |users: &crate::access::Users| !users.contains(owner);
        session.is_some_and(|session| session.vouched == Vouched::Users && session.conn.is_none())
            && self.setup.access.users.as_ref().is_none_or(is_gone)
    }

    /// Refuses a CONNECT for want of a right, and counts why.
    fn turn_away(
        &mut self,
        conn: ConnId,
        version: Version,
        reason: ReasonCode,
        now: Now,
        effects: &mut Effects,
    ) {
        match reason {
            ReasonCode::BAD_USER_NAME_OR_PASSWORD => self.counters.refused_credentials += 1,
            ReasonCode::CONNECTION_RATE_EXCEEDED => self.counters.refused_too_many_attempts += 1,
            ReasonCode::SERVER_BUSY | ReasonCode::SERVER_UNAVAILABLE => self.counters.refused_busy += 1,
            _ => self.counters.refused_not_authorized += 1,
        }
        self.refuse(conn, version, reason, now, effects);
    }
}
