//! Sockets: accepting them, and moving bytes between them and the broker. Loops without decisions.

mod listener;
mod socket;

pub use listener::{Bound, ListenError, bind, serve};
pub use socket::Socket;
