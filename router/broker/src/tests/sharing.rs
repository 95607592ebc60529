//! Shared subscriptions: one member of each group gets a publication, and what happens when members come and go.

use std::collections::BTreeMap;

use model::{Limits, Qos};
use wire::{ReasonCode, Version};

use crate::Plan;
use crate::testbench::{Bench, Seen};

const QOS0: Qos = Qos::AtMostOnce;
const QOS1: Qos = Qos::AtLeastOnce;
const JOBS: &str = "$share/workers/jobs/#";

/// A connected publisher in shard 0 and members of `JOBS` in these shards, connected with clean sessions.
fn group(shards: usize, homes: &[usize]) -> (Bench, usize, Vec<usize>) {
    with(Limits::DEFAULT, shards, homes)
}

fn with(limits: Limits, shards: usize, homes: &[usize]) -> (Bench, usize, Vec<usize>) {
    let mut bench = Bench::with(shards, limits, Plan::empty());
    let publisher = bench.client("p", Version::V5, 0);
    bench.connect(publisher);
    let members = homes.iter().enumerate().map(|(number, home)| {
        let version = if number % 3 == 2 { Version::V3 } else { Version::V5 };
        let client = bench.client(&format!("m{number}-"), version, *home);
        bench.connect(client);
        bench.subscribe(client, JOBS, QOS1);
        client
    });
    let members = members.collect();
    bench.settle();
    (bench, publisher, members)
}

fn publish(bench: &mut Bench, publisher: usize, from: usize, count: usize, qos: Qos) {
    for number in from..from + count {
        let id = if qos == QOS0 { 0 } else { number as u16 + 1 };
        bench.publish(publisher, "jobs/1", &number.to_string(), id);
        bench.settle();
    }
}

/// How many messages each client got; it acknowledges them.
fn counts(bench: &mut Bench, members: &[usize]) -> Vec<usize> {
    members.iter().map(|client| took(bench, *client).len()).collect()
}

/// What a client got; it acknowledges all.
fn took(bench: &mut Bench, client: usize) -> Vec<String> {
    let got = bench.got(client);
    for message in got.iter().filter(|got| got.id != 0) {
        bench.ack(client, message.id);
    }
    got.iter().map(|got| got.text()).collect()
}

/// [MQTT-4.8.2-1] [MQTT-4.8.2-2]
#[test]
fn each_publication_goes_to_one_member_in_fair_turn() {
    for qos in [QOS0, QOS1] {
        let (mut bench, publisher, members) = group(1, &[0, 0, 0]);
        publish(&mut bench, publisher, 0, 20, qos);
        let mut counts = counts(&mut bench, &members);
        counts.sort_unstable();
        assert_eq!(counts, [6, 7, 7], "within one of each other");
        assert_eq!(bench.counters().shared, 20);
    }
}

#[test]
fn the_members_of_all_shards_have_the_same_share() {
    let (mut bench, publisher, members) = group(3, &[0, 1, 1, 2, 2, 2]);
    let elsewhere = bench.client("q", Version::V5, 2);
    bench.connect(elsewhere);
    publish(&mut bench, publisher, 0, 60, QOS1);
    publish(&mut bench, elsewhere, 60, 60, QOS0);
    assert_eq!(counts(&mut bench, &members), [20; 6], "no shard has more than its members' share");
}

#[test]
fn several_groups_and_ordinary_subscriptions_each_get_it() {
    let (mut bench, publisher, workers) = group(2, &[0, 1]);
    let others: Vec<usize> = (0..2)
        .map(|number| {
            let client = bench.client(&format!("o{number}-"), Version::V5, number);
            bench.connect(client);
            bench.subscribe_with(client, "$share/others/jobs/+", QOS1, 5, |_| {});
            bench.settle();
            bench.take(client);
            client
        })
        .collect();
    let watcher = bench.client("w", Version::V5, 1);
    bench.connect(watcher);
    bench.subscribe(watcher, "jobs/1", QOS1);
    bench.subscribe(workers[1], "jobs/#", QOS0);
    publish(&mut bench, publisher, 0, 10, QOS1);
    assert_eq!(counts(&mut bench, &others).iter().sum::<usize>(), 10);
    assert_eq!(counts(&mut bench, &[watcher]), [10]);
    let both = counts(&mut bench, &workers);
    assert_eq!(both, [5, 15], "its own subscription, and its turns in the group");
}

