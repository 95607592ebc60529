//! One connection to an upstream MQTT broker: the client half of the protocol.
//!
//! Knows: CONNECT and its answer, the window of unacknowledged publications (those of QoS 2 in `exactly`), keep-alive; subscriptions, if something is
//! to come from there. Never: sockets, lanes' contents, what a message looks like there (a `Dialect` does).
//! In: bytes from the upstream, records to send, time. Out: bytes to write, answers, or why it ends.
//! Invariant: packet identifiers of QoS 1 in flight are consecutive in a ring, so an acknowledgement is found by subtraction.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;

use model::{Instant, Now, Qos, Seq};
use wire::{Connect, OutgoingPublish, Packet, ReasonCode, Subscribe, Subscription, Unsubscribe, Version};

use super::dialect::{Dialect, Form, Outgoing};
use super::exactly::{Begun, Ended, Exchanges};
use super::inbound::{Inbound, InboundCounts, InboundRules, LocalError};
use super::poison::Refusal;
use super::senders::Sender;
use super::sources::Source;

/// Packet identifiers of publications of QoS 1; those above are for QoS 2, and the last are for UNSUBSCRIBE and SUBSCRIBE.
const RING: u32 = 32_767;
const SUBSCRIBE_ID: NonZeroU16 = NonZeroU16::MAX;
const UNSUBSCRIBE_ID: NonZeroU16 = NonZeroU16::new(u16::MAX - 1).expect("not 0");
/// Bytes that may wait for the session at our own broker before nothing more is read.
const LOCAL_HELD_MAX: usize = 64 << 10;
/// How long anything may take to come after a PINGREQ, if keep-alive allows as much.
const PING_MILLIS: u64 = 20_000;

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
    /// How long the answer to CONNECT may take.
    pub greeting_millis: u64,
    /// How long nothing in flight may be answered; 0 for ever.
    pub answer_millis: u64,
    /// What messages look like there.
    pub dialect: Arc<dyn Dialect>,
    /// What comes from there, if anything does.
    pub inbound: Option<Arc<InboundRules>>,
    /// Publications that may be unacknowledged.
    pub inflight_max: u16,
    /// Largest packet we read.
    pub packet_bytes_max: u32,
    /// Whether publications of QoS 2 may come.
    pub is_exact: bool,
    /// Which of the upstream's addresses it is.
    pub address: usize,
    /// What was subscribed to there in earlier lives, and is not to be any more.
    pub gone: Arc<[String]>,
    /// What the upstream remembers for us is not ours to end.
    pub keeps_session: bool,
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
    /// It said goodbye.
    #[error("the upstream closed the connection: {0}")]
    Disconnected(ReasonCode),
    /// It does not speak MQTT as it should.
    #[error("the upstream broke the protocol: {0}")]
    Protocol(&'static str),
    /// Its bytes are no packets.
    #[error("the upstream sent a malformed packet: {0}")]
    Malformed(#[from] wire::Malformed),
    /// Nothing came for one and a half keep-alive periods, or after a PINGREQ.
    #[error("the upstream is silent")]
    Silent,
    /// The connection is there, the answer to CONNECT does not come.
    #[error(
        "the upstream took the connection and does not answer CONNECT within {} s; is it an MQTT broker, and well?",
        .millis.div_ceil(1_000)
    )]
    NotGreeted {
        /// So long was waited.
        millis: u64,
    },
    /// It answers pings, and no publication.
    #[error(
        "the upstream is there, and has acknowledged nothing for {} s with {inflight} messages in flight",
        .millis.div_ceil(1_000)
    )]
    Unanswered {
        /// So long was waited.
        millis: u64,
        /// Publications in flight.
        inflight: usize,
    },
    /// It takes nothing that it would answer.
    #[error(
        "the upstream takes only QoS 0, which nobody answers: what is to be delivered there could be lost unseen"
    )]
    NeverAnswers,
    /// Our own session for what comes from there has ended.
    #[error(transparent)]
    Local(#[from] LocalError),
}

/// What became of a message that was offered to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// An answer is waited for.
    InFlight,
    /// QoS 0: nobody answers.
    Gone,
}

