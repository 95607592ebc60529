//! What one publication costs the broker between two sockets, without the sockets: steps that `instructions` counts.
//!
//! Knows: how an edge plays with a broker of one shard (`router/src/shard.rs` does it with sockets). May use: `broker`,
//! `wire`. Never: clocks, disks; what a step does is the same each time, to the instruction.
//! In: how many reads. Out: nothing but having been done; each step checks that what was sent has arrived.

use std::num::NonZeroU16;
use std::sync::Arc;

use anyhow::{Context, ensure};
use broker::access::Access;
use broker::{Broker, Effects, Event, Offers, Peer, Plan, Setup};
use model::{ConnId, Instant, Limits, Now, Qos, ShardId, Timestamp};
use wire::{AckKind, Connect, OutgoingPublish, Packet, ReasonCode, Subscribe, Subscription, Version};

const TOPIC: &str = "site/a/line/7/press/0042";
const PAYLOAD: [u8; 256] = [0x5A; 256];
const PACKET_BYTES_MAX: u32 = 1 << 20;

/// Publications that come with one read.
pub(crate) const BATCH: u16 = 64;
/// Subscribers of the fan-out.
pub(crate) const FANS: u16 = 50;

/// 64 publications with QoS 0 in one read, to one subscriber.
pub(crate) fn qos0(reads: u64) -> anyhow::Result<()> {
    drive(reads, BATCH, 1, Qos::AtMostOnce)
}

/// 64 publications with QoS 1 in one read, to one subscriber; both sides acknowledge.
pub(crate) fn qos1(reads: u64) -> anyhow::Result<()> {
    drive(reads, BATCH, 1, Qos::AtLeastOnce)
}

/// The same, every publication in a read of its own.
pub(crate) fn single(reads: u64) -> anyhow::Result<()> {
    drive(reads, 1, 1, Qos::AtLeastOnce)
}

/// 64 publications with QoS 0 in one read, to 50 subscribers.
pub(crate) fn fan_out(reads: u64) -> anyhow::Result<()> {
    drive(reads, BATCH, FANS, Qos::AtMostOnce)
}

fn drive(reads: u64, batch: u16, subscribers: u16, qos: Qos) -> anyhow::Result<()> {
    let mut stage = Stage::new();
    let publisher = stage.connect("publisher")?;
    let subscribers =
        (0..subscribers).map(|number| stage.subscriber(number, qos)).collect::<anyhow::Result<Vec<_>>>()?;
    let read = publications(batch, qos)?;
    let mut acks = Vec::new();
    for number in 0..reads {
        stage.read(publisher, &read);
        for &subscriber in &subscribers {
            let count = stage.take(subscriber, qos, &mut acks)?;
            ensure!(count == batch, "read {number}: {count} of {batch} arrived");
            if qos != Qos::AtMostOnce {
                stage.read(subscriber, &acks);
            }
        }
        stage.heard(publisher);
    }
    Ok(())
}

fn publications(count: u16, qos: Qos) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for number in 1..=count {
        let packet_id = NonZeroU16::new(number).filter(|_| qos != Qos::AtMostOnce);
        let publish =
            OutgoingPublish { qos, packet_id, topic: TOPIC, payload: &PAYLOAD, ..Default::default() };
        wire::encode_publish(&mut bytes, Version::V3, &publish)?;
    }
    Ok(bytes)
}

/// A broker, and what the sockets of its clients took and nobody has looked at.
struct Stage {
    broker: Broker,
    effects: Effects,
    now: Now,
    heard: Vec<Vec<u8>>,
    conns: Vec<ConnId>,
}

