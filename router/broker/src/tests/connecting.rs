//! How connections begin and end.

use model::{Limits, Qos};
use wire::{ReasonCode, Version, Will};

use crate::testbench::{Bench, Seen};
use crate::{Effects, Peer, Plan};

const ACCEPTED: Seen = Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS };

fn refused(reason: ReasonCode) -> Vec<Seen> {
    vec![Seen::ConnAck { present: false, reason }, Seen::Closed]
}

fn will(topic: &str) -> Will {
    Will { topic: topic.into(), payload: b"gone".to_vec(), ..Will::default() }
}

#[test]
fn a_connect_is_accepted_and_pings_are_answered() {
    for version in [Version::V3, Version::V5] {
        let mut bench = Bench::new(1);
        let client = bench.client("c", version, 0);
        bench.connect(client);
        bench.ping(client);
        assert_eq!(bench.take(client), [Seen::PingResp]);
        assert_eq!(bench.counters().connects_accepted, 1);
    }
}

#[test]
fn what_we_do_not_offer_is_refused_with_its_reason() {
    type Change = fn(&mut wire::Connect);
    let cases: [(Change, ReasonCode); 4] = [
        (|connect| connect.client_id = "$uplink/plant".into(), ReasonCode::NOT_AUTHORIZED),
        (
            |connect| connect.authentication_method = Some("SCRAM".into()),
            ReasonCode::BAD_AUTHENTICATION_METHOD,
        ),
        (|connect| connect.client_id = "x".repeat(2_000), ReasonCode::CLIENT_IDENTIFIER_NOT_VALID),
        (|connect| connect.will = Some(will(&"a/".repeat(70))), ReasonCode::TOPIC_NAME_INVALID),
    ];
    for (change, reason) in cases {
        let mut bench = Bench::new(1);
        let client = bench.client("c", Version::V5, 0);
        let mut connect = bench.hello(client);
        change(&mut connect);
        bench.connect_with(client, &connect);
        assert_eq!(bench.take(client), refused(reason));
        assert_eq!(bench.counters().connects_refused, 1);
    }
}

#[test]
fn sessions_are_bounded() {
    let mut bench = Bench::with(1, Limits { sessions_max: 1, ..Limits::DEFAULT }, Plan::empty());
    let (one, two) = (bench.client("one", Version::V5, 0), bench.client("two", Version::V5, 0));
    bench.connect(one);
    bench.connect_with(two, &bench.hello(two));
    assert_eq!(bench.take(two), refused(ReasonCode::QUOTA_EXCEEDED));
    bench.connect_with(one, &bench.hello(one));
    assert_eq!(bench.take(one).pop(), Some(ACCEPTED), "a known client does not need a new place");
}

#[test]
fn a_client_without_identifier_gets_one_at_home_here() {
    let mut bench = Bench::new(3);
    let client = bench.client("c", Version::V5, 0);
    let mut connect = bench.hello(client);
    connect.client_id.clear();
    bench.connect_with(client, &connect);
    assert_eq!(bench.take(client), [ACCEPTED]);
    assert_eq!((bench.clients[client].shard, bench.brokers[0].sessions()), (0, 1));
}

#[test]
fn a_socket_moves_to_the_home_of_its_session() {
    let mut bench = Bench::new(3);
    let client = bench.client("c", Version::V5, 2);
    bench.connect(client);
    assert_eq!(bench.clients[client].shard, 2);
    assert_eq!((bench.brokers[0].connections(), bench.brokers[2].connections()), (0, 1));
}

#[test]
fn the_first_packet_is_connect_and_it_comes_once() {
    let mut bench = Bench::new(1);
    let client = bench.client("c", Version::V5, 0);
    bench.dial(client);
    bench.ping(client); // [MQTT-3.1.0-1]
    assert_eq!(bench.take(client), [Seen::Closed]);
    bench.connect(client);
    let mut again = Vec::new();
    wire::encode_connect(&mut again, &bench.hello(client)).unwrap();
    bench.send(client, &again); // [MQTT-3.1.0-2]
    assert_eq!(bench.take(client), [Seen::Disconnect(ReasonCode::PROTOCOL_ERROR), Seen::Closed]);
    assert_eq!(bench.counters().closed_protocol, 2);
}

