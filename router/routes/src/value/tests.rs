//! Orders of values.

use proptest::prelude::*;

use super::*;

fn no_texts(_: TextAt, _: TextAt) -> Ordering {
    Ordering::Equal
}

#[test]
fn different_kinds_compare_by_rank_only_for_edgehub() {
    let (number, null) = (Value::Number(50.0), Value::Null);
    assert_eq!(compare(Comparing::Ranked, CompareOp::Greater, null, number, no_texts), Some(true));
    assert_eq!(compare(Comparing::Loose, CompareOp::Greater, null, number, no_texts), None);
    assert_eq!(compare(Comparing::Loose, CompareOp::NotEqual, null, number, no_texts), Some(true));
    assert_eq!(compare(Comparing::Same, CompareOp::NotEqual, null, number, no_texts), None);
}

#[test]
fn zeros_are_equal_and_infinity_is_a_number() {
    assert_eq!(numbers(0.0, -0.0), Ordering::Equal);
    assert_eq!(Value::number(f64::INFINITY), Value::Number(f64::INFINITY));
    assert_eq!(Value::number(f64::NAN), Value::Undefined);
}

#[test]
fn names_are_equal_without_case_beyond_ascii_too() {
    assert!(same_name("Größe", "GRÖßE"));
    assert!(!same_name("a", "b"));
    assert_eq!(folded("élan"), "ÉLAN");
}

proptest! {
    #[test]
    fn the_order_of_texts_is_that_of_utf16(left in "\\PC{0,6}", right in "\\PC{0,6}") {
        prop_assert_eq!(utf16_order(&left, &right), left.encode_utf16().cmp(right.encode_utf16()));
    }
}
