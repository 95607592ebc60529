//! The disk of the simulation of an uplink: fronts, trays, groups, and what is left when the power goes.
//!
//! In: messages as they come, how far the uplink is. Out: what is acknowledged, what can be read, what the next start finds.
//! It plays the part of `router/src/disk.rs` and `disk/fronts.rs`: what a front takes stands there at once, also while groups
//! fail; everything else waits in order until a group has it. Acknowledged is: of a `disk` route what is in a group that the
//! disk called synced, of a `spill` route that or what the upstream has, of a `memory` route everything at once.

use std::collections::{BTreeSet, VecDeque};

use model::{Instant, Priority, Seq, ShardId, SpillTicket, Timestamp};

use super::ahead::{Taken, Taking};
use super::{LANES, Message, PRIORITIES, Quotas, World};
use crate::front::{Front, HELD_OVERHEAD_BYTES, Held, Progress, Safe};
use crate::uplink::Carrier;
use crate::uplink::tests::drawn::Kind;
use crate::uplink::tests::seq;

/// Most groups that a disk that lies loses.
const LIES: usize = 5;
/// Most records of trays in one group.
const GROUP: usize = 8;
/// Records of a front that one look for what has expired looks at.
const EXPIRED_LOOK: usize = 3;

pub(super) struct LaneWorld {
    /// By place: which message stands there, in the log, in the front, or no more.
    pub(super) places: Vec<usize>,
    pub(super) front: Front,
    /// Closed until the places before this one are delivered; 0 once a record of a `memory` route has opened it.
    closed_until: u64,
    /// The place that the log gives next, and the head as the log in memory has it.
    pub(super) log_end: u64,
    /// The places that have a record on the disk, the last of them, and the head as the disk has it.
    records: BTreeSet<u64>,
    pub(super) last_record: u64,
    disk_head: u64,
    /// Last delivered place as reported, and the same with what expired behind it.
    pub(super) reported: u64,
    pub(super) delivered: u64,
    /// What is taken out behind the head.
    pub(super) taken: Taken,
    /// In the group that is being collected.
    staged: Vec<usize>,
    /// What the carrier was told when a link came up.
    pub(super) marks: Vec<u64>,
    pub(super) known: u64,
    /// The first place that the carrier has not asked for.
    pub(super) read_to: u64,
}

impl LaneWorld {
    fn new(after_millis: u64) -> LaneWorld {
        LaneWorld {
            places: Vec::new(),
            front: Front::new(Seq::FIRST, after_millis),
            closed_until: 1,
            log_end: 1,
            records: BTreeSet::new(),
            last_record: 0,
            disk_head: 1,
            reported: 0,
            delivered: 0,
            taken: Taken::default(),
            staged: Vec::new(),
            marks: Vec::new(),
            known: 1,
            read_to: 1,
        }
    }

    fn close(&mut self) {
        self.front.close();
        self.closed_until = self.front.end().get();
    }

    /// The end of what can be read.
    pub(super) fn end(&self) -> u64 {
        if self.front.is_empty() { self.log_end } else { self.front.end().get() }
    }

    /// The end of what a start finds.
    fn disk_end(&self) -> u64 {
        (self.last_record + 1).max(self.disk_head)
    }

    fn has_record(&self, number: usize) -> bool {
        let place = self.places.iter().rposition(|it| *it == number);
        let place = place.map(|at| at as u64 + 1);
        place.is_some_and(|place| self.records.contains(&place) && !self.taken.is_husk(place))
    }
}

/// What a disk has of all lanes, and of the poison lane, before a group.
struct Kept {
    /// Records, the last of them, the head, and what was taken out.
    lanes: Vec<(BTreeSet<u64>, u64, u64, Taken)>,
    poison: BTreeSet<usize>,
}

/// What the disk does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskStep {
    Collect,
    Commit,
    Tell,
    Look,
}

