//! The IoT Hub dialect of MQTT: what packets of an authenticated device or module mean (`reference/edgehub.md` §2).
//!
//! `publish`: telemetry and requests. `inputs`: what routes send to modules, `lanes`: on which ways. `requests`: the trays to and from the
//! services that know twins and methods. `posts`: messages of the cloud. `twin_changes`: what
//! clients report, as messages for routes.
//! Knows: `hub`'s vocabulary. Never: tokens, twins, the cloud: who comes in is decided before, what is asked goes on a tray.
//! In: packets of a connection whose user is a hub identity. Out: publications that name who sent them, questions.
//! Always: a message says who sent it by its topic, and that is who was authenticated, unless
//! `compat.allow_sender_mismatch` says otherwise. Topics of the dialect belong to it: no other client publishes there.

mod inputs;
mod lanes;
mod posts;
mod publish;
mod requests;
mod twin_changes;

use std::rc::Rc;

use hub::HubId;
use hub::topics::{self, Filter};
use model::{ConnId, TopicFilter};
use wire::Connect;

pub use self::lanes::{input_lane_name, read_input_lane_name};
pub(crate) use self::posts::Post;
pub use self::requests::{HubAnswer, HubRequest, Unanswered};
use crate::broker::Broker;
use crate::effects::{Denial, Effects};
use crate::subscriptions::SessionKey;

/// What a broker is told that speaks the dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSetup {
    /// The edge device that we are: its modules have inputs.
    pub edge_device: Box<str>,
    /// Whether a client may name another one as sender, as edgeHub lets it.
    pub allow_sender_mismatch: bool,
    /// Whether messages are kept for a module that a route leads to and that has never come.
    pub keep_for_unknown: bool,
    /// Most properties of one message.
    pub properties_max: usize,
}

/// A connected client that is a hub identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubClient {
    /// Who.
    pub(crate) id: HubId,
    /// Its model (Plug and Play).
    pub(crate) model_id: Option<Box<str>>,
    /// Whether it is a module of this edge device, so that routes can lead to it.
    pub(crate) is_own_module: bool,
}

/// What is wrong with a publication in the dialect (§2.9). Each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HubFault {
    /// A topic that asks for nothing we know.
    #[error("{0}")]
    Topic(topics::UnknownTopic),
    /// Somebody else as sender.
    #[error("the topic names another device or module as sender")]
    Sender,
    /// A property bag that is none.
    #[error("the property bag in the topic is none: {0}")]
    Bag(hub::bag::BagError),
    /// Body and properties.
    #[error("body and properties are larger than {} bytes", hub::mapping::MESSAGE_BYTES_MAX)]
    TooLarge,
}

/// Whether a topic belongs to the dialect, whoever publishes to it.
pub(crate) fn is_reserved(topic: &str) -> bool {
    topic.starts_with("devices/") || topic.starts_with("$iothub/")
}

impl Broker {
    /// From now on clients whose user is the hub identity that their user name names speak the dialect. Before the first
    /// connection, and before stored sessions come back.
    pub fn speak_hub(&mut self, setup: HubSetup) {
        self.hub = Some(Rc::new(setup));
        self.has_hub = true;
        self.inputs_unkept = true;
    }

    /// Messages of the dialect, counted and measured by a word and its labels. `received`, `no_route`, `unacknowledged`: sender,
    /// output; `size`: sender; `sent`: sender's device and module, module, output, input, priority; `taken`: the same, of one
    /// message at a time from its arrival to its acknowledgement, in seconds; `again`: module, for messages sent again.
    pub fn hub_series(&self) -> &hub::series::Series {
        &self.hub_series
    }

    /// Who a connection is in the dialect; `None` for every other client.
    pub(crate) fn hub_client(&self, conn: ConnId) -> Option<Rc<HubClient>> {
        self.connections.get(conn)?.hub.clone()
    }

