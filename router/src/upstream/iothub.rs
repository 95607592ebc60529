//! Azure IoT Hub as an upstream: what messages look like there, and how each identity gets in.
//!
//! Reading order: `dialect` (messages), `access` (who connects, with what), `signer` (who signs tokens),
//! `refusal` (why somebody does not get in). The links
//! themselves are carried by `link::pooled`.

mod access;
mod dialect;
mod refusal;
mod signer;

pub(super) use access::{Access, Keyring};
pub(super) use dialect::HubDialect;
pub(super) use refusal::Facts;
pub(crate) use signer::{About, LinkNews, Signature, Signer};
