//! One link for each identity that needs its own: opened on demand, bounded in number and pace, closed when idle.
//!
//! Knows: which identity a message is for (its dialect says so), which links are up. Never: sockets, credentials.
//! In: what links say, time. Out: identities whose link is to be opened or closed, bytes for each.
//! Always: a message goes over the link of its identity, in order; a link that is down or does not answer holds back the
//! messages of its own identity alone; one that is full makes its lane wait for a moment, so that little is read twice.
//! Bounds: `links_max` links, opened at most `opens_per_sec` a second with jitter, and as many refused identities that are
//! remembered without one; what is held back is bounded by the lane's `held_max` and by `senders_max`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{Instant, Now};

use super::Backoff;
use super::bursts::Bursts;
use super::dialect::Outgoing;
use super::exactly::Exchanges;
use super::link::{Answer, Heard, Link, LinkError, LinkSetup, LinkState, Sending, Sent};
use super::poison::{self, Refusal};
use super::proof::Proof;
use super::suspicion::Suspicion;
use super::window::{Pressure, Window};
use crate::random::Random;

/// Bytes of one link that may wait for its socket.
const OUT_BYTES_MAX: usize = 64 << 10;
/// Microseconds for which a lane waits at once for a link that is full; and the part of the time that it may wait for links.
const PATIENCE: i64 = 100_000;
const PATIENCE_SHARE: i64 = 10;
/// How long a link must last, if nothing is answered on it, before the next failure counts as the first one again.
const LASTING_MILLIS: u64 = 10_000;
/// How long a link outlives the hours with nothing to do.
const LINGER_MILLIS: u64 = 5_000;
/// With others waiting for a link, one without messages for so long is closed.
const CROWDED_MILLIS: u64 = 2_000;
/// For so many of the longest waits a refused identity is remembered.
const REMEMBERED_WAITS: u64 = 3;

/// How links are opened and closed.
#[derive(Clone, Debug)]
pub struct PoolRules {
    /// Links at once.
    pub links_max: usize,
    /// Links opened per second, all together.
    pub opens_per_sec: u32,
    /// A link without messages for so long is closed; one identity's is not.
    pub idle_millis: u64,
    /// How long an answer may be waited for before the link counts as dead.
    pub answer_millis: u64,
    /// First and last wait before a link that failed is opened again.
    pub backoff_millis: (u64, u64),
    /// The identity whose link is always there: the gateway's own.
    pub own: Arc<str>,
    /// For jitter.
    pub seed: u64,
}

/// The links of one uplink, by a hash of their identity.
#[derive(Debug)]
pub(super) struct Pool {
    rules: PoolRules,
    /// Fewest and most publications in flight on one link.
    window: (usize, usize),
    /// Signs of throttling on links that are forgotten.
    throttles: u64,
    members: BTreeMap<u64, Member>,
    /// Nothing is opened before.
    open_at: Instant,
    /// Of the lanes, with all links together: each of two hundred must not cost them its own tenth of the time.
    patience: Patience,
    random: Random,
}

#[derive(Debug)]
struct Member {
    identity: Arc<str>,
    link: Option<Link>,
    out: Vec<u8>,
    /// Somebody opens the link, or has it.
    is_taken: bool,
    /// Messages wait for it.
    is_wanted: bool,
    /// One that may go now has asked for it.
    is_needed: bool,
    /// Nothing new is sent: it is about to be closed for a better one.
    is_resting: bool,
    /// It heard what nobody takes: another link gets that again.
    gives_back: bool,
    /// What services want to hear over it; while that is something, the link stays as long as there are enough for all.
    filters: BTreeSet<String>,
    /// Links that it has had.
    links: u64,
    /// Not opened before.
    due: Instant,
    backoff: Backoff,
    up_at: Instant,
    /// When it was last of use.
    used_at: Instant,
    /// When it last answered, or had nothing to answer.
    answered_at: Instant,
    suspicion: Suspicion,
    /// Each way has its own pace: a hub shapes one device and not the other.
    window: Window,
    bursts: Bursts,
    proof: Proof,
    /// More has come for it than it can take; else what it answers is no measure of what it could.
    is_full: bool,
    has_parked: bool,
    /// How often the upstream has refused the identity since the link was up.
    refusals: u16,
    /// Its messages do not wait before: nobody will take them.
    condemned_until: Instant,
    /// Whoever comes again before is still the one that was refused, and is tried once and not as often as somebody new.
    remembered_until: Instant,
}

