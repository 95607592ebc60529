//! Reading forward, from any thread: lanes by cursor, state by key.
//!
//! Knows: how to walk blocks and what to do about expired and damaged records. May use: `block`, `lanes`,
//! `engine`, `cursor`.
//! Never: writes records. (A reader may move a cursor: that is a number in memory. After a fault it asks the disk whether it is
//! there, by a file of one byte.)
//! In:  a lane and a place. Out: records copied once, into a buffer the caller owns and reuses.
//! Invariant: never past the durable tail, never before the head; places in `out` ascend.

use crate::block::Block;
use crate::cursor::{self, Blocks};
use crate::engine::Engine;
use crate::error::{Fault, FaultKind, StoreError};
use crate::face::{LossKind, Space, StateVisitor};
use crate::keys::{self, FAMILY_LOG, FAMILY_STATE};
use crate::lanes::{Front, Known, Lane, LaneState, LaneTable};
use crate::notes::Notes;
use crate::record::{self, RECORD_OVERHEAD_BYTES, TOLD};
use crate::stats::{Counters, Stats};
use model::{LaneId, Seq, Timestamp};
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// Wholly expired blocks that one read may skip; the next read goes on behind them.
const EXPIRED_BLOCKS_MAX: usize = 256;

/// Damaged blocks in a row that are looked at one by one for the next sound one; after that it is searched for.
const DAMAGED_BLOCKS_MAX: usize = 64;

/// How much one read may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// Most records; 0 is read as 1.
    pub messages_max: usize,
    /// Most bytes of payload and overhead; a single larger record is given alone.
    pub bytes_max: usize,
}

/// What a read gave. Reuse it: its buffers keep their size.
#[derive(Debug)]
pub struct ReadOut {
    /// Records as they are in their blocks, headers included.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    expired: Vec<(Seq, Seq)>,
    /// By entry of `expired`: bytes of the records, overhead included.
    expired_bytes: Vec<u64>,
    /// Messages that have expired beside those.
    unplaced: u64,
    next: Seq,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    seq: Seq,
    enqueued: Timestamp,
    expires: u64,
    start: usize,
    end: usize,
}

/// One record of a [`ReadOut`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'o> {
    /// Its place.
    pub seq: Seq,
    /// When it was enqueued, as the appender said.
    pub enqueued: Timestamp,
    /// From when on it does not matter any more.
    pub expires: Option<Timestamp>,
    /// What was appended.
    pub bytes: &'o [u8],
}

impl Default for ReadOut {
    fn default() -> Self {
        ReadOut {
            bytes: Vec::new(),
            entries: Vec::new(),
            expired: Vec::new(),
            expired_bytes: Vec::new(),
            unplaced: 0,
            next: Seq::FIRST,
        }
    }
}

impl ReadOut {
    /// An empty one.
    pub fn new() -> ReadOut {
        ReadOut::default()
    }

