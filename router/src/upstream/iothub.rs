//! Azure IoT Hub as an upstream: what messages look like there, and how each identity gets in.
//!
//! Reading order: `dialect` (messages), `access` (who connects, with what), `signer` (who signs tokens). The links
//! themselves are carried by `link::pooled`.

mod access;
mod dialect;
mod signer;

pub(super) use access::{Access, Keyring};
pub(super) use dialect::HubDialect;
pub(crate) use signer::{Signature, Signer};
