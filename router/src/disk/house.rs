//! What the disk thread does between groups: what expired, what readers could not read, what a budget gives up, what
//! nobody wants any more; each with its entry in the ledger, in the same commit.
//!
//! In:  the time, the store's notes, the budget's verdict. Out: space, levels for the shards, entries.
//! Always: a directory that was taken away from under us is noticed here, also if nobody writes.
//! Invariant: a loss and its entry are written together; a loss that could not be written is written after the recovery.

use std::sync::atomic::Ordering;

use broker::{Loss, LossReason};
use model::LaneId;
use store::{CommitLog as _, LossKind, StoreError};
use tracing::{error, info, warn};

use super::Disk;
use super::losses::{Dropped, Entry, Reason, cut};
use super::whose::{Parts, parts_of};

impl Disk {
    /// Everything that is due.
    pub(super) fn keep_house(&mut self) {
        self.expire_fronts();
        if self.is_poisoned() {
            return;
        }
        if let Err(error) = self.try_keep_house() {
            match error {
                StoreError::Poisoned(_) => self.poison(&error),
                _ => warn!(%error, "space was not given back"),
            }
        }
    }

    fn try_keep_house(&mut self) -> Result<(), StoreError> {
        let now = self.clock.now().timestamp;
        self.log.check_place()?;
        self.enter_notes()?;
        let expired = self.log.expire(now)?;
        if let Some(error) = &expired.passed_by {
            warn!(%error, "a lane could not be looked at for what has expired");
        }
        let mut fresh = Vec::new();
        for lost in &expired.lost {
            for part in self.log.not_noted(lost) {
                self.state.expired.fetch_add(part.messages(), Ordering::Relaxed);
                self.enter_range(Reason::Expired, &part)?;
                fresh.push(part);
            }
        }
        say_what_expired(&expired.lost);
        self.note_expired_of(&fresh);
        // Damage that stood before what expired.
        self.enter_notes()?;
        self.remove_vanished(now)?;
        // What is taken out of a lane goes with its entries, and before space is given back.
        if self.has_entries || expired.collected {
            self.write_group()?;
        }
        self.much_to_reclaim = self.log.reclaim(now)? | expired.more;
        self.log.flush_cursors()
    }

    /// Looks at the space, tells the shards, and gives up what a policy gives up.
    pub(super) fn watch_space(&mut self) {
        if self.space.is_due()
            && let Err(error) = self.look_at_space()
        {
            self.poison(&error);
        }
    }

    /// Before a group is written that an uplink with `drop-oldest` has no room for: its oldest go in the same group.
    pub(super) fn make_room(&mut self) -> Result<(), StoreError> {
        if self.space.wants_room() { self.look_at_space() } else { Ok(()) }
    }

    /// Fails only if the store takes no writes.
    fn look_at_space(&mut self) -> Result<(), StoreError> {
        // What an upstream has already is given up by nobody, and takes no room.
        self.look_at_fronts(false);
        let reader = self.log.reader();
        let verdict = self.space.look(&reader, &self.state.room);
        self.tell_levels(|levels| {
            levels.store = verdict.store;
            levels.uplinks = verdict.uplinks.as_slice().into();
        });
        self.log.press(verdict.merge);
        if self.is_poisoned() || verdict.drops.is_empty() {
            return Ok(());
        }
        for (at, bytes) in verdict.drops {
            let lane = self.space.lane(at);
            match self.give_up(lane, bytes) {
                Err(error @ StoreError::Poisoned(_)) => return Err(error),
                // It writes all the same: acknowledgements need not wait for what cannot be read.
                Err(error) => warn!(%error, %lane, "the oldest messages of a lane could not be given up"),
                Ok(()) => {}
            }
        }
        self.keep_house();
        Ok(())
    }

    fn give_up(&mut self, lane: LaneId, bytes: u64) -> Result<(), StoreError> {
        self.write_front_to_drop(lane, bytes)?;
        for lost in self.log.drop_oldest(lane, bytes)? {
            self.enter_range(Reason::DropOldest, &lost)?;
        }
        Ok(())
    }

    /// What sinks did not get.
    pub(super) fn enter_losses(&mut self, losses: Vec<Loss>) {
        for loss in losses {
            let lane = self.lane_name(loss.lane);
            let routes = self.state.routes();
            let entry = Entry {
                lane: cut(&lane),
                route: loss.route.and_then(|route| routes.name(route)).map(cut),
                sender: Some(cut(&loss.sender)).filter(|sender| !sender.is_empty()),
                reason: match loss.reason {
                    LossReason::SinkFull => Reason::SinkFull,
                    LossReason::StoreFails => Reason::StoreFails,
                },
                places: None,
                messages: loss.count,
                bytes: loss.bytes,
                first_ms: loss.from.0,
                last_ms: loss.up_to.0,
            };
            self.enter_or_keep(entry);
        }
    }

