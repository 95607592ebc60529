//! An uplink whose identities have links of their own: one task for each link, one that reads the lanes for all.
//!
//! In: bells, sockets, time. Out: bytes for each socket. Decisions are the carrier's. Always: a link that fails ends its own
//! task and nothing else. A token is renewed by a new connection, once there is another one: the link rests, so that what is
//! in flight is answered, at most [`QUIET`]; what is not by then is sent again with DUP. While there is none the link stays.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::pending;
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use broker::uplink::{Backoff, LinkError, LinkSetup};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};
use wire::ReasonCode;

use super::super::iothub::{Access, Facts, Keyring, LinkNews};
use super::super::theirs::{self, Shown};
use super::super::transport::{self, ConnectError, Patience};
use super::super::watchdogs;
use super::{GOODBYE_TIMEOUT, HOURS_LOOK, QUIET, TICK, Uplink, VANISHED, looked, push, stopped};
use crate::clock::entropy;
use crate::upstream::sentences::with_advice;
use crate::upstream::{Line, News, Order, UplinkState, link_setup};

/// How far the wall clock may go another way than time itself before tokens are made anew.
const CLOCK_JUMP_MILLIS: i64 = 30_000;

/// How long the answer to what time it is may take, and how long it is remembered.
const ASKING: Duration = Duration::from_secs(3);
const ASKED_FOR: Duration = Duration::from_secs(60);

/// First and last wait, in milliseconds, between attempts to have another token while the old one is still good.
const RENEWAL_WAITS: (u64, u64) = (1_000, 60_000);
/// For how long after a link has begun to rest its next token is worth anything.
const NEXT_LASTS: Duration = Duration::from_secs(30);

/// What a link starts with, and when that was made.
struct Made {
    access: Access,
    at: Instant,
    /// By both clocks.
    now: model::Now,
}

/// One that is being made.
type Making<'a> = Pin<Box<dyn Future<Output = Result<Made, String>> + 'a>>;

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("{0}")]
    Access(String),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Socket(String),
    #[error("the upstream closed the connection")]
    Closed {
        /// It had been sent everything.
        is_said: bool,
    },
    #[error("the upstream reset the connection")]
    Reset {
        /// It had been sent everything.
        is_said: bool,
    },
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("its token is renewed")]
    Renewed,
    #[error("nobody needs it now")]
    Idle,
    #[error("the router stops")]
    Stopped,
}

impl Over {
    fn is_failure(&self) -> bool {
        !matches!(self, Over::Renewed | Over::Idle | Over::Stopped)
    }

    /// What it says about the identity.
    fn news(&self) -> LinkNews {
        match self {
            Over::Closed { .. } | Over::Reset { .. } | Over::Link(LinkError::Disconnected(_)) => {
                LinkNews::Closed
            }
            Over::Link(LinkError::Refused(
                ReasonCode::NOT_AUTHORIZED | ReasonCode::BAD_USER_NAME_OR_PASSWORD,
            )) => LinkNews::Refused,
            _ => LinkNews::Down,
        }
    }

    /// Whether another address might be better.
    fn is_of_the_address(&self) -> bool {
        self.is_failure() && !matches!(self, Over::Access(_))
    }
}

/// What all tasks of an uplink share.
struct Shared {
    core: RefCell<Uplink>,
    keyring: Keyring,
    /// Rings for the one that reads the lanes.
    rang: Notify,
    /// Rings for each link: there are bytes.
    bells: RefCell<BTreeMap<Arc<str>, Rc<Notify>>>,
    /// Where services are told what comes, if there are any.
    news: Option<mpsc::Sender<News>>,
    /// When identities were last let in, seconds since 1970; `uplink_links_max` at most.
    let_in: RefCell<BTreeMap<Arc<str>, u64>>,
    /// What the next link of an identity starts with, made while it had one; `uplink_links_max` at most.
    next: RefCell<BTreeMap<Arc<str>, Made>>,
    /// When the other end was last asked what time it is, and what came of it.
    asked: Mutex<Option<(Instant, Result<i64, String>)>>,
}

