//! What subscribers get.

use model::{Limits, Qos};
use wire::{ReasonCode, Version};

use crate::Plan;
use crate::testbench::{Bench, Seen};

const QOS0: Qos = Qos::AtMostOnce;
const QOS1: Qos = Qos::AtLeastOnce;

/// One shard, a publisher and subscribers of these versions, all connected with clean sessions.
fn bench(subscribers: &[Version]) -> (Bench, usize, Vec<usize>) {
    with(Limits::DEFAULT, subscribers)
}

fn with(limits: Limits, subscribers: &[Version]) -> (Bench, usize, Vec<usize>) {
    let mut bench = Bench::with(1, limits, Plan::empty());
    let publisher = bench.client("publisher", Version::V5, 0);
    bench.connect(publisher);
    let connect = |(number, version): (usize, &Version)| {
        let client = bench.client(&format!("s{number}-"), *version, 0);
        bench.connect(client);
        client
    };
    let clients = subscribers.iter().enumerate().map(connect).collect();
    (bench, publisher, clients)
}

#[test]
fn every_version_gets_a_message_in_its_own_form() {
    let (mut bench, publisher, subscribers) = bench(&[Version::V3, Version::V5, Version::V3, Version::V5]);
    for subscriber in &subscribers {
        bench.subscribe(*subscriber, "a/+", QOS1);
    }
    bench.publish_with(publisher, "a/b", "hi", 5, |publish| publish.expiry_secs = Some(30));
    assert_eq!(bench.take(publisher), [Seen::PubAck(5)]);
    for (subscriber, expiry_secs) in subscribers.iter().zip([None, Some(30), None, Some(30)]) {
        let got = bench.got(*subscriber);
        assert_eq!(
            (got[0].text(), got[0].qos, got[0].id, got[0].dup, got[0].expiry_secs),
            ("hi".into(), QOS1, 1, false, expiry_secs)
        );
    }
    assert_eq!((bench.counters().delivered, bench.counters().received), (4, 1));
}

#[test]
fn the_lower_qos_of_both_holds() {
    let (mut bench, publisher, subscribers) = bench(&[Version::V5, Version::V5]);
    bench.subscribe(subscribers[0], "t", QOS0);
    bench.subscribe(subscribers[1], "t", QOS1);
    bench.publish(publisher, "t", "one", 1);
    bench.publish(publisher, "t", "zero", 0);
    let qos: Vec<Vec<Qos>> =
        subscribers.iter().map(|client| bench.got(*client).iter().map(|got| got.qos).collect()).collect();
    assert_eq!(qos, [[QOS0, QOS0], [QOS1, QOS0]]);
}

#[test]
fn overlapping_filters_deliver_once_with_all_identifiers_and_the_highest_qos() {
    let (mut bench, publisher, subscribers) = bench(&[Version::V5]);
    for (filter, qos, id) in [("a/+", QOS0, 4), ("a/#", QOS1, 9), ("#", QOS0, 0)] {
        bench.subscribe_with(subscribers[0], filter, qos, id, |_| {});
    }
    bench.take(subscribers[0]);
    bench.publish(publisher, "a/b", "x", 1);
    let got = bench.got(subscribers[0]);
    assert_eq!(got.len(), 1);
    let mut ids = got[0].ids.clone();
    ids.sort_unstable();
    assert_eq!((ids, got[0].qos), (vec![4, 9], QOS1)); // [MQTT-3.3.4-2], [MQTT-3.3.4-3]
}

#[test]
fn no_local_keeps_own_publications_away() {
    let (mut bench, publisher, subscribers) = bench(&[Version::V5]);
    for client in [publisher, subscribers[0]] {
        bench.subscribe_with(client, "t", QOS1, 0, |subscription| subscription.no_local = true);
        bench.take(client);
    }
    bench.publish(publisher, "t", "x", 0);
    assert_eq!((bench.texts(publisher).len(), bench.texts(subscribers[0]).len()), (0, 1)); // [MQTT-3.8.3-3]
}

