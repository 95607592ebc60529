//! What keeps a gateway out of IoT Hub: each mistake has its own sentence in log and status, with what to do; messages wait,
//! and nobody is hammered.

use std::path::PathBuf;

use harness::azure::free_address;
use harness::{QOS_1, Router, Setup, World, until, v5};
use iothub::{Authentication, Authority, Certificate, Config, Faults, Identity, random_key};

use crate::cloud::Cloud;

#[track_caller]
fn expect(router: &Router, place: &str, words: &[&str]) -> String {
    let said = until(&format!("the status to say {words:?}"), || {
        let text = router.status()["uplinks"][0][place].as_str().unwrap_or_default().to_owned();
        words.iter().all(|words| text.contains(words)).then_some(text)
    });
    let log = router.log();
    assert!(words.iter().all(|words| log.contains(words)), "{log}");
    said
}

#[track_caller]
fn expect_error(router: &Router, words: &[&str]) -> String {
    expect(router, "last_error", words)
}

/// The gateway as an identity with this key.
fn with_key(cloud: &Cloud, device: &str, key: &str) -> Setup {
    let setup = cloud.setup().set("uplink.cloud.hub", cloud.hub.host()).set("uplink.cloud.device", device);
    setup.set("uplink.cloud.shared_access_key", format!("\"{key}\""))
}

#[test]
fn a_wrong_key() {
    let cloud = Cloud::start();
    let router = with_key(&cloud, "gw1", &random_key()).start();
    router.connect(&v5("press7")).publish("site/a", "kept", QOS_1);
    let said = expect_error(
        &router,
        &["(1) wrong key: compare it with both keys of gw1 in localhost", "uplink.cloud.shared_access_key"],
    );
    assert!(said.contains("Not the cause: the host name"), "{said}");
    assert_eq!(router.backlog(), 1);
}

#[test]
fn an_unknown_device() {
    let cloud = Cloud::start();
    let router = with_key(&cloud, "nobody", &random_key()).start();
    expect_error(&router, &["unknown: there is no nobody in localhost; create it there"]);
}

#[test]
fn a_device_that_is_disabled_while_it_is_in() {
    let cloud = Cloud::start();
    let router = cloud.gateway().start();
    router.connect(&v5("press7")).publish("site/a", "0", QOS_1);
    cloud.wait_for(1);
    cloud.hub.set_enabled("gw1", false);
    expect_error(
        &router,
        &[
            "(1) a change there: gw1 was let in until now",
            "disabled: gw1 is disabled in localhost; enable it there",
        ],
    );
    router.connect(&v5("press7")).publish("site/a", "1", QOS_1);
    cloud.hub.set_enabled("gw1", true);
    cloud.wait_for(2);
}

#[test]
fn another_hub_than_the_one_that_tokens_are_for() {
    let cloud = Cloud::start();
    let router = with_key(&cloud, "gw1", &random_key()).set("uplink.cloud.hub", "plant.example").start();
    expect_error(
        &router,
        &[
            "(1) wrong host name: tokens and user name are for plant.example",
            "a certificate for 127.0.0.1, localhost",
            "mend uplink.cloud.hub",
        ],
    );
}

/// The upgrade to WebSocket tells what time it is there.
#[test]
fn a_clock_that_is_behind_over_websocket() {
    let cloud = Cloud::start();
    cloud.hub.set_clock_skew(100_000);
    let url = format!("wss://localhost:{}", cloud.hub.https_address().port());
    let router = cloud.gateway().set("uplink.cloud.url", url).start();
    expect_error(&router, &["this machine's clock is 27 h behind the hub's", "set the clock here"]);
    cloud.hub.set_clock_skew(0);
    router.connect(&v5("press7")).publish("site/a", "0", QOS_1);
    cloud.wait_for(1);
}

/// Over port 8883 nobody says what time it is; port 443 of the same host is asked.
#[test]
fn a_clock_that_is_behind_over_mqtt() {
    let cloud = Cloud::with(Config::at(free_address()));
    cloud.hub.set_clock_skew(100_000);
    let router = cloud.gateway().start();
    expect_error(&router, &["this machine's clock is 27 h behind the hub's", "set the clock here"]);
    // Asked once, however often we are refused.
    until("more refusals", || {
        let events = cloud.hub.events();
        (events.iter().filter(|it| it.kind == "refused").count() >= 4).then_some(())
    });
    let asked = cloud.hub.events().iter().filter(|it| it.kind.starts_with("rest")).count();
    assert_eq!(asked, 1);
}

