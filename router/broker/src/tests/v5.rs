//! What MQTT 5.0 adds around the messages: properties that pass through, words, sizes, hints.

use std::num::NonZeroU32;
use std::sync::Arc;

use model::{Limits, Qos};
use wire::{BlockBuilder, ReasonCode, Version};

use crate::testbench::{Bench, Seen};
use crate::{Offers, Plan, Redirect};

/// A block with everything that passes through, user properties in an order that sorting would change.
fn properties() -> Vec<u8> {
    let mut block = BlockBuilder::new();
    block.payload_is_utf8(true).user("b", "2").unwrap();
    block.content_type("text/plain").unwrap().response_topic("answers/1").unwrap();
    block.correlation(&[0, 255, 7]).unwrap().user("a", "1").unwrap().user("b", "2").unwrap();
    block.into_bytes()
}

fn offering(offers: Offers, limits: Limits) -> Bench {
    let mut bench = Bench::with(1, limits, Plan::empty());
    bench.offers = Arc::new(offers);
    bench.crash(); // starts again, with the offers
    bench
}

/// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
#[test]
fn properties_pass_through_every_way_a_message_can_go() {
    let block = properties();
    let mut bench = Bench::new(2);
    let publisher = bench.client("p", Version::V5, 0);
    let (here, there) = (bench.client("here", Version::V5, 0), bench.client("there", Version::V5, 1));
    let (stored, aliased) = (bench.client("stored", Version::V5, 1), bench.client("aliased", Version::V5, 0));
    for client in [publisher, here, there] {
        bench.connect(client);
    }
    let mut connect = bench.hello(aliased);
    connect.topic_alias_max = 9;
    bench.connect_with(aliased, &connect);
    bench.resume(stored);
    bench.settle();
    bench.take(aliased);
    for client in [here, there, stored, aliased] {
        bench.subscribe(client, "t/#", Qos::AtLeastOnce);
    }
    bench.cut(stored);
    bench.publish_with(publisher, "t/long/enough", "x", 1, |publish| publish.properties = &block);
    bench.settle();
    bench.resume(stored);
    for client in [here, there, stored, aliased] {
        let mut got = bench.got(client).remove(0);
        got.properties.retain({
            let mut skip = if got.alias == 0 { 0 } else { 3 }; // the alias itself comes first
            move |_| {
                skip -= i32::from(skip > 0);
                skip == 0
            }
        });
        assert!(got.properties.ends_with(&block), "{:?}", bench.clients[client].id);
    }
}

/// MQTT 5.0 §3.1.3.2 [MQTT-3.1.3-10]
#[test]
fn a_will_keeps_its_properties() {
    let block = properties();
    let mut bench = Bench::new(2);
    let (watcher, client) = (bench.client("w", Version::V5, 1), bench.client("c", Version::V5, 0));
    bench.connect(watcher);
    bench.subscribe(watcher, "will", Qos::AtLeastOnce);
    let mut connect = bench.hello(client);
    let will = wire::Will { topic: "will".into(), properties: block.clone(), ..wire::Will::default() };
    connect.will = Some(will);
    bench.connect_with(client, &connect);
    bench.cut(client);
    bench.settle();
    let got = bench.got(watcher).remove(0);
    // The encoder of this test's CONNECT writes user properties behind the others, in their own order.
    let told = |block: &[u8]| {
        let block = wire::PublishProperties::from_block(block).unwrap();
        let own = |text: (&str, &str)| (text.0.to_owned(), text.1.to_owned());
        (
            block.payload_is_utf8(),
            block.content_type().map(str::to_owned),
            block.response_topic().map(str::to_owned),
            block.correlation().map(<[u8]>::to_vec),
            block.user_properties().map(own).collect::<Vec<_>>(),
        )
    };
    assert_eq!(told(&got.properties), told(&block));
}

