//! Messages whose acknowledgement somebody waits for: those of the cloud on their way to a device, *posted* until the device
//! acknowledges them; and of messages to a module one at a time, to measure how long it takes.
//!
//! In: a message of a service, acknowledgements, connections that end. Out: for each message one word on the tray for services:
//! the device has it, or it will not get it from here. Always: the second is said before the cloud can send it again, and
//! from then on the lane of the session passes it over, so that it comes once; after a crash it may come twice.
//! A subscription of QoS 0 has its message as soon as that is on its way (as in edgeHub).
//! Bound: the service's, for each client.

use std::num::NonZeroU16;
use std::rc::Rc;

use hub::topics::{self, Feature, Outbound};
use model::{ConnId, Instant, Now, Priority, Qos, Seq};

use super::{HubRequest, Unanswered};
use crate::acks::Promise;
use crate::broker::Broker;
use crate::connections::Phase;
use crate::delivery::fits_queue;
use crate::dispatch::Publication;
use crate::effects::Effects;
use crate::envelope::Envelope;
use crate::sessions::{Keeping, Mark, Session};
use crate::subscriptions::SessionKey;

/// A message that a session has and its client has not acknowledged.
#[derive(Debug)]
pub(crate) struct Post {
    what: What,
    place: Place,
}

#[derive(Debug)]
enum What {
    /// One of the cloud: the service's name for it.
    Cloud(u64),
    /// One to an input: when it came, and its labels.
    Input(Instant, Box<[Box<str>]>),
}

/// Where it is.
#[derive(Clone, Debug)]
enum Place {
    /// In the lane of a stored session.
    Lane(Seq),
    /// In the queue of a clean one.
    Queue(Rc<[u8]>),
    /// On its way to the client, under this identifier.
    Sent(NonZeroU16),
}

/// What a session had on its way before a message came for it.
type Before = (SessionKey, (usize, usize, u64));

impl Broker {
    /// Puts a message of the cloud into the session of a client.
    pub(super) fn post(
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
        let written = connection.outbox.len();
        let mut topic = topics::filter_of(Feature::CloudToDevice, &client.id);
        topic.pop(); // the wildcard at its end
        topic.push_str(bag);
        let session = &self.sessions[key.0 as usize];
        let matching =
            session.subscriptions.iter().filter(|(filter, _)| model::filter_matches(filter, &topic));
        let qos = matching.map(|(_, options)| options.qos).max().ok_or(Unanswered::NotSubscribed)?;
        let has_room = !self.is_tight || !self.holds_no_more() && self.levels.takes_writes;
        if !has_room || !self.takes_post(key, qos) || model::validate_name(&topic).is_err() {
            return Err(Unanswered::NoRoom);
        }
        let next = session.stored().map(|stored| stored.next);
        let (queued, inflight) = (session.queue.len(), session.inflight.len());
        let envelope = Envelope {
            user: "",
            topic: &topic,
            client_id: "",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: &[],
            payload,
        };
        let publication =
            Publication { envelope, user: "", expires: None, now, hub: None, is_written: true, input: None };
        self.publish(&publication, &mut Promise::default(), effects);
        if qos == Qos::AtMostOnce {
            let is_sent = self.connections.get(conn).is_some_and(|it| it.outbox.len() > written);
            effects.hub.extend(is_sent.then_some(HubRequest::Posted { token }));
            return if is_sent { Ok(()) } else { Err(Unanswered::NoRoom) };
        }
        let session = &mut self.sessions[key.0 as usize];
        let place = match (session.keeping, next) {
            (Keeping::Stored(stored), Some(next)) => (stored.next > next).then_some(Place::Lane(next)),
            _ if session.queue.len() > queued => {
                session.queue.back().map(|last| Place::Queue(Rc::clone(&last.record)))
            }
            _ if session.inflight.len() > inflight => session.inflight.last_sent().map(Place::Sent),
            _ => None,
        };
        let place = place.filter(|place| session.may_deliver(place)).ok_or(Unanswered::NoRoom)?;
        session.posts.push(Post { what: What::Cloud(token), place });
        Ok(())
    }