    /// What is dropped from a poison lane by what was staged just before.
    pub(super) fn enter_dropped(&mut self, dropped: &[Dropped]) {
        let now = self.clock.now().timestamp;
        for dropped in dropped {
            if dropped.reason == Reason::Expired {
                self.state.expired.fetch_add(dropped.lost.messages(), Ordering::Relaxed);
                self.note_expired_unknown(dropped.lost.messages());
            }
            self.enter_or_keep(Entry::dropped(&self.lane_name(dropped.lost.lane), dropped, now));
        }
    }

    /// While the store is poisoned the entry waits in memory, like everything else.
    pub(super) fn enter_or_keep(&mut self, entry: Entry) {
        if let Err(error) = self.enter(entry)
            && !matches!(error, StoreError::Poisoned(_))
        {
            warn!(%error, "an entry of the loss ledger was not written");
        }
    }

    /// What readers came across.
    fn enter_notes(&mut self) -> Result<(), StoreError> {
        let (losses, forgotten) = self.log.take_losses();
        if forgotten > 0 {
            warn!(
                messages = forgotten,
                "more was lost at once than the loss ledger has room for; they are counted only"
            );
            self.state.unnoted.fetch_add(forgotten, Ordering::Relaxed);
        }
        let is_expired = |loss: &store::Loss| matches!(loss.kind, LossKind::Expired).then_some(loss.lost);
        self.note_expired_of(&losses.iter().filter_map(is_expired).collect::<Vec<_>>());
        for loss in losses {
            let reason = match loss.kind {
                LossKind::Expired => Reason::Expired,
                LossKind::Damaged => {
                    self.set_aside(&loss.lost);
                    Reason::Damaged
                }
            };
            self.enter_range(reason, &loss.lost)?;
        }
        Ok(())
    }

    fn set_aside(&self, lost: &store::Lost) {
        self.state.quarantined.fetch_add(1, Ordering::Relaxed);
        match self.log.set_aside(lost) {
            Ok(bytes) => error!(
                lane = %lost.lane, from = %lost.from, up_to = %lost.up_to, bytes,
                "stored messages are damaged: they are set aside in quarantine and stand in the loss ledger, the rest goes on; \
                 look at the disk"
            ),
            Err(error) => {
                error!(%error, lane = %lost.lane, from = %lost.from, up_to = %lost.up_to, "damaged messages could not be set aside")
            }
        }
    }

    /// A range of places, by sender where the records are still there. After an error all of it stands in memory.
    pub(super) fn enter_range(&mut self, reason: Reason, lost: &store::Lost) -> Result<(), StoreError> {
        let lane = self.lane_name(lost.lane);
        let parts = match reason {
            Reason::Damaged => Parts::nobodys(lost),
            _ => parts_of(&self.log.reader(), &lane, lost),
        };
        self.enter_parts(&lane, reason, parts)
    }

    pub(super) fn enter_parts(&mut self, lane: &str, reason: Reason, parts: Parts) -> Result<(), StoreError> {
        let (now, routes) = (self.clock.now().timestamp, self.state.routes());
        let mut entered = Ok(());
        for part in parts.finish() {
            let entry = Entry::part(lane, routes.to_lane(lane), reason, &part, now);
            entered = entered.and(self.enter(entry));
        }
        entered
    }

    pub(super) fn enter(&mut self, entry: Entry) -> Result<(), StoreError> {
        self.has_entries = true;
        self.state.ledger.add(&mut self.log, entry)
    }

    pub(super) fn lane_name(&self, lane: LaneId) -> String {
        self.log.lane_state(lane).map_or_else(|_| lane.to_string(), |it| it.name.to_string())
    }
}

/// One line for each lane in a row, however many ranges there are.
fn say_what_expired(lost: &[store::Lost]) {
    for of_lane in lost.chunk_by(|one, next| one.lane == next.lane) {
        let messages: u64 = of_lane.iter().map(store::Lost::messages).sum();
        if let (Some(first), Some(last)) = (of_lane.first(), of_lane.last()) {
            info!(lane = %first.lane, messages, from = %first.from, up_to = %last.up_to, "messages expired undelivered");
        }
    }
}
