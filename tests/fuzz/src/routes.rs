//! Target `routes`: a table against the naive evaluator, in both modes.
//!
//! In: choices that become one to six routes (from a grammar, or as raw text), one message and its body (a document
//! made by choices, or the rest of the input as it is, under several content types).
//! Held against each input: nothing panics; what the naive evaluator refuses does not compile, and the other way round;
//! a table finds what the naive evaluator finds, each sink once, the most urgent route; asking again says the same; one
//! document says the same as JSON in several spellings, UTF-16, CBOR and MessagePack; a selection gives JSON.
#![no_main]

use fuzz::{Choices, write_seeds};
use model::{Match, Message, Priority, Property, Qos, RouteId};
use routes::{Mode, Options, RouteSpec, RouteTable, Scratch, oracle};

libfuzzer_sys::fuzz_target!(init: write_seeds(seeds), |data: &[u8]| {
    let mut choices = Choices::new(data);
    let mode = choices.pick(&[Mode::Millrace, Mode::EdgeHub]);
    let specs = specs(&mut choices, mode);
    let table = RouteTable::compile(&specs, &Options { mode, ..Options::default() });
    // Each route compiled alone. Together they can only become too many, and six are not.
    let table = table.unwrap_or_else(|errors| panic!("{mode:?} {specs:#?} {errors:?}"));
    let sent = Sent::new(&mut choices);
    let way = choices.below(8);
    if way < 4 {
        let json = way < 3;
        let kind = if json { choices.pick(JSON_KINDS) } else { choices.pick(OTHER_KINDS) };
        let body = choices.take_rest();
        let matches = sent.with(kind, body, |message| ask(&table, message));
        if json && kind.1 != Some("utf-16") {
            sent.with(kind, body, |message| compare(&table, &specs, mode, message, &matches));
        }
        sent.with(kind, body, |message| project(&table, message));
    } else {
        let document = Tree::new(&mut choices, 4);
        one_document(&table, &specs, mode, &sent, &Tree::Object(vec![("o".into(), document.clone())]));
        one_document(&table, &specs, mode, &sent, &document);
    }
});

// ---- what is asked ----

/// The matches of `message`, asked twice with another message between.
fn ask(table: &RouteTable, message: &Message<'_>) -> Vec<Match> {
    let (mut scratch, mut first, mut second) = (Scratch::new(), Vec::new(), Vec::new());
    table.matches(message, &mut scratch, &mut first);
    table.matches(
        &Message::new("t", b"{\"a\":1,\"s\":\"x\\n\",\"l\":[1,{\"x\":2}]"),
        &mut scratch,
        &mut second,
    );
    table.matches(message, &mut scratch, &mut second);
    assert_eq!(first, second, "the same message, the same answer");
    assert!(first.is_sorted_by(|one, other| one.sink < other.sink), "each sink once, ascending");
    first
}

fn compare(table: &RouteTable, specs: &[RouteSpec], mode: Mode, message: &Message<'_>, found: &[Match]) {
    let mut best: Vec<Option<usize>> = vec![None; table.sinks().len()];
    for (at, spec) in specs.iter().enumerate() {
        if oracle::holds(&spec.text, mode, message) {
            for sink in table.routes()[at].sinks() {
                let best = &mut best[sink.0 as usize];
                if best.is_none_or(|other| spec.priority < specs[other].priority) {
                    *best = Some(at);
                }
            }
        }
    }
    let sinks = best.iter().enumerate();
    let expected: Vec<_> =
        sinks.filter_map(|(sink, route)| route.map(|route| (sink as u32, route as u32))).collect();
    let seen: Vec<_> = found.iter().map(|found| (found.sink.0, found.route.0)).collect();
    let body = String::from_utf8_lossy(message.body);
    assert_eq!(seen, expected, "(sink, route) found and expected: {mode:?} {specs:#?} {message:?} {body}");
    for found in found {
        let spec = &specs[found.route.0 as usize];
        assert_eq!((found.priority, found.ttl_millis), (spec.priority, spec.ttl_millis));
    }
}

