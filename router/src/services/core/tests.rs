//! Twins with and without IoT Hub, reports that wait, patches that were missed, calls and how they end.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use broker::{HubAnswer, HubRequest, Unanswered};
use hub::topics::{Feature, Features};
use hub::twin;
use serde_json::{Value, json};

use super::*;

mod absent;
mod own;
mod posts;

const SHARD: ShardId = ShardId(1);
const CONN: ConnId = ConnId(7);

struct Bench {
    core: Core,
    now: Instant,
}

impl Bench {
    fn new(has_cloud: bool) -> Bench {
        Bench { core: Core::new(has_cloud), now: Instant(1_000_000) }
    }

    fn ask(&mut self, request: HubRequest) {
        self.core.on_request(SHARD, request, None, self.now);
    }

    fn connect(&mut self, features: &[Feature]) {
        self.connect_with(features, None);
    }

    fn connect_with(&mut self, features: &[Feature], stored: Option<Twin>) {
        let features = features.iter().fold(Features::default(), |all, feature| all.with(*feature));
        let client = "d1".into();
        let request = HubRequest::Connected { conn: CONN, client, features };
        assert_eq!(self.core.wants_twin_for(&request), Some("d1"));
        self.core.on_request(SHARD, request, stored, self.now);
    }

    fn disconnect(&mut self) {
        self.ask(HubRequest::Disconnected { conn: CONN, client: "d1".into() });
    }

    fn get(&mut self, rid: &str) {
        self.ask(HubRequest::TwinGet { conn: CONN, client: "d1".into(), rid: rid.into() });
    }

    fn report(&mut self, rid: &str, patch: &Value) {
        let patch = patch.to_string().into_bytes().into();
        self.ask(HubRequest::TwinReported { conn: CONN, client: "d1".into(), rid: Some(rid.into()), patch });
    }

    fn up(&mut self) {
        self.core.on_news(News::Up("d1".into()), self.now);
    }

    fn hear(&mut self, topic: &str, payload: &Value) {
        let payload = if payload.is_null() { Vec::new() } else { payload.to_string().into_bytes() };
        let heard = Heard { topic: topic.to_owned(), payload, ack: None };
        self.core.on_news(News::Heard("d1".into(), heard), self.now);
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now.plus_millis(millis);
        self.core.on_time(self.now);
    }

    /// What clients are told, once their twins are kept.
    fn told(&mut self) -> Vec<HubAnswer> {
        self.core.kept(&BTreeSet::new(), 0.01);
        let told = self.core.take_answers().into_iter().map(|told| told.answer);
        told.filter(|answer| !matches!(answer, HubAnswer::TwinChange { .. })).collect()
    }

    /// What goes up, without what is listened to.
    fn said(&mut self) -> Vec<(String, Value)> {
        let say = |order| match order {
            Order::Say { topic, payload, .. } => {
                Some((topic, serde_json::from_slice(&payload).unwrap_or(Value::Null)))
            }
            Order::Listen { .. } | Order::Acknowledge { .. } | Order::Return { .. } => None,
        };
        self.core.take_orders().into_iter().filter_map(say).collect()
    }

    fn heard_filters(&mut self) -> Vec<BTreeSet<String>> {
        let filters = |order| match order {
            Order::Listen { filters, .. } => Some(filters),
            Order::Say { .. } | Order::Acknowledge { .. } | Order::Return { .. } => None,
        };
        self.core.take_orders().into_iter().filter_map(filters).collect()
    }
}

fn twin(status: u16, rid: &str, body: &Value) -> HubAnswer {
    let body = if body.is_null() { Box::default() } else { body.to_string().into_bytes().into() };
    HubAnswer::Twin { status, rid: rid.into(), version: None, body }
}

fn set(filters: &[&str]) -> BTreeSet<String> {
    filters.iter().map(|filter| (*filter).to_owned()).collect()
}

const RES: &str = "$iothub/twin/res/#";
const NOTHING: Value = Value::Null;

#[test]
fn without_iot_hub_the_copy_here_is_the_twin() {
    let mut bench = Bench::new(false);
    bench.connect(&[Feature::TwinResponses]);
    bench.get("1");
    bench.report("2", &json!({"fw": "1.2", "gone": {"a": 1}}));
    bench.report("3", &json!({"gone": null}));
    bench.get("4");
    assert_eq!(
        bench.told(),
        [
            twin(200, "1", &json!({"desired": {"$version": 1}, "reported": {"$version": 1}})),
            twin(204, "2", &NOTHING),
            twin(204, "3", &NOTHING),
            twin(200, "4", &json!({"desired": {"$version": 1}, "reported": {"fw": "1.2", "$version": 3}})),
        ]
    );
    assert_eq!((bench.said().len(), bench.core.numbers().reports), (0, 2));
}

