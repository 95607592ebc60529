//! The disk of the bench: what is durable, what is only in memory, and what an upstream has taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::{Instant, LaneId, Seq, ShardId, SpillTicket, Ticket, Timestamp};

use super::{Job, RECORD_OVERHEAD};
use crate::envelope::Envelope;
use crate::front::{Front, Held, Progress, Safe};
use crate::sessions::record::decode_head;
use crate::{AppendTray, StateSpace, Write};

/// One durable record.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) expires: Option<Timestamp>,
    pub(crate) bytes: Vec<u8>,
}

impl Record {
    /// A place that was passed over.
    fn hole() -> Record {
        Record { expires: None, bytes: Vec::new() }
    }
}

/// A disk that does one job when it is told to. What waits in `jobs` is lost in a crash.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(super) jobs: VecDeque<Job>,
    pub(crate) lanes: BTreeMap<LaneId, Vec<Record>>,
    pub(crate) heads: BTreeMap<LaneId, Seq>,
    /// The heads that a crash leaves: those at the last write, as in the store.
    pub(super) durable_heads: BTreeMap<LaneId, Seq>,
    pub(super) names: BTreeMap<String, LaneId>,
    pub(crate) state: BTreeMap<(StateSpace, Vec<u8>), Vec<u8>>,
    pub(crate) retained: BTreeMap<String, Vec<u8>>,
    pub(super) bytes: Vec<u64>,
    pub(super) synced: Vec<Ticket>,
    pub(super) lanes_made: u32,
    /// It takes no writes, and does nothing else either.
    pub(crate) fails: bool,
    /// Fronts take records: there is an upstream that keeps up.
    pub(crate) holds: bool,
    pub(crate) fronts: BTreeMap<LaneId, Front>,
    pub(super) safe: Vec<Safe>,
    /// Payloads that an upstream took.
    pub(crate) upstream: BTreeSet<String>,
    /// Its syncs are lies: a crash may take the last jobs that it said were done.
    pub(crate) lies: bool,
    /// What it had before each of those, the oldest first.
    before: VecDeque<Kept>,
}

/// What a disk has, and a crash leaves.
#[derive(Clone, Debug)]
struct Kept {
    lanes: BTreeMap<LaneId, Vec<Record>>,
    heads: BTreeMap<LaneId, Seq>,
    names: BTreeMap<String, LaneId>,
    state: BTreeMap<(StateSpace, Vec<u8>), Vec<u8>>,
    retained: BTreeMap<String, Vec<u8>>,
    lanes_made: u32,
}

/// Most jobs that a lie takes.
const LIES: usize = 24;

impl Disk {
    /// An empty one.
    pub(super) fn new(shards: usize) -> Disk {
        Disk {
            bytes: vec![0; shards],
            synced: vec![Ticket(0); shards],
            safe: (0..shards).map(|_| Safe::default()).collect(),
            ..Disk::default()
        }
    }

    /// Before a job whose sync may be a lie.
    pub(super) fn remember(&mut self) {
        if self.lies {
            self.before.drain(..(self.before.len() + 1).saturating_sub(LIES));
            self.before.push_back(Kept {
                lanes: self.lanes.clone(),
                heads: self.durable_heads.clone(),
                names: self.names.clone(),
                state: self.state.clone(),
                retained: self.retained.clone(),
                lanes_made: self.lanes_made,
            });
        }
    }

    /// The last jobs never were; whether there were any.
    pub(crate) fn lose(&mut self, jobs: usize) -> bool {
        let at = self.before.len().saturating_sub(jobs);
        let Some(kept) = self.before.drain(at..).next() else { return false };
        self.before.clear();
        self.heads = kept.lanes.keys().map(|lane| (*lane, Seq::FIRST)).collect();
        (self.lanes, self.durable_heads, self.names) = (kept.lanes, kept.heads, kept.names);
        (self.state, self.retained, self.lanes_made) = (kept.state, kept.retained, kept.lanes_made);
        true
    }

    pub(crate) fn lane(&mut self, name: &str) -> LaneId {
        if let Some(lane) = self.names.get(name) {
            return *lane;
        }
        self.lanes_made += 1;
        let lane = LaneId(self.lanes_made);
        self.names.insert(name.to_owned(), lane);
        self.lanes.insert(lane, Vec::new());
        self.heads.insert(lane, Seq::FIRST);
        lane
    }

