//! Twins while nobody answers above, with real parts: what clients report then, what changes meanwhile, through `kill -9`.

use harness::azure::{Cloud, DEVICE};
use harness::{Client, QOS_1, Router, until};
use serde_json::{Value, json};

use crate::runtime::{connect, setup};

fn start(cloud: &Cloud) -> Router {
    setup(cloud)
        .set("uplink.upstream.kind", "iothub")
        .set("uplink.upstream.backoff_min_ms", 20)
        .set("uplink.upstream.backoff_max_ms", 200)
        .start()
}

fn listening(cloud: &Cloud, router: &Router) -> Client {
    let mut client = connect(cloud, router, DEVICE);
    client.subscribe("$iothub/twin/res/#", QOS_1);
    client.subscribe("$iothub/twin/PATCH/properties/desired/#", QOS_1);
    client
}

/// Asks for the twin until it is the cloud's; changes of it may be told before.
#[track_caller]
pub(crate) fn settle(client: &mut Client) -> Value {
    until("the twin of the cloud", || {
        client.publish("$iothub/twin/GET/?$rid=1", "", QOS_1);
        let told = std::iter::repeat_with(|| client.message()).find(|it| it.topic.contains("/res/200/"))?;
        let twin: Value = serde_json::from_str(told.text()).expect("a twin");
        twin["desired"].get("$version").is_some_and(|version| *version != json!(0)).then_some(twin)
    })
}

/// Asks for the twin; nothing else is said.
#[track_caller]
fn get(client: &mut Client, rid: u32) -> Value {
    client.publish(&format!("$iothub/twin/GET/?$rid={rid}"), "", QOS_1);
    let told = client.message();
    assert_eq!(told.topic, format!("$iothub/twin/res/200/?$rid={rid}"), "{}", told.text());
    serde_json::from_str(told.text()).expect("a twin")
}

/// Reports, and sees that it is taken.
#[track_caller]
fn report(client: &mut Client, rid: u32, patch: &Value) {
    client.publish(&format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}"), patch.to_string(), QOS_1);
    let told = client.message();
    assert!(told.topic.starts_with(&format!("$iothub/twin/res/204/?$rid={rid}")), "{}", told.topic);
}

fn without_versions(mut twin: Value) -> Value {
    for half in ["desired", "reported"] {
        twin[half].as_object_mut().expect("half of a twin").remove("$version");
    }
    twin
}

fn reported(cloud: &Cloud) -> Value {
    Value::Object(cloud.hub.twin(DEVICE).reported.properties)
}

#[test]
fn a_twin_is_read_and_reported_to_without_the_cloud_and_they_agree_afterwards() {
    let cloud = Cloud::start();
    cloud.hub.patch_desired(DEVICE, &json!({"rate": 10, "mode": {"night": true}})).expect("a patch");
    let mut router = start(&cloud);
    let mut client = listening(&cloud, &router);
    assert_eq!(settle(&mut client)["desired"]["rate"], json!(10));
    report(&mut client, 2, &json!({"fw": "1.0", "old": 1}));
    until("it in the cloud", || (reported(&cloud) == json!({"fw": "1.0", "old": 1})).then_some(()));

    cloud.hub.set_offline(true);
    until("the cloud to be away", || (router.status()["uplinks"][0]["state"] != "up").then_some(()));
    let desired = json!({"rate": 10, "mode": {"night": true}});
    report(&mut client, 3, &json!({"fw": "1.1", "old": null}));
    report(&mut client, 4, &json!({"fw": "1.2", "disk": {"free": 5}}));
    let expected = json!({"desired": desired, "reported": {"fw": "1.2", "disk": {"free": 5}}});
    assert_eq!(without_versions(get(&mut client, 5)), expected);

    router.kill();
    router.start_again();
    let mut client = listening(&cloud, &router);
    assert_eq!(without_versions(get(&mut client, 6)), expected);
    let version = cloud.hub.patch_desired(DEVICE, &json!({"rate": 20, "mode": null})).expect("a patch");
    assert_eq!(reported(&cloud), json!({"fw": "1.0", "old": 1}), "nothing has gone up");
    cloud.hub.set_offline(false);
    until("all in the cloud", || {
        (reported(&cloud) == json!({"fw": "1.2", "disk": {"free": 5}})).then_some(())
    });
    // What has changed, once, as of its version.
    let told = client.message();
    assert_eq!(told.topic, format!("$iothub/twin/PATCH/properties/desired/?$version={version}"));
    let patch: Value = serde_json::from_str(told.text()).expect("a patch");
    assert_eq!((&patch["rate"], &patch["mode"]), (&json!(20), &json!(null)), "{patch}");
    assert!(patch.as_object().is_some_and(|patch| patch.contains_key("mode")), "{patch}");
    assert_eq!(
        without_versions(get(&mut client, 7))["desired"],
        json!({"rate": 20}),
        "and nothing in between"
    );
    assert_eq!(cloud.hub.violations(), []);
}

#[test]
fn what_a_client_has_reported_without_the_cloud_goes_up_when_it_has_gone() {
    let cloud = Cloud::start();
    let mut router = start(&cloud);
    let mut client = listening(&cloud, &router);
    settle(&mut client);
    cloud.hub.set_offline(true);
    until("the cloud to be away", || (router.status()["uplinks"][0]["state"] != "up").then_some(()));
    report(&mut client, 2, &json!({"fw": "2.0"}));
    client.disconnect();
    router.kill();
    router.start_again();
    cloud.hub.set_offline(false);
    until("it in the cloud", || (reported(&cloud) == json!({"fw": "2.0"})).then_some(()));
    // Without a restart, too.
    let mut client = listening(&cloud, &router);
    cloud.hub.set_offline(true);
    until("the cloud to be away", || (router.status()["uplinks"][0]["state"] != "up").then_some(()));
    report(&mut client, 3, &json!({"fw": "2.1"}));
    client.disconnect();
    cloud.hub.set_offline(false);
    until("this, too", || (reported(&cloud) == json!({"fw": "2.1"})).then_some(()));
    assert_eq!(cloud.hub.violations(), []);
}
