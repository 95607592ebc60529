//! Target `broker`: two clients send whatever they like, and the world around the broker takes its time.
//!
//! In: choices: how the shards are set up, then steps. A step lets a client send bytes as they are, a packet of any body,
//! or a legal one, in pieces of any length; or moves the disk, the mail between shards, time, a socket; or the process
//! dies and starts again.
//! Held against each input: nothing panics; `Broker::invariants` after every step; what a client is sent is legal MQTT
//! of its version, begins with CONNACK, ends with DISCONNECT, and no PUBLISH is longer than it takes; everything comes to
//! rest; no connection is left when all sockets are closed.
//! The edge is played as `router/src/shard.rs` plays it: trays are emptied after each input.
#![no_main]

use std::collections::{BTreeMap, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use broker::{
    AppendTray, Broker, Durability, Effects, Event, Peer, Plan, RecordRead, Request, Setup, SinkPlan,
    StateSpace, StoredSessions, WhenFull, Write,
};
use fuzz::{Choices, frame, write_seeds};
use model::{ConnId, Instant, LaneId, Limits, Now, Priority, Qos, Seq, ShardId, SpillTicket, Timestamp};
use routes::{RouteSpec, RouteTable};
use wire::{
    AckKind, Connect, Disconnect, OutgoingPublish, Packet, PacketType, ReasonCode, Subscribe, Subscription,
    Unsubscribe, Version, Will,
};

/// More of them would only be more of the same.
const STEPS_MAX: usize = 200;
/// Jobs and letters that one input may cause before it counts as never coming to rest.
const MOVES_MAX: usize = 20_000;
const TOPICS: [&str; 6] = ["a/1", "a/2", "b", "$SYS/x", "copy/a/1", "é/\u{10FFFF}"];
const FILTERS: [&str; 8] = ["a/+", "#", "b", "copy/#", "$SYS/#", "$share/g/a/1", "+/+/+", "a/#"];
const CLIENTS: [&str; 4] = ["c", "d", "e", ""];
const URGENT: LaneId = LaneId(1);
const DEFAULT: LaneId = LaneId(2);

libfuzzer_sys::fuzz_target!(init: write_seeds(seeds), |data: &[u8]| {
    let mut choices = Choices::new(data);
    let mut world = World::new(&mut choices);
    for client in 0..2 {
        world.connect(client, &mut choices);
    }
    for _ in 0..STEPS_MAX {
        if choices.is_over() {
            break;
        }
        world.step(&mut choices);
        world.check();
    }
    world.finish();
});

/// A client and its socket.
#[derive(Debug, Default)]
struct Client {
    /// `None` if it sent a CONNECT of its own making.
    version: Option<Version>,
    at: Option<(usize, ConnId)>,
    /// The longest packet it takes.
    packet_bytes_max: u32,
    /// How many bytes its socket takes in one write; 0 blocks it.
    takes: usize,
    /// Bytes the router has not taken.
    unread: Vec<u8>,
    received: Vec<u8>,
    /// Type of the last packet it was sent.
    last: Option<PacketType>,
}

/// One durable record.
#[derive(Debug)]
struct Record {
    expires: Option<Timestamp>,
    bytes: Vec<u8>,
}

enum Job {
    Append { shard: usize, tray: AppendTray },
    Advance(Vec<(LaneId, Seq)>),
    Ask { shard: usize, request: Request },
}

/// What is on disk, and what is on its way there.
#[derive(Default)]
struct Disk {
    jobs: VecDeque<Job>,
    lanes: BTreeMap<LaneId, Vec<Record>>,
    heads: BTreeMap<LaneId, Seq>,
    names: BTreeMap<String, LaneId>,
    state: BTreeMap<(StateSpace, Vec<u8>), Vec<u8>>,
    /// Bytes of the trays that are durable, by shard.
    bytes: Vec<u64>,
    /// Everything is written at once here, so the last one that came is safe.
    spilled: Vec<SpillTicket>,
    lanes_made: u32,
}

impl Disk {
    fn lane(&mut self, name: &str) -> LaneId {
        if let Some(lane) = self.names.get(name) {
            return *lane;
        }
        self.lanes_made += 1;
        let lane = LaneId(self.lanes_made);
        self.names.insert(name.to_owned(), lane);
        self.lanes.insert(lane, Vec::new());
        self.heads.insert(lane, Seq::FIRST);
        lane
    }

    fn next(&self, lane: LaneId) -> Seq {
        Seq::new(self.lanes.get(&lane).map_or(0, Vec::len) as u64 + 1).expect("1 is not 0")
    }

    fn advance(&mut self, lane: LaneId, up_to: Seq) {
        if let Some(head) = self.heads.get_mut(&lane) {
            *head = up_to.next().max(*head);
        }
    }

    fn apply(&mut self, shard: usize, tray: &AppendTray) {
        let mut rest = &tray.bytes[..];
        let mut take = |len: u32| {
            let (head, tail) = rest.split_at(len as usize);
            rest = tail;
            head.to_vec()
        };
        for write in &tray.writes {
            match *write {
                Write::Record { lane, len, expires, spill, .. } => {
                    let bytes = take(len);
                    self.spilled[shard] = self.spilled[shard].max(spill);
                    if let Some(records) = self.lanes.get_mut(&lane) {
                        records.push(Record { expires, bytes });
                    }
                }
                Write::Put { space, key_len, len } => {
                    let key = take(key_len);
                    self.state.insert((space, key), take(len));
                }
                Write::Delete { space, key_len } => drop(self.state.remove(&(space, take(key_len)))),
                Write::Advance { lane, up_to } => self.advance(lane, up_to),
            }
        }
        assert!(rest.is_empty(), "the writes of a tray are all of its bytes");
    }
}

struct World {
    brokers: Vec<Broker>,
    effects: Vec<Effects>,
    disk: Disk,
    /// Mail for a shard, in order.
    mail: Vec<VecDeque<Event>>,
    clients: [Client; 2],
    now: Now,
    limits: Arc<Limits>,
    plan: Arc<Plan>,
}

/// What clients do.
impl World {
    fn new(choices: &mut Choices<'_>) -> World {
        let setup = choices.byte();
        let shards = 1 + usize::from(setup & 1);
        let mut limits = Limits::DEFAULT;
        if setup & 2 != 0 {
            limits.session_inflight_max = 1 + choices.below(4) as u16;
            limits.session_queue_messages_max = 1 + choices.below(6) as u32;
            limits.session_queue_bytes_max = 100 + choices.below(256) as u32 * 4;
            limits.outbox_bytes_max = 50 + choices.below(256) as u32 * 4;
            limits.receive_max = 1 + choices.below(8) as u16;
            limits.commit_bytes_max = 100 + choices.below(256) as u32 * 8;
            limits.waiting_bytes_max = 200 + choices.below(256) as u64 * 16;
        }
        if setup & 4 != 0 {
            limits.packet_bytes_max = 128;
            limits.client_id_bytes_max = 8;
            limits.topic_bytes_max = 16;
            limits.topic_levels_max = 3;
            limits.subscriptions_per_session_max = 2;
            limits.session_expiry_secs_max = 10;
        }
        let plan = plan(usize::from(setup >> 3 & 3));
        let mut world = World {
            brokers: Vec::new(),
            effects: Vec::new(),
            disk: Disk { bytes: vec![0; shards], spilled: vec![SpillTicket(0); shards], ..Disk::default() },
            mail: (0..shards).map(|_| VecDeque::new()).collect(),
            clients: [Client::default(), Client::default()],
            now: Now { instant: Instant(1_000_000), timestamp: Timestamp(1_700_000_000_000) },
            limits: Arc::new(limits),
            plan: Arc::new(plan),
        };
        assert_eq!((world.disk.lane("urgent"), world.disk.lane("default")), (URGENT, DEFAULT));
        world.start();
        world.settle();
        world
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.byte();
        let client = usize::from(kind >> 4 & 1);
        let piece = [usize::MAX, 1, 2, 3, 5, 7, 13, 64][usize::from(kind >> 5)];
        let mut bytes = Vec::new();
        let version = self.clients[client].version.unwrap_or(Version::V5);
        match kind & 0xF {
            0 => {
                let len = choices.below(64);
                bytes.extend_from_slice(choices.take(len));
            }
            1 => {
                let (header, len) = (choices.byte(), choices.below(160));
                frame(&mut bytes, header, choices.take(len));
            }
            2 | 3 => self.publish(client, choices, &mut bytes),
            4 => subscribe(version, choices, &mut bytes),
            5 => {
                for _ in 0..=choices.below(4) {
                    let id = NonZeroU16::new(1 + choices.below(8) as u16).unwrap_or(NonZeroU16::MIN);
                    let kinds = [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp];
                    let reasons = [ReasonCode::SUCCESS, ReasonCode::SUCCESS, ReasonCode::UNSPECIFIED_ERROR];
                    let kind = choices.pick(&kinds);
                    let reason = choices.pick(&reasons);
                    let reason =
                        if reason.is_allowed_in(kind.packet_type()) { reason } else { ReasonCode::SUCCESS };
                    wire::encode_ack(&mut bytes, version, kind, id, reason);
                }
            }
            6 => return self.connect(client, choices),
            7 if choices.below(4) == 0 => return self.dial(client, None, u32::MAX),
            7 => return self.cut(client),
            8 => {
                for _ in 0..=choices.below(8) {
                    self.disk_step();
                }
            }
            9 => {
                for _ in 0..=choices.below(8) {
                    let to = choices.below(self.mail.len());
                    self.deliver_mail(to);
                }
            }
            10 => self.pass(choices.pick(&[1, 500, 1_000, 5_000, 60_000, 86_400_000])),
            11 => {
                self.clients[client].takes = choices.pick(&[0, 1, 7, 40, 300, usize::MAX]);
                self.drip(client);
            }
            12 => {
                let filters = vec![choices.pick(&FILTERS).to_owned()];
                let packet = Unsubscribe { packet_id: NonZeroU16::MIN, user_properties: Vec::new(), filters };
                wire::encode_unsubscribe(&mut bytes, version, &packet).expect("it can be written");
            }
            13 => {
                let flags = choices.byte();
                let reason = if flags & 1 == 0 {
                    ReasonCode::NORMAL_DISCONNECTION
                } else {
                    ReasonCode::DISCONNECT_WITH_WILL_MESSAGE
                };
                let session_expiry_secs = (flags & 2 != 0).then_some(u32::from(flags >> 2));
                let packet = Disconnect { session_expiry_secs, ..Disconnect::new(reason) };
                wire::encode_disconnect(&mut bytes, version, &packet).expect("it can be written");
            }
            14 => self.settle(),
            _ if choices.below(16) == 0 => self.shut_down(),
            _ => self.crash(),
        }
        for part in bytes.chunks(piece) {
            self.clients[client].unread.extend_from_slice(part);
            self.offer(client);
        }
    }

    fn publish(&mut self, client: usize, choices: &mut Choices<'_>, bytes: &mut Vec<u8>) {
        let flags = choices.byte();
        let topic = choices.pick(&TOPICS);
        let len = choices.below(if flags & 1 == 0 { 8 } else { 256 });
        let payload = choices.take(len);
        let payload = if flags & 2 == 0 { payload } else { &[b'x'; 256][..len] };
        let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][choices.below(3)];
        let packet_id = NonZeroU16::new(1 + u16::from(flags >> 5));
        let packet_id = packet_id.filter(|_| qos != Qos::AtMostOnce);
        let expiry_secs = (flags & 8 != 0).then_some(u32::from(flags >> 5));
        let retain = flags & 16 != 0;
        let outgoing = OutgoingPublish {
            qos,
            packet_id,
            topic,
            payload,
            expiry_secs,
            retain,
            ..OutgoingPublish::default()
        };
        let version = self.clients[client].version.unwrap_or(Version::V5);
        wire::encode_publish(bytes, version, &outgoing).expect("it can be written");
    }

    /// Dials and sends a legal CONNECT.
    fn connect(&mut self, client: usize, choices: &mut Choices<'_>) {
        let (flags, wishes) = (choices.byte(), choices.byte());
        let version = if flags & 1 == 0 { Version::V5 } else { Version::V3 };
        let id = CLIENTS[(client + usize::from(flags >> 1 & 3)) % CLIENTS.len()];
        let mut connect = Connect::new(version, id);
        connect.clean_start = flags & 8 != 0 || id.is_empty();
        connect.keep_alive_secs = u16::from(flags >> 4 & 3);
        if flags & 64 != 0 {
            connect.will = Some(Will {
                topic: choices.pick(&TOPICS).to_owned(),
                payload: b"gone".to_vec(),
                qos: if flags & 128 == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce },
                ..Will::default()
            });
        }
        let mut packet_bytes_max = u32::MAX;
        if version == Version::V5 {
            connect.session_expiry_secs = [0, 1, 100, u32::MAX][usize::from(wishes & 3)];
            connect.receive_max = NonZeroU16::new(1 + u16::from(wishes >> 2 & 3)).unwrap_or(NonZeroU16::MIN);
            if wishes & 16 != 0 {
                packet_bytes_max = 16 + u32::from(wishes >> 5) * 8;
                connect.packet_bytes_max = NonZeroU32::new(packet_bytes_max);
            }
        }
        self.dial(client, Some(version), packet_bytes_max);
        let mut bytes = Vec::new();
        wire::encode_connect(&mut bytes, &connect).expect("it can be written");
        self.clients[client].unread = bytes;
        self.offer(client);
    }

    /// Opens a socket, in shard 0.
    fn dial(&mut self, client: usize, version: Option<Version>, packet_bytes_max: u32) {
        self.cut(client);
        let takes = usize::MAX;
        self.clients[client] = Client { version, packet_bytes_max, takes, ..Client::default() };
        self.clients[client].at = Some((0, self.brokers[0].open(Peer::default(), self.now)));
    }

    /// The socket breaks.
    fn cut(&mut self, client: usize) {
        let Some((shard, conn)) = self.clients[client].at.take() else { return };
        self.clients[client].unread.clear();
        self.brokers[shard].closed(conn, self.now, &mut self.effects[shard]);
        self.drain(shard);
    }

    /// Offers what is unread.
    fn offer(&mut self, client: usize) {
        let Some((shard, conn)) = self.clients[client].at else {
            self.clients[client].unread.clear();
            return;
        };
        if !self.brokers[shard].may_read(conn) {
            return;
        }
        let unread = std::mem::take(&mut self.clients[client].unread);
        let taken = self.brokers[shard].read(conn, &unread, self.now, &mut self.effects[shard]);
        self.clients[client].unread = unread[taken..].to_vec();
        if let Some((from, to)) = self.effects[shard].relocations.pop() {
            assert_eq!(from, conn, "who is read moves");
            self.brokers[shard].closed(conn, self.now, &mut self.effects[shard]);
            self.clients[client].at = None;
            self.drain(shard);
            let shard = usize::from(to.0);
            self.clients[client].at = Some((shard, self.brokers[shard].open(Peer::default(), self.now)));
            return self.offer(client);
        }
        self.drain(shard);
    }

    /// Its socket is ready for one more write.
    fn drip(&mut self, client: usize) {
        if let Some((shard, conn)) = self.clients[client].at {
            self.effects[shard].dirty.push(conn);
            self.drain(shard);
        }
    }
}

