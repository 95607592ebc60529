//! Commands beside `run`: `check`, `route check`, `route test`, `status`; and the profiles we ship.

use std::fs;
use std::path::{Path, PathBuf};

use harness::{Nobody, Recorder, Setup, Version, millrace, run, v5};

/// The root of the checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// Names of the profiles that lie in the checkout.
fn profiles() -> Vec<(String, PathBuf)> {
    let folder = fs::read_dir(root().join("configs/profiles")).expect("profiles");
    let mut profiles: Vec<_> = folder
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path.clone())))
        .collect();
    profiles.sort();
    assert!(profiles.len() >= 7, "{profiles:?}");
    profiles
}

/// Says what a profile leaves to the deployment: `edgehub` must know whose gateway it is.
fn completed<'a>(name: &str, arguments: &[&'a str]) -> Vec<&'a str> {
    let edge = ["--set", "edge.device_id=gw1", "--set", "edge.identities=identities.json"];
    let more = if name == "edgehub" { &edge[..] } else { &[] };
    [arguments, more].concat()
}

#[test]
fn every_profile_passes_check_by_name_and_as_a_file() {
    for (name, path) in profiles() {
        let by_name = run(&completed(&name, &["check", "--profile", &name])).expect(0);
        assert!(by_name.out.contains("listener"), "{name}:\n{}", by_name.out);
        let path = path.to_str().expect("a path of text");
        let as_file = run(&completed(&name, &["check", "--config", path])).expect(0);
        assert_eq!(by_name.out, as_file.out, "{name} is built in as it lies in the checkout");
    }
}

#[test]
fn every_profile_starts_on_a_free_port() {
    // `edgehub` starts beside a runtime (`runtime`).
    for (name, path) in profiles().into_iter().filter(|(name, _)| name != "edgehub") {
        let text = fs::read_to_string(&path).expect("a profile");
        let mut router = Setup::new().file(&text).start();
        router.connect(&v5("client")).ping();
        assert_eq!(router.terminate().code(), Some(0), "{name}");
    }
}

#[test]
fn a_small_gateway_stays_below_its_ceiling() {
    // gateway-small promises 64 MiB. Said by the plan, and held by the process with every client connected.
    let plan = run(&["check", "--profile", "gateway-small"]).expect(0).out;
    assert!(plan.contains("memory"), "{plan}");
    let text = fs::read_to_string(root().join("configs/profiles/gateway-small.toml")).expect("a profile");
    let router = Setup::new().file(&text).shards(1).start();
    let mut clients: Vec<_> =
        (0..150).map(|number| router.connect(&v5(&format!("client-{number}")))).collect();
    for client in &mut clients {
        client.subscribe("a/#", harness::QOS_1);
    }
    let payload = vec![b'x'; 32 << 10];
    for _ in 0..10 {
        clients[0].publish_all("a/b", std::iter::repeat_n(&payload, 5));
    }
    let (all, own) = (router.resident_bytes() >> 20, router.memory_bytes() >> 20);
    println!("{all} MiB, {own} MiB of it its own");
    assert!(all <= 64, "{all} MiB, {own} MiB of it its own");
}

#[test]
fn check_shows_a_plan_and_starts_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let store = home.path().join("store");
    let plan = run(&[
        "check",
        "--set",
        &format!("store.path={}", store.display()),
        "--set",
        "uplink.plant.url=mqtt://plant.example:1884",
        "--set",
        "routes.hot=FROM \"factory/#\" WHERE $body.temp > 80 INTO $upstream",
    ])
    .expect(0)
    .out;
    for word in ["plant.example", "1884", "hot", "factory/#", "acknowledged (disk) means", "memory"] {
        assert!(plan.contains(word), "not a word about {word:?}:\n{plan}");
    }
    assert!(!store.exists(), "check makes no store");
}

#[test]
fn check_reports_what_run_would_refuse() {
    let checked = run(&["check", "--set", "shards=many", "--set", "nonsense=1"]).expect(2);
    assert!(checked.err.contains("shards") && checked.err.contains("nonsense"), "{}", checked.err);
    assert!(checked.err.contains("2 mistakes"), "{}", checked.err);
}

#[test]
fn check_prints_the_page_of_all_keys() {
    let page = run(&["check", "--reference"]).expect(0).out;
    let ours = fs::read_to_string(root().join("router/docs/configuration.md")).expect("the page");
    // Not `assert_eq!`: two pages of text side by side help nobody.
    assert!(page == ours, "router/docs/configuration.md is not what `millrace check --reference` prints");
}

