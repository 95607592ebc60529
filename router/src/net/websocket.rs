//! WebSocket of one connection, without a socket: the upgrade, then frames (RFC 6455).
//!
//! In: bytes as the network has them. Out: what binary frames carry, and the answers (101, pong, close). Reading of
//! requests and frame headers is tungstenite's; payloads are unmasked where they lie and never gathered into messages,
//! because MQTT packets may begin and end anywhere ([MQTT-6.0.0-2]): so a frame of any length needs no buffer.

use std::io::Cursor;
use std::sync::Arc;

use broker::Shown;
use tungstenite::handshake::machine::TryParse as _;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::{HeaderMap, HeaderValue, StatusCode, header};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::door::{Refusal, Refused};

/// Close codes (RFC 6455 §7.4.1).
pub(crate) const NORMAL: u16 = 1000;
pub(crate) const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
const UNSUPPORTED: u16 = 1003;

/// The certificate that a client has shown to a proxy (`reference/edgehub.md` §5.5); who may say so is judged with the client.
pub(crate) const CLIENT_CERT: &str = "x-ms-edge-clientcert";

/// Longest header of a frame that a client sends, and longest payload of a control frame (RFC 6455 §5.2, §5.5).
const HEADER_BYTES_MAX: usize = 14;
const CONTROL_BYTES_MAX: u64 = 125;

/// Subprotocols that are MQTT; the first is the standard's ([MQTT-6.0.0-3]), the other one that of old clients.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// One WebSocket connection.
#[derive(Debug)]
pub(crate) struct WebSocket {
    state: State,
    rules: Rules,
    /// What the upgrade says that the client has shown elsewhere.
    forwarded: Option<Arc<Shown>>,
}

/// Which requests are taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// The only path that is served, if there is one.
    pub path: Option<String>,
    /// Origins of web pages that may ask, in lower case; any if empty.
    pub origins: Vec<String>,
    /// Whether a request that wants no WebSocket is somebody else's, and not a mistake.
    pub http: bool,
    /// Whether [`CLIENT_CERT`] is passed on; whoever judges the client judges that, too.
    pub forwards: bool,
}

#[derive(Debug)]
enum State {
    /// The request has not come in whole; its beginning.
    Upgrade(Vec<u8>),
    Open(Frames),
    /// A close frame was sent.
    Closed,
    /// It is HTTP, and no WebSocket.
    Http,
}

/// How far the stream of frames is.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER_BYTES_MAX],
    /// Bytes of the header that have come; 0 while a payload comes.
    header_len: usize,
    frame: Option<Frame>,
    /// A message was begun and not ended.
    is_fragmented: bool,
    /// Payload of the control frame that is coming.
    control: Vec<u8>,
}

/// A frame whose header has come.
#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: OpCode,
    /// Payload that has not come.
    left: u64,
    /// As it applies to the next byte.
    mask: [u8; 4],
}

impl WebSocket {
    /// A connection that has to begin with a request that `rules` allow.
    pub(crate) fn new(rules: Rules) -> WebSocket {
        WebSocket { state: State::Upgrade(Vec::new()), rules, forwarded: None }
    }

    /// What somebody says that the client has shown elsewhere, told once.
    pub(crate) fn take_forwarded(&mut self) -> Option<Arc<Shown>> {
        self.forwarded.take()
    }

