//! Promises not yet kept: who waits for the disk and for other shards, in the order in which they asked.
//!
//! In: an answer with what must come true first. Out: the answers whose conditions hold. A connection's answers leave in
//! the order in which they were asked for [MQTT-4.6.0-2] [MQTT-4.6.0-3]: all that it is owed at one time stands in one
//! queue. There is a queue for those who wait for our disk alone, one for those who wait for records of `spill` routes, and
//! one for each shard to wait for, so that a slow upstream or shard holds back nobody who does not need it.
//! Invariant: watermarks never go back.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use model::{ConnId, ShardId, SpillTicket, Ticket};
use wire::{AckKind, ReasonCode};

use crate::subscriptions::SessionKey;

/// Proof that a publication is as safe as its routes and subscribers demand; only this module can make one.
#[derive(Debug)]
pub(crate) struct Kept(());

/// What must come true before an answer may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    /// Our own writes up to here are durable; 0 if none is needed.
    pub(crate) ticket: Ticket,
    /// Records of `spill` routes up to here are delivered or durable; 0 if there is none.
    pub(crate) spill: SpillTicket,
    /// The shards (one bit each) that must have kept what we handed them. Our own bit: see [`Marking`].
    pub(crate) shards: u64,
    /// Our handoff number they must have reached.
    pub(crate) handoff: u64,
}

/// The queue of the first shard.
const SHARD_QUEUES: usize = 2;

/// For promises that no connection waits for; no connection has this name.
pub(crate) const NOBODY: ConnId = ConnId(0);

/// An acknowledgement that a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwedAck {
    /// Which packet it is.
    pub(crate) kind: AckKind,
    /// Of what.
    pub(crate) packet_id: NonZeroU16,
    /// What it says.
    pub(crate) reason: ReasonCode,
}

impl OwedAck {
    /// Whether it tells a publisher that we have its publication.
    pub(crate) const fn is_of_publication(&self) -> bool {
        matches!(self.kind, AckKind::PubAck | AckKind::PubRec)
    }
}

/// What leaves when a promise is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An acknowledgement.
    Ack(OwedAck),
    /// One that says that there is no room; it only waits for its turn.
    Refusal(OwedAck),
    /// Part of what an ended session left to its groups is safe elsewhere; no connection waits.
    Estate(u32),
    /// A will that this session left is safe elsewhere; its generation. No connection waits.
    Will(SessionKey, u32),
    /// The loss ledger is published up to before this entry, and safe where it was published. No connection waits.
    Losses(u64),
    /// The answer that its connection holds back, see `Connection::held`.
    Held,
}

/// A QoS 2 identifier to write down once other shards have kept its publication.
///
/// Were it durable before them, a crash between would lose the publication: the repeat would be taken for a duplicate.
/// When it is durable, our own mark reaches the handoff number of the promise, which asks for it by our own bit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marking {
    /// Whose.
    pub(crate) session: SessionKey,
    /// Distinguishes the session from another with the same key.
    pub(crate) generation: u32,
    /// The identifier.
    pub(crate) packet_id: NonZeroU16,
    /// What must come true first; its handoff number is the mark.
    pub(crate) promise: Promise,
}

/// Which queue of [`Acks`] the answers of a connection stand in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AckQueue(u8);

/// Everything that waits, in order.
#[derive(Debug)]
pub(crate) struct Acks {
    /// First for our disk alone, then for `spill` routes, then one for each shard.
    queues: Box<[VecDeque<(ConnId, Promise, Answer)>]>,
    durable: Ticket,
    spilled: SpillTicket,
    /// Handoff number that each shard has kept, indexed by shard.
    kept: Vec<u64>,
    own: ShardId,
    /// In the order of their handoff numbers.
    markings: VecDeque<Marking>,
    /// Markings written and not durable: ticket and handoff number.
    marked: VecDeque<(Ticket, u64)>,
    /// Promises not kept of what came back to be handed to another shard, under the handoff number of the first time. A
    /// promise with this number or a later one waits for it: later than need be, and never for one that waits for it in
    /// turn, since what shards tell one another of depends on their own disks alone.
    extensions: Vec<(u64, Promise)>,
}

impl Acks {
    /// Nothing waits yet, in shard `own` of `shards`.
    pub(crate) fn new(shards: u16, own: ShardId) -> Acks {
        Acks {
            queues: (0..usize::from(shards) + SHARD_QUEUES).map(|_| VecDeque::new()).collect(),
            durable: Ticket(0),
            spilled: SpillTicket(0),
            kept: vec![0; usize::from(shards)],
            own,
            markings: VecDeque::new(),
            marked: VecDeque::new(),
            extensions: Vec::new(),
        }
    }

    /// The proof, if the promise is already kept.
    #[inline]
    pub(crate) fn check(&self, promise: &Promise) -> Option<Kept> {
        (self.is_kept(promise) && (promise.shards == 0 || !self.is_extended(promise))).then_some(Kept(()))
    }

