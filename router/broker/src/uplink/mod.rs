//! Station 7: when a kept message goes upstream, and when it counts as delivered. No I/O.
//!
//! Knows: the lanes of one uplink, the window, retries, senders, the client half of MQTT. May use: `model`, `wire`.
//! In: bytes from the upstream, records read from lanes, time. Out: bytes to write, places that are delivered, places to
//! move aside. Always: within a lane the order of each sender; whose turn it is, decided anew for each batch; a place
//! counts as delivered when every place before it is settled.

mod backoff;
mod bursts;
mod carrier;
mod clocks;
mod dialect;
mod exactly;
mod inbound;
mod lanes;
mod link;
mod mapping;
mod pace;
mod places;
mod poison;
mod pool;
mod proof;
mod quotas;
mod schedule;
mod senders;
mod sources;
mod stretch;
mod suspicion;
mod targets;
mod template;
mod window;

pub use backoff::Backoff;
pub use carrier::{Ahead, Aside, Carrier, Counts, Reading, Rules};
pub use clocks::ClockWatch;
pub use dialect::{Dialect, Form, Origin, Outgoing};
pub use inbound::{InboundCounts, InboundEntry, InboundRules, LocalError, unshared};
pub use link::{Heard, LinkError, LinkSetup, LinkState};
pub use mapping::{Entry, Mapping, Packing, Wish};
pub use poison::{InvalidPoison, Poison, Refusal, Unfit};
pub use pool::PoolRules;
pub use schedule::{Schedule, weight};
pub use targets::{TargetRules, Targets};
pub use template::{Hole, InvalidTemplate, Template, filters_meet, image};
pub use window::Pressure;

/// What the names of uplinks begin with where they publish what comes from upstream: user and client identifier. Nobody
/// else may have such a client identifier.
pub const OWN_CLIENTS: &str = "$uplink/";

#[cfg(test)]
mod tests;
