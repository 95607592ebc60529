//! The identities known now: read from IoT Hub or a local file, kept sealed on the disk, and good while nobody answers.
//!
//! In: a source, the vault. Out: the tree to judge by; news, by number. Always: what was known before an outage or a restart
//! stays known until the source says otherwise; an answer that comes half changes nothing. What a client says of itself
//! removes nobody: only an answer to what we ask by ourselves does.
//! Bound: `identities_max`, and as many lookups remembered.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant, SystemTime};

use axum::http::{HeaderMap, Method};
use hub::HubId;
use hub::identity::{DeviceDocument, Identity, ModuleDocument, ScopePage};
use hub::tree::{AuthChain, Tree};
use tokio::sync::watch;

use super::exchange::Answer;
use super::judge::EDGE_HUB;
use super::local::{LocalError, LocalFile};
use super::scope::{Scope, ScopeError};
use super::vault::{Vault, VaultError};
use super::visitors::Visitors;
use crate::files;

/// The name under which the identities are sealed, and of their file.
const SEALED: &str = "identities.sealed";
/// How often a local file is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How soon a scope that has never been read is tried again.
const UNREAD: Duration = Duration::from_secs(60);

/// Where identities come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A file of this gateway.
    Local(PathBuf),
    /// IoT Hub or a parent gateway, cached in a folder.
    Scope(Box<Scope>),
}

/// What a lookup of one identity came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// What is known is as new as it can be.
    Done,
    /// It was looked up a moment ago.
    TooSoon,
    /// Nobody answers.
    Unreachable,
}

/// How an identity is asked for.
struct Question {
    /// The links from it up to us.
    chain: String,
    /// They are those that we know; a refusal of others proves nothing.
    is_ours: bool,
}

/// Why the identities cannot be had at the start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// The local file.
    #[error("edge.identities = \"{path}\": {error}", path = path.display())]
    Local {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        error: LocalError,
    },
}

/// The identities.
#[derive(Debug)]
pub(crate) struct Directory {
    source: Source,
    device: HubId,
    folder: PathBuf,
    vault: Arc<Vault>,
    tree: RwLock<Tree>,
    identities_max: usize,
    lookup_min: Duration,
    refresh: Duration,
    /// When each was looked up last.
    looked_up: Mutex<HashMap<HubId, Instant>>,
    /// Whether the source has ever been read, in this or an earlier run.
    is_filled: AtomicBool,
    refreshes: AtomicU64,
    failures: AtomicU64,
    news: watch::Sender<u64>,
    /// Those whom it does not know and IoT Hub does, where there may be such.
    visitors: OnceLock<Arc<Visitors>>,
}

impl Directory {
    /// The identities as they were known last. A local file must be good; IoT Hub need not be there.
    pub(crate) fn open(
        source: Source,
        device: HubId,
        folder: PathBuf,
        vault: Arc<Vault>,
        identities_max: usize,
        (lookup_min, refresh): (Duration, Duration),
    ) -> Result<Directory, DirectoryError> {
        let directory = Directory {
            tree: RwLock::new(Tree::new(device.clone(), identities_max)),
            source,
            device,
            folder,
            vault,
            identities_max,
            lookup_min,
            refresh,
            looked_up: Mutex::default(),
            is_filled: AtomicBool::new(false),
            refreshes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            news: watch::Sender::new(0),
            visitors: OnceLock::new(),
        };
        match &directory.source {
            Source::Local(path) => {
                let failed = |error| DirectoryError::Local { path: path.clone(), error };
                let file = LocalFile::read(path, identities_max).map_err(failed)?;
                if file.gateway != directory.device {
                    return Err(failed(LocalError::NoEdge(directory.device.clone())));
                }
                directory.replace(file.identities);
            }
            Source::Scope(_) => directory.unseal(),
        }
        Ok(directory)
    }

    /// What to judge by. Held for the time of one judgement.
    pub(crate) fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with every change of what is known.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// How often all were read, and how often that failed.
    pub(crate) fn refreshes(&self) -> (u64, u64) {
        (self.refreshes.load(Ordering::Acquire), self.failures.load(Ordering::Relaxed))
    }

    /// Where it is told that somebody who is not known here may have changed; once.
    pub(super) fn tell_doubts_to(&self, visitors: Arc<Visitors>) {
        drop(self.visitors.set(visitors)); // only the first one counts
    }

    /// Looks these up, however short ago that was done: somebody knows that they have changed. Whether all were; where nobody
    /// answers the rest is not asked for.
    pub(crate) async fn renew(&self, ids: &[HubId]) -> bool {
        for id in ids {
            if let Some(visitors) = self.visitors.get() {
                visitors.doubt(id);
            }
            lock(&self.looked_up).remove(id);
            if self.look_up(id, None).await != Lookup::Done {
                tracing::warn!(identity = %id, "an identity cannot be looked up now");
                return false;
            }
        }
        true
    }

