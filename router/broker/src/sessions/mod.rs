//! What we remember of a client: subscriptions, the messages it has not acknowledged, those of its own it has not
//! released (MQTT 5.0 §4.1).
//!
//! Knows: delivery windows, packet identifiers, the lane of a stored session. Never: sockets, other sessions.
//! Two kinds: a *clean* session ends with its connection and lives in memory; a *stored* one outlives it, and every
//! QoS 1 or 2 message for it is a record of its own lane before it is anything else.
//! Invariant of a stored session: `head <= read_to <= next`; what is in flight or queued lies in `head..read_to`.

mod inflight;
mod inputs;
mod received;
pub(crate) mod record;
pub(crate) mod restoring;
mod unwritten;

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;
use std::ops::Bound;
use std::rc::Rc;

use model::{ConnId, Instant, LaneId, Now, Qos, Seq, Ticket, Timestamp};

pub(crate) use self::inflight::{Acked, Inflight, Mark, Received};
pub(crate) use self::inputs::{Inputs, Kept};
pub(crate) use self::received::Exchanges;
pub(crate) use self::unwritten::{Sent, Unwritten};
use crate::connections::Will;
use crate::heads::iothub::Post;
use crate::sharing::Lent;

/// How a client wants one filter (MQTT 5.0 §3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Granted QoS.
    pub qos: Qos,
    /// See [`crate::subscriptions::Entry`].
    pub no_local: bool,
    /// See [`crate::subscriptions::Entry`].
    pub retain_as_published: bool,
    /// Subscription identifier; 0 for none.
    pub subscription_id: u32,
}

/// A message that waits in memory for its turn.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    /// The session record: see [`record`].
    pub(crate) record: Rc<[u8]>,
    /// Its place in the session's lane; `None` in a clean session.
    pub(crate) seq: Option<Seq>,
    /// When it is worth nothing any more.
    pub(crate) expires: Option<Timestamp>,
    /// Our writes up to here must be durable before it is sent; 0 unless it is QoS 2 and has just been written.
    pub(crate) after: Ticket,
}

/// A will whose connection has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DelayedWill {
    /// When it is published, unless the session ends before or the client comes back.
    pub(crate) due: Instant,
    /// The same on the wall, for the disk.
    pub(crate) due_at: Timestamp,
    /// It is published, and other shards have not kept it yet.
    pub(crate) published: bool,
    /// The will.
    pub(crate) will: Will,
}

impl DelayedWill {
    /// The will of a connection that has just ended.
    pub(crate) fn new(will: Will, now: Now) -> DelayedWill {
        let millis = u64::from(will.delay_secs) * 1_000;
        let (due, due_at) = (now.instant.plus_millis(millis), now.timestamp.plus_millis(millis));
        DelayedWill { due, due_at, published: false, will }
    }

    /// A will that came back from the disk.
    pub(crate) fn restored(will: Will, due_at: Timestamp, now: Now) -> DelayedWill {
        let millis = due_at.0.saturating_sub(now.timestamp.0);
        DelayedWill { due: now.instant.plus_millis(millis), due_at, published: false, will }
    }

    /// Whether it is to be published now.
    pub(crate) fn is_due(&self, now: Now) -> bool {
        !self.published && self.due <= now.instant
    }
}

/// The lane of a stored session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Which lane.
    pub(crate) lane: LaneId,
    /// First record that the client has not acknowledged.
    pub(crate) head: Seq,
    /// First record not yet brought into memory (queued or in flight).
    pub(crate) read_to: Seq,
    /// The place that the next record will get; we are the only one who appends to this lane.
    pub(crate) next: Seq,
    /// Records before this may have been sent on an earlier connection: they go out with DUP.
    pub(crate) sent_before: Seq,
    /// The number of the read of the lane that is under way. An answer to an earlier read is not taken: the client
    /// may have gone and come back meanwhile, and it would look as if what lies before it had expired.
    pub(crate) reading: Option<u32>,
}

impl Stored {
    /// A lane with this much in it.
    pub(crate) fn new(lane: LaneId, head: Seq, next: Seq) -> Stored {
        Stored { lane, head, read_to: head, next, sent_before: head, reading: None }
    }

    /// Whether memory holds everything that the lane holds.
    pub(crate) fn is_live(&self) -> bool {
        self.read_to == self.next
    }

    /// Records that the client has not acknowledged.
    pub(crate) fn backlog(&self) -> u64 {
        self.next.get() - self.head.get()
    }