/// One document in all its forms.
fn one_document(table: &RouteTable, specs: &[RouteSpec], mode: Mode, sent: &Sent<'_>, document: &Tree) {
    let json = (Some("application/json"), Some("utf-8"));
    let (mut plain, mut spelled) = (Vec::new(), Vec::new());
    document.write_json(&mut plain, false);
    document.write_json(&mut spelled, true);
    let first = sent.with(json, &plain, |message| ask(table, message));
    sent.with(json, &plain, |message| compare(table, specs, mode, message, &first));
    sent.with(json, &plain, |message| project(table, message));
    let same = |kind, body: &[u8], what: &str| {
        let matches = sent.with(kind, body, |message| ask(table, message));
        let text = String::from_utf8_lossy(&plain);
        assert_eq!(matches, first, "{what} and JSON: {mode:?} {specs:#?} {sent:?} {text} {body:?}");
    };
    same(json, &spelled, "JSON with escapes");
    let text = String::from_utf8(plain.clone()).expect("JSON is text");
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    same((Some("application/json"), Some("utf-16")), &utf16, "UTF-16");
    if mode == Mode::Millrace {
        for open_ended in [false, true] {
            let mut cbor = Vec::new();
            document.write_cbor(&mut cbor, open_ended);
            same((Some("application/cbor"), None), &cbor, "CBOR");
        }
        let mut packed = Vec::new();
        document.write_message_pack(&mut packed);
        same((Some("application/msgpack"), None), &packed, "MessagePack");
    }
}

fn project(table: &RouteTable, message: &Message<'_>) {
    let (mut scratch, mut out) = (Scratch::new(), Vec::new());
    for route in 0..table.routes().len() as u32 {
        if let Ok(routes::Projected::Rewritten) =
            table.project(RouteId(route), message, &mut scratch, &mut out)
        {
            let sound = serde_json::from_slice::<serde::de::IgnoredAny>(&out);
            let (text, body) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(message.body));
            let route = table.routes()[route as usize].text();
            assert!(sound.is_ok(), "{sound:?}: {text} from {body} by {route}");
        }
    }
}

// ---- routes ----

fn specs(choices: &mut Choices<'_>, mode: Mode) -> Vec<RouteSpec> {
    let mut specs = Vec::new();
    for number in 0..=choices.below(6) {
        let priority = Priority::new(choices.below(4) as i64).unwrap_or_default();
        let (text, ttl_millis) = (route(choices), Some(number as u64));
        let spec = RouteSpec { name: number.to_string(), text, priority, ttl_millis };
        let compiled =
            RouteTable::compile(std::slice::from_ref(&spec), &Options { mode, ..Options::default() });
        if let Some(legal) = oracle::is_legal(&spec.text, mode) {
            assert_eq!(compiled.is_ok(), legal, "{mode:?} {} {:?}", spec.text, compiled.err());
        }
        if compiled.is_ok() {
            specs.push(spec);
        }
    }
    specs
}

fn route(choices: &mut Choices<'_>) -> String {
    let kind = choices.byte();
    if kind == 0xFF {
        let len = choices.below(64);
        return String::from_utf8_lossy(choices.take(len)).into_owned();
    }
    let source = choices.pick(SOURCES);
    let condition = match kind % 8 {
        0..=4 => condition(choices, 3),
        5 | 6 => indexable(choices),
        _ => {
            let len = choices.below(48);
            String::from_utf8_lossy(choices.take(len)).into_owned()
        }
    };
    let select = if kind >> 3 & 7 == 7 { choices.pick(SELECTIONS) } else { "" };
    let gate = if kind >> 6 == 3 { choices.pick(GATES) } else { "" };
    format!("{select} FROM {source} WHERE {condition} {gate} INTO {}", choices.pick(SINKS))
}

const SOURCES: &[&str] =
    &["/*", "/messages/*", "/messages/modules/m", "/foo", "\"t/#\"", "\"+/u\"", "\"t/u\"", "\"#\""];
