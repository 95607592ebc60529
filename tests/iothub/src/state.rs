//! What the hub knows: identities, twins, sessions, what came in, what goes out. One lock around it, never held while waiting.
//!
//! In: what sessions, the service side and the tests tell. Out: packets on the way to clients, records for the tests.
//! Bound: `RECORDS_MAX` messages and events are kept, the newest; counters count all.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroU16;
use std::time::{Duration, Instant, SystemTime};

use model::Qos;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use wire::{OutgoingPublish, Version, encode_publish};

use crate::bag::{self, Pairs};
use crate::faults::{Active, Farewell, Faults, Verdict};
use crate::identity::Registry;
use crate::topics::{Feature, base};
use crate::twin::Twin;

/// Messages and events that are kept.
pub const RECORDS_MAX: usize = 200_000;
/// Deliveries of one message from the cloud, as IoT Hub's default.
const DELIVERIES_MAX: u32 = 10;
/// Packets on the way to one client.
pub(crate) const OUTBOX_MAX: usize = 1_024;

/// A message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Counts all that were recorded, from 1.
    pub number: u64,
    /// Since the hub began.
    pub at: Duration,
    /// Whose it is.
    pub device_id: String,
    /// Whose it is.
    pub module_id: Option<String>,
    /// The topic, byte for byte; empty for a last will.
    pub topic: String,
    /// By their names on the wire, in order.
    pub system: Pairs,
    /// In order.
    pub properties: Pairs,
    /// What it says.
    pub body: Vec<u8>,
    /// Sent before, perhaps.
    pub dup: bool,
    /// 0 or 1.
    pub qos: u8,
    /// By which connection, counted from 1.
    pub connection: u64,
    /// A last will.
    pub will: bool,
}

impl Telemetry {
    /// A property by name.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A system property by its name on the wire.
    pub fn system(&self, name: &str) -> Option<&str> {
        self.system.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// `device` or `device/module`.
    pub fn id(&self) -> String {
        match &self.module_id {
            Some(module_id) => format!("{}/{module_id}", self.device_id),
            None => self.device_id.clone(),
        }
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Counts all, from 1.
    pub number: u64,
    /// Milliseconds since the hub began.
    pub at_ms: u64,
    /// `connected`, `refused`, `disconnected`, `violation`, `throttled`, `subscribed`, …
    pub kind: &'static str,
    /// Whose; empty if unknown.
    pub id: String,
    /// For a person.
    pub text: String,
}

/// A message to a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudMessage {
    /// Its identifier; feedback names it.
    pub message_id: String,
    /// What it says.
    pub body: Vec<u8>,
    /// Application properties.
    pub properties: Pairs,
    /// Further system properties by their names on the wire.
    pub system: Pairs,
    /// `none`, `positive`, `negative` or `full`.
    pub ack: String,
    /// When it is worth nothing any more.
    pub expires: Option<SystemTime>,
}

/// What became of a message to a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Feedback {
    /// Which.
    pub original_message_id: String,
    /// Whose.
    pub device_id: String,
    /// `Success`, `Expired` or `DeliveryCountExceeded`.
    pub description: &'static str,
}

#[derive(Debug)]
struct Queued {
    message: CloudMessage,
    deliveries: u32,
}

/// Something for a connection.
#[derive(Debug)]
pub(crate) enum Out {
    /// Bytes, not before this time.
    Bytes(Vec<u8>, Instant),
    /// The end.
    Close(Farewell),
}

/// A connection that lives.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) number: u64,
    pub(crate) out: mpsc::Sender<Out>,
    pub(crate) transport: &'static str,
    pub(crate) product_info: Option<String>,
    pub(crate) model_id: Option<String>,
    pub(crate) auth_chain: Vec<String>,
    pub(crate) api_version: String,
    pub(crate) clean_session: bool,
    pub(crate) keep_alive_secs: u16,
}

