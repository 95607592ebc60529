//! Who comes in, over real sockets: every kind of proof, good and bad, with the cloud and without it, before a restart and
//! after.

use std::time::{Duration, SystemTime};

use harness::azure::{CERTIFIED, Cloud, DEVICE, GATEWAY, MODULE};
use harness::{Client, Connection, ReasonCode, Router, Trust, Version, until};
use iothub::{Authentication, Authority, Identity};

use crate::runtime::{connect, hello, setup, trust};

const IN: ReasonCode = ReasonCode::SUCCESS;
const OUT: ReasonCode = ReasonCode::NOT_AUTHORIZED;
const UNSURE: ReasonCode = ReasonCode::SERVER_UNAVAILABLE;

/// What somebody shows who says that it is `id`.
enum Proof<'a> {
    /// A token for an identity, signed with the key of one, good for so many seconds from now on.
    Token(&'a str, &'a str, i64),
    /// A certificate, by the name of its files.
    Certificate(&'a str),
    Nothing,
}

/// Who, with what, and what becomes of it: with the cloud, and without.
struct Case<'a>(&'a str, &'a str, Proof<'a>, [ReasonCode; 2]);

fn token(cloud: &Cloud, of: &str, signer: &str, secs: i64) -> String {
    let key = match signer.strip_prefix("second key of ") {
        Some(id) => cloud.hub.identity(id).expect("an identity").keys()[1].to_owned(),
        None => cloud.hub.identity(signer).map_or_else(iothub::random_key, |it| it.key().to_owned()),
    };
    let (device, module) = of.split_once('/').map_or((of, None), |(device, module)| (device, Some(module)));
    let now = SystemTime::now();
    let expiry = if secs < 0 {
        now - Duration::from_secs(secs.unsigned_abs())
    } else {
        now + Duration::from_secs(secs.unsigned_abs())
    };
    iothub::sas::token(cloud.hub.host(), device, module, &key, expiry)
}

#[track_caller]
fn reason(cloud: &Cloud, router: &Router, id: &str, proof: &Proof<'_>) -> ReasonCode {
    let mut connect = match cloud.hub.identity(id) {
        Some(_) if !matches!(proof, Proof::Certificate(_)) => hello(cloud, id),
        _ => {
            let mut connect = harness::v3(id);
            connect.user_name = Some(format!("{}/{id}/?api-version=2021-04-12", cloud.hub.host()));
            connect
        }
    };
    connect.password = None;
    let mut shown: Trust = trust(cloud);
    match proof {
        Proof::Token(of, signer, secs) => {
            connect.password = Some(token(cloud, of, signer, *secs).into_bytes());
        }
        Proof::Certificate(name) => {
            let file = |kind: &str| cloud.home().join(format!("{name}.{kind}.pem"));
            shown = shown.showing(file("cert"), file("key"));
        }
        Proof::Nothing => {}
    }
    let connection = Connection::open_tls(router.listener("tls"), Version::V3, &shown).expect("a handshake");
    Client::over(connection, &connect).expect("a CONNACK").greeting.reason
}

