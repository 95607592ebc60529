//! Compression between Millrace and Millrace: smaller on the way, the same on arrival, and no way in for bombs.

use std::path::{Path, PathBuf};

use harness::{BlockBuilder, OutgoingPublish, QOS_1, Recorder, Router, Setup, Version, until, v5};

const ROUTE: &str = r#"FROM "factory/#" INTO $upstream"#;

fn payload(number: usize) -> String {
    format!(
        r#"{{"device":"press7","sequence":{number},"temperature":{}.5,"state":"running","unit":"celsius","note":"telemetry of the press line"}}"#,
        20 + number % 60
    )
    .repeat(3)
}

fn plant() -> Router {
    Setup::new().set("listener.tcp.accept_zstd", true).start()
}

fn gateway(address: std::net::SocketAddr) -> Setup {
    Setup::new()
        .uplink(address, Version::V5)
        .set("uplink.plant.compression", "zstd")
        .set("uplink.plant.id_property", "")
        .set("routes.all", ROUTE)
}

#[test]
fn what_is_packed_arrives_as_it_was_published() {
    let plant = plant();
    let mut subscriber = plant.connect(&v5("subscriber"));
    subscriber.subscribe("factory/#", QOS_1);
    let router = gateway(plant.address()).start();
    let mut publisher = router.connect(&v5("publisher"));
    let mut block = BlockBuilder::new();
    block.content_type("application/json").and_then(|it| it.user("tenant", "north")).expect("short");
    let properties = block.into_bytes();
    for number in 0..100 {
        let payload = payload(number);
        publisher.publish_with(&OutgoingPublish {
            topic: "factory/a",
            payload: payload.as_bytes(),
            qos: QOS_1,
            properties: &properties,
            ..Default::default()
        });
    }
    for (number, message) in subscriber.messages(100).iter().enumerate() {
        assert_eq!(message.text(), payload(number));
        assert_eq!(message.properties().content_type(), Some("application/json"));
        assert_eq!(message.properties().user_properties().collect::<Vec<_>>(), [("tenant", "north")]);
    }
    until("an empty lane", || (router.backlog() == 0).then_some(()));
}

#[test]
fn it_is_smaller_on_the_way_and_says_so() {
    let upstream = Recorder::start();
    let router = gateway(upstream.address()).start();
    router.connect(&v5("publisher")).publish_all("factory/a", (0..20).map(payload));
    for (number, message) in upstream.wait_for(20).iter().enumerate() {
        let announced = message.properties().user_properties().find(|(name, _)| *name == "content-encoding");
        assert_eq!(announced, Some(("content-encoding", "zstd")));
        assert!(message.payload.len() * 2 < payload(number).len(), "{} bytes", message.payload.len());
    }
}

#[test]
fn a_bomb_is_refused_and_counted_and_the_rest_goes_on() {
    let plant = plant();
    let mut client = plant.connect(&v5("liar"));
    let mut block = BlockBuilder::new();
    block.user("content-encoding", "zstd").expect("short");
    let properties = block.into_bytes();
    // A frame that says it has 2 GiB.
    let bomb = [0x28, 0xB5, 0x2F, 0xFD, 0xA0, 0, 0, 0, 0x80, 1, 0, 0];
    client.send(&OutgoingPublish {
        topic: "factory/a",
        payload: &bomb,
        qos: QOS_1,
        properties: &properties,
        ..Default::default()
    });
    plant.wait_for_refusals("tcp", "compression", 1);
    let mut subscriber = plant.connect(&v5("subscriber"));
    subscriber.subscribe("factory/#", QOS_1);
    plant.connect(&v5("honest")).publish("factory/a", "plain", QOS_1);
    assert_eq!(subscriber.message().text(), "plain");
}

#[test]
fn a_dictionary_that_is_none_stops_the_start() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("dictionary");
    std::fs::write(&path, b"not a dictionary").expect("a file");
    let setup = Setup::new()
        .set("listener.tcp.accept_zstd", true)
        .set("listener.tcp.zstd_dictionary", path.display());
    let (code, log) = setup.fail_to_start();
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("zstd_dictionary") && log.contains("zstd --train"), "{log}");
}

/// A dictionary of one kilobyte, as `zstd --train --maxdict=1024` makes it of a few hundred messages.
fn dictionary(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("it/dictionaries/{name}.zdict"))
}

/// Too small to be packed without knowing what it looks like.
fn short(number: usize) -> String {
    format!(
        r#"{{"device":"press7","sequence":{number},"temperature":{}.5,"state":"running","unit":"celsius","note":"telemetry of the press line"}}"#,
        20 + number % 60
    )
}

#[test]
fn with_a_shared_dictionary_small_messages_are_smaller_and_arrive_the_same() {
    let bytes_of = |setup: fn(Setup) -> Setup| {
        let upstream = Recorder::start();
        let router = setup(gateway(upstream.address())).start();
        router.connect(&v5("publisher")).publish_all("factory/a", (0..20).map(short));
        upstream.wait_for(20).iter().map(|message| message.payload.len()).sum::<usize>()
    };
    let with_dictionary =
        |setup: Setup| setup.set("uplink.plant.compression_dictionary", dictionary("telemetry").display());
    let (without, with) = (bytes_of(|setup| setup), bytes_of(with_dictionary));
    assert!(with * 3 < without, "{with} bytes instead of {without}");

    let plant = Setup::new()
        .set("listener.tcp.accept_zstd", true)
        .set("listener.tcp.zstd_dictionary", dictionary("telemetry").display())
        .start();
    let mut subscriber = plant.connect(&v5("subscriber"));
    subscriber.subscribe("factory/#", QOS_1);
    let router = with_dictionary(gateway(plant.address())).start();
    router.connect(&v5("publisher")).publish_all("factory/a", (0..20).map(short));
    assert_eq!(subscriber.texts(20), (0..20).map(short).collect::<Vec<_>>());
}

#[test]
fn with_different_dictionaries_nothing_wrong_arrives_and_nothing_is_lost() {
    let plant = Setup::new()
        .set("listener.tcp.accept_zstd", true)
        .set("listener.tcp.zstd_dictionary", dictionary("readings").display())
        .start();
    let mut subscriber = plant.connect(&v5("subscriber"));
    subscriber.subscribe("factory/#", QOS_1);
    let router = gateway(plant.address())
        .set("uplink.plant.compression_dictionary", dictionary("telemetry").display())
        .set("uplink.plant.attempts_max", 2)
        .start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("factory/a", short(0), QOS_1);
    publisher.publish("factory/a", "plain", QOS_1);
    plant.wait_for_refusals("tcp", "compression", 1);
    assert_eq!(subscriber.message().text(), "plain", "too short to be packed");
    router.wait_for("/uplinks/0/poisoned", 1);
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    assert_eq!(router.number("/uplinks/0/dropped"), 0);
}
