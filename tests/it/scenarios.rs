//! The scenarios that we ship, each against a real router, cut short: they work, and what they promise is kept.
//!
//! Knows: the `loadgen` program beside the router's. Every file in `configs/scenarios` has its line here.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Router, Setup, Version};
use serde_json::Value;

/// Every scenario, and what makes it short. `between` needs our upstream behind the router.
const SCENARIOS: &[(&str, &[&str])] = &[
    ("cbor", &[]),
    ("conn-storm", &["clients.count=200", "clients.connect_rate=1000"]),
    ("fanin", &["publishers.messages=200"]),
    ("fanout", &["publishers.messages=200"]),
    ("kill-9", &[]),
    ("latency", &["publishers.rate_total=500"]),
    ("offline-then-drain", &["subscribers.away_at_secs=0.3", "subscribers.away_for_secs=0.3"]),
    ("p2p-qos0", &["publishers.messages=200"]),
    ("p2p-qos1", &["publishers.messages=200"]),
    ("p2p-qos2", &["publishers.messages=200"]),
    ("poison", &["run.drain_secs=2"]),
    ("priority-inversion", &["upstream.per_second=800"]),
    ("quickstart", &["subscribers.filter=factory/#"]),
    ("reconnect-storm", &["clients.count=100", "clients.storm_at_secs=0.4"]),
    ("retained-load", &["publishers.topics=50", "publishers.messages=50"]),
    ("rules", &["publishers.messages=200"]),
    ("sharedsub", &["publishers.messages=200"]),
    ("slow", &["publishers.messages=50"]),
    ("slow-consumer", &["publishers.rate=200"]),
    ("upstream-throttle", &[]),
    ("user-properties", &["publishers.messages=200"]),
    ("wildcard-heavy", &["publishers.messages=50", "subscribers.ballast=20"]),
    ("will-storm", &["clients.count=50", "clients.storm_at_secs=0.4"]),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/scenarios")
}

fn loadgen() -> PathBuf {
    let program = harness::millrace().with_file_name("loadgen");
    assert!(program.is_file(), "there is no {}: run `make test`, which builds it", program.display());
    program
}

/// An address that nobody uses a moment ago.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of this machine");
    listener.local_addr().expect("it is bound")
}

/// Runs a scenario for about a second against `router`; its report, and what it printed.
fn run(name: &str, router: &Router, overrides: &[String]) -> (Value, String) {
    let home = tempfile::tempdir().expect("a folder");
    let report = home.path().join("report.json");
    let mut command = Command::new(loadgen());
    command.arg("run").arg(folder().join(format!("{name}.toml")));
    command.args(["--url", &format!("mqtt://{}", router.address()), "--duration", "1", "--quiet"]);
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
    let upstream = free_address();
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

/// Those with an upstream have tests of their own below.
#[test]
fn every_scenario_runs_and_keeps_its_promises() {
    let router = Router::with_shards(2);
    for (name, overrides) in SCENARIOS {
        if ["poison", "priority-inversion", "upstream-throttle"].contains(name) {
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
