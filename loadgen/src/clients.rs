//! Clients that come and go: connection storms, reconnect storms, storms of wills.
//!
//! Knows: when each connects and leaves, and how. May use: `conn`, `payload`. Never: what arrives at its subscription;
//! that is acknowledged and not judged, `[subscribers]` do that.
//! Invariant: how long a connection took counts from when it was due, not from when somebody got round to it; a will
//! counts as sent exactly if its client vanished after its CONNACK.

use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::sync::watch;
use wire::{AckKind, Packet, ReasonCode, Version, Will};

use crate::clock::Micros;
use crate::conn::{Conn, ConnError, Hello};
use crate::ledger::{PublisherId, Sent};
use crate::pacer::Timer;
use crate::payload::{HEADER_BYTES, Payload, Stamp};
use crate::scenario::{Clients, Leave};
use crate::stats::Counters;
use crate::worker::{Phase, Worker};

/// Wills carry stamps like messages, from publishers with numbers that no publisher has.
const WILLS_FROM: u32 = 2_000_000_000;

/// Who the will of a client is from.
pub(crate) fn will_of(number: u32) -> PublisherId {
    PublisherId(WILLS_FROM + number)
}

/// Runs one client through all its connections.
pub(crate) async fn run(worker: Rc<Worker>, index: u32) {
    let Some(plan) = worker.shared.scenario.clients.clone() else { return };
    let mut phase = worker.shared.phase.subscribe();
    if phase.wait_for(|phase| *phase >= Phase::Sending).await.is_err() {
        return;
    }
    let start = worker.shared.start();
    let mut client = Client {
        timer: worker.pacer.timer(),
        number: plan.first + index,
        index: index as usize,
        sent: Sent::default(),
        plan,
        worker,
    };
    let mut due = client.plan.due(start, index);
    for cycle in 1..=u64::from(client.plan.cycles) {
        let worker = client.worker.clone();
        std::future::poll_fn(|cx| client.wait(cx, due)).await;
        if *phase.borrow() >= Phase::Draining {
            break;
        }
        match client.cycle(cycle, due, start, &mut phase).await {
            Ok(Some(left)) => due = left,
            Ok(None) => break,
            Err(error) => {
                Counters::add(&worker.counters.connects_failed, 1);
                worker.shared.note_error(format!("client {}: {error}", client.number));
                due = worker.shared.clock.now();
            }
        }
    }
    Counters::add(&client.worker.counters.clients_done, 1);
    let (id, sent) = (will_of(client.number), &client.sent);
    client.worker.shared.settle(|ledger| ledger.add_sent(id, sent));
}

struct Client {
    worker: Rc<Worker>,
    plan: Clients,
    number: u32,
    index: usize,
    timer: Timer,
    sent: Sent,
}

impl Client {
    /// One connection. When it left; `None` if it stayed to the end of the run.
    async fn cycle(
        &mut self,
        cycle: u64,
        due: Micros,
        start: Micros,
        phase: &mut watch::Receiver<Phase>,
    ) -> Result<Option<Micros>, ConnError> {
        let worker = self.worker.clone();
        let leave_at = self.plan.leave_at(start, due, cycle);
        let hello = self.hello(cycle, leave_at.unwrap_or(due));
        let mut conn = {
            let _opening = worker.storming.acquire().await;
            let version = hello.version;
            let mut early = |packet: Packet<'_>, out: &mut Vec<u8>| answer(&packet, out, version);
            let (mut conn, _) = Conn::open(&hello, &mut early).await?;
            if let Some(filter) = &self.plan.filter {
                let filter = filter.expand(self.number);
                conn.subscribe(&hello.address, &filter, self.plan.qos, &mut early).await?;
            }
            conn
        };
        let now = worker.shared.clock.now();
        Counters::add(&worker.counters.connects, 1);
        if worker.shared.measures(due) {
            worker.timings.connect.lock().saturating_record(now.since(due).max(1));
        }
        let left = self.stay(&mut conn, hello.version, leave_at, phase).await;
        Counters::add(&worker.counters.left, 1);
        match left {
            Ok(()) if leave_at.is_none() || *phase.borrow() == Phase::Closing => {
                conn.close().await;
                Ok(None)
            }
            Ok(()) => {
                let left = leave_at.unwrap_or(now);
                match self.plan.leave {
                    Leave::Disconnect => conn.close().await,
                    Leave::Vanish => self.vanish(conn, cycle),
                }
                Ok(Some(left))
            }
            Err(error) => {
                Counters::add(&worker.counters.lost_connections, 1);
                Err(error)
            }
        }
    }