fn subscribe(version: Version, choices: &mut Choices<'_>, bytes: &mut Vec<u8>) {
    let flags = choices.byte();
    let mut subscriptions = Vec::new();
    for _ in 0..=flags & 1 {
        let filter = match choices.byte() {
            kind if kind < 224 => FILTERS[usize::from(kind) % FILTERS.len()].to_owned(),
            kind => String::from_utf8_lossy(choices.take(usize::from(kind - 224))).replace('\0', "?"),
        };
        let qos = Qos::from_bits(flags >> 1 & 1 | flags >> 2 & 2).unwrap_or_default();
        let mut subscription = Subscription::new(filter, qos);
        if version == Version::V5 {
            subscription.no_local = flags & 4 != 0 && !subscription.filter.starts_with("$share/");
            subscription.retain_as_published = flags & 16 != 0;
        }
        subscriptions.push(subscription);
    }
    let subscription_id = NonZeroU32::new(u32::from(flags >> 5)).filter(|_| version == Version::V5);
    let packet_id = NonZeroU16::MIN;
    let packet = Subscribe { packet_id, subscription_id, user_properties: Vec::new(), subscriptions };
    wire::encode_subscribe(bytes, version, &packet).expect("it can be written");
}

/// Where publications go besides subscriptions.
fn plan(which: usize) -> Plan {
    let texts: &[(&str, Priority)] = &[
        ("FROM /* INTO $upstream", Priority::DEFAULT),
        ("FROM \"a/#\" WHERE $body.x > 1 INTO $upstream, topic(\"copy/{$topic}\")", Priority::HIGHEST),
        (
            "SELECT * EXCEPT $body.s FROM /* CHANGED($body.x) BY $clientId INTO topic(\"b\")",
            Priority::DEFAULT,
        ),
    ];
    let texts = &texts[..which];
    let spec = |(text, priority): &(&str, Priority)| RouteSpec {
        name: "r".into(),
        text: (*text).to_owned(),
        priority: *priority,
        ttl_millis: (*priority == Priority::HIGHEST).then_some(2_000),
    };
    let specs: Vec<RouteSpec> = texts.iter().map(spec).collect();
    let table = RouteTable::compile(&specs, &routes::Options::default())
        .unwrap_or_else(|errors| panic!("our own routes: {errors:?}"));
    let sink = |sink: &routes::Sink| match sink {
        routes::Sink::Topic(_) => SinkPlan::Topic,
        _ => SinkPlan::Lanes {
            uplink: 0,
            lanes: vec![(Priority::HIGHEST, URGENT), (Priority::DEFAULT, DEFAULT)],
            when_full: WhenFull::Refuse,
        },
    };
    Plan {
        sinks: table.sinks().iter().map(sink).collect(),
        durabilities: [Durability::Disk, Durability::Spill, Durability::Disk][..specs.len()].into(),
        table: Arc::new(table),
        ttl_millis: None,
        keeps_user: false,
    }
}

