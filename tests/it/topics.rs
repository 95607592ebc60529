//! The topics of the IoT Hub dialect, byte for byte: the rows of `topics.txt`, each against a running gateway with an IoT Hub above it
//! and a module beside it that gets every message. How a row is written stands in the table.
//!
//! Behind every row its client sends one more message: once that has arrived on both ways, nothing else is on its way.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

use harness::azure::{Cloud, DEVICE, GATEWAY};
use harness::{
    Client, Connection, OutgoingPublish, PATIENCE, QOS_1, ReasonCode, Received, Router, Version, until,
};
use iothub::{CallError, CloudMessage, Identity};
use serde_json::Value;
use wire::Subscription;

use crate::runtime::{hello, setup, trust};

/// Read when it is played, so that a row can be tried without a build.
static TABLE: LazyLock<String> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/it/topics.txt");
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
});
const ML: &str = "gw1/ml";

/// Everything that `reference/edgehub.md` says about topics, §2.3 to §2.10: each needs a row.
const ROWS: &str = "
    2.3.device 2.3.module 2.3.legacy 2.3.preview 2.3.version 2.3.host 2.3.bad 2.3.id
    2.4.1 2.4.2 2.4.3 2.4.4 2.4.5 2.4.6 2.4.7 2.4.8 2.4.9 2.4.prefix 2.4.case 2.4.sender 2.4.override
    2.5.pairs 2.5.escape 2.5.plus 2.5.null 2.5.no-name 2.5.equals 2.5.question 2.5.last
    2.5.$.mid 2.5.$.cid 2.5.$.ct 2.5.$.ce 2.5.$.to 2.5.$.uid 2.5.$.exp 2.5.$.on 2.5.$.schema 2.5.$.ctime 2.5.$.ifid 2.5.$.sub
    2.5.ack 2.5.iothub-operation 2.5.$.cdid 2.5.$.cmid 2.5.unknown 2.5.order
    2.6.c2d 2.6.inputs 2.6.methods 2.6.desired 2.6.twin-res 2.6.other
    2.7.get 2.7.patch 2.7.query 2.7.no-rid 2.7.patch-no-rid 2.7.400 2.7.unknown 2.7.path
    2.8.answer 2.8.late 2.8.status 2.8.no-rid 2.8.not-subscribed 2.8.timeout 2.8.complete 2.8.locks 2.8.in-flight
    2.9.template 2.9.bag 2.9.size 2.9.route 2.9.store 2.9.twin 2.9.method
    2.10.telemetry 2.10.output 2.10.c2d 2.10.twin 2.10.method";

struct Row<'t> {
    ids: Vec<&'t str>,
    who: &'t str,
    versions: Vec<Version>,
    name: &'t str,
    steps: Vec<&'t str>,
}

fn rows() -> Vec<Row<'static>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(row) = line.strip_prefix('[') else {
            rows.last_mut().unwrap_or_else(|| panic!("a step without a row: {line}")).steps.push(line);
            continue;
        };
        let fault = || panic!("no row: {line}");
        let (ids, rest) = row.split_once("] ").unwrap_or_else(fault);
        let (head, name) = rest.split_once(": ").unwrap_or_else(fault);
        let (who, written) = head.split_once(' ').unwrap_or_else(fault);
        let versions = [('3', Version::V3), ('5', Version::V5)].into_iter();
        let versions = versions.filter(|(digit, _)| written.contains(*digit)).map(|(_, version)| version);
        rows.push(Row {
            ids: ids.split(' ').collect(),
            who,
            versions: versions.collect(),
            name,
            steps: Vec::new(),
        });
    }
    rows
}

#[test]
fn every_row_of_the_reference_is_in_the_table_and_no_other() {
    let found: BTreeSet<&str> = rows().iter().flat_map(|row| row.ids.clone()).collect();
    let known: BTreeSet<&str> = ROWS.split_whitespace().collect();
    let (missing, strange): (Vec<_>, Vec<_>) =
        (known.difference(&found).collect(), found.difference(&known).collect());
    assert!(
        missing.is_empty() && strange.is_empty(),
        "without a row: {missing:?}; not in the reference: {strange:?}"
    );
    let empty: Vec<_> = rows().into_iter().filter(|row| row.steps.is_empty()).map(|row| row.name).collect();
    assert!(empty.is_empty(), "these show nothing: {empty:?}");
}

