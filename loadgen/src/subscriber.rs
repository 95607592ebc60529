//! One subscriber: drains its socket, acknowledges, and keeps count of what came from whom.
//!
//! Knows: its filter and its part of the ledger. May use: `conn`, `payload`. Never: other connections.
//! Invariant: a message is recorded before its PUBACK or PUBREC is written, so that nothing acknowledged is unseen; at
//! QoS 2 it is recorded once between its first PUBLISH and its PUBREL [MQTT-4.3.3-10].

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::MutexGuard;
use std::task::{Context, Poll};
use std::time::Duration;

use hdrhistogram::Histogram;
use model::Qos;
use tokio::sync::watch;
use wire::{AckKind, Packet, Publish, ReasonCode, Version};

use crate::backoff::Backoff;
use crate::clock::Micros;
use crate::conn::{Conn, ConnError, Hello};
use crate::ledger::{Arrival, Arrivals, ReceiverId};
use crate::pacer::Timer;
use crate::payload::{self, NotOurs};
use crate::scenario::{Join, Subscribers};
use crate::stats::Counters;
use crate::worker::{Phase, Worker};

/// Bytes of acknowledgements that a broker has not taken; above it we read no more from it.
const OUT_BYTES_MAX: usize = 256 << 10;

/// What a slow subscriber reads at once.
const SLOW_READ_BYTES: usize = 4 << 10;

/// Runs one subscriber from its connection to the end of the run, and settles its part of the ledger.
pub(crate) async fn run(worker: Rc<Worker>, index: u32) {
    let Some(plan) = worker.shared.scenario.subscribers.clone() else { return };
    let mut phase = worker.shared.phase.subscribe();
    let number = plan.first + index;
    let mut subscriber = Subscriber {
        hello: Hello {
            address: plan.endpoint.address.clone(),
            tls: worker.shared.tls.clone(),
            will: None,
            version: plan.endpoint.version,
            client_id: plan.endpoint.client_id.expand(number),
            clean: plan.endpoint.clean,
            login: plan.endpoint.login.clone(),
            keep_alive: worker.shared.scenario.run.keep_alive,
        },
        filters: filters(&plan, number),
        qos: plan.qos,
        slow: (index < plan.slow).then(|| Slow::new(&worker, plan.slow_pause)),
        away: plan.away,
        timer: worker.pacer.timer(),
        receipts: Receipts::new(&worker, &plan),
        worker: worker.clone(),
        was_ready: false,
        up: false,
    };
    let mut backoff = Backoff::new(u64::from(index) << 32);
    if plan.join == Join::After && phase.wait_for(|phase| *phase >= Phase::Draining).await.is_err() {
        return;
    }
    loop {
        let error = match subscriber.session(&mut phase, &mut backoff).await {
            Ok(Ended::Over) => break,
            Ok(Ended::Away(until)) => {
                std::future::poll_fn(|cx| subscriber.wait(cx, until)).await;
                continue;
            }
            Err(error) => error,
        };
        if *phase.borrow() == Phase::Closing {
            break;
        }
        if std::mem::take(&mut subscriber.up) {
            Counters::add(&worker.counters.lost_connections, 1);
        }
        let reconnect = worker.shared.scenario.run.reconnect;
        if !reconnect || *phase.borrow() == Phase::Connecting {
            worker.shared.note_error(format!("subscriber {}: {error}", number));
        }
        if !reconnect {
            break;
        }
        if !backoff.wait(&mut phase).await {
            break;
        }
    }
    let receiver =
        worker.shared.audience.receivers.get(index as usize).copied().unwrap_or(ReceiverId(number));
    let receipts = subscriber.receipts;
    worker.shared.settle(|ledger| {
        for (publisher, arrivals) in &receipts.streams {
            ledger.add_arrivals(receiver, crate::ledger::PublisherId(*publisher), arrivals);
        }
        ledger.corrupted(receipts.corrupt);
        ledger.foreign(receipts.foreign);
        ledger.altered(receipts.altered);
    });
}

/// The filter that is judged, and those that are weight.
fn filters(plan: &Subscribers, number: u32) -> Vec<String> {
    let ballast = (0..plan.ballast).map(|index| format!("ballast/{number}/+/{index}/#"));
    std::iter::once(plan.filter.expand(number)).chain(ballast).collect()
}

/// How a connection ended without an error.
enum Ended {
    /// With the run.
    Over,
    /// To come back at this time.
    Away(Micros),
}

/// Reads little and rests.
struct Slow {
    pause: Duration,
    /// Its own, so small that a read takes a few messages.
    buffer: Vec<u8>,
    timer: Timer,
    resume_at: Micros,
}

impl Slow {
    fn new(worker: &Worker, pause: Duration) -> Slow {
        Slow { pause, buffer: vec![0; SLOW_READ_BYTES], timer: worker.pacer.timer(), resume_at: Micros(0) }
    }
}

