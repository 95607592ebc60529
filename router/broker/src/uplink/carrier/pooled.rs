//! An uplink whose messages go over links of their own, one for each identity.
//!
//! In: what the edge knows of each link. Out: links to open and close, bytes for each; places to read and to settle are
//! those of the one carrier, so that lanes, turns, paces, refusals and the poison lane are the same as with one link.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{Instant, Now, Priority, Timestamp};

use super::super::dialect::Outgoing;
use super::super::lanes::{Lane, ReadRules, Wanted};
use super::super::link::{Heard, LinkError, LinkSetup, Sending, Sent};
use super::super::poison::{Refusal, Unfit};
use super::super::pool::{Pool, PoolRules, Room};
use super::super::senders::Sender;
use super::super::sources::Source;
use super::{Carrier, HISTORY_BATCH, Reading, Rules, goes, hash};
use crate::envelope::Envelope;

/// What a lane may have waiting, when the first link comes up, without being a backlog.
const WINDOW: usize = HISTORY_BATCH * 4;

impl Carrier {
    /// An uplink without lanes and without links, which has a link for each identity.
    pub fn pooled(rules: Rules, pool: PoolRules, dialect: Arc<dyn super::super::Dialect>) -> Carrier {
        let mut carrier = Carrier::new(rules);
        carrier.pool = Some(Pool::new(pool, carrier.rules.window));
        carrier.dialect = Some(dialect);
        carrier
    }

    /// An identity whose link is to be opened now; [`Carrier::link_lost`] must follow some day.
    pub fn next_open(&mut self, now: Instant) -> Option<Arc<str>> {
        let waiting: BTreeSet<u64> = self.senders.clients().collect();
        let due = self.due();
        let pool = self.pool.as_mut()?;
        pool.tidy(&waiting, now);
        pool.next_open(now, due.as_ref())
    }

    /// Outside the hours: who has something waiting that may go all the same.
    fn due(&self) -> Option<BTreeSet<u64>> {
        let goes = |sender: &&Sender| goes(self.only, &self.lanes[sender.lane]);
        (self.only != Some(Priority::DEFAULT))
            .then(|| self.senders.all().filter(goes).map(|sender| sender.client).collect())
    }

    /// Whether nothing but what is urgent goes now.
    pub fn is_resting(&self) -> bool {
        self.only != Some(Priority::DEFAULT)
    }

    /// When there may be one, if that is later than now.
    pub fn next_open_at(&self, now: Instant) -> Option<Instant> {
        self.pool.as_ref()?.next_open_at(now, self.due().as_ref())
    }

    /// The connection of an identity's link is there; its CONNECT waits for [`Carrier::take_out`].
    pub fn link_connected(&mut self, identity: &str, setup: LinkSetup, now: Now) -> Result<(), LinkError> {
        let Some(pool) = &mut self.pool else { return Ok(()) };
        pool.connected(hash(identity), setup, now)
    }

    /// Takes every whole packet in `bytes`; returns how many bytes that were, and whether the link has come up by it.
    pub fn link_read(&mut self, identity: &str, bytes: &[u8], now: Now) -> Result<(usize, bool), LinkError> {
        let Some(pool) = &mut self.pool else { return Ok((bytes.len(), false)) };
        let id = hash(identity);
        let mut answers = std::mem::take(&mut self.answers);
        let result = pool.read(id, bytes, &mut answers, now);
        let has_answers = !answers.is_empty();
        if has_answers || matches!(result, Ok((_, true))) {
            self.blocked.clear();
        }
        if matches!(result, Ok((_, true))) {
            self.senders.unpark(id, now.instant);
            if pool.up() == 1 {
                self.is_back(now.instant);
            }
        }
        for answer in answers.drain(..) {
            self.on_answer(answer, now.instant);
        }
        self.answers = answers;
        if has_answers {
            self.release(id);
        }
        result
    }

    /// The first link is up, after none was: what waits is history from now on, as with one link.
    fn is_back(&mut self, now: Instant) {
        let jitter = self.random.next() % (self.rules.drain_jitter_millis + 1);
        for lane in &mut self.lanes {
            lane.link_is_up(WINDOW, now.plus_millis(jitter));
        }
    }

    /// Services want to hear this over the link of an identity, which stays while they do; nothing: not any more. Whether the
    /// link is up.
    pub fn listen(&mut self, identity: &str, filters: BTreeSet<String>, now: Instant) -> bool {
        self.pool.as_mut().is_some_and(|pool| pool.listen(hash(identity), identity, filters, now))
    }

    /// A service says something over the link of an identity, with QoS 0; `false`: that is not up, or does not take it.
    pub fn say(&mut self, identity: &str, topic: &str, payload: &[u8], now: Now) -> bool {
        self.pool.as_mut().is_some_and(|pool| pool.say(hash(identity), topic, payload, now))
    }

