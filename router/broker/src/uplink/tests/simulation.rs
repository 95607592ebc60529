//! A seeded simulation of one uplink: publishers, the store, a moody upstream, networks and crashes in any order.
//!
//! Which seeds run is said in `crate::tests::seeds`; a failing one prints how to run it alone.
//! The upstream refuses senders for a while, some messages for ever, dies of some, wants smaller ones, loses what it
//! answered. Held against each run, after every step: a place counts as delivered only if the upstream has it, it has
//! expired, or it is safe in the poison lane; positions never go back; no more in flight than both sides agreed on; only
//! what the upstream refused goes aside; a sender's messages reach the upstream in order once repeats are removed (live
//! first: between two connections). In the end, with a well-meaning upstream, nothing is left.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::{LaneId, Priority, Seq};
use wire::ReasonCode;

use super::{Written, at, connack, puback, record, rules, seq, setup, take_written};
use crate::random::Random;
use crate::tests::seeds::replay;
use crate::uplink::{Aside, Carrier, LinkError, LinkSetup, Rules, Schedule};

const SEEDS: u64 = 600;
const STEPS: usize = 400;
const LANES: [LaneId; 3] = [LaneId(3), LaneId(1), LaneId(2)];
const PRIORITIES: [i64; 3] = [0, 5, 2_000_000_000];
const SENDERS: usize = 4;
const PACKET_BYTES_MAX: u32 = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fine,
    Forbidden,
    Invalid,
    Deadly,
    Large,
    Junk,
}

struct Message {
    sender: usize,
    kind: Kind,
    bytes: Vec<u8>,
    expires: Option<u64>,
}

#[derive(Default)]
struct LaneWorld {
    messages: Vec<Message>,
    /// Last delivered place as reported, and as the disk has it.
    delivered: u64,
    stored: u64,
    accepted: BTreeSet<u64>,
    /// Safe in the poison lane, and on the way there.
    poison: BTreeSet<u64>,
    left: BTreeSet<u64>,
    /// What the carrier was told when a link came up.
    marks: Vec<u64>,
    known: u64,
}

struct World {
    carrier: Carrier,
    rules: Rules,
    random: Random,
    now: u64,
    lanes: Vec<LaneWorld>,
    /// Last place accepted of each lane, sender and part between marks.
    last: BTreeMap<(usize, usize, usize), u64>,
    out: Vec<u8>,
    /// On the way to the upstream.
    pipe: VecDeque<Written>,
    /// On the way back.
    answers: VecDeque<(u16, ReasonCode)>,
    linked: bool,
    receive_max: u16,
    blocked: BTreeMap<usize, ReasonCode>,
    /// Senders that were ever refused with a reason that may end in the poison lane.
    suspects: BTreeSet<usize>,
    asides: Vec<Aside>,
}