impl Stage {
    fn new() -> Stage {
        let mut broker = Broker::new(Setup {
            shard: ShardId(0),
            shards: 1,
            limits: Arc::new(Limits::DEFAULT),
            access: Arc::new(Access::open(true)),
            plan: Arc::new(Plan::empty()),
            offers: Arc::<Offers>::default(),
            rooms: Arc::default(),
            seed: 7,
            home_seed: 11,
        });
        let mut effects = Effects::new(1);
        broker.restored(&mut effects);
        let now = Now { instant: Instant(1_000_000), timestamp: Timestamp(1_700_000_000_000) };
        let mut stage = Stage { broker, effects, now, heard: Vec::new(), conns: Vec::new() };
        stage.turn_end();
        stage
    }

    fn connect(&mut self, client_id: &str) -> anyhow::Result<ConnId> {
        let conn = self.broker.open(Peer::default(), self.now);
        self.conns.push(conn);
        self.heard.push(Vec::new());
        let mut bytes = Vec::new();
        wire::encode_connect(&mut bytes, &Connect::new(Version::V3, client_id.to_owned()))?;
        self.read(conn, &bytes);
        ensure!(!self.heard(conn).is_empty(), "no CONNACK");
        Ok(conn)
    }

    fn subscriber(&mut self, number: u16, qos: Qos) -> anyhow::Result<ConnId> {
        let conn = self.connect(&format!("subscriber-{number}"))?;
        let subscribe = Subscribe {
            packet_id: NonZeroU16::MIN,
            subscription_id: None,
            user_properties: Vec::new(),
            subscriptions: vec![Subscription::new(TOPIC, qos)],
        };
        let mut bytes = Vec::new();
        wire::encode_subscribe(&mut bytes, Version::V3, &subscribe)?;
        self.read(conn, &bytes);
        ensure!(!self.heard(conn).is_empty(), "no SUBACK");
        Ok(conn)
    }

    /// Bytes of a client; each look at them is a turn.
    fn read(&mut self, conn: ConnId, bytes: &[u8]) {
        let mut taken = 0;
        while taken < bytes.len() && self.broker.may_read(conn) {
            taken += self.broker.read(conn, &bytes[taken..], self.now, &mut self.effects);
            self.turn_end();
        }
    }

    fn turn_end(&mut self) {
        for (_, control) in std::mem::take(&mut self.effects.controls) {
            self.broker.handle(Event::Control(control), self.now, &mut self.effects);
        }
        while let Some(conn) = self.effects.dirty.pop() {
            self.broker.flushing(conn);
            let pending = self.broker.pending(conn);
            let count = pending.len();
            if count == 0 {
                continue;
            }
            if let Some(at) = self.conns.iter().position(|other| *other == conn) {
                self.heard[at].extend_from_slice(pending);
            }
            self.broker.wrote(conn, count, self.now, &mut self.effects);
        }
        self.effects.resumed.clear();
    }

    /// What a client was sent since it was last asked for, as bytes that are forgotten.
    fn heard(&mut self, conn: ConnId) -> Vec<u8> {
        let at = self.conns.iter().position(|other| *other == conn);
        at.map_or_else(Vec::new, |at| std::mem::take(&mut self.heard[at]))
    }

    /// Counts the publications that a subscriber was sent, and writes what it answers into `acks`.
    fn take(&mut self, conn: ConnId, qos: Qos, acks: &mut Vec<u8>) -> anyhow::Result<u16> {
        acks.clear();
        let heard = self.heard(conn);
        let (mut rest, mut count) = (&heard[..], 0);
        while let Some(frame) = wire::split(rest, PACKET_BYTES_MAX)? {
            rest = &rest[frame.total_len()..];
            if qos == Qos::AtMostOnce {
                count += 1; // looked at no closer: it is the broker that is counted
                continue;
            }
            let Packet::Publish(publish) = wire::decode(frame, Version::V3)? else { continue };
            count += 1;
            if qos != Qos::AtMostOnce {
                let id = publish.packet_id.context("QoS 1 without an identifier")?;
                wire::encode_ack(acks, Version::V3, AckKind::PubAck, id, ReasonCode::SUCCESS);
            }
        }
        Ok(count)
    }
}
