//! The public face of the room: one shard's decisions, input by input.
//!
//! In: bytes, events, time. Out: effects. The order of inputs is the order of decisions.
//! What each input leads to stands in `heads` (the protocol), `dispatch` (where to) and `acks` (when to answer).

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::FixedState;
use model::{ConnId, Instant, LaneId, Limits, Match, Now, Seq, ShardId, SpillTicket, Ticket, Timestamp};
use slab::Slab;

use crate::access::{Access, Verdict};
use crate::acks::{Acks, Answer, Kept, OwedAck};
use crate::admit::Levels;
use crate::connections::{Connection, Connections, Peer, Phase, Shown};
use crate::counters::Counters;
use crate::delivery::FrameCache;
use crate::dispatch::Forward;
use crate::effects::{Control, Effects, HandoffBatch, Request, Write};
use crate::heads::iothub::HubSetup;
use crate::offers::Offers;
use crate::plan::Plan;
use crate::retained::{Retained, Walks};
use crate::rooms::Rooms;
use crate::sessions::restoring::StoredSession;
use crate::sessions::{DelayedWill, Keeping, Session, Stored};
use crate::sharing::{Estate, Lot};
use crate::subscriptions::{Entry, Found, Presence, SessionKey, Subscriptions};

/// Denials that one shard reports in one tick; more are only counted, so that a client in a loop does not fill the log.
pub(crate) const DENIALS_PER_TICK: u32 = 4;

/// What a broker is told once.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which shard this is.
    pub shard: ShardId,
    /// How many there are, at most 64.
    pub shards: u16,
    /// The bounds.
    pub limits: Arc<Limits>,
    /// Who may connect, and do what.
    pub access: Arc<Access>,
    /// Where publications go besides subscriptions.
    pub plan: Arc<Plan>,
    /// What clients are told beside the bounds.
    pub offers: Arc<Offers>,
    /// How many bytes wait for each uplink with a bound; shared by all shards.
    pub rooms: Arc<Rooms>,
    /// Keys the maps and makes server-assigned client identifiers; the same seed gives the same run.
    pub seed: u64,
    /// The same for every shard: decides which shard a client identifier is at home in.
    pub home_seed: u64,
}

/// A record that was read from a session's lane.
#[derive(Clone, Debug)]
pub struct RecordRead {
    /// Its place.
    pub seq: Seq,
    /// When it is worth nothing any more.
    pub expires: Option<Timestamp>,
    /// The record.
    pub bytes: Rc<[u8]>,
}

/// What happened outside.
#[derive(Debug)]
pub enum Event {
    /// Our writes up to `up_to` are synced; `bytes` is how much that was since the start.
    Durable {
        /// The highest durable ticket.
        up_to: Ticket,
        /// Bytes of all trays up to it, and of records of `spill` routes that are held in memory.
        bytes: u64,
        /// Records of `spill` routes up to this one are delivered upstream, or durable.
        spilled: SpillTicket,
    },
    /// Another shard has publications for us.
    Handoff {
        /// Which one.
        from: ShardId,
        /// The publications.
        batch: HandoffBatch,
    },
    /// There is more room on the disk, or less.
    Levels(Levels),
    /// Another shard has something to say.
    Control(Control),
    /// Answer to an [`crate::Authentication`].
    Authenticated {
        /// Whose; it may be gone.
        conn: ConnId,
        /// Who it is, or why it stays out.
        verdict: Verdict,
    },
    /// An identity, see [`Verdict::Identified`], may not stay.
    Withdrawn {
        /// Whose; it may be gone.
        conn: ConnId,
    },
    /// Answer to [`Request::OpenLane`].
    LaneOpened {
        /// Whose.
        session: SessionKey,
        /// As in the request.
        generation: u32,
        /// The lane.
        lane: LaneId,
        /// Its first record that is not delivered.
        head: Seq,
        /// The place that its next record will get.
        next: Seq,
    },
    /// Answer to [`Request::ReadLane`].
    LaneRead {
        /// Whose.
        session: SessionKey,
        /// As in the request.
        generation: u32,
        /// What was found, in order.
        records: Vec<RecordRead>,
        /// Where to read on; records in between that are not in `records` are gone (expired).
        next: Seq,
        /// Records that were still there, but expired.
        expired: u64,
    },
}

