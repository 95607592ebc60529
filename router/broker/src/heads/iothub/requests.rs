//! What clients of the dialect ask of services that the broker does not know, and what those tell the clients.
//!
//! In: answers of services. Out: questions on the tray [`Effects::hub`]; PUBLISHes of QoS 0 to the one client concerned.
//! QoS 0, because what answers a request, or follows a reconnect, means nothing on another connection, and must not
//! wait behind a backlog of messages (decision 0037).
//! Bound: [`REQUESTS_PER_TURN_MAX`] on the tray; answers stop at `limits.outbox_bytes_max`, counted.

use hub::topics::{self, Feature, Features, Filter};
use model::{ConnId, Now, Qos};
use wire::OutgoingPublish;

use crate::acks::{Acks, Answer, NOBODY, Promise};
use crate::broker::Broker;
use crate::connections::Phase;
use crate::delivery::fits_queue;
use crate::dispatch::Publication;
use crate::effects::Effects;
use crate::envelope::Envelope;
use crate::sessions::Keeping;
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
        /// Its model, if it told one.
        model_id: Option<Box<str>>,
        /// Its client library.
        client_type: Option<Box<str>>,
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
    /// A message that a service has posted ([`HubAnswer::CloudToDevice`]) is as safe as the client's session keeps it.
    Posted {
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
    /// A message of the cloud for it: QoS 1, through the queue of its session; [`HubRequest::Posted`] follows.
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
}

impl HubAnswer {
    /// What a client must have subscribed to, to get it.
    pub const fn feature(&self) -> Feature {
        match self {
            HubAnswer::Twin { .. } => Feature::TwinResponses,
            HubAnswer::Desired { .. } => Feature::Desired,
            HubAnswer::Method { .. } => Feature::Methods,
            HubAnswer::CloudToDevice { .. } => Feature::CloudToDevice,
        }
    }
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
            // It goes another way.
            HubAnswer::CloudToDevice { .. } => return Err(Unanswered::NoRoom),
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

    /// Puts a message of the cloud into the session of a client, and says when it is safe there.
    fn post(
        &mut self,
        conn: ConnId,
        bag: &str,
        payload: &[u8],
        token: u64,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Unanswered> {
        let connection = self.connections.get(conn).ok_or(Unanswered::Gone)?;
        let (Some(client), Phase::Open(key)) = (&connection.hub, connection.phase) else {
            return Err(Unanswered::Gone);
        };
        let mut topic = topics::filter_of(Feature::CloudToDevice, &client.id);
        topic.pop(); // the wildcard at its end
        topic.push_str(bag);
        let session = &self.sessions[key.0 as usize];
        if !session.subscriptions.keys().any(|filter| model::filter_matches(filter, &topic)) {
            return Err(Unanswered::NotSubscribed);
        }
        let has_room = !self.is_tight || !self.holds_no_more() && self.levels.takes_writes;
        if !has_room || !self.takes_post(key, &topic) || model::validate_name(&topic).is_err() {
            return Err(Unanswered::NoRoom);
        }
        let envelope = Envelope {
            user: "",
            topic: &topic,
            client_id: "",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: &[],
            payload,
        };
        let mut promise = Promise::default();
        let publication = Publication { envelope, user: "", expires: None, now, hub: None };
        self.publish(&publication, &mut promise, effects);
        match self.acks.check(&promise) {
            Some(_) => effects.hub.push(HubRequest::Posted { token }),
            None => self.acks.wait(Acks::queue(&promise), NOBODY, promise, Answer::Post(token)),
        }
        Ok(())
    }

    /// Whether a session that is connected would not drop a message under this topic. The lane of a stored one has room as
    /// long as the store has.
    fn takes_post(&self, key: SessionKey, topic: &str) -> bool {
        let limits = &self.setup.limits;
        let session = &self.sessions[key.0 as usize];
        let matching =
            session.subscriptions.iter().filter(|(filter, _)| model::filter_matches(filter, topic));
        let is_sure = matching.map(|(_, options)| options.qos).max() > Some(Qos::AtMostOnce);
        if let (Keeping::Stored(stored), true) = (session.keeping, is_sure) {
            return stored.backlog() < limits.session_stored_messages_max;
        }
        let connection = session.conn.and_then(|conn| self.connections.get(conn));
        let has_outbox =
            connection.is_some_and(|connection| connection.outbox.len() <= limits.outbox_bytes_max as usize);
        !self.is_memory_full() && if is_sure { fits_queue(session, limits) } else { has_outbox }
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
            model_id: client.model_id.clone(),
            client_type: client.client_type.clone(),
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