#[test]
fn a_report_that_is_none_changes_nothing() {
    let mut bench = Bench::new(false);
    bench.connect(&[]);
    bench.report("1", &json!([1]));
    bench.report("2", &json!({"a.b": 1}));
    bench.report("3", &json!({"long": "x".repeat(4_097)}));
    assert_eq!(bench.core.to_keep(), []);
    assert_eq!(bench.told(), ["1", "2", "3"].map(|rid| twin(400, rid, &NOTHING)));
    assert_eq!(bench.core.numbers().refused, 3);
}

#[test]
fn what_cannot_be_kept_is_told_and_not_believed() {
    let mut bench = Bench::new(false);
    bench.connect(&[]);
    bench.report("1", &json!({"a": 1}));
    assert_eq!(bench.core.to_keep().len(), 1);
    bench.core.kept(&["d1".into()].into_iter().collect(), 0.01);
    let told: Vec<_> = bench.core.take_answers().into_iter().map(|told| told.answer).collect();
    assert_eq!(told, [twin(500, "1", &NOTHING)]);
    bench.get("2");
    assert_eq!(
        bench.told(),
        [twin(200, "2", &json!({"desired": {"$version": 1}, "reported": {"$version": 1}}))]
    );
}

#[test]
fn a_twin_is_asked_of_iot_hub_while_the_link_is_up() {
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::TwinResponses, Feature::Desired, Feature::Methods]);
    let desired = "$iothub/twin/PATCH/properties/desired/#";
    assert_eq!(bench.heard_filters(), [set(&[RES, desired, "$iothub/methods/POST/#"])]);
    bench.core.on_news(News::Down("d1".into()), bench.now);
    bench.get("offline");
    assert_eq!(bench.told(), [twin(200, "offline", &json!({"desired": {}, "reported": {}}))]);
    bench.up();
    bench.up();
    let [(topic, _)] = &bench.said()[..] else { panic!("one question, for ourselves") };
    assert_eq!(topic, "$iothub/twin/GET/?$rid=1");
    let document = json!({"desired": {"rate": 5, "$version": 4}, "reported": {"$version": 2}});
    bench.hear("$iothub/twin/res/200/?$rid=1", &document);
    // What it was given was empty.
    let patch = json!({"rate": 5, "$version": 4}).to_string().into_bytes().into();
    assert_eq!(bench.told(), [HubAnswer::Desired { version: 4, patch }]);
    bench.get("7");
    assert_eq!(bench.said()[0].0, "$iothub/twin/GET/?$rid=2");
    assert_eq!(bench.told(), []);
    bench.hear("$iothub/twin/res/200/?$rid=2", &document);
    assert_eq!(bench.told(), [twin(200, "7", &document)]);
    // Nobody answers: what is known.
    bench.get("8");
    bench.pass(20_000);
    assert_eq!(bench.told(), [twin(200, "8", &document)]);
    bench.get("9");
    bench.core.on_news(News::Down("d1".into()), bench.now);
    assert_eq!(bench.told(), [twin(200, "9", &document)]);
    let numbers = bench.core.numbers();
    assert_eq!((numbers.gets_by_cloud, numbers.gets_from_here), (1, 3));
}

#[test]
fn a_request_waits_for_a_link_that_comes_up() {
    let mut bench = Bench::new(true);
    bench.connect(&[]);
    bench.get("7");
    assert_eq!((bench.told(), bench.said()), (vec![], vec![]));
    bench.up();
    let said: Vec<_> = bench.said().into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(said, ["$iothub/twin/GET/?$rid=2", "$iothub/twin/GET/?$rid=1"]);
    let document = json!({"desired": {"$version": 4}, "reported": {"$version": 2}});
    bench.hear("$iothub/twin/res/200/?$rid=1", &document);
    assert_eq!(bench.told(), [twin(200, "7", &document)]);
    // In vain: at once, and for whoever comes next.
    let mut bench = Bench::new(true);
    bench.connect(&[]);
    bench.get("1");
    bench.core.on_news(News::Down("d1".into()), bench.now);
    bench.disconnect();
    bench.told();
    bench.connect(&[]);
    bench.get("2");
    assert_eq!(bench.told().len(), 1);
}

