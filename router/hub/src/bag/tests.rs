//! Tests of `bag`: the format of §2.5 case by case, the table of §2.6 both ways, and round trips.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const MAX: usize = 64;

#[track_caller]
fn check(text: &str, expected: &[(&str, Option<&str>)]) {
    let bag = decode(text, MAX).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(bag.iter().collect::<Vec<_>>(), expected, "{text}");
}

#[track_caller]
fn refused(text: &str, expected: BagError) {
    assert_eq!(decode(text, MAX), Err(expected), "{text}");
}

#[test]
fn a_bag_is_read_as_edge_hub_reads_it() {
    check("", &[]);
    check("a=1", &[("a", Some("1"))]);
    check("a=1&b=2", &[("a", Some("1")), ("b", Some("2"))]);
    check("a", &[("a", None)]);
    check("a=", &[("a", None)]);
    check("a=&b", &[("a", None), ("b", None)]);
    check("a=1&b=2&a=3", &[("a", Some("3")), ("b", Some("2"))]);
    check("a=1+1", &[("a", Some("1+1"))]);
    check("?a=1", &[("?a", Some("1"))]);
    check(
        "%24.ct=application%2Fjson&%24.ce=utf-8&level=high",
        &[("$.ct", Some("application/json")), ("$.ce", Some("utf-8")), ("level", Some("high"))],
    );
    check("$.mid=42", &[("$.mid", Some("42"))]);
    check("a%3Db=c%26d%3D", &[("a=b", Some("c&d="))]);
    check("a=%zz&b=%", &[("a", Some("%zz")), ("b", Some("%"))]);
    check("k=%E2%82%AC", &[("k", Some("€"))]);
}

#[test]
fn what_is_no_bag_is_refused_with_the_reason() {
    for text in ["&", "&&", "=", "=x", "a&", "a=1&", "&a=1", "a&&b", "a=1&=2"] {
        refused(text, BagError::NoName);
    }
    for text in ["a=b=c", "a==", "x=1&a=b=c"] {
        refused(text, BagError::SecondEquals);
    }
    refused("a=%ff", BagError::NotUtf8);
    refused("%c3%28=1", BagError::NotUtf8);
    let many: Vec<String> = (0..=MAX).map(|at| format!("p{at}=1")).collect();
    refused(&many.join("&"), BagError::TooMany(MAX));
    assert!(decode(&many[..MAX].join("&"), MAX).is_ok());
}

#[test]
fn a_bag_is_written_with_everything_escaped() {
    let mut out = "x/".to_owned();
    encode(
        [("level", Some("high")), ("$.ct", Some("application/json")), ("none", None), ("empty", Some(""))],
        &mut out,
    );
    assert_eq!(out, "x/level=high&%24.ct=application%2Fjson&none&empty");
    out.clear();
    encode([("a b+c", Some("~-_.&=é"))], &mut out);
    assert_eq!(out, "a%20b%2Bc=~-_.%26%3D%C3%A9");
}

#[test]
fn system_properties_go_both_ways_as_in_the_table() {
    let table = [
        ("$.mid", "messageId", true, true),
        ("$.cid", "cid", true, true),
        ("$.ct", "contentType", true, true),
        ("$.ce", "contentEncoding", true, true),
        ("$.to", "to", true, true),
        ("$.uid", "userId", true, true),
        ("$.exp", "absolute-expiry-time", true, true),
        ("$.on", "outputName", true, false),
        ("$.schema", "messageSchema", true, true),
        ("$.ctime", "creationTime", true, true),
        ("$.ifid", "iothub-interface-id", true, false),
        ("$.sub", "dt-subject", true, true),
        ("ack", "ack", true, true),
        ("iothub-operation", "operation", true, true),
        ("$.cdid", "connectionDeviceId", false, true),
        ("$.cmid", "connectionModuleId", false, true),
    ];
    assert_eq!(SYSTEM.len(), table.len());
    for (wire, name, inbound, outbound) in table {
        assert_eq!(from_client(wire).map(|it| it.name), inbound.then_some(name), "{wire}");
        assert_eq!(to_client(name), outbound.then_some(wire), "{name}");
    }
    for other in ["$.x", "mid", "level", "", "$", "Ack", "$.MID", "iothub-", "$.cdid"] {
        assert_eq!(from_client(other), None, "{other}");
    }
}

proptest! {
    /// What is written is read back, with the last of several values.
    #[test]
    fn what_is_written_is_read_back(properties in vec((".{1,12}", proptest::option::of(".{1,12}")), 0..20)) {
        let mut text = String::new();
        encode(properties.iter().map(|(name, value)| (name.as_str(), value.as_deref())), &mut text);
        prop_assert!(!text.contains(['/', '+', '#', '\0']), "one level of a topic");
        let bag = decode(&text, MAX).expect("our own");
        for (at, (name, value)) in properties.iter().enumerate() {
            if !properties[at + 1..].iter().any(|(later, _)| later == name) {
                prop_assert_eq!(bag.find(name), Some(value.as_deref()));
            }
        }
        let mut again = String::new();
        encode(bag.iter(), &mut again);
        prop_assert_eq!(decode(&again, MAX).expect("our own"), bag);
    }

    /// Any text is a bag or has a reason; names differ, and none is empty.
    #[test]
    fn any_text_is_a_bag_or_has_a_reason(text in "[a-c=&%0-9f$.é]{0,40}") {
        if let Ok(bag) = decode(&text, MAX) {
            let names: std::collections::BTreeSet<_> = bag.iter().map(|(name, _)| name.to_owned()).collect();
            prop_assert_eq!(names.len(), bag.len());
            prop_assert!(!names.contains("") && bag.iter().all(|(_, value)| value != Some("")));
        }
    }
}
