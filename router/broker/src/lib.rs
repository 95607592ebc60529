//! Floor 2: the decisions of one shard, without I/O.
//!
//! Knows: sessions, subscriptions, dispatch, admission, promises, the uplink's window. May use: `model`, `wire`, `routes`, `hub`.
//! In: bytes of a connection, events from other shards and from the store, and the time. Out: trays of [`Effects`].
//! Always: the same inputs at the same times give the same effects; nothing here blocks, waits, or asks a clock.
#![forbid(unsafe_code)]

pub mod access;
mod acks;
mod admit;
mod aliases;
mod broker;
mod connections;
mod counters;
mod delivery;
mod dispatch;
mod effects;
mod envelope;
mod exchanges;
pub mod front;
mod heads;
mod labels;
mod offers;
mod outbox;
mod plan;
mod random;
mod reports;
mod retained;
mod rooms;
mod runs;
mod saving;
mod sessions;
mod sharing;
mod subscriptions;
mod turnstile;
mod unwritten;
pub mod uplink;

pub use admit::{Level, Levels, WhenFull};
pub use broker::{Broker, Event, RecordRead, Setup, home};
pub use connections::{Peer, Shown};
pub use counters::Counters;
pub use effects::{
    AppendTray, Authentication, Control, Denial, Effects, HandoffBatch, Loss, LossReason, Request,
    StateSpace, Write,
};
pub use envelope::{Envelope, InvalidEnvelope};
pub use heads::iothub::{HubAnswer, HubRequest, HubSetup, Unanswered, input_lane_name, read_input_lane_name};
pub use labels::{publisher_of_record, sender_of_record};
pub use offers::{Offers, Redirect};
pub use plan::{Durability, Plan, SinkPlan};
pub use retained::RetainedNumbers;
pub use retained::record::{InvalidRetained, RetainedRecord, decode_retained};
pub use rooms::{RoomSetup, Rooms};
pub use sessions::SubscriptionOptions;
pub use sessions::record::InvalidRecord;
pub use sessions::restoring::{StoredSession, StoredSessions};
pub use subscriptions::SessionKey;
pub use subscriptions::shares::Members;
pub use turnstile::{Turnstile, Verdict};

#[cfg(test)]
mod testbench;
#[cfg(test)]
mod tests;
