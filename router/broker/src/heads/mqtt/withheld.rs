//! Packets that are not taken, because there is no room for what they bring (see `crate::admit`).
//!
//! In: a packet of a connected client, while something is full or the store takes no writes. Out: it is taken as ever, or
//! answered with Quota exceeded, or stays unread in its connection, which then *waits*.
//! Always: who waits does not lose its place: nothing that it sent later is taken before, but what has nothing to do with
//! publishing: PINGREQ is answered, and acknowledgements of what we sent count, as far as they lie within
//! `limits.withheld_bytes_max` behind the packet. Its silence is ours: keep-alive does not run.

use std::num::NonZeroU64;

use model::{ConnId, Now, Qos};
use wire::{AckKind, Packet, Publish, ReasonCode, Version};

use super::{Fault, words};
use crate::acks::{Answer, OwedAck, Promise};
use crate::broker::Broker;
use crate::connections::Phase;
use crate::dispatch::Publication;
use crate::effects::Effects;
use crate::envelope::Envelope;
use crate::retained::is_system;
use crate::subscriptions::SessionKey;

/// What a publisher is told.
const WORDS: &str = "no room left for this message (uplink.NAME.bytes_max or store.bytes_max is reached): send it again later";

/// What becomes of a packet while there is less room than enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// It is taken as ever.
    Open,
    /// It stays where it is, and its connection is not read until levels change.
    Wait,
    /// It is answered with Quota exceeded, and nobody gets it.
    Refused,
}

impl Broker {
    /// Takes a packet while there is less room than enough; 0 if it must wait. Apart from the usual way, which knows nothing
    /// of this: even to lend the decoded packet to a decision costs QoS 1 pairs 4 % of their instructions.
    #[cold]
    pub(super) fn read_gated(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        frame: wire::Frame<'_>,
        now: Now,
        effects: &mut Effects,
    ) -> Result<usize, Fault> {
        let len = frame.total_len();
        let packet = wire::decode_apart(frame, self.version(conn))?;
        let read = match self.gate(conn, key, &packet, now, effects) {
            Gate::Open => self.on_packet_apart(conn, key, packet, now, effects).map(|()| len),
            Gate::Wait => Ok(0),
            Gate::Refused => Ok(len),
        };
        self.give_back_room();
        read
    }

    /// Decides about a packet while there is less room than enough.
    fn gate(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        packet: &Packet<'_>,
        now: Now,
        effects: &mut Effects,
    ) -> Gate {
        let Packet::Publish(publish) = packet else { return Gate::Open };
        // A sink without room goes without QoS 0; only what is to be retained must be written.
        if publish.qos == Qos::AtMostOnce && (!publish.retain || self.levels.takes_writes) {
            return Gate::Open;
        }
        let aliases = self.connections.get(conn).and_then(|connection| connection.aliases_in.as_ref());
        let alias = publish.properties.topic_alias().filter(|_| publish.topic.is_empty());
        let known = alias.and_then(|alias| aliases.and_then(|aliases| aliases.topic(alias)));
        let topic = known.map_or_else(|| publish.topic.to_owned(), str::to_owned);
        let publish = Publish { topic: &topic, ..*publish };
        if !self.would_be_dispatched(conn, key, &publish) {
            return Gate::Open;
        }
        match self.judge(conn, key, &publish, now) {
            Gate::Wait => {
                self.note_unacknowledged(conn, &publish);
                self.withhold(conn)
            }
            Gate::Refused => {
                self.note_unacknowledged(conn, &publish);
                self.note_alias(conn, &publish);
                self.refuse_for_want_of_room(conn, &publish, effects)
            }
            Gate::Open => Gate::Open,
        }
    }

    /// What is refused has said all the same what its alias stands for: the next PUBLISH may have nothing else.
    fn note_alias(&mut self, conn: ConnId, publish: &Publish<'_>) {
        if let Some(alias) = publish.properties.topic_alias()
            && let Some(connection) = self.connections.find(conn)
        {
            connection.aliases_in.get_or_insert_default().set(alias, publish.topic);
        }
    }

    /// Whether it is legal, allowed and new. If not, it is dealt with as ever.
    fn would_be_dispatched(&mut self, conn: ConnId, key: SessionKey, publish: &Publish<'_>) -> bool {
        let received = &self.sessions[key.0 as usize].received;
        let is_repeat =
            publish.qos == Qos::ExactlyOnce && publish.packet_id.is_some_and(|id| received.contains(id));
        let alias = publish.properties.topic_alias();
        !is_repeat
            && alias.is_none_or(|alias| alias.get() <= self.setup.limits.topic_alias_max)
            && !publish.topic.is_empty()
            && !is_system(publish.topic)
            && self.check_publish(publish).is_ok()
            && (!self.has_rules
                || self.is_hub_topic_of(conn, publish.topic)
                || self.may_publish(conn, publish.topic))
    }

