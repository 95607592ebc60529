//! What is delivered behind something that waits: it is told, once, and nothing else is.

use super::*;

fn patient() -> Rules {
    Rules { held_max: 1 << 20, ..rules() }
}

/// The upstream takes so many of the next ones, each as it comes.
fn take_next(bench: &mut Bench, count: usize) -> Vec<String> {
    let mut taken = Vec::new();
    while taken.len() < count {
        bench.sent();
        let Some(first) = bench.open.first() else { break };
        let payload = String::from_utf8(first.payload.clone()).expect("text");
        bench.take(&[&payload]);
        taken.push(payload);
    }
    taken
}

#[test]
fn live_messages_that_pass_a_backlog_are_told() {
    let mut bench = Bench::new(Rules { live_first: true, history_share_percent: 1, ..patient() });
    (0..1_000).for_each(|_| bench.publish(LANE, "h"));
    bench.connect(8, None);
    bench.sent();
    (0..50).for_each(|_| bench.publish(LANE, "l"));
    let mut live = 0;
    while live < 50 {
        live += usize::from(take_next(&mut bench, 1)[0].starts_with('l'));
    }
    assert_eq!(bench.ahead(), [(LANE, 1_001, 1_050)]);
    assert_eq!(bench.ahead(), [], "once");
    // Out of order: up to the first that is under way.
    (0..3).for_each(|_| bench.publish(LANE, "l"));
    while bench.open.last().is_none_or(|last| last.payload != b"l1053") {
        take_next(&mut bench, 1);
        bench.sent();
    }
    let is_taken = |bench: &Bench, payload: &[u8]| bench.open.iter().all(|it| it.payload != payload);
    assert!(!is_taken(&bench, b"l1052"));
    if !is_taken(&bench, b"l1051") {
        bench.take(&["l1051"]);
    }
    bench.take(&["l1053"]);
    assert_eq!(bench.ahead(), [(LANE, 1_051, 1_051)]);
    bench.take(&["l1052"]);
    assert_eq!(bench.ahead(), [(LANE, 1_052, 1_053)]);
    // A lost link repeats nothing of it, and what is on its way is not told.
    let before = bench.delivered()[0].1;
    bench.publish(LANE, "l");
    while bench.sent().iter().all(|payload| payload != "l1054") {
        take_next(&mut bench, 1);
    }
    bench.carrier.lost(false, None, at(bench.now).instant);
    assert_eq!(bench.ahead(), []);
    bench.connect(8, None);
    let rest = take_next(&mut bench, 2_000);
    assert!(rest.len() as u64 <= 1_000 - before + 1, "{} of {before}", rest.len());
    assert_eq!(rest.iter().filter(|payload| payload.starts_with('l')).collect::<Vec<_>>(), ["l1054"]);
    assert_eq!(bench.delivered(), [(LANE, 1_054)]);
    assert_eq!(bench.ahead(), []);
}

#[test]
fn what_passes_a_refused_sender_is_told_in_rows() {
    let mut bench = Bench::up(patient(), 20);
    (0..2).for_each(|_| bench.publish(LANE, "a"));
    bench.publish(LANE, "b");
    bench.sent();
    bench.answer("a1", ReasonCode::QUOTA_EXCEEDED);
    bench.answer("a2", ReasonCode::QUOTA_EXCEEDED);
    bench.take(&["b3"]);
    for round in 0..30 {
        ["b", "b", "a", "b"].iter().for_each(|sender| bench.publish(LANE, sender));
        let first = 4 + 4 * round;
        let sent = bench.sent();
        assert_eq!(sent, [format!("b{first}"), format!("b{}", first + 1), format!("b{}", first + 3)]);
        // The second one is answered last.
        bench.take(&[&sent[0], &sent[2], &sent[1]]);
    }
    assert_eq!(bench.delivered(), []);
    let rows: Vec<_> = (0..30).map(|round| (LANE, 7 + 4 * round, 9 + 4 * round)).collect();
    let last = (LANE, 123, 123);
    assert_eq!(bench.ahead(), [&[(LANE, 3, 5)], &rows[..29], &[last]].concat());
    assert_eq!(bench.ahead(), []);
    // What is set aside is told once it is safe there, and what has expired at once.
    bench.publish(LANE, "c");
    bench.publish(LANE, "d");
    bench.publish(LANE, "b");
    bench.lanes[1].1[124].clear();
    bench.sent();
    bench.take(&["b126"]);
    bench.answer("c124", ReasonCode::PAYLOAD_FORMAT_INVALID);
    assert_eq!(bench.ahead(), [], "it may be needed once more");
    let aside = bench.carrier.next_aside().expect("it goes");
    bench.carrier.is_aside(aside.lane, aside.seq);
    assert_eq!(bench.ahead(), [(LANE, 124, 126)]);
    // Whoever waited goes on, and the head with it.
    bench.pass(10_000);
    assert_eq!(take_next(&mut bench, 1_000).len(), 32);
    assert_eq!(bench.delivered(), [(LANE, 126)]);
    assert_eq!(bench.ahead(), []);
}

/// A look costs what is new, and no more than a bound at once.
#[test]
fn a_long_row_of_what_waits_is_passed_in_portions() {
    let mut bench = Bench::up(patient(), 20);
    bench.publish(LANE, "a");
    bench.sent();
    bench.answer("a1", ReasonCode::QUOTA_EXCEEDED);
    for _ in 0..20_000 {
        bench.publish(LANE, "a");
        bench.publish(LANE, "b");
    }
    assert_eq!(take_next(&mut bench, 100_000).len(), 20_000);
    let mut told = Vec::new();
    for look in 0.. {
        let rows = bench.ahead();
        if rows.is_empty() {
            assert!(look > 10, "{look} looks");
            break;
        }
        assert!(rows.len() <= 512, "{}", rows.len());
        told.extend(rows);
    }
    let expected: Vec<_> = (1..=20_000).map(|number| (LANE, 2 * number + 1, 2 * number + 1)).collect();
    assert_eq!(told, expected);
}

/// With two stretches made one, nothing that waits is told.
#[test]
fn many_reconnects_tell_what_is_delivered_and_nothing_else() {
    let mut bench = Bench::new(Rules { live_first: true, ..patient() });
    let mut told = std::collections::BTreeSet::new();
    let mut settled = std::collections::BTreeSet::new();
    for _ in 0..30 {
        (0..40).for_each(|_| bench.publish(LANE, "h"));
        bench.connect(8, None);
        let sent = bench.sent();
        (0..3).for_each(|_| bench.publish(LANE, "l"));
        for payload in bench.sent().iter().chain(sent.iter().skip(1).take(2)) {
            bench.take(&[payload]);
            settled.insert(payload[1..].parse::<u64>().expect("a place"));
        }
        for (_, from, up_to) in bench.ahead() {
            told.extend(from..=up_to);
            assert!(told.is_subset(&settled), "{from} to {up_to}");
        }
        bench.carrier.lost(false, None, at(bench.now).instant);
    }
    assert!(told.len() >= 50, "{} of {}", told.len(), settled.len());
}
