//! One uplink as a whole: its lanes, its link, and what becomes of messages that the upstream does not take.
//!
//! In: how far lanes reach, records read from them, bytes from the upstream, time. Out: what to read next, bytes to
//! write, places that are delivered, places to move into the poison lane.
//! Always: the lane whose turn it is, decided anew for each read; what had not been sent when a sender was refused comes
//! after it; a place counts as delivered once every place before it is answered, expired, or safe in the poison lane.
//! Bounds: `window` publications in flight, `look_ahead_max` places of a lane sent and not settled, `held_max` that wait
//! for their senders, `senders_max` senders that wait.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use model::{Instant, LaneId, Now, Priority, Seq, Timestamp};

use super::bursts::Bursts;
use super::dialect::Outgoing;
use super::exactly::Exchanges;
use super::inbound::{InboundCounts, LocalError};
use super::lanes::{Lane, ReadRules, Wanted};
use super::link::{Answer, Link, Sending, Sent};
use super::pace::Pace;
use super::poison::{self, Refusal, Unfit, Verdict};
use super::pool::Pool;
use super::proof::Proof;
use super::quotas::Quotas;
use super::schedule::{Turns, WEIGHTED_BATCH};
use super::senders::{Sender, Senders};
use super::sources::{Source, Sources};
use super::suspicion::Suspicion;
use super::window::{Pressure, Window};
use super::{Dialect, LinkError, LinkSetup, LinkState, Schedule};
use crate::envelope::Envelope;
use crate::random::Random;

mod pooled;

/// Bytes that may wait for the socket before more is read: what is written cannot be overtaken any more.
const OUT_BYTES_MAX: usize = 64 << 10;
/// The same for history that live messages may pass.
const HISTORY_BYTES_MAX: usize = 16 << 10;
/// Messages of one read of history, so that live ones come in between.
const HISTORY_BATCH: usize = 64;

/// How an uplink carries.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How lanes share the link.
    pub schedule: Schedule,
    /// Whether what comes after a reconnect passes what waited, in lanes of which [`Carrier::set_live_first`] says nothing.
    pub live_first: bool,
    /// The part of the link that what waited gets beside live messages, 1 to 99.
    pub history_share_percent: u8,
    /// Most messages per second; 0 for no such pace.
    pub messages_per_sec: u64,
    /// Most bytes of publications, as they are sent, per second; 0 for no such pace.
    pub bytes_per_sec: u64,
    /// Longest wait before a backlog starts to drain on a new link; the wait is drawn at random.
    pub drain_jitter_millis: u64,
    /// Fewest and most publications in flight; between them the link's own pace decides.
    pub window: (usize, usize),
    /// Attempts after which a refused message goes into the poison lane.
    pub attempts_max: u16,
    /// First and last wait before a refused sender is tried again.
    pub retry_millis: (u64, u64),
    /// Places of one lane that may be sent and not settled.
    pub look_ahead_max: usize,
    /// Places of one lane that may wait for their senders; above it the lane does.
    pub held_max: usize,
    /// Senders that may wait at once.
    pub senders_max: usize,
    /// Bytes of one read.
    pub read_bytes_max: usize,
    /// Client identifier of what comes from there, if anything does.
    pub identity: Option<String>,
    /// For everything that looks random.
    pub seed: u64,
}

/// Read this, offer every record, and say how far it went by [`Carrier::passed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The lane.
    pub lane: LaneId,
    /// First place.
    pub from: Seq,
    /// Most records.
    pub messages_max: usize,
    /// Most bytes.
    pub bytes_max: usize,
    index: usize,
    wanted: Wanted,
    trying: Option<Sender>,
    sent: usize,
    /// From here on nothing was taken: with a pool, because the lane waits.
    blocked: Option<Seq>,
    /// The first place that the lane gave.
    given: Option<Seq>,
}