/// How long lanes still wait for links that are full: a tenth of the time at most, and [`PATIENCE`] at once.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Microseconds; less than nothing where a wait was longer than it should have been.
    left: i64,
    at: Instant,
    waits_since: Option<Instant>,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { left: PATIENCE, at: Instant::default(), waits_since: None }
    }
}

impl Patience {
    /// A lane waits; whether that has been for too long.
    fn is_over(&mut self, now: Instant) -> bool {
        let passed = now.0.saturating_sub(self.at.0).cast_signed();
        self.left = (self.left + passed / PATIENCE_SHARE).min(PATIENCE);
        self.at = now;
        let since = *self.waits_since.get_or_insert(now);
        let is_over = now.0.saturating_sub(since.0).cast_signed() >= self.left;
        if is_over {
            // The message does not wait in its lane any longer, and so the lane does not.
            self.goes_on(now);
        }
        is_over
    }

    /// A message has its turn.
    fn goes_on(&mut self, now: Instant) {
        if let Some(since) = self.waits_since.take() {
            let waited = now.0.saturating_sub(since.0).cast_signed();
            self.left = (self.left - waited).max(-PATIENCE_SHARE * PATIENCE);
        }
    }
}

/// What a message can have from its link now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It may be sent.
    Now,
    /// Soon; the lane waits.
    Soon,
    /// Nobody knows when; the message waits, and those of the same identity.
    Later,
    /// The upstream refuses the identity.
    Never,
}

/// What a link that is gone has left.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// What was in flight, in order.
    pub(super) inflight: Vec<Sending>,
    /// The end is held against this one, the only one in flight.
    pub(super) suspect: Option<Sending>,
    /// Messages that were sent without properties.
    pub(super) poorer: u64,
    /// The upstream has refused the identity so often that its messages do not wait any longer.
    pub(super) is_condemned: bool,
}

impl Pool {
    /// `window`: fewest and most publications in flight on one link.
    pub(super) fn new(rules: PoolRules, window: (usize, usize)) -> Pool {
        let random = Random(rules.seed);
        let (members, open_at) = (BTreeMap::new(), Instant::default());
        let patience = Patience::default();
        let mut pool = Pool { members, open_at, patience, random, window, throttles: 0, rules };
        let own = Arc::clone(&pool.rules.own);
        pool.member(super::carrier::hash(&own), &own, Instant::default()).is_wanted = true;
        pool
    }

    fn member(&mut self, id: u64, identity: &str, now: Instant) -> &mut Member {
        let (min, max) = self.rules.backoff_millis;
        let window = self.window;
        self.members.entry(id).or_insert_with(|| Member {
            identity: identity.into(),
            link: None,
            out: Vec::new(),
            is_taken: false,
            is_wanted: false,
            is_needed: false,
            is_resting: false,
            gives_back: false,
            filters: BTreeSet::new(),
            links: 0,
            due: Instant::default(),
            backoff: Backoff::new(min, max),
            up_at: now,
            used_at: now,
            answered_at: now,
            suspicion: Suspicion::default(),
            window: Window::new(window.0, window.1),
            bursts: Bursts::default(),
            proof: Proof::default(),
            is_full: false,
            has_parked: false,
            refusals: 0,
            condemned_until: Instant::default(),
            remembered_until: Instant::default(),
        })
    }

    /// Links that are open or being opened.
    pub(super) fn taken(&self) -> usize {
        self.members.values().filter(|member| member.is_taken).count()
    }

    /// Links that are up.
    pub(super) fn up(&self) -> usize {
        self.members.values().filter(|member| member.is_up()).count()
    }

    /// Whether the gateway's own link is up.
    pub(super) fn is_own_up(&self) -> bool {
        self.members.get(&super::carrier::hash(&self.rules.own)).is_some_and(Member::is_up)
    }

    pub(super) fn inflight(&self) -> usize {
        self.members.values().filter_map(|member| member.link.as_ref()).map(Link::inflight).sum()
    }

    pub(super) fn poorer(&self) -> u64 {
        self.members.values().filter_map(|member| member.link.as_ref()).map(Link::poorer).sum()
    }

    /// What a message of this identity can have now. Notes that the link is wanted.
    pub(super) fn room(&mut self, id: u64, identity: &str, now: Instant) -> Room {
        let member = self.member(id, identity, now);
        (member.is_wanted, member.is_needed) = (true, true);
        member.used_at = now;
        if !member.is_up() {
            return if now < member.condemned_until { Room::Never } else { Room::Later };
        }
        if member.free() > 0 {
            return Room::Now;
        }
        member.is_full = true;
        // One that is shaped, or stuck, must not give its pace to those that share its lane.
        let is_slow = member.window.is_throttled() || self.patience.is_over(now);
        if is_slow { Room::Later } else { Room::Soon }
    }

