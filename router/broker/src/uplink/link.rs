//! One connection to an upstream MQTT broker: the client half of the protocol.
//!
//! Knows: CONNECT and its answer, the window of unacknowledged publications, keep-alive. Never: sockets, lanes' contents.
//! In: bytes from the upstream, records to send, time. Out: bytes to write, places that are settled, or why it ends.
//! Invariant: packet identifiers in flight are consecutive in a ring, so an acknowledgement is found by subtraction.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use model::{Instant, LaneId, Now, Qos, Seq, Timestamp};
use wire::{Connect, OutgoingPublish, Packet, ReasonCode, Version};

use super::Lanes;
use crate::envelope::Envelope;

const RING: u32 = 65_535;

/// How a link presents itself and how much it may have under way.
#[derive(Clone, Debug)]
pub struct LinkSetup {
    /// Protocol version.
    pub version: Version,
    /// Our client identifier at the upstream.
    pub client_id: String,
    /// User name, if it wants one.
    pub user: Option<String>,
    /// Password, if it wants one.
    pub password: Option<Vec<u8>>,
    /// Keep-alive in seconds; 0 for none.
    pub keep_alive_secs: u16,
    /// Put before every topic.
    pub topic_prefix: String,
    /// Publications that may be unacknowledged.
    pub inflight_max: u16,
    /// Largest packet we read.
    pub packet_bytes_max: u32,
}

/// How far a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// CONNECT is sent, CONNACK has not come.
    Greeting,
    /// Publications may be sent.
    Up,
}

/// Why a link ends. What was not acknowledged is sent again on the next one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The upstream refused our CONNECT.
    #[error("the upstream refuses the connection: {0}")]
    Refused(ReasonCode),
    /// The upstream refused a publication for good; it stays first in its lane.
    #[error("the upstream refuses message {seq} of lane {lane}: {reason}")]
    MessageRefused {
        /// Its lane.
        lane: LaneId,
        /// Its place.
        seq: Seq,
        /// Why.
        reason: ReasonCode,
    },
    /// It said goodbye.
    #[error("the upstream closed the connection: {0}")]
    Disconnected(ReasonCode),
    /// It does not speak MQTT as it should.
    #[error("the upstream broke the protocol: {0}")]
    Protocol(&'static str),
    /// Its bytes are no packets.
    #[error("the upstream sent a malformed packet: {0}")]
    Malformed(#[from] wire::Malformed),
    /// Nothing came for one and a half keep-alive periods.
    #[error("the upstream is silent")]
    Silent,
}

/// What became of a record that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is in flight.
    InFlight,
    /// It cannot be sent to this upstream, ever; its place counts as settled. The caller counts and reports it.
    Impossible(Impossible),
}

/// Why a record cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impossible {
    /// It is larger than the upstream's Maximum Packet Size.
    TooLarge,
    /// It is no message envelope.
    Unreadable,
}

/// One connection to an upstream.
#[derive(Debug)]
pub struct Link {
    setup: LinkSetup,
    state: LinkState,
    /// Index of the lane and place of each publication in flight; `None` once settled.
    inflight: VecDeque<Option<(usize, Seq)>>,
    /// Ring position of the first publication in flight.
    first: u32,
    window: usize,
    packet_bytes_max: usize,
    keep_alive_millis: u64,
    wrote_at: Instant,
    heard_at: Instant,
    topic: String,
}

impl Link {
    /// A link over a fresh connection; its CONNECT is appended to `out`.
    pub fn open(setup: LinkSetup, now: Now, out: &mut Vec<u8>) -> Result<Link, LinkError> {
        // The session at the upstream stays for a day, so that it can tell a repeat (DUP) from a new message.
        let mut connect = Connect::new(setup.version, setup.client_id.clone());
        connect.clean_start = false;
        connect.keep_alive_secs = setup.keep_alive_secs;
        connect.user_name.clone_from(&setup.user);
        connect.password.clone_from(&setup.password);
        if setup.version == Version::V5 {
            connect.session_expiry_secs = 24 * 3600;
        }
        wire::encode_connect(out, &connect).map_err(|_| LinkError::Protocol("our CONNECT is too long"))?;
        Ok(Link {
            state: LinkState::Greeting,
            inflight: VecDeque::new(),
            first: 0,
            window: usize::from(setup.inflight_max),
            packet_bytes_max: usize::MAX,
            keep_alive_millis: u64::from(setup.keep_alive_secs) * 1_000,
            wrote_at: now.instant,
            heard_at: now.instant,
            topic: String::new(),
            setup,
        })
    }

    /// How far it is.
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// Publications that are not acknowledged.
    pub fn inflight(&self) -> usize {
        self.inflight.len()
    }

    /// How many more publications may be sent now.
    pub fn room(&self) -> usize {
        match self.state {
            LinkState::Greeting => 0,
            LinkState::Up => self.window.saturating_sub(self.inflight.len()),
        }
    }

