//! The commit log on RocksDB: the one writer.
//!
//! Knows: the order of things: collect, write, sync, only then tell. May use: everything in this room.
//! Never: a second thread; a retry after a failed sync (what is on the disk is unknown then: poison).
//! In:  records, cursors, values. Out: one batch and one sync per commit, for all lanes and all state together.
//! Invariant: a tail is published only after the sync that made it true; after a failure nothing is published any more.

use crate::engine::Engine;
use crate::error::{Fault, FaultKind, OpenError, StoreError};
use crate::face::{CommitLog, Committed, Expired, Loss, LossKind, Lost, Space, StateVisitor};
use crate::home::Home;
use crate::keys::{self, FAMILY_LANES, FAMILY_LOG, FAMILY_STATE, KEY_NEXT_LANE, LANE_NAME_BYTES_MAX};
use crate::lanes::{Lane, LaneState};
use crate::middle::Middle;
use crate::newest_log;
use crate::options::Options;
use crate::read::{self, ReadLimits, ReadOut, Reader, Shared};
use crate::record::RECORD_OVERHEAD_BYTES;
use crate::recovery;
use crate::repair;
use crate::retention::Retention;
use crate::staging::Staging;
use crate::stats;
use model::{LaneId, Seq, Timestamp};
use rocksdb::{WriteBatch, WriteOptions};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The commit log and the small durable state in a directory, open for writing. See [`CommitLog`] for what it does.
///
/// It belongs to one thread; [`Log::reader`] gives what other threads need. Dropping it closes the store without
/// writing anything; [`Log::close`] writes the cursors first.
pub struct Log {
    pub(crate) reader: Reader,
    pub(crate) options: Options,
    home: Home,
    pub(crate) staging: Staging,
    pub(crate) retention: Retention,
    pub(crate) middle: Middle,
    next_lane: u32,
    poison: Option<Fault>,
    /// What the last commit reported; kept for its buffer.
    committed: Vec<(LaneId, Seq)>,
    /// Lanes whose cursor is about to be written; kept for its buffer.
    moved: Vec<Arc<Lane>>,
    /// Lanes whose head passed over places and is not written; bounded by the number of lanes.
    passed: BTreeMap<LaneId, Arc<Lane>>,
    /// The number of the newest write-ahead log, as it was noted last.
    noted_log: u64,
}

impl Log {
    /// Opens the store at `options.path`, alone. Cost: the length of the write-ahead log and the number of lanes;
    /// not the backlog.
    ///
    /// Fails without touching anything if the directory is locked, in a newer format, or something else than a store.
    pub fn open(options: &Options) -> Result<Log, OpenError> {
        let mut home = Home::enter(options)?;
        if !home.is_unfinished() {
            home.check_newest_log()?;
        }
        let engine = Engine::open(options, &home.engine_path(), home.is_unfinished())?;
        let found = recovery::load(&engine, home.root())?;
        home.finish()?;
        repair::clear_away(home.root()).map_err(|error| OpenError::from_io(home.root(), error))?;
        let shared = Shared::default();
        for lane in found.lanes {
            shared.lanes.insert(Arc::new(lane));
        }
        shared.replace_engine(Some(engine));
        let mut log = Log {
            reader: Reader { shared: Arc::new(shared) },
            options: options.clone(),
            home,
            staging: Staging::default(),
            retention: Retention::default(),
            middle: Middle::default(),
            next_lane: found.next_lane,
            poison: None,
            committed: Vec::new(),
            moved: Vec::new(),
            passed: BTreeMap::new(),
            noted_log: 0,
        };
        log.retention.start(&log.reader.shared.lanes.all());
        match log.tidy_at_start(&found.orphans) {
            // A merge that met damage refused it: the store is open, and poisoned. Who writes to it recovers it.
            Err(OpenError::Corrupt { .. }) => {}
            begun => begun?,
        }
        log.note_newest_log();
        Ok(log)
    }

    /// Something to read with, for another thread.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// As [`Reader::end_of`].
    pub fn end_of(&self, lane: LaneId) -> Result<Seq, StoreError> {
        self.reader.end_of(lane)
    }

