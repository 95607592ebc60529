//! Measures one run: warm-up, the interval that counts, drain, verdict.
//!
//! Knows: when to look at counters and processes. May use: `run`, `process`, `report`. Never: terminals, files.
//! In:  a scenario and whom to watch. Out: one [`Second`] a second to an observer, and a [`Report`].
//! Invariant: rates and CPU are differences between two looks at the same two moments.

use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Micros;
use crate::hlog::Interval;
use crate::process::{Sample, SyncsBy};
use crate::report::{Percentiles, Report, Second, Spans, Window};
use crate::run::{Run, RunError};
use crate::scenario::{Join, Scenario};
use crate::scrape;
use crate::stats::Live;
use crate::syncs::{NoTrace, SyncTrace};

/// How Millrace calls its syncs.
const SYNCS_METRIC: &str = "millrace_store_syncs_total";

/// How long connections may take to come up, all together.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// How often the conductor looks at the clock.
const LOOK: Duration = Duration::from_millis(10);

/// Publishers may be so late with what was due before the end; what then is unsent counts as blocked.
const GRACE: Duration = Duration::from_millis(500);

/// Without any arrival for so long, a QoS 0 run waits for stragglers no longer.
const QUIET: Duration = Duration::from_secs(1);

/// What to look at besides the load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// The broker's process, on this machine.
    pub broker: Option<u32>,
    /// Where it tells its metrics (Prometheus text), for how often it waited for storage.
    pub metrics: Option<SocketAddr>,
}

/// A [`Watch`] that has begun.
#[derive(Debug)]
pub struct Watcher {
    watch: Watch,
    syncs: Option<SyncTrace>,
}

impl Watcher {
    /// Begins. With `trace_syncs`, how often the broker waits for storage is traced, for one that does not tell; fails
    /// if that cannot be.
    pub fn start(watch: Watch, trace_syncs: bool) -> Result<Watcher, NoTrace> {
        let traced = watch.broker.filter(|_| trace_syncs);
        Ok(Watcher { watch, syncs: traced.map(SyncTrace::start).transpose()? })
    }

    /// The broker now; `None` if it is not watched or gone.
    #[must_use]
    pub fn sample(&self) -> Option<Sample> {
        let sample = Sample::of(self.watch.broker?).ok()?;
        let told = || {
            let syncs = scrape::value(self.watch.metrics?, SYNCS_METRIC)?;
            Some((syncs as u64, SyncsBy::Metric))
        };
        let traced = self.syncs.as_ref().map(|trace| (trace.count(), SyncsBy::Trace));
        let (syncs, syncs_by) = traced.or_else(told).unzip();
        Some(Sample { syncs, syncs_by, ..sample })
    }
}

/// Everything at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) at: Micros,
    pub(crate) live: Live,
    pub(crate) broker: Option<Sample>,
    pub(crate) own: Option<Sample>,
}

impl Mark {
    fn now(run: &Run, watcher: &Watcher) -> Mark {
        Mark {
            at: run.now(),
            live: run.live(),
            broker: watcher.sample(),
            own: Sample::of(std::process::id()).ok(),
        }
    }
}

/// Runs a scenario and reports. `each_second` is called once a second while there is load or drain.
///
/// Ctrl-C ends the load early; the report then covers what there was. Fails if connections do not come up.
pub async fn measure(
    scenario: Scenario,
    watch: Watch,
    mut each_second: impl FnMut(&Second),
) -> Result<Report, RunError> {
    let watcher = Watcher::start(watch, false)?;
    measure_closely(scenario, &watcher, |second, _| each_second(second)).await
}

