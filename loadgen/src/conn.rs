//! One client connection: the handshake, and then packets in and bytes out, a buffer at a time.
//!
//! Knows: MQTT as a client speaks it, through `wire`. Never: what messages mean, schedules, ledgers.
//! In:  an endpoint. Out: packets borrowed from the worker's one big read buffer; bytes put into `out`.
//! Invariant: between two reads only the tail of an incomplete packet is kept, so that an idle connection has no
//! read buffer; what is in `out` leaves in one write, as far as the socket takes it.

use std::num::NonZeroU16;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use model::Qos;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use wire::{
    ConnAck, Connect, Disconnect, Packet, ReasonCode, SubAck, Subscribe, Subscription, Version, Will,
};

use crate::address::Address;
use crate::transport::{Stream, Tls};

/// Largest packet accepted from a broker.
const PACKET_BYTES_MAX: u32 = 32 << 20;

/// Read buffer of a worker at the start: at 256 B a message some 900 of them in one system call.
pub(crate) const READ_BYTES: usize = 256 << 10;

/// Filters in one SUBSCRIBE: brokers bound them.
const FILTERS_MAX: usize = 100;

/// How long a broker may take for a connection, a CONNACK or a SUBACK.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a broker keeps the session of a 5.0 client that asked not to start clean.
const SESSION_EXPIRY_SECS: u32 = 3600;

