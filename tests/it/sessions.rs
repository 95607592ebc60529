//! Sessions that outlive their connections, and what waits for them: across disconnects, restarts and SIGKILL.

use std::time::{Duration, Instant};

use harness::{
    Client, Connect, OutgoingPublish, QOS_0, QOS_1, ReasonCode, Received, Router, Setup, until, v3, v5,
};
use wire::Disconnect;

/// A session of MQTT 5 that is kept for a day, and is found again.
fn lasting(client_id: &str) -> Connect {
    Connect { clean_start: false, session_expiry_secs: 86_400, ..v5(client_id) }
}

/// A session of 3.1.1 that is kept, and is found again.
fn lasting_v3(client_id: &str) -> Connect {
    Connect { clean_start: false, ..v3(client_id) }
}

fn both(client_id: &str) -> [Connect; 2] {
    [lasting(client_id), lasting_v3(client_id)]
}

/// What a person would call the same message: place, name on the wire, repeat or not.
fn key(message: &Received) -> (String, u16, bool) {
    (message.text().to_owned(), message.packet_id.map_or(0, |id| id.get()), message.dup)
}

#[track_caller]
fn expect_numbers(messages: &[Received], from: usize) {
    let texts: Vec<_> = messages.iter().map(|message| message.text().to_owned()).collect();
    let expected: Vec<_> = (from..from + messages.len()).map(|number| number.to_string()).collect();
    assert_eq!(texts, expected);
}

#[test]
fn a_new_session_is_not_present_and_a_kept_one_is() {
    for connect in both("client") {
        let router = Router::with_shards(2);
        let client = router.connect(&connect);
        assert!(!client.greeting.session_present);
        client.disconnect();
        let again = router.connect(&connect);
        assert!(again.greeting.session_present);
        again.vanish();
        assert!(router.connect(&connect).greeting.session_present, "nor does an abnormal end lose it");
    }
}

#[test]
fn a_clean_start_forgets_subscriptions_and_messages() {
    for connect in both("client") {
        let router = Router::with_shards(2);
        let mut client = router.connect(&connect);
        client.subscribe("a", QOS_1);
        client.disconnect();
        let mut publisher = router.connect(&v5("publisher"));
        publisher.publish("a", "forgotten", QOS_1);
        let clean = Connect { clean_start: true, ..connect.clone() };
        let mut client = router.connect(&clean);
        assert!(!client.greeting.session_present);
        publisher.publish("a", "not subscribed", QOS_1);
        client.subscribe("a", QOS_1);
        publisher.publish("a", "first", QOS_1);
        assert_eq!(client.message().text(), "first");
    }
}

#[test]
fn a_clean_session_ends_with_its_connection() {
    for connect in [v3("client"), v5("client")] {
        let router = Router::with_shards(2);
        let mut client = router.connect(&connect);
        client.subscribe("a", QOS_1);
        client.disconnect();
        let again = router.connect(&Connect { clean_start: false, ..connect });
        assert!(!again.greeting.session_present);
    }
}

#[test]
fn messages_wait_for_a_kept_session_and_come_in_order() {
    for shards in 1..=3 {
        for connect in both("client") {
            let router = Router::with_shards(shards);
            let mut client = router.connect(&connect);
            client.subscribe("a/+", QOS_1);
            client.disconnect();
            let mut publisher = router.connect(&v5("publisher"));
            publisher.publish_all("a/b", (0..500).map(|number| number.to_string()));
            let mut client = router.connect(&connect);
            let messages = client.messages(500);
            expect_numbers(&messages, 0);
            assert!(messages.iter().all(|message| !message.dup), "none was sent before");
        }
    }
}

#[test]
fn qos_0_does_not_wait_for_a_kept_session() {
    let router = Router::with_shards(2);
    let mut client = router.connect(&lasting("client"));
    client.subscribe("a", QOS_1);
    client.disconnect();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("a", "lost", QOS_0);
    publisher.publish("a", "kept", QOS_1);
    assert_eq!(router.connect(&lasting("client")).message().text(), "kept");
}

