//! One publisher: makes messages when they are due, writes them in batches, and counts what is acknowledged.
//!
//! Knows: its schedule, its window, its part of the ledger. May use: `conn`, `payload`, `schedule`.
//! Never: other connections; it learns of arrivals through its gate only.
//! Invariant: a message has a sequence number exactly if it was handed to a socket; at QoS 1 and 2 it is in flight
//! from then until its PUBACK or PUBCOMP, over any number of connections.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use model::Qos;
use tokio::sync::watch;
use tokio::time::Sleep;
use wire::{Ack, AckKind, Packet, ReasonCode};

use crate::backoff::Backoff;
use crate::clock::Micros;
use crate::conn::{Conn, ConnError, Hello};
use crate::ledger::{PublisherId, Sent};
use crate::pacer::Timer;
use crate::payload::{Payload, Stamp};
use crate::scenario::{Pacing, PayloadKind, Publishers};
use crate::schedule::{Recorded, Schedule};
use crate::stats::Counters;
use crate::worker::{Phase, Worker};

mod frames;
mod inflight;

use frames::{Frames, Head};
use inflight::Inflight;

/// A closed-loop publisher that saw nothing arrive for so long takes what is missing for lost and goes on.
const STALL: Duration = Duration::from_millis(250);

/// Runs one publisher from its connection to the end of the run, and settles its part of the ledger.
pub(crate) async fn run(worker: Rc<Worker>, index: u32) {
    let Some(plan) = worker.shared.scenario.publishers.clone() else { return };
    let mut phase = worker.shared.phase.subscribe();
    let mut publisher = match Publisher::new(worker.clone(), &plan, index) {
        Ok(publisher) => publisher,
        Err(error) => return worker.shared.note_error(format!("publisher {}: {error}", plan.first + index)),
    };
    let mut backoff = Backoff::new(u64::from(index));
    while let Err(error) = publisher.session(&mut phase, &mut backoff).await {
        if *phase.borrow() == Phase::Closing {
            break;
        }
        if std::mem::take(&mut publisher.up) {
            Counters::add(&worker.counters.lost_connections, 1);
        }
        let reconnect = worker.shared.scenario.run.reconnect;
        if !reconnect || *phase.borrow() == Phase::Connecting {
            worker.shared.note_error(format!("publisher {}: {error}", publisher.id.0));
        }
        if !reconnect {
            break;
        }
        publisher.blocked = true;
        if !backoff.wait(&mut phase).await {
            break;
        }
    }
    publisher.stop();
    publisher.finish();
    worker.shared.settle(|ledger| ledger.add_sent(publisher.id, &publisher.sent));
}

/// Where due times come from.
enum Due {
    Made(Schedule),
    Recorded(Recorded),
}

struct Publisher {
    worker: Rc<Worker>,
    id: PublisherId,
    index: usize,
    hello: Hello,
    frames: Frames,
    qos: Qos,
    batch: u32,
    ahead: u64,
    messages_max: u64,
    copies: u64,
    gated: bool,
    pacing: Pacing,
    seed: u64,
    phase_share: f64,
    schedule: Option<Due>,
    next_due: Micros,
    timer: Timer,
    sequence: u64,
    sent: Sent,
    inflight: Inflight,
    /// Whether the broker keeps us from sending: a full socket, a full window, no connection.
    blocked: bool,
    /// When it last ceased to.
    blocked_until: Micros,
    written_off: u64,
    stall: Option<(Pin<Box<Sleep>>, u64)>,
    was_ready: bool,
    /// Whether the connection is up.
    up: bool,
    /// Whether the load has begun.
    begun: bool,
    stopped: bool,
    finished: bool,
}