#[test]
fn malformed_bytes_end_the_connection_with_the_right_code() {
    let mut bench = Bench::new(1);
    let five = bench.client("five", Version::V5, 0);
    bench.connect(five);
    bench.send(five, &[0x36, 0x00]);
    assert_eq!(bench.take(five), [Seen::Disconnect(ReasonCode::MALFORMED_PACKET), Seen::Closed]);
    let three = bench.client("three", Version::V3, 0);
    bench.connect(three);
    bench.send(three, &[0x36, 0x00]);
    assert_eq!(bench.take(three), [Seen::Closed], "3.1.1 has no DISCONNECT from a server");
    assert_eq!(bench.counters().closed_malformed, 2);
    bench.dial(three);
    bench.send(three, b"\x10\x0c\x00\x06MQIsdp\x03\x00\x00\x00");
    assert_eq!(bench.take(three).len(), 2, "the old protocol is refused in its own form");
}

#[test]
fn what_only_servers_send_is_a_protocol_error() {
    for bytes in [&[0xD0, 0x00][..], &[0x90, 0x04, 0x00, 0x01, 0x00, 0x00]] {
        let mut bench = Bench::new(1);
        let client = bench.client("c", Version::V5, 0);
        bench.connect(client);
        bench.send(client, bytes);
        assert_eq!(bench.take(client), [Seen::Disconnect(ReasonCode::PROTOCOL_ERROR), Seen::Closed]);
    }
}

