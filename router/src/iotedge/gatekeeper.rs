//! The clients that say they are identities: who comes in, who is connected, who must go.
//!
//! In: questions of shards, connections that end, news of the directory, time. Out: verdicts, at once where nothing must be
//! looked up; connections that may not stay. Always: whoever is let in is known here until its connection ends, and is
//! judged again when its proof expires or what is known of it changes.
//! Bound: connections for those who are in, `limits.identity_lookups_max` for those who wait; four lookups run at once,
//! each for `edge.lookup_timeout_ms`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use broker::access::Verdict;
use broker::{Authentication, Shown};
use hub::HubId;
use hub::connect::{UserName, parse_user_name};
use model::{ConnId, Limits, ShardId};
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::mpsc;

use super::cards::Cards;
use super::directory::{Directory, Lookup};
use super::forwarded;
use super::judge::{Claim, Denied, Hosts, Law, Proof, Until};
use super::now_secs;
use super::visitors::{Visitors, Word};
use crate::access::Brake;
use crate::clock::Clock;
use crate::mail::{Mail, Mailbox};

/// Lookups that run at the same time.
const LOOKUPS_AT_ONCE: usize = 4;
/// How often it is looked whose proof has expired.
const LOOK: Duration = Duration::from_secs(1);
/// Everybody is judged again this often, in these looks: as often as by edgeHub.
const LOOKS_PER_REVIEW: u32 = 300;

/// Who is let in, and what was counted.
pub(crate) struct Gatekeeper {
    directory: Arc<Directory>,
    hosts: Hosts,
    takes_certificates: bool,
    forwarder: HubId,
    clients_max: Option<usize>,
    authorities: RwLock<Option<Arc<dyn ClientCertVerifier>>>,
    present: Mutex<Present>,
    brake: Mutex<Brake>,
    clock: Clock,
    questions: mpsc::Sender<Question>,
    mailboxes: Vec<Arc<Mailbox>>,
    lookup_timeout: Duration,
    visitors: Option<Arc<Visitors>>,
    cards: Option<Arc<Cards>>,
}

/// What a [`Gatekeeper`] needs.
pub(crate) struct GatekeeperSetup<'a> {
    /// Who is known.
    pub directory: Arc<Directory>,
    /// The names of this gateway in tokens.
    pub hosts: Vec<String>,
    /// Whether certificates of devices count.
    pub takes_certificates: bool,
    /// Who may say what certificate a client has shown to it.
    pub forwarder: HubId,
    /// Most identities at once.
    pub clients_max: Option<u32>,
    /// How long one may wait for a lookup.
    pub lookup_timeout: Duration,
    /// Failures without consequence.
    pub failures_free: u32,
    /// Bounds.
    pub limits: &'a Limits,
    /// Where verdicts go, indexed by shard.
    pub mailboxes: Vec<Arc<Mailbox>>,
    /// Who asks IoT Hub about clients that are not known, if it is asked.
    pub visitors: Option<Arc<Visitors>>,
    /// Who remembers what clients say of themselves, if somebody asks for it.
    pub cards: Option<Arc<Cards>>,
}

/// The ends of a [`Gatekeeper`] that run on their own.
pub(crate) struct Waiting(mpsc::Receiver<Question>);

struct Question {
    shard: ShardId,
    conn: ConnId,
    claim: Claim,
    /// Who has forwarded its certificate, and is not known to be who it says.
    forwarder: Option<Claim>,
    denied: Denied,
    address: Option<IpAddr>,
}

/// Who is connected.
#[derive(Default)]
struct Present {
    by_id: BTreeMap<HubId, Guest>,
    by_conn: HashMap<(ShardId, ConnId), HubId>,
    numbers: IdentityNumbers,
}

struct Guest {
    shard: ShardId,
    conn: ConnId,
    claim: Claim,
    until: Until,
    /// It was told to go.
    is_leaving: bool,
}

/// What was counted, by identity; those that are not known are all one, `unknown`.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdentityNumbers {
    /// Connected now.
    pub connected: usize,
    /// Known now.
    pub known: usize,
    /// How often all were read, and how often that failed.
    pub refreshes: (u64, u64),
    /// Let in.
    pub accepted: BTreeMap<String, u64>,
    /// Gone.
    pub left: BTreeMap<String, u64>,
    /// Kept out, by identity and reason.
    pub denied: BTreeMap<(String, &'static str), u64>,
}