    /// Its records in order.
    pub fn records(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.entries.iter().map(|entry| Record {
            seq: entry.seq,
            enqueued: entry.enqueued,
            expires: record::expires_from_raw(entry.expires),
            bytes: &self.bytes[entry.start..entry.end],
        })
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where to go on reading.
    pub fn next(&self) -> Seq {
        self.next
    }

    /// Ranges (first, last) that were skipped because they have expired, ascending. Reading the same places again
    /// reports them again; whoever keeps the loss ledger counts each place once. What [`crate::CommitLog::expire`] took out of
    /// the middle of a lane, expired or delivered, is skipped and not among them.
    pub fn expired(&self) -> &[(Seq, Seq)] {
        &self.expired
    }

    /// How many messages were skipped because they have expired.
    pub fn expired_messages(&self) -> u64 {
        self.expired.iter().map(|(first, last)| last.get() - first.get() + 1).sum::<u64>() + self.unplaced
    }

    /// Bytes of its records, overhead included.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Empties it, for records that stand somewhere else than in a log.
    pub fn begin(&mut self, next: Seq) {
        self.clear(next.get());
    }

    /// Adds such a record. Places ascend; there is nothing in between.
    pub fn give(&mut self, seq: Seq, enqueued: Timestamp, expires: Option<Timestamp>, payload: &[u8]) {
        self.bytes.extend_from_slice(&[0; RECORD_OVERHEAD_BYTES]);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        let (expires, end) = (record::expires_to_raw(expires), self.bytes.len());
        self.entries.push(Entry { seq, enqueued, expires, start, end });
        self.next = seq.next();
    }

    /// There is nothing more before `next`; so many of those that were not given count as expired.
    pub fn give_up_to(&mut self, next: Seq, expired: u64) {
        self.next = self.next.max(next);
        self.unplaced += expired;
    }

    pub(crate) fn clear(&mut self, next: u64) {
        self.bytes.clear();
        self.entries.clear();
        self.expired.clear();
        self.expired_bytes.clear();
        self.unplaced = 0;
        self.next = record::seq(next);
    }

    pub(crate) fn is_full(&self, limits: ReadLimits, record_bytes: usize) -> bool {
        !self.entries.is_empty()
            && (self.entries.len() >= limits.messages_max
                || self.bytes.len() + record_bytes > limits.bytes_max)
    }

    /// Adds a record; `bytes` has the record's header and payload.
    #[inline]
    pub(crate) fn push(&mut self, seq: u64, enqueued: Timestamp, expires: u64, bytes: &[u8]) {
        let start = self.bytes.len() + RECORD_OVERHEAD_BYTES;
        self.bytes.extend_from_slice(bytes);
        self.entries.push(Entry { seq: record::seq(seq), enqueued, expires, start, end: self.bytes.len() });
        self.next = record::seq(seq + 1);
    }

    /// Notes that these places were skipped, with the bytes of their records.
    pub(crate) fn skip_expired(&mut self, first: u64, last: u64, bytes: u64) {
        match (self.expired.last_mut(), self.expired_bytes.last_mut()) {
            (Some((_, end)), Some(so_far)) if end.get() + 1 == first => {
                *end = record::seq(last);
                *so_far += bytes;
            }
            _ => {
                self.expired.push((record::seq(first), record::seq(last)));
                self.expired_bytes.push(bytes);
            }
        }
        self.next = record::seq(last + 1);
    }
}

/// What the writer and all readers share.
#[derive(Default)]
pub(crate) struct Shared {
    /// `None` once the log is closed, and while it recovers.
    engine: RwLock<Option<Engine>>,
    pub(crate) lanes: LaneTable,
    pub(crate) counters: Counters,
    pub(crate) notes: Notes,
}

/// The database, as long as it is held.
pub(crate) struct EngineGuard<'s>(RwLockReadGuard<'s, Option<Engine>>);

impl std::ops::Deref for EngineGuard<'_> {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        self.0.as_ref().expect("checked when the guard was made")
    }
}

impl Shared {
    pub(crate) fn engine(&self) -> Result<EngineGuard<'_>, StoreError> {
        let guard = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        if guard.is_some() { Ok(EngineGuard(guard)) } else { Err(StoreError::Closed) }
    }

    /// Waits for readers that are at work, then puts `engine` in place of what was there, which is closed.
    pub(crate) fn replace_engine(&self, engine: Option<Engine>) {
        if let Ok(closing) = self.engine() {
            // Nobody waits for a merge that `tidy` or RocksDB began; it starts again some day.
            closing.db.cancel_all_background_work(false);
        }
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = engine;
    }
}

/// Reads a store, from any thread. Cheap to clone. When the [`crate::Log`] is dropped, all reads say `Closed`.
#[derive(Clone)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
}