    /// A service has taken what it heard over a link of an identity; `ack` is what came with it.
    pub fn acknowledge(&mut self, identity: &str, ack: (u64, NonZeroU16), now: Now) {
        if let Some(pool) = &mut self.pool {
            pool.acknowledge(hash(identity), ack, now);
        }
    }

    /// A service does not take what it heard over a link of an identity: it is to come again, over the next one.
    pub fn give_back(&mut self, identity: &str) {
        if let Some(pool) = &mut self.pool {
            pool.give_back(hash(identity));
        }
    }

    /// What has come for services over the link of an identity.
    pub fn take_heard(&mut self, identity: &str) -> Vec<Heard> {
        self.pool.as_mut().map_or_else(Vec::new, |pool| pool.take_heard(hash(identity)))
    }

    /// A link that others did not have to wait for has answered: what waits for it gets the room that there is.
    fn release(&mut self, id: u64) {
        let Some(pool) = &mut self.pool else { return };
        let mut room = pool.free(id);
        let mut has_parked = false;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let sender = Sender { lane: index, client: id };
            while room > 0
                && let Some(seq) = self.senders.free(sender)
            {
                lane.stretch(seq).release(seq);
                room -= 1;
            }
            has_parked |= self.senders.holds_any(sender);
        }
        pool.set_parked(id, has_parked);
    }

    /// Moves what waits for an identity's socket behind `out`.
    pub fn take_out(&mut self, identity: &str, out: &mut Vec<u8>) {
        if let Some(pool) = &mut self.pool {
            pool.take_out(hash(identity), out);
        }
    }

    /// Identities with bytes for their sockets.
    pub fn with_out(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pool.iter().flat_map(Pool::with_out)
    }

    /// Time passed for one link.
    pub fn link_tick(&mut self, identity: &str, now: Now) -> Result<(), LinkError> {
        // What a full link held up may be held back by now.
        self.blocked.clear();
        let id = hash(identity);
        self.release(id);
        self.pool.as_mut().map_or(Ok(()), |pool| pool.tick(id, now))
    }

    /// Whether a link has been of no use for so long that it is to be closed.
    pub fn is_idle(&self, identity: &str, now: Instant) -> bool {
        let id = hash(identity);
        if let (Some(due), Some(pool)) = (self.due(), &self.pool) {
            return pool.is_useless(id, now) && !due.contains(&id);
        }
        // What waits for it has not had its turn yet.
        self.pool.as_ref().is_none_or(|pool| pool.is_idle(id, now)) && !self.senders.waits(id)
    }

    /// Nothing new is sent over a link; whether nothing is in flight.
    pub fn rest(&mut self, identity: &str) -> bool {
        self.pool.as_mut().is_none_or(|pool| pool.rest(hash(identity)))
    }

    /// Says goodbye on a link.
    pub fn link_close(&mut self, identity: &str) {
        if let Some(pool) = &mut self.pool {
            pool.close(hash(identity));
        }
    }

    /// The other side has ended a link without a word. Call before [`Carrier::link_lost`].
    pub fn link_cut_off(&mut self, identity: &str, now: Instant) {
        if let Some(pool) = &mut self.pool {
            pool.cut_off(hash(identity), now);
        }
    }

    /// A link is gone, or did not come about. What was in flight on it is sent again on the next one; what is on the
    /// others is not touched.
    ///
    /// `failed`: it waits before it is opened again. `by_peer`: as for [`Carrier::lost`].
    pub fn link_lost(
        &mut self,
        identity: &str,
        failed: bool,
        by_peer: bool,
        error: Option<&LinkError>,
        now: Instant,
    ) {
        let Some(pool) = &mut self.pool else { return };
        self.sources.iter_mut().for_each(|sources| sources.forget_measured());
        let id = hash(identity);
        let left = pool.lost(id, failed, by_peer, error, self.rules.attempts_max, now);
        self.blocked.clear();
        self.counts.poorer += left.poorer;
        for Sending { sender, seq, .. } in left.inflight {
            self.lanes[sender.lane].stretch(seq).hold(seq);
            self.senders.park(sender, seq, true);
        }
        for seq_of in self.senders.rewind_client(id) {
            self.lanes[seq_of.0].stretch(seq_of.1).hold(seq_of.1);
        }
        if self.senders.waits(id)
            && let Some(pool) = &mut self.pool
        {
            pool.want(id);
        }
        if left.is_condemned {
            // What waits is looked at again, and goes aside.
            self.senders.unpark(id, now);
        }
        if let Some(suspect) = left.suspect {
            let attempts = self.lanes[suspect.sender.lane].stretch(suspect.seq).failed(suspect.seq);
            if attempts >= self.rules.attempts_max {
                let said = match error {
                    Some(LinkError::Disconnected(reason)) => Some(*reason),
                    _ => None,
                };
                self.move_aside(suspect, attempts, Refusal::EndsLink(said), now);
            }
        }
    }

    /// Whether the link of an identity is of use. Ask before [`Carrier::link_lost`].
    pub fn is_link_proven(&self, identity: &str) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.is_proven(hash(identity)))
    }

    /// Identities that are known.
    #[cfg(test)]
    pub(in crate::uplink) fn identities(&self) -> usize {
        self.pool.as_ref().map_or(0, Pool::members)
    }

    /// Links that are up.
    pub fn links_up(&self) -> usize {
        self.pool.as_ref().map_or(0, Pool::up)
    }

    /// Whether the gateway's own link is up.
    pub fn is_own_up(&self) -> bool {
        self.pool.as_ref().is_some_and(Pool::is_own_up)
    }

    /// As [`Carrier::next_reading`]. Lanes are read without a link, too: what is in them says which links are wanted.
    pub(super) fn next_pooled(&mut self, now: Instant) -> Option<Reading> {
        let [messages, bytes] = &mut self.paces;
        let room = messages.as_mut().map_or(usize::MAX, |pace| pace.left(now));
        let bytes_max = bytes.as_mut().map_or(usize::MAX, |pace| pace.left(now));
        if room == 0 || bytes_max == 0 {
            return None;
        }
        let bytes_max = bytes_max.min(self.rules.read_bytes_max);
        if let Some((sender, seq)) = self.next_try(now) {
            return Some(self.reading(sender.lane, Wanted::one(seq, 1), 1, bytes_max, Some(sender)));
        }
        // History leaves a part of what all links together can carry; without any that is never asked.
        let has_history = self.lanes.iter().any(Lane::has_history);
        let window = WINDOW.max(self.pool.as_ref().filter(|_| has_history).map_or(0, Pool::window));
        let rules = ReadRules {
            now,
            window,
            underway_max: self.rules.look_ahead_max,
            held_max: self.rules.held_max,
            history_fits: true,
            history_share_percent: self.rules.history_share_percent,
        };
        let (lanes, blocked, only) = (&self.lanes, &self.blocked, self.only);
        let (index, wanted) = self.turns.next(|lane| {
            Some(&lanes[lane]).filter(|it| !blocked.contains(&lane) && goes(only, it))?.to_read(&rules)
        })?;
        Some(self.reading(index, wanted, room.min(HISTORY_BATCH), bytes_max, None))
    }

    /// One record of a reading, in order, over the link of its identity.
    pub(super) fn offer_pooled(
        &mut self,
        reading: &mut Reading,
        envelope: &Envelope<'_>,
        about: (usize, model::Seq, Source),
        expires: Option<Timestamp>,
        now: Now,
    ) {
        let (index, seq, source) = about;
        let Some(dialect) = &self.dialect else { return };
        let identity = match dialect.identity(envelope) {
            Ok(identity) => identity,
            Err(why) => {
                let sender = Sender { lane: index, client: 0 };
                return self.move_aside(Sending { sender, seq, source }, 1, why, now.instant);
            }
        };
        let id = hash(&identity);
        let about = Sending { sender: Sender { lane: index, client: id }, seq, source };
        if self.senders.holds(about.sender, seq) {
            return self.lanes[index].stretch(seq).hold(seq);
        }
        let Some(pool) = &mut self.pool else { return };
        // What was read before waits in any case: nobody of its lane is tried while it does not, not even who would make room.
        let must = self.lanes[index].stretch(seq).waits(seq);
        match pool.room(id, &identity, now.instant) {
            Room::Now => {}
            Room::Never => return self.move_aside(about, 1, Refusal::Unfit(Unfit::Identity), now.instant),
            Room::Later if self.senders.park(about.sender, seq, must) => {
                return self.lanes[index].stretch(seq).hold(seq);
            }
            // More identities wait than may: the lane does.
            Room::Soon | Room::Later => {
                reading.blocked = Some(seq);
                self.blocked.insert(index);
                if reading.trying.is_some() {
                    self.senders.park(about.sender, seq, true);
                    self.lanes[index].stretch(seq).hold(seq);
                }
                return;
            }
        }
        let message = Outgoing { envelope, lane: reading.lane, seq, expires };
        let repeat = self.lanes[index].stretch(seq).is_repeat(seq);
        match pool.send(id, about, &message, repeat, now) {
            Ok((sent, len)) => self.sent(reading, (about, repeat), len, sent == Sent::Gone, now),
            Err(why) => self.move_aside(about, 1, why, now.instant),
        }
    }
}