impl Gatekeeper {
    /// Nobody is in yet.
    pub(crate) fn new(setup: GatekeeperSetup<'_>) -> (Arc<Gatekeeper>, Waiting) {
        let GatekeeperSetup { directory, hosts, takes_certificates, clients_max, lookup_timeout, .. } = setup;
        let GatekeeperSetup { forwarder, failures_free, limits, mailboxes, visitors, cards, .. } = setup;
        let (questions, waiting) = mpsc::channel(limits.identity_lookups_max as usize);
        let gatekeeper = Gatekeeper {
            directory,
            hosts: Hosts(hosts),
            takes_certificates,
            forwarder,
            clients_max: clients_max.map(|max| max as usize),
            authorities: RwLock::new(None),
            present: Mutex::default(),
            brake: Mutex::new(Brake::new(limits.failed_attempts_max as usize, failures_free)),
            clock: Clock::default(),
            questions,
            mailboxes,
            lookup_timeout,
            visitors,
            cards,
        };
        (Arc::new(gatekeeper), Waiting(waiting))
    }

    /// Asks who a client is. `Some` is the verdict; `None`: it will come by mail.
    pub(crate) fn ask(
        &self,
        shard: ShardId,
        authentication: Authentication,
        address: Option<IpAddr>,
    ) -> Option<Verdict> {
        let Authentication { conn, client_id, user, password, shown, .. } = authentication;
        let name = match parse_user_name(&user) {
            Ok(name) => name,
            Err(error) => {
                tracing::debug!(%error, client = %client_id, "a user name is none of an identity");
                self.count_denied(None, "user_name");
                return Some(Verdict::Unusable);
            }
        };
        let is_own = name.is_client(&client_id);
        let id = name.id.clone();
        let mut forwarder = None;
        let proof = match (password.filter(|password| !password.is_empty()), shown.as_deref()) {
            _ if !is_own => Err(Denied::ClientId),
            // A token outweighs a certificate, as with edgeHub.
            (Some(password), _) => match String::from_utf8(password.into_vec()) {
                Ok(text) => Ok(Proof::Token(text.into())),
                Err(_) => Err(Denied::Token(hub::sas::SasError::NotAToken)),
            },
            (None, Some(Shown::Certificates(chain))) if !chain.is_empty() => {
                Ok(Proof::Certificates(Arc::clone(chain)))
            }
            (None, Some(Shown::Forwarded { certificate, token })) => {
                self.forwarded(certificate, token.as_deref()).map(|(proof, by)| {
                    forwarder = by;
                    proof
                })
            }
            (None, _) => Err(Denied::NothingShown),
        };
        let claim = match proof {
            Ok(proof) => Claim { name, proof },
            Err(denied) => return Some(self.refuse(&id, &denied, address)),
        };
        let judged = match &forwarder {
            Some(_) => Err(Denied::Forwarder(self.forwarder.clone())),
            None => self.judge(&claim),
        };
        match judged {
            Ok(until) => Some(self.let_in(shard, conn, claim, until, address)),
            Err(denied) if forwarder.is_none() && !denied.may_be_outdated() => {
                Some(self.refuse(&id, &denied, address))
            }
            Err(denied) => {
                let now = self.clock.now().instant;
                // Who knocks too often is not worth a lookup.
                if !lock(&self.brake).may_try(address, id.as_str(), now) {
                    self.count_denied(Some(&id), "too_many_attempts");
                    return Some(Verdict::TooManyAttempts);
                }
                match self.questions.try_send(Question { shard, conn, claim, forwarder, denied, address }) {
                    Ok(()) => None,
                    Err(_) => {
                        self.count_denied(Some(&id), "busy");
                        Some(Verdict::Busy)
                    }
                }
            }
        }
    }

