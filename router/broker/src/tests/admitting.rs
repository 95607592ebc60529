//! What happens while a sink has no room, or the store takes no writes.

use model::{LaneId, Limits, Priority, Qos};
use wire::{AckKind, ReasonCode, Version};

use super::routing::plan;
use crate::testbench::{Bench, Seen};
use crate::{Durability, Level, Levels, LossReason, Plan, SinkPlan, WhenFull};

const URGENT: LaneId = LaneId(1);
const DEFAULT: LaneId = LaneId(2);

/// Levels of one uplink.
fn uplink(level: Level) -> Levels {
    Levels { uplinks: [level].into(), ..Levels::default() }
}

/// The store is full.
fn store(level: Level) -> Levels {
    Levels { store: level, uplinks: [level].into(), ..Levels::default() }
}

fn no_writes() -> Levels {
    Levels { takes_writes: false, ..Levels::default() }
}

fn with_policy(mut plan: Plan, policy: WhenFull) -> Plan {
    for sink in &mut plan.sinks {
        if let SinkPlan::Lanes { when_full, .. } = sink {
            *when_full = policy;
        }
    }
    plan
}

/// A bench with the lanes of `plan`, a publisher and a subscriber with a clean session to everything.
fn bench_with(plan: Plan, limits: Limits, version: Version) -> (Bench, usize, usize) {
    let mut bench = Bench::with(1, limits, plan);
    assert_eq!((bench.disk.lane("urgent"), bench.disk.lane("default")), (URGENT, DEFAULT));
    let (publisher, subscriber) = (bench.client("p", version, 0), bench.client("s", Version::V5, 0));
    bench.connect(publisher);
    bench.connect(subscriber);
    bench.subscribe(subscriber, "#", Qos::AtLeastOnce);
    (bench, publisher, subscriber)
}

fn bench(version: Version) -> (Bench, usize, usize) {
    bench_with(plan(&[("FROM \"up/#\" INTO $upstream", None, None)]), Limits::DEFAULT, version)
}

fn will(topic: &str, qos: Qos) -> wire::Will {
    wire::Will {
        topic: topic.to_owned(),
        payload: b"gone".to_vec(),
        qos,
        retain: false,
        delay_secs: 0,
        expiry_secs: None,
        properties: Vec::new(),
    }
}

fn refused(kind: AckKind, id: u16) -> Seen {
    Seen::Refused(kind, id, ReasonCode::QUOTA_EXCEEDED)
}

/// [MQTT-4.6.0-2] [MQTT-3.4.2-2]: a full sink that refuses is said in PUBACK and PUBREC, and nobody gets the message.
#[test]
fn a_full_sink_refuses_what_5_0_publishes_until_there_is_room() {
    let (mut bench, publisher, subscriber) = bench(Version::V5);
    bench.set_levels(uplink(Level::FullForUrgent));
    bench.publish(publisher, "up/a", "1", 1);
    bench.publish_once(publisher, "up/a", "2", 2);
    bench.publish(publisher, "local", "3", 3);
    assert_eq!(
        bench.take(publisher),
        [refused(AckKind::PubAck, 1), refused(AckKind::PubRec, 2), Seen::PubAck(3)]
    );
    bench.settle();
    assert_eq!(bench.texts(subscriber), ["3"], "nobody gets what is refused");
    assert_eq!(bench.disk.payloads(DEFAULT), [] as [&str; 0]);
    assert_eq!((bench.counters().refused_sink_full, bench.counters().received), (2, 3));
    bench.set_levels(Levels::default());
    bench.publish(publisher, "up/a", "1", 1);
    bench.publish_once(publisher, "up/a", "2", 2);
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubAck(1), Seen::PubRec(2)]);
    assert_eq!((bench.texts(subscriber).len(), bench.disk.payloads(DEFAULT).len()), (2, 2));
}

