//! Question: does matching stay flat when routes that do not match are added, and what does it save over reading the
//! body into a tree and asking every route? What does the first predicate on a body cost, and a table itself?
//!
//! Unit: nanoseconds per message. Target (DESIGN §10): 10 000 routes of which 1 % match ≤ 5 000 ns (200 k msg/s per
//! core), and at most twice the time from 1 to 10 000 routes that do not match. One body predicate adds ≤ 250 ns to a
//! message of 250 B. Compiling 10 000 routes < 1 s; each takes ≤ 1 KiB of memory (printed; counted to the byte by the
//! test `a_route_takes_at_most_a_kibibyte`).
//! Input: one message with 250 B or 2 KiB of JSON; 1, 100 and 10 000 routes on its topic, each with an equality and a
//! range on the body (`$body.line = … AND $body.temperature > …`) and one of 8 sinks; none, 1 % or all of them match.
//! Beside it, on the same input: serde_json reads the body into a tree, then every route is asked in turn.
//! Then bodies of 64 and 256 KiB that are made to be slow: four times the bytes must take about four times as long, also
//! where a hundred routes ask `ANY` of one long list, until they have looked at what they may (4 MiB together).
//! Noise: about ±5 % on a quiet machine; the table of 10 000 routes does not fit the first-level cache, on purpose.
//! Run: `cargo bench -p millrace-bench --bench routes`.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use model::{Message, Priority};
use routes::{Options, RouteSpec, RouteTable, Scratch};
use serde_json::Value;

const TOPIC: &str = "site/a/line/7";
const BODY: &str = r#"{"deviceId":"press-0042","line":"L7","ts":1764000000123,"temperature":71.25,"pressure":3.481,"vibration":{"x":0.013,"y":-0.021,"z":0.998},"state":"running","alarms":[],"counter":918273,"firmware":"4.12.1","operator":"shift-b","ok":true,"spare":"xxxx"}"#;
/// As long as a message may be that still fits into two packets of a network: the same with a list of readings.
fn long_body() -> String {
    let readings: Vec<String> = (0..24)
        .map(|at| {
            format!(
                r#"{{"at":17640000{at:02},"channel":"vib-{at:02}","value":{at}.125,"unit":"mm/s","ok":true}}"#
            )
        })
        .collect();
    format!(r#"{{"readings":[{}],{}"#, readings.join(","), &BODY[1..])
}

const COUNTS: [usize; 3] = [1, 100, 10_000];
const SINKS: usize = 8;

const _: () = assert!(BODY.len().abs_diff(250) <= 10, "the question says 250 B");

/// How many of the routes match.
#[derive(Clone, Copy)]
enum Share {
    None,
    Percent,
    All,
}

impl Share {
    const fn name(self) -> &'static str {
        match self {
            Share::None => "none match",
            Share::Percent => "1 % match",
            Share::All => "all match",
        }
    }

    const fn matches(self, at: usize) -> bool {
        match self {
            Share::None => false,
            Share::Percent => at.is_multiple_of(100),
            Share::All => true,
        }
    }
}

/// One route, in both forms.
struct Condition {
    line: String,
    above: f64,
    sink: usize,
}

fn conditions(count: usize, share: Share) -> Vec<Condition> {
    let condition = |at: usize| Condition {
        line: if share.matches(at) { "L7".to_owned() } else { format!("M{at}") },
        above: 20.0 + (at % 50) as f64,
        sink: at / 100 % SINKS,
    };
    (0..count).map(condition).collect()
}

fn table_of(conditions: &[Condition]) -> RouteTable {
    let spec = |(at, condition): (usize, &Condition)| RouteSpec {
        name: format!("r{at}"),
        text: format!(
            "FROM /messages/* WHERE $body.line = '{}' AND $body.temperature > {} INTO uplink(\"u{}\")",
            condition.line, condition.above, condition.sink
        ),
        priority: Priority::DEFAULT,
        ttl_millis: None,
    };
    let specs: Vec<RouteSpec> = conditions.iter().enumerate().map(spec).collect();
    RouteTable::compile(&specs, &Options::default()).expect("we have written the routes")
}

/// The obvious way: a tree, and every route in turn. The sinks, each once.
fn naive(conditions: &[Condition], body: &[u8], sinks: &mut [bool; SINKS]) -> usize {
    sinks.fill(false);
    let Ok(tree) = serde_json::from_slice::<Value>(body) else { return 0 };
    for condition in conditions {
        let line = tree.get("line").and_then(Value::as_str);
        let temperature = tree.get("temperature").and_then(Value::as_f64);
        if line == Some(&condition.line) && temperature.is_some_and(|value| value > condition.above) {
            sinks[condition.sink] = true;
        }
    }
    sinks.iter().filter(|found| **found).count()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let long = long_body();
    assert!((1_900..2_300).contains(&long.len()), "the question says 2 KiB, this is {} B", long.len());
    for (size, body) in [("250 B", BODY), ("2 KiB", &long)] {
        for share in [Share::None, Share::Percent, Share::All] {
            compare(&mut criterion, size, body.as_bytes(), share);
        }
    }
    one_predicate(&mut criterion);
    compiling(&mut criterion);
    adversarial(&mut criterion);
    many_ask_one_list(&mut criterion);
    criterion.final_summary();
}

