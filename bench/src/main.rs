//! The end-to-end comparison driver: what Millrace costs beside a peer, a raw relay and a plain file.
//!
//! Knows: arguments, where results go, exit codes. May use: every other file. Never: figures of its own.
//! Exit codes: 0 measured, all promises kept · 1 a promise of MQTT was broken · 2 it could not be measured.
//! Reading order: `rows` (the questions), `compare`, `guard`, `instructions`, `decisions`, `durable`, `idle`, `retained`, `forward`,
//! `uplink`, `dialect`, `backlog`, `restart`, `drain`, `wear`, `soak`,
//! `contestants`, `peers`, `load`, `relay`, `stats`,
//! `machine`, `child`, `page`.

mod backlog;
mod child;
mod compare;
mod contestants;
mod decisions;
mod dialect;
mod drain;
mod durable;
mod fleet;
mod forward;
mod guard;
mod identities;
mod idle;
mod instructions;
mod load;
mod machine;
mod page;
mod peers;
mod relay;
mod restart;
mod retained;
mod rows;
mod soak;
mod stats;
mod uplink;
mod wear;

use std::cell::Cell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Parser, Subcommand};

use crate::compare::Contest;
use crate::contestants::{Binaries, System};
use crate::durable::Durable;
use crate::load::Times;
use crate::machine::Facts;
use crate::page::Results;
use crate::peers::Peer;
use crate::rows::{HOT_ROWS, ROWS, Row};

