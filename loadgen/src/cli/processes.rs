//! One run in several processes: each has a part of the connections, and one report is made of all.
//!
//! In:  the arguments of a run and a number. Out: a [`Report`] as of one process, and its seconds as they pass. How: the same
//! binary again with the same `run.id`, a part, and a common time to begin. Each tells its seconds and then everything it
//! knows, a line of JSON each, on its standard output; the broker is watched here, once.
//! A part that ends without its last line is missed: the report has the others and is not valid.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use loadgen::clock::{Clock, Micros};
use loadgen::hlog::Interval;
use loadgen::measure::Watcher;
use loadgen::process::Sample;
use loadgen::report::{BrokerSecond, Part, Percentiles, Report, Second, merge, number_of};
use loadgen::scenario::Scenario;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Connections that a process is trusted to open in a second, before the load begins.
const CONNECTS_PER_SEC: u32 = 1_000;

/// Lines that wait for us.
const LINES_MAX: usize = 64;

/// How often we look at the clock.
const LOOK: Duration = Duration::from_millis(10);

/// What a part says.
#[derive(Serialize, Deserialize)]
pub(crate) enum Word {
    /// A second has passed.
    Second(Box<(Second, Option<Interval>)>),
    /// The run is over, and this is all.
    Whole(Box<Part>),
}

impl Word {
    /// Says it, as a part does.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        println!("{}", serde_json::to_string(self)?);
        Ok(())
    }
}

/// Whose run it is, and how it was given.
pub(crate) struct Plan<'a> {
    pub(crate) file: &'a Path,
    pub(crate) overrides: &'a [String],
    pub(crate) scenario: &'a Scenario,
    pub(crate) processes: u32,
}

/// A part, gone when dropped.
struct Member {
    child: Child,
    /// The number of the last second that it told.
    told: u64,
    whole: Option<Part>,
    over: bool,
}

impl Drop for Member {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs all parts. `each_second` is told the sums as soon as every part has told its own.
pub(crate) async fn run(
    plan: &Plan<'_>,
    watcher: &Watcher,
    broker: Option<u32>,
    mut each_second: impl FnMut(&Second),
) -> anyhow::Result<Report> {
    let clock = Clock::start();
    let now = clock.now();
    let scenario = plan.scenario;
    let connections = scenario.publishers.as_ref().map_or(0, |it| it.count)
        + scenario.subscribers.as_ref().map_or(0, |it| it.count);
    let start = now.plus(Duration::from_secs(2 + u64::from(connections / CONNECTS_PER_SEC)));
    let (tell, mut lines) = mpsc::channel(LINES_MAX);
    let mut members = Vec::new();
    for part in 1..=plan.processes {
        members.push(start_part(plan, part, start, tell.clone())?);
    }
    drop(tell);
    let from = start.plus(scenario.run.warmup);
    let to = from.plus(scenario.run.duration);
    let (mut before, mut after) = (None, None);
    let mut seconds = Seconds::new(broker);
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut interrupted = false;
    loop {
        let line = tokio::select! {
            line = lines.recv() => match line {
                Some(line) => Some(line),
                None => break,
            },
            // The terminal has told the parts as well, which end early and say so.
            _ = &mut interrupt, if !interrupted => {
                interrupted = true;
                None
            }
            () = tokio::time::sleep(LOOK) => None,
        };
        let now = clock.now();
        if before.is_none() && now >= from {
            before = watcher.sample();
        }
        if after.is_none() && now >= to {
            after = watcher.sample();
        }
        match line {
            Some((part, Some(Word::Second(said)))) => {
                let (second, interval) = *said;
                let member = &mut members[part as usize - 1];
                member.told = number_of(member.told, &second);
                seconds.add(member.told, &second, interval);
            }
            Some((part, Some(Word::Whole(whole)))) => members[part as usize - 1].whole = Some(*whole),
            Some((part, None)) => members[part as usize - 1].over = true,
            None => {}
        }
        let told_by_all = members.iter().filter(|it| !it.over).map(|it| it.told).min().unwrap_or(u64::MAX);
        seconds.take(told_by_all, now, &mut each_second);
    }
    let after = after.or_else(|| watcher.sample());
    let (mut parts, mut missed) = (Vec::new(), Vec::new());
    for (at, member) in members.iter_mut().enumerate() {
        let number = at as u32 + 1;
        match member.whole.take() {
            Some(whole) => parts.push((number, whole)),
            None => missed.push(missing(number, plan.processes, &mut member.child)?),
        }
    }
    let Some(mut report) = merge(parts, start, scenario.run.rules, &seconds.broker) else {
        bail!("{}", missed.join("; "));
    };
    report.valid &= missed.is_empty();
    report.remarks.extend(missed.into_iter().map(|text| format!("INVALID: {text}")));
    report.broker = after.zip(before).map(|(after, before)| after.since(&before, report.measured.arrived));
    report.processes = plan.processes;
    Ok(report)
}

fn start_part(
    plan: &Plan<'_>,
    part: u32,
    start: Micros,
    tell: mpsc::Sender<(u32, Option<Word>)>,
) -> anyhow::Result<Member> {
    let own = std::env::current_exe().context("our own binary cannot be found")?;
    let mut command = Command::new(own);
    command.arg("run").arg(plan.file).arg("--as-part");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for set in plan.overrides {
        command.args(["--set", set]);
    }
    command.args(["--set", &format!("run.part={part}/{}", plan.processes)]);
    command.args(["--set", &format!("run.id={}", (start.0 as u32).max(1))]);
    command.args(["--set", &format!("run.begin_at_micros={}", start.0)]);
    let mut child = command.spawn().context("a part does not start")?;
    let out = child.stdout.take().context("a part has no output")?;
    std::thread::Builder::new().name(format!("part-{part}")).spawn(move || {
        let lines = BufReader::new(out).lines().map_while(Result::ok);
        for line in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
            // Nobody listens any more only if the run was given up.
            if tell.blocking_send((part, Some(line))).is_err() {
                return;
            }
        }
        tell.blocking_send((part, None)).ok();
    })?;
    Ok(Member { child, told: 0, whole: None, over: false })
}