impl Publisher {
    fn new(worker: Rc<Worker>, plan: &Publishers, index: u32) -> Result<Publisher, ConnError> {
        let run = &worker.shared.scenario.run;
        let number = plan.first + index;
        let seed = run.seed.wrapping_mul(0x1_0000_0001).wrapping_add(u64::from(number));
        let payload = match &plan.payload {
            PayloadKind::Binary { bytes } => Payload::binary(*bytes, seed),
            PayloadKind::Lengths(lengths) => Payload::lengths(lengths, seed),
            PayloadKind::Telemetry { form, bytes } => Payload::telemetry(*form, *bytes, seed),
            PayloadKind::Template { form, fields, bytes } => {
                Payload::template(*form, fields, *bytes, number, seed)
            }
        };
        let version = plan.endpoint.version;
        let flags = (plan.qos, plan.retain);
        let properties = frames::properties(version, plan.content_type.as_deref(), &plan.user_properties)?;
        let head = Head::new(&plan.topic, plan.topics, number, flags, properties);
        let hello = Hello {
            address: plan.endpoint.address.clone(),
            tls: worker.shared.tls.clone(),
            will: None,
            version,
            client_id: plan.endpoint.client_id.expand(number),
            clean: plan.endpoint.clean,
            login: plan.endpoint.login.clone(),
            keep_alive: run.keep_alive,
        };
        let window = if plan.qos == Qos::AtMostOnce { 0 } else { plan.window };
        let copies = worker.shared.audience.copies.get(index as usize).copied().unwrap_or(0);
        Ok(Publisher {
            id: PublisherId(number),
            index: index as usize,
            frames: Frames::new(payload, head, version)?,
            hello,
            qos: plan.qos,
            batch: plan.batch,
            ahead: u64::from(plan.ahead),
            messages_max: plan.messages.unwrap_or(u64::MAX),
            copies,
            gated: !worker.shared.gates.is_empty() && copies > 0,
            pacing: plan.pacing,
            seed,
            phase_share: f64::from(index) / f64::from(plan.count),
            schedule: None,
            next_due: Micros::NEVER,
            timer: worker.pacer.timer(),
            sequence: 0,
            sent: Sent::default(),
            inflight: Inflight::new(window, run.reconnect),
            blocked: false,
            blocked_until: Micros(0),
            written_off: 0,
            stall: None,
            was_ready: false,
            up: false,
            begun: false,
            stopped: false,
            finished: false,
            worker,
        })
    }

    /// One connection, from its CONNECT to the end of the run (`Ok`) or its loss (`Err`).
    async fn session(
        &mut self,
        phase: &mut watch::Receiver<Phase>,
        backoff: &mut Backoff,
    ) -> Result<(), ConnError> {
        let mut conn = {
            let worker = self.worker.clone();
            let _opening = worker.opening.acquire().await;
            let (conn, welcome) = Conn::open(&self.hello, |_, _| Ok(())).await?;
            self.inflight.allow(welcome.receive_max);
            if self.was_ready && !self.hello.clean && !welcome.session_present {
                Counters::add(&self.worker.counters.sessions_lost, 1);
            }
            conn
        };
        backoff.reset();
        self.note_ready();
        let again = self.inflight.write_again(&mut conn.out, self.hello.version);
        Counters::add(&self.worker.counters.resent, again);
        loop {
            let now_in = *phase.borrow_and_update();
            if now_in == Phase::Closing {
                conn.close().await;
                return Ok(());
            }
            if now_in >= Phase::Sending && !self.begun && !self.stopped {
                self.begin();
            }
            if now_in >= Phase::Draining {
                self.stop();
            }
            tokio::select! {
                biased;
                changed = phase.changed() => if changed.is_err() { return Ok(()) },
                broken = std::future::poll_fn(|cx| self.poll(&mut conn, cx)) => return Err(broken),
            }
        }
    }

    fn note_ready(&mut self) {
        let counters = &self.worker.counters;
        if self.was_ready {
            Counters::add(&counters.reconnects, 1);
        } else {
            Counters::add(&counters.ready, 1);
        }
        self.was_ready = true;
        self.up = true;
    }

    fn begin(&mut self) {
        let start = self.worker.shared.start();
        self.begun = true;
        self.next_due = start;
        if let Pacing::Open { rate, arrivals } = self.pacing {
            self.schedule =
                Some(Due::Made(Schedule::new(arrivals, rate, start, self.phase_share, self.seed)));
        }
        if let (Pacing::Replay, Some(recording)) = (self.pacing, &self.worker.shared.recording) {
            self.schedule = Some(Due::Recorded(Recorded::new(start, recording.of(self.index as u32))));
        }
        if self.schedule.is_some() {
            self.step();
        }
    }

