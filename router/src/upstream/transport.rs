//! How an uplink's connection comes about: name, TCP, proxy, TLS, WebSocket; each step bounded in time, with a sentence of its own.
//!
//! In: where to and what lies between. Out: a stream of bytes, or why there is none and what to do. Never: MQTT.

use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::theirs::{self, Shown};
use super::websocket::{self, WebSocket};
use super::{trust, watchdogs};
use crate::config::{Proxy, ProxyKind, Transport, UplinkTls};
use crate::net::CertificateError;

/// How long each step may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until a name has its addresses.
    pub lookup: Duration,
    /// Until one of its addresses has taken the connection.
    pub connect: Duration,
    /// Until the proxy has made its part of the way.
    pub proxy: Duration,
    /// Until both sides of TLS know one another.
    pub tls: Duration,
    /// How names become addresses.
    pub resolve: Resolve,
}

/// How names become addresses: anew for every attempt, so that a name that moved is followed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Resolve {
    /// As this machine does.
    System,
    /// As a test says.
    #[cfg(test)]
    By(fn(&str, u16) -> io::Result<Vec<SocketAddr>>),
}

impl Patience {
    /// So many seconds for each step.
    pub(super) fn of_secs(secs: u64) -> Patience {
        let step = Duration::from_secs(secs);
        Patience { lookup: step, connect: step, proxy: step, tls: step, resolve: Resolve::System }
    }
}

/// Bytes that the kernel may hold unsent: what is written cannot be overtaken by anything more urgent.
const UNSENT_BYTES_MAX: u32 = 64 << 10;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the name {host} has no address ({problem}); mend the name, or this machine's DNS")]
    Lookup { host: String, problem: String },
    #[error("{host}:{port} does not take connections ({problem})")]
    Tcp { host: String, port: u16, problem: String },
    #[error("the proxy {host}:{port} does not connect us: {problem}")]
    Proxy { host: String, port: u16, problem: String },
    #[error(transparent)]
    Files(#[from] CertificateError),
    #[error("TLS with {host}:{port} fails: {problem}")]
    Tls { host: String, port: u16, problem: String },
    #[error("WebSocket with {host}:{port} fails: {problem}")]
    WebSocket { host: String, port: u16, problem: String },
}

/// A connection to the other end, or to where it can be reached.
#[derive(Debug)]
pub(super) enum Stream {
    /// TCP alone.
    Plain(TcpStream),
    /// TLS over it.
    Tls(Box<TlsStream<TcpStream>>),
    /// WebSocket over one of these.
    Ws(Box<WebSocket>),
}

impl Stream {
    /// The socket below.
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
            Stream::Ws(stream) => stream.stream().tcp(),
        }
    }

    /// Days until the other end's certificate ends.
    pub(super) fn certificate_days(&self) -> Option<i64> {
        watchdogs::days_left(self.certificate()?)
    }

    /// The other end's certificate.
    fn certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Stream::Plain(_) => None,
            Stream::Ws(stream) => stream.stream().certificate(),
            Stream::Tls(stream) => stream.get_ref().1.peer_certificates()?.first(),
        }
    }

    /// What the other end has shown of itself; its certificate should be for `wanted`.
    pub(super) fn shown(&self, wanted: &str) -> Shown {
        Shown {
            ahead_secs: if let Stream::Ws(stream) = self { stream.ahead_secs() } else { None },
            other_names: self.certificate().and_then(|it| theirs::other_names(it, wanted)),
            own_certificate: None,
        }
    }
}

/// Connects the uplink `name`.
pub(super) async fn connect(
    name: &str,
    transport: &Transport,
    patience: Patience,
) -> Result<Stream, ConnectError> {
    let tcp = match &transport.proxy {
        None => dial(&transport.host, transport.port, patience).await?,
        Some(proxy) => {
            let to_proxy = dial(&proxy.host, proxy.port, patience).await?;
            through(proxy, to_proxy, transport, patience.proxy).await?
        }
    };
    let stream = match &transport.tls {
        None => Stream::Plain(tcp),
        Some(tls) => shake_hands(name, transport, tls, tcp, patience.tls).await?,
    };
    let Some(path) = &transport.websocket else { return Ok(stream) };
    let failed = |problem: String| ConnectError::WebSocket {
        host: transport.host.clone(),
        port: transport.port,
        problem,
    };
    match timeout(patience.tls, websocket::upgrade(stream, &transport.authority(), path)).await {
        Ok(upgraded) => Ok(Stream::Ws(Box::new(upgraded.map_err(failed)?))),
        Err(_) => Err(failed(format!("no answer within {} s", patience.tls.as_secs()))),
    }
}

