//! What the broker knows of its connections: how far the handshake is, what is owed, what waits to be written.
//!
//! A [`ConnId`] is a slot and a generation, so that an answer for a closed connection finds nothing.

use std::num::NonZeroU32;

use model::{ConnId, Instant, Limits, Qos};
use wire::Version;

use crate::outbox::Outbox;
use crate::subscriptions::SessionKey;

/// The message that a connection leaves behind if it ends without DISCONNECT (MQTT 5.0 §3.1.2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Where to.
    pub topic: Box<str>,
    /// What.
    pub payload: Box<[u8]>,
    /// How surely.
    pub qos: Qos,
    /// The RETAIN flag.
    pub retain: bool,
    /// Raw MQTT 5 properties that pass through.
    pub properties: Box<[u8]>,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its first packet, CONNECT, has not come.
    Greeting,
    /// CONNECT came; the answer waits (for a lane, for the disk).
    Joining(SessionKey),
    /// It is connected.
    Open(SessionKey),
    /// It is over; what is in the outbox may still leave.
    Closing,
}

/// An answer that waits for something; its connection is not read meanwhile.
#[derive(Debug)]
pub struct Held {
    /// The encoded answer.
    pub bytes: Vec<u8>,
    /// How many things it waits for.
    pub needs: u32,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Its name.
    pub id: ConnId,
    /// How far it is.
    pub phase: Phase,
    /// Its session, from an accepted CONNECT to the very end.
    pub session: Option<SessionKey>,
    /// Version of its CONNECT.
    pub version: Version,
    /// What its socket has not taken yet.
    pub outbox: Outbox,
    /// Whether the outbox was used since the last tick.
    pub wrote: bool,
    /// Already on the tray of dirty connections.
    pub dirty: bool,
    /// When it was accepted.
    pub opened: Instant,
    /// When something last came from it.
    pub heard: Instant,
    /// One and a half times its keep-alive, in milliseconds; 0 for none.
    pub silence_millis_max: u64,
    /// QoS 1 publications that wait for the disk.
    pub acks_owed: u32,
    /// It was not read because of `acks_owed`.
    pub stalled: bool,
    /// QoS 1 messages we may have in flight to it.
    pub window: u16,
    /// Largest packet it takes.
    pub packet_bytes_max: u32,
    /// Whether it wants reason strings (MQTT 5.0 §3.1.2.11.7).
    pub problem_information: bool,
    /// Session expiry interval of its CONNECT, in seconds; DISCONNECT may not raise it from 0.
    pub expiry_secs: u32,
    /// An answer that waits.
    pub held: Option<Held>,
    /// What it leaves behind.
    pub will: Option<Will>,
}

impl Connection {
    fn new(id: ConnId, now: Instant, limits: &Limits) -> Connection {
        Connection {
            id,
            phase: Phase::Greeting,
            session: None,
            version: Version::V3,
            outbox: Outbox::default(),
            wrote: false,
            dirty: false,
            opened: now,
            heard: now,
            silence_millis_max: 0,
            acks_owed: 0,
            stalled: false,
            window: limits.session_inflight_max,
            packet_bytes_max: u32::MAX,
            problem_information: true,
            expiry_secs: 0,
            held: None,
            will: None,
        }
    }

    /// The outbox, put on the tray if it was not there. Always write through this.
    #[inline]
    pub fn write(&mut self, dirty: &mut Vec<ConnId>) -> &mut Vec<u8> {
        self.wrote = true;
        if !self.dirty {
            self.dirty = true;
            dirty.push(self.id);
        }
        self.outbox.tail()
    }
}

/// All connections of a shard.
#[derive(Debug, Default)]
pub struct Connections {
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
    pub fn open(&mut self, now: Instant, limits: &Limits) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: NonZeroU32::MIN, connection: None });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        let id = ConnId(u64::from(entry.generation.get()) << 32 | u64::from(slot));
        entry.connection = Some(Box::new(Connection::new(id, now, limits)));
        id
    }

    /// Forgets a connection; it is returned for what remains to be done.
    pub fn remove(&mut self, id: ConnId) -> Option<Box<Connection>> {
        self.find(id)?;
        let slot = &mut self.slots[id.0 as u32 as usize];
        // Wraps after 4 billion connections in one slot; the id then lies far in the past of every holder.
        slot.generation = slot.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.free.push(id.0 as u32);
        slot.connection.take()
    }

    /// The connection with this name, if it still exists.
    #[inline]
    pub fn find(&mut self, id: ConnId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.0 as u32 as usize)?;
        (slot.generation.get() == (id.0 >> 32) as u32).then_some(())?;
        slot.connection.as_deref_mut()
    }

    /// The same, to look at.
    #[inline]
    pub fn get(&self, id: ConnId) -> Option<&Connection> {
        let slot = self.slots.get(id.0 as u32 as usize)?;
        (slot.generation.get() == (id.0 >> 32) as u32).then_some(())?;
        slot.connection.as_deref()
    }

    /// Every connection.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.slots.iter_mut().filter_map(|slot| slot.connection.as_deref_mut())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
