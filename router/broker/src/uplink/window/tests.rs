//! The window on emulated ways: any delay, any rate, stalls, answers in groups, changes in between.

use std::collections::VecDeque;

use super::*;
use crate::random::Random;

const MAX: usize = 65_535;

/// A way to an upstream and back, and an upstream that takes so much.
#[derive(Clone, Copy, Debug)]
struct Way {
    delay: u64,
    per_sec: f64,
    /// Of 1000 packets of ten messages, so many are lost; everything behind one waits for a further round trip.
    lost: u64,
    /// Of 1000 answers, each a packet of its own, so many are lost; those behind one wait as well.
    lost_back: u64,
    /// The upstream answers in groups, every so many microseconds; 0 for one by one.
    groups: u64,
}

const SMOOTH: Way = Way { delay: 20_000, per_sec: 10_000.0, lost: 0, lost_back: 0, groups: 0 };

struct World {
    window: Window,
    way: Way,
    random: Random,
    now: u64,
    /// When each publication in flight is answered.
    answers: VecDeque<u64>,
    first: u64,
    served: f64,
    stall: u64,
    /// What TCP repeats is told, four times a second.
    tells: bool,
    has_repeated: bool,
    told_at: u64,
    /// Answered in the present spell.
    answered: u64,
    inflight_most: usize,
    /// Messages per second that there are; none for always enough.
    supply: Option<f64>,
    supplied: f64,
}

impl World {
    fn new(way: Way, min: usize, max: usize) -> World {
        let mut window = Window::new(min, max);
        window.begin(Instant(1_000_000));
        World {
            window,
            way,
            random: Random(7),
            now: 1_000_000,
            answers: VecDeque::new(),
            first: 0,
            served: 0.0,
            stall: 0,
            tells: false,
            has_repeated: false,
            told_at: 0,
            answered: 0,
            inflight_most: 0,
            supply: None,
            supplied: 0.0,
        }
    }

    fn send(&mut self) {
        while self.answers.len() < self.window.size() {
            if let Some(supply) = self.supply {
                if self.supplied >= supply * (self.now - 1_000_000) as f64 / 1e6 {
                    return self.window.ran_dry(self.answers.len());
                }
                self.supplied += 1.0;
            }
            self.window.sent(Instant(self.now));
            let number = self.first + self.answers.len() as u64;
            self.served = self.served.max(self.now as f64) + 1e6 / self.way.per_sec;
            let mut at = self.served as u64 + self.way.delay;
            if number.is_multiple_of(10) && self.random.next() % 1_000 < self.way.lost {
                self.stall = at + self.way.delay;
                self.has_repeated = true;
            }
            at = at.max(self.stall);
            // A repeat may be lost as well.
            while self.way.lost_back > 0 && self.random.next() % 1_000 < self.way.lost_back {
                at += self.way.delay;
            }
            if self.way.groups > 0 {
                at = at.div_ceil(self.way.groups) * self.way.groups;
            }
            self.answers.push_back(at.max(self.answers.back().copied().unwrap_or(0)));
        }
    }

    /// Runs for so long; answers per second, and the most that was in flight.
    fn run(&mut self, millis: u64) -> (f64, usize) {
        let (from, until) = (self.now, self.now + millis * 1_000);
        (self.answered, self.inflight_most) = (0, 0);
        while self.now < until {
            self.send();
            self.window.invariants();
            self.inflight_most = self.inflight_most.max(self.answers.len());
            let next = self.answers.front().copied().unwrap_or(u64::MAX);
            // Looks at least every millisecond, as supply and ceilings need.
            self.now = next.clamp(self.now + 20, self.now + 1_000);
            let mut came = false;
            while self.answers.front().is_some_and(|at| *at <= self.now) {
                self.answers.pop_front();
                self.window.answered(self.first);
                self.first += 1;
                self.answered += 1;
                came = true;
            }
            if came {
                self.window.settle(Instant(self.now));
            }
            self.window.tick(Instant(self.now));
            if self.tells && self.now >= self.told_at + 250_000 {
                self.told_at = self.now;
                if std::mem::take(&mut self.has_repeated) {
                    self.window.repaired(self.way.delay, Instant(self.now));
                }
            }
        }
        (self.answered as f64 * 1e6 / (self.now - from) as f64, self.inflight_most)
    }
}

