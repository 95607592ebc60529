//! Who may speak for a device on the way to IoT Hub: itself, and whom the configuration names; never whoever writes its topic.

use harness::{QOS_0, QOS_1, Router, v3, v5};
use iothub::Identity;
use wire::{Connect, Will};

use crate::access::{as_user, passwd};
use crate::cloud::{Cloud, drained};

const OF_D1: &str = "devices/d1/messages/events/";
const OF_D2: &str = "devices/d2/messages/events/";

/// A hub with two devices below the gateway, and users of theirs here.
fn cloud() -> Cloud {
    let cloud = Cloud::start();
    for device in ["d1", "d2"] {
        cloud.hub.put(Identity::device(device).below("gw1")).expect("an identity");
    }
    let file = cloud.home.path().join("passwords");
    for user in ["d1", "app"] {
        passwd(&file, user, "secret", &[]).expect("millrace passwd");
    }
    cloud
}

fn start(cloud: &Cloud, speakers: &str) -> Router {
    let setup = cloud.edge().set("auth.password_file", cloud.home.path().join("passwords").display());
    setup.set("uplink.cloud.speakers", speakers).start()
}

#[test]
fn a_client_speaks_for_no_device_but_the_one_it_has_logged_in_as() {
    let cloud = cloud();
    let router = start(&cloud, "[]");
    // Whatever it calls itself, however it is asked: a client identifier and a topic prove nothing.
    let mut nobody = router.connect(&v5("d1"));
    nobody.publish(OF_D1, "forged by client identifier", QOS_1);
    nobody.publish("devices/gw1/modules/$edgeHub/messages/events/", "forged as the gateway", QOS_1);
    nobody.publish(OF_D1, "forged at QoS 0", QOS_0);
    router.connect(&v3("d2")).publish(OF_D2, "forged in 3.1.1", QOS_1);
    let mut device = router.connect(&as_user(v5("anything"), "d1", "secret"));
    device.publish(OF_D2, "forged by another device", QOS_1);
    device.publish("devices/d1/modules/m/messages/events/", "forged as a module", QOS_1);
    router.connect(&as_user(v5("app"), "app", "secret")).publish(OF_D1, "nobody has named it", QOS_1);
    device.publish(OF_D1, "honest", QOS_1);
    router.connect(&v5("d1")).publish("site/a", "says nothing about its sender", QOS_1);

    let came = cloud.wait_for(2);
    let mut ids: Vec<_> = came.iter().map(|it| (it.id(), it.text())).collect();
    ids.sort();
    assert_eq!(
        ids,
        [("d1".into(), "honest".into()), ("gw1/$edgeHub".into(), "says nothing about its sender".into())]
    );
    router.wait_for("/uplinks/0/foreign_senders", 7);
    assert_eq!(router.metric(r#"millrace_uplink_foreign_senders_total{name="cloud"}"#), 7.0);
    router.wait_for("/uplinks/0/poisoned", 7);
    drained(&router);
    assert_eq!(cloud.hub.recorded(), 2, "nothing of it came later");
    let log = router.log();
    assert!(log.contains("its publisher is not") && log.contains("speakers"), "{log}");
}

#[test]
fn whom_the_configuration_names_speaks_for_all_and_nobody_else_does() {
    let cloud = cloud();
    let router = start(&cloud, r#"["app"]"#);
    router.connect(&v5("app")).publish(OF_D2, "only its client identifier is the right one", QOS_1);
    router.connect(&as_user(v5("x"), "d1", "secret")).publish(OF_D2, "another device", QOS_1);
    let mut app = router.connect(&as_user(v5("x1"), "app", "secret"));
    app.publish(OF_D1, "for d1", QOS_1);
    app.publish(OF_D2, "for d2", QOS_1);
    cloud.wait_for(2);
    router.wait_for("/uplinks/0/foreign_senders", 2);
    drained(&router);
    let came = cloud.hub.telemetry();
    let mut ids: Vec<_> = came.iter().map(|it| (it.id(), it.text())).collect();
    ids.sort();
    assert_eq!(ids, [("d1".into(), "for d1".into()), ("d2".into(), "for d2".into())]);
}

/// Rules for `devices/#` do not hold for a topic that only ends like one of theirs.
#[test]
fn a_topic_that_only_ends_like_a_devices_is_the_gateways_as_publication_and_as_will() {
    const BEHIND: &str = "plant/devices/d1/messages/events/x=y";
    let cloud = cloud();
    let router = cloud
        .edge()
        .set("auth.acl", r#"["deny publish devices/#", "allow publish plant/#"]"#)
        .set("auth.acl_default", "deny")
        .set("routes.plain", r#"FROM "plant/#" INTO $upstream"#)
        .start();
    let will = Will { topic: BEHIND.to_owned(), payload: b"will".to_vec(), qos: QOS_1, ..Will::default() };
    let mut sensor = router.connect(&Connect { will: Some(will), ..v5("sensor7") });
    sensor.publish(BEHIND, "publication", QOS_1);
    sensor.vanish();
    let came = cloud.wait_for(2);
    let seen: Vec<_> = came.iter().map(|it| (it.id(), it.text(), it.property("millrace-topic"))).collect();
    let own = || "gw1/$edgeHub".into();
    assert_eq!(seen, [(own(), "publication".into(), Some(BEHIND)), (own(), "will".into(), Some(BEHIND))]);
    drained(&router);
    assert_eq!(cloud.hub.count("d1"), 0);
}
