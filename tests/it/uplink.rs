//! The way upstream through good and bad days: outages, repeats, windows, refusals; to Millrace, to mosquitto, to a recorder.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use harness::foreign::{Mosquitto, Subscriber};
use harness::{
    Connect, Nobody, OutgoingPublish, Proxy, QOS_1, Received, Recorder, Router, Setup, Version, until, v5,
};

const ROUTE: &str = r#"FROM "factory/#" INTO $upstream"#;

fn gateway(address: std::net::SocketAddr) -> Setup {
    Setup::new().uplink(address, Version::V5).set("routes.all", ROUTE)
}

fn numbers(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}

fn texts(messages: &[Received]) -> Vec<&str> {
    messages.iter().map(Received::text).collect()
}

#[track_caller]
fn expect_state(router: &Router, state: &str) {
    until(&format!("the uplink to be {state}"), || {
        (router.status()["uplinks"][0]["state"] == state).then_some(())
    });
}

/// Takes repeats out and expects the numbers from 0 to `count`, each after the one before it.
#[track_caller]
fn expect_all_in_order(messages: &[Received], count: usize) {
    let mut next = 0;
    for message in messages {
        let number: usize = message.text().parse().expect("a number");
        assert!(number <= next, "{number} came before {next}");
        next = next.max(number + 1);
    }
    assert_eq!(next, count);
}

#[test]
fn messages_reach_an_upstream_router_in_both_versions() {
    for version in [Version::V3, Version::V5] {
        let upstream = Router::with_shards(2);
        let mut subscriber = upstream.connect(&v5("subscriber"));
        subscriber.subscribe("factory/#", QOS_1);
        let router = Setup::new().uplink(upstream.address(), version).set("routes.all", ROUTE).start();
        router.connect(&v5("publisher")).publish_all("factory/a", numbers(0..200));
        assert_eq!(texts(&subscriber.messages(200)), numbers(0..200).collect::<Vec<_>>(), "{version}");
        router.wait_for("/uplinks/0/forwarded", 200);
        until("an empty lane", || (router.backlog() == 0).then_some(()));
    }
}

#[test]
fn what_comes_while_the_upstream_is_dead_waits_and_drains_in_order_beside_live_traffic() {
    let mut upstream = Router::with_shards(2);
    let historian = Connect { clean_start: false, session_expiry_secs: 600, ..v5("historian") };
    upstream.connect(&historian).subscribe("factory/#", QOS_1);
    let network = Proxy::to(upstream.address());
    let router = gateway(network.address()).start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish_all("factory/a", numbers(0..100));
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    upstream.kill();
    publisher.publish_all("factory/a", numbers(100..1_100));
    assert_eq!(router.backlog(), 1_000);
    expect_state(&router, "down");
    upstream.start_again();
    network.point_at(upstream.address());
    // Live traffic goes on while the backlog drains.
    publisher.publish_all("factory/a", numbers(1_100..2_100));
    let mut client = upstream.connect(&historian);
    assert!(client.greeting.session_present);
    let messages = client.messages(2_100);
    // The upstream had acknowledged everything before it died, so nothing of it may come again.
    assert_eq!(texts(&messages), numbers(0..2_100).collect::<Vec<_>>());
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    expect_state(&router, "up");
    assert!(router.number("/uplinks/0/reconnects") >= 1);
}

#[test]
fn a_cut_network_loses_nothing_and_repeats_only_what_was_in_flight() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let router = gateway(network.address()).set("uplink.plant.window", 10).start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish_all("factory/a", numbers(0..100));
    upstream.wait_for(100);
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    upstream.withhold(true);
    publisher.publish_all("factory/a", numbers(100..200));
    let before = upstream.wait_for(110);
    network.cut();
    upstream.withhold(false);
    network.mend();
    let record = upstream.wait_for(210);
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    assert_eq!(upstream.record().len(), 210);
    assert_eq!(texts(&before), numbers(0..110).collect::<Vec<_>>());
    assert_eq!(texts(&record[110..]), numbers(100..200).collect::<Vec<_>>());
    // [MQTT-3.3.1-1]: what was in flight is marked as a repeat, nothing else is.
    for (place, message) in record.iter().enumerate() {
        assert_eq!(message.dup, (110..120).contains(&place), "DUP of {} at {place}", message.text());
    }
}

#[test]
fn a_half_open_connection_is_noticed_and_replaced() {
    // Nothing comes and nothing fails: only the keep-alive tells.
    let upstream = Recorder::start();
    let router = gateway(upstream.address()).set("uplink.plant.keep_alive_secs", 1).start();
    expect_state(&router, "up");
    upstream.silent(true);
    router.connect(&v5("publisher")).publish_all("factory/a", numbers(0..10));
    expect_state(&router, "down");
    let error = router.status()["uplinks"][0]["last_error"].clone();
    assert!(error.as_str().is_some_and(|error| !error.is_empty()), "{error}");
    upstream.silent(false);
    expect_all_in_order(
        &until("all ten", || Some(upstream.record().clone()).filter(|it| it.len() >= 10)),
        10,
    );
}

