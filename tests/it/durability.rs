//! What a PUBACK promises: it comes after the disk has the message, and nothing that was acknowledged is lost.

use harness::{Connect, OutgoingPublish, QOS_0, QOS_1, Recorder, Router, Setup, Version, until, v5};

fn lasting(client_id: &str) -> Connect {
    Connect { clean_start: false, session_expiry_secs: 86_400, ..v5(client_id) }
}

/// A router with a stored session that subscribes to everything and is away.
#[track_caller]
fn with_absent_subscriber(shards: usize) -> Router {
    let router = Router::with_shards(shards);
    let mut client = router.connect(&lasting("absent"));
    client.subscribe("#", QOS_1);
    client.disconnect();
    router
}

#[test]
fn a_puback_comes_after_a_sync_that_holds_the_message() {
    for shards in 1..=3 {
        let router = with_absent_subscriber(shards);
        let mut publisher = router.connect(&v5("publisher"));
        for _ in 0..10 {
            let (records, syncs) = (router.number("/store/records"), router.number("/store/syncs"));
            publisher.publish("a", "x", QOS_1);
            assert!(router.number("/store/records") > records, "acknowledged before it was written");
            assert!(router.number("/store/syncs") > syncs, "acknowledged before it was synced");
        }
    }
}

#[test]
fn messages_that_come_by_themselves_share_syncs() {
    const COUNT: usize = 200;
    let router = Setup::new().shards(1).set("store.commit_interval_ms", 20).start();
    let mut subscriber = router.connect(&lasting("absent"));
    subscriber.subscribe("#", QOS_1);
    subscriber.disconnect();
    let mut publisher = router.connect(&v5("publisher"));
    let before = router.number("/store/commits");
    let message = OutgoingPublish { topic: "a", payload: b"x", qos: QOS_1, ..Default::default() };
    // One a millisecond, whether the one before it is acknowledged or not.
    let ids = (0..COUNT).map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        publisher.send(&message).expect("QoS 1 has an identifier")
    });
    let ids: Vec<_> = ids.collect();
    ids.into_iter().for_each(|id| publisher.await_ack(id));
    let commits = router.number("/store/commits") - before;
    // At most one in 20 ms, those that a wait in vain at the beginning lets pass, and the last; a slow machine has fewer.
    assert!((1..=COUNT as u64 / 4).contains(&commits), "{commits} groups for {COUNT} messages");
    assert_eq!(router.connect(&lasting("absent")).texts(COUNT).len(), COUNT);
}

#[test]
fn a_message_for_live_clean_sessions_alone_costs_no_write() {
    let router = Router::with_shards(2);
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("a", QOS_1);
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("a", "first", QOS_1);
    let records = router.number("/store/records");
    publisher.publish_all("a", ["x"; 100]);
    subscriber.messages(101);
    assert_eq!(router.number("/store/records"), records);
}

#[test]
fn every_acknowledged_message_is_there_after_a_kill_right_after_the_puback() {
    for shards in 1..=3 {
        let mut router = with_absent_subscriber(shards);
        // Several publishers, so that the one that writes and the one that keeps are different shards.
        for publisher in 0..6 {
            let mut client = router.connect(&v5(&format!("publisher-{publisher}")));
            client.publish_all("a", (0..50).map(|number| format!("{publisher}/{number}")));
        }
        router.kill();
        router.start_again();
        let texts = router.connect(&lasting("absent")).texts(300);
        for publisher in 0..6 {
            let expected: Vec<_> = (0..50).map(|number| format!("{publisher}/{number}")).collect();
            let mine = texts.iter().filter(|text| text.starts_with(&format!("{publisher}/")));
            assert!(mine.eq(&expected), "publisher {publisher} on {shards} shards");
        }
    }
}

