//! One uplink: connect, carry, wait, again.

use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use broker::uplink::{Backoff, Carrier, LinkError, Reading};
use model::{LaneId, Limits, Seq};
use store::{ReadLimits, ReadOut, StoreError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, WriteHalf};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use super::poison::SharedTray;
use super::source::Source;
use super::transport::{self, ConnectError, Patience, Stream};
use super::{UplinkSetup, UplinkState, backoff, link_setup, rules};
use crate::clock::{Clock, entropy};

/// How long the goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a connection must last before the next failure counts as the first one again.
const LASTING: Duration = Duration::from_secs(10);
/// Time between looks at keep-alive and at what else time brings.
const TICK: Duration = Duration::from_millis(250);
/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Socket(String),
    #[error("the upstream closed the connection")]
    Closed,
    #[error("the upstream reset the connection")]
    Reset,
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error("the router stops")]
    Stopped,
}

/// One uplink at work.
pub(super) struct Uplink {
    setup: UplinkSetup,
    name: Rc<str>,
    source: Source,
    limits: Limits,
    stop: watch::Receiver<bool>,
    clock: Clock,
    carrier: Carrier,
    records: ReadOut,
    delivered: Vec<(LaneId, Seq)>,
    out: Vec<u8>,
    tray: SharedTray,
    wake_keeper: Rc<Notify>,
}

impl Uplink {
    /// `tray` leads to the keeper of poison lanes, which `wake_keeper` wakes.
    pub(super) fn new(
        setup: UplinkSetup,
        source: Source,
        limits: Limits,
        tray: SharedTray,
        wake_keeper: Rc<Notify>,
        stop: watch::Receiver<bool>,
    ) -> Uplink {
        let mut carrier = Carrier::new(rules(&setup.config, &limits));
        for (lane, priority) in &setup.lanes {
            match source.bounds(*lane) {
                Ok((head, tail)) => carrier.add_lane(*lane, *priority, head, tail),
                Err(error) => {
                    error!(%error, %lane, "a lane cannot be read; its messages stay where they are")
                }
            }
        }
        Uplink {
            name: setup.config.name.as_str().into(),
            setup,
            source,
            limits,
            stop,
            clock: Clock::default(),
            carrier,
            records: ReadOut::new(),
            delivered: Vec::new(),
            out: Vec::new(),
            tray,
            wake_keeper,
        }
    }

    /// Carries until told to stop.
    pub(super) async fn run(mut self) {
        let mut backoff = backoff(&self.setup.config);
        loop {
            let started = Instant::now();
            let ended = self.carry().await;
            if matches!(ended, Ended::Stopped) {
                return;
            }
            if started.elapsed() >= LASTING {
                backoff.succeeded();
            }
            if self.wait(&mut backoff, &ended).await {
                return;
            }
        }
    }

    /// Connects and carries until the connection ends.
    async fn carry(&mut self) -> Ended {
        self.setup.status.set(UplinkState::Connecting, None);
        self.out.clear();
        let ended = match self.try_carry().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        // Only what the other side did, and with everything written, can be a message's fault.
        let (by_peer, error) = match &ended {
            Ended::Closed | Ended::Reset => (self.out.is_empty(), None),
            Ended::Link(error @ LinkError::Disconnected(_)) => (self.out.is_empty(), Some(error)),
            Ended::Link(error) => (false, Some(error)),
            _ => (false, None),
        };
        self.carrier.lost(by_peer, error, self.clock.now().instant);
        self.keep_positions();
        self.source.set_link(self.setup.lanes.iter().map(|(lane, _)| *lane), false);
        ended
    }

