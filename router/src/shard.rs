//! A shard: one thread with its connections and its broker. A loop without decisions.
//!
//! In: readable sockets, mail. Out: bytes to sockets, jobs for the disk, mail for other shards.
//! A wake-up of a connection reads what is there, lets the broker decide about all of it, and leaves the results on the
//! trays. The trays are emptied once every connection that was ready has had its turn, so that everything for one
//! socket leaves in one write, and everything for the disk in one job.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use broker::{
    Broker, Denial, Effects, Event, HubAnswer, HubSetup, RecordRead, Request, RetainedRecord, Setup,
    StateSpace, StoredSession,
};
use crossbeam::channel::{Sender, TrySendError};
use model::{ConnId, Limits, ShardId, SpillTicket, Ticket};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tracing::{debug, info, warn};

use crate::access::Verifier;
use crate::clock::Clock;
use crate::disk::Job;
use crate::levels::{LevelBoard, LevelReader};
use crate::mail::{Mail, Mailbox};
use crate::net::{Arrival, Came, Refusal, Refused, Scratch, Socket};
use crate::services::{Desk, Question};
use crate::telemetry::ShardReport;

/// Reads of one connection in one wake-up; then others have their turn.
const READS_PER_TURN: u32 = 4;
/// Steps of TLS handshakes between two turns of the trays: one costs about as much as a thousand messages, and a fleet that
/// comes back at once must not keep the others waiting.
const HANDSHAKES_PER_TURN: u32 = 4;
/// Bytes of one read behind a packet that waits for room on the disk.
const LOOK_AHEAD_BYTES: usize = 1 << 10;
/// Bytes of one job for the disk, about: it may start on these while the turn goes on.
const JOB_BYTES_MAX: usize = 1 << 20;
/// Mail taken in one wake-up.
const MAIL_PER_TURN: usize = 256;
/// When to look again at a queue that was full.
const RETRY: Duration = Duration::from_millis(1);
/// How often time passes for the broker, and numbers are published.
const TICK: Duration = Duration::from_millis(250);
/// How long a closing connection may take to take its last packet.
const LINGER_MILLIS: u64 = 2_000;
/// How long clients get to take what is theirs when the process stops.
const GOODBYE: Duration = Duration::from_secs(2);
/// How much longer a shard then waits for what others have for it.
const PARTING: Duration = Duration::from_millis(500);

/// What a shard needs from the rest of the process.
pub(crate) struct ShardSetup {
    /// For the broker.
    pub broker: Setup,
    /// Sessions that are at home here, from the store.
    pub sessions: Vec<SessionAtStart>,
    /// Lanes of inputs of modules whose sessions those are.
    pub inputs: Vec<InputAtStart>,
    /// Keys in the store that belong to no session: what a crash left behind.
    pub orphans: Vec<(StateSpace, Box<[u8]>)>,
    /// Every retained message, from the store.
    pub retained: Arc<[RetainedRecord]>,
    /// The boxes of all shards, own one included, indexed by shard.
    pub mailboxes: Vec<Arc<Mailbox>>,
    /// The disk thread.
    pub disk: Sender<Job>,
    /// How much room it has.
    pub levels: Arc<LevelBoard>,
    /// Who verifies passwords.
    pub verifier: Verifier,
    /// How the IoT Hub dialect is spoken, and who serves it; `None` where it is not.
    pub hub: Option<(HubSetup, Desk)>,
    /// Where numbers are published.
    pub report: Arc<ShardReport>,
    /// How many shards have nothing more to say, when the process stops.
    pub leaving: Arc<AtomicUsize>,
}

/// A session as the store had it.
pub(crate) struct SessionAtStart {
    /// Whose.
    pub client_id: Box<str>,
    /// What it is.
    pub session: StoredSession,
    /// First record that is not delivered.
    pub head: model::Seq,
    /// The place of the next record.
    pub next: model::Seq,
}

/// A lane of an input as the store had it.
pub(crate) struct InputAtStart {
    /// The module whose input it is.
    pub client_id: Box<str>,
    /// The input, and how urgent what is in it is.
    pub input: (Box<str>, model::Priority),
    /// The lane, its first record that is not delivered, the place of the next one.
    pub places: (model::LaneId, model::Seq, model::Seq),
}

