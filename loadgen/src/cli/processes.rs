//! One run in several processes: each has a part of the connections, and one verdict is made of all.
//!
//! In:  the arguments of a run and a number. Out: the merged ledger, latencies and rates. How: the same binary again with
//! the same `run.id`, a part, and a common time to begin; ledgers, logs and reports come back as files.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use loadgen::ledger::{Ledger, Verdict};
use loadgen::report::{Percentiles, Report};
use loadgen::scenario::Scenario;
use serde::Serialize;

use super::reports::read_report;

/// Connections that a process is trusted to open in a second, before the load begins.
const CONNECTS_PER_SEC: u32 = 1_000;

/// What several processes have shown together.
#[derive(Serialize)]
pub(crate) struct Together {
    processes: u32,
    sent_per_sec: f64,
    arrived_per_sec: f64,
    latency_micros: Percentiles,
    pub(crate) valid: bool,
    pub(crate) verdict: Verdict,
    remarks: Vec<String>,
}

/// Runs `scenario` from `file` in so many processes.
pub(crate) fn run(
    file: &Path,
    overrides: &[String],
    scenario: &Scenario,
    processes: u32,
) -> anyhow::Result<Together> {
    let folder = std::env::temp_dir().join(format!("loadgen-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let together = in_folder(&folder, file, overrides, scenario, processes);
    // What cannot be removed is in the folder for temporary files.
    std::fs::remove_dir_all(&folder).ok();
    together
}

fn in_folder(
    folder: &Path,
    file: &Path,
    overrides: &[String],
    scenario: &Scenario,
    processes: u32,
) -> anyhow::Result<Together> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let connections = scenario.publishers.as_ref().map_or(0, |it| it.count)
        + scenario.subscribers.as_ref().map_or(0, |it| it.count);
    let begin = now + Duration::from_secs(2 + u64::from(connections / CONNECTS_PER_SEC));
    let own = std::env::current_exe().context("our own binary cannot be found")?;
    let place = |part: u32, kind: &str| folder.join(format!("{part}.{kind}"));
    let mut children = Vec::new();
    for part in 1..=processes {
        let mut command = Command::new(&own);
        command.arg("run").arg(file).arg("--quiet").stdout(Stdio::null());
        for set in overrides {
            command.args(["--set", set]);
        }
        command.args(["--set", &format!("run.part={part}/{processes}")]);
        command.args(["--set", &format!("run.id={}", (now.as_micros() as u32).max(1))]);
        command.args(["--set", &format!("run.begin_at_micros={}", begin.as_micros())]);
        for (flag, kind) in [("--json", "json"), ("--ledger", "ledger"), ("--hlog", "hlog")] {
            command.arg(flag).arg(place(part, kind));
        }
        children.push(command.spawn().context("a part does not start")?);
    }
    for (part, child) in children.iter_mut().enumerate() {
        let status = child.wait()?;
        // 1 is a part's own verdict, without what the others saw.
        if !matches!(status.code(), Some(0 | 1)) {
            bail!("process {} of {processes} ended with {status}", part + 1);
        }
    }
    let (mut ledger, mut intervals, mut reports) = (Ledger::new(), Vec::new(), Vec::<Report>::new());
    for part in 1..=processes {
        let text = std::fs::read_to_string(place(part, "ledger"))?;
        ledger.merge(&serde_json::from_str(&text)?);
        // A part that only sends has no latencies.
        if let Ok(found) = loadgen::hlog::read(&std::fs::read(place(part, "hlog"))?) {
            intervals.extend(found);
        }
        reports.push(read_report(&place(part, "json"))?);
    }
    Ok(Together {
        processes,
        sent_per_sec: reports.iter().map(|report| report.rates.sent_per_sec).sum(),
        arrived_per_sec: reports.iter().map(|report| report.rates.arrived_per_sec).sum(),
        latency_micros: Percentiles::of(&loadgen::hlog::total(&intervals)?),
        valid: reports.iter().all(|report| report.valid),
        verdict: ledger.verdict(scenario.run.rules),
        remarks: reports
            .into_iter()
            .filter(|report| !report.valid)
            .flat_map(|report| report.remarks)
            .collect(),
    })
}

impl Together {
    pub(crate) fn print(&self) {
        let Percentiles { p50, p99, p999, p9999, max, .. } = self.latency_micros;
        let verdict = &self.verdict;
        println!(
            "{} processes: sent {:.0} /s, arrived {:.0} /s",
            self.processes, self.sent_per_sec, self.arrived_per_sec
        );
        println!("  latency   p50 {p50} µs, p99 {p99}, p99.9 {p999}, p99.99 {p9999}, max {max}");
        println!(
            "  ledger    sent {}, acknowledged {}, arrived {} of {} expected, lost {}",
            verdict.sent,
            verdict.acked,
            verdict.arrived,
            verdict.expected,
            verdict.lost + verdict.lost_qos0
        );
        verdict.broken.iter().for_each(|broken| println!("  BROKEN    {broken}"));
        if verdict.kept() {
            println!("  verdict   every promise was kept");
        }
        self.remarks.iter().for_each(|remark| println!("  note      {remark}"));
    }
}
