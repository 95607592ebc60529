//! A null sink: the least broker that carries a load. It proves what the generator itself can do, and its faults
//! on command prove that the referee sees them.
//!
//! Knows: CONNECT, SUBSCRIBE, PUBLISH at each QoS, groups in turn, retained messages of a run, PING. Never: sessions,
//! retransmission, expiry, access rules; it is no router and must not become one.
//! Invariant: one thread; a publisher is not read while any outbox is above its bound, so memory is bounded.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use model::{Qos, TopicFilter};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::Sleep;
use wire::{
    Ack, AckKind, ConnAck, OutgoingPublish, Packet, Publish, ReasonCode, SubAck, Subscribe, Subscription,
    Version,
};

use crate::conn::{Conn, ConnError, READ_BYTES};

mod awake;

/// Bytes for one subscriber that it has not taken; above it nobody who publishes is read.
const OUTBOX_BYTES_MAX: usize = 1 << 20;

/// What to do wrong, each with every n-th message forwarded; 0 is never. For testing the referee.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Acknowledge and do not deliver.
    pub lose_every: u64,
    /// Deliver twice.
    pub repeat_every: u64,
    /// Deliver after the next one.
    pub delay_every: u64,
    /// Flip a bit of the payload.
    pub corrupt_every: u64,
}

/// How it treats those who publish to it: the plant or the cloud of a gateway on a bad day.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// Publications to these topics are refused, every time: in 5.0 with *payload format invalid*; 3.1.1 has no words
    /// for it, and the connection ends.
    pub refuse: Option<TopicFilter>,
    /// Publications a second that it takes from each connection.
    pub per_second: Option<f64>,
    /// It does not sleep until so long after the last publication: what it adds is then its work alone, and not the time
    /// that its processor takes to wake. For calibration.
    pub spin: Duration,
}

/// What has become of publications so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// Taken and forwarded.
    pub taken: AtomicU64,
    /// Refused as told.
    pub refused: AtomicU64,
}

/// A null sink that listens.
pub struct NullBroker {
    listener: TcpListener,
    address: SocketAddr,
    faults: Faults,
    manners: Manners,
    tally: Arc<Tally>,
}

impl NullBroker {
    /// Listens at `address` (`host:port`, port 0 takes a free one).
    pub async fn bind(address: &str) -> std::io::Result<NullBroker> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(NullBroker {
            listener,
            address,
            faults: Faults::default(),
            manners: Manners::default(),
            tally: Arc::default(),
        })
    }

    /// The same, with faults.
    #[must_use]
    pub fn with(self, faults: Faults) -> NullBroker {
        NullBroker { faults, ..self }
    }

    /// The same, with manners.
    #[must_use]
    pub fn behaving(self, manners: Manners) -> NullBroker {
        NullBroker { manners, ..self }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until dropped. Must run on a current-thread runtime.
    pub async fn serve(self) {
        let NullBroker { faults, manners, tally, .. } = self;
        let hub = Rc::new(Hub { faults, manners, tally, ..Hub::default() });
        hub.buffer.borrow_mut().resize(READ_BYTES, 0);
        let tasks = tokio::task::LocalSet::new();
        awake::keep(&hub, &tasks);
        tasks
            .run_until(async {
                loop {
                    // A connection that fails while it is accepted is its peer's loss.
                    if let Ok((stream, _)) = self.listener.accept().await {
                        tokio::task::spawn_local(serve(hub.clone(), stream));
                    }
                }
            })
            .await;
    }

    /// Serves on a thread of its own, at a free local port, until the handle is dropped.
    pub fn start(faults: Faults) -> std::io::Result<NullHandle> {
        NullBroker::start_at("127.0.0.1:0", faults, Manners::default())
    }

    /// The same at this address.
    pub fn start_at(address: &str, faults: Faults, manners: Manners) -> std::io::Result<NullHandle> {
        let address = address.to_owned();
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("null".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let broker = NullBroker::bind(&address).await?.with(faults).behaving(manners);
                tell.send((broker.address(), broker.tally.clone())).ok();
                tokio::select! {
                    () = broker.serve() => {}
                    _ = stopped => {}
                }
                Ok::<(), std::io::Error>(())
            })
        })?;
        match told.recv() {
            Ok((address, tally)) => Ok(NullHandle { address, tally, stop: Some(stop), thread: Some(thread) }),
            Err(_) => match thread.join() {
                Ok(Err(error)) => Err(error),
                _ => Err(std::io::Error::other("the null sink ended at once")),
            },
        }
    }
}

