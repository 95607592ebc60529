//! A seeded simulation of one group: members of both kinds come, go, end their sessions and acknowledge when they like.
//!
//! Two worlds. With clean members, and no crashes: a message reaches one member, and another one only after the session
//! of the first has ended. With crashes, and stored members alone: nothing acknowledged is lost. In both, whatever was
//! acknowledged to its publisher is acknowledged by a member in the end, whoever has left meanwhile.
//! One member stays; a shard may lose all of its own while messages are on their way there.

use std::collections::{BTreeMap, BTreeSet};

use model::{Limits, Qos};
use wire::{ReasonCode, Version};

use super::seeds::replay;
use crate::Plan;
use crate::random::Random;
use crate::testbench::{Bench, Seen};

const SEEDS: u64 = 250;
const STEPS: usize = 300;
const GROUP: &str = "$share/w/a/+";

struct Worker {
    client: usize,
    /// Its session outlives its connections, and never ends.
    stays: bool,
    stored: bool,
    /// SUBACK came in this session.
    subscribed: bool,
    /// Sessions that it has had.
    session: u32,
    unacked: Vec<(u16, String)>,
}

struct World {
    bench: Bench,
    random: Random,
    crashes: bool,
    publisher: usize,
    next_id: u16,
    waiting: Vec<(u16, String, bool)>,
    workers: Vec<Worker>,
    /// Acknowledged to the publisher.
    expected: BTreeSet<String>,
    /// Acknowledged by a worker.
    done: BTreeSet<String>,
    /// Who got a message last, and in which of its sessions.
    holders: BTreeMap<String, (usize, u32)>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let crashes = random.one_in(2);
        let shards = 1 + random.below(3);
        let limits = Limits { session_inflight_max: 1 + random.below(5) as u16, ..Limits::DEFAULT };
        let mut bench = Bench::with(shards, limits, Plan::empty());
        let publisher = bench.client("p", Version::V5, random.below(shards));
        let mut workers = Vec::new();
        for number in 0..shards + 3 {
            let (stays, home) = (number == 0, random.below(shards));
            let version = if random.one_in(2) { Version::V3 } else { Version::V5 };
            let client = bench.client(&format!("w{number}-"), version, home);
            let stored = stays || crashes || random.one_in(2);
            workers.push(Worker {
                client,
                stays,
                stored,
                subscribed: false,
                session: 0,
                unacked: Vec::new(),
            });
        }
        World {
            bench,
            random,
            crashes,
            publisher,
            next_id: 0,
            waiting: Vec::new(),
            workers,
            expected: BTreeSet::new(),
            done: BTreeSet::new(),
            holders: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..=4 => self.publish(),
            5..=6 => self.come_or_go(),
            7..=9 => self.acknowledge(),
            10..=12 => self.mail(),
            13..=14 => drop(self.bench.disk_step()),
            _ if self.crashes && self.random.one_in(10) => self.crash(),
            _ => self.bench.pass(300),
        }
        self.look();
        self.bench.brokers.iter().for_each(crate::Broker::invariants);
    }

    fn publish(&mut self) {
        if self.bench.clients[self.publisher].conn.is_none() {
            self.waiting.clear();
            self.bench.connect_with(self.publisher, &self.bench.hello(self.publisher));
        }
        self.next_id += 1;
        let payload = self.next_id.to_string();
        let owed = self.workers.iter().filter(|worker| worker.stays).all(|worker| worker.subscribed);
        self.waiting.push((self.next_id, payload.clone(), owed));
        let topic = ["a/1", "a/2"][self.random.below(2)];
        self.bench.publish(self.publisher, topic, &payload, self.next_id);
    }

    fn come_or_go(&mut self) {
        let at = self.random.below(self.workers.len());
        let Worker { client, stays, stored, .. } = self.workers[at];
        let ends = !stays && self.random.one_in(3);
        if self.bench.clients[client].conn.is_some() && !ends {
            self.bench.cut(client);
            self.workers[at].unacked.clear();
            if !stored {
                self.end(at);
            }
            return;
        }
        self.look(); // what came in the session before
        let mut connect = if stored { self.bench.stored_hello(client) } else { self.bench.hello(client) };
        if ends || !stored {
            self.end(at);
            connect.clean_start = connect.version == Version::V5 || !stored;
        }
        self.workers[at].unacked.clear();
        self.bench.connect_with(client, &connect);
    }

    /// The session of a worker ends, if that is what happens: 3.1.1 has no stored session with a clean start.
    fn end(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        if !worker.stored || self.bench.clients[worker.client].version == Version::V5 {
            worker.session += 1;
            worker.subscribed = false;
        }
    }

    fn acknowledge(&mut self) {
        let at = self.random.below(self.workers.len());
        let worker = &mut self.workers[at];
        for _ in 0..=self.random.below(3) {
            if !worker.unacked.is_empty() && self.bench.clients[worker.client].conn.is_some() {
                let (id, payload) = worker.unacked.remove(0);
                self.bench.ack(worker.client, id);
                self.done.insert(payload);
            }
        }
    }

    fn mail(&mut self) {
        self.bench.deliver_some_mail(&mut self.random);
    }

    fn crash(&mut self) {
        self.look();
        self.bench.crash();
        self.waiting.clear();
        self.workers.iter_mut().for_each(|worker| worker.unacked.clear());
        self.look();
    }

    fn look(&mut self) {
        for seen in self.bench.take(self.publisher) {
            if let Seen::PubAck(id) = seen {
                let (sent, payload, owed) = self.waiting.remove(0);
                assert_eq!(sent, id, "in order");
                if owed {
                    self.expected.insert(payload);
                }
            }
        }
        for at in 0..self.workers.len() {
            for seen in self.bench.take(self.workers[at].client) {
                self.saw(at, seen);
            }
        }
    }

    fn saw(&mut self, at: usize, seen: Seen) {
        let worker = &mut self.workers[at];
        match seen {
            Seen::ConnAck { reason, .. } => {
                assert_eq!(reason, ReasonCode::SUCCESS);
                self.bench.subscribe_with(worker.client, GROUP, Qos::AtLeastOnce, 0, |_| {});
            }
            Seen::SubAck(_) => worker.subscribed = true,
            Seen::Publish(got) => {
                let payload = got.text();
                let own = (at, worker.session);
                worker.unacked.push((got.id, payload.clone()));
                if let Some((holder, session)) = self.holders.insert(payload.clone(), own)
                    && holder != at
                    && !self.crashes
                {
                    assert!(self.workers[holder].session > session, "{payload} is with {holder} and {at}");
                }
            }
            Seen::Closed => worker.unacked.clear(),
            _ => {}
        }
    }

    /// Everybody comes back and acknowledges what there is.
    fn finish(&mut self) {
        self.bench.settle();
        self.look();
        for at in 0..self.workers.len() {
            let Worker { client, stored, .. } = self.workers[at];
            self.bench.settle();
            self.look();
            if !stored {
                self.bench.cut(client);
                self.end(at);
                self.workers[at].unacked.clear();
                continue;
            }
            self.workers[at].unacked.clear();
            self.bench.connect_with(client, &self.bench.stored_hello(client));
        }
        for _ in 0..500 {
            self.bench.settle();
            self.bench.pass(300);
            self.bench.settle();
            self.look();
            let mut idle = true;
            for worker in &mut self.workers {
                for (id, payload) in std::mem::take(&mut worker.unacked) {
                    idle = false;
                    self.bench.ack(worker.client, id);
                    self.done.insert(payload);
                }
            }
            if idle {
                break;
            }
        }
        let lost: Vec<_> = self.expected.difference(&self.done).collect();
        assert!(lost.is_empty(), "acknowledged, and nobody has it: {lost:?}");
        assert!(
            self.bench.brokers.iter().all(|broker| broker.estates.is_empty()),
            "nothing is left to pass on"
        );
    }
}

fn run(seed: u64) -> (u64, usize) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.finish();
    (world.bench.fingerprint, world.expected.len())
}

#[test]
fn whoever_leaves_a_group_nothing_acknowledged_is_lost() {
    let expected: usize = replay("sharing", SEEDS, run).iter().map(|(_, expected)| expected).sum();
    assert!(expected > 0, "the simulation promises something");
}