/// [MQTT-3.8.4-8] [MQTT-4.8.2-3]
#[test]
fn every_member_has_its_own_qos_and_identifier() {
    let (mut bench, publisher, _) = group(1, &[]);
    let clients: Vec<usize> = [(QOS0, 7), (QOS1, 8)]
        .into_iter()
        .map(|(qos, id)| {
            let client = bench.client(&format!("c{id}-"), Version::V5, 0);
            bench.connect(client);
            bench.subscribe_with(client, JOBS, qos, id, |_| {});
            bench.take(client);
            client
        })
        .collect();
    publish(&mut bench, publisher, 0, 4, QOS1);
    for (client, qos, id) in [(clients[0], QOS0, 7), (clients[1], QOS1, 8)] {
        let got = bench.got(client);
        assert_eq!(got.len(), 2);
        assert!(got.iter().all(|got| got.qos == qos && got.ids == [id]), "{got:?}");
    }
}

/// [MQTT-3.8.3-4] [MQTT-4.8.2-1] [MQTT-4.8.2-2]
#[test]
fn illegal_shares_end_the_connection() {
    for filter in ["$share/g", "$share//a", "$share/g/", "$share/+/a", "$share/g#/a", "$share/g/a/#/b"] {
        let (mut bench, publisher, _) = group(1, &[]);
        bench.subscribe_with(publisher, filter, QOS1, 0, |_| {});
        let seen = bench.take(publisher);
        assert!(matches!(seen[..], [Seen::Disconnect(_), Seen::Closed]), "{filter}: {seen:?}");
    }
    let (mut bench, publisher, _) = group(1, &[]);
    bench.subscribe_with(publisher, JOBS, QOS1, 0, |subscription| subscription.no_local = true);
    assert_eq!(bench.take(publisher), [Seen::Disconnect(ReasonCode::PROTOCOL_ERROR), Seen::Closed]);
}

/// [MQTT-3.10.4-1]
#[test]
fn who_unsubscribes_or_leaves_is_passed_over() {
    let (mut bench, publisher, members) = group(2, &[0, 1, 0]);
    bench.unsubscribe(members[0], JOBS);
    assert_eq!(bench.take(members[0]), [Seen::UnsubAck(vec![ReasonCode::SUCCESS])]);
    bench.unsubscribe(members[0], JOBS);
    assert_eq!(bench.take(members[0]), [Seen::UnsubAck(vec![ReasonCode::NO_SUBSCRIPTION_EXISTED])]);
    bench.settle();
    publish(&mut bench, publisher, 0, 4, QOS1);
    assert_eq!(counts(&mut bench, &members), [0, 2, 2]);
    bench.cut(members[1]);
    bench.settle();
    publish(&mut bench, publisher, 4, 4, QOS1);
    assert_eq!(counts(&mut bench, &[members[2]]), [4]);
    bench.cut(members[2]);
    bench.settle();
    let unmatched = bench.counters().unmatched;
    publish(&mut bench, publisher, 8, 1, QOS1);
    assert_eq!(bench.counters().unmatched, unmatched + 1, "nobody is left, and nothing either");
    for broker in &bench.brokers {
        broker.subscriptions.shares.invariants();
    }
}

#[test]
fn a_member_without_room_is_passed_over() {
    let limits = Limits { session_inflight_max: 2, ..Limits::DEFAULT };
    let (mut bench, publisher, members) = with(limits, 1, &[0, 0]);
    publish(&mut bench, publisher, 0, 4, QOS1);
    let first = took(&mut bench, members[0]);
    assert_eq!(first.len(), 2);
    publish(&mut bench, publisher, 4, 2, QOS1);
    assert_eq!(took(&mut bench, members[0]), ["4", "5"], "the other one has not acknowledged anything");
    assert_eq!(bench.got(members[1]).len(), 2);
    publish(&mut bench, publisher, 6, 4, QOS1);
    assert_eq!(took(&mut bench, members[0]).len(), 2, "and waits in its queue only if nobody has room");
}

