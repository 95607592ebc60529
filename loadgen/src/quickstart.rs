//! The conductor of `make run`: a plant, a WAN, a gateway and a fleet on one machine, a view of them, and the ledger.
//!
//! Knows: how a Millrace is started, what it writes when it is ready, what it tells at `/status`.
//! May use: `run`, `wan`, the files beside this one. Never: the router's code; it is a process like any other.
//! In:  where the `millrace` binary is, keys, signals, planned outages. Out: a [`Verdict`].
//! Invariant: when [`conduct`] returns, in whatever way, no child is left and the terminal is as it was.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::ledger::{Rules, Verdict};
use crate::measure::Observer;
use crate::run::{Run, RunError};
use crate::scenario::{Scenario, ScenarioError};
use crate::wan::{Line, Wan};

mod child;
mod status;
mod view;

use child::Child;
pub use child::ChildError;
use status::Status;
use view::{Key, Snapshot, Terminal};

/// The fleet, as shipped; also readable on its own with `loadgen run`.
const FLEET: &str = include_str!("../../configs/scenarios/quickstart.toml");

/// How long connections of the fleet may take.
const FLEET_PATIENCE: Duration = Duration::from_secs(20);

/// How long we wait for the backlog once the fleet is silent.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// How often the conductor looks at its clock.
const LOOK: Duration = Duration::from_millis(25);

/// What to conduct.
#[derive(Clone, Debug)]
pub struct Options {
    /// The router's binary.
    pub millrace: PathBuf,
    /// Where the gateway listens.
    pub gateway_bind: String,
    /// Where stores and logs go; kept afterwards.
    pub data: PathBuf,
    /// When to stop; `None` is on command only.
    pub duration: Option<Duration>,
    /// Whether to draw on the terminal and take keys from it.
    pub terminal: bool,
    /// WAN outages without keys.
    pub outages: Vec<Outage>,
    /// Overrides of the fleet's scenario, as `key=value`.
    pub fleet: Vec<String>,
    /// Further `--set` of the gateway.
    pub gateway_set: Vec<String>,
}

/// A planned outage of the WAN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outage {
    /// Since the load started.
    pub at: Duration,
    /// How long.
    pub lasts: Duration,
}

impl FromStr for Outage {
    type Err = String;

    fn from_str(text: &str) -> Result<Outage, String> {
        let seconds =
            |text: &str| text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        text.split_once(':')
            .and_then(|(at, lasts)| Some(Outage { at: seconds(at)?, lasts: seconds(lasts)? }))
            .ok_or_else(|| format!("\"{text}\" is not AT:FOR in seconds, as in 5:10"))
    }
}

