//! Poison lanes: where messages go that an upstream never accepts, and how operators take them out again.
//!
//! In: messages to move aside, from uplinks; what to send again or drop, from the control door. Out: trays for the disk
//! thread, and an answer once each is durable.
//! Always: a message is durable in its poison lane before its own place counts as delivered, and durable in its own lane
//! again before its place here does (one tray). A place in the middle of a poison lane that is done with is noted in
//! the small durable state until the head passes it. What a store that fails does not give now is moved later.
//! Bound: `poison_messages_max` and `poison_bytes_max` of each uplink; above them the oldest goes. Whatever goes
//! stands in the loss ledger, written together.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use broker::uplink::{Aside, Poison};
use broker::{AppendTray, Envelope, Rooms, StateSpace, Write};
use crossbeam::channel::{Sender, TrySendError};
use model::{LaneId, Seq, ShardId, SpillTicket, Ticket, Timestamp};
use serde::{Deserialize, Serialize};
use store::{ReadLimits, ReadOut, Reader, StoreError};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::faults::{Act, Faults};
use super::{LinkStatus, Source};
use crate::clock::Clock;
use crate::disk::{Dropped, Job, Reason, space_of};
use crate::mail::Mailbox;

/// Messages that one tray moves; the next ones wait for it.
const TRAY_MESSAGES_MAX: usize = 64;
/// Bytes after which a tray is full.
const TRAY_BYTES_MAX: usize = 1 << 20;
/// How soon a full queue of the disk thread is tried again.
const AGAIN: Duration = Duration::from_millis(20);
/// How soon a store that cannot be read is.
const UNREADABLE: Duration = Duration::from_secs(1);

/// What an operator wants done with messages in a poison lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Back to the end of the lane they come from.
    Retry,
    /// Away.
    Drop,
}

/// A command for one uplink.
#[derive(Debug)]
pub(crate) struct Command {
    /// Which uplink.
    pub uplink: String,
    /// What.
    pub action: Action,
    /// Which places; `None` for all that are there now.
    pub places: Option<BTreeSet<Seq>>,
    /// What became of them, or why nothing.
    pub reply: oneshot::Sender<Result<Obeyed, String>>,
}

/// What became of the messages of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Obeyed {
    /// Sent again, or dropped.
    pub messages: u64,
    /// Not sent again, since they have expired: they are gone, and in the ledger.
    pub expired: u64,
    /// Still there, since they cannot be sent again.
    pub left: u64,
    /// Why the first of those cannot.
    pub why: Option<String>,
}

/// Why a message does not go back.
enum NotBack {
    Expired,
    Impossible(String),
}

/// One uplink, as this room knows it.
pub(crate) struct PoisonLane {
    /// Its name.
    pub uplink: String,
    /// Its poison lane.
    pub lane: LaneId,
    /// Messages there.
    pub messages_max: u64,
    /// Bytes there.
    pub bytes_max: u64,
    /// For people.
    pub status: Arc<LinkStatus>,
}

/// What an uplink asks for, and hears of.
#[derive(Debug, Default)]
pub(super) struct Tray {
    /// To be moved aside.
    pub(super) asides: VecDeque<Aside>,
    /// These places are done with.
    pub(super) done: Vec<(LaneId, Seq)>,
}

/// What an uplink shares with the keeper.
pub(super) type SharedTray = Rc<RefCell<Tray>>;

/// How the keeper writes: like a shard, with a number, a mailbox and tickets of its own.
pub(crate) struct DiskAccess {
    /// Its number for the disk thread.
    pub shard: ShardId,
    /// Where the disk thread takes jobs.
    pub jobs: Sender<Job>,
    /// Where it says how far it is.
    pub mailbox: Arc<Mailbox>,
    /// Reads.
    pub source: Source,
    /// What waits for uplinks with a bound.
    pub rooms: Arc<Rooms>,
}

/// The keeper of all poison lanes; one task.
pub(super) struct Keeper {
    disk: DiskAccess,
    lanes: Vec<(PoisonLane, SharedTray, Arc<super::Bell>)>,
    commands: mpsc::Receiver<Command>,
    last: Ticket,
    clock: Clock,
    records: ReadOut,
    faults: Faults,
}

