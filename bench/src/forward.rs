//! `bench forward`: an outage of the WAN, and what becomes of the messages; Millrace beside mosquitto's bridge.
//!
//! Knows: one scene: publishers → gateway → a line that is cut → a plant, where one subscriber counts. May use:
//! `contestants`, `stats`, the load generator. Out: a [`Forward`] per contestant.
//! How: everything flows; the line is cut for the outage, with the publishers going on at their pace; it is mended, and the
//! time counts until the plant lacks no more than a tenth of a second's messages. The plant is a mosquitto for both.

use std::time::Duration;

use anyhow::bail;
use loadgen::ledger::Rules;
use loadgen::process::Sample as Process;
use loadgen::run::Run;
use loadgen::wan::Wan;
use serde::Serialize;

use crate::contestants::{Binaries, Routes, System};
use crate::fleet::{Fleet, MESSAGE_BYTES, wait};
use crate::stats::Spread;

/// Before the cut, and after the drain.
const CALM: Duration = Duration::from_secs(3);
/// How long a drain may take.
const DRAIN_PATIENCE: Duration = Duration::from_secs(120);
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);

/// One contestant.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Forward {
    pub(crate) system: System,
    pub(crate) rate: u32,
    pub(crate) outage_secs: f64,
    /// From the mended line until the plant has caught up; the patience if it never did.
    pub(crate) drain_secs: Spread,
    /// What arrived per second meanwhile.
    pub(crate) drain_per_sec: Spread,
    /// Time of the gateway per 10⁶ messages, from the first message to the end.
    pub(crate) cpu_secs_per_million: Spread,
    /// What the gateway had written to the disk per payload byte, as the kernel counts it.
    pub(crate) written_per_byte: Spread,
    pub(crate) rss_bytes: Spread,
    /// Acknowledged and not arrived, over all rounds.
    pub(crate) lost: u64,
    /// Second copies.
    pub(crate) duplicates: u64,
    pub(crate) out_of_order: u64,
    /// Messages sent.
    pub(crate) sent: u64,
    /// Rounds in which the plant never caught up.
    pub(crate) stuck: u64,
}

/// The length of a scene.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    pub(crate) rate: u32,
    pub(crate) outage: Duration,
}

struct Round {
    drain_secs: f64,
    drain_per_sec: f64,
    cpu_secs_per_million: f64,
    written_per_byte: f64,
    rss_bytes: f64,
    verdict: loadgen::ledger::Verdict,
    is_stuck: bool,
}

/// Measures one contestant; `None` without a single whole round.
pub(crate) async fn run(
    system: System,
    scene: Scene,
    binaries: &Binaries,
    rounds: u32,
    interrupted: impl Fn() -> bool,
) -> anyhow::Result<Option<Forward>> {
    let mut done = Vec::new();
    for _ in 0..rounds {
        let round = play(system, scene, binaries).await?;
        if interrupted() {
            break;
        }
        done.push(round);
    }
    Ok(summarise(system, scene, &done))
}

async fn play(system: System, scene: Scene, binaries: &Binaries) -> anyhow::Result<Round> {
    let plant = binaries.start(System::Mosquitto, Routes::None)?;
    let wan = Wan::start("127.0.0.1:0", &plant.address.to_string()).await?;
    let mut gateway = binaries.start(system, Routes::Forward(wan.address()))?;
    let pace = format!("rate_total = {}\nwindow = 1000", scene.rate);
    let fleet =
        Fleet { pace: &pace, gateway: gateway.address, plant: Some(plant.address), ..Fleet::default() };
    let mut run = Run::start(fleet.scenario()?)?;
    run.ready(CONNECT_PATIENCE).await?;
    let before = Process::of(gateway.pid())?;
    run.begin();
    tokio::time::sleep(CALM).await;
    if !caught_up(&run, scene.rate, CALM).await {
        bail!("{} carries nothing to the plant while the line is up", system.name());
    }
    wan.cut();
    tokio::time::sleep(scene.outage).await;
    gateway.check()?;
    let (arrived, mended) = (run.live().arrived_first, run.now());
    wan.restore();
    let is_stuck = !caught_up(&run, scene.rate, DRAIN_PATIENCE).await;
    let drain_secs = run.now().since(mended) as f64 / 1e6;
    let drained = run.live().arrived_first - arrived;
    tokio::time::sleep(CALM).await;
    run.stop_publishing();
    wait(CALM * 3, || run.is_drained()).await;
    gateway.check()?;
    let after = Process::of(gateway.pid())?;
    run.take_latency();
    let verdict = run.finish().ledger.verdict(Rules::default());
    let sent = verdict.sent.max(1);
    let usage = after.since(&before, sent);
    Ok(Round {
        drain_secs,
        drain_per_sec: drained as f64 / drain_secs.max(1e-3),
        cpu_secs_per_million: usage.cpu_secs * 1e6 / sent as f64,
        written_per_byte: usage.written_bytes as f64 / (sent * u64::from(MESSAGE_BYTES)) as f64,
        rss_bytes: usage.rss_bytes as f64,
        verdict,
        is_stuck,
    })
}

/// Waits until the plant lacks no more than what is on its way in a tenth of a second; whether that came.
async fn caught_up(run: &Run, rate: u32, patience: Duration) -> bool {
    wait(patience, || {
        let live = run.live();
        live.owed.saturating_sub(live.arrived_first) <= u64::from(rate) / 10
    })
    .await
}

fn summarise(system: System, scene: Scene, rounds: &[Round]) -> Option<Forward> {
    let spread = |value: fn(&Round) -> f64| Spread::of(rounds.iter().map(value));
    let sum = |value: fn(&Round) -> u64| rounds.iter().map(value).sum();
    Some(Forward {
        system,
        rate: scene.rate,
        outage_secs: scene.outage.as_secs_f64(),
        drain_secs: spread(|round| round.drain_secs)?,
        drain_per_sec: spread(|round| round.drain_per_sec)?,
        cpu_secs_per_million: spread(|round| round.cpu_secs_per_million)?,
        written_per_byte: spread(|round| round.written_per_byte)?,
        rss_bytes: spread(|round| round.rss_bytes)?,
        lost: sum(|round| round.verdict.lost),
        duplicates: sum(|round| round.verdict.duplicates),
        out_of_order: sum(|round| round.verdict.out_of_order),
        sent: sum(|round| round.verdict.sent),
        stuck: sum(|round| u64::from(round.is_stuck)),
    })
}
