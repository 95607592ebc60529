//! Trays: what must follow from a turn, for the edge to act on.
//!
//! The broker puts things on; the edge takes everything off at the end of the turn. Nothing here is a callback.

use model::{ConnId, LaneId, Priority, RouteId, Seq, ShardId, SpillTicket, Ticket, Timestamp};

use crate::heads::iothub::HubRequest;
use crate::subscriptions::SessionKey;
use crate::subscriptions::shares::Members;

/// What must follow from the inputs since the trays were last emptied.
#[derive(Debug)]
pub struct Effects {
    /// Connections whose outbox got something; may contain repeats of what was dirty before the last flush.
    pub dirty: Vec<ConnId>,
    /// Connections to close once their outbox is written (or cannot be).
    pub closing: Vec<ConnId>,
    /// Connections that may be read again.
    pub resumed: Vec<ConnId>,
    /// Connections that belong to another shard, with their unread bytes (their session lives there).
    pub relocations: Vec<(ConnId, ShardId)>,
    /// What must be made durable, in order.
    pub appends: AppendTray,
    /// Publications for other shards, indexed by shard.
    pub handoffs: Vec<HandoffBatch>,
    /// Small messages for other shards.
    pub controls: Vec<(ShardId, Control)>,
    /// Questions to the store.
    pub requests: Vec<Request>,
    /// Clients whose password is to be verified.
    pub authentications: Vec<Authentication>,
    /// What clients were not allowed to do, for the log; a bounded choice of it.
    pub denials: Vec<Denial>,
    /// What clients of the IoT Hub dialect did that concerns its services.
    pub hub: Vec<HubRequest>,
    /// What sinks did not get, for the loss ledger: at most one note for each lane and reason.
    pub losses: Vec<Loss>,
    /// Lanes whose messages up to here are delivered.
    pub advances: Vec<(LaneId, Seq)>,
    /// Call [`crate::Broker::walk`] in a later turn.
    pub walk: bool,
}

impl Effects {
    /// Empty trays for a process with `shards` shards.
    pub fn new(shards: u16) -> Effects {
        Effects {
            dirty: Vec::new(),
            closing: Vec::new(),
            resumed: Vec::new(),
            relocations: Vec::new(),
            appends: AppendTray::default(),
            handoffs: (0..shards).map(|_| HandoffBatch::default()).collect(),
            controls: Vec::new(),
            requests: Vec::new(),
            authentications: Vec::new(),
            denials: Vec::new(),
            hub: Vec::new(),
            losses: Vec::new(),
            advances: Vec::new(),
            walk: false,
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty()
            && self.closing.is_empty()
            && self.resumed.is_empty()
            && self.relocations.is_empty()
            && self.appends.is_empty()
            && self.handoffs.iter().all(|batch| batch.bytes.is_empty())
            && self.controls.is_empty()
            && self.requests.is_empty()
            && self.authentications.is_empty()
            && self.denials.is_empty()
            && self.hub.is_empty()
            && self.losses.is_empty()
            && self.advances.is_empty()
            && !self.walk
    }

    /// Notes that all of a lane up to here is delivered; acknowledgements of one turn become one entry.
    #[inline]
    pub(crate) fn advance(&mut self, lane: LaneId, up_to: Seq) {
        match self.advances.last_mut() {
            Some((last, done)) if *last == lane => *done = up_to,
            _ => self.advances.push((lane, up_to)),
        }
    }
}

/// A question to whoever verifies credentials, answered by [`crate::Event::Authenticated`]. The connection waits for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Authentication {
    /// Who waits.
    pub conn: ConnId,
    /// The listener that accepted it, by its place in the configuration.
    pub listener: u16,
    /// Its client identifier.
    pub client_id: Box<str>,
    /// The user it says it is.
    pub user: Box<str>,
    /// What it shows for that; any bytes. Not shown by `Debug`.
    pub password: Option<Box<[u8]>>,
    /// Whether it says it is an identity that the edge knows, and not a user.
    pub is_identity: bool,
    /// For an identity, what it has shown besides.
    pub shown: Option<std::sync::Arc<crate::Shown>>,
}