/// Its publisher may use it alone from then on; one that is too high is a fault as ever.
#[test]
fn an_alias_that_came_with_a_refused_message_holds() {
    let (mut bench, publisher, _) = bench(Version::V5);
    let with = |topic, alias| {
        move |it: &mut wire::OutgoingPublish<'static>| {
            (it.topic, it.topic_alias) = (topic, std::num::NonZeroU16::new(alias));
        }
    };
    bench.set_levels(uplink(Level::FullForUrgent));
    bench.publish_with(publisher, "up/a", "1", 1, with("up/a", 1));
    bench.set_levels(Levels::default());
    bench.publish_with(publisher, "up/a", "1", 2, with("", 1));
    bench.settle();
    assert_eq!(bench.take(publisher), [refused(AckKind::PubAck, 1), Seen::PubAck(2)]);
    assert_eq!(bench.disk.payloads(DEFAULT), ["1"]);
    bench.set_levels(uplink(Level::FullForUrgent));
    bench.publish_with(publisher, "up/a", "1", 3, with("up/a", 17));
    assert_eq!(bench.take(publisher), [Seen::Disconnect(ReasonCode::TOPIC_ALIAS_INVALID), Seen::Closed]);
}

/// [MQTT-4.6.0-2]
#[test]
fn a_refusal_does_not_pass_by_a_puback_that_waits_for_the_disk() {
    let (mut bench, publisher, _) = bench(Version::V5);
    bench.publish(publisher, "up/a", "1", 1);
    bench.set_levels(uplink(Level::FullForOrdinary));
    bench.publish(publisher, "up/a", "2", 2);
    bench.publish(publisher, "local", "3", 3);
    assert_eq!(bench.take(publisher), []);
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubAck(1), refused(AckKind::PubAck, 2), Seen::PubAck(3)]);
}

/// [MQTT-3.4.2-2] [MQTT-3.1.2-29]: words go to who wants them and has room for them.
#[test]
fn a_refusal_says_why_to_who_wants_to_know() {
    for (wants, bytes_max, expected) in [(true, None, true), (false, None, false), (true, Some(40), false)] {
        let (mut bench, _, _) = bench(Version::V5);
        let publisher = bench.client("q", Version::V5, 0);
        let mut hello = bench.hello(publisher);
        hello.request_problem_information = wants;
        hello.packet_bytes_max = bytes_max.and_then(std::num::NonZeroU32::new);
        bench.connect_with(publisher, &hello);
        bench.settle();
        bench.set_levels(uplink(Level::FullForOrdinary));
        bench.heard(publisher);
        bench.publish(publisher, "up/a", "x", 1);
        let heard = bench.heard(publisher);
        let frame = wire::split(&heard, u32::MAX).unwrap().unwrap();
        let wire::Packet::PubAck(ack) = wire::decode(frame, Version::V5).unwrap() else {
            panic!("no PUBACK")
        };
        assert_eq!(ack.reason, ReasonCode::QUOTA_EXCEEDED);
        assert_eq!(ack.reason_string().is_some_and(|words| words.contains("bytes_max")), expected);
    }
}

#[test]
fn a_full_sink_lets_3_1_1_wait_in_order_and_nobody_else() {
    let (mut bench, publisher, subscriber) = bench(Version::V3);
    let other = bench.client("o", Version::V3, 0);
    bench.connect(other);
    bench.set_levels(uplink(Level::FullForOrdinary));
    for id in 1..=3 {
        bench.publish(publisher, if id == 2 { "local" } else { "up/a" }, &id.to_string(), id);
    }
    bench.publish(other, "local", "other", 1);
    assert_eq!((bench.take(publisher), bench.take(other)), (vec![], vec![Seen::PubAck(1)]));
    assert_eq!(bench.texts(subscriber), ["other"]);
    assert_eq!((bench.brokers[0].withheld(), bench.counters().received), (1, 1));
    bench.set_levels(uplink(Level::FullForUrgent));
    assert_eq!(bench.brokers[0].withheld(), 1, "no more room than before");
    bench.set_levels(Levels::default());
    bench.settle();
    assert_eq!(bench.take(publisher), (1..=3).map(Seen::PubAck).collect::<Vec<_>>());
    assert_eq!(bench.texts(subscriber), ["1", "2", "3"]);
    assert_eq!(bench.disk.payloads(DEFAULT), ["1", "3"]);
}

