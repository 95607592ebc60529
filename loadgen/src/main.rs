//! The command line: reads arguments, prints, and turns findings into exit codes.
//!
//! Exit codes: 0 all promises kept · 1 a promise was broken · 2 bad configuration · 3 no valid run came about.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use loadgen::hlog::Interval;
use loadgen::measure::{Watch, Watcher, measure_closely};
use loadgen::null::{Manners, NullBroker};
use loadgen::quickstart::{self, Ending, Options, Outage, QuickstartError};
use loadgen::report::Second;
use loadgen::scenario::Scenario;
use loadgen::wan::{Line, Wan};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

mod cli;

use cli::broker::{BrokerArgs, Upstream};
use cli::processes::{self, Word};
use cli::reports::{self, CalibrateArgs, CompareArgs, MergeArgs, SaturateArgs};
use cli::table::Table;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Open-loop MQTT load with a ledger of what was sent and what arrived.
#[derive(Parser)]
#[command(name = "loadgen", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a scenario against a broker, measure it and judge it.
    Run(RunArgs),
    /// Put two reports beside each other: what changed, and whether it is more than noise.
    Compare(CompareArgs),
    /// Draw a report (JSON) as one HTML file.
    Html {
        /// What `loadgen run --json` has written.
        report: PathBuf,
        /// Where the page goes.
        html: PathBuf,
    },
    /// Make one verdict and one histogram of several processes of one run (the same run.id).
    Merge(MergeArgs),
    /// What this generator can do on this machine, and what it adds, against its own null sink.
    Calibrate(CalibrateArgs),
    /// Ramp the rate until p99 or loss breaks a bound, and report the knee.
    Saturate(SaturateArgs),
    /// Read scenarios and say what is wrong with them.
    Check {
        /// Scenario files.
        #[arg(required = true)]
        scenarios: Vec<PathBuf>,
    },
    /// A TCP forwarder that fails on command: `down`, `up`, `blackhole`, `status`, `quit` on standard input, or
    /// SIGUSR1 (down) and SIGUSR2 (up).
    Wan {
        /// Where to listen; port 0 takes a free one.
        #[arg(long)]
        listen: String,
        /// Where to forward to: HOST:PORT.
        #[arg(long)]
        to: String,
    },
    /// A plant, a WAN that can be cut, a gateway and a fleet of devices on this machine, with a live view.
    Quickstart(QuickstartArgs),
    /// Write a [routes] table of rules that ask every body and do not match: what do they cost a router?
    Rules {
        /// How many.
        count: u32,
    },
    /// A null sink: forwards by topic and does nothing else. For proving what this generator itself can do.
    Null {
        /// Where to listen; port 0 takes a free one.
        #[arg(long, default_value = "127.0.0.1:1884")]
        listen: String,
        /// Refuse publications to topics that match this filter, every time.
        #[arg(long, value_name = "FILTER", value_parser = topic_filter)]
        refuse: Option<model::TopicFilter>,
        /// Take so many publications a second from each connection.
        #[arg(long, value_name = "COUNT")]
        per_second: Option<f64>,
        /// Do not sleep until so long after the last publication: for calibration, where its sleep would count.
        #[arg(long, value_name = "MICROS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
        spin_micros: u64,
    },
}

fn topic_filter(text: &str) -> Result<model::TopicFilter, model::InvalidTopic> {
    model::TopicFilter::new(text)
}

#[derive(Args)]
struct RunArgs {
    /// Scenario file (TOML).
    scenario: PathBuf,
    /// Broker, instead of the scenario's: mqtt://HOST:PORT.
    #[arg(long)]
    url: Option<String>,
    /// Override a key: publishers.count=10. Repeatable, the last one wins.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Length of the measured interval in seconds, instead of the scenario's.
    #[arg(long, value_name = "SECS")]
    duration: Option<f64>,
    /// Write the report as JSON to this file; - is standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as one HTML file, with plots.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the latencies of each second as an HDR histogram log.
    #[arg(long, value_name = "FILE")]
    hlog: Option<PathBuf>,
    /// What `loadgen calibrate --json` has written: it stands in the report.
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Where the broker tells its metrics (HOST:PORT with /metrics), for its syncs per message.
    #[arg(long, value_name = "ADDR", requires = "broker_pid")]
    broker_metrics: Option<std::net::SocketAddr>,
    /// Write the ledger (ranges sent, acknowledged, arrived) as JSON to this file.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Process id of the broker, to measure its CPU, memory and context switches.
    #[arg(long, value_name = "PID")]
    broker_pid: Option<u32>,
    /// Trace how often the broker waits for its storage, for one that does not tell: needs perf and the right to trace.
    #[arg(long)]
    count_syncs: bool,
    /// Divide the connections among so many processes.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: u32,
    #[command(flatten)]
    broker: BrokerArgs,
    /// No line per second.
    #[arg(long)]
    quiet: bool,
    /// Be one of several processes, and speak to the first.
    #[arg(long, hide = true)]
    as_part: bool,
}