#[test]
fn a_clock_that_is_right_is_not_suspected() {
    let cloud = Cloud::with(Config::at(free_address()));
    let router = with_key(&cloud, "gw1", &random_key()).start();
    let said = expect_error(&router, &["Not the cause: the clock (the other end's says the same)"]);
    assert!(!said.contains("wrong clock"), "{said}");
}

#[test]
fn a_certificate_that_the_hub_does_not_know() {
    let cloud = Cloud::start();
    let known = Authentication::SelfSigned {
        primary_thumbprint: Authority::new("Other").client("x1").thumbprint(),
        secondary_thumbprint: String::new(),
    };
    cloud.hub.put(Identity::device("x1").with(known)).expect("an identity");
    let router = certified(&cloud, &Authority::new("Devices").client("x1")).start();
    expect_error(
        &router,
        &["wrong certificate: localhost does not have its thumbprint", "uplink.cloud.cert"],
    );
}

#[test]
fn a_certificate_of_ours_that_has_expired() {
    check_own_certificate((-9, -2), &["has expired: it ended", "renew it, or set the clock"]);
}

#[test]
fn a_certificate_of_ours_that_is_not_valid_yet() {
    let words = ["is not valid yet: it begins", "set the clock, or take one that is valid by now"];
    check_own_certificate((2, 9), &words);
}

/// With a certificate that is good between these days from now the gateway stays out, says so, and asks more and more rarely;
/// with a good one in the same files it comes in, without a restart.
#[track_caller]
fn check_own_certificate((begins, ends): (i64, i64), words: &[&str]) {
    let cloud = Cloud::start();
    cloud.hub.put(Identity::device("x1").with(Authentication::CertificateAuthority)).expect("an identity");
    let authority = Authority::new("Devices");
    cloud.hub.trust(&authority.pem());
    let days = time::Duration::days;
    let router = certified(&cloud, &authority.client_between("x1", days(begins), days(ends)))
        .set("uplink.cloud.backoff_min_ms", 40)
        .set("uplink.cloud.backoff_max_ms", 10_000)
        .start();
    router.connect(&v5("press7")).publish("site/a", "kept", QOS_1);
    expect_error(&router, &["our client certificate uplink.cloud.cert = "]);
    expect_error(&router, words);
    expect_rarer(&cloud, 5);
    assert_eq!(router.backlog(), 1);
    store_certificate(&cloud, &authority.client("x1"));
    cloud.wait_for(1);
}

/// The key of the configuration that is named is the one to mend.
#[test]
fn a_certificate_of_a_child_that_is_not_valid_yet() {
    let cloud = Cloud::start();
    let child = Identity::device("x1").below("gw1").with(Authentication::CertificateAuthority);
    cloud.hub.put(child).expect("an identity");
    let authority = Authority::new("Devices");
    cloud.hub.trust(&authority.pem());
    let days = time::Duration::days;
    let (cert, key) = store_certificate(&cloud, &authority.client_between("x1", days(2), days(9)));
    let router = cloud
        .edge()
        .set("uplink.cloud.attempts_max", 1_000)
        .set("uplink.cloud.identity.x1.cert", cert.display())
        .set("uplink.cloud.identity.x1.key", key.display())
        .start();
    router.connect(&v5("press7")).publish("devices/x1/messages/events/", "kept", QOS_1);
    expect(
        &router,
        "warning",
        &["our client certificate uplink.cloud.identity.\"x1\".cert", "is not valid yet"],
    );
    store_certificate(&cloud, &authority.client("x1"));
    cloud.wait_for(1);
}

/// Puts a certificate where that of `x1` is; chain and key.
fn store_certificate(cloud: &Cloud, issued: &iothub::Issued) -> (PathBuf, PathBuf) {
    let files = (cloud.home.path().join("x1.cert.pem"), cloud.home.path().join("x1.key.pem"));
    for (file, text) in [(&files.0, &issued.certificate), (&files.1, &issued.key)] {
        // At once: half of one is another mistake.
        let new = file.with_extension("new");
        std::fs::write(&new, text).expect("a file");
        std::fs::rename(&new, file).expect("a file");
    }
    files
}

/// The gateway as device `x1` with a certificate.
pub(crate) fn certified(cloud: &Cloud, issued: &iothub::Issued) -> Setup {
    let (cert, key) = store_certificate(cloud, issued);
    let setup = cloud.setup().set("uplink.cloud.hub", "localhost").set("uplink.cloud.device", "x1");
    setup.set("uplink.cloud.cert", cert.display()).set("uplink.cloud.key", key.display())
}