impl Reader {
    /// As [`crate::CommitLog::read_lane`].
    pub fn read_lane(
        &self,
        lane: LaneId,
        from: Seq,
        limits: ReadLimits,
        now: Timestamp,
        out: &mut ReadOut,
    ) -> Result<(), StoreError> {
        // Before anything can fail: what an earlier read gave must not be taken for what this one did not.
        out.clear(from.get());
        let lane = self.shared.lanes.get(lane)?;
        let engine = self.shared.engine()?;
        // The tail first: what the walk below sees is then at least as new.
        let tail = lane.tail();
        let from = from.get().max(lane.head());
        out.clear(from);
        if from >= tail {
            return Ok(());
        }
        let walked = walk(&engine, (&self.shared.lanes, &lane), from, tail, limits, now, out);
        self.note(&lane, out, &walked);
        walked
    }

    /// Reads what the head of a lane has passed, from `from` to before `end`, expired or not, as long as its space was not
    /// given back: for who wants to know what it was.
    pub fn read_passed(
        &self,
        lane: LaneId,
        (from, end): (Seq, Seq),
        limits: ReadLimits,
        out: &mut ReadOut,
    ) -> Result<(), StoreError> {
        out.clear(from.get());
        let lane = self.shared.lanes.get(lane)?;
        let engine = self.shared.engine()?;
        let end = end.get().min(lane.tail());
        if from.get() >= end {
            return Ok(());
        }
        // At the beginning of time nothing has expired.
        walk(&engine, (&self.shared.lanes, &lane), from.get(), end, limits, Timestamp::default(), out)
    }

    /// Notes what this read could not give; free where there is nothing of the kind.
    #[inline]
    fn note(&self, lane: &Lane, out: &ReadOut, walked: &Result<(), StoreError>) {
        let notes = &self.shared.notes;
        for ((first, last), bytes) in out.expired.iter().zip(&out.expired_bytes) {
            notes.note(LossKind::Expired, lane, lane.head(), (first.get(), last.get()), *bytes);
        }
        if let Err(StoreError::Damaged { from, up_to, .. }) = walked {
            notes.note(LossKind::Damaged, lane, lane.head(), (from.get(), up_to.get()), 0);
            // Who reads passes over them now, and will say that all before some place is delivered.
            self.shared.lanes.ahead().spare(lane.id, (from.get(), up_to.get()));
        }
    }

    /// As [`crate::CommitLog::advance`], and from any thread.
    pub fn advance(&self, lane: LaneId, up_to: Seq) -> Result<(), StoreError> {
        let lane = self.shared.lanes.get(lane)?;
        self.shared.lanes.advance(&lane, up_to)
    }

    /// As [`crate::CommitLog::deliver_ahead`], and from any thread.
    pub fn deliver_ahead(&self, lane: LaneId, from: Seq, up_to: Seq) -> Result<(), StoreError> {
        self.shared.lanes.deliver_ahead(lane, (from, up_to))
    }

    /// The place that the lane gives next. Cost: none to speak of.
    pub fn end_of(&self, lane: LaneId) -> Result<Seq, StoreError> {
        Ok(record::seq(self.shared.lanes.get(lane)?.tail()))
    }

    /// The first place of a lane that is not delivered, and the place that it gives next. Asks the disk for nothing.
    pub fn bounds_of(&self, lane: LaneId) -> Result<(Seq, Seq), StoreError> {
        let lane = self.shared.lanes.get(lane)?;
        let head = lane.head();
        Ok((record::seq(head), record::seq(lane.tail().max(head))))
    }

    /// Notes for the ledger that a reader passed over a record because it has expired, as a read of the log does by itself:
    /// for who read it before it was written.
    pub fn note_expired(&self, lane: LaneId, seq: Seq, bytes: u64) {
        if let Ok(known) = self.shared.lanes.get(lane) {
            let range = (seq.get(), seq.get());
            self.shared.notes.note(LossKind::Expired, &known, known.head(), range, bytes);
        }
    }

    /// As [`crate::CommitLog::find_lane`].
    pub fn find_lane(&self, name: &str) -> Option<LaneId> {
        self.shared.lanes.find(name)
    }

