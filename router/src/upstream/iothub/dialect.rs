//! What a message looks like to IoT Hub: `devices/{device}[/modules/{module}]/messages/events/{bag}` (`reference/edgehub.md`
//! §2.4, §2.5, §9.4).
//!
//! In: messages as they are kept, from clients of the dialect or of any other kind. Out: their forms. Always: everything a
//! message has goes along, as system property where the hub has one, else as application property; what has no place is
//! a refusal with a reason, never a loss; nobody speaks for an identity but its own user, and whom the configuration names.

use std::borrow::Cow;
use std::collections::BTreeSet;

use base64ct::{Base64, Encoding as _};
use broker::Envelope;
use broker::uplink::{Dialect, Form, Origin, Outgoing, Refusal, Unfit};
use hub::topics::Inbound;
use hub::{HubId, bag, topics};
use time::OffsetDateTime;
use wire::PublishProperties;

use crate::config::{IotHub, Speakers, Uplink};

/// The largest message that the hub takes, properties included.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Properties of one message that are read.
const PROPERTIES_MAX: usize = 256;
/// Where what the hub has no word for stands.
const TOPIC: &str = "millrace-topic";
const CLIENT: &str = "millrace-client";
const RESPONSE_TOPIC: &str = "millrace-response-topic";
const CORRELATION: &str = "millrace-correlation";
const RETAIN: &str = "mqtt-retain";
/// Instead of `$.`, for what is no system property that a device may set.
const FOREIGN: &str = "millrace-";

/// Writes messages for IoT Hub.
#[derive(Debug)]
pub(in crate::upstream) struct HubDialect {
    own: HubId,
    children: BTreeSet<String>,
    on_behalf_of: bool,
    speakers: Speakers,
    origin: Origin,
    id_property: Option<String>,
}

impl HubDialect {
    pub(in crate::upstream) fn new(config: &Uplink, hub: &IotHub, origin: Origin) -> HubDialect {
        HubDialect {
            own: hub.id.clone(),
            children: hub.children.iter().map(|child| child.id.to_string()).collect(),
            on_behalf_of: hub.on_behalf_of,
            speakers: hub.speakers.clone(),
            origin,
            id_property: config.topics.id_property.clone(),
        }
    }
}

