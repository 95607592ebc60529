//! QoS 2 publications that a client sent us and has not released: their packet identifiers (MQTT 5.0 §4.3.3).
//!
//! An identifier is here from its first PUBLISH until its PUBREL; a PUBLISH with an identifier that is here is a repeat.
//! Bound: our Receive Maximum with MQTT 5; with 3.1.1, which has none, the 65 535 identifiers that there are.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use crate::acks::Promise;

/// Below this many promises, old ones are not looked for.
const PROMISES_FEW: usize = 64;

/// The identifiers of one session.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    /// 64 identifiers in each word. Clients count up, so that these are few.
    words: BTreeMap<u16, u64>,
    len: usize,
    /// How many came on an earlier connection: they do not count against the Receive Maximum of this one (§3.3.4).
    carried: usize,
    /// What the PUBREC of an identifier waits for; not there if it was kept from the start, perhaps if it is kept by now.
    promises: BTreeMap<NonZeroU16, Promise>,
    /// How many promises there may be until those kept are dropped.
    promises_max: usize,
}

impl Exchanges {
    /// Identifiers in use that came on this connection, at least.
    #[inline]
    pub(crate) fn on_this_connection(&self) -> usize {
        self.len - self.carried
    }

    /// Whether an identifier is in use.
    pub(crate) fn contains(&self, packet_id: NonZeroU16) -> bool {
        let (word, bit) = place(packet_id);
        self.words.get(&word).is_some_and(|bits| bits & bit != 0)
    }

    /// Takes an identifier into use; `false` if it was.
    pub(crate) fn insert(&mut self, packet_id: NonZeroU16) -> bool {
        let (word, bit) = place(packet_id);
        let bits = self.words.entry(word).or_default();
        let new = *bits & bit == 0;
        *bits |= bit;
        self.len += usize::from(new);
        new
    }

    /// Gives an identifier back; `false` if it was not in use.
    pub(crate) fn remove(&mut self, packet_id: NonZeroU16) -> bool {
        let (word, bit) = place(packet_id);
        let Some(bits) = self.words.get_mut(&word).filter(|bits| **bits & bit != 0) else { return false };
        *bits &= !bit;
        if *bits == 0 {
            self.words.remove(&word);
        }
        self.len -= 1;
        self.carried = self.carried.min(self.len);
        self.promises.remove(&packet_id);
        true
    }

    /// Notes what the PUBREC of an identifier waits for. `is_kept` says of an earlier one whether it is kept by now.
    pub(crate) fn wait(
        &mut self,
        packet_id: NonZeroU16,
        promise: Promise,
        is_kept: impl Fn(&Promise) -> bool,
    ) {
        if self.promises.len() >= self.promises_max.max(PROMISES_FEW) {
            self.promises.retain(|_, promise| !is_kept(promise));
            self.promises_max = 2 * self.promises.len();
        }
        self.promises.insert(packet_id, promise);
    }

    /// What the PUBREC of an identifier waits for.
    pub(crate) fn promise(&self, packet_id: NonZeroU16) -> Promise {
        self.promises.get(&packet_id).copied().unwrap_or_default()
    }

    /// The client is back on a new connection.
    pub(crate) fn carry(&mut self) {
        self.carried = self.len;
    }

    /// All identifiers in use, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = NonZeroU16> + '_ {
        self.words.iter().flat_map(|(word, bits)| {
            (0..64)
                .filter(move |bit| bits & 1 << bit != 0)
                .filter_map(move |bit| NonZeroU16::new(word << 6 | bit))
        })
    }

    /// Checks what must hold between turns.
    pub(crate) fn invariants(&self) {
        let len: u32 = self.words.values().map(|bits| bits.count_ones()).sum();
        assert_eq!(self.len, len as usize, "identifiers are counted");
        assert!(self.carried <= self.len, "what was carried over is part of them");
        assert!(self.promises.keys().all(|id| self.contains(*id)), "only who is here waits");
    }
}

const fn place(packet_id: NonZeroU16) -> (u16, u64) {
    (packet_id.get() >> 6, 1 << (packet_id.get() & 63))
}

#[cfg(test)]
mod tests;
