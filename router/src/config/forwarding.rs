//! How an uplink carries: turns, drains, and what becomes of messages that the other end refuses.
//!
//! Knows: the keys `uplink.NAME.*` that are about that. In: a judge. Out: values as used.

use super::drains::Drain;
use super::judge::Judge;
use super::schema;

/// How an uplink carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// Most bytes per second; 0 for no such pace.
    pub pace_bytes_per_sec: u64,
    /// Whether priorities share the link instead of the most urgent going first.
    pub weighted: bool,
    /// Whether what comes after a reconnect passes what waited, for routes that do not say it.
    pub drain: Drain,
    /// What the backlog gets beside live messages, 1 to 99.
    pub history_share_percent: u8,
    /// Longest wait before a backlog starts to drain on a new link.
    pub drain_jitter_millis: u64,
    /// How long a message of a `spill` route may wait for the upstream before it is written.
    pub spill_after_millis: u64,
    /// Attempts after which a refused message is moved aside.
    pub attempts_max: u16,
    /// Messages in the poison lane.
    pub poison_messages_max: u64,
    /// Bytes in the poison lane.
    pub poison_bytes_max: u64,
}

impl Forwarding {
    /// `None` if a value is refused; then an error says so.
    pub(super) fn check(judge: &mut Judge<'_>, name: &str) -> Option<Forwarding> {
        let weighted = judge.text(&schema::UPLINK_SCHEDULE, name).map(|word| word == "weighted");
        let drain = judge.text(&schema::UPLINK_DRAIN, name).and_then(|word| Drain::of(Some(&word)));
        let pace_bytes_per_sec = judge.integer(&schema::UPLINK_PACE_BYTES, name);
        let history_share_percent = judge.integer(&schema::UPLINK_HISTORY_SHARE, name);
        let drain_jitter_millis = judge.integer(&schema::UPLINK_DRAIN_JITTER_MS, name);
        let spill_after_millis = judge.integer(&schema::UPLINK_SPILL_AFTER_MS, name);
        let attempts_max = judge.integer(&schema::UPLINK_ATTEMPTS_MAX, name);
        let poison_messages_max = judge.integer(&schema::UPLINK_POISON_MESSAGES_MAX, name);
        let poison_bytes_max = judge.integer(&schema::UPLINK_POISON_BYTES_MAX, name);
        Some(Forwarding {
            pace_bytes_per_sec: pace_bytes_per_sec?,
            weighted: weighted?,
            drain: drain?,
            history_share_percent: history_share_percent? as u8,
            drain_jitter_millis: drain_jitter_millis?,
            spill_after_millis: spill_after_millis?,
            attempts_max: attempts_max? as u16,
            poison_messages_max: poison_messages_max?,
            poison_bytes_max: poison_bytes_max?,
        })
    }
}