    /// As [`crate::CommitLog::lane_state`].
    pub fn lane_state(&self, lane: LaneId) -> Result<LaneState, StoreError> {
        let lane = self.shared.lanes.get(lane)?;
        let engine = self.shared.engine()?;
        state_of(&engine, &lane)
    }

    /// As [`crate::CommitLog::lanes`].
    pub fn lanes(&self) -> Result<Vec<LaneState>, StoreError> {
        let engine = self.shared.engine()?;
        self.shared.lanes.all().iter().map(|lane| state_of(&engine, lane)).collect()
    }

    /// As [`crate::CommitLog::state_get`].
    pub fn state_get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let engine = self.shared.engine()?;
        engine.db.get_cf(engine.family(FAMILY_STATE), state_key(space, key)).map_err(StoreError::unreadable)
    }

    /// As [`crate::CommitLog::state_scan`].
    pub fn state_scan(&self, space: Space, prefix: &[u8], visit: StateVisitor<'_>) -> Result<(), StoreError> {
        let engine = self.shared.engine()?;
        let from = state_key(space, prefix);
        let mut entries = engine.db.raw_iterator_cf(engine.family(FAMILY_STATE));
        entries.seek(&from);
        while let Some((key, value)) = entries.item() {
            if !key.starts_with(&from) || visit(&key[1..], value).is_break() {
                return Ok(());
            }
            entries.next();
        }
        entries.status().map_err(StoreError::unreadable)
    }

    /// What the store takes and has done so far.
    pub fn stats(&self) -> Result<Stats, StoreError> {
        let engine = self.shared.engine()?;
        Stats::collect(&engine, &self.shared)
    }
}

/// The key of a state value.
pub(crate) fn state_key(space: Space, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(1 + key.len());
    full.push(space.0);
    full.extend_from_slice(key);
    full
}

/// What is known about the head of a lane, or, where that is damaged, about the first place behind it that can be read; `None`
/// if nothing waits, or nothing of it can be read. Damage is for readers to step over; it stops nobody who only wants to know.
pub(crate) fn front_of(engine: &Engine, lane: &Lane) -> Result<Option<Front>, StoreError> {
    let tail = lane.tail();
    let head = lane.head();
    if head >= tail {
        return Ok(None);
    }
    let mut known = lane.front();
    match *known {
        Known::Front(front) if front.head == head => return Ok(Some(front)),
        Known::Unreadable(from, to) if (from, to) == (head, tail) => return Ok(None),
        _ => {}
    }
    let mut blocks = Blocks::from(engine, lane.id, head, true);
    let readable = sound_from(engine, &mut blocks, lane.id, head, tail)?;
    let block = blocks.item().and_then(|(key, value)| Block::parse(key, value));
    let front = block.filter(|_| readable < tail).map(|block| {
        let (before_head, oldest) = block.position(readable);
        Front {
            head,
            bytes_before: block.bytes_before + before_head,
            oldest,
            expires_max: block.expires_max(),
        }
    });
    // To be found out once: the search is long.
    *known = front.map_or(Known::Unreadable(head, tail), Known::Front);
    Ok(front)
}

/// From where on a lane can be read, at `from` or behind it; `tail` if from nowhere. `blocks` stands where the block of
/// `from` should be, and is left at the one that holds the place which is given. What is before that place is damaged or
/// missing, in a database that cannot be read or in our own headers.
///
/// Cost: nothing where nothing is damaged; else a seek for each of up to [`DAMAGED_BLOCKS_MAX`] blocks, and what
/// [`readable_from`] takes.
pub(crate) fn sound_from(
    engine: &Engine,
    blocks: &mut Blocks<'_>,
    lane: LaneId,
    from: u64,
    tail: u64,
) -> Result<u64, StoreError> {
    let (mut next, mut damaged_blocks) = (from, 0);
    while next < tail {
        next = match blocks.item() {
            Some((key, value)) => match (Block::parse(key, value), keys::parse_block(key)) {
                (Some(block), _) => return Ok(block.first.max(next).min(tail)),
                (None, Some((_, last))) if damaged_blocks < DAMAGED_BLOCKS_MAX => last.get().max(next) + 1,
                (None, _) => search_readable(engine, lane, next, tail),
            },
            None => match blocks.status() {
                Ok(()) => return Ok(tail),
                Err(error) => readable_from(engine, lane, next, tail, error)?,
            },
        };
        damaged_blocks += 1;
        blocks.seek(next);
    }
    Ok(tail)
}