#[test]
fn the_retain_flag_stays_only_where_it_was_asked_for() {
    let (mut bench, publisher, subscribers) = bench(&[Version::V5, Version::V5]);
    bench
        .subscribe_with(subscribers[0], "t", QOS0, 0, |subscription| subscription.retain_as_published = true);
    bench.subscribe_with(subscribers[1], "t", QOS0, 0, |_| {});
    subscribers.iter().for_each(|client| drop(bench.take(*client)));
    bench.publish_with(publisher, "t", "x", 0, |publish| publish.retain = true);
    let flags: Vec<bool> = subscribers.iter().map(|client| bench.got(*client)[0].retain).collect();
    assert_eq!(flags, [true, false]); // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
}

#[test]
fn unsubscribe_ends_delivery_and_says_what_it_found() {
    let (mut bench, publisher, subscribers) = bench(&[Version::V5]);
    bench.subscribe(subscribers[0], "t", QOS1);
    bench.unsubscribe(subscribers[0], "t");
    bench.unsubscribe(subscribers[0], "t");
    let codes = [ReasonCode::SUCCESS, ReasonCode::NO_SUBSCRIPTION_EXISTED];
    assert_eq!(bench.take(subscribers[0]), codes.map(|code| Seen::UnsubAck(vec![code])));
    bench.publish(publisher, "t", "x", 1);
    assert_eq!(bench.take(subscribers[0]), []);
    assert_eq!(bench.counters().unmatched, 1);
}

#[test]
fn subscriptions_that_cannot_be_are_refused_one_by_one() {
    let limits = Limits { subscriptions_per_session_max: 1, topic_levels_max: 3, ..Limits::DEFAULT };
    let (mut bench, _, subscribers) = with(limits, &[Version::V5]);
    let cases = [
        ("a/b/c/d", ReasonCode::TOPIC_FILTER_INVALID),
        ("one", ReasonCode::granted(Qos::ExactlyOnce)),
        ("two", ReasonCode::QUOTA_EXCEEDED),
        ("one", ReasonCode::granted(Qos::ExactlyOnce)),
    ];
    for (filter, reason) in cases {
        bench.subscribe_with(subscribers[0], filter, Qos::ExactlyOnce, 0, |_| {});
        assert_eq!(bench.take(subscribers[0]), [Seen::SubAck(vec![reason])], "{filter}");
    }
}

#[test]
fn the_window_of_the_client_is_respected() {
    let (mut bench, publisher, _) = bench(&[]);
    let slow = bench.client("slow", Version::V5, 0);
    let mut connect = bench.hello(slow);
    connect.receive_max = std::num::NonZeroU16::new(2).unwrap();
    bench.connect_with(slow, &connect);
    bench.take(slow);
    bench.subscribe(slow, "t", QOS1);
    for number in 1..=5 {
        bench.publish(publisher, "t", &number.to_string(), number);
    }
    assert_eq!(bench.texts(slow), ["1", "2"]); // [MQTT-3.3.4-9]
    bench.ack(slow, 2);
    assert_eq!(bench.texts(slow), ["3"], "whatever is acknowledged first makes room");
    bench.ack(slow, 1);
    bench.ack(slow, 3);
    let got = bench.got(slow);
    assert_eq!(got.iter().map(|got| got.id).collect::<Vec<_>>(), [4, 5]);
    bench.ack(slow, 99);
    assert_eq!(bench.counters().unexpected_acks, 1);
}