#[test]
fn those_who_waited_longest_go_on_first() {
    let (mut bench, publisher, _) = bench(Version::V3);
    let others = ["a", "b", "c"].map(|name| bench.client(name, Version::V3, 0));
    others.into_iter().for_each(|client| bench.connect(client));
    bench.set_levels(uplink(Level::FullForOrdinary));
    for client in [others[1], publisher, others[0], others[2]] {
        bench.publish(client, "up/a", &client.to_string(), 1);
    }
    bench.set_levels(Levels::default());
    assert_eq!(bench.resumed, [others[1], publisher, others[0], others[2]]);
    bench.settle();
    assert_eq!(bench.disk.payloads(DEFAULT).len(), 4);
}

/// [MQTT-3.1.2-22] [MQTT-3.12.4-1]
#[test]
fn who_waits_is_alive_and_served() {
    let plan = plan(&[("FROM \"up/#\" INTO $upstream", None, None)]);
    let limits = Limits { session_inflight_max: 2, ..Limits::DEFAULT };
    let (mut bench, publisher, _) = bench_with(plan, limits, Version::V5);
    let device = bench.client("d", Version::V3, 0);
    let mut hello = bench.hello(device);
    hello.keep_alive_secs = 10;
    bench.connect_with(device, &hello);
    bench.settle();
    bench.take(device);
    bench.subscribe(device, "news", Qos::AtLeastOnce);
    bench.set_levels(uplink(Level::FullForOrdinary));
    bench.publish(device, "up/a", "x", 1);
    bench.ping(device);
    assert_eq!(bench.take(device), [Seen::PingResp], "behind a packet that waits");
    bench.pass(60_000);
    for number in 1..=6 {
        bench.publish(publisher, "news", &number.to_string(), 0);
        bench.publish(publisher, "news", &number.to_string(), number);
    }
    let mut texts = Vec::new();
    for _ in 0..6 {
        for got in bench.got(device) {
            if got.id != 0 {
                texts.push(got.text());
                bench.ack(device, got.id); // or its window would stay shut
            }
        }
    }
    assert_eq!(texts, ["1", "2", "3", "4", "5", "6"]);
    bench.set_levels(Levels::default());
    bench.settle();
    assert_eq!(bench.take(device), [Seen::PubAck(1)]);
    bench.pass(16_000);
    assert_eq!(bench.take(device), [Seen::Closed], "its silence is its own again");
}

/// [MQTT-3.14.4-3]: a goodbye counts although the packet before it was never taken.
#[test]
fn who_says_goodbye_behind_a_packet_that_waits_leaves_no_will() {
    for goodbye in [true, false] {
        let (mut bench, _, subscriber) = bench(Version::V5);
        let device = bench.client("d", Version::V3, 0);
        let mut hello = bench.hello(device);
        hello.will = Some(will("last/words", Qos::AtMostOnce));
        bench.connect_with(device, &hello);
        bench.settle();
        bench.set_levels(uplink(Level::FullForOrdinary));
        bench.publish(device, "up/a", "x", 1);
        if goodbye {
            bench.disconnect(device, ReasonCode::NORMAL_DISCONNECTION, None);
        }
        bench.cut(device);
        bench.settle();
        assert_eq!(bench.texts(subscriber), if goodbye { vec![] } else { vec!["gone".to_owned()] });
    }
}