    /// Most bytes of records that one commit takes, overhead included.
    pub fn commit_bytes_max(&self) -> u64 {
        self.options.commit_bytes_max
    }

    /// Why nothing is written any more, if so.
    pub fn poison(&self) -> Option<&Fault> {
        self.poison.as_ref()
    }

    /// What readers came across and could not give, since the last call, each place once; and how many messages more
    /// there was no room to note. For the loss ledger.
    pub fn take_losses(&mut self) -> (Vec<Loss>, u64) {
        self.reader.shared.notes.take()
    }

    /// The parts of a range that no reader has come across: those are among [`Log::take_losses`] already.
    pub fn not_noted(&self, lost: &Lost) -> Vec<Lost> {
        let Ok(lane) = self.reader.shared.lanes.get(lost.lane) else { return vec![*lost] };
        // What the head has passed with these places is still wanted, and what readers noted before them, too.
        let head = lane.head().min(lost.from.get());
        let is_leaving = self.middle.is_told(&lane, (lost.from.get(), lost.from.get()));
        self.reader.shared.notes.fresh(&lane, head, lost, is_leaving)
    }

    /// After a failed write: closes the database and starts again from what the disk holds. Readers wait meanwhile.
    ///
    /// What was collected and not committed is gone; what a failed commit held may or may not be there. Places
    /// handed out for it may be used again if it is not. Cursors keep what was delivered.
    /// Where bytes were not what was written, the store is first written anew (see `repair`), and what is lost is noted.
    /// A disk that still takes no writes is found by a small file of ours, before anything is closed: reading goes on.
    /// After an error the store stays poisoned, and it may be tried again; if opening failed, readers say `Closed`.
    /// Gives back what the writing anew could not take over, if that was done.
    pub fn try_recover(&mut self) -> Result<Option<repair::Repaired>, OpenError> {
        if self.poison.is_none() {
            return Ok(None);
        }
        self.home.probe()?;
        self.home.lock_again()?;
        self.staging.clear();
        let shared = self.reader.shared.clone();
        shared.replace_engine(None);
        let mut repaired = None;
        if self.poison.as_ref().is_some_and(|fault| fault.kind == FaultKind::Corrupt) {
            // A sorted file that RocksDB cannot merge would poison us again and again.
            let done = repair::rebuild(&self.options, &self.home)?;
            for (name, lost) in &done.lost {
                let range = (lost.from.get(), lost.up_to.get());
                let known = shared.lanes.get(lost.lane);
                let lane = known.unwrap_or_else(|_| recovery::empty_lane(lost.lane, name.clone()));
                shared.notes.note(LossKind::Damaged, &lane, 1, range, 0);
            }
            repaired = Some(done);
        }
        let engine = Engine::open(&self.options, &self.home.engine_path(), false)?;
        let found = recovery::load(&engine, self.home.root())?;
        recovery::refresh(found.lanes, &shared.lanes);
        shared.replace_engine(Some(engine));
        self.next_lane = self.next_lane.max(found.next_lane);
        self.retention = Retention::default();
        self.retention.start(&shared.lanes.all());
        self.poison = None;
        self.noted_log = 0;
        match self.tidy_at_start(&found.orphans) {
            // What was written anew is to be told; who writes next finds the poison.
            Err(_) if repaired.is_some() => {}
            begun => begun?,
        }
        Ok(repaired)
    }

    /// Stops writing if the directory of the store is not the one that was opened: what is written to files that nobody finds
    /// again is kept for nobody. [`Log::try_recover`] goes on with what stands there. Cost: a look at one directory.
    pub fn check_place(&mut self) -> Result<(), StoreError> {
        self.check_poison()?;
        if self.reader.shared.engine()?.is_at_its_place() {
            return Ok(());
        }
        let path = self.home.engine_path();
        let detail = format!("{} is not the directory that was opened", path.display()).into();
        let fault = self.poison.insert(Fault { kind: FaultKind::Io, detail });
        Err(StoreError::Poisoned(fault.clone()))
    }

