//! The table as its callers see it.

use model::Qos;

use super::*;

fn spec(name: &str, text: &str) -> RouteSpec {
    RouteSpec { name: name.into(), text: text.into(), priority: Priority::DEFAULT, ttl_millis: None }
}

#[track_caller]
fn table(routes: &[&str]) -> RouteTable {
    let specs: Vec<RouteSpec> =
        routes.iter().enumerate().map(|(at, text)| spec(&format!("r{at}"), text)).collect();
    RouteTable::compile(&specs, &Options::default()).unwrap_or_else(|errors| panic!("{}", errors[0]))
}

fn names(table: &RouteTable, message: &Message<'_>) -> Vec<String> {
    let mut matches = Vec::new();
    table.matches(message, &mut Scratch::new(), &mut matches);
    matches.iter().map(|found| table.routes()[found.route.0 as usize].name().to_owned()).collect()
}

/// Which of `routes`, each with a sink of its own, match a message with this topic and body.
#[track_caller]
fn check(routes: &[&str], topic: &str, body: &str, expected: &[&str]) {
    let texts: Vec<String> =
        routes.iter().enumerate().map(|(at, text)| format!("{text} INTO uplink(\"u{at}\")")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_eq!(names(&table(&texts), &Message::new(topic, body.as_bytes())), expected);
}

fn assert_shared<T: Send + Sync>() {}

#[test]
fn a_table_can_be_shared_by_all_shards() {
    assert_shared::<RouteTable>();
}

#[test]
fn a_missing_field_is_undefined_and_undefined_does_not_match() {
    check(&["FROM /* WHERE $body.temp > 20"], "t", r#"{"hum": 40}"#, &[]);
    check(&["FROM /* WHERE $body.temp > 20"], "t", r#"{"temp": 40}"#, &["r0"]);
}

#[test]
fn filters_and_paths_live_side_by_side() {
    let routes = ["FROM \"site/+/line/#\"", "FROM /messages/*", "FROM \"other/#\"", "FROM \"#\""];
    check(&routes, "site/a/line/1", "", &["r0", "r1", "r3"]);
    check(&routes, "$SYS/x", "", &["r1"]);
}

/// What is certain to be true does not hide that another item cannot be compared.
#[test]
fn every_item_of_a_set_must_be_comparable() {
    for set in ["(null, 0)", "(0, null)"] {
        let text = format!("FROM /* WHERE null IN {set} INTO $upstream");
        assert!(RouteTable::compile(&[spec("r", &text)], &Options::default()).is_err(), "{text}");
    }
}

/// Each item of a set is compared as `=` would: what comes from a body may be of another kind, and is then not equal.
#[test]
fn items_of_a_set_are_compared_each_its_own_way() {
    let routes = [
        "FROM /* WHERE 'a' NOT IN ($body.n, 'x')",
        "FROM /* WHERE 'a' NOT IN ('x', $body.n)",
        "FROM /* WHERE 'x' IN ($body.n, 'x')",
        "FROM /* WHERE none NOT IN ($body.n, 'x')",
        "FROM /* WHERE null IN ($body.n, null)",
        "FROM /* WHERE $body.n NOT IN ($body.s, 'x', none)",
    ];
    check(&routes, "t", r#"{"n":5}"#, &["r0", "r1", "r2", "r4"]);
    check(&routes, "t", r#"{"n":"a"}"#, &["r2", "r4"]);
}

#[test]
fn fields_of_mqtt_can_be_asked() {
    let table = table(&[
        "FROM \"#\" WHERE $topic[1] = 'b' AND $topic = 'a/b' INTO uplink(\"0\")",
        "FROM \"#\" WHERE $clientId LIKE 'c%' INTO uplink(\"1\")",
        "FROM \"#\" WHERE $user = 'u' INTO uplink(\"2\")",
        "FROM \"#\" WHERE $qos >= 1 AND $retain INTO uplink(\"3\")",
        "FROM \"#\" WHERE is_defined($topic[2]) INTO uplink(\"4\")",
    ]);
    let message =
        Message { client_id: "c7", retain: true, qos: Qos::AtLeastOnce, ..Message::new("a/b", b"") };
    assert_eq!(names(&table, &message), ["r0", "r1", "r3"]);
}

#[test]
fn a_bare_name_is_a_property_first_then_a_body_field() {
    let table = table(&[
        "FROM /* WHERE temperature > 30 INTO uplink(\"0\")",
        "FROM /* WHERE temperature = '30' INTO uplink(\"1\")",
        "FROM /* WHERE NOT alarm AND !door.open INTO uplink(\"2\")",
    ]);
    let body = br#"{"temperature": 31, "alarm": false, "door": {"open": false}}"#;
    assert_eq!(names(&table, &Message::new("t", body)), ["r0", "r2"]);
    let properties = [Property { name: "Temperature", value: Some("30") }];
    let message = Message { properties: &properties, ..Message::new("t", body) };
    assert_eq!(names(&table, &message), ["r1", "r2"]);
}

#[test]
fn each_sink_comes_once_with_the_most_urgent_route() {
    let mut specs = vec![
        spec("low", "FROM /* INTO $upstream, topic \"copy\""),
        spec("high", "FROM /* INTO $upstream"),
        spec("also", "FROM /* INTO $upstream"),
    ];
    specs[1].priority = Priority::new(1).unwrap();
    specs[1].ttl_millis = Some(5_000);
    specs[2].priority = Priority::new(1).unwrap();
    let table = RouteTable::compile(&specs, &Options::default()).unwrap();
    let (mut matches, mut scratch) = (Vec::new(), Scratch::new());
    for _ in 0..2 {
        table.matches(&Message::new("t", b""), &mut scratch, &mut matches);
        let found: Vec<_> = matches.iter().map(|m| (m.sink.0, m.route.0, m.ttl_millis)).collect();
        assert_eq!(found, [(0, 1, Some(5_000)), (1, 0, None)]);
    }
    assert_eq!(table.sinks().len(), 2);
    assert_eq!(table.sinks()[0], Sink::Upstream);
}

#[test]
fn all_errors_of_all_routes_are_reported_at_once() {
    let specs = [
        spec("one", "FROM /* WHERE 3 + 'a' = 7 AND nope(1) INTO $upstream"),
        spec("two", "FORM /* INTO $upstream"),
        spec("three", "FROM /* INTO $upstream"),
    ];
    let errors = RouteTable::compile(&specs, &Options::default()).unwrap_err();
    let names: Vec<&str> = errors.iter().map(|error| error.route.as_str()).collect();
    assert_eq!(names, ["one", "one", "two"]);
}

#[test]
fn edgehub_mode_proposes_as_number() {
    let options = Options { mode: Mode::EdgeHub, ..Options::default() };
    let spec = spec("hot", "FROM /messages/* WHERE temperature > 30 INTO $upstream");
    let errors = RouteTable::compile(&[spec], &options).unwrap_err();
    assert!(errors[0].to_string().contains("did you mean as_number(temperature)?"), "{}", errors[0]);
}

#[test]
fn a_body_is_scanned_only_if_a_route_of_its_source_asks() {
    let table = table(&["FROM \"a\" WHERE $body.x = 1 INTO $upstream", "FROM \"b\" INTO $upstream"]);
    let (mut matches, mut scratch) = (Vec::new(), Scratch::new());
    table.matches(&Message::new("b", b"{\"x\":1}"), &mut scratch, &mut matches);
    assert_eq!(scratch.counters().bodies_scanned, 0);
    table.matches(&Message::new("a", b"{\"x\":1}"), &mut scratch, &mut matches);
    assert_eq!((scratch.counters().bodies_scanned, matches.len()), (1, 1));
}

#[test]
fn needs_properties_tells_whether_anybody_looks() {
    assert!(
        !table(&["FROM /* INTO $upstream", "FROM /* WHERE $topic = 'a' INTO $upstream"]).needs_properties()
    );
    assert!(table(&["FROM /* WHERE a = 'b' INTO $upstream"]).needs_properties());
    assert!(table(&["FROM /* WHERE $body.a = 1 INTO $upstream"]).needs_properties());
    assert!(table(&["FROM /* INTO topic \"x/{severity}\""]).needs_properties());
    assert!(!RouteTable::empty().needs_properties() && RouteTable::empty().is_empty());
}

#[test]
fn an_unusable_body_is_undefined_and_counted() {
    let limits = Limits { body_scan_bytes_max: 100, body_depth_max: 4, ..Limits::DEFAULT };
    let options = Options { limits, ..Options::default() };
    let table =
        RouteTable::compile(&[spec("r", "FROM /* WHERE $body.a = 1 INTO $upstream")], &options).unwrap();
    let (mut matches, mut scratch) = (Vec::new(), Scratch::new());
    let long = format!("{{\"a\":1,\"b\":\"{}\"}}", "x".repeat(100));
    let text = [Property { name: "contentType", value: Some("text/plain") }];
    for (body, system) in [
        (&b"{\"a\":1"[..], &[][..]),
        (b"{\"a\":1,\"b\":[[[[[]]]]]}", &[]),
        (long.as_bytes(), &[]),
        (b"{\"a\":1}\xff", &[]),
        (b"{\"a\":1}", &text),
    ] {
        table.matches(&Message { system, ..Message::new("t", body) }, &mut scratch, &mut matches);
        assert!(matches.is_empty());
    }
    let counters = scratch.counters();
    let seen = (
        counters.bodies_malformed,
        counters.bodies_too_deep,
        counters.bodies_too_long,
        counters.bodies_other_type,
    );
    assert_eq!(seen, (2, 1, 1, 1));
}

#[test]
fn too_many_routes_are_refused() {
    let options = Options { limits: Limits { routes_max: 1, ..Limits::DEFAULT }, ..Options::default() };
    let specs = [spec("a", "FROM /* INTO $upstream"), spec("b", "FROM /* INTO $upstream")];
    assert_eq!(RouteTable::compile(&specs, &options).unwrap_err().len(), 1);
}

#[test]
fn a_scratch_serves_one_table_after_another() {
    let (mut matches, mut scratch) = (Vec::new(), Scratch::new());
    let first = table(&["FROM /* WHERE $body.a = 1 AND $body.b = 2 INTO $upstream"]);
    let second = table(&[
        "FROM /* WHERE $body.z = 9 INTO uplink(\"x\")",
        "FROM /* WHERE $body.a = 1 INTO uplink(\"y\")",
    ]);
    for _ in 0..3 {
        first.matches(&Message::new("t", br#"{"a":1,"b":2}"#), &mut scratch, &mut matches);
        assert_eq!(matches.len(), 1);
        second.matches(&Message::new("t", br#"{"a":1}"#), &mut scratch, &mut matches);
        assert_eq!(matches.iter().map(|m| m.route.0).collect::<Vec<_>>(), [1]);
    }
}

#[test]
fn times_and_hashes_can_be_computed() {
    let body = r#"{"at":"2026-11-22T23:30:00+01:00","ms":951868800000,"id":"abc","n":7}"#;
    for (condition, expected) in [
        ("hour($body.at) = 22 AND minute($body.at) = 30 AND second($body.at) = 0", true),
        (
            "year($body.ms) = 2000 AND month($body.ms) = 3 AND day($body.ms) = 1 AND weekday($body.ms) = 3",
            true,
        ),
        ("as_time($body.at) > as_time('2026-11-22T22:00:00Z')", true),
        ("as_time($body.at) - ms > 1000", true),
        ("is_defined(as_time($body.id)) OR is_defined(hour(1e300)) OR is_defined(hash($body.none))", false),
        ("starts_with(hash($body.id), 'ba7816bf8f01cfea') AND length(hash($body.id)) = 64", true),
        ("hash($body.n) = hash('7') AND hash('c', 'ab') = hash('abc')", true),
    ] {
        check(&[&format!("FROM /* WHERE {condition}")], "t", body, if expected { &["r0"] } else { &[] });
    }
}

#[test]
fn a_pattern_takes_linear_time() {
    let text = "a".repeat(256 << 10);
    let body = format!("{{\"s\":\"{text}\"}}");
    let pattern = format!("%{}b%", "a".repeat(4_000));
    check(&[&format!("FROM /* WHERE $body.s LIKE '{pattern}'")], "t", &body, &[]);
    check(&["FROM /* WHERE $body.s LIKE '%a_a%aaa%_'"], "t", &body, &["r0"]);
    let wild = format!("FROM /* WHERE $body.s LIKE '%_{}%' INTO $upstream", "a".repeat(100));
    assert!(RouteTable::compile(&[spec("r", &wild)], &Options::default()).is_err());
}

#[test]
fn a_message_with_two_equal_names_is_dropped_in_edgehub_mode() {
    let properties = [Property { name: "a", value: Some("1") }, Property { name: "A", value: Some("2") }];
    let message = Message { properties: &properties, ..Message::new("t", b"") };
    for (mode, expected) in [(Mode::EdgeHub, 0), (Mode::Millrace, 1)] {
        let options = Options { mode, ..Options::default() };
        let table =
            RouteTable::compile(&[spec("r", "FROM /* WHERE a = '1' INTO $upstream")], &options).unwrap();
        let (mut matches, mut scratch) = (Vec::new(), Scratch::new());
        table.matches(&message, &mut scratch, &mut matches);
        assert_eq!((matches.len(), scratch.counters().messages_dropped), (expected, 1 - expected as u64));
    }
}