impl Keeper {
    pub(super) fn new(
        disk: DiskAccess,
        lanes: Vec<(PoisonLane, SharedTray, Arc<super::Bell>)>,
        commands: mpsc::Receiver<Command>,
    ) -> Keeper {
        let (last, clock) = (Ticket(0), Clock::default());
        Keeper { disk, lanes, commands, last, clock, records: ReadOut::new(), faults: Faults::default() }
    }

    /// Keeps until the uplinks are gone; `rang` wakes it when one of them has put something on its tray.
    pub(super) async fn run(mut self, rang: Rc<tokio::sync::Notify>) {
        loop {
            tokio::select! {
                () = rang.notified() => {}
                () = tokio::time::sleep(UNREADABLE), if self.faults.has(Act::Read) => {}
                command = self.commands.recv() => match command {
                    Some(command) => {
                        let result = self.obey(&command).await;
                        // Who asked may have gone.
                        drop(command.reply.send(result));
                    }
                    None => return,
                },
            }
            for index in 0..self.lanes.len() {
                while self.move_aside(index).await {}
            }
        }
    }

    /// Moves some messages of one uplink aside; whether there may be more.
    async fn move_aside(&mut self, index: usize) -> bool {
        let (lane, tray, bell) = &self.lanes[index];
        let asides: Vec<Aside> = {
            let mut tray = tray.borrow_mut();
            let count = tray.asides.len().min(TRAY_MESSAGES_MAX).min(lane.messages_max as usize);
            tray.asides.drain(..count).collect()
        };
        if asides.is_empty() {
            return false;
        }
        let (tray, bell, status) = (Rc::clone(tray), Arc::clone(bell), Arc::clone(&lane.status));
        let mut appends = AppendTray::default();
        let mut bytes = Vec::new();
        let (mut done, mut rest) = (Vec::new(), VecDeque::new());
        let mut is_unreadable = false;
        for aside in asides {
            if is_unreadable || appends.bytes.len() >= TRAY_BYTES_MAX {
                rest.push_back(aside);
                continue;
            }
            bytes.clear();
            let Some(is_there) = self.encode(&aside, &mut bytes, &status) else {
                is_unreadable = true;
                rest.push_back(aside);
                continue;
            };
            done.push((aside.lane, aside.seq));
            if is_there {
                let (uplink, seq, why) = (&self.lanes[index].0.uplink, aside.seq, aside.why);
                warn!(%uplink, lane = %aside.lane, %seq, attempts = aside.attempts, %why, "message moved into the poison lane");
                let (lane, enqueued) = (self.lanes[index].0.lane, self.clock.now().timestamp);
                let len = bytes.len() as u32;
                appends.writes.push(Write::Record {
                    lane,
                    len,
                    enqueued,
                    expires: None,
                    spill: SpillTicket(0),
                });
                appends.bytes.extend_from_slice(&bytes);
            }
        }
        let dropped = self.make_room(index, &mut appends);
        let moved = appends.writes.iter().filter(|write| matches!(write, Write::Record { .. })).count();
        self.write(appends, dropped).await;
        status.poisoned.fetch_add(moved as u64, std::sync::atomic::Ordering::Relaxed);
        let mut shared = tray.borrow_mut();
        shared.done.extend(done);
        rest.into_iter().rev().for_each(|aside| shared.asides.push_front(aside));
        bell.ring();
        !shared.asides.is_empty() && !is_unreadable
    }

