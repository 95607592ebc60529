//! Where clients connect: binding, accepting, handing out in turn.
//!
//! In: addresses and paths. Out: sockets in the shards' mailboxes. Bounds: `limits.connections_max` over all shards and
//! `listener.NAME.connections_max`; above them the socket is closed at once and counted.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker::Peer;
use model::Limits;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tracing::{debug, warn};

use super::door::{Door, Gate, Refusal};
use super::layers::Layers;
use super::socket::Arrival;
use super::stream::Detached;
use super::unix::{self, SocketFile};
use crate::config::{Bind, Listener};
use crate::mail::{Mail, Mailbox};

/// Connections that the kernel keeps for us until they are accepted.
pub(super) const BACKLOG: i32 = 1_024;

/// Why a listener does not start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
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
    /// A Unix socket cannot be made.
    #[error("listener.{name}.path = \"{path}\": {problem}", path = path.display())]
    Unix {
        /// The listener.
        name: String,
        /// The path.
        path: PathBuf,
        /// What is in the way.
        problem: String,
    },
}

/// A listener that has its address, and does not accept yet.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The address it really has, or its path.
    pub address: Address,
    socket: Listening,
}

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// On the network.
    Ip(SocketAddr),
    /// On this machine.
    Path(PathBuf),
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    // The file goes with the listener.
    Unix(UnixListener, #[expect(dead_code, reason = "removes the file when it is dropped")] SocketFile),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Path(path) => path.display().fmt(f),
        }
    }
}

/// Takes an address. Clients may connect from now on; they are answered once [`serve`] runs.
pub(crate) fn bind(listener: &Listener) -> Result<Bound, ListenError> {
    let name = &listener.name;
    match &listener.bind {
        Bind::Ip(address) => {
            let refused = |error: std::io::Error| match error.kind() {
                std::io::ErrorKind::AddrInUse => ListenError::InUse { name: name.clone(), address: *address },
                _ => ListenError::Refused { name: name.clone(), address: *address, error },
            };
            let socket = listen(*address).map_err(refused)?;
            let address = socket.local_addr().map_err(refused)?;
            Ok(Bound { address: Address::Ip(address), socket: Listening::Tcp(socket) })
        }
        Bind::Path { path, mode } => {
            let failed = |problem| ListenError::Unix { name: name.clone(), path: path.clone(), problem };
            let (socket, file) = unix::listen(path, *mode).map_err(failed)?;
            Ok(Bound { address: Address::Path(path.clone()), socket: Listening::Unix(socket, file) })
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart does not wait for the old connections to time out.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` is every address of this machine, IPv4 too, whatever the system's own default is.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts for ever, handing sockets to the shards in turn.
pub(crate) async fn serve(
    bound: Bound,
    door: Arc<Door>,
    mailboxes: Vec<Arc<Mailbox>>,
    limits: Arc<Limits>,
    gate: Arc<Gate>,
) {
    let mut turn = usize::from(door.number);
    loop {
        let (stream, from) = match bound.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly: out of file descriptors. The connection stays in the backlog; look again shortly.
                warn!(%error, listener = door.listener.name, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some((admission, turned_away)) = door.admit(&gate) else {
            debug!(listener = door.listener.name, peer = %from, "refused: too many connections");
            continue;
        };
        let layers = match Layers::of(&door, &limits) {
            Ok(layers) => layers,
            Err(refused) => {
                door.count(refused.why);
                warn!(listener = door.listener.name, problem = refused.detail, "TLS cannot begin");
                continue;
            }
        };
        let peer = Peer { listener: door.number, turned_away, ..Peer::default() };
        let arrival = Arrival { stream, layers, admission, proxied: None, peer, unread: Vec::new() };
        turn = (turn + 1) % mailboxes.len();
        if mailboxes[turn].send(Mail::Accepted(arrival)).is_err() {
            door.count(Refusal::ShardBusy);
            debug!(listener = door.listener.name, peer = %from, "refused: the shard has too much to do");
        }
    }
}

impl Bound {
    /// The next connection, and who it is for the log.
    async fn accept(&self) -> std::io::Result<(Detached, Address)> {
        match &self.socket {
            Listening::Tcp(listener) => loop {
                let (stream, from) = listener.accept().await?;
                // It fails for a connection that is gone already; that is nobody's loss.
                if let Ok(stream) = prepare(stream) {
                    return Ok((Detached::Tcp(stream), Address::Ip(from)));
                }
            },
            Listening::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Detached::Unix(stream.into_std()?), self.address.clone()))
            }
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
