//! A network that fails on command: forwards TCP, until it is told not to.
//!
//! Knows: bytes. Never: MQTT. In: commands ([`Wan::cut`], [`Wan::blackhole`], [`Wan::restore`]). Out: connections that
//! behave like those over a line that was cut (reset, refused) or that swallows everything (open, silent).
//! Invariant: nothing is lost, reordered or changed on a connection that lives: a blackhole holds bytes back, as TCP's
//! retransmission would, and a cut ends the connection for both sides.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes read at once in each direction of a connection.
const PUMP_BYTES: usize = 64 << 10;

/// Connections the kernel keeps for us until we accept them.
const BACKLOG: u32 = 1024;

/// How long the far end may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How the line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Forwards.
    Up,
    /// Connections are reset, new ones refused.
    Down,
    /// Connections stay open, new ones are accepted, and nothing is forwarded.
    Blackhole,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Line::Up => "up",
            Line::Down => "down",
            Line::Blackhole => "blackhole",
        })
    }
}

/// What went over the line so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections forwarded, ended ones included.
    pub connections: u64,
    /// Bytes towards the far end.
    pub bytes_out: u64,
    /// Bytes back from it.
    pub bytes_back: u64,
}

/// The switch. `cuts` tells a line that is up from one that was cut and restored before anybody looked.
#[derive(Clone, Copy, Debug)]
struct State {
    line: Line,
    cuts: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    bytes_out: AtomicU64,
    bytes_back: AtomicU64,
}

