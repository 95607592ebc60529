//! Routes with `durability = "spill"`: PUBACK when the upstream has the message or the disk has it, whichever is first,
//! and nothing is written while the upstream keeps up.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use harness::{
    Client, OutgoingPublish, Proxy, QOS_1, QOS_2, ReasonCode, Received, Recorder, Router, Setup, Version,
    until, v5,
};

use crate::durability::limit_files;

/// Longer than any test: only what is told to write does so.
const NEVER: u64 = 600_000;

/// Soon enough to wait for, and much longer than a slow machine takes to have a burst acknowledged by an upstream beside it.
const LATE: u64 = 3_000;

/// A router with a `spill` route behind a network, with its link up.
fn gateway(network: &Proxy, after_millis: u64) -> Setup {
    Setup::new()
        .uplink(network.address(), Version::V5)
        .set("uplink.plant.spill_after_ms", after_millis)
        .set("routes.all", r#"{ route = 'FROM "factory/#" INTO $upstream', durability = "spill" }"#)
}

#[track_caller]
fn with_link(setup: Setup) -> Router {
    let router = setup.start();
    expect_state(&router, "up");
    router
}

#[track_caller]
fn expect_state(router: &Router, state: &str) {
    until(&format!("the uplink to be {state}"), || {
        (router.status()["uplinks"][0]["state"] == state).then_some(())
    });
}

fn numbers(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}

fn texts(messages: &[Received]) -> Vec<&str> {
    messages.iter().map(Received::text).collect()
}

/// Sends a message and does not wait.
fn send(client: &mut Client, text: &str) -> NonZeroU16 {
    let publish =
        OutgoingPublish { topic: "factory/a", payload: text.as_bytes(), qos: QOS_1, ..Default::default() };
    client.send(&publish).expect("QoS 1 has an identifier")
}

fn written(router: &Router, reason: &str) -> f64 {
    router.metric(&format!("millrace_spill_written_total{{reason=\"{reason}\"}}"))
}

fn unwritten(router: &Router) -> f64 {
    router.metric("millrace_spill_delivered_unwritten_total")
}

#[test]
fn while_the_upstream_keeps_up_nothing_is_written() {
    for shards in 1..=2 {
        let upstream = Recorder::start();
        let network = Proxy::to(upstream.address());
        let router = with_link(gateway(&network, NEVER).shards(shards));
        let mut publishers: Vec<_> = (0..3).map(|it| router.connect(&v5(&format!("p{it}")))).collect();
        let before = router.status()["store"].clone();
        let (begin, mut count) = (Instant::now(), 0);
        // Housekeeping comes by several times.
        while begin.elapsed() < Duration::from_secs(1) || count < 3_000 {
            for publisher in &mut publishers {
                publisher.publish_all("factory/a", numbers(0..100));
            }
            count += 300;
        }
        let after = router.status()["store"].clone();
        for what in ["written_bytes", "records", "record_bytes", "syncs", "commits"] {
            assert_eq!(before[what], after[what], "{what} after {count} messages on {shards} shards");
        }
        assert_eq!(upstream.record().len(), count);
        until("an empty front", || (router.backlog() == 0).then_some(()));
        assert_eq!(unwritten(&router), count as f64);
        assert_eq!(router.metric("millrace_uplink_front_bytes{name=\"plant\"}"), 0.0);
    }
}

#[test]
fn what_is_delivered_unwritten_gives_its_room_back() {
    room_comes_back("refuse");
}

#[test]
fn what_is_delivered_unwritten_is_not_among_the_oldest_that_are_given_up() {
    room_comes_back("drop-oldest");
}

/// Ten times as much as may wait goes through, and nothing of it is refused for good, given up or written.
#[track_caller]
fn room_comes_back(when_full: &str) {
    const COUNT: usize = 600;
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let router = with_link(
        gateway(&network, NEVER)
            .set("limits.packet_bytes_max", 65_536)
            .set("uplink.plant.bytes_max", 262_144)
            .set("uplink.plant.when_full", when_full),
    );
    let mut publisher = router.connect(&v5("publisher"));
    for number in 0..COUNT {
        let payload = format!("{number} {}", "x".repeat(4_500));
        let publish = OutgoingPublish {
            topic: "factory/a",
            payload: payload.as_bytes(),
            qos: QOS_1,
            ..Default::default()
        };
        // Room comes back at the next look, not with the acknowledgement.
        until("room", || (publisher.reason_of(&publish) == ReasonCode::SUCCESS).then_some(()));
    }
    assert_eq!(upstream.wait_for(COUNT).len(), COUNT);
    assert_eq!((unwritten(&router), router.number("/store/records")), (COUNT as f64, 0));
    assert_eq!(router.metric("millrace_lost_messages_total{sink=\"plant\",reason=\"drop_oldest\"}"), 0.0);
}

#[test]
fn a_puback_waits_for_the_upstream_if_that_is_first() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let router = with_link(gateway(&network, NEVER));
    network.pause();
    let mut publisher = router.connect(&v5("publisher"));
    let id = send(&mut publisher, "first");
    router.wait_for("/uplinks/0/inflight", 1);
    publisher.ping();
    assert!(!publisher.has_ack(id), "neither the upstream nor the disk has it");
    assert_eq!((router.backlog(), router.number("/store/records")), (1, 0));
    // Who needs only the disk does not wait for the upstream.
    let mut absent =
        router.connect(&harness::Connect { clean_start: false, session_expiry_secs: 600, ..v5("absent") });
    absent.subscribe("local", QOS_1);
    absent.disconnect();
    router.connect(&v5("neighbour")).publish("local", "x", QOS_1);
    network.resume();
    publisher.await_ack(id);
    assert_eq!((texts(&upstream.wait_for(1)), unwritten(&router)), (vec!["first"], 1.0));
    assert_eq!(router.number("/store/records"), 1, "that of the session");
}

