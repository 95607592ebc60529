//! What the broker knows of its connections: how far the handshake is, what is owed, what waits to be written.
//!
//! A [`ConnId`] is a slot and a generation, so that an answer for a closed connection finds nothing.

use std::num::{NonZeroU32, NonZeroU64};
use std::rc::Rc;
use std::sync::Arc;

use model::{ConnId, Instant, Limits, Qos};
use wire::{Connect, Version};

use crate::access::Subject;
use crate::acks::AckQueue;
use crate::aliases::{InboundAliases, OutboundAliases};
use crate::heads::iothub::HubClient;
use crate::outbox::Outbox;
use crate::subscriptions::SessionKey;

/// The message that a connection leaves behind if it ends without DISCONNECT (MQTT 5.0 §3.1.2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Will {
    /// Where to.
    pub(crate) topic: Box<str>,
    /// What.
    pub(crate) payload: Box<[u8]>,
    /// How surely.
    pub(crate) qos: Qos,
    /// The RETAIN flag.
    pub(crate) retain: bool,
    /// How long to wait before it is published, in seconds; the client may be back by then (MQTT 5.0 §3.1.3.2.2).
    pub(crate) delay_secs: u32,
    /// How long it is worth delivering once it is published, in seconds.
    pub(crate) expiry_secs: Option<u32>,
    /// Raw MQTT 5 properties that pass through.
    pub(crate) properties: Box<[u8]>,
}

/// What the edge knows of a client before it says a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The listener that accepted it, by its place in the configuration.
    pub listener: u16,
    /// The user whom its verified client certificate names.
    pub certificate_user: Option<Arc<str>>,
    /// What it has shown, where nobody has judged that yet.
    pub shown: Option<Arc<Shown>>,
    /// Why it is not served, whatever its CONNECT says; see [`crate::Turnstile`].
    pub turned_away: Option<wire::ReasonCode>,
}

/// What a client has shown before its CONNECT, for whoever judges it then.
#[derive(Clone, PartialEq, Eq)]
pub enum Shown {
    /// Its certificates, by TLS: DER, its own first. It has proved that it has the key.
    Certificates(Arc<[Box<[u8]>]>),
    /// What somebody in between says was shown there; anything may stand in it.
    Forwarded {
        /// As it came.
        certificate: Box<str>,
        /// What that one shows for itself. Not shown by `Debug`.
        token: Option<Box<str>>,
    },
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Shown::Certificates(_) => "certificates",
            Shown::Forwarded { .. } => "a forwarded certificate",
        })
    }
}

/// Who a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Its user; `None` if it is anonymous.
    pub(crate) user: Option<Rc<str>>,
    /// Whether a verified certificate says so.
    pub(crate) certificate: bool,
    /// The print of what verified its password, if that is how it came in.
    pub(crate) print: Option<u64>,
    /// Whether the edge knows it and says how long it may stay.
    pub(crate) by_edge: bool,
}

/// What a client may do, and what it was last told about that.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    /// Who it is, as the rules see it.
    pub(crate) subject: Subject,
    /// The topic it last published to; a client that stays with one costs one comparison.
    pub(crate) topic: String,
    /// Whether it may publish to `topic`.
    pub(crate) allowed: bool,
}

/// A CONNECT that waits for its password to be verified.
#[derive(Debug)]
pub(crate) struct Asked {
    /// What the client sent.
    pub(crate) connect: Connect,
    /// Whether its client identifier is one of ours.
    pub(crate) assigned: bool,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its first packet, CONNECT, has not come.
    Greeting,
    /// CONNECT came; somebody verifies its password.
    Authenticating,
    /// CONNECT came; the answer waits (for a lane, for the disk).
    Joining(SessionKey),
    /// It is connected.
    Open(SessionKey),
    /// It is over; what is in the outbox may still leave.
    Closing,
}

/// An answer that waits for something; its connection is not read meanwhile.
#[derive(Debug)]
pub(crate) struct Held {
    /// The encoded answer.
    pub(crate) bytes: Vec<u8>,
    /// How many things it waits for.
    pub(crate) needs: u32,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Its name.
    pub(crate) id: ConnId,
    /// Who the edge says it is.
    pub(crate) peer: Peer,
    /// How far it is.
    pub(crate) phase: Phase,
    /// Its session, from an accepted CONNECT to the very end.
    pub(crate) session: Option<SessionKey>,
    /// Who it is, from an accepted CONNECT on.
    pub(crate) identity: Identity,
    /// Who it is in the IoT Hub dialect, if it speaks that.
    pub(crate) hub: Option<Rc<HubClient>>,
    /// What it may do; `None` where there are no rules.
    pub(crate) rights: Option<Box<Rights>>,
    /// Its CONNECT, while somebody verifies its password.
    pub(crate) asked: Option<Box<Asked>>,
    /// Version of its CONNECT.
    pub(crate) version: Version,
    /// What its socket has not taken yet.
    pub(crate) outbox: Outbox,
    /// How much of the outbox is part of `Broker::waiting_bytes`.
    pub(crate) counted: usize,
    /// Whether the outbox was used since the last tick.
    pub(crate) wrote: bool,
    /// Already on the tray of dirty connections.
    pub(crate) dirty: bool,
    /// When it was accepted.
    pub(crate) opened: Instant,
    /// When something last came from it.
    pub(crate) heard: Instant,
    /// One and a half times its keep-alive, in milliseconds; 0 for none.
    pub(crate) silence_millis_max: u64,
    /// Acknowledgements that wait for the disk or for other shards.
    pub(crate) acks_owed: u32,
    /// Where they wait, if there are any.
    pub(crate) ack_queue: AckQueue,
    /// It was not read because of `acks_owed` or because it does not take its answers.
    pub(crate) stalled: bool,
    /// QoS 1 and 2 messages we may have in flight to it.
    pub(crate) window: u16,
    /// Largest packet it takes.
    pub(crate) packet_bytes_max: u32,
    /// Largest packet we take from it.
    pub(crate) inbound_bytes_max: u32,
    /// Whether it wants to read why (MQTT 5.0 §3.1.2.11.7).
    pub(crate) wants_words: bool,
    /// Its topic aliases, once it has used one.
    pub(crate) aliases_in: Option<Box<InboundAliases>>,
    /// Ours towards it, if it takes any.
    pub(crate) aliases_out: Option<Box<OutboundAliases>>,
    /// Session expiry interval of its CONNECT, in seconds; DISCONNECT may not raise it from 0.
    pub(crate) expiry_secs: u32,
    /// An answer that waits.
    pub(crate) held: Option<Held>,
    /// Its next packet waits for room; those with lower numbers have waited longer.
    pub(crate) withheld: Option<NonZeroU64>,
    /// What it leaves behind.
    pub(crate) will: Option<Will>,
}