/// Places, both included, that are delivered behind the first one of their lane that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Their lane.
    pub lane: LaneId,
    /// The first.
    pub from: Seq,
    /// The last.
    pub up_to: Seq,
}

/// A place to move into the poison lane. It stays undelivered until [`Carrier::is_aside`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Its lane.
    pub lane: LaneId,
    /// Its place.
    pub seq: Seq,
    /// How often it was tried.
    pub attempts: u16,
    /// Why it goes.
    pub why: Refusal,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Publications sent, repeats included.
    pub sent: u64,
    /// Publications that the upstream took.
    pub forwarded: u64,
    /// Publications that it refused, repeats included.
    pub refused: u64,
    /// Messages that went aside.
    pub aside: u64,
    /// Of these, messages whose topic there needs something that they do not have.
    pub missing_fields: u64,
    /// Of these, messages that say they are from somebody who their publisher is not.
    pub foreign_senders: u64,
    /// Messages that came from here as the uplink's own, and were not sent back.
    pub own: u64,
    /// Messages that were sent without their properties, for which 3.1.1 has no place.
    pub poorer: u64,
    /// What came from there.
    pub inbound: InboundCounts,
}

/// Everything about one uplink that needs no I/O.
#[derive(Debug)]
pub struct Carrier {
    rules: Rules,
    link: Option<Link>,
    /// Instead of the link, where identities have their own.
    pool: Option<Pool>,
    dialect: Option<Arc<dyn Dialect>>,
    /// With a pool: lanes whose next message waits for room on its link.
    blocked: BTreeSet<usize>,
    lanes: Vec<Lane>,
    turns: Turns,
    senders: Senders,
    /// Of the link before, while there is none.
    exchanges: Exchanges,
    /// The address of the upstream whose messages the session at our own broker remembers; after a start, none.
    session_of: Option<usize>,
    suspicion: Suspicion,
    window: Window,
    bursts: Bursts,
    quotas: Quotas,
    proof: Proof,
    /// The least urgent lanes that may go now; `None` for none.
    only: Option<Priority>,
    random: Random,
    paces: [Option<Pace>; 2],
    answers: Vec<Answer>,
    asides: VecDeque<Aside>,
    counts: Counts,
    /// Whose messages are taken, where somebody asks.
    sources: Option<Box<Sources>>,
}

impl Carrier {
    /// An uplink without lanes and without a link.
    pub fn new(rules: Rules) -> Carrier {
        Carrier {
            link: None,
            pool: None,
            dialect: None,
            blocked: BTreeSet::new(),
            lanes: Vec::new(),
            turns: Turns::new(rules.schedule),
            senders: Senders::new(rules.senders_max, rules.retry_millis),
            exchanges: Exchanges::default(),
            session_of: None,
            suspicion: Suspicion::default(),
            window: Window::new(rules.window.0, rules.window.1),
            bursts: Bursts::default(),
            quotas: Quotas::default(),
            proof: Proof::default(),
            only: Some(Priority::DEFAULT),
            random: Random(rules.seed),
            paces: [Pace::new(rules.messages_per_sec), Pace::new(rules.bytes_per_sec)],
            answers: Vec::new(),
            asides: VecDeque::new(),
            counts: Counts::default(),
            sources: None,
            rules,
        }
    }

    /// From now on messages are counted by whom they are from, in so many bytes. Before the first lane.
    pub fn count_sources(&mut self, bytes_max: usize) {
        self.sources = Some(Box::new(Sources::within(bytes_max)));
    }

    /// What was counted and measured of them: see `sources`.
    pub fn source_series(&self) -> Option<hub::series::Series> {
        self.sources.as_ref().map(|sources| sources.series())
    }

    /// When a record was kept that was offered.
    pub fn note_kept(&mut self, reading: &Reading, seq: Seq, kept: Timestamp) {
        if let Some(sources) = &mut self.sources {
            sources.note_kept(reading.index, seq, kept);
        }
    }

