//! What the connections of one thread have in common, and what all threads of a run share.
//!
//! Knows: the plan of the run, the phase it is in, counters. Never: MQTT.
//! Invariant: what is behind an `Rc` belongs to one thread; what is behind the `Arc` is atomic or has one writer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

use model::Qos;
use tokio::sync::{Semaphore, watch};

use crate::clients;
use crate::clock::{Clock, Micros};
use crate::conn::READ_BYTES;
use crate::ledger::{Ledger, PublisherId, ReceiverId};
use crate::pacer::Pacer;
use crate::payload::RunId;
use crate::replay::Recording;
use crate::scenario::Scenario;
use crate::stats::{Counters, Timings};
use crate::transport::Tls;

/// How far a run is. Phases follow one another in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Connections come up.
    Connecting,
    /// Publishers send, from `Shared::start` on.
    Sending,
    /// Publishers send no more; acknowledgements and messages may still come.
    Draining,
    /// Everybody leaves.
    Closing,
}

/// Connections that are being opened at once by one worker: a fleet must not look like a SYN flood.
const OPENING_MAX: usize = 64;

/// The same for clients that come and go: about what a listener's backlog holds.
const STORMING_MAX: usize = 1024;

/// Errors kept to be shown; the rest is counted.
const ERRORS_MAX: usize = 5;

/// What all threads of a run share.
pub(crate) struct Shared {
    pub(crate) scenario: Scenario,
    pub(crate) run: RunId,
    pub(crate) clock: Clock,
    pub(crate) phase: watch::Sender<Phase>,
    /// Set before the phase becomes `Sending`.
    start: AtomicU64,
    end: AtomicU64,
    /// When the phase became `Draining`.
    drain_start: AtomicU64,
    /// First and last + 1 intended time that is measured.
    measured_from: AtomicU64,
    measured_to: AtomicU64,
    /// Who sees what; made before the first connection.
    pub(crate) audience: Audience,
    /// One per publisher, if they are bounded by arrivals.
    pub(crate) gates: Vec<Gate>,
    pub(crate) ledger: Mutex<Ledger>,
    /// There if one of the addresses is encrypted.
    pub(crate) tls: Option<Tls>,
    /// There if publishers replay one.
    pub(crate) recording: Option<Recording>,
    errors: Mutex<Vec<String>>,
}

impl Shared {
    pub(crate) fn new(
        scenario: Scenario,
        run: RunId,
        clock: Clock,
        gated: bool,
        tls: Option<Tls>,
        recording: Option<Recording>,
    ) -> Shared {
        let audience = Audience::of(&scenario);
        let publishers = scenario.publishers.as_ref().map_or(0, |publishers| publishers.count);
        Shared {
            run,
            clock,
            phase: watch::Sender::new(Phase::Connecting),
            start: AtomicU64::new(0),
            end: AtomicU64::new(u64::MAX),
            drain_start: AtomicU64::new(u64::MAX),
            measured_from: AtomicU64::new(u64::MAX),
            measured_to: AtomicU64::new(u64::MAX),
            audience,
            gates: if gated { (0..publishers).map(|_| Gate::default()).collect() } else { Vec::new() },
            ledger: Mutex::new(Ledger::new()),
            tls,
            recording,
            errors: Mutex::new(Vec::new()),
            scenario,
        }
    }

    /// Fixes when the load starts, from when to when it is measured, and lets it start.
    pub(crate) fn begin(&self, start: Micros, from: Micros, to: Micros) {
        self.start.store(start.0, Ordering::Relaxed);
        self.end.store(to.0, Ordering::Relaxed);
        self.measured_from.store(from.0, Ordering::Relaxed);
        self.measured_to.store(to.0, Ordering::Relaxed);
        self.phase.send_replace(Phase::Sending);
    }

    pub(crate) fn start(&self) -> Micros {
        Micros(self.start.load(Ordering::Relaxed))
    }

    /// From here on nothing is due any more.
    pub(crate) fn end(&self) -> Micros {
        Micros(self.end.load(Ordering::Relaxed))
    }

    /// No more is sent; what is under way may still come. What waits for that phase begins.
    pub(crate) fn drain(&self) {
        self.drain_start.fetch_min(self.clock.now().0, Ordering::Relaxed);
        self.phase.send_if_modified(|phase| {
            let earlier = *phase < Phase::Draining;
            *phase = (*phase).max(Phase::Draining);
            earlier
        });
    }

    /// When nothing was sent any more; the end of time until then.
    pub(crate) fn drain_start(&self) -> Micros {
        Micros(self.drain_start.load(Ordering::Relaxed))
    }

    /// Ends the schedule earlier than planned; the measured interval ends with it.
    pub(crate) fn end_at(&self, end: Micros) {
        self.end.fetch_min(end.0, Ordering::Relaxed);
        self.measured_to.fetch_min(end.0, Ordering::Relaxed);
    }

    /// Whether messages intended for this time belong to the measured interval.
    #[inline]
    pub(crate) fn measures(&self, intended: Micros) -> bool {
        intended.0 >= self.measured_from.load(Ordering::Relaxed)
            && intended.0 < self.measured_to.load(Ordering::Relaxed)
    }

