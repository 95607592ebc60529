//! Topic aliases, both ways.

use std::num::NonZeroU16;

use model::{Limits, Qos};
use wire::{OutgoingPublish, ReasonCode, Version};

use crate::Plan;
use crate::testbench::{Bench, Got, Seen};

const TOPIC: &str = "plant/line/7/temperature";

fn with_alias(topic: &'static str, alias: u16) -> impl FnOnce(&mut OutgoingPublish<'static>) {
    move |publish| (publish.topic, publish.topic_alias) = (topic, NonZeroU16::new(alias))
}

/// A bench with a publisher, and a subscriber of everything that takes `aliases_max` aliases; ours are bounded by 3.
fn bench(aliases_max: u16) -> (Bench, usize, usize) {
    let mut bench = Bench::with(1, Limits { topic_alias_max: 3, ..Limits::DEFAULT }, Plan::empty());
    let (publisher, subscriber) = (bench.client("p", Version::V5, 0), bench.client("s", Version::V5, 0));
    bench.connect(publisher);
    let mut connect = bench.stored_hello(subscriber);
    connect.topic_alias_max = aliases_max;
    bench.connect_with(subscriber, &connect);
    bench.settle();
    bench.take(subscriber);
    bench.subscribe(subscriber, "#", Qos::AtLeastOnce);
    (bench, publisher, subscriber)
}

fn spelling(got: &Got) -> (u16, bool) {
    (got.alias, got.spelled)
}

/// [MQTT-3.3.2-12]
#[test]
fn an_alias_of_the_publisher_stands_for_its_topic() {
    let (mut bench, publisher, subscriber) = bench(0);
    assert_eq!(bench.clients[publisher].connacks[0].topic_alias_max, 3);
    for (topic, alias) in [(TOPIC, 3), ("", 3), ("other/topic", 3), ("", 3), ("a", 1), ("", 1)] {
        bench.publish_with(publisher, TOPIC, "x", 0, with_alias(topic, alias));
    }
    let topics: Vec<String> = bench.got(subscriber).into_iter().map(|got| got.topic).collect();
    assert_eq!(topics, [TOPIC, TOPIC, "other/topic", "other/topic", "a", "a"]);
}

/// [MQTT-3.3.2-8] [MQTT-3.3.2-9]
#[test]
fn an_alias_that_was_not_granted_ends_the_connection() {
    for (topic, alias, reason) in [
        (TOPIC, 4, ReasonCode::TOPIC_ALIAS_INVALID),
        ("", 4, ReasonCode::TOPIC_ALIAS_INVALID),
        ("", 2, ReasonCode::PROTOCOL_ERROR),
    ] {
        let (mut bench, publisher, _) = bench(0);
        bench.publish_with(publisher, TOPIC, "x", 0, with_alias(topic, alias));
        assert_eq!(bench.take(publisher), [Seen::Disconnect(reason), Seen::Closed], "{topic:?} {alias}");
    }
    let (mut bench, publisher, _) = bench(0);
    bench.send(publisher, b"\x30\x07\x00\x01a\x03\x23\x00\x00");
    assert_eq!(bench.take(publisher), [Seen::Disconnect(ReasonCode::TOPIC_ALIAS_INVALID), Seen::Closed]);
}

/// [MQTT-3.3.2-9]
#[test]
fn no_alias_is_taken_where_none_is_offered() {
    let mut bench = Bench::with(1, Limits { topic_alias_max: 0, ..Limits::DEFAULT }, Plan::empty());
    let publisher = bench.client("p", Version::V5, 0);
    bench.connect(publisher);
    bench.publish_with(publisher, TOPIC, "x", 0, with_alias(TOPIC, 1));
    assert_eq!(bench.take(publisher), [Seen::Disconnect(ReasonCode::TOPIC_ALIAS_INVALID), Seen::Closed]);
}

/// [MQTT-3.3.2-7]
#[test]
fn aliases_end_with_their_connection() {
    let (mut bench, publisher, subscriber) = bench(5);
    bench.publish_with(publisher, TOPIC, "1", 0, with_alias(TOPIC, 1));
    assert_eq!(bench.got(subscriber).iter().map(spelling).collect::<Vec<_>>(), [(1, true)]);
    bench.connect(publisher);
    bench.publish_with(publisher, TOPIC, "2", 0, with_alias("", 1));
    assert_eq!(bench.take(publisher), [Seen::Disconnect(ReasonCode::PROTOCOL_ERROR), Seen::Closed]);
}