    /// Adds a lane with what is in it: the first place that is not delivered and the place the next record will get.
    /// Lanes are added from the most urgent one on, before the first link.
    pub fn add_lane(&mut self, lane: LaneId, priority: Priority, head: Seq, tail: Seq) {
        let last = self.lanes.last().map(|lane| lane.priority);
        assert!(last.is_none_or(|last| last <= priority), "lanes are added from the most urgent one on");
        let Rules { live_first, retry_millis, .. } = self.rules;
        self.lanes.push(Lane::new(lane, priority, (head, tail), live_first, retry_millis));
        self.sources.iter_mut().for_each(|sources| sources.add_lane(priority));
        self.turns.add_lane();
    }

    /// Whether what comes after a reconnect passes what waited in this lane: from the next reconnect on. If not, nothing that
    /// was never read passes anything from now on.
    pub fn set_live_first(&mut self, lane: LaneId, live_first: bool) {
        if let Some(lane) = self.lanes.iter_mut().find(|have| have.id == lane) {
            lane.set_live_first(live_first);
        }
    }

    /// The lane reaches up to here now.
    pub fn grown(&mut self, lane: LaneId, tail: Seq) {
        if let Some(lane) = self.lanes.iter_mut().find(|have| have.id == lane) {
            lane.grow(tail);
        }
    }

    /// A connection is there; its CONNECT is appended to `out`.
    pub fn connected(&mut self, setup: LinkSetup, now: Now, out: &mut Vec<u8>) -> Result<(), LinkError> {
        let mut exchanges = std::mem::take(&mut self.exchanges);
        let lanes = &mut self.lanes;
        exchanges.begin_connection(|about| lanes[about.sender.lane].stretch(about.seq).is_open(about.seq));
        let is_session_ours = self.session_of == Some(setup.address);
        self.link = Some(Link::open(setup, exchanges, now, out)?.with_session(is_session_ours));
        self.window.begin(now.instant);
        self.proof = Proof::default();
        Ok(())
    }

    /// Takes every whole packet in `bytes`; returns how many bytes that were. After an error the link is over, and
    /// [`Carrier::lost`] must follow.
    pub fn read(&mut self, bytes: &[u8], now: Now, out: &mut Vec<u8>) -> Result<usize, LinkError> {
        let Some(link) = &mut self.link else { return Ok(bytes.len()) };
        let was = link.state();
        let mut answers = std::mem::take(&mut self.answers);
        let taken = link.read(bytes, &mut answers, now, out);
        let (state, window) = (link.state(), link.window().min(self.window.size()));
        if was == LinkState::Greeting && state == LinkState::Up {
            self.bursts.up(now.instant);
            self.proof.up(now.instant);
            let jitter = self.random.next() % (self.rules.drain_jitter_millis + 1);
            for lane in &mut self.lanes {
                lane.link_is_up(window, now.instant.plus_millis(jitter));
            }
        }
        if !answers.is_empty() {
            self.proof.answered();
            answers.iter().filter_map(|answer| answer.number).for_each(|number| self.window.answered(number));
            self.window.settle(now.instant);
        }
        for answer in answers.drain(..) {
            self.on_answer(answer, now.instant);
        }
        self.answers = answers;
        taken
    }

    /// Time passed: keeps the link alive, or says that it is not.
    pub fn tick(&mut self, now: Now, out: &mut Vec<u8>) -> Result<(), LinkError> {
        self.window.tick(now.instant);
        self.proof.tick(self.inflight(), now.instant);
        self.link.as_mut().map_or(Ok(()), |link| link.tick(now, out))
    }

    /// Whether the link may be used for everything; if not, only for messages as urgent as `always`, if any.
    pub fn set_open(&mut self, is_open: bool, always: Option<Priority>) {
        let only = match (is_open, always) {
            (true, _) => Some(Priority::DEFAULT),
            (false, always) => always,
        };
        if only != self.only {
            self.only = only;
            self.blocked.clear();
            self.pool.iter_mut().for_each(Pool::hours_changed);
        }
    }

