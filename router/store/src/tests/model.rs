//! Random operations against a plain model, on the disk and in memory: both must answer like a list of lanes.
//!
//! The model predicts everything but two things that depend on how records are grouped: how much `reclaim` and
//! `drop_oldest` take. There it judges what they say: from the head on, only what may go, and gone afterwards. What is delivered
//! behind the head goes without a word; the model sees what is gone, and that nothing else is.

use super::*;
use crate::{Lost, MemoryLog, Space, StateVisitor};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

#[derive(Clone, Debug)]
enum Step {
    Lane(u8),
    Append {
        lane: u8,
        count: u16,
        length: usize,
        lives: Option<u16>,
    },
    Commit,
    Advance {
        lane: u8,
        share: u8,
    },
    Pass {
        lane: u8,
        holes: u8,
    },
    Ahead {
        lane: u8,
        share: u8,
        count: u16,
    },
    FlushCursors,
    DropOldest {
        lane: u8,
        bytes: u32,
    },
    Reclaim,
    Remove(u8),
    Read {
        lane: u8,
        share: u8,
        messages_max: usize,
        bytes_max: usize,
    },
    Put {
        key: u8,
        value: u8,
    },
    Delete(u8),
    Wait(u16),
    /// Somebody sets the clock.
    Jump(i16),
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    let lane = 0..4u8;
    prop_oneof![
        2 => lane.clone().prop_map(Step::Lane),
        8 => (lane.clone(), 1..400u16, 0..600usize, proptest::option::of(0..2_000u16))
            .prop_map(|(lane, count, length, lives)| Step::Append { lane, count, length, lives }),
        6 => Just(Step::Commit),
        4 => (lane.clone(), any::<u8>()).prop_map(|(lane, share)| Step::Advance { lane, share }),
        3 => (lane.clone(), 0..20u8).prop_map(|(lane, holes)| Step::Pass { lane, holes }),
        3 => (lane.clone(), any::<u8>(), 1..600u16)
            .prop_map(|(lane, share, count)| Step::Ahead { lane, share, count }),
        1 => Just(Step::FlushCursors),
        1 => (lane.clone(), 0..100_000u32).prop_map(|(lane, bytes)| Step::DropOldest { lane, bytes }),
        4 => Just(Step::Reclaim),
        1 => lane.clone().prop_map(Step::Remove),
        4 => (lane, any::<u8>(), 0..500usize, 0..200_000usize)
            .prop_map(|(lane, share, messages_max, bytes_max)| Step::Read { lane, share, messages_max, bytes_max }),
        2 => (0..9u8, any::<u8>()).prop_map(|(key, value)| Step::Put { key, value }),
        1 => (0..9u8).prop_map(Step::Delete),
        3 => (0..3_000u16).prop_map(Step::Wait),
        1 => (-5_000..5_000i16).prop_map(Step::Jump),
        2 => Just(Step::Reopen),
    ]
}

/// The length of a place that was passed over.
const PASSED: usize = usize::MAX;

#[derive(Clone, Default)]
struct ModelLane {
    id: Option<LaneId>,
    /// Of every record ever committed: length and expiry. Its place is its index + 1. Places that were passed over have no
    /// length.
    records: Vec<(usize, Option<Timestamp>)>,
    staged: Vec<(usize, Option<Timestamp>)>,
    /// Places whose records were taken out, and those that have expired and of which the next commit does so.
    husks: BTreeSet<u64>,
    coming: BTreeSet<u64>,
    /// Places that are delivered behind the head, and whether that is to be seen.
    ahead: BTreeSet<u64>,
    has_ahead: bool,
    head: u64,
    /// Where the head is written at least.
    kept_head: u64,
    /// The head passed over places and need not be written yet; the last place that has a record, or that one before
    /// the head that is written.
    passed: bool,
    kept_tail: u64,
    durable: bool,
}

