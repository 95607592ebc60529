//! A seeded simulation of one uplink: publishers, the store, a moody upstream, networks and crashes in any order.
//!
//! Which seeds run is said in `crate::tests::seeds`; a failing one prints how to run it alone.
//! The upstream refuses senders for a while, some messages for ever, dies of some, wants smaller ones, throttles by answers
//! and by ends of connections, loses what it answered. In most runs some or all messages are of a `spill` route: they stand
//! in a front (`crate::front`) as long as it takes them. The disk collects, writes, tells and looks in steps of their own,
//! everything else happens in between; groups fail, are there all the same, or find no room for a while (ENOSPC); a crash takes
//! what was only in memory, and cursors that were not written. Somebody sets the wall clock, forwards and back.
//! In some runs the disk lies: it says that groups are synced, and a crash takes them, the last ones first. What was acknowledged
//! of them is lost then, and nobody can know it: the ends of all lanes look as if it had never come. Everything else holds.
//! Held against each run, after every step: what is acknowledged is on the disk as far as that says, with the upstream,
//! expired, or safe in the poison lane, and so is every place that counts as delivered; positions never go back; paces hold by
//! the steady clock; no more in flight than both sides agreed on; only
//! what the upstream refused goes aside; a sender's messages reach the upstream in order once repeats are removed (live
//! first: between two connections); a crash leaves no hole behind the head. In the end, with a well-meaning upstream,
//! nothing is left, and everything acknowledged has arrived, has expired, or is in the poison lane.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::{Instant, LaneId, Now, Priority, Seq, ShardId, SpillTicket, Timestamp};
use wire::ReasonCode;

use super::drawn::{Kind, serial};
use super::{Written, at, connack, puback, rules, seq, setup, take_written};
use crate::front::{Front, Held, Progress, Safe};
use crate::random::Random;
use crate::tests::seeds::replay;
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
/// Most groups that a disk that lies loses.
const LIES: usize = 5;

struct Message {
    lane: usize,
    sender: usize,
    kind: Kind,
    bytes: Vec<u8>,
    expires: Option<u64>,
    /// Its number among those of `spill` routes.
    spill: Option<SpillTicket>,
}

struct LaneWorld {
    /// By place: which message stands there, in the log, in the front, or no more.
    places: Vec<usize>,
    front: Front,
    /// The place that the log gives next, and the head as the log in memory has it.
    log_end: u64,
    /// The places that have a record on the disk, the last of them, and the head as the disk has it.
    records: BTreeSet<u64>,
    last_record: u64,
    disk_head: u64,
    /// Last delivered place as reported.
    delivered: u64,
    /// In the group that is being collected, not of the front; and of the last one that failed.
    staged: Vec<usize>,
    /// What the carrier was told when a link came up.
    marks: Vec<u64>,
    known: u64,
    /// The first place that the carrier has not asked for.
    read_to: u64,
}

impl LaneWorld {
    fn new(after_millis: u64) -> LaneWorld {
        LaneWorld {
            places: Vec::new(),
            front: Front::new(Seq::FIRST, after_millis),
            log_end: 1,
            records: BTreeSet::new(),
            last_record: 0,
            disk_head: 1,
            delivered: 0,
            staged: Vec::new(),
            marks: Vec::new(),
            known: 1,
            read_to: 1,
        }
    }

    /// The end of what can be read.
    fn end(&self) -> u64 {
        if self.front.is_empty() { self.log_end } else { self.front.end().get() }
    }
}

/// What a disk has of all lanes, and of the poison lane, before a group.
struct Kept {
    /// Records, the last of them, and the head.
    lanes: Vec<(BTreeSet<u64>, u64, u64)>,
    poison: BTreeSet<usize>,
}

/// What the disk does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DiskStep {
    Collect,
    Commit,
    Tell,
    Look,
}