#[test]
fn reports_merge_while_they_wait_and_go_up_one_at_a_time() {
    let mut bench = Bench::new(true);
    bench.connect(&[]);
    bench.report("1", &json!({"a": 1, "b": 1}));
    bench.report("2", &json!({"a": 2, "b": null}));
    assert_eq!(bench.told().len(), 2, "before IoT Hub knows");
    bench.up();
    bench.said();
    bench.hear(
        "$iothub/twin/res/200/?$rid=1",
        &json!({"desired": {"$version": 1}, "reported": {"b": 0, "c": 3, "$version": 8}}),
    );
    let patch = ("$iothub/twin/PATCH/properties/reported/?$rid=2".to_owned(), json!({"a": 2, "b": null}));
    assert_eq!(bench.said(), [patch]);
    bench.report("3", &json!({"d": 4}));
    assert_eq!(bench.said(), [], "one is on its way");
    bench.hear("$iothub/twin/res/204/?$rid=2&$version=9", &NOTHING);
    bench.pass(4_999);
    assert_eq!(bench.said(), []);
    bench.pass(1);
    assert_eq!(bench.said()[0].1, json!({"d": 4}));
    bench.hear("$iothub/twin/res/429/?$rid=3", &NOTHING);
    bench.pass(29_999);
    assert_eq!(bench.said(), []);
    bench.pass(1);
    assert_eq!(bench.said()[0].1, json!({"d": 4}));
    bench.hear("$iothub/twin/res/400/?$rid=4", &NOTHING);
    bench.pass(60_000);
    assert_eq!(bench.said(), [], "it will never be taken");
    let numbers = bench.core.numbers();
    assert_eq!((numbers.reports, numbers.reports_up, numbers.reports_rejected), (3, 1, 1));
}

#[test]
fn who_has_gone_is_remembered_until_its_report_is_up_or_the_link_is_down() {
    let mut bench = Bench::new(true);
    bench.connect(&[]);
    bench.up();
    bench.report("1", &json!({"a": 1}));
    bench.disconnect();
    assert_eq!(bench.heard_filters().last(), Some(&set(&[RES])));
    bench.told();
    assert!(bench.core.clients.contains_key("d1"));
    // 1 was our own question.
    bench.hear("$iothub/twin/res/204/?$rid=2&$version=9", &NOTHING);
    bench.told();
    assert_eq!(bench.heard_filters().last(), Some(&set(&[])));
    assert!(!bench.core.clients.contains_key("d1"));

    let mut twin = Twin::default();
    twin.report(&twin::object(br#"{"kept": 1}"#).expect("a patch")).expect("a report");
    bench.connect_with(&[], Some(twin));
    bench.disconnect();
    bench.told();
    assert!(bench.core.clients.contains_key("d1"), "the link may come up");
    bench.core.on_news(News::Down("d1".into()), bench.now);
    bench.told();
    assert!(!bench.core.clients.contains_key("d1"), "its report is on the disk");
}

#[test]
fn patches_are_passed_on_in_order_and_what_was_missed_is_made_up_for() {
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::Desired]);
    bench.up();
    bench.said();
    let document =
        |rate: u64, version: u64| json!({"desired": {"rate": rate, "$version": version}, "reported": {}});
    bench.hear("$iothub/twin/res/200/?$rid=1", &document(1, 4));
    let patch = |rate: u64, version: u64| HubAnswer::Desired {
        version,
        patch: json!({"rate": rate, "$version": version}).to_string().into_bytes().into(),
    };
    let topic = "$iothub/twin/PATCH/properties/desired/?$version=";
    bench.hear(&format!("{topic}5"), &json!({"rate": 2, "$version": 5}));
    bench.hear(&format!("{topic}5"), &json!({"rate": 2, "$version": 5}));
    assert_eq!(bench.told(), [patch(2, 5)], "once");
    bench.hear(&format!("{topic}7"), &json!({"rate": 4, "$version": 7}));
    assert_eq!(bench.told(), []);
    assert_eq!(bench.said()[0].0, "$iothub/twin/GET/?$rid=2");
    bench.hear("$iothub/twin/res/200/?$rid=2", &document(4, 7));
    assert_eq!(bench.told(), [patch(4, 7)]);
    // The link was down meanwhile.
    bench.core.on_news(News::Down("d1".into()), bench.now);
    bench.up();
    bench.hear("$iothub/twin/res/200/?$rid=3", &document(5, 9));
    assert_eq!(bench.told(), [patch(5, 9)]);
}