#[derive(Default)]
struct Model {
    lanes: BTreeMap<u8, ModelLane>,
    /// Durable lanes whose removal is not committed.
    removed: BTreeMap<u8, ModelLane>,
    state: BTreeMap<Vec<u8>, Vec<u8>>,
    staged_state: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    used: Vec<LaneId>,
    /// Something was removed that was never durable, or is taken out without a word: there is something to write all the same.
    removed_unseen: bool,
    now: u64,
}

impl Model {
    fn commit(&mut self) -> u64 {
        let mut records = 0;
        let is_new = |lane: &ModelLane| !lane.durable || !lane.staged.is_empty() || !lane.coming.is_empty();
        let is_empty = self.staged_state.is_empty()
            && self.removed.is_empty()
            && !self.removed_unseen
            && !self.lanes.values().any(is_new);
        self.removed_unseen = false;
        for lane in self.lanes.values_mut() {
            records += lane.staged.len() as u64;
            if !lane.staged.is_empty() {
                lane.records.append(&mut lane.staged);
                lane.kept_tail = lane.records.len() as u64 + 1;
            }
            lane.durable = true;
            lane.husks.append(&mut lane.coming);
            if !(is_empty && lane.passed) {
                (lane.kept_head, lane.passed) = (lane.head, false);
                lane.kept_tail = lane.kept_tail.max(lane.head);
            }
        }
        self.removed.clear();
        for (key, value) in self.staged_state.drain(..) {
            match value {
                Some(value) => self.state.insert(key, value),
                None => self.state.remove(&key),
            };
        }
        records
    }

    /// A restart without a commit. Heads are somewhere between what was written and what was in memory.
    fn reopen(&mut self, log: &dyn CommitLog) {
        self.staged_state.clear();
        self.removed_unseen = false;
        let removed = std::mem::take(&mut self.removed);
        self.lanes.retain(|_, lane| lane.durable);
        self.lanes.extend(removed);
        for lane in self.lanes.values_mut() {
            lane.staged.clear();
            lane.coming.clear();
            lane.ahead.clear();
            let head = log.lane_state(lane.id.unwrap()).unwrap().head.get();
            assert!(
                lane.kept_head <= head && head <= lane.head,
                "{} ≤ {head} ≤ {}",
                lane.kept_head,
                lane.head
            );
            lane.head = head;
            // Places that were passed over and that nothing written names are free again.
            lane.passed = false;
            lane.kept_tail = lane.kept_tail.max(head);
            lane.records.truncate(lane.kept_tail as usize - 1);
        }
    }

    /// At the head, or behind it with `now`.
    fn check_lost(&mut self, log: &dyn CommitLog, lost: Lost, now: Option<Timestamp>) {
        let head = log.lane_state(lost.lane).unwrap().head.get();
        let lane = self.lanes.values_mut().find(|lane| lane.id == Some(lost.lane)).unwrap();
        let places = lost.from.get()..=lost.up_to.get();
        let gone = &lane.records[*places.start() as usize - 1..*places.end() as usize];
        assert_eq!(
            lost.bytes,
            gone.iter().map(|(length, _)| (length + crate::RECORD_OVERHEAD_BYTES) as u64).sum::<u64>()
        );
        let is_told = |place: u64| lane.husks.contains(&place) || lane.coming.contains(&place);
        assert!(!places.clone().any(is_told), "each place is told once");
        assert!(lane.head <= *places.start(), "what is delivered is not lost");
        assert!(!places.clone().any(|place| lane.ahead.contains(&place)), "behind the head, too");
        if let Some(now) = now {
            assert!(
                gone.iter().all(|(_, expires)| expires.is_some_and(|at| at <= now)),
                "only what has expired"
            );
        }
        let is_needless = |place: u64| is_told(place) || lane.ahead.contains(&place);
        if *places.end() < head {
            assert!((lane.head..*places.start()).all(is_needless), "the oldest go first");
            lane.head = *places.end() + 1;
        } else {
            assert!(head <= *places.start() && now.is_some(), "from the head on");
            lane.coming.extend(places);
        }
    }

