//! `bench uplink`: what an uplink gets through a network that is far and lossy; Millrace beside mosquitto's bridge.
//!
//! Knows: one scene: a gateway with a backlog, an emulated network, a plant at its far end, which is a mosquitto for both.
//! May use: `contestants`, `child`, `identities`, the load generator and its emulated network. Needs root. Out: `uplink.md`, `uplink.json`.
//! How: the way swallows everything; publishers leave so many messages with the gateway; the way is opened, and from the
//! first message that arrives the time counts until all are there, or for at most [`MEASURED`]. CPU is the gateway's in that
//! time. What arrives is counted by a subscriber over a way of its own, which nothing disturbs.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use loadgen::emulated::{Emulated, Way};
use loadgen::process::Sample as Process;
use loadgen::run::Run;
use serde::Serialize;
use tempfile::TempDir;

use crate::child::Child;
use crate::contestants::{Binaries, Routes, System};
use crate::fleet::{Fleet, MESSAGE_BYTES, PUBLISHERS, backlog, wait};
use crate::identities::{self, Identities};

/// Longest measured part of one cell.
const MEASURED: Duration = Duration::from_secs(10);
/// How long the filling, and the first arrival, may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long an idle connection is watched.
const IDLE: Duration = Duration::from_secs(65);
/// The way that is to be saturated: 10 Mbit/s.
const NARROW_BYTES_PER_SEC: u64 = 1_250_000;
/// Where the plant listens: it has its namespace to itself.
const PLANT_PORT: u16 = 1_883;

/// One cell.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) system: System,
    pub(crate) rtt_millis: u64,
    pub(crate) lost_percent: f64,
    /// Bytes a second that fit through; 0 for any number.
    pub(crate) bytes_per_sec: u64,
    pub(crate) messages: u64,
    /// Arrived a second.
    pub(crate) per_sec: f64,
    /// Seconds of CPU of the gateway per 10⁶ that arrived.
    pub(crate) cpu_secs_per_million: f64,
    /// Bytes on the way a second, both directions, headers included.
    pub(crate) carried_per_sec: f64,
    /// All of them arrived within the measured time.
    pub(crate) is_drained: bool,
    pub(crate) duplicates: u64,
    pub(crate) out_of_order: u64,
}

/// What an idle connection costs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct IdleCost {
    pub(crate) system: System,
    pub(crate) bytes_per_hour: f64,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    pub(crate) machine: String,
    pub(crate) settings: Vec<String>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) drain: Vec<Cell>,
    pub(crate) narrow: Vec<Cell>,
    pub(crate) identities: Vec<Identities>,
    pub(crate) idle: Vec<IdleCost>,
}

/// Which ways, and how many messages.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rtts: Vec<u64>,
    pub(crate) messages: u64,
    pub(crate) drain: u64,
    /// Devices with links of their own.
    pub(crate) identities: u64,
}

/// Measures everything of the plan, one after the other; calls `tell` with a line for each finding.
pub(crate) async fn run(
    plan: &Plan,
    binaries: &Binaries,
    mut tell: impl FnMut(String),
    interrupted: impl Fn() -> bool,
) -> anyhow::Result<Found> {
    let systems = [System::Millrace, System::Mosquitto];
    let mut found = Found::default();
    for rtt in &plan.rtts {
        for lost_permille in [0, 10] {
            for system in systems {
                let way = Way { lost_permille, ..Way::of_rtt(*rtt) };
                let cell = play(system, way, plan.messages, MEASURED, binaries).await?;
                tell(cell.line());
                found.cells.push(cell);
                if interrupted() {
                    return Ok(found);
                }
            }
            if plan.identities > 0 {
                let way = Way { lost_permille, ..Way::of_rtt(*rtt) };
                let cell = identities::play(plan.identities, way, plan.messages, binaries).await?;
                tell(cell.line());
                found.identities.push(cell);
            }
        }
    }
    for system in systems {
        let cell = play(system, Way::default(), plan.drain, PATIENCE, binaries).await?;
        tell(format!("drain: {}", cell.line()));
        found.drain.push(cell);
        let way = Way { bytes_per_sec: NARROW_BYTES_PER_SEC, ..Way::of_rtt(20) };
        let cell = play(system, way, plan.messages, MEASURED, binaries).await?;
        tell(format!("10 Mbit/s: {}", cell.line()));
        found.narrow.push(cell);
        let idle = watch_idle(system, binaries).await?;
        tell(format!("idle: {} {:.0} bytes an hour", system.name(), idle.bytes_per_hour));
        found.idle.push(idle);
        if interrupted() {
            break;
        }
    }
    Ok(found)
}

/// A plant at the far end of a network.
struct Plant {
    // First, so that it goes before its network.
    child: Child,
    network: Emulated,
    _folder: TempDir,
}

impl Plant {
    fn start(binaries: &Binaries, way: Way) -> anyhow::Result<Plant> {
        let mosquitto = binaries.mosquitto.clone().context("mosquitto is not installed: run `make bench`")?;
        let network = Emulated::start(way).context("an emulated network")?;
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("mosquitto.conf");
        std::fs::write(
            &config,
            format!("listener {PLANT_PORT} 0.0.0.0\n{}", crate::contestants::MOSQUITTO_SETTINGS),
        )?;
        let command = network.command(&mosquitto);
        let mut arguments: Vec<String> =
            command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
        arguments.extend(["-c".to_owned(), config.to_string_lossy().into_owned()]);
        let mut child = Child::start(
            "the plant",
            Path::new(command.get_program()),
            &arguments,
            folder.path().join("log"),
        )?;
        child.accepts(SocketAddr::new(IpAddr::V4(network.far_undisturbed()), PLANT_PORT))?;
        Ok(Plant { child, network, _folder: folder })
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.network.far()), PLANT_PORT)
    }

    fn counted_at(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.network.far_undisturbed()), PLANT_PORT)
    }
}

