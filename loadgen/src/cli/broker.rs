//! A broker that we start, kill with SIGKILL and start again, and what stands upstream of it.
//!
//! In:  a command line, when to kill, how long to wait. Out: the process, gone when dropped.

use std::net::ToSocketAddrs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use loadgen::null::{Faults, NullBroker, NullHandle};
use loadgen::scenario::{Scenario, UpstreamPlan};

/// How long a broker may take to accept connections.
const READY_PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

#[derive(Args)]
pub(crate) struct BrokerArgs {
    /// Start the broker with this command (through `sh -c exec`), and stop it at the end.
    #[arg(long, value_name = "COMMAND")]
    broker_command: Option<String>,
    /// Kill it (SIGKILL) so many seconds after the start, and start it again.
    #[arg(long, value_name = "SECS", requires = "broker_command")]
    kill_at: Option<f64>,
    /// How long it stays down.
    #[arg(long, value_name = "SECS", requires = "kill_at", default_value_t = 1.0)]
    down_for: f64,
}

/// A started broker, and the task that kills it.
pub(crate) struct Broker {
    pid: u32,
    stop: Option<std::sync::mpsc::SyncSender<()>>,
    keeper: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl BrokerArgs {
    /// Starts what is to be started; `None` without a command. Returns when it accepts connections.
    pub(crate) fn start(&self, scenario: &Scenario) -> anyhow::Result<Option<Broker>> {
        let Some(command) = self.broker_command.clone() else { return Ok(None) };
        let endpoint = scenario
            .publishers
            .as_ref()
            .map(|it| &it.endpoint)
            .or(scenario.subscribers.as_ref().map(|it| &it.endpoint))
            .or(scenario.clients.as_ref().map(|it| &it.endpoint))
            .context("the scenario connects nobody")?;
        let address = endpoint.address.authority();
        let child = spawn(&command)?;
        let pid = child.id();
        let (stop, stopped) = std::sync::mpsc::sync_channel(1);
        let mut child = Guard(child);
        accepts(&mut child, &address)?;
        let kill =
            self.kill_at.map(|at| (Duration::from_secs_f64(at), Duration::from_secs_f64(self.down_for)));
        let keeper = std::thread::Builder::new().name("broker".to_owned()).spawn(move || {
            if let Some((at, down)) = kill
                && stopped
                    .recv_timeout(at)
                    .is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                drop(child);
                std::thread::sleep(down);
                child = Guard(spawn(&command)?);
            }
            // Ends when told to, or when the other side is gone.
            stopped.recv().ok();
            drop(child);
            anyhow::Ok(())
        })?;
        Ok(Some(Broker { pid, stop: Some(stop), keeper: Some(keeper) }))
    }

    /// Whether the broker's process is another one after a while.
    pub(crate) fn kills(&self) -> bool {
        self.kill_at.is_some()
    }
}

impl Broker {
    /// The process that was started first.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take()
            && let Ok(Err(error)) = keeper.join()
        {
            eprintln!("loadgen: the broker did not start again: {error:#}");
        }
    }
}

/// The upstream of a scenario, played by a null sink on a thread of its own.
pub(crate) struct Upstream(NullHandle);

impl Upstream {
    /// Listens at once.
    pub(crate) fn start(plan: &UpstreamPlan) -> anyhow::Result<Upstream> {
        let started = NullBroker::start_at(&plan.listen, Faults::default(), plan.manners.clone());
        Ok(Upstream(started.with_context(|| format!("upstream.listen: cannot listen at {}", plan.listen))?))
    }

    /// What it has seen, for people.
    pub(crate) fn line(&self) -> String {
        let tally = self.0.tally();
        let (taken, refused) = (tally.taken.load(Ordering::Relaxed), tally.refused.load(Ordering::Relaxed));
        format!("upstream: {taken} taken, {refused} refused")
    }
}

/// A process that is killed when dropped: no goodbye, which is the point.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn spawn(command: &str) -> anyhow::Result<Child> {
    let exec = format!("exec {command}");
    let mut shell = Command::new("sh");
    shell.args(["-c", &exec]).stdin(Stdio::null()).stdout(Stdio::null());
    shell.spawn().with_context(|| format!("cannot start the broker: {command}"))
}

fn accepts(child: &mut Guard, address: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    while started.elapsed() < READY_PATIENCE {
        if let Some(status) = child.0.try_wait()? {
            bail!("the broker ended with {status}");
        }
        let mut places = address.to_socket_addrs().with_context(|| address.to_owned())?;
        if places.any(|place| std::net::TcpStream::connect_timeout(&place, LOOK).is_ok()) {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    bail!("the broker does not accept connections at {address} after {} s", READY_PATIENCE.as_secs())
}
