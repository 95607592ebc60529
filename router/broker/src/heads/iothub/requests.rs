//! What clients of the dialect ask of services that the broker does not know, and what those tell the clients.
//!
//! In: answers of services. Out: questions on the tray [`Effects::hub`]; PUBLISHes of QoS 0 to the one client concerned.
//! QoS 0, because what answers a request, or follows a reconnect, means nothing on another connection, and must not
//! wait behind a backlog of messages (decision 0037).
//! Bound: [`REQUESTS_PER_TURN_MAX`] on the tray; answers stop at `limits.outbox_bytes_max`, counted.

use hub::topics::{self, Features, Filter};
use model::{ConnId, Now, Qos};
use wire::OutgoingPublish;

use crate::broker::Broker;
use crate::connections::Phase;
use crate::effects::Effects;
use crate::subscriptions::SessionKey;

/// Questions of one shard in one turn, but for clients that come and go. A turn reads a few hundred packets at most.
pub(crate) const REQUESTS_PER_TURN_MAX: usize = 4_096;

/// What a client of the dialect did that concerns a service. `client` is its id, `DEVICE` or `DEVICE/MODULE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubRequest {
    /// It is connected, and subscribed to these features from an earlier time.
    Connected {
        /// Its connection, for answers.
        conn: ConnId,
        /// Who.
        client: Box<str>,
        /// What it takes.
        features: Features,
    },
    /// It subscribed or unsubscribed.
    Features {
        /// Its connection.
        conn: ConnId,
        /// Who.
        client: Box<str>,
        /// What it takes now.
        features: Features,
    },
    /// It is gone.
    Disconnected {
        /// The connection it had.
        conn: ConnId,
        /// Who.
        client: Box<str>,
    },
    /// It wants its twin.
    TwinGet {
        /// Its connection.
        conn: ConnId,
        /// Who.
        client: Box<str>,
        /// To be given back.
        rid: Box<str>,
    },
    /// It reports properties.
    TwinReported {
        /// Its connection.
        conn: ConnId,
        /// Who.
        client: Box<str>,
        /// To be given back; `None`: it wants no answer.
        rid: Option<Box<str>>,
        /// What should be a JSON object.
        patch: Box<[u8]>,
    },
    /// The client has acknowledged a message that a service has posted ([`HubAnswer::CloudToDevice`]).
    Posted {
        /// Of the message.
        token: u64,
    },
    /// It never will: its connection is gone, or the message is too large for it. It is not sent again from here.
    Unposted {
        /// Of the message.
        token: u64,
    },
    /// It answers the call of a method.
    MethodResponse {
        /// Who.
        client: Box<str>,
        /// Which call.
        rid: Box<str>,
        /// Should be a number.
        status: Box<str>,
        /// Its answer.
        payload: Box<[u8]>,
    },
}

/// What a service tells a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubAnswer {
    /// The answer to a twin request.
    Twin {
        /// As in HTTP.
        status: u16,
        /// Of the request.
        rid: Box<str>,
        /// Of the reported properties, where it is told.
        version: Option<u64>,
        /// The twin, or nothing.
        body: Box<[u8]>,
    },
    /// Desired properties have changed.
    Desired {
        /// The version after it.
        version: u64,
        /// The patch.
        patch: Box<[u8]>,
    },
    /// A message of the cloud for it: QoS 1, through the queue of its session; [`HubRequest::Posted`] or
    /// [`HubRequest::Unposted`] follows, unless it is given back at once.
    CloudToDevice {
        /// Encoded.
        bag: Box<str>,
        /// What it says.
        payload: Box<[u8]>,
        /// To be given back.
        token: u64,
    },
    /// Somebody calls a method of it.
    Method {
        /// Which one.
        name: Box<str>,
        /// To be given back.
        rid: Box<str>,
        /// JSON.
        payload: Box<[u8]>,
    },
    /// It has reported properties, and may be gone by now: not for it, but for routes.
    TwinChange {
        /// Who.
        sender: Box<str>,
        /// JSON.
        patch: Box<[u8]>,
    },
}

/// Why a client did not get what a service told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Its connection is gone.
    Gone,
    /// It did not subscribe.
    NotSubscribed,
    /// It does not read what it is sent, or takes no packet so large.
    NoRoom,
}