impl Link {
    /// Never waits: a client that takes nothing while a thousand packets wait is closed.
    pub(crate) fn send(&self, bytes: Vec<u8>) {
        self.send_at(bytes, Instant::now());
    }

    pub(crate) fn send_at(&self, bytes: Vec<u8>, at: Instant) {
        if self.out.try_send(Out::Bytes(bytes, at)).is_err() {
            self.close(Farewell::Polite);
        }
    }

    pub(crate) fn close(&self, farewell: Farewell) {
        // Fails only if it is over, or so full that the writer is stuck; the reader ends that by its own clock.
        self.out.try_send(Out::Close(farewell)).ok();
    }
}

/// What stays of a client between connections.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) filters: BTreeMap<Feature, (String, Qos)>,
    pub(crate) link: Option<Link>,
    /// Messages from the cloud that wait for PUBACK.
    in_flight: BTreeMap<u16, Queued>,
    /// Acknowledgements that a fault holds back.
    pub(crate) withheld: Vec<u16>,
    packet_id: u16,
}

impl Session {
    fn next_packet_id(&mut self) -> NonZeroU16 {
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        NonZeroU16::new(self.packet_id).expect("it starts at 1")
    }
}

/// What the hub knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) began: Instant,
    pub(crate) registry: Registry,
    pub(crate) twins: HashMap<String, Twin>,
    pub(crate) sessions: HashMap<String, Session>,
    /// Authorities of devices, PEM.
    pub(crate) authorities: Vec<String>,
    pub(crate) telemetry: VecDeque<Telemetry>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) recorded: u64,
    pub(crate) happened: u64,
    pub(crate) connections: u64,
    pub(crate) feedback: Vec<Feedback>,
    pub(crate) clock_skew_secs: i64,
    /// Every connection is reset as soon as it comes.
    pub(crate) offline: bool,
    /// TCP connections are taken, and nothing is ever answered.
    pub(crate) mute: bool,
    pub(crate) rest_status: Option<u16>,
    everybody: Option<Active>,
    single: HashMap<String, Active>,
    cloud: HashMap<String, VecDeque<Queued>>,
    calls: HashMap<String, Call>,
    rids: u64,
}

#[derive(Debug)]
struct Call {
    id: String,
    answer: oneshot::Sender<(i64, Value)>,
}

impl State {
    pub(crate) fn new() -> State {
        State {
            began: Instant::now(),
            registry: Registry::default(),
            twins: HashMap::new(),
            sessions: HashMap::new(),
            authorities: Vec::new(),
            telemetry: VecDeque::new(),
            events: VecDeque::new(),
            counts: BTreeMap::new(),
            recorded: 0,
            happened: 0,
            connections: 0,
            feedback: Vec::new(),
            clock_skew_secs: 0,
            offline: false,
            mute: false,
            rest_status: None,
            everybody: None,
            single: HashMap::new(),
            cloud: HashMap::new(),
            calls: HashMap::new(),
            rids: 0,
        }
    }

    /// What time the hub believes it is.
    pub(crate) fn wall_clock(&self) -> SystemTime {
        let skew = Duration::from_secs(self.clock_skew_secs.unsigned_abs());
        let now = SystemTime::now();
        if self.clock_skew_secs < 0 { now - skew } else { now + skew }
    }

    pub(crate) fn note(&mut self, kind: &'static str, id: &str, text: impl Into<String>) {
        self.happened += 1;
        let event = Event {
            number: self.happened,
            at_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            kind,
            id: id.to_owned(),
            text: text.into(),
        };
        keep(&mut self.events, event);
    }

    pub(crate) fn record(&mut self, mut message: Telemetry) {
        self.recorded += 1;
        message.number = self.recorded;
        message.at = self.began.elapsed();
        *self.counts.entry(message.id()).or_default() += 1;
        keep(&mut self.telemetry, message);
    }

    // --- faults

