//! The way to IoT Hub while the hub does wrong: nothing acknowledged is lost, each identity keeps its order, repeats say so,
//! and nobody pays for somebody else's trouble.

use harness::{QOS_1, Router, World, until, v5};
use iothub::{Authentication, Authority, Excess, Faults, Identity, Throttle};

use crate::cloud::{Cloud, drained, expect_ledger, numbers};
use crate::cloud_mistakes::certified;

/// A gateway with so many devices below it, `d0` and so on.
fn with_devices(count: usize) -> Cloud {
    let cloud = Cloud::start();
    for number in 0..count {
        cloud.hub.put(Identity::device(&format!("d{number}")).below("gw1")).expect("an identity");
    }
    cloud
}

/// So many messages of each device, one after the other.
fn publish(router: &Router, devices: usize, range: std::ops::Range<usize>) {
    let mut publisher = router.connect(&v5("press7"));
    for number in numbers(range) {
        for device in 0..devices {
            publisher.publish(&format!("devices/d{device}/messages/events/"), &number, QOS_1);
        }
    }
}

#[track_caller]
fn reconcile(cloud: &Cloud, devices: usize, count: usize) {
    let came = cloud.hub.telemetry();
    (0..devices).for_each(|device| expect_ledger(&came, &format!("d{device}"), count));
    assert_eq!(cloud.hub.violations(), []);
}

#[test]
fn certificates_prove_the_gateway_and_its_children() {
    let cloud = Cloud::start();
    let authority = Authority::new("Devices");
    cloud.hub.trust(&authority.pem());
    cloud.hub.put(Identity::gateway("x1").with(Authentication::CertificateAuthority)).expect("an identity");
    let own = authority.client("d1");
    let thumbprint = Authentication::SelfSigned {
        primary_thumbprint: own.thumbprint(),
        secondary_thumbprint: String::new(),
    };
    cloud.hub.put(Identity::device("d1").with(thumbprint)).expect("an identity");
    let path = |name: &str| cloud.home.path().join(name);
    std::fs::write(path("d1.cert.pem"), &own.certificate).expect("a file");
    std::fs::write(path("d1.key.pem"), &own.key).expect("a file");
    let router = certified(&cloud, &authority.client("x1"))
        .set("uplink.cloud.identity.d1.cert", path("d1.cert.pem").display())
        .set("uplink.cloud.identity.d1.key", path("d1.key.pem").display())
        .start();
    let mut publisher = router.connect(&v5("press7"));
    publisher.publish("site/a", "0", QOS_1);
    publisher.publish("devices/d1/messages/events/", "0", QOS_1);
    let came = cloud.wait_for(2);
    expect_ledger(&came, "x1", 1);
    expect_ledger(&came, "d1", 1);
}

#[test]
fn late_acknowledgements_are_waited_for_and_nothing_is_sent_twice() {
    let cloud = with_devices(3);
    cloud.hub.set_faults(None, Faults { ack_delay_ms: 300, ..Faults::default() });
    let router = cloud.edge().start();
    publish(&router, 3, 0..100);
    drained(&router);
    reconcile(&cloud, 3, 100);
    assert!(cloud.hub.telemetry().iter().all(|it| !it.dup));
}

#[test]
fn one_device_that_is_shaped_does_not_slow_the_others_down() {
    let cloud = with_devices(3);
    let throttle = Throttle { per_second: 20.0, burst: 5, mode: Excess::Disconnect };
    cloud.hub.set_faults(Some("d0"), Faults { throttle: Some(throttle), ..Faults::default() });
    let router = cloud.edge().start();
    let mut publisher = router.connect(&v5("press7"));
    for device in 0..3 {
        publisher.publish_all(&format!("devices/d{device}/messages/events/"), numbers(0..300));
    }
    until("all of the others", || {
        (cloud.hub.count("d1") >= 300 && cloud.hub.count("d2") >= 300).then_some(())
    });
    assert!(cloud.hub.count("d0") < 300, "that one takes 15 s");
    cloud.hub.clear_faults();
    drained(&router);
    reconcile(&cloud, 3, 300);
}

#[test]
fn a_quota_that_ends_connections_shows_as_throttled_and_costs_nothing_but_time() {
    expect_throttled_by_ends(Faults::default());
}

#[test]
fn a_quota_that_ends_connections_without_a_goodbye_shows_as_throttled_too() {
    expect_throttled_by_ends(Faults { no_goodbye: true, ..Faults::default() });
}

fn expect_throttled_by_ends(how: Faults) {
    let cloud = Cloud::start();
    let throttle = Throttle { per_second: 300.0, burst: 30, mode: Excess::Disconnect };
    cloud.hub.set_faults(Some("gw1"), Faults { throttle: Some(throttle), ..how });
    let router = cloud.gateway().start();
    router.connect(&v5("press7")).publish_all("site/a", numbers(0..1_000));
    until("throttled", || (router.status()["uplinks"][0]["state"] == "throttled").then_some(()));
    drained(&router);
    expect_ledger(&cloud.hub.telemetry(), "gw1", 1_000);
    assert!(router.log().contains("the upstream wants less"));
    let connects = router.number("/uplinks/0/reconnects");
    assert!(connects < 100, "{connects} connections for 1 000 messages");
}