    /// Whether the upgrade is over.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.state, State::Upgrade(_))
    }

    /// Whether the client has begun with another request than for a WebSocket; nothing is taken from its bytes then.
    pub(crate) fn is_http(&self) -> bool {
        matches!(self.state, State::Http)
    }

    /// Whether a close frame was sent.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Takes all of `bytes` and leaves in it what binary frames carry. Answers go behind `answers`. Whether the client
    /// has closed. After an error, `bytes` still holds what came before it.
    pub(crate) fn take_in(
        &mut self,
        bytes: &mut Vec<u8>,
        answers: &mut Vec<u8>,
        request_bytes_max: usize,
    ) -> Result<bool, Refused> {
        if let State::Upgrade(request) = &mut self.state {
            request.append(bytes);
            match upgrade(request, &self.rules, request_bytes_max) {
                Ok(None) => return Ok(false),
                Ok(Some(Upgraded { len, response, forwarded })) => {
                    self.forwarded = forwarded;
                    bytes.extend_from_slice(&request[len..]);
                    answers.extend_from_slice(&response);
                    self.state = State::Open(Frames::default());
                }
                Err(NotUpgraded::Mistake(refused, response)) => {
                    answers.extend_from_slice(&response);
                    return Err(refused);
                }
                Err(NotUpgraded::Http) => {
                    bytes.append(request);
                    self.state = State::Http;
                }
            }
        }
        if self.is_http() {
            return Ok(false);
        }
        let State::Open(frames) = &mut self.state else {
            bytes.clear();
            return Ok(true);
        };
        let came = frames.take_in(bytes, answers);
        match came {
            Ok(None) => Ok(false),
            Ok(Some(code)) => {
                self.close(code, answers);
                Ok(true)
            }
            Err((refused, code)) => {
                self.close(code, answers);
                Err(refused)
            }
        }
    }

    /// Puts `bytes` into a binary frame behind `out` ([MQTT-6.0.0-1]).
    pub(crate) fn frame(bytes: &[u8], out: &mut Vec<u8>) {
        put(OpCode::Data(Data::Binary), bytes, out);
    }

    /// Puts a close frame behind `out`, if the connection is open.
    pub(crate) fn close(&mut self, code: u16, out: &mut Vec<u8>) {
        if matches!(self.state, State::Open(_)) {
            put(OpCode::Control(Control::Close), &code.to_be_bytes(), out);
            self.state = State::Closed;
        }
    }
}

impl Frames {
    /// As [`WebSocket::take_in`]; the code to close with, if the client closes or breaks the rules.
    fn take_in(&mut self, bytes: &mut Vec<u8>, answers: &mut Vec<u8>) -> Result<Option<u16>, (Refused, u16)> {
        let (mut read, mut written) = (0, 0);
        let result = loop {
            let Some(frame) = &mut self.frame else {
                let Some(byte) = bytes.get(read) else { break Ok(None) };
                read += 1;
                self.header[self.header_len] = *byte;
                self.header_len += 1;
                match self.begin() {
                    Ok(()) => continue,
                    Err(refused) => break Err(refused),
                }
            };
            let len = frame.left.min((bytes.len() - read) as u64) as usize;
            if len == 0 && frame.left > 0 {
                break Ok(None);
            }
            frame.mask = unmask(&mut bytes[read..read + len], frame.mask);
            frame.left -= len as u64;
            if matches!(frame.opcode, OpCode::Control(_)) {
                self.control.extend_from_slice(&bytes[read..read + len]);
            } else {
                bytes.copy_within(read..read + len, written);
                written += len;
            }
            read += len;
            if frame.left == 0 {
                match self.end(answers) {
                    Ok(None) => {}
                    over => break over,
                }
            }
        };
        bytes.truncate(written);
        result
    }

    /// Looks at the header as far as it has come; begins the frame if that is all of it.
    fn begin(&mut self) -> Result<(), (Refused, u16)> {
        if self.header_len < 2 {
            return Ok(());
        }
        let length_bytes = match self.header[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_bytes = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        if self.header_len < 2 + length_bytes + mask_bytes {
            return Ok(());
        }
        let broken = |detail: &str| (Refused::new(Refusal::WsFrame, detail), PROTOCOL_ERROR);
        let parsed = FrameHeader::parse(&mut Cursor::new(&self.header[..self.header_len]));
        let (header, left) = match parsed {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Ok(()),
            Err(error) => return Err(broken(&error.to_string())),
        };
        self.header_len = 0;
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(broken("a reserved bit is set, and no extension was agreed on"));
        }
        let Some(mask) = header.mask else { return Err(broken("the frame is not masked")) };
        match header.opcode {
            OpCode::Control(_) if !header.is_final || left > CONTROL_BYTES_MAX => {
                return Err(broken("a control frame is in fragments or too long"));
            }
            OpCode::Control(_) => {}
            OpCode::Data(Data::Text) => {
                return Err((Refused::new(Refusal::WsText, "a text frame came"), UNSUPPORTED)); // [MQTT-6.0.0-1]
            }
            OpCode::Data(data) => {
                if (data == Data::Continue) != self.is_fragmented {
                    return Err(broken(
                        "a message goes on that was not begun, or begins before one has ended",
                    ));
                }
                self.is_fragmented = !header.is_final;
            }
        }
        if left > i64::MAX as u64 {
            return Err(broken("the length has its highest bit set"));
        }
        self.frame = Some(Frame { opcode: header.opcode, left, mask });
        Ok(())
    }

