//! The services' loop: without decisions, which are `core`'s.
//!
//! In: questions of shards, news of the line to IoT Hub, time. Out: mail for shards, orders for the line, files. Order: what has
//! changed is on the disk before anybody is told. Bound: [`BATCH_MAX`] questions are taken at once; with [`ORDERS_MAX`] orders
//! waiting none is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hub::methods::Outcome;
use hub::series::Series;
use model::Instant;
use tokio::sync::{mpsc, oneshot};

use hub::HubId;

use super::core::{Core, Numbers, Told, Wish};
use super::desk::{Question, Questions};
use super::shelf::Shelf;
use super::web::WebNumbers;
use crate::clock::Clock;
use crate::iotedge::{Cards, Directory};
use crate::mail::{Mail, Mailbox};
use crate::upstream::{News, ORDERS_MAX, Operator, Order};

/// Questions that are answered together: their twins are kept together.
const BATCH_MAX: usize = 256;
/// How often it is looked what time has brought.
const LOOK: Duration = Duration::from_millis(250);
/// Calls to look identities up that may wait.
const REFRESHES_MAX: usize = 16;
/// How often the index of reports is written without names that it need not have.
const INDEX_MILLIS: u64 = 60_000;
/// When to look again at a shard's box that was full.
const RETRY: Duration = Duration::from_millis(1);

/// What a [`Service`] needs.
pub(crate) struct ServiceSetup {
    /// What shards ask.
    pub questions: Questions,
    /// The line to IoT Hub, if there is one above.
    pub operator: Option<Operator>,
    /// Where twins lie.
    pub shelf: Shelf,
    /// Where answers go, indexed by shard.
    pub mailboxes: Vec<Arc<Mailbox>>,
    /// Who is known.
    pub directory: Arc<Directory>,
    /// What clients say of themselves.
    pub cards: Arc<Cards>,
    /// Us.
    pub module: HubId,
    /// How often our own twin is read as a whole.
    pub twin_refresh_secs: u64,
    /// Memory that series may take.
    pub series_bytes_max: usize,
    /// Who does what our own twin wants, if somebody does.
    pub own: Option<Petition>,
}

/// The service's end of the way of wishes: out, and what became of them.
pub(crate) type Petition = (mpsc::Sender<Wish>, mpsc::Receiver<(u64, Result<(), String>)>);

/// Twins and methods at work.
pub(crate) struct Service {
    core: Core,
    questions: mpsc::Receiver<Question>,
    orders: Option<mpsc::Sender<Order>>,
    news: Option<mpsc::Receiver<News>>,
    unsent: VecDeque<Order>,
    shelf: Shelf,
    /// Whose twins have reports that IoT Hub may not have, as a file says: all of those, and perhaps more.
    indexed: BTreeSet<Box<str>>,
    /// When it is looked next who need not be in there.
    index_at: Instant,
    /// Us.
    module: HubId,
    mailboxes: Vec<Arc<Mailbox>>,
    clock: Clock,
    /// Modules that wait for what came of their calls, by ticket.
    callers: BTreeMap<u64, oneshot::Sender<Outcome>>,
    directory: Arc<Directory>,
    cards: Arc<Cards>,
    last_ticket: u64,
    petition: Option<Petition>,
    numbers: Arc<Mutex<Known>>,
}

/// What was counted and measured, as last published.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Ours.
    pub(crate) numbers: Numbers,
    /// edgeHub's; see [`Core::series`].
    pub(crate) series: Series,
    /// Of connections over HTTPS.
    pub(crate) web: Arc<WebNumbers>,
}

impl Service {
    /// Nothing is asked yet.
    pub(crate) fn new(setup: ServiceSetup) -> Service {
        let (orders, news) = setup.operator.map(|operator| (operator.orders, operator.news)).unzip();
        let mut core = Core::new(orders.is_some());
        core.bound_series(setup.series_bytes_max);
        core.call_gateway(&setup.module, setup.twin_refresh_secs * 1_000);
        if setup.own.is_some() {
            let load = |name: &str| setup.shelf.load(name);
            core.follow(&setup.module, load(setup.module.as_str()), load(&granted_of(&setup.module)));
        }
        let indexed = setup.shelf.index();
        core.remember_absent(indexed.iter().cloned());
        let petition = setup.own;
        Service {
            indexed,
            index_at: Instant::default(),
            core,
            petition,
            questions: setup.questions.0,
            orders,
            news,
            unsent: VecDeque::new(),
            shelf: setup.shelf,
            module: setup.module,
            mailboxes: setup.mailboxes,
            clock: Clock::default(),
            callers: BTreeMap::new(),
            directory: setup.directory,
            cards: setup.cards,
            last_ticket: 0,
            numbers: Arc::default(),
        }
    }