struct World {
    carrier: Carrier,
    rules: Rules,
    after_millis: u64,
    random: Random,
    now: u64,
    /// The clock that people set, as it is and as it was at most: what lives by it.
    wall: u64,
    wall_max: u64,
    messages: Vec<Message>,
    lanes: Vec<LaneWorld>,
    /// The disk says that groups are synced which a crash takes; what it had before them.
    lies: bool,
    kept: VecDeque<Kept>,
    /// Acknowledged, and taken by a crash all the same.
    lost: BTreeSet<usize>,
    /// When this router started, messages sent since then, and their bytes.
    started: (u64, u64, u64),
    /// Not seen by the disk, by place in `messages`.
    incoming: VecDeque<usize>,
    disk: DiskStep,
    safe: Safe,
    spilled: SpillTicket,
    /// Of three messages so many are of `spill` routes.
    spills: usize,
    /// An upstream and a network that keep up most of the time: fronts stay open.
    is_fair: bool,
    /// What the group that is collected acknowledges.
    group: Vec<usize>,
    /// Messages of `spill` routes that are not acknowledged.
    waiting: VecDeque<usize>,
    acked: BTreeSet<usize>,
    accepted: BTreeSet<usize>,
    /// Safe in the poison lane, and on the way there.
    poison: BTreeSet<usize>,
    left: BTreeSet<usize>,
    /// Written, and delivered out of a front without that.
    written: u64,
    unwritten: u64,
    /// Last message accepted of each lane, sender and part between marks.
    last: BTreeMap<(usize, usize, usize), usize>,
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
            held_max: 1 + below(40) as usize,
            senders_max: 1 + below(4) as usize,
            seed,
            ..rules()
        };
        let receive_max = 1 + below(12) as u16;
        let after_millis = [200, 2_000][below(2) as usize];
        // Where others are in between a front is closed most of the time.
        let spills = [0, 1, 3, 3, 3][below(5) as usize];
        let is_fair = below(2) == 0;
        let lies = below(4) == 0;
        let lanes = LANES.map(|_| LaneWorld::new(after_millis)).into();
        let mut world = World {
            carrier: Carrier::new(rules.clone()),
            rules,
            after_millis,
            random,
            now: 1_000,
            wall: WALL,
            wall_max: WALL,
            lies,
            kept: VecDeque::new(),
            lost: BTreeSet::new(),
            started: (0, 0, 0),
            messages: Vec::new(),
            lanes,
            incoming: VecDeque::new(),
            disk: DiskStep::Collect,
            safe: Safe::default(),
            spilled: SpillTicket(0),
            spills,
            is_fair,
            group: Vec::new(),
            waiting: VecDeque::new(),
            acked: BTreeSet::new(),
            accepted: BTreeSet::new(),
            poison: BTreeSet::new(),
            left: BTreeSet::new(),
            written: 0,
            unwritten: 0,
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

    fn at(&self) -> Now {
        Now { instant: at(self.now).instant, timestamp: Timestamp(self.wall) }
    }

    fn pass(&mut self, millis: u64) {
        self.now += millis;
        self.wall += millis;
        self.wall_max = self.wall_max.max(self.wall);
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

    fn crash(&mut self) {
        if self.lies && self.below(2) == 0 && !self.kept.is_empty() {
            let at = self.below(self.kept.len());
            let kept = self.kept.drain(at..).next().expect("looked");
            for (lane, kept) in self.lanes.iter_mut().zip(kept.lanes) {
                (lane.records, lane.last_record, lane.disk_head) = kept;
                let tail = (lane.last_record + 1).max(lane.disk_head) as usize;
                let gone = lane.places.iter().skip(tail - 1).copied();
                self.lost.extend(gone.filter(|number| self.acked.contains(number)));
            }
            self.poison = kept.poison;
        }
        self.kept.clear();
        self.start();
    }

    /// The router starts, with what the disk has.
    fn start(&mut self) {
        self.started = (self.now, 0, 0);
        self.carrier = Carrier::new(self.rules.clone());
        (self.disk, self.safe, self.spilled) = (DiskStep::Collect, Safe::default(), SpillTicket(0));
        self.incoming.clear();
        self.waiting.clear();
        self.group.clear();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let priority = Priority::new(PRIORITIES[index]).expect("one of them");
            let tail = (lane.last_record + 1).max(lane.disk_head);
            let is_whole = (lane.disk_head..=lane.last_record).all(|place| lane.records.contains(&place));
            assert!(is_whole, "a hole behind the head");
            lane.front = Front::new(seq(tail), self.after_millis);
            // Places that only memory knew are given again.
            lane.places.truncate(tail as usize - 1);
            lane.staged.clear();
            (lane.log_end, lane.delivered, lane.known, lane.read_to) = (tail, lane.disk_head - 1, tail, 1);
            self.carrier.add_lane(LANES[index], priority, seq(lane.disk_head), seq(tail));
        }
        self.asides.clear();
        self.cut();
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
        let spill = (self.below(3) < self.spills).then(|| {
            self.spilled = self.spilled.next();
            self.spilled
        });
        self.messages.push(Message { lane, sender, kind, bytes, expires, spill });
        self.waiting.extend(spill.map(|_| number));
        self.incoming.push_back(number);
    }

    fn disk_step(&mut self) {
        let step = self.disk;
        self.disk = match step {
            DiskStep::Collect => {
                self.collect();
                DiskStep::Commit
            }
            DiskStep::Commit if self.below(if self.is_fair { 40 } else { 12 }) == 0 => {
                self.fail();
                DiskStep::Look
            }
            DiskStep::Commit => {
                self.commit();
                DiskStep::Tell
            }
            DiskStep::Tell => {
                self.tell_of_group();
                DiskStep::Look
            }
            DiskStep::Look => {
                self.look_at_delivered();
                DiskStep::Collect
            }
        };
        self.lanes.iter().for_each(|lane| lane.front.invariants());
    }

    fn collect(&mut self) {
        for _ in 0..self.incoming.len().min(8) {
            let number = self.incoming.pop_front().expect("looked");
            let Message { lane, spill, .. } = self.messages[number];
            if let Some(ticket) = spill {
                self.safe.came(ticket);
                if self.hold(number, lane, ticket) {
                    continue;
                }
            }
            self.stage_front(lane, true);
            self.stage(number, lane, spill.is_some());
        }
        for lane in 0..LANES.len() {
            let now = Instant(self.now * 1_000);
            if self.lanes[lane].front.is_due(self.linked, now).is_some() {
                self.stage_front(lane, true);
            }
        }
    }

    fn hold(&mut self, number: usize, lane: usize, ticket: SpillTicket) -> bool {
        let message = &self.messages[number];
        let world = &mut self.lanes[lane];
        let progress = Progress {
            link_up: self.linked,
            read_to: seq(world.read_to),
            head: seq(world.delivered + 1),
            log_end: seq(world.log_end),
            writing: !world.staged.is_empty(),
        };
        if world.front.admits(&progress).is_err() {
            return false;
        }
        let came = (Timestamp(self.wall), message.expires.map(Timestamp));
        let since = Instant(self.now * 1_000);
        let held = Held::new(message.bytes[..].into(), came, since, (ShardId(0), ticket));
        let place = world.front.push(held, seq(world.log_end));
        assert_eq!(place.get(), world.places.len() as u64 + 1, "places are dense");
        world.places.push(number);
        true
    }

    fn stage_front(&mut self, lane: usize, close: bool) {
        let world = &mut self.lanes[lane];
        if close && !world.front.is_closed() && !world.front.is_empty() {
            world.front.close();
        }
        while let Some((place, _)) = world.front.to_stage() {
            assert_eq!(
                place.get(),
                world.log_end + world.staged.len() as u64,
                "its place is the end of the log"
            );
            world.staged.push(world.places[place.get() as usize - 1]);
            world.front.staged();
        }
    }

    /// A record that the front does not take, behind those that it has.
    fn stage(&mut self, number: usize, lane: usize, spill: bool) {
        let world = &mut self.lanes[lane];
        let place = world.log_end + world.staged.len() as u64;
        if !spill {
            world.front.passed_by(seq(place));
        }
        assert!(place >= world.front.end().get(), "no place is given twice");
        world.places.truncate(place as usize - 1); // it may come a second time
        assert_eq!(place, world.places.len() as u64 + 1, "places are dense");
        world.places.push(number);
        world.staged.push(number);
        self.group.push(number);
    }

    /// What was collected is durable, and so are the cursors as they are now.
    fn commit(&mut self) {
        let is_empty = self.lanes.iter().all(|lane| lane.staged.is_empty());
        if self.lies && !is_empty {
            let lanes = self.lanes.iter();
            let lanes = lanes.map(|lane| (lane.records.clone(), lane.last_record, lane.disk_head)).collect();
            self.kept.push_back(Kept { lanes, poison: self.poison.clone() });
            self.kept.drain(..self.kept.len().saturating_sub(LIES));
        }
        for lane in &mut self.lanes {
            self.written += lane.staged.len() as u64;
            if !lane.staged.is_empty() {
                let begin = lane.log_end;
                lane.log_end += lane.staged.len() as u64;
                lane.records.extend(begin..lane.log_end);
                lane.last_record = lane.log_end - 1;
                lane.staged.clear();
            }
            // A hole is before the head, whatever the uplink has reported and nobody has looked at.
            if !is_empty {
                lane.disk_head = lane.disk_head.max((lane.delivered + 1).min(lane.log_end));
            }
        }
    }

    /// A group fails; it is not there, or there as a whole and found by the recovery.
    fn fail(&mut self) {
        if self.below(2) == 0 {
            self.commit();
            return self.tell_of_group();
        }
        for lane in &mut self.lanes {
            lane.staged.clear();
            lane.front.start_over();
        }
        // While the disk fails, or is full, the uplink goes on, fronts say what is safe, and publishers wait.
        for _ in 0..[0, 1, 20][self.below(3)] {
            if self.below(4) == 0 && self.incoming.len() < 40 {
                self.publish();
            }
            let millis = self.random.next() % 100;
            self.pass(millis);
            self.fill();
            self.flush();
            self.upstream();
            self.answer();
            self.look();
            (0..LANES.len()).for_each(|lane| self.leave(lane));
        }
        let again = std::mem::take(&mut self.group);
        for lane in 0..LANES.len() {
            // What was delivered meanwhile keeps its places.
            self.leave(lane);
            let world = &mut self.lanes[lane];
            world.log_end = world.log_end.max(world.delivered + 1);
            self.stage_front(lane, false);
        }
        for number in again {
            let Message { lane, spill, .. } = self.messages[number];
            self.stage(number, lane, spill.is_some());
        }
        self.commit();
        self.tell_of_group();
    }

    fn tell_of_group(&mut self) {
        for lane in &mut self.lanes {
            let safe = &mut self.safe;
            lane.front.written(seq(lane.log_end), |_, held, _| safe.is_safe(held.owner.1));
        }
        for number in std::mem::take(&mut self.group) {
            match self.messages[number].spill {
                Some(ticket) => self.safe.is_safe(ticket),
                None => self.is_acknowledged(number),
            }
        }
        self.acknowledge();
    }

    fn look_at_delivered(&mut self) {
        for lane in 0..LANES.len() {
            self.leave(lane);
            let world = &mut self.lanes[lane];
            world.log_end = world.log_end.max(world.delivered + 1);
        }
    }

    fn leave(&mut self, lane: usize) {
        let world = &mut self.lanes[lane];
        let safe = &mut self.safe;
        let left = world.front.delivered(seq(world.delivered + 1), |(_, ticket)| safe.is_safe(ticket));
        self.unwritten += left.messages;
        self.acknowledge();
    }

    fn acknowledge(&mut self) {
        while let Some(number) = self.waiting.front()
            && self.messages[*number].spill <= Some(self.safe.up_to())
        {
            let number = self.waiting.pop_front().expect("looked");
            self.is_acknowledged(number);
        }
    }

    fn is_acknowledged(&mut self, number: usize) {
        let lane = &self.lanes[self.messages[number].lane];
        let place = lane.places.iter().rposition(|it| *it == number).map(|at| at as u64 + 1);
        let is_written = place.is_some_and(|place| lane.records.contains(&place));
        let is_safe = is_written || self.accepted.contains(&number) || self.poison.contains(&number);
        assert!(is_safe || self.has_expired(number), "{number} is acknowledged and nowhere");
        self.acked.insert(number);
    }

    /// The disk says how far lanes reach.
    fn tell(&mut self) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.known = lane.end();
            self.carrier.grown(LANES[index], seq(lane.known));
        }
    }

    fn fill(&mut self) {
        if !self.linked {
            return self.connect();
        }
        let now = self.at();
        while let Some(mut reading) = self.carrier.next_reading(self.out.len(), now.instant) {
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
            if message.expires.is_none_or(|at| at > self.wall) {
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
        let link = LinkSetup { keep_alive_secs: 0, ..setup(8) };
        let now = self.at();
        self.carrier.connected(link, now, &mut self.out).expect("opens");
        self.out.clear();
        let connack = connack(self.receive_max, Some(PACKET_BYTES_MAX));
        self.carrier.read(&connack, now, &mut self.out).expect("welcome");
        self.linked = true;
        self.lanes.iter_mut().for_each(|lane| lane.marks.push(lane.known));
    }

    fn flush(&mut self) {
        if !self.linked {
            return;
        }
        let written = take_written(&mut self.out);
        let (since, messages, bytes) = &mut self.started;
        *messages += written.len() as u64;
        *bytes += written.iter().map(|it| it.payload.len() as u64).sum::<u64>();
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
            let Message { kind, sender, .. } = self.messages[number];
            let reason = match (kind, self.blocked.get(&sender)) {
                (Kind::Deadly, _) => {
                    let all_written = self.out.is_empty();
                    self.cut();
                    return self.carrier.lost(all_written, None, self.at().instant);
                }
                (Kind::Large | Kind::Junk, _) => panic!("{kind:?} was sent"),
                (_, Some(reason)) => *reason,
                (Kind::Forbidden, None) => ReasonCode::NOT_AUTHORIZED,
                (Kind::Invalid, None) => ReasonCode::TOPIC_NAME_INVALID,
                (Kind::Fine, None) => {
                    self.accept(number);
                    ReasonCode::SUCCESS
                }
            };
            self.answers.push_back((written.id, reason));
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
        let part = world.marks.iter().filter(|mark| self.rules.live_first && **mark <= place).count();
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
        let now = self.at();
        self.carrier.read(&bytes, now, &mut self.out).expect("only answers");
    }

    /// The upstream changes its mind about a sender, in a quiet moment: what is in flight is judged one by one, and an
    /// upstream that refuses one message and takes the next has made an order of its own.
    fn mood(&mut self) {
        if !(self.pipe.is_empty() && self.out.is_empty() && self.answers.is_empty()) || self.is_fair {
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

    /// The disk: positions of what is in the log, and what moves aside.
    fn keep(&mut self) {
        for lane in &mut self.lanes {
            lane.disk_head = lane.disk_head.max((lane.delivered + 1).min(lane.last_record + 1));
        }
        if self.asides.is_empty() {
            return;
        }
        let index = self.below(self.asides.len());
        let aside = self.asides.swap_remove(index);
        let lane = LANES.iter().position(|lane| *lane == aside.lane).expect("one of them");
        let number = self.lanes[lane].places[aside.seq.get() as usize - 1];
        let message = &self.messages[number];
        let is_fair = message.kind != Kind::Fine || self.suspects.contains(&message.sender);
        assert!(is_fair, "{aside:?} went aside, and nobody refused it");
        self.poison.insert(number);
        self.carrier.is_aside(aside.lane, aside.seq);
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
        let reasons = [
            ReasonCode::SERVER_SHUTTING_DOWN,
            ReasonCode::SERVER_BUSY,
            ReasonCode::QUOTA_EXCEEDED,
            ReasonCode::MESSAGE_RATE_TOO_HIGH,
        ];
        let ended = LinkError::Disconnected(reasons[self.below(reasons.len())]);
        let by_peer = self.below(2) == 0;
        self.cut();
        self.carrier.lost(by_peer, by_peer.then_some(&ended), self.at().instant);
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
            self.left.insert(self.lanes[lane].places[aside.seq.get() as usize - 1]);
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
        let (lane, messages) = (&mut self.lanes[index], &self.messages);
        assert!(up_to.get() > lane.delivered, "positions never go back");
        for place in lane.delivered + 1..=up_to.get() {
            let number = lane.places[place as usize - 1];
            let is_done = self.accepted.contains(&number)
                || self.poison.contains(&number)
                || messages[number].expires.is_some_and(|at| at <= self.wall_max);
            assert!(is_done, "{place} of lane {index} counts as delivered and is nowhere");
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
            let is_told = self.incoming.is_empty() && self.disk == DiskStep::Collect;
            if self.carrier.backlog() == 0 && is_told && self.waiting.is_empty() {
                let done = |lane: &LaneWorld| lane.delivered == lane.places.len() as u64;
                assert!(self.lanes.iter().all(done), "no backlog, and not delivered");
                assert!(self.lanes.iter().all(|lane| lane.front.is_empty()), "nothing stays in a front");
                assert_eq!(self.carrier.senders_waiting(), 0);
                for number in &self.acked {
                    let is_there = self.accepted.contains(number) || self.poison.contains(number);
                    let is_gone = self.has_expired(*number) || self.lost.contains(number);
                    assert!(is_there || is_gone, "{number} was acknowledged and is lost");
                }
                return;
            }
        }
        panic!("{} messages never leave", self.carrier.backlog());
    }

    fn summary(&self) -> String {
        let lanes: Vec<_> = self.lanes.iter().map(|lane| (lane.delivered, lane.last_record)).collect();
        let taken = (self.accepted.len(), self.poison.len(), self.acked.len());
        format!(
            "{lanes:?} {taken:?} {} {} {:?} {}",
            self.written,
            self.unwritten,
            self.carrier.counts(),
            self.now
        )
    }
}

/// What came of it, and how many messages were written, delivered unwritten, and lost by lies.
fn run(seed: u64) -> (String, u64, u64, u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    (world.summary(), world.written, world.unwritten, world.lost.len() as u64)
}

#[test]
fn sim_an_uplink_loses_nothing_and_keeps_the_order_of_each_sender() {
    let runs = replay("sim_an_uplink", SEEDS, run);
    let sum = |pick: fn(&(String, u64, u64, u64)) -> u64| runs.iter().map(pick).sum::<u64>();
    let (written, unwritten, lost) = (sum(|run| run.1), sum(|run| run.2), sum(|run| run.3));
    let enough = written > 5_000 && unwritten > 1_000 && lost > 100;
    assert!(
        runs.len() < 100 || enough,
        "{written} messages were written, {unwritten} delivered without that, {lost} lost by lies"
    );
}
