//! The dialect of MQTT brokers: which topic, QoS and RETAIN a message has there, and what becomes of its properties.
//!
//! In: the map of an operator, messages. Out: their forms. The first entry whose filter matches decides; a message that
//! none matches keeps its topic; the prefix comes before either. Properties go along in 5.0, in order, with the id behind
//! them; 3.1.1 has none, so a [`Packing`] puts them elsewhere, or they stay here and are counted.

use std::fmt;
use std::sync::Arc;

use model::{Qos, filter_matches, validate_name};
use wire::Version;

use super::dialect::{Dialect, Form, Origin, Outgoing};
use super::poison::{Refusal, Unfit};
use super::template::{Fields, Template};

/// Puts properties into a topic or payload, for those who know none.
pub trait Packing: fmt::Debug + Send + Sync {
    /// Changes `form`, which has its topic already. `id` is that of the message, if it has one.
    fn pack(&self, message: &Outgoing<'_>, id: Option<(&str, &str)>, form: &mut Form) -> Result<(), Unfit>;

    /// Takes a publication apart that was packed like this: topic, properties and payload into `form`. False, with `form`
    /// as it was, if it was not.
    fn unpack(&self, publish: &wire::Publish<'_>, form: &mut Form) -> bool;
}

/// QoS at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// This one.
    Be(Qos),
    /// That of the publication.
    AsPublished,
}

impl Wish {
    /// Whether QoS 2 may come of it.
    pub fn may_be_exact(self) -> bool {
        matches!(self, Wish::AsPublished | Wish::Be(Qos::ExactlyOnce))
    }
}

/// One line of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which topics.
    pub filter: String,
    /// What becomes of them, before the prefix.
    pub template: Template,
    /// QoS there; `None`: as where the map does not say it.
    pub qos: Option<Wish>,
    /// RETAIN there; `None`: that of the publication.
    pub retain: Option<bool>,
}

/// The map, and what else is put on every message.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// What the other end speaks.
    pub version: Version,
    /// Put before every topic.
    pub prefix: String,
    /// The map, in order.
    pub entries: Vec<Entry>,
    /// QoS where the map does not say it.
    pub qos: Wish,
    /// Whether RETAIN goes along where the map does not say it.
    pub keeps_retain: bool,
    /// The name of this gateway.
    pub gateway: String,
    /// What the ids begin with.
    pub origin: Origin,
    /// The property that the id is in; `None` writes none.
    pub id_property: Option<String>,
    /// What becomes of properties in 3.1.1; `None`: they stay here.
    pub packing: Option<Arc<dyn Packing>>,
}

impl Dialect for Mapping {
    fn wants_answers(&self) -> bool {
        let wishes = self.entries.iter().filter_map(|entry| entry.qos).chain([self.qos]);
        wishes.into_iter().any(|wish| wish != Wish::Be(Qos::AtMostOnce))
    }

    fn write(&self, message: &Outgoing<'_>, form: &mut Form) -> Result<(), Refusal> {
        let envelope = message.envelope;
        let found = self.entries.iter().position(|entry| filter_matches(&entry.filter, envelope.topic));
        let entry = found.map(|index| &self.entries[index]);
        form.topic.push_str(&self.prefix);
        match entry {
            None => form.topic.push_str(envelope.topic),
            Some(entry) => {
                let number = found.unwrap_or_default() as u32 + 1;
                let fields = Fields { envelope, gateway: &self.gateway };
                let rendered = entry.template.render(&fields, &mut form.topic);
                rendered.map_err(|hole| Refusal::MissingField { entry: number, hole })?;
                validate_name(&form.topic).map_err(|_| Refusal::Unfit(Unfit::Topic))?;
            }
        }
        form.qos = match entry.and_then(|entry| entry.qos).unwrap_or(self.qos) {
            Wish::Be(qos) => qos,
            Wish::AsPublished => envelope.qos,
        };
        form.retain = entry.and_then(|entry| entry.retain).unwrap_or(self.keeps_retain && envelope.retain);
        let mut id = String::new();
        let id = self.id_property.as_deref().map(|name| {
            self.origin.write_id(message.lane, message.seq, &mut id);
            (name, &*id)
        });
        match (self.version, &self.packing) {
            (Version::V5, _) => {
                form.properties.begin(envelope.properties);
                if let Some((name, id)) = id {
                    form.properties.user(name, id).map_err(|_| Refusal::Unfit(Unfit::Properties))?;
                }
            }
            (Version::V3, Some(packing)) => packing.pack(message, id, form).map_err(Refusal::Unfit)?,
            (Version::V3, None) => form.is_poorer = !envelope.properties.is_empty(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