#[test]
fn a_puback_waits_for_the_disk_if_that_is_first() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let router = with_link(gateway(&network, LATE));
    upstream.withhold(true);
    let mut publisher = router.connect(&v5("publisher"));
    let begin = Instant::now();
    publisher.publish_all("factory/a", numbers(0..10));
    assert!(begin.elapsed() >= Duration::from_millis(LATE), "it was not written before");
    assert_eq!((router.number("/store/records"), router.number("/uplinks/0/forwarded")), (10, 0));
    assert_eq!((written(&router, "late"), unwritten(&router)), (10.0, 0.0));
    // Behind a backlog nothing waits in memory.
    publisher.publish("factory/a", "10", QOS_1);
    assert_eq!((written(&router, "backlog"), router.number("/store/records")), (1.0, 11));
    upstream.wait_for(11);
    upstream.withhold(false);
    upstream.end_connections();
    let record = upstream.wait_for(22);
    assert_eq!(texts(&record[11..]), numbers(0..11).collect::<Vec<_>>());
    // Once that is delivered, it is as before.
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    publisher.publish_all("factory/a", numbers(11..20));
    assert_eq!((unwritten(&router), router.number("/store/records")), (9.0, 11));
}

fn ids(messages: &[Received]) -> Vec<&str> {
    let id = |message| -> &str {
        let properties = Received::user_properties(message);
        properties.iter().find(|(name, _)| *name == "millrace-id").expect("an id").1
    };
    messages.iter().map(id).collect()
}

