//! The scenarios that we ship, each against a real router, cut short: they work, and what they promise is kept.
//!
//! Knows: the `loadgen` program beside the router's. Every file in `configs/scenarios` has its line here.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Authority, Nobody, Router, Setup, Version, own_place};
use serde_json::Value;

/// Every scenario, and what makes it short.
const SCENARIOS: &[(&str, &[&str])] = &[
    ("cbor", &[]),
    ("conn-storm", &["clients.count=200", "clients.connect_rate=1000"]),
    ("fanin", &["publishers.messages=200"]),
    ("fanout", &["publishers.messages=200"]),
    ("kill-9", &[]),
    ("latency", &["publishers.rate_total=500"]),
    ("offline-then-drain", &["subscribers.away_at_secs=0.3", "subscribers.away_for_secs=0.3"]),
    ("p2p", &["publishers.count=100", "subscribers.count=100"]),
    ("p2p-qos0", &["publishers.messages=200"]),
    ("p2p-qos1", &["publishers.messages=200"]),
    ("p2p-qos2", &["publishers.messages=200"]),
    ("poison", &["run.drain_secs=20"]),
    ("priority-inversion", &["upstream.per_second=800"]),
    ("quickstart", &["subscribers.filter=factory/#"]),
    ("reconnect-storm", &["clients.count=100", "clients.storm_at_secs=0.4"]),
    ("retained-load", &["publishers.topics=50", "publishers.messages=50"]),
    ("rules-1", &["publishers.messages=200"]),
    ("rules-10k", &["publishers.messages=200"]),
    ("rules-1k", &["publishers.messages=200"]),
    ("sharedsub", &["publishers.messages=200"]),
    ("slow", &["publishers.messages=50"]),
    ("slow-consumer", &["publishers.rate=200"]),
    ("template", &["publishers.messages=200"]),
    ("upstream-throttle", &[]),
    ("user-properties", &["publishers.messages=200"]),
    ("wildcard-heavy", &["publishers.messages=50", "subscribers.ballast=20"]),
    ("will-storm", &["clients.count=50", "clients.storm_at_secs=0.4"]),
];

/// For a number of messages: a run ends with them, and a slow machine may take its time.
const UNTIL_DONE: &[&str] = &["--duration", "20"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/scenarios")
}

fn loadgen() -> PathBuf {
    let program = harness::millrace().with_file_name("loadgen");
    assert!(program.is_file(), "there is no {}: run `make test`, which builds it", program.display());
    program
}

/// Runs a scenario for about a second against `router`; its report, and what it printed.
fn run(name: &str, router: &Router, overrides: &[String]) -> (Value, String) {
    run_with(name, &format!("mqtt://{}", router.address()), overrides, &[])
}

/// The same at this address, with more arguments.
fn run_with(name: &str, url: &str, overrides: &[String], arguments: &[&str]) -> (Value, String) {
    let home = tempfile::tempdir().expect("a folder");
    let report = home.path().join("report.json");
    let mut command = Command::new(loadgen());
    command.arg("run").arg(folder().join(format!("{name}.toml")));
    command.args(["--url", url, "--quiet"]).args(arguments);
    if !arguments.contains(&"--duration") {
        command.args(["--duration", "1"]);
    }
    // How punctual the generator is says more about this machine than about the scenario.
    command.args(["--set", "run.slip_max_percent=100", "--set", "run.warmup_secs=0"]);
    for text in overrides {
        command.args(["--set", text]);
    }
    let output = command.arg("--json").arg(&report).output().expect("loadgen starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = std::fs::read_to_string(&report);
    let text = text.unwrap_or_else(|_| panic!("{name}: {} and no report\n{said}{errors}", output.status));
    let report: Value = serde_json::from_str(&text).expect("the report is JSON");
    let kept = report["verdict"]["broken"] == serde_json::json!([]);
    assert_eq!(output.status.success(), kept, "{name}: {}\n{said}{errors}", output.status);
    (report, said)
}

/// The same through a router to the scenario's own upstream; the router too, as it is afterwards.
fn run_between(name: &str, overrides: &[&str]) -> (Value, String, Router) {
    let upstream = own_place();
    let router = Setup::new()
        .uplink(upstream, Version::V5)
        .set("uplink.plant.window", 50)
        .set("routes.bulk", r#"FROM "load/#" INTO $upstream"#)
        .file("[routes.urgent]\nroute = 'FROM \"load/1\" INTO $upstream'\npriority = 0\n")
        .start();
    let mut overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    overrides.push(format!("subscribers.url=mqtt://{upstream}"));
    overrides.push(format!("upstream.listen={upstream}"));
    let (report, said) = run(name, &router, &overrides);
    (report, said, router)
}

#[test]
fn every_scenario_has_its_line() {
    let entries = std::fs::read_dir(folder()).expect("the scenarios are there");
    let mut found: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned)).collect();
    found.sort();
    let known: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, known);
}

