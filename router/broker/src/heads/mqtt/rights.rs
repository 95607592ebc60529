//! Who may do what: each publication and subscription against the rules, and all of them again when rules change.
//!
//! In: topics of clients, new rules. Out: yes or no; denials for the log; what new rules take away.
//! Always: a topic that a client publishes to twice in a row is looked up once; without rules nothing is looked up.
//! What routes publish again is the operator's own and is not checked.

use std::rc::Rc;
use std::sync::Arc;

use model::{ConnId, Now, Qos, TopicFilter};
use wire::{AckKind, Publish, ReasonCode, Version};

use super::{Fault, PeerFault};
use crate::access::{self, Access, Decision, DeniedV3, Effect, Ruleset, Subject};
use crate::acks::{OwedAck, Promise};
use crate::broker::Broker;
use crate::connections::{Connection, Identity, Rights};
use crate::effects::{Denial, Effects};
use crate::heads::iothub::is_reserved;
use crate::sessions::{Session, Vouched};
use crate::subscriptions::SessionKey;

impl Broker {
    /// Looks up who a connection is to the rules.
    pub(super) fn grant_rights(&mut self, conn: ConnId, client_id: &str) {
        let Some(connection) = self.connections.find(conn) else { return };
        let rules = self.setup.access.rules.as_ref();
        connection.rights = rules.map(|rules| {
            let subject = rules.subject(seen_by_rules(&connection.identity, client_id));
            Box::new(Rights { subject, ..Rights::default() })
        });
    }

    /// Whether a connection may publish to a topic. Only asked where there are rules.
    pub(crate) fn may_publish(&mut self, conn: ConnId, topic: &str) -> bool {
        let rules = self.setup.access.rules.as_ref();
        let rights = self.connections.find(conn).and_then(|connection| connection.rights.as_deref_mut());
        let (Some(rules), Some(rights)) = (rules, rights) else { return false };
        if rights.topic != topic {
            rights.allowed = rules.may_publish(&rights.subject, topic).effect == Effect::Allow;
            rights.topic.clear();
            rights.topic.push_str(topic);
        }
        rights.allowed
    }

    /// Drops a publication that the rules deny, and says so where the version can: in PUBACK or PUBREC, else as
    /// configured [MQTT3-3.3.5-2].
    pub(super) fn deny_publish(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        publish: &Publish<'_>,
        effects: &mut Effects,
    ) -> Result<Option<OwedAck>, Fault> {
        self.counters.received += 1;
        self.counters.received_bytes += publish.payload.len() as u64;
        self.counters.denied_publish += 1;
        let client_id = Rc::clone(&self.sessions[key.0 as usize].client_id);
        let decision = self.decide(conn, |rules, rights| rules.may_publish(&rights.subject, publish.topic));
        self.report(conn, &client_id, "publish", publish.topic, decision, effects);
        let v3 = self.connections.get(conn).is_none_or(|connection| connection.version == Version::V3);
        if v3 && self.setup.access.denied_v3 == DeniedV3::Disconnect {
            return Err(Fault::Peer(PeerFault::NotAuthorized));
        }
        let kind = match publish.qos {
            Qos::AtMostOnce => return Ok(None),
            Qos::AtLeastOnce => AckKind::PubAck,
            Qos::ExactlyOnce => AckKind::PubRec,
        };
        Ok(publish.packet_id.map(|packet_id| OwedAck { kind, packet_id, reason: ReasonCode::NOT_AUTHORIZED }))
    }

    /// Whether a connection may leave a will.
    pub(super) fn may_leave_will(
        &mut self,
        conn: ConnId,
        client_id: &str,
        topic: &str,
        effects: &mut Effects,
    ) -> bool {
        if let Some(may) = self.may_leave_hub_will(conn, topic) {
            self.counters.denied_publish += u64::from(!may);
            return may;
        }
        let decision = self.decide(conn, |rules, rights| rules.may_publish(&rights.subject, topic));
        let Some(decision) = decision.filter(|decision| decision.effect == Effect::Deny) else { return true };
        self.counters.denied_publish += 1;
        self.report(conn, client_id, "leave a will", topic, Some(decision), effects);
        false
    }