    /// Notes who a client is, if the edge has verified it as the identity that its user name names.
    pub(in crate::heads) fn recognise(&mut self, conn: ConnId, connect: &Connect) {
        let Some(setup) = &self.hub else { return };
        let Some(connection) = self.connections.find(conn) else { return };
        let name = connect.user_name.as_deref().and_then(|name| hub::connect::parse_user_name(name).ok());
        let user = connection.identity.user.as_deref().filter(|_| connection.identity.by_edge);
        let Some(name) = name.filter(|name| user == Some(name.id.as_str())) else { return };
        if !name.is_client(&connect.client_id) {
            return;
        }
        let is_own_module = name.id.module_id().is_some() && name.id.device_id() == &*setup.edge_device;
        connection.hub =
            Some(Rc::new(HubClient { id: name.id, model_id: name.model_id.map(Into::into), is_own_module }));
    }

    /// Whether a client of the dialect may have a filter; `None`: ask the rules.
    pub(in crate::heads) fn may_have_hub_filter(
        &mut self,
        conn: ConnId,
        filter: &TopicFilter,
        effects: &mut Effects,
    ) -> Option<bool> {
        let client = self.hub_client(conn)?;
        let found = match filter.share() {
            None => topics::filter(filter.as_str(), &client.id),
            Some(_) => Filter::Other,
        };
        let is_implied = self.inputs_filter(client.id.as_str()).as_deref() == Some(filter.as_str());
        match found {
            Filter::Feature(_) if !is_implied => return Some(true),
            Filter::Feature(_) => {}
            Filter::Other if self.has_rules => return None,
            Filter::Foreign(_) | Filter::Other => {}
        }
        self.counters.hub_refused_filters += 1;
        let why = match found {
            Filter::Feature(_) => {
                "the queue of its inputs has it already: subscribe to devices/E/modules/M/#"
            }
            Filter::Foreign(_) => "another client's",
            Filter::Other => "no filter of the dialect",
        };
        self.note_hub_denial(&client.id, "subscribe", filter.as_str(), why.to_owned(), effects);
        Some(false)
    }

    /// Whether a topic is the dialect's business where `conn` publishes to it, and not the rules'.
    pub(in crate::heads) fn is_hub_topic_of(&self, conn: ConnId, topic: &str) -> bool {
        let is_client = self.has_hub && self.connections.get(conn).is_some_and(|it| it.hub.is_some());
        is_client && (!self.has_rules || is_reserved(topic) || topics::inbound(topic).is_ok())
    }

    /// Whether a client of the dialect may leave a will there; `None`: ask the rules. No other client leaves one where
    /// messages say who sent them.
    pub(in crate::heads) fn may_leave_hub_will(&self, conn: ConnId, topic: &str) -> Option<bool> {
        let setup = self.hub.as_ref()?;
        let client = self.hub_client(conn);
        let Some(client) = client else { return is_reserved(topic).then_some(false) };
        match topics::inbound(topic) {
            Ok(topics::Inbound::Telemetry { device, module, .. }) => {
                Some(setup.allow_sender_mismatch || client.id.is(device, module))
            }
            _ if self.has_rules && !is_reserved(topic) => None,
            _ => Some(false),
        }
    }

    /// Whether a filter is one that the dialect gives the owner of a session, whatever rules say.
    pub(in crate::heads) fn is_own_hub_filter(&self, key: SessionKey, filter: &str) -> bool {
        let Some(session) = self.sessions.get(key.0 as usize).filter(|_| self.has_hub) else { return false };
        let is_owner = session.owner.as_deref().is_none_or(|owner| *owner == *session.client_id);
        is_owner
            && HubId::parse(&session.client_id)
                .is_ok_and(|id| matches!(topics::filter(filter, &id), Filter::Feature(_)))
    }

    /// For the log, as far as it takes more in this tick.
    fn note_hub_denial(
        &mut self,
        id: &HubId,
        what: &'static str,
        topic: &str,
        why: String,
        effects: &mut Effects,
    ) {
        if self.denials_left == 0 {
            self.denials_unsaid += 1;
            return;
        }
        self.denials_left -= 1;
        effects.denials.push(Denial {
            client_id: id.as_str().into(),
            user: Some(id.as_str().into()),
            what,
            topic: topic.into(),
            rule: why,
            unsaid: std::mem::take(&mut self.denials_unsaid),
        });
    }
}

#[cfg(test)]
mod tests;