/// Those that need more than a router have tests of their own below.
#[test]
fn every_scenario_runs_and_keeps_its_promises() {
    let router = Router::with_shards(2);
    for (name, overrides) in SCENARIOS {
        if ["kill-9", "poison", "priority-inversion", "upstream-throttle"].contains(name)
            || name.starts_with("rules-")
        {
            continue;
        }
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        let (report, _) = run(name, &router, &overrides);
        assert_eq!(report["verdict"]["broken"], serde_json::json!([]), "{name}");
        if report["config"]["publishers"].is_object() {
            assert!(report["verdict"]["arrived"].as_u64() > Some(0), "{name}");
        }
    }
}

fn overrides_of(name: &str) -> &'static [&'static str] {
    SCENARIOS.iter().find(|(known, _)| *known == name).map_or(&[], |(_, overrides)| overrides)
}

#[test]
fn what_the_upstream_refuses_costs_nobody_else_a_message() {
    let (report, said, _router) = run_between("poison", overrides_of("poison"));
    let verdict = &report["verdict"];
    let (sent, arrived) = (verdict["sent"].as_u64().unwrap_or(0), verdict["arrived"].as_u64().unwrap_or(0));
    // Nine of ten publishers have a subscriber; all of theirs arrives, whatever becomes of the tenth.
    assert!(sent > 0 && verdict["lost"] == 0, "{sent} sent, {arrived} arrived: {verdict}");
    assert!(arrived >= sent / 10 * 9, "{sent} sent, {arrived} arrived: {verdict}");
    let refused = said.lines().find_map(|line| line.strip_prefix("upstream: ")?.split_once("taken, "));
    assert!(refused.is_some_and(|(_, refused)| !refused.starts_with("0 ")), "{said}");
}

#[test]
fn what_is_urgent_passes_the_backlog_of_a_throttled_upstream() {
    let name = "priority-inversion";
    let (report, _, _router) = run_between(name, overrides_of(name));
    let verdict = &report["verdict"];
    assert!(verdict["arrived"].as_u64() > Some(0) && verdict["lost"] == 0, "{verdict}");
}

#[test]
fn bursts_above_what_the_upstream_takes_arrive_all_the_same() {
    let name = "upstream-throttle";
    let (report, _, _router) = run_between(name, overrides_of(name));
    let verdict = &report["verdict"];
    assert!(verdict["arrived"].as_u64() >= verdict["sent"].as_u64(), "{verdict}");
    assert!(verdict["sent"].as_u64() > Some(0) && verdict["lost"] == 0, "{verdict}");
}

/// A router with so many rules, as the program that we ship writes them, whose upstream is not there.
fn router_with_rules(count: u32, upstream: &Nobody) -> Router {
    let output =
        Command::new(loadgen()).args(["rules", &count.to_string()]).output().expect("loadgen starts");
    let rules = String::from_utf8(output.stdout).expect("rules are text");
    assert_eq!(rules.matches("FROM ").count(), count as usize);
    // What the rules would send has nowhere to go, and they match nothing.
    Setup::new().uplink(upstream.address(), Version::V5).file(&rules).start()
}

#[test]
fn a_router_with_one_rule_and_with_ten_thousand_delivers_the_same() {
    for (name, count) in [("rules-1", 1), ("rules-1k", 1_000), ("rules-10k", 10_000)] {
        let nobody = Nobody::new();
        let router = router_with_rules(count, &nobody);
        let overrides: Vec<String> = overrides_of(name).iter().map(|&text| text.to_owned()).collect();
        let url = format!("mqtt://{}", router.address());
        let (report, _) = run_with(name, &url, &overrides, UNTIL_DONE);
        let verdict = &report["verdict"];
        assert_eq!(verdict["arrived"].as_u64(), Some(2_000), "{name}: {verdict}");
        let status = router.status();
        let lanes = status["lanes"].as_array().expect("lanes");
        assert!(lanes.iter().all(|lane| lane["backlog"] == 0), "{name}: no rule matches: {status:#}");
    }
}

/// SIGKILL in the middle of the load, and a start on what it left: nothing acknowledged is lost, all sessions are there.
#[test]
fn a_router_that_is_killed_under_the_load_keeps_every_promise() {
    let (address, home) = (own_place(), tempfile::tempdir().expect("a folder"));
    let store = home.path().join("store");
    let broker = format!(
        "{} run --set listener.tcp.bind={address} --set auth.anonymous=true --set store.path={} --set log.level=error",
        harness::millrace().display(),
        store.display()
    );
    let url = format!("mqtt://{address}");
    let arguments = ["--broker-command", &broker, "--kill-at", "0.8", "--down-for", "0.3", "--duration", "2"];
    let (report, said) = run_with("kill-9", &url, &[], &arguments);
    let verdict = &report["verdict"];
    assert_eq!(verdict["broken"], serde_json::json!([]), "{said}");
    assert!(report["reconnects"].as_u64() >= Some(20), "all 20 clients came back: {}", report["reconnects"]);
    assert_eq!(report["sessions_lost"], 0, "{said}");
    assert!(verdict["arrived"].as_u64() >= verdict["acked"].as_u64(), "{verdict}");
}

