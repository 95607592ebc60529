//! edgeHub's truth table (`reference/edgehub.md` §3.9) in both modes, row by row.
//!
//! Each row: its number there, the condition, what edgeHub says, what Millrace mode says. `W` stands for
//! `$body.message.Weather`. Where both answers differ, `router/docs/routes.md` §6 says why.

use model::{Message, Property};

use Outcome::{E, F, T, U};

use crate::table::RouteTable;
use crate::{Mode, Options, Scratch};

/// True, false, undefined, or refused by the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    T,
    F,
    U,
    E,
}

/// A row on which both modes agree.
const fn both(number: u32, condition: &str, outcome: Outcome) -> (u32, &str, Outcome, Outcome) {
    (number, condition, outcome, outcome)
}

/// A row on which they do not.
const fn differ(
    number: u32,
    condition: &str,
    edgehub: Outcome,
    millrace: Outcome,
) -> (u32, &str, Outcome, Outcome) {
    (number, condition, edgehub, millrace)
}

const PROPERTY_ROWS: &[(u32, &str, Outcome, Outcome)] = &[
    both(1, "", U),
    both(2, "3", U),
    both(3, "'a string'", U),
    both(4, "3 = 3", T),
    both(5, "\"3\" = '3'", T),
    both(6, "key2 = \"3\"", T),
    both(7, "KEY1 = \"value1\"", T),
    both(8, "as_number(key2) = 3", T),
    both(9, "as_number(none) = 3", U),
    both(10, "none != \"4\"", U),
    both(11, "is_defined(none = \"4\")", F),
    both(12, "$sys2 = '4'", T),
    both(13, "as_number($sys2) = 4", T),
    both(14, "$sys4 = \"value4\"", T),
    both(15, "{$sys4} = \"sysvalue4\"", T),
    both(16, "{ $sys1 } = \"sysvalue1\"", T),
    both(17, "is_defined($none)", F),
    both(18, "is_defined(null_value)", T),
    both(19, "is_null(null_value)", T),
    both(20, "is_null(none)", F),
    both(21, "is_null(null)", T),
    both(22, "is_string(null_value)", F),
    both(23, "is_string(none)", F),
    both(24, "not (true and false)", T),
    both(25, "true AND not true", F),
    both(26, "undefined or true", T),
    both(27, "undefined or false", U),
    both(28, "false and undefined", F),
    both(29, "true and undefined", U),
    both(30, "undefined < undefined", U),
    both(31, "none = 'true' or true", T),
    both(32, "none = 'true' and false", F),
    both(33, "not (none = 'true')", U),
    both(34, "3 + 4 * 5 = 23", T),
    both(35, "3 - (4 + 0x10) = -17", T),
    // Extension: a bare name where a number is needed is converted.
    differ(36, "is_defined(3 + none)", E, F),
    both(37, "is_defined('a' + 'b')", E),
    // Extension: a bare name where a bool is needed.
    differ(38, "none and true", E, U),
    // Extension: `==`, and `test` is a bare name.
    differ(39, "test == true", E, U),
    // Extension: `&&`.
    differ(40, "(true && key1)", E, U),
    both(41, "(3 % 0 ?? 12.34) = 12.34", T),
    both(42, "(none ?? none ?? \"hello\") = \"hello\"", T),
    both(43, "key1 ?? \"hello\" = \"value1\"", E),
    // Extension: `key1` is converted to a number; it is none.
    differ(44, "(key1 ?? 12.34)", E, U),
    both(45, "undefined ?? undefined", U),
    both(46, "null", F),
    both(47, "not null", T),
    both(48, "(null and true) = null", T),
    both(49, "null or true", T),
    both(50, "null or false", F),
    both(51, "-1 < 0", T),
    both(52, "-(3 + 4) = -7", T),
    both(53, "is_defined(-undefined)", F),
    both(54, "3 / 4 = 0.75", T),
    both(55, "is_defined(3 % 0)", F),
    both(56, "'a' < 'b'", T),
    both(57, "'a' < none", U),
    both(58, "3 > as_number(null_value)", U),
    both(59, "AS_NUMBER('10e1000') = 1/0", T),
    both(60, "as_number(as_number(4)) * 3 = 12", T),
    both(61, "is_number(3 / 0)", F),
    both(62, "is_bool(none)", F),
    both(63, "'a' || null_value || 'd' = 'ad'", T),
    both(64, "is_defined('a' || none || 'd')", F),
    both(65, "concat('a') = 'a'", E),
    both(66, "length('HELLO') = 5", T),
    both(67, "is_defined(length(null_value))", F),
    both(68, "SUBSTRING('abc', 3) = 'c'", F),
    both(69, "substring('abc', 4) = 'c'", U),
    both(70, "substring('abc', -1) = ''", U),
    both(71, "substring('hello', 4, 0) = ''", T),
    both(72, "index_of('abc', 'xz') = -1", T),
    both(73, "index_of(null_value, '1') = 0", U),
    both(74, "starts_with('abc', 'ab')", T),
    both(75, "contains(none, '1')", U),
    both(76, "SQRT(-4) = -2", U),
    both(77, "sign(-3 / 0) = -1", T),
    both(78, "exp(4000) = 3/0", T),
    both(79, "abs(3, 4) = 3", E),
    both(80, "length(12.34) = 5", E),
];