#[test]
fn what_was_not_acknowledged_comes_again_with_its_packet_identifier_and_dup() {
    // [MQTT-4.4.0-1] [MQTT-3.3.1-1]
    for connect in both("client") {
        let router = Router::with_shards(2);
        let mut client = router.connect(&connect).manual();
        client.subscribe("a", QOS_1);
        let mut publisher = router.connect(&v5("publisher"));
        publisher.publish_all("a", (0..10).map(|number| number.to_string()));
        let first = client.messages(10);
        assert!(first.iter().all(|message| !message.dup));
        for message in &first[..4] {
            client.acknowledge(message);
        }
        client.ping();
        client.vanish();
        let mut client = router.connect(&connect).manual();
        let again = client.messages(6);
        let expected: Vec<_> =
            first[4..].iter().map(|it| (it.text().to_owned(), it.packet_id, true)).collect();
        let got: Vec<_> = again.iter().map(|it| (it.text().to_owned(), it.packet_id, it.dup)).collect();
        assert_eq!(got, expected);
        publisher.publish("a", "10", QOS_1);
        assert_eq!(
            key(&client.message()),
            ("10".to_owned(), first[9].packet_id.map_or(0, |id| id.get()) + 1, false)
        );
    }
}

#[test]
fn an_acknowledgement_out_of_order_holds_back_only_what_is_before_it() {
    let router = Router::with_shards(1);
    let mut client = router.connect(&lasting("client")).manual();
    client.subscribe("a", QOS_1);
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish_all("a", ["0", "1", "2", "3"]);
    let messages = client.messages(4);
    // 2 and 3 are done, 0 and 1 are not: at least these come again, and nothing is lost.
    client.acknowledge(&messages[3]);
    client.acknowledge(&messages[2]);
    client.ping();
    client.vanish();
    publisher.publish("a", "4", QOS_1);
    let mut client = router.connect(&lasting("client")).manual();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|text| text != "4") {
        seen.push(client.message().text().to_owned());
    }
    assert_eq!(seen[..2], ["0", "1"]);
}

/// How a router goes down in a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Down {
    Stop,
    Kill,
}

impl Down {
    #[track_caller]
    fn up_again(self, router: &mut Router) {
        match self {
            Down::Stop => assert_eq!(router.terminate().code(), Some(0)),
            Down::Kill => router.kill(),
        }
        router.start_again();
    }
}

#[track_caller]
fn check_waiting_messages_survive(down: Down) {
    for shards in 1..=3 {
        for connect in both("client") {
            let mut router = Router::with_shards(shards);
            let mut client = router.connect(&connect).manual();
            client.subscribe("a/#", QOS_1);
            router.connect(&v3("publisher")).publish_all("a/b", (0..50).map(|it| it.to_string()));
            let first = client.messages(50);
            for message in &first[..20] {
                client.acknowledge(message);
            }
            client.ping();
            client.disconnect();
            router.connect(&v3("publisher")).publish_all("a/b", (50..300).map(|it| it.to_string()));
            down.up_again(&mut router);
            let mut client = router.connect(&connect).manual();
            assert!(client.greeting.session_present);
            let again = messages_up_to(&mut client, "299");
            let lost = again[0].text().parse::<usize>().expect("a number");
            // A position is written with the next group, not by itself: a kill may bring acknowledged ones back.
            assert!(lost <= 20, "{lost} is lost");
            assert!(down == Down::Kill || lost == 20, "a clean stop keeps every position, not {lost}");
            expect_numbers(&again, lost);
            for message in &again {
                let number = message.text().parse::<usize>().expect("a number");
                if number < 50 {
                    assert_eq!(message.packet_id, first[number].packet_id, "{number} keeps its identifier");
                }
                assert_eq!(message.dup, number < 50, "DUP of {number} after {down:?}");
            }
        }
    }
}

#[track_caller]
fn messages_up_to(client: &mut Client, last: &str) -> Vec<Received> {
    let mut messages = Vec::new();
    loop {
        messages.push(client.message());
        if messages.last().is_some_and(|message| message.text() == last) {
            return messages;
        }
    }
}

