//! A seeded simulation of a pool of links: identities of many kinds, one upstream that treats each as it likes, crashes.
//!
//! Which seeds run is said in `crate::tests::seeds`; a failing one prints how to run it alone.
//! The upstream refuses identities at the door or messages for a while, is silent to some, dies of some messages, ends links
//! in the middle; connections do not come about; links are renewed and closed when idle; hours end and begin.
//! Held against each run, after every step: a message goes over the link of its identity, and over one connection not twice
//! unless it was refused there, so that no link pays for another's end; no more links than there may be, opened no faster
//! than agreed on, none of them outside the hours but for what may always go; no more in flight on one than both sides agreed on; a
//! place counts as delivered only if the upstream has it, it has expired, or it is safe in the poison lane; positions never
//! go back; only what was refused goes aside; each identity's messages reach the upstream in order once repeats are removed
//! (live first: between two times without any link). In the end, with a well-meaning upstream, everything has arrived, has
//! expired, or is in the poison lane.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::{LaneId, Priority, Seq, Timestamp};
use wire::ReasonCode;

use super::drawn::{Drains, Kind, serial};
use super::{Written, at, connack, mapping, puback, rules, seq, setup, take_written};
use crate::random::Random;
use crate::tests::seeds::replay;
use crate::uplink::{Ahead, Aside, Carrier, LinkError, LinkSetup, PoolRules, Reading, Rules, Schedule};

const SEEDS: u64 = 120;
const STEPS: usize = 500;
const LANES: [LaneId; 2] = [LaneId(3), LaneId(1)];
const PRIORITIES: [i64; 2] = [0, 5];
const OWN: &str = "gw";
const IDENTITIES: [&str; 6] = [OWN, "a", "b", "c", "d", "e"];
const PACKET_BYTES_MAX: u32 = 300;
const INFLIGHT_MAX: u16 = 8;

struct Message {
    lane: usize,
    identity: usize,
    kind: Kind,
    bytes: Vec<u8>,
    expires: Option<u64>,
}

#[derive(Default)]
struct LaneWorld {
    /// By place.
    places: Vec<usize>,
    known: u64,
    delivered: u64,
    disk_head: u64,
    /// How far the carrier knew the lane when a link came up after none was.
    marks: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Greeting,
    Up,
}

/// One link, from when it is to be opened to its end.
struct Net {
    stage: Stage,
    /// Its number among all.
    connection: u64,
    pipe: VecDeque<Written>,
    answers: VecDeque<(u16, ReasonCode)>,
    /// Taken, and never answered.
    withheld: usize,
    is_renewed: bool,
}

/// How the upstream treats an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Fine,
    /// Each message is answered so.
    Refuses(ReasonCode),
    /// Nothing is answered.
    Mute,
    /// It is not let in.
    Bars(ReasonCode),
}

struct World {
    carrier: Carrier,
    rules: Rules,
    pool: PoolRules,
    random: Random,
    now: u64,
    messages: Vec<Message>,
    lanes: Vec<LaneWorld>,
    nets: BTreeMap<&'static str, Net>,
    moods: [Mood; IDENTITIES.len()],
    connections: u64,
    /// Over which connection a message was sent last, if it was not refused there.
    sent_on: BTreeMap<usize, u64>,
    last_open: Option<u64>,
    is_open: bool,
    /// What may go outside the hours.
    always: Option<Priority>,
    drains: Drains,
    accepted: BTreeSet<usize>,
    poison: BTreeSet<usize>,
    left: BTreeSet<usize>,
    /// Identities that were ever refused for good.
    suspects: BTreeSet<usize>,
    last: BTreeMap<(usize, usize, usize), usize>,
    asides: Vec<Aside>,
    ends: u64,
    /// Places that were told to be delivered behind the head of their lane.
    told_ahead: u64,
}

