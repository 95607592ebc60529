//! edgeHub's series at `/metrics`: every one of them by its name and labels, after something has happened that it counts.

use std::time::Duration;

use harness::azure::{Cloud, DEVICE, GATEWAY, MODULE};
use harness::{Client, Connection, QOS_1, ReasonCode, Router, Version, until};
use serde_json::json;

use crate::runtime::{connect, hello, setup, trust};

/// Samples of a series: labels and value.
fn samples(router: &Router, name: &str) -> Vec<(String, f64)> {
    let (_, text) = router.get("/metrics");
    let of = |line: &str| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
        Some((labels.to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(of).collect()
}

/// Waits until a series has a sample with these labels that is above nothing.
#[track_caller]
fn expect(router: &Router, name: &str, labels: &[&str]) {
    let mut last = Vec::new();
    let found = harness::within(Duration::from_secs(20), || {
        last = samples(router, name);
        let fits = |found: &str| labels.iter().all(|label| found.contains(label));
        last.iter().any(|(found, value)| fits(found) && *value > 0.0).then_some(())
    });
    assert!(found.is_some(), "{name} {labels:?}: {last:#?}");
}

#[test]
fn every_series_of_edgehub_counts_what_has_happened() {
    let cloud = Cloud::start();
    let router = setup(&cloud)
        .set("uplink.upstream.kind", "iothub")
        .set("uplink.upstream.backoff_min_ms", 20)
        .set("uplink.upstream.backoff_max_ms", 200)
        .set("routes.up", "FROM /messages/* WHERE NOT IS_DEFINED(local) INTO $upstream")
        .set("routes.short.route", "FROM /messages/* WHERE local = 'short' INTO $upstream")
        .set("routes.short.priority", 1)
        .set("routes.short.ttl", 1)
        .set(
            "routes.in",
            r#"FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) AND NOT IS_DEFINED(nowhere) INTO BrokeredEndpoint("/modules/filter/inputs/in1")"#,
        )
        .start();
    let module = format!("{GATEWAY}/{MODULE}");
    let mut filter = connect(&cloud, &router, &module);
    filter.subscribe(&format!("devices/{GATEWAY}/modules/{MODULE}/#"), QOS_1);
    let mut device = connect(&cloud, &router, DEVICE);
    device.subscribe("$iothub/twin/res/#", QOS_1);
    device.subscribe("$iothub/methods/POST/#", QOS_1);
    device.publish(&format!("devices/{DEVICE}/messages/events/a=1"), "x".repeat(100), QOS_1);
    filter.message();
    device.publish(&format!("devices/{DEVICE}/messages/events/local&nowhere"), "x", QOS_1);
    device.publish("$iothub/twin/GET/?$rid=1", "", QOS_1);
    assert_eq!(device.message().topic, "$iothub/twin/res/200/?$rid=1");
    device.publish("$iothub/twin/PATCH/properties/reported/?$rid=2", r#"{"fw":"1"}"#, QOS_1);
    assert_eq!(device.message().topic, "$iothub/twin/res/204/?$rid=2");
    std::thread::scope(|scope| {
        let called = scope.spawn(|| {
            cloud.hub.call_method(
                DEVICE,
                "blink",
                &json!(1),
                Duration::from_secs(20),
                Duration::from_secs(20),
            )
        });
        let call = device.message().topic;
        let rid = call.strip_prefix("$iothub/methods/POST/blink/?$rid=").expect("a call").to_owned();
        device.publish(&format!("$iothub/methods/res/200/?$rid={rid}"), "{}", QOS_1);
        assert!(called.join().expect("a call").is_ok());
    });
    // Somebody who is not who it says.
    let mut forged = hello(&cloud, DEVICE);
    forged.password = Some(b"SharedAccessSignature sr=x&sig=eA%3D%3D&se=1".to_vec());
    let connection = Connection::open_tls(router.listener("tls"), Version::V3, &trust(&cloud));
    let refused = Client::over(connection.expect("a handshake"), &forged).expect("a CONNACK");
    assert_eq!(refused.greeting.reason, ReasonCode::NOT_AUTHORIZED);
    until("the message in the cloud", || (cloud.hub.count(DEVICE) >= 1).then_some(()));
    cloud.hub.set_offline(true);
    until("the cloud to be away", || (router.status()["uplinks"][0]["state"] != "up").then_some(()));
    device.publish(&format!("devices/{DEVICE}/messages/events/a=2"), "waits", QOS_1);
    device.publish(&format!("devices/{DEVICE}/messages/events/local=short&nowhere"), "expires", QOS_1);
    let hub = format!("id=\"{GATEWAY}/$edgeHub\"");
    let (of_device, of_module) = (format!("id=\"{DEVICE}\""), format!("id=\"{module}\""));
    let (from, to) = (format!("from=\"{DEVICE}\""), format!("to=\"{module}\""));
    expect(&router, "edgehub_queue_length", &["endpoint=\"iothub\"", "priority=\"2000000000\""]);
    expect(&router, "edgehub_messages_dropped_total", &["reason=\"ttl_expiry\"", &from]);
    cloud.hub.set_offline(false);
    until("the cloud to be back", || (router.status()["uplinks"][0]["state"] == "up").then_some(()));
    drop(device);
    let common = [format!("iothub=\"{}\"", cloud.hub.host()), format!("edge_device=\"{GATEWAY}\"")];
    for (name, labels) in [
        ("messages_received_total", &[of_device.as_str(), "route_output=\"\""][..]),
        ("messages_sent_total", &[&from, &to, "to_route_input=\"in1\"", "priority=\"2000000000\""]),
        ("messages_sent_total", &["to=\"upstream\"", &from, "priority=\"2000000000\""]),
        ("message_send_duration_seconds", &["to=\"upstream\"", &from, "quantile=\"0.5\""]),
        ("message_process_duration_seconds_count", &["to=\"upstream\"", &from]),
        ("messages_dropped_total", &["reason=\"no_route\"", &from]),
        ("message_size_bytes", &[&of_device, "quantile=\"0.5\""]),
        ("message_size_bytes_sum", &[&of_device]),
        ("message_send_duration_seconds", &[&from, &to, "quantile=\"0.99\""]),
        ("message_process_duration_seconds_count", &[&from, &to]),
        ("gettwin_total", &["source=\"upstream\"", &of_device]),
        ("gettwin_duration_seconds_count", &["source=\"upstream\"", &of_device]),
        ("reported_properties_total", &["target=\"edge_hub\"", &of_device]),
        ("reported_properties_total", &["target=\"upstream\"", &of_device]),
        ("reported_properties_update_duration_seconds", &["target=\"edge_hub\"", &of_device, "quantile"]),
        ("direct_methods_total", &["from=\"upstream\"", "to=\"d1\""]),
        ("direct_method_duration_seconds_count", &["from=\"upstream\"", "to=\"d1\""]),
        ("offline_count_total", &[&hub]),
        ("offline_duration_seconds", &[&hub, "quantile=\"0.1\""]),
        ("connected_clients", &[]),
        ("client_connect_success_total", &[&of_module]),
        ("client_disconnect_total", &[&of_device]),
        ("client_connect_failed_total", &[&of_device, "reason=\"not_authenticated\""]),
    ] {
        let labels: Vec<&str> = labels
            .iter()
            .copied()
            .chain(common.iter().map(String::as_str))
            .chain(["instance_number"])
            .collect();
        expect(&router, &format!("edgehub_{name}"), &labels);
    }
}

/// What edgeHub counts when something goes wrong: a module and a cloud that do not acknowledge, and a queue that is full.
#[test]
fn repeats_and_what_is_not_taken_are_counted() {
    let cloud = Cloud::start();
    let router = setup(&cloud)
        .set("limits.packet_bytes_max", 65_536)
        .set("uplink.upstream.kind", "iothub")
        .set("uplink.upstream.answer_secs", 1)
        .set("uplink.upstream.backoff_min_ms", 20)
        .set("uplink.upstream.backoff_max_ms", 200)
        .set("uplink.upstream.bytes_max", 262_144)
        .set("routes.up", "FROM /messages/* WHERE IS_DEFINED(up) INTO $upstream")
        .set(
            "routes.in",
            r#"FROM /messages/* WHERE NOT IS_DEFINED(up) INTO BrokeredEndpoint("/modules/filter/inputs/in1")"#,
        )
        .start();
    let module = format!("{GATEWAY}/{MODULE}");
    let come = || {
        let connection = Connection::open_tls(router.listener("tls"), Version::V3, &trust(&cloud));
        let mut connect = hello(&cloud, &module);
        connect.clean_start = false;
        let filter = Client::over(connection.expect("a handshake"), &connect).expect("a CONNACK");
        assert_eq!(filter.greeting.reason, ReasonCode::SUCCESS);
        filter
    };
    let mut filter = come().manual();
    filter.subscribe(&format!("devices/{GATEWAY}/modules/{MODULE}/#"), QOS_1);
    let mut device = connect(&cloud, &router, DEVICE);
    let events = format!("devices/{DEVICE}/messages/events/");
    device.publish(&events, "for the module", QOS_1);
    assert_eq!(filter.message().text(), "for the module");
    filter.vanish();
    let mut filter = come();
    assert_eq!(filter.message().text(), "for the module");
    let of_module = format!("id=\"{module}\"");
    expect(&router, "edgehub_operation_retry_total", &[&of_module, "operation=\" SendMessageToModule\""]);

    cloud.hub.set_faults(Some(DEVICE), iothub::Faults { withhold_acks: true, ..Default::default() });
    device.publish(&format!("{events}up=1"), "for the cloud", QOS_1);
    let of_device = format!("id=\"{DEVICE}\"");
    expect(&router, "edgehub_operation_retry_total", &[&of_device, "operation=\" SendMessageToCloud\""]);
    cloud.hub.clear_faults();

    cloud.hub.set_offline(true);
    let payload = vec![b'x'; 20_000];
    let topic = format!("{events}up=1");
    let publish =
        harness::OutgoingPublish { topic: &topic, payload: &payload, qos: QOS_1, ..Default::default() };
    until("no more to be taken", || {
        device.send(&publish);
        (router.number("/withheld") == 1).then_some(())
    });
    let from = format!("from=\"{DEVICE}\"");
    expect(&router, "edgehub_messages_unack_total", &["reason=\"storage_failure\"", &from]);
}