const SINKS: &[&str] = &[
    "$upstream",
    "BrokeredEndpoint(\"/modules/m/inputs/i\")",
    "BrokeredEndpoint(\"/modules/n/inputs/i\")",
    "$upstream, BrokeredEndpoint(\"/modules/m/inputs/i\")",
];
const SELECTIONS: &[&str] = &[
    "SELECT *",
    "SELECT * EXCEPT $body.s",
    "SELECT * EXCEPT $body.o.*, $body.l[*].x",
    "SELECT $body.a AS a, s AS s",
    "SELECT * EXCEPT $body.a, lower($body.s) AS a, $body.o AS o, $topic AS t",
    "SELECT * EXCEPT $body.l[0], hash($body.s) AS h",
];
const GATES: &[&str] = &["SAMPLE 1 IN 2", "THROTTLE 1 PER 1s BY s", "CHANGED($body.a, 0.5) BY $body.s"];

fn number(choices: &mut Choices<'_>, depth: usize) -> String {
    let leaf: &[&str] = &[
        "0",
        "1",
        "-1",
        "2.5",
        "50",
        "1e3",
        "0x10",
        "1e400",
        "9007199254740993",
        "$body.a",
        "$body.b",
        "$BODY.o.x",
        "$body.l[0]",
        "$body.l[1].x",
        "{$body.a}",
        "$qos",
        "a",
        "b",
        "o.x",
        "-a",
        "-$body.a",
        "as_number(a)",
        "as_number($sys)",
        "as_number('1,0')",
        "as_number($body.s)",
        "length(s)",
        "index_of($body.s, 'x')",
    ];
    match choices.byte() {
        kind if depth == 0 || kind < 192 => (*leaf)[usize::from(kind) % leaf.len()].to_owned(),
        kind if kind < 210 => {
            let op = choices.pick(&["+", "-", "*", "/", "%"]);
            format!("({} {op} {})", number(choices, depth - 1), number(choices, depth - 1))
        }
        kind if kind < 225 => {
            let function =
                choices.pick(&["abs", "sign", "sqrt", "floor", "ceiling", "square", "exp", "as_number"]);
            format!("{function}({})", number(choices, depth - 1))
        }
        kind if kind < 238 => {
            format!("({} ?? {})", number(choices, depth - 1), number(choices, depth - 1))
        }
        kind if kind < 246 => {
            format!("power({}, {})", number(choices, depth - 1), number(choices, depth - 1))
        }
        _ => format!("- {}", number(choices, depth - 1)),
    }
}

fn text(choices: &mut Choices<'_>, depth: usize) -> String {
    let leaf: &[&str] = &[
        "'x'",
        "'1'",
        "\"true\"",
        "''",
        "'é😀'",
        "'2017-03-09T00:00:00Z'",
        "a",
        "s",
        "S",
        "$s",
        "{$s}",
        "$sys",
        "nothing",
        "$body.s",
        "$body.o.y",
        "$body.a",
        "$body.l[1]",
        "$body.none",
        "$topic",
        "$topic[0]",
        "$topic[2]",
        "$clientId",
        "$user",
        "'\\\\'",
        "$body.t",
        "$body['s']",
    ];
    match choices.byte() {
        kind if depth == 0 || kind < 192 => (*leaf)[usize::from(kind) % leaf.len()].to_owned(),
        kind if kind < 205 => format!("({} || {})", text(choices, depth - 1), text(choices, depth - 1)),
        kind if kind < 218 => {
            format!("{}({})", choices.pick(&["lower", "upper"]), text(choices, depth - 1))
        }
        kind if kind < 228 => {
            format!("substring({}, {})", text(choices, depth - 1), number(choices, depth - 1))
        }
        kind if kind < 238 => {
            let (start, len) = (number(choices, depth - 1), number(choices, depth - 1));
            format!("substring({}, {start}, {len})", text(choices, depth - 1))
        }
        kind if kind < 246 => format!("({} ?? {})", text(choices, depth - 1), text(choices, depth - 1)),
        _ => format!(
            "concat({}, {}, {})",
            text(choices, depth - 1),
            text(choices, depth - 1),
            text(choices, 0)
        ),
    }
}

fn any(choices: &mut Choices<'_>, depth: usize) -> String {
    match choices.below(8) {
        0..=2 => number(choices, depth),
        3..=5 => text(choices, depth),
        _ => choices
            .pick(&["null", "undefined", "true", "false", "$body.t", "$body.o", "{$body.l}", "$body.none"])
            .to_owned(),
    }
}

