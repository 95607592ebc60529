//! Certificates at the port of HTTPS: a device's own, and those that a proxy in front of the gateway forwards
//! (`x-ms-edge-clientcert`), over HTTP and over WebSocket; good ones, bad ones, and from somebody who may not forward any.

use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime};

use harness::azure::{CERTIFIED, Cloud, DEVICE, GATEWAY, MODULE};
use harness::{Client, Connection, ReasonCode, Router, Setup, Trust, Version, until};
use iothub::{Authentication, Authority, Identity, Issued};
use serde_json::Value;

use crate::runtime::{connect, setup, trust};

const PROXY: &str = "gw1/IoTEdgeAPIProxy";
const IN: ReasonCode = ReasonCode::SUCCESS;
const OUT: ReasonCode = ReasonCode::NOT_AUTHORIZED;

/// A plant with certified gateways and devices below the gateway, and a proxy beside it.
struct Plant {
    cloud: Cloud,
}

impl Plant {
    fn new() -> Plant {
        let cloud = Cloud::start();
        let (devices, strangers) = (Authority::new("Devices of the plant"), Authority::new("Strangers"));
        cloud.workload.trust(&devices.pem());
        let plant = Plant { cloud };
        let days = time::Duration::days;
        let thumbprint = |issued: &Issued| Authentication::SelfSigned {
            primary_thumbprint: issued.thumbprint(),
            secondary_thumbprint: String::new(),
        };
        // Whoever it is for has nothing to do with the name: a thumbprint is all that counts.
        let good = plant.keep("gw2", &strangers.client("anything"));
        let over = plant.keep("late", &devices.client_between("late", days(-9), days(-2)));
        plant.keep("early", &devices.client_between("gw3", days(2), days(9)));
        plant.keep("gw3", &devices.client("gw3"));
        plant.keep("stranger", &strangers.client("gw3"));
        plant.keep("over", &devices.client_between("gw3", days(-9), days(-2)));
        for identity in [
            Identity::module(GATEWAY, "IoTEdgeAPIProxy"),
            Identity::gateway("gw2").below(GATEWAY).with(thumbprint(&good)),
            Identity::gateway("gw3").below(GATEWAY).with(Authentication::CertificateAuthority),
            Identity::gateway("late").below(GATEWAY).with(thumbprint(&over)),
        ] {
            plant.cloud.hub.put(identity).expect("an identity");
        }
        for gateway in ["gw2", "gw3", "late"] {
            plant.cloud.hub.put(Identity::module(gateway, "worker")).expect("an identity");
        }
        plant
    }

    fn keep(&self, name: &str, issued: &Issued) -> Issued {
        for (kind, text) in [("cert", &issued.certificate), ("key", &issued.key)] {
            std::fs::write(self.cloud.home().join(format!("{name}.{kind}.pem")), text).expect("a file");
        }
        issued.clone()
    }

    fn start(&self, set: impl FnOnce(Setup) -> Setup) -> Router {
        let router = set(setup(&self.cloud).set("auth.failures_free", 1_000)).start();
        // All of it: whoever connects before is looked up alone.
        until("the scope to be known", || {
            let (_, text) = router.get("/metrics");
            let read = text.lines().find(|line| line.starts_with("millrace_identities_refreshes_total"))?;
            (!read.ends_with(" 0")).then_some(())
        });
        router
    }

    fn showing(&self, name: Option<&str>) -> Trust {
        let file = |kind: &str| self.cloud.home().join(format!("{}.{kind}.pem", name.unwrap_or_default()));
        match name {
            Some(_) => trust(&self.cloud).showing(file("cert"), file("key")),
            None => trust(&self.cloud),
        }
    }

    /// A certificate as nginx escapes it.
    fn escaped(&self, name: &str) -> String {
        let path = self.cloud.home().join(format!("{name}.cert.pem"));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let escape = |byte: u8| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") };
        std::fs::read(path).expect("a file").into_iter().map(escape).collect()
    }

