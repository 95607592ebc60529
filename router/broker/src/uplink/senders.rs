//! Senders whose messages the upstream does not take now: what waits for each, and when it is tried again.
//!
//! A sender is a client identifier within one lane. In: refusals, acceptances, time. Out: the one place to try next.
//! Always: while a sender waits, at most one of its messages is tried, its oldest; so what had not been sent when it was
//! refused keeps its order. Bound: `senders_max` senders, beside those who were in flight when their link was lost; and places
//! only of what its lane holds open, so that no more senders wait than places are underway or held.

use std::collections::BTreeMap;

use model::{Instant, Seq};
use wire::ReasonCode;

use super::Backoff;
use super::places::Places;
use crate::random::Random;

/// Whoever waits for a link waits for no time.
const NEVER: Instant = Instant(u64::MAX);

/// Who sent a message, as far as order is concerned: a lane by its index, and a hash of the client identifier. Two
/// clients with one hash wait for each other, which harms nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sender {
    pub(super) lane: usize,
    pub(super) client: u64,
}

#[derive(Debug)]
struct Waiting {
    held: Places,
    backoff: Backoff,
    due: Instant,
    trying: Option<Seq>,
    /// Up to here places may be sent, although younger ones wait.
    freed: Option<Seq>,
    /// Why its last message went aside; its next one needs no more than one attempt with this answer.
    convicted: Option<ReasonCode>,
}

/// All senders of one uplink that wait.
#[derive(Debug)]
pub(super) struct Senders {
    waiting: BTreeMap<Sender, Waiting>,
    senders_max: usize,
    retry_millis: (u64, u64),
}