    /// How many messages a link can take now.
    pub(super) fn free(&self, id: u64) -> usize {
        self.members.get(&id).filter(|member| member.is_up()).map_or(0, Member::free)
    }

    /// Whether messages that were read before wait for a link.
    pub(super) fn set_parked(&mut self, id: u64, has_parked: bool) {
        if let Some(member) = self.members.get_mut(&id) {
            member.has_parked = has_parked;
        }
    }

    /// Sends a message over a link that has room; as how many bytes.
    pub(super) fn send(
        &mut self,
        id: u64,
        about: Sending,
        message: &Outgoing<'_>,
        repeat: bool,
        now: Now,
    ) -> Result<(Sent, usize), Refusal> {
        let member = self.members.get_mut(&id).expect("whoever has room has a link");
        let link = member.link.as_mut().expect("whoever has room has a link");
        if link.inflight() == 0 {
            member.answered_at = now.instant;
        }
        let before = member.out.len();
        let sent = link.send(about, message, repeat, now, &mut member.out)?;
        member.is_full = false;
        self.patience.goes_on(now.instant);
        if sent == Sent::InFlight {
            member.window.sent(now.instant);
        }
        Ok((sent, member.out.len() - before))
    }

    /// Publications that may be in flight over all links.
    pub(super) fn window(&self) -> usize {
        self.members.values().filter(|member| member.is_up()).map(Member::window).sum()
    }

    /// What all links together can carry, as far as is known.
    pub(super) fn pressure(&self) -> Pressure {
        let mut all = Pressure { throttles: self.throttles, ..Pressure::default() };
        for member in self.members.values() {
            let one = member.window.pressure();
            all.throttles += one.throttles;
            all.is_throttled |= one.is_throttled;
            if !member.is_up() {
                continue;
            }
            all.window += member.window();
            all.answers_per_sec += one.answers_per_sec;
            let delays = [all.delay_micros, one.delay_micros];
            all.delay_micros = delays.into_iter().filter(|delay| *delay > 0).min().unwrap_or_default();
        }
        all
    }

    /// The hours of the link have begun or ended: who needs a link is seen anew.
    pub(super) fn hours_changed(&mut self) {
        self.members.values_mut().for_each(|member| member.is_needed = false);
    }

    /// An identity whose link is to be opened now. It is taken then, and [`Pool::lost`] must follow some day. With `due`, the
    /// hours of the link are over: only for those, and for who has asked since, and not because it is to be there.
    pub(super) fn next_open(&mut self, now: Instant, due: Option<&BTreeSet<u64>>) -> Option<Arc<str>> {
        if now < self.open_at || self.taken() >= self.rules.links_max {
            return None;
        }
        // Who has been without one for longest: with more identities than links, each has its turn.
        let member = self
            .members
            .iter_mut()
            .filter(|(id, member)| member.is_to_open(**id, due) && member.due <= now)
            // Whoever has failed waits since then, and not since it was last of use.
            .min_by_key(|(_, member)| member.due.max(member.used_at))
            .map(|(_, member)| member)?;
        member.is_taken = true;
        member.is_resting = false;
        let identity = Arc::clone(&member.identity);
        // Half to one and a half times the pace: a fleet of gateways does not keep step.
        let pace = 1_000_000 / u64::from(self.rules.opens_per_sec.max(1));
        self.open_at = Instant(now.0 + pace / 2 + self.random.next() % (pace + 1));
        Some(identity)
    }

    /// When [`Pool::next_open`] may have something, if that is later than now and nothing else happens.
    pub(super) fn next_open_at(&self, now: Instant, due: Option<&BTreeSet<u64>>) -> Option<Instant> {
        if self.taken() >= self.rules.links_max {
            return None;
        }
        let waiting = self.members.iter().filter(|(id, member)| member.is_to_open(**id, due));
        waiting.map(|(_, member)| member.due.max(self.open_at)).min().filter(|at| *at > now)
    }