/// Carries until told to stop.
pub(in crate::upstream) async fn run(uplink: Uplink, keyring: Keyring, line: Option<Line>) {
    let (news, mut orders) = line.map(|line| (line.news, line.orders)).unzip();
    let (bell, mut stop) = (Arc::clone(&uplink.setup.bell), uplink.stop.clone());
    let core = RefCell::new(uplink);
    let shared = Rc::new(Shared {
        core,
        keyring,
        rang: Notify::new(),
        bells: RefCell::default(),
        news,
        let_in: RefCell::default(),
        next: RefCell::default(),
        asked: Mutex::default(),
    });
    let mut links = JoinSet::new();
    let mut look = None;
    loop {
        let (opens, wait) = shared.turn();
        if look.is_none() {
            look = shared.look_at_first();
        }
        for identity in opens {
            let ring = Rc::new(Notify::new());
            shared.bells.borrow_mut().insert(Arc::clone(&identity), Rc::clone(&ring));
            links.spawn_local(link(Rc::clone(&shared), identity, ring));
        }
        tokio::select! {
            () = stopped(&mut stop) => break,
            () = bell.wait() => shared.core.borrow_mut().look_at_tails_or_say(),
            () = shared.rang.notified() => {}
            () = pause(wait) => {}
            is_back = looked(&mut look) => {
                look = None;
                if is_back {
                    shared.go_back();
                }
            }
            order = next(&mut orders) => shared.obey(order).await,
            ended = links.join_next(), if !links.is_empty() => if let Some(Err(error)) = ended {
                warn!(%error, "a link ended by a defect; please report");
            },
        }
    }
    while links.join_next().await.is_some() {}
    shared.core.borrow_mut().keep_ahead();
}

/// The next order; for ever, if there is nobody to give one.
async fn next(orders: &mut Option<mpsc::Receiver<Order>>) -> Order {
    if let Some(orders) = orders
        && let Some(order) = orders.recv().await
    {
        return order;
    }
    pending().await
}

/// Waits so long, or for ever.
async fn pause(wait: Option<Duration>) {
    match wait {
        Some(wait) => sleep(wait).await,
        None => pending().await,
    }
}

impl Shared {
    /// Sends what may be sent. Which links to open, and how long until there may be something without an event.
    fn turn(&self) -> (Vec<Arc<str>>, Option<Duration>) {
        let mut core = self.core.borrow_mut();
        let now = core.clock.now().instant;
        let is_open = core.look_at_hours();
        // A store that fails is no reason to keep links from being opened: services speak over them, too.
        if core.faults.pause(now).is_none() {
            core.read_lanes();
        }
        let opens: Vec<_> = std::iter::from_fn(|| core.carrier.next_open(now)).collect();
        let bells = self.bells.borrow();
        for identity in core.carrier.with_out() {
            if let Some(ring) = bells.get(identity) {
                ring.notify_one();
            }
        }
        let at = core.carrier.next_open_at(now).map(|at| at.millis_since(now) + 1);
        let hours = (!is_open).then_some(HOURS_LOOK.as_millis() as u64);
        if !is_open && opens.is_empty() && core.carrier.links_up() == 0 && !core.carrier.has_something_to_go()
        {
            core.setup.status.set(UplinkState::Resting, None);
        }
        let pause = core.faults.pause(now);
        let wait = core.carrier.wait_millis(now).into_iter().chain(at).chain(hours).chain(pause).min();
        (opens, wait.map(Duration::from_millis))
    }

    /// With another address in use for long enough, and the gateway in: a look at the first one.
    fn look_at_first(&self) -> Option<JoinHandle<bool>> {
        let mut core = self.core.borrow_mut();
        let now = core.clock.now().instant;
        let is_time = core.carrier.is_own_up() && core.targets.should_look(now);
        is_time.then(|| core.look_at_first())
    }

    /// The first address takes connections again: links go there one by one, as if their tokens were to be renewed.
    fn go_back(&self) {
        let mut core = self.core.borrow_mut();
        if core.targets.current() == 0 {
            return; // it has failed over meanwhile
        }
        core.targets.go_back();
        core.setup.status.failovers.store(core.targets.changes(), Ordering::Relaxed);
        info!(uplink = %core.name, target = %core.target(), "the first address takes connections again; going back");
    }

