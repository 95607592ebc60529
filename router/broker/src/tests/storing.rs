//! Sessions that outlive their connections.

use model::{Limits, Qos};
use wire::{ReasonCode, Version};

use crate::Plan;
use crate::testbench::{Bench, Got, Seen};

/// A publisher, and a stored subscriber of `t`.
fn bench(limits: Limits, version: Version) -> (Bench, usize, usize) {
    let mut bench = Bench::with(1, limits, Plan::empty());
    let (publisher, stored) = (bench.client("p", Version::V5, 0), bench.client("s", version, 0));
    bench.connect(publisher);
    assert!(!bench.resume(stored));
    bench.subscribe(stored, "t", Qos::AtLeastOnce);
    (bench, publisher, stored)
}

fn publish(bench: &mut Bench, publisher: usize, numbers: std::ops::RangeInclusive<u16>) {
    for number in numbers {
        bench.publish(publisher, "t", &number.to_string(), number);
    }
    bench.settle();
}

fn short(got: &[Got]) -> Vec<(String, u16, bool)> {
    got.iter().map(|got| (got.text(), got.id, got.dup)).collect()
}

fn entry(text: &str, id: u16, dup: bool) -> (String, u16, bool) {
    (text.to_owned(), id, dup)
}

#[test]
fn what_was_missed_comes_after_the_reconnect_in_order() {
    for version in [Version::V3, Version::V5] {
        let (mut bench, publisher, stored) = bench(Limits::DEFAULT, version);
        bench.cut(stored);
        publish(&mut bench, publisher, 1..=4);
        bench.publish(publisher, "t", "qos 0", 0);
        assert!(bench.resume(stored));
        let got = bench.got(stored);
        assert_eq!(
            short(&got),
            [entry("1", 1, false), entry("2", 2, false), entry("3", 3, false), entry("4", 4, false)]
        );
        publish(&mut bench, publisher, 5..=5);
        assert_eq!(bench.texts(stored), ["5"], "live again");
    }
}

#[test]
fn the_unacknowledged_comes_again_with_its_identifier_and_dup() {
    let (mut bench, publisher, stored) =
        bench(Limits { session_inflight_max: 3, ..Limits::DEFAULT }, Version::V5);
    publish(&mut bench, publisher, 1..=5);
    assert_eq!(bench.texts(stored), ["1", "2", "3"]);
    bench.ack(stored, 2);
    assert_eq!(bench.texts(stored), ["4"]);
    bench.cut(stored);
    assert!(bench.resume(stored));
    // [MQTT-4.4.0-1], [MQTT-3.3.1-1]
    assert_eq!(short(&bench.got(stored)), [entry("1", 1, true), entry("3", 3, true), entry("4", 4, true)]);
    bench.ack(stored, 1);
    bench.settle();
    assert_eq!(short(&bench.got(stored)), [entry("5", 5, false)], "5 was never sent before");
    assert_eq!(bench.counters().redelivered, 3);
}

#[test]
fn a_restart_changes_neither_identifiers_nor_order() {
    let (mut bench, publisher, stored) = bench(Limits::DEFAULT, Version::V5);
    publish(&mut bench, publisher, 1..=3);
    bench.ack(stored, 1);
    bench.settle();
    bench.crash();
    bench.settle();
    bench.take(stored);
    assert!(bench.resume(stored));
    assert_eq!(short(&bench.got(stored)), [entry("2", 2, true), entry("3", 3, true)]);
    bench.ack(stored, 2);
    bench.ack(stored, 3);
    bench.settle();
    bench.crash();
    bench.settle();
    assert!(bench.resume(stored));
    assert_eq!(bench.take(stored), []);
}

#[test]
fn what_was_not_durable_was_not_acknowledged_and_may_go() {
    let (mut bench, publisher, stored) = bench(Limits::DEFAULT, Version::V5);
    bench.publish(publisher, "t", "lost", 1);
    assert_eq!(bench.texts(stored), ["lost"], "delivered live, before the disk");
    bench.crash();
    bench.settle();
    bench.take(stored);
    assert_eq!(bench.take(publisher), [Seen::Closed]);
    assert!(bench.resume(stored));
    bench.connect(publisher);
    publish(&mut bench, publisher, 1..=1);
    assert_eq!(short(&bench.got(stored)), [entry("1", 1, false)], "its place and identifier are free again");
}