/// [MQTT-3.2.2-19] [MQTT-3.9.2-1] [MQTT-3.14.2-3]
#[test]
fn reasons_come_with_words() {
    let limits = Limits { subscriptions_per_session_max: 1, client_id_bytes_max: 30, ..Limits::DEFAULT };
    let mut bench = Bench::with(1, limits, Plan::empty());
    let client = bench.client("c", Version::V5, 0);
    bench.connect(client);
    for (filter, words) in [
        ("b", "limits.subscriptions_per_session_max (1) is reached"),
        (&"x".repeat(5_000), "limits.topic_bytes_max (4096)"),
    ] {
        bench.subscribe_with(client, "a", Qos::AtMostOnce, 0, |_| {});
        bench.subscribe_with(client, filter, Qos::AtMostOnce, 0, |_| {});
        let said = bench.clients[client].subacks.pop().unwrap().reason_string.unwrap();
        assert!(said.contains(words) && said.len() < 300, "{said}");
        assert_eq!(bench.clients[client].subacks.pop().unwrap().reason_string, None, "nothing is to be said");
    }
    bench.send(client, &[0x90, 0x00]);
    let said = bench.clients[client].disconnects.pop().unwrap().reason_string.unwrap();
    assert!(!said.is_empty());
    let mut connect = bench.hello(client);
    connect.client_id = "x".repeat(31);
    bench.connect_with(client, &connect);
    let said = bench.clients[client].connacks.pop().unwrap().reason_string.unwrap();
    assert!(said.contains("limits.client_id_bytes_max (30)"), "{said}");
}

/// [MQTT-3.1.2-29]
#[test]
fn who_wants_no_words_gets_none() {
    let mut bench = Bench::new(1);
    let client = bench.client("c", Version::V5, 0);
    let mut connect = bench.hello(client);
    connect.request_problem_information = false;
    bench.connect_with(client, &connect);
    bench.subscribe_with(client, &"a/".repeat(70), Qos::AtMostOnce, 0, |_| {});
    bench.send(client, &[0x90, 0x00]);
    let player = &bench.clients[client];
    assert_eq!(player.subacks[0].reasons, [ReasonCode::TOPIC_FILTER_INVALID]);
    assert_eq!(player.subacks[0].reason_string, None);
    assert_eq!(player.disconnects.len(), 1);
    assert_eq!(player.disconnects[0].reason_string, None);
}

/// [MQTT-3.1.2-24] [MQTT-3.1.2-25] [MQTT-3.9.2-1] [MQTT-3.14.2-3]
#[test]
fn nothing_is_longer_than_the_client_takes() {
    let mut bench = Bench::new(1);
    let client = bench.client("c", Version::V5, 0);
    let mut connect = bench.hello(client);
    connect.packet_bytes_max = NonZeroU32::new(40);
    bench.connect_with(client, &connect);
    assert_eq!(bench.take(client), [Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS }]);
    bench.subscribe_with(client, &"a/".repeat(70), Qos::AtMostOnce, 0, |_| {});
    assert_eq!(bench.clients[client].subacks.pop().unwrap().reason_string, None, "words are left out first");
    bench.take(client);
    bench.subscribe(client, "t", Qos::AtLeastOnce);
    bench.publish(client, "t", &"x".repeat(40), 1);
    bench.publish(client, "t", "fits", 2);
    let got = bench.take(client);
    assert_eq!(bench.counters().dropped_too_large, 1, "as if sent");
    assert!(got.iter().any(|seen| matches!(seen, Seen::Publish(got) if got.text() == "fits")));
    let subscription = wire::Subscription::new("t", Qos::AtMostOnce);
    let subscribe = wire::Subscribe {
        packet_id: std::num::NonZeroU16::new(9).unwrap(),
        subscription_id: None,
        user_properties: Vec::new(),
        subscriptions: vec![subscription; 60],
    };
    let mut bytes = Vec::new();
    wire::encode_subscribe(&mut bytes, Version::V5, &subscribe).unwrap();
    bench.send(client, &bytes);
    assert_eq!(bench.take(client), [Seen::Disconnect(ReasonCode::PACKET_TOO_LARGE), Seen::Closed]);
    assert!(bench.clients[client].longest <= 40, "{}", bench.clients[client].longest);
}

