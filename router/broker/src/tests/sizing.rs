//! What sessions cost when there is much of something: work, identifiers, and what a resumed one sends.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use model::{Limits, Qos};
use wire::{AckKind, OutgoingPublish, ReasonCode, Version};

use crate::testbench::{Bench, Seen};
use crate::{Plan, StateSpace};

const QOS1: Qos = Qos::AtLeastOnce;
const QOS2: Qos = Qos::ExactlyOnce;

/// Writes and bytes that went to disk since the start.
fn written(bench: &Bench) -> (u64, u64) {
    let broker = &bench.brokers[0];
    (broker.acks.durable_ticket().0, broker.appended_bytes)
}

/// Writes and bytes of what `act` does.
fn cost(bench: &mut Bench, act: impl FnOnce(&mut Bench)) -> (u64, u64) {
    bench.settle();
    let before = written(bench);
    act(bench);
    bench.settle();
    let after = written(bench);
    (after.0 - before.0, after.1 - before.1)
}

/// What a life with this many subscriptions costs: to make them, a reconnect, to make them again, to give up half of
/// them, the end.
fn life(count: usize) -> [(u64, u64); 5] {
    let limits = Limits { subscriptions_per_session_max: 4_000, ..Limits::DEFAULT };
    let mut bench = Bench::with(1, limits, Plan::empty());
    let client = bench.client("s", Version::V5, 0);
    bench.resume(client);
    let filter = |number: usize| format!("plant/{number:05}/+");
    let subscribe = |bench: &mut Bench| {
        for number in 0..count {
            bench.subscribe_with(client, &filter(number), QOS1, 0, |_| {});
            bench.settle();
        }
        assert_eq!(bench.disk.keys(StateSpace::Subscriptions), count);
    };
    let made = cost(&mut bench, subscribe);
    let back = cost(&mut bench, |bench| {
        bench.cut(client);
        assert!(bench.resume(client));
    });
    let again = cost(&mut bench, subscribe);
    let halved = cost(&mut bench, |bench| {
        for number in 0..count / 2 {
            bench.unsubscribe(client, &filter(number));
            bench.settle();
        }
    });
    let ended = cost(&mut bench, |bench| {
        bench.disconnect(client, ReasonCode::NORMAL_DISCONNECTION, Some(0));
    });
    assert!(bench.disk.state.is_empty() && bench.disk.lanes.is_empty());
    [made, back, again, halved, ended]
}

/// A SUBSCRIBE writes what it changes and not the session; a reconnect does not touch them.
#[test]
fn a_session_with_a_thousand_subscriptions_costs_work_in_proportion() {
    let (one, two) = (life(1_000), life(2_000));
    let [made, back, again, halved, ended] = one;
    assert_eq!((made.0, again.0, halved.0), (1_000, 1_000, 500), "one write for each");
    assert!(made.1 <= 1_000 * 40, "{} bytes for 1000 subscriptions", made.1);
    assert_eq!((two[0], two[2], two[3]), (twice(made), twice(again), twice(halved)));
    assert_eq!(two[1], back, "a reconnect costs the same, however many there are");
    assert_eq!((ended.0, two[4].0), (501, 1_001), "in the end each is deleted, and the session");
}

fn twice((writes, bytes): (u64, u64)) -> (u64, u64) {
    (2 * writes, 2 * bytes)
}

