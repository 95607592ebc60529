//! Retained messages, by what clients are sent (MQTT 5.0 §3.3.1.3, §3.8.3.1).

use model::{Limits, Qos};
use wire::{AckKind, ReasonCode, RetainHandling, Version, Will};

use crate::Plan;
use crate::testbench::{Bench, Got, Seen};

const QOS0: Qos = Qos::AtMostOnce;
const QOS1: Qos = Qos::AtLeastOnce;

/// A bench with a connected publisher.
fn bench(shards: usize) -> (Bench, usize) {
    bench_with(shards, Limits::DEFAULT)
}

fn bench_with(shards: usize, limits: Limits) -> (Bench, usize) {
    let mut bench = Bench::with(shards, limits, Plan::empty());
    let publisher = bench.client("p", Version::V5, 0);
    bench.connect(publisher);
    (bench, publisher)
}

fn retain(bench: &mut Bench, publisher: usize, topic: &str, payload: &str, id: u16) {
    bench.publish_with(publisher, topic, payload, id, |publish| publish.retain = true);
    bench.settle();
}

/// A new client in `home` that subscribes, and what it gets.
fn newcomer(bench: &mut Bench, version: Version, home: usize, filter: &str) -> Vec<Got> {
    let client = bench.client("newcomer", version, home);
    bench.connect(client);
    bench.subscribe_with(client, filter, QOS1, 0, |_| {});
    bench.settle();
    let got = after_suback(bench, client);
    bench.cut(client);
    bench.clients[client].id.push('x'); // the name is free for the next one
    bench.settle();
    got
}

/// What came behind SUBACK; nothing came before it.
fn after_suback(bench: &mut Bench, client: usize) -> Vec<Got> {
    let mut seen = bench.take(client).into_iter();
    assert!(matches!(seen.next(), Some(Seen::SubAck(_))));
    let publish = |seen| match seen {
        Seen::Publish(got) => got,
        other => panic!("{other:?} instead of PUBLISH"),
    };
    seen.map(publish).collect()
}

/// Starts again with `count` topics `t/0000` …, every other one at QoS 1.
fn fill(bench: &mut Bench, count: usize) {
    for number in 0..count {
        let (topic, qos) = (format!("t/{number:04}"), [QOS0, QOS1][number % 2]);
        let record = crate::retained::record::on_disk(&topic, "x", qos);
        bench.disk.retained.insert(topic, record);
    }
    bench.crash();
    bench.settle();
}

fn texts(got: &[Got]) -> Vec<String> {
    got.iter().map(Got::text).collect()
}

/// [MQTT-3.3.1-5] [MQTT-3.3.1-8] [MQTT-3.3.1-9] [MQTT3-3.3.1-5] [MQTT3-3.3.1-6] [MQTT3-3.3.1-7] [MQTT3-3.3.1-8]
/// [MQTT3-3.3.1-12]
#[test]
fn the_last_message_of_a_topic_meets_who_comes_later_in_every_shard() {
    let (mut bench, publisher) = bench(3);
    retain(&mut bench, publisher, "t/1", "first", 1);
    retain(&mut bench, publisher, "t/1", "last", 2);
    retain(&mut bench, publisher, "t/2", "before", 2);
    retain(&mut bench, publisher, "t/2", "other", 0);
    bench.publish(publisher, "t/1", "passing", 3);
    bench.settle();
    for home in 0..3 {
        for version in [Version::V3, Version::V5] {
            let got = newcomer(&mut bench, version, home, "t/#");
            assert_eq!(texts(&got), ["last", "other"]);
            assert!(got.iter().all(|got| got.retain));
            assert_eq!((got[0].qos, got[1].qos), (QOS1, QOS0));
        }
    }
}

/// [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT3-3.3.1-10] [MQTT3-3.3.1-11]
#[test]
fn an_empty_payload_clears_and_is_itself_delivered() {
    let (mut bench, publisher) = bench(2);
    let subscriber = bench.client("s", Version::V3, 1);
    bench.connect(subscriber);
    bench.subscribe(subscriber, "t", QOS1);
    retain(&mut bench, publisher, "t", "x", 1);
    retain(&mut bench, publisher, "t", "", 2);
    let got = bench.got(subscriber);
    assert_eq!((texts(&got), got[0].retain, got[1].retain), (vec!["x".into(), String::new()], false, false));
    for home in 0..2 {
        assert!(newcomer(&mut bench, Version::V5, home, "t").is_empty());
        assert!(newcomer(&mut bench, Version::V5, home, "#").is_empty());
    }
    assert!(bench.disk.retained.is_empty());
    assert_eq!(bench.brokers[0].retained().messages, 0);
}

