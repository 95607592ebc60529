//! A gateway of IoT Edge that is alone: devices and modules of a local file connect with tokens and certificates, and
//! nobody acts for another.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use harness::{
    Authority, Client, Connection, Identity, QOS_0, QOS_1, ReasonCode, Router, Setup, Trust, Version, run,
    until, v3,
};
use wire::Connect;

/// A gateway with its identity file and its certificate.
pub(crate) struct Gateway {
    authority: Authority,
    home: tempfile::TempDir,
    server: Identity,
}

const HOST: &str = "gw.local";

impl Gateway {
    /// `gw1` with the module `filter` and the devices `d1`, `d2`.
    pub(crate) fn new() -> Gateway {
        let authority = Authority::new();
        let server = authority.server("gateway", &[HOST], 90);
        let gateway = Gateway { authority, home: tempfile::tempdir().expect("a directory"), server };
        for id in ["gw1", "gw1/filter", "d1", "d2"] {
            let edge: &[&str] = if id == "gw1" { &["--edge"] } else { &[] };
            gateway.identity(&[&["create", id], edge].concat());
        }
        gateway
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.home.path().join("identities.json")
    }

    /// `millrace identity …`: what it prints.
    #[track_caller]
    pub(crate) fn identity(&self, arguments: &[&str]) -> String {
        let file = self.file().display().to_string();
        let done = run(&[&["identity", "--file", &file], arguments].concat());
        assert_eq!(done.code, Some(0), "{}", done.err);
        done.out.trim().to_owned()
    }

    pub(crate) fn setup(&self) -> Setup {
        Setup::new()
            .set("auth.anonymous", false)
            .set("auth.acl_default", "deny")
            .set("edge.device_id", "gw1")
            .set("edge.host_name", HOST)
            .set("edge.identities", self.file().display())
            .set("edge.cert", self.server.cert.display())
            .set("edge.key", self.server.key.display())
            .set("edge.trust_bundle", self.authority.file().display())
            .set("listener.tls.bind", "127.0.0.1:0")
            .set("listener.tls.certificate", "edge")
            .set("listener.tls.identities", "iothub")
            .set("listener.wss.bind", "127.0.0.1:0")
            .set("listener.wss.certificate", "edge")
            .set("listener.wss.identities", "iothub")
    }

    pub(crate) fn token(&self, id: &str) -> String {
        self.identity(&["token", id, "--host", HOST])
    }

    pub(crate) fn trust(&self) -> Trust {
        self.authority.trust(None)
    }

    /// CONNECT through TLS; what CONNACK says is in the client's greeting.
    #[track_caller]
    pub(crate) fn try_connect(&self, router: &Router, trust: &Trust, connect: &Connect) -> Client {
        let connection =
            Connection::open_tls(router.listener("tls"), Version::V3, trust).expect("a handshake");
        Client::over(connection, connect).expect("a CONNACK")
    }

    #[track_caller]
    pub(crate) fn connect(&self, router: &Router, id: &str) -> Client {
        let client = self.try_connect(router, &self.trust(), &hello(id, Some(&self.token(id))));
        assert_eq!(client.greeting.reason, ReasonCode::SUCCESS, "{id}");
        client
    }
}

/// A CONNECT as an SDK sends it.
pub(crate) fn hello(id: &str, token: Option<&str>) -> Connect {
    let mut connect = v3(id);
    connect.user_name = Some(format!("{HOST}/{id}/?api-version=2021-04-12&DeviceClientType=test%2F1"));
    connect.password = token.map(|token| token.as_bytes().to_vec());
    connect
}

#[test]
fn devices_and_modules_come_in_with_their_tokens_over_tls_and_websocket() {
    let gateway = Gateway::new();
    let router = gateway.setup().start();
    for id in ["d1", "d2", "gw1/filter"] {
        gateway.connect(&router, id).ping();
        let connection = Connection::open_wss(router.listener("wss"), Version::V3, &gateway.trust());
        let connect = hello(id, Some(&gateway.token(id)));
        let client = Client::over(connection.expect("a WebSocket"), &connect).expect("a CONNACK");
        assert_eq!(client.greeting.reason, ReasonCode::SUCCESS, "{id}");
    }
    // The device's token is good for its module.
    let own = gateway.identity(&["token", "gw1", "--host", HOST]);
    let client = gateway.try_connect(&router, &gateway.trust(), &hello("gw1/filter", Some(&own)));
    assert_eq!(client.greeting.reason, ReasonCode::SUCCESS);
}

