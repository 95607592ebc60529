//! The scan under bodies made to hurt, and against a foreign parser.

use proptest::prelude::*;

use model::{Limits, Message, Priority};

use super::*;
use crate::{Options, RouteSpec, RouteTable, Scratch};

fn accepts(body: &str) -> bool {
    let (paths, mut levels, mut filled) = (Paths::default(), Vec::new(), Filled::default());
    scan(body, &paths, 100, false, &mut levels, &mut filled).is_ok()
}

#[test]
fn only_whole_objects_are_accepted() {
    for body in ["{}", " { } ", r#"{"a":[],"b":{},"c":[1,[2,{"d":null}]]}"#, "{\"a\":1}\n", r#"{"":-0.5e+7}"#]
    {
        assert!(accepts(body), "{body}");
    }
    for body in [
        "",
        " ",
        "1",
        "[]",
        "null",
        "{",
        "}",
        "{}}",
        "{} {}",
        "{]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\":[1,]}",
        "{\"a\":[,1]}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":-}",
        "{\"a\":+1}",
        "{\"a\":1e}",
        "{\"a\":tru}",
        "{\"a\":truex}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"",
        "{'a':1}",
        "{a:1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":[1 2]}",
        "{\"a\":{]}",
        "{\"a\":[}}",
    ] {
        assert!(!accepts(body), "{body}");
    }
}

/// Bodies of 256 KiB made to hurt, with many routes that look at them: they are all read to their end or refused. How long
/// that takes is a row of the bench, `adversarial`.
#[test]
fn adversarial_bodies_are_read_or_refused() {
    const SIZE: usize = 256 << 10;
    let texts = (0..500)
        .map(|at| format!("FROM /* WHERE $body.a.b{at}[{at}].c = -7 OR $body.k{at} = 'x' INTO $upstream"));
    let specs: Vec<RouteSpec> = texts
        .map(|text| RouteSpec { name: "r".into(), text, priority: Priority::DEFAULT, ttl_millis: None })
        .collect();
    let table = RouteTable::compile(&specs, &Options::default()).unwrap();
    let repeat = |text: &str| text.repeat(SIZE / text.len());
    let bodies = [
        repeat("["),
        repeat("{\"a\":"),
        format!("{{{}\"z\":1}}", repeat("\"a\":{\"b1\":[0,{\"c\":1}]},")),
        format!("{{{}\"z\":1}}", repeat("\"\\u0061\":{\"b1\":1},")),
        format!("{{\"a\":\"{}\"}}", repeat("\\")),
        format!("{{\"a\":\"{}\"}}", repeat("\\u0061")),
        format!("{{\"a\":\"{}", repeat("x")),
        format!("{{\"k1\":{}}}", repeat("1")),
        format!("{{\"a\":{{\"b499\":[{}0]}}}}", repeat("1,")),
        format!("{{{}\"z\":1}}", repeat("\"k1\":\"\\n\",")),
        repeat(" "),
        format!("{{\"a\":{}}}", repeat("-")),
    ];
    let (mut scratch, mut matches) = (Scratch::new(), Vec::new());
    for body in &bodies {
        for _ in 0..3 {
            table.matches(&Message::new("t", body.as_bytes()), &mut scratch, &mut matches);
            assert!(matches.is_empty());
        }
    }
    let counters = scratch.counters();
    // Two do not start as an object, which is seen at their first byte.
    assert_eq!(counters.bodies_scanned, 3 * (bodies.len() as u64 - 2));
    assert!(counters.bodies_too_deep >= 3 && counters.bodies_malformed >= 9);
}

#[test]
fn of_duplicate_keys_the_last_one_counts_wholly() {
    let text = "FROM /* WHERE is_defined($body.a.x) OR $body.a.y != 2 INTO $upstream".to_owned();
    let spec = RouteSpec { name: "r".into(), text, priority: Priority::DEFAULT, ttl_millis: None };
    let table = RouteTable::compile(&[spec], &Options::default()).unwrap();
    let (mut scratch, mut matches) = (Scratch::new(), Vec::new());
    for (body, expected) in [
        (r#"{"a":{"x":1},"a":{"y":2}}"#, 0),
        (r#"{"a":{"y":2},"a":{"x":1}}"#, 1),
        (r#"{"a":{"x":1},"a":3}"#, 0),
        (r#"{"a":{"y":2,"y":3}}"#, 1),
    ] {
        table.matches(&Message::new("t", body.as_bytes()), &mut scratch, &mut matches);
        assert_eq!(matches.len(), expected, "{body}");
    }
}

proptest! {
    #[test]
    fn the_scan_accepts_what_serde_json_accepts(body in "[\\[\\]{}:,\"\\\\ 0-9a-fnrtu.eE+-]{0,24}") {
        let body = format!("{{{body}}}");
        let foreign = serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok();
        prop_assert_eq!(accepts(&body), foreign, "{}", body);
    }

    #[test]
    fn random_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&body);
        let limits = Limits::DEFAULT;
        prop_assert!(text.len() <= limits.body_scan_bytes_max as usize);
        let object = text.trim_start().as_bytes().first() == Some(&123);
        prop_assert!(!accepts(&text) || object);
    }

    #[test]
    fn an_escaped_text_means_what_it_unescapes_to(raw in "([abé\u{1F600}]|\\\\[\"\\\\nt/]|\\\\u00(61|e9)|\\\\ud83d\\\\ude00|\\\\ud83d){0,6}", other in "[abé]{0,3}") {
        let mut text = String::new();
        unescape(&raw, &mut text);
        prop_assert!(means(&raw, &text), "{}", raw);
        prop_assert_eq!(means(&raw, &other), text == other);
    }

    #[test]
    fn plain_runs_end_where_a_byte_by_byte_search_ends(text in "[ -~\\n\\\\\"éż]{0,40}", from in 0..10usize) {
        let bytes = text.as_bytes();
        let from = from.min(bytes.len());
        let slow = bytes[from..].iter().position(|b| *b == b'"' || *b == b'\\' || *b < 0x20);
        prop_assert_eq!(plain_end(bytes, from), slow.map_or(bytes.len(), |at| from + at));
    }
}