    /// What a start writes of its own; what it reads of the middle of lanes is known also where nothing can be written.
    fn tidy_at_start(&mut self, orphans: &[LaneId]) -> Result<(), OpenError> {
        let dropped = self.drop_orphans(orphans);
        self.start_middle();
        dropped
    }

    /// What expires where, and what has, as the disk knows it. What it knows wrong is set right with the next commit: it saves
    /// work at the next start, and a store that takes no writes now opens all the same.
    fn start_middle(&mut self) {
        let shared = self.reader.shared.clone();
        let Ok(engine) = shared.engine() else { return };
        let own = recovery::load_own(&engine, &shared.lanes);
        let options = &self.options;
        self.middle = Middle::start(
            options.expiry_entries_max(),
            &own,
            &shared.lanes,
            engine.family(FAMILY_STATE),
            &mut self.staging.batch,
            |lane| options.leaves_whole(&lane.name),
        );
    }

    /// So that its absence is noticed at the next start. Where nothing is synced nobody can tell.
    fn note_newest_log(&mut self) {
        if self.options.sync {
            // Without the note only less is noticed.
            newest_log::note(self.home.root(), &self.home.engine_path(), &mut self.noted_log).ok();
        }
    }

    /// Makes everything collected durable, writes the cursors and closes the store.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.mark_passed();
        self.commit()?;
        let engine = self.reader.shared.engine()?;
        let synced = engine.db.flush_wal(true);
        drop(engine);
        synced.map_err(|e| self.poison_with(e))
    }

    /// Refuses if an earlier write failed.
    pub(crate) fn check_poison(&self) -> Result<(), StoreError> {
        match &self.poison {
            None => Ok(()),
            Some(fault) => Err(StoreError::Poisoned(fault.clone())),
        }
    }

    /// From now on nothing is written.
    pub(crate) fn poison_with(&mut self, error: rocksdb::Error) -> StoreError {
        let fault = Fault::from(error);
        self.poison = Some(fault.clone());
        StoreError::Poisoned(fault)
    }

    /// Writes a batch; poisons if that fails.
    pub(crate) fn write(&mut self, batch: WriteBatch, sync: bool) -> Result<(), StoreError> {
        self.check_poison()?;
        let shared = self.reader.shared.clone();
        let bytes = batch.size_in_bytes() as u64;
        let mut how = WriteOptions::default();
        how.set_sync(sync);
        shared.engine()?.db.write_opt(batch, &how).map_err(|e| self.poison_with(e))?;
        stats::add(&shared.counters.written_bytes, bytes);
        stats::add(&shared.counters.syncs, u64::from(sync));
        Ok(())
    }

    /// Adds the cursors that moved to `batch`, and remembers that their lanes may have space to give back.
    pub(crate) fn put_moved_heads(&mut self, batch: &mut WriteBatch) -> Result<(), StoreError> {
        self.reader.shared.lanes.take_moved(&mut self.moved);
        if self.moved.is_empty() {
            return Ok(());
        }
        let engine = self.reader.shared.engine()?;
        let family = engine.family(FAMILY_LANES);
        for lane in self.moved.drain(..) {
            // A lane that was removed meanwhile must not leave a cursor without a name behind.
            if self.reader.shared.lanes.get(lane.id).is_ok() {
                batch.put_cf(family, keys::lane_head(lane.id), lane.head().to_be_bytes());
                self.retention.note_moved(lane.id);
            }
        }
        Ok(())
    }

    /// Heads that passed over places go with what is written next.
    fn mark_passed(&mut self) {
        for lane in std::mem::take(&mut self.passed).into_values() {
            self.reader.shared.lanes.mark_moved(&lane);
        }
    }

    fn drop_orphans(&mut self, orphans: &[LaneId]) -> Result<(), OpenError> {
        let mut batch = WriteBatch::default();
        for &lane in orphans {
            let Ok(engine) = self.reader.shared.engine() else { break };
            batch.delete_range_cf(engine.family(FAMILY_LOG), keys::lane_start(lane), keys::lane_end(lane));
        }
        if batch.is_empty() {
            return Ok(());
        }
        match self.write(batch, false) {
            Err(StoreError::Poisoned(fault)) => Err(recovery::into_open_error(self.home.root(), fault)),
            _ => Ok(()),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Readers may live on; the directory must be free when we are gone.
        self.reader.shared.replace_engine(None);
    }
}

