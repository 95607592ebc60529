//! A seeded simulation of one uplink: publishers, the store, a moody upstream, networks and crashes in any order.
//!
//! Which seeds run is said in `crate::tests::seeds`; a failing one prints how to run it alone.
//! The upstream refuses senders for a while, some messages for ever, dies of some, wants smaller ones, throttles everybody by
//! answers, by ends of connections and at the door, loses what it answered. Messages are of `disk`, `spill` and `memory` routes,
//! in most runs mixed: they stand in a front (`crate::front`) as long as it takes them, and fronts have little memory in some. The
//! disk collects, writes, tells and looks in steps of their own, everything else happens in between; groups fail, are
//! there all the same, or find no room for a while (ENOSPC); a crash takes what was only in memory, and cursors that were
//! not written; a stop takes nothing. Somebody sets the wall clock, forwards and back.
//! In some runs the disk lies: it says that groups are synced, and a crash takes them, the last ones first. What was acknowledged
//! of them is lost then, and nobody can know it: the ends of all lanes look as if it had never come. Everything else holds.
//! Held against each run, after every step: what is acknowledged is on the disk as far as that says, with the upstream,
//! expired, or safe in the poison lane (or of a `memory` route), and so is every place that counts as delivered; positions
//! never go back; no more is read than the window has room for, nor is more in flight than both sides agreed on; fronts
//! keep to their memory, and stay closed until what was written past them is delivered; paces hold by the steady clock; throttling is noticed, narrows the window, and is nobody's fault; only
//! what the upstream refused goes aside; a sender's messages reach the upstream in order once repeats are removed (live
//! first: between two connections); a crash leaves no hole behind the head; what is taken out behind one is delivered. In the end, with a well-meaning upstream,
//! nothing is left, and everything acknowledged has arrived, has expired, or is in the poison lane; but for what a lying
//! disk took, and of `memory` routes what crashes found in memory.

mod ahead;
mod disk;
mod quotas;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::{LaneId, Now, Seq, SpillTicket, Timestamp};
use wire::ReasonCode;

use self::disk::{Disk, LaneWorld};
use self::quotas::Quotas;
use super::drawn::{Drains, Kind, serial};
use super::{Written, at, connack, puback, rules, seq, setup, take_written};
use crate::random::Random;
use crate::tests::seeds::replay;
use crate::uplink::poison::Refusal;
use crate::uplink::{Aside, Carrier, LinkError, LinkSetup, Reading, Rules, Schedule};

const SEEDS: u64 = 2_000;
const STEPS: usize = 400;
const LANES: [LaneId; 3] = [LaneId(3), LaneId(1), LaneId(2)];
const PRIORITIES: [i64; 3] = [0, 5, 2_000_000_000];
const SENDERS: usize = 4;
const PACKET_BYTES_MAX: u32 = 300;
/// The wall clock when a run begins, and the most that it is set by.
const WALL: u64 = 100_000_000;
const JUMP_MILLIS: u64 = 3_600_000;
/// Half of what signs of throttling are remembered for.
const SLOW_MICROS: u64 = 2_500_000;
/// How an upstream says that it wants less; the last one is none of a CONNACK.
const THROTTLING: [ReasonCode; 4] = [
    ReasonCode::QUOTA_EXCEEDED,
    ReasonCode::SERVER_BUSY,
    ReasonCode::CONNECTION_RATE_EXCEEDED,
    ReasonCode::MESSAGE_RATE_TOO_HIGH,
];

/// Refusals that may pass, so that each sender's first message is tried again and again.
const MAY_PASS: [ReasonCode; 2] = [ReasonCode::UNSPECIFIED_ERROR, ReasonCode::NOT_AUTHORIZED];
/// More readings than one look for work can be good for.
const READINGS_MAX: usize = 1_000;

struct Message {
    lane: usize,
    sender: usize,
    kind: Kind,
    bytes: Vec<u8>,
    expires: Option<u64>,
    /// Its number among those of `spill` routes; of `memory` routes, [`SpillTicket::NOBODY`].
    spill: Option<SpillTicket>,
}