    /// Whether a connection may subscribe to a filter, given without its share name.
    pub(super) fn may_subscribe(
        &mut self,
        conn: ConnId,
        filter: &TopicFilter,
        effects: &mut Effects,
    ) -> bool {
        if self.has_hub
            && let Some(may) = self.may_have_hub_filter(conn, filter, effects)
        {
            return may;
        }
        if !self.has_rules {
            return true;
        }
        let decision =
            self.decide(conn, |rules, rights| rules.may_subscribe(&rights.subject, filter.as_str()));
        if decision.is_some_and(|decision| decision.effect == Effect::Allow) {
            return true;
        }
        self.counters.denied_subscribe += 1;
        let session = self.connections.get(conn).and_then(|connection| connection.session);
        let session = session.and_then(|key| self.sessions.get(key.0 as usize));
        let client_id = session.map_or_else(|| "".into(), |session| Rc::clone(&session.client_id));
        self.report(conn, &client_id, "subscribe", filter.as_str(), decision, effects);
        false
    }

    fn decide(&self, conn: ConnId, ask: impl FnOnce(&Ruleset, &Rights) -> Decision) -> Option<Decision> {
        let rights = self.connections.get(conn)?.rights.as_deref()?;
        Some(ask(self.setup.access.rules.as_ref()?, rights))
    }

    fn report(
        &mut self,
        conn: ConnId,
        client_id: &str,
        what: &'static str,
        topic: &str,
        decision: Option<Decision>,
        effects: &mut Effects,
    ) {
        if self.denials_left == 0 {
            self.denials_unsaid += 1;
            return;
        }
        self.denials_left -= 1;
        let rules = self.setup.access.rules.as_ref().map_or(&[][..], Ruleset::rules);
        let rule = decision.and_then(|decision| rules.get(decision.rule?));
        let user = self.connections.get(conn).and_then(|connection| connection.identity.user.as_deref());
        effects.denials.push(Denial {
            client_id: client_id.into(),
            user: user.map(Into::into),
            what,
            topic: topic.into(),
            rule: rule
                .map_or_else(|| "no rule allows it".to_owned(), |rule| format!("{}: {rule}", rule.origin)),
            unsaid: std::mem::take(&mut self.denials_unsaid),
        });
    }

    /// Replaces users and rules, between turns.
    ///
    /// Who may not be connected any more is disconnected. Who may, stays; subscriptions and wills that the new rules deny
    /// are removed. What was already accepted for such a subscription is still delivered.
    pub fn replace_access(&mut self, access: Arc<Access>, now: Now, effects: &mut Effects) {
        self.has_rules = access.rules.is_some();
        self.setup.access = access;
        let connected: Vec<ConnId> = self.connections.iter().map(|connection| connection.id).collect();
        for conn in connected {
            let Some(connection) = self.connections.get(conn) else { continue };
            let Some(key) = connection.session else { continue };
            if !self.may_stay(connection) {
                self.counters.closed_access_withdrawn += 1;
                self.say_goodbye(conn, ReasonCode::ADMINISTRATIVE_ACTION, now, effects);
                continue;
            }
            let client_id = Rc::clone(&self.sessions[key.0 as usize].client_id);
            self.grant_rights(conn, &client_id);
        }
        self.withdraw_denied(effects);
    }

    /// Removes what sessions have and the rules deny.
    pub(crate) fn withdraw_denied(&mut self, effects: &mut Effects) {
        self.withdraw_subscriptions(effects);
        self.withdraw_wills(effects);
    }

    /// Whether a connection that came in under earlier users could come in now.
    fn may_stay(&self, connection: &Connection) -> bool {
        match (&connection.identity.user, connection.identity.print) {
            (None, _) => self.setup.access.takes_anonymous(connection.peer.listener),
            (Some(user), Some(print)) => self.setup.access.print_of(user) == Some(print),
            (Some(_), None) => true, // a certificate: the edge verified it
        }
    }