    /// A frame has come in whole. The code to close with, if it was a close frame.
    fn end(&mut self, answers: &mut Vec<u8>) -> Result<Option<u16>, (Refused, u16)> {
        let Some(frame) = self.frame.take() else { return Ok(None) };
        let payload = match frame.opcode {
            OpCode::Control(_) => std::mem::take(&mut self.control),
            OpCode::Data(_) => return Ok(None),
        };
        match frame.opcode {
            OpCode::Control(Control::Ping) => {
                put(OpCode::Control(Control::Pong), &payload, answers);
                Ok(None)
            }
            OpCode::Control(Control::Close) => match payload.first_chunk::<2>() {
                None if payload.is_empty() => Ok(Some(NORMAL)),
                Some(code) if is_close_code(u16::from_be_bytes(*code)) => Ok(Some(u16::from_be_bytes(*code))),
                _ => {
                    Err((Refused::new(Refusal::WsFrame, "the close frame has no legal code"), PROTOCOL_ERROR))
                }
            },
            _ => Ok(None),
        }
    }
}

/// Codes that may stand in a close frame (RFC 6455 §7.4).
fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Applies the mask; how it applies to the byte behind.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) -> [u8; 4] {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (at, byte) in rest.iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
    let by = rest.len() % 4;
    [mask[by], mask[(by + 1) % 4], mask[(by + 2) % 4], mask[(by + 3) % 4]]
}

fn put(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    header.format(payload.len() as u64, out).expect("a vector takes everything");
    out.extend_from_slice(payload);
}

/// A request that is for no WebSocket.
enum NotUpgraded {
    /// Why it is none we take, and what must be sent.
    Mistake(Refused, Vec<u8>),
    /// It is for somebody else.
    Http,
}

/// A request that is taken.
struct Upgraded {
    /// Its length.
    len: usize,
    response: Vec<u8>,
    forwarded: Option<Arc<Shown>>,
}

/// Reads the request; `None` if it has not come in whole.
fn upgrade(bytes: &[u8], rules: &Rules, request_bytes_max: usize) -> Result<Option<Upgraded>, NotUpgraded> {
    let (len, request) = match Request::try_parse(bytes) {
        Ok(Some(parsed)) => parsed,
        Ok(None) if bytes.len() > request_bytes_max => {
            let detail = format!("{} bytes came, and the request is not over", bytes.len());
            let refused = Refused::new(Refusal::HandshakeTooLarge, detail);
            return Err(NotUpgraded::Mistake(
                refused,
                response(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &[]),
            ));
        }
        Ok(None) => return Ok(None),
        Err(error) => return Err(no_upgrade(&error, rules)),
    };
    let asked = request.uri().path();
    if rules.path.as_ref().is_some_and(|path| path != asked) {
        let refused = Refused::new(Refusal::WsPath, format!("the client asks for {asked:?}"));
        return Err(NotUpgraded::Mistake(refused, response(StatusCode::NOT_FOUND, &[])));
    }
    // Only browsers send it, and a page cannot choose it (RFC 6455 §10.2).
    if let Some(origin) = request.headers().get(header::ORIGIN).filter(|_| !rules.origins.is_empty())
        && !rules.origins.iter().any(|allowed| origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes()))
    {
        let refused = Refused::new(Refusal::WsOrigin, format!("a page of {origin:?} asks"));
        return Err(NotUpgraded::Mistake(refused, response(StatusCode::FORBIDDEN, &[])));
    }
    let mut accepted = create_response(&request).map_err(|error| no_upgrade(&error, rules))?;
    let offers = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offered = |wanted: &str| {
        offers
            .iter()
            .filter_map(|offer| offer.to_str().ok())
            .any(|offer| offer.split(',').any(|it| it.trim() == wanted))
    };
    let Some(chosen) = SUBPROTOCOLS.into_iter().find(|subprotocol| offered(subprotocol)) else {
        let refused = Refused::new(Refusal::WsSubprotocol, "the client does not offer the subprotocol mqtt");
        let answer = response(StatusCode::BAD_REQUEST, &[("Sec-WebSocket-Protocol", "mqtt")]);
        return Err(NotUpgraded::Mistake(refused, answer));
    };
    let forwarded = forwarded(request.headers(), rules).map_err(|problem| {
        let refused = Refused::new(Refusal::WsRequest, problem);
        NotUpgraded::Mistake(refused, response(StatusCode::BAD_REQUEST, &[]))
    })?;
    accepted.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen)); // [MQTT-6.0.0-4]
    let mut bytes = Vec::new();
    write_response(&mut bytes, &accepted).expect("a vector takes everything");
    Ok(Some(Upgraded { len, response: bytes, forwarded }))
}

