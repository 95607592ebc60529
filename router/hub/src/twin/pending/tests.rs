//! Tests of `pending`: reports that gather do what they did one by one, whatever upstream had, and leave in pieces.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn of(value: Value) -> Object {
    let Value::Object(object) = value else { panic!("an object") };
    object
}

/// What upstream has in the end, if it had `before` and a client reported `reports`, and how many patches it took.
#[track_caller]
fn upstream_has(before: Value, reports: &[Value]) -> (Value, usize) {
    let (mut pending, mut document, mut count) = (Pending::default(), of(before), 0);
    for report in reports {
        pending.add(&of(report.clone())).expect("there is room");
    }
    while let Some(patch) = pending.next().cloned() {
        merge(&mut document, &patch);
        pending.taken(&patch);
        count += 1;
    }
    assert!(pending.is_empty());
    (Value::Object(document), count)
}

#[test]
fn an_object_after_a_null_replaces_what_was_there() {
    let reports = [json!({"a": null}), json!({"a": {"b": 1}})];
    for before in [json!({"a": {"c": 2}}), json!({"a": 5}), json!({})] {
        assert_eq!(upstream_has(before, &reports), (json!({"a": {"b": 1}}), 2));
    }
    let below = [json!({"x": {"a": null, "k": 1}}), json!({"x": {"a": {}}, "y": 2})];
    let before = json!({"x": {"a": {"c": 2}, "d": 3}});
    assert_eq!(upstream_has(before, &below), (json!({"x": {"a": {}, "d": 3, "k": 1}, "y": 2}), 2));
}

#[test]
fn an_object_after_a_value_replaces_what_was_there() {
    let reports = [json!({"a": 5}), json!({"a": {"b": 1, "n": null}}), json!({"a": {"c": 3, "b": null}})];
    assert_eq!(upstream_has(json!({"a": {"d": 2}}), &reports), (json!({"a": {"c": 3}}), 2));
    let again = [json!({"a": null}), json!({"a": {"b": 1}}), json!({"a": 7})];
    assert_eq!(upstream_has(json!({"a": {"c": 2}}), &again), (json!({"a": 7}), 1), "one is enough again");
}

#[test]
fn any_number_of_reports_is_two_patches() {
    let turn = [json!({"a": null}), json!({"a": {"b": 1}}), json!({"z": {"q": 1}})];
    let reports: Vec<_> = (0..1_000).flat_map(|_| turn.clone()).collect();
    let before = json!({"a": {"c": 2}, "z": {"p": 1}});
    assert_eq!(upstream_has(before, &reports), (json!({"a": {"b": 1}, "z": {"p": 1, "q": 1}}), 2));
}

#[test]
fn what_is_larger_than_a_document_leaves_in_pieces_deletions_first() {
    let mut pending = Pending::default();
    let names: Vec<String> = (0..100).map(|it| format!("{}{it:02}", "n".repeat(998))).collect();
    for name in &names {
        pending.add(&of(json!({ name: "x" }))).expect("room");
        pending.add(&of(json!({ name: null, "last": {"w": "v"} }))).expect("room");
    }
    pending.next();
    assert!(pending.leaving.len() >= 4, "{}", pending.leaving.len());
    assert!(pending.leaving.iter().all(|piece| bytes_of(piece).expect("JSON") <= DOCUMENT_BYTES_MAX));
    let (last, others) = pending.leaving.split_last().expect("some");
    assert_eq!(last["last"], json!({"w": "v"}));
    assert!(others.iter().all(|piece| piece.values().all(Value::is_null)));
}

#[test]
fn there_is_a_bound() {
    let mut pending = Pending::default();
    let names = || (0..1_000).map(|number| format!("{}{number:03}", "n".repeat(1_000)));
    let taken = names().take_while(|name| pending.add(&of(json!({ name: null }))).is_ok()).count();
    assert_eq!(taken, 129);
    let before = pending.clone();
    let error = pending.add(&of(json!({ "m".repeat(1_003): null }))).expect_err("too much");
    assert!(matches!(error, TwinError::Pending(131_073..)), "{error}");
    assert_eq!(pending, before);
    // What is leaving has room of its own.
    let sent = pending.next().cloned().expect("a piece");
    pending.add(&of(json!({ "m".repeat(1_003): null }))).expect("there is room");
    pending.taken(&sent);
    assert!(pending.is_leaving());
}

#[test]
fn what_an_older_release_kept_is_read() {
    let kept: Pending = serde_json::from_value(json!({"pending": {"a": null}})).expect("legal");
    assert_eq!(kept.gathered(), (&of(json!({"a": null})), &Object::new()));
    assert_eq!(serde_json::to_value(&kept).expect("JSON"), json!({"pending": {"a": null}}));
    let none: Pending = serde_json::from_value(json!({})).expect("legal");
    assert!(none.is_empty());
}

fn any_object(with_nulls: bool) -> impl Strategy<Value = Object> {
    let null = if with_nulls { 2 } else { 0 };
    let leaf = prop_oneof![
        null => Just(Value::Null),
        3 => (0i64..3).prop_map(Value::from),
        1 => "[x-z]{0,9}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 16, 4, |below| {
        prop::collection::btree_map("[a-c]", below, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    });
    prop::collection::btree_map("[a-c]", value, 0..4).prop_map(|map| map.into_iter().collect())
}

/// What happens to what is pending.
#[derive(Clone, Debug)]
enum Step {
    Report(Object),
    /// A patch is sent, upstream takes it, and its answer comes or is lost.
    Send {
        is_answered: bool,
    },
    /// A patch is sent, and does not arrive.
    Lose,
    /// It is kept and read again.
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any_object(true).prop_map(Step::Report),
        2 => any::<bool>().prop_map(|is_answered| Step::Send { is_answered }),
        1 => Just(Step::Lose),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    /// However reports gather, leave, and are sent again: upstream ends with what they did one by one.
    #[test]
    fn together_they_do_what_they_did_one_by_one(
        before in any_object(false),
        steps in prop::collection::vec(any_step(), 0..24),
    ) {
        let (mut one_by_one, mut upstream) = (before.clone(), before);
        let mut pending = Pending::default();
        for step in steps {
            match step {
                Step::Report(patch) => {
                    merge(&mut one_by_one, &patch);
                    pending.add(&patch).expect("there is room");
                }
                Step::Send { is_answered } => if let Some(patch) = pending.next().cloned() {
                    merge(&mut upstream, &patch);
                    if is_answered {
                        pending.taken(&patch);
                    }
                },
                Step::Lose => { pending.next(); }
                Step::Restart => {
                    let kept = serde_json::to_vec(&pending).expect("JSON");
                    pending = serde_json::from_slice(&kept).expect("JSON");
                }
            }
            let mut expected = upstream.clone();
            pending.apply(&mut expected);
            prop_assert_eq!(&expected, &one_by_one);
        }
        while let Some(patch) = pending.next().cloned() {
            merge(&mut upstream, &patch);
            pending.taken(&patch);
        }
        prop_assert_eq!(upstream, one_by_one);
        prop_assert!(pending.is_empty());
    }

    /// Pieces do what the whole did, and none is too large.
    #[test]
    fn pieces_do_the_same(before in any_object(false), patch in any_object(true), bytes_max in 48usize..200) {
        let (mut at_once, mut in_pieces) = (before.clone(), before);
        merge(&mut at_once, &patch);
        for piece in pieces(patch, bytes_max) {
            prop_assert!(bytes_of(&piece).expect("JSON") <= bytes_max);
            merge(&mut in_pieces, &piece);
        }
        prop_assert_eq!(in_pieces, at_once);
    }
}
