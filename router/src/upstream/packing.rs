//! Properties of MQTT 5.0 in MQTT 3.1.1, which has none: as a last level of the topic, or around the payload.
//!
//! In: a message and its form. Out: the form with its properties elsewhere, and the way back. Always: what is packed here
//! is unpacked here to the same topic, payload and properties, each as often as it was there, in order; what is not of this
//! shape is left as it is. Bound: a topic, or a packet; nothing else limits how many properties there are.

use std::borrow::Cow;

use base64ct::{Base64, Encoding as _};
use broker::uplink::{Form, Outgoing, Packing, Unfit};
use hub::escape;
use serde_json::{Map, Value, json};
use wire::{BlockBuilder, Publish, PublishProperties};

/// Names of the properties that are no user properties, as IoT Hub has them where it knows them.
const CONTENT_TYPE: &str = "$.ct";
const CORRELATION: &str = "$.cid";
const RESPONSE_TOPIC: &str = "$.rt";
const UTF8: &str = "$.utf8";
/// What their names begin with; a user property that begins so has one more dot.
const KNOWN: &str = "$.";
/// The level of a message without properties, where the last one of its topic looks like properties.
const NONE: &str = "&";

/// `a/b` becomes `a/b/name=value&name=value`, percent-encoded.
#[derive(Debug)]
pub(super) struct InTopic;

/// The payload becomes `{"properties": [["name", "value"]], "payload": "…"}`; with `payloadBase64` if it is no text.
#[derive(Debug)]
pub(super) struct InPayload;

impl Packing for InTopic {
    fn pack(&self, message: &Outgoing<'_>, id: Option<(&str, &str)>, form: &mut Form) -> Result<(), Unfit> {
        let pairs = pairs(message.envelope.properties, id)?;
        if pairs.is_empty() {
            let last = form.topic.rsplit('/').next().unwrap_or_default();
            if looks_packed(last) {
                form.topic.push('/');
                form.topic.push_str(NONE);
            }
            return model::validate_name(&form.topic).map_err(|_| Unfit::Properties);
        }
        for (index, (name, value)) in pairs.iter().enumerate() {
            form.topic.push(if index == 0 { '/' } else { '&' });
            escape::escape_into(name, &mut form.topic);
            form.topic.push('=');
            escape::escape_into(value, &mut form.topic);
        }
        model::validate_name(&form.topic).map_err(|_| Unfit::Properties)
    }

    fn unpack(&self, publish: &Publish<'_>, form: &mut Form) -> bool {
        let Some((topic, level)) = publish.topic.rsplit_once('/').filter(|(_, level)| looks_packed(level))
        else {
            return false;
        };
        let pairs = if level == NONE { Some(Vec::new()) } else { level.split('&').map(pair).collect() };
        let Some(pairs) = pairs else { return false };
        let Some(block) = block(pairs.iter().map(|(name, value)| (&**name, &**value))) else { return false };
        topic.clone_into(&mut form.topic);
        form.properties = block;
        true
    }
}

/// Whether a level may be one that was added here.
fn looks_packed(level: &str) -> bool {
    level.contains('=') || level == NONE
}

/// `name=value`, or `name` alone, as others write it.
fn pair(text: &str) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    Some((escape::unescape(name)?, escape::unescape(value).filter(|_| !value.contains('='))?))
}

impl Packing for InPayload {
    fn pack(&self, message: &Outgoing<'_>, id: Option<(&str, &str)>, form: &mut Form) -> Result<(), Unfit> {
        let properties: Vec<Value> = pairs(message.envelope.properties, id)?
            .into_iter()
            .map(|(name, value)| json!([name, value]))
            .collect();
        let (name, payload) = match std::str::from_utf8(message.envelope.payload) {
            Ok(text) => ("payload", text.to_owned()),
            Err(_) => ("payloadBase64", Base64::encode_string(message.envelope.payload)),
        };
        let mut envelope = Map::new();
        envelope.insert("properties".to_owned(), Value::Array(properties));
        envelope.insert(name.to_owned(), Value::String(payload));
        form.payload = Some(Value::Object(envelope).to_string().into_bytes());
        Ok(())
    }

    fn unpack(&self, publish: &Publish<'_>, form: &mut Form) -> bool {
        let Ok(Value::Object(envelope)) = serde_json::from_slice::<Value>(publish.payload) else {
            return false;
        };
        let text = |name: &str| envelope.get(name).and_then(Value::as_str);
        let payload = match (text("payload"), text("payloadBase64")) {
            (Some(text), None) => Some(text.as_bytes().to_vec()),
            (None, Some(encoded)) => Base64::decode_vec(encoded).ok(),
            _ => None,
        };
        let (Some(payload), Some(Value::Array(properties))) = (payload, envelope.get("properties")) else {
            return false;
        };
        if envelope.len() != 2 {
            return false;
        }
        let pair = |value: &Value| match value.as_array().map(Vec::as_slice) {
            Some([Value::String(name), Value::String(value)]) => Some((name.clone(), value.clone())),
            _ => None,
        };
        let Some(pairs) = properties.iter().map(pair).collect::<Option<Vec<_>>>() else { return false };
        let Some(block) = block(pairs.iter().map(|(name, value)| (&**name, &**value))) else { return false };
        publish.topic.clone_into(&mut form.topic);
        form.properties = block;
        form.payload = Some(payload);
        true
    }
}

/// Every property as a pair of texts, the id last.
fn pairs(block: &[u8], id: Option<(&str, &str)>) -> Result<Vec<(String, String)>, Unfit> {
    let block = PublishProperties::from_block(block).map_err(|_| Unfit::Properties)?;
    let known = [
        (UTF8, block.payload_is_utf8().map(|yes| if yes { "1" } else { "0" }.to_owned())),
        (CONTENT_TYPE, block.content_type().map(str::to_owned)),
        (RESPONSE_TOPIC, block.response_topic().map(str::to_owned)),
        (CORRELATION, block.correlation().map(Base64::encode_string)),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let named = |name: &str| match name.strip_prefix(KNOWN) {
        Some(rest) => format!("{KNOWN}.{rest}"),
        None => name.to_owned(),
    };
    let users = block.user_properties().chain(id).map(|(name, value)| (named(name), value.to_owned()));
    Ok(known.chain(users).collect())
}

/// The way back; `None` if a value cannot be what its name says.
fn block<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Option<BlockBuilder> {
    let mut block = BlockBuilder::new();
    for (name, value) in pairs {
        match name {
            UTF8 => block.payload_is_utf8(value == "1"),
            CONTENT_TYPE => block.content_type(value).ok()?,
            RESPONSE_TOPIC => block.response_topic(value).ok()?,
            CORRELATION => block.correlation(&Base64::decode_vec(value).ok()?).ok()?,
            _ => match name.strip_prefix(KNOWN).and_then(|rest| rest.strip_prefix('.')) {
                Some(rest) => block.user(&format!("{KNOWN}{rest}"), value).ok()?,
                None => block.user(name, value).ok()?,
            },
        };
    }
    // A second content type, or a response topic with wildcards.
    PublishProperties::from_block(block.as_bytes()).is_ok().then_some(block)
}

#[cfg(test)]
mod tests;
