//! A seeded simulation of QoS 2: clients that keep to the protocol on their side, and everything else in any order.
//!
//! Publishers remember what is not done and send it again after a reconnect, PUBLISH or PUBREL, with identifiers that come
//! round quickly; subscribers remember the identifiers they hold. Sessions are clean or stored, QoS 1 and 2 are mixed,
//! one to three shards, with crashes and without.
//! Held against each run: what PUBREC or PUBACK says is on disk at that moment, for a stored publisher its identifier, too;
//! a stored subscriber has it in the end. A QoS 2 message reaches a session once: with one shard whatever happens, with
//! several unless a crash fell between its first PUBLISH and its end (`router/docs/mqtt.md`). An identifier that a client
//! holds never comes with another message, PUBREL never before PUBREC. Answers come in the order of what they answer; the
//! messages of one publisher in theirs. The client's Receive Maximum is kept. In the end no identifier and no mark is left.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;

use model::{Limits, Qos};
use wire::{AckKind, Connect, ReasonCode, Version};

use super::seeds::replay;
use super::simulation::{Order, number};
use crate::StateSpace;
use crate::random::Random;
use crate::sessions::record::received_key;
use crate::testbench::{Bench, Got, Seen};

const SEEDS: u64 = 500;
const STEPS: usize = 300;
/// Identifiers of a publisher; few, so that each is used again soon.
const IDS: u16 = 12;
const FILTERS: [&str; 4] = ["a/+", "#", "copy/#", "a/1"];

/// A message that its publisher is not done with.
struct Message {
    id: u16,
    qos: Qos,
    topic: &'static str,
    payload: String,
    /// PUBREC came.
    received: bool,
    /// PUBREL was sent on this connection.
    released: bool,
    /// The stored subscribers that must have it.
    owed: Vec<usize>,
}

struct Publisher {
    client: usize,
    stored: bool,
    connected: bool,
    last_id: u16,
    /// In the order of their first PUBLISH.
    flight: Vec<Message>,
    /// The answers that this connection owes it.
    awaited: VecDeque<(AckKind, u16)>,
}

/// A QoS 2 message that a subscriber holds the identifier of.
struct Holding {
    key: String,
    /// It has sent PUBREC.
    answered: bool,
}

struct Subscriber {
    client: usize,
    stored: bool,
    filter: &'static str,
    receive_max: u16,
    connected: bool,
    /// SUBACK came in this session.
    subscribed: bool,
    /// Answers that it has not sent on this connection.
    owes: Vec<(AckKind, u16)>,
    /// Identifiers that were sent on this connection and are not given back.
    open: BTreeSet<u16>,
    /// Its part of the session.
    held: BTreeMap<u16, Holding>,
    /// Acknowledged to their publishers.
    expected: BTreeSet<String>,
    /// How often each message reached this session.
    counts: BTreeMap<String, u32>,
    order: Order,
    /// Messages up to this number were sent before its SUBACK: of those it may see a repeat behind later ones.
    late_for: u32,
}