/// Connects to the first address of `host` that takes it. Each has its share of the time, so that one that swallows
/// everything does not hide the others.
async fn dial(host: &str, port: u16, patience: Patience) -> Result<TcpStream, ConnectError> {
    let addresses = look_up(host, port, patience.lookup, patience.resolve).await?;
    let share = patience.connect / addresses.len() as u32;
    let mut problem = String::new();
    for address in addresses {
        let error = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => match stream.set_nodelay(true) {
                Ok(()) => {
                    // What the kernel holds cannot be overtaken. An old kernel without it only costs urgency.
                    socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX).ok();
                    return Ok(stream);
                }
                Err(error) => error.to_string(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:.1} s", share.as_secs_f64()),
        };
        let separator = if problem.is_empty() { "" } else { "; " };
        problem = format!("{problem}{separator}{address}: {error}");
    }
    Err(ConnectError::Tcp { host: host.to_owned(), port, problem })
}

async fn look_up(
    host: &str,
    port: u16,
    patience: Duration,
    resolve: Resolve,
) -> Result<Vec<SocketAddr>, ConnectError> {
    let failed = |problem: String| ConnectError::Lookup { host: host.to_owned(), problem };
    let asked = async {
        match resolve {
            Resolve::System => {
                tokio::net::lookup_host((host, port)).await.map(|it| it.take(ADDRESSES_MAX).collect())
            }
            #[cfg(test)]
            Resolve::By(resolve) => resolve(host, port),
        }
    };
    let addresses: Vec<_> = timeout(patience, asked)
        .await
        .map_err(|_| failed(format!("no answer within {} s", patience.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    if addresses.is_empty() {
        Err(failed("it exists, but without an address".to_owned()))
    } else {
        Ok(addresses)
    }
}

/// Asks a proxy to go on to the other end.
async fn through(
    proxy: &Proxy,
    tcp: TcpStream,
    transport: &Transport,
    patience: Duration,
) -> Result<TcpStream, ConnectError> {
    let failed =
        |problem: String| ConnectError::Proxy { host: proxy.host.clone(), port: proxy.port, problem };
    let to = uri(&transport.host, transport.port).map_err(failed)?;
    let at = uri(&proxy.host, proxy.port).map_err(failed)?;
    let dialed = Dialed(Some(tcp));
    let asked = async {
        match (proxy.kind, &proxy.login) {
            (ProxyKind::Http, login) => {
                let mut tunnel = Tunnel::new(at, dialed);
                if let Some((user, password)) = login {
                    let token = Base64::encode_string(format!("{user}:{}", password.reveal()).as_bytes());
                    let value =
                        format!("Basic {token}").parse().map_err(|_| "its password is no text".to_owned())?;
                    tunnel = tunnel.with_auth(value);
                }
                tunnel.call(to).await.map_err(|error| with_causes(&error))
            }
            (ProxyKind::Socks5, login) => {
                let mut socks = SocksV5::new(at, dialed).local_dns(false);
                if let Some((user, password)) = login {
                    socks = socks.with_auth(user.clone(), password.reveal().to_owned());
                }
                socks.call(to).await.map_err(|error| with_causes(&error))
            }
        }
    };
    match timeout(patience, asked).await {
        Ok(connected) => connected.map(TokioIo::into_inner).map_err(failed),
        Err(_) => Err(failed(format!("no answer within {} s", patience.as_secs()))),
    }
}

fn uri(host: &str, port: u16) -> Result<axum::http::Uri, String> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    axum::http::Uri::builder()
        .scheme("http")
        .authority(format!("{host}:{port}"))
        .path_and_query("/")
        .build()
        .map_err(|error| format!("{host}:{port} is no address: {error}"))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Gives away the connection that was made to the proxy.
struct Dialed(Option<TcpStream>);

impl Service<axum::http::Uri> for Dialed {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<TcpStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: axum::http::Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

async fn shake_hands(
    name: &str,
    transport: &Transport,
    tls: &UplinkTls,
    tcp: TcpStream,
    patience: Duration,
) -> Result<Stream, ConnectError> {
    let failed =
        |problem: String| ConnectError::Tls { host: transport.host.clone(), port: transport.port, problem };
    let server_name = ServerName::try_from(tls.server_name.clone())
        .map_err(|_| failed(format!("{} is no name that a certificate can be for", tls.server_name)))?;
    let config = Arc::new(trust::client_config(name, tls)?);
    match timeout(patience, TlsConnector::from(config).connect(server_name, tcp)).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
        Ok(Err(error)) => Err(failed(said(&error, name))),
        Err(_) => Err(failed(format!("it has not finished the handshake within {} s", patience.as_secs()))),
    }
}

/// What went wrong on a connection, in words for an operator.
pub(super) fn said(error: &io::Error, name: &str) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => trust::sentence(tls, &format!("uplink.{name}")),
        None => error.to_string(),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, out),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, out),
            Stream::Ws(stream) => Pin::new(&mut **stream).poll_read(cx, out),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Ws(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Ws(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Ws(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
