//! Child gateways over HTTPS and MQTT: the scope below them, modules of theirs in the registry, and a whole second level.

use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime};

use harness::azure::{Cloud, GATEWAY, free_address};
use harness::{Client, Connection, QOS_1, ReasonCode, Router, Setup, Version, until, v3};
use iothub::Identity;
use serde_json::{Value, json};

use crate::runtime::{connect, desired, hello, led_by_twin, setup, trust};

/// A gateway with another one below it, which has a device and a third gateway.
fn cloud() -> Cloud {
    let cloud = Cloud::start();
    for identity in [
        Identity::gateway("gw2").below(GATEWAY),
        Identity::module("gw2", "$edgeHub"),
        Identity::module("gw2", "filter"),
        Identity::device("d7").below("gw2"),
        Identity::gateway("gw3").below("gw2"),
        Identity::module("gw3", "$edgeHub"),
        Identity::device("d8").below("gw3"),
        Identity::gateway("gw9"),
        Identity::module("gw9", "$edgeHub"),
    ] {
        cloud.hub.put(identity).expect("an identity");
    }
    cloud
}

fn token(cloud: &Cloud, id: &str) -> String {
    let key = cloud.hub.identity(id).expect("an identity").key().to_owned();
    let (device, module) = id.split_once('/').map_or((id, None), |(device, module)| (device, Some(module)));
    let expiry = SystemTime::now() + Duration::from_secs(3_600);
    iothub::sas::token(cloud.hub.host(), device, module, &key, expiry)
}

/// One request over HTTPS: its status, headers and body.
#[track_caller]
fn ask(cloud: &Cloud, router: &Router, line: &str, signer: &str, body: &Value) -> (u16, String, Value) {
    let mut stream = trust(cloud).connect(router.listener("wss")).expect("a handshake");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let authorization = match signer {
        "" => String::new(),
        id => format!("Authorization: {}\r\n", token(cloud, id)),
    };
    let len = body.len();
    write!(
        stream,
        "{line} HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n{authorization}Content-Length: {len}\r\n\r\n{body}"
    )
    .expect("a request");
    stream.flush().expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null))
}

const SCOPE: &str =
    "POST /devices/gw2/modules/$edgeHub/devicesAndModulesInTargetDeviceScope?api-version=2020-06-30-preview";
const ONE: &str =
    "POST /devices/gw2/modules/$edgeHub/getDeviceAndModuleOnBehalfOf?api-version=2020-06-30-preview";

fn ids(page: &Value) -> Vec<String> {
    let of = |list: &str, module: bool| {
        let all = page[list].as_array().cloned().unwrap_or_default();
        let name = move |it: Value| {
            let device = it["deviceId"].as_str().unwrap_or_default().to_owned();
            if module { format!("{device}/{}", it["moduleId"].as_str().unwrap_or_default()) } else { device }
        };
        all.into_iter().map(name).collect::<Vec<_>>()
    };
    [of("devices", false), of("modules", true)].concat()
}