/// A receiver that drops repeats must drop nothing else: places that were never written are given again, ids are not.
#[test]
fn after_a_crash_no_other_message_has_an_id_that_was_seen_and_each_repeat_has_its_own() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let mut router = with_link(gateway(&network, LATE));
    router.connect(&v5("publisher")).publish_all("factory/a", numbers(0..20));
    assert_eq!((unwritten(&router), router.number("/store/records")), (20.0, 0));
    router.kill();
    router.start_again();
    expect_state(&router, "up");
    router.connect(&v5("publisher")).publish_all("factory/a", numbers(20..40));
    assert_eq!((unwritten(&router), router.number("/store/records")), (20.0, 0));
    // These are written, have arrived, and are repeated after the next crash.
    upstream.withhold(true);
    router.connect(&v5("publisher")).publish_all("factory/a", numbers(40..60));
    assert_eq!(upstream.wait_for(60).len(), 60);
    router.kill();
    upstream.withhold(false);
    router.start_again();
    upstream.wait_for(80);
    router.connect(&v5("publisher")).publish_all("factory/a", numbers(60..80));
    let record = upstream.wait_for(100);
    let expected: Vec<_> = numbers(0..60).chain(numbers(40..80)).collect();
    assert_eq!(texts(&record), expected);
    let ids = ids(&record);
    let mut by_id = std::collections::BTreeMap::new();
    for (id, text) in ids.iter().zip(&expected) {
        assert_eq!(*by_id.entry(*id).or_insert(text), text, "{id}");
    }
    assert_eq!(by_id.len(), 80, "and each repeat has its own: {by_id:?}");
}

#[test]
fn with_the_link_down_what_was_acknowledged_survives_a_kill() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let mut router = with_link(gateway(&network, NEVER));
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish_all("factory/a", numbers(0..50));
    assert_eq!(router.number("/store/records"), 0);
    network.cut();
    expect_state(&router, "down");
    publisher.publish_all("factory/a", numbers(50..200));
    assert_eq!(written(&router, "link_down"), 150.0);
    router.kill();
    router.start_again();
    assert_eq!(router.backlog(), 150);
    network.mend();
    let record = upstream.wait_for(200);
    assert_eq!(texts(&record), numbers(0..200).collect::<Vec<_>>());
}

#[test]
fn a_link_that_goes_down_has_written_at_once_what_it_had_not_delivered() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let mut router = with_link(gateway(&network, NEVER));
    upstream.withhold(true);
    let mut publisher = router.connect(&v5("publisher"));
    let sent: Vec<_> = (0..20).map(|number| send(&mut publisher, &number.to_string())).collect();
    upstream.wait_for(20);
    assert!(!publisher.has_ack(sent[0]));
    network.cut();
    sent.into_iter().for_each(|id| publisher.await_ack(id));
    router.kill();
    upstream.withhold(false);
    network.mend();
    router.start_again();
    let record = upstream.wait_for(40);
    assert_eq!(texts(&record[20..]), numbers(0..20).collect::<Vec<_>>());
}

#[test]
fn a_graceful_stop_writes_what_is_in_memory() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let mut router = with_link(gateway(&network, NEVER));
    upstream.withhold(true);
    let mut publisher = router.connect(&v5("publisher"));
    for number in 0..20 {
        send(&mut publisher, &number.to_string());
    }
    upstream.wait_for(20);
    network.cut();
    assert_eq!(router.terminate().code(), Some(0));
    router.start_again();
    assert_eq!(router.backlog(), 20);
}

#[test]
fn a_message_that_must_be_written_takes_those_before_it_along() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let sure = r#"{ route = 'FROM "sure/#" INTO $upstream', durability = "disk" }"#;
    let mut router = with_link(gateway(&network, NEVER).set("routes.sure", sure));
    network.pause();
    let mut publisher = router.connect(&v5("publisher"));
    let before: Vec<_> = ["0", "1"].map(|text| send(&mut publisher, text)).into();
    router.wait_for("/uplinks/0/inflight", 2);
    let mut other = router.connect(&v5("other"));
    other.publish("sure/a", "2", QOS_1);
    before.into_iter().for_each(|id| publisher.await_ack(id));
    assert_eq!((written(&router, "order"), router.number("/store/records")), (2.0, 3));
    // QoS 2 is written, too: its identifier and its message are on the disk together, or not at all.
    other.publish("factory/a", "3", QOS_2);
    assert_eq!(router.number("/store/records"), 4);
    router.kill();
    network.resume();
    router.start_again();
    let record = until("all four", || {
        let record = upstream.record().clone();
        texts(&record).contains(&"3").then_some(record)
    });
    let seen = texts(&record);
    let first: Vec<_> = seen.iter().enumerate().filter(|(at, text)| !seen[..*at].contains(text)).collect();
    assert_eq!(first.into_iter().map(|(_, text)| *text).collect::<Vec<_>>(), ["0", "1", "2", "3"]);
}

