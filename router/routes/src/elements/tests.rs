//! What `ANY` and `ALL` see of an array, and what they may cost.

use model::{Message, Priority, RouteId};

use super::*;
use crate::{Options, RouteSpec, RouteTable, Scratch};

#[track_caller]
fn check(condition: &str, body: &str, expected: Option<bool>) {
    let table =
        RouteTable::of_condition(condition, &Options::default()).unwrap_or_else(|e| panic!("{}", e[0]));
    let truth = table.truth(RouteId(0), &Message::new("t", body.as_bytes()), &mut Scratch::new());
    assert_eq!(truth, expected, "{condition} of {body}");
}

#[test]
fn the_last_of_duplicate_keys_counts_within_an_element_and_around_the_array() {
    check("ANY($body.l[*].x = 1)", r#"{"l":[{"x":1,"x":2}]}"#, Some(false));
    check("ANY($body.l[*].x.y = 1)", r#"{"l":[{"x":{"y":1},"x":{}}]}"#, None);
    check("ANY($body.l[*] = 1)", r#"{"l":[1],"l":[2]}"#, Some(false));
    check("ANY($body.l[*] = 1)", r#"{"l":[1],"l":1}"#, None);
    check("ANY($body.o.l[*] = 1)", r#"{"o":{"l":[1]},"o":{}}"#, None);
}

#[test]
fn what_is_no_array_is_undefined_and_no_elements_are_no_exception() {
    for body in [r#"{"l":5}"#, r#"{"l":{"x":1}}"#, r#"{"l":null}"#, "{}", r#"{"l":[1]"#] {
        check("ANY($body.l[*] = 1)", body, None);
        check("ALL($body.l[*] = 1)", body, None);
    }
    check("ANY($body.l[*] = 1)", r#"{ "l" : [ ] }"#, Some(false));
    check("ALL($body.l[*] = 1)", r#"{ "l" : [ ] }"#, Some(true));
}

#[test]
fn an_element_can_be_of_any_kind_and_spelled_in_any_way() {
    let body =
        "{\"l\" : [ 1 , \"\\u0078\" , [ 7, [8] ] , { \"\\u0061\" : { \"b\" : \"y\\n\" } } , null , true ] }";
    for part in ["[*] = 1", "[*] = 'x'", "[*].a.b = 'y\\u000a'", "[*] = null", "[*]"] {
        check(&format!("ANY($body.l{part})"), body, Some(true));
    }
    check("ANY(upper(concat($body.l[*], $body.l[*], 'é')) = 'XXÉ')", body, Some(true));
    check("ANY(substring($body.l[*].a.b, 0, 1) = 'y' AND $body.l[0] = 1)", body, Some(true));
}

#[test]
fn what_one_element_has_the_next_one_does_not_have() {
    check("ANY($body.l[*].x = 1 AND $body.l[*].y = 2)", r#"{"l":[{"x":1},{"y":2}]}"#, None);
    check("ALL($body.l[*].x = 1)", r#"{"l":[{"x":1},{}]}"#, None);
    check("ALL($body.l[*].x = 1)", r#"{"l":[{"x":1},{},{"x":2}]}"#, Some(false));
}

fn table(routes: usize, bytes_max: u32) -> RouteTable {
    let spec = |at: usize| RouteSpec {
        name: format!("r{at}"),
        text: format!("FROM /* WHERE ANY($body.l[*] = {at}) INTO uplink(\"u{at}\")"),
        priority: Priority::DEFAULT,
        ttl_millis: None,
    };
    let limits = Limits { body_elements_bytes_max: bytes_max, ..Limits::DEFAULT };
    let options = Options { limits, ..Options::default() };
    RouteTable::compile(&(0..routes).map(spec).collect::<Vec<_>>(), &options).unwrap()
}

/// All routes of a message share one allowance; it is new for the next message, and running out is counted.
#[test]
fn many_routes_share_what_they_may_look_at() {
    let (mut scratch, mut matches) = (Scratch::new(), Vec::new());
    // Each element takes two bytes, and every route finds its own after `at + 1` of them.
    let body = b"{\"l\":[0,1,2,3,4,5,6,7]}";
    let table = table(8, 20);
    for round in 1..=3 {
        table.matches(&Message::new("t", body), &mut scratch, &mut matches);
        // 2 + 4 + 6 + 8 bytes are 20; the fifth route gets none.
        assert_eq!(matches.len(), 4);
        assert_eq!(scratch.counters().arrays_given_up, 4 * round);
    }
    table.matches(&Message::new("t", b"{\"l\":[7]}"), &mut scratch, &mut matches);
    assert_eq!(matches.len(), 1);
}

/// However many routes ask for its elements, a body made to be slow is looked at within the allowance: here for 256
/// routes 1 MiB instead of 64.
#[test]
fn a_hostile_array_is_not_walked_for_every_route() {
    let mut body = b"{\"l\":[-1".to_vec();
    body.resize(256 << 10, b' ');
    body.extend(b",-2]}");
    let (mut scratch, mut matches) = (Scratch::new(), Vec::new());
    table(256, 1 << 20).matches(&Message::new("t", &body), &mut scratch, &mut matches);
    assert!(matches.is_empty());
    assert!(scratch.counters().arrays_given_up >= 252, "{:?}", scratch.counters());
}
