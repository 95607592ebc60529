//! Shared subscriptions at work: who of a group gets a publication, and what becomes of it when that member leaves.
//!
//! In: a publication and the groups its topic met; members that come, go and leave something behind. Out: one delivery
//! for each group, here or in another shard.
//! Always: a member that is connected and has room comes before one that has none, and that before one that is away.
//! A QoS 1 message that its member has not acknowledged when its session ends goes to another member; a QoS 2 message
//! whose delivery has begun does not [MQTT-4.8.2-5], nor does one that a member refused [MQTT-4.8.2-6].

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::rc::Rc;

use model::{ConnId, Now, Qos, Seq, ShardId, Timestamp};

use crate::acks::{Acks, Answer, NOBODY, Promise};
use crate::broker::{Broker, RecordRead};
use crate::connections::Phase;
use crate::delivery::{fits_queue, has_room};
use crate::dispatch::{Given, Publication, Way};
use crate::effects::{Control, Effects, Request};
use crate::envelope::Envelope;
use crate::sessions::record::decode_head;
use crate::sessions::{Session, Stored};
use crate::subscriptions::shares::{Member, ShareKey};
use crate::subscriptions::{SessionKey, Shards};

/// How well a member could take a message now; more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Room {
    /// Not at all: it would be dropped, and counted.
    None,
    /// Its client is away; it waits on disk.
    Away,
    /// In its queue, or on disk behind others.
    Queue,
    /// At once.
    Now,
}

/// A QoS 1 message that a clean session got from a group and has not acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Lent {
    /// Of its PUBLISH; `None` if that was not sent yet.
    pub(crate) packet_id: Option<NonZeroU16>,
    /// The session record.
    pub(crate) record: Rc<[u8]>,
    /// When it is worth nothing any more.
    pub(crate) expires: Option<Timestamp>,
}

/// A stored session that has ended and left messages of its groups on disk. It is deleted once they are safe elsewhere.
#[derive(Debug)]
pub(crate) struct Estate {
    session: Session,
    stored: Stored,
    /// Its number, from the first read.
    id: u32,
    /// The read under way; `None` until the next tick if the disk was not that far.
    read: Option<u32>,
    /// Promises of what was passed on that are not kept yet.
    needs: u32,
    /// Connections that wait for the end: their client wants a new session.
    waiting: Vec<ConnId>,
}

/// One group of another shard that a publication goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lot {
    pub(crate) shard: ShardId,
    pub(crate) group: ShareKey,
}

impl Broker {
    /// Sends a publication to one member of each group: those of this shard at once, the others onto `lots`.
    /// Returns the shards of `lots`, and which of them must keep it.
    pub(crate) fn share_out(
        &mut self,
        groups: &[ShareKey],
        publication: &Publication<'_>,
        lots: &mut Vec<Lot>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) -> (bool, Shards) {
        let (own, durable) = (self.setup.shard, publication.envelope.qos != Qos::AtMostOnce);
        let (mut matched, mut to) = (false, Shards::default());
        for &key in groups {
            let group = self.subscriptions.shares.group_mut(key);
            let Some(mut shard) = group.draw(own, durable) else { continue };
            matched = true;
            if shard == own {
                let picked = self.pick(key, durable);
                let group = self.subscriptions.shares.group_mut(key);
                let elsewhere = match picked {
                    Some((_, Room::Now | Room::Queue)) => None,
                    Some((_, Room::Away)) => group.draw_elsewhere(own, false),
                    Some((_, Room::None)) | None => group.draw_elsewhere(own, durable),
                };
                match (elsewhere, picked) {
                    (Some(other), _) => shard = other,
                    (None, Some((index, _))) => {
                        self.give(key, index, publication, promise, effects);
                        continue;
                    }
                    (None, None) => continue,
                }
            }
            lots.push(Lot { shard, group: key });
            to.any |= 1 << shard.0;
            if durable && self.subscriptions.shares.group(key).is_kept_by(shard) {
                to.kept |= 1 << shard.0;
            }
        }
        (matched, to)
    }