    /// The record for the poison lane; false if the message is not there any more, `None` if the store does not say now.
    fn encode(&mut self, aside: &Aside, bytes: &mut Vec<u8>, status: &LinkStatus) -> Option<bool> {
        // It may be in memory alone; in the poison lane it is on the disk.
        let limits = ReadLimits { messages_max: 1, bytes_max: 1 };
        let ever = Timestamp::default();
        let read = self.disk.source.read_lane(aside.lane, aside.seq, limits, ever, &mut self.records);
        let (lane, now) = (aside.lane, self.clock.now().instant);
        match read {
            Ok(()) | Err(StoreError::Damaged { .. } | StoreError::UnknownLane(_)) => {
                if self.faults.went_well(Act::Read, lane, Some(aside.seq.next()), now).is_some() {
                    info!(%lane, "messages that are to be moved aside can be read again");
                }
            }
            Err(error) => {
                status.store_faults.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if self.faults.failed(Act::Read, lane, Some(aside.seq), now) {
                    warn!(%lane, %error, "messages that are to be moved aside cannot be read; they wait");
                }
                return None;
            }
        }
        let Some(record) = self.records.records().next().filter(|record| record.seq == aside.seq) else {
            warn!(%lane, seq = %aside.seq, "a message that was to be moved aside is gone; the loss ledger says why");
            return Some(false);
        };
        let poison = Poison {
            why: aside.why,
            attempts: aside.attempts,
            lane: aside.lane,
            seq: aside.seq,
            moved: self.clock.now().timestamp,
            enqueued: record.enqueued,
            expires: record.expires,
            record: record.bytes,
        };
        poison.encode(bytes);
        Some(true)
    }

    /// Drops the oldest messages of a poison lane that is too large with what `appends` brings; which ones, for the
    /// ledger.
    fn make_room(&mut self, index: usize, appends: &mut AppendTray) -> Vec<Dropped> {
        let lane = &self.lanes[index].0;
        let Ok(state) = self.disk.source.log().lane_state(lane.lane) else { return Vec::new() };
        let messages = state.messages() + appends.writes.len() as u64;
        let mut bytes = state.bytes + appends.bytes.len() as u64;
        let mut too_many = messages.saturating_sub(lane.messages_max);
        let gone = done_places(self.disk.source.log(), lane.lane).unwrap_or_default();
        let (mut next, mut dropped) = (state.head, Vec::new());
        while next < state.tail && (too_many > 0 || bytes > lane.bytes_max) {
            let one = dropped_one(self.disk.source.log(), lane.lane, next, &mut self.records);
            bytes = bytes.saturating_sub(one.lost.bytes);
            too_many = too_many.saturating_sub(1);
            if !gone.contains(&next) {
                note_dropped(&mut dropped, one);
            }
            next = next.next();
        }
        if next == state.head {
            return dropped;
        }
        let count: u64 = dropped.iter().map(|it| it.lost.messages()).sum();
        lane.status.poison_dropped.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        warn!(uplink = %lane.uplink, dropped = count, "the poison lane is full; its oldest messages are dropped");
        let places = (state.head.get()..next.get()).filter_map(Seq::new).collect();
        settle(lane.lane, state.head, gone, &places, appends);
        dropped
    }

