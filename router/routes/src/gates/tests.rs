//! Clauses with a memory, with time moved by hand.

use model::{Message, Priority, Property};

use super::*;
use crate::{Options, RouteSpec, RouteTable, Scratch};

struct Bench {
    table: RouteTable,
    state: State,
    scratch: Scratch,
}

impl Bench {
    fn new(clauses: &str, keys_max: usize) -> Bench {
        let text = format!("FROM /* WHERE $body.x >= 0 {clauses} INTO $upstream");
        let spec = RouteSpec { name: "r".into(), text, priority: Priority::DEFAULT, ttl_millis: None };
        let table = RouteTable::compile(&[spec], &Options::default())
            .unwrap_or_else(|errors| panic!("{}", errors[0]));
        assert!(table.needs_state());
        Bench { table, state: State::new(keys_max), scratch: Scratch::new() }
    }

    /// Whether a message with this value passes, from this device at this second.
    fn send(&mut self, second: f64, device: &str, value: &str) -> bool {
        let system = [Property { name: "connectionDeviceId", value: Some(device) }];
        let body = format!("{{\"x\":1,\"value\":{value}}}");
        let message = Message { system: &system, ..Message::new("t", body.as_bytes()) };
        let (now, mut matches) = (Instant((second * 1e6) as u64), Vec::new());
        self.table.matches_at(&message, now, &mut self.state, &mut self.scratch, &mut matches);
        !matches.is_empty()
    }
}

#[test]
fn a_sample_lets_the_first_of_every_n_pass() {
    let mut bench = Bench::new("SAMPLE 1 IN 3", 10);
    let passed: Vec<bool> = (0..7).map(|_| bench.send(0.0, "d", "1")).collect();
    assert_eq!(passed, [true, false, false, true, false, false, true]);
    assert_eq!(bench.scratch.counters().held_back, 4);
}

#[test]
fn a_throttle_counts_per_key_and_starts_again_after_its_time() {
    let mut bench = Bench::new("THROTTLE 2 PER 1s BY $connectionDeviceId", 10);
    let sent =
        [(0.0, "a"), (0.1, "a"), (0.2, "a"), (0.2, "b"), (0.99, "a"), (1.0, "a"), (1.1, "a"), (1.2, "a")];
    let passed = sent.map(|(second, device)| bench.send(second, device, "1"));
    assert_eq!(passed, [true, true, false, true, false, true, true, false]);
}

#[test]
fn a_change_is_measured_from_what_was_last_let_through() {
    let mut bench = Bench::new("CHANGED($body.value, 0.5) BY $connectionDeviceId", 10);
    let passed = ["20", "20.3", "20.4", "20.5", "20.9", "null", "null", "20.9", "\"x\"", "\"x\""]
        .map(|value| bench.send(0.0, "a", value));
    assert_eq!(passed, [true, false, false, true, false, true, false, true, true, false]);
    assert!(bench.send(0.0, "b", "20"));
    let mut bench = Bench::new("CHANGED($body.missing)", 10);
    assert!(!bench.send(0.0, "a", "1"), "undefined is no change");
}

#[test]
fn clauses_are_asked_in_order_and_only_while_they_pass() {
    let mut bench = Bench::new("CHANGED($body.value) SAMPLE 1 IN 2", 10);
    let passed = ["1", "1", "2", "3", "3"].map(|value| bench.send(0.0, "a", value));
    assert_eq!(passed, [true, false, false, true, false]);
}

#[test]
fn a_state_is_bounded_and_forgets_the_longest_unused() {
    let mut bench = Bench::new("THROTTLE 1 PER 1h BY $connectionDeviceId", 100);
    assert!(bench.send(0.0, "kept", "1"));
    for at in 0..1_000 {
        assert!(bench.send(0.0, &format!("device-{at}"), "1"));
        assert!(!bench.send(0.0, "kept", "1"));
        assert!(bench.state.keys() <= 100);
    }
    assert!(bench.state.forgotten() >= 900);
    assert!(bench.send(0.0, "device-0", "1"), "a forgotten key starts afresh");
    assert!(bench.send(0.0, &"long".repeat(1_000), "1"));
}

#[test]
fn a_state_outlives_a_reload() {
    let mut bench = Bench::new("SAMPLE 1 IN 10", 10);
    assert!(bench.send(0.0, "a", "1"));
    bench.table = Bench::new("SAMPLE 1 IN 10", 10).table;
    assert!(!bench.send(0.0, "a", "1"));
}

#[test]
fn without_a_state_everything_passes() {
    let bench = Bench::new("SAMPLE 1 IN 10", 10);
    let (mut scratch, mut matches) = (Scratch::new(), Vec::new());
    for _ in 0..3 {
        bench.table.matches(&Message::new("t", b"{\"x\":1}"), &mut scratch, &mut matches);
        assert_eq!(matches.len(), 1);
    }
}

#[test]
fn a_bad_clause_says_what_was_expected() {
    for (clause, part) in [
        ("SAMPLE 2 IN 3", "SAMPLE 1 IN n"),
        ("SAMPLE 1 IN 0", "at least 1"),
        ("THROTTLE 5 PER 1x", "a time such as"),
        ("THROTTLE 5 EVERY 1s", "PER"),
        ("CHANGED $body.x", "'('"),
    ] {
        let text = format!("FROM /* {clause} INTO $upstream");
        let spec = RouteSpec { name: "r".into(), text, priority: Priority::DEFAULT, ttl_millis: None };
        let errors = RouteTable::compile(&[spec], &Options::default()).unwrap_err();
        assert!(errors[0].to_string().contains(part), "{}", errors[0]);
    }
}
