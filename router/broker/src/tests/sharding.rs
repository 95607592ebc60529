//! Several shards as one broker.

use model::Qos;
use wire::{ReasonCode, Version};

use crate::testbench::{Bench, Seen};

#[test]
fn subscribers_of_all_shards_get_a_message_once() {
    let mut bench = Bench::new(3);
    let publisher = bench.client("p", Version::V5, 0);
    bench.connect(publisher);
    let mut clients = Vec::new();
    for number in 0..6 {
        let client = bench.client(
            &format!("s{number}-"),
            if number % 2 == 0 { Version::V3 } else { Version::V5 },
            number % 3,
        );
        bench.connect(client);
        bench.subscribe(client, "t/#", Qos::AtLeastOnce);
        bench.subscribe(client, "t/+", Qos::AtMostOnce);
        clients.push(client);
    }
    bench.publish_with(publisher, "t/1", "x", 1, |publish| publish.expiry_secs = Some(8));
    bench.settle();
    for client in clients {
        let got = bench.got(client);
        assert_eq!((got.len(), got[0].text(), got[0].qos), (1, "x".into(), Qos::AtLeastOnce));
    }
    assert_eq!(bench.counters().handed_off, 1);
}

#[test]
fn suback_waits_until_every_shard_knows() {
    let mut bench = Bench::new(3);
    let (publisher, subscriber) = (bench.client("p", Version::V5, 2), bench.client("s", Version::V5, 1));
    bench.connect(publisher);
    bench.connect(subscriber);
    bench.subscribe_with(subscriber, "t", Qos::AtMostOnce, 0, |_| {});
    assert_eq!(bench.take(subscriber), []);
    while bench.deliver_mail(0, 1) {}
    while bench.deliver_mail(1, 0) {}
    assert_eq!(bench.take(subscriber), [], "shard 2 does not know yet");
    bench.ping(subscriber);
    bench.settle();
    assert_eq!(bench.take(subscriber), [Seen::SubAck(vec![ReasonCode::SUCCESS]), Seen::PingResp]);
}

#[test]
fn an_unsubscribed_filter_is_forgotten_everywhere() {
    let mut bench = Bench::new(2);
    let (publisher, one, two) = (
        bench.client("p", Version::V5, 0),
        bench.client("one", Version::V5, 1),
        bench.client("two", Version::V5, 1),
    );
    for client in [publisher, one, two] {
        bench.connect(client);
    }
    bench.subscribe(one, "t", Qos::AtMostOnce);
    bench.subscribe(two, "t", Qos::AtMostOnce);
    bench.unsubscribe(one, "t");
    bench.settle();
    bench.publish(publisher, "t", "x", 0);
    bench.settle();
    assert_eq!(bench.texts(two), ["x"], "another one still wants it");
    bench.cut(two);
    bench.settle();
    bench.publish(publisher, "t", "y", 0);
    assert_eq!((bench.counters().handed_off, bench.counters().unmatched), (1, 1));
}

#[test]
fn no_socket_is_read_before_every_shard_has_its_sessions_back() {
    let mut bench = Bench::new(2);
    let (publisher, stored) = (bench.client("p", Version::V5, 0), bench.client("s", Version::V5, 1));
    bench.resume(stored);
    bench.subscribe(stored, "t", Qos::AtLeastOnce);
    bench.crash();
    bench.connect_with(publisher, &bench.hello(publisher));
    bench.publish(publisher, "t", "x", 1);
    assert_eq!(bench.take(publisher), [], "shard 0 does not know yet what shard 1 keeps");
    bench.settle();
    assert_eq!(bench.take(publisher).len(), 2);
    assert_eq!(bench.disk.session_payloads(&bench.clients[stored].id), ["x"]);
}

#[test]
fn a_takeover_finds_the_session_from_any_socket() {
    let mut bench = Bench::new(2);
    let client = bench.client("c", Version::V5, 1);
    bench.resume(client);
    let again = bench.client("c", Version::V5, 1);
    assert!(bench.resume(again));
    assert_eq!(bench.take(client), [Seen::Disconnect(ReasonCode::SESSION_TAKEN_OVER), Seen::Closed]);
    assert_eq!(bench.brokers[1].sessions(), 1);
}

#[test]
fn homes_are_spread_and_agreed_on() {
    let counts = (0..300).fold([0; 3], |mut counts, number| {
        counts[usize::from(crate::home(5, 3, &format!("client-{number}")).0)] += 1;
        counts
    });
    assert!(counts.iter().all(|count| *count > 60), "{counts:?}");
}
