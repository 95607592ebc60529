//! Station 7: when a kept message goes upstream, and when it counts as delivered. No I/O.
//!
//! Knows: the lanes of one uplink, the window, the retry clock, the client half of MQTT. May use: `model`, `wire`.
//! In: bytes from the upstream, records read from lanes, time. Out: bytes to write, places that are delivered.
//! Always: within a lane the order of places; the most urgent lane first, decided anew for each batch; a place counts
//! as delivered when every place before it does.

mod backoff;
mod lanes;
mod link;

pub use backoff::Backoff;
pub use lanes::{LaneWindow, Lanes};
pub use link::{Impossible, Link, LinkError, LinkSetup, LinkState, Sent};
