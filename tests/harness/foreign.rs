//! Programs by other people: Debian's `mosquitto_pub`, `mosquitto_sub` and `mosquitto`, and Python with paho-mqtt.
//!
//! In: an address and what to do there. Out: what they printed. A program that is missing is a failure that says what
//! to install, never a skip: a suite that is silently smaller proves nothing.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::Version;
use crate::certificates::{Authority, Identity};
use crate::places::own_place;
use crate::process::{Finished, Process};
use crate::wait::{until, within};

/// Finds a program that a Debian package brings.
#[track_caller]
fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // `mosquitto` lies in sbin, which ordinary users do not have in their PATH.
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = places.map(|place| place.join(name)).find(|place| place.is_file());
    found.unwrap_or_else(|| {
        panic!("{name} is missing: run `make test`, which installs {package} (apt-get install {package})")
    })
}

const fn version_flag(version: Version) -> &'static str {
    match version {
        Version::V3 => "mqttv311",
        Version::V5 => "mqttv5",
    }
}

fn client(name: &str, address: SocketAddr, version: Version) -> Command {
    let mut command = Command::new(program(name, "mosquitto-clients"));
    command.arg("-h").arg(address.ip().to_string()).arg("-p").arg(address.port().to_string());
    command.arg("-V").arg(version_flag(version)).stdin(Stdio::null());
    command
}

/// Runs `mosquitto_pub` with these further arguments; it must succeed.
#[track_caller]
pub fn publish(address: SocketAddr, version: Version, arguments: &[&str]) {
    let output = client("mosquitto_pub", address, version).args(arguments).output();
    Finished::of(output.expect("mosquitto_pub can be started")).expect(0);
}

/// Runs `mosquitto_pub` over a Unix socket with these further arguments; it must succeed.
#[track_caller]
pub fn publish_unix(path: &Path, arguments: &[&str]) {
    let mut command = Command::new(program("mosquitto_pub", "mosquitto-clients"));
    command.arg("--unix").arg(path).args(arguments).stdin(Stdio::null());
    Finished::of(command.output().expect("mosquitto_pub can be started")).expect(0);
}

/// Runs `mosquitto_sub` to its end with these further arguments, which must make it end.
#[track_caller]
pub fn subscribe(address: SocketAddr, version: Version, arguments: &[&str]) -> Finished {
    let output = client("mosquitto_sub", address, version).args(arguments).output();
    Finished::of(output.expect("mosquitto_sub can be started"))
}

/// Longest time that a scenario of paho-mqtt takes; each of its own waits is shorter.
const SCENARIO: std::time::Duration = std::time::Duration::from_secs(90);

/// Plays a scenario of `tests/it/paho/scenarios.py`; it must end well and in time.
///
/// Python is the one that `make setup-test` makes: `MILLRACE_PYTHON`, or where the Makefile puts it.
#[track_caller]
pub fn paho(address: SocketAddr, scenario: &str) {
    let home = tempfile::tempdir().expect("a directory for the test");
    let mut command = Command::new(python());
    command.arg("-B").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/it/paho/scenarios.py"));
    command.arg(address.ip().to_string()).arg(address.port().to_string()).arg(scenario);
    let mut process = Process::start("python", &mut command, &home.path().join("log"));
    let ended = within(SCENARIO, || process.has_ended());
    let status = ended.unwrap_or_else(|| panic!("{scenario} takes more than {} s", SCENARIO.as_secs()));
    assert!(status.success(), "{scenario}: {status}\n{}", process.log());
}

/// What HdrHistogram's own log reader, for Python, finds in a log: intervals, values, what they are like.
#[track_caller]
pub fn histogram_log(log: &Path) -> serde_json::Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/it/paho/histogram.py");
    let output = Command::new(python()).arg("-B").arg(script).arg(log).output().expect("python starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {}\n{errors}", log.display(), output.status);
    serde_json::from_slice(&output.stdout).expect("it tells JSON")
}

/// The Python that `make setup-test` made.
#[track_caller]
fn python() -> PathBuf {
    let python = std::env::var_os("MILLRACE_PYTHON").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        Some(cache.join("millrace/python-test/bin/python"))
    });
    let python = python.filter(|path| path.is_file());
    python.unwrap_or_else(|| panic!("no Python with paho-mqtt: run `make setup-test`"))
}

/// A `mosquitto_sub` that runs and has its subscriptions.
#[derive(Debug)]
pub struct Subscriber {
    process: Process,
    _home: TempDir,
}

/// Begins every line that is a message.
const MARK: &str = "message|";

