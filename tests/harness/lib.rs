//! What the tests over real processes lean on: routers to start and kill, clients to talk to them, an upstream to break.
//!
//! Knows: how `millrace` is started, MQTT as `wire` writes it, HTTP as far as `/status` needs it.
//! May use: `wire` and `model` for bytes, the load generator's emulated network; processes, sockets and threads of the standard library. Never: the insides of
//! the router: what cannot be seen from outside is tested beside the code.
//! Always: every wait has a deadline ([`PATIENCE`]) and says what it waited for; a process never outlives its value;
//! ports are chosen by the system, files live in a directory of their own, so that tests run side by side.

pub mod azure;
mod binary;
mod certificates;
mod client;
pub mod foreign;
mod http;
pub mod network;
pub mod notation;
mod places;
mod process;
mod proxy;
mod random;
mod recorder;
mod router;
mod script;
mod tls_front;
mod wait;
pub mod websocket;
mod world;

pub use binary::{millrace, run};
pub use certificates::{Authority, Identity, Secured, Trust};
pub use client::{Above, Client, Connection, Incoming, Received, v3, v5};
pub use places::{Nobody, own_place};
pub use process::{Finished, Process, Signal};
pub use proxy::Proxy;
pub use random::Random;
pub use recorder::{Layers, Recorder};
pub use router::{Router, Setup};
pub use script::{Script, Talk};
pub use tls_front::TlsFront;
pub use wait::{PATIENCE, until, within};
pub use world::World;

pub use model::Qos;
pub use wire::{BlockBuilder, Connect, OutgoingPublish, PublishProperties, ReasonCode, Version};

/// Every QoS that the router offers.
pub const QOS_0: Qos = Qos::AtMostOnce;
/// At least once.
pub const QOS_1: Qos = Qos::AtLeastOnce;
/// Exactly once.
pub const QOS_2: Qos = Qos::ExactlyOnce;
