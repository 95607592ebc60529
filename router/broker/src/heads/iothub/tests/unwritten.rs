//! `memory` routes to inputs: nothing is written while the module keeps up, and nothing is lost when it goes.

use super::*;

/// A route that promises nothing.
fn memory_bench(shards: usize) -> Bench {
    let mut plan = plan(&[(TO_ML, None, None)]);
    plan.durabilities = vec![crate::Durability::Memory];
    let mut bench = Bench::speaking(shards, Limits::DEFAULT, plan, Some(setup()));
    bench.replace_access(access());
    bench
}

#[test]
fn a_memory_route_writes_nothing_while_its_module_keeps_up() {
    for shards in [1, 2] {
        let mut bench = memory_bench(shards);
        let ml = module(&mut bench, "gw1/ml");
        let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
        let before = bench.counters().appended;
        let mut ids = std::collections::BTreeSet::new();
        for number in 1..=300 {
            bench.publish(leaf, "devices/d1/messages/events/", &number.to_string(), number);
            bench.settle();
            let got = bench.got(ml);
            assert_eq!((got.len(), got[0].text()), (1, number.to_string()));
            assert_eq!(got[0].qos, Qos::AtLeastOnce);
            ids.insert(got[0].id);
            bench.ack(ml, got[0].id);
        }
        assert!(ids.len() > 200, "identifiers are not used again at once: {}", ids.len());
        assert_eq!((bench.counters().appended, bench.counters().delivered_unwritten), (before, 300));
        assert_eq!(bench.counters().unexpected_acks, 0);
    }
}

#[test]
fn what_a_memory_route_has_on_its_way_is_written_when_the_module_goes() {
    let mut bench = memory_bench(1);
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    let send = |bench: &mut Bench, texts: &[&str]| {
        for text in texts {
            bench.publish(leaf, "devices/d1/messages/events/", text, 1);
        }
        bench.settle();
    };
    let ml = module(&mut bench, "gw1/ml");
    bench.cut(ml);
    bench.settle();
    send(&mut bench, &["while it is away"]);
    assert_eq!(come_and_get(&mut bench, ml), ["while it is away"]);
    send(&mut bench, &["1", "2"]);
    let more = bench.got(ml);
    assert_eq!(more.iter().map(Got::text).collect::<Vec<_>>(), ["1", "2"], "in order behind it");
    bench.ack(ml, more[0].id);
    bench.ack(ml, 32_768); // the first one of the lane of the input
    bench.cut(ml);
    bench.settle();
    send(&mut bench, &["3"]);
    assert_eq!(come_and_get(&mut bench, ml), ["2", "3"]);
}

#[test]
fn a_window_that_is_full_makes_a_memory_route_write() {
    let limits = Limits { session_inflight_max: 4, ..Limits::DEFAULT };
    let mut plan = plan(&[(TO_ML, None, None)]);
    plan.durabilities = vec![crate::Durability::Memory];
    let mut bench = Bench::speaking(1, limits, plan, Some(setup()));
    bench.replace_access(access());
    let ml = module(&mut bench, "gw1/ml");
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    for number in 1..=10 {
        bench.publish(leaf, "devices/d1/messages/events/", &number.to_string(), number);
    }
    bench.settle();
    let mut texts = Vec::new();
    loop {
        let got = bench.got(ml);
        if got.is_empty() {
            break;
        }
        assert!(got.len() <= 4, "{}", got.len());
        for message in got {
            texts.push(message.text());
            bench.ack(ml, message.id);
            bench.settle();
        }
    }
    let all: Vec<_> = (1..=10).map(|number| number.to_string()).collect();
    assert_eq!((texts, bench.counters().delivered_unwritten), (all, 4));
    assert_eq!(bench.counters().unexpected_acks, 0);
}
