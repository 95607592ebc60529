//! What becomes of requests of clients, and of what IoT Hub says: twins that are mirrored, calls that are passed on.
//!
//! In: requests, news of the line to IoT Hub, time. Out: answers for clients, orders for the line, twins to be kept; a loop
//! without decisions (`service`) takes them from here. Never: files, clocks, threads.
//! Always: a twin belongs to a connected client, or to one whose report IoT Hub has not taken yet; an answer to a report
//! leaves after the twin was kept ([`Core::kept`]). A twin is asked of IoT Hub while the link is up or comes up, and else
//! answered from what is known.
//! Reading order: this, `twins`, `absent`, `calls`, `posts`, `own`.
//! Bound: clients; [`ASKED_MAX`] requests of one that wait for IoT Hub; [`CALLS_MAX`] calls of methods.

mod absent;
mod calls;
mod own;
mod posts;
mod twins;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use broker::uplink::Heard;
use broker::{HubAnswer, HubRequest, Unanswered};
use hub::HubId;
use hub::methods::{Call, Calls, Outcome};
use hub::series::Series;
use hub::topics::{self, Feature, Features, Outbound};
use hub::twin::{Object, Twin};
use model::{ConnId, Instant, ShardId, Timestamp};

use crate::upstream::{News, Order};

/// Requests of one client that may wait for IoT Hub.
const ASKED_MAX: usize = 16;
/// Links that are remembered as down; one is enough to know that a new one may take long.
const DOWN_MAX: usize = 64;
/// Calls of methods that may wait for their answers, all together.
const CALLS_MAX: usize = 1_024;
/// How long IoT Hub may take to answer, as in edgeHub.
const ANSWER_MILLIS: u64 = 20_000;
/// Reported properties go up at most this often for each client, as in edgeHub.
const REPORT_MILLIS: u64 = 5_000;
/// Pause after IoT Hub has not taken a report.
const AGAIN_MILLIS: u64 = 30_000;

/// What services counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// Twins given to clients that were asked of IoT Hub.
    pub gets_by_cloud: u64,
    /// Twins given to clients as they are known here.
    pub gets_from_here: u64,
    /// Reports of clients that were taken.
    pub reports: u64,
    /// Requests that were refused: no JSON, over a limit, too many at once.
    pub refused: u64,
    /// Reports that IoT Hub has taken.
    pub reports_up: u64,
    /// Reports that IoT Hub will never take, and which are not sent again.
    pub reports_rejected: u64,
    /// Changes of desired properties given to clients.
    pub desired: u64,
    /// Calls of methods that were passed on.
    pub calls: u64,
    /// Calls that ended without an answer of the client.
    pub calls_unanswered: u64,
    /// Answers of clients that nobody waits for.
    pub answers_late: u64,
    /// Messages of the cloud that their devices have acknowledged.
    pub posted: u64,
    /// Messages of the cloud that they have not; IoT Hub keeps them, and they may come again.
    pub unposted: u64,
}

/// How far the link of a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// It is wanted; what must be asked waits for it.
    Opening,
    Up,
    /// It was tried in vain, or was lost.
    Down,
}

impl Numbers {
    /// Each with its name and what it counts, in the order of the names.
    pub(crate) fn each(&self) -> [(&'static str, &'static str, u64); 12] {
        [
            ("c2d_completed", "Messages of the cloud that their devices have acknowledged", self.posted),
            ("c2d_left", "Messages of the cloud that were not taken, and stay there", self.unposted),
            ("desired", "Changes of desired properties given to clients", self.desired),
            ("method_answers_late", "Answers to calls that nobody waits for", self.answers_late),
            ("methods", "Calls of methods passed on to clients", self.calls),
            ("methods_unanswered", "Calls of methods that ended without an answer", self.calls_unanswered),
            ("reports", "Reported properties taken from clients", self.reports),
            ("reports_rejected", "Reported properties that IoT Hub will never take", self.reports_rejected),
            ("reports_up", "Reported properties that IoT Hub has taken", self.reports_up),
            ("requests_refused", "Requests about twins that were refused", self.refused),
            ("twins_by_cloud", "Twins given to clients as IoT Hub has them", self.gets_by_cloud),
            ("twins_from_here", "Twins given to clients as they are known here", self.gets_from_here),
        ]
    }
}