pub(crate) fn state_of(engine: &Engine, lane: &Lane) -> Result<LaneState, StoreError> {
    // The sum first, then the front, then the tail: a commit in between makes `bytes` a little too small at worst.
    let appended_bytes = lane.appended_bytes();
    let front = front_of(engine, lane)?;
    let head = front.map_or_else(|| lane.head(), |front| front.head);
    let (husks, gone_bytes) = lane.husks().behind(head, front.map_or(u64::MAX, |front| front.bytes_before));
    let behind = |front: Front| appended_bytes.saturating_sub(front.bytes_before).saturating_sub(gone_bytes);
    Ok(LaneState {
        id: lane.id,
        name: lane.name.clone(),
        head: record::seq(head),
        tail: record::seq(lane.tail().max(head)),
        bytes: front.map_or(0, behind),
        husks,
        oldest: front.and_then(|front| front.oldest),
    })
}

/// Fills `out` from `from` on; `from < tail`.
fn walk(
    engine: &Engine,
    (lanes, lane): (&LaneTable, &Lane),
    from: u64,
    tail: u64,
    limits: ReadLimits,
    now: Timestamp,
    out: &mut ReadOut,
) -> Result<(), StoreError> {
    let mut blocks = Blocks::from(engine, lane.id, from, true);
    let mut next = from;
    let mut expired_blocks = 0;
    while next < tail {
        let Some((key, value)) = blocks.item() else {
            let last = match blocks.status() {
                Ok(()) => tail - 1,
                Err(error) => readable_from(engine, lane.id, next, tail, error)? - 1,
            };
            return missing(lane, next, last, out);
        };
        let Some(block) = Block::parse(key, value) else {
            let last = keys::parse_block(key).map_or(tail - 1, |(_, last)| last.get());
            return missing(lane, next, last, out);
        };
        if block.first > next {
            return missing(lane, next, block.first - 1, out);
        }
        if block.is_told() {
            // Whoever took its records out, or wrote them, has told of them.
            out.next = record::seq(block.last + 1);
            expired_blocks += 1;
            if expired_blocks == EXPIRED_BLOCKS_MAX {
                return Ok(());
            }
        } else if block.is_expired(now) {
            skip_expired(lanes, &block, (next, block.last), out);
            expired_blocks += 1;
            if expired_blocks == EXPIRED_BLOCKS_MAX {
                return Ok(());
            }
        } else if copy(lanes, &block, next, limits, now, out)?.is_break() {
            return Ok(());
        }
        next = block.last + 1;
        blocks.next(next);
    }
    Ok(())
}

/// Passes over places that have expired, and notes those that are not delivered.
fn skip_expired(lanes: &LaneTable, block: &Block<'_>, (first, last): (u64, u64), out: &mut ReadOut) {
    let lost = lanes.ahead().without(block.lane, (first, last));
    for places in lost {
        out.skip_expired(places.0, places.1, block.bytes_of(places));
    }
    out.next = record::seq(last + 1);
}

