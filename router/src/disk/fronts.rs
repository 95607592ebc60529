//! The disk thread's part in `spill` and `memory` routes: which records stay in memory, which are written and when, who hears of it.
//!
//! In: trays, how far uplinks are, the time. Out: records for the group that is collected, places that are passed over,
//! the second watermark of each shard.
//! A record that a front takes leaves its tray at once; all others stay there and are written as ever. The two never
//! mix in a lane: as long as a record of a lane is on its way to the disk, its front takes none, and before one is put
//! into a group, all that stands in front of it is.
//! While the store takes no writes, fronts take records and give them to uplinks as before; what would have to be written waits
//! in its tray. Places are passed over in the log only when it works: what is on the disk must tell whether a group is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use broker::front::{Ended, Front, Held, Safe, Why};
use broker::{AppendTray, Write};
use model::{Instant, LaneId, Seq, ShardId, SpillTicket};
use store::{CommitLog as _, StoreError};
use tracing::{error, warn};

use super::Disk;
use super::losses::Reason;
use super::whose::Parts;
use crate::fronts::{FrontBoard, LaneFront};

/// Records in fronts that one look for what has expired looks at.
const EXPIRED_LOOK_RECORDS: usize = 16_384;

/// What the disk thread knows of fronts.
pub(super) struct DiskFronts {
    board: Arc<FrontBoard>,
    bytes_max: u64,
    /// By shard.
    safe: Vec<Safe>,
    /// A record of a `spill` route has come since the start. Before, nothing here costs anything.
    used: bool,
    /// Trays put behind the others so far, and those of them that are durable.
    trays: u64,
    confirmed: u64,
    lanes: Vec<DiskLane>,
    /// Sum of `DiskLane::bytes`.
    bytes: u64,
    /// Lanes whose front got something that their uplink was not told of; each once.
    grown: Vec<LaneId>,
    /// With which lane the next look for what has expired begins.
    expire_from: usize,
}

#[derive(Clone, Debug)]
struct DiskLane {
    /// The last tray that has a record of it which is to be written.
    writing: u64,
    /// The head that was looked at last.
    seen: Seq,
    bytes: u64,
}

impl DiskFronts {
    pub(super) fn new(board: Arc<FrontBoard>, bytes_max: u64, shards: usize) -> DiskFronts {
        let lane = |lane: &LaneFront| DiskLane { writing: 0, seen: lane.head(), bytes: 0 };
        DiskFronts {
            bytes_max,
            safe: (0..shards).map(|_| Safe::default()).collect(),
            used: false,
            trays: 0,
            confirmed: 0,
            lanes: board.lanes().iter().map(lane).collect(),
            bytes: 0,
            grown: Vec::new(),
            expire_from: 0,
            board,
        }
    }

    /// Records of this shard's `spill` routes are safe up to here.
    pub(super) fn safe(&self, shard: usize) -> SpillTicket {
        self.safe[shard].up_to()
    }

    /// A tray is durable, with these records of `spill` routes in it.
    pub(super) fn confirmed(&mut self, shard: ShardId, spills: &[SpillTicket]) {
        self.confirmed += 1;
        spills.iter().for_each(|ticket| self.safe[usize::from(shard.0)].is_safe(*ticket));
    }

    /// The front of a lane that can have one, if any has been used.
    fn index(&self, lane: LaneId) -> Option<usize> {
        if self.used { self.board.index(lane) } else { None }
    }

    fn count_bytes(&mut self, index: usize) {
        let now = self.board.lanes()[index].front().bytes();
        self.bytes = self.bytes - self.lanes[index].bytes + now;
        self.lanes[index].bytes = now;
    }

    /// How long until a record will have been in memory for too long.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        if self.bytes == 0 {
            return None;
        }
        let due = self.board.lanes().iter().filter_map(|lane| lane.front().due_at()).min()?;
        Some(Duration::from_micros(due.0.saturating_sub(now.0)))
    }

    /// The lane that can give back most memory.
    fn largest(&self) -> Option<usize> {
        (0..self.lanes.len()).max_by_key(|index| self.lanes[*index].bytes)
    }

    /// By uplink: whether its fronts take what comes, while the store takes nothing.
    pub(super) fn holding(&self, uplinks: usize) -> Box<[bool]> {
        let mut holding: Box<[bool]> = (0..uplinks).map(|_| self.bytes < self.bytes_max).collect();
        for lane in self.board.lanes() {
            let front = lane.front();
            let takes =
                lane.link_up() && (!front.is_closed() || front.is_empty() && lane.head() >= front.end());
            if let Some(uplink) = holding.get_mut(lane.uplink) {
                *uplink &= takes;
            }
        }
        holding
    }
}