#[test]
fn waiting_messages_survive_a_clean_restart_in_order_with_identifiers_and_dup() {
    check_waiting_messages_survive(Down::Stop);
}

#[test]
fn waiting_messages_survive_a_kill_in_order_with_identifiers_and_dup() {
    check_waiting_messages_survive(Down::Kill);
}

#[test]
fn messages_in_flight_to_a_connected_client_survive_a_kill_with_dup() {
    for connect in both("client") {
        let mut router = Router::with_shards(2);
        let mut client = router.connect(&connect).manual();
        client.subscribe("a", QOS_1);
        router.connect(&v5("publisher")).publish_all("a", (0..20).map(|it| it.to_string()));
        let first = client.messages(20);
        Down::Kill.up_again(&mut router);
        let again = router.connect(&connect).manual().messages(20);
        for (before, after) in first.iter().zip(&again) {
            assert_eq!((before.text(), before.packet_id), (after.text(), after.packet_id));
            assert!(after.dup, "{} was sent before the kill", after.text());
        }
    }
}

#[test]
fn subscriptions_survive_restarts_and_an_unsubscribed_one_does_not_come_back() {
    for down in [Down::Stop, Down::Kill] {
        for shards in 1..=3 {
            let mut router = Router::with_shards(shards);
            let mut client = router.connect(&lasting("client"));
            client.subscribe("kept/+", QOS_1);
            client.subscribe("gone", QOS_1);
            assert_eq!(client.unsubscribe("gone"), Some(ReasonCode::SUCCESS));
            down.up_again(&mut router);
            let mut publisher = router.connect(&v5("publisher"));
            publisher.publish("gone", "x", QOS_1);
            publisher.publish("kept/1", "while away", QOS_1);
            let mut client = router.connect(&lasting("client"));
            assert!(client.greeting.session_present);
            assert_eq!(client.message().text(), "while away", "{down:?} on {shards} shards");
            publisher.publish("kept/2", "while here", QOS_1);
            assert_eq!(client.message().text(), "while here");
        }
    }
}

#[test]
fn sessions_move_to_their_homes_when_the_number_of_shards_changes() {
    let mut router = Router::with_shards(3);
    for number in 0..12 {
        let mut client = router.connect(&lasting(&format!("client-{number}")));
        client.subscribe(&format!("to/{number}"), QOS_1);
        client.disconnect();
    }
    let mut publisher = router.connect(&v5("publisher"));
    for number in 0..12 {
        publisher.publish(&format!("to/{number}"), number.to_string(), QOS_1);
    }
    router.terminate();
    router.reconfigure("shards", 1);
    router.start_again();
    for number in 0..12 {
        let mut client = router.connect(&lasting(&format!("client-{number}")));
        assert!(client.greeting.session_present);
        assert_eq!(client.message().text(), number.to_string());
    }
}

/// Waits until so many seconds of expiry that began before `begin` are over, and the router has noticed.
#[track_caller]
fn until_expired(router: &Router, secs: u32, begin: Instant) {
    // The number alone could be from before there was a session: it is published a few times a second.
    let time = Duration::from_secs(secs.into()) + Duration::from_millis(500);
    let over = || begin.elapsed() > time && router.number("/sessions") == 0;
    until("the end of the session", || over().then_some(()));
}

#[test]
fn a_session_ends_when_its_expiry_is_over() {
    let router = Router::with_shards(2);
    let connect = Connect { session_expiry_secs: 4, ..lasting("client") };
    router.connect(&connect).disconnect();
    assert!(router.connect(&connect).greeting.session_present, "not before");
    until_expired(&router, 4, Instant::now());
    assert!(!router.connect(&connect).greeting.session_present);
}

#[test]
fn expiry_goes_on_while_the_router_is_down() {
    for down in [Down::Stop, Down::Kill] {
        let mut router = Router::with_shards(2);
        let connect = Connect { session_expiry_secs: 1, ..lasting("client") };
        let mut client = router.connect(&connect);
        client.subscribe("a", QOS_1);
        client.disconnect();
        let begin = Instant::now();
        down.up_again(&mut router);
        until_expired(&router, 1, begin);
        assert!(!router.connect(&connect).greeting.session_present);
    }
}