/// Copies the records of one block from `from` on; breaks when `out` is full.
fn copy(
    lanes: &LaneTable,
    block: &Block<'_>,
    from: u64,
    limits: ReadLimits,
    now: Timestamp,
    out: &mut ReadOut,
) -> Result<ControlFlow<()>, StoreError> {
    let mut next = from;
    for (seq, record) in block.records() {
        if seq < from {
            continue;
        }
        if record::is_expired(record.expires(), now) && record.is_sound(block.lane, seq) {
            match record.expires() {
                TOLD => out.next = record::seq(seq + 1),
                _ => skip_expired(lanes, block, (seq, seq), out),
            }
        } else {
            if out.is_full(limits, record.len()) {
                return Ok(ControlFlow::Break(()));
            }
            if !record.is_sound(block.lane, seq) {
                break;
            }
            out.push(seq, record.enqueued(), record.expires(), record.bytes());
        }
        next = seq + 1;
    }
    if next <= block.last {
        return damaged(block.lane, next, block.damage_at(next), out).map(|()| ControlFlow::Break(()));
    }
    Ok(ControlFlow::Continue(()))
}

/// The disk gives no block at `from`: finds the first place from which on it does again, at most `tail`.
/// Fails with `error` where the fault is not the disk's, or is over. Cost: some sixty seeks and the point reads of `cursor`, twice.
pub(crate) fn readable_from(
    engine: &Engine,
    lane: LaneId,
    from: u64,
    tail: u64,
    error: rocksdb::Error,
) -> Result<u64, StoreError> {
    is_damage(engine, error.clone())?;
    let search = || cursor::search_points(engine, lane, from, search_readable(engine, lane, from, tail));
    let good = search();
    // A disk that was away meanwhile, for however short a time, hid what is sound: it is asked and searched once more.
    if !engine.disk_answers() || holds(engine, lane, from) {
        return Err(StoreError::unreadable(error));
    }
    Ok(good.min(search()))
}

/// Whether this very place can be read.
fn holds(engine: &Engine, lane: LaneId, place: u64) -> bool {
    let blocks = Blocks::from(engine, lane, place, true);
    let block = blocks.item().and_then(|(key, value)| Block::parse(key, value));
    block.is_some_and(|block| (block.first..=block.last).contains(&place))
}

/// Whether a read that failed did so because what stands on the disk is damaged; any other fault is given back, also that
/// the whole disk is away, or that it is back and the database not opened anew yet: what cannot be read then is only late.
pub(crate) fn is_damage(engine: &Engine, error: rocksdb::Error) -> Result<(), StoreError> {
    let fault = Fault::from(error);
    match fault.kind {
        FaultKind::Corrupt | FaultKind::Io if engine.disk_answers() => Ok(()),
        _ => Err(StoreError::Unreadable(fault)),
    }
}

/// Whether a read failed because of the disk, be it damaged or away.
pub(crate) fn is_of_disk(error: rocksdb::Error) -> bool {
    matches!(Fault::from(error).kind, FaultKind::Corrupt | FaultKind::Io)
}

/// As [`readable_from`], whatever the fault, by seeks alone.
fn search_readable(engine: &Engine, lane: LaneId, from: u64, tail: u64) -> u64 {
    let is_readable = |place: u64| {
        let from = keys::block(lane, record::seq(place));
        let mut blocks = engine.range(FAMILY_LOG, &from, &keys::lane_end(lane), true);
        blocks.seek_to_first();
        blocks.item().is_some_and(|(key, value)| Block::parse(key, value).is_some())
    };
    cursor::search(from, tail, is_readable)
}

/// There should be something at `from`, and there is not.
fn missing(lane: &Lane, from: u64, up_to: u64, out: &mut ReadOut) -> Result<(), StoreError> {
    // Dropped meanwhile, because delivered or expired: the head says so, and the next read starts there.
    let head = lane.head();
    if head > from {
        out.next = record::seq(head);
        return Ok(());
    }
    damaged(lane.id, from, record::seq(up_to.max(from)), out)
}

/// What was read before the damage is given first; whoever asks again from there is told.
fn damaged(lane: LaneId, from: u64, up_to: Seq, out: &ReadOut) -> Result<(), StoreError> {
    if out.is_empty() && out.expired.is_empty() {
        return Err(StoreError::Damaged { lane, from: record::seq(from), up_to });
    }
    Ok(())
}
