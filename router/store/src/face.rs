//! What one can ask of a commit log, on the disk or in memory.
//!
//! Knows: the contract. Never: how it is kept.
//! In and out: plain values. [`crate::Log`] keeps it on a disk, [`crate::MemoryLog`] in memory for the simulation.
//! Invariant: both answer alike; the property test in `tests` runs one model against each.

use crate::error::StoreError;
use crate::lanes::LaneState;
use crate::read::{ReadLimits, ReadOut};
use crate::record;
use model::{LaneId, Seq, Timestamp};
use std::ops::ControlFlow;

/// A namespace of the small durable state. Its owner chooses the number; the store gives it no meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space(pub u8);

/// Is shown a key and its value; says whether to go on.
pub type StateVisitor<'v> = &'v mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// What a commit made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<'l> {
    /// Records.
    pub records: u64,
    /// Their bytes, `RECORD_OVERHEAD_BYTES` each included.
    pub bytes: u64,
    /// The lanes that got records, each once, with the last place that is now durable.
    pub lanes: &'l [(LaneId, Seq)],
}

/// A range of places that nobody will read any more, for the loss ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The lane.
    pub lane: LaneId,
    /// First place.
    pub from: Seq,
    /// Last place.
    pub up_to: Seq,
    /// Their bytes, `RECORD_OVERHEAD_BYTES` each included.
    pub bytes: u64,
}

impl Lost {
    /// How many messages these are.
    pub fn messages(&self) -> u64 {
        self.up_to.get() - self.from.get() + 1
    }
}

/// Adds places behind ranges that ascend.
pub(crate) fn add_lost(lost: &mut Vec<Lost>, lane: LaneId, (first, last): (u64, u64), bytes: u64) {
    let (from, up_to) = (record::seq(first), record::seq(last));
    match lost.last_mut() {
        Some(so_far) if so_far.lane == lane && so_far.up_to.next() == from => {
            so_far.up_to = up_to;
            so_far.bytes += bytes;
        }
        _ => lost.push(Lost { lane, from, up_to, bytes }),
    }
}

/// Why places will never be given to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossKind {
    /// They had expired when a reader came to them.
    Expired,
    /// What is kept of them is damaged or missing.
    Damaged,
}

/// What a reader came across and could not give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Why.
    pub kind: LossKind,
    /// Which; the bytes of damaged places are 0, for nobody knows them.
    pub lost: Lost,
}

/// What one call of [`CommitLog::expire`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// What expired before it was delivered, in blocks that are wholly expired.
    pub lost: Vec<Lost>,
    /// Something is taken out of the middle of a lane by the next commit, which should come soon.
    pub collected: bool,
    /// Why one of the lanes could not be looked at, if so; it is tried again in the next round, and the others are in `lost`.
    pub passed_by: Option<StoreError>,
    /// Whether there was more to do than one call may: call again soon.
    pub more: bool,
}

/// The commit log and the small durable state, written by one thread.
///
/// Writing is in two steps: `append`, `state_put`, `lane`, … collect; `commit` makes all of it durable at once or none.
/// What is collected is not visible to readers before. Nothing here blocks except on the disk.
pub trait CommitLog {
    /// The number of the lane with this name; a new lane, empty, if there is none. Names have 1 to
    /// `LANE_NAME_BYTES_MAX` bytes. A new lane is known at once and durable with the next commit.
    fn lane(&mut self, name: &str) -> Result<LaneId, StoreError>;

    /// The number of the lane with this name, if there is one.
    fn find_lane(&self, name: &str) -> Option<LaneId>;

    /// Collects one record whose bytes are the `parts` in turn, and says which place it will have: dense per lane,
    /// starting at 1. Durable and visible with the next commit.
    ///
    /// What expires at the beginning of time has expired, and whoever keeps the ledger has it: readers pass over it, its space
    /// is given back, and it is told to nobody.
    ///
    /// Fails with `CommitFull` (commit, then append again), `RecordTooLarge`, `UnknownLane` or `Poisoned`;
    /// nothing is collected then. Cost: one copy, one checksum; no allocation per record.
    fn append(
        &mut self,
        lane: LaneId,
        parts: &[&[u8]],
        enqueued: Timestamp,
        expires: Option<Timestamp>,
    ) -> Result<Seq, StoreError>;

    /// Bytes collected since the last commit, overhead included.
    fn staged_bytes(&self) -> u64;

    /// Makes everything collected durable: one write, one sync. Cursors that moved go with it.
    ///
    /// After `Ok` all of it survives a power cut (unless `Options::sync` is off). After an error nothing of it is
    /// confirmed, and every later write fails with `Poisoned`. With nothing collected and no cursor moved it does nothing.
    fn commit(&mut self) -> Result<Committed<'_>, StoreError>;

    /// Everything up to and including `up_to` is delivered. Going back does nothing. Kept in memory and written
    /// with the next commit or `flush_cursors`: after a crash the lane may repeat, it never loses.
    ///
    /// Fails with `NotAppended` if the lane does not reach that far, or `UnknownLane`.
    fn advance(&mut self, lane: LaneId, up_to: Seq) -> Result<(), StoreError>;