    /// Asks upstream what a child gateway asks of us; `Err`: nobody answers, or nobody is there.
    pub(crate) async fn pass_on(
        &self,
        method: Method,
        call: &str,
        headers: HeaderMap,
        body: String,
    ) -> Result<Answer, String> {
        match &self.source {
            Source::Local(_) => Err("this gateway has no IoT Hub".to_owned()),
            Source::Scope(scope) => {
                scope.pass_on(method, call, headers, body).await.map_err(|error| error.to_string())
            }
        }
    }

    /// Looks one identity up, unless that was done a moment ago. `chain`: the one that its client presents.
    pub(crate) async fn look_up(&self, id: &HubId, chain: Option<&AuthChain>) -> Lookup {
        let Source::Scope(scope) = &self.source else {
            // The file is looked at all the time; this is for a client that is faster.
            return if self.read_file(None).is_some() { Lookup::Done } else { Lookup::TooSoon };
        };
        if !self.may_look_up(id) {
            return Lookup::TooSoon;
        }
        let question = self.question_about(id, chain);
        let answer = scope.one(id, &question.chain).await;
        let is_refused = answer.as_ref().err().is_some_and(ScopeError::is_refusal);
        // A refusal of a chain that somebody else has made up, or of us, says nothing about the identity.
        let is_gone = is_refused && question.is_ours && scope.knows_us().await;
        match answer {
            Ok(found) => {
                self.update(id, found, question.is_ours);
                Lookup::Done
            }
            Err(_) if is_gone => {
                self.update(id, Vec::new(), true);
                Lookup::Done
            }
            Err(_) if is_refused && !question.is_ours => Lookup::Done,
            Err(error) => {
                tracing::debug!(%error, identity = %id, "an identity cannot be looked up");
                // The next client may try at once.
                lock(&self.looked_up).remove(id);
                Lookup::Unreachable
            }
        }
    }

    /// Keeps what is known up to date, for ever.
    pub(crate) async fn run(&self) {
        match &self.source {
            Source::Local(path) => {
                let mut seen = modified(path);
                loop {
                    tokio::time::sleep(LOOK).await;
                    if let Some(now) = self.read_file(Some(seen)) {
                        seen = now;
                    }
                }
            }
            Source::Scope(scope) => loop {
                self.read_scope(scope).await;
                let pause = if self.is_filled.load(Ordering::Relaxed) { self.refresh } else { UNREAD };
                tokio::time::sleep(pause).await;
            },
        }
    }

    async fn read_scope(&self, scope: &Scope) {
        match scope.all().await {
            Ok(found) => {
                let identities = found.len();
                let is_first = !self.is_filled.swap(true, Ordering::Relaxed);
                let has_changed = self.replace(found);
                // Whoever sees the number sees what was read.
                self.refreshes.fetch_add(1, Ordering::Release);
                if has_changed {
                    tracing::info!(identities, "the device scope has changed");
                    self.seal();
                } else if is_first {
                    self.seal();
                }
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                let known = self.tree().len();
                tracing::warn!(%error, known, "the device scope cannot be read; those known before stay known");
            }
        }
    }