const BODY_ROWS: &[(u32, &str, Outcome, Outcome)] = &[
    both(81, "50 >= W.Temperature", T),
    both(82, "$BODY.message.Weather.Temperature >= 50", T),
    both(83, "W.Temperature = '50'", F),
    both(84, "W.Temperature <> '100'", T),
    both(85, "W.PrevTemperatures[0] + W.PrevTemperatures[1] = 50", T),
    both(86, "W.PrevTemperatures[1] / W.PrevTemperatures[0] = 1.5", T),
    both(87, "W.HistoricalData[0].Month = 'Feb'", T),
    both(88, "W.Location.City = City", T),
    both(89, "W.Location.State = $State", T),
    both(90, "W.IsEnabled", T),
    both(91, "NOT W.IsDisabled", T),
    both(92, "W.IsDisabled OR NOT(W.IsDisabled)", T),
    both(93, "abs(W.FreezingTemperature) = 50.4", T),
    both(94, "power(W.Temperature, length(W.Location.State)) = 2500.0", T),
    both(95, "concat(W.Location.Street, ', ', W.Location.City) = 'One Microsoft Way, Redmond'", T),
    both(96, "substring(W.Location.Street, 4, length('Microsoft')) = 'Microsoft'", T),
    both(97, "W.NullValue = null", T),
    // Missing is undefined, not null.
    differ(98, "W.InvalidProperty = null", T, U),
    both(99, "W.Temperature != null", T),
    differ(100, "W.InvalidKey <> '100'", T, U),
    both(101, "$City <> W.InvalidKey", U),
    both(102, "W.HistoricalData[0].Temperature.InvalidKey", U),
    // A text that looks like a date is a text.
    differ(103, "W.Time <> '100'", U, T),
    both(104, "W <> null", U),
    both(105, "$body", U),
    both(106, "W.Temperature_PropertyConflict = '100'", T),
    both(107, "{W.Temperature_PropertyConflict} <> 100", T),
    both(108, "is_null(W.NullValue)", T),
    both(109, "is_defined(W.Location.Street)", T),
    both(110, "$body.properties[]", E),
    both(110, "$body.properties[1:2]", E),
    both(110, "$body;@", E),
    both(111, "$body.Welcome!['x y'] = 'a'", E),
    both(112, "$body.I'mnotusingspaces%1.es = 'Estoy usando %1'", T),
];

