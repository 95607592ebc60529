//! `bench idle`: what a process takes that has nothing to do, and what each idle connection adds, and how
//! fast connections come up.
//!
//! Knows: resident memory. May use: `contestants`, `stats`, the load generator as a crowd that only listens.
//! In:  a number of connections. Out: an [`Idle`] for each contestant.
//! How: memory once it is ready and has rested; then so many subscribers with a subscription each, at rest as well.
//! Resident memory has pages that the kernel may take back; it is what people see, so it is what we show.

use std::time::Duration;

use anyhow::Context;
use loadgen::measure::{Watch, measure};
use loadgen::scenario::Scenario;
use serde::Serialize;

use crate::contestants::{Binaries, Routes, System};
use crate::stats::Spread;

/// How long a fresh process may settle before its memory is read.
const REST: Duration = Duration::from_millis(500);

/// Files that a broker needs beside its connections.
const FILES_BESIDE: u64 = 500;

/// One contestant.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) system: System,
    pub(crate) connections: u32,
    /// Resident, before the first connection.
    pub(crate) empty_bytes: Spread,
    /// Resident, with all connections open and silent.
    pub(crate) full_bytes: Spread,
    pub(crate) bytes_per_connection: Spread,
    /// From the first connection attempt until all are subscribed, by the number of them.
    pub(crate) connects_per_sec: Spread,
}

/// Measures one contestant; it rests for `seconds` with all connections open.
pub(crate) async fn run(
    system: System,
    connections: u32,
    binaries: &Binaries,
    rounds: u32,
    seconds: f64,
) -> anyhow::Result<Option<Idle>> {
    let (mut empty, mut full, mut each, mut connects) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // Before the contestant starts: it inherits the limit.
    loadgen::process::allow_open_files(u64::from(connections) + FILES_BESIDE);
    for _ in 0..rounds {
        let mut running = binaries.start(system, Routes::None)?;
        tokio::time::sleep(REST).await;
        let pid = running.pid();
        let before = loadgen::process::Sample::of(pid)?.rss_bytes as f64;
        let overrides =
            [format!("url=\"mqtt://{}\"", running.address), format!("run.duration_secs={seconds}")];
        let scenario = Scenario::parse("the crowd", &crowd(connections), &overrides)?;
        let report = measure(scenario, Watch { broker: Some(pid), metrics: None }, |_| {}).await;
        running.check()?;
        let report = report.with_context(|| format!("{connections} connections to {}", system.name()))?;
        let after = report.broker.context("its memory was not seen")?.rss_bytes as f64;
        empty.push(before);
        full.push(after);
        each.push((after - before) / f64::from(connections));
        connects.push(f64::from(connections) / report.spans.connect_secs);
    }
    let spreads = (Spread::of(empty), Spread::of(full), Spread::of(each), Spread::of(connects));
    let (Some(empty_bytes), Some(full_bytes), Some(bytes_per_connection), Some(connects_per_sec)) = spreads
    else {
        return Ok(None);
    };
    Ok(Some(Idle { system, connections, empty_bytes, full_bytes, bytes_per_connection, connects_per_sec }))
}

fn crowd(connections: u32) -> String {
    format!(
        "name = \"idle\"\n[subscribers]\ncount = {connections}\nqos = 1\n[run]\nkeep_alive_secs = 0\nwarmup_secs = 0.5\n\
         drain_secs = 0\n"
    )
}

impl Idle {
    /// What DESIGN §10 wants of Millrace, and whether it is reached; nothing for others.
    pub(crate) fn target_lines(&self) -> Vec<String> {
        if self.system != System::Millrace {
            return Vec::new();
        }
        let line = |target: &str, found: f64, limit: f64| {
            let word = if found <= limit { "reached" } else { "MISSED" };
            format!("target {target}: {word} ({found:.2})")
        };
        vec![
            line("≤ 12 MiB resident when idle", self.empty_bytes.median / 1_048_576.0, 12.0),
            line("≤ 6 KiB per idle connection", self.bytes_per_connection.median / 1_024.0, 6.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crowd_is_a_scenario() {
        let overrides = ["run.duration_secs=1".to_owned()];
        let scenario = Scenario::parse("idle", &crowd(1_000), &overrides).unwrap();
        assert!(
            scenario.publishers.is_none() && scenario.subscribers.is_some_and(|crowd| crowd.count == 1_000)
        );
    }
}
