//! `bench retained`: how fast retained topics are set, and how fast one wildcard gets all of them.
//!
//! Knows: one load in two parts. May use: `contestants`, `stats`, the load generator. Out: a [`Retained`] per contestant.
//! How: ten publishers set each topic once at QoS 1, as fast as the contestant takes it; when everything is
//! acknowledged, one subscriber subscribes to `kept/#`. The second time counts from that moment to the last message, its
//! connection included; the referee checks that each topic came once, whole and marked as retained.

use anyhow::Context;
use loadgen::measure::{Watch, measure};
use loadgen::scenario::Scenario;
use serde::Serialize;

use crate::contestants::{Binaries, Routes, System};
use crate::stats::Spread;

const PUBLISHERS: u32 = 10;

/// One contestant.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Retained {
    pub(crate) system: System,
    pub(crate) topics: u32,
    /// From the first PUBLISH to the last PUBACK.
    pub(crate) load_secs: Spread,
    /// From the CONNECT of the subscriber to the last message.
    pub(crate) subscribe_secs: Spread,
    /// User and system time of the contestant for both.
    pub(crate) cpu_secs: Spread,
    /// Resident with all of them kept.
    pub(crate) rss_bytes: Spread,
    /// Acknowledged and not got back, over all rounds.
    pub(crate) lost: u64,
    /// Other broken promises, over all rounds.
    pub(crate) broken: Vec<String>,
}

/// Who takes part.
pub(crate) fn systems(binaries: &Binaries) -> Vec<System> {
    let peer = binaries.mosquitto.is_some().then_some(System::Mosquitto);
    std::iter::once(System::Millrace).chain(peer).collect()
}

/// Measures one contestant; `None` without a single whole round.
pub(crate) async fn run(
    system: System,
    topics: u32,
    binaries: &Binaries,
    rounds: u32,
    interrupted: impl Fn() -> bool,
) -> anyhow::Result<Option<Retained>> {
    let (mut load, mut subscribe, mut cpu, mut rss) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut lost, mut broken) = (0, Vec::new());
    for round in 1..=rounds {
        let mut running = binaries.start(system, Routes::None)?;
        let overrides = [format!("url=\"mqtt://{}\"", running.address)];
        let scenario = Scenario::parse("the retained topics", &scenario(topics), &overrides)?;
        let report = measure(scenario, Watch { broker: Some(running.pid()), metrics: None }, |_| {}).await;
        running.check()?;
        let report = report.with_context(|| format!("{topics} retained topics at {}", system.name()))?;
        if interrupted() {
            break;
        }
        let usage = report.broker.context("its process was not seen")?;
        load.push(report.spans.load_secs);
        subscribe.push(report.latency_micros.max as f64 / 1e6);
        cpu.push(usage.cpu_secs);
        rss.push(usage.rss_bytes as f64);
        lost += report.verdict.lost;
        broken.extend(report.verdict.broken.iter().map(|text| format!("round {round}: {text}")));
    }
    let spreads = (Spread::of(load), Spread::of(subscribe), Spread::of(cpu), Spread::of(rss));
    let (Some(load_secs), Some(subscribe_secs), Some(cpu_secs), Some(rss_bytes)) = spreads else {
        return Ok(None);
    };
    Ok(Some(Retained { system, topics, load_secs, subscribe_secs, cpu_secs, rss_bytes, lost, broken }))
}

fn scenario(topics: u32) -> String {
    let each = topics / PUBLISHERS;
    format!(
        r#"
name = "retained"
[publishers]
count = {PUBLISHERS}
topic = "kept/{{publisher}}/{{topic}}"
topics = {each}
messages = {each}
retain = true
qos = 1
rate = "max"
batch = 64
window = 256
payload = {{ kind = "binary", bytes = 256 }}
[subscribers]
filter = "kept/#"
qos = 1
join = "after"
[run]
duration_secs = 300
warmup_secs = 0
drain_secs = 20
keep_alive_secs = 0
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenario_sets_every_topic_once() {
        let scenario = Scenario::parse("retained", &scenario(100_000), &[]).unwrap();
        let publishers = scenario.publishers.unwrap();
        assert_eq!((publishers.count, publishers.topics, publishers.messages), (10, 10_000, Some(10_000)));
    }
}
