//! Configurations that cannot be right: exit code 2, every mistake at once, each with its key and what would be right.

use std::net::TcpListener;

use harness::{Setup, run, v5};

/// A start must fail as bad configuration and say all of this.
#[track_caller]
fn expect_refusal(setup: &Setup, words: &[&str]) -> String {
    let (code, log) = setup.fail_to_start();
    assert_eq!(code, Some(2), "{log}");
    for word in words {
        assert!(log.contains(word), "not a word about {word:?}:\n{log}");
    }
    log
}

#[test]
fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
    expect_refusal(&Setup::new().set("listener.tpc.bind", "127.0.0.1:0"), &["listener.tpc", "listener.tcp"]);
    expect_refusal(&Setup::new().set("nonsense", 1), &["nonsense"]);
}

#[test]
fn a_value_of_the_wrong_kind_is_refused() {
    expect_refusal(&Setup::new().set("shards", "many"), &["shards", "found", "many", "allowed"]);
    expect_refusal(&Setup::new().set("auth.anonymous", "perhaps"), &["auth.anonymous", "true or false"]);
    expect_refusal(
        &Setup::new().set("listener.tcp.bind", "everywhere"),
        &["listener.tcp.bind", "everywhere"],
    );
}

#[test]
fn an_impossible_value_is_refused_with_the_possible_ones() {
    let setup = Setup::new().set("limits.packet_bytes_max", 5);
    expect_refusal(&setup, &["limits.packet_bytes_max", "found: 5", "128"]);
    let setup = Setup::new().set("routes.a", r#"{ route = 'FROM /* INTO topic "x"', priority = 12 }"#);
    expect_refusal(&setup, &["routes.a.priority", "12", "0 to 9"]);
}

#[test]
fn what_is_not_available_yet_is_refused_and_not_passed_over() {
    for (key, value) in [
        ("session.durability", "memory"),
        ("uplink.plant", r#"{ url = "mqtt://127.0.0.1", kind = "kafka" }"#),
        ("uplink.plant.url", "amqp://127.0.0.1"),
    ] {
        let log = expect_refusal(&Setup::new().set(key, value), &[]);
        assert!(log.contains(key.split('.').next().unwrap_or(key)), "{key}:\n{log}");
    }
}

#[test]
fn a_route_that_does_not_compile_is_shown_with_a_caret_below_the_mistake() {
    let setup = Setup::new().set("routes.bad", r#"FROM "a" WHERE $body.temp > INTO topic "x""#);
    let log = expect_refusal(&setup, &["routes.bad", "^"]);
    let lines: Vec<_> = log.lines().collect();
    let below = |line: &&str| line.contains('^') && line.chars().all(|it| " |^".contains(it));
    let caret = lines.iter().position(below).expect("a line with a caret");
    let column = lines[caret].find('^').expect("a caret");
    let pointed = &lines[caret - 1][column..];
    assert!(pointed.starts_with("INTO"), "the caret points at {pointed:?}:\n{log}");
}

#[test]
fn a_route_that_leads_nowhere_is_refused() {
    let setup = Setup::new().set("routes.a", "FROM /messages/* INTO $upstream");
    expect_refusal(&setup, &["routes.a", "no uplink", "uplink."]);
    let setup = Setup::new().set("uplink.plant.url", "mqtt://127.0.0.1");
    expect_refusal(&setup.set("routes.a", r#"FROM /* INTO uplink("plnt")"#), &["plnt", "plant"]);
}

#[test]
fn every_mistake_is_reported_at_once() {
    let setup = Setup::new()
        .set("shards", "many")
        .set("nonsense.key", 1)
        .set("limits.receive_max", 0)
        .set("routes.one", "FROM nowhere INTO nothing")
        .set("routes.two", "FROM /messages/* INTO $upstream");
    let log = expect_refusal(&setup, &["shards", "nonsense", "limits.receive_max", "routes.one"]);
    assert!(log.contains("mistakes in the configuration"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn mistakes_in_a_file_are_named_by_file_and_line() {
    let setup =
        Setup::new().file("[limits]\nreceive_max = 7\npacket_bytes_max = \"large\"\n\n[nonsense]\na = 1\n");
    expect_refusal(&setup, &["millrace.toml:3", "limits.packet_bytes_max", "nonsense"]);
    expect_refusal(&Setup::new().file("[limits\nx"), &["millrace.toml"]);
}

#[test]
fn flags_win_over_the_file() {
    let router = Setup::new().file("shards = 7\n[limits]\nreceive_max = 9\n").shards(3).start();
    assert_eq!(router.number("/shards"), 3);
    assert_eq!(router.connect(&v5("client")).greeting.receive_max.get(), 9);
}

#[test]
fn a_file_that_is_not_there_is_a_mistake() {
    let run = run(&["run", "--config", "no-such-file.toml"]).expect(2);
    assert!(run.err.contains("no-such-file.toml"), "{}", run.err);
}

#[test]
fn a_secret_is_never_part_of_a_message() {
    let setup = Setup::new()
        .set("uplink.plant.url", "mqtt://127.0.0.1")
        .set("uplink.plant.password", "\"xyzzy-secret\"")
        .set("uplink.plant.pasword", "xyzzy-secret")
        .set("shards", "many");
    let log = expect_refusal(&setup, &["uplink.plant.pasword"]);
    assert!(!log.contains("xyzzy"), "{log}");
}

#[test]
fn a_port_in_use_stops_the_start_in_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound socket has an address");
    for key in ["listener.tcp.bind", "http.bind"] {
        let (code, log) = Setup::new().set(key, address).fail_to_start();
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(key) && log.contains("in use"), "{key}:\n{log}");
        assert!(log.contains(&address.to_string()), "{log}");
    }
}

#[test]
fn a_wrong_command_line_is_code_2() {
    assert_eq!(run(&["run", "--no-such-flag"]).code, Some(2));
    assert_eq!(run(&["dance"]).code, Some(2));
    assert_eq!(run(&["run", "--set", "without-a-value"]).code, Some(2));
    assert_eq!(run(&["run", "--profile", "no-such-profile"]).code, Some(2));
}

/// What a store or a route cannot keep is refused by `check`, each with its key and what is allowed, all at once.
#[test]
fn impossible_budgets_durations_priorities_and_policies_are_refused_with_what_is_allowed() {
    let route = |key: &str| format!("routes.all.{key}");
    let cases = [
        ("store.bytes_max".to_owned(), "1000", "a whole number from "),
        ("store.reserve_percent".to_owned(), "51", "a whole number from 0 to 50"),
        ("store.keep_vanished_secs".to_owned(), "-1", "a whole number from 0 to "),
        ("uplink.plant.bytes_max".to_owned(), "17", "a whole number from "),
        (
            "uplink.plant.when_full".to_owned(),
            "drop_oldest",
            "\"refuse\", \"drop-oldest\" or \"drop-newest\"",
        ),
        ("uplink.plant.backoff_max_ms".to_owned(), "0", "a whole number from "),
        ("uplink.plant.drain".to_owned(), "fast", "\"in-order\" or \"live-first\""),
        ("uplink.plant.history_share_percent".to_owned(), "0", "a whole number from 1 to 99"),
        ("losses.interval_secs".to_owned(), "0", "a whole number from 1 to 86400"),
        (route("ttl"), "-5", "a whole number from 0 to "),
        (route("priority"), "10", "a whole number from 0 to 9"),
        (route("durability"), "paper", "\"disk\""),
        (route("drain"), "fifo", "\"in-order\" or \"live-first\""),
    ];
    let base = ["uplink.plant.url=mqtt://127.0.0.1:1", "routes.all.route=FROM \"a/#\" INTO $upstream"];
    let set = |pairs: &[String]| {
        let flags = pairs.iter().flat_map(|pair| ["--set".to_owned(), pair.clone()]);
        let arguments: Vec<String> = ["check".to_owned()].into_iter().chain(flags).collect();
        harness::run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let base: Vec<String> = base.map(str::to_owned).into();
    assert_eq!(set(&base).code, Some(0), "{}", set(&base).err);
    let mut all = base.clone();
    for (key, value, allowed) in &cases {
        let with: Vec<String> = base.iter().cloned().chain([format!("{key}={value}")]).collect();
        let done = set(&with);
        let said = format!("{}{}", done.out, done.err);
        assert_eq!(done.code, Some(2), "{key}: {said}");
        for part in [&key[..], value, allowed] {
            assert!(said.contains(part), "{key}: {part:?} is not in {said}");
        }
        all.push(format!("{key}={value}"));
    }
    let done = set(&all);
    // Budgets are judged where everything that they depend on is right.
    for (key, ..) in cases.iter().filter(|(key, ..)| !key.ends_with("bytes_max")) {
        assert!(done.err.contains(&key[..]) || done.out.contains(&key[..]), "{key} is not in {}", done.err);
    }
}