    /// Whether something waits that may go now, were there a link.
    pub fn has_something_to_go(&self) -> bool {
        self.lanes.iter().any(|lane| goes(self.only, lane) && lane.backlog() > 0)
    }

    /// Asks the upstream whether it is there: something happened that it may not have survived.
    pub fn probe(&mut self, now: Now, out: &mut Vec<u8>) {
        if let Some(link) = &mut self.link {
            link.probe(now, out);
        }
    }

    /// The upstream says, by whatever means of its own, that it wants less.
    pub fn throttle(&mut self, now: Instant) {
        self.window.throttle(self.inflight(), now);
    }

    /// TCP has repeated packets since the last time: the way loses. Its round trip takes so many microseconds.
    pub fn repaired(&mut self, round_trip_micros: u64, now: Instant) {
        self.window.repaired(round_trip_micros, now);
    }

    /// The other side has ended the link without a word. Soon after it came up, with much in flight, and not for the first
    /// time, that is what an upstream does which wants less and cannot say so. Call before [`Carrier::lost`].
    pub fn cut_off(&mut self, now: Instant) {
        let inflight = if self.is_up() { self.inflight() } else { 0 };
        if self.bursts.ended(inflight, self.window.size(), self.window.is_throttled(), now) {
            self.window.throttle(inflight, now);
        }
    }

    /// What the link can carry, as far as is known.
    pub fn pressure(&self) -> Pressure {
        if let Some(pool) = &self.pool {
            return pool.pressure();
        }
        let pressure = self.window.pressure();
        let most = self.link.as_ref().map_or(usize::MAX, Link::window);
        Pressure { window: pressure.window.min(most), ..pressure }
    }

    /// Appends a goodbye to `out`.
    pub fn close(&self, out: &mut Vec<u8>) {
        if let Some(link) = &self.link {
            link.close(out);
        }
    }

    /// The link is gone. What was in flight is sent again on the next one.
    ///
    /// `by_peer`: the other side ended it, and had been sent everything; then it may have been a message's fault.
    pub fn lost(&mut self, by_peer: bool, error: Option<&LinkError>, now: Instant) {
        self.counts = self.counts();
        let Some(link) = self.link.take() else { return };
        self.sources.iter_mut().for_each(|sources| sources.forget_measured());
        let said = match error {
            Some(LinkError::Disconnected(reason)) => Some(*reason),
            _ => None,
        };
        if matches!(error, Some(LinkError::Refused(reason) | LinkError::Disconnected(reason)) if poison::is_throttling(*reason))
        {
            self.window.throttle(link.inflight(), now);
        }
        for lane in &mut self.lanes {
            lane.rewind();
        }
        for (lane, seq) in self.senders.rewind() {
            self.lanes[lane].stretch(seq).hold(seq);
        }
        let is_suspicious = by_peer && said.is_none_or(poison::is_about_a_message);
        if let (true, Some(first)) = (is_suspicious, link.first_unanswered()) {
            let stretch = self.lanes[first.sender.lane].stretch(first.seq);
            let attempts = if self.suspicion.ended(link.inflight()) { stretch.failed(first.seq) } else { 0 };
            if attempts >= self.rules.attempts_max {
                self.move_aside(first, attempts, Refusal::EndsLink(said), now);
            }
        }
        self.session_of = link.session_after(self.session_of);
        self.exchanges = link.into_exchanges();
    }

    /// Whether the link at hand, or the last one, is or was of use: something was answered, or it has lasted with nothing to
    /// answer.
    pub fn is_proven(&self) -> bool {
        self.proof.is_given()
    }

