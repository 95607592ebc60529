//! The threads that verify passwords: few, so that clients who come do not slow down those who are there.
//!
//! In: questions of shards. Out: verdicts in the shards' mailboxes; at once where nothing needs to be computed.
//! Bound: `limits.authentication_queue_max`; above it the client is told that we are busy.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker::Authentication;
use broker::access::Verdict;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use model::{ConnId, Limits, ShardId};

use super::brake::Brake;
use super::passwords::PasswordFile;
use super::recent::Recent;
use crate::clock::Clock;
use crate::iotedge::Gatekeeper;
use crate::mail::{Mail, Mailbox};

/// What the threads need.
pub(crate) struct VerifierSetup<'a> {
    /// The users; without any, no thread runs and nobody is verified.
    pub passwords: Option<Arc<PasswordFile>>,
    /// How many threads.
    pub threads: usize,
    /// How long good credentials are remembered, in milliseconds.
    pub recent_millis: u64,
    /// Failures without consequence.
    pub failures_free: u32,
    /// Bounds.
    pub limits: &'a Limits,
    /// Where verdicts go, indexed by shard.
    pub mailboxes: Vec<Arc<Mailbox>>,
    /// Who knows identities, if anybody does.
    pub gatekeeper: Option<Arc<Gatekeeper>>,
}

/// Where shards ask.
#[derive(Clone)]
pub(crate) struct Verifier {
    shared: Arc<Shared>,
    queue: Sender<Question>,
    gatekeeper: Option<Arc<Gatekeeper>>,
}

struct Shared {
    passwords: Mutex<Option<Arc<PasswordFile>>>,
    recent: Mutex<Recent>,
    brake: Mutex<Brake>,
    mailboxes: Vec<Arc<Mailbox>>,
    clock: Clock,
    timeout_millis: u64,
}

struct Question {
    shard: ShardId,
    authentication: Authentication,
    address: Option<IpAddr>,
    asked: model::Instant,
}

impl Verifier {
    /// Starts the threads; they end when the last `Verifier` is dropped, and hold nothing that must be finished.
    pub(crate) fn start(setup: VerifierSetup<'_>) -> std::io::Result<Verifier> {
        let limits = setup.limits;
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| std::io::Error::other(error.to_string()))?;
        let shared = Arc::new(Shared {
            passwords: Mutex::new(setup.passwords),
            recent: Mutex::new(Recent::new(
                key,
                limits.authentication_cache_max as usize,
                setup.recent_millis,
            )),
            brake: Mutex::new(Brake::new(limits.failed_attempts_max as usize, setup.failures_free)),
            mailboxes: setup.mailboxes,
            clock: Clock::default(),
            timeout_millis: limits.authentication_timeout_millis,
        });
        let (queue, questions) = bounded(limits.authentication_queue_max as usize);
        for number in 0..setup.threads {
            let (shared, questions) = (Arc::clone(&shared), questions.clone());
            let builder = std::thread::Builder::new().name(format!("verify-{number}")).stack_size(512 << 10);
            builder.spawn(move || shared.run(&questions))?;
        }
        Ok(Verifier { shared, queue, gatekeeper: setup.gatekeeper })
    }

    /// Replaces the users; what was good under a line that is the same stays good.
    pub(crate) fn replace(&self, passwords: Option<Arc<PasswordFile>>) {
        *lock(&self.shared.passwords) = passwords;
    }

    /// Asks who a client is. `Some` is the verdict; `None`: it will come by mail.
    pub(crate) fn ask(
        &self,
        shard: ShardId,
        authentication: Authentication,
        address: Option<IpAddr>,
    ) -> Option<Verdict> {
        if authentication.is_identity {
            let Some(gatekeeper) = &self.gatekeeper else { return Some(Verdict::NotAuthorized) };
            return gatekeeper.ask(shard, authentication, address);
        }
        let shared = &self.shared;
        let now = shared.clock.now().instant;
        let Authentication { user, password, .. } = &authentication;
        let Some(password) = password else { return Some(Verdict::BadCredentials) };
        // First what is known to be good: an honest client does not suffer from others who use its name.
        let known = lock(&shared.recent).find(user, password, now);
        if let Some(print) = known
            && lock(&shared.passwords).as_ref().is_some_and(|users| users.print_of(user) == Some(print))
        {
            return Some(Verdict::Accepted { user: (**user).into(), print });
        }
        if !lock(&shared.brake).may_try(address, user, now) {
            return Some(Verdict::TooManyAttempts);
        }
        match self.queue.try_send(Question { shard, authentication, address, asked: now }) {
            Ok(()) => None,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Some(Verdict::Busy),
        }
    }

    /// A connection has ended, or was gone before its verdict came.
    pub(crate) fn gone(&self, shard: ShardId, conn: ConnId) {
        if let Some(gatekeeper) = &self.gatekeeper {
            gatekeeper.gone(shard, conn);
        }
    }
}

impl Shared {
    fn run(&self, questions: &Receiver<Question>) {
        while let Ok(question) = questions.recv() {
            let now = self.clock.now().instant;
            // Its client has been told so already.
            let verdict = if now.millis_since(question.asked) > self.timeout_millis {
                Verdict::Busy
            } else {
                self.verify(&question)
            };
            let Question { shard, authentication, .. } = question;
            let mut mail = Mail::Authenticated { conn: authentication.conn, verdict };
            while let Err(back) = self.mailboxes[usize::from(shard.0)].send(mail) {
                mail = back;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }

    fn verify(&self, question: &Question) -> Verdict {
        let Authentication { user, password, .. } = &question.authentication;
        let password = password.as_deref().unwrap_or_default();
        // Again: attempts that waited beside this one may have failed meanwhile.
        if !lock(&self.brake).may_try(question.address, user, self.clock.now().instant) {
            return Verdict::TooManyAttempts;
        }
        let users = lock(&self.passwords).clone();
        let print = users.and_then(|users| users.verify(user, password));
        let now = self.clock.now().instant;
        match print {
            Some(print) => {
                lock(&self.brake).succeeded(question.address, user);
                lock(&self.recent).add(user, password, print, now);
                Verdict::Accepted { user: (**user).into(), print }
            }
            None => {
                lock(&self.brake).failed(question.address, user, now);
                Verdict::BadCredentials
            }
        }
    }
}

/// Nothing panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
