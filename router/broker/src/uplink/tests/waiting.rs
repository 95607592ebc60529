//! Those whom the upstream refuses, and how far they hold up the others: not at all.

use super::super::places::Places;
use super::*;

const LONG: usize = 40_000;

fn patient() -> Rules {
    Rules { held_max: 1 << 20, ..rules() }
}

#[test]
fn a_sender_that_is_refused_for_long_holds_up_nobody_and_keeps_its_order() {
    let mut bench = Bench::up(patient(), 20);
    bench.publish(LANE, "a");
    assert_eq!(bench.sent(), ["a1"]);
    bench.answer("a1", ReasonCode::QUOTA_EXCEEDED);
    // Far more than is looked ahead; of every two the one waits.
    for _ in 0..LONG / 20 {
        for _ in 0..10 {
            bench.publish(LANE, "a");
            bench.publish(LANE, "b");
        }
        let sent = bench.sent();
        assert_eq!(sent.len(), 10);
        for payload in sent {
            assert!(payload.starts_with('b'), "{payload}");
            bench.take(&[&payload]);
        }
    }
    assert_eq!(bench.delivered(), [], "the first place waits");
    assert_eq!(bench.carrier.backlog(), LONG as u64 / 2 + 1);
    // A lost link changes nothing of that, and repeats nothing.
    bench.lose();
    bench.connect(20, None);
    assert_eq!(bench.sent(), [""; 0]);
    bench.pass(200);
    assert_eq!(bench.sent(), ["a1"], "what was refused is tried");
    assert!(bench.open[0].dup);
    bench.take(&["a1"]);
    let mut expected = (2..=LONG + 1).step_by(2).map(|place| format!("a{place}"));
    loop {
        let sent = bench.sent();
        if sent.is_empty() {
            break;
        }
        for payload in sent {
            assert_eq!(Some(&payload), expected.next().as_ref());
            assert!(!bench.open[0].dup, "it is sent for the first time");
            bench.take(&[&payload]);
        }
    }
    assert_eq!(expected.next(), None);
    assert_eq!(bench.delivered(), [(LANE, LONG as u64 + 1)]);
    assert_eq!(bench.carrier.backlog(), 0);
}

/// All of it expires, or an uplink without room drops the oldest: what is gone is passed at once, not place by place.
#[test]
fn what_waited_and_is_gone_is_passed_in_one_reading() {
    let mut bench = Bench::up(patient(), 20);
    bench.publish(LANE, "a");
    assert_eq!(bench.sent(), ["a1"]);
    bench.answer("a1", ReasonCode::QUOTA_EXCEEDED);
    (0..1_000).for_each(|_| bench.publish(LANE, "a"));
    assert_eq!(bench.sent(), [""; 0]);
    bench.publish(LANE, "a");
    bench.pass(200);
    let now = at(bench.now);
    let mut readings = 0;
    while let Some(mut reading) = bench.carrier.next_reading(0, now.instant) {
        readings += 1;
        assert!(readings < 5, "{reading:?}");
        // Only the last one is still there.
        if reading.from <= seq(1_002) {
            let payload = record("a", b"a1002");
            bench.carrier.offer(&mut reading, seq(1_002), &payload, None, now, &mut bench.out);
        }
        bench.carrier.passed(&reading, seq(1_003));
        bench.carrier.invariants();
    }
    let written = take_written(&mut bench.out);
    assert_eq!(written.len(), 1);
    assert_eq!(written[0].payload, b"a1002");
    bench.open.extend(written);
    bench.take(&["a1002"]);
    assert_eq!(bench.delivered(), [(LANE, 1_002)]);
    assert_eq!((bench.carrier.backlog(), bench.carrier.senders_waiting()), (0, 0));
}