const COMPARES: &[&str] = &["=", "!=", "<>", "<", "<=", ">", ">="];

fn condition(choices: &mut Choices<'_>, depth: usize) -> String {
    match choices.byte() {
        kind if depth == 0 || kind < 176 => comparison(choices, kind, depth),
        kind if kind < 232 => {
            let op = if kind < 204 { " AND " } else { " OR " };
            let parts: Vec<String> =
                (0..2 + choices.below(2)).map(|_| condition(choices, depth - 1)).collect();
            format!("({})", parts.join(op))
        }
        kind => format!("{}({})", if kind < 246 { "NOT " } else { "!" }, condition(choices, depth - 1)),
    }
}

fn comparison(choices: &mut Choices<'_>, kind: u8, depth: usize) -> String {
    let not = |word: &'static str, yes: bool| if yes { format!("NOT {word}") } else { word.to_owned() };
    match kind % 16 {
        0..=2 => format!("{} {} {}", number(choices, depth), choices.pick(COMPARES), number(choices, depth)),
        3..=5 => format!("{} {} {}", text(choices, depth), choices.pick(COMPARES), text(choices, depth)),
        6 | 7 => format!("{} {} {}", any(choices, depth), choices.pick(COMPARES), any(choices, depth)),
        8 => {
            let word = not("BETWEEN", kind & 16 != 0);
            format!("{} {word} {} AND {}", number(choices, 1), number(choices, 1), number(choices, 1))
        }
        9 => {
            let items: Vec<String> = (0..=choices.below(4)).map(|_| any(choices, 1)).collect();
            format!("{} {} ({})", any(choices, 1), not("IN", kind & 16 != 0), items.join(", "))
        }
        10 => {
            let patterns: &[&str] = &["'x%'", "'%1'", "'_'", "'%é%'", "'a\\\\%b'", "'%%'", "'%x_%y%'", "''"];
            format!("{} {} {}", text(choices, depth), not("LIKE", kind & 16 != 0), choices.pick(patterns))
        }
        11 => {
            let function = choices.pick(&["starts_with", "ends_with", "contains"]);
            format!("{function}({}, {})", text(choices, 1), text(choices, 1))
        }
        12 | 13 => {
            let function = choices.pick(&["is_defined", "is_null", "is_bool", "is_number", "is_string"]);
            format!("{function}({})", any(choices, 1))
        }
        14 => choices
            .pick(&[
                "ANY($body.l[*] > 1)",
                "ALL($body.l[*] = 'x' OR $body.l[*].x < 50)",
                "ANY($body.o.l[*].y = lower(s) AND is_defined($body.l))",
                "ANY(concat($body.l[*], 'é') = 'xé' OR concat($body.l[*], $body.l[*].s) LIKE '%y')",
                "ALL(is_number($body.l[*]))",
                "ANY($body.l[*])",
                "ANY($body.l[0].x[*] = 1 OR $body.l[0].x[*].s = 'é') OR ALL($body.o.x[*].a[1] = 'x')",
                "s GLOB 'x*'",
            ])
            .to_owned(),
        _ => choices
            .pick(&["true", "false", "undefined", "null", "$body.t", "t", "!t", "!$body.t", "$retain"])
            .to_owned(),
    }
}

/// What the index takes apart: flat, with constants.
fn indexable(choices: &mut Choices<'_>) -> String {
    let numbers = ["$body.a", "$body.b", "$body.o.x", "$body.l[0]", "a", "b", "$qos"];
    let constants = ["0", "1", "2", "2.5", "50", "-1"];
    let texts = ["s", "$sys", "$body.s", "$body.o.y", "$topic", "$s", "{$s}"];
    let words = ["'x'", "'1'", "'xy'", "'é😀'", "'t'", "'t/u'"];
    let op = choices.pick(&[" AND ", " OR "]);
    let parts: Vec<String> = (0..=choices.below(4))
        .map(|_| {
            let (number, constant) = (choices.pick(&numbers), choices.pick(&constants));
            let (text, word) = (choices.pick(&texts), choices.pick(&words));
            let compare = choices.pick(COMPARES);
            match choices.below(8) {
                0 | 1 => format!("{number} {compare} {constant}"),
                2 => format!("{constant} {compare} {number}"),
                3 => format!("{text} {compare} {word}"),
                4 => format!("{number} BETWEEN {constant} AND {}", choices.pick(&constants)),
                5 => format!("{text} IN ({word}, {})", choices.pick(&words)),
                6 => format!("starts_with({text}, {word})"),
                _ => choices
                    .pick(&["$body.t", "NOT $body.t", "t", "$retain", "$body.a = null", "$body.t = true"])
                    .to_owned(),
            }
        })
        .collect();
    parts.join(op)
}

