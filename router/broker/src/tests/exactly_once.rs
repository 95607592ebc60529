//! QoS 2, in both directions, with clean and stored sessions.

use std::num::NonZeroU16;

use model::{Limits, Qos};
use wire::{AckKind, ReasonCode, Version};

use crate::testbench::{Bench, Got, Seen};
use crate::{Plan, StateSpace};

const QOS1: Qos = Qos::AtLeastOnce;
const QOS2: Qos = Qos::ExactlyOnce;
const OK: ReasonCode = ReasonCode::SUCCESS;
const NOT_FOUND: ReasonCode = ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;

/// One shard, a publisher and a subscriber of `t` at QoS 2; `stored` says which sessions outlive their connections.
fn bench_with(limits: Limits, version: Version, stored: [bool; 2]) -> (Bench, usize, usize) {
    let mut bench = Bench::with(1, limits, Plan::empty());
    let (publisher, subscriber) = (bench.client("p", version, 0), bench.client("s", version, 0));
    for (client, stored) in [(publisher, stored[0]), (subscriber, stored[1])] {
        if stored {
            assert!(!bench.resume(client));
        } else {
            bench.connect(client);
        }
    }
    bench.subscribe(subscriber, "t", QOS2);
    (bench, publisher, subscriber)
}

fn bench(stored: [bool; 2]) -> (Bench, usize, usize) {
    bench_with(Limits::DEFAULT, Version::V5, stored)
}

fn publish(bench: &mut Bench, publisher: usize, numbers: std::ops::RangeInclusive<u16>) {
    for number in numbers {
        bench.publish_once(publisher, "t", &number.to_string(), number);
        bench.settle();
        bench.pubrel(publisher, number);
        bench.settle();
    }
    bench.take(publisher);
}

fn short(got: &[Got]) -> Vec<(String, u16, bool)> {
    got.iter().map(|got| (got.text(), got.id, got.dup)).collect()
}

fn entry(text: &str, id: u16, dup: bool) -> (String, u16, bool) {
    (text.to_owned(), id, dup)
}

fn restart(bench: &mut Bench, clients: &[usize]) {
    bench.crash();
    bench.settle();
    clients.iter().for_each(|client| drop(bench.take(*client)));
}

/// [MQTT-4.3.3-8] [MQTT-4.3.3-11] [MQTT-4.3.3-4] [MQTT-4.3.3-2] [MQTT-2.2.1-5] [MQTT3-4.3.3-1] [MQTT3-4.3.3-2]
#[test]
fn a_message_goes_through_the_whole_handshake_on_both_sides() {
    for version in [Version::V3, Version::V5] {
        for stored in [[false, false], [true, true]] {
            let (mut bench, publisher, subscriber) = bench_with(Limits::DEFAULT, version, stored);
            bench.publish_once(publisher, "t", "x", 7);
            bench.settle();
            assert_eq!(bench.take(publisher), [Seen::PubRec(7)]);
            let got = bench.got(subscriber);
            assert_eq!((short(&got), got[0].qos), (vec![entry("x", 1, false)], QOS2));
            bench.pubrel(publisher, 7);
            bench.settle();
            assert_eq!(bench.take(publisher), [Seen::PubComp(7, OK)]);
            bench.pubrec(subscriber, 1);
            bench.settle();
            assert_eq!(bench.take(subscriber), [Seen::PubRel(1, OK)]);
            bench.pubcomp(subscriber, 1);
            bench.settle();
            assert_eq!(bench.take(subscriber), []);
            assert_eq!(bench.counters().unexpected_acks, 0);
            assert_eq!((bench.disk.keys(StateSpace::Received), bench.disk.keys(StateSpace::Marks)), (0, 0));
        }
    }
}

/// [MQTT-3.8.4-8]: the QoS of a delivery is the lower of publication and subscription.
#[test]
fn a_delivery_has_the_lower_qos_of_publication_and_subscription() {
    let mut bench = Bench::new(1);
    let publisher = bench.client("p", Version::V5, 0);
    bench.connect(publisher);
    let qoses = [Qos::AtMostOnce, QOS1, QOS2];
    for version in [Version::V3, Version::V5] {
        for stored in [false, true] {
            for granted in qoses {
                let name = format!("s{}-{stored}-{version:?}-", granted.bits());
                let subscriber = bench.client(&name, version, 0);
                if stored {
                    bench.resume(subscriber);
                } else {
                    bench.connect(subscriber);
                }
                bench.subscribe(subscriber, "t", granted);
            }
        }
    }
    for (id, published) in [(0, qoses[0]), (1, qoses[1]), (2, qoses[2])] {
        bench.publish_with(publisher, "t", "x", id, |publish| publish.qos = published);
        bench.settle();
        for subscriber in 1..bench.clients.len() {
            let granted = qoses[(subscriber - 1) % 3];
            let got = bench.got(subscriber);
            assert_eq!(got.len(), 1);
            assert_eq!(got[0].qos, published.min(granted), "{} to {}", published.bits(), granted.bits());
        }
    }
}

