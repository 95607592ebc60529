//! The gateway's own twin: what it wants, and what the gateway says of itself and of its clients (`reference/edgehub.md` §6.3).
//!
//! In: the twin as IoT Hub has it, clients that come and go. Out: wishes, each version once; reported properties. Bound: a twin's;
//! what the gateway says of itself goes before clients, and clients that are here before modules that have gone.

use hub::HubId;
use hub::manifest::{ClientStatus, Report, client_patch, fewer_clients_patch, no_clients_patch};
use hub::methods::Outcome;
use hub::topics::{Feature, Features};
use hub::twin::{Object, Twin, TwinError};
use model::{Instant, Timestamp};
use time::OffsetDateTime;

use super::{Caller, Client, Core, Link, What, Wish};

/// The only method of `$edgeHub`.
const REFRESH: &str = "RefreshDeviceScopeIdentityCache";
/// Identities in one call of it.
const REFRESHED_MAX: usize = 256;

impl Core {
    /// Whether this is the gateway itself.
    pub(super) fn is_own(&self, id: &str) -> bool {
        self.own.as_ref().is_some_and(|(own, _)| **own == *id)
    }

    /// IoT Hub calls a method of the gateway itself.
    pub(super) fn on_own_call(&mut self, name: &str, payload: &[u8], caller: Caller) {
        match (name, refreshed(payload)) {
            (REFRESH, Some(ids)) => {
                self.last_rid += 1;
                self.refreshing.insert(self.last_rid, caller);
                self.refreshes.push((self.last_rid, ids));
            }
            (REFRESH, None) => self.end_call(caller, &answered(400)),
            _ => self.end_call(caller, &answered(404)),
        }
    }

    /// Identities that have changed in IoT Hub, each call with its ticket; whoever takes them says what came of it.
    pub(in super::super) fn take_refreshes(&mut self) -> Vec<(u64, Vec<HubId>)> {
        std::mem::take(&mut self.refreshes)
    }

    /// What came of a call: all identities were looked up, or not.
    pub(in super::super) fn on_refreshed(&mut self, ticket: u64, are_all: bool) {
        if let Some(caller) = self.refreshing.remove(&ticket) {
            self.end_call(caller, &answered(if are_all { 200 } else { 500 }));
        }
    }

    /// From now on the gateway's own twin is followed; `stored` is what was kept of it.
    /// `granted`: desired properties that were in effect last, which may be older.
    pub(in super::super) fn follow(&mut self, id: &HubId, stored: Option<Twin>, granted: Option<Twin>) {
        let twin = stored.unwrap_or_default();
        self.wishes.granted_before = granted.and_then(|twin| Wish::of(&twin));
        let features = Features::default().with(Feature::Desired).with(Feature::Methods);
        let client = Client { features, is_own: true, ..Client::new(twin, Link::Opening) };
        self.clients.insert(id.as_str().into(), client);
        self.own = Some((id.as_str().into(), None));
        self.listen(id.as_str());
        self.report_own(&no_clients_patch());
        let about = Report { version: Some((env!("CARGO_PKG_VERSION"), "", "")), desired: None };
        self.report_own(&about.to_patch());
    }

    /// Reads the gateway's own twin as a whole, when it is time.
    pub(super) fn refresh_own(&mut self, now: Instant) {
        let Some((id, _)) = self.own.as_ref().filter(|_| self.refresh_millis > 0) else { return };
        let next = *self.refresh_at.get_or_insert(now.plus_millis(self.refresh_millis));
        if next > now {
            return;
        }
        self.refresh_at = Some(now.plus_millis(self.refresh_millis));
        let id = std::sync::Arc::clone(id);
        if self.clients.get(&*id).is_some_and(|entry| entry.link == Link::Up) {
            self.ask(&id, What::Refresh, now);
        }
    }

    /// What the wall clock says.
    pub(in super::super) fn tell_time(&mut self, wall: Timestamp) {
        self.wall = wall;
    }

    /// What the gateway's own twin wants, if that is new; or what it wanted last that could be had, as long as nothing is in
    /// effect because the newest cannot.
    pub(in super::super) fn take_wish(&mut self) -> Option<Wish> {
        let (id, offered) = self.own.as_mut()?;
        let newest = Wish::of(&self.clients.get(&**id)?.twin);
        let wish = match newest.filter(|wish| *offered != Some(wish.version)) {
            Some(wish) => {
                *offered = Some(wish.version);
                (wish, true)
            }
            None if self.wishes.is_refused => (self.wishes.granted_before.take()?, false),
            None => return None,
        };
        self.wishes.asked.push_back(wish.clone());
        Some(wish.0)
    }

