//! The set and the walk through it agree with the plain rules, whatever happens in whatever order.

use model::Qos;
use proptest::prelude::*;

use super::filter::{Look, look, start};
use super::record::{decode_retained, encode};
use super::*;

const NOW: Instant = Instant(0);

fn envelope<'a>(topic: &'a str, payload: &'a [u8]) -> Envelope<'a> {
    Envelope {
        topic,
        client_id: "c",
        user: "",
        qos: Qos::AtLeastOnce,
        retain: true,
        properties: &[],
        payload,
    }
}

fn message(topic: &str, payload: &[u8]) -> Record {
    if payload.is_empty() { Record::gone(topic) } else { Record::new(&envelope(topic, payload)) }
}

/// Every topic that a walk along `filter` finds, and how many it looked at.
fn walk(retained: &Retained, filter: &str) -> (Vec<String>, usize) {
    let (mut found, mut looked, mut seek) = (Vec::new(), 0, Vec::new());
    let mut topics = retained.from(start(filter).as_bytes());
    while let Some((record, _)) = topics.next() {
        looked += 1;
        match look(filter, record.topic(), &mut seek) {
            Look::Match => found.push(String::from_utf8(record.topic().to_vec()).unwrap()),
            Look::Next => {}
            Look::Seek => {
                assert!(&seek[..] > record.topic(), "it never goes back");
                topics = retained.from(&seek);
            }
            Look::End => break,
        }
    }
    (found, looked)
}

fn filled<'a>(topics: impl IntoIterator<Item = &'a str>) -> Retained {
    let mut retained = Retained::default();
    for (number, topic) in topics.into_iter().enumerate() {
        retained.apply(Version(number as u64 + 1), message(topic, b"x"), None, NOW, false);
    }
    retained.invariants();
    retained
}

/// [MQTT-4.7.1-1] [MQTT-4.7.1-2]
#[test]
fn a_walk_does_not_look_where_nothing_can_match() {
    let topics: Vec<String> =
        (0..50).flat_map(|a| (0..50).map(move |b| format!("site{a}/sensor{b}/state"))).collect();
    let retained = filled(topics.iter().map(String::as_str));
    for (filter, found, looked_max) in [
        ("site7/sensor9/state", 1, 2),
        ("site7/#", 50, 52),
        ("site7/+/state", 50, 52),
        ("site7/+/command", 0, 102),
        ("+/sensor9/state", 50, 202),
        ("+/+", 0, 2_502),
        ("nowhere/#", 0, 1),
        ("#", 2_500, 2_500),
    ] {
        let (topics, looked) = walk(&retained, filter);
        assert_eq!(topics.len(), found, "{filter}");
        assert!(looked <= looked_max, "{filter}: looked at {looked}");
    }
}

/// [MQTT-4.7.2-1]
#[test]
fn leading_wildcards_do_not_find_topics_of_the_broker() {
    let retained = filled(["#x", "$SYS/broker/uptime", "$SYS/broker/version", "a", "!"]);
    assert_eq!(walk(&retained, "#").0, ["!", "#x", "a"]);
    assert_eq!(walk(&retained, "+/broker/#").0, [""; 0]);
    assert_eq!(walk(&retained, "$SYS/#").0, ["$SYS/broker/uptime", "$SYS/broker/version"]);
}

#[test]
fn an_older_update_never_comes_back_even_behind_a_clear() {
    let mut retained = Retained::default();
    let mut apply = |version, payload: &[u8], millis| {
        let now = Instant::default().plus_millis(millis);
        retained.forget_gone(now);
        retained.apply(Version(version), message("t", payload), None, now, true);
        retained.invariants();
        retained.contents().into_iter().next().map(|(_, _, payload)| payload)
    };
    assert_eq!(apply(5, b"five", 0), Some(b"five".to_vec()));
    assert_eq!(apply(4, b"four", 0), Some(b"five".to_vec()));
    assert_eq!(apply(7, b"", 0), None);
    assert_eq!(apply(6, b"six", GONE_MILLIS), None, "the clear is remembered");
    assert_eq!(apply(8, b"eight", GONE_MILLIS), Some(b"eight".to_vec()));
    assert_eq!(apply(9, b"", GONE_MILLIS), None);
    assert_eq!(apply(1, b"one", 2 * GONE_MILLIS + 1), Some(b"one".to_vec()), "and forgotten one day");
}

#[test]
fn cleared_topics_are_remembered_up_to_a_bound() {
    let mut retained = Retained::default();
    for number in 0..GONE_MAX as u64 + 10 {
        let topic = format!("t{number}");
        retained.apply(Version(number + 1), message(&topic, b""), None, NOW, true);
    }
    retained.invariants();
    assert_eq!((retained.topics.len(), retained.messages), (GONE_MAX, 0));
}

