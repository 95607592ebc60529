//! What SELECT, SAMPLE, THROTTLE and CHANGED do on the way to uplink lanes and topic sinks, and what they leave alone.

use model::{LaneId, Qos};
use wire::Version;

use super::routing::plan;
use crate::testbench::{Bench, Seen};

const DEFAULT: LaneId = LaneId(2);

/// A bench with these routes, a publisher, and a subscriber of everything.
fn bench(routes: &[&str]) -> (Bench, usize, usize) {
    let specs: Vec<_> = routes.iter().map(|text| (*text, None, None)).collect();
    let mut bench = Bench::with(1, model::Limits::DEFAULT, plan(&specs));
    bench.disk.lane("urgent");
    assert_eq!(bench.disk.lane("default"), DEFAULT);
    let publisher = bench.client("p", Version::V5, 0);
    bench.connect(publisher);
    let subscriber = bench.client("s", Version::V5, 0);
    bench.connect(subscriber);
    bench.subscribe(subscriber, "#", Qos::AtLeastOnce);
    bench.take(subscriber);
    (bench, publisher, subscriber)
}

/// What the subscriber got, as `topic payload`.
fn seen(bench: &mut Bench, subscriber: usize) -> Vec<String> {
    bench.got(subscriber).iter().map(|got| format!("{} {}", got.topic, got.text())).collect()
}

/// What is in the uplink's lane, once the disk has done its work.
fn in_lane(bench: &mut Bench) -> Vec<String> {
    bench.settle();
    bench.disk.payloads(DEFAULT)
}

