//! Sockets: accepting them, and moving bytes between them and the broker. Loops without decisions.

mod listener;
mod socket;

pub(crate) use listener::{Bound, bind, serve};
pub(crate) use socket::Socket;