/// The decisions of one shard.
#[derive(Debug)]
pub struct Broker {
    pub(crate) setup: Setup,
    /// `setup.plan`, behind a count of our own.
    #[expect(
        clippy::redundant_allocation,
        reason = "every shard would write the shared count for every message"
    )]
    pub(crate) plan: Rc<Arc<Plan>>,
    /// Whether `setup.access` has rules: all that a publication must ask where there are none.
    pub(crate) has_rules: bool,
    /// How the IoT Hub dialect is spoken, if it is; and whether it is.
    pub(crate) hub: Option<Rc<HubSetup>>,
    pub(crate) has_hub: bool,
    pub(crate) hub_series: hub::series::Series,
    /// Modules may have come into the plan that have no session yet.
    pub(crate) inputs_unkept: bool,
    /// Lanes of modules that are being opened: nothing is read before.
    pub(crate) inputs_opening: u32,
    /// Other shards wait to hear that our sessions are back, and we for those lanes.
    pub(crate) restored_unsaid: bool,
    /// Connections that wait for somebody to verify their password, and since when, in that order.
    pub(crate) asked: std::collections::VecDeque<(Instant, ConnId)>,
    /// Denials that still fit into the log before the next tick, and those that did not.
    pub(crate) denials_left: u32,
    pub(crate) denials_unsaid: u64,
    pub(crate) connections: Connections,
    pub(crate) sessions: Slab<Session>,
    pub(crate) by_client: HashMap<Rc<str>, SessionKey, FixedState>,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) retained: Retained,
    pub(crate) walks: Walks,
    pub(crate) acks: Acks,
    pub(crate) counters: Counters,
    /// Bytes put on the append tray, and how many of them are durable.
    pub(crate) appended_bytes: u64,
    /// The last number given to a record of a `spill` route.
    pub(crate) spilled: SpillTicket,
    pub(crate) durable_bytes: u64,
    /// Bytes of messages that wait for clients, in outboxes and queues, and our share of their bound.
    pub(crate) waiting_bytes: usize,
    pub(crate) waiting_bytes_max: usize,
    /// Other shards (one bit each) whose stored sessions we do not know yet: until then nothing is read.
    pub(crate) unknown_shards: u64,
    /// Our number of the last publication handed to any shard.
    pub(crate) handoff: u64,
    /// What others handed us that waits for our disk: ticket, who, their number.
    pub(crate) marks_owed: VecDeque<(Ticket, ShardId, u64)>,
    /// Sessions with a QoS 2 message that goes out once its record is durable: ticket, whose, generation.
    pub(crate) sends_waiting: VecDeque<(Ticket, SessionKey, u32)>,
    /// How much room there is, and whether anything has less than enough.
    pub(crate) levels: Levels,
    pub(crate) is_tight: bool,
    /// Whether a packet must look if there is room at all: something is tight, or an uplink has a bound.
    pub(crate) is_careful: bool,
    /// Room that was taken for the packet at hand and is not used yet: uplink, bytes.
    pub(crate) rooms_taken: Vec<(u32, u64)>,
    /// What is published now is nobody's who could send it again.
    pub(crate) publishes_will: bool,
    /// Numbers the connections that had to wait for room.
    pub(crate) withholdings: u64,
    /// Number of the first entry of the loss ledger that is not noted as published.
    pub(crate) losses_published: u64,
    pub(crate) generation: u32,
    /// Numbers the reads of lanes.
    pub(crate) reads: u32,
    /// Sessions that ended while their lane was being opened, by generation.
    pub(crate) ended_opening: Vec<(u32, Rc<str>)>,
    /// Ended sessions whose groups still get what they left.
    pub(crate) estates: Vec<Estate>,
    /// Nobody is served any more: what a connection leaves behind is not passed on.
    pub(crate) stopping: bool,
    pub(crate) ids_assigned: u64,
    pub(crate) last_fault: Option<String>,
    /// What routes that sample, throttle or look for changes remember.
    pub(crate) gates: routes::State,
    pub(crate) scratch: Scratch,
}