#[test]
fn a_refused_sender_that_goes_on_being_refused_is_tried_with_its_oldest_alone() {
    let mut bench = Bench::up(patient(), 20);
    (0..5).for_each(|_| bench.publish(LANE, "a"));
    let sent = bench.sent();
    sent.iter().for_each(|payload| bench.answer(payload, ReasonCode::QUOTA_EXCEEDED));
    (0..1_000).for_each(|_| bench.publish(LANE, "a"));
    for _ in 0..30 {
        bench.pass(1_000);
        assert_eq!(bench.sent(), ["a1"]);
        bench.answer("a1", ReasonCode::QUOTA_EXCEEDED);
    }
    assert_eq!(bench.carrier.backlog(), 1_005);
}

#[test]
fn a_lane_with_more_refused_senders_than_may_wait_rests_and_an_urgent_one_does_not() {
    let mut bench = Bench::up(Rules { retry_millis: (10_000, 60_000), ..patient() }, 10);
    for sender in ["a", "b", "c", "d", "e", "f"] {
        bench.publish(LANE, sender);
    }
    let sent = bench.sent();
    sent.iter().for_each(|payload| bench.answer(payload, ReasonCode::NOT_AUTHORIZED));
    bench.publish(LANE, "g");
    bench.publish(URGENT, "u");
    assert_eq!(bench.sent(), ["u1"], "the lane rests");
    bench.take(&["u1"]);
    assert_eq!(bench.sent(), [""; 0]);
    let began = bench.now;
    while bench.sent().is_empty() {
        let wait = bench.carrier.wait_millis(at(bench.now).instant).expect("its rest ends");
        bench.pass(wait);
    }
    assert!((5_000..=10_010).contains(&(bench.now - began)), "{}", bench.now - began);
}

#[test]
fn after_many_reconnects_live_messages_still_pass_what_waited() {
    let mut bench = Bench::new(Rules { live_first: true, ..patient() });
    let (mut published, mut seen) = (0, Vec::new());
    for round in 0..30 {
        (0..40).for_each(|_| bench.publish(LANE, "h"));
        bench.connect(8, None);
        let sent = bench.sent();
        assert!(!sent.is_empty());
        bench.publish(LANE, "l");
        published += 41;
        let live = bench.sent();
        assert_eq!(live, [format!("l{published}")], "round {round}");
        bench.take(&[&live[0]]);
        seen.extend(live);
        for payload in sent.iter().take(2) {
            bench.take(&[payload]);
            seen.push(payload.clone());
        }
        bench.carrier.lost(false, None, at(bench.now).instant);
        bench.carrier.invariants();
    }
    bench.connect(8, None);
    loop {
        let sent = bench.sent();
        if sent.is_empty() {
            break;
        }
        sent.iter().for_each(|payload| bench.take(&[payload]));
        seen.extend(sent);
    }
    assert_eq!(bench.delivered(), [(LANE, published)]);
    let places = |kind: char| seen.iter().filter_map(move |it| it.strip_prefix(kind)?.parse::<u64>().ok());
    assert!(places('h').is_sorted(), "what waited keeps its order");
    assert!(places('l').is_sorted());
    assert_eq!(seen.len() as u64, published, "each once");
}

#[test]
fn a_million_places_that_wait_take_two_bytes_each_at_most() {
    let (mut row, mut sparse) = (Places::default(), Places::default());
    for place in 1..=1_000_000 {
        row.insert(seq(place));
        sparse.insert(seq(place * 50));
    }
    assert!(row.bytes() < 200_000, "{}", row.bytes());
    assert!(sparse.bytes() < 2_100_000, "{}", sparse.bytes());
    let taken = sparse.take(&row);
    assert_eq!((taken.len(), taken.first(), sparse.first()), (20_000, Some(seq(50)), Some(seq(1_000_050))));
    sparse.add(taken);
    assert_eq!((sparse.len(), sparse.first()), (1_000_000, Some(seq(50))));
    sparse.remove_range(seq(1), seq(1_001));
    assert_eq!((sparse.len(), sparse.pop_first()), (999_980, Some(seq(1_050))));
    sparse.invariants();
}