    async fn try_carry(&mut self) -> Result<std::convert::Infallible, Ended> {
        let stream = self.connect().await?;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let link = link_setup(&self.setup.config, &self.limits);
        self.carrier.connected(link, self.clock.now(), &mut self.out)?;
        let mut buffer = vec![0; 64 << 10];
        let mut unread = Vec::new();
        let mut unflushed = false;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.fill()?;
            let wait = self.carrier.wait_millis(self.clock.now().instant).map(Duration::from_millis);
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => {
                    self.carrier.close(&mut self.out);
                    self.say_goodbye(&mut writer).await;
                    return Err(Ended::Stopped);
                }
                read = reader.read(&mut buffer) => {
                    let len = read.map_err(|error| self.broken(&error))?;
                    self.take_in(&buffer[..len], &mut unread)?;
                }
                pushed = push(&mut writer, &self.out), if !self.out.is_empty() || unflushed => {
                    let len = pushed.map_err(|error| self.broken(&error))?;
                    self.out.drain(..len);
                    unflushed = len > 0;
                }
                () = self.setup.bell.wait() => self.look_at_tails()?,
                () = tokio::time::sleep(wait.unwrap_or(TICK)), if wait.is_some() => {}
                _ = tick.tick() => {
                    self.carrier.tick(self.clock.now(), &mut self.out)?;
                    self.look_at_tails()?;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<Stream, Ended> {
        let config = &self.setup.config;
        if config.transport.tls.as_ref().is_some_and(|tls| tls.insecure) {
            warn!(uplink = %self.name, "insecure: whoever answers is believed, and everybody on the way can read and change everything");
        }
        tokio::select! {
            () = stopped(&mut self.stop) => Err(Ended::Stopped),
            connected = transport::connect(&self.name, &config.transport, Patience::default()) => Ok(connected?),
        }
    }

    fn broken(&self, error: &std::io::Error) -> Ended {
        match error.kind() {
            ErrorKind::ConnectionReset => Ended::Reset,
            _ => Ended::Socket(transport::said(error, &self.name)),
        }
    }

    /// Sends what is left and closes. Whether it arrives or not: what is not acknowledged is sent again.
    async fn say_goodbye(&self, writer: &mut WriteHalf<Stream>) {
        let said = async {
            writer.write_all(&self.out).await?;
            writer.shutdown().await
        };
        if let Ok(Err(error)) = timeout(GOODBYE_TIMEOUT, said).await {
            debug!(uplink = %self.name, %error, "the goodbye did not leave");
        }
    }

    /// Sends what may be sent: whose turn it is, decided anew for each batch.
    fn fill(&mut self) -> Result<(), Ended> {
        self.hear_of_poison();
        while let Some(reading) = self.carrier.next_reading(self.out.len(), self.clock.now().instant) {
            self.send_batch(reading)?;
        }
        let (counts, status) = (self.carrier.counts(), &self.setup.status);
        status.inflight.store(self.carrier.inflight() as u64, Ordering::Relaxed);
        status.waiting_senders.store(self.carrier.senders_waiting() as u64, Ordering::Relaxed);
        status.sent.store(counts.sent, Ordering::Relaxed);
        status.forwarded.store(counts.forwarded, Ordering::Relaxed);
        status.refused.store(counts.refused, Ordering::Relaxed);
        self.keep_positions();
        Ok(())
    }

    /// Reads a batch of one lane and sends it.
    fn send_batch(&mut self, mut reading: Reading) -> Result<(), Ended> {
        let now = self.clock.now();
        let limits = ReadLimits { messages_max: reading.messages_max, bytes_max: reading.bytes_max };
        let mut records = std::mem::take(&mut self.records);
        let read = self.source.read_lane(reading.lane, reading.from, limits, now.timestamp, &mut records);
        for record in records.records() {
            let (seq, bytes, expires) = (record.seq, record.bytes, record.expires);
            self.carrier.offer(&mut reading, seq, bytes, expires, now, &mut self.out);
        }
        let next = records.next();
        let is_stuck = records.is_empty() && next == reading.from;
        let status = &self.setup.status;
        status.dropped_expired.fetch_add(records.expired_messages(), Ordering::Relaxed);
        self.records = records;
        match read {
            Ok(()) if is_stuck => return Err(Ended::Store(StoreError::UnknownLane(reading.lane))),
            // What expired at the end of the batch, or the whole of it.
            Ok(()) => self.carrier.passed(&reading, next),
            Err(StoreError::Damaged { lane, from, up_to }) => {
                let places = up_to.get() - from.get() + 1;
                status.dropped_damaged.fetch_add(places, Ordering::Relaxed);
                error!(uplink = %self.name, %lane, %from, %up_to, "stored messages are damaged; they are lost and counted, the rest goes on");
                self.carrier.passed(&reading, up_to.next());
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Gives the keeper what is to be moved aside, and hears what is there by now.
    fn hear_of_poison(&mut self) {
        let mut tray = self.tray.borrow_mut();
        for (lane, seq) in tray.done.drain(..) {
            self.carrier.is_aside(lane, seq);
        }
        let before = tray.asides.len();
        tray.asides.extend(std::iter::from_fn(|| self.carrier.next_aside()));
        if tray.asides.len() > before {
            self.wake_keeper.notify_one();
        }
    }

    /// What came from the upstream; nothing is the end.
    fn take_in(&mut self, bytes: &[u8], unread: &mut Vec<u8>) -> Result<(), Ended> {
        if bytes.is_empty() {
            return Err(Ended::Closed);
        }
        unread.extend_from_slice(bytes);
        let was_up = self.carrier.is_up();
        let taken = self.carrier.read(unread, self.clock.now(), &mut self.out)?;
        unread.drain(..taken);
        if !was_up && self.carrier.is_up() {
            self.on_up();
        }
        Ok(())
    }

    fn on_up(&mut self) {
        self.setup.status.connects.fetch_add(1, Ordering::Relaxed);
        self.setup.status.set(UplinkState::Up, None);
        self.source.set_link(self.setup.lanes.iter().map(|(lane, _)| *lane), true);
        info!(uplink = %self.name, backlog = self.carrier.backlog(), "uplink is up");
    }

    fn look_at_tails(&mut self) -> Result<(), Ended> {
        for (lane, _) in &self.setup.lanes {
            let (_, tail) = self.source.bounds(*lane)?;
            self.carrier.grown(*lane, tail);
        }
        Ok(())
    }

    /// Tells the store what is delivered; it writes that down with its next group.
    fn keep_positions(&mut self) {
        self.hear_of_poison();
        self.carrier.delivered(&mut self.delivered);
        for (lane, up_to) in self.delivered.drain(..) {
            if let Err(error) = self.source.advance(lane, up_to) {
                warn!(%error, uplink = %self.name, "position not kept; messages may be sent again after a restart");
            }
        }
    }

    /// Waits before the next attempt; whether the router stops.
    async fn wait(&mut self, backoff: &mut Backoff, ended: &Ended) -> bool {
        let millis = backoff.failed(entropy());
        warn!(uplink = %self.name, reason = %ended, retry_in_ms = millis, "uplink is down; messages wait in their lanes");
        self.setup.status.set(UplinkState::Waiting, Some(ended.to_string()));
        let until = Instant::now() + Duration::from_millis(millis);
        tokio::select! {
            () = stopped(&mut self.stop) => return true,
            () = sleep_until(until) => {}
        }
        // What came meanwhile.
        if let Err(error) = self.look_at_tails() {
            warn!(%error, uplink = %self.name, "lanes cannot be looked at");
        }
        false
    }
}

/// Writes, or flushes what was written; how many bytes were taken. Nothing is lost if it is not waited for.
async fn push(writer: &mut WriteHalf<Stream>, bytes: &[u8]) -> std::io::Result<usize> {
    if bytes.is_empty() {
        return writer.flush().await.map(|()| 0);
    }
    writer.write(bytes).await
}

/// Returns when the router stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop, too.
    drop(stop.wait_for(|stop| *stop).await);
}
