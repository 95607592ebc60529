//! One client's socket as its shard sees it: bytes that could not be taken yet, and who to wake.
//!
//! In and out: bytes. Never: what they mean. A socket without unread bytes holds no buffer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use model::ConnId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connected socket.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Its name in the broker.
    pub conn: ConnId,
    stream: TcpStream,
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

impl Socket {
    /// A socket whose first bytes may already have been read.
    pub(crate) fn new(conn: ConnId, stream: TcpStream, unread: Vec<u8>) -> Socket {
        let held_back = !unread.is_empty();
        Socket {
            conn,
            stream,
            unread,
            held_back,
            waker: None,
            blocked: false,
            closing: false,
            expired: false,
            shut: false,
        }
    }

    /// Reads once; the number of bytes, 0 at the end of the stream.
    pub(crate) fn poll_read(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes once; the number of bytes that the socket took.
    pub(crate) fn poll_write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// Closes in an orderly way: says that nothing more comes, then waits for the other side to do the same.
    ///
    /// To close at once would reset the connection if anything is unread, and our last packet could be lost with it.
    pub(crate) fn poll_close(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.shut, true)
            && socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write).is_err()
        {
            return Poll::Ready(());
        }
        loop {
            match self.poll_read(buffer, cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
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

    /// Takes the socket out of this shard's runtime.
    pub(crate) fn into_std(self) -> io::Result<(std::net::TcpStream, Vec<u8>)> {
        Ok((self.stream.into_std()?, self.unread))
    }
}