    pub(super) fn connected(&mut self, id: u64, setup: LinkSetup, now: Now) -> Result<(), LinkError> {
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        member.out.clear();
        member.links += 1;
        let link = Link::open(setup, Exchanges::default(), now, &mut member.out)?;
        let mut link = link.number(member.links);
        link.listen(&member.filters, &mut member.out); // once it is up
        member.link = Some(link);
        member.window.begin(now.instant);
        member.proof = Proof::default();
        (member.answered_at, member.used_at) = (now.instant, now.instant);
        Ok(())
    }

    /// Bytes from the upstream over one link. How many were taken, and whether it has come up.
    pub(super) fn read(
        &mut self,
        id: u64,
        bytes: &[u8],
        answers: &mut Vec<Answer>,
        now: Now,
    ) -> Result<(usize, bool), LinkError> {
        let Some(member) = self.members.get_mut(&id) else { return Ok((bytes.len(), false)) };
        let window = member.window();
        let Some(link) = &mut member.link else { return Ok((bytes.len(), false)) };
        let was = link.state();
        let before = answers.len();
        let inflight = link.inflight();
        // Where the lane is held up by others, a link has room whatever waits for it. That a window is twice what a busy
        // link needs means that a busy one fills more than half.
        let is_starved = inflight < window / 2;
        let taken = link.read(bytes, answers, now, &mut member.out)?;
        let is_new = was == LinkState::Greeting && link.state() == LinkState::Up;
        if is_starved || !member.is_full && !member.has_parked {
            member.window.ran_dry(inflight);
        }
        if answers.len() > before {
            // It is of use, however soon it ends.
            member.backoff.succeeded();
            member.proof.answered();
        }
        for answer in &answers[before..] {
            member.answered_at = now.instant;
            member.suspicion.answered();
            answer.number.into_iter().for_each(|number| member.window.answered(number));
        }
        if answers.len() > before {
            member.window.settle(now.instant);
        }
        if is_new {
            member.bursts.up(now.instant);
            member.proof.up(now.instant);
            member.up_at = now.instant;
            member.refusals = 0;
            (member.answered_at, member.used_at) = (now.instant, now.instant);
        }
        Ok((taken, is_new))
    }

    /// Services want to hear this over the link of `identity`, or nothing any more. The link stays while they do. Whether it is
    /// up.
    pub(super) fn listen(
        &mut self,
        id: u64,
        identity: &str,
        filters: BTreeSet<String>,
        now: Instant,
    ) -> bool {
        let member = self.member(id, identity, now);
        member.is_wanted |= !filters.is_empty() && !member.is_taken;
        member.filters = filters;
        member.used_at = now;
        if let Some(link) = &mut member.link {
            link.listen(&member.filters, &mut member.out);
        }
        member.is_up()
    }

    /// A service says something over the link of an identity; `false`: that is not up, or does not take it.
    pub(super) fn say(&mut self, id: u64, topic: &str, payload: &[u8], now: Now) -> bool {
        let Some(member) = self.members.get_mut(&id) else { return false };
        if member.is_resting || member.out.len() > OUT_BYTES_MAX {
            return false;
        }
        member.used_at = now.instant;
        member.link.as_mut().is_some_and(|link| link.say(topic, payload, now, &mut member.out))
    }

    /// A service has taken what came over a link, if that is still there.
    pub(super) fn acknowledge(&mut self, id: u64, (number, packet_id): (u64, NonZeroU16), now: Now) {
        let Some(member) = self.members.get_mut(&id).filter(|member| member.links == number) else { return };
        if let Some(link) = &mut member.link {
            link.acknowledge(packet_id, now, &mut member.out);
        }
    }

    /// A service does not take what it heard: the link is closed as soon as what is in flight is answered.
    pub(super) fn give_back(&mut self, id: u64) {
        if let Some(member) = self.members.get_mut(&id).filter(|member| member.link.is_some()) {
            member.gives_back = true;
        }
    }

    /// What has come for services over one link.
    pub(super) fn take_heard(&mut self, id: u64) -> Vec<Heard> {
        let link = self.members.get_mut(&id).and_then(|member| member.link.as_mut());
        link.map_or_else(Vec::new, Link::take_heard)
    }

    /// Takes what waits for the socket of one link.
    pub(super) fn take_out(&mut self, id: u64, out: &mut Vec<u8>) {
        if let Some(member) = self.members.get_mut(&id) {
            out.append(&mut member.out);
        }
    }

    /// Identities with bytes for their sockets.
    pub(super) fn with_out(&self) -> impl Iterator<Item = &Arc<str>> {
        self.members.values().filter(|member| !member.out.is_empty()).map(|member| &member.identity)
    }