/// Runs a shard on this thread until it is told to stop.
pub(crate) fn run(setup: ShardSetup) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let local = LocalSet::new();
    let mailbox = Arc::clone(&setup.mailboxes[usize::from(setup.broker.shard.0)]);
    let (leaving, shards) = (Arc::clone(&setup.leaving), setup.mailboxes.len());
    let shard = Rc::new(RefCell::new(Shard::new(setup)));
    local.block_on(&runtime, async move {
        spawn_local(flusher(Rc::clone(&shard)));
        spawn_local(ticker(Rc::clone(&shard)));
        spawn_local(walker(Rc::clone(&shard)));
        loop {
            let owing = shard.borrow().owes();
            tokio::select! {
                () = mailbox.wait() => {}
                () = tokio::time::sleep(RETRY), if owing => shard.borrow_mut().turn_end(),
            }
            let accepted = shard.borrow_mut().take_mail(&mailbox);
            for arrival in accepted {
                accept(&shard, arrival);
            }
            if shard.borrow().stopping {
                break;
            }
            if !mailbox.is_empty() {
                mailbox.ring();
                tokio::task::yield_now().await;
            }
        }
        let deadline = tokio::time::Instant::now() + GOODBYE;
        while shard.borrow().sockets_open > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
            // Promises that are kept by now may still be told.
            shard.borrow_mut().take_mail(&mailbox);
        }
        shard.borrow_mut().turn_end();
        // The wills of the last connections are on their way: a shard goes when nobody can send it anything any more.
        leaving.fetch_add(1, Ordering::SeqCst);
        let deadline = deadline + PARTING;
        while leaving.load(Ordering::SeqCst) < shards && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
            shard.borrow_mut().take_mail(&mailbox);
            shard.borrow_mut().turn_end();
        }
        let mut shard = shard.borrow_mut();
        while !mailbox.is_empty() {
            shard.take_mail(&mailbox);
        }
        shard.turn_end();
        // What was accepted must reach the disk, even if that takes a moment: nobody is served meanwhile.
        for job in std::mem::take(&mut shard.jobs) {
            if shard.disk.send(job).is_err() {
                warn!("the disk thread is gone; what it did not take was not acknowledged");
            }
        }
    });
    Ok(())
}

/// One shard's edge.
struct Shard {
    id: ShardId,
    broker: Broker,
    effects: Effects,
    clock: Clock,
    limits: Arc<Limits>,
    /// Indexed by the slot in a `ConnId`.
    sockets: Vec<Option<Socket>>,
    sockets_open: usize,
    /// Connections that were not read for want of credit of the whole shard.
    paused: Vec<ConnId>,
    /// Connections that are closing, and until when they may take their time.
    leaving: VecDeque<(ConnId, model::Instant)>,
    read_buffer: Box<[u8]>,
    /// The buffers of connections with TLS, WebSocket or a PROXY header.
    scratch: Scratch,
    /// Steps of handshakes that may still be taken before the trays are emptied.
    handshakes_left: u32,
    flush: Option<Waker>,
    /// Rings for the walks of new subscriptions.
    walk: Rc<Notify>,
    mailboxes: Vec<Arc<Mailbox>>,
    /// Mail that a full box did not take, indexed by shard.
    unsent: Vec<VecDeque<Mail>>,
    /// Jobs that the disk's queue did not take.
    jobs: VecDeque<Job>,
    disk: Sender<Job>,
    levels: LevelReader,
    verifier: Verifier,
    desk: Option<Desk>,
    /// Questions that the desk did not take.
    unasked: VecDeque<Question>,
    report: Arc<ShardReport>,
    stopping: bool,
}