/// The same as in loadgen: an allocator that differs would make the load differ.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Millrace beside its peers: the same load, in turn, on the same machine.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// CPU, rate, latency and memory beside mosquitto and a raw relay; writes README.md and results.json.
    Compare {
        #[command(flatten)]
        common: Common,
        /// Only these rows. Repeatable.
        #[arg(long, value_name = "ROW")]
        only: Vec<String>,
        /// The mosquitto binary, if it is not in the path.
        #[arg(long, value_name = "PATH")]
        mosquitto: Option<PathBuf>,
        /// Another millrace binary: it takes the place of all peers; writes before-after.md and .json. Without --only,
        /// the hot rows.
        #[arg(long, value_name = "PATH", conflicts_with = "mosquitto")]
        peer_binary: Option<PathBuf>,
        /// Another broker, by a file such as configs/peers/rumqttd.toml. Repeatable.
        #[arg(long = "peer", value_name = "FILE", conflicts_with = "peer_binary")]
        peers: Vec<PathBuf>,
    },
    /// Acknowledgements that wait for the disk, beside a plain file; writes durable.md and durable.json.
    Durable {
        #[command(flatten)]
        common: Common,
        /// Publishers. Repeatable.
        #[arg(long, value_name = "COUNT", default_values_t = [1, 10, 100, 1_000])]
        publishers: Vec<u32>,
        /// Messages of one publisher under way.
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_535))]
        window: u32,
    },
    /// Resident memory without connections, and what each idle connection adds; writes idle.md and idle.json.
    Idle {
        #[command(flatten)]
        common: Common,
        /// Connections, each with one subscription.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        connections: u32,
    },
    /// Retained topics: how fast they are set, and got again with one wildcard; writes retained.md and retained.json.
    Retained {
        #[command(flatten)]
        common: Common,
        /// Topics, set by ten publishers.
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..=10_000_000))]
        topics: u32,
    },
    /// An outage of the WAN and the drain after it, beside mosquitto's bridge; writes forward.md and forward.json.
    Forward {
        #[command(flatten)]
        common: Common,
        /// Messages a second, all the time.
        #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
        rate: u32,
        /// Length of the outage.
        #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
        outage: u64,
    },
    /// One uplink over emulated networks, beside mosquitto's bridge; writes uplink.md and uplink.json. About fifteen minutes; root.
    Uplink {
        #[command(flatten)]
        common: Common,
        /// Round trips, in milliseconds. Repeatable.
        #[arg(long, value_name = "MS", default_values_t = [1, 20, 100, 300])]
        rtt: Vec<u64>,
        /// Messages of the backlog of each cell.
        #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
        messages: u64,
        /// Messages of the whole drain.
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
        drain: u64,
        /// Devices with links of their own to an IoT Hub; 0 for none.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(0..=10_000))]
        identities: u64,
    },
    /// Time and memory to serve again after kill -9 with a backlog; writes restart.md and restart.json.
    Restart {
        #[command(flatten)]
        common: Common,
        /// Payload bytes that wait, in MiB. Repeatable.
        #[arg(long, value_name = "MIB", default_values_t = [16, 1_024, 10_240])]
        backlog: Vec<u64>,
    },
    /// How fast a backlog leaves, and what live messages notice of it; writes drain.md and drain.json.
    Drain {
        #[command(flatten)]
        common: Common,
        /// Messages that wait.
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(10_000..=100_000_000))]
        messages: u64,
    },
    /// Bytes written to the disk per accepted byte, by durability, upstream there and away; writes wear.md and wear.json.
    Wear {
        #[command(flatten)]
        common: Common,
    },
    /// From an output of a module to an input, and connects with tokens over TLS; writes dialect.md and dialect.json.
    Dialect {
        #[command(flatten)]
        common: Common,
    },
    /// Memory under overload: exit code 1 if it is not flat; writes soak.md and soak.json.
    Soak {
        #[command(flatten)]
        common: Common,
        /// How long.
        #[arg(long, default_value_t = 60.0)]
        minutes: f64,
    },
    /// Hot rows beside a raw relay and mosquitto, judged by a stored baseline of ratios: exit code 1 if one is clearly
    /// slower.
    Guard {
        #[command(flatten)]
        common: Common,
        /// Where the baseline is.
        #[arg(long, value_name = "FILE", default_value = "bench/baseline.json")]
        baseline: PathBuf,
        /// Make what is found the baseline.
        #[arg(long)]
        bless: bool,
    },
    /// Instructions of decode, match and append (callgrind), beside the stored ones: exit code 1 if one takes more.
    Instructions {
        /// Where the stored ones are.
        #[arg(long, value_name = "FILE", default_value = "bench/instructions.json")]
        baseline: PathBuf,
        /// Store what is found.
        #[arg(long)]
        bless: bool,
    },
    /// One step so often, as `instructions` starts it.
    #[command(hide = true)]
    Work {
        /// Which step.
        name: String,
        /// How often.
        times: u64,
    },
    /// The rows of `compare` and what they ask.
    List,
    /// The raw TCP relay, as `compare` starts it.
    #[command(hide = true)]
    Relay {
        /// Threads that copy.
        #[arg(long, default_value_t = 2)]
        threads: u32,
        /// Where the address is written, as JSON.
        #[arg(long)]
        ready_file: PathBuf,
    },
}