impl CommitLog for Log {
    fn lane(&mut self, name: &str) -> Result<LaneId, StoreError> {
        if let Some(lane) = self.find_lane(name) {
            return Ok(lane);
        }
        self.check_poison()?;
        if name.is_empty() || name.len() > LANE_NAME_BYTES_MAX {
            return Err(StoreError::LaneName { bytes: name.len() });
        }
        let id = LaneId(self.next_lane);
        let next = self.next_lane.checked_add(1).ok_or(StoreError::TooManyLanes)?;
        let engine = self.reader.shared.engine()?;
        let family = engine.family(FAMILY_LANES);
        self.staging.batch.put_cf(family, KEY_NEXT_LANE, next.to_be_bytes());
        self.staging.batch.put_cf(family, keys::lane_name(id), name);
        self.next_lane = next;
        self.reader.shared.lanes.insert(recovery::empty_lane(id, name.into()));
        Ok(id)
    }

    fn find_lane(&self, name: &str) -> Option<LaneId> {
        self.reader.find_lane(name)
    }

    fn append(
        &mut self,
        lane: LaneId,
        parts: &[&[u8]],
        enqueued: Timestamp,
        expires: Option<Timestamp>,
    ) -> Result<Seq, StoreError> {
        self.check_poison()?;
        let payload_bytes: usize = parts.iter().map(|part| part.len()).sum();
        let record_bytes = (RECORD_OVERHEAD_BYTES + payload_bytes) as u64;
        let staged_bytes = self.staging.bytes();
        // The second bound is that of the length field.
        let limit_bytes = self.options.commit_bytes_max.min(u64::from(u32::MAX));
        if record_bytes > limit_bytes {
            return Err(StoreError::RecordTooLarge { record_bytes, limit_bytes });
        }
        if staged_bytes + record_bytes > limit_bytes {
            return Err(StoreError::CommitFull { staged_bytes, record_bytes, limit_bytes });
        }
        let slot = match self.staging.slot(lane) {
            Some(slot) => slot,
            None => self.staging.open_slot(self.reader.shared.lanes.get(lane)?),
        };
        if self.staging.must_close(slot, record_bytes, expires) {
            let engine = self.reader.shared.engine()?;
            self.staging.close_block(slot, engine.family(FAMILY_LOG));
        }
        Ok(self.staging.push(slot, lane, parts, payload_bytes, enqueued, expires))
    }

    fn staged_bytes(&self) -> u64 {
        self.staging.bytes()
    }