    fn judge(&mut self, conn: ConnId, key: SessionKey, publish: &Publish<'_>, now: Now) -> Gate {
        let session = &self.sessions[key.0 as usize];
        let is_written_down = publish.retain || publish.qos == Qos::ExactlyOnce && session.is_stored();
        let (client_id, user) = (std::rc::Rc::clone(&session.client_id), session.owner.clone());
        let envelope = Envelope::of(publish, &client_id);
        let user = user.as_deref().unwrap_or_default();
        let needs = if self.is_hub_topic_of(conn, publish.topic) {
            let client = self.hub_client(conn);
            // What is no telemetry, or no good one, needs no room.
            match client.and_then(|client| self.needs_of_hub(&client, publish, now)) {
                Some(needs) => needs,
                None => return Gate::Open,
            }
        } else {
            self.needs_of(&Publication {
                envelope,
                user,
                expires: None,
                now,
                hub: None,
                is_written: true,
                input: None,
            })
        };
        if needs.refused && publish.qos != Qos::AtMostOnce {
            // 3.1.1 has no word for it.
            return if self.version(conn) == Version::V5 { Gate::Refused } else { Gate::Wait };
        }
        let is_behind = self.is_behind();
        let needs_disk = needs.disk || is_written_down || needs.memory && is_behind;
        if !self.levels.takes_writes && needs_disk { Gate::Wait } else { Gate::Open }
    }

    fn withhold(&mut self, conn: ConnId) -> Gate {
        self.counters.withheld += 1;
        self.withholdings += 1;
        if let Some(connection) = self.connections.find(conn) {
            connection.withheld = NonZeroU64::new(self.withholdings);
        }
        Gate::Wait
    }

    /// The publisher will send it again; nobody has got it, nothing has counted it.
    fn refuse_for_want_of_room(
        &mut self,
        conn: ConnId,
        publish: &Publish<'_>,
        effects: &mut Effects,
    ) -> Gate {
        self.counters.received += 1;
        self.counters.received_bytes += publish.payload.len() as u64;
        self.counters.refused_sink_full += 1;
        let kind = if publish.qos == Qos::ExactlyOnce { AckKind::PubRec } else { AckKind::PubAck };
        let (Some(packet_id), Some(connection)) = (publish.packet_id, self.connections.find(conn)) else {
            return Gate::Refused;
        };
        let ack = OwedAck { kind, packet_id, reason: ReasonCode::QUOTA_EXCEEDED };
        if connection.acks_owed == 0 {
            self.say_no(conn, ack, effects);
        } else {
            connection.acks_owed += 1; // in the order of the PUBLISHes [MQTT-4.6.0-2]
            self.acks.wait(connection.ack_queue, conn, Promise::default(), Answer::Refusal(ack));
        }
        Gate::Refused
    }

    /// Sends an acknowledgement that says why not.
    pub(crate) fn say_no(&mut self, conn: ConnId, ack: OwedAck, effects: &mut Effects) {
        let Some(connection) = self.connections.find(conn) else { return };
        let room = words::room(connection);
        // [MQTT-3.4.2-2] [MQTT-3.5.2-2]
        words::append_fitting(connection.write(&mut effects.dirty), room, |out, full| {
            let words = if full { WORDS } else { "" };
            wire::encode_refusal(out, ack.kind, ack.packet_id, ack.reason, words);
            Ok(())
        });
    }

    /// Whether the edge may read on, behind a packet of `conn` that waits; `unread` is what it has and we did not take.
    pub fn may_look_ahead(&self, conn: ConnId, unread: &[u8]) -> bool {
        let is_withheld = self.connections.get(conn).is_some_and(|connection| connection.withheld.is_some());
        let first = wire::bytes_needed(unread).unwrap_or_default();
        let behind = unread.len().saturating_sub(first);
        is_withheld && !self.is_saturated() && behind < self.setup.limits.withheld_bytes_max as usize
    }

    /// Takes out of `unread`, behind a packet of `conn` that waits, what has nothing to do with publishing.
    pub fn look_ahead(&mut self, conn: ConnId, unread: &mut Vec<u8>, now: Now, effects: &mut Effects) {
        let Some(connection) = self.connections.get(conn) else { return };
        let (Phase::Open(key), Some(_), version) =
            (connection.phase, connection.withheld, connection.version)
        else {
            return;
        };
        let packet_bytes_max = connection.inbound_bytes_max;
        let mut at = wire::bytes_needed(unread).unwrap_or(unread.len());
        // What is malformed is found again when its turn comes.
        while let Some(rest) = unread.get(at..)
            && let Ok(Some(frame)) = wire::split(rest, packet_bytes_max)
        {
            let len = frame.total_len();
            let Ok(packet) = wire::decode_apart(frame, version) else { return };
            let taken = matches!(
                packet,
                Packet::PingReq | Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubComp(_)
            );
            if !taken {
                if let Packet::Disconnect(disconnect) = &packet
                    && disconnect.reason == ReasonCode::NORMAL_DISCONNECTION
                    && let Some(connection) = self.connections.find(conn)
                {
                    connection.will = None; // it may close before its turn comes [MQTT-3.14.4-3]
                }
                at += len;
                continue;
            }
            if self.on_packet_apart(conn, key, packet, now, effects).is_err() {
                return;
            }
            unread.drain(at..at + len);
            self.counters.bytes_in += len as u64;
            if let Some(connection) = self.connections.find(conn) {
                connection.heard = now.instant;
            }
        }
    }
}
