//! The table of malformed and illegal packets (`tests/it/scripts/illegal.txt`), on the bench: `tests/it` plays it against a
//! real process.

use model::Limits;
use wire::Version;

use crate::Plan;
use crate::testbench::{Bench, Seen};

#[path = "../../../../tests/harness/notation.rs"]
#[expect(
    unreachable_pub,
    reason = "written for the harness of the tests over real processes, where it is public"
)]
mod notation;

/// Each row ends its connection with its answer and is counted, on any number of shards, and a pair of bystanders goes on.
/// [MQTT-4.13.1-1] [MQTT3-4.8.0-1]
#[test]
fn what_is_illegal_is_answered_closed_and_counted() {
    for shards in [1, 3] {
        let limits = Limits { packet_bytes_max: 1_024, ..Limits::DEFAULT };
        let mut bench = Bench::with(shards, limits, Plan::empty());
        let subscriber = bench.client("subscriber", Version::V3, shards - 1);
        let publisher = bench.client("publisher", Version::V5, 0);
        bench.connect(subscriber);
        bench.connect(publisher);
        bench.subscribe(subscriber, "#", model::Qos::AtMostOnce);
        bench.take(subscriber);
        let table = include_str!("../../../../tests/it/scripts/illegal.txt");
        let mut lines = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
        let mut rows = 0;
        while let Some(row) = lines.next() {
            rows += 1;
            let head = row.split(": ").next().unwrap();
            let version = if head.contains("5 ") { Version::V5 } else { Version::V3 };
            let culprit = bench.client("culprit", version, rows % shards);
            if head.ends_with("open") {
                bench.connect(culprit);
            } else {
                bench.dial(culprit);
            }
            bench.heard(culprit);
            let mut answer = Vec::new();
            while let Some(line) = lines.next_if(|line| line.starts_with(['>', '<'])) {
                match line.split_at(1) {
                    (">", text) => bench.send(culprit, &notation::bytes(text).unwrap()),
                    (_, text) => answer = notation::parse(text).unwrap(),
                }
            }
            bench.settle();
            let heard = bench.heard(culprit);
            assert!(notation::matches(&answer, &heard), "{row}: {}", notation::hex(&heard));
            assert_eq!(bench.take(culprit).last(), Some(&Seen::Closed), "{row}");
            bench.publish(publisher, "news", row, 0);
            bench.settle();
            assert_eq!(bench.texts(subscriber), [row], "the bystanders");
        }
        let counters = bench.counters();
        let refused = table.matches("< 20 [ 00 8C ").count() as u64;
        assert_eq!(counters.closed_malformed + counters.closed_protocol + refused, rows as u64);
        assert_eq!(counters.bugs, 0);
    }
}