/// Buffers reused from one publication to the next.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) found: Found,
    pub(crate) matches: Vec<Match>,
    pub(crate) forwards: Vec<Forward>,
    pub(crate) routes: routes::Scratch,
    pub(crate) frames: FrameCache,
    pub(crate) topic: String,
    /// The topic of a message of the IoT Hub dialect.
    pub(crate) hub_topic: String,
    /// The topic that an alias of the publisher stands for.
    pub(crate) aliased: String,
    pub(crate) lots: Vec<Lot>,
    pub(crate) body: Vec<u8>,
    pub(crate) ids: Vec<u32>,
}

impl Broker {
    /// A shard without connections.
    pub fn new(setup: Setup) -> Broker {
        assert!(setup.shards >= 1 && setup.shards <= 64, "shards are one bit each in a u64");
        let shards = u64::from(setup.shards);
        Broker {
            plan: Rc::new(Arc::clone(&setup.plan)),
            has_rules: setup.access.rules.is_some(),
            hub: None,
            has_hub: false,
            hub_series: hub::series::Series::within(setup.limits.series_bytes_max as usize),
            inputs_unkept: false,
            inputs_opening: 0,
            restored_unsaid: false,
            asked: std::collections::VecDeque::new(),
            denials_left: DENIALS_PER_TICK,
            denials_unsaid: 0,
            waiting_bytes: 0,
            waiting_bytes_max: (setup.limits.waiting_bytes_max / shards) as usize,
            unknown_shards: (u64::MAX >> (64 - shards)) & !(1 << setup.shard.0),
            reads: 0,
            ended_opening: Vec::new(),
            connections: Connections::default(),
            sessions: Slab::new(),
            by_client: HashMap::with_hasher(FixedState::with_seed(setup.seed)),
            subscriptions: Subscriptions::new(setup.seed),
            retained: Retained::default(),
            walks: Walks::default(),
            acks: Acks::new(setup.shards, setup.shard),
            sends_waiting: VecDeque::new(),
            counters: Counters::default(),
            appended_bytes: 0,
            spilled: SpillTicket(0),
            durable_bytes: 0,
            handoff: 0,
            marks_owed: VecDeque::new(),
            levels: Levels::default(),
            is_tight: false,
            is_careful: setup.rooms.has_bounds(),
            rooms_taken: Vec::new(),
            publishes_will: false,
            withholdings: 0,
            losses_published: 0,
            generation: 0,
            estates: Vec::new(),
            stopping: false,
            ids_assigned: 0,
            last_fault: None,
            gates: routes::State::new(setup.limits.route_keys_max as usize),
            scratch: Scratch::default(),
            setup,
        }
    }

    /// The shard in which the session of `client_id` lives.
    pub fn home(&self, client_id: &str) -> ShardId {
        home(self.setup.home_seed, self.setup.shards, client_id)
    }

    /// Brings a stored session back at start; before the first connection. The caller gives it to its home.
    ///
    /// Once all are back, call [`Broker::restored`].
    pub fn restore(
        &mut self,
        client_id: &str,
        session: StoredSession,
        head: Seq,
        next: Seq,
        now: Now,
        effects: &mut Effects,
    ) {
        let StoredSession { record, subscriptions, received, marks } = session;
        // A client that was connected when the process ended may have been sent anything there was, and its expiry
        // counts from now.
        let connected = record.sent_before.is_none();
        let sent_before = record.sent_before.unwrap_or(next);
        let stored = Stored { sent_before, ..Stored::new(record.lane, head, next) };
        let mut session = self.new_session(client_id, Keeping::Stored(stored));
        session.expiry_secs = record.expiry_secs;
        session.disconnected_at = if connected { now.timestamp } else { record.disconnected_at };
        session.ends_at = ends_at(&session, now);
        if let Some((owner, vouched)) = record.owner {
            (session.owner, session.vouched) = (Some(owner.into()), vouched);
        }
        // Nor did it say goodbye.
        session.delayed_will = record.will.map(|(will, due_at)| match due_at {
            Some(due_at) => DelayedWill::restored(will, due_at, now),
            None => DelayedWill::new(will, now),
        });
        for packet_id in received {
            session.received.insert(packet_id);
        }
        session.received.carry();
        session.subscriptions = subscriptions;
        let shares = session.shared_filters().next().is_some();
        session.shares = shares;
        let filters: Vec<_> =
            session.subscriptions.iter().map(|(filter, options)| (filter.clone(), *options)).collect();
        let key = self.adopt(session);
        for (filter, options) in filters {
            self.subscriptions.insert(&filter, options.entry(key, true), false);
            self.announce(&filter, None, effects);
        }
        self.restore_marks(key, marks, effects);
        if connected {
            self.save_session(key, effects); // or it would count from now again after the next restart
        }
    }

