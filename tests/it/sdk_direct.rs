//! The published SDKs of Azure IoT against the test IoT Hub itself: proof that the double behaves as they expect, before
//! anything of ours stands in between. What they do stands in `azure/`.

use harness::azure::Cloud;

#[track_caller]
fn python(scenario: &str) {
    Cloud::start().python(scenario);
}

#[track_caller]
fn node(scenario: &str) {
    Cloud::start().node(scenario);
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
fn python_unacknowledged_messages_come_again() {
    python("unacknowledged_messages_come_again");
}

#[test]
fn python_a_token_is_renewed() {
    python("a_token_is_renewed");
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
fn node_a_module_in_its_environment() {
    node("a_module_in_its_environment");
}

#[test]
fn node_inputs() {
    node("inputs");
}

#[test]
fn node_a_module_calls_a_method() {
    node("a_module_calls_a_method");
}

#[test]
fn node_a_client_comes_back() {
    node("a_client_comes_back");
}

#[test]
fn node_a_token_is_renewed() {
    node("a_token_is_renewed");
}

/// A scenario that nobody plays proves nothing.
#[test]
fn every_scenario_of_the_sdks_is_played() {
    let own = include_str!("sdk_direct.rs");
    let python = include_str!("azure/python/scenarios.py");
    let listed = python.lines().filter_map(|line| line.strip_prefix("def ")?.split_once('('));
    let helpers =
        ["through_a_gateway", "where", "device", "module", "watched", "message", "check_odd", "call", "kick"];
    let more = ["desired_is_subscribed", "main"];
    let python: Vec<_> =
        listed.map(|(name, _)| name).filter(|it| !helpers.contains(it) && !more.contains(it)).collect();
    let node = include_str!("azure/node/scenarios.js");
    let node: Vec<_> =
        node.lines().filter_map(|line| line.strip_prefix("  async ")?.strip_suffix("() {")).collect();
    assert!(python.len() >= 16 && node.len() >= 11, "{python:?} {node:?}");
    // The hub itself is never without the cloud.
    let through_a_gateway = include_str!("sdk.rs");
    for (language, names) in [("python", python), ("node", node)] {
        for name in names {
            let place = if name == "offline_start" { through_a_gateway } else { own };
            assert!(place.contains(&format!("{language}(\"{name}\")")), "{language} {name}");
        }
    }
}
