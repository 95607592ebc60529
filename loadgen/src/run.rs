//! One run: connections up, load on, load off, stragglers in, verdict.
//!
//! Knows: worker threads and phases. May use: `publisher`, `subscriber`, `worker`. Never: terminals, files.
//! In:  a [`Scenario`]. Out: [`Live`] counters at any time, and at the end an [`Outcome`].
//! Invariant: after `finish` no thread and no connection of the run is left, and the ledger has every message.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use model::Qos;

use crate::clock::{Clock, Micros};
use crate::ledger::{Contract, Ledger};
use crate::payload::RunId;
use crate::replay::{BadRecording, Recording};
use crate::report::Histograms;
use crate::scenario::{Join, Pacing, Scenario};
use crate::stats::{Counters, Live, Timings, histogram};
use crate::syncs::NoTrace;
use crate::tls::TlsError;
use crate::transport::Tls;
use crate::worker::{Phase, Shared, Worker};
use crate::{clients, process, publisher, subscriber};

/// How often a waiting conductor looks whether what it waits for has happened.
const LOOK: Duration = Duration::from_millis(10);

/// Files a run needs beside its connections.
pub(crate) const FILES_BESIDE: u64 = 40;

/// Why there is no run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system has no thread left, or the like.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// TLS cannot be spoken.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// There is nothing to replay.
    #[error("{0}")]
    Recording(#[from] BadRecording),
    /// Syncs cannot be counted.
    #[error("{0}")]
    Tracing(#[from] NoTrace),
    /// Too many connections for the limits of this shell.
    #[error(
        "{connections} connections need more open files than the {allowed} this shell allows; \
         raise it with `ulimit -n {}` and start again", connections + FILES_BESIDE
    )]
    OpenFiles {
        /// What the scenario wants.
        connections: u64,
        /// What is allowed.
        allowed: u64,
    },
    /// Not all connections came up.
    #[error("{ready} of {wanted} connections came up. {}", .errors.join("; "))]
    NotReady {
        /// How many did.
        ready: u64,
        /// How many should have.
        wanted: u64,
        /// The first reasons.
        errors: Vec<String>,
    },
}

impl RunError {
    /// Whether the scenario names what cannot be used; the broker was not asked.
    #[must_use]
    pub fn is_of_the_scenario(&self) -> bool {
        matches!(self, RunError::Tls(_) | RunError::Recording(_) | RunError::Tracing(_))
    }
}

/// A run that is under way. Dropping it ends it without a verdict.
pub struct Run {
    shared: Arc<Shared>,
    workers: Vec<Member>,
    totals: Histograms,
    connections: u64,
    publishers: u64,
    clients: u64,
}

struct Member {
    thread: JoinHandle<()>,
    counters: Arc<Counters>,
    timings: Arc<Timings>,
}

/// What is known when a run is over.
pub struct Outcome {
    /// Everything that was sent, acknowledged and that arrived.
    pub ledger: Ledger,
    /// The counters at the end.
    pub live: Live,
    /// The times of the measured interval.
    pub times: Histograms,
    /// How far the wall clock was set meanwhile, in microseconds.
    pub clock_step_micros: i64,
    /// The first connection errors.
    pub errors: Vec<String>,
}

impl Run {
    /// Starts the threads, which open all connections.
    pub fn start(scenario: Scenario) -> Result<Run, RunError> {
        let clock = Clock::start();
        let all_publishers = scenario.publishers.as_ref().map_or(0, |publishers| publishers.count);
        let publishers = scenario.run.share(all_publishers);
        let subscribers = scenario.subscribers.as_ref().map_or(0, |subscribers| subscribers.count);
        let subscribers = scenario.run.share(subscribers);
        let clients = scenario.clients.as_ref().map_or(0, |clients| clients.count);
        let clients = scenario.run.share(clients);
        let connections = u64::from(publishers) + u64::from(subscribers) + u64::from(clients);
        process::allow_open_files(connections + FILES_BESIDE);
        if let Some(allowed) = process::open_files_max()
            && allowed < connections + FILES_BESIDE
        {
            return Err(RunError::OpenFiles { connections, allowed });
        }
        let later = scenario.subscribers.as_ref().filter(|subscribers| subscribers.join == Join::After);
        let connections = connections - u64::from(clients) - later.map_or(0, |_| u64::from(subscribers));
        let gated = scenario
            .publishers
            .as_ref()
            .is_some_and(|publishers| publishers.pacing == Pacing::Max && publishers.ahead > 0)
            // What arrives in another process opens no gate here.
            && scenario.run.part.1 == 1;
        let replay = scenario.publishers.as_ref().and_then(|publishers| publishers.replay.as_ref());
        let recording = replay.map(|replay| Recording::load(replay, all_publishers)).transpose()?;
        let threads = scenario.run.threads;
        let tls = scenario
            .is_encrypted()
            .then(|| {
                Ok::<_, TlsError>(Tls {
                    connector: scenario.tls.connector()?,
                    server_name: scenario.tls.server_name.clone(),
                })
            })
            .transpose()?;
        let id = scenario.run.id.map_or_else(|| run_id(clock.now()), RunId);
        let shared = Arc::new(Shared::new(scenario, id, clock, gated, tls, recording));
        let mut workers = Vec::new();
        for thread in 0..threads {
            let (counters, timings) = (Arc::new(Counters::default()), Arc::new(Timings::default()));
            let (shared, own_counters, own_timings) = (shared.clone(), counters.clone(), timings.clone());
            let thread = std::thread::Builder::new()
                .name(format!("load-{thread}"))
                .spawn(move || work(shared, own_counters, own_timings, thread))?;
            workers.push(Member { thread, counters, timings });
        }
        let totals = Histograms::default();
        let (publishers, clients) = (u64::from(publishers), u64::from(clients));
        Ok(Run { shared, workers, totals, connections, publishers, clients })
    }