    /// Every stored session is back. No shard reads a socket before all shards have said so: a publication accepted
    /// earlier would be acknowledged and pass by the stored sessions of the others.
    pub fn restored(&mut self, effects: &mut Effects) {
        self.withdraw_denied(effects); // the rules may have changed meanwhile
        self.keep_inputs(effects);
        if self.inputs_opening > 0 {
            self.restored_unsaid = true;
        } else {
            self.say_restored(effects);
        }
    }

    pub(crate) fn say_restored(&mut self, effects: &mut Effects) {
        for shard in self.others() {
            effects.controls.push((shard, Control::Restored { from: self.setup.shard }));
        }
    }

    /// The other shards.
    pub(crate) fn others(&self) -> impl Iterator<Item = ShardId> + use<> {
        let own = self.setup.shard;
        (0..self.setup.shards).map(ShardId).filter(move |shard| *shard != own)
    }

    /// A socket was accepted.
    pub fn open(&mut self, peer: Peer, now: Now) -> ConnId {
        let limits = &self.setup.limits;
        let inbound_bytes_max = self.setup.access.packet_bytes_max(peer.listener, limits);
        self.connections.open(peer, inbound_bytes_max, now.instant, limits)
    }

    /// The edge has verified who `conn` is: the user whom its client certificate names. Only before its CONNECT is read.
    pub fn identify(&mut self, conn: ConnId, user: Arc<str>) {
        if let Some(connection) = self.connections.find(conn) {
            connection.peer.certificate_user = Some(user);
        }
    }

    /// What `conn` has shown, for whoever judges it at CONNECT. Only before its CONNECT is read; the last word counts.
    pub fn show(&mut self, conn: ConnId, shown: Arc<Shown>) {
        if let Some(connection) = self.connections.find(conn) {
            connection.peer.shown = Some(shown);
        }
    }

    /// What the edge said of `conn` when it was opened and identified, for another shard that takes it over.
    pub fn peer(&self, conn: ConnId) -> Peer {
        self.connections.get(conn).map(|connection| connection.peer.clone()).unwrap_or_default()
    }

    /// What to write to the socket of `conn` next; empty if it is gone.
    pub fn pending(&self, conn: ConnId) -> &[u8] {
        self.connections.get(conn).map_or(&[], |connection| connection.outbox.pending())
    }

    /// The edge starts to write for `conn`: what comes now makes it dirty again.
    pub fn flushing(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.find(conn) {
            connection.dirty = false;
        }
    }

    /// The socket of `conn` took `count` bytes.
    pub fn wrote(&mut self, conn: ConnId, count: usize, now: Now, effects: &mut Effects) {
        let Some(connection) = self.connections.find(conn) else { return };
        self.counters.bytes_out += count as u64;
        connection.outbox.advance(count);
        connection.count_outbox(&mut self.waiting_bytes);
        let limits = &self.setup.limits;
        connection.resume(limits, &mut effects.resumed);
        if let Phase::Open(session) = connection.phase
            && connection.outbox.len() <= limits.outbox_bytes_max as usize / 2
        {
            self.pump(session, now, effects);
        }
    }

    /// Whether the edge may read the socket of `conn` (credit).
    pub fn may_read(&mut self, conn: ConnId) -> bool {
        if self.is_saturated() {
            return false;
        }
        let Some(connection) = self.connections.find(conn) else { return false };
        let stalled = connection.is_stalled(&self.setup.limits);
        connection.stalled |= stalled;
        !(stalled | connection.withheld.is_some())
            && connection.held.is_none()
            && !matches!(connection.phase, Phase::Closing | Phase::Authenticating)
    }

    /// Whether no socket of this shard may be read: the disk is too far behind, or other shards are not ready.
    pub fn is_saturated(&self) -> bool {
        // While the store takes no writes, each packet is asked whether it needs the disk.
        self.unknown_shards != 0 || self.is_behind() && self.levels.takes_writes
    }

