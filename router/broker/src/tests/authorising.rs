//! Who comes in, and what it may do once it is in.

use std::sync::Arc;

use model::{Limits, Qos};
use wire::{AckKind, ReasonCode, Version, Will};

use crate::Plan;
use crate::access::{
    Access, Actions, ClientIds, DeniedV3, Effect, Origin, Rule, RuleFilter, Ruleset, Standing, Verdict, Who,
};
use crate::testbench::{Bench, Seen};

/// `("allow", "u", Actions::All, "a/#")`; the user may be empty for everybody.
type Line = (&'static str, &'static str, Actions, &'static str);

fn rules(lines: &[Line]) -> Option<Ruleset> {
    let rule = |(number, (effect, user, actions, filter)): (usize, &Line)| Rule {
        effect: if *effect == "allow" { Effect::Allow } else { Effect::Deny },
        who: Who {
            user: (!user.is_empty()).then(|| (*user).into()),
            client_id: None,
            standing: Standing::Anyone,
        },
        actions: *actions,
        filter: RuleFilter::new(filter).unwrap(),
        origin: Origin { file: "acl".into(), line: number as u32 + 1 },
    };
    Some(Ruleset::new(lines.iter().enumerate().map(rule).collect(), Effect::Deny))
}

fn users(names: &[(&str, u64)]) -> Access {
    Access {
        users: Some(names.iter().map(|(name, print)| ((*name).into(), *print)).collect()),
        ..Access::open(false)
    }
}

fn bench(access: Access) -> Bench {
    let mut bench = Bench::new(1);
    bench.replace_access(access);
    bench
}

fn accepted(user: &str) -> Verdict {
    Verdict::Accepted { user: user.into(), print: 1 }
}

/// Sends a CONNECT with user name and password.
fn knock(bench: &mut Bench, client: usize, user: &str) {
    let mut connect = bench.hello(client);
    connect.user_name = Some(user.to_owned());
    connect.password = Some(b"secret".to_vec());
    bench.connect_with(client, &connect);
}

/// Connects as a user whose password is good.
fn enter(bench: &mut Bench, client: usize, user: &str) {
    knock(bench, client, user);
    bench.verify(accepted(user));
    bench.settle();
    assert_eq!(bench.take(client), [Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS }]);
}

fn refused(reason: ReasonCode) -> Vec<Seen> {
    vec![Seen::ConnAck { present: false, reason }, Seen::Closed]
}

#[test]
fn a_password_is_verified_elsewhere_and_its_connection_waits() {
    for version in [Version::V3, Version::V5] {
        let mut bench = bench(users(&[("u", 1)]));
        let client = bench.client("c", version, 0);
        knock(&mut bench, client, "u");
        bench.ping(client);
        assert_eq!(bench.take(client), [], "nothing is read before the verdict");
        let (_, question) = &bench.authentications[0];
        assert_eq!((&*question.user, question.password.as_deref()), ("u", Some(&b"secret"[..])));
        assert!(!format!("{question:?}").contains("secret") && !format!("{question:?}").contains("115"));
        bench.verify(accepted("u"));
        let welcome = Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS };
        assert_eq!(bench.take(client), [welcome, Seen::PingResp]);
    }
}

/// [MQTT-3.1.4-2] [MQTT3-3.2.2-4] [MQTT3-3.2.2-5] [MQTT-4.13.2-1]
#[test]
fn each_refusal_has_the_code_of_its_version() {
    use ReasonCode as Code;
    for (verdict, v5, v3) in [
        (Verdict::BadCredentials, Code::BAD_USER_NAME_OR_PASSWORD, Code::BAD_USER_NAME_OR_PASSWORD),
        (Verdict::NotAuthorized, Code::NOT_AUTHORIZED, Code::NOT_AUTHORIZED),
        (Verdict::TooManyAttempts, Code::CONNECTION_RATE_EXCEEDED, Code::SERVER_UNAVAILABLE),
        (Verdict::Busy, Code::SERVER_BUSY, Code::SERVER_UNAVAILABLE),
        // The user was replaced while its password was verified.
        (
            Verdict::Accepted { user: "u".into(), print: 0 },
            Code::BAD_USER_NAME_OR_PASSWORD,
            Code::BAD_USER_NAME_OR_PASSWORD,
        ),
    ] {
        for (version, expected) in [(Version::V3, v3), (Version::V5, v5)] {
            let mut bench = bench(users(&[("u", 1)]));
            let client = bench.client("c", version, 0);
            knock(&mut bench, client, "u");
            bench.verify(verdict.clone());
            assert_eq!(bench.take(client), refused(expected), "{verdict:?}");
            assert_eq!((bench.counters().connects_refused, bench.counters().connects_accepted), (1, 0));
        }
    }
}

