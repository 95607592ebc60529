//! The way upstream over TLS: to Debian's mosquitto, which asks for our certificate, and to those whom we do not believe.

use std::fs;

use harness::foreign::Mosquitto;
use harness::{
    Authority, Client, Connection, Identity, QOS_1, Recorder, Router, Setup, TlsFront, Version, run, until,
    v5,
};

use crate::cloud::Cloud;

const ROUTE: &str = r#"FROM "factory/#" INTO $upstream"#;

fn gateway(upstream: &Mosquitto, authority: &Authority, own: &Identity) -> Setup {
    Setup::new()
        .set("uplink.plant.url", format!("mqtts://{}", upstream.address()))
        .set("uplink.plant.ca", authority.file().display())
        .set("uplink.plant.cert", own.cert.display())
        .set("uplink.plant.key", own.key.display())
        .set("uplink.plant.backoff_min_ms", 20)
        .set("uplink.plant.backoff_max_ms", 100)
        .set("routes.all", ROUTE)
}

fn subscriber(upstream: &Mosquitto, authority: &Authority, own: &Identity) -> Client {
    let connection = Connection::open_tls(upstream.address(), Version::V5, &authority.trust(Some(own)));
    let client = Client::over(connection.expect("mosquitto takes us"), &v5("subscriber"));
    let mut client = client.expect("a CONNACK");
    client.subscribe("factory/#", harness::QOS_1);
    client
}

#[track_caller]
fn wait_for_error(router: &Router, words: &str) {
    until(&format!("the status to say {words:?}"), || {
        let error = router.status()["uplinks"][0]["last_error"].as_str().unwrap_or_default().to_owned();
        error.contains(words).then_some(())
    });
}

#[test]
fn mosquitto_takes_messages_over_tls_from_a_client_with_a_certificate() {
    let authority = Authority::new();
    let upstream = Mosquitto::start_tls(&authority, &authority.server("plant", &["plant.example"], 30));
    let own = authority.client("gateway", 7);
    let mut subscriber = subscriber(&upstream, &authority, &own);
    let router = gateway(&upstream, &authority, &own).start();
    let numbers = || (0..500).map(|number| number.to_string());
    router.connect(&v5("publisher")).publish_all("factory/a", numbers());
    assert_eq!(subscriber.texts(500), numbers().collect::<Vec<_>>());
    until("an empty lane", || (router.backlog() == 0).then_some(()));
}

#[test]
fn who_is_not_believed_gets_nothing_until_its_authority_is_named_without_a_restart() {
    let (authority, other) = (Authority::new(), Authority::new());
    let upstream = Mosquitto::start_tls(&authority, &authority.server("plant", &["plant.example"], 30));
    let own = authority.client("gateway", 7);
    let mut subscriber = subscriber(&upstream, &authority, &own);
    let ca = other.home().join("believed.pem");
    fs::copy(other.file(), &ca).expect("a file");
    let router = gateway(&upstream, &authority, &own).set("uplink.plant.ca", ca.display()).start();
    router.connect(&v5("publisher")).publish_all("factory/a", ["kept"]);
    wait_for_error(&router, "uplink.plant.ca");
    assert_eq!(router.backlog(), 1);
    fs::copy(authority.file(), &ca).expect("a file");
    assert_eq!(subscriber.texts(1), ["kept"]);
    until("an empty lane", || (router.backlog() == 0).then_some(()));
}

#[test]
fn a_gateway_without_the_certificate_that_is_wanted_says_so() {
    let authority = Authority::new();
    let upstream = Mosquitto::start_tls(&authority, &authority.server("plant", &["plant.example"], 30));
    let router = Setup::new()
        .set("uplink.plant.url", format!("mqtts://{}", upstream.address()))
        .set("uplink.plant.ca", authority.file().display())
        .set("routes.all", ROUTE)
        .start();
    wait_for_error(&router, "uplink.plant.cert");
}

#[test]
fn a_file_that_is_missing_stops_the_start() {
    let setup = Setup::new()
        .set("uplink.plant.url", "mqtts://127.0.0.1:1")
        .set("uplink.plant.ca", "/nonexistent/ca.pem")
        .set("routes.all", ROUTE);
    let (code, log) = setup.fail_to_start();
    assert_ne!(code, Some(0));
    assert!(log.contains("uplink.plant.ca") && log.contains("/nonexistent/ca.pem"), "{log}");
}

/// Without `ca` the authorities of the system are believed, which OpenSSL's variable names here.
#[test]
fn the_systems_authorities_are_believed_and_the_name_is_asked_for() {
    let (upstream, authority) = (Recorder::start(), Authority::new());
    let front = TlsFront::to(upstream.address(), &authority.server("plant", &["localhost"], 30));
    let setup = |host: &str, ca: &std::path::Path| {
        Setup::new()
            .uplink(front.address(), Version::V5)
            .set("uplink.plant.url", format!("mqtts://{host}:{}", front.address().port()))
            .set("routes.all", ROUTE)
            .env("SSL_CERT_FILE", ca)
    };
    let router = setup("localhost", &authority.file()).start();
    router.connect(&v5("publisher")).publish("factory/a", "0", QOS_1);
    assert_eq!(upstream.wait_for(1)[0].text(), "0");
    assert_eq!(front.names()[0].as_deref(), Some("localhost"), "SNI");
    drop(router);
    // Whom the system does not know is not believed.
    let router = setup("localhost", &Authority::new().file()).start();
    wait_for_error(&router, "uplink.plant.ca");
    assert_eq!(upstream.connects(), 1);
}

#[test]
fn an_insecure_uplink_is_loud_in_log_and_status_whatever_its_kind() {
    let (upstream, authority, cloud) = (Recorder::start(), Authority::new(), Cloud::start());
    let front = TlsFront::to(upstream.address(), &authority.server("other", &["other.example"], 30));
    let plain = Setup::new()
        .uplink(front.address(), Version::V5)
        .set("uplink.plant.url", format!("mqtts://{}", front.address()))
        .set("routes.all", ROUTE);
    let connection_string = cloud.hub.connection_string("gw1").expect("it has a key");
    let hub = Setup::new()
        .set("gateway.name", "gw1")
        .set("uplink.cloud.kind", "iothub")
        .set("uplink.cloud.url", format!("mqtts://{}:{}", cloud.hub.host(), cloud.hub.mqtt_address().port()))
        .set("uplink.cloud.connection_string", format!("\"{connection_string}\""))
        .set("uplink.cloud.insecure", true)
        .set("routes.all", ROUTE);
    for setup in [plain.set("uplink.plant.insecure", true), hub] {
        let router = setup.start();
        until("the uplink to be up", || (router.status()["uplinks"][0]["state"] == "up").then_some(()));
        assert_eq!(router.status()["uplinks"][0]["insecure"], true);
        let shown = run(&["status", "--http", &router.http().to_string()]).expect(0).out;
        assert!(shown.contains("insecure: whoever answers is believed"), "{shown}");
        let log = router.log();
        assert!(log.contains("insecure: whoever answers is believed"), "{log}");
    }
    let router = Setup::new().uplink(upstream.address(), Version::V5).set("routes.all", ROUTE).start();
    assert_eq!(router.status()["uplinks"][0]["insecure"], false);
}