impl std::fmt::Debug for Authentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authentication")
            .field("conn", &self.conn)
            .field("listener", &self.listener)
            .field("client_id", &self.client_id)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Something that a client was not allowed to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Who.
    pub client_id: Box<str>,
    /// Its user, if it has one.
    pub user: Option<Box<str>>,
    /// What: to publish, to subscribe, to leave a will.
    pub what: &'static str,
    /// Where.
    pub topic: Box<str>,
    /// The rule that says so, with its place.
    pub rule: String,
    /// Denials before this one that were not reported.
    pub unsaid: u64,
}

/// Messages that a sink did not get: they never had a place in its lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The lane that they would have gone to.
    pub lane: LaneId,
    /// Why.
    pub reason: LossReason,
    /// The route that they took; `None` where they are the rest of a turn that had too many to tell apart.
    pub route: Option<RouteId>,
    /// Client identifier of their publisher; empty in the same case.
    pub sender: Box<str>,
    /// How many.
    pub count: u64,
    /// Their bytes, as records.
    pub bytes: u64,
    /// When the first and the last one came.
    pub from: Timestamp,
    /// See `from`.
    pub up_to: Timestamp,
}

/// Why a sink did not get a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossReason {
    /// Its budget, or that of the store, is used up.
    SinkFull,
    /// The store takes no writes, and memory holds as much as it may.
    StoreFails,
}

/// Writes for the commit log, in the order they must become durable.
#[derive(Debug, Default)]
pub struct AppendTray {
    /// All keys, values and records, end to end.
    pub bytes: Vec<u8>,
    /// What to do with which part of `bytes`.
    pub writes: Vec<Write>,
    /// Ticket of the last write; all earlier tickets of this shard are in this or in earlier trays.
    pub last: Ticket,
    /// How many of the writes are records that may stay in memory.
    pub spills: u32,
}

impl AppendTray {
    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Takes everything off the tray; `last` stays, it only ever grows.
    #[must_use]
    pub fn take(&mut self) -> AppendTray {
        AppendTray {
            bytes: take_like(&mut self.bytes),
            writes: take_like(&mut self.writes),
            last: self.last,
            spills: std::mem::take(&mut self.spills),
        }
    }
}

/// One write for the commit log; lengths are parts of [`AppendTray::bytes`], in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// A record at the end of a lane.
    Record {
        /// Which lane.
        lane: LaneId,
        /// Length of the record.
        len: u32,
        /// When it was accepted.
        enqueued: Timestamp,
        /// When it is worth nothing any more.
        expires: Option<Timestamp>,
        /// Its number, one after the other, if it may stay in memory until the upstream has it or it must be written;
        /// [`SpillTicket::NOBODY`] if it may and was acknowledged already; else 0.
        spill: SpillTicket,
    },
    /// A value of the small durable state: key, then value.
    Put {
        /// Where the key stands.
        space: StateSpace,
        /// Length of the key.
        key_len: u32,
        /// Length of the value that follows it.
        len: u32,
    },
    /// The end of such a value: its key.
    Delete {
        /// Where the key stands.
        space: StateSpace,
        /// Length of the key.
        key_len: u32,
    },
    /// A lane is delivered up to here; unlike [`Effects::advances`], durable no later than the writes behind it.
    Advance {
        /// Which lane.
        lane: LaneId,
        /// Its last place that is done. An earlier write of this tray may be the one that it stands for.
        up_to: Seq,
    },
}

/// Kinds of small durable state; keys of different kinds never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateSpace {
    /// Stored sessions, by client identifier.
    Sessions,
    /// Retained messages, by topic.
    Retained,
    /// Their subscriptions, by client identifier and filter.
    Subscriptions,
    /// QoS 2 publications of their clients that are not released, by client identifier and packet identifier.
    Received,
    /// How far QoS 2 messages to them are, by client identifier and place in the lane.
    Marks,
    /// Places in the middle of poison lanes that are done with, by lane and place.
    Poison,
    /// How far the loss ledger is published: one value under the empty key.
    LossesPublished,
}

