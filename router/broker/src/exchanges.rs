//! QoS 2, in both directions (MQTT 5.0 §4.3.3).
//!
//! As receiver: a publication is dispatched when it first comes; from then until its PUBREL its identifier is in use, and
//! a PUBLISH that has it is a repeat. As sender: PUBREC moves a message from *published* to *released*, PUBCOMP ends it.
//! For a stored session both survive a crash: the identifier is durable before PUBREC and gone before PUBCOMP; the mark
//! *released* is durable before PUBREL, and goes only together with, or after, the head of the lane.
//!
//! What a crash may still do: a publication that was also handed to other shards is kept there before its identifier is
//! written here ([`Marking`]), so that it may be repeated, never lost, if we die between the two.

use std::num::NonZeroU16;

use model::{ConnId, Now, Qos, Seq, Ticket};
use wire::{AckKind, Publish, ReasonCode, Version};

use crate::acks::{Marking, OwedAck, Promise};
use crate::broker::Broker;
use crate::connections::Connection;
use crate::delivery::advance;
use crate::effects::Effects;
use crate::heads::mqtt::{Fault, PeerFault};
use crate::sessions::record::decode_head;
use crate::sessions::{Acked, Keeping, Mark, Queued, Received, Session};
use crate::subscriptions::SessionKey;

/// As receiver.
impl Broker {
    /// Whether a QoS 2 PUBLISH has come before. Then it has got its PUBREC, or will when the first one does
    /// [MQTT-4.3.3-10].
    #[cold]
    pub(crate) fn is_repeat(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        publish: &Publish<'_>,
        effects: &mut Effects,
    ) -> Result<bool, Fault> {
        let Some(packet_id) = publish.packet_id else { return Ok(false) };
        let received = &self.sessions[key.0 as usize].received;
        if received.contains(packet_id) {
            let promise = received.promise(packet_id);
            let ack = OwedAck { kind: AckKind::PubRec, packet_id, reason: ReasonCode::SUCCESS };
            self.counters.repeats_ignored += 1;
            self.owe(conn, ack, promise, effects);
            return Ok(true);
        }
        // 3.1.1 knows no Receive Maximum.
        let version = self.connections.get(conn).map(|connection| connection.version);
        if version == Some(Version::V5)
            && received.on_this_connection() >= usize::from(self.setup.limits.receive_max)
        {
            return Err(Fault::Peer(PeerFault::ReceiveMaximum));
        }
        Ok(false)
    }

    /// A QoS 2 publication was dispatched; what its PUBREC must wait for.
    #[cold]
    pub(crate) fn begin_exchange(
        &mut self,
        key: SessionKey,
        packet_id: NonZeroU16,
        promise: Promise,
        effects: &mut Effects,
    ) -> Promise {
        let session = &mut self.sessions[key.0 as usize];
        session.received.insert(packet_id);
        let (stored, generation) = (session.is_stored(), session.generation);
        let promise = match (stored, promise.shards) {
            (false, _) => promise,
            // Behind its records, in the same tray.
            (true, 0) => Promise { ticket: self.save_received(key, packet_id, effects), ..promise },
            (true, _) => self.acks.mark_later(Marking { session: key, generation, packet_id, promise }),
        };
        if self.acks.check(&promise).is_none() {
            let (acks, session) = (&self.acks, &mut self.sessions[key.0 as usize]);
            session.received.wait(packet_id, promise, |earlier| acks.check(earlier).is_some());
        }
        promise
    }

    /// Writes the identifiers whose publications are safe by now.
    pub(crate) fn write_markings(&mut self, effects: &mut Effects) {
        while let Some(marking) = self.acks.next_marking() {
            let session = self.sessions.get(marking.session.0 as usize);
            // Not if it was released, nor if it was released and is in use again.
            let wanted = session.is_some_and(|session| {
                session.generation == marking.generation
                    && session.received.contains(marking.packet_id)
                    && session.received.promise(marking.packet_id).handoff == marking.promise.handoff
            });
            let ticket = match wanted {
                true => self.save_received(marking.session, marking.packet_id, effects),
                false => Ticket(0),
            };
            self.acks.mark_written(&marking, ticket);
        }
    }