pub(super) struct Disk {
    pub(super) next: DiskStep,
    after_millis: u64,
    /// Fronts hold so many bytes at most.
    front_bytes_max: u64,
    /// It says that groups are synced which a crash takes; what it had before them.
    pub(super) lies: bool,
    kept: VecDeque<Kept>,
    safe: Safe,
    spilled: SpillTicket,
    /// What no front took and no group has, in order, and how many of the first are in the group that is collected.
    trays: VecDeque<usize>,
    in_group: usize,
    /// Messages of `spill` routes that are not acknowledged.
    pub(super) waiting: VecDeque<usize>,
    pub(super) acked: BTreeSet<usize>,
    /// Acknowledged, and taken by a crash all the same.
    pub(super) lost: BTreeSet<usize>,
    /// Safe in the poison lane.
    pub(super) poison: BTreeSet<usize>,
    /// Written, and delivered out of a front without that.
    pub(super) written: u64,
    pub(super) unwritten: u64,
    /// Expired in a front, and left it without a reader.
    pub(super) told: u64,
    pub(super) taking: Taking,
}

impl Disk {
    pub(super) fn new(after_millis: u64, front_bytes_max: u64, lies: bool, seed: u64) -> Disk {
        Disk {
            next: DiskStep::Collect,
            after_millis,
            front_bytes_max,
            lies,
            kept: VecDeque::new(),
            safe: Safe::default(),
            spilled: SpillTicket(0),
            trays: VecDeque::new(),
            in_group: 0,
            waiting: VecDeque::new(),
            acked: BTreeSet::new(),
            lost: BTreeSet::new(),
            poison: BTreeSet::new(),
            written: 0,
            unwritten: 0,
            told: 0,
            taking: Taking::new(seed),
        }
    }

    pub(super) fn lanes(&self) -> Vec<LaneWorld> {
        LANES.map(|_| LaneWorld::new(self.after_millis)).into()
    }

    /// The number of the next message of a `spill` route.
    pub(super) fn spill(&mut self) -> SpillTicket {
        self.spilled = self.spilled.next();
        self.spilled
    }

    fn has_nothing_to_do(&self) -> bool {
        self.next == DiskStep::Collect && self.trays.is_empty()
    }

    /// Nor does anybody wait for it.
    pub(super) fn is_idle(&self) -> bool {
        self.has_nothing_to_do() && self.waiting.is_empty()
    }
}

/// Starts and their opposites.
impl World {
    /// The power goes, or the process is killed. A disk that lied about syncs has a beginning of what it should have.
    pub(super) fn crash(&mut self) {
        if self.disk.lies && self.below(2) == 0 && !self.disk.kept.is_empty() {
            let at = self.below(self.disk.kept.len());
            let kept = self.disk.kept.drain(at..).next().expect("looked");
            for (lane, kept) in self.lanes.iter_mut().zip(kept.lanes) {
                (lane.records, lane.last_record, lane.disk_head, lane.taken) = kept;
                let gone = lane.places.iter().copied().skip(lane.disk_end() as usize - 1);
                let acked = &self.disk.acked;
                self.disk.lost.extend(gone.filter(|number| acked.contains(number)));
            }
            self.disk.poison = kept.poison;
        }
        // What nobody promised to keep.
        for number in self.disk.acked.difference(&self.disk.lost).copied().collect::<Vec<_>>() {
            let is_of_memory = self.messages[number].spill == Some(SpillTicket::NOBODY);
            if is_of_memory && !self.is_somewhere(number) {
                self.disk.lost.insert(number);
            }
        }
        self.start();
    }

    /// The router stops, on a disk that takes everything: what is still in memory is written.
    pub(super) fn stop(&mut self) {
        while !(self.incoming.is_empty() && self.disk.has_nothing_to_do()) {
            self.disk_step();
            self.look();
        }
        self.look_at_delivered();
        self.lanes.iter_mut().for_each(LaneWorld::close);
        self.collect();
        self.commit();
        self.tell_of_group();
        let is_there = |number: &usize| self.disk.lost.contains(number) || self.is_somewhere(*number);
        assert!(self.disk.acked.iter().all(is_there), "a stop loses nothing, not even of memory routes");
        self.start();
    }

