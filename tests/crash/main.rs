//! Real disk, `kill -9` or a power cut at random moments under load, restart, reconcile: what was acknowledged is not lost, what arrives
//! is in order and intact.
//!
//! Each test plays rounds from one seed: traffic, something breaks, it comes back. In the end everything is left to
//! drain, and the ledger of the publishers is compared with what arrived. The seed decides what is done and when; the
//! machine decides what that hits, so a seed is a strong hint, not a replay.
//! `MILLRACE_CRASH_ROUNDS` (default 8) and `MILLRACE_SEED` (default: the clock) set both; the seed is printed.
//! Always: what is acknowledged arrives at least once; per publisher in order once repeats are taken out; bit by bit.
//! With QoS 2 and one shard it arrives exactly once.

mod chaos;
mod drains;
mod ledger;
mod power;
mod traffic;

use std::time::Duration;

use harness::{Connect, Proxy, QOS_1, QOS_2, Qos, Recorder, Router, Setup, Version, until, v5};

use crate::chaos::Chaos;
use crate::ledger::Ledger;
use crate::power::Power;
use crate::traffic::{Subscriber, Traffic};

const TO_UPSTREAM: &str = r#"FROM "load/#" INTO $upstream"#;

/// How long everything may take to drain in the end.
const DRAIN: Duration = Duration::from_secs(60);

fn gateway(chaos: &mut Chaos) -> Setup {
    // Small tables and small groups: more of the store's life happens in a short time.
    Setup::new().shards(chaos.shards()).set("store.memtable_bytes", 1_048_576)
}

/// The connection of one who subscribes to all the load and is never forgotten.
fn historian() -> Connect {
    Connect { clean_start: false, session_expiry_secs: 86_400, ..v5("historian") }
}

#[track_caller]
fn subscribe(router: &Router, qos: Qos) {
    let mut client = router.connect(&historian());
    client.subscribe("load/#", qos);
    client.disconnect();
}

#[test]
fn what_a_killed_gateway_acknowledged_reaches_its_upstream_in_order() {
    let mut chaos = Chaos::new("upstream");
    kill_before_a_flapping_upstream(&mut chaos, |setup| setup.set("routes.all", TO_UPSTREAM));
}

