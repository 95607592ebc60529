//! The referee: what was sent, what was acknowledged, what arrived, and whether a promise was broken.
//!
//! Knows: publishers, receivers, sequence numbers, the contract of each QoS. Never: sockets, clocks, payloads.
//! In:  one call per message sent, acknowledged, arrived; ledgers of other processes, to merge.
//! Out: a [`Verdict`] with counts, examples and the list of broken promises.
//! Invariant: memory is bounded by gaps, not by messages (see [`SeqSet`]); nothing is ever forgotten.
//!
//! A *stream* is one publisher as one receiver sees it: the unit in which MQTT promises order
//! (MQTT 5.0 §4.6) and in which loss and repeats are counted. Fan-out to n receivers makes n streams.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::seqset::SeqSet;

/// Who sent a message: the number of a publisher within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublisherId(pub u32);

/// Who got a message: a subscriber, or a group of them that shares one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReceiverId(pub u32);

/// What a broker owes one stream: the lower QoS of the publication and the subscription (MQTT 5.0 §3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Contract {
    /// QoS 0: never twice; loss is allowed.
    AtMostOnce,
    /// QoS 1: what was acknowledged to the publisher arrives; repeats are allowed.
    AtLeastOnce,
    /// QoS 2: what was acknowledged to the publisher arrives, and never twice.
    ExactlyOnce,
}

/// What one more arrival is to its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The first copy, after everything that came before it.
    First,
    /// The first copy, but a later message is here already: the order is broken.
    Late,
    /// A copy of a message that is here already.
    Repeat,
}

/// The arrivals of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrivals {
    seen: SeqSet,
    /// The highest sequence number of a first copy.
    highest: u64,
    repeats: u64,
    out_of_order: u64,
    /// Of the repeats, those that another observer had: two members of a group got the same message.
    #[serde(default)]
    elsewhere: u64,
}

impl Arrivals {
    /// Takes one arrival and says what it is. Sequence numbers start at 1.
    ///
    /// Order is judged after removal of repeats: a message is late if a later one came first.
    /// Cost: constant without gaps; see [`SeqSet::insert`].
    #[inline]
    pub fn record(&mut self, sequence: u64) -> Arrival {
        if !self.seen.insert(sequence) {
            self.repeats += 1;
            return Arrival::Repeat;
        }
        if sequence < self.highest {
            self.out_of_order += 1;
            return Arrival::Late;
        }
        self.highest = sequence;
        Arrival::First
    }

    /// The sequence numbers that arrived, each once.
    #[must_use]
    pub fn seen(&self) -> &SeqSet {
        &self.seen
    }

    /// Copies beyond the first.
    #[must_use]
    pub fn repeats(&self) -> u64 {
        self.repeats
    }

    /// First copies that came after a later message.
    #[must_use]
    pub fn out_of_order(&self) -> u64 {
        self.out_of_order
    }

    /// Adds what another observer of the same stream saw; what both saw is a repeat.
    ///
    /// Order between two observers is unknown, so that late messages are those that each saw as late.
    pub fn merge(&mut self, other: &Arrivals) {
        let both = self.seen.merge(&other.seen);
        self.repeats += other.repeats + both;
        self.elsewhere += other.elsewhere + both;
        self.out_of_order += other.out_of_order;
        self.highest = self.highest.max(other.highest);
    }
}

/// What one publisher sent, and what was acknowledged to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Handed to a socket at least once.
    pub sent: SeqSet,
    /// Acknowledged by the broker: from here on it owes them.
    pub acked: SeqSet,
}

/// One receiver and its streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Receiver {
    /// Whether the streams are in order at this receiver; not so for a shared subscription.
    ordered: bool,
    streams: BTreeMap<PublisherId, Stream>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stream {
    /// `None`: nobody expected this stream here, so that any arrival is one too many.
    contract: Option<Contract>,
    arrivals: Arrivals,
}

/// What was sent, acknowledged and what arrived, of one run. Serialises, so that processes can exchange it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    publishers: BTreeMap<PublisherId, Sent>,
    receivers: BTreeMap<ReceiverId, Receiver>,
    corrupt: u64,
    foreign: u64,
    #[serde(default)]
    altered: u64,
}