impl Subscriber {
    /// Starts it with these further arguments and waits for its SUBACK.
    ///
    /// It ends by itself after `count` messages.
    #[track_caller]
    pub fn start(address: SocketAddr, version: Version, count: usize, arguments: &[&str]) -> Subscriber {
        let home = tempfile::tempdir().expect("a directory for the test");
        // It writes through a buffer when nobody watches; `stdbuf` makes it write line by line.
        let mut command = Command::new("stdbuf");
        command.arg("-oL").arg(program("mosquitto_sub", "mosquitto-clients"));
        command.arg("-h").arg(address.ip().to_string()).arg("-p").arg(address.port().to_string());
        command.arg("-V").arg(version_flag(version)).arg("-d").arg("-C").arg(count.to_string());
        command.arg("-F").arg(format!("{MARK}%t|%q|%p")).args(arguments);
        let process = Process::start("mosquitto_sub", &mut command, &home.path().join("log"));
        until("the subscription of mosquitto_sub", || process.log().contains("SUBACK").then_some(()));
        Subscriber { process, _home: home }
    }

    /// Waits for its end; the messages as `topic|qos|payload`.
    #[track_caller]
    pub fn messages(mut self) -> Vec<String> {
        let status = self.process.wait();
        assert!(status.success(), "mosquitto_sub: {status}\n{}", self.process.log());
        self.so_far()
    }

    /// The messages that it has printed.
    pub fn so_far(&self) -> Vec<String> {
        self.process.log().lines().filter_map(|line| line.strip_prefix(MARK)).map(str::to_owned).collect()
    }

    /// Everything it says of itself, with what it sends and gets.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Is gone, without a word.
    pub fn kill(mut self) {
        self.process.signal(crate::Signal::Kill);
        self.process.wait();
    }
}

/// Debian's broker.
#[derive(Debug)]
pub struct Mosquitto {
    process: Process,
    address: SocketAddr,
    home: TempDir,
    /// More lines of its configuration.
    more: String,
}

impl Mosquitto {
    /// Starts it on a free port, open to everybody on this machine.
    #[track_caller]
    pub fn start() -> Mosquitto {
        Mosquitto::start_with(own_place, "")
    }

    /// As `start`, over TLS; only clients with a certificate of `authority` get in.
    #[track_caller]
    pub fn start_tls(authority: &Authority, own: &Identity) -> Mosquitto {
        // Certificates are for 127.0.0.1.
        let place = || TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port");
        let more = format!(
            "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
            authority.file().display(),
            own.cert.display(),
            own.key.display()
        );
        Mosquitto::start_with(place, &more)
    }

    /// It cannot be told to take any free port; where somebody else was faster, it ends, and is tried elsewhere.
    #[track_caller]
    fn start_with(place: impl Fn() -> SocketAddr, more: &str) -> Mosquitto {
        let mut said = String::new();
        for _ in 0..10 {
            let home = tempfile::tempdir().expect("a directory for the test");
            let address = place();
            let process = Mosquitto::spawn(address, &home, more);
            let mut broker = Mosquitto { process, address, home, more: more.to_owned() };
            if broker.accepts() {
                return broker;
            }
            said = broker.process.log();
            if !said.contains("Address already in use") {
                break;
            }
        }
        panic!("mosquitto ended:\n{said}");
    }

    #[track_caller]
    fn spawn(address: SocketAddr, home: &TempDir, more: &str) -> Process {
        let path = home.path().join("mosquitto.conf");
        let text = format!(
            "listener {} {}\nallow_anonymous true\nmax_inflight_messages 1000\nmax_queued_messages 0\n{more}",
            address.port(),
            address.ip()
        );
        std::fs::write(&path, text).expect("a configuration can be written");
        let mut command = Command::new(program("mosquitto", "mosquitto"));
        command.arg("-c").arg(&path);
        Process::start("mosquitto", &mut command, &home.path().join("log"))
    }

    /// Waits until it accepts or ends: whether it accepts. Where somebody else does, it ends.
    #[track_caller]
    fn accepts(&mut self) -> bool {
        until("mosquitto to accept", || {
            if self.process.has_ended().is_some() {
                return Some(false);
            }
            let running = self.process.log().contains("running");
            (running && TcpStream::connect(self.address).is_ok()).then_some(true)
        })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills it.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.signal(crate::Signal::Kill);
        self.process.wait();
    }

    /// Starts it again on its port; what it had is gone.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.process = Mosquitto::spawn(self.address, &self.home, &self.more);
        assert!(self.accepts(), "mosquitto ended:\n{}", self.process.log());
    }
}
