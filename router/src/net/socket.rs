//! One client's socket as its shard sees it: bytes that could not be taken yet, and who to wake.
//!
//! In and out: bytes of MQTT. Never: what they mean. A plain socket without unread bytes holds no buffer; what TLS,
//! WebSocket or a PROXY header add lies in [`Layers`], which a plain socket does not have.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use broker::{Peer, Shown};
use model::ConnId;

use super::door::Admission;
use super::layers::{Came, Layers, Scratch};
use super::stream::{Detached, Stream};

/// A connected socket.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Its name in the broker.
    pub conn: ConnId,
    stream: Stream,
    layers: Option<Box<Layers>>,
    admission: Admission,
    /// Who it is, if a proxy said so.
    proxied: Option<Box<SocketAddr>>,
    /// Read, but not taken by the broker: the start of a packet, or whole packets that wait for credit.
    pub unread: Vec<u8>,
    /// Whether `unread` may hold whole packets that only credit keeps back.
    pub held_back: bool,
    /// Wakes the connection's task.
    pub waker: Option<Waker>,
    /// The socket took less than it was offered; its task writes on when it can.
    pub blocked: bool,
    /// The broker wants it closed once everything is written.
    pub closing: bool,
    /// It had its time to close.
    pub expired: bool,
    /// We have said that nothing more comes from us.
    shut: bool,
}

/// A socket on its way to a shard: just accepted, or from another one.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The socket.
    pub stream: Detached,
    /// What lies between it and MQTT, with the state of its handshakes.
    pub layers: Option<Box<Layers>>,
    /// Its place among the connections.
    pub admission: Admission,
    /// Who it is, if a proxy said so.
    pub proxied: Option<Box<SocketAddr>>,
    /// What the broker is to know of it.
    pub peer: Peer,
    /// What was already read from it: the CONNECT that says whose it is, and perhaps more.
    pub unread: Vec<u8>,
}

impl Socket {
    /// Makes an arrival part of this thread's runtime.
    pub(crate) fn attach(conn: ConnId, arrival: Arrival) -> io::Result<Socket> {
        let Arrival { stream, layers, admission, proxied, unread, peer: _ } = arrival;
        let stream = stream.attach()?;
        let held_back = !unread.is_empty();
        Ok(Socket {
            conn,
            stream,
            layers,
            admission,
            proxied,
            unread,
            held_back,
            waker: None,
            blocked: false,
            closing: false,
            expired: false,
            shut: false,
        })
    }

    /// Where the client is, if it has an IP address.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.proxied.as_ref().map(|address| address.ip()).or_else(|| self.stream.ip())
    }

    /// Whether there is more than the socket between the network and MQTT.
    pub(crate) fn has_layers(&self) -> bool {
        self.layers.is_some()
    }

    /// Whether some handshake below MQTT is not over.
    pub(crate) fn is_shaking_hands(&self) -> bool {
        self.layers.as_ref().is_some_and(|layers| layers.is_shaking_hands())
    }

    /// Reads once; the number of bytes, 0 at the end of the stream. Only without layers.
    pub(crate) fn poll_read(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        debug_assert!(self.layers.is_none());
        self.stream.poll_read(buffer, cx)
    }

    /// Reads once through the layers into `scratch.plain`.
    pub(crate) fn poll_layers(
        &mut self,
        scratch: &mut Scratch,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Came>> {
        let Some(layers) = &mut self.layers else { return Poll::Ready(Ok(Came::End)) };
        let came = layers.poll_read(&mut self.stream, scratch, cx);
        if let Some(address) = layers.take_proxied() {
            self.proxied = Some(Box::new(address));
        }
        self.blocked |= layers.has_outgoing();
        if layers.is_transparent() {
            self.layers = None;
        }
        came
    }

    /// The user of the client's certificate, told once, as soon as it is known.
    pub(crate) fn take_user(&mut self) -> Option<Arc<str>> {
        self.layers.as_mut()?.take_user()
    }

    /// What the client has shown and nobody has judged, told once.
    pub(crate) fn take_shown(&mut self) -> Option<Arc<Shown>> {
        self.layers.as_mut()?.take_shown()
    }

    /// Writes once; the number of bytes that were taken.
    pub(crate) fn poll_write(
        &mut self,
        bytes: &[u8],
        scratch: &mut Scratch,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match &mut self.layers {
            None => self.stream.poll_write(bytes, cx),
            Some(layers) => layers.poll_write(bytes, &mut self.stream, scratch, cx),
        }
    }

    /// Writes what the layers have taken and the socket has not.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layers {
            None => Poll::Ready(Ok(())),
            Some(layers) => layers.poll_flush(&mut self.stream, cx),
        }
    }

    /// Closes in an orderly way: says that nothing more comes, then waits for the other side to do the same.
    ///
    /// To close at once would reset the connection if anything is unread, and our last packet could be lost with it.
    pub(crate) fn poll_close(&mut self, stopping: bool, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<()> {
        if let Some(layers) = &mut self.layers {
            layers.say_goodbye(stopping);
            match layers.poll_flush(&mut self.stream, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        if !std::mem::replace(&mut self.shut, true) && self.stream.shut_down().is_err() {
            return Poll::Ready(());
        }
        loop {
            match self.stream.poll_read(buffer, cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether the client speaks HTTP, and not MQTT.
    pub(crate) fn is_http(&self) -> bool {
        self.layers.as_ref().is_some_and(|layers| layers.is_http())
    }

    /// Notes who is to be woken when there is something to do.
    pub(crate) fn set_waker(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            None => self.waker = Some(waker.clone()),
        }
    }

    /// Wakes the connection's task.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// The listener it came through.
    pub(crate) fn door(&self) -> &super::Door {
        &self.admission
    }

    /// Who is at the other end, for the log.
    pub(crate) fn peer(&self) -> String {
        self.proxied.as_ref().map_or_else(|| self.stream.peer(), |address| address.to_string())
    }

    /// Takes the socket out of this shard's runtime, for another that is to know `peer` of it.
    pub(crate) fn detach(self, peer: Peer) -> io::Result<Arrival> {
        Ok(Arrival {
            stream: self.stream.detach()?,
            layers: self.layers,
            admission: self.admission,
            proxied: self.proxied,
            peer,
            unread: self.unread,
        })
    }
}
