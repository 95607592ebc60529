//! The profile `edgehub` beside an IoT Edge runtime and below an IoT Hub, both doubles that check strictly: start,
//! identities, an outage with a restart, a certificate that ends soon.

use std::time::Duration;

use harness::azure::{Cloud, DEVICE, GATEWAY, MODULE};
use harness::{Client, Connection, QOS_1, ReasonCode, Router, Setup, Trust, Version, until, v3};
use iothub::Identity;
use iothub::workload::Misbehaviour;
use serde_json::{Value, json};
use wire::{Connect, Will};

const HOST: &str = "127.0.0.1";

/// With routes from the configuration.
pub(crate) fn setup(cloud: &Cloud) -> Setup {
    led_by_twin(cloud).set("edge.config_source", "file")
}

pub(crate) fn led_by_twin(cloud: &Cloud) -> Setup {
    let mut setup = Setup::new()
        .profile("edgehub")
        .set("auth.anonymous", false)
        .set("listener.tls.bind", "127.0.0.1:0")
        .set("listener.wss.bind", "127.0.0.1:0")
        .set("edge.scope_refresh_min_secs", 1)
        .set("edge.scope_refresh_secs", 10);
    for (name, value) in cloud.environment("$edgeHub") {
        // The runtime names a parent gateway only where there is one.
        if name != "IOTEDGE_GATEWAYHOSTNAME" {
            setup = setup.env(name, value);
        }
    }
    setup.env("EDGEDEVICEHOSTNAME", HOST)
}

/// Trusts what the runtime signs.
pub(crate) fn trust(cloud: &Cloud) -> Trust {
    Trust::of(&cloud.home().join("ca.pem"))
}

pub(crate) fn hello(cloud: &Cloud, id: &str) -> Connect {
    let mut connect = v3(id);
    connect.user_name = Some(format!("{}/{id}/?api-version=2021-04-12", cloud.hub.host()));
    let key = cloud.hub.identity(id).expect("an identity").key().to_owned();
    let (device, module) = id.split_once('/').map_or((id, None), |(device, module)| (device, Some(module)));
    let expiry = std::time::SystemTime::now() + Duration::from_secs(3_600);
    let token = iothub::sas::token(cloud.hub.host(), device, module, &key, expiry);
    connect.password = Some(token.into_bytes());
    connect
}

#[track_caller]
pub(crate) fn try_connect(cloud: &Cloud, router: &Router, id: &str) -> Client {
    let connection =
        Connection::open_tls(router.listener("tls"), Version::V3, &trust(cloud)).expect("a handshake");
    Client::over(connection, &hello(cloud, id)).expect("a CONNACK")
}

#[track_caller]
pub(crate) fn connect(cloud: &Cloud, router: &Router, id: &str) -> Client {
    let client = try_connect(cloud, router, id);
    assert_eq!(client.greeting.reason, ReasonCode::SUCCESS, "{id}");
    client
}

#[test]
fn a_gateway_starts_as_edgehub_and_takes_the_identities_of_its_scope() {
    let cloud = Cloud::start();
    let router = setup(&cloud).start();
    let module = format!("{GATEWAY}/{MODULE}");
    for id in [DEVICE, &module] {
        connect(&cloud, &router, id).ping();
    }
    // One that is made later, and one that is no child of ours.
    cloud.hub.put(Identity::device("late").below(GATEWAY)).expect("an identity");
    connect(&cloud, &router, "late").ping();
    cloud.hub.put(Identity::device("elsewhere")).expect("an identity");
    let refused = try_connect(&cloud, &router, "elsewhere");
    assert_eq!(refused.greeting.reason, ReasonCode::NOT_AUTHORIZED);
    assert_eq!(cloud.workload.violations(), [], "the Workload API is asked as it wants to be");
    let log = router.log();
    assert!(log.lines().any(|line| line.starts_with("<6> ") && line.contains("[INF] - ")), "{log}");
    assert!(!log.contains("SharedAccess") && !log.contains("PRIVATE KEY"));
}

#[test]
fn a_device_that_is_disabled_in_the_cloud_goes() {
    let cloud = Cloud::start();
    let router = setup(&cloud).start();
    let (mut device, mut other) =
        (connect(&cloud, &router, DEVICE), connect(&cloud, &router, &format!("{GATEWAY}/{MODULE}")));
    cloud.hub.set_enabled(DEVICE, false);
    device.ending();
    other.ping();
    assert_eq!(try_connect(&cloud, &router, DEVICE).greeting.reason, ReasonCode::NOT_AUTHORIZED);
}