    /// Another shard has drawn this one: a member here gets it. If nobody is left, QoS 0 goes on to another shard; the rest
    /// goes back, because the promise is made there.
    pub(crate) fn take_share(
        &mut self,
        name: &str,
        publication: &Publication<'_>,
        given: Given<'_>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) {
        let durable = publication.envelope.qos != Qos::AtMostOnce;
        let key = self.subscriptions.shares.find(name);
        match key.and_then(|key| Some((key, self.pick(key, durable)?))) {
            Some((key, (index, _))) => self.give(key, index, publication, promise, effects),
            None if durable => {
                let (group, publication) = (name.into(), given.bytes.into());
                let handoff = given.handoff;
                effects.controls.push((given.from, Control::Returned { handoff, group, publication }));
            }
            None => self.share_again(name, publication, &mut Promise::default(), effects),
        }
    }

    /// Gives a message of a group whose member is gone to another member.
    pub(crate) fn share_again(
        &mut self,
        name: &str,
        publication: &Publication<'_>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) {
        self.scratch.frames.clear();
        let Some(key) = self.subscriptions.shares.find(name) else {
            self.counters.dropped_share_empty += 1;
            return;
        };
        let mut lots = std::mem::take(&mut self.scratch.lots);
        lots.clear();
        let (matched, to) = self.share_out(&[key], publication, &mut lots, promise, effects);
        if to.any != 0 {
            self.hand_off(publication, Way { ordinary: 0, to, version: 0, lots: &lots }, promise, effects);
        }
        self.scratch.lots = lots;
        self.counters.shared_again += u64::from(matched);
        self.counters.dropped_share_empty += u64::from(!matched);
    }

    fn give(
        &mut self,
        key: ShareKey,
        index: usize,
        publication: &Publication<'_>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) {
        let group = self.subscriptions.shares.group_mut(key);
        group.took(index);
        let Some(entry) = group.members().find(|(have, _)| *have == index).map(|(_, member)| member.entry)
        else {
            return;
        };
        let name: Rc<str> = group.name();
        self.counters.shared += 1;
        let ticket = self.deliver(&[entry], &name, publication, effects);
        promise.ticket = promise.ticket.max(ticket);
    }

    /// The member of this shard whose turn it is: the first that has room now, else the one that has most.
    fn pick(&self, key: ShareKey, durable: bool) -> Option<(usize, Room)> {
        let mut best = None;
        for (index, member) in self.subscriptions.shares.group(key).members() {
            let room = self.room_of(member, durable);
            if room == Room::Now {
                return Some((index, room));
            }
            if best.is_none_or(|(_, have)| room > have) {
                best = Some((index, room));
            }
        }
        best
    }

    fn room_of(&self, member: &Member, durable: bool) -> Room {
        let limits = &self.setup.limits;
        let Some(session) = self.sessions.get(member.entry.session.0 as usize) else { return Room::None };
        let durable = durable && member.entry.qos != Qos::AtMostOnce;
        let connection = session.conn.and_then(|conn| self.connections.get(conn));
        let connection = connection.filter(|connection| matches!(connection.phase, Phase::Open(_)));
        let stored = session.stored();
        let on_disk =
            durable && stored.is_some_and(|stored| stored.backlog() < limits.session_stored_messages_max);
        let Some(connection) = connection else { return if on_disk { Room::Away } else { Room::None } };
        let full = self.is_memory_full();
        if !durable {
            let takes = !full && connection.outbox.len() <= limits.outbox_bytes_max as usize;
            return if takes { Room::Now } else { Room::None };
        }
        let is_live = stored.is_none_or(Stored::is_live);
        let seq = stored.map(|stored| stored.next);
        if is_live && !full && session.queue.is_empty() && has_room(connection, session, seq, limits) {
            Room::Now
        } else if on_disk || stored.is_none() && !full && fits_queue(session, limits) {
            Room::Queue
        } else {
            Room::None
        }
    }

