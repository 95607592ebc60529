//! A seeded simulation: clients, disk, mail, time and crashes in any order; what must hold is checked after every step.
//!
//! Which seeds run is said in `seeds`; a failing one prints how to run it alone. Disks fail, tear (what was written is there
//! after a crash although nobody heard of it), and are full; clocks jump. In some runs they lie: a crash takes the last jobs that
//! they said were done. What that costs is lost, and nobody can know it: the disk is as it was before them, whole. Everything
//! else holds, among those messages that were not in the lie's way.
//! Held against each run: nothing acknowledged is missing on disk at the moment of its PUBACK or PUBREC, nor among what its
//! subscribers were sent at the end; a publisher's messages reach a subscriber in order once repeats are removed; a
//! repeat has DUP and the identifier it had before, and none comes after PUBREL; PUBACKs and PUBRECs come in order; memory
//! stays within its bounds; the same seed gives the same effects twice. (Publishers that send again: see
//! `exactly_once_simulation`.) Retained messages: what is acknowledged, or a later word, is on disk at the moment
//! of its PUBACK; who subscribes never sees an older one behind a newer one, nor one twice; at the end all shards and
//! the disk hold the same. Room on the disk comes and goes, and the store fails: what was refused nobody gets, what is
//! sent again arrives, and once there is room nobody waits.

use std::collections::{BTreeMap, BTreeSet};

use model::{LaneId, Limits, Qos};
use wire::{AckKind, ReasonCode, Version};

use super::seeds::replay;
use crate::random::Random;
use crate::sessions::record::subscription_key;
use crate::testbench::{Bench, Got, Seen};
use crate::{Durability, Level, Levels, SinkPlan, StateSpace, WhenFull};

const SEEDS: u64 = 700;
const STEPS: usize = 250;
const TOPICS: [&str; 3] = ["a/1", "a/2", "b/1"];
/// Topics with retained messages: one for each publisher, and one for all.
const KEPT: [&str; 4] = ["kept/0", "kept/1", "kept/2", "kept/all"];
/// Marks payloads that expire. After a crash one may come that was passed over before: the router cannot know whether it
/// was in exchange.
const EXPIRING: &str = "expires ";
/// The uplink of `super::routing::plan` has its default lane here.
const UPLINK: LaneId = LaneId(2);

/// A message that a publisher sent and has neither PUBACK nor PUBREC for.
struct Sent {
    id: u16,
    qos: Qos,
    topic: &'static str,
    payload: String,
    /// The stored subscribers that must have it once it is acknowledged.
    owed: Vec<usize>,
    /// Its number, if it is the last word on the publisher's own topic.
    kept: Option<u32>,
}

#[derive(Default)]
struct Publisher {
    next_id: u16,
    /// In the order of their PUBLISHes, of this connection.
    waiting: Vec<Sent>,
    /// QoS 2 messages with PUBREC and without PUBCOMP.
    released: usize,
    connected: bool,
    /// The number of the last message that cleared its own topic.
    cleared: u32,
    /// Topics of messages that were refused and not sent again.
    refused: Vec<&'static str>,
}

/// A client with a stored session and one subscription that it keeps.
struct Subscriber {
    filter: &'static str,
    qos: Qos,
    /// SUBACK came, so that publications from now on are owed.
    subscribed: bool,
    connected: bool,
    unacked: Vec<(AckKind, u16)>,
    /// QoS 2 messages that it holds the identifier of, across connections, and whose PUBREL came.
    held: BTreeMap<u16, String>,
    released: BTreeSet<String>,
    /// Payloads that were acknowledged to their publisher.
    expected: BTreeSet<String>,
    /// Identifier of each payload that came.
    received: BTreeMap<String, u16>,
    /// Payloads in the order of their first coming.
    order: Vec<String>,
}

/// The last message of each publisher that a subscriber was sent; republished copies apart, they go their own way.
#[derive(Default)]
pub(super) struct Order(BTreeMap<(String, bool), u32>);

/// Who published a payload, and as which number.
pub(super) fn number(payload: &str) -> (&str, u32) {
    let (publisher, rest) = payload.split_once(':').unwrap();
    (publisher, rest.split_once(':').unwrap().0.parse().unwrap())
}