/// [MQTT-4.3.3-10] [MQTT-4.3.3-12]
#[test]
fn a_repeat_is_answered_and_not_delivered_until_it_is_released() {
    for stored in [[false, false], [true, true]] {
        let (mut bench, publisher, subscriber) = bench(stored);
        for dup in [false, true, false] {
            bench.publish_with(publisher, "t", "one", 7, |publish| (publish.qos, publish.dup) = (QOS2, dup));
            bench.settle();
            assert_eq!(bench.take(publisher), [Seen::PubRec(7)]);
        }
        assert_eq!(bench.texts(subscriber), ["one"]);
        bench.pubrel(publisher, 7);
        bench.publish_once(publisher, "t", "two", 7);
        bench.settle();
        assert_eq!(bench.take(publisher), [Seen::PubComp(7, OK), Seen::PubRec(7)]);
        assert_eq!(bench.texts(subscriber), ["two"]);
        assert_eq!(bench.counters().repeats_ignored, 2);
    }
}

/// [MQTT-4.3.3-10]: nor is it lost when its first answer was.
#[test]
fn a_repeat_on_a_new_connection_waits_for_the_promise_of_the_first() {
    let (mut bench, publisher, subscriber) = bench([true, true]);
    bench.publish_once(publisher, "t", "x", 7);
    bench.cut(publisher);
    bench.connect_with(publisher, &bench.stored_hello(publisher));
    bench.settle();
    bench.take(publisher);
    bench.publish_with(publisher, "t", "x", 7, |publish| (publish.qos, publish.dup) = (QOS2, true));
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubRec(7)]);
    assert_eq!(bench.texts(subscriber), ["x"]);
}

/// [MQTT-4.3.3-8]: PUBREC says that the message is ours, so not before the disk has it, and its identifier.
#[test]
fn pubrec_and_pubcomp_wait_for_the_disk() {
    let (mut bench, publisher, _) = bench([true, true]);
    bench.publish_once(publisher, "t", "x", 7);
    assert_eq!(bench.take(publisher), []);
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubRec(7)]);
    assert_eq!(bench.disk.keys(StateSpace::Received), 1);
    bench.pubrel(publisher, 7);
    assert_eq!(bench.take(publisher), [], "a crash must not bring the identifier back");
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubComp(7, OK)]);
    assert_eq!(bench.disk.keys(StateSpace::Received), 0);
}

/// MQTT 5.0 §3.7.2.1: 0x92 for what we do not know; 3.1.1 cannot say so. Clients send PUBREL again after a reconnect.
#[test]
fn pubrel_for_an_identifier_that_is_not_in_use_is_answered() {
    for (version, reason) in [(Version::V5, NOT_FOUND), (Version::V3, OK)] {
        let (mut bench, publisher, _) = bench_with(Limits::DEFAULT, version, [true, true]);
        bench.pubrel(publisher, 9);
        assert_eq!(bench.take(publisher), [Seen::PubComp(9, reason)]);
        assert_eq!(bench.counters().unexpected_acks, 1);
    }
}

/// Clients that do not wait for PUBREC exist; what they publish next with the identifier is a new message.
#[test]
fn pubrel_before_pubrec_gets_its_answer_behind_it() {
    for shards in [1, 2] {
        let mut bench = Bench::new(shards);
        let (publisher, subscriber) =
            (bench.client("p", Version::V3, 0), bench.client("s", Version::V5, shards - 1));
        bench.resume(publisher);
        bench.resume(subscriber);
        bench.subscribe(subscriber, "t", QOS2);
        for text in ["one", "two"] {
            bench.publish_once(publisher, "t", text, 7);
            bench.pubrel(publisher, 7);
        }
        assert_eq!(bench.take(publisher), []);
        bench.settle();
        let answers = [Seen::PubRec(7), Seen::PubComp(7, OK)];
        assert_eq!(bench.take(publisher), [answers.clone(), answers].concat());
        assert_eq!(bench.texts(subscriber), ["one", "two"]);
        assert_eq!(bench.disk.keys(StateSpace::Received), 0);
    }
}