#[test]
fn every_acknowledged_message_is_there_after_a_graceful_stop_in_the_middle_of_traffic() {
    let mut router = with_absent_subscriber(2);
    let address = router.address();
    let acknowledged = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = harness::Client::connect(address, &v5("publisher")).into_connection();
            for number in 0_usize.. {
                let payload = number.to_string();
                let packet_id = std::num::NonZeroU16::new((number % 60_000) as u16 + 1);
                let publish = OutgoingPublish {
                    topic: "a",
                    payload: payload.as_bytes(),
                    qos: QOS_1,
                    packet_id,
                    ..Default::default()
                };
                if connection.publish(&publish).is_err() {
                    return;
                }
                match connection.receive(harness::PATIENCE) {
                    Ok(Some(harness::Incoming::PubAck(..))) => {
                        acknowledged.store(number + 1, std::sync::atomic::Ordering::SeqCst);
                    }
                    _ => return,
                }
            }
        });
        until("some traffic", || {
            (acknowledged.load(std::sync::atomic::Ordering::SeqCst) >= 100).then_some(())
        });
        assert_eq!(router.terminate().code(), Some(0));
    });
    let acknowledged = acknowledged.into_inner();
    router.start_again();
    let texts = router.connect(&lasting("absent")).texts(acknowledged);
    assert!(texts.iter().enumerate().all(|(number, text)| *text == number.to_string()), "all, in order");
}

#[test]
fn a_graceful_stop_says_goodbye_and_exits_with_0() {
    let mut router = Router::with_shards(2);
    let mut new = router.connect(&v5("new"));
    let mut old = router.connect(&harness::v3("old"));
    assert_eq!(router.terminate().code(), Some(0));
    assert_eq!(new.ending().reason, Some(harness::ReasonCode::SERVER_SHUTTING_DOWN));
    assert_eq!(old.ending().reason, None, "3.1.1 has no DISCONNECT from servers");
}

#[test]
fn a_graceful_stop_does_not_wait_for_a_client_that_reads_nothing() {
    let mut router = Router::with_shards(2);
    let mut deaf = router.connect(&v5("deaf"));
    deaf.subscribe("a", QOS_0);
    let mut publisher = router.connect(&v5("publisher"));
    let payload = vec![b'x'; 500_000];
    for _ in 0..30 {
        publisher.publish("a", &payload, QOS_0);
    }
    publisher.ping();
    assert_eq!(router.terminate().code(), Some(0));
}

#[test]
fn what_waits_for_an_uplink_is_there_after_stop_and_kill() {
    let upstream = Recorder::start();
    upstream.silent(true);
    let route = r#"FROM "factory/#" INTO $upstream"#;
    let mut router = Setup::new().uplink(upstream.address(), Version::V5).set("routes.all", route).start();
    router.connect(&v5("publisher")).publish_all("factory/a", (0..100).map(|it| it.to_string()));
    router.terminate();
    router.start_again();
    router.connect(&v5("publisher")).publish_all("factory/a", (100..200).map(|it| it.to_string()));
    router.kill();
    router.start_again();
    assert_eq!(router.backlog(), 200);
    // In this order: what it began to send on a connection that then ends would come twice.
    upstream.end_connections();
    upstream.silent(false);
    let record = upstream.wait_for(200);
    let expected: Vec<_> = (0..200).map(|it| it.to_string()).collect();
    assert_eq!(record.iter().map(harness::Received::text).collect::<Vec<_>>(), expected);
}

/// Lets no file of the router grow beyond this; it needs no rights to do so.
pub(crate) fn limit_files(router: &mut Router, bytes: &str) {
    let pid = router.process().id().to_string();
    let limit = format!("--fsize={bytes}:unlimited");
    let status = std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(status.expect("prlimit is part of util-linux").success());
}

