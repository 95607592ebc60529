//! What is measured: Millrace, mosquitto, and a relay that does not parse. Each is started fresh for each run.
//!
//! Knows: their command lines and the settings that make them comparable. May use: `child`. Never: load.
//! In:  a [`System`] and where its binary is. Out: a [`Running`] one at a loopback address, gone when dropped.

use std::fmt::Write;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;
use tempfile::TempDir;

use crate::child::{Child, free_port};
use crate::peers::{Peer, Readiness};

/// Routes on topics of their own: what a table costs a message that it does not concern.
const ROUTES_ELSEWHERE: u32 = 90;
/// Routes on every topic, with a predicate on a property that the load does not have: what asking costs.
const ROUTES_ASKED: u32 = 10;
/// How often a port may be taken from under us.
const PORT_ATTEMPTS: u32 = 5;
/// How long `/metrics` may take.
const HTTP_PATIENCE: Duration = Duration::from_secs(10);

/// mosquitto's settings: nothing that bounds it below what the load needs, nothing written, nothing logged.
pub(crate) const MOSQUITTO_SETTINGS: &str = "\
allow_anonymous true
persistence false
max_queued_messages 0
max_queued_bytes 0
max_inflight_messages 0
max_inflight_bytes 0
max_connections -1
set_tcp_nodelay true
sys_interval 0
log_dest none
connection_messages false
";

/// Name of Millrace's ready file.
const READY: &str = "ready.json";

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum System {
    /// The product.
    Millrace,
    /// The product as it was before: another binary, named with `--peer-binary`.
    Before,
    /// The broker of the Debian package.
    Mosquitto,
    /// A TCP relay between each publisher and its subscriber, without parsing: what the kernel takes at least.
    Relay,
    /// Another broker, by its name: `--peer FILE`.
    Foreign(&'static str),
}

impl Serialize for System {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl System {
    /// Its name in tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            System::Millrace => "millrace",
            System::Before => "before",
            System::Mosquitto => "mosquitto",
            System::Relay => "relay",
            System::Foreign(name) => name,
        }
    }

    /// Another broker. Its name stays in memory to the end of the process: there are a handful.
    pub(crate) fn foreign(peer: &Peer) -> System {
        System::Foreign(String::leak(peer.name.clone()))
    }
}

/// Routes that Millrace has while it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routes {
    /// None.
    None,
    /// A hundred that are asked and do not match.
    Hundred,
    /// So many that ask the body of every message and do not match.
    Asking(u32),
    /// So many that ask the body of every message, of which every hundredth matches and republishes, seven topics in all.
    OnePercent(u32),
    /// One that takes everything into the lane of an uplink that is down; an acknowledgement waits for the disk.
    AllDurable,
    /// One that takes everything upstream, to a broker at this address. mosquitto does the same by a bridge, persistence on.
    Forward(SocketAddr),
    /// Below `live/` the same, with what is live before what waited; the rest stays here.
    Drain(SocketAddr),
    /// The same with this durability.
    Durability(&'static str, SocketAddr),
    /// Everything into the lane of an uplink that is down and gives up its oldest beyond 256 MiB.
    Overloaded,
}

/// Where the binaries are, and what can be chosen about them.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    pub(crate) millrace: PathBuf,
    pub(crate) mosquitto: Option<PathBuf>,
    /// Another Millrace, to compare with.
    pub(crate) before: Option<PathBuf>,
    /// Other brokers, by files.
    pub(crate) foreign: Vec<(System, Peer)>,
    pub(crate) shards: u32,
    /// Where stores are put; the system's folder for temporary files if `None`.
    pub(crate) data: Option<PathBuf>,
    /// Keys of Millrace's configuration on top of ours.
    pub(crate) set: Vec<String>,
}

/// A contestant that accepts connections.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    http: Option<SocketAddr>,
    // After the child: the folder goes when nobody writes into it any more.
    folder: TempDir,
}

impl Binaries {
    /// Finds what there is. Fails if Millrace is not there.
    pub(crate) fn find(
        millrace: Option<PathBuf>,
        mosquitto: Option<PathBuf>,
        shards: u32,
        data: Option<PathBuf>,
        set: Vec<String>,
    ) -> anyhow::Result<Binaries> {
        let millrace = match millrace {
            Some(path) => path,
            None => beside_us("millrace")?,
        };
        if !millrace.is_file() {
            bail!(
                "{} is not there: cargo build --release -p millrace, or name it with --millrace",
                millrace.display()
            );
        }
        let mosquitto = mosquitto.or_else(|| find_program("mosquitto"));
        Ok(Binaries { millrace, mosquitto, before: None, foreign: Vec::new(), shards, data, set })
    }