#[test]
fn a_session_that_falls_behind_reads_back_and_is_live_again() {
    let limits = Limits { session_inflight_max: 2, session_queue_messages_max: 2, ..Limits::DEFAULT };
    let (mut bench, publisher, stored) = bench(limits, Version::V5);
    publish(&mut bench, publisher, 1..=20);
    let mut seen = Vec::new();
    while seen.len() < 20 {
        let got = bench.got(stored);
        assert!(!got.is_empty(), "after {seen:?}");
        for got in got {
            assert!(!got.dup);
            bench.ack(stored, got.id);
            seen.push(got.text());
        }
        bench.settle();
    }
    assert_eq!(seen, (1..=20).map(|number| number.to_string()).collect::<Vec<_>>());
    bench.publish(publisher, "t", "live", 21);
    assert_eq!(bench.texts(stored), ["live"], "from memory, before the disk has it");
}

#[test]
fn an_answer_to_an_earlier_read_is_not_taken_for_a_later_one() {
    let limits = Limits { session_inflight_max: 2, session_queue_messages_max: 1, ..Limits::DEFAULT };
    let (mut bench, publisher, stored) = bench(limits, Version::V5);
    publish(&mut bench, publisher, 1..=6);
    bench.ack(stored, 1);
    bench.ack(stored, 2); // queue empty: a read from 4 is asked for
    bench.take(stored);
    bench.settle_but_reads();
    bench.cut(stored);
    bench.connect_with(stored, &bench.stored_hello(stored));
    bench.settle_but_reads(); // connected, and a read from 3 is asked for
    bench.settle();
    let first = bench.take(stored);
    assert!(matches!(&first[1], Seen::Publish(got) if got.text() == "3"), "3 is not lost: {first:?}");
}

#[test]
fn what_expires_on_disk_is_skipped_without_shifting_identifiers() {
    let (mut bench, publisher, stored) = bench(Limits::DEFAULT, Version::V5);
    bench.cut(stored);
    for (id, secs) in [(1, 100), (2, 5), (3, 5), (4, 100), (5, 5)] {
        bench.publish_with(publisher, "t", &id.to_string(), id, |publish| publish.expiry_secs = Some(secs));
    }
    bench.settle();
    bench.pass(10_000);
    assert!(bench.resume(stored));
    assert_eq!(short(&bench.got(stored)), [entry("1", 1, false), entry("4", 4, false)]);
    bench.cut(stored);
    assert!(bench.resume(stored));
    assert_eq!(short(&bench.got(stored)), [entry("1", 1, true), entry("4", 4, true)]);
    bench.ack(stored, 4);
    bench.ack(stored, 1);
    let (_, _, backlog) = bench.brokers[0].session_lanes().next().unwrap();
    assert_eq!(backlog, 0, "what expired behind the last message is done too");
    assert_eq!(bench.counters().dropped_expired, 4, "2 and 3 once, 5 in each life");
}

#[test]
fn a_session_ends_after_its_expiry_with_everything_it_had() {
    let mut bench = Bench::new(2);
    let stored = bench.client("s", Version::V5, 1);
    bench.resume(stored);
    bench.subscribe(stored, "t/#", Qos::AtLeastOnce);
    bench.cut(stored);
    bench.pass(3_599_000);
    assert_eq!(bench.brokers[1].sessions(), 1);
    bench.pass(1_001);
    bench.settle();
    assert_eq!(bench.brokers[1].sessions(), 0);
    assert!(bench.disk.lanes.is_empty() && bench.disk.state.is_empty());
    let publisher = bench.client("p", Version::V5, 0);
    bench.connect(publisher);
    bench.publish(publisher, "t/1", "x", 1);
    assert_eq!(bench.counters().unmatched, 1, "the other shard has forgotten the filter");
}