    fn hello(&self, cycle: u64, leave_at: Micros) -> Hello {
        let Worker { shared, .. } = &*self.worker;
        let endpoint = &self.plan.endpoint;
        let will = self.plan.will.as_ref().map(|will| {
            let stamp = Stamp {
                run: shared.run,
                publisher: will_of(self.number),
                sequence: cycle,
                intended: leave_at,
            };
            Will {
                topic: will.topic.expand(self.number),
                payload: Payload::binary(HEADER_BYTES, 0).next(stamp).to_vec(),
                qos: will.qos,
                ..Will::default()
            }
        });
        Hello {
            address: endpoint.address.clone(),
            tls: shared.tls.clone(),
            version: endpoint.version,
            client_id: endpoint.client_id.expand(self.number),
            clean: endpoint.clean,
            login: endpoint.login.clone(),
            keep_alive: shared.scenario.run.keep_alive,
            will,
        }
    }

    /// Stays until it is time to leave, or the run ends.
    async fn stay(
        &self,
        conn: &mut Conn,
        version: Version,
        leave_at: Option<Micros>,
        phase: &mut watch::Receiver<Phase>,
    ) -> Result<(), ConnError> {
        tokio::select! {
            biased;
            closing = phase.wait_for(|phase| *phase == Phase::Closing) => {
                drop(closing);
                Ok(())
            }
            left = std::future::poll_fn(|cx| self.poll(conn, version, leave_at, cx)) => left,
        }
    }

    fn poll(
        &self,
        conn: &mut Conn,
        version: Version,
        leave_at: Option<Micros>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ConnError>> {
        if leave_at.is_some_and(|at| self.timer.is_due(cx, at, self.worker.shared.clock.now())) {
            return Poll::Ready(Ok(()));
        }
        conn.poll_ping(cx);
        let mut buffer = self.worker.buffer.borrow_mut();
        loop {
            if let Poll::Ready(Err(error)) = conn.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            match conn.poll_read(cx, &mut buffer, |packet, out| answer(&packet, out, version)) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
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

    /// Gone without a DISCONNECT: from here on the broker owes the will [MQTT-3.1.2-8].
    fn vanish(&mut self, conn: Conn, cycle: u64) {
        drop(conn);
        if self.plan.will.is_some() {
            self.sent.sent.insert(cycle);
            self.sent.acked.insert(cycle);
            let copies = self.worker.shared.audience.will_copies.get(self.index).copied().unwrap_or(0);
            Counters::add(&self.worker.counters.sent, 1);
            Counters::add(&self.worker.counters.owed, copies);
        }
    }
}

/// Acknowledges whatever comes.
fn answer(packet: &Packet<'_>, out: &mut Vec<u8>, version: Version) -> Result<(), ConnError> {
    let (kind, packet_id) = match packet {
        Packet::Publish(publish) => match (publish.qos, publish.packet_id) {
            (model::Qos::AtLeastOnce, Some(packet_id)) => (AckKind::PubAck, packet_id),
            (model::Qos::ExactlyOnce, Some(packet_id)) => (AckKind::PubRec, packet_id),
            _ => return Ok(()),
        },
        Packet::PubRel(ack) => (AckKind::PubComp, ack.packet_id),
        other => return Err(ConnError::Unexpected(other.packet_type().name())),
    };
    wire::encode_ack(out, version, kind, packet_id, ReasonCode::SUCCESS);
    Ok(())
}
