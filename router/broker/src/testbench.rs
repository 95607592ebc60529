//! A bench to play on: shards, clients, a disk and the mail between them, everything moved by hand.
//!
//! The edge's part is played as `router/src/shard.rs` plays it: trays are emptied after each input. What takes time in
//! the world (the disk, the mail) waits in a queue until a test lets one step of it happen. Nothing here sleeps.

mod disk;

use std::collections::{BTreeMap, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use model::{ConnId, Instant, LaneId, Limits, Now, Qos, Seq, ShardId, Ticket, Timestamp};
use wire::{
    AckKind, Connect, Disconnect, OutgoingPublish, Packet, ReasonCode, Subscribe, Subscription, Unsubscribe,
    Version,
};

pub(crate) use self::disk::Disk;
use crate::access::{Access, Verdict};
use crate::random::Random;
use crate::{
    AppendTray, Authentication, Broker, Denial, Effects, Event, HubAnswer, HubRequest, HubSetup, Level,
    Levels, Loss, Offers, Peer, Plan, RecordRead, Request, RoomSetup, Rooms, Setup, StoredSessions,
    Unanswered, Write,
};

/// What a record of the store has beside its bytes.
pub(crate) const RECORD_OVERHEAD: u64 = 10;

/// What a client was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    ConnAck {
        present: bool,
        reason: ReasonCode,
    },
    Publish(Got),
    PubAck(u16),
    /// An acknowledgement that says why not.
    Refused(wire::AckKind, u16, ReasonCode),
    PubRec(u16),
    PubRel(u16, ReasonCode),
    PubComp(u16, ReasonCode),
    SubAck(Vec<ReasonCode>),
    UnsubAck(Vec<ReasonCode>),
    PingResp,
    Disconnect(ReasonCode),
    Closed,
}

/// A PUBLISH that a client was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: Qos,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    pub(crate) id: u16,
    pub(crate) ids: Vec<u32>,
    pub(crate) expiry_secs: Option<u32>,
    /// The alias it came with, 0 for none. `topic` is what it stands for.
    pub(crate) alias: u16,
    /// Whether the topic was there in full.
    pub(crate) spelled: bool,
    /// Its properties as they came, hop by hop ones included.
    pub(crate) properties: Vec<u8>,
}

impl Got {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// A client, played by hand.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: String,
    pub(crate) version: Version,
    pub(crate) shard: usize,
    pub(crate) conn: Option<ConnId>,
    /// How many bytes its socket takes in one write; 0 blocks it.
    pub(crate) takes: usize,
    /// Bytes the router has not taken.
    unread: Vec<u8>,
    received: Vec<u8>,
    /// Every byte it was sent since it was last asked for.
    heard: Vec<u8>,
    /// What our aliases stand for on its connection.
    aliases: BTreeMap<u16, String>,
    /// Every CONNACK, SUBACK and DISCONNECT in whole, and the length of the longest packet.
    pub(crate) connacks: Vec<wire::ConnAck>,
    pub(crate) subacks: Vec<wire::SubAck>,
    pub(crate) disconnects: Vec<Disconnect>,
    pub(crate) longest: usize,
    /// Everything it was sent and nobody asked for yet.
    seen: Vec<Seen>,
}

#[derive(Debug)]
enum Job {
    Append { shard: usize, tray: AppendTray },
    Advance(Vec<(LaneId, Seq)>),
    Ask { shard: usize, request: Request },
}

/// The senders that are no shards, counted from the last shard.
const SYNCED: usize = 0;
const OPENED: usize = 1;
const READ: usize = 2;
const ANSWERS: usize = 3;

/// Everything.
pub(crate) struct Bench {
    pub(crate) brokers: Vec<Broker>,
    pub(crate) effects: Vec<Effects>,
    pub(crate) disk: Disk,
    /// Mail for a shard, by sender: the shards, and behind them what the disk has synced, lanes it opened, and lanes
    /// that were read. In order per sender only.
    mail: Vec<Vec<VecDeque<Event>>>,
    pub(crate) clients: Vec<Client>,
    owners: BTreeMap<(usize, u64), usize>,
    pub(crate) now: Now,
    pub(crate) limits: Arc<Limits>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) offers: Arc<Offers>,
    /// What the one uplink may take, and what waits for it.
    pub(crate) bound: Option<RoomSetup>,
    pub(crate) rooms: Arc<Rooms>,
    /// Bytes of records for the uplink that are written since the start.
    written: u64,
    /// Who the edge says comes next.
    pub(crate) peer: Peer,
    pub(crate) access: Arc<Access>,
    /// Passwords that nobody has verified yet, by shard.
    pub(crate) authentications: VecDeque<(usize, Authentication)>,
    /// What clients were not allowed to do.
    pub(crate) denials: Vec<Denial>,
    /// How the IoT Hub dialect is spoken, if it is.
    pub(crate) hub: Option<HubSetup>,
    /// What its services were asked, in order.
    pub(crate) hub_requests: Vec<HubRequest>,
    /// Whom the last change of levels let go on, in order.
    pub(crate) resumed: Vec<usize>,
    /// What sinks did not get.
    pub(crate) losses: Vec<Loss>,
    /// Shards whose broker wants another turn for its walks.
    walking: Vec<bool>,
    /// Of everything that ever was on a tray, for comparing two runs.
    pub(crate) fingerprint: u64,
    /// Places that were advanced to, by lane, since the last start.
    advanced: BTreeMap<LaneId, Seq>,
}