    /// Takes the place of one more record in its lane, if no more than `max` wait with it.
    pub(crate) fn take_place(&mut self, max: u64) -> Option<LaneId> {
        if self.backlog() >= max {
            return None;
        }
        self.next = self.next.next();
        Some(self.lane)
    }
}

/// Where the messages of a session are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// In memory, until the connection ends.
    Clean,
    /// On disk; the lane has been asked for.
    Opening,
    /// On disk.
    Stored(Stored),
}

/// Who says that the owner of a session exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Vouched {
    /// The users with a password; a session whose owner is none of them any more goes to whoever comes.
    #[default]
    Users,
    /// A certificate.
    Certificate,
    /// The edge, which knows it as an identity.
    Edge,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Whose.
    pub(crate) client_id: Rc<str>,
    /// The user it belongs to, if that is known.
    pub(crate) owner: Option<Rc<str>>,
    /// Who says that this user exists.
    pub(crate) vouched: Vouched,
    /// Distinguishes it from an earlier session with the same key.
    pub(crate) generation: u32,
    /// The connection it has now.
    pub(crate) conn: Option<ConnId>,
    /// Seconds it outlives its connection; 0 ends it with the connection, `u32::MAX` never.
    pub(crate) expiry_secs: u32,
    /// When it ends, while it has no connection.
    pub(crate) ends_at: Option<Instant>,
    /// When its last connection ended.
    pub(crate) disconnected_at: Timestamp,
    /// The will of its last connection, while it waits.
    pub(crate) delayed_will: Option<DelayedWill>,
    /// Its subscriptions by filter.
    pub(crate) subscriptions: BTreeMap<Box<str>, SubscriptionOptions>,
    /// Where its messages are kept.
    pub(crate) keeping: Keeping,
    /// Messages sent on this connection and not done.
    pub(crate) inflight: Inflight,
    /// Messages sent on this connection, not done, and in no lane.
    pub(crate) unwritten: Unwritten,
    /// What is known of messages that were sent on earlier connections and have not come back from the lane.
    pub(crate) marks: BTreeMap<Seq, Mark>,
    /// QoS 2 publications of the client that it has not released.
    pub(crate) received: Exchanges,
    /// Messages behind those in flight.
    pub(crate) queue: VecDeque<Queued>,
    /// Bytes of `queue`.
    pub(crate) queue_bytes: usize,
    /// Whether it is or was in a group that shares a subscription.
    pub(crate) shares: bool,
    /// It is that of a module that has not subscribed to its inputs: what waits for it stays.
    pub(crate) parked: bool,
    /// The broker reads nothing before its lane is open.
    pub(crate) awaited: bool,
    /// QoS 1 messages of its groups that are in flight, in a clean session: they go to others if it leaves.
    pub(crate) lent: VecDeque<Lent>,
    /// Bytes of `lent`.
    pub(crate) lent_bytes: usize,
    /// Messages of the cloud that it has and its client has not acknowledged, in the IoT Hub dialect.
    pub(crate) posts: Vec<Post>,
    /// The lanes of its inputs, if it is that of a module of this edge device.
    pub(crate) inputs: Option<Box<Inputs>>,
}