// ---- messages ----

/// Content type and encoding.
type Kind = (Option<&'static str>, Option<&'static str>);

const JSON_KINDS: &[Kind] = &[
    (Some("application/json"), Some("utf-8")),
    (None, None),
    (Some("application/json"), Some("utf-8")),
    (Some("application/json"), Some("utf-16")),
];
const OTHER_KINDS: &[Kind] = &[
    (Some("application/cbor"), None),
    (Some("application/msgpack"), None),
    (Some("application/json"), Some("utf-32")),
    (Some("text/plain"), None),
];

/// A message without its body.
#[derive(Debug)]
struct Sent<'d> {
    topic: &'static str,
    source: &'static str,
    properties: Vec<(&'static str, Option<Value<'d>>)>,
    system: Vec<(&'static str, Option<Value<'d>>)>,
    user: &'static str,
    qos: Qos,
    retain: bool,
}

type Value<'d> = std::borrow::Cow<'d, str>;

impl<'d> Sent<'d> {
    fn new(choices: &mut Choices<'d>) -> Sent<'d> {
        let flags = choices.byte();
        Sent {
            topic: choices.pick(&["t", "t/u", "$t/u", "t/u/v", "/", "é/u"]),
            source: choices.pick(&["/messages/", "/messages/modules/m/outputs/o/", "/Messages/Modules/M/"]),
            properties: properties(choices, &["a", "A", "b", "s", "t", "o.x", "$s", "$body.a"]),
            system: properties(choices, &["s", "sys", "a"]),
            user: if flags & 1 == 0 { "" } else { "u" },
            qos: if flags & 2 == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce },
            retain: flags & 4 != 0,
        }
    }

    /// Calls `with` with the message that has this body.
    fn with<R>(&self, kind: Kind, body: &[u8], with: impl FnOnce(&Message<'_>) -> R) -> R {
        let borrowed = |all: &'_ [(&'static str, Option<Value<'d>>)]| -> Vec<(String, Option<String>)> {
            all.iter()
                .map(|(name, value)| ((*name).to_owned(), value.as_ref().map(|value| value.to_string())))
                .collect()
        };
        let (own, mut system) = (borrowed(&self.properties), borrowed(&self.system));
        let named = [("contentType", kind.0), ("contentEncoding", kind.1)];
        system.extend(
            named
                .iter()
                .filter_map(|(name, value)| value.map(|it| ((*name).to_owned(), Some(it.to_owned())))),
        );
        let own: Vec<Property<'_>> =
            own.iter().map(|(name, value)| Property { name, value: value.as_deref() }).collect();
        let system: Vec<Property<'_>> =
            system.iter().map(|(name, value)| Property { name, value: value.as_deref() }).collect();
        with(&Message {
            topic: self.topic,
            source: self.source,
            body,
            properties: &own,
            system: &system,
            client_id: "c1",
            user: self.user,
            qos: self.qos,
            retain: self.retain,
        })
    }
}

fn properties<'d>(
    choices: &mut Choices<'d>,
    names: &[&'static str],
) -> Vec<(&'static str, Option<Value<'d>>)> {
    let values = ["x", "1", "xy", "true", "FALSE", "50", "é😀", "1,0", " 5 ", "1e3", "Infinity", "-"];
    (0..choices.below(4))
        .map(|_| {
            let name = choices.pick(names);
            let value = match choices.byte() {
                0xFF => None,
                kind if kind > 200 => Some(String::from_utf8_lossy(choices.take(usize::from(kind) - 200))),
                kind => Some(values[usize::from(kind) % values.len()].into()),
            };
            (name, value)
        })
        .collect()
}