#[derive(Args)]
struct Common {
    /// Rounds; figures are medians of them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Length of one measured run, after one second of warm-up.
    #[arg(long, value_name = "SECS", default_value_t = 2.0)]
    seconds: f64,
    /// Folder for the results [default: $MILLRACE_RESULTS, as `make bench` has it, or bench/results/DATE-COMMIT].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// The millrace binary [default: beside this one].
    #[arg(long, value_name = "PATH")]
    millrace: Option<PathBuf>,
    /// Shards of Millrace, threads of the relay [default: as many as Millrace takes on this machine].
    #[arg(long, default_value_t = machine::default_shards(), value_parser = clap::value_parser!(u32).range(1..=64))]
    shards: u32,
    /// Where stores are put while they are measured [default: the folder for temporary files].
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// A key of Millrace's configuration, to try something out. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Relay { threads, ready_file } => {
            relay::run(threads, &ready_file).map(|()| ExitCode::SUCCESS)
        }
        Command::Work { name, times } => instructions::work(&name, times).map(|()| ExitCode::SUCCESS),
        Command::Instructions { baseline, bless } => instructions::run(&baseline, bless),
        Command::List => {
            ROWS.iter().for_each(|row| println!("{}\n    {}", row.name, row.question));
            Ok(ExitCode::SUCCESS)
        }
        Command::Compare { common, only, mosquitto, peer_binary, peers } => {
            let rows = chosen(&only, peer_binary.is_some())?;
            let foreign = peers.iter().map(|file| {
                let peer = Peer::load(file)?;
                Ok((System::foreign(&peer), peer))
            });
            let foreign = foreign.collect::<anyhow::Result<Vec<_>>>()?;
            let binaries = Binaries { before: peer_binary, foreign, ..common.binaries(mosquitto)? };
            if binaries.before.as_ref().is_some_and(|before| !before.is_file()) {
                bail!("--peer-binary: there is no such file");
            }
            if binaries.mosquitto.is_none() && binaries.before.is_none() {
                bail!("mosquitto is not installed: run `make bench`, which installs it");
            }
            with_interrupt(|interrupted| compare(common, rows, binaries, interrupted))
        }
        Command::Guard { common, baseline, bless } => {
            let binaries = common.binaries(None)?;
            if common.rounds < guard::ROUNDS_MIN {
                bail!("--rounds {}: a median is known from {} rounds on", common.rounds, guard::ROUNDS_MIN);
            }
            if binaries.mosquitto.is_none() {
                bail!("mosquitto is not installed: run `make guard`, which installs it");
            }
            with_interrupt(|interrupted| guard(common, baseline, bless, binaries, interrupted))
        }
        Command::Durable { common, publishers, window } => {
            let binaries = common.binaries(None)?;
            with_interrupt(|interrupted| durable(common, publishers, window, binaries, interrupted))
        }
        Command::Idle { common, connections } => {
            let binaries = common.binaries(None)?;
            with_interrupt(|interrupted| idle(common, connections, binaries, interrupted))
        }
        Command::Forward { common, rate, outage } => {
            let binaries = common.binaries(None)?;
            if binaries.mosquitto.is_none() {
                bail!("mosquitto is not installed: run `make bench`, which installs it");
            }
            let scene = forward::Scene { rate, outage: Duration::from_secs(outage) };
            with_interrupt(|interrupted| forward(common, scene, binaries, interrupted))
        }
        Command::Uplink { common, rtt, messages, drain, identities } => {
            let binaries = common.binaries(None)?;
            let plan = uplink::Plan { rtts: rtt, messages, drain, identities };
            with_interrupt(|interrupted| measure_uplinks(common, plan, binaries, interrupted))
        }
        Command::Restart { common, backlog } => {
            let binaries = common.binaries(None)?;
            with_interrupt(|interrupted| restart(common, backlog, binaries, interrupted))
        }
        Command::Drain { common, messages } => {
            let binaries = common.binaries(None)?;
            with_interrupt(|interrupted| async move {
                let table = drain::run(messages, &binaries, common.rounds, || interrupted.get()).await?;
                common.finish_table(&binaries, table)
            })
        }
        Command::Wear { common } => {
            let binaries = common.binaries(None)?;
            with_interrupt(|interrupted| async move {
                let table = wear::run(&binaries, common.rounds, common.seconds, || interrupted.get()).await?;
                common.finish_table(&binaries, table)
            })
        }
        Command::Dialect { common } => {
            let binaries = common.binaries(None)?;
            with_interrupt(|interrupted| async move {
                let (rounds, seconds) = (common.rounds, common.seconds);
                let table = dialect::run(&binaries, rounds, seconds, || interrupted.get()).await?;
                common.finish_table(&binaries, table)
            })
        }
        Command::Soak { common, minutes } => {
            let binaries = common.binaries(None)?;
            if !(0.1..=100_000.0).contains(&minutes) {
                bail!("--minutes {minutes}: from 0.1 to 100000 are possible");
            }
            with_interrupt(|interrupted| async move {
                let soaked = soak::run(minutes, &binaries, || interrupted.get()).await?;
                let is_flat = soaked.as_ref().is_some_and(|it| it.is_flat);
                common.finish_table(&binaries, soaked.map(|it| it.table))?;
                Ok(if is_flat { ExitCode::SUCCESS } else { ExitCode::from(1) })
            })
        }
        Command::Retained { common, topics } => {
            let binaries = common.binaries(None)?;
            with_interrupt(|interrupted| retained(common, topics, binaries, interrupted))
        }
    }
}