#[test]
fn qos_0_goes_everywhere_but_to_the_full_sink_and_the_loss_is_noted_once() {
    for version in [Version::V3, Version::V5] {
        let (mut bench, publisher, subscriber) = bench(version);
        bench.set_levels(uplink(Level::FullForOrdinary));
        let mut bytes = Vec::new();
        for _ in 0..3 {
            let publish = wire::OutgoingPublish { topic: "up/a", payload: b"x", ..Default::default() };
            wire::encode_publish(&mut bytes, version, &publish).unwrap();
        }
        bench.send(publisher, &bytes);
        bench.settle();
        assert_eq!(bench.texts(subscriber).len(), 3);
        assert_eq!((bench.disk.payloads(DEFAULT).len(), bench.counters().dropped_sink_full), (0, 3));
        let [loss] = &bench.losses[..] else { panic!("{:?}", bench.losses) };
        let sender = &*bench.clients[publisher].id;
        assert_eq!(
            (loss.lane, loss.reason, loss.count, &*loss.sender),
            (DEFAULT, LossReason::SinkFull, 3, sender)
        );
        let routes = bench.plan.table.routes();
        let route = loss.route.expect("all of them took it");
        assert_eq!(routes[route.0 as usize].text(), "FROM \"up/#\" INTO $upstream");
    }
}

/// Who loses messages in the same turn is not called by the name of the first.
#[test]
fn losses_of_several_senders_in_one_turn_are_told_apart_up_to_a_bound() {
    let (mut bench, first, _) = bench(Version::V5);
    bench.set_levels(uplink(Level::FullForOrdinary));
    let mut publishers = vec![first];
    for number in 1..80 {
        let publisher = bench.client(&format!("dev{number}-"), Version::V5, 0);
        bench.connect(publisher);
        publishers.push(publisher);
    }
    let mut bytes = Vec::new();
    let publish = wire::OutgoingPublish { topic: "up/a", payload: b"x", ..Default::default() };
    wire::encode_publish(&mut bytes, Version::V5, &publish).unwrap();
    publishers.iter().for_each(|publisher| bench.send(*publisher, &bytes));
    bench.settle();
    let told: Vec<_> = bench.losses.iter().filter(|loss| loss.route.is_some()).collect();
    assert!(told.iter().all(|loss| loss.count == 1 && !loss.sender.is_empty()), "{told:?}");
    let senders: std::collections::BTreeSet<_> = told.iter().map(|loss| &loss.sender).collect();
    assert_eq!(senders.len(), told.len());
    assert!(told.len() >= 2, "several in a turn: {told:?}");
    let rest: Vec<_> = bench.losses.iter().filter(|loss| loss.route.is_none()).collect();
    assert!(rest.iter().all(|loss| loss.sender.is_empty()), "{rest:?}");
    assert_eq!(bench.losses.iter().map(|loss| loss.count).sum::<u64>(), 80);
}

#[test]
fn drop_newest_acknowledges_and_drops_for_that_sink_alone() {
    let plan = with_policy(plan(&[("FROM \"up/#\" INTO $upstream", None, None)]), WhenFull::DropNewest);
    let (mut bench, publisher, subscriber) = bench_with(plan, Limits::DEFAULT, Version::V3);
    bench.set_levels(uplink(Level::FullForOrdinary));
    bench.publish(publisher, "up/a", "1", 1);
    assert_eq!(
        (bench.take(publisher), bench.texts(subscriber)),
        (vec![Seen::PubAck(1)], vec!["1".to_owned()])
    );
    assert_eq!((bench.counters().dropped_sink_full, bench.losses.len()), (1, 1));
    assert_eq!(bench.counters().refused_sink_full, 0);
}

#[test]
fn urgent_messages_use_the_reserve() {
    let routes = [
        ("FROM \"up/alarm\" INTO $upstream", Some(0), None),
        ("FROM \"up/data\" INTO $upstream", None, None),
    ];
    let (mut bench, publisher, _) = bench_with(plan(&routes), Limits::DEFAULT, Version::V5);
    bench.set_levels(uplink(Level::FullForOrdinary));
    bench.publish(publisher, "up/alarm", "1", 1);
    bench.publish(publisher, "up/data", "2", 2);
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubAck(1), refused(AckKind::PubAck, 2)]);
    bench.set_levels(uplink(Level::FullForUrgent));
    bench.publish(publisher, "up/alarm", "3", 3);
    assert_eq!(bench.take(publisher), [refused(AckKind::PubAck, 3)]);
    assert_eq!((bench.disk.payloads(URGENT).len(), bench.disk.payloads(DEFAULT).len()), (1, 0));
}

