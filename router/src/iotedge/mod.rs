//! The gateway's place in Azure IoT Edge: the runtime beside it, the identities below it, and who of them may come in.
//!
//! Reading order: `environment` (edgeHub's variables), `workload` (the runtime's API), `vault` (secrets at rest), `local`
//! (identities without IoT Hub), `scope` (identities from IoT Hub), `directory` (those known now), `judge` (the rules), `forwarded`,
//! `visitors` (clients that IoT Hub alone knows), `gatekeeper` (the clients that come), `node` (all of it together), `numbers` (edgeHub's series).
//! Knows: `reference/edgehub.md` §5 and §7. May use: `hub`, sockets, files in `store.path`/edge. Never: MQTT packets, topics.

mod cards;
mod directory;
pub mod environment;
mod exchange;
mod forwarded;
mod gatekeeper;
mod judge;
pub mod local;
mod node;
mod numbers;
mod scope;
mod signer;
mod vault;
mod visitors;
mod workload;

pub(crate) use cards::Cards;
#[cfg(test)]
pub(crate) use directory::Source;
pub(crate) use directory::{Directory, Lookup};
pub(crate) use gatekeeper::Gatekeeper;
#[cfg(test)]
pub(crate) use gatekeeper::GatekeeperSetup;
pub(crate) use judge::{Claim, Denied, EDGE_HUB, Proof};
pub use node::StartError;
pub(crate) use node::{EdgeNode, own_certificate};
pub(crate) use numbers::{Common, Queue, encode as encode_numbers, encode_series, encode_services};
#[cfg(test)]
pub(crate) use vault::Keeper;
pub(crate) use vault::Vault;
pub use workload::{WorkloadUri, version_for};

/// An id as it stands in a path or a query.
fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, UNRESERVED).to_string()
}

/// Everything but what RFC 3986 §2.3 leaves as it is.
const UNRESERVED: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Seconds since 1970.
pub(crate) fn now_secs() -> u64 {
    crate::clock::Clock::default().now().timestamp.0 / 1_000
}
