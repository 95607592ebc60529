//! The way to IoT Hub, against a test hub that checks user names, tokens, topics and properties strictly, and does wrong on
//! command.

use std::time::Duration;

use harness::{OutgoingPublish, QOS_1, Router, Setup, until, v5};
use iothub::{Config, Faults, Hub, Identity, Telemetry};
use tempfile::TempDir;

/// A test hub with a gateway, and what it trusts as a file.
pub(crate) struct Cloud {
    pub(crate) hub: Hub,
    pub(crate) home: TempDir,
}

impl Cloud {
    pub(crate) fn start() -> Cloud {
        Cloud::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Cloud {
        let hub = Hub::start(config).expect("a hub");
        hub.put(Identity::gateway("gw1")).expect("an identity");
        hub.put(Identity::module("gw1", "$edgeHub")).expect("an identity");
        let home = tempfile::tempdir().expect("a directory");
        std::fs::write(home.path().join("ca.pem"), hub.ca_pem()).expect("a file");
        Cloud { hub, home }
    }

    pub(crate) fn gateway(&self) -> Setup {
        let connection_string = self.hub.connection_string("gw1").expect("it has a key");
        self.setup().set("uplink.cloud.connection_string", format!("\"{connection_string}\""))
    }

    /// As the module that may speak for the devices below.
    pub(crate) fn edge(&self) -> Setup {
        let connection_string = self.hub.connection_string("gw1/$edgeHub").expect("it has a key");
        let setup = self.setup().set("uplink.cloud.children", "on-behalf-of");
        setup.set("uplink.cloud.connection_string", format!("\"{connection_string}\""))
    }

    pub(crate) fn setup(&self) -> Setup {
        Setup::new()
            .set("gateway.name", "gw1")
            .set("uplink.cloud.kind", "iothub")
            // These tests publish for everybody as one client; `cloud_senders` asks who may.
            .set("uplink.cloud.speakers", r#"["*"]"#)
            .set(
                "uplink.cloud.url",
                format!("mqtts://{}:{}", self.hub.host(), self.hub.mqtt_address().port()),
            )
            .set("uplink.cloud.ca", self.home.path().join("ca.pem").display())
            .set("uplink.cloud.backoff_min_ms", 20)
            .set("uplink.cloud.backoff_max_ms", 200)
            .set("routes.all", r#"FROM "devices/#" INTO $upstream"#)
            .set("routes.plain", r#"FROM "site/#" INTO $upstream"#)
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Telemetry> {
        let telemetry = until(&format!("{count} messages in the cloud"), || {
            Some(self.hub.telemetry()).filter(|it| it.len() >= count)
        });
        assert_eq!(self.hub.violations(), []);
        telemetry
    }
}

pub(crate) fn numbers(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}

#[track_caller]
pub(crate) fn drained(router: &Router) {
    until("an empty lane", || (router.backlog() == 0).then_some(()));
}

/// Everything of `id`, from 0 on, in order; what comes again says so and has the id of the first.
#[track_caller]
pub(crate) fn expect_ledger(came: &[Telemetry], id: &str, count: usize) {
    let mut ids = std::collections::BTreeMap::new();
    let mut next = 0;
    for message in came.iter().filter(|it| it.id() == id) {
        let number: usize = message.text().parse().expect("a number");
        assert!(number <= next, "{id}: {number} came before {next}");
        assert!(number == next || message.dup, "{id}: {number} again, and it does not say so");
        next = next.max(number + 1);
        let unique = message.property("millrace-id").expect("an id").to_owned();
        assert_eq!(*ids.entry(number).or_insert(unique.clone()), unique);
    }
    assert_eq!((next, ids.len()), (count, count), "{id}");
}

#[test]
fn telemetry_of_the_gateway_and_of_others_arrives_with_everything_it_has() {
    let cloud = Cloud::start();
    let router = cloud.gateway().start();
    let mut publisher = router.connect(&v5("press7"));
    publisher.publish("devices/gw1/messages/events/%24.ct=application%2Fjson&level=high", "{}", QOS_1);
    let mut block = wire::BlockBuilder::new();
    block.content_type("text/plain").and_then(|it| it.user("tenant", "north & süd")).expect("short");
    publisher.publish_with(&OutgoingPublish {
        topic: "site/a",
        payload: b"x",
        qos: QOS_1,
        properties: block.as_bytes(),
        ..Default::default()
    });
    let came = cloud.wait_for(2);
    assert_eq!((came[0].system("$.ct"), came[0].property("level")), (Some("application/json"), Some("high")));
    let id = came[0].property("millrace-id").expect("an id");
    assert!(id.starts_with("gw1/"), "{id}");
    assert_eq!(
        (came[1].system("$.ct"), came[1].property("tenant")),
        (Some("text/plain"), Some("north & süd"))
    );
    assert_eq!(
        (came[1].property("millrace-topic"), came[1].property("millrace-client")),
        (Some("site/a"), Some("press7"))
    );
    drained(&router);
    assert_eq!(router.status()["uplinks"][0]["state"], "up");
}

/// `GatewayHostName`: an edgeHub as the next level, with the tokens and user names of the hub.
#[test]
fn another_gateway_in_between_is_reached_by_its_own_name() {
    let address = harness::azure::free_address();
    let cloud = Cloud::with(Config { host: "plant.example".into(), ..Config::at(address) });
    let connection_string = cloud.hub.connection_string("gw1").expect("it has a key");
    let router = Setup::new()
        .set("uplink.cloud.kind", "iothub")
        .set("uplink.cloud.connection_string", format!("\"{connection_string};GatewayHostName={address}\""))
        .set("uplink.cloud.ca", cloud.home.path().join("ca.pem").display())
        .set("routes.all", r#"FROM "site/#" INTO $upstream"#)
        .start();
    router.connect(&v5("press7")).publish("site/a", "0", QOS_1);
    expect_ledger(&cloud.wait_for(1), "gw1", 1);
}

#[test]
fn port_443_is_spoken_over_websocket() {
    let cloud = Cloud::start();
    let router = cloud
        .gateway()
        .set("uplink.cloud.url", format!("wss://localhost:{}", cloud.hub.https_address().port()))
        .start();
    router.connect(&v5("press7")).publish_all("site/a", numbers(0..50));
    cloud.wait_for(50);
    assert_eq!(cloud.hub.connections()[0].transport, "websocket");
}

#[test]
fn children_have_links_of_their_own_with_their_key_or_on_our_behalf() {
    let cloud = Cloud::start();
    let child = cloud.hub.put(Identity::device("d1").below("gw1")).expect("an identity");
    cloud.hub.put(Identity::device("d2").below("gw1")).expect("an identity");
    cloud.hub.put(Identity::module("gw1", "filter")).expect("an identity");
    let router = cloud
        .edge()
        .set("uplink.cloud.identity.d1.shared_access_key", format!("\"{}\"", child.key()))
        .set("uplink.cloud.link_idle_secs", 1)
        .start();
    let mut publisher = router.connect(&v5("press7"));
    for number in numbers(0..30) {
        for topic in [
            "devices/d1/messages/events/",
            "devices/d2/messages/events/",
            "devices/gw1/modules/filter/messages/events/",
        ] {
            publisher.publish(topic, number.clone(), QOS_1);
        }
    }
    let came = cloud.wait_for(90);
    for id in ["d1", "d2", "gw1/filter"] {
        let texts: Vec<_> = came.iter().filter(|it| it.id() == id).map(|it| it.text()).collect();
        assert_eq!(texts, numbers(0..30).collect::<Vec<_>>(), "{id}");
    }
    drained(&router);
    // Idle ones go, the gateway's own stays.
    until("idle links to be closed", || {
        let ids: Vec<_> = cloud.hub.connections().into_iter().map(|it| it.id).collect();
        (ids == ["gw1/$edgeHub"]).then_some(())
    });
}

#[test]
fn a_device_whose_link_fails_does_not_touch_the_others() {
    let cloud = Cloud::start();
    for device in ["d1", "d2", "d3"] {
        cloud.hub.put(Identity::device(device).below("gw1")).expect("an identity");
    }
    let (withhold, refuse) = (
        Faults { withhold_acks: true, ..Faults::default() },
        Faults { refuse_connect: Some(3), ..Faults::default() },
    );
    cloud.hub.set_faults(Some("d1"), withhold);
    cloud.hub.set_faults(Some("d2"), refuse);
    let router = cloud.edge().set("uplink.cloud.answer_secs", 3).start();
    let mut publisher = router.connect(&v5("press7"));
    for number in numbers(0..20) {
        for device in ["d1", "d2", "d3"] {
            publisher.publish(&format!("devices/{device}/messages/events/"), number.clone(), QOS_1);
        }
    }
    until("all of d3", || (cloud.hub.count("d3") == 20).then_some(()));
    assert_eq!(cloud.hub.count("d2"), 0);
    cloud.hub.clear_faults();
    until("all of d2", || (cloud.hub.count("d2") == 20).then_some(()));
    drained(&router);
    expect_ledger(&cloud.hub.telemetry(), "d1", 20);
    assert_eq!(cloud.hub.violations(), []);
}

#[test]
fn while_the_hub_keeps_up_a_spill_route_writes_nothing() {
    let cloud = Cloud::start();
    cloud.hub.put(Identity::device("d1").below("gw1")).expect("an identity");
    let route =
        |filter: &str| format!(r#"{{ route = 'FROM "{filter}" INTO $upstream', durability = "spill" }}"#);
    let router = cloud
        .edge()
        .set("routes.all", route("devices/#"))
        .set("routes.plain", route("site/#"))
        .set("uplink.cloud.spill_after_ms", 600_000)
        .start();
    let up = || (router.status()["uplinks"][0]["state"] == "up").then_some(());
    until("the gateway's link", up);
    let mut publisher = router.connect(&v5("press7"));
    // The link of d1 is opened for the first one, which waits in memory meanwhile.
    publisher.publish_all("devices/d1/messages/events/", numbers(0..50));
    publisher.publish_all("site/a", numbers(0..50));
    cloud.wait_for(100);
    let unwritten = || router.metric("millrace_spill_delivered_unwritten_total");
    assert_eq!((unwritten(), router.number("/store/records")), (100.0, 0));
    // With no link at all each message is written before it is acknowledged.
    cloud.hub.set_offline(true);
    until("no link", || (router.status()["uplinks"][0]["links"] == 0).then_some(()));
    publisher.publish("site/a", "50", QOS_1);
    assert_eq!(router.number("/store/records"), 1);
    cloud.hub.set_offline(false);
    cloud.wait_for(101);
}

#[test]
fn a_dropped_connection_repeats_with_dup_and_the_same_id_and_loses_nothing() {
    let cloud = Cloud::start();
    cloud.hub.set_faults(Some("gw1"), Faults { drop_after_messages: Some(20), ..Faults::default() });
    let router = cloud.gateway().start();
    router.connect(&v5("press7")).publish_all("site/a", numbers(0..200));
    drained(&router);
    let came = cloud.wait_for(200);
    expect_ledger(&came, "gw1", 200);
}

#[test]
fn tokens_are_renewed_before_they_expire_and_nothing_is_lost() {
    let cloud = Cloud::start();
    // Acknowledgements are late, so that something is always in flight: the old link must wait for them.
    cloud.hub.set_faults(None, Faults { ack_delay_ms: 300, ..Faults::default() });
    // The shortest there is; renewed after 45 s at the earliest.
    let router = cloud.gateway().set("uplink.cloud.token_secs", 60).start();
    let mut publisher = router.connect(&v5("press7"));
    publisher.publish("site/a", "0", QOS_1);
    cloud.wait_for(1);
    let first = cloud.hub.connections()[0].number;
    let begin = std::time::Instant::now();
    let mut sent = 1;
    let patience = Duration::from_secs(70);
    while cloud.hub.connections().first().is_none_or(|it| it.number == first) {
        assert!(begin.elapsed() < patience, "no new token: {:?}", cloud.hub.events());
        publisher.publish("site/a", sent.to_string(), QOS_1);
        sent += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(begin.elapsed() > Duration::from_secs(40), "not all the time");
    publisher.publish("site/a", sent.to_string(), QOS_1);
    sent += 1;
    drained(&router);
    let came = cloud.wait_for(sent);
    let texts: Vec<_> = came.iter().map(|it| it.text()).collect();
    assert!(came.iter().all(|it| !it.dup), "the old link waits for what is in flight on it");
    assert_eq!(texts, numbers(0..sent).collect::<Vec<_>>());
    assert!(!cloud.hub.events().iter().any(|event| event.kind == "refused"), "{:?}", cloud.hub.events());
}

#[test]
fn what_cannot_be_said_to_the_hub_goes_to_the_poison_lane_with_its_reason() {
    let cloud = Cloud::start();
    let router = cloud.gateway().start();
    let mut publisher = router.connect(&v5("press7"));
    let mut block = wire::BlockBuilder::new();
    block.user("a", "1").and_then(|it| it.user("a", "2")).expect("short");
    publisher.publish_with(&OutgoingPublish {
        topic: "site/a",
        payload: b"twice",
        qos: QOS_1,
        properties: block.as_bytes(),
        ..Default::default()
    });
    publisher.publish("devices/stranger/messages/events/", "nobody's", QOS_1);
    publisher.publish("site/a", vec![b'x'; 300 << 10], QOS_1);
    publisher.publish("site/a", "good", QOS_1);
    assert_eq!(cloud.wait_for(1)[0].text(), "good");
    router.wait_for("/uplinks/0/poisoned", 3);
    drained(&router);
    let log = router.log();
    for words in [
        "properties that the upstream has no place for",
        "an identity that may not use this uplink",
        "262144 bytes",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
}

#[test]
fn many_devices_come_back_at_the_pace_that_is_set() {
    let cloud = Cloud::start();
    let devices: Vec<_> = (0..40).map(|number| format!("d{number}")).collect();
    for device in &devices {
        cloud.hub.put(Identity::device(device).below("gw1")).expect("an identity");
    }
    cloud.hub.set_offline(true);
    let router = cloud
        .edge()
        .set("limits.uplink_opens_per_sec", 20)
        .set("limits.uplink_links_max", 11)
        .set("uplink.cloud.link_idle_secs", 1)
        .start();
    let mut publisher = router.connect(&v5("press7"));
    for device in &devices {
        publisher.publish(&format!("devices/{device}/messages/events/"), "x", QOS_1);
    }
    cloud.hub.set_offline(false);
    let mut most = 0;
    until("all of them", || {
        most = most.max(cloud.hub.connections().len());
        (cloud.hub.recorded() >= 40).then_some(())
    });
    assert!(most <= 11, "{most} links at once");
    drained(&router);
    // No second has seen more than its pace allows, with jitter.
    let connected: Vec<u64> = cloud
        .hub
        .events()
        .iter()
        .filter(|event| event.kind == "connected")
        .map(|event| event.at_ms)
        .collect();
    let most = connected
        .iter()
        .map(|at| connected.iter().filter(|it| (*at..*at + 1_000).contains(it)).count())
        .max();
    assert!(most <= Some(32), "{most:?} in one second");
}