/// Makes a client do something.
impl Bench {
    pub(crate) fn new(shards: usize) -> Bench {
        Bench::with(shards, Limits::DEFAULT, Plan::empty())
    }

    pub(crate) fn with(shards: usize, limits: Limits, plan: Plan) -> Bench {
        Bench::speaking(shards, limits, plan, None)
    }

    /// The same, with the IoT Hub dialect.
    pub(crate) fn speaking(shards: usize, limits: Limits, plan: Plan, hub: Option<HubSetup>) -> Bench {
        let mut bench = Bench {
            brokers: Vec::new(),
            effects: Vec::new(),
            disk: Disk::new(shards),
            mail: (0..shards).map(|_| (0..shards + ANSWERS).map(|_| VecDeque::new()).collect()).collect(),
            clients: Vec::new(),
            owners: BTreeMap::new(),
            now: Now { instant: Instant(1_000_000), timestamp: Timestamp(1_700_000_000_000) },
            limits: Arc::new(limits),
            plan: Arc::new(plan),
            offers: Arc::default(),
            bound: None,
            rooms: Arc::default(),
            written: 0,
            peer: Peer::default(),
            access: Arc::new(Access::open(true)),
            authentications: VecDeque::new(),
            denials: Vec::new(),
            hub,
            hub_requests: Vec::new(),
            losses: Vec::new(),
            resumed: Vec::new(),
            walking: vec![false; shards],
            fingerprint: 0,
            advanced: BTreeMap::new(),
        };
        bench.start();
        bench.settle();
        bench
    }