/// [MQTT-3.1.2-24]
#[test]
fn a_client_that_cannot_take_connack_gets_no_session() {
    for (bytes_max, seen) in [
        (12, vec![Seen::ConnAck { present: false, reason: ReasonCode::PACKET_TOO_LARGE }, Seen::Closed]),
        (4, vec![Seen::Closed]),
    ] {
        let mut bench = Bench::new(1);
        let client = bench.client("c", Version::V5, 0);
        let mut connect = bench.hello(client);
        connect.packet_bytes_max = NonZeroU32::new(bytes_max);
        bench.connect_with(client, &connect);
        assert_eq!(bench.take(client), seen);
        assert_eq!((bench.brokers[0].sessions(), bench.counters().connects_refused), (0, 1));
    }
}

/// [MQTT-3.1.2-28]
#[test]
fn response_information_is_for_those_who_ask() {
    let offers = Offers { response_information: Some("answers/%c/".into()), ..Offers::default() };
    let mut bench = offering(offers, Limits::DEFAULT);
    let client = bench.client("c", Version::V5, 0);
    for wanted in [true, false] {
        let mut connect = bench.hello(client);
        connect.request_response_information = wanted;
        connect.request_problem_information = false;
        bench.connect_with(client, &connect);
        let expected = wanted.then(|| format!("answers/{}/", bench.clients[client].id));
        assert_eq!(bench.clients[client].connacks.pop().unwrap().response_information, expected);
    }
}

/// [MQTT-3.2.2-21] [MQTT-3.2.2-22] [MQTT-3.1.2-22]
#[test]
fn a_keep_alive_that_is_too_long_is_replaced() {
    let limits = Limits { keep_alive_secs_max: 100, ..Limits::DEFAULT };
    for (wanted, told, silent_after) in
        [(0, Some(100), 150), (101, Some(100), 150), (100, None, 150), (40, None, 60)]
    {
        let mut bench = Bench::with(1, limits.clone(), Plan::empty());
        let client = bench.client("c", Version::V5, 0);
        let mut connect = bench.hello(client);
        connect.keep_alive_secs = wanted;
        bench.connect_with(client, &connect);
        assert_eq!(bench.clients[client].connacks[0].keep_alive_secs, told);
        bench.take(client);
        bench.pass(silent_after * 1_000);
        assert_eq!(bench.take(client), []);
        bench.pass(1);
        assert_eq!(bench.take(client), [Seen::Disconnect(ReasonCode::KEEP_ALIVE_TIMEOUT), Seen::Closed]);
    }
}

/// MQTT 5.0 §3.2.2.3.2, §3.2.2.3.14: the client is told only what differs from what it asked for.
#[test]
fn connack_says_what_differs() {
    let limits = Limits { session_expiry_secs_max: 500, ..Limits::DEFAULT };
    let mut bench = Bench::with(1, limits, Plan::empty());
    for (wanted, told) in [(0, None), (500, None), (501, Some(500)), (u32::MAX, Some(500))] {
        let client = bench.client("c", Version::V5, 0);
        let mut connect = bench.hello(client);
        connect.session_expiry_secs = wanted;
        bench.connect_with(client, &connect);
        bench.settle();
        let ack = bench.clients[client].connacks.pop().unwrap();
        assert_eq!(
            (ack.session_expiry_secs, ack.keep_alive_secs, ack.assigned_client_id),
            (told, None, None)
        );
    }
}