    /// Something happened outside.
    pub fn handle(&mut self, event: Event, now: Now, effects: &mut Effects) {
        match event {
            Event::Durable { up_to, bytes, spilled } => {
                self.on_durable(up_to, bytes, spilled, now, effects);
            }
            Event::Handoff { from, batch } => self.on_handoff(from, &batch, now, effects),
            Event::Levels(levels) => self.on_levels(levels, effects),
            Event::Control(control) => self.on_control(control, now, effects),
            Event::Authenticated { conn, verdict } => self.on_authenticated(conn, verdict, now, effects),
            Event::Withdrawn { conn } => self.on_withdrawn(conn, now, effects),
            Event::LaneOpened { session, generation, lane, head, next } => {
                self.on_lane_opened(session, generation, (lane, head, next), now, effects);
            }
            Event::LaneRead { session, generation, records, next, expired } => {
                self.counters.dropped_expired += expired;
                if session != SessionKey(u32::MAX) {
                    self.on_lane_read(session, generation, records, next, now, effects);
                } else if !self.on_estate_read(generation, &records, next, now, effects) {
                    self.counters.bugs += 1;
                }
            }
        }
    }

    /// Time passed; call about once a second.
    pub fn tick(&mut self, now: Now, effects: &mut Effects) {
        self.end_silent_connections(now, effects);
        self.end_unverified(now, effects);
        self.denials_left = DENIALS_PER_TICK;
        self.publish_due_wills(now, effects);
        self.end_sessions_over(now, effects);
        self.read_what_fell_behind(now, effects);
        self.read_estates(effects);
        self.sweep_retained(now, effects);
        self.wake_walks(effects);
    }

