//! Where and when something was measured, and who else used the machine meanwhile.
//!
//! Knows: /proc, `git`, the wall clock. Never: what is measured.
//! In:  nothing. Out: [`Facts`] for the head of a result, [`Processors`] to see other people's load in a figure.
//! What cannot be found out is an empty text or zero, never an error: a figure without it is poorer, not wrong.

use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Ticks a second of the times in /proc/stat: fixed by the kernel's interface on every architecture we build for.
const TICKS_PER_SEC: f64 = 100.0;

/// What must stand beside a figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Facts {
    /// Model of the processor.
    pub(crate) processor: String,
    /// Logical processors that we may use.
    pub(crate) processors: usize,
    /// Main memory, in bytes.
    pub(crate) memory_bytes: u64,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Commit of the source tree; with `-dirty` if files differ from it.
    pub(crate) commit: String,
    /// When it was started, UTC, to the second.
    pub(crate) date: String,
    /// Load average over 1, 5 and 15 minutes at the start.
    pub(crate) load_average: String,
}

impl Facts {
    /// Looks around now.
    pub(crate) fn here() -> Facts {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let load_average: Vec<_> =
            read("/proc/loadavg").split_whitespace().take(3).map(str::to_owned).collect();
        Facts {
            processor: processor(&read("/proc/cpuinfo")),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory_bytes(&read("/proc/meminfo")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit(),
            date: date(now),
            load_average: load_average.join(" "),
        }
    }

    /// The name of a folder for results: day and commit.
    pub(crate) fn folder(&self) -> String {
        format!("{}-{}", self.date.get(..10).unwrap_or("undated"), self.commit)
    }

    /// What a figure depends on most: how many processors of which model.
    pub(crate) fn kind(&self) -> String {
        format!("{} × {}", self.processors, self.processor)
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} × {}, {:.0} GiB, Linux {}, commit {}, {}, load average {}",
            self.processors,
            self.processor,
            self.memory_bytes as f64 / f64::from(1 << 30),
            self.kernel,
            self.commit,
            self.date,
            self.load_average
        )
    }
}

/// The root of the source tree that we stand in, or the working directory.
pub(crate) fn source_root() -> PathBuf {
    git(&["rev-parse", "--show-toplevel"]).map_or_else(|| PathBuf::from("."), PathBuf::from)
}

fn commit() -> String {
    let Some(commit) = git(&["rev-parse", "--short=9", "HEAD"]) else { return "unknown".to_owned() };
    // Results are written into the tree: they do not make what was measured another program.
    let changed = git(&["status", "--porcelain", "--", ":/", ":(exclude,top)bench/results"]);
    let dirty = changed.is_none_or(|changed| !changed.is_empty());
    if dirty { format!("{commit}-dirty") } else { commit }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The kind of file system that holds a path: a figure about syncs is worth nothing on tmpfs.
pub(crate) fn file_system(path: &std::path::Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    file_system_in(&read("/proc/mounts"), &path.to_string_lossy()).unwrap_or_default()
}

/// The longest mount point that is a parent of `path` decides; of equal ones the last, which hides the others.
fn file_system_in(mounts: &str, path: &str) -> Option<String> {
    let lines = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let is_parent = |point: &str| {
        let point = point.trim_end_matches('/');
        path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    lines
        .filter(|(point, _)| is_parent(point))
        .max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind.to_owned())
}

fn read(file: &str) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

fn processor(cpuinfo: &str) -> String {
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(String::new, |(_, model)| model.trim().to_owned())
}

fn memory_bytes(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Seconds since 1970 as `2026-11-23 00:32:34 UTC`.
fn date(unix_secs: u64) -> String {
    let (days, secs) = (unix_secs / 86_400, unix_secs % 86_400);
    // Days to a civil date, by eras of 400 years that begin in March (Howard Hinnant, "chrono-compatible date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", secs / 3_600, secs / 60 % 60, secs % 60)
}

/// What all processors have done since the machine started, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Processors {
    /// Work, whoever's.
    pub(crate) busy_secs: f64,
    /// Time in which the host gave our processors to somebody else.
    pub(crate) stolen_secs: f64,
}

impl Processors {
    /// Looks now; zero if the kernel does not tell.
    pub(crate) fn now() -> Processors {
        processors(&read("/proc/stat")).unwrap_or_default()
    }

    /// What was done between an earlier look and this one.
    pub(crate) fn since(self, earlier: Processors) -> Processors {
        Processors {
            busy_secs: self.busy_secs - earlier.busy_secs,
            stolen_secs: self.stolen_secs - earlier.stolen_secs,
        }
    }
}

/// The first line of proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal.
fn processors(stat: &str) -> Option<Processors> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(|number| number.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else { return None };
    Some(Processors {
        busy_secs: (user + nice + system + irq + softirq) / TICKS_PER_SEC,
        stolen_secs: steal / TICKS_PER_SEC,
    })
}

/// As many as the router takes where its configuration names none (`shards = 0`).
pub(crate) fn default_shards() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    u32::try_from(cores / 2).unwrap_or(u32::MAX).clamp(1, 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_795_393_954), "2026-11-23 00:32:34 UTC");
        assert_eq!(date(1_798_761_599), "2026-12-31 23:59:59 UTC");
        assert_eq!(date(1_798_761_600), "2027-01-01 00:00:00 UTC");
    }

    #[test]
    fn the_processors_line_is_read_as_the_manual_says() {
        let stat = "cpu  100 20 30 4000 50 6 7 800 9 10\ncpu0 1 2 3 4 5 6 7 8 0 0\nintr 1\n";
        assert_eq!(processors(stat), Some(Processors { busy_secs: 1.63, stolen_secs: 8.0 }));
        let later = Processors { busy_secs: 2.0, stolen_secs: 8.5 };
        let earlier = Processors { busy_secs: 1.5, stolen_secs: 8.0 };
        assert_eq!(later.since(earlier), Processors { busy_secs: 0.5, stolen_secs: 0.5 });
    }

    #[test]
    fn a_line_of_an_old_kernel_or_none_at_all_is_refused() {
        assert_eq!(processors("cpu  1 2 3 4\n"), None);
        assert_eq!(processors(""), None);
    }

    #[test]
    fn model_and_memory_are_found() {
        assert_eq!(processor("processor\t: 0\nmodel name\t: AMD EPYC 9R14\nflags: x\n"), "AMD EPYC 9R14");
        assert_eq!(processor(""), "");
        assert_eq!(memory_bytes("MemTotal:       24576 kB\nMemFree: 1 kB\n"), 24_576 * 1024);
    }

    #[test]
    fn the_nearest_mount_point_names_the_file_system() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\ntmpfs /tm tmpfs rw 0 0\n";
        assert_eq!(file_system_in(mounts, "/tmp/x").as_deref(), Some("tmpfs"));
        assert_eq!(file_system_in(mounts, "/tmpfile").as_deref(), Some("ext4"));
        assert_eq!(file_system_in(mounts, "/").as_deref(), Some("ext4"));
        assert_eq!(file_system_in("", "/"), None);
    }

    #[test]
    fn this_machine_has_a_processor_and_a_date() {
        let facts = Facts::here();
        assert!(facts.processors > 0 && facts.date.ends_with("UTC"), "{facts:?}");
        assert!(facts.folder().starts_with(&facts.date[..10]));
    }
}