/// A publication in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sending {
    /// Whose it is, and in which lane.
    pub(super) sender: Sender,
    /// Its place there.
    pub(super) seq: Seq,
    /// From whom and which output, where that is counted.
    pub(super) source: Source,
}

/// What the upstream said about a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Which one.
    pub(super) about: Sending,
    /// What.
    pub(super) reason: ReasonCode,
    /// How many had been sent on this link before it, if it was sent on this one.
    pub(super) number: Option<u64>,
}

/// A publication from upstream that is for a service, and not for our own broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// As it came.
    pub topic: String,
    /// As it came.
    pub payload: Vec<u8>,
    /// What it is acknowledged by, if it wants to be: the number of the link, its identifier.
    pub ack: Option<(u64, NonZeroU16)>,
}

/// Requests of one link that wait until the upstream was asked for their answers.
const LATER_MAX: usize = 64;

/// What services have with the upstream over a link: filters, requests, what comes back. One question about filters is in
/// flight at a time.
#[derive(Debug, Default)]
struct Line {
    wanted: BTreeSet<String>,
    told: BTreeSet<String>,
    is_asking: bool,
    /// Requests whose answers come through filters that are not asked for yet; [`LATER_MAX`] at most.
    later: Vec<(String, Vec<u8>)>,
    heard: Vec<Heard>,
    /// Of the link.
    number: u64,
}

impl Line {
    /// Whether the upstream has been asked for everything that services want to hear.
    fn has_asked_for_all(&self) -> bool {
        self.wanted.is_subset(&self.told)
    }
}

/// One connection to an upstream.
#[derive(Debug)]
pub(super) struct Link {
    setup: LinkSetup,
    state: LinkState,
    /// Each publication of QoS 1 in flight, and how many had been sent before it; `None` once answered.
    inflight: VecDeque<Option<(Sending, u64)>>,
    /// Ring position of the first one.
    first: u32,
    /// Publications of QoS 2.
    exchanges: Exchanges,
    /// Publications sent that are answered.
    sent: u64,
    /// Highest QoS that the upstream takes.
    qos_max: Qos,
    /// Whether it takes retained messages.
    retain_available: bool,
    window: usize,
    packet_bytes_max: usize,
    keep_alive_millis: u64,
    opened_at: Instant,
    wrote_at: Instant,
    heard_at: Instant,
    /// A PINGREQ that nothing came after yet.
    pinged_at: Option<Instant>,
    /// When something in flight was last answered, or went there with nothing else.
    moved_at: Instant,
    form: Form,
    inbound: Option<Inbound>,
    /// For our own session.
    local_out: Vec<u8>,
    /// So much of that is our CONNECT.
    local_greeting: usize,
    /// Whether our session is of the time with this upstream.
    is_session_ours: bool,
    /// Filters that the upstream refuses, and why.
    unsubscribed: Vec<(String, ReasonCode)>,
    /// Messages that were sent without their properties.
    poorer: u64,
    line: Line,
    /// Filters still to be ended there.
    leaving: VecDeque<String>,
    /// Messages that came although nothing is subscribed to.
    strays: u64,
}

