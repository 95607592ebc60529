//! Whom a kept message is from, and by which output: what edgeHub's series are labelled with (`reference/edgehub.md` §8).
//!
//! In: topics and records as they are kept. Out: names as edgeHub writes them, `device` or `device/module`. Never fails: what
//! is not known is empty.

use hub::topics::{self, Inbound, Outbound};

use crate::envelope::Envelope;
use crate::sessions::record::decode_head;

/// Whom a record of this lane is from, and by which output; `None` if it is no message, or cannot be read.
pub fn sender_of_record(lane: &str, record: &[u8]) -> Option<(String, String)> {
    let envelope = envelope_in(lane, record)?;
    Some(sender_of(envelope.topic, envelope.client_id))
}

/// The client that has published a record of a lane of this name; `None` if no record of such a lane has one, or this one has not.
pub fn publisher_of_record<'r>(lane: &str, record: &'r [u8]) -> Option<&'r str> {
    envelope_in(lane, record).map(|envelope| envelope.client_id).filter(|client| !client.is_empty())
}

fn envelope_in<'r>(lane: &str, record: &'r [u8]) -> Option<Envelope<'r>> {
    let envelope = match lane.split_once('/')?.0 {
        "u" => record,
        "s" | "m" => decode_head(record).ok()?.envelope,
        _ => return None,
    };
    Envelope::decode(envelope).ok()
}

/// The same of a message with this topic, which this client has sent.
pub(crate) fn sender_of(topic: &str, client_id: &str) -> (String, String) {
    let name = |device: &str, module: Option<&str>| {
        module.map_or_else(|| device.to_owned(), |module| format!("{device}/{module}"))
    };
    if let Ok(Inbound::Telemetry { device, module, bag }) = topics::inbound(topic) {
        return (name(device, module), unescaped(output(bag)));
    }
    let Some(Outbound::Input { bag, .. }) = topics::outbound(topic) else {
        return (client_id.to_owned(), String::new());
    };
    // On its way to an input a message has its sender in its properties, and its output no more.
    let of = |name: &str| bag.split('&').find_map(|entry| entry.strip_prefix(name)).map(unescaped);
    let (device, module) = (of("%24.cdid="), of("%24.cmid="));
    (name(&device.unwrap_or_default(), module.as_deref()), String::new())
}

/// The output that a property bag names, as it is written there.
pub(crate) fn output(bag: &str) -> &str {
    let of = |entry: &'_ str| -> Option<usize> {
        ["%24.on=", "$.on="].iter().find(|name| entry.starts_with(**name)).map(|name| name.len())
    };
    let found = bag.split('&').find_map(|entry| Some(&entry[of(entry)?..]));
    found.map_or("", |value| value.trim_end_matches('/'))
}

/// What a value of a property bag stands for.
pub(crate) fn unescaped(value: &str) -> String {
    let entry = format!("on={value}");
    let bag = hub::bag::decode(&entry, 1);
    bag.ok().and_then(|bag| bag.find("on").flatten().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_whom_it_is_from() {
        for (topic, from, output) in [
            ("devices/d1/messages/events/a=1", "d1", ""),
            ("devices/gw1/modules/filter/messages/events/%24.on=hot%20air&a=1/", "gw1/filter", "hot air"),
            ("devices/gw1/modules/ml/inputs/in1/a=1&%24.cdid=d%201", "d 1", ""),
            ("devices/gw1/modules/ml/inputs/in1/%24.cdid=gw1&%24.cmid=filter", "gw1/filter", ""),
            ("factory/temp", "press-7", ""),
        ] {
            assert_eq!(sender_of(topic, "press-7"), (from.to_owned(), output.to_owned()), "{topic}");
        }
        assert_eq!(sender_of_record("u/upstream/0", b"no envelope"), None);
        assert_eq!(sender_of_record("found/7", b""), None);
    }
}