#[test]
fn a_disk_that_refuses_for_a_while_delays_acknowledgements_and_loses_and_repeats_nothing() {
    const COUNT: usize = 300;
    let recorder = Recorder::start();
    let proxy = harness::Proxy::to(recorder.address());
    proxy.cut();
    let mut router = Setup::new()
        .uplink(proxy.address(), Version::V5)
        .set("routes.all", r#"FROM "factory/#" INTO $upstream"#)
        .start();
    let mut absent = router.connect(&lasting("absent"));
    absent.subscribe("factory/#", QOS_1);
    absent.disconnect();

    limit_files(&mut router, "262144");
    let mut publisher = router.connect(&v5("publisher"));
    let mut sent = Vec::new();
    for number in 0..COUNT {
        let payload = format!("{number} {}", "x".repeat(4_000));
        let publish = OutgoingPublish {
            topic: "factory/a",
            payload: payload.as_bytes(),
            qos: QOS_1,
            ..Default::default()
        };
        sent.extend(publisher.send(&publish));
    }
    until("the disk to refuse", || (router.metric("millrace_store_poisoned") == 1.0).then_some(()));
    assert_eq!(router.get("/readyz").0, 503);
    // A session cannot be stored meanwhile, but whoever needs no disk is served.
    let mut bystander = router.connect(&v5("bystander"));
    bystander.subscribe("local", QOS_1);
    let mut neighbour = router.connect(&v5("neighbour"));
    neighbour.publish("local", "as ever", QOS_0);
    assert_eq!(bystander.message().text(), "as ever");

    limit_files(&mut router, "unlimited");
    sent.into_iter().for_each(|packet_id| publisher.await_ack(packet_id));
    until("the disk to be well", || (router.get("/readyz").0 == 200).then_some(()));
    proxy.mend();
    let number = |text: &str| text.split(' ').next().and_then(|number| number.parse().ok());
    let forwarded: Vec<usize> =
        recorder.wait_for(COUNT).iter().filter_map(|message| number(message.text())).collect();
    assert_eq!(forwarded, (0..COUNT).collect::<Vec<_>>(), "each once and in order");
    // What the disk has is what memory had, also after the next start.
    router.kill();
    router.start_again();
    let texts = router.connect(&lasting("absent")).texts(COUNT);
    let kept: Vec<usize> = texts.iter().filter_map(|text| number(text)).collect();
    assert_eq!(kept, (0..COUNT).collect::<Vec<_>>());
}

/// A message for the uplink, too large for many of them to wait in memory.
fn for_the_uplink(text: &str) -> OutgoingPublish<'_> {
    OutgoingPublish { topic: "factory/a", payload: text.as_bytes(), qos: QOS_1, ..Default::default() }
}

/// [MQTT-3.12.4-1]: a client whose packet waits for the disk is answered all the same.
#[test]
fn while_the_disk_refuses_whoever_needs_no_disk_is_served_for_as_long_as_it_takes() {
    let recorder = Recorder::start();
    let proxy = harness::Proxy::to(recorder.address());
    proxy.cut();
    let mut router = Setup::new()
        .uplink(proxy.address(), Version::V5)
        .set("routes.all", r#"FROM "factory/#" INTO $upstream"#)
        .set("limits.commit_bytes_max", 65_536)
        .start();
    limit_files(&mut router, "262144");
    let large = "x".repeat(4_000);
    let mut filler = router.connect(&v5("filler"));
    let sent: Vec<_> = (0..150).filter_map(|_| filler.send(&for_the_uplink(&large))).collect();
    until("the disk to refuse", || (router.metric("millrace_store_poisoned") == 1.0).then_some(()));
    // Much more than may wait for the disk, of what need not wait for it.
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("local", QOS_1);
    let mut publisher = router.connect(&harness::v3("publisher"));
    for number in 0..100 {
        publisher.publish("local", format!("{number} {large}"), QOS_1);
        publisher.publish("factory/a", &large, QOS_0);
    }
    assert_eq!(subscriber.messages(100).len(), 100);
    // Who waits for the disk hears from us.
    let mut device = router.connect(&harness::v3("device"));
    let waits = device.send(&for_the_uplink("from the device")).expect("QoS 1 has an identifier");
    device.ping();
    router.wait_for("/withheld", 2);

    limit_files(&mut router, "unlimited");
    device.await_ack(waits);
    sent.into_iter().for_each(|packet_id| filler.await_ack(packet_id));
    until("nobody to wait", || (router.number("/withheld") == 0).then_some(()));
    // Each takes about 4 100 bytes, and the shard of their publisher may hold 64 KiB.
    let dropped = router.number("/counters/dropped_store_fails") as usize;
    assert!((60..=100).contains(&dropped), "{dropped} messages of QoS 0 were dropped for the route");
    proxy.mend();
    let expected = 151 + (100 - dropped);
    assert!(recorder.wait_for(expected).iter().any(|message| message.text() == "from the device"));
}
