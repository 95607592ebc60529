//! QoS 2 upstream: each message once, whatever happens to connections in between.

use harness::foreign::Mosquitto;
use harness::{Client, Connect, Proxy, QOS_2, Router, Setup, Version, until, v5};

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn subscriber(upstream: &Mosquitto) -> Client {
    let connect = Connect { session_expiry_secs: 600, ..v5("historian") };
    let mut client = Client::connect(upstream.address(), &connect);
    client.subscribe("factory/#", QOS_2);
    client
}

fn gateway(network: &Proxy, version: Version) -> Setup {
    Setup::new()
        .uplink(network.address(), version)
        .set("uplink.plant.qos", "\"2\"")
        .set("uplink.plant.window", 20)
        .set("routes.all", r#"FROM "factory/#" INTO $upstream"#)
}

#[track_caller]
fn drained(router: &Router) {
    until("an empty lane", || (router.backlog() == 0).then_some(()));
}

#[test]
fn a_message_of_qos_2_comes_once_over_connections_that_are_cut_again_and_again() {
    for version in [Version::V3, Version::V5] {
        let upstream = Mosquitto::start();
        let mut historian = subscriber(&upstream);
        let network = Proxy::to(upstream.address());
        let router = gateway(&network, version).start();
        let mut publisher = router.connect(&v5("publisher"));
        let mut came = Vec::new();
        for round in 0..10 {
            for number in numbers(round * 50..(round + 1) * 50) {
                publisher.publish("factory/a", number, QOS_2);
            }
            // Wherever the exchanges are now.
            let before = router.number("/uplinks/0/reconnects");
            network.cut();
            network.mend();
            router.wait_for("/uplinks/0/reconnects", before + 1);
        }
        came.extend(historian.texts(500));
        assert_eq!(came, numbers(0..500), "{version}: once, in order");
        drained(&router);
        assert!(
            historian.message_within(std::time::Duration::from_millis(300)).is_none(),
            "{version}: a repeat"
        );
    }
}

#[test]
fn after_a_crash_nothing_is_lost_and_nothing_new_is_taken_for_a_repeat() {
    let upstream = Mosquitto::start();
    let mut historian = subscriber(&upstream);
    let network = Proxy::to(upstream.address());
    let mut router = gateway(&network, Version::V5).start();
    for number in numbers(0..40) {
        router.connect(&v5("publisher")).publish("factory/a", number, QOS_2);
    }
    network.pause();
    for number in numbers(40..80) {
        router.connect(&v5("publisher")).publish("factory/a", number, QOS_2);
    }
    router.kill();
    network.resume();
    router.start_again();
    for number in numbers(80..120) {
        router.connect(&v5("publisher")).publish("factory/a", number, QOS_2);
    }
    drained(&router);
    let mut seen = std::collections::BTreeSet::new();
    until("all 120", || {
        while let Some(message) = historian.message_within(std::time::Duration::from_millis(20)) {
            seen.insert(message.text().parse::<usize>().expect("a number"));
        }
        (seen.len() == 120).then_some(())
    });
}

/// What comes from upstream at QoS 2 is published here once, wherever connections are cut in its exchange.
#[test]
fn a_message_of_qos_2_from_upstream_comes_once_over_connections_that_are_cut_again_and_again() {
    for version in [Version::V3, Version::V5] {
        let upstream = Mosquitto::start();
        let network = Proxy::to(upstream.address());
        let router = Setup::new()
            .uplink(network.address(), version)
            .set("uplink.plant.topic_prefix", "from/gw1/")
            .set("uplink.plant.inbound", r#"["cmd/# qos=2"]"#)
            .set("routes.all", r#"FROM "factory/#" INTO $upstream"#)
            .start();
        let mut operator =
            router.connect(&Connect { clean_start: false, session_expiry_secs: 600, ..v5("operator") });
        operator.subscribe("cmd/#", QOS_2);
        let mut plant = Client::connect(upstream.address(), &v5("plant"));
        until("a subscription", || {
            plant.publish("cmd/first", "0", QOS_2);
            operator.message_within(std::time::Duration::from_millis(200))
        });
        for round in 0..10 {
            for number in numbers(round * 30..(round + 1) * 30) {
                plant.publish("cmd/a", number, QOS_2);
            }
            // Wherever the exchanges are now.
            let before = router.number("/uplinks/0/reconnects");
            network.cut();
            network.mend();
            router.wait_for("/uplinks/0/reconnects", before + 1);
        }
        let mut came = Vec::new();
        while came.len() < 300 {
            let message = operator.message();
            if message.topic == "cmd/a" {
                assert_eq!(message.qos, QOS_2, "{version}");
                came.push(message.text().to_owned());
            }
        }
        assert_eq!(came, numbers(0..300), "{version}: once, in order");
        let more = operator.message_within(std::time::Duration::from_millis(500));
        assert!(more.is_none(), "{version}: a repeat: {more:?}");
    }
}
