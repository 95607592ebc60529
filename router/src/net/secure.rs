//! A client that turned out to speak HTTP over TLS: bytes in, bytes out, by tokio's traits, for whoever serves that.
//!
//! In: a connection that a shard gave away. Out: a stream. Never: what the bytes mean. Bound: [`Scratch`]'s, one of them for each
//! such connection, as long as it is there.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use model::{ConnId, Limits};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::layers::{Came, Scratch};
use super::socket::{Arrival, Socket};

/// The stream.
pub(crate) struct Secure {
    socket: Socket,
    scratch: Scratch,
    /// Read and not taken, from `taken` on.
    unread: Vec<u8>,
    taken: usize,
    sink: Vec<u8>,
}

impl Secure {
    /// Makes an arrival part of this thread's runtime.
    pub(crate) fn attach(arrival: Arrival, limits: &Limits) -> io::Result<Secure> {
        let mut socket = Socket::attach(ConnId(0), arrival)?;
        let unread = std::mem::take(&mut socket.unread);
        Ok(Secure { socket, scratch: Scratch::new(limits), unread, taken: 0, sink: vec![0; 1 << 10] })
    }

    /// Where the client is.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.socket.ip()
    }
}

impl AsyncRead for Secure {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.taken == this.unread.len() {
            this.taken = 0;
            this.unread.clear();
            match ready!(this.socket.poll_layers(&mut this.scratch, cx))? {
                Came::Bytes => std::mem::swap(&mut this.unread, &mut this.scratch.plain),
                Came::End | Came::Goodbye => return Poll::Ready(Ok(())),
                Came::Refused(refused) => return Poll::Ready(Err(io::Error::other(refused.detail))),
            }
        }
        let rest = &this.unread[this.taken..];
        let len = rest.len().min(out.remaining());
        out.put_slice(&rest[..len]);
        this.taken += len;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Secure {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.socket.poll_write(bytes, &mut this.scratch, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().socket.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.socket.poll_close(false, &mut this.sink, cx).map(Ok)
    }
}