#[test]
fn who_is_not_who_it_says_stays_out_with_edgehubs_codes() {
    let gateway = Gateway::new();
    let router = gateway.setup().start();
    let (good, other) = (gateway.token("d1"), gateway.token("d2"));
    let elsewhere = gateway.identity(&["token", "d1", "--host", "other.example"]);
    let mut foreign = hello("d1", Some(&good));
    foreign.client_id = "d2".to_owned();
    let mut odd = hello("d1", Some(&good));
    odd.user_name = Some(format!("{HOST}/d1/fooBar"));
    let refused = ReasonCode::NOT_AUTHORIZED;
    for (what, connect, reason) in [
        ("the token of another", hello("d1", Some(&other)), refused),
        ("a token for another host", hello("d1", Some(&elsewhere)), refused),
        ("no token", hello("d1", None), refused),
        ("nonsense", hello("d1", Some("password")), refused),
        ("the client identifier of another", foreign, refused),
        ("nobody", hello("nobody", Some(&good)), refused),
        ("a user name that is none", odd, ReasonCode::SERVER_UNAVAILABLE),
    ] {
        let client = gateway.try_connect(&router, &gateway.trust(), &connect);
        assert_eq!(client.greeting.reason, reason, "{what}");
    }
    until("nobody to be left", || (router.number("/clients") == 0).then_some(()));
    let (_, metrics) = router.get("/metrics");
    let failed = "edgehub_client_connect_failed_total{iothub=\"\",edge_device=\"gw1\",";
    assert!(metrics.contains(failed) && metrics.contains("reason=\"host\""), "{metrics}");
    // What a token is may be said, what one says not.
    assert!(!router.log().contains("&sig=") && !router.log().contains("sr="), "{}", router.log());
}

#[test]
fn certificates_of_devices_count_by_authority_and_by_thumbprint() {
    let gateway = Gateway::new();
    let stranger = Authority::new();
    let mine = gateway.authority.client("c1", 7);
    let theirs = stranger.client("c1", 8);
    gateway.identity(&["create", "c1", "--authority"]);
    let thumbprint = sha256_of(&theirs);
    gateway.identity(&["create", "c2", "--thumbprint", &thumbprint]);
    let router = gateway.setup().start();
    let with = |identity: &Identity| gateway.authority.trust(Some(identity));
    for (id, identity, reason) in [
        ("c1", &mine, ReasonCode::SUCCESS),
        ("c1", &theirs, ReasonCode::NOT_AUTHORIZED),
        ("c2", &theirs, ReasonCode::SUCCESS),
        ("c2", &mine, ReasonCode::NOT_AUTHORIZED),
        ("d1", &mine, ReasonCode::NOT_AUTHORIZED),
    ] {
        for trust in [with(identity).tls_1_2(), with(identity).tls_1_3()] {
            let client = gateway.try_connect(&router, &trust, &hello(id, None));
            assert_eq!(client.greeting.reason, reason, "{id} {trust:?}");
        }
    }
    // A certificate helps nobody who shows a token, and hinders nobody.
    let client = gateway.try_connect(&router, &with(&mine), &hello("d1", Some(&gateway.token("d1"))));
    assert_eq!(client.greeting.reason, ReasonCode::SUCCESS);
}

