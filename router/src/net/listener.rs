//! Where clients connect: binding, accepting, handing out in turn.
//!
//! In: addresses. Out: sockets in the shards' mailboxes. Bound: `limits.connections_max` over all shards; above it the
//! socket is closed at once and counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use broker::Peer;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpListener;
use tracing::{debug, warn};

use crate::mail::{Mail, Mailbox};

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 1_024;

/// Why a listener does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// Somebody else has the port.
    #[error(
        "listener.{name}.bind = \"{address}\": the port is in use by another program; stop that one, or choose another \
         port (0 takes any free one)"
    )]
    InUse {
        /// The listener.
        name: String,
        /// The address.
        address: SocketAddr,
    },
    /// The system refuses.
    #[error("listener.{name}.bind = \"{address}\": {error}")]
    Refused {
        /// The listener.
        name: String,
        /// The address.
        address: SocketAddr,
        /// The system's words.
        error: std::io::Error,
    },
}

/// A listener that has its address, and does not accept yet.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Its name.
    pub name: String,
    /// The address it really has.
    pub address: SocketAddr,
    listener: TcpListener,
}

/// Takes an address. Clients may connect from now on; they are answered once [`serve`] runs.
pub(crate) fn bind(name: &str, address: SocketAddr) -> Result<Bound, ListenError> {
    let refused = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => ListenError::InUse { name: name.to_owned(), address },
        _ => ListenError::Refused { name: name.to_owned(), address, error },
    };
    let listener = listen(address).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok(Bound { name: name.to_owned(), address, listener })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart does not wait for the old connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts for ever, handing sockets to the shards in turn. `number` is the listener's place in the configuration.
pub(crate) async fn serve(
    bound: Bound,
    number: u16,
    mailboxes: Vec<Arc<Mailbox>>,
    open: Arc<AtomicU32>,
    connections_max: u32,
    refused: Arc<AtomicU64>,
) {
    let mut turn = 0;
    loop {
        let (stream, address) = match bound.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly: out of file descriptors. The connection stays in the backlog; look again shortly.
                warn!(%error, listener = bound.name, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if open.load(Ordering::Relaxed) >= connections_max {
            refused.fetch_add(1, Ordering::Relaxed);
            debug!(peer = %address, "refused: limits.connections_max is reached");
            continue;
        }
        let Ok(stream) = prepare(stream) else { continue };
        turn = (turn + 1) % mailboxes.len();
        let peer = Peer { listener: number, certificate_user: None };
        let mail = Mail::Accepted { stream, address, peer, unread: Vec::new() };
        if mailboxes[turn].send(mail).is_err() {
            refused.fetch_add(1, Ordering::Relaxed);
            debug!(peer = %address, "refused: the shard has too much to do");
        }
    }
}

fn prepare(stream: tokio::net::TcpStream) -> std::io::Result<std::net::TcpStream> {
    // Turns gather what belongs together; what is written must leave.
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    SockRef::from(&stream).set_keepalive(true)?;
    Ok(stream)
}