fn chosen(only: &[String], hot: bool) -> anyhow::Result<Vec<&'static Row>> {
    let known = |name: &String| ROWS.iter().any(|row| row.name == *name);
    if let Some(unknown) = only.iter().find(|name| !known(name)) {
        let names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        bail!("--only {unknown}: there are {}", names.join(", "));
    }
    let wanted = |row: &&Row| match only {
        [] => !hot || HOT_ROWS.contains(&row.name),
        only => only.iter().any(|name| name == row.name),
    };
    Ok(ROWS.iter().filter(wanted).collect())
}

/// Whether somebody pressed Ctrl-C.
type Interrupted = Rc<Cell<bool>>;

/// Runs on a runtime that notes Ctrl-C: the load ends early, children are stopped, what is whole is written.
fn with_interrupt<F: Future<Output = anyhow::Result<ExitCode>>>(
    body: impl FnOnce(Interrupted) -> F,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let interrupted = Interrupted::default();
    let noted = Rc::clone(&interrupted);
    let body = body(interrupted);
    let local = tokio::task::LocalSet::new();
    local.spawn_local(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            noted.set(true);
        }
    });
    local.block_on(&runtime, body)
}

/// Measures rows, telling each run and each finding as they come.
async fn find(
    rows: Vec<&'static Row>,
    contest: impl Fn(&'static Row) -> Contest,
    (rounds, times): (u32, Times),
    binaries: &Binaries,
    interrupted: &Interrupted,
) -> anyhow::Result<Vec<compare::Finding>> {
    let mut findings = Vec::new();
    for row in rows {
        eprintln!("{}: {rounds} rounds", row.name);
        let progress = |sample: &load::Sample| {
            eprintln!(
                "  round {} {:9} {:>10.0}/s, CPU {:.3} s/10⁶, p50 {} µs, p99 {} µs, noise {:.0} %",
                sample.round,
                sample.system.name(),
                sample.delivered_per_sec,
                sample.cpu_secs_per_million,
                sample.latency.p50,
                sample.latency.p99,
                sample.noise_percent()
            );
        };
        let stop = || interrupted.get();
        let finding = compare::run(row, contest(row), binaries, rounds, times, progress, stop).await?;
        if let Some(finding) = finding {
            println!("{}", page::table(&finding));
            findings.push(finding);
        }
        if interrupted.get() {
            break;
        }
    }
    Ok(findings)
}

async fn compare(
    common: Common,
    rows: Vec<&'static Row>,
    binaries: Binaries,
    interrupted: Interrupted,
) -> anyhow::Result<ExitCode> {
    let (facts, settings) = common.begin(&binaries);
    let plan = (common.rounds, Times::measured(common.seconds));
    let whole = rows.len() == ROWS.len();
    let findings = find(rows, |row| Contest::of(row, &binaries), plan, &binaries, &interrupted).await?;
    let broken: Vec<String> = findings.iter().flat_map(compare::Finding::broken_by_us).collect();
    let (page, json) = match binaries.before {
        Some(_) => ("before-after.md", "before-after.json"),
        None => ("README.md", "results.json"),
    };
    let whole = whole && findings.len() == ROWS.len();
    common.finish(Results { whole, compare: &findings, ..common.results(&facts, &settings) }, page, json)?;
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn guard(
    common: Common,
    file: PathBuf,
    bless: bool,
    binaries: Binaries,
    interrupted: Interrupted,
) -> anyhow::Result<ExitCode> {
    let (facts, _) = common.begin(&binaries);
    let rows = chosen(&guard::ROWS.map(str::to_owned), false)?;
    let times = Times { warmup_secs: common.seconds.min(0.5), measured_secs: common.seconds };
    let contest = |_| guard::contest();
    let findings = find(rows, contest, (common.rounds, times), &binaries, &interrupted).await?;
    let broken: Vec<String> = findings.iter().flat_map(compare::Finding::broken_by_us).collect();
    broken.iter().for_each(|broken| println!("BROKEN {broken}"));
    if bless && !interrupted.get() {
        guard::Baseline::of(&findings, &facts)?.store(&file)?;
        println!("written to {}", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let baseline = guard::Baseline::load(&file)?;
    if !baseline.is_of(&facts) {
        println!("the baseline is of another machine ({}): twice the allowance", baseline.machine);
    }
    let lines = baseline.judge(&findings, &facts);
    lines.iter().for_each(|line| println!("{}", line.text()));
    let slower = lines.iter().any(|line| line.slower);
    Ok(if slower || !broken.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

async fn durable(
    common: Common,
    publishers: Vec<u32>,
    window: u32,
    binaries: Binaries,
    interrupted: Interrupted,
) -> anyhow::Result<ExitCode> {
    let (facts, settings) = common.begin(&binaries);
    let file_system = machine::file_system(&common.data.clone().unwrap_or_else(std::env::temp_dir));
    if file_system == "tmpfs" {
        eprintln!("bench: the store is on tmpfs, where a sync costs nothing; choose a disk with --data");
    }
    let mut found = Durable { question: durable::question(window, &file_system), groups: Vec::new() };
    println!("\ndurable — {}", found.question);
    for publishers in publishers {
        let stop = || interrupted.get();
        let group = durable::run(publishers, window, &binaries, common.rounds, common.seconds, stop).await?;
        if let Some(group) = group {
            println!("{}", page::durable_lines(&group));
            found.groups.push(group);
        }
        if interrupted.get() {
            break;
        }
    }
    found.target_lines().iter().for_each(|line| println!("  {line}"));
    let lost: u64 = found.groups.iter().map(|group| group.lost).sum();
    let durable = (!found.groups.is_empty()).then_some(&found);
    common.finish(Results { durable, ..common.results(&facts, &settings) }, "durable.md", "durable.json")?;
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn idle(
    common: Common,
    connections: u32,
    binaries: Binaries,
    interrupted: Interrupted,
) -> anyhow::Result<ExitCode> {
    let (facts, settings) = common.begin(&binaries);
    let mut systems = vec![System::Millrace];
    systems.extend(binaries.mosquitto.is_some().then_some(System::Mosquitto));
    let mut found = Vec::new();
    for system in systems {
        let idle = idle::run(system, connections, &binaries, common.rounds, common.seconds).await?;
        if interrupted.get() {
            break;
        }
        if let Some(idle) = idle {
            println!("{}", page::idle_lines(&idle));
            idle.target_lines().iter().for_each(|line| println!("  {line}"));
            found.push(idle);
        }
    }
    common.finish(Results { idle: &found, ..common.results(&facts, &settings) }, "idle.md", "idle.json")?;
    Ok(ExitCode::SUCCESS)
}

async fn retained(
    common: Common,
    topics: u32,
    binaries: Binaries,
    interrupted: Interrupted,
) -> anyhow::Result<ExitCode> {
    let (facts, settings) = common.begin(&binaries);
    let mut found = Vec::new();
    for system in retained::systems(&binaries) {
        let row = retained::run(system, topics, &binaries, common.rounds, || interrupted.get()).await?;
        if interrupted.get() {
            break;
        }
        if let Some(row) = row {
            println!("{}", page::retained_lines(&row));
            found.push(row);
        }
    }
    let lost: u64 = found.iter().map(|row| row.lost).sum();
    common.finish(
        Results { retained: &found, ..common.results(&facts, &settings) },
        "retained.md",
        "retained.json",
    )?;
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn forward(
    common: Common,
    scene: forward::Scene,
    binaries: Binaries,
    interrupted: Interrupted,
) -> anyhow::Result<ExitCode> {
    let (facts, settings) = common.begin(&binaries);
    let mut found = Vec::new();
    for system in [System::Millrace, System::Mosquitto] {
        let row = forward::run(system, scene, &binaries, common.rounds, || interrupted.get()).await?;
        if let Some(row) = row {
            println!("{}", page::forward_lines(&row));
            found.push(row);
        }
        if interrupted.get() {
            break;
        }
    }
    // The peer's losses are findings; ours are failures.
    let lost: u64 = found.iter().filter(|row| row.system == System::Millrace).map(|row| row.lost).sum();
    let results = Results { forward: &found, ..common.results(&facts, &settings) };
    common.finish(results, "forward.md", "forward.json")?;
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn measure_uplinks(
    common: Common,
    plan: uplink::Plan,
    binaries: Binaries,
    interrupted: Interrupted,
) -> anyhow::Result<ExitCode> {
    let (facts, settings) = common.begin(&binaries);
    let found = uplink::run(&plan, &binaries, |line| println!("{line}"), || interrupted.get()).await?;
    let found = uplink::Found { machine: facts.line(), settings, ..found };
    let folder = match &common.out {
        Some(folder) => folder.clone(),
        None => machine::source_root().join("bench/results").join(facts.folder()),
    };
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("uplink.json"), serde_json::to_string_pretty(&found)? + "\n")?;
    std::fs::write(folder.join("uplink.md"), found.page())?;
    println!("written to {}", folder.join("uplink.md").display());
    Ok(ExitCode::SUCCESS)
}

async fn restart(
    common: Common,
    backlog: Vec<u64>,
    binaries: Binaries,
    interrupted: Interrupted,
) -> anyhow::Result<ExitCode> {
    let (facts, settings) = common.begin(&binaries);
    let mut found = Vec::new();
    for mib in backlog {
        let row = restart::run(mib << 20, &binaries, common.rounds, || interrupted.get()).await?;
        if let Some(row) = row {
            println!("{}", page::restart_lines(&row));
            found.push(row);
        }
        if interrupted.get() {
            break;
        }
    }
    let results = Results { restart: &found, ..common.results(&facts, &settings) };
    common.finish(results, "restart.md", "restart.json")?;
    Ok(ExitCode::SUCCESS)
}

impl Common {
    fn binaries(&self, mosquitto: Option<PathBuf>) -> anyhow::Result<Binaries> {
        if !(0.1..=3_600.0).contains(&self.seconds) {
            bail!("--seconds {}: from 0.1 to 3600 are possible", self.seconds);
        }
        Binaries::find(self.millrace.clone(), mosquitto, self.shards, self.data.clone(), self.set.clone())
    }

    fn begin(&self, binaries: &Binaries) -> (Facts, Vec<String>) {
        let (facts, settings) = (Facts::here(), binaries.settings());
        println!("{}", facts.line());
        settings.iter().for_each(|line| println!("{line}"));
        (facts, settings)
    }

    /// Results without any figure yet.
    fn results<'r>(&self, facts: &'r Facts, settings: &'r [String]) -> Results<'r> {
        let Common { rounds, seconds, .. } = *self;
        Results {
            facts,
            settings,
            rounds,
            seconds,
            whole: false,
            compare: &[],
            durable: None,
            idle: &[],
            retained: &[],
            forward: &[],
            restart: &[],
            tables: &[],
        }
    }

    /// Tells what was found, and writes it.
    fn finish_table(&self, binaries: &Binaries, table: Option<page::Table>) -> anyhow::Result<ExitCode> {
        let (facts, settings) = self.begin(binaries);
        let tables: Vec<_> = table.into_iter().collect();
        tables.iter().for_each(|table| println!("{}", table.text()));
        let name = tables.first().map_or("", |table| &table.title);
        let results = Results { tables: &tables, ..self.results(&facts, &settings) };
        self.finish(results, &format!("{name}.md"), &format!("{name}.json"))?;
        Ok(ExitCode::SUCCESS)
    }

    fn finish(&self, results: Results<'_>, readme: &str, json: &str) -> anyhow::Result<()> {
        if results.is_empty() {
            bail!("nothing was measured to the end");
        }
        let folder = match &self.out {
            Some(folder) => folder.clone(),
            None => match std::env::var_os("MILLRACE_RESULTS") {
                Some(folder) => machine::source_root().join(folder),
                None => machine::source_root().join("bench/results").join(results.facts.folder()),
            },
        };
        results.write_to(&folder, json, readme)?;
        println!("written to {}", folder.join(readme).display());
        Ok(())
    }
}
