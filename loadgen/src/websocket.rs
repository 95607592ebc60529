//! MQTT over WebSocket as a client speaks it (RFC 6455; MQTT 5.0 §6): binary frames around a stream of bytes.
//!
//! Knows: the opening handshake with the `mqtt` subprotocol, masking, fragments, ping and close.
//! Never: extensions, text frames, MQTT packets; frames are no packet boundaries here either [MQTT-6.0.0-2].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

use crate::random::Random;

/// Payload of one frame that we send.
const FRAME_BYTES_MAX: usize = 64 << 10;
/// What is read from below at once.
const READ_BYTES: usize = 64 << 10;
/// An answer to the handshake that is longer is none.
const ANSWER_BYTES_MAX: usize = 16 << 10;

const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// A WebSocket, used as a stream of bytes.
pub(crate) struct WebSocket<S> {
    below: S,
    /// Read from below and not looked at yet.
    raw: Vec<u8>,
    raw_at: usize,
    /// Payload of the present data frame that is still to come.
    data_left: u64,
    /// Frames that are on their way out.
    out: Vec<u8>,
    out_at: usize,
    masks: Random,
    closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Shakes hands over an open stream. Fails if the other side is no WebSocket that speaks MQTT.
    pub(crate) async fn open(mut below: S, authority: &str, path: &str) -> io::Result<WebSocket<S>> {
        let key = generate_key();
        // [MQTT-6.0.0-3]: the subprotocol is "mqtt".
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        below.write_all(request.as_bytes()).await?;
        below.flush().await?;
        let mut raw = Vec::new();
        let end = loop {
            if let Some(at) = raw.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if raw.len() > ANSWER_BYTES_MAX || below.read_buf(&mut raw).await? == 0 {
                return Err(io::Error::other("the answer to the WebSocket handshake has no end"));
            }
        };
        check_answer(&String::from_utf8_lossy(&raw[..end]), &key)?;
        let seed = key.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
        Ok(WebSocket {
            below,
            raw,
            raw_at: end,
            data_left: 0,
            out: Vec::new(),
            out_at: 0,
            masks: Random::new(seed),
            closed: false,
        })
    }

