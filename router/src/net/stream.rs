//! A connected socket, TCP or Unix; inside a runtime, or between two.
//!
//! In and out: bytes. Never: what they mean.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A socket that belongs to the runtime of a shard.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Over IP.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

impl Stream {
    /// Reads once; the number of bytes, 0 at the end of the stream.
    pub(crate) fn poll_read(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes once; the number of bytes that the socket took.
    pub(crate) fn poll_write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// Says that nothing more comes from us.
    pub(crate) fn shut_down(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => SockRef::from(stream).shutdown(std::net::Shutdown::Write),
            Stream::Unix(stream) => SockRef::from(stream).shutdown(std::net::Shutdown::Write),
        }
    }

    /// Who is at the other end, for the log.
    pub(crate) fn peer(&self) -> String {
        match self {
            Stream::Tcp(stream) => stream.peer_addr().map_or_else(|_| GONE.to_owned(), |it| it.to_string()),
            Stream::Unix(_) => UNIX.to_owned(),
        }
    }

    /// Where the other end is, if that is an IP address.
    pub(crate) fn ip(&self) -> Option<std::net::IpAddr> {
        match self {
            Stream::Tcp(stream) => stream.peer_addr().ok().map(|address| address.ip()),
            Stream::Unix(_) => None,
        }
    }

    /// Takes it out of its runtime.
    pub(crate) fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Stream::Tcp(stream) => Detached::Tcp(stream.into_std()?),
            Stream::Unix(stream) => Detached::Unix(stream.into_std()?),
        })
    }
}

/// A socket on its way to a shard.
#[derive(Debug)]
pub(crate) enum Detached {
    /// Over IP.
    Tcp(std::net::TcpStream),
    /// On this machine.
    Unix(std::os::unix::net::UnixStream),
}

impl Detached {
    /// Makes it part of the runtime of this thread.
    pub(crate) fn attach(self) -> io::Result<Stream> {
        Ok(match self {
            Detached::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                Stream::Tcp(TcpStream::from_std(stream)?)
            }
            Detached::Unix(stream) => {
                stream.set_nonblocking(true)?;
                Stream::Unix(UnixStream::from_std(stream)?)
            }
        })
    }
}

const GONE: &str = "gone";
const UNIX: &str = "unix";
