//! What a process costs, as /proc tells it.
//!
//! In:  a process id. Out: CPU seconds, memory, context switches; differences between two samples.
//! Never: signals. Linux only; elsewhere every sample fails with a sentence that says so.

use std::collections::HashMap;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Ticks a second of the times in /proc/PID/stat: fixed by the kernel's interface on every architecture we build for.
const TICKS_PER_SEC: f64 = 100.0;

/// A process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// User and system time of all its threads so far, in seconds, to a hundredth.
    pub cpu_secs: f64,
    /// Resident memory, in bytes.
    pub rss_bytes: u64,
    /// Proportional share of memory, in bytes; 0 where the kernel does not tell us.
    pub pss_bytes: u64,
    /// Voluntary and involuntary context switches of its living threads.
    pub context_switches: u64,
    /// Bytes that it caused to be sent to storage so far; 0 where the kernel does not tell us.
    pub written_bytes: u64,
    /// Calls that wait for storage so far, if somebody counts them.
    pub syncs: Option<u64>,
    /// Who does.
    #[serde(default)]
    pub syncs_by: Option<SyncsBy>,
}

/// Who counts how often a broker waits for its storage; the kernel keeps no such count per process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncsBy {
    /// The broker itself, in its metrics.
    Metric,
    /// `perf`, at the entry of the system calls.
    Trace,
}

impl SyncsBy {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            SyncsBy::Metric => "the broker's own metric",
            SyncsBy::Trace => "a trace of fsync, fdatasync, msync, syncfs and sync_file_range",
        }
    }
}

/// What a process used between two samples, and what it held at the later one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU seconds in between.
    pub cpu_secs: f64,
    /// CPU seconds per million delivered messages in between; `null` if none were.
    pub cpu_secs_per_million: Option<f64>,
    /// Resident memory at the end, in bytes.
    pub rss_bytes: u64,
    /// Proportional share of memory at the end, in bytes.
    pub pss_bytes: u64,
    /// Context switches in between.
    pub context_switches: u64,
    /// Bytes sent to storage in between.
    pub written_bytes: u64,
    /// Bytes sent to storage per delivered message.
    pub written_bytes_per_message: Option<f64>,
    /// Calls that waited for storage, per delivered message, if somebody counts them.
    pub syncs_per_message: Option<f64>,
    /// Who does.
    #[serde(default)]
    pub syncs_by: Option<SyncsBy>,
}

impl Usage {
    /// That of two processes together.
    #[must_use]
    pub(crate) fn beside(&self, other: &Usage) -> Usage {
        Usage {
            cpu_secs: self.cpu_secs + other.cpu_secs,
            rss_bytes: self.rss_bytes + other.rss_bytes,
            pss_bytes: self.pss_bytes + other.pss_bytes,
            context_switches: self.context_switches + other.context_switches,
            written_bytes: self.written_bytes + other.written_bytes,
            ..*self
        }
    }

    /// The same, shared by so many delivered messages.
    #[must_use]
    pub(crate) fn shared_by(&self, delivered: u64) -> Usage {
        let each = |count: f64| (delivered > 0).then(|| count / delivered as f64);
        Usage {
            cpu_secs_per_million: each(self.cpu_secs * 1e6),
            written_bytes_per_message: each(self.written_bytes as f64),
            ..*self
        }
    }
}

/// Why a process cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot look at process {pid}: {why}")]
pub struct NoSample {
    pid: u32,
    why: String,
}

