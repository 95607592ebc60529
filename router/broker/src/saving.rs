//! What of sessions goes to disk: small writes on the append tray.
//!
//! In: a session and what changed of it. Out: only what changed, and the ticket to wait for; nothing for a clean session.
//! Always: a write is in the tray behind what it presupposes, since the disk keeps their order.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::rc::Rc;

use model::{Seq, Ticket};

use crate::broker::{Broker, append};
use crate::effects::{Effects, StateSpace, Write};
use crate::sessions::record::{
    SessionParts, encode_mark, encode_session, encode_subscription, mark_key, received_key, subscription_key,
};
use crate::sessions::{Keeping, Mark, Session};
use crate::subscriptions::SessionKey;

impl Broker {
    /// Writes down what has no key of its own: the lane, the expiry, the will.
    pub(crate) fn save_session(&mut self, key: SessionKey, effects: &mut Effects) -> Ticket {
        let Some(session) = self.sessions.get(key.0 as usize) else { return Ticket(0) };
        let Keeping::Stored(stored) = session.keeping else { return Ticket(0) };
        let will = match session.conn {
            Some(conn) => {
                let connection = self.connections.get(conn);
                connection.and_then(|connection| connection.will.as_ref()).map(|will| (will, None))
            }
            None => session.delayed_will.as_ref().map(|delayed| (&delayed.will, Some(delayed.due_at))),
        };
        let parts = SessionParts {
            lane: stored.lane,
            expiry_secs: session.expiry_secs,
            disconnected_at: session.disconnected_at,
            sent_before: session.conn.is_none().then_some(stored.sent_before),
            owner: session.owner.as_deref().map(|owner| (owner, session.vouched)),
            will,
        };
        let client_id = &session.client_id;
        put(
            &mut self.appended_bytes,
            effects,
            StateSpace::Sessions,
            |key| key.extend_from_slice(client_id.as_bytes()),
            |value| encode_session(value, parts),
        )
    }

    /// Writes down a subscription.
    pub(crate) fn save_subscription(
        &mut self,
        key: SessionKey,
        filter: &str,
        effects: &mut Effects,
    ) -> Ticket {
        let Some(client_id) = self.owner_on_disk(key) else { return Ticket(0) };
        let subscriptions = &self.sessions[key.0 as usize].subscriptions;
        let Some(options) = subscriptions.get(filter).copied() else { return Ticket(0) };
        put(
            &mut self.appended_bytes,
            effects,
            StateSpace::Subscriptions,
            |key| subscription_key(key, &client_id, filter),
            |value| encode_subscription(value, &options),
        )
    }

    /// Takes a subscription that is gone from the disk.
    pub(crate) fn delete_subscription(
        &mut self,
        key: SessionKey,
        filter: &str,
        effects: &mut Effects,
    ) -> Ticket {
        let Some(client_id) = self.owner_on_disk(key) else { return Ticket(0) };
        self.delete(StateSpace::Subscriptions, effects, |key| subscription_key(key, &client_id, filter))
    }

    /// Writes down that a QoS 2 publication of the client has come.
    pub(crate) fn save_received(
        &mut self,
        key: SessionKey,
        packet_id: NonZeroU16,
        effects: &mut Effects,
    ) -> Ticket {
        let Some(client_id) = self.owner_on_disk(key) else { return Ticket(0) };
        let space = StateSpace::Received;
        put(&mut self.appended_bytes, effects, space, |key| received_key(key, &client_id, packet_id), |_| {})
    }

    /// Writes down that it is released.
    pub(crate) fn delete_received(
        &mut self,
        key: SessionKey,
        packet_id: NonZeroU16,
        effects: &mut Effects,
    ) -> Ticket {
        let Some(client_id) = self.owner_on_disk(key) else { return Ticket(0) };
        self.delete(StateSpace::Received, effects, |key| received_key(key, &client_id, packet_id))
    }

    /// Writes down how far a QoS 2 message to the client is.
    pub(crate) fn save_mark(
        &mut self,
        key: SessionKey,
        seq: Seq,
        mark: Mark,
        effects: &mut Effects,
    ) -> Ticket {
        let Some(client_id) = self.owner_on_disk(key) else { return Ticket(0) };
        let Some(value) = encode_mark(mark) else { return Ticket(0) };
        let space = StateSpace::Marks;
        let write = |out: &mut Vec<u8>| out.push(value);
        put(&mut self.appended_bytes, effects, space, |key| mark_key(key, &client_id, seq), write)
    }