    /// What is gone from behind heads without a word is delivered.
    fn see_what_is_gone(&mut self, log: &dyn CommitLog) {
        for lane in self.lanes.values_mut().filter(|lane| lane.has_ahead) {
            let id = lane.id.unwrap();
            // At the beginning of time nothing has expired.
            let (there, _) = read_all(log, id, seq(1), Timestamp(0)).unwrap();
            let there: BTreeSet<_> = there.into_iter().map(|(place, _)| place).collect();
            for place in lane.head..=lane.records.len() as u64 {
                let is_gone = !there.contains(&place) && !lane.husks.contains(&place);
                assert!(!is_gone || lane.ahead.contains(&place), "{place} is not delivered, and gone");
                lane.husks.extend(is_gone.then_some(place));
            }
        }
    }

    /// Heads may have passed over what was told.
    fn follow_heads(&mut self, log: &dyn CommitLog) {
        for lane in self.lanes.values_mut() {
            let head = log.lane_state(lane.id.unwrap()).unwrap().head.get();
            let told = [&lane.husks, &lane.coming, &lane.ahead];
            let is_needless = |place| told.iter().any(|places| places.contains(&place));
            assert!((lane.head..head).all(is_needless), "heads pass over husks alone");
            lane.head = lane.head.max(head);
        }
    }

