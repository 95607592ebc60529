//! Clients that other people wrote: Debian's `mosquitto_pub` and `mosquitto_sub`, both versions, every QoS.

use std::time::{Duration, Instant};

use harness::foreign::{Subscriber, publish, subscribe};
use harness::{OutgoingPublish, Proxy, QOS_1, QOS_2, ReasonCode, Router, Version, until, v5};

#[track_caller]
fn check_round_trip(version: Version, qos: &str) {
    for shards in 1..=3 {
        let router = Router::with_shards(shards);
        let subscriber = Subscriber::start(router.address(), version, 2, &["-t", "plant/+/temp", "-q", qos]);
        publish(router.address(), version, &["-t", "plant/7/temp", "-m", "21.5", "-q", qos]);
        publish(router.address(), version, &["-t", "plant/7/hum", "-m", "40", "-q", qos]);
        publish(router.address(), version, &["-t", "plant/8/temp", "-m", "22.5", "-q", qos]);
        let expected = [format!("plant/7/temp|{qos}|21.5"), format!("plant/8/temp|{qos}|22.5")];
        assert_eq!(subscriber.messages(), expected, "{version} with QoS {qos} on {shards} shards");
    }
}

#[test]
fn mosquitto_clients_talk_to_each_other_in_3_1_1_with_qos_0() {
    check_round_trip(Version::V3, "0");
}

#[test]
fn mosquitto_clients_talk_to_each_other_in_3_1_1_with_qos_1() {
    check_round_trip(Version::V3, "1");
}

#[test]
fn mosquitto_clients_talk_to_each_other_in_5_with_qos_0() {
    check_round_trip(Version::V5, "0");
}

#[test]
fn mosquitto_clients_talk_to_each_other_in_5_with_qos_1() {
    check_round_trip(Version::V5, "1");
}

#[test]
fn a_mosquitto_session_gets_what_came_while_it_was_away() {
    for version in [Version::V3, Version::V5] {
        let router = Router::with_shards(2);
        let session = ["-c", "-i", "historian", "-t", "plant/#", "-q", "1"];
        // `-E` ends it as soon as it has its subscription.
        subscribe(router.address(), version, &[&session[..], &["-E"]].concat()).expect(0);
        for number in 1..=3 {
            let payload = number.to_string();
            publish(router.address(), version, &["-t", "plant/a", "-m", &payload, "-q", "1"]);
        }
        let seen = subscribe(router.address(), version, &[&session[..], &["-C", "3", "-W", "20"]].concat());
        assert_eq!(seen.expect(0).out, "1\n2\n3\n", "{version}");
    }
}

/// [MQTT-7.0.0-2] [MQTT3-7.0.0-2] [MQTT-4.2.0-1] [MQTT-7.1.1-1] [MQTT3-7.1.1-1]
#[test]
fn versions_talk_to_each_other() {
    let router = Router::with_shards(2);
    let old = Subscriber::start(router.address(), Version::V3, 1, &["-t", "a", "-q", "1"]);
    let new = Subscriber::start(router.address(), Version::V5, 1, &["-t", "a", "-q", "1"]);
    let properties = ["-D", "publish", "user-property", "tenant", "north"];
    let arguments = [&["-t", "a", "-m", "hello", "-q", "1"][..], &properties].concat();
    publish(router.address(), Version::V5, &arguments);
    assert_eq!(old.messages(), ["a|1|hello"]);
    assert_eq!(new.messages(), ["a|1|hello"]);
}

#[test]
fn user_properties_of_mosquitto_pub_arrive() {
    let router = Router::with_shards(2);
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("a", QOS_1);
    let properties =
        ["-D", "publish", "user-property", "tenant", "north", "-D", "publish", "content-type", "text"];
    let arguments = [&["-t", "a", "-m", "hello", "-q", "1"][..], &properties].concat();
    publish(router.address(), Version::V5, &arguments);
    let message = subscriber.message();
    assert_eq!(message.user_properties(), [("tenant", "north")]);
    assert_eq!(message.properties().content_type(), Some("text"));
}

/// [MQTT-4.8.2-1] [MQTT-4.8.2-3]
#[test]
fn mosquitto_clients_share_the_work_of_a_group_and_take_it_over() {
    for (version, shards) in [(Version::V5, 1), (Version::V5, 3), (Version::V3, 3)] {
        let router = Router::with_shards(shards);
        let member = |qos| {
            let arguments = ["-t", "$share/crew/jobs/+", "-q", qos];
            Subscriber::start(router.address(), version, 3, &arguments)
        };
        let (one, two) = (member("1"), member("2"));
        let alone = Subscriber::start(router.address(), version, 6, &["-t", "jobs/#", "-q", "0"]);
        for number in 1..=6 {
            let payload = number.to_string();
            publish(router.address(), version, &["-t", "jobs/a", "-m", &payload, "-q", "2"]);
        }
        let (one, two) = (one.messages(), two.messages());
        assert!(one.iter().all(|message| message.starts_with("jobs/a|1|")), "{one:?}");
        assert!(two.iter().all(|message| message.starts_with("jobs/a|2|")), "{two:?}");
        let mut all: Vec<_> = [one, two].concat().iter().map(|message| message[9..].to_owned()).collect();
        all.sort();
        assert_eq!(all, ["1", "2", "3", "4", "5", "6"], "{version} on {shards} shards: each of them once");
        assert_eq!(alone.messages().len(), 6, "an ordinary subscription gets all of them");
    }
}

