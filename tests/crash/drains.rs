//! Kills while a backlog grows beyond what RocksDB leaves unmerged, and while it drains to an upstream that comes and goes.
//!
//! In: a seed. Always: what was acknowledged reaches the upstream, in order by topic once repeats are taken out.
//!
//! A lane alone is never merged: each of its tables lies behind the one before, so RocksDB moves them. Two lanes in one table
//! are between each other's; so there are two topics, of two priorities, in turns.

use harness::{Proxy, Recorder, Router, Signal, Version, until, v5};

use crate::chaos::Chaos;
use crate::gateway;

/// Each goes through a lane of its own.
const TOPICS: [&str; 2] = ["load/ordinary", "load/urgent"];
/// Messages for one topic before it is the other's turn: a few turns in each table.
const TURN: usize = 250;

/// Messages of a kilobyte in one part of the backlog: two or three tables of the size that `gateway` gives them.
const PART: usize = 2_500;
/// Parts that make RocksDB merge at least once: it begins at eight tables.
const PARTS: usize = 6;
/// Storms while it drains, at most; each lets some of it through.
const STORMS_MAX: u64 = 200;

/// A kilobyte that the store cannot compress, with its number before it.
fn payload(number: usize) -> String {
    let mut state = number as u64 ^ 0x9E37_79B9_7F4A_7C15;
    let letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'A' + (state % 58) as u8)
    };
    format!("{number} {}", std::iter::repeat_with(letter).take(1_000).collect::<String>())
}

/// Whose turn a number is.
fn topic_of(number: usize) -> &'static str {
    TOPICS[number / TURN % TOPICS.len()]
}

/// Kills it, perhaps once more while it starts.
fn kill_and_start_again(chaos: &mut Chaos, router: &mut Router) {
    chaos.kill(router);
    if chaos.below(3) == 0 {
        router.spawn_again();
        chaos.wait(0, 80);
        router.process().signal(Signal::Kill);
        router.process().wait();
    }
    router.start_again();
}

/// The names of the sorted files of a store.
fn sorted_files(router: &Router) -> Vec<String> {
    let entries = std::fs::read_dir(router.store().join("rocksdb")).expect("a directory");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.ends_with(".sst")).collect()
}

#[test]
fn a_gateway_killed_while_it_merges_and_while_it_drains_to_a_flapping_upstream_loses_nothing() {
    let mut chaos = Chaos::new("drains");
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    network.cut();
    let setup = gateway(&mut chaos)
        .uplink(network.address(), Version::V5)
        .set("routes.ordinary.route", r#"FROM "load/ordinary" INTO $upstream"#)
        .set("routes.urgent.route", r#"FROM "load/urgent" INTO $upstream"#)
        .set("routes.urgent.priority", 0);
    let mut router = setup.start();
    let (mut count, mut first_files, mut merged) = (0, Vec::new(), false);
    for _ in 0..PARTS {
        let mut publisher = router.connect(&v5("publisher"));
        for first in (count..count + PART).step_by(TURN) {
            publisher.publish_all(topic_of(first), (first..first + TURN).map(payload));
        }
        drop(publisher);
        count += PART;
        // What was there is gone although nothing was delivered: it was merged.
        let files = sorted_files(&router);
        merged |= first_files.iter().any(|name| !files.contains(name));
        first_files.extend(files);
        chaos.wait(0, 100);
        kill_and_start_again(&mut chaos, &mut router);
    }
    until("files to be merged", || {
        let files = sorted_files(&router);
        (merged || first_files.iter().any(|name| !files.contains(name))).then_some(())
    });
    assert_eq!(router.backlog(), count as u64);
    for _ in 0..STORMS_MAX {
        network.mend();
        chaos.wait(0, 120);
        match chaos.below(4) {
            0 => kill_and_start_again(&mut chaos, &mut router),
            1 => network.cut(),
            2 => upstream.end_connections(),
            _ => {
                upstream.silent(true);
                chaos.wait(0, 60);
                upstream.silent(false);
                upstream.end_connections();
            }
        }
        if router.backlog() == 0 {
            break;
        }
    }
    network.mend();
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    let record = upstream.record();
    for topic in TOPICS {
        let mut expected = (0..count).filter(|number| topic_of(*number) == topic).peekable();
        for message in record.iter().filter(|message| message.topic == topic) {
            let number: usize = message
                .text()
                .split(' ')
                .next()
                .and_then(|it| it.parse().ok())
                .expect("a number comes first");
            assert_eq!(topic_of(number), topic, "{number}");
            assert_eq!(message.text(), payload(number), "bit by bit");
            let is_new = expected.next_if_eq(&number).is_some();
            let is_repeat = expected.peek().is_none_or(|next| number < *next);
            assert!(is_new || is_repeat, "{number} came before {:?} ({chaos})", expected.peek());
        }
        assert_eq!(expected.next(), None, "{topic}: the first that never arrived ({chaos})");
    }
}