struct World {
    carrier: Carrier,
    rules: Rules,
    random: Random,
    now: u64,
    /// The clock that people set, as it is and as it was at most: what lives by it.
    wall: u64,
    wall_max: u64,
    messages: Vec<Message>,
    lanes: Vec<LaneWorld>,
    disk: Disk,
    /// When this router started, messages sent since then, and their bytes.
    started: (u64, u64, u64),
    /// Not seen by the disk, by place in `messages`.
    incoming: VecDeque<usize>,
    /// Of so many messages, those of `disk`, `spill` and `memory` routes.
    durabilities: [usize; 3],
    /// An upstream and a network that keep up most of the time: fronts stay open.
    is_fair: bool,
    drains: Drains,
    accepted: BTreeSet<usize>,
    /// Left their lanes for the poison lane, safe there or not.
    left: BTreeSet<usize>,
    /// Last message accepted of each lane, sender and part between marks.
    last: BTreeMap<(usize, usize, usize), usize>,
    out: Vec<u8>,
    /// On the way to the upstream.
    pipe: VecDeque<Written>,
    /// On the way back, and whose messages they are about.
    answers: VecDeque<(u16, usize, ReasonCode)>,
    linked: bool,
    receive_max: u16,
    blocked: BTreeMap<usize, ReasonCode>,
    /// The upstream wants nothing from anybody for now.
    throttles: bool,
    quotas: Quotas,
    /// Ends of connections by which the upstream said that it wants less, and that narrowed the window.
    narrowed: u64,
    /// Senders that were ever refused with a reason that may end in the poison lane.
    suspects: BTreeSet<usize>,
    asides: Vec<Aside>,
    /// Lanes and senders something of which went aside since this router started.
    convicted: BTreeSet<(usize, usize)>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let mut below = |count: u64| random.next() % count;
        let rules = Rules {
            schedule: [Schedule::Strict, Schedule::Weighted][below(2) as usize],
            live_first: below(2) == 0,
            history_share_percent: 1 + below(99) as u8,
            messages_per_sec: [0, 0, 20][below(3) as usize],
            bytes_per_sec: [0, 0, 500][below(3) as usize],
            drain_jitter_millis: [0, 500][below(2) as usize],
            look_ahead_max: 1 + below(40) as usize,
            held_max: 1 + below(40) as usize,
            senders_max: 1 + below(4) as usize,
            window: (1, 16),
            seed,
            ..rules()
        };
        let receive_max = 1 + below(12) as u16;
        let after_millis = [200, 2_000][below(2) as usize];
        // Where others are in between a front is closed most of the time.
        let durabilities =
            [[1, 0, 0], [2, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 2], [0, 0, 1], [1, 1, 1]][below(7) as usize];
        let front_bytes_max = [u64::MAX, u64::MAX, 3_000][below(3) as usize];
        let is_fair = below(2) == 0;
        let disk = Disk::new(after_millis, front_bytes_max, below(4) == 0, seed);
        let mut world = World {
            carrier: Carrier::new(rules.clone()),
            drains: Drains::new(seed, rules.live_first, &LANES),
            rules,
            random,
            now: 1_000,
            wall: WALL,
            wall_max: WALL,
            messages: Vec::new(),
            lanes: disk.lanes(),
            disk,
            started: (0, 0, 0),
            incoming: VecDeque::new(),
            durabilities,
            is_fair,
            accepted: BTreeSet::new(),
            left: BTreeSet::new(),
            last: BTreeMap::new(),
            out: Vec::new(),
            pipe: VecDeque::new(),
            answers: VecDeque::new(),
            linked: false,
            receive_max,
            blocked: BTreeMap::new(),
            throttles: false,
            quotas: Quotas::default(),
            narrowed: 0,
            suspects: BTreeSet::new(),
            asides: Vec::new(),
            convicted: BTreeSet::new(),
        };
        world.start();
        world
    }

    fn below(&mut self, count: usize) -> usize {
        (self.random.next() % count as u64) as usize
    }

    fn at(&self) -> Now {
        Now { instant: at(self.now).instant, timestamp: Timestamp(self.wall) }
    }

    fn pass(&mut self, millis: u64) {
        self.now += millis;
        self.wall += millis;
        self.wall_max = self.wall_max.max(self.wall);
        let now = self.at();
        if let Err(error) = self.carrier.tick(now, &mut self.out) {
            self.end(false, Some(&error));
        }
    }

    /// Somebody sets the clock.
    fn jump(&mut self) {
        let millis = self.random.next() % JUMP_MILLIS;
        self.wall = if self.below(2) == 0 { self.wall + millis } else { self.wall.saturating_sub(millis) };
        self.wall_max = self.wall_max.max(self.wall);
    }

    fn has_expired(&self, number: usize) -> bool {
        self.messages[number].expires.is_some_and(|at| at <= self.wall_max)
    }

    fn step(&mut self) {
        match self.below(31) {
            0..=4 => self.publish(),
            24..=30 => self.disk_step(),
            5..=6 => self.tell(),
            7..=9 => self.fill(),
            10..=12 => self.flush(),
            13..=15 => self.upstream(),
            16..=18 => self.answer(),
            19 => self.mood(),
            20 => self.keep(),
            21 => self.lose(),
            22 if self.below(20) == 0 => self.crash(),
            22 if self.below(60) == 0 => self.stop(),
            22 if self.below(20) == 0 => self.jump(),
            _ => {
                let millis = self.random.next() % 400;
                self.pass(millis);
            }
        }
        self.look();
    }

    fn publish(&mut self) {
        let lane = self.below(LANES.len());
        let sender = self.below(SENDERS);
        let kind = Kind::of(self.below(60));
        let kind = if self.is_fair && self.below(8) > 0 { Kind::Fine } else { kind };
        let expires = (self.below(10) == 0).then(|| self.wall + self.random.next() % 2_000);
        let number = self.messages.len();
        let bytes = kind.record(&format!("sender-{sender}"), number, || self.below(100));
        let [disk, spill, memory] = self.durabilities;
        let drawn = self.below(disk + spill + memory);
        let spill = match drawn {
            _ if drawn < disk => None,
            _ if drawn < disk + spill => Some(self.disk.spill()),
            _ => Some(SpillTicket::NOBODY),
        };
        self.messages.push(Message { lane, sender, kind, bytes, expires, spill });
        self.incoming.push_back(number);
        match spill {
            None => {}
            // Nobody waits for it.
            Some(SpillTicket::NOBODY) => drop(self.disk.acked.insert(number)),
            Some(_) => self.disk.waiting.push_back(number),
        }
    }

    /// The disk says how far lanes reach.
    fn tell(&mut self) {
        self.drains.change(20, &mut self.carrier);
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.known = lane.known.max(lane.end());
            self.carrier.grown(LANES[index], seq(lane.known));
        }
    }

    fn fill(&mut self) {
        if !self.linked {
            return self.connect();
        }
        let now = self.at();
        let mut readings = 0;
        while let Some(mut reading) = self.carrier.next_reading(self.out.len(), now.instant) {
            readings += 1;
            assert!(readings <= READINGS_MAX, "{reading:?}, and no end of it");
            let wanted = self.carrier.inflight() + reading.messages_max;
            assert!(wanted <= self.carrier.pressure().window, "{reading:?} is more than there is room for");
            let index = LANES.iter().position(|lane| *lane == reading.lane).expect("one of them");
            let next = match reading.from.get() < self.lanes[index].log_end {
                true => self.read_log(index, &mut reading),
                false => self.read_front(index, &mut reading),
            };
            assert!(next > reading.from, "only what is there is read");
            self.carrier.passed(&reading, next);
            self.carrier.invariants();
            let lane = &mut self.lanes[index];
            lane.read_to = lane.read_to.max(next.get());
        }
    }

    fn read_log(&mut self, index: usize, reading: &mut Reading) -> Seq {
        let now = self.at();
        let lane = &self.lanes[index];
        let (mut place, mut count, mut bytes) = (reading.from.get(), 0, 0);
        while place < lane.log_end {
            let message = &self.messages[lane.places[place as usize - 1]];
            let is_there = !lane.taken.is_husk(place);
            if is_there && message.expires.is_none_or(|at| at > self.wall) {
                bytes += message.bytes.len();
                if count == reading.messages_max || count > 0 && bytes > reading.bytes_max {
                    break;
                }
                count += 1;
                let expires = message.expires.map(Timestamp);
                self.carrier.offer(reading, seq(place), &message.bytes, expires, now, &mut self.out);
            }
            place += 1;
        }
        seq(place)
    }

    fn read_front(&mut self, index: usize, reading: &mut Reading) -> Seq {
        let now = self.at();
        let mut given = Vec::new();
        let limits = (reading.messages_max, reading.bytes_max);
        let read = self.lanes[index].front.read(reading.from, limits, now.timestamp, &mut given);
        let (next, _) = read.expect("what is not in the log is here");
        for it in given {
            self.carrier.offer(reading, it.seq, &it.bytes, it.expires, now, &mut self.out);
        }
        next
    }

    fn connect(&mut self) {
        if self.below(3) == 0 {
            return; // nobody there
        }
        self.out.clear();
        let link = LinkSetup { keep_alive_secs: 0, answer_millis: 5_000, ..setup(8) };
        let now = self.at();
        self.carrier.connected(link, now, &mut self.out).expect("opens");
        self.out.clear();
        if self.below(if self.throttles { 3 } else { 20 }) == 0 {
            let mut bytes = Vec::new();
            let reason = THROTTLING[self.below(THROTTLING.len() - 1)];
            let ack = wire::ConnAck::new(false, reason);
            wire::encode_connack(&mut bytes, wire::Version::V5, &ack).expect("fits");
            let error = self.carrier.read(&bytes, now, &mut self.out).expect_err("not let in");
            return self.end(true, Some(&error));
        }
        self.drains.change(4, &mut self.carrier);
        let connack = connack(self.receive_max, Some(PACKET_BYTES_MAX));
        self.carrier.read(&connack, now, &mut self.out).expect("welcome");
        self.linked = true;
        let drains = &self.drains;
        let lanes = self.lanes.iter_mut().enumerate();
        for (_, lane) in lanes.filter(|(index, _)| drains.is_live_first(*index)) {
            lane.marks.push(lane.known);
        }
    }

    fn flush(&mut self) {
        if !self.linked {
            return;
        }
        let (since, messages, bytes) = &mut self.started;
        *bytes += self.out.len() as u64;
        let written = take_written(&mut self.out);
        *messages += written.len() as u64;
        let Rules { messages_per_sec, bytes_per_sec, .. } = self.rules;
        // A tenth of a second may come at once, and one message makes a debt.
        let most = |per_sec: u64, one: u64| per_sec * (self.now - *since + 200) / 1_000 + one;
        assert!(messages_per_sec == 0 || *messages <= most(messages_per_sec, 1), "{messages} since {since}");
        assert!(bytes_per_sec == 0 || *bytes <= most(bytes_per_sec, 300), "{bytes} bytes since {since}");
        self.pipe.extend(written);
    }

    fn upstream(&mut self) {
        for _ in 0..1 + self.below(6) {
            let Some(written) = self.pipe.pop_front() else { return };
            let number = serial(&written);
            let Message { kind, sender, lane, .. } = self.messages[number];
            let world = &self.lanes[lane];
            let place = world.places.iter().rposition(|it| *it == number).expect("it has a place") as u64 + 1;
            assert!(!world.taken.is_husk(place), "{place} of lane {lane} is on its way, and was taken out");
            let reason = match (kind, self.blocked.get(&sender)) {
                (Kind::Deadly, _) => return self.end(self.out.is_empty(), None),
                (Kind::Large | Kind::Junk, _) => panic!("{kind:?} was sent"),
                _ if self.throttles => ReasonCode::QUOTA_EXCEEDED,
                (_, Some(reason)) => *reason,
                (Kind::Forbidden, None) => ReasonCode::NOT_AUTHORIZED,
                (Kind::Invalid, None) => ReasonCode::TOPIC_NAME_INVALID,
                (Kind::Fine, None) => {
                    self.accept(number);
                    ReasonCode::SUCCESS
                }
            };
            self.answers.push_back((written.id, sender, reason));
        }
    }

    fn accept(&mut self, number: usize) {
        // What was on its way aside, and comes again because a crash forgot that, is out of order by then.
        // So is what had expired, if a crash forgot that it was passed over, and the clock was set back.
        if !self.accepted.insert(number) || self.left.contains(&number) || self.has_expired(number) {
            return;
        }
        let Message { lane, sender, .. } = self.messages[number];
        let world = &self.lanes[lane];
        let place = world.places.iter().rposition(|it| *it == number).expect("it has a place") as u64 + 1;
        let part = world.marks.iter().filter(|mark| **mark <= place).count();
        let before = self.last.insert((lane, sender, part), number);
        assert!(before.is_none_or(|before| before < number), "{number} of lane {lane} came after {before:?}");
    }

    fn answer(&mut self) {
        let mut bytes = Vec::new();
        let mut is_sign = false;
        for _ in 0..1 + self.below(6) {
            let index = if self.below(4) == 0 { self.below(self.answers.len().max(1)) } else { 0 };
            let Some((id, sender, reason)) = self.answers.remove(index) else { break };
            is_sign |= self.quotas.answered(reason == ReasonCode::QUOTA_EXCEEDED, sender, self.now);
            bytes.extend(puback(id, reason));
        }
        let now = self.at();
        self.carrier.read(&bytes, now, &mut self.out).expect("only answers");
        let pressure = self.carrier.pressure();
        // After so long a round trip a sign may still count as one with those before it, and these be forgotten.
        let is_slow = pressure.delay_micros > SLOW_MICROS;
        assert!(
            !is_sign || is_slow || pressure.is_throttled,
            "a sign, and nobody is throttled: {pressure:?}"
        );
        assert!(!is_sign || pressure.throttles > 0, "a sign, and none is counted");
    }

    /// The upstream changes its mind about a sender, or about all, in a quiet moment: what is in flight is judged one by one,
    /// and an upstream that refuses one message and takes the next has made an order of its own.
    fn mood(&mut self) {
        if !(self.pipe.is_empty() && self.out.is_empty() && self.answers.is_empty()) {
            return;
        }
        if self.throttles || self.below(4) == 0 {
            self.throttles = !self.throttles;
        }
        if self.is_fair {
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

    fn lose(&mut self) {
        if !self.linked || self.below(if self.is_fair { 9 } else { 3 }) > 0 {
            return;
        }
        // Some of what was written may have arrived, and some answers are lost.
        self.flush();
        for _ in 0..self.below(4) {
            let deadly =
                self.pipe.front().is_some_and(|written| self.messages[serial(written)].kind == Kind::Deadly);
            if !deadly && !self.pipe.is_empty() {
                let rest = self.pipe.split_off(1);
                self.upstream();
                self.pipe = rest;
            }
        }
        let reason = match self.below(2) {
            0 => ReasonCode::SERVER_SHUTTING_DOWN,
            _ => THROTTLING[self.below(THROTTLING.len())],
        };
        let ended = LinkError::Disconnected(reason);
        let by_peer = self.below(2) == 0;
        self.end(by_peer, by_peer.then_some(&ended));
    }

    /// The connection is at its end.
    fn end(&mut self, by_peer: bool, why: Option<&LinkError>) {
        self.cut();
        let (before, inflight) = (self.carrier.pressure(), self.carrier.inflight());
        let now = self.at().instant;
        self.carrier.lost(by_peer, why, now);
        if let Some(LinkError::Refused(reason) | LinkError::Disconnected(reason)) = why
            && THROTTLING.contains(reason)
        {
            let after = self.carrier.pressure();
            self.quotas.signs += 1;
            self.narrowed += after.throttles - before.throttles;
            assert!(after.throttles > 0, "{reason:?} is a sign of throttling");
            let is_new = after.throttles > before.throttles;
            let most = (inflight / 2).max(self.rules.window.0);
            assert!(!is_new || after.window <= most, "{after:?} after {inflight} in flight and {reason:?}");
        }
    }

    fn cut(&mut self) {
        self.linked = false;
        self.out.clear();
        self.pipe.clear();
        self.answers.clear();
    }

    fn look(&mut self) {
        self.carrier.invariants();
        self.check_disk();
        let window = usize::from(self.receive_max.min(8));
        assert!(self.pipe.len() + self.answers.len() <= window, "no more in flight than agreed on");
        let throttles = self.carrier.pressure().throttles;
        assert!(
            throttles <= self.quotas.signs,
            "throttled {throttles} times, after {} signs",
            self.quotas.signs
        );
        while let Some(aside) = self.carrier.next_aside() {
            let lane = LANES.iter().position(|lane| *lane == aside.lane).expect("one of them");
            let number = self.lanes[lane].places[aside.seq.get() as usize - 1];
            let is_first = self.convicted.insert((lane, self.messages[number].sender));
            let may_pass = matches!(aside.why, Refusal::Answered(reason) if MAY_PASS.contains(&reason));
            let enough = aside.attempts >= self.rules.attempts_max;
            assert!(enough || !(is_first && may_pass), "{aside:?} was not tried often enough");
            let is_blamed = matches!(aside.why, Refusal::EndsLink(Some(_)));
            assert!(!is_blamed, "{aside:?}: no end with a reason was about a message");
            self.left.insert(number);
            self.asides.push(aside);
        }
        let mut delivered = Vec::new();
        self.carrier.delivered(&mut delivered);
        for (lane, up_to) in delivered {
            let index = LANES.iter().position(|it| *it == lane).expect("one of them");
            self.check_delivered(index, up_to);
        }
        self.look_ahead();
    }

    fn check_delivered(&mut self, index: usize, up_to: Seq) {
        let lane = &self.lanes[index];
        assert!(up_to.get() > lane.reported, "positions never go back");
        for place in lane.delivered + 1..=up_to.get() {
            assert!(
                self.is_settled(index, place),
                "{place} of lane {index} counts as delivered and is nowhere"
            );
        }
        let lane = &mut self.lanes[index];
        (lane.reported, lane.delivered) = (up_to.get(), lane.delivered.max(up_to.get()));
    }

    /// A well-meaning upstream, a good network, nothing new.
    fn settle(&mut self) {
        while !(self.out.is_empty() && self.pipe.is_empty() && self.answers.is_empty()) {
            self.flush();
            self.upstream();
            self.answer();
        }
        self.blocked.clear();
        self.throttles = false;
        for _ in 0..20_000 {
            self.disk_step();
            self.tell();
            self.fill();
            self.flush();
            self.upstream();
            while !self.answers.is_empty() {
                self.answer();
            }
            self.keep();
            self.look();
            self.pass(50);
            let is_told = self.incoming.is_empty() && self.disk.is_idle();
            let is_empty = self.lanes.iter().all(|lane| lane.front.is_empty());
            if self.carrier.backlog() == 0 && is_told && is_empty {
                return self.check_end();
            }
        }
        panic!("{} messages never leave, or fronts keep some", self.carrier.backlog());
    }

    fn check_end(&self) {
        let done = |lane: &LaneWorld| lane.delivered == lane.places.len() as u64;
        assert!(self.lanes.iter().all(done), "no backlog, and not delivered");
        assert_eq!(self.carrier.senders_waiting(), 0);
        for number in &self.disk.acked {
            let is_there = self.accepted.contains(number) || self.disk.poison.contains(number);
            let is_gone = self.has_expired(*number) || self.disk.lost.contains(number);
            assert!(is_there || is_gone, "{number} was acknowledged and is lost");
        }
        for number in &self.disk.lost {
            let is_of_memory = self.messages[*number].spill == Some(SpillTicket::NOBODY);
            assert!(self.disk.lies || is_of_memory, "{number} was to be kept");
        }
    }

    fn outcome(&self) -> Outcome {
        let lanes: Vec<_> = self.lanes.iter().map(|lane| (lane.delivered, lane.last_record)).collect();
        let taken = (self.accepted.len(), self.disk.poison.len(), self.disk.acked.len());
        let is_of_memory = |number: &&usize| self.messages[**number].spill == Some(SpillTicket::NOBODY);
        let in_memory = self.disk.lost.iter().filter(is_of_memory).count() as u64;
        let pressure = self.carrier.pressure();
        Outcome {
            summary: format!("{lanes:?} {taken:?} {:?} {pressure:?} {}", self.carrier.counts(), self.now),
            written: self.disk.written,
            unwritten: self.disk.unwritten,
            told: self.disk.told,
            taken_out: self.disk.taking.records,
            lied_about: self.disk.lost.len() as u64 - in_memory,
            in_memory,
            narrowed: self.narrowed,
        }
    }
}

/// What came of a run, in numbers of messages if nothing else is said.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    summary: String,
    written: u64,
    /// Delivered out of a front, and never written.
    unwritten: u64,
    /// Expired in a front, without a reader.
    told: u64,
    /// Delivered, and taken out behind a head that waits.
    taken_out: u64,
    /// Acknowledged, and lost by a lie of the disk; of `memory` routes, and lost in a crash.
    lied_about: u64,
    in_memory: u64,
    /// Ends of connections that narrowed the window.
    narrowed: u64,
}

fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    world.outcome()
}

#[test]
fn sim_an_uplink_loses_nothing_and_keeps_the_order_of_each_sender() {
    let runs = replay("sim_an_uplink", SEEDS, run);
    let sum = |pick: fn(&Outcome) -> u64| runs.iter().map(pick).sum::<u64>();
    let (written, unwritten) = (sum(|run| run.written), sum(|run| run.unwritten));
    let (lied_about, in_memory) = (sum(|run| run.lied_about), sum(|run| run.in_memory));
    let (narrowed, told) = (sum(|run| run.narrowed), sum(|run| run.told));
    let taken_out = sum(|run| run.taken_out);
    let said = format!(
        "{written} written, {unwritten} delivered without that, {told} expired in memory, {taken_out} taken out behind heads; lost: {lied_about} by lies, {in_memory} in memory; \
         {narrowed} ends of connections that narrowed the window"
    );
    let enough = written > 5_000
        && unwritten > 1_000
        && lied_about > 100
        && in_memory > 100
        && narrowed > 100
        && told > 100
        && taken_out > 1_000;
    assert!(runs.len() < 500 || enough, "{said}");
}