/// A null sink on its own thread; ends when dropped.
pub struct NullHandle {
    address: SocketAddr,
    tally: Arc<Tally>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl NullHandle {
    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// What has become of publications so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Drop for NullHandle {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its end is all we wait for.
            thread.join().ok();
        }
    }
}

/// What all connections share.
#[derive(Default)]
struct Hub {
    subscribers: RefCell<Vec<Rc<Outbox>>>,
    /// By topic, who gets it; emptied when subscriptions change.
    routes: RefCell<HashMap<String, Rc<Route>>>,
    retained: RefCell<BTreeMap<String, Kept>>,
    buffer: RefCell<Vec<u8>>,
    full: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
    /// To be woken by the next publication, so that the thread does not sleep before the one after it.
    asleep: Cell<Option<Waker>>,
    faults: Faults,
    manners: Manners,
    tally: Arc<Tally>,
    forwarded: Cell<u64>,
}

/// Who gets a topic: everybody of the first, and in turn one of each group.
#[derive(Default)]
struct Route {
    all: Vec<Rc<Outbox>>,
    groups: Vec<(Cell<usize>, Vec<Rc<Outbox>>)>,
}

/// A retained message.
struct Kept {
    qos: Qos,
    properties: Vec<u8>,
    payload: Vec<u8>,
}

/// What waits for one subscriber.
struct Outbox {
    filters: RefCell<Vec<(TopicFilter, Qos)>>,
    version: Version,
    bytes: RefCell<Vec<u8>>,
    delayed: RefCell<Vec<u8>>,
    packet_id: Cell<u16>,
    full: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

async fn serve(hub: Rc<Hub>, stream: TcpStream) {
    let Ok(mut client) = Client::accept(hub.clone(), stream) else { return };
    // Whatever ends a connection ends this connection only; the peer has the better error message.
    std::future::poll_fn(|cx| client.poll(cx)).await;
    if let Some(outbox) = client.outbox {
        hub.subscribers.borrow_mut().retain(|other| !Rc::ptr_eq(other, &outbox));
        hub.routes.borrow_mut().clear();
        hub.note_full(&outbox, false);
    }
}

struct Client {
    hub: Rc<Hub>,
    conn: Conn,
    version: Version,
    outbox: Option<Rc<Outbox>>,
    /// QoS 2: identifiers between PUBLISH and PUBREL.
    unreleased: HashSet<NonZeroU16>,
    /// Where publications are taken at a pace: when the next may be.
    pace: Option<Pace>,
}

/// A pace at which one connection is read.
struct Pace {
    per_second: f64,
    rest: Pin<Box<Sleep>>,
    /// Small, so that a read is a small part of a second.
    buffer: Vec<u8>,
}

/// Bytes that are read at once where there is a pace.
const PACED_READ_BYTES: usize = 4 << 10;

impl Pace {
    fn new(per_second: f64) -> Pace {
        let buffer = vec![0; PACED_READ_BYTES];
        Pace { per_second, rest: Box::pin(tokio::time::sleep(Duration::ZERO)), buffer }
    }