async fn play(
    system: System,
    way: Way,
    messages: u64,
    measured: Duration,
    binaries: &Binaries,
) -> anyhow::Result<Cell> {
    let mut plant = Plant::start(binaries, Way { is_black: true, ..way })?;
    let mut gateway = binaries.start(system, Routes::Forward(plant.address()))?;
    let each = messages / PUBLISHERS;
    let pace = backlog(each);
    let fleet =
        Fleet { pace: &pace, gateway: gateway.address, plant: Some(plant.counted_at()), ..Fleet::default() };
    let mut run = Run::start(fleet.scenario()?)?;
    run.ready(PATIENCE).await?;
    run.begin();
    let filled = wait(PATIENCE, || run.live().acked >= each * PUBLISHERS).await;
    if !filled {
        bail!("{} took only {} of {messages} messages", system.name(), run.live().acked);
    }
    plant.network.set(way);
    let has_begun = wait(PATIENCE, || run.live().arrived_first > 0).await;
    gateway.check()?;
    plant.child.check()?;
    if !has_begun {
        bail!("{} carries nothing to the plant over {way:?}", system.name());
    }
    let (before, arrived, from) = (Process::of(gateway.pid())?, run.live().arrived_first, run.now());
    let carried = plant.network.carried().bytes;
    let is_drained = wait(measured, || run.live().arrived_first >= each * PUBLISHERS).await;
    let (after, secs) = (Process::of(gateway.pid())?, (run.now().since(from) as f64 / 1e6).max(1e-3));
    let carried = plant.network.carried().bytes - carried;
    let came = run.live().arrived_first - arrived;
    gateway.check()?;
    run.stop_publishing();
    run.take_latency();
    let verdict = run.finish().ledger.verdict(loadgen::ledger::Rules::default());
    Ok(Cell {
        system,
        rtt_millis: way.delay.as_micros() as u64 / 500,
        lost_percent: f64::from(way.lost_permille) / 10.0,
        bytes_per_sec: way.bytes_per_sec,
        messages: each * PUBLISHERS,
        per_sec: came as f64 / secs,
        cpu_secs_per_million: after.since(&before, came.max(1)).cpu_secs * 1e6 / came.max(1) as f64,
        carried_per_sec: carried as f64 / secs,
        is_drained,
        duplicates: verdict.duplicates,
        out_of_order: verdict.out_of_order,
    })
}

async fn watch_idle(system: System, binaries: &Binaries) -> anyhow::Result<IdleCost> {
    let plant = Plant::start(binaries, Way::of_rtt(20))?;
    let mut gateway = binaries.start(system, Routes::Forward(plant.address()))?;
    // The connection comes up; what that costs is not its idle hour.
    wait(PATIENCE, || plant.network.carried().packets > 5).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = plant.network.carried().bytes;
    tokio::time::sleep(IDLE).await;
    gateway.check()?;
    let bytes = (plant.network.carried().bytes - before) as f64;
    Ok(IdleCost { system, bytes_per_hour: bytes * 3_600.0 / IDLE.as_secs_f64() })
}

impl Cell {
    fn line(&self) -> String {
        format!(
            "{:9} RTT {:3} ms, {:.0} % lost: {:>9.0}/s, CPU {:.2} s/10⁶, {:.2} MB/s on the way{}",
            self.system.name(),
            self.rtt_millis,
            self.lost_percent,
            self.per_sec,
            self.cpu_secs_per_million,
            self.carried_per_sec / 1e6,
            if self.is_drained { ", all there" } else { "" },
        )
    }

    fn row(&self) -> String {
        format!(
            "| {} | {} | {} | {:.0} | {:.2} | {:.2} | {} | {} |\n",
            self.rtt_millis,
            self.lost_percent,
            self.system.name(),
            self.per_sec,
            self.cpu_secs_per_million,
            self.carried_per_sec / 1e6,
            self.duplicates,
            self.out_of_order
        )
    }
}

impl Found {
    /// The page.
    pub(crate) fn page(&self) -> String {
        let mut page = format!("# Uplinks over bad networks\n\n{}\n\n", self.machine);
        for line in &self.settings {
            writeln!(page, "- {line}").unwrap_or_default();
        }
        const HEAD: &str = "\n| RTT ms | lost % | gateway | messages/s | CPU s per 10⁶ | MB/s on the way | twice | out of order |\n\
                            |--:|--:|---|--:|--:|--:|--:|--:|\n";
        let mut section = |title: &str, cells: &[Cell]| {
            page += &format!("\n## {title}\n{HEAD}");
            cells.iter().for_each(|cell| page += &cell.row());
        };
        section(&format!("One uplink, {MESSAGE_BYTES} bytes of payload, QoS 1, from a backlog"), &self.cells);
        section("The whole drain, without delay and loss", &self.drain);
        section("A way of 10 Mbit/s: so many messages fill it", &self.narrow);
        if !self.identities.is_empty() {
            page += "\n## A link for each identity: IoT Hub with TLS and tokens, from a backlog\n";
            page += Identities::HEAD;
            self.identities.iter().for_each(|cell| page += &cell.row());
        }
        page += "\n## An idle hour of a connection, keep-alive as it is by default\n\n| gateway | bytes |\n|---|--:|\n";
        for idle in &self.idle {
            writeln!(page, "| {} | {:.0} |", idle.system.name(), idle.bytes_per_hour).unwrap_or_default();
        }
        page
    }
}
