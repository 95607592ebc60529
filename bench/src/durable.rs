//! `bench durable`: what an acknowledgement costs that waits for the disk.
//!
//! Knows: one load (QoS 1 into the lane of an uplink that is down) and one yardstick (append to a file, fdatasync).
//! May use: `contestants`, `load`, `stats`. In: numbers of publishers. Out: a [`Group`] for each.
//! How: in each round Millrace first, then the plain file with as many messages per sync as Millrace had on average,
//! on the same file system. The yardstick has the machine for itself; Millrace shares it with the load generator.

use std::io::{Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use crate::contestants::{Binaries, Routes, System};
use crate::load::{self, Sample};
use crate::stats::{Spread, quantile, ratios};

/// Bytes of a payload.
const MESSAGE_BYTES: usize = 256;
/// What a plain file is not allowed to grow beyond; then it starts over.
const PLAIN_BYTES_MAX: usize = 64 << 20;

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Durable {
    pub(crate) question: String,
    pub(crate) groups: Vec<Group>,
}

/// One number of publishers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Group {
    pub(crate) publishers: u32,
    pub(crate) pubacks_per_sec: Spread,
    pub(crate) p50_micros: Spread,
    pub(crate) p99_micros: Spread,
    pub(crate) cpu_secs_per_million: Spread,
    /// Messages that one sync made durable, on average.
    pub(crate) records_per_sync: Spread,
    /// A file that grows.
    pub(crate) append_per_sec: Spread,
    /// Time of one group on it: write and fdatasync.
    pub(crate) append_p50_micros: Spread,
    /// A file whose blocks are there already.
    pub(crate) overwrite_per_sec: Spread,
    pub(crate) overwrite_p50_micros: Spread,
    /// Millrace's rate by that of the growing file, within each round.
    pub(crate) ratio_append: Spread,
    /// Millrace's rate by that of the file whose blocks are there.
    pub(crate) ratio_overwrite: Spread,
    pub(crate) lost: u64,
    pub(crate) rounds: Vec<Round>,
}

/// One round of one group.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) sample: Sample,
    pub(crate) records_per_sync: f64,
    pub(crate) append: Plain,
    pub(crate) overwrite: Plain,
}

/// What a plain file reached.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plain {
    pub(crate) group: usize,
    pub(crate) per_sec: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
}

/// Describes the load, for the head of a result.
pub(crate) fn question(window: u32, file_system: &str) -> String {
    format!(
        "QoS 1 into a lane on disk (`FROM /messages/* INTO $upstream`, uplink down): PUBACK after the group commit is \
         synced. {MESSAGE_BYTES} B, window {window} per publisher, up to 64 messages per write, closed loop; the store \
         on {file_system}. *Plain file*: one thread, write and fdatasync of as many messages as Millrace had per sync; \
         *append* grows, which makes the file system journal every sync, *overwrite* has its blocks already, as the \
         log's recycled files have."
    )
}

/// Runs one number of publishers.
///
/// Ends early, with the rounds that are whole, when `interrupted` says so; `None` if there is not a single one.
pub(crate) async fn run(
    publishers: u32,
    window: u32,
    binaries: &Binaries,
    rounds: u32,
    seconds: f64,
    interrupted: impl Fn() -> bool,
) -> anyhow::Result<Option<Group>> {
    let mut done = Vec::new();
    for round in 1..=rounds {
        let mut running = binaries.start(System::Millrace, Routes::AllDurable)?;
        let before = synced(&running)?;
        let scenario = scenario(publishers, window);
        let sample =
            load::run(System::Millrace, &mut running, &scenario, load::Times::measured(seconds), round)
                .await?;
        if interrupted() {
            break;
        }
        let after = synced(&running)?;
        let records_per_sync = (after.0 - before.0) / (after.1 - before.1).max(1.0);
        // The store first: its last writes must not fall into the yardstick's time.
        let folder =
            running.folder().parent().map(Path::to_owned).context("the store has no folder around it")?;
        drop(running);
        let group = records_per_sync.round().max(1.0) as usize;
        let plain = |grows| {
            plain(&folder, group, grows, seconds)
                .with_context(|| format!("the plain file in {}", folder.display()))
        };
        let (append, overwrite) = (plain(true)?, plain(false)?);
        done.push(Round { sample, records_per_sync, append, overwrite });
    }
    Ok(summarise(publishers, done))
}

fn scenario(publishers: u32, window: u32) -> String {
    format!(
        "name = \"durable-{publishers}\"\n[publishers]\ncount = {publishers}\nqos = 1\nrate = \"max\"\nbatch = 64\n\
         window = {window}\npayload = {{ kind = \"binary\", bytes = {MESSAGE_BYTES} }}\n[run]\nkeep_alive_secs = 0\n"
    )
}

