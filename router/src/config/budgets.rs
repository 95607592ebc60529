//! Space on the disk: whether what is promised to the store and to each uplink can be kept at all.
//!
//! Knows: what the store needs beside messages, and which bounds go together. Never: what is free on this machine; that is
//! looked at while the router runs. Out: mistakes, each with the smallest number that would do.

use model::Limits;

use super::checked::{Store, Uplink};
use super::errors::ConfigError;
use super::judge::Judge;
use super::schema;

/// Judges all budgets together.
pub(super) fn check(judge: &mut Judge<'_>, store: &Store, uplinks: &[Uplink], limits: &Limits) {
    let record_bytes_max = limits.record_bytes_max();
    let usable = |bytes: u64| bytes / 100 * u64::from(100 - store.reserve_percent.min(99));
    let total_for = |usable: u64| usable.div_ceil(u64::from(100 - store.reserve_percent.min(99))) * 100;
    let mut parts = 0u64;
    for uplink in uplinks {
        let Some(bytes_max) = uplink.bytes_max else { continue };
        parts = parts.saturating_add(bytes_max);
        if usable(bytes_max) < record_bytes_max {
            let least = total_for(record_bytes_max);
            judge.complain(&schema::UPLINK_BYTES_MAX, &uplink.name, |error| ConfigError {
                problem: "has no room for one message of limits.packet_bytes_max beside the reserve"
                    .to_owned(),
                found: Some(bytes_max.to_string()),
                allowed: Some(format!("0, or a whole number from {least} on")),
                ..error
            });
        }
    }
    let Some(bytes_max) = store.bytes_max else { return };
    let needs = Needs::of(store, limits);
    let least = total_for(needs.beside + needs.unmerged);
    if bytes_max < least {
        return judge.complain(&schema::STORE_BYTES_MAX, "", |error| ConfigError {
            problem: "is less than the store needs to work at all".to_owned(),
            found: Some(bytes_max.to_string()),
            allowed: Some(format!("0, or a whole number from {least} on")),
            hint: Some("a smaller store.memtable_bytes needs less".to_owned()),
            ..error
        });
    }
    let least = needs.beside.saturating_add(parts);
    if bytes_max < least {
        judge.complain(&schema::STORE_BYTES_MAX, "", |error| ConfigError {
            problem: format!(
                "is less than the parts of its uplinks: {parts} bytes, and {} that the store needs beside",
                needs.beside
            ),
            found: Some(bytes_max.to_string()),
            allowed: Some(format!("0, or a whole number from {least} on")),
            hint: Some("or give the uplinks smaller parts (uplink.NAME.bytes_max)".to_owned()),
            ..error
        });
    }
}

/// What one shard may append before it waits for the disk: all of them a sixty-fourth of the store's budget at most. What
/// they have appended when they hear that the store is full is written all the same.
pub(super) fn commit_bytes_max(store: &Store, shards: usize, limits: &Limits) -> u32 {
    let part = store.bytes_max.unwrap_or(u64::MAX) / 64 / shards.max(1) as u64;
    let part = u32::try_from(part).unwrap_or(u32::MAX).max(COMMIT_BYTES_MIN);
    limits.commit_bytes_max.min(part)
}

/// Less would make a sync of every few messages.
const COMMIT_BYTES_MIN: u32 = 64 << 10;

/// What a store takes that is not messages.
struct Needs {
    /// Write-ahead log, quarantine, and what merging takes for a while.
    beside: u64,
    /// Messages that are delivered and whose space has not come back yet.
    unmerged: u64,
}

impl Needs {
    fn of(store: &Store, limits: &Limits) -> Needs {
        let options = store.options(limits);
        let beside = options.resting_bytes_max() + options.merging_bytes_max(u64::MAX / 2);
        Needs {
            beside: beside.saturating_add(limits.quarantine_bytes_max),
            unmerged: options.unmerged_bytes_max(),
        }
    }
}
