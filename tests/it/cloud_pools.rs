//! What an uplink with a link for each identity keeps to as one with a single link does: shares of a drain, hours, addresses.

use harness::{Proxy, QOS_1, Router, until, v5};
use iothub::{Faults, Identity};

use crate::cloud::{Cloud, drained, expect_ledger, numbers};
use crate::pace::hours;

/// A gateway with so many devices below it, `d0` and so on.
fn with_devices(count: usize) -> Cloud {
    let cloud = Cloud::start();
    for number in 0..count {
        cloud.hub.put(Identity::device(&format!("d{number}")).below("gw1")).expect("an identity");
    }
    cloud
}

fn topic(device: usize) -> String {
    format!("devices/d{device}/messages/events/")
}

fn state(router: &Router) -> String {
    router.status()["uplinks"][0]["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn live_messages_of_devices_pass_their_backlog_which_keeps_its_share() {
    let cloud = with_devices(2);
    cloud.hub.set_offline(true);
    let router = cloud
        .edge()
        .set("uplink.cloud.drain", "live-first")
        .set("uplink.cloud.pace_messages_per_sec", 200)
        .start();
    let mut publisher = router.connect(&v5("press7"));
    for device in 0..2 {
        publisher.publish_all(&topic(device), numbers(0..400));
    }
    cloud.hub.set_offline(false);
    cloud.wait_for(40);
    for number in numbers(400..420) {
        publisher.publish(&topic(0), number, QOS_1);
    }
    let before = cloud.hub.recorded() as usize;
    let came = cloud.wait_for(820);
    drained(&router);
    let place = |text: &str| came.iter().position(|it| it.text() == text).expect("it came");
    // The rest of the live ones with the backlog's share, and what the pace lets pass until the last one is read.
    assert!(
        place("419") < before + 150,
        "{before} before, the last live one came as number {}",
        place("419")
    );
    let between = place("419") - place("400") - 19;
    assert!(between > 0, "and the backlog went on beside them");
    for (device, count) in [("d0", 420), ("d1", 400)] {
        let of_device = came.iter().filter(|it| it.id() == device);
        let (old, live): (Vec<usize>, Vec<usize>) =
            of_device.map(|it| it.text().parse::<usize>().expect("a number")).partition(|it| *it < 400);
        assert_eq!((old, live), ((0..400).collect(), (400..count).collect()), "{device}: each in order");
    }
    assert_eq!(cloud.hub.violations(), []);
}

#[test]
fn outside_their_hours_no_link_is_there_but_for_what_may_always_go() {
    let cloud = with_devices(2);
    let router = cloud
        .edge()
        .set("routes.urgent.route", r#"FROM "devices/d1/#" INTO $upstream"#)
        .set("routes.urgent.priority", 0)
        .set("uplink.cloud.hours", hours(false))
        .set("uplink.cloud.hours_always", 2)
        .start();
    until("resting", || (state(&router) == "resting").then_some(()));
    let mut publisher = router.connect(&v5("press7"));
    publisher.publish_all(&topic(0), numbers(0..5));
    assert_eq!((router.backlog(), cloud.hub.connections().len()), (5, 0));
    publisher.publish_all(&topic(1), numbers(0..3));
    expect_ledger(&cloud.wait_for(3), "d1", 3);
    until("the urgent ones to be delivered", || (router.backlog() == 5).then_some(()));
    until("no link", || cloud.hub.connections().is_empty().then_some(()));
    let connected: Vec<_> =
        cloud.hub.events().into_iter().filter(|it| it.kind == "connected").map(|it| it.id).collect();
    assert_eq!(connected, ["d1"], "neither the gateway's own nor that of what must wait");
    assert_eq!((state(&router), router.backlog(), cloud.hub.recorded()), ("resting".to_owned(), 5, 3));
}

#[test]
fn links_change_to_another_address_and_back_one_by_one_and_lose_nothing() {
    let cloud = with_devices(2);
    let [first, second] = [0, 1].map(|_| Proxy::to(cloud.hub.mqtt_address()));
    let url = |network: &Proxy| format!("mqtts://{}:{}", cloud.hub.host(), network.address().port());
    first.cut();
    let router = cloud
        .edge()
        .set("uplink.cloud.url", url(&first))
        .set("uplink.cloud.failover", format!("[\"{}\"]", url(&second)))
        .set("uplink.cloud.failover_attempts", 2)
        .set("uplink.cloud.failover_return_secs", 1)
        .start();
    let mut publisher = router.connect(&v5("press7"));
    let target =
        |router: &Router| router.status()["uplinks"][0]["target"].as_str().unwrap_or_default().to_owned();
    for device in 0..2 {
        publisher.publish_all(&topic(device), numbers(0..20));
    }
    cloud.wait_for(40);
    assert_eq!(target(&router), url(&second));
    let links = || cloud.hub.connections().into_iter().map(|it| it.number).collect::<Vec<_>>();
    let before = links();
    first.mend();
    until("the way back", || (target(&router) == url(&first)).then_some(()));
    // Everybody, not only the gateway's own link.
    until("nobody over the other address", || {
        let now = links();
        (!now.is_empty() && now.iter().all(|number| !before.contains(number))).then_some(())
    });
    second.cut();
    for device in 0..2 {
        publisher.publish_all(&topic(device), numbers(20..50));
    }
    drained(&router);
    let came = cloud.hub.telemetry();
    (0..2).for_each(|device| expect_ledger(&came, &format!("d{device}"), 50));
    assert_eq!((router.number("/uplinks/0/failovers"), cloud.hub.violations()), (2, vec![]));
}

/// The front end lets everybody in; its backend answers nothing that is for the gateway's own link.
#[test]
fn an_address_that_ends_each_link_of_the_gateway_is_left() {
    let (bad, good) = (Cloud::start(), Cloud::start());
    let faults = Faults { deadly: Some(String::new()), no_goodbye: true, ..Faults::default() };
    bad.hub.set_faults(None, faults);
    // Known to both, by the same key.
    let gateway = good.hub.put(Identity::gateway("gw1")).expect("an identity");
    bad.hub.put(gateway).expect("an identity");
    let both = [&bad, &good].map(|it| it.hub.ca_pem()).concat();
    let ca = good.home.path().join("both.pem");
    std::fs::write(&ca, both).expect("a file");
    let url = |cloud: &Cloud| format!("mqtts://{}:{}", cloud.hub.host(), cloud.hub.mqtt_address().port());
    let router = good
        .gateway()
        .set("uplink.cloud.ca", ca.display())
        .set("uplink.cloud.url", url(&bad))
        .set("uplink.cloud.failover", format!("[\"{}\"]", url(&good)))
        .set("uplink.cloud.failover_attempts", 3)
        .start();
    router.connect(&v5("press7")).publish_all("site/a", numbers(0..20));
    drained(&router);
    expect_ledger(&good.hub.telemetry(), "gw1", 20);
    assert_eq!((bad.hub.recorded(), router.number("/uplinks/0/failovers")), (0, 1));
}

/// One identity's trouble is seen until that identity is in, whoever else comes up meanwhile.
#[test]
fn each_refused_identity_stays_in_the_status_until_it_is_let_in() {
    let cloud = with_devices(3);
    let refused = Faults { refuse_connect: Some(3), ..Faults::default() };
    ["d0", "d1"].into_iter().for_each(|device| cloud.hub.set_faults(Some(device), refused.clone()));
    let router = cloud.edge().start();
    let mut publisher = router.connect(&v5("press7"));
    (0..2).for_each(|device| publisher.publish(&topic(device), "0", QOS_1));
    router.wait_for("/uplinks/0/warnings", 2);
    let connects = router.number("/uplinks/0/reconnects");
    publisher.publish(&topic(2), "0", QOS_1);
    cloud.wait_for(1);
    router.wait_for("/uplinks/0/reconnects", connects + 1);
    let warning = || router.status()["uplinks"][0]["warning"].as_str().unwrap_or_default().to_owned();
    let text = warning();
    assert!(text.contains("d0: ") && text.contains("d1: ") && text.starts_with("2 of this kind"), "{text}");
    cloud.hub.set_faults(Some("d0"), Faults::default());
    until("d0 to be well", || (!warning().contains("d0: ")).then_some(()));
    assert!(warning().contains("d1: "), "{}", warning());
    cloud.hub.clear_faults();
    drained(&router);
    until("nothing to warn of", || (router.number("/uplinks/0/warnings") == 0).then_some(()));
    assert_eq!((warning(), cloud.hub.recorded()), (String::new(), 3));
}