/// Why a connection does not come up or ends.
#[derive(Debug, thiserror::Error)]
pub enum ConnError {
    /// Nobody accepts there.
    #[error("cannot connect to {address}: {error}; is the broker running there?")]
    Unreachable {
        /// Where.
        address: Address,
        /// What the system said.
        error: std::io::Error,
    },
    /// The broker did not answer in time.
    #[error("{address} accepted the connection but sent no {packet} within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Silent {
        /// Who.
        address: Address,
        /// What was waited for.
        packet: &'static str,
    },
    /// The broker refused us.
    #[error("the broker refused {what}: {reason}")]
    Refused {
        /// What we asked for.
        what: String,
        /// Its reason code.
        reason: String,
    },
    /// The broker closed the connection.
    #[error("the broker closed the connection{}", reason(.0))]
    Closed(Option<String>),
    /// The broker does not speak MQTT as we know it.
    #[error("the broker sent what is not MQTT: {0}")]
    Malformed(#[from] wire::Malformed),
    /// The broker sent a packet that has no place there.
    #[error("the broker sent {0}, which it may not")]
    Unexpected(&'static str),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] std::io::Error),
    /// What we wanted to send does not fit into MQTT.
    #[error("cannot be sent: {0}")]
    Unencodable(#[from] wire::Unencodable),
}

fn reason(reason: &Option<String>) -> String {
    reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"))
}

/// How to introduce oneself.
#[derive(Clone)]
pub(crate) struct Hello {
    pub(crate) address: Address,
    /// There if the address is encrypted.
    pub(crate) tls: Option<Tls>,
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean: bool,
    pub(crate) login: Option<(String, String)>,
    pub(crate) keep_alive: Duration,
    pub(crate) will: Option<Will>,
}

/// An open connection.
pub(crate) struct Conn {
    stream: Stream,
    version: Version,
    /// The tail of a packet that is not here in whole.
    tail: Vec<u8>,
    /// What is to be written; from `out_at` on it has not been.
    pub(crate) out: Vec<u8>,
    out_at: usize,
    /// Whether something was written that a layer between us and the socket may still have.
    unflushed: bool,
    pings: Option<tokio::time::Interval>,
}

/// What a CONNACK told us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Welcome {
    /// Most unacknowledged QoS 1 messages the broker takes (5.0 §3.2.2.3.3).
    pub(crate) receive_max: u16,
    /// Whether the broker had kept the session.
    pub(crate) session_present: bool,
}

impl Conn {
    /// Connects and introduces itself.
    ///
    /// A broker that resumes a session may send messages right behind its CONNACK: those are handed to `early`.
    pub(crate) async fn open(
        hello: &Hello,
        mut early: impl FnMut(Packet<'_>, &mut Vec<u8>) -> Result<(), ConnError>,
    ) -> Result<(Conn, Welcome), ConnError> {
        let address = &hello.address;
        let unreachable = |error| ConnError::Unreachable { address: address.clone(), error };
        let connecting = Stream::open(address, hello.tls.as_ref());
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting)
            .await
            .map_err(|late| unreachable(late.into()))?
            .map_err(unreachable)?;
        let pings = (hello.keep_alive > Duration::ZERO).then(|| {
            let mut pings = tokio::time::interval(hello.keep_alive / 2);
            pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            pings.reset();
            pings
        });
        let mut conn = Conn::over(stream, hello.version, pings);
        write_connect(&mut conn.out, hello)?;
        let welcome = conn.answer(address, "CONNACK", |packet, out| match packet {
            Packet::ConnAck(ack) => read_connack(&ack).map(Some),
            other => early(other, out).map(|()| None),
        });
        let welcome = welcome.await?;
        Ok((conn, welcome))
    }

    /// The server's end of a connection, before its CONNECT.
    pub(crate) fn accepted(stream: TcpStream) -> std::io::Result<Conn> {
        stream.set_nodelay(true)?;
        Ok(Conn::over(Stream::Tcp(stream), Version::V3, None))
    }

    fn over(stream: Stream, version: Version, pings: Option<tokio::time::Interval>) -> Conn {
        Conn { stream, version, tail: Vec::new(), out: Vec::new(), out_at: 0, unflushed: false, pings }
    }

    /// Packets are read as this version from the next read on.
    pub(crate) fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// Subscribes to one filter and waits for the answer. Packets that come before or right behind it are handed to
    /// `early`, with the buffer for answers.
    pub(crate) async fn subscribe(
        &mut self,
        address: &Address,
        filter: &str,
        qos: Qos,
        early: impl FnMut(Packet<'_>, &mut Vec<u8>) -> Result<(), ConnError>,
    ) -> Result<(), ConnError> {
        self.subscribe_all(address, &[filter.to_owned()], qos, early).await
    }

    /// The same with many filters, in as many packets as it takes.
    pub(crate) async fn subscribe_all(
        &mut self,
        address: &Address,
        filters: &[String],
        qos: Qos,
        mut early: impl FnMut(Packet<'_>, &mut Vec<u8>) -> Result<(), ConnError>,
    ) -> Result<(), ConnError> {
        for filters in filters.chunks(FILTERS_MAX) {
            let subscribe = Subscribe {
                packet_id: NonZeroU16::MIN,
                subscription_id: None,
                user_properties: Vec::new(),
                subscriptions: filters.iter().map(|filter| Subscription::new(filter, qos)).collect(),
            };
            wire::encode_subscribe(&mut self.out, self.version, &subscribe)?;
            self.answer(address, "SUBACK", |packet, out| match packet {
                Packet::SubAck(ack) => read_suback(&ack, filters, qos).map(Some),
                other => early(other, out).map(|()| None),
            })
            .await?;
        }
        Ok(())
    }

    /// Writes what is in `out`, then reads until `wanted` has found its packet.
    async fn answer<T>(
        &mut self,
        address: &Address,
        packet: &'static str,
        mut wanted: impl FnMut(Packet<'_>, &mut Vec<u8>) -> Result<Option<T>, ConnError>,
    ) -> Result<T, ConnError> {
        let mut buffer = vec![0; 4096];
        let mut found = None;
        let answered = std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                    return Poll::Ready(Err(error));
                }
                let read = self.poll_read(cx, &mut buffer, |packet, out| {
                    // Packets right behind the answer are in the same buffer and must not be lost.
                    if let Some(answer) = wanted(packet, out)? {
                        found = Some(answer);
                    }
                    Ok(())
                });
                ready!(read)?;
                if let Some(found) = found.take() {
                    return Poll::Ready(Ok(found));
                }
            }
        });
        tokio::time::timeout(HANDSHAKE_TIMEOUT, answered)
            .await
            .map_err(|_| ConnError::Silent { address: address.clone(), packet })?
    }

    /// Reads once and hands every whole packet to `each`, with the buffer for answers.
    ///
    /// `buffer` is shared by all connections of a worker; it grows if a packet is larger. Pending means that there
    /// is nothing to read now and the task will be woken. PINGRESP is swallowed; DISCONNECT ends the connection.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(Packet<'_>, &mut Vec<u8>) -> Result<(), ConnError>,
    ) -> Poll<Result<(), ConnError>> {
        let kept = self.tail.len();
        if buffer.len() < 2 * kept {
            buffer.resize(2 * kept, 0);
        }
        // The tail goes to the front, so that a packet cut by the network lies in one piece.
        let mut free = ReadBuf::new(&mut buffer[kept..]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut free))?;
        let read = free.filled().len();
        if read == 0 {
            return Poll::Ready(Err(ConnError::Closed(None)));
        }
        buffer[..kept].copy_from_slice(&self.tail);
        let mut rest = &buffer[..kept + read];
        while let Some(frame) = wire::split(rest, PACKET_BYTES_MAX)? {
            rest = &rest[frame.total_len()..];
            match wire::decode(frame, self.version)? {
                Packet::PingResp => {}
                Packet::Disconnect(end) => {
                    return Poll::Ready(Err(ConnError::Closed(Some(end.reason.to_string()))));
                }
                packet => each(packet, &mut self.out)?,
            }
        }
        self.tail.clear();
        self.tail.extend_from_slice(rest);
        Poll::Ready(Ok(()))
    }

    /// Writes what is in `out`; ready when everything is written.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnError>> {
        while self.out_at < self.out.len() {
            let rest = &self.out[self.out_at..];
            self.out_at += ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        self.out.clear();
        self.out_at = 0;
        Poll::Ready(Ok(()))
    }

    /// Puts a PINGREQ into `out` when half the keep alive is over; wakes the task when the next is due.
    pub(crate) fn poll_ping(&mut self, cx: &mut Context<'_>) {
        if let Some(pings) = &mut self.pings {
            while pings.poll_tick(cx).is_ready() {
                wire::encode_pingreq(&mut self.out);
            }
        }
    }

    /// Says goodbye and closes, without waiting for a socket that takes nothing.
    pub(crate) async fn close(mut self) {
        // Without it the broker would take the end for a failure, and nothing worse.
        wire::encode_disconnect(&mut self.out, self.version, &Disconnect::new(ReasonCode::SUCCESS)).ok();
        let goodbye = std::future::poll_fn(|cx| self.poll_flush(cx));
        // Whatever happens here, the connection is over: there is nobody to tell.
        tokio::time::timeout(Duration::from_millis(500), goodbye).await.ok();
    }
}