    pub(crate) fn set_faults(&mut self, id: Option<&str>, faults: Faults) {
        let active = Active::new(faults, Instant::now());
        match id {
            None => self.everybody = Some(active),
            Some(id) => {
                self.single.insert(id.to_owned(), active);
            }
        }
    }

    pub(crate) fn clear_faults(&mut self) {
        self.everybody = None;
        self.single.clear();
        (self.offline, self.mute, self.rest_status, self.clock_skew_secs) = (false, false, None, 0);
    }

    /// What holds for this identity: its own faults, or else those of everybody.
    pub(crate) fn active(&mut self, id: &str) -> Option<&mut Active> {
        match self.single.get_mut(id) {
            Some(own) => Some(own),
            None => self.everybody.as_mut(),
        }
    }

    pub(crate) fn faults(&mut self, id: &str) -> Faults {
        self.active(id).map(|it| it.faults.clone()).unwrap_or_default()
    }

    pub(crate) fn judge(&mut self, id: &str, body: &[u8]) -> Verdict {
        let healthy = Verdict { record: true, acknowledge: Some(Duration::ZERO), ..Verdict::default() };
        self.active(id).map_or(healthy, |it| it.on_message(body, Instant::now()))
    }

    /// Sends the acknowledgements that a fault held back; how many.
    pub(crate) fn release(&mut self, id: &str) -> usize {
        let Some(session) = self.sessions.get_mut(id) else { return 0 };
        let withheld = std::mem::take(&mut session.withheld);
        if let Some(link) = &session.link {
            for packet_id in &withheld {
                link.send(puback(*packet_id));
            }
        }
        withheld.len()
    }

    // --- sessions

    /// A new connection takes the place of an older one of the same identity. Whether there was a session.
    pub(crate) fn connected(&mut self, id: &str, link: Link) -> bool {
        let number = link.number;
        let (clean, transport) = (link.clean_session, link.transport);
        let about = format!(
            "connection {number}, {transport}, {}, keep alive {} s, {}{}",
            if clean { "clean session" } else { "stored session" },
            link.keep_alive_secs,
            link.product_info.as_deref().unwrap_or("no product information"),
            if link.auth_chain.is_empty() {
                String::new()
            } else {
                format!(", on behalf: {}", link.auth_chain.join(";"))
            },
        );
        self.note("connected", id, about);
        if let Some(old) = self.sessions.get_mut(id).and_then(|it| it.link.take()) {
            old.close(Farewell::Polite);
            self.note(
                "disconnected",
                id,
                format!("connection {}: connection {number} took over", old.number),
            );
            self.requeue(id);
        }
        let session = self.sessions.entry(id.to_owned()).or_default();
        let present = !clean && !session.filters.is_empty();
        if clean {
            session.filters.clear();
        }
        session.withheld.clear();
        session.link = Some(link);
        present
    }

    /// The connection is over, unless another has taken its place.
    pub(crate) fn disconnected(&mut self, id: &str, number: u64, why: &str) {
        let session = self.sessions.get_mut(id);
        let Some(session) = session.filter(|it| it.link.as_ref().is_some_and(|it| it.number == number))
        else {
            return;
        };
        let clean = session.link.take().is_some_and(|it| it.clean_session);
        if clean {
            session.filters.clear();
        }
        session.withheld.clear();
        self.note("disconnected", id, format!("connection {number}: {why}"));
        self.requeue(id);
        self.calls.retain(|_, call| call.id != id);
    }

    /// Closes the connection of an identity; whether there was one.
    pub(crate) fn disconnect(&mut self, id: &str, reset: bool) -> bool {
        let link = self.sessions.get(id).and_then(|it| it.link.as_ref());
        if let Some(link) = link {
            link.close(if reset { Farewell::Reset } else { Farewell::Polite });
        }
        link.is_some()
    }

