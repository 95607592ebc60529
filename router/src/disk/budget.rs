//! Space on the disk: how full the store and each uplink's lanes are, and what must go.
//!
//! Knows: what may be taken, what merging needs, and each uplink's policy. Never: the disk, a clock, the store.
//! In:  numbers, as measured. Out: levels for the shards, bytes to give up by lane, and whether merging is worth it.
//! Invariant: as long as ordinary messages are refused at `ordinary_at` and all at `urgent_at`, merging finds the room it
//! needs, so that a budget does not end in a disk that is full.
//!
//! Levels rise at a mark and fall two percent below it: a publisher at the edge is not told yes and no in turns.

use broker::{Level, WhenFull};
use model::Priority;

/// What is allowed.
#[derive(Clone, Debug)]
pub(crate) struct Allowance {
    /// Most bytes that the store may take; `None` is what the file system has.
    pub bytes_max: Option<u64>,
    /// Part of every budget that is for urgent messages only, in percent.
    pub reserve_percent: u8,
    /// What shards may have appended that is not written yet.
    pub unwritten_bytes_max: u64,
    /// What the store needs beside messages.
    pub options: store::Options,
    /// By uplink.
    pub uplinks: Vec<UplinkAllowance>,
}

/// What one uplink is allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UplinkAllowance {
    /// Most bytes that may wait for it.
    pub bytes_max: Option<u64>,
    /// What happens then.
    pub when_full: WhenFull,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    /// Bytes that the directory of the store takes on the disk, and what was appended since somebody looked.
    pub occupied: u64,
    /// Bytes of its sorted files.
    pub sorted: u64,
    /// Bytes that the file system would still give us.
    pub free: Option<u64>,
    /// Files that it would still let us make.
    pub inodes_free: Option<u64>,
    /// Bytes of messages that were delivered or given up since the files were merged last.
    pub released: u64,
}

/// Bytes that wait in one lane of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Which uplink.
    pub uplink: usize,
    /// What goes through it.
    pub priority: Priority,
    /// Bytes, before compression.
    pub bytes: u64,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// For everything that is stored and leads to no uplink.
    pub store: Level,
    /// By uplink, the store's level and its policy included: what the shards must obey.
    pub uplinks: Vec<Level>,
    /// By entry of `waiting`: bytes to give up, oldest first.
    pub drops: Vec<(usize, u64)>,
    /// Merging would give back space that is needed.
    pub merge: bool,
}

/// A file system with fewer inodes left is full: RocksDB makes new files to make room.
const INODES_MIN: u64 = 64;
/// Where nobody set a bound the reserve is not more than this, however large the disk.
const FREE_RESERVE_MAX: u64 = 1 << 30;

/// Judges again and again; remembers levels, nothing else.
#[derive(Debug)]
pub(crate) struct Budget {
    allowance: Allowance,
    store: Level,
    uplinks: Vec<Level>,
    /// By uplink: what is on its way to its lanes, and whether a message found no room.
    coming: Vec<Coming>,
}

/// What the shards did that no lane shows yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Coming {
    /// Bytes that are appended and not written.
    pub bytes: u64,
    /// The largest message that found no room since the last judgement; 0 if all did.
    pub missed: u64,
    /// The same of earlier ones, until there is room for it.
    wanted: u64,
}

impl Budget {
    /// Everything roomy.
    pub(crate) fn new(allowance: Allowance) -> Budget {
        let uplinks = vec![Level::Roomy; allowance.uplinks.len()];
        let coming = vec![Coming::default(); uplinks.len()];
        Budget { allowance, store: Level::Roomy, uplinks, coming }
    }

    /// What the shards did since the last judgement.
    pub(crate) fn set_coming(&mut self, uplink: usize, bytes: u64, missed: u64) {
        let coming = &mut self.coming[uplink];
        (coming.bytes, coming.missed) = (bytes, missed);
        coming.wanted = coming.wanted.max(missed);
    }

    /// Bytes from which on the oldest must go, of an uplink that gives them up; the reserve is for urgent ones, and where
    /// there are no others to give up it is theirs to fill.
    pub(crate) fn gives_up_from(&self, uplink: usize, has_ordinary: bool) -> Option<u64> {
        let UplinkAllowance { bytes_max, when_full } = self.allowance.uplinks[uplink];
        let bytes_max = bytes_max.filter(|_| when_full == WhenFull::DropOldest)?;
        let reserve = if has_ordinary { part(bytes_max, self.allowance.reserve_percent) } else { 0 };
        Some(bytes_max - reserve)
    }

