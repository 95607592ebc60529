//! Promises not yet kept: who waits for the disk, in the order in which they asked.
//!
//! In: an answer with what must come true first. Out: the answers whose conditions hold, first in first out, so that
//! a publisher's PUBACKs leave in the order of its PUBLISHes [MQTT-4.6.0-2].
//! Invariant: watermarks never go back.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use model::{ConnId, ShardId, Ticket};
use wire::{AckKind, ReasonCode};

/// Proof that a publication is as safe as its routes and subscribers demand; only this module can make one.
#[derive(Debug)]
pub(crate) struct Kept(());

/// What must come true before an answer may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    /// Our own writes up to here are durable; 0 if none is needed.
    pub(crate) ticket: Ticket,
    /// The shards (one bit each) that must have kept what we handed them.
    pub(crate) shards: u64,
    /// Our handoff number they must have reached.
    pub(crate) handoff: u64,
}

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

/// What leaves when a promise is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An acknowledgement of a publication.
    Ack(OwedAck),
    /// Part of what an ended session left to its groups is safe elsewhere; no connection waits.
    Estate(u32),
    /// The answer that its connection holds back, see `Connection::held`.
    Held,
}

/// Everything that waits, in order.
#[derive(Debug)]
pub(crate) struct Acks {
    waiting: VecDeque<(ConnId, Promise, Answer)>,
    durable: Ticket,
    /// Handoff number that each shard has kept, indexed by shard.
    kept: Vec<u64>,
}

impl Acks {
    /// Nothing waits yet.
    pub(crate) fn new(shards: u16) -> Acks {
        Acks { waiting: VecDeque::new(), durable: Ticket(0), kept: vec![0; usize::from(shards)] }
    }

    /// The proof, if the promise is already kept.
    #[inline]
    pub(crate) fn check(&self, promise: &Promise) -> Option<Kept> {
        (promise.ticket <= self.durable && self.shards_have_kept(promise)).then_some(Kept(()))
    }

    /// Puts an answer behind the others.
    pub(crate) fn wait(&mut self, conn: ConnId, promise: Promise, answer: Answer) {
        self.waiting.push_back((conn, promise, answer));
    }

    /// Everything of ours up to this ticket is durable.
    pub(crate) fn durable(&mut self, up_to: Ticket) {
        self.durable = self.durable.max(up_to);
    }

    /// The highest durable ticket.
    pub(crate) fn durable_ticket(&self) -> Ticket {
        self.durable
    }

    /// A shard has kept all we handed it up to this number.
    pub(crate) fn kept(&mut self, by: ShardId, up_to: u64) {
        let mark = &mut self.kept[usize::from(by.0)];
        *mark = up_to.max(*mark);
    }

    /// The next answer whose promise is kept, with the proof.
    pub(crate) fn release(&mut self) -> Option<(ConnId, Answer, Kept)> {
        let (conn, promise, answer) = *self.waiting.front()?;
        let kept = self.check(&promise)?;
        self.waiting.pop_front();
        Some((conn, answer, kept))
    }

    /// The connections that wait for an acknowledgement, once for each.
    pub(crate) fn owed(&self) -> impl Iterator<Item = ConnId> {
        self.waiting.iter().filter(|(_, _, answer)| matches!(answer, Answer::Ack(_))).map(|(conn, ..)| *conn)
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
