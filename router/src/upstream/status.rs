//! What people may see of an uplink.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use broker::uplink::Counts;

/// Warnings that the status shows in words.
const WARNINGS_SHOWN: usize = 3;

/// How an uplink is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum UplinkState {
    /// Trying to connect.
    #[default]
    Connecting,
    /// Connected; publications flow.
    Up,
    /// Connected; the upstream wants less than there is.
    Throttled,
    /// Not connected, outside the hours of a metered link.
    Resting,
    /// Waiting before the next attempt.
    Waiting,
}

impl UplinkState {
    /// Whether publications can leave.
    pub(crate) const fn is_up(self) -> bool {
        matches!(self, UplinkState::Up | UplinkState::Throttled)
    }

    /// One word for status and metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            UplinkState::Connecting => "connecting",
            UplinkState::Up => "up",
            UplinkState::Throttled => "throttled",
            UplinkState::Resting => "resting",
            UplinkState::Waiting => "down",
        }
    }
}

/// The numbers of one uplink.
#[derive(Debug, Default)]
pub(crate) struct LinkStatus {
    state: Mutex<(UplinkState, Option<String>)>,
    /// Publications that may be in flight now.
    pub window: AtomicU64,
    /// Shortest round trip to the upstream's acknowledgement, microseconds.
    pub delay_micros: AtomicU64,
    /// Signs of throttling.
    pub throttles: AtomicU64,
    /// Whether the upstream wants less than the link could carry, connected or not.
    pub throttled: AtomicBool,
    /// Whoever answers is believed.
    pub insecure: AtomicBool,
    /// Whether `certificate_days` says something.
    pub has_certificate: AtomicBool,
    /// Days until the other end's certificate ends, as of the last connection.
    pub certificate_days: AtomicI64,
    /// Jumps of the wall clock.
    pub clock_jumps: AtomicU64,
    /// How often the store did not read a lane, or keep a position.
    pub store_faults: AtomicU64,
    /// Publications acknowledged by the upstream.
    pub forwarded: AtomicU64,
    /// Publications sent, repeats included.
    pub sent: AtomicU64,
    /// Publications that wait for the upstream's acknowledgement.
    pub inflight: AtomicU64,
    /// Connections made.
    pub connects: AtomicU64,
    /// Publications that the upstream refused, repeats included.
    pub refused: AtomicU64,
    /// Senders that wait now because the upstream refuses their messages.
    pub waiting_senders: AtomicU64,
    /// Messages moved into the poison lane.
    pub poisoned: AtomicU64,
    /// Messages sent again out of the poison lane.
    pub poison_retried: AtomicU64,
    /// Messages dropped from the poison lane, by an operator or because it was full.
    pub poison_dropped: AtomicU64,
    /// Messages that expired before their turn.
    pub dropped_expired: AtomicU64,
    /// Messages lost because the store cannot read them.
    pub dropped_damaged: AtomicU64,
    /// Messages moved into the poison lane because their topic there needs something that they do not have.
    pub missing_fields: AtomicU64,
    /// Messages moved into the poison lane because they say they are from somebody who their publisher is not.
    pub foreign_senders: AtomicU64,
    /// Messages that had come from there, and were not sent back.
    pub own: AtomicU64,
    /// Messages that were sent without their properties.
    pub poorer: AtomicU64,
    /// Messages from there that were published here.
    pub inbound: AtomicU64,
    /// Messages from there that this gateway had sent itself.
    pub inbound_loops: AtomicU64,
    /// Messages from there that no entry is for.
    pub inbound_unmapped: AtomicU64,
    /// Messages from there that our own broker refuses.
    pub inbound_refused: AtomicU64,
    /// Messages from there that our own broker had no room for; they come again.
    pub inbound_unroomed: AtomicU64,
    /// Links that are up, where identities have their own.
    pub links: AtomicU64,
    /// How often another address was taken.
    pub failovers: AtomicU64,
    /// The address in use, or tried.
    target: Mutex<String>,
    /// What does not work although the uplink is up.
    warnings: Mutex<Warnings>,
    /// Whose messages were taken, and how long that took: see [`broker::uplink::Carrier::source_series`].
    pub sources: Mutex<hub::series::Series>,
}

/// Sentences about what does not work, each by whom or what it is about, which is also what ends it.
#[derive(Debug, Default)]
struct Warnings {
    sentences: BTreeMap<String, (u64, String)>,
    /// Of the next one.
    number: u64,
}

