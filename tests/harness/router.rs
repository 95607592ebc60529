//! A router under test: how it is configured, started, asked, stopped, killed, started again.
//!
//! In: configuration keys. Out: addresses, numbers, exit codes. Always: a store of its own, unless told otherwise, that
//! lives as long as the router's value and survives its restarts.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::binary::{millrace, run};
use crate::client::Client;
use crate::http;
use crate::process::{Process, Signal, without_configuration};
use crate::wait::{PATIENCE, until, within};
use crate::{Connect, Version};

/// What a router is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    keys: Vec<(String, String)>,
    environment: Vec<(String, OsString)>,
    store: Option<PathBuf>,
    file: Option<String>,
    profile: Option<String>,
    user: Option<u32>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup::new()
    }
}

impl Setup {
    /// Loopback, free ports, anonymous clients, two shards, an empty store.
    pub fn new() -> Setup {
        let setup = Setup {
            keys: Vec::new(),
            environment: Vec::new(),
            store: None,
            file: None,
            profile: None,
            user: None,
        };
        setup
            .set("listener.tcp.bind", "127.0.0.1:0")
            .set("http.bind", "127.0.0.1:0")
            .set("auth.anonymous", true)
            .set("shards", 2)
    }

    /// One key, as `--set` takes it; the last one wins.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl ToString) -> Setup {
        self.keys.push((key.to_owned(), value.to_string()));
        self
    }

    /// Number of shards.
    #[must_use]
    pub fn shards(self, shards: usize) -> Setup {
        self.set("shards", shards)
    }

    /// An uplink named `plant` in this version, which comes back within a tenth of a second.
    #[must_use]
    pub fn uplink(self, address: SocketAddr, version: Version) -> Setup {
        let version = match version {
            Version::V3 => "3.1.1",
            Version::V5 => "5",
        };
        self.set("uplink.plant.url", format!("mqtt://{address}"))
            .set("uplink.plant.version", format!("\"{version}\""))
            .set("uplink.plant.client_id", "gateway-under-test")
            .set("uplink.plant.backoff_min_ms", 20)
            .set("uplink.plant.backoff_max_ms", 100)
    }

    /// A configuration file with this text; keys that are set win over it.
    #[must_use]
    pub fn file(mut self, text: &str) -> Setup {
        self.file = Some(text.to_owned());
        self
    }

    /// A profile other than the default one.
    #[must_use]
    pub fn profile(mut self, name: &str) -> Setup {
        self.profile = Some(name.to_owned());
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Setup {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// A store that is there already, or that several routers are to share.
    #[must_use]
    pub fn store(mut self, path: &Path) -> Setup {
        self.store = Some(path.to_owned());
        self
    }

    /// As this user, who owns the store; as ourselves where we may not become somebody else.
    #[must_use]
    pub fn user(mut self, id: u32) -> Setup {
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0);
        self.user = Some(id).filter(|_| is_root);
        self
    }

    /// What `millrace check` says of it.
    #[track_caller]
    pub fn check(&self) -> String {
        let keys: Vec<_> = self.keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let arguments: Vec<_> = keys.iter().flat_map(|key| ["--set", key]).collect();
        run(&[&["check"], &arguments[..]].concat()).expect(0).out
    }

    /// Starts a router that must come up.
    #[track_caller]
    pub fn start(self) -> Router {
        let home = tempfile::tempdir().expect("a directory for the test");
        let process = spawn(&self, home.path());
        let mut router = Router {
            process,
            setup: self,
            home: Arc::new(home),
            mqtt: UNKNOWN,
            http: UNKNOWN,
            listeners: Value::Null,
        };
        router.wait_until_ready();
        router
    }

    /// Starts a router that must give up by itself: its exit code and what it said.
    #[track_caller]
    pub fn fail_to_start(&self) -> (Option<i32>, String) {
        let home = tempfile::tempdir().expect("a directory for the test");
        let mut process = spawn(self, home.path());
        let status = process.wait();
        (status.code(), process.log())
    }
}

/// Name of the configuration file, if there is one.
const CONFIG: &str = "millrace.toml";

