//! What lies between a socket and its MQTT bytes, where that is more than nothing: PROXY header, TLS, WebSocket.
//!
//! In: bytes as the network has them, out: bytes of MQTT; and the other way round. The layers are state without a
//! socket, so they move with it to another shard in the middle of everything. The large buffers belong to the shard
//! ([`Scratch`]); a layer keeps the beginning of what has not come in whole, and what the socket did not take.
//! Bounds: `limits.handshake_bytes_max` before a client has spoken MQTT, [`RECORD_BYTES_MAX`] after that, each way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use broker::Shown;
use model::Limits;

use super::door::{Door, Refusal, Refused};
use super::proxy::{self, ProxyRules};
use super::stream::Stream;
use super::tls::TlsSession;
use super::websocket::{Rules, WebSocket};
use crate::packing::{Progress, Unpacker, Unpacking};

/// Payload that is put into one TLS record or WebSocket frame: what TLS allows at most (RFC 8446 §5.1).
const CHUNK_BYTES: usize = 16 << 10;
/// What may be kept of a record that has not come in whole: its payload, and what TLS adds at most (RFC 5246 §6.2.3).
pub(crate) const RECORD_BYTES_MAX: usize = CHUNK_BYTES + 2_048 + 5;
/// Answers that a client makes us owe it (pongs, alerts, key updates) and does not take.
const ANSWER_BYTES_MAX: usize = 4 << 10;
/// What a connection with layers may hold besides its outbox and packets: half a record and one on its way out.
pub(crate) const LAYER_BYTES_MAX: usize = 2 * RECORD_BYTES_MAX + ANSWER_BYTES_MAX;

/// The layers of one connection and what is between them.
#[derive(Debug)]
pub(crate) struct Layers {
    /// The PROXY header has not come yet.
    proxy: Option<ProxyRules>,
    tls: Option<Box<TlsSession>>,
    websocket: Option<WebSocket>,
    /// Messages are unpacked, with what is known of this connection.
    unpacking: Option<(Arc<Unpacking>, Progress)>,
    /// The beginning of something that has not come in whole, as the network has it.
    incoming: Vec<u8>,
    outgoing: Outgoing,
    /// Nothing more is read, for this reason; told after the bytes that came before it.
    ended: Option<Came>,
    said_goodbye: bool,
    proxied: Option<SocketAddr>,
    user: Option<Arc<str>>,
    shown: Option<Arc<Shown>>,
    /// The client speaks HTTP: TLS is all that is left here.
    is_http: bool,
    handshake_bytes_max: usize,
}

/// What a read through the layers came to.
#[derive(Debug)]
pub(crate) enum Came {
    /// What is in `Scratch::plain`; perhaps nothing, when only a layer took something.
    Bytes,
    /// The stream has ended.
    End,
    /// The client closes in the way of its layer, and waits for us to do the same.
    Goodbye,
    /// The client broke the rules of a layer, or is not let in.
    Refused(Refused),
}

/// Buffers that all connections with layers of a shard use in turn.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Bytes of the network.
    raw: Box<[u8]>,
    /// Bytes of MQTT.
    pub plain: Vec<u8>,
    /// A WebSocket frame before it is encrypted.
    frame: Vec<u8>,
    /// What is offered to the socket.
    out: Vec<u8>,
    read_bytes_max: usize,
    unpacker: Option<Unpacker>,
}

impl Scratch {
    /// Buffers that fit these limits; pages that nobody touches cost nothing.
    pub(crate) fn new(limits: &Limits) -> Scratch {
        let read_bytes_max = limits.turn_read_bytes_max as usize;
        let held_bytes_max = RECORD_BYTES_MAX.max(limits.handshake_bytes_max as usize);
        Scratch {
            raw: vec![0; read_bytes_max + held_bytes_max].into(),
            plain: Vec::new(),
            frame: Vec::new(),
            out: Vec::new(),
            read_bytes_max,
            unpacker: None,
        }
    }
}

impl Layers {
    /// The layers that a listener puts before MQTT; `None` if there are none.
    pub(crate) fn of(door: &Door, limits: &Limits) -> Result<Option<Box<Layers>>, Refused> {
        let listener = &door.listener;
        let proxy = listener.proxy_protocol.then_some(ProxyRules { trust_cn: listener.proxy_trust_cn });
        let tls = match door.tls() {
            Some(server) => Some(Box::new(TlsSession::new(&server)?)),
            None => None,
        };
        let rules = || Rules {
            path: listener.path.clone(),
            origins: listener.origins.clone(),
            // Never without TLS: what is plain then would be taken for MQTT.
            http: listener.identities && tls.is_some(),
            forwards: listener.identities,
        };
        let websocket = door.kind().is_websocket().then(|| WebSocket::new(rules()));
        let unpacking = door.unpacking.clone().map(|unpacking| (unpacking, Progress::default()));
        if proxy.is_none() && tls.is_none() && websocket.is_none() && unpacking.is_none() {
            return Ok(None);
        }
        Ok(Some(Box::new(Layers {
            proxy,
            tls,
            websocket,
            unpacking,
            incoming: Vec::new(),
            outgoing: Outgoing::default(),
            ended: None,
            said_goodbye: false,
            proxied: None,
            user: None,
            shown: None,
            is_http: false,
            handshake_bytes_max: limits.handshake_bytes_max as usize,
        })))
    }

