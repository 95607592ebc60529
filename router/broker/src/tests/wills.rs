//! Wills that wait: for their delay, for the end of their session, across a restart and for the disks of other shards.

use model::{Limits, Qos};
use wire::{ReasonCode, Version, Will};

use crate::Plan;
use crate::testbench::{Bench, Seen};

const QOS2: Qos = Qos::ExactlyOnce;

fn will(delay_secs: u32) -> Will {
    Will { topic: "w".into(), payload: b"gone".to_vec(), qos: QOS2, delay_secs, ..Will::default() }
}

/// `shards` shards; a client with this will in the first, and a stored subscriber of it in the last, who is away.
fn bench(shards: usize, will: Will) -> (Bench, usize, usize) {
    let mut bench = Bench::with(shards, Limits::DEFAULT, Plan::empty());
    let watcher = bench.client("watcher", Version::V5, shards - 1);
    let mut for_ever = bench.stored_hello(watcher);
    for_ever.session_expiry_secs = u32::MAX;
    bench.connect_with(watcher, &for_ever);
    bench.settle();
    bench.take(watcher);
    bench.subscribe(watcher, "w", QOS2);
    bench.cut(watcher);
    let client = bench.client("client", Version::V5, 0);
    connect(&mut bench, client, Some(will));
    (bench, client, watcher)
}

fn connect(bench: &mut Bench, client: usize, will: Option<Will>) -> bool {
    bench.take(client);
    let mut hello = bench.stored_hello(client);
    hello.will = will;
    bench.connect_with(client, &hello);
    bench.settle();
    bench.take(client) == [Seen::ConnAck { present: true, reason: ReasonCode::SUCCESS }]
}

fn restart(bench: &mut Bench) {
    bench.crash();
    bench.settle();
}

fn pass(bench: &mut Bench, secs: u64) {
    bench.pass(secs * 1_000);
    bench.settle();
}

/// Wills that lie in the lane of the watcher.
#[track_caller]
fn expect(bench: &Bench, watcher: usize, wills: usize, when: &str) {
    assert_eq!(bench.disk.session_payloads(&bench.clients[watcher].id), vec!["gone"; wills], "{when}");
}

/// [MQTT-3.1.2-8] [MQTT-3.1.3-9]: the delay goes on while the router is down.
#[test]
fn a_delayed_will_survives_a_restart_and_comes_when_it_is_due() {
    for shards in 1..=2 {
        let (mut bench, client, watcher) = bench(shards, will(60));
        bench.cut(client);
        bench.settle();
        pass(&mut bench, 20);
        restart(&mut bench);
        pass(&mut bench, 30);
        expect(&bench, watcher, 0, "50 seconds after the end of its connection");
        restart(&mut bench);
        pass(&mut bench, 11);
        expect(&bench, watcher, 1, "61 seconds after it");
        restart(&mut bench);
        pass(&mut bench, 100);
        expect(&bench, watcher, 1, "and never again");
        assert!(bench.resume(watcher));
        let got = bench.got(watcher);
        assert_eq!((got[0].text().as_str(), got[0].qos), ("gone", QOS2)); // [MQTT-3.1.2-12]
    }
}

/// [MQTT-3.1.2-8]: a router that dies ends the connection, too.
#[test]
fn the_will_of_a_client_that_was_connected_counts_from_the_restart() {
    for (delay_secs, before, after) in [(0, 0, 1), (60, 59, 2)] {
        let (mut bench, _, watcher) = bench(2, will(delay_secs));
        pass(&mut bench, 500);
        restart(&mut bench);
        pass(&mut bench, before);
        if delay_secs > 0 {
            expect(&bench, watcher, 0, "before its delay is over");
        }
        pass(&mut bench, after);
        expect(&bench, watcher, 1, "afterwards");
        restart(&mut bench);
        pass(&mut bench, 100);
        expect(&bench, watcher, 1, "and never again");
    }
}

/// [MQTT-3.1.4-3] [MQTT-3.1.3-9]: a second connection while the first lives. Who resumes cancels a will that would wait; who
/// starts anew ends the session, and with it the waiting.
#[test]
fn a_takeover_cancels_a_delayed_will_unless_it_ends_the_session() {
    for (clean_start, wills) in [(false, 0), (true, 1)] {
        for shards in 1..=2 {
            let (mut bench, client, watcher) = bench(shards, will(60));
            let second = bench.client("client", Version::V5, 0);
            let mut hello = bench.stored_hello(second);
            hello.clean_start = clean_start;
            bench.connect_with(second, &hello);
            bench.settle();
            assert_eq!(bench.take(client), [Seen::Disconnect(ReasonCode::SESSION_TAKEN_OVER), Seen::Closed]);
            assert_eq!(
                bench.take(second),
                [Seen::ConnAck { present: !clean_start, reason: ReasonCode::SUCCESS }]
            );
            expect(&bench, watcher, wills, "at once");
            pass(&mut bench, 100);
            expect(&bench, watcher, wills, "and never later");
        }
    }
}

