//! What of a message passes through unchanged, and what is counted down on the way.

use std::time::{Duration, Instant};

use harness::{
    BlockBuilder, Connect, OutgoingPublish, QOS_0, QOS_1, Qos, Received, Recorder, Router, Setup, Version,
    until, v3, v5,
};

/// A block with everything that must pass on unaltered.
fn block() -> BlockBuilder {
    let mut block = BlockBuilder::new();
    block.payload_is_utf8(true);
    let fill = |block: &mut BlockBuilder| -> Result<(), wire::Unencodable> {
        block.content_type("application/json")?;
        block.response_topic("answers/7")?;
        block.correlation(&[0, 1, 2, 255])?;
        // In order, and a name may come twice [MQTT-3.3.2-18].
        block.user("b", "1")?.user("a", "ü")?.user("b", "2")?.user("", "")?;
        Ok(())
    };
    fill(&mut block).expect("short strings");
    block
}

#[track_caller]
fn check_unaltered(message: &Received) {
    // [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-20]
    let properties = message.properties();
    assert_eq!(properties.payload_is_utf8(), Some(true));
    assert_eq!(properties.content_type(), Some("application/json"));
    assert_eq!(properties.response_topic(), Some("answers/7"));
    assert_eq!(properties.correlation(), Some(&[0, 1, 2, 255][..]));
    assert_eq!(message.user_properties(), [("b", "1"), ("a", "ü"), ("b", "2"), ("", "")]);
    assert_eq!(message.block, block().as_bytes());
}

fn publication(block: &BlockBuilder, qos: Qos) -> OutgoingPublish<'_> {
    OutgoingPublish {
        topic: "factory/a",
        payload: b"{}",
        qos,
        properties: block.as_bytes(),
        ..Default::default()
    }
}

#[test]
fn properties_reach_local_subscribers_unaltered() {
    let block = block();
    for shards in 1..=3 {
        let router = Router::with_shards(shards);
        let mut subscribers: Vec<_> = (0..6).map(|it| router.connect(&v5(&format!("s-{it}")))).collect();
        for subscriber in &mut subscribers {
            subscriber.subscribe("factory/#", QOS_1);
        }
        let mut old = router.connect(&v3("old"));
        old.subscribe("factory/#", QOS_1);
        let mut publisher = router.connect(&v5("publisher"));
        for qos in [QOS_0, QOS_1] {
            publisher.publish_with(&publication(&block, qos));
            for subscriber in &mut subscribers {
                check_unaltered(&subscriber.message());
            }
            assert_eq!(old.message().block, [0; 0], "3.1.1 has none");
        }
    }
}

#[test]
fn properties_survive_a_wait_and_a_restart() {
    let mut router = Router::with_shards(2);
    let lasting = Connect { clean_start: false, session_expiry_secs: 60, ..v5("client") };
    let mut client = router.connect(&lasting);
    client.subscribe("factory/#", QOS_1);
    client.disconnect();
    router.connect(&v5("publisher")).publish_with(&publication(&block(), QOS_1));
    router.kill();
    router.start_again();
    check_unaltered(&router.connect(&lasting).message());
}

#[test]
fn properties_reach_the_upstream_unaltered() {
    let upstream = Recorder::start();
    let route = r#"FROM "factory/#" INTO $upstream"#;
    let setup = Setup::new().uplink(upstream.address(), Version::V5).set("routes.all", route);
    let router = setup.clone().set("uplink.plant.id_property", "").start();
    router.connect(&v5("publisher")).publish_with(&publication(&block(), QOS_1));
    check_unaltered(&upstream.wait_for(1)[0]);
    // The id comes behind them.
    let router = setup.start();
    router.connect(&v5("publisher")).publish_with(&publication(&block(), QOS_1));
    let with_id = &upstream.wait_for(2)[1];
    assert!(with_id.block.starts_with(block().as_bytes()));
    assert_eq!(with_id.user_properties().len(), 5);
}

#[test]
fn properties_pass_through_a_local_route() {
    let route = r#"FROM "factory/#" INTO topic "copies/{$topic[1]}""#;
    let router = Setup::new().set("routes.copy", route).start();
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("copies/+", QOS_1);
    router.connect(&v5("publisher")).publish_with(&publication(&block(), QOS_1));
    let message = subscriber.message();
    assert_eq!(message.topic, "copies/a");
    check_unaltered(&message);
}