/// [MQTT-4.6.0-2] [MQTT-4.6.0-3] [MQTT3-4.6.0-2] [MQTT3-4.6.0-3]
#[test]
fn answers_come_in_the_order_of_the_publications() {
    let (mut bench, publisher, _) = bench([true, true]);
    for id in 1..=6 {
        let (topic, qos) = [("t", QOS2), ("nobody", QOS1)][usize::from(id % 2)];
        bench.publish_with(publisher, topic, "x", id, |publish| publish.qos = qos);
    }
    bench.settle();
    let expected = (1..=6).map(|id| if id % 2 == 0 { Seen::PubRec(id) } else { Seen::PubAck(id) });
    assert_eq!(bench.take(publisher), expected.collect::<Vec<_>>());
}

/// [MQTT-3.3.4-7]: MQTT 5.0 §3.3.4 asks for DISCONNECT 0x93.
#[test]
fn more_than_the_receive_maximum_ends_the_connection() {
    let limits = Limits { receive_max: 3, ..Limits::DEFAULT };
    for stored in [[false, false], [true, true]] {
        let (mut bench, publisher, subscriber) = bench_with(limits.clone(), Version::V5, stored);
        for id in 1..=3 {
            bench.publish_once(publisher, "t", "x", id);
            bench.settle();
        }
        bench.pubrel(publisher, 2);
        bench.settle();
        bench.publish_once(publisher, "t", "x", 4);
        bench.settle();
        bench.take(publisher);
        bench.publish_once(publisher, "t", "x", 5);
        bench.settle();
        let reason = ReasonCode::RECEIVE_MAXIMUM_EXCEEDED;
        assert_eq!(bench.take(publisher), [Seen::Disconnect(reason), Seen::Closed]);
        assert_eq!(bench.texts(subscriber).len(), 4);
    }
}

/// §3.3.4: the Receive Maximum is that of one connection.
#[test]
fn what_is_not_released_leaves_room_on_the_next_connection() {
    let limits = Limits { receive_max: 2, ..Limits::DEFAULT };
    let (mut bench, publisher, subscriber) = bench_with(limits, Version::V5, [true, true]);
    for ids in [1..=2, 3..=4] {
        for id in ids {
            bench.publish_once(publisher, "t", &id.to_string(), id);
            bench.settle();
        }
        bench.cut(publisher);
        assert!(bench.resume(publisher));
    }
    assert_eq!(bench.texts(subscriber), ["1", "2", "3", "4"]);
}

/// 3.1.1 has no Receive Maximum: only identifiers bound it.
#[test]
fn a_client_of_3_1_1_may_have_any_number_unreleased() {
    let limits = Limits { receive_max: 2, ..Limits::DEFAULT };
    let (mut bench, publisher, subscriber) = bench_with(limits, Version::V3, [true, true]);
    for id in 1..=50 {
        bench.publish_once(publisher, "t", "x", id);
        bench.settle();
    }
    assert_eq!(bench.take(publisher).len(), 50);
    assert_eq!(bench.texts(subscriber).len(), 50);
    assert_eq!(bench.disk.keys(StateSpace::Received), 50);
    bench.disconnect(publisher, OK, None);
    let mut clean = bench.stored_hello(publisher);
    clean.clean_start = true;
    bench.connect_with(publisher, &clean);
    bench.settle();
    assert_eq!(bench.disk.keys(StateSpace::Received), 0, "they end with their session");
}

/// [MQTT-4.1.0-1] [MQTT-4.3.3-10]: identifiers that were received are part of the session, across a restart.
#[test]
fn a_repeat_after_a_restart_is_known() {
    let (mut bench, publisher, subscriber) = bench([true, true]);
    bench.publish_once(publisher, "t", "x", 7);
    bench.settle();
    restart(&mut bench, &[publisher, subscriber]);
    assert!(bench.resume(publisher));
    bench.publish_with(publisher, "t", "x", 7, |publish| (publish.qos, publish.dup) = (QOS2, true));
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubRec(7)]);
    bench.pubrel(publisher, 7);
    bench.settle();
    restart(&mut bench, &[publisher]);
    assert!(bench.resume(publisher));
    bench.publish_once(publisher, "t", "y", 7);
    bench.settle();
    assert!(bench.resume(subscriber));
    assert_eq!(bench.texts(subscriber), ["x", "y"]);
}

