//! Random tables and messages: the table and the naive evaluator agree, in both modes.

use proptest::collection::vec;
use proptest::prelude::*;

use model::{Priority, Property};

use super::*;
use crate::parser;
use crate::syntax::Source;
use crate::{Options, RouteSpec, RouteTable, Scratch};

// ---- conditions ----

fn pick(words: &'static [&'static str]) -> impl Strategy<Value = String> + Clone {
    prop::sample::select(words).prop_map(str::to_owned)
}

fn number() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        4 => pick(&["0", "1", "-1", "2.5", "50", "1e3", "0x10", "1e400"]),
        4 => pick(&["$body.a", "$body.b", "$body.o.x", "$body.l[0]", "$body.l[1].x", "{$body.a}", "$qos"]),
        3 => pick(&["a", "b", "o.x", "-a", "-$body.a"]),
        1 => pick(&["as_number(a)", "as_number($sys)", "as_number('1,0')", "length(s)", "index_of(s, 'x')"]),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), pick(&["+", "-", "*", "/", "%"]), inner.clone())
                .prop_map(|(l, op, r)| format!("({l} {op} {r})")),
            (pick(&["abs", "sign", "sqrt", "floor", "ceiling", "square", "exp"]), inner.clone())
                .prop_map(|(f, x)| format!("{f}({x})")),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("({l} ?? {r})")),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("power({l}, {r})")),
            inner.prop_map(|x| format!("- {x}")),
        ]
    })
    .boxed()
}

fn text() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        4 => pick(&["'x'", "'1'", "\"true\"", "''", "'é😀'", "'2017-03-09T00:00:00Z'"]),
        4 => pick(&["a", "s", "S", "$s", "{$s}", "$sys", "nothing"]),
        3 => pick(&["$body.s", "$body.o.y", "$body.a", "$body.l[1]"]),
        2 => pick(&["$topic", "$topic[0]", "$topic[2]", "$clientId", "$user"]),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("({l} || {r})")),
            (pick(&["lower", "upper"]), inner.clone()).prop_map(|(f, x)| format!("{f}({x})")),
            (inner.clone(), number()).prop_map(|(x, n)| format!("substring({x}, {n})")),
            (inner.clone(), number(), number()).prop_map(|(x, n, m)| format!("substring({x}, {n}, {m})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(x, y, z)| format!("concat({x}, {y}, {z})")),
            (inner.clone(), inner).prop_map(|(l, r)| format!("({l} ?? {r})")),
        ]
    })
    .boxed()
}

fn any_value() -> BoxedStrategy<String> {
    prop_oneof![4 => number(), 4 => text(), 1 => pick(&["null", "undefined", "true", "false", "$body.t"])]
        .boxed()
}

fn comparison() -> BoxedStrategy<String> {
    let op = || pick(&["=", "!=", "<>", "<", "<=", ">", ">="]);
    prop_oneof![
        6 => (number(), op(), number()).prop_map(|(l, op, r)| format!("{l} {op} {r}")),
        6 => (text(), op(), text()).prop_map(|(l, op, r)| format!("{l} {op} {r}")),
        2 => (any_value(), op(), any_value()).prop_map(|(l, op, r)| format!("{l} {op} {r}")),
        2 => (number(), number(), number()).prop_map(|(x, l, h)| format!("{x} BETWEEN {l} AND {h}")),
        2 => (number(), vec(number(), 1..4)).prop_map(|(x, set)| format!("{x} IN ({})", set.join(", "))),
        2 => (text(), vec(text(), 1..4)).prop_map(|(x, set)| format!("{x} NOT IN ({})", set.join(", "))),
        2 => (any_value(), vec(any_value(), 1..4))
            .prop_map(|(x, set)| format!("{x} NOT IN ({})", set.join(", "))),
        2 => (text(), pick(&["'x%'", "'%1'", "'_'", "'%é%'", "'a\\\\%b'"])).prop_map(|(x, p)| format!("{x} LIKE {p}")),
        2 => (pick(&["starts_with", "ends_with", "contains"]), text(), text())
            .prop_map(|(f, x, y)| format!("{f}({x}, {y})")),
        2 => (pick(&["is_defined", "is_null", "is_bool", "is_number", "is_string"]), any_value())
            .prop_map(|(f, x)| format!("{f}({x})")),
        2 => pick(&[
            "ANY($body.l[*] > 1)",
            "ALL($body.l[*] = 'x' OR $body.l[*].x < 50)",
            "ANY($body.o.l[*].y = lower(s) AND is_defined($body.l))",
            "ANY(concat($body.l[*], 'é') = 'xé' OR concat($body.l[*], $body.l[*].s) LIKE '%y')",
            "ALL(is_number($body.l[*]))",
            "ANY($body.l[*])",
            "s GLOB 'x*'",
        ]),
        3 => pick(&["true", "false", "undefined", "null", "$body.t", "t", "!t", "!$body.t", "$retain"]),
    ]
    .boxed()
}

