//! What travels between threads: bounded boxes with a bell.
//!
//! In: messages from any thread. Out: the same, in order per sender, on the thread that owns the box.
//! A full box is an answer, not an error: the sender keeps the message and comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use broker::access::{Access, Verdict};
use broker::{Control, HandoffBatch, HubAnswer, Plan, SessionKey};
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use model::{ConnId, LaneId, Seq, ShardId, SpillTicket, Ticket, Timestamp};
use tokio::sync::Notify;

use crate::net::Arrival;

/// One message to a shard.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A connection was accepted for it.
    Accepted(Arrival),
    /// Publications from another shard.
    Handoff {
        /// Which one.
        from: ShardId,
        /// The publications.
        batch: HandoffBatch,
    },
    /// Something small from another shard.
    Control(Control),
    /// A session's lane is open.
    LaneOpened {
        /// Whose.
        session: SessionKey,
        /// As asked.
        generation: u32,
        /// The lane.
        lane: LaneId,
        /// First record that is not delivered.
        head: Seq,
        /// The place of the next record.
        next: Seq,
    },
    /// A session's lane was read.
    LaneRead {
        /// Whose.
        session: SessionKey,
        /// As asked.
        generation: u32,
        /// Place, expiry, record.
        records: Vec<(Seq, Option<Timestamp>, Box<[u8]>)>,
        /// Where to read on.
        next: Seq,
        /// Records that were still there, but expired.
        expired: u64,
    },
    /// A client's password was verified.
    Authenticated {
        /// Whose.
        conn: ConnId,
        /// What came of it.
        verdict: Verdict,
    },
    /// A service of the IoT Hub dialect tells a client something.
    Hub {
        /// Its connection; it may be gone.
        conn: ConnId,
        /// What.
        answer: HubAnswer,
    },
    /// An identity may not stay.
    Withdrawn {
        /// Its connection; it may be gone.
        conn: ConnId,
    },
    /// New users and rules.
    Access(Arc<Access>),
    /// What the router says of itself: topics and payloads.
    System(crate::system::Changes),
    /// A part of the loss ledger, to be published.
    Losses(crate::disk::reports::Part),
    /// New routes.
    Plan(Arc<Plan>),
    /// Say goodbye to every client, write what can be written, and stop.
    Stop,
}

/// The box of one shard.
#[derive(Debug)]
pub(crate) struct Mailbox {
    queue: ArrayQueue<Mail>,
    bell: Notify,
    durable: CachePadded<Durable>,
}

/// How far the disk is with the writes of one shard.
#[derive(Debug, Default)]
struct Durable {
    ticket: AtomicU64,
    bytes: AtomicU64,
    spilled: AtomicU64,
}

impl Mailbox {
    /// An empty box for at most `capacity` messages.
    pub(crate) fn new(capacity: usize) -> Mailbox {
        Mailbox { queue: ArrayQueue::new(capacity), bell: Notify::new(), durable: CachePadded::default() }
    }

    /// Puts a message in and rings; gives it back if the box is full.
    pub(crate) fn send(&self, mail: Mail) -> Result<(), Mail> {
        let result = self.queue.push(mail);
        self.bell.notify_one();
        result
    }

    /// Reports that everything up to `ticket` is durable, `bytes` since the start, and every record of `spill` routes up to
    /// `spilled` is safe, and rings.
    pub(crate) fn durable(&self, ticket: Ticket, bytes: u64, spilled: SpillTicket) {
        self.durable.bytes.store(bytes, Ordering::Relaxed);
        self.durable.spilled.store(spilled.0, Ordering::Relaxed);
        // Release: who sees the ticket sees the bytes that belong to it.
        self.durable.ticket.store(ticket.0, Ordering::Release);
        self.bell.notify_one();
    }

    /// How far the disk is: the highest durable ticket, and the bytes up to it.
    pub(crate) fn durable_up_to(&self) -> (Ticket, u64) {
        let ticket = Ticket(self.durable.ticket.load(Ordering::Acquire));
        (ticket, self.durable.bytes.load(Ordering::Relaxed))
    }

    /// Up to which record of a `spill` route all are safe.
    pub(crate) fn spilled_up_to(&self) -> SpillTicket {
        SpillTicket(self.durable.spilled.load(Ordering::Acquire))
    }

    /// Takes the oldest message.
    pub(crate) fn take(&self) -> Option<Mail> {
        self.queue.pop()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Waits until somebody rings; returns at once if that happened since the last wait.
    pub(crate) async fn wait(&self) {
        self.bell.notified().await;
    }

    /// Rings without a message: look around again.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }
}