#[test]
fn a_child_gateway_reads_the_scope_below_it_and_nothing_else() {
    let cloud = cloud();
    let router = setup(&cloud).start();
    // Its own scope was read with the start.
    until("the scope", || {
        let (status, ..) =
            ask(&cloud, &router, SCOPE, "gw2/$edgeHub", &json!({"pageSize": 10, "authChain": "gw2"}));
        (status == 200).then_some(())
    });
    let hub = "gw2/$edgeHub";
    let (_, _, page) = ask(&cloud, &router, SCOPE, hub, &json!({"pageSize": 10, "authChain": "gw2"}));
    assert_eq!(ids(&page), ["d7", "gw2", "gw3", "gw2/$edgeHub", "gw2/filter"], "{page}");
    let key = cloud.hub.identity("d7").expect("an identity").key().to_owned();
    assert_eq!(page["devices"][0]["authentication"]["symmetricKey"]["primaryKey"], json!(key));
    let (_, _, page) = ask(&cloud, &router, SCOPE, hub, &json!({"pageSize": 10, "authChain": "gw3;gw2"}));
    assert_eq!(ids(&page), ["d8", "gw3", "gw3/$edgeHub"], "{page}");
    // Page by page.
    let (mut seen, mut link) = (Vec::new(), Value::Null);
    loop {
        let body = json!({"pageSize": 2, "authChain": "gw2", "continuationLink": link});
        let (status, _, page) = ask(&cloud, &router, SCOPE, hub, &body);
        assert_eq!(status, 200, "{page}");
        seen.extend(ids(&page));
        link = page["continuationLink"].clone();
        if link.is_null() {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, ["d7", "gw2", "gw2/$edgeHub", "gw2/filter", "gw3"]);
    let one = |device: &str, chain: &str| json!({"targetDeviceId": device, "authChain": chain});
    let (status, _, page) = ask(&cloud, &router, ONE, hub, &one("d8", "d8;gw3;gw2"));
    assert_eq!((status, ids(&page)), (200, vec!["d8".to_owned()]), "{page}");
    // One that was made a moment ago.
    cloud.hub.put(Identity::device("late").below("gw2")).expect("an identity");
    let (status, _, page) = ask(&cloud, &router, ONE, hub, &one("late", "late;gw2"));
    assert_eq!((status, ids(&page)), (200, vec!["late".to_owned()]), "{page}");

    // Whoever is nobody, or stands elsewhere, or asks for what is not below it.
    let whole = json!({"pageSize": 10, "authChain": "gw2"});
    for (what, line, signer, body, wanted) in [
        ("no token", SCOPE, "", &whole, 401),
        ("another's token", SCOPE, "gw3/$edgeHub", &whole, 401),
        ("the device's token for its module", SCOPE, "gw2", &whole, 200),
        ("a device that is none of a gateway", SCOPE, "d7", &whole, 401),
        // edgeHub writes 401 here and goes on all the same.
        ("another module", &SCOPE.replace("$edgeHub", "filter"), "gw2/filter", &whole, 401),
        (
            "a gateway beside us",
            &SCOPE.replace("gw2", "gw9"),
            "gw9/$edgeHub",
            &json!({"authChain": "gw9"}),
            401,
        ),
        ("we ourselves", &SCOPE.replace("gw2", GATEWAY), "gw1/$edgeHub", &json!({"authChain": GATEWAY}), 401),
        ("a chain of another", SCOPE, hub, &json!({"authChain": "gw3"}), 401),
        ("what is above", SCOPE, hub, &json!({"authChain": "gw1;gw2"}), 401),
        ("a sibling's device", ONE, hub, &one("d1", "d1;gw2"), 401),
        ("no chain", SCOPE, hub, &json!({"pageSize": 10}), 400),
        ("a chain that is none", SCOPE, hub, &json!({"authChain": ";;;;;;;;;;;;"}), 400),
        ("no JSON", SCOPE, hub, &Value::Null, 400),
        ("a link of nobody", SCOPE, hub, &json!({"authChain": "gw2", "continuationLink": "x"}), 400),
        ("chain and target differ", ONE, hub, &one("d7", "d8;gw3;gw2"), 400),
        ("not by GET", &SCOPE.replace("POST", "GET"), hub, &Value::Null, 405),
    ] {
        let (status, head, said) = ask(&cloud, &router, line, signer, body);
        assert_eq!(status, wanted, "{what}: {said}");
        assert!(wanted == 200 || said["ErrorMessage"].is_string(), "{what}: {head} {said}");
    }
    // A body is not read for whoever may not ask.
    let long = Value::String("x".repeat(300_000));
    assert_eq!(ask(&cloud, &router, SCOPE, hub, &long).0, 413);
}

#[test]
fn modules_of_child_gateways_are_made_and_deleted_in_the_registry_above() {
    let cloud = cloud();
    let router = setup(&cloud).start();
    until("the scope", || {
        let (status, ..) = ask(&cloud, &router, SCOPE, "gw2/$edgeHub", &json!({"authChain": "gw2"}));
        (status == 200).then_some(())
    });
    let version = "api-version=2020-06-30-preview";
    let described = json!({"moduleId": "new", "deviceId": "gw2", "authentication": {"type": "sas"}});
    let path = format!("/devices/gw2/modules/new?{version}");
    let (status, _, made) = ask(&cloud, &router, &format!("PUT {path}"), "gw2", &described);
    assert_eq!((status, &made["moduleId"]), (200, &json!("new")), "{made}");
    assert!(cloud.hub.identity("gw2/new").is_some());
    let (status, _, got) = ask(&cloud, &router, &format!("GET {path}"), "gw2", &Value::Null);
    assert_eq!((status, got), (200, made));
    let (status, _, all) =
        ask(&cloud, &router, &format!("GET /devices/gw2/modules?{version}"), "gw2", &Value::Null);
    let names: Vec<_> = all.as_array().into_iter().flatten().map(|it| it["moduleId"].clone()).collect();
    assert_eq!(status, 200);
    assert!(names.contains(&json!("new")) && names.contains(&json!("filter")), "{all}");
    // One level further down.
    let hub = "gw2/$edgeHub";
    let call =
        |name: &str, method: &str| format!("{method} /devices/gw2/modules/%24edgeHub/{name}?{version}");
    let module = json!({"moduleId": "deep", "deviceId": "gw3"});
    let body = json!({"authChain": "gw3;gw2", "module": module});
    let (status, _, said) = ask(&cloud, &router, &call("putModuleOnBehalfOf", "PUT"), hub, &body);
    assert_eq!(status, 200, "{said}");
    assert!(cloud.hub.identity("gw3/deep").is_some());
    let body = json!({"authChain": "gw3;gw2", "targetModuleId": "deep"});
    let (status, _, said) = ask(&cloud, &router, &call("getModuleOnBehalfOf", "POST"), hub, &body);
    assert_eq!((status, &said["moduleId"]), (200, &json!("deep")), "{said}");
    let body = json!({"authChain": "gw3;gw2", "moduleId": "deep"});
    assert_eq!(ask(&cloud, &router, &call("deleteModuleOnBehalfOf", "POST"), hub, &body).0, 200);
    assert!(cloud.hub.identity("gw3/deep").is_none());
    assert_eq!(ask(&cloud, &router, &format!("DELETE {path}"), "gw2", &Value::Null).0, 200);
    assert!(cloud.hub.identity("gw2/new").is_none());
    let (status, ..) = ask(&cloud, &router, &format!("GET {path}"), "gw2", &Value::Null);
    assert_eq!(status, 404, "the upstream's answer");

    let (status, head, _) = ask(&cloud, &router, "GET /devices/gw2/modules/filter", "gw2", &Value::Null);
    assert_eq!(status, 400);
    assert!(head.to_lowercase().contains("iothub-errorcode: invalidprotocolversion"), "{head}");
    for (what, line, signer, wanted) in [
        ("a sibling", format!("PUT {path}"), "gw3", 401),
        ("a device", format!("PUT /devices/d7/modules/new?{version}"), "d7", 401),
        ("our own device", format!("PUT /devices/gw1/modules/new?{version}"), "gw1", 401),
        ("nobody", format!("PUT {path}"), "", 401),
        ("other ids in the body", format!("PUT /devices/gw2/modules/other?{version}"), "gw2", 400),
    ] {
        assert_eq!(ask(&cloud, &router, &line, signer, &described).0, wanted, "{what}");
    }
    cloud.hub.set_offline(true);
    assert_eq!(ask(&cloud, &router, &format!("GET {path}"), "gw2", &Value::Null).0, 503);
}

/// A second Millrace in the place of the child: its scope, its device and the telemetry of that go through the first one.
#[test]
fn a_gateway_below_a_gateway_reaches_the_cloud_through_it() {
    let mut cloud = cloud();
    let address = free_address();
    let parent = setup(&cloud)
        .set("routes.up", "FROM /messages/* INTO $upstream")
        .env("EDGEDEVICEHOSTNAME", address.to_string())
        .start();
    cloud.put_gateway_at(address, parent.listener("tls"), parent.listener("wss"));
    let key = cloud.hub.identity("gw2/$edgeHub").expect("an identity").key().to_owned();
    let host = cloud.hub.host();
    let string = format!(
        "HostName={host};DeviceId=gw2;ModuleId=$edgeHub;SharedAccessKey={key};GatewayHostName={address}"
    );
    let child = Setup::new()
        .set("auth.anonymous", false)
        .set("edge.connection_string", format!("\"{string}\""))
        .set("edge.host_name", "gw2.example")
        .set("edge.trust_bundle", cloud.home().join("ca.pem").display())
        .set("edge.scope_refresh_min_secs", 1)
        .set("listener.tcp.identities", "iothub")
        .set("routing.mode", "edgehub")
        .set("routes.up", "FROM /messages/* INTO $upstream")
        .start();
    let mut connect = v3("d7");
    connect.user_name = Some(format!("{host}/d7/?api-version=2021-04-12"));
    connect.password = Some(token(&cloud, "d7").into_bytes());
    let mut device = until("the child to know its device", || {
        let client = Client::try_connect(child.address(), &connect).ok()?;
        (client.greeting.reason == ReasonCode::SUCCESS).then_some(client)
    });
    device.publish("devices/d7/messages/events/level=high", "from below", QOS_1);
    let came = until("the message in the cloud", || cloud.hub.telemetry().into_iter().next());
    assert_eq!(
        (came.id(), came.text(), came.property("level")),
        ("d7".into(), "from below".into(), Some("high"))
    );
    assert_eq!(cloud.hub.violations(), []);
}

#[test]
fn numbers_are_at_443_too() {
    let cloud = Cloud::start();
    let router = setup(&cloud).start();
    let mut stream = trust(&cloud).connect(router.listener("wss")).expect("a handshake");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n").expect("a request");
    stream.flush().expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("# TYPE edgehub_connected_clients gauge"));
}