#[test]
fn clients_come_in_after_a_restart_without_the_cloud() {
    let cloud = Cloud::start();
    let mut router = setup(&cloud).start();
    connect(&cloud, &router, DEVICE).ping();
    let sealed = router.store().join("edge/identities.sealed");
    until("the identities to be kept", || sealed.exists().then_some(()));
    let key = cloud.hub.identity(DEVICE).expect("an identity").key().to_owned();
    let kept = std::fs::read(&sealed).expect("a file");
    assert!(!kept.windows(key.len()).any(|window| window == key.as_bytes()), "no key lies open");
    cloud.hub.set_offline(true);
    router.kill();
    router.start_again();
    connect(&cloud, &router, DEVICE).ping();
    // Nobody can say who this is, and it is not kept waiting.
    cloud.hub.put(Identity::device("late").below(GATEWAY)).expect("an identity");
    assert_eq!(try_connect(&cloud, &router, "late").greeting.reason, ReasonCode::SERVER_UNAVAILABLE);
    cloud.hub.set_offline(false);
    until("the newcomer to come in", || {
        (try_connect(&cloud, &router, "late").greeting.reason == ReasonCode::SUCCESS).then_some(())
    });
}

#[test]
fn a_certificate_is_renewed_while_clients_stay() {
    let cloud = Cloud::start();
    cloud.workload.limit_certificates(Some(Duration::from_secs(10)));
    let router = setup(&cloud).start();
    let mut client = connect(&cloud, &router, DEVICE);
    let shown = || {
        let connected = trust(&cloud).connect(router.listener("tls")).ok()?;
        Some(connected.conn.peer_certificates()?.first()?.to_vec())
    };
    let first = shown().expect("a certificate");
    // Refused, the first one stays, and it is asked for again before that is over.
    let refusal =
        Misbehaviour { only: "/certificate/server".into(), status: Some(403), ..Default::default() };
    cloud.workload.misbehave(refusal);
    until("a refusal", || {
        router.log().contains("the certificate is not renewed; the old one stays").then_some(())
    });
    client.ping();
    let days = || router.listener_status("tls")["certificates"][0]["expires_in_days"].as_i64();
    assert_eq!(days().filter(|days| *days > 0), None, "the one that ends soon");
    cloud.workload.limit_certificates(None);
    cloud.workload.misbehave(Misbehaviour::default());
    until("another certificate", || shown().filter(|now| *now != first));
    until("its end", || days().filter(|days| *days > 0));
    client.ping();
    connect(&cloud, &router, &format!("{GATEWAY}/{MODULE}")).ping();
}

const HUB: &str = "gw1/$edgeHub";

pub(crate) fn desired(route: &str) -> Value {
    json!({
        "schemaVersion": "1.1",
        "routes": { "up": { "route": route, "priority": 1, "timeToLiveSecs": 3600 } },
        "storeAndForwardConfiguration": { "timeToLiveSecs": 7200 },
    })
}

/// What the gateway says of a version of its desired properties.
fn status(cloud: &Cloud, version: u64) -> Value {
    until(&format!("a word about version {version}"), || {
        let reported = Value::Object(cloud.hub.twin(HUB).reported.properties.clone());
        (reported["lastDesiredVersion"] == json!(version)).then_some(reported)
    })
}

