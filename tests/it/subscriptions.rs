//! Who gets what: filters, overlaps, the end of a subscription.

use harness::{Client, Connect, OutgoingPublish, QOS_0, QOS_1, QOS_2, ReasonCode, Router, v3, v5};
use wire::Subscription;

/// Publishes to every topic from another client, then proves by a fence which of them `filter` got.
#[track_caller]
fn check_filter(filter: &str, topics: &[&str], expected: &[&str]) {
    for shards in 1..=3 {
        let router = Router::with_shards(shards);
        let mut subscriber = router.connect(&v5("subscriber"));
        subscriber.subscribe(filter, QOS_1);
        subscriber.subscribe("fence", QOS_1);
        let mut publisher = router.connect(&v3("publisher"));
        for topic in topics {
            publisher.publish(topic, topic, QOS_1);
        }
        publisher.publish("fence", "", QOS_1);
        let got = until_fence(&mut subscriber);
        assert_eq!(got, expected, "{filter} on {shards} shards");
    }
}

/// The payloads of what comes before a message on the topic `fence`. Order per publisher makes this a proof of absence.
#[track_caller]
fn until_fence(subscriber: &mut Client) -> Vec<String> {
    let mut got = Vec::new();
    loop {
        let message = subscriber.message();
        if message.topic == "fence" {
            return got;
        }
        got.push(message.text().to_owned());
    }
}

#[test]
fn a_plus_matches_exactly_one_level() {
    let topics = ["a/b/c", "a//c", "a/c", "a/b/b/c", "A/b/c", "a/b/cc"];
    check_filter("a/+/c", &topics, &["a/b/c", "a//c"]);
}

#[test]
fn a_hash_matches_the_level_itself_and_everything_below() {
    check_filter("a/#", &["a", "a/b", "a/b/c", "a/", "b", "ab"], &["a", "a/b", "a/b/c", "a/"]);
}

#[test]
fn a_wildcard_at_the_start_does_not_match_dollar_topics() {
    // [MQTT-4.7.2-1]
    check_filter("#", &["$me/a", "a"], &["a"]);
    check_filter("+/a", &["$me/a", "x/a"], &["x/a"]);
}

#[test]
fn a_dollar_topic_is_reached_by_its_name() {
    check_filter("$me/#", &["$me/a", "me/a"], &["$me/a"]);
}

#[test]
fn overlapping_filters_deliver_once_with_the_highest_qos() {
    for shards in 1..=3 {
        let router = Router::with_shards(shards);
        let mut subscriber = router.connect(&v5("subscriber"));
        subscriber.subscribe("a/+", QOS_0);
        subscriber.subscribe("a/#", QOS_1);
        subscriber.subscribe("a/b", QOS_0);
        subscriber.subscribe("fence", QOS_1);
        let mut publisher = router.connect(&v5("publisher"));
        publisher.publish("a/b", "once", QOS_1);
        publisher.publish("fence", "", QOS_1);
        let message = subscriber.message();
        assert_eq!((message.text(), message.qos), ("once", QOS_1));
        assert_eq!(subscriber.message().topic, "fence", "{shards} shards");
    }
}

#[test]
fn overlapping_filters_hand_over_all_subscription_identifiers() {
    // MQTT 5.0 §3.3.4
    let router = Router::with_shards(2);
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe_with(vec![Subscription::new("a/#", QOS_1)], Some(7));
    subscriber.subscribe_with(vec![Subscription::new("a/+", QOS_1)], Some(268_435_455));
    subscriber.subscribe_with(vec![Subscription::new("b", QOS_1)], Some(9));
    router.connect(&v5("publisher")).publish("a/b", "", QOS_1);
    let message = subscriber.message();
    let mut ids: Vec<_> = message.properties().subscription_ids().map(|id| id.get()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [7, 268_435_455]);
}

#[test]
fn an_unsubscribed_filter_delivers_nothing_more() {
    for shards in 1..=3 {
        let router = Router::with_shards(shards);
        let mut subscriber = router.connect(&v5("subscriber"));
        subscriber.subscribe("a", QOS_1);
        subscriber.subscribe("fence", QOS_1);
        let mut publisher = router.connect(&v5("publisher"));
        publisher.publish("a", "before", QOS_1);
        assert_eq!(subscriber.message().text(), "before");
        assert_eq!(subscriber.unsubscribe("a"), Some(ReasonCode::SUCCESS));
        publisher.publish("a", "after", QOS_1);
        publisher.publish("fence", "", QOS_1);
        assert_eq!(until_fence(&mut subscriber), [""; 0], "{shards} shards");
        assert_eq!(subscriber.unsubscribe("a"), Some(ReasonCode::NO_SUBSCRIPTION_EXISTED));
    }
}