fn index_of(identity: &str) -> usize {
    IDENTITIES.iter().position(|it| *it == identity).expect("one of them")
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let mut below = |count: u64| random.next() % count;
        let rules = Rules {
            schedule: [Schedule::Strict, Schedule::Weighted][below(2) as usize],
            live_first: below(2) == 0,
            history_share_percent: 1 + below(99) as u8,
            messages_per_sec: [0, 0, 50][below(3) as usize],
            drain_jitter_millis: [0, 500][below(2) as usize],
            look_ahead_max: [5, 40, 400][below(3) as usize],
            held_max: [5, 40, 400][below(3) as usize],
            senders_max: [3, 20][below(2) as usize],
            seed,
            ..rules()
        };
        let pool = PoolRules {
            links_max: 2 + below(5) as usize,
            opens_per_sec: [4, 50][below(2) as usize],
            idle_millis: 10_000,
            answer_millis: 3_000,
            backoff_millis: (100, 2_000),
            own: OWN.into(),
            seed,
        };
        let always = [None, Priority::new(0).ok()][below(2) as usize];
        let mut world = World {
            carrier: Carrier::pooled(rules.clone(), pool.clone(), std::sync::Arc::new(mapping())),
            drains: Drains::new(seed, rules.live_first, &LANES),
            rules,
            pool,
            random,
            now: 1_000,
            messages: Vec::new(),
            lanes: LANES.map(|_| LaneWorld { known: 1, disk_head: 1, ..LaneWorld::default() }).into(),
            nets: BTreeMap::new(),
            moods: [Mood::Fine; IDENTITIES.len()],
            connections: 0,
            sent_on: BTreeMap::new(),
            last_open: None,
            is_open: true,
            always,
            accepted: BTreeSet::new(),
            poison: BTreeSet::new(),
            left: BTreeSet::new(),
            suspects: BTreeSet::new(),
            last: BTreeMap::new(),
            asides: Vec::new(),
            ends: 0,
            told_ahead: 0,
        };
        world.start();
        world
    }

    fn below(&mut self, count: usize) -> usize {
        (self.random.next() % count as u64) as usize
    }

    /// The router starts, with what the disk has: all messages, and positions as they were kept.
    fn start(&mut self) {
        self.carrier = Carrier::pooled(self.rules.clone(), self.pool.clone(), std::sync::Arc::new(mapping()));
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let priority = Priority::new(PRIORITIES[index]).expect("one of them");
            let tail = lane.places.len() as u64 + 1;
            self.carrier.add_lane(LANES[index], priority, seq(lane.disk_head), seq(tail));
            (lane.known, lane.delivered) = (tail, lane.disk_head - 1);
        }
        self.drains.tell(&mut self.carrier);
        self.carrier.set_open(self.is_open, self.always);
        self.nets.clear();
        self.sent_on.clear();
        self.asides.clear();
        self.last_open = None;
    }

    fn step(&mut self) {
        match self.below(32) {
            0..=5 => self.publish(),
            6..=7 => self.tell(),
            8..=10 => self.fill(),
            11..=13 => self.open(),
            14..=25 => self.net_step(),
            26 => self.mood(),
            27 => self.keep(),
            28 if self.below(6) == 0 => self.hours(),
            29 if self.below(30) == 0 => self.start(),
            _ => self.now += self.random.next() % 400,
        }
        self.look();
    }

    fn publish(&mut self) {
        let (lane, identity) = (self.below(LANES.len()), self.below(IDENTITIES.len()));
        let kind = Kind::of(self.below(60));
        // Now and then a backlog at once.
        let count = if self.below(40) == 0 && kind == Kind::Fine { 300 } else { 1 };
        for _ in 0..count {
            let expires = (self.below(20) == 0).then(|| self.now + self.random.next() % 5_000);
            let number = self.messages.len();
            let bytes = kind.record(IDENTITIES[identity], number, || self.below(100));
            self.messages.push(Message { lane, identity, kind, bytes, expires });
            self.lanes[lane].places.push(number);
        }
    }

    fn tell(&mut self) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.known = lane.places.len() as u64 + 1;
            self.carrier.grown(LANES[index], seq(lane.known));
        }
    }

    fn may_go(&self, lane: usize) -> bool {
        let priority = Priority::new(PRIORITIES[lane]).expect("one of them");
        self.is_open || self.always.is_some_and(|always| priority <= always)
    }

    fn fill(&mut self) {
        let now = at(self.now);
        for _ in 0..5_000 {
            let Some(mut reading) = self.carrier.next_reading(0, now.instant) else { return };
            let index = LANES.iter().position(|lane| *lane == reading.lane).expect("one of them");
            assert!(self.may_go(index), "lane {index} is read outside its hours");
            let next = self.read(index, &mut reading);
            assert!(next > reading.from, "only what is there is read");
            self.carrier.passed(&reading, next);
            self.carrier.invariants();
        }
        panic!("the carrier reads for ever");
    }

    fn read(&mut self, index: usize, reading: &mut Reading) -> Seq {
        let (now, mut none) = (at(self.now), Vec::new());
        let lane = &self.lanes[index];
        let (mut place, mut count) = (reading.from.get(), 0);
        while place < lane.known {
            let message = &self.messages[lane.places[place as usize - 1]];
            if message.expires.is_none_or(|at| at > self.now) {
                if count == reading.messages_max {
                    break;
                }
                count += 1;
                let expires = message.expires.map(Timestamp);
                self.carrier.offer(reading, seq(place), &message.bytes, expires, now, &mut none);
            }
            place += 1;
        }
        assert!(none.is_empty(), "everything goes over the link of an identity");
        seq(place)
    }

    fn open(&mut self) {
        while let Some(identity) = self.carrier.next_open(at(self.now).instant) {
            let identity = IDENTITIES[index_of(&identity)];
            assert!(self.is_open || self.always.is_some(), "{identity} is opened outside the hours");
            let least = 500 / u64::from(self.pool.opens_per_sec);
            assert!(
                self.last_open.is_none_or(|last| self.now - last >= least),
                "{identity} is opened too soon"
            );
            self.last_open = Some(self.now);
            self.connections += 1;
            let net = Net {
                stage: Stage::Opening,
                connection: self.connections,
                pipe: VecDeque::new(),
                answers: VecDeque::new(),
                withheld: 0,
                is_renewed: false,
            };
            assert!(self.nets.insert(identity, net).is_none(), "{identity} has a link already");
            assert!(self.nets.len() <= self.pool.links_max, "{} links", self.nets.len());
        }
    }

    fn net_step(&mut self) {
        if self.nets.is_empty() {
            return;
        }
        let number = self.below(self.nets.len());
        let identity = *self.nets.keys().nth(number).expect("so many");
        let stage = self.nets[identity].stage;
        match stage {
            Stage::Opening if self.below(4) == 0 => self.end(identity, true, false, None),
            Stage::Opening => self.connected(identity),
            Stage::Greeting if self.below(8) == 0 => self.end(identity, true, true, None),
            Stage::Greeting => self.greet(identity),
            Stage::Up => match self.below(12) {
                0..=2 => self.flush(identity),
                3..=5 => self.upstream(identity),
                6..=8 => self.answer(identity),
                9 => self.tick(identity),
                10 => self.lose(identity),
                _ => self.rest(identity),
            },
        }
    }

    fn connected(&mut self, identity: &'static str) {
        let setup = LinkSetup { keep_alive_secs: 0, ..setup(INFLIGHT_MAX) };
        self.carrier.link_connected(identity, setup, at(self.now)).expect("opens");
        self.carrier.take_out(identity, &mut Vec::new());
        self.net(identity).stage = Stage::Greeting;
    }

    fn net(&mut self, identity: &str) -> &mut Net {
        self.nets.get_mut(identity).expect("it is there")
    }

    fn greet(&mut self, identity: &'static str) {
        if let Mood::Bars(reason) = self.moods[index_of(identity)] {
            let mut bytes = Vec::new();
            let ack = wire::ConnAck::new(false, reason);
            wire::encode_connack(&mut bytes, wire::Version::V5, &ack).expect("fits");
            let error = self.carrier.link_read(identity, &bytes, at(self.now)).expect_err("not let in");
            return self.end(identity, true, false, Some(&error));
        }
        let was_up = self.carrier.links_up();
        self.drains.change(8, &mut self.carrier);
        let window = 1 + self.below(12) as u16;
        let connack = connack(window, Some(PACKET_BYTES_MAX));
        let (_, is_new) = self.carrier.link_read(identity, &connack, at(self.now)).expect("welcome");
        assert!(is_new);
        self.net(identity).stage = Stage::Up;
        if was_up == 0 {
            let drains = &self.drains;
            let lanes = self.lanes.iter_mut().enumerate();
            for (_, lane) in lanes.filter(|(index, _)| drains.is_live_first(*index)) {
                lane.marks.push(lane.known);
            }
        }
    }

    /// What the carrier has for a link is on its way.
    fn flush(&mut self, identity: &'static str) {
        let mut out = Vec::new();
        self.carrier.take_out(identity, &mut out);
        let written = take_written(&mut out);
        for it in &written {
            let number = serial(it);
            let net = &self.nets[identity];
            assert_eq!(
                IDENTITIES[self.messages[number].identity], identity,
                "{number} goes over another's link"
            );
            let before = self.sent_on.insert(number, net.connection);
            assert_ne!(before, Some(net.connection), "{number} comes twice over one connection");
        }
        let net = self.net(identity);
        net.pipe.extend(written);
        let inflight = net.pipe.len() + net.answers.len() + net.withheld;
        assert!(inflight <= usize::from(INFLIGHT_MAX), "{inflight} in flight to {identity}");
    }

    fn upstream(&mut self, identity: &'static str) {
        let mood = self.moods[index_of(identity)];
        for _ in 0..1 + self.below(6) {
            let Some(written) = self.net(identity).pipe.pop_front() else { return };
            let number = serial(&written);
            let reason = match (self.messages[number].kind, mood) {
                (Kind::Deadly, _) => return self.end(identity, true, true, None),
                (Kind::Large | Kind::Junk, _) => panic!("it was sent"),
                (_, Mood::Refuses(reason)) => reason,
                (Kind::Forbidden, _) => ReasonCode::NOT_AUTHORIZED,
                (Kind::Invalid, _) => ReasonCode::TOPIC_NAME_INVALID,
                (Kind::Fine, _) => {
                    self.accept(number);
                    ReasonCode::SUCCESS
                }
            };
            let net = self.net(identity);
            if mood == Mood::Mute {
                net.withheld += 1;
                continue;
            }
            net.answers.push_back((written.id, reason));
            if reason != ReasonCode::SUCCESS {
                self.sent_on.remove(&number);
            }
        }
    }

    fn accept(&mut self, number: usize) {
        // What was on its way aside, and comes again because a crash forgot that, is out of order by then.
        if !self.accepted.insert(number) || self.left.contains(&number) {
            return;
        }
        let Message { lane, identity, .. } = self.messages[number];
        let world = &self.lanes[lane];
        let place = world.places.binary_search(&number).expect("it has a place") as u64 + 1;
        let part = world.marks.iter().filter(|mark| **mark <= place).count();
        let before = self.last.insert((lane, identity, part), number);
        assert!(before.is_none_or(|before| before < number), "{number} of lane {lane} came after {before:?}");
    }

    fn answer(&mut self, identity: &'static str) {
        let mut bytes = Vec::new();
        for _ in 0..1 + self.below(6) {
            let count = self.net(identity).answers.len().max(1);
            let index = if self.below(4) == 0 { self.below(count) } else { 0 };
            let Some((id, reason)) = self.net(identity).answers.remove(index) else { break };
            bytes.extend(puback(id, reason));
        }
        self.carrier.link_read(identity, &bytes, at(self.now)).expect("only answers");
    }

    fn tick(&mut self, identity: &'static str) {
        if let Err(error) = self.carrier.link_tick(identity, at(self.now)) {
            assert!(matches!(error, LinkError::Unanswered { .. }), "{error}");
            self.end(identity, true, false, Some(&error));
        }
    }

    /// The network, or the upstream for reasons of its own.
    fn lose(&mut self, identity: &'static str) {
        if self.below(3) > 0 {
            return;
        }
        self.flush(identity);
        let shutting_down = LinkError::Disconnected(ReasonCode::SERVER_SHUTTING_DOWN);
        let by_peer = self.below(2) == 0;
        self.end(identity, true, by_peer, by_peer.then_some(&shutting_down));
    }

    /// It is closed because nobody needs it, or renewed.
    fn rest(&mut self, identity: &'static str) {
        let is_idle = self.carrier.is_idle(identity, at(self.now).instant);
        let begins = self.below(4) == 0;
        let net = self.net(identity);
        net.is_renewed |= begins;
        if !is_idle && !net.is_renewed {
            return;
        }
        // Whoever rests is closed, sooner or later.
        net.is_renewed = true;
        let is_quiet = self.carrier.rest(identity);
        if is_quiet || self.below(3) == 0 {
            self.carrier.link_close(identity);
            self.carrier.take_out(identity, &mut Vec::new());
            self.end(identity, false, false, None);
        }
    }

    fn end(&mut self, identity: &'static str, failed: bool, by_peer: bool, error: Option<&LinkError>) {
        let now = at(self.now).instant;
        let net = self.nets.remove(identity).expect("it is there");
        if by_peer && error.is_none() && net.stage == Stage::Up {
            self.carrier.link_cut_off(identity, now);
        }
        let mut out = Vec::new();
        self.carrier.take_out(identity, &mut out);
        let by_peer = by_peer && out.is_empty();
        self.carrier.link_lost(identity, failed, by_peer, error, now);
        self.carrier.invariants();
        self.ends += u64::from(net.stage == Stage::Up);
    }

    /// The upstream changes its mind about an identity. About its messages in a quiet moment: an upstream that refuses one
    /// message in flight and takes the next has made an order of its own.
    fn mood(&mut self) {
        let index = self.below(IDENTITIES.len());
        let identity = IDENTITIES[index];
        if self.nets.get(identity).is_some_and(|net| net.stage == Stage::Up) {
            self.flush(identity);
            let net = &self.nets[identity];
            if !(net.pipe.is_empty() && net.answers.is_empty()) {
                return;
            }
        }
        let reasons = [ReasonCode::QUOTA_EXCEEDED, ReasonCode::UNSPECIFIED_ERROR, ReasonCode::NOT_AUTHORIZED];
        let bars = [ReasonCode::NOT_AUTHORIZED, ReasonCode::SERVER_BUSY];
        self.moods[index] = match (self.moods[index], self.below(4)) {
            (Mood::Fine, 0) => Mood::Mute,
            (Mood::Fine, 1 | 2) => Mood::Refuses(reasons[self.below(reasons.len())]),
            (Mood::Fine, _) => Mood::Bars(bars[self.below(bars.len())]),
            _ => Mood::Fine,
        };
        let is_final = |reason| matches!(reason, ReasonCode::UNSPECIFIED_ERROR | ReasonCode::NOT_AUTHORIZED);
        if matches!(self.moods[index], Mood::Refuses(reason) | Mood::Bars(reason) if is_final(reason)) {
            self.suspects.insert(index);
        }
    }

    fn hours(&mut self) {
        self.is_open = !self.is_open;
        self.carrier.set_open(self.is_open, self.always);
    }

    /// The disk: positions, and what moves aside.
    fn keep(&mut self) {
        for lane in &mut self.lanes {
            lane.disk_head = lane.disk_head.max(lane.delivered + 1);
        }
        if self.asides.is_empty() {
            return;
        }
        let index = self.below(self.asides.len());
        let aside = self.asides.swap_remove(index);
        let lane = LANES.iter().position(|lane| *lane == aside.lane).expect("one of them");
        let number = self.lanes[lane].places[aside.seq.get() as usize - 1];
        let message = &self.messages[number];
        let is_fair = message.kind != Kind::Fine || self.suspects.contains(&message.identity);
        assert!(is_fair, "{aside:?} went aside, and nobody refused it");
        self.poison.insert(number);
        self.carrier.is_aside(aside.lane, aside.seq);
    }

    fn look(&mut self) {
        self.carrier.invariants();
        while let Some(aside) = self.carrier.next_aside() {
            let lane = LANES.iter().position(|lane| *lane == aside.lane).expect("one of them");
            self.left.insert(self.lanes[lane].places[aside.seq.get() as usize - 1]);
            self.asides.push(aside);
        }
        let (accepted, poison, messages, now) = (&self.accepted, &self.poison, &self.messages, self.now);
        let is_settled = |lane: &LaneWorld, place: u64| {
            let number = lane.places[place as usize - 1];
            let is_safe = accepted.contains(&number) || poison.contains(&number);
            is_safe || messages[number].expires.is_some_and(|at| at <= now)
        };
        let mut delivered = Vec::new();
        self.carrier.delivered(&mut delivered);
        for (lane, up_to) in delivered {
            let index = LANES.iter().position(|it| *it == lane).expect("one of them");
            let lane = &mut self.lanes[index];
            assert!(up_to.get() > lane.delivered, "positions never go back");
            for place in lane.delivered + 1..=up_to.get() {
                let is_done = is_settled(lane, place);
                assert!(is_done, "{place} of lane {index} counts as delivered and is nowhere");
            }
            lane.delivered = up_to.get();
        }
        let mut ahead = Vec::new();
        self.carrier.delivered_ahead(&mut ahead);
        for Ahead { lane, from, up_to } in ahead {
            let index = LANES.iter().position(|it| *it == lane).expect("one of them");
            let is_done = |place| is_settled(&self.lanes[index], place);
            assert!((from.get()..=up_to.get()).all(is_done), "{from} to {up_to} of lane {index}");
            self.told_ahead += up_to.get() + 1 - from.get();
        }
    }

    /// A well-meaning upstream, good networks, nothing new, all hours.
    fn settle(&mut self) {
        let identities: Vec<_> = self.nets.keys().copied().collect();
        for identity in identities {
            // What is in flight is judged as it was sent, and so is what is about to be.
            while self.nets.get(identity).is_some_and(|net| net.stage == Stage::Up) {
                self.flush(identity);
                let net = self.net(identity);
                if net.pipe.is_empty() && net.answers.is_empty() {
                    break;
                }
                self.upstream(identity);
                if self.nets.contains_key(identity) {
                    self.answer(identity);
                }
            }
        }
        self.moods = [Mood::Fine; IDENTITIES.len()];
        self.is_open = true;
        self.carrier.set_open(true, self.always);
        for _ in 0..20_000 {
            self.tell();
            self.fill();
            self.open();
            let identities: Vec<_> = self.nets.keys().copied().collect();
            for identity in identities {
                self.carry_well(identity);
            }
            self.keep();
            self.look();
            self.now += 50;
            if self.carrier.backlog() == 0 {
                let done = |lane: &LaneWorld| lane.delivered == lane.places.len() as u64;
                assert!(self.lanes.iter().all(done), "no backlog, and not delivered");
                assert_eq!(self.carrier.senders_waiting(), 0);
                for (number, message) in self.messages.iter().enumerate() {
                    let is_gone = message.expires.is_some_and(|at| at <= self.now);
                    let is_there = self.accepted.contains(&number) || self.poison.contains(&number);
                    assert!(is_there || is_gone, "{number} was acknowledged and is lost");
                }
                return;
            }
        }
        panic!("{} messages never leave", self.carrier.backlog());
    }

    fn carry_well(&mut self, identity: &'static str) {
        match self.nets[identity].stage {
            Stage::Opening => return self.connected(identity),
            Stage::Greeting => return self.greet(identity),
            Stage::Up => {}
        }
        self.flush(identity);
        self.upstream(identity);
        while self.nets.get(identity).is_some_and(|net| !net.answers.is_empty()) {
            self.answer(identity);
        }
        if self.nets.contains_key(identity) {
            self.tick(identity);
        }
        let is_idle = self.carrier.is_idle(identity, at(self.now).instant);
        if self.nets.get(identity).is_some_and(|net| is_idle || net.is_renewed) {
            self.net(identity).is_renewed = true;
            self.rest(identity);
        }
    }

    fn summary(&self) -> String {
        let lanes: Vec<_> = self.lanes.iter().map(|lane| lane.delivered).collect();
        let taken = (self.accepted.len(), self.poison.len(), self.connections, self.ends);
        format!("{lanes:?} {taken:?} {:?} {}", self.carrier.counts(), self.now)
    }
}

/// What came of it; how many messages arrived, how many links that were up have ended, and how many places were told ahead.
fn run(seed: u64) -> (String, u64, u64, u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    (world.summary(), world.accepted.len() as u64, world.ends, world.told_ahead)
}

#[test]
fn sim_a_pool_loses_nothing_and_no_link_pays_for_another() {
    let runs = replay("sim_a_pool", SEEDS, run);
    let sum = |pick: fn(&(String, u64, u64, u64)) -> u64| runs.iter().map(pick).sum::<u64>();
    let (arrived, ends, ahead) = (sum(|run| run.1), sum(|run| run.2), sum(|run| run.3));
    let said = format!("{arrived} arrived, {ends} links ended, {ahead} delivered ahead");
    assert!(runs.len() < 100 || arrived > 10_000 && ends > 500 && ahead > 1_000, "{said}");
}
