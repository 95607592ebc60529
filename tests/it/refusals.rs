//! An upstream that does not take everything: poison lanes, senders that wait, messages that end the connection.

use std::time::{Duration, Instant};

use harness::{
    Authority, QOS_1, ReasonCode, Received, Recorder, Router, Setup, TlsFront, Version, run, until, v5,
};

use crate::space::lost;

fn gateway(upstream: &Recorder) -> Setup {
    Setup::new()
        .uplink(upstream.address(), Version::V5)
        .set("routes.all", r#"FROM "factory/#" INTO $upstream"#)
}

fn texts(messages: &[Received]) -> Vec<&str> {
    messages.iter().map(Received::text).collect()
}

fn expect_no_backlog(router: &Router) {
    until("an empty lane", || (router.backlog() == 0).then_some(()));
}

#[test]
fn a_message_that_is_always_refused_goes_aside_and_the_lane_goes_on() {
    let upstream = Recorder::start();
    upstream.refuse("bad", Some(ReasonCode::NOT_AUTHORIZED));
    let router = gateway(&upstream).set("uplink.plant.attempts_max", 3).start();
    let mut publisher = router.connect(&v5("publisher"));
    for text in ["0", "bad", "1", "2"] {
        publisher.publish("factory/a", text, QOS_1);
    }
    router.wait_for("/uplinks/0/poisoned", 1);
    assert_eq!(texts(&upstream.wait_for(3)), ["0", "1", "2"]);
    router.wait_for("/uplinks/0/refused", 3);
    expect_no_backlog(&router);
    assert_eq!(router.number("/uplinks/0/reconnects"), 0, "a refusal is no reason to end the connection");
}

#[test]
fn a_sender_that_is_refused_for_now_does_not_stall_the_others_and_keeps_its_order() {
    let upstream = Recorder::start();
    upstream.refuse("slow", Some(ReasonCode::QUOTA_EXCEEDED));
    let router = gateway(&upstream).start();
    let (mut slow, mut quick) = (router.connect(&v5("slow")), router.connect(&v5("quick")));
    for number in 0..20 {
        slow.publish("factory/a", format!("slow{number}"), QOS_1);
        quick.publish("factory/a", format!("quick{number}"), QOS_1);
    }
    let quick: Vec<_> = (0..20).map(|number| format!("quick{number}")).collect();
    assert_eq!(texts(&upstream.wait_for(20)), quick);
    router.wait_for("/uplinks/0/waiting_senders", 1);
    // Far more often than attempts_max: a quota is waited for.
    until("many refusals", || (router.number("/uplinks/0/refused") > 30).then_some(()));
    assert_eq!(router.number("/uplinks/0/poisoned"), 0);
    upstream.refuse_nothing();
    let slow: Vec<_> = (0..20).map(|number| format!("slow{number}")).collect();
    assert_eq!(texts(&upstream.wait_for(40)[20..]), slow);
    expect_no_backlog(&router);
    until("no sender to wait", || (router.number("/uplinks/0/waiting_senders") == 0).then_some(()));
}

/// They have been delivered: a sender that waits for days keeps its own messages, and nobody else's.
#[test]
fn what_passed_a_refused_sender_leaves_the_store_and_is_not_sent_again() {
    let upstream = Recorder::start();
    upstream.refuse("slow", Some(ReasonCode::QUOTA_EXCEEDED));
    let mut router = gateway(&upstream).start();
    let quick = |from: usize| (from..from + 300).map(|number| format!("quick{number}"));
    for (number, from) in [(0, 0), (1, 300)] {
        router.connect(&v5("slow")).publish("factory/a", format!("slow{number}"), QOS_1);
        router.connect(&v5("quick")).publish_all("factory/a", quick(from));
    }
    upstream.wait_for(600);
    until("two messages to be left", || (router.backlog() == 2).then_some(()));
    let listed = harness::run(&["lanes", "--store", &router.store().display().to_string(), "list"]);
    let words: Vec<_> = listed.out.lines().skip(1).flat_map(str::split_whitespace).collect();
    assert!(words.starts_with(&["u/plant/default", "2"]), "{}{}", listed.out, listed.err);
    router.kill();
    router.start_again();
    assert_eq!(router.backlog(), 2);
    router.wait_for("/uplinks/0/waiting_senders", 1);
    upstream.refuse_nothing();
    expect_no_backlog(&router);
    let expected: Vec<_> = quick(0).chain(quick(300)).chain(["slow0".into(), "slow1".into()]).collect();
    assert_eq!(texts(&upstream.record()), expected, "each once");
    assert_eq!(router.number("/store/damaged") + router.number("/uplinks/0/dropped"), 0);
    router.terminate();
}

#[test]
fn a_message_that_ends_the_connection_each_time_is_found_in_a_full_window() {
    for version in [Version::V3, Version::V5] {
        let upstream = Recorder::start();
        expect_the_deadly_one_found(&upstream, version, Setup::new().uplink(upstream.address(), version));
    }
}

/// The bytes of TLS just end where the upstream ends a connection.
#[test]
fn over_tls_without_a_goodbye_it_is_found_too() {
    let (upstream, authority) = (Recorder::start(), Authority::new());
    let front = TlsFront::to(upstream.address(), &authority.server("plant", &["plant.example"], 30));
    let setup = Setup::new()
        .uplink(front.address(), Version::V5)
        .set("uplink.plant.url", format!("mqtts://{}", front.address()))
        .set("uplink.plant.ca", authority.file().display());
    expect_the_deadly_one_found(&upstream, Version::V5, setup);
}

fn expect_the_deadly_one_found(upstream: &Recorder, version: Version, setup: Setup) {
    upstream.refuse("deadly", None);
    let router = setup
        .set("uplink.plant.backoff_max_ms", 20)
        .set("routes.all", r#"FROM "factory/#" INTO $upstream"#)
        .start();
    let mut publisher = router.connect(&v5("publisher"));
    let numbers: Vec<_> = (0..60).map(|number| number.to_string()).collect();
    publisher.publish_all("factory/a", numbers[..30].iter().cloned());
    publisher.publish("factory/a", "deadly", QOS_1);
    publisher.publish_all("factory/a", numbers[30..].iter().cloned());
    router.wait_for("/uplinks/0/poisoned", 1);
    expect_no_backlog(&router);
    let mut seen = texts(&upstream.wait_for(60)).into_iter().map(str::to_owned).collect::<Vec<_>>();
    seen.sort_by_key(|text| text.parse::<u32>().expect("a number"));
    seen.dedup();
    assert_eq!(seen, numbers, "{version}");
}

#[test]
fn what_is_aside_survives_a_crash() {
    let upstream = Recorder::start();
    upstream.refuse("bad", Some(ReasonCode::PAYLOAD_FORMAT_INVALID));
    let mut router = gateway(&upstream).start();
    router.connect(&v5("publisher")).publish("factory/a", "bad", QOS_1);
    router.wait_for("/uplinks/0/poisoned", 1);
    expect_no_backlog(&router);
    router.kill();
    router.start_again();
    let poison = router.status()["lanes"]
        .as_array()
        .expect("lanes")
        .iter()
        .find(|lane| lane["name"] == "p/plant")
        .cloned();
    // Once, or twice: its place in the lane that it came from may not have been written down before the crash.
    let aside = poison.and_then(|lane| lane["backlog"].as_u64());
    assert!(matches!(aside, Some(1 | 2)), "{aside:?}");
}

#[test]
fn a_pace_in_bytes_is_kept() {
    let upstream = Recorder::start();
    let router = gateway(&upstream).set("uplink.plant.pace_bytes_per_sec", 20_000).start();
    let begin = std::time::Instant::now();
    let mut publisher = router.connect(&v5("publisher"));
    for _ in 0..40 {
        publisher.publish("factory/a", [b'x'; 1_000], QOS_1);
    }
    upstream.wait_for(40);
    assert!(begin.elapsed() > Duration::from_millis(1_700), "took only {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(20), "took {:?}", begin.elapsed());
}

/// `millrace lanes --store … ARGUMENTS`, its exit code and what it said.
#[track_caller]
fn lanes(router: &Router, arguments: &[&str]) -> (Option<i32>, String) {
    let store = router.store();
    let mut all = vec!["lanes"];
    all.extend(arguments);
    all.extend(["--store", store.to_str().expect("a plain path")]);
    let finished = run(&all);
    (finished.code, finished.out + &finished.err)
}

/// Entries of the loss ledger for what was dropped from poison lanes.
fn poison_drops(status: &serde_json::Value) -> impl Iterator<Item = &serde_json::Value> {
    let entries = status["losses"]["latest"].as_array().into_iter().flatten();
    entries.filter(|entry| entry["reason"] == "poison_dropped")
}

/// A router with three messages in its poison lane: bad0, bad1, bad2.
fn with_poison(upstream: &Recorder) -> Router {
    upstream.refuse("bad", Some(ReasonCode::TOPIC_NAME_INVALID));
    let router = gateway(upstream).start();
    router.connect(&v5("publisher")).publish_all("factory/a", (0..3).map(|number| format!("bad{number}")));
    router.wait_for("/uplinks/0/poisoned", 3);
    expect_no_backlog(&router);
    router
}

#[test]
fn what_is_aside_is_listed_shown_sent_again_and_dropped() {
    let upstream = Recorder::start();
    let router = with_poison(&upstream);
    let (code, list) = lanes(&router, &["poison", "list"]);
    assert_eq!((code, list.lines().count()), (Some(0), 3), "{list}");
    assert!(list.contains("sender publisher") && list.contains("Topic Name invalid"), "{list}");
    let (_, shown) = lanes(&router, &["poison", "show", "plant", "2"]);
    assert!(
        shown.contains(r#""payload": "bad1""#) && shown.contains(r#""lane": "u/plant/default""#),
        "{shown}"
    );
    upstream.refuse_nothing();
    // From the middle, then all that is left.
    let (code, said) = lanes(&router, &["poison", "retry", "plant", "2"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(texts(&upstream.wait_for(1)), ["bad1"]);
    assert_eq!(lanes(&router, &["poison", "drop", "plant", "1"]), (Some(0), "1 dropped\n".to_owned()));
    let (code, said) = lanes(&router, &["poison", "drop", "plant", "2"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("there is no message 2 in the poison lane of plant"), "{said}");
    lanes(&router, &["poison", "retry", "plant", "--all"]);
    assert_eq!(texts(&upstream.wait_for(2)), ["bad1", "bad2"]);
    let (_, list) = lanes(&router, &["poison", "list", "plant"]);
    assert_eq!(list, "nothing is in the poison lanes\n");
    expect_no_backlog(&router);
    let (_, list) = lanes(&router, &["list"]);
    assert!(list.contains("u/plant/default") && list.contains("p/plant"), "{list}");
}

/// One that nobody would get any more does not keep the others in the poison lane.
#[test]
fn all_that_is_aside_is_sent_again_but_what_has_expired() {
    const TTL: Duration = Duration::from_secs(8);
    let upstream = Recorder::start();
    upstream.refuse("bad", Some(ReasonCode::TOPIC_NAME_INVALID));
    let short = format!("{{ route = 'FROM \"short/#\" INTO $upstream', ttl = {} }}", TTL.as_secs());
    let router = gateway(&upstream).set("routes.short", short).start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("short/a", "bad0", QOS_1);
    let published = Instant::now();
    publisher.publish_all("factory/a", ["bad1", "bad2"]);
    router.wait_for("/uplinks/0/poisoned", 3);
    expect_no_backlog(&router);
    upstream.refuse_nothing();
    until("the first one to expire", || (published.elapsed() > TTL).then_some(()));
    let (code, said) = lanes(&router, &["poison", "retry", "plant", "1"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("message 1 has expired"), "{said}");
    let (code, said) = lanes(&router, &["poison", "retry", "plant", "--all"]);
    assert!(code == Some(0) && said.starts_with("2 sent again, 1 expired"), "{said}");
    assert_eq!(texts(&upstream.wait_for(2)), ["bad1", "bad2"]);
    let (_, list) = lanes(&router, &["poison", "list", "plant"]);
    assert_eq!(list, "nothing is in the poison lanes\n");
    let status = router.status();
    assert_eq!((lost(&status, "expired"), lost(&status, "poison_dropped")), (1, 0));
    let entry = &status["losses"]["latest"][0];
    assert_eq!((entry["lane"].as_str(), entry["sender"].as_str()), (Some("p/plant"), Some("publisher")));
}

#[test]
fn what_is_done_with_in_the_middle_stays_so_after_a_restart() {
    let upstream = Recorder::start();
    let mut router = with_poison(&upstream);
    lanes(&router, &["poison", "drop", "plant", "2"]);
    router.kill();
    let places = |list: &str| {
        list.lines().map(|line| line.split(':').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    // Without a router the store is opened.
    let (_, list) = lanes(&router, &["poison", "list"]);
    assert_eq!(places(&list), ["plant 1", "plant 3"]);
    let (code, said) = lanes(&router, &["poison", "retry", "plant", "1"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("no router runs on this store"), "{said}");
    assert_eq!(lanes(&router, &["poison", "drop", "plant", "1"]), (Some(0), "1 dropped\n".to_owned()));
    router.start_again();
    // One was dropped before the kill, one without a router.
    let status = router.status();
    assert_eq!(lost(&status, "poison_dropped"), 2);
    let mut entered: Vec<_> = poison_drops(&status).map(|it| it["places"].to_string()).collect();
    entered.sort();
    assert_eq!(entered, ["[1,1]", "[2,2]"]);
    assert!(
        poison_drops(&status).all(|it| it["lane"] == "p/plant" && it["sender"] == "publisher"),
        "{status:#}"
    );
    let (_, list) = lanes(&router, &["poison", "list"]);
    assert_eq!(places(&list), ["plant 3"]);
}

#[test]
fn the_poison_lane_has_a_bound() {
    let upstream = Recorder::start();
    upstream.refuse("bad", Some(ReasonCode::TOPIC_NAME_INVALID));
    let router = gateway(&upstream).set("uplink.plant.poison_messages_max", 5).start();
    router.connect(&v5("publisher")).publish_all("factory/a", (0..200).map(|number| format!("bad{number}")));
    router.wait_for("/uplinks/0/poisoned", 200);
    expect_no_backlog(&router);
    let (_, list) = lanes(&router, &["poison", "list"]);
    assert_eq!(list.lines().count(), 5, "{list}");
    assert!(list.contains("plant 200:"), "the oldest went: {list}");
    assert_eq!(router.number("/uplinks/0/dropped"), 195);
    let status = router.status();
    assert_eq!(lost(&status, "poison_dropped"), 195);
    let places: Vec<_> = poison_drops(&status).map(|it| it["places"].clone()).collect();
    assert_eq!(places, [serde_json::json!([1, 195])]);
}

#[test]
fn only_the_routers_user_may_open_the_control_socket_and_it_can_be_off() {
    use std::os::unix::fs::PermissionsExt as _;
    let upstream = Recorder::start();
    let mut router = gateway(&upstream).start();
    let socket = router.store().join("control.sock");
    let mode = std::fs::metadata(&socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    router.terminate();
    assert!(!socket.exists(), "it goes with the router");
    let router = gateway(&upstream).set("control.path", "off").start();
    assert!(!router.store().join("control.sock").exists());
    let (code, said) = lanes(&router, &["list"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("is in use, and nobody answers"), "{said}");
}