    /// Takes every whole packet in `bytes`, settles what it acknowledges, and puts the last delivered place of each
    /// lane that moved into `delivered`. Returns how many bytes were taken.
    pub fn read(
        &mut self,
        bytes: &[u8],
        lanes: &mut Lanes,
        delivered: &mut Vec<(LaneId, Seq)>,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<usize, LinkError> {
        self.heard_at = now.instant;
        let mut taken = 0;
        while let Some(frame) = wire::split(&bytes[taken..], self.setup.packet_bytes_max)? {
            taken += frame.total_len();
            match wire::decode(frame, self.setup.version)? {
                Packet::PubAck(ack) => self.on_puback(ack.packet_id, ack.reason, lanes, delivered)?,
                Packet::ConnAck(ack) => self.on_connack(&ack)?,
                Packet::PingResp => {}
                Packet::Disconnect(disconnect) => return Err(LinkError::Disconnected(disconnect.reason)),
                // Left over from an earlier life of this client identifier: take it, so that it is not sent for ever.
                Packet::Publish(publish) => {
                    if let (Qos::AtLeastOnce, Some(packet_id)) = (publish.qos, publish.packet_id) {
                        let version = self.setup.version;
                        wire::encode_ack(out, version, wire::AckKind::PubAck, packet_id, ReasonCode::SUCCESS);
                    }
                }
                _ => return Err(LinkError::Protocol("a packet that a client never gets")),
            }
        }
        Ok(taken)
    }

    /// Sends the record at `seq` of the lane with this index. Call only while there is [`Link::room`].
    #[expect(
        clippy::too_many_arguments,
        reason = "one record is a place, bytes, an expiry and the turn's context"
    )]
    pub fn send(
        &mut self,
        lanes: &mut Lanes,
        lane: usize,
        seq: Seq,
        record: &[u8],
        expires: Option<Timestamp>,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Sent {
        let repeat = lanes.lane(lane).is_repeat(seq);
        lanes.sent(lane, seq);
        let start = out.len();
        let place = (self.first + self.inflight.len() as u32) % RING;
        let encoded = self.encode(record, expires, repeat, place, now, out);
        let fits = encoded.is_ok() && out.len() - start <= self.packet_bytes_max;
        if !fits {
            out.truncate(start);
            return Sent::Impossible(encoded.err().unwrap_or(Impossible::TooLarge));
        }
        self.inflight.push_back(Some((lane, seq)));
        self.wrote_at = now.instant;
        Sent::InFlight
    }

    /// Time passed: keeps the connection alive, or says that it is not.
    pub fn tick(&mut self, now: Now, out: &mut Vec<u8>) -> Result<(), LinkError> {
        if self.keep_alive_millis == 0 {
            return Ok(());
        }
        if now.instant.millis_since(self.heard_at) > self.keep_alive_millis * 3 / 2 {
            return Err(LinkError::Silent);
        }
        // At half the period, so that one lost round trip does not end the link. Silence of the other side is probed
        // too: a half-open connection swallows what we write.
        let quiet = now.instant.millis_since(self.wrote_at.min(self.heard_at));
        if self.state == LinkState::Up && quiet >= self.keep_alive_millis / 2 {
            wire::encode_pingreq(out);
            self.wrote_at = now.instant;
        }
        Ok(())
    }

    /// Appends a goodbye to `out`.
    pub fn close(&self, out: &mut Vec<u8>) {
        let goodbye = wire::Disconnect::new(ReasonCode::NORMAL_DISCONNECTION);
        // A DISCONNECT without properties can always be encoded.
        wire::encode_disconnect(out, self.setup.version, &goodbye).ok();
    }

    fn encode(
        &mut self,
        record: &[u8],
        expires: Option<Timestamp>,
        repeat: bool,
        place: u32,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<(), Impossible> {
        let envelope = Envelope::decode(record).map_err(|_| Impossible::Unreadable)?;
        self.topic.clear();
        self.topic.push_str(&self.setup.topic_prefix);
        self.topic.push_str(envelope.topic);
        let publish = OutgoingPublish {
            topic: &self.topic,
            qos: Qos::AtLeastOnce,
            dup: repeat,
            retain: envelope.retain,
            packet_id: NonZeroU16::new(place as u16 + 1),
            payload: envelope.payload,
            properties: envelope.properties,
            expiry_secs: expires.map(|at| {
                at.0.saturating_sub(now.timestamp.0).div_ceil(1_000).min(u64::from(u32::MAX)) as u32
            }),
            ..OutgoingPublish::default()
        };
        match wire::encode_publish(out, self.setup.version, &publish) {
            Ok(_) => Ok(()),
            Err(_) => Err(Impossible::TooLarge),
        }
    }

    fn on_connack(&mut self, ack: &wire::ConnAck) -> Result<(), LinkError> {
        if self.state == LinkState::Up {
            return Err(LinkError::Protocol("a second CONNACK"));
        }
        if ack.reason.is_error() {
            return Err(LinkError::Refused(ack.reason));
        }
        self.state = LinkState::Up;
        self.window = self.window.min(usize::from(ack.receive_max.get()));
        if let Some(bytes) = ack.packet_bytes_max {
            self.packet_bytes_max = bytes.get() as usize;
        }
        if let Some(secs) = ack.keep_alive_secs {
            self.keep_alive_millis = u64::from(secs) * 1_000; // [MQTT-3.1.2-21]
        }
        Ok(())
    }

    fn on_puback(
        &mut self,
        packet_id: NonZeroU16,
        reason: ReasonCode,
        lanes: &mut Lanes,
        delivered: &mut Vec<(LaneId, Seq)>,
    ) -> Result<(), LinkError> {
        let index = (u32::from(packet_id.get() - 1) + RING - self.first) % RING;
        let Some(entry) = self.inflight.get_mut(index as usize) else { return Ok(()) };
        let Some((lane, seq)) = *entry else { return Ok(()) };
        if reason.is_error() {
            return Err(LinkError::MessageRefused { lane: lanes.lane(lane).lane, seq, reason });
        }
        *entry = None;
        while self.inflight.front() == Some(&None) {
            self.inflight.pop_front();
            self.first = (self.first + 1) % RING;
        }
        if let Some((lane, up_to)) = lanes.settle(lane, seq) {
            match delivered.iter_mut().find(|(have, _)| *have == lane) {
                Some(entry) => entry.1 = up_to,
                None => delivered.push((lane, up_to)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