    /// So many were taken: what is owed in time adds up from the last deadline, or from now if that is over.
    fn took(&mut self, count: u32) {
        let from = self.rest.deadline().max(tokio::time::Instant::now());
        let owed = Duration::from_secs_f64(f64::from(count) / self.per_second);
        self.rest.as_mut().reset(from + owed);
    }
}

impl Client {
    fn accept(hub: Rc<Hub>, stream: TcpStream) -> std::io::Result<Client> {
        let conn = Conn::accepted(stream)?;
        let pace = hub.manners.per_second.map(Pace::new);
        Ok(Client { hub, conn, version: Version::V3, outbox: None, unreleased: HashSet::new(), pace })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnError> {
        loop {
            if let Some(outbox) = &self.outbox {
                let mut bytes = outbox.bytes.borrow_mut();
                if self.conn.out.is_empty() {
                    std::mem::swap(&mut self.conn.out, &mut bytes);
                } else if self.conn.out.len() < OUTBOX_BYTES_MAX {
                    self.conn.out.append(&mut bytes);
                }
                if bytes.is_empty() {
                    self.hub.note_full(outbox, false);
                }
                *outbox.waker.borrow_mut() = Some(cx.waker().clone());
            }
            match self.conn.poll_flush(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Ready(Ok(())) if self.has_more() => continue,
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            if self.hub.full.get() > 0 && self.outbox.is_none() {
                self.hub.waiting.borrow_mut().push(cx.waker().clone());
                return Poll::Pending;
            }
            if let Some(pace) = &mut self.pace {
                std::task::ready!(pace.rest.as_mut().poll(cx));
            }
            let Client { hub, conn, version, outbox, unreleased, pace } = self;
            let mut shared = hub.buffer.borrow_mut();
            let buffer = pace.as_mut().map_or(&mut *shared, |pace| &mut pace.buffer);
            let mut count = 0;
            let read = conn.poll_read(cx, buffer, |packet, out| match packet {
                Packet::Publish(publish) if hub.refuses(&publish) => {
                    count += 1;
                    hub.refuse(&publish, *version, out)
                }
                Packet::PubRel(ack) => {
                    unreleased.remove(&ack.packet_id);
                    wire::encode_ack(out, *version, AckKind::PubComp, ack.packet_id, ReasonCode::SUCCESS);
                    Ok(())
                }
                Packet::Publish(publish) if publish.qos == Qos::ExactlyOnce => {
                    let packet_id = publish.packet_id.unwrap_or(NonZeroU16::MIN);
                    wire::encode_ack(out, *version, AckKind::PubRec, packet_id, ReasonCode::SUCCESS);
                    count += 1;
                    if unreleased.insert(packet_id) { hub.forward(&publish) } else { Ok(()) }
                }
                packet => {
                    count += u32::from(matches!(packet, Packet::Publish(_)));
                    hub.take(packet, out, version, outbox)
                }
            });
            drop(shared);
            if let Some(pace) = pace {
                pace.took(count);
            }
            self.conn.set_version(self.version);
            match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Ready(Ok(())) => {}
            }
        }
    }

    fn has_more(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| !outbox.bytes.borrow().is_empty())
    }
}

impl Hub {
    fn take(
        &self,
        packet: Packet<'_>,
        out: &mut Vec<u8>,
        version: &mut Version,
        outbox: &mut Option<Rc<Outbox>>,
    ) -> Result<(), ConnError> {
        match packet {
            Packet::Publish(publish) => {
                if let Some(packet_id) = publish.packet_id {
                    wire::encode_ack(out, *version, AckKind::PubAck, packet_id, ReasonCode::SUCCESS);
                }
                self.forward(&publish)?;
            }
            Packet::PubAck(Ack { .. }) | Packet::PubComp(Ack { .. }) => {}
            Packet::PubRec(ack) => {
                wire::encode_ack(out, *version, AckKind::PubRel, ack.packet_id, ReasonCode::SUCCESS);
            }
            Packet::Connect(connect) => {
                *version = connect.version;
                wire::encode_connack(out, *version, &ConnAck::new(false, ReasonCode::SUCCESS))?;
            }
            Packet::Subscribe(subscribe) => {
                let own = outbox.get_or_insert_with(|| self.add_subscriber(*version));
                self.subscribe(own, &subscribe, out)?;
            }
            Packet::PingReq => wire::encode_pingresp(out),
            other => return Err(ConnError::Unexpected(other.packet_type().name())),
        }
        Ok(())
    }