#[test]
fn a_message_at_which_the_hub_ends_the_connection_without_a_goodbye_is_found() {
    let cloud = Cloud::start();
    let faults = Faults { deadly: Some("deadly".into()), no_goodbye: true, ..Faults::default() };
    cloud.hub.set_faults(Some("gw1"), faults);
    let router = cloud.gateway().start();
    let mut publisher = router.connect(&v5("press7"));
    publisher.publish_all("site/a", numbers(0..10));
    publisher.publish("site/a", "deadly", QOS_1);
    publisher.publish_all("site/a", numbers(10..20));
    router.wait_for("/uplinks/0/poisoned", 1);
    drained(&router);
    let came = cloud.hub.telemetry();
    let all: std::collections::BTreeSet<usize> =
        came.iter().map(|it| it.text().parse().expect("a number")).collect();
    assert_eq!(all, (0..20).collect());
    assert_eq!(router.number("/uplinks/0/poisoned"), 1);
}

#[test]
fn a_quota_that_answers_later_and_later_is_followed() {
    let cloud = with_devices(2);
    let throttle = Throttle { per_second: 200.0, burst: 10, mode: Excess::Delay };
    cloud.hub.set_faults(Some("d0"), Faults { throttle: Some(throttle), ..Faults::default() });
    let router = cloud.edge().start();
    publish(&router, 2, 0..400);
    drained(&router);
    reconcile(&cloud, 2, 400);
    assert!(cloud.hub.telemetry().iter().all(|it| !it.dup), "late is not lost");
}

#[test]
fn a_quota_that_is_silent_ends_in_new_connections_until_all_is_there() {
    let cloud = Cloud::start();
    let throttle = Throttle { per_second: 50.0, burst: 60, mode: Excess::Silence };
    cloud.hub.set_faults(Some("gw1"), Faults { throttle: Some(throttle), ..Faults::default() });
    let router = cloud.gateway().set("uplink.cloud.answer_secs", 1).start();
    router.connect(&v5("press7")).publish_all("site/a", numbers(0..150));
    drained(&router);
    expect_ledger(&cloud.hub.telemetry(), "gw1", 150);
}

#[test]
fn resets_and_messages_that_never_arrived_are_made_good() {
    let cloud = with_devices(2);
    let fault =
        Faults { drop_after_messages: Some(37), drop_unrecorded: true, reset: true, ..Faults::default() };
    let router = cloud.edge().start();
    for round in 0..3 {
        cloud.hub.set_faults(Some("d0"), fault.clone());
        publish(&router, 2, round * 60..(round + 1) * 60);
        drained(&router);
    }
    reconcile(&cloud, 2, 180);
    let ended = cloud.hub.events().iter().filter(|it| it.id == "d0" && it.kind == "connected").count();
    assert_eq!(ended, 4, "one connection for each reset, and the last");
}

#[test]
fn withheld_acknowledgements_lead_to_a_new_connection_and_repeats_that_say_so() {
    let cloud = Cloud::start();
    cloud.hub.set_faults(Some("gw1"), Faults { withhold_acks: true, ..Faults::default() });
    let router = cloud.gateway().set("uplink.cloud.answer_secs", 1).start();
    router.connect(&v5("press7")).publish_all("site/a", numbers(0..10));
    until("a repeat", || cloud.hub.telemetry().iter().any(|it| it.dup).then_some(()));
    let log = until("the reason", || Some(router.log()).filter(|it| it.contains("has acknowledged nothing")));
    assert!(log.contains("messages in flight"), "{log}");
    cloud.hub.clear_faults();
    drained(&router);
    expect_ledger(&cloud.hub.telemetry(), "gw1", 10);
}

#[test]
fn a_hub_that_is_silent_or_mute_is_given_up_and_tried_again() {
    let cloud = Cloud::start();
    let router = cloud
        .gateway()
        .set("uplink.cloud.connect_timeout_secs", 1)
        .set("uplink.cloud.keep_alive_secs", 2)
        .start();
    router.connect(&v5("press7")).publish("site/a", "0", QOS_1);
    cloud.wait_for(1);
    for (number, faults, words) in [
        (1, Faults { ignore_ping: true, ..Faults::default() }, "the upstream is silent"),
        (2, Faults { ignore_connect: true, ..Faults::default() }, "does not answer CONNECT"),
    ] {
        cloud.hub.set_faults(None, faults);
        if number == 2 {
            cloud.hub.disconnect("gw1");
        }
        until(words, || router.log().contains(words).then_some(()));
        router.connect(&v5("press7")).publish("site/a", number.to_string(), QOS_1);
        cloud.hub.clear_faults();
        cloud.wait_for(number + 1);
    }
    cloud.hub.set_mute(true);
    cloud.hub.disconnect("gw1");
    until("TLS that never ends", || router.log().contains("has not finished the handshake").then_some(()));
    router.connect(&v5("press7")).publish("site/a", "3", QOS_1);
    cloud.hub.set_mute(false);
    cloud.wait_for(4);
    expect_ledger(&cloud.hub.telemetry(), "gw1", 4);
}

