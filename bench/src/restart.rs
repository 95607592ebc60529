//! `bench restart`: how long Millrace takes to serve again with a backlog on the disk, and in how much memory.
//!
//! Knows: how a backlog comes about (an uplink that is down). May use: `contestants`, `load`, `stats`.
//! Out: a [`Restart`] per size. How: publishers fill the lane; the process is killed (`kill -9`) and started again on its
//! store; the time counts from its start to the ready file, when every listener accepts.

use std::path::Path;

use serde::Serialize;

use crate::contestants::{Binaries, Routes, System};
use crate::load;
use crate::stats::Spread;

/// Bytes of a payload.
const MESSAGE_BYTES: u64 = 1_024;
/// Longest part of the filling, after which its size is looked at.
const FILL_SECS: f64 = 4.0;
/// Parts of filling before it is given up.
const PARTS_MAX: u32 = 500;

/// One size.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Restart {
    /// Payload bytes that wait.
    pub(crate) backlog_bytes: u64,
    /// What the store's folder takes on the disk.
    pub(crate) disk_bytes: u64,
    pub(crate) ready_secs: Spread,
    /// Resident when it is ready.
    pub(crate) rss_bytes: Spread,
}

/// Fills one store with about `backlog_bytes`, then kills and starts so often.
pub(crate) async fn run(
    backlog_bytes: u64,
    binaries: &Binaries,
    rounds: u32,
    interrupted: impl Fn() -> bool,
) -> anyhow::Result<Option<Restart>> {
    let mut running = binaries.start(System::Millrace, Routes::AllDurable)?;
    let mut records = 0;
    for part in 1..=PARTS_MAX {
        load::run(System::Millrace, &mut running, &scenario(), load::Times::measured(FILL_SECS), part)
            .await?;
        records = running.metrics()?.value("millrace_store_records_total").unwrap_or(0.0) as u64;
        if records * MESSAGE_BYTES >= backlog_bytes || interrupted() {
            break;
        }
    }
    let (mut ready, mut rss) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (again, secs) = binaries.kill_and_start(running)?;
        running = again;
        ready.push(secs);
        rss.push(loadgen::process::Sample::of(running.pid())?.rss_bytes as f64);
        if interrupted() {
            return Ok(None);
        }
    }
    let disk_bytes = bytes_below(&running.folder().join("store"))?;
    let (Some(ready_secs), Some(rss_bytes)) = (Spread::of(ready), Spread::of(rss)) else { return Ok(None) };
    Ok(Some(Restart { backlog_bytes: records * MESSAGE_BYTES, disk_bytes, ready_secs, rss_bytes }))
}

fn scenario() -> String {
    format!(
        "name = \"backlog\"\n[publishers]\ncount = 50\nqos = 1\nrate = \"max\"\nbatch = 64\nwindow = 256\n\
         payload = {{ kind = \"binary\", bytes = {MESSAGE_BYTES} }}\n[run]\nwarmup_secs = 0\nkeep_alive_secs = 0\n"
    )
}

fn bytes_below(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenario_is_one() {
        let overrides = ["run.duration_secs=1".to_owned()];
        let scenario = loadgen::scenario::Scenario::parse("backlog", &scenario(), &overrides).unwrap();
        assert!(scenario.subscribers.is_none());
    }
}