    /// Whether a session that is connected would not drop a message with this QoS. The lane of a stored one has room as long as
    /// the store has.
    fn takes_post(&self, key: SessionKey, qos: Qos) -> bool {
        let limits = &self.setup.limits;
        let session = &self.sessions[key.0 as usize];
        let is_sure = qos > Qos::AtMostOnce;
        if let (Keeping::Stored(stored), true) = (session.keeping, is_sure) {
            return stored.backlog() < limits.session_stored_messages_max;
        }
        let connection = session.conn.and_then(|conn| self.connections.get(conn));
        let has_outbox =
            connection.is_some_and(|connection| connection.outbox.len() <= limits.outbox_bytes_max as usize);
        !self.is_memory_full() && if is_sure { fits_queue(session, limits) } else { has_outbox }
    }

    /// A message is about to go to an input of a module of this shard: what its session has on its way now. `None`: another
    /// one is measured already, or nobody is there.
    pub(super) fn before_input(&self, client_id: &str) -> Option<Before> {
        let key = *self.by_client.get(client_id)?;
        let session = self.sessions.get(key.0 as usize)?;
        (session.posts.is_empty() && session.conn.is_some()).then(|| (key, session.sent_so_far()))
    }

    /// The same for a message that another shard hands over, if it is for an input.
    pub(crate) fn before_handed_over(&self, topic: &str) -> Option<Before> {
        let setup = self.hub.as_ref()?;
        match topics::outbound(topic)? {
            Outbound::Input { device, module, .. } if *device == *setup.edge_device => {
                self.before_input(&format!("{device}/{module}"))
            }
            _ => None,
        }
    }

    /// What its topic does not say, the output, stays empty.
    pub(crate) fn measure_handed_over(
        &mut self,
        before: Before,
        topic: &str,
        priority: Option<Priority>,
        now: Now,
    ) {
        let priority = priority.map_or_else(String::new, |priority| priority.to_string());
        let Some(Outbound::Input { module, input, bag, .. }) = topics::outbound(topic) else { return };
        let properties_max = self.hub.as_ref().map_or(0, |setup| setup.properties_max);
        // With what was added to it on the way here.
        let Ok(bag) = hub::bag::decode(bag, properties_max + 8) else { return };
        let entries = bag.into_entries();
        let of = |name: &str| {
            let found = entries.iter().find(|entry| entry.name == name);
            found.and_then(|entry| entry.value.as_deref()).unwrap_or_default()
        };
        self.measure_input(before, &[of("$.cdid"), of("$.cmid"), module, "", input, &priority], now);
    }

    /// If it is on its way to the module, it is measured.
    pub(super) fn measure_input(
        &mut self,
        (key, (inflight, unwritten, of_inputs)): Before,
        labels: &[&str],
        now: Now,
    ) {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        let (sends, last) = session.inputs.as_ref().map_or((0, None), |inputs| inputs.sends());
        let packet_id = if sends > of_inputs {
            last
        } else if session.unwritten.len() > unwritten {
            session.unwritten.last_id()
        } else if session.inflight.len() > inflight {
            session.inflight.last_sent()
        } else {
            None
        };
        if let Some(packet_id) = packet_id {
            let labels = labels.iter().map(|label| Box::from(*label)).collect();
            session
                .posts
                .push(Post { what: What::Input(now.instant, labels), place: Place::Sent(packet_id) });
        }
    }

