//! Routes at work: which messages go upstream or to another topic, by condition, priority and time to live.

use std::time::{Duration, Instant};

use harness::{
    BlockBuilder, OutgoingPublish, QOS_0, QOS_1, Received, Recorder, Router, Setup, Version, until, v3, v5,
};

/// A router with these routes and an upstream that writes down what it gets.
#[track_caller]
fn with_routes(shards: usize, routes: &[(&str, &str)]) -> (Router, Recorder) {
    let upstream = Recorder::start();
    let setup = Setup::new().shards(shards).uplink(upstream.address(), Version::V5);
    let add = |setup: Setup, (name, route): &(&str, &str)| setup.set(&format!("routes.{name}"), route);
    (routes.iter().fold(setup, add).start(), upstream)
}

/// Publishes all of it, then proves by a fence what went upstream: `topic|payload` each.
#[track_caller]
fn check(routes: &[(&str, &str)], messages: &[(&str, &str)], expected: &[&str]) {
    for shards in 1..=3 {
        let fence = ("fence", r#"FROM "fence" INTO $upstream"#);
        let (router, upstream) = with_routes(shards, &[routes, &[fence]].concat());
        let mut publisher = router.connect(&v5("publisher"));
        for (topic, payload) in messages {
            publisher.publish(topic, payload, QOS_1);
        }
        publisher.publish("fence", "", QOS_1);
        let record = until("the fence upstream", || {
            let record = upstream.record();
            record.last().is_some_and(|last| last.topic == "fence").then(|| record.clone())
        });
        let (_, got) = record.split_last().expect("the fence at least");
        let got: Vec<_> = got.iter().map(|it| format!("{}|{}", it.topic, it.text())).collect();
        assert_eq!(got, expected, "{shards} shards");
        assert!(record.iter().all(|message| message.qos == QOS_1), "upstream everything is QoS 1");
    }
}

#[test]
fn only_what_the_source_and_the_condition_take_goes_upstream() {
    check(
        &[("hot", r#"FROM "factory/#" WHERE $body.temp > 20 INTO $upstream"#)],
        &[
            ("factory/a", r#"{"temp": 21}"#),
            ("factory/a", r#"{"temp": 20}"#),
            ("factory/b", r#"{"temp": 20.5}"#),
            ("factory/b", r#"{"hum": 40}"#),
            ("factory/b", "no JSON"),
            ("factory/b", ""),
            ("office/a", r#"{"temp": 30}"#),
            ("factory", r#"{"temp": 99}"#),
        ],
        &[r#"factory/a|{"temp": 21}"#, r#"factory/b|{"temp": 20.5}"#, r#"factory|{"temp": 99}"#],
    );
}

#[test]
fn a_message_that_several_routes_take_goes_upstream_once() {
    check(
        &[
            ("one", r#"FROM "factory/#" INTO $upstream"#),
            ("two", r#"FROM "factory/+" INTO $upstream"#),
            ("three", r#"FROM "+/a" WHERE $body.x = 1 INTO uplink("plant")"#),
        ],
        &[("factory/a", r#"{"x": 1}"#), ("office/a", r#"{"x": 1}"#), ("office/a", r#"{"x": 2}"#)],
        &[r#"factory/a|{"x": 1}"#, r#"office/a|{"x": 1}"#],
    );
}

#[test]
fn topic_client_and_qos_may_be_asked_for() {
    check(
        &[(
            "all",
            r##"FROM "#" WHERE $topic[1] = 'a' AND $clientId LIKE 'pub%' AND $qos = 1 AND NOT $retain INTO $upstream"##,
        )],
        &[("x/a", "1"), ("x/b", "2"), ("y/a", "3")],
        &["x/a|1", "y/a|3"],
    );
}

#[test]
fn user_properties_may_be_asked_for() {
    let (router, upstream) =
        with_routes(2, &[("north", r#"FROM "a" WHERE tenant = 'north' INTO $upstream"#)]);
    let mut publisher = router.connect(&v5("publisher"));
    for (tenant, payload) in [("south", "no"), ("north", "yes")] {
        let mut block = BlockBuilder::new();
        block.user("tenant", tenant).expect("short strings");
        let payload = payload.as_bytes();
        let properties = block.as_bytes();
        publisher.publish_with(&OutgoingPublish {
            topic: "a",
            payload,
            qos: QOS_1,
            properties,
            ..Default::default()
        });
    }
    publisher.publish("a", "none", QOS_1);
    let record = upstream.wait_for(1);
    assert_eq!(record[0].text(), "yes");
    router.wait_for("/counters/received", 3);
    assert_eq!(router.number("/counters/routed"), 1);
}

#[test]
fn qos_0_publications_are_routed_too_and_go_upstream_with_qos_1() {
    let (router, upstream) = with_routes(2, &[("all", r#"FROM "a" INTO $upstream"#)]);
    router.connect(&v3("publisher")).publish("a", "x", QOS_0);
    assert_eq!(upstream.wait_for(1)[0].qos, QOS_1);
}

#[test]
fn a_route_does_not_take_a_message_away_from_subscribers() {
    let (router, upstream) = with_routes(3, &[("all", r#"FROM "a" INTO $upstream"#)]);
    let mut subscribers: Vec<_> = (0..6).map(|it| router.connect(&v5(&format!("s-{it}")))).collect();
    for subscriber in &mut subscribers {
        subscriber.subscribe("a", QOS_1);
    }
    router.connect(&v5("publisher")).publish("a", "x", QOS_1);
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.message().text(), "x");
    }
    upstream.wait_for(1);
}

#[test]
fn a_message_without_match_is_acknowledged_and_counted() {
    let (router, upstream) = with_routes(2, &[("all", r#"FROM "a" INTO $upstream"#)]);
    router.connect(&v5("publisher")).publish("b", "x", QOS_1);
    router.wait_for("/counters/unmatched", 1);
    assert!(upstream.record().is_empty());
    assert_eq!(router.backlog(), 0);
}

#[test]
fn a_route_may_publish_again_on_another_topic_of_this_router() {
    for shards in 1..=3 {
        let route = r#"FROM "factory/+/temp" WHERE $body.temp > 80 INTO topic "alerts/{$topic[1]}""#;
        let (router, _upstream) = with_routes(shards, &[("alert", route)]);
        let mut subscribers: Vec<_> = (0..6).map(|it| router.connect(&v5(&format!("s-{it}")))).collect();
        for subscriber in &mut subscribers {
            subscriber.subscribe("alerts/#", QOS_1);
        }
        let mut publisher = router.connect(&v5("publisher"));
        publisher.publish("factory/line1/temp", r#"{"temp": 20}"#, QOS_1);
        publisher.publish("factory/line1/temp", r#"{"temp": 81}"#, QOS_1);
        publisher.publish("factory/line2/temp", r#"{"temp": 82}"#, QOS_0);
        for subscriber in &mut subscribers {
            let got = subscriber.messages(2);
            let got: Vec<_> = got.iter().map(|it| (it.topic.as_str(), it.text(), it.qos)).collect();
            let expected =
                [("alerts/line1", r#"{"temp": 81}"#, QOS_1), ("alerts/line2", r#"{"temp": 82}"#, QOS_0)];
            assert_eq!(got, expected, "{shards} shards");
        }
    }
}

#[test]
fn what_a_route_publishes_again_is_not_routed_again() {
    let routes = [("loop", r##"FROM "#" INTO topic "again/{$topic[0]}""##)];
    let (router, _upstream) = with_routes(2, &routes);
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("#", QOS_1);
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("a", "x", QOS_1);
    publisher.publish("fence", "", QOS_1);
    let topics: Vec<_> = subscriber.messages(4).into_iter().map(|message| message.topic).collect();
    assert_eq!(topics, ["a", "again/a", "fence", "again/fence"]);
}

#[test]
fn a_template_that_gives_no_topic_drops_and_counts() {
    let (router, _upstream) = with_routes(2, &[("bad", r#"FROM "a" INTO topic "x/{missing}""#)]);
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("#", QOS_1);
    router.connect(&v5("publisher")).publish("a", "x", QOS_1);
    assert_eq!(subscriber.message().topic, "a", "the publication itself is untouched");
    router.wait_for("/counters/dropped_invalid_template", 1);
}

#[test]
fn one_route_may_have_several_sinks() {
    let (router, upstream) = with_routes(2, &[("both", r#"FROM "a" INTO $upstream, topic "copy""#)]);
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("copy", QOS_1);
    router.connect(&v5("publisher")).publish("a", "x", QOS_1);
    assert_eq!(subscriber.message().text(), "x");
    assert_eq!(upstream.wait_for(1)[0].topic, "a");
}

/// An uplink hears of a message a moment after its publisher does. What it finds when it starts it knows before it connects.
#[track_caller]
fn know_all_that_waits(router: &mut Router) {
    assert!(router.terminate().success());
    router.start_again();
}

#[test]
fn urgent_messages_overtake_what_waited_longer() {
    let upstream = Recorder::start();
    upstream.silent(true);
    let mut router = Setup::new()
        .uplink(upstream.address(), Version::V5)
        .set("routes.low", r#"{ route = 'FROM "low" INTO $upstream', priority = 8 }"#)
        .set("routes.none", r#"FROM "none" INTO $upstream"#)
        .set("routes.high", r#"{ route = 'FROM "high" INTO $upstream', priority = 0 }"#)
        .start();
    let mut publisher = router.connect(&v5("publisher"));
    for topic in ["none", "low", "high", "none", "low", "high"] {
        publisher.publish_all(topic, (0..50).map(|it| it.to_string()));
    }
    assert_eq!(router.backlog(), 300);
    know_all_that_waits(&mut router);
    upstream.silent(false);
    let record = upstream.wait_for(300);
    let topics: Vec<_> = record.iter().map(|message| message.topic.as_str()).collect();
    let expected: Vec<_> = ["high", "low", "none"].iter().flat_map(|topic| [*topic; 100]).collect();
    assert_eq!(topics, expected);
}

#[test]
fn of_several_routes_the_most_urgent_priority_counts() {
    let upstream = Recorder::start();
    upstream.silent(true);
    let mut router = Setup::new()
        .uplink(upstream.address(), Version::V5)
        .set("routes.all", r##"{ route = 'FROM "#" INTO $upstream', priority = 5 }"##)
        .set("routes.alarm", r#"{ route = 'FROM "alarm" INTO $upstream', priority = 1 }"#)
        .start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("other", "1", QOS_1);
    publisher.publish("alarm", "2", QOS_1);
    know_all_that_waits(&mut router);
    upstream.silent(false);
    let topics: Vec<_> = upstream.wait_for(2).into_iter().map(|message| message.topic).collect();
    assert_eq!(topics, ["alarm", "other"]);
}

#[test]
fn what_waits_beyond_its_time_to_live_is_dropped_and_counted() {
    let upstream = Recorder::start();
    upstream.silent(true);
    let router = Setup::new()
        .uplink(upstream.address(), Version::V5)
        .set("routes.short", r#"{ route = 'FROM "short" INTO $upstream', ttl = 3 }"#)
        .set("routes.long", r#"FROM "long" INTO $upstream"#)
        .start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish_all("short", ["1", "2", "3"]);
    publisher.publish("long", "4", QOS_1);
    let begin = Instant::now();
    until("time to pass", || (begin.elapsed() > Duration::from_millis(3_100)).then_some(()));
    publisher.publish("short", "5", QOS_1);
    upstream.silent(false);
    let record = upstream.wait_for(2);
    assert_eq!(record.iter().map(Received::text).collect::<Vec<_>>(), ["4", "5"]);
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    assert_eq!(router.number("/uplinks/0/dropped") + router.number("/store/expired"), 3);
}

#[test]
fn status_says_what_each_route_promises() {
    let upstream = Recorder::start();
    let router = Setup::new()
        .uplink(upstream.address(), Version::V5)
        .set("routes.disk", r#"FROM "a" INTO $upstream"#)
        .set("routes.memory", r#"{ route = 'FROM "b" INTO $upstream', durability = "memory" }"#)
        .set("routes.local", r#"{ route = 'FROM "c" INTO topic "d"', priority = 3, ttl = 60 }"#)
        .set("uplink.plant.when_full", "\"drop-newest\"")
        .start();
    let status = router.status();
    let routes = status["routes"].as_array().expect("routes").clone();
    let promise = |name: &str| {
        let route = routes.iter().find(|route| route["name"] == name).expect("the route");
        route["promise"].as_str().expect("a promise").to_owned()
    };
    assert!(promise("disk").starts_with("disk: "), "{}", promise("disk"));
    assert!(promise("memory").starts_with("memory: "), "{}", promise("memory"));
    assert!(promise("local").starts_with("local: "), "{}", promise("local"));
    assert!(promise("disk").contains("when plant has no room, it is acknowledged and dropped"));
    let local = routes.iter().find(|route| route["name"] == "local").expect("the route");
    assert_eq!((&local["priority"], &local["ttl_secs"]), (&"3".into(), &60.into()));
    assert_eq!(local["sinks"].to_string(), r#"["topic(\"d\")"]"#);
    assert_eq!((&status["uplinks"][0]["room"], &status["store"]["room"]), (&"roomy".into(), &"roomy".into()));
}

#[test]
fn select_sends_only_what_it_selects() {
    check(
        &[("some", r#"SELECT $body.temp AS t, $body.unit FROM "a" WHERE $body.temp > 20 INTO $upstream"#)],
        &[("a", r#"{"temp": 21, "unit": "C", "secret": 1}"#), ("a", r#"{"temp": 20, "unit": "C"}"#)],
        &[r#"a|{"t":21,"unit":"C"}"#],
    );
}

#[test]
fn sample_lets_one_of_several_pass_for_each_key() {
    // One publisher is one shard: the memory of a clause belongs to the shard.
    check(
        &[("some", r#"FROM "a" SAMPLE 1 IN 3 BY $body.id INTO $upstream"#)],
        &[
            ("a", r#"{"id":1,"n":0}"#),
            ("a", r#"{"id":1,"n":1}"#),
            ("a", r#"{"id":2,"n":0}"#),
            ("a", r#"{"id":1,"n":2}"#),
            ("a", r#"{"id":1,"n":3}"#),
            ("a", r#"{"id":2,"n":1}"#),
        ],
        &[r#"a|{"id":1,"n":0}"#, r#"a|{"id":2,"n":0}"#, r#"a|{"id":1,"n":3}"#],
    );
}

#[test]
fn throttle_and_changed_hold_back_and_the_publisher_is_acknowledged_all_the_same() {
    check(
        &[
            ("slow", r#"FROM "slow" THROTTLE 2 PER 1h INTO $upstream"#),
            ("news", r#"FROM "news" CHANGED($body.v, 5) INTO $upstream"#),
        ],
        &[
            ("slow", "1"),
            ("slow", "2"),
            ("slow", "3"),
            ("news", r#"{"v":10}"#),
            ("news", r#"{"v":12}"#),
            ("news", r#"{"v":15}"#),
            ("news", r#"{"v":11}"#),
            ("news", r#"{"v":10}"#),
        ],
        &["slow|1", "slow|2", r#"news|{"v":10}"#, r#"news|{"v":15}"#, r#"news|{"v":10}"#],
    );
}

#[test]
fn the_edgehub_mode_refuses_what_edgehub_refuses() {
    let setup = Setup::new().set("routing.mode", "edgehub");
    let setup = setup.set("routes.a", r#"FROM /messages/* WHERE temperature > 30 INTO topic "x""#);
    let (code, log) = setup.fail_to_start();
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("routes.a"), "{log}");
}

const RELOADABLE: &str = "[routes]\nfirst = 'FROM \"a\" INTO $upstream'\n";

#[test]
fn a_reload_replaces_routes_and_clients_stay() {
    let upstream = Recorder::start();
    let mut router = Setup::new().uplink(upstream.address(), Version::V5).file(RELOADABLE).start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("a", "by the first", QOS_1);
    upstream.wait_for(1);
    router.reload("[routes]\nsecond = 'FROM \"b\" INTO $upstream'\n");
    until("the new route", || (router.status()["routes"][0]["name"] == "second").then_some(()));
    until("the new route at work", || {
        publisher.publish("a", "by nobody", QOS_1);
        publisher.publish("b", "by the second", QOS_1);
        let record = upstream.record();
        record.last().is_some_and(|last| last.text() == "by the second").then_some(())
    });
    let count = upstream.record().len();
    publisher.publish("a", "by nobody", QOS_1);
    publisher.publish("b", "last", QOS_1);
    let record = upstream.wait_for(count + 1);
    assert!(record[count..].iter().all(|message| message.topic == "b"), "{record:?}");
}

#[test]
fn a_reload_with_a_mistake_changes_nothing_and_says_why() {
    let upstream = Recorder::start();
    let mut router = Setup::new().uplink(upstream.address(), Version::V5).file(RELOADABLE).start();
    let mut publisher = router.connect(&v5("publisher"));
    router.reload("[routes]\nfirst = 'FROM \"a\" WHERE $body. INTO $upstream'\n");
    let error =
        until("a word about the mistake", || router.status()["reload_error"].as_str().map(str::to_owned));
    assert!(error.contains("routes.first") && error.contains('^'), "{error}");
    assert!(router.log().contains("nothing was changed"), "{}", router.log());
    publisher.publish("a", "still routed", QOS_1);
    assert_eq!(upstream.wait_for(1)[0].text(), "still routed");
}

#[test]
fn a_reload_names_every_mistake_of_every_route() {
    let mut router = Setup::new().file(RELOADABLE.replace("$upstream", "topic \"x\"").as_str()).start();
    router.reload(
        "[routes]\none = 'FROM \"a\" WHERE $body. INTO topic \"x\"'\ntwo = 'FORM \"a\" INTO topic \"x\"'\n",
    );
    let error =
        until("a word about the mistakes", || router.status()["reload_error"].as_str().map(str::to_owned));
    assert!(error.contains("routes.one") && error.contains("routes.two"), "{error}");
    assert_eq!(router.status()["routes"][0]["name"], "first");
}

/// The table is swapped whole: each message goes by one of the two, once, whatever comes in between.
#[test]
fn no_message_falls_between_two_tables() {
    const COUNT: usize = 4_000;
    let table = |name: &str| format!("[routes]\n{name} = 'FROM \"a\" INTO topic \"{name}/{{$topic}}\"'\n");
    let mut router = Setup::new().file(&table("x")).start();
    let mut watcher = router.connect(&v5("watcher"));
    watcher.subscribe("x/a", QOS_1);
    watcher.subscribe("y/a", QOS_1);
    let mut publisher = router.connect(&v5("publisher"));
    let mut found = Vec::new();
    let mut swaps = 0;
    for number in 0..COUNT {
        if number % 200 == 0 {
            swaps += 1;
            router.reload(&table(if swaps % 2 == 0 { "x" } else { "y" }));
        }
        publisher.publish("a", number.to_string(), QOS_1);
        found.push(watcher.message());
    }
    let numbers: Vec<String> = found.iter().map(|message| message.text().to_owned()).collect();
    assert_eq!(numbers, (0..COUNT).map(|number| number.to_string()).collect::<Vec<_>>());
    let by = |topic: &str| found.iter().filter(|message| message.topic == topic).count();
    assert!(by("x/a") > 100 && by("y/a") > 100 && by("x/a") + by("y/a") == COUNT, "{} by x", by("x/a"));
    assert!(watcher.message_within(std::time::Duration::ZERO).is_none());
}