    /// Reads once, and takes what came as far as it goes; what is MQTT then lies in `scratch.plain`.
    pub(crate) fn poll_read(
        &mut self,
        stream: &mut Stream,
        scratch: &mut Scratch,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Came>> {
        scratch.plain.clear();
        if let Some(ended) = self.ended.take() {
            return Poll::Ready(Ok(ended));
        }
        // What is left of the last read goes before what comes, so that both are one slice.
        let held = self.incoming.len();
        scratch.raw[..held].copy_from_slice(&self.incoming);
        let len = ready!(stream.poll_read(&mut scratch.raw[held..held + scratch.read_bytes_max], cx))?;
        if len == 0 {
            return Poll::Ready(Ok(self.end_of_stream()));
        }
        if let Err(refused) = self.take_in(held + len, scratch).and_then(|()| self.unpack(scratch)) {
            self.ended = Some(Came::Refused(refused));
        }
        // Answers of handshakes leave at once; nobody else would send them.
        if self.poll_flush(stream, cx)?.is_pending() && self.outgoing.len() > LAYER_BYTES_MAX {
            self.ended = Some(Came::Refused(Refused::new(Refusal::Overrun, "answers are not taken")));
        }
        Poll::Ready(Ok(Came::Bytes))
    }

    /// Takes one chunk at most; the number of bytes taken. What the socket does not take of it waits here.
    pub(crate) fn poll_write(
        &mut self,
        bytes: &[u8],
        stream: &mut Stream,
        scratch: &mut Scratch,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(stream, cx))?;
        if self.is_shaking_hands() {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        if self.said_goodbye || self.websocket.as_ref().is_some_and(|websocket| websocket.is_closed()) {
            // Nobody waits for it any more; an error would cut off the farewell.
            return Poll::Ready(Ok(bytes.len()));
        }
        let chunk = &bytes[..bytes.len().min(CHUNK_BYTES)];
        let Scratch { frame, out, .. } = scratch;
        out.clear();
        match (&mut self.tls, &self.websocket) {
            (None, None) => out.extend_from_slice(chunk),
            (None, Some(_)) => WebSocket::frame(chunk, out),
            (Some(tls), None) => tls.encrypt(chunk, &mut self.incoming, out).map_err(io::Error::other)?,
            (Some(tls), Some(_)) => {
                frame.clear();
                WebSocket::frame(chunk, frame);
                // A frame is a few bytes longer than a record may be; then it becomes two.
                tls.encrypt(frame, &mut self.incoming, out).map_err(io::Error::other)?;
            }
        }
        let written = match stream.poll_write(out, cx)? {
            Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(len) => len,
            Poll::Pending => 0,
        };
        self.outgoing.bytes.extend_from_slice(&out[written..]);
        Poll::Ready(Ok(chunk.len()))
    }

    /// Writes what was taken and has not left.
    pub(crate) fn poll_flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let rest = self.outgoing.rest()
            && !rest.is_empty()
        {
            match ready!(stream.poll_write(rest, cx))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.outgoing.advance(len),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Puts the farewells of all layers behind what is on its way; once.
    pub(crate) fn say_goodbye(&mut self, stopping: bool) {
        if std::mem::replace(&mut self.said_goodbye, true) {
            return;
        }
        let outgoing = &mut self.outgoing.bytes;
        let mut frame = Vec::new();
        if let Some(websocket) = &mut self.websocket {
            websocket.close(
                if stopping { super::websocket::GOING_AWAY } else { super::websocket::NORMAL },
                &mut frame,
            );
        }
        match &mut self.tls {
            None => outgoing.extend_from_slice(&frame),
            Some(tls) => tls.close(&frame, &mut self.incoming, outgoing),
        }
    }

    /// Whether some handshake below MQTT is not over.
    pub(crate) fn is_shaking_hands(&self) -> bool {
        self.proxy.is_some()
            || self.tls.as_ref().is_some_and(|tls| tls.is_shaking_hands())
            || self.websocket.as_ref().is_some_and(|websocket| !websocket.is_open())
    }

    /// Whether bytes wait for the socket.
    pub(crate) fn has_outgoing(&self) -> bool {
        self.outgoing.len() > 0
    }

    /// Whether nothing is left to do here: a PROXY header has been taken off plain MQTT.
    pub(crate) fn is_transparent(&self) -> bool {
        self.proxy.is_none()
            && self.tls.is_none()
            && self.websocket.is_none()
            && self.unpacking.is_none()
            && self.ended.is_none()
            && self.user.is_none()
            && self.outgoing.len() == 0
    }

    /// The address that a PROXY header told, once.
    pub(crate) fn take_proxied(&mut self) -> Option<SocketAddr> {
        self.proxied.take()
    }

    /// Whether the client speaks HTTP, and not MQTT.
    pub(crate) fn is_http(&self) -> bool {
        self.is_http
    }

    /// The user of the client's certificate, once.
    pub(crate) fn take_user(&mut self) -> Option<Arc<str>> {
        self.user.take()
    }

    /// What the client has shown and nobody has judged, once.
    pub(crate) fn take_shown(&mut self) -> Option<Arc<Shown>> {
        self.shown.take()
    }

    fn end_of_stream(&self) -> Came {
        if self.is_shaking_hands() {
            return Came::Refused(Refused::new(Refusal::HandshakeAborted, "the client went away"));
        }
        Came::End
    }

    /// Takes the first `len` bytes of `scratch.raw` through the layers.
    fn take_in(&mut self, len: usize, scratch: &mut Scratch) -> Result<(), Refused> {
        let input = &mut scratch.raw[..len];
        let mut at = 0;
        if let Some(rules) = &self.proxy {
            match proxy::parse(input, *rules, self.handshake_bytes_max)? {
                None => return self.keep(&scratch.raw[..len]),
                Some(header) => {
                    at = header.len;
                    self.proxied = header.source;
                    self.user = header.common_name;
                    self.proxy = None;
                }
            }
        }
        match &mut self.tls {
            None => {
                scratch.plain.extend_from_slice(&input[at..]);
                at = len;
            }
            Some(tls) => {
                let was_shaking_hands = tls.is_shaking_hands();
                let taken = tls.take_in(&mut input[at..], &mut scratch.plain, &mut self.outgoing.bytes);
                at += taken.len;
                if was_shaking_hands && !tls.is_shaking_hands() {
                    // What the router itself has verified is worth more than what a proxy says.
                    self.user = tls.user().or(self.user.take());
                    self.shown = tls.unjudged().map(|chain| Arc::new(Shown::Certificates(chain)));
                }
                if taken.closed {
                    self.ended = Some(Came::Goodbye);
                }
                if let Err(refused) = taken.result {
                    if self.websocket.is_some() {
                        // What was decrypted is not MQTT yet.
                        scratch.plain.clear();
                    }
                    return Err(refused);
                }
            }
        }
        let unframed = self.unframe(at, len, scratch);
        self.keep(&scratch.raw[at..len])?;
        unframed
    }

    /// Takes `scratch.plain`, which is MQTT, and leaves it there with every message unpacked.
    fn unpack(&mut self, scratch: &mut Scratch) -> Result<(), Refused> {
        let Some((unpacking, progress)) = &mut self.unpacking else { return Ok(()) };
        let Scratch { plain, frame, unpacker, .. } = scratch;
        frame.clear();
        let unpacker = unpacker.get_or_insert_default();
        let result = unpacking.take_in(progress, unpacker, plain, frame);
        std::mem::swap(plain, frame);
        result.map_err(|problem| Refused::new(Refusal::Compression, problem))
    }

    /// Takes `scratch.plain` through the WebSocket layer, if there is one; what is still encrypted lies in `scratch.raw`.
    fn unframe(&mut self, at: usize, len: usize, scratch: &mut Scratch) -> Result<(), Refused> {
        let Some(websocket) = &mut self.websocket else { return Ok(()) };
        let Scratch { raw, plain, frame, .. } = scratch;
        frame.clear();
        let result = websocket.take_in(plain, frame, self.handshake_bytes_max);
        // Who sends pings and does not take the pongs gets no more of them: RFC 6455 §5.5.3 lets us answer the latest only.
        if !frame.is_empty() && (self.outgoing.len() < ANSWER_BYTES_MAX || websocket.is_closed()) {
            match &mut self.tls {
                None => self.outgoing.bytes.extend_from_slice(frame),
                Some(tls) => {
                    let sent = tls.encrypt(frame, &mut raw[at..len], &mut self.outgoing.bytes);
                    sent.map_err(|error| Refused::new(Refusal::TlsOther, error))?;
                }
            }
        }
        let is_over = result?;
        // It outweighs what whoever forwards has shown for itself.
        self.shown = websocket.take_forwarded().or(self.shown.take());
        if websocket.is_http() {
            (self.is_http, self.websocket) = (true, None);
        }
        if is_over && self.ended.is_none() {
            self.ended = Some(Came::Goodbye);
        }
        Ok(())
    }

    /// Keeps the beginning of something.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let len = bytes.len();
        let max = if self.is_shaking_hands() { self.handshake_bytes_max } else { RECORD_BYTES_MAX };
        if len > max {
            let detail = format!("{len} bytes came, and the handshake is not over");
            return Err(Refused::new(Refusal::HandshakeTooLarge, detail));
        }
        if len == 0 {
            // An idle connection holds no buffer.
            self.incoming = Vec::new();
        } else {
            self.incoming.clear();
            self.incoming.extend_from_slice(bytes);
        }
        Ok(())
    }
}

/// Bytes for the network that it has not taken.
#[derive(Debug, Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn advance(&mut self, len: usize) {
        self.sent += len;
        if self.sent == self.bytes.len() {
            // An idle connection holds no buffer.
            *self = Outgoing::default();
        }
    }
}