/// [MQTT-3.1.4-2]
#[test]
fn without_credentials_only_anonymous_clients_come_in() {
    let mut bench = bench(users(&[("u", 1)]));
    let client = bench.client("c", Version::V5, 0);
    let connect = bench.hello(client);
    bench.connect_with(client, &connect);
    assert_eq!(bench.take(client), refused(ReasonCode::NOT_AUTHORIZED));
    assert_eq!(bench.counters().refused_not_authorized, 1);
    bench.replace_access(Access { users: users(&[("u", 1)]).users, ..Access::open(true) });
    bench.connect(client);
}

#[test]
fn a_client_that_vanishes_while_it_is_verified_leaves_nothing() {
    let mut bench = bench(users(&[("u", 1)]));
    let client = bench.client("c", Version::V5, 0);
    knock(&mut bench, client, "u");
    bench.cut(client);
    bench.verify(accepted("u"));
    assert_eq!((bench.brokers[0].connections(), bench.brokers[0].sessions()), (0, 0));
    // The place of the old connection goes to a new one, which the old answer does not concern.
    knock(&mut bench, client, "u");
    bench.cut(client);
    knock(&mut bench, client, "u");
    bench.verify(accepted("u"));
    assert_eq!(bench.take(client), []);
    bench.verify(accepted("u"));
    assert_eq!(bench.take(client).len(), 1);
}

#[test]
fn nobody_waits_for_ever_for_a_verdict() {
    let mut bench = Bench::with(
        1,
        Limits { authentication_timeout_millis: 1_000, connect_timeout_millis: 500, ..Limits::DEFAULT },
        Plan::empty(),
    );
    bench.replace_access(users(&[("u", 1)]));
    let client = bench.client("c", Version::V5, 0);
    knock(&mut bench, client, "u");
    bench.pass(1_000);
    assert_eq!(bench.take(client), [], "the time to send CONNECT is another one");
    bench.pass(1);
    assert_eq!(bench.take(client), refused(ReasonCode::SERVER_UNAVAILABLE));
    bench.verify(accepted("u"));
    assert_eq!((bench.take(client), bench.counters().refused_busy), (vec![], 1));
}

#[test]
fn a_session_belongs_to_its_user_as_long_as_that_exists() {
    let mut bench = bench(users(&[("u", 1), ("v", 1)]));
    let client = bench.client("c", Version::V5, 0);
    enter(&mut bench, client, "u");
    let thief = bench.client("c", Version::V5, 0);
    assert_eq!(bench.clients[thief].id, bench.clients[client].id);
    knock(&mut bench, thief, "v");
    bench.verify(accepted("v"));
    assert_eq!(bench.take(thief), refused(ReasonCode::NOT_AUTHORIZED));
    assert_eq!(bench.take(client), [], "the owner does not notice");

    let mut connect = bench.stored_hello(client);
    (connect.user_name, connect.password) = (Some("u".into()), Some(b"x".to_vec()));
    bench.connect_with(client, &connect);
    bench.verify(accepted("u"));
    bench.settle();
    bench.cut(client);
    knock(&mut bench, thief, "v");
    bench.verify(accepted("v"));
    assert_eq!(bench.take(thief), refused(ReasonCode::NOT_AUTHORIZED), "not its stored session either");
    bench.replace_access(users(&[("v", 1)]));
    enter(&mut bench, thief, "v");
}

#[test]
fn a_client_identifier_can_be_bound_to_its_user() {
    for (client_ids, user, comes_in) in [
        (ClientIds::Any, "x", true),
        (ClientIds::StartWithUser, "c", true),
        (ClientIds::StartWithUser, "c0", true),
        (ClientIds::StartWithUser, "x", false),
        (ClientIds::AreUser, "c0", true),
        (ClientIds::AreUser, "c", false),
    ] {
        let mut bench = bench(Access { client_ids, ..users(&[("x", 1), ("c", 1), ("c0", 1)]) });
        let client = bench.client("c", Version::V5, 0);
        knock(&mut bench, client, user);
        bench.verify(accepted(user));
        let seen = bench.take(client);
        assert_eq!(seen == refused(ReasonCode::NOT_AUTHORIZED), !comes_in, "{client_ids:?} {user}");
    }
}