fn compare(criterion: &mut Criterion, size: &str, body: &[u8], share: Share) {
    let mut group = criterion.benchmark_group(format!("routes, {size}, {}", share.name()));
    group.throughput(Throughput::Elements(1));
    for count in COUNTS {
        let conditions = conditions(count, share);
        let table = table_of(&conditions);
        let (mut scratch, mut matches, mut sinks) = (Scratch::new(), Vec::new(), [false; SINKS]);
        let message = Message::new(TOPIC, body);
        table.matches(&message, &mut scratch, &mut matches);
        assert_eq!(matches.len(), naive(&conditions, body, &mut sinks), "both give the same sinks");
        group.bench_function(format!("table/{count}"), |bencher| {
            bencher.iter(|| {
                table.matches(black_box(&message), &mut scratch, &mut matches);
                black_box(matches.len())
            });
        });
        group.bench_function(format!("tree and loop/{count}"), |bencher| {
            bencher.iter(|| naive(black_box(&conditions), black_box(body), &mut sinks));
        });
    }
    group.finish();
}

fn of_texts(texts: impl Iterator<Item = String>) -> RouteTable {
    let spec = |text| RouteSpec { name: String::new(), text, priority: Priority::DEFAULT, ttl_millis: None };
    let specs: Vec<RouteSpec> = texts.map(spec).collect();
    RouteTable::compile(&specs, &Options::default()).expect("we have written the routes")
}

/// The difference of both is what one predicate on the body adds.
fn one_predicate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("the first predicate on a body of 250 B");
    for (name, condition) in [("without", ""), ("with", "WHERE $body.temperature > 70 ")] {
        let table = of_texts(std::iter::once(format!("FROM /messages/* {condition}INTO $upstream")));
        let (mut scratch, mut matches) = (Scratch::new(), Vec::new());
        let message = Message::new(TOPIC, BODY.as_bytes());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                table.matches(black_box(&message), &mut scratch, &mut matches);
                black_box(matches.len())
            });
        });
        assert_eq!(matches.len(), 1);
    }
    group.finish();
}

fn compiling(criterion: &mut Criterion) {
    let conditions = conditions(10_000, Share::Percent);
    let before = resident_bytes();
    let table = table_of(&conditions);
    let bytes = resident_bytes().saturating_sub(before) / table.routes().len();
    println!("10 000 routes: {bytes} B of resident memory for each");
    let mut group = criterion.benchmark_group("a table");
    group.sample_size(10);
    group.bench_function("compile/10000", |bencher| bencher.iter(|| table_of(black_box(&conditions))));
    group.finish();
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Every route looks at the list, until all together have looked at as much as is allowed.
fn many_ask_one_list(criterion: &mut Criterion) {
    let table =
        of_texts((0..100).map(|at| format!("FROM /* WHERE ANY($body.list[*].x = -{at}) INTO $upstream")));
    let mut group = criterion.benchmark_group("a hundred ANY");
    for kibibytes in [64, 256] {
        let body = format!("{{\"list\":[{}{{}}]}}", "{\"x\":100},".repeat((kibibytes << 10) / 10));
        let (mut scratch, mut matches) = (Scratch::new(), Vec::new());
        let message = Message::new(TOPIC, body.as_bytes());
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("{kibibytes} KiB"), |bencher| {
            bencher.iter(|| {
                table.matches(black_box(&message), &mut scratch, &mut matches);
                black_box(matches.len())
            });
        });
    }
    group.finish();
}

/// Bodies that would take a careless parser long: depth, keys that come again and again, escapes, numbers, no end.
fn adversarial(criterion: &mut Criterion) {
    let texts = (0..500)
        .map(|at| format!("FROM /* WHERE $body.a.b{at}[{at}].c = -7 OR $body.k{at} = 'x' INTO $upstream"));
    let table = of_texts(texts);
    let mut group = criterion.benchmark_group("adversarial bodies");
    for kibibytes in [64, 256] {
        let repeat = |text: &str| text.repeat((kibibytes << 10) / text.len());
        let bodies = [
            ("too deep", repeat("{\"a\":")),
            ("one key again and again", format!("{{{}\"z\":1}}", repeat("\"a\":{\"b1\":[0,{\"c\":1}]},"))),
            ("escaped keys", format!("{{{}\"z\":1}}", repeat("\"\\u0061\":{\"b1\":1},"))),
            ("escaped text", format!("{{\"a\":\"{}\"}}", repeat("\\u0061"))),
            ("text without end", format!("{{\"a\":\"{}", repeat("x"))),
            ("one number", format!("{{\"k1\":{}}}", repeat("1"))),
            ("a long list", format!("{{\"a\":{{\"b499\":[{}0]}}}}", repeat("1,"))),
        ];
        for (name, body) in &bodies {
            let (mut scratch, mut matches) = (Scratch::new(), Vec::new());
            let message = Message::new(TOPIC, body.as_bytes());
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_function(format!("{name}/{kibibytes} KiB"), |bencher| {
                bencher.iter(|| {
                    table.matches(black_box(&message), &mut scratch, &mut matches);
                    black_box(matches.len())
                });
            });
        }
    }
    group.finish();
}
