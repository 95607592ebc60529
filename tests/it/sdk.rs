//! The published SDKs of Azure IoT, unmodified, against Millrace in the place of edgeHub: beside a test IoT Edge runtime and
//! below a test IoT Hub, both of which check strictly. What the SDKs do stands in `azure/`; the same scenarios play against
//! the hub itself in `sdk_direct`.

use harness::azure::{Cloud, DEVICE, free_address};
use harness::{Client, Connection, QOS_1, Router, Setup, Trust, Version, until};
use serde_json::json;

use crate::runtime::hello;

/// Everything goes up; what leaf devices send goes to a module as well.
fn setup(cloud: &Cloud) -> Setup {
    crate::runtime::setup(cloud).set("routes.up", "FROM /messages/* INTO $upstream").set(
        "routes.in",
        r#"FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO BrokeredEndpoint("/modules/filter/inputs/in1")"#,
    )
}

fn gateway() -> (Cloud, Router) {
    let mut cloud = Cloud::start();
    let address = free_address();
    let router = setup(&cloud).env("EDGEDEVICEHOSTNAME", address.to_string()).start();
    cloud.put_gateway_at(address, router.listener("tls"), router.listener("wss"));
    (cloud, router)
}

/// One that has started again while the cloud is away; its device has been there before.
fn offline_gateway() -> (Cloud, Router) {
    let mut cloud = Cloud::start();
    let address = free_address();
    cloud.hub.patch_desired(DEVICE, &json!({"rate": 5})).expect("a patch");
    let mut router = setup(&cloud)
        .env("EDGEDEVICEHOSTNAME", address.to_string())
        .set("uplink.upstream.kind", "iothub")
        .set("uplink.upstream.backoff_min_ms", 20)
        .set("uplink.upstream.backoff_max_ms", 500)
        .start();
    let trust = Trust::of(&cloud.home().join("ca.pem")).name(&address.to_string());
    let connection = Connection::open_tls(router.listener("tls"), Version::V3, &trust).expect("a handshake");
    let mut device = Client::over(connection, &hello(&cloud, DEVICE)).expect("a CONNACK");
    device.subscribe("$iothub/twin/res/#", QOS_1);
    crate::twins_offline::settle(&mut device);
    device.disconnect();
    let sealed = router.store().join("edge/identities.sealed");
    until("the identities to be kept", || sealed.exists().then_some(()));
    cloud.hub.set_offline(true);
    router.kill();
    router.start_again();
    cloud.put_gateway_at(address, router.listener("tls"), router.listener("wss"));
    (cloud, router)
}

#[track_caller]
fn python(scenario: &str) -> Router {
    let (cloud, router) = gateway();
    cloud.python(scenario);
    router
}

#[track_caller]
fn node(scenario: &str) {
    let (cloud, _router) = gateway();
    cloud.node(scenario);
}

#[test]
fn python_telemetry_with_properties() {
    python("telemetry_with_properties");
}

#[test]
fn python_telemetry_over_websocket() {
    python("telemetry_over_websocket");
}

#[test]
fn python_a_certificate_instead_of_a_key() {
    python("a_certificate_instead_of_a_key");
}

#[test]
fn python_a_wrong_key_is_refused() {
    python("a_wrong_key_is_refused");
}

#[test]
fn python_messages_from_the_cloud() {
    python("messages_from_the_cloud");
}

#[test]
fn python_messages_from_the_cloud_wait_for_the_device() {
    python("messages_from_the_cloud_wait_for_the_device");
}

#[test]
fn python_twins() {
    python("twins");
}

#[test]
fn python_twins_of_a_module() {
    python("twins_of_a_module");
}

#[test]
fn python_methods() {
    python("methods");
}

#[test]
fn python_methods_of_a_module() {
    python("methods_of_a_module");
}

#[test]
fn python_a_module_calls_a_method() {
    python("a_module_calls_a_method");
}

#[test]
fn python_a_module_in_its_environment() {
    python("a_module_in_its_environment");
}

#[test]
fn python_inputs() {
    python("inputs");
}

#[test]
fn python_a_client_comes_back() {
    python("a_client_comes_back");
}

#[test]
fn python_a_token_is_renewed() {
    let router = python("a_token_is_renewed");
    let accepted = router.get("/metrics").1;
    let line = accepted.lines().find(|line| line.starts_with("edgehub_client_connect_success_total{"));
    let count = line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    assert!(
        count.is_some_and(|count| count >= 2.0),
        "{line:?}: a second token came with a second connection"
    );
}

#[test]
fn python_a_start_without_the_cloud() {
    let (cloud, _router) = offline_gateway();
    cloud.python("offline_start");
}

#[test]
fn node_a_start_without_the_cloud() {
    let (cloud, _router) = offline_gateway();
    cloud.node("offline_start");
}

#[test]
fn node_telemetry_with_properties() {
    node("telemetry_with_properties");
}

#[test]
fn node_telemetry_over_websocket() {
    node("telemetry_over_websocket");
}

#[test]
fn node_a_certificate_instead_of_a_key() {
    node("a_certificate_instead_of_a_key");
}

#[test]
fn node_messages_from_the_cloud() {
    node("messages_from_the_cloud");
}

#[test]
fn node_twins() {
    node("twins");
}

#[test]
fn node_methods() {
    node("methods");
}

#[test]
fn node_a_module_calls_a_method() {
    node("a_module_calls_a_method");
}

#[test]
fn node_a_module_in_its_environment() {
    node("a_module_in_its_environment");
}

#[test]
fn node_inputs() {
    node("inputs");
}

#[test]
fn node_a_client_comes_back() {
    node("a_client_comes_back");
}

#[test]
fn node_a_token_is_renewed() {
    node("a_token_is_renewed");
}