#[test]
fn everybody_is_who_it_says_with_the_cloud_and_without() {
    let cloud = Cloud::start();
    let keep = |name: &str, issued: &iothub::Issued| {
        for (kind, text) in [("cert", &issued.certificate), ("key", &issued.key)] {
            std::fs::write(cloud.home().join(format!("{name}.{kind}.pem")), text).expect("a file");
        }
    };
    let (devices, strangers) = (Authority::new("Devices of the plant"), Authority::new("Strangers"));
    cloud.workload.trust(&devices.pem());
    let days = time::Duration::days;
    let over = devices.client_between("late", days(-9), days(-2));
    let of_late = Authentication::SelfSigned {
        primary_thumbprint: over.thumbprint(),
        secondary_thumbprint: String::new(),
    };
    keep("late", &over);
    keep("ca1", &devices.client("ca1"));
    keep("named-ca2", &devices.client("ca2"));
    keep("stranger", &strangers.client("ca1"));
    keep("old", &devices.client_between("ca1", days(-9), days(-2)));
    for identity in [
        Identity::device("d2").below(GATEWAY),
        Identity::device("off").below(GATEWAY),
        Identity::device("gone").below(GATEWAY),
        Identity::device("ca1").below(GATEWAY).with(Authentication::CertificateAuthority),
        Identity::device("late").below(GATEWAY).with(of_late),
        Identity::device("elsewhere"),
    ] {
        cloud.hub.put(identity).expect("an identity");
    }
    let mut router = setup(&cloud).set("auth.failures_free", 1_000).start();
    let module = format!("{GATEWAY}/{MODULE}");
    // Revoked while they are there: they go, and do not come back.
    let (mut off, mut gone) = (connect(&cloud, &router, "off"), connect(&cloud, &router, "gone"));
    let of_gone = token(&cloud, "gone", "gone", 3_600);
    cloud.hub.set_enabled("off", false);
    cloud.hub.remove("gone");
    off.ending();
    gone.ending();
    let second = format!("second key of {DEVICE}");
    let cases = [
        Case("a good token", DEVICE, Proof::Token(DEVICE, DEVICE, 3_600), [IN, IN]),
        Case("the second key", DEVICE, Proof::Token(DEVICE, &second, 3_600), [IN, IN]),
        Case("a module's own", &module, Proof::Token(&module, &module, 3_600), [IN, IN]),
        Case("its device's for a module", &module, Proof::Token(GATEWAY, GATEWAY, 3_600), [IN, IN]),
        Case("a key that nobody has", DEVICE, Proof::Token(DEVICE, "nobody", 3_600), [OUT, OUT]),
        Case("a token that is over", DEVICE, Proof::Token(DEVICE, DEVICE, -3_600), [OUT, OUT]),
        Case("another device's token", DEVICE, Proof::Token("d2", "d2", 3_600), [OUT, OUT]),
        Case("for it, signed by another", DEVICE, Proof::Token(DEVICE, "d2", 3_600), [OUT, OUT]),
        Case("a device's for another's module", &module, Proof::Token("d2", "d2", 3_600), [OUT, OUT]),
        Case("nothing", DEVICE, Proof::Nothing, [OUT, OUT]),
        Case("one that is disabled", "off", Proof::Token("off", "off", 3_600), [OUT, OUT]),
        Case(
            "one of another gateway",
            "elsewhere",
            Proof::Token("elsewhere", "elsewhere", 3_600),
            [OUT, UNSURE],
        ),
        Case("nobody", "nobody", Proof::Token("nobody", "nobody", 3_600), [OUT, UNSURE]),
        Case("its thumbprint", CERTIFIED, Proof::Certificate("x1"), [IN, IN]),
        Case("another's certificate", CERTIFIED, Proof::Certificate("ca1"), [OUT, OUT]),
        Case("a thumbprint that is over", "late", Proof::Certificate("late"), [OUT, OUT]),
        Case("an authority's", "ca1", Proof::Certificate("ca1"), [IN, IN]),
        Case("for another name", "ca1", Proof::Certificate("named-ca2"), [OUT, OUT]),
        Case("of a stranger", "ca1", Proof::Certificate("stranger"), [OUT, OUT]),
        Case("one that is over", "ca1", Proof::Certificate("old"), [OUT, OUT]),
        Case("a certificate where a key is wanted", DEVICE, Proof::Certificate("ca1"), [OUT, OUT]),
        Case("a token where a certificate is wanted", "ca1", Proof::Token("ca1", DEVICE, 3_600), [OUT, OUT]),
        Case("a certificate for a module", &module, Proof::Certificate("x1"), [OUT, OUT]),
    ];
    let judge = |router: &Router, at: usize, when: &str| {
        for Case(what, id, proof, wanted) in &cases {
            let wanted = wanted[at];
            if wanted == UNSURE {
                // Where it was asked a moment ago, that answer still stands.
                until(what, || (reason(&cloud, router, id, proof) == wanted).then_some(()));
            } else {
                assert_eq!(reason(&cloud, router, id, proof), wanted, "{what}, {when}");
            }
        }
        let mut gone = harness::v3("gone");
        gone.user_name = Some(format!("{}/gone/?api-version=2021-04-12", cloud.hub.host()));
        gone.password = Some(of_gone.clone().into_bytes());
        until(&format!("one that is deleted, {when}"), || {
            let connection = Connection::open_tls(router.listener("tls"), Version::V3, &trust(&cloud));
            let client = Client::over(connection.expect("a handshake"), &gone).expect("a CONNACK");
            assert_ne!(client.greeting.reason, IN);
            (client.greeting.reason == [OUT, UNSURE][at]).then_some(())
        });
    };
    judge(&router, 0, "with the cloud");
    cloud.hub.set_offline(true);
    judge(&router, 1, "without it");
    router.kill();
    router.start_again();
    judge(&router, 1, "without it, after a restart");
    cloud.hub.set_offline(false);
    until("the cloud to answer again", || {
        let proof = Proof::Token("elsewhere", "elsewhere", 3_600);
        (reason(&cloud, &router, "elsewhere", &proof) == OUT).then_some(())
    });
}

