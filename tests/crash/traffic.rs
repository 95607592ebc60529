//! Publishers that never give up, and a subscriber that always comes back.
//!
//! A publisher sends numbered messages with a window, and after a lost connection sends again whatever was not
//! acknowledged, in order, as a good client does: with QoS 2 PUBLISH or PUBREL, in a session that is kept. A subscriber
//! remembers the QoS 2 identifiers it holds. In: where the router is now. Out: how many were acknowledged.

use std::collections::BTreeSet;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use harness::{
    Connect, Connection, Incoming, OutgoingPublish, PATIENCE, QOS_2, Qos, Random, ReasonCode, Received,
    Router, Version, until, v3, v5,
};
use wire::AckKind;

use crate::ledger::{Ledger, payload, topic};

/// Pause before the next attempt to connect.
const RETRY: Duration = Duration::from_millis(5);
/// Pause after a full window, so that a round is some ten thousand messages and not a million.
const PACE: Duration = Duration::from_millis(2);

/// Acknowledged messages before anything happens to a router.
pub(crate) const TRAFFIC: u64 = 100;

/// Where a router is now.
#[derive(Clone, Debug)]
pub(crate) struct Target(Arc<Mutex<SocketAddr>>);

impl Target {
    fn new(address: SocketAddr) -> Target {
        Target(Arc::new(Mutex::new(address)))
    }