/// The certificate of a client that the request brings along, as far as these are passed on.
fn forwarded(headers: &HeaderMap, rules: &Rules) -> Result<Option<Arc<Shown>>, &'static str> {
    let Some(certificate) = forwarded_certificate(headers)?.filter(|_| rules.forwards) else {
        return Ok(None);
    };
    let token = authorization(headers)?;
    Ok(Some(Arc::new(Shown::Forwarded { certificate: certificate.into(), token: token.map(Into::into) })))
}

/// The token of a request. Of two nobody knows which a proxy has written, and which its client.
pub(crate) fn authorization(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let token = all.next().and_then(|token| token.to_str().ok());
    if all.next().is_some() { Err("a request has at most one Authorization") } else { Ok(token) }
}

/// What [`CLIENT_CERT`] says; nothing, where a proxy has written that there was no certificate.
pub(crate) fn forwarded_certificate(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
    let mut all = headers.get_all(CLIENT_CERT).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => {
            let text = one.to_str().map_err(|_| "x-ms-edge-clientcert is no text")?;
            Ok(Some(text).filter(|text| !text.is_empty()))
        }
        _ => Err("a request has at most one x-ms-edge-clientcert"),
    }
}

/// The status that says best what is wrong with a request.
fn no_upgrade(error: &tungstenite::Error, rules: &Rules) -> NotUpgraded {
    use tungstenite::Error::{Capacity, Protocol};
    use tungstenite::error::ProtocolError as Wrong;
    let is_other = matches!(
        error,
        Protocol(
            Wrong::WrongHttpMethod
                | Wrong::MissingConnectionUpgradeHeader
                | Wrong::MissingUpgradeWebSocketHeader
        )
    );
    if is_other && rules.http {
        return NotUpgraded::Http;
    }
    const UPGRADE: &[(&str, &str)] =
        &[("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")];
    let (status, headers) = match error {
        Protocol(Wrong::WrongHttpMethod) => (StatusCode::METHOD_NOT_ALLOWED, &[("Allow", "GET")][..]),
        Protocol(
            Wrong::WrongHttpVersion
            | Wrong::MissingConnectionUpgradeHeader
            | Wrong::MissingUpgradeWebSocketHeader
            | Wrong::MissingSecWebSocketVersionHeader,
        ) => (StatusCode::UPGRADE_REQUIRED, UPGRADE),
        Capacity(_) => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &[][..]),
        _ => (StatusCode::BAD_REQUEST, &[][..]),
    };
    NotUpgraded::Mistake(Refused::new(Refusal::WsRequest, error.to_string()), response(status, headers))
}

fn response(status: StatusCode, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !headers.iter().any(|(name, _)| *name == "Connection") {
        text.push_str("Connection: close\r\n");
    }
    text.push_str("Content-Length: 0\r\n\r\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests;
