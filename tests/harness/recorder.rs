//! An upstream that writes down every PUBLISH in the order it came, and acknowledges as it is told.
//!
//! In: MQTT connections, one thread each. Out: the record. It may fall silent (reads and answers nothing), withhold
//! acknowledgements, or end every connection: what an upstream does on a bad day.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use wire::{ConnAck, ReasonCode, SubAck, Version};

use crate::client::{Connection, Incoming, Received};
use crate::wait::{PATIENCE, until};
use crate::websocket;

/// How long a connection's thread waits for bytes before it looks at what it is told.
const LOOK: Duration = Duration::from_millis(5);

/// The upstream; its threads end with it.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    record: Mutex<Vec<Received>>,
    open: Mutex<Vec<TcpStream>>,
    connects: AtomicU64,
    silent: AtomicBool,
    greets: AtomicBool,
    /// Messages taken a second, of each connection, by a bucket of tokens; what is more is refused with 0x97. 0 for any number.
    quota: AtomicU64,
    withhold: AtomicBool,
    over: AtomicBool,
    /// Beginnings of messages, and what is said about them; without a reason the connection ends there.
    refused: Mutex<Vec<(String, Option<ReasonCode>)>>,
    receive_max: NonZeroU16,
    packet_bytes_max: Option<NonZeroU32>,
    layers: Option<Layers>,
}

/// What lies between its sockets and MQTT.
#[derive(Clone, Debug)]
pub struct Layers {
    /// TLS, as it is shown.
    pub tls: Arc<ServerConfig>,
    /// WebSocket over it.
    pub websocket: bool,
}

impl Recorder {
    /// An upstream that takes everything.
    #[track_caller]
    pub fn start() -> Recorder {
        Recorder::with_limits(NonZeroU16::MAX, None)
    }

    /// An upstream that says this in its CONNACK (5.0).
    #[track_caller]
    pub fn with_limits(receive_max: NonZeroU16, packet_bytes_max: Option<NonZeroU32>) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Recorder::over(listener, receive_max, packet_bytes_max)
    }

    /// The same at a place of the test's choice.
    #[track_caller]
    pub fn over(
        listener: TcpListener,
        receive_max: NonZeroU16,
        packet_bytes_max: Option<NonZeroU32>,
    ) -> Recorder {
        Recorder::begin(listener, receive_max, packet_bytes_max, None)
    }

    /// An upstream that takes everything, behind TLS.
    #[track_caller]
    pub fn behind(listener: TcpListener, layers: Layers) -> Recorder {
        Recorder::begin(listener, NonZeroU16::MAX, None, Some(layers))
    }

    #[track_caller]
    fn begin(
        listener: TcpListener,
        receive_max: NonZeroU16,
        packet_bytes_max: Option<NonZeroU32>,
        layers: Option<Layers>,
    ) -> Recorder {
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            record: Mutex::new(Vec::new()),
            open: Mutex::new(Vec::new()),
            connects: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            greets: AtomicBool::new(true),
            quota: AtomicU64::new(0),
            withhold: AtomicBool::new(false),
            over: AtomicBool::new(false),
            refused: Mutex::new(Vec::new()),
            receive_max,
            packet_bytes_max,
            layers,
        });
        let shared = Arc::clone(&state);
        spawn(move || accept(&shared, &listener));
        Recorder { address, state }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that came, in order.
    pub fn record(&self) -> MutexGuard<'_, Vec<Received>> {
        self.state.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until that much came; a copy of all of it.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        until(&format!("{count} messages upstream"), || {
            let record = self.record();
            (record.len() >= count).then(|| record.clone())
        })
    }

    /// CONNECTs accepted so far.
    pub fn connects(&self) -> u64 {
        self.state.connects.load(Ordering::SeqCst)
    }

    /// Reads and answers nothing, or does so again.
    pub fn silent(&self, yes: bool) {
        self.state.silent.store(yes, Ordering::SeqCst);
    }

    /// Answers no CONNECT, or does so again.
    pub fn greet(&self, yes: bool) {
        self.state.greets.store(yes, Ordering::SeqCst);
    }

    /// Takes so many messages a second, a tenth of them at once, and refuses others with *quota exceeded*; 0 takes all.
    pub fn quota(&self, per_sec: u64) {
        self.state.quota.store(per_sec, Ordering::SeqCst);
    }

    /// Writes down and does not acknowledge, or does so again for what comes from now on.
    pub fn withhold(&self, yes: bool) {
        self.state.withhold.store(yes, Ordering::SeqCst);
    }

    /// Refuses messages that begin so, and does not write them down; without a reason it ends the connection instead.
    pub fn refuse(&self, beginning: &str, reason: Option<ReasonCode>) {
        self.state
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((beginning.to_owned(), reason));
    }

    /// Takes everything again.
    pub fn refuse_nothing(&self) {
        self.state.refused.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Ends every connection.
    pub fn end_connections(&self) {
        self.state.end_connections();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        self.state.end_connections();
        // Wakes the thread that accepts, so that it sees that it is over; the way there may be a bad one.
        TcpStream::connect_timeout(&self.address, Duration::from_millis(500)).ok();
    }
}

