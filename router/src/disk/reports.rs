//! The loss ledger for others: what is new in it, published now and then as one compact message.
//!
//! In: the ledger, and how far the store says it is published. Out: a [`Part`] for a shard, which publishes it like any
//! message of QoS 1; the format is in `router/docs/operations.md`. Bound: [`PART_BYTES_MAX`] per interval; more waits for the
//! next one. Always: each entry is published at least once, in order; one that is published grows no more. What the ledger
//! forgot before its turn came is counted in the part behind it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::losses::{Entry, Ledger, published};
use crate::clock::Clock;
use crate::config::LossReports;
use crate::http::Overview;
use crate::mail::{Mail, Mailbox};

/// Bytes of one part, about: the entry that reaches it is the last one.
const PART_BYTES_MAX: usize = 32 << 10;

/// A part of the ledger on its way to a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where it is published.
    pub topic: Arc<str>,
    /// What.
    pub bytes: Vec<u8>,
    /// Number of the first entry behind it.
    pub next: u64,
}

/// The message.
#[derive(Debug, Serialize)]
struct Message {
    /// Of this format.
    version: u8,
    at_ms: u64,
    /// Entries that were forgotten before they could be published.
    forgotten: u64,
    losses: Vec<Numbered>,
}

#[derive(Debug, Serialize)]
struct Numbered {
    number: u64,
    #[serde(flatten)]
    entry: Entry,
}

/// Publishes until the process ends.
pub(crate) async fn run(setup: LossReports, overview: Arc<Overview>, shard: Arc<Mailbox>) {
    let topic: Arc<str> = setup.topic.into();
    let clock = Clock::default();
    let mut ticks = tokio::time::interval(Duration::from_secs(setup.interval_secs));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // While the store recovers nobody can look.
        let Ok(from) = published(&overview.reader) else { continue };
        if let Some((bytes, next)) = part(&overview.disk.ledger, from, clock.now().timestamp.0)
            && let Err(Mail::Losses(part)) =
                shard.send(Mail::Losses(Part { topic: topic.clone(), bytes, next }))
        {
            // A full box is a busy shard: the same comes again with the next tick.
            tracing::debug!(next = part.next, "the loss ledger is published later");
        }
    }
}

/// What is new from this number on, and where it ends; `None` if nothing is.
fn part(ledger: &Ledger, from: u64, at_ms: u64) -> Option<(Vec<u8>, u64)> {
    let mut message = Message { version: 1, at_ms, forgotten: 0, losses: Vec::new() };
    let mut bytes = 0;
    let next = ledger.publish(from, |number, entry| {
        if bytes >= PART_BYTES_MAX {
            return false;
        }
        if message.losses.is_empty() {
            message.forgotten = number - from;
        }
        let numbered = Numbered { number, entry: entry.clone() };
        bytes += serde_json::to_vec(&numbered).map_or(0, |json| json.len());
        message.losses.push(numbered);
        true
    });
    let json = serde_json::to_vec(&message).ok()?;
    (!message.losses.is_empty()).then_some((json, next))
}

#[cfg(test)]
mod tests {
    use model::{LaneId, Seq, Timestamp};
    use store::CommitLog as _;

    use super::super::losses::Reason;
    use super::*;

    fn entry(place: u64) -> Entry {
        let seq = Seq::new(place).expect("from 1");
        let lost = store::Lost { lane: LaneId(1), from: seq, up_to: seq, bytes: 7 };
        Entry::range("u/plant/default", Reason::Damaged, &lost, Timestamp(1_000))
    }

    fn ledger(entries_max: usize) -> (tempfile::TempDir, store::Log, Ledger) {
        let directory = tempfile::tempdir().expect("a directory");
        let log = store::Log::open(&store::Options::small(directory.path().join("store"))).expect("a store");
        let ledger = Ledger::load(&log.reader(), entries_max).expect("readable");
        (directory, log, ledger)
    }

    fn numbers(bytes: &[u8]) -> Vec<u64> {
        let json: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
        let losses = json["losses"].as_array().expect("a list");
        losses.iter().map(|loss| loss["number"].as_u64().expect("a number")).collect()
    }

    #[test]
    fn the_format_is_as_documented() {
        let (_home, mut log, ledger) = ledger(100);
        assert_eq!(part(&ledger, 0, 5), None, "nothing is new");
        let (route, sender) = (Some("hot".to_owned()), Some("press7".to_owned()));
        let entry = Entry { route, sender, reason: Reason::Expired, ..entry(3) };
        ledger.add(&mut log, entry).expect("the disk takes it");
        let (bytes, next) = part(&ledger, 0, 5).expect("something is new");
        let page = include_str!("../../docs/operations.md");
        let text = String::from_utf8(bytes).expect("text");
        assert!(page.contains(&text), "not in operations.md: {text}");
        assert_eq!((next, part(&ledger, next, 6)), (1, None));
    }

    #[test]
    fn what_is_published_grows_no_more_and_the_rest_waits_its_turn() {
        let (_home, mut log, ledger) = ledger(10_000);
        ledger.add(&mut log, entry(1)).expect("the disk takes it");
        let (_, next) = part(&ledger, 0, 0).expect("something is new");
        ledger.add(&mut log, entry(2)).expect("the disk takes it");
        let (bytes, next) = part(&ledger, next, 0).expect("what goes on is new");
        assert_eq!(numbers(&bytes), [1]);
        (0..2_000).for_each(|at| ledger.add(&mut log, entry(10 + 2 * at)).expect("the disk takes it"));
        let (mut at, mut count) = (next, 0);
        while let Some((bytes, next)) = part(&ledger, at, 0) {
            assert!(bytes.len() < PART_BYTES_MAX + 2_000, "{}", bytes.len());
            count += numbers(&bytes).len();
            at = next;
        }
        assert_eq!((count, at), (2_000, 2_002));
        // A part that was not published comes again.
        assert!(part(&ledger, next, 0).is_some());
    }

    #[test]
    fn what_the_ledger_forgot_is_counted() {
        let (_home, mut log, ledger) = ledger(16);
        (0..100).for_each(|at| ledger.add(&mut log, entry(1 + 2 * at)).expect("the disk takes it"));
        let (bytes, next) = part(&ledger, 0, 0).expect("something is new");
        let json: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!((json["forgotten"].as_u64(), numbers(&bytes).len(), next), (Some(84), 16, 100));
        log.commit().expect("the disk takes it");
    }
}
