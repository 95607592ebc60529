//! Floor 3: the edges of the router and their composition. Start reading at [`app`].
//!
//! Knows: everything below, and the world: sockets, threads, disks, clocks, signals.
//! In: a configuration. Out: a running router, or one sentence that says why not.
#![forbid(unsafe_code)]

pub mod access;
pub mod app;
pub mod cli;
mod clock;
pub mod config;
pub mod control;
mod disk;
mod files;
mod fronts;
mod http;
pub mod iotedge;
mod levels;
mod mail;
mod metrics;
mod net;
mod packing;
mod promises;
mod services;
mod shard;
pub mod status;
mod syslog;
mod system;
mod telemetry;
mod upstream;
