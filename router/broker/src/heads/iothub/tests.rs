//! The IoT Hub dialect: topics byte for byte, senders, refusals, inputs of modules, requests on the tray.

mod lanes;
mod posts;
mod unwritten;

use hub::topics::{Feature, Features};
use model::{Limits, Qos};
use wire::{AckKind, ReasonCode, Version, Will};

use crate::access::{Access, DeniedV3, Effect, ListenerAccess, Ruleset, Verdict};
use crate::testbench::{Bench, Got, Seen};
use crate::tests::routing::plan;
use crate::{HubAnswer, HubRequest, HubSetup, Level, Levels, Unanswered};

const TO_ML: &str = r#"FROM /messages/* INTO BrokeredEndpoint("/modules/ml/inputs/in1")"#;
const INPUTS: &str = "devices/gw1/modules/ml/#";

fn setup() -> HubSetup {
    HubSetup {
        edge_device: "gw1".into(),
        allow_sender_mismatch: false,
        keep_for_unknown: true,
        properties_max: 64,
    }
}

/// Identities come in by the edge's word, others as they like; one of those is a user.
fn access() -> Access {
    let listener = ListenerAccess { anonymous: true, packet_bytes_max: None, identities: true };
    Access {
        listeners: vec![listener],
        users: Some([("plain".into(), 1)].into_iter().collect()),
        ..Access::open(true)
    }
}

fn bench_with(shards: usize, routes: &[&str], setup: HubSetup) -> Bench {
    let specs: Vec<_> = routes.iter().map(|route| (*route, None, None)).collect();
    let mut bench = Bench::speaking(shards, Limits::DEFAULT, plan(&specs), Some(setup));
    bench.replace_access(access());
    bench
}

fn bench(routes: &[&str]) -> Bench {
    bench_with(1, routes, setup())
}

/// Connects as a hub identity; whether a session was there.
fn enter(bench: &mut Bench, id: &str, version: Version, clean: bool) -> (usize, bool) {
    let client = bench.client("hub", version, 0);
    bench.clients[client].id = id.to_owned();
    let present = come(bench, client, clean);
    (client, present)
}

fn come(bench: &mut Bench, client: usize, clean: bool) -> bool {
    come_with(bench, client, clean, None)
}

fn come_with(bench: &mut Bench, client: usize, clean: bool, will: Option<Will>) -> bool {
    bench.take(client);
    let id = bench.clients[client].id.clone();
    let mut connect = bench.hello(client);
    connect.clean_start = clean;
    connect.user_name = Some(format!("hub.example/{id}/?api-version=2021-04-12&DeviceClientType=t%2F1"));
    connect.password = Some(b"token".to_vec());
    connect.will = will;
    bench.connect_with(client, &connect);
    bench.settle();
    bench.verify(Verdict::Identified { user: id.as_str().into() });
    bench.settle();
    let seen = bench.take(client);
    let Some(Seen::ConnAck { present, reason: ReasonCode::SUCCESS }) = seen.first() else {
        panic!("{seen:?} instead of CONNACK");
    };
    assert_eq!(seen.len(), 1, "{seen:?}");
    *present
}

/// A module that is connected and takes its inputs.
fn module(bench: &mut Bench, id: &str) -> usize {
    let (module, _) = enter(bench, id, Version::V3, false);
    bench.subscribe(module, &format!("devices/{}/#", id.replace('/', "/modules/")), Qos::AtLeastOnce);
    module
}

#[track_caller]
fn topics(bench: &mut Bench, client: usize) -> Vec<String> {
    bench.got(client).into_iter().map(|got| got.topic).collect()
}

#[test]
fn telemetry_of_a_leaf_reaches_an_input_with_its_sender() {
    let mut bench = bench(&[TO_ML]);
    let ml = module(&mut bench, "gw1/ml");
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    let topic = "devices/d1/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8&%24.mid=42&level=high";
    bench.publish(leaf, topic, "{}", 1);
    bench.settle();
    assert_eq!(bench.take(leaf), [Seen::PubAck(1)]);
    let got = bench.got(ml).remove(0);
    assert_eq!(
        got.topic,
        "devices/gw1/modules/ml/inputs/in1/level=high&%24.ct=application%2Fjson&%24.ce=utf-8&%24.mid=42&%24.cdid=d1"
    );
    assert_eq!((got.text().as_str(), got.qos, got.retain), ("{}", Qos::AtLeastOnce, false));
    assert_eq!(bench.counters().sent_to_inputs, 1);
}