impl Sample {
    /// Looks at a process now.
    pub fn of(pid: u32) -> Result<Sample, NoSample> {
        let read = |file: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/{file}"))
                .map_err(|error| NoSample { pid, why: format!("/proc/{pid}/{file}: {error}") })
        };
        let cpu_secs = cpu_secs(&read("stat")?)
            .ok_or_else(|| NoSample { pid, why: "its stat file has an unknown form".to_owned() })?;
        let status = read("status")?;
        let pss = read("smaps_rollup").ok();
        let mut context_switches = 0;
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            if let Ok(text) = std::fs::read_to_string(thread.path().join("status")) {
                let fields = fields(&text);
                context_switches += fields.get("voluntary_ctxt_switches").copied().unwrap_or(0)
                    + fields.get("nonvoluntary_ctxt_switches").copied().unwrap_or(0);
            }
        }
        Ok(Sample {
            cpu_secs,
            rss_bytes: fields(&status).get("VmRSS").copied().unwrap_or(0) * 1024,
            pss_bytes: pss.map_or(0, |text| fields(&text).get("Pss").copied().unwrap_or(0) * 1024),
            context_switches,
            written_bytes: read("io")
                .map_or(0, |text| fields(&text).get("write_bytes").copied().unwrap_or(0)),
            syncs: None,
            syncs_by: None,
        })
    }

    /// CPU seconds and resident bytes only: cheap enough for once a second, where PSS makes the kernel walk all pages.
    #[must_use]
    pub fn glance(pid: u32) -> Option<(f64, u64)> {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let status = read("status")?;
        Some((cpu_secs(&read("stat")?)?, fields(&status).get("VmRSS").copied().unwrap_or(0) * 1024))
    }

    /// What was used since `earlier`, while `delivered` messages arrived.
    #[must_use]
    pub fn since(&self, earlier: &Sample, delivered: u64) -> Usage {
        let cpu_secs = (self.cpu_secs - earlier.cpu_secs).max(0.0);
        let written_bytes = self.written_bytes.saturating_sub(earlier.written_bytes);
        let each = |count: u64| (delivered > 0).then(|| count as f64 / delivered as f64);
        let syncs = self.syncs.zip(earlier.syncs).map(|(to, from)| to.saturating_sub(from));
        let usage = Usage {
            cpu_secs,
            cpu_secs_per_million: None,
            rss_bytes: self.rss_bytes,
            pss_bytes: self.pss_bytes,
            context_switches: self.context_switches.saturating_sub(earlier.context_switches),
            written_bytes,
            written_bytes_per_message: None,
            syncs_per_message: syncs.and_then(each),
            syncs_by: self.syncs_by.filter(|_| syncs.is_some()),
        };
        usage.shared_by(delivered)
    }
}

/// `name: number …` lines.
fn fields(text: &str) -> HashMap<&str, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            Some((name, rest.split_whitespace().next()?.parse().ok()?))
        })
        .collect()
}

/// utime + stime, fields 14 and 15 of proc_pid_stat(5). The name before them may hold spaces and brackets.
fn cpu_secs(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SEC)
}

/// Asks the kernel for so many open files, as far as the hard limit goes; whoever needs them looks what came of it.
///
/// Children inherit it: a broker started from here may have as many connections.
pub fn allow_open_files(files: u64) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < files {
        // Refused only above the hard limit, which `min` excludes.
        setrlimit(Resource::RLIMIT_NOFILE, files.min(hard), hard).ok();
    }
}

/// Which of the processors that we may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processor {
    /// The first, for a sink.
    First,
    /// So many before the last, for workers.
    FromLast(usize),
}

/// Keeps the calling thread on one processor: for threads that never sleep, which a scheduler would put on the same one
/// for some time. Where there is only one, or it is not allowed, nothing changes.
#[cfg(target_os = "linux")]
pub(crate) fn stay_on(which: Processor) {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    let own = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(own) else { return };
    let all: Vec<usize> = (0..CpuSet::count()).filter(|at| allowed.is_set(*at).unwrap_or(false)).collect();
    if all.len() < 2 {
        return;
    }
    let at = match which {
        Processor::First => 0,
        Processor::FromLast(back) => all.len() - 1 - back % all.len(),
    };
    let mut one = CpuSet::new();
    if one.set(all[at]).is_ok() {
        // Refused, it runs wherever the scheduler wants: as if we had not asked.
        sched_setaffinity(own, &one).ok();
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn stay_on(_which: Processor) {}

/// How many files (and so connections) this process may have open; `None` if unknown or unlimited.
pub(crate) fn open_files_max() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_does_not_shift_the_fields() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 1 2 3";
        assert_eq!(cpu_secs(stat), Some(3.0));
        assert_eq!(cpu_secs("42 nothing"), None);
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let sample = Sample::of(std::process::id()).unwrap();
        assert!(sample.rss_bytes > 0);
        let usage = sample.since(&Sample::default(), 2_000_000);
        assert_eq!(usage.cpu_secs_per_million, Some(sample.cpu_secs / 2.0));
    }

    #[test]
    fn a_process_that_is_gone_is_named() {
        let error = Sample::of(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("cannot look at process 4294967295"), "{error}");
    }
}
