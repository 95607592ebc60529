//! Inputs of one module do not wait for one another, urgent ones go first, and stores from before there were lanes are drained.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::broker::Broker;
use crate::random::Random;

const TO_A: &str = r#"FROM /messages/* WHERE to = 'a' INTO BrokeredEndpoint("/modules/ml/inputs/a")"#;
const TO_B: &str = r#"FROM /messages/* WHERE to = 'b' INTO BrokeredEndpoint("/modules/ml/inputs/b")"#;

fn two_inputs(shards: usize, limits: Limits, durability: crate::Durability) -> Bench {
    let mut plan = plan(&[(TO_A, None, None), (TO_B, None, None)]);
    plan.durabilities = vec![durability; 2];
    let mut bench = Bench::speaking(shards, limits, plan, Some(setup()));
    bench.replace_access(access());
    bench
}

/// Sends a leaf's messages to an input, as many as it may have waiting at once.
fn send(bench: &mut Bench, leaf: usize, input: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let topic = format!("devices/d1/messages/events/to={input}");
        bench.publish(leaf, &topic, &format!("{input}{number}"), 1 + number as u16);
        bench.settle();
        assert_eq!(bench.take(leaf).len(), 1, "{input}{number} is acknowledged, whoever reads what");
    }
}

/// Takes and acknowledges what there is for a module, until nothing comes any more.
fn take_all(bench: &mut Bench, module: usize) -> Vec<Got> {
    let mut all = Vec::new();
    loop {
        let got = bench.got(module);
        if got.is_empty() {
            return all;
        }
        for message in &got {
            bench.ack(module, message.id);
            bench.settle();
        }
        all.extend(got);
    }
}

fn is_of(input: &str) -> impl Fn(&Got) -> bool {
    let level = format!("/inputs/{input}/");
    move |got| got.topic.contains(&level)
}

fn texts_to(input: &str, numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| format!("{input}{number}")).collect()
}

#[test]
fn an_input_that_is_not_acknowledged_holds_up_no_other() {
    for (shards, durability) in
        [(1, crate::Durability::Disk), (2, crate::Durability::Disk), (1, crate::Durability::Memory)]
    {
        let limits = Limits { session_inflight_max: 16, ..Limits::DEFAULT };
        let mut bench = two_inputs(shards, limits, durability);
        let ml = module(&mut bench, "gw1/ml");
        let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
        // Far more than the span of a window: nothing of `b` may depend on how much of `a` waits.
        send(&mut bench, leaf, "a", 0..200);
        let stuck: Vec<Got> = bench.got(ml);
        assert!(stuck.iter().all(is_of("a")));
        assert_eq!(stuck.len(), 7, "an eighth is kept back, and the rest shared by two");
        let mut texts = Vec::new();
        for round in 0..20 {
            send(&mut bench, leaf, "b", round * 10..round * 10 + 10);
            let got = take_all(&mut bench, ml);
            assert!(got.iter().all(is_of("b")), "{got:?}");
            texts.extend(got.iter().map(Got::text));
        }
        assert_eq!(texts, texts_to("b", 0..200));
        // And when it is acknowledged, it goes on where it was.
        let mut texts: Vec<String> = stuck.iter().map(Got::text).collect();
        for message in stuck {
            bench.ack(ml, message.id);
        }
        bench.settle();
        texts.extend(take_all(&mut bench, ml).iter().map(Got::text));
        assert_eq!(texts, texts_to("a", 0..200));
        assert_eq!(bench.counters().unexpected_acks, 0);
    }
}