    /// Reads the local file, if it is newer than `seen`; when it was changed, if it was read.
    fn read_file(&self, seen: Option<Option<SystemTime>>) -> Option<Option<SystemTime>> {
        let Source::Local(path) = &self.source else { return None };
        let now = modified(path);
        if seen == Some(now) {
            return None;
        }
        match LocalFile::read(path, self.identities_max) {
            Ok(file) if file.gateway == self.device => {
                self.refreshes.fetch_add(1, Ordering::Relaxed);
                if self.replace(file.identities) {
                    tracing::info!(identities = self.tree().len(), "the identity file has changed");
                }
            }
            Ok(file) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(gateway = %file.gateway, "edge.identities is that of another gateway; nothing was changed");
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(path = %path.display(), %error, "edge.identities has mistakes; nothing was changed");
            }
        }
        Some(now)
    }

    fn may_look_up(&self, id: &HubId) -> bool {
        let now = Instant::now();
        let mut looked_up = lock(&self.looked_up);
        if looked_up.get(id).is_some_and(|last| now.duration_since(*last) < self.lookup_min) {
            return false;
        }
        if looked_up.len() >= self.identities_max {
            looked_up.retain(|_, last| now.duration_since(*last) < self.lookup_min);
        }
        // As many names as there can be identities, each within one pause: nobody honest does that.
        if looked_up.len() >= self.identities_max {
            return false;
        }
        looked_up.insert(id.clone(), now);
        true
    }

    /// How `id` is asked for: by the links up to us that we know. Of somebody we do not know that, and what its client says of
    /// it is passed on; upstream it is looked at, and only an identity that is found there counts.
    fn question_about(&self, id: &HubId, chain: Option<&AuthChain>) -> Question {
        let tree = self.tree();
        if let Some(known) = tree.chain_of(id) {
            return Question { chain: known.to_string(), is_ours: true };
        }
        // One that stands nowhere any more, because what it stood below has gone, is asked for as we take it to be.
        let is_ours = tree.find(id).is_some();
        Question { chain: self.presumed_chain(&tree, id, chain.filter(|_| !is_ours)), is_ours }
    }

    /// The links from somebody unknown up to us: over its device, or over the edge device that stands in for it, if one does.
    fn presumed_chain(&self, tree: &Tree, id: &HubId, chain: Option<&AuthChain>) -> String {
        if *id == self.device {
            return id.to_string();
        }
        let device = id.module_id().and_then(|_| HubId::device(id.device_id()).ok());
        if let Some(known) = device.as_ref().and_then(|device| tree.chain_of(device)) {
            return format!("{id};{known}");
        }
        let chain = chain.filter(|chain| chain.is_on_behalf());
        let actor = chain.and_then(|chain| HubId::device(chain.actor().device_id()).ok());
        let known = actor.and_then(|actor| tree.chain_of(&actor));
        // What the client says of the links between it and the one who acts.
        if let (Some(chain), Some(known)) = (chain.filter(|chain| chain.target() == id), &known) {
            let further = known.links().iter().skip(1);
            return further.fold(chain.to_string(), |all, link| format!("{all};{link}"));
        }
        let up = known.map_or_else(|| self.device.to_string(), |chain| chain.to_string());
        match device.filter(|device| up.split(';').next() != Some(device.as_str())) {
            Some(device) => format!("{id};{device};{up}"),
            None => format!("{id};{up}"),
        }
    }

    /// Takes over what a lookup of `id` found. `is_all`: without `id` in it, that is not below us any more.
    fn update(&self, id: &HubId, found: Vec<Identity>, is_all: bool) {
        let mut changed = false;
        {
            let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
            let is_gone =
                is_all && !self.is_ourselves(id) && !found.iter().any(|identity| identity.id == *id);
            if is_gone {
                changed |= tree.remove(id);
            }
            for identity in found {
                match tree.set(identity) {
                    Ok(is_new) => changed |= is_new,
                    Err(error) => tracing::error!(%error, identity = %id, "limits.identities_max is reached"),
                }
            }
        }
        if changed {
            self.seal();
            self.tell();
        }
    }

    /// The root of the tree and who asks: as long as somebody answers us, they are there.
    fn is_ourselves(&self, id: &HubId) -> bool {
        id.device_id() == self.device.device_id() && id.module_id().is_none_or(|module| module == EDGE_HUB)
    }

    /// Takes over all identities; whether anything has changed.
    fn replace(&self, found: Vec<Identity>) -> bool {
        let mut new = Tree::new(self.device.clone(), self.identities_max);
        for identity in found {
            if let Err(error) = new.set(identity) {
                tracing::error!(%error, "limits.identities_max is reached; the rest is not known");
                break;
            }
        }
        let changed = {
            let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
            let changed = !new.iter().eq(tree.iter());
            *tree = new;
            changed
        };
        if changed {
            self.tell();
        }
        changed
    }

    fn tell(&self) {
        self.news.send_modify(|number| *number += 1);
    }

    /// Writes what is known, for the next start. What fails is said; the router goes on.
    fn seal(&self) {
        let page = {
            let tree = self.tree();
            ScopePage {
                devices: tree
                    .iter()
                    .filter_map(Identity::to_device_document)
                    .collect::<Vec<DeviceDocument>>(),
                modules: tree
                    .iter()
                    .filter_map(Identity::to_module_document)
                    .collect::<Vec<ModuleDocument>>(),
                continuation_link: None,
            }
        };
        let path = self.folder.join(SEALED);
        let write = || -> Result<(), VaultError> {
            let failed = |error| VaultError::File { path: path.clone(), error };
            let text = serde_json::to_vec(&page).map_err(|error| failed(std::io::Error::other(error)))?;
            files::replace(&path, &self.vault.seal(SEALED, &text)?).map_err(failed)
        };
        if let Err(error) = write() {
            tracing::error!(%error, "identities cannot be kept for a start without IoT Hub");
        }
    }

    /// Reads what was known in an earlier run.
    fn unseal(&self) {
        let path = self.folder.join(SEALED);
        let sealed = match std::fs::read(&path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "identities of an earlier run cannot be read");
                return;
            }
        };
        let page = self.vault.open_sealed(SEALED, &sealed).map_err(|error| error.to_string());
        let page = page.and_then(|text| {
            serde_json::from_slice::<ScopePage>(&text).map_err(|error| format!("line {}", error.line()))
        });
        match page {
            Ok(page) => {
                let devices = page.devices.iter().filter_map(|device| Identity::try_from(device).ok());
                let modules = page.modules.iter().filter_map(|module| Identity::try_from(module).ok());
                self.replace(devices.chain(modules).collect());
                self.is_filled.store(true, Ordering::Relaxed);
                tracing::info!(identities = self.tree().len(), "identities of an earlier run are known");
            }
            Err(problem) => {
                tracing::error!(path = %path.display(), problem, "identities of an earlier run are of no use; they are read anew");
            }
        }
    }
}

fn modified(path: &std::path::Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