    /// What became of a wish; they are granted, or not, in their order.
    pub(in super::super) fn granted(&mut self, version: u64, result: &Result<(), String>) {
        let wish = self.wishes.asked.pop_front();
        let (wish, is_newest) = wish.map_or((None, true), |(wish, is_newest)| (Some(wish), is_newest));
        self.wishes.is_refused = result.is_err() && is_newest;
        if result.is_ok() {
            // An older one is of no use any more.
            self.wishes.granted_before = None;
            self.wishes.to_keep = wish.filter(|_| is_newest);
        }
        if is_newest {
            self.report_own(&Report { version: None, desired: Some((version, result)) }.to_patch());
        } else if result.is_ok() {
            tracing::warn!(version, "the twin's desired properties of an earlier version are in effect");
        } else {
            tracing::error!(
                version,
                "desired properties of an earlier version are of no use either; nobody is let in until the twin, or the configuration, is mended"
            );
        }
    }

    /// Desired properties that have come into effect, for the next start.
    pub(in super::super) fn take_granted(&mut self) -> Option<Twin> {
        let Wish { version, desired } = self.wishes.to_keep.take()?;
        Some(Twin { desired, desired_version: Some(version), ..Twin::default() })
    }

    /// A client came or went, for the gateway's own twin.
    pub(super) fn report_client(&mut self, client: &str, is_here: bool) {
        let Ok(id) = HubId::parse(client) else { return };
        if self.own.is_some() && !self.is_own(client) {
            let at = rfc_3339(self.wall);
            let status = if is_here { ClientStatus::Connected(&at) } else { ClientStatus::Disconnected(&at) };
            self.report_status(&client_patch(&id, status));
        }
    }

    /// Clients are said as far as a twin has room for them; modules that have gone make room for those that are here.
    fn report_status(&mut self, patch: &Object) {
        if let Err(problem) = self.report_with_room(patch, true)
            && !std::mem::replace(&mut self.is_own_full, true)
        {
            tracing::warn!(%problem, "the gateway's own twin has no room for all clients; some are left out");
        }
    }

    /// What the gateway says of itself goes before what it says of its clients.
    pub(super) fn report_own(&mut self, patch: &Object) {
        if let Err(problem) = self.report_with_room(patch, false) {
            tracing::warn!(%problem, "the gateway's own twin does not take what it reports");
        }
    }

    /// Makes room for a report, if it needs some: by forgetting modules that have gone, or all clients.
    fn report_with_room(&mut self, patch: &Object, only_gone: bool) -> Result<(), TwinError> {
        let taken = self.try_report_own(patch);
        if let Err(TwinError::Size(_) | TwinError::Pending(_)) = taken
            && let Some(fewer) =
                self.own_twin().and_then(|twin| fewer_clients_patch(&twin.reported, only_gone))
        {
            self.try_report_own(&fewer)?;
            return self.try_report_own(patch);
        }
        taken
    }

    fn try_report_own(&mut self, patch: &Object) -> Result<(), TwinError> {
        let Some((id, _)) = &self.own else { return Ok(()) };
        let Some(entry) = self.clients.get_mut(&**id) else { return Ok(()) };
        let before = entry.twin.clone();
        entry.twin.report(patch)?;
        self.changed.entry(Box::from(&**id)).or_insert(before);
        Ok(())
    }

    fn own_twin(&self) -> Option<&Twin> {
        let (id, _) = self.own.as_ref()?;
        Some(&self.clients.get(&**id)?.twin)
    }
}

fn answered(status: i64) -> Outcome {
    Outcome::Answered { status, payload: Vec::new() }
}

impl Wish {
    /// What a twin wants, if it is known.
    fn of(twin: &Twin) -> Option<Wish> {
        Some(Wish { version: twin.desired_version?, desired: twin.desired.clone() })
    }
}

/// `{"deviceIds":["d1","d2/m1"]}`
fn refreshed(payload: &[u8]) -> Option<Vec<HubId>> {
    let document: serde_json::Value = serde_json::from_slice(payload).ok()?;
    let ids = document.get("deviceIds")?.as_array().filter(|ids| ids.len() <= REFRESHED_MAX)?;
    ids.iter().map(|id| HubId::parse(id.as_str()?).ok()).collect()
}

/// A time as .NET writes it, to the second.
fn rfc_3339(at: Timestamp) -> String {
    let at = OffsetDateTime::from_unix_timestamp((at.0 / 1_000).cast_signed());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{}T{:02}:{:02}:{:02}Z", at.date(), at.hour(), at.minute(), at.second())
}