    fn refuses(&self, publish: &Publish<'_>) -> bool {
        let refuse = self.manners.refuse.as_ref();
        refuse.is_some_and(|filter| model::filter_matches(filter.as_str(), publish.topic))
    }

    fn refuse(&self, publish: &Publish<'_>, version: Version, out: &mut Vec<u8>) -> Result<(), ConnError> {
        self.tally.refused.fetch_add(1, Ordering::Relaxed);
        let kind = match publish.qos {
            Qos::AtMostOnce => return Ok(()),
            Qos::AtLeastOnce => AckKind::PubAck,
            Qos::ExactlyOnce => AckKind::PubRec,
        };
        if version == Version::V3 {
            return Err(ConnError::Unexpected("PUBLISH to a topic that is refused"));
        }
        let packet_id = publish.packet_id.unwrap_or(NonZeroU16::MIN);
        wire::encode_ack(out, version, kind, packet_id, ReasonCode::PAYLOAD_FORMAT_INVALID);
        Ok(())
    }

    fn add_subscriber(&self, version: Version) -> Rc<Outbox> {
        let outbox = Rc::new(Outbox {
            filters: RefCell::default(),
            version,
            bytes: RefCell::default(),
            delayed: RefCell::default(),
            packet_id: Cell::new(0),
            full: Cell::new(false),
            waker: RefCell::default(),
        });
        self.subscribers.borrow_mut().push(outbox.clone());
        outbox
    }

    fn subscribe(&self, outbox: &Outbox, subscribe: &Subscribe, out: &mut Vec<u8>) -> Result<(), ConnError> {
        let mut reasons = Vec::new();
        for wanted in &subscribe.subscriptions {
            match TopicFilter::new(&wanted.filter) {
                Ok(filter) => {
                    outbox.filters.borrow_mut().push((filter, wanted.qos));
                    reasons.push(ReasonCode::granted(wanted.qos));
                }
                Err(_) => reasons.push(ReasonCode::TOPIC_FILTER_INVALID),
            }
        }
        self.routes.borrow_mut().clear();
        wire::encode_suback(out, outbox.version, &SubAck::new(subscribe.packet_id, reasons))?;
        for wanted in &subscribe.subscriptions {
            self.give_retained(outbox, wanted, out)?;
        }
        Ok(())
    }

    /// Straight behind the SUBACK, however much it is: enough for a load generator's own tests.
    fn give_retained(
        &self,
        outbox: &Outbox,
        wanted: &Subscription,
        out: &mut Vec<u8>,
    ) -> Result<(), ConnError> {
        for (topic, kept) in self.retained.borrow().iter() {
            if model::filter_matches(&wanted.filter, topic) {
                let outgoing = OutgoingPublish {
                    qos: kept.qos.min(wanted.qos),
                    retain: true,
                    packet_id: Some(outbox.next_packet_id()),
                    topic,
                    properties: &kept.properties,
                    payload: &kept.payload,
                    ..OutgoingPublish::default()
                };
                wire::encode_publish(out, outbox.version, &outgoing)?;
            }
        }
        Ok(())
    }

    fn forward(&self, publish: &Publish<'_>) -> Result<(), ConnError> {
        self.tally.taken.fetch_add(1, Ordering::Relaxed);
        self.asleep.take().into_iter().for_each(Waker::wake);
        if publish.retain {
            let kept = Kept {
                qos: publish.qos,
                properties: publish.properties.block().to_vec(),
                payload: publish.payload.to_vec(),
            };
            self.retained.borrow_mut().insert(publish.topic.to_owned(), kept);
        }
        let known = self.routes.borrow().get(publish.topic).cloned();
        let route = known.unwrap_or_else(|| self.find(publish.topic));
        for outbox in &route.all {
            self.put(outbox, publish)?;
        }
        for (turn, members) in &route.groups {
            let member = &members[turn.get() % members.len()];
            turn.set(turn.get() + 1);
            self.put(member, publish)?;
        }
        Ok(())
    }

