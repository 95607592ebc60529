//! A process that never outlives its value, and whose words are kept for the day it fails.
//!
//! In: a command. Out: its log, its end. Always: killed by its own id on drop; a panicking test prints the log's end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Once;

use crate::wait::until;

/// Lines of a log that a failing test prints.
const LOG_LINES: usize = 60;

/// A signal for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Please stop (SIGTERM).
    Terminate,
    /// Read your configuration again (SIGHUP).
    Reload,
    /// Die (SIGKILL).
    Kill,
    /// Stand still (SIGSTOP).
    Pause,
    /// Go on (SIGCONT).
    Resume,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Signal::Terminate => libc::SIGTERM,
            Signal::Reload => libc::SIGHUP,
            Signal::Kill => libc::SIGKILL,
            Signal::Pause => libc::SIGSTOP,
            Signal::Resume => libc::SIGCONT,
        }
    }
}

/// From now on we, and whom we start, get memory in small pages: whether the kernel rounds it up to 2 MiB here and there is its
/// matter, and says nothing about the program.
fn with_small_pages() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| nix::sys::prctl::set_thp_disable(true).expect("Linux since 3.15 takes this"));
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; what it says goes to the file `log`, after what is there already.
    #[track_caller]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Process {
        with_small_pages();
        let file = File::options().create(true).append(true).open(log).expect("a log can be written");
        let errors = file.try_clone().expect("a descriptor can be copied");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Process { name: name.to_owned(), child, log: log.to_owned(), ended: None }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, unless it has ended.
    #[expect(unsafe_code, reason = "the standard library has no other signal than SIGKILL")]
    pub fn signal(&mut self, signal: Signal) {
        if self.has_ended().is_some() {
            return;
        }
        let id = libc::pid_t::try_from(self.child.id()).expect("a process id fits");
        // SAFETY: `kill` takes numbers and touches no memory of ours. The id is that of our own child, which has not
        // been waited for, so it cannot belong to another process yet.
        let sent = unsafe { libc::kill(id, signal.number()) };
        assert_eq!(sent, 0, "{} can be signalled", self.name);
    }

    /// How it ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
        }
        self.ended
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        until(&what, || self.has_ended())
    }

    /// Everything it said.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Bytes of memory that it alone has now. Pages of its program come and go as the kernel likes, and are not among them.
    #[track_caller]
    pub fn memory_bytes(&self) -> u64 {
        self.status_bytes("RssAnon:")
    }

    /// The same with the pages of files that it has mapped, its program first of all (resident set).
    #[track_caller]
    pub fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    #[track_caller]
    fn status_bytes(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or_else(|| panic!("{} has no {field}: {text}", self.name)) * 1_024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended().is_none() {
            // Both fail only if it ended between the question and now.
            self.child.kill().ok();
            self.child.wait().ok();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let shown = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n    ");
            eprintln!("--- log of {} ({} lines)\n    {shown}", self.name, lines.len());
        }
    }
}

/// What a process that ended had to say.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Finished {
    /// From what the standard library has.
    pub fn of(output: Output) -> Finished {
        Finished {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Panics unless it ended with `code`; returns it for more questions.
    #[track_caller]
    pub fn expect(self, code: i32) -> Finished {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }
}

/// Takes away what the environment of the person who runs the tests would configure.
pub(crate) fn without_configuration(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MILLRACE__") {
            command.env_remove(name);
        }
    }
    command.env_remove("NOTIFY_SOCKET")
}