#[test]
fn what_expired_is_swept_in_slices() {
    let mut retained = Retained::default();
    for number in 0..2_000u64 {
        let expires = (number % 2 == 0).then_some(Timestamp(number));
        retained.apply(Version(number + 1), message(&format!("{number:05}"), b"x"), expires, NOW, false);
    }
    let mut swept = Vec::new();
    while retained.expiring > 0 {
        let some = retained.sweep(Timestamp(5_000), NOW, true).len();
        assert!(some <= SWEEP / 2);
        swept.push(some);
        retained.invariants();
    }
    assert_eq!((swept.iter().sum::<usize>(), retained.messages), (1_000, 1_000));
    assert!(swept.len() >= 4);
}

#[test]
fn the_bounds_count_what_is_replaced() {
    let mut retained = filled(["a", "b"]);
    let bytes = envelope("a", b"x").encoded_len() + OVERHEAD_BYTES;
    let limits = |messages, bytes: usize| Limits {
        retained_messages_max: messages,
        retained_bytes_max: bytes as u64,
        ..Limits::DEFAULT
    };
    assert!(retained.fits(&envelope("c", b"x"), &limits(3, 3 * bytes)));
    assert!(!retained.fits(&envelope("c", b"x"), &limits(2, 3 * bytes)));
    assert!(!retained.fits(&envelope("c", b"x"), &limits(3, 3 * bytes - 1)));
    assert!(retained.fits(&envelope("a", b"y"), &limits(2, 2 * bytes)));
    assert!(!retained.fits(&envelope("a", b"yy"), &limits(2, 2 * bytes)));
    assert!(retained.fits(&envelope("c", b""), &limits(0, 0)), "clearing always fits");
    retained.apply(Version(9), message("a", b""), None, NOW, false);
    assert!(retained.fits(&envelope("c", b"x"), &limits(2, 2 * bytes)));
}

fn level() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just(""), Just("a!"), Just("a-b"), Just("$s"), Just("a0")]
}

fn any_topic() -> impl Strategy<Value = String> {
    let levels = proptest::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"));
    levels.prop_filter("a topic is not empty", |topic| !topic.is_empty())
}

fn any_filter() -> impl Strategy<Value = String> {
    let wild = prop_oneof![3 => level(), 2 => Just("+")];
    let filters = (proptest::collection::vec(wild, 0..5), any::<bool>()).prop_map(|(mut levels, hash)| {
        if hash {
            levels.push("#");
        }
        levels.join("/")
    });
    filters.prop_filter("a filter is not empty", |filter| !filter.is_empty())
}

proptest! {
    /// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.2-1]
    #[test]
    fn a_walk_finds_what_a_naive_scan_finds(
        topics in proptest::collection::btree_set(any_topic(), 0..60),
        filters in proptest::collection::vec(any_filter(), 1..20),
    ) {
        let retained = filled(topics.iter().map(String::as_str));
        for filter in filters {
            let naive: Vec<String> =
                topics.iter().filter(|topic| model::filter_matches(&filter, topic)).cloned().collect();
            let (found, looked) = walk(&retained, &filter);
            prop_assert_eq!(found, naive, "{}", filter);
            prop_assert!(looked <= topics.len());
        }
    }

    #[test]
    fn replicas_agree_in_whatever_order_updates_come(
        updates in proptest::collection::vec((0usize..4, 0u8..3), 1..30),
        order in any::<prop::sample::Index>(),
        twice in any::<bool>(),
    ) {
        let updates: Vec<_> = updates
            .iter()
            .enumerate()
            .map(|(number, (topic, kind))| {
                let payload = if *kind == 0 { String::new() } else { number.to_string() };
                (Version(number as u64 + 1), format!("t{topic}"), payload)
            })
            .collect();
        let mut replicas = [Retained::default(), Retained::default()];
        let split = order.index(updates.len());
        let (late, early) = updates.split_at(split);
        for (version, topic, payload) in &updates {
            replicas[0].apply(*version, message(topic, payload.as_bytes()), None, NOW, true);
        }
        for (version, topic, payload) in early.iter().rev().chain(late).chain(if twice { early } else { &[] }) {
            replicas[1].apply(*version, message(topic, payload.as_bytes()), None, NOW, true);
        }
        replicas.iter().for_each(Retained::invariants);
        prop_assert_eq!(replicas[0].contents(), replicas[1].contents());
    }

    #[test]
    fn a_record_is_read_as_it_was_written(
        topic in any_topic(), version: u64, expires in proptest::option::of(1u64..), payload in proptest::collection::vec(any::<u8>(), 1..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let envelope = envelope(&topic, &payload);
        let mut bytes = Vec::new();
        encode(&mut bytes, Version(version), expires.map(Timestamp), &envelope);
        let record = decode_retained(topic.as_bytes(), &bytes).unwrap();
        prop_assert_eq!((record.version, record.expires), (version, expires.map(Timestamp)));
        prop_assert_eq!(Envelope::decode(&record.envelope).unwrap(), envelope);
        prop_assert!(decode_retained(b"another", &bytes).is_err());
        prop_assert!(decode_retained(topic.as_bytes(), &bytes[..cut.index(bytes.len() - payload.len())]).is_err());
    }
}
