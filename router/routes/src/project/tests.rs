//! Selections: what is sent, and above all what is not.

use model::{Priority, Property};
use proptest::prelude::*;

use super::*;
use crate::reference::{Tree, parse_json};
use crate::{Options, RouteSpec};

fn table(select: &str) -> RouteTable {
    let text = format!("SELECT {select} FROM /* INTO $upstream");
    let spec = RouteSpec { name: "r".into(), text, priority: Priority::DEFAULT, ttl_millis: None };
    RouteTable::compile(&[spec], &Options::default()).unwrap_or_else(|errors| panic!("{}", errors[0]))
}

fn project(select: &str, body: &[u8]) -> Result<String, ProjectError> {
    let properties = [Property { name: "site", value: Some("A \"1\"") }];
    let message = Message { properties: &properties, ..Message::new("plant/7", body) };
    let mut out = b"rubbish".to_vec();
    table(select).project(RouteId(0), &message, &mut Scratch::new(), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[track_caller]
fn check(select: &str, body: &str, expected: &str) {
    assert_eq!(project(select, body.as_bytes()).unwrap(), expected);
}

const PATIENT: &str =
    r#"{ "mrn": "0815", "patient" : {"name":"N","born": 1970}, "pulse": [71, {"at": 1, "by":"x"}] }"#;

#[test]
fn a_whole_body_loses_what_is_excepted() {
    check("* EXCEPT $body.patient, $body.mrn", PATIENT, r#"{"pulse":[71, {"at": 1, "by":"x"}]}"#);
    check(
        "* EXCEPT $body.patient.*",
        PATIENT,
        r#"{"mrn":"0815","patient":{},"pulse":[71, {"at": 1, "by":"x"}]}"#,
    );
    check(
        "* EXCEPT $body.patient.name, $body.pulse[*].by",
        PATIENT,
        r#"{"mrn":"0815","patient":{"born":1970},"pulse":[71,{"at":1}]}"#,
    );
    check(
        "* EXCEPT $body.pulse[0], $body.*.name",
        PATIENT,
        r#"{"mrn":"0815","patient":{"born":1970},"pulse":[{"at": 1, "by":"x"}]}"#,
    );
}

#[test]
fn values_are_hashed_renamed_computed_and_constant() {
    // SHA-256 of the four characters 0815.
    check(
        "* EXCEPT $body.patient, $body.pulse, hash($body.mrn) AS mrn",
        PATIENT,
        "{\"mrn\":\"c57a5df4f97ed6914116e5fd1348406064834f22503d890eb571af442ac4b4c3\"}",
    );
    check(
        "$body.pulse[0] AS bpm, $body.patient.born, $body.pulse[1] AS last, site, $topic[1] AS line, \
         2 * 21 AS answer, 'x' AS \"k y\"",
        PATIENT,
        r#"{"bpm":71,"born":1970,"last":{"at": 1, "by":"x"},"site":"A \"1\"","line":"7","answer":42,"k y":"x"}"#,
    );
}

#[test]
fn an_index_needs_a_name() {
    let text = "SELECT $body.pulse[1] FROM /* INTO $upstream";
    let spec =
        RouteSpec { name: "r".into(), text: text.into(), priority: Priority::DEFAULT, ttl_millis: None };
    let errors = RouteTable::compile(&[spec], &Options::default()).unwrap_err();
    assert!(errors[0].to_string().contains("AS and a name"), "{}", errors[0]);
}

#[test]
fn what_is_undefined_is_left_out() {
    check(
        "$body.none AS a, $body.mrn + 1 AS b, 1/0 AS c, null AS d, $body.mrn",
        PATIENT,
        r#"{"d":null,"mrn":"0815"}"#,
    );
    check("*, $body.none AS mrn", r#"{"mrn":1,"x":2}"#, r#"{"x":2}"#);
}

#[test]
fn a_body_that_cannot_be_read_is_not_sent() {
    for body in [&b"[1]"[..], b"{\"a\":1", b"", b"{\"a\":\"\xff\"}"] {
        assert_eq!(project("* EXCEPT $body.a", body), Err(ProjectError::Body));
    }
}

#[test]
fn an_escaped_key_or_a_second_one_does_not_slip_through() {
    check("* EXCEPT $body.mrn", r#"{"m\u0072n":1,"mrn":2,"x":{"mrn":3},"mrn":4}"#, r#"{"x":{"mrn":3}}"#);
}

#[test]
fn a_route_without_selection_leaves_the_body_alone() {
    let mut out = vec![1];
    let message = Message::new("t", b"{}");
    let found = table("*").project(RouteId(0), &message, &mut Scratch::new(), &mut out);
    assert_eq!((found, out.len()), (Ok(Projected::Unchanged), 0));
}

/// The same on a tree.
fn without(tree: Tree, paths: &[&[&str]]) -> Tree {
    let below = |step: &str| -> Vec<&[&str]> {
        paths.iter().filter(|path| path[0] == "*" || path[0] == step).map(|path| &path[1..]).collect()
    };
    match tree {
        Tree::Object(members) => Tree::Object(
            members
                .into_iter()
                .filter(|(key, _)| !below(key).iter().any(|rest| rest.is_empty()))
                .map(|(key, value)| {
                    let value = without(value, &below(&key));
                    (key, value)
                })
                .collect(),
        ),
        other => other,
    }
}

fn json() -> BoxedStrategy<String> {
    let leaf = prop::sample::select(vec![
        "1",
        "-2.5e3",
        "\"x\"",
        "\"\\\"{},[]\\\\\"",
        "true",
        "null",
        "[]",
        "{}",
        "\"é\"",
    ]);
    let key = || prop::sample::select(vec!["a", "b", "\\u0061", "c", "é", "a\\\"", "{"]);
    leaf.prop_map(str::to_owned)
        .prop_recursive(4, 30, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|items| format!("[ {} ]", items.join(" ,"))),
                prop::collection::vec((key(), inner), 0..5).prop_map(|members| {
                    let members: Vec<String> = members.iter().map(|(k, v)| format!("\"{k}\": {v}")).collect();
                    format!("{{{}}}", members.join(" , "))
                }),
            ]
        })
        .boxed()
}

proptest! {
    /// Reading the output gives what removing the paths from the tree gives.
    #[test]
    fn what_is_excepted_never_appears(inner in json(), other in json()) {
        let body = format!("{{\"b\": {inner}, \"a\": {other}, \"\\u0061\": 1, \"c\": {inner}}}");
        let paths: [(&str, &[&[&str]]); 4] = [
            ("$body.a", &[&["a"]]),
            ("$body.b.a, $body.c.*", &[&["b", "a"], &["c", "*"]]),
            ("$body.*.a, $body.b.b.a", &[&["*", "a"], &["b", "b", "a"]]),
            ("$body.c.a.b, $body.c.é", &[&["c", "a", "b"], &["c", "é"]]),
        ];
        for (text, steps) in paths {
            let found = project(&format!("* EXCEPT {text}"), body.as_bytes()).unwrap();
            let expected = without(parse_json(&body, 64).unwrap(), steps);
            prop_assert_eq!(parse_json(&found, 64), Some(expected), "{} {}", text, body);
        }
    }
}
