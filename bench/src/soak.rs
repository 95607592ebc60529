//! `bench soak`: memory under overload for as long as one likes, an hour if nobody says otherwise; it must stay flat.
//!
//! Knows: one scene: publishers that send as fast as they can into a lane that nobody empties and that gives up its
//! oldest, beside two subscribers to all of it. May use: `contestants`, the load generator. Out: a [`Table`], and
//! whether memory was flat: after the first fifth, in which buffers and caches fill, the highest of the last half is not more
//! than a tenth and 8 MiB above the highest of what was before. Time: the minutes asked for, and about 10 s.

use std::time::{Duration, Instant};

use loadgen::process::Sample as Process;
use loadgen::run::Run;
use loadgen::scenario::Scenario;

use crate::contestants::{Binaries, Routes, System};
use crate::page::Table;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A pause between two of these is said to the terminal.
const REPORT: Duration = Duration::from_secs(60);

/// What was found.
pub(crate) struct Soaked {
    pub(crate) table: Table,
    pub(crate) is_flat: bool,
}

/// Overloads for so long.
pub(crate) async fn run(
    minutes: f64,
    binaries: &Binaries,
    interrupted: impl Fn() -> bool,
) -> anyhow::Result<Option<Soaked>> {
    let mut running = binaries.start(System::Millrace, Routes::Overloaded)?;
    let url = format!("url=\"mqtt://{}\"", running.address);
    let mut run = Run::start(Scenario::parse("soak", text(), &[url])?)?;
    run.ready(Duration::from_secs(20)).await?;
    run.begin();
    let started = Instant::now();
    let (span, mut samples, mut reported) =
        (Duration::from_secs_f64(minutes * 60.0), Vec::new(), Instant::now());
    while started.elapsed() < span && !interrupted() {
        tokio::time::sleep(LOOK).await;
        running.check()?;
        samples.push(Process::of(running.pid())?.rss_bytes);
        run.take_latency();
        if reported.elapsed() >= REPORT {
            reported = Instant::now();
            let (minutes, mib) = (started.elapsed().as_secs() / 60, samples.last().map_or(0, |it| it >> 20));
            eprintln!("  {minutes} min: {mib} MiB resident, {} acknowledged", run.live().acked);
        }
    }
    let acknowledged = run.live().acked;
    let value = |name: &str| running.metrics().ok().and_then(|metrics| metrics.value(name)).unwrap_or(0.0);
    let records = value("millrace_store_records_total");
    run.stop_publishing();
    run.finish();
    let Some(judged) = Judged::of(&samples) else { return Ok(None) };
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / 1_048_576.0);
    Ok(Some(Soaked {
        is_flat: judged.is_flat(),
        table: Table {
            title: "soak".to_owned(),
            question:
                "Resident memory under overload: 50 publishers at full speed into a lane that nobody empties \
                       (`drop-oldest`, 256 MiB), and two subscribers to all of it. Looked at \
                       every second; the first fifth is left out."
                    .to_owned(),
            columns: [
                "minutes",
                "acknowledged",
                "records written",
                "MiB first half",
                "MiB last half",
                "flat",
            ]
            .map(str::to_owned)
            .into(),
            rows: vec![vec![
                format!("{:.1}", started.elapsed().as_secs_f64() / 60.0),
                acknowledged.to_string(),
                format!("{records:.0}"),
                mib(judged.before),
                mib(judged.after),
                if judged.is_flat() { "yes" } else { "NO" }.to_owned(),
            ]],
        },
    }))
}

/// The highest of two halves.
#[derive(Debug, PartialEq, Eq)]
struct Judged {
    before: u64,
    after: u64,
}

impl Judged {
    fn of(samples: &[u64]) -> Option<Judged> {
        let settled = samples.get(samples.len() / 5..)?;
        let (before, after) = settled.split_at(settled.len() / 2);
        Some(Judged { before: *before.iter().max()?, after: *after.iter().max()? })
    }

    fn is_flat(&self) -> bool {
        self.after <= self.before + self.before / 10 + (8 << 20)
    }
}

fn text() -> &'static str {
    "name = \"soak\"\n[publishers]\ncount = 50\ntopic = \"load/{publisher}\"\nqos = 1\nrate = \"max\"\nbatch = 64\nwindow = 256\nahead = 0\n\
     payload = { kind = \"binary\", bytes = 256 }\n[subscribers]\ncount = 2\nfilter = \"load/#\"\nqos = 0\n\
     [run]\nduration_secs = 604800\nwarmup_secs = 0\nkeep_alive_secs = 0\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenario_is_one() {
        let url = "url=\"mqtt://127.0.0.1:1\"".to_owned();
        assert_eq!(Scenario::parse("soak", text(), &[url]).unwrap().publishers.unwrap().count, 50);
    }

    #[test]
    fn memory_that_grows_is_not_flat_and_memory_that_fills_its_buffers_is() {
        let mib = |numbers: &[u64]| Judged::of(&numbers.iter().map(|it| it << 20).collect::<Vec<_>>());
        assert_eq!(mib(&[]), None);
        let filled: Vec<u64> = (0..20).map(|at| 10 * at).chain([200; 80]).collect();
        assert!(mib(&filled).unwrap().is_flat());
        let growing: Vec<u64> = (0..100).map(|at| 100 + at).collect();
        assert!(!mib(&growing).unwrap().is_flat());
    }
}