#[test]
fn what_is_larger_than_the_client_takes_is_passed_over() {
    let (mut bench, publisher, _) = bench(&[]);
    let small = bench.client("small", Version::V5, 0);
    let mut connect = bench.hello(small);
    connect.packet_bytes_max = std::num::NonZeroU32::new(60);
    bench.connect_with(small, &connect);
    bench.take(small);
    bench.subscribe(small, "t", QOS1);
    let large = "x".repeat(80);
    for (payload, id) in [(&large[..], 0), (&large, 1), ("fits", 2)] {
        bench.publish(publisher, "t", payload, id);
    }
    assert_eq!(bench.texts(small), ["fits"]); // [MQTT-3.1.2-24], [MQTT-3.1.2-25]
    assert_eq!(bench.counters().dropped_too_large, 2);
}

#[test]
fn a_socket_that_takes_nothing_loses_qos_0_and_queues_qos_1() {
    let limits = Limits { outbox_bytes_max: 1_000, session_queue_messages_max: 3, ..Limits::DEFAULT };
    let (mut bench, publisher, subscribers) = with(limits, &[Version::V3]);
    let slow = subscribers[0];
    bench.subscribe(slow, "t", QOS1);
    bench.clients[slow].takes = 0;
    let large = "x".repeat(600);
    for _ in 0..4 {
        bench.publish(publisher, "t", &large, 0);
    }
    for id in 1..=5 {
        bench.publish(publisher, "t", &id.to_string(), id);
    }
    let counters = bench.counters();
    assert_eq!((counters.dropped_outbox_full, counters.dropped_queue_full), (2, 2));
    bench.unblock(slow);
    let texts = bench.texts(slow);
    assert_eq!(texts[2..], ["1", "2", "3"]);
    assert_eq!(texts.len(), 5);
}

#[test]
fn all_clients_together_hold_no_more_than_the_bound() {
    let limits = Limits { waiting_bytes_max: 2_000, ..Limits::DEFAULT };
    let (mut bench, publisher, subscribers) = with(limits, &[Version::V3, Version::V5]);
    for client in &subscribers {
        bench.subscribe(*client, "t", QOS1);
        bench.clients[*client].takes = 0;
    }
    for id in 0..20 {
        bench.publish(publisher, "t", &"x".repeat(200), id % 2);
    }
    assert!(bench.counters().dropped_memory_full > 20, "{:?}", bench.counters());
    for client in &subscribers {
        bench.unblock(*client);
        bench.take(*client);
    }
    bench.publish(publisher, "t", "again", 0);
    assert_eq!(bench.texts(subscribers[0]), ["again"]);
}

#[test]
fn a_message_that_expires_in_the_queue_is_not_sent() {
    let (mut bench, publisher, _) = bench(&[]);
    let slow = bench.client("slow", Version::V5, 0);
    let mut connect = bench.hello(slow);
    connect.receive_max = std::num::NonZeroU16::MIN;
    bench.connect_with(slow, &connect);
    bench.take(slow);
    bench.subscribe(slow, "t", QOS1);
    for (id, secs) in [(1, 100), (2, 5), (3, 100)] {
        bench.publish_with(publisher, "t", &id.to_string(), id, |publish| publish.expiry_secs = Some(secs));
    }
    assert_eq!(bench.texts(slow), ["1"]);
    bench.pass(10_000);
    bench.ack(slow, 1);
    let got = bench.got(slow);
    assert_eq!((got.len(), got[0].text(), got[0].expiry_secs), (1, "3".into(), Some(90))); // [MQTT-3.3.2-5], [MQTT-3.3.2-6]
    assert_eq!(bench.counters().dropped_expired, 1);
}

#[test]
fn a_client_that_does_not_read_its_answers_is_not_read() {
    let limits = Limits { outbox_bytes_max: 1_024, ..Limits::DEFAULT };
    let (mut bench, publisher, _) = with(limits, &[]);
    bench.clients[publisher].takes = 0;
    for _ in 0..3_000 {
        bench.ping(publisher);
    }
    let conn = bench.clients[publisher].conn.unwrap();
    assert!(bench.brokers[0].pending(conn).len() <= 2 * 1_024 + 2);
    bench.unblock(publisher);
    assert_eq!(bench.take(publisher).len(), 3_000, "nothing was lost");
}

