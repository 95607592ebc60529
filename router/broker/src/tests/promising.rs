//! Acknowledgements: in order, and never before their promise is kept.

use model::{Limits, Qos};
use wire::Version;

use crate::testbench::{Bench, Seen};

fn pubacks(bench: &mut Bench, client: usize) -> Vec<u16> {
    let id = |seen| match seen {
        Seen::PubAck(id) => id,
        other => panic!("{other:?} instead of PUBACK"),
    };
    bench.take(client).into_iter().map(id).collect()
}

#[test]
fn a_puback_waits_for_the_disk_of_a_stored_session_here() {
    let mut bench = Bench::new(1);
    let (publisher, stored) = (bench.client("p", Version::V5, 0), bench.client("s", Version::V3, 0));
    bench.connect(publisher);
    bench.resume(stored);
    bench.subscribe(stored, "kept", Qos::AtLeastOnce);
    bench.publish(publisher, "kept", "1", 1);
    bench.publish(publisher, "other", "2", 2);
    bench.publish(publisher, "kept", "3", 3);
    assert_eq!(pubacks(&mut bench, publisher), [] as [u16; 0], "2 needs nothing, but 1 is before it"); // [MQTT-4.6.0-2] [MQTT3-4.6.0-2]
    assert_eq!(bench.texts(stored), ["1", "3"], "the subscriber need not wait");
    bench.disk_step();
    bench.settle_mail();
    assert_eq!(pubacks(&mut bench, publisher), [1, 2]);
    bench.settle();
    assert_eq!(pubacks(&mut bench, publisher), [3]);
}

#[test]
fn a_puback_waits_for_the_disk_of_another_shard() {
    let mut bench = Bench::new(2);
    let (publisher, stored) = (bench.client("p", Version::V5, 0), bench.client("s", Version::V5, 1));
    bench.connect(publisher);
    bench.resume(stored);
    bench.subscribe(stored, "kept", Qos::AtLeastOnce);
    bench.publish(publisher, "kept", "1", 1);
    bench.publish(publisher, "kept", "0", 0);
    bench.settle_mail();
    assert_eq!(pubacks(&mut bench, publisher), [] as [u16; 0]);
    assert_eq!(bench.texts(stored), ["1", "0"]);
    bench.settle();
    assert_eq!(pubacks(&mut bench, publisher), [1]);
    assert_eq!(bench.counters().handed_off, 2);
}

#[test]
fn a_clean_session_elsewhere_is_not_waited_for() {
    let mut bench = Bench::new(2);
    let (publisher, clean) = (bench.client("p", Version::V5, 0), bench.client("s", Version::V5, 1));
    bench.connect(publisher);
    bench.connect(clean);
    bench.subscribe(clean, "t", Qos::AtLeastOnce);
    bench.publish(publisher, "t", "1", 1);
    assert_eq!(pubacks(&mut bench, publisher), [1]);
    bench.settle();
    assert_eq!(bench.texts(clean), ["1"]);
}

#[test]
fn a_packet_handed_to_different_shards_by_a_route_is_acknowledged() {
    let plan = super::routing::plan(&[("FROM /* INTO topic(\"copy/{$topic}\")", None, None)]);
    let mut bench = Bench::with(3, Limits::DEFAULT, plan);
    let publisher = bench.client("p", Version::V5, 0);
    bench.connect(publisher);
    for (shard, filter) in [(1, "t"), (2, "copy/t")] {
        let stored = bench.client("s", Version::V5, shard);
        bench.resume(stored);
        bench.subscribe(stored, filter, Qos::AtLeastOnce);
    }
    bench.publish(publisher, "t", "1", 1);
    bench.settle();
    assert_eq!(pubacks(&mut bench, publisher), [1], "shard 1 must mark the number of the copy too");
}

#[test]
fn nothing_is_read_beyond_the_receive_maximum_and_reading_resumes() {
    let limits = Limits { receive_max: 4, ..Limits::DEFAULT };
    let mut bench = Bench::with(1, limits, super::routing::uplink_plan());
    for _ in 0..2 {
        bench.disk.lane(&format!("lane {}", bench.jobs()));
    }
    bench.disk.lane("second");
    let publisher = bench.client("p", Version::V5, 0);
    bench.connect(publisher);
    for id in 1..=10 {
        bench.publish(publisher, "t", &id.to_string(), id);
    }
    assert_eq!(bench.counters().received, 4, "the fifth stays in the socket");
    let conn = bench.clients[publisher].conn.unwrap();
    assert!(!bench.brokers[0].may_read(conn));
    bench.settle();
    assert_eq!(pubacks(&mut bench, publisher), (1..=10).collect::<Vec<_>>());
}

#[test]
fn a_disk_that_is_behind_stops_every_socket() {
    let limits = Limits { commit_bytes_max: 100, ..Limits::DEFAULT };
    let mut bench = Bench::with(1, limits, super::routing::uplink_plan());
    let (publisher, other) = (bench.client("p", Version::V5, 0), bench.client("q", Version::V5, 0));
    bench.connect(publisher);
    bench.connect(other);
    for id in 1..=10 {
        bench.publish(publisher, "t", &"x".repeat(50), id);
    }
    assert!(bench.brokers[0].is_saturated());
    bench.ping(other);
    assert_eq!(bench.take(other), []);
    bench.settle();
    assert_eq!((pubacks(&mut bench, publisher).len(), bench.take(other)), (10, vec![Seen::PingResp]));
}

#[test]
fn an_answer_for_a_connection_that_is_gone_goes_nowhere() {
    let mut bench = Bench::with(1, Limits::DEFAULT, super::routing::uplink_plan());
    let publisher = bench.client("p", Version::V5, 0);
    bench.connect(publisher);
    bench.publish(publisher, "t", "x", 1);
    bench.cut(publisher);
    bench.connect_with(publisher, &bench.hello(publisher));
    bench.settle();
    assert_eq!(bench.take(publisher).len(), 1, "only CONNACK: identifier 1 is free again");
    assert_eq!(bench.counters().acknowledged, 0);
}