#[test]
fn routes_come_from_the_module_twin_and_a_bad_one_changes_nothing() {
    let cloud = Cloud::start();
    let good = "FROM /messages/* WHERE level = 'high' INTO $upstream";
    let version = cloud.hub.patch_desired(HUB, &desired(good)).expect("a patch");
    let mut router = led_by_twin(&cloud)
        .set("uplink.upstream.kind", "iothub")
        .set("uplink.upstream.backoff_min_ms", 20)
        .set("uplink.upstream.backoff_max_ms", 500)
        .start();
    assert_eq!(status(&cloud, version)["lastDesiredStatus"]["code"], json!(200));
    let publish = |router: &Router, level: &str, text: &str| {
        let mut device = connect(&cloud, router, DEVICE);
        device.publish(&format!("devices/{DEVICE}/messages/events/level={level}"), text, QOS_1);
    };
    let arrived = || cloud.hub.telemetry().into_iter().map(|it| it.body).collect::<Vec<_>>();
    publish(&router, "high", "one");
    publish(&router, "low", "two");
    until("the one", || (arrived().len() == 1).then_some(()));

    let bad = cloud.hub.patch_desired(HUB, &desired("FROM /messages/* WHERE nofunction(1) INTO $upstream"));
    let said = status(&cloud, bad.expect("a patch"));
    assert_eq!(said["lastDesiredStatus"]["code"], json!(400), "compiled before anything is said");
    assert!(
        said["lastDesiredStatus"]["description"].as_str().is_some_and(|text| text.contains("routes.up")),
        "{said}"
    );
    publish(&router, "high", "three");
    until("the other", || (arrived().len() == 2).then_some(()));
    assert_eq!(said["schemaVersion"], json!("1.0"));
    // Text is no number there, as in edgeHub; a plain configuration would take it.
    let loose = cloud.hub.patch_desired(HUB, &desired("FROM /messages/* WHERE level > 30 INTO $upstream"));
    assert_eq!(status(&cloud, loose.expect("a patch"))["lastDesiredStatus"]["code"], json!(400));

    // A start has those of its last good version, cloud or not, and says again what it thinks of the newest.
    cloud.hub.set_offline(true);
    router.kill();
    router.start_again();
    publish(&router, "low", "leads nowhere");
    publish(&router, "high", "three more");
    cloud.hub.set_offline(false);
    until("what the last good route takes", || arrived().contains(&b"three more".to_vec()).then_some(()));

    let all = cloud.hub.patch_desired(HUB, &json!({"routes": {"up": "FROM /messages/* INTO $upstream"}}));
    assert_eq!(status(&cloud, all.expect("a patch"))["lastDesiredStatus"]["code"], json!(200));
    publish(&router, "low", "four");
    until("all", || arrived().contains(&b"four".to_vec()).then_some(()));
    assert!(!arrived().contains(&b"leads nowhere".to_vec()));

    // Without the cloud the routes are those of the last run.
    cloud.hub.set_offline(true);
    router.kill();
    router.start_again();
    publish(&router, "low", "five");
    cloud.hub.set_offline(false);
    // What was sent just before the kill may come twice.
    until("what waited", || arrived().contains(&b"five".to_vec()).then_some(()));
}

#[test]
fn identities_are_looked_up_when_the_cloud_says_that_they_have_changed() {
    let cloud = Cloud::start();
    cloud.hub.patch_desired(HUB, &desired("FROM /messages/* INTO $upstream")).expect("a patch");
    let router = led_by_twin(&cloud).set("edge.scope_refresh_secs", 3_600).start();
    let (mut device, mut other) =
        (connect(&cloud, &router, DEVICE), connect(&cloud, &router, &format!("{GATEWAY}/{MODULE}")));
    cloud.hub.set_enabled(DEVICE, false);
    let call = |method: &str, payload: Value| {
        let patience = Duration::from_secs(10);
        cloud.hub.call_method(HUB, method, &payload, patience, patience).map(|(status, _)| status)
    };
    let refresh = "RefreshDeviceScopeIdentityCache";
    assert!(matches!(call(refresh, json!({"deviceIds": "all"})), Ok(400)));
    assert!(matches!(call("Other", json!({})), Ok(404)));
    other.ping();
    // What cannot be looked up is not said to be.
    cloud.hub.set_rest_status(Some(503));
    assert!(matches!(call(refresh, json!({"deviceIds": [DEVICE]})), Ok(500)));
    device.ping();
    cloud.hub.set_rest_status(None);
    assert!(matches!(call(refresh, json!({"deviceIds": [DEVICE]})), Ok(200)));
    device.ending();
    other.ping();
}

/// Plug and Play lives by the model; with it goes the library, for whoever looks at connections in the cloud.
#[test]
fn what_a_client_says_of_itself_goes_up_with_its_link_and_after_it_has_gone() {
    let cloud = Cloud::start();
    let mut router = setup(&cloud)
        .set("routes.up", "FROM /messages/* INTO $upstream")
        .set("uplink.upstream.kind", "iothub")
        .set("uplink.upstream.backoff_min_ms", 20)
        .set("uplink.upstream.backoff_max_ms", 500)
        .start();
    let as_pump = |router: &Router, model: &str, text: &str| {
        let mut connect = hello(&cloud, DEVICE);
        let said = format!("&DeviceClientType=py%2F2.1&model-id=dtmi%3Aplant%3Apump%3B{model}");
        connect.user_name.as_mut().expect("a user name").push_str(&said);
        let connection =
            Connection::open_tls(router.listener("tls"), Version::V3, &trust(&cloud)).expect("a handshake");
        let mut client = Client::over(connection, &connect).expect("a CONNACK");
        client.publish(&format!("devices/{DEVICE}/messages/events/"), text, QOS_1);
        client
    };
    let has_model = |model: &str| {
        until(&format!("a link with model {model}"), || {
            let links = cloud.hub.connections();
            let link = links.into_iter().find(|link| link.id == DEVICE)?;
            (link.model_id == Some(format!("dtmi:plant:pump;{model}"))).then_some(link)
        })
    };
    let client = as_pump(&router, "1", "one");
    let library = has_model("1").product_info.unwrap_or_default();
    assert!(library.starts_with("py/2.1 Millrace/"), "{library}");
    // Another model counts from the next link on.
    drop(client);
    let kept = router.store().join("edge/cards.sealed");
    let first = until("it to be kept", || std::fs::read(&kept).ok());
    drop(as_pump(&router, "2", "two"));
    until("the other to be kept", || (std::fs::read(&kept).ok()? != first).then_some(()));
    cloud.hub.disconnect(DEVICE);
    drop(as_pump(&router, "2", "three"));
    has_model("2");
    // What it has sent goes up when it has gone, after a restart too.
    cloud.hub.set_offline(true);
    drop(as_pump(&router, "2", "four"));
    router.kill();
    router.start_again();
    cloud.hub.set_offline(false);
    has_model("2");
    assert_eq!(cloud.hub.violations(), []);
}