/// A QoS 1 message that a leaving member has not acknowledged goes to another, new to it: without DUP.
///
/// MQTT 5.0 §4.8.2
#[test]
fn what_a_member_leaves_unacknowledged_goes_to_another() {
    for homes in [[0, 0], [0, 1]] {
        let limits = Limits { session_inflight_max: 3, ..Limits::DEFAULT };
        let (mut bench, publisher, members) = with(limits, 2, &homes);
        publish(&mut bench, publisher, 0, 10, QOS1);
        let acknowledged = bench.got(members[0]);
        bench.ack(members[0], acknowledged[0].id);
        let kept: Vec<String> = took(&mut bench, members[1]);
        bench.cut(members[0]);
        bench.settle();
        let mut all: BTreeMap<String, u32> = BTreeMap::new();
        let more = loop_until_quiet(&mut bench, members[1]);
        for text in kept.iter().chain(&more) {
            *all.entry(text.clone()).or_default() += 1;
        }
        *all.entry(acknowledged[0].text()).or_default() += 1;
        assert_eq!(all.len(), 10, "{homes:?}: everything reached somebody: {all:?}");
        assert!(all.values().all(|count| *count == 1), "{homes:?}: {all:?}");
        assert!(bench.counters().shared_again >= 2);
        assert_eq!(bench.counters().dropped_share_empty, 0);
    }
}

/// Everything that still comes, acknowledged as it comes; nothing of it has DUP.
fn loop_until_quiet(bench: &mut Bench, client: usize) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        bench.settle();
        let got = bench.got(client);
        if got.is_empty() {
            return texts;
        }
        for message in got {
            assert!(!message.dup, "it is new to this member");
            bench.ack(client, message.id);
            texts.push(message.text());
        }
    }
}

#[test]
fn with_nobody_left_it_is_counted() {
    let (mut bench, publisher, members) = group(1, &[0]);
    publish(&mut bench, publisher, 0, 3, QOS1);
    bench.cut(members[0]);
    assert_eq!(bench.counters().dropped_share_empty, 3);
    assert_eq!(bench.brokers[0].waiting_bytes, 0);
}

/// [MQTT-4.8.2-6]
#[test]
fn what_a_member_refuses_goes_to_nobody_else() {
    let (mut bench, publisher, members) = group(1, &[0, 0]);
    publish(&mut bench, publisher, 0, 1, QOS1);
    let id = bench.got(members[0])[0].id;
    let id = std::num::NonZeroU16::new(id).unwrap();
    let mut bytes = Vec::new();
    let reason = ReasonCode::UNSPECIFIED_ERROR;
    wire::encode_ack(&mut bytes, Version::V5, wire::AckKind::PubAck, id, reason);
    bench.send(members[0], &bytes);
    bench.cut(members[0]);
    assert_eq!(bench.got(members[1]), []);
}

/// A stored session in a group.
fn stored_member(bench: &mut Bench, name: &str, home: usize) -> usize {
    let client = bench.client(name, Version::V5, home);
    bench.resume(client);
    bench.subscribe(client, JOBS, QOS1);
    bench.settle();
    client
}

#[test]
fn members_that_are_there_come_before_those_that_are_away() {
    let (mut bench, publisher, members) = group(2, &[0]);
    let away = [stored_member(&mut bench, "a", 1), stored_member(&mut bench, "b", 0)];
    away.iter().for_each(|client| bench.cut(*client));
    bench.settle();
    publish(&mut bench, publisher, 0, 4, QOS1);
    assert_eq!(counts(&mut bench, &members), [4]);
    bench.cut(members[0]);
    bench.settle();
    publish(&mut bench, publisher, 4, 4, QOS1);
    assert_eq!(bench.take(publisher).len(), 8, "acknowledged");
    for client in away {
        let kept = bench.disk.session_payloads(&bench.clients[client].id);
        assert_eq!(kept.len(), 2, "in turn, on disk: {kept:?}");
    }
    publish(&mut bench, publisher, 8, 1, QOS0);
    assert_eq!(bench.counters().unmatched, 1, "QoS 0 does not wait");
    for client in away {
        bench.resume(client);
        assert_eq!(took(&mut bench, client).len(), 2);
    }
}