    fn token(&self, id: &str) -> String {
        let key = self.cloud.hub.identity(id).expect("an identity").key().to_owned();
        let (device, module) =
            id.split_once('/').map_or((id, None), |(device, module)| (device, Some(module)));
        let expiry = SystemTime::now() + Duration::from_secs(3_600);
        iothub::sas::token(self.cloud.hub.host(), device, module, &key, expiry)
    }

    /// The headers of a request.
    fn headers(&self, asked: &Asked<'_>) -> Vec<(&'static str, String)> {
        let token = asked.token.map(|id| ("Authorization", self.token(id)));
        let forwarded = asked.forwards.iter().map(|what| match *what {
            Forwards::Certificate(name) => ("x-ms-edge-clientcert", self.escaped(name)),
            Forwards::Text(text) => ("x-ms-edge-clientcert", text.to_owned()),
        });
        token.into_iter().chain(forwarded).collect()
    }

    /// One request over HTTPS: its status and body.
    #[track_caller]
    fn ask(&self, router: &Router, line: &str, asked: &Asked<'_>, more: &str) -> (u16, Value) {
        let mut stream = self.showing(asked.shows).connect(router.listener("wss")).expect("a handshake");
        let mut head = format!("{line} HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n{more}");
        for (name, value) in self.headers(asked) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        write!(stream, "{head}Content-Length: 2\r\n\r\n{{}}").expect("a request");
        stream.flush().expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// CONNECT over WebSocket; `Err` is the status of an upgrade that is refused.
    #[track_caller]
    fn knock(&self, router: &Router, id: &str, asked: &Asked<'_>) -> Result<ReasonCode, u16> {
        let headers = self.headers(asked);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let trust = self.showing(asked.shows);
        let connection = Connection::open_wss_with(router.listener("wss"), Version::V3, &trust, &headers)?;
        let mut connect = harness::v3(id);
        connect.user_name = Some(format!("{}/{id}/?api-version=2021-04-12", self.cloud.hub.host()));
        Ok(Client::over(connection, &connect).expect("a CONNACK").greeting.reason)
    }
}

/// What stands in a header.
#[derive(Clone, Copy)]
enum Forwards<'a> {
    Certificate(&'a str),
    Text(&'a str),
}

use Forwards::{Certificate, Text};

/// What somebody shows.
#[derive(Default)]
struct Asked<'a> {
    /// By TLS, the name of its files.
    shows: Option<&'a str>,
    /// The token of whom.
    token: Option<&'a str>,
    forwards: &'a [Forwards<'a>],
}

fn shows(name: &str) -> Asked<'_> {
    Asked { shows: Some(name), ..Asked::default() }
}

fn forwards<'a>(token: Option<&'a str>, forwards: &'a [Forwards<'a>]) -> Asked<'a> {
    Asked { token, forwards, ..Asked::default() }
}

fn modules_of(gateway: &str) -> String {
    format!("GET /devices/{gateway}/modules?api-version=2020-06-30-preview")
}

