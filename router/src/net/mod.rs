//! Sockets: accepting them, and moving bytes between them and the broker. Loops without decisions about MQTT.
//!
//! Reading order: `door` (a listener as all see it), `listener`, `unix` and `doors` (accepting), `stream` (a socket), `socket`
//! (a client's socket in its shard), `layers` (what lies between the two), and the layers: `proxy`, `tls` with
//! `certificates`, `websocket`.

mod certificates;
mod door;
mod doors;
mod layers;
mod listener;
mod proxy;
mod secure;
mod socket;
mod stream;
mod tls;
mod unix;
mod unjudged;
mod websocket;

pub(crate) use certificates::{
    CertificateError, CertificateInfo, EdgeCertificate, certificates, end_of, load as load_tls, pem_problem,
};
pub(crate) use door::{Door, Gate, Refusal, Refused};
pub use doors::OpenError;
pub(crate) use doors::{open, read_anew, watch_certificates};
pub(crate) use layers::{Came, LAYER_BYTES_MAX, Scratch};
pub(crate) use listener::{Bound, serve};
pub(crate) use secure::Secure;
pub(crate) use socket::{Arrival, Socket};
pub(crate) use stream::Detached;
pub(crate) use unix::{SocketFile, listen as listen_unix};
pub(crate) use websocket::{authorization, forwarded_certificate};
