//! Lanes of one uplink that drain in different ways, and that change theirs.

use super::*;

fn number(payload: &str) -> u64 {
    payload[1..].parse().expect("a place")
}

/// Everything that is sent from now on until nothing is left; the first in flight is taken each time.
fn drain(bench: &mut Bench) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        all.extend(bench.sent());
        let Some(first) = bench.open.first().map(|it| it.payload.clone()) else { return all };
        bench.take(&[&String::from_utf8(first).expect("text")]);
    }
}

/// The places of these.
fn drained(bench: &mut Bench) -> Vec<u64> {
    drain(bench).iter().map(|payload| number(payload)).collect()
}

/// A lane that may be passed, with so much of a backlog, of which the first six are on their way: the rest of the window is for
/// live messages.
fn passable(backlog: usize) -> Bench {
    let mut bench = Bench::new(Rules { live_first: true, ..rules() });
    (0..backlog).for_each(|_| bench.publish(LANE, "a"));
    bench.connect(8, None);
    assert_eq!(bench.sent(), ["a1", "a2", "a3", "a4", "a5", "a6"]);
    bench
}

/// The way is gone, and another is there.
fn reconnect(bench: &mut Bench) {
    bench.carrier.lost(false, None, at(bench.now).instant);
    bench.connect(8, None);
}

fn positions(sent: &[String], sender: char) -> Vec<(usize, u64)> {
    let own = sent.iter().enumerate().filter(|(_, payload)| payload.starts_with(sender));
    own.map(|(at, payload)| (at, number(payload))).collect()
}

#[test]
fn one_lane_lets_live_messages_pass_and_the_other_keeps_its_order() {
    let mut bench = Bench::new(Rules { schedule: Schedule::Weighted, ..rules() });
    bench.carrier.set_live_first(LANE, true);
    (0..40).for_each(|_| bench.publish(LANE, "a"));
    (0..40).for_each(|_| bench.publish(URGENT, "b"));
    bench.connect(8, None);
    let mut sent = bench.sent();
    (0..5).for_each(|_| bench.publish(LANE, "a"));
    (0..5).for_each(|_| bench.publish(URGENT, "b"));
    sent.extend(drain(&mut bench));
    let (passes, keeps) = (positions(&sent, 'a'), positions(&sent, 'b'));
    assert_eq!(keeps.iter().map(|(_, place)| *place).collect::<Vec<_>>(), (1..=45).collect::<Vec<_>>());
    let (live, old): (Vec<_>, Vec<_>) = passes.iter().partition(|(_, place)| *place > 40);
    assert_eq!(old.iter().map(|(_, place)| *place).collect::<Vec<_>>(), (1..=40).collect::<Vec<_>>());
    assert_eq!(live.iter().map(|(_, place)| *place).collect::<Vec<_>>(), (41..=45).collect::<Vec<_>>());
    assert!(live.last() < old.last(), "{sent:?}");
}

/// Somebody wants order now: what is not under way waits for everything before it.
#[test]
fn a_lane_that_is_to_keep_its_order_does_so_at_once() {
    let mut bench = passable(40);
    bench.publish(LANE, "a");
    assert_eq!(bench.sent(), ["a41"], "it passes what waited");
    bench.carrier.set_live_first(LANE, false);
    (0..3).for_each(|_| bench.publish(LANE, "a"));
    assert_eq!(drained(&mut bench), (7..=40).chain(42..=44).collect::<Vec<_>>());
    assert_eq!(bench.delivered(), [(LANE, 44)]);
}

#[test]
fn what_is_sent_again_comes_before_what_was_never_sent_whatever_the_lane_wants_by_then() {
    let mut bench = passable(20);
    bench.publish(LANE, "a");
    assert_eq!(bench.sent(), ["a21"]);
    bench.carrier.set_live_first(LANE, false);
    reconnect(&mut bench);
    bench.publish(LANE, "a");
    assert_eq!(drained(&mut bench), (1..=6).chain([21]).chain(7..=20).chain([22]).collect::<Vec<_>>());
}

#[test]
fn a_lane_that_may_be_passed_is_from_the_next_connection_on() {
    let mut bench = Bench::new(rules());
    (0..40).for_each(|_| bench.publish(LANE, "a"));
    bench.connect(8, None);
    assert_eq!(bench.sent().len(), 8);
    bench.carrier.set_live_first(LANE, true);
    bench.publish(LANE, "a");
    bench.take(&["a1"]);
    assert_eq!(bench.sent(), ["a9"], "this connection goes on as it began");
    reconnect(&mut bench);
    assert_eq!(bench.sent().len(), 6, "a quarter of the window is left for live ones");
    bench.publish(LANE, "a");
    assert_eq!(bench.sent(), ["a42"]);
}

#[test]
fn a_lane_that_wanted_order_for_a_while_is_not_passed_before_the_next_connection() {
    let mut bench = passable(40);
    bench.carrier.set_live_first(LANE, false);
    (0..3).for_each(|_| bench.publish(LANE, "a"));
    bench.carrier.set_live_first(LANE, true);
    bench.publish(LANE, "a");
    assert_eq!(drained(&mut bench), (7..=44).collect::<Vec<_>>());
}

/// A read that is to send one message again, which has expired by then, would go on with what is behind it.
#[test]
fn what_has_expired_lets_nothing_behind_it_pass() {
    let mut bench = passable(12);
    bench.publish(LANE, "a");
    assert_eq!(bench.sent(), ["a13"], "it passes what waited");
    bench.carrier.set_live_first(LANE, false);
    (0..3).for_each(|_| bench.publish(LANE, "a"));
    bench.lanes[1].1[12].clear();
    reconnect(&mut bench);
    assert_eq!(drained(&mut bench), (1..=12).chain(14..=16).collect::<Vec<_>>());
    assert_eq!(bench.delivered(), [(LANE, 16)]);
}
