//! MQTT over WebSocket (RFC 6455) on the server's side: binary frames become the bytes of a stream, and back.
//!
//! In: an upgraded connection. Out: both directions of an in-memory pipe. Strict: what a client may not send ends it.

use std::io;

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex,
    split,
};

/// Bytes between the two sides of the pipe.
const PIPE_BYTES: usize = 64 << 10;
/// Longest frame that is taken.
const FRAME_BYTES_MAX: u64 = 1 << 20;

/// The answer to `Sec-WebSocket-Key`.
pub(crate) fn accept_key(key: &str) -> String {
    tungstenite::handshake::derive_accept_key(key.as_bytes())
}

/// The MQTT bytes inside the frames of `stream`.
pub(crate) fn unwrap<S>(stream: S) -> DuplexStream
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (inner, outer) = duplex(PIPE_BYTES);
    let (reader, writer) = split(stream);
    let (pipe_reader, pipe_writer) = split(outer);
    // A pong is answered by the writing half; there is never more than one waiting.
    let (pong, pongs) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        // How it ended does not matter: the end of the pipe tells the session.
        inbound(reader, pipe_writer, pong).await.ok();
    });
    tokio::spawn(async move {
        outbound(pipe_reader, writer, pongs).await.ok();
    });
    inner
}

async fn inbound<S: AsyncRead>(
    mut from: ReadHalf<S>,
    mut to: WriteHalf<DuplexStream>,
    pong: tokio::sync::mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    loop {
        let mut head = [0; 2];
        from.read_exact(&mut head).await?;
        let [first, second] = head;
        if first & 0x70 != 0 {
            return Err(wrong("an extension that was not agreed on"));
        }
        if second & 0x80 == 0 {
            return Err(wrong("a client's frame without a mask"));
        }
        let length = match second & 0x7F {
            126 => u64::from(from.read_u16().await?),
            127 => from.read_u64().await?,
            short => u64::from(short),
        };
        if length > FRAME_BYTES_MAX {
            return Err(wrong("a frame that is too long"));
        }
        let mut mask = [0; 4];
        from.read_exact(&mut mask).await?;
        let mut payload = vec![0; length as usize];
        from.read_exact(&mut payload).await?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        match first & 0x0F {
            0 | 2 => to.write_all(&payload).await?,
            1 => return Err(wrong("a text frame")),
            8 => return to.shutdown().await,
            9 => pong.send(payload).await.map_err(io::Error::other)?,
            10 => {}
            _ => return Err(wrong("a reserved opcode")),
        }
    }
}

async fn outbound<S: AsyncWrite>(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<S>,
    mut pongs: tokio::sync::mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIPE_BYTES];
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => match read? {
                0 => {
                    frame(&mut to, 8, &1_000_u16.to_be_bytes()).await?;
                    return to.shutdown().await;
                }
                read => frame(&mut to, 2, &buffer[..read]).await?,
            },
            Some(payload) = pongs.recv() => frame(&mut to, 10, &payload).await?,
        }
    }
}

async fn frame<S: AsyncWrite>(to: &mut WriteHalf<S>, opcode: u8, payload: &[u8]) -> io::Result<()> {
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..=125 => bytes.push(short as u8),
        medium @ 126..=0xFFFF => {
            bytes.push(126);
            bytes.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(127);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    to.write_all(&bytes).await?;
    to.flush().await
}