/// [MQTT-3.1.2-26] [MQTT-3.3.2-11]
#[test]
fn a_topic_goes_out_in_full_once_and_then_by_its_alias() {
    let (mut bench, publisher, subscriber) = bench(2);
    for topic in [TOPIC, TOPIC, "short", "plant/line/8/temperature", TOPIC, "plant/line/9/temperature"] {
        bench.publish(publisher, topic, "x", 1);
        bench.settle();
    }
    let got = bench.got(subscriber);
    let topics: Vec<&str> = got.iter().map(|got| &got.topic[..]).collect();
    assert_eq!(topics[2..], ["short", "plant/line/8/temperature", TOPIC, "plant/line/9/temperature"]);
    let spellings: Vec<_> = got.iter().map(spelling).collect();
    assert_eq!(spellings, [(1, true), (1, false), (0, true), (2, true), (1, false), (2, true)]);
}

/// A client that takes more aliases than we hold, and one that takes none, beside each other.
///
/// [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-11]
#[test]
fn others_are_served_as_before() {
    let (mut bench, publisher, subscriber) = bench(u16::MAX);
    let plain = bench.client("plain", Version::V5, 0);
    let old = bench.client("old", Version::V3, 0);
    for client in [plain, old] {
        bench.connect(client);
        bench.subscribe(client, "#", Qos::AtMostOnce);
    }
    for number in 0..12 {
        bench.publish(publisher, &format!("plant/line/{}/temperature", number % 4), "x", 0);
    }
    let spelled = |client: usize, bench: &mut Bench| {
        bench.got(client).iter().map(|got| (got.alias, got.spelled, got.topic.clone())).collect::<Vec<_>>()
    };
    let by_alias = spelled(subscriber, &mut bench);
    assert!(by_alias.iter().all(|(alias, ..)| (1..=3).contains(alias)), "{by_alias:?}");
    for client in [plain, old] {
        let seen = spelled(client, &mut bench);
        assert!(seen.iter().all(|(alias, spelled, _)| *alias == 0 && *spelled));
        assert!(seen.iter().map(|seen| &seen.2).eq(by_alias.iter().map(|seen| &seen.2)), "the same topics");
    }
}

/// [MQTT-3.3.2-7] [MQTT-4.4.0-1]
#[test]
fn what_is_sent_again_does_not_rely_on_old_aliases() {
    let (mut bench, publisher, subscriber) = bench(2);
    for id in 1..4 {
        bench.publish(publisher, TOPIC, "x", id);
        bench.settle();
    }
    assert_eq!(bench.got(subscriber).len(), 3);
    let mut connect = bench.stored_hello(subscriber);
    connect.topic_alias_max = 2;
    bench.connect_with(subscriber, &connect);
    bench.settle();
    let seen = bench.take(subscriber);
    let again: Vec<_> =
        seen.iter().filter_map(|seen| if let Seen::Publish(got) = seen { Some(got) } else { None }).collect();
    assert_eq!(
        again.iter().map(|got| (got.dup, spelling(got))).collect::<Vec<_>>(),
        [(true, (1, true)), (true, (1, false)), (true, (1, false))]
    );
    bench.connect(subscriber);
    assert!(bench.got(subscriber).is_empty());
}

/// [MQTT-3.1.2-25]
#[test]
fn a_first_packet_that_is_too_large_introduces_nothing() {
    let (mut bench, publisher, subscriber) = bench(2);
    let mut connect = bench.stored_hello(subscriber);
    (connect.topic_alias_max, connect.packet_bytes_max) = (2, std::num::NonZeroU32::new(60));
    bench.connect_with(subscriber, &connect);
    bench.settle();
    bench.take(subscriber);
    let fits_without_alias = "x".repeat(60 - 2 - 2 - TOPIC.len() - 1);
    for payload in [&"x".repeat(60)[..], &fits_without_alias, "1", "2"] {
        bench.publish(publisher, TOPIC, payload, 0);
    }
    let got = bench.got(subscriber);
    assert_eq!(got.iter().map(spelling).collect::<Vec<_>>(), [(0, true), (1, true), (1, false)]);
    assert_eq!((bench.counters().dropped_too_large, bench.clients[subscriber].longest), (1, 60));
}

/// Several subscription identifiers and an alias on one delivery.
///
/// [MQTT-3.3.4-3]
#[test]
fn aliases_and_subscription_identifiers_go_together() {
    let (mut bench, publisher, subscriber) = bench(2);
    for (filter, id) in [("plant/#", 5), ("plant/+/7/temperature", 6)] {
        bench.subscribe_with(subscriber, filter, Qos::AtMostOnce, id, |_| {});
    }
    bench.settle();
    bench.take(subscriber);
    for expected in [(1, true), (1, false)] {
        bench.publish(publisher, TOPIC, "x", 0);
        let got = bench.got(subscriber).remove(0);
        assert_eq!((spelling(&got), &got.ids[..]), (expected, &[5, 6][..]));
    }
}