    /// Places from `from` to `up_to`, both included, are delivered, although the head is before them. Their records leave space
    /// and counts as what has expired does: [`CommitLog::expire`] takes out blocks that lie wholly in such places, whole
    /// lanes apart. Readers pass over them without a word, also after a restart, and no ledger hears of them.
    ///
    /// Kept in memory, and bounded: what is forgotten, by a crash or because there are too many rows of such places, and
    /// what shares a block with something else, waits for the head, and is read again after a restart. Saying it
    /// again does no harm; what is not durable, and what is before the head, is ignored. Once a place was named here its
    /// record may be gone for good: name only what nobody needs.
    ///
    /// Fails with `UnknownLane`.
    fn deliver_ahead(&mut self, lane: LaneId, from: Seq, up_to: Seq) -> Result<(), StoreError>;

    /// Everything up to and including `up_to` is delivered, the lane's records first; places behind its end that this
    /// covers never get a record: the next one comes behind `up_to`. For what was delivered before it had to be written.
    ///
    /// Unlike a cursor that was advanced, one that only passed is written no earlier than the next commit that collected
    /// something (or the close): a lane through which everything passes writes nothing. A crash forgets such places
    /// and gives them again; so nothing durable may name one. No record ever stands behind a hole whose end the head in
    /// the same commit, or an earlier one, does not know.
    ///
    /// Going back does nothing. Fails with `Collecting` while something is collected for the lane, with `UnknownLane` or
    /// `Poisoned`.
    fn pass(&mut self, lane: LaneId, up_to: Seq) -> Result<(), StoreError>;

    /// Writes the cursors that moved, without waiting for the disk; for idle times and before a stop.
    fn flush_cursors(&mut self) -> Result<(), StoreError>;

    /// Gives up the oldest undelivered records of a lane, in whole blocks, until at least `bytes` are freed or the
    /// lane is empty; says what was lost, in ascending ranges. Damage before and between them goes as well, and is noted as a
    /// reader would note it. For the policy `drop-oldest`.
    fn drop_oldest(&mut self, lane: LaneId, bytes: u64) -> Result<Vec<Lost>, StoreError>;

    /// Moves cursors over what has expired at the heads of lanes, takes what has expired out of their middle, and says what
    /// that was. Like `advance` and `drop_oldest` it is written with the next commit, so that an entry of a ledger can go with
    /// it. Bounded work per call; call it every 100 ms or so, and again soon if it says `more`. Damage before what has expired
    /// goes as with `drop_oldest`.
    ///
    /// What was said to be delivered behind a head is taken out likewise, and is not said; fewer than 64 places wait for more, five
    /// seconds at most.
    ///
    /// What is in the middle is found a second after its time, or a 128th of its time to live. Its places stay; readers pass
    /// over them, and they are said once, also over a restart if the commit came to something.
    ///
    /// A record that was read, and neither advanced over nor said to be delivered, may be reported as expired, too.
    fn expire(&mut self, now: Timestamp) -> Result<Expired, StoreError>;

    /// Gives back the space of what cursors have passed; says whether there was more to do than one call may. Bounded
    /// work per call, like `expire`. `now` is for lanes with little to give back: they wait until it is worth a write.
    fn reclaim(&mut self, now: Timestamp) -> Result<bool, StoreError>;

    /// Removes a lane with everything in it; what was collected for it is dropped. Its number is never used again.
    /// Readers lose it at once; durable with the next commit.
    fn remove_lane(&mut self, lane: LaneId) -> Result<(), StoreError>;

    /// Collects a value for the small durable state; replaces what was there.
    fn state_put(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<(), StoreError>;

    /// Collects the removal of a value; a missing one is no error.
    fn state_delete(&mut self, space: Space, key: &[u8]) -> Result<(), StoreError>;

    /// Reads forward from `from`, in order, never past what is durable. `out` is cleared, then filled with records
    /// that have not expired at `now`; `out.next()` is where to go on, `out.expired()` what was skipped.
    ///
    /// At least one record is given if one is there, even one larger than `limits.bytes_max`; apart from that both
    /// limits hold. `from` before the head is read as the head. If `out` is empty and `out.next()` has not moved,
    /// the end is reached; if it has moved, ask again.
    ///
    /// Fails with `Damaged` if the very next places cannot be read (records before them are given first), with
    /// `UnknownLane`, `Unreadable` or `Closed`. Cost: one seek, one copy and one checksum per record.
    fn read_lane(
        &self,
        lane: LaneId,
        from: Seq,
        limits: ReadLimits,
        now: Timestamp,
        out: &mut ReadOut,
    ) -> Result<(), StoreError>;

    /// One lane as of now. Cost: at most one seek.
    fn lane_state(&self, lane: LaneId) -> Result<LaneState, StoreError>;

    /// All lanes in the order of their numbers. Cost: at most one seek each.
    fn lanes(&self) -> Result<Vec<LaneState>, StoreError>;

    /// The value under a key, as last committed.
    fn state_get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits all committed keys of a space that start with `prefix`, in ascending order, until `visit` breaks.
    fn state_scan(&self, space: Space, prefix: &[u8], visit: StateVisitor<'_>) -> Result<(), StoreError>;

    /// Panics if something that must always hold does not. For tests.
    fn invariants(&self);
}