impl Shard {
    fn new(setup: ShardSetup) -> Shard {
        let clock = Clock::default();
        let limits = Arc::clone(&setup.broker.limits);
        let mut effects = Effects::new(setup.broker.shards);
        let id = setup.broker.shard;
        let mut broker = Broker::new(setup.broker);
        let desk = setup.hub.map(|(hub, desk)| {
            broker.speak_hub(hub);
            desk
        });
        broker.delete_orphans(setup.orphans, &mut effects);
        for SessionAtStart { client_id, session, head, next } in setup.sessions {
            broker.restore(&client_id, session, head, next, clock.now(), &mut effects);
        }
        for InputAtStart { client_id, input: (input, priority), places } in setup.inputs {
            if !broker.restore_input(&client_id, (&input, priority), places) {
                // Its session ended just before a crash.
                effects.requests.push(Request::RemoveLane { lane: places.0 });
            }
        }
        for record in &*setup.retained {
            broker.restore_retained(record, clock.now());
        }
        broker.restored(&mut effects);
        Shard {
            id,
            broker,
            effects,
            clock,
            sockets: Vec::new(),
            sockets_open: 0,
            paused: Vec::new(),
            leaving: VecDeque::new(),
            read_buffer: vec![0; limits.turn_read_bytes_max as usize].into(),
            scratch: Scratch::new(&limits),
            handshakes_left: HANDSHAKES_PER_TURN,
            limits,
            flush: None,
            walk: Rc::default(),
            unsent: setup.mailboxes.iter().map(|_| VecDeque::new()).collect(),
            mailboxes: setup.mailboxes,
            jobs: VecDeque::new(),
            disk: setup.disk,
            levels: LevelReader::new(setup.levels),
            verifier: setup.verifier,
            desk,
            unasked: VecDeque::new(),
            report: setup.report,
            stopping: false,
        }
    }

    fn socket(&mut self, conn: ConnId) -> Option<&mut Socket> {
        self.sockets.get_mut(slot(conn))?.as_mut().filter(|socket| socket.conn == conn)
    }

    /// The turn of one connection.
    fn poll_connection(&mut self, conn: ConnId, cx: &mut Context<'_>) -> Poll<()> {
        let Some(socket) = self.socket(conn) else { return Poll::Ready(()) };
        socket.set_waker(cx.waker());
        if socket.blocked && self.write(conn, cx).is_err() {
            return self.drop_connection(conn);
        }
        let Some(socket) = self.sockets.get_mut(slot(conn)).and_then(Option::as_mut) else {
            return Poll::Ready(());
        };
        if socket.closing {
            let over = socket.expired
                || !socket.blocked && socket.poll_close(self.stopping, &mut self.read_buffer, cx).is_ready();
            return if over { self.drop_connection(conn) } else { Poll::Pending };
        }
        match self.read(conn, cx) {
            Turn::Idle => {}
            Turn::Busy => cx.waker().wake_by_ref(),
            Turn::Over => return self.drop_connection(conn),
            Turn::Moved => {
                self.send_away(conn);
                return Poll::Ready(());
            }
            Turn::Http => {
                self.give_away(conn);
                return Poll::Ready(());
            }
            Turn::Goodbye => {
                self.start_to_close(conn);
                cx.waker().wake_by_ref();
            }
        }
        self.relieve_trays();
        self.schedule_flush();
        Poll::Pending
    }

    /// Sends what has become large on the trays before the end of the turn, so that a turn of many connections stays
    /// within its bounds.
    fn relieve_trays(&mut self) {
        let batch_bytes_max = self.limits.handoff_batch_bytes_max as usize;
        if self.effects.handoffs.iter().any(|batch| batch.bytes.len() > batch_bytes_max) {
            self.send_mail();
        }
        if self.effects.appends.bytes.len() > JOB_BYTES_MAX {
            self.send_jobs();
        }
    }