    async fn obey(&mut self, command: &Command) -> Result<Obeyed, String> {
        let named = |(lane, _, _): &&(PoisonLane, _, _)| lane.uplink == command.uplink;
        let at = self.lanes.iter().position(|lane| named(&lane));
        let found = at.map(|at| (at, self.lanes[at].0.lane, Arc::clone(&self.lanes[at].0.status)));
        let Some((uplink, lane, status)) = found else {
            return Err(format!("there is no uplink {:?}", command.uplink));
        };
        let clear = |error: StoreError| error.to_string();
        let mut all = places(self.disk.source.log(), lane).map_err(clear)?;
        if let Some(wanted) = &command.places {
            if let Some(missing) = wanted.iter().find(|seq| !all.contains(seq)) {
                return Err(format!(
                    "there is no message {missing} in the poison lane of {}",
                    command.uplink
                ));
            }
            all.clone_from(wanted);
        }
        let mut obeyed = Obeyed::default();
        let mut rest = all.into_iter().peekable();
        while rest.peek().is_some() {
            let mut appends = AppendTray::default();
            let (mut done, mut dropped) = (BTreeSet::new(), Vec::new());
            let before = obeyed.messages;
            for seq in rest.by_ref() {
                match command.action {
                    Action::Retry => match self.put_back(lane, seq, &mut appends) {
                        Ok(()) => obeyed.messages += 1,
                        // Who asks for all of them means those that can go; who names one is told.
                        Err(NotBack::Expired) if command.places.is_none() => {
                            let one = dropped_one(self.disk.source.log(), lane, seq, &mut self.records);
                            note_dropped(&mut dropped, Dropped { reason: Reason::Expired, ..one });
                            obeyed.expired += 1;
                        }
                        Err(NotBack::Impossible(why)) if command.places.is_none() => {
                            obeyed.left += 1;
                            obeyed.why.get_or_insert(why);
                            continue;
                        }
                        Err(why) => return Err(why.says(seq)),
                    },
                    Action::Drop => {
                        let one = dropped_one(self.disk.source.log(), lane, seq, &mut self.records);
                        note_dropped(&mut dropped, one);
                        obeyed.messages += 1;
                    }
                }
                done.insert(seq);
                if done.len() >= TRAY_MESSAGES_MAX || appends.bytes.len() >= TRAY_BYTES_MAX {
                    break;
                }
            }
            let state = self.disk.source.log().lane_state(lane).map_err(clear)?;
            let gone = done_places(self.disk.source.log(), lane).map_err(clear)?;
            self.take_room(uplink as u32, &appends);
            settle(lane, state.head, gone, &done, &mut appends);
            self.write(appends, dropped).await;
            let counter = match command.action {
                Action::Retry => &status.poison_retried,
                Action::Drop => &status.poison_dropped,
            };
            counter.fetch_add(obeyed.messages - before, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(obeyed)
    }

    /// What goes back into the lanes of an uplink counts there, whether there is room or not: somebody asked for it.
    fn take_room(&self, uplink: u32, appends: &AppendTray) {
        for write in &appends.writes {
            if let Write::Record { len, .. } = write {
                self.disk.rooms.take_anyway(uplink, u64::from(*len));
            }
        }
    }

    fn put_back(&mut self, lane: LaneId, seq: Seq, appends: &mut AppendTray) -> Result<(), NotBack> {
        let impossible = |why: String| NotBack::Impossible(format!("message {seq}{why}"));
        let record = read_one(self.disk.source.log(), lane, seq, &mut self.records);
        let record = record.ok_or_else(|| impossible(" cannot be read".to_owned()))?;
        let poison = Poison::decode(record.bytes).map_err(|error| impossible(format!(": {error}")))?;
        if poison.expires.is_some_and(|at| at <= self.clock.now().timestamp) {
            return Err(NotBack::Expired);
        }
        if self.disk.source.log().lane_state(poison.lane).is_err() {
            return Err(impossible(": the lane it comes from is gone".to_owned()));
        }
        let len = poison.record.len() as u32;
        let (enqueued, expires) = (poison.enqueued, poison.expires);
        appends.writes.push(Write::Record {
            lane: poison.lane,
            len,
            enqueued,
            expires,
            spill: SpillTicket(0),
        });
        appends.bytes.extend_from_slice(poison.record);
        Ok(())
    }

    /// Returns once it is durable, with what it drops in the ledger. With a disk that fails that is when it works again.
    async fn write(&mut self, mut appends: AppendTray, dropped: Vec<Dropped>) {
        if appends.is_empty() {
            return;
        }
        self.last = Ticket(self.last.0 + appends.writes.len() as u64);
        appends.last = self.last;
        let (shard, tray) = (self.disk.shard, appends);
        let mut job =
            if dropped.is_empty() { Job::Append { shard, tray } } else { Job::Drop { shard, tray, dropped } };
        while let Err(refused) = self.disk.jobs.try_send(job) {
            match refused {
                TrySendError::Full(back) => job = back,
                TrySendError::Disconnected(_) => return, // the router stops
            }
            tokio::time::sleep(AGAIN).await;
        }
        while self.disk.mailbox.durable_up_to().0 < self.last {
            self.disk.mailbox.wait().await;
        }
    }
}

impl NotBack {
    /// For who asked for this message.
    fn says(self, seq: Seq) -> String {
        match self {
            NotBack::Expired => {
                format!("message {seq} has expired: nobody would get it; drop it, or retry the others")
            }
            NotBack::Impossible(why) => why,
        }
    }
}

/// The name of an uplink's poison lane.
pub(crate) fn poison_lane_name(uplink: &str) -> String {
    format!("p/{uplink}")
}

/// One record, whether it has expired or not.
pub(crate) fn read_one<'o>(
    reader: &Reader,
    lane: LaneId,
    seq: Seq,
    out: &'o mut ReadOut,
) -> Option<store::Record<'o>> {
    let limits = ReadLimits { messages_max: 1, bytes_max: 1 };
    // At the beginning of time nothing has expired.
    reader.read_lane(lane, seq, limits, Timestamp::default(), out).ok()?;
    out.records().next().filter(|record| record.seq == seq)
}