/// A document that JSON, CBOR and MessagePack can all say.
#[derive(Clone, Debug)]
enum Tree {
    Null,
    Bool(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

const KEYS: &[&str] = &["a", "b", "o", "x", "y", "l", "s", "t", "é", "zz", "", "a.b"];

impl Tree {
    fn new(choices: &mut Choices<'_>, depth: usize) -> Tree {
        if choices.is_over() {
            return Tree::Null;
        }
        match choices.byte() {
            kind @ 0..=39 => Tree::Integer(i64::from(kind) - 2),
            40..=49 => {
                Tree::Number(choices.pick(&[2.5, -0.0, 1e300, 0.1, 1e-7, 9_007_199_254_740_993.0, 50.0]))
            }
            50..=59 => {
                let mut bits = [0; 8];
                bits.iter_mut().for_each(|byte| *byte = choices.byte());
                let number = f64::from_le_bytes(bits);
                if number.is_finite() {
                    Tree::Number(number)
                } else {
                    Tree::Integer(i64::from_le_bytes(bits))
                }
            }
            60..=99 => {
                let words = ["x", "1", "xy", "", "é😀", "true", "2017-03-09T00:00:00Z", "\"\\\n\u{1}/", "xé"];
                Tree::Text(choices.pick(&words).to_owned())
            }
            100..=109 => {
                let len = choices.below(40);
                Tree::Text(String::from_utf8_lossy(choices.take(len)).into_owned())
            }
            110..=119 => Tree::Null,
            120..=129 => Tree::Bool(choices.below(2) == 0),
            _ if depth == 0 => Tree::Null,
            130..=169 => Tree::Array((0..choices.below(5)).map(|_| Tree::new(choices, depth - 1)).collect()),
            _ => {
                let member = |choices: &mut Choices<'_>| {
                    (choices.pick(KEYS).to_owned(), Tree::new(choices, depth - 1))
                };
                Tree::Object((0..choices.below(8)).map(|_| member(choices)).collect())
            }
        }
    }

    fn write_json(&self, out: &mut Vec<u8>, spelled: bool) {
        match self {
            Tree::Null => out.extend_from_slice(b"null"),
            Tree::Bool(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Tree::Integer(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Tree::Number(value) if spelled => out.extend_from_slice(format!("{value:E}").as_bytes()),
            Tree::Number(value) => out.extend_from_slice(format!("{value:?}").as_bytes()),
            Tree::Text(text) => write_json_text(text, out, spelled),
            Tree::Array(items) => {
                out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    item.write_json(out, spelled);
                    out.extend_from_slice(if spelled { b"\r\n" } else { b"" });
                }
                out.push(b']');
            }
            Tree::Object(members) => {
                out.push(b'{');
                for (at, (key, value)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    write_json_text(key, out, spelled);
                    out.extend_from_slice(if spelled { b" \t: " } else { b":" });
                    value.write_json(out, spelled);
                }
                out.push(b'}');
            }
        }
    }

    fn write_cbor(&self, out: &mut Vec<u8>, open_ended: bool) {
        match self {
            Tree::Null => out.push(0xF6),
            Tree::Bool(value) => out.push(0xF4 + u8::from(*value)),
            Tree::Integer(value) if *value >= 0 => cbor_head(out, 0, *value as u64),
            Tree::Integer(value) => cbor_head(out, 1, !*value as u64),
            Tree::Number(value) => {
                out.push(0xFB);
                out.extend_from_slice(&value.to_be_bytes());
            }
            Tree::Text(text) => cbor_text(out, text),
            Tree::Array(items) => {
                if open_ended {
                    out.push(0x9F)
                } else {
                    cbor_head(out, 4, items.len() as u64)
                }
                items.iter().for_each(|item| item.write_cbor(out, open_ended));
                out.extend_from_slice(if open_ended { &[0xFF] } else { &[] });
            }
            Tree::Object(members) => {
                if open_ended {
                    out.push(0xBF)
                } else {
                    cbor_head(out, 5, members.len() as u64)
                }
                for (key, value) in members {
                    cbor_text(out, key);
                    value.write_cbor(out, open_ended);
                }
                out.extend_from_slice(if open_ended { &[0xFF] } else { &[] });
            }
        }
    }

    fn write_message_pack(&self, out: &mut Vec<u8>) {
        match self {
            Tree::Null => out.push(0xC0),
            Tree::Bool(value) => out.push(0xC2 + u8::from(*value)),
            Tree::Integer(value @ -32..=127) => out.push(*value as i8 as u8),
            Tree::Integer(value) => {
                out.push(0xD3);
                out.extend_from_slice(&value.to_be_bytes());
            }
            Tree::Number(value) => {
                out.push(0xCB);
                out.extend_from_slice(&value.to_be_bytes());
            }
            Tree::Text(text) => pack_text(out, text),
            Tree::Array(items) => {
                out.push(0x90 | items.len() as u8);
                items.iter().for_each(|item| item.write_message_pack(out));
            }
            Tree::Object(members) => {
                out.push(0x80 | members.len() as u8);
                for (key, value) in members {
                    pack_text(out, key);
                    value.write_message_pack(out);
                }
            }
        }
    }
}

fn write_json_text(text: &str, out: &mut Vec<u8>, spelled: bool) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            _ if spelled => {
                let units = c
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .map(|unit| format!("\\u{unit:04X}"))
                    .collect::<String>();
                out.extend_from_slice(units.as_bytes());
            }
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            '\n' => out.extend_from_slice(b"\\n"),
            c if c < ' ' => out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes()),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

fn cbor_head(out: &mut Vec<u8>, major: u8, value: u64) {
    match value {
        0..=23 => out.push(major << 5 | value as u8),
        24..=0xFF => out.extend_from_slice(&[major << 5 | 24, value as u8]),
        _ => {
            out.push(major << 5 | 27);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

fn cbor_text(out: &mut Vec<u8>, text: &str) {
    cbor_head(out, 3, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn pack_text(out: &mut Vec<u8>, text: &str) {
    match text.len() {
        len @ 0..=31 => out.push(0xA0 | len as u8),
        len => {
            out.push(0xDA);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// Routes by themselves with bodies of every kind; and streams of choices that go somewhere.
fn seeds() -> Vec<Vec<u8>> {
    let bodies: &[&[u8]] = &[
        br#"{"a":1,"b":2.5,"s":"x","t":true,"o":{"x":50,"y":"x"},"l":[1,{"x":2},"x"]}"#,
        br#"{"a":1,"a":"\u00e9\ud83d\ude00","s":null,"\u0061":12345678901234567890123}"#,
        br#"{"a":1e400,"b":-0,"s":"\ud83d","t":"true","o":[[[{"x":1}]]],"l":[],"l":[50]}"#,
        b"{\"s\":\"\xFF\",\"a\":01}",
        br#"{"a":1,"o":{"x":"#,
        b" [ ] ",
        b"\xA3\x61a\x01\x61s\x61x\x61o\xBF\x61x\x18\x32\xFF",
        b"\x83\xA1a\xCB\x40\x04\0\0\0\0\0\0\xA1s\xA1x\xA1l\x92\x01\x81\xA1x\x02",
    ];
    let mut seeds = Vec::new();
    for (number, body) in bodies.iter().enumerate() {
        for mode in 0..2 {
            // One route: a comparison of two numbers; no properties; then the way, the content type, the body.
            let way = if number < 6 { 0 } else { 3 };
            let kind = if number == 7 { 1 } else { 0 };
            let head = [mode, 0, 1, 0, 0, 0, 9, 2, 1, 0, 0, 0, 0, 0, 0, way, kind];
            seeds.push([&head, *body].concat());
        }
    }
    // Any byte may be any choice: what follows reaches every kind of route and of document.
    for start in 0..16_u32 {
        let mix = |at: u32| (start * 40_503 + at).wrapping_mul(2_654_435_761).rotate_left(13) as u8;
        seeds.push((0..200).map(mix).collect());
    }
    seeds
}