/// Which promises count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether loss at QoS 0 is a broken promise. MQTT does not promise it; a scenario may.
    pub expect_qos0: bool,
    /// Whether order is. MQTT promises it (§4.6); a scenario that reorders on purpose may waive it.
    pub expect_order: bool,
    /// Whether a message of a shared subscription may reach one member of the group only. MQTT allows a second one
    /// when the first is gone with it unacknowledged (5.0 §4.8.2).
    pub expect_one_member: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { expect_qos0: false, expect_order: true, expect_one_member: true }
    }
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Ledger {
        Ledger::default()
    }

    /// Says that everything `publisher` sends must reach `receiver`, on these terms.
    pub fn expect(&mut self, receiver: ReceiverId, publisher: PublisherId, contract: Contract) {
        self.stream(receiver, publisher).contract = Some(contract);
    }

    /// Says that a receiver is a group that shares a subscription: its streams have no order.
    pub fn expect_no_order(&mut self, receiver: ReceiverId) {
        self.receiver(receiver).ordered = false;
    }

    /// A message was handed to a socket, for the first time or again.
    pub fn sent(&mut self, publisher: PublisherId, sequence: u64) {
        self.publishers.entry(publisher).or_default().sent.insert(sequence);
    }

    /// The broker acknowledged a message to its publisher.
    pub fn acked(&mut self, publisher: PublisherId, sequence: u64) {
        self.publishers.entry(publisher).or_default().acked.insert(sequence);
    }

    /// A message arrived, whole.
    pub fn arrived(&mut self, receiver: ReceiverId, publisher: PublisherId, sequence: u64) -> Arrival {
        self.stream(receiver, publisher).arrivals.record(sequence)
    }

    /// Messages arrived that carry our mark and a wrong checksum.
    pub fn corrupted(&mut self, messages: u64) {
        self.corrupt += messages;
    }

    /// Messages arrived that are not of this run; they are counted and not judged.
    pub fn foreign(&mut self, messages: u64) {
        self.foreign += messages;
    }

    /// Messages arrived whole, but with other properties or flags than they were published with.
    pub fn altered(&mut self, messages: u64) {
        self.altered += messages;
    }

    /// Adds what one publisher kept for itself during the run.
    pub fn add_sent(&mut self, publisher: PublisherId, sent: &Sent) {
        let entry = self.publishers.entry(publisher).or_default();
        entry.sent.merge(&sent.sent);
        entry.acked.merge(&sent.acked);
    }

    /// Adds what one receiver kept for itself during the run.
    pub fn add_arrivals(&mut self, receiver: ReceiverId, publisher: PublisherId, arrivals: &Arrivals) {
        self.stream(receiver, publisher).arrivals.merge(arrivals);
    }

    /// Adds another ledger of the same run: the publishers of one process, the receivers of another.
    pub fn merge(&mut self, other: &Ledger) {
        for (&publisher, sent) in &other.publishers {
            self.add_sent(publisher, sent);
        }
        for (&id, theirs) in &other.receivers {
            let ours = self.receiver(id);
            ours.ordered &= theirs.ordered;
            for (&publisher, stream) in &theirs.streams {
                let entry = ours.streams.entry(publisher).or_default();
                entry.contract = entry.contract.max(stream.contract);
                entry.arrivals.merge(&stream.arrivals);
            }
        }
        self.corrupt += other.corrupt;
        self.foreign += other.foreign;
        self.altered += other.altered;
    }

    /// Judges. Cost: a walk over all ranges of all streams.
    #[must_use]
    pub fn verdict(&self, rules: Rules) -> Verdict {
        let mut verdict = Verdict {
            sent: self.publishers.values().map(|publisher| publisher.sent.len()).sum(),
            acked: self.publishers.values().map(|publisher| publisher.acked.len()).sum(),
            corrupt: self.corrupt,
            foreign: self.foreign,
            altered: self.altered,
            ..Verdict::default()
        };
        let nothing = Sent::default();
        for (&receiver, held) in &self.receivers {
            for (&publisher, stream) in &held.streams {
                let sent = self.publishers.get(&publisher).unwrap_or(&nothing);
                verdict.add_stream(Place { receiver, publisher }, stream, sent, held.ordered);
            }
        }
        verdict.judge(rules);
        verdict
    }

    fn receiver(&mut self, receiver: ReceiverId) -> &mut Receiver {
        self.receivers.entry(receiver).or_insert(Receiver { ordered: true, streams: BTreeMap::new() })
    }

    fn stream(&mut self, receiver: ReceiverId, publisher: PublisherId) -> &mut Stream {
        self.receiver(receiver).streams.entry(publisher).or_default()
    }
}

/// Examples kept of each kind of fault: enough to start looking, too few to flood a terminal.
const EXAMPLES_MAX: usize = 8;

