//! Tests of `twin`: patches, limits, offline reports, differences.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn of(value: Value) -> Object {
    let Value::Object(object) = value else { panic!("an object") };
    object
}

#[track_caller]
fn refused(patch: Value, expected: &str) {
    let error = Twin::default().report(&of(patch)).expect_err("refused");
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn a_twin_is_read_and_answered() {
    let body =
        br#"{"desired":{"rate":5,"$version":9,"$metadata":{"x":1}},"reported":{"fw":"1.1","$version":3}}"#;
    let twin = Twin::parse(body).expect("a twin");
    assert_eq!((twin.desired_version, twin.reported_version), (Some(9), Some(3)));
    let answer = br#"{"desired":{"$version":9,"rate":5},"reported":{"$version":3,"fw":"1.1"}}"#;
    assert_eq!(twin.to_body(), answer);
    assert_eq!(Twin::default().to_body(), br#"{"desired":{},"reported":{}}"#);
    assert_eq!(Twin::parse(b"[]"), Err(TwinError::NotAnObject));
    assert_eq!(Twin::parse(br#"{"desired":1}"#), Err(TwinError::NotAnObject));
    assert!(matches!(Twin::parse(b"{"), Err(TwinError::Json(_))));
}

#[test]
fn reports_merge_while_upstream_is_away() {
    let mut twin =
        Twin::parse(br#"{"reported":{"fw":"1.1","old":1,"net":{"ip":"a","gw":"b"}}}"#).expect("a twin");
    twin.report(&of(json!({"fw": "1.2", "old": null}))).expect("legal");
    twin.report(&of(json!({"net": {"ip": null, "dns": "c"}, "fw": "1.3"}))).expect("legal");
    assert_eq!(Value::Object(twin.reported.clone()), json!({"fw": "1.3", "net": {"gw": "b", "dns": "c"}}));
    // Something changes while the patch is on its way: that stays pending.
    let sent = twin.next_report().cloned().expect("a patch");
    assert_eq!(
        Value::Object(sent.clone()),
        json!({"fw": "1.3", "old": null, "net": {"ip": null, "dns": "c"}})
    );
    twin.report(&of(json!({"fw": "1.4"}))).expect("legal");
    twin.reported(&sent, Some(7));
    let sent = twin.next_report().cloned().expect("a patch");
    assert_eq!(Value::Object(sent.clone()), json!({"fw": "1.4"}));
    twin.reported(&sent, Some(8));
    assert!(twin.pending.is_empty() && twin.next_report().is_none());
    assert_eq!(twin.reported_version, Some(8));
}

#[test]
fn a_patch_of_desired_properties_needs_the_one_before_it() {
    let mut twin = Twin::parse(br#"{"desired":{"a":1,"b":2,"$version":4}}"#).expect("a twin");
    assert_eq!(twin.desire(&of(json!({"a": 9, "b": null, "$version": 5})), 5), Desired::Applied);
    assert_eq!((Value::Object(twin.desired.clone()), twin.desired_version), (json!({"a": 9}), Some(5)));
    assert_eq!(twin.desire(&of(json!({"a": 8})), 5), Desired::Old);
    assert_eq!(twin.desire(&of(json!({"a": 8})), 7), Desired::Gap);
    assert_eq!(Twin::default().desire(&of(json!({"a": 8})), 1), Desired::Gap);
    assert_eq!(twin.desired["a"], 9);
}

#[test]
fn after_an_outage_a_client_gets_the_difference() {
    let mut twin = Twin::parse(br#"{"desired":{"a":1,"b":{"x":1,"y":2},"$version":4}}"#).expect("a twin");
    twin.report(&of(json!({"fw": "2"}))).expect("legal");
    let fresh =
        br#"{"desired":{"b":{"x":1,"z":3},"c":true,"$version":8},"reported":{"fw":"1","$version":2}}"#;
    let patch = twin.renew(Twin::parse(fresh).expect("a twin")).expect("a difference");
    assert_eq!(Value::Object(patch), json!({"a": null, "b": {"y": null, "z": 3}, "c": true, "$version": 8}));
    // What upstream has not taken yet is still what the client reported.
    assert_eq!((&twin.reported["fw"], &twin.pending.gathered().0["fw"]), (&json!("2"), &json!("2")));
    assert_eq!(twin.renew(Twin::parse(fresh).expect("a twin")), None);
    let mut unknown = Twin::default();
    assert_eq!(unknown.renew(Twin::parse(fresh).expect("a twin")), None, "nobody was told an older one");
}

#[test]
fn limits() {
    refused(json!({"a.b": 1}), "a.b");
    refused(json!({"$a": 1}), "no '.', '$'");
    refused(json!({"a#": 1}), "no '.', '$'");
    refused(json!({"a b": 1}), "whitespace");
    refused(json!({"": 1}), "whitespace");
    refused(json!({"a\u{7}": 1}), "control");
    refused(json!({ "n".repeat(1_025): 1 }), "longer than 1024");
    refused(json!({ "s": "x".repeat(4_097) }), "s: the string is longer");
    refused(json!({"a": {"b": 4_503_599_627_370_497i64}}), "a.b: the integer");
    refused(json!({"a": -4_503_599_627_370_497i64}), "the integer");
    refused(json!({"a": u64::MAX}), "the integer");
    refused(json!({"a": [1, null]}), "null in an array");
    refused(json!({"a": [{"b": [null]}]}), "null in an array");
    refused(json!({"a": vec!["x".repeat(4_000); 9]}), "32768 is the most");
    let mut twin = Twin::default();
    let legal =
        json!({"n": 4_503_599_627_370_496i64, "s": "x".repeat(4_096), "f": 1e300, "d": null, "e": {}});
    twin.report(&of(legal)).expect("legal");
}

#[test]
fn nesting_has_a_limit() {
    let nested = |levels: usize| (0..levels).fold(json!({"p": 1}), |below, _| json!({ "l": below }));
    Twin::default().report(&of(nested(DEPTH_MAX))).expect("legal");
    refused(nested(DEPTH_MAX + 1), "nested deeper");
}

#[test]
fn a_refused_patch_changes_nothing() {
    let mut twin = Twin::default();
    for part in ["a", "b", "c", "d", "e", "f", "g"] {
        twin.report(&of(json!({ part: "x".repeat(4_096) }))).expect("legal");
    }
    let before = twin.clone();
    let error = twin.report(&of(json!({"h": "x".repeat(4_096)}))).expect_err("too large together");
    assert!(matches!(error, TwinError::Size(_)), "{error}");
    assert_eq!(twin, before);
}

fn any_document() -> impl Strategy<Value = Object> {
    let leaf = prop_oneof![any::<bool>().prop_map(Value::from), (0i64..5).prop_map(Value::from)];
    let value = leaf.prop_recursive(3, 16, 4, |below| {
        prop::collection::btree_map("[a-d]", below, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    });
    prop::collection::btree_map("[a-d]", value, 0..5).prop_map(|map| map.into_iter().collect())
}

proptest! {
    /// The difference of two documents turns one into the other.
    #[test]
    fn a_difference_leads_from_old_to_new(old in any_document(), new in any_document()) {
        let patch = diff(&old, &new);
        let mut document = old.clone();
        merge(&mut document, &patch);
        prop_assert_eq!(&document, &new);
        prop_assert_eq!(patch.is_empty(), old == new);
    }
}
