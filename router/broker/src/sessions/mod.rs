//! What we remember of a client: subscriptions, and the messages it has not acknowledged.
//!
//! Knows: delivery windows, packet identifiers, the lane of a stored session. Never: sockets, other sessions.
//! Two kinds: a *clean* session ends with its connection and lives in memory; a *stored* one outlives it, and every
//! QoS 1 message for it is a record of its own lane before it is anything else.
//! Invariant of a stored session: `head <= read_to <= next`; what is in flight or queued lies in `head..read_to`.

mod inflight;
pub mod record;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use model::{ConnId, Instant, LaneId, Qos, Seq, Timestamp};

pub use self::inflight::{Acked, Inflight};

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
pub struct Queued {
    /// The session record: see [`record`].
    pub record: Rc<[u8]>,
    /// Its place in the session's lane; `None` in a clean session.
    pub seq: Option<Seq>,
    /// When it is worth nothing any more.
    pub expires: Option<Timestamp>,
}

/// The lane of a stored session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Which lane.
    pub lane: LaneId,
    /// First record that the client has not acknowledged.
    pub head: Seq,
    /// First record not yet brought into memory (queued or in flight).
    pub read_to: Seq,
    /// The place that the next record will get; we are the only one who appends to this lane.
    pub next: Seq,
    /// Records before this may have been sent on an earlier connection: they go out with DUP.
    pub sent_before: Seq,
    /// A read of the lane is under way.
    pub reading: bool,
}

impl Stored {
    /// A lane with this much in it.
    pub fn new(lane: LaneId, head: Seq, next: Seq) -> Stored {
        Stored { lane, head, read_to: head, next, sent_before: head, reading: false }
    }

    /// Whether memory holds everything that the lane holds.
    pub fn is_live(&self) -> bool {
        self.read_to == self.next
    }

    /// Records that the client has not acknowledged.
    pub fn backlog(&self) -> u64 {
        self.next.get() - self.head.get()
    }
}

/// Where the messages of a session are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// In memory, until the connection ends.
    Clean,
    /// On disk; the lane has been asked for.
    Opening,
    /// On disk.
    Stored(Stored),
}

/// One session.
#[derive(Debug)]
pub struct Session {
    /// Whose.
    pub client_id: Rc<str>,
    /// Distinguishes it from an earlier session with the same key.
    pub generation: u32,
    /// The connection it has now.
    pub conn: Option<ConnId>,
    /// Seconds it outlives its connection; 0 ends it with the connection, `u32::MAX` never.
    pub expiry_secs: u32,
    /// When it ends, while it has no connection.
    pub ends_at: Option<Instant>,
    /// When its last connection ended.
    pub disconnected_at: Timestamp,
    /// Its subscriptions by filter.
    pub subscriptions: BTreeMap<Box<str>, SubscriptionOptions>,
    /// Where its messages are kept.
    pub keeping: Keeping,
    /// QoS 1 messages sent and not acknowledged.
    pub inflight: Inflight,
    /// Messages behind those in flight.
    pub queue: VecDeque<Queued>,
    /// Bytes of `queue`.
    pub queue_bytes: usize,
}

impl Session {
    /// A session without subscriptions or messages.
    pub fn new(client_id: Rc<str>, generation: u32, keeping: Keeping) -> Session {
        Session {
            client_id,
            generation,
            conn: None,
            expiry_secs: 0,
            ends_at: None,
            disconnected_at: Timestamp::default(),
            subscriptions: BTreeMap::new(),
            keeping,
            inflight: Inflight::default(),
            queue: VecDeque::new(),
            queue_bytes: 0,
        }
    }

    /// Whether the session outlives its connection.
    pub fn is_stored(&self) -> bool {
        !matches!(self.keeping, Keeping::Clean)
    }

    /// The lane, once it is open.
    pub fn stored_mut(&mut self) -> Option<&mut Stored> {
        match &mut self.keeping {
            Keeping::Stored(stored) => Some(stored),
            Keeping::Clean | Keeping::Opening => None,
        }
    }

    /// Puts a message behind the others.
    pub fn enqueue(&mut self, queued: Queued) {
        self.queue_bytes += queued.record.len();
        self.queue.push_back(queued);
    }

    /// Takes the message whose turn it is.
    pub fn dequeue(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.queue_bytes -= queued.record.len();
        Some(queued)
    }

    /// Forgets what memory holds; a stored session reads it again from its lane when the client comes back.
    pub fn disconnect(&mut self) {
        self.conn = None;
        self.queue = VecDeque::new();
        self.queue_bytes = 0;
        self.inflight = Inflight::default();
        if let Keeping::Stored(stored) = &mut self.keeping {
            stored.sent_before = stored.sent_before.max(stored.read_to);
            stored.read_to = stored.head;
            stored.reading = false;
        }
    }

    /// Checks what must hold between turns.
    pub fn invariants(&self) {
        let queued: usize = self.queue.iter().map(|queued| queued.record.len()).sum();
        assert_eq!(self.queue_bytes, queued, "queue bytes are counted");
        if let Keeping::Stored(stored) = &self.keeping {
            assert!(stored.head <= stored.read_to && stored.read_to <= stored.next, "{stored:?}");
            let in_memory = self.inflight.len() as u64 + self.queue.len() as u64;
            assert!(in_memory <= stored.read_to.get() - stored.head.get(), "memory holds part of the lane");
        }
    }
}