#[derive(Args)]
struct QuickstartArgs {
    /// The millrace binary.
    #[arg(long, value_name = "PATH")]
    millrace: PathBuf,
    /// Where the gateway listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1883")]
    gateway_bind: String,
    /// Where stores and logs go.
    #[arg(long, value_name = "FOLDER", default_value = "./data")]
    data: PathBuf,
    /// Stop after so many seconds.
    #[arg(long, value_name = "SECS")]
    duration: Option<f64>,
    /// One line a second instead of a picture, and no keys.
    #[arg(long)]
    no_tty: bool,
    /// Cut the WAN after AT seconds for FOR seconds. Repeatable.
    #[arg(long, value_name = "AT:FOR")]
    outage: Vec<Outage>,
    /// Devices in the fleet.
    #[arg(long, default_value_t = 20)]
    devices: u32,
    /// Messages a second and device.
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// A key of the gateway's configuration. Repeatable.
    #[arg(long = "gateway-set", value_name = "KEY=VALUE")]
    gateway_set: Vec<String>,
    /// Write the referee's findings as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What a command comes to.
enum End {
    Kept,
    Broken,
    BadConfiguration(anyhow::Error),
    NoRun(anyhow::Error),
}

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("loadgen: cannot start: {error}");
            return ExitCode::from(3);
        }
    };
    let end = runtime.block_on(async {
        match Cli::parse().command {
            Command::Run(args) => run(args).await,
            Command::Compare(args) => reports::compare_reports(&args),
            Command::Html { report, html } => reports::draw(&report, &html),
            Command::Merge(args) => reports::merge(&args),
            Command::Calibrate(args) => reports::calibrate_here(args).await,
            Command::Saturate(args) => reports::find_knee(args).await,
            Command::Check { scenarios } => check(&scenarios),
            Command::Wan { listen, to } => wan(&listen, &to).await,
            Command::Quickstart(args) => quickstart(args).await,
            Command::Null { listen, refuse, per_second, spin_micros } => {
                let spin = Duration::from_micros(spin_micros);
                null(&listen, Manners { refuse, per_second, spin }).await
            }
            Command::Rules { count } => rules(count),
        }
    });
    match end {
        End::Kept => ExitCode::SUCCESS,
        End::Broken => ExitCode::from(1),
        End::BadConfiguration(error) => fail(2, &error),
        End::NoRun(error) => fail(3, &error),
    }
}

fn fail(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("loadgen: {error:#}");
    ExitCode::from(code)
}

