//! Question: what does it cost to decode and to encode one PUBLISH, and what do MQTT 5 and its properties add?
//!
//! Unit: nanoseconds per packet (criterion shows 64 packets per iteration, and elements per second).
//! Input: 64 packets of 256 B payload back to back, as one read of a busy connection brings them; topic of 24 B;
//! MQTT 3.1.1 and 5, QoS 0 and 1, and MQTT 5 with three user properties. Decoding includes the split into frames.
//! Noise: about ±5 % on a quiet machine; all input stays in the first-level cache, which a router's does not.
//! Run: `cargo bench -p millrace-bench --bench wire`.

use std::hint::black_box;
use std::num::NonZeroU16;

use criterion::{Criterion, Throughput};
use model::Qos;
use wire::{BlockBuilder, OutgoingPublish, Packet, Version};

const PACKETS: usize = 64;
const PAYLOAD_BYTES: usize = 256;
const TOPIC: &str = "site/a/line/7/press/0042";
const PACKET_BYTES_MAX: u32 = 1 << 20;

/// One kind of PUBLISH.
struct Kind {
    name: &'static str,
    version: Version,
    qos: Qos,
    properties: Vec<u8>,
}

fn kinds() -> Vec<Kind> {
    let mut three = BlockBuilder::new();
    for (name, value) in [("unit", "celsius"), ("source", "press-0042"), ("shift", "b")] {
        three.user(name, value).expect("it is far below the longest property");
    }
    let kind = |name, version, qos| Kind { name, version, qos, properties: Vec::new() };
    vec![
        kind("3.1.1 QoS 0", Version::V3, Qos::AtMostOnce),
        kind("3.1.1 QoS 1", Version::V3, Qos::AtLeastOnce),
        kind("5 QoS 0", Version::V5, Qos::AtMostOnce),
        kind("5 QoS 1", Version::V5, Qos::AtLeastOnce),
        Kind {
            properties: three.into_bytes(),
            ..kind("5 QoS 1, 3 user properties", Version::V5, Qos::AtLeastOnce)
        },
    ]
}

fn encode(out: &mut Vec<u8>, kind: &Kind, payload: &[u8]) {
    for number in 1..=PACKETS as u16 {
        let packet_id = if kind.qos == Qos::AtMostOnce { None } else { NonZeroU16::new(number) };
        let publish = OutgoingPublish {
            topic: TOPIC,
            qos: kind.qos,
            packet_id,
            payload: black_box(payload),
            properties: &kind.properties,
            ..OutgoingPublish::default()
        };
        wire::encode_publish(out, kind.version, &publish).expect("it is far below the largest packet");
    }
}

/// Takes every packet in `bytes`; how many payload bytes there were.
fn decode(bytes: &[u8], version: Version) -> usize {
    let (mut rest, mut payload_bytes) = (bytes, 0);
    while let Some(frame) = wire::split(rest, PACKET_BYTES_MAX).expect("we have encoded it") {
        rest = &rest[frame.total_len()..];
        if let Packet::Publish(publish) = wire::decode(frame, version).expect("we have encoded it") {
            payload_bytes += black_box(&publish).payload.len();
        }
    }
    payload_bytes
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let payload = [0x5A; PAYLOAD_BYTES];
    let mut group = criterion.benchmark_group("wire decode");
    group.throughput(Throughput::Elements(PACKETS as u64));
    for kind in kinds() {
        let mut bytes = Vec::new();
        encode(&mut bytes, &kind, &payload);
        assert_eq!(decode(&bytes, kind.version), PACKETS * PAYLOAD_BYTES);
        group.bench_function(kind.name, |bencher| bencher.iter(|| decode(black_box(&bytes), kind.version)));
    }
    group.finish();
    let mut group = criterion.benchmark_group("wire encode");
    group.throughput(Throughput::Elements(PACKETS as u64));
    for kind in kinds() {
        let mut out = Vec::with_capacity(PACKETS * 2 * PAYLOAD_BYTES);
        group.bench_function(kind.name, |bencher| {
            bencher.iter(|| {
                out.clear();
                encode(&mut out, &kind, &payload);
                black_box(out.len())
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
