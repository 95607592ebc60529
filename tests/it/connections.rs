//! How a connection begins, lives and ends: CONNACK, keep-alive, timeouts, limits that client and router agree on.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};

use harness::{
    Client, Connect, Connection, Incoming, OutgoingPublish, PATIENCE, QOS_0, QOS_1, QOS_2, ReasonCode,
    Router, Setup, Version, until, v3, v5,
};
use wire::Subscription;

#[test]
fn connack_tells_what_is_offered() {
    let setup = Setup::new().set("limits.packet_bytes_max", 65_536).set("limits.receive_max", 77);
    let router = setup.start();
    let greeting = router.connect(&v5("client")).greeting;
    assert_eq!(greeting.qos_max, QOS_2);
    assert_eq!(greeting.packet_bytes_max, NonZeroU32::new(65_536));
    assert_eq!(greeting.receive_max.get(), 77);
    assert_eq!(greeting.topic_alias_max, 16);
    assert!(greeting.shared_subscriptions_available);
    assert!(greeting.wildcard_subscriptions_available && greeting.subscription_ids_available);
    assert_eq!(greeting.assigned_client_id, None);
}

#[test]
fn a_client_without_an_identifier_is_given_one() {
    // [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
    for shards in 1..=3 {
        let router = Router::with_shards(shards);
        let mut clients: Vec<_> = (0..6).map(|_| router.connect(&v5(""))).collect();
        let mut ids: Vec<_> =
            clients.iter().filter_map(|it| it.greeting.assigned_client_id.clone()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 6, "each has its own: {ids:?}");
        clients[0].subscribe("a", QOS_1);
        clients[1].publish("a", "hello", QOS_1);
        assert_eq!(clients[0].message().text(), "hello");
    }
}