#[test]
fn a_call_ends_with_the_clients_answer_or_with_why_there_is_none() {
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::Methods]);
    let call = |bench: &mut Bench, rid: &str| {
        bench.hear(&format!("$iothub/methods/POST/reboot/?$rid={rid}"), &json!({"delay": 1}));
        let told = bench.told();
        let [HubAnswer::Method { name, rid, payload }] = &told[..] else { panic!("{told:?}") };
        assert_eq!((&**name, &**payload), ("reboot", &br#"{"delay":1}"#[..]));
        rid.clone()
    };
    bench.said();
    let ours = call(&mut bench, "c1");
    let answer = |rid: &str, client: &str| HubRequest::MethodResponse {
        client: client.into(),
        rid: rid.into(),
        status: "201".into(),
        payload: b"{\"ok\":true}".as_slice().into(),
    };
    bench.ask(answer(&ours, "d2"));
    bench.ask(answer("c1", "d1"));
    assert_eq!(bench.said(), [], "neither another client nor another call");
    bench.ask(answer(&ours, "d1"));
    assert_eq!(bench.said(), [("$iothub/methods/res/201/?$rid=c1".to_owned(), json!({"ok": true}))]);
    bench.ask(answer(&ours, "d1"));
    assert_eq!(bench.said(), [], "once");

    let ours = call(&mut bench, "c2");
    bench.core.on_unanswered(&ours, Unanswered::NotSubscribed);
    assert_eq!(bench.said()[0].0, "$iothub/methods/res/404/?$rid=c2");
    call(&mut bench, "c3");
    bench.pass(330_000);
    assert_eq!(bench.said()[0].0, "$iothub/methods/res/504/?$rid=c3");
    call(&mut bench, "c4");
    bench.disconnect();
    assert_eq!(bench.said()[0].0, "$iothub/methods/res/404/?$rid=c4");
    bench.connect(&[]);
    bench.hear("$iothub/methods/POST/reboot/?$rid=c5", &json!(null));
    assert_eq!(bench.said()[0].0, "$iothub/methods/res/404/?$rid=c5");
    let numbers = bench.core.numbers();
    assert_eq!((numbers.calls, numbers.calls_unanswered, numbers.answers_late), (4, 4, 3));
}

#[test]
fn the_gateways_own_twin_is_followed_and_says_what_became_of_it() {
    let own = hub::HubId::parse("gw1/$edgeHub").expect("an id");
    let mut bench = Bench::new(true);
    bench.core.follow(&own, None, None);
    assert_eq!(bench.core.take_wish(), None);
    bench.core.on_news(News::Up("gw1/$edgeHub".into()), bench.now);
    bench.said();
    let hear = |bench: &mut Bench, topic: &str, payload: Value| {
        let payload = payload.to_string().into_bytes();
        let heard = Heard { topic: topic.to_owned(), payload, ack: None };
        bench.core.on_news(News::Heard("gw1/$edgeHub".into(), heard), bench.now);
    };
    let document = json!({"desired": {"routes": {"a": "x"}, "$version": 4}, "reported": {"$version": 1}});
    hear(&mut bench, "$iothub/twin/res/200/?$rid=1", document);
    let wish = bench.core.take_wish().expect("what it wants");
    assert_eq!((wish.version, Value::Object(wish.desired)), (4, json!({"routes": {"a": "x"}})));
    assert_eq!(bench.core.take_wish(), None, "once");
    bench.core.granted(4, &Err("no route".to_owned()));
    bench.connect(&[]);
    bench.disconnect();
    bench.pass(10_000);
    let reported: Vec<Value> = bench.said().into_iter().map(|(_, patch)| patch).collect();
    assert_eq!(reported[0]["clients"], Value::Null);
    bench.told();
    let twin = &bench.core.clients["gw1/$edgeHub"].twin.reported;
    assert_eq!(twin["lastDesiredStatus"]["code"], json!(400));
    assert_eq!((&twin["lastDesiredVersion"], twin["schemaVersion"].as_str()), (&json!(4), Some("1.0")));
    assert!(bench.told().is_empty(), "nobody is told of the gateway's twin");
    let patch = json!({"routes": {"a": null, "b": "y"}, "$version": 5});
    hear(&mut bench, "$iothub/twin/PATCH/properties/desired/?$version=5", patch);
    let wish = bench.core.take_wish().expect("a new one");
    assert_eq!((wish.version, Value::Object(wish.desired)), (5, json!({"routes": {"b": "y"}})));
    let said = |bench: &mut Bench| {
        let said = bench.said();
        let status = said.first()?.0.strip_prefix("$iothub/methods/res/")?.split('/').next()?;
        Some(status.to_owned())
    };
    let call = |bench: &mut Bench, name: &str, payload: Value| {
        bench.said();
        hear(bench, &format!("$iothub/methods/POST/{name}/?$rid=m"), payload);
        said(bench)
    };
    let refresh = "RefreshDeviceScopeIdentityCache";
    // It is answered when that was done.
    for (are_all, status) in [(true, "200"), (false, "500")] {
        assert_eq!(call(&mut bench, refresh, json!({"deviceIds": ["d1", "d2/m1"]})), None);
        let [(ticket, ids)] = &bench.core.take_refreshes()[..] else { panic!("one call") };
        assert_eq!(ids.iter().map(HubId::as_str).collect::<Vec<_>>(), ["d1", "d2/m1"]);
        bench.core.on_refreshed(*ticket, are_all);
        assert_eq!(said(&mut bench).as_deref(), Some(status));
    }
    assert_eq!(call(&mut bench, refresh, json!({"deviceIds": ["a/b/c"]})).as_deref(), Some("400"));
    assert_eq!(call(&mut bench, refresh, json!([])).as_deref(), Some("400"));
    assert_eq!(call(&mut bench, "Other", json!(null)).as_deref(), Some("404"));
    assert_eq!(bench.core.take_refreshes(), []);
    // An earlier run knew it.
    let stored = bench.core.clients["gw1/$edgeHub"].twin.clone();
    let mut bench = Bench::new(true);
    bench.core.follow(&own, Some(stored), None);
    assert_eq!(bench.core.take_wish().map(|wish| wish.version), Some(5));
}

#[test]
fn the_gateways_own_twin_is_read_as_a_whole_from_time_to_time() {
    let own = hub::HubId::parse("gw1/$edgeHub").expect("an id");
    let mut bench = Bench::new(true);
    bench.core.call_gateway(&own, 3_600_000);
    bench.core.follow(&own, None, None);
    bench.core.on_news(News::Up("gw1/$edgeHub".into()), bench.now);
    let gets = |bench: &mut Bench| {
        let said = bench.said();
        said.iter().filter(|(topic, _)| topic.starts_with("$iothub/twin/GET/")).count()
    };
    assert_eq!(gets(&mut bench), 1, "when its link is up");
    bench.pass(1);
    bench.pass(3_599_000);
    assert_eq!(gets(&mut bench), 0);
    bench.pass(1_000);
    bench.pass(1_000);
    assert_eq!(gets(&mut bench), 1, "once an hour");
}

#[test]
fn a_module_calls_a_method_of_a_client_that_may_still_come() {
    let mut bench = Bench::new(false);
    let call = |text: &str| Call::parse(text.as_bytes()).expect("a call");
    let waits =
        r#"{"methodName":"blink","payload":3,"responseTimeoutInSeconds":5,"connectTimeoutInSeconds":10}"#;
    bench.core.on_call_here(("gw1/filter", "d1"), call(r#"{"methodName":"blink"}"#), 1, bench.now);
    assert_eq!(bench.core.take_outcomes(), [(1, Outcome::NotFound)]);
    bench.core.on_call_here(("gw1/filter", "d1"), call(waits), 2, bench.now);
    bench.core.on_call_here(("gw1/filter", "d2"), call(waits), 3, bench.now);
    bench.connect(&[Feature::Methods]);
    let [HubAnswer::Method { name, rid, payload }] = &bench.told()[..] else { panic!("one call") };
    assert_eq!((&**name, &**payload), ("blink", &b"3"[..]));
    bench.ask(HubRequest::MethodResponse {
        client: "d1".into(),
        rid: rid.clone(),
        status: "201".into(),
        payload: b"{}".as_slice().into(),
    });
    let answered = Outcome::Answered { status: 201, payload: b"{}".to_vec() };
    assert_eq!(bench.core.take_outcomes(), [(2, answered)]);
    bench.pass(9_999);
    assert_eq!(bench.core.take_outcomes(), []);
    bench.pass(1);
    assert_eq!(bench.core.take_outcomes(), [(3, Outcome::NotFound)]);
    bench.core.on_call_here(("gw1/filter", "d1"), call(waits), 4, bench.now);
    bench.pass(5_000);
    assert_eq!(bench.core.take_outcomes(), [(4, Outcome::TimedOut)]);
}

fn ack(link: u64, id: u16) -> (u64, NonZeroU16) {
    (link, NonZeroU16::new(id).expect("not 0"))
}

impl Bench {
    /// IoT Hub sends a message; its name for the client, if it is passed on.
    fn post(&mut self, text: &str, ack: (u64, NonZeroU16)) -> Option<u64> {
        let topic = "devices/d1/messages/devicebound/%24.to=x&a=b".to_owned();
        let heard = Heard { topic, payload: text.as_bytes().to_vec(), ack: Some(ack) };
        self.core.on_news(News::Heard("d1".into(), heard), self.now);
        match &self.told()[..] {
            [HubAnswer::CloudToDevice { bag, payload, token }] => {
                assert_eq!((&**bag, &**payload), ("%24.to=x&a=b", text.as_bytes()));
                Some(*token)
            }
            other => {
                assert_eq!(other, []);
                None
            }
        }
    }

    /// Orders about messages of the cloud.
    fn posts(&mut self) -> Vec<Order> {
        let orders = self.core.take_orders().into_iter();
        orders.filter(|it| matches!(it, Order::Acknowledge { .. } | Order::Return { .. })).collect()
    }
}

fn complete(link: u64, id: u16) -> Order {
    Order::Acknowledge { identity: "d1".into(), ack: ack(link, id) }
}

fn again() -> Order {
    Order::Return { identity: "d1".into() }
}

#[test]
fn a_message_of_the_cloud_is_completed_when_the_device_has_acknowledged_it() {
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::CloudToDevice]);
    assert_eq!(bench.heard_filters(), [set(&[RES, "devices/d1/messages/devicebound/#"])]);
    let token = bench.post("go", ack(1, 3)).expect("passed on");
    assert_eq!(bench.posts(), []);
    bench.ask(HubRequest::Posted { token });
    bench.ask(HubRequest::Posted { token });
    assert_eq!(bench.posts(), [complete(1, 3)], "once");
    assert_eq!((bench.core.numbers().posted, bench.core.numbers().unposted), (1, 0));
}

#[test]
fn a_message_of_the_cloud_that_a_device_does_not_take_comes_again() {
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::CloudToDevice]);
    let (one, two) = (bench.post("1", ack(1, 1)).expect("one"), bench.post("2", ack(1, 2)).expect("two"));
    bench.disconnect();
    for token in [one, two] {
        bench.ask(HubRequest::Unposted { token });
        bench.ask(HubRequest::Posted { token });
    }
    assert_eq!(bench.posts(), [again()], "one link less for both");
    // Nobody is there, or listens.
    assert_eq!(bench.post("3", ack(1, 3)), None);
    assert_eq!(bench.posts(), [again()]);
    // Deliveries are counted in IoT Hub: not again and again in the same second.
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::CloudToDevice]);
    let token = bench.post("large", ack(2, 1)).expect("passed on");
    bench.core.on_unposted(token, Unanswered::NoRoom, bench.now);
    bench.pass(29_000);
    assert_eq!(bench.posts(), []);
    bench.pass(1_000);
    assert_eq!(bench.posts(), [again()]);
    bench.pass(60_000);
    assert_eq!(bench.posts(), []);
}