/// [MQTT-3.1.2-23] [MQTT3-3.1.2-4]: 0xFFFFFFFF, and 3.1.1 without a clean session, never end by time; not by more than the
/// router grants either.
#[test]
fn a_session_may_last_for_ever_where_the_limit_lets_it() {
    const TEN_YEARS: u64 = 10 * 365 * 24 * 3_600_000;
    for version in [Version::V3, Version::V5] {
        for (granted, is_kept) in [(u32::MAX, true), (30 * 24 * 3_600, false)] {
            let limits = Limits { session_expiry_secs_max: granted, ..Limits::DEFAULT };
            let (mut bench, publisher, _) = bench(limits, version);
            let stored = bench.client("for ever", version, 0);
            let mut hello = bench.stored_hello(stored);
            if version == Version::V5 {
                hello.session_expiry_secs = u32::MAX;
            }
            bench.connect_with(stored, &hello);
            bench.settle();
            bench.take(stored);
            bench.subscribe(stored, "t", Qos::AtLeastOnce);
            bench.cut(stored);
            publish(&mut bench, publisher, 1..=2);
            for _ in 0..2 {
                bench.pass(TEN_YEARS);
                bench.settle();
                bench.crash();
                bench.settle();
            }
            assert_eq!(bench.resume(stored), is_kept, "{version:?}");
            assert_eq!(bench.texts(stored).len(), if is_kept { 2 } else { 0 }, "{version:?}");
        }
    }
}

#[test]
fn expiry_counts_from_the_end_of_the_connection_across_restarts() {
    let (mut bench, _, stored) = bench(Limits::DEFAULT, Version::V5);
    bench.pass(5_000_000);
    bench.crash();
    bench.settle();
    bench.pass(3_000_000);
    assert_eq!(bench.brokers[0].sessions(), 1, "it was connected longer than its expiry, but away for less");
    bench.settle();
    bench.crash();
    bench.pass(700_000);
    bench.settle();
    assert!(!bench.resume(stored), "an hour after the first restart it is over");
}

#[test]
fn disconnect_may_shorten_the_expiry_and_not_raise_it_from_zero() {
    let (mut bench, publisher, stored) = bench(Limits::DEFAULT, Version::V5);
    bench.disconnect(stored, ReasonCode::NORMAL_DISCONNECTION, Some(0));
    assert_eq!(bench.brokers[0].sessions(), 1, "only the publisher's");
    bench.disconnect(publisher, ReasonCode::NORMAL_DISCONNECTION, Some(5));
    assert_eq!(bench.take(publisher), [Seen::Disconnect(ReasonCode::PROTOCOL_ERROR), Seen::Closed]);
}

#[test]
fn a_clean_start_ends_the_old_session_first() {
    let (mut bench, publisher, stored) = bench(Limits::DEFAULT, Version::V5);
    bench.cut(stored);
    publish(&mut bench, publisher, 1..=3);
    let mut connect = bench.stored_hello(stored);
    connect.clean_start = true; // [MQTT-3.1.2-4]
    bench.connect_with(stored, &connect);
    assert_eq!(bench.take(stored), [], "CONNACK waits until the end of the old one is durable");
    bench.settle();
    assert_eq!(bench.take(stored), [Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS }]);
    publish(&mut bench, publisher, 4..=4);
    assert_eq!(bench.take(stored), [], "its subscriptions are gone");
    assert_eq!(bench.disk.lanes.len(), 1);
}

#[test]
fn a_new_session_does_not_inherit_what_a_crash_left_in_its_lane() {
    let (mut bench, publisher, stored) = bench(Limits::DEFAULT, Version::V5);
    bench.cut(stored);
    publish(&mut bench, publisher, 1..=3);
    let mut connect = bench.stored_hello(stored);
    connect.clean_start = true;
    bench.connect_with(stored, &connect);
    bench.disk_step(); // the old record is gone, its lane is not
    bench.crash();
    bench.settle();
    assert!(bench.disk.state.is_empty() && bench.disk.lanes.len() == 1);
    bench.take(stored);
    assert!(!bench.resume(stored));
    bench.subscribe(stored, "t", Qos::AtLeastOnce);
    bench.take(publisher);
    bench.connect(publisher);
    publish(&mut bench, publisher, 4..=4);
    assert_eq!(short(&bench.got(stored)), [entry("4", 4, false)]);
}