#[test]
fn publications_that_were_not_agreed_on_end_the_connection() {
    type Change = fn(&mut wire::OutgoingPublish<'_>);
    const LONG: &str = "xxxxxxxxxxxxxxxxxxxxx";
    let cases: [(Change, ReasonCode); 4] = [
        (|publish| publish.topic_alias = std::num::NonZeroU16::new(17), ReasonCode::TOPIC_ALIAS_INVALID), // [MQTT-3.3.2-9]
        (|publish| publish.subscription_ids = &[1], ReasonCode::PROTOCOL_ERROR), // [MQTT-3.3.4-6]
        (|publish| publish.topic = "a/a/a/a/a/a", ReasonCode::TOPIC_NAME_INVALID),
        (|publish| publish.topic = LONG, ReasonCode::TOPIC_NAME_INVALID),
    ];
    let limits = Limits { topic_levels_max: 5, topic_bytes_max: 20, ..Limits::DEFAULT };
    for (change, reason) in cases {
        let mut bench = Bench::with(1, limits.clone(), Plan::empty());
        let client = bench.client("c", Version::V5, 0);
        bench.connect(client);
        bench.publish_with(client, "t", "x", 1, change);
        assert_eq!(bench.take(client), [Seen::Disconnect(reason), Seen::Closed]);
    }
    for (topic, is_taken) in [(&LONG[1..], true), (LONG, false), ("a/a/a/a/a/a", false)] {
        let mut bench = Bench::with(1, limits.clone(), Plan::empty());
        let client = bench.client("c", Version::V3, 0);
        bench.connect(client);
        bench.publish_with(client, topic, "x", 1, |_| {});
        assert_eq!(bench.take(client), [if is_taken { Seen::PubAck(1) } else { Seen::Closed }], "{topic}");
        for version in [Version::V3, Version::V5] {
            let mut bench = Bench::with(1, limits.clone(), Plan::empty());
            let client = bench.client("w", version, 0);
            let mut hello = bench.hello(client);
            hello.will = Some(will(topic));
            bench.connect_with(client, &hello);
            let seen = bench.take(client);
            let is_in = matches!(seen[..], [Seen::ConnAck { reason: ReasonCode::SUCCESS, .. }]);
            assert_eq!(is_in, is_taken, "{version:?} {topic}: {seen:?}");
        }
    }
}

#[test]
fn a_second_connection_takes_over() {
    let mut bench = Bench::new(2);
    let old = bench.client("same", Version::V5, 1);
    let new = bench.client("same", Version::V3, 1);
    bench.connect(old);
    bench.connect(new);
    assert_eq!(bench.take(old), [Seen::Disconnect(ReasonCode::SESSION_TAKEN_OVER), Seen::Closed]); // [MQTT-3.1.4-3]
    assert_eq!((bench.counters().closed_taken_over, bench.brokers[1].sessions()), (1, 1));
}

#[test]
fn a_will_is_published_unless_the_client_says_goodbye() {
    for (reason, expected) in [
        (None, true),
        (Some(ReasonCode::NORMAL_DISCONNECTION), false),
        (Some(ReasonCode::UNSPECIFIED_ERROR), true),
    ] {
        let mut bench = Bench::new(1);
        let (watcher, client) = (bench.client("w", Version::V5, 0), bench.client("c", Version::V5, 0));
        bench.connect(watcher);
        bench.subscribe(watcher, "will/#", Qos::AtLeastOnce);
        let mut connect = bench.hello(client);
        connect.will = Some(Will { expiry_secs: Some(9), qos: Qos::AtLeastOnce, ..will("will/c") });
        bench.connect_with(client, &connect);
        match reason {
            None => bench.cut(client),
            Some(reason) => bench.disconnect(client, reason, None),
        }
        let got = bench.got(watcher);
        assert_eq!(got.len(), usize::from(expected), "{reason:?}"); // [MQTT-3.14.4-3]
        assert!(got.iter().all(|got| (got.text(), got.expiry_secs) == ("gone".into(), Some(9))));
    }
}

#[test]
fn nothing_is_sent_after_disconnect_not_even_the_own_will() {
    let mut bench = Bench::new(1);
    let client = bench.client("c", Version::V5, 0);
    let mut connect = bench.hello(client);
    connect.will = Some(will("mine"));
    bench.connect_with(client, &connect);
    bench.take(client);
    bench.subscribe(client, "mine", Qos::AtMostOnce);
    bench.send(client, &[0x36, 0x00]);
    assert_eq!(bench.take(client), [Seen::Disconnect(ReasonCode::MALFORMED_PACKET), Seen::Closed]); // [MQTT-3.14.4-1]
    assert_eq!(bench.counters().wills, 1);
}

#[test]
fn a_silent_client_is_let_go_after_one_and_a_half_periods() {
    let mut bench = Bench::new(1);
    let client = bench.client("c", Version::V5, 0);
    let mut connect = bench.hello(client);
    connect.keep_alive_secs = 10;
    bench.connect_with(client, &connect);
    bench.take(client);
    bench.pass(14_000);
    bench.ping(client);
    bench.pass(15_000);
    assert_eq!(bench.take(client), [Seen::PingResp]);
    bench.pass(1); // [MQTT-3.1.2-22]
    assert_eq!(bench.take(client), [Seen::Disconnect(ReasonCode::KEEP_ALIVE_TIMEOUT), Seen::Closed]);
    assert_eq!(bench.counters().closed_keep_alive, 1);
}

#[test]
fn silence_while_we_do_not_read_is_not_held_against_the_client() {
    let mut bench =
        Bench::with(1, Limits { commit_bytes_max: 1, ..Limits::DEFAULT }, super::routing::uplink_plan());
    bench.disk.lane("u");
    let client = bench.client("c", Version::V5, 0);
    let mut connect = bench.hello(client);
    connect.keep_alive_secs = 10;
    bench.connect_with(client, &connect);
    bench.publish(client, "t", "1", 1);
    bench.ping(client);
    bench.pass(60_000);
    bench.settle();
    assert_eq!(bench.take(client)[1..], [Seen::PubAck(1), Seen::PingResp]);
}

#[test]
fn a_socket_without_connect_is_closed() {
    let mut bench = Bench::new(1);
    let client = bench.client("c", Version::V5, 0);
    bench.dial(client);
    bench.send(client, &[0x10]);
    bench.pass(Limits::DEFAULT.connect_timeout_millis + 1);
    assert_eq!(bench.take(client), [Seen::Closed]);
    assert_eq!(bench.counters().closed_connect_timeout, 1);
}

#[test]
fn everybody_hears_that_the_server_goes() {
    let mut bench = Bench::new(1);
    let client = bench.client("c", Version::V5, 0);
    bench.connect(client);
    bench.shut_down();
    assert_eq!(bench.take(client), [Seen::Disconnect(ReasonCode::SERVER_SHUTTING_DOWN), Seen::Closed]);
}

#[test]
fn who_the_edge_says_a_client_is_travels_with_its_connection() {
    let mut bench = Bench::new(1);
    let conn = bench.brokers[0].open(Peer { listener: 3, ..Peer::default() }, bench.now);
    bench.brokers[0].identify(conn, "press-7".into());
    let expected = Peer { listener: 3, certificate_user: Some("press-7".into()), ..Peer::default() };
    assert_eq!(bench.brokers[0].peer(conn), expected);
    let mut effects = Effects::new(1);
    bench.brokers[0].closed(conn, bench.now, &mut effects);
    assert_eq!(bench.brokers[0].peer(conn), Peer::default());
}