#[test]
fn a_certificate_names_the_user() {
    let access =
        Access { rules: rules(&[("allow", "press", Actions::All, "own/%u/#")]), ..Access::open(false) };
    let mut bench = bench(access);
    let client = bench.client("c", Version::V5, 0);
    for (name, seen) in [
        (None, vec![Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS }]),
        (Some("press"), vec![Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS }]),
        (Some("other"), refused(ReasonCode::BAD_USER_NAME_OR_PASSWORD)),
    ] {
        let mut connect = bench.hello(client);
        connect.user_name = name.map(str::to_owned);
        bench.dial(client);
        let conn = bench.clients[client].conn.unwrap();
        bench.brokers[0].identify(conn, Arc::from("press"));
        let mut bytes = Vec::new();
        wire::encode_connect(&mut bytes, &connect).unwrap();
        bench.send(client, &bytes);
        assert_eq!(bench.take(client), seen);
        if name.is_some_and(|name| name == "press") {
            bench.publish(client, "own/press/x", "x", 1);
            bench.publish(client, "own/other/x", "x", 2);
            assert_eq!(
                bench.take(client),
                [Seen::PubAck(1), Seen::Refused(AckKind::PubAck, 2, ReasonCode::NOT_AUTHORIZED)]
            );
            bench.disconnect(client, ReasonCode::NORMAL_DISCONNECTION, None);
            bench.take(client);
        }
    }
}

/// [MQTT-4.3.3-9]
#[test]
fn the_identifier_of_a_denied_qos_2_publication_is_free_at_once() {
    let lines: &[Line] = &[("allow", "", Actions::Subscribe, "#"), ("allow", "", Actions::Publish, "open/#")];
    let mut bench = bench(Access { rules: rules(lines), ..Access::open(true) });
    let client = bench.client("c", Version::V5, 0);
    bench.connect(client);
    bench.publish_once(client, "secret", "x", 7);
    assert_eq!(bench.take(client), [Seen::Refused(AckKind::PubRec, 7, ReasonCode::NOT_AUTHORIZED)]);
    bench.publish_once(client, "open/a", "y", 7);
    assert_eq!(bench.take(client), [Seen::PubRec(7)]);
}

/// [MQTT3-3.3.5-2]
#[test]
fn a_denied_publication_is_answered_as_its_version_can_and_goes_nowhere() {
    let lines: &[Line] = &[("allow", "", Actions::Subscribe, "#"), ("allow", "", Actions::Publish, "open/#")];
    for (version, answer) in [
        (Version::V3, Seen::PubAck(7)),
        (Version::V5, Seen::Refused(AckKind::PubAck, 7, ReasonCode::NOT_AUTHORIZED)),
    ] {
        let mut bench = bench(Access { rules: rules(lines), ..Access::open(true) });
        let watcher = bench.client("w", Version::V5, 0);
        bench.connect(watcher);
        bench.subscribe(watcher, "#", Qos::AtLeastOnce);
        let client = bench.client("c", version, 0);
        bench.connect(client);
        bench.publish(client, "secret", "x", 0);
        assert_eq!(bench.take(client), []);
        bench.publish(client, "secret", "x", 7);
        assert_eq!(bench.take(client), [answer]);
        bench.publish(client, "open/a", "y", 8);
        bench.publish(client, "open/a", "z", 9);
        assert_eq!(bench.take(client), [Seen::PubAck(8), Seen::PubAck(9)]);
        assert_eq!(bench.texts(watcher), ["y", "z"]);
        assert_eq!(bench.counters().denied_publish, 2);
        assert_eq!(bench.denials[0].rule, "no rule allows it");
        assert_eq!((bench.denials[0].what, &*bench.denials[0].topic), ("publish", "secret"));
    }
}