/// One client that is connected, or whose report waits for IoT Hub.
struct Client {
    /// Where; `None`: it has gone.
    at: Option<(ShardId, ConnId)>,
    features: Features,
    twin: Twin,
    link: Link,
    /// A report is on its way.
    is_reporting: bool,
    /// The next one not before.
    report_at: Instant,
    /// Requests that wait for IoT Hub.
    asked: usize,
    /// When messages of the cloud for which there was no room are asked for again.
    return_at: Option<Instant>,
    /// It is the gateway itself, which is always there.
    is_own: bool,
    /// It was given a twin of which nothing was known.
    was_given_nothing: bool,
}

/// Something that IoT Hub was asked.
struct Asked {
    client: Box<str>,
    what: What,
    /// It waits for the link.
    is_held: bool,
    until: Instant,
}

enum What {
    /// The twin, for ourselves.
    Refresh,
    /// The twin, for a request of the client.
    Get { at: (ShardId, ConnId), rid: Box<str> },
    /// To take reported properties.
    Report(Object),
}

/// Who called a method.
enum Caller {
    /// IoT Hub.
    Cloud { identity: Arc<str>, rid: Box<str> },
    /// A module of this gateway, and its ticket.
    Here { ticket: u64, module: Box<str> },
}

/// A call that was passed on.
struct Calling {
    caller: Caller,
    to: Box<str>,
    began: Instant,
}

/// A call that waits for its client to be there.
struct Held {
    target: Box<str>,
    call: Call,
    ticket: u64,
    module: Box<str>,
    until: Instant,
}

/// The decisions.
pub(super) struct Core {
    has_cloud: bool,
    /// Links of all identities that were down when they were last heard of.
    down: BTreeSet<Arc<str>>,
    clients: BTreeMap<Box<str>, Client>,
    asked: BTreeMap<u64, Asked>,
    calls: Calls<Calling>,
    /// Calls of modules here that wait for their clients, in order.
    held: Vec<Held>,
    outcomes: Vec<(u64, Outcome)>,
    /// Messages of the cloud on their way to clients.
    posts: BTreeMap<u64, posts::Post>,
    last_rid: u64,
    /// Twins that are to be kept, and what they were.
    changed: BTreeMap<Box<str>, Twin>,
    answers: Vec<Told>,
    orders: Vec<Order>,
    numbers: Numbers,
    /// What edgeHub counts and measures by name; see [`Core::series`].
    series: Series,
    /// Reports that are answered as soon as they are kept.
    reported: Vec<Box<str>>,
    /// The identity of the gateway itself, whose link shows whether there is an upstream.
    gateway: Box<str>,
    /// Since when its link has been down; `None`: it is up, or has never been.
    offline_since: Option<Instant>,
    was_online: bool,
    /// The gateway's own twin, and the version of it that was offered last.
    own: Option<(Arc<str>, Option<u64>)>,
    absent: absent::Absent,
    wishes: Wishes,
    /// How often that is read as a whole, and when the next time.
    refresh_millis: u64,
    refresh_at: Option<Instant>,
    /// The own twin had no room for all clients, which was said.
    is_own_full: bool,
    /// Identities to be looked up, by call.
    refreshes: Vec<(u64, Vec<HubId>)>,
    /// Who waits for that; as many as may wait to be looked up.
    refreshing: BTreeMap<u64, Caller>,
    wall: Timestamp,
}

/// What the gateway's own twin wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The version of the desired properties.
    pub version: u64,
    /// They themselves.
    pub desired: Object,
}

/// Wishes on their way.
#[derive(Default)]
struct Wishes {
    /// What was asked for, in order, and whether it is the newest; as many as may wait.
    asked: VecDeque<(Wish, bool)>,
    /// What was in effect before this start, until something is.
    granted_before: Option<Wish>,
    /// The newest could not be had.
    is_refused: bool,
    /// What is in effect now and is to be kept.
    to_keep: Option<Wish>,
}

/// Something for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Where it is.
    pub(super) at: (ShardId, ConnId),
    /// What.
    pub(super) answer: HubAnswer,
    /// The client whose twin must be kept before, if it is to be.
    after: Option<Box<str>>,
}

