//! A message of a hub client: its topic read into properties, and written again for an input of a module or for
//! IoT Hub (`reference/edgehub.md` §2.5, §2.6, §3.1, §3.5, §9.4).
//!
//! May use: `bag`, `topics`, `model`'s `Property`. In: ids and a bag. Out: properties, a route source, bags.
//! Invariant: who sent it comes from whoever calls, not from the bag.
//! Bound: `properties_max` of the bag, and [`MESSAGE_BYTES_MAX`] where the caller asks.

use std::borrow::Cow;

use model::Property;

use crate::bag::{self, Bag, BagError};

/// Largest message: bytes of the body and of names and values of all properties (§4.7).
pub const MESSAGE_BYTES_MAX: usize = 262_144;

/// The one interface id that goes upstream: it marks messages of the security agent (§9.4).
pub const SECURITY_INTERFACE: &str = "urn:azureiot:Security:SecurityAgent:1";

/// Application property that stands for MQTT's RETAIN flag.
pub const RETAIN: &str = "mqtt-retain";

/// Application property that stands for MQTT's DUP flag.
pub const DUP: &str = "mqtt-dup";

/// Properties of one message, as routes know them.
#[derive(Clone, Debug, Default)]
pub struct Properties<'t> {
    application: Vec<(Cow<'t, str>, Option<Cow<'t, str>>)>,
    system: Vec<(&'static str, Option<Cow<'t, str>>)>,
}

/// Who sent a message, and what is known of that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sender<'t> {
    /// The device.
    pub device: &'t str,
    /// The module, unless it was the device itself.
    pub module: Option<&'t str>,
    /// The edge device we are: what its modules send is `internal`.
    pub edge_device: &'t str,
    /// The model of the session (Plug and Play).
    pub model_id: Option<&'t str>,
}

impl<'t> Properties<'t> {
    /// Reads the bag of a message that `sender` sent.
    pub fn read(bag: &'t str, sender: Sender<'t>, properties_max: usize) -> Result<Properties<'t>, BagError> {
        let bag = bag::decode(bag, properties_max)?;
        let mut properties = Properties::of_bag(bag);
        properties.stamp(sender);
        Ok(properties)
    }

    fn of_bag(bag: Bag<'t>) -> Properties<'t> {
        let mut properties = Properties::default();
        for entry in bag.into_entries() {
            match bag::from_client(&entry.name) {
                Some(system) => properties.system.push((system.name, entry.value)),
                None => properties.application.push((entry.name, entry.value)),
            }
        }
        properties
    }

    fn stamp(&mut self, sender: Sender<'t>) {
        let origin = if sender.device == sender.edge_device { "internal" } else { "downstream" };
        self.set_system("connectionDeviceId", Cow::Borrowed(sender.device));
        if let Some(module) = sender.module {
            self.set_system("connectionModuleId", Cow::Borrowed(module));
        }
        self.set_system("edgeHubOriginInterface", Cow::Borrowed(origin));
        if let Some(model_id) = sender.model_id {
            self.set_system("modelId", Cow::Borrowed(model_id));
        }
    }

    /// Sets a system property by its name (`connectionDeviceId`).
    pub fn set_system(&mut self, name: &'static str, value: Cow<'t, str>) {
        match self.system.iter_mut().find(|(have, _)| *have == name) {
            Some((_, have)) => *have = Some(value),
            None => self.system.push((name, Some(value))),
        }
    }

    /// Sets an application property.
    pub fn set(&mut self, name: &'t str, value: &'t str) {
        match self.application.iter_mut().find(|(have, _)| have == name) {
            Some((_, have)) => *have = Some(Cow::Borrowed(value)),
            None => self.application.push((Cow::Borrowed(name), Some(Cow::Borrowed(value)))),
        }
    }

    /// A system property by its name.
    pub fn system(&self, name: &str) -> Option<&str> {
        self.system.iter().find(|(have, _)| *have == name).and_then(|(_, value)| value.as_deref())
    }

    /// Application properties, as routes take them.
    pub fn application_properties(&self) -> Vec<Property<'_>> {
        self.application.iter().map(|(name, value)| Property { name, value: value.as_deref() }).collect()
    }

    /// System properties, as routes take them.
    pub fn system_properties(&self) -> Vec<Property<'_>> {
        self.system.iter().map(|(name, value)| Property { name, value: value.as_deref() }).collect()
    }

    /// Writes the source that routes match (§3.1).
    pub fn source(&self, out: &mut String) {
        out.clear();
        if self.system("messageType") == Some("twinChangeNotification") {
            out.push_str("/twinChangeNotifications/");
            return;
        }
        out.push_str("/messages/");
        if let Some(module) = self.system("connectionModuleId") {
            for part in ["modules/", module, "/"] {
                out.push_str(part);
            }
            if let Some(output) = self.system("outputName") {
                for part in ["outputs/", output, "/"] {
                    out.push_str(part);
                }
            }
        }
    }

    /// Appends the bag with which a client gets the message: what clients may see, sender included.
    pub fn bag_for_client(&self, out: &mut String) {
        let application = self.application.iter().map(|(name, value)| (&**name, value.as_deref()));
        let system = self.system.iter().map(|(name, value)| (*name, value.as_deref()));
        bag_for_client(application, system, out);
    }

    /// Appends the bag with which the message goes to IoT Hub over its sender's own connection.
    pub fn bag_for_hub(&self, out: &mut String) {
        let keeps = |name: &str, value: Option<&str>| match name {
            "messageId" | "cid" | "userId" | "contentType" | "contentEncoding" | "to" | "creationTime"
            | "messageSchema" | "dt-subject" => true,
            "iothub-interface-id" => value == Some(SECURITY_INTERFACE),
            _ => false,
        };
        let system: Vec<(&str, Option<&str>)> = self
            .system
            .iter()
            .map(|(name, value)| (*name, value.as_deref()))
            .filter(|(name, value)| keeps(name, *value))
            .filter_map(|(name, value)| Some((wire_name(name)?, value)))
            .collect();
        write(self.application.iter().map(|(name, value)| (&**name, value.as_deref())), &system, out);
    }

    /// Bytes that the properties count towards [`MESSAGE_BYTES_MAX`]; what we stamp does not count.
    pub fn bytes(&self) -> usize {
        let of = |name: &str, value: &Option<Cow<'_, str>>| {
            name.len() + value.as_ref().map_or(0, |value| value.len())
        };
        let stamped = ["connectionDeviceId", "connectionModuleId", "edgeHubOriginInterface", "modelId"];
        let application: usize = self.application.iter().map(|(name, value)| of(name, value)).sum();
        let system = self.system.iter().filter(|(name, _)| !stamped.contains(name));
        application + system.map(|(name, value)| of(name, value)).sum::<usize>()
    }
}

