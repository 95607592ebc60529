//! MQTT over WebSocket, by a client library of other people.
//!
//! In: a stream. Out: the same bytes in binary frames, one frame for each write.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use tungstenite::client::IntoClientRequest as _;
use tungstenite::handshake::server::{Request, Response};
use tungstenite::http::HeaderValue;
use tungstenite::{Error, Message, WebSocket};

use crate::wait::PATIENCE;
use crate::{Connection, Trust, Version};

/// A WebSocket as a stream of bytes, for [`Connection`].
pub struct Framed<S> {
    socket: WebSocket<S>,
    unread: Vec<u8>,
}

/// Upgrades a stream; the error is the answer's status if there was one.
pub fn upgrade<S: Read + Write>(stream: S, path: &str, subprotocol: &str) -> Result<WebSocket<S>, u16> {
    upgrade_with(stream, path, subprotocol, &[])
}

/// The same, with further headers.
pub fn upgrade_with<S: Read + Write>(
    stream: S,
    path: &str,
    subprotocol: &str,
    headers: &[(&'static str, &str)],
) -> Result<WebSocket<S>, u16> {
    let mut request = format!("ws://127.0.0.1{path}").into_client_request().expect("a request");
    if !subprotocol.is_empty() {
        let value = HeaderValue::from_str(subprotocol).expect("a header");
        request.headers_mut().insert("Sec-WebSocket-Protocol", value);
    }
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_str(value).expect("a header"));
    }
    match tungstenite::client(request, stream) {
        Ok((socket, response)) => {
            let chosen = response.headers().get("Sec-WebSocket-Protocol").and_then(|it| it.to_str().ok());
            assert!(chosen.is_some_and(|it| subprotocol.contains(it)), "{chosen:?} of {subprotocol}");
            Ok(socket)
        }
        Err(tungstenite::HandshakeError::Failure(Error::Http(response))) => Err(response.status().as_u16()),
        Err(error) => panic!("the upgrade fails without an answer: {error}"),
    }
}

/// Takes an upgrade, as MQTT's server.
pub(crate) fn take<S: Read + Write>(stream: S) -> io::Result<Framed<S>> {
    #[expect(clippy::result_large_err, reason = "the library's own type")]
    let chosen = |_: &Request, mut response: Response| {
        response.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
        Ok(response)
    };
    let socket =
        tungstenite::accept_hdr(stream, chosen).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(Framed { socket, unread: Vec::new() })
}

/// A TCP stream to `address` that gives up in time.
pub fn stream(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    stream
}

impl Connection {
    /// Over WebSocket.
    #[track_caller]
    pub fn open_ws(address: SocketAddr, version: Version) -> io::Result<Connection> {
        let stream = stream(address);
        let socket = upgrade(stream.try_clone()?, "/mqtt", "mqtt").expect("an upgrade");
        Connection::through(stream, Framed { socket, unread: Vec::new() }, version)
    }

    /// Over WebSocket over TLS.
    #[track_caller]
    pub fn open_wss(address: SocketAddr, version: Version, trust: &Trust) -> io::Result<Connection> {
        Ok(Connection::open_wss_with(address, version, trust, &[]).expect("an upgrade"))
    }

    /// The same, with further headers in the request; the error is the status of its answer.
    #[track_caller]
    pub fn open_wss_with(
        address: SocketAddr,
        version: Version,
        trust: &Trust,
        headers: &[(&'static str, &str)],
    ) -> Result<Connection, u16> {
        let secured = trust.connect(address).expect("a handshake");
        let stream = secured.sock.try_clone().expect("a socket");
        let socket = upgrade_with(secured, "/", "mqtt", headers)?;
        Ok(Connection::through(stream, Framed { socket, unread: Vec::new() }, version).expect("a connection"))
    }
}

impl<S: Read + Write> Read for Framed<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.unread.is_empty() {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => self.unread.extend_from_slice(&bytes),
                Ok(Message::Text(text)) => return Err(io::Error::other(format!("a text frame: {text}"))),
                Ok(_) => {}
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Ok(0),
                Err(Error::Io(error)) => return Err(error),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let len = self.unread.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.unread[..len]);
        self.unread.drain(..len);
        Ok(len)
    }
}

impl<S: Read + Write> Write for Framed<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.socket.send(Message::Binary(bytes.to_vec().into())) {
            Ok(()) => Ok(bytes.len()),
            Err(Error::Io(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
