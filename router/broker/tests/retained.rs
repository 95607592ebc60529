//! Question: what do 100 000 retained topics cost one shard, in time per message, in memory, and in the longest turn of
//! a wildcard subscription? No sockets, no disk; a subscriber that takes everything at once.
//!
//! `cargo test --release -p millrace-broker --test retained -- --ignored --nocapture`. Unit: beside each number. Noise:
//! the median of a few runs is good for ±10 % on a quiet machine; the longest turn shows whatever else ran.

#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use broker::access::Access;
use broker::{Broker, Effects, Peer, Plan, Setup};
use model::{ConnId, Instant, Limits, Now, Qos, ShardId, Timestamp};
use wire::{Connect, OutgoingPublish, Subscribe, Subscription, Version};

const TOPICS: usize = 100_000;
const NOW: Now = Now { instant: Instant(1), timestamp: Timestamp(1) };

struct Driver {
    broker: Broker,
    effects: Effects,
}

impl Driver {
    fn new() -> Driver {
        let setup = Setup {
            shard: ShardId(0),
            shards: 1,
            limits: Arc::new(Limits::DEFAULT),
            offers: Arc::default(),
            access: Arc::new(Access::open(true)),
            plan: Arc::new(Plan::empty()),
            rooms: Arc::default(),
            seed: 7,
            home_seed: 7,
        };
        Driver { broker: Broker::new(setup), effects: Effects::new(1) }
    }

    fn connect(&mut self, client_id: &str) -> ConnId {
        let conn = self.broker.open(Peer::default(), NOW);
        let mut bytes = Vec::new();
        wire::encode_connect(&mut bytes, &Connect::new(Version::V3, client_id)).expect("small");
        self.read(conn, &bytes);
        self.flush();
        conn
    }

    fn read(&mut self, conn: ConnId, bytes: &[u8]) {
        let taken = self.broker.read(conn, bytes, NOW, &mut self.effects);
        assert_eq!(taken, bytes.len());
    }

    /// Every socket takes everything; how many bytes that was.
    fn flush(&mut self) -> usize {
        let mut bytes = 0;
        while let Some(conn) = self.effects.dirty.pop() {
            self.broker.flushing(conn);
            let len = self.broker.pending(conn).len();
            self.broker.wrote(conn, len, NOW, &mut self.effects);
            bytes += len;
        }
        drop(self.effects.appends.take());
        bytes
    }

    /// Subscribes, and walks to the end; the turns of the walk.
    fn subscribe(&mut self, conn: ConnId, filter: &str) -> Vec<Duration> {
        let subscribe = Subscribe {
            packet_id: std::num::NonZeroU16::MIN,
            subscription_id: None,
            user_properties: Vec::new(),
            subscriptions: vec![Subscription::new(filter, Qos::AtMostOnce)],
        };
        let mut bytes = Vec::new();
        wire::encode_subscribe(&mut bytes, Version::V3, &subscribe).expect("small");
        self.read(conn, &bytes);
        self.flush();
        let mut turns = Vec::new();
        while std::mem::take(&mut self.effects.walk) {
            let started = Clock::now();
            self.broker.walk(NOW, &mut self.effects);
            turns.push(started.elapsed());
            self.flush();
        }
        turns
    }
}

fn topic(number: usize) -> String {
    format!("site/{:03}/device/{:03}/state", number / 500, number % 500)
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4_096
}

#[test]
#[ignore = "measures; run it in release and alone"]
fn what_a_hundred_thousand_retained_topics_cost() {
    let mut driver = Driver::new();
    let publisher = driver.connect("publisher");
    let payload = [b'x'; 40];
    let mut packets = Vec::new();
    for number in 0..TOPICS {
        let topic = topic(number);
        let publish =
            OutgoingPublish { topic: &topic, payload: &payload, retain: true, ..OutgoingPublish::default() };
        let mut bytes = Vec::new();
        wire::encode_publish(&mut bytes, Version::V3, &publish).expect("small");
        packets.push(bytes);
    }
    let before = resident_bytes();
    for what in ["first", "again"] {
        let started = Clock::now();
        for packet in &packets {
            driver.read(publisher, packet);
            drop(driver.effects.appends.take());
        }
        let nanos = started.elapsed().as_nanos() / TOPICS as u128;
        println!("retain, {what}: {nanos} ns per message");
        if what == "first" {
            let bytes = resident_bytes().saturating_sub(before) / TOPICS as u64;
            println!(
                "memory: {bytes} bytes per topic ({} of topic and payload)",
                topic(0).len() + payload.len()
            );
        }
    }
    assert_eq!(driver.broker.retained().messages, TOPICS);
    for filter in ["#", "site/+/device/+/state", "site/007/#", "site/+/device/007/state", "+/+/+/+/other"] {
        let subscriber = driver.connect(&format!("s{filter}"));
        let delivered = driver.broker.counters().delivered;
        let turns = driver.subscribe(subscriber, filter);
        let delivered = driver.broker.counters().delivered - delivered;
        let total: Duration = turns.iter().sum();
        let longest = turns.iter().max().copied().unwrap_or_default();
        println!(
            "{filter}: {delivered} delivered, {} turns, {total:.1?} in all, longest turn {longest:.1?}",
            turns.len()
        );
        assert!(driver.broker.retained().walks == 0);
    }
    assert_eq!(driver.broker.counters().delivered, 2 * TOPICS as u64 + 500 + 200);
}
