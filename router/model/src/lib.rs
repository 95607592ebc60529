//! Floor 0: the nouns and units that every room agrees on.
//!
//! Knows: nothing. May use: the standard library. Never: I/O, clocks, protocols, storage.
//! In and out: plain values; a type exists so that two numbers that mean different things do not mix.
#![forbid(unsafe_code)]

mod ids;
mod limits;
mod message;
mod priority;
mod qos;
mod seq;
mod time;
mod topic;

pub use ids::{ConnId, LaneId, RouteId, ShardId, SinkId};
pub use limits::Limits;
pub use message::{Match, Message, Property};
pub use priority::{InvalidPriority, Priority};
pub use qos::Qos;
pub use seq::{Seq, SpillTicket, Ticket};
pub use time::{Instant, Now, Timestamp};
pub use topic::{InvalidTopic, TopicFilter, TopicName, filter_matches, validate_filter, validate_name};
