//! Where routes lead.

use std::sync::Arc;

use model::{LaneId, Priority, Qos, Timestamp};
use routes::{RouteSpec, RouteTable};
use wire::Version;

use crate::testbench::{Bench, Seen};
use crate::{Durability, Plan, SinkPlan, WhenFull};

const URGENT: LaneId = LaneId(1);
const DEFAULT: LaneId = LaneId(2);

/// Routes `(text, priority, ttl)`; every uplink is one and the same, with an urgent and a default lane.
pub(crate) fn plan(specs: &[(&str, Option<i64>, Option<u64>)]) -> Plan {
    let spec = |(text, priority, ttl_millis): &(&str, Option<i64>, Option<u64>)| RouteSpec {
        name: (*text).to_owned(),
        text: (*text).to_owned(),
        priority: priority.map_or(Priority::DEFAULT, |number| Priority::new(number).unwrap()),
        ttl_millis: *ttl_millis,
    };
    let specs: Vec<RouteSpec> = specs.iter().map(spec).collect();
    let table = RouteTable::compile(&specs, &routes::Options::default()).unwrap();
    let sinks = table.sinks().iter().map(|sink| match sink {
        routes::Sink::Upstream | routes::Sink::Uplink(_) => {
            let lanes = vec![(Priority::HIGHEST, URGENT), (Priority::DEFAULT, DEFAULT)];
            SinkPlan::Lanes { uplink: 0, lanes, when_full: WhenFull::Refuse }
        }
        routes::Sink::Input { .. } => SinkPlan::Input,
        routes::Sink::Topic(_) => SinkPlan::Topic,
    });
    Plan {
        sinks: sinks.collect(),
        durabilities: vec![Durability::Disk; specs.len()],
        table: Arc::new(table),
        keeps_user: false,
        ttl_millis: None,
    }
}

/// Everything goes to the uplink.
pub(crate) fn uplink_plan() -> Plan {
    plan(&[("FROM /* INTO $upstream", None, None)])
}

fn bench(plan: Plan) -> (Bench, usize) {
    let mut bench = Bench::with(1, model::Limits::DEFAULT, plan);
    assert_eq!((bench.disk.lane("urgent"), bench.disk.lane("default")), (URGENT, DEFAULT));
    let publisher = bench.client("p", Version::V5, 0);
    bench.connect(publisher);
    (bench, publisher)
}

#[test]
fn a_routed_message_is_on_disk_before_its_puback() {
    let (mut bench, publisher) = bench(uplink_plan());
    bench.publish(publisher, "t", "x", 1);
    assert_eq!(bench.take(publisher), []);
    bench.settle();
    assert_eq!(
        (bench.take(publisher), bench.disk.payloads(DEFAULT)),
        (vec![Seen::PubAck(1)], vec!["x".into()])
    );
    assert_eq!((bench.counters().routed, bench.counters().appended, bench.counters().unmatched), (1, 1, 0));
}

#[test]
fn a_route_that_promises_memory_does_not_wait_for_the_disk() {
    let mut plan = uplink_plan();
    plan.durabilities = vec![Durability::Memory];
    let (mut bench, publisher) = bench(plan);
    bench.publish(publisher, "t", "x", 1);
    assert_eq!(bench.take(publisher), [Seen::PubAck(1)]);
    bench.settle();
    assert_eq!(bench.disk.payloads(DEFAULT), ["x"]);
}

/// Two publishers on a `spill` route whose front takes records.
fn spilling() -> (Bench, [usize; 2]) {
    let mut plan = uplink_plan();
    plan.durabilities = vec![Durability::Spill];
    let (mut bench, publisher) = bench(plan);
    bench.disk.holds = true;
    let other = bench.client("q", Version::V3, 0);
    bench.connect(other);
    (bench, [publisher, other])
}

#[test]
fn a_route_that_promises_spill_waits_for_the_upstream_or_the_disk_whichever_is_first() {
    let (mut bench, [publisher, other]) = spilling();
    bench.publish(publisher, "t", "x", 1);
    bench.publish(publisher, "t", "y", 2);
    bench.publish(other, "t", "z", 1);
    bench.settle();
    assert_eq!((bench.take(publisher), bench.disk.payloads(DEFAULT)), (vec![], vec![]));
    bench.upstream_takes(DEFAULT, 1);
    bench.settle();
    assert_eq!((bench.take(publisher), bench.take(other)), (vec![Seen::PubAck(1)], vec![]));
    bench.write_front(DEFAULT);
    bench.settle();
    assert_eq!((bench.take(publisher), bench.take(other)), (vec![Seen::PubAck(2)], vec![Seen::PubAck(1)]));
    assert_eq!(bench.disk.payloads(DEFAULT), ["y", "z"], "what was delivered is not written");
    // Behind a backlog nothing is held.
    bench.publish(publisher, "t", "again", 3);
    bench.settle();
    assert_eq!((bench.take(publisher), bench.disk.payloads(DEFAULT).len()), (vec![Seen::PubAck(3)], 3));
}

#[test]
fn a_message_of_qos_2_on_a_spill_route_is_on_disk_before_its_pubrec() {
    let (mut bench, [publisher, _]) = spilling();
    bench.publish(publisher, "t", "before", 1);
    bench.publish_once(publisher, "t", "once", 2);
    bench.settle();
    // In order: what stands in the front of the lane is written before it.
    assert_eq!(bench.disk.payloads(DEFAULT), ["before", "once"]);
    assert_eq!(bench.take(publisher), [Seen::PubAck(1), Seen::PubRec(2)]);
}