fn wire_name(name: &str) -> Option<&'static str> {
    bag::SYSTEM.iter().find(|property| property.name == name).map(|property| property.wire)
}

/// Appends the bag with which a client gets a message that has these properties; system properties by their names.
/// A system property wins over an application property of the same name on the wire (§2.6). What looks like the sender and is the
/// application's has another name, as upstream: a device has no `$.cmid`, and nobody else may give it one.
pub fn bag_for_client<'a>(
    application: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    system: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    out: &mut String,
) {
    let all: Vec<(&str, Option<&str>)> = system.collect();
    // A change of a twin is a message of `$edgeHub`; who gets it sees who reported (§3.3).
    let is_reported = all.iter().any(|(name, _)| *name == "rpSenderDeviceId");
    let spell = |name: &str| match name {
        "connectionDeviceId" | "connectionModuleId" if is_reported => None,
        "rpSenderDeviceId" => bag::to_client("connectionDeviceId"),
        "rpSenderModuleId" => bag::to_client("connectionModuleId"),
        name => bag::to_client(name),
    };
    let system: Vec<(&str, Option<&str>)> =
        all.into_iter().filter_map(|(name, value)| Some((spell(name)?, value))).collect();
    let rename = |(name, value): (&'a str, Option<&'a str>)| match name {
        "$.cdid" => ("millrace-cdid", value),
        "$.cmid" => ("millrace-cmid", value),
        name => (name, value),
    };
    write(application.map(rename), &system, out);
}

fn write<'a>(
    application: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    system: &[(&'a str, Option<&'a str>)],
    out: &mut String,
) {
    let own = application.filter(|(name, _)| !system.iter().any(|(wire, _)| wire == name));
    bag::encode(own.chain(system.iter().copied()), out);
}

#[cfg(test)]
mod tests;
