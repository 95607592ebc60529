//! One publisher: makes messages when they are due, writes them in batches, and counts what is acknowledged.
//!
//! Knows: its schedule, its window, its part of the ledger. May use: `conn`, `payload`, `schedule`.
//! Never: other connections; it learns of arrivals through its gate only.
//! Invariant: a message has a sequence number exactly if it was handed to a socket; at QoS 1 it is in flight from
//! then until its PUBACK, over any number of connections.

use std::num::NonZeroU16;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use model::Qos;
use tokio::sync::watch;
use tokio::time::Sleep;
use wire::{OutgoingPublish, Packet, Placed, Version};

use crate::clock::Micros;
use crate::conn::{Conn, ConnError, Hello};
use crate::ledger::{PublisherId, Sent};
use crate::pacer::Timer;
use crate::payload::{HEADER_BYTES, Payload, Stamp};
use crate::random::Random;
use crate::scenario::{Pacing, PayloadKind, Publishers};
use crate::schedule::Schedule;
use crate::stats::Counters;
use crate::worker::{Phase, Worker};

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
    schedule: Option<Schedule>,
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
    stopped: bool,
    finished: bool,
}

impl Publisher {
    fn new(worker: Rc<Worker>, plan: &Publishers, index: u32) -> Result<Publisher, ConnError> {
        let run = &worker.shared.scenario.run;
        let number = plan.first + index;
        let seed = run.seed.wrapping_mul(0x1_0000_0001).wrapping_add(u64::from(number));
        let payload = match plan.payload {
            PayloadKind::Binary { bytes } => Payload::binary(bytes, seed),
            PayloadKind::Telemetry { bytes } => Payload::telemetry(bytes, seed),
        };
        let head = Head { topic: plan.topic.expand(number), qos: plan.qos, retain: plan.retain };
        let hello = Hello {
            address: plan.endpoint.address.clone(),
            version: plan.endpoint.version,
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
            frames: Frames::new(payload, head, plan.endpoint.version)?,
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
            conn
        };
        backoff.reset();
        self.note_ready();
        let again = self.inflight.write_again(&mut conn.out);
        Counters::add(&self.worker.counters.resent, again);
        loop {
            let now_in = *phase.borrow_and_update();
            if now_in == Phase::Closing {
                conn.close().await;
                return Ok(());
            }
            if now_in >= Phase::Sending && self.schedule.is_none() && !self.stopped {
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
        self.next_due = start;
        if let Pacing::Open { rate, arrivals } = self.pacing {
            let mut schedule = Schedule::new(arrivals, rate, start, self.phase_share, self.seed);
            self.next_due = schedule.next_due();
            self.schedule = Some(schedule);
        }
    }

    /// Does what can be done: takes acknowledgements, writes, makes messages. Ready only when the connection ends.
    fn poll(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<ConnError> {
        let worker = self.worker.clone();
        loop {
            conn.poll_ping(cx);
            let read = conn.poll_read(cx, &mut worker.buffer.borrow_mut(), |packet, _| self.take(&packet));
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

    fn take(&mut self, packet: &Packet<'_>) -> Result<(), ConnError> {
        let Packet::PubAck(ack) = packet else {
            return Err(ConnError::Unexpected(packet.packet_type().name()));
        };
        let Some((sequence, intended)) = self.inflight.take(ack.packet_id) else {
            return Err(ConnError::Unexpected("a PUBACK for nothing that is in flight"));
        };
        let Worker { shared, counters, timings, .. } = &*self.worker;
        if ack.reason.is_error() {
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
        if self.stopped || self.next_due == Micros::NEVER {
            return Ok(0);
        }
        let now = self.worker.shared.clock.now();
        if std::mem::take(&mut self.blocked) {
            self.blocked_until = now;
        }
        let room = self.room(cx).min(u64::from(self.batch)).min(self.messages_max - self.sequence);
        let made = match self.pacing {
            Pacing::Max => self.make_now(out, room, now)?,
            Pacing::Open { .. } => self.make_due(out, room, now)?,
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
        let room = if self.qos == Qos::AtLeastOnce { self.inflight.room() } else { u64::MAX };
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
            self.next_due = schedule.next_due();
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

    /// Sends no more. What was due until now and could not be sent counts as blocked.
    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        let end = self.worker.shared.end().min(self.worker.shared.clock.now());
        let mut unsent = 0;
        let mut index = self.sequence;
        while self.schedule.is_some() && self.next_due < end && index < self.messages_max {
            unsent += u64::from(self.worker.shared.measures(self.next_due));
            index += 1;
            self.step();
        }
        let counters = &self.worker.counters;
        Counters::add(&counters.scheduled, unsent);
        Counters::add(&counters.blocked, unsent);
        Counters::add(&counters.stopped, 1);
    }

    fn finish(&mut self) {
        if !std::mem::replace(&mut self.finished, true) {
            Counters::add(&self.worker.counters.finished, 1);
        }
    }
}

/// What every PUBLISH of one publisher has in common.
struct Head {
    topic: String,
    qos: Qos,
    retain: bool,
}

/// Makes the frames of one publisher.
enum Frames {
    /// All alike but for packet identifier and payload header: a copy and two patches.
    Template { frame: Vec<u8>, placed: Placed, payload_at: usize, body: u64 },
    /// Encoded one by one.
    Each { payload: Payload, head: Head, version: Version },
}

impl Frames {
    fn new(payload: Payload, head: Head, version: Version) -> Result<Frames, ConnError> {
        let Payload::Binary { bytes, body } = &payload else {
            return Ok(Frames::Each { payload, head, version });
        };
        let mut frame = Vec::new();
        let placed = wire::encode_publish(&mut frame, version, &head.publish(bytes, None))?;
        Ok(Frames::Template { payload_at: frame.len() - bytes.len(), frame, placed, body: *body })
    }

    #[inline]
    fn write(
        &mut self,
        out: &mut Vec<u8>,
        stamp: Stamp,
        packet_id: Option<NonZeroU16>,
    ) -> Result<(), ConnError> {
        match self {
            Frames::Template { frame, placed, payload_at, body } => {
                if let Some(packet_id) = packet_id {
                    placed.patch(frame, packet_id);
                }
                crate::payload::write_header(&mut frame[*payload_at..], *body, stamp);
                out.extend_from_slice(frame);
            }
            Frames::Each { payload, head, version } => {
                wire::encode_publish(out, *version, &head.publish(payload.next(stamp), packet_id))?;
            }
        }
        Ok(())
    }
}

const _: () =
    assert!(HEADER_BYTES < 64, "a header is patched per message and should stay within a cache line");

impl Head {
    fn publish<'t>(&'t self, payload: &'t [u8], packet_id: Option<NonZeroU16>) -> OutgoingPublish<'t> {
        OutgoingPublish {
            qos: self.qos,
            retain: self.retain,
            packet_id,
            topic: &self.topic,
            payload,
            ..OutgoingPublish::default()
        }
    }
}

/// The messages that were sent and not yet acknowledged, by packet identifier.
struct Inflight {
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// How many may be in flight: our window, or the broker's Receive Maximum if that is less.
    allowed: usize,
    keep_frames: bool,
}

#[derive(Clone, Default)]
struct Slot {
    /// 0: the slot is free.
    sequence: u64,
    intended: Micros,
    frame: Vec<u8>,
}

impl Inflight {
    fn new(window: u16, keep_frames: bool) -> Inflight {
        Inflight {
            slots: vec![Slot::default(); usize::from(window)],
            free: (0..window).rev().collect(),
            allowed: usize::from(window),
            keep_frames,
        }
    }

    /// Takes over the broker's Receive Maximum [MQTT-3.3.4-9].
    fn allow(&mut self, receive_max: u16) {
        self.allowed = self.slots.len().min(usize::from(receive_max));
    }

    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn room(&self) -> u64 {
        self.allowed.saturating_sub(self.len()) as u64
    }

    fn reserve(&mut self, sequence: u64, intended: Micros) -> Option<NonZeroU16> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[usize::from(index)];
        slot.sequence = sequence;
        slot.intended = intended;
        NonZeroU16::new(index + 1)
    }

    /// Keeps the frame, in case that it must be sent again on another connection.
    fn keep(&mut self, packet_id: NonZeroU16, frame: &[u8]) {
        if self.keep_frames {
            let kept = &mut self.slots[usize::from(packet_id.get() - 1)].frame;
            kept.clear();
            kept.extend_from_slice(frame);
        }
    }

    fn take(&mut self, packet_id: NonZeroU16) -> Option<(u64, Micros)> {
        let index = packet_id.get() - 1;
        let slot = self.slots.get_mut(usize::from(index)).filter(|slot| slot.sequence > 0)?;
        let sequence = std::mem::take(&mut slot.sequence);
        self.free.push(index);
        Some((sequence, slot.intended))
    }

    /// Writes everything in flight again, oldest first, marked as repeats; how many.
    fn write_again(&mut self, out: &mut Vec<u8>) -> u64 {
        let mut waiting: Vec<&Slot> = self.slots.iter().filter(|slot| slot.sequence > 0).collect();
        waiting.sort_by_key(|slot| slot.sequence);
        for slot in &waiting {
            let start = out.len();
            out.extend_from_slice(&slot.frame);
            wire::set_dup(&mut out[start..]);
        }
        waiting.len() as u64
    }
}

/// Pauses between attempts to connect again.
pub(crate) struct Backoff {
    attempt: u32,
    random: Random,
}

impl Backoff {
    pub(crate) fn new(seed: u64) -> Backoff {
        Backoff { attempt: 0, random: Random::new(seed) }
    }

    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Waits; `false` if the run ends meanwhile.
    pub(crate) async fn wait(&mut self, phase: &mut watch::Receiver<Phase>) -> bool {
        let longest = (50 << self.attempt.min(5)).min(1_000);
        self.attempt += 1;
        // Jitter: a broker that comes back must not find the whole fleet at its door in the same millisecond.
        let pause = Duration::from_millis(20 + self.random.below(longest));
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            closing = phase.wait_for(|phase| *phase == Phase::Closing) => {
                drop(closing);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    #[test]
    fn the_window_bounds_what_is_in_flight() {
        let mut inflight = Inflight::new(2, false);
        let first = inflight.reserve(1, Micros(10)).unwrap();
        let second = inflight.reserve(2, Micros(11)).unwrap();
        assert!(first != second && inflight.room() == 0 && inflight.reserve(3, Micros(12)).is_none());
        assert_eq!(inflight.take(first), Some((1, Micros(10))));
        assert_eq!(inflight.take(first), None, "an acknowledgement counts once");
        assert_eq!((inflight.room(), inflight.take(id(9))), (1, None));
    }

    #[test]
    fn a_receive_maximum_below_the_window_wins() {
        let mut inflight = Inflight::new(100, false);
        inflight.allow(1);
        inflight.reserve(1, Micros(0)).unwrap();
        assert_eq!(inflight.room(), 0);
    }

    #[test]
    fn what_is_in_flight_is_sent_again_in_order_and_marked() {
        // [MQTT-4.4.0-1] [MQTT-4.6.0-1]: the original order, DUP set.
        let mut inflight = Inflight::new(3, true);
        for sequence in 1..=3 {
            let packet_id = inflight.reserve(sequence, Micros(0)).unwrap();
            inflight.keep(packet_id, &[0x32, sequence as u8]);
        }
        inflight.take(id(1)).unwrap();
        let packet_id = inflight.reserve(4, Micros(0)).unwrap();
        inflight.keep(packet_id, &[0x32, 4]);
        let mut out = Vec::new();
        assert_eq!(inflight.write_again(&mut out), 3);
        assert_eq!(out, [0x3A, 2, 0x3A, 3, 0x3A, 4]);
    }

    #[test]
    fn a_template_writes_what_the_encoder_would() {
        for version in [Version::V3, Version::V5] {
            let head = || Head { topic: "load/1".to_owned(), qos: Qos::AtLeastOnce, retain: false };
            let mut payload = Payload::binary(100, 5);
            let mut frames = Frames::new(payload.clone(), head(), version).unwrap();
            for sequence in 1..4 {
                let stamp = Stamp {
                    run: crate::payload::RunId(1),
                    publisher: PublisherId(1),
                    sequence,
                    intended: Micros(9),
                };
                let (mut made, mut expected) = (Vec::new(), Vec::new());
                frames.write(&mut made, stamp, Some(id(sequence as u16))).unwrap();
                let publish = head();
                let publish = publish.publish(payload.next(stamp), Some(id(sequence as u16)));
                wire::encode_publish(&mut expected, version, &publish).unwrap();
                assert_eq!(made, expected);
            }
        }
    }
}
