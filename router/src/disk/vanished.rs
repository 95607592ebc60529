//! Lanes whose uplink is not configured any more: kept for a while, shown, then removed.
//!
//! Knows: when each of them was first missed (key the lane's name, value Unix ms, u64 little endian).
//! In:  the uplinks of a start, the time. Out: lanes to remove, and a list for people.
//! Invariant: what is configured again within `store.keep_vanished_secs` goes on where it was, and is forgotten here.

use std::sync::{Mutex, PoisonError};

use model::{LaneId, Timestamp};
use serde::Serialize;
use store::{CommitLog, Lost, StoreError};
use tracing::{info, warn};

use super::Disk;
use super::losses::Reason;
use super::spaces::VANISHED;
use super::whose::Parts;

/// Ranges of a lane that have entries of their own, by sender; what more there is has one.
const RANGES_APART: usize = 64;

/// One lane that nobody leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Vanished {
    /// Its name.
    pub lane: String,
    /// Messages in it.
    pub messages: u64,
    /// When it is removed, Unix ms.
    pub removed_at_ms: u64,
    #[serde(skip)]
    id: LaneId,
}

/// All of them, for everybody to read.
#[derive(Debug, Default)]
pub(crate) struct VanishedLanes {
    list: Mutex<Vec<Vanished>>,
}

impl VanishedLanes {
    /// Compares the lanes of the store with the uplinks of this start; notes what is new with the next commit.
    pub(crate) fn load(
        log: &mut store::Log,
        is_configured: impl Fn(&str) -> bool,
        keep_secs: u64,
        now: Timestamp,
    ) -> Result<VanishedLanes, StoreError> {
        let mut list = Vec::new();
        for lane in log.lanes()? {
            let Some(uplink) = uplink_of(&lane.name) else { continue };
            let noted = log.state_get(VANISHED, lane.name.as_bytes())?;
            if is_configured(uplink) {
                if noted.is_some() {
                    info!(lane = %lane.name, messages = lane.messages(), "the uplink of this lane is back");
                    log.state_delete(VANISHED, lane.name.as_bytes())?;
                }
                continue;
            }
            let since = match noted.as_deref().map(<[u8; 8]>::try_from) {
                Some(Ok(bytes)) => u64::from_le_bytes(bytes),
                _ => {
                    log.state_put(VANISHED, lane.name.as_bytes(), &now.0.to_le_bytes())?;
                    now.0
                }
            };
            if lane.messages() > 0 {
                let messages = lane.messages();
                warn!(lane = %lane.name, messages, "no uplink is configured for this lane; its messages are kept for a while");
            }
            list.push(Vanished {
                lane: lane.name.to_string(),
                messages: lane.messages(),
                removed_at_ms: since.saturating_add(keep_secs.saturating_mul(1_000)),
                id: lane.id,
            });
        }
        Ok(VanishedLanes { list: Mutex::new(list) })
    }

    /// Those with messages.
    pub(crate) fn list(&self) -> Vec<Vanished> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().filter(|it| it.messages > 0).cloned().collect()
    }

    /// Takes one out whose time is over.
    fn take_due(&self, now: Timestamp) -> Option<Vanished> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let at = list.iter().position(|it| it.removed_at_ms <= now.0)?;
        Some(list.swap_remove(at))
    }
}

impl Disk {
    /// Removes at most one lane whose time is over: the deletion and its entry go with one commit.
    pub(super) fn remove_vanished(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let Some(gone) = self.state.vanished.take_due(now) else { return Ok(()) };
        let Ok(state) = self.log.lane_state(gone.id) else { return Ok(()) };
        if state.messages() > 0 {
            warn!(lane = %gone.lane, messages = state.messages(), "nobody configured its uplink again: the lane is removed");
            self.enter_remains(gone.id)?;
        }
        self.log.remove_lane(gone.id)?;
        self.log.state_delete(VANISHED, gone.lane.as_bytes())?;
        self.has_entries = true;
        Ok(())
    }

    /// All that is in a lane, but not what expired between and was told.
    fn enter_remains(&mut self, lane: LaneId) -> Result<(), StoreError> {
        let remains = self.log.remains_of(lane)?;
        let (apart, together) = apart_and_together(&remains);
        let mut entered = Ok(());
        for lost in apart {
            entered = entered.and(self.enter_range(Reason::Vanished, lost));
        }
        let name = self.lane_name(lane);
        entered.and(self.enter_parts(&name, Reason::Vanished, together))
    }
}