#[test]
fn a_message_of_the_cloud_that_comes_again_over_a_new_link_is_not_given_twice() {
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::CloudToDevice]);
    let (one, two) = (bench.post("1", ack(1, 1)).expect("one"), bench.post("2", ack(1, 2)).expect("two"));
    bench.core.on_news(News::Down("d1".into()), bench.now);
    bench.ask(HubRequest::Posted { token: one });
    assert_eq!(bench.posts(), [], "nobody is there to be told");
    bench.up();
    assert_eq!(bench.post("1", ack(2, 7)), None);
    assert_eq!(bench.posts(), [complete(2, 7)]);
    assert_eq!(bench.post("2", ack(2, 8)), None, "the device has it");
    let twin = bench.post("2", ack(2, 9)).expect("another one that says the same");
    bench.ask(HubRequest::Posted { token: two });
    bench.ask(HubRequest::Posted { token: twin });
    assert_eq!(bench.posts(), [complete(2, 8), complete(2, 9)]);
}

#[test]
fn what_was_acknowledged_over_a_link_that_was_lost_is_known_by_its_identifier() {
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::CloudToDevice]);
    let hear = |bench: &mut Bench, bag: &str, ack: (u64, NonZeroU16)| {
        let topic = format!("devices/d1/messages/devicebound/{bag}");
        let heard = Heard { topic, payload: b"on".to_vec(), ack: Some(ack) };
        bench.core.on_news(News::Heard("d1".into(), heard), bench.now);
        bench.told().len()
    };
    for (bag, again_passed_on) in [("%24.to=x&%24.mid=7", 0), ("%24.to=x", 1)] {
        assert_eq!(hear(&mut bench, bag, ack(1, 1)), 1);
        let token = bench.core.last_rid;
        bench.ask(HubRequest::Posted { token });
        assert_eq!(bench.posts(), [complete(1, 1)], "and nobody knows whether it arrived");
        bench.core.on_news(News::Down("d1".into()), bench.now);
        assert_eq!(hear(&mut bench, bag, ack(2, 1)), again_passed_on, "{bag}");
        let orders = bench.posts();
        assert_eq!(orders, if again_passed_on == 0 { vec![complete(2, 1)] } else { vec![] }, "{bag}");
    }
}