/// [MQTT-2.2.1-3] [MQTT-2.2.1-4]: an identifier is not used again before the message that has it is done, and when all
/// are in use the next message waits.
#[test]
fn when_all_packet_identifiers_are_in_use_messages_wait() {
    const ALL: u16 = u16::MAX;
    let limits = Limits {
        session_inflight_max: ALL,
        receive_max: ALL,
        session_queue_messages_max: 10_000,
        session_queue_bytes_max: 1 << 24,
        outbox_bytes_max: 1 << 24,
        commit_bytes_max: 1 << 24,
        waiting_bytes_max: 1 << 26,
        ..Limits::DEFAULT
    };
    for (stored, qos) in [(false, QOS1), (false, QOS2), (true, QOS1), (true, QOS2)] {
        let mut bench = Bench::with(1, limits.clone(), Plan::empty());
        let (publisher, subscriber) = (bench.client("p", Version::V3, 0), bench.client("s", Version::V3, 0));
        bench.connect(publisher);
        if stored {
            bench.resume(subscriber);
        } else {
            bench.connect(subscriber);
        }
        bench.subscribe(subscriber, "t", qos);
        for batch in 0..66 {
            let mut bytes = Vec::new();
            for number in 0..1_000 {
                let packet_id = NonZeroU16::new((batch * 1_000 + number) as u16 % 60_000 + 1);
                let publish = OutgoingPublish { topic: "t", qos, packet_id, ..OutgoingPublish::default() };
                wire::encode_publish(&mut bytes, Version::V3, &publish).unwrap();
                if qos == QOS2 {
                    let id = packet_id.unwrap();
                    wire::encode_ack(&mut bytes, Version::V3, AckKind::PubRel, id, ReasonCode::SUCCESS);
                }
            }
            bench.send(publisher, &bytes);
            bench.settle();
        }
        let got = bench.got(subscriber);
        let ids: BTreeSet<u16> = got.iter().map(|got| got.id).collect();
        assert_eq!((got.len(), ids.len()), (usize::from(ALL), usize::from(ALL)), "each is in use once");
        let finish = |bench: &mut Bench, id: u16| {
            if qos == QOS1 {
                return bench.ack(subscriber, id);
            }
            bench.pubrec(subscriber, id);
            bench.settle();
            assert_eq!(bench.take(subscriber), [Seen::PubRel(id, ReasonCode::SUCCESS)]);
            bench.pubcomp(subscriber, id);
        };
        finish(&mut bench, got[0].id);
        bench.settle();
        let next = bench.got(subscriber);
        assert_eq!(
            next.iter().map(|got| got.id).collect::<Vec<_>>(),
            [got[0].id],
            "the one that is free again"
        );
        for got in &got[1..4] {
            finish(&mut bench, got.id);
            bench.settle();
            assert_eq!(bench.got(subscriber).len(), 1);
        }
    }
}

/// [MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-3.3.1-1] [MQTT-4.3.3-6] [MQTT3-4.4.0-1] [MQTT3-4.6.0-1]
#[test]
fn a_resumed_session_sends_what_is_open_in_the_old_order_with_the_old_identifiers() {
    for (version, crash) in
        [(Version::V3, false), (Version::V3, true), (Version::V5, false), (Version::V5, true)]
    {
        let mut bench = Bench::new(1);
        let (publisher, subscriber) = (bench.client("p", version, 0), bench.client("s", version, 0));
        bench.connect(publisher);
        bench.resume(subscriber);
        bench.subscribe(subscriber, "t", QOS2);
        for id in 1..=8 {
            let qos = if id % 2 == 1 { QOS1 } else { QOS2 };
            bench.publish_with(publisher, "t", &id.to_string(), id, |publish| publish.qos = qos);
        }
        bench.settle();
        assert_eq!(
            bench.got(subscriber).iter().map(|got| got.id).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5, 6, 7, 8]
        );
        bench.ack(subscriber, 3);
        for id in [8, 4, 6] {
            bench.pubrec(subscriber, id);
        }
        bench.settle();
        bench.pubcomp(subscriber, 6);
        bench.settle();
        for life in 0..2 {
            if crash {
                bench.crash();
                bench.settle();
            } else {
                bench.cut(subscriber);
            }
            assert!(bench.resume(subscriber), "life {life}");
            let seen = bench.take(subscriber).into_iter().map(|seen| match seen {
                Seen::Publish(got) if got.dup => (got.text(), got.id, got.qos.bits()),
                Seen::PubRel(id, ReasonCode::SUCCESS) => ("release".to_owned(), id, 2),
                other => panic!("{other:?}"),
            });
            let seen: Vec<_> = seen.collect();
            let seen: Vec<_> = seen.iter().map(|(text, id, qos)| (text.as_str(), *id, *qos)).collect();
            // That a QoS 1 message behind an open one is done is not written: a crash may send it again.
            let three: &[_] = if crash { &[("3", 3, 1)] } else { &[] };
            let (before, behind) = (
                [("1", 1, 1), ("2", 2, 2)],
                [("release", 4, 2), ("5", 5, 1), ("7", 7, 1), ("release", 8, 2)],
            );
            assert_eq!(seen, [&before[..], three, &behind].concat());
        }
        if crash {
            bench.connect(publisher);
        }
        bench.publish(publisher, "t", "9", 9);
        bench.settle();
        let new = bench.got(subscriber);
        assert_eq!((new[0].id, new[0].dup), (9, false));
        for id in if crash { &[1, 3, 5, 7, 9][..] } else { &[1, 5, 7, 9] } {
            bench.ack(subscriber, *id);
        }
        bench.pubrec(subscriber, 2);
        bench.settle();
        for id in [2, 4, 8] {
            bench.pubcomp(subscriber, id);
        }
        bench.settle();
        assert_eq!(bench.counters().unexpected_acks, 0);
        assert!(bench.brokers[0].session_lanes().all(|(_, _, backlog)| backlog == 0));
        assert_eq!(bench.disk.keys(StateSpace::Marks), 0);
    }
}
