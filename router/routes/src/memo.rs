//! What the latest topics led to: most messages have the topic of one shortly before.
//!
//! Knows: which groups of routes a topic concerns, once the table has said so. May use: `model`.
//! In:  a message and the table's answer. Out: the same answer for the same table, topic and source.
//! Invariant: a place answers for exactly one table, topic and source. Memory is bounded by [`PLACES`] topics of
//! [`TOPIC_BYTES_MAX`] with at most as many groups as the table has; longer topics are looked up each time.

use std::sync::Arc;

use model::Message;

/// Topics that are remembered, each at the place that its hash names.
const PLACES: usize = 32;

/// Longest topic that is remembered.
const TOPIC_BYTES_MAX: usize = 256;

/// The groups of routes that a message concerns, and what these look at.
#[derive(Debug, Default)]
pub(crate) struct Concerned {
    pub(crate) groups: Vec<u32>,
    pub(crate) reads_slots: bool,
    pub(crate) reads_body: bool,
    /// Whether none of their routes can match while no slot has a value.
    pub(crate) waits_for_values: bool,
}

/// Which table an answer is of. Whoever holds it keeps its place in memory from being used for another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity(Arc<u8>);

impl PartialEq for Identity {
    fn eq(&self, other: &Identity) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What the latest topics led to.
#[derive(Debug)]
pub(crate) struct Memo {
    /// The table that all places speak of.
    table: Identity,
    places: Box<[Place; PLACES]>,
}

#[derive(Debug, Default)]
struct Place {
    known: bool,
    topic: String,
    source: String,
    concerned: Concerned,
}

impl Default for Memo {
    fn default() -> Memo {
        Memo { table: Identity::default(), places: Box::new(std::array::from_fn(|_| Place::default())) }
    }
}

impl Memo {
    /// The place for this message, and whether it answers already; if not, it is the caller's turn to fill it.
    #[inline]
    pub(crate) fn place(&mut self, table: &Identity, message: &Message<'_>) -> (usize, bool) {
        if self.table != *table {
            self.forget(table);
        }
        let number = number(message.topic.as_bytes());
        let place = &mut self.places[number];
        let known = place.known && place.topic == message.topic && place.source == message.source;
        if !known {
            place.learn(message);
        }
        (number, known)
    }

    /// What a place says.
    #[inline]
    pub(crate) fn concerned(&mut self, place: usize) -> &mut Concerned {
        &mut self.places[place].concerned
    }

    #[cold]
    fn forget(&mut self, table: &Identity) {
        self.table = table.clone();
        self.places.iter_mut().for_each(|place| place.known = false);
    }
}

impl Place {
    #[cold]
    fn learn(&mut self, message: &Message<'_>) {
        self.known = message.topic.len() <= TOPIC_BYTES_MAX && message.source.len() <= TOPIC_BYTES_MAX;
        if self.known {
            self.topic.clear();
            self.topic.push_str(message.topic);
            self.source.clear();
            self.source.push_str(message.source);
        }
    }
}

/// Topics differ mostly at their ends: the last eight bytes decide.
#[inline]
fn number(topic: &[u8]) -> usize {
    let end = match topic.last_chunk::<8>() {
        Some(end) => u64::from_le_bytes(*end),
        None => topic.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    };
    // Fibonacci hashing: the highest bits of the product depend on all bits of the word.
    (end.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - PLACES.trailing_zeros())) as usize
}

const _: () = assert!(PLACES.is_power_of_two(), "a place is named by bits");

#[cfg(test)]
mod tests;