/// [MQTT-3.3.1-12] [MQTT-3.3.1-13] [MQTT3-3.3.1-9]
#[test]
fn a_live_delivery_has_retain_only_where_it_is_kept_as_published() {
    let (mut bench, publisher) = bench(1);
    let (old, plain, faithful) = (
        bench.client("o", Version::V3, 0),
        bench.client("s", Version::V5, 0),
        bench.client("f", Version::V5, 0),
    );
    for client in [old, plain, faithful] {
        bench.connect(client);
        bench.subscribe_with(client, "t", QOS1, 0, |it| it.retain_as_published = client == faithful);
        bench.settle();
        bench.take(client);
    }
    retain(&mut bench, publisher, "t", "x", 1);
    let flags = [old, plain, faithful].map(|client| bench.got(client)[0].retain);
    assert_eq!(flags, [false, false, true]);
}

/// [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.8.4-3] [MQTT-3.8.4-4]
#[test]
fn retain_handling_decides_what_a_subscription_gets() {
    let (mut bench, publisher) = bench(2);
    retain(&mut bench, publisher, "t", "x", 1);
    let client = bench.client("s", Version::V5, 1);
    bench.connect(client);
    let mut subscribe = |handling, expected: usize| {
        bench.subscribe_with(client, "t", QOS0, 0, |it| it.retain_handling = handling);
        bench.settle();
        assert_eq!(after_suback(&mut bench, client).len(), expected, "{handling:?}");
    };
    subscribe(RetainHandling::DoNotSend, 0);
    subscribe(RetainHandling::SendIfNew, 0);
    subscribe(RetainHandling::Send, 1);
    subscribe(RetainHandling::Send, 1);
    subscribe(RetainHandling::SendIfNew, 0);
    bench.unsubscribe(client, "t");
    bench.settle();
    bench.take(client);
    bench.subscribe_with(client, "t", QOS0, 0, |it| it.retain_handling = RetainHandling::SendIfNew);
    bench.settle();
    assert_eq!(after_suback(&mut bench, client).len(), 1);
}

/// [MQTT3-3.8.4-3]
#[test]
fn a_repeated_subscription_of_3_1_1_gets_it_again() {
    let (mut bench, publisher) = bench(1);
    retain(&mut bench, publisher, "t", "x", 1);
    let client = bench.client("s", Version::V3, 0);
    bench.connect(client);
    for _ in 0..2 {
        bench.subscribe_with(client, "t", QOS0, 0, |_| {});
        bench.settle();
        assert_eq!(texts(&after_suback(&mut bench, client)), ["x"]);
    }
}

/// [MQTT-3.3.4-3] [MQTT-3.8.4-8]
#[test]
fn each_of_two_filters_gets_it_with_its_identifier_at_its_qos() {
    let (mut bench, publisher) = bench(1);
    retain(&mut bench, publisher, "a/b", "x", 1);
    let client = bench.client("s", Version::V5, 0);
    bench.connect(client);
    for (filter, qos, id) in [("a/+", QOS0, 3), ("a/#", QOS1, 4)] {
        bench.subscribe_with(client, filter, qos, id, |_| {});
        bench.settle();
        let got = after_suback(&mut bench, client);
        assert_eq!((got.len(), got[0].qos, &got[0].ids[..]), (1, qos, &[id][..]));
    }
}

/// [MQTT-4.7.2-1]
#[test]
fn a_leading_wildcard_does_not_reach_topics_with_a_dollar_sign() {
    let (mut bench, publisher) = bench(1);
    retain(&mut bench, publisher, "$internal/x", "hidden", 1);
    retain(&mut bench, publisher, "x", "seen", 2);
    assert_eq!(texts(&newcomer(&mut bench, Version::V5, 0, "#")), ["seen"]);
    assert_eq!(texts(&newcomer(&mut bench, Version::V5, 0, "$internal/#")), ["hidden"]);
}