const UNKNOWN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[track_caller]
fn spawn(setup: &Setup, home: &Path) -> Process {
    let mut command = Command::new(program(setup, home));
    without_configuration(&mut command).arg("run").arg("--ready-file").arg(home.join("ready"));
    if let Some(profile) = &setup.profile {
        command.arg("--profile").arg(profile);
    }
    if let Some(text) = &setup.file {
        std::fs::write(home.join(CONFIG), text).expect("a configuration can be written");
        command.arg("--config").arg(home.join(CONFIG));
    }
    let store = setup.store.clone().unwrap_or_else(|| home.join("store"));
    command.arg("--set").arg(format!("store.path={}", store.display()));
    for (key, value) in &setup.keys {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command.envs(setup.environment.iter().map(|(name, value)| (name, value)));
    if let Some(user) = setup.user {
        command.uid(user);
    }
    Process::start("millrace", &mut command, &home.join("log"))
}

/// What is started: for another user a copy, which that one can reach, in a home of its own.
#[track_caller]
fn program(setup: &Setup, home: &Path) -> PathBuf {
    let Some(user) = setup.user else { return millrace() };
    let copy = home.join("millrace");
    if !copy.exists() {
        std::fs::copy(millrace(), &copy).expect("a copy of the program");
    }
    std::os::unix::fs::chown(home, Some(user), None).expect("a home of its own");
    copy
}

/// A router that runs, or ran.
#[derive(Debug)]
pub struct Router {
    // First, so that it is dropped first: a failing test prints its log, which lies in `home`.
    process: Process,
    setup: Setup,
    home: Arc<TempDir>,
    mqtt: SocketAddr,
    http: SocketAddr,
    listeners: Value,
}

impl Router {
    /// A router without routes and with this many shards.
    #[track_caller]
    pub fn with_shards(shards: usize) -> Router {
        Setup::new().shards(shards).start()
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.mqtt
    }

    /// Where clients of one listener connect.
    #[track_caller]
    pub fn listener(&self, name: &str) -> SocketAddr {
        let listeners = self.listeners.as_array().into_iter().flatten();
        let address =
            listeners.filter(|it| it["name"] == name).find_map(|it| it["address"].as_str()?.parse().ok());
        address.unwrap_or_else(|| panic!("there is no listener {name}: {}", self.listeners))
    }

    /// What `/status` says of one listener.
    #[track_caller]
    pub fn listener_status(&self, name: &str) -> Value {
        let status = self.status();
        let listeners = status["listeners"].as_array().cloned().unwrap_or_default();
        let found = listeners.into_iter().find(|it| it["name"] == name);
        found.unwrap_or_else(|| panic!("there is no listener {name}: {status:#}"))
    }

    /// Waits until one listener has refused for this reason that often.
    #[track_caller]
    pub fn wait_for_refusals(&self, name: &str, reason: &str, count: u64) {
        until(&format!("{count} connections refused for {reason}"), || {
            let status = self.listener_status(name);
            (status["refused"][reason].as_u64().unwrap_or(0) >= count).then_some(())
        });
    }

    /// Where `/status` and `/metrics` are.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Bytes of memory that it alone has now.
    #[track_caller]
    pub fn memory_bytes(&self) -> u64 {
        self.process.memory_bytes()
    }

    /// Bytes of memory it has now, with those of its program that are there.
    #[track_caller]
    pub fn resident_bytes(&self) -> u64 {
        self.process.resident_bytes()
    }

    /// Where its store is.
    pub fn store(&self) -> PathBuf {
        self.setup.store.clone().unwrap_or_else(|| self.home.path().join("store"))
    }

    /// Connects a client that must be accepted.
    #[track_caller]
    pub fn connect(&self, connect: &Connect) -> Client {
        Client::connect(self.mqtt, connect)
    }

    /// `/status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let (code, body) = http::get(self.http, "/status").expect("a running router answers");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("/status is JSON")
    }

    /// One number of `/status`, by JSON pointer.
    #[track_caller]
    pub fn number(&self, pointer: &str) -> u64 {
        let status = self.status();
        let number = status.pointer(pointer).and_then(Value::as_u64);
        number.unwrap_or_else(|| panic!("/status has no number {pointer}: {status:#}"))
    }

    /// Waits until a number of `/status` is at least this.
    #[track_caller]
    pub fn wait_for(&self, pointer: &str, at_least: u64) {
        let mut last = 0;
        let reached = within(PATIENCE, || {
            last = self.number(pointer);
            (last >= at_least).then_some(())
        });
        assert!(reached.is_some(), "{pointer} is {last}, not {at_least}: {:#}", self.status());
    }

    /// Messages that wait in the lanes of uplinks.
    #[track_caller]
    pub fn backlog(&self) -> u64 {
        let status = self.status();
        let lanes = status["lanes"].as_array().expect("/status has lanes");
        let of_uplinks =
            lanes.iter().filter(|lane| lane["name"].as_str().is_some_and(|it| it.starts_with("u/")));
        of_uplinks.filter_map(|lane| lane["backlog"].as_u64()).sum()
    }

    /// Code and body of any path.
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String) {
        http::get(self.http, path).expect("a running router answers")
    }

    /// One sample of `/metrics` by its full name with labels, 0 if it is not there.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
    }

    /// SIGTERM, then its end.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::Terminate);
        self.process.wait()
    }

    /// SIGKILL, then its end.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.signal(Signal::Kill);
        self.process.wait();
    }

    /// Starts it again on its store; with other keys, if they were changed. Its ports are new.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.process.has_ended().is_some(), "a router is started again after its end");
        self.spawn_again();
        self.wait_until_ready();
    }

    /// Starts it again without waiting until it is ready.
    #[track_caller]
    pub fn spawn_again(&mut self) {
        // It may never have existed: the process may have died before it was ready.
        std::fs::remove_file(self.ready_file()).ok();
        self.process = spawn(&self.setup, self.home.path());
    }

    /// Changes a key for the next start.
    pub fn reconfigure(&mut self, key: &str, value: impl ToString) {
        self.setup = self.setup.clone().set(key, value);
    }

    /// Writes its configuration file anew and tells it so (SIGHUP).
    #[track_caller]
    pub fn reload(&mut self, text: &str) {
        self.setup.file = Some(text.to_owned());
        // In one step: a reload that was asked for before may be reading it just now.
        let new = self.home.path().join("millrace.toml.new");
        std::fs::write(&new, text).expect("a configuration can be written");
        std::fs::rename(new, self.home.path().join(CONFIG)).expect("a file of ours can be renamed");
        self.process.signal(Signal::Reload);
    }

    /// Everything it said so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn ready_file(&self) -> PathBuf {
        self.home.path().join("ready")
    }

    /// Waits until it says that it is ready, and notes its addresses.
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        let path = self.ready_file();
        let text = until("the ready file", || {
            if let Some(status) = self.process.has_ended() {
                panic!("millrace ended before it was ready ({status}):\n{}", self.process.log());
            }
            std::fs::read_to_string(&path).ok()
        });
        let ready: Value = serde_json::from_str(&text).expect("the ready file is JSON");
        assert_eq!(ready["pid"], self.process.id(), "{ready}");
        let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).expect("an address");
        self.mqtt = address(&ready["listeners"][0]["address"]);
        self.http = address(&ready["http"]);
        self.listeners = ready["listeners"].clone();
    }
}
