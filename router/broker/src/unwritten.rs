//! Deliveries that are written only if they must be: `memory` routes to inputs of modules (decision 0058).
//!
//! In: a publication for a stored session that nobody waits for. Out: a PUBLISH at once, while the client keeps up and nothing
//! is before it; else a record in the lane, as for every other publication. Always: per session the order is that in which
//! publications came; what a connection leaves unacknowledged is written when it ends.
//! Bound: the client's window; bytes count with all that waits for clients.

use std::num::NonZeroU16;

use model::{LaneId, Now, Qos, SpillTicket, Timestamp};

use crate::broker::{Broker, append};
use crate::delivery::{Terms, has_room, send, session_record};
use crate::dispatch::Publication;
use crate::effects::{Effects, Write};
use crate::sessions::{Sent, Stored};
use crate::subscriptions::SessionKey;

impl Broker {
    /// Sends it, if it need not be written; else `false`.
    #[cold]
    pub(crate) fn deliver_unwritten(
        &mut self,
        key: SessionKey,
        stored: Stored,
        publication: &Publication<'_>,
        terms: Terms<'_>,
        effects: &mut Effects,
    ) -> bool {
        if terms.qos != Qos::AtLeastOnce || !terms.share.is_empty() || self.is_memory_full() {
            return false;
        }
        let limits = &self.setup.limits;
        let session = &mut self.sessions[key.0 as usize];
        let Some(connection) = session.conn.and_then(|conn| self.connections.find(conn)) else {
            return false;
        };
        let is_next = stored.is_live() && session.queue.is_empty() && session.marks.is_empty();
        if !is_next || !has_room(connection, session, None, limits) {
            return false;
        }
        let packet_id = session.unwritten.free_id(&session.inflight, session.inputs.as_deref());
        if send(connection, publication, terms, Some(packet_id), &mut self.scratch.frames, effects) {
            connection.count_outbox(&mut self.waiting_bytes);
            let (record, expires) = (session_record(publication, terms), publication.expires);
            self.waiting_bytes += record.len();
            session.unwritten.push(Sent { packet_id, record, expires });
            self.counters.delivered += 1;
            self.counters.delivered_unwritten += 1;
        } else {
            self.counters.dropped_too_large += 1; // [MQTT-3.1.2-25]
        }
        true
    }

    /// The client acknowledges what stands in no lane; `false` if that is none.
    #[cold]
    pub(crate) fn settle_unwritten(
        &mut self,
        key: SessionKey,
        packet_id: NonZeroU16,
        now: Now,
        effects: &mut Effects,
    ) -> bool {
        let Some(len) = self.sessions[key.0 as usize].unwritten.settle(packet_id) else { return false };
        self.waiting_bytes -= len;
        self.pump(key, now, effects);
        true
    }

    /// The connection has ended: what it left is written, and goes to the next one.
    #[cold]
    pub(crate) fn write_unwritten(&mut self, key: SessionKey, now: Now, effects: &mut Effects) {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        self.waiting_bytes -= session.unwritten.bytes();
        for Sent { record, expires, .. } in session.unwritten.take() {
            let session = self.sessions.get_mut(key.0 as usize);
            let Some(stored) = session.and_then(|session| session.stored_mut()) else { return };
            let lane = stored.take_place(self.setup.limits.session_stored_messages_max);
            self.write_left_over(lane, &record, expires, now, effects);
        }
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        if let (Some(stored), Some(inputs)) = (session.stored().copied(), &mut session.inputs) {
            inputs.wait_for(stored.next);
        }
    }

    /// Writes what a connection has left unacknowledged into a lane where it has a place; `None`: there is none.
    pub(crate) fn write_left_over(
        &mut self,
        lane: Option<LaneId>,
        record: &[u8],
        expires: Option<Timestamp>,
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(lane) = lane else {
            self.counters.dropped_session_full += 1;
            return;
        };
        self.counters.appended += 1;
        append(&mut self.appended_bytes, effects, |bytes| {
            bytes.extend_from_slice(record);
            let (len, enqueued) = (record.len() as u32, now.timestamp);
            Write::Record { lane, len, enqueued, expires, spill: SpillTicket(0) }
        });
    }
}