    /// Does what a service wants.
    async fn obey(&self, order: Order) {
        let now = self.core.borrow().clock.now();
        match order {
            Order::Listen { identity, filters } => {
                let is_up = self.core.borrow_mut().carrier.listen(&identity, filters, now.instant);
                if is_up {
                    self.tell(News::Up(identity)).await;
                }
            }
            Order::Acknowledge { identity, ack } => {
                self.core.borrow_mut().carrier.acknowledge(&identity, ack, now);
            }
            Order::Return { identity } => self.core.borrow_mut().carrier.give_back(&identity),
            Order::Say { identity, topic, payload } => {
                let mut core = self.core.borrow_mut();
                if !core.carrier.say(&identity, &topic, &payload, now) {
                    // The service waits for an answer with a deadline of its own.
                    debug!(uplink = %core.name, %identity, topic, "a request could not be sent");
                }
            }
        }
    }

    /// Tells services, which may take a moment; not while the router stops, when they do not listen any more.
    async fn tell(&self, news: News) {
        let Some(sender) = &self.news else { return };
        let mut stop = self.core.borrow().stop.clone();
        tokio::select! {
            () = stopped(&mut stop) => {}
            told = sender.send(news) => if told.is_err() {
                debug!("nobody listens to IoT Hub any more");
            },
        }
    }

    /// The status is that of the gateway's own link.
    fn say(&self, identity: &str, state: UplinkState, error: Option<String>) {
        let core = self.core.borrow();
        let status = &core.setup.status;
        if core.setup.is_own(identity) {
            status.set(state, error);
        } else if let Some(error) = error {
            status.warn_about(identity, error, core.limits.uplink_links_max as usize);
        }
        let links = core.carrier.links_up();
        status.links.store(links as u64, Ordering::Relaxed);
        // One is enough: what another identity's must be opened for waits in memory for no longer than `spill_after_ms`.
        core.source.set_link(core.setup.lanes(), links > 0);
    }
}

/// One link from its connection to its end.
async fn link(shared: Rc<Shared>, identity: Arc<str>, ring: Rc<Notify>) {
    let mut shown = Shown::default();
    let address = shared.core.borrow().targets.current();
    let over = match carry(&shared, &identity, &ring, &mut shown).await {
        Ok(never) => match never {},
        Err(over) => over,
    };
    shared.bells.borrow_mut().remove(&identity);
    shared.keyring.note_link(&identity, over.news());
    shared.tell(News::Down(Arc::clone(&identity))).await;
    let mut stop = shared.core.borrow().stop.clone();
    let advice = tokio::select! {
        () = stopped(&mut stop) => over.to_string(),
        advice = shared.advice(&identity, &over, shown) => advice,
    };
    {
        let mut core = shared.core.borrow_mut();
        let now = core.clock.now().instant;
        let (by_peer, error) = match &over {
            Over::Closed { is_said } | Over::Reset { is_said } => (*is_said, None),
            Over::Link(error @ LinkError::Disconnected(_)) => (true, Some(error)),
            Over::Link(error) => (false, Some(error)),
            _ => (false, None),
        };
        if matches!(over, Over::Closed { .. } | Over::Reset { .. }) {
            core.carrier.link_cut_off(&identity, now);
        }
        let is_here = core.targets.current() == address;
        let is_proven = core.carrier.is_link_proven(&identity);
        if is_proven && is_here {
            core.targets.succeeded();
        }
        core.carrier.link_lost(&identity, over.is_failure(), by_peer, error, now);
        core.keep_positions();
        // While the gateway is in, the address is good, and what fails is about one identity. An attempt at another address than
        // the one of now says nothing about this one.
        let is_own = core.setup.is_own(&identity);
        // To let us in, and to answer pings, is not enough.
        let is_good = is_proven && !matches!(over, Over::Link(LinkError::Unanswered { .. }));
        let says_something = matches!(over, Over::Connect(_)) || is_own && over.is_of_the_address();
        if says_something && !is_good && !core.carrier.is_own_up() && is_here {
            if core.targets.failed() {
                warn!(uplink = %core.name, target = %core.target(), "trying another address");
            }
            core.setup.status.failovers.store(core.targets.changes(), Ordering::Relaxed);
        }
    }
    if over.is_failure() {
        let uplink = Rc::clone(&shared.core.borrow().name);
        warn!(%uplink, %identity, reason = %advice, "a link is down; the messages of this identity wait");
        shared.say(&identity, UplinkState::Waiting, Some(format!("{identity}: {advice}")));
    } else {
        debug!(%identity, reason = %over, "a link is closed");
        shared.say(&identity, UplinkState::Connecting, None);
    }
    shared.rang.notify_one();
}

