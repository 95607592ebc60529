//! CBOR and MessagePack, by the examples of their specifications and against random bytes.

use proptest::prelude::*;

use model::{Limits, Message, Property, RouteId};

use super::*;
use crate::reference::Tree;
use crate::table::RouteTable;
use crate::{Options, Scratch};

#[track_caller]
fn check(kind: &str, body: &[u8], condition: &str, expected: Option<bool>) {
    let table =
        RouteTable::of_condition(condition, &Options::default()).unwrap_or_else(|e| panic!("{}", e[0]));
    let system = [Property { name: "contentType", value: Some(kind) }];
    let message = Message { system: &system, ..Message::new("t", body) };
    assert_eq!(table.truth(RouteId(0), &message, &mut Scratch::new()), expected, "{kind} {condition}");
}

/// `{"a": 1, "n": -500, "s": "é", "f": 1.5, "t": true, "z": null, "l": [10, {"x": 2}], "b": h'00'}`
const CBOR: &[u8] = b"\xA8\x61a\x01\x61n\x39\x01\xF3\x61s\x62\xC3\xA9\x61f\xF9\x3E\x00\x61t\xF5\x61z\xF6\
    \x61l\x82\x0A\xA1\x61x\x02\x61b\x41\x00";
const MESSAGE_PACK: &[u8] =
    b"\x88\xA1a\x01\xA1n\xD1\xFE\x0C\xA1s\xA2\xC3\xA9\xA1f\xCA\x3F\xC0\x00\x00\xA1t\xC3\xA1z\xC0\
    \xA1l\x92\x0A\x81\xA1x\x02\xA1b\xC4\x01\x00";

#[test]
fn both_formats_fill_the_same_slots() {
    for (kind, body) in [
        ("application/cbor", CBOR),
        ("application/senml+cbor", CBOR),
        ("application/msgpack", MESSAGE_PACK),
        ("application/vnd.msgpack", MESSAGE_PACK),
        ("application/x-msgpack; v=5", MESSAGE_PACK),
    ] {
        check(kind, body, "$body.a = 1 AND $body.n = -500 AND $body.f = 1.5", Some(true));
        check(kind, body, "$body.s = 'é' AND $body.t AND $body.z = null", Some(true));
        check(kind, body, "$body.l[0] = 10 AND $body.l[1].x = 2", Some(true));
        check(kind, body, "is_defined($body.b) OR is_defined($body.l) OR is_defined($body.q)", Some(false));
    }
}

#[test]
fn any_and_all_walk_binary_arrays_from_where_they_start() {
    for (kind, body) in [("application/cbor", CBOR), ("application/msgpack", MESSAGE_PACK)] {
        check(kind, body, "ANY($body.l[*] = 10) AND ANY($body.l[*].x = 2)", Some(true));
        check(kind, body, "ALL($body.l[*] = 10)", None);
        check(kind, body, "ALL($body.l[*] = 11)", Some(false));
        check(kind, body, "ANY($body.l[*].x = 3)", None);
        check(kind, body, "ANY($body.a[*] = 1)", None);
        check(kind, body, "ANY($body.none[*] = 1)", None);
    }
    let open_ended = b"\xA1\x61l\x9F\xA1\x61x\x01\xBF\x61x\x62\xC3\xA9\xFF\xC1\x9F\xFF\xFF";
    check("application/cbor", open_ended, "ANY($body.l[*].x = 'é')", Some(true));
    check("application/cbor", open_ended, "ANY($body.l[*].x = 'e')", None);
    check("application/cbor", b"\xA1\x61l\x9F\xFF", "ALL($body.l[*] = 1)", Some(true));
}

#[test]
fn indefinite_lengths_and_tags_are_understood() {
    check(
        "application/cbor",
        b"\xBF\x61a\x9F\x01\x02\xFF\x61b\xC1\x18\x64\xFF",
        "$body.a[1] = 2 AND $body.b = 100",
        Some(true),
    );
    check("application/cbor", b"\xA1\x61a\x7F\x61x\x61y\xFF", "is_defined($body.a)", Some(false));
}

#[test]
fn a_broken_body_is_undefined() {
    for body in [
        &b"\xA1\x61a"[..],
        b"\xA1\x61a\x01\x00",
        b"\x01",
        b"\xBB\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
        b"",
        b"\xA1\x61a\xFF",
    ] {
        check("application/cbor", body, "$body.a = 1", None);
    }
    check("application/msgpack", b"\x81\xA1a", "$body.a = 1", None);
    let deep = [b"\xA1\x61a".to_vec(), vec![0x81; 100], vec![0x00]].concat();
    check("application/cbor", &deep, "$body.a = 1", None);
}

fn text_header(out: &mut Vec<u8>, cbor: bool, length: usize) {
    match cbor {
        true => out.extend([0x78, length as u8]),
        false => out.extend([0xD9, length as u8]),
    }
}

/// A document in one of the formats; texts are shorter than 256 bytes, arrays and objects than 16 elements.
fn encode(tree: &Tree, cbor: bool, out: &mut Vec<u8>) {
    match tree {
        Tree::Null => out.push(if cbor { 0xF6 } else { 0xC0 }),
        Tree::Bool(value) => out.push(if cbor { 0xF4 } else { 0xC2 } + u8::from(*value)),
        Tree::Number(number) => {
            out.push(if cbor { 0xFB } else { 0xCB });
            out.extend(number.to_be_bytes());
        }
        Tree::Text(text) => {
            text_header(out, cbor, text.len());
            out.extend(text.as_bytes());
        }
        Tree::Array(items) => {
            out.push(if cbor { 0x80 } else { 0x90 } + items.len() as u8);
            items.iter().for_each(|item| encode(item, cbor, out));
        }
        Tree::Object(members) => {
            out.push(if cbor { 0xA0 } else { 0x80 } + members.len() as u8);
            for (key, value) in members {
                text_header(out, cbor, key.len());
                out.extend(key.as_bytes());
                encode(value, cbor, out);
            }
        }
    }
}