#[test]
fn topics_are_what_the_reference_says_byte_for_byte() {
    let cloud = Cloud::start();
    cloud.hub.put(Identity::module(GATEWAY, "ml")).expect("an identity");
    let router = setup(&cloud)
        .set("listener.tcp.identities", "iothub")
        .set("auth.failures_free", 1_000)
        .set("limits.packet_bytes_max", 300_000) // so that a message can be too large whose packet is not
        .set("uplink.upstream.kind", "iothub")
        .set("uplink.upstream.backoff_min_ms", 20)
        .set("uplink.upstream.backoff_max_ms", 500)
        .set("uplink.upstream.id_property", "\"\"") // it would stand in every topic, and is another each time
        .set("routes.up", "FROM /messages/* INTO $upstream")
        .set("routes.in", r#"FROM /messages/* INTO BrokeredEndpoint("/modules/ml/inputs/all")"#)
        .set(
            "routes.high",
            r#"FROM /messages/* WHERE kind = 'high' INTO BrokeredEndpoint("/modules/ml/inputs/high")"#,
        )
        .start();
    let ml = until("the scope to be known", || {
        let client = Client::try_connect(router.address(), &hello(&cloud, ML)).expect("a CONNACK");
        (client.greeting.reason == ReasonCode::SUCCESS).then_some(client)
    });
    let mut stage = Stage { cloud: Arc::new(cloud), router, ml, number: 0 };
    stage.ml.subscribe("devices/gw1/modules/ml/#", QOS_1);
    let mut wrong = Vec::new();
    for row in rows() {
        for version in &row.versions {
            wrong.extend(stage.play(&row, *version));
        }
    }
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
    // TODO as soon as a link sends no request before it has asked for the answers: none at all. A client that comes again at once
    // makes one, while its link still waits for the end of what it listened to before.
    let mut violations = stage.cloud.hub.violations();
    violations.retain(|it| !it.text.contains("without a subscription to the answers"));
    assert_eq!(violations, []);
}

/// §9.2: IoT Hub knows a device behind the gateway by the model that the device has named, also if it names it later.
#[test]
fn a_clients_library_and_model_go_up_with_its_link() {
    let cloud = Cloud::start();
    let router = setup(&cloud)
        .set("uplink.upstream.kind", "iothub")
        .set("uplink.upstream.backoff_min_ms", 20)
        .set("routes.up", "FROM /messages/* INTO $upstream")
        .start();
    let connect = |more: &str| {
        let mut connect = hello(&cloud, DEVICE);
        connect.user_name = connect.user_name.map(|name| format!("{name}{more}"));
        let connection = Connection::open_tls(router.listener("tls"), Version::V3, &trust(&cloud));
        let client = Client::over(connection.expect("a handshake"), &connect).expect("a CONNACK");
        assert_eq!(client.greeting.reason, ReasonCode::SUCCESS);
        client
    };
    let says = |text: &str| {
        let link = cloud.hub.connections().into_iter().find(|it| it.id == DEVICE)?;
        (link.model_id.as_deref() == Some(text)).then(|| link.product_info.unwrap_or_default())
    };
    let first = until("the scope to be known", || {
        let connection = Connection::open_tls(router.listener("tls"), Version::V3, &trust(&cloud));
        let client =
            Client::over(connection.expect("a handshake"), &hello(&cloud, DEVICE)).expect("a CONNACK");
        (client.greeting.reason == ReasonCode::SUCCESS).then_some(client)
    });
    first.disconnect();
    let mut device = connect("&DeviceClientType=py%2F2.1&model-id=dtmi%3Aplant%3Apress%3B1");
    device.publish("devices/d1/messages/events/", "x", QOS_1);
    let library = until("its link", || says("dtmi:plant:press;1"));
    assert!(library.starts_with("py/2.1 Millrace/"), "{library}");
    device.disconnect();
    let _device = connect("&model-id=dtmi%3Aplant%3Apress%3B2");
    until("a link of its new model", || says("dtmi:plant:press;2"));
}

struct Stage {
    cloud: Arc<Cloud>,
    router: Router,
    ml: Client,
    /// Of what is played; `{n}` in a step.
    number: u32,
}

/// What a row has come to so far.
#[derive(Default)]
struct Played {
    client: Option<Client>,
    /// What `{rid}` stands for.
    rid: String,
    up: Vec<String>,
    input: Vec<String>,
    payload: Vec<u8>,
    told: Option<mpsc::Receiver<Result<(i64, Value), CallError>>>,
    message_id: String,
    /// Nobody listens to what IoT Hub says.
    is_alone: bool,
}

impl Stage {
    /// Plays a row; what is wrong.
    fn play(&mut self, row: &Row<'_>, version: Version) -> Option<String> {
        self.number += 1;
        let place = format!("[{}] {version:?}: {}", row.ids.join(" "), row.name);
        let id = if row.who == DEVICE { DEVICE.to_owned() } else { format!("{GATEWAY}/{}", row.who) };
        let (before, counts) = (self.cloud.hub.recorded(), self.counters());
        let is_alone = !row.steps.iter().any(|step| step.starts_with("sub "));
        let mut played = Played { payload: b"x".to_vec(), is_alone, ..Played::default() };
        if !row.steps[0].starts_with(['@', 'e']) {
            played.client = Some(self.connect(&id, version, None));
        }
        let steps = std::panic::AssertUnwindSafe(|| {
            self.play_steps(row, (&place, &id, version), &mut played, &counts)
        });
        let fault = std::panic::catch_unwind(steps).err().map(|fault| match fault.downcast::<String>() {
            Ok(text) => *text,
            Err(_) => place.clone(),
        });
        let wrong = self.end(&place, &id, version, played, before);
        fault.or(wrong)
    }

    #[track_caller]
    fn play_steps(
        &mut self,
        row: &Row<'_>,
        (place, id, version): (&str, &str, Version),
        played: &mut Played,
        counts: &Value,
    ) {
        for step in &row.steps {
            let step = step.replace("{n}", &self.number.to_string()).replace("{hub}", self.cloud.hub.host());
            let (word, rest) = step.split_once(' ').unwrap_or((step.as_str(), ""));
            match word {
                "@" => played.client = self.greet(place, id, version, rest),
                "count" => {
                    let of = |counts: &Value| counts[rest].as_u64().unwrap_or_default();
                    let is_counted = || (of(&self.counters()) == of(counts) + 1).then_some(());
                    until(&format!("{place}: {rest}"), is_counted);
                }
                "log" => {
                    let log = self.router.log();
                    assert!(log.contains(rest), "{place}: {rest:?} is not in the log\n{log}");
                }
                "elsewhere" => is_shown(place, rest),
                _ => self.step(place, id, version, played, (word, rest)),
            }
        }
    }

    #[track_caller]
    fn step(&self, place: &str, id: &str, version: Version, played: &mut Played, (word, rest): (&str, &str)) {
        let client = || panic!("{place}: no connection");
        match word {
            "up" => played.up.push(rest.to_owned()),
            "in" => played.input.push(rest.to_owned()),
            "sub" => {
                let (wanted, filter) = rest.split_once(' ').expect("a code and a filter");
                let client = played.client.as_mut().unwrap_or_else(client);
                let subscription = Subscription::new(filter, QOS_1);
                let granted = client.subscribe_with(vec![subscription], None);
                assert_eq!(granted, [code(wanted, version)], "{place}: {filter}");
            }
            ">" => {
                let (wanted, rest) = rest.split_once(' ').expect("a code and a topic");
                let rest = rest.replace("{rid}", &played.rid);
                let (topic, payload) = rest.split_once(' ').unwrap_or((&rest, "x"));
                // A number in braces: so many bytes.
                let len = payload.strip_prefix('{').and_then(|it| it.strip_suffix('}')?.parse().ok());
                played.payload = len.map_or_else(|| payload.as_bytes().to_vec(), |len| vec![b'x'; len]);
                let publish =
                    OutgoingPublish { topic, payload: &played.payload, qos: QOS_1, ..Default::default() };
                let wanted = for_version(wanted, version);
                let client = played.client.as_mut().unwrap_or_else(client);
                if wanted == "closed" {
                    client.send(&publish);
                    played.client.take().unwrap_or_else(|| panic!("{place}")).ending();
                } else {
                    assert_eq!(client.reason_of(&publish), code(wanted, version), "{place}: {topic}");
                }
            }
            "<" => {
                let (topic, payload) = rest.split_once(' ').unwrap_or((rest, ""));
                let message = played.client.as_mut().unwrap_or_else(client).message();
                played.rid = matched(topic, &message)
                    .unwrap_or_else(|| panic!("{place}: not {topic}, but {}", message.topic));
                let text = String::from_utf8_lossy(&message.payload);
                assert!(payload == "*" || payload == text, "{place}: not {payload}, but {text}");
            }
            "cloud" => {
                let (bag, body) = rest.split_once(' ').expect("a bag and a body");
                let pairs = bag.split('&').filter_map(|pair| pair.split_once('='));
                let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
                let (system, properties) = pairs.partition(|(name, _)| name.starts_with("$."));
                played.message_id = format!("m{}", self.number);
                let message_id = played.message_id.clone();
                let (body, ack) = (body.as_bytes().to_vec(), "full".to_owned());
                let message = CloudMessage { message_id, body, ack, properties, system, expires: None };
                self.cloud.hub.send_to_device(id, message);
            }
            "done" => until(&format!("{place}: the feedback"), || {
                let feedback = self.cloud.hub.feedback();
                feedback
                    .iter()
                    .any(|it| it.original_message_id == played.message_id && it.description == "Success")
                    .then_some(())
            }),
            "call" => {
                let (name, payload) = rest.split_once(' ').expect("a name and a payload");
                let payload: Value = serde_json::from_str(payload).expect("JSON");
                let connect = if played.is_alone { Duration::ZERO } else { PATIENCE };
                played.told = Some(self.call(id, (name, payload), connect));
            }
            "result" => {
                let told = played.told.take().unwrap_or_else(|| panic!("{place}: nothing was called"));
                let told = told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{place}: no result"));
                match (rest.split_once(' '), told) {
                    (Some((status, payload)), Ok(told)) => {
                        let payload: Value = serde_json::from_str(payload).expect("JSON");
                        assert_eq!(told, (status.parse().expect("a number"), payload), "{place}");
                    }
                    (None, Err(CallError::NotFound)) if rest == "404" => {}
                    (_, told) => panic!("{place}: not {rest}, but {told:?}"),
                }
            }
            "desired" => {
                let patch: Value = serde_json::from_str(rest).expect("JSON");
                let filter = "$iothub/twin/PATCH/properties/desired/#";
                until(&format!("{place}: its link to listen"), || {
                    let links = self.cloud.hub.connections();
                    let link = links.iter().find(|it| it.id == id)?;
                    link.filters.iter().any(|it| it == filter).then_some(())
                });
                self.cloud.hub.patch_desired(id, &patch).expect("a legal patch");
            }
            "reported" => {
                let wanted: Value = serde_json::from_str(rest).expect("JSON");
                until(&format!("{place}: {rest}"), || {
                    let reported = Value::Object(self.cloud.hub.twin(id).reported.properties);
                    (reported == wanted).then_some(())
                });
            }
            other => panic!("{place}: {other:?} is no step"),
        }
    }

    /// Waits until everything that came of a row has arrived; what is wrong with that.
    #[track_caller]
    fn end(
        &mut self,
        place: &str,
        id: &str,
        version: Version,
        played: Played,
        before: u64,
    ) -> Option<String> {
        drop(played.client);
        let mut client = self.connect(id, version, None);
        let last = format!("behind row {}", self.number);
        let path = id.replace('/', "/modules/");
        client.publish(&format!("devices/{path}/messages/events/"), &last, QOS_1);
        let mut came = until(&format!("{place}: the message behind it in the cloud"), || {
            let came = self.cloud.hub.telemetry_since(before);
            came.iter().any(|it| it.text() == last).then_some(came)
        });
        came.retain(|it| it.text() != last);
        let topics: Vec<_> = came.iter().map(|it| it.topic.clone()).collect();
        let is_whole = came.iter().all(|it| it.id() == id && it.body == played.payload);
        let (mut inputs, mut is_whole) = (Vec::new(), is_whole);
        loop {
            let message = self.ml.message();
            if message.text() == last {
                break;
            }
            is_whole &= message.payload == played.payload;
            inputs.push(message.topic);
        }
        client.disconnect();
        if topics != played.up {
            return Some(format!("{place}: at IoT Hub not {:?}, but {topics:?}", played.up));
        }
        if inputs != played.input {
            return Some(format!("{place}: at the input not {:?}, but {inputs:?}", played.input));
        }
        (!is_whole).then(|| format!("{place}: another payload, or another sender"))
    }

    #[track_caller]
    fn connect(&self, id: &str, version: Version, user: Option<&str>) -> Client {
        let (client, place) = self.try_connect(id, version, user);
        assert_eq!(client.greeting.reason, ReasonCode::SUCCESS, "{place}");
        client
    }

    fn try_connect(&self, id: &str, version: Version, user: Option<&str>) -> (Client, String) {
        let mut connect = hello(&self.cloud, id);
        connect.version = version;
        if let Some(user) = user {
            connect.user_name = Some(user.to_owned());
        }
        let place = format!("{:?}", connect.user_name);
        (Client::try_connect(self.router.address(), &connect).expect("a CONNACK"), place)
    }

    /// `[CODE ]USER NAME`
    #[track_caller]
    fn greet(&self, place: &str, id: &str, version: Version, step: &str) -> Option<Client> {
        let (wanted, user) = step.split_once(' ').unwrap_or(("00", step));
        let (client, _) = self.try_connect(id, version, Some(user));
        // CONNACK of 3.1.1 has numbers of its own.
        let found = match version {
            Version::V3 => client.greeting.reason.connect_return_code_v3(),
            Version::V5 => client.greeting.reason.bits(),
        };
        assert_eq!(format!("{found:02X}"), for_version(wanted, version), "{place}: {user}");
        (!client.greeting.reason.is_error()).then_some(client)
    }

    fn counters(&self) -> Value {
        self.router.status()["counters"].clone()
    }

    /// Calls a method, from a thread of its own. `connect`: how long IoT Hub waits for a client that listens.
    fn call(
        &self,
        id: &str,
        (name, payload): (&str, Value),
        connect: Duration,
    ) -> mpsc::Receiver<Result<(i64, Value), CallError>> {
        let (tell, told) = mpsc::sync_channel(1);
        let (cloud, id, name) = (Arc::clone(&self.cloud), id.to_owned(), name.to_owned());
        std::thread::spawn(move || {
            drop(tell.send(cloud.hub.call_method(&id, &name, &payload, PATIENCE, connect))); // the test may be over
        });
        told
    }
}

/// `A|B`: in 3.1.1, and in 5.0.
fn for_version(text: &str, version: Version) -> &str {
    let (old, new) = text.split_once('|').unwrap_or((text, text));
    if version == Version::V3 { old } else { new }
}

#[track_caller]
fn code(text: &str, version: Version) -> ReasonCode {
    let text = for_version(text, version);
    let number = u8::from_str_radix(text, 16).unwrap_or_else(|_| panic!("{text} is no code"));
    ReasonCode::from_bits(number).unwrap_or_else(|| panic!("{text} is no code"))
}

/// What `{rid}` in `pattern` stands for in the topic of a message, if that fits.
fn matched(pattern: &str, message: &Received) -> Option<String> {
    match pattern.split_once("{rid}") {
        None => (pattern == message.topic).then(String::new),
        Some((head, tail)) => {
            let rest = message.topic.strip_prefix(head)?.strip_suffix(tail)?;
            (!rest.is_empty() && !rest.contains(['/', '&'])).then(|| rest.to_owned())
        }
    }
}

/// `FILE TEST`: the test is there.
#[track_caller]
fn is_shown(place: &str, step: &str) {
    let (file, test) = step.split_once(' ').unwrap_or_else(|| panic!("{place}: {step}"));
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../");
    let path = format!("{root}{file}");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{place}: {path}: {error}"));
    assert!(text.contains(&format!("fn {test}()")), "{place}: {test} is not in {file}");
}
