//! What messages look like at an upstream, what comes from there, and that nothing goes round in circles: with mosquitto over
//! TLS, with other routers, and with a recorder.

use std::time::Duration;

use harness::foreign::{Mosquitto, Subscriber, publish};
use harness::{
    Authority, Client, Connection, Nobody, OutgoingPublish, Proxy, QOS_1, Recorder, Router, Setup, Version,
    until, v3, v5,
};

const ROUTE: &str = r#"FROM "factory/#" INTO $upstream"#;

fn gateway(address: std::net::SocketAddr, version: Version) -> Setup {
    Setup::new().uplink(address, version).set("gateway.name", "gw1").set("routes.all", ROUTE)
}

#[track_caller]
fn expect_up(router: &Router) {
    until("the uplink to be up", || (router.status()["uplinks"][0]["state"] == "up").then_some(()));
}

#[test]
fn a_map_makes_topics_qos_and_retain_at_mosquitto_over_tls_and_properties_arrive_in_order() {
    let authority = Authority::new();
    let upstream = Mosquitto::start_tls(&authority, &authority.server("plant", &["plant.example"], 30));
    let own = authority.client("gateway", 7);
    let router = Setup::new()
        .set("gateway.name", "gw1")
        .set("uplink.plant.url", format!("mqtts://{}", upstream.address()))
        .set("uplink.plant.ca", authority.file().display())
        .set("uplink.plant.cert", own.cert.display())
        .set("uplink.plant.key", own.key.display())
        .set("uplink.plant.topic_prefix", "north/")
        .set(
            "uplink.plant.topics",
            r#"["factory/+/alarm -> alarms/{gateway}/{topic[1]} retain=always", "factory/raw/# qos=0", "factory/# -> data/{property:line}/{clientId}"]"#,
        )
        .set("routes.all", ROUTE)
        .start();
    let connection = Connection::open_tls(upstream.address(), Version::V5, &authority.trust(Some(&own)));
    let mut subscriber =
        Client::over(connection.expect("it takes us"), &v5("subscriber")).expect("a CONNACK");
    subscriber.subscribe("north/#", QOS_1);
    let mut publisher = router.connect(&v5("press7"));
    let mut block = wire::BlockBuilder::new();
    block.user("b", "2").and_then(|it| it.content_type("text/plain")).expect("short");
    block.user("line", "3").and_then(|it| it.user("b", "1")).expect("short");
    let publish =
        OutgoingPublish { payload: b"x", qos: QOS_1, properties: block.as_bytes(), ..Default::default() };
    for topic in ["factory/a/alarm", "factory/raw/1", "factory/b"] {
        publisher.publish_with(&OutgoingPublish { topic, ..publish });
    }
    let came = subscriber.messages(3);
    let seen: Vec<_> = came.iter().map(|it| (&*it.topic, it.qos as u8)).collect();
    assert_eq!(seen, [("north/alarms/gw1/a", 1), ("north/factory/raw/1", 0), ("north/data/3/press7", 1)]);
    for message in &came {
        let [first, second, third, id] = message.user_properties()[..] else { panic!("{message:?}") };
        assert_eq!([first, second, third], [("b", "2"), ("line", "3"), ("b", "1")]);
        assert_eq!(id.0, "millrace-id");
        assert!(id.1.starts_with("gw1/"), "{}", id.1);
        assert_eq!(message.properties().content_type(), Some("text/plain"));
    }
    // What the entry says of RETAIN, not what was published.
    let late = Connection::open_tls(upstream.address(), Version::V5, &authority.trust(Some(&own)));
    let mut late = Client::over(late.expect("it takes us"), &v5("late")).expect("a CONNACK");
    late.subscribe("north/#", QOS_1);
    assert_eq!(late.message().topic, "north/alarms/gw1/a");
}

