//! Many packets in one read are what they are one by one, whoever gets them.

use model::{Limits, Qos};
use wire::{OutgoingPublish, Version};

use super::routing::plan;
use crate::Counters;
use crate::testbench::{Bench, Got};

const QOS0: Qos = Qos::AtMostOnce;
const QOS1: Qos = Qos::AtLeastOnce;

/// What everybody got, the uplink and the counters.
#[derive(Debug, PartialEq)]
struct Outcome {
    got: Vec<Vec<Got>>,
    forwarded: Vec<String>,
    counters: Counters,
}

/// Publishes in one piece or packet by packet, to every kind of subscriber on two shards.
fn play(version: Version, in_one_piece: bool, limits: &Limits) -> Outcome {
    let routes = [
        ("FROM \"factory/#\" WHERE $body.n = 3 INTO $upstream", None, None),
        ("FROM \"factory/a\" INTO topic \"copy/{$topic[1]}\"", None, None),
    ];
    let mut bench = Bench::with(2, limits.clone(), plan(&routes));
    bench.disk.lane("urgent");
    bench.disk.lane("default");
    let publisher = bench.client("p", version, 0);
    bench.connect(publisher);
    bench.subscribe_with(publisher, "factory/a", QOS0, 0, |wanted| wanted.no_local = version == Version::V5);
    let mut clients = vec![publisher];
    for (number, shard) in [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (5, 1)] {
        let version = if number % 2 == 0 { Version::V3 } else { Version::V5 };
        let client = bench.client(&format!("s{number}-"), version, shard);
        let mut hello = bench.hello(client);
        if number == 1 {
            hello.packet_bytes_max = std::num::NonZeroU32::new(40); // too little for some
        }
        bench.connect_with(client, &hello);
        let id = if number == 3 { 9 } else { 0 };
        bench.settle();
        bench.subscribe_with(client, "factory/a", if number < 4 { QOS0 } else { QOS1 }, id, |_| {});
        bench.settle();
        bench.subscribe_with(client, if number == 5 { "copy/#" } else { "factory/+" }, QOS0, 0, |_| {});
        bench.settle();
        bench.take(client);
        clients.push(client);
    }
    bench.take(publisher);
    let mut bytes = Vec::new();
    for number in 0..40_u32 {
        let topic = if number % 11 == 10 { "factory/b" } else { "factory/a" };
        let payload = format!("{{\"n\":{},\"s\":\"{}\"}}", number % 5, "x".repeat(number as usize));
        let publish = OutgoingPublish { topic, payload: payload.as_bytes(), ..OutgoingPublish::default() };
        let mut packet = Vec::new();
        wire::encode_publish(&mut packet, version, &publish).unwrap();
        if in_one_piece {
            bytes.extend_from_slice(&packet);
        } else {
            bench.send(publisher, &packet);
        }
    }
    if in_one_piece {
        bench.send(publisher, &bytes);
    }
    bench.settle();
    let got = clients.iter().map(|client| bench.got(*client)).collect();
    let default = bench.disk.lane("default");
    Outcome { got, forwarded: bench.disk.payloads(default), counters: bench.counters() }
}

#[test]
fn a_read_full_of_publications_is_worth_as_many_single_ones() {
    for version in [Version::V3, Version::V5] {
        let single = play(version, false, &Limits::DEFAULT);
        assert_eq!(play(version, true, &Limits::DEFAULT), single, "{version}");
        assert_eq!((single.forwarded.len(), single.counters.received), (8, 40));
        let counts: Vec<usize> = single.got.iter().map(Vec::len).collect();
        let own = if version == Version::V5 { 0 } else { 37 };
        assert_eq!(counts[..1], [own]);
        assert_eq!(counts[1], 40);
        assert!(counts[2] < 40 && single.counters.dropped_too_large > 0, "{counts:?}");
    }
}

#[test]
fn who_does_not_read_loses_whole_packets_and_is_counted() {
    let limits = Limits { outbox_bytes_max: 1 << 10, ..Limits::DEFAULT };
    let mut bench = Bench::with(1, limits, crate::Plan::empty());
    let (publisher, slow) = (bench.client("p", Version::V5, 0), bench.client("s", Version::V5, 0));
    bench.connect(publisher);
    bench.connect(slow);
    bench.subscribe(slow, "t", QOS0);
    bench.clients[slow].takes = 0;
    let mut bytes = Vec::new();
    let payload = [b'x'; 100];
    let publish = OutgoingPublish { topic: "t", payload: &payload, ..OutgoingPublish::default() };
    for _ in 0..1_000 {
        wire::encode_publish(&mut bytes, Version::V5, &publish).unwrap();
    }
    bench.send(publisher, &bytes);
    let counters = bench.counters();
    assert_eq!(counters.delivered + counters.dropped_outbox_full, 1_000);
    assert!(counters.delivered < 400, "a run may exceed the bound, not by much: {}", counters.delivered);
    bench.clients[slow].takes = usize::MAX;
    bench.unblock(slow);
    assert_eq!(bench.got(slow).len() as u64, counters.delivered);
}