impl Connection {
    fn new(id: ConnId, peer: Peer, inbound_bytes_max: u32, now: Instant, limits: &Limits) -> Connection {
        Connection {
            id,
            peer,
            phase: Phase::Greeting,
            session: None,
            identity: Identity::default(),
            hub: None,
            rights: None,
            asked: None,
            version: Version::V3,
            outbox: Outbox::default(),
            counted: 0,
            wrote: false,
            dirty: false,
            opened: now,
            heard: now,
            silence_millis_max: 0,
            acks_owed: 0,
            ack_queue: AckQueue::default(),
            stalled: false,
            window: limits.session_inflight_max,
            packet_bytes_max: u32::MAX,
            inbound_bytes_max,
            wants_words: true,
            aliases_in: None,
            aliases_out: None,
            expiry_secs: 0,
            held: None,
            withheld: None,
            will: None,
        }
    }

    /// The outbox, put on the tray if it was not there. Always write through this.
    #[inline]
    pub(crate) fn write(&mut self, dirty: &mut Vec<ConnId>) -> &mut Vec<u8> {
        self.wrote = true;
        if !self.dirty {
            self.dirty = true;
            dirty.push(self.id);
        }
        self.outbox.tail()
    }

    /// Brings `total`, the bytes that wait for all clients, up to date with what the outbox holds now.
    #[inline]
    pub(crate) fn count_outbox(&mut self, total: &mut usize) {
        let len = self.outbox.len();
        *total = *total + len - self.counted;
        self.counted = len;
    }

    /// Whether so much is owed, by us or by a peer that does not read, that it must not send more.
    #[inline]
    pub(crate) fn is_stalled(&self, limits: &Limits) -> bool {
        // Twice: messages stop at the bound itself, so what lies above it are answers alone.
        self.acks_owed >= u32::from(limits.receive_max)
            || self.outbox.len() / 2 > limits.outbox_bytes_max as usize
    }

    /// Puts it on the tray of connections to read again, once enough of what stalled it is gone.
    #[inline]
    pub(crate) fn resume(&mut self, limits: &Limits, resumed: &mut Vec<ConnId>) {
        if self.stalled
            && self.acks_owed <= u32::from(limits.receive_max) / 2
            && self.outbox.len() <= limits.outbox_bytes_max as usize
        {
            self.stalled = false;
            resumed.push(self.id);
        }
    }
}

/// All connections of a shard.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    generation: NonZeroU32,
    connection: Option<Box<Connection>>,
}

impl Connections {
    /// Makes room for a new connection and names it.
    pub(crate) fn open(
        &mut self,
        peer: Peer,
        inbound_bytes_max: u32,
        now: Instant,
        limits: &Limits,
    ) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: NonZeroU32::MIN, connection: None });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        let id = ConnId(u64::from(entry.generation.get()) << 32 | u64::from(slot));
        entry.connection = Some(Box::new(Connection::new(id, peer, inbound_bytes_max, now, limits)));
        id
    }

    /// Forgets a connection; it is returned for what remains to be done.
    pub(crate) fn remove(&mut self, id: ConnId) -> Option<Box<Connection>> {
        self.find(id)?;
        let slot = &mut self.slots[id.0 as u32 as usize];
        // Wraps after 4 billion connections in one slot; the id then lies far in the past of every holder.
        slot.generation = slot.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.free.push(id.0 as u32);
        slot.connection.take()
    }

    /// The connection with this name, if it still exists.
    #[inline]
    pub(crate) fn find(&mut self, id: ConnId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.0 as u32 as usize)?;
        (slot.generation.get() == (id.0 >> 32) as u32).then_some(())?;
        slot.connection.as_deref_mut()
    }

    /// The same, to look at.
    #[inline]
    pub(crate) fn get(&self, id: ConnId) -> Option<&Connection> {
        let slot = self.slots.get(id.0 as u32 as usize)?;
        (slot.generation.get() == (id.0 >> 32) as u32).then_some(())?;
        slot.connection.as_deref()
    }

    /// Every connection, to look at.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slots.iter().filter_map(|slot| slot.connection.as_deref())
    }

    /// Every connection.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.slots.iter_mut().filter_map(|slot| slot.connection.as_deref_mut())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