    /// Time passed for one link.
    pub(super) fn tick(&mut self, id: u64, now: Now) -> Result<(), LinkError> {
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        member.window.tick(now.instant);
        let Some(link) = &mut member.link else { return Ok(()) };
        member.proof.tick(link.inflight(), now.instant);
        if link.inflight() == 0 {
            member.answered_at = now.instant;
        } else if now.instant.millis_since(member.answered_at) >= self.rules.answer_millis {
            let millis = self.rules.answer_millis;
            return Err(LinkError::Unanswered { millis, inflight: link.inflight() });
        }
        link.tick(now, &mut member.out)
    }

    /// Whether a link is of use.
    pub(super) fn is_proven(&self, id: u64) -> bool {
        self.members.get(&id).is_some_and(|member| member.proof.is_given())
    }

    /// Messages wait for this link.
    pub(super) fn want(&mut self, id: u64) {
        if let Some(member) = self.members.get_mut(&id) {
            member.is_wanted = true;
        }
    }

    /// Whether a link has been of no use for so long that it is to be closed. The own one never is.
    pub(super) fn is_idle(&self, id: u64, now: Instant) -> bool {
        let Some(member) = self.members.get(&id) else { return true };
        let is_crowded = self.taken() >= self.rules.links_max
            && self.members.values().any(|other| other.is_wanted && !other.is_taken);
        let idle = now.millis_since(member.used_at);
        // With others waiting, a moment without messages is enough.
        member.gives_back
            || *member.identity != *self.rules.own
                && member.is_empty()
                && (member.filters.is_empty() && idle >= self.rules.idle_millis
                    || is_crowded && idle >= CROWDED_MILLIS.min(self.rules.idle_millis))
    }

    /// Outside the hours: whether a link has had nothing to do for so long that it is to be closed, the own one, too.
    pub(super) fn is_useless(&self, id: u64, now: Instant) -> bool {
        let Some(member) = self.members.get(&id) else { return true };
        member.is_empty() && now.millis_since(member.used_at) >= LINGER_MILLIS
    }

    /// Nothing new is sent over this link; whether nothing is in flight.
    pub(super) fn rest(&mut self, id: u64) -> bool {
        let Some(member) = self.members.get_mut(&id) else { return true };
        member.is_resting = true;
        member.link.as_ref().is_none_or(|link| link.inflight() == 0)
    }

    /// Appends a goodbye.
    pub(super) fn close(&mut self, id: u64) {
        if let Some(member) = self.members.get_mut(&id)
            && let Some(link) = &member.link
        {
            link.close(&mut member.out);
        }
    }

    /// As [`super::Carrier::cut_off`], for one link.
    pub(super) fn cut_off(&mut self, id: u64, now: Instant) {
        let Some(member) = self.members.get_mut(&id).filter(|member| member.is_up()) else { return };
        let inflight = member.link.as_ref().map_or(0, Link::inflight);
        // With more waiting, what was in flight is what was allowed, whatever has been answered since.
        let is_loaded = member.is_full || member.has_parked;
        let window = if is_loaded { inflight } else { member.window() };
        if member.bursts.ended(inflight, window, member.window.is_throttled(), now) {
            member.window.throttle(inflight, now);
        }
    }

    /// The link is gone, or did not come about. `failed` ones wait before they are opened again. `by_peer` as for
    /// [`super::Carrier::lost`].
    pub(super) fn lost(
        &mut self,
        id: u64,
        failed: bool,
        by_peer: bool,
        error: Option<&LinkError>,
        attempts_max: u16,
        now: Instant,
    ) -> Left {
        let random = self.random.next();
        // While not even we get in, it is not the identity's fault: the clock, the hub, the network.
        let is_refused =
            self.is_own_up() && matches!(error, Some(LinkError::Refused(reason)) if is_final(*reason));
        let longest = self.rules.backoff_millis.1;
        let Some(member) = self.members.get_mut(&id) else { return Left::default() };
        member.is_taken = false;
        member.is_needed = false;
        member.is_resting = false;
        member.gives_back = false;
        member.out.clear();
        member.proof = Proof::default();
        if member.is_up() && now.millis_since(member.up_at) >= LASTING_MILLIS {
            member.backoff.succeeded();
        }
        if failed {
            member.due = now.plus_millis(member.backoff.failed(random));
        }
        member.is_wanted = failed || *member.identity == *self.rules.own || !member.filters.is_empty();
        if is_refused && *member.identity != *self.rules.own {
            member.refusals = member.refusals.saturating_add(1);
        }
        let is_condemned = member.refusals >= attempts_max;
        if is_condemned {
            member.condemned_until = now.plus_millis(longest);
            member.remembered_until = now.plus_millis(longest.saturating_mul(REMEMBERED_WAITS));
        }
        let Some(link) = member.link.take() else { return Left { is_condemned, ..Left::default() } };
        let said = match error {
            Some(LinkError::Disconnected(reason)) => Some(*reason),
            _ => None,
        };
        if matches!(error, Some(LinkError::Refused(reason) | LinkError::Disconnected(reason)) if poison::is_throttling(*reason))
        {
            member.window.throttle(link.inflight(), now);
        }
        let is_suspicious = by_peer && said.is_none_or(poison::is_about_a_message);
        let first = link.first_unanswered().filter(|_| is_suspicious);
        let is_held_against = first.is_some() && member.suspicion.ended(link.inflight());
        member.is_wanted |= link.inflight() > 0;
        Left {
            inflight: link.unanswered().collect(),
            suspect: first.filter(|_| is_held_against),
            poorer: link.poorer(),
            is_condemned,
        }
    }