/// Publications that fill the way, and what may wait beside: another delay, the slack, the groups.
fn enough(way: Way) -> f64 {
    way.per_sec * (2 * way.delay + SLACK + way.groups) as f64 / 1e6
}

#[test]
fn every_way_is_filled_and_not_flooded() {
    for delay in [1_000, 5_000, 20_000, 100_000, 300_000] {
        for per_sec in [20.0, 1_000.0, 60_000.0] {
            let way = Way { delay, per_sec, ..SMOOTH };
            let mut world = World::new(way, 1, MAX);
            let start = 20 * delay / 1_000 + 500;
            world.run(start);
            let (rate, most) = world.run(12_000);
            let can = per_sec.min(MAX as f64 * 1e6 / delay as f64);
            assert!(rate >= 0.95 * can, "{rate} of {can}, {way:?} {:?}", world.window.pressure());
            let bound = 1.6 * enough(way) + 80.0;
            assert!((most as f64) < bound, "{most} in flight, not {bound}, {way:?}");
        }
    }
}

#[test]
fn stalls_of_a_lossy_way_do_not_shrink_it() {
    for delay in [1_000, 20_000, 100_000, 300_000] {
        let smooth = Way { delay, per_sec: 2_000.0, ..SMOOTH };
        let mut world = World::new(Way { lost: 10, ..smooth }, 1, MAX);
        world.run(20 * delay / 1_000 + 500);
        let (rate, most) = world.run(12_000);
        assert!(rate >= 0.9 * smooth.per_sec, "{rate}, {delay} {:?}", world.window.pressure());
        assert!((most as f64) < 4.0 * enough(smooth) + 80.0, "{most} in flight at {delay}");
    }
}

/// Every round trip loses something, both ways: messages, and then their answers, wait for repeats nearly always. A window of
/// two round trips would take half a minute to grow.
#[test]
fn a_way_that_loses_all_the_time_is_filled_within_seconds() {
    let way = Way { delay: 300_000, per_sec: 20_000.0, lost: 50, lost_back: 20, groups: 0 };
    let [told, untold] = [true, false].map(|tells| {
        let mut world = World::new(way, 16, 16_384);
        world.tells = tells;
        world.run(8_000).0
    });
    assert!(told > 1.2 * untold && told > 6_000.0, "{told}, {untold} without a word of TCP");
}

/// Repeats that come to an end are forgotten, and what they allowed with them.
#[test]
fn a_way_that_has_lost_once_is_soon_as_it_was() {
    let mut world = World::new(SMOOTH, 1, MAX);
    world.run(2_000);
    let before = world.window.size();
    world.window.repaired(world.way.delay, Instant(world.now));
    world.run(100);
    assert!(world.window.size() > before, "{} {before}", world.window.size());
    world.run(2_000);
    let (rate, most) = world.run(1_000);
    assert!(rate >= 0.95 * SMOOTH.per_sec && (most as f64) < 1.6 * enough(SMOOTH) + 80.0, "{rate} {most}");
}

#[test]
fn an_upstream_that_answers_in_groups_is_not_starved() {
    for groups in [5_000, 100_000, 400_000] {
        let way = Way { delay: 2_000, per_sec: 50_000.0, groups, ..SMOOTH };
        let mut world = World::new(way, 1, MAX);
        // Its true delay is seen first, alone.
        world.way.groups = 0;
        world.supply = Some(10.0);
        world.run(2_000);
        world.way.groups = groups;
        (world.supply, world.supplied) = (None, 0.0);
        world.run(20 * groups / 1_000 + 1_000);
        let (rate, _) = world.run(14_000);
        assert!(rate >= 0.85 * way.per_sec, "{rate} with groups of {groups} {:?}", world.window.pressure());
    }
}