/// The same, which also hands over the latencies of each second, if there were any: percentiles do not add up, these do.
pub async fn measure_closely(
    scenario: Scenario,
    watcher: &Watcher,
    mut each_second: impl FnMut(&Second, Option<&Interval>),
) -> Result<Report, RunError> {
    let mut run = Run::start(scenario.clone())?;
    let started = run.now();
    run.ready(READY_PATIENCE).await?;
    let connect_secs = run.now().since(started) as f64 / 1e6;
    let counted = scenario.publishers.as_ref().is_some_and(|publishers| publishers.messages.is_some());
    // Who joins later finds what is retained, which needs all acknowledgements first.
    let joins_later = scenario.subscribers.as_ref().is_some_and(|it| it.join == Join::After);
    let look = if joins_later { LOOK / 10 } else { LOOK };
    let interval = run.begin();
    let begun = run.now();
    // Several processes begin at the same time: so do their seconds.
    let mut observer = Observer { broker: watcher.watch.broker, ..Observer::new(&run, interval.start) };
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut interrupted = false;
    let (mut from, mut to) = (None, None);
    let patience = loop {
        tokio::select! {
            _ = &mut interrupt, if !interrupted => interrupted = true,
            () = tokio::time::sleep(look) => {}
        }
        let now = run.now();
        if observer.is_due(now) {
            let (second, interval) = observer.look(&mut run, now);
            each_second(second, interval);
        }
        if from.is_none() && now >= interval.from {
            from = Some(Mark::now(&run, watcher));
        }
        if to.is_none() && now >= interval.to {
            to = Some(Mark::now(&run, watcher));
        }
        let receives_only = scenario.publishers.is_none();
        let done = if joins_later { run.all_settled() } else { run.all_stopped() && !receives_only };
        if interrupted || done || now >= interval.to.plus(GRACE) {
            break now.plus(scenario.run.drain);
        }
    };
    let load_secs = run.now().since(begun) as f64 / 1e6;
    run.stop_publishing();
    let drained_from = run.now();
    // A run bounded by a count is measured until its last message is in: else its CPU would be divided by too few.
    if !counted {
        to.get_or_insert_with(|| Mark::now(&run, watcher));
    }
    let mut arrived = (run.live().arrived, run.now());
    let only_qos0 = scenario.publishers.as_ref().is_none_or(|p| p.qos == model::Qos::AtMostOnce)
        || scenario.subscribers.as_ref().is_none_or(|s| s.qos == model::Qos::AtMostOnce)
        || scenario.run.part.1 > 1;
    while !run.is_drained() && run.now() < patience {
        tokio::select! {
            _ = &mut interrupt, if !interrupted => interrupted = true,
            () = tokio::time::sleep(look) => {}
        }
        let now = run.now();
        if observer.is_due(now) {
            let (second, interval) = observer.look(&mut run, now);
            each_second(second, interval);
        }
        let live = run.live();
        if live.arrived != arrived.0 {
            arrived = (live.arrived, now);
        }
        let acknowledged = live.finished == live.stopped;
        if only_qos0 && acknowledged && now >= arrived.1.plus(QUIET) {
            break;
        }
    }
    let drain_secs = arrived.1.since(drained_from) as f64 / 1e6;
    let to = to.unwrap_or_else(|| Mark::now(&run, watcher));
    let from = from.unwrap_or(to);
    // Repeats come right behind their first copies; leave them a moment to be seen.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let now = run.now();
    let (second, last) = observer.look(&mut run, now);
    each_second(second, last);
    let outcome = run.finish();
    let spans = Spans { connect_secs, load_secs, drain_secs };
    let Observer { seconds, intervals, .. } = observer;
    let report = Report::new(scenario, &Window { from, to }, seconds, &outcome, spans, interrupted);
    Ok(Report { intervals, ..report })
}

/// Turns counters into one line a second.
pub(crate) struct Observer {
    last: Live,
    last_at: Micros,
    start: Micros,
    /// Whole seconds looked at so far.
    looks: u64,
    seconds: Vec<Second>,
    intervals: Vec<Interval>,
    /// Whose CPU and memory stand beside the rates.
    broker: Option<u32>,
    broker_cpu_secs: f64,
}

impl Observer {
    /// Starts counting; seconds count from `start`.
    pub(crate) fn new(run: &Run, start: Micros) -> Observer {
        Observer {
            last: run.live(),
            last_at: start,
            start,
            looks: 0,
            seconds: Vec::new(),
            intervals: Vec::new(),
            broker: None,
            broker_cpu_secs: 0.0,
        }
    }

    pub(crate) fn is_due(&self, now: Micros) -> bool {
        // Whole seconds since the start: a look that comes late makes the next one no later.
        now.since(self.start) >= (self.looks + 1) * 1_000_000
    }

    pub(crate) fn look(&mut self, run: &mut Run, now: Micros) -> (&Second, Option<&Interval>) {
        let live = run.live();
        let span = now.since(self.last_at).max(1) as f64 / 1e6;
        let rate = |now: u64, before: u64| ((now - before) as f64 / span).round() as u64;
        let latency = run.take_latency();
        let timed = !latency.is_empty();
        if timed {
            let lasts = Duration::from_micros(now.since(self.last_at));
            self.intervals.push(Interval::of(self.last_at, lasts, &latency));
        }
        let glance = self.broker.and_then(Sample::glance);
        let before =
            glance.map_or(0.0, |(cpu_secs, _)| std::mem::replace(&mut self.broker_cpu_secs, cpu_secs));
        self.seconds.push(Second {
            at_secs: now.since(self.start) as f64 / 1e6,
            sent_per_sec: rate(live.sent, self.last.sent),
            acked_per_sec: rate(live.acked, self.last.acked),
            arrived_per_sec: rate(live.arrived, self.last.arrived),
            sent: live.sent,
            acked: live.acked,
            arrived: live.arrived,
            arrived_first: live.arrived_first,
            owed: live.owed,
            missing: live.owed.saturating_sub(live.arrived_first),
            connections: (live.ready + live.reconnects + live.connects)
                .saturating_sub(live.lost_connections + live.left),
            latency: Percentiles::of(&latency),
            // The first look has nothing to compare with.
            broker_processors: glance
                .filter(|_| before > 0.0)
                .map(|(cpu_secs, _)| (cpu_secs - before) / span),
            broker_rss_bytes: glance.map(|(_, rss_bytes)| rss_bytes),
        });
        self.last = live;
        self.last_at = now;
        self.looks = now.since(self.start) / 1_000_000;
        (&self.seconds[self.seconds.len() - 1], self.intervals.last().filter(|_| timed))
    }
}