    /// Forgets identities that nobody wants any more: devices that are gone for good take no room. Those that are refused are
    /// remembered for a while, or each of their messages would lead to attempts anew.
    pub(super) fn tidy(&mut self, waiting: &BTreeSet<u64>, now: Instant) {
        let oldest = self.remembered_since(waiting, now);
        self.members.retain(|id, member| {
            member.is_wanted &= member.is_taken
                || *member.identity == *self.rules.own
                || !member.filters.is_empty()
                || waiting.contains(id);
            let is_remembered = member.remembered_until > oldest.max(now);
            let is_kept = member.is_taken
                || member.is_wanted
                || is_remembered
                || member.refusals > 0 && waiting.contains(id);
            self.throttles += if is_kept { 0 } else { member.window.pressure().throttles };
            is_kept
        });
    }

    /// Of refused identities that have nothing else to be kept for, as many as there may be links are remembered: those until
    /// later than this.
    fn remembered_since(&self, waiting: &BTreeSet<u64>, now: Instant) -> Instant {
        if self.members.len() <= self.rules.links_max {
            return now;
        }
        let is_only_remembered = |(id, member): &(&u64, &Member)| {
            member.remembered_until > now && !member.is_taken && !waiting.contains(id)
        };
        let mut until: Vec<Instant> = self
            .members
            .iter()
            .filter(is_only_remembered)
            .map(|(_, member)| member.remembered_until)
            .collect();
        if until.len() <= self.rules.links_max {
            return now;
        }
        until.sort_unstable();
        until[until.len() - self.rules.links_max - 1]
    }

    /// Identities that are known.
    #[cfg(test)]
    pub(super) fn members(&self) -> usize {
        self.members.len()
    }

    /// What must always hold; for tests.
    #[cfg(test)]
    pub(super) fn invariants(&self) {
        for member in self.members.values() {
            member.window.invariants();
            let link = member.link.as_ref();
            assert!(link.is_none_or(|link| link.inflight() <= link.window().max(1)));
        }
    }
}

/// Whether a refusal is about the identity, and not about now.
fn is_final(reason: wire::ReasonCode) -> bool {
    use wire::ReasonCode as R;
    matches!(
        reason,
        R::NOT_AUTHORIZED | R::BAD_USER_NAME_OR_PASSWORD | R::CLIENT_IDENTIFIER_NOT_VALID | R::BANNED
    )
}

impl Member {
    fn is_up(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.state() == LinkState::Up)
    }

    /// Whether a link of it is to be opened; `due`: as for [`Pool::next_open`].
    fn is_to_open(&self, id: u64, due: Option<&BTreeSet<u64>>) -> bool {
        self.is_wanted && !self.is_taken && due.is_none_or(|due| self.is_needed || due.contains(&id))
    }

    /// Whether nothing is on its way.
    fn is_empty(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.inflight() == 0) && self.out.is_empty()
    }

    /// Publications that may be in flight.
    fn window(&self) -> usize {
        let of_link = self.link.as_ref().map_or(0, Link::window);
        self.suspicion.window(of_link).min(self.window.size())
    }

    /// How many more may be now.
    fn free(&self) -> usize {
        if self.is_resting || self.out.len() >= OUT_BYTES_MAX {
            return 0;
        }
        self.window().saturating_sub(self.link.as_ref().map_or(0, Link::inflight))
    }
}