impl Disk {
    /// Takes what a shard appended: what fronts take goes there, the rest behind the trays that wait.
    pub(super) fn take_in(&mut self, shard: ShardId, tray: AppendTray) {
        if tray.spills > 0 && !self.fronts.used {
            self.fronts.used = true;
            // Nobody has noted so far which lanes are being written.
            for (number, tray) in (self.fronts.confirmed + 1..).zip(self.unconfirmed.trays()) {
                tray.writes.iter().for_each(|write| self.fronts.note_written(write, number));
            }
        }
        let number = self.fronts.trays + 1;
        let (tray, spills) = match (self.fronts.used, tray.spills) {
            (false, _) => (tray, Vec::new()),
            (true, 0) => {
                tray.writes.iter().for_each(|write| self.fronts.note_written(write, number));
                (tray, Vec::new())
            }
            (true, _) => self.sort(shard, tray, number),
        };
        self.fronts.trays = number;
        self.unconfirmed.push(shard, tray, spills);
    }

    /// Puts into fronts what they take; gives the rest, and the numbers of the `spill` records in it.
    fn sort(&mut self, shard: ShardId, tray: AppendTray, number: u64) -> (AppendTray, Vec<SpillTicket>) {
        let AppendTray { bytes, writes, last, .. } = tray;
        let mut rest = AppendTray { last, ..AppendTray::default() };
        let mut spills = Vec::new();
        let (mut at, mut held_bytes) = (0, 0);
        let now = self.clock.now().instant;
        for write in writes {
            let part = &bytes[at..at + super::unconfirmed::bytes_of(&write)];
            at += part.len();
            if let Write::Record { spill, .. } = write
                && spill != SpillTicket(0)
            {
                self.fronts.safe[usize::from(shard.0)].came(spill);
                if self.hold(shard, &write, part, now) {
                    held_bytes += part.len() as u64;
                    continue;
                }
                spills.push(spill);
            }
            self.fronts.note_written(&write, number);
            rest.bytes.extend_from_slice(part);
            rest.writes.push(write);
        }
        // They are not waiting for the disk.
        self.durable[usize::from(shard.0)].1 += held_bytes;
        (rest, spills)
    }

    /// Puts a record into the front of its lane, if that takes it.
    fn hold(&mut self, shard: ShardId, write: &Write, bytes: &[u8], now: Instant) -> bool {
        let Write::Record { lane, enqueued, expires, spill, .. } = *write else { return false };
        let board = Arc::clone(&self.fronts.board);
        let (Some(index), Ok(log_end)) = (self.fronts.index(lane), self.log.end_of(lane)) else {
            return false;
        };
        let about = &board.lanes()[index];
        let writing = self.fronts.lanes[index].writing > self.fronts.confirmed;
        let progress = about.progress(log_end, writing);
        let admitted = match spill {
            SpillTicket::NOBODY => about.front().admits_for_nobody(&progress),
            _ => about.front().admits(&progress),
        };
        let admitted = admitted.and_then(|()| self.make_memory(index, bytes.len() as u64));
        if let Err(why) = admitted {
            board.count_written(why, 1);
            return false;
        }
        let held = Held::new(bytes.into(), (enqueued, expires), now, (shard, spill));
        about.front().push(held, log_end);
        self.fronts.count_bytes(index);
        self.space.held(lane, bytes.len() as u64);
        if !self.fronts.grown.contains(&lane) {
            self.fronts.grown.push(lane);
        }
        true
    }

    /// Keeps `limits.spill_bytes_max`: the largest front is written if need be. Fails if the next record of `index` is to be
    /// written, too.
    fn make_memory(&mut self, index: usize, bytes: u64) -> Result<(), Why> {
        let wanted = bytes + broker::front::HELD_OVERHEAD_BYTES;
        if wanted > self.fronts.bytes_max {
            return Err(Why::Full);
        }
        if self.fronts.bytes + wanted <= self.fronts.bytes_max {
            return Ok(());
        }
        if let Some(largest) = self.fronts.largest() {
            self.close_front(largest, Why::Full);
            if !self.is_poisoned()
                && let Err(error) = self.stage_closed(largest).and_then(|()| self.write_group())
            {
                self.poison(&error);
            }
        }
        let is_open = !self.fronts.board.lanes()[index].front().is_closed();
        let fits = self.fronts.bytes + wanted <= self.fronts.bytes_max;
        if is_open && fits { Ok(()) } else { Err(Why::Full) }
    }