    /// Where numbers are published.
    pub(crate) fn numbers(&self) -> Arc<Mutex<Known>> {
        Arc::clone(&self.numbers)
    }

    /// Serves as long as shards may ask.
    pub(crate) async fn run(mut self) {
        let (refresh, refreshes) = mpsc::channel(REFRESHES_MAX);
        let (renewed, mut renewals) = mpsc::channel(REFRESHES_MAX);
        tokio::spawn(renew(Arc::clone(&self.directory), refreshes, renewed));
        let mut batch = Vec::new();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut is_time = false;
            tokio::select! {
                count = self.questions.recv_many(&mut batch, BATCH_MAX), if self.unsent.len() < ORDERS_MAX => {
                    if count == 0 {
                        return;
                    }
                }
                news = next(&mut self.news) => self.core.on_news(news, self.clock.now().instant),
                Some((ticket, are_all)) = renewals.recv() => self.core.on_refreshed(ticket, are_all),
                (version, result) = verdict(&mut self.petition) => self.core.granted(version, &result),
                room = reserve(&self.orders), if !self.unsent.is_empty() => {
                    match (room, self.unsent.pop_front()) {
                        (Some(room), Some(order)) => room.send(order),
                        // The uplink is gone; the router stops.
                        _ => self.unsent.clear(),
                    }
                }
                _ = look.tick() => {
                    self.core.on_time(self.clock.now().instant);
                    self.publish_series();
                    is_time = true;
                }
            }
            if is_time {
                self.load_absent();
                self.tidy_index().await;
                self.keep_cards().await;
            }
            self.core.tell_time(self.clock.now().timestamp);
            for question in batch.drain(..) {
                self.take(question);
            }
            self.keep().await;
            self.tell().await;
            for call in self.core.take_refreshes() {
                let ticket = call.0;
                if refresh.try_send(call).is_err() {
                    tracing::warn!(
                        "more identities than that are not looked up at once; the call is refused"
                    );
                    self.core.on_refreshed(ticket, false);
                }
            }
            self.unsent.extend(self.core.take_orders());
            self.petition_for_wish().await;
            self.numbers.lock().unwrap_or_else(PoisonError::into_inner).numbers = self.core.numbers();
        }
    }

    /// A few times a second at most: there are as many as clients.
    fn publish_series(&self) {
        let mut known = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if known.series != *self.core.series() {
            known.series.clone_from(self.core.series());
        }
    }

    /// A few times a second at most: all are in one file.
    async fn keep_cards(&self) {
        if self.cards.have_changed() {
            let cards = Arc::clone(&self.cards);
            // What a thread that has ended has not kept is kept with the next change.
            tokio::task::spawn_blocking(move || cards.keep()).await.unwrap_or_default();
        }
    }

    /// Takes up what clients have reported that are not here.
    fn load_absent(&mut self) {
        for id in self.core.wants_absent(self.clock.now().instant) {
            // Whoever is not in the scope any more has no link either; its twin stays, should it come back.
            let is_known = HubId::parse(&id).is_ok_and(|known| self.directory.tree().find(&known).is_some());
            let stored = if is_known { self.shelf.load(&id) } else { None };
            self.core.on_absent(&id, stored);
        }
    }

    /// Writes the index anew without those that it need not name, from time to time.
    async fn tidy_index(&mut self) {
        let now = self.clock.now().instant;
        if self.index_at <= now {
            self.index_at = now.plus_millis(INDEX_MILLIS);
            let wanted = self.core.with_reports(&self.indexed);
            if wanted != self.indexed {
                self.write_index(wanted).await;
            }
        }
    }

    async fn write_index(&mut self, ids: BTreeSet<Box<str>>) {
        let (shelf, written) = (self.shelf.clone(), ids.clone());
        let write = tokio::task::spawn_blocking(move || shelf.keep_index(&written));
        match write.await.map_err(|error| error.to_string()).and_then(|kept| kept) {
            Ok(()) => self.indexed = ids,
            Err(problem) => {
                tracing::error!(problem, "whose reports wait for IoT Hub is not known to the next start");
            }
        }
    }

    fn take(&mut self, question: Question) {
        match question {
            Question::Request { shard, request } => {
                // A file of some kilobytes, when a client comes.
                let stored = self.core.wants_twin_for(&request).and_then(|client| self.shelf.load(client));
                self.core.on_request(shard, request, stored, self.clock.now().instant);
            }
            Question::Unanswered { rid, why } => self.core.on_unanswered(&rid, why),
            Question::Call { caller, target, call, done } => {
                self.last_ticket += 1;
                self.callers.insert(self.last_ticket, done);
                let now = self.clock.now().instant;
                self.core.on_call_here((&caller, &target), call, self.last_ticket, now);
            }
            Question::Unposted { token, why } => {
                self.core.on_unposted(token, why, self.clock.now().instant);
            }
        }
    }

    /// Keeps what has changed.
    async fn keep(&mut self) {
        let twins = self.core.to_keep();
        // Our own is loaded anyway.
        let others = twins.iter().filter(|(id, _)| **id != *self.module.as_str());
        let new = others.filter(|(id, twin)| !twin.pending.is_empty() && !self.indexed.contains(id));
        let new: Vec<Box<str>> = new.map(|(id, _)| id.clone()).collect();
        if !new.is_empty() {
            // Before the twins: a name too many does no harm.
            let named = self.indexed.iter().cloned().chain(new).collect();
            self.write_index(named).await;
        }
        let mut failed = BTreeSet::new();
        let began = self.clock.now().instant;
        if !twins.is_empty() {
            let shelf = self.shelf.clone();
            let ids: BTreeSet<Box<str>> = twins.iter().map(|(id, _)| id.clone()).collect();
            let write = tokio::task::spawn_blocking(move || {
                let mut failed = BTreeSet::new();
                for (id, twin) in twins {
                    if let Err(problem) = shelf.keep(&id, &twin) {
                        tracing::error!(identity = %id, problem, "a twin cannot be kept; it stays what it was");
                        failed.insert(id);
                    }
                }
                failed
            });
            // Nothing is known of what was being written by a thread that has ended.
            failed = write.await.unwrap_or(ids);
        }
        let micros = self.clock.now().instant.0.saturating_sub(began.0);
        self.core.kept(&failed, micros as f64 / 1e6);
        if let Some(granted) = self.core.take_granted() {
            let (shelf, name) = (self.shelf.clone(), granted_of(&self.module));
            let write = tokio::task::spawn_blocking(move || shelf.keep(&name, &granted));
            let problem = write.await.map_err(|error| error.to_string()).and_then(|kept| kept).err();
            if let Some(problem) = problem {
                tracing::error!(problem, "the routes in effect cannot be kept for a start with worse ones");
            }
        }
    }

    /// Passes on what our own twin wants.
    async fn petition_for_wish(&mut self) {
        let Some((wishes, _)) = &self.petition else { return };
        // One is granted at a time; while one waits, the next one is not looked at, and may be newer then.
        if wishes.capacity() > 0
            && let Some(wish) = self.core.take_wish()
            && wishes.send(wish).await.is_err()
        {
            self.petition = None;
        }
    }

    /// Tells clients, and those who called methods of them.
    async fn tell(&mut self) {
        for (ticket, outcome) in self.core.take_outcomes() {
            if let Some(done) = self.callers.remove(&ticket) {
                drop(done.send(outcome)); // who called may have gone
            }
        }
        for Told { at: (shard, conn), answer, .. } in self.core.take_answers() {
            let mut mail = Mail::Hub { conn, answer };
            while let Err(back) = self.mailboxes[usize::from(shard.0)].send(mail) {
                mail = back;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// No identity has two slashes in its name.
fn granted_of(module: &HubId) -> String {
    format!("{module}/granted")
}

/// Looks identities up, one call after the other, and says of each whether all of them were.
async fn renew(
    directory: Arc<Directory>,
    mut refreshes: mpsc::Receiver<(u64, Vec<HubId>)>,
    renewed: mpsc::Sender<(u64, bool)>,
) {
    while let Some((ticket, ids)) = refreshes.recv().await {
        if renewed.send((ticket, directory.renew(&ids).await)).await.is_err() {
            return;
        }
    }
}

/// The next news; for ever, if there is no line.
async fn next(news: &mut Option<mpsc::Receiver<News>>) -> News {
    if let Some(news) = news
        && let Some(news) = news.recv().await
    {
        return news;
    }
    std::future::pending().await
}

/// What became of a wish; for ever, if there are none.
async fn verdict(petition: &mut Option<Petition>) -> (u64, Result<(), String>) {
    if let Some((_, verdicts)) = petition
        && let Some(verdict) = verdicts.recv().await
    {
        return verdict;
    }
    std::future::pending().await
}

/// Room for an order; `None` if nobody obeys.
async fn reserve(orders: &Option<mpsc::Sender<Order>>) -> Option<mpsc::Permit<'_, Order>> {
    match orders {
        Some(orders) => orders.reserve().await.ok(),
        None => None,
    }
}
