//! Inputs of one module do not wait for one another, whatever is killed in between and whichever version wrote the store.

use std::time::Duration;

use harness::{Client, QOS_1, ReasonCode, Router, Setup, until};

use crate::identities::{Gateway, hello};

const INPUTS: &str = "devices/gw1/modules/ml/#";

fn setup(gateway: &Gateway) -> Setup {
    let route = |input: &str| {
        format!(
            r#"FROM /messages/modules/filter/outputs/{input} INTO BrokeredEndpoint("/modules/ml/inputs/{input}")"#
        )
    };
    let setup = gateway.setup().set("routing.mode", "edgehub").set("limits.session_inflight_max", 64);
    setup.set("routes.slow", route("slow")).set("routes.fast", route("fast"))
}

fn gateway() -> Gateway {
    let gateway = Gateway::new();
    gateway.identity(&["create", "gw1/ml"]);
    gateway
}

/// Connects the module with the session of before, and acknowledges nothing by itself.
#[track_caller]
fn module(gateway: &Gateway, router: &Router) -> Client {
    let mut connect = hello("gw1/ml", Some(&gateway.token("gw1/ml")));
    connect.clean_start = false;
    let client = gateway.try_connect(router, &gateway.trust(), &connect).manual();
    assert_eq!(client.greeting.reason, ReasonCode::SUCCESS);
    client
}

fn send(filter: &mut Client, output: &str, numbers: std::ops::Range<u32>) {
    let topic = format!("devices/gw1/modules/filter/messages/events/%24.on={output}/");
    filter.publish_all(&topic, numbers.map(|number| format!("{output}{number}")));
}

fn texts(output: &str, numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| format!("{output}{number}")).collect()
}

/// Takes and acknowledges messages of one input until it has so many; those of the other stay as they are, by their texts.
#[track_caller]
fn take(ml: &mut Client, input: &str, count: usize, left: &mut Vec<String>) -> Vec<String> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let message = ml.message();
        if message.topic.contains(&format!("/inputs/{input}/")) {
            ml.acknowledge(&message);
            taken.push(message.text().to_owned());
        } else {
            left.push(message.text().to_owned());
        }
    }
    taken
}

#[test]
fn an_input_that_is_never_acknowledged_holds_up_no_other_through_kill_9() {
    let gateway = gateway();
    let mut router = setup(&gateway).start();
    let mut ml = module(&gateway, &router);
    ml.subscribe(INPUTS, QOS_1);
    let mut filter = gateway.connect(&router, "gw1/filter");
    // Sixteen windows of it, so that more waits than one client may ever have on its way.
    send(&mut filter, "slow", 0..1_024);
    let mut stuck = Vec::new();
    for round in 0..8 {
        send(&mut filter, "fast", round * 256..(round + 1) * 256);
        let taken = take(&mut ml, "fast", 256, &mut stuck);
        assert_eq!(taken, texts("fast", round * 256..(round + 1) * 256), "in order, and none is missing");
    }
    // Its share of the window: all but an eighth, for two.
    assert_eq!(stuck, texts("slow", 0..28));
    let lane = |router: &Router, input: &str| {
        let status = router.status();
        let name = format!("m/gw1/ml/{input}/default");
        let lanes = status["lanes"].as_array().cloned().unwrap_or_default();
        lanes.iter().find(|lane| lane["name"] == name.as_str()).and_then(|lane| lane["backlog"].as_u64())
    };
    until("what is acknowledged to be done", || (lane(&router, "fast") == Some(0)).then_some(()));
    assert_eq!(lane(&router, "slow"), Some(1_024), "status names the lane that waits");
    let (_, metrics) = router.get("/metrics");
    let queue = metrics
        .lines()
        .find(|line| line.starts_with("edgehub_queue_length{") && line.contains("endpoint=\"gw1/ml/slow\""));
    assert!(
        queue.is_some_and(|line| line.contains("priority=\"2000000000\"") && line.ends_with("} 1024")),
        "{queue:?}"
    );
    ml.vanish();
    router.kill();
    router.start_again();
    let mut filter = gateway.connect(&router, "gw1/filter");
    send(&mut filter, "fast", 2_048..2_100);
    let mut ml = module(&gateway, &router);
    assert!(ml.greeting.session_present);
    let mut stuck = Vec::new();
    // What was acknowledged just before may come again; what comes first is in order.
    let mut fast = Vec::new();
    while fast.last().map(String::as_str) != Some("fast2099") {
        fast.extend(take(&mut ml, "fast", 1, &mut stuck));
    }
    let new = texts("fast", 2_048..2_100);
    assert!(fast.ends_with(&new), "{fast:?}");
    // And now that is read, too: everything comes, in its order.
    let mut left = Vec::new();
    drop(ml);
    let mut ml = module(&gateway, &router);
    assert_eq!(take(&mut ml, "slow", 1_024, &mut left), texts("slow", 0..1_024));
    assert_eq!(ml.message_within(Duration::from_millis(50)).map(|it| it.text().to_owned()), None);
}

/// Before, all inputs of a module shared the lane of its session.
#[test]
fn what_a_store_of_an_earlier_version_has_for_inputs_comes_first() {
    let gateway = gateway();
    let mut router = setup(&gateway).set("limits.module_lanes_max", 0).start();
    let mut filter = gateway.connect(&router, "gw1/filter");
    for round in 0..50 {
        send(&mut filter, "slow", round..round + 1);
        send(&mut filter, "fast", round..round + 1);
    }
    router.kill();
    router.reconfigure("limits.module_lanes_max", 64);
    router.start_again();
    let mut filter = gateway.connect(&router, "gw1/filter");
    send(&mut filter, "slow", 50..80);
    send(&mut filter, "fast", 50..80);
    let mut ml = module(&gateway, &router);
    ml.subscribe(INPUTS, QOS_1);
    let (mut slow, mut fast) = (Vec::new(), Vec::new());
    for _ in 0..160 {
        let message = ml.message();
        ml.acknowledge(&message);
        let of = if message.topic.contains("/inputs/slow/") { &mut slow } else { &mut fast };
        of.push(message.text().to_owned());
    }
    assert_eq!((slow, fast), (texts("slow", 0..80), texts("fast", 0..80)));
}

#[test]
fn urgent_messages_to_an_input_pass_others_that_wait() {
    let gateway = gateway();
    let to = r#"INTO BrokeredEndpoint("/modules/ml/inputs/in1")"#;
    let router = gateway
        .setup()
        .set("routing.mode", "edgehub")
        .set("routes.slow", format!("FROM /messages/modules/filter/outputs/slow {to}"))
        .set("routes.fast.route", format!("FROM /messages/modules/filter/outputs/fast {to}"))
        .set("routes.fast.priority", 0)
        .start();
    let mut filter = gateway.connect(&router, "gw1/filter");
    send(&mut filter, "slow", 0..5);
    send(&mut filter, "fast", 0..5);
    let mut ml = module(&gateway, &router);
    ml.subscribe(INPUTS, QOS_1);
    let got: Vec<String> = (0..10)
        .map(|_| {
            let message = ml.message();
            ml.acknowledge(&message);
            message.text().to_owned()
        })
        .collect();
    assert_eq!(got, [texts("fast", 0..5), texts("slow", 0..5)].concat());
}