#[test]
fn a_3_1_1_client_without_an_identifier_needs_a_clean_session() {
    // [MQTT3-3.1.3-7] [MQTT3-3.1.3-8]
    let router = Router::with_shards(2);
    let mut one = router.connect(&v3(""));
    let mut other = router.connect(&v3(""));
    one.ping();
    other.ping();
    let lasting = Connect { clean_start: false, ..v3("") };
    let refused = Client::try_connect(router.address(), &lasting).expect("a CONNACK");
    assert_eq!(refused.greeting.reason, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
}

/// Lets this process open as many files as it may; how many that is.
fn raise_files() -> usize {
    let pid = std::process::id().to_string();
    let prlimit = |arguments: &[&str]| {
        let output = std::process::Command::new("prlimit").args(["--pid", &pid]).args(arguments).output();
        String::from_utf8(output.expect("prlimit is part of util-linux").stdout).expect("text")
    };
    let most = prlimit(&["--nofile", "--raw", "--noheadings", "--output", "HARD"]);
    let most = most.trim();
    prlimit(&[&format!("--nofile={most}:{most}")]);
    most.parse().unwrap_or(usize::MAX)
}

#[test]
fn ten_thousand_connections_that_say_nothing_cost_little_and_are_closed() {
    let (count, files) = (10_000, raise_files());
    assert!(files >= 12_000, "this test needs 12000 open files, the hard limit is {files}: ulimit -Hn 12000");
    let router = Setup::new()
        .shards(2)
        .set("limits.connections_max", 20_000)
        .set("limits.connect_timeout_millis", 8_000)
        .start();
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("a", QOS_1);
    let mut publisher = router.connect(&v5("publisher"));
    let mut is_served = |text: &str| {
        publisher.publish("a", text, QOS_1);
        assert_eq!(subscriber.message().text(), text);
    };
    is_served("before");
    let before = router.memory_bytes();
    let sockets: Vec<_> = (0..count)
        .map(|_| std::net::TcpStream::connect(router.address()).expect("a connection is accepted"))
        .collect();
    is_served("beside them");
    let each = router.memory_bytes().saturating_sub(before) / count as u64;
    assert!(each < 6 << 10, "{each} bytes for each of {count}");
    until("all to be closed", || {
        (router.number("/counters/closed_connect_timeout") >= count as u64).then_some(())
    });
    for mut socket in sockets {
        assert_eq!(std::io::Read::read(&mut socket, &mut [0]).ok(), Some(0), "closed, and not a word");
    }
    is_served("after");
}

/// [MQTT3-3.1.3-9] [MQTT-3.1.3-8]
#[test]
fn an_identifier_that_is_too_long_is_refused() {
    let router = Setup::new().set("limits.client_id_bytes_max", 30).start();
    let long = "x".repeat(31);
    for connect in [v3(&long), v5(&long)] {
        let mut refused = Client::try_connect(router.address(), &connect).expect("a CONNACK");
        assert_eq!(refused.greeting.reason, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
        refused.ending();
    }
    router.connect(&v5(&long[1..]));
}

#[test]
fn nobody_may_connect_unless_anonymous_clients_are_allowed() {
    let router = Setup::new().set("auth.anonymous", false).start();
    for connect in [v3("client"), v5("client")] {
        let mut refused = Client::try_connect(router.address(), &connect).expect("a CONNACK");
        assert_eq!(refused.greeting.reason, ReasonCode::NOT_AUTHORIZED);
        refused.ending();
    }
    router.wait_for("/counters/connects_refused", 2);
}

#[test]
fn an_authentication_method_is_refused() {
    // [MQTT-4.12.0-1]
    let router = Router::with_shards(2);
    let connect = Connect { authentication_method: Some("SCRAM".to_owned()), ..v5("client") };
    let refused = Client::try_connect(router.address(), &connect).expect("a CONNACK");
    assert_eq!(refused.greeting.reason, ReasonCode::BAD_AUTHENTICATION_METHOD);
}

#[test]
fn silence_for_one_and_a_half_keep_alive_periods_ends_the_connection() {
    // [MQTT-3.1.2-22] [MQTT3-3.1.2-24]
    let router = Router::with_shards(2);
    for (connect, reason) in [(v5("new"), Some(ReasonCode::KEEP_ALIVE_TIMEOUT)), (v3("old"), None)] {
        let mut client = router.connect(&Connect { keep_alive_secs: 1, ..connect });
        let begin = Instant::now();
        client.ping();
        assert_eq!(client.ending().reason, reason);
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(1_500), "closed too early, after {took:?}");
        assert!(took < PATIENCE, "closed too late, after {took:?}");
    }
    let closed = r#"millrace_connections_closed_total{reason="keep_alive"}"#;
    until("the counter", || (router.metric(closed) == 2.0).then_some(()));
}

#[test]
fn whoever_pings_or_publishes_within_the_keep_alive_stays() {
    let router = Router::with_shards(2);
    // Seconds between what is asked and what ends it, for a machine that lets us wait.
    let mut pings = router.connect(&Connect { keep_alive_secs: 3, ..v5("pings") });
    let mut publishes = router.connect(&Connect { keep_alive_secs: 3, ..v3("publishes") });
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(10_500) {
        pings.ping();
        publishes.publish("a", "", QOS_0);
        assert!(pings.message_within(Duration::from_millis(250)).is_none());
    }
    pings.ping();
    publishes.ping();
}

#[test]
fn a_connection_without_a_whole_connect_is_closed_in_time() {
    // MQTT 5.0 §3.1.4: "within a reasonable amount of time".
    let router = Setup::new().set("limits.connect_timeout_millis", 300).start();
    let mut connect = Vec::new();
    wire::encode_connect(&mut connect, &v5("client")).expect("a legal CONNECT");
    for start in [&connect[..0], &connect[..1], &connect[..connect.len() - 1]] {
        let mut connection = Connection::open(router.address(), Version::V5).expect("a connection");
        connection.write(start).expect("bytes are taken");
        let begin = Instant::now();
        assert!(connection.receive(PATIENCE).is_err(), "closed without a word");
        assert!(begin.elapsed() < PATIENCE);
    }
    let closed = r#"millrace_connections_closed_total{reason="connect_timeout"}"#;
    until("the counter", || (router.metric(closed) == 3.0).then_some(()));
}

#[test]
fn bytes_may_come_one_by_one() {
    for connect in [v3("slow"), v5("slow")] {
        let router = Router::with_shards(3);
        let mut bytes = Vec::new();
        wire::encode_connect(&mut bytes, &connect).expect("a legal CONNECT");
        let mut connection = Connection::open(router.address(), connect.version).expect("a connection");
        for byte in &bytes {
            connection.write(&[*byte]).expect("a byte is taken");
        }
        let greeting = connection.receive(PATIENCE).expect("a connection");
        assert!(matches!(greeting, Some(Incoming::ConnAck(ack)) if ack.reason == ReasonCode::SUCCESS));
        bytes.clear();
        let publish =
            OutgoingPublish { topic: "a", qos: QOS_1, packet_id: NonZeroU16::new(7), ..Default::default() };
        wire::encode_publish(&mut bytes, connect.version, &publish).expect("a legal PUBLISH");
        for byte in &bytes {
            connection.write(&[*byte]).expect("a byte is taken");
        }
        let ack = connection.receive(PATIENCE).expect("a connection");
        // Nobody subscribes, and 5.0 says so.
        let expected = if connect.version == Version::V5 {
            ReasonCode::NO_MATCHING_SUBSCRIBERS
        } else {
            ReasonCode::SUCCESS
        };
        assert!(
            matches!(ack, Some(Incoming::PubAck(id, reason)) if id.get() == 7 && reason == expected),
            "{ack:?}"
        );
    }
}

#[test]
fn a_client_need_not_wait_for_connack() {
    // MQTT 5.0 §3.1.4: "Clients are allowed to send further packets immediately". Whatever the shard: its bytes move along.
    let router = Router::with_shards(3);
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("a", QOS_1);
    for number in 0..8 {
        let connect = v5(&format!("hasty-{number}"));
        let mut bytes = Vec::new();
        wire::encode_connect(&mut bytes, &connect).expect("a legal CONNECT");
        for packet_id in 1..=20 {
            let payload = format!("{number}/{packet_id}");
            let publish = OutgoingPublish {
                topic: "a",
                payload: payload.as_bytes(),
                qos: QOS_1,
                packet_id: NonZeroU16::new(packet_id),
                ..Default::default()
            };
            wire::encode_publish(&mut bytes, connect.version, &publish).expect("a legal PUBLISH");
        }
        let mut connection = Connection::open(router.address(), connect.version).expect("a connection");
        connection.write(&bytes).expect("bytes are taken");
        let expected: Vec<_> = (1..=20).map(|packet_id| format!("{number}/{packet_id}")).collect();
        assert_eq!(subscriber.texts(20), expected);
        let greeting = connection.receive(PATIENCE).expect("a connection");
        assert!(matches!(greeting, Some(Incoming::ConnAck(_))), "{greeting:?}");
        for packet_id in 1..=20 {
            let ack = connection.receive(PATIENCE).expect("a connection");
            assert!(matches!(ack, Some(Incoming::PubAck(id, _)) if id.get() == packet_id), "{ack:?}");
        }
    }
}

#[test]
fn a_client_gets_no_more_at_once_than_its_receive_maximum() {
    // [MQTT-3.3.4-9]
    for lasting in [false, true] {
        let router = Router::with_shards(2);
        let expiry = if lasting { 60 } else { 0 };
        let receive_max = NonZeroU16::new(3).expect("not 0");
        let connect = Connect { receive_max, session_expiry_secs: expiry, ..v5("small") };
        let mut client = router.connect(&connect).manual();
        client.subscribe("a", QOS_1);
        router.connect(&v5("publisher")).publish_all("a", (0..10).map(|it| it.to_string()));
        let mut open: Vec<_> = client.messages(3);
        for next in 3..10 {
            client.ping();
            let early = client.message_within(Duration::from_millis(20));
            assert!(early.is_none(), "{early:?} came before there was room");
            client.acknowledge(&open.remove(0));
            open.push(client.message());
            assert_eq!(open[2].text(), next.to_string());
        }
        for message in &open {
            client.acknowledge(message);
        }
        client.ping();
        assert!(client.message_within(Duration::ZERO).is_none());
    }
}

#[test]
fn qos_0_does_not_count_towards_the_receive_maximum() {
    let router = Router::with_shards(2);
    let connect = Connect { receive_max: NonZeroU16::MIN, ..v5("small") };
    let mut client = router.connect(&connect).manual();
    client.subscribe("a", QOS_1);
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("a", "one in flight", QOS_1);
    publisher.publish("a", "no flight", QOS_0);
    assert_eq!(client.texts(2), ["one in flight", "no flight"]);
}

#[test]
fn a_client_gets_no_packet_above_its_maximum_and_the_rest_goes_on() {
    // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
    for expiry in [0, 60] {
        let router = Router::with_shards(2);
        let connect =
            Connect { packet_bytes_max: NonZeroU32::new(100), session_expiry_secs: expiry, ..v5("small") };
        let mut client = router.connect(&connect);
        client.subscribe("a", QOS_1);
        let mut publisher = router.connect(&v5("publisher"));
        for qos in [QOS_0, QOS_1] {
            publisher.publish("a", "before", qos);
            publisher.publish("a", [b'x'; 200], qos);
            publisher.publish("a", "after", qos);
        }
        assert_eq!(client.texts(4), ["before", "after", "before", "after"], "expiry {expiry}");
        router.wait_for("/counters/dropped_too_large", 2);
    }
}

#[test]
fn connections_above_the_limit_are_refused_and_counted() {
    let router = Setup::new().set("limits.connections_max", 5).start();
    let mut inside: Vec<_> = (0..5).map(|number| router.connect(&v5(&format!("c-{number}")))).collect();
    until("all five to be counted", || (router.number("/clients") == 5).then_some(()));
    let mut outside = Connection::open(router.address(), Version::V5).expect("the port listens");
    let told = outside.greet(&v5("too many")).expect("a CONNACK");
    assert_eq!(told.reason, ReasonCode::QUOTA_EXCEEDED);
    assert!(router.metric("millrace_connections_refused_total") >= 1.0);
    inside.pop().expect("one of five").disconnect();
    let next = || Client::try_connect(router.address(), &v5("next")).ok();
    until("room for another one", || next().filter(|next| next.greeting.reason == ReasonCode::SUCCESS));
    inside.iter_mut().for_each(Client::ping);
}

#[test]
fn a_session_has_at_most_as_many_subscriptions_as_the_limit() {
    let router = Setup::new().set("limits.subscriptions_per_session_max", 3).start();
    let mut client = router.connect(&v5("client"));
    let wanted = (0..4).map(|number| Subscription::new(format!("a/{number}"), QOS_1)).collect();
    let reasons = client.subscribe_with(wanted, None);
    assert_eq!(reasons[..3], [ReasonCode::GRANTED_QOS_1; 3]);
    assert_eq!(reasons[3], ReasonCode::QUOTA_EXCEEDED);
    client.unsubscribe("a/0");
    client.subscribe("a/4", QOS_1);
}

#[test]
fn an_empty_payload_and_the_largest_one_both_pass() {
    let router = Setup::new().set("limits.packet_bytes_max", 2_097_152).start();
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("a", QOS_1);
    let mut publisher = router.connect(&v3("publisher"));
    // Header 5 bytes, topic 3, packet identifier 2.
    let largest: Vec<u8> = (0..2_097_152 - 10).map(|at: u32| at.to_le_bytes()[0]).collect();
    publisher.publish("a", "", QOS_1);
    publisher.publish("a", &largest, QOS_1);
    assert_eq!(subscriber.message().payload, b"");
    assert!(subscriber.message().payload == largest, "the largest payload is unchanged");
}
