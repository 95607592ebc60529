//! Messages of the cloud: completed when their device has acknowledged them, given back when it has not, given once when only
//! the way to the cloud has failed.

use harness::azure::{Cloud, DEVICE};
use harness::{Client, Connection, QOS_1, Router, Version, until};
use iothub::CloudMessage;

use crate::runtime::{hello, setup, trust};

const FILTER: &str = "devices/d1/messages/devicebound/#";

fn start(cloud: &Cloud) -> Router {
    setup(cloud)
        .set("uplink.upstream.kind", "iothub")
        .set("uplink.upstream.backoff_min_ms", 20)
        .set("uplink.upstream.backoff_max_ms", 500)
        .start()
}

/// A device that acknowledges when the test wants it.
fn device(cloud: &Cloud, router: &Router) -> Client {
    let connection =
        Connection::open_tls(router.listener("tls"), Version::V3, &trust(cloud)).expect("a handshake");
    let mut connect = hello(cloud, DEVICE);
    connect.clean_start = false;
    let mut client = Client::over(connection, &connect).expect("a CONNACK").manual();
    client.subscribe(FILTER, QOS_1);
    client
}

fn send(cloud: &Cloud, text: &str) {
    let message = CloudMessage {
        message_id: text.to_owned(),
        body: text.as_bytes().to_vec(),
        ack: "full".to_owned(),
        ..CloudMessage::default()
    };
    cloud.hub.send_to_device(DEVICE, message);
}

fn feedback(cloud: &Cloud) -> Vec<(String, &'static str)> {
    cloud.hub.feedback().into_iter().map(|it| (it.original_message_id, it.description)).collect()
}

#[test]
fn a_message_is_completed_when_its_device_has_acknowledged_it() {
    let cloud = Cloud::start();
    let router = start(&cloud);
    let mut client = device(&cloud, &router);
    send(&cloud, "one");
    send(&cloud, "two");
    let (one, two) = (client.message(), client.message());
    assert_eq!((one.text(), two.text()), ("one", "two"));
    // The gateway has both, on its disk; that is not enough.
    client.ping();
    assert_eq!(feedback(&cloud), []);
    client.acknowledge(&two);
    until("the second", || (feedback(&cloud) == [("two".to_owned(), "Success")]).then_some(()));
    // It goes with the first unacknowledged: that comes again, once.
    client.vanish();
    let mut client = device(&cloud, &router);
    let again = client.message();
    assert_eq!(again.text(), "one");
    client.acknowledge(&again);
    until("the first", || (feedback(&cloud).len() == 2).then_some(()));
    assert_eq!(feedback(&cloud)[1], ("one".to_owned(), "Success"));
    send(&cloud, "three");
    let third = client.message();
    assert_eq!(third.text(), "three", "nothing came twice");
    client.acknowledge(&third);
    until("the third", || (feedback(&cloud).len() == 3).then_some(()));
}

#[test]
fn a_message_that_its_device_has_is_not_given_twice_when_the_link_is_lost() {
    let cloud = Cloud::start();
    let router = start(&cloud);
    let mut client = device(&cloud, &router);
    send(&cloud, "one");
    send(&cloud, "two");
    let (one, two) = (client.message(), client.message());
    let number = || cloud.hub.connections().iter().find(|it| it.id == DEVICE).map(|it| it.number);
    let first = number();
    assert!(cloud.hub.disconnect(DEVICE));
    client.acknowledge(&one);
    until("a new link", || number().filter(|number| Some(*number) != first));
    until("the first", || (feedback(&cloud) == [("one".to_owned(), "Success")]).then_some(()));
    client.acknowledge(&two);
    until("the second", || (feedback(&cloud).len() == 2).then_some(()));
    send(&cloud, "three");
    assert_eq!(client.message().text(), "three", "nothing came twice");
}

#[test]
fn a_message_outlives_the_gateway() {
    let cloud = Cloud::start();
    let mut router = start(&cloud);
    let mut client = device(&cloud, &router);
    send(&cloud, "one");
    assert_eq!(client.message().text(), "one");
    router.kill();
    assert_eq!(feedback(&cloud), []);
    router.start_again();
    let mut client = device(&cloud, &router);
    // From the session, from the cloud, or from both.
    let again = client.message();
    assert_eq!(again.text(), "one");
    client.acknowledge(&again);
    while feedback(&cloud).is_empty() {
        if let Some(more) = client.message_within(std::time::Duration::from_millis(50)) {
            assert_eq!(more.text(), "one");
            client.acknowledge(&more);
        }
    }
    assert_eq!(feedback(&cloud), [("one".to_owned(), "Success")]);
}
