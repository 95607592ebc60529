//! How many publications one link may have in flight: a bandwidth-delay controller, in messages.
//!
//! In: what was sent, answered, and when; signs that the upstream is throttling, or that the way loses. Out: the window. Never:
//! packets, sockets.
//!
//! Algorithm (the model of BBR, without its pacing, which TCP below us does):
//! *rate* is the most answers per second of the last [`ROUNDS`] round trips, *delay* the shortest round trip of the last
//! [`EPOCH`], *burst* the most answers that came at once: an upstream that answers in groups, or after a stall, needs a
//! whole group beside, and one more to show that there could be larger ones. Then
//! `window = 2 × rate × delay + rate × `[`SLACK`]` + 2 × burst`, between `min` and `max`.
//! - *Start*: an upstream that is not full answers twice as much for a window twice as large: it doubles every round trip. Until
//!   [`FULL_ROUNDS`] round trips in a row have brought less than a quarter more, [`START`] times as much may be in flight, so
//!   that it is TCP, which begins as slowly, that is waited for, and not both.
//! - *Probe*: twice the product is always more than is needed, so that a link that got faster is found without a search.
//!   What is more than needed waits in the network, and bounds itself: about one `delay` and [`SLACK`].
//! - *Drain*: once an epoch, a loaded link sends less for a round trip, so that the true delay is seen below its own queue;
//!   and again, as long as that shows a shorter one.
//! - *Throttle*: a sign of it halves a ceiling, at most once a round trip; it grows by an eighth every [`RECOVERY`], and is
//!   forgotten where it bounds no more.
//! - *Loss* is no sign of it: TCP repairs it, but what is behind a packet that is lost waits for its repeat, a round trip, and the
//!   answers wait in the same way. So on a way that loses all the time, one that is not full answers hardly more for a larger
//!   window, and would take minutes to be found. While TCP repeats packets, [`REPAIRS`] times as much may be in flight: what it
//!   holds back besides its own round trip.
//!
//! Bounds: `min` and `max`; one stamp per moment at which something in flight was sent.

use std::collections::VecDeque;

use model::Instant;

/// Window of a link of which nothing is known yet.
const INITIAL: usize = 64;
/// Round trips whose best rate counts.
const ROUNDS: usize = 8;
/// Microseconds for which a shortest delay is believed.
const EPOCH: u64 = 10_000_000;
/// Microseconds of work that may wait beyond the round trip: upstreams answer in groups, and timers are coarse.
const SLACK: u64 = 25_000;
/// Round trips without more answers after which a way is full; and how much more may be in flight before.
const FULL_ROUNDS: u32 = 3;
const START: u64 = 2;
/// Round trips, and least microseconds, for which a way counts as lossy after TCP has repeated something.
const LOSSY_ROUNDS: u64 = 8;
const LOSSY: u64 = 500_000;
/// Round trips that a message takes on such a way, with its answer.
const REPAIRS: u64 = 3;
/// Part of the product that is sent while draining, in percent.
const DRAIN_PERCENT: usize = 75;
/// Least microseconds between two steps of a ceiling upwards.
const RECOVERY: u64 = 250_000;
/// Microseconds after a sign of throttling before the ceiling rises.
const PENANCE: u64 = 1_000_000;
/// Microseconds after the last sign for which a link counts as throttled at least.
const REMEMBERED: u64 = 5_000_000;

/// Everything that was sent at one moment.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    /// Publications sent before these.
    first: u64,
    sent_at: Instant,
    /// Answers that had come by then, and when the last of them came.
    answered: u64,
    answered_at: Instant,
    /// When that had been sent which was answered last by then.
    reference: Instant,
    /// There was less to send than the window allowed.
    is_idle: bool,
}

/// What a controller believes; for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Publications that may be in flight.
    pub window: usize,
    /// Shortest round trip, microseconds; 0 before the first.
    pub delay_micros: u64,
    /// Answers per second that the upstream can give.
    pub answers_per_sec: u64,
    /// Whether the upstream wants less than the link could carry.
    pub is_throttled: bool,
    /// Signs of throttling since the start.
    pub throttles: u64,
}