    /// By name, as `tests::routing` calls them.
    pub(super) fn is_of_uplink(&self, lane: LaneId) -> bool {
        ["urgent", "default"].iter().any(|name| self.names.get(*name) == Some(&lane))
    }

    /// Bytes in the lanes of the uplink and in their fronts, overhead included.
    pub(crate) fn waits_for_uplink(&self) -> u64 {
        let lanes = self.lanes.iter().filter(|(lane, _)| self.is_of_uplink(**lane));
        let waiting =
            lanes.flat_map(|(lane, records)| records.iter().skip(self.heads[lane].get() as usize - 1));
        let waiting = waiting.filter(|record| !record.bytes.is_empty());
        let written: u64 = waiting.map(|record| record.bytes.len() as u64 + RECORD_OVERHEAD).sum();
        let fronts = self.fronts.iter().filter(|(lane, _)| self.is_of_uplink(**lane));
        written + fronts.map(|(_, front)| front.record_bytes(RECORD_OVERHEAD)).sum::<u64>()
    }

    pub(crate) fn find_lane(&self, name: &str) -> Option<LaneId> {
        self.names.get(name).copied()
    }

    pub(super) fn next(&self, lane: LaneId) -> Seq {
        Seq::new(self.lanes.get(&lane).map_or(0, Vec::len) as u64 + 1).unwrap()
    }

    /// The payloads of an uplink's lane.
    pub(crate) fn payloads(&self, lane: LaneId) -> Vec<String> {
        let records = self.lanes[&lane].iter().filter(|record| !record.bytes.is_empty());
        records.map(|record| payload_of(&record.bytes)).collect()
    }

    /// The payloads of a session's lane.
    pub(crate) fn session_payloads(&self, client_id: &str) -> Vec<String> {
        let Some(lane) = self.find_lane(&format!("s/{client_id}")) else { return Vec::new() };
        let text = |record: &Record| {
            let head = decode_head(&record.bytes).unwrap();
            Envelope::decode(head.envelope).unwrap().payload.to_vec()
        };
        self.lanes[&lane].iter().map(|record| String::from_utf8(text(record)).unwrap()).collect()
    }

    /// How many keys there are of one kind.
    pub(crate) fn keys(&self, space: StateSpace) -> usize {
        self.state.keys().filter(|(have, _)| *have == space).count()
    }

    pub(super) fn advance(&mut self, lane: LaneId, up_to: Seq) {
        let next = self.next(lane);
        if let Some(head) = self.heads.get_mut(&lane) {
            *head = up_to.next().max(*head);
            assert!(*head <= next, "only what is durable can be delivered");
        }
    }

    /// The upstream takes what comes next in a lane, from the log and then from the front.
    pub(crate) fn deliver(&mut self, lane: LaneId, count: usize) {
        let log_end = self.next(lane);
        let head = self.heads[&lane];
        let end = self.fronts.get(&lane).map_or(log_end, |front| front.end().max(log_end));
        let to = Seq::new(head.get().saturating_add(count as u64).min(end.get())).unwrap();
        let records = self.lanes.get_mut(&lane).unwrap();
        for record in &records[head.get() as usize - 1..(to.min(log_end).get() as usize - 1)] {
            self.upstream.insert(payload_of(&record.bytes));
        }
        if let Some(front) = self.fronts.get_mut(&lane) {
            let mut given = Vec::new();
            front.read(log_end.max(head), (count, usize::MAX), Timestamp(0), &mut given);
            let taken = given.iter().filter(|given| given.seq < to);
            self.upstream.extend(taken.map(|given| payload_of(&given.bytes)));
            let safe = &mut self.safe;
            front.delivered(to, |(shard, ticket)| safe[usize::from(shard.0)].is_safe(ticket));
            front.invariants();
        }
        // Places that are passed over.
        records.resize_with(records.len().max(to.get() as usize - 1), Record::hole);
        self.heads.insert(lane, to);
    }