    /// The router starts, with what the disk has.
    pub(super) fn start(&mut self) {
        self.started = (self.now, 0, 0);
        self.carrier = Carrier::new(self.rules.clone());
        self.quotas = Quotas::default();
        let disk = &mut self.disk;
        (disk.next, disk.safe, disk.spilled) = (DiskStep::Collect, Safe::default(), SpillTicket(0));
        (disk.in_group, disk.kept) = (0, VecDeque::new());
        disk.waiting.clear();
        disk.trays.clear();
        self.incoming.clear();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let priority = Priority::new(PRIORITIES[index]).expect("one of them");
            let tail = lane.disk_end();
            let is_whole = (lane.disk_head..=lane.last_record).all(|place| lane.records.contains(&place));
            assert!(is_whole, "a hole behind the head");
            lane.front = Front::new(seq(tail), self.disk.after_millis);
            lane.closed_until = tail;
            // Places that only memory knew are given again.
            lane.places.truncate(tail as usize - 1);
            lane.staged.clear();
            lane.taken.start();
            (lane.log_end, lane.delivered, lane.known, lane.read_to) = (tail, lane.disk_head - 1, tail, 1);
            lane.reported = lane.delivered;
            self.carrier.add_lane(LANES[index], priority, seq(lane.disk_head), seq(tail));
        }
        self.drains.tell(&mut self.carrier);
        self.asides.clear();
        self.cut();
    }

    /// On the disk as far as that says, with the upstream, in the poison lane, or expired.
    pub(super) fn is_somewhere(&self, number: usize) -> bool {
        let is_taken = self.accepted.contains(&number) || self.disk.poison.contains(&number);
        is_taken || self.has_expired(number) || self.lanes[self.messages[number].lane].has_record(number)
    }
}