    /// A client acknowledges this; it has not been settled yet.
    #[cold]
    pub(crate) fn settle_post(
        &mut self,
        key: SessionKey,
        packet_id: NonZeroU16,
        now: Now,
        effects: &mut Effects,
    ) {
        let session = &mut self.sessions[key.0 as usize];
        let seq = session.inflight.sent_as(packet_id).flatten();
        let at = session.posts.iter().position(|post| match &post.place {
            Place::Lane(place) => seq == Some(*place),
            Place::Sent(place) => *place == packet_id && session.may_deliver(&post.place),
            Place::Queue(_) => false,
        });
        let Some(at) = at else { return };
        match session.posts.remove(at).what {
            What::Cloud(token) => effects.hub.push(HubRequest::Posted { token }),
            What::Input(came, labels) => {
                let labels: Vec<&str> = labels.iter().map(|label| &**label).collect();
                let secs = now.instant.0.saturating_sub(came.0) as f64 / 1e6;
                self.hub_series.observe("taken", &labels, secs, now.timestamp);
            }
        }
    }

    /// Some of what waited for a client was sent, or will never be: a message that is too large for it.
    #[cold]
    pub(crate) fn drop_lost_posts(&mut self, key: SessionKey, effects: &mut Effects) {
        let session = &mut self.sessions[key.0 as usize];
        if session.posts.iter().all(|post| session.may_deliver(&post.place)) {
            return;
        }
        let posts = std::mem::take(&mut session.posts);
        let (kept, lost): (Vec<_>, Vec<_>) =
            posts.into_iter().partition(|post| session.may_deliver(&post.place));
        session.posts = kept;
        effects.hub.extend(lost.into_iter().filter_map(Post::unposted));
    }

    /// A session has lost its connection: the cloud has its messages, and will send them again.
    pub(in crate::heads) fn abandon_posts(&mut self, key: SessionKey, effects: &mut Effects) {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        for post in std::mem::take(&mut session.posts) {
            let stored = session.stored().copied();
            if let (Some(stored), Place::Lane(seq)) = (stored, &post.place)
                && (stored.head..stored.next).contains(seq)
            {
                session.marks.insert(*seq, Mark::Settled);
            }
            effects.hub.extend(post.unposted());
        }
    }
}

impl Post {
    /// What the service is told that waits for it.
    fn unposted(self) -> Option<HubRequest> {
        match self.what {
            What::Cloud(token) => Some(HubRequest::Unposted { token }),
            What::Input(..) => None,
        }
    }
}

impl Session {
    /// A message of the queue of a clean session has been sent, as the last one.
    #[cold]
    pub(crate) fn note_post_sent(&mut self, record: &Rc<[u8]>) {
        let is_it = |post: &&mut Post| matches!(&post.place, Place::Queue(it) if Rc::ptr_eq(it, record));
        if let Some(post) = self.posts.iter_mut().find(is_it)
            && let Some(packet_id) = self.inflight.last_sent()
        {
            post.place = Place::Sent(packet_id);
        }
    }

    /// Messages on their way: in its own lane, in none, and ever sent to its inputs.
    fn sent_so_far(&self) -> (usize, usize, u64) {
        let inputs = self.inputs.as_ref().map_or(0, |inputs| inputs.sends().0);
        (self.inflight.len(), self.unwritten.len(), inputs)
    }

    /// Whether an acknowledgement of what stands there may still come.
    fn may_deliver(&self, place: &Place) -> bool {
        match place {
            Place::Lane(seq) => {
                let is_unread = self.stored().is_some_and(|stored| *seq >= stored.read_to);
                is_unread
                    || self.queue.iter().any(|queued| queued.seq == Some(*seq))
                    || self.inflight.is_sent(*seq)
            }
            Place::Queue(record) => self.queue.iter().any(|queued| Rc::ptr_eq(&queued.record, record)),
            Place::Sent(packet_id) => {
                self.inflight.sent_as(*packet_id).is_some()
                    || self.unwritten.has(*packet_id)
                    || self.inputs.as_ref().is_some_and(|inputs| inputs.has(*packet_id))
            }
        }
    }
}