    /// Ends every session whose expiry is over.
    fn end_sessions_over(&mut self, now: Now, effects: &mut Effects) {
        if self.unknown_shards != 0 {
            return; // those who want its will may be there
        }
        let over = self.sessions.iter().filter(|(_, session)| session.is_over(now));
        let over: Vec<SessionKey> = over.map(|(key, _)| SessionKey(key as u32)).collect();
        for key in over {
            self.publish_delayed_will(key, now, effects);
            self.end_session(key, effects);
        }
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What the route table counted for this shard.
    pub fn route_counters(&self) -> routes::Counters {
        self.scratch.routes.counters()
    }

    /// Connections now.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Sessions now, connected or not.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Subscriptions now, of all sessions. Looks at each session.
    pub fn subscriptions(&self) -> usize {
        self.sessions.iter().map(|(_, session)| session.subscriptions.len()).sum()
    }

    /// The lanes that belong to sessions of this shard, with client identifier and backlog.
    pub fn session_lanes(&self) -> impl Iterator<Item = (&str, LaneId, u64)> {
        self.sessions.iter().filter_map(|(_, session)| match &session.keeping {
            Keeping::Stored(stored) => Some((&*session.client_id, stored.lane, stored.backlog())),
            Keeping::Clean | Keeping::Opening => None,
        })
    }

    /// Replaces routes, between turns.
    pub fn replace_plan(&mut self, plan: Arc<Plan>, effects: &mut Effects) {
        self.plan = Rc::new(Arc::clone(&plan));
        self.setup.plan = plan;
        self.inputs_unkept = self.has_hub;
        self.keep_inputs(effects);
    }

    /// Every connection that should be told that the server goes away.
    pub fn shut_down(&mut self, now: Now, effects: &mut Effects) {
        self.stopping = true;
        let open: Vec<ConnId> = self.connections.iter().map(|connection| connection.id).collect();
        for conn in open {
            self.send_off(conn, now, effects);
        }
    }

    /// Checks what must hold between turns; for tests and simulation.
    pub fn invariants(&self) {
        for (_, session) in &self.sessions {
            session.invariants();
        }
        self.retained.invariants();
        self.walks.invariants(|key| self.sessions.contains(key.0 as usize));
        assert!(self.durable_bytes <= self.appended_bytes, "nothing is durable that was not appended");
        assert_eq!(self.by_client.len(), self.sessions.len(), "every session has one client identifier");
        let queued: usize = self.sessions.iter().map(|(_, session)| session.bytes()).sum();
        self.subscriptions.shares.invariants();
        let subscriptions: usize = self.sessions.iter().map(|(_, session)| session.subscriptions.len()).sum();
        assert_eq!(self.subscriptions.len(), subscriptions, "the index has what the sessions have");
        let written: usize = self.connections.iter().map(|connection| connection.counted).sum();
        assert_eq!(self.waiting_bytes, queued + written, "bytes that wait for clients are counted");
        for connection in self.connections.iter() {
            assert!(connection.counted <= connection.outbox.len(), "what was written is in the outbox");
            if let Some(key) = connection.session {
                let session = self.sessions.get(key.0 as usize);
                assert!(
                    session.is_some_and(|session| session.conn == Some(connection.id)),
                    "they know each other"
                );
            }
        }
        let mut acks_owed: HashMap<ConnId, u32, FixedState> = HashMap::default();
        for conn in self.acks.owed() {
            *acks_owed.entry(conn).or_default() += 1;
        }
        for connection in self.connections.iter() {
            let waiting = acks_owed.get(&connection.id).copied().unwrap_or_default();
            assert_eq!(connection.acks_owed, waiting, "what is owed waits");
        }
    }

    fn on_durable(
        &mut self,
        up_to: Ticket,
        bytes: u64,
        spilled: SpillTicket,
        now: Now,
        effects: &mut Effects,
    ) {
        self.acks.spilled(spilled);
        self.acks.durable(up_to);
        self.durable_bytes = self.durable_bytes.max(bytes);
        while let Some(&(ticket, from, up_to)) = self.marks_owed.front()
            && ticket <= self.acks.durable_ticket()
        {
            self.marks_owed.pop_front();
            effects.controls.push((from, Control::Kept { from: self.setup.shard, up_to }));
        }
        if !self.walks.is_empty() && !self.is_behind() {
            self.wake_walks(effects);
        }
        self.send_durable(now, effects);
        self.release(now, effects);
    }

    fn on_control(&mut self, control: Control, now: Now, effects: &mut Effects) {
        match control {
            Control::Filter { from, filter, any, kept, members, waiting } => {
                self.subscriptions.set_remote(&filter, from, Presence { any, kept, members });
                if let Some(waiting) = waiting {
                    effects.controls.push((from, Control::Known { waiting }));
                }
            }
            Control::Restored { from } => self.unknown_shards &= !(1 << from.0),
            Control::Known { waiting } => self.let_go(waiting, now, effects),
            Control::Returned { handoff, group, publication } => {
                self.on_returned(handoff, &group, &publication, now, effects);
            }
            Control::Kept { from, up_to } => {
                self.acks.kept(from, up_to);
                self.release(now, effects);
            }
        }
    }

    /// Lets every answer leave whose promise is kept.
    pub(crate) fn release(&mut self, now: Now, effects: &mut Effects) {
        self.write_markings(effects);
        for queue in 0..self.acks.queues() {
            while let Some((conn, answer, kept)) = self.acks.release(queue) {
                match answer {
                    Answer::Ack(ack) => self.acknowledge_late(conn, ack, kept, effects),
                    Answer::Refusal(ack) => self.refuse_late(conn, ack, effects),
                    Answer::Held => self.let_go(conn, now, effects),
                    Answer::Estate(id) => self.settle_estate(id, 1, effects),
                    Answer::Will(key, generation) => self.forget_will(key, generation, effects),
                    Answer::Losses(next) => self.note_published(next, effects),
                }
            }
        }
    }

    fn acknowledge_late(&mut self, conn: ConnId, ack: OwedAck, kept: Kept, effects: &mut Effects) {
        let Some(connection) = self.connections.find(conn) else { return };
        connection.acks_owed -= 1;
        connection.resume(&self.setup.limits, &mut effects.resumed);
        if connection.phase != Phase::Closing {
            self.counters.acknowledged += u64::from(ack.is_of_publication());
            acknowledge(connection, ack, kept, effects);
        }
    }

    fn refuse_late(&mut self, conn: ConnId, ack: OwedAck, effects: &mut Effects) {
        let Some(connection) = self.connections.find(conn) else { return };
        connection.acks_owed -= 1;
        connection.resume(&self.setup.limits, &mut effects.resumed);
        if connection.phase != Phase::Closing {
            self.say_no(conn, ack, effects);
        }
    }

    /// Tells the other shards what this one has at `filter`; `waiting` hears from each of them.
    /// Returns how many will answer.
    pub(crate) fn announce(&mut self, filter: &str, waiting: Option<ConnId>, effects: &mut Effects) -> u32 {
        if self.setup.shards == 1 {
            return 0;
        }
        let Presence { any, kept, members } = self.presence(filter);
        for shard in self.others() {
            let (from, filter) = (self.setup.shard, filter.into());
            effects.controls.push((shard, Control::Filter { from, filter, any, kept, members, waiting }));
        }
        u32::from(self.setup.shards) - 1
    }

    /// What this shard has at `filter`.
    pub(crate) fn presence(&self, filter: &str) -> Presence {
        self.subscriptions.presence(filter)
    }

    pub(crate) fn new_session(&mut self, client_id: &str, keeping: Keeping) -> Session {
        self.generation = self.generation.wrapping_add(1);
        Session::new(client_id.into(), self.generation, keeping)
    }

    pub(crate) fn adopt(&mut self, session: Session) -> SessionKey {
        let client_id = Rc::clone(&session.client_id);
        let key = SessionKey(self.sessions.insert(session) as u32);
        let earlier = self.by_client.insert(client_id, key);
        assert!(earlier.is_none(), "a client identifier has one session");
        key
    }

    /// Removes a session and everything it has anywhere.
    pub(crate) fn end_session(&mut self, key: SessionKey, effects: &mut Effects) -> Ticket {
        let Some(mut session) = self.sessions.try_remove(key.0 as usize) else { return Ticket(0) };
        self.by_client.remove(&session.client_id);
        if session.awaited {
            self.inputs_are_open(effects);
        }
        self.end_inputs(&mut session, effects);
        self.walks.end(key);
        for filter in session.subscriptions.keys() {
            let before = self.presence(filter);
            self.subscriptions.remove(filter, key);
            if self.presence(filter) != before {
                self.announce(filter, None, effects);
            }
        }
        let Some(session) = self.inherit(session, effects) else { return Ticket(0) };
        match session.keeping {
            Keeping::Clean => Ticket(0),
            Keeping::Opening => {
                self.ended_opening.push((session.generation, Rc::clone(&session.client_id)));
                self.delete_saved(&session, effects)
            }
            Keeping::Stored(stored) => {
                effects.requests.push(Request::RemoveLane { lane: stored.lane });
                self.delete_saved(&session, effects)
            }
        }
    }
}

/// Puts one write on the tray; `fill` appends its bytes and says what they are.
pub(crate) fn append(
    appended_bytes: &mut u64,
    effects: &mut Effects,
    fill: impl FnOnce(&mut Vec<u8>) -> Write,
) -> Ticket {
    let tray = &mut effects.appends;
    let start = tray.bytes.len();
    let write = fill(&mut tray.bytes);
    *appended_bytes += (tray.bytes.len() - start) as u64;
    tray.writes.push(write);
    tray.last = tray.last.next();
    tray.last
}

/// The shard in which the session of `client_id` lives, for `shards` shards.
pub fn home(seed: u64, shards: u16, client_id: &str) -> ShardId {
    use std::hash::BuildHasher;
    let hash = FixedState::with_seed(seed).hash_one(client_id);
    ShardId((hash % u64::from(shards)) as u16)
}

/// When a session without connection ends: its expiry counts from the end of the connection, across restarts.
pub(crate) fn ends_at(session: &Session, now: Now) -> Option<Instant> {
    if session.expiry_secs == u32::MAX {
        return None;
    }
    let ends = session.disconnected_at.plus_millis(u64::from(session.expiry_secs) * 1_000);
    Some(now.instant.plus_millis(ends.0.saturating_sub(now.timestamp.0)))
}

/// Sends an acknowledgement. Takes the proof: it never outruns its promise.
#[inline]
pub(crate) fn acknowledge(connection: &mut Connection, ack: OwedAck, _kept: Kept, effects: &mut Effects) {
    let version = connection.version;
    let out = connection.write(&mut effects.dirty);
    wire::encode_ack(out, version, ack.kind, ack.packet_id, ack.reason);
}

impl crate::sessions::SubscriptionOptions {
    /// The entry for the index.
    pub(crate) fn entry(&self, session: SessionKey, stored: bool) -> Entry {
        Entry {
            session,
            qos: self.qos,
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            subscription_id: self.subscription_id,
            stored,
        }
    }
}