    #[cold]
    fn find(&self, topic: &str) -> Rc<Route> {
        let mut route = Route::default();
        let mut groups: HashMap<String, Vec<Rc<Outbox>>> = HashMap::new();
        for outbox in self.subscribers.borrow().iter() {
            let filters = outbox.filters.borrow();
            let matching =
                || filters.iter().filter(|(filter, _)| model::filter_matches(filter.as_str(), topic));
            if matching().any(|(filter, _)| filter.share().is_none()) {
                route.all.push(outbox.clone());
            }
            for (filter, _) in matching() {
                if let Some(share) = filter.share() {
                    let name = format!("{share}/{}", filter.as_str());
                    groups.entry(name).or_default().push(outbox.clone());
                }
            }
        }
        route.groups = groups.into_values().map(|members| (Cell::new(0), members)).collect();
        let route = Rc::new(route);
        self.routes.borrow_mut().insert(topic.to_owned(), route.clone());
        route
    }

    fn put(&self, outbox: &Rc<Outbox>, publish: &Publish<'_>) -> Result<(), ConnError> {
        let granted = match outbox.filters.borrow().as_slice() {
            [(_, qos)] => *qos,
            _ => outbox.qos_of(publish.topic).unwrap_or_default(),
        };
        let qos = granted.min(publish.qos);
        let number = self.forwarded.get() + 1;
        self.forwarded.set(number);
        let hits = |every: u64| every > 0 && number.is_multiple_of(every);
        if hits(self.faults.lose_every) {
            return Ok(());
        }
        let mut bytes = outbox.bytes.borrow_mut();
        let was_empty = bytes.is_empty();
        let start = bytes.len();
        for _ in 0..1 + u32::from(hits(self.faults.repeat_every)) {
            let packet_id = outbox.next_packet_id();
            let outgoing = OutgoingPublish {
                qos,
                packet_id: Some(packet_id),
                topic: publish.topic,
                properties: publish.properties.block(),
                payload: publish.payload,
                ..OutgoingPublish::default()
            };
            wire::encode_publish(&mut bytes, outbox.version, &outgoing)?;
        }
        if hits(self.faults.corrupt_every)
            && let Some(last) = bytes.last_mut()
        {
            *last ^= 1;
        }
        let mut delayed = outbox.delayed.borrow_mut();
        if hits(self.faults.delay_every) {
            delayed.extend_from_slice(&bytes[start..]);
            bytes.truncate(start);
        } else if !delayed.is_empty() {
            bytes.append(&mut delayed);
        }
        if bytes.len() > OUTBOX_BYTES_MAX {
            self.note_full(outbox, true);
        }
        // Between two turns of its task one wake-up is enough.
        if was_empty && let Some(waker) = &*outbox.waker.borrow() {
            waker.wake_by_ref();
        }
        Ok(())
    }

    fn note_full(&self, outbox: &Outbox, full: bool) {
        if outbox.full.replace(full) == full {
            return;
        }
        if full {
            self.full.set(self.full.get() + 1);
            return;
        }
        self.full.set(self.full.get() - 1);
        if self.full.get() == 0 {
            self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
        }
    }
}

impl Outbox {
    fn next_packet_id(&self) -> NonZeroU16 {
        let next_id = self.packet_id.get().checked_add(1).unwrap_or(1);
        self.packet_id.set(next_id);
        NonZeroU16::new(next_id).unwrap_or(NonZeroU16::MIN)
    }

    fn qos_of(&self, topic: &str) -> Option<Qos> {
        let filters = self.filters.borrow();
        let matching = filters.iter().filter(|(filter, _)| model::filter_matches(filter.as_str(), topic));
        matching.map(|(_, qos)| *qos).max()
    }
}