    pub(crate) fn note_error(&self, error: String) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() < ERRORS_MAX && !errors.contains(&error) {
            errors.push(error);
        }
    }

    pub(crate) fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds to the ledger. Once per connection, at its end.
    pub(crate) fn settle(&self, entry: impl FnOnce(&mut Ledger)) {
        entry(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Which receiver sees which publishers.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    /// Every stream that is expected, each once, with the QoS of its publisher.
    pub(crate) streams: Vec<(ReceiverId, PublisherId, Qos)>,
    /// By subscriber, from the first on: the receiver it belongs to.
    pub(crate) receivers: Vec<ReceiverId>,
    /// Receivers that are a group with a shared subscription.
    pub(crate) groups: Vec<ReceiverId>,
    /// By publisher, from the first on: how many receivers each of its messages has.
    pub(crate) copies: Vec<u64>,
    /// The same of the will of each client.
    pub(crate) will_copies: Vec<u64>,
}

impl Audience {
    fn of(scenario: &Scenario) -> Audience {
        let mut audience = Audience::default();
        let mut topics: Vec<(PublisherId, Qos, String)> = Vec::new();
        if let Some(publishers) = &scenario.publishers {
            let numbers = publishers.first..publishers.first + publishers.count;
            topics.extend(
                numbers.map(|number| (PublisherId(number), publishers.qos, publishers.topic.expand(number))),
            );
        }
        let publishers = topics.len();
        if let Some((clients, will)) = scenario.clients.as_ref().and_then(|it| Some((it, it.will.as_ref()?)))
        {
            let numbers = clients.first..clients.first + clients.count;
            topics.extend(
                numbers.map(|number| (clients::will_of(number), will.qos, will.topic.expand(number))),
            );
        }
        audience.copies = vec![0; topics.len()];
        let mut by_topic: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, (_, _, topic)) in topics.iter().enumerate() {
            by_topic.entry(topic).or_default().push(index);
        }
        let Some(subscribers) = &scenario.subscribers else { return audience };
        let mut groups: HashMap<String, ReceiverId> = HashMap::new();
        for number in subscribers.first..subscribers.first + subscribers.count {
            let text = subscribers.filter.expand(number);
            let shared = text.starts_with("$share/");
            let own = ReceiverId(number);
            // Subscribers of one group are one receiver: each message goes to one of them.
            let receiver = if shared { *groups.entry(text.clone()).or_insert(own) } else { own };
            audience.receivers.push(receiver);
            if receiver != own {
                continue;
            }
            if shared {
                audience.groups.push(receiver);
            }
            let Ok(filter) = model::TopicFilter::new(&text) else { continue };
            let matching: Vec<usize> = if filter.as_str().contains(['+', '#']) {
                let matches = |index: &usize| model::filter_matches(filter.as_str(), &topics[*index].2);
                (0..topics.len()).filter(matches).collect()
            } else {
                by_topic.get(filter.as_str()).cloned().unwrap_or_default()
            };
            for index in matching {
                audience.streams.push((receiver, topics[index].0, topics[index].1));
                audience.copies[index] += 1;
            }
        }
        audience.will_copies = audience.copies.split_off(publishers);
        audience
    }
}

/// Lets a publisher know how much of what it sent has arrived, so that it can stay a bounded step ahead.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Gate {
    arrived: AtomicU64,
    /// The publisher sleeps until so many have arrived; 0 if it does not sleep.
    wake_at: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Gate {
    /// One more arrival of this publisher.
    #[inline]
    pub(crate) fn arrive(&self) {
        // Sequentially consistent, like the other side: either we see that it sleeps, or it sees this arrival.
        let arrived = self.arrived.fetch_add(1, Ordering::SeqCst) + 1;
        let wake_at = self.wake_at.load(Ordering::SeqCst);
        if wake_at > 0 && arrived >= wake_at {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        self.wake_at.store(0, Ordering::SeqCst);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::SeqCst)
    }

    /// Whether at least `number` have arrived; if not, the task is woken when they have.
    pub(crate) fn has_reached(&self, cx: &Context<'_>, number: u64) -> bool {
        if self.arrived() >= number {
            return true;
        }
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        self.wake_at.store(number, Ordering::SeqCst);
        self.arrived() >= number
    }
}

/// What the connections of one thread share.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) timings: Arc<Timings>,
    pub(crate) pacer: Pacer,
    /// The one big read buffer: a connection fills it, handles all of it, and leaves.
    pub(crate) buffer: RefCell<Vec<u8>>,
    pub(crate) opening: Semaphore,
    /// The same for clients that come and go, whose storms are the point.
    pub(crate) storming: Semaphore,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        counters: Arc<Counters>,
        timings: Arc<Timings>,
    ) -> std::io::Result<Rc<Worker>> {
        let pacer = Pacer::start(shared.clock, shared.scenario.run.spin)?;
        let buffer = RefCell::new(vec![0; READ_BYTES]);
        let (opening, storming) = (Semaphore::new(OPENING_MAX), Semaphore::new(STORMING_MAX));
        Ok(Rc::new(Worker { shared, counters, timings, pacer, buffer, opening, storming }))
    }
}