    /// Their versions and settings, one line each, for the head of a result.
    pub(crate) fn settings(&self) -> Vec<String> {
        let version = |program: &Path, flag: &str| {
            let output = Command::new(program).arg(flag).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().next().map(str::to_owned)
        };
        let set: String = self.set.iter().map(|set| format!(", {set}")).collect();
        let mut lines = vec![format!(
            "millrace: {}; shards = {}{set}, everything else as the defaults are",
            version(&self.millrace, "--version").unwrap_or_else(|| "version unknown".to_owned()),
            self.shards
        )];
        if let Some(before) = &self.before {
            lines.push(format!(
                "before: {}, {}; the same settings",
                before.display(),
                version(before, "--version").unwrap_or_else(|| "version unknown".to_owned())
            ));
            return lines;
        }
        if let Some(mosquitto) = &self.mosquitto {
            lines.push(format!(
                "mosquitto: {}; {}",
                version(mosquitto, "-h").unwrap_or_else(|| "version unknown".to_owned()),
                MOSQUITTO_SETTINGS.lines().collect::<Vec<_>>().join(", ")
            ));
        }
        for (_, peer) in &self.foreign {
            let said = peer.version.split_first().and_then(|(program, arguments)| {
                let output = Command::new(find_program(program)?).args(arguments).output().ok()?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.lines().find(|line| !line.trim().is_empty()).map(str::to_owned)
            });
            let version = said.unwrap_or_else(|| "version unknown".to_owned());
            lines.push(format!("{}: {version}; settings as in its file", peer.name));
        }
        lines.push(format!(
            "relay: {} threads of tokio, one connection pair per task, 64 KiB copy buffers, no parsing",
            self.shards
        ));
        lines
    }

    /// Starts one, fresh.
    pub(crate) fn start(&self, system: System, routes: Routes) -> anyhow::Result<Running> {
        let folder = match &self.data {
            Some(data) => tempfile::Builder::new().prefix("millrace-bench-").tempdir_in(data),
            None => tempfile::Builder::new().prefix("millrace-bench-").tempdir(),
        };
        let folder = folder.context("a folder for the store cannot be made")?;
        match system {
            System::Millrace => self.start_millrace(&self.millrace, folder, routes),
            System::Before => {
                let before = self.before.as_ref().context("no other Millrace was named: --peer-binary")?;
                self.start_millrace(before, folder, routes)
            }
            System::Mosquitto => self.start_mosquitto(folder, routes),
            System::Relay => self.start_relay(folder),
            System::Foreign(_) => self.start_foreign(system, folder),
        }
    }

