//! A stream of bytes to a broker: TCP, TLS, WebSocket, Unix socket.
//!
//! Knows: how each is opened. May use: `tls`, `websocket`. Never: MQTT.
//! TCP is a variant of its own, so that the load that measures brokers goes through no box.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::address::{Address, Transport};
use crate::websocket::WebSocket;

/// How to encrypt, and whom to expect.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) connector: TlsConnector,
    /// Instead of the URL's host.
    pub(crate) server_name: Option<String>,
}

/// Both directions of a connection.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}

/// An open stream.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Other(Box<dyn Duplex>),
}

impl Stream {
    /// Connects, as far down as the transport goes. `tls` must be there if the address is encrypted.
    pub(crate) async fn open(address: &Address, tls: Option<&Tls>) -> io::Result<Stream> {
        if let Transport::Unix(path) = &address.transport {
            return Ok(Stream::Other(Box::new(UnixStream::connect(path).await?)));
        }
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
        tcp.set_nodelay(true)?;
        let authority = address.authority();
        Ok(match &address.transport {
            Transport::Tcp | Transport::Unix(_) => Stream::Tcp(tcp),
            Transport::Tls => Stream::Other(Box::new(encrypt(tcp, address, tls).await?)),
            Transport::WebSocket(path) => {
                Stream::Other(Box::new(WebSocket::open(tcp, &authority, path).await?))
            }
            Transport::SecureWebSocket(path) => {
                let stream = encrypt(tcp, address, tls).await?;
                Stream::Other(Box::new(WebSocket::open(stream, &authority, path).await?))
            }
        })
    }
}

async fn encrypt(
    tcp: TcpStream,
    address: &Address,
    tls: Option<&Tls>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tls = tls.ok_or_else(|| io::Error::other("no TLS configuration was made"))?;
    let name = tls.server_name.as_ref().unwrap_or(&address.host).clone();
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    tls.connector.connect(name, tcp).await
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Other(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Other(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(_) => Poll::Ready(Ok(())),
            Stream::Other(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Other(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