/// As on a gateway where edgeHub was before: its user, its folder with its storage in it, which only that user may enter.
#[test]
fn an_unprivileged_user_starts_beside_the_storage_of_an_edgehub() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    const USER: u32 = 13_623;
    let cloud = Cloud::start();
    let folder = tempfile::tempdir().expect("a directory");
    let own = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        // As ourselves, where we may not become somebody else.
        std::os::unix::fs::chown(path, Some(USER), Some(USER)).ok();
    };
    let old = folder.path().join("edgeHub");
    std::fs::create_dir(&old).expect("a folder");
    let files = ["CURRENT", "000123.sst", "EdgeHubIV"].map(|name| old.join(name));
    for file in &files {
        std::fs::write(file, "what edgeHub has not delivered").expect("a file");
        own(file, 0o600);
    }
    own(&old, 0o700);
    own(folder.path(), 0o755);
    // The runtime's socket is for everybody.
    for path in [cloud.home().to_owned(), cloud.home().join("workload.sock")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("a mode");
    }
    let store = folder.path().join("millrace");
    let mut router = setup(&cloud)
        .env("StorageFolder", folder.path().display().to_string())
        .store(&store)
        .user(USER)
        .start();
    connect(&cloud, &router, DEVICE).ping();
    let log = router.log();
    assert!(log.contains("the storage of an edgeHub is here; it is neither read nor changed"), "{log}");
    let process = std::fs::metadata(format!("/proc/{}", router.process().id())).expect("a process");
    let stored = std::fs::metadata(store.join("edge")).expect("a folder");
    assert_eq!((stored.uid(), stored.mode() & 0o777), (process.uid(), 0o700));
    router.terminate();
    router.start_again();
    connect(&cloud, &router, DEVICE).ping();
    for file in &files {
        assert_eq!(std::fs::read_to_string(file).expect("a file"), "what edgeHub has not delivered");
    }
    assert_eq!(std::fs::read_dir(&old).expect("a folder").count(), files.len());
}

/// Beside identities, too, whose `devices/#` nobody else may publish to.
#[test]
fn a_plain_client_speaks_for_no_identity_by_a_topic_that_only_ends_like_one_of_its() {
    let cloud = Cloud::start();
    let behind = format!("plant/devices/{DEVICE}/messages/events/");
    let router = setup(&cloud)
        .set("auth.anonymous", true)
        .set("auth.acl", r#"["allow publish plant/#"]"#)
        .set("routing.mode", "millrace")
        .set("routes.up", r##"FROM "#" INTO $upstream"##)
        .set("uplink.upstream.kind", "iothub")
        .set("uplink.upstream.speakers", r#"["*"]"#)
        .set("listener.plain.kind", "tcp")
        .set("listener.plain.bind", "127.0.0.1:0")
        .start();
    let will = Will { topic: behind.clone(), payload: b"will".to_vec(), qos: QOS_1, ..Will::default() };
    let mut sensor =
        Client::connect(router.listener("plain"), &Connect { will: Some(will), ..v3("sensor7") });
    sensor.publish(&behind, "publication", QOS_1);
    sensor.vanish();
    connect(&cloud, &router, DEVICE).publish(&format!("devices/{DEVICE}/messages/events/"), "honest", QOS_1);
    until("all three", || (cloud.hub.recorded() >= 3).then_some(()));
    let mut seen: Vec<_> = cloud.hub.telemetry().iter().map(|it| (it.id(), it.text())).collect();
    seen.sort();
    let expected = [(DEVICE, "honest"), (HUB, "publication"), (HUB, "will")];
    assert_eq!(seen, expected.map(|(id, text)| (id.to_owned(), text.to_owned())));
    assert_eq!(cloud.hub.violations(), []);
}