#[test]
fn a_certified_gateway_asks_over_https_with_its_own_certificate() {
    let plant = Plant::new();
    let router = plant.start(|setup| setup);
    let filter = format!("{GATEWAY}/{MODULE}");
    for (what, gateway, asked, wanted) in [
        ("its thumbprint", "gw2", shows("gw2"), 200),
        ("an authority's", "gw3", shows("gw3"), 200),
        ("nothing", "gw2", Asked::default(), 401),
        ("another's certificate", "gw2", shows("gw3"), 401),
        ("another's where a name counts", "gw3", shows("gw2"), 401),
        ("a thumbprint that is over", "late", shows("late"), 401),
        ("one that is over", "gw3", shows("over"), 401),
        ("one that is not yet", "gw3", shows("early"), 401),
        ("of a stranger", "gw3", shows("stranger"), 401),
        ("of a device that is no gateway", CERTIFIED, shows("x1"), 401),
        // A token is what it is asked by, then, as at CONNECT.
        ("a bad token beside it", "gw2", Asked { token: Some(&filter), ..shows("gw2") }, 401),
    ] {
        let (status, said) = plant.ask(&router, &modules_of(gateway), &asked, "");
        assert_eq!(status, wanted, "{what}: {said}");
        let names = said.as_array().map(|all| all.iter().filter(|it| it["moduleId"] == "worker").count());
        assert!(wanted != 200 || names == Some(1), "{what}: {said}");
        assert!(wanted == 200 || said["ErrorMessage"].is_string(), "{what}: {said}");
    }
    // No certificate is a module's.
    let caller = format!("x-ms-edge-moduleId: {filter}\r\n");
    let call = format!("POST /twins/{DEVICE}/methods?api-version=2020-06-30-preview");
    assert_eq!(plant.ask(&router, &call, &shows("x1"), &caller).0, 401);
    // Several requests of one connection: each is asked for its proof again, and has the same certificate.
    let mut stream = plant.showing(Some("gw2")).connect(router.listener("wss")).expect("a handshake");
    for last in ["keep-alive", "close"] {
        let line = modules_of("gw2");
        write!(stream, "{line} HTTP/1.1\r\nHost: gw\r\nConnection: {last}\r\n\r\n").expect("a request");
    }
    stream.flush().expect("requests");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("answers");
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
}

#[test]
fn only_the_proxy_forwards_certificates_over_http() {
    let plant = Plant::new();
    let router = plant.start(|setup| setup);
    let (filter, proxy) = (format!("{GATEWAY}/{MODULE}"), Some(PROXY));
    let good = [Certificate("gw2")];
    for (what, gateway, asked, wanted) in [
        ("its thumbprint", "gw2", forwards(proxy, &good), 200),
        ("an authority's", "gw3", forwards(proxy, &[Certificate("gw3")]), 200),
        ("another's certificate", "gw2", forwards(proxy, &[Certificate("gw3")]), 401),
        ("a thumbprint that is over", "late", forwards(proxy, &[Certificate("late")]), 401),
        ("one that is over", "gw3", forwards(proxy, &[Certificate("over")]), 401),
        ("of a stranger", "gw3", forwards(proxy, &[Certificate("stranger")]), 401),
        ("no certificate", "gw2", forwards(proxy, &[Text("%2D%2D")]), 400),
        ("two of them", "gw2", forwards(proxy, &[good[0], good[0]]), 400),
        // A certificate is no secret. Whoever is not the proxy and sends one is nobody, whatever else it shows.
        ("from another module", "gw2", forwards(Some(&filter), &good), 401),
        ("from the device that is meant", "gw2", Asked { shows: Some("gw2"), ..forwards(None, &good) }, 401),
        ("from nobody", "gw2", forwards(None, &good), 401),
        ("no certificate, from nobody", "gw2", forwards(None, &[Text("x")]), 401),
        // What nginx writes, if the client had none.
        ("nothing, with its own", "gw2", Asked { shows: Some("gw2"), ..forwards(None, &[Text("")]) }, 200),
        ("nothing, and only the proxy's token", "gw2", forwards(proxy, &[Text("")]), 401),
    ] {
        let (status, said) = plant.ask(&router, &modules_of(gateway), &asked, "");
        assert_eq!(status, wanted, "{what}: {said}");
    }
    // Two tokens, one of which is the proxy's.
    let second = format!("Authorization: {}\r\n", plant.token(&filter));
    assert_eq!(plant.ask(&router, &modules_of("gw2"), &forwards(proxy, &good), &second).0, 401);
}

