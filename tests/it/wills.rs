//! The will: published when a client is gone without goodbye, and only then.

use std::time::{Duration, Instant};

use harness::{
    BlockBuilder, Client, Connect, QOS_0, QOS_1, QOS_2, ReasonCode, Received, Router, Signal, until, v3, v5,
};
use wire::{Disconnect, Will};

fn will() -> Will {
    Will { topic: "wills/client".to_owned(), payload: b"gone".to_vec(), qos: QOS_1, ..Will::default() }
}

fn with_will(connect: Connect) -> Connect {
    Connect { will: Some(will()), ..connect }
}

#[track_caller]
fn observer(router: &Router) -> Client {
    let mut observer = router.connect(&v5("observer"));
    observer.subscribe("wills/#", QOS_1);
    observer
}

/// Proves that no will came: it would have come before what is published after the connection's end.
#[track_caller]
fn expect_no_will(router: &Router, observer: &mut Client) {
    // The end of a connection and a later publication of somebody else have no order between them.
    until("the end of the connection", || (router.number("/clients") == 1).then_some(()));
    router.connect(&v5("fence")).publish("wills/fence", "", QOS_1);
    assert_eq!(observer.message().topic, "wills/fence");
}

#[test]
fn a_client_that_vanishes_leaves_its_will() {
    // [MQTT-3.1.2-8] [MQTT3-3.1.2-8]
    for shards in 1..=3 {
        for connect in [v3("client"), v5("client")] {
            let router = Router::with_shards(shards);
            let mut observer = observer(&router);
            router.connect(&with_will(connect)).vanish();
            let message = observer.message();
            assert_eq!(
                (message.topic.as_str(), message.text(), message.qos),
                ("wills/client", "gone", QOS_1)
            );
        }
    }
}

#[test]
fn a_client_that_says_goodbye_leaves_none() {
    // [MQTT-3.14.4-3] [MQTT3-3.1.2-10]
    for connect in [v3("client"), v5("client")] {
        let router = Router::with_shards(2);
        let mut observer = observer(&router);
        router.connect(&with_will(connect)).disconnect();
        expect_no_will(&router, &mut observer);
    }
}

#[test]
fn a_goodbye_with_will_leaves_it() {
    let router = Router::with_shards(2);
    let mut observer = observer(&router);
    let goodbye = Disconnect::new(ReasonCode::DISCONNECT_WITH_WILL_MESSAGE);
    router.connect(&with_will(v5("client"))).disconnect_with(&goodbye);
    assert_eq!(observer.message().text(), "gone");
}

#[test]
fn silence_beyond_the_keep_alive_leaves_the_will() {
    let router = Router::with_shards(2);
    let mut observer = observer(&router);
    let mut silent = router.connect(&Connect { keep_alive_secs: 1, ..with_will(v5("client")) });
    silent.ending();
    assert_eq!(observer.message().text(), "gone");
}

#[test]
fn a_broken_packet_leaves_the_will() {
    let router = Router::with_shards(2);
    let mut observer = observer(&router);
    router.connect(&with_will(v3("client"))).write(&[0x00, 0x00]);
    assert_eq!(observer.message().text(), "gone");
}

#[test]
fn a_take_over_leaves_the_will_of_the_first_connection() {
    let router = Router::with_shards(2);
    let mut observer = observer(&router);
    let mut first = router.connect(&with_will(v5("client")));
    let _second = router.connect(&v5("client"));
    first.ending();
    assert_eq!(observer.message().text(), "gone");
}

#[test]
fn a_will_is_routed_stored_and_has_its_properties_like_any_publication() {
    let router = Router::with_shards(2);
    let lasting = Connect { clean_start: false, session_expiry_secs: 60, ..v5("historian") };
    let mut historian = router.connect(&lasting);
    historian.subscribe("wills/#", QOS_1);
    historian.disconnect();
    let mut block = BlockBuilder::new();
    block.content_type("text/plain").and_then(|block| block.user("reason", "power")).expect("short strings");
    let will = Will { properties: block.as_bytes().to_vec(), ..will() };
    router.connect(&Connect { will: Some(will), ..v5("client") }).vanish();
    until("the will in the session's lane", || (router.number("/counters/appended") >= 1).then_some(()));
    let message = router.connect(&lasting).message();
    assert_eq!(message.properties().content_type(), Some("text/plain"));
    assert_eq!(message.user_properties(), [("reason", "power")]);
}

/// [MQTT-3.1.2-12]
#[test]
fn a_will_with_qos_2_comes_with_it() {
    for connect in [v3("client"), v5("client")] {
        let router = Router::with_shards(2);
        let mut observer = router.connect(&v5("observer"));
        observer.subscribe("wills/#", QOS_2);
        router.connect(&Connect { will: Some(Will { qos: QOS_2, ..will() }), ..connect }).vanish();
        let message = observer.message();
        assert_eq!((message.text(), message.qos), ("gone", QOS_2));
    }
}

#[test]
fn a_delayed_will_waits_for_its_delay() {
    // [MQTT-3.1.3-9]: not before the Will Delay Interval has passed or the session ends.
    let router = Router::with_shards(2);
    let mut observer = observer(&router);
    let will = Will { delay_secs: 2, ..will() };
    let connect = Connect { will: Some(will), session_expiry_secs: 60, ..v5("client") };
    let client = router.connect(&connect);
    let begin = Instant::now();
    client.vanish();
    assert_eq!(observer.message().text(), "gone");
    assert!(begin.elapsed() >= Duration::from_millis(1_900), "published after {:?} already", begin.elapsed());
}