/// [MQTT-3.8.3-3]: it names no exception for retained messages.
#[test]
fn no_local_keeps_own_retained_messages_away() {
    let (mut bench, publisher) = bench(1);
    retain(&mut bench, publisher, "t", "own", 0);
    bench.subscribe_with(publisher, "t", QOS0, 0, |it| it.no_local = true);
    bench.settle();
    assert!(after_suback(&mut bench, publisher).is_empty());
    bench.subscribe_with(publisher, "t", QOS0, 0, |_| {});
    bench.settle();
    assert_eq!(texts(&after_suback(&mut bench, publisher)), ["own"]);
}

/// [MQTT-3.3.2-5] [MQTT-3.3.2-6]
#[test]
fn a_retained_message_expires_and_says_how_long_it_has_left() {
    let (mut bench, publisher) = bench(2);
    bench.publish_with(publisher, "t", "x", 1, |publish| {
        (publish.retain, publish.expiry_secs) = (true, Some(10));
    });
    bench.settle();
    assert_eq!(bench.disk.retained.len(), 1);
    bench.pass(4_000);
    let got = newcomer(&mut bench, Version::V5, 1, "t");
    assert_eq!((got.len(), got[0].expiry_secs), (1, Some(6)));
    bench.pass(5_999);
    bench.settle();
    assert_eq!(newcomer(&mut bench, Version::V5, 1, "t").len(), 1);
    bench.now.timestamp.0 += 1;
    assert!(newcomer(&mut bench, Version::V5, 1, "t").is_empty(), "before anybody swept");
    bench.pass(1);
    bench.settle();
    assert_eq!((bench.counters().retained_expired, bench.disk.retained.len()), (1, 0));
    assert!(bench.brokers.iter().all(|broker| broker.retained().messages == 0));
}

/// [MQTT-3.1.2-15] [MQTT3-3.1.2-17]
#[test]
fn a_will_may_be_retained() {
    let (mut bench, _) = bench(2);
    let device = bench.client("device", Version::V5, 1);
    let mut hello = bench.hello(device);
    hello.will = Some(Will {
        topic: "state".into(),
        payload: b"gone".to_vec(),
        qos: QOS1,
        retain: true,
        ..Will::default()
    });
    bench.connect_with(device, &hello);
    bench.settle();
    bench.cut(device);
    bench.settle();
    assert_eq!(texts(&newcomer(&mut bench, Version::V3, 0, "state")), ["gone"]);
}

/// MQTT 5.0 §3.3.2.2.3: what passes through, passes through later, too.
#[test]
fn properties_are_retained() {
    let (mut bench, publisher) = bench(1);
    let mut block = wire::BlockBuilder::default();
    block.content_type("text/plain").unwrap().user("a", "1").unwrap();
    bench.publish_with(publisher, "t", "x", 0, |publish| {
        (publish.retain, publish.properties) = (true, block.as_bytes());
    });
    bench.crash();
    bench.settle();
    let contents = bench.brokers[0].retained.contents();
    assert!(contents.is_empty(), "QoS 0 promises nothing before the disk has it");
    bench.connect(publisher);
    bench.publish_with(publisher, "t", "x", 1, |publish| {
        (publish.retain, publish.properties, publish.expiry_secs) = (true, block.as_bytes(), Some(10));
    });
    bench.settle();
    bench.pass(4_000);
    bench.crash();
    bench.settle();
    let got = newcomer(&mut bench, Version::V5, 0, "t");
    assert_eq!((texts(&got), got[0].expiry_secs), (vec!["x".to_owned()], Some(6))); // [MQTT-3.3.2-6]
    let found = got[0].properties.windows(block.as_bytes().len()).any(|window| window == block.as_bytes());
    assert!(found, "the properties come with it: {:?}", got[0].properties);
    bench.pass(6_001);
    bench.crash();
    bench.settle();
    assert!(newcomer(&mut bench, Version::V5, 0, "t").is_empty(), "it expires also across a restart");
}