    /// A connection has ended.
    pub(crate) fn gone(&self, shard: ShardId, conn: ConnId) {
        let mut present = lock(&self.present);
        let Some(id) = present.by_conn.remove(&(shard, conn)) else { return };
        if present.by_id.get(&id).is_some_and(|guest| (guest.shard, guest.conn) == (shard, conn)) {
            present.by_id.remove(&id);
        }
        *present.numbers.left.entry(id.to_string()).or_default() += 1;
    }

    /// From now on certificates count if they come from these.
    pub(crate) fn trust(&self, authorities: Option<Arc<dyn ClientCertVerifier>>) {
        *self.authorities.write().unwrap_or_else(PoisonError::into_inner) = authorities;
    }

    /// What was counted.
    pub(crate) fn numbers(&self) -> IdentityNumbers {
        let (known, refreshes) = (self.directory.tree().len(), self.directory.refreshes());
        let present = lock(&self.present);
        IdentityNumbers { connected: present.by_id.len(), known, refreshes, ..present.numbers.clone() }
    }

    /// Judges anybody, for whoever does not come by MQTT.
    pub(crate) fn judge(&self, claim: &Claim) -> Result<Until, Denied> {
        let authorities = self.authorities.read().unwrap_or_else(PoisonError::into_inner).clone();
        let tree = self.directory.tree();
        let law = Law {
            tree: &tree,
            hosts: &self.hosts,
            authorities: authorities.as_deref(),
            takes_certificates: self.takes_certificates,
            now: now_secs(),
        };
        match law.judge(claim) {
            Err(Denied::Unknown(id)) if id == claim.name.id => {
                let until = self.visitors.as_ref().and_then(|visitors| visitors.until(claim));
                until.ok_or(Denied::Unknown(id))
            }
            judged => judged,
        }
    }

    /// What a certificate proves that somebody else has seen, and who that says it is, where that is not known to be so.
    fn forwarded(&self, certificate: &str, token: Option<&str>) -> Result<(Proof, Option<Claim>), Denied> {
        let denied = || Denied::Forwarder(self.forwarder.clone());
        let by = self.claim_of_forwarder(token.ok_or_else(denied)?);
        let by = match self.judge(&by) {
            Ok(_) => None,
            Err(problem) if problem.may_be_outdated() => Some(by),
            Err(_) => return Err(denied()),
        };
        let chain = forwarded::certificates(certificate).ok_or(Denied::Certificate)?;
        Ok((Proof::Certificates(chain), by))
    }

    fn claim_of_forwarder(&self, token: &str) -> Claim {
        Claim { name: UserName::of(self.forwarder.clone()), proof: Proof::Token(token.into()) }
    }