#[test]
fn a_device_has_so_many_messages_of_the_cloud_at_once() {
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::CloudToDevice]);
    let passed = (1..=70).filter(|id| bench.post("x", ack(1, *id)).is_some()).count();
    assert_eq!((passed, bench.core.numbers().unposted), (64, 6));
}

#[test]
fn too_many_requests_of_one_client_are_told_off() {
    let mut bench = Bench::new(true);
    bench.connect(&[]);
    bench.up();
    for rid in 0..20 {
        bench.get(&rid.to_string());
    }
    let told = bench.told();
    assert_eq!(told.len(), 5, "15 wait beside our own question");
    assert!(told.iter().all(|answer| matches!(answer, HubAnswer::Twin { status: 429, .. })));
}

/// What was asked for a client that has gone since must not count for the one that comes next under its name.
#[test]
fn an_answer_for_who_has_gone_is_nobodys() {
    let mut bench = Bench::new(true);
    for round in 0..3 {
        bench.connect(&[]);
        bench.up();
        bench.get("1");
        assert_eq!(bench.core.clients["d1"].asked, 2, "round {round}: our own question, and its");
        bench.disconnect();
        bench.told();
        assert!(bench.core.asked.is_empty() && bench.core.clients.is_empty());
        // The next one asks nothing; the answers, and the time for them, are the former one's.
        bench.connect(&[]);
        let document = json!({"desired": {"$version": 4}, "reported": {}});
        bench.hear(&format!("$iothub/twin/res/200/?$rid={}", 2 * round + 1), &document);
        bench.pass(20_000);
        assert_eq!((bench.core.clients["d1"].asked, bench.told()), (0, vec![]));
        bench.disconnect();
        bench.told();
    }
}