    /// Reads what is there, as far as there is credit.
    fn read(&mut self, conn: ConnId, cx: &mut Context<'_>) -> Turn {
        for _ in 0..READS_PER_TURN {
            if self.is_saturated() {
                self.paused.push(conn);
                return Turn::Idle;
            }
            let may_read = self.broker.may_read(conn);
            let Some(socket) = self.sockets.get_mut(slot(conn)).and_then(Option::as_mut) else {
                return Turn::Over;
            };
            if !may_read && !self.broker.may_look_ahead(conn, &socket.unread) {
                return Turn::Idle;
            }
            if may_read && std::mem::take(&mut socket.held_back) {
                let bytes = std::mem::take(&mut socket.unread);
                if self.decide(conn, &bytes) {
                    return Turn::Moved;
                }
                continue;
            }
            if socket.has_layers() {
                match self.read_layers(conn, cx) {
                    ControlFlow::Continue(()) => continue,
                    ControlFlow::Break(turn) => return turn,
                }
            }
            let wanted = if may_read { self.read_buffer.len() } else { LOOK_AHEAD_BYTES };
            let len = match socket.poll_read(&mut self.read_buffer[..wanted], cx) {
                Poll::Pending => return Turn::Idle,
                Poll::Ready(Ok(0) | Err(_)) => return Turn::Over,
                Poll::Ready(Ok(len)) => len,
            };
            let buffer = std::mem::take(&mut self.read_buffer);
            let moved = self.decide_read(conn, &buffer[..len]);
            self.read_buffer = buffer;
            if moved {
                return Turn::Moved;
            }
        }
        Turn::Busy
    }

    /// Reads once through TLS, WebSocket, a PROXY header.
    fn read_layers(&mut self, conn: ConnId, cx: &mut Context<'_>) -> ControlFlow<Turn> {
        let Shard { sockets, scratch, .. } = self;
        let Some(socket) = sockets.get_mut(slot(conn)).and_then(Option::as_mut) else {
            return ControlFlow::Break(Turn::Over);
        };
        if socket.is_shaking_hands() {
            let Some(left) = self.handshakes_left.checked_sub(1) else {
                // The trays first, then the next ones.
                self.flush.iter().for_each(Waker::wake_by_ref);
                return ControlFlow::Break(Turn::Busy);
            };
            self.handshakes_left = left;
        }
        let came = match socket.poll_layers(scratch, cx) {
            Poll::Pending => return ControlFlow::Break(Turn::Idle),
            Poll::Ready(Err(_)) => return ControlFlow::Break(Turn::Over),
            Poll::Ready(Ok(came)) => came,
        };
        if let Some(user) = socket.take_user() {
            self.broker.identify(conn, user);
        }
        if let Some(shown) = socket.take_shown() {
            self.broker.show(conn, shown);
        }
        if socket.is_http() && matches!(came, Came::Bytes) {
            socket.unread.append(&mut self.scratch.plain);
            return ControlFlow::Break(Turn::Http);
        }
        match came {
            Came::Bytes if self.scratch.plain.is_empty() => ControlFlow::Continue(()),
            Came::Bytes => {
                let plain = std::mem::take(&mut self.scratch.plain);
                let moved = self.decide_read(conn, &plain);
                self.scratch.plain = plain;
                if moved { ControlFlow::Break(Turn::Moved) } else { ControlFlow::Continue(()) }
            }
            Came::End => ControlFlow::Break(Turn::Over),
            Came::Goodbye => ControlFlow::Break(Turn::Goodbye),
            Came::Refused(Refused { why, detail }) => {
                let (listener, peer) = (&socket.door().listener.name, socket.peer());
                debug!(listener, peer, reason = why.name(), detail, "connection refused");
                socket.door().count(why);
                ControlFlow::Break(Turn::Goodbye)
            }
        }
    }

    /// Lets the broker decide about bytes that were read, behind what was unread.
    fn decide_read(&mut self, conn: ConnId, bytes: &[u8]) -> bool {
        let Some(socket) = self.socket(conn) else { return false };
        let mut unread = std::mem::take(&mut socket.unread);
        if unread.is_empty() {
            // The usual case: whole packets, straight out of the shared buffer.
            return self.decide(conn, bytes);
        }
        unread.extend_from_slice(bytes);
        self.decide(conn, &unread)
    }