struct Subscriber {
    worker: Rc<Worker>,
    hello: Hello,
    filters: Vec<String>,
    qos: Qos,
    /// There if it reads slowly.
    slow: Option<Slow>,
    /// When it leaves and for how long; taken when it has left.
    away: Option<(Duration, Duration)>,
    timer: Timer,
    receipts: Receipts,
    was_ready: bool,
    /// Whether the connection is up.
    up: bool,
}

impl Subscriber {
    /// One connection, from its CONNECT to the end of the run (`Ok`) or its loss (`Err`).
    async fn session(
        &mut self,
        phase: &mut watch::Receiver<Phase>,
        backoff: &mut Backoff,
    ) -> Result<Ended, ConnError> {
        let worker = self.worker.clone();
        let mut conn = {
            let _opening = worker.opening.acquire().await;
            let receipts = &mut self.receipts;
            let mut early = |packet: Packet<'_>, out: &mut Vec<u8>| {
                let mut batch = Batch::new(&worker);
                receipts.take(&packet, out, &mut batch)
            };
            let (mut conn, welcome) = Conn::open(&self.hello, &mut early).await?;
            if !welcome.session_present {
                // Without its session the broker knows no identifier of ours either (MQTT 5.0 §4.1).
                receipts.unreleased.clear();
                let lost = self.was_ready && !self.hello.clean;
                Counters::add(&self.worker.counters.sessions_lost, u64::from(lost));
            }
            let mut early = |packet: Packet<'_>, out: &mut Vec<u8>| {
                let mut batch = Batch::new(&worker);
                receipts.take(&packet, out, &mut batch)
            };
            conn.subscribe_all(&self.hello.address, &self.filters, self.qos, &mut early).await?;
            conn
        };
        backoff.reset();
        let counter = if self.was_ready { &worker.counters.reconnects } else { &worker.counters.ready };
        Counters::add(counter, 1);
        self.was_ready = true;
        self.up = true;
        loop {
            let now_in = *phase.borrow_and_update();
            if now_in == Phase::Closing {
                conn.close().await;
                return Ok(Ended::Over);
            }
            if now_in >= Phase::Draining {
                self.slow = None;
            }
            let leaves = self.away.filter(|_| now_in >= Phase::Sending);
            let leave_at = leaves.map(|(at, _)| worker.shared.start().plus(at));
            let polling = std::future::poll_fn(|cx| match leave_at.map(|at| self.wait(cx, at)) {
                Some(Poll::Ready(())) => Poll::Ready(None),
                _ => self.poll(&mut conn, cx).map(Some),
            });
            let broken = tokio::select! {
                biased;
                changed = phase.changed() => {
                    if changed.is_err() {
                        return Ok(Ended::Over);
                    }
                    continue;
                }
                broken = polling => broken,
            };
            match broken {
                Some(error) => return Err(error),
                None => {
                    conn.close().await;
                    let (at, lasts) = self.away.take().unwrap_or_default();
                    return Ok(Ended::Away(worker.shared.start().plus(at + lasts)));
                }
            }
        }
    }

    fn wait(&self, cx: &mut Context<'_>, due: Micros) -> Poll<()> {
        if self.timer.is_due(cx, due, self.worker.shared.clock.now()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Reads until there is nothing more, writing acknowledgements once per read.
    fn poll(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<ConnError> {
        conn.poll_ping(cx);
        if self.slow.is_some() {
            return self.poll_slowly(conn, cx);
        }
        let mut buffer = self.worker.buffer.borrow_mut();
        loop {
            if let Poll::Ready(Err(error)) = conn.poll_flush(cx) {
                return Poll::Ready(error);
            }
            if conn.out.len() > OUT_BYTES_MAX {
                return Poll::Pending;
            }
            let mut batch = Batch::new(&self.worker);
            let receipts = &mut self.receipts;
            let read = conn.poll_read(cx, &mut buffer, |packet, out| receipts.take(&packet, out, &mut batch));
            match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Ready(Ok(())) => {}
            }
        }
    }
}

impl Subscriber {
    /// One small read, then a rest: the broker's queue for it grows meanwhile.
    fn poll_slowly(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<ConnError> {
        let Some(slow) = &mut self.slow else { return Poll::Pending };
        loop {
            if let Poll::Ready(Err(error)) = conn.poll_flush(cx) {
                return Poll::Ready(error);
            }
            let now = self.worker.shared.clock.now();
            if !slow.timer.is_due(cx, slow.resume_at, now) {
                return Poll::Pending;
            }
            let mut batch = Batch::new(&self.worker);
            batch.untimed = true;
            let receipts = &mut self.receipts;
            match conn.poll_read(cx, &mut slow.buffer, |packet, out| receipts.take(&packet, out, &mut batch))
            {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Ready(Ok(())) => slow.resume_at = now.plus(slow.pause),
            }
        }
    }
}

/// What is counted once per read instead of once per message.
struct Batch<'w> {
    worker: &'w Worker,
    latency: Option<MutexGuard<'w, Histogram<u64>>>,
    now: Micros,
    copies: u64,
    first: u64,
    bytes: u64,
    /// Latencies of this read say nothing about the broker.
    untimed: bool,
}

impl<'w> Batch<'w> {
    fn new(worker: &'w Worker) -> Batch<'w> {
        Batch { worker, latency: None, now: Micros(0), copies: 0, first: 0, bytes: 0, untimed: false }
    }

    #[inline]
    fn latency(&mut self) -> &mut Histogram<u64> {
        self.latency.get_or_insert_with(|| self.worker.timings.latency.lock())
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.copies > 0 {
            let counters = &self.worker.counters;
            Counters::add(&counters.arrived, self.copies);
            Counters::add(&counters.arrived_first, self.first);
            Counters::add(&counters.arrived_bytes, self.bytes);
        }
    }
}

/// What one subscriber received.
struct Receipts {
    version: Version,
    streams: HashMap<u32, Arrivals, BuildHasherDefault<NumberHasher>>,
    /// QoS 2: identifiers between PUBLISH and PUBREL.
    unreleased: HashSet<NonZeroU16>,
    corrupt: u64,
    foreign: u64,
    altered: u64,
    /// The user properties that every message must have; `None` if that cannot be seen here.
    user_properties: Option<Vec<(String, String)>>,
    /// Everything comes from the retained messages, whose time counts from our subscription.
    retained: bool,
}

impl Receipts {
    fn new(worker: &Worker, plan: &Subscribers) -> Receipts {
        let publishers = worker.shared.scenario.publishers.as_ref();
        let version = plan.endpoint.version;
        Receipts {
            version,
            streams: HashMap::default(),
            unreleased: HashSet::new(),
            corrupt: 0,
            foreign: 0,
            altered: 0,
            user_properties: publishers
                .filter(|_| version == Version::V5)
                .map(|publishers| publishers.user_properties.clone()),
            retained: plan.join == Join::After,
        }
    }

    #[inline]
    fn take(
        &mut self,
        packet: &Packet<'_>,
        out: &mut Vec<u8>,
        batch: &mut Batch<'_>,
    ) -> Result<(), ConnError> {
        let publish = match packet {
            Packet::Publish(publish) => publish,
            Packet::PubRel(ack) => {
                self.unreleased.remove(&ack.packet_id);
                wire::encode_ack(out, self.version, AckKind::PubComp, ack.packet_id, ReasonCode::SUCCESS);
                return Ok(());
            }
            other => return Err(ConnError::Unexpected(other.packet_type().name())),
        };
        match (publish.qos, publish.packet_id) {
            (Qos::AtMostOnce, _) | (_, None) => self.record(publish, batch),
            (Qos::AtLeastOnce, Some(packet_id)) => {
                self.record(publish, batch);
                wire::encode_ack(out, self.version, AckKind::PubAck, packet_id, ReasonCode::SUCCESS);
            }
            (Qos::ExactlyOnce, Some(packet_id)) => {
                if self.unreleased.insert(packet_id) {
                    self.record(publish, batch);
                }
                wire::encode_ack(out, self.version, AckKind::PubRec, packet_id, ReasonCode::SUCCESS);
            }
        }
        Ok(())
    }

    #[inline]
    fn record(&mut self, publish: &Publish<'_>, batch: &mut Batch<'_>) {
        let worker = batch.worker;
        let shared = &*worker.shared;
        if batch.copies == 0 {
            // Once per read: the messages of one read arrived together, as far as this process can tell.
            batch.now = shared.clock.now();
        }
        batch.copies += 1;
        batch.bytes += publish.payload.len() as u64;
        let stamp = match payload::read(publish.payload) {
            Ok(stamp) if stamp.run == shared.run => stamp,
            Ok(_) | Err(NotOurs::Foreign) => {
                self.foreign += 1;
                return;
            }
            Err(NotOurs::Corrupt) => {
                self.corrupt += 1;
                return;
            }
        };
        if self.streams.entry(stamp.publisher.0).or_default().record(stamp.sequence) == Arrival::Repeat {
            return;
        }
        batch.first += 1;
        self.check_unaltered(publish);
        if !shared.gates.is_empty()
            && let Some(publishers) = &shared.scenario.publishers
            && let Some(gate) = shared.gates.get(stamp.publisher.0.wrapping_sub(publishers.first) as usize)
        {
            gate.arrive();
        }
        if shared.measures(stamp.intended) && !batch.untimed {
            let since = if self.retained { shared.drain_start() } else { stamp.intended };
            let latency = batch.now.since(since).max(1);
            batch.latency().saturating_record(latency);
        }
    }

    /// User properties pass unchanged and in order [MQTT-3.3.2-17] [MQTT-3.3.2-18]; what comes from the retained
    /// messages says so [MQTT-3.3.1-8].
    #[inline]
    fn check_unaltered(&mut self, publish: &Publish<'_>) {
        let same = self.user_properties.as_ref().is_none_or(|expected| {
            let expected = expected.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            publish.properties.block().is_empty() && expected.len() == 0
                || publish.properties.user_properties().eq(expected)
        });
        if !same || self.retained && !publish.retain {
            self.altered += 1;
        }
    }
}

/// Spreads small numbers over a table: one multiplication instead of a keyed hash per message.
#[derive(Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }
}
