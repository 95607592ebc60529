//! The uplink as a client of this router: a socket pair, one end of which a shard serves like any client's.
//!
//! In: bytes of MQTT for our own broker. Out: its answers. So what comes from upstream has rights, routes, limits and
//! promises like everything else, and nothing of that is built twice. Never: MQTT itself; `broker::uplink` speaks it.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use broker::Peer;
use model::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::config::{Bind, Listener, ListenerKind};
use crate::mail::{Mail, Mailbox};
use crate::net::{Arrival, Detached, Door, Gate};

/// Bytes that may wait for our own broker before nothing more is read from upstream.
pub(super) const LOCAL_BYTES_MAX: usize = 64 << 10;
/// Bytes of one read of its answers.
const READ_BYTES: usize = 4 << 10;

/// Where uplinks come in; no listener, so nobody else can.
#[derive(Debug)]
pub(crate) struct LocalDoor {
    door: Arc<Door>,
    gate: Gate,
    mailboxes: Vec<Arc<Mailbox>>,
    turn: AtomicU32,
}

impl LocalDoor {
    /// `number` comes behind those of all listeners.
    pub(crate) fn new(number: u16, limits: &Limits, mailboxes: Vec<Arc<Mailbox>>) -> LocalDoor {
        let listener = Listener {
            name: "uplinks".to_owned(),
            kind: ListenerKind::Unix,
            bind: Bind::Path { path: "socketpair".into(), mode: 0 },
            tls: None,
            path: None,
            origins: Vec::new(),
            proxy_protocol: false,
            proxy_trust_cn: false,
            connections_max: None,
            anonymous: Some(false),
            packet_bytes_max: None,
            decompression: None,
            identities: false,
        };
        let all_open = Arc::new(AtomicU32::new(0));
        let door = Door::new(number, listener, "socketpair".to_owned(), None, None, all_open);
        // A gate of its own: uplinks are not turned away because devices storm the others.
        let limits = Limits { connects_per_sec_max: 0, ..limits.clone() };
        LocalDoor { door: Arc::new(door), gate: Gate::new(&limits), mailboxes, turn: AtomicU32::new(0) }
    }

    /// A connection whose user is `user`, verified.
    fn connect(&self, user: &str) -> io::Result<UnixStream> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let (admission, turned_away) = self
            .door
            .admit(&self.gate)
            .ok_or_else(|| io::Error::other("limits.connections_max is reached"))?;
        let certificate_user = Some(user.into());
        let peer = Peer { listener: self.door.number, certificate_user, turned_away, ..Peer::default() };
        let stream = Detached::Unix(theirs);
        let arrival = Arrival { stream, layers: None, admission, proxied: None, peer, unread: Vec::new() };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) as usize % self.mailboxes.len();
        let sent = self.mailboxes[turn].send(Mail::Accepted(arrival));
        sent.map_err(|_| io::Error::other("the shard has too much to do"))?;
        ours.set_nonblocking(true)?;
        UnixStream::from_std(ours)
    }
}

/// One session of an uplink at our own broker; none, if nothing comes in.
pub(super) struct LocalSession {
    reader: Option<OwnedReadHalf>,
    /// What has come and is not taken.
    pub(super) unread: Vec<u8>,
}

/// The other half: what is written to it.
pub(super) struct LocalWriter(Option<OwnedWriteHalf>);

impl LocalSession {
    /// None at all.
    pub(super) fn none() -> (LocalSession, LocalWriter) {
        (LocalSession { reader: None, unread: Vec::new() }, LocalWriter(None))
    }

    /// A session of `user`; its CONNECT is still to be written.
    pub(super) fn open(door: &LocalDoor, user: &str) -> io::Result<(LocalSession, LocalWriter)> {
        let (reader, writer) = door.connect(user)?.into_split();
        Ok((LocalSession { reader: Some(reader), unread: Vec::new() }, LocalWriter(Some(writer))))
    }

    /// Waits for bytes, which are put behind `unread`; how many, 0 at the end. For ever, without a session.
    pub(super) async fn read(&mut self) -> io::Result<usize> {
        let Some(reader) = &mut self.reader else { return std::future::pending().await };
        self.unread.reserve(READ_BYTES);
        reader.read_buf(&mut self.unread).await
    }
}

impl LocalWriter {
    /// Whether there is a session.
    pub(super) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Writes some of `bytes`; how many.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Some(writer) => writer.write(bytes).await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for LocalWriter {
    fn drop(&mut self) {
        // The reading half keeps the socket open; our broker must see the end at once.
        if let Some(writer) = &self.0 {
            let stream: &UnixStream = writer.as_ref();
            socket2::SockRef::from(stream).shutdown(Shutdown::Both).unwrap_or_default();
        }
    }
}