/// [MQTT-3.1.3-9] [MQTT-3.14.4-3]
#[test]
fn neither_a_client_that_is_back_nor_one_that_said_goodbye_leaves_one() {
    for goodbye in [false, true] {
        let (mut bench, client, watcher) = bench(2, will(60));
        if goodbye {
            bench.disconnect(client, ReasonCode::NORMAL_DISCONNECTION, None);
            bench.settle();
        }
        restart(&mut bench);
        if !goodbye {
            pass(&mut bench, 30);
            assert!(connect(&mut bench, client, None));
        }
        pass(&mut bench, 100);
        restart(&mut bench);
        pass(&mut bench, 100);
        expect(&bench, watcher, 0, "nobody is gone");
    }
}

/// [MQTT-3.1.3-9]: only a client that is back *before* the delay is over cancels it, however late our clock looks.
#[test]
fn a_client_that_is_back_too_late_has_left_its_will() {
    for crash in [false, true] {
        let (mut bench, client, watcher) = bench(2, will(0));
        if crash {
            restart(&mut bench);
        } else {
            bench.cut(client);
        }
        assert!(connect(&mut bench, client, Some(will(0))));
        expect(&bench, watcher, 1, "the will of the first connection");
    }
    let (mut bench, client, watcher) = bench(1, will(5));
    bench.cut(client);
    bench.now.instant = bench.now.instant.plus_millis(5_001);
    bench.now.timestamp = bench.now.timestamp.plus_millis(5_001);
    assert!(connect(&mut bench, client, None));
    expect(&bench, watcher, 1, "its delay was over, before any tick");
}

/// [MQTT-3.1.3-9] [MQTT-4.1.0-2]: the end of the session is the end of the delay.
#[test]
fn a_session_that_ends_before_the_delay_leaves_its_will_then() {
    for (crash, returns) in [(false, false), (true, false), (false, true), (true, true)] {
        let (mut bench, client, watcher) = bench(2, will(100_000));
        bench.cut(client);
        bench.settle();
        if crash {
            restart(&mut bench);
        }
        if returns {
            bench.now.instant = bench.now.instant.plus_millis(3_600_001);
            bench.now.timestamp = bench.now.timestamp.plus_millis(3_600_001);
            assert!(!connect(&mut bench, client, None), "its session is over, before any tick");
        } else {
            pass(&mut bench, 3_601);
        }
        bench.settle();
        expect(&bench, watcher, 1, "when its session ends");
        restart(&mut bench);
        pass(&mut bench, 200_000);
        expect(&bench, watcher, 1, "and never again");
    }
}

/// [MQTT-3.1.2-14] [MQTT-3.1.2-15]
#[test]
fn a_will_that_is_retained_is_so_after_a_restart() {
    for retain in [false, true] {
        let (mut bench, _, _) = bench(2, Will { retain, ..will(10) });
        restart(&mut bench);
        pass(&mut bench, 11);
        restart(&mut bench);
        let late = bench.client("late", Version::V3, 1);
        bench.connect(late);
        bench.subscribe_with(late, "w", QOS2, 0, |_| {});
        bench.settle();
        let wills =
            bench.take(late).into_iter().filter(|seen| matches!(seen, Seen::Publish(got) if got.retain));
        assert_eq!(wills.count(), usize::from(retain));
    }
}

/// Its subscriber is in another shard: until that has kept it, a crash must not take it from where it was.
#[test]
fn a_will_is_kept_until_every_disk_has_it() {
    for steps in 0..12 {
        let (mut bench, client, watcher) = bench(2, will(0));
        bench.cut(client);
        for _ in 0..steps {
            if !bench.disk_step() {
                bench.settle_mail();
            }
        }
        restart(&mut bench);
        pass(&mut bench, 1);
        let wills = bench.disk.session_payloads(&bench.clients[watcher].id).len();
        assert!((1..=2).contains(&wills), "{wills} wills after {steps} steps");
        restart(&mut bench);
        pass(&mut bench, 1);
        expect(&bench, watcher, wills, "and no more");
    }
}