    fn check(&self, log: &dyn CommitLog) {
        log.invariants();
        let known: Vec<_> = log.lanes().unwrap().into_iter().map(|lane| lane.id).collect();
        let mut expected: Vec<_> = self.lanes.values().map(|lane| lane.id.unwrap()).collect();
        expected.sort_unstable();
        assert_eq!(known, expected);
        for lane in self.lanes.values() {
            let state = log.lane_state(lane.id.unwrap()).unwrap();
            let tail = lane.records.len() as u64 + 1;
            assert_eq!((state.head.get(), state.tail.get()), (lane.head, tail));
            let live = (lane.head..).zip(&lane.records[lane.head as usize - 1..]);
            let live: Vec<_> = live.filter(|(place, _)| !lane.husks.contains(place)).collect();
            assert!(live.iter().all(|(_, (length, _))| *length != PASSED), "holes are before the head");
            assert_eq!(state.messages(), live.len() as u64);
            assert_eq!(state.bytes, live.iter().map(|(_, (length, _))| (length + 24) as u64).sum::<u64>());
            assert_eq!(state.oldest.is_some(), live.first().is_some_and(|(place, _)| *place == lane.head));
        }
        let mut seen = BTreeMap::new();
        log.state_scan(Space(1), b"k", &mut |key, value| {
            seen.insert(key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(seen, self.state);
    }

    fn read(&self, log: &dyn CommitLog, lane: u8, share: u8, limits: ReadLimits) {
        let Some(lane) = self.lanes.get(&lane) else { return };
        let (id, now) = (lane.id.unwrap(), Timestamp(self.now));
        let tail = lane.records.len() as u64 + 1;
        let from = (1 + tail * u64::from(share) / 255).min(tail);
        let mut out = ReadOut::new();
        log.read_lane(id, seq(from), limits, now, &mut out).unwrap();
        let mut next = from.max(lane.head);
        let mut expired = 0;
        let mut bytes = 0;
        let is_husk = |place: u64| lane.husks.contains(&place);
        let is_lost = |place: u64| !is_husk(place) && !lane.ahead.contains(&place);
        let is_expired =
            |place: u64| is_husk(place) || lane.records[place as usize - 1].1.is_some_and(|at| at <= now);
        for record in out.records() {
            while next < record.seq.get() {
                assert!(is_expired(next), "only what has expired is skipped");
                (next, expired) = (next + 1, expired + u64::from(is_lost(next)));
            }
            assert!(!is_expired(next));
            let (length, expires) = lane.records[next as usize - 1];
            assert_eq!((record.seq.get(), record.expires), (next, expires));
            assert_eq!(record.bytes, payload(id, next, length));
            bytes += length + 24;
            next += 1;
        }
        while next < out.next().get() {
            assert!(is_expired(next));
            (next, expired) = (next + 1, expired + u64::from(is_lost(next)));
        }
        assert_eq!(out.next().get(), next);
        assert_eq!(out.expired_messages(), expired);
        assert!(out.len() <= limits.messages_max.max(1));
        assert!(out.len() == 1 || bytes <= limits.bytes_max || out.is_empty());
        let full = out.len() >= limits.messages_max
            || next < tail && bytes + lane.records[next as usize - 1].0 + 24 > limits.bytes_max;
        assert!(next == tail || full, "it stops only at the end or when full");
    }
}

fn run(steps: &[Step], log: &mut Box<dyn CommitLog>, mut reopen: impl FnMut(&mut Box<dyn CommitLog>)) {
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Lane(name) => {
                let id = log.lane(&format!("lane {name}")).unwrap();
                let lane = model.lanes.entry(*name).or_insert_with(|| {
                    assert!(!model.used.contains(&id), "numbers are not reused");
                    ModelLane { id: Some(id), head: 1, kept_head: 1, kept_tail: 1, ..ModelLane::default() }
                });
                assert_eq!(lane.id, Some(id));
            }
            Step::Append { lane, count, length, lives } => {
                let Some(lane) = model.lanes.get_mut(lane) else { continue };
                let id = lane.id.unwrap();
                for at in 0..*count {
                    let length = (length + usize::from(at)) % 600;
                    let expires = lives.map(|lives| Timestamp((model.now + u64::from(lives)).max(1)));
                    let place = (lane.records.len() + lane.staged.len()) as u64 + 1;
                    let bytes = payload(id, place, length);
                    let parts = bytes.split_at(length / 3);
                    assert_eq!(
                        log.append(id, &[parts.0, parts.1], Timestamp(model.now), expires),
                        Ok(seq(place))
                    );
                    lane.staged.push((length, expires));
                }
            }
            Step::Commit => {
                assert_eq!(log.commit().unwrap().records, model.commit());
                model.see_what_is_gone(log.as_ref());
            }
            Step::Advance { lane, share } => {
                let Some(lane) = model.lanes.get_mut(lane) else { continue };
                let up_to = lane.records.len() as u64 * u64::from(*share) / 255;
                if up_to > 0 {
                    log.advance(lane.id.unwrap(), seq(up_to)).unwrap();
                    lane.head = lane.head.max(up_to + 1);
                }
            }
            Step::Pass { lane, holes } => {
                let Some(lane) = model.lanes.get_mut(lane) else { continue };
                let (id, end) = (lane.id.unwrap(), lane.records.len() as u64);
                let up_to = (end + u64::from(*holes)).max(1);
                if !lane.staged.is_empty() {
                    assert_eq!(log.pass(id, seq(up_to)), Err(StoreError::Collecting(id)));
                    continue;
                }
                log.pass(id, seq(up_to)).unwrap();
                lane.records.resize(lane.records.len().max(up_to as usize), (PASSED, None));
                lane.passed |= lane.head <= up_to;
                lane.head = lane.head.max(up_to + 1);
            }
            Step::Ahead { lane, share, count } => {
                let Some(lane) = model.lanes.get_mut(lane) else { continue };
                let from = lane.records.len() as u64 * u64::from(*share) / 255 + 1;
                let up_to = from + u64::from(*count);
                log.deliver_ahead(lane.id.unwrap(), seq(from), seq(up_to)).unwrap();
                let end = lane.records.len() as u64 + 1;
                lane.ahead.extend((from.max(lane.head)..end).take_while(|place| *place <= up_to));
                lane.has_ahead = true;
            }
            Step::FlushCursors => log.flush_cursors().unwrap(),
            Step::DropOldest { lane, bytes } => {
                let Some(lane) = model.lanes.get(lane) else { continue };
                for lost in log.drop_oldest(lane.id.unwrap(), u64::from(*bytes)).unwrap() {
                    assert!(*bytes > 0);
                    model.check_lost(log.as_ref(), lost, None);
                }
                model.follow_heads(log.as_ref());
            }
            Step::Reclaim => {
                let now = Timestamp(model.now);
                let expired = log.expire(now).unwrap();
                model.removed_unseen |= expired.collected;
                expired.lost.into_iter().for_each(|lost| model.check_lost(log.as_ref(), lost, Some(now)));
                model.follow_heads(log.as_ref());
                log.reclaim(now).unwrap();
            }
            Step::Remove(lane) => {
                let Some(gone) = model.lanes.remove(lane) else { continue };
                log.remove_lane(gone.id.unwrap()).unwrap();
                if gone.durable {
                    model.used.extend(gone.id);
                    // Only the durable one comes back after a crash; one that replaced it was never committed.
                    model.removed.entry(*lane).or_insert(gone);
                } else {
                    model.removed_unseen = true;
                }
            }
            Step::Read { lane, share, messages_max, bytes_max } => {
                let limits = ReadLimits { messages_max: *messages_max, bytes_max: *bytes_max };
                model.read(log.as_ref(), *lane, *share, limits);
            }
            Step::Put { key, value } => {
                let (key, value) = (vec![b'k', *key], vec![*value; usize::from(*value)]);
                log.state_put(Space(1), &key, &value).unwrap();
                model.staged_state.push((key, Some(value)));
            }
            Step::Delete(key) => {
                log.state_delete(Space(1), &[b'k', *key]).unwrap();
                model.staged_state.push((vec![b'k', *key], None));
            }
            Step::Wait(millis) => model.now += u64::from(*millis),
            Step::Jump(millis) => model.now = model.now.saturating_add_signed(i64::from(*millis)),
            Step::Reopen => {
                reopen(log);
                model.reopen(log.as_ref());
            }
        }
        model.check(log.as_ref());
    }
    // What the lanes end with is what went in.
    for (name, lane) in &model.lanes {
        let (records, expired) =
            read_all(log.as_ref(), lane.id.unwrap(), seq(1), Timestamp(model.now)).unwrap();
        let given: BTreeSet<_> = records.iter().map(|(place, _)| *place).collect();
        let is_lost = |place: &u64| {
            !lane.husks.contains(place) && !lane.ahead.contains(place) && !given.contains(place)
        };
        let lost = (lane.head..=lane.records.len() as u64).filter(is_lost).count() as u64;
        assert_eq!(expired, lost, "lane {name}");
        let is_over = |place: u64| lane.records[place as usize - 1].1.is_some_and(|at| at.0 <= model.now);
        let is_given = |place: u64| given.contains(&place) || lane.husks.contains(&place) || is_over(place);
        assert!((lane.head..=lane.records.len() as u64).all(is_given), "lane {name}");
    }
}

/// So many runs, unless `PROPTEST_CASES` says otherwise.
fn cases(usual: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(usual),
        max_shrink_iters: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn the_log_on_disk_is_a_list_of_lanes(steps in vec(any_step(), 1..80)) {
        let directory = tempfile::tempdir().unwrap();
        // No waiting for the disk here: what is checked does not depend on it.
        let options = Options { sync: false, ..options(&directory) };
        let mut log: Box<dyn CommitLog> = Box::new(Log::open(&options).unwrap());
        run(&steps, &mut log, |log| {
            *log = Box::new(MemoryLog::new(0)); // the old one must be gone first
            *log = Box::new(Log::open(&options).unwrap());
        });
        drop(log);
        let report = crate::Inspection::open(&options.path).unwrap().verify().unwrap();
        prop_assert_eq!(report.problems, Vec::<String>::new());
        prop_assert_eq!(report.orphan_blocks, 0);
    }
}

/// A restart of the memory log, as the trait object that `run` holds cannot crash.
#[derive(Clone)]
struct Shared(std::rc::Rc<std::cell::RefCell<MemoryLog>>);

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn the_log_in_memory_is_a_list_of_lanes(steps in vec(any_step(), 1..80)) {
        let memory = Shared(std::rc::Rc::new(std::cell::RefCell::new(MemoryLog::new(8 << 20))));
        let mut log: Box<dyn CommitLog> = Box::new(memory.clone());
        run(&steps, &mut log, |_| memory.0.borrow_mut().crash());
    }
}