/// [MQTT-3.3.2-12]
#[test]
fn mosquitto_pub_sends_a_topic_once_and_then_its_alias() {
    let router = Router::with_shards(3);
    for version in [Version::V3, Version::V5] {
        let subscriber =
            Subscriber::start(router.address(), version, 4, &["-t", "a/long/topic/+", "-q", "1"]);
        let alias = ["-D", "publish", "topic-alias", "16", "--repeat", "4"];
        let arguments = [&["-t", "a/long/topic/x", "-m", "y", "-q", "1"][..], &alias].concat();
        publish(router.address(), Version::V5, &arguments);
        assert_eq!(subscriber.messages(), ["a/long/topic/x|1|y"; 4], "{version}");
    }
}

/// [MQTT-3.1.3-9] [MQTT-3.1.2-8]
#[test]
fn the_will_of_a_mosquitto_client_waits_for_its_delay_and_for_its_client() {
    let router = Router::with_shards(3);
    let with_will = |delay: &str, id: &str| {
        let will = ["--will-topic", "wills/one", "--will-payload", "gone", "--will-qos", "2"];
        let session = ["-i", id, "-c", "-x", "60", "-t", "own", "-D", "will", "will-delay-interval", delay];
        Subscriber::start(router.address(), Version::V5, 1, &[&session[..], &will].concat())
    };
    let watcher = Subscriber::start(router.address(), Version::V3, 1, &["-t", "wills/+", "-q", "2"]);
    with_will("60", "back").kill();
    let back = with_will("60", "back");
    let begin = Instant::now();
    with_will("2", "away").kill();
    assert_eq!(watcher.messages(), ["wills/one|2|gone"]);
    assert!(begin.elapsed() >= Duration::from_millis(1_900), "published after {:?}", begin.elapsed());
    // Had its will been published, the watcher would have ended before.
    publish(router.address(), Version::V5, &["-t", "own", "-m", "welcome"]);
    assert_eq!(back.messages(), ["own|0|welcome"]);
}

/// One `mosquitto_sub` keeps its memory while its network breaks and the router is restarted and killed below it.
/// [MQTT-4.3.3-10] [MQTT-4.4.0-1] [MQTT3-4.4.0-1] [MQTT3-4.3.3-1] [MQTT-3.1.2-5]
#[test]
fn a_mosquitto_session_gets_qos_2_exactly_once_through_cuts_and_kills() {
    for version in [Version::V3, Version::V5] {
        let mut router = Router::with_shards(2);
        let network = Proxy::to(router.address());
        let session = ["-i", "ledger", "-c", "-t", "ledger", "-q", "2"];
        // libmosquitto 2.0.11 counts a PUBLISH twice that it gets again, and ends by itself when that reaches its receive
        // maximum (20 if it is not told): a wider one leaves room for its mistake.
        let wide: &[&str] = match version {
            Version::V3 => &[],
            Version::V5 => &["-D", "connect", "receive-maximum", "500"],
        };
        let arguments = [&session[..], wide].concat();
        let subscriber = Subscriber::start(network.address(), version, 10_000, &arguments);
        for round in 0..6 {
            let mut publisher = router.connect(&v5("publisher"));
            let send = |publisher: &mut harness::Client, range: std::ops::Range<usize>| {
                for number in range {
                    publisher.publish("ledger", number.to_string(), QOS_2);
                }
            };
            send(&mut publisher, round * 100..round * 100 + 50);
            // In the middle of what is on its way.
            network.cut();
            send(&mut publisher, round * 100 + 50..round * 100 + 100);
            match round {
                1 => drop(router.terminate()),
                3 => router.kill(),
                _ => {}
            }
            if router.process().has_ended().is_some() {
                router.start_again();
                network.point_at(router.address());
            }
            network.mend();
            let reached = (round + 1) * 100 - 50;
            until("the subscriber to be back", || (subscriber.so_far().len() >= reached).then_some(()));
        }
        let last = "ledger|2|599".to_owned();
        until("the last message", || (subscriber.so_far().last() == Some(&last)).then_some(()));
        let log = subscriber.log();
        let printed = (0..600).filter(|number| !was_lost_by_libmosquitto(&log, *number));
        let expected: Vec<_> = printed.map(|number| format!("ledger|2|{number}")).collect();
        assert_eq!(subscriber.so_far(), expected, "{version}: once each, in order");
        assert!(expected.len() >= 594, "at most one for each cut");
        subscriber.kill();
    }
}

/// libmosquitto 2.0.11 forgets a message whose PUBREL has come if its PUBCOMP cannot be sent: the network broke in that very
/// moment. Packet identifiers are one above the numbers: these are the first messages of their session.
fn was_lost_by_libmosquitto(log: &str, number: usize) -> bool {
    let id = number + 1;
    let (released, completed) = (format!("received PUBREL (Mid: {id})"), format!("sending PUBCOMP (m{id})"));
    let lines: Vec<_> = log.lines().collect();
    lines.windows(3).any(|lines| {
        lines[0].ends_with(&released)
            && lines[1].ends_with(&completed)
            && lines[2].ends_with("sending CONNECT")
    })
}

/// MQTT 5.0 §3.4.2.1
#[test]
fn a_mosquitto_publisher_is_acknowledged_whether_or_not_anybody_listens() {
    let router = Router::with_shards(2);
    for qos in ["1", "2"] {
        for version in [Version::V3, Version::V5] {
            publish(router.address(), version, &["-t", "nobody/listens", "-m", "x", "-q", qos]);
        }
    }
    let mut client = router.connect(&v5("client"));
    for qos in [QOS_1, QOS_2] {
        let lonely = OutgoingPublish { topic: "nobody/listens", qos, ..Default::default() };
        // With QoS 2 that is what PUBCOMP says; PUBREC has the hint.
        let hint = if qos == QOS_1 { ReasonCode::NO_MATCHING_SUBSCRIBERS } else { ReasonCode::SUCCESS };
        assert_eq!(client.reason_of(&lonely), hint);
    }
    router.wait_for("/counters/unmatched", 6);
}