/// MQTT 5.0 §4.11
#[test]
fn a_server_that_stops_says_where_to_go() {
    let redirect = Some(Redirect { to: "spare:1883".into(), moved: false });
    let mut bench = offering(Offers { redirect, ..Offers::default() }, Limits::DEFAULT);
    let (new, old) = (bench.client("new", Version::V5, 0), bench.client("old", Version::V3, 0));
    bench.connect(new);
    bench.connect(old);
    bench.shut_down();
    assert_eq!(bench.take(new), [Seen::Disconnect(ReasonCode::USE_ANOTHER_SERVER), Seen::Closed]);
    assert_eq!(bench.clients[new].disconnects[0].server_reference.as_deref(), Some("spare:1883"));
    assert_eq!(bench.take(old), [Seen::Closed]);
}

/// MQTT 5.0 §4.11
#[test]
fn a_server_that_has_moved_lets_nobody_in() {
    let redirect = Some(Redirect { to: "spare:1883".into(), moved: true });
    let mut bench = offering(Offers { redirect, ..Offers::default() }, Limits::DEFAULT);
    for (version, reason) in
        [(Version::V5, ReasonCode::SERVER_MOVED), (Version::V3, ReasonCode::SERVER_UNAVAILABLE)]
    {
        let client = bench.client("c", version, 0);
        bench.connect_with(client, &bench.hello(client));
        assert_eq!(bench.take(client), [Seen::ConnAck { present: false, reason }, Seen::Closed]);
        let reference = bench.clients[client].connacks[0].server_reference.clone();
        assert_eq!(reference.as_deref(), (version == Version::V5).then_some("spare:1883"));
    }
}

/// [MQTT-4.12.0-1] [MQTT-4.12.0-6] [MQTT-4.12.0-7] [MQTT-4.12.1-1]
#[test]
fn there_is_no_extended_authentication() {
    let mut bench = Bench::new(1);
    let client = bench.client("c", Version::V5, 0);
    let mut connect = bench.hello(client);
    connect.authentication_method = Some("SCRAM-SHA-256".into());
    bench.connect_with(client, &connect);
    let reason = ReasonCode::BAD_AUTHENTICATION_METHOD;
    assert_eq!(bench.take(client), [Seen::ConnAck { present: false, reason }, Seen::Closed]);
    for reason in [ReasonCode::CONTINUE_AUTHENTICATION, ReasonCode::RE_AUTHENTICATE] {
        bench.connect(client);
        let ack = bench.clients[client].connacks.pop().unwrap();
        assert_eq!((ack.authentication_method, ack.authentication_data), (None, None));
        let auth = wire::Auth { reason, method: Some("SCRAM-SHA-256".into()), ..wire::Auth::default() };
        let mut bytes = Vec::new();
        wire::encode_auth(&mut bytes, &auth).unwrap();
        bench.send(client, &bytes);
        assert_eq!(bench.take(client), [Seen::Disconnect(ReasonCode::PROTOCOL_ERROR), Seen::Closed]);
    }
}

/// MQTT 5.0 §3.3.2.3.2
#[test]
fn a_payload_is_what_its_publisher_calls_it_if_that_is_checked() {
    let mut block = BlockBuilder::new();
    block.payload_is_utf8(true);
    let checked = Offers { check_payload_format: true, ..Offers::default() };
    for (offers, refused) in [(checked, true), (Offers::default(), false)] {
        let mut bench = offering(offers, Limits::DEFAULT);
        let client = bench.client("c", Version::V5, 0);
        bench.connect(client);
        for id in [1, 0] {
            bench.publish_with(client, "t", "", id, |publish| {
                (publish.payload, publish.properties) = (&[0xFF], block.as_bytes());
            });
        }
        bench.publish_with(client, "t", "ü", 2, |publish| publish.properties = block.as_bytes());
        let seen = bench.take(client);
        if refused {
            let reason = ReasonCode::PAYLOAD_FORMAT_INVALID;
            let ack = Seen::Refused(wire::AckKind::PubAck, 1, reason);
            assert_eq!(seen, [ack, Seen::Disconnect(reason), Seen::Closed]);
        } else {
            assert_eq!(seen, [Seen::PubAck(1), Seen::PubAck(2)]);
        }
        assert_eq!(bench.counters().dropped_payload_format, if refused { 2 } else { 0 });
    }
}