#[test]
fn order_holds_through_window_queue_and_socket() {
    for (stored, session_inflight_max) in [(false, 3), (false, 100), (true, 3), (true, 100)] {
        let limits = Limits { session_inflight_max, outbox_bytes_max: 30, ..Limits::DEFAULT };
        let (mut bench, publisher, _) = with(limits, &[]);
        let client = bench.client("c", Version::V5, 0);
        if stored {
            bench.resume(client);
        } else {
            bench.connect(client);
        }
        bench.subscribe(client, "t", QOS1);
        let mut seen = Vec::new();
        for number in 1..=50u16 {
            // It fills the outbox, then empties it to where there is room again but the queue is not pumped yet.
            bench.clients[client].takes = if number % 10 < 6 { 0 } else { 7 };
            bench.publish(publisher, "t", &number.to_string(), number);
            bench.drip(client);
            if number % 2 == 0 {
                let got = bench.got(client);
                got.iter().for_each(|got| bench.ack(client, got.id));
                seen.extend(got.iter().map(|got| got.text()));
            }
        }
        bench.unblock(client);
        loop {
            bench.settle();
            let got = bench.got(client);
            if got.is_empty() {
                break;
            }
            got.iter().for_each(|got| bench.ack(client, got.id));
            seen.extend(got.iter().map(|got| got.text()));
        }
        assert_eq!(seen, (1..=50).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}

/// MQTT 5.0 §3.4.2.1, §3.5.2.1: a success that says more. Subscribers of every shard count, routes, and what is retained.
#[test]
fn a_publication_that_nobody_takes_is_acknowledged_with_a_hint() {
    let hint = ReasonCode::NO_MATCHING_SUBSCRIBERS;
    let plan = super::routing::plan(&[("FROM \"routed\" INTO topic \"on/{$topic[0]}\"", None, None)]);
    let mut bench = Bench::with(3, Limits::DEFAULT, plan);
    let publisher = bench.client("new", Version::V5, 0);
    let old = bench.client("old", Version::V3, 0);
    let subscriber = bench.client("s", Version::V5, 2);
    for client in [publisher, old, subscriber] {
        bench.connect(client);
    }
    bench.subscribe(subscriber, "far/+", QOS1);
    bench.subscribe(subscriber, "$share/g/shared", QOS1);
    for client in [publisher, old] {
        bench.heard(client); // the CONNACK
    }
    for (topic, retain, taken) in [
        ("nowhere", false, false),
        ("far/away", false, true),
        ("shared", false, true),
        ("routed", false, true),
        ("kept", true, true),
    ] {
        for qos in [QOS1, Qos::ExactlyOnce] {
            for (client, knows) in [(publisher, true), (old, false)] {
                bench.publish_with(client, topic, "x", 9, |publish| {
                    (publish.qos, publish.retain) = (qos, retain);
                });
                bench.settle();
                let header = if qos == QOS1 { 0x40 } else { 0x50 };
                let expected: &[u8] =
                    if knows && !taken { &[header, 3, 0, 9, hint.bits()] } else { &[header, 2, 0, 9] };
                assert_eq!(bench.heard(client), expected, "{topic} {qos:?}");
                if qos == Qos::ExactlyOnce {
                    bench.pubrel(client, 9);
                    bench.settle();
                    assert_eq!(bench.heard(client), [0x70, 2, 0, 9], "the exchange goes on");
                }
            }
        }
    }
    assert_eq!(bench.counters().unmatched, 4);
    bench.unsubscribe(subscriber, "$share/g/shared");
    bench.settle();
    bench.publish(publisher, "shared", "x", 1);
    bench.settle();
    assert_eq!(bench.heard(publisher), [0x40, 3, 0, 1, hint.bits()], "a group without members");
}
