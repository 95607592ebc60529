//! Every kind of field, in both forms: what is written is what was asked for, within its bounds and its length.

use serde_json::{Value, json};

use super::super::{Form, Payload, read};
use super::*;
use crate::clock::Micros;
use crate::ledger::PublisherId;
use crate::payload::RunId;

fn stamp(sequence: u64) -> Stamp {
    Stamp { run: RunId(7), publisher: PublisherId(12), sequence, intended: Micros(1_795_000_000_123_456) }
}

fn range(low: i64, high: i64, digits: u32) -> Range {
    Range { low, high, digits }
}

fn text(text: &str) -> Scalar {
    Scalar::Text(text.to_owned())
}

fn every_kind() -> Vec<(String, Field)> {
    let pattern = |text| Pattern::parse(text, &["publisher", "sequence"]).unwrap();
    let walk = Field::Walk { range: range(-550, 1_200, 2), step: 300, start: Some(0) };
    let fields = [
        ("walk", walk.clone()),
        ("random", Field::Random(range(-3, 3, 0))),
        ("choice", Field::Choice(vec![text("run"), text("sto\"p"), Scalar::Flag(true)])),
        ("name", Field::Text(pattern("press{publisher:03}"))),
        ("order", Field::Text(pattern("{publisher}-{sequence}"))),
        ("count", Field::Counter { start: -1, step: 2 }),
        ("half", Field::Constant(Scalar::Real(0.5))),
        ("on", Field::Constant(Scalar::Flag(false))),
        ("axes", Field::List(vec![walk, Field::Constant(Scalar::Integer(70_000)), Field::List(vec![])])),
        ("inner", Field::Object(vec![("deep".to_owned(), Field::Object(vec![]))])),
    ];
    fields.into_iter().map(|(name, field)| (name.to_owned(), field)).collect()
}

/// As many as a map's head of two bytes is for.
fn many() -> Vec<(String, Field)> {
    (0..40).map(|at| (format!("f{at}"), Field::Constant(Scalar::Integer(at)))).collect()
}

fn payload(form: Form, fields: &[(String, Field)], bytes: Option<usize>) -> Payload {
    Payload::template(form, fields, bytes, 12, 5)
}

#[test]
fn json_has_every_field_within_its_bounds() {
    let mut payload = payload(Form::Json, &every_kind(), None);
    let (mut walked, mut chosen) = (Vec::new(), std::collections::HashSet::new());
    for sequence in 1..=500 {
        let value: Value = serde_json::from_slice(payload.next(stamp(sequence))).unwrap();
        walked.push(value["walk"].as_f64().unwrap());
        chosen.insert(value["choice"].to_string());
        assert!((-3..=3).contains(&value["random"].as_i64().unwrap()), "{value}");
        assert_eq!(
            (&value["name"], &value["half"], &value["on"]),
            (&json!("press012"), &json!(0.5), &json!(false))
        );
        assert_eq!(value["order"], json!(format!("12-{sequence}")));
        assert_eq!(value["count"], json!(2 * (sequence as i64 - 1) - 1));
        assert_eq!((&value["axes"][1], &value["axes"][2]), (&json!(70_000), &json!([])));
        assert_eq!(value["inner"], json!({"deep": {}}));
    }
    assert!(walked.iter().all(|at| (-5.5..=12.0).contains(at)), "{walked:?}");
    assert!(walked.windows(2).all(|pair| (pair[1] - pair[0]).abs() <= 3.001), "in steps");
    assert!(walked.iter().any(|at| *at < 0.0) && walked.iter().any(|at| *at > 9.0), "it does wander");
    assert_eq!(chosen.len(), 3);
}

#[test]
fn cbor_is_what_its_standard_says() {
    let fields = [
        ("a".to_owned(), Field::Constant(Scalar::Integer(-500))),
        ("b".to_owned(), Field::List(vec![Field::Constant(Scalar::Flag(true)), Field::Constant(text("ü"))])),
        ("c".to_owned(), Field::Random(range(15, 15, 1))),
    ];
    let mut payload = payload(Form::Cbor, &fields, None);
    let bytes = payload.next(stamp(1)).to_vec();
    assert_eq!(bytes[0], 0xA8, "eight pairs: four, three and the sum");
    // RFC 8949, appendix A: -500 is 39 01F3, true F5, "ü" 62 C3BC, 1.5 as a double FB 3FF8….
    let expected = b"\x61a\x39\x01\xF3\x61b\x82\xF5\x62\xC3\xBC\x61c\xFB\x3F\xF8\0\0\0\0\0\0\x63sum\x1B";
    assert!(bytes.windows(expected.len()).any(|window| window == expected), "{bytes:02X?}");
}

#[test]
fn every_length_from_the_longest_on_is_met_and_none_is_longer_without() {
    for form in [Form::Json, Form::Cbor] {
        for fields in [every_kind(), many()] {
            let longest = bytes_max(form, &fields);
            let mut free = payload(form, &fields, None);
            for sequence in [1, 2, 3, u64::MAX] {
                assert!(free.next(stamp(sequence)).len() <= longest);
                for bytes in [longest, longest + 1, 2_000] {
                    let mut padded = payload(form, &fields, Some(bytes));
                    assert_eq!(padded.next(stamp(sequence)).len(), bytes);
                    assert_eq!(read(padded.next(stamp(sequence))), Ok(stamp(sequence)));
                }
            }
        }
    }
}

#[test]
fn one_seed_is_one_stream_and_another_is_another() {
    let made = |seed| {
        let mut payload = Payload::template(Form::Json, &every_kind(), None, 12, seed);
        (1..5).map(|sequence| payload.next(stamp(sequence)).to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(made(5), made(5));
    assert_ne!(made(5), made(6));
}

#[test]
fn a_flipped_bit_of_a_template_is_found() {
    for form in [Form::Json, Form::Cbor] {
        for fields in [every_kind(), many()] {
            let mut bytes = payload(form, &fields, Some(900)).next(stamp(3)).to_vec();
            assert_eq!(read(&bytes), Ok(stamp(3)));
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(read(&bytes).is_err(), "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}
