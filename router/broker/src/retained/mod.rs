//! Retained messages: the last word on each topic, for who subscribes later (MQTT 5.0 §3.3.1.3).
//!
//! Every shard holds all of them. A publication with RETAIN is handed to every other shard, on the same way as to
//! subscribers there; so a subscription meets it either as retained (it came before) or live (it comes after).
//! Invariant: the shards agree once the mail has arrived, in whatever order it comes: per topic the higher [`Version`]
//! stays, and a cleared topic keeps its version for a while, so that nothing older comes back.
//! `filter`: where in the order of topics a filter can match. `record`: a retained message on disk.
//! `publish`: what a publication changes. `walk`: how a new subscription gets what is there.

mod filter;
mod publish;
pub(crate) mod record;
mod walk;

use std::borrow::Borrow;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use model::{Instant, Limits, ShardId, Timestamp};

pub(crate) use self::publish::is_system;
pub(crate) use self::walk::{WALK_QUEUED_LOW, Walks};
use crate::envelope::{self, Envelope};

/// What one retained message counts beyond its bytes: its place in the order of topics, and what the allocator adds.
const OVERHEAD_BYTES: usize = 128;
/// How long a cleared topic keeps its version. Mail between shards takes milliseconds.
const GONE_MILLIS: u64 = 30_000;
/// How many cleared topics keep their version at most; the oldest go first.
const GONE_MAX: usize = 4_096;
/// Topics looked at in one tick for expiry.
const SWEEP: usize = 512;

/// Who published later, as far as anybody can know: a Lamport clock and, for ties, the shard in the last six bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u64);

impl Version {
    /// The version that `shard` gives next.
    fn next(self, shard: ShardId) -> Version {
        Version(((self.0 >> 6) + 1) << 6 | u64::from(shard.0))
    }
}

/// An envelope (see [`crate::envelope`]), in the order of its topic. Without payload it says that the topic is cleared.
#[derive(Clone, Debug)]
struct Record(Arc<[u8]>);

impl Record {
    fn new(envelope: &Envelope<'_>) -> Record {
        let mut bytes = Vec::with_capacity(envelope.encoded_len());
        envelope.encode(&mut bytes);
        Record(bytes.into())
    }

    /// What is left of a cleared topic.
    fn gone(topic: &str) -> Record {
        let none = Envelope {
            user: "",
            topic,
            client_id: "",
            qos: model::Qos::AtMostOnce,
            retain: true,
            properties: &[],
            payload: &[],
        };
        Record::new(&none)
    }

    fn topic(&self) -> &[u8] {
        envelope::topic_of(&self.0)
    }

    fn is_gone(&self) -> bool {
        !envelope::has_payload(&self.0)
    }

    /// What it counts towards the bounds; what the broker says of itself does not.
    fn bytes(&self) -> usize {
        if self.is_system() { 0 } else { self.0.len() + OVERHEAD_BYTES }
    }

    fn is_system(&self) -> bool {
        self.topic().starts_with(publish::SYSTEM.as_bytes())
    }
}

// Ordered by topic alone; `Borrow` demands that all of these agree.
impl PartialEq for Record {
    fn eq(&self, other: &Record) -> bool {
        self.topic() == other.topic()
    }
}

impl Eq for Record {}

impl PartialOrd for Record {
    fn partial_cmp(&self, other: &Record) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Record {
    fn cmp(&self, other: &Record) -> std::cmp::Ordering {
        self.topic().cmp(other.topic())
    }
}

impl Borrow<[u8]> for Record {
    fn borrow(&self) -> &[u8] {
        self.topic()
    }
}

/// What is known of a topic besides its record.
#[derive(Clone, Copy, Debug)]
struct State {
    version: Version,
    expires: Option<Timestamp>,
    /// Our count of changes when it came: a subscription made before got it live.
    changed: u64,
}

impl State {
    fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Applied {
    /// A later one is already there.
    Lost,
    /// It is what the topic holds now. Whether there was a message before.
    Held { before: bool },
}

/// How much is retained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetainedNumbers {
    /// Topics with a retained message.
    pub messages: usize,
    /// What they count towards `limits.retained_bytes_max`.
    pub bytes: usize,
    /// Subscriptions that are still being sent what was retained.
    pub walks: usize,
}

/// One shard's replica of all retained messages.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    topics: BTreeMap<Record, State>,
    /// Topics that are not cleared: all but our own, and those that expire.
    messages: usize,
    expiring: usize,
    /// Bytes of all records, cleared ones included.
    bytes: usize,
    /// The highest version seen.
    latest: Version,
    changes: u64,
    /// Cleared topics, in the order in which their versions may be forgotten.
    gone: VecDeque<(Instant, Version, Record)>,
    /// Where the next look for expired messages goes on.
    swept: Vec<u8>,
}

impl Retained {
    /// How often something has changed so far.
    fn changes(&self) -> u64 {
        self.changes
    }

    /// A version later than all that was seen.
    fn next_version(&self, shard: ShardId) -> Version {
        self.latest.next(shard)
    }

    /// Whether a message is held for `topic`.
    fn holds(&self, topic: &str) -> bool {
        self.topics.get_key_value(topic.as_bytes()).is_some_and(|(record, _)| !record.is_gone())
    }