#[test]
fn urgent_messages_to_an_input_go_first() {
    let route = |level: &str| {
        format!(r#"FROM /messages/* WHERE to = '{level}' INTO BrokeredEndpoint("/modules/ml/inputs/in1")"#)
    };
    let (high, low) = (route("high"), route("low"));
    for shards in [1, 2] {
        let plan = plan(&[(&low, None, None), (&high, Some(0), None)]);
        let mut bench = Bench::speaking(shards, Limits::DEFAULT, plan, Some(setup()));
        bench.replace_access(access());
        let ml = module(&mut bench, "gw1/ml");
        bench.cut(ml);
        bench.settle();
        let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
        send(&mut bench, leaf, "low", 0..3);
        send(&mut bench, leaf, "high", 0..3);
        assert_eq!(come_and_get(&mut bench, ml), ["high0", "high1", "high2", "low0", "low1", "low2"]);
        let lanes = ["default", "0"].map(|priority| format!("m/gw1/ml/in1/{priority}"));
        for name in lanes {
            let lane = bench.disk.find_lane(&name).expect("a lane for each priority");
            assert_eq!(bench.disk.lanes[&lane].len(), 3, "{name}");
        }
        assert_eq!(bench.disk.session_payloads("gw1/ml"), Vec::<String>::new());
    }
}

/// A store of an earlier version has everything in the lane of the session.
#[test]
fn what_an_older_store_has_goes_first_and_nothing_is_lost() {
    let old = Limits { module_lanes_max: 0, ..Limits::DEFAULT };
    let mut bench = two_inputs(1, old, crate::Durability::Disk);
    let ml = module(&mut bench, "gw1/ml");
    bench.cut(ml);
    bench.settle();
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    send(&mut bench, leaf, "a", 0..3);
    send(&mut bench, leaf, "b", 0..2);
    bench.limits = Arc::new(Limits { session_inflight_max: 4, ..Limits::DEFAULT });
    bench.crash();
    come(&mut bench, leaf, true);
    send(&mut bench, leaf, "b", 2..5);
    send(&mut bench, leaf, "a", 3..6);
    assert_eq!(bench.disk.session_payloads("gw1/ml").len(), 5, "new ones are in lanes of their own");
    let mut texts = come_and_get(&mut bench, ml);
    assert_eq!(texts, ["a0", "a1", "a2", "b0"]);
    for id in 1..=4 {
        bench.ack(ml, id);
    }
    bench.settle();
    texts.extend(take_all(&mut bench, ml).iter().map(Got::text));
    for (input, count) in [("a", 6), ("b", 5)] {
        let of: Vec<_> = texts.iter().filter(|text| text.starts_with(input)).cloned().collect();
        assert_eq!(of, texts_to(input, 0..count));
    }
}

#[test]
fn more_inputs_than_may_have_lanes_share_one() {
    let limits = Limits { module_lanes_max: 1, ..Limits::DEFAULT };
    let mut bench = two_inputs(1, limits, crate::Durability::Disk);
    let ml = module(&mut bench, "gw1/ml");
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    send(&mut bench, leaf, "a", 0..3);
    send(&mut bench, leaf, "b", 0..3);
    assert_eq!(bench.texts(ml), ["a0", "a1", "a2", "b0", "b1", "b2"]);
    assert_eq!(bench.disk.session_payloads("gw1/ml"), ["b0", "b1", "b2"]);
}

#[test]
fn the_lanes_of_a_module_go_with_its_session() {
    let mut bench = two_inputs(1, Limits::DEFAULT, crate::Durability::Disk);
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, true);
    send(&mut bench, leaf, "a", 0..3);
    let key = bench.brokers[0].by_client["gw1/ml"];
    assert!(bench.disk.find_lane("m/gw1/ml/a/default").is_some());
    bench.brokers[0].end_session(key, &mut bench.effects[0]);
    bench.pass(1);
    bench.settle();
    assert_eq!(bench.disk.find_lane("m/gw1/ml/a/default"), None);
    assert_eq!(bench.disk.find_lane("m/gw1/ml/b/default"), None);
    assert_eq!(bench.disk.find_lane("s/gw1/ml"), None);
}

/// Messages to three inputs, a module that comes, goes, and acknowledges some of what it has, and crashes: per input each comes
/// in order (again, it may), and all come.
#[test]
fn simulation_of_inputs() {
    for seed in 0..60 {
        simulate(seed);
    }
}