/// Ranges that are told by sender, and the rest in one.
fn apart_and_together(remains: &[Lost]) -> (&[Lost], Parts) {
    let (apart, rest) = remains.split_at(remains.len().min(RANGES_APART));
    let mut together = Parts::default();
    rest.iter().for_each(|lost| together.add_nobodys(lost));
    (apart, together)
}

/// The uplink that a lane's name speaks of, if it is one of an uplink: `u/NAME/PRIORITY` or `p/NAME`. A lane that lost its
/// name in a repair, `found/NUMBER`, is nobody's.
fn uplink_of(lane: &str) -> Option<&str> {
    if lane.starts_with("found/") {
        return Some(lane);
    }
    let rest = lane.strip_prefix("u/").or_else(|| lane.strip_prefix("p/"))?;
    rest.split('/').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP_SECS: u64 = 100;

    /// A store with a lane of an uplink with three messages, one of another, and one of a session.
    fn store(home: &tempfile::TempDir) -> store::Log {
        let mut log = store::Log::open(&store::Options::small(home.path().join("store"))).expect("a store");
        for name in ["u/plant/default", "u/cloud/0", "s/historian"] {
            let lane = log.lane(name).expect("there is room");
            for _ in 0..3 {
                log.append(lane, &[b"x"], Timestamp(0), None).expect("there is room");
            }
        }
        log.commit().expect("the disk takes it");
        log
    }

    fn load(log: &mut store::Log, is_configured: fn(&str) -> bool, now: u64) -> VanishedLanes {
        let lanes = VanishedLanes::load(log, is_configured, KEEP_SECS, Timestamp(now)).expect("readable");
        log.commit().expect("the disk takes it");
        lanes
    }

    #[test]
    fn the_time_counts_from_when_a_lane_was_first_missed_and_is_over_once() {
        let home = tempfile::tempdir().expect("a directory");
        let mut log = store(&home);
        let only_cloud: fn(&str) -> bool = |uplink| uplink == "cloud";
        let lanes = load(&mut log, only_cloud, 1_000);
        let shown: Vec<_> =
            lanes.list().into_iter().map(|it| (it.lane, it.messages, it.removed_at_ms)).collect();
        assert_eq!(shown, [("u/plant/default".to_owned(), 3, 101_000)]);
        // A restart in between begins nothing anew.
        let lanes = load(&mut log, only_cloud, 60_000);
        assert_eq!(lanes.take_due(Timestamp(100_999)), None);
        assert_eq!(lanes.take_due(Timestamp(101_000)).map(|it| it.lane).as_deref(), Some("u/plant/default"));
        assert_eq!(lanes.take_due(Timestamp(101_001)), None);
    }

    #[test]
    fn a_lane_that_was_wanted_again_has_its_whole_time_the_next_time() {
        let home = tempfile::tempdir().expect("a directory");
        let mut log = store(&home);
        load(&mut log, |_| false, 1_000);
        assert!(load(&mut log, |_| true, 100_000).list().is_empty());
        let lanes = load(&mut log, |_| false, 100_500);
        assert_eq!(lanes.list().len(), 2, "a session is nobody's uplink");
        assert_eq!(lanes.take_due(Timestamp(200_499)), None);
        assert!(lanes.take_due(Timestamp(200_500)).is_some());
    }

    #[test]
    fn ranges_above_those_with_entries_of_their_own_are_one_part() {
        let home = tempfile::tempdir().expect("a directory");
        let mut log = store::Log::open(&store::Options::small(home.path().join("store"))).expect("a store");
        let lane = log.lane("u/plant/default").expect("there is room");
        let (short, apart) = (Some(Timestamp(60_000)), RANGES_APART as u64);
        for place in 1..=2 * (apart + 6) {
            log.append(lane, &[b"x"], Timestamp(0), short.filter(|_| place % 2 == 0)).expect("there is room");
            log.commit().expect("the disk takes it");
        }
        log.expire(Timestamp(100_000)).expect("readable");
        let remains = log.remains_of(lane).expect("readable");
        let (named, together) = apart_and_together(&remains);
        let parts: Vec<_> = together.finish().collect();
        assert_eq!((named.len() as u64, parts.len()), (apart, 1));
        let expected = (Some((2 * apart + 1, 2 * apart + 11)), 6, 6 * remains[0].bytes);
        assert_eq!((parts[0].places, parts[0].messages, parts[0].bytes), expected);
    }
}