    /// The client of a session is there now, or away: its groups hear of it.
    pub(crate) fn announce_member(&mut self, key: SessionKey, live: bool, effects: &mut Effects) {
        let Some(session) = self.sessions.get(key.0 as usize) else { return };
        let names: Vec<Box<str>> = session.shared_filters().map(Into::into).collect();
        for name in names {
            if self.subscriptions.set_live(&name, key, live) {
                self.announce(&name, None, effects);
            }
        }
    }

    /// What a clean session would take with it: QoS 1 messages of its groups that it has not acknowledged, and what it
    /// was never sent.
    pub(crate) fn take_lent(&mut self, key: SessionKey) -> VecDeque<Lent> {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return VecDeque::new() };
        if session.is_stored() || self.stopping {
            return VecDeque::new();
        }
        let mut lent = session.lent.clone();
        let queued = session.queue.iter();
        lent.extend(queued.filter(|queued| is_shared(&queued.record)).map(|queued| Lent {
            packet_id: None,
            record: Rc::clone(&queued.record),
            expires: queued.expires,
        }));
        lent
    }

    /// Gives what a clean session has left behind to other members.
    pub(crate) fn pass_on(&mut self, lent: VecDeque<Lent>, now: Now, effects: &mut Effects) {
        for Lent { record, expires, .. } in lent {
            self.pass_on_record(&record, expires, now, &mut Promise::default(), effects);
        }
    }

    fn pass_on_record(
        &mut self,
        record: &[u8],
        expires: Option<Timestamp>,
        now: Now,
        promise: &mut Promise,
        effects: &mut Effects,
    ) {
        let Ok(head) = decode_head(record) else { return };
        let (Ok(envelope), false) = (Envelope::decode(head.envelope), head.share.is_empty()) else { return };
        if expires.is_some_and(|at| at <= now.timestamp) {
            self.counters.dropped_expired += 1;
            return;
        }
        self.share_again(
            head.share,
            &Publication { envelope, user: "", expires, now, hub: None, is_written: true, input: None },
            promise,
            effects,
        );
    }

    /// A stored session has ended. If it was in groups and its lane is not empty, what belongs to them is passed on
    /// first; gives the session back if there is nothing to do.
    pub(crate) fn inherit(&mut self, session: Session, effects: &mut Effects) -> Option<Session> {
        let Some(stored) = session.stored().copied() else { return Some(session) };
        if self.stopping || !session.shares || stored.backlog() == 0 {
            return Some(session);
        }
        let stored = Stored { read_to: stored.head, ..stored };
        let mut estate = Estate { session, stored, id: 0, read: None, needs: 0, waiting: Vec::new() };
        self.read_estate(&mut estate, effects);
        estate.id = self.reads;
        self.estates.push(estate);
        None
    }

    fn read_estate(&mut self, estate: &mut Estate, effects: &mut Effects) {
        self.reads = self.reads.wrapping_add(1);
        estate.read = Some(self.reads);
        effects.requests.push(Request::ReadLane {
            session: SessionKey(u32::MAX),
            generation: self.reads,
            lane: estate.stored.lane,
            from: estate.stored.read_to,
            bytes_max: self.setup.limits.session_queue_bytes_max / 4,
            expired_too: false,
        });
    }

    /// Asks again where the last answer was empty.
    pub(crate) fn read_estates(&mut self, effects: &mut Effects) {
        for mut estate in std::mem::take(&mut self.estates) {
            if estate.read.is_none() && !estate.stored.is_live() {
                self.read_estate(&mut estate, effects);
            }
            self.estates.push(estate);
        }
    }

    /// Part of the lane of an ended session was read; `false` if no estate waits for this read.
    pub(crate) fn on_estate_read(
        &mut self,
        read: u32,
        records: &[RecordRead],
        next: Seq,
        now: Now,
        effects: &mut Effects,
    ) -> bool {
        let Some(at) = self.estates.iter().position(|estate| estate.read == Some(read)) else { return false };
        let mut estate = self.estates.swap_remove(at);
        let mut promise = Promise::default();
        for RecordRead { seq, expires, bytes } in records {
            let sent = *seq < estate.stored.sent_before;
            let begun = sent && decode_head(bytes).is_ok_and(|head| head.qos == Qos::ExactlyOnce);
            let done = begun || estate.session.marks.contains_key(seq);
            if !done && *seq < estate.stored.next {
                self.pass_on_record(bytes, *expires, now, &mut promise, effects);
            }
        }
        let moved = next > estate.stored.read_to;
        estate.stored.read_to = next.min(estate.stored.next).max(estate.stored.read_to);
        estate.read = None; // if the disk is not that far, the next tick asks again
        if !estate.stored.is_live() && moved {
            self.read_estate(&mut estate, effects);
        }
        if self.acks.check(&promise).is_none() {
            estate.needs += 1;
            self.acks.wait(Acks::queue(&promise), NOBODY, promise, Answer::Estate(estate.id));
        }
        let id = estate.id;
        self.estates.push(estate);
        self.settle_estate(id, 0, effects);
        true
    }

    /// `kept` more of what an ended session left behind is safe elsewhere. Once all is, the session is deleted.
    pub(crate) fn settle_estate(&mut self, id: u32, kept: u32, effects: &mut Effects) {
        let Some(at) = self.estates.iter().position(|estate| estate.id == id) else { return };
        let estate = &mut self.estates[at];
        estate.needs -= kept;
        if estate.needs > 0 || !estate.stored.is_live() {
            return;
        }
        let Estate { session, stored, waiting, .. } = self.estates.swap_remove(at);
        let ticket = self.delete_saved(&session, effects);
        // Nobody has asked for the lane since the session ended (see `open_lane`).
        self.ended_opening.retain(|(_, client_id)| *client_id != session.client_id);
        let again = self.by_client.get(&session.client_id).copied();
        let generation =
            again.map(|key| &self.sessions[key.0 as usize]).filter(|session| session.is_stored());
        match (again, generation.map(|session| session.generation)) {
            (Some(key), Some(generation)) => {
                let client_id = (*session.client_id).into();
                effects.requests.push(Request::OpenLane { session: key, generation, client_id, input: None });
            }
            _ => effects.requests.push(Request::RemoveLane { lane: stored.lane }),
        }
        for conn in waiting {
            let promise = Promise { ticket, ..Promise::default() };
            self.acks.wait(Acks::queue(&promise), conn, promise, Answer::Held);
        }
    }

    /// Asks for the lane of a new stored session: now, or when what is left of the client's last one is passed on.
    pub(crate) fn open_lane(&mut self, key: SessionKey, effects: &mut Effects) {
        let session = &self.sessions[key.0 as usize];
        if self.estates.iter().any(|estate| estate.session.client_id == session.client_id) {
            return;
        }
        let (generation, client_id) = (session.generation, (*session.client_id).into());
        effects.requests.push(Request::OpenLane { session: key, generation, client_id, input: None });
    }

    /// Whether `conn` must wait until its client's last session is passed on; it is told then.
    pub(crate) fn waits_for_estate(&mut self, conn: ConnId, client_id: &str) -> bool {
        let estate = self.estates.iter_mut().find(|estate| *estate.session.client_id == *client_id);
        estate.map(|estate| estate.waiting.push(conn)).is_some()
    }
}

/// Whether a session record belongs to a group.
fn is_shared(record: &[u8]) -> bool {
    decode_head(record).is_ok_and(|head| !head.share.is_empty())
}
