//! The commands around reports: compare two, draw one, merge several, calibrate, find the knee.
//!
//! In:  files and arguments. Out: text, files, and what it comes to. Never: how figures come about.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::Args;
use loadgen::calibrate::{
    ADDED_P99_MICROS_MAX, Calibration, SPIN_MICROS, Sinks, allow_crowd, calibrate, crowd,
};
use loadgen::compare::compare;
use loadgen::hlog::Interval;
use loadgen::ledger::{Ledger, Rules};
use loadgen::measure::Watch;
use loadgen::report::{Percentiles, Report};
use loadgen::saturate::{Bounds, SaturateError, saturate};
use loadgen::scenario::Scenario;

use crate::{End, write_json};

/// So many connections are to fit into 512 MiB.
const CROWD_TARGET: u32 = 10_000;

#[derive(Args)]
pub(crate) struct CompareArgs {
    /// The report to compare with (JSON of `loadgen run --json`).
    base: PathBuf,
    /// The report to judge.
    new: PathBuf,
    /// Write the comparison as one HTML file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Exit with 1 if anything is worse beyond noise.
    #[arg(long)]
    strict: bool,
}

#[derive(Args)]
pub(crate) struct MergeArgs {
    /// Ledgers of the processes of one run (`loadgen run --ledger`).
    #[arg(long, value_name = "FILE", required = true)]
    ledger: Vec<PathBuf>,
    /// Their histogram logs (`loadgen run --hlog`).
    #[arg(long, value_name = "FILE")]
    hlog: Vec<PathBuf>,
    /// Write the merged histogram log to this file.
    #[arg(long, value_name = "FILE")]
    out_hlog: Option<PathBuf>,
    /// Loss at QoS 0 is a broken promise.
    #[arg(long)]
    expect_qos0: bool,
}

#[derive(Args)]
pub(crate) struct CalibrateArgs {
    /// Length of each of its runs, in seconds.
    #[arg(long, value_name = "SECS", default_value_t = 3.0)]
    duration: f64,
    /// Connections whose memory is measured; 0 measures none.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    connections: u32,
    /// Write what was found as JSON to this file, for `loadgen run --calibration`, instead of where every run on this
    /// machine finds it.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct SaturateArgs {
    /// Scenario file (TOML); its rate is what is searched.
    scenario: PathBuf,
    /// Broker, instead of the scenario's.
    #[arg(long)]
    url: Option<String>,
    /// Override a key. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Length of one step in seconds, instead of the scenario's.
    #[arg(long, value_name = "SECS", default_value_t = 3.0)]
    duration: f64,
    /// Messages a second in all, of the first step.
    #[arg(long, value_name = "RATE", default_value_t = 1_000.0)]
    from: f64,
    /// A step with a higher p99 is beyond the knee.
    #[arg(long, value_name = "MICROS", default_value_t = 10_000)]
    p99_max_micros: u64,
    /// A step that loses more is beyond the knee.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    loss_max_percent: f64,
    /// How close good and bad must come, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    precision: f64,
    /// Write all steps as JSON to this file; - is standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write all steps as one HTML file, with plots.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Process id of the broker.
    #[arg(long, value_name = "PID")]
    broker_pid: Option<u32>,
}

impl SaturateArgs {
    fn scenario_name(&self) -> String {
        self.scenario.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }
}

/// Reads a report that `loadgen run --json` has written.
pub(crate) fn read_report(file: &Path) -> anyhow::Result<Report> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report of this version", file.display()))
}

pub(crate) fn compare_reports(args: &CompareArgs) -> End {
    let name =
        |file: &Path| file.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let compared = (|| {
        let (base, new) = (read_report(&args.base)?, read_report(&args.new)?);
        let compared = compare(&base, &new, (&name(&args.base), &name(&args.new)));
        if let Some(file) = &args.html {
            write(file, loadgen::html::comparison(&compared).as_bytes())?;
        }
        anyhow::Ok(compared)
    })();
    match compared {
        Ok(compared) => {
            print!("{}", compared.text());
            let worse = compared.lines.iter().any(|line| line.finding() == "WORSE");
            if args.strict && worse { End::Broken } else { End::Kept }
        }
        Err(error) => End::BadConfiguration(error),
    }
}

