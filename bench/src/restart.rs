//! `bench restart`: how long Millrace takes to serve again with a backlog on the disk, and in how much memory.
//!
//! Knows: a [`backlog`] of incompressible messages, written into the store. May use: `contestants`, `stats`.
//! Out: a [`Restart`] per size. How: the process is killed (`kill -9`) and started again on its store; the time counts from
//! its start to the ready file, when every listener accepts. The page cache is as it is: warm. Time: 10 GiB are written
//! in a minute or two; a start is given up after the patience of `child`.

use std::path::Path;

use serde::Serialize;

use crate::backlog;
use crate::contestants::{Binaries, Routes, System};
use crate::stats::Spread;

/// Bytes of a payload.
const MESSAGE_BYTES: u64 = 1_024;

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
    let running = binaries.start(System::Millrace, Routes::AllDurable)?;
    let records = backlog_bytes / MESSAGE_BYTES;
    // The first start after the filling replays what the filling left in the write-ahead log, and is not counted.
    let (mut running, _) = binaries.kill_and_start(running, Routes::AllDurable, |folder| {
        backlog::fill(&folder.join("store"), "cloud", records, MESSAGE_BYTES as usize)
    })?;
    let (mut ready, mut rss) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (again, secs) = binaries.kill_and_start(running, Routes::AllDurable, |_| Ok(()))?;
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

fn bytes_below(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