/// What was not durable had no PUBREC; it comes again and is new.
#[test]
fn a_publication_that_a_crash_took_is_taken_again() {
    let (mut bench, publisher, subscriber) = bench([true, true]);
    bench.publish_once(publisher, "t", "x", 7);
    assert_eq!(bench.take(subscriber), [], "it is not sent before it is durable");
    restart(&mut bench, &[publisher, subscriber]);
    assert!(bench.resume(publisher));
    assert!(bench.resume(subscriber));
    bench.publish_with(publisher, "t", "x", 7, |publish| (publish.qos, publish.dup) = (QOS2, true));
    bench.settle();
    assert_eq!(short(&bench.got(subscriber)), [entry("x", 1, false)]);
}

/// A publication that other shards hand to their disk: its identifier is written after they have.
#[test]
fn across_shards_a_crash_may_repeat_and_never_loses() {
    for steps in 0..12 {
        let mut bench = Bench::new(2);
        let (publisher, subscriber) = (bench.client("p", Version::V5, 0), bench.client("s", Version::V5, 1));
        bench.resume(publisher);
        bench.resume(subscriber);
        bench.subscribe(subscriber, "t", QOS2);
        bench.publish_once(publisher, "t", "x", 7);
        for _ in 0..steps {
            bench.settle_mail();
            bench.disk_step();
        }
        let answered = bench.take(publisher) == [Seen::PubRec(7)];
        let known = bench.disk.keys(StateSpace::Received) == 1;
        let kept = bench.disk.session_payloads(&bench.clients[subscriber].id) == ["x"];
        assert!(kept || !known, "after {steps} steps a repeat would be ignored, and the message is nowhere");
        assert!(known || !answered, "after {steps} steps a repeat would be a second message");
        restart(&mut bench, &[publisher]);
        bench.resume(publisher);
        bench.publish_with(publisher, "t", "x", 7, |publish| (publish.qos, publish.dup) = (QOS2, true));
        bench.settle();
        assert_eq!(bench.take(publisher), [Seen::PubRec(7)]);
        assert!(bench.disk.session_payloads(&bench.clients[subscriber].id).contains(&"x".to_owned()));
    }
}

/// [MQTT-4.4.0-1] [MQTT-4.3.3-6] [MQTT-4.6.0-1] [MQTT-3.3.1-1]
#[test]
fn on_resuming_publish_or_pubrel_is_sent_again_in_the_old_order() {
    for crash in [false, true] {
        let (mut bench, publisher, subscriber) = bench([true, true]);
        publish(&mut bench, publisher, 1..=4);
        bench.take(subscriber);
        bench.pubrec(subscriber, 2);
        bench.pubrec(subscriber, 4);
        bench.settle();
        assert_eq!(bench.take(subscriber), [Seen::PubRel(2, OK), Seen::PubRel(4, OK)]);
        if crash {
            restart(&mut bench, &[subscriber]);
        } else {
            bench.cut(subscriber);
        }
        assert!(bench.resume(subscriber));
        let seen = bench.take(subscriber);
        let (publishes, releases): (Vec<_>, Vec<_>) =
            seen.into_iter().partition(|seen| matches!(seen, Seen::Publish(_)));
        let publishes: Vec<_> = publishes
            .into_iter()
            .filter_map(|seen| if let Seen::Publish(got) = seen { Some(got) } else { None })
            .collect();
        assert_eq!(short(&publishes), [entry("1", 1, true), entry("3", 3, true)]);
        assert_eq!(releases, [Seen::PubRel(2, OK), Seen::PubRel(4, OK)]);
        for id in [4, 2] {
            bench.pubcomp(subscriber, id);
        }
        for id in [1, 3] {
            bench.pubrec(subscriber, id);
            bench.settle();
            bench.pubcomp(subscriber, id);
        }
        bench.settle();
        assert_eq!(bench.disk.keys(StateSpace::Marks), 0, "nothing is left behind");
        let (_, _, backlog) = bench.brokers[0].session_lanes().find(|(id, ..)| id.starts_with('s')).unwrap();
        assert_eq!(backlog, 0);
    }
}

