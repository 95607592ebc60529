//! The control door: what operators may ask of a running router and do to it, through a Unix socket in its store.
//!
//! `door` answers there; `report` is what can be seen in the store, running or not; `client` and `lanes` are the command
//! line's side. Whoever may open the socket's file may do everything here, so it belongs to the router's user alone.

mod client;
mod door;
mod lanes;
mod report;

pub(crate) use door::{bind, serve};
pub use lanes::lanes;