impl Shared {
    async fn advice(&self, identity: &str, over: &Over, shown: Shown) -> String {
        if over.is_failure()
            && let Some(own) = &shown.own_certificate
        {
            // That alone is reason enough.
            return format!("{over}; {own}");
        }
        match over {
            Over::Link(
                error
                @ LinkError::Refused(ReasonCode::NOT_AUTHORIZED | ReasonCode::BAD_USER_NAME_OR_PASSWORD),
            ) => {
                let facts = self.facts(identity, shown).await;
                let core = self.core.borrow();
                format!("{error}; {}", self.keyring.advice(identity, &core.name, &facts))
            }
            Over::Link(error) => with_advice(error, &self.core.borrow().name),
            over => over.to_string(),
        }
    }

    /// What is known about a refusal; what is not is asked for.
    async fn facts(&self, identity: &str, shown: Shown) -> Facts {
        let is_gateway_in = self.core.borrow().carrier.is_own_up();
        let ahead_secs = match shown.ahead_secs {
            Some(secs) => Some(Ok(secs)),
            None if is_gateway_in => None,
            None => self.ask_the_time().await,
        };
        Facts {
            now: self.core.borrow().clock.now().timestamp.0 / 1_000,
            ahead_secs,
            other_names: shown.other_names,
            let_in: self.let_in.borrow().get(identity).copied(),
            is_gateway_in,
        }
    }

    /// The other end's clock minus ours; not asked again for [`ASKED_FOR`]. Nobody is asked without TLS.
    async fn ask_the_time(&self) -> Option<Result<i64, String>> {
        let (name, transport) = {
            let core = self.core.borrow();
            (Rc::clone(&core.name), core.transport().clone())
        };
        transport.tls.as_ref()?;
        let mut asked = self.asked.lock().await;
        if let Some((at, known)) = &*asked
            && at.elapsed() < ASKED_FOR
        {
            return Some(known.clone());
        }
        let patience = Patience::of_secs(ASKING.as_secs());
        let told = timeout(ASKING, theirs::ask(&name, &transport, patience)).await;
        let told = told.unwrap_or_else(|_| Err(format!("no answer within {} s", ASKING.as_secs())));
        *asked = Some((Instant::now(), told.clone()));
        Some(told)
    }

    /// Notes that an identity is in.
    fn note_let_in(&self, identity: &str) {
        let (now, most) = {
            let core = self.core.borrow();
            (core.clock.now().timestamp.0 / 1_000, core.limits.uplink_links_max as usize)
        };
        let mut let_in = self.let_in.borrow_mut();
        if !let_in.contains_key(identity) && let_in.len() >= most {
            let oldest = let_in.iter().min_by_key(|(_, at)| **at).map(|(identity, _)| Arc::clone(identity));
            oldest.map(|oldest| let_in.remove(&oldest));
        }
        let_in.insert(identity.into(), now);
    }

    /// What a link of an identity starts with.
    async fn make(&self, identity: &str, patience: Patience) -> Result<Made, String> {
        let (now, at) = (self.core.borrow().clock.now(), Instant::now());
        let access = self.keyring.access(identity, now.timestamp.0 / 1_000, entropy());
        let access = timeout(patience.connect, access).await;
        let access =
            access.unwrap_or_else(|_| Err("who signs its token has not answered in time".to_owned()))?;
        Ok(Made { access, at, now })
    }

    fn setup(&self, access: &Access) -> LinkSetup {
        let core = self.core.borrow();
        LinkSetup {
            client_id: access.client_id.clone(),
            user: Some(access.user.clone()),
            password: access.token.as_ref().map(|token| token.as_bytes().to_vec()),
            ..link_setup(&core.setup.config, &core.gateway, &core.limits)
        }
    }
}