/// What the world does.
impl World {
    /// Like a process that starts on this disk.
    fn start(&mut self) {
        let shards = self.mail.len();
        for shard in 0..shards {
            let mut broker = Broker::new(Setup {
                shard: ShardId(shard as u16),
                shards: shards as u16,
                limits: Arc::clone(&self.limits),
                access: Arc::new(broker::access::Access::open(true)),
                plan: Arc::clone(&self.plan),
                offers: Arc::default(),
                rooms: Arc::default(),
                seed: 7 + shard as u64,
                home_seed: 11,
            });
            let mut effects = Effects::new(shards as u16);
            let mut stored = StoredSessions::default();
            for ((space, key), value) in &self.disk.state {
                if StoredSessions::SPACES.contains(space) {
                    stored.add(*space, key, value).expect("what was written can be read");
                } else {
                    let record = broker::decode_retained(key, value).expect("what was written can be read");
                    broker.restore_retained(&record, self.now);
                }
            }
            if shard == 0 {
                broker.delete_orphans(stored.take_orphans(), &mut effects);
            }
            for (client_id, session) in stored {
                if usize::from(broker.home(&client_id).0) == shard {
                    let (head, next) = (self.disk.heads[&session.lane()], self.disk.next(session.lane()));
                    broker.restore(&client_id, session, head, next, self.now, &mut effects);
                }
            }
            broker.restored(&mut effects);
            self.brokers.push(broker);
            self.effects.push(effects);
        }
        for shard in 0..shards {
            self.drain(shard);
        }
    }