#[test]
fn publications_that_come_in_one_piece_are_checked_too() {
    let lines: &[Line] = &[("allow", "", Actions::Subscribe, "#"), ("allow", "", Actions::Publish, "open")];
    let mut bench = bench(Access { rules: rules(lines), ..Access::open(true) });
    let watcher = bench.client("w", Version::V3, 0);
    bench.connect(watcher);
    bench.subscribe(watcher, "#", Qos::AtMostOnce);
    let client = bench.client("c", Version::V3, 0);
    bench.connect(client);
    let mut bytes = Vec::new();
    for (topic, payload) in [("secret", "1"), ("secret", "2"), ("open", "3"), ("open", "4"), ("secret", "5")]
    {
        let publish = wire::OutgoingPublish { topic, payload: payload.as_bytes(), ..Default::default() };
        wire::encode_publish(&mut bytes, Version::V3, &publish).unwrap();
    }
    bench.send(client, &bytes);
    assert_eq!(bench.texts(watcher), ["3", "4"]);
    assert_eq!((bench.counters().denied_publish, bench.counters().received), (3, 5));
}

/// [MQTT3-3.3.5-2]
#[test]
fn a_denied_publication_can_end_a_3_1_1_connection() {
    let access = Access { rules: rules(&[]), denied_v3: DeniedV3::Disconnect, ..Access::open(true) };
    let mut bench = bench(access);
    let (old, new) = (bench.client("old", Version::V3, 0), bench.client("new", Version::V5, 0));
    bench.connect(old);
    bench.connect(new);
    bench.publish(old, "a", "x", 0);
    bench.publish(new, "a", "x", 1);
    assert_eq!(bench.take(old), [Seen::Closed]);
    assert_eq!(bench.take(new), [Seen::Refused(AckKind::PubAck, 1, ReasonCode::NOT_AUTHORIZED)]);
}

/// [MQTT-3.9.3-2] [MQTT3-3.9.3-2]
#[test]
fn a_denied_subscription_is_refused_in_suback() {
    let lines: &[Line] = &[("deny", "", Actions::All, "a/secret"), ("allow", "", Actions::All, "a/#")];
    for (version, reason) in
        [(Version::V3, ReasonCode::UNSPECIFIED_ERROR), (Version::V5, ReasonCode::NOT_AUTHORIZED)]
    {
        let mut bench = bench(Access { rules: rules(lines), ..Access::open(true) });
        let client = bench.client("c", version, 0);
        bench.connect(client);
        bench.subscribe(client, "a/b/#", Qos::AtMostOnce);
        for filter in ["a/#", "#", "a/secret", "a/+", "b"] {
            bench.subscribe_with(client, filter, Qos::AtMostOnce, 0, |_| {});
            assert_eq!(bench.take(client), [Seen::SubAck(vec![reason])], "{filter}");
        }
        bench.publish(client, "a/secret", "x", 0);
        bench.publish(client, "a/b/c", "y", 0);
        assert_eq!(bench.texts(client), ["y"]);
        assert_eq!(bench.counters().denied_subscribe, 5);
        assert_eq!(bench.denials[0].rule, "acl:1: deny all a/secret");
    }
}

/// [MQTT-3.1.2-17] asks for a will to be stored; one that may not be published refuses its CONNECT.
#[test]
fn a_will_that_may_not_be_published_is_refused_with_its_connect() {
    let mut bench =
        bench(Access { rules: rules(&[("allow", "", Actions::Publish, "w/ok")]), ..Access::open(true) });
    for (topic, version, expected) in [
        ("w/ok", Version::V5, vec![Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS }]),
        ("w/no", Version::V5, refused(ReasonCode::NOT_AUTHORIZED)),
        ("w/no", Version::V3, refused(ReasonCode::NOT_AUTHORIZED)),
    ] {
        let client = bench.client("c", version, 0);
        let mut connect = bench.hello(client);
        connect.will = Some(Will { topic: topic.into(), ..Will::default() });
        bench.connect_with(client, &connect);
        assert_eq!(bench.take(client), expected, "{topic}");
    }
}

#[test]
fn the_log_is_not_filled_by_one_client() {
    let mut bench = bench(Access { rules: rules(&[]), ..Access::open(true) });
    let client = bench.client("c", Version::V5, 0);
    bench.connect(client);
    for _ in 0..100 {
        bench.publish(client, "a", "x", 0);
    }
    assert_eq!((bench.denials.len(), bench.counters().denied_publish), (4, 100));
    bench.pass(250);
    bench.publish(client, "a", "x", 0);
    assert_eq!(bench.denials[4].unsaid, 96);
}

