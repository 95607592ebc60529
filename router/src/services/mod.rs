//! The services behind the IoT Hub dialect: twins and direct methods (`reference/edgehub.md` §2.7, §2.8, §9.5, §9.6).
//!
//! Reading order: `desk` (where shards ask), `core` (the decisions), `shelf` (twins on the disk), `service` (the loop), `web`
//! (calls of modules over HTTPS).
//! Knows: twins and methods as `hub` describes them. May use: `hub`, the vault, mail to shards, the line to IoT Hub. Never:
//! MQTT packets. Always: a twin is on the disk, sealed, before its client is told that it has changed.

mod core;
mod desk;
mod service;
mod shelf;
mod web;

pub(crate) use self::core::{Numbers, Wish};
pub(crate) use desk::{Desk, Question, desk};
pub(crate) use service::{Known, Service, ServiceSetup};
pub(crate) use shelf::Shelf;
pub(crate) use web::Web;