impl Session {
    /// A session without subscriptions or messages.
    pub(crate) fn new(client_id: Rc<str>, generation: u32, keeping: Keeping) -> Session {
        Session {
            client_id,
            owner: None,
            vouched: Vouched::default(),
            generation,
            conn: None,
            expiry_secs: 0,
            ends_at: None,
            disconnected_at: Timestamp::default(),
            delayed_will: None,
            subscriptions: BTreeMap::new(),
            keeping,
            inflight: Inflight::default(),
            unwritten: Unwritten::default(),
            marks: BTreeMap::new(),
            received: Exchanges::default(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            shares: false,
            parked: false,
            awaited: false,
            lent: VecDeque::new(),
            lent_bytes: 0,
            posts: Vec::new(),
            inputs: None,
        }
    }

    /// Whether its expiry is over [MQTT-4.1.0-2].
    pub(crate) fn is_over(&self, now: Now) -> bool {
        self.ends_at.is_some_and(|at| at <= now.instant)
    }

    /// Whether the session outlives its connection.
    pub(crate) fn is_stored(&self) -> bool {
        !matches!(self.keeping, Keeping::Clean)
    }

    /// The lane, once it is open.
    pub(crate) fn stored_mut(&mut self) -> Option<&mut Stored> {
        match &mut self.keeping {
            Keeping::Stored(stored) => Some(stored),
            Keeping::Clean | Keeping::Opening => None,
        }
    }

    /// The lane, once it is open, to look at.
    pub(crate) fn stored(&self) -> Option<&Stored> {
        match &self.keeping {
            Keeping::Stored(stored) => Some(stored),
            Keeping::Clean | Keeping::Opening => None,
        }
    }

    /// Memory that its messages take.
    pub(crate) fn bytes(&self) -> usize {
        let inputs = self.inputs.as_ref().map_or(0, |inputs| inputs.bytes());
        self.queue_bytes + self.lent_bytes + self.unwritten.bytes() + inputs
    }

    /// How far its own lane was sent, and the place that its next record will get.
    pub(crate) fn sent_to(&self) -> Option<(Seq, Seq)> {
        let stored = self.stored()?;
        let unsent = self.queue.front().and_then(|queued| queued.seq);
        Some((unsent.unwrap_or(stored.read_to), stored.next))
    }

    /// The shared ones of its filters.
    pub(crate) fn shared_filters(&self) -> impl Iterator<Item = &str> {
        let from = (Bound::Included("$share/"), Bound::Unbounded);
        let filters = self.subscriptions.range::<str, _>(from).map(|(filter, _)| &**filter);
        filters.take_while(|filter| filter.starts_with("$share/"))
    }

    /// Notes a message of a group that was sent and is not acknowledged.
    pub(crate) fn lend(&mut self, lent: Lent) {
        self.lent_bytes += lent.record.len();
        self.lent.push_back(lent);
    }

    /// The message with this identifier is acknowledged: nobody else needs it. Its bytes.
    pub(crate) fn settle_lent(&mut self, packet_id: NonZeroU16) -> usize {
        let at = self.lent.iter().position(|lent| lent.packet_id == Some(packet_id));
        let len = at.and_then(|at| self.lent.remove(at)).map_or(0, |lent| lent.record.len());
        self.lent_bytes -= len;
        len
    }

    /// Puts a message behind the others.
    pub(crate) fn enqueue(&mut self, queued: Queued) {
        self.queue_bytes += queued.record.len();
        self.queue.push_back(queued);
    }

    /// Takes the message whose turn it is.
    pub(crate) fn dequeue(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.queue_bytes -= queued.record.len();
        Some(queued)
    }

    /// Forgets what memory holds; a stored session reads it again from its lane when the client comes back.
    pub(crate) fn disconnect(&mut self) {
        self.conn = None;
        let unsent = self.queue.front().and_then(|queued| queued.seq);
        self.queue = VecDeque::new();
        self.queue_bytes = 0;
        self.lent = VecDeque::new();
        self.lent_bytes = 0;
        let inflight = std::mem::take(&mut self.inflight);
        self.marks.extend(inflight.marks());
        self.received.carry();
        if let Some(inputs) = &mut self.inputs {
            inputs.disconnect();
        }
        if let Keeping::Stored(stored) = &mut self.keeping {
            stored.sent_before = stored.sent_before.max(unsent.unwrap_or(stored.read_to));
            stored.read_to = stored.head;
            stored.reading = None;
        }
    }

    /// Checks what must hold between turns.
    pub(crate) fn invariants(&self) {
        let queued: usize = self.queue.iter().map(|queued| queued.record.len()).sum();
        assert_eq!(self.queue_bytes, queued, "queue bytes are counted");
        let lent: usize = self.lent.iter().map(|lent| lent.record.len()).sum();
        assert_eq!(self.lent_bytes, lent, "bytes in flight of groups are counted");
        assert!(self.lent.len() <= self.inflight.open(), "what is lent is in flight");
        assert!(
            self.conn.is_some() || queued == 0 && self.inflight.is_empty() && self.unwritten.is_empty(),
            "memory holds only for who is there"
        );
        self.inflight.invariants();
        self.unwritten.invariants(&self.inflight);
        self.received.invariants();
        if let Some(inputs) = &self.inputs {
            inputs.invariants(self.conn.is_some());
        }
        if let Keeping::Stored(stored) = &self.keeping {
            assert!(stored.head <= stored.read_to && stored.read_to <= stored.next, "{stored:?}");
            let in_memory = self.inflight.len() as u64 + self.queue.len() as u64;
            assert!(in_memory <= stored.read_to.get() - stored.head.get(), "memory holds part of the lane");
            let in_lane = |seq: &Seq| (stored.head..stored.next).contains(seq);
            assert!(self.marks.keys().all(in_lane), "marks are of messages that are not done");
        }
    }
}