impl Warnings {
    /// At most `most`: the oldest one makes room.
    fn set(&mut self, about: &str, sentence: String, most: usize) {
        if !self.sentences.contains_key(about)
            && self.sentences.len() >= most.max(1)
            && let Some(oldest) = self.sentences.iter().min_by_key(|(_, (number, _))| *number)
        {
            let oldest = oldest.0.clone();
            self.sentences.remove(&oldest);
        }
        // Where it stands among the others does not change with every attempt.
        let number = self.sentences.get(about).map_or(self.number, |(number, _)| *number);
        self.number += 1;
        self.sentences.insert(about.to_owned(), (number, sentence));
    }

    /// The first ones that came, in one text, and how many there are.
    fn text(&self) -> Option<String> {
        let mut all: Vec<_> = self.sentences.values().collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        let first: Vec<&str> = all.iter().take(WARNINGS_SHOWN).map(|(_, sentence)| &**sentence).collect();
        match all.len() {
            0 => None,
            1 => Some(first.concat()),
            count if count > first.len() => {
                Some(format!("{count} of this kind: {}; and {} more", first.join("; "), count - first.len()))
            }
            count => Some(format!("{count} of this kind: {}", first.join("; "))),
        }
    }
}

impl LinkStatus {
    /// Notes a new state; an error stays until the uplink is up again.
    pub(crate) fn set(&self, state: UplinkState, error: Option<String>) {
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let error = match (state, error) {
            (state, _) if state.is_up() || state == UplinkState::Resting => None,
            (_, None) => current.1.take(),
            (_, error) => error,
        };
        *current = (state, error);
        if !state.is_up() {
            self.inflight.store(0, Ordering::Relaxed);
        }
    }

    /// Notes the address in use.
    pub(crate) fn set_target(&self, target: String) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// The address in use.
    pub(crate) fn target(&self) -> String {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what does not work although the uplink is up, and whom or what it is about. Of `most` of them the last are kept.
    pub(crate) fn warn_about(&self, about: &str, sentence: String, most: usize) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).set(about, sentence, most);
    }

    /// This one works.
    pub(crate) fn works(&self, about: &str) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).sentences.remove(about);
    }

    /// Everything works, as far as is known.
    pub(crate) fn all_works(&self) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).sentences.clear();
    }

    /// What does not work although the uplink is up: the first few in one text, and how many there are.
    pub(crate) fn warnings(&self) -> (Option<String>, usize) {
        let warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        (warnings.text(), warnings.sentences.len())
    }

    /// Publishes what the core has counted.
    pub(crate) fn set_counts(&self, counts: &Counts) {
        let inbound = &counts.inbound;
        for (place, count) in [
            (&self.sent, counts.sent),
            (&self.forwarded, counts.forwarded),
            (&self.refused, counts.refused),
            (&self.missing_fields, counts.missing_fields),
            (&self.foreign_senders, counts.foreign_senders),
            (&self.own, counts.own),
            (&self.poorer, counts.poorer),
            (&self.inbound, inbound.published),
            (&self.inbound_loops, inbound.loops),
            (&self.inbound_unmapped, inbound.unmapped),
            (&self.inbound_refused, inbound.refused),
            (&self.inbound_unroomed, inbound.unroomed),
        ] {
            place.store(count, Ordering::Relaxed);
        }
    }

    /// The state, and why it is not up.
    pub(crate) fn get(&self) -> (UplinkState, Option<String>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_ends_with_what_it_is_about_and_the_oldest_makes_room() {
        let status = LinkStatus::default();
        let warn = |about: &str| status.warn_about(about, format!("{about}: no"), 5);
        assert_eq!(status.warnings(), (None, 0));
        warn("b");
        assert_eq!(status.warnings(), (Some("b: no".into()), 1));
        warn("a");
        warn("b");
        assert_eq!(status.warnings(), (Some("2 of this kind: b: no; a: no".into()), 2));
        status.works("c");
        status.works("b");
        assert_eq!(status.warnings(), (Some("a: no".into()), 1));
        ["c", "d", "e", "f", "g"].into_iter().for_each(warn);
        let text = "5 of this kind: c: no; d: no; e: no; and 2 more";
        assert_eq!(status.warnings(), (Some(text.into()), 5), "a has made room");
        status.all_works();
        assert_eq!(status.warnings(), (None, 0));
    }
}
