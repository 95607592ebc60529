//! A client that other people wrote in Python: paho-mqtt, mostly for the properties of 5.0. What it does stands in
//! `paho/scenarios.py`; here is what each scenario proves.

use harness::foreign::paho;

/// Every scenario on one shard and on three.
#[track_caller]
fn play(scenario: &str) {
    for shards in [1, 3] {
        let router = harness::Router::with_shards(shards);
        paho(router.address(), scenario);
    }
}

/// [MQTT-3.3.2-17] [MQTT-3.3.2-18]
#[test]
fn paho_gets_user_properties_in_order() {
    play("user_properties");
}

/// [MQTT-3.3.2-4] [MQTT-3.3.2-20]
#[test]
fn paho_gets_content_type_and_payload_format() {
    play("content_and_format");
}

/// [MQTT-3.3.2-15] [MQTT-3.3.2-16]
#[test]
fn paho_calls_and_is_answered() {
    play("request_and_response");
}

/// [MQTT-3.3.2-5] [MQTT-3.3.2-6]
#[test]
fn paho_sees_messages_expire() {
    play("message_expiry");
}

/// [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4]
#[test]
fn paho_gets_every_subscription_identifier() {
    play("subscription_identifiers");
}

/// [MQTT-3.3.2-12]
#[test]
fn paho_uses_topic_aliases() {
    play("topic_aliases");
}

/// [MQTT-4.8.2-3]
#[test]
fn paho_shares_a_subscription() {
    play("shared_subscriptions");
}

/// [MQTT-3.8.3-3] [MQTT-3.3.1-12] [MQTT-3.3.1-13]
#[test]
fn paho_sets_the_options_of_subscriptions() {
    play("no_local_and_retain_as_published");
}

/// [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.8.4-4]
#[test]
fn paho_keeps_retained_messages() {
    play("retained");
}

/// [MQTT-3.1.2-7] [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.1.3-9] [MQTT-3.1.3-10] [MQTT-3.14.4-3]
#[test]
fn paho_leaves_wills() {
    play("will_delay");
}

/// [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.1.2-23] [MQTT-3.2.2-3] [MQTT-4.1.0-2]
#[test]
fn paho_comes_back_to_its_session() {
    play("session_expiry");
}

/// [MQTT-3.8.4-8] [MQTT3-3.8.4-6] [MQTT-3.3.4-1] [MQTT3-3.3.4-1] [MQTT-4.3.1-1] [MQTT3-4.3.1-1]
#[test]
fn paho_gets_the_lower_quality_of_service() {
    play("quality_of_service");
}

/// [MQTT-4.3.3-8] [MQTT-4.3.3-11] [MQTT-4.6.0-5] [MQTT-4.6.0-6]
#[test]
fn paho_sends_and_gets_exactly_once() {
    play("exactly_once_in_bulk");
}

/// [MQTT3-3.1.2-4] [MQTT3-3.1.2-5] [MQTT3-3.1.2-8] [MQTT3-3.1.2-17] [MQTT3-3.3.1-5] [MQTT3-3.3.1-6] [MQTT3-3.3.1-8]
#[test]
fn paho_speaks_3_1_1() {
    play("an_old_client");
}

/// [MQTT-3.1.4-3]
#[test]
fn paho_is_taken_over() {
    play("takeover");
}

/// [MQTT-3.9.3-1] [MQTT-3.11.3-1] [MQTT-3.11.3-2]
#[test]
fn paho_reads_reason_codes() {
    play("reason_codes");
}

/// A scenario that nobody plays proves nothing.
#[test]
fn every_scenario_of_paho_is_played() {
    let scenarios = include_str!("paho/scenarios.py").lines().filter_map(|line| line.strip_prefix("def "));
    let names: Vec<_> = scenarios.filter_map(|line| line.strip_suffix("():")).collect();
    assert!(names.len() >= 16, "{names:?}");
    for name in names {
        assert!(include_str!("paho.rs").contains(&format!("play(\"{name}\")")), "{name}");
    }
}