/// [MQTT-4.3.2-4] [MQTT3-4.3.2-2]: PUBACK promises that it is retained.
#[test]
fn puback_waits_until_the_owner_of_the_topic_has_it_on_disk() {
    for topic in ["a", "b", "c", "d", "e", "f"] {
        let (mut bench, publisher) = bench(3);
        bench.publish_with(publisher, topic, "x", 1, |publish| publish.retain = true);
        bench.settle_mail();
        assert_eq!(bench.take(publisher), [], "{topic}: the disk has done nothing");
        bench.settle();
        assert_eq!(bench.take(publisher), [Seen::PubAck(1)]);
        bench.crash();
        bench.settle();
        for home in 0..3 {
            assert_eq!(texts(&newcomer(&mut bench, Version::V5, home, topic)), ["x"]);
        }
        bench.connect(publisher);
        bench.publish_with(publisher, topic, "", 1, |publish| publish.retain = true);
        bench.settle();
        assert_eq!(bench.take(publisher), [Seen::PubAck(1)]);
        bench.crash();
        bench.settle();
        assert!(newcomer(&mut bench, Version::V5, 0, "#").is_empty(), "{topic}: a clear is kept, too");
    }
}

/// Two publishers in different shards write the same topic at once: all shards and the disk agree on one of them.
#[test]
fn shards_agree_on_concurrent_updates() {
    for first in 0..3 {
        let (mut bench, _) = bench(3);
        let publishers = [0, 1, 2].map(|home| {
            let client = bench.client(&format!("p{home}-"), Version::V5, home);
            bench.connect(client);
            client
        });
        for round in 0..4 {
            for at in 0..3 {
                let payload = format!("{round}/{at}");
                let payload = if round == 2 && at == 1 { "" } else { &payload };
                let publisher = publishers[(first + at) % 3];
                bench.publish_with(publisher, "t", payload, 1 + round, |publish| publish.retain = true);
            }
            if round == 1 {
                bench.deliver_mail(first, (first + 1) % 3);
            }
        }
        bench.settle();
        let contents: Vec<_> = bench.brokers.iter().map(|broker| broker.retained.contents()).collect();
        assert_eq!((&contents[0], contents[0].len()), (&contents[1], 1));
        assert_eq!(contents[0], contents[2]);
        bench.crash();
        bench.settle();
        assert_eq!(bench.brokers[0].retained.contents(), contents[0], "so does the disk");
    }
}