#[test]
fn an_idle_uplink_pings_and_stays() {
    let upstream = Recorder::start();
    // Seconds between a ping and what ends the connection, for a machine that lets us wait.
    let router = gateway(upstream.address()).set("uplink.plant.keep_alive_secs", 4).start();
    expect_state(&router, "up");
    let begin = std::time::Instant::now();
    until("three keep-alive periods", || (begin.elapsed() > Duration::from_secs(12)).then_some(()));
    assert_eq!(upstream.connects(), 1);
    assert_eq!(router.number("/uplinks/0/reconnects"), 0);
}

#[test]
fn the_window_is_the_smaller_of_ours_and_the_upstreams() {
    for (ours, theirs, expected) in [(7, 65_535, 7), (50, 4, 4)] {
        let upstream = Recorder::with_limits(NonZeroU16::new(theirs).expect("not 0"), None);
        upstream.withhold(true);
        let router = gateway(upstream.address()).set("uplink.plant.window", ours).start();
        router.connect(&v5("publisher")).publish_all("factory/a", numbers(0..100));
        upstream.wait_for(expected);
        router.wait_for("/uplinks/0/inflight", expected as u64);
        // Nothing more comes until something is acknowledged: the lane keeps the rest.
        assert_eq!((upstream.record().len(), router.backlog()), (expected, 100));
        upstream.withhold(false);
        upstream.end_connections();
        expect_all_in_order(&upstream.wait_for(100 + expected), 100);
    }
}

#[test]
fn what_the_upstream_can_never_take_is_counted_and_the_rest_goes_on() {
    let upstream = Recorder::with_limits(NonZeroU16::MAX, NonZeroU32::new(200));
    let router = gateway(upstream.address()).start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("factory/a", "0", QOS_1);
    publisher.publish("factory/a", [b'x'; 300], QOS_1);
    publisher.publish("factory/a", "1", QOS_1);
    assert_eq!(texts(&upstream.wait_for(2)), ["0", "1"]);
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    router.wait_for("/uplinks/0/poisoned", 1);
    assert_eq!(router.number("/uplinks/0/dropped"), 0);
}

#[test]
fn a_topic_prefix_is_put_before_every_topic() {
    let upstream = Recorder::start();
    let router = gateway(upstream.address()).set("uplink.plant.topic_prefix", "plant7/").start();
    router.connect(&v5("publisher")).publish("factory/a", "x", QOS_1);
    assert_eq!(upstream.wait_for(1)[0].topic, "plant7/factory/a");
}

#[test]
fn a_pace_is_kept() {
    let upstream = Recorder::start();
    let router = gateway(upstream.address()).set("uplink.plant.pace_messages_per_sec", 100).start();
    expect_state(&router, "up");
    let begin = std::time::Instant::now();
    router.connect(&v5("publisher")).publish_all("factory/a", numbers(0..150));
    upstream.wait_for(150);
    let took = begin.elapsed();
    // 150 at 100 a second, the first tenth of a second for free; and not paced to death.
    assert!(took > Duration::from_millis(1_200), "took only {took:?}");
    assert!(took < Duration::from_secs(20), "took {took:?}");
}

#[test]
fn an_upstream_that_refuses_the_connection_is_named_in_status_and_asked_again() {
    let closed = Setup::new().set("auth.anonymous", false).start();
    let open = Router::with_shards(1);
    let network = Proxy::to(closed.address());
    let router = gateway(network.address()).start();
    router.connect(&v5("publisher")).publish("factory/a", "kept", QOS_1);
    let error = until("the refusal in /status", || {
        router.status()["uplinks"][0]["last_error"]
            .as_str()
            .filter(|it| it.contains("refuses"))
            .map(str::to_owned)
    });
    assert!(
        error.contains("Not authorized") || error.contains("NotAuthorized") || error.contains("0x87"),
        "{error}"
    );
    assert_eq!(router.backlog(), 1);
    let mut subscriber = open.connect(&v5("subscriber"));
    subscriber.subscribe("factory/#", QOS_1);
    network.point_at(open.address());
    assert_eq!(subscriber.message().text(), "kept");
}

#[test]
fn an_upstream_that_nobody_runs_yet_is_found_when_it_comes() {
    let nobody = Nobody::new();
    let network = Proxy::to(nobody.address());
    let router = gateway(network.address()).start();
    router.connect(&v5("publisher")).publish_all("factory/a", numbers(0..50));
    expect_state(&router, "down");
    let upstream = Recorder::start();
    network.point_at(upstream.address());
    assert_eq!(texts(&upstream.wait_for(50)), numbers(0..50).collect::<Vec<_>>());
}

