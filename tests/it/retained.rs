//! Retained messages: who comes later gets the last word, after whatever happened to the process.

use harness::foreign::{publish, subscribe};
use harness::{Client, OutgoingPublish, QOS_0, QOS_1, ReasonCode, Router, Setup, Version, until, v3, v5};

fn retain(client: &mut Client, topic: &str, payload: &str) {
    let payload = payload.as_bytes();
    client.publish_with(&OutgoingPublish { topic, payload, qos: QOS_1, retain: true, ..Default::default() });
}

/// Numbers are published a few times a second.
fn wait_for(router: &Router, metric: &str, value: f64) {
    until(metric, || (router.metric(metric) == value).then_some(()));
}

/// The retained messages that a new client sees, as mosquitto prints them.
fn seen(router: &Router, version: Version, filter: &str, count: usize) -> String {
    let count = count.to_string();
    let arguments = ["-t", filter, "-q", "1", "-v", "--retained-only", "-W", "30", "-C", &count];
    subscribe(router.address(), version, &arguments).expect(0).out
}

/// [MQTT-3.3.1-9] [MQTT3-3.3.1-6] [MQTT3-3.3.1-8]
#[test]
fn a_server_that_retains_says_so_and_does() {
    let router = Router::with_shards(2);
    let mut publisher = router.connect(&v5("publisher"));
    assert!(publisher.greeting.retain_available);
    retain(&mut publisher, "a", "kept");
    for version in [v3("late-3"), v5("late-5")] {
        let mut late = router.connect(&version);
        late.subscribe("a", QOS_1);
        let message = late.message();
        assert_eq!((message.text(), message.retain, message.qos), ("kept", true, QOS_1));
    }
}

/// [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT3-3.3.1-5] [MQTT3-3.3.1-10]
#[test]
fn mosquitto_clients_find_retained_messages_after_a_restart_and_after_kill_9() {
    let mut router = Router::with_shards(3);
    for (version, topic) in [(Version::V3, "plant/a"), (Version::V5, "plant/b"), (Version::V5, "plant/c")] {
        for payload in ["first", "last"] {
            publish(router.address(), version, &["-r", "-t", topic, "-m", payload, "-q", "1"]);
        }
    }
    publish(router.address(), Version::V5, &["-r", "-t", "plant/c", "-n", "-q", "1"]);
    publish(router.address(), Version::V5, &["-r", "-t", "plant/d", "-m", "last", "-q", "1"]);
    let expected = "plant/a last\nplant/b last\nplant/d last\n";
    for version in [Version::V3, Version::V5] {
        assert_eq!(seen(&router, version, "plant/#", 3), expected);
    }
    router.terminate();
    router.start_again();
    assert_eq!(seen(&router, Version::V5, "plant/+", 3), expected);
    publish(router.address(), Version::V5, &["-r", "-t", "plant/d", "-m", "at last", "-q", "1"]);
    publish(router.address(), Version::V5, &["-r", "-t", "plant/b", "-n", "-q", "1"]);
    router.kill();
    router.start_again();
    assert_eq!(seen(&router, Version::V3, "#", 2), "plant/a last\nplant/d at last\n");
    wait_for(&router, "millrace_retained_messages", 2.0);
}

/// [MQTT-4.3.2-4]: what is acknowledged is retained, whichever shard the publisher is at home in.
#[test]
fn every_acknowledged_retained_message_is_there_after_kill_9() {
    let mut router = Router::with_shards(3);
    for publisher in 0..4 {
        let mut client = router.connect(&v5(&format!("publisher-{publisher}")));
        (0..50).for_each(|number| retain(&mut client, &format!("t/{publisher}/{number:02}"), "x"));
    }
    router.kill();
    router.start_again();
    let mut late = router.connect(&v5("late"));
    late.subscribe("t/#", QOS_0);
    let topics: Vec<String> = late.messages(200).into_iter().map(|message| message.topic).collect();
    let expected: Vec<String> = (0..4)
        .flat_map(|publisher| (0..50).map(move |number| format!("t/{publisher}/{number:02}")))
        .collect();
    assert_eq!(topics, expected);
}

/// The bound is told where 5.0 can tell it.
#[test]
fn a_full_set_is_a_quota() {
    let router = Setup::new().shards(2).set("limits.retained_messages_max", 1).start();
    let mut publisher = router.connect(&v5("publisher"));
    retain(&mut publisher, "a", "1");
    let publish =
        OutgoingPublish { topic: "b", qos: QOS_1, retain: true, payload: b"1", ..Default::default() };
    assert_eq!(publisher.reason_of(&publish), ReasonCode::QUOTA_EXCEEDED);
    retain(&mut publisher, "a", "2");
    wait_for(&router, "millrace_broker_retained_refused_total", 1.0);
}

/// A large set reaches a new subscriber whole, while others are served.
#[test]
fn ten_thousand_retained_topics_reach_a_new_subscriber() {
    let router = Router::with_shards(2);
    let mut publisher = router.connect(&v5("publisher"));
    for number in 0..10_000 {
        let topic = format!("site/{number}/state");
        let publish = OutgoingPublish { topic: &topic, payload: b"on", retain: true, ..Default::default() };
        publisher.send(&publish);
    }
    publisher.ping();
    for qos in [QOS_0, QOS_1] {
        let mut late = router.connect(&v5("late"));
        late.subscribe("site/+/state", qos);
        publisher.ping();
        let messages = late.messages(10_000);
        assert!(messages.iter().all(|message| message.retain));
        let topics: std::collections::BTreeSet<String> = messages.into_iter().map(|it| it.topic).collect();
        assert_eq!(topics.len(), 10_000);
    }
}

/// Version, uptime and numbers, for whoever asks; never on disk, and not for `#`.
#[test]
fn the_router_tells_about_itself_under_sys() {
    let mut router = Setup::new().shards(2).set("mqtt.sys_interval_secs", 1).start();
    for _ in 0..2 {
        let version = seen(&router, Version::V3, "$SYS/broker/version", 1);
        assert!(version.starts_with("$SYS/broker/version millrace "), "{version}");
        let mut all = router.connect(&v5("all"));
        all.subscribe("#", QOS_0);
        let mut watcher = router.connect(&v5("watcher"));
        watcher.subscribe("$SYS/broker/clients/connected", QOS_0);
        until("both clients counted", || (watcher.message().text() == "2").then_some(()));
        let uptime = seen(&router, Version::V5, "$SYS/broker/uptime", 1);
        let seconds =
            uptime.trim_end().strip_prefix("$SYS/broker/uptime ").and_then(|it| it.strip_suffix(" seconds"));
        assert!(seconds.is_some_and(|it| it.parse::<u32>().is_ok_and(|it| it < 600)), "{uptime}");
        let mut publisher = router.connect(&v5("publisher"));
        (0..3).for_each(|_| publisher.publish("nobody/listens", "x", QOS_1));
        let mut counted = router.connect(&v5("counted"));
        counted.subscribe("$SYS/broker/messages/received", QOS_0);
        until("three messages counted", || (counted.message().text() == "3").then_some(()));
        assert!(all.message_within(std::time::Duration::ZERO).is_none_or(|it| it.topic == "nobody/listens"));
        router.terminate();
        router.start_again();
    }
}