#[test]
fn new_users_end_the_connections_of_those_who_are_gone_or_changed() {
    let mut bench = bench(users(&[("stays", 1), ("goes", 1), ("changes", 1)]));
    let clients: Vec<_> = ["stays", "goes", "changes"]
        .map(|user| {
            let client = bench.client(user, Version::V5, 0);
            enter(&mut bench, client, user);
            client
        })
        .into();
    bench.replace_access(users(&[("stays", 1), ("changes", 2)]));
    let gone = vec![Seen::Disconnect(ReasonCode::ADMINISTRATIVE_ACTION), Seen::Closed];
    let seen: Vec<_> = clients.iter().map(|client| bench.take(*client)).collect();
    assert_eq!(seen, [vec![], gone.clone(), gone]);
    assert_eq!(bench.counters().closed_access_withdrawn, 2);
}

#[test]
fn anonymous_clients_go_when_they_may_not_come_any_more() {
    let mut bench = bench(Access::open(true));
    let client = bench.client("c", Version::V5, 0);
    bench.connect(client);
    bench.replace_access(Access::open(true));
    assert_eq!(bench.take(client), []);
    bench.replace_access(Access::open(false));
    assert_eq!(bench.take(client), [Seen::Disconnect(ReasonCode::ADMINISTRATIVE_ACTION), Seen::Closed]);
}

#[test]
fn new_rules_hold_at_once_and_take_subscriptions_away() {
    let mut bench = Bench::new(2);
    let all: &[Line] = &[("allow", "", Actions::All, "#")];
    bench.replace_access(Access { rules: rules(all), ..Access::open(true) });
    let client = bench.client("c", Version::V5, 0);
    bench.connect(client);
    bench.subscribe(client, "a/#", Qos::AtMostOnce);
    bench.subscribe(client, "b", Qos::AtMostOnce);
    let other = bench.client("o", Version::V5, 1);
    bench.connect(other);
    bench.publish(client, "a/x", "1", 1);
    bench.settle();
    assert_eq!(bench.take(client).len(), 2);

    let fewer: &[Line] = &[
        ("deny", "", Actions::Subscribe, "a/secret"),
        ("allow", "", Actions::All, "b"),
        ("allow", "", Actions::Subscribe, "#"),
    ];
    bench.replace_access(Access { rules: rules(fewer), ..Access::open(true) });
    bench.settle();
    bench.publish(client, "a/x", "2", 2);
    assert_eq!(
        bench.take(client),
        [Seen::Refused(AckKind::PubAck, 2, ReasonCode::NOT_AUTHORIZED)],
        "the last topic is asked again"
    );
    bench.publish(client, "b", "3", 0);
    bench.settle();
    assert_eq!(bench.texts(client), ["3"]);
    assert_eq!(bench.counters().access_withdrawn, 1);
    // The other shard knows too.
    bench.replace_access(Access { rules: rules(all), ..Access::open(true) });
    bench.publish(other, "a/secret", "4", 0);
    bench.settle();
    assert_eq!((bench.texts(client), bench.counters().unmatched), (vec![], 1));
}

/// A restart is a reload, too: what the new rules deny goes at once, and not when its client is back.
#[test]
fn rules_that_changed_while_the_router_was_down_count_from_the_start() {
    let all: &[Line] = &[("allow", "", Actions::All, "#")];
    let mut bench = bench(Access { rules: rules(all), ..users(&[("u", 1)]) });
    let client = bench.client("c", Version::V5, 0);
    let mut connect = bench.stored_hello(client);
    (connect.user_name, connect.password) = (Some("u".into()), Some(b"x".to_vec()));
    connect.will =
        Some(Will { topic: "w".into(), payload: b"gone".to_vec(), delay_secs: 5, ..Will::default() });
    bench.connect_with(client, &connect);
    bench.verify(accepted("u"));
    bench.settle();
    bench.take(client);
    bench.subscribe(client, "a", Qos::AtLeastOnce);
    bench.subscribe(client, "b", Qos::AtLeastOnce);
    let some = [("allow", "", Actions::All, "b"), ("allow", "", Actions::Subscribe, "w")];
    bench.access = Arc::new(Access { rules: rules(&some), ..users(&[("u", 1)]) });
    bench.crash();
    bench.settle();
    assert_eq!(bench.counters().access_withdrawn, 2);
    assert_eq!(bench.disk.keys(crate::StateSpace::Subscriptions), 1);
    bench.pass(10_000);
    assert_eq!(bench.counters().wills, 0);
}