/// A clause with a memory must not count what was refused, nor let a less urgent way break its word.
#[test]
fn a_message_that_was_refused_has_not_been_seen_by_throttle() {
    let routes = [
        ("FROM \"up/#\" THROTTLE 1 PER 1h INTO $upstream", Some(0), None),
        ("FROM \"up/#\" INTO uplink(\"x\")", None, None),
    ];
    let (mut bench, publisher, _) = bench_with(plan(&routes), Limits::DEFAULT, Version::V5);
    bench.set_levels(uplink(Level::FullForUrgent));
    bench.publish(publisher, "up/a", "1", 1);
    assert_eq!(bench.take(publisher), [refused(AckKind::PubAck, 1)]);
    bench.set_levels(Levels::default());
    bench.publish(publisher, "up/a", "1", 1);
    bench.publish(publisher, "up/a", "2", 2);
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubAck(1), Seen::PubAck(2)]);
    assert_eq!(
        (bench.disk.payloads(URGENT), bench.disk.payloads(DEFAULT)),
        (vec!["1".into()], vec!["2".into()])
    );
    // The urgent way is throttled: what is left is ordinary, and there is no room for that.
    bench.set_levels(uplink(Level::FullForOrdinary));
    bench.publish(publisher, "up/a", "3", 3);
    assert_eq!(bench.take(publisher), [refused(AckKind::PubAck, 3)]);
    assert_eq!(bench.counters().dropped_sink_full, 0);
}

#[test]
fn a_full_store_refuses_what_stored_sessions_want_here_and_elsewhere() {
    for (home, filter) in
        [(0, "up/a"), (1, "up/a"), (0, "$share/g/up/a"), (1, "$share/g/up/a"), (1, "copy/up/a")]
    {
        let plan = plan(&[("FROM \"up/#\" INTO topic(\"copy/{$topic}\")", None, None)]);
        let mut bench = Bench::with(2, Limits::DEFAULT, plan);
        let (publisher, stored) = (bench.client("p", Version::V5, 0), bench.client("s", Version::V5, home));
        bench.connect(publisher);
        bench.resume(stored);
        bench.subscribe(stored, filter, Qos::AtLeastOnce);
        bench.cut(stored);
        bench.set_levels(store(Level::FullForOrdinary));
        bench.publish(publisher, "up/a", "1", 1);
        bench.publish(publisher, "up/a", "0", 0);
        bench.publish(publisher, "other", "2", 2);
        bench.settle();
        assert_eq!(bench.take(publisher), [refused(AckKind::PubAck, 1), Seen::PubAck(2)], "{home} {filter}");
        bench.set_levels(Levels::default());
        bench.publish(publisher, "up/a", "1", 1);
        bench.settle();
        assert_eq!(bench.take(publisher), [Seen::PubAck(1)]);
        bench.resume(stored);
        bench.settle();
        assert_eq!(bench.texts(stored), ["1"]);
    }
}

#[test]
fn while_the_store_takes_no_writes_only_what_needs_it_waits() {
    let (mut bench, publisher, subscriber) = bench(Version::V5);
    let (local, stored) = (bench.client("l", Version::V3, 0), bench.client("t", Version::V5, 0));
    bench.connect(local);
    bench.resume(stored);
    bench.subscribe(stored, "kept", Qos::AtLeastOnce);
    bench.disk.fails = true;
    bench.set_levels(no_writes());
    bench.publish(publisher, "up/a", "waits", 1);
    bench.publish(publisher, "local", "behind it", 2);
    bench.publish(local, "local", "goes on", 1);
    bench.publish(local, "up/a", "QoS 0 does not wait", 0);
    bench.publish_once(local, "local", "nor does QoS 2", 2);
    assert_eq!(bench.take(local), [Seen::PubAck(1), Seen::PubRec(2)]);
    assert_eq!(bench.texts(subscriber), ["goes on", "QoS 0 does not wait", "nor does QoS 2"]);
    bench.publish(local, "kept", "for a stored session", 3);
    bench.settle();
    assert_eq!((bench.take(publisher), bench.take(local), bench.take(stored)), (vec![], vec![], vec![]));
    bench.disk.fails = false;
    bench.set_levels(Levels::default());
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubAck(1), Seen::PubAck(2)]);
    assert_eq!(
        (bench.take(local), bench.texts(stored)),
        (vec![Seen::PubAck(3)], vec!["for a stored session".into()])
    );
    assert_eq!(bench.disk.payloads(DEFAULT), ["QoS 0 does not wait", "waits"]);
    assert_eq!(bench.counters().refused_sink_full, 0, "the disk will be well again");
}