/// In one batch: its report is not on the disk yet when it goes, and the link is down.
#[test]
fn nothing_is_heard_for_a_client_that_is_forgotten_once_its_report_is_kept() {
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::TwinResponses]);
    bench.core.on_news(News::Down("d1".into()), bench.now);
    bench.report("1", &json!({"a": 1}));
    bench.disconnect();
    assert_eq!(bench.heard_filters().last(), Some(&set(&[RES])));
    bench.told();
    assert!(bench.core.clients.is_empty());
    assert_eq!(bench.heard_filters(), [set(&[])]);
}

/// Deletions fill what is to go up, and leave the document empty.
#[test]
fn a_report_for_which_there_is_no_room_now_is_told_so() {
    let mut bench = Bench::new(true);
    bench.connect(&[]);
    for number in 0..130 {
        bench.report("1", &json!({ format!("{}{number:03}", "n".repeat(1_000)): null }));
    }
    let told = bench.told();
    assert_eq!((&told[128], &told[129]), (&twin(204, "1", &NOTHING), &twin(429, "1", &NOTHING)));

    // IoT Hub gets them one after the other, none larger than it takes.
    bench.up();
    bench.said();
    let (mut names, mut patches) = (0, 0);
    bench.pass(0);
    while let Some((topic, patch)) = bench.said().into_iter().find(|(topic, _)| topic.contains("reported")) {
        assert!(patch.to_string().len() <= twin::DOCUMENT_BYTES_MAX);
        assert!(bench.said().is_empty(), "one at a time");
        names += patch.as_object().expect("an object").len();
        patches += 1;
        let rid = topic.rsplit('=').next().expect("an id");
        bench.hear(&format!("$iothub/twin/res/204/?$rid={rid}&$version={patches}"), &NOTHING);
    }
    assert_eq!((names, patches), (129, 5));
    assert_eq!(bench.core.numbers().reports_up, 5);
}