async fn run(args: RunArgs) -> End {
    let mut overrides = args.set;
    if let Some(url) = args.url {
        overrides.push(format!("url=\"{url}\""));
    }
    if let Some(duration) = args.duration {
        overrides.push(format!("run.duration_secs={duration}"));
    }
    let scenario = match Scenario::load(&args.scenario, &overrides) {
        Ok(scenario) => scenario,
        Err(error) => return End::BadConfiguration(error.into()),
    };
    // One upstream for all processes of a run.
    let is_whole = scenario.run.part == (0, 1);
    let upstream = match scenario.upstream.as_ref().filter(|_| is_whole).map(Upstream::start).transpose() {
        Ok(upstream) => upstream,
        Err(error) => return End::BadConfiguration(error),
    };
    let broker = match args.broker.start(&scenario) {
        Ok(broker) => broker,
        Err(error) => return End::NoRun(error),
    };
    // A killed broker is another process afterwards: what the first one used says nothing.
    let own_pid = broker.as_ref().filter(|_| !args.broker.kills()).map(cli::broker::Broker::pid);
    let broker_pid = args.broker_pid.or(own_pid);
    if let Some(pid) = args.broker_pid
        && let Err(error) = loadgen::process::Sample::of(pid)
    {
        return End::BadConfiguration(anyhow::anyhow!("--broker-pid: {error}"));
    }
    if args.count_syncs && broker_pid.is_none() {
        return End::BadConfiguration(anyhow::anyhow!(
            "--count-syncs: whose? Give --broker-pid, or --broker-command without --kill-at"
        ));
    }
    let calibration = match reports::calibration(args.calibration.as_deref()) {
        Ok(calibration) => calibration,
        Err(error) => return End::BadConfiguration(error),
    };
    let watch = Watch { broker: broker_pid, metrics: args.broker_metrics };
    let watcher = match Watcher::start(watch, args.count_syncs) {
        Ok(watcher) => watcher,
        Err(error) => return End::BadConfiguration(error.into()),
    };
    if args.as_part {
        return run_part(scenario, &watcher).await;
    }
    let mut table = Table::new(&scenario, args.processes);
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let show = |second: &Second| {
        if !args.quiet && !to_stdout {
            table.print(second);
        }
    };
    let measured = if args.processes > 1 {
        let (file, overrides, processes) = (&args.scenario, &overrides, args.processes);
        let plan = processes::Plan { file, overrides, scenario: &scenario, processes };
        processes::run(&plan, &watcher, broker_pid, show).await
    } else {
        let mut show = show;
        match measure_closely(scenario, &watcher, |second, _| show(second)).await {
            Ok(report) => Ok(report),
            Err(error) if error.is_of_the_scenario() => return End::BadConfiguration(error.into()),
            Err(error) => Err(error.into()),
        }
    };
    let report = match measured {
        Ok(report) => loadgen::report::Report { calibration, ..report },
        Err(error) => return End::NoRun(error),
    };
    if !to_stdout {
        print!("{}", report.text());
        upstream.iter().for_each(|upstream| println!("{}", upstream.line()));
    }
    let json = args.json.as_ref().map(|file| write_json(&report, file));
    let ledger = args.ledger.as_ref().map(|file| write_json(&report.ledger, file));
    let html = args.html.as_ref().map(|file| reports::write(file, loadgen::html::page(&report).as_bytes()));
    let hlog = args.hlog.as_ref().map(|file| reports::write_hlog(file, &report.scenario, &report.intervals));
    for written in [json, ledger, html, hlog].into_iter().flatten() {
        if let Err(error) = written {
            return End::NoRun(error);
        }
    }
    match (report.kept(), report.valid) {
        (false, _) => End::Broken,
        (true, false) => End::NoRun(anyhow::anyhow!("the run is not valid: {}", report.remarks.join("; "))),
        (true, true) => End::Kept,
    }
}

/// One of several processes: it tells its seconds, and then everything, to whom it may concern.
async fn run_part(scenario: Scenario, watcher: &Watcher) -> End {
    let told = |second: &Second, interval: Option<&Interval>| {
        // If nobody listens any more, the last line finds out.
        Word::Second(Box::new((*second, interval.cloned()))).print().ok();
    };
    match measure_closely(scenario, watcher, told).await {
        Ok(report) => match Word::Whole(Box::new(report.into())).print() {
            // What it comes to is judged over all parts.
            Ok(()) => End::Kept,
            Err(error) => End::NoRun(error),
        },
        Err(error) => End::NoRun(error.into()),
    }
}

fn write_json(report: &impl serde::Serialize, file: &Path) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    if file == Path::new("-") {
        println!("{text}");
        return Ok(());
    }
    std::fs::write(file, text).map_err(|error| anyhow::anyhow!("cannot write {}: {error}", file.display()))
}

fn check(scenarios: &[PathBuf]) -> End {
    for file in scenarios {
        match Scenario::load(file, &[]) {
            Ok(scenario) => println!("{}: {}", file.display(), scenario.description),
            Err(error) => return End::BadConfiguration(error.into()),
        }
    }
    End::Kept
}

async fn quickstart(args: QuickstartArgs) -> End {
    let duration = match args.duration.map(Duration::try_from_secs_f64).transpose() {
        Ok(duration) => duration,
        Err(error) => return End::BadConfiguration(anyhow::anyhow!("--duration: {error}")),
    };
    let on_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let options = Options {
        millrace: args.millrace,
        gateway_bind: args.gateway_bind,
        data: args.data.clone(),
        duration,
        terminal: on_terminal && !args.no_tty,
        outages: args.outage,
        fleet: vec![format!("publishers.count={}", args.devices), format!("publishers.rate={}", args.rate)],
        gateway_set: args.gateway_set,
    };
    let ending = match quickstart::conduct(options).await {
        Ok(ending) => ending,
        Err(
            error @ (QuickstartError::PortTaken { .. }
            | QuickstartError::Data { .. }
            | QuickstartError::Scenario(_)),
        ) => {
            return End::BadConfiguration(error.into());
        }
        Err(error) => return End::NoRun(error.into()),
    };
    print_ending(&ending, &args.data);
    if let Some(file) = &args.json
        && let Err(error) = write_json(&ending.verdict, file)
    {
        return End::NoRun(error);
    }
    if ending.is_good() { End::Kept } else { End::Broken }
}