/// [MQTT-4.3.3-8]: an identifier that must be written down needs the disk as well, and so does what is retained.
#[test]
fn what_must_be_written_down_waits_for_the_store() {
    let (mut bench, retains, subscriber) = bench(Version::V5);
    let keeps = bench.client("k", Version::V5, 0);
    bench.resume(keeps);
    bench.disk.fails = true;
    bench.set_levels(no_writes());
    bench.publish_once(keeps, "local", "QoS 2 of a stored session", 1);
    bench.publish_with(retains, "state", "on", 0, |publish| publish.retain = true);
    assert_eq!((bench.brokers[0].withheld(), bench.texts(subscriber)), (2, vec![]));
    bench.disk.fails = false;
    bench.set_levels(Levels::default());
    bench.settle();
    assert_eq!(bench.take(keeps), [Seen::PubRec(1)]);
    assert_eq!(bench.disk.retained.len(), 1);
}

#[test]
fn a_route_that_promises_memory_goes_on_until_memory_is_used_up() {
    let mut plan = plan(&[("FROM \"up/#\" INTO $upstream", None, None)]);
    plan.durabilities = vec![Durability::Memory];
    let limits = Limits { commit_bytes_max: 600, ..Limits::DEFAULT };
    let (mut bench, publisher, subscriber) = bench_with(plan, limits, Version::V5);
    bench.disk.fails = true;
    bench.set_levels(no_writes());
    let payload = "x".repeat(180);
    for id in 1..=5 {
        bench.publish(publisher, "up/a", &payload, id);
    }
    let acked = bench.take(publisher).len();
    assert_eq!(acked, 4, "what is above 600 bytes waits");
    assert!(!bench.brokers[0].is_saturated(), "others are read");
    let other = bench.client("o", Version::V5, 0);
    bench.connect(other);
    bench.publish(other, "up/a", "dropped for the route", 0);
    bench.publish(other, "local", "goes on", 1);
    assert_eq!(bench.take(other), [Seen::PubAck(1)]);
    assert_eq!(bench.counters().dropped_store_fails, 1);
    assert_eq!(bench.losses.last().map(|loss| loss.reason), Some(LossReason::StoreFails));
    let texts = bench.texts(subscriber);
    assert_eq!(texts[4..], ["dropped for the route".to_owned(), "goes on".to_owned()]);
    bench.disk.fails = false;
    bench.set_levels(Levels::default());
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubAck(5)]);
    assert_eq!(bench.disk.payloads(DEFAULT).len(), 5);
}

#[test]
fn a_route_that_promises_spill_goes_on_while_fronts_take_its_messages() {
    let mut plan = plan(&[("FROM \"up/#\" INTO $upstream", None, None)]);
    plan.durabilities = vec![Durability::Spill];
    let (mut bench, publisher, subscriber) = bench_with(plan, Limits::DEFAULT, Version::V5);
    let once = bench.client("o", Version::V5, 0);
    bench.connect(once);
    bench.disk.fails = true;
    bench.set_levels(Levels { fronts: [true].into(), ..no_writes() });
    bench.publish(publisher, "up/a", "held", 1);
    assert_eq!((bench.texts(subscriber), bench.brokers[0].withheld()), (vec!["held".to_owned()], 0));
    // What must be written waits, and so does everything once no front takes it.
    bench.publish_once(once, "up/a", "once", 1);
    assert_eq!(bench.brokers[0].withheld(), 1);
    bench.set_levels(no_writes());
    bench.publish(publisher, "up/a", "waits", 2);
    assert_eq!((bench.texts(subscriber).len(), bench.brokers[0].withheld()), (0, 2));
    bench.disk.fails = false;
    bench.set_levels(Levels::default());
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubAck(1), Seen::PubAck(2)]);
}