/// One patch that says both would keep what IoT Hub has below `a`.
#[test]
fn an_object_reported_after_a_deletion_replaces_what_iot_hub_has() {
    let mut bench = Bench::new(true);
    bench.connect(&[]);
    bench.report("1", &json!({"a": null}));
    bench.report("2", &json!({"a": {"b": 1}}));
    bench.up();
    let mut patches = Vec::new();
    bench.pass(0);
    while let Some((topic, patch)) = bench.said().into_iter().find(|(topic, _)| topic.contains("reported")) {
        patches.push(patch);
        let rid = topic.rsplit('=').next().expect("an id");
        bench.hear(&format!("$iothub/twin/res/204/?$rid={rid}"), &NOTHING);
    }
    assert_eq!(patches, [json!({"a": null}), json!({"a": {"b": 1}})]);
    assert!(bench.core.clients["d1"].twin.pending.is_empty());
}

#[test]
fn the_own_twin_says_of_clients_what_it_has_room_for() {
    let own = hub::HubId::parse("gw1/$edgeHub").expect("an id");
    let mut bench = Bench::new(true);
    bench.core.follow(&own, None, None);
    let connect = |bench: &mut Bench, client: &str| {
        let (client, features) = (client.into(), Features::default());
        bench.ask(HubRequest::Connected { conn: CONN, client, features });
    };
    let status = |bench: &Bench, client: &str| {
        let clients = &bench.core.clients["gw1/$edgeHub"].twin.reported["clients"];
        clients.get(client).map(|client| client["status"].as_str().expect("a status").to_owned())
    };
    // Modules that have gone make room for who is here.
    for number in 0..600 {
        connect(&mut bench, &format!("gw1/m{number}"));
        bench.ask(HubRequest::Disconnected { conn: CONN, client: format!("gw1/m{number}").into() });
    }
    assert_eq!(status(&bench, "gw1/m599").as_deref(), Some("Disconnected"));
    assert_eq!((status(&bench, "gw1/m0"), bench.core.is_own_full), (None, false));
    // When all of them are here, one is left out, and what the gateway says of itself is not.
    for number in 0..600 {
        connect(&mut bench, &format!("d{number}"));
    }
    assert!(status(&bench, "d0").is_some() && status(&bench, "d599").is_none() && bench.core.is_own_full);
    bench.core.granted(7, &Err("x".repeat(2_000)));
    let twin = &bench.core.clients["gw1/$edgeHub"].twin;
    assert_eq!(twin.reported["lastDesiredVersion"], json!(7));
}

/// It came while nothing was known and nobody could be asked.
#[test]
fn a_client_that_was_given_an_empty_twin_is_told_what_there_is_once_it_is_known() {
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::Desired]);
    bench.core.on_news(News::Down("d1".into()), bench.now);
    bench.get("1");
    assert_eq!(bench.told(), [twin(200, "1", &json!({"desired": {}, "reported": {}}))]);
    bench.up();
    bench.hear(
        "$iothub/twin/res/200/?$rid=1",
        &json!({"desired": {"rate": 5, "$version": 4}, "reported": {}}),
    );
    let patch = json!({"rate": 5, "$version": 4}).to_string().into_bytes().into();
    assert_eq!(bench.told(), [HubAnswer::Desired { version: 4, patch }]);
}

#[test]
fn a_change_that_comes_before_the_twin_is_known_is_passed_on() {
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::Desired]);
    bench.up();
    let patch = json!({"rate": 5, "$version": 4});
    bench.hear("$iothub/twin/PATCH/properties/desired/?$version=4", &patch);
    let body = patch.to_string().into_bytes().into();
    assert_eq!(bench.told(), [HubAnswer::Desired { version: 4, patch: body }]);
    // Both of its questions are answered; nothing of it is new.
    for rid in 1..=2 {
        let document = json!({"desired": {"rate": 5, "$version": 4}, "reported": {}});
        bench.hear(&format!("$iothub/twin/res/200/?$rid={rid}"), &document);
    }
    assert_eq!(bench.told(), []);
}