/// The window of one uplink. What it learnt of throttling outlives a link; the rest belongs to a connection.
#[derive(Debug)]
pub(super) struct Window {
    min: usize,
    max: usize,
    size: usize,
    stamps: VecDeque<Stamp>,
    sent: u64,
    answered: u64,
    answered_at: Instant,
    /// The newest publication that is answered; one more than its number.
    newest: u64,
    reference: Instant,
    /// Answers that must have come before samples count again; 0 if they do.
    idle_until: u64,
    /// Best rates of past round trips that had enough to send, answers per second; the last is that of the current one.
    rates: VecDeque<f64>,
    round_ends: u64,
    round_had_work: bool,
    /// The best rate, when it last rose by a quarter, and round trips since then; [`FULL_ROUNDS`] once they were so many.
    risen: (f64, u32),
    /// Shortest delays of the last epoch and of this one.
    delays: [u64; 2],
    epoch_ends: Instant,
    bursts: VecDeque<f64>,
    /// Answers before this read.
    settled: u64,
    drain: Drain,
    /// Shortest delay before the drain.
    drained_from: u64,
    /// TCP repeats packets; and its own round trip, which nothing that waits for a repeat is in.
    lossy_until: Instant,
    way_delay: u64,
    ceiling: Option<usize>,
    signed_at: Option<Instant>,
    rises_at: Instant,
    deaf_until: Instant,
    throttles: u64,
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    /// Until no more than so much is in flight.
    Emptying,
    /// Until this one is answered, which was the first to be sent below its own queue.
    Looking(u64),
}

impl Window {
    /// A window between `min` and `max` publications, at least 1 each.
    pub(super) fn new(min: usize, max: usize) -> Window {
        let max = max.max(1);
        let min = min.clamp(1, max);
        Window {
            min,
            max,
            size: INITIAL.clamp(min, max),
            stamps: VecDeque::new(),
            sent: 0,
            answered: 0,
            answered_at: Instant::default(),
            newest: 0,
            reference: Instant::default(),
            idle_until: 0,
            rates: VecDeque::from([0.0]),
            round_ends: 0,
            round_had_work: false,
            risen: (0.0, 0),
            delays: [u64::MAX; 2],
            epoch_ends: Instant::default(),
            bursts: VecDeque::from([0.0]),
            settled: 0,
            drain: Drain::No,
            drained_from: 0,
            lossy_until: Instant::default(),
            way_delay: u64::MAX,
            ceiling: None,
            signed_at: None,
            rises_at: Instant::default(),
            deaf_until: Instant::default(),
            throttles: 0,
        }
    }

    /// A new connection: nothing is in flight, and nothing is known of its way but what the upstream has said of itself.
    pub(super) fn begin(&mut self, now: Instant) {
        let kept = (self.ceiling, self.signed_at, self.rises_at, self.deaf_until, self.throttles);
        *self = Window::new(self.min, self.max);
        (self.ceiling, self.signed_at, self.rises_at, self.deaf_until, self.throttles) = kept;
        self.answered_at = now;
        self.reference = now;
        self.epoch_ends = Instant(now.0 + EPOCH);
    }

    /// Publications that may be in flight.
    pub(super) fn size(&self) -> usize {
        let size = match self.drain {
            Drain::No => self.size,
            Drain::Emptying | Drain::Looking(_) => {
                (self.product() * DRAIN_PERCENT / 100).clamp(self.min, self.size)
            }
        };
        self.ceiling.map_or(size, |ceiling| size.min(ceiling))
    }

