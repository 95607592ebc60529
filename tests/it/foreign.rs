//! Clients that other people wrote: Debian's `mosquitto_pub` and `mosquitto_sub`, both versions, QoS 0 and 1.

use harness::foreign::{Subscriber, publish, subscribe};
use harness::{QOS_1, Router, Version, v5};

#[track_caller]
fn check_round_trip(version: Version, qos: &str) {
    for shards in 1..=3 {
        let router = Router::with_shards(shards);
        let subscriber = Subscriber::start(router.address(), version, 2, &["-t", "plant/+/temp", "-q", qos]);
        publish(router.address(), version, &["-t", "plant/7/temp", "-m", "21.5", "-q", qos]);
        publish(router.address(), version, &["-t", "plant/7/hum", "-m", "40", "-q", qos]);
        publish(router.address(), version, &["-t", "plant/8/temp", "-m", "22.5", "-q", qos]);
        let expected = [format!("plant/7/temp|{qos}|21.5"), format!("plant/8/temp|{qos}|22.5")];
        assert_eq!(subscriber.messages(), expected, "{version} with QoS {qos} on {shards} shards");
    }
}

#[test]
fn mosquitto_clients_talk_to_each_other_in_3_1_1_with_qos_0() {
    check_round_trip(Version::V3, "0");
}

#[test]
fn mosquitto_clients_talk_to_each_other_in_3_1_1_with_qos_1() {
    check_round_trip(Version::V3, "1");
}

#[test]
fn mosquitto_clients_talk_to_each_other_in_5_with_qos_0() {
    check_round_trip(Version::V5, "0");
}

#[test]
fn mosquitto_clients_talk_to_each_other_in_5_with_qos_1() {
    check_round_trip(Version::V5, "1");
}

#[test]
fn a_mosquitto_session_gets_what_came_while_it_was_away() {
    for version in [Version::V3, Version::V5] {
        let router = Router::with_shards(2);
        let session = ["-c", "-i", "historian", "-t", "plant/#", "-q", "1"];
        // `-E` ends it as soon as it has its subscription.
        subscribe(router.address(), version, &[&session[..], &["-E"]].concat()).expect(0);
        for number in 1..=3 {
            let payload = number.to_string();
            publish(router.address(), version, &["-t", "plant/a", "-m", &payload, "-q", "1"]);
        }
        let seen = subscribe(router.address(), version, &[&session[..], &["-C", "3", "-W", "20"]].concat());
        assert_eq!(seen.expect(0).out, "1\n2\n3\n", "{version}");
    }
}

/// [MQTT-7.0.0-2] [MQTT3-7.0.0-2] [MQTT-4.2.0-1] [MQTT-7.1.1-1] [MQTT3-7.1.1-1]
#[test]
fn versions_talk_to_each_other() {
    let router = Router::with_shards(2);
    let old = Subscriber::start(router.address(), Version::V3, 1, &["-t", "a", "-q", "1"]);
    let new = Subscriber::start(router.address(), Version::V5, 1, &["-t", "a", "-q", "1"]);
    let properties = ["-D", "publish", "user-property", "tenant", "north"];
    let arguments = [&["-t", "a", "-m", "hello", "-q", "1"][..], &properties].concat();
    publish(router.address(), Version::V5, &arguments);
    assert_eq!(old.messages(), ["a|1|hello"]);
    assert_eq!(new.messages(), ["a|1|hello"]);
}

#[test]
fn user_properties_of_mosquitto_pub_arrive() {
    let router = Router::with_shards(2);
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("a", QOS_1);
    let properties =
        ["-D", "publish", "user-property", "tenant", "north", "-D", "publish", "content-type", "text"];
    let arguments = [&["-t", "a", "-m", "hello", "-q", "1"][..], &properties].concat();
    publish(router.address(), Version::V5, &arguments);
    let message = subscriber.message();
    assert_eq!(message.user_properties(), [("tenant", "north")]);
    assert_eq!(message.properties().content_type(), Some("text"));
}