#[test]
fn the_memory_of_all_fronts_is_bounded() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let router = with_link(gateway(&network, NEVER).set("limits.spill_bytes_max", 65_536));
    network.pause();
    let mut publisher = router.connect(&v5("publisher"));
    let payload = "x".repeat(4_000);
    let sent: Vec<_> = (0..40).map(|_| send(&mut publisher, &payload)).collect();
    // Some were written for want of memory, with those before them; the last ones went where there was room, or behind.
    publisher.await_ack(sent[0]);
    assert!(written(&router, "full") >= 14.0);
    assert!(router.metric("millrace_uplink_front_bytes{name=\"plant\"}") <= 65_536.0);
    network.resume();
    sent[1..].iter().for_each(|id| publisher.await_ack(*id));
    assert_eq!(upstream.wait_for(40).len(), 40);
}

#[test]
fn a_store_that_fails_does_not_stop_what_need_not_be_written() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let sure = r#"{ route = 'FROM "sure/#" INTO $upstream', durability = "disk", priority = 1 }"#;
    let mut router = with_link(gateway(&network, LATE).set("routes.sure", sure));
    limit_files(&mut router, "262144");
    let large = "x".repeat(4_000);
    let mut filler = router.connect(&v5("filler"));
    let publish =
        OutgoingPublish { topic: "sure/a", payload: large.as_bytes(), qos: QOS_1, ..Default::default() };
    let filled: Vec<_> = (0..150).filter_map(|_| filler.send(&publish)).collect();
    until("the disk to refuse", || (router.metric("millrace_store_poisoned") == 1.0).then_some(()));
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish_all("factory/a", numbers(0..100));
    assert_eq!(unwritten(&router), 100.0);
    // Without an upstream it needs the disk, and waits.
    network.cut();
    expect_state(&router, "down");
    let mut device = router.connect(&v5("device"));
    let waits = send(&mut device, "100");
    device.ping();
    assert!(!device.has_ack(waits));
    limit_files(&mut router, "unlimited");
    device.await_ack(waits);
    filled.into_iter().for_each(|id| filler.await_ack(id));
    network.mend();
    let spilled = until("the last one", || {
        let record = upstream.record();
        let all: Vec<_> = texts(&record).into_iter().filter(|it| it.len() < 10).map(str::to_owned).collect();
        all.iter().any(|text| text == "100").then_some(all)
    });
    assert_eq!(spilled, numbers(0..101).collect::<Vec<_>>());
}

#[test]
fn what_expires_in_memory_is_in_the_ledger_and_acknowledged() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let route = r#"{ route = 'FROM "factory/#" INTO $upstream', durability = "spill", ttl = 1 }"#;
    let setup = gateway(&network, NEVER).set("routes.all", route).set("uplink.plant.window", 1);
    let router = with_link(setup);
    network.pause();
    let mut publisher = router.connect(&v5("publisher"));
    let sent: Vec<_> = (0..3).map(|number| send(&mut publisher, &number.to_string())).collect();
    router.wait_for("/uplinks/0/inflight", 1);
    // The second and the third wait for the window, and for too long.
    let begin = Instant::now();
    until("their end", || (begin.elapsed() > Duration::from_millis(1_200)).then_some(()));
    network.resume();
    sent.into_iter().for_each(|id| publisher.await_ack(id));
    assert_eq!(texts(&upstream.record()), ["0"]);
    until("an entry of the ledger", || {
        let status = router.status();
        let sums = status["losses"]["sums"].as_array()?;
        let expired = sums.iter().find(|sum| sum["reason"] == "expired")?;
        (expired["messages"] == 2).then_some(())
    });
    assert_eq!(router.number("/store/records"), 0);
}

