//! One uplink: connect, carry, wait, again.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use broker::uplink::{Backoff, Impossible, Lanes, Link, LinkError, LinkState, Sent};
use model::{LaneId, Limits, Seq};
use store::{ReadLimits, ReadOut, Reader, StoreError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use super::transport::{self, ConnectError, Patience, Stream};
use super::{UplinkSetup, UplinkState, backoff, link_setup};
use crate::clock::{Clock, entropy};

/// How long the goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a connection must last before the next failure counts as the first one again.
const LASTING: Duration = Duration::from_secs(10);
/// Time between looks at keep-alive and at what else time brings.
const TICK: Duration = Duration::from_millis(250);
/// Bytes that may wait for the socket before more are read from the lanes.
const OUT_BYTES_MAX: usize = 256 << 10;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Socket(String),
    #[error("the upstream closed the connection")]
    Closed,
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error("the router stops")]
    Stopped,
}

/// Carries until told to stop.
pub(super) async fn run(setup: UplinkSetup, reader: Reader, limits: Limits, stop: watch::Receiver<bool>) {
    let mut backoff = backoff(&setup.config);
    let mut uplink = Uplink::new(setup, reader, limits, stop);
    loop {
        let started = Instant::now();
        let ended = uplink.carry().await;
        uplink.lanes.rewind();
        if matches!(ended, Ended::Stopped) {
            return;
        }
        if started.elapsed() >= LASTING {
            backoff.succeeded();
        }
        if uplink.wait(&mut backoff, &ended).await {
            return;
        }
    }
}

struct Uplink {
    setup: UplinkSetup,
    name: Rc<str>,
    reader: Reader,
    limits: Limits,
    stop: watch::Receiver<bool>,
    clock: Clock,
    lanes: Lanes,
    records: ReadOut,
    delivered: Vec<(LaneId, Seq)>,
    out: Vec<u8>,
    /// Publications that may still leave in the current second; `None`: no pace is set.
    allowance: Option<Allowance>,
}

/// A pace in messages per second, as a bucket that is filled with time.
struct Allowance {
    per_sec: f64,
    tokens: f64,
    filled: Instant,
}

impl Allowance {
    fn take_up_to(&mut self, wanted: usize) -> usize {
        let now = Instant::now();
        let gained = now.duration_since(self.filled).as_secs_f64() * self.per_sec;
        // At most a tenth of a second at once: a pace, not bursts.
        self.tokens = (self.tokens + gained).min((self.per_sec / 10.0).max(1.0));
        self.filled = now;
        wanted.min(self.tokens as usize)
    }

    fn spent(&mut self, count: usize) {
        self.tokens -= count as f64;
    }
}