#[test]
fn only_the_proxy_forwards_certificates_over_websocket() {
    let plant = Plant::new();
    let router = plant.start(|setup| setup);
    let (filter, proxy) = (format!("{GATEWAY}/{MODULE}"), Some(PROXY));
    let good = [Certificate("x1")];
    for (what, id, asked, wanted) in [
        ("its own", CERTIFIED, shows("x1"), Ok(IN)),
        ("its thumbprint", CERTIFIED, forwards(proxy, &good), Ok(IN)),
        ("an authority's", "gw3", forwards(proxy, &[Certificate("gw3")]), Ok(IN)),
        ("for another", "gw3", forwards(proxy, &good), Ok(OUT)),
        ("another's certificate", CERTIFIED, forwards(proxy, &[Certificate("gw3")]), Ok(OUT)),
        ("a thumbprint that is over", "late", forwards(proxy, &[Certificate("late")]), Ok(OUT)),
        ("of a stranger", "gw3", forwards(proxy, &[Certificate("stranger")]), Ok(OUT)),
        ("no certificate", CERTIFIED, forwards(proxy, &[Text("x")]), Ok(OUT)),
        ("two of them", CERTIFIED, forwards(proxy, &[good[0], good[0]]), Err(400)),
        ("from another module", CERTIFIED, forwards(Some(&filter), &good), Ok(OUT)),
        (
            "from a device with a certificate",
            CERTIFIED,
            Asked { shows: Some("gw3"), ..forwards(None, &good) },
            Ok(OUT),
        ),
        ("from nobody", CERTIFIED, forwards(None, &good), Ok(OUT)),
        (
            "nothing, with its own",
            CERTIFIED,
            Asked { shows: Some("x1"), ..forwards(None, &[Text("")]) },
            Ok(IN),
        ),
        ("nothing, and only the proxy's token", CERTIFIED, forwards(proxy, &[Text("")]), Ok(OUT)),
    ] {
        assert_eq!(plant.knock(&router, id, &asked), wanted, "{what}");
    }
    // Somebody with a token needs nothing else.
    drop(connect(&plant.cloud, &router, DEVICE));
    assert!(router.log().contains("IoTEdgeAPIProxy alone may forward"), "{}", router.log());
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let plant = Plant::new();
    let router = plant.start(|setup| setup);
    let long = format!("x-fill: {}\r\n", "x".repeat(20_000));
    let asked = forwards(Some(PROXY), &[Certificate("gw2")]);
    assert_eq!(plant.ask(&router, &modules_of("gw2"), &asked, &long).0, 431);
    assert_eq!(plant.ask(&router, &modules_of("gw2"), &asked, "").0, 200);
}

/// The proxy is new, or has a new key: it is looked up like everybody else.
#[test]
fn a_proxy_that_is_not_known_yet_is_looked_up() {
    let plant = Plant::new();
    let router = plant.start(|setup| setup.set("edge.api_proxy_module", "doorman"));
    assert_eq!(plant.knock(&router, CERTIFIED, &forwards(Some(PROXY), &[Certificate("x1")])), Ok(OUT));
    plant.cloud.hub.put(Identity::module(GATEWAY, "doorman")).expect("an identity");
    let doorman = Some("gw1/doorman");
    until("the new proxy to be known", || {
        let knocked = plant.knock(&router, CERTIFIED, &forwards(doorman, &[Certificate("x1")]));
        (knocked == Ok(IN)).then_some(())
    });
    assert_eq!(plant.ask(&router, &modules_of("gw2"), &forwards(doorman, &[Certificate("gw2")]), "").0, 200);
}

#[test]
fn where_certificates_do_not_count_forwarded_ones_do_not_either() {
    let plant = Plant::new();
    let router = plant.start(|setup| setup.set("edge.client_certs", false));
    let proxy = Some(PROXY);
    assert_eq!(plant.knock(&router, CERTIFIED, &forwards(proxy, &[Certificate("x1")])), Ok(OUT));
    assert_eq!(plant.ask(&router, &modules_of("gw2"), &forwards(proxy, &[Certificate("gw2")]), "").0, 401);
    assert_eq!(plant.ask(&router, &modules_of("gw2"), &shows("gw2"), "").0, 401);
}
