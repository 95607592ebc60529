//! Identities that the edge knows: how they come in, whose session they have, and how they are sent away.

use std::sync::Arc;

use model::Qos;
use wire::{AckKind, ReasonCode, Version};

use crate::access::{Access, Effect, ListenerAccess, Ruleset, Verdict};
use crate::connections::{Peer, Shown};
use crate::testbench::{Bench, Seen};

/// One listener that takes identities, and a user with a password.
fn bench() -> Bench {
    let mut bench = Bench::new(1);
    bench.replace_access(Access {
        listeners: vec![ListenerAccess { anonymous: false, packet_bytes_max: None, identities: true }],
        users: Some([("bob".into(), 1)].into_iter().collect()),
        ..Access::open(false)
    });
    bench
}

fn knock(bench: &mut Bench, client: usize, user: Option<&str>) {
    let mut connect = bench.stored_hello(client);
    connect.user_name = user.map(str::to_owned);
    connect.password = user.map(|_| b"token".to_vec());
    bench.connect_with(client, &connect);
}

fn identified() -> Verdict {
    Verdict::Identified { user: "d1".into() }
}

const USER_NAME: &str = "hub.example/d1/?api-version=2021-04-12";

fn welcome() -> Seen {
    Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS }
}

#[test]
fn the_edge_is_asked_about_user_names_of_identities_alone() {
    for (user, identity) in [(USER_NAME, true), ("bob", false)] {
        let mut bench = bench();
        let client = bench.client("d1", Version::V3, 0);
        knock(&mut bench, client, Some(user));
        assert_eq!(bench.authentications[0].1.is_identity, identity, "{user}");
    }
    let mut bench = bench();
    let client = bench.client("d1", Version::V3, 0);
    knock(&mut bench, client, None);
    assert_eq!(
        bench.take(client),
        [Seen::ConnAck { present: false, reason: ReasonCode::NOT_AUTHORIZED }, Seen::Closed]
    );
}

#[test]
fn where_no_identities_are_taken_a_slash_in_a_user_name_means_nothing() {
    let mut bench = bench();
    bench.replace_access(Access {
        users: Some([("bob".into(), 1)].into_iter().collect()),
        ..Access::open(false)
    });
    let client = bench.client("d1", Version::V3, 0);
    knock(&mut bench, client, Some(USER_NAME));
    assert!(!bench.authentications[0].1.is_identity);
}

#[test]
fn certificates_go_with_the_question_about_an_identity() {
    let mut bench = Bench::new(1);
    let broker = &mut bench.brokers[0];
    let conn = broker.open(Peer::default(), bench.now);
    let shown = Arc::new(Shown::Certificates([Box::from(&b"der"[..])].into()));
    broker.show(conn, Arc::clone(&shown));
    assert_eq!(broker.peer(conn).shown, Some(shown));
}

#[test]
fn an_identity_comes_in_without_being_a_user_and_stays_when_users_change() {
    let mut bench = bench();
    let client = bench.client("d1", Version::V3, 0);
    knock(&mut bench, client, Some(USER_NAME));
    bench.verify(identified());
    bench.settle();
    assert_eq!(bench.take(client), [welcome()]);
    bench.replace_access(Access {
        listeners: vec![ListenerAccess { anonymous: false, packet_bytes_max: None, identities: true }],
        users: Some(std::iter::empty().collect()),
        ..Access::open(false)
    });
    bench.ping(client);
    assert_eq!(bench.take(client), [Seen::PingResp]);
}

#[test]
fn each_refusal_has_the_code_that_edgehub_gives() {
    use ReasonCode as Code;
    for (verdict, expected) in [
        (Verdict::NotAuthorized, Code::NOT_AUTHORIZED),
        (Verdict::Unusable, Code::SERVER_UNAVAILABLE),
        (Verdict::TooManyClients, Code::SERVER_UNAVAILABLE),
        (Verdict::Busy, Code::SERVER_UNAVAILABLE),
    ] {
        let mut bench = bench();
        let client = bench.client("d1", Version::V3, 0);
        knock(&mut bench, client, Some(USER_NAME));
        bench.verify(verdict.clone());
        assert_eq!(bench.take(client), [Seen::ConnAck { present: false, reason: expected }, Seen::Closed]);
        assert_eq!(bench.counters().connects_refused, 1, "{verdict:?}");
    }
}

#[test]
fn an_identity_that_is_withdrawn_goes_and_nobody_else() {
    let mut bench = bench();
    let client = bench.client("d1", Version::V5, 0);
    knock(&mut bench, client, Some(USER_NAME));
    let conn = bench.authentications[0].1.conn;
    bench.verify(identified());
    bench.settle();
    bench.take(client);
    bench.withdraw(0, conn);
    assert_eq!(bench.take(client), [Seen::Disconnect(ReasonCode::NOT_AUTHORIZED), Seen::Closed]);
    assert_eq!(bench.counters().closed_access_withdrawn, 1);

    let user = bench.client("b", Version::V5, 0);
    knock(&mut bench, user, Some("bob"));
    let conn = bench.authentications[0].1.conn;
    bench.verify(Verdict::Accepted { user: "bob".into(), print: 1 });
    bench.settle();
    bench.take(user);
    bench.withdraw(0, conn);
    bench.ping(user);
    assert_eq!(bench.take(user), [Seen::PingResp], "a user is not the edge's to send away");
}

/// Never 7: what an identity sends has its own name, and what it reads was sent to it.
#[test]
fn an_identity_has_the_topics_of_its_name_and_no_others() {
    let mut bench = bench();
    bench.replace_access(Access {
        listeners: vec![ListenerAccess { anonymous: false, packet_bytes_max: None, identities: true }],
        rules: Some(Ruleset::new(Vec::new(), Effect::Deny)),
        ..Access::open(false)
    });
    let client = bench.client("d1", Version::V5, 0);
    knock(&mut bench, client, Some(USER_NAME));
    bench.verify(identified());
    bench.settle();
    bench.take(client);
    for (topic, is_denied) in
        [("devices/d1/messages/events/", false), ("devices/d2/messages/events/", true), ("plant/d1", true)]
    {
        let before = bench.counters().denied_publish;
        bench.publish(client, topic, "x", 1);
        bench.settle();
        let refused = [Seen::Refused(AckKind::PubAck, 1, ReasonCode::NOT_AUTHORIZED)];
        assert_eq!(bench.take(client) == refused, is_denied, "{topic}");
        assert_eq!(bench.counters().denied_publish - before, u64::from(is_denied), "{topic}");
    }
    // It stays so over a restart, although nobody is a user any more.
    bench.subscribe(client, "devices/d1/messages/devicebound/#", Qos::AtLeastOnce);
    bench.settle();
    bench.take(client);
    bench.cut(client);
    bench.settle();
    bench.crash();
    assert_eq!(bench.counters().access_withdrawn, 0);
}

/// The session of an identity stays its own while it is away, although no password file knows it.
#[test]
fn no_user_gets_the_session_of_an_identity() {
    let mut bench = bench();
    let client = bench.client("d1", Version::V5, 0);
    knock(&mut bench, client, Some(USER_NAME));
    bench.verify(identified());
    bench.settle();
    bench.take(client);
    bench.cut(client);
    let thief = bench.client("d1", Version::V5, 0);
    knock(&mut bench, thief, Some("bob"));
    bench.verify(Verdict::Accepted { user: "bob".into(), print: 1 });
    assert_eq!(
        bench.take(thief),
        [Seen::ConnAck { present: false, reason: ReasonCode::NOT_AUTHORIZED }, Seen::Closed]
    );
}
