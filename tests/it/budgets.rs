//! Sinks and a store without room, seen by publishers and on the disk: who is refused, who waits, what is dropped, and how
//! it goes on when there is room again.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::{
    Incoming, OutgoingPublish, Proxy, QOS_0, QOS_1, ReasonCode, Recorder, Router, Setup, Version, until, v3,
    v5, within,
};

use crate::space::{cut_off, disk_usage, letters, level, lost, number};

/// A little less than a large packet; so few of them fill a small sink.
const LARGE: usize = 8_000;

fn for_the_uplink(text: &str) -> OutgoingPublish<'_> {
    OutgoingPublish { topic: "factory/a", payload: text.as_bytes(), qos: QOS_1, ..Default::default() }
}

/// A router whose uplink is cut off and takes 256 KiB.
fn small_sink(recorder: &Recorder, when_full: &str) -> (Proxy, Router) {
    let proxy = Proxy::to(recorder.address());
    proxy.cut();
    let router = Setup::new()
        .uplink(proxy.address(), Version::V5)
        .set("routes.all", r#"FROM "factory/#" INTO $upstream"#)
        .set("limits.packet_bytes_max", 65_536)
        .set("uplink.plant.bytes_max", 262_144)
        .set("uplink.plant.when_full", when_full)
        .start();
    (proxy, router)
}

#[test]
fn a_full_uplink_refuses_5_0_lets_3_1_1_wait_and_goes_on_when_the_upstream_is_back() {
    let recorder = Recorder::start();
    let (proxy, router) = small_sink(&recorder, "refuse");
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("factory/#", QOS_1);
    let mut publisher = router.connect(&v5("publisher"));
    let large = "x".repeat(LARGE);
    let mut accepted = 0;
    let refused = until("the uplink to be full", || match publisher.reason_of(&for_the_uplink(&large)) {
        ReasonCode::SUCCESS => {
            accepted += 1;
            None
        }
        other => Some(other),
    });
    assert_eq!(refused, ReasonCode::QUOTA_EXCEEDED);
    assert!(accepted * LARGE < 300_000, "{accepted} of {LARGE} bytes are more than the budget");
    assert_eq!(subscriber.messages(accepted).len(), accepted);
    // Had the refused one been delivered, it would come before this one.
    publisher.publish("factory/a", "for those who are here", QOS_0);
    assert_eq!(subscriber.message().text(), "for those who are here", "nobody got what was refused");

    let mut device = router.connect(&v3("device"));
    let waits = device.send(&for_the_uplink(&format!("from the device {large}"))).expect("an identifier");
    router.wait_for("/withheld", 1);
    device.ping();
    publisher.publish("local", "others do not notice", QOS_1);

    proxy.mend();
    device.await_ack(waits);
    assert!(subscriber.message().text().starts_with("from the device"));
    until("room again", || {
        (publisher.reason_of(&for_the_uplink("again")) == ReasonCode::SUCCESS).then_some(())
    });
    let arrived = recorder.wait_for(accepted + 2);
    assert_eq!(arrived.iter().filter(|it| it.text().starts_with("from the device")).count(), 1);
    assert_eq!(arrived.iter().filter(|it| it.text() == large).count(), accepted);
    // Shards say how many wait a moment later.
    until("nobody to wait", || (router.number("/withheld") == 0).then_some(()));
}

#[test]
fn an_uplink_that_drops_the_newest_acknowledges_counts_and_keeps_the_oldest() {
    const COUNT: usize = 100;
    let recorder = Recorder::start();
    let (proxy, router) = small_sink(&recorder, "drop-newest");
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("factory/#", QOS_1);
    let text = |number: usize| format!("{number} {}", "x".repeat(LARGE));
    for (at, connect) in [v5("publisher"), v3("device")].iter().enumerate() {
        let mut publisher = router.connect(connect);
        let numbers = at * COUNT / 2..(at + 1) * COUNT / 2;
        numbers.for_each(|number| publisher.publish("factory/a", text(number), QOS_1));
    }
    let delivered: Vec<_> = subscriber.texts(COUNT).iter().map(|it| number(it)).collect();
    assert_eq!(delivered, (0..COUNT).collect::<Vec<_>>(), "who is here gets everything");
    // The ledger hears of it a moment after the acknowledgement.
    until("the ledger to have what is not in the lane", || {
        (router.backlog() + lost(&router.status(), "sink_full") == COUNT as u64).then_some(())
    });
    let kept = router.backlog() as usize;
    assert!((10..40).contains(&kept), "{kept}");
    proxy.mend();
    let arrived: Vec<_> = recorder.wait_for(kept).iter().map(|it| number(it.text())).collect();
    assert_eq!(arrived, (0..kept).collect::<Vec<_>>());
}

/// What publishers at full speed were told.
#[derive(Debug, Default)]
struct Told {
    accepted: AtomicUsize,
    refused: AtomicUsize,
    stop: AtomicBool,
}

/// Publishes in bursts until told to stop; the numbers that were accepted. Whoever is not told waits.
fn publish_at_full_speed(
    router: &Router,
    connect: &harness::Connect,
    (first, len): (usize, usize),
    told: &Told,
) -> Vec<usize> {
    const BURST: usize = 200;
    let mut client = router.connect(connect);
    let connection = client.connection();
    let mut accepted = Vec::new();
    for burst in (first..).step_by(BURST) {
        if told.stop.load(Ordering::Relaxed) {
            break;
        }
        let id = |place: usize| NonZeroU16::new(place as u16 + 1);
        for place in 0..BURST {
            let payload = format!("{} {}", burst + place, letters(burst + place, len));
            let sent =
                connection.publish(&OutgoingPublish { packet_id: id(place), ..for_the_uplink(&payload) });
            sent.expect("the connection takes it");
        }
        let answers = (0..BURST).map(|_| {
            let answer = within(Duration::from_secs(60), || {
                connection.receive(Duration::from_secs(1)).expect("it stays connected")
            });
            match answer {
                Some(Incoming::PubAck(id, reason)) => (usize::from(id.get()) - 1, reason),
                other => panic!("not PUBACK, but {other:?}"),
            }
        });
        for (place, reason) in answers {
            match reason {
                ReasonCode::QUOTA_EXCEEDED => told.refused.fetch_add(1, Ordering::Relaxed),
                reason => {
                    assert!(!reason.is_error(), "{reason:?}");
                    accepted.push(burst + place);
                    told.accepted.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    }
    accepted
}

#[test]
fn the_budget_of_a_store_holds_with_publishers_at_full_speed_and_nothing_accepted_is_lost() {
    expect_a_budget_to_hold(1_000);
}

/// A disk thread that took everything there was before it looked at the space would never look.
#[test]
fn the_budget_of_a_store_holds_when_more_comes_than_the_disk_can_write() {
    expect_a_budget_to_hold(40_000);
}

/// Publishes messages of so many bytes into a store that fills up, and again when its uplink is back.
#[track_caller]
fn expect_a_budget_to_hold(len: usize) {
    const BYTES_MAX: u64 = 64 << 20;
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let router = setup
        .shards(2)
        .set("store.bytes_max", BYTES_MAX)
        .set("limits.quarantine_bytes_max", 0)
        .set("uplink.plant.when_full", "refuse")
        .start();
    let told = Told::default();
    let mut most = 0;
    let mut look = |until_when: &dyn Fn() -> bool, what: &str| {
        until(what, || {
            most = most.max(disk_usage(&router.store()));
            until_when().then_some(())
        });
    };
    let clients = [v5("a"), v5("b"), v5("c"), v5("d"), v5("e"), v3("f")];
    let accepted: Vec<usize> = std::thread::scope(|scope| {
        let (router, told) = (&router, &told);
        let publishers: Vec<_> = clients
            .iter()
            .zip((0..).step_by(10_000_000))
            .map(|(connect, first)| {
                scope.spawn(move || publish_at_full_speed(router, connect, (first, len), told))
            })
            .collect();
        look(&|| told.refused.load(Ordering::Relaxed) > 0, "publishers to be refused");
        look(&|| router.number("/withheld") == 1, "the one that cannot be told to wait");
        // A full store stays within its budget whatever else merges or is written out.
        let full = Instant::now();
        look(&|| full.elapsed() > Duration::from_secs(3), "time to pass");
        let before = told.accepted.load(Ordering::Relaxed);
        proxy.mend();
        let after = before + 10_000_000 / len;
        look(&|| told.accepted.load(Ordering::Relaxed) > after, "publishers to go on");
        told.stop.store(true, Ordering::Relaxed);
        publishers.into_iter().flat_map(|it| it.join().expect("a publisher ends well")).collect()
    });
    look(&|| router.backlog() == 0, "the lane to drain");
    assert!(most <= BYTES_MAX, "{most}");
    assert!(most > BYTES_MAX / 2, "{most}: the budget is used");
    until("room again", || (level(&router) == "roomy").then_some(()));
    let arrived: BTreeSet<_> = recorder.record().iter().map(|it| number(it.text())).collect();
    let lost: Vec<_> = accepted.iter().filter(|number| !arrived.contains(number)).take(10).collect();
    assert!(lost.is_empty(), "accepted, and lost: {lost:?} of {}", accepted.len());
}

/// Publishes at full speed for an uplink that may have a megabyte waiting; what it had at most, as seen from outside, and
/// what became of everything.
#[track_caller]
fn expect_an_uplink_to_keep_within(when_full: &str, len: usize) {
    const BYTES_MAX: u64 = 1_000_000;
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let router = setup
        .shards(2)
        .set("uplink.plant.bytes_max", BYTES_MAX)
        .set("uplink.plant.when_full", when_full)
        .start();
    let told = Told::default();
    let mut most = 0;
    let mut look = |until_when: &dyn Fn() -> bool, what: &str| {
        until(what, || {
            let status = router.status();
            let lanes = status["lanes"].as_array().into_iter().flatten();
            most = most.max(lanes.filter_map(|lane| lane["backlog_bytes"].as_u64()).sum::<u64>());
            until_when().then_some(())
        });
    };
    let clients = [v5("a"), v5("b"), v5("c"), v5("d"), v3("e")];
    let accepted: Vec<usize> = std::thread::scope(|scope| {
        let (router, told) = (&router, &told);
        let publishers: Vec<_> = clients
            .iter()
            .zip((0..).step_by(10_000_000))
            .map(|(connect, first)| {
                scope.spawn(move || publish_at_full_speed(router, connect, (first, len), told))
            })
            .collect();
        let is_full = || match when_full {
            "refuse" => told.refused.load(Ordering::Relaxed) > 0,
            "drop-newest" => lost(&router.status(), "sink_full") > 0,
            _ => lost(&router.status(), "drop_oldest") > 0,
        };
        look(&is_full, "the uplink to be full");
        let full = Instant::now();
        look(&|| full.elapsed() > Duration::from_secs(2), "time to pass");
        proxy.mend();
        let before = recorder.record().len();
        look(&|| recorder.record().len() > before + 1_000, "the upstream to get some");
        proxy.cut();
        look(&is_full, "the uplink to be full");
        proxy.mend();
        told.stop.store(true, Ordering::Relaxed);
        publishers.into_iter().flat_map(|it| it.join().expect("a publisher ends well")).collect()
    });
    look(&|| router.backlog() == 0, "the lane to drain");
    assert!(most <= BYTES_MAX, "{most} bytes were waiting");
    assert!(most > BYTES_MAX / 2, "{most}: the budget is used");
    let arrived: BTreeSet<_> = recorder.record().iter().map(|it| number(it.text())).collect();
    let missing = accepted.iter().filter(|number| !arrived.contains(number)).count() as u64;
    until("the ledger to have what did not arrive", || {
        let status = router.status();
        (lost(&status, "sink_full") + lost(&status, "drop_oldest") >= missing).then_some(())
    });
    if when_full == "refuse" {
        assert_eq!(missing, 0, "of {} accepted", accepted.len());
    }
}

/// What is appended and not written counts: a level that the disk thread sets comes too late for a fast publisher.
#[test]
fn an_uplink_that_refuses_keeps_its_budget_to_the_byte_at_full_speed() {
    expect_an_uplink_to_keep_within("refuse", 1_000);
}

#[test]
fn an_uplink_that_drops_the_newest_keeps_its_budget_to_the_byte_at_full_speed() {
    expect_an_uplink_to_keep_within("drop-newest", 4_000);
}

#[test]
fn an_uplink_that_drops_the_oldest_keeps_its_budget_to_the_byte_at_full_speed() {
    expect_an_uplink_to_keep_within("drop-oldest", 1_000);
}