/// Draws a report that was written before.
pub(crate) fn draw(report: &Path, html: &Path) -> End {
    match read_report(report).and_then(|report| write(html, loadgen::html::page(&report).as_bytes())) {
        Ok(()) => End::Kept,
        Err(error) => End::BadConfiguration(error),
    }
}

pub(crate) fn write(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
}

pub(crate) fn write_hlog(file: &Path, comment: &str, intervals: &[Interval]) -> anyhow::Result<()> {
    let mut out = Vec::new();
    loadgen::hlog::write(&mut out, comment, intervals)?;
    write(file, &out)
}

/// Several processes of one run (the same `run.id`) become one verdict and one histogram.
pub(crate) fn merge(args: &MergeArgs) -> End {
    let merged = (|| {
        let mut ledger = Ledger::new();
        for file in &args.ledger {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let part: Ledger =
                serde_json::from_str(&text).with_context(|| format!("{} is no ledger", file.display()))?;
            ledger.merge(&part);
        }
        let mut intervals = Vec::new();
        for file in &args.hlog {
            let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            intervals.extend(loadgen::hlog::read(&bytes).with_context(|| file.display().to_string())?);
        }
        intervals.sort_by_key(|interval| interval.at);
        if let Some(file) = &args.out_hlog {
            write_hlog(file, "merged", &intervals)?;
        }
        let latency = Percentiles::of(&loadgen::hlog::total(&intervals)?);
        anyhow::Ok((ledger.verdict(Rules { expect_qos0: args.expect_qos0, ..Rules::default() }), latency))
    })();
    match merged {
        Ok((verdict, latency)) => {
            println!(
                "sent {}, acknowledged {}, arrived {} of {}, lost {}, lost at QoS 0 {}, out of order {}",
                verdict.sent,
                verdict.acked,
                verdict.arrived,
                verdict.expected,
                verdict.lost,
                verdict.lost_qos0,
                verdict.out_of_order
            );
            if latency.count > 0 {
                let Percentiles { p50, p99, p999, p9999, max, .. } = latency;
                println!("latency p50 {p50} µs, p99 {p99}, p99.9 {p999}, p99.99 {p9999}, max {max}");
            }
            verdict.broken.iter().for_each(|broken| println!("BROKEN {broken}"));
            if verdict.kept() { End::Kept } else { End::Broken }
        }
        Err(error) => End::BadConfiguration(error),
    }
}

/// A null sink in a process of its own, gone when dropped.
struct NullProcess(std::process::Child);