/// Its modules, and those that were below it, as soon as the cloud names them.
#[test]
fn who_stood_below_a_gateway_that_is_gone_is_let_in_no_more() {
    let cloud = cloud();
    cloud.hub.patch_desired("gw1/$edgeHub", &desired("FROM /messages/* INTO $upstream")).expect("a patch");
    let router = led_by_twin(&cloud).set("edge.scope_refresh_secs", 3_600).start();
    let sealed = router.store().join("edge/identities.sealed");
    until("the scope to be known", || sealed.exists().then_some(()));
    let mut guests = ["d1", "d7", "gw2/filter"].map(|id| connect(&cloud, &router, id));
    assert!(cloud.hub.remove("gw2"));
    let (ids, patience) = (json!({"deviceIds": ["gw2", "d7"]}), Duration::from_secs(10));
    let refresh = "RefreshDeviceScopeIdentityCache";
    let answer = cloud.hub.call_method("gw1/$edgeHub", refresh, &ids, patience, patience);
    assert!(matches!(answer, Ok((200, _))));
    guests[1].ending();
    guests[2].ending();
    guests[0].ping();
}

/// Whoever has no proof may make up a chain, and the gateway asks upstream: what is answered then says nothing about the one it
/// claims to be.
#[test]
fn a_client_without_proof_removes_nobody_from_the_scope() {
    let cloud = cloud();
    cloud.hub.patch_desired("gw1/$edgeHub", &desired("FROM /messages/* INTO $upstream")).expect("a patch");
    let known = ["d1", "d7", "gw2/filter", "gw3/$edgeHub"];
    // Nobody is looked up twice here: what was removed would stay so.
    let router = led_by_twin(&cloud)
        .set("edge.scope_refresh_min_secs", 3_600)
        .set("edge.scope_refresh_secs", 3_600)
        .start();
    let sealed = router.store().join("edge/identities.sealed");
    until("the scope to be known", || sealed.exists().then_some(()));
    let mut guests = known.map(|id| connect(&cloud, &router, id));
    let refused = |id: &str, chain: &str, of: &str| {
        let mut connect = hello(&cloud, id);
        let chain = if chain.is_empty() { String::new() } else { format!("&auth-chain={chain}") };
        connect.user_name = Some(format!("{}/{id}/?api-version=2021-04-12{chain}", cloud.hub.host()));
        let (device, module) =
            of.split_once('/').map_or((of, None), |(device, module)| (device, Some(module)));
        let expiry = SystemTime::now() + Duration::from_secs(3_600);
        let made_up = iothub::sas::token(cloud.hub.host(), device, module, &iothub::random_key(), expiry);
        connect.password = Some(made_up.into_bytes());
        let connection =
            Connection::open_tls(router.listener("tls"), Version::V3, &trust(&cloud)).expect("a handshake");
        let reason = Client::over(connection, &connect).expect("a CONNACK").greeting.reason;
        assert_eq!(reason, ReasonCode::NOT_AUTHORIZED, "{id} by {chain:?}");
    };
    // By a chain that does not hold, as a device and as the gateway itself; and by none, far below.
    refused("d1", "d1%3Bzz%3Bgw1", "gw1/$edgeHub");
    refused("gw1", "gw1%3Bzz%3Bgw1", "gw1/$edgeHub");
    refused("d7", "", "d7");
    // Whoever is named by the cloud is looked up where it stands.
    let refresh = || {
        let (ids, patience) = (json!({"deviceIds": known}), Duration::from_secs(10));
        cloud.hub.call_method("gw1/$edgeHub", "RefreshDeviceScopeIdentityCache", &ids, patience, patience)
    };
    assert!(matches!(refresh(), Ok((200, _))));
    // The last of them is looked up last: then all are.
    assert!(cloud.hub.remove("gw3/$edgeHub"));
    assert!(matches!(refresh(), Ok((200, _))));
    guests[3].ending();
    for guest in &mut guests[..3] {
        guest.ping();
    }
    // While we ourselves are refused, nobody is known to be gone.
    cloud.hub.set_rest_status(Some(401));
    assert!(matches!(refresh(), Ok((500, _))));
    cloud.hub.set_offline(true);
    for id in &known[..3] {
        connect(&cloud, &router, id).ping();
    }
}