/// What the referee found. Counts are messages; those of streams are summed over receivers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Sent, each once, however often it was retransmitted.
    pub sent: u64,
    /// Acknowledged to their publishers.
    pub acked: u64,
    /// First copies that ought to arrive if nothing were lost: sent messages times their receivers.
    pub expected: u64,
    /// First copies that arrived.
    pub arrived: u64,
    /// Acknowledged, owed, and not arrived.
    pub lost: u64,
    /// Sent, never acknowledged, and not arrived: the broker owed nothing.
    pub unacknowledged: u64,
    /// Sent at QoS 0 and not arrived.
    pub lost_qos0: u64,
    /// Copies beyond the first, at QoS 1, where they are allowed.
    pub duplicates: u64,
    /// Copies beyond the first, at QoS 0, where they are not.
    pub duplicates_qos0: u64,
    /// Copies beyond the first, at QoS 2, where they are not.
    pub duplicates_qos2: u64,
    /// Messages that two members of a group got, at any QoS; also counted as duplicates.
    pub several_members: u64,
    /// First copies that came after a later message of their publisher.
    pub out_of_order: u64,
    /// Arrived whole with other properties or flags than they were published with.
    pub altered: u64,
    /// Arrived with a wrong checksum.
    pub corrupt: u64,
    /// Arrived, whole, but never sent; or where nobody subscribed to them.
    pub invented: u64,
    /// Not of this run.
    pub foreign: u64,
    /// The broken promises, one sentence each; empty if all were kept.
    pub broken: Vec<String>,
    /// Where the first faults are, one line each.
    pub examples: Vec<String>,
}

/// One stream, as examples name it.
#[derive(Clone, Copy)]
struct Place {
    receiver: ReceiverId,
    publisher: PublisherId,
}

impl Verdict {
    /// Whether every promise was kept.
    #[must_use]
    pub fn kept(&self) -> bool {
        self.broken.is_empty()
    }

    fn add_stream(&mut self, place: Place, stream: &Stream, sent: &Sent, ordered: bool) {
        let arrivals = &stream.arrivals;
        self.arrived += arrivals.seen.len();
        self.invented += self.count("never sent", place, arrivals.seen.missing_in(&sent.sent));
        let Some(contract) = stream.contract else {
            self.invented += self.count("not subscribed", place, arrivals.seen.ranges());
            return;
        };
        self.expected += sent.sent.len();
        let missing: u64 = sent.sent.missing_in(&arrivals.seen).map(length).sum();
        match contract {
            Contract::AtMostOnce => {
                self.lost_qos0 += missing;
                self.duplicates_qos0 += arrivals.repeats;
            }
            Contract::AtLeastOnce | Contract::ExactlyOnce => {
                let lost = self.count("lost", place, sent.acked.missing_in(&arrivals.seen));
                self.lost += lost;
                // A broker may acknowledge what we did not send; then this would not be a subset.
                self.unacknowledged += missing.saturating_sub(lost);
                match contract {
                    Contract::ExactlyOnce => self.duplicates_qos2 += arrivals.repeats,
                    _ => self.duplicates += arrivals.repeats,
                }
            }
        }
        self.several_members += if ordered { 0 } else { arrivals.elsewhere };
        if ordered {
            self.out_of_order += arrivals.out_of_order;
            if arrivals.out_of_order > 0 {
                self.example(format!("{} out of order at {place}", arrivals.out_of_order));
            }
        }
    }

    fn count(&mut self, what: &str, place: Place, ranges: impl Iterator<Item = (u64, u64)>) -> u64 {
        let mut total = 0;
        for (from, to) in ranges {
            total += length((from, to));
            if self.examples.len() < EXAMPLES_MAX {
                let span = if from == to { from.to_string() } else { format!("{from} to {to}") };
                self.example(format!("{what}: message {span} at {place}"));
            }
        }
        total
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text);
        }
    }

    fn judge(&mut self, rules: Rules) {
        let mut broken = Vec::new();
        let mut promise = |counts: bool, messages: u64, what: &str| {
            if counts && messages > 0 {
                broken.push(format!("{messages} {what}"));
            }
        };
        promise(true, self.lost, "acknowledged and lost");
        promise(rules.expect_qos0, self.lost_qos0, "lost at QoS 0 (expect_qos0 = true)");
        promise(true, self.duplicates_qos0, "delivered more than once at QoS 0");
        promise(true, self.duplicates_qos2, "delivered more than once at QoS 2");
        promise(rules.expect_one_member, self.several_members, "delivered to several members of a group");
        promise(rules.expect_order, self.out_of_order, "out of order");
        promise(true, self.altered, "with other properties or flags than published");
        promise(true, self.corrupt, "corrupt");
        promise(true, self.invented, "never sent to where they arrived");
        self.broken = broken;
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "receiver {}, publisher {}", self.receiver.0, self.publisher.0)
    }
}

fn length((from, to): (u64, u64)) -> u64 {
    to - from + 1
}

#[cfg(test)]
mod tests;