/// [MQTT-4.4.0-1]: wherever a crash hits the exchange, the client gets the message once.
#[test]
fn a_crash_at_any_moment_sends_no_message_twice() {
    for crash_at in 0..24 {
        let (mut bench, publisher, subscriber) = bench([true, true]);
        publish(&mut bench, publisher, 1..=2);
        // The client's side: the identifiers it has not given back, and what it got.
        let (mut held, mut texts) = (Vec::new(), Vec::new());
        for step in 0..40 {
            for seen in bench.take(subscriber) {
                match seen {
                    Seen::Publish(got) if held.contains(&got.id) => bench.pubrec(subscriber, got.id),
                    Seen::Publish(got) => {
                        held.push(got.id);
                        texts.push(got.text());
                        bench.pubrec(subscriber, got.id);
                    }
                    Seen::PubRel(id, OK) => {
                        held.retain(|have| *have != id);
                        bench.pubcomp(subscriber, id);
                    }
                    Seen::ConnAck { present, .. } => assert!(present),
                    other => panic!("{other:?}"),
                }
            }
            if step == crash_at {
                bench.crash();
                bench.take(subscriber);
                bench.connect_with(subscriber, &bench.stored_hello(subscriber));
            }
            let letters = bench.letters();
            match letters.first() {
                Some((to, from)) => drop(bench.deliver_mail(*to, *from)),
                None => drop(bench.disk_step()),
            }
        }
        assert_eq!(texts, ["1", "2"], "crash at {crash_at}");
        assert!(held.is_empty(), "crash at {crash_at}: {held:?}");
        bench.settle();
        assert_eq!(bench.disk.keys(StateSpace::Marks), 0, "crash at {crash_at}");
    }
}

/// What was completed behind an open message is not sent again either.
#[test]
fn what_is_completed_out_of_order_stays_completed() {
    for crash in [false, true] {
        let (mut bench, publisher, subscriber) = bench([true, true]);
        publish(&mut bench, publisher, 1..=3);
        bench.take(subscriber);
        bench.pubrec(subscriber, 2);
        bench.settle();
        bench.pubcomp(subscriber, 2);
        bench.settle();
        bench.take(subscriber);
        for _ in 0..2 {
            if crash {
                restart(&mut bench, &[subscriber]);
            } else {
                bench.cut(subscriber);
            }
            assert!(bench.resume(subscriber));
            assert_eq!(short(&bench.got(subscriber)), [entry("1", 1, true), entry("3", 3, true)]);
        }
        for id in [1, 3] {
            bench.pubrec(subscriber, id);
            bench.settle();
            bench.pubcomp(subscriber, id);
        }
        bench.settle();
        assert_eq!(bench.disk.keys(StateSpace::Marks), 0);
    }
}

/// The head of the lane is durable before the mark that it makes needless is gone.
#[test]
fn what_is_done_is_not_sent_again_after_any_restart() {
    for steps in 0..4 {
        let (mut bench, publisher, subscriber) = bench([true, true]);
        publish(&mut bench, publisher, 1..=1);
        bench.pubrec(subscriber, 1);
        bench.settle();
        bench.take(subscriber);
        bench.pubcomp(subscriber, 1);
        for _ in 0..steps {
            bench.disk_step();
        }
        restart(&mut bench, &[subscriber]);
        assert!(bench.resume(subscriber));
        let seen = bench.take(subscriber);
        assert!(seen.is_empty() || seen == [Seen::PubRel(1, OK)], "after {steps} steps: {seen:?}");
    }
}

/// [MQTT-4.3.3-4] [MQTT-4.4.0-2]
#[test]
fn a_message_that_the_client_refuses_is_done() {
    for stored in [[false, false], [true, true]] {
        let limits = Limits { session_inflight_max: 1, ..Limits::DEFAULT };
        let (mut bench, publisher, subscriber) = bench_with(limits, Version::V5, stored);
        publish(&mut bench, publisher, 1..=2);
        assert_eq!(bench.texts(subscriber), ["1"]);
        bench.answer_with(subscriber, AckKind::PubRec, 1, ReasonCode::QUOTA_EXCEEDED);
        bench.settle();
        assert_eq!(bench.texts(subscriber), ["2"], "no PUBREL, and the window is open again");
        assert_eq!(bench.disk.keys(StateSpace::Marks), 0);
    }
}

/// MQTT 5.0 §3.6.2.1: 0x92 for a PUBREC that answers nothing.
#[test]
fn pubrec_for_an_identifier_that_is_not_in_use_is_answered() {
    for (version, reason) in [(Version::V5, NOT_FOUND), (Version::V3, OK)] {
        let (mut bench, publisher, subscriber) = bench_with(Limits::DEFAULT, version, [false, false]);
        bench.pubrec(subscriber, 9);
        assert_eq!(bench.take(subscriber), [Seen::PubRel(9, reason)]);
        bench.pubcomp(subscriber, 9);
        bench.ack(subscriber, 9);
        assert_eq!(bench.counters().unexpected_acks, 3);
        publish(&mut bench, publisher, 1..=1);
        assert_eq!(bench.texts(subscriber), ["1"], "it hurts nobody");
    }
}