    /// One publication is sent.
    pub(super) fn sent(&mut self, now: Instant) {
        if self.stamps.back().is_none_or(|last| last.sent_at != now || last.answered != self.answered) {
            if self.sent == self.newest {
                // Nothing was in flight: time without work is no time that answers took.
                self.answered_at = now;
                self.reference = now;
            }
            self.stamps.push_back(Stamp {
                first: self.sent,
                sent_at: now,
                answered: self.answered,
                answered_at: self.answered_at,
                reference: self.reference,
                is_idle: self.idle_until > self.answered,
            });
        }
        if self.drain == Drain::Emptying {
            self.drain = Drain::Looking(self.sent);
        }
        self.sent += 1;
    }

    /// There is less to send than the window allows: how fast that is answered says nothing about what could be.
    pub(super) fn ran_dry(&mut self, inflight: usize) {
        self.idle_until = self.answered + inflight as u64 + 1;
    }

    /// The `number`th publication sent on this connection is answered, counted from 0.
    pub(super) fn answered(&mut self, number: u64) {
        self.answered += 1;
        self.newest = self.newest.max(number + 1);
    }

    /// All answers of one read are told.
    pub(super) fn settle(&mut self, now: Instant) {
        while self.stamps.get(1).is_some_and(|next| next.first < self.newest) {
            self.stamps.pop_front();
        }
        let Some(stamp) = self.stamps.front().copied().filter(|stamp| stamp.first < self.newest) else {
            return;
        };
        let came = self.answered - stamp.answered;
        if came == 0 {
            return;
        }
        if self.newest == self.sent {
            self.stamps.clear();
        }
        self.see_delay(now.0.saturating_sub(stamp.sent_at.0), now);
        let between = now.0.saturating_sub(stamp.answered_at.0);
        let spread = stamp.sent_at.0.saturating_sub(stamp.reference.0);
        self.answered_at = now;
        self.reference = stamp.sent_at;
        // Answers that came in a bunch, or were asked for in one, are no rate: the longer of both times counts, and none
        // below a round trip.
        let took = between.max(spread);
        if took > 0 && took >= self.delay().min(SLACK) {
            self.see_rate(came as f64 * 1e6 / took as f64, stamp.is_idle);
        }
        if let Some(most) = self.bursts.back_mut() {
            *most = most.max((self.answered - self.settled) as f64);
        }
        self.settled = self.answered;
        if self.newest > self.round_ends {
            self.next_round();
        }
        self.size = self.wanted(now);
    }

    /// TCP has repeated packets since the last time; its round trip takes so many microseconds.
    pub(super) fn repaired(&mut self, round_trip: u64, now: Instant) {
        self.way_delay = round_trip.max(1);
        self.lossy_until = Instant(now.0 + LOSSY.max(LOSSY_ROUNDS * self.way_delay));
    }

    /// The upstream says, or shows, that it wants less.
    pub(super) fn throttle(&mut self, inflight: usize, now: Instant) {
        self.signed_at = Some(now);
        self.rises_at = Instant(now.0 + PENANCE);
        if now < self.deaf_until {
            return;
        }
        // What is in flight gets the same answer; it is one sign.
        let round = if self.delay() == u64::MAX { SLACK } else { self.delay() };
        self.deaf_until = Instant(now.0 + (2 * round).max(SLACK));
        self.throttles += 1;
        let used = self.size().min(inflight.max(self.min));
        self.ceiling = Some((used / 2).max(self.min));
    }

    /// Time passed: a ceiling rises.
    pub(super) fn tick(&mut self, now: Instant) {
        let Some(ceiling) = self.ceiling else { return };
        if now < self.rises_at {
            return;
        }
        let round = if self.delay() == u64::MAX { 0 } else { self.delay() };
        self.rises_at = Instant(now.0 + RECOVERY.max(round));
        let is_remembered = self.signed_at.is_some_and(|at| now.0.saturating_sub(at.0) < REMEMBERED);
        // Carefully at first; when no sign has come for a while, so fast that a link with little to do is soon seen as well.
        let ceiling = ceiling + if is_remembered { (ceiling / 8).max(1) } else { ceiling };
        self.ceiling = Some(ceiling.min(self.max)).filter(|_| ceiling < self.size || is_remembered);
    }