fn condition() -> BoxedStrategy<String> {
    comparison()
        .prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                3 => vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" AND "))),
                3 => vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" OR "))),
                2 => inner.clone().prop_map(|x| format!("NOT ({x})")),
                1 => inner.prop_map(|x| format!("!({x})")),
            ]
        })
        .boxed()
}

/// Conditions of what edgeHub knows, mostly of types that fit, so that few are refused.
fn edgehub_condition() -> BoxedStrategy<String> {
    let leaf = pick(&[
        "0",
        "1",
        "-1",
        "2.5",
        "50",
        "0x10",
        "1e400",
        "$body.a",
        "$body.b",
        "$BODY.o.x",
        "$body.l[0]",
        "$body.none",
        "{$body.a}",
        "as_number(a)",
        "as_number($sys)",
        "as_number($body.s)",
        "length(s)",
        "index_of($body.s, 'x')",
    ]);
    let number = leaf.prop_recursive(2, 6, 2, |inner| {
        let op = pick(&["+", "-", "*", "/"]);
        prop_oneof![
            (inner.clone(), op, inner.clone()).prop_map(|(l, op, r)| format!("({l} {op} {r})")),
            (pick(&["abs", "sign", "sqrt", "as_number"]), inner.clone())
                .prop_map(|(f, x)| format!("{f}({x})")),
            (inner.clone(), inner).prop_map(|(l, r)| format!("({l} ?? {r})")),
        ]
    });
    let number = || number.clone().boxed();
    let leaf = pick(&[
        "'x'",
        "'1'",
        "''",
        "'é😀'",
        "a",
        "s",
        "S",
        "$s",
        "{$s}",
        "$sys",
        "none",
        "$topic",
        "$body.s",
        "$body.o.y",
        "$body.none",
        "$body.t",
    ]);
    let text = leaf.prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("({l} || {r})")),
            (pick(&["lower", "upper"]), inner.clone()).prop_map(|(f, x)| format!("{f}({x})")),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("({l} ?? {r})")),
            inner.prop_map(|x| format!("substring({x}, 1)")),
        ]
    });
    let text = || text.clone().boxed();
    let op = || pick(&["=", "!=", "<>", "<", "<=", ">", ">="]);
    let any = || prop_oneof![number(), text(), pick(&["null", "undefined", "true", "$body.t", "$body.none"])];
    let body = || pick(&["$body.a", "$body.s", "$body.t", "$body.o", "$body.none", "{$body.l}"]);
    let leaf = prop_oneof![
        4 => (number(), op(), number()).prop_map(|(l, op, r)| format!("{l} {op} {r}")),
        4 => (text(), op(), text()).prop_map(|(l, op, r)| format!("{l} {op} {r}")),
        3 => (body(), op(), any()).prop_map(|(l, op, r)| format!("{l} {op} {r}")),
        2 => (pick(&["is_defined", "is_null", "is_bool", "is_number", "is_string"]), any())
            .prop_map(|(f, x)| format!("{f}({x})")),
        2 => (pick(&["starts_with", "ends_with", "contains"]), text(), text())
            .prop_map(|(f, x, y)| format!("{f}({x}, {y})")),
        3 => pick(&["true", "false", "undefined", "null", "$body.t", "$body.a", "NOT $body.t", "not null"]),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            3 => vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" AND "))),
            3 => vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" OR "))),
            2 => inner.prop_map(|x| format!("NOT ({x})")),
        ]
    })
    .boxed()
}