#[test]
fn two_uplinks_each_get_what_leads_to_them_and_one_outage_does_not_stop_the_other() {
    let (plant, cloud) = (Recorder::start(), Recorder::start());
    plant.silent(true);
    let router = Setup::new()
        .uplink(plant.address(), Version::V5)
        .set("uplink.cloud.url", format!("mqtt://{}", cloud.address()))
        .set("uplink.cloud.backoff_min_ms", 20)
        .set("routes.plant", r#"FROM "factory/#" INTO uplink("plant")"#)
        .set("routes.cloud", r#"FROM "factory/+" INTO uplink("cloud")"#)
        .start();
    router.connect(&v5("publisher")).publish_all("factory/a", numbers(0..100));
    assert_eq!(texts(&cloud.wait_for(100)), numbers(0..100).collect::<Vec<_>>());
    assert!(plant.record().is_empty());
    plant.silent(false);
    assert_eq!(texts(&plant.wait_for(100)), numbers(0..100).collect::<Vec<_>>());
}

#[test]
fn messages_of_one_publisher_go_upstream_in_order_whatever_its_shard() {
    let upstream = Recorder::start();
    let router = gateway(upstream.address()).shards(3).start();
    let (publishers, messages) = (8, 200);
    std::thread::scope(|scope| {
        for publisher in 0..publishers {
            let router = &router;
            scope.spawn(move || {
                let mut client = router.connect(&v5(&format!("publisher-{publisher}")));
                client.publish_all(&format!("factory/{publisher}"), numbers(0..messages));
            });
        }
    });
    let record = upstream.wait_for(publishers * messages);
    for publisher in 0..publishers {
        let topic = format!("factory/{publisher}");
        let mine: Vec<_> =
            record.iter().filter(|message| message.topic == topic).map(Received::text).collect();
        assert_eq!(mine, numbers(0..messages).collect::<Vec<_>>(), "{topic}");
    }
}

/// [MQTT-7.0.0-1] [MQTT3-7.0.0-1]
#[test]
fn an_outage_of_mosquitto_as_upstream_is_waited_out() {
    for version in [Version::V3, Version::V5] {
        let mut upstream = Mosquitto::start();
        let network = Proxy::to(upstream.address());
        let router = Setup::new().uplink(network.address(), version).set("routes.all", ROUTE).start();
        let subscriber = Subscriber::start(upstream.address(), version, 3, &["-t", "factory/#", "-q", "1"]);
        let mut publisher = router.connect(&v5("publisher"));
        publisher.publish_all("factory/a", numbers(0..3));
        assert_eq!(subscriber.messages(), ["factory/a|1|0", "factory/a|1|1", "factory/a|1|2"], "{version}");
        until("an empty lane", || (router.backlog() == 0).then_some(()));
        network.cut();
        upstream.kill();
        publisher.publish_all("factory/a", numbers(3..6));
        assert_eq!(router.backlog(), 3);
        upstream.start_again();
        // It forgot everything; its subscriber must be there before the messages are.
        let subscriber = Subscriber::start(upstream.address(), version, 3, &["-t", "factory/#", "-q", "1"]);
        network.mend();
        assert_eq!(subscriber.messages(), ["factory/a|1|3", "factory/a|1|4", "factory/a|1|5"], "{version}");
        until("an empty lane", || (router.backlog() == 0).then_some(()));
    }
}

#[test]
fn a_large_backlog_drains_to_mosquitto_in_order() {
    let upstream = Mosquitto::start();
    let network = Proxy::to(upstream.address());
    network.cut();
    let router = Setup::new().uplink(network.address(), Version::V5).set("routes.all", ROUTE).start();
    router.connect(&v5("publisher")).publish_all("factory/a", numbers(0..5_000));
    let mut subscriber = harness::Client::connect(upstream.address(), &v5("subscriber"));
    subscriber.subscribe("factory/#", QOS_1);
    network.mend();
    expect_all_in_order(&subscriber.messages(5_000), 5_000);
}

#[test]
fn an_uplink_of_a_router_to_itself_is_no_endless_loop_for_other_topics() {
    // Somebody will configure it. The prefix keeps it from feeding itself; it must work as configured.
    let first = Recorder::start();
    let network = Proxy::to(first.address());
    let router = gateway(network.address()).set("uplink.plant.topic_prefix", "mirror/").start();
    // A connection that is only being made would survive the cut.
    until("the uplink to be up", || (router.status()["uplinks"][0]["state"] == "up").then_some(()));
    network.point_at(router.address());
    network.cut();
    network.mend();
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("mirror/#", QOS_1);
    let publish = OutgoingPublish { topic: "factory/a", payload: b"x", qos: QOS_1, ..Default::default() };
    router.connect(&v5("publisher")).publish_with(&publish);
    assert_eq!(subscriber.message().topic, "mirror/factory/a");
    until("an empty lane", || (router.backlog() == 0).then_some(()));
}