    #[inline]
    fn is_kept(&self, promise: &Promise) -> bool {
        promise.ticket <= self.durable && promise.spill <= self.spilled && self.shards_have_kept(promise)
    }

    fn is_extended(&self, promise: &Promise) -> bool {
        self.extensions.iter().any(|(handoff, _)| *handoff <= promise.handoff)
    }

    /// Where an answer with this promise waits if its connection is owed nothing else.
    #[inline]
    pub(crate) fn queue(promise: &Promise) -> AckQueue {
        match (promise.spill, promise.shards) {
            (SpillTicket(0), 0) => AckQueue(0),
            (SpillTicket(0), shards) => AckQueue(shards.trailing_zeros() as u8 + SHARD_QUEUES as u8),
            _ => AckQueue(1),
        }
    }

    /// Puts an answer behind the others.
    pub(crate) fn wait(&mut self, queue: AckQueue, conn: ConnId, promise: Promise, answer: Answer) {
        self.queues[usize::from(queue.0)].push_back((conn, promise, answer));
    }

    /// Everything of ours up to this ticket is durable.
    pub(crate) fn durable(&mut self, up_to: Ticket) {
        self.durable = self.durable.max(up_to);
        while let Some(&(ticket, handoff)) = self.marked.front()
            && ticket <= self.durable
        {
            self.marked.pop_front();
            self.kept(self.own, handoff);
        }
        self.drop_kept_extensions();
    }

    /// Every record of ours for a `spill` route up to this one is delivered or durable.
    pub(crate) fn spilled(&mut self, up_to: SpillTicket) {
        self.spilled = self.spilled.max(up_to);
    }

    /// The highest durable ticket.
    pub(crate) fn durable_ticket(&self) -> Ticket {
        self.durable
    }

    /// A shard has kept all we handed it up to this number.
    pub(crate) fn kept(&mut self, by: ShardId, up_to: u64) {
        let mark = &mut self.kept[usize::from(by.0)];
        *mark = up_to.max(*mark);
        self.drop_kept_extensions();
    }

    /// What was handed over under this number came back and is somewhere else now, under another promise.
    pub(crate) fn extend(&mut self, handoff: u64, promise: Promise) {
        if self.is_kept(&promise) {
            return;
        }
        // It may have come back before.
        let earlier = self.extensions.iter().find(|(_, earlier)| earlier.handoff == handoff);
        let first = earlier.map_or(handoff, |(first, _)| *first);
        self.extensions.push((first, promise));
    }

    fn drop_kept_extensions(&mut self) {
        if !self.extensions.is_empty() {
            let extensions = std::mem::take(&mut self.extensions);
            self.extensions = extensions.into_iter().filter(|(_, promise)| !self.is_kept(promise)).collect();
        }
    }

    /// How many queues there are.
    pub(crate) fn queues(&self) -> usize {
        self.queues.len()
    }

    /// The next answer of a queue whose promise is kept, with the proof.
    pub(crate) fn release(&mut self, queue: usize) -> Option<(ConnId, Answer, Kept)> {
        let (conn, promise, answer) = *self.queues[queue].front()?;
        let kept = self.check(&promise)?;
        self.queues[queue].pop_front();
        Some((conn, answer, kept))
    }

    /// Puts an identifier behind the others that will be written; the promise of its PUBREC.
    pub(crate) fn mark_later(&mut self, marking: Marking) -> Promise {
        self.markings.push_back(marking);
        Promise { shards: marking.promise.shards | 1 << self.own.0, ..marking.promise }
    }

    /// The next identifier that may be written now. The caller says [`Acks::mark_written`].
    pub(crate) fn next_marking(&mut self) -> Option<Marking> {
        let marking = *self.markings.front()?;
        self.check(&marking.promise)?;
        self.markings.pop_front()
    }

    /// The identifier of a marking is written, or need not be any more (`Ticket(0)`).
    pub(crate) fn mark_written(&mut self, marking: &Marking, ticket: Ticket) {
        // In order: an earlier one may not be durable yet.
        let earlier = self.marked.back().map_or(Ticket(0), |(ticket, _)| *ticket);
        self.marked.push_back((ticket.max(earlier), marking.promise.handoff));
        self.durable(self.durable);
    }

    /// The connections that wait for an acknowledgement, once for each.
    pub(crate) fn owed(&self) -> impl Iterator<Item = ConnId> {
        let waiting = self.queues.iter().flatten();
        waiting
            .filter(|(_, _, answer)| matches!(answer, Answer::Ack(_) | Answer::Refusal(_)))
            .map(|(conn, ..)| *conn)
    }

    fn shards_have_kept(&self, promise: &Promise) -> bool {
        let mut shards = promise.shards;
        while shards != 0 {
            if self.kept[shards.trailing_zeros() as usize] < promise.handoff {
                return false;
            }
            shards &= shards - 1;
        }
        true
    }
}

#[cfg(test)]
mod tests;