fn write_connect(out: &mut Vec<u8>, hello: &Hello) -> Result<(), ConnError> {
    let mut connect = Connect::new(hello.version, hello.client_id.as_str());
    connect.clean_start = hello.clean;
    connect.keep_alive_secs = u16::try_from(hello.keep_alive.as_secs()).unwrap_or(u16::MAX);
    if let Some((user, password)) = &hello.login {
        connect.user_name = Some(user.clone());
        connect.password = Some(password.clone().into_bytes());
    }
    connect.will.clone_from(&hello.will);
    if !hello.clean && hello.version == Version::V5 {
        // Without an expiry a 5.0 session ends with its connection (§3.1.2.11.2).
        connect.session_expiry_secs = SESSION_EXPIRY_SECS;
    }
    Ok(wire::encode_connect(out, &connect)?)
}

fn read_connack(ack: &ConnAck) -> Result<Welcome, ConnError> {
    if ack.reason.is_error() {
        return Err(ConnError::Refused { what: "the connection".to_owned(), reason: ack.reason.to_string() });
    }
    Ok(Welcome { receive_max: ack.receive_max.get(), session_present: ack.session_present })
}

fn read_suback(ack: &SubAck, filters: &[String], qos: Qos) -> Result<(), ConnError> {
    for (index, filter) in filters.iter().enumerate() {
        let refused = |reason| ConnError::Refused { what: format!("the subscription to {filter}"), reason };
        match ack.reasons.get(index) {
            None => return Err(refused("the answer is too short".to_owned())),
            Some(reason) if reason.is_error() => return Err(refused(reason.to_string())),
            // A lower QoS than asked for is legal, but then the referee would judge by the wrong contract.
            Some(reason) if *reason != ReasonCode::granted(qos) => {
                return Err(refused(format!("only {reason} is granted")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