impl Link {
    /// A link over a fresh connection; its CONNECT is appended to `out`. `exchanges` are those of the link before.
    pub(super) fn open(
        setup: LinkSetup,
        exchanges: Exchanges,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<Link, LinkError> {
        // The session at the upstream stays for a day, so that an exchange of QoS 2 can go on, and what waits for us waits.
        let mut connect = Connect::new(setup.version, setup.client_id.clone());
        // What an earlier life has begun with QoS 2, or has subscribed to, is best forgotten there, but not what waits there
        // for us. In 3.1.1 a session that begins clean ends with its connection, and with it each exchange.
        let may_forget = !setup.keeps_session
            && setup.inbound.is_none()
            && (setup.version == Version::V5 || !setup.is_exact);
        connect.clean_start = may_forget && exchanges.is_empty(setup.address);
        connect.keep_alive_secs = setup.keep_alive_secs;
        connect.user_name.clone_from(&setup.user);
        connect.password.clone_from(&setup.password);
        if setup.version == Version::V5 {
            connect.session_expiry_secs = 24 * 3600;
        }
        let inbound = setup.inbound.as_ref().map(|rules| {
            connect.receive_max = NonZeroU16::new(rules.open_max).unwrap_or(NonZeroU16::MIN);
            connect.packet_bytes_max = setup.packet_bytes_max.try_into().ok();
            Inbound::new(Arc::clone(rules))
        });
        wire::encode_connect(out, &connect).map_err(|_| LinkError::Protocol("our CONNECT is too long"))?;
        Ok(Link {
            state: LinkState::Greeting,
            inflight: VecDeque::new(),
            first: 0,
            exchanges,
            sent: 0,
            qos_max: Qos::ExactlyOnce,
            retain_available: true,
            window: usize::from(setup.inflight_max).min(RING as usize),
            packet_bytes_max: usize::MAX,
            keep_alive_millis: u64::from(setup.keep_alive_secs) * 1_000,
            opened_at: now.instant,
            wrote_at: now.instant,
            heard_at: now.instant,
            pinged_at: None,
            moved_at: now.instant,
            form: Form::default(),
            inbound,
            local_out: Vec::new(),
            local_greeting: 0,
            is_session_ours: false,
            unsubscribed: Vec::new(),
            poorer: 0,
            line: Line::default(),
            leaving: VecDeque::new(),
            strays: 0,
            setup,
        })
    }

    /// How far it is.
    pub(super) fn state(&self) -> LinkState {
        self.state
    }

    /// Publications in flight, those included that were answered out of order.
    pub(super) fn inflight(&self) -> usize {
        self.inflight.len() + self.exchanges.under_way()
    }

    /// The link is over: publications of QoS 2 go on with the next one.
    pub(super) fn into_exchanges(self) -> Exchanges {
        self.exchanges
    }

    /// The first publication that is not answered.
    pub(super) fn first_unanswered(&self) -> Option<Sending> {
        let first = self.inflight.front().copied().flatten().map(|(about, number)| (number, about));
        let first = first.into_iter().chain(self.exchanges.first()).min_by_key(|(number, _)| *number);
        first.map(|(_, about)| about)
    }

    /// What is in flight with QoS 1 and not answered, in order.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = Sending> {
        self.inflight.iter().copied().flatten().map(|(about, _)| about)
    }

    /// Publications that the upstream takes at once.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// Largest packet that the upstream takes.
    fn bytes_max(&self) -> u32 {
        u32::try_from(self.packet_bytes_max).unwrap_or(u32::MAX)
    }