/// Why there was nothing to conduct, or no end to it.
#[derive(Debug, thiserror::Error)]
pub enum QuickstartError {
    /// Somebody has the port.
    #[error(
        "{bind} is taken: {error}. Another broker may be running; stop it, or choose another address with \
         --gateway-bind 127.0.0.1:1884 (with make: make run GATEWAY_BIND=127.0.0.1:1884)"
    )]
    PortTaken {
        /// What was asked for.
        bind: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The data folder cannot be used.
    #[error("cannot use the data folder {folder}: {error}; choose another one with --data")]
    Data {
        /// Which.
        folder: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A process failed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// A process is ready and does not listen where we need it.
    #[error(
        "{0} is ready and names no listener `tcp` in its ready file; is this a Millrace of the same version?"
    )]
    NoListener(&'static str),
    /// The fleet does not come up.
    #[error("the fleet: {0}")]
    Run(#[from] RunError),
    /// The overrides of the fleet make no sense.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The system refused something else.
    #[error("the conductor: {0}")]
    System(#[from] std::io::Error),
}

/// What came of it.
#[derive(Debug)]
pub struct Ending {
    /// The referee's findings.
    pub verdict: Verdict,
    /// What a child complained about when it was stopped, or why the run ended early.
    pub complaints: Vec<String>,
    /// Messages that the gateway still had for the plant when we stopped waiting, as far as it told us.
    pub left_in_lanes: u64,
}

impl Ending {
    /// Whether everything acknowledged arrived, in order and unharmed, and nobody failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.verdict.kept() && self.complaints.is_empty()
    }
}

/// Starts everything, runs until told to stop, reconciles, and stops everything.
pub async fn conduct(options: Options) -> Result<Ending, QuickstartError> {
    let mut stops = Stops::listen()?;
    let scene = tokio::select! {
        scene = Scene::set(&options) => scene?,
        () = stops.wait() => return Ok(Ending {
            verdict: Verdict::default(),
            complaints: vec!["stopped before anything ran".to_owned()],
            left_in_lanes: 0,
        }),
    };
    scene.play(&options, &mut stops).await
}

/// Everything that runs.
struct Scene {
    plant: Child,
    plant_address: SocketAddr,
    wan: Wan,
    gateway: Child,
    gateway_address: SocketAddr,
    status: watch::Receiver<Result<Status, String>>,
    asking: JoinHandle<()>,
    run: Run,
    devices: u32,
}

impl Scene {
    async fn set(options: &Options) -> Result<Scene, QuickstartError> {
        let data = &options.data;
        std::fs::create_dir_all(data)
            .map_err(|error| QuickstartError::Data { folder: data.clone(), error })?;
        let bind = &options.gateway_bind;
        // Asked before anything starts: the answer of a child that is half up is harder to read.
        drop(
            std::net::TcpListener::bind(bind.as_str())
                .map_err(|error| QuickstartError::PortTaken { bind: bind.clone(), error })?,
        );

        let (plant, ready) = start("plant", options, "127.0.0.1:0", &[]).await?;
        let plant_address = ready.tcp().ok_or(QuickstartError::NoListener("the plant"))?;
        let wan = Wan::start("127.0.0.1:0", &plant_address.to_string()).await?;
        println!("plant    mqtt://{plant_address}, log {}", data.join("plant.log").display());
        println!("WAN      {} → plant", wan.address());
        let mut uplink = vec![
            format!("uplink.plant.url=mqtt://{}", wan.address()),
            // A demonstration should show the drain at once, not after the minute that suits a fleet in the field.
            "uplink.plant.backoff_max_ms=2000".to_owned(),
            "routes.telemetry=FROM /messages/* INTO $upstream".to_owned(),
        ];
        uplink.extend(options.gateway_set.iter().cloned());
        let (gateway, ready) = start("gateway", options, bind, &uplink).await?;
        let gateway_address = ready.tcp().ok_or(QuickstartError::NoListener("the gateway"))?;

        let http =
            ready.http.as_ref().map_or_else(String::new, |http| format!(", status http://{http}/status"));
        println!("gateway  mqtt://{gateway_address}{http}, log {}", data.join("gateway.log").display());

        let (tell, status) = watch::channel(Err("the gateway has not been asked yet".to_owned()));
        let asking = tokio::spawn(ask(ready.http, tell));

        let mut overrides = vec![
            format!("publishers.url=mqtt://{gateway_address}"),
            format!("subscribers.url=mqtt://{plant_address}"),
            "run.duration_secs=604800".to_owned(),
        ];
        overrides.extend(options.fleet.iter().cloned());
        let scenario = Scenario::parse("the quickstart fleet", FLEET, &overrides)?;
        let devices = scenario.publishers.as_ref().map_or(0, |publishers| publishers.count);
        let run = Run::start(scenario)?;
        run.ready(FLEET_PATIENCE).await?;
        Ok(Scene { plant, plant_address, wan, gateway, gateway_address, status, asking, run, devices })
    }

    async fn play(mut self, options: &Options, stops: &mut Stops) -> Result<Ending, QuickstartError> {
        let (mut terminal, mut keys) = take_terminal(options.terminal)?;
        let mut complaints = Vec::new();
        let mut backlogs = VecDeque::new();
        self.run.begin();
        let started = self.run.now();
        let mut observer = Observer::new(&self.run, started);
        let mut second = *observer.look(&mut self.run, started).0;
        let mut outages = Outages::new(options.outages.clone());
        // Set when the fleet falls silent: until when we wait for the rest.
        let mut give_up = None;
        loop {
            let asked = tokio::select! {
                () = stops.wait() => Some(Key::Quit),
                key = next(&mut keys) => Some(key),
                () = tokio::time::sleep(LOOK) => None,
            };
            let now = self.run.now();
            let elapsed = Duration::from_micros(now.since(started));
            let mut stop = options.duration.is_some_and(|duration| elapsed >= duration);
            match asked {
                Some(Key::Quit) => stop = true,
                Some(Key::Wan) => self.toggle(Line::Down),
                Some(Key::Blackhole) => self.toggle(Line::Blackhole),
                None => {}
            }
            if give_up.is_none() {
                if let Some(line) = outages.due(elapsed) {
                    self.wan.set(line);
                }
                for child in [&mut self.plant, &mut self.gateway] {
                    if let Err(error) = child.check() {
                        complaints.push(error.to_string());
                        stop = true;
                    }
                }
            }
            let gives_up_early = give_up.is_some() && asked == Some(Key::Quit);
            if stop && give_up.is_none() {
                // What the line holds back can only be counted once it is there again.
                self.wan.restore();
                self.run.stop_publishing();
                give_up = Some(now.plus(if complaints.is_empty() { DRAIN_PATIENCE } else { Duration::ZERO }));
            }
            let over = give_up.is_some_and(|until| now >= until || gives_up_early || self.run.is_drained());
            if observer.is_due(now) || over {
                second = *observer.look(&mut self.run, now).0;
                view::remember(&mut backlogs, second.missing);
            } else if asked.is_none() || terminal.is_none() {
                // Nothing new to show. A key is answered at once, though, and not at the next second.
                continue;
            }
            let snapshot = Snapshot {
                second,
                line: self.wan.line(),
                status: self.status.borrow().clone(),
                gateway: self.gateway_address,
                plant: self.plant_address,
                devices: self.devices,
                draining: give_up.map(|until| Duration::from_micros(until.since(now))),
                backlogs: backlogs.clone(),
            };
            match &mut terminal {
                Some(terminal) => terminal.draw(&view::picture(&snapshot, Terminal::width()))?,
                None => println!("{}", view::one_line(&snapshot)),
            }
            if over {
                break;
            }
        }
        drop(terminal);
        self.end(complaints).await
    }

    fn toggle(&self, fault: Line) {
        self.wan.set(if self.wan.line() == fault { Line::Up } else { fault });
    }

    /// Stops everything in the order in which messages flow, and reconciles.
    async fn end(self, mut complaints: Vec<String>) -> Result<Ending, QuickstartError> {
        // Repeats come right behind their first copies; leave them a moment to be seen.
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.asking.abort();
        let left_in_lanes = self
            .status
            .borrow()
            .as_ref()
            .map_or(0, |status| status.lanes.iter().map(|lane| lane.backlog).sum());
        let outcome = self.run.finish();
        for child in [self.gateway, self.plant] {
            if let Err(error) = child.stop().await {
                let error = error.to_string();
                if !complaints.contains(&error) {
                    complaints.push(error);
                }
            }
        }
        drop(self.wan);
        Ok(Ending { verdict: outcome.ledger.verdict(Rules::default()), complaints, left_in_lanes })
    }
}

/// Starts one Millrace and waits until it is ready.
async fn start(
    name: &'static str,
    options: &Options,
    bind: &str,
    set: &[String],
) -> Result<(Child, child::Ready), QuickstartError> {
    let data = &options.data;
    let ready_file = data.join(format!("{name}.ready.json"));
    // What an earlier run left would be read as the answer of this one.
    std::fs::remove_file(&ready_file).ok();
    let arguments = arguments(&data.join(name), bind, set, &ready_file);
    let mut child = Child::start(name, &options.millrace, &arguments, data.join(format!("{name}.log")))?;
    let ready = child.ready(&ready_file).await?;
    Ok((child, ready))
}

fn arguments(store: &Path, bind: &str, set: &[String], ready_file: &Path) -> Vec<String> {
    let mut arguments: Vec<String> = ["run", "--profile", "quickstart"].map(str::to_owned).into();
    let own = [
        format!("listener.tcp.bind={bind}"),
        format!("store.path={}", store.display()),
        "http.bind=127.0.0.1:0".to_owned(),
    ];
    for value in own.iter().chain(set) {
        arguments.extend(["--set".to_owned(), value.clone()]);
    }
    arguments.extend(["--ready-file".to_owned(), ready_file.display().to_string()]);
    arguments
}

/// Asks the gateway once a second, beside the view, so that a slow answer delays no key.
async fn ask(http: Option<String>, tell: watch::Sender<Result<Status, String>>) {
    let Some(address) = http else {
        drop(tell.send_replace(Err("the gateway serves no /status".to_owned())));
        return;
    };
    loop {
        drop(tell.send_replace(status::fetch(&address).await));
        tokio::time::sleep(Duration::from_millis(950)).await;
    }
}

/// Planned outages that are still to come.
struct Outages {
    events: VecDeque<(Duration, Line)>,
}

impl Outages {
    fn new(outages: Vec<Outage>) -> Outages {
        let mut events: Vec<_> = outages
            .iter()
            .flat_map(|outage| [(outage.at, Line::Down), (outage.at + outage.lasts, Line::Up)])
            .collect();
        events.sort_by_key(|(at, _)| *at);
        Outages { events: events.into() }
    }

    /// What the line becomes, if something is due.
    fn due(&mut self, elapsed: Duration) -> Option<Line> {
        let mut line = None;
        while let Some(&(at, next)) = self.events.front()
            && at <= elapsed
        {
            line = Some(next);
            self.events.pop_front();
        }
        line
    }
}

/// Signals that ask us to stop.
struct Stops {
    signals: [Signal; 3],
}

impl Stops {
    fn listen() -> std::io::Result<Stops> {
        Ok(Stops {
            signals: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ],
        })
    }

    async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

type Keys = Option<mpsc::Receiver<Key>>;

fn take_terminal(wanted: bool) -> std::io::Result<(Option<Terminal>, Keys)> {
    if !wanted {
        return Ok((None, None));
    }
    Terminal::take().map(|(terminal, keys)| (Some(terminal), Some(keys)))
}

/// The next key; never, without a terminal.
async fn next(keys: &mut Keys) -> Key {
    if let Some(receiver) = keys
        && let Some(key) = receiver.recv().await
    {
        return key;
    }
    *keys = None;
    std::future::pending().await
}

#[cfg(test)]
mod tests;