    /// Whether a publication fits within the bounds; clearing always does.
    pub(crate) fn fits(&self, envelope: &Envelope<'_>, limits: &Limits) -> bool {
        if envelope.payload.is_empty() {
            return true;
        }
        let before = self.topics.get_key_value(envelope.topic.as_bytes()).map(|(record, _)| record);
        let replaces = before.is_some_and(|record| !record.is_gone());
        let bytes = self.bytes - before.map_or(0, Record::bytes) + envelope.encoded_len() + OVERHEAD_BYTES;
        self.messages + usize::from(!replaces) <= limits.retained_messages_max as usize
            && bytes as u64 <= limits.retained_bytes_max
    }

    /// Makes `record` what its topic holds, unless a later version is there. `keeps_gone`: whether the version of a
    /// cleared topic must be remembered, because something older may still be on its way.
    fn apply(
        &mut self,
        version: Version,
        record: Record,
        expires: Option<Timestamp>,
        now: Instant,
        keeps_gone: bool,
    ) -> Applied {
        self.latest = self.latest.max(version);
        let known = self.topics.get(record.topic()).map(|state| state.version);
        if known.is_some_and(|known| known >= version) {
            return Applied::Lost;
        }
        let before = match known {
            Some(_) => self.remove(record.topic()),
            None => false,
        };
        self.changes += 1;
        if record.is_gone() {
            if keeps_gone {
                self.bury(version, record, now);
            }
        } else {
            self.messages += usize::from(!record.is_system());
            self.expiring += usize::from(expires.is_some());
            self.insert(record, State { version, expires, changed: self.changes });
        }
        Applied::Held { before }
    }

    /// Remembers that a topic is cleared.
    fn bury(&mut self, version: Version, record: Record, now: Instant) {
        self.gone.push_back((now, version, record.clone()));
        self.insert(record, State { version, expires: None, changed: self.changes });
        while self.gone.len() > GONE_MAX {
            self.forget_oldest();
        }
    }

    fn insert(&mut self, record: Record, state: State) {
        self.bytes += record.bytes();
        self.topics.insert(record, state);
    }

    /// Removes what a topic has; whether that was a message.
    fn remove(&mut self, topic: &[u8]) -> bool {
        let Some((record, state)) = self.topics.remove_entry(topic) else { return false };
        self.bytes -= record.bytes();
        if record.is_gone() {
            return false;
        }
        self.messages -= usize::from(!record.is_system());
        self.expiring -= usize::from(state.expires.is_some());
        true
    }

    fn forget_oldest(&mut self) {
        let Some((_, version, record)) = self.gone.pop_front() else { return };
        if self.topics.get(record.topic()).is_some_and(|state| state.version == version) {
            self.remove(record.topic());
        }
    }

    /// Forgets the versions of topics that were cleared long ago.
    fn forget_gone(&mut self, now: Instant) {
        while self.gone.front().is_some_and(|(since, ..)| now.millis_since(*since) > GONE_MILLIS) {
            self.forget_oldest();
        }
    }

    /// Removes what has expired among the next topics, and returns it. The version stays known for a while.
    fn sweep(&mut self, timestamp: Timestamp, now: Instant, keeps_gone: bool) -> Vec<Record> {
        if self.expiring == 0 {
            return Vec::new();
        }
        let mut expired = Vec::new();
        let mut looked = 0;
        let mut last = None;
        let from = (Bound::Excluded(&self.swept[..]), Bound::Unbounded);
        for (record, state) in self.topics.range::<[u8], _>(from).take(SWEEP) {
            looked += 1;
            last = Some(record);
            if state.is_expired(timestamp) && !record.is_gone() {
                expired.push((state.version, record.clone()));
            }
        }
        self.swept =
            if looked < SWEEP { Vec::new() } else { last.map_or(Vec::new(), |it| it.topic().into()) };
        for (version, record) in &expired {
            self.remove(record.topic());
            if keeps_gone {
                let topic = std::str::from_utf8(record.topic()).expect("made from a str");
                self.bury(*version, Record::gone(topic), now);
            }
        }
        expired.into_iter().map(|(_, record)| record).collect()
    }

    /// How much is held.
    pub(crate) fn numbers(&self, walks: usize) -> RetainedNumbers {
        RetainedNumbers { messages: self.messages, bytes: self.bytes, walks }
    }

    /// Every topic with its version and payload, for comparing replicas.
    #[cfg(test)]
    pub(crate) fn contents(&self) -> Vec<(String, Version, Vec<u8>)> {
        let held = self.topics.iter().filter(|(record, _)| !record.is_gone());
        held.map(|(record, state)| {
            let envelope = Envelope::decode(&record.0).unwrap();
            (envelope.topic.to_owned(), state.version, envelope.payload.to_vec())
        })
        .collect()
    }

    /// Checks what must hold between turns.
    pub(crate) fn invariants(&self) {
        let held = || self.topics.iter().filter(|(record, _)| !record.is_gone());
        let messages = held().filter(|(record, _)| !record.is_system()).count();
        let expiring = held().filter(|(_, state)| state.expires.is_some()).count();
        assert_eq!((self.messages, self.expiring), (messages, expiring), "retained messages are counted");
        let bytes: usize = self.topics.keys().map(Record::bytes).sum();
        assert_eq!(self.bytes, bytes, "bytes of retained messages are counted");
        let gone = self.topics.keys().filter(|record| record.is_gone()).count();
        assert!(gone <= self.gone.len() && self.gone.len() <= GONE_MAX, "cleared topics are bounded");
        assert!(
            self.topics.values().all(|state| state.version <= self.latest),
            "no version is above the latest"
        );
    }
}

#[cfg(test)]
mod tests;