#[test]
fn a_missing_field_moves_its_message_aside_with_a_sentence_and_the_rest_goes_on() {
    let upstream = Recorder::start();
    let router = gateway(upstream.address(), Version::V5)
        .set("uplink.plant.topics", r#"["factory/# -> data/{property:line}"]"#)
        .start();
    let mut publisher = router.connect(&v5("press7"));
    publisher.publish("factory/a", "without", QOS_1);
    let mut block = wire::BlockBuilder::new();
    block.user("line", "3").expect("short");
    publisher.publish_with(&OutgoingPublish {
        topic: "factory/a",
        payload: b"with",
        qos: QOS_1,
        properties: block.as_bytes(),
        ..Default::default()
    });
    assert_eq!(upstream.wait_for(1)[0].topic, "data/3");
    router.wait_for("/uplinks/0/missing_fields", 1);
    router.wait_for("/uplinks/0/poisoned", 1);
    assert_eq!(router.metric(r#"millrace_uplink_missing_fields_total{name="plant"}"#), 1.0);
    let log = router.log();
    assert!(log.contains("entry 1 of the uplink's topics needs a property"), "{log}");
    until("an empty lane", || (router.backlog() == 0).then_some(()));
}

#[test]
fn in_3_1_1_properties_are_dropped_and_counted_or_packed_as_configured() {
    let mut block = wire::BlockBuilder::new();
    block.content_type("text/plain").and_then(|it| it.user("line", "3")).expect("short");
    for (rule, topic, payload) in [
        ("drop", "factory/a", "x"),
        ("topic", "factory/a/%24.ct=text%2Fplain&line=3", "x"),
        ("json", "factory/a", r#""properties":[["$.ct","text/plain"],["line","3"]"#),
    ] {
        let upstream = Recorder::start();
        let router = gateway(upstream.address(), Version::V3)
            .set("uplink.plant.properties", rule)
            .set("uplink.plant.id_property", "")
            .start();
        router.connect(&v5("press7")).publish_with(&OutgoingPublish {
            topic: "factory/a",
            payload: b"x",
            qos: QOS_1,
            properties: block.as_bytes(),
            ..Default::default()
        });
        let came = &upstream.wait_for(1)[0];
        assert_eq!(came.topic, topic, "{rule}");
        assert!(came.text().contains(payload), "{rule}: {}", came.text());
        router.wait_for("/uplinks/0/properties_dropped", u64::from(rule == "drop"));
    }
}

#[test]
fn a_repeat_has_dup_and_the_id_of_the_first_also_after_a_crash() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let mut router = gateway(network.address(), Version::V5).start();
    upstream.withhold(true);
    router.connect(&v5("publisher")).publish_all("factory/a", (0..5).map(|number| number.to_string()));
    upstream.wait_for(5);
    network.cut();
    network.mend();
    let record = upstream.wait_for(10);
    upstream.withhold(false);
    router.kill();
    router.start_again();
    let record = [record, upstream.wait_for(15)[10..].to_vec()].concat();
    // Each id in the order in which it came: new, again on the next connection with DUP, and again after the restart, which does
    // not know any more that it was sent.
    let mut of_id: std::collections::BTreeMap<String, Vec<(&str, bool)>> = Default::default();
    let mut first = Vec::new();
    for message in &record {
        let id = message.user_properties().last().map(|it| it.1.to_owned()).expect("an id");
        let came = of_id.entry(id).or_default();
        if came.is_empty() {
            first.push(message.text());
        }
        came.push((message.text(), message.dup));
    }
    assert_eq!(first, ["0", "1", "2", "3", "4"], "each message has its own");
    for (id, came) in of_id {
        let text = came[0].0;
        assert_eq!(came, [(text, false), (text, true), (text, false)], "{id}");
    }
    until("an empty lane", || (router.backlog() == 0).then_some(()));
}

#[test]
fn what_mosquitto_has_for_us_is_published_here_and_acknowledged_after_our_own_promise() {
    for version in [Version::V3, Version::V5] {
        let upstream = Mosquitto::start();
        let router = gateway(upstream.address(), version)
            .set("uplink.plant.topic_prefix", "from/gw1/")
            .set("uplink.plant.inbound", r#"["cmd/gw1/# -> commands/{topic[2..]}"]"#)
            .set("routes.keep", r#"FROM "commands/#" INTO topic "kept/{$topic[1]}""#)
            .start();
        expect_up(&router);
        let mut subscriber = router.connect(&v5("subscriber"));
        subscriber.subscribe("commands/#", QOS_1);
        // Until its subscription is there.
        until("a command", || {
            publish(upstream.address(), version, &["-t", "cmd/gw1/press/stop", "-m", "now", "-q", "1"]);
            subscriber.message_within(Duration::from_millis(200)).map(|message| {
                assert_eq!((&*message.topic, message.text()), ("commands/press/stop", "now"), "{version}");
            })
        });
        router.wait_for("/uplinks/0/inbound/published", 1);
    }
}

#[test]
fn what_comes_while_the_router_is_dead_is_not_lost() {
    let upstream = Router::with_shards(1);
    let mut router = gateway(upstream.address(), Version::V5)
        .set("uplink.plant.topic_prefix", "from/gw1/")
        .set("uplink.plant.inbound", r#"["cmd/#"]"#)
        .start();
    let historian = harness::Connect { clean_start: false, session_expiry_secs: 600, ..v5("historian") };
    router.connect(&historian).subscribe("cmd/#", QOS_1);
    expect_up(&router);
    let mut publisher = upstream.connect(&v5("publisher"));
    until("a subscription", || {
        publisher.publish("cmd/first", "0", QOS_1);
        (router.number("/uplinks/0/inbound/published") > 0).then_some(())
    });
    router.kill();
    publisher.publish_all("cmd/then", (0..100).map(|number| number.to_string()));
    router.start_again();
    let mut client = router.connect(&historian);
    let mut seen = Vec::new();
    until("all of them", || {
        while let Some(message) = client.message_within(Duration::from_millis(100)) {
            if message.topic == "cmd/then" {
                seen.push(message.text().to_owned());
            }
        }
        (seen.len() >= 100).then_some(())
    });
    seen.dedup();
    assert_eq!(seen, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn an_inbound_topic_that_is_taken_out_does_not_come_any_more() {
    let upstream = Router::with_shards(1);
    let mut router = gateway(upstream.address(), Version::V5)
        .set("uplink.plant.topic_prefix", "from/gw1/")
        .set("uplink.plant.inbound", r#"["cmd/#", "old/#"]"#)
        .start();
    let mut publisher = upstream.connect(&v5("publisher"));
    until("a subscription", || {
        publisher.publish("old/a", "0", QOS_1);
        (router.number("/uplinks/0/inbound/published") > 0).then_some(())
    });
    router.terminate();
    router.reconfigure("uplink.plant.inbound", r#"["cmd/#"]"#);
    router.start_again();
    let count = |what: &str| router.number(&format!("/uplinks/0/inbound/{what}"));
    until("only what is asked for", || {
        let (unmapped, published) = (count("unmapped"), count("published"));
        publisher.publish("old/a", "1", QOS_1);
        publisher.publish("cmd/a", "1", QOS_1);
        router.wait_for("/uplinks/0/inbound/published", published + 1);
        (count("unmapped") == unmapped).then_some(())
    });
}

#[test]
fn our_own_messages_do_not_come_back_from_mosquitto_in_either_version() {
    for (version, rule) in [(Version::V5, ""), (Version::V3, "topic"), (Version::V3, "json")] {
        let upstream = Mosquitto::start();
        let mut setup = gateway(upstream.address(), version).set("uplink.plant.inbound", r#"["factory/#"]"#);
        if !rule.is_empty() {
            setup = setup.set("uplink.plant.properties", rule);
        }
        let router = setup.start();
        expect_up(&router);
        let watcher = Subscriber::start(upstream.address(), Version::V5, 21, &["-t", "factory/#", "-q", "1"]);
        let mut subscriber = router.connect(&v5("subscriber"));
        subscriber.subscribe("factory/#", QOS_1);
        router.connect(&v3("publisher")).publish_all("factory/a", (0..20).map(|number| number.to_string()));
        assert_eq!(subscriber.texts(20), (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
        until("an empty lane", || (router.backlog() == 0).then_some(()));
        // One from somebody else comes after all of ours: had they come back, they would have been before it.
        publish(upstream.address(), Version::V5, &["-t", "factory/b", "-m", "other", "-q", "1"]);
        let last = subscriber.message();
        assert_eq!((&*last.topic, last.text()), ("factory/b", "other"), "{version} {rule}");
        // And it did not go back there: the watcher has 20 of ours and one of its own, once.
        assert_eq!(watcher.messages().len(), 21, "{version} {rule}");
        router.wait_for("/uplinks/0/inbound/loops_prevented", if version == Version::V5 { 1 } else { 21 });
    }
}

#[test]
fn two_bridges_over_two_brokers_make_no_ring() {
    // gw1 sends to both brokers and takes from both; a bridge of mosquitto's kind, played by a router, joins the two.
    let (one, two) = (Mosquitto::start(), Mosquitto::start());
    let bridge = Setup::new()
        .set("uplink.one.url", format!("mqtt://{}", one.address()))
        .set("uplink.one.inbound", r#"["ring/#"]"#)
        .set("uplink.two.url", format!("mqtt://{}", two.address()))
        .set("routes.over", r#"FROM "ring/#" INTO uplink("two")"#)
        .start();
    let router = Setup::new()
        .set("uplink.one.url", format!("mqtt://{}", one.address()))
        .set("uplink.one.client_id", "gw1-one")
        .set("uplink.two.url", format!("mqtt://{}", two.address()))
        .set("uplink.two.client_id", "gw1-two")
        .set("uplink.two.inbound", r#"["ring/#"]"#)
        .set("routes.out", r#"FROM "ring/#" INTO uplink("one")"#)
        .start();
    for router in [&bridge, &router] {
        until("both uplinks to be up", || {
            let status = router.status();
            (status["uplinks"][0]["state"] == "up" && status["uplinks"][1]["state"] == "up").then_some(())
        });
    }
    router.connect(&v5("publisher")).publish("ring/a", "once", QOS_1);
    until("the loop to be cut", || (router.number("/uplinks/1/inbound/loops_prevented") == 1).then_some(()));
    assert_eq!(router.number("/uplinks/0/forwarded"), 1);
    assert_eq!(router.number("/uplinks/1/inbound/published"), 0);
}

#[test]
fn with_rules_what_comes_in_needs_the_right_to() {
    let broker = Mosquitto::start();
    let router = gateway(broker.address(), Version::V5)
        .set("uplink.plant.topic_prefix", "from/gw1/")
        .set("uplink.plant.inbound", r#"["cmd/#", "news/#"]"#)
        .set("auth.acl", r#"["allow user=$uplink/plant publish cmd/#"]"#)
        .start();
    expect_up(&router);
    until("one that may and one that may not", || {
        publish(broker.address(), Version::V5, &["-t", "cmd/a", "-m", "1", "-q", "1"]);
        publish(broker.address(), Version::V5, &["-t", "news/a", "-m", "1", "-q", "1"]);
        let inbound = &router.status()["uplinks"][0]["inbound"];
        (inbound["published"].as_u64() > Some(0) && inbound["refused"].as_u64() > Some(0)).then_some(())
    });
}

#[test]
fn a_parent_gets_everything_as_it_is_and_each_hop_adds_its_id() {
    let top = Recorder::start();
    let parent = Setup::new()
        .uplink(top.address(), Version::V5)
        .set("gateway.name", "parent")
        .set("routes.all", ROUTE);
    let mut parent = parent.start();
    let network = Proxy::to(parent.address());
    let child = Setup::new()
        .uplink(network.address(), Version::V5)
        .set("uplink.plant.kind", "parent")
        .set("gateway.name", "child")
        .set("routes.all", ROUTE)
        .start();
    let mut block = wire::BlockBuilder::new();
    block
        .user("b", "2")
        .and_then(|it| it.user("a", "1"))
        .and_then(|it| it.correlation(&[0, 255]))
        .expect("short");
    let mut publisher = child.connect(&v5("press7"));
    for number in 0..100 {
        if number == 50 {
            // The level above dies and comes back; nothing is lost.
            parent.kill();
        }
        let payload = number.to_string();
        publisher.publish_with(&OutgoingPublish {
            topic: "factory/a/b",
            payload: payload.as_bytes(),
            qos: QOS_1,
            retain: true,
            properties: block.as_bytes(),
            ..Default::default()
        });
    }
    parent.start_again();
    network.point_at(parent.address());
    until("both lanes to be empty", || (child.backlog() == 0 && parent.backlog() == 0).then_some(()));
    let record = top.record().clone();
    let mut first = std::collections::BTreeMap::new();
    for message in &record {
        let [b, a, child, parent] = message.user_properties()[..] else { panic!("{message:?}") };
        assert_eq!([b, a], [("b", "2"), ("a", "1")]);
        assert!(child.1.starts_with("child/") && parent.1.starts_with("parent/"), "{child:?} {parent:?}");
        assert_eq!(message.properties().correlation(), Some(&[0, 255][..]));
        assert!(message.retain && message.topic == "factory/a/b");
        first.insert(child.1.to_owned(), message.text().to_owned());
    }
    // The first id is end to end: by it repeats go away, and nothing else does.
    let mut numbers: Vec<u32> = first.values().map(|text| text.parse().expect("a number")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
}

#[test]
fn another_address_is_taken_when_the_first_is_down_and_left_when_it_is_back() {
    let second = Recorder::start();
    let first = Recorder::start();
    let network = Proxy::to(first.address());
    network.cut();
    let router = gateway(network.address(), Version::V5)
        .set("uplink.plant.failover", format!("[\"mqtt://{}\"]", second.address()))
        .set("uplink.plant.failover_attempts", 2)
        .set("uplink.plant.failover_return_secs", 1)
        .set("uplink.plant.required", true)
        .start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("factory/a", "0", QOS_1);
    assert_eq!(second.wait_for(1)[0].text(), "0");
    let target =
        |router: &Router| router.status()["uplinks"][0]["target"].as_str().unwrap_or_default().to_owned();
    assert_eq!(target(&router), format!("mqtt://{}", second.address()));
    assert_eq!(router.get("/readyz").0, 200);
    network.mend();
    until("the way back", || (target(&router) == format!("mqtt://{}", network.address())).then_some(()));
    publisher.publish("factory/a", "1", QOS_1);
    assert_eq!(first.wait_for(1)[0].text(), "1");
    assert_eq!(second.record().len(), 1);
    assert!(router.number("/uplinks/0/failovers") >= 2);
}

/// It lets everybody in and is no good, like a front end whose backend is down.
#[test]
fn an_address_that_lets_us_in_and_ends_each_link_is_left() {
    let (first, second) = (Recorder::start(), Recorder::start());
    first.refuse("", None);
    let router = gateway(first.address(), Version::V5)
        .set("uplink.plant.failover", format!("[\"mqtt://{}\"]", second.address()))
        .set("uplink.plant.failover_attempts", 3)
        .start();
    router.connect(&v5("publisher")).publish_all("factory/a", (0..20).map(|number| number.to_string()));
    let came: Vec<_> = second.wait_for(20).iter().map(|it| it.text().to_owned()).collect();
    assert_eq!(came, (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    assert_eq!((router.number("/uplinks/0/failovers"), router.number("/uplinks/0/poisoned")), (1, 0));
    assert_eq!((first.connects(), first.record().len()), (3, 0));
}

#[test]
fn an_address_that_answers_pings_and_no_publication_is_left() {
    let (first, second) = (Recorder::start(), Recorder::start());
    first.withhold(true);
    let router = gateway(first.address(), Version::V5)
        .set("uplink.plant.ack_timeout_secs", 2)
        .set("uplink.plant.failover", format!("[\"mqtt://{}\"]", second.address()))
        .set("uplink.plant.failover_attempts", 2)
        .start();
    router.connect(&v5("publisher")).publish("factory/a", "0", QOS_1);
    assert_eq!(second.wait_for(1)[0].text(), "0");
    assert!(first.connects() >= 2 && router.number("/uplinks/0/failovers") >= 1);
}

#[test]
fn a_way_back_to_an_address_that_only_takes_connections_costs_one_attempt() {
    let (first, second) = (Recorder::start(), Recorder::start());
    first.greet(false);
    let router = gateway(first.address(), Version::V5)
        .set("uplink.plant.connect_timeout_secs", 1)
        .set("uplink.plant.failover", format!("[\"mqtt://{}\"]", second.address()))
        .set("uplink.plant.failover_attempts", 2)
        .set("uplink.plant.failover_return_secs", 1)
        .start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("factory/a", "0", QOS_1);
    second.wait_for(1);
    // To the second, back, and to the second again.
    router.wait_for("/uplinks/0/failovers", 3);
    publisher.publish("factory/a", "1", QOS_1);
    assert_eq!(second.wait_for(2)[1].text(), "1");
    let log = until("the whole way in the log", || {
        let log = router.log();
        log.rsplit_once("going back").is_some_and(|it| it.1.contains("trying another")).then_some(log)
    });
    let (_, after) = log.split_once("going back").expect("it went back");
    let (between, _) = after.split_once("trying another address").expect("and left again");
    assert!(!between.contains("uplink is down"), "one attempt, and no wait: {between}");
}

#[test]
fn a_required_uplink_that_is_down_makes_the_router_unready_and_others_do_not() {
    let nobody = Nobody::new();
    let router = gateway(nobody.address(), Version::V5).start();
    assert_eq!(router.get("/readyz").0, 200);
    let router = gateway(nobody.address(), Version::V5).set("uplink.plant.required", true).start();
    let (code, text) = router.get("/readyz");
    assert_eq!(code, 503);
    assert!(text.contains("a required uplink is down") && text.contains("uplink plant: "), "{text}");
}

#[test]
fn a_refused_subscription_is_a_warning_with_what_to_do() {
    let upstream = Setup::new().set("auth.acl", r#"["allow anonymous publish #"]"#).start();
    let router = gateway(upstream.address(), Version::V5)
        .set("uplink.plant.topic_prefix", "from/gw1/")
        .set("uplink.plant.inbound", r#"["secret/#"]"#)
        .start();
    let warning =
        until("the warning", || router.status()["uplinks"][0]["warning"].as_str().map(str::to_owned));
    assert!(warning.contains("secret/#") && warning.contains("uplink.plant.inbound"), "{warning}");
}