    fn start_millrace(&self, program: &Path, folder: TempDir, routes: Routes) -> anyhow::Result<Running> {
        let (config, ready) = (folder.path().join("millrace.toml"), folder.path().join(READY));
        std::fs::write(&config, millrace_config(self.shards, &folder.path().join("store"), routes))?;
        let mut arguments =
            ["run", "--config", &text(&config), "--ready-file", &text(&ready)].map(str::to_owned).to_vec();
        arguments.extend(self.set.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
        let child = Child::start("millrace", program, &arguments, folder.path().join("log"))?;
        Running::when_ready(child, folder, &ready)
    }

    fn start_relay(&self, folder: TempDir) -> anyhow::Result<Running> {
        let ready = folder.path().join("ready.json");
        let own = std::env::current_exe().context("our own binary cannot be found")?;
        let threads = self.shards.to_string();
        let arguments = ["relay", "--threads", &threads, "--ready-file", &text(&ready)].map(str::to_owned);
        let child = Child::start("relay", &own, &arguments, folder.path().join("log"))?;
        Running::when_ready(child, folder, &ready)
    }

    /// Kills Millrace and starts it on what it has left; how many seconds that took, to the ready file.
    /// `between` may change what it has left.
    pub(crate) fn kill_and_start(
        &self,
        running: Running,
        routes: Routes,
        between: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Running, f64)> {
        let Running { mut child, folder, .. } = running;
        child.kill();
        drop(child);
        std::fs::remove_file(folder.path().join(READY))?;
        between(folder.path())?;
        let started = Instant::now();
        let running = self.start_millrace(&self.millrace, folder, routes)?;
        Ok((running, started.elapsed().as_secs_f64()))
    }

    fn start_mosquitto(&self, folder: TempDir, routes: Routes) -> anyhow::Result<Running> {
        let Some(mosquitto) = &self.mosquitto else {
            bail!("mosquitto is not installed: run `make bench`, which installs it");
        };
        let config = folder.path().join("mosquitto.conf");
        at_free_port(
            folder,
            |port, folder| {
                let listener = format!("listener {port} {}\n", Ipv4Addr::LOCALHOST);
                std::fs::write(&config, listener + &mosquitto_settings(folder, routes))?;
                let arguments = ["-c".to_owned(), text(&config)];
                Child::start("mosquitto", mosquitto, &arguments, folder.join("log"))
            },
            Child::accepts,
        )
    }

    fn start_foreign(&self, system: System, folder: TempDir) -> anyhow::Result<Running> {
        let known = self.foreign.iter().find(|(known, _)| *known == system);
        let (_, peer) = known.context("nobody named this peer: --peer")?;
        at_free_port(
            folder,
            |port, folder| {
                let placed = peer.place(port, folder)?;
                let program = find_program(&placed.program)
                    .with_context(|| format!("{}: {} is not installed", peer.name, placed.program))?;
                Child::start(system.name(), &program, &placed.arguments, folder.join("log"))
            },
            |child, address| match peer.ready {
                Readiness::Connack => child.answers(address, Duration::from_secs(peer.ready_secs)),
                Readiness::Port => child.accepts(address),
            },
        )
    }
}

/// Starts a program that cannot choose a port itself: somebody else may take it from under us.
fn at_free_port(
    folder: TempDir,
    start: impl Fn(u16, &Path) -> anyhow::Result<Child>,
    ready: impl Fn(&mut Child, SocketAddr) -> anyhow::Result<()>,
) -> anyhow::Result<Running> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut child = start(address.port(), folder.path())?;
        match ready(&mut child, address) {
            Ok(()) => return Ok(Running { child, address, http: None, folder }),
            // It runs and is not ready: another port would not help.
            Err(error) if attempt == PORT_ATTEMPTS || child.check().is_ok() => return Err(error),
            Err(_) => {}
        }
    }
}

impl Running {
    fn when_ready(mut child: Child, folder: TempDir, file: &Path) -> anyhow::Result<Running> {
        let ready = child.ready(file)?;
        let tcp = ready.listeners.iter().find(|listener| listener.name == "tcp");
        let address = tcp.context("the ready file names no listener \"tcp\"")?.address;
        Ok(Running { child, address, http: ready.http, folder })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.child.check()
    }