async fn carry(
    shared: &Shared,
    identity: &Arc<str>,
    ring: &Notify,
    shown: &mut Shown,
) -> Result<std::convert::Infallible, Over> {
    let (mut stop, clock, name, mut transport, address) = {
        let core = shared.core.borrow();
        let address = core.targets.current();
        (core.stop.clone(), core.clock, Rc::clone(&core.name), core.transport().clone(), address)
    };
    let patience = Patience::of_secs(shared.core.borrow().setup.config.pacing.connect_timeout_secs);
    let next = shared.next.borrow_mut().remove(identity).filter(|made| made.at.elapsed() < NEXT_LASTS);
    let Made { access, at: begun, now: made_at } = match next {
        Some(made) => made,
        None => tokio::select! {
            () = stopped(&mut stop) => return Err(Over::Stopped),
            made = shared.make(identity, patience) => made.map_err(Over::Access)?,
        },
    };
    // Wall time minus time: it stays the same as long as nobody sets the clock, from before the token was made.
    let offset = |now: model::Now| now.timestamp.0.cast_signed() - (now.instant.0 / 1_000).cast_signed();
    let offset_then = offset(made_at);
    if let (Some(cert), Some(tls)) = (&access.cert, &mut transport.tls) {
        tls.cert = Some(cert.clone());
    }
    {
        let core = shared.core.borrow();
        let whose = access.cert.as_ref().map(|_| &**identity);
        let own = transport.tls.as_ref().and_then(|tls| core.look_at_own_certificate(tls, whose));
        shown.own_certificate = own;
        core.setup.status.set_target(transport.to_string());
        core.say_if_insecure(&transport);
    }
    let stream = tokio::select! {
        () = stopped(&mut stop) => return Err(Over::Stopped),
        connected = transport::connect(&name, &transport, patience) => connected?,
    };
    *shown = Shown { own_certificate: shown.own_certificate.take(), ..stream.shown(shared.keyring.hub()) };
    shared.core.borrow().look_at_certificate(&stream);
    watchdogs::watch_socket(stream.tcp(), shared.core.borrow().setup.config.keep_alive_secs);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let setup = shared.setup(&access);
    let now = clock.now();
    {
        let mut core = shared.core.borrow_mut();
        core.look_at_drains();
        core.carrier.link_connected(identity, setup, now)?;
    }
    let renew_at = access.renew_after_secs.map(|secs| begun + Duration::from_secs(secs));
    let (mut buffer, mut unread, mut out) = (vec![0; 16 << 10], Vec::new(), Vec::new());
    let mut unflushed = false;
    let mut resting: Option<(Instant, bool)> = None;
    let mut next: Option<Making<'_>> = None;
    let mut renew_not_before = Instant::now();
    let mut renewals = Backoff::new(RENEWAL_WAITS.0, RENEWAL_WAITS.1);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let over = loop {
        if out.is_empty() {
            shared.core.borrow_mut().carrier.take_out(identity, &mut out);
        }
        if let Some((until, is_renewal)) = resting {
            let is_quiet = shared.core.borrow_mut().carrier.rest(identity);
            if is_quiet || Instant::now() >= until {
                break if is_renewal { Over::Renewed } else { Over::Idle };
            }
        }
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break Over::Stopped,
            read = reader.read(&mut buffer) => {
                let is_said = out.is_empty();
                let len = read.map_err(|error| broken(&error, &name, is_said))?;
                if len == 0 {
                    return Err(Over::Closed { is_said });
                }
                unread.extend_from_slice(&buffer[..len]);
                let (taken, is_new) = shared.core.borrow_mut().carrier.link_read(identity, &unread, clock.now())?;
                unread.drain(..taken);
                if is_new {
                    shared.on_up(identity);
                    shared.tell(News::Up(Arc::clone(identity))).await;
                }
                let heard = shared.core.borrow_mut().carrier.take_heard(identity);
                for heard in heard {
                    shared.tell(News::Heard(Arc::clone(identity), heard)).await;
                }
                shared.rang.notify_one();
            }
            pushed = push(&mut writer, &out), if !out.is_empty() || unflushed => {
                let len = pushed.map_err(|error| broken(&error, &name, false))?;
                out.drain(..len);
                unflushed = len > 0;
            }
            () = ring.notified() => {}
            made = given(&mut next) => {
                next = None;
                let has_jumped = (offset(clock.now()) - offset_then).abs() > CLOCK_JUMP_MILLIS;
                match made {
                    // One that a device has shown stays the same until the device comes with another.
                    Ok(made) if made.access.token != access.token => {
                        if has_jumped {
                            info!(uplink = %name, %identity, "the clock was set; the token is made anew");
                        }
                        let mut others = shared.next.borrow_mut();
                        others.retain(|_, made| made.at.elapsed() < NEXT_LASTS);
                        others.insert(Arc::clone(identity), made);
                        if resting.is_none() {
                            resting = Some((Instant::now() + QUIET, true));
                        }
                    }
                    made => {
                        let wait = renewals.failed(entropy());
                        renew_not_before = Instant::now() + Duration::from_millis(wait);
                        match made {
                            Err(reason) => warn!(uplink = %name, %identity, %reason, retry_in_ms = wait, "no new token yet; the link stays with the old one while that is good"),
                            Ok(_) => debug!(%identity, retry_in_ms = wait, "it has not come with another token yet"),
                        }
                    }
                }
            }
            _ = tick.tick() => {
                let now = clock.now();
                let mut core = shared.core.borrow_mut();
                core.carrier.link_tick(identity, now)?;
                if core.targets.current() == address && core.carrier.is_link_proven(identity) {
                    core.targets.succeeded();
                }
                // One of the links tells for all.
                if now.instant >= core.next_tick {
                    core.next_tick = now.instant.plus_millis(TICK.as_millis() as u64);
                    core.keep_ahead();
                    core.report();
                    if let Some(millis) = core.clocks.look(now) {
                        core.setup.status.clock_jumps.fetch_add(1, Ordering::Relaxed);
                        warn!(uplink = %name, jump_ms = millis, "the wall clock jumped");
                    }
                }
                let has_jumped = (offset(now) - offset_then).abs() > CLOCK_JUMP_MILLIS;
                let is_old = access.token.is_some() && has_jumped || renew_at.is_some_and(|at| Instant::now() >= at);
                let has_moved = core.targets.current() != address || shared.keyring.has_another_model(&access);
                if resting.is_none() && has_moved {
                    resting = Some((Instant::now() + QUIET, true));
                } else if resting.is_none() && is_old && next.is_none() && Instant::now() >= renew_not_before {
                    next = Some(Box::pin(shared.make(identity, patience)));
                } else if resting.is_none() && core.carrier.is_idle(identity, now.instant) {
                    resting = Some((Instant::now() + QUIET, false));
                }
                shared.rang.notify_one();
            }
        }
    };
    shared.core.borrow_mut().carrier.link_close(identity);
    shared.core.borrow_mut().carrier.take_out(identity, &mut out);
    let said = async {
        writer.write_all(&out).await?;
        writer.shutdown().await
    };
    if let Ok(Err(error)) = timeout(GOODBYE_TIMEOUT, said).await {
        debug!(uplink = %name, %identity, %error, "the goodbye did not leave");
    }
    Err(over)
}