/// Without a link nobody reads; what has expired leaves memory, the counts and the budget all the same, and is in the ledger.
#[test]
fn what_expires_in_memory_leaves_it_without_a_reader() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let setup = gateway(&network, NEVER)
        .set("routes.all", r#"{ route = 'FROM "factory/#" INTO $upstream', durability = "memory", ttl = 1 }"#)
        .set("routes.kept", r#"{ route = 'FROM "kept" INTO $upstream', durability = "memory" }"#);
    let router = with_link(setup);
    network.cut();
    expect_state(&router, "down");
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("kept", "first", QOS_1);
    publisher.publish_all("factory/a", numbers(0..50));
    until("them to expire", || (router.backlog() == 1).then_some(()));
    until("an entry of the ledger", || {
        let status = router.status();
        let sums = status["losses"]["sums"].as_array()?;
        let expired = sums.iter().find(|sum| sum["reason"] == "expired")?;
        (expired["messages"] == 50).then_some(())
    });
    publisher.publish("kept", "last", QOS_1);
    network.mend();
    let arrived = until("the others", || {
        let record = upstream.record();
        (record.len() == 2).then(|| texts(&record).into_iter().map(str::to_owned).collect::<Vec<_>>())
    });
    assert_eq!(arrived, ["first", "last"]);
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    assert_eq!(router.number("/store/expired"), 50);
    assert_eq!(router.number("/uplinks/0/dropped"), 0, "nobody counts them again");
    assert_eq!(router.number("/store/records"), 0);
}

#[test]
fn a_message_that_the_upstream_never_takes_goes_into_the_poison_lane_out_of_memory() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let mut router = with_link(gateway(&network, NEVER));
    upstream.refuse("bad", Some(ReasonCode::TOPIC_NAME_INVALID));
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("factory/a", "good", QOS_1);
    publisher.publish("factory/a", "bad", QOS_1);
    publisher.publish("factory/a", "good again", QOS_1);
    assert_eq!(texts(&upstream.record()), ["good", "good again"]);
    assert_eq!(router.number("/uplinks/0/poisoned"), 1);
    router.kill();
    router.start_again();
    let poisoned = |router: &Router| router.metric("millrace_lane_messages{name=\"p/plant\"}");
    assert_eq!(poisoned(&router), 1.0);
}

#[test]
fn the_promise_is_stated() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let router = gateway(&network, 700)
        .set("routing.durability", "spill")
        .set("routes.usual", r#"FROM "other/#" INTO $upstream"#);
    let router = router.start();
    let status = router.status();
    for route in 0..2 {
        let promise = status["routes"][route]["promise"].as_str().expect("a sentence");
        assert!(promise.starts_with("spill: the upstream has acknowledged the message, or "), "{promise}");
        assert!(promise.contains("after 700 ms at most"), "{promise}");
    }
}

/// A router with a `memory` route behind a network.
fn forgetful(network: &Proxy) -> Setup {
    gateway(network, NEVER)
        .set("routes.all", r#"{ route = 'FROM "factory/#" INTO $upstream', durability = "memory" }"#)
}

/// `memory`: acknowledged when held, and neither a healthy upstream nor an outage writes a byte; an orderly stop does.
#[test]
fn memory_routes_write_nothing_until_the_router_stops() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let mut router = with_link(forgetful(&network));
    let mut publisher = router.connect(&v5("p"));
    let before = router.status()["store"].clone();
    publisher.publish_all("factory/a", numbers(0..1_000));
    upstream.wait_for(1_000);
    // Their acknowledgements, too: a cut would have the last of them wait again.
    until("an empty front", || (router.backlog() == 0).then_some(()));
    network.cut();
    expect_state(&router, "down");
    publisher.publish_all("factory/a", numbers(1_000..2_000));
    let after = router.status()["store"].clone();
    for what in ["written_bytes", "records", "record_bytes"] {
        assert_eq!(before[what], after[what], "{what}");
    }
    assert_eq!(router.backlog(), 1_000);
    router.terminate();
    router.start_again();
    assert_eq!(router.backlog(), 1_000, "a restart loses nothing");
    network.mend();
    let record = upstream.wait_for(2_000);
    let expected: Vec<String> = numbers(0..2_000).collect();
    assert_eq!(texts(&record), expected);
}