/// Records made durable and syncs of the store so far.
fn synced(running: &crate::contestants::Running) -> anyhow::Result<(f64, f64)> {
    let metrics = running.metrics().context("the metrics of millrace")?;
    let value = |name: &str| metrics.value(name).with_context(|| format!("millrace has no metric {name}"));
    Ok((value("millrace_store_records_total")?, value("millrace_store_syncs_total")?))
}

/// The yardstick: writes groups of messages to a file and syncs its data after each.
fn plain(folder: &Path, group: usize, grows: bool, seconds: f64) -> std::io::Result<Plain> {
    let mut out = tempfile::tempfile_in(folder)?;
    if !grows {
        let block = vec![0x5A; 1 << 20];
        for _ in 0..PLAIN_BYTES_MAX / block.len() {
            out.write_all(&block)?;
        }
        out.sync_all()?;
        out.rewind()?;
    }
    // Not zeros: some storage knows them.
    let payload: Vec<u8> =
        (0..group * MESSAGE_BYTES).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut times = Vec::new();
    let started = Instant::now();
    let span = Duration::from_secs_f64(seconds);
    let mut written = 0;
    while started.elapsed() < span {
        if written + payload.len() > PLAIN_BYTES_MAX {
            if grows {
                out.set_len(0)?;
            }
            out.rewind()?;
            written = 0;
        }
        let begun = Instant::now();
        out.write_all(&payload)?;
        out.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
        written += payload.len();
    }
    let per_sec = (times.len() * group) as f64 / started.elapsed().as_secs_f64();
    times.sort_unstable_by(f64::total_cmp);
    Ok(Plain { group, per_sec, p50_micros: quantile(&times, 0.5), p99_micros: quantile(&times, 0.99) })
}

fn summarise(publishers: u32, rounds: Vec<Round>) -> Option<Group> {
    let values = |value: fn(&Round) -> f64| rounds.iter().map(value).collect::<Vec<f64>>();
    let spread = |value: fn(&Round) -> f64| Spread::of(values(value));
    let rates = values(|round| round.sample.acknowledged_per_sec);
    Some(Group {
        publishers,
        pubacks_per_sec: spread(|round| round.sample.acknowledged_per_sec)?,
        p50_micros: spread(|round| round.sample.puback.p50 as f64)?,
        p99_micros: spread(|round| round.sample.puback.p99 as f64)?,
        cpu_secs_per_million: spread(|round| round.sample.cpu_secs_per_million)?,
        records_per_sync: spread(|round| round.records_per_sync)?,
        append_per_sec: spread(|round| round.append.per_sec)?,
        append_p50_micros: spread(|round| round.append.p50_micros)?,
        overwrite_per_sec: spread(|round| round.overwrite.per_sec)?,
        overwrite_p50_micros: spread(|round| round.overwrite.p50_micros)?,
        ratio_append: ratios(&rates, &values(|round| round.append.per_sec))?,
        ratio_overwrite: ratios(&rates, &values(|round| round.overwrite.per_sec))?,
        lost: rounds.iter().map(|round| round.sample.lost).sum(),
        rounds,
    })
}

impl Durable {
    /// What DESIGN §10 wants, and whether it is reached; one line each.
    pub(crate) fn target_lines(&self) -> Vec<String> {
        let Some(group) = self.groups.iter().find(|group| group.publishers == 100) else { return Vec::new() };
        let line = |target: &str, found: f64, limit: f64| {
            let word = if found >= limit { "reached" } else { "MISSED" };
            format!("target, 100 publishers, {target}: {word} ({found:.2})")
        };
        vec![
            line("≥ 250 k PUBACK/s", group.pubacks_per_sec.median / 1e3, 250.0),
            line("≥ 0.60 × plain file, append", group.ratio_append.median, 0.60),
            line(
                "≥ 0.60 × plain file, overwrite (stricter than DESIGN asks)",
                group.ratio_overwrite.median,
                0.60,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenario_is_one() {
        let overrides = ["run.duration_secs=1".to_owned()];
        let scenario = loadgen::scenario::Scenario::parse("durable", &scenario(100, 64), &overrides).unwrap();
        assert!(scenario.subscribers.is_none());
    }

    #[test]
    fn the_yardstick_counts_messages() {
        let folder = tempfile::tempdir().unwrap();
        for grows in [true, false] {
            let plain = plain(folder.path(), 8, grows, 0.05).unwrap();
            assert!(
                plain.per_sec > 0.0 && plain.p50_micros > 0.0 && plain.p99_micros >= plain.p50_micros,
                "{plain:?}"
            );
        }
    }
}