impl State {
    fn refusal(&self, message: &Received) -> Option<Option<ReasonCode>> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.iter().find(|(beginning, _)| message.payload.starts_with(beginning.as_bytes())).map(|it| it.1)
    }

    fn end_connections(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may be closed already.
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// A quota as clouds have it: tokens come evenly, and a tenth of a second's may be saved.
#[derive(Debug, Default)]
struct Bucket {
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    /// Whether there is one for the next message.
    fn take(&mut self, per_sec: f64, now: Instant) -> bool {
        let most = (per_sec / 10.0).max(1.0);
        let passed = self.filled.map_or(1.0, |at| now.duration_since(at).as_secs_f64());
        self.filled = Some(now);
        self.tokens = (self.tokens + passed * per_sec).min(most);
        let is_there = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(is_there));
        is_there
    }
}

fn accept(state: &Arc<State>, listener: &TcpListener) {
    while let Ok((stream, _)) = listener.accept() {
        if state.is_over() {
            return;
        }
        let Ok(copy) = stream.try_clone() else { continue };
        state.open.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
        let state = Arc::clone(state);
        // A connection that breaks is the test's wish.
        spawn(move || serve(&state, stream).unwrap_or_default());
    }
}

fn connection(state: &State, stream: TcpStream) -> std::io::Result<Connection> {
    let Some(layers) = &state.layers else { return Connection::over(stream, Version::V5) };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let session = ServerConnection::new(Arc::clone(&layers.tls)).map_err(std::io::Error::other)?;
    let mut secured = StreamOwned::new(session, stream.try_clone()?);
    secured.conn.complete_io(&mut secured.sock)?;
    if !layers.websocket {
        return Connection::through(stream, secured, Version::V5);
    }
    Connection::through(stream, websocket::take(secured)?, Version::V5)
}

fn serve(state: &State, stream: TcpStream) -> std::io::Result<()> {
    // Until CONNECT says otherwise: it is read the same in both.
    let mut connection = connection(state, stream)?;
    let mut bucket = Bucket::default();
    while !state.is_over() {
        if state.silent.load(Ordering::SeqCst) {
            sleep(LOOK);
            continue;
        }
        let Some(packet) = connection.receive(LOOK)? else { continue };
        let version = connection.version();
        let mut out = Vec::new();
        match packet {
            Incoming::Connect(_) if !state.greets.load(Ordering::SeqCst) => continue,
            Incoming::Connect(connect) => {
                connection.set_version(connect.version);
                let mut ack = ConnAck::new(false, ReasonCode::SUCCESS);
                ack.receive_max = state.receive_max;
                ack.packet_bytes_max = state.packet_bytes_max;
                wire::encode_connack(&mut out, connect.version, &ack).map_err(std::io::Error::other)?;
                state.connects.fetch_add(1, Ordering::SeqCst);
            }
            Incoming::Publish(message) => {
                let packet_id = message.packet_id;
                let quota = state.quota.load(Ordering::SeqCst);
                let is_over = quota > 0 && !bucket.take(quota as f64, Instant::now());
                if let Some(packet_id) = packet_id.filter(|_| is_over) {
                    let reason = ReasonCode::QUOTA_EXCEEDED;
                    wire::encode_ack(&mut out, version, wire::AckKind::PubAck, packet_id, reason);
                    connection.write(&out)?;
                    continue;
                }
                match (state.refusal(&message), packet_id) {
                    (None, _) | (_, None) => {}
                    (Some(None), _) => {
                        state.end_connections();
                        return Ok(());
                    }
                    (Some(Some(reason)), Some(packet_id)) => {
                        wire::encode_ack(&mut out, version, wire::AckKind::PubAck, packet_id, reason);
                        connection.write(&out)?;
                        continue;
                    }
                }
                // Asked before: whoever sees a message in the record may tell us anything about the next one only.
                let withholds = state.withhold.load(Ordering::SeqCst);
                state.record.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                if let Some(packet_id) = packet_id.filter(|_| !withholds) {
                    wire::encode_ack(
                        &mut out,
                        version,
                        wire::AckKind::PubAck,
                        packet_id,
                        ReasonCode::SUCCESS,
                    );
                }
            }
            Incoming::Subscribe(subscribe) => {
                let reasons = vec![ReasonCode::GRANTED_QOS_1; subscribe.subscriptions.len()];
                wire::encode_suback(&mut out, version, &SubAck::new(subscribe.packet_id, reasons))
                    .map_err(std::io::Error::other)?;
            }
            Incoming::PingReq => wire::encode_pingresp(&mut out),
            _ => return Ok(()),
        }
        connection.write(&out)?;
    }
    Ok(())
}
