//! Routes and store limits of a deployment manifest: every shipped version, and what is wrong with others.

use harness::{QOS_1, Setup, until};

use crate::identities::Gateway;

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/manifests");

fn setup(gateway: &Gateway, manifest: impl std::fmt::Display) -> Setup {
    let setup = gateway.setup().set("edge.config_source", "manifest").set("edge.manifest", manifest);
    // Where `$upstream` leads; nobody is there.
    setup.set("uplink.upstream.url", "mqtt://127.0.0.1:1")
}

#[test]
fn manifests_of_every_schema_say_where_messages_go() {
    for (schema, routes) in [("1.0", 2), ("1.1", 3), ("1.2", 1), ("1.3", 2)] {
        let gateway = Gateway::new();
        let router = setup(&gateway, format!("{MANIFESTS}/schema-{schema}.json")).start();
        let status = router.status();
        let found = status["routes"].as_array().map_or(0, Vec::len);
        assert_eq!(found, routes, "{schema}: {status:#}");
        let mut filter = gateway.connect(&router, "gw1/filter");
        filter.publish("devices/gw1/modules/filter/messages/events/%24.on=alert/", "x", QOS_1);
        until("it to be routed", || (router.number("/counters/routed") == 1).then_some(()));
    }
}

#[test]
fn a_manifest_is_read_again_on_sighup_and_a_bad_one_changes_nothing() {
    let gateway = Gateway::new();
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("deployment.json");
    let write = |routes: serde_json::Value| {
        let desired = serde_json::json!({
            "schemaVersion": "1.1", "routes": routes, "storeAndForwardConfiguration": { "timeToLiveSecs": 60 },
        });
        std::fs::write(&file, desired.to_string()).expect("a file");
    };
    let input =
        |name: &str| format!(r#"FROM /messages/* INTO BrokeredEndpoint("/modules/filter/inputs/{name}")"#);
    write(serde_json::json!({ "one": input("one") }));
    let mut router = setup(&gateway, file.display()).file("").start();
    let mut filter = gateway.connect(&router, "gw1/filter");
    filter.subscribe("devices/gw1/modules/filter/#", QOS_1);
    let mut device = gateway.connect(&router, "d1");
    let mut next = |text: &str| {
        device.publish("devices/d1/messages/events/", text, QOS_1);
        filter.message().topic
    };
    assert!(next("1").contains("/inputs/one/"));
    write(serde_json::json!({ "one": "FROM /messages/* WHERE nofunction(1) INTO $upstream", "two": 5 }));
    router.reload("");
    let log = until("the mistakes", || Some(router.log()).filter(|log| log.contains("routes.two")));
    assert!(log.contains("edge.manifest"), "{log}");
    assert!(next("2").contains("/inputs/one/"), "the old ones go on");
    write(serde_json::json!({ "one": input("other") }));
    router.reload("");
    until("the new route", || {
        let topic = next("3");
        topic.contains("/inputs/other/").then_some(())
    });
    write(serde_json::json!({ "one": "FROM /messages/* WHERE nofunction(1) INTO $upstream" }));
    let (code, log) = setup(&gateway, file.display()).fail_to_start();
    assert_eq!(code, Some(2));
    assert!(
        log.contains("edge.manifest") && log.contains("routes.one: ") && log.contains("nofunction"),
        "{log}"
    );
    let (code, log) = gateway.setup().set("edge.config_source", "manifest").fail_to_start();
    assert_eq!(code, Some(2));
    assert!(log.contains("edge.manifest does not say which"), "{log}");
}

#[test]
fn as_much_waits_as_store_limits_allow() {
    let gateway = Gateway::new();
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("deployment.json");
    let desired = serde_json::json!({
        "schemaVersion": "1.1",
        "routes": { "in": r#"FROM /messages/* INTO BrokeredEndpoint("/modules/filter/inputs/in1")"# },
        "storeAndForwardConfiguration": { "timeToLiveSecs": -1, "storeLimits": { "maxSizeBytes": 100_000 } },
    });
    std::fs::write(&file, desired.to_string()).expect("a file");
    let router = setup(&gateway, file.display()).start();
    let mut device = gateway.connect(&router, "d1");
    // Those that it did not acknowledge it does not have.
    let payload = vec![b'x'; 10_000];
    let publish = harness::OutgoingPublish {
        topic: "devices/d1/messages/events/",
        payload: &payload,
        qos: QOS_1,
        ..Default::default()
    };
    let mut sent = Vec::new();
    let withheld = until("no more to be taken", || {
        sent.extend(device.send(&publish));
        (router.number("/withheld") == 1).then_some(sent.len())
    });
    assert!(withheld >= 10, "{withheld}");
    let mut filter = gateway.connect(&router, "gw1/filter");
    filter.subscribe("devices/gw1/modules/filter/#", QOS_1);
    for _ in 0..sent.len() {
        filter.message();
    }
    for packet_id in sent {
        device.await_ack(packet_id);
    }
    assert!(router.log().contains("the store is full"), "{}", router.log());
}