    /// Uplinks hear of what fronts got, before anybody waits for the disk.
    pub(super) fn ring_for_fronts(&mut self) {
        self.fronts.grown.drain(..).for_each(|lane| self.tails.ring(lane));
    }

    /// Lets a front take no more, until what is in it is written and delivered.
    fn close_front(&mut self, index: usize, why: Why) {
        let board = &self.fronts.board;
        let mut front = board.lanes()[index].front();
        if !front.is_closed() {
            front.close();
            board.count_written(why, front.messages() as u64);
        }
    }

    /// Puts what must be written into the group, and writes the group where it has no room.
    pub(super) fn stage_due_fronts(&mut self) -> Result<(), StoreError> {
        if !self.fronts.used {
            return Ok(());
        }
        let now = self.clock.now().instant;
        for index in 0..self.fronts.lanes.len() {
            let lane = &self.fronts.board.lanes()[index];
            let due = lane.front().is_due(lane.link_up(), now);
            if let Some(why) = due {
                self.close_front(index, why);
            }
            if !self.is_poisoned() {
                self.stage_closed(index)?;
            }
        }
        Ok(())
    }

    /// Before a record of this lane goes into the group: everything in front of it.
    pub(super) fn stage_front_of(&mut self, lane: LaneId) -> Result<(), StoreError> {
        let Some(index) = self.fronts.index(lane) else { return Ok(()) };
        if self.fronts.lanes[index].bytes == 0 {
            return Ok(());
        }
        self.close_front(index, Why::Order);
        self.stage_closed(index)
    }

    /// A record of this lane went into the group, with no front in between.
    pub(super) fn passed_by(&self, lane: LaneId, seq: Seq) {
        if let Some(index) = self.fronts.index(lane) {
            self.fronts.board.lanes()[index].front().passed_by(seq);
        }
    }

    fn stage_closed(&mut self, index: usize) -> Result<(), StoreError> {
        if self.fronts.lanes[index].bytes == 0 {
            return Ok(());
        }
        let board = Arc::clone(&self.fronts.board);
        let about = &board.lanes()[index];
        loop {
            let full = {
                let mut front = about.front();
                let Some((seq, held)) = front.to_stage() else { return Ok(()) };
                match self.log.append(about.lane, &[&held.bytes], held.enqueued, held.expires) {
                    Ok(given) => {
                        assert_eq!(given, seq, "what is in front of the log has the places behind it");
                        self.group_first = self.group_first.or(Some((about.lane, seq)));
                        front.staged();
                        false
                    }
                    Err(StoreError::CommitFull { .. }) => true,
                    Err(error) => return Err(error),
                }
            };
            if full {
                self.write_group()?;
            }
        }
    }

    /// A group is durable: what it had of fronts leaves them.
    pub(super) fn group_left_fronts(&mut self) {
        if !self.fronts.used {
            return;
        }
        let board = Arc::clone(&self.fronts.board);
        for (index, lane) in board.lanes().iter().enumerate() {
            let Ok(log_end) = self.log.end_of(lane.lane) else { continue };
            let (safe, log) = (&mut self.fronts.safe, &self.log);
            lane.front().written(log_end, |seq, held, ended| {
                let (shard, ticket) = held.owner;
                safe[usize::from(shard.0)].is_safe(ticket);
                let bytes = (held.bytes.len() + store::RECORD_OVERHEAD_BYTES) as u64;
                match ended {
                    // What was told is written so that the store knows it.
                    Ended::No | Ended::Told => {}
                    Ended::Passed => log.reader().note_expired(lane.lane, seq, bytes),
                }
            });
            self.fronts.count_bytes(index);
        }
    }

    /// A group came to nothing: what it had of fronts is still there.
    pub(super) fn group_failed_fronts(&self) {
        self.fronts.board.lanes().iter().for_each(|lane| lane.front().start_over());
    }

