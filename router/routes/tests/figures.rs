//! Questions: does matching stay flat when routes that do not match are added, what does a body predicate cost,
//! how long does a large table take to compile, and how much memory does a route take?
//!
//! Input: a 250 B JSON message; tables of 1 to 10 000 routes on one source. Unit: as printed. Noise: about ±10 %
//! on a shared machine. Run: `cargo test --release -p millrace-routes --test figures -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use model::{Message, Priority};
use routes::{Options, RouteSpec, RouteTable, Scratch};

const BODY: &str = r#"{"deviceId":"press-0042","line":"L7","ts":1764000000123,"temperature":71.25,"pressure":3.481,"vibration":{"x":0.013,"y":-0.021,"z":0.998},"state":"running","alarms":[],"counter":918273,"firmware":"4.12.1","operator":"shift-b","ok":true,"spare":"xxxx"}"#;

/// The text of the route with this number.
type Shape = fn(usize) -> String;

fn specs(texts: impl Iterator<Item = String>) -> Vec<RouteSpec> {
    texts
        .enumerate()
        .map(|(at, text)| RouteSpec {
            name: format!("r{at}"),
            text,
            priority: Priority::DEFAULT,
            ttl_millis: None,
        })
        .collect()
}

fn table(texts: impl Iterator<Item = String>) -> RouteTable {
    RouteTable::compile(&specs(texts), &Options::default()).unwrap_or_else(|errors| panic!("{}", errors[0]))
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// Nanoseconds per message: the best of some runs, because everything else only adds.
fn measure(table: &RouteTable, expected: usize) -> f64 {
    let message = Message::new("site/a/line/7", BODY.as_bytes());
    let (mut scratch, mut matches) = (Scratch::new(), Vec::new());
    table.matches(&message, &mut scratch, &mut matches);
    assert_eq!(matches.len(), expected);
    let mut best = f64::MAX;
    // Short windows: in most of them nobody else gets the processor.
    for _ in 0..300 {
        let start = now();
        for _ in 0..200 {
            table.matches(black_box(&message), &mut scratch, &mut matches);
            black_box(&matches);
        }
        best = best.min(start.elapsed().as_nanos() as f64 / 200.0);
    }
    best
}

#[test]
#[ignore = "a measurement, for a release build and a quiet machine"]
fn figures() {
    compile_figures();
    comparison_figures();
    println!("body {} B", BODY.len());
    let none = measure(&table(["FROM /* INTO $upstream".to_owned()].into_iter()), 1);
    let one =
        measure(&table(["FROM /* WHERE $body.temperature > 70 INTO $upstream".to_owned()].into_iter()), 1);
    println!("no predicate {none:.0} ns, one body predicate {one:.0} ns, adds {:.0} ns", one - none);
    let shapes: [(&str, Shape); 8] = [
        ("number equality", |at| format!("FROM /* WHERE $body.counter = {at} INTO uplink(\"u{at}\")")),
        ("text equality", |at| {
            format!("FROM /* WHERE $body.deviceId = 'press-x{at}' INTO uplink(\"u{at}\")")
        }),
        ("range", |at| format!("FROM /* WHERE $body.temperature > {} INTO uplink(\"u{at}\")", 100 + at)),
        ("equality and range", |at| {
            format!("FROM /* WHERE $body.line = 'M{at}' AND $body.temperature > 50 INTO uplink(\"u{at}\")")
        }),
        ("interval", |at| {
            format!(
                "FROM /* WHERE $body.counter > {at} AND $body.counter < {} INTO uplink(\"u{at}\")",
                at + 3
            )
        }),
        ("two ranges, both half true", |at| {
            let (hot, pressed) = if at % 2 == 0 { (72 + at, 3.0) } else { (71, 4.0 + at as f64) };
            format!(
                "FROM /* WHERE $body.temperature < {hot} AND $body.pressure < {pressed:.1} INTO uplink(\"u{at}\")"
            )
        }),
        ("prefix", |at| {
            format!("FROM /* WHERE starts_with($body.deviceId, 'p{at}-') INTO uplink(\"u{at}\")")
        }),
        ("a path each", |at| format!("FROM /* WHERE $body.p{at} > 1 INTO uplink(\"u{at}\")")),
    ];
    for (name, shape) in shapes {
        let figures: Vec<String> = [1, 100, 1_000, 10_000]
            .map(|count| format!("{count}: {:.0} ns", measure(&table((0..count).map(shape)), 0)))
            .to_vec();
        println!("none match, {name}: {}", figures.join(", "));
    }
    let percent = table((0..10_000).map(|at| {
        let line = if at % 100 == 0 { "L7".to_owned() } else { format!("M{at}") };
        format!("FROM /* WHERE $body.line = '{line}' AND $body.temperature > 20 INTO uplink(\"u{at}\")")
    }));
    let nanos = measure(&percent, 100);
    println!("10 000 routes, 100 match with a sink each: {nanos:.0} ns, {:.0} msg/s", 1e9 / nanos);
    let percent = table((0..10_000).map(|at| {
        let bound = if at % 100 == 0 { 20 } else { 100 + at };
        format!("FROM /* WHERE $body.temperature > {bound} INTO uplink(\"u{}\")", at / 100 % 7)
    }));
    let nanos = measure(&percent, 7);
    println!("10 000 routes, 100 match with few sinks: {nanos:.0} ns, {:.0} msg/s", 1e9 / nanos);
}

/// The routes of the row `qos0-pairs` of the end-to-end comparison: 90 of other topics, 10 that ask every message.
fn of_the_comparison() -> RouteTable {
    let elsewhere =
        (0..90).map(|at| format!("FROM \"plant/{at}/#\" WHERE $body.temperature > {at} INTO $upstream"));
    let asked = (90..100).map(|at| format!("FROM /messages/* WHERE temperature > {at} INTO $upstream"));
    table(elsewhere.chain(asked))
}

/// A publication as the broker shows it, by topics in turn: as many bodies, or topics, as `messages` has.
fn comparison_figures() {
    let table = of_the_comparison();
    let binary = [0x9Eu8; 256];
    let system = [model::Property { name: "connectionDeviceId", value: Some("load-17") }];
    let topics: Vec<String> = (0..5_000).map(|at| format!("load/{at}")).collect();
    let bodies: [(&str, &[u8]); 2] = [("no JSON, 256 B", &binary), ("JSON, 250 B", BODY.as_bytes())];
    for (name, body) in bodies {
        for topics in [&topics[..1], &topics[..]] {
            let (mut scratch, mut matches) = (Scratch::new(), Vec::new());
            let mut best = f64::MAX;
            for _ in 0..40 {
                let start = now();
                for topic in topics.iter().cycle().take(5_000) {
                    let message = Message { system: &system, ..Message::new(topic, body) };
                    table.matches(black_box(&message), &mut scratch, &mut matches);
                    black_box(&matches);
                }
                best = best.min(start.elapsed().as_nanos() as f64 / 5_000.0);
            }
            println!("100 routes, 10 asked, {name}, {} topics in turn: {best:.0} ns", topics.len());
        }
    }
}

fn compile_figures() {
    let one_source = |at: usize| {
        format!(
            "FROM /messages/* WHERE $body.line = 'L{at}' AND $body.temperature > {at} AND priority = 'high' INTO uplink(\"u{}\")",
            at % 50
        )
    };
    let own_source = |at: usize| one_source(at).replace("/messages/*", &format!("\"site/{at}/line/+\""));
    let shapes: [(&str, &dyn Fn(usize) -> String); 2] =
        [("one source", &one_source), ("a source each", &own_source)];
    for (name, shape) in shapes {
        let specs = specs((0..10_000).map(shape));
        let (before, start) = (resident_bytes(), now());
        let table =
            RouteTable::compile(&specs, &Options::default()).unwrap_or_else(|errors| panic!("{}", errors[0]));
        let (took, bytes) = (start.elapsed(), resident_bytes().saturating_sub(before));
        println!(
            "compiling {} routes, {name}: {took:?}, {} B per route resident",
            table.routes().len(),
            bytes / 10_000
        );
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}