    /// Whether the bytes in lanes matter at all beyond the space they take.
    pub(crate) fn needs_lanes(&self) -> bool {
        self.allowance.uplinks.iter().any(|it| it.bytes_max.is_some() || it.when_full == WhenFull::DropOldest)
    }

    /// How many bytes may be appended before it is time to judge again: the smallest budget must not be overrun by much.
    pub(crate) fn judge_every_bytes(&self) -> u64 {
        let parts = self.allowance.uplinks.iter().filter_map(|it| it.bytes_max);
        let least = parts.chain(self.allowance.bytes_max).min().unwrap_or(u64::MAX);
        (least / 64).clamp(64 << 10, 4 << 20)
    }

    /// Levels and drops for these numbers. `waiting` has the lanes of uplinks in any order.
    pub(crate) fn judge(&mut self, measured: Measured, waiting: &[Waiting]) -> Verdict {
        let marks = self.store_marks(&measured);
        self.store = if measured.inodes_free.is_some_and(|free| free < inodes_min(self.store)) {
            Level::FullForUrgent
        } else {
            next_level(self.store, measured.occupied, marks)
        };
        let mut left: Vec<u64> = waiting.iter().map(|lane| lane.bytes).collect();
        for uplink in 0..self.allowance.uplinks.len() {
            self.judge_uplink(uplink, waiting, &mut left);
        }
        self.make_room(&measured, marks, waiting, &mut left);
        let gone = waiting.iter().zip(&left).enumerate();
        let drops = gone.filter_map(|(at, (lane, left))| Some((at, lane.bytes - left)).filter(|it| it.1 > 0));
        let worth_it = (marks.urgent_at / 100).max(self.allowance.options.memtable_bytes);
        Verdict {
            store: self.store,
            uplinks: (0..self.uplinks.len()).map(|uplink| self.effective(uplink)).collect(),
            drops: drops.collect(),
            merge: measured.occupied > marks.ordinary_at / 4 * 3 && measured.released >= worth_it,
        }
    }

    fn store_marks(&self, measured: &Measured) -> Marks {
        let available = measured.free.map(|free| free.saturating_add(measured.occupied));
        let by_disk = available.unwrap_or(u64::MAX);
        let ceiling = self.allowance.bytes_max.unwrap_or(u64::MAX).min(by_disk);
        let mut reserve = part(ceiling, self.allowance.reserve_percent);
        if self.allowance.bytes_max != Some(ceiling) {
            reserve = reserve.min(FREE_RESERVE_MAX);
        }
        let mut beside = self.allowance.options.merging_bytes_max(measured.sorted);
        if self.allowance.bytes_max == Some(ceiling) {
            // What comes between two looks, and after the shards were told.
            beside += self.judge_every_bytes() + self.allowance.unwritten_bytes_max;
        }
        let urgent_at = ceiling.saturating_sub(beside);
        Marks { ordinary_at: urgent_at.saturating_sub(reserve), urgent_at }
    }

    /// The uplink's own budget: its level, or what it gives up.
    fn judge_uplink(&mut self, uplink: usize, waiting: &[Waiting], left: &mut [u64]) {
        let UplinkAllowance { bytes_max: Some(bytes_max), when_full } = self.allowance.uplinks[uplink] else {
            return;
        };
        let reserve = part(bytes_max, self.allowance.reserve_percent);
        let marks = Marks { ordinary_at: bytes_max - reserve, urgent_at: bytes_max };
        let coming = &mut self.coming[uplink];
        let bytes = lanes_of(waiting, uplink).map(|at| left[at]).sum::<u64>() + coming.bytes;
        if when_full != WhenFull::DropOldest {
            let now = self.uplinks[uplink];
            // What found no room holds back ordinary messages alone: the reserve stays open for small urgent ones.
            let ordinary = Marks { urgent_at: u64::MAX, ..marks };
            // Where nothing waits there is room for the largest, though it may reach the mark all by itself.
            let wanted = if bytes == 0 { 0 } else { bytes + coming.wanted };
            let wanted = next_level(now.min(Level::FullForOrdinary), wanted, ordinary);
            let mut level = next_level(now, bytes, marks).max(wanted);
            if coming.missed > 0 {
                // Whoever found no room waits for a change of levels: there must be one, even if there is room by now.
                level = level.max(Level::FullForOrdinary);
            }
            if level == Level::Roomy {
                coming.wanted = 0;
            }
            coming.missed = 0;
            self.uplinks[uplink] = level;
            return;
        }
        let mut lanes: Vec<usize> = lanes_of(waiting, uplink).collect();
        lanes.sort_by_key(|at| std::cmp::Reverse(waiting[*at].priority));
        let ordinary = |at: &usize| !waiting[*at].priority.is_urgent();
        let (least_urgent, urgent): (Vec<usize>, Vec<usize>) = lanes.into_iter().partition(ordinary);
        let freed = give_up(left, &least_urgent, excess(bytes, marks.ordinary_at));
        give_up(left, &urgent, excess(bytes - freed, marks.urgent_at));
    }