/// The same without bodies, and without what names a field of MQTT in `millrace` mode (`router/docs/routes.md` §6).
fn property_condition() -> BoxedStrategy<String> {
    const INSTEAD: [(&str, &str); 13] = [
        ("{$body.a}", "as_number(a)"),
        ("{$body.l}", "s"),
        ("$BODY.o.x", "as_number(a)"),
        ("$body.o.y", "s"),
        ("$body.l[0]", "2.5"),
        ("$body.none", "none"),
        ("$body.a", "as_number(a)"),
        ("$body.b", "as_number($sys)"),
        ("$body.s", "s"),
        ("NOT $body.t", "NOT (s = 'x')"),
        ("$body.t", "t"),
        ("$body.o", "a"),
        ("$topic", "$s"),
    ];
    edgehub_condition()
        .prop_map(|text| INSTEAD.iter().fold(text, |text, (body, other)| text.replace(body, other)))
        .boxed()
}

/// Conditions that the index takes apart: flat, with constants.
fn indexable() -> BoxedStrategy<String> {
    let value = || pick(&["$body.a", "$body.b", "$body.o.x", "$body.l[0]", "a", "b", "$qos"]);
    let constant = || pick(&["0", "1", "2", "2.5", "50", "-1"]);
    let word = || pick(&["'x'", "'1'", "'xy'", "'é😀'", "'t'", "'t/u'"]);
    let named = || pick(&["s", "$sys", "$body.s", "$body.o.y", "$topic", "$s", "{$s}"]);
    let part = prop_oneof![
        (value(), pick(&["=", "<", "<=", ">", ">=", "!="]), constant())
            .prop_map(|(l, op, r)| format!("{l} {op} {r}")),
        (constant(), pick(&["=", "<", "<=", ">", ">="]), value())
            .prop_map(|(l, op, r)| format!("{l} {op} {r}")),
        (named(), pick(&["=", "!=", "<"]), word()).prop_map(|(l, op, r)| format!("{l} {op} {r}")),
        (value(), constant(), constant()).prop_map(|(x, l, h)| format!("{x} BETWEEN {l} AND {h}")),
        (value(), constant(), constant()).prop_map(|(x, l, h)| format!("{x} > {l} AND {x} <= {h}")),
        (named(), vec(word(), 1..4)).prop_map(|(x, set)| format!("{x} IN ({})", set.join(", "))),
        (named(), word()).prop_map(|(x, w)| format!("starts_with({x}, {w})")),
        named().prop_map(|x| format!("{x} LIKE 'x%'")),
        pick(&["$body.t", "NOT $body.t", "t", "NOT t", "$retain", "$body.a = null", "$body.t = true"]),
    ];
    let parts = vec(part, 1..4);
    prop_oneof![
        parts.clone().prop_map(|parts| parts.join(" AND ")),
        parts.clone().prop_map(|parts| parts.join(" OR ")),
        (parts.clone(), parts).prop_map(|(l, r)| format!("({}) OR ({})", l.join(" AND "), r.join(" AND "))),
    ]
    .boxed()
}

fn value() -> impl Strategy<Value = String> + Clone {
    pick(&["0", "1", "2", "2.5", "3", "50", "\"1\"", "null", "true"])
}

fn logical() -> impl Strategy<Value = String> {
    pick(&["true", "false", "null", "1"])
}

fn bounds() -> BoxedStrategy<String> {
    let value = pick(&["$body.a", "$body.b", "$body.o.x"]);
    let constant = pick(&["0", "1", "2", "2.5", "3", "50"]);
    let bound =
        (value, pick(&["<", "<=", ">", ">="]), constant).prop_map(|(v, op, c)| format!("{v} {op} {c}"));
    let logic = pick(&[
        "($body.t OR undefined)",
        "($body.t AND undefined)",
        "NOT ($body.t AND (none = 'x'))",
        "($body.t OR $body.a)",
        "($body.t OR $body.a = 1)",
    ]);
    prop_oneof![
        6 => vec(bound.clone(), 2..4).prop_map(|parts| parts.join(" AND ")),
        1 => (bound, logic).prop_map(|(bound, logic)| format!("{bound} AND {logic}")),
    ]
    .boxed()
}