    /// Publishes to a client that has subscribed to this; whether it has.
    pub(crate) fn publish(&mut self, id: &str, feature: Feature, topic: &str, payload: &[u8]) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Some((_, qos)) = session.filters.get(&feature).cloned() else { return false };
        let packet_id = (qos != Qos::AtMostOnce).then(|| session.next_packet_id());
        let Some(link) = &session.link else { return false };
        link.send(packet(topic, qos, packet_id, payload));
        true
    }

    pub(crate) fn is_listening(&self, id: &str, feature: Feature) -> bool {
        self.sessions.get(id).is_some_and(|it| it.link.is_some() && it.filters.contains_key(&feature))
    }

    // --- messages from the cloud

    pub(crate) fn send_to_device(&mut self, device_id: &str, message: CloudMessage) {
        self.cloud.entry(device_id.to_owned()).or_default().push_back(Queued { message, deliveries: 0 });
        self.deliver(device_id);
    }

    /// Hands over what waits, if the device listens.
    pub(crate) fn deliver(&mut self, device_id: &str) {
        let now = self.wall_clock();
        while self.is_listening(device_id, Feature::CloudToDevice) {
            let Some(mut queued) = self.cloud.get_mut(device_id).and_then(VecDeque::pop_front) else {
                return;
            };
            if queued.message.expires.is_some_and(|it| it <= now) {
                self.feed_back(device_id, &queued.message, "Expired");
                continue;
            }
            if queued.deliveries >= DELIVERIES_MAX {
                self.feed_back(device_id, &queued.message, "DeliveryCountExceeded");
                continue;
            }
            queued.deliveries += 1;
            let topic = format!("devices/{device_id}/messages/devicebound/{}", queued.message.bag(device_id));
            let Some(session) = self.sessions.get_mut(device_id) else { return };
            let Some((_, qos)) = session.filters.get(&Feature::CloudToDevice).cloned() else { return };
            let packet_id = (qos != Qos::AtMostOnce).then(|| session.next_packet_id());
            let Some(link) = &session.link else { return };
            link.send(packet(&topic, qos, packet_id, &queued.message.body));
            match packet_id {
                // Handed over is done: nobody will say more.
                None => self.feed_back(device_id, &queued.message, "Success"),
                Some(packet_id) => {
                    session.in_flight.insert(packet_id.get(), queued);
                }
            }
        }
    }

    /// A PUBACK; whether it was waited for.
    pub(crate) fn acknowledged(&mut self, id: &str, packet_id: u16) -> bool {
        let queued = self.sessions.get_mut(id).and_then(|it| it.in_flight.remove(&packet_id));
        if let Some(queued) = &queued {
            self.feed_back(id, &queued.message, "Success");
        }
        queued.is_some()
    }

    fn requeue(&mut self, id: &str) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let back = std::mem::take(&mut session.in_flight);
        let queue = self.cloud.entry(id.to_owned()).or_default();
        for queued in back.into_values().rev() {
            queue.push_front(queued);
        }
    }

    fn feed_back(&mut self, device_id: &str, message: &CloudMessage, description: &'static str) {
        self.note("c2d", device_id, format!("{}: {description}", message.message_id));
        let wanted = match message.ack.as_str() {
            "full" => true,
            "positive" => description == "Success",
            "negative" => description != "Success",
            _ => false,
        };
        if wanted {
            let original_message_id = message.message_id.clone();
            self.feedback.push(Feedback {
                original_message_id,
                device_id: device_id.to_owned(),
                description,
            });
        }
    }

    /// A message to an input of a module, as a gateway sends it (IoT Hub itself never does); whether somebody listens.
    pub(crate) fn send_to_input(&mut self, id: &str, input: &str, message: &CloudMessage) -> bool {
        let Some((device_id, module_id)) = id.split_once('/') else { return false };
        let bag = message.pairs();
        let bag = bag::write(bag.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let topic = format!("{}/inputs/{}/{bag}", base(device_id, Some(module_id)), bag::encode(input));
        self.publish(id, Feature::Inputs, &topic, &message.body)
    }

    // --- twins and methods

    pub(crate) fn patch_desired(&mut self, id: &str, patch: &Value) -> Result<u64, String> {
        if self.registry.find(id).is_none() {
            return Err(format!("there is no {id}"));
        }
        let twin = self.twins.entry(id.to_owned()).or_default();
        let version = twin.desired.patch(patch)?;
        let mut told = patch.clone();
        told["$version"] = version.into();
        let topic = format!("$iothub/twin/PATCH/properties/desired/?$version={version}");
        self.publish(id, Feature::DesiredPatches, &topic, told.to_string().as_bytes());
        Ok(version)
    }

    /// Calls a method of a client that listens; its answer comes by the receiver. `None` if it does not listen.
    pub(crate) fn call(
        &mut self,
        id: &str,
        method: &str,
        payload: &Value,
    ) -> Option<(String, oneshot::Receiver<(i64, Value)>)> {
        if !self.is_listening(id, Feature::Methods) {
            return None;
        }
        self.rids += 1;
        let rid = format!("{:08x}-0000-4000-8000-{:012x}", self.rids, self.rids);
        let (answer, answered) = oneshot::channel();
        self.calls.insert(rid.clone(), Call { id: id.to_owned(), answer });
        let topic = format!("$iothub/methods/POST/{}/?$rid={rid}", bag::encode(method));
        self.publish(id, Feature::Methods, &topic, payload.to_string().as_bytes());
        Some((rid, answered))
    }

    pub(crate) fn forget_call(&mut self, rid: &str) {
        self.calls.remove(rid);
    }

    /// The answer of a client to a method; whether anybody waits for it.
    pub(crate) fn answered(&mut self, id: &str, rid: &str, status: i64, payload: Value) -> bool {
        if self.calls.get(rid).is_none_or(|call| call.id != id) {
            return false;
        }
        let call = self.calls.remove(rid);
        call.is_some_and(|call| call.answer.send((status, payload)).is_ok())
    }
}