#[test]
fn it_follows_a_way_that_changes() {
    let mut world = World::new(SMOOTH, 1, MAX);
    world.run(2_000);
    // Slower: the window comes down within a few of the (by then long) round trips.
    world.way.per_sec = 1_000.0;
    world.run(25_000);
    let (rate, most) = world.run(5_000);
    assert!(rate >= 950.0, "{rate}");
    assert!((most as f64) < 1.8 * enough(world.way) + 80.0, "{most} in flight");
    // Faster again.
    world.way.per_sec = 50_000.0;
    world.run(1_000);
    assert!(world.run(5_000).0 >= 0.93 * 50_000.0, "{:?}", world.window.pressure());
    // Longer: a satellite takes over.
    world.way.delay = 300_000;
    world.run(25_000);
    assert!(world.run(10_000).0 >= 0.93 * 50_000.0, "{:?}", world.window.pressure());
    // And shorter: what was right for the satellite would be a long queue here.
    world.way.delay = 20_000;
    world.run(25_000);
    let (rate, most) = world.run(10_000);
    assert!(rate >= 0.93 * 50_000.0, "{rate}");
    assert!((most as f64) < 1.8 * enough(world.way) + 80.0, "{most} in flight");
}

#[test]
fn a_quiet_time_forgets_nothing() {
    let mut world = World::new(SMOOTH, 1, MAX);
    world.run(2_000);
    let before = world.window.size();
    (world.supply, world.supplied) = (Some(50.0), 0.0);
    world.supplied = 50.0 * (world.now - 1_000_000) as f64 / 1e6;
    world.run(60_000);
    let after = world.window.size();
    assert!(after >= before / 2, "{before} before, {after} after");
    world.supply = None;
    assert!(world.run(1_000).0 >= 0.9 * SMOOTH.per_sec);
}

#[test]
fn the_bounds_hold() {
    let mut world = World::new(SMOOTH, 4, 50);
    world.run(3_000);
    assert_eq!(world.window.size(), 50);
    let mut slow = World::new(Way { per_sec: 2.0, delay: 100, ..SMOOTH }, 4, 50);
    slow.run(60_000);
    assert_eq!(slow.window.size(), 4);
    assert_eq!(Window::new(0, 0).size(), 1);
    assert_eq!(Window::new(90, 7).size(), 7);
}

#[test]
fn a_sign_of_throttling_halves_it_once_a_round_trip_and_it_comes_back() {
    let mut world = World::new(SMOOTH, 4, MAX);
    world.run(2_000);
    let before = world.window.size();
    for _ in 0..50 {
        world.window.throttle(world.answers.len(), Instant(world.now));
    }
    let pressure = world.window.pressure();
    assert!(pressure.is_throttled && pressure.throttles == 1, "{pressure:?}");
    assert!((before / 4..=before / 2).contains(&pressure.window), "{before} before, {pressure:?}");
    // Signs that go on push it to its bound, and no further.
    for _ in 0..200 {
        world.run(60);
        world.window.throttle(world.answers.len(), Instant(world.now));
    }
    assert_eq!(world.window.size(), 4);
    world.run(1_000);
    assert!(world.window.size() < 10, "not at once");
    world.run(20_000);
    assert!(!world.window.is_throttled() && world.window.size() >= before / 2);
    assert!(world.run(1_000).0 >= 0.95 * SMOOTH.per_sec);
}

#[test]
fn a_new_link_keeps_the_ceiling_and_nothing_else() {
    let mut world = World::new(SMOOTH, 4, MAX);
    world.run(2_000);
    for _ in 0..10 {
        world.run(60);
        world.window.throttle(world.answers.len(), Instant(world.now));
    }
    let ceiling = world.window.size();
    world.window.begin(Instant(world.now));
    assert_eq!((world.window.size(), world.window.pressure().delay_micros), (ceiling.min(INITIAL), 0));
    assert!(world.window.is_throttled());
}

/// An upstream that syncs before it answers: what TCP repeats on the short way to it is the smaller part of the wait.
#[test]
fn repeats_on_a_short_way_do_not_narrow_the_window_of_a_slow_upstream() {
    let slow = Way { delay: 80_000, ..SMOOTH };
    let mut world = World::new(slow, 4, MAX);
    world.run(3_000);
    for _ in 0..40 {
        world.window.repaired(1_000, Instant(world.now));
        world.run(250);
    }
    let answered = world.run(2_000).0;
    assert!(answered >= 0.95 * slow.per_sec, "{answered} answers a second");
    assert!(world.window.size() as f64 >= slow.per_sec * 0.16, "{}", world.window.size());
}