/// The acknowledgement waits for the disk of the shard whose member was drawn.
#[test]
fn a_promise_follows_the_message_to_its_shard() {
    let (mut bench, publisher, _) = group(2, &[]);
    let member = stored_member(&mut bench, "m", 1);
    bench.cut(member);
    bench.settle();
    bench.take(publisher);
    bench.publish(publisher, "jobs/1", "x", 1);
    bench.settle_mail();
    assert_eq!(bench.take(publisher), []);
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubAck(1)]);
    bench.crash();
    bench.settle();
    bench.resume(member);
    assert_eq!(bench.got(member)[0].text(), "x");
}

/// What its client had and did not acknowledge waits for its client.
///
/// [MQTT-4.4.0-1]
#[test]
fn a_stored_member_keeps_its_own_until_its_session_ends() {
    let (mut bench, publisher, members) = group(2, &[1]);
    let stored = stored_member(&mut bench, "s", 0);
    publish(&mut bench, publisher, 0, 6, QOS1);
    let own: Vec<String> = bench.got(stored).iter().map(|got| got.text()).collect();
    assert_eq!((own.len(), took(&mut bench, members[0]).len()), (3, 3));
    bench.cut(stored);
    bench.settle();
    assert_eq!(took(&mut bench, members[0]), [""; 0]);
    bench.resume(stored);
    let again = bench.got(stored);
    assert_eq!(again.iter().map(|got| got.text()).collect::<Vec<_>>(), own);
    assert!(again.iter().all(|got| got.dup));
    bench.cut(stored);
    bench.pass(3_601_000);
    bench.settle();
    assert_eq!(took(&mut bench, members[0]), own, "its session has ended");
    assert!(bench.disk.find_lane(&format!("s/{}", bench.clients[stored].id)).is_none(), "the lane is gone");
    assert!(bench.disk.state.is_empty(), "and the session");
}

/// The client comes back at once with Clean Start: it waits until what it had is with others.
#[test]
fn a_clean_start_passes_on_what_the_session_had() {
    let (mut bench, publisher, _) = group(2, &[]);
    let (one, two) = (stored_member(&mut bench, "one", 0), stored_member(&mut bench, "two", 1));
    bench.cut(one);
    bench.cut(two);
    bench.settle();
    publish(&mut bench, publisher, 0, 10, QOS1);
    for expiry_secs in [3_600, 0] {
        let mut connect = bench.hello(one);
        connect.session_expiry_secs = expiry_secs;
        bench.connect_with(one, &connect);
        bench.settle();
        assert_eq!(bench.take(one), [Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS }]);
        bench.subscribe(one, JOBS, QOS1);
        let there = bench.disk.find_lane(&format!("s/{}", bench.clients[one].id)).is_some();
        assert_eq!(there, expiry_secs > 0);
    }
    let kept = bench.disk.session_payloads(&bench.clients[two].id);
    assert_eq!(kept.len(), 10, "all with the other member, on disk: {kept:?}");
}

/// A crash before the messages of an ended session are safe elsewhere leaves the session: nothing is lost.
#[test]
fn an_ended_session_stays_until_its_messages_are_safe() {
    for steps in 0..40 {
        let (mut bench, publisher, _) = group(2, &[]);
        let (one, two) = (stored_member(&mut bench, "one", 0), stored_member(&mut bench, "two", 1));
        bench.cut(one);
        bench.cut(two);
        bench.settle();
        publish(&mut bench, publisher, 0, 6, QOS1);
        bench.resume(two);
        took(&mut bench, two);
        let mut expected: Vec<String> = bench.disk.session_payloads(&bench.clients[one].id);
        bench.connect_with(one, &bench.hello(one));
        for _ in 0..steps {
            let letters = bench.letters();
            match letters.first() {
                Some((to, from)) => drop(bench.deliver_mail(*to, *from)),
                None => drop(bench.disk_step()),
            }
        }
        bench.crash();
        bench.settle();
        bench.resume(two);
        bench.pass(3_601_000);
        bench.settle();
        let mut got = bench.disk.session_payloads(&bench.clients[one].id);
        got.extend(bench.got(two).iter().map(|got| got.text()));
        got.sort();
        got.dedup();
        expected.sort();
        assert!(expected.iter().all(|text| got.contains(text)), "{steps} steps: {expected:?} {got:?}");
    }
}