struct World {
    bench: Bench,
    random: Random,
    shards: usize,
    receive_max: u16,
    crashes: u32,
    may_crash: bool,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    messages: u32,
    /// How many crashes there had been when a message was first sent.
    sent_after: BTreeMap<String, u32>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let (shards, may_crash) = (1 + random.below(3), random.one_in(2));
        let limits = Limits {
            session_inflight_max: 1 + random.below(6) as u16,
            session_queue_messages_max: 1 + random.below(6) as u32,
            session_queue_bytes_max: 200 + random.below(2_000) as u32,
            outbox_bytes_max: 100 + random.below(2_000) as u32,
            receive_max: 1 + random.below(10) as u16,
            commit_bytes_max: 200 + random.below(4_000) as u32,
            waiting_bytes_max: (500 + random.below(8_000) as u64) * shards as u64,
            ..Limits::DEFAULT
        };
        let receive_max = limits.receive_max;
        let specs = [("FROM /* INTO topic(\"copy/{$topic}\")", None, None)];
        let mut bench = Bench::with(shards, limits, super::routing::plan(&specs));
        let mut client = |name: String, random: &mut Random| {
            let version = if random.one_in(2) { Version::V3 } else { Version::V5 };
            (bench.client(&name, version, random.below(shards)), version)
        };
        let publishers = (0..3).map(|number| Publisher {
            client: client(format!("p{number}-"), &mut random).0,
            stored: !random.one_in(3),
            connected: false,
            last_id: 0,
            flight: Vec::new(),
            awaited: VecDeque::new(),
        });
        let publishers = publishers.collect();
        let subscribers = (0..5).map(|number| {
            let (client, version) = client(format!("s{number}-"), &mut random);
            Subscriber {
                client,
                stored: number < 4,
                filter: FILTERS[number % 4],
                receive_max: if version == Version::V5 { 1 + random.below(8) as u16 } else { u16::MAX },
                connected: false,
                subscribed: false,
                owes: Vec::new(),
                open: BTreeSet::new(),
                held: BTreeMap::new(),
                expected: BTreeSet::new(),
                counts: BTreeMap::new(),
                order: Order::default(),
                late_for: u32::MAX,
            }
        });
        let subscribers = subscribers.collect();
        let (messages, sent_after) = (0, BTreeMap::new());
        World {
            bench,
            random,
            shards,
            receive_max,
            crashes: 0,
            may_crash,
            publishers,
            subscribers,
            messages,
            sent_after,
        }
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=4 => self.publish(),
            5..=7 => self.release(),
            8..=11 => self.answer(),
            12 => self.come_or_go_publisher(),
            13 => self.come_or_go_subscriber(),
            14..=15 => self.mail(),
            16..=17 => drop(self.bench.disk_step()),
            18 => {
                let client = self.random.below(self.bench.clients.len());
                self.bench.clients[client].takes = [0, 40, 300, usize::MAX][self.random.below(4)];
                self.bench.drip(client);
            }
            _ if self.may_crash && self.random.one_in(8) => self.crash(),
            _ => {
                let millis = self.random.below(2_000) as u64;
                self.bench.pass(millis);
            }
        }
        self.look();
        self.bench.brokers.iter().for_each(crate::Broker::invariants);
    }

    fn publish(&mut self) {
        let at = self.random.below(self.publishers.len());
        let publisher = &mut self.publishers[at];
        let room = usize::from(self.receive_max.min(IDS - 1));
        if !publisher.connected || publisher.flight.len() >= room {
            return self.repeat(at);
        }
        self.messages += 1;
        let mut id = publisher.last_id % IDS + 1;
        while publisher.flight.iter().any(|message| message.id == id) {
            id = id % IDS + 1;
        }
        publisher.last_id = id;
        let qos = if self.random.one_in(3) { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
        let topic = ["a/1", "a/2"][self.random.below(2)];
        let payload = format!("{at}:{}:{}", self.messages, "x".repeat(self.random.below(60)));
        let copy = format!("copy/{topic}");
        let wants = |subscriber: &Subscriber| {
            let matches = |topic: &str| model::filter_matches(subscriber.filter, topic);
            subscriber.stored && subscriber.subscribed && (matches(topic) || matches(&copy))
        };
        let owed = (0..self.subscribers.len()).filter(|at| wants(&self.subscribers[*at])).collect();
        self.sent_after.insert(payload.clone(), self.crashes);
        publisher.flight.push(Message { id, qos, topic, payload, received: false, released: false, owed });
        let last = publisher.flight.len() - 1;
        self.send(at, last, false);
    }

    /// 3.1.1 lets a client send again whenever it likes.
    fn repeat(&mut self, at: usize) {
        let publisher = &self.publishers[at];
        let v3 = self.bench.clients[publisher.client].version == Version::V3;
        let unanswered = |message: &Message| message.qos == Qos::ExactlyOnce && !message.received;
        if let (true, true, Some(index)) =
            (v3, publisher.connected, publisher.flight.iter().position(unanswered))
        {
            self.send(at, index, true);
        }
    }

    /// Sends PUBLISH or PUBREL of the message at `index`, whichever is its turn.
    fn send(&mut self, at: usize, index: usize, dup: bool) {
        let publisher = &mut self.publishers[at];
        let (client, message) = (publisher.client, &mut publisher.flight[index]);
        let id = message.id;
        if message.received {
            message.released = true;
            publisher.awaited.push_back((AckKind::PubComp, id));
            return self.bench.pubrel(client, id);
        }
        let kind = if message.qos == Qos::ExactlyOnce { AckKind::PubRec } else { AckKind::PubAck };
        publisher.awaited.push_back((kind, id));
        let (topic, payload, qos) = (message.topic, message.payload.clone(), message.qos);
        self.bench.publish_with(client, topic, &payload, id, |publish| {
            (publish.qos, publish.dup) = (qos, dup);
        });
    }

    fn release(&mut self) {
        let at = self.random.below(self.publishers.len());
        let publisher = &self.publishers[at];
        let due = |message: &Message| message.received && !message.released;
        if let (true, Some(index)) = (publisher.connected, publisher.flight.iter().position(due)) {
            self.send(at, index, false);
        }
    }

    fn answer(&mut self) {
        let at = self.random.below(self.subscribers.len());
        for _ in 0..=self.random.below(4) {
            if !self.subscribers[at].owes.is_empty() {
                let index = self.random.below(self.subscribers[at].owes.len().min(2));
                self.answer_one(at, index);
            }
        }
    }

    fn answer_one(&mut self, at: usize, index: usize) {
        let subscriber = &mut self.subscribers[at];
        let (kind, id) = subscriber.owes.remove(index);
        match kind {
            AckKind::PubRec => {
                if let Some(holding) = subscriber.held.get_mut(&id) {
                    holding.answered = true;
                }
            }
            _ => drop(subscriber.open.remove(&id)),
        }
        self.bench.answer_with(subscriber.client, kind, id, ReasonCode::SUCCESS);
    }

    fn hello(&self, client: usize, stored: bool, receive_max: u16) -> Connect {
        let mut hello = if stored { self.bench.stored_hello(client) } else { self.bench.hello(client) };
        hello.receive_max = NonZeroU16::new(receive_max).unwrap();
        hello
    }

    fn come_or_go_publisher(&mut self) {
        let at = self.random.below(self.publishers.len());
        let Publisher { client, stored, connected, .. } = self.publishers[at];
        if connected && !self.random.one_in(4) {
            self.look(); // what our last answers led to
            self.bench.cut(client);
            self.publisher_saw(at, Seen::Closed);
        } else {
            self.connect_publisher(at, client, stored);
        }
    }

    fn connect_publisher(&mut self, at: usize, client: usize, stored: bool) {
        self.look();
        self.publisher_saw(at, Seen::Closed); // or it takes itself over
        let hello = self.hello(client, stored, u16::MAX);
        self.bench.connect_with(client, &hello);
    }

    fn come_or_go_subscriber(&mut self) {
        let at = self.random.below(self.subscribers.len());
        let Subscriber { client, connected, .. } = self.subscribers[at];
        self.look();
        if connected && !self.random.one_in(4) {
            if self.random.one_in(2) {
                self.bench.cut(client);
            } else {
                self.bench.disconnect(client, ReasonCode::NORMAL_DISCONNECTION, None);
            }
            self.look();
            self.subscriber_saw(at, Seen::Closed);
        } else {
            self.connect_subscriber(at);
        }
    }

    fn connect_subscriber(&mut self, at: usize) {
        self.look();
        let Subscriber { client, stored, receive_max, .. } = self.subscribers[at];
        self.subscriber_saw(at, Seen::Closed);
        let hello = self.hello(client, stored, receive_max);
        self.bench.connect_with(client, &hello);
    }

    fn mail(&mut self) {
        self.bench.deliver_some_mail(&mut self.random);
    }

    fn crash(&mut self) {
        self.look();
        self.crashes += 1;
        self.bench.crash();
        self.look();
    }

    /// Lets every client read what it was sent.
    fn look(&mut self) {
        for at in 0..self.publishers.len() {
            let client = self.publishers[at].client;
            self.bench.take(client).into_iter().for_each(|seen| self.publisher_saw(at, seen));
        }
        for at in 0..self.subscribers.len() {
            let client = self.subscribers[at].client;
            self.bench.take(client).into_iter().for_each(|seen| self.subscriber_saw(at, seen));
        }
    }

    fn publisher_saw(&mut self, at: usize, seen: Seen) {
        let publisher = &mut self.publishers[at];
        let (kind, id) = match seen {
            Seen::ConnAck { present, reason } => {
                assert_eq!(reason, ReasonCode::SUCCESS);
                assert!(publisher.stored || !present);
                publisher.connected = true;
                if !present {
                    assert!(
                        !publisher.stored || publisher.flight.is_empty(),
                        "an acknowledged session is never lost"
                    );
                    publisher.flight.clear();
                }
                publisher.flight.iter_mut().for_each(|message| message.released = false);
                // [MQTT-4.4.0-1] [MQTT-4.6.0-1]
                for index in 0..publisher.flight.len() {
                    self.send(at, index, true);
                }
                return;
            }
            Seen::Closed => {
                publisher.connected = false;
                publisher.awaited.clear();
                return;
            }
            Seen::Disconnect(ReasonCode::SESSION_TAKEN_OVER) => return,
            Seen::PubAck(id) => (AckKind::PubAck, id),
            Seen::PubRec(id) => (AckKind::PubRec, id),
            // Not found: a crash came between its end and our hearing of it.
            Seen::PubComp(id, ReasonCode::SUCCESS | ReasonCode::PACKET_IDENTIFIER_NOT_FOUND) => {
                (AckKind::PubComp, id)
            }
            other => panic!("a publisher sees {other:?}"),
        };
        assert_eq!(publisher.awaited.pop_front(), Some((kind, id)), "answers come in order");
        let index = publisher.flight.iter().position(|message| message.id == id);
        let index = index.expect("an answer to something");
        if kind != AckKind::PubComp && !publisher.flight[index].received {
            self.is_promised(at, index);
        }
        let publisher = &mut self.publishers[at];
        if kind == AckKind::PubRec {
            publisher.flight[index].received = true;
        } else {
            publisher.flight.remove(index);
        }
    }

    /// A message was acknowledged: where it must be now.
    fn is_promised(&mut self, at: usize, index: usize) {
        let publisher = &self.publishers[at];
        let message = &publisher.flight[index];
        for &subscriber in &message.owed {
            let subscriber = &mut self.subscribers[subscriber];
            let kept = self.bench.disk.session_payloads(&self.bench.clients[subscriber.client].id);
            assert!(kept.contains(&message.payload), "{} is acknowledged and not on disk", message.payload);
            subscriber.expected.insert(message.payload.clone());
        }
        if publisher.stored && message.qos == Qos::ExactlyOnce {
            let mut key = Vec::new();
            let client_id = &self.bench.clients[publisher.client].id;
            received_key(&mut key, client_id, NonZeroU16::new(message.id).unwrap());
            let is_known = self.bench.disk.state.contains_key(&(StateSpace::Received, key));
            assert!(is_known, "{} has PUBREC, and a crash would forget it", message.payload);
        }
    }

    fn subscriber_saw(&mut self, at: usize, seen: Seen) {
        let subscriber = &mut self.subscribers[at];
        match seen {
            Seen::ConnAck { present, reason } => {
                assert_eq!(reason, ReasonCode::SUCCESS);
                assert!(present || !subscriber.stored || !subscriber.subscribed, "a session is never lost");
                subscriber.connected = true;
                if !present {
                    (subscriber.subscribed, subscriber.late_for) = (false, u32::MAX);
                    (subscriber.counts, subscriber.order) = (BTreeMap::new(), Order::default());
                    subscriber.held.clear();
                }
                if !subscriber.subscribed {
                    let (client, filter) = (subscriber.client, subscriber.filter);
                    self.bench.subscribe_with(client, filter, Qos::ExactlyOnce, 0, |_| {});
                }
            }
            Seen::SubAck(_) => (subscriber.subscribed, subscriber.late_for) = (true, self.messages),
            Seen::Publish(got) => self.got(at, &got),
            Seen::PubRel(id, reason) => {
                assert_eq!(reason, ReasonCode::SUCCESS);
                let answered = subscriber.held.remove(&id).is_none_or(|holding| holding.answered);
                assert!(answered, "PUBREL {id} before PUBREC");
                subscriber.owes.push((AckKind::PubComp, id));
            }
            Seen::Disconnect(_) => {}
            Seen::Closed => {
                subscriber.connected = false;
                subscriber.owes.clear();
                subscriber.open.clear();
            }
            other => panic!("a subscriber sees {other:?}"),
        }
    }

    fn got(&mut self, at: usize, got: &Got) {
        let subscriber = &mut self.subscribers[at];
        let key = format!("{} {}", got.topic, got.text());
        let once = got.qos == Qos::ExactlyOnce;
        let kind = if once { AckKind::PubRec } else { AckKind::PubAck };
        if !subscriber.owes.contains(&(kind, got.id)) {
            subscriber.owes.push((kind, got.id));
        }
        subscriber.open.insert(got.id);
        assert!(subscriber.open.len() <= usize::from(subscriber.receive_max), "[MQTT-3.3.4-9]");
        if let Some(holding) = subscriber.held.get(&got.id) {
            assert!(
                once && got.dup && holding.key == key,
                "{} is held as {}, and comes as {got:?}",
                got.id,
                holding.key
            );
            return;
        }
        if once {
            subscriber.held.insert(got.id, Holding { key: key.clone(), answered: false });
        }
        let count = subscriber.counts.entry(key.clone()).or_default();
        *count += 1;
        if *count == 1 {
            if number(&got.text()).1 > subscriber.late_for {
                subscriber.order.check(&got.topic, &got.text());
            }
        } else if once {
            let crashed = self.crashes > self.sent_after[&got.text()];
            assert!(self.shards > 1 && crashed, "{key} came twice");
        }
    }

    /// The storm is over: everybody comes back, and whatever was begun comes to its end.
    fn finish(&mut self) {
        for client in 0..self.bench.clients.len() {
            self.bench.unblock(client);
        }
        self.bench.settle();
        self.look();
        for at in 0..self.publishers.len() {
            let Publisher { client, stored, .. } = self.publishers[at];
            self.connect_publisher(at, client, stored);
        }
        (0..self.subscribers.len()).for_each(|at| self.connect_subscriber(at));
        for _ in 0..2_000 {
            self.bench.settle();
            self.bench.pass(1);
            self.look();
            let mut idle = true;
            for at in 0..self.publishers.len() {
                let due = |message: &Message| message.received && !message.released;
                while let Some(index) = self.publishers[at].flight.iter().position(due) {
                    self.send(at, index, false);
                }
                idle &= self.publishers[at].flight.is_empty();
            }
            for at in 0..self.subscribers.len() {
                while !self.subscribers[at].owes.is_empty() {
                    idle = false;
                    self.answer_one(at, 0);
                }
            }
            let is_over = |broker: &crate::Broker| broker.session_lanes().all(|(_, _, backlog)| backlog == 0);
            if idle && self.bench.brokers.iter().all(is_over) {
                break;
            }
        }
        self.bench.settle();
        self.look();
        for publisher in &self.publishers {
            assert_eq!(publisher.flight.len(), 0, "every exchange ends");
        }
        for subscriber in &self.subscribers {
            let arrived: BTreeSet<&str> =
                subscriber.counts.keys().filter_map(|key| Some(key.split_once(' ')?.1)).collect();
            let lost = subscriber.expected.iter().find(|payload| !arrived.contains(&payload[..]));
            assert_eq!(lost, None, "{} misses it", self.bench.clients[subscriber.client].id);
            assert!(subscriber.held.is_empty(), "every exchange ends");
        }
        let left = [StateSpace::Received, StateSpace::Marks].map(|space| self.bench.disk.keys(space));
        assert_eq!(left, [0, 0], "nothing is left of exchanges that are over");
        assert_eq!(self.bench.counters().bugs, 0);
    }
}

fn run(seed: u64) -> u64 {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.finish();
    world.bench.fingerprint
}

/// [MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT-4.3.3-12] [MQTT-4.3.3-4] [MQTT-4.3.3-6] [MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-4.6.0-3]
/// [MQTT-4.6.0-4] [MQTT-3.3.4-9]
#[test]
fn a_qos_2_message_is_neither_lost_nor_repeated() {
    replay("exactly_once", SEEDS, run);
}