    /// The process dies and starts again: what was not durable is gone, and every connection.
    fn crash(&mut self) {
        self.disk.jobs.clear();
        self.disk.bytes.fill(0);
        self.disk.spilled.fill(SpillTicket(0));
        self.mail.iter_mut().for_each(VecDeque::clear);
        self.brokers.clear();
        self.effects.clear();
        self.clients = [Client::default(), Client::default()];
        self.start();
    }

    fn pass(&mut self, millis: u64) {
        self.now.instant = self.now.instant.plus_millis(millis);
        self.now.timestamp = self.now.timestamp.plus_millis(millis);
        for shard in 0..self.brokers.len() {
            self.brokers[shard].tick(self.now, &mut self.effects[shard]);
            self.drain(shard);
        }
    }

    fn shut_down(&mut self) {
        for shard in 0..self.brokers.len() {
            self.brokers[shard].shut_down(self.now, &mut self.effects[shard]);
            self.drain(shard);
        }
    }

    /// Everything that waits happens.
    fn settle(&mut self) {
        for _ in 0..MOVES_MAX {
            let mailed = (0..self.mail.len()).any(|to| self.deliver_mail(to));
            if !mailed && !self.disk_step() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn deliver_mail(&mut self, to: usize) -> bool {
        let Some(event) = self.mail[to].pop_front() else { return false };
        self.brokers[to].handle(event, self.now, &mut self.effects[to]);
        self.drain(to);
        true
    }

    /// The disk does one job; whether there was one.
    fn disk_step(&mut self) -> bool {
        let Some(job) = self.disk.jobs.pop_front() else { return false };
        match job {
            Job::Append { shard, tray } => {
                self.disk.apply(shard, &tray);
                self.disk.bytes[shard] += tray.bytes.len() as u64;
                let event = Event::Durable {
                    up_to: tray.last,
                    bytes: self.disk.bytes[shard],
                    spilled: self.disk.spilled[shard],
                };
                self.mail[shard].push_back(event);
            }
            Job::Advance(advances) => {
                for (lane, up_to) in advances {
                    let next = self.disk.next(lane);
                    if let Some(head) = self.disk.heads.get_mut(&lane) {
                        *head = up_to.next().max(*head);
                        assert!(*head <= next, "only what is durable can be delivered");
                    }
                }
            }
            Job::Ask { shard, request } => self.ask(shard, request),
        }
        true
    }

    fn ask(&mut self, shard: usize, request: Request) {
        match request {
            Request::OpenLane { session, generation, client_id, input } => {
                let lane = self.disk.lane(&match input {
                    Some((input, priority)) => broker::input_lane_name(&client_id, &input, priority),
                    None => format!("s/{client_id}"),
                });
                let (head, next) = (self.disk.heads[&lane], self.disk.next(lane));
                self.mail[shard].push_back(Event::LaneOpened { session, generation, lane, head, next });
            }
            Request::ReadLane { session, generation, lane, from, bytes_max, expired_too } => {
                let Some(kept) = self.disk.lanes.get(&lane) else { return };
                let (mut records, mut bytes, mut next, mut expired) = (Vec::new(), 0, from, 0);
                for record in kept.iter().skip(from.get() as usize - 1) {
                    if bytes > 0 && bytes + record.bytes.len() > bytes_max as usize {
                        break;
                    }
                    if expired_too || record.expires.is_none_or(|at| at > self.now.timestamp) {
                        bytes += record.bytes.len();
                        let bytes = record.bytes[..].into();
                        records.push(RecordRead { seq: next, expires: record.expires, bytes });
                    } else {
                        expired += 1;
                    }
                    next = next.next();
                }
                self.mail[shard].push_back(Event::LaneRead { session, generation, records, next, expired });
            }
            Request::RemoveLane { lane } => {
                self.disk.names.retain(|_, have| *have != lane);
                self.disk.lanes.remove(&lane);
                self.disk.heads.remove(&lane);
            }
        }
    }

    /// The edge's turn end: the trays are emptied, in its order.
    fn drain(&mut self, shard: usize) {
        for _ in 0..MOVES_MAX {
            if self.effects[shard].is_empty() {
                return self.resume(shard);
            }
            self.send_away(shard);
            if std::mem::take(&mut self.effects[shard].walk) {
                self.brokers[shard].walk(self.now, &mut self.effects[shard]);
            }
            self.effects[shard].denials.clear();
            while let Some(conn) = self.effects[shard].dirty.pop() {
                self.flush(shard, conn);
            }
            for conn in std::mem::take(&mut self.effects[shard].closing) {
                for client in &mut self.clients {
                    if client.at == Some((shard, conn)) {
                        (client.at, client.unread) = (None, Vec::new());
                    }
                }
                self.brokers[shard].closed(conn, self.now, &mut self.effects[shard]);
            }
            for conn in std::mem::take(&mut self.effects[shard].resumed) {
                for client in 0..self.clients.len() {
                    if self.clients[client].at == Some((shard, conn)) {
                        self.offer(client);
                    }
                }
            }
        }
        panic!("the trays are never empty");
    }

    /// Reads on where a packet waits in whole and may be read.
    fn resume(&mut self, shard: usize) {
        if self.brokers[shard].is_saturated() {
            return;
        }
        for client in 0..self.clients.len() {
            let player = &self.clients[client];
            let whole = wire::bytes_needed(&player.unread).is_some_and(|len| len <= player.unread.len());
            if let Some((at, conn)) = player.at
                && at == shard
                && whole
                && self.brokers[shard].may_read(conn)
            {
                self.offer(client);
            }
        }
    }

    fn send_away(&mut self, shard: usize) {
        let effects = &mut self.effects[shard];
        if !effects.appends.is_empty() {
            self.disk.jobs.push_back(Job::Append { shard, tray: effects.appends.take() });
        }
        if !effects.advances.is_empty() {
            self.disk.jobs.push_back(Job::Advance(std::mem::take(&mut effects.advances)));
        }
        for request in std::mem::take(&mut effects.requests) {
            self.disk.jobs.push_back(Job::Ask { shard, request });
        }
        for (to, control) in std::mem::take(&mut effects.controls) {
            self.mail[usize::from(to.0)].push_back(Event::Control(control));
        }
        for (to, batch) in effects.handoffs.iter_mut().enumerate() {
            if !batch.bytes.is_empty() {
                let event = Event::Handoff { from: ShardId(shard as u16), batch: batch.take() };
                self.mail[to].push_back(event);
            }
        }
    }

    fn flush(&mut self, shard: usize, conn: ConnId) {
        self.brokers[shard].flushing(conn);
        let Some(client) = self.clients.iter_mut().find(|client| client.at == Some((shard, conn))) else {
            return;
        };
        let pending = self.brokers[shard].pending(conn);
        let count = pending.len().min(client.takes);
        client.received.extend_from_slice(&pending[..count]);
        if count > 0 {
            self.brokers[shard].wrote(conn, count, self.now, &mut self.effects[shard]);
            client.look();
        }
    }

    fn check(&self) {
        for (broker, effects) in self.brokers.iter().zip(&self.effects) {
            broker.invariants();
            assert!(effects.is_empty(), "nothing is left on a tray");
        }
    }

    fn finish(&mut self) {
        for client in 0..self.clients.len() {
            self.clients[client].takes = usize::MAX;
            self.drip(client);
        }
        self.settle();
        self.check();
        for client in 0..self.clients.len() {
            self.cut(client);
        }
        self.settle();
        self.pass(86_400_000);
        self.settle();
        self.check();
        let left: usize = self.brokers.iter().map(Broker::connections).sum();
        assert_eq!(left, 0, "every socket is closed");
    }
}

impl Client {
    /// Looks at what it was sent.
    fn look(&mut self) {
        let mut rest = &self.received[..];
        while let Some(frame) = wire::split(rest, u32::MAX).expect("a server sends packets") {
            rest = &rest[frame.total_len()..];
            let decoded = match self.version {
                Some(version) => wire::decode(frame, version),
                None => wire::decode(frame, Version::V5).or_else(|_| wire::decode(frame, Version::V3)),
            };
            let packet = decoded.unwrap_or_else(|fault| panic!("{:?} {frame:?}: {fault:?}", self.version));
            let kind = packet.packet_type();
            assert_ne!(self.last, Some(PacketType::Disconnect), "{packet:?} after DISCONNECT");
            // [MQTT-3.2.0-1] [MQTT-3.14.0-1]
            let first = kind == PacketType::ConnAck;
            assert_eq!(self.last.is_none(), first, "{packet:?} after {:?}", self.last);
            match packet {
                Packet::Publish(_) => {
                    // [MQTT-3.1.2-24]
                    assert!(frame.total_len() as u64 <= u64::from(self.packet_bytes_max), "{packet:?}");
                }
                Packet::ConnAck(_)
                | Packet::PubAck(_)
                | Packet::PubRec(_)
                | Packet::PubRel(_)
                | Packet::PubComp(_)
                | Packet::SubAck(_)
                | Packet::UnsubAck(_)
                | Packet::PingResp => {}
                // 3.1.1 knows no DISCONNECT of a server.
                Packet::Disconnect(_) => assert_ne!(self.version, Some(Version::V3), "{packet:?}"),
                other => panic!("a server never sends {other:?}"),
            }
            self.last = Some(kind);
        }
        self.received = rest.to_vec();
    }
}

/// Each setup with a short life of two clients, by the book; then streams of choices.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for setup in [0_u8, 1, 8, 9, 16, 25, 4, 5] {
        // Set up; two CONNECTs: a stored session, and a clean one of 3.1.1.
        let mut bytes = vec![setup, 0, 0x0E, 0x09, 0];
        let (first, second) = (0, 0x10);
        bytes.extend_from_slice(&[first | 4, 2, 0, 14, second | 4, 2, 1, 14]); // both subscribe, QoS 1
        for number in 0..4 {
            bytes.extend_from_slice(&[second | 2, 4 | number << 5, 0, 7]); // QoS 1 publications
            bytes.extend_from_slice(b"{\"x\":2}");
        }
        bytes.extend_from_slice(&[8, 7, 9, 0, 14, first | 5, 1, 0, 1, 0xE0 | second, 2, 0xC0, 0]);
        bytes.extend_from_slice(&[
            first | 7,
            1,
            second | 2,
            4,
            0,
            1,
            b'y',
            14,
            10,
            2,
            first | 6,
            0,
            0x0E,
            14,
        ]);
        bytes.extend_from_slice(&[15, 1, first | 6, 0, 0x0E, 14, first | 12, 0, 14, first | 13, 0, 14]);
        seeds.push(bytes);
    }
    for start in 0..16_u32 {
        let mix = |at: u32| (start * 40_503 + at).wrapping_mul(2_654_435_761).rotate_left(13) as u8;
        seeds.push((0..160).map(mix).collect());
    }
    seeds
}
