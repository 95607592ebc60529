//! `bench drain`: how fast a backlog leaves for an upstream on the same machine, and what live messages notice of it.
//!
//! Knows: one scene: a backlog on the disk, a plant that takes everything. May use: `backlog`, `contestants`, `stats`, the
//! load generator. Out: a [`Table`].
//! How: the backlog is written into the store; Millrace starts on it, and the time counts until the plant (another
//! Millrace) has received all of it. Then the same through a line that is cut at first, with live messages from 10
//! publishers to the plant beside it (`drain = "live-first"`): their latency until the last old message has arrived.
//! Time: a round takes about a minute at most; a drain that takes longer than [`PATIENCE`] is given up.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use loadgen::run::Run;
use loadgen::scenario::Scenario;
use loadgen::wan::Wan;

use crate::backlog;
use crate::contestants::{Binaries, Routes, Running, System};
use crate::page::{Table, decimals, whole};
use crate::stats::Spread;

/// Bytes of a payload.
const MESSAGE_BYTES: usize = 256;
/// Live messages a second.
const LIVE_RATE: u32 = 1_000;
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(5);

/// Measures with so many messages that wait; `None` without a whole round.
pub(crate) async fn run(
    messages: u64,
    binaries: &Binaries,
    rounds: u32,
    interrupted: impl Fn() -> bool,
) -> anyhow::Result<Option<Table>> {
    let (mut rates, mut beside, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        rates.push(alone(messages, binaries).await?);
        let (rate, live) = with_live(messages, binaries).await?;
        beside.push(rate);
        p50.push(live.0);
        p99.push(live.1);
        if interrupted() {
            break;
        }
    }
    let spreads = [rates, beside, p50, p99].map(Spread::of);
    let [Some(rates), Some(beside), Some(p50), Some(p99)] = spreads else { return Ok(None) };
    Ok(Some(Table {
        title: "drain".to_owned(),
        question: format!(
            "{messages} messages of {MESSAGE_BYTES} B, incompressible, wait on the disk for an upstream on this machine. Alone: \
             from the ready file until the upstream has all. Beside live messages ({LIVE_RATE}/s, `live-first`, through a TCP \
             relay that is cut at first): their latency to the upstream meanwhile. Targets: ≥ 300 000/s, live p99 < 50 ms."
        ),
        columns: ["alone msg/s", "beside live msg/s", "live p50 ms", "live p99 ms"].map(str::to_owned).into(),
        rows: vec![vec![whole(&rates), whole(&beside), decimals(&p50, 1), decimals(&p99, 1)]],
    }))
}

async fn alone(messages: u64, binaries: &Binaries) -> anyhow::Result<f64> {
    let plant = binaries.start(System::Millrace, Routes::None)?;
    let routes = Routes::Drain(plant.address);
    let gateway = binaries.start(System::Millrace, routes)?;
    let before = received(&plant)?;
    let (mut gateway, _) = binaries.kill_and_start(gateway, routes, |folder| {
        backlog::fill(&folder.join("store"), "plant", messages, MESSAGE_BYTES)
    })?;
    let started = Instant::now();
    await_all(&plant, before + messages as f64).await?;
    gateway.check()?;
    Ok(messages as f64 / started.elapsed().as_secs_f64())
}

async fn with_live(messages: u64, binaries: &Binaries) -> anyhow::Result<(f64, (f64, f64))> {
    let plant = binaries.start(System::Millrace, Routes::None)?;
    let wan = Wan::start("127.0.0.1:0", &plant.address.to_string()).await?;
    wan.cut();
    let routes = Routes::Drain(wan.address());
    let gateway = binaries.start(System::Millrace, routes)?;
    let (mut gateway, _) = binaries.kill_and_start(gateway, routes, |folder| {
        backlog::fill(&folder.join("store"), "plant", messages, MESSAGE_BYTES)
    })?;
    let mut run = Run::start(scenario(&gateway, &plant)?)?;
    run.ready(Duration::from_secs(20)).await?;
    let before = received(&plant)?;
    wan.restore();
    // Live is what comes once the line is up again; before, it would be a part of the backlog.
    while received(&plant)? <= before {
        tokio::time::sleep(LOOK).await;
    }
    let started = Instant::now();
    run.begin();
    await_all(&plant, before + messages as f64).await?;
    let secs = started.elapsed().as_secs_f64();
    let latency = run.take_latency();
    gateway.check()?;
    if latency.is_empty() {
        bail!("no live message arrived while {messages} messages drained in {secs:.2} s: take more");
    }
    let millis = |quantile: f64| latency.value_at_quantile(quantile) as f64 / 1e3;
    run.stop_publishing();
    run.finish();
    Ok((messages as f64 / secs, (millis(0.5), millis(0.99))))
}

/// Messages that a plant received so far.
fn received(plant: &Running) -> anyhow::Result<f64> {
    plant.metrics()?.value("millrace_broker_received_total").context("the plant does not count")
}

async fn await_all(plant: &Running, count: f64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let so_far = received(plant)?;
        if so_far >= count {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{} messages had not arrived after {} s", count - so_far, PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn scenario(gateway: &Running, plant: &Running) -> anyhow::Result<Scenario> {
    let overrides = [
        format!("publishers.url=\"mqtt://{}\"", gateway.address),
        format!("subscribers.url=\"mqtt://{}\"", plant.address),
    ];
    Scenario::parse("live messages", &text(), &overrides).context("the scenario of live messages")
}

fn text() -> String {
    format!(
        "name = \"live\"\n[publishers]\ncount = 10\ntopic = \"live/{{publisher}}\"\nqos = 1\nrate_total = {LIVE_RATE}\n\
         window = 1000\npayload = {{ kind = \"binary\", bytes = {MESSAGE_BYTES} }}\n[subscribers]\ncount = 1\n\
         filter = \"live/#\"\nqos = 1\n[run]\nduration_secs = 604800\nwarmup_secs = 0\nkeep_alive_secs = 0\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenario_is_one() {
        let overrides = ["publishers.url=\"mqtt://127.0.0.1:1\"", "subscribers.url=\"mqtt://127.0.0.1:2\""]
            .map(str::to_owned);
        assert_eq!(Scenario::parse("live", &text(), &overrides).unwrap().publishers.unwrap().count, 10);
    }
}