fn print_ending(ending: &Ending, data: &Path) {
    let verdict = &ending.verdict;
    println!("\nledger");
    for (name, number) in [
        ("sent by the fleet", verdict.sent),
        ("acknowledged by the gateway", verdict.acked),
        ("arrived upstream", verdict.arrived),
        ("lost", verdict.lost),
        ("duplicated (allowed at QoS 1)", verdict.duplicates),
        ("out of order", verdict.out_of_order),
        ("corrupt", verdict.corrupt),
    ] {
        println!("  {name:<32}{number:>12}");
    }
    if verdict.unacknowledged > 0 {
        println!("  {:<32}{:>12}", "never acknowledged, not arrived", verdict.unacknowledged);
    }
    for line in
        verdict.broken.iter().map(|broken| format!("BROKEN: {broken}")).chain(verdict.examples.clone())
    {
        println!("  {line}");
    }
    if verdict.lost > 0 && ending.left_in_lanes > 0 {
        println!(
            "  {} messages were still on the gateway's disk when we stopped waiting; they are kept in {} \
             and leave at the next start",
            ending.left_in_lanes,
            data.display()
        );
    }
    for complaint in &ending.complaints {
        println!("  {complaint}");
    }
    if ending.is_good() {
        println!("  every acknowledged message arrived, in order");
    }
}

async fn wan(listen: &str, to: &str) -> End {
    let started = async {
        let signals = (signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?);
        Ok::<_, std::io::Error>((Wan::start(listen, to).await?, signals))
    };
    let (wan, (mut down, mut up)) = match started.await {
        Ok(started) => started,
        Err(error) => return End::BadConfiguration(anyhow::anyhow!("--listen {listen}: {error}")),
    };
    println!("wan on {}, to {to}, pid {}", wan.address(), std::process::id());
    let mut commands = stdin_lines();
    let mut commanded = true;
    let mut stop = std::pin::pin!(stop_signal());
    loop {
        let line = tokio::select! {
            _ = down.recv() => Line::Down,
            _ = up.recv() => Line::Up,
            () = &mut stop => return End::Kept,
            command = commands.recv(), if commanded => match command.as_deref().map(str::trim) {
                Some("up") => Line::Up,
                Some("down") => Line::Down,
                Some("blackhole") => Line::Blackhole,
                Some("status") => {
                    let traffic = wan.traffic();
                    println!(
                        "{} connections={} bytes_out={} bytes_back={}",
                        wan.line(), traffic.connections, traffic.bytes_out, traffic.bytes_back
                    );
                    continue;
                }
                Some("quit") => return End::Kept,
                Some(other) => {
                    println!("unknown: {other}; up, down, blackhole, status and quit are known");
                    continue;
                }
                // No more commands: signals remain.
                None => {
                    commanded = false;
                    continue;
                }
            },
        };
        wan.set(line);
        println!("{line}");
    }
}

/// Ready when the process shall end.
async fn stop_signal() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// The lines of standard input. The reading thread ends with the process: a read of a terminal cannot be called off.
fn stdin_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(16);
    let reading = move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("commands".to_owned()).spawn(reading) {
        eprintln!("loadgen: no commands on standard input: {error}; signals work");
    }
    lines
}

fn rules(count: u32) -> End {
    println!("[routes]");
    for number in 1..=count {
        // Above what telemetry walks to, each with a threshold of its own.
        let threshold = 1_000 + number;
        println!("rule{number} = 'FROM /messages/* WHERE $body.temperature > {threshold} INTO $upstream'");
    }
    End::Kept
}

async fn null(listen: &str, manners: Manners) -> End {
    if manners.per_second.is_some_and(|rate| !(0.1..=1e7).contains(&rate)) {
        return End::BadConfiguration(anyhow::anyhow!("--per-second: from 0.1 to 10000000 are possible"));
    }
    let broker = match NullBroker::bind(listen).await {
        Ok(broker) => broker.behaving(manners),
        Err(error) => return End::BadConfiguration(anyhow::anyhow!("--listen {listen}: {error}")),
    };
    println!("null sink on {}, pid {}; Ctrl-C ends it", broker.address(), std::process::id());
    tokio::select! {
        () = broker.serve() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    End::Kept
}