/// Follows from edgeHub's code and is in no test of it; decided here (numbers count on).
const DERIVED_ROWS: &[(u32, &str, Outcome, Outcome)] = &[
    differ(113, "W.InvalidKey > 5", T, U),
    both(114, "is_null(W.InvalidKey)", F),
    differ(115, "is_null(W.Temperature)", T, F),
    differ(116, "true AND W.IsEnabled", E, T),
    differ(117, "-W.Temperature < 0", E, T),
    differ(118, "- W.Temperature < 0", E, T),
    differ(119, "W.Temperature % 7 = 1", E, T),
    differ(120, "is_defined(W.InvalidKey)", T, F),
    differ(121, "W.Location.City > 5", T, U),
    differ(122, "W.Location.City < 5", F, U),
    both(123, "W.IsEnabled AND true", T),
    both(124, "W.IsEnabled = true", T),
    both(125, "true = W.IsEnabled", T),
    both(126, "W.IsEnabled AND W.IsDisabled", F),
    // With a body value in it, edgeHub's AND needs two bools: even false does not decide.
    differ(127, "is_defined(W.IsDisabled AND undefined)", F, T),
    differ(128, "W.IsEnabled OR undefined", U, T),
    differ(129, "W.IsEnabled AND 3", U, E),
    both(130, "NOT W.Temperature", U),
    both(131, "W.NullValue = W.NullValue", T),
    differ(132, "W.NullValue > 5", T, U),
    differ(133, "W.NullValue < 5", F, U),
    both(134, "W.Temperature ?? 3", U),
    both(135, "(W.PrevTemperatures ?? 3) = 3", T),
    differ(136, "(W.InvalidKey ?? 3) = 3", F, T),
    both(137, "NOT W.IsDisabled = true", T),
    both(138, "is_bool(W.IsEnabled)", T),
    both(139, "is_bool(W.PrevTemperatures)", U),
    both(140, "is_number(W.PrevTemperatures)", F),
    differ(141, "W.PrevTemperatures[9] = 3", F, U),
    both(142, "concat(W.NullValue, 'x') = 'x'", U),
    both(143, "W.Temperature AND true", U),
    differ(144, "$body.MESSAGE.Weather.Temperature = 50", F, U),
    both(145, "null = 'x'", E),
    both(146, "3 = undefined", E),
    both(147, "twin_change_includes(tags.x)", E),
    both(148, "NOT City = 'Redmond'", E),
    both(149, "true < false", F),
    both(150, "'a' != 'A'", T),
    // §3.4: precedence and association, on rows where another reading would answer otherwise.
    both(151, "true OR true AND false", T),
    both(152, "(true OR true) AND false", F),
    both(153, "10 - 4 - 3 = 3", T),
    both(154, "8 / 4 / 2 = 1", T),
    both(155, "2 + 3 * 4 = 14", T),
    both(156, "1 < 2 = true", T),
    both(157, "1 - 1 - 1 = -1", T),
    both(158, "false ?? true OR true", F),
    both(159, "NOT true = false", T),
    both(160, "'a' || 'b' = 'ab'", T),
    // §3.4: literals.
    both(161, "0xFFFFFFFFFFFFFFFF = -1", T),
    both(162, "0X10 = 16", T),
    both(163, "0100 = 100", T),
    both(164, "1e400 = 1 / 0", T),
    both(165, "-1e400 = -1 / 0", T),
    both(166, ".5 = 0.5", T),
    both(167, "'\\U0041\\u0042' = 'AB'", T),
];

const fn property(name: &'static str, value: &'static str) -> Property<'static> {
    Property { name, value: Some(value) }
}

const fn without_value(name: &'static str) -> Property<'static> {
    Property { name, value: None }
}

/// Fixture A of the reference.
fn properties_message() -> Message<'static> {
    const PROPERTIES: &[Property<'_>] = &[
        property("key1", "value1"),
        property("key2", "3"),
        property("key3", "VALUE3"),
        without_value("null_value"),
        property("$sys4", "value4"),
    ];
    const SYSTEM: &[Property<'_>] = &[
        property("sys1", "sysvalue1"),
        property("sys2", "4"),
        property("sys3", "SYSVALUE3"),
        without_value("sysnull"),
        property("sys4", "sysvalue4"),
    ];
    Message { properties: PROPERTIES, system: SYSTEM, ..Message::new("t", b"") }
}

const BODY: &str = r#"{"message":{"Weather":{"Temperature":50,"FreezingTemperature":-50.4,
    "Temperature_PropertyConflict":50,"NullValue":null,"Time":"2017-03-09T00:00:00.000Z",
    "PrevTemperatures":[20,30,40],"IsEnabled":true,"IsDisabled":false,
    "Location":{"Street":"One Microsoft Way","City":"Redmond","State":"WA"},
    "HistoricalData":[{"Month":"Feb","Temperature":40},{"Month":"Jan","Temperature":30}]}},
    "I'mnotusingspaces%1":{"es":"Estoy usando %1"}}"#;