/// What the disk thread does.
impl World {
    pub(super) fn disk_step(&mut self) {
        let step = self.disk.next;
        self.disk.next = match step {
            DiskStep::Collect => {
                self.take_in();
                self.collect();
                DiskStep::Commit
            }
            DiskStep::Commit if self.below(if self.is_fair { 40 } else { 12 }) == 0 => self.fail(),
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
                self.expire();
                self.take_out();
                DiskStep::Collect
            }
        };
    }

    /// What fronts take goes there, the rest behind what waits.
    fn take_in(&mut self) {
        for _ in 0..self.incoming.len().min(8) {
            let number = self.incoming.pop_front().expect("looked");
            let Message { lane, spill, .. } = self.messages[number];
            if let Some(ticket) = spill {
                self.disk.safe.came(ticket);
                if self.hold(number, lane, ticket) {
                    continue;
                }
            }
            self.disk.trays.push_back(number);
        }
    }

    fn hold(&mut self, number: usize, lane: usize, ticket: SpillTicket) -> bool {
        let writing = self.disk.trays.iter().any(|it| self.messages[*it].lane == lane);
        let world = &mut self.lanes[lane];
        let progress = Progress {
            link_up: self.linked,
            read_to: seq(world.read_to),
            head: seq(world.delivered + 1),
            log_end: seq(world.log_end),
            writing,
        };
        let is_on_its_way = world.front.is_closed() && !world.front.is_empty();
        let admitted = match ticket {
            SpillTicket::NOBODY => world.front.admits_for_nobody(&progress),
            _ => world.front.admits(&progress),
        };
        if !self.linked && ticket != SpillTicket::NOBODY {
            world.closed_until = world.front.end().get().max(world.log_end);
        }
        if admitted.is_ok() && ticket == SpillTicket::NOBODY {
            world.closed_until = 0; // whether there is memory for it or not
        }
        if admitted.is_err() || !self.has_memory(self.messages[number].bytes.len() as u64) {
            return false;
        }
        let (message, world) = (&self.messages[number], &mut self.lanes[lane]);
        assert!(!is_on_its_way, "a front is open before what closed it is written");
        assert!(world.delivered + 1 >= world.closed_until, "a front is open behind what was written past it");
        let came = (Timestamp(self.wall), message.expires.map(Timestamp));
        let since = Instant(self.now * 1_000);
        let held = Held::new(message.bytes[..].into(), came, since, (ShardId(0), ticket));
        let place = world.front.push(held, seq(world.log_end));
        assert_eq!(place.get(), world.places.len() as u64 + 1, "places are dense");
        world.places.push(number);
        true
    }

    /// Whether there is memory for a record; if not, the largest front goes to the disk.
    fn has_memory(&mut self, bytes: u64) -> bool {
        let has = self.front_bytes() + bytes + HELD_OVERHEAD_BYTES <= self.disk.front_bytes_max;
        let largest = self.lanes.iter_mut().max_by_key(|lane| lane.front.bytes()).expect("there are some");
        if !has && !largest.front.is_closed() {
            largest.close();
        }
        has
    }

    fn front_bytes(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.front.bytes()).sum()
    }

    /// A group: what waits, behind what fronts have of those lanes, and what fronts must give now.
    fn collect(&mut self) {
        for at in self.disk.in_group..self.disk.trays.len().min(GROUP) {
            let number = self.disk.trays[at];
            let Message { lane, spill, .. } = self.messages[number];
            let world = &mut self.lanes[lane];
            if !world.front.is_closed() && !world.front.is_empty() {
                world.close();
            }
            self.stage_front(lane);
            self.stage(number, lane, spill.is_some());
        }
        for lane in 0..LANES.len() {
            let now = Instant(self.now * 1_000);
            let world = &mut self.lanes[lane];
            if world.front.is_due(self.linked, now).is_some() {
                world.close();
            }
            self.stage_front(lane);
        }
    }

    fn stage_front(&mut self, lane: usize) {
        let world = &mut self.lanes[lane];
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
            world.closed_until = place + 1;
        }
        assert!(place >= world.front.end().get(), "no place is given twice");
        world.places.truncate(place as usize - 1); // it may come a second time
        assert_eq!(place, world.places.len() as u64 + 1, "places are dense");
        world.places.push(number);
        world.staged.push(number);
        self.disk.in_group += 1;
    }

    /// What was collected is durable, and so are the cursors as they are now.
    fn commit(&mut self) {
        let is_empty = |lane: &LaneWorld| lane.staged.is_empty() && !lane.taken.is_coming();
        let is_empty = self.lanes.iter().all(is_empty);
        if self.disk.lies && !is_empty {
            let lanes = self.lanes.iter();
            let of = |lane: &LaneWorld| {
                (lane.records.clone(), lane.last_record, lane.disk_head, lane.taken.clone())
            };
            let lanes = lanes.map(of).collect();
            self.disk.kept.push_back(Kept { lanes, poison: self.disk.poison.clone() });
            self.disk.kept.drain(..self.disk.kept.len().saturating_sub(LIES));
        }
        for lane in &mut self.lanes {
            self.disk.written += lane.staged.len() as u64;
            if !lane.staged.is_empty() {
                let begin = lane.log_end;
                lane.log_end += lane.staged.len() as u64;
                lane.records.extend(begin..lane.log_end);
                lane.taken.written(begin, lane.log_end);
                lane.last_record = lane.log_end - 1;
                lane.staged.clear();
            }
            // A hole is before the head, whatever the uplink has reported and nobody has looked at.
            if !is_empty {
                lane.disk_head = lane.disk_head.max((lane.delivered + 1).min(lane.log_end));
            }
        }
        self.is_taken_out();
    }

    /// A group fails; it is there as a whole and found by the recovery, or it is not, and is collected anew once the disk
    /// takes writes again: at once, or after a while without room.
    fn fail(&mut self) -> DiskStep {
        if self.below(2) == 0 {
            self.commit();
            return DiskStep::Tell;
        }
        for lane in &mut self.lanes {
            lane.staged.clear();
            lane.taken.failed();
            lane.front.start_over();
        }
        self.disk.in_group = 0;
        // Meanwhile publishers and the uplink go on, fronts take records and say what is safe.
        for _ in 0..[0, 1, 20][self.below(3)] {
            if self.below(4) == 0 && self.incoming.len() < 40 {
                self.publish();
            }
            let millis = self.random.next() % 100;
            self.pass(millis);
            self.take_in();
            self.tell();
            self.fill();
            self.flush();
            self.upstream();
            self.answer();
            self.look();
            (0..LANES.len()).for_each(|lane| self.leave(lane));
        }
        self.look_at_delivered();
        DiskStep::Collect
    }

    fn tell_of_group(&mut self) {
        let safe = &mut self.disk.safe;
        for lane in &mut self.lanes {
            lane.front.written(seq(lane.log_end), |_, held, _| safe.is_safe(held.owner.1));
        }
        for number in self.disk.trays.drain(..std::mem::take(&mut self.disk.in_group)).collect::<Vec<_>>() {
            match self.messages[number].spill {
                Some(ticket) => self.disk.safe.is_safe(ticket),
                None => self.acknowledge(number),
            }
        }
        self.acknowledge_spilled();
    }

    /// Places that were delivered and never written are passed over.
    fn look_at_delivered(&mut self) {
        for lane in 0..LANES.len() {
            self.leave(lane);
            let world = &mut self.lanes[lane];
            world.log_end = world.log_end.max(world.delivered + 1);
        }
    }

    /// What has expired in fronts leaves them, a few records at a time, and its places where nothing is before them.
    fn expire(&mut self) {
        for lane in 0..LANES.len() {
            let world = &mut self.lanes[lane];
            let from = if self.linked { seq(world.read_to) } else { world.front.first() };
            let (first, mut told) = (world.front.first(), 0);
            world.front.expire(Timestamp(self.wall), from, EXPIRED_LOOK, |_| told += 1);
            self.disk.told += told;
            for at in first.get()..world.front.end().get() {
                let message = &mut self.messages[world.places[at as usize - 1]];
                if world.front.is_told(seq(at)) {
                    assert!(message.expires.is_some_and(|at| at <= self.wall_max), "it has not expired");
                    // Nobody gets it any more, whatever the clock says.
                    message.expires = Some(0);
                }
            }
            if world.delivered + 1 == first.get() {
                world.delivered = world.front.told_to().get() - 1;
                world.log_end = world.log_end.max(world.delivered + 1);
                self.leave(lane);
            }
        }
    }

    fn leave(&mut self, lane: usize) {
        let world = &mut self.lanes[lane];
        let safe = &mut self.disk.safe;
        let left = world.front.delivered(seq(world.delivered + 1), |(_, ticket)| safe.is_safe(ticket));
        self.disk.unwritten += left.messages;
        self.acknowledge_spilled();
    }

    fn acknowledge_spilled(&mut self) {
        while let Some(number) = self.disk.waiting.front()
            && self.messages[*number].spill <= Some(self.disk.safe.up_to())
        {
            let number = self.disk.waiting.pop_front().expect("looked");
            self.acknowledge(number);
        }
    }

    fn acknowledge(&mut self, number: usize) {
        assert!(self.is_somewhere(number), "{number} is acknowledged and nowhere");
        self.disk.acked.insert(number);
    }

    /// Positions of what is in the log, and what moves aside.
    pub(super) fn keep(&mut self) {
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
        self.disk.poison.insert(number);
        self.carrier.is_aside(aside.lane, aside.seq);
    }

    pub(super) fn check_disk(&self) {
        self.lanes.iter().for_each(|lane| lane.front.invariants());
        assert!(self.front_bytes() <= self.disk.front_bytes_max, "{} bytes in fronts", self.front_bytes());
    }
}