/// [MQTT-3.2.2-6]: who cannot be remembered is told, instead of filling memory with sessions to write.
#[test]
fn a_session_that_cannot_be_stored_is_refused_once_memory_is_used_up() {
    let mut plan = plan(&[("FROM \"up/#\" INTO $upstream", None, None)]);
    plan.durabilities = vec![Durability::Memory];
    let limits = Limits { commit_bytes_max: 100, ..Limits::DEFAULT };
    let (mut bench, publisher, _) = bench_with(plan, limits, Version::V5);
    bench.disk.fails = true;
    bench.set_levels(no_writes());
    bench.publish(publisher, "up/a", &"x".repeat(200), 1);
    for version in [Version::V3, Version::V5] {
        let (keeps, clean) = (bench.client("k", version, 0), bench.client("c", version, 0));
        bench.connect_with(keeps, &bench.stored_hello(keeps));
        let reason = ReasonCode::SERVER_UNAVAILABLE;
        assert_eq!(bench.take(keeps), [Seen::ConnAck { present: false, reason }, Seen::Closed]);
        bench.connect(clean);
    }
}

#[test]
fn a_will_goes_out_as_room_allows() {
    // Roomy; only the reserve is left; nothing is left.
    for (level, kept) in [(Level::Roomy, 1), (Level::FullForOrdinary, 1), (Level::FullForUrgent, 0)] {
        let (mut bench, _, subscriber) = bench(Version::V5);
        let (stored, device) = (bench.client("t", Version::V5, 0), bench.client("d", Version::V5, 0));
        bench.resume(stored);
        bench.subscribe(stored, "up/last", Qos::AtLeastOnce);
        let mut hello = bench.hello(device);
        hello.will = Some(wire::Will { retain: true, ..will("up/last", Qos::AtLeastOnce) });
        bench.connect_with(device, &hello);
        bench.settle();
        bench.set_levels(store(level));
        bench.cut(device);
        bench.settle();
        let got = bench.got(subscriber);
        assert_eq!((got.len(), got[0].qos == Qos::AtLeastOnce), (1, kept == 1), "{level:?}");
        assert_eq!(bench.disk.session_payloads(&bench.clients[stored].id).len(), kept);
        let lost = u64::from(level != Level::Roomy);
        assert_eq!(bench.counters().dropped_sink_full, lost, "the uplink goes without: nobody can be asked");
        assert_eq!((bench.losses.len() as u64, bench.counters().wills_weakened), (lost, 1 - kept as u64));
        assert_eq!(bench.disk.retained.len(), 1);
    }
}

#[test]
fn what_is_illegal_denied_or_a_repeat_is_dealt_with_as_ever() {
    let (mut bench, publisher, _) = bench(Version::V5);
    bench.publish_once(publisher, "up/a", "1", 1);
    bench.settle();
    bench.take(publisher);
    bench.set_levels(uplink(Level::FullForUrgent));
    bench.publish_once(publisher, "up/a", "1", 1);
    bench.publish(publisher, "$SYS/up", "no", 2);
    assert_eq!(
        bench.take(publisher),
        [Seen::PubRec(1), Seen::Refused(AckKind::PubAck, 2, ReasonCode::NOT_AUTHORIZED)]
    );
    bench.publish(publisher, &"x".repeat(5_000), "too long", 3);
    assert_eq!(bench.take(publisher), [Seen::Disconnect(ReasonCode::TOPIC_NAME_INVALID), Seen::Closed]);
}

#[test]
fn an_alias_that_waits_stands_for_its_topic() {
    let (mut bench, publisher, _) = bench(Version::V5);
    for (topic, id) in [("up/a", 1), ("", 2)] {
        bench.set_levels(if id == 1 { Levels::default() } else { no_writes() });
        let alias = std::num::NonZeroU16::new(1);
        bench.publish_with(publisher, topic, &id.to_string(), id, |publish| publish.topic_alias = alias);
    }
    assert_eq!(bench.brokers[0].withheld(), 1);
    bench.set_levels(Levels::default());
    bench.settle();
    assert_eq!(bench.take(publisher), [Seen::PubAck(1), Seen::PubAck(2)]);
    assert_eq!(bench.disk.payloads(DEFAULT), ["1", "2"]);
}

