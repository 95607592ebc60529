//! The smallest limits and the largest numbers: whatever has a bound goes on working at it, and loses nothing it promised.

use std::time::Duration;

use harness::{
    Client, Connect, OutgoingPublish, QOS_0, QOS_1, Recorder, Router, Setup, Version, until, v3, v5,
};

fn lasting(client_id: &str) -> Connect {
    Connect { clean_start: false, session_expiry_secs: 600, ..v5(client_id) }
}

fn numbers(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}

/// Payloads that are larger than many a limit, each with its number.
fn large(range: std::ops::Range<usize>) -> impl Iterator<Item = Vec<u8>> {
    range.map(|number| [number.to_be_bytes().as_slice(), &[b'x'; 20_000]].concat())
}

#[track_caller]
fn expect_large(client: &mut Client, range: std::ops::Range<usize>) {
    for (number, payload) in range.clone().zip(large(range)) {
        assert!(client.message().payload == payload, "message {number}");
    }
}

#[test]
fn a_session_with_the_smallest_queue_and_window_gets_everything_in_order() {
    for expiry in [0, 600] {
        let router = Setup::new()
            .shards(3)
            .set("limits.session_inflight_max", 1)
            .set("limits.session_queue_bytes_max", if expiry > 0 { 1_024 } else { 16 << 20 })
            .set("limits.session_queue_messages_max", if expiry > 0 { 1 } else { 1_000 })
            .set("limits.outbox_bytes_max", 1_024)
            .start();
        let mut client = router.connect(&Connect { session_expiry_secs: expiry, ..v5("client") });
        client.subscribe("a", QOS_1);
        router.connect(&v5("publisher")).publish_all("a", large(0..100));
        expect_large(&mut client, 0..100);
    }
}

#[test]
fn a_stored_session_reads_records_larger_than_its_queue() {
    let setup = Setup::new().set("limits.session_queue_bytes_max", 1_024);
    let mut router = setup.set("limits.session_queue_messages_max", 1).start();
    let mut client = router.connect(&lasting("client"));
    client.subscribe("a", QOS_1);
    client.disconnect();
    router.connect(&v5("publisher")).publish_all("a", large(0..50));
    expect_large(&mut router.connect(&lasting("client")), 0..50);
    router.kill();
    router.start_again();
    router.connect(&v5("publisher")).publish_all("a", large(50..60));
    let mut client = router.connect(&lasting("client"));
    // Positions are written with the next group: after a kill some come again.
    until("the newest message", || {
        let message = client.message();
        (message.payload == large(59..60).next().expect("one")).then_some(())
    });
}

#[test]
fn handoff_between_shards_at_its_smallest_loses_nothing_and_keeps_order() {
    let router = Setup::new()
        .shards(3)
        .set("limits.handoff_batches_max", 1)
        .set("limits.handoff_batch_bytes_max", 1_024)
        .start();
    let mut subscribers: Vec<_> = (0..6).map(|it| router.connect(&lasting(&format!("s-{it}")))).collect();
    for subscriber in &mut subscribers {
        subscriber.subscribe("a/#", QOS_1);
    }
    let (publishers, messages) = (6, 300);
    std::thread::scope(|scope| {
        for publisher in 0..publishers {
            let router = &router;
            scope.spawn(move || {
                let mut client = router.connect(&v5(&format!("p-{publisher}")));
                client.publish_all(&format!("a/{publisher}"), numbers(0..messages));
            });
        }
    });
    for subscriber in &mut subscribers {
        let mut next = vec![0; publishers];
        for message in subscriber.messages(publishers * messages) {
            let publisher: usize = message.topic[2..].parse().expect("a publisher");
            assert_eq!(message.text(), next[publisher].to_string());
            next[publisher] += 1;
        }
    }
}

#[test]
fn a_publisher_beyond_the_receive_maximum_is_held_back_and_not_lost() {
    // 3.1.1 has no such limit to tell: its publisher is slowed by its socket.
    let setup = Setup::new().set("limits.receive_max", 1).set("limits.commit_bytes_max", 65_536);
    let router = setup.start();
    let mut absent = router.connect(&lasting("absent"));
    absent.subscribe("a", QOS_1);
    absent.disconnect();
    let mut publisher = router.connect(&v3("publisher"));
    publisher.publish_all("a", numbers(0..500));
    publisher.publish_all("a", large(0..20));
    let mut absent = router.connect(&lasting("absent"));
    assert_eq!(absent.texts(500), numbers(0..500).collect::<Vec<_>>());
    expect_large(&mut absent, 0..20);
}

#[test]
fn an_uplink_reads_records_larger_than_its_limit() {
    let upstream = Recorder::start();
    let route = r#"FROM "a" INTO $upstream"#;
    let router = Setup::new()
        .uplink(upstream.address(), Version::V5)
        .set("routes.all", route)
        .set("limits.uplink_read_bytes_max", 1_024)
        .set("uplink.plant.window", 1)
        .start();
    router.connect(&v5("publisher")).publish_all("a", large(0..50));
    let record = upstream.wait_for(50);
    assert!(record.iter().zip(large(0..50)).all(|(message, payload)| message.payload == payload));
    assert_eq!(router.number("/uplinks/0/reconnects"), 0);
}