/// What is being made; for ever, if that is nothing.
async fn given(next: &mut Option<Making<'_>>) -> Result<Made, String> {
    match next {
        Some(next) => next.await,
        None => pending().await,
    }
}

fn broken(error: &std::io::Error, name: &str, is_said: bool) -> Over {
    match error.kind() {
        ErrorKind::ConnectionReset => Over::Reset { is_said },
        // Without TLS's goodbye; many front ends close so.
        ErrorKind::UnexpectedEof => Over::Closed { is_said },
        ErrorKind::TimedOut => Over::Socket(VANISHED.to_owned()),
        _ => Over::Socket(transport::said(error, name)),
    }
}

impl Shared {
    fn on_up(&self, identity: &str) {
        {
            let mut core = self.core.borrow_mut();
            let now = core.clock.now().instant;
            if core.setup.is_own(identity) {
                core.targets.let_in(now);
            }
            core.setup.status.connects.fetch_add(1, Ordering::Relaxed);
            core.setup.status.works(identity);
            info!(uplink = %core.name, %identity, links = core.carrier.links_up(), "a link is up");
        }
        self.note_let_in(identity);
        self.keyring.note_link(identity, LinkNews::Up);
        self.say(identity, UplinkState::Up, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_without_a_goodbye_is_an_end_and_a_way_that_is_gone_has_its_sentence() {
        let over = |kind: ErrorKind| broken(&kind.into(), "cloud", true);
        assert!(matches!(over(ErrorKind::UnexpectedEof), Over::Closed { is_said: true }));
        assert!(matches!(over(ErrorKind::ConnectionReset), Over::Reset { is_said: true }));
        assert_eq!(over(ErrorKind::TimedOut).to_string(), VANISHED);
    }
}