impl Senders {
    pub(super) fn new(senders_max: usize, retry_millis: (u64, u64)) -> Senders {
        Senders { waiting: BTreeMap::new(), senders_max, retry_millis }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether this place must wait for its sender; it is noted then.
    pub(super) fn holds(&mut self, sender: Sender, seq: Seq) -> bool {
        // Mostly nobody waits.
        if self.waiting.is_empty() {
            return false;
        }
        let Some(waiting) = self.waiting.get_mut(&sender) else { return false };
        if waiting.trying == Some(seq) || waiting.freed.is_some_and(|freed| seq <= freed) {
            return false;
        }
        waiting.held.insert(seq);
        true
    }

    /// Whether one answer of this kind is enough, because it was the last word on the sender's message before.
    pub(super) fn is_convicted(&self, sender: Sender, reason: ReasonCode) -> bool {
        self.waiting.get(&sender).is_some_and(|waiting| waiting.convicted == Some(reason))
    }

    /// The upstream refused this place for now. False if there is no room for one more sender that waits.
    pub(super) fn refused(&mut self, sender: Sender, seq: Seq, now: Instant, random: &mut Random) -> bool {
        let is_new = !self.waiting.contains_key(&sender);
        let Some(waiting) = self.entry(sender, false) else { return false };
        waiting.held.insert(seq);
        waiting.freed = None;
        // What was in flight beside the first one is no further failure.
        if is_new || waiting.trying == Some(seq) {
            waiting.trying = None;
            waiting.due = now.plus_millis(waiting.backoff.failed(random.next()));
        }
        true
    }

    /// This place waits until its link is up, or has room. False if there is no room for one more sender that waits; with
    /// `must` there is: it was in flight.
    pub(super) fn park(&mut self, sender: Sender, seq: Seq, must: bool) -> bool {
        let Some(waiting) = self.entry(sender, must) else { return false };
        waiting.held.insert(seq);
        waiting.freed = None;
        waiting.trying = waiting.trying.filter(|trying| *trying != seq);
        waiting.due = NEVER;
        true
    }

    /// What waits of a sender; with `must` even if no further one may wait.
    fn entry(&mut self, sender: Sender, must: bool) -> Option<&mut Waiting> {
        let (min, max) = self.retry_millis;
        if !must && !self.waiting.contains_key(&sender) && self.waiting.len() >= self.senders_max {
            return None;
        }
        Some(self.waiting.entry(sender).or_insert_with(|| Waiting {
            held: Places::default(),
            backoff: Backoff::new(min, max),
            due: Instant::default(),
            trying: None,
            freed: None,
            convicted: None,
        }))
    }

    /// The oldest place that waits for room on a link that is up; it may be sent now, and nothing younger may pass it.
    pub(super) fn free(&mut self, sender: Sender) -> Option<Seq> {
        let waiting = self.waiting.get_mut(&sender)?;
        if waiting.due != NEVER || waiting.trying.is_some() {
            return None;
        }
        let first = waiting.held.pop_first()?;
        waiting.freed = Some(first);
        if waiting.held.is_empty() {
            self.waiting.remove(&sender);
        }
        Some(first)
    }

    /// The link of a client is up: its senders are tried at once.
    pub(super) fn unpark(&mut self, client: u64, now: Instant) {
        for (_, waiting) in self.waiting.iter_mut().filter(|(sender, _)| sender.client == client) {
            waiting.due = now;
        }
    }

    /// The link of a client is lost: nothing of it is being tried. What was, is held again.
    pub(super) fn rewind_client(&mut self, client: u64) -> Vec<(usize, Seq)> {
        let mut held = Vec::new();
        for (sender, waiting) in self.waiting.iter_mut().filter(|(sender, _)| sender.client == client) {
            waiting.due = NEVER;
            if let Some(seq) = waiting.trying.take() {
                waiting.held.insert(seq);
                held.push((sender.lane, seq));
            }
        }
        held
    }

    /// Whether something of this sender waits.
    pub(super) fn holds_any(&self, sender: Sender) -> bool {
        self.waiting.get(&sender).is_some_and(|waiting| !waiting.held.is_empty())
    }

    /// Whether something of this client waits.
    pub(super) fn waits(&self, client: u64) -> bool {
        self.clients().any(|waits| waits == client)
    }

    /// Everybody with something that waits.
    pub(super) fn all(&self) -> impl Iterator<Item = &Sender> {
        self.waiting.keys()
    }

    /// Clients with something that waits.
    pub(super) fn clients(&self) -> impl Iterator<Item = u64> {
        self.waiting.keys().map(|sender| sender.client)
    }

    /// The upstream took this place: if that was the try, the places that may go on.
    pub(super) fn accepted(&mut self, sender: Sender, seq: Seq) -> Places {
        if self.waiting.get(&sender).is_none_or(|waiting| waiting.trying != Some(seq)) {
            return Places::default();
        }
        self.waiting.remove(&sender).map(|waiting| waiting.held).unwrap_or_default()
    }

    /// This place has left its lane with this answer. The sender's next one is tried after the shortest delay: slowly,
    /// so that a mistake upstream does not empty whole lanes into the poison lane before somebody looks.
    pub(super) fn left(
        &mut self,
        sender: Sender,
        seq: Seq,
        why: Option<ReasonCode>,
        now: Instant,
        random: &mut Random,
    ) {
        let Some(waiting) = self.waiting.get_mut(&sender) else { return };
        waiting.held.remove(seq);
        if waiting.trying == Some(seq) {
            waiting.trying = None;
        }
        if waiting.held.is_empty() {
            self.waiting.remove(&sender);
            return;
        }
        waiting.convicted = why;
        waiting.backoff.succeeded();
        waiting.due = now.plus_millis(waiting.backoff.failed(random.next()));
    }

    /// A sender whose time has come, and its oldest place, which may be sent now. `may` says whether nothing older of
    /// that lane still waits to be sent again.
    pub(super) fn try_next(
        &mut self,
        now: Instant,
        may: impl Fn(Sender, Seq) -> bool,
    ) -> Option<(Sender, Seq)> {
        for (sender, waiting) in &mut self.waiting {
            let Some(first) = waiting.held.first() else { continue };
            if waiting.trying.is_none() && waiting.due <= now && may(*sender, first) {
                waiting.held.remove(first);
                waiting.trying = Some(first);
                return Some((*sender, first));
            }
        }
        None
    }

    /// The place has left its lane without having been tried.
    pub(super) fn forget(&mut self, sender: Sender, seq: Seq) {
        let Some(waiting) = self.waiting.get_mut(&sender) else { return };
        if waiting.held.remove(seq) && waiting.held.is_empty() && waiting.trying.is_none() {
            self.waiting.remove(&sender);
        }
    }

    /// The place that was to be tried is not there any more, nor is anything of its sender before `to`: the next one is tried
    /// at once. All places that are gone.
    pub(super) fn vanished(&mut self, sender: Sender, seq: Seq, to: Seq) -> Places {
        let mut range = Places::default();
        range.insert_range(seq, to.max(seq.next()));
        let mut gone = Places::default();
        if let Some(waiting) = self.waiting.get_mut(&sender) {
            gone = waiting.held.take(&range);
            if waiting.trying == Some(seq) {
                waiting.trying = None;
            }
            if waiting.held.is_empty() && waiting.trying.is_none() {
                self.waiting.remove(&sender);
            }
        }
        gone.insert(seq);
        gone
    }

    /// The link is lost: nothing is being tried. What was, is held again.
    pub(super) fn rewind(&mut self) -> Vec<(usize, Seq)> {
        let mut held = Vec::new();
        for (sender, waiting) in &mut self.waiting {
            if let Some(seq) = waiting.trying.take() {
                waiting.held.insert(seq);
                held.push((sender.lane, seq));
            }
        }
        held
    }

    /// When somebody is to be tried next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let waits = |waiting: &&Waiting| waiting.trying.is_none() && !waiting.held.is_empty();
        self.waiting.values().filter(waits).map(|waiting| waiting.due).filter(|due| *due != NEVER).min()
    }

    /// What must always hold; for tests.
    #[cfg(test)]
    pub(super) fn invariants(&self, places_max: usize) {
        assert!(self.waiting.len() <= self.senders_max + places_max);
    }
}