/// Whose a stored session is lies on disk with it.
#[test]
fn a_stored_session_belongs_to_its_user_after_a_crash() {
    let mut bench = bench(users(&[("u", 1), ("v", 1)]));
    bench.access = Arc::new(users(&[("u", 1), ("v", 1)]));
    let client = bench.client("c", Version::V5, 0);
    let knock = |bench: &mut Bench, user: &str| {
        let mut connect = bench.stored_hello(client);
        (connect.user_name, connect.password) = (Some(user.into()), Some(b"x".to_vec()));
        bench.connect_with(client, &connect);
        bench.verify(accepted(user));
        bench.settle();
        bench.take(client)
    };
    assert_eq!(knock(&mut bench, "u"), [Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS }]);
    for _ in 0..2 {
        bench.crash();
        bench.settle();
        bench.take(client);
        assert_eq!(knock(&mut bench, "v"), refused(ReasonCode::NOT_AUTHORIZED));
        assert_eq!(knock(&mut bench, "u"), [Seen::ConnAck { present: true, reason: ReasonCode::SUCCESS }]);
    }
}

#[test]
fn a_stored_session_comes_back_with_what_it_may_still_have() {
    let all: &[Line] = &[("allow", "", Actions::All, "#")];
    let mut bench = bench(Access { rules: rules(all), ..Access::open(true) });
    let client = bench.client("c", Version::V5, 0);
    bench.resume(client);
    bench.subscribe(client, "a", Qos::AtLeastOnce);
    bench.subscribe(client, "b", Qos::AtLeastOnce);
    bench.cut(client);
    bench.settle();
    bench.access =
        Arc::new(Access { rules: rules(&[("allow", "", Actions::All, "b")]), ..Access::open(true) });
    bench.crash();
    bench.settle();
    assert!(bench.resume(client));
    let feeder = bench.client("f", Version::V5, 0);
    bench.replace_access(Access { rules: rules(all), ..Access::open(true) });
    bench.connect(feeder);
    bench.publish(feeder, "a", "1", 0);
    bench.publish(feeder, "b", "2", 0);
    bench.settle();
    assert_eq!(bench.texts(client), ["2"]);
}

#[test]
fn new_rules_take_wills_away() {
    let mut bench = bench(Access::open(true));
    let watcher = bench.client("w", Version::V5, 0);
    bench.connect(watcher);
    bench.subscribe(watcher, "#", Qos::AtMostOnce);
    let client = bench.client("c", Version::V5, 0);
    let mut connect = bench.hello(client);
    connect.will = Some(Will { topic: "w".into(), payload: b"gone".to_vec(), ..Will::default() });
    bench.connect_with(client, &connect);
    bench.replace_access(Access {
        rules: rules(&[("allow", "", Actions::Subscribe, "#")]),
        ..Access::open(true)
    });
    bench.cut(client);
    bench.settle();
    assert_eq!((bench.texts(watcher), bench.counters().access_withdrawn), (vec![], 1));
}

#[test]
fn routes_may_ask_for_the_user() {
    let mut bench = bench(users(&[("ann", 1), ("bob", 1)]));
    bench.replace_plan(super::routing::plan(&[(
        "FROM \"in\" WHERE $user = 'ann' INTO topic \"by/{$user}\"",
        None,
        None,
    )]));
    let (ann, bob) = (bench.client("a", Version::V5, 0), bench.client("b", Version::V5, 0));
    enter(&mut bench, ann, "ann");
    enter(&mut bench, bob, "bob");
    bench.subscribe(bob, "by/#", Qos::AtMostOnce);
    bench.take(bob);
    bench.publish(ann, "in", "from ann", 0);
    bench.publish(bob, "in", "from bob", 0);
    let got: Vec<String> = bench.got(bob).iter().map(|got| format!("{} {}", got.topic, got.text())).collect();
    assert_eq!(got, ["by/ann from ann"]);
}
