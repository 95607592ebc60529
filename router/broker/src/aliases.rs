//! Topic aliases of one connection: numbers that stand for topics, chosen by the sender of each direction (MQTT 5.0 §3.3.2.3.4).
//!
//! In: topics and aliases, in the order in which they travel. Out: the topic behind an alias, the alias for a topic.
//! Always: nothing here outlives its connection [MQTT-3.3.2-7]; at most `limits.topic_alias_max` topics a direction.

use std::num::NonZeroU16;

/// Topics up to this many bytes are sent as they are: an alias takes three bytes, and a place.
const SHORT_TOPIC_BYTES: usize = 8;

/// What the client's aliases stand for.
#[derive(Debug, Default)]
pub(crate) struct InboundAliases {
    /// Topic of alias `index + 1`; empty while it has none. Grows with the highest alias used.
    topics: Vec<Box<str>>,
}

impl InboundAliases {
    /// From now on `alias` stands for `topic`. The caller has compared it with what we granted.
    pub(crate) fn set(&mut self, alias: NonZeroU16, topic: &str) {
        let index = usize::from(alias.get()) - 1;
        if self.topics.len() <= index {
            self.topics.resize_with(index + 1, Box::default);
        }
        if *self.topics[index] != *topic {
            self.topics[index] = topic.into();
        }
    }

    /// What `alias` stands for, if anything.
    pub(crate) fn topic(&self, alias: NonZeroU16) -> Option<&str> {
        self.topics.get(usize::from(alias.get()) - 1).map(|topic| &**topic).filter(|topic| !topic.is_empty())
    }
}

/// How a topic goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// In full, without alias.
    Plain,
    /// In full, and from then on this alias stands for it: call [`OutboundAliases::set`] once the packet is on its way.
    Introduce(NonZeroU16),
    /// By this alias alone.
    Alias(NonZeroU16),
}

/// The aliases that we use towards a client.
///
/// Replacement is *second chance*: a hand goes round the aliases; a topic that was sent again since the hand last came
/// by stays, the first that was not makes room. So a stream of topics that never come back does not push out those
/// that do.
#[derive(Debug)]
pub(crate) struct OutboundAliases {
    /// Alias `index + 1`.
    places: Vec<Place>,
    places_max: u16,
    hand: usize,
}

#[derive(Debug)]
struct Place {
    topic: Box<str>,
    /// Sent again since the hand last came by.
    used: bool,
}

impl OutboundAliases {
    /// Room for this many aliases: the smaller one of what the client takes and what we hold; `None` for 0.
    pub(crate) fn new(places_max: u16) -> Option<Box<OutboundAliases>> {
        (places_max > 0).then(|| Box::new(OutboundAliases { places: Vec::new(), places_max, hand: 0 }))
    }

    /// How `topic` should go out now. Cost: one look at each alias.
    pub(crate) fn spell(&mut self, topic: &str) -> Spelling {
        if topic.len() <= SHORT_TOPIC_BYTES {
            return Spelling::Plain;
        }
        if let Some(index) = self.places.iter().position(|place| *place.topic == *topic) {
            self.places[index].used = true;
            return Spelling::Alias(alias_of(index));
        }
        if self.places.len() < usize::from(self.places_max) {
            return Spelling::Introduce(alias_of(self.places.len()));
        }
        while std::mem::take(&mut self.places[self.hand].used) {
            self.hand = (self.hand + 1) % self.places.len();
        }
        Spelling::Introduce(alias_of(self.hand))
    }

    /// The packet that introduces `alias` is in the outbox, so whatever follows it may use the alias.
    pub(crate) fn set(&mut self, alias: NonZeroU16, topic: &str) {
        let (index, place) = (usize::from(alias.get()) - 1, Place { topic: topic.into(), used: false });
        if index == self.places.len() {
            self.places.push(place);
        } else {
            self.places[index] = place;
            self.hand = (index + 1) % self.places.len();
        }
    }
}

fn alias_of(index: usize) -> NonZeroU16 {
    NonZeroU16::MIN.saturating_add(index as u16)
}

#[cfg(test)]
mod tests;