    /// Takes over what uplinks have delivered. With `again` also what was looked at before.
    pub(super) fn look_at_fronts(&mut self, again: bool) {
        // What only refused to take something still has its group, and places must not move.
        if !self.fronts.used || self.is_poisoned() && self.log.poison().is_none() {
            return;
        }
        let board = Arc::clone(&self.fronts.board);
        for (index, lane) in board.lanes().iter().enumerate() {
            let mut again = again;
            // What is in a group keeps its place until that is written.
            while !lane.front().is_staged() {
                let head = lane.head();
                if again || head != self.fronts.lanes[index].seen {
                    again = false;
                    self.leave(index, head);
                }
                if self.fronts.lanes[index].bytes == 0 || !lane.wait_for(head) {
                    break;
                }
            }
        }
    }

    /// While the store takes no writes: which uplinks are served without it.
    pub(super) fn tell_of_holding(&self) {
        if self.is_poisoned() {
            let holding = self.fronts.holding(self.levels.read().fronts.len());
            self.tell_levels(|levels| levels.fronts = holding);
        }
    }

    /// Everything before `head` is delivered.
    fn leave(&mut self, index: usize, head: Seq) {
        let board = Arc::clone(&self.fronts.board);
        let lane = &board.lanes()[index];
        let mut expired = Parts::default();
        let safe = &mut self.fronts.safe;
        let left = {
            let mut front = lane.front();
            front.expired_before(head).for_each(|held| expired.add_unplaced(&held.bytes));
            front.delivered(head, |(shard, ticket)| safe[usize::from(shard.0)].is_safe(ticket))
        };
        self.fronts.lanes[index].seen = head;
        self.fronts.count_bytes(index);
        board.unwritten.fetch_add(left.messages - left.expired - left.told, Ordering::Relaxed);
        if left.expired > 0 {
            // A place without a record may be given again after a crash: they are entered without.
            self.state.expired.fetch_add(left.expired, Ordering::Relaxed);
            self.note_expired_unknown(left.expired);
            self.enter_unplaced(lane.lane, expired);
        }
        if self.is_poisoned() {
            return;
        }
        let (Some(up_to), Ok(log_end)) = (Seq::new(head.get() - 1), self.log.end_of(lane.lane)) else {
            return;
        };
        let moved = match head > log_end {
            true => self.log.pass(lane.lane, up_to),
            false => self.log.advance(lane.lane, up_to),
        };
        if let Err(error) = moved {
            warn!(%error, lane = %lane.lane, "position not kept; messages may be sent again after a restart");
        }
    }

    /// What has expired in fronts leaves memory and counts, with its entry in the ledger; what of it stands at the head of its
    /// lane leaves as a whole. Nobody need read for that, and no disk need work.
    pub(super) fn expire_fronts(&mut self) {
        let board = Arc::clone(&self.fronts.board);
        let (now, lanes) = (self.clock.now().timestamp, board.lanes().len());
        let mut records_left = if self.fronts.used { EXPIRED_LOOK_RECORDS } else { 0 };
        let begin = self.fronts.expire_from;
        for index in (0..lanes).map(|at| (begin + at) % lanes) {
            if records_left == 0 {
                self.fronts.expire_from = index;
                return;
            }
            let (lane, mut told, mut messages) = (&board.lanes()[index], Parts::default(), 0);
            let look = |held: &Held| {
                told.add_unplaced(&held.bytes);
                messages += 1;
            };
            records_left -= lane.front().expire(now, lane.unread_from(), records_left, look);
            if messages > 0 {
                self.fronts.count_bytes(index);
                self.state.expired.fetch_add(messages, Ordering::Relaxed);
                self.note_expired_unknown(messages);
                self.enter_unplaced(lane.lane, told);
            }
            self.pass_expired_front(index);
        }
    }

    /// What was told to have expired and has nothing before it needs no place any more.
    fn pass_expired_front(&mut self, index: usize) {
        let board = Arc::clone(&self.fronts.board);
        let lane = &board.lanes()[index];
        // The log's head, too: what expires there moves no other.
        let log_head = self.log.reader().bounds_of(lane.lane).map_or(Seq::FIRST, |(head, _)| head);
        let told_to = passed_to(&lane.front(), lane.head().max(log_head));
        let Some(told_to) = told_to.filter(|_| !self.is_poisoned()) else { return };
        // The log first: who reads from there must not find it in neither.
        let passed = Seq::new(told_to.get() - 1).map(|up_to| self.log.pass(lane.lane, up_to));
        if let Some(Ok(())) = passed {
            lane.pass(told_to);
            self.leave(index, lane.head());
        }
    }