impl CloudMessage {
    /// With this body and identifier.
    pub fn new(message_id: &str, body: &[u8]) -> CloudMessage {
        CloudMessage { message_id: message_id.to_owned(), body: body.to_vec(), ..CloudMessage::default() }
    }

    fn pairs(&self) -> Pairs {
        let mut pairs = self.properties.clone();
        if !self.message_id.is_empty() {
            pairs.push(("$.mid".into(), self.message_id.clone()));
        }
        pairs.extend(self.system.iter().cloned());
        pairs
    }

    fn bag(&self, device_id: &str) -> String {
        let mut pairs = self.pairs();
        if let Some(expires) = self.expires {
            pairs.push(("$.exp".into(), crate::rfc3339(expires)));
        }
        pairs.push(("$.to".into(), format!("/devices/{device_id}/messages/deviceBound")));
        if !self.ack.is_empty() && self.ack != "none" {
            pairs.push(("iothub-ack".into(), self.ack.clone()));
        }
        bag::write(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    }
}

fn keep<T>(records: &mut VecDeque<T>, record: T) {
    if records.len() == RECORDS_MAX {
        records.pop_front();
    }
    records.push_back(record);
}

/// A PUBLISH of 3.1.1.
pub(crate) fn packet(topic: &str, qos: Qos, packet_id: Option<NonZeroU16>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let publish = OutgoingPublish { topic, qos, packet_id, payload, ..OutgoingPublish::default() };
    // A topic above 65 535 bytes: whoever asked for it sees that nothing arrives.
    encode_publish(&mut bytes, Version::V3, &publish).ok();
    bytes
}

/// A PUBACK of 3.1.1.
pub(crate) fn puback(packet_id: u16) -> Vec<u8> {
    let [high, low] = packet_id.to_be_bytes();
    vec![0x40, 2, high, low]
}
