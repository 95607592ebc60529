//! The way upstream over TLS: to Debian's mosquitto, which asks for our certificate, and to those whom we do not believe.

use std::fs;

use harness::foreign::Mosquitto;
use harness::{Authority, Client, Connection, Identity, Router, Setup, Version, until, v5};

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