#[test]
fn each_sink_gets_what_its_route_selects_and_subscribers_get_what_was_sent() {
    let (mut bench, publisher, subscriber) = bench(&[
        "SELECT * EXCEPT $body.patient FROM \"ward/#\" INTO $upstream",
        "SELECT $body.pulse AS p FROM \"ward/#\" INTO topic \"short/{$topic[1]}\"",
        "FROM \"ward/#\" INTO topic \"whole/{$topic[1]}\"",
    ]);
    let body = r#"{"patient":{"name":"N"},"pulse":72}"#;
    bench.publish(publisher, "ward/7", body, 0);
    let mut seen = seen(&mut bench, subscriber);
    seen.sort();
    assert_eq!(
        seen,
        [r#"short/7 {"p":72}"#.to_owned(), format!("ward/7 {body}"), format!("whole/7 {body}"),]
    );
    assert_eq!(in_lane(&mut bench), [r#"{"pulse":72}"#]);
}

/// What a route hides may be anywhere in a body that cannot be read: so nothing of it may leave.
#[test]
fn a_body_that_cannot_be_selected_from_goes_to_no_sink_and_is_counted() {
    for body in ["not json", r#"{"a":1"#, "[1]", ""] {
        let (mut bench, publisher, subscriber) = bench(&[
            "SELECT * EXCEPT $body.secret FROM /* INTO $upstream",
            "SELECT $body.a FROM /* INTO topic \"copy/{$topic}\"",
        ]);
        bench.publish(publisher, "t", body, 1);
        assert_eq!(seen(&mut bench, subscriber), [format!("t {body}")]);
        assert_eq!(bench.take(publisher), [Seen::PubAck(1)], "there is no promise to wait for");
        assert_eq!(in_lane(&mut bench), [""; 0]);
        assert_eq!(bench.counters().dropped_not_selectable, 2, "{body}");
    }
}

#[test]
fn a_sample_counts_for_each_key_and_holds_back_one_sink_only() {
    let (mut bench, publisher, subscriber) = bench(&[
        "FROM \"m/+\" SAMPLE 1 IN 3 BY $topic[1] INTO $upstream",
        "FROM \"m/+\" INTO topic \"all/{$topic[1]}\"",
    ]);
    for number in 0..7 {
        bench.publish(publisher, "m/a", &format!("a{number}"), 0);
        bench.publish(publisher, "m/b", &format!("b{number}"), 0);
    }
    assert_eq!(seen(&mut bench, subscriber).len(), 28, "subscribers and the other sink get all");
    assert_eq!(in_lane(&mut bench), ["a0", "b0", "a3", "b3", "a6", "b6"]);
    assert_eq!(bench.route_counters().held_back, 8);
}

#[test]
fn a_throttle_opens_again_when_its_period_is_over() {
    let (mut bench, publisher, subscriber) =
        bench(&["FROM \"m\" THROTTLE 2 PER 10s BY $clientId INTO $upstream, topic \"few\""]);
    let mut sent = Vec::new();
    for pass in [0, 0, 0, 9_999, 1, 0, 0] {
        bench.pass(pass);
        sent.push(format!("{pass} {}", sent.len()));
        bench.publish(publisher, "m", sent.last().unwrap(), 0);
    }
    let passed: Vec<String> = [0, 1, 4, 5].map(|at: usize| sent[at].clone()).to_vec();
    let few: Vec<String> = seen(&mut bench, subscriber)
        .iter()
        .filter_map(|seen| Some(seen.strip_prefix("few ")?.to_owned()))
        .collect();
    assert_eq!(few, passed, "the period starts with the first message that passes");
    assert_eq!(in_lane(&mut bench), passed);
}

#[test]
fn a_dead_band_sends_what_differs_from_what_was_sent_last() {
    let (mut bench, publisher, _) = bench(&[
        "SELECT $body.t FROM \"m/+\" WHERE $body.t < 100 CHANGED($body.t, 0.5) BY $topic INTO $upstream",
    ]);
    for t in ["20", "20.4", "20.5", "20.9", "900", "\"x\"", "21.0", "20.6"] {
        bench.publish(publisher, "m/a", &format!("{{\"t\":{t},\"noise\":1}}"), 0);
    }
    bench.publish(publisher, "m/b", r#"{"t":20.7}"#, 0);
    assert_eq!(
        in_lane(&mut bench),
        [r#"{"t":20}"#, r#"{"t":20.5}"#, r#"{"t":21.0}"#, r#"{"t":20.7}"#],
        "a message whose condition does not hold changes nothing"
    );
}

/// A publication without a sink has nothing to wait for.
#[test]
fn what_is_held_back_is_acknowledged_like_any_other() {
    let (mut bench, publisher, _) = bench(&["FROM \"m\" THROTTLE 1 PER 1h INTO $upstream"]);
    bench.publish(publisher, "m", "first", 1);
    assert_eq!(bench.take(publisher), [], "the first waits for the disk");
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubAck(1)]);
    bench.publish(publisher, "m", "second", 2);
    assert_eq!(bench.take(publisher), [Seen::PubAck(2)]);
    assert_eq!((bench.counters().routed, bench.route_counters().held_back), (1, 1));
}

#[test]
fn a_reload_keeps_the_memory_of_routes_that_stay_as_they_are() {
    const KEPT: &str = "FROM \"m\" SAMPLE 1 IN 4 INTO topic \"kept\"";
    let texts =
        |changed: &str| [KEPT.to_owned(), format!("FROM \"m\" SAMPLE 1 IN 4 INTO topic \"{changed}\"")];
    let (first, second) = (texts("before"), texts("after"));
    let (mut bench, publisher, subscriber) = bench(&[&first[0], &first[1]]);
    bench.publish(publisher, "m", "0", 0);
    bench.replace_plan(plan(&[(&second[1], None, None), (&second[0], None, None)]));
    bench.publish(publisher, "m", "1", 0);
    let mut seen = seen(&mut bench, subscriber);
    seen.sort();
    assert_eq!(seen, ["after 1", "before 0", "kept 0", "m 0", "m 1"]);
}

/// Routes are evaluated where a message comes in, so one that is held back is held back for every shard.
#[test]
fn a_sink_that_is_held_back_reaches_no_shard() {
    let specs = [("FROM \"m\" SAMPLE 1 IN 2 INTO topic \"half\"", None, None)];
    let mut bench = Bench::with(2, model::Limits::DEFAULT, plan(&specs));
    let publisher = bench.client("p", Version::V5, 0);
    let elsewhere = bench.client("s", Version::V5, 1);
    for client in [publisher, elsewhere] {
        bench.connect(client);
    }
    bench.settle();
    bench.subscribe(elsewhere, "half", Qos::AtMostOnce);
    bench.settle();
    bench.take(elsewhere);
    for number in 0..4 {
        bench.publish(publisher, "m", &number.to_string(), 0);
    }
    bench.settle();
    assert_eq!(bench.texts(elsewhere), ["0", "2"]);
}