/// Messages stand in memory until they are delivered, or must be written: when the link flaps, when the upstream is slow,
/// when memory is short, when one of another route must be written.
#[test]
fn what_a_killed_gateway_acknowledged_without_writing_it_reaches_its_upstream_in_order() {
    let mut chaos = Chaos::new("spill");
    let (memory, after) = ([65_536, 262_144, 8_388_608], [20, 100, 10_000]);
    let memory = memory[chaos.below(3) as usize];
    let after = after[chaos.below(3) as usize];
    let is_mixed = chaos.below(3) == 0;
    kill_before_a_flapping_upstream(&mut chaos, |setup| {
        let spill =
            |filter: &str| format!(r#"{{ route = 'FROM "{filter}" INTO $upstream', durability = "spill" }}"#);
        let setup = setup.set("limits.spill_bytes_max", memory).set("uplink.plant.spill_after_ms", after);
        match is_mixed {
            // One of four publishers needs the disk, in the same lane.
            true => (1..4)
                .fold(setup, |setup, it| {
                    setup.set(&format!("routes.spill{it}"), spill(&format!("load/{it}")))
                })
                .set("routes.disk", r#"FROM "load/0" INTO $upstream"#),
            false => setup.set("routes.all", spill("load/#")),
        }
    });
}

fn kill_before_a_flapping_upstream(chaos: &mut Chaos, routes: impl FnOnce(Setup) -> Setup) {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let setup = routes(gateway(chaos).uplink(network.address(), Version::V5));
    let mut router = setup.start();
    let published = Traffic::run(router.address(), chaos.seed(), 4, QOS_1, |traffic| {
        for round in 0..chaos.rounds() {
            chaos.wait(20, 400);
            match chaos.below(6) {
                0 => network.cut(),
                1 => network.pause(),
                2 => upstream.withhold(true),
                3 => upstream.silent(true),
                _ => {}
            }
            chaos.wait(0, 150);
            if round % 4 == 3 {
                // Without the gateway's end: its uplink alone must do the right thing, too.
                upstream.end_connections();
            } else {
                chaos.kill_and_start_again(&mut router, traffic);
            }
            chaos.wait(0, 100);
            network.mend();
            network.resume();
            upstream.silent(false);
            // What was not acknowledged must come again, or it would never be.
            upstream.withhold(false);
            upstream.end_connections();
        }
    });
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    let mut ledger = Ledger::new(chaos.seed(), published);
    upstream.record().iter().for_each(|message| ledger.arrived(message));
    ledger.reconcile(chaos);
}

/// With the upstream away nothing is in memory alone by the time it is acknowledged, and power may go.
#[test]
fn what_was_acknowledged_on_a_spill_route_survives_power_cuts() {
    let mut chaos = Chaos::new("spill and power");
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let power = Power::new();
    let route = r#"{ route = 'FROM "load/#" INTO $upstream', durability = "spill" }"#;
    let setup = gateway(&mut chaos)
        .uplink(network.address(), Version::V5)
        .set("uplink.plant.spill_after_ms", 50)
        .set("routes.all", route);
    let mut router = power.feeds(setup).start();
    let published = Traffic::run(router.address(), chaos.seed(), 4, QOS_1, |traffic| {
        for round in 0..chaos.rounds() {
            chaos.wait(20, 300);
            if chaos.below(2) == 0 {
                network.cut();
                chaos.wait(0, 100);
            }
            chaos.kill(&mut router);
            if round % 2 == 0 {
                power.cut();
            } else {
                power.cut_torn(&mut chaos);
            }
            network.mend();
            router.start_again();
            traffic.set(router.address());
        }
    });
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    let mut ledger = Ledger::new(chaos.seed(), published);
    upstream.record().iter().for_each(|message| ledger.arrived(message));
    ledger.reconcile(&chaos);
}

#[test]
fn what_a_killed_gateway_acknowledged_passes_through_a_killed_upstream_router() {
    let mut chaos = Chaos::new("two routers");
    let mut upstream = gateway(&mut chaos).start();
    subscribe(&upstream, QOS_1);
    let network = Proxy::to(upstream.address());
    let setup = gateway(&mut chaos).uplink(network.address(), Version::V5).set("routes.all", TO_UPSTREAM);
    let mut router = setup.start();
    let subscriber = Subscriber::start(&upstream, historian());
    let published = Traffic::run(router.address(), chaos.seed(), 3, QOS_1, |traffic| {
        for _ in 0..chaos.rounds() {
            chaos.wait(20, 400);
            match chaos.below(5) {
                0 => chaos.kill_and_start_again(&mut router, traffic),
                1 => chaos.kill_and_start_again(&mut upstream, subscriber.target()),
                2 => {
                    upstream.process().signal(harness::Signal::Pause);
                    chaos.wait(20, 300);
                    upstream.process().signal(harness::Signal::Resume);
                }
                3 => {
                    assert_eq!(router.terminate().code(), Some(0), "a clean stop in the middle of it all");
                    router.start_again();
                    traffic.set(router.address());
                }
                _ => {
                    router.process().signal(harness::Signal::Kill);
                    chaos.kill_and_start_again(&mut upstream, subscriber.target());
                    chaos.kill_and_start_again(&mut router, traffic);
                }
            }
            network.point_at(upstream.address());
            network.cut();
            network.mend();
        }
    });
    let mut ledger = Ledger::new(chaos.seed(), published);
    subscriber.drain_into(&mut ledger, DRAIN);
    ledger.reconcile(&chaos);
}

/// Publishes to a subscriber with a kept session while the router is killed; what the subscriber got.
fn kill_under_load(chaos: &mut Chaos, qos: Qos) -> Ledger {
    let mut router = gateway(chaos).start();
    subscribe(&router, qos);
    let subscriber = Subscriber::start(&router, historian());
    let published = Traffic::run(router.address(), chaos.seed(), 4, qos, |traffic| {
        for _ in 0..chaos.rounds() {
            chaos.wait(20, 400);
            if chaos.below(3) == 0 {
                subscriber.lose_connection();
                chaos.wait(0, 100);
            }
            chaos.kill_and_start_again(&mut router, traffic);
            subscriber.target().set(router.address());
        }
    });
    let mut ledger = Ledger::new(chaos.seed(), published);
    if qos == QOS_2 && chaos.has_one_shard() {
        ledger = ledger.exactly_once();
    }
    subscriber.drain_into(&mut ledger, DRAIN);
    ledger
}

#[test]
fn what_a_killed_router_acknowledged_reaches_the_session_of_a_subscriber() {
    let mut chaos = Chaos::new("session");
    kill_under_load(&mut chaos, QOS_1).reconcile(&chaos);
}

/// [MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT-4.4.0-1] [MQTT-4.1.0-1]
#[test]
fn with_qos_2_a_killed_router_delivers_what_it_acknowledged_exactly_once() {
    let mut chaos = Chaos::new("exactly once").with_one_shard();
    kill_under_load(&mut chaos, QOS_2).reconcile(&chaos);
}

/// [MQTT-4.3.3-8] [MQTT-4.4.0-1]: over several shards a kill may repeat what was on its way between two of them.
#[test]
fn with_qos_2_over_shards_a_killed_router_loses_nothing_that_it_acknowledged() {
    let mut chaos = Chaos::new("QoS 2 over shards");
    kill_under_load(&mut chaos, QOS_2).reconcile(&chaos);
}

#[test]
fn what_a_router_acknowledged_survives_power_cuts() {
    let mut chaos = Chaos::new("power");
    let power = Power::new();
    let mut router = power.feeds(gateway(&mut chaos)).start();
    subscribe(&router, QOS_1);
    let subscriber = Subscriber::start(&router, historian());
    let published = Traffic::run(router.address(), chaos.seed(), 4, QOS_1, |traffic| {
        for round in 0..chaos.rounds() {
            chaos.wait(20, 400);
            chaos.kill(&mut router);
            if round % 2 == 0 {
                power.cut();
            } else {
                power.cut_torn(&mut chaos);
            }
            router.start_again();
            traffic.set(router.address());
            subscriber.target().set(router.address());
        }
    });
    let mut ledger = Ledger::new(chaos.seed(), published);
    subscriber.drain_into(&mut ledger, DRAIN);
    ledger.reconcile(&chaos);
}

/// What waits for an upstream that is not there, of 500 acknowledged messages, after a power cut.
fn left_after_a_power_cut(sync: bool) -> u64 {
    let nobody = Proxy::to(Recorder::start().address());
    nobody.cut();
    let power = Power::new();
    let setup = Setup::new().uplink(nobody.address(), Version::V5).set("routes.all", TO_UPSTREAM);
    let mut router = power.feeds(setup.set("store.sync", sync)).start();
    router.connect(&v5("publisher")).publish_all("load/0", (0..500).map(|number| number.to_string()));
    router.kill();
    power.cut();
    router.start_again();
    router.backlog()
}

#[test]
fn a_power_cut_takes_what_was_acknowledged_unsynced_and_nothing_else() {
    assert_eq!(left_after_a_power_cut(true), 500);
    assert_eq!(left_after_a_power_cut(false), 0, "this disk would hide a missing sync");
}

/// What a disk loses that says it has synced nobody can know before, and RocksDB not always afterwards. What holds then: the
/// store starts, or says what to do and does it; what is left of each publisher's messages is in order, each once and bit by
/// bit; and it goes on. If all syncs since some moment were lies, exactly what came after it is lost.
#[test]
fn a_disk_that_lies_about_syncs_costs_messages_and_neither_order_nor_the_start() {
    const PADDING: usize = 700;
    let mut chaos = Chaos::new("lies");
    let mut repairs = 0;
    for round in 0..chaos.rounds() {
        let (which, is_torn) = [("all", false), ("half", false), ("half", true)][(round % 3) as usize];
        let upstream = Recorder::start();
        let network = Proxy::to(upstream.address());
        network.cut();
        let power = Power::new();
        let setup = gateway(&mut chaos).uplink(network.address(), Version::V5).set("routes.all", TO_UPSTREAM);
        let mut router = power.feeds(setup.clone()).start();
        let mut next = 0;
        let mut publish = |router: &Router, count: u64| {
            let numbers = next..next + count;
            next += count;
            let payloads = numbers.map(|number| format!("{number} {}", "x".repeat(PADDING)));
            router.connect(&v5("publisher")).publish_all("load/0", payloads);
            next
        };
        let honest = publish(&router, 500 + chaos.below(2_000));
        power.lie(which);
        let acknowledged = publish(&router, 200 + chaos.below(4_000));
        chaos.kill(&mut router);
        if is_torn {
            power.cut_torn(&mut chaos)
        } else {
            power.cut()
        }
        let store = power.store().display().to_string();
        if harness::run(&["store", "stats", &store]).code != Some(0) {
            let (code, said) = setup.clone().store(&power.store()).fail_to_start();
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains("millrace store repair"), "{said}");
            let repaired = harness::run(&["store", "repair", &store]);
            assert_eq!(repaired.code, Some(0), "{}{}", repaired.out, repaired.err);
            repairs += 1;
        }
        router.start_again();
        let last = publish(&router, 100);
        network.mend();
        until("an empty lane", || (router.backlog() == 0).then_some(()));
        let record = upstream.record().clone();
        let numbers: Vec<u64> = record.iter().map(|it| number_of(it.text())).collect();
        assert!(numbers.is_sorted_by(|one, other| one < other), "{chaos}: in order, each once");
        let is_whole = record.iter().all(|it| it.payload.len() > PADDING && it.payload.ends_with(b"xxxx"));
        assert!(is_whole, "{chaos}: bit by bit");
        let is_there =
            |range: std::ops::Range<u64>| range.clone().all(|it| numbers.binary_search(&it).is_ok());
        assert!(is_there(acknowledged..last), "{chaos}: what came afterwards");
        if which == "all" {
            assert_eq!(numbers, (0..honest).chain(acknowledged..last).collect::<Vec<_>>(), "{chaos}");
        }
        let lost = acknowledged - (numbers.len() as u64 - (last - acknowledged));
        println!(
            "{chaos}: {which}, torn: {is_torn}: {lost} of {acknowledged} lost, {honest} of them before the lies"
        );
    }
    println!("{chaos}: {repairs} repairs");
}

fn number_of(text: &str) -> u64 {
    text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number comes first")
}