impl Dialect for HubDialect {
    fn write(&self, message: &Outgoing<'_>, form: &mut Form) -> Result<(), Refusal> {
        let envelope = message.envelope;
        let unfit = |_| Refusal::Unfit(Unfit::Properties);
        let mut bag = Bag::default();
        let (device, module) = match sender(envelope.topic) {
            Some((device, module, level)) => {
                let level =
                    bag::decode(level, PROPERTIES_MAX).map_err(|_| Refusal::Unfit(Unfit::Properties))?;
                for (name, value) in level.iter() {
                    bag.add(name, value.unwrap_or_default(), None)?;
                }
                (device, module)
            }
            None => {
                bag.add(TOPIC, envelope.topic, None)?;
                bag.add(CLIENT, envelope.client_id, None)?;
                (self.own.device_id(), self.own.module_id())
            }
        };
        let block = PublishProperties::from_block(envelope.properties).map_err(unfit)?;
        let id_property = self.id_property.as_deref();
        for (name, value) in block.user_properties() {
            bag.add(name, value, id_property)?;
        }
        if let Some(content_type) = block.content_type() {
            bag.add("$.ct", content_type, None)?;
        }
        if block.payload_is_utf8() == Some(true) && !bag.has("$.ce") {
            bag.add("$.ce", "utf-8", None)?;
        }
        if let Some(topic) = block.response_topic() {
            bag.add(RESPONSE_TOPIC, topic, None)?;
        }
        match block.correlation().map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            Some((_, Ok(text))) if !text.is_empty() => bag.add("$.cid", text, None)?,
            Some((bytes, _)) => bag.add(CORRELATION, &Base64::encode_string(bytes), None)?,
            None => {}
        }
        if envelope.retain {
            bag.add(RETAIN, "true", None)?;
        }
        if let Some(at) = message.expires.filter(|_| !bag.has("$.exp")) {
            bag.add("$.exp", &iso(at.0), None)?;
        }
        if let Some(name) = id_property {
            let mut id = String::new();
            self.origin.write_id(message.lane, message.seq, &mut id);
            bag.add(name, &id, id_property)?;
        }
        form.topic.push_str("devices/");
        form.topic.push_str(device);
        if let Some(module) = module {
            form.topic.push_str("/modules/");
            form.topic.push_str(module);
        }
        form.topic.push_str("/messages/events/");
        bag::encode(bag.0.iter().map(|(name, value)| (&**name, Some(&**value))), &mut form.topic);
        if form.topic.len() + envelope.payload.len() > MESSAGE_BYTES_MAX {
            return Err(Refusal::TooLarge { bytes_max: MESSAGE_BYTES_MAX as u32 });
        }
        model::validate_name(&form.topic).map_err(|_| Refusal::Unfit(Unfit::Properties))
    }

    fn identity<'a>(&'a self, envelope: &Envelope<'a>) -> Result<Cow<'a, str>, Refusal> {
        let Some((device, module, _)) = sender(envelope.topic) else { return Ok(self.own.as_str().into()) };
        let identity: Cow<'a, str> = match module {
            None => device.into(),
            Some(module) => format!("{device}/{module}").into(),
        };
        let may = *identity == *self.own.as_str() || self.on_behalf_of || self.children.contains(&*identity);
        if !may || HubId::parse(&identity).is_err() {
            return Err(Refusal::Unfit(Unfit::Identity));
        }
        // A topic is what a client wrote; its user is who it has proved to be. At a listener for identities that is the device or
        // module itself. A client identifier proves nothing: everybody may choose one.
        let is_itself = *identity == *envelope.user;
        let may_speak = match &self.speakers {
            Speakers::Anyone => true,
            Speakers::Users(users) => is_itself || users.contains(envelope.user),
        };
        if may_speak { Ok(identity) } else { Err(Refusal::Unfit(Unfit::Sender)) }
    }
}

/// Device, module and property bag of a topic that says who it is from; of any other topic `None`.
///
/// edgeHub takes anything before `devices/`, and so does the dialect's head, which stores what it has checked without that. Here
/// it would get around rules for `devices/#`, which whoever may publish `plant/#` is not under.
fn sender(topic: &str) -> Option<(&str, Option<&str>, &str)> {
    let Ok(Inbound::Telemetry { device, module, bag }) = topics::inbound(topic) else { return None };
    let mut rest = topic.strip_prefix("devices/")?.strip_prefix(device)?;
    if let Some(module) = module {
        rest = rest.strip_prefix("/modules/")?.strip_prefix(module)?;
    }
    rest.starts_with("/messages/events").then_some((device, module, bag))
}

/// Properties in order, each name once.
#[derive(Default)]
struct Bag(Vec<(String, String)>);

impl Bag {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(have, _)| have == name)
    }

    /// Adds a property. The hub has each name once: another value for it has no place, but ids, which make a list.
    fn add(&mut self, name: &str, value: &str, id_property: Option<&str>) -> Result<(), Refusal> {
        // What looks like a system property and is none that a device may set: the hub would end the connection.
        if let Some(rest) = name.strip_prefix("$.")
            && bag::from_client(name).is_none()
        {
            return self.add(&format!("{FOREIGN}{rest}"), value, id_property);
        }
        match self.0.iter_mut().find(|(have, _)| have == name) {
            None => self.0.push((name.to_owned(), value.to_owned())),
            Some((_, have)) if *have == value => {}
            Some((_, have)) if id_property == Some(name) => {
                have.push(',');
                have.push_str(value);
            }
            Some(_) => return Err(Refusal::Unfit(Unfit::Properties)),
        }
        Ok(())
    }
}

/// A time as the hub writes it.
fn iso(millis: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000);
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{}T{:02}:{:02}:{:02}.{:03}Z", at.date(), at.hour(), at.minute(), at.second(), at.millisecond())
}

#[cfg(test)]
mod tests;