fn simulate(seed: u64) {
    let mut random = Random(seed);
    let shards = 1 + random.below(2);
    let limits = Limits {
        session_inflight_max: 1 + random.below(12) as u16,
        session_queue_messages_max: 4 + random.below(20) as u32,
        module_lanes_max: [0, 2, 64, 64][random.below(4)],
        ..Limits::DEFAULT
    };
    let routes = ["a", "b", "c"].map(|input| {
        format!(
            r#"FROM /messages/* WHERE to = '{input}' INTO BrokeredEndpoint("/modules/ml/inputs/{input}")"#
        )
    });
    let mut plan = plan(&routes.each_ref().map(|route| (route.as_str(), None, None)));
    // What a `memory` route has on its way is not on the disk: it does not survive a crash.
    let is_memory = random.below(3) == 0;
    if is_memory {
        plan.durabilities = vec![crate::Durability::Memory; 3];
    }
    let mut bench = Bench::speaking(shards, limits, plan, Some(setup()));
    bench.replace_access(access());
    let (ml, leaf) = (bench.client("hub", Version::V3, 0), bench.client("hub", Version::V3, 0));
    bench.clients[ml].id = "gw1/ml".to_owned();
    bench.clients[leaf].id = "d1".to_owned();
    come(&mut bench, ml, false);
    bench.subscribe(ml, INPUTS, Qos::AtLeastOnce);
    come(&mut bench, leaf, true);
    let mut sent: BTreeMap<&str, u32> = BTreeMap::new();
    let mut next: BTreeMap<String, u32> = BTreeMap::new();
    let mut held: Vec<(Got, bool)> = Vec::new();
    let mut is_there = true;
    for step in 0..400 {
        let is_last = step == 399;
        match random.below(12) {
            0..=4 if !is_last => {
                let input = ["a", "b", "c"][random.below(3)];
                let number = sent.entry(input).or_default();
                let topic = format!("devices/d1/messages/events/to={input}");
                bench.publish(leaf, &topic, &number.to_string(), 1);
                *number += 1;
                bench.settle();
                assert_eq!(bench.take(leaf), [Seen::PubAck(1)], "seed {seed}");
            }
            5..=7 if !is_last && !held.is_empty() => {
                let (got, _) = held.remove(random.below(held.len().min(6)));
                bench.ack(ml, got.id);
                bench.settle();
            }
            8 if !is_last && is_there => {
                bench.cut(ml);
                bench.settle();
                is_there = false;
                held.clear();
            }
            9 if !is_last && !is_memory && random.below(4) == 0 => {
                bench.crash();
                come(&mut bench, leaf, true);
                is_there = false;
                held.clear();
            }
            _ if !is_there => {
                let id = bench.clients[ml].id.clone();
                let mut connect = bench.hello(ml);
                connect.clean_start = random.below(2) == 0;
                connect.user_name = Some(format!("h/{id}/?api-version=1"));
                bench.take(ml);
                bench.connect_with(ml, &connect);
                bench.settle();
                bench.verify(Verdict::Identified { user: id.as_str().into() });
                bench.settle();
                if connect.clean_start {
                    bench.subscribe_with(ml, INPUTS, Qos::AtLeastOnce, 0, |_| {});
                    bench.settle();
                }
                is_there = true;
            }
            _ => bench.pass(1_100),
        }
        bench.settle();
        for got in bench.take(ml) {
            let Seen::Publish(got) = got else { continue };
            let input = got.topic.split('/').nth(5).unwrap().to_owned();
            let number: u32 = got.text().parse().unwrap();
            let expected = next.entry(input.clone()).or_default();
            assert!(number <= *expected, "seed {seed} step {step}: {input}{number} before {input}{expected}");
            *expected = (*expected).max(number + 1);
            assert!(
                held.iter().all(|(have, _)| have.id != got.id),
                "seed {seed}: an identifier is used twice"
            );
            held.push((got, true));
        }
        bench.brokers.iter().for_each(Broker::invariants);
    }
    // Everything comes in the end.
    for _ in 0..4_000 {
        if held.is_empty() {
            bench.pass(1_100);
            bench.settle();
        }
        for (got, _) in std::mem::take(&mut held) {
            bench.ack(ml, got.id);
            bench.settle();
        }
        for got in bench.take(ml) {
            let Seen::Publish(got) = got else { continue };
            let input = got.topic.split('/').nth(5).unwrap().to_owned();
            let expected = next.entry(input).or_default();
            *expected = (*expected).max(got.text().parse::<u32>().unwrap() + 1);
            held.push((got, true));
        }
        if sent.iter().all(|(input, count)| next.get(*input) == Some(count)) && held.is_empty() {
            return;
        }
    }
    panic!("seed {seed}: sent {sent:?}, got {next:?}");
}
