//! One process that must not outlive us.
//!
//! Knows: how to start it, see it ready, stop it by its id. Never: what it does.
//! How: it has its own process group, so that Ctrl-C reaches us only and it is stopped in order; and a small shell
//! watches a pipe that only we hold, so that it is stopped even if we are killed.
//! Invariant: when a [`Child`] is dropped, its process is gone.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// How long a process may take to say that it is ready: opening a large store may take a while.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// How long it may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

const LOOK: Duration = Duration::from_millis(25);

/// Lines of its log that are shown when it fails.
const LAST_LINES: usize = 15;

/// The shell that outlives us if we are killed: reads until the pipe ends, then stops the process. `done` means
/// that it has been stopped already, so that a process id that somebody else got since is left alone.
const WARDEN: &str = r#"while read -r line; do [ "$line" = done ] && exit 0; done
kill -TERM "$1" 2>/dev/null || exit 0
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 0.5; kill -0 "$1" 2>/dev/null || exit 0; done
kill -KILL "$1" 2>/dev/null"#;

/// Why a process is not there.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It cannot be started at all.
    #[error("cannot start {program}: {error}")]
    NotStarted {
        /// What.
        program: String,
        /// Why.
        error: std::io::Error,
    },
    /// It ended although it should run.
    #[error("{name} ended with {status}; the end of its log ({log}):\n{lines}", log = .log.display())]
    Ended {
        /// Which.
        name: String,
        /// How.
        status: String,
        /// Where its log is.
        log: PathBuf,
        /// The end of it.
        lines: String,
    },
    /// It runs and is not ready.
    #[error("{name} was not ready after {} s; the end of its log ({log}):\n{lines}",
        READY_PATIENCE.as_secs(), log = .log.display())]
    NotReady {
        /// Which.
        name: String,
        /// Where its log is.
        log: PathBuf,
        /// The end of it.
        lines: String,
    },
}

/// What a Millrace says when every listener accepts.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Ready {
    listeners: Vec<Listener>,
    /// Where `/status` is, if it is served.
    #[serde(default)]
    pub(crate) http: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Listener {
    name: String,
    address: SocketAddr,
}

impl Ready {
    /// The address of the plain TCP listener.
    pub(crate) fn tcp(&self) -> Option<SocketAddr> {
        self.listeners.iter().find(|listener| listener.name == "tcp").map(|listener| listener.address)
    }
}

/// A running process.
pub(crate) struct Child {
    name: &'static str,
    process: std::process::Child,
    warden: Option<std::process::Child>,
    log: PathBuf,
    ended: bool,
}