impl Order {
    pub(super) fn check(&mut self, topic: &str, payload: &str) {
        if payload.is_empty() {
            return; // it only clears what was retained
        }
        let (publisher, number) = number(payload);
        let before = self.0.insert((publisher.to_owned(), topic.starts_with("copy/")), number);
        assert!(before.is_none_or(|before| before < number), "{payload} came after {before:?}");
    }
}

/// The last word of each topic that a visitor was sent.
#[derive(Default)]
struct Latest(BTreeMap<String, u32>);

impl Latest {
    fn check(&mut self, got: &Got) {
        // On the common topic the order of two publishers is that of their shards' mail.
        if !KEPT[..3].contains(&&got.topic[..]) || got.payload.is_empty() {
            return;
        }
        let number = number(&got.text()).1;
        let before = self.0.insert(got.topic.clone(), number);
        // A second subscription gets the same again.
        let newer = before.is_none_or(|before| before < number || before == number && got.retain);
        assert!(newer, "{} came after {before:?}", got.text());
    }
}

struct World {
    bench: Bench,
    random: Random,
    publishers: Vec<(usize, Publisher)>,
    subscribers: Vec<(usize, Subscriber)>,
    /// Clean sessions that come, go, subscribe and unsubscribe.
    visitors: Vec<(usize, Order, Latest)>,
    messages: u32,
    /// Payloads that were refused.
    refused: BTreeSet<String>,
    /// Payloads that were acknowledged and go to the upstream.
    promised: BTreeSet<String>,
    /// Lies of the disk that took something, and promises that they broke.
    lies: u64,
    broken: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let shards = 1 + random.below(3);
        let limits = Limits {
            session_inflight_max: 1 + random.below(6) as u16,
            session_queue_messages_max: 1 + random.below(6) as u32,
            session_queue_bytes_max: 200 + random.below(2_000) as u32,
            outbox_bytes_max: 100 + random.below(2_000) as u32,
            receive_max: 1 + random.below(20) as u16,
            commit_bytes_max: 200 + random.below(4_000) as u32,
            waiting_bytes_max: (500 + random.below(8_000) as u64) * shards as u64,
            ..Limits::DEFAULT
        };
        let mut specs = vec![("FROM /* INTO topic(\"copy/{$topic}\")", None, None)];
        let routed = random.one_in(2);
        if routed {
            specs.push(("FROM /* INTO $upstream", None, None));
        }
        let mut plan = super::routing::plan(&specs);
        match random.below(6) {
            0 => plan.durabilities.fill(Durability::Memory),
            1..=3 => plan.durabilities.fill(Durability::Spill),
            _ => {}
        }
        let policy = if random.one_in(4) { WhenFull::DropNewest } else { WhenFull::Refuse };
        for sink in &mut plan.sinks {
            if let SinkPlan::Lanes { when_full, .. } = sink {
                *when_full = policy;
            }
        }
        let mut bench = Bench::with(shards, limits, plan);
        bench.disk.lane("urgent");
        bench.disk.lane("default");
        if routed && random.one_in(3) {
            bench.bind(600 + random.below(3_000) as u64, random.below(300) as u64);
        }
        bench.disk.lies = random.one_in(4);
        let mut client = |name: String, random: &mut Random| {
            let version = if random.one_in(2) { Version::V3 } else { Version::V5 };
            let home = random.below(shards);
            bench.client(&name, version, home)
        };
        let publishers =
            (0..3).map(|number| (client(format!("p{number}-"), &mut random), Publisher::default())).collect();
        let subscriber = |number: usize| Subscriber {
            filter: ["a/+", "#", "copy/a/1", "b/1"][number],
            qos: [Qos::AtLeastOnce, Qos::ExactlyOnce][number % 2],
            subscribed: false,
            connected: false,
            unacked: Vec::new(),
            held: BTreeMap::new(),
            released: BTreeSet::new(),
            expected: BTreeSet::new(),
            received: BTreeMap::new(),
            order: Vec::new(),
        };
        let subscribers =
            (0..4).map(|number| (client(format!("s{number}-"), &mut random), subscriber(number))).collect();
        let visitors = (0..3)
            .map(|number| (client(format!("v{number}-"), &mut random), Order::default(), Latest::default()));
        let visitors = visitors.collect();
        World {
            bench,
            random,
            publishers,
            subscribers,
            visitors,
            messages: 0,
            refused: BTreeSet::new(),
            promised: BTreeSet::new(),
            lies: 0,
            broken: 0,
        }
    }

    fn step(&mut self) {
        match self.random.below(24) {
            0..=5 => self.publish(),
            21 => self.upstream(),
            22 => {
                self.bench.disk.holds = !self.random.one_in(4);
                if !self.bench.disk.holds || self.random.one_in(4) {
                    self.bench.write_front(UPLINK);
                }
            }
            6 => self.come_or_go_publisher(),
            7..=8 => self.come_or_go_subscriber(),
            9..=11 => self.acknowledge(),
            12 => self.visit(),
            13..=15 => self.mail(),
            16..=17 => drop(self.bench.disk_step()),
            18 => {
                let client = self.random.below(self.bench.clients.len());
                self.bench.clients[client].takes = [0, 40, 300, usize::MAX][self.random.below(4)];
                self.bench.drip(client);
            }
            19 => self.change_levels(),
            20 => self.bench.drain_uplink(),
            _ if self.random.one_in(if self.bench.disk.lies { 3 } else { 12 }) => self.crash(),
            _ if self.random.one_in(12) => self.jump(),
            _ => {
                let millis = self.random.below(2_000) as u64;
                self.bench.pass(millis);
            }
        }
        self.look();
        self.check();
    }

    /// More room on the disk, or less; the shards hear of it one after the other.
    fn change_levels(&mut self) {
        if self.random.one_in(2) {
            return;
        }
        let fronts = [self.random.one_in(2)].into();
        let mut level = || [Level::Roomy, Level::FullForOrdinary, Level::FullForUrgent][self.random.below(3)];
        let levels = Levels { takes_writes: true, store: level(), uplinks: [level()].into(), fronts };
        self.bench.disk.fails = self.random.one_in(3);
        self.bench.say_levels(match self.random.one_in(3) {
            true => Levels::default(),
            false => Levels { takes_writes: !self.bench.disk.fails, ..levels },
        });
    }

    fn publish(&mut self) {
        let at = self.random.below(self.publishers.len());
        if self.random.one_in(4) {
            return self.publish_retained(at);
        }
        let topic = TOPICS[self.random.below(TOPICS.len())];
        let qos = self.choose_qos(at);
        self.publish_to(at, topic, qos, false);
    }

    /// A message; one that is sent again is a new one, with a number of its own.
    fn publish_to(&mut self, at: usize, topic: &'static str, qos: Qos, again: bool) {
        let (client, publisher) = &mut self.publishers[at];
        if !publisher.connected || publisher.waiting.len() > 40 {
            publisher.refused.extend(again.then_some(topic));
            return;
        }
        self.messages += 1;
        publisher.next_id = publisher.next_id % 60_000 + 1;
        let id = if self.random.one_in(5) && !again { 0 } else { publisher.next_id };
        let expiry_secs = self.random.one_in(6).then(|| self.random.below(4) as u32);
        let kind = if expiry_secs.is_some() { EXPIRING } else { "" };
        let payload = format!("{at}:{}:{kind}{}", self.messages, "x".repeat(self.random.below(60)));
        if id != 0 {
            let republished = format!("copy/{topic}");
            let wants = |subscriber: &Subscriber| {
                subscriber.subscribed
                    && expiry_secs.is_none()
                    && [topic, &republished]
                        .iter()
                        .any(|topic| model::filter_matches(subscriber.filter, topic))
            };
            let owed = (0..self.subscribers.len()).filter(|at| wants(&self.subscribers[*at].1)).collect();
            let (payload, kept) = (payload.clone(), None);
            publisher.waiting.push(Sent { id, qos, topic, payload, owed, kept });
        }
        self.bench.publish_with(*client, topic, &payload, id, |publish| {
            publish.expiry_secs = expiry_secs;
            publish.qos = if id == 0 { Qos::AtMostOnce } else { qos };
        });
    }

    /// QoS 1 or 2; the Receive Maximum counts what is not released, and holding back QoS 1 is the router's part.
    fn choose_qos(&mut self, at: usize) -> Qos {
        let publisher = &self.publishers[at].1;
        let has_room =
            publisher.waiting.len() + publisher.released < usize::from(self.bench.limits.receive_max);
        if has_room && self.random.one_in(2) { Qos::ExactlyOnce } else { Qos::AtLeastOnce }
    }

    fn publish_retained(&mut self, at: usize) {
        let common = self.random.one_in(3);
        let topic = KEPT[if common { 3 } else { at }];
        let qos = self.choose_qos(at);
        let (client, publisher) = &mut self.publishers[at];
        if !publisher.connected || publisher.waiting.len() > 40 {
            return;
        }
        self.messages += 1;
        publisher.next_id = publisher.next_id % 60_000 + 1;
        let clears = self.random.one_in(5);
        let payload = if clears { String::new() } else { format!("{at}:{}:", self.messages) };
        if clears && !common {
            publisher.cleared = self.messages;
        }
        let wants = |subscriber: &Subscriber| subscriber.subscribed && subscriber.filter == "#" && !clears;
        let owed = (0..self.subscribers.len()).filter(|at| wants(&self.subscribers[*at].1)).collect();
        let kept = (!common).then_some(self.messages);
        let id = publisher.next_id;
        publisher.waiting.push(Sent { id, qos, topic, payload: payload.clone(), owed, kept });
        self.bench.publish_with(*client, topic, &payload, id, |publish| {
            (publish.retain, publish.qos) = (true, qos);
        });
    }

    fn come_or_go_publisher(&mut self) {
        let at = self.random.below(self.publishers.len());
        self.look(); // what our last answers led to
        let (client, publisher) = &mut self.publishers[at];
        publisher.waiting.clear();
        publisher.released = 0;
        if publisher.connected {
            self.bench.cut(*client);
            publisher.connected = false;
        } else {
            self.bench.connect_with(*client, &self.bench.hello(*client));
        }
        self.bench.take(*client).into_iter().for_each(|seen| self.publisher_saw(at, seen));
    }

    fn come_or_go_subscriber(&mut self) {
        let at = self.random.below(self.subscribers.len());
        let (client, subscriber) = &mut self.subscribers[at];
        subscriber.unacked.clear();
        if self.bench.clients[*client].conn.is_some() && !self.random.one_in(4) {
            if self.random.one_in(2) {
                self.bench.cut(*client);
            } else {
                self.bench.disconnect(*client, ReasonCode::NORMAL_DISCONNECTION, None);
            }
            subscriber.connected = false;
            self.bench.take(*client);
        } else {
            // Or takes itself over.
            subscriber.connected = false;
            self.bench.take(*client);
            self.bench.connect_with(*client, &self.bench.stored_hello(*client));
        }
    }

    fn acknowledge(&mut self) {
        let at = self.random.below(self.subscribers.len());
        let (client, subscriber) = &mut self.subscribers[at];
        for _ in 0..=self.random.below(4) {
            if !subscriber.unacked.is_empty() {
                let index = self.random.below(subscriber.unacked.len().min(2));
                let (kind, id) = subscriber.unacked.remove(index);
                self.bench.answer_with(*client, kind, id, ReasonCode::SUCCESS);
            }
        }
    }

    fn visit(&mut self) {
        let client = self.visitors[self.random.below(self.visitors.len())].0;
        let filter = ["a/#", "+/1", "b/1", "copy/#", "kept/+"][self.random.below(5)];
        if self.bench.clients[client].conn.is_none() {
            self.bench.connect_with(client, &self.bench.hello(client));
            return;
        }
        match self.random.below(4) {
            0 => self.bench.cut(client),
            1 => self.bench.unsubscribe(client, filter),
            _ => {
                let qos = if self.random.one_in(2) { Qos::AtLeastOnce } else { Qos::AtMostOnce };
                self.bench.subscribe_with(client, filter, qos, 0, |_| {});
            }
        }
    }

    fn mail(&mut self) {
        if self.random.one_in(2) {
            self.bench.walk_step();
        }
        self.bench.deliver_some_mail(&mut self.random);
    }

    fn upstream(&mut self) {
        let count = self.random.below(8);
        self.bench.upstream_takes(UPLINK, count);
        if self.bench.disk.holds && self.random.one_in(2) {
            self.bench.upstream_takes(UPLINK, 1_000);
        }
    }

    /// Somebody sets the clock, by ten minutes at most.
    fn jump(&mut self) {
        let millis = self.random.below(600_000) as u64;
        let wall = &mut self.bench.now.timestamp.0;
        *wall = if self.random.one_in(2) { *wall + millis } else { *wall - millis };
    }

    fn crash(&mut self) {
        self.look();
        self.bench.disk.fails = false;
        if self.bench.disk.lies && self.random.one_in(2) {
            return self.crash_in_a_lie();
        }
        let written = self.random.below(4);
        self.bench.crash_behind(written);
        self.look();
    }

    /// Power goes, and takes what the disk said was there. What is left is a beginning of what was written, so it is whole;
    /// clients that know of more cannot be told from clients that are wrong, and begin anew here.
    fn crash_in_a_lie(&mut self) {
        let jobs = 1 + self.random.below(24);
        let took = self.bench.disk.lose(jobs);
        self.bench.crash_behind(0);
        self.look();
        if !took {
            return;
        }
        self.lies += 1;
        let disk = &self.bench.disk;
        let in_lane: BTreeSet<String> = disk.payloads(UPLINK).into_iter().collect();
        let promised = self.promised.len();
        self.promised.retain(|payload| in_lane.contains(payload) || disk.upstream.contains(payload));
        self.broken += (promised - self.promised.len()) as u64;
        for (client, subscriber) in &mut self.subscribers {
            let id = &self.bench.clients[*client].id;
            let mut key = Vec::new();
            subscription_key(&mut key, id, subscriber.filter);
            let has = |space, key: &[u8]| disk.state.contains_key(&(space, key.to_vec()));
            subscriber.subscribed &=
                has(StateSpace::Sessions, id.as_bytes()) && has(StateSpace::Subscriptions, &key);
            self.broken += subscriber.forget(&disk.session_payloads(id));
        }
    }

    /// Lets every client read what it was sent.
    fn look(&mut self) {
        for at in 0..self.publishers.len() {
            let client = self.publishers[at].0;
            self.bench.take(client).into_iter().for_each(|seen| self.publisher_saw(at, seen));
        }
        for at in 0..self.subscribers.len() {
            let client = self.subscribers[at].0;
            self.bench.take(client).into_iter().for_each(|seen| self.subscriber_saw(at, seen));
        }
        for (client, order, latest) in &mut self.visitors {
            for seen in self.bench.take(*client) {
                match seen {
                    Seen::ConnAck { .. } => (*order, *latest) = (Order::default(), Latest::default()),
                    Seen::Publish(got) if got.id != 0 => {
                        if !got.retain {
                            order.check(&got.topic, &got.text());
                        }
                        latest.check(&got);
                        if !self.random.one_in(4) {
                            self.bench.ack(*client, got.id);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn publisher_saw(&mut self, at: usize, seen: Seen) {
        let publisher = &mut self.publishers[at].1;
        match seen {
            Seen::ConnAck { reason, .. } => {
                assert_eq!(reason, ReasonCode::SUCCESS);
                publisher.connected = true;
            }
            Seen::PubComp(_, reason) => {
                assert_eq!(reason, ReasonCode::SUCCESS);
                publisher.released -= 1;
            }
            Seen::PubAck(id) | Seen::PubRec(id) => {
                let sent = publisher.waiting.remove(0);
                assert_eq!(sent.id, id, "PUBACKs and PUBRECs come in the order of PUBLISHes");
                let once = sent.qos == Qos::ExactlyOnce;
                assert_eq!(seen, if once { Seen::PubRec(id) } else { Seen::PubAck(id) });
                if let Some(number) = sent.kept {
                    let cleared = publisher.cleared;
                    let on_disk = on_disk(&self.bench, KEPT[at]);
                    let later = on_disk.map_or(cleared >= number, |on_disk| on_disk >= number);
                    assert!(
                        later,
                        "{number} is acknowledged, the disk has {on_disk:?}, cleared by {cleared}"
                    );
                }
                for subscriber in sent.owed {
                    let (client, subscriber) = &mut self.subscribers[subscriber];
                    let kept = self.bench.disk.session_payloads(&self.bench.clients[*client].id);
                    assert!(kept.contains(&sent.payload), "{} is acknowledged and not on disk", sent.payload);
                    subscriber.expected.insert(sent.payload.clone());
                }
                let drops =
                    |sink: &SinkPlan| matches!(sink, SinkPlan::Lanes { when_full: WhenFull::DropNewest, .. });
                let promised = self.bench.plan.durabilities.get(1).filter(|it| **it != Durability::Memory);
                if promised.is_some() && !self.bench.plan.sinks.iter().any(drops) {
                    // What expired while a publisher waits for its upstream is nobody's any more, but none does here.
                    let disk = &self.bench.disk;
                    let is_safe = disk.payloads(UPLINK).contains(&sent.payload)
                        || promised == Some(&Durability::Spill) && disk.upstream.contains(&sent.payload);
                    assert!(is_safe, "{} is acknowledged and nowhere", sent.payload);
                    self.promised.insert(sent.payload.clone());
                }
                if once {
                    publisher.released += 1;
                    self.bench.pubrel(self.publishers[at].0, id);
                }
            }
            Seen::Refused(kind, id, ReasonCode::QUOTA_EXCEEDED) => {
                let sent = publisher.waiting.remove(0);
                assert_eq!(sent.id, id, "PUBACKs come in the order of PUBLISHes");
                assert_eq!(kind == AckKind::PubRec, sent.qos == Qos::ExactlyOnce);
                publisher.refused.extend(TOPICS.contains(&sent.topic).then_some(sent.topic));
                if !sent.payload.is_empty() {
                    self.refused.insert(sent.payload);
                }
            }
            Seen::Closed => {
                publisher.connected = false;
                publisher.released = 0;
                publisher.waiting.clear();
            }
            other => panic!("a publisher sees {other:?}"),
        }
    }

    fn subscriber_saw(&mut self, at: usize, seen: Seen) {
        let (client, subscriber) = &mut self.subscribers[at];
        match seen {
            // The store takes no writes, and the session would have to be written down.
            Seen::ConnAck { reason: ReasonCode::SERVER_UNAVAILABLE, .. } => {}
            Seen::ConnAck { present, reason } => {
                assert_eq!(reason, ReasonCode::SUCCESS);
                assert!(present || !subscriber.subscribed, "an acknowledged session is never lost");
                subscriber.connected = true;
                if !subscriber.subscribed {
                    self.bench.subscribe_with(*client, subscriber.filter, subscriber.qos, 0, |_| {});
                }
            }
            Seen::SubAck(_) => subscriber.subscribed = true,
            Seen::Publish(got) => subscriber.got(&got),
            Seen::PubRel(id, _) => {
                subscriber.released.extend(subscriber.held.remove(&id));
                subscriber.unacked.push((AckKind::PubComp, id));
            }
            Seen::Disconnect(_) => {}
            Seen::Closed => {
                subscriber.connected = false;
                subscriber.unacked.clear();
            }
            other => panic!("a subscriber sees {other:?}"),
        }
    }

    fn check(&self) {
        let limits = &self.bench.limits;
        if let Some(bound) = self.bench.bound {
            let waiting = self.bench.waits_for_uplink();
            assert!(waiting <= bound.bytes_max, "{waiting} bytes wait for the uplink, {bound:?}");
            assert!(self.bench.rooms.waiting(0) >= Some(waiting), "nothing that waits is forgotten");
        }
        for broker in &self.bench.brokers {
            broker.invariants();
            // Bounds are looked at before a message is taken, and a read of a lane may be under way for each session.
            let reads = self.subscribers.len() * (limits.session_queue_bytes_max as usize / 4 + 300);
            let waiting_max = limits.waiting_bytes_max as usize / self.bench.brokers.len() + 10 * 300 + reads;
            assert!(broker.waiting_bytes <= waiting_max, "{} bytes wait for clients", broker.waiting_bytes);
            let unsynced = broker.appended_bytes - broker.durable_bytes;
            assert!(
                unsynced <= u64::from(limits.commit_bytes_max) + 20_000,
                "{unsynced} bytes wait for the disk"
            );
        }
    }

    /// The upstream takes everything, until nobody waits for room.
    fn make_room(&mut self) {
        for _ in 0..1_000 {
            self.bench.settle();
            self.bench.drain_uplink();
            self.look();
            if self.bench.brokers.iter().all(|broker| broker.withheld() == 0) {
                return;
            }
        }
        panic!("somebody never finds room");
    }

    /// The storm is over: everybody comes back and takes what is owed.
    fn finish(&mut self) {
        for client in 0..self.bench.clients.len() {
            self.bench.unblock(client);
        }
        self.bench.disk.fails = false;
        self.bench.say_levels(Levels::default());
        self.bench.settle();
        self.bench.write_front(UPLINK);
        self.make_room();
        for at in 0..self.publishers.len() {
            // What was refused is taken now.
            for topic in std::mem::take(&mut self.publishers[at].1.refused) {
                self.publish_to(at, topic, Qos::AtLeastOnce, true);
                self.make_room();
            }
        }
        self.make_room();
        for payload in &self.promised {
            assert!(self.bench.disk.upstream.contains(payload), "{payload} was acknowledged and never came");
        }
        assert!(self.bench.rooms.waiting(0).is_none_or(|bytes| bytes == 0), "all room is given back");
        for (_, publisher) in &self.publishers {
            assert!(!publisher.connected || publisher.waiting.is_empty(), "nobody waits once there is room");
        }
        for at in 0..self.subscribers.len() {
            let client = self.subscribers[at].0;
            self.subscribers[at].1.unacked.clear();
            self.bench.cut(client);
            self.bench.take(client);
            self.bench.connect_with(client, &self.bench.stored_hello(client));
        }
        for at in 0..self.visitors.len() {
            self.bench.cut(self.visitors[at].0); // they do not acknowledge everything, and would wait for ever
        }
        for _ in 0..2_000 {
            self.bench.settle();
            self.bench.pass(1);
            self.look();
            let mut idle = true;
            for (client, subscriber) in &mut self.subscribers {
                for (kind, id) in std::mem::take(&mut subscriber.unacked) {
                    idle = false;
                    self.bench.answer_with(*client, kind, id, ReasonCode::SUCCESS);
                }
            }
            let lanes_are_empty =
                |broker: &crate::Broker| broker.session_lanes().all(|(_, _, backlog)| backlog == 0);
            let is_over = self.bench.brokers.iter().all(lanes_are_empty);
            let is_served = |subscriber: &Subscriber| subscriber.subscribed && subscriber.is_served();
            if idle && is_over && self.subscribers.iter().all(|(_, subscriber)| is_served(subscriber)) {
                break;
            }
        }
        self.bench.settle();
        self.check();
        for (client, subscriber) in &self.subscribers {
            assert!(
                subscriber.is_served(),
                "{} misses acknowledged messages",
                self.bench.clients[*client].id
            );
            subscriber.check_order();
            for key in subscriber.received.keys() {
                let payload = key.split_once(' ').map(|(_, payload)| payload);
                assert!(!self.refused.contains(payload.unwrap()), "{key} was refused and delivered");
            }
        }
        for payload in self.bench.disk.payloads(UPLINK).into_iter().chain(self.bench.disk.upstream.clone()) {
            assert!(!self.refused.contains(&payload), "{payload} was refused and is in the lane");
        }
        let contents: Vec<_> = self.bench.brokers.iter().map(|broker| broker.retained.contents()).collect();
        assert!(contents.iter().all(|replica| *replica == contents[0]), "all shards hold the same");
        let topics: Vec<&String> = contents[0].iter().map(|(topic, ..)| topic).collect();
        assert_eq!(topics, self.bench.disk.retained.keys().collect::<Vec<_>>(), "and so does the disk");
        for broker in &self.bench.brokers {
            assert_eq!(broker.retained().walks, 0, "every walk is at its end");
            assert!(broker.session_lanes().all(|(_, _, backlog)| backlog == 0), "all is acknowledged");
        }
    }
}

impl Subscriber {
    fn got(&mut self, got: &Got) {
        if got.id == 0 {
            return;
        }
        let once = got.qos == Qos::ExactlyOnce;
        let answer = (if once { AckKind::PubRec } else { AckKind::PubAck }, got.id);
        if !self.unacked.contains(&answer) {
            self.unacked.push(answer);
        }
        // A republished copy is a message of its own.
        let key = format!("{} {}", got.topic, got.text());
        if once {
            let held = self.held.insert(got.id, key.clone());
            assert!(held.is_none_or(|held| got.dup && held == key), "{} is in use: {got:?}", got.id);
        }
        if got.retain || got.payload.is_empty() {
            return; // it may come again with every SUBSCRIBE, and one that clears is like any other
        }
        assert!(!self.released.contains(&key), "{key} was released");
        match self.received.get(&key) {
            Some(id) => {
                assert!(got.dup && *id == got.id, "a repeat has DUP and the identifier it had: {got:?}")
            }
            None => {
                self.received.insert(key.clone(), got.id);
                self.order.push(key);
            }
        }
    }

    /// The disk has lost something: what it still has of this one's messages is owed, and what was known of packet
    /// identifiers is void. How many messages are lost.
    fn forget(&mut self, kept: &[String]) -> u64 {
        self.check_order();
        let received: BTreeSet<String> =
            self.received.keys().filter_map(|key| Some(key.split_once(' ')?.1.to_owned())).collect();
        self.expected.retain(|payload| !received.contains(payload));
        let expected = self.expected.len();
        self.expected.retain(|payload| self.subscribed && kept.contains(payload));
        let lost = expected - self.expected.len();
        (self.held, self.received) = (BTreeMap::new(), BTreeMap::new());
        (self.released, self.order) = (BTreeSet::new(), Vec::new());
        lost as u64
    }

    fn is_served(&self) -> bool {
        let payloads: BTreeSet<&str> =
            self.received.keys().filter_map(|key| Some(key.split_once(' ')?.1)).collect();
        self.expected.iter().all(|payload| payloads.contains(&payload[..]))
    }

    fn check_order(&self) {
        let mut order = Order::default();
        for (topic, payload) in self.order.iter().filter_map(|key| key.split_once(' ')) {
            if !payload.contains(EXPIRING) {
                order.check(topic, payload);
            }
        }
    }
}

/// The number of what the disk has retained for a topic.
fn on_disk(bench: &Bench, topic: &str) -> Option<u32> {
    let value = bench.disk.retained.get(topic)?;
    let record = crate::decode_retained(topic.as_bytes(), value).unwrap();
    Some(number(&record.payload()).1)
}

type Run = (u64, usize, u64, (u64, u64));

/// The fingerprint of a run, how many messages were refused and had to wait in it, and how many lies took how many.
fn run(seed: u64) -> Run {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.finish();
    let lies = (world.lies, world.broken);
    (world.bench.fingerprint, world.refused.len(), world.bench.counters().withheld, lies)
}

#[test]
fn whatever_happens_nothing_acknowledged_is_lost() {
    let runs = replay("whatever_happens", SEEDS, run);
    let sum = |pick: fn(&Run) -> u64| runs.iter().map(pick).sum::<u64>();
    let (refused, withheld) = (sum(|run| run.1 as u64), sum(|run| run.2));
    let (lies, broken) = (sum(|run| run.3.0), sum(|run| run.3.1));
    let enough = refused > 100 && withheld > 100 && lies > 50 && broken > 0;
    assert!(
        runs.len() < 100 || enough,
        "{refused} messages were refused, {withheld} had to wait, {lies} lies took {broken}"
    );
}
