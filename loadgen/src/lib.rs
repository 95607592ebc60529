//! Open-loop MQTT load with a ledger of what was sent, what was acknowledged and what arrived.
//!
//! Knows: MQTT as a client (through `wire`), schedules, faults. May use: `model`, `wire`, tokio. Never: the router.
//! In:  a scenario. Out: a report and a verdict. Works against any MQTT broker.
//!
//! In reading order: [`ledger`] (the referee, usable alone), [`scenario`], [`schedule`], [`payload`], `publisher`,
//! `subscriber`, [`run`], [`measure`], [`report`], [`wan`] (a network that fails on command), [`quickstart`], [`null`].
#![forbid(unsafe_code)]

pub mod address;
mod backoff;
pub mod calibrate;
mod clients;
pub mod clock;
pub mod compare;
mod conn;
pub mod hlog;
pub mod html;
pub mod ledger;
pub mod measure;
pub mod null;
mod pacer;
mod pattern;
pub mod payload;
pub mod process;
mod publisher;
pub mod quickstart;
mod random;
pub mod replay;
pub mod report;
pub mod run;
pub mod saturate;
pub mod scenario;
pub mod schedule;
mod scrape;
mod seqset;
mod stats;
mod subscriber;
pub mod syncs;
pub mod tls;
mod transport;
pub mod wan;
mod websocket;
mod worker;

pub use conn::ConnError;
pub use pattern::{InvalidPattern, Pattern};
pub use seqset::SeqSet;
pub use stats::Live;