/// The draw is by what was known; a group that is gone by then is asked for elsewhere.
#[test]
fn a_message_that_finds_its_group_gone_goes_on() {
    let (mut bench, publisher, members) = group(3, &[1, 2]);
    bench.publish(publisher, "jobs/1", "a", 0);
    bench.publish(publisher, "jobs/1", "b", 0);
    bench.cut(members[0]);
    bench.settle();
    let mut texts = took(&mut bench, members[1]);
    texts.sort();
    assert_eq!(texts, ["a", "b"]);
}

#[test]
fn a_stop_passes_nothing_on() {
    let (mut bench, publisher, members) = group(1, &[0, 0]);
    publish(&mut bench, publisher, 0, 4, QOS1);
    counts(&mut bench, &members[..1]);
    bench.shut_down();
    assert_eq!(bench.counters().shared_again, 0);
}

/// Packets that are taken as one on their way in are dealt out one by one.
#[test]
fn a_run_is_shared_packet_by_packet() {
    let (mut bench, publisher, members) = group(2, &[0, 1, 0]);
    let watcher = bench.client("w", Version::V5, 0);
    bench.connect(watcher);
    bench.subscribe(watcher, "jobs/1", QOS0);
    let mut bytes = Vec::new();
    for number in 0..9 {
        let payload = number.to_string();
        let publish =
            wire::OutgoingPublish { topic: "jobs/1", payload: payload.as_bytes(), ..Default::default() };
        wire::encode_publish(&mut bytes, Version::V5, &publish).unwrap();
    }
    bench.send(publisher, &bytes);
    bench.settle();
    assert_eq!(counts(&mut bench, &members), [3, 3, 3]);
    assert_eq!(bench.texts(watcher).len(), 9);
}

/// The last member of the shard that was drawn leaves while a message is on its way there. Whoever gets it
/// then, the acknowledgement waits for that one's disk.
#[test]
fn the_promise_follows_a_message_to_the_shard_that_takes_it_in_the_end() {
    let mut acknowledged = 0;
    for (steps, qos) in (0..40).flat_map(|steps| [(steps, QOS1), (steps, Qos::ExactlyOnce)]) {
        let mut bench = Bench::new(4);
        let publisher = bench.client("p", Version::V5, 0);
        bench.resume(publisher);
        let members: Vec<usize> = (1..4).map(|home| bench.client("m", Version::V5, home)).collect();
        for member in &members {
            bench.resume(*member);
            bench.subscribe(*member, JOBS, qos);
        }
        bench.publish_with(publisher, "jobs/1", "x", 7, |publish| publish.qos = qos);
        // Two of three leave for good, before any of it arrives: it may come back twice.
        for member in &members[..2] {
            bench.disconnect(*member, ReasonCode::NORMAL_DISCONNECTION, Some(0));
        }
        for step in 0..steps {
            let letters = bench.letters();
            if step % 3 == 2 || letters.is_empty() {
                bench.disk_step();
            } else {
                let (to, from) = letters[step % letters.len()];
                bench.deliver_mail(to, from);
            }
        }
        let answer = if qos == QOS1 { Seen::PubAck(7) } else { Seen::PubRec(7) };
        let is_acknowledged = bench.take(publisher) == [answer];
        acknowledged += usize::from(is_acknowledged);
        bench.crash();
        bench.settle();
        let kept = bench.disk.session_payloads(&bench.clients[members[2]].id);
        assert!(!is_acknowledged || kept == ["x"], "acknowledged after {steps} steps, and lost in a crash");
    }
    assert!(acknowledged > 0, "somewhere it is acknowledged");
}