    /// What a certificate proves that came with an HTTP request, if its `token` is that of who may forward some.
    pub(crate) async fn vouch_forwarded(
        &self,
        certificate: &str,
        token: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Proof, Denied> {
        let is_vouched = match token.map(|token| self.claim_of_forwarder(token)) {
            Some(by) => self.vouch(&by, address).await.is_ok(),
            None => false,
        };
        if !is_vouched {
            return Err(Denied::Forwarder(self.forwarder.clone()));
        }
        forwarded::certificates(certificate).map(Proof::Certificates).ok_or(Denied::Certificate)
    }

    /// Whether somebody who does not come by MQTT is who it says it is; asks IoT Hub where newer knowledge could change the
    /// answer, and not for who has failed too often.
    pub(crate) async fn vouch(&self, claim: &Claim, address: Option<IpAddr>) -> Result<(), ()> {
        let id = claim.name.id.clone();
        let denied = match self.judge(claim) {
            Ok(_) => return Ok(()),
            Err(denied) => denied,
        };
        let may_try = lock(&self.brake).may_try(address, id.as_str(), self.clock.now().instant);
        if denied.may_be_outdated() && may_try {
            let lookup = self.directory.look_up(&id, None);
            drop(tokio::time::timeout(self.lookup_timeout, lookup).await);
            if self.judge(claim).is_ok() {
                return Ok(());
            }
        }
        self.refuse(&id, &denied, address);
        Err(())
    }

    fn let_in(
        &self,
        shard: ShardId,
        conn: ConnId,
        claim: Claim,
        until: Until,
        address: Option<IpAddr>,
    ) -> Verdict {
        let id = claim.name.id.clone();
        let mut present = lock(&self.present);
        let is_full = self.clients_max.is_some_and(|max| present.by_id.len() >= max);
        if is_full && !present.by_id.contains_key(&id) {
            drop(present);
            tracing::warn!(client = %id, max = self.clients_max, "refused: edge.clients_max is reached");
            self.count_denied(Some(&id), "clients_max");
            return Verdict::TooManyClients;
        }
        if let Some(cards) = &self.cards {
            cards.note(&claim.name);
        }
        present.by_conn.insert((shard, conn), id.clone());
        present.by_id.insert(id.clone(), Guest { shard, conn, claim, until, is_leaving: false });
        *present.numbers.accepted.entry(id.to_string()).or_default() += 1;
        drop(present);
        lock(&self.brake).succeeded(address, id.as_str());
        Verdict::Identified { user: id.as_str().into() }
    }

    fn refuse(&self, id: &HubId, denied: &Denied, address: Option<IpAddr>) -> Verdict {
        self.count_denied(Some(id), denied.label());
        let now = self.clock.now().instant;
        let mut brake = lock(&self.brake);
        let is_new = brake.may_try(address, id.as_str(), now);
        brake.failed(address, id.as_str(), now);
        drop(brake);
        // Once, and then as often as the brake lets it try.
        if is_new {
            tracing::warn!(client = %id, reason = %denied, "refused");
        }
        Verdict::NotAuthorized
    }

    fn count_denied(&self, id: Option<&HubId>, reason: &'static str) {
        // Names that anybody could make up are not kept.
        let known = id.filter(|id| self.directory.tree().find(id).is_some());
        let name = known.map_or_else(|| "unknown".to_owned(), ToString::to_string);
        *lock(&self.present).numbers.denied.entry((name, reason)).or_default() += 1;
    }

    /// Looks up who is not known, for ever.
    pub(crate) async fn run_lookups(self: Arc<Gatekeeper>, waiting: Waiting) {
        let waiting = Arc::new(tokio::sync::Mutex::new(waiting.0));
        let mut lookups = tokio::task::JoinSet::new();
        for _ in 0..LOOKUPS_AT_ONCE {
            let (gatekeeper, waiting) = (Arc::clone(&self), Arc::clone(&waiting));
            lookups.spawn(async move {
                loop {
                    let question = waiting.lock().await.recv().await;
                    let Some(question) = question else { return };
                    gatekeeper.answer(question).await;
                }
            });
        }
        while lookups.join_next().await.is_some() {}
    }

    async fn answer(&self, question: Question) {
        let Some(forwarder) = &question.forwarder else { return self.look_up(question).await };
        let judged = match self.vouch(forwarder, question.address).await {
            Ok(()) => self.judge(&question.claim),
            Err(()) => Err(question.denied.clone()),
        };
        let Question { shard, conn, claim, address, .. } = question;
        let verdict = match judged {
            Ok(until) => self.let_in(shard, conn, claim, until, address),
            Err(denied) if denied.may_be_outdated() => {
                return self.look_up(Question { shard, conn, claim, forwarder: None, denied, address }).await;
            }
            Err(denied) => self.refuse(&claim.name.id, &denied, address),
        };
        self.post(shard, Mail::Authenticated { conn, verdict }).await;
    }

    /// Looks up who is not known, or not as it says, and judges again.
    async fn look_up(&self, question: Question) {
        let Question { shard, conn, claim, denied, address, .. } = question;
        let id = claim.name.id.clone();
        // Whoever the proof depends on: the client, or the hub that stands in for it.
        let whom = match &denied {
            Denied::Unknown(whom) | Denied::Disabled(whom) | Denied::Method(whom) => whom.clone(),
            _ => id.clone(),
        };
        let lookup = self.directory.look_up(&whom, claim.name.auth_chain.as_ref());
        let lookup = tokio::time::timeout(self.lookup_timeout, lookup).await.unwrap_or(Lookup::Unreachable);
        let verdict = match self.judge(&claim) {
            Ok(until) => self.let_in(shard, conn, claim, until, address),
            Err(Denied::Unknown(whom)) if whom == id && lookup != Lookup::Unreachable => {
                self.by_cloud(shard, conn, claim, address).await
            }
            // Nobody can say who that is; it may well be somebody.
            Err(Denied::Unknown(_)) if lookup == Lookup::Unreachable => {
                self.count_denied(None, "unreachable");
                Verdict::Busy
            }
            Err(denied) => self.refuse(&id, &denied, address),
        };
        self.post(shard, Mail::Authenticated { conn, verdict }).await;
    }

    /// The verdict about a client that the device scope does not know.
    async fn by_cloud(&self, shard: ShardId, conn: ConnId, claim: Claim, address: Option<IpAddr>) -> Verdict {
        let id = claim.name.id.clone();
        let word = match &self.visitors {
            Some(visitors) => visitors.ask(&claim).await,
            None => Word::Out,
        };
        match word {
            Word::In(until) => self.let_in(shard, conn, claim, until, address),
            Word::Out => self.refuse(&id, &Denied::Unknown(id.clone()), address),
            Word::Nothing => {
                self.count_denied(None, "unreachable");
                Verdict::Busy
            }
        }
    }

    /// Asks IoT Hub again about visitors who stay, for ever: one after the other, one a second at most.
    pub(crate) async fn run_second_questions(self: Arc<Gatekeeper>) {
        let Some(visitors) = self.visitors.clone() else { return };
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(claim) = self.longest_not_asked_about(&visitors) else { continue };
            if visitors.ask_again(&claim).await == Word::Out {
                tracing::info!(client = %claim.name.id, "IoT Hub does not let it in any more");
                self.send_away(true).await;
            }
        }
    }

