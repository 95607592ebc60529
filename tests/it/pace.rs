//! How much an uplink asks of its link: throttling, hours.

use std::time::Duration;

use harness::{QOS_1, ReasonCode, Recorder, Router, Setup, Version, until, v5, within};

fn gateway(upstream: &Recorder) -> Setup {
    Setup::new()
        .uplink(upstream.address(), Version::V5)
        .set("routes.urgent", r#"{ route = 'FROM "urgent/#" INTO $upstream', priority = 0 }"#)
        .set("routes.all", r#"FROM "factory/#" INTO $upstream"#)
}

fn state(router: &Router) -> String {
    router.status()["uplinks"][0]["state"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn expect_state(router: &Router, wanted: &str) {
    until(&format!("the uplink to be {wanted}"), || (state(router) == wanted).then_some(()));
}

fn publish(router: &Router, topic: &str, range: std::ops::Range<usize>) {
    router.connect(&v5(topic)).publish_all(&format!("{topic}/a"), range.map(|number| number.to_string()));
}

#[test]
fn a_quota_shows_as_throttled_and_costs_nothing_but_time() {
    let upstream = Recorder::start();
    upstream.quota(20);
    let router = gateway(&upstream).start();
    publish(&router, "factory", 0..200);
    expect_state(&router, "throttled");
    assert_eq!(router.status()["uplinks"][0]["throttled"], true);
    assert_eq!(router.metric(r#"millrace_uplink_throttled{name="plant"}"#), 1.0);
    assert_eq!(router.metric(r#"millrace_uplink_up{name="plant"}"#), 1.0);
    router.wait_for("/uplinks/0/throttles", 1);
    upstream.quota(0);
    let record = upstream.wait_for(200);
    let numbers: Vec<_> = record.iter().map(|message| message.text().to_owned()).collect();
    assert_eq!(numbers.len(), 200);
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    // What had not been sent when the quota struck keeps its order, and nothing is lost or set aside.
    let mut sorted: Vec<usize> = numbers.iter().map(|text| text.parse().expect("a number")).collect();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..200).collect::<Vec<_>>());
    assert_eq!(router.number("/uplinks/0/poisoned"), 0);
    expect_state(&router, "up");
}

#[test]
fn an_upstream_that_ends_the_link_in_every_burst_gets_smaller_ones() {
    let upstream = Recorder::start();
    let router = gateway(&upstream).start();
    expect_state(&router, "up");
    upstream.withhold(true);
    publish(&router, "factory", 0..300);
    for round in 1..=2 {
        upstream.wait_for(64 * round);
        assert_eq!(router.number("/uplinks/0/throttles"), 0, "once may be chance");
        upstream.end_connections();
    }
    router.wait_for("/uplinks/0/throttles", 1);
    expect_state(&router, "throttled");
    let window = router.number("/uplinks/0/window");
    assert!(window <= 32, "{window}");
    upstream.withhold(false);
    upstream.end_connections();
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    assert_eq!(router.number("/uplinks/0/poisoned"), 0);
    expect_state(&router, "up");
}

#[test]
fn a_quota_that_strikes_one_message_again_and_again_is_throttling_too() {
    // Quota exceeded (0x97) as the answer to a message of every kind, and then no more.
    let upstream = Recorder::start();
    upstream.refuse("", Some(ReasonCode::QUOTA_EXCEEDED));
    let router = gateway(&upstream).start();
    publish(&router, "factory", 0..1);
    router.wait_for("/uplinks/0/throttles", 1);
    assert_eq!(state(&router), "throttled");
    upstream.refuse_nothing();
    upstream.wait_for(1);
    expect_state(&router, "up");
}

/// A span of the day that is over or has not begun, whatever time it is now, and the one that holds now.
pub(crate) fn hours(open: bool) -> String {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let minute = now / 60 % 1_440;
    let clock = |minute: u64| format!("{:02}:{:02}", minute % 1_440 / 60, minute % 60);
    // Far from both ends, so that the test does not run into one.
    let begin = if open { minute + 1_440 - 60 } else { minute + 60 };
    format!("\"{}-{}\"", clock(begin), clock(begin + 120))
}

#[test]
fn outside_its_hours_a_link_rests_and_only_what_may_always_go_opens_it() {
    let upstream = Recorder::start();
    let router = gateway(&upstream)
        .set("uplink.plant.hours", hours(false))
        .set("uplink.plant.hours_always", 2)
        .start();
    expect_state(&router, "resting");
    publish(&router, "factory", 0..20);
    assert_eq!((router.backlog(), upstream.connects()), (20, 0));
    publish(&router, "urgent", 0..3);
    let record = upstream.wait_for(3);
    assert!(record.iter().all(|message| message.topic == "urgent/a"));
    until("the urgent ones to be delivered", || (router.backlog() == 20).then_some(()));
    // With nothing left that may go, the connection would only cost.
    expect_state(&router, "resting");
    assert_eq!((upstream.record().len(), router.backlog(), upstream.connects()), (3, 20, 1));
}

#[test]
fn within_its_hours_a_link_carries_everything() {
    let upstream = Recorder::start();
    let router = gateway(&upstream).set("uplink.plant.hours", hours(true)).start();
    publish(&router, "factory", 0..20);
    upstream.wait_for(20);
    assert_eq!(state(&router), "up");
}

#[test]
fn without_what_may_always_go_nothing_goes_outside_the_hours() {
    let upstream = Recorder::start();
    let router = gateway(&upstream).set("uplink.plant.hours", hours(false)).start();
    router.connect(&v5("publisher")).publish("urgent/a", "waits", QOS_1);
    let came = within(Duration::from_secs(2), || (upstream.connects() > 0).then_some(()));
    assert!(came.is_none() && state(&router) == "resting" && router.backlog() == 1);
}