impl NullProcess {
    fn start(spin_micros: u64) -> anyhow::Result<(NullProcess, String)> {
        let own = std::env::current_exe().context("our own binary cannot be found")?;
        let mut child = Command::new(own)
            .args(["null", "--listen", "127.0.0.1:0", "--spin-micros", &spin_micros.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("the null sink does not start")?;
        let out = child.stdout.take().context("the null sink has no output")?;
        let process = NullProcess(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address = line.strip_prefix("null sink on ").and_then(|rest| rest.split(',').next());
        match address {
            Some(address) => Ok((process, format!("mqtt://{address}"))),
            None => bail!("the null sink did not say where it listens"),
        }
    }
}

impl Drop for NullProcess {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub(crate) async fn calibrate_here(args: CalibrateArgs) -> End {
    allow_crowd(args.connections);
    let started = NullProcess::start(0).and_then(|asleep| Ok((asleep, NullProcess::start(SPIN_MICROS)?)));
    let ((_asleep, url), (_awake, awake)) = match started {
        Ok(started) => started,
        Err(error) => return End::NoRun(error),
    };
    let mut found = match calibrate(Sinks { asleep: &url, awake: &awake }, args.duration).await {
        Ok(found) => found,
        Err(error) => return End::NoRun(error.into()),
    };
    let mut gathered = None;
    if args.connections > 0 {
        gathered = Some(crowd(&url, args.duration, args.connections).await);
    }
    if let Some(Ok(crowd)) = &gathered {
        found.crowd = Some(*crowd);
    }
    print!("{}", found.text());
    let mut targets = vec![
        ("≥ 3 000 000 messages per CPU second, published", found.published_per_cpu_sec >= 3e6),
        (
            "p99 through the null sink < 200 µs at 20 000 /s, awake",
            found.latency_micros.p99 < ADDED_P99_MICROS_MAX,
        ),
    ];
    if let Some(crowd) = found.crowd.filter(|crowd| crowd.connections >= CROWD_TARGET) {
        targets.push(("10 000 connections within 512 MiB", crowd.rss_bytes <= 512 << 20));
    }
    for (target, reached) in targets {
        println!("  target    {target}: {}", if reached { "reached" } else { "MISSED" });
    }
    if let Some(share) = found.share_of_the_machine() {
        println!("  note      {share}");
    }
    if let Err(error) = keep(&found, args.json.as_deref()) {
        return End::NoRun(error);
    }
    match gathered {
        Some(Err(error)) => {
            End::NoRun(anyhow::Error::new(error).context("the connections were not measured"))
        }
        _ if !found.valid => End::NoRun(anyhow::anyhow!("the machine was too busy: calibrate again")),
        _ => End::Kept,
    }
}

/// Where every run on this machine looks for a calibration; `None` for somebody without a home.
fn calibration_file() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    Some(folder.or_else(home)?.join("loadgen").join("calibration.json"))
}

fn keep(found: &Calibration, file: Option<&Path>) -> anyhow::Result<()> {
    if let Some(file) = file {
        return write_json(found, file);
    }
    let Some(file) = calibration_file() else { return Ok(()) };
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    write_json(found, &file)?;
    println!("  written   {}", file.display());
    Ok(())
}

/// What stands in a report: the calibration of this file, or the one that this version made on this machine, if it did.
pub(crate) fn calibration(file: Option<&Path>) -> anyhow::Result<Option<Calibration>> {
    if let Some(file) = file {
        return read_calibration(file).map(Some);
    }
    // One that is of another version or machine, or that nobody made, is none.
    let found = calibration_file().and_then(|file| read_calibration(&file).ok());
    Ok(found.filter(Calibration::is_of_here))
}

fn read_calibration(file: &Path) -> anyhow::Result<Calibration> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no calibration", file.display()))
}

pub(crate) async fn find_knee(args: SaturateArgs) -> End {
    let bounds = Bounds {
        p99_micros: args.p99_max_micros,
        loss_percent: args.loss_max_percent,
        precision: args.precision / 100.0,
    };
    let make = |rate: f64| {
        let mut overrides = args.set.clone();
        overrides.extend(args.url.iter().map(|url| format!("url=\"{url}\"")));
        overrides.push(format!("run.duration_secs={}", args.duration));
        overrides.push(format!("publishers.rate_total={rate}"));
        Scenario::load(&args.scenario, &overrides)
    };
    let watch = Watch { broker: args.broker_pid, metrics: None };
    let quiet = args.json.as_deref() == Some(Path::new("-"));
    let each = |step: &loadgen::saturate::Step| {
        if !quiet {
            println!("{}", step.text());
        }
    };
    let knee = match saturate(make, watch, args.from, bounds, each).await {
        Ok(knee) => knee,
        Err(error @ SaturateError::Scenario(_)) => return End::BadConfiguration(error.into()),
        Err(error @ SaturateError::Run(_)) => return End::NoRun(error.into()),
    };
    if let Some(file) = &args.json
        && let Err(error) = write_json(&knee, file)
    {
        return End::NoRun(error);
    }
    if let Some(file) = &args.html
        && let Err(error) = write(file, loadgen::html::knee(&knee, &args.scenario_name()).as_bytes())
    {
        return End::NoRun(error);
    }
    if let Some(error) = &knee.failed {
        return End::NoRun(anyhow::anyhow!("step {} did not come about: {error}", knee.steps.len() + 1));
    }
    match knee.rate {
        None => End::NoRun(anyhow::anyhow!("even the lowest rate was beyond the bounds")),
        Some(rate) => {
            if !quiet {
                println!("knee: {rate:.0} messages a second within p99 ≤ {} µs", bounds.p99_micros);
                if knee.own_limit {
                    println!("note: the generator gave up first: the broker may take more");
                }
            }
            End::Kept
        }
    }
}