/// A gateway that knows its scope, and asks IoT Hub about everybody else.
fn hospitable(cloud: &Cloud) -> Router {
    let router = setup(cloud)
        .env("AuthenticationMode", "CloudAndScope")
        .set("auth.failures_free", 1_000)
        .set("uplink.upstream.kind", "iothub")
        .set("uplink.upstream.backoff_min_ms", 20)
        .set("uplink.upstream.backoff_max_ms", 500)
        .set("routes.up", "FROM /messages/* INTO $upstream")
        .start();
    until("the scope to be known", || {
        (reason(cloud, &router, DEVICE, &Proof::Token(DEVICE, DEVICE, 3_600)) == IN).then_some(())
    });
    router
}

#[test]
fn iot_hub_is_asked_about_clients_that_the_scope_does_not_know_where_that_is_wanted() {
    let cloud = Cloud::start();
    for id in ["visitor", "stranger"] {
        cloud.hub.put(Identity::device(id)).expect("an identity"); // of no gateway
    }
    let router = hospitable(&cloud);
    let proof = |key: &'static str| Proof::Token("visitor", key, 3_600);
    assert_eq!(reason(&cloud, &router, "visitor", &proof("stranger")), OUT, "another's key");
    let mut visitor = connect(&cloud, &router, "visitor");
    visitor.publish("devices/visitor/messages/events/", "by its own token", harness::QOS_1);
    let came = until("its message", || cloud.hub.telemetry().into_iter().next());
    assert_eq!(came.id(), "visitor");
    assert_eq!(reason(&cloud, &router, "nobody", &Proof::Token("nobody", "nobody", 3_600)), OUT);
    // Somebody who was let in comes again without the cloud, with the same token; nobody else does.
    let token = hello(&cloud, "visitor");
    let again = |router: &Router| {
        let connection = Connection::open_tls(router.listener("tls"), Version::V3, &trust(&cloud));
        Client::over(connection.expect("a handshake"), &token).expect("a CONNACK").greeting.reason
    };
    assert_eq!(again(&router), IN);
    cloud.hub.set_offline(true);
    assert_eq!(again(&router), IN);
    assert_ne!(reason(&cloud, &router, "stranger", &Proof::Token("stranger", "stranger", 3_600)), IN);
}

/// Whose token is good for an hour: its link is ended by IoT Hub, or it has none and is asked about with the scope.
#[test]
fn a_client_that_iot_hub_alone_knows_goes_when_it_is_disabled_there() {
    let cloud = Cloud::start();
    for id in ["talker", "quiet", "stays"] {
        cloud.hub.put(Identity::device(id)).expect("an identity"); // of no gateway
    }
    let router = hospitable(&cloud);
    let mut talker = connect(&cloud, &router, "talker");
    let (mut quiet, mut stays) = (connect(&cloud, &router, "quiet"), connect(&cloud, &router, "stays"));
    talker.publish("devices/talker/messages/events/", "it has a link", harness::QOS_1);
    until("its message", || cloud.hub.telemetry().into_iter().next());
    cloud.hub.set_enabled("talker", false);
    talker.ending();
    quiet.ping();
    cloud.hub.set_enabled("quiet", false);
    quiet.ending();
    stays.ping();
    for id in ["talker", "quiet"] {
        assert_eq!(reason(&cloud, &router, id, &Proof::Token(id, id, 3_600)), OUT, "{id}");
    }
    // It may come again, as soon as it is let in there.
    cloud.hub.set_enabled("talker", true);
    connect(&cloud, &router, "talker").ping();
    // A cloud that does not answer says nothing about anybody.
    cloud.hub.set_offline(true);
    until("IoT Hub to be asked in vain", || {
        router.log().contains("IoT Hub cannot be asked about a client").then_some(())
    });
    stays.ping();
    assert_eq!(cloud.hub.violations(), []);
}