    pub(crate) fn set(&self, address: SocketAddr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    fn address(&self) -> SocketAddr {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Load on a router.
pub(crate) struct Traffic;

impl Traffic {
    /// Publishes, runs `course` once there is traffic for it to hit, then waits until everything that was sent is acknowledged.
    ///
    /// How many messages of each publisher were acknowledged.
    pub(crate) fn run(
        address: SocketAddr,
        seed: u64,
        publishers: usize,
        qos: Qos,
        course: impl FnOnce(&Target),
    ) -> Vec<u64> {
        let target = Target::new(address);
        let over = Arc::new(AtomicBool::new(false));
        let total = Arc::new(AtomicU64::new(0));
        let start = |number: usize| {
            let (target, over) = (target.clone(), Arc::clone(&over));
            let publisher = Publisher::new(number, seed, qos, Arc::clone(&total));
            std::thread::spawn(move || publisher.run(&target, &over))
        };
        let threads: Vec<_> = (0..publishers).map(start).collect();
        until("some traffic", || (total.load(Ordering::SeqCst) > TRAFFIC).then_some(()));
        course(&target);
        over.store(true, Ordering::SeqCst);
        threads.into_iter().map(|thread| thread.join().expect("a publisher sees no fault")).collect()
    }
}

struct Publisher {
    number: usize,
    seed: u64,
    connect: Connect,
    qos: Qos,
    window: u64,
    /// All below are acknowledged: by PUBACK or PUBCOMP.
    acknowledged: u64,
    /// What is acknowledged to all publishers.
    total: Arc<AtomicU64>,
    /// All below have their PUBREC; with QoS 1 nothing has.
    received: u64,
    /// All below were sent at least once.
    reached: u64,
}

impl Publisher {
    fn new(number: usize, seed: u64, qos: Qos, total: Arc<AtomicU64>) -> Publisher {
        let client_id = format!("publisher-{number}");
        let mut connect = if number.is_multiple_of(2) { v5(&client_id) } else { v3(&client_id) };
        if qos == QOS_2 {
            connect.clean_start = false;
            connect.session_expiry_secs = if connect.version == Version::V5 { 86_400 } else { 0 };
        }
        let window = Random::new(seed ^ number as u64).between(1, 64);
        Publisher { number, seed, connect, qos, window, acknowledged: 0, total, received: 0, reached: 0 }
    }

    fn run(mut self, target: &Target, over: &AtomicBool) -> u64 {
        let mut deadline = None;
        loop {
            let is_over = over.load(Ordering::SeqCst);
            if is_over && self.acknowledged == self.reached {
                return self.acknowledged;
            }
            if is_over {
                let deadline = deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
                assert!(Instant::now() < *deadline, "nobody acknowledges publisher {}", self.number);
            }
            // An error is a lost connection: the next one goes on where this one was.
            if self.publish(target, over).is_err() {
                sleep(RETRY);
            }
        }
    }

    /// One connection, until it is lost or everything is done.
    fn publish(&mut self, target: &Target, over: &AtomicBool) -> std::io::Result<()> {
        let mut connection = Connection::open(target.address(), self.connect.version)?;
        let greeting = connection.greet(&self.connect)?;
        if self.qos == QOS_2 {
            let (number, reached) = (self.number, self.reached);
            assert!(greeting.session_present || reached == 0, "publisher {number}: its session is lost");
        }
        let mut out = Vec::new();
        // [MQTT-4.4.0-1]: what has its PUBREC is released again, the rest is sent again.
        (self.acknowledged..self.received).for_each(|number| self.encode_release(&mut out, number));
        let mut sent = self.received.max(self.acknowledged);
        loop {
            let is_over = over.load(Ordering::SeqCst);
            while sent - self.acknowledged < self.window && (!is_over || sent < self.reached) {
                self.encode(&mut out, sent);
                sent += 1;
            }
            self.reached = self.reached.max(sent);
            connection.write(&out)?;
            out.clear();
            if sent == self.acknowledged {
                return Ok(());
            }
            sleep(PACE);
            let mut wait = PATIENCE;
            while let Some(packet) = connection.receive(wait)? {
                self.on_packet(&packet, &mut out)?;
                wait = Duration::ZERO;
                if sent == self.acknowledged {
                    break;
                }
            }
        }
    }

    fn encode(&self, out: &mut Vec<u8>, number: u64) {
        let (topic, payload) = (topic(self.number), payload(self.seed, self.number, number));
        let publish = OutgoingPublish {
            topic: &topic,
            payload: &payload,
            qos: self.qos,
            dup: number < self.reached,
            packet_id: Some(packet_id(number)),
            ..Default::default()
        };
        wire::encode_publish(out, self.connect.version, &publish).expect("a legal PUBLISH");
    }

    fn encode_release(&self, out: &mut Vec<u8>, number: u64) {
        wire::encode_ack(out, self.connect.version, AckKind::PubRel, packet_id(number), ReasonCode::SUCCESS);
    }

    fn on_packet(&mut self, packet: &Incoming, out: &mut Vec<u8>) -> std::io::Result<()> {
        match packet {
            Incoming::PubRec(id, reason) if self.qos == QOS_2 => {
                // [MQTT-4.6.0-3]
                assert_eq!(*id, packet_id(self.received), "publisher {}", self.number);
                assert!(!reason.is_error(), "publisher {}: {reason:?}", self.number);
                self.encode_release(out, self.received);
                self.received += 1;
                Ok(())
            }
            Incoming::PubComp(id, reason) if self.qos == QOS_2 => {
                assert_eq!(*id, packet_id(self.acknowledged), "publisher {}", self.number);
                // Not found: it was over, and we have not heard of it.
                let is_over = !reason.is_error() || *reason == ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;
                assert!(is_over, "publisher {}: {reason:?}", self.number);
                self.acknowledged += 1;
                self.total.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            Incoming::PubAck(id, reason) => {
                // [MQTT-4.6.0-2]: acknowledgements come in the order of the publications.
                assert_eq!(*id, packet_id(self.acknowledged), "publisher {}", self.number);
                assert!(!reason.is_error(), "publisher {}: {reason:?}", self.number);
                self.acknowledged += 1;
                self.total.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            Incoming::Disconnect(reason) => Err(std::io::Error::other(format!("{reason:?}"))),
            other => panic!("publisher {} did not ask for {other:?}", self.number),
        }
    }
}

fn packet_id(number: u64) -> NonZeroU16 {
    NonZeroU16::new((number % 65_535) as u16 + 1).expect("1 to 65535")
}

/// One whose session is kept, and who reads and acknowledges whenever it can.
pub(crate) struct Subscriber {
    target: Target,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    record: Mutex<Vec<Received>>,
    /// Identifiers of QoS 2 messages that are not released: its part of the session.
    held: Mutex<BTreeSet<NonZeroU16>>,
    stream: Mutex<Option<TcpStream>>,
    over: AtomicBool,
}

impl Subscriber {
    pub(crate) fn start(router: &Router, connect: Connect) -> Subscriber {
        let (target, shared) = (Target::new(router.address()), Arc::new(Shared::default()));
        let (for_thread, where_to) = (Arc::clone(&shared), target.clone());
        let thread = std::thread::spawn(move || {
            while !for_thread.over.load(Ordering::SeqCst) {
                // An error is a lost connection: the session goes on with the next one.
                if for_thread.listen(&where_to, &connect).is_err() {
                    sleep(RETRY);
                }
            }
        });
        Subscriber { target, shared, thread: Some(thread) }
    }

    /// Where it connects.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Cuts its connection.
    pub(crate) fn lose_connection(&self) {
        if let Some(stream) = self.shared.stream.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It may be closed already.
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    /// Waits until the ledger misses nothing any more, or the time is over.
    pub(crate) fn drain_into(mut self, ledger: &mut Ledger, time: Duration) {
        let deadline = Instant::now() + time;
        loop {
            let arrived =
                std::mem::take(&mut *self.shared.record.lock().unwrap_or_else(PoisonError::into_inner));
            arrived.iter().for_each(|message| ledger.arrived(message));
            if ledger.is_complete() || Instant::now() >= deadline {
                break;
            }
            sleep(RETRY);
        }
        self.shared.over.store(true, Ordering::SeqCst);
        self.lose_connection();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the subscriber sees no fault");
        }
    }
}

impl Shared {
    fn listen(&self, target: &Target, connect: &Connect) -> std::io::Result<()> {
        let mut connection = Connection::open(target.address(), connect.version)?;
        let greeting = connection.greet(connect)?;
        assert!(greeting.session_present, "a kept session is found again");
        let copy = connection.stream().try_clone()?;
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
        while !self.over.load(Ordering::SeqCst) {
            match connection.receive(Duration::from_millis(100))? {
                Some(Incoming::Publish(message)) => self.take(&mut connection, message)?,
                Some(Incoming::PubRel(id, _)) => {
                    self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                    connection.answer(AckKind::PubComp, id)?;
                }
                Some(Incoming::Disconnect(reason)) => {
                    return Err(std::io::Error::other(format!("{reason:?}")));
                }
                Some(other) => panic!("the subscriber did not ask for {other:?}"),
                None => {}
            }
        }
        Ok(())
    }
    /// Enters a message, unless it is a repeat of one whose identifier is held, and answers it.
    fn take(&self, connection: &mut Connection, message: Received) -> std::io::Result<()> {
        let Some(id) = message.packet_id else { panic!("{message:?} was published with QoS 1 or 2") };
        let once = message.qos == QOS_2;
        if once && !self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            assert!(message.dup, "{id} is held, and comes for another message"); // [MQTT-4.3.3-2]
        } else {
            self.record.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        }
        connection.answer(if once { AckKind::PubRec } else { AckKind::PubAck }, id)
    }
}