#[test]
fn a_second_subscription_to_the_same_filter_replaces_the_first() {
    // [MQTT-3.8.4-3]
    let router = Router::with_shards(2);
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("a", QOS_1);
    subscriber.subscribe("a", QOS_0);
    subscriber.subscribe("fence", QOS_1);
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("a", "x", QOS_1);
    publisher.publish("fence", "", QOS_1);
    assert_eq!(subscriber.message().qos, QOS_0);
    assert_eq!(subscriber.message().topic, "fence");
}

#[test]
fn no_local_keeps_a_client_from_hearing_itself() {
    // [MQTT-3.8.3-3]
    let router = Router::with_shards(2);
    let mut client = router.connect(&v5("client"));
    let mut other = router.connect(&v5("other"));
    client.subscribe_with(vec![Subscription { no_local: true, ..Subscription::new("a", QOS_1) }], None);
    client.subscribe("fence", QOS_1);
    other.publish("a", "from another", QOS_1);
    assert_eq!(client.message().text(), "from another");
    client.publish("a", "from myself", QOS_1);
    client.publish("fence", "", QOS_1);
    assert_eq!(until_fence(&mut client), [""; 0]);
}

#[test]
fn a_publisher_hears_itself_by_default() {
    for connect in [v3("client"), v5("client")] {
        let router = Router::with_shards(2);
        let mut client = router.connect(&connect);
        client.subscribe("a", QOS_1);
        client.publish("a", "echo", QOS_1);
        assert_eq!(client.message().text(), "echo");
    }
}

#[test]
fn the_qos_is_the_lower_of_publication_and_subscription() {
    let router = Router::with_shards(2);
    let mut subscriber = router.connect(&v3("subscriber"));
    subscriber.subscribe("low", QOS_0);
    subscriber.subscribe("high", QOS_1);
    let mut publisher = router.connect(&v3("publisher"));
    let table =
        [("low", QOS_0, QOS_0), ("low", QOS_1, QOS_0), ("high", QOS_0, QOS_0), ("high", QOS_1, QOS_1)];
    for (topic, sent, expected) in table {
        publisher.publish(topic, "", sent);
        assert_eq!(subscriber.message().qos, expected, "{topic} sent with {sent:?}");
    }
}

/// MQTT 5.0 §3.2.2.3.4: without Maximum QoS, every QoS is offered.
#[test]
fn every_qos_is_granted_as_asked_for() {
    let router = Router::with_shards(2);
    let mut client = router.connect(&v5("client"));
    assert_eq!(client.greeting.qos_max, QOS_2);
    for qos in [QOS_0, QOS_1, QOS_2] {
        client.subscribe("a", qos);
        client.publish("a", "x", QOS_2);
        assert_eq!(client.message().qos, qos);
    }
}

#[test]
fn retain_is_kept_as_published_only_where_asked_for() {
    // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
    let router = Router::with_shards(2);
    let mut plain = router.connect(&v5("plain"));
    plain.subscribe("a", QOS_1);
    let mut faithful = router.connect(&v5("faithful"));
    let wanted = Subscription { retain_as_published: true, ..Subscription::new("a", QOS_1) };
    faithful.subscribe_with(vec![wanted], None);
    let publish =
        OutgoingPublish { topic: "a", payload: b"x", qos: QOS_1, retain: true, ..Default::default() };
    router.connect(&v3("publisher")).publish_with(&publish);
    assert!(!plain.message().retain);
    assert!(faithful.message().retain);
}

/// [MQTT-3.8.4-3] [MQTT-3.8.4-4] [MQTT3-3.8.4-3]
#[test]
fn subscribing_again_in_the_middle_of_the_flow_loses_and_repeats_nothing() {
    let stored = Connect { session_expiry_secs: 60, ..v5("client") };
    for (connect, shards) in [(v5("client"), 3), (v3("client"), 3), (stored, 3), (v5("client"), 1)] {
        let router = Router::with_shards(shards);
        let mut client = router.connect(&connect);
        client.subscribe("flow", QOS_1);
        let address = router.address();
        let publisher = std::thread::spawn(move || {
            let mut publisher = Client::connect(address, &v5("publisher"));
            for number in 0..1_000 {
                publisher.publish("flow", number.to_string(), QOS_1);
            }
        });
        let mut seen = Vec::new();
        while seen.len() < 1_000 {
            client.subscribe("flow", QOS_1);
            seen.push(client.message().text().to_owned());
        }
        publisher.join().expect("the publisher is acknowledged");
        let expected: Vec<_> = (0..1_000).map(|number| number.to_string()).collect();
        assert_eq!(seen, expected, "{connect:?} on {shards} shards");
        assert!(client.message_within(std::time::Duration::from_millis(100)).is_none());
    }
}