fn tree() -> BoxedStrategy<Tree> {
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Tree::Bool),
        prop::sample::select(vec![0.0, 1.0, -2.5, 1e300]).prop_map(Tree::Number),
        prop::sample::select(vec!["", "x", "é\"\n"]).prop_map(|text| Tree::Text(text.to_owned())),
    ];
    let key = || prop::sample::select(vec!["a", "b", "c", "é"]).prop_map(str::to_owned);
    leaf.prop_recursive(3, 20, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Tree::Array),
            prop::collection::vec((key(), inner), 0..4).prop_map(Tree::Object),
        ]
    })
    .boxed()
}

/// Bodies of 256 KiB made to hurt: lengths that lie, arrays without end, nests. They are read to their end, or refused.
#[test]
fn adversarial_bodies_are_read_or_refused() {
    const SIZE: usize = 256 << 10;
    let long = |head: &[u8], item: &[u8], tail: &[u8]| [head, &item.repeat(SIZE / item.len()), tail].concat();
    let cbor = "application/cbor";
    for (kind, body, expected) in [
        (cbor, long(b"\xA2\x61l\x9F", b"\x07", b"\xFF\x61a\x01"), Some(true)),
        (cbor, long(b"\xA2\x61l\x9A\x00\x04\x00\x00", b"\x07", b"\x61a\x01"), Some(true)),
        (cbor, long(b"\xA2\x61l\x9F", b"\xA1\x61x\x62yz", b"\xFF\x61a\x01"), Some(true)),
        (cbor, long(b"\xBF", b"\x61a\x02", b"\x61a\x01\xFF"), Some(true)),
        (cbor, long(b"\xA1\x61l", b"\x81", b""), None),
        (cbor, long(b"\xA1\x61l", b"\xC1", b"\x01"), None),
        (cbor, long(b"\xA1\x61l\x9B\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", b"\x07", b""), None),
        (cbor, long(b"\xA1\x61l\x7F", b"\x61x", b""), None),
        ("application/msgpack", long(b"\x82\xA1l\xDD\x00\x04\x00\x00", b"\x07", b"\xA1a\x01"), Some(true)),
        ("application/msgpack", long(b"\x81\xA1l", b"\x91", b""), None),
        ("application/msgpack", long(b"\x81\xA1l\xDD\xFF\xFF\xFF\xFF", b"\x07", b""), None),
    ] {
        check(kind, &body, "$body.a = 1", expected);
        check(kind, &body, "$body.a = 1 OR ANY($body.l[*] = 'none')", expected);
    }
}

/// The tree as JSON.
fn json(tree: &Tree) -> String {
    match tree {
        Tree::Null => "null".into(),
        Tree::Bool(value) => value.to_string(),
        Tree::Number(number) => number.to_string(),
        Tree::Text(text) => serde_json::to_string(text).unwrap(),
        Tree::Array(items) => format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(",")),
        Tree::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(k, v)| format!("{}:{}", serde_json::to_string(k).unwrap(), json(v)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
    }
}

proptest! {
    /// The same document gives the same answers in all three formats, duplicate keys included.
    #[test]
    fn all_formats_say_the_same(members in prop::collection::vec((prop::sample::select(vec!["a", "b"]), tree()), 0..4)) {
        let document = Tree::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
        let (mut cbor, mut message_pack) = (Vec::new(), Vec::new());
        encode(&document, true, &mut cbor);
        encode(&document, false, &mut message_pack);
        let text = json(&document);
        let bodies = [("application/json", text.as_bytes()), ("application/cbor", &cbor), ("application/msgpack", &message_pack)];
        for condition in ["$body.a = 1", "$body.a.b != 'x'", "is_null($body.a[0])", "$body.b[1].a", "is_defined($body.a.é)", "$body.a < 2", "$body.b.b = 'é\"\n'", "ANY($body.a[*] = 1)", "ALL($body.b[*].a != 'x')", "ANY(concat($body.a[*].a, $body.a[*].b[0], 'é') = 'xxé' OR $body.a[*].b.c)", "ALL(is_null($body.a.b[*]) OR $body.a.b[*] >= 'é\"\n')"] {
            let condition = condition.replace('\n', "\\u000a");
            let table = RouteTable::of_condition(&condition, &Options::default()).unwrap_or_else(|e| panic!("{}", e[0]));
            let found = bodies.map(|(kind, body)| {
                let system = [Property { name: "contentType", value: Some(kind) }];
                table.truth(RouteId(0), &Message { system: &system, ..Message::new("t", body) }, &mut Scratch::new())
            });
            prop_assert!(found[0] == found[1] && found[1] == found[2], "{} {} {:?}", condition, text, found);
        }
    }

    #[test]
    fn random_bytes_never_panic_and_stay_within_bounds(
        body in prop::collection::vec(prop_oneof![any::<u8>(), 0x60..0x64u8, 0x80..0xC0u8], 0..200),
        message_pack: bool,
    ) {
        let encoding = if message_pack { Encoding::MessagePack } else { Encoding::Cbor };
        let (mut opened, mut filled) = (Vec::new(), Filled::default());
        let depth = Limits::DEFAULT.body_depth_max;
        // Only that it comes back counts here.
        let found = scan(&body, encoding, &Paths::default(), depth, &mut opened, &mut filled);
        prop_assert!(found.is_ok() || found.is_err());
        prop_assert!(opened.capacity() <= 256);
    }
}
