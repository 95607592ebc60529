//! What a publication with RETAIN changes, here and in the other shards.
//!
//! In: a publication, ours or handed over. Out: the shards to hand it to with its version, writes for the disk.
//! Always: one shard writes a topic to the disk, its owner; an acknowledgement of QoS 1 or 2 waits for the owner.
//! `$SYS/` is ours and made anew at every start: never on disk, never refused.

use model::{Now, Qos, ShardId, Ticket};
use wire::{Publish, Version as Protocol};

use super::record::{self, RetainedRecord};
use super::{Applied, Record, Version};
use crate::acks::Promise;
use crate::broker::{Broker, append, home};
use crate::dispatch::Publication;
use crate::effects::{Effects, StateSpace, Write};
use crate::envelope::Envelope;
use crate::subscriptions::Shards;

/// In a version on its way to another shard: the topic is cleared, although the publication has a payload.
const CLEARS: u64 = 1 << 63;

/// Where the topics of the broker itself stand.
pub(super) const SYSTEM: &str = "$SYS/";

/// Topics of the broker itself.
#[inline]
pub(crate) fn is_system(topic: &str) -> bool {
    topic.starts_with(SYSTEM)
}

impl Broker {
    /// Whether a publication must be refused because it cannot be retained: 5.0 can say so with QoS 1 and 2.
    pub(crate) fn refuses_to_retain(&mut self, version: Protocol, publish: &Publish<'_>) -> bool {
        if !publish.retain || version == Protocol::V3 || publish.qos == Qos::AtMostOnce {
            return false;
        }
        let refuses = !self.retained.fits(&Envelope::of(publish, ""), &self.setup.limits);
        self.counters.retained_refused += u64::from(refuses);
        refuses
    }

    /// Publishes what the broker says of itself, on a topic under `$SYS/`: retained, seen by no route, counted nowhere.
    pub fn publish_system(&mut self, topic: &str, payload: &str, now: Now, effects: &mut Effects) {
        debug_assert!(is_system(topic), "{topic}");
        let envelope = Envelope {
            user: "",
            topic,
            client_id: "",
            qos: Qos::AtMostOnce,
            retain: true,
            properties: &[],
            payload: payload.as_bytes(),
        };
        let publication =
            Publication { envelope, user: "", expires: None, now, hub: None, is_written: true, input: None };
        self.publish(&publication, &mut Promise::default(), effects);
    }

    /// Retains a publication of ours, or clears its topic; `remote` then names every shard that must hear of it, and
    /// those that the acknowledgement waits for. Returns what to tell them ([`Broker::retain_from`]).
    pub(crate) fn retain(
        &mut self,
        publication: &Publication<'_>,
        remote: &mut Shards,
        promise: &mut Promise,
        effects: &mut Effects,
    ) -> u64 {
        let topic = publication.envelope.topic;
        let system = is_system(topic);
        let fits = system || self.retained.fits(&publication.envelope, &self.setup.limits);
        if !fits {
            self.counters.retained_not += 1;
            if !self.retained.holds(topic) {
                return 0;
            }
            // What is there must not stay as if nothing had come since [MQTT-3.3.1-5].
        }
        let version = self.retained.next_version(self.setup.shard);
        let ticket = self.apply(version, publication, !fits, effects);
        promise.ticket = promise.ticket.max(ticket);
        remote.any |= self.others().fold(0, |shards, shard| shards | 1 << shard.0);
        let owner = self.owner(topic);
        if owner != self.setup.shard && !system {
            remote.kept |= 1 << owner.0;
        }
        version.0 | if fits { 0 } else { CLEARS }
    }

    /// Retains a publication that another shard handed over; returns the ticket its acknowledgement must wait for.
    pub(crate) fn retain_from(
        &mut self,
        version: u64,
        publication: &Publication<'_>,
        effects: &mut Effects,
    ) -> Ticket {
        self.apply(Version(version & !CLEARS), publication, version & CLEARS != 0, effects)
    }

    fn apply(
        &mut self,
        version: Version,
        publication: &Publication<'_>,
        clears: bool,
        effects: &mut Effects,
    ) -> Ticket {
        let topic = publication.envelope.topic;
        let gone = clears || publication.envelope.payload.is_empty(); // [MQTT-3.3.1-6]
        let record = if gone { Record::gone(topic) } else { Record::new(&publication.envelope) };
        let keeps_gone = self.setup.shards > 1;
        let expires = publication.expires;
        let applied = self.retained.apply(version, record, expires, publication.now.instant, keeps_gone);
        if is_system(topic) || self.owner(topic) != self.setup.shard {
            return Ticket(0);
        }
        match applied {
            // What is there instead, or the end of what was there, may still be on its way to the disk.
            Applied::Lost => effects.appends.last,
            Applied::Held { before: false } if gone => effects.appends.last,
            Applied::Held { .. } if gone => self.erase(topic.as_bytes(), effects),
            Applied::Held { .. } => append(&mut self.appended_bytes, effects, |bytes| {
                bytes.extend_from_slice(topic.as_bytes());
                let start = bytes.len();
                record::encode(bytes, version, expires, &publication.envelope);
                let (key_len, len) = (topic.len() as u32, (bytes.len() - start) as u32);
                Write::Put { space: StateSpace::Retained, key_len, len }
            }),
        }
    }

    fn erase(&mut self, topic: &[u8], effects: &mut Effects) -> Ticket {
        append(&mut self.appended_bytes, effects, |bytes| {
            bytes.extend_from_slice(topic);
            Write::Delete { space: StateSpace::Retained, key_len: topic.len() as u32 }
        })
    }

    /// The shard that writes `topic` to the disk.
    fn owner(&self, topic: &str) -> ShardId {
        home(self.setup.home_seed, self.setup.shards, topic)
    }

    /// Brings a retained message back at start; before the first connection, and the same to every shard.
    pub fn restore_retained(&mut self, record: &RetainedRecord, now: Now) {
        let RetainedRecord { version, expires, envelope } = record;
        let record = Record(std::sync::Arc::clone(envelope));
        self.retained.apply(Version(*version), record, *expires, now.instant, false);
    }

    /// Removes some of what has expired.
    pub(crate) fn sweep_retained(&mut self, now: Now, effects: &mut Effects) {
        self.retained.forget_gone(now.instant);
        for record in self.retained.sweep(now.timestamp, now.instant, self.setup.shards > 1) {
            let topic = std::str::from_utf8(record.topic()).expect("made from a str");
            if self.owner(topic) == self.setup.shard {
                self.counters.retained_expired += 1;
                self.erase(record.topic(), effects);
            }
        }
    }
}