fn place(written: &Written) -> (usize, u64) {
    let text = String::from_utf8_lossy(&written.payload);
    let mut parts = text.split(':');
    let mut number = || parts.next().expect("lane:place:…").parse().expect("a number");
    (number() as usize, number())
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
            bytes_per_sec: [0, 0, 5_000][below(3) as usize],
            drain_jitter_millis: [0, 500][below(2) as usize],
            look_ahead_max: 1 + below(40) as usize,
            senders_max: 1 + below(4) as usize,
            seed,
            ..rules()
        };
        let receive_max = 1 + below(12) as u16;
        let lanes = LANES.map(|_| LaneWorld::default()).into();
        let mut world = World {
            carrier: Carrier::new(rules.clone()),
            rules,
            random,
            now: 1_000,
            lanes,
            last: BTreeMap::new(),
            out: Vec::new(),
            pipe: VecDeque::new(),
            answers: VecDeque::new(),
            linked: false,
            receive_max,
            blocked: BTreeMap::new(),
            suspects: BTreeSet::new(),
            asides: Vec::new(),
        };
        world.start();
        world
    }

    fn below(&mut self, count: usize) -> usize {
        (self.random.next() % count as u64) as usize
    }

    /// The router starts, with what the disk has.
    fn start(&mut self) {
        self.carrier = Carrier::new(self.rules.clone());
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let priority = Priority::new(PRIORITIES[index]).expect("one of them");
            lane.delivered = lane.stored;
            lane.known = lane.messages.len() as u64 + 1;
            self.carrier.add_lane(LANES[index], priority, seq(lane.stored + 1), seq(lane.known));
        }
        self.asides.clear();
        self.cut();
    }

    fn step(&mut self) {
        match self.below(24) {
            0..=4 => self.publish(),
            5..=6 => self.tell(),
            7..=9 => self.fill(),
            10..=12 => self.flush(),
            13..=15 => self.upstream(),
            16..=18 => self.answer(),
            19 => self.mood(),
            20 => self.keep(),
            21 => self.lose(),
            22 if self.below(20) == 0 => self.start(),
            _ => self.now += self.random.next() % 400,
        }
        self.look();
    }

    fn publish(&mut self) {
        let lane = self.below(LANES.len());
        let sender = self.below(SENDERS);
        let kind = match self.below(60) {
            0 => Kind::Forbidden,
            1 => Kind::Invalid,
            2 => Kind::Deadly,
            3 => Kind::Large,
            4 => Kind::Junk,
            _ => Kind::Fine,
        };
        let expires = (self.below(10) == 0).then(|| self.now + self.random.next() % 2_000);
        let number = self.lanes[lane].messages.len() + 1;
        let mut payload = format!("{lane}:{number}:").into_bytes();
        payload.resize(payload.len() + if kind == Kind::Large { 400 } else { self.below(100) }, b'.');
        let bytes = match kind {
            Kind::Junk => b"junk".to_vec(),
            _ => record(&format!("sender-{sender}"), &payload),
        };
        self.lanes[lane].messages.push(Message { sender, kind, bytes, expires });
    }

    /// The store says how far lanes reach.
    fn tell(&mut self) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.known = lane.messages.len() as u64 + 1;
            self.carrier.grown(LANES[index], seq(lane.known));
        }
    }

    fn fill(&mut self) {
        if !self.linked {
            return self.connect();
        }
        let now = at(self.now);
        while let Some(mut reading) = self.carrier.next_reading(self.out.len(), now.instant) {
            let index = LANES.iter().position(|lane| *lane == reading.lane).expect("one of them");
            let (mut number, mut count, mut bytes) = (reading.from.get(), 0, 0);
            while let Some(message) = self.lanes[index].messages.get(number as usize - 1) {
                if message.expires.is_none_or(|at| at > self.now) {
                    bytes += message.bytes.len();
                    if count == reading.messages_max || count > 0 && bytes > reading.bytes_max {
                        break;
                    }
                    count += 1;
                    let expires = message.expires.map(model::Timestamp);
                    self.carrier.offer(
                        &mut reading,
                        seq(number),
                        &message.bytes,
                        expires,
                        now,
                        &mut self.out,
                    );
                }
                number += 1;
            }
            assert!(number > reading.from.get(), "only what is there is read");
            self.carrier.passed(&reading, seq(number));
            self.carrier.invariants();
        }
    }

    fn connect(&mut self) {
        if self.below(3) == 0 {
            return; // nobody there
        }
        self.out.clear();
        let link = LinkSetup { keep_alive_secs: 0, ..setup(8) };
        self.carrier.connected(link, at(self.now), &mut self.out).expect("opens");
        self.out.clear();
        let connack = connack(self.receive_max, Some(PACKET_BYTES_MAX));
        self.carrier.read(&connack, at(self.now), &mut self.out).expect("welcome");
        self.linked = true;
        self.lanes.iter_mut().for_each(|lane| lane.marks.push(lane.known));
    }

    fn flush(&mut self) {
        if self.linked {
            self.pipe.extend(take_written(&mut self.out));
        }
    }

    fn upstream(&mut self) {
        for _ in 0..1 + self.below(6) {
            let Some(written) = self.pipe.pop_front() else { return };
            let (lane, number) = place(&written);
            let Message { kind, sender, .. } = self.lanes[lane].messages[number as usize - 1];
            let reason = match (kind, self.blocked.get(&sender)) {
                (Kind::Deadly, _) => {
                    let all_written = self.out.is_empty();
                    self.cut();
                    return self.carrier.lost(all_written, None, at(self.now).instant);
                }
                (Kind::Large | Kind::Junk, _) => panic!("{kind:?} was sent"),
                (_, Some(reason)) => *reason,
                (Kind::Forbidden, None) => ReasonCode::NOT_AUTHORIZED,
                (Kind::Invalid, None) => ReasonCode::TOPIC_NAME_INVALID,
                (Kind::Fine, None) => {
                    self.accept(lane, number, sender);
                    ReasonCode::SUCCESS
                }
            };
            self.answers.push_back((written.id, reason));
        }
    }

    fn accept(&mut self, lane: usize, number: u64, sender: usize) {
        let world = &mut self.lanes[lane];
        // What was on its way aside, and comes again because a crash forgot that, is out of order by then.
        if !world.accepted.insert(number) || world.left.contains(&number) {
            return;
        }
        let part = world.marks.iter().filter(|mark| self.rules.live_first && **mark <= number).count();
        let before = self.last.insert((lane, sender, part), number);
        assert!(before.is_none_or(|before| before < number), "{number} of lane {lane} came after {before:?}");
    }

    fn answer(&mut self) {
        let mut bytes = Vec::new();
        for _ in 0..1 + self.below(6) {
            let index = if self.below(4) == 0 { self.below(self.answers.len().max(1)) } else { 0 };
            let Some((id, reason)) = self.answers.remove(index) else { break };
            bytes.extend(puback(id, reason));
        }
        self.carrier.read(&bytes, at(self.now), &mut self.out).expect("only answers");
    }

    /// The upstream changes its mind about a sender, in a quiet moment: what is in flight is judged one by one, and an
    /// upstream that refuses one message and takes the next has made an order of its own.
    fn mood(&mut self) {
        if !(self.pipe.is_empty() && self.out.is_empty() && self.answers.is_empty()) {
            return;
        }
        let sender = self.below(SENDERS);
        if self.blocked.remove(&sender).is_none() {
            let reasons =
                [ReasonCode::QUOTA_EXCEEDED, ReasonCode::UNSPECIFIED_ERROR, ReasonCode::NOT_AUTHORIZED];
            let reason = reasons[self.below(reasons.len())];
            self.blocked.insert(sender, reason);
            if reason != ReasonCode::QUOTA_EXCEEDED {
                self.suspects.insert(sender);
            }
        }
    }

    /// The disk: positions, and what moves aside.
    fn keep(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.stored = lane.delivered);
        if self.asides.is_empty() {
            return;
        }
        let index = self.below(self.asides.len());
        let aside = self.asides.swap_remove(index);
        let lane = LANES.iter().position(|lane| *lane == aside.lane).expect("one of them");
        let message = &self.lanes[lane].messages[aside.seq.get() as usize - 1];
        let is_fair = message.kind != Kind::Fine || self.suspects.contains(&message.sender);
        assert!(is_fair, "{aside:?} went aside, and nobody refused it");
        self.lanes[lane].poison.insert(aside.seq.get());
        self.carrier.is_aside(aside.lane, aside.seq);
    }

    fn lose(&mut self) {
        if !self.linked || self.below(3) > 0 {
            return;
        }
        // Some of what was written may have arrived, and some answers are lost.
        self.flush();
        for _ in 0..self.below(4) {
            let deadly = self.pipe.front().is_some_and(|written| {
                let (lane, number) = place(written);
                self.lanes[lane].messages[number as usize - 1].kind == Kind::Deadly
            });
            if !deadly && !self.pipe.is_empty() {
                let rest = self.pipe.split_off(1);
                self.upstream();
                self.pipe = rest;
            }
        }
        let shutting_down = LinkError::Disconnected(ReasonCode::SERVER_SHUTTING_DOWN);
        let by_peer = self.below(2) == 0;
        self.cut();
        self.carrier.lost(by_peer, by_peer.then_some(&shutting_down), at(self.now).instant);
    }

    fn cut(&mut self) {
        self.linked = false;
        self.out.clear();
        self.pipe.clear();
        self.answers.clear();
    }

    fn look(&mut self) {
        self.carrier.invariants();
        let window = usize::from(self.receive_max.min(8));
        assert!(self.pipe.len() + self.answers.len() <= window, "no more in flight than agreed on");
        while let Some(aside) = self.carrier.next_aside() {
            let lane = LANES.iter().position(|lane| *lane == aside.lane).expect("one of them");
            self.lanes[lane].left.insert(aside.seq.get());
            self.asides.push(aside);
        }
        let mut delivered = Vec::new();
        self.carrier.delivered(&mut delivered);
        for (lane, up_to) in delivered {
            let index = LANES.iter().position(|it| *it == lane).expect("one of them");
            self.check_delivered(index, up_to);
        }
    }

    fn check_delivered(&mut self, index: usize, up_to: Seq) {
        let lane = &mut self.lanes[index];
        assert!(up_to.get() > lane.delivered, "positions never go back");
        for number in lane.delivered + 1..=up_to.get() {
            let message = &lane.messages[number as usize - 1];
            let is_done = lane.accepted.contains(&number)
                || lane.poison.contains(&number)
                || message.expires.is_some_and(|at| at <= self.now);
            assert!(is_done, "{number} of lane {index} counts as delivered and is nowhere");
        }
        lane.delivered = up_to.get();
    }

    /// A well-meaning upstream, a good network, nothing new.
    fn settle(&mut self) {
        while !(self.out.is_empty() && self.pipe.is_empty() && self.answers.is_empty()) {
            self.flush();
            self.upstream();
            self.answer();
        }
        self.blocked.clear();
        for _ in 0..20_000 {
            self.tell();
            self.fill();
            self.flush();
            self.upstream();
            while !self.answers.is_empty() {
                self.answer();
            }
            self.keep();
            self.look();
            self.now += 50;
            if self.carrier.backlog() == 0 {
                let done = |lane: &LaneWorld| lane.delivered == lane.messages.len() as u64;
                assert!(self.lanes.iter().all(done), "no backlog, and not delivered");
                assert_eq!(self.carrier.senders_waiting(), 0);
                return;
            }
        }
        panic!("{} messages never leave", self.carrier.backlog());
    }

    fn summary(&self) -> String {
        let lane = |lane: &LaneWorld| (lane.accepted.len(), lane.poison.len(), lane.delivered);
        format!(
            "{:?} {:?} {}",
            self.lanes.iter().map(lane).collect::<Vec<_>>(),
            self.carrier.counts(),
            self.now
        )
    }
}

fn run(seed: u64) -> String {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    world.summary()
}

#[test]
fn sim_an_uplink_loses_nothing_and_keeps_the_order_of_each_sender() {
    replay("sim_an_uplink", SEEDS, run);
}