    /// While the store is poisoned the entries wait in memory, like everything else.
    fn enter_unplaced(&mut self, lane: LaneId, expired: Parts) {
        let name = self.lane_name(lane);
        if let Err(error) = self.enter_parts(&name, Reason::Expired, expired)
            && !matches!(error, StoreError::Poisoned(_))
        {
            warn!(%error, "an entry of the loss ledger was not written");
        }
    }

    /// Before the oldest `bytes` of a lane are given up: they must be in the log, where they can be counted.
    pub(super) fn write_front_to_drop(&mut self, lane: LaneId, bytes: u64) -> Result<(), StoreError> {
        let Some(index) = self.fronts.index(lane) else { return Ok(()) };
        if self.fronts.lanes[index].bytes == 0 || self.log.lane_state(lane)?.bytes >= bytes {
            return Ok(());
        }
        self.close_front(index, Why::Full);
        self.stage_closed(index)?;
        self.write_group()
    }

    /// The router stops: what is still in memory is written. A disk that fails is tried once more; what it does not take is lost.
    pub(super) fn write_all_fronts(&mut self) {
        self.retry_at_last();
        self.look_at_fronts(false);
        for index in 0..self.fronts.lanes.len() {
            self.close_front(index, Why::Stop);
        }
        let written = match self.is_poisoned() {
            true => Ok(()),
            false => self.stage_due_fronts().and_then(|()| self.write_group()),
        };
        if let Err(error) = written {
            self.poison(&error);
        }
        self.say_what_is_lost();
    }

    /// What the disk did not take goes with this process, and somebody may have been told that it is kept.
    fn say_what_is_lost(&self) {
        let (mut all, mut acknowledged) = self.unconfirmed.records();
        for lane in self.fronts.board.lanes() {
            let front = lane.front();
            all += front.messages() as u64;
            acknowledged += front.acknowledged() as u64;
        }
        let unacknowledged = all - acknowledged;
        if acknowledged > 0 {
            error!(
                acknowledged,
                unacknowledged,
                "the store takes no writes, and the router stops: messages of memory routes that were acknowledged are lost; \
                 who sent the others was not told that they are kept"
            );
        } else if unacknowledged > 0 {
            error!(
                unacknowledged,
                "the store takes no writes, and the router stops with messages that were not written; none of them was \
                 acknowledged"
            );
        }
    }
}

/// Up to where everything in a front was told to have expired, if there is something and nothing before it: the lane has its
/// `head` where the front begins.
fn passed_to(front: &Front, head: Seq) -> Option<Seq> {
    let is_first = front.first() == head && !front.is_staged();
    Some(front.told_to()).filter(|told_to| is_first && *told_to > head)
}

impl DiskFronts {
    /// A record of a tray is to be written: until it is, the front of its lane takes none.
    fn note_written(&mut self, write: &Write, tray: u64) {
        if let Write::Record { lane, .. } = write
            && let Some(index) = self.index(*lane)
        {
            self.lanes[index].writing = tray;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker::front::Progress;
    use model::Timestamp;

    #[test]
    fn what_was_told_leaves_a_front_that_begins_where_its_lane_has_its_head() {
        let seq = |place| Seq::new(place).expect("a place");
        let mut front = Front::new(seq(11), 500);
        for expires in [Some(Timestamp(10)), Some(Timestamp(10)), None] {
            let owner = (ShardId(0), SpillTicket::NOBODY);
            let progress =
                Progress { link_up: true, read_to: seq(11), head: seq(11), log_end: seq(11), writing: false };
            assert_eq!(front.admits_for_nobody(&progress), Ok(()));
            front.push(Held::new(b"x"[..].into(), (Timestamp(1), expires), Instant(0), owner), seq(11));
        }
        assert_eq!(passed_to(&front, seq(11)), None, "nothing was told");
        front.expire(Timestamp(10), Seq::FIRST, 100, |_| {});
        assert_eq!(passed_to(&front, seq(5)), None, "what is before it in the log comes first");
        assert_eq!(passed_to(&front, seq(11)), Some(seq(13)));
        front.close();
        front.to_stage();
        front.staged();
        assert_eq!(passed_to(&front, seq(11)), None, "it is about to be written");
    }
}