impl CommitLog for Shared {
    fn lane(&mut self, name: &str) -> Result<LaneId, StoreError> {
        self.0.borrow_mut().lane(name)
    }
    fn find_lane(&self, name: &str) -> Option<LaneId> {
        self.0.borrow().find_lane(name)
    }
    fn append(
        &mut self,
        lane: LaneId,
        parts: &[&[u8]],
        at: Timestamp,
        expires: Option<Timestamp>,
    ) -> Result<Seq, StoreError> {
        self.0.borrow_mut().append(lane, parts, at, expires)
    }
    fn staged_bytes(&self) -> u64 {
        self.0.borrow().staged_bytes()
    }
    fn commit(&mut self) -> Result<crate::Committed<'_>, StoreError> {
        let mut log = self.0.borrow_mut();
        let done = log.commit()?;
        Ok(crate::Committed { records: done.records, bytes: done.bytes, lanes: &[] })
    }
    fn advance(&mut self, lane: LaneId, up_to: Seq) -> Result<(), StoreError> {
        self.0.borrow_mut().advance(lane, up_to)
    }
    fn deliver_ahead(&mut self, lane: LaneId, from: Seq, up_to: Seq) -> Result<(), StoreError> {
        self.0.borrow_mut().deliver_ahead(lane, from, up_to)
    }
    fn pass(&mut self, lane: LaneId, up_to: Seq) -> Result<(), StoreError> {
        self.0.borrow_mut().pass(lane, up_to)
    }
    fn flush_cursors(&mut self) -> Result<(), StoreError> {
        self.0.borrow_mut().flush_cursors()
    }
    fn drop_oldest(&mut self, lane: LaneId, bytes: u64) -> Result<Vec<Lost>, StoreError> {
        self.0.borrow_mut().drop_oldest(lane, bytes)
    }
    fn expire(&mut self, now: Timestamp) -> Result<crate::Expired, StoreError> {
        self.0.borrow_mut().expire(now)
    }
    fn reclaim(&mut self, now: Timestamp) -> Result<bool, StoreError> {
        self.0.borrow_mut().reclaim(now)
    }
    fn remove_lane(&mut self, lane: LaneId) -> Result<(), StoreError> {
        self.0.borrow_mut().remove_lane(lane)
    }
    fn state_put(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.0.borrow_mut().state_put(space, key, value)
    }
    fn state_delete(&mut self, space: Space, key: &[u8]) -> Result<(), StoreError> {
        self.0.borrow_mut().state_delete(space, key)
    }
    fn read_lane(
        &self,
        lane: LaneId,
        from: Seq,
        limits: ReadLimits,
        now: Timestamp,
        out: &mut ReadOut,
    ) -> Result<(), StoreError> {
        self.0.borrow().read_lane(lane, from, limits, now, out)
    }
    fn lane_state(&self, lane: LaneId) -> Result<crate::LaneState, StoreError> {
        self.0.borrow().lane_state(lane)
    }
    fn lanes(&self) -> Result<Vec<crate::LaneState>, StoreError> {
        self.0.borrow().lanes()
    }
    fn state_get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.borrow().state_get(space, key)
    }
    fn state_scan(&self, space: Space, prefix: &[u8], visit: StateVisitor<'_>) -> Result<(), StoreError> {
        self.0.borrow().state_scan(space, prefix, visit)
    }
    fn invariants(&self) {
        self.0.borrow().invariants();
    }
}