/// [MQTT3-3.9.3-2] [MQTT-3.9.3-2] [MQTT-3.11.3-1]
#[test]
fn a_refused_filter_has_a_code_of_its_version() {
    for (version, reason) in
        [(Version::V5, ReasonCode::TOPIC_FILTER_INVALID), (Version::V3, ReasonCode::UNSPECIFIED_ERROR)]
    {
        let mut bench = Bench::new(1);
        let client = bench.client("c", version, 0);
        bench.connect(client);
        bench.subscribe_with(client, &"a/".repeat(70), Qos::AtLeastOnce, 0, |_| {});
        assert_eq!(bench.take(client), [Seen::SubAck(vec![reason])]);
        bench.unsubscribe(client, "never");
        let codes =
            if version == Version::V5 { vec![ReasonCode::NO_SUBSCRIPTION_EXISTED] } else { Vec::new() };
        assert_eq!(bench.take(client), [Seen::UnsubAck(codes)]);
    }
}

/// [MQTT-3.1.4-4] MQTT 5.0 §3.2.2.2: 0x9F and 0x97 from the door, with the limit that was crossed.
#[test]
fn who_is_turned_away_at_the_door_hears_why() {
    for (reason, words, v3) in [
        (ReasonCode::CONNECTION_RATE_EXCEEDED, "limits.connects_per_sec_max", ReasonCode::SERVER_UNAVAILABLE),
        (ReasonCode::QUOTA_EXCEEDED, "limits.connections_max", ReasonCode::SERVER_UNAVAILABLE),
    ] {
        for version in [Version::V5, Version::V3] {
            let mut bench = Bench::new(2);
            let client = bench.client("c", version, 1);
            bench.peer.turned_away = Some(reason);
            bench.connect_with(client, &bench.hello(client));
            let said = bench.clients[client].connacks[0].reason_string.clone().unwrap_or_default();
            let is_new = version == Version::V5;
            let reason = if is_new { reason } else { v3 };
            assert_eq!(bench.take(client), [Seen::ConnAck { present: false, reason }, Seen::Closed]);
            assert!(said.contains(words) == is_new, "{said}");
            assert_eq!((bench.counters().connects_refused, bench.brokers[1].sessions()), (1, 0));
        }
    }
}

/// Subscriptions are bounded over all sessions, too; what is known is renewed all the same.
#[test]
fn subscriptions_of_all_sessions_are_bounded() {
    let limits = Limits { subscriptions_max: 3, ..Limits::DEFAULT };
    let mut bench = Bench::with(1, limits, Plan::empty());
    let (one, two) = (bench.client("one", Version::V5, 0), bench.client("two", Version::V5, 0));
    for client in [one, two] {
        bench.connect(client);
    }
    bench.subscribe(one, "a", Qos::AtMostOnce);
    bench.subscribe(one, "$share/g/a", Qos::AtMostOnce);
    bench.subscribe(two, "a", Qos::AtMostOnce);
    bench.subscribe_with(two, "b", Qos::AtMostOnce, 0, |_| {});
    assert_eq!(bench.take(two), [Seen::SubAck(vec![ReasonCode::QUOTA_EXCEEDED])]);
    let said = bench.clients[two].subacks.pop().unwrap().reason_string.unwrap();
    assert!(said.contains("limits.subscriptions_max (3)"), "{said}");
    assert_eq!(bench.counters().subscriptions_refused, 1);
    bench.subscribe(two, "a", Qos::AtLeastOnce);
    bench.cut(one);
    bench.subscribe(two, "b", Qos::AtMostOnce);
    bench.subscribe(two, "$share/g/b", Qos::AtMostOnce);
}