/// A TCP forwarder with a switch. Needs a tokio runtime; ends, with all its connections, when dropped.
#[derive(Debug)]
pub struct Wan {
    address: SocketAddr,
    state: watch::Sender<State>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Wan {
    /// Listens at `listen` (port 0 takes a free one) and forwards to `to` (`host:port`), which need not be there
    /// yet. Starts up. Fails if the address cannot be had.
    pub async fn start(listen: &str, to: &str) -> std::io::Result<Wan> {
        let wanted = tokio::net::lookup_host(listen)
            .await?
            .next()
            .ok_or_else(|| std::io::Error::other(format!("{listen} is no address")))?;
        let listener = reserve(wanted)?.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let (state, seen) = watch::channel(State { line: Line::Up, cuts: 0 });
        let counters = Arc::new(Counters::default());
        let task = tokio::spawn(serve(listener, address, to.to_owned(), seen, counters.clone()));
        Ok(Wan { address, state, counters, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the line is, as last commanded.
    #[must_use]
    pub fn line(&self) -> Line {
        self.state.borrow().line
    }

    /// Resets all connections and refuses new ones.
    pub fn cut(&self) {
        self.set(Line::Down);
    }

    /// Keeps all connections and forwards nothing.
    pub fn blackhole(&self) {
        self.set(Line::Blackhole);
    }

    /// Forwards again; after a blackhole, what was held back arrives.
    pub fn restore(&self) {
        self.set(Line::Up);
    }

    /// Sets the line. Takes effect as soon as the runtime runs; a cut that is restored at once still resets
    /// every connection.
    pub fn set(&self, line: Line) {
        self.state.send_modify(|state| {
            state.cuts += u64::from(line == Line::Down && state.line != Line::Down);
            state.line = line;
        });
    }

    /// What went over it so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic {
            connections: self.counters.connections.load(Ordering::Relaxed),
            bytes_out: self.counters.bytes_out.load(Ordering::Relaxed),
            bytes_back: self.counters.bytes_back.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A bound socket that does not listen: its port is ours, and whoever connects is refused.
fn reserve(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of before may linger; they must not keep us from our own port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Accepts while the line is not down; connections end with this task.
async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    to: String,
    mut state: watch::Receiver<State>,
    counters: Arc<Counters>,
) {
    let mut connections = JoinSet::new();
    let mut listening = Some(listener);
    loop {
        while connections.try_join_next().is_some() {}
        if state.borrow_and_update().line == Line::Down {
            drop(listening.take());
            // Connections see the same state and reset themselves; nobody is accepted before they have.
            while connections.join_next().await.is_some() {}
            let reserved = reserve(address);
            if state.wait_for(|state| state.line != Line::Down).await.is_err() {
                return;
            }
            listening = listen_again(reserved, address).await;
            continue;
        }
        let Some(listener) = &listening else {
            // The port is gone: all we can do is to look like a line that stays down.
            if state.changed().await.is_err() {
                return;
            }
            listening = listen_again(reserve(address), address).await;
            continue;
        };
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            accepted = listener.accept() => {
                // A connection that fails while it is accepted is its client's loss.
                if let Ok((client, _)) = accepted {
                    connections.spawn(forward(client, to.clone(), state.clone(), counters.clone()));
                }
            }
        }
    }
}

async fn listen_again(reserved: std::io::Result<TcpSocket>, address: SocketAddr) -> Option<TcpListener> {
    let mut listening = reserved.and_then(|socket| socket.listen(BACKLOG));
    for _ in 0..20 {
        match listening {
            Ok(listener) => return Some(listener),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        listening = reserve(address).and_then(|socket| socket.listen(BACKLOG));
    }
    None
}

/// The line was cut.
struct Cut;

/// One connection, until one side ends it or the line is cut.
async fn forward(
    mut client: TcpStream,
    to: String,
    mut state: watch::Receiver<State>,
    counters: Arc<Counters>,
) {
    let born = state.borrow().cuts;
    let connected = tokio::select! {
        Cut = cut(state.clone(), born) => None,
        far = connect(&to, &mut state) => far,
    };
    let Some(mut far) = connected else {
        reset(&client);
        return;
    };
    counters.connections.fetch_add(1, Ordering::Relaxed);
    // Without it, Nagle's algorithm would add delays of its own to those we measure.
    client.set_nodelay(true).ok();
    far.set_nodelay(true).ok();
    let whole = {
        let (client_in, client_out) = client.split();
        let (far_in, far_out) = far.split();
        let out = pump(client_in, far_out, state.clone(), &counters.bytes_out);
        let back = pump(far_in, client_out, state.clone(), &counters.bytes_back);
        tokio::select! {
            Cut = cut(state.clone(), born) => false,
            ended = async { tokio::try_join!(out, back) } => ended.is_ok(),
        }
    };
    if !whole {
        reset(&client);
        reset(&far);
    }
}

async fn connect(to: &str, state: &mut watch::Receiver<State>) -> Option<TcpStream> {
    // A blackhole swallows the handshake too; it goes on when the line is back.
    state.wait_for(|state| state.line == Line::Up).await.ok()?;
    tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await.ok()?.ok()
}

/// Ready when the line has been cut since it had been cut `born` times.
async fn cut(mut state: watch::Receiver<State>, born: u64) -> Cut {
    if state.wait_for(|state| state.cuts != born).await.is_err() {
        // The switch is gone and so is the task that runs us.
        std::future::pending::<()>().await;
    }
    Cut
}

/// Makes the end of a connection a reset instead of an orderly close.
fn reset(stream: &TcpStream) {
    // If it fails, the peer sees an orderly close: a milder fault than asked for, but a fault.
    stream.set_zero_linger().ok();
}

/// One direction: reads and writes while the line is up; an orderly end is passed on.
async fn pump(
    from: tokio::net::tcp::ReadHalf<'_>,
    mut to: tokio::net::tcp::WriteHalf<'_>,
    mut state: watch::Receiver<State>,
    bytes: &AtomicU64,
) -> std::io::Result<()> {
    let mut buffer = vec![0; PUMP_BYTES];
    let gone = |_| std::io::Error::other("the switch is gone");
    loop {
        state.wait_for(|state| state.line == Line::Up).await.map_err(gone)?;
        // Readiness and not a read: what is read when a blackhole begins would be neither here nor there.
        tokio::select! {
            biased;
            changed = state.changed() => changed.map_err(gone)?,
            ready = from.readable() => ready?,
        }
        if state.borrow().line != Line::Up {
            continue;
        }
        let read = match from.try_read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            read => read?,
        };
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        bytes.fetch_add(read as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