impl Child {
    /// Starts a program with its output in `log`.
    pub(crate) fn start(
        name: &'static str,
        program: &Path,
        arguments: &[String],
        log: PathBuf,
    ) -> Result<Child, ChildError> {
        let failed = |error| ChildError::NotStarted { program: program.display().to_string(), error };
        let output = File::create(&log).map_err(failed)?;
        let errors = output.try_clone().map_err(failed)?;
        let process = Command::new(program)
            .args(arguments)
            // Its log goes to a file, and the end of it perhaps into one of our sentences.
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let mut child = Child { name, process, warden: None, log, ended: false };
        let warden = Command::new("sh")
            .args(["-c", WARDEN, "warden", &child.process.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| ChildError::NotStarted { program: "sh".to_owned(), error })?;
        child.warden = Some(warden);
        Ok(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it has written its ready file.
    pub(crate) async fn ready(&mut self, file: &Path) -> Result<Ready, ChildError> {
        let started = Instant::now();
        loop {
            self.check()?;
            // A file that is there and not yet whole is read again at the next look.
            let text = std::fs::read(file).unwrap_or_default();
            if let Ok(ready) = serde_json::from_slice(&text) {
                return Ok(ready);
            }
            if started.elapsed() > READY_PATIENCE {
                return Err(ChildError::NotReady {
                    name: self.name.to_owned(),
                    log: self.log.clone(),
                    lines: self.last_lines(),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Fails if it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<(), ChildError> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                self.ended = true;
                Err(self.ended_with(status))
            }
            Err(error) => Err(ChildError::NotStarted { program: self.name.to_owned(), error }),
        }
    }

    /// Asks it to stop, kills it if it does not, and waits until it is gone. Fails if it ended badly.
    pub(crate) async fn stop(mut self) -> Result<(), ChildError> {
        self.check()?;
        self.terminate();
        let asked = Instant::now();
        while asked.elapsed() < STOP_PATIENCE {
            if let Ok(Some(status)) = self.process.try_wait() {
                self.ended = true;
                return if status.success() { Ok(()) } else { Err(self.ended_with(status)) };
            }
            tokio::time::sleep(LOOK).await;
        }
        let name = self.name.to_owned();
        let (log, lines) = (self.log.clone(), self.last_lines());
        drop(self);
        let status = format!("SIGKILL, as it did not stop within {} s of SIGTERM", STOP_PATIENCE.as_secs());
        Err(ChildError::Ended { name, status, log, lines })
    }

    fn terminate(&self) {
        // Without `unsafe` and libc there is no signal but SIGKILL; the shell has them all.
        let asked =
            Command::new("sh").args(["-c", "kill -TERM \"$1\"", "kill", &self.pid().to_string()]).status();
        // If there is no shell, the caller's patience ends and SIGKILL follows.
        asked.ok();
    }

    fn ended_with(&self, status: ExitStatus) -> ChildError {
        ChildError::Ended {
            name: self.name.to_owned(),
            status: status.to_string(),
            log: self.log.clone(),
            lines: self.last_lines(),
        }
    }

    /// The end of its log, indented.
    fn last_lines(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        if last.is_empty() { "    (empty)".to_owned() } else { format!("    {}", last.join("\n    ")) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            // Both fail only if it is gone, which is what we want.
            self.process.kill().ok();
            self.process.wait().ok();
        }
        if let Some(mut warden) = self.warden.take() {
            if let Some(mut pipe) = warden.stdin.take() {
                pipe.write_all(b"done\n").ok();
            }
            warden.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, folder: &Path) -> Child {
        let arguments = ["-c".to_owned(), script.to_owned(), folder.join("ready").display().to_string()];
        Child::start("plant", Path::new("sh"), &arguments, folder.join("log")).unwrap()
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    #[test]
    fn a_process_is_ready_when_its_file_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"printf '{"pid":1,"listeners":[{"name":"ws","address":"127.0.0.1:2"},' > "$0"
            printf '{"name":"tcp","address":"127.0.0.1:3"}],"http":null}' >> "$0"; exec sleep 60"#;
        let mut child = sh(script, folder.path());
        let ready = run(child.ready(&folder.path().join("ready"))).unwrap();
        assert_eq!((ready.tcp().unwrap().port(), ready.http), (3, None));
    }

    #[test]
    fn a_process_that_fails_is_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = sh("echo 'listener.tcp.bind: in use' >&2; exit 2", folder.path());
        let error = run(child.ready(&folder.path().join("ready"))).unwrap_err().to_string();
        assert!(error.starts_with("plant ended with exit status: 2; the end of its log"), "{error}");
        assert!(error.ends_with("    listener.tcp.bind: in use"), "{error}");
    }

    #[test]
    fn a_process_is_asked_before_it_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ready");
        let script = r#"trap 'echo stopped; exit 0' TERM; echo '{"listeners":[]}' > "$0"; while :; do sleep 0.05; done"#;
        let mut child = sh(script, folder.path());
        run(async {
            child.ready(&file).await.unwrap();
            child.stop().await.unwrap();
        });
        assert_eq!(std::fs::read_to_string(folder.path().join("log")).unwrap(), "stopped\n");
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let child = sh("exec sleep 60", folder.path());
        let proc = PathBuf::from(format!("/proc/{}", child.pid()));
        assert!(proc.exists());
        drop(child);
        assert!(!proc.exists());
    }

    #[test]
    fn the_warden_stops_what_a_killed_conductor_leaves_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = sh("exec sleep 60", folder.path());
        // The end of the pipe without a word is what it sees when we are killed.
        drop(child.warden.as_mut().unwrap().stdin.take());
        let status = child.process.wait().unwrap();
        child.ended = true;
        assert!(!status.success(), "ended by a signal");
    }
}