/// A router with a listener of each kind, and what a scenario needs to trust the encrypted one.
fn router_of_every_transport(authority: &Authority) -> (Router, [String; 2]) {
    let server = authority.server("gateway", &["localhost"], 90);
    let router = Setup::new()
        .set("listener.ws.bind", "127.0.0.1:0")
        .set("listener.tls.bind", "127.0.0.1:0")
        .set("listener.tls.cert", server.cert.display())
        .set("listener.tls.key", server.key.display())
        .start();
    let ca = format!("tls.ca={}", authority.file().display());
    (router, [ca, "tls.server_name=localhost".to_owned()])
}

/// Senders and receivers, those who come and go, groups, what is retained, wills: none of them is bound to plain TCP.
#[test]
fn scenarios_of_every_kind_run_over_tls_and_websocket_in_5_0() {
    let authority = Authority::new();
    let (router, trust) = router_of_every_transport(&authority);
    for (name, listener, scheme) in [
        ("fanin", "tls", "mqtts"),
        ("sharedsub", "ws", "ws"),
        ("retained-load", "tls", "mqtts"),
        ("wildcard-heavy", "ws", "ws"),
        ("conn-storm", "tls", "mqtts"),
        ("reconnect-storm", "ws", "ws"),
        ("will-storm", "tls", "mqtts"),
        ("template", "ws", "ws"),
    ] {
        let url = format!("{scheme}://{}", router.listener(listener));
        let mut overrides: Vec<String> = overrides_of(name).iter().map(|&text| text.to_owned()).collect();
        overrides.extend(trust.iter().filter(|_| listener == "tls").cloned());
        let text = std::fs::read_to_string(folder().join(format!("{name}.toml"))).expect("it is there");
        for side in ["publishers", "subscribers", "clients"] {
            if text.contains(&format!("[{side}]")) {
                overrides.push(format!("{side}.version=\"5\""));
            }
        }
        let (report, said) = run_with(name, &url, &overrides, &[]);
        assert_eq!(report["verdict"]["broken"], serde_json::json!([]), "{name}: {said}");
        let came =
            report["verdict"]["arrived"].as_u64().unwrap_or(0) + report["connects"].as_u64().unwrap_or(0);
        assert!(came > 0 && report["connects_failed"] == 0, "{name}: {said}");
    }
}

/// Each contract over each transport in each version: the generator speaks them all, and so do we.
#[test]
fn every_transport_version_and_contract_carries_a_load() {
    let authority = Authority::new();
    let (router, trust) = router_of_every_transport(&authority);
    for (listener, scheme) in [("tcp", "mqtt"), ("ws", "ws"), ("tls", "mqtts")] {
        for version in ["3.1.1", "5"] {
            for qos in 0..=2 {
                let url = format!("{scheme}://{}", router.listener(listener));
                let mut overrides = vec![
                    format!("publishers.qos={qos}"),
                    format!("subscribers.qos={qos}"),
                    format!("publishers.version=\"{version}\""),
                    format!("subscribers.version=\"{version}\""),
                    "publishers.count=5".to_owned(),
                    "subscribers.count=5".to_owned(),
                    "publishers.messages=100".to_owned(),
                ];
                overrides.extend(trust.iter().filter(|_| listener == "tls").cloned());
                let (report, said) = run_with("p2p-qos1", &url, &overrides, UNTIL_DONE);
                let arrived = report["verdict"]["arrived"].as_u64();
                assert_eq!(arrived, Some(500), "{listener} {version} QoS {qos}: {said}");
            }
        }
    }
}

/// The log of latencies is HdrHistogram's: its own reader finds the values of the report.
#[cfg(target_arch = "x86_64")] // that reader's wheels are for it alone
#[test]
fn the_histogram_log_is_read_by_hdr_histogram_itself() {
    let router = Router::with_shards(2);
    let home = tempfile::tempdir().expect("a folder");
    let log = home.path().join("run.hlog");
    let arguments = ["--hlog", log.to_str().expect("a name"), "--duration", "3"];
    let overrides = ["publishers.rate_total=500".to_owned()];
    let (report, _) = run_with("latency", &format!("mqtt://{}", router.address()), &overrides, &arguments);
    let (found, told) = (harness::foreign::histogram_log(&log), &report["latency_micros"]);
    assert_eq!(found["count"], told["count"], "{found}");
    assert!(found["intervals"].as_u64() >= Some(3) && found["ascending"] == true, "{found}");
    for figure in ["mean", "min", "max"] {
        // Three digits, and two libraries that may take either end of a bucket.
        let [theirs, ours] = [&found[figure], &told[figure]].map(|it| it.as_f64().expect("a number"));
        assert!((theirs - ours).abs() <= ours / 500.0 + 1.0, "{figure}: {theirs} and {ours}");
    }
}