#[test]
fn a_client_that_is_back_within_the_delay_leaves_no_will() {
    // [MQTT-3.1.3-9]
    let router = Router::with_shards(2);
    let mut observer = observer(&router);
    let will = Will { delay_secs: 60, ..will() };
    let connect = Connect { will: Some(will), session_expiry_secs: 600, clean_start: false, ..v5("client") };
    router.connect(&connect).vanish();
    let back = router.connect(&connect);
    assert!(back.greeting.session_present);
    back.disconnect();
    expect_no_will(&router, &mut observer);
}

#[test]
fn a_will_expires_as_it_says() {
    // MQTT 5.0 §3.1.3.2.4: the will's expiry is that of the publication.
    let router = Router::with_shards(2);
    let mut observer = observer(&router);
    let will = Will { expiry_secs: Some(100), ..will() };
    router.connect(&Connect { will: Some(will), ..v5("client") }).vanish();
    let expiry = observer.message().properties().expiry_secs();
    assert!(expiry.is_some_and(|secs| (90..=100).contains(&secs)), "{expiry:?}");
}

#[test]
fn a_will_of_qos_0_reaches_live_subscribers() {
    let router = Router::with_shards(3);
    let mut observer = observer(&router);
    for number in 0..6 {
        let will = Will { qos: QOS_0, payload: number.to_string().into_bytes(), ..will() };
        router.connect(&Connect { will: Some(will), ..v3(&format!("client-{number}")) }).vanish();
        let message = observer.message();
        assert_eq!((message.text(), message.qos), (number.to_string().as_str(), QOS_0));
    }
}

/// One whose session is kept, and who is away when things happen.
fn historian() -> Connect {
    Connect { clean_start: false, session_expiry_secs: 600, ..v5("historian") }
}

/// A router with a historian of wills, and a client of `connect` that has one.
#[track_caller]
fn with_historian(connect: &Connect) -> (Router, Client) {
    let router = Router::with_shards(3);
    let mut away = router.connect(&historian());
    away.subscribe("wills/#", QOS_2);
    away.disconnect();
    let client = router.connect(connect);
    (router, client)
}

#[track_caller]
fn restart(router: &mut Router, signal: Signal) {
    match signal {
        Signal::Kill => router.kill(),
        _ => assert_eq!(router.terminate().code(), Some(0)),
    }
    router.start_again();
}

#[track_caller]
fn expect_one_will(router: &Router) -> Received {
    let mut historian = router.connect(&historian());
    let message = historian.message();
    assert_eq!((message.topic.as_str(), message.text()), ("wills/client", "gone"));
    router.connect(&v5("fence")).publish("wills/fence", "", QOS_1);
    assert_eq!(historian.message().topic, "wills/fence", "one will, and no other");
    message
}

/// Comes again and again, until its session is over or kept: with a will of QoS 2 that is retained.
fn lasting(delay_secs: u32) -> Connect {
    let will = Will { delay_secs, qos: QOS_2, retain: true, ..will() };
    Connect { will: Some(will), clean_start: false, session_expiry_secs: 600, ..v5("client") }
}

/// [MQTT-3.1.2-8] [MQTT-3.1.3-9] [MQTT-3.1.2-12] [MQTT-3.1.2-15]
#[test]
fn a_delayed_will_survives_a_restart_and_a_kill() {
    for signal in [Signal::Terminate, Signal::Kill] {
        let (mut router, client) = with_historian(&lasting(3));
        let begin = Instant::now();
        client.vanish();
        until("the end of the connection", || (router.number("/clients") == 0).then_some(()));
        restart(&mut router, signal);
        assert_eq!(expect_one_will(&router).qos, QOS_2);
        assert!(begin.elapsed() >= Duration::from_millis(2_900), "after {:?} already", begin.elapsed());
        let mut late = router.connect(&v3("late"));
        late.subscribe("wills/client", QOS_2);
        assert!(late.message().retain);
    }
}

/// [MQTT-3.1.2-8]: a router that is killed ends the connection, too; one that stops publishes the will before it is gone.
#[test]
fn the_will_of_a_connected_client_survives_a_restart_and_a_kill() {
    for (delay_secs, signal) in
        [(0, Signal::Terminate), (0, Signal::Kill), (1, Signal::Terminate), (1, Signal::Kill)]
    {
        let (mut router, _client) = with_historian(&lasting(delay_secs));
        restart(&mut router, signal);
        expect_one_will(&router);
    }
}

/// [MQTT-3.1.3-9]
#[test]
fn a_client_that_is_back_after_a_kill_within_the_delay_leaves_no_will() {
    let (mut router, _client) = with_historian(&lasting(2));
    restart(&mut router, Signal::Kill);
    let back = router.connect(&Connect { will: None, ..lasting(0) });
    assert!(back.greeting.session_present);
    std::thread::sleep(Duration::from_secs(3)); // nothing tells of a will that does not come
    router.connect(&v5("fence")).publish("wills/fence", "", QOS_1);
    assert_eq!(router.connect(&historian()).message().topic, "wills/fence");
}

/// [MQTT-3.1.2-8]: also that of a session that ends with its connection, for a session in another shard.
#[test]
fn a_router_that_stops_publishes_the_wills_of_its_clients_to_kept_sessions() {
    for number in 0..6 {
        let client_id = format!("client-{number}");
        let (mut router, _client) = with_historian(&with_will(v3(&client_id)));
        restart(&mut router, Signal::Terminate);
        expect_one_will(&router);
    }
}