#[test]
fn a_device_that_stands_below_another_gateway() {
    let cloud = Cloud::start();
    cloud.hub.put(Identity::gateway("gw2")).expect("an identity");
    cloud.hub.put(Identity::device("d7").below("gw2")).expect("an identity");
    let router = cloud.edge().set("uplink.cloud.attempts_max", 1_000).start();
    router.connect(&v5("press7")).publish("devices/d7/messages/events/", "kept", QOS_1);
    expect(
        &router,
        "warning",
        &["(1) no child: d7 does not stand below gw1", "clock and host name (the gateway itself is in)"],
    );
    assert_eq!(router.status()["uplinks"][0]["state"], "up");
    // As soon as it does, its message goes.
    cloud.hub.put(Identity::device("d7").below("gw1")).expect("an identity");
    cloud.wait_for(1);
}

#[test]
fn a_host_that_has_no_address() {
    let (cloud, world) = (Cloud::start(), World::new());
    world.set_name("nowhere.invalid", None);
    let router =
        world.around(cloud.gateway().set("uplink.cloud.url", "mqtts://nowhere.invalid:8883")).start();
    expect_error(&router, &["nowhere.invalid has no address", "DNS"]);
}

#[track_caller]
fn check_certificate(certificate: Certificate, words: &[&str]) {
    let cloud = Cloud::start();
    cloud.hub.show(certificate);
    let router = cloud.gateway().start();
    router.connect(&v5("press7")).publish("site/a", "kept", QOS_1);
    expect_error(&router, words);
    assert_eq!(router.backlog(), 1);
    cloud.hub.show(Certificate::Good);
    cloud.wait_for(1);
}

#[test]
fn a_certificate_for_another_name() {
    check_certificate(Certificate::WrongName, &["its certificate is for", "uplink.cloud.server_name"]);
}

#[test]
fn a_certificate_that_has_expired() {
    check_certificate(Certificate::Expired, &["its certificate has expired", "set the clock"]);
}

#[test]
fn a_certificate_that_is_not_valid_yet() {
    check_certificate(Certificate::NotYetValid, &["its certificate is not valid yet", "set the clock"]);
}

#[test]
fn a_certificate_of_an_unknown_authority() {
    check_certificate(Certificate::Stranger, &["an authority that is not believed here", "uplink.cloud.ca"]);
}

/// `insecure` is for trials, and cannot be overlooked.
#[test]
fn whoever_is_believed_without_a_proof_is_named_in_log_and_status() {
    let cloud = Cloud::start();
    cloud.hub.show(Certificate::Stranger);
    let router = Setup::new()
        .set("uplink.cloud.kind", "iothub")
        .set(
            "uplink.cloud.connection_string",
            format!("\"{}\"", cloud.hub.connection_string("gw1").expect("a key")),
        )
        .set("uplink.cloud.url", format!("mqtts://{}:{}", cloud.hub.host(), cloud.hub.mqtt_address().port()))
        .set("uplink.cloud.insecure", true)
        .set("routes.plain", r#"FROM "site/#" INTO $upstream"#)
        .start();
    router.connect(&v5("press7")).publish("site/a", "0", QOS_1);
    cloud.wait_for(1);
    let status = router.status()["uplinks"][0].clone();
    assert_eq!((&status["state"], &status["insecure"]), (&"up".into(), &true.into()));
    assert!(status["certificate_days"].is_i64(), "{status}");
    let log = router.log();
    assert!(log.contains("insecure: whoever answers is believed"), "{log}");
}

#[test]
fn whoever_is_refused_comes_back_more_and_more_rarely() {
    let cloud = Cloud::start();
    cloud.hub.set_faults(None, Faults { refuse_connect: Some(3), ..Faults::default() });
    let _router = cloud
        .gateway()
        .set("uplink.cloud.backoff_min_ms", 40)
        .set("uplink.cloud.backoff_max_ms", 10_000)
        .start();
    expect_rarer(&cloud, 7);
}

/// So many refusals, each later than the one before, with 40 ms for the first wait.
#[track_caller]
fn expect_rarer(cloud: &Cloud, count: usize) {
    let refused = || {
        let events = cloud.hub.events();
        events.iter().filter(|it| it.kind == "refused").map(|it| it.at_ms).collect::<Vec<_>>()
    };
    let at = until("refusals", || Some(refused()).filter(|at| at.len() >= count));
    // Half of 40 · 2ⁿ ms at least.
    for (number, pair) in at.windows(2).enumerate() {
        let least = 20 << number;
        assert!(pair[1] - pair[0] + 1 >= least, "{} ms after refusal {number}", pair[1] - pair[0]);
    }
}
