//! Clients that have gone before IoT Hub had what they reported, in this or an earlier run (`reference/edgehub.md` §9.5).
//!
//! In: clients that are forgotten with reports, what an index on the disk says, the link. Out: whose twins are to be loaded; a
//! loaded twin is a client that is not here, whose report goes up as any other does. Always: a few at a time, and one whose link
//! does not come up is tried again later. Its twin is not read anew meanwhile: what has changed in it is for the client to hear.
//! Bounds: [`LOADS_MAX`] in a look, [`ABSENT_MAX`] at once; the names of identities that have been here.

use std::collections::{BTreeMap, BTreeSet};

use hub::twin::Twin;
use model::Instant;

use super::{Client, Core, Link, REPORT_MILLIS};

/// Twins that are loaded in one look, of which there are a few in a second.
const LOADS_MAX: usize = 8;
/// Clients that are not here whose reports may go up at the same time: each has a link.
const ABSENT_MAX: usize = 32;

/// Who is not loaded.
#[derive(Debug, Default)]
pub(super) struct Absent {
    /// When each is to be tried.
    by_id: BTreeMap<Box<str>, Instant>,
    /// The cloud is there, as far as is known.
    pub(super) is_online: bool,
    /// About now; for whoever is not told.
    pub(super) now: Instant,
}

impl Core {
    /// These have twins on the disk with reports that IoT Hub may not have.
    pub(in super::super) fn remember_absent(&mut self, ids: impl IntoIterator<Item = Box<str>>) {
        let ids = ids.into_iter().filter(|id| self.has_cloud && !self.clients.contains_key(id));
        self.absent.by_id.extend(ids.map(|id| (id, Instant::default())));
    }

    /// Whose twins are to be loaded now; each is answered with [`Core::on_absent`].
    pub(in super::super) fn wants_absent(&mut self, now: Instant) -> Vec<Box<str>> {
        self.absent.now = now;
        if !self.absent.is_online || self.absent.by_id.is_empty() {
            return Vec::new();
        }
        let loaded = self.clients.values().filter(|entry| entry.at.is_none() && !entry.is_own).count();
        let room = ABSENT_MAX.saturating_sub(loaded).min(LOADS_MAX);
        let mut due: Vec<_> = self.absent.by_id.iter().filter(|(_, at)| **at <= now).collect();
        // Whoever has waited longest first: one whose link never comes up has its turn, and no more.
        due.sort_by_key(|(_, at)| **at);
        due.into_iter().take(room).map(|(id, _)| id.clone()).collect()
    }

    /// The twin of one that is not here; `None`: nothing of it goes up any more, as far as we are concerned.
    pub(in super::super) fn on_absent(&mut self, id: &str, stored: Option<Twin>) {
        self.absent.by_id.remove(id);
        let Some(twin) = stored.filter(|twin| !twin.pending.is_empty()) else { return };
        if !self.clients.contains_key(id) {
            self.clients.insert(id.into(), Client::new(twin, Link::Opening));
            self.listen(id);
        }
    }

    /// A client is forgotten, and IoT Hub does not have what it reported.
    pub(super) fn put_off(&mut self, id: &str) {
        if self.has_cloud {
            self.absent.by_id.insert(id.into(), self.absent.now.plus_millis(REPORT_MILLIS));
        }
    }

    /// It has come itself.
    pub(super) fn is_here(&mut self, id: &str) {
        self.absent.by_id.remove(id);
    }

    /// The cloud is there again: nobody needs to wait.
    pub(super) fn try_absent(&mut self) {
        for at in self.absent.by_id.values_mut() {
            *at = Instant::default();
        }
    }

    /// Those that an index on the disk must name; of those `named` there already whoever is connected may stay, since it will
    /// report again.
    pub(in super::super) fn with_reports(&self, named: &BTreeSet<Box<str>>) -> BTreeSet<Box<str>> {
        let here = self.clients.iter().filter(|(id, entry)| {
            !entry.is_own && (!entry.twin.pending.is_empty() || entry.at.is_some() && named.contains(*id))
        });
        here.map(|(id, _)| id).chain(self.absent.by_id.keys()).cloned().collect()
    }
}
