//! One process that must not outlive us.
//!
//! Knows: how to start it, see it ready, stop it by its id. Never: what it does.
//! How: it has its own process group, so that Ctrl-C reaches us only and it is stopped in order; and a small shell
//! watches a pipe that only we hold, so that it is stopped even if we are killed.
//! Invariant: when a [`Child`] is dropped, its process is gone.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use wire::{Connect, Disconnect, ReasonCode, Version};

/// How long a process may take to accept connections.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to stop before it is killed. Closing a store with a large backlog takes a moment.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
/// The keep alive that foreign brokers are told.
pub(crate) const KEEP_ALIVE_SECS: u16 = 60;
/// How long one CONNECT may stay without an answer before the next try.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// Lines of its log that are shown when it fails.
const LAST_LINES: usize = 10;

/// The shell that outlives us if we are killed: reads until the pipe ends, then stops the process. `done` means
/// that it has been stopped already, so that a process id that somebody else got since is left alone.
const WARDEN: &str = r#"while read -r line; do [ "$line" = done ] && exit 0; done
kill -TERM "$1" 2>/dev/null || exit 0
for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 0.5; kill -0 "$1" 2>/dev/null || exit 0; done
kill -KILL "$1" 2>/dev/null"#;

/// A running process.
pub(crate) struct Child {
    name: &'static str,
    process: std::process::Child,
    warden: std::process::Child,
    log: PathBuf,
    stopped: bool,
}

/// What Millrace (and our relay) write into their ready file.
#[derive(Debug, Deserialize)]
pub(crate) struct Ready {
    pub(crate) listeners: Vec<Listener>,
    #[serde(default)]
    pub(crate) http: Option<SocketAddr>,
}

/// One address at which a process accepts connections.
#[derive(Debug, Deserialize)]
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
}

/// Says CONNECT (3.1.1, clean, no user), and hears CONNACK.
fn connack(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_PATIENCE)?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    let mut bytes = Vec::new();
    let mut connect = Connect::new(Version::V3, "bench-ready");
    // Some brokers refuse who says no keep alive.
    connect.keep_alive_secs = KEEP_ALIVE_SECS;
    wire::encode_connect(&mut bytes, &connect)?;
    stream.write_all(&bytes)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    if answer != [0x20, 2, 0, 0] {
        bail!("{answer:02x?} is no CONNACK that lets us in");
    }
    bytes.clear();
    wire::encode_disconnect(&mut bytes, Version::V3, &Disconnect::new(ReasonCode::SUCCESS))?;
    Ok(stream.write_all(&bytes)?)
}

impl Child {
    /// Starts a program with its output in the file `log`.
    pub(crate) fn start(
        name: &'static str,
        program: &Path,
        arguments: &[String],
        log: PathBuf,
    ) -> anyhow::Result<Child> {
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let warden = Command::new("sh")
            .args(["-c", WARDEN, "warden", &process.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        match warden {
            Ok(warden) => Ok(Child { name, process, warden, log, stopped: false }),
            Err(error) => {
                // Nobody would look after it.
                process.kill().ok();
                process.wait().ok();
                Err(error).context("cannot start sh, which stops our processes if we are killed")
            }
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it has written its ready file.
    pub(crate) fn ready(&mut self, file: &Path) -> anyhow::Result<Ready> {
        // A file that is there and not yet whole is read again at the next look.
        let read = || serde_json::from_slice(&std::fs::read(file).ok()?).ok();
        self.wait_for("ready file", READY_PATIENCE, read)
    }

    /// Waits until something accepts connections at `address`, and it is not somebody else because we still run.
    pub(crate) fn accepts(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let open = || TcpStream::connect_timeout(&address, READY_PATIENCE).ok();
        self.wait_for("open port", READY_PATIENCE, open)?;
        self.check()
    }

    /// Waits until it answers a CONNECT at `address`: some brokers open their port before they can.
    pub(crate) fn answers(&mut self, address: SocketAddr, patience: Duration) -> anyhow::Result<()> {
        self.wait_for("answer to a CONNECT", patience, || connack(address).ok())?;
        self.check()
    }

    fn wait_for<T>(
        &mut self,
        what: &str,
        patience: Duration,
        look: impl Fn() -> Option<T>,
    ) -> anyhow::Result<T> {
        let started = Instant::now();
        loop {
            self.check()?;
            if let Some(found) = look() {
                return Ok(found);
            }
            if started.elapsed() > patience {
                let secs = patience.as_secs();
                bail!(
                    "{} has no {what} after {secs} s; the end of its log:\n{}",
                    self.name,
                    self.last_lines()
                );
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended with {status}; the end of its log:\n{}", self.name, self.last_lines())
            }
        }
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    /// Stops it in order, or else by force.
    pub(crate) fn stop(&mut self) {
        self.end(true);
    }

    /// Kills it without a word (SIGKILL).
    pub(crate) fn kill(&mut self) {
        self.end(false);
    }

    fn end(&mut self, asks: bool) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        // The shell's own `kill`: the only way to a SIGTERM without `unsafe` or one more dependency.
        let term = format!("kill -TERM {}", self.process.id());
        let asked = asks && Command::new("sh").args(["-c", &term]).stderr(Stdio::null()).status().is_ok();
        let started = Instant::now();
        while asked && started.elapsed() < STOP_PATIENCE {
            match self.process.try_wait() {
                Ok(None) => std::thread::sleep(LOOK),
                Ok(Some(_)) | Err(_) => break,
            }
        }
        // Both fail only if it has ended, which is what we want.
        self.process.kill().ok();
        self.process.wait().ok();
        if let Some(mut pipe) = self.warden.stdin.take() {
            pipe.write_all(b"done\n").ok();
        }
        self.warden.wait().ok();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port of the loopback interface that nobody used a moment ago, for programs that cannot choose one themselves.
pub(crate) fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &Path) -> Child {
        let arguments = ["-c".to_owned(), script.to_owned()];
        Child::start("a shell", Path::new("sh"), &arguments, folder.join("log")).unwrap()
    }

    fn is_alive(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    #[test]
    fn a_child_is_gone_when_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let child = shell("exec sleep 60", folder.path());
        let (pid, warden) = (child.pid(), child.warden.id());
        assert!(is_alive(pid) && is_alive(warden));
        drop(child);
        assert!(!is_alive(pid) && !is_alive(warden));
    }

    #[test]
    fn a_child_that_ends_early_is_named_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell("echo no such luck; exit 3", folder.path());
        let error = child.ready(&folder.path().join("ready")).unwrap_err().to_string();
        assert!(error.contains("a shell ended") && error.contains("no such luck"), "{error}");
    }
}