impl Broker {
    /// A service tells the client of `conn` something. What the client does not get is counted and given back.
    pub fn answer_hub(
        &mut self,
        conn: ConnId,
        answer: &HubAnswer,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Unanswered> {
        let sent = match answer {
            HubAnswer::CloudToDevice { bag, payload, token } => {
                self.post(conn, bag, payload, *token, now, effects)
            }
            HubAnswer::TwinChange { sender, patch } => {
                self.publish_twin_change(sender, patch, now, effects);
                return Ok(());
            }
            answer => self.try_answer_hub(conn, answer, effects),
        };
        match sent {
            Ok(()) => self.counters.hub_answers += 1,
            Err(_) => self.counters.hub_unanswered += 1,
        }
        sent
    }

    fn try_answer_hub(
        &mut self,
        conn: ConnId,
        answer: &HubAnswer,
        effects: &mut Effects,
    ) -> Result<(), Unanswered> {
        let is_full = self.is_memory_full();
        let mut topic = String::new();
        let payload = match answer {
            HubAnswer::Twin { status, rid, version, body } => {
                topics::twin_response(*status, rid, *version, &mut topic);
                body
            }
            HubAnswer::Desired { version, patch } => {
                topics::desired(*version, &mut topic);
                patch
            }
            HubAnswer::Method { name, rid, payload } => {
                topics::method_request(name, rid, &mut topic);
                payload
            }
            // They go another way.
            HubAnswer::CloudToDevice { .. } | HubAnswer::TwinChange { .. } => return Err(Unanswered::NoRoom),
        };
        let connection = self.connections.find(conn).filter(|it| it.hub.is_some()).ok_or(Unanswered::Gone)?;
        let Phase::Open(key) = connection.phase else { return Err(Unanswered::Gone) };
        // As edgeHub, by the concrete topic: a client may have subscribed to one method only.
        let session = &self.sessions[key.0 as usize];
        if !session.subscriptions.keys().any(|filter| model::filter_matches(filter, &topic)) {
            return Err(Unanswered::NotSubscribed);
        }
        if is_full || connection.outbox.len() > self.setup.limits.outbox_bytes_max as usize {
            return Err(Unanswered::NoRoom);
        }
        let (version, bytes_max) = (connection.version, connection.packet_bytes_max as usize);
        let out = connection.write(&mut effects.dirty);
        let start = out.len();
        let outgoing =
            OutgoingPublish { topic: &topic, payload, qos: Qos::AtMostOnce, ..OutgoingPublish::default() };
        let fits = wire::encode_publish(out, version, &outgoing).is_ok() && out.len() - start <= bytes_max;
        if !fits {
            out.truncate(start);
        }
        connection.count_outbox(&mut self.waiting_bytes);
        if fits { Ok(()) } else { Err(Unanswered::NoRoom) }
    }

    /// What a session has subscribed to.
    pub(in crate::heads) fn features_of(&self, key: SessionKey) -> Features {
        let Some(session) = self.sessions.get(key.0 as usize) else { return Features::default() };
        let Ok(id) = hub::HubId::parse(&session.client_id) else { return Features::default() };
        let implied = self.inputs_filter(&session.client_id);
        session.subscriptions.keys().filter(|filter| implied.as_deref() != Some(&***filter)).fold(
            Features::default(),
            |features, filter| match topics::filter(filter, &id) {
                Filter::Feature(feature) => features.with(feature),
                Filter::Foreign(_) | Filter::Other => features,
            },
        )
    }

    /// A client of the dialect is connected: CONNACK is on its way.
    pub(in crate::heads) fn tell_connected(&mut self, conn: ConnId, key: SessionKey, effects: &mut Effects) {
        let Some(client) = self.hub_client(conn) else { return };
        effects.hub.push(HubRequest::Connected {
            conn,
            client: client.id.as_str().into(),
            features: self.features_of(key),
        });
    }

    /// Its subscriptions changed.
    pub(in crate::heads) fn tell_features(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(client) = self.hub_client(conn) else { return };
        let features = self.features_of(key);
        self.park_inputs(key, features, now, effects);
        effects.hub.push(HubRequest::Features { conn, client: client.id.as_str().into(), features });
    }

    /// It is gone.
    pub(in crate::heads) fn tell_disconnected(&mut self, conn: ConnId, effects: &mut Effects) {
        let Some(client) = self.hub_client(conn) else { return };
        effects.hub.push(HubRequest::Disconnected { conn, client: client.id.as_str().into() });
    }
}