#[test]
fn a_client_that_comes_back_while_its_lane_is_opened_gets_one_lane() {
    let mut bench = Bench::new(1);
    let client = bench.client("c", Version::V5, 0);
    let connect = bench.stored_hello(client);
    bench.connect_with(client, &connect);
    bench.cut(client);
    bench.connect_with(client, &connect);
    bench.settle();
    assert_eq!(bench.take(client), [Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS }]); // [MQTT-3.2.2-4]
    let mut fresh = connect.clone();
    fresh.clean_start = true;
    bench.connect_with(client, &fresh);
    bench.connect_with(client, &fresh);
    bench.settle();
    bench.take(client);
    bench.subscribe(client, "t", Qos::AtLeastOnce);
    bench.publish(client, "t", "x", 1);
    bench.settle();
    assert_eq!(
        bench.disk.session_payloads(&bench.clients[client].id),
        ["x"],
        "the lane was not taken from under it"
    );
    assert_eq!(bench.disk.lanes.len(), 1);
}

#[test]
fn a_full_session_drops_and_counts() {
    let limits = Limits { session_stored_messages_max: 2, ..Limits::DEFAULT };
    let (mut bench, publisher, stored) = bench(limits, Version::V5);
    bench.cut(stored);
    publish(&mut bench, publisher, 1..=5);
    assert_eq!(bench.counters().dropped_session_full, 3);
    assert!(bench.resume(stored));
    assert_eq!(bench.texts(stored), ["1", "2"]);
}

/// [MQTT-3.1.2-23] [MQTT-3.2.2-3]: a client that was promised a session and finds none drops what it has not finished.
#[test]
fn the_connack_of_a_new_session_waits_until_its_record_is_durable() {
    let mut bench = Bench::new(1);
    let client = bench.client("s", Version::V5, 0);
    bench.connect_with(client, &bench.stored_hello(client));
    for _ in 0..20 {
        bench.settle_mail();
        let is_told = bench.take(client) == [Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS }];
        assert_eq!(is_told, bench.disk.keys(crate::StateSpace::Sessions) == 1);
        if is_told {
            bench.crash();
            bench.settle();
            assert!(bench.resume(client));
            return;
        }
        bench.disk_step();
    }
    panic!("no CONNACK");
}

#[test]
fn nothing_goes_before_connack() {
    let (mut bench, publisher, stored) = bench(Limits::DEFAULT, Version::V5);
    bench.cut(stored);
    bench.settle();
    bench.connect_with(stored, &bench.stored_hello(stored));
    bench.publish(publisher, "t", "qos 0", 0);
    bench.publish(publisher, "t", "qos 1", 1);
    assert_eq!(bench.take(stored), [], "its record is not durable yet");
    bench.settle();
    let seen = bench.take(stored);
    assert_eq!(seen[0], Seen::ConnAck { present: true, reason: ReasonCode::SUCCESS }); // [MQTT-3.2.0-1]
    assert!(matches!(&seen[1..], [Seen::Publish(got)] if got.text() == "qos 1"), "{seen:?}");
}

#[test]
fn subscription_identifiers_and_flags_come_back_from_the_lane() {
    let (mut bench, _, stored) = bench(Limits::DEFAULT, Version::V5);
    bench.subscribe_with(stored, "#", Qos::AtLeastOnce, 6, |subscription| {
        subscription.retain_as_published = true
    });
    bench.settle();
    bench.take(stored);
    bench.cut(stored);
    let device = bench.v3_device();
    bench.publish_with(device, "t", "x", 1, |publish| publish.retain = true);
    bench.settle();
    bench.crash();
    bench.settle();
    bench.take(stored);
    assert!(bench.resume(stored));
    let got = bench.got(stored);
    assert_eq!((got.len(), got[0].retain, &got[0].ids[..]), (1, true, &[6][..]));
}

#[test]
fn memory_that_is_full_leaves_a_stored_session_on_disk() {
    let limits = Limits { waiting_bytes_max: 500, ..Limits::DEFAULT };
    let (mut bench, publisher, stored) = bench(limits, Version::V5);
    bench.clients[stored].takes = 0;
    for number in 1..=20 {
        bench.publish(publisher, "t", &format!("{number:0100}"), number);
    }
    bench.settle();
    assert_eq!(bench.counters().dropped_memory_full, 0);
    bench.unblock(stored);
    for _ in 0..20 {
        bench.settle();
        bench.pass(250);
    }
    assert_eq!(bench.texts(stored).len(), 20, "everything came");
}