#[test]
fn levels_are_about_priorities() {
    let urgent = Priority::new(2).unwrap();
    let ordinary = Priority::new(3).unwrap();
    for (level, takes) in [
        (Level::Roomy, [true, true]),
        (Level::FullForOrdinary, [true, false]),
        (Level::FullForUrgent, [false, false]),
    ] {
        assert_eq!([level.takes(urgent), level.takes(ordinary)], takes);
        assert_eq!(Level::from_u8(level as u8), level);
    }
}

/// Room is taken before a message is appended: what the disk has not written yet counts.
#[test]
fn a_bound_holds_to_the_byte_while_the_disk_writes_nothing() {
    for version in [Version::V5, Version::V3] {
        let (mut bench, publisher, subscriber) = bench(version);
        bench.bind(1_000, 0);
        bench.connect(publisher);
        bench.connect(subscriber);
        bench.subscribe(subscriber, "#", Qos::AtLeastOnce);
        bench.settle();
        bench.take(publisher);
        bench.take(subscriber);
        for id in 1..=40 {
            bench.publish(publisher, "up/a", &"x".repeat(80), id);
        }
        let waiting = bench.waits_for_uplink();
        assert!((880..=1_000).contains(&waiting), "{waiting}");
        bench.settle();
        let kept = bench.disk.payloads(DEFAULT).len();
        assert_eq!((bench.waits_for_uplink(), bench.texts(subscriber).len()), (waiting, kept));
        let answers = bench.take(publisher);
        let taken = answers.iter().filter(|seen| matches!(seen, Seen::PubAck(_))).count();
        match version {
            Version::V5 => assert_eq!((taken, answers.len()), (kept, 40), "the others are refused"),
            Version::V3 => assert_eq!((taken, answers.len(), bench.brokers[0].withheld()), (kept, kept, 1)),
        }
        // Each time the upstream takes what is there, the next ones find room.
        for _ in 0..40 {
            bench.drain_uplink();
            bench.settle();
            assert!(bench.waits_for_uplink() <= 1_000);
        }
        bench.drain_uplink();
        assert_eq!(bench.rooms.waiting(0), Some(0));
        if version == Version::V3 {
            assert_eq!(bench.disk.payloads(DEFAULT).len(), 40, "who waits is not forgotten");
        }
    }
}

#[test]
fn without_room_qos_0_and_wills_are_dropped_and_counted_and_urgent_ones_use_the_reserve() {
    let specs =
        [("FROM \"up/#\" INTO $upstream", None, None), ("FROM \"alarm/#\" INTO $upstream", Some(0), None)];
    let (mut bench, publisher, _) = bench_with(plan(&specs), Limits::DEFAULT, Version::V5);
    bench.bind(1_000, 200);
    let mut hello = bench.hello(publisher);
    hello.will = Some(will("up/gone", Qos::AtLeastOnce));
    bench.connect_with(publisher, &hello);
    for _ in 0..20 {
        bench.publish(publisher, "up/a", &"x".repeat(80), 0);
    }
    let ordinary = bench.waits_for_uplink();
    assert!((680..=800).contains(&ordinary), "{ordinary}");
    for _ in 0..20 {
        bench.publish(publisher, "alarm/a", "fire", 0);
    }
    let all = bench.waits_for_uplink();
    assert!((960..=1_000).contains(&all), "{all}");
    let dropped = bench.counters().dropped_sink_full;
    bench.cut(publisher);
    assert_eq!((bench.counters().dropped_sink_full, bench.waits_for_uplink()), (dropped + 1, all));
    let noted: u64 = bench.losses.iter().map(|loss| loss.count).sum();
    assert_eq!(noted, dropped + 1, "the ledger has them");
}