    /// Whether the upstream wants less than the link could carry.
    pub(super) fn is_throttled(&self) -> bool {
        self.ceiling.is_some()
    }

    /// What is believed now.
    pub(super) fn pressure(&self) -> Pressure {
        Pressure {
            window: self.size(),
            delay_micros: if self.delay() == u64::MAX { 0 } else { self.delay() },
            answers_per_sec: self.rate() as u64,
            is_throttled: self.is_throttled(),
            throttles: self.throttles,
        }
    }

    fn delay(&self) -> u64 {
        self.delays[0].min(self.delays[1])
    }

    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// Publications that a round trip holds.
    fn product(&self) -> usize {
        if self.delay() == u64::MAX { 0 } else { (self.rate() * self.delay() as f64 / 1e6) as usize }
    }

    fn wanted(&self, now: Instant) -> usize {
        let rate = self.rate();
        if rate == 0.0 || self.delay() == u64::MAX {
            return self.size;
        }
        let burst = self.bursts.iter().copied().fold(0.0, f64::max);
        // Answers that wait for repeats all the time would show a longer way than there is.
        let delay = match self.risen.1 {
            // Where the upstream takes its time, repeats of the way are the smaller part.
            _ if now < self.lossy_until => (REPAIRS * self.delay().min(self.way_delay)).max(self.delay()),
            ..FULL_ROUNDS => START * self.delay(),
            _ => self.delay(),
        };
        let wanted = rate * (2 * delay + SLACK) as f64 / 1e6 + 2.0 * burst;
        (wanted.ceil() as usize).clamp(self.min, self.max)
    }

    fn see_delay(&mut self, delay: u64, now: Instant) {
        if now >= self.epoch_ends {
            self.delays = [self.delays[1], u64::MAX];
            self.epoch_ends = Instant(now.0 + EPOCH);
            // An idle link sees its true delay anyway, and a lossy one by TCP.
            if self.round_had_work && now >= self.lossy_until {
                self.drain = Drain::Emptying;
                self.drained_from = self.delay();
            }
        }
        self.delays[1] = self.delays[1].min(delay.max(1));
        if let Drain::Looking(until) = self.drain
            && self.newest > until
        {
            let is_shorter = self.delay() < self.drained_from / 10 * 9;
            self.drained_from = self.delay();
            self.drain = if is_shorter { Drain::Emptying } else { Drain::No };
        }
    }

    fn see_rate(&mut self, rate: f64, is_idle: bool) {
        if is_idle && rate <= self.rate() {
            return;
        }
        self.round_had_work |= !is_idle;
        if let Some(best) = self.rates.back_mut() {
            *best = best.max(rate);
        }
    }

    fn next_round(&mut self) {
        self.round_ends = self.sent;
        // A round without work says nothing, and must not make us forget those that did.
        if !std::mem::take(&mut self.round_had_work) {
            return;
        }
        if self.risen.1 < FULL_ROUNDS {
            let best = self.rate();
            self.risen =
                if best >= 1.25 * self.risen.0 { (best, 0) } else { (self.risen.0, self.risen.1 + 1) };
        }
        for seen in [&mut self.rates, &mut self.bursts] {
            seen.push_back(0.0);
            if seen.len() > ROUNDS {
                seen.pop_front();
            }
        }
    }

    /// What must always hold; for tests.
    #[cfg(test)]
    pub(super) fn invariants(&self) {
        assert!((self.min..=self.max).contains(&self.size), "{} {:?}", self.size, (self.min, self.max));
        assert!(self.size() >= self.min.min(self.size) && self.newest <= self.sent);
        assert!(self.stamps.len() as u64 <= self.sent - self.newest + 1);
        assert!(self.rates.len() <= ROUNDS && self.bursts.len() <= ROUNDS);
    }
}

#[cfg(test)]
mod tests;