    fn longest_not_asked_about(&self, visitors: &Visitors) -> Option<Claim> {
        let present = lock(&self.present);
        let guests = present.by_id.values().filter(|guest| !guest.is_leaving);
        let due = guests.filter_map(|guest| Some((visitors.due_since(&guest.claim)?, &guest.claim)));
        due.min_by_key(|(since, _)| *since).map(|(_, claim)| claim.clone())
    }

    /// Sends away who may not stay, for ever.
    pub(crate) async fn run_reviews(self: Arc<Gatekeeper>) {
        let mut news = self.directory.news();
        let mut looks = 0;
        loop {
            let is_news = tokio::select! {
                changed = news.changed() => changed.is_ok(),
                () = tokio::time::sleep(LOOK) => false,
            };
            looks += 1;
            let all = is_news || looks % LOOKS_PER_REVIEW == 0;
            self.send_away(all).await;
        }
    }

    async fn send_away(&self, all: bool) {
        for (shard, conn) in self.review(all) {
            self.post(shard, Mail::Withdrawn { conn }).await;
        }
    }

    /// Those who may not stay: whose proof has expired, and with `all` whoever would not be let in now.
    fn review(&self, all: bool) -> Vec<(ShardId, ConnId)> {
        let now = Until(now_secs());
        let candidates: Vec<_> = lock(&self.present)
            .by_id
            .iter()
            .filter(|(_, guest)| !guest.is_leaving && (all || guest.until <= now))
            .map(|(id, guest)| {
                (id.clone(), (guest.shard, guest.conn), guest.claim.clone(), guest.until <= now)
            })
            .collect();
        let mut leaving = Vec::new();
        for (id, place, claim, has_expired) in candidates {
            let judged = if has_expired {
                Err("what it showed has expired".to_owned())
            } else {
                self.judge(&claim).map_err(|denied| denied.to_string())
            };
            let Err(reason) = judged else { continue };
            let mut present = lock(&self.present);
            // Not whoever has come in its place meanwhile.
            let guest = present.by_id.get_mut(&id).filter(|guest| (guest.shard, guest.conn) == place);
            if let Some(guest) = guest {
                guest.is_leaving = true;
                tracing::info!(client = %id, reason, "an identity may not stay");
                leaving.push(place);
            }
        }
        leaving
    }

    async fn post(&self, shard: ShardId, mail: Mail) {
        let mut mail = mail;
        while let Err(back) = self.mailboxes[usize::from(shard.0)].send(mail) {
            mail = back;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl std::fmt::Debug for Gatekeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gatekeeper").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