    /// The store's budget: what uplinks with `drop-oldest` give up for it, the least urgent of all first. It begins early,
    /// since space comes back only with the next merge; what is on its way back already is not given up twice.
    fn make_room(&self, measured: &Measured, marks: Marks, waiting: &[Waiting], left: &mut [u64]) {
        let drop_at = marks.ordinary_at / 8 * 7;
        let given_up: u64 = waiting.iter().zip(left.iter()).map(|(lane, left)| lane.bytes - left).sum();
        let wanted = excess(measured.occupied, drop_at).saturating_sub(measured.released + given_up);
        let may_drop = |at: &usize| {
            self.allowance
                .uplinks
                .get(waiting[*at].uplink)
                .is_some_and(|it| it.when_full == WhenFull::DropOldest)
        };
        let mut lanes: Vec<usize> = (0..waiting.len()).filter(may_drop).collect();
        lanes.sort_by_key(|at| std::cmp::Reverse((waiting[*at].priority, left[*at])));
        give_up(left, &lanes, wanted);
    }

    /// What the shards are told about an uplink.
    fn effective(&self, uplink: usize) -> Level {
        match self.allowance.uplinks[uplink].when_full {
            // Its room is made here, and the shards never know; but no policy writes to a disk without space.
            WhenFull::DropOldest if self.store < Level::FullForUrgent => Level::Roomy,
            _ => self.uplinks[uplink].max(self.store),
        }
    }
}

/// From where on who is refused.
#[derive(Clone, Copy, Debug)]
struct Marks {
    ordinary_at: u64,
    urgent_at: u64,
}

fn next_level(now: Level, bytes: u64, marks: Marks) -> Level {
    let reached = |mark: u64, level: Level| {
        let mark = if now >= level { mark - mark / 50 } else { mark };
        bytes >= mark
    };
    if reached(marks.urgent_at, Level::FullForUrgent) {
        Level::FullForUrgent
    } else if reached(marks.ordinary_at, Level::FullForOrdinary) {
        Level::FullForOrdinary
    } else {
        Level::Roomy
    }
}

fn inodes_min(now: Level) -> u64 {
    if now == Level::FullForUrgent { 2 * INODES_MIN } else { INODES_MIN }
}

/// So many percent of it.
pub(crate) fn part(bytes: u64, percent: u8) -> u64 {
    (u128::from(bytes) * u128::from(percent.min(100)) / 100) as u64
}

/// What is above the mark, and a thirty-second of the mark more, so that there is peace for a while.
fn excess(bytes: u64, mark: u64) -> u64 {
    if bytes > mark { bytes - mark + mark / 32 } else { 0 }
}

/// Takes `wanted` bytes from these lanes in turn; says how many there were to take.
fn give_up(left: &mut [u64], lanes: &[usize], wanted: u64) -> u64 {
    let mut freed = 0;
    for &at in lanes {
        let taken = left[at].min(wanted - freed);
        left[at] -= taken;
        freed += taken;
    }
    freed
}