/// What IoT Hub calls the thumbprint.
fn sha256_of(identity: &Identity) -> String {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let certificate = CertificateDer::from_pem_file(&identity.cert).expect("a certificate");
    ring::digest::digest(&ring::digest::SHA256, &certificate)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn an_identity_that_is_disabled_or_deleted_goes_and_a_rotated_key_still_helps() {
    let gateway = Gateway::new();
    let router = gateway.setup().start();
    let (mut one, mut two) = (gateway.connect(&router, "d1"), gateway.connect(&router, "gw1/filter"));
    let mut three = gateway.connect(&router, "d2");
    let old = gateway.token("d2");
    gateway.identity(&["rotate", "d2"]);
    gateway.identity(&["disable", "d1"]);
    one.ending();
    gateway.identity(&["delete", "gw1/filter"]);
    two.ending();
    three.ping();
    for token in [&old, &gateway.token("d2")] {
        let client = gateway.try_connect(&router, &gateway.trust(), &hello("d2", Some(token)));
        assert_eq!(client.greeting.reason, ReasonCode::SUCCESS);
    }
    let token = gateway.token("d1");
    let client = gateway.try_connect(&router, &gateway.trust(), &hello("d1", Some(&token)));
    assert_eq!(client.greeting.reason, ReasonCode::NOT_AUTHORIZED);
    gateway.identity(&["enable", "d1"]);
    // The first one who asks makes the router look.
    gateway.connect(&router, "d1").ping();
}

/// As edgeHub does, with five minutes for clocks that differ: here a few seconds of them are left.
#[test]
fn a_connection_ends_when_the_token_it_came_with_is_over() {
    let gateway = Gateway::new();
    let router = gateway.setup().start();
    let mut other = gateway.connect(&router, "d2");
    let string = gateway.identity(&["show", "d1", "--host", HOST]);
    let key = string.split("SharedAccessKey=").nth(1).expect("a key");
    let mut client = until("it to come in", || {
        let expiry = SystemTime::now() - Duration::from_secs(295);
        let token = iothub::sas::token(HOST, "d1", None, key, expiry);
        let client = gateway.try_connect(&router, &gateway.trust(), &hello("d1", Some(&token)));
        (client.greeting.reason == ReasonCode::SUCCESS).then_some(client)
    });
    client.ending();
    let over = iothub::sas::token(HOST, "d1", None, key, SystemTime::now() - Duration::from_secs(301));
    let refused = gateway.try_connect(&router, &gateway.trust(), &hello("d1", Some(&over)));
    assert_eq!(refused.greeting.reason, ReasonCode::NOT_AUTHORIZED);
    other.ping();
}

#[test]
fn one_more_than_may_be_connected_is_refused_before_it_has_a_session() {
    let gateway = Gateway::new();
    let router = gateway.setup().set("edge.clients_max", 2).start();
    let (_one, two) = (gateway.connect(&router, "d1"), gateway.connect(&router, "d2"));
    let full = gateway.try_connect(
        &router,
        &gateway.trust(),
        &hello("gw1/filter", Some(&gateway.token("gw1/filter"))),
    );
    assert_eq!(full.greeting.reason, ReasonCode::SERVER_UNAVAILABLE);
    until("two sessions", || (router.number("/sessions") == 2).then_some(()));
    // Who comes again takes its own place.
    let again = gateway.connect(&router, "d1");
    two.disconnect();
    until("the place to be free", || {
        let token = gateway.token("gw1/filter");
        let client = gateway.try_connect(&router, &gateway.trust(), &hello("gw1/filter", Some(&token)));
        (client.greeting.reason == ReasonCode::SUCCESS).then_some(())
    });
    drop(again);
}

/// Never 7, over real sockets.
#[test]
fn a_device_has_its_own_topics_and_free_ones_by_policy_alone() {
    let gateway = Gateway::new();
    let router = gateway
        .setup()
        .set("auth.acl", "[\"allow user=d1 all plant/#\"]")
        .set("auth.denied_publish_v3", "disconnect")
        .start();
    let mut device = gateway.connect(&router, "d1");
    device.publish("devices/d1/messages/events/level=high", "x", QOS_1);
    device.subscribe("plant/#", QOS_0);
    device.publish("plant/d1", "free", QOS_1);
    assert_eq!(device.message().text(), "free");
    for (id, topic) in [
        ("d1", "devices/d2/messages/events/"),
        ("d1", "devices/gw1/modules/filter/messages/events/"),
        ("d2", "plant/d2"),
        ("gw1/filter", "devices/gw1/messages/events/"),
    ] {
        let mut client = gateway.connect(&router, id);
        let publish = harness::OutgoingPublish { topic, payload: b"x", qos: QOS_0, ..Default::default() };
        client.send(&publish);
        client.ending();
    }
    let mut other = gateway.connect(&router, "d2");
    let subscribe = |filter: &str| vec![wire::Subscription::new(filter, QOS_0)];
    for filter in ["#", "devices/d1/messages/devicebound/#", "devices/+/messages/devicebound/#", "plant/#"] {
        let codes = other.subscribe_with(subscribe(filter), None);
        assert!(codes.iter().all(|code| code.bits() >= 0x80), "{filter}: {codes:?}");
    }
    other.subscribe("devices/d2/messages/devicebound/#", QOS_1);
    other.subscribe("$iothub/methods/POST/#", QOS_0);
}

#[test]
fn keys_lie_on_the_disk_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let gateway = Gateway::new();
    let router = gateway.setup().start();
    let mode = |path: PathBuf| std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(gateway.file()), 0o600);
    assert_eq!(mode(router.store().join("edge")), 0o700);
    assert_eq!(mode(router.store().join("edge/vault.key")), 0o600);
    let list = gateway.identity(&["list"]);
    let key = gateway.identity(&["show", "d1", "--host", HOST]);
    let key = key.split("SharedAccessKey=").nth(1).expect("a key");
    assert!(list.contains("gw1") && !list.contains(key), "{list}");

    std::fs::set_permissions(gateway.file(), std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let (code, log) = gateway.setup().fail_to_start();
    assert_eq!(code, Some(2));
    assert!(log.contains("edge.identities") && log.contains("chmod 600"), "{log}");
}

#[test]
fn a_gateway_whose_certificate_cannot_be_had_does_not_start() {
    let gateway = Gateway::new();
    let (code, log) = gateway.setup().set("edge.cert", "/nowhere.pem").fail_to_start();
    assert_eq!(code, Some(2));
    assert!(log.contains("edge.cert = \"/nowhere.pem\""), "{log}");
    let runtime = Setup::new()
        .set("edge.device_id", "gw1")
        .set("edge.generation_id", "1")
        .set("edge.hub_host", "hub.example")
        .set("edge.workload_uri", "unix:///nowhere/workload.sock")
        .set("listener.tls.bind", "127.0.0.1:0")
        .set("listener.tls.certificate", "edge");
    let (code, log) = runtime.fail_to_start();
    assert_eq!(code, Some(1));
    assert!(log.contains("/nowhere/workload.sock") && log.contains("cannot be reached"), "{log}");
}