    /// The client will not send a publication again [MQTT-4.3.3-11].
    pub(crate) fn on_pubrel(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        packet_id: NonZeroU16,
        effects: &mut Effects,
    ) {
        let received = &mut self.sessions[key.0 as usize].received;
        // A client that does not wait for PUBREC gets both answers, each when it is due.
        let pending = received.promise(packet_id);
        let (reason, ticket) = if received.remove(packet_id) {
            // Gone from the disk before PUBCOMP: a crash must not bring it back once it may be used again.
            (ReasonCode::SUCCESS, self.delete_received(key, packet_id, effects))
        } else {
            self.counters.unexpected_acks += 1;
            (ReasonCode::PACKET_IDENTIFIER_NOT_FOUND, Ticket(0))
        };
        let promise = Promise { ticket: ticket.max(pending.ticket), ..pending };
        self.owe(conn, OwedAck { kind: AckKind::PubComp, packet_id, reason }, promise, effects);
    }
}

/// As sender.
impl Broker {
    /// The client has a QoS 2 message, or refuses it. PUBREL leaves once the mark is durable [MQTT-4.3.3-4].
    pub(crate) fn on_pubrec(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        packet_id: NonZeroU16,
        reason: ReasonCode,
        now: Now,
        effects: &mut Effects,
    ) {
        if reason.is_error() {
            return self.complete(key, packet_id, false, now, effects); // [MQTT-4.3.3-4]: no PUBREL then
        }
        let (reason, ticket) = match self.sessions[key.0 as usize].inflight.receive(packet_id) {
            Received::First(Some(seq)) => {
                (ReasonCode::SUCCESS, self.save_mark(key, seq, Mark::Released, effects))
            }
            Received::First(None) => (ReasonCode::SUCCESS, Ticket(0)),
            // Its mark may not be durable yet; whatever was written last is not older.
            Received::Again => (ReasonCode::SUCCESS, effects.appends.last),
            Received::Unknown => {
                self.counters.unexpected_acks += 1;
                (ReasonCode::PACKET_IDENTIFIER_NOT_FOUND, Ticket(0))
            }
        };
        let promise = Promise { ticket, ..Promise::default() };
        // In the order of the PUBRECs [MQTT-4.6.0-4].
        self.owe(conn, OwedAck { kind: AckKind::PubRel, packet_id, reason }, promise, effects);
    }

    /// The client has given the identifier back; the exchange is over.
    pub(crate) fn on_pubcomp(
        &mut self,
        key: SessionKey,
        packet_id: NonZeroU16,
        now: Now,
        effects: &mut Effects,
    ) {
        self.complete(key, packet_id, true, now, effects);
    }

    fn complete(
        &mut self,
        key: SessionKey,
        packet_id: NonZeroU16,
        released: bool,
        now: Now,
        effects: &mut Effects,
    ) {
        let session = &mut self.sessions[key.0 as usize];
        let (Acked::Known { head }, waits) = session.inflight.complete(packet_id, released) else {
            self.counters.unexpected_acks += 1;
            return;
        };
        advance(session, head, effects);
        if let Some(seq) = waits {
            self.save_mark(key, seq, Mark::Completed, effects);
        }
        self.write_finished(key, effects);
        self.pump(key, now, effects);
    }
}

/// The lane of a resumed session is read up to and including `up_to`: what is marked there is not sent again; for what is
/// released, PUBREL is. Whether `up_to` itself is marked.
///
/// PUBREL may leave at once: CONNACK has waited for the disk, and the marks were written before.
#[inline]
pub(crate) fn catch_up(
    connection: &mut Connection,
    session: &mut Session,
    up_to: Option<Seq>,
    effects: &mut Effects,
) -> bool {
    match up_to {
        Some(up_to) if !session.marks.is_empty() => release_marked(connection, session, up_to, effects),
        _ => false,
    }
}

#[cold]
fn release_marked(
    connection: &mut Connection,
    session: &mut Session,
    up_to: Seq,
    effects: &mut Effects,
) -> bool {
    let mut last = None;
    while let Some(entry) = session.marks.first_entry().filter(|entry| *entry.key() <= up_to) {
        let (seq, mark) = entry.remove_entry();
        last = Some(seq);
        let (packet_id, head) = session.inflight.resume(seq, mark);
        if mark == Mark::Released {
            let (version, out) = (connection.version, connection.write(&mut effects.dirty));
            wire::encode_ack(out, version, AckKind::PubRel, packet_id, ReasonCode::SUCCESS);
        }
        advance(session, head, effects);
    }
    last == Some(up_to)
}

/// Whether a message that came back from the lane may have been sent at QoS 2: then it does not expire any more
/// [MQTT-4.3.3-7].
pub(crate) fn in_exchange(session: &Session, queued: &Queued) -> bool {
    let (Keeping::Stored(stored), Some(seq)) = (session.keeping, queued.seq) else { return false };
    seq < stored.sent_before && decode_head(&queued.record).is_ok_and(|head| head.qos == Qos::ExactlyOnce)
}