impl Uplink {
    fn new(setup: UplinkSetup, reader: Reader, limits: Limits, stop: watch::Receiver<bool>) -> Uplink {
        let mut lanes = Lanes::default();
        for (lane, priority) in &setup.lanes {
            match reader.lane_state(*lane) {
                Ok(state) => lanes.add(*lane, *priority, state.head, state.tail),
                Err(error) => {
                    error!(%error, %lane, "a lane cannot be read; its messages stay where they are")
                }
            }
        }
        Uplink {
            name: setup.config.name.as_str().into(),
            allowance: setup.config.pace_messages_per_sec.map(|per_sec| Allowance {
                per_sec: f64::from(per_sec.get()),
                tokens: 0.0,
                filled: Instant::now(),
            }),
            setup,
            reader,
            limits,
            stop,
            clock: Clock::default(),
            lanes,
            records: ReadOut::new(),
            delivered: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Connects and carries until the connection ends.
    async fn carry(&mut self) -> Ended {
        self.setup.status.set(UplinkState::Connecting, None);
        self.out.clear();
        match self.try_carry().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_carry(&mut self) -> Result<std::convert::Infallible, Ended> {
        let stream = self.connect().await?;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut link =
            Link::open(link_setup(&self.setup.config, &self.limits), self.clock.now(), &mut self.out)?;
        let mut buffer = vec![0; 64 << 10];
        let mut unread = Vec::new();
        let mut unflushed = false;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.fill(&mut link)?;
            let pace_is_short =
                self.allowance.is_some() && link.room() > 0 && self.lanes.most_urgent().is_some();
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => {
                    link.close(&mut self.out);
                    self.say_goodbye(&mut writer).await;
                    return Err(Ended::Stopped);
                }
                read = reader.read(&mut buffer) => {
                    let len = read.map_err(|error| self.broken(&error))?;
                    self.take_in(&buffer[..len], &mut link, &mut unread)?;
                }
                pushed = push(&mut writer, &self.out), if !self.out.is_empty() || unflushed => {
                    let len = pushed.map_err(|error| self.broken(&error))?;
                    self.out.drain(..len);
                    unflushed = len > 0;
                }
                () = self.setup.bell.wait() => self.look_at_tails()?,
                () = tokio::time::sleep(Duration::from_millis(10)), if pace_is_short => {}
                _ = tick.tick() => {
                    link.tick(self.clock.now(), &mut self.out)?;
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
        Ended::Socket(transport::said(error, &self.name))
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

    /// Sends what may be sent: the most urgent lane first, decided anew for each batch.
    fn fill(&mut self, link: &mut Link) -> Result<(), Ended> {
        while self.out.len() < OUT_BYTES_MAX
            && let Some(index) = self.lanes.most_urgent()
        {
            let room = match &mut self.allowance {
                Some(allowance) => allowance.take_up_to(link.room()),
                None => link.room(),
            };
            if room == 0 {
                break;
            }
            let sent = self.send_batch(link, index, room)?;
            if let Some(allowance) = &mut self.allowance {
                allowance.spent(sent);
            }
        }
        self.setup.status.inflight.store(link.inflight() as u64, Ordering::Relaxed);
        self.keep_positions();
        Ok(())
    }

    /// Reads a batch of one lane and sends it; how many publications that was.
    fn send_batch(&mut self, link: &mut Link, index: usize, room: usize) -> Result<usize, Ended> {
        let now = self.clock.now();
        let (lane, from) = (self.lanes.lane(index).lane, self.lanes.lane(index).next());
        let bytes_max = OUT_BYTES_MAX.min(self.limits.uplink_read_bytes_max as usize);
        let limits = ReadLimits { messages_max: room, bytes_max };
        let mut records = std::mem::take(&mut self.records);
        let read = self.reader.read_lane(lane, from, limits, now.timestamp, &mut records);
        let mut sent = 0;
        for record in records.records() {
            let outcome = link.send(
                &mut self.lanes,
                index,
                record.seq,
                record.bytes,
                record.expires,
                now,
                &mut self.out,
            );
            match outcome {
                Sent::InFlight => sent += 1,
                Sent::Impossible(why) => self.pass_over(index, record.seq, why),
            }
        }
        let status = &self.setup.status;
        status.sent.fetch_add(sent as u64, Ordering::Relaxed);
        status.dropped_expired.fetch_add(records.expired_messages(), Ordering::Relaxed);
        let next = records.next();
        self.records = records;
        match read {
            Ok(()) => {
                // What expired at the end of the batch, or the whole of it.
                let delivered = self.lanes.skipped_to(index, next);
                self.delivered.extend(delivered);
                if sent == 0 && next == from {
                    return Err(Ended::Store(StoreError::UnknownLane(lane)));
                }
            }
            Err(StoreError::Damaged { from, up_to, .. }) => {
                let places = up_to.get() - from.get() + 1;
                status.dropped_damaged.fetch_add(places, Ordering::Relaxed);
                error!(uplink = %self.name, %lane, %from, %up_to, "stored messages are damaged; they are lost and counted, the rest goes on");
                let delivered = self.lanes.skipped_to(index, up_to.next());
                self.delivered.extend(delivered);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(sent)
    }

    /// A message that this upstream can never take: counted, reported, and out of the way.
    fn pass_over(&mut self, index: usize, seq: Seq, why: Impossible) {
        let reason = match why {
            Impossible::TooLarge => "it is larger than the upstream's Maximum Packet Size",
            Impossible::Unreadable => "its record is not readable",
        };
        self.setup.status.dropped_impossible.fetch_add(1, Ordering::Relaxed);
        warn!(uplink = %self.name, lane = %self.lanes.lane(index).lane, %seq, reason, "message dropped");
        let delivered = self.lanes.settle(index, seq);
        self.delivered.extend(delivered);
    }

    /// What came from the upstream; nothing is the end.
    fn take_in(&mut self, bytes: &[u8], link: &mut Link, unread: &mut Vec<u8>) -> Result<(), Ended> {
        if bytes.is_empty() {
            return Err(Ended::Closed);
        }
        unread.extend_from_slice(bytes);
        let was = link.state();
        let (inflight, now) = (link.inflight(), self.clock.now());
        let taken = link.read(unread, &mut self.lanes, &mut self.delivered, now, &mut self.out);
        let settled = inflight.saturating_sub(link.inflight());
        self.setup.status.forwarded.fetch_add(settled as u64, Ordering::Relaxed);
        self.keep_positions();
        unread.drain(..taken?);
        if was == LinkState::Greeting && link.state() == LinkState::Up {
            self.on_up();
        }
        Ok(())
    }

    fn on_up(&mut self) {
        self.setup.status.connects.fetch_add(1, Ordering::Relaxed);
        self.setup.status.set(UplinkState::Up, None);
        info!(uplink = %self.name, backlog = self.lanes.backlog(), "uplink is up");
    }

    fn look_at_tails(&mut self) -> Result<(), Ended> {
        for (lane, _) in &self.setup.lanes {
            let state = self.reader.lane_state(*lane)?;
            self.lanes.grown(*lane, state.tail);
        }
        Ok(())
    }

    /// Tells the store what is delivered; it writes that down with its next group.
    fn keep_positions(&mut self) {
        for (lane, up_to) in self.delivered.drain(..) {
            if let Err(error) = self.reader.advance(lane, up_to) {
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