#[test]
fn who_waits_for_the_upstream_holds_back_nobody_who_waits_for_the_disk() {
    let (mut bench, [publisher, other]) = spilling();
    let mut plan =
        plan(&[("FROM \"a/#\" INTO $upstream", None, None), ("FROM \"b/#\" INTO $upstream", Some(0), None)]);
    plan.durabilities = vec![Durability::Spill, Durability::Disk];
    bench.replace_plan(plan);
    bench.publish(publisher, "a/1", "x", 1);
    bench.publish(other, "b/1", "y", 1);
    bench.settle();
    assert_eq!((bench.take(publisher), bench.take(other)), (vec![], vec![Seen::PubAck(1)]));
    // Its own next one waits for its turn [MQTT-4.6.0-2].
    bench.publish(publisher, "b/1", "z", 2);
    bench.settle();
    assert_eq!((bench.take(publisher), bench.disk.payloads(URGENT)), (vec![], vec!["y".into(), "z".into()]));
    bench.upstream_takes(DEFAULT, 1);
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubAck(1), Seen::PubAck(2)]);
}

#[test]
fn the_strictest_promise_of_all_ways_holds() {
    use Durability::{Disk, Memory, Spill};
    for (ways, strictest) in [([Spill, Memory], Spill), ([Memory, Spill], Spill), ([Spill, Disk], Disk)] {
        let specs = [("FROM /* INTO $upstream", None, None), ("FROM /* INTO uplink(\"x\")", None, None)];
        let mut plan = plan(&specs);
        plan.durabilities = ways.into();
        let (mut bench, publisher) = bench(plan);
        bench.disk.holds = true;
        bench.publish(publisher, "t", "x", 1);
        bench.settle();
        let is_written = strictest == Disk;
        assert_eq!(bench.take(publisher).is_empty(), !is_written, "{ways:?}");
        assert_eq!(bench.disk.payloads(DEFAULT).is_empty(), !is_written, "{ways:?}");
    }
}

#[test]
fn an_uplink_gets_a_message_once_on_the_most_urgent_of_all_ways() {
    for specs in [
        [("FROM /* INTO $upstream", None, Some(5_000)), ("FROM /* INTO uplink(\"x\")", Some(0), Some(9_000))],
        [("FROM /* INTO uplink(\"x\")", Some(0), Some(9_000)), ("FROM /* INTO $upstream", None, Some(5_000))],
    ] {
        let mut plan = plan(&specs);
        // The strictest promise holds, wherever the message goes.
        plan.durabilities[usize::from(specs[0].1.is_some())] = Durability::Disk;
        plan.durabilities[usize::from(specs[0].1.is_none())] = Durability::Memory;
        let (mut bench, publisher) = bench(plan);
        bench.publish(publisher, "t", "x", 1);
        assert_eq!(bench.take(publisher), []);
        bench.settle();
        assert_eq!((bench.disk.payloads(URGENT).len(), bench.disk.payloads(DEFAULT).len()), (1, 0));
        let expires = bench.disk.lanes[&URGENT][0].expires;
        assert_eq!(expires, Some(bench.now.timestamp.plus_millis(9_000)), "with its time to live");
    }
}

#[test]
fn the_shorter_of_route_and_publisher_decides_how_long_a_message_lives() {
    let (mut bench, publisher) = bench(plan(&[("FROM /* INTO $upstream", None, Some(5_000))]));
    for secs in [None, Some(3), Some(60)] {
        bench.publish_with(publisher, "t", "x", 0, |publish| publish.expiry_secs = secs);
    }
    bench.settle();
    let lives: Vec<u64> = bench.disk.lanes[&DEFAULT]
        .iter()
        .map(|record| record.expires.unwrap_or(Timestamp(0)).0 - bench.now.timestamp.0)
        .collect();
    assert_eq!(lives, [5_000, 3_000, 5_000]);
}

#[test]
fn a_template_republishes_without_feeding_routes_again() {
    let plan = plan(&[
        ("FROM /* INTO topic(\"copy/{$topic}\")", None, None),
        ("FROM /* INTO topic(\"by/{missing}\")", None, None),
    ]);
    let (mut bench, _) = bench(plan);
    let subscriber = bench.client("s", Version::V5, 0);
    bench.connect(subscriber);
    bench.subscribe(subscriber, "#", Qos::AtLeastOnce);
    let device = bench.v3_device();
    bench.publish_with(device, "a/b", "x", 1, |publish| publish.retain = true);
    let topics: Vec<String> = bench.got(subscriber).into_iter().map(|got| got.topic).collect();
    assert_eq!(topics, ["a/b", "copy/a/b"]);
    assert_eq!(bench.counters().dropped_invalid_template, 1);
}

#[test]
fn routes_see_user_properties_and_content_type() {
    let (mut bench, publisher) = bench(plan(&[("FROM /* WHERE color = 'red' INTO $upstream", None, None)]));
    let mut block = wire::BlockBuilder::default();
    block.content_type("application/json").unwrap().user("color", "red").unwrap();
    bench.publish_with(publisher, "t", "red", 1, |publish| publish.properties = block.as_bytes());
    bench.publish(publisher, "t", "none", 2);
    bench.settle();
    assert_eq!(bench.disk.payloads(DEFAULT), ["red"]);
}