    /// The folder of its store.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What Millrace counts, by the names of its `/metrics`; fails for others.
    pub(crate) fn metrics(&self) -> anyhow::Result<Metrics> {
        let address = self.http.context("it serves no metrics")?;
        let mut stream = TcpStream::connect_timeout(&address, HTTP_PATIENCE)?;
        stream.set_read_timeout(Some(HTTP_PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(Metrics(answer))
    }
}

/// The text of one scrape.
pub(crate) struct Metrics(String);

impl Metrics {
    /// The value of a metric without labels; `None` if it is not there.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }
}

/// A bridge carries everything out at QoS 1, keeps its session, and comes back after a second; the rest is as Debian has it.
fn mosquitto_settings(folder: &Path, routes: Routes) -> String {
    let Routes::Forward(upstream) = routes else { return MOSQUITTO_SETTINGS.to_owned() };
    let kept = format!("persistence true\npersistence_location {}/", text(folder));
    MOSQUITTO_SETTINGS.replace("persistence false", &kept)
        + &format!(
            "connection plant\naddress {upstream}\ntopic # out 1\ncleansession false\nrestart_timeout 1\n\
             bridge_protocol_version mqttv311\nnotifications false\ntry_private false\n"
        )
}

fn millrace_config(shards: u32, store: &Path, routes: Routes) -> String {
    let mut config = format!(
        "shards = {shards}\n[listener.tcp]\nbind = \"127.0.0.1:0\"\n[http]\nbind = \"127.0.0.1:0\"\n\
         [auth]\nanonymous = true\n[store]\npath = {:?}\n[log]\nlevel = \"error\"\n",
        text(store)
    );
    if let Routes::Forward(upstream) = routes {
        config += &format!(
            "[uplink.plant]\nurl = \"mqtt://{upstream}\"\nbackoff_max_ms = 1000\n\
             [routes]\nall = 'FROM /messages/* INTO $upstream'\n"
        );
    } else if let Routes::Drain(upstream) = routes {
        config += &format!(
            "[uplink.plant]\nurl = \"mqtt://{upstream}\"\nbackoff_min_ms = 50\nbackoff_max_ms = 100\ndrain = \"live-first\"\n\
             [routes]\nlive = 'FROM \"live/#\" INTO $upstream'\n"
        );
    } else if let Routes::Durability(durability, upstream) = routes {
        config += &format!(
            "[uplink.plant]\nurl = \"mqtt://{upstream}\"\n\
             [routes.all]\nroute = 'FROM /messages/* INTO $upstream'\ndurability = \"{durability}\"\n"
        );
    } else if routes == Routes::Overloaded {
        config += "[uplink.cloud]\nurl = \"mqtt://127.0.0.1:9\"\nbytes_max = 268435456\nwhen_full = \"drop-oldest\"\n\
                   [routes]\nall = 'FROM /messages/* INTO $upstream'\n";
    } else if routes != Routes::None {
        // Port 9, discard: nobody listens there, so messages stay in their lanes.
        config += "[uplink.cloud]\nurl = \"mqtt://127.0.0.1:9\"\n[routes]\n";
    }
    let mut route = |number: u32, text: &str| {
        writeln!(config, "r{number} = '{text}'").expect("writing to memory cannot fail");
    };
    match routes {
        Routes::None
        | Routes::Forward(_)
        | Routes::Drain(_)
        | Routes::Durability(..)
        | Routes::Overloaded => {}
        Routes::Hundred => {
            for number in 0..ROUTES_ELSEWHERE {
                route(
                    number,
                    &format!("FROM \"plant/{number}/#\" WHERE $body.temperature > {number} INTO $upstream"),
                );
            }
            for number in ROUTES_ELSEWHERE..ROUTES_ELSEWHERE + ROUTES_ASKED {
                route(number, &format!("FROM /messages/* WHERE temperature > {number} INTO $upstream"));
            }
        }
        Routes::Asking(count) => {
            for number in 0..count {
                route(number, &asking(number, "$upstream"));
            }
        }
        Routes::OnePercent(count) => {
            for number in 0..count {
                let sink = format!("topic \"hot/{}\"", number / 100 % 7);
                match number % 100 {
                    // All that telemetry walks to is above.
                    0 => route(number, &format!("FROM /messages/* WHERE $body.temperature > 5 INTO {sink}")),
                    _ => route(number, &asking(number, &sink)),
                }
            }
        }
        Routes::AllDurable => route(0, "FROM /messages/* INTO $upstream"),
    }
    config
}

/// A route with a threshold of its own, above what telemetry walks to.
fn asking(number: u32, sink: &str) -> String {
    format!("FROM /messages/* WHERE $body.temperature > {} INTO {sink}", 1_000 + number)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn beside_us(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("our own binary cannot be found")?;
    Ok(own.parent().unwrap_or(Path::new(".")).join(name))
}

/// Like the shell, and in the places where Debian puts daemons even if an ordinary user's path lacks them.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let metrics = Metrics(
            "HTTP/1.0 200 OK\r\n\r\n# TYPE a counter\na_syncs 7\na_syncs_total 12\nlabelled{x=\"y\"} 3\n"
                .to_owned(),
        );
        assert_eq!(metrics.value("a_syncs_total"), Some(12.0));
        assert_eq!(metrics.value("a_syncs"), Some(7.0));
        assert_eq!((metrics.value("a"), metrics.value("labelled")), (None, None));
    }

    #[test]
    fn the_hundred_routes_are_a_hundred() {
        let config = millrace_config(2, Path::new("/tmp/with \"quotes\""), Routes::Hundred);
        assert_eq!(config.lines().filter(|line| line.starts_with('r') && line.contains("FROM")).count(), 100);
        assert!(config.contains(r#"path = "/tmp/with \"quotes\"""#));
        let asking = millrace_config(2, Path::new("/x"), Routes::Asking(7));
        assert_eq!(asking.lines().filter(|line| line.contains("> 1006 INTO")).count(), 1);
        let percent = millrace_config(2, Path::new("/x"), Routes::OnePercent(1_000));
        assert_eq!(percent.lines().filter(|line| line.contains("FROM")).count(), 1_000);
        assert_eq!(percent.lines().filter(|line| line.contains("> 5 INTO topic \"hot/")).count(), 10);
        assert!(!millrace_config(2, Path::new("/x"), Routes::None).contains("uplink"));
    }
}