    /// Waits until all connections are up and all subscriptions are acknowledged.
    pub async fn ready(&self, patience: Duration) -> Result<(), RunError> {
        let give_up = self.shared.clock.now().plus(patience);
        loop {
            let live = self.live();
            if live.ready >= self.connections {
                return Ok(());
            }
            let hopeless = !self.shared.scenario.run.reconnect && !self.shared.errors().is_empty();
            if hopeless || self.shared.clock.now() > give_up || self.workers_are_gone() {
                let errors = self.shared.errors();
                return Err(RunError::NotReady { ready: live.ready, wanted: self.connections, errors });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Lets the load start. Measured is what is due after the warm-up and within the duration.
    pub fn begin(&self) -> Interval {
        let plan = &self.shared.scenario.run;
        // A moment ahead, so that every publisher has seen it when the first message is due.
        let soon = self.shared.clock.now().plus(Duration::from_millis(20));
        // Several processes begin together, at a time that all were told.
        let start = plan.begin_at.map_or(soon, |at| at.max(soon));
        let from = start.plus(plan.warmup);
        let to = from.plus(plan.duration);
        self.shared.begin(start, from, to);
        Interval { start, from, to }
    }

    /// The present time on the clock of the run.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.shared.clock.now()
    }

    /// The counters now.
    #[must_use]
    pub fn live(&self) -> Live {
        let mut live = Live::default();
        self.workers.iter().for_each(|worker| live.add(&worker.counters));
        live
    }

    /// Whether no publisher sends any more: all counts or the schedule are used up, or connections are lost.
    #[must_use]
    pub fn all_stopped(&self) -> bool {
        let live = self.live();
        live.stopped == self.publishers && live.clients_done == self.clients
    }

    /// Whether no publisher sends any more and all have their acknowledgements.
    #[must_use]
    pub fn all_settled(&self) -> bool {
        self.live().finished == self.publishers
    }

    /// The latencies since the last call, which also go into the totals.
    pub fn take_latency(&mut self) -> Histogram<u64> {
        let mut latest = histogram();
        for worker in &self.workers {
            worker.timings.latency.move_into(&mut latest);
            worker.timings.ack.move_into(&mut self.totals.ack);
            worker.timings.lateness.move_into(&mut self.totals.lateness);
            worker.timings.connect.move_into(&mut self.totals.connect);
        }
        self.totals.latency.add(&latest).expect("all histograms have the same bounds");
        latest
    }

    /// Ends the schedule now; publishers send no more, what is under way may still arrive.
    pub fn stop_publishing(&self) {
        self.shared.end_at(self.shared.clock.now());
        self.shared.drain();
    }

    /// Whether everything sent is acknowledged and everything owed has arrived.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let live = self.live();
        // What arrives elsewhere is not seen here: then it is silence that tells.
        live.finished == self.publishers
            && live.arrived_first >= live.owed
            && self.shared.scenario.run.part.1 == 1
    }

    /// Ends the run: everybody disconnects, all threads end, and the ledger is complete.
    pub fn finish(mut self) -> Outcome {
        self.shared.phase.send_replace(Phase::Closing);
        let live_before = self.live();
        self.take_latency();
        let mut live = Live::default();
        for worker in std::mem::take(&mut self.workers) {
            if worker.thread.join().is_err() {
                self.shared
                    .note_error("a worker thread of the load generator panicked, please report".to_owned());
            }
            live.add(&worker.counters);
            worker.timings.latency.move_into(&mut self.totals.latency);
            worker.timings.ack.move_into(&mut self.totals.ack);
            worker.timings.lateness.move_into(&mut self.totals.lateness);
            worker.timings.connect.move_into(&mut self.totals.connect);
        }
        // A publisher that is told to close counts as stopped; what matters is who had stopped before.
        live.finished = live_before.finished;
        let mut ledger =
            std::mem::take(&mut *self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner));
        self.declare(&mut ledger);
        Outcome {
            ledger,
            live,
            times: std::mem::take(&mut self.totals),
            clock_step_micros: self.shared.clock.step(SystemTime::now()),
            errors: self.shared.errors(),
        }
    }