    /// Lets the broker decide; keeps what it does not take. Whether the socket belongs to another shard.
    fn decide(&mut self, conn: ConnId, bytes: &[u8]) -> bool {
        let now = self.clock.now();
        let taken = self.broker.read(conn, bytes, now, &mut self.effects);
        if let Some(fault) = self.broker.take_last_fault() {
            let peer = self.socket(conn).map(|socket| socket.peer());
            debug!(shard = self.id.0, peer, fault, "connection closed");
        }
        let moved = matches!(self.effects.relocations.last(), Some((last, _)) if *last == conn);
        let may_read = self.broker.may_read(conn);
        if let Some(socket) = self.socket(conn)
            && taken < bytes.len()
        {
            socket.unread.extend_from_slice(&bytes[taken..]);
            // With credit left, the rest is the start of a packet; without, there may be whole ones.
            socket.held_back = !may_read;
            if !may_read {
                self.look_ahead(conn, now);
            }
        }
        moved
    }

    /// Lets the broker take what need not wait with the rest.
    fn look_ahead(&mut self, conn: ConnId, now: model::Now) {
        let Shard { sockets, broker, effects, .. } = self;
        let socket = sockets.get_mut(slot(conn)).and_then(Option::as_mut).filter(|it| it.conn == conn);
        if let Some(socket) = socket {
            broker.look_ahead(conn, &mut socket.unread, now, effects);
        }
    }