/// An update that crosses a SUBSCRIBE comes once: retained if it was there before, live if it came after.
#[test]
fn a_subscriber_sees_neither_gap_nor_double() {
    // How many letters arrive between SUBSCRIBE and everything else decides who is first.
    for early in 0..12 {
        let (mut bench, publisher) = bench(3);
        retain(&mut bench, publisher, "t", "0", 1);
        let subscriber = bench.client("s", Version::V5, 2);
        bench.connect(subscriber);
        bench.take(publisher);
        for number in 1..4u16 {
            bench.publish_with(publisher, "t", &number.to_string(), 1 + number, |it| it.retain = true);
            if number == 2 {
                bench.subscribe_with(subscriber, "t", QOS1, 0, |_| {});
            }
            for letter in 0..early {
                bench.deliver_mail(letter % 3, letter / 3 % 3);
                if letter % 4 == 3 {
                    bench.walk_step();
                }
            }
        }
        bench.settle();
        let seen = bench.take(subscriber).into_iter();
        let got: Vec<Got> =
            seen.filter_map(|it| if let Seen::Publish(got) = it { Some(got) } else { None }).collect();
        let numbers: Vec<u16> = got.iter().map(|got| got.text().parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{early}: {numbers:?}");
        assert_eq!(numbers.last(), Some(&3), "{early}: {numbers:?}");
        assert!(got.iter().filter(|got| got.retain).count() <= 1, "{early}");
    }
}

fn small() -> Limits {
    Limits {
        session_queue_messages_max: 20,
        session_inflight_max: 10,
        outbox_bytes_max: 2_000,
        ..Limits::DEFAULT
    }
}

/// [MQTT-3.3.1-9]: all of them, whatever the bounds of the session, and nothing is dropped.
#[test]
fn a_slow_subscriber_gets_everything_at_its_own_pace() {
    for (stored, qos) in [(false, QOS0), (false, QOS1), (true, QOS1), (true, QOS0)] {
        let (mut bench, _) = bench_with(2, small());
        fill(&mut bench, 1_500);
        let client = bench.client("s", Version::V5, 1);
        if stored {
            bench.resume(client);
        } else {
            bench.connect(client);
        }
        bench.clients[client].takes = 300;
        bench.subscribe_with(client, "t/+", qos, 0, |_| {});
        let mut topics = Vec::new();
        for _ in 0..20_000 {
            bench.settle();
            let seen = bench.take(client);
            for it in seen {
                if let Seen::Publish(got) = it {
                    topics.push(got.topic);
                    if got.id != 0 {
                        bench.ack(client, got.id);
                    }
                }
            }
            if topics.len() == 1_500 {
                break;
            }
            bench.drip(client);
            bench.pass(1);
        }
        bench.settle();
        topics.sort();
        let expected: Vec<String> = (0..1_500).map(|number| format!("t/{number:04}")).collect();
        assert_eq!(topics, expected, "stored {stored} {qos:?}");
        let counters = bench.counters();
        let dropped: u64 =
            counters.each().filter(|(name, _)| name.starts_with("dropped")).map(|(_, it)| it).sum();
        assert_eq!((dropped, bench.brokers[1].retained().walks), (0, 0));
    }
}

/// Others have their turn between two slices, and a slice is bounded, however many there are.
#[test]
fn a_large_set_is_sent_in_slices() {
    const TOPICS: usize = 100_000;
    let (mut bench, publisher) = bench(1);
    fill(&mut bench, TOPICS);
    bench.connect(publisher);
    let client = bench.client("s", Version::V5, 0);
    bench.connect(client);
    bench.subscribe_with(client, "t/+", QOS0, 0, |_| {});
    let mut slices = Vec::new();
    while bench.walk_step() {
        bench.ping(publisher);
        assert!(bench.take(publisher).contains(&Seen::PingResp));
        slices.push(bench.take(client).iter().filter(|it| matches!(it, Seen::Publish(_))).count());
    }
    assert_eq!(slices.iter().sum::<usize>(), TOPICS);
    assert!(slices.iter().all(|slice| *slice <= 512), "{slices:?}");
}

/// [MQTT-3.3.1-9]: SUBACK to a stored session promises what was retained at QoS 1, connected or not, crash or not.
#[test]
fn a_stored_session_has_what_was_retained_once_suback_is_sent() {
    let (mut bench, _) = bench(2);
    fill(&mut bench, 1_400);
    let client = bench.client("s", Version::V3, 1);
    bench.resume(client);
    bench.clients[client].takes = 20; // SUBACK and little else
    bench.subscribe_with(client, "t/#", QOS1, 0, |_| {});
    bench.settle();
    assert!(matches!(bench.take(client)[0], Seen::SubAck(_)));
    bench.crash();
    bench.settle();
    bench.clients[client].takes = usize::MAX;
    assert!(bench.resume(client));
    let mut topics = std::collections::BTreeSet::new();
    loop {
        let got = bench.got(client);
        if got.is_empty() {
            break;
        }
        for it in got {
            assert!(it.retain && it.qos == QOS1);
            topics.insert(it.topic);
            bench.ack(client, it.id);
        }
        bench.settle();
    }
    assert_eq!(topics.len(), 700);
}

/// MQTT 5.0 §4.8.2: none for shared subscriptions; [MQTT-3.10.4-2]: nothing new after UNSUBSCRIBE.
#[test]
fn an_unsubscription_ends_the_walk() {
    let (mut bench, _) = bench(1);
    fill(&mut bench, 2_000);
    let client = bench.client("s", Version::V5, 0);
    bench.connect(client);
    bench.subscribe_with(client, "t/+", QOS0, 0, |_| {});
    bench.walk_step();
    bench.unsubscribe(client, "t/+");
    let before = bench.take(client).len();
    assert!((500..600).contains(&before));
    bench.settle();
    assert_eq!(bench.take(client), []);
    assert_eq!(bench.brokers[0].retained().walks, 0);
}

/// Over the bound 5.0 hears of it and nothing is forwarded; who cannot hear it is served, but nothing is kept, nor
/// what was there before: it is not the last message any more.
#[test]
fn a_full_set_refuses_or_forwards_without_retaining() {
    let limits = Limits { retained_messages_max: 2, retained_bytes_max: 1_000, ..Limits::DEFAULT };
    let (mut bench, publisher) = bench_with(2, limits);
    let (old, subscriber) = (bench.client("old", Version::V3, 1), bench.client("s", Version::V5, 1));
    bench.connect(old);
    bench.connect(subscriber);
    bench.subscribe(subscriber, "#", QOS1);
    retain(&mut bench, publisher, "a", "1", 1);
    retain(&mut bench, publisher, "b", "1", 2);
    bench.take(publisher);
    bench.got(subscriber);
    retain(&mut bench, publisher, "c", "1", 3);
    assert_eq!(bench.take(publisher), [Seen::Refused(AckKind::PubAck, 3, ReasonCode::QUOTA_EXCEEDED)]);
    assert_eq!((bench.texts(subscriber).len(), bench.counters().retained_refused), (0, 1));
    retain(&mut bench, publisher, "c", "2", 0);
    retain(&mut bench, old, "c", "3", 1);
    assert_eq!(bench.texts(subscriber), ["2", "3"]);
    assert_eq!(bench.counters().retained_not, 2);
    let long = "x".repeat(1_000);
    retain(&mut bench, publisher, "a", &long, 0);
    assert_eq!(bench.texts(subscriber), [long]);
    for home in 0..2 {
        let got = newcomer(&mut bench, Version::V5, home, "#");
        assert_eq!(
            got.iter().map(|got| &got.topic[..]).collect::<Vec<_>>(),
            ["b"],
            "an old message is not the last"
        );
    }
    assert_eq!(bench.disk.retained.keys().collect::<Vec<_>>(), ["b"]);
    bench.settle();
    retain(&mut bench, publisher, "c", "4", 4);
    assert_eq!(texts(&newcomer(&mut bench, Version::V5, 0, "c")), ["4"], "there is room again");
}

/// What the broker says of itself is retained in all shards, not on disk, and not counted.
#[test]
fn the_broker_publishes_under_sys() {
    let (mut bench, _) = bench(2);
    let subscriber = bench.client("s", Version::V3, 1);
    bench.connect(subscriber);
    bench.subscribe(subscriber, "$SYS/#", QOS1);
    for uptime in ["1 seconds", "2 seconds"] {
        bench.publish_system("$SYS/broker/uptime", uptime);
        bench.settle();
    }
    assert_eq!(bench.texts(subscriber), ["1 seconds", "2 seconds"]);
    for home in 0..2 {
        let got = newcomer(&mut bench, Version::V5, home, "$SYS/broker/+");
        assert_eq!((texts(&got), got[0].retain), (vec!["2 seconds".to_owned()], true));
        assert!(newcomer(&mut bench, Version::V5, home, "#").is_empty());
        assert_eq!((bench.brokers[home].retained().messages, bench.brokers[home].retained().bytes), (0, 0));
    }
    assert!(bench.disk.retained.is_empty());
    assert_eq!((bench.counters().received, bench.counters().unmatched), (0, 0));
}

/// MQTT 5.0 §4.7.2: `$SYS/` is the broker's own.
#[test]
fn clients_do_not_publish_under_sys() {
    let (mut bench, publisher) = bench(1);
    let old = bench.v3_device();
    let subscriber = bench.client("s", Version::V5, 0);
    bench.connect(subscriber);
    bench.subscribe(subscriber, "$SYS/#", QOS1);
    for (client, id) in [(publisher, 1), (publisher, 0), (old, 1)] {
        retain(&mut bench, client, "$SYS/broker/version", "mine", id);
    }
    let twice = b"\x30\x08\0\x06$SYS/x\x30\x08\0\x06$SYS/x"; // taken as one run if it were allowed
    bench.send(old, twice);
    assert_eq!(bench.take(subscriber), []);
    let refused = Seen::Refused(AckKind::PubAck, 1, ReasonCode::NOT_AUTHORIZED);
    assert_eq!((bench.take(publisher), bench.take(old)), (vec![refused], vec![Seen::PubAck(1)]));
    assert_eq!(bench.counters().dropped_system_topic, 5);
    let device = bench.client("will", Version::V5, 0);
    let mut hello = bench.hello(device);
    hello.will = Some(Will { topic: "$SYS/broker/x".into(), ..Will::default() });
    bench.connect_with(device, &hello);
    assert!(
        matches!(bench.take(device)[0], Seen::ConnAck { reason: ReasonCode::NOT_AUTHORIZED, .. }),
        "nor leave a will there"
    );
}