impl Core {
    /// `has_cloud`: there is an IoT Hub above. Without, this gateway's copy of a twin is the twin.
    pub(super) fn new(has_cloud: bool) -> Core {
        Core {
            has_cloud,
            down: BTreeSet::new(),
            clients: BTreeMap::new(),
            asked: BTreeMap::new(),
            calls: Calls::new(CALLS_MAX),
            held: Vec::new(),
            outcomes: Vec::new(),
            posts: BTreeMap::new(),
            last_rid: 0,
            changed: BTreeMap::new(),
            answers: Vec::new(),
            orders: Vec::new(),
            numbers: Numbers::default(),
            series: Series::default(),
            reported: Vec::new(),
            gateway: Box::default(),
            offline_since: None,
            was_online: false,
            own: None,
            absent: absent::Absent::default(),
            wishes: Wishes::default(),
            refresh_millis: 0,
            refresh_at: None,
            is_own_full: false,
            refreshes: Vec::new(),
            refreshing: BTreeMap::new(),
            wall: Timestamp(0),
        }
    }

    /// What was counted.
    pub(super) fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// Counts and summaries by a word and its labels, as in edgeHub's series: `gettwin` (source, id), `reported` (target, id),
    /// `methods` (from, to), `offline` (id).
    pub(super) fn series(&self) -> &Series {
        &self.series
    }

    /// Says how much memory series may take.
    pub(super) fn bound_series(&mut self, bytes_max: usize) {
        self.series = Series::within(bytes_max);
    }

    /// Says who the gateway is, upstream, and how often its own twin is read as a whole, if that is followed.
    pub(super) fn call_gateway(&mut self, id: &HubId, refresh_millis: u64) {
        self.gateway = id.as_str().into();
        self.refresh_millis = refresh_millis;
    }

