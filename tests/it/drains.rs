//! How a backlog drains: shares of priorities, live messages first.

use std::ops::Range;

use crate::space::lost;
use harness::{Connect, Proxy, QOS_1, Received, Recorder, Router, Setup, Version, until, v5};

fn texts(messages: &[Received]) -> Vec<&str> {
    messages.iter().map(Received::text).collect()
}

/// A slow link (200 messages a second, 8 in flight) that is cut, with two routes of priorities 0 and 9.
fn cut_off(upstream: &Recorder, settings: &[(&str, &str)]) -> (Router, Proxy) {
    let network = Proxy::to(upstream.address());
    network.cut();
    let setup = Setup::new()
        .uplink(network.address(), Version::V5)
        .set("uplink.plant.window", 8)
        .set("uplink.plant.pace_messages_per_sec", 200)
        .set("routes.urgent.route", r#"FROM "urgent/#" INTO $upstream"#)
        .set("routes.urgent.priority", 0)
        .set("routes.other.route", r#"FROM "other/#" INTO $upstream"#)
        .set("routes.other.priority", 9);
    let setup = settings.iter().fold(setup, |setup, (key, value)| setup.set(key, value));
    (setup.start(), network)
}

fn publish(router: &Router, topic: &str, range: Range<usize>) {
    router.connect(&v5(topic)).publish_all(&format!("{topic}/a"), range.map(|number| number.to_string()));
}

fn numbers(record: &[Received], topic: &str) -> Vec<usize> {
    let of_topic = record.iter().filter(|message| message.topic.starts_with(topic));
    of_topic.map(|message| message.text().parse().expect("a number")).collect()
}

#[test]
fn strict_sends_the_most_urgent_first_and_weighted_lets_nobody_starve() {
    for (schedule, expected) in [("strict", 0), ("weighted", 2)] {
        let upstream = Recorder::start();
        let (router, network) = cut_off(&upstream, &[("uplink.plant.schedule", schedule)]);
        publish(&router, "other", 0..100);
        publish(&router, "urgent", 0..150);
        network.mend();
        let record = upstream.wait_for(250);
        let early = numbers(&record[..140], "other").len();
        assert!(early >= expected, "{schedule}: {early}");
        assert!(early < 30, "{schedule}: {early}");
        assert_eq!(early == 0, schedule == "strict");
        assert_eq!(numbers(&record, "urgent"), (0..150).collect::<Vec<_>>());
        assert_eq!(numbers(&record, "other"), (0..100).collect::<Vec<_>>());
    }
}

#[test]
fn live_messages_pass_a_backlog_that_goes_on_beside_them() {
    let upstream = Recorder::start();
    let (router, network) = cut_off(&upstream, &[("uplink.plant.drain", "live-first")]);
    publish(&router, "other", 0..300);
    network.mend();
    upstream.wait_for(20);
    // However long their way through the disk takes: the link waits for them.
    network.pause();
    ten_more_for(&router, &["other"]);
    let before = upstream.record().len();
    network.resume();
    let record = upstream.wait_for(310);
    let place = |text: &str| texts(&record).iter().position(|it| *it == text).expect("it came");
    // What was in flight, and the backlog's share beside them.
    assert!(place("309") < before + 40, "{before} before, the last live one came as number {}", place("309"));
    let (old, live): (Vec<_>, Vec<_>) =
        numbers(&record, "other").into_iter().partition(|number| *number < 300);
    assert_eq!(old, (0..300).collect::<Vec<_>>(), "what waited keeps its order");
    assert_eq!(live, (300..310).collect::<Vec<_>>(), "and what came after it, too");
}

/// What passed a backlog is not kept with it: it leaves the counts, and no kill brings it back.
#[test]
fn live_messages_that_passed_a_backlog_are_not_sent_again_after_a_kill() {
    const OLD: usize = 3_000;
    const ALL: usize = OLD + 300;
    // In flight, and what a look at the counts may be late by.
    const MARGIN: usize = 16;
    let upstream = Recorder::start();
    let (mut router, network) = cut_off(&upstream, &[("uplink.plant.drain", "live-first")]);
    publish(&router, "other", 0..OLD);
    network.mend();
    upstream.wait_for(20);
    publish(&router, "other", OLD..ALL);
    until("the live messages to be gone", || {
        // First what has arrived: the backlog only shrinks meanwhile.
        let arrived = numbers(&upstream.record(), "other");
        let live = arrived.iter().filter(|number| **number >= OLD).count();
        let is_gone = router.backlog() as usize <= ALL - arrived.len() + MARGIN;
        (live == ALL - OLD && is_gone).then_some(())
    });
    assert!(numbers(&upstream.record(), "other").len() < ALL, "most of what waited still does");
    router.kill();
    router.reconfigure("uplink.plant.pace_messages_per_sec", 5_000);
    router.start_again();
    assert!(router.backlog() as usize <= OLD + MARGIN);
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    let mut arrived = numbers(&upstream.record(), "other");
    let live = arrived.iter().filter(|number| **number >= OLD).count();
    assert!(live <= ALL - OLD + MARGIN, "{live} arrived of {}", ALL - OLD);
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived, (0..ALL).collect::<Vec<_>>());
    router.terminate();
}

/// What has arrived is lost to nobody, however soon its time is over and however long what it passed takes.
#[test]
fn live_messages_that_passed_a_backlog_are_not_lost_when_their_time_is_over() {
    let upstream = Recorder::start();
    let settings =
        [("uplink.plant.drain", "live-first"), ("routes.urgent.priority", "9"), ("routes.urgent.ttl", "8")];
    let (router, network) = cut_off(&upstream, &settings);
    publish(&router, "other", 0..3_000);
    network.mend();
    upstream.wait_for(20);
    publish(&router, "urgent", 0..150);
    until("the live messages", || (numbers(&upstream.record(), "urgent").len() == 150).then_some(()));
    // More than are in flight at once: by then the last of them is answered.
    let count = upstream.record().len();
    upstream.wait_for(count + 20);
    network.cut();
    // What never arrives expires after them.
    publish(&router, "urgent", 150..160);
    until("that to be in the ledger", || (lost(&router.status(), "expired") >= 10).then_some(()));
    assert_eq!(numbers(&upstream.record(), "urgent").len(), 150);
    assert_eq!(lost(&router.status(), "expired"), 10, "and nothing else");
}

fn positions(numbers: &[usize], wanted: Range<usize>) -> Vec<usize> {
    (0..numbers.len()).filter(|at| wanted.contains(&numbers[*at])).collect()
}

/// Behind a backlog of 300 for each.
fn ten_more_for(router: &Router, topics: &[&str]) {
    let mut publisher = router.connect(&v5("live"));
    for number in 300..310 {
        for topic in topics {
            publisher.publish(&format!("{topic}/a"), number.to_string(), QOS_1);
        }
    }
}

/// Twenty of the backlogs have come; then there are ten more for each, and the rest comes.
fn ten_more_in_a_drain(
    upstream: &Recorder,
    router: &Router,
    network: &Proxy,
    topics: &[&str],
) -> Vec<Received> {
    upstream.wait_for(20);
    network.pause();
    ten_more_for(router, topics);
    network.resume();
    upstream.wait_for(310 * topics.len())
}

fn is_passed(record: &[Received], topic: &str) -> bool {
    let all = numbers(record, topic);
    let of = |range: Range<usize>| -> Vec<usize> {
        positions(&all, range.clone()).into_iter().map(|at| all[at]).collect()
    };
    assert_eq!(of(0..300), (0..300).collect::<Vec<_>>(), "{topic}: what waited keeps its order");
    assert_eq!(of(300..310), (300..310).collect::<Vec<_>>(), "{topic}: and what came after it, too");
    positions(&all, 300..310).last() < positions(&all, 0..300).last()
}

#[test]
fn one_route_lets_its_backlog_be_passed_and_another_on_the_same_uplink_does_not() {
    for passes in ["other", "urgent"] {
        let upstream = Recorder::start();
        let drain = format!("routes.{passes}.drain");
        let settings = [
            ("uplink.plant.schedule", "weighted"),
            (&drain, "live-first"),
            ("uplink.plant.pace_messages_per_sec", "100"),
        ];
        let (router, network) = cut_off(&upstream, &settings);
        publish(&router, "other", 0..300);
        publish(&router, "urgent", 0..300);
        let said = router.status()["routes"].to_string();
        assert_eq!(said.matches(r#""drain":"live-first""#).count(), 1, "{said}");
        assert_eq!(said.matches(r#""drain":"in-order""#).count(), 1, "{said}");
        network.mend();
        let record = ten_more_in_a_drain(&upstream, &router, &network, &["other", "urgent"]);
        for topic in ["other", "urgent"] {
            assert_eq!(is_passed(&record, topic), topic == passes, "{topic}, and {passes} may be passed");
        }
    }
}

/// Two routes of one priority have one lane: who wants order has it, and the other one, too.
#[test]
fn a_lane_of_two_routes_is_passed_only_if_both_say_so() {
    for (usual, is_live_first) in [("in-order", false), ("live-first", true)] {
        let upstream = Recorder::start();
        let settings = [
            ("uplink.plant.drain", usual),
            ("uplink.plant.pace_messages_per_sec", "100"),
            ("routes.other.drain", "live-first"),
            ("routes.urgent.priority", "9"),
        ];
        let (router, network) = cut_off(&upstream, &settings);
        publish(&router, "other", 0..300);
        publish(&router, "urgent", 0..300);
        network.mend();
        let record = ten_more_in_a_drain(&upstream, &router, &network, &["other", "urgent"]);
        for topic in ["other", "urgent"] {
            assert_eq!(
                is_passed(&record, topic),
                is_live_first,
                "{topic}, and the other route wants {usual}"
            );
        }
    }
}

#[test]
fn a_route_that_is_replaced_drains_in_its_new_way_from_the_next_connection_on() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    network.cut();
    let route = |drain: &str| {
        format!("routes.other = {{ route = 'FROM \"other/#\" INTO $upstream', drain = '{drain}' }}\n")
    };
    let mut router = Setup::new()
        .uplink(network.address(), Version::V5)
        .set("uplink.plant.window", 8)
        .set("uplink.plant.pace_messages_per_sec", 100)
        .file(&route("in-order"))
        .start();
    publish(&router, "other", 0..300);
    router.reload(&route("live-first"));
    until("the new routes", || {
        router.status()["routes"].to_string().contains(r#""drain":"live-first""#).then_some(())
    });
    network.mend();
    assert!(is_passed(&ten_more_in_a_drain(&upstream, &router, &network, &["other"]), "other"));
}

#[test]
fn an_urgent_message_overtakes_a_backlog_that_drains_slowly() {
    let upstream = Recorder::start();
    let (router, network) = cut_off(&upstream, &[]);
    publish(&router, "other", 0..300);
    network.mend();
    upstream.wait_for(20);
    // However long its way through the disk takes: the link waits for it.
    network.pause();
    publish(&router, "urgent", 0..1);
    let before = upstream.record().len();
    network.resume();
    let record = upstream.wait_for(301);
    let place = record.iter().position(|message| message.topic == "urgent/a").expect("it came");
    // What was in flight, and a tenth of a second of pace.
    assert!(place < before + 40, "{before} before, it came as number {place}");
}

/// A local pair whose acknowledgements need the disk, too: one message after the other, however much goes upstream meanwhile.
/// Judged by what the drain does between two of them.
#[test]
fn local_messages_go_on_while_a_large_backlog_drains() {
    const COUNT: usize = 30_000;
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    network.cut();
    let router = Setup::new()
        .shards(1)
        .uplink(network.address(), Version::V5)
        // So that even a fast machine drains for some seconds.
        .set("uplink.plant.pace_messages_per_sec", 8_000)
        .set("routes.other", r#"FROM "other/#" INTO $upstream"#)
        .start();
    publish(&router, "other", 0..COUNT);
    let mut subscriber =
        router.connect(&Connect { clean_start: false, session_expiry_secs: 600, ..v5("subscriber") });
    subscriber.subscribe("local", QOS_1);
    let mut publisher = router.connect(&v5("publisher"));
    network.mend();
    let mut drained = vec![0];
    until("the backlog to drain", || {
        let number = drained.len().to_string();
        publisher.publish("local", &number, QOS_1);
        assert_eq!(subscriber.message().text(), number, "in order");
        drained.push(upstream.record().len());
        (upstream.record().len() == COUNT).then_some(())
    });
    let largest = drained.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(COUNT);
    assert!(largest < COUNT / 2, "{largest} of {COUNT} went upstream between two local messages");
    assert_eq!(numbers(&upstream.record(), "other"), (0..COUNT).collect::<Vec<_>>());
}