    /// Writes what the broker has for a socket.
    fn write(&mut self, conn: ConnId, cx: &mut Context<'_>) -> std::io::Result<()> {
        let now = self.clock.now();
        self.broker.flushing(conn);
        loop {
            let Some(socket) = self.sockets.get_mut(slot(conn)).and_then(Option::as_mut) else {
                return Ok(());
            };
            let pending = self.broker.pending(conn);
            if pending.is_empty() {
                socket.blocked = match socket.poll_flush(cx) {
                    Poll::Ready(flushed) => flushed.map(|()| false)?,
                    Poll::Pending => true,
                };
                return Ok(());
            }
            match socket.poll_write(pending, &mut self.scratch, cx) {
                Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(len)) => self.broker.wrote(conn, len, now, &mut self.effects),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    socket.blocked = true;
                    return Ok(());
                }
            }
        }
    }

    /// Asks who clients are, and tells what they were not allowed to do.
    fn send_questions(&mut self) {
        for question in std::mem::take(&mut self.effects.authentications) {
            let conn = question.conn;
            let address = self.socket(conn).and_then(|socket| socket.ip());
            if let Some(verdict) = self.verifier.ask(self.id, question, address) {
                let now = self.clock.now();
                self.broker.handle(Event::Authenticated { conn, verdict }, now, &mut self.effects);
            }
        }
        for denial in std::mem::take(&mut self.effects.denials) {
            let Denial { client_id, user, what, topic, rule, unsaid } = denial;
            warn!(client = %client_id, user, %topic, rule, unsaid, "denied: to {what}");
        }
    }

    /// Asks the services of the IoT Hub dialect; what they have no room for waits, and meanwhile nothing is read.
    fn send_requests(&mut self) {
        let shard = self.id;
        let asked = std::mem::take(&mut self.effects.hub).into_iter();
        self.unasked.extend(asked.map(|request| Question::Request { shard, request }));
        let Some(desk) = &self.desk else {
            self.unasked.clear();
            return;
        };
        while let Some(question) = self.unasked.pop_front() {
            if let Err(question) = desk.ask(question) {
                self.unasked.push_front(question);
                self.mailboxes[usize::from(shard.0)].ring();
                return;
            }
        }
    }

    /// A service tells a client something. It is told itself when the client did not get it.
    fn answer_hub(&mut self, conn: ConnId, answer: &HubAnswer) {
        let now = self.clock.now();
        let Err(why) = self.broker.answer_hub(conn, answer, now, &mut self.effects) else { return };
        match answer {
            HubAnswer::Method { rid, .. } => {
                self.unasked.push_back(Question::Unanswered { rid: rid.clone(), why });
            }
            HubAnswer::CloudToDevice { token, .. } => {
                self.unasked.push_back(Question::Unposted { token: *token, why });
            }
            HubAnswer::Twin { .. } | HubAnswer::Desired { .. } | HubAnswer::TwinChange { .. } => {}
        }
    }

    /// Empties the trays.
    fn turn_end(&mut self) {
        self.handshakes_left = HANDSHAKES_PER_TURN;
        self.send_questions();
        self.send_requests();
        self.send_jobs();
        self.send_mail();
        // Writing may put more on the tray (a window opens as an outbox empties), but each time only for a socket that
        // took something; a socket that takes nothing ends its part.
        while let Some(conn) = self.effects.dirty.pop() {
            self.flush_one(conn);
        }
        for conn in std::mem::take(&mut self.effects.closing) {
            let stopping = self.stopping;
            if let Some(socket) = self.socket(conn)
                && socket.is_shaking_hands()
                && !stopping
            {
                // The broker ends a connection that says nothing; this one has not even come to MQTT.
                debug!(peer = socket.peer(), listener = socket.door().listener.name, "handshake timed out");
                socket.door().count(Refusal::HandshakeTimeout);
            }
            self.start_to_close(conn);
        }
        for conn in std::mem::take(&mut self.effects.resumed) {
            if let Some(socket) = self.socket(conn) {
                socket.wake();
            }
        }
        self.send_jobs();
        self.send_mail();
        if std::mem::take(&mut self.effects.walk) {
            self.walk.notify_one();
        }
        self.resume_paused();
    }

    /// One slice of what new subscriptions get; whether there is more.
    fn walk(&mut self) -> bool {
        let now = self.clock.now();
        self.broker.walk(now, &mut self.effects);
        let more = std::mem::take(&mut self.effects.walk);
        self.schedule_flush();
        more
    }

    /// Begins the end of a connection: what is pending leaves, then both sides close.
    fn start_to_close(&mut self, conn: ConnId) {
        let until = self.clock.now().instant.plus_millis(LINGER_MILLIS);
        if let Some(socket) = self.socket(conn) {
            socket.closing = true;
            socket.wake();
            self.leaving.push_back((conn, until));
        }
    }

    fn flush_one(&mut self, conn: ConnId) {
        let blocked = match self.socket(conn) {
            Some(socket) => socket.blocked,
            None => return,
        };
        if blocked {
            self.broker.flushing(conn);
            return;
        }
        let failed = self.write(conn, &mut Context::from_waker(Waker::noop())).is_err();
        if let Some(socket) = self.socket(conn) {
            socket.closing |= failed;
            socket.expired |= failed;
            if failed || socket.blocked {
                // Its task goes on: it registers for the moment in which the socket takes more, or ends.
                socket.wake();
            }
        }
    }

    /// Hands writes, positions and questions to the disk, in this order.
    fn send_jobs(&mut self) {
        let shard = self.id;
        if !self.effects.appends.is_empty() {
            self.jobs.push_back(Job::Append { shard, tray: self.effects.appends.take() });
        }
        if !self.effects.advances.is_empty() {
            self.jobs.push_back(Job::Advance(std::mem::take(&mut self.effects.advances)));
        }
        if !self.effects.losses.is_empty() {
            self.jobs.push_back(Job::Lost(std::mem::take(&mut self.effects.losses)));
        }
        for request in std::mem::take(&mut self.effects.requests) {
            self.jobs.push_back(Job::Ask { shard, request });
        }
        while let Some(job) = self.jobs.pop_front() {
            match self.disk.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job)) => {
                    self.jobs.push_front(job);
                    self.mailboxes[usize::from(shard.0)].ring();
                    return;
                }
                Err(TrySendError::Disconnected(_)) => {
                    warn!("the disk thread is gone; nothing more is acknowledged");
                    self.jobs.clear();
                }
            }
        }
    }

    /// Hands publications and controls to the other shards.
    fn send_mail(&mut self) {
        for (to, control) in std::mem::take(&mut self.effects.controls) {
            self.unsent[usize::from(to.0)].push_back(Mail::Control(control));
        }
        for (batch, unsent) in self.effects.handoffs.iter_mut().zip(&mut self.unsent) {
            if !batch.bytes.is_empty() {
                unsent.push_back(Mail::Handoff { from: self.id, batch: batch.take() });
            }
        }
        let mut full = false;
        for (unsent, mailbox) in self.unsent.iter_mut().zip(&self.mailboxes) {
            while let Some(mail) = unsent.pop_front() {
                if let Err(mail) = mailbox.send(mail) {
                    unsent.push_front(mail);
                    full = true;
                    break;
                }
            }
        }
        if full {
            self.mailboxes[usize::from(self.id.0)].ring();
        }
    }

    /// Whether something waits for room in a queue.
    fn owes(&self) -> bool {
        !self.jobs.is_empty()
            || !self.unasked.is_empty()
            || self.unsent.iter().any(|unsent| !unsent.is_empty())
    }

    /// Whether disk or other shards are so far behind that nothing may be read.
    fn is_saturated(&self) -> bool {
        let handoffs = self.unsent.iter().map(VecDeque::len).max().unwrap_or(0);
        self.broker.is_saturated()
            || !self.jobs.is_empty()
            || !self.unasked.is_empty()
            || handoffs > self.limits.handoff_batches_max as usize
    }

    fn resume_paused(&mut self) {
        if self.paused.is_empty() || self.is_saturated() {
            return;
        }
        for conn in std::mem::take(&mut self.paused) {
            if let Some(socket) = self.socket(conn) {
                socket.wake();
            }
        }
    }

    fn schedule_flush(&self) {
        if !self.effects.is_empty()
            && let Some(waker) = &self.flush
        {
            waker.wake_by_ref();
        }
    }

    /// Takes mail and tells the broker; sockets are for the caller, who can start tasks.
    fn take_mail(&mut self, mailbox: &Mailbox) -> Vec<Arrival> {
        let mut accepted = Vec::new();
        let now = self.clock.now();
        let (up_to, bytes) = mailbox.durable_up_to();
        let spilled = mailbox.spilled_up_to();
        if up_to > Ticket(0) || spilled > SpillTicket(0) {
            self.broker.handle(Event::Durable { up_to, bytes, spilled }, now, &mut self.effects);
        }
        if let Some(levels) = self.levels.news() {
            self.broker.handle(Event::Levels(levels), now, &mut self.effects);
        }
        for _ in 0..MAIL_PER_TURN {
            let Some(mail) = mailbox.take() else { break };
            let event = match mail {
                Mail::Accepted(arrival) => {
                    accepted.push(arrival);
                    continue;
                }
                Mail::Authenticated { conn, verdict } => {
                    if self.socket(conn).is_none() {
                        self.verifier.gone(self.id, conn);
                    }
                    Event::Authenticated { conn, verdict }
                }
                Mail::Hub { conn, answer } => {
                    self.answer_hub(conn, &answer);
                    continue;
                }
                Mail::Withdrawn { conn } => Event::Withdrawn { conn },
                Mail::Access(access) => {
                    self.broker.replace_access(access, now, &mut self.effects);
                    continue;
                }
                Mail::System(changes) => {
                    for (topic, payload) in changes {
                        self.broker.publish_system(&topic, &payload, now, &mut self.effects);
                    }
                    continue;
                }
                Mail::Losses(part) => {
                    // Without room now: the same part comes again with the next interval.
                    self.broker.publish_losses(&part.topic, &part.bytes, part.next, now, &mut self.effects);
                    continue;
                }
                Mail::Plan(plan) => {
                    self.broker.replace_plan(plan, &mut self.effects);
                    continue;
                }
                Mail::Stop => {
                    self.stopping = true;
                    self.broker.shut_down(now, &mut self.effects);
                    continue;
                }
                Mail::Handoff { from, batch } => Event::Handoff { from, batch },
                Mail::Control(control) => Event::Control(control),
                Mail::LaneOpened { session, generation, lane, head, next } => {
                    Event::LaneOpened { session, generation, lane, head, next }
                }
                Mail::LaneRead { session, generation, records, next, expired } => {
                    let records = records
                        .into_iter()
                        .map(|(seq, expires, bytes)| RecordRead { seq, expires, bytes: bytes.into() })
                        .collect();
                    Event::LaneRead { session, generation, records, next, expired }
                }
            };
            self.broker.handle(event, now, &mut self.effects);
        }
        self.schedule_flush();
        self.resume_paused();
        accepted
    }

    /// Ends a connection's life in this shard.
    fn drop_connection(&mut self, conn: ConnId) -> Poll<()> {
        let now = self.clock.now();
        if self.sockets.get_mut(slot(conn)).and_then(Option::take).is_some() {
            self.sockets_open -= 1;
        }
        self.broker.closed(conn, now, &mut self.effects);
        self.verifier.gone(self.id, conn);
        self.schedule_flush();
        Poll::Ready(())
    }

    /// Sends a socket to the shard where its session is at home.
    fn send_away(&mut self, conn: ConnId) {
        let Some((_, to)) = self.effects.relocations.pop() else { return };
        let Some(socket) = self.sockets.get_mut(slot(conn)).and_then(Option::take) else { return };
        self.sockets_open -= 1;
        let peer = self.broker.peer(conn);
        self.broker.closed(conn, self.clock.now(), &mut self.effects);
        let Ok(arrival) = socket.detach(peer) else { return };
        self.unsent[usize::from(to.0)].push_back(Mail::Accepted(arrival));
        self.send_mail();
    }

    /// Gives a connection that speaks HTTP to whoever serves that.
    fn give_away(&mut self, conn: ConnId) {
        let Some(socket) = self.sockets.get_mut(slot(conn)).and_then(Option::take) else { return };
        self.sockets_open -= 1;
        let peer = self.broker.peer(conn);
        self.broker.closed(conn, self.clock.now(), &mut self.effects);
        let Ok(arrival) = socket.detach(peer) else { return };
        if self.desk.as_ref().is_none_or(|desk| desk.receive(arrival).is_err()) {
            warn!("a client over HTTPS is turned away: too many wait");
        }
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        self.broker.tick(now, &mut self.effects);
        while let Some(&(conn, until)) = self.leaving.front()
            && until <= now.instant
        {
            self.leaving.pop_front();
            if let Some(socket) = self.socket(conn) {
                socket.expired = true;
                socket.wake();
            }
        }
        self.report.publish(&self.broker);
        self.schedule_flush();
        self.resume_paused();
    }
}