const ROUTES: &str = r#"
[routes]
hot = 'FROM "factory/#" WHERE $body.temp > 80 INTO topic "alerts/{$topic[1]}"'
all = { route = 'FROM "factory/#" INTO $upstream', priority = 3 }
"#;

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).expect("a file can be written");
    path.to_str().expect("a path of text").to_owned()
}

/// Names of the routes that `route test` says match.
fn matching(out: &str) -> Vec<&str> {
    let lines = out.lines().filter(|line| !line.starts_with(' '));
    lines.filter_map(|line| line.split_once(": matches")).map(|(name, _)| name).collect()
}

#[test]
fn route_test_shows_where_a_message_would_go_and_why_not_elsewhere() {
    let home = tempfile::tempdir().expect("a directory");
    let routes = write(home.path(), "routes.toml", ROUTES);
    let hot = write(home.path(), "hot.json", r#"{"topic": "factory/line1", "body": {"temp": 81}}"#);
    let tried = run(&["route", "test", &routes, "--message", &hot]).expect(0).out;
    assert_eq!(matching(&tried), ["all", "hot"], "{tried}");
    assert!(tried.contains("alerts/line1"), "{tried}");
    let cold = write(home.path(), "cold.json", r#"{"topic": "factory/line1", "body": {"temp": 20}}"#);
    let tried = run(&["route", "test", &routes, "--message", &cold]).expect(0).out;
    assert_eq!(matching(&tried), ["all"], "{tried}");
    assert!(tried.contains("$body.temp = 20"), "the value that decided is shown:\n{tried}");
    let tried = run(&["route", "test", &routes, "--message", &hot, "--topic", "office/1"]).expect(0).out;
    assert_eq!(matching(&tried), [""; 0], "{tried}");
}

#[test]
fn route_explain_shows_every_route() {
    let home = tempfile::tempdir().expect("a directory");
    let routes = write(home.path(), "routes.toml", ROUTES);
    let shown = run(&["route", "explain", &routes]).expect(0).out;
    for word in ["hot", "all", "$body.temp"] {
        assert!(shown.contains(word), "not a word about {word:?}:\n{shown}");
    }
}

#[test]
fn route_check_lists_routes_or_points_at_the_mistake() {
    let home = tempfile::tempdir().expect("a directory");
    let good = write(home.path(), "good.toml", ROUTES);
    let listed = run(&["route", "check", &good]).expect(0).out;
    assert!(listed.contains("hot") && listed.contains("all") && listed.contains("$upstream"), "{listed}");
    let bad = write(
        home.path(),
        "bad.txt",
        "FROM /messages/* INTO $upstream\nFROM /messages/* WHERE INTO $upstream\n",
    );
    let refused = run(&["route", "check", &bad]).expect(2);
    assert!(refused.err.contains("bad.txt:2") && refused.err.contains('^'), "{}", refused.err);
}

#[test]
fn status_shows_a_running_router_to_people() {
    let upstream = Recorder::start();
    let route = r#"FROM "factory/#" INTO $upstream"#;
    let router = Setup::new().uplink(upstream.address(), Version::V5).set("routes.all", route).start();
    router.connect(&v5("publisher")).publish("factory/a", "x", harness::QOS_1);
    let http = router.http().to_string();
    let shown = run(&["status", "--http", &http]).expect(0).out;
    for word in ["ready", "uplink plant", "lane u/plant/", "store: ok", "route all"] {
        assert!(shown.contains(word), "not a word about {word:?}:\n{shown}");
    }
}

#[test]
fn status_without_a_router_says_what_to_look_at() {
    let nobody = Nobody::new();
    let failed = run(&["status", "--http", &nobody.address().to_string()]).expect(1);
    assert!(failed.err.contains("http.bind"), "{}", failed.err);
}

#[test]
fn health_readiness_and_metrics_answer() {
    let router = Setup::new().start();
    assert_eq!(router.get("/healthz").0, 200);
    assert_eq!(router.get("/readyz").0, 200);
    assert_eq!(router.get("/no-such-page").0, 404);
    let (code, metrics) = router.get("/metrics");
    assert_eq!(code, 200);
    assert!(metrics.ends_with("# EOF\n"), "OpenMetrics text has an end");
    for name in ["millrace_connections", "millrace_store_syncs_total", "millrace_messages_dropped_total"] {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "{name} is missing");
    }
}

#[test]
fn the_program_says_its_version() {
    let version = run(&["--version"]).expect(0).out;
    assert!(version.starts_with("millrace "), "{version} from {}", millrace().display());
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    let mut command = std::process::Command::new(millrace());
    command.args(["check", "--reference"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("millrace can be started");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