    /// Like a process that starts on this disk.
    fn start(&mut self) {
        let shards = self.mail.len();
        let home_seed = 11;
        self.rooms = Arc::new(Rooms::new([self.bound], shards as u16, 200, RECORD_OVERHEAD));
        self.written = 0;
        self.look_at_room();
        for shard in 0..shards {
            let mut broker = Broker::new(Setup {
                shard: ShardId(shard as u16),
                shards: shards as u16,
                limits: Arc::clone(&self.limits),
                access: Arc::clone(&self.access),
                plan: Arc::clone(&self.plan),
                offers: Arc::clone(&self.offers),
                rooms: Arc::clone(&self.rooms),
                seed: 7 + shard as u64,
                home_seed,
            });
            if let Some(hub) = &self.hub {
                broker.speak_hub(hub.clone());
            }
            let mut effects = Effects::new(shards as u16);
            let mut stored = StoredSessions::default();
            for ((space, key), value) in &self.disk.state {
                stored.add(*space, key, value).unwrap();
            }
            if shard == 0 {
                broker.delete_orphans(stored.take_orphans(), &mut effects);
            }
            for (client_id, session) in stored {
                if broker.home(&client_id).0 as usize == shard {
                    let (head, next) = (self.disk.heads[&session.lane()], self.disk.next(session.lane()));
                    broker.restore(&client_id, session, head, next, self.now, &mut effects);
                }
            }
            for (name, lane) in &self.disk.names {
                let Some((client_id, input, priority)) = crate::read_input_lane_name(name) else { continue };
                if broker.home(client_id).0 as usize == shard {
                    let places = (*lane, self.disk.heads[lane], self.disk.next(*lane));
                    assert!(broker.restore_input(client_id, (input, priority), places), "{name}");
                }
            }
            for (topic, value) in &self.disk.retained {
                let record = crate::decode_retained(topic.as_bytes(), value).unwrap();
                broker.restore_retained(&record, self.now);
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
    pub(crate) fn crash(&mut self) {
        self.crash_behind(0);
    }

    /// As `crash`, but the disk has the first writes that wait for it, and nobody has heard of that.
    pub(crate) fn crash_behind(&mut self, written: usize) {
        for job in std::mem::take(&mut self.disk.jobs).into_iter().take(written) {
            match job {
                Job::Append { shard, tray } => self.disk.apply(shard, &tray),
                Job::Advance(advances) => {
                    advances.into_iter().for_each(|(lane, up_to)| self.disk.advance(lane, up_to));
                }
                Job::Ask { .. } => break,
            }
        }
        let durable = self.disk.durable_heads.clone();
        for (lane, head) in &mut self.disk.heads {
            *head = durable.get(lane).copied().unwrap_or(Seq::FIRST);
        }
        self.disk.bytes.fill(0);
        self.disk.synced.fill(Ticket(0));
        self.disk.forget_fronts();
        self.mail.iter_mut().flatten().for_each(VecDeque::clear);
        self.brokers.clear();
        self.effects.clear();
        self.owners.clear();
        self.authentications.clear();
        self.advanced.clear();
        self.walking.fill(false);
        for client in &mut self.clients {
            if client.conn.take().is_some() {
                client.seen.push(Seen::Closed);
            }
            client.received.clear();
            client.unread.clear();
        }
        self.start();
    }

    /// A client whose session is at home in `home`; its sockets are accepted by shard 0.
    pub(crate) fn client(&mut self, name: &str, version: Version, home: usize) -> usize {
        let id = (0..)
            .map(|number| format!("{name}{number}"))
            .find(|id| self.brokers[0].home(id).0 as usize == home);
        self.clients.push(Client {
            id: id.unwrap(),
            version,
            shard: 0,
            conn: None,
            takes: usize::MAX,
            unread: Vec::new(),
            received: Vec::new(),
            heard: Vec::new(),
            aliases: BTreeMap::new(),
            connacks: Vec::new(),
            subacks: Vec::new(),
            disconnects: Vec::new(),
            longest: 0,
            seen: Vec::new(),
        });
        self.clients.len() - 1
    }

    /// Opens a socket for a client, in shard 0.
    pub(crate) fn dial(&mut self, client: usize) {
        self.accept(client, 0, Vec::new());
    }

    fn accept(&mut self, client: usize, shard: usize, unread: Vec<u8>) {
        // What an earlier socket of this player still gets, nobody reads.
        self.owners.retain(|_, owner| *owner != client);
        let conn = self.brokers[shard].open(self.peer.clone(), self.now);
        self.owners.insert((shard, conn.0), client);
        let player = &mut self.clients[client];
        (player.shard, player.conn, player.unread) = (shard, Some(conn), unread);
        player.received.clear();
        player.aliases.clear();
    }

    /// A CONNECT as this client sends it, to be changed by the test.
    pub(crate) fn hello(&self, client: usize) -> Connect {
        Connect::new(self.clients[client].version, self.clients[client].id.clone())
    }

    /// Dials and sends CONNECT.
    pub(crate) fn connect_with(&mut self, client: usize, connect: &Connect) {
        self.dial(client);
        let mut bytes = Vec::new();
        wire::encode_connect(&mut bytes, connect).unwrap();
        self.send(client, &bytes);
    }

    /// Connects with a session that ends with the connection, and waits for the answer.
    pub(crate) fn connect(&mut self, client: usize) {
        self.take(client);
        let connect = self.hello(client);
        self.connect_with(client, &connect);
        self.settle();
        assert_eq!(self.take(client), [Seen::ConnAck { present: false, reason: ReasonCode::SUCCESS }]);
    }

    /// Connects to a session that outlives the connection; whether it was there.
    pub(crate) fn resume(&mut self, client: usize) -> bool {
        self.take(client);
        let connect = self.stored_hello(client);
        self.connect_with(client, &connect);
        self.settle();
        match self.clients[client].seen.remove(0) {
            Seen::ConnAck { present, reason: ReasonCode::SUCCESS } => present,
            other => panic!("{other:?} instead of CONNACK"),
        }
    }

    pub(crate) fn stored_hello(&self, client: usize) -> Connect {
        let mut connect = self.hello(client);
        connect.clean_start = false;
        if connect.version == Version::V5 {
            connect.session_expiry_secs = 3_600;
        }
        connect
    }

    /// Sends bytes of a client; as much as the router takes now.
    pub(crate) fn send(&mut self, client: usize, bytes: &[u8]) {
        self.clients[client].unread.extend_from_slice(bytes);
        self.offer(client);
    }

    /// Offers what is unread.
    fn offer(&mut self, client: usize) {
        let Some(conn) = self.clients[client].conn else { return };
        let shard = self.clients[client].shard;
        if !self.brokers[shard].may_read(conn) {
            return self.look_ahead(client, shard, conn);
        }
        let unread = std::mem::take(&mut self.clients[client].unread);
        let taken = self.brokers[shard].read(conn, &unread, self.now, &mut self.effects[shard]);
        self.clients[client].unread = unread[taken..].to_vec();
        if let Some((_, to)) = self.effects[shard].relocations.pop() {
            self.brokers[shard].closed(conn, self.now, &mut self.effects[shard]);
            self.owners.remove(&(shard, conn.0));
            let unread = std::mem::take(&mut self.clients[client].unread);
            self.drain(shard);
            self.accept(client, usize::from(to.0), unread);
            self.offer(client);
            return;
        }
        self.look_ahead(client, shard, conn);
        self.drain(shard);
    }

    /// Behind a packet that waits for room.
    fn look_ahead(&mut self, client: usize, shard: usize, conn: ConnId) {
        let unread = &mut self.clients[client].unread;
        self.brokers[shard].look_ahead(conn, unread, self.now, &mut self.effects[shard]);
        self.drain(shard);
    }

    pub(crate) fn publish(&mut self, client: usize, topic: &str, payload: &str, id: u16) {
        self.publish_with(client, topic, payload, id, |_| {});
    }

    /// Sends a PUBLISH: QoS 1 with packet identifier `id`, QoS 0 if that is 0.
    pub(crate) fn publish_with<'t>(
        &mut self,
        client: usize,
        topic: &'t str,
        payload: &'t str,
        id: u16,
        change: impl FnOnce(&mut OutgoingPublish<'t>),
    ) {
        let packet_id = NonZeroU16::new(id);
        let qos = if packet_id.is_some() { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        let mut publish =
            OutgoingPublish { topic, payload: payload.as_bytes(), qos, packet_id, ..Default::default() };
        change(&mut publish);
        let mut bytes = Vec::new();
        wire::encode_publish(&mut bytes, self.clients[client].version, &publish).unwrap();
        self.send(client, &bytes);
    }

    pub(crate) fn subscribe(&mut self, client: usize, filter: &str, qos: Qos) {
        self.subscribe_with(client, filter, qos, 0, |_| {});
        self.settle();
        assert_eq!(self.take(client), [Seen::SubAck(vec![ReasonCode::granted(qos)])]);
    }

    /// Sends a SUBSCRIBE with one filter and perhaps a subscription identifier.
    pub(crate) fn subscribe_with(
        &mut self,
        client: usize,
        filter: &str,
        qos: Qos,
        id: u32,
        change: impl FnOnce(&mut Subscription),
    ) {
        let mut subscription = Subscription::new(filter, qos);
        change(&mut subscription);
        let subscribe = Subscribe {
            packet_id: NonZeroU16::new(77).unwrap(),
            subscription_id: NonZeroU32::new(id),
            user_properties: Vec::new(),
            subscriptions: vec![subscription],
        };
        let mut bytes = Vec::new();
        wire::encode_subscribe(&mut bytes, self.clients[client].version, &subscribe).unwrap();
        self.send(client, &bytes);
    }

    pub(crate) fn unsubscribe(&mut self, client: usize, filter: &str) {
        let filters = vec![filter.to_owned()];
        let unsubscribe =
            Unsubscribe { packet_id: NonZeroU16::new(78).unwrap(), user_properties: Vec::new(), filters };
        let mut bytes = Vec::new();
        wire::encode_unsubscribe(&mut bytes, self.clients[client].version, &unsubscribe).unwrap();
        self.send(client, &bytes);
    }

    pub(crate) fn ack(&mut self, client: usize, id: u16) {
        self.answer_with(client, AckKind::PubAck, id, ReasonCode::SUCCESS);
    }

    pub(crate) fn pubrec(&mut self, client: usize, id: u16) {
        self.answer_with(client, AckKind::PubRec, id, ReasonCode::SUCCESS);
    }

    pub(crate) fn pubrel(&mut self, client: usize, id: u16) {
        self.answer_with(client, AckKind::PubRel, id, ReasonCode::SUCCESS);
    }

    pub(crate) fn pubcomp(&mut self, client: usize, id: u16) {
        self.answer_with(client, AckKind::PubComp, id, ReasonCode::SUCCESS);
    }

    pub(crate) fn answer_with(&mut self, client: usize, kind: AckKind, id: u16, reason: ReasonCode) {
        let mut bytes = Vec::new();
        let (version, id) = (self.clients[client].version, NonZeroU16::new(id).unwrap());
        wire::encode_ack(&mut bytes, version, kind, id, reason);
        self.send(client, &bytes);
    }

    /// Sends a PUBLISH with QoS 2.
    pub(crate) fn publish_once(&mut self, client: usize, topic: &str, payload: &str, id: u16) {
        self.publish_with(client, topic, payload, id, |publish| publish.qos = Qos::ExactlyOnce);
    }

    pub(crate) fn ping(&mut self, client: usize) {
        self.send(client, &[0xC0, 0]);
    }

    pub(crate) fn disconnect(&mut self, client: usize, reason: ReasonCode, session_expiry_secs: Option<u32>) {
        let mut bytes = Vec::new();
        let disconnect = Disconnect { session_expiry_secs, ..Disconnect::new(reason) };
        wire::encode_disconnect(&mut bytes, self.clients[client].version, &disconnect).unwrap();
        self.send(client, &bytes);
    }

    /// The socket breaks.
    pub(crate) fn cut(&mut self, client: usize) {
        let Some(conn) = self.clients[client].conn.take() else { return };
        let shard = self.clients[client].shard;
        self.clients[client].unread.clear();
        self.owners.remove(&(shard, conn.0));
        self.brokers[shard].closed(conn, self.now, &mut self.effects[shard]);
        self.drain(shard);
    }

    /// Its socket takes bytes again.
    pub(crate) fn unblock(&mut self, client: usize) {
        self.clients[client].takes = usize::MAX;
        self.drip(client);
    }

    /// Its socket is ready for one more write.
    pub(crate) fn drip(&mut self, client: usize) {
        if let Some(conn) = self.clients[client].conn {
            let shard = self.clients[client].shard;
            self.effects[shard].dirty.push(conn);
            self.drain(shard);
        }
    }

    /// What a client was sent since it was last asked.
    /// A connected 3.1.1 client.
    pub(crate) fn v3_device(&mut self) -> usize {
        let device = self.client("device", Version::V3, 0);
        self.connect(device);
        self.take(device);
        device
    }

    pub(crate) fn take(&mut self, client: usize) -> Vec<Seen> {
        std::mem::take(&mut self.clients[client].seen)
    }

    /// The bytes of what a client was sent since its bytes were last asked for.
    pub(crate) fn heard(&mut self, client: usize) -> Vec<u8> {
        std::mem::take(&mut self.clients[client].heard)
    }

    /// The publications among it; there must be nothing else.
    pub(crate) fn got(&mut self, client: usize) -> Vec<Got> {
        let publish = |seen| match seen {
            Seen::Publish(got) => got,
            other => panic!("{other:?} instead of PUBLISH"),
        };
        self.take(client).into_iter().map(publish).collect()
    }

    /// Their payloads.
    pub(crate) fn texts(&mut self, client: usize) -> Vec<String> {
        self.got(client).iter().map(Got::text).collect()
    }
}

/// Lets the world move.
impl Bench {
    /// Time passes, and the brokers hear of it.
    pub(crate) fn pass(&mut self, millis: u64) {
        self.now.instant = self.now.instant.plus_millis(millis);
        self.now.timestamp = self.now.timestamp.plus_millis(millis);
        for shard in 0..self.brokers.len() {
            self.brokers[shard].tick(self.now, &mut self.effects[shard]);
            self.drain(shard);
        }
    }

    /// A service of the IoT Hub dialect tells a client something.
    pub(crate) fn answer_hub(&mut self, client: usize, answer: &HubAnswer) -> Result<(), Unanswered> {
        let client = &self.clients[client];
        let (shard, Some(conn)) = (client.shard, client.conn) else { return Err(Unanswered::Gone) };
        let sent = self.brokers[shard].answer_hub(conn, answer, self.now, &mut self.effects[shard]);
        self.drain(shard);
        sent
    }

    /// The routes are replaced, between turns.
    pub(crate) fn replace_plan(&mut self, plan: Plan) {
        self.plan = Arc::new(plan);
        for shard in 0..self.brokers.len() {
            self.brokers[shard].replace_plan(Arc::clone(&self.plan), &mut self.effects[shard]);
            self.drain(shard);
        }
    }

    /// The disk says how much room there is; each shard hears of it when its mail comes.
    pub(crate) fn say_levels(&mut self, levels: Levels) {
        for shard in 0..self.brokers.len() {
            self.answer(shard, Event::Levels(levels.clone()));
        }
    }

    /// The same, and every shard has heard of it.
    pub(crate) fn set_levels(&mut self, levels: Levels) {
        for shard in 0..self.brokers.len() {
            self.brokers[shard].handle(Event::Levels(levels.clone()), self.now, &mut self.effects[shard]);
            let owner = |conn: &ConnId| self.owners.get(&(shard, conn.0)).copied();
            self.resumed = self.effects[shard].resumed.iter().filter_map(owner).collect();
            self.drain(shard);
        }
    }

    /// The process is told to stop.
    pub(crate) fn shut_down(&mut self) {
        for shard in 0..self.brokers.len() {
            self.brokers[shard].shut_down(self.now, &mut self.effects[shard]);
            self.drain(shard);
        }
    }

    /// Everything that waits happens, until nothing waits.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            let mailed = (0..self.mail.len())
                .any(|to| (0..self.mail.len() + ANSWERS).any(|from| self.deliver_mail(to, from)));
            if !mailed && !self.walk_step() && !self.disk_step() {
                self.disk.durable_heads.clone_from(&self.disk.heads); // an idle store writes its cursors
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// All mail arrives, the disk does nothing.
    pub(crate) fn settle_mail(&mut self) {
        while (0..self.mail.len())
            .any(|to| (0..self.mail.len() + ANSWERS).any(|from| self.deliver_mail(to, from)))
        {}
    }

    /// Whoever verifies passwords answers the oldest question.
    pub(crate) fn verify(&mut self, verdict: Verdict) {
        let (shard, question) = self.authentications.pop_front().expect("a question");
        let event = Event::Authenticated { conn: question.conn, verdict };
        self.brokers[shard].handle(event, self.now, &mut self.effects[shard]);
        self.drain(shard);
    }

    /// The edge sends an identity away.
    pub(crate) fn withdraw(&mut self, shard: usize, conn: ConnId) {
        self.brokers[shard].handle(Event::Withdrawn { conn }, self.now, &mut self.effects[shard]);
        self.drain(shard);
    }

    /// Users and rules are replaced, as by SIGHUP.
    pub(crate) fn replace_access(&mut self, access: Access) {
        self.access = Arc::new(access);
        for shard in 0..self.brokers.len() {
            self.brokers[shard].replace_access(Arc::clone(&self.access), self.now, &mut self.effects[shard]);
            self.drain(shard);
        }
    }

    /// One letter arrives; whether there was one.
    pub(crate) fn deliver_mail(&mut self, to: usize, from: usize) -> bool {
        let Some(event) = self.mail[to][from].pop_front() else { return false };
        self.brokers[to].handle(event, self.now, &mut self.effects[to]);
        self.drain(to);
        true
    }

    /// Everything happens but the arrival of what was read from lanes.
    pub(crate) fn settle_but_reads(&mut self) {
        let reader = self.mail.len() + READ;
        while (0..self.mail.len()).any(|to| (0..reader).any(|from| self.deliver_mail(to, from)))
            || self.disk_step()
        {}
    }

    /// The disk does one job; whether there was one.
    pub(crate) fn disk_step(&mut self) -> bool {
        if self.disk.fails {
            return false;
        }
        let Some(job) = self.disk.jobs.pop_front() else { return false };
        self.disk.remember();
        match job {
            Job::Append { shard, tray } => {
                self.disk.apply(shard, &tray);
                let for_uplink = |write: &Write| match write {
                    Write::Record { lane, len, .. } if self.disk.is_of_uplink(*lane) => {
                        u64::from(*len) + RECORD_OVERHEAD
                    }
                    _ => 0,
                };
                self.written += tray.writes.iter().map(for_uplink).sum::<u64>();
                self.look_at_room();
                self.disk.bytes[shard] += tray.bytes.len() as u64;
                self.disk.synced[shard] = tray.last;
                self.say_durable(shard);
                if tray.spills > 0 || !self.disk.fronts.is_empty() {
                    (0..self.mail.len()).filter(|other| *other != shard).for_each(|it| self.say_durable(it));
                }
            }
            Job::Advance(advances) => {
                advances.into_iter().for_each(|(lane, up_to)| self.disk.advance(lane, up_to));
            }
            Job::Ask { shard, request } => self.ask(shard, request),
        }
        true
    }

    /// A shard hears how far the disk and the upstream are.
    pub(crate) fn say_durable(&mut self, shard: usize) {
        let Disk { bytes, synced, safe, .. } = &self.disk;
        let event =
            Event::Durable { up_to: synced[shard], bytes: bytes[shard], spilled: safe[shard].up_to() };
        self.answer(shard, event);
    }

    /// The upstream takes up to `count` messages of a lane, and the shards hear of it.
    pub(crate) fn upstream_takes(&mut self, lane: LaneId, count: usize) {
        self.disk.deliver(lane, count);
        self.look_at_room();
        (0..self.mail.len()).for_each(|shard| self.say_durable(shard));
    }

    /// The disk writes what stands in the front of a lane, and the shards hear of it.
    pub(crate) fn write_front(&mut self, lane: LaneId) {
        self.disk.write_front(lane);
        (0..self.mail.len()).for_each(|shard| self.say_durable(shard));
    }

    /// The disk thread looks how much lies in the lanes of the uplink.
    fn look_at_room(&mut self) {
        self.rooms.set_written(0, self.disk.waits_for_uplink(), self.written);
    }

    /// The uplink may take no more than this, from the next start on.
    pub(crate) fn bind(&mut self, bytes_max: u64, reserve_bytes: u64) {
        self.bound = Some(RoomSetup { bytes_max, reserve_bytes, only_counts: false });
        self.disk.fails = false;
        self.settle();
        self.crash();
        self.settle();
    }

    /// The upstream takes all that waits for it; who found no room may try again.
    pub(crate) fn drain_uplink(&mut self) {
        for lane in
            ["urgent", "default"].iter().filter_map(|name| self.disk.find_lane(name)).collect::<Vec<_>>()
        {
            self.upstream_takes(lane, usize::MAX);
            self.disk.durable_heads.insert(lane, self.disk.heads[&lane]);
        }
        self.look_at_room();
        if self.rooms.take_missed(0) > 0 {
            let full = Levels { uplinks: [Level::FullForOrdinary].into(), ..Levels::default() };
            self.say_levels(full);
            self.say_levels(Levels::default());
        }
    }

    /// Bytes that wait for the uplink, written or not, overhead included.
    pub(crate) fn waits_for_uplink(&self) -> u64 {
        let trays = self.disk.jobs.iter().filter_map(|job| match job {
            Job::Append { tray, .. } => Some(tray),
            _ => None,
        });
        let trays = trays.chain(self.effects.iter().map(|effects| &effects.appends));
        let unwritten = trays.flat_map(|tray| &tray.writes).map(|write| match write {
            Write::Record { lane, len, .. } if self.disk.is_of_uplink(*lane) => {
                u64::from(*len) + RECORD_OVERHEAD
            }
            _ => 0,
        });
        self.disk.waits_for_uplink() + unwritten.sum::<u64>()
    }

    /// Shard 0 is told what the broker says of itself.
    pub(crate) fn publish_system(&mut self, topic: &str, payload: &str) {
        self.brokers[0].publish_system(topic, payload, self.now, &mut self.effects[0]);
        self.drain(0);
    }

    /// Shard 0 publishes a part of the loss ledger, which ends before the entry `next`; whether there was room.
    pub(crate) fn publish_losses(&mut self, topic: &str, part: &str, next: u64) -> bool {
        let (part, now) = (part.as_bytes(), self.now);
        let is_taken = self.brokers[0].publish_losses(topic, part, next, now, &mut self.effects[0]);
        self.drain(0);
        is_taken
    }

    /// One slice of what new subscriptions get; whether there was something to do.
    pub(crate) fn walk_step(&mut self) -> bool {
        let Some(shard) = self.walking.iter().position(|wants| *wants) else { return false };
        self.walking[shard] = false;
        self.brokers[shard].walk(self.now, &mut self.effects[shard]);
        self.drain(shard);
        true
    }

    fn ask(&mut self, shard: usize, request: Request) {
        match request {
            Request::OpenLane { session, generation, client_id, input } => {
                let lane = self.disk.lane(&match input {
                    Some((input, priority)) => crate::input_lane_name(&client_id, &input, priority),
                    None => format!("s/{client_id}"),
                });
                let (head, next) = (self.disk.heads[&lane], self.disk.next(lane));
                self.answer(shard, Event::LaneOpened { session, generation, lane, head, next });
            }
            Request::ReadLane { session, generation, lane, from, bytes_max, expired_too } => {
                let Some(records) = self.disk.lanes.get(&lane) else { return };
                let (mut found, mut bytes, mut next) = (Vec::new(), 0, from);
                let mut expired = 0;
                for record in records.iter().skip(from.get() as usize - 1) {
                    if bytes > 0 && bytes + record.bytes.len() > bytes_max as usize {
                        break;
                    }
                    if !expired_too && record.expires.is_some_and(|at| at <= self.now.timestamp) {
                        expired += 1;
                    } else {
                        bytes += record.bytes.len();
                        let read =
                            RecordRead { seq: next, expires: record.expires, bytes: record.bytes[..].into() };
                        found.push(read);
                    }
                    next = next.next();
                }
                self.answer(shard, Event::LaneRead { session, generation, records: found, next, expired });
            }
            Request::RemoveLane { lane } => self.disk.remove_lane(lane),
        }
    }

    fn answer(&mut self, shard: usize, event: Event) {
        let kind = match event {
            Event::LaneRead { .. } => READ,
            Event::LaneOpened { .. } => OPENED,
            _ => SYNCED,
        };
        let sender = self.mail.len() + kind;
        self.mail[shard][sender].push_back(event);
    }

    /// Shards and senders with mail, for a simulation to choose from.
    pub(crate) fn letters(&self) -> Vec<(usize, usize)> {
        let pairs =
            (0..self.mail.len()).flat_map(|to| (0..self.mail.len() + ANSWERS).map(move |from| (to, from)));
        pairs.filter(|(to, from)| !self.mail[*to][*from].is_empty()).collect()
    }

    /// Delivers a few letters, as chance has it.
    pub(crate) fn deliver_some_mail(&mut self, random: &mut Random) {
        for _ in 0..4 {
            let letters = self.letters();
            if !letters.is_empty() {
                let (to, from) = letters[random.below(letters.len())];
                self.deliver_mail(to, from);
            }
        }
    }

    pub(crate) fn jobs(&self) -> usize {
        self.disk.jobs.len()
    }

    /// What the route tables of all shards counted.
    pub(crate) fn route_counters(&self) -> routes::Counters {
        let mut sum = routes::Counters::default();
        for counters in self.brokers.iter().map(Broker::route_counters) {
            sum.held_back += counters.held_back;
            sum.messages += counters.messages;
        }
        sum
    }

    /// Adds all counters.
    pub(crate) fn counters(&self) -> crate::Counters {
        let mut sum = crate::Counters::default();
        self.brokers.iter().for_each(|broker| sum.add(broker.counters()));
        sum
    }

    /// The edge's turn end: the trays are emptied, in its order.
    fn drain(&mut self, shard: usize) {
        while !self.effects[shard].is_empty() {
            self.note(shard);
            self.send_away(shard);
            while let Some(conn) = self.effects[shard].dirty.pop() {
                self.flush(shard, conn);
            }
            self.note(shard);
            for conn in std::mem::take(&mut self.effects[shard].closing) {
                if let Some(client) = self.owners.remove(&(shard, conn.0))
                    && self.clients[client].conn == Some(conn)
                {
                    let player = &mut self.clients[client];
                    (player.conn, player.unread) = (None, Vec::new());
                    player.seen.push(Seen::Closed);
                }
                self.brokers[shard].closed(conn, self.now, &mut self.effects[shard]);
            }
            for conn in std::mem::take(&mut self.effects[shard].resumed) {
                if let Some(&client) = self.owners.get(&(shard, conn.0)) {
                    self.offer(client);
                }
            }
        }
        if !self.brokers[shard].is_saturated() {
            self.resume_paused(shard);
        }
        self.brokers[shard].invariants();
        assert!(self.effects[shard].is_empty(), "nothing is left on a tray");
    }

    fn resume_paused(&mut self, shard: usize) {
        for client in 0..self.clients.len() {
            let player = &self.clients[client];
            // Only a packet in whole: the rest would be offered for ever.
            if player.shard == shard
                && wire::bytes_needed(&player.unread).is_some_and(|len| len <= player.unread.len())
                && player.conn.is_some_and(|conn| self.brokers[shard].may_read(conn))
            {
                self.offer(client);
            }
        }
    }

    fn send_away(&mut self, shard: usize) {
        let effects = &mut self.effects[shard];
        self.walking[shard] |= std::mem::take(&mut effects.walk);
        if !effects.appends.is_empty() {
            self.disk.jobs.push_back(Job::Append { shard, tray: effects.appends.take() });
        }
        if !effects.advances.is_empty() {
            for (lane, up_to) in &effects.advances {
                let last = self.advanced.insert(*lane, *up_to);
                assert!(last.is_none_or(|last| last < *up_to), "a watermark never goes back");
            }
            self.disk.jobs.push_back(Job::Advance(std::mem::take(&mut effects.advances)));
        }
        self.denials.append(&mut effects.denials);
        self.hub_requests.append(&mut effects.hub);
        self.losses.append(&mut effects.losses);
        self.authentications.extend(effects.authentications.drain(..).map(|question| (shard, question)));
        for request in std::mem::take(&mut effects.requests) {
            self.disk.jobs.push_back(Job::Ask { shard, request });
        }
        for (to, control) in std::mem::take(&mut effects.controls) {
            self.mail[usize::from(to.0)][shard].push_back(Event::Control(control));
        }
        for (to, batch) in
            effects.handoffs.iter_mut().enumerate().filter(|(_, batch)| !batch.bytes.is_empty())
        {
            let event = Event::Handoff { from: ShardId(shard as u16), batch: batch.take() };
            self.mail[to][shard].push_back(event);
        }
    }

    fn flush(&mut self, shard: usize, conn: ConnId) {
        self.brokers[shard].flushing(conn);
        let Some(&client) = self.owners.get(&(shard, conn.0)) else { return };
        let pending = self.brokers[shard].pending(conn);
        let pending = pending[..pending.len().min(self.clients[client].takes)].to_vec();
        if pending.is_empty() {
            return;
        }
        self.clients[client].received.extend_from_slice(&pending);
        self.clients[client].heard.extend_from_slice(&pending);
        self.mix(&pending);
        self.brokers[shard].wrote(conn, pending.len(), self.now, &mut self.effects[shard]);
        self.decode(client);
    }

    fn decode(&mut self, client: usize) {
        let player = &mut self.clients[client];
        let mut rest = &player.received[..];
        while let Some(frame) = wire::split(rest, u32::MAX).unwrap() {
            rest = &rest[frame.total_len()..];
            player.longest = player.longest.max(frame.total_len());
            player.seen.push(match wire::decode(frame, player.version).unwrap() {
                Packet::ConnAck(ack) => {
                    player.connacks.push(*ack.clone());
                    Seen::ConnAck { present: ack.session_present, reason: ack.reason }
                }
                Packet::Publish(publish) => Seen::Publish(Got {
                    topic: read_topic(&mut player.aliases, &publish),
                    payload: publish.payload.to_vec(),
                    qos: publish.qos,
                    dup: publish.dup,
                    retain: publish.retain,
                    id: publish.packet_id.map_or(0, NonZeroU16::get),
                    ids: publish.properties.subscription_ids().map(NonZeroU32::get).collect(),
                    expiry_secs: publish.properties.expiry_secs(),
                    alias: publish.properties.topic_alias().map_or(0, NonZeroU16::get),
                    spelled: !publish.topic.is_empty(),
                    properties: publish.properties.block().to_vec(),
                }),
                Packet::PubAck(ack) if ack.reason.is_error() => {
                    Seen::Refused(wire::AckKind::PubAck, ack.packet_id.get(), ack.reason)
                }
                Packet::PubAck(ack) => Seen::PubAck(ack.packet_id.get()),
                Packet::PubRec(ack) if ack.reason.is_error() => {
                    Seen::Refused(wire::AckKind::PubRec, ack.packet_id.get(), ack.reason)
                }
                Packet::PubRec(ack) => Seen::PubRec(ack.packet_id.get()),
                Packet::PubRel(ack) => Seen::PubRel(ack.packet_id.get(), ack.reason),
                Packet::PubComp(ack) => Seen::PubComp(ack.packet_id.get(), ack.reason),
                Packet::SubAck(ack) => {
                    player.subacks.push(*ack.clone());
                    Seen::SubAck(ack.reasons)
                }
                Packet::UnsubAck(ack) => Seen::UnsubAck(ack.reasons),
                Packet::PingResp => Seen::PingResp,
                Packet::Disconnect(disconnect) => {
                    player.disconnects.push(*disconnect.clone());
                    Seen::Disconnect(disconnect.reason)
                }
                other => panic!("a server never sends {other:?}"),
            });
        }
        player.received = rest.to_vec();
    }

    /// Adds what is on the trays to the fingerprint.
    fn note(&mut self, shard: usize) {
        let effects = &self.effects[shard];
        let text = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            effects.dirty,
            effects.closing,
            effects.resumed,
            effects.appends,
            effects.handoffs,
            effects.controls,
            effects.requests,
            effects.advances,
            effects.authentications,
            effects.denials,
            effects.losses,
            effects.hub,
        );
        self.mix(text.as_bytes());
    }

    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.fingerprint = (self.fingerprint ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
        }
    }
}

/// The topic of a PUBLISH as its receiver understands it; an alias that stands for nothing is our mistake.
fn read_topic(aliases: &mut BTreeMap<u16, String>, publish: &wire::Publish<'_>) -> String {
    if let Some(alias) = publish.properties.topic_alias()
        && !publish.topic.is_empty()
    {
        aliases.insert(alias.get(), publish.topic.to_owned());
    }
    match publish.properties.topic_alias() {
        Some(alias) if publish.topic.is_empty() => aliases[&alias.get()].clone(),
        _ => publish.topic.to_owned(),
    }
}