#[test]
fn an_output_of_a_module_is_routed_by_its_source() {
    let alerts =
        r#"FROM /messages/modules/filter/outputs/alert INTO BrokeredEndpoint("/modules/ml/inputs/in1")"#;
    let mut bench = bench(&[alerts]);
    let ml = module(&mut bench, "gw1/ml");
    let (filter, _) = enter(&mut bench, "gw1/filter", Version::V3, true);
    bench.publish(filter, "devices/gw1/modules/filter/messages/events/%24.on=alert&%24.cid=abc/", "x", 1);
    bench.publish(filter, "devices/gw1/modules/filter/messages/events/%24.on=other/", "y", 2);
    bench.settle();
    assert_eq!(
        topics(&mut bench, ml),
        ["devices/gw1/modules/ml/inputs/in1/%24.cid=abc&%24.cdid=gw1&%24.cmid=filter"]
    );
    let series: Vec<_> =
        bench.brokers[0].hub_series().counts().iter().map(|(name, count)| (&**name, *count)).collect();
    assert_eq!(
        series,
        [
            ("no_route\x00gw1/filter\x00other", 1),
            ("received\x00gw1/filter\x00alert", 1),
            ("received\x00gw1/filter\x00other", 1),
            ("sent\x00gw1\x00filter\x00ml\x00alert\x00in1\x00default", 1),
        ]
    );
}

/// The filter by which a module gets its inputs fits what it sends.
#[test]
fn a_module_does_not_get_its_own_telemetry_back() {
    let again = r#"FROM /messages/* WHERE again = '1' INTO topic("devices/gw1/modules/ml/again")"#;
    let mut bench = bench(&[again]);
    let ml = bench.client("hub", Version::V5, 0);
    bench.clients[ml].id = "gw1/ml".to_owned();
    come(&mut bench, ml, false);
    bench.subscribe(ml, INPUTS, Qos::AtLeastOnce);
    let output = "devices/gw1/modules/ml/messages/events/%24.on=alert";
    let before = bench.counters();
    bench.publish(ml, output, "x", 1);
    bench.settle();
    assert_eq!(bench.take(ml), [Seen::PubAck(1)]);
    let counters = bench.counters();
    assert_eq!((counters.appended, counters.unmatched), (before.appended, before.unmatched + 1));
    assert_eq!(bench.brokers[0].hub_series().counts()["no_route\x00gw1/ml\x00alert"], 1);
    // Nor does it need a disk.
    bench.set_levels(Levels { store: Level::FullForUrgent, ..Levels::default() });
    bench.publish(ml, output, "x", 2);
    bench.settle();
    assert_eq!(bench.take(ml), [Seen::PubAck(2)]);
    bench.set_levels(Levels::default());
    // Who else is allowed to read it does, and what a route sends it is its own no more.
    let plain = bench.client("plain", Version::V3, 0);
    bench.connect(plain);
    bench.subscribe(plain, "devices/+/modules/+/messages/#", Qos::AtMostOnce);
    bench.publish(ml, "devices/gw1/modules/ml/messages/events/again=1", "y", 3);
    bench.settle();
    assert_eq!(topics(&mut bench, plain).len(), 1);
    let seen = bench.take(ml);
    assert!(seen.contains(&Seen::PubAck(3)) && seen.len() == 2, "{seen:?}");
}