/// What a turn of reading came to.
enum Turn {
    /// Nothing more to read now; somebody will wake us.
    Idle,
    /// There may be more, after the others.
    Busy,
    /// The stream has ended.
    Over,
    /// The socket belongs to another shard.
    Moved,
    /// The client speaks HTTP.
    Http,
    /// A layer has ended the connection; what it says of that is still to leave.
    Goodbye,
}

fn slot(conn: ConnId) -> usize {
    conn.0 as u32 as usize
}

fn accept(shard: &Rc<RefCell<Shard>>, arrival: Arrival) {
    let conn = {
        let mut shard = shard.borrow_mut();
        let now = shard.clock.now();
        let conn = shard.broker.open(arrival.peer.clone(), now);
        let socket = match Socket::attach(conn, arrival) {
            Ok(socket) => socket,
            Err(error) => {
                info!(%error, "a connection could not be taken over");
                let Shard { broker, effects, .. } = &mut *shard;
                broker.closed(conn, now, effects);
                return;
            }
        };
        if shard.sockets.len() <= slot(conn) {
            shard.sockets.resize_with(slot(conn) + 1, || None);
        }
        shard.sockets[slot(conn)] = Some(socket);
        shard.sockets_open += 1;
        conn
    };
    let shard = Rc::clone(shard);
    spawn_local(poll_fn(move |cx| shard.borrow_mut().poll_connection(conn, cx)));
}

/// Empties the trays whenever something is on them, after every connection that was ready.
async fn flusher(shard: Rc<RefCell<Shard>>) {
    poll_fn(|cx| {
        let mut shard = shard.borrow_mut();
        match &mut shard.flush {
            Some(waker) => waker.clone_from(cx.waker()),
            None => shard.flush = Some(cx.waker().clone()),
        }
        shard.turn_end();
        Poll::<()>::Pending
    })
    .await;
}

/// Goes on with the walks of new subscriptions; between two slices everybody else has a turn, and sockets are looked at.
async fn walker(shard: Rc<RefCell<Shard>>) {
    let bell = Rc::clone(&shard.borrow().walk);
    loop {
        bell.notified().await;
        while shard.borrow_mut().walk() {
            tokio::task::yield_now().await;
        }
    }
}

async fn ticker(shard: Rc<RefCell<Shard>>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        shard.borrow_mut().tick();
    }
}