    /// Takes every whole packet in `bytes` and puts what it says about publications on `answers`. Returns how many
    /// bytes were taken.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        answers: &mut Vec<Answer>,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<usize, LinkError> {
        self.heard_at = now.instant;
        self.pinged_at = None;
        let mut taken = 0;
        while let Some(frame) = wire::split(&bytes[taken..], self.setup.packet_bytes_max)? {
            taken += frame.total_len();
            match wire::decode(frame, self.setup.version)? {
                Packet::PubAck(ack) => answers.extend(self.on_puback(ack.packet_id, ack.reason, now)),
                Packet::PubRec(ack) => answers.extend(self.on_pubrec(ack.packet_id, ack.reason, now, out)),
                Packet::PubComp(ack) => {
                    self.moved_at = now.instant;
                    let ended = self.exchanges.completed(ack.packet_id.get());
                    answers.extend(ended.map(|ended| answer(ended, ReasonCode::SUCCESS)));
                }
                Packet::ConnAck(ack) => self.on_connack(&ack, out)?,
                Packet::SubAck(ack) => {
                    self.on_suback(&ack.reasons);
                    self.answered_about_filters(out);
                }
                Packet::UnsubAck(ack) if ack.packet_id == UNSUBSCRIBE_ID => self.leave_next(out),
                Packet::UnsubAck(_) => self.answered_about_filters(out),
                Packet::PingResp => {}
                Packet::Disconnect(disconnect) => return Err(LinkError::Disconnected(disconnect.reason)),
                Packet::Publish(publish) => {
                    if let Some(inbound) = &mut self.inbound {
                        let taken = inbound.take(&publish, self.setup.version, &mut self.local_out, out);
                        taken.map_err(LinkError::Protocol)?;
                        continue;
                    }
                    // A message of the cloud is the device's alone to acknowledge, whoever listens just now.
                    let is_for_device = || {
                        self.line.number > 0
                            && matches!(
                                hub::topics::outbound(publish.topic),
                                Some(hub::topics::Outbound::CloudToDevice { .. })
                            )
                    };
                    if !self.line.wanted.is_empty() || is_for_device() {
                        let (topic, payload) = (publish.topic.to_owned(), publish.payload.to_vec());
                        let wants = publish.packet_id.filter(|_| publish.qos == Qos::AtLeastOnce);
                        let ack = wants.map(|packet_id| (self.line.number, packet_id));
                        self.line.heard.push(Heard { topic, payload, ack });
                        continue;
                    }
                    // Left over from an earlier life of this client identifier: it is not sent for ever.
                    self.strays += 1;
                    if let Some(packet_id) = publish.packet_id {
                        let is_exact = publish.qos == Qos::ExactlyOnce;
                        let kind = if is_exact { wire::AckKind::PubRec } else { wire::AckKind::PubAck };
                        wire::encode_ack(out, self.setup.version, kind, packet_id, ReasonCode::SUCCESS);
                    }
                }
                Packet::PubRel(ack) => match &self.inbound {
                    Some(inbound) => inbound.release(ack.packet_id, &mut self.local_out),
                    None => {
                        let (version, kind) = (self.setup.version, wire::AckKind::PubComp);
                        wire::encode_ack(out, version, kind, ack.packet_id, ReasonCode::SUCCESS);
                    }
                },
                _ => return Err(LinkError::Protocol("a packet that a client never gets")),
            }
        }
        Ok(taken)
    }

    /// Appends a message to `out`; it is in flight then, but with QoS 0. Call only while less than [`Link::window`] is.
    pub(super) fn send(
        &mut self,
        about: Sending,
        message: &Outgoing<'_>,
        repeat: bool,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<Sent, Refusal> {
        self.form.clear();
        self.setup.dialect.write(message, &mut self.form)?;
        self.form.qos = self.form.qos.min(self.qos_max);
        self.form.retain &= self.retain_available; // [MQTT-3.2.2-14]
        let (before, was_idle) = (out.len(), self.inflight() == 0);
        // Always one, as long as less than the window is in flight: identifiers are many more.
        let begun = match self.form.qos {
            Qos::ExactlyOnce => Some(self.exchanges.begin(about, self.sent).ok_or(Refusal::Unreadable)?),
            _ => None,
        };
        let (id, is_repeat) = match begun {
            Some(Begun::Released) => {
                self.sent += 1;
                return Ok(Sent::InFlight);
            }
            Some(Begun::Publish { id, is_repeat, release_first }) => {
                if release_first {
                    self.release(id, out);
                }
                (id, is_repeat)
            }
            None => (((self.first + self.inflight.len() as u32) % RING) as u16 + 1, false),
        };
        let start = out.len();
        let encoded = self.encode(message, repeat || is_repeat, id, now, out);
        if encoded.is_err() || out.len() - start > self.packet_bytes_max {
            out.truncate(before);
            if let Some(begun) = begun {
                self.exchanges.undo(begun);
            }
            return Err(Refusal::TooLarge { bytes_max: self.bytes_max() });
        }
        self.wrote_at = now.instant;
        self.poorer += u64::from(self.form.is_poorer);
        if self.form.qos == Qos::AtMostOnce {
            return Ok(Sent::Gone);
        }
        if was_idle {
            self.moved_at = now.instant;
        }
        if begun.is_none() {
            self.inflight.push_back(Some((about, self.sent)));
        }
        self.sent += 1;
        Ok(Sent::InFlight)
    }

    /// What services want to hear; the upstream is told what has changed.
    pub(super) fn listen(&mut self, filters: &BTreeSet<String>, out: &mut Vec<u8>) {
        self.line.wanted.clone_from(filters);
        self.ask_for_filters(out);
        self.say_later(out);
    }

    /// Appends a request of a service, with QoS 0: it is answered by another message, or not at all. `false`: it cannot be
    /// sent, now or ever.
    pub(super) fn say(&mut self, topic: &str, payload: &[u8], now: Now, out: &mut Vec<u8>) -> bool {
        if self.state == LinkState::Up && !self.line.has_asked_for_all() {
            // The upstream would have nowhere to send the answer to.
            let has_room = self.line.later.len() < LATER_MAX;
            if has_room {
                self.line.later.push((topic.to_owned(), payload.to_vec()));
            }
            return has_room;
        }
        let fits = self.put(topic, payload, out);
        if fits {
            self.wrote_at = now.instant;
        }
        fits
    }

    /// Says what had to wait, if it has waited long enough.
    fn say_later(&mut self, out: &mut Vec<u8>) {
        if self.line.has_asked_for_all() {
            for (topic, payload) in std::mem::take(&mut self.line.later) {
                self.put(&topic, &payload, out);
            }
        }
    }

    fn put(&self, topic: &str, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let publish = OutgoingPublish { topic, payload, qos: Qos::AtMostOnce, ..OutgoingPublish::default() };
        let fits = self.state == LinkState::Up
            && wire::encode_publish(out, self.setup.version, &publish).is_ok()
            && out.len() - start <= self.packet_bytes_max;
        if !fits {
            out.truncate(start);
        }
        fits
    }

    /// A service has taken what it heard.
    pub(super) fn acknowledge(&mut self, packet_id: NonZeroU16, now: Now, out: &mut Vec<u8>) {
        wire::encode_ack(out, self.setup.version, wire::AckKind::PubAck, packet_id, ReasonCode::SUCCESS);
        self.wrote_at = now.instant;
    }

    /// It is the link of this number.
    pub(super) fn number(mut self, number: u64) -> Link {
        self.line.number = number;
        self
    }

    /// What has come for services.
    pub(super) fn take_heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.line.heard)
    }

    fn answered_about_filters(&mut self, out: &mut Vec<u8>) {
        self.line.is_asking = false;
        self.ask_for_filters(out);
        self.say_later(out);
    }

    fn ask_for_filters(&mut self, out: &mut Vec<u8>) {
        let line = &mut self.line;
        if self.state != LinkState::Up || line.is_asking {
            return;
        }
        let new: Vec<String> = line.wanted.difference(&line.told).cloned().collect();
        let gone: Vec<String> = line.told.difference(&line.wanted).cloned().collect();
        let version = self.setup.version;
        // A few short filters can always be encoded.
        if !new.is_empty() {
            let subscribe = Subscribe {
                packet_id: SUBSCRIBE_ID,
                subscription_id: None,
                user_properties: Vec::new(),
                subscriptions: new.iter().map(|filter| Subscription::new(filter, Qos::AtLeastOnce)).collect(),
            };
            line.is_asking = wire::encode_subscribe(out, version, &subscribe).is_ok();
            line.told.extend(new);
        } else if !gone.is_empty() {
            line.told.retain(|filter| !gone.contains(filter));
            let unsubscribe =
                Unsubscribe { packet_id: SUBSCRIBE_ID, user_properties: Vec::new(), filters: gone };
            line.is_asking = wire::encode_unsubscribe(out, version, &unsubscribe).is_ok();
        }
    }

    /// Time passed: keeps the connection alive, or says that it is not.
    pub(super) fn tick(&mut self, now: Now, out: &mut Vec<u8>) -> Result<(), LinkError> {
        let since = |at: Instant| now.instant.millis_since(at);
        if self.state == LinkState::Greeting && since(self.opened_at) > self.setup.greeting_millis {
            return Err(LinkError::NotGreeted { millis: self.setup.greeting_millis });
        }
        let millis = self.setup.answer_millis;
        if millis > 0 && self.inflight() > 0 && since(self.moved_at) > millis {
            return Err(LinkError::Unanswered { millis, inflight: self.inflight() });
        }
        let ping_millis =
            if self.keep_alive_millis == 0 { PING_MILLIS } else { self.keep_alive_millis.min(PING_MILLIS) };
        if self.pinged_at.is_some_and(|at| since(at) > ping_millis) {
            return Err(LinkError::Silent);
        }
        if self.keep_alive_millis == 0 {
            return Ok(());
        }
        if since(self.heard_at) > self.keep_alive_millis * 3 / 2 {
            return Err(LinkError::Silent);
        }
        // At half the period, so that one lost round trip does not end the link. Silence of the other side is probed
        // too: a half-open connection swallows what we write.
        if since(self.wrote_at.min(self.heard_at)) >= self.keep_alive_millis / 2 && self.pinged_at.is_none() {
            self.probe(now, out);
        }
        Ok(())
    }

    /// Asks the upstream whether it is there; if nothing comes back soon, [`Link::tick`] says that it is not.
    pub(super) fn probe(&mut self, now: Now, out: &mut Vec<u8>) {
        if self.state == LinkState::Up {
            wire::encode_pingreq(out);
            self.wrote_at = now.instant;
            self.pinged_at.get_or_insert(now.instant);
        }
    }

    /// Appends a goodbye to `out`.
    pub(super) fn close(&self, out: &mut Vec<u8>) {
        let goodbye = wire::Disconnect::new(ReasonCode::NORMAL_DISCONNECTION);
        // A DISCONNECT without properties can always be encoded.
        wire::encode_disconnect(out, self.setup.version, &goodbye).ok();
    }

    fn encode(
        &self,
        message: &Outgoing<'_>,
        repeat: bool,
        id: u16,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<(), wire::Unencodable> {
        let form = &self.form;
        let publish = OutgoingPublish {
            topic: &form.topic,
            qos: form.qos,
            dup: repeat,
            retain: form.retain,
            packet_id: NonZeroU16::new(id),
            payload: form.payload.as_deref().unwrap_or(message.envelope.payload),
            properties: form.properties.as_bytes(),
            expiry_secs: message.expires.map(|at| {
                at.0.saturating_sub(now.timestamp.0).div_ceil(1_000).min(u64::from(u32::MAX)) as u32
            }),
            ..OutgoingPublish::default()
        };
        wire::encode_publish(out, self.setup.version, &publish).map(drop)
    }

    /// `is_ours`: the session at our own broker is of the time with this upstream.
    pub(super) fn with_session(mut self, is_ours: bool) -> Link {
        self.is_session_ours = is_ours;
        self
    }

    /// Which upstream's time the session at our own broker is of, after this link; `before`: of which it was.
    pub(super) fn session_after(&self, before: Option<usize>) -> Option<usize> {
        let Some(inbound) = &self.inbound else { return before };
        match inbound.is_asked() {
            // Asked to go on it does, seen or not; to begin anew, it has, once that is seen.
            Some(continues) => Some(self.setup.address).filter(|_| continues || inbound.is_there()),
            None => before,
        }
    }

    /// Takes every whole packet of our own broker; returns how many bytes that were.
    pub(super) fn read_local(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, LocalError> {
        match &mut self.inbound {
            Some(inbound) => inbound.read_local(bytes, self.setup.version, out),
            None => Ok(bytes.len()),
        }
    }

    /// Bytes for our own broker. Publications wait until its session is there, so that nothing is published in one that is not
    /// known to be ours.
    pub(super) fn local_bytes(&self) -> &[u8] {
        match &self.inbound {
            Some(inbound) if !inbound.is_there() => &self.local_out[..self.local_greeting],
            _ => &self.local_out,
        }
    }

    /// So many of them are on their way.
    pub(super) fn wrote_local(&mut self, len: usize) {
        self.local_out.drain(..len);
        self.local_greeting = self.local_greeting.saturating_sub(len);
    }

    /// Whether our own broker has so much to do for us that nothing more should be read from upstream.
    pub(super) fn is_inbound_full(&self) -> bool {
        let held = self.local_out.len() - self.local_bytes().len();
        held >= LOCAL_HELD_MAX || self.inbound.as_ref().is_some_and(Inbound::is_full)
    }

    pub(super) fn inbound_counts(&self) -> InboundCounts {
        let counts = self.inbound.as_ref().map_or_else(InboundCounts::default, Inbound::counts);
        InboundCounts { unmapped: counts.unmapped + self.strays, ..counts }
    }

    /// Filters that the upstream has refused since the last time.
    pub(super) fn take_unsubscribed(&mut self) -> Vec<(String, ReasonCode)> {
        std::mem::take(&mut self.unsubscribed)
    }

    /// Messages that were sent without their properties.
    pub(super) fn poorer(&self) -> u64 {
        self.poorer
    }

    fn on_suback(&mut self, reasons: &[ReasonCode]) {
        let Some(inbound) = &self.inbound else { return };
        let refused = reasons.iter().enumerate().filter(|(_, reason)| reason.is_error());
        self.unsubscribed.extend(refused.map(|(index, reason)| (inbound.filter(index).to_owned(), *reason)));
    }

    fn on_connack(&mut self, ack: &wire::ConnAck, out: &mut Vec<u8>) -> Result<(), LinkError> {
        if self.state == LinkState::Up {
            return Err(LinkError::Protocol("a second CONNACK"));
        }
        if ack.reason.is_error() {
            return Err(LinkError::Refused(ack.reason));
        }
        if ack.qos_max == Qos::AtMostOnce && self.setup.dialect.wants_answers() {
            return Err(LinkError::NeverAnswers);
        }
        self.state = LinkState::Up;
        self.retain_available = ack.retain_available;
        self.window = self.window.min(usize::from(ack.receive_max.get()));
        self.qos_max = ack.qos_max;
        for id in self.exchanges.let_in(self.setup.address, ack.session_present) {
            self.release(id, out);
        }
        if let Some(bytes) = ack.packet_bytes_max {
            self.packet_bytes_max = bytes.get() as usize;
        }
        if let Some(secs) = ack.keep_alive_secs {
            self.keep_alive_millis = u64::from(secs) * 1_000; // [MQTT-3.1.2-21]
        }
        if let Some(inbound) = &mut self.inbound {
            inbound.begin(ack.session_present && self.is_session_ours, &mut self.local_out);
            self.local_greeting = self.local_out.len();
            let subscribe = Subscribe {
                packet_id: SUBSCRIBE_ID,
                subscription_id: None,
                user_properties: Vec::new(),
                subscriptions: inbound.subscriptions(),
            };
            let encoded = wire::encode_subscribe(out, self.setup.version, &subscribe);
            encoded
                .map_err(|_| LinkError::Protocol("our SUBSCRIBE is too long; name fewer inbound topics"))?;
        } else {
            self.ask_for_filters(out);
        }
        if ack.session_present {
            self.leaving = self.setup.gone.iter().cloned().collect();
            self.leave_next(out);
        }
        Ok(())
    }

    /// One at a time: each was short enough to be subscribed to, all of them may not be.
    fn leave_next(&mut self, out: &mut Vec<u8>) {
        if let Some(filter) = self.leaving.pop_front() {
            let filters = vec![filter];
            let unsubscribe = Unsubscribe { packet_id: UNSUBSCRIBE_ID, user_properties: Vec::new(), filters };
            // What could be subscribed to can be ended.
            wire::encode_unsubscribe(out, self.setup.version, &unsubscribe).ok();
        }
    }

    fn on_puback(&mut self, packet_id: NonZeroU16, reason: ReasonCode, now: Now) -> Option<Answer> {
        let place = Some(u32::from(packet_id.get() - 1)).filter(|place| *place < RING)?;
        let index = (place + RING - self.first) % RING;
        // A late repeat of an answer changes nothing.
        let (about, number) = self.inflight.get_mut(index as usize)?.take()?;
        self.moved_at = now.instant;
        while self.inflight.front() == Some(&None) {
            self.inflight.pop_front();
            self.first = (self.first + 1) % RING;
        }
        Some(Answer { about, reason, number: Some(number) })
    }

    /// The message has arrived with this, or is refused [MQTT-4.3.3-4].
    fn on_pubrec(
        &mut self,
        packet_id: NonZeroU16,
        reason: ReasonCode,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Option<Answer> {
        let is_taken = !reason.is_error();
        let ended = self.exchanges.received(packet_id.get(), is_taken);
        // A repeat is answered, too: our PUBREL may be lost.
        if is_taken {
            self.release(packet_id.get(), out);
        }
        self.moved_at = now.instant;
        ended.map(|ended| answer(ended, reason))
    }

    fn release(&mut self, id: u16, out: &mut Vec<u8>) {
        if let Some(id) = NonZeroU16::new(id) {
            let version = self.setup.version;
            wire::encode_ack(out, version, wire::AckKind::PubRel, id, ReasonCode::SUCCESS);
        }
    }
}

fn answer(ended: Ended, reason: ReasonCode) -> Answer {
    Answer { about: ended.about, reason, number: ended.number }
}
