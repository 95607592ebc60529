//! MQTT over WebSocket, the client's half (RFC 6455): the upgrade, then binary frames over a stream.
//!
//! In: a stream, host and path. Out: a stream of MQTT bytes, or why not. Reading of responses and frame headers is
//! tungstenite's. Bounds: [`RESPONSE_BYTES_MAX`] for the response, [`FRAME_BYTES`] for a frame of ours,
//! [`OUTGOING_BYTES_MAX`] for pongs; frames of the other side are passed on as they come, whatever their length.

use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tungstenite::handshake::client::{Response, generate_key};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse as _;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::theirs;
use super::transport::Stream;
use crate::clock::entropy;

/// No honest response to an upgrade is longer.
const RESPONSE_BYTES_MAX: usize = 16 << 10;
/// Payload of one frame of ours.
const FRAME_BYTES: usize = 16 << 10;
/// Longest header of a frame, and longest payload of a control frame (RFC 6455 §5.2, §5.5).
const HEADER_BYTES_MAX: usize = 14;
const CONTROL_BYTES_MAX: u64 = 125;
/// Bytes read from the stream at once.
const READ_BYTES: usize = 16 << 10;
/// Bytes that may wait for the stream before pings go without an answer: who asks and does not read gets no more memory.
const OUTGOING_BYTES_MAX: usize = 4 * FRAME_BYTES;

/// A WebSocket over a stream.
#[derive(Debug)]
pub(super) struct WebSocket {
    stream: Stream,
    /// Read from the stream and not taken.
    incoming: Vec<u8>,
    taken: usize,
    /// Payload of the frame that has not come.
    left: u64,
    /// What the frame that is coming is; `None` between frames.
    opcode: Option<OpCode>,
    control: Vec<u8>,
    is_over: bool,
    /// Frames that the stream has not taken.
    outgoing: Vec<u8>,
    ahead_secs: Option<i64>,
}

/// Asks the other end to speak WebSocket. `Err` says why it does not.
pub(super) async fn upgrade(mut stream: Stream, host: &str, path: &str) -> Result<WebSocket, String> {
    let key = generate_key();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    );
    let clear = |error: io::Error| error.to_string();
    stream.write_all(request.as_bytes()).await.map_err(clear)?;
    stream.flush().await.map_err(clear)?;
    let mut incoming = Vec::new();
    let (len, response) = loop {
        if stream.read_buf(&mut incoming).await.map_err(clear)? == 0 {
            return Err("it closed the connection instead of answering".to_owned());
        }
        match Response::try_parse(&incoming) {
            Ok(Some(parsed)) => break parsed,
            Ok(None) if incoming.len() > RESPONSE_BYTES_MAX => return Err("its answer has no end".to_owned()),
            Ok(None) => {}
            Err(error) => return Err(format!("it does not answer in HTTP ({error})")),
        }
    };
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    if response.status().as_u16() != 101 {
        return Err(format!("it answers {}; is the path {path} right?", response.status()));
    }
    if header("Sec-WebSocket-Accept") != Some(&derive_accept_key(key.as_bytes())) {
        return Err("its answer is not to our request; is a cache in between?".to_owned());
    }
    if header("Sec-WebSocket-Protocol") != Some("mqtt") {
        return Err("it does not speak MQTT over WebSocket there".to_owned());
    }
    incoming.drain(..len);
    Ok(WebSocket {
        stream,
        incoming,
        taken: 0,
        left: 0,
        opcode: None,
        control: Vec::new(),
        is_over: false,
        outgoing: Vec::new(),
        ahead_secs: theirs::ahead_secs(&response),
    })
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the WebSocket breaks its rules: {text}"))
}

impl WebSocket {
    /// The other end's clock minus ours in seconds, when it began, if it said what time it is.
    pub(super) fn ahead_secs(&self) -> Option<i64> {
        self.ahead_secs
    }

    /// What it runs over.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Moves what lies ready into `out`; whether that was anything, or the end.
    fn take(&mut self, out: &mut ReadBuf<'_>) -> io::Result<bool> {
        loop {
            if self.is_over {
                return Ok(true);
            }
            let rest = &self.incoming[self.taken..];
            let Some(opcode) = self.opcode else {
                let head = &rest[..rest.len().min(HEADER_BYTES_MAX)];
                let mut cursor = Cursor::new(head);
                let parsed = FrameHeader::parse(&mut cursor).map_err(|error| broken(&error.to_string()))?;
                let Some((header, left)) = parsed else { return Ok(false) };
                if header.mask.is_some() || header.rsv1 || header.rsv2 || header.rsv3 {
                    return Err(broken("a server masks nothing and sets no reserved bit"));
                }
                match header.opcode {
                    OpCode::Data(Data::Binary | Data::Continue) => {}
                    OpCode::Control(_) if left <= CONTROL_BYTES_MAX && header.is_final => {
                        self.control.clear()
                    }
                    _ => return Err(broken("this frame is neither binary nor a control frame")),
                }
                self.taken += cursor.position() as usize;
                self.opcode = Some(header.opcode);
                self.left = left;
                continue;
            };
            let is_control = matches!(opcode, OpCode::Control(_));
            let room = if is_control { usize::MAX } else { out.remaining() };
            let len = self.left.min(rest.len().min(room) as u64) as usize;
            if is_control {
                self.control.extend_from_slice(&rest[..len]);
            } else {
                out.put_slice(&rest[..len]);
            }
            self.taken += len;
            self.left -= len as u64;
            if self.left > 0 {
                return Ok(!is_control && len > 0);
            }
            self.opcode = None;
            match opcode {
                OpCode::Control(Control::Ping) => {
                    let payload = std::mem::take(&mut self.control);
                    if self.outgoing.len() < OUTGOING_BYTES_MAX {
                        self.frame(OpCode::Control(Control::Pong), &payload);
                    }
                }
                OpCode::Control(Control::Close) => self.is_over = true,
                OpCode::Data(_) if len > 0 => return Ok(true),
                _ => {}
            }
        }
    }

    fn frame(&mut self, opcode: OpCode, payload: &[u8]) {
        let mask = (entropy() as u32).to_ne_bytes();
        let header = FrameHeader { opcode, mask: Some(mask), ..FrameHeader::default() };
        header.format(payload.len() as u64, &mut self.outgoing).expect("a vector takes everything");
        self.outgoing.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }

    /// Writes what waits; ready once nothing does.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let len = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outgoing))?;
            if len == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.drain(..len);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.take(out)? {
                return Poll::Ready(Ok(()));
            }
            // Pongs. If the stream takes nothing now, the next write does it; if it never will again, the rest of what came
            // is taken all the same.
            drop(this.poll_outgoing(cx));
            this.incoming.drain(..std::mem::take(&mut this.taken));
            let start = this.incoming.len();
            this.incoming.resize(start + READ_BYTES, 0);
            let mut buffer = ReadBuf::new(&mut this.incoming[start..]);
            let polled = Pin::new(&mut this.stream).poll_read(cx, &mut buffer);
            let len = buffer.filled().len();
            this.incoming.truncate(start + len);
            ready!(polled)?;
            if len == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_outgoing(cx))?;
        let len = bytes.len().min(FRAME_BYTES);
        this.frame(OpCode::Data(Data::Binary), &bytes[..len]);
        // What the stream does not take now goes first next time.
        match this.poll_outgoing(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(len)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_outgoing(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_over {
            this.is_over = true;
            this.frame(OpCode::Control(Control::Close), &1000_u16.to_be_bytes());
        }
        ready!(this.poll_outgoing(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