fn lanes_of(waiting: &[Waiting], uplink: usize) -> impl Iterator<Item = usize> {
    waiting.iter().enumerate().filter(move |(_, lane)| lane.uplink == uplink).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn options() -> store::Options {
        store::Options { memtable_bytes: MIB, wal_bytes_max: 8 * MIB, ..store::Options::new("x") }
    }

    fn budget(bytes_max: Option<u64>, uplinks: &[(Option<u64>, WhenFull)]) -> Budget {
        let uplinks =
            uplinks.iter().map(|&(bytes_max, when_full)| UplinkAllowance { bytes_max, when_full }).collect();
        let unwritten_bytes_max = 2 * MIB;
        Budget::new(Allowance {
            bytes_max,
            reserve_percent: 10,
            unwritten_bytes_max,
            options: options(),
            uplinks,
        })
    }

    fn occupied(mib: u64) -> Measured {
        Measured { occupied: mib * MIB, sorted: mib * MIB, ..Measured::default() }
    }

    fn lane(uplink: usize, priority: u8, mib: u64) -> Waiting {
        let priority = Priority::new(i64::from(priority)).expect("0 to 9");
        Waiting { uplink, priority, bytes: mib * MIB }
    }

    #[test]
    fn a_store_fills_in_two_steps_and_leaves_room_for_merging() {
        let mut budget = budget(Some(200 * MIB), &[]);
        // 10 MiB are for merging, 5.1 MiB for what nobody has looked at yet, 20 MiB for urgent messages.
        let level = |budget: &mut Budget, mib| budget.judge(occupied(mib), &[]).store;
        assert_eq!(level(&mut budget, 164), Level::Roomy);
        assert_eq!(level(&mut budget, 165), Level::FullForOrdinary);
        assert_eq!(level(&mut budget, 184), Level::FullForOrdinary);
        assert_eq!(level(&mut budget, 185), Level::FullForUrgent);
        assert_eq!(level(&mut budget, 182), Level::FullForUrgent, "a little less is not yet room");
        assert_eq!(level(&mut budget, 181), Level::FullForOrdinary);
        assert_eq!(level(&mut budget, 162), Level::FullForOrdinary);
        assert_eq!(level(&mut budget, 161), Level::Roomy);
    }

    #[test]
    fn what_the_file_system_does_not_have_is_full_whatever_the_budget_says() {
        for bytes_max in [None, Some(1 << 40)] {
            let mut budget = budget(bytes_max, &[]);
            let free = |mib| Measured { free: Some(mib * MIB), ..occupied(100) };
            assert_eq!(budget.judge(free(1_000), &[]).store, Level::Roomy);
            assert_eq!(budget.judge(free(21), &[]).store, Level::FullForOrdinary);
            assert_eq!(budget.judge(free(9), &[]).store, Level::FullForUrgent);
            assert_eq!(budget.judge(free(1_000), &[]).store, Level::Roomy);
        }
    }

    #[test]
    fn an_empty_store_needs_little_of_a_small_disk() {
        let measured = Measured { occupied: MIB / 2, sorted: 0, free: Some(4 * MIB), ..Measured::default() };
        assert_eq!(budget(None, &[]).judge(measured, &[]).store, Level::Roomy);
    }

    #[test]
    fn a_file_system_without_inodes_is_full() {
        let mut budget = budget(None, &[]);
        let inodes = |free| Measured { inodes_free: Some(free), ..occupied(1) };
        assert_eq!(budget.judge(inodes(64), &[]).store, Level::Roomy);
        assert_eq!(budget.judge(inodes(63), &[]).store, Level::FullForUrgent);
        assert_eq!(budget.judge(inodes(127), &[]).store, Level::FullForUrgent);
        assert_eq!(budget.judge(inodes(128), &[]).store, Level::Roomy);
    }

    #[test]
    fn an_uplink_that_refuses_is_full_by_itself_and_with_the_store() {
        let uplinks = [(Some(100 * MIB), WhenFull::Refuse), (None, WhenFull::DropNewest)];
        let mut budget = budget(Some(1_000 * MIB), &uplinks);
        let levels = budget.judge(occupied(1), &[lane(0, 9, 60), lane(0, 1, 30), lane(1, 5, 400)]).uplinks;
        assert_eq!(levels, [Level::FullForOrdinary, Level::Roomy]);
        let verdict = budget.judge(occupied(1), &[lane(0, 9, 99), lane(0, 1, 1)]);
        assert_eq!((verdict.uplinks[0], verdict.drops), (Level::FullForUrgent, Vec::new()));
        assert_eq!(budget.judge(occupied(1_000), &[]).uplinks, [Level::FullForUrgent; 2]);
        assert_eq!(budget.judge(occupied(1), &[]).uplinks, [Level::Roomy; 2]);
    }

    #[test]
    fn drop_oldest_gives_up_the_least_urgent_first_and_urgent_ones_only_above_the_whole() {
        let mut budget = budget(None, &[(Some(64 * MIB), WhenFull::DropOldest)]);
        // The mark for ordinary messages is 57.6 MiB; what goes is the excess and a thirty-second of the mark.
        let verdict = budget.judge(occupied(1), &[lane(0, 4, 30), lane(0, 9, 1), lane(0, 0, 30)]);
        let mark = 64 * MIB - 64 * MIB / 10;
        let wanted = 61 * MIB - mark + mark / 32;
        assert_eq!(verdict.drops, [(0, wanted - MIB), (1, MIB)]);
        assert_eq!(verdict.uplinks, [Level::Roomy], "the shards never know");
        assert_eq!(budget.judge(occupied(1), &[lane(0, 2, 63)]).drops, [], "the reserve is theirs");
        assert_eq!(budget.judge(occupied(1), &[lane(0, 2, 65)]).drops, [(0, 3 * MIB)]);
    }

    #[test]
    fn a_full_store_takes_from_those_who_drop_and_waits_for_the_merge() {
        let uplinks = [(None, WhenFull::DropOldest), (None, WhenFull::Refuse)];
        let mut budget = budget(Some(216 * MIB), &uplinks);
        // Ordinary messages are refused from 179 MiB on; dropping begins at seven eighths of that.
        let waiting = [lane(0, 5, 50), lane(1, 9, 100)];
        let now = occupied(160);
        let verdict = budget.judge(now, &waiting);
        let [(0, bytes)] = verdict.drops[..] else { panic!("{verdict:?}") };
        assert!((3 * MIB..10 * MIB).contains(&bytes), "{bytes}");
        let dropped = Measured { released: bytes, ..now };
        assert_eq!(budget.judge(dropped, &waiting).drops, [], "it is on its way back");
        assert!(budget.judge(dropped, &waiting).merge, "and somebody should fetch it");
        let more = Measured { occupied: now.occupied + MIB, ..dropped };
        assert_eq!(budget.judge(more, &waiting).drops, [(0, MIB)], "what comes meanwhile makes its own room");
        let full = Measured { occupied: 205 * MIB, released: 100 * MIB, ..now };
        assert_eq!(
            budget.judge(full, &waiting).uplinks,
            [Level::FullForUrgent; 2],
            "no policy writes to a full disk"
        );
    }

    #[test]
    fn what_is_on_its_way_counts() {
        let uplinks = [(Some(100 * MIB), WhenFull::Refuse), (Some(100 * MIB), WhenFull::DropOldest)];
        let mut budget = budget(None, &uplinks);
        let lanes = [lane(0, 5, 80), lane(1, 5, 80)];
        assert_eq!(budget.judge(occupied(1), &lanes).uplinks[0], Level::Roomy);
        (0..2).for_each(|uplink| budget.set_coming(uplink, 11 * MIB, 0));
        let verdict = budget.judge(occupied(1), &lanes);
        assert_eq!(verdict.uplinks, [Level::FullForOrdinary, Level::Roomy]);
        assert_eq!(verdict.drops, [(1, MIB + 90 * MIB / 32)], "room is made before it is written");
        assert_eq!((budget.gives_up_from(0, true), budget.gives_up_from(1, true)), (None, Some(90 * MIB)));
        assert_eq!(budget.gives_up_from(1, false), Some(100 * MIB), "urgent ones alone may fill the reserve");
    }

    #[test]
    fn who_found_no_room_hears_when_there_is_some() {
        let mut budget = budget(None, &[(Some(100 * MIB), WhenFull::Refuse)]);
        let mut level = |mib, missed| {
            budget.set_coming(0, 0, missed * MIB);
            budget.judge(occupied(1), &[lane(0, 5, mib)]).uplinks[0]
        };
        assert_eq!(level(70, 30), Level::FullForOrdinary);
        assert_eq!(level(60, 0), Level::FullForOrdinary, "not yet for 30");
        assert_eq!(level(50, 0), Level::Roomy);
        // Even where all is gone by the time somebody looks.
        assert_eq!((level(0, 1), level(0, 0)), (Level::FullForOrdinary, Level::Roomy));
        // The largest there may be fits an empty lane, and nothing else.
        assert_eq!((level(1, 89), level(1, 0)), (Level::FullForOrdinary, Level::FullForOrdinary));
        assert_eq!(level(0, 0), Level::Roomy);
    }

    #[test]
    fn merging_is_asked_for_only_where_it_helps() {
        let mut budget = budget(Some(200 * MIB), &[]);
        let released = |mib, released| Measured { released: released * MIB, ..occupied(mib) };
        assert!(!budget.judge(released(100, 50), &[]).merge, "there is room");
        assert!(!budget.judge(released(150, 0), &[]).merge, "nothing is dead");
        assert!(budget.judge(released(150, 50), &[]).merge);
    }

    #[test]
    fn a_small_budget_is_looked_at_often() {
        assert_eq!(budget(None, &[]).judge_every_bytes(), 4 * MIB);
        assert_eq!(budget(None, &[(Some(8 * MIB), WhenFull::Refuse)]).judge_every_bytes(), MIB / 8);
    }
}