#[test]
fn packet_identifiers_go_round_towards_a_subscriber() {
    // 65 535 identifiers; a stored session derives them from places in its lane.
    for connect in [lasting("client"), v5("client"), v3("client")] {
        let router = Router::with_shards(2);
        let mut client = router.connect(&connect);
        client.subscribe("a", QOS_1);
        let mut publisher = router.connect(&v5("publisher"));
        let mut ids = Vec::new();
        for batch in 0..70 {
            publisher.publish_all("a", numbers(batch * 1_000..batch * 1_000 + 1_000));
            for (number, message) in client.messages(1_000).iter().enumerate() {
                assert_eq!(message.text(), (batch * 1_000 + number).to_string());
                ids.extend(message.packet_id);
            }
        }
        let round = ids.iter().position(|id| id.get() == u16::MAX).expect("the last identifier");
        assert_eq!(ids[round + 1].get(), 1, "0 is none");
    }
}

#[test]
fn packet_identifiers_go_round_towards_an_upstream() {
    let upstream = Recorder::start();
    let route = r#"FROM "a" INTO $upstream"#;
    let router = Setup::new().uplink(upstream.address(), Version::V5).set("routes.all", route).start();
    let mut publisher = router.connect(&v5("publisher"));
    for batch in 0..70 {
        publisher.publish_all("a", numbers(batch * 1_000..batch * 1_000 + 1_000));
    }
    let record = upstream.wait_for(70_000);
    assert!(record.iter().enumerate().all(|(number, message)| message.text() == number.to_string()));
    until("an empty lane", || (router.backlog() == 0).then_some(()));
}

#[test]
fn a_subscriber_that_paused_gets_everything_of_qos_1_in_order_when_it_reads_again() {
    for connect in [lasting("client"), v5("client")] {
        let router = Setup::new().set("limits.outbox_bytes_max", 65_536).start();
        let mut client = router.connect(&connect);
        client.subscribe("a", QOS_1);
        // 10 MB: more than the sockets' buffers and the outbox, less than the queue of a clean session.
        router.connect(&v5("publisher")).publish_all("a", large(0..500));
        expect_large(&mut client, 0..500);
        router.connect(&v5("publisher")).publish("a", "afterwards", QOS_1);
        assert_eq!(client.message().text(), "afterwards");
    }
}

#[test]
fn connections_that_fight_for_one_identifier_leave_one() {
    // [MQTT-3.1.4-3]
    let router = Router::with_shards(3);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let address = router.address();
            scope.spawn(move || {
                for _ in 0..40 {
                    // Whoever is thrown out before its CONNACK sees its connection end.
                    if let Ok(mut client) = Client::try_connect(address, &lasting("contested")) {
                        let publish = OutgoingPublish { topic: "a", qos: QOS_0, ..Default::default() };
                        client.connection().publish(&publish).ok();
                    }
                }
            });
        }
    });
    let mut winner = router.connect(&lasting("contested"));
    winner.subscribe("b", QOS_1);
    router.connect(&v5("publisher")).publish("b", "to the winner", QOS_1);
    assert_eq!(winner.message().text(), "to the winner");
    until("the losers to be gone", || (router.number("/clients") == 1).then_some(()));
    until("one session to be left", || (router.number("/sessions") == 1).then_some(()));
    assert_eq!(router.number("/counters/bugs"), 0);
}

#[test]
fn subscribing_and_unsubscribing_under_load_never_misses_what_suback_promised() {
    let router = Router::with_shards(3);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for publisher in 0..2 {
            let (router, over) = (&router, &over);
            scope.spawn(move || {
                let mut client = router.connect(&v5(&format!("noise-{publisher}")));
                while !over.load(std::sync::atomic::Ordering::SeqCst) {
                    client.publish("noise", "x", QOS_1);
                }
            });
        }
        let mut publishers: Vec<_> = (0..4).map(|it| router.connect(&v5(&format!("p-{it}")))).collect();
        for round in 0..60 {
            let mut client = router.connect(&v5(&format!("subscriber-{round}")));
            client.subscribe("target/+", QOS_1);
            let topic = format!("target/{round}");
            for (number, publisher) in publishers.iter_mut().enumerate() {
                publisher.publish(&topic, number.to_string(), QOS_1);
            }
            let mut texts = client.texts(4);
            texts.sort();
            assert_eq!(texts, ["0", "1", "2", "3"], "round {round}");
            client.unsubscribe("target/+");
            client.ping();
            assert!(client.message_within(Duration::ZERO).is_none());
        }
        over.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}

#[test]
fn a_thousand_subscriptions_of_one_session_and_deep_topics_work() {
    let router = Router::with_shards(2);
    let mut client = router.connect(&lasting("client"));
    for batch in 0..10 {
        let wanted =
            (batch * 100..batch * 100 + 100).map(|it| wire::Subscription::new(format!("t/{it}/+"), QOS_1));
        let reasons = client.subscribe_with(wanted.collect(), None);
        assert!(reasons.iter().all(|reason| !reason.is_error()));
    }
    let mut publisher = router.connect(&v5("publisher"));
    for number in (0..1_000).step_by(37) {
        publisher.publish(&format!("t/{number}/x"), "", QOS_1);
        assert_eq!(client.message().topic, format!("t/{number}/x"));
    }
    let mut deep = router.connect(&v5("deep"));
    deep.subscribe(&format!("{}#", "+/".repeat(63)), QOS_1);
    let topic = vec!["l"; 64].join("/");
    publisher.publish(&topic, "", QOS_1);
    assert_eq!(deep.message().topic, topic);
}
