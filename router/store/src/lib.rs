//! Floor 1: the commit log and the small durable state, kept in RocksDB.
//!
//! Knows: lanes of opaque records, their order ([`model::Seq`]), how far each is delivered, and small values under
//! small keys. May use: `model`, RocksDB, the file system. Never: MQTT, sockets, routes; a clock (time is an argument).
//! In:  records appended by one thread, in groups. Out: "all of this group is on the disk", records in order, numbers.
//! Invariant: what a [`CommitLog::commit`] has confirmed is read back after a crash, until the lane is advanced over it;
//! a Seq is dense per lane and never used twice; `head ≤ tail` for every lane.
//!
//! Start reading at [`CommitLog`] (what one can ask for), then `log` (how a group is written), `block` and `record`
//! (the bytes), `read`, `retention`, `middle`, `ahead`, `recovery`. The layout on disk is `router/docs/storage-format.md`.
#![forbid(unsafe_code)]

mod ahead;
mod block;
mod cursor;
mod engine;
mod error;
mod expiry;
mod face;
mod home;
mod husks;
mod inspect;
mod keys;
mod lanes;
mod log;
mod memory;
mod middle;
mod newest_log;
mod notes;
mod options;
mod places;
mod quarantine;
mod read;
mod record;
mod recovery;
mod repair;
mod retention;
mod salvage;
mod staging;
mod stats;

pub use block::{BLOCK_BYTES_MAX, BLOCK_RECORDS_MAX};
pub use error::{Fault, FaultKind, OpenError, StoreError};
pub use face::{CommitLog, Committed, Expired, Loss, LossKind, Lost, Space, StateVisitor};
pub use home::FORMAT_VERSION;
pub use inspect::{Inspection, LaneReport, VerifyReport};
pub use keys::LANE_NAME_BYTES_MAX;
pub use lanes::LaneState;
pub use log::Log;
pub use memory::MemoryLog;
pub use options::Options;
pub use read::{ReadLimits, ReadOut, Reader, Record};
pub use record::RECORD_OVERHEAD_BYTES;
pub use repair::{Repaired, repair};
pub use retention::Occupied;
pub use stats::Stats;

#[cfg(test)]
use ::model::{Seq, Timestamp};

#[cfg(test)]
mod tests;