    fn commit(&mut self) -> Result<Committed<'_>, StoreError> {
        self.check_poison()?;
        self.committed.clear();
        let (mut records, mut bytes) = (0, 0);
        if self.staging.is_empty() {
            debug_assert!(!self.middle.has_pending(), "what is taken out is in the batch");
            self.flush_cursors()?;
            return Ok(Committed { records, bytes, lanes: &self.committed });
        }
        self.staging.close_all(self.reader.shared.engine()?.family(FAMILY_LOG));
        let mut batch = self.staging.take_batch();
        // A record behind a hole, and the head that knows of the hole: in one batch.
        self.mark_passed();
        self.put_moved_heads(&mut batch)?;
        self.mark_timed(&mut batch)?;
        self.write(batch, self.options.sync)?;
        for growth in self.staging.growth() {
            growth.lane.set_tail(growth.tail, growth.appended_bytes);
            records += growth.records;
            bytes += growth.bytes;
            if let Some(last) = Seq::new(growth.tail - 1) {
                self.committed.push((growth.lane.id, last));
            }
        }
        self.middle_is_durable();
        self.staging.clear();
        self.retention.on_commit();
        let counters = &self.reader.shared.counters;
        stats::add(&counters.commits, 1);
        stats::add(&counters.records, records);
        stats::add(&counters.record_bytes, bytes);
        Ok(Committed { records, bytes, lanes: &self.committed })
    }

    fn advance(&mut self, lane: LaneId, up_to: Seq) -> Result<(), StoreError> {
        self.reader.advance(lane, up_to)
    }

    fn deliver_ahead(&mut self, lane: LaneId, from: Seq, up_to: Seq) -> Result<(), StoreError> {
        self.reader.deliver_ahead(lane, from, up_to)
    }

    fn pass(&mut self, lane: LaneId, up_to: Seq) -> Result<(), StoreError> {
        self.check_poison()?;
        let lane = self.reader.shared.lanes.get(lane)?;
        if self.staging.slot(lane.id).is_some() {
            return Err(StoreError::Collecting(lane.id));
        }
        if lane.pass(up_to.get()) {
            self.passed.insert(lane.id, lane);
        }
        Ok(())
    }

    fn flush_cursors(&mut self) -> Result<(), StoreError> {
        self.check_poison()?;
        let mut batch = WriteBatch::default();
        self.put_moved_heads(&mut batch)?;
        if batch.is_empty() { Ok(()) } else { self.write(batch, false) }
    }

    fn drop_oldest(&mut self, lane: LaneId, bytes: u64) -> Result<Vec<Lost>, StoreError> {
        self.give_up_oldest(lane, bytes)
    }

    fn expire(&mut self, now: Timestamp) -> Result<Expired, StoreError> {
        self.pass_expired(now)
    }

    fn reclaim(&mut self, now: Timestamp) -> Result<bool, StoreError> {
        self.note_newest_log();
        self.give_back_space(now)
    }

    fn remove_lane(&mut self, lane: LaneId) -> Result<(), StoreError> {
        self.check_poison()?;
        let removed = self.reader.shared.lanes.get(lane)?;
        let staged = self.staging.drop_lane(lane);
        self.drop_blocks_of(&removed, staged)?;
        self.forget_middle_of(&removed)?;
        let engine = self.reader.shared.engine()?;
        let family = engine.family(FAMILY_LANES);
        self.staging.batch.delete_cf(family, keys::lane_name(lane));
        self.staging.batch.delete_cf(family, keys::lane_head(lane));
        drop(engine);
        self.reader.shared.lanes.remove(lane);
        self.reader.shared.notes.forget(lane);
        Ok(())
    }

    fn state_put(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.check_poison()?;
        let engine = self.reader.shared.engine()?;
        self.staging.batch.put_cf(engine.family(FAMILY_STATE), read::state_key(space, key), value);
        Ok(())
    }

    fn state_delete(&mut self, space: Space, key: &[u8]) -> Result<(), StoreError> {
        self.check_poison()?;
        let engine = self.reader.shared.engine()?;
        self.staging.batch.delete_cf(engine.family(FAMILY_STATE), read::state_key(space, key));
        Ok(())
    }

    fn read_lane(
        &self,
        lane: LaneId,
        from: Seq,
        limits: ReadLimits,
        now: Timestamp,
        out: &mut ReadOut,
    ) -> Result<(), StoreError> {
        self.reader.read_lane(lane, from, limits, now, out)
    }

    fn lane_state(&self, lane: LaneId) -> Result<LaneState, StoreError> {
        self.reader.lane_state(lane)
    }

    fn lanes(&self) -> Result<Vec<LaneState>, StoreError> {
        self.reader.lanes()
    }

    fn state_get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.reader.state_get(space, key)
    }

    fn state_scan(&self, space: Space, prefix: &[u8], visit: StateVisitor<'_>) -> Result<(), StoreError> {
        self.reader.state_scan(space, prefix, visit)
    }

    fn invariants(&self) {
        self.reader.shared.lanes.invariants();
        for growth in self.staging.growth() {
            assert!(
                growth.tail == growth.lane.tail() + growth.records,
                "places are handed out without a hole"
            );
        }
        assert!(self.staging.bytes() <= self.options.commit_bytes_max);
    }
}