fn expiring(secs: u32) -> OutgoingPublish<'static> {
    OutgoingPublish {
        topic: "factory/a",
        payload: b"x",
        qos: QOS_1,
        expiry_secs: Some(secs),
        ..Default::default()
    }
}

fn lasting(client_id: &str) -> Connect {
    Connect { clean_start: false, session_expiry_secs: 600, ..v5(client_id) }
}

/// Lets time pass that messages are to notice.
fn pass(time: Duration) {
    let begin = Instant::now();
    until("time to pass", || (begin.elapsed() >= time).then_some(()));
}

#[test]
fn an_expiry_that_has_not_begun_to_run_is_passed_on_as_it_came() {
    let router = Router::with_shards(2);
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("factory/#", QOS_1);
    router.connect(&v5("publisher")).publish_with(&expiring(100));
    let secs = subscriber.message().properties().expiry_secs();
    assert!(secs.is_some_and(|secs| (98..=100).contains(&secs)), "{secs:?}");
}

#[test]
fn the_time_a_message_waited_is_taken_off_its_expiry() {
    // [MQTT-3.3.2-6]
    let mut router = Router::with_shards(2);
    let mut client = router.connect(&lasting("client"));
    client.subscribe("factory/#", QOS_1);
    client.disconnect();
    router.connect(&v5("publisher")).publish_with(&expiring(100));
    router.connect(&v5("publisher")).publish_with(&expiring(u32::MAX));
    let begin = Instant::now();
    router.terminate();
    pass(Duration::from_millis(1_100));
    router.start_again();
    let messages = router.connect(&lasting("client")).messages(2);
    let waited = begin.elapsed().as_secs() as u32;
    let secs: Vec<_> = messages.iter().map(|it| it.properties().expiry_secs().unwrap_or_default()).collect();
    assert!((100 - waited - 1..=99).contains(&secs[0]), "{secs:?} after {waited} s");
    assert!((u32::MAX - waited - 1..u32::MAX).contains(&secs[1]), "{secs:?} after {waited} s");
}

#[test]
fn a_message_whose_expiry_is_over_is_not_delivered_and_counted() {
    // [MQTT-3.3.2-5]
    let router = Router::with_shards(2);
    let mut client = router.connect(&lasting("client"));
    client.subscribe("factory/#", QOS_1);
    client.disconnect();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish_with(&expiring(1));
    publisher.publish("factory/a", "lasting", QOS_1);
    publisher.publish_with(&expiring(1));
    pass(Duration::from_millis(1_100));
    publisher.publish("factory/a", "last", QOS_1);
    assert_eq!(router.connect(&lasting("client")).texts(2), ["lasting", "last"]);
    let dropped = || router.number("/counters/dropped_expired") + router.number("/store/expired");
    until("two expired messages to be counted", || (dropped() >= 2).then_some(()));
    assert_eq!(dropped(), 2, "each is counted once");
}

#[test]
fn a_message_that_expires_in_the_queue_of_a_connected_client_is_not_delivered() {
    let router = Router::with_shards(2);
    let connect = Connect { receive_max: std::num::NonZeroU16::MIN, ..v5("slow") };
    let mut client = router.connect(&connect).manual();
    client.subscribe("factory/#", QOS_1);
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("factory/a", "first", QOS_1);
    publisher.publish_with(&expiring(1));
    publisher.publish("factory/a", "last", QOS_1);
    let first = client.message();
    pass(Duration::from_millis(1_100));
    client.acknowledge(&first);
    assert_eq!(client.message().text(), "last");
}

#[test]
fn the_upstream_hears_what_is_left_of_an_expiry_and_nothing_of_what_is_over() {
    let upstream = Recorder::start();
    upstream.silent(true);
    let route = r#"FROM "factory/#" INTO $upstream"#;
    let router = Setup::new().uplink(upstream.address(), Version::V5).set("routes.all", route).start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish_with(&expiring(1));
    publisher.publish_with(&expiring(100));
    publisher.publish("factory/a", "last", QOS_1);
    pass(Duration::from_millis(1_100));
    upstream.silent(false);
    let record = upstream.wait_for(2);
    let secs = record[0].properties().expiry_secs();
    assert!(secs.is_some_and(|secs| (80..=99).contains(&secs)), "{secs:?}");
    assert_eq!(record[1].text(), "last");
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    assert_eq!(router.number("/uplinks/0/dropped") + router.number("/store/expired"), 1);
}