    /// Whether publications may be sent.
    pub fn is_up(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.state() == LinkState::Up)
    }

    /// Publications in flight.
    pub fn inflight(&self) -> usize {
        let of_pool = self.pool.as_ref().map_or(0, Pool::inflight);
        self.link.as_ref().map_or(of_pool, Link::inflight)
    }

    /// Messages that are not delivered yet, over all lanes.
    pub fn backlog(&self) -> u64 {
        self.lanes.iter().map(Lane::backlog).sum()
    }

    /// Senders that wait because the upstream refuses their messages.
    pub fn senders_waiting(&self) -> usize {
        self.senders.len()
    }

    /// What was counted since the start.
    pub fn counts(&self) -> Counts {
        let of_pool = self.pool.as_ref().map_or(0, Pool::poorer);
        let Some(link) = &self.link else {
            return Counts { poorer: self.counts.poorer + of_pool, ..self.counts };
        };
        Counts {
            poorer: self.counts.poorer + link.poorer(),
            inbound: self.counts.inbound.plus(link.inbound_counts()),
            ..self.counts
        }
    }

    /// Takes every whole packet of our own broker, where what comes from upstream is published; how many bytes that were.
    /// After an error the link is over.
    pub fn read_local(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, LocalError> {
        self.link.as_mut().map_or(Ok(bytes.len()), |link| link.read_local(bytes, out))
    }

    /// Bytes for our own broker.
    pub fn local_bytes(&self) -> &[u8] {
        self.link.as_ref().map_or(&[], Link::local_bytes)
    }

    /// So many of them are on their way.
    pub fn wrote_local(&mut self, len: usize) {
        if let Some(link) = &mut self.link {
            link.wrote_local(len);
        }
    }

    /// Whether so much waits for our own broker that nothing should be read from upstream.
    pub fn is_inbound_full(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_inbound_full)
    }

    /// Filters that the upstream has refused since the last time, and why.
    pub fn take_unsubscribed(&mut self) -> Vec<(String, wire::ReasonCode)> {
        self.link.as_mut().map(Link::take_unsubscribed).unwrap_or_default()
    }

    /// What to read next, if something may be sent now; `out_bytes` wait for the socket.
    pub fn next_reading(&mut self, out_bytes: usize, now: Instant) -> Option<Reading> {
        if self.pool.is_some() {
            return self.next_pooled(now);
        }
        let link = self.link.as_ref().filter(|link| link.state() == LinkState::Up)?;
        let window = self.suspicion.window(link.window()).min(self.window.size());
        let inflight = link.inflight();
        let room = window.saturating_sub(inflight);
        if room == 0 || out_bytes >= OUT_BYTES_MAX {
            return None;
        }
        let [messages, bytes] = &mut self.paces;
        let room = room.min(messages.as_mut().map_or(usize::MAX, |pace| pace.left(now)));
        let bytes_max = bytes.as_mut().map_or(usize::MAX, |pace| pace.left(now));
        if room == 0 || bytes_max == 0 {
            return None;
        }
        let bytes_max = bytes_max.min(OUT_BYTES_MAX).min(self.rules.read_bytes_max);
        if let Some((sender, seq)) = self.next_try(now) {
            return Some(self.reading(sender.lane, Wanted::one(seq, 1), 1, bytes_max, Some(sender)));
        }
        let rules = ReadRules {
            now,
            window,
            underway_max: self.rules.look_ahead_max.max(window),
            held_max: self.rules.held_max,
            history_fits: out_bytes < HISTORY_BYTES_MAX,
            history_share_percent: self.rules.history_share_percent,
        };
        let (lanes, only) = (&self.lanes, self.only);
        let Some((index, wanted)) =
            self.turns.next(|lane| Some(&lanes[lane]).filter(|lane| goes(only, lane))?.to_read(&rules))
        else {
            self.window.ran_dry(inflight);
            return None;
        };
        let batch = match self.rules.schedule {
            _ if wanted.is_history => HISTORY_BATCH,
            Schedule::Strict => usize::MAX,
            Schedule::Weighted => WEIGHTED_BATCH,
        };
        Some(self.reading(index, wanted, room.min(batch), bytes_max, None))
    }

    /// One record of a reading, in order.
    pub fn offer(
        &mut self,
        reading: &mut Reading,
        seq: Seq,
        record: &[u8],
        expires: Option<Timestamp>,
        now: Now,
        out: &mut Vec<u8>,
    ) {
        let index = reading.index;
        reading.given = reading.given.or(Some(seq));
        reading.blocked = reading.blocked.or(reading.wanted.until.filter(|until| seq >= *until));
        if reading.blocked.is_some() {
            return;
        }
        if reading.trying.is_some() && seq != reading.from || !self.lanes[index].stretch(seq).wants(seq) {
            return;
        }
        let Ok(envelope) = Envelope::decode(record) else {
            let sender = Sender { lane: index, client: 0 };
            let about = Sending { sender, seq, source: Source::default() };
            return self.move_aside(about, 0, Refusal::Unreadable, now.instant);
        };
        let sender = Sender { lane: index, client: hash(envelope.client_id) };
        // What came from there does not go back there: two bridges would send it round and round.
        if self.rules.identity.as_deref().is_some_and(|identity| identity == envelope.client_id) {
            let stretch = self.lanes[index].stretch(seq);
            stretch.sent(seq);
            stretch.settle(seq);
            self.counts.own += 1;
            return;
        }
        let source = match &mut self.sources {
            Some(sources) => sources.of(envelope.topic, envelope.client_id),
            None => Source::default(),
        };
        if self.pool.is_some() {
            return self.offer_pooled(reading, &envelope, (index, seq, source), expires, now);
        }
        if self.senders.holds(sender, seq) {
            return self.lanes[index].stretch(seq).hold(seq);
        }
        let about = Sending { sender, seq, source };
        let stretch = self.lanes[index].stretch(seq);
        let repeat = stretch.is_repeat(seq);
        let Some(link) = &mut self.link else { return };
        let message = Outgoing { envelope: &envelope, lane: reading.lane, seq, expires };
        let before = out.len();
        match link.send(about, &message, repeat, now, out) {
            Ok(sent) => {
                let len = out.len() - before;
                self.sent(reading, (about, repeat), len, sent == Sent::Gone, now);
            }
            Err(why) => self.move_aside(about, 1, why, now.instant),
        }
    }

    /// A record went to a link, as so many bytes; `gone`: for good.
    fn sent(
        &mut self,
        reading: &mut Reading,
        (Sending { sender, seq, source }, is_repeat): (Sending, bool),
        len: usize,
        gone: bool,
        now: Now,
    ) {
        let index = sender.lane;
        if let Some(sources) = &mut self.sources {
            sources.sent(source, (index, seq), is_repeat, now);
            if gone {
                sources.taken(source, (index, seq), now.instant);
            }
        }
        let stretch = self.lanes[index].stretch(seq);
        stretch.sent(seq);
        if gone {
            stretch.settle(seq);
            self.counts.forwarded += 1;
        }
        reading.sent += 1;
        self.counts.sent += 1;
        if !gone && self.pool.is_none() {
            self.window.sent(now.instant);
        }
        let [messages, bytes] = &mut self.paces;
        messages.iter_mut().for_each(|pace| pace.spent(1));
        bytes.iter_mut().for_each(|pace| pace.spent(len));
    }

    /// The reading went on to `next`: what it did not give before that has expired, or is gone.
    pub fn passed(&mut self, reading: &Reading, next: Seq) {
        let lane = &mut self.lanes[reading.index];
        let next = reading.blocked.map_or(next, |blocked| next.min(blocked));
        match reading.trying {
            Some(sender) if lane.stretch(reading.from).waits(reading.from) => {
                // With it all that was held before the first place that is there.
                let gone = self.senders.vanished(sender, reading.from, reading.given.unwrap_or(next));
                lane.settle_all(&gone);
            }
            Some(_) => {}
            None => lane.passed(reading.from, next),
        }
        let priority = lane.priority;
        // A turn that came to nothing was one, too: what is blocked must not keep the other share from its own.
        let is_blocked = reading.blocked.is_some();
        lane.shared(&reading.wanted, if is_blocked { reading.sent.max(1) } else { reading.sent });
        self.turns.sent(reading.index, priority, reading.sent);
    }

    /// Puts lanes that are delivered further than before on `delivered`, with the last delivered place.
    pub fn delivered(&mut self, delivered: &mut Vec<(LaneId, Seq)>) {
        delivered.extend(self.lanes.iter_mut().filter_map(|lane| Some((lane.id, lane.delivered()?))));
    }

    /// Puts places on `ahead` that are delivered although something before them in their lane is not, each about once: they were
    /// answered, have expired, or are safe in the poison lane. What is behind a place that is underway follows when that is
    /// answered, or some calls later; call it every 250 ms or so.
    ///
    /// Cost: next to none for a lane in which nothing waits; else what is new, and bounded.
    pub fn delivered_ahead(&mut self, ahead: &mut Vec<Ahead>) {
        for lane in &mut self.lanes {
            let id = lane.id;
            lane.tell_ahead(|from, up_to| ahead.push(Ahead { lane: id, from, up_to }));
        }
    }

    /// The next place to move into the poison lane.
    pub fn next_aside(&mut self) -> Option<Aside> {
        self.asides.pop_front()
    }

    /// This place is safe in the poison lane, or lost for good: its own lane goes on.
    pub fn is_aside(&mut self, lane: LaneId, seq: Seq) {
        if let Some(lane) = self.lanes.iter_mut().find(|have| have.id == lane) {
            lane.stretch(seq).settle(seq);
        }
    }

    /// Milliseconds until [`Carrier::next_reading`] may have something that it has not now, without any other event.
    pub fn wait_millis(&self, now: Instant) -> Option<u64> {
        if !self.is_up() && self.pool.is_none() {
            return None;
        }
        let times = self.senders.next_due().into_iter().chain(self.lanes.iter().flat_map(Lane::waits_until));
        let times = times.filter(|at| *at > now);
        // A little more, so that it has come then.
        let first = times.min().map(|at| at.millis_since(now) + 1);
        let own = self.window.size();
        let window =
            self.link.as_ref().map_or(usize::MAX, |link| self.suspicion.window(link.window()).min(own));
        let has_room = window > self.inflight();
        let paced = if has_room && self.backlog() > self.inflight() as u64 {
            self.paces.iter().flatten().map(Pace::wait_millis).max().filter(|millis| *millis > 0)
        } else {
            None
        };
        first.into_iter().chain(paced).min()
    }

    fn reading(
        &self,
        index: usize,
        wanted: Wanted,
        room: usize,
        bytes_max: usize,
        trying: Option<Sender>,
    ) -> Reading {
        let messages_max = wanted.count.min(room);
        let lane = self.lanes[index].id;
        let from = wanted.from;
        Reading {
            lane,
            from,
            messages_max,
            bytes_max,
            index,
            wanted,
            trying,
            sent: 0,
            blocked: None,
            given: None,
        }
    }

    /// A refused sender whose time has come; its oldest place waits to be sent then.
    fn next_try(&mut self, now: Instant) -> Option<(Sender, Seq)> {
        let (lanes, only) = (&self.lanes, self.only);
        let may = |sender: Sender, seq| {
            let lane = &lanes[sender.lane];
            goes(only, lane) && !lane.is_resting(now) && lane.may_try(seq)
        };
        let (sender, seq) = self.senders.try_next(now, may)?;
        self.lanes[sender.lane].stretch(seq).release(seq);
        Some((sender, seq))
    }

    fn on_answer(&mut self, Answer { about, reason, .. }: Answer, now: Instant) {
        let Sending { sender, seq, source } = about;
        self.suspicion.answered();
        let verdict = poison::judge(reason);
        let lane = &mut self.lanes[sender.lane];
        if verdict == Verdict::Taken {
            self.counts.forwarded += 1;
            if let Some(sources) = &mut self.sources {
                sources.taken(source, (sender.lane, seq), now);
            }
            self.quotas.other();
            lane.taken();
            lane.stretch(seq).settle(seq);
            if self.senders.len() > 0 {
                lane.release_all(&self.senders.accepted(sender, seq));
                // With QoS 2 the end of one may come that waited for its turn.
                self.senders.forget(sender, seq);
            }
            return;
        }
        self.counts.refused += 1;
        self.sources.iter_mut().for_each(|sources| sources.refused((sender.lane, seq)));
        if !poison::is_throttling(reason) {
            self.quotas.other();
        } else if self.quotas.refused(sender.client, now) && self.pool.is_none() {
            self.window.throttle(self.link.as_ref().map_or(0, Link::inflight), now);
        }
        let attempts = lane.stretch(seq).failed(seq);
        let is_final = match verdict {
            Verdict::Taken | Verdict::Later => false,
            Verdict::Perhaps => {
                attempts >= self.rules.attempts_max || self.senders.is_convicted(sender, reason)
            }
            Verdict::Never => true,
        };
        if is_final {
            return self.move_aside(about, attempts, Refusal::Answered(reason), now);
        }
        if self.senders.refused(sender, seq, now, &mut self.random) {
            return lane.stretch(seq).hold(seq);
        }
        // So many senders are refused that it is not theirs: the lane rests for a while.
        lane.stretch(seq).release(seq);
        lane.rest(now, self.random.next());
    }

    fn move_aside(&mut self, about: Sending, attempts: u16, why: Refusal, now: Instant) {
        let Sending { sender, seq, .. } = about;
        let lane = &mut self.lanes[sender.lane];
        lane.stretch(seq).set_aside(seq);
        self.sources.iter_mut().for_each(|sources| sources.forget_measured());
        let reason = match why {
            Refusal::Answered(reason) if poison::judge(reason) == Verdict::Perhaps => Some(reason),
            _ => None,
        };
        self.senders.left(sender, seq, reason, now, &mut self.random);
        self.suspicion.answered();
        self.counts.aside += 1;
        self.counts.missing_fields += u64::from(matches!(why, Refusal::MissingField { .. }));
        self.counts.foreign_senders += u64::from(why == Refusal::Unfit(Unfit::Sender));
        self.asides.push_back(Aside { lane: lane.id, seq, attempts, why });
    }

    /// What must always hold; for tests.
    #[cfg(test)]
    pub(super) fn invariants(&self) {
        self.lanes.iter().for_each(Lane::invariants);
        let look_ahead = self.rules.look_ahead_max;
        self.senders.invariants(self.lanes.iter().map(|lane| lane.held() + lane.underway()).sum());
        let window = self.link.as_ref().map_or(0, Link::window);
        assert!(self.inflight() <= window || self.pool.is_some());
        self.pool.iter().for_each(Pool::invariants);
        self.window.invariants();
        assert!(self.lanes.iter().all(|lane| lane.underway() <= look_ahead.max(usize::from(u16::MAX))));
        // What was to be sent, and is held up after all, may be read beyond it.
        assert!(self.lanes.iter().all(|lane| lane.held() <= self.rules.held_max + usize::from(u16::MAX)));
    }
}

/// Whether a lane may be sent now, if only lanes as urgent as `only` may.
fn goes(only: Option<Priority>, lane: &Lane) -> bool {
    only.is_some_and(|only| lane.priority <= only)
}

pub(super) fn hash(client_id: &str) -> u64 {
    use std::hash::BuildHasher as _;
    foldhash::fast::FixedState::with_seed(0).hash_one(client_id)
}