    fn put_frame(&mut self, opcode: u8, payload: &[u8]) {
        self.out.push(FIN | opcode);
        match payload.len() {
            short @ 0..=125 => self.out.push(MASKED | short as u8),
            middle @ 126..=0xFFFF => {
                self.out.push(MASKED | 126);
                self.out.extend_from_slice(&(middle as u16).to_be_bytes());
            }
            long => {
                self.out.push(MASKED | 127);
                self.out.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        let mask = (self.masks.next() as u32).to_be_bytes();
        self.out.extend_from_slice(&mask);
        let start = self.out.len();
        self.out.extend_from_slice(payload);
        for (byte, mask) in self.out[start..].iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out_at < self.out.len() {
            self.out_at += ready!(Pin::new(&mut self.below).poll_write(cx, &self.out[self.out_at..]))?;
        }
        self.out.clear();
        self.out_at = 0;
        Pin::new(&mut self.below).poll_flush(cx)
    }

    /// Looks at the next frame if all of its header is here; control frames are dealt with.
    fn next_frame(&mut self) -> io::Result<bool> {
        let Some(head) = Head::read(&self.raw[self.raw_at..])? else { return Ok(false) };
        match head.opcode {
            CONTINUATION | BINARY => {
                self.raw_at += head.bytes;
                self.data_left = head.payload;
                return Ok(true);
            }
            CLOSE | PING | PONG => {}
            other => return Err(io::Error::other(format!("a WebSocket frame with opcode {other}"))),
        }
        let whole = head.bytes + head.payload as usize;
        if self.raw.len() - self.raw_at < whole {
            return Ok(false);
        }
        let payload = self.raw[self.raw_at + head.bytes..self.raw_at + whole].to_vec();
        self.raw_at += whole;
        match head.opcode {
            PING => self.put_frame(PONG, &payload),
            CLOSE => self.closed = true,
            _ => {}
        }
        Ok(true)
    }
}

/// The fixed part of a frame from a server.
struct Head {
    opcode: u8,
    payload: u64,
    /// Length of the header itself.
    bytes: usize,
}

impl Head {
    /// `None` if it is not here in whole.
    fn read(raw: &[u8]) -> io::Result<Option<Head>> {
        let [first, second, rest @ ..] = raw else { return Ok(None) };
        if first & 0x70 != 0 || second & MASKED != 0 {
            return Err(io::Error::other("a WebSocket frame with reserved bits or a mask"));
        }
        let opcode = first & 0x0F;
        let length =
            |bytes: usize| rest.get(..bytes).map(|rest| rest.iter().fold(0, |n, &b| n << 8 | u64::from(b)));
        let (payload, more) = match second & 0x7F {
            126 => (length(2), 2),
            127 => (length(8), 8),
            short => (Some(u64::from(short)), 0),
        };
        let Some(payload) = payload else { return Ok(None) };
        if opcode >= CLOSE && payload > 125 {
            return Err(io::Error::other("a WebSocket control frame of more than 125 bytes"));
        }
        Ok(Some(Head { opcode, payload, bytes: 2 + more }))
    }
}

fn check_answer(answer: &str, key: &str) -> io::Result<()> {
    let mut lines = answer.lines();
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 101") {
        return Err(io::Error::other(format!("the WebSocket handshake was answered \"{status}\"")));
    }
    let header = |name: &str| {
        answer.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    if header("Sec-WebSocket-Accept").as_deref() != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err(io::Error::other(
            "the WebSocket handshake was answered with a wrong Sec-WebSocket-Accept",
        ));
    }
    // [MQTT-6.0.0-4]
    match header("Sec-WebSocket-Protocol").as_deref() {
        Some("mqtt") => Ok(()),
        other => Err(io::Error::other(format!(
            "the WebSocket handshake chose the subprotocol {:?}, not mqtt",
            other.unwrap_or("none")
        ))),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            // Several frames may lie in what was read: all of their payload goes up at once.
            while this.data_left > 0 && this.raw_at < this.raw.len() && buffer.remaining() > 0 {
                let here = &this.raw[this.raw_at..];
                let take = here.len().min(buffer.remaining()).min(this.data_left as usize);
                buffer.put_slice(&here[..take]);
                this.raw_at += take;
                this.data_left -= take as u64;
                while this.data_left == 0 && !this.closed && this.next_frame()? {}
            }
            if this.out_at < this.out.len() {
                // Pongs; if the socket takes nothing they wait, and reading goes on.
                if let Poll::Ready(Err(error)) = this.poll_out(cx) {
                    return Poll::Ready(Err(error));
                }
            }
            if !buffer.filled().is_empty() || this.closed {
                return Poll::Ready(Ok(()));
            }
            if this.data_left == 0 && this.next_frame()? {
                continue;
            }
            this.raw.drain(..this.raw_at);
            this.raw_at = 0;
            let kept = this.raw.len();
            this.raw.resize(kept + READ_BYTES, 0);
            let mut free = ReadBuf::new(&mut this.raw[kept..]);
            let read = Pin::new(&mut this.below).poll_read(cx, &mut free);
            let filled = free.filled().len();
            this.raw.truncate(kept + filled);
            ready!(read)?;
            if filled == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // One frame at a time is on its way, so that what waits is bounded.
        if this.out_at < this.out.len() {
            ready!(this.poll_out(cx))?;
        }
        let taken = bytes.len().min(FRAME_BYTES_MAX);
        this.put_frame(BINARY, &bytes[..taken]);
        match this.poll_out(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // Taken over, if not written yet: `poll_flush` writes the rest.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_out(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.below).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The other end: answers the handshake with `accept` for the key, and hands its stream over.
    async fn answer(mut server: tokio::io::DuplexStream, protocol: &str) -> tokio::io::DuplexStream {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            server.read_buf(&mut request).await.unwrap();
        }
        let request = String::from_utf8(request).unwrap();
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
             sec-websocket-accept: {}\r\nsec-websocket-protocol: {protocol}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        server.write_all(answer.as_bytes()).await.unwrap();
        server
    }

    async fn pair() -> (WebSocket<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (client, server) = tokio::io::duplex(1 << 20);
        let (client, server) =
            tokio::join!(WebSocket::open(client, "broker:80", "/mqtt"), answer(server, "mqtt"));
        (client.unwrap(), server)
    }

    /// [MQTT-6.0.0-2]: packets neither begin nor end with frames.
    #[tokio::test]
    async fn fragments_and_coalesced_frames_are_one_stream() {
        let (mut client, mut server) = pair().await;
        // "ab" in two fragments around a ping, an empty frame, "cd" in a frame of its own, then half a frame.
        server
            .write_all(&[0x02, 1, b'a', 0x89, 1, b'!', 0x80, 1, b'b', 0x82, 0, 0x82, 2, b'c', b'd', 0x82])
            .await
            .unwrap();
        let mut seen = vec![0; 4];
        client.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, b"abcd");
        server.write_all(&[1, b'e']).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'e');
        let mut pong = vec![0; 7];
        server.read_exact(&mut pong).await.unwrap();
        assert_eq!((pong[0], pong[1], pong[6] ^ pong[2]), (0x8A, 0x81, b'!'));
        server.write_all(&[0x88, 0]).await.unwrap();
        assert_eq!(client.read(&mut seen).await.unwrap(), 0, "a close is the end of the stream");
    }

    #[tokio::test]
    async fn what_is_written_is_masked_and_whole() {
        for length in [1, 125, 126, 70_000] {
            let (mut client, mut server) = pair().await;
            let sent: Vec<u8> = (0..length).map(|at| at as u8).collect();
            client.write_all(&sent).await.unwrap();
            client.flush().await.unwrap();
            let mut seen = Vec::new();
            while seen.len() < sent.len() {
                assert_eq!(server.read_u8().await.unwrap(), FIN | BINARY);
                let bytes = match server.read_u8().await.unwrap() & 0x7F {
                    126 => usize::from(server.read_u16().await.unwrap()),
                    127 => server.read_u64().await.unwrap() as usize,
                    short => usize::from(short),
                };
                let mask = server.read_u32().await.unwrap().to_be_bytes();
                let mut payload = vec![0; bytes];
                server.read_exact(&mut payload).await.unwrap();
                seen.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
            }
            assert_eq!(seen, sent);
        }
    }

    /// [MQTT-6.0.0-4]
    #[tokio::test]
    async fn another_subprotocol_is_refused() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (client, _) = tokio::join!(WebSocket::open(client, "b:80", "/"), answer(server, "chat"));
        let error = client.err().unwrap().to_string();
        assert!(error.contains("chose the subprotocol \"chat\""), "{error}");
    }
}