    /// Tells the ledger who was owed what.
    fn declare(&self, ledger: &mut Ledger) {
        let scenario = &self.shared.scenario;
        let Some(subscribers) = &scenario.subscribers else { return };
        for &(receiver, publisher, qos) in &self.shared.audience.streams {
            // The QoS of a delivery is the lower of the two [MQTT-3.8.4-8].
            let contract = match qos.min(subscribers.qos) {
                Qos::AtMostOnce => Contract::AtMostOnce,
                Qos::AtLeastOnce => Contract::AtLeastOnce,
                Qos::ExactlyOnce => Contract::ExactlyOnce,
            };
            ledger.expect(receiver, publisher, contract);
        }
        self.shared.audience.groups.iter().for_each(|group| ledger.expect_no_order(*group));
        if subscribers.join == Join::After {
            // MQTT promises no order among retained messages of different topics.
            self.shared.audience.streams.iter().for_each(|(receiver, ..)| ledger.expect_no_order(*receiver));
        }
    }

    fn workers_are_gone(&self) -> bool {
        self.workers.iter().all(|worker| worker.thread.is_finished())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.shared.phase.send_replace(Phase::Closing);
        for worker in std::mem::take(&mut self.workers) {
            // Its panic has been printed; there is no verdict that it could spoil.
            worker.thread.join().ok();
        }
    }
}

/// The measured interval: intended times from `from` until just before `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// When the first message may be due.
    pub start: Micros,
    /// End of the warm-up.
    pub from: Micros,
    /// End of the load.
    pub to: Micros,
}

/// A worker thread, from its first connection to its last.
fn work(shared: Arc<Shared>, counters: Arc<Counters>, timings: Arc<Timings>, thread: u32) {
    if shared.scenario.run.spin > Duration::ZERO {
        let plan = &shared.scenario.run;
        // Those of several processes stay apart, too.
        process::stay_on(process::Processor::FromLast((plan.part.0 * plan.threads + thread) as usize));
    }
    let started = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let both = started.and_then(|runtime| {
        let worker = {
            let _on_it = runtime.enter();
            Worker::new(shared.clone(), counters, timings)?
        };
        Ok((runtime, worker))
    });
    let (runtime, worker) = match both {
        Ok(both) => both,
        Err(error) => return shared.note_error(format!("cannot start a worker thread: {error}")),
    };
    let local = tokio::task::LocalSet::new();
    let pacing = local.spawn_local(worker.pacer.drive());
    let scenario = &shared.scenario;
    let mine = |count: Option<u32>| scenario.run.mine(thread, count.unwrap_or(0));
    let mut tasks = Vec::new();
    for index in mine(scenario.subscribers.as_ref().map(|subscribers| subscribers.count)) {
        tasks.push(local.spawn_local(subscriber::run(worker.clone(), index)));
    }
    for index in mine(scenario.publishers.as_ref().map(|publishers| publishers.count)) {
        tasks.push(local.spawn_local(publisher::run(worker.clone(), index)));
    }
    for index in mine(scenario.clients.as_ref().map(|clients| clients.count)) {
        tasks.push(local.spawn_local(clients::run(worker.clone(), index)));
    }
    local.block_on(&runtime, async {
        for task in tasks {
            if task.await.is_err() {
                shared
                    .note_error("a connection task of the load generator panicked, please report".to_owned());
            }
        }
    });
    pacing.abort();
    drop(local);
    debug_assert_eq!(Rc::strong_count(&worker), 1, "no task outlives its worker");
}

/// A number that another run, here or elsewhere, is unlikely to have.
fn run_id(now: Micros) -> RunId {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let nth = RUNS.fetch_add(1, Ordering::Relaxed);
    let mixed =
        (now.0 ^ (u64::from(std::process::id()) << 32) ^ (nth << 20)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    RunId((mixed >> 32) as u32)
}