    /// Everything in the front of a lane is written.
    pub(crate) fn write_front(&mut self, lane: LaneId) {
        let Some(front) = self.fronts.get_mut(&lane) else { return };
        front.close();
        let records = self.lanes.get_mut(&lane).unwrap();
        while let Some((seq, held)) = front.to_stage() {
            assert_eq!(seq.get(), records.len() as u64 + 1, "its place is the end of the log");
            records.push(Record { expires: held.expires, bytes: held.bytes.to_vec() });
            front.staged();
        }
        let (safe, end) = (&mut self.safe, Seq::new(records.len() as u64 + 1).unwrap());
        front.written(end, |_, held, _| safe[usize::from(held.owner.0.0)].is_safe(held.owner.1));
        self.durable_heads.clone_from(&self.heads);
    }

    /// A record of a `spill` route; whether it is held.
    fn hold(&mut self, lane: LaneId, shard: usize, spill: SpillTicket, record: &Record) -> bool {
        self.safe[shard].came(spill);
        if spill == SpillTicket::NOBODY && !self.holds {
            return false;
        }
        let log_end = self.next(lane);
        let front = self.fronts.entry(lane).or_insert_with(|| Front::new(log_end, 1_000));
        let head = self.heads[&lane];
        let progress =
            Progress { link_up: self.holds, read_to: log_end.max(head), head, log_end, writing: false };
        let admitted = match spill {
            SpillTicket::NOBODY => front.admits_for_nobody(&progress),
            _ => front.admits(&progress),
        };
        if admitted.is_err() {
            return false;
        }
        let (bytes, since) = (record.bytes.clone().into(), Instant::default());
        let owner = (ShardId(shard as u16), spill);
        front.push(Held::new(bytes, (Timestamp(0), record.expires), since, owner), log_end);
        true
    }

    /// What was held in memory is gone, and so are the places that only memory knew to be passed over.
    pub(super) fn forget_fronts(&mut self) {
        self.fronts.clear();
        self.safe.fill_with(Safe::default);
        for (lane, records) in &mut self.lanes {
            let head = self.heads[lane].get() as usize;
            while records.len() >= head && records.last().is_some_and(|last| last.bytes.is_empty()) {
                records.pop();
            }
        }
    }

    pub(super) fn apply(&mut self, shard: usize, tray: &AppendTray) {
        let mut rest = &tray.bytes[..];
        let mut take = |len: u32| {
            let (head, tail) = rest.split_at(len as usize);
            rest = tail;
            head.to_vec()
        };
        let mut advances = Vec::new();
        let mut written = Vec::new();
        let mut held = 0;
        for write in &tray.writes {
            match *write {
                Write::Record { lane, len, expires, spill, .. } => {
                    let bytes = take(len);
                    let record = Record { expires, bytes };
                    if spill != SpillTicket(0) && self.hold(lane, shard, spill, &record) {
                        held += 1;
                        continue;
                    }
                    written.extend((spill != SpillTicket(0)).then_some(spill));
                    let bytes = record.bytes;
                    self.write_front(lane);
                    if let Some(records) = self.lanes.get_mut(&lane) {
                        records.push(Record { expires, bytes });
                    }
                }
                Write::Put { space: StateSpace::Retained, key_len, len } => {
                    let topic = String::from_utf8(take(key_len)).unwrap();
                    self.retained.insert(topic, take(len));
                }
                Write::Delete { space: StateSpace::Retained, key_len } => {
                    self.retained.remove(&String::from_utf8(take(key_len)).unwrap());
                }
                Write::Put { space, key_len, len } => {
                    let key = take(key_len);
                    self.state.insert((space, key), take(len));
                }
                Write::Delete { space, key_len } => {
                    self.state.remove(&(space, take(key_len)));
                }
                Write::Advance { lane, up_to } => advances.push((lane, up_to)),
            }
        }
        assert!(rest.is_empty(), "the writes of a tray are all of its bytes");
        advances.into_iter().for_each(|(lane, up_to)| self.advance(lane, up_to));
        written.into_iter().for_each(|ticket| self.safe[shard].is_safe(ticket));
        if held < tray.writes.len() {
            self.durable_heads.clone_from(&self.heads);
        }
    }

    pub(super) fn remove_lane(&mut self, lane: LaneId) {
        self.names.retain(|_, have| *have != lane);
        self.lanes.remove(&lane);
        self.heads.remove(&lane);
    }
}

fn payload_of(record: &[u8]) -> String {
    String::from_utf8(Envelope::decode(record).unwrap().payload.to_vec()).unwrap()
}
