//! How often a process waits for its storage, as the kernel's tracepoints tell it: for brokers that do not count it.
//!
//! In:  a process id. Out: a number that grows. How: `perf stat` counts the entries of the system calls that sync, in all
//! threads, ten times a second; the process is not stopped for it, as a tracer would.
//! Not seen: syncs by io_uring, and writes to files that were opened with O_SYNC or O_DSYNC.
//! Never: other processes' syncs; and never zero where it cannot be known, which is an error.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// What counts as a wait for storage.
const CALLS: [&str; 6] = ["fsync", "fdatasync", "msync", "syncfs", "sync_file_range", "sync"];

/// How long `perf` may take for its first word.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why syncs cannot be counted.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot count the syncs of process {pid} with perf: {why}; it takes the package linux-perf and the right to trace (root)"
)]
pub struct NoTrace {
    pid: u32,
    why: String,
}

/// A running count; it ends when dropped.
#[derive(Debug)]
pub struct SyncTrace {
    perf: Child,
    count: Arc<AtomicU64>,
    reader: Option<JoinHandle<()>>,
}

impl SyncTrace {
    /// Begins to count; returns when the first numbers are there, or with what `perf` says.
    pub fn start(pid: u32) -> Result<SyncTrace, NoTrace> {
        let failed = |why: String| NoTrace { pid, why };
        let events = CALLS.map(|call| format!("syscalls:sys_enter_{call}")).join(",");
        let mut perf = Command::new("perf")
            .args(["stat", "-I", "100", "-x", ",", "--log-fd", "1", "-e", &events, "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let Some(out) = perf.stdout.take() else { return Err(failed("it has no output".to_owned())) };
        let count = Arc::new(AtomicU64::new(0));
        let (tell, told) = sync_channel(1);
        let counting = count.clone();
        let reader = std::thread::Builder::new()
            .name("syncs".to_owned())
            .spawn(move || add_up(BufReader::new(out), &counting, &tell))
            .map_err(|error| failed(error.to_string()))?;
        let mut trace = SyncTrace { perf, count, reader: Some(reader) };
        match told.recv_timeout(PATIENCE) {
            Ok(()) => Ok(trace),
            Err(RecvTimeoutError::Timeout) => Err(failed("it says nothing".to_owned())),
            Err(RecvTimeoutError::Disconnected) => {
                let mut said = String::new();
                if let Some(mut errors) = trace.perf.stderr.take() {
                    // What cannot be read is told by the lack of it.
                    errors.read_to_string(&mut said).ok();
                }
                let first = said.lines().map(str::trim).find(|line| !line.is_empty() && *line != "Error:");
                Err(failed(first.unwrap_or("it ended at once").to_owned()))
            }
        }
    }

    /// Syncs so far, a tenth of a second ago.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for SyncTrace {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        self.perf.kill().ok();
        self.perf.wait().ok();
        if let Some(reader) = self.reader.take() {
            // Its end is all we wait for.
            reader.join().ok();
        }
    }
}

fn add_up(lines: impl BufRead, count: &AtomicU64, tell: &SyncSender<()>) {
    let mut told = false;
    for line in lines.lines().map_while(Result::ok) {
        if let Some(syncs) = syncs_in(&line) {
            count.fetch_add(syncs, Ordering::Relaxed);
            if !std::mem::replace(&mut told, true) {
                // Nobody listens any more only if nobody wants to know.
                tell.send(()).ok();
            }
        }
    }
}

/// `0.100123,19,,syscalls:sys_enter_fdatasync,100123,100.00,,`: time, count, unit, event.
fn syncs_in(line: &str) -> Option<u64> {
    let mut fields = line.split(',').map(str::trim);
    let (_time, count, _unit, event) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    // `<not counted>`: no thread of the process ran.
    event.starts_with("syscalls:").then(|| count.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_perf_are_understood() {
        assert_eq!(syncs_in("     0.1001,19,,syscalls:sys_enter_fdatasync,100123,100.00,,"), Some(19));
        assert_eq!(syncs_in("0.2,<not counted>,,syscalls:sys_enter_fsync,0,100.00,,"), Some(0));
        assert_eq!(syncs_in("Error: no permission"), None);
        let (tell, told) = sync_channel(1);
        let count = AtomicU64::new(0);
        add_up("0.1,2,,syscalls:a,\n# x\n0.1,3,,syscalls:b,\n".as_bytes(), &count, &tell);
        assert_eq!((count.load(Ordering::Relaxed), told.try_recv()), (5, Ok(())));
    }

    /// Where tracing is allowed, each sync of a thread is seen; where not, that is said and zero is not claimed.
    #[test]
    fn syncs_are_counted_or_it_is_said_why_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("synced")).unwrap();
        match SyncTrace::start(std::process::id()) {
            Ok(trace) => {
                let until = std::time::Instant::now() + PATIENCE;
                let mut done = 0;
                while trace.count() < 20 && std::time::Instant::now() < until {
                    file.sync_data().unwrap();
                    done += 1;
                }
                assert!((20..=done).contains(&trace.count()), "{} of {done}", trace.count());
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("with perf: ") && text.contains("linux-perf"), "{text}");
            }
        }
    }
}