#[test]
fn disconnect_may_change_the_expiry() {
    // MQTT 5.0 §3.14.2.2.2
    let router = Router::with_shards(2);
    let now = Disconnect { session_expiry_secs: Some(0), ..Disconnect::default() };
    router.connect(&lasting("client")).disconnect_with(&now);
    assert!(!router.connect(&lasting("client")).greeting.session_present);
}

#[test]
fn disconnect_may_not_raise_the_expiry_from_zero() {
    let router = Router::with_shards(2);
    let mut client = router.connect(&v5("client"));
    let later = Disconnect { session_expiry_secs: Some(60), ..Disconnect::default() };
    let mut out = Vec::new();
    wire::encode_disconnect(&mut out, harness::Version::V5, &later).expect("legal bytes");
    client.write(&out);
    assert_eq!(client.ending().reason, Some(ReasonCode::PROTOCOL_ERROR));
}

#[test]
fn the_expiry_granted_is_at_most_the_limit_and_the_client_is_told() {
    let router = Setup::new().set("limits.session_expiry_secs_max", 60).start();
    assert_eq!(router.connect(&lasting("greedy")).greeting.session_expiry_secs, Some(60));
    let modest = Connect { session_expiry_secs: 30, ..lasting("modest") };
    assert_eq!(router.connect(&modest).greeting.session_expiry_secs, None);
}

#[test]
fn a_second_connection_takes_over_and_the_first_hears_why() {
    for shards in 1..=3 {
        let router = Router::with_shards(shards);
        let mut first = router.connect(&lasting("client"));
        first.subscribe("a", QOS_1);
        let mut second = router.connect(&lasting("client"));
        assert!(second.greeting.session_present);
        assert_eq!(first.ending().reason, Some(ReasonCode::SESSION_TAKEN_OVER));
        router.connect(&v5("publisher")).publish("a", "to the second", QOS_1);
        assert_eq!(second.message().text(), "to the second");
        until("the counter", || {
            (router.metric(r#"millrace_connections_closed_total{reason="taken_over"}"#) == 1.0).then_some(())
        });
    }
}

#[test]
fn a_taken_over_3_1_1_client_is_closed_without_a_word() {
    let router = Router::with_shards(2);
    let mut first = router.connect(&v3("client"));
    let _second = router.connect(&v3("client"));
    assert_eq!(first.ending().reason, None);
}

#[test]
fn a_take_over_goes_on_with_what_was_in_flight() {
    let router = Router::with_shards(3);
    let mut first = router.connect(&lasting("client")).manual();
    first.subscribe("a", QOS_1);
    router.connect(&v5("publisher")).publish_all("a", ["0", "1", "2"]);
    let seen = first.messages(3);
    first.acknowledge(&seen[0]);
    first.ping();
    let again = router.connect(&lasting("client")).messages(2);
    let keys: Vec<_> = again.iter().map(key).collect();
    let id = |at: usize| seen[at].packet_id.map_or(0, |id| id.get());
    assert_eq!(keys, [("1".to_owned(), id(1), true), ("2".to_owned(), id(2), true)]);
}

#[test]
fn a_stored_session_that_is_full_drops_and_counts() {
    let router = Setup::new().set("limits.session_stored_messages_max", 10).start();
    let mut client = router.connect(&lasting("client"));
    client.subscribe("a", QOS_1);
    client.disconnect();
    router.connect(&v5("publisher")).publish_all("a", (0..25).map(|it| it.to_string()));
    let mut client = router.connect(&lasting("client"));
    expect_numbers(&client.messages(10), 0);
    router.wait_for("/counters/dropped_session_full", 15);
    let publish = OutgoingPublish { topic: "a", payload: b"again", qos: QOS_1, ..Default::default() };
    router.connect(&v5("publisher")).publish_with(&publish);
    assert_eq!(client.message_within(Duration::from_secs(10)).map(|it| it.payload), Some(b"again".to_vec()));
}