/// [MQTT-4.6.0-4] [MQTT3-4.6.0-4]
#[test]
fn pubrels_leave_in_the_order_of_the_pubrecs() {
    for stored in [[false, false], [true, true]] {
        let (mut bench, publisher, subscriber) = bench(stored);
        publish(&mut bench, publisher, 1..=3);
        bench.take(subscriber);
        for id in [2, 3, 1] {
            bench.pubrec(subscriber, id);
        }
        bench.settle();
        assert_eq!(bench.take(subscriber), [2, 3, 1].map(|id| Seen::PubRel(id, OK)));
    }
}

/// [MQTT-3.3.4-9]: QoS 1 and 2 share the client's Receive Maximum, until PUBACK and PUBCOMP.
#[test]
fn the_receive_maximum_of_the_client_counts_qos_1_and_2() {
    for stored in [false, true] {
        let mut bench = Bench::new(1);
        let (publisher, subscriber) = (bench.client("p", Version::V5, 0), bench.client("s", Version::V5, 0));
        bench.connect(publisher);
        let mut hello = if stored { bench.stored_hello(subscriber) } else { bench.hello(subscriber) };
        hello.receive_max = NonZeroU16::new(2).unwrap();
        bench.connect_with(subscriber, &hello);
        bench.settle();
        bench.take(subscriber);
        bench.subscribe(subscriber, "t", QOS2);
        for (id, qos) in [(1, QOS2), (2, QOS1), (3, QOS2), (4, QOS1)] {
            bench.publish_with(publisher, "t", &id.to_string(), id, |publish| publish.qos = qos);
        }
        bench.settle();
        assert_eq!(bench.texts(subscriber), ["1", "2"]);
        bench.pubrec(subscriber, 1);
        bench.settle();
        assert_eq!(bench.take(subscriber), [Seen::PubRel(1, OK)], "PUBREC gives nothing back");
        bench.pubcomp(subscriber, 1);
        bench.settle();
        assert_eq!(bench.texts(subscriber), ["3"]);
        bench.ack(subscriber, 2);
        bench.settle();
        assert_eq!(bench.texts(subscriber), ["4"]);
    }
}

/// [MQTT-4.3.3-7] [MQTT-4.3.3-13]
#[test]
fn what_was_sent_does_not_expire() {
    for crash in [false, true] {
        let (mut bench, publisher, subscriber) = bench([true, true]);
        for id in 1..=2 {
            bench.publish_with(publisher, "t", &id.to_string(), id, |publish| {
                (publish.qos, publish.expiry_secs) = (QOS2, Some(5));
            });
        }
        bench.settle();
        bench.pubrec(subscriber, 1);
        bench.settle();
        if crash {
            restart(&mut bench, &[subscriber, publisher]);
        } else {
            bench.cut(subscriber);
        }
        bench.pass(10_000);
        bench.take(subscriber);
        assert!(bench.resume(subscriber));
        let seen = bench.take(subscriber);
        assert!(
            matches!(&seen[..], [Seen::PubRel(1, OK), Seen::Publish(got)] if got.text() == "2" && got.dup),
            "{seen:?}"
        );
        bench.pubcomp(subscriber, 1);
        bench.pubrec(subscriber, 2);
        bench.settle();
        bench.pubcomp(subscriber, 2);
        bench.settle();
        assert_eq!(bench.disk.keys(StateSpace::Marks), 0);
        let (_, _, backlog) = bench.brokers[0].session_lanes().find(|(id, ..)| id.starts_with('s')).unwrap();
        assert_eq!(backlog, 0);
    }
}

/// [MQTT-3.3.2-5]: before it was sent, it does.
#[test]
fn what_was_not_sent_expires() {
    let (mut bench, publisher, subscriber) = bench([true, true]);
    bench.cut(subscriber);
    bench.publish_with(publisher, "t", "x", 1, |publish| {
        (publish.qos, publish.expiry_secs) = (QOS2, Some(5));
    });
    bench.settle();
    bench.pass(10_000);
    assert!(bench.resume(subscriber));
    assert_eq!(bench.take(subscriber), []);
}