    /// Takes the marks of messages that the lane's head has moved over from the disk: first the head, so that what is
    /// done is never found without one of the two.
    pub(crate) fn write_finished(&mut self, key: SessionKey, effects: &mut Effects) {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        let finished = session.inflight.take_finished();
        let Keeping::Stored(stored) = session.keeping else { return };
        let client_id = Rc::clone(&session.client_id);
        if let Some(up_to) = Seq::new(stored.head.get() - 1).filter(|_| !finished.is_empty()) {
            append(&mut self.appended_bytes, effects, |_| Write::Advance { lane: stored.lane, up_to });
        }
        for seq in finished {
            self.delete(StateSpace::Marks, effects, |key| mark_key(key, &client_id, seq));
        }
    }

    /// Takes marks that came back from the disk; those of messages that are not in the lane any more go.
    pub(crate) fn restore_marks(
        &mut self,
        key: SessionKey,
        marks: BTreeMap<Seq, Mark>,
        effects: &mut Effects,
    ) {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        let Keeping::Stored(stored) = session.keeping else { return };
        let client_id = Rc::clone(&session.client_id);
        let (known, stale): (BTreeMap<_, _>, BTreeMap<_, _>) =
            marks.into_iter().partition(|(seq, _)| (stored.head..stored.next).contains(seq));
        session.marks = known;
        for seq in stale.into_keys() {
            self.delete(StateSpace::Marks, effects, |key| mark_key(key, &client_id, seq));
        }
    }

    /// Takes everything of a session that has ended from the disk, but for its lane.
    pub(crate) fn delete_saved(&mut self, session: &Session, effects: &mut Effects) -> Ticket {
        let client_id = &*session.client_id;
        for filter in session.subscriptions.keys() {
            self.delete(StateSpace::Subscriptions, effects, |key| subscription_key(key, client_id, filter));
        }
        for packet_id in session.received.iter() {
            self.delete(StateSpace::Received, effects, |key| received_key(key, client_id, packet_id));
        }
        let marks = session.marks.iter().map(|(seq, mark)| (*seq, *mark)).chain(session.inflight.marks());
        for (seq, _) in marks.filter(|(_, mark)| encode_mark(*mark).is_some()) {
            self.delete(StateSpace::Marks, effects, |key| mark_key(key, client_id, seq));
        }
        self.delete(StateSpace::Sessions, effects, |key| key.extend_from_slice(client_id.as_bytes()))
    }

    /// Deletes keys that belong to no session: what a crash left behind.
    pub fn delete_orphans(
        &mut self,
        orphans: impl IntoIterator<Item = (StateSpace, Box<[u8]>)>,
        effects: &mut Effects,
    ) {
        for (space, orphan) in orphans {
            self.delete(space, effects, |key| key.extend_from_slice(&orphan));
        }
    }

    /// Whose keys a session has on disk, if it is a stored one.
    fn owner_on_disk(&self, key: SessionKey) -> Option<Rc<str>> {
        let session = self.sessions.get(key.0 as usize).filter(|session| session.is_stored());
        session.map(|session| Rc::clone(&session.client_id))
    }

    fn delete(&mut self, space: StateSpace, effects: &mut Effects, key: impl FnOnce(&mut Vec<u8>)) -> Ticket {
        append(&mut self.appended_bytes, effects, |bytes| {
            let start = bytes.len();
            key(bytes);
            Write::Delete { space, key_len: (bytes.len() - start) as u32 }
        })
    }
}

/// Puts a value under a key of the small durable state.
pub(crate) fn put(
    appended_bytes: &mut u64,
    effects: &mut Effects,
    space: StateSpace,
    key: impl FnOnce(&mut Vec<u8>),
    value: impl FnOnce(&mut Vec<u8>),
) -> Ticket {
    append(appended_bytes, effects, |bytes| {
        let start = bytes.len();
        key(bytes);
        let key_len = bytes.len() - start;
        value(bytes);
        let len = bytes.len() - start - key_len;
        Write::Put { space, key_len: key_len as u32, len: len as u32 }
    })
}