/// Why a part has not said everything.
fn missing(number: u32, processes: u32, child: &mut Child) -> anyhow::Result<String> {
    let status = child.wait()?;
    let mut said = String::new();
    if let Some(mut errors) = child.stderr.take() {
        errors.read_to_string(&mut said)?;
    }
    let why = said.trim().trim_start_matches("loadgen: ").to_owned();
    let why = if why.is_empty() { "it said nothing".to_owned() } else { why };
    Ok(format!("process {number} of {processes} ended with {status}, and what it saw is missing: {why}"))
}

/// Seconds that not all parts have told yet, and what the broker did meanwhile.
struct Seconds {
    waiting: VecDeque<(u64, Second, Option<Histogram<u64>>)>,
    pid: Option<u32>,
    last: Option<(Micros, f64)>,
    broker: BTreeMap<u64, BrokerSecond>,
}

impl Seconds {
    fn new(pid: Option<u32>) -> Seconds {
        Seconds { waiting: VecDeque::new(), pid, last: None, broker: BTreeMap::new() }
    }

    fn add(&mut self, number: u64, second: &Second, interval: Option<Interval>) {
        let values = interval.map(|interval| interval.values());
        let at = self.waiting.partition_point(|(other, ..)| *other < number);
        match self.waiting.get_mut(at) {
            Some((other, sum, latencies)) if *other == number => {
                sum.add(second);
                match (latencies, values) {
                    (Some(sum), Some(values)) => {
                        sum.add(values).expect("all histograms have the same bounds");
                    }
                    (none, values) => *none = none.take().or(values),
                }
            }
            _ => self.waiting.insert(at, (number, *second, values)),
        }
    }

    /// Hands on what every part has told.
    fn take(&mut self, told_by_all: u64, now: Micros, each_second: &mut impl FnMut(&Second)) {
        while self.waiting.front().is_some_and(|(number, ..)| *number <= told_by_all) {
            let Some((number, mut second, values)) = self.waiting.pop_front() else { return };
            second.latency = values.as_ref().map_or_else(Percentiles::default, Percentiles::of);
            if let Some((cpu_secs, rss_bytes)) = self.pid.and_then(Sample::glance) {
                let before = self.last.replace((now, cpu_secs));
                let processors =
                    before.map(|(at, before)| (cpu_secs - before) / (now.since(at).max(1) as f64 / 1e6));
                second.broker_processors = processors;
                second.broker_rss_bytes = Some(rss_bytes);
                self.broker.insert(number, BrokerSecond { processors, rss_bytes });
            }
            each_second(&second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: u64, sent: u64) -> Second {
        Second { at_secs: number as f64, sent_per_sec: sent, ..Second::default() }
    }

    #[test]
    fn a_second_is_handed_on_when_all_have_told_theirs() {
        let mut seconds = Seconds::new(None);
        let mut seen = Vec::new();
        seconds.add(2, &second(2, 5), None);
        seconds.add(1, &second(1, 3), None);
        seconds.add(1, &second(1, 4), None);
        seconds.take(1, Micros(0), &mut |second| seen.push(second.sent_per_sec));
        assert_eq!(seen, [7]);
        seconds.take(u64::MAX, Micros(0), &mut |second| seen.push(second.sent_per_sec));
        assert_eq!(seen, [7, 5]);
    }
}
