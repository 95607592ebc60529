//! Floor 1: the IoT Hub dialect. What clients of edgeHub and IoT Hub say on topics, in tokens, twins and manifests.
//!
//! Knows: the vocabulary of `reference/edgehub.md` §2, §5, §6 and §9.5, byte for byte.
//! May use: `model`. Never: I/O, clocks (time is an argument), randomness, sessions, storage, other rooms.
//! In:  topics, bags, user names, tokens, JSON documents. Out: what they mean, or whose mistake they are.
//! Bound: what is kept is bounded by the text it came from, or by an argument that names a limit.
//! Reading order: `id`, `bag`, `topics`, `mapping`, `connect`; `sas`, `connection_string`, `identity`, `tree`; `twin`,
//! `methods`, `manifest`; `series`, `summary`.
#![forbid(unsafe_code)]

pub mod bag;
pub mod connect;
pub mod connection_string;
pub mod escape;
pub mod id;
pub mod identity;
pub mod manifest;
pub mod mapping;
pub mod methods;
pub mod sas;
pub mod series;
pub mod summary;
pub mod topics;
pub mod tree;
pub mod twin;

pub use id::HubId;