/// What was acknowledged and goes with the process is said, with its number.
#[test]
fn a_stop_while_the_disk_fails_says_how_many_acknowledged_messages_it_loses() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let sure = r#"{ route = 'FROM "sure/#" INTO $upstream', durability = "disk", priority = 1 }"#;
    let mut router = with_link(forgetful(&network).set("routes.sure", sure));
    network.cut();
    expect_state(&router, "down");
    router.connect(&v5("publisher")).publish_all("factory/a", numbers(0..10));
    limit_files(&mut router, "262144");
    let large = "x".repeat(4_000);
    let mut filler = router.connect(&v5("filler"));
    let publish =
        OutgoingPublish { topic: "sure/a", payload: large.as_bytes(), qos: QOS_1, ..Default::default() };
    let sent: Vec<_> = (0..400).filter_map(|_| filler.send(&publish)).collect();
    until("the disk to refuse", || (router.metric("millrace_store_poisoned") == 1.0).then_some(()));
    assert!(sent.iter().any(|id| !filler.has_ack(*id)));
    router.terminate();
    let log = router.log();
    assert!(log.contains("messages of memory routes that were acknowledged are lost"), "{log}");
    assert!(log.contains("acknowledged=10 "), "{log}");
    assert!(!log.contains("none of them was acknowledged"), "{log}");
}

/// What does not fit into memory is written, in order.
#[test]
fn memory_routes_write_when_memory_is_short() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let router = with_link(forgetful(&network).set("limits.spill_bytes_max", 65_536));
    network.cut();
    let mut publisher = router.connect(&v5("p"));
    publisher.publish_all("factory/a", numbers(0..3_000));
    // They are acknowledged before the disk thread has seen them.
    until("what has no room to be written", || (written(&router, "full") > 0.0).then_some(()));
    assert_eq!((written(&router, "link_down"), written(&router, "late")), (0.0, 0.0));
    network.mend();
    let record = upstream.wait_for(3_000);
    assert_eq!(texts(&record), numbers(0..3_000).collect::<Vec<_>>());
}

/// Acknowledgements of one shard wait for the slowest upstream, up to its `spill_after_ms` (decision 0009); what another one
/// keeps up with is not written for that.
#[test]
fn a_slow_upstream_delays_acknowledgements_for_another_and_has_nothing_of_it_written() {
    const AFTER_MILLIS: u64 = 500;
    let (plant, cloud) = (Recorder::start(), Recorder::start());
    let network = Proxy::to(plant.address());
    let router = gateway(&network, NEVER)
        .shards(1)
        .set("routes.all", r#"{ route = 'FROM "factory/#" INTO uplink("plant")', durability = "spill" }"#)
        .set("uplink.cloud.url", format!("mqtt://{}", cloud.address()))
        .set("uplink.cloud.spill_after_ms", AFTER_MILLIS)
        .set("routes.slow", r#"{ route = 'FROM "slow/#" INTO uplink("cloud")', durability = "spill" }"#)
        .start();
    until("both uplinks to be up", || {
        let uplinks = router.status()["uplinks"].as_array().cloned().unwrap_or_default();
        (uplinks.iter().filter(|uplink| uplink["state"] == "up").count() == 2).then_some(())
    });
    cloud.withhold(true);
    let records = router.number("/store/records");
    let mut slow = router.connect(&v5("slow"));
    let publish = OutgoingPublish { topic: "slow/a", payload: b"x", qos: QOS_1, ..Default::default() };
    slow.send(&publish).expect("QoS 1 has an identifier");
    cloud.wait_for(1);
    let begin = Instant::now();
    router.connect(&v5("fast")).publish_all("factory/a", numbers(0..200));
    // Each of them would wait so long if the slow one held back more than what is acknowledged behind it.
    assert!(begin.elapsed() < Duration::from_millis(40 * AFTER_MILLIS), "{:?}", begin.elapsed());
    assert_eq!(texts(&plant.wait_for(200)), numbers(0..200).collect::<Vec<_>>());
    assert_eq!(
        router.number("/store/records") - records,
        1,
        "the one that its upstream did not take in time"
    );
    assert_eq!(unwritten(&router), 200.0);
}