#[test]
fn routes_see_properties_body_and_flags() {
    let routes = [
        r#"FROM /messages/* WHERE level = 'high' AND $connectionDeviceId = 'd1' INTO BrokeredEndpoint("/modules/ml/inputs/a")"#,
        r#"FROM /messages/* WHERE $body.t > 5 INTO BrokeredEndpoint("/modules/ml/inputs/b")"#,
        r#"FROM /messages/* WHERE $edgeHubOriginInterface = 'internal' INTO BrokeredEndpoint("/modules/ml/inputs/c")"#,
    ];
    let mut bench = bench(&routes);
    let ml = module(&mut bench, "gw1/ml");
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    bench.publish(leaf, "devices/d1/messages/events/level=high", "{}", 1);
    bench.publish(leaf, "devices/d1/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8", r#"{"t":6}"#, 2);
    bench.publish_with(leaf, "devices/d1/messages/events/level=high", "{}", 3, |publish| {
        publish.retain = true;
        publish.dup = true;
    });
    bench.settle();
    assert_eq!(
        topics(&mut bench, ml),
        [
            "devices/gw1/modules/ml/inputs/a/level=high&%24.cdid=d1",
            "devices/gw1/modules/ml/inputs/b/%24.ct=application%2Fjson&%24.ce=utf-8&%24.cdid=d1",
            "devices/gw1/modules/ml/inputs/a/level=high&mqtt-retain=true&mqtt-dup=true&%24.cdid=d1",
        ]
    );
}

#[test]
fn what_goes_upstream_names_its_sender_and_has_everything() {
    let mut bench = Bench::speaking(1, Limits::DEFAULT, crate::tests::routing::uplink_plan(), Some(setup()));
    bench.disk.lane("urgent");
    let lane = bench.disk.lane("default");
    bench.replace_access(access());
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    bench.publish(leaf, "prefix/devices/d1/messages/events/%24.on=o&a=1/", "x", 1);
    bench.publish_with(leaf, "devices/d1/messages/events/", "y", 2, |publish| publish.retain = true);
    bench.settle();
    let topics: Vec<String> = bench.disk.lanes[&lane]
        .iter()
        .map(|record| crate::Envelope::decode(&record.bytes).expect("an envelope").topic.to_owned())
        .collect();
    assert_eq!(
        topics,
        ["devices/d1/messages/events/%24.on=o&a=1", "devices/d1/messages/events/mqtt-retain=true"]
    );
    assert_eq!(bench.counters().received, 2);
}

#[test]
fn another_sender_is_refused_unless_the_switch_allows_it() {
    let mut strict = bench(&[TO_ML]);
    let ml = module(&mut strict, "gw1/ml");
    let (leaf, _) = enter(&mut strict, "d1", Version::V5, true);
    for (id, topic) in [
        (1, "devices/d2/messages/events/"),
        (2, "devices/gw1/modules/filter/messages/events/"),
        (3, "devices/d1/modules/m/messages/events/"),
        (4, "devices/D1/messages/events/"),
    ] {
        strict.publish(leaf, topic, "x", id);
        strict.settle();
        assert_eq!(
            strict.take(leaf),
            [Seen::Refused(AckKind::PubAck, id, ReasonCode::NOT_AUTHORIZED)],
            "{topic}"
        );
    }
    assert_eq!((strict.counters().hub_sender_mismatches, topics(&mut strict, ml).len()), (4, 0));
    assert_eq!(strict.denials[0].rule, "the topic names another device or module as sender");

    let mut lax = bench_with(1, &[TO_ML], HubSetup { allow_sender_mismatch: true, ..setup() });
    let ml = module(&mut lax, "gw1/ml");
    let (leaf, _) = enter(&mut lax, "d1", Version::V3, true);
    lax.publish(leaf, "devices/d2/messages/events/", "x", 1);
    lax.settle();
    assert_eq!(topics(&mut lax, ml), ["devices/gw1/modules/ml/inputs/in1/%24.cdid=d2"]);
}

/// The rows of §2.9: what 3.1.1 has no word for is acknowledged and dropped, or closes, as configured.
#[test]
fn each_bad_publication_has_its_outcome() {
    let large = "x".repeat(262_145);
    let cases: [(&str, &str, ReasonCode); 5] = [
        ("devices/d1/messages/event/", "", ReasonCode::TOPIC_NAME_INVALID),
        ("plant/line1", "", ReasonCode::TOPIC_NAME_INVALID),
        ("devices/d1/messages/events/a=b=c", "", ReasonCode::TOPIC_NAME_INVALID),
        ("devices/d1/messages/events/&&", "", ReasonCode::TOPIC_NAME_INVALID),
        ("devices/d1/messages/events/", &large, ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR),
    ];
    for (topic, payload, reason) in cases {
        let mut bench = bench(&[TO_ML]);
        let (leaf, _) = enter(&mut bench, "d1", Version::V5, true);
        bench.publish(leaf, topic, payload, 1);
        bench.settle();
        assert_eq!(bench.take(leaf), [Seen::Refused(AckKind::PubAck, 1, reason)], "{topic}");
        assert_eq!((bench.denials.len(), bench.counters().sent_to_inputs), (1, 0), "{topic}");

        let (leaf, _) = enter(&mut bench, "d2", Version::V3, true);
        let topic = topic.replace("d1", "d2");
        bench.publish(leaf, &topic, payload, 1);
        bench.settle();
        assert_eq!(bench.take(leaf), [Seen::PubAck(1)], "{topic}");
        bench.replace_access(Access { denied_v3: DeniedV3::Disconnect, ..access() });
        bench.publish(leaf, &topic, payload, 2);
        assert_eq!(bench.take(leaf), [Seen::Closed], "{topic}");
        let counters = bench.counters();
        let counted = counters.hub_unknown_topics + counters.hub_bad_bags + counters.hub_too_large;
        assert_eq!(counted, 3, "{topic}");
    }
}

#[test]
fn a_bad_twin_topic_ends_a_3_1_1_connection() {
    for topic in ["$iothub/twin/xxx", "$iothub/twin/GET/"] {
        let mut bench = bench(&[]);
        let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
        bench.publish(leaf, topic, "", 1);
        assert_eq!(
            (bench.take(leaf), bench.counters().hub_bad_twin_topics),
            (vec![Seen::Closed], 1),
            "{topic}"
        );
        let (leaf, _) = enter(&mut bench, "d2", Version::V5, true);
        bench.publish(leaf, topic, "", 1);
        let refused = Seen::Refused(AckKind::PubAck, 1, ReasonCode::TOPIC_NAME_INVALID);
        assert_eq!(bench.take(leaf), [refused], "{topic}");
    }
}

#[test]
fn nobody_else_publishes_where_messages_say_who_sent_them() {
    let mut bench = bench(&[TO_ML]);
    let ml = module(&mut bench, "gw1/ml");
    let plain = bench.client("plain", Version::V5, 0);
    bench.connect(plain);
    for (id, topic) in [
        (1, "devices/d1/messages/events/"),
        (2, "devices/gw1/modules/ml/inputs/in1/"),
        (3, "$iothub/twin/res/200/?$rid=1"),
    ] {
        bench.publish(plain, topic, "x", id);
        bench.publish(plain, topic, "x", 0);
        assert_eq!(
            bench.take(plain),
            [Seen::Refused(AckKind::PubAck, id, ReasonCode::NOT_AUTHORIZED)],
            "{topic}"
        );
    }
    bench.settle();
    assert_eq!(topics(&mut bench, ml), Vec::<String>::new());
    assert_eq!(bench.counters().dropped_system_topic, 6);
    // Nor does it leave a will there.
    let other = bench.client("other", Version::V3, 0);
    let mut connect = bench.hello(other);
    connect.will = Some(Will { topic: "devices/d1/messages/events/".to_owned(), ..Will::default() });
    bench.connect_with(other, &connect);
    assert_eq!(
        bench.take(other),
        [Seen::ConnAck { present: false, reason: ReasonCode::NOT_AUTHORIZED }, Seen::Closed]
    );
}

#[test]
fn filters_of_the_dialect_are_the_owners() {
    let mut bench = bench(&[]);
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    let mut granted = |filter: &str| {
        bench.subscribe_with(leaf, filter, Qos::AtLeastOnce, 0, |_| {});
        bench.settle();
        bench.take(leaf)
    };
    for own in [
        "devices/d1/messages/devicebound/#",
        "$iothub/methods/POST/#",
        "$iothub/twin/res/#",
        "$iothub/twin/PATCH/properties/desired/#",
    ] {
        assert_eq!(granted(own), [Seen::SubAck(vec![ReasonCode::GRANTED_QOS_1])], "{own}");
    }
    for other in
        ["devices/d2/messages/devicebound/#", "devices/gw1/modules/ml/#", "#", "devices/#", "plant/#"]
    {
        let [Seen::SubAck(reasons)] = &granted(other)[..] else { panic!("no SUBACK") };
        assert!(reasons[0].is_error(), "{other}");
    }
    assert_eq!(bench.counters().hub_refused_filters, 5);
    let all = Features::default()
        .with(Feature::CloudToDevice)
        .with(Feature::Methods)
        .with(Feature::TwinResponses)
        .with(Feature::Desired);
    let Some(HubRequest::Features { features, client, .. }) =
        bench.hub_requests.iter().rev().find(|it| matches!(it, HubRequest::Features { .. }))
    else {
        panic!("nobody was told")
    };
    assert_eq!((*features, &**client), (all, "d1"));
}

#[test]
fn with_rules_the_free_topic_space_is_theirs() {
    let mut bench = bench(&[]);
    bench.replace_access(Access { rules: Some(Ruleset::new(Vec::new(), Effect::Allow)), ..access() });
    let (leaf, _) = enter(&mut bench, "d1", Version::V5, true);
    bench.subscribe(leaf, "plant/#", Qos::AtMostOnce);
    bench.publish(leaf, "plant/line1", "x", 0);
    assert_eq!(topics(&mut bench, leaf), ["plant/line1"]);
    // Rules that deny everything do not take the dialect away.
    bench.replace_access(Access { rules: Some(Ruleset::new(Vec::new(), Effect::Deny)), ..access() });
    bench.subscribe(leaf, "$iothub/twin/res/#", Qos::AtMostOnce);
    bench.publish(leaf, "$iothub/twin/GET/?$rid=1", "", 1);
    assert_eq!(bench.take(leaf), [Seen::PubAck(1)]);
    bench.publish(leaf, "plant/line1", "x", 2);
    assert_eq!(bench.take(leaf), [Seen::Refused(AckKind::PubAck, 2, ReasonCode::NOT_AUTHORIZED)]);
    let kept = bench.answer_hub(leaf, &twin_answer());
    assert_eq!(kept, Ok(()), "new rules leave its subscriptions of the dialect");
}

fn twin_answer() -> HubAnswer {
    HubAnswer::Twin { status: 200, rid: "7".into(), version: None, body: b"{}".as_slice().into() }
}

#[test]
fn messages_wait_for_a_module_that_has_never_come() {
    for shards in [1, 3] {
        let mut bench = bench_with(shards, &[TO_ML], setup());
        let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
        for id in 1..=5 {
            bench.publish(leaf, "devices/d1/messages/events/", &id.to_string(), if id == 3 { 0 } else { id });
        }
        bench.settle();
        assert_eq!(bench.take(leaf), [1, 2, 4, 5].map(Seen::PubAck), "durable before it is acknowledged");
        bench.crash();
        let (ml, present) = enter(&mut bench, "gw1/ml", Version::V3, false);
        assert!(!present, "it has had no session");
        assert_eq!(topics(&mut bench, ml).len(), 0, "it has not subscribed");
        bench.subscribe_with(ml, INPUTS, Qos::AtLeastOnce, 0, |_| {});
        bench.settle();
        let seen = bench.take(ml);
        assert_eq!(seen[0], Seen::SubAck(vec![ReasonCode::GRANTED_QOS_1]));
        let got: Vec<_> = seen[1..]
            .iter()
            .map(|seen| match seen {
                Seen::Publish(got) => (got.text(), got.qos),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected: Vec<_> = (1..=5).map(|id| (id.to_string(), Qos::AtLeastOnce)).collect();
        assert_eq!(got, expected, "in order, all at once");
    }
}

#[test]
fn a_queue_outlives_clean_sessions_and_restarts() {
    let mut bench = bench(&[TO_ML]);
    let ml = module(&mut bench, "gw1/ml");
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    bench.publish(leaf, "devices/d1/messages/events/", "one", 1);
    bench.settle();
    let got = bench.got(ml).remove(0);
    bench.ack(ml, got.id);
    bench.settle();
    bench.cut(ml);
    bench.publish(leaf, "devices/d1/messages/events/", "two", 2);
    bench.settle();
    assert!(!come(&mut bench, ml, true), "it begins anew");
    assert_eq!(bench.texts(ml), Vec::<String>::new());
    bench.subscribe_with(ml, INPUTS, Qos::AtLeastOnce, 0, |_| {});
    bench.settle();
    let seen = bench.take(ml);
    assert!(matches!(&seen[1], Seen::Publish(got) if got.text() == "two"), "{seen:?}");
    bench.crash();
    assert!(come_and_get(&mut bench, ml) == ["two"], "not acknowledged: it comes again");
}

fn come_and_get(bench: &mut Bench, client: usize) -> Vec<String> {
    bench.take(client);
    let id = bench.clients[client].id.clone();
    let mut connect = bench.hello(client);
    connect.clean_start = false;
    connect.user_name = Some(format!("h/{id}/?api-version=1"));
    bench.connect_with(client, &connect);
    bench.settle();
    bench.verify(Verdict::Identified { user: id.as_str().into() });
    bench.settle();
    let seen = bench.take(client);
    assert_eq!(seen[0], Seen::ConnAck { present: true, reason: ReasonCode::SUCCESS });
    seen[1..]
        .iter()
        .map(|seen| match seen {
            Seen::Publish(got) => got.text(),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_module_that_unsubscribes_keeps_its_queue_and_gets_nothing() {
    let mut bench = bench(&[TO_ML]);
    let ml = module(&mut bench, "gw1/ml");
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    bench.unsubscribe(ml, INPUTS);
    bench.unsubscribe(ml, "devices/gw1/modules/ml/inputs/+/#");
    bench.settle();
    bench.take(ml);
    bench.publish(leaf, "devices/d1/messages/events/", "one", 1);
    bench.settle();
    assert_eq!((bench.texts(ml), bench.take(leaf)), (Vec::new(), vec![Seen::PubAck(1)]));
    bench.subscribe_with(ml, INPUTS, Qos::AtMostOnce, 0, |_| {});
    bench.settle();
    assert!(matches!(&bench.take(ml)[1], Seen::Publish(got) if got.text() == "one"));
    // It takes QoS 0 at most from now on.
    bench.publish(leaf, "devices/d1/messages/events/", "two", 2);
    bench.settle();
    assert_eq!(bench.got(ml)[0].qos, Qos::AtMostOnce);
}

#[test]
fn where_unknown_modules_are_not_kept_their_messages_are_counted() {
    let mut bench = bench_with(1, &[TO_ML], HubSetup { keep_for_unknown: false, ..setup() });
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    bench.publish(leaf, "devices/d1/messages/events/", "x", 1);
    bench.settle();
    assert_eq!((bench.take(leaf), bench.counters().dropped_input_unknown), (vec![Seen::PubAck(1)], 1));
}

#[test]
fn a_route_that_comes_later_has_its_queue_at_once() {
    let mut bench = bench(&[]);
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    bench.replace_plan(plan(&[(TO_ML, None, None)]));
    bench.publish(leaf, "devices/d1/messages/events/", "x", 1);
    assert_eq!(bench.take(leaf), [], "nothing is read before there is a queue");
    bench.settle();
    bench.ping(leaf);
    bench.settle();
    assert_eq!(bench.take(leaf), [Seen::PubAck(1), Seen::PingResp]);
    assert_eq!((bench.counters().sent_to_inputs, bench.counters().dropped_input_unknown), (1, 0));
}

#[test]
fn a_full_store_holds_telemetry_for_inputs_back() {
    let mut bench = bench(&[TO_ML]);
    let ml = module(&mut bench, "gw1/ml");
    let (leaf, _) = enter(&mut bench, "d1", Version::V5, true);
    bench.set_levels(Levels { store: Level::FullForUrgent, ..Levels::default() });
    bench.publish(leaf, "devices/d1/messages/events/", "one", 1);
    bench.publish(leaf, "devices/d1/messages/events/", "two", 0);
    bench.publish(leaf, "$iothub/twin/GET/?$rid=1", "", 2);
    bench.settle();
    let refused = Seen::Refused(AckKind::PubAck, 1, ReasonCode::QUOTA_EXCEEDED);
    assert_eq!(bench.take(leaf), [refused, Seen::PubAck(2)]);
    assert_eq!((bench.texts(ml).len(), bench.counters().dropped_sink_full), (0, 1));
}

#[test]
fn requests_go_on_the_tray_and_answers_to_who_asked() {
    let mut bench = bench(&[]);
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    bench.subscribe(leaf, "$iothub/twin/res/#", Qos::AtLeastOnce);
    bench.hub_requests.clear();
    let conn = bench.clients[leaf].conn.expect("connected");
    bench.publish(leaf, "$iothub/twin/GET/?$rid=7", "", 1);
    bench.publish(leaf, "$iothub/twin/PATCH/properties/reported/?$rid=8", r#"{"fw":"1.2"}"#, 2);
    bench.publish(leaf, "$iothub/twin/PATCH/properties/reported/", "{}", 0);
    bench.publish(leaf, "$iothub/methods/res/200/?$rid=9", r#"{"ok":true}"#, 3);
    assert_eq!(bench.take(leaf), [Seen::PubAck(1), Seen::PubAck(2), Seen::PubAck(3)]);
    let client = || "d1".into();
    let patch = |text: &str| text.as_bytes().into();
    assert_eq!(
        bench.hub_requests,
        [
            HubRequest::TwinGet { conn, client: client(), rid: "7".into() },
            HubRequest::TwinReported {
                conn,
                client: client(),
                rid: Some("8".into()),
                patch: patch(r#"{"fw":"1.2"}"#)
            },
            HubRequest::TwinReported { conn, client: client(), rid: None, patch: patch("{}") },
            HubRequest::MethodResponse {
                client: client(),
                rid: "9".into(),
                status: "200".into(),
                payload: patch(r#"{"ok":true}"#)
            },
        ]
    );
    assert_eq!(bench.answer_hub(leaf, &twin_answer()), Ok(()));
    let got = bench.got(leaf).remove(0);
    assert_eq!(
        (got.topic.as_str(), got.text().as_str(), got.qos),
        ("$iothub/twin/res/200/?$rid=7", "{}", Qos::AtMostOnce)
    );
    let method = HubAnswer::Method { name: "reboot".into(), rid: "r1".into(), payload: patch("1") };
    assert_eq!(bench.answer_hub(leaf, &method), Err(Unanswered::NotSubscribed));
    bench.subscribe(leaf, "$iothub/methods/POST/#", Qos::AtLeastOnce);
    bench.subscribe(leaf, "$iothub/twin/PATCH/properties/desired/#", Qos::AtLeastOnce);
    assert_eq!(bench.answer_hub(leaf, &method), Ok(()));
    assert_eq!(
        bench.answer_hub(leaf, &HubAnswer::Desired { version: 9, patch: patch(r#"{"r":5}"#) }),
        Ok(())
    );
    assert_eq!(
        topics(&mut bench, leaf),
        ["$iothub/methods/POST/reboot/?$rid=r1", "$iothub/twin/PATCH/properties/desired/?$version=9",]
    );
    bench.cut(leaf);
    assert_eq!(bench.answer_hub(leaf, &method), Err(Unanswered::Gone));
    assert_eq!(bench.hub_requests.last(), Some(&HubRequest::Disconnected { conn, client: client() }));
    assert_eq!((bench.counters().hub_answers, bench.counters().hub_unanswered), (3, 1));
}

#[test]
fn what_a_client_reports_is_a_message_for_routes_that_ask_for_it() {
    let changes = r#"FROM /twinChangeNotifications/* WHERE $body.fw = '1.2' INTO BrokeredEndpoint("/modules/ml/inputs/twins")"#;
    let telemetry = r#"FROM /messages/* INTO BrokeredEndpoint("/modules/ml/inputs/in1")"#;
    let mut bench = bench(&[changes, telemetry]);
    let ml = module(&mut bench, "gw1/ml");
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    for (sender, patch) in
        [("d1", r#"{"fw":"1.1"}"#), ("d1", r#"{"fw":"1.2"}"#), ("gw1/filter", r#"{"fw":"1.2"}"#)]
    {
        let change = HubAnswer::TwinChange { sender: sender.into(), patch: patch.as_bytes().into() };
        assert_eq!(bench.answer_hub(leaf, &change), Ok(()));
    }
    bench.settle();
    let bag = "%24.ct=application%2Fjson&%24.ce=utf-8&%24.schema=twinChangeNotification&%24.cdid";
    assert_eq!(
        topics(&mut bench, ml),
        [
            format!("devices/gw1/modules/ml/inputs/twins/{bag}=d1"),
            format!("devices/gw1/modules/ml/inputs/twins/{bag}=gw1&%24.cmid=filter"),
        ]
    );
    assert_eq!(bench.counters().hub_twin_changes, 3);
}

/// What would be dropped here stays in the cloud.
#[test]
fn a_message_of_the_cloud_without_room_is_not_taken() {
    let limits = Limits { session_queue_messages_max: 2, session_inflight_max: 1, ..Limits::DEFAULT };
    let message =
        |token| HubAnswer::CloudToDevice { bag: "a=b".into(), payload: b"go".as_slice().into(), token };
    for (qos, taken) in [(Qos::AtLeastOnce, 3), (Qos::AtMostOnce, 1)] {
        let limits = match qos {
            // One that is not taken by the socket fills it.
            Qos::AtMostOnce => Limits { outbox_bytes_max: 8, ..limits.clone() },
            _ => limits.clone(),
        };
        let mut bench = Bench::speaking(1, limits, plan(&[]), Some(setup()));
        bench.replace_access(access());
        let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
        bench.subscribe(leaf, "devices/d1/messages/devicebound/#", qos);
        bench.hub_requests.clear();
        bench.clients[leaf].takes = 0;
        for token in 1..=taken {
            assert_eq!(bench.answer_hub(leaf, &message(token)), Ok(()), "{qos:?} {token}");
        }
        bench.settle();
        assert_eq!(bench.answer_hub(leaf, &message(9)), Err(Unanswered::NoRoom), "{qos:?}");
        bench.settle();
        assert!(!bench.hub_requests.contains(&HubRequest::Posted { token: 9 }), "{qos:?}");
    }
}

/// The tray for services is full: a client is told, or loses its connection; it is never told that all is well.
#[test]
fn a_request_that_is_not_passed_on_is_not_acknowledged() {
    let full = crate::heads::iothub::requests::REQUESTS_PER_TURN_MAX;
    for (version, expected) in [
        (Version::V3, Seen::Closed),
        (Version::V5, Seen::Refused(AckKind::PubAck, 1, ReasonCode::QUOTA_EXCEEDED)),
    ] {
        let mut bench = bench(&[]);
        let (leaf, _) = enter(&mut bench, "d1", version, true);
        bench.hub_requests.clear();
        let mut bytes = Vec::new();
        let topic = "$iothub/twin/GET/?$rid=1";
        let mut get = wire::OutgoingPublish { topic, ..Default::default() };
        for _ in 0..full {
            wire::encode_publish(&mut bytes, version, &get).expect("a packet");
        }
        (get.qos, get.packet_id) = (Qos::AtLeastOnce, std::num::NonZeroU16::new(1));
        wire::encode_publish(&mut bytes, version, &get).expect("a packet");
        bench.send(leaf, &bytes);
        assert_eq!(bench.take(leaf), [expected], "{version:?}");
        let is_get = |request: &&HubRequest| matches!(request, HubRequest::TwinGet { .. });
        assert_eq!(bench.hub_requests.iter().filter(is_get).count(), full);
        assert_eq!(bench.counters().hub_requests_refused, 1);
    }
}

#[test]
fn a_will_is_a_message_of_its_owner() {
    let mut bench = bench(&[TO_ML]);
    let ml = module(&mut bench, "gw1/ml");
    let leaf = bench.client("hub", Version::V3, 0);
    bench.clients[leaf].id = "d1".to_owned();
    let will = |topic: &str| {
        let payload = b"gone".to_vec();
        Some(Will {
            topic: topic.to_owned(),
            payload,
            qos: Qos::AtLeastOnce,
            retain: true,
            ..Will::default()
        })
    };
    come_with(&mut bench, leaf, true, will("devices/d1/messages/events/a=1"));
    bench.cut(leaf);
    bench.settle();
    assert_eq!(
        topics(&mut bench, ml),
        ["devices/gw1/modules/ml/inputs/in1/a=1&mqtt-retain=true&MessageType=Will&%24.cdid=d1"]
    );
}

#[test]
fn who_is_not_verified_as_the_identity_is_no_client_of_the_dialect() {
    let mut bench = bench(&[]);
    let client = bench.client("hub", Version::V5, 0);
    bench.clients[client].id = "d1".to_owned();
    let mut connect = bench.hello(client);
    connect.user_name = Some("h/d1/?api-version=1".to_owned());
    bench.connect_with(client, &connect);
    bench.verify(Verdict::Accepted { user: "plain".into(), print: 1 });
    bench.settle();
    bench.take(client);
    bench.publish(client, "devices/d1/messages/events/", "x", 1);
    assert_eq!(bench.take(client), [Seen::Refused(AckKind::PubAck, 1, ReasonCode::NOT_AUTHORIZED)]);
}

/// A queue of a module is there before the module: nobody else gets it by coming with its client identifier.
#[test]
fn nobody_gets_the_queue_of_a_module_that_has_not_come() {
    let mut bench = bench(&[TO_ML]);
    for id in ["gw1/ml", "gw1/other"] {
        let thief = bench.client("thief", Version::V3, 0);
        bench.clients[thief].id = id.to_owned();
        let hello = bench.hello(thief);
        bench.connect_with(thief, &hello);
        bench.settle();
        let refused = Seen::ConnAck { present: false, reason: ReasonCode::NOT_AUTHORIZED };
        assert_eq!(bench.take(thief), [refused, Seen::Closed], "{id}");
    }
    module(&mut bench, "gw1/ml");
}