    /// Removes every subscription that the rules deny its owner.
    fn withdraw_subscriptions(&mut self, effects: &mut Effects) {
        let Some(rules) = self.setup.access.rules.as_ref() else { return };
        let mut denied: Vec<(SessionKey, Vec<Box<str>>)> = Vec::new();
        // A session without connection whose owner is not known is checked when its client comes back.
        let known =
            self.sessions.iter().filter(|(_, session)| session.conn.is_some() || session.owner.is_some());
        for (key, session) in known {
            let mut filters = denied_filters(rules, &rules.subject(owner_of(session)), session);
            filters.retain(|filter| !self.is_own_hub_filter(SessionKey(key as u32), filter));
            if !filters.is_empty() {
                denied.push((SessionKey(key as u32), filters));
            }
        }
        for (key, filters) in denied {
            for filter in filters {
                self.counters.access_withdrawn += 1;
                self.forget_subscription(key, &filter, effects);
            }
        }
    }

    /// The rules may have changed while the client was away.
    pub(super) fn recheck_subscriptions(&mut self, conn: ConnId, key: SessionKey, effects: &mut Effects) {
        let (Some(rules), Some(connection)) = (&self.setup.access.rules, self.connections.get(conn)) else {
            return;
        };
        let Some(rights) = connection.rights.as_deref() else { return };
        let mut denied = denied_filters(rules, &rights.subject, &self.sessions[key.0 as usize]);
        denied.retain(|filter| !self.is_own_hub_filter(key, filter));
        for filter in denied {
            self.counters.access_withdrawn += 1;
            self.forget_subscription(key, &filter, effects);
        }
    }

    /// Removes every will that the rules deny its owner.
    fn withdraw_wills(&mut self, effects: &mut Effects) {
        let Some(rules) = self.setup.access.rules.as_ref() else { return };
        let mut withdrawn = Vec::new();
        let has_hub = self.has_hub;
        let by_rules = |topic: &str| !(has_hub && is_reserved(topic));
        for connection in self.connections.iter_mut() {
            let denied = |topic: &str, rights: &Rights| {
                rules.may_publish(&rights.subject, topic).effect == Effect::Deny
            };
            if let (Some(will), Some(rights)) = (&connection.will, &connection.rights)
                && by_rules(&will.topic)
                && denied(&will.topic, rights)
            {
                connection.will = None;
                withdrawn.extend(connection.session);
                self.counters.access_withdrawn += 1;
            }
        }
        for (key, session) in &mut self.sessions {
            let Some(delayed) = &session.delayed_will else { continue };
            if by_rules(&delayed.will.topic)
                && rules.may_publish(&rules.subject(owner_of(session)), &delayed.will.topic).effect
                    == Effect::Deny
            {
                session.delayed_will = None;
                withdrawn.push(SessionKey(key as u32));
                self.counters.access_withdrawn += 1;
            }
        }
        for key in withdrawn {
            self.save_session(key, effects);
        }
    }

    /// Owes the answer to a denied publication, behind those that are owed already.
    pub(super) fn owe_denial(&mut self, conn: ConnId, ack: Option<OwedAck>, effects: &mut Effects) {
        if let Some(ack) = ack {
            self.owe(conn, ack, Promise::default(), effects);
        }
    }
}

fn seen_by_rules<'a>(identity: &'a Identity, client_id: &'a str) -> access::Identity<'a> {
    access::Identity {
        user: identity.user.as_deref(),
        client_id,
        certificate: identity.certificate,
        by_edge: identity.by_edge,
    }
}

fn owner_of(session: &Session) -> access::Identity<'_> {
    access::Identity {
        user: session.owner.as_deref(),
        client_id: &session.client_id,
        certificate: session.vouched == Vouched::Certificate,
        by_edge: session.vouched == Vouched::Edge,
    }
}

/// The subscriptions of a session that the rules deny.
fn denied_filters(rules: &Ruleset, subject: &Subject, session: &Session) -> Vec<Box<str>> {
    let is_denied = |filter: &str| {
        let inner = TopicFilter::new(filter);
        inner.is_ok_and(|inner| rules.may_subscribe(subject, inner.as_str()).effect == Effect::Deny)
    };
    session.subscriptions.keys().filter(|filter| is_denied(filter)).cloned().collect()
}