    /// Whether this client's twin must be loaded for `request`.
    pub(super) fn wants_twin_for<'r>(&self, request: &'r HubRequest) -> Option<&'r str> {
        match request {
            HubRequest::Connected { client, .. } if !self.clients.contains_key(client) => Some(client),
            _ => None,
        }
    }

    /// A client did something. `stored` is its twin, where [`Core::wants_twin_for`] wanted it.
    pub(super) fn on_request(
        &mut self,
        shard: ShardId,
        request: HubRequest,
        stored: Option<Twin>,
        now: Instant,
    ) {
        match request {
            HubRequest::Connected { conn, client, features } => {
                let twin = stored.unwrap_or_else(|| self.new_twin());
                let link = if self.has_cloud && self.down.is_empty() { Link::Opening } else { Link::Down };
                let entry = self.clients.entry(client.clone()).or_insert_with(|| Client::new(twin, link));
                entry.at = Some((shard, conn));
                entry.features = features;
                self.is_here(&client);
                self.listen(&client);
                self.report_client(&client, true);
                self.call_held(&client, now);
            }
            HubRequest::Features { conn, client, features } => {
                let Some(entry) = self.clients.get_mut(&client) else { return };
                if entry.at == Some((shard, conn)) {
                    entry.features = features;
                    self.listen(&client);
                    self.call_held(&client, now);
                }
            }
            HubRequest::Disconnected { conn, client } => {
                let Some(entry) = self.clients.get_mut(&client) else { return };
                if entry.at == Some((shard, conn)) {
                    entry.at = None;
                    entry.features = Features::default();
                    for calling in self.calls.abandon(&client) {
                        self.end_calling(calling, &Outcome::NotFound, now);
                    }
                    self.report_client(&client, false);
                    self.let_go(&client);
                }
            }
            HubRequest::TwinGet { conn, client, rid } => self.on_get((shard, conn), &client, rid, now),
            HubRequest::TwinReported { conn, client, rid, patch } => {
                self.on_report((shard, conn), &client, rid, &patch, now);
            }
            HubRequest::Posted { token } => self.on_posted(token, now),
            HubRequest::Unposted { token } => self.on_unposted(token, Unanswered::Gone, now),
            HubRequest::MethodResponse { client, rid, status, payload } => {
                match self.calls.answer(&rid, &client) {
                    Some(calling) => self.end_calling(calling, &Outcome::of_answer(&status, &payload), now),
                    None => self.numbers.answers_late += 1,
                }
            }
        }
    }

    /// Something happened on the line to IoT Hub.
    pub(super) fn on_news(&mut self, news: News, now: Instant) {
        match news {
            News::Up(identity) => {
                self.down.clear();
                self.note_online(&identity, now);
                let Some(entry) = self.clients.get_mut(&*identity) else { return };
                let is_here = entry.at.is_some() || entry.is_own;
                let was_up = std::mem::replace(&mut entry.link, Link::Up) == Link::Up;
                self.expect_repeats(&identity, now);
                if was_up {
                    return; // it is said again whenever we want to hear something else
                }
                if is_here {
                    // What has changed while the link was down.
                    self.ask(&identity, What::Refresh, now);
                } else {
                    self.report_up(&identity, now);
                }
                self.ask_held(&identity);
            }
            News::Down(identity) => {
                self.note_offline(&identity, now);
                if let Some(entry) = self.clients.get_mut(&*identity) {
                    entry.link = Link::Down;
                }
                if self.down.len() < DOWN_MAX {
                    self.down.insert(Arc::clone(&identity));
                }
                self.forget_asked(|asked| *asked.client == *identity, now);
                self.forget_acks_of_posts(&identity);
                self.let_go(&identity);
            }
            News::Heard(identity, heard) => self.on_heard(&identity, &heard, now),
        }
    }

    /// Time passed.
    pub(super) fn on_time(&mut self, now: Instant) {
        for calling in self.calls.expire(now) {
            self.end_calling(calling, &Outcome::TimedOut, now);
        }
        self.forget_asked(|asked| asked.until <= now, now);
        self.return_posts(now);
        self.forget_posts(now);
        self.refresh_own(now);
        let (late, rest): (Vec<Held>, _) =
            std::mem::take(&mut self.held).into_iter().partition(|held| held.until <= now);
        self.held = rest;
        for held in late {
            let caller = Caller::Here { ticket: held.ticket, module: held.module };
            self.end_call(caller, &Outcome::NotFound);
        }
        let due = self.clients.iter().filter(|(_, client)| client.may_report(now));
        let due: Vec<Box<str>> = due.map(|(id, _)| id.clone()).collect();
        for client in due {
            self.report_up(&client, now);
        }
    }

    /// Twins that are to be kept now.
    pub(super) fn to_keep(&self) -> Vec<(Box<str>, Twin)> {
        let changed = self.changed.keys();
        changed.filter_map(|id| Some((id.clone(), self.clients.get(id)?.twin.clone()))).collect()
    }

    /// They were kept in so many seconds, but for those that `failed`: these are what they were, and their clients are told
    /// so.
    pub(super) fn kept(&mut self, failed: &BTreeSet<Box<str>>, secs: f64) {
        for client in std::mem::take(&mut self.reported) {
            if !failed.contains(&client) {
                self.series.count("reported", &["edge_hub", &client]);
                self.series.observe("reported", &["edge_hub", &client], secs, self.wall);
            }
        }
        self.answers.retain(|told| {
            let fails = told.after.as_ref().is_some_and(|id| failed.contains(id));
            !(fails && matches!(told.answer, HubAnswer::TwinChange { .. }))
        });
        for (id, before) in std::mem::take(&mut self.changed) {
            if failed.contains(&id)
                && let Some(client) = self.clients.get_mut(&id)
            {
                client.twin = before;
            }
        }
        for told in &mut self.answers {
            let fails = told.after.as_ref().is_some_and(|id| failed.contains(id));
            if let (true, HubAnswer::Twin { status, body, .. }) = (fails, &mut told.answer) {
                (*status, *body) = (500, Box::default());
            }
        }
        let over = self.clients.iter().filter(|(_, client)| client.is_over());
        for client in over.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.forget(&client);
        }
    }

    /// What clients are told. Only after [`Core::kept`].
    pub(super) fn take_answers(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.answers)
    }

    /// What the line is told.
    pub(super) fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    fn note_online(&mut self, identity: &str, now: Instant) {
        self.absent.is_online = true;
        if *identity == *self.gateway {
            self.was_online = true;
            self.try_absent();
            if let Some(since) = self.offline_since.take() {
                let secs = now.millis_since(since) as f64 / 1e3;
                self.series.observe("offline", &[&self.gateway], secs, self.wall);
            }
        }
    }

    fn note_offline(&mut self, identity: &str, now: Instant) {
        if *identity == *self.gateway {
            self.absent.is_online = false;
        }
        if *identity == *self.gateway && self.was_online && self.offline_since.is_none() {
            self.offline_since = Some(now);
            self.series.count("offline", &[&self.gateway]);
        }
    }

    fn new_twin(&self) -> Twin {
        let version = (!self.has_cloud).then_some(1);
        Twin { desired_version: version, reported_version: version, ..Twin::default() }
    }

    fn on_heard(&mut self, identity: &Arc<str>, heard: &Heard, now: Instant) {
        let topic = topics::outbound(&heard.topic);
        if let (Some(Outbound::CloudToDevice { bag, .. }), Some(ack)) = (topic, heard.ack) {
            return self.post(identity, bag, &heard.payload, ack, now);
        }
        if let Some(ack) = heard.ack {
            self.orders.push(Order::Acknowledge { identity: Arc::clone(identity), ack });
        }
        match topic {
            Some(Outbound::TwinResponse { status, rid, version }) => {
                let number = rid.parse().ok();
                let ours = number
                    .filter(|number| self.asked.get(number).is_some_and(|asked| *asked.client == **identity));
                if let Some(asked) = ours.and_then(|number| self.asked.remove(&number)) {
                    self.on_answer(asked, (status, version), &heard.payload, now);
                }
            }
            Some(Outbound::Desired { version }) => self.on_desired(identity, version, &heard.payload, now),
            Some(Outbound::Method { name, rid }) => self.on_call(identity, name, rid, &heard.payload, now),
            Some(Outbound::CloudToDevice { .. } | Outbound::Input { .. }) | None => {
                tracing::debug!(%identity, topic = heard.topic, "nobody has asked for this");
            }
        }
    }

    /// Says what is to be heard for a client.
    fn listen(&mut self, client: &str) {
        let Some(entry) = self.clients.get(client).filter(|_| self.has_cloud) else { return };
        let Ok(id) = HubId::parse(client) else { return };
        let mut filters = BTreeSet::new();
        if entry.at.is_some() || entry.is_own || !entry.twin.pending.is_empty() {
            filters.insert(topics::filter_of(Feature::TwinResponses, &id));
        }
        for feature in [Feature::Desired, Feature::Methods, Feature::CloudToDevice] {
            if entry.features.has(feature) {
                filters.insert(topics::filter_of(feature, &id));
            }
        }
        self.orders.push(Order::Listen { identity: client.into(), filters });
    }

    /// A client that has gone is forgotten once IoT Hub has what it reported, or is away.
    fn let_go(&mut self, client: &str) {
        if self.clients.get(client).is_some_and(|entry| entry.at.is_none() && !entry.is_own) {
            self.listen(client);
            let is_over = self.clients.get(client).is_some_and(Client::is_over);
            if is_over && !self.changed.contains_key(client) {
                self.forget(client);
            }
        }
    }

    /// Forgets a client, what IoT Hub was asked for it, and that anything is to be heard: who comes next under this name is
    /// another one, whose requests an answer must not count for.
    fn forget(&mut self, client: &str) {
        if self.clients.remove(client).is_some_and(|entry| !entry.twin.pending.is_empty()) {
            self.put_off(client);
        }
        self.asked.retain(|_, asked| *asked.client != *client);
        if self.has_cloud {
            self.orders.push(Order::Listen { identity: client.into(), filters: BTreeSet::new() });
        }
    }
}

impl Client {
    fn new(twin: Twin, link: Link) -> Client {
        Client {
            at: None,
            features: Features::default(),
            twin,
            link,
            is_reporting: false,
            report_at: Instant::default(),
            asked: 0,
            return_at: None,
            is_own: false,
            was_given_nothing: false,
        }
    }

    fn may_report(&self, now: Instant) -> bool {
        self.link == Link::Up && !self.is_reporting && !self.twin.pending.is_empty() && self.report_at <= now
    }

    /// Nobody needs it: what it reported comes up again when it comes again.
    fn is_over(&self) -> bool {
        !self.is_own && self.at.is_none() && (self.twin.pending.is_empty() || self.link == Link::Down)
    }
}

#[cfg(test)]
mod tests;
