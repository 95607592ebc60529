//! Matching does not allocate once a scratch is warm: counted by an allocator that counts.
//!
//! Knows: only the public face. In: tables and messages of every kind. Out: the number of allocations of a call.

#![expect(unsafe_code, reason = "an allocator can only be written so; this one forwards to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use model::{Instant, Message, Priority, Property};
use routes::{Mode, Options, RouteSpec, RouteTable, Scratch, State};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// Bytes in use, as a common allocator takes them: 8 bytes of its own, in steps of 16, at least 32.
    static HELD: Cell<isize> = const { Cell::new(0) };
}

fn taken(size: usize) -> isize {
    (size + 8).next_multiple_of(16).max(32) as isize
}

fn hold(bytes: isize) {
    HELD.with(|held| held.set(held.get() + bytes));
}

// SAFETY: every call is forwarded unchanged; the counters are plain cells of this thread and do not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        hold(taken(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        hold(-taken(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        hold(taken(size) - taken(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONDITIONS: &[&str] = &[
    "$body.temperature > 20",
    "$body.temperature > 20 AND $body.pressure < 3",
    "$body.temperature < 20 AND $body.pressure > 3",
    "$body.name = 'é\"' OR name = 'x'",
    "upper($body.name) = 'X' OR lower(upper(concat($body.name, name))) = 'y'",
    "starts_with($body.name, 'p') AND $body.missing = 1",
    "$body.list[1].x IN (1, 2, 3) OR as_number(count) > 7",
    "ANY($body.list[*].x > 1)",
    "hash($body.name) = 'x' OR hour($body.at) = 3",
    "substring(name, 1, 1) = 'b'",
    "name LIKE '%b_' AND $topic[1] = 'b'",
];

#[test]
fn a_warm_scratch_matches_without_allocating() {
    let mut texts = Vec::new();
    for condition in CONDITIONS {
        texts.push(format!("FROM /* WHERE {condition} INTO $upstream, topic \"x\""));
        texts.push(format!("FROM \"a/+/#\" WHERE {condition} INTO uplink(\"u\")"));
    }
    texts.push(
        "FROM \"#\" THROTTLE 1 PER 1s BY $clientId CHANGED($body.temperature, 5) INTO uplink(\"v\")"
            .to_owned(),
    );
    let specs: Vec<RouteSpec> = texts
        .into_iter()
        .map(|text| RouteSpec { name: "r".into(), text, priority: Priority::DEFAULT, ttl_millis: None })
        .collect();
    let options = Options { mode: Mode::Millrace, ..Options::default() };
    let table = RouteTable::compile(&specs, &options).unwrap_or_else(|errors| panic!("{}", errors[0]));
    let properties =
        [Property { name: "Name", value: Some("abc") }, Property { name: "count", value: Some("8") }];
    let bodies: [&[u8]; 4] = [
        r#"{"temperature":21,"pressure":2,"name":"p\u00e9\"","list":[{"x":1},{"x":2}],"at":"2026-11-22T03:00:00Z"}"#.as_bytes(),
        b"{\"temperature\":1,\"temperature\":2,\"n\\u0061me\":\"y\"}",
        b"{\"broken\":",
        b"\xff",
    ];
    let (mut scratch, mut state, mut matches) = (Scratch::new(), State::new(100), Vec::new());
    let mut round = |at: u64| {
        for body in bodies {
            let message = Message { properties: &properties, client_id: "c", ..Message::new("a/b/c", body) };
            table.matches(&message, &mut scratch, &mut matches);
            table.matches_at(&message, Instant(at * 500_000), &mut state, &mut scratch, &mut matches);
        }
    };
    round(0);
    round(1);
    let before = COUNT.with(Cell::get);
    (2..10).for_each(&mut round);
    assert_eq!(COUNT.with(Cell::get) - before, 0);
}

/// A route of usual length takes at most 1 KiB, whether it shares its source with others or not.
#[test]
fn a_route_takes_at_most_a_kibibyte() {
    const ROUTES: usize = 2_000;
    for source in ["/messages/*", "\"site/{}/line/+\""] {
        let text = |at: usize| {
            let source = source.replace("{}", &at.to_string());
            format!(
                "FROM {source} WHERE $body.line = 'L{at}' AND $body.temperature > {at} AND priority = 'high' \
                 INTO uplink(\"u{}\")",
                at % 50
            )
        };
        let spec = |at: usize| RouteSpec {
            name: format!("r{at}"),
            text: text(at),
            priority: Priority::DEFAULT,
            ttl_millis: None,
        };
        let specs: Vec<RouteSpec> = (0..ROUTES).map(spec).collect();
        let before = HELD.get();
        let table = RouteTable::compile(&specs, &Options::default()).unwrap();
        let bytes = (HELD.get() - before) as usize / table.routes().len();
        println!("{source}: {bytes} B per route");
        assert!(bytes <= 1024, "{bytes} B per route with the source {source}");
    }
}
