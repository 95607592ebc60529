//! `bench drain`: how fast a backlog leaves for an upstream on the same machine, and what live messages notice of it.
//!
//! Knows: one scene: a backlog on the disk, a plant that takes everything. May use: `backlog`, `contestants`, `stats`, the
//! load generator. Out: a [`Table`].
//! How: the backlog is written into the store; Millrace starts on it, and the time counts until the plant (another
//! Millrace) has received all of it. Then the same through a line that is cut at first, with live messages from 10
//! publishers to the plant beside it (`drain = "live-first"`): their latency until the last old message has arrived; and with
//! a pair of local clients that nothing of it concerns: theirs.
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
/// Messages a second from one local client to another.
const LOCAL_RATE: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(5);

/// Measures with so many messages that wait; `None` without a whole round.
pub(crate) async fn run(
    messages: u64,
    binaries: &Binaries,
    rounds: u32,
    interrupted: impl Fn() -> bool,
) -> anyhow::Result<Option<Table>> {
    let mut columns: [Vec<f64>; 5] = Default::default();
    for _ in 0..rounds {
        let alone = alone(messages, binaries).await?;
        let beside = with_live(messages, binaries).await?;
        let found = [alone, beside.rate, beside.live.0, beside.live.1, beside.local];
        columns.iter_mut().zip(found).for_each(|(column, value)| column.push(value));
        if interrupted() {
            break;
        }
    }
    let spreads = columns.map(Spread::of);
    let [Some(rates), Some(beside), Some(p50), Some(p99), Some(local)] = spreads else { return Ok(None) };
    Ok(Some(Table {
        title: "drain".to_owned(),
        question: format!(
            "{messages} messages of {MESSAGE_BYTES} B, incompressible, wait on the disk for an upstream on this machine. Alone: \
             from the ready file until the upstream has all. Beside live messages ({LIVE_RATE}/s, `live-first`, through a TCP \
             relay that is cut at first): their latency to the upstream meanwhile, and that of a local pair (QoS 1, {LOCAL_RATE}/s). \
             Targets: ≥ 300 000/s, live p99 < 50 ms."
        ),
        columns: ["alone msg/s", "beside live msg/s", "live p50 ms", "live p99 ms", "local p99 ms"]
            .map(str::to_owned)
            .into(),
        rows: vec![vec![
            whole(&rates),
            whole(&beside),
            decimals(&p50, 1),
            decimals(&p99, 1),
            decimals(&local, 1),
        ]],
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

/// What was seen beside a drain.
struct Beside {
    /// Old messages a second.
    rate: f64,
    /// p50 and p99 of live messages, in ms.
    live: (f64, f64),
    /// p99 of local ones, in ms.
    local: f64,
}

async fn with_live(messages: u64, binaries: &Binaries) -> anyhow::Result<Beside> {
    let plant = binaries.start(System::Millrace, Routes::None)?;
    let wan = Wan::start("127.0.0.1:0", &plant.address.to_string()).await?;
    wan.cut();
    let routes = Routes::Drain(wan.address());
    let gateway = binaries.start(System::Millrace, routes)?;
    let (mut gateway, _) = binaries.kill_and_start(gateway, routes, |folder| {
        backlog::fill(&folder.join("store"), "plant", messages, MESSAGE_BYTES)
    })?;
    let mut run = Run::start(scenario("live", LIVE_RATE, (&gateway, &plant))?)?;
    let mut pair = Run::start(scenario("local", LOCAL_RATE, (&gateway, &gateway))?)?;
    run.ready(Duration::from_secs(20)).await?;
    pair.ready(Duration::from_secs(20)).await?;
    let before = received(&plant)?;
    wan.restore();
    // Live is what comes once the line is up again; before, it would be a part of the backlog.
    while received(&plant)? <= before {
        tokio::time::sleep(LOOK).await;
    }
    let started = Instant::now();
    run.begin();
    pair.begin();
    await_all(&plant, before + messages as f64).await?;
    let secs = started.elapsed().as_secs_f64();
    let (live, local) = (run.take_latency(), pair.take_latency());
    gateway.check()?;
    if live.is_empty() || local.is_empty() {
        bail!("no live or local message arrived while {messages} messages drained in {secs:.2} s: take more");
    }
    for run in [run, pair] {
        run.stop_publishing();
        run.finish();
    }
    let millis = |micros: u64| micros as f64 / 1e3;
    Ok(Beside {
        rate: messages as f64 / secs,
        live: (millis(live.value_at_quantile(0.5)), millis(live.value_at_quantile(0.99))),
        local: millis(local.value_at_quantile(0.99)),
    })
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

/// Messages of publishers of the first to a subscriber of the second, below the topic `name`.
fn scenario(name: &str, rate: u32, (from, to): (&Running, &Running)) -> anyhow::Result<Scenario> {
    let overrides = [
        format!("publishers.url=\"mqtt://{}\"", from.address),
        format!("subscribers.url=\"mqtt://{}\"", to.address),
    ];
    Scenario::parse(name, &text(name, rate), &overrides).context("the scenario of live messages")
}

fn text(name: &str, rate: u32) -> String {
    let count = if name == "local" { 1 } else { 10 };
    format!(
        "name = \"{name}\"\n[publishers]\ncount = {count}\nclient_id = \"{name}-p{{publisher}}\"\n\
         topic = \"{name}/{{publisher}}\"\nqos = 1\nrate_total = {rate}\n\
         window = 1000\npayload = {{ kind = \"binary\", bytes = {MESSAGE_BYTES} }}\n[subscribers]\ncount = 1\n\
         client_id = \"{name}-s{{subscriber}}\"\nfilter = \"{name}/#\"\nqos = 1\n[run]\nduration_secs = 604800\nwarmup_secs = 0\nkeep_alive_secs = 0\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenarios_are_some() {
        let overrides = ["publishers.url=\"mqtt://127.0.0.1:1\"", "subscribers.url=\"mqtt://127.0.0.1:2\""]
            .map(str::to_owned);
        for (name, count) in [("live", 10), ("local", 1)] {
            let scenario = Scenario::parse(name, &text(name, 100), &overrides).unwrap();
            assert_eq!(scenario.publishers.unwrap().count, count);
        }
    }
}