    /// Does what can be done: takes acknowledgements, writes, makes messages. Ready only when the connection ends.
    fn poll(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<ConnError> {
        let worker = self.worker.clone();
        loop {
            conn.poll_ping(cx);
            let read =
                conn.poll_read(cx, &mut worker.buffer.borrow_mut(), |packet, out| self.take(&packet, out));
            if let Poll::Ready(Err(error)) = read {
                return Poll::Ready(error);
            }
            match conn.poll_flush(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => self.blocked = true,
                Poll::Ready(Ok(())) => match self.make(&mut conn.out, cx) {
                    Ok(0) => {}
                    Ok(_) => continue,
                    Err(error) => return Poll::Ready(error),
                },
            }
            if self.stopped && self.inflight.is_empty() {
                self.finish();
            }
            if read.is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn take(&mut self, packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<(), ConnError> {
        match packet {
            Packet::PubAck(ack) => self.settle(ack, "a PUBACK for nothing that is in flight"),
            Packet::PubComp(ack) => self.settle(ack, "a PUBCOMP for nothing that is in flight"),
            Packet::PubRec(ack) if ack.reason.is_error() => {
                self.settle(ack, "a PUBREC for nothing that is in flight")
            }
            Packet::PubRec(ack) => {
                let released = self.inflight.release(ack.packet_id);
                let unexpected = ConnError::Unexpected("a PUBREC for nothing that is in flight");
                let released = released.ok_or(unexpected)?;
                if released.first {
                    // From here on the broker owes it (MQTT 5.0 §4.3.3), though the exchange is not over.
                    self.sent.acked.insert(released.sequence);
                }
                wire::encode_ack(
                    out,
                    self.hello.version,
                    AckKind::PubRel,
                    ack.packet_id,
                    ReasonCode::SUCCESS,
                );
                Ok(())
            }
            other => Err(ConnError::Unexpected(other.packet_type().name())),
        }
    }

    /// The exchange of one message is over.
    fn settle(&mut self, ack: &Ack<'_>, unexpected: &'static str) -> Result<(), ConnError> {
        let Some((sequence, intended)) = self.inflight.take(ack.packet_id) else {
            return Err(ConnError::Unexpected(unexpected));
        };
        let Worker { shared, counters, timings, .. } = &*self.worker;
        // A PUBCOMP that knows no such identifier answers a PUBREL that was sent again: the first one had arrived.
        if ack.reason.is_error() && ack.reason != ReasonCode::PACKET_IDENTIFIER_NOT_FOUND {
            // The broker took no responsibility: the message is settled, and not acknowledged.
            Counters::add(&counters.refused, 1);
            return Ok(());
        }
        self.sent.acked.insert(sequence);
        Counters::add(&counters.acked, 1);
        if shared.measures(intended) {
            timings.ack.lock().saturating_record(shared.clock.now().since(intended).max(1));
        }
        Ok(())
    }

    /// Makes at most one batch of messages that are due; how many. At 0 the task is woken when there may be more.
    fn make(&mut self, out: &mut Vec<u8>, cx: &mut Context<'_>) -> Result<u64, ConnError> {
        if self.stopped || !self.begun {
            return Ok(0);
        }
        let now = self.worker.shared.clock.now();
        if std::mem::take(&mut self.blocked) {
            self.blocked_until = now;
        }
        let room = self.room(cx).min(u64::from(self.batch)).min(self.messages_max - self.sequence);
        let made = match self.pacing {
            Pacing::Max => self.make_now(out, room, now)?,
            Pacing::Open { .. } | Pacing::Replay => self.make_due(out, room, now)?,
        };
        if made > 0 {
            Counters::add(&self.worker.counters.sent, made);
            Counters::add(&self.worker.counters.owed, made * self.copies);
            return Ok(made);
        }
        if self.sequence == self.messages_max
            || self.next_due.max(now) >= self.worker.shared.end() && room > 0
        {
            self.stop();
        } else if room == 0 {
            self.blocked = true;
        } else if self.timer.is_due(cx, self.next_due, now) {
            // It became due just now: come back at once.
            cx.waker().wake_by_ref();
        }
        Ok(0)
    }

    /// How many more messages may be under way.
    fn room(&mut self, cx: &mut Context<'_>) -> u64 {
        let room = if self.qos == Qos::AtMostOnce { u64::MAX } else { self.inflight.room() };
        if self.gated && room > 0 { room.min(self.room_ahead(cx)) } else { room }
    }

    /// How many more messages may be sent and not have arrived.
    fn room_ahead(&mut self, cx: &mut Context<'_>) -> u64 {
        let gate = &self.worker.shared.gates[self.index];
        let gone = self.sequence * self.copies;
        let limit = self.ahead * self.copies;
        let open = |written_off| limit.saturating_sub(gone.saturating_sub(gate.arrived() + written_off));
        if self.stall.is_none() && open(self.written_off) > 0 {
            return open(self.written_off).div_ceil(self.copies);
        }
        // Once the window is full we sleep until half of it is open, not until each arrival: so batches stay large.
        if gate.has_reached(cx, (gone - limit / 2).saturating_sub(self.written_off)) {
            self.stall = None;
            return open(self.written_off).div_ceil(self.copies);
        }
        let (sleep, arrived) =
            self.stall.get_or_insert_with(|| (Box::pin(tokio::time::sleep(STALL)), gate.arrived()));
        while sleep.as_mut().poll(cx).is_ready() {
            if *arrived == gate.arrived() {
                self.written_off += gone.saturating_sub(gate.arrived() + self.written_off);
                self.stall = None;
                cx.waker().wake_by_ref();
                return 0;
            }
            // Something still arrives: the broker is slow, which is not the same as lossy.
            *arrived = gate.arrived();
            sleep.as_mut().reset(tokio::time::Instant::now() + STALL);
        }
        0
    }

    /// Closed loop: as many as there is room for.
    fn make_now(&mut self, out: &mut Vec<u8>, room: u64, now: Micros) -> Result<u64, ConnError> {
        if now < self.next_due || now >= self.worker.shared.end() {
            return Ok(0);
        }
        for _ in 0..room {
            self.write(out, now)?;
        }
        if self.worker.shared.measures(now) {
            Counters::add(&self.worker.counters.scheduled, room);
        }
        Ok(room)
    }

    /// Open loop: what the schedule says is due by now.
    fn make_due(&mut self, out: &mut Vec<u8>, room: u64, now: Micros) -> Result<u64, ConnError> {
        let worker = self.worker.clone();
        let end = worker.shared.end();
        let mut made = 0;
        if self.next_due > now || self.next_due >= end || room == 0 {
            return Ok(0);
        }
        let mut lateness = worker.timings.lateness.lock();
        while made < room && self.next_due <= now && self.next_due < end {
            let intended = self.next_due;
            self.write(out, intended)?;
            made += 1;
            if worker.shared.measures(intended) {
                let late = now.since(intended);
                lateness.saturating_record(late.max(1));
                self.note_lateness(intended, late);
            }
            self.step();
        }
        Ok(made)
    }

    fn step(&mut self) {
        if let Some(schedule) = &mut self.schedule {
            self.next_due = match schedule {
                Due::Made(schedule) => schedule.next_due(),
                Due::Recorded(recorded) => recorded.next_due(),
            };
        }
    }

    fn note_lateness(&self, intended: Micros, late: u64) {
        let counters = &self.worker.counters;
        Counters::add(&counters.scheduled, 1);
        if u128::from(late) <= self.worker.shared.scenario.run.slip_tolerance.as_micros() {
            return;
        }
        // Late because the broker was in the way when it was due, or by our own fault?
        let whose = if self.blocked_until >= intended { &counters.blocked } else { &counters.slipped };
        Counters::add(whose, 1);
    }

    #[inline]
    fn write(&mut self, out: &mut Vec<u8>, intended: Micros) -> Result<(), ConnError> {
        let sequence = self.sequence + 1;
        let stamp = Stamp { run: self.worker.shared.run, publisher: self.id, sequence, intended };
        let packet_id = match self.qos {
            Qos::AtMostOnce => None,
            _ => self.inflight.reserve(sequence, intended),
        };
        let start = out.len();
        self.frames.write(out, stamp, packet_id)?;
        if let Some(packet_id) = packet_id {
            self.inflight.keep(packet_id, &out[start..]);
        }
        self.sequence = sequence;
        self.sent.sent.insert(sequence);
        Ok(())
    }

    /// Sends no more. What was due until now and was not sent is the broker's doing if it was in the way, and ours if
    /// nothing was.
    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        let end = self.worker.shared.end().min(self.worker.shared.clock.now());
        let (mut unsent, mut blocked) = (0, 0);
        let mut index = self.sequence;
        while self.schedule.is_some() && self.next_due < end && index < self.messages_max {
            if self.worker.shared.measures(self.next_due) {
                unsent += 1;
                blocked += u64::from(self.blocked || self.blocked_until >= self.next_due);
            }
            index += 1;
            self.step();
        }
        let counters = &self.worker.counters;
        Counters::add(&counters.scheduled, unsent);
        Counters::add(&counters.blocked, blocked);
        Counters::add(&counters.slipped, unsent - blocked);
        Counters::add(&counters.unsent, unsent);
        Counters::add(&counters.stopped, 1);
    }

    fn finish(&mut self) {
        if !std::mem::replace(&mut self.finished, true) {
            Counters::add(&self.worker.counters.finished, 1);
        }
    }
}