// ---- messages ----

fn json() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        4 => pick(&["0", "1", "-1", "2.5", "50", "1e3", "1e400", "-0", "12345678901234567890123"]),
        3 => pick(&["\"x\"", "\"1\"", "\"xy\"", "\"\"", "\"\\u00e9\\ud83d\\ude00\"", "\"\\ud83d\"", "\"2017-03-09T00:00:00Z\""]),
        2 => pick(&["true", "false", "null", "\"true\""]),
        1 => pick(&["01", "tru", "\"\\x\"", "1.", "-", "\"\u{1}\"", "[1,]", "{\"a\"}"]),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let key = pick(&["a", "b", "o", "x", "y", "l", "s", "t", "\\u0061", "é", "zz"]);
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            vec((key, inner), 0..6).prop_map(|members| {
                let members: Vec<String> = members.iter().map(|(k, v)| format!("\"{k}\" :{v}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
    .boxed()
}

/// Such a value inside of so many arrays or objects: around what is read at most, and beyond.
fn buried() -> BoxedStrategy<String> {
    let depth = Limits::DEFAULT.body_depth_max as usize;
    (json(), depth - 6..depth + 6, any::<bool>())
        .prop_map(|(inner, levels, arrays)| match arrays {
            true => format!("{}{inner}{}", "[".repeat(levels), "]".repeat(levels)),
            false => format!("{}{inner}{}", "{\"a\":".repeat(levels), "}".repeat(levels)),
        })
        .boxed()
}

fn body() -> BoxedStrategy<Vec<u8>> {
    let object = vec((pick(&["a", "b", "o", "l", "s", "t", "\\u0061"]), json()), 0..8).prop_map(|members| {
        let members: Vec<String> = members.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
        format!("{{{}}}", members.join(", "))
    });
    let object = object.boxed();
    prop_oneof![
        12 => object.clone().prop_map(String::into_bytes),
        2 => json().prop_map(String::into_bytes),
        1 => (object.clone(), any::<prop::sample::Index>()).prop_map(|(text, at)| {
            let bytes = text.into_bytes();
            let cut = at.index(bytes.len());
            bytes[..cut].to_vec()
        }),
        1 => (buried(), json()).prop_map(|(deep, b)| format!("{{\"a\":1, \"o\":{deep}, \"b\":{b}}}").into_bytes()),
        1 => (object, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(text, at, byte)| {
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
        1 => vec(any::<u8>(), 0..20),
    ]
    .boxed()
}

#[derive(Clone, Debug)]
struct Sent {
    topic: String,
    body: Vec<u8>,
    properties: Vec<(String, Option<String>)>,
    system: Vec<(String, Option<String>)>,
    retain: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let value = || prop::option::weighted(0.9, pick(&["x", "1", "xy", "true", "FALSE", "50", "abc", "é😀"]));
    let properties = vec((pick(&["a", "A", "b", "s", "t", "o.x", "$s", "$body.a"]), value()), 0..4);
    let system = vec((pick(&["s", "sys", "a"]), value()), 0..3);
    let json = prop::bool::weighted(0.9);
    (pick(&["t", "t/u", "$t/u", "t/u/v"]), body(), properties, system, json, any::<bool>()).prop_map(
        |(topic, body, properties, mut system, json, retain)| {
            if json {
                system.push(("contentType".into(), Some("application/json".into())));
                system.push(("contentEncoding".into(), Some("utf-8".into())));
            }
            Sent { topic, body, properties, system, retain }
        },
    )
}

/// Two properties differ only in case: edgeHub drops such a message (`router/docs/routes.md` §6).
fn names_twice(sent: &Sent) -> bool {
    let name = |at: usize| sent.properties[at].0.to_lowercase();
    (0..sent.properties.len()).any(|at| (0..at).any(|before| name(before) == name(at)))
}

fn borrowed(properties: &[(String, Option<String>)]) -> Vec<Property<'_>> {
    properties.iter().map(|(name, value)| Property { name, value: value.as_deref() }).collect()
}

/// Calls `with` with the message.
fn as_message<R>(sent: &Sent, with: impl FnOnce(&Message<'_>) -> R) -> R {
    let (properties, system) = (borrowed(&sent.properties), borrowed(&sent.system));
    with(&Message {
        properties: &properties,
        system: &system,
        retain: sent.retain,
        client_id: "c1",
        user: if sent.retain { "u" } else { "" },
        ..Message::new(&sent.topic, &sent.body)
    })
}

// ---- properties ----

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Millrace), Just(Mode::EdgeHub)]
}

fn source() -> impl Strategy<Value = String> {
    pick(&["/*", "/messages/*", "/messages/modules/m", "/foo", "\"t/#\"", "\"+/u\"", "\"t/u\"", "\"#\""])
}

fn source_fits(source: &Source, message: &Message<'_>) -> bool {
    match source {
        Source::Filter(filter) => model::filter_matches(filter, message.topic),
        Source::Path(path) => {
            let path = format!("{}/", path.trim_end_matches('*').trim_end_matches('/'));
            message.source.to_lowercase().starts_with(&path.to_lowercase())
        }
    }
}

/// What the table should say: per sink the most urgent matching route, the first among equals.
fn expected(specs: &[RouteSpec], mode: Mode, message: &Message<'_>) -> Vec<(String, usize)> {
    let mut best: Vec<(String, usize)> = Vec::new();
    let name = |property: &Property<'_>| property.name.to_lowercase();
    let twice = message
        .properties
        .iter()
        .enumerate()
        .any(|(at, property)| message.properties[..at].iter().any(|other| name(other) == name(property)));
    if mode == Mode::EdgeHub && twice {
        return best;
    }
    for (at, spec) in specs.iter().enumerate() {
        let route = parser::parse(&spec.text, mode, &Limits::DEFAULT).unwrap();
        let holds = evaluate(&route.condition, mode, message).unwrap() == Some(true);
        if !holds || !source_fits(&route.source, message) {
            continue;
        }
        for sink in &route.sinks {
            let sink = format!("{sink:?}");
            match best.iter_mut().find(|(known, _)| *known == sink) {
                Some((_, other)) if specs[*other].priority > spec.priority => *other = at,
                Some(_) => {}
                None => best.push((sink, at)),
            }
        }
    }
    best
}

fn agree(texts: &[(String, i64)], mode: Mode, messages: &[Sent]) -> Result<(), TestCaseError> {
    // Only what is legal for the oracle goes into the table; that the table agrees on it is part of the test.
    let mut specs = Vec::new();
    let probe = Message::new("t", b"");
    for (at, (text, priority)) in texts.iter().enumerate() {
        let priority = Priority::new(*priority).unwrap_or_default();
        let spec =
            RouteSpec { name: at.to_string(), text: text.clone(), priority, ttl_millis: Some(at as u64) };
        let options = Options { mode, ..Options::default() };
        let compiles = RouteTable::compile(std::slice::from_ref(&spec), &options);
        let legal = parser::parse(text, mode, &Limits::DEFAULT)
            .is_ok_and(|route| evaluate(&route.condition, mode, &probe).is_ok());
        prop_assert_eq!(compiles.is_ok(), legal, "{} {:?}", text, compiles.err());
        if legal {
            specs.push(spec);
        }
    }
    let table = RouteTable::compile(&specs, &Options { mode, ..Options::default() }).unwrap();
    let (mut scratch, mut matches) = (Scratch::new(), Vec::new());
    for sent in messages {
        let wrong = as_message(sent, |message| {
            table.matches(message, &mut scratch, &mut matches);
            let mut expected = expected(&specs, mode, message);
            let mut found: Vec<(String, usize)> = matches
                .iter()
                .map(|found| {
                    let route = &specs[found.route.0 as usize];
                    assert_eq!((found.priority, found.ttl_millis), (route.priority, route.ttl_millis));
                    (format!("{:?}", table.sinks()[found.sink.0 as usize]), found.route.0 as usize)
                })
                .collect();
            assert!(matches.is_sorted_by_key(|found| found.sink));
            expected.sort();
            found.sort();
            (found != expected).then(|| (found, expected, String::from_utf8_lossy(message.body).into_owned()))
        });
        prop_assert!(wrong.is_none(), "{mode:?} {specs:#?} {sent:?} {wrong:?}");
    }
    Ok(())
}

fn sink() -> impl Strategy<Value = String> {
    pick(&[
        "$upstream",
        "BrokeredEndpoint(\"/modules/m/inputs/i\")",
        "BrokeredEndpoint(\"/modules/n/inputs/i\")",
    ])
}

fn route(condition: BoxedStrategy<String>) -> impl Strategy<Value = (String, i64)> {
    (source(), condition, sink(), -1..4i64).prop_map(|(source, condition, sink, priority)| {
        (format!("FROM {source} WHERE {condition} INTO {sink}"), priority)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_table_says_what_the_naive_evaluator_says(
        routes in vec(route(condition()), 1..6),
        mode in mode(),
        messages in vec(sent(), 1..6),
    ) {
        agree(&routes, mode, &messages)?;
    }

    #[test]
    fn the_index_finds_what_the_naive_evaluator_finds(
        routes in vec(route(indexable()), 1..60),
        mode in mode(),
        messages in vec(sent(), 1..8),
    ) {
        agree(&routes, mode, &messages)?;
    }

    #[test]
    fn edgehubs_own_language_means_the_same_in_each_mode_as_to_the_naive_evaluator(
        routes in vec(route(edgehub_condition()), 1..6),
        mode in mode(),
        messages in vec(sent(), 1..6),
    ) {
        agree(&routes, mode, &messages)?;
    }

    /// No route that edgeHub takes changes its meaning by the extensions.
    #[test]
    fn edgehubs_own_language_means_the_same_in_both_modes_where_no_body_is_read(
        condition in property_condition(),
        messages in vec(sent(), 1..6),
    ) {
        let compile = |mode| RouteTable::of_condition(&condition, &Options { mode, ..Options::default() });
        let legal = compile(Mode::EdgeHub);
        prop_assume!(legal.is_ok());
        let tables = [legal, compile(Mode::Millrace)].map(|table| table.map_err(|errors| errors[0].to_string()));
        prop_assert!(tables[1].is_ok(), "{}: {:?}", condition, tables[1].as_ref().err());
        let tables = tables.map(Result::unwrap);
        for sent in messages.iter().filter(|sent| !names_twice(sent)) {
            let truth = tables.each_ref().map(|table| {
                as_message(sent, |message| table.truth(model::RouteId(0), message, &mut Scratch::new()))
            });
            prop_assert_eq!(truth[0], truth[1], "{} of {:?}", condition, sent);
        }
    }

    /// Many routes of one source that bound several values, and values that often lie on a bound.
    #[test]
    fn bounds_of_several_values_hold_together(
        conditions in vec(bounds(), 2..80),
        bodies in vec((value(), value(), value(), logical()), 1..12),
        mode in mode(),
    ) {
        let sinks = (0..7).cycle().map(|at| format!("BrokeredEndpoint(\"/modules/m/inputs/i{at}\")"));
        let routes: Vec<(String, i64)> = conditions
            .iter()
            .zip(sinks)
            .map(|(condition, sink)| (format!("FROM /* WHERE {condition} INTO {sink}"), -1))
            .collect();
        let json = |name: &str| (name.to_owned(), Some("application/json".to_owned()));
        let messages: Vec<Sent> = bodies
            .iter()
            .map(|(a, b, x, t)| Sent {
                topic: "t".into(),
                body: format!("{{\"a\":{a},\"b\":{b},\"o\":{{\"x\":{x}}},\"t\":{t}}}").into_bytes(),
                properties: Vec::new(),
                system: vec![json("contentType"), ("contentEncoding".into(), Some("utf-8".into()))],
                retain: false,
            })
            .collect();
        agree(&routes, mode, &messages)?;
    }

    /// The naive parser itself is held against a foreign one.
    #[test]
    fn the_naive_json_parser_accepts_what_serde_json_accepts(body in body()) {
        if let Ok(text) = std::str::from_utf8(&body) {
            let foreign = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
            prop_assert_eq!(parse_json(text, 200).is_some(), foreign, "{}", text);
        }
    }
}

/// More with `MILLRACE_PROPTEST_CASES=100000`.
fn cases() -> u32 {
    std::env::var("MILLRACE_PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}