/// Fixture B of the reference.
fn body_message() -> Message<'static> {
    const PROPERTIES: &[Property<'_>] = &[
        property("City", "Redmond"),
        property("$State", "WA"),
        property("$body.message.Weather.Temperature_PropertyConflict", "100"),
    ];
    const SYSTEM: &[Property<'_>] = &[
        property("State", "CA"),
        property("contentType", "application/json"),
        property("contentEncoding", "UTF-8"),
    ];
    Message { properties: PROPERTIES, system: SYSTEM, ..Message::new("t", BODY.as_bytes()) }
}

fn outcome(condition: &str, mode: Mode, message: &Message<'_>) -> Outcome {
    let options = Options { mode, ..Options::default() };
    match RouteTable::of_condition(condition, &options) {
        Err(_) => E,
        Ok(table) => match table.truth(model::RouteId(0), message, &mut Scratch::new()) {
            Some(true) => T,
            Some(false) => F,
            None => U,
        },
    }
}

fn check_rows(rows: &[(u32, &str, Outcome, Outcome)], message: &Message<'_>) {
    let mut wrong = Vec::new();
    for (number, condition, edgehub, millrace) in rows {
        let condition = expand(condition);
        for (mode, expected) in [(Mode::EdgeHub, *edgehub), (Mode::Millrace, *millrace)] {
            let found = outcome(&condition, mode, message);
            if found != expected {
                wrong.push(format!("row {number}, {mode:?}: {condition}: {found:?}, expected {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `W` as a word, or in front of a dot, is the path to the weather.
fn expand(condition: &str) -> String {
    const PATH: &str = "$body.message.Weather";
    let expanded = condition.replace("W.", &format!("{PATH}."));
    match expanded.strip_prefix("W ") {
        Some(rest) => format!("{PATH} {rest}"),
        None => expanded,
    }
}

#[test]
fn the_truth_table_of_properties_holds() {
    check_rows(PROPERTY_ROWS, &properties_message());
}

#[test]
fn the_truth_table_of_bodies_holds() {
    check_rows(BODY_ROWS, &body_message());
}

#[test]
fn what_follows_from_edgehubs_code_holds() {
    check_rows(DERIVED_ROWS, &body_message());
}

#[test]
fn no_row_of_the_reference_is_left_out() {
    let mut numbers: Vec<u32> = PROPERTY_ROWS.iter().chain(BODY_ROWS).map(|row| row.0).collect();
    numbers.dedup();
    assert_eq!(numbers, (1..=112).collect::<Vec<u32>>());
}

/// §3.5: edgeHub reads a body only with an exact content type and a known encoding.
#[test]
fn content_type_and_encoding_decide_whether_a_body_is_read() {
    let rows: &[(&str, &str, bool, bool)] = &[
        ("application/json", "utf-8", true, true),
        ("Application/JSON", "UTF-8", true, true),
        ("application/json; charset=utf-8", "utf-8", false, true),
        ("application/json", "", false, true),
        ("", "utf-8", false, true),
        ("application/vnd.site+json", "utf-8", false, true),
        ("text/plain", "utf-8", false, false),
    ];
    for (kind, encoding, edgehub, millrace) in rows {
        let system = [
            Property { name: "contentType", value: Some(kind) },
            Property { name: "contentEncoding", value: Some(encoding) },
        ];
        let message = Message { system: &system, ..Message::new("t", b"{\"a\":1}") };
        let found = [Mode::EdgeHub, Mode::Millrace].map(|mode| outcome("$body.a = 1", mode, &message) == T);
        assert_eq!(found, [*edgehub, *millrace], "{kind} {encoding}");
    }
    assert_eq!(outcome("$body.a = 1", Mode::Millrace, &Message::new("t", b"{\"a\":1}")), T);
}

#[test]
fn utf16_and_utf32_bodies_are_decoded() {
    let text = "{\"a\":\"é😀\"}";
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf32: Vec<u8> = text.chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
    for (encoding, body) in [("utf-16", utf16), ("UTF-32", utf32)] {
        let system = [
            property("contentType", "application/json"),
            Property { name: "contentEncoding", value: Some(encoding) },
        ];
        let message = Message { system: &system, ..Message::new("t", &body) };
        for mode in [Mode::EdgeHub, Mode::Millrace] {
            assert_eq!(outcome("$body.a = 'é😀'", mode, &message), T, "{encoding} {mode:?}");
        }
    }
}