/// A message of a poison lane that is dropped, as the ledger has it. One that cannot be read counts, too.
pub(crate) fn dropped_one(reader: &Reader, lane: LaneId, seq: Seq, out: &mut ReadOut) -> Dropped {
    let record = read_one(reader, lane, seq, out).map_or(&[][..], |record| record.bytes);
    let envelope = Poison::decode(record).ok().and_then(|poison| Envelope::decode(poison.record).ok());
    let bytes = (record.len() + store::RECORD_OVERHEAD_BYTES) as u64;
    Dropped {
        lost: store::Lost { lane, from: seq, up_to: seq, bytes },
        reason: Reason::PoisonDropped,
        sender: envelope.map(|it| it.client_id.to_owned()),
    }
}

/// Adds a message behind the others: one range, as long as nothing is missing in between.
pub(crate) fn note_dropped(dropped: &mut Vec<Dropped>, next: Dropped) {
    match dropped.last_mut() {
        Some(last) if last.lost.up_to.next() == next.lost.from && last.reason == next.reason => {
            last.lost.up_to = next.lost.up_to;
            last.lost.bytes += next.lost.bytes;
            last.sender = last.sender.take().filter(|sender| next.sender.as_ref() == Some(sender));
        }
        _ => dropped.push(next),
    }
}

/// The places of a poison lane that hold a message.
pub(crate) fn places(reader: &Reader, lane: LaneId) -> Result<BTreeSet<Seq>, StoreError> {
    let state = reader.lane_state(lane)?;
    let gone = done_places(reader, lane)?;
    let all = (state.head.get()..state.tail.get()).filter_map(Seq::new);
    Ok(all.filter(|seq| !gone.contains(seq)).collect())
}

/// The places in the middle that are done with.
pub(crate) fn done_places(reader: &Reader, lane: LaneId) -> Result<BTreeSet<Seq>, StoreError> {
    let mut places = BTreeSet::new();
    reader.state_scan(space_of(StateSpace::Poison), &lane.0.to_be_bytes(), &mut |key, _| {
        let place = key.get(4..12).and_then(|place| place.try_into().ok()).map(u64::from_be_bytes);
        places.extend(place.and_then(Seq::new));
        ControlFlow::Continue(())
    })?;
    Ok(places)
}

/// Writes that these places are done with, the head and the notes.
pub(crate) fn settle(
    lane: LaneId,
    head: Seq,
    gone: BTreeSet<Seq>,
    places: &BTreeSet<Seq>,
    tray: &mut AppendTray,
) {
    let mut next = head;
    while gone.contains(&next) || places.contains(&next) {
        next = next.next();
    }
    for seq in places.iter().filter(|seq| **seq > next) {
        tray.bytes.extend_from_slice(&key(lane, *seq));
        tray.writes.push(Write::Put { space: StateSpace::Poison, key_len: 12, len: 0 });
    }
    for seq in gone.range(..next) {
        tray.bytes.extend_from_slice(&key(lane, *seq));
        tray.writes.push(Write::Delete { space: StateSpace::Poison, key_len: 12 });
    }
    if next > head
        && let Some(up_to) = Seq::new(next.get() - 1)
    {
        tray.writes.push(Write::Advance { lane, up_to });
    }
}

fn key(lane: LaneId, seq: Seq) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&lane.0.to_be_bytes());
    key[4..].copy_from_slice(&seq.get().to_be_bytes());
    key
}

#[cfg(test)]
mod tests;