/// Publications for one other shard.
#[derive(Debug, Default)]
pub struct HandoffBatch {
    /// For each publication: `u8` ways (bit 0: to subscriptions, bit 1: to groups, bit 2: to be retained) · with bit 1 its
    /// `u64` handoff number and a `u16` count of groups, each `u16` length and name · `u32` length, `u64` expiry in wall milliseconds (0 for none),
    /// envelope · with bit 2 the `u64` version as what it is retained; little endian.
    pub bytes: Vec<u8>,
    /// The sender's handoff number of the last publication in it.
    pub last: u64,
    /// Whether the sender waits for a [`Control::Kept`] mark.
    pub wants_mark: bool,
}

impl HandoffBatch {
    /// Takes the batch; the next one starts empty.
    #[must_use]
    pub fn take(&mut self) -> HandoffBatch {
        let wants_mark = std::mem::take(&mut self.wants_mark);
        HandoffBatch { bytes: take_like(&mut self.bytes), last: self.last, wants_mark }
    }
}

/// Takes what is in `full` and leaves room for about as much: a tray that is filled every turn grows once, not by
/// doubling. At most 256 KiB, so that a burst is not remembered for ever.
fn take_like<T>(full: &mut Vec<T>) -> Vec<T> {
    let room = full.len().min((256 << 10) / size_of::<T>());
    std::mem::replace(full, Vec::with_capacity(room))
}

/// Small messages between shards; in order per pair of shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// What the sender has at a filter from now on.
    Filter {
        /// Who says so.
        from: ShardId,
        /// The filter.
        filter: Box<str>,
        /// Whether it has any subscription there.
        any: bool,
        /// Whether one of them belongs to a stored session.
        kept: bool,
        /// Of a shared filter: how many members it has in the group.
        members: Members,
        /// The connection that waits for [`Control::Known`], if one does.
        waiting: Option<ConnId>,
    },
    /// Answer to `Filter`: the other shard hands matching publications over from now on.
    Known {
        /// The connection that waits.
        waiting: ConnId,
    },
    /// The sender has told of every filter of the sessions it brought back at start.
    Restored {
        /// Who says so.
        from: ShardId,
    },
    /// Nobody is left of a group that a publication was handed over for: whoever has it draws again. The acknowledgement
    /// must wait for that; this comes before the [`Control::Kept`] that it waits for now.
    Returned {
        /// The receiver's own handoff number of the publication.
        handoff: u64,
        /// The group.
        group: Box<str>,
        /// The publication as it was handed over, see [`HandoffBatch`]: from its length to its envelope.
        publication: Box<[u8]>,
    },
    /// Every publication handed to the sender of this up to the number is as safe as its subscribers need.
    Kept {
        /// Who says so.
        from: ShardId,
        /// The receiver's own handoff number.
        up_to: u64,
    },
}

/// Questions to the store, answered by an [`crate::Event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Make or find a lane of a stored session; answered by `LaneOpened`.
    OpenLane {
        /// Whose.
        session: SessionKey,
        /// Distinguishes this session from an earlier one with the same key.
        generation: u32,
        /// Names the lane.
        client_id: Box<str>,
        /// Of a module: the input whose lane it is, and how urgent that is.
        input: Option<(Box<str>, Priority)>,
    },
    /// Read on; answered by `LaneRead`.
    ReadLane {
        /// Whose.
        session: SessionKey,
        /// The number of this read; the answer carries it back.
        generation: u32,
        /// Which lane.
        lane: LaneId,
        /// First record wanted.
        from: Seq,
        /// About how many bytes.
        bytes_max: u32,
        /// Whether expired records are wanted, too: what was sent at QoS 2 does not expire any more [MQTT-4.3.3-7].
        expired_too: bool,
    },
    /// The session is over; its lane can go.
    RemoveLane {
        /// Which lane.
        lane: LaneId,
    },
}