#[test]
fn a_network_that_comes_and_goes_loses_nothing_of_anybody() {
    let cloud = with_devices(8);
    let router = cloud.edge().set("limits.uplink_opens_per_sec", 200).start();
    for round in 0..5 {
        publish(&router, 8, round * 40..(round + 1) * 40 - 20);
        cloud.hub.set_offline(true);
        for device in 0..8 {
            cloud.hub.disconnect(&format!("d{device}"));
        }
        publish(&router, 8, (round + 1) * 40 - 20..(round + 1) * 40);
        cloud.hub.set_offline(false);
    }
    drained(&router);
    reconcile(&cloud, 8, 200);
}

#[test]
fn a_crash_of_the_gateway_repeats_with_the_same_ids_and_loses_nothing() {
    let cloud = with_devices(2);
    cloud.hub.set_faults(None, Faults { ack_delay_ms: 100, ..Faults::default() });
    let mut router = cloud.edge().start();
    publish(&router, 2, 0..200);
    until("some of them", || (cloud.hub.recorded() >= 50).then_some(()));
    router.kill();
    router.start_again();
    drained(&router);
    let came = cloud.hub.telemetry();
    for id in ["d0", "d1"] {
        // As they came: after the crash it begins again somewhere, and nothing overtakes what was before it.
        let (mut ids, mut next) = (std::collections::BTreeMap::new(), 0);
        for message in came.iter().filter(|it| it.id() == id) {
            let number: usize = message.text().parse().expect("a number");
            assert!(number <= next, "{id}: {number} came before {next}");
            next = next.max(number + 1);
            let unique = message.property("millrace-id").expect("an id");
            assert_eq!(*ids.entry(number).or_insert(unique), unique, "{id}: {number} has another id");
        }
        assert_eq!((next, ids.len()), (200, 200), "{id}");
    }
    assert_eq!(cloud.hub.violations(), []);
}

/// This machine's clock is so wrong that no token can be made: the link that is there is not given up for one that cannot be.
#[test]
fn a_link_stays_while_there_is_no_new_token_for_it() {
    let world = World::new();
    let cloud = with_devices(1);
    let router = world.around(cloud.edge()).start();
    publish(&router, 1, 0..20);
    drained(&router);
    let links = || cloud.hub.connections().into_iter().map(|it| it.number).collect::<Vec<_>>();
    let before = links();
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    world.set_clock(1_700_000_000 - now.cast_signed());
    let log = until("the reason", || Some(router.log()).filter(|it| it.contains("no new token yet")));
    assert!(log.contains("set the clock"), "{log}");
    publish(&router, 1, 20..40);
    drained(&router);
    assert_eq!(links(), before, "nothing was gained by ending them");
    world.set_clock(7_200);
    cloud.hub.set_clock_skew(7_200);
    until("links with new tokens", || {
        let now = links();
        (!now.is_empty() && now.iter().all(|number| !before.contains(number))).then_some(())
    });
    publish(&router, 1, 40..60);
    drained(&router);
    reconcile(&cloud, 1, 60);
}

/// Tokens say until when they are good: with another clock they are made anew, on connections that are not cut.
#[test]
fn a_clock_that_is_set_makes_new_tokens_and_loses_nothing() {
    let world = World::new();
    let cloud = with_devices(2);
    let router = world.around(cloud.edge()).start();
    publish(&router, 2, 0..20);
    drained(&router);
    let links = || cloud.hub.connections().into_iter().map(|it| it.number).collect::<Vec<_>>();
    let mut latest = 0;
    for (round, ahead) in [(1, 7_200), (2, 0), (3, -1_800)] {
        let before = until("all three links", || Some(links()).filter(|it| it.len() == 3));
        // The hub is never ahead of the gateway: a token of a moment ago would be over, and rightly refused.
        if ahead > latest {
            world.set_clock(ahead);
            cloud.hub.set_clock_skew(ahead);
        } else {
            cloud.hub.set_clock_skew(ahead);
            world.set_clock(ahead);
        }
        latest = ahead;
        until("no link with an old token", || {
            let now = links();
            (!now.is_empty() && now.iter().all(|number| !before.contains(number))).then_some(())
        });
        publish(&router, 2, round * 20..(round + 1) * 20);
        drained(&router);
    }
    drained(&router);
    reconcile(&cloud, 2, 80);
    let refused: Vec<_> = cloud.hub.events().into_iter().filter(|it| it.kind == "refused").collect();
    assert_eq!(refused.len(), 0, "{refused:?}");
    assert!(router.number("/uplinks/0/clock_jumps") >= 3);
}
