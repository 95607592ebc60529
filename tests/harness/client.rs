//! A small blocking MQTT client: what tests need to see every packet as it comes.
//!
//! [`Connection`] moves packets and never panics; [`Client`] is a session that must go well, for tests to read like
//! what they test. In: packets of `wire`. Out: owned packets. Bound: one test's messages.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;
use std::time::{Duration, Instant};

use wire::{
    Ack, AckKind, Connect, Disconnect, OutgoingPublish, Packet, PublishProperties, ReasonCode, Subscribe,
    Subscription, Unsubscribe, Version,
};

use crate::certificates::Trust;
use crate::wait::PATIENCE;
use crate::{QOS_0, QOS_1, QOS_2, Qos};

/// The largest packet a test takes.
const PACKET_BYTES_MAX: u32 = 64 << 20;

/// A CONNECT of MQTT 5: clean start, no expiry, no keep-alive.
pub fn v5(client_id: &str) -> Connect {
    Connect::new(Version::V5, client_id)
}

/// A CONNECT of MQTT 3.1.1: clean session, no keep-alive.
pub fn v3(client_id: &str) -> Connect {
    Connect::new(Version::V3, client_id)
}

/// A PUBLISH that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// QoS of this hop.
    pub qos: Qos,
    /// Sent before, perhaps.
    pub dup: bool,
    /// RETAIN flag.
    pub retain: bool,
    /// With QoS 1 and 2.
    pub packet_id: Option<NonZeroU16>,
    /// Raw block of MQTT 5 properties.
    pub block: Vec<u8>,
}

impl Received {
    /// Its properties.
    pub fn properties(&self) -> PublishProperties<'_> {
        PublishProperties::from_block(&self.block).expect("checked when it was decoded")
    }

    /// Its payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("the payload of a test is text")
    }

    /// Its user properties, in order.
    pub fn user_properties(&self) -> Vec<(&str, &str)> {
        self.properties().user_properties().collect()
    }
}

/// A packet that came, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum Incoming {
    Publish(Received),
    PubAck(NonZeroU16, ReasonCode),
    PubRec(NonZeroU16, ReasonCode),
    PubRel(NonZeroU16, ReasonCode),
    PubComp(NonZeroU16, ReasonCode),
    ConnAck(Box<wire::ConnAck>),
    SubAck(NonZeroU16, Vec<ReasonCode>),
    UnsubAck(NonZeroU16, Vec<ReasonCode>),
    PingResp,
    Disconnect(ReasonCode),
    /// Only servers get these; kept as they are for [`crate::Recorder`].
    Connect(Box<Connect>),
    Subscribe(Box<Subscribe>),
    PingReq,
    /// Anything that nobody should have sent.
    Other(wire::PacketType),
}

impl Incoming {
    fn of(packet: Packet<'_>) -> Incoming {
        match packet {
            Packet::Publish(publish) => Incoming::Publish(Received {
                topic: publish.topic.to_owned(),
                payload: publish.payload.to_vec(),
                qos: publish.qos,
                dup: publish.dup,
                retain: publish.retain,
                packet_id: publish.packet_id,
                block: publish.properties.block().to_vec(),
            }),
            Packet::PubAck(Ack { packet_id, reason, .. }) => Incoming::PubAck(packet_id, reason),
            Packet::PubRec(Ack { packet_id, reason, .. }) => Incoming::PubRec(packet_id, reason),
            Packet::PubRel(Ack { packet_id, reason, .. }) => Incoming::PubRel(packet_id, reason),
            Packet::PubComp(Ack { packet_id, reason, .. }) => Incoming::PubComp(packet_id, reason),
            Packet::ConnAck(ack) => Incoming::ConnAck(ack),
            Packet::SubAck(ack) => Incoming::SubAck(ack.packet_id, ack.reasons),
            Packet::UnsubAck(ack) => Incoming::UnsubAck(ack.packet_id, ack.reasons),
            Packet::PingResp => Incoming::PingResp,
            Packet::PingReq => Incoming::PingReq,
            Packet::Disconnect(disconnect) => Incoming::Disconnect(disconnect.reason),
            Packet::Connect(connect) => Incoming::Connect(connect),
            Packet::Subscribe(subscribe) => Incoming::Subscribe(subscribe),
            other => Incoming::Other(other.packet_type()),
        }
    }
}

/// What may lie between a socket and MQTT: TLS, WebSocket.
pub trait Above: io::Read + io::Write + Send {}

impl<T: io::Read + io::Write + Send> Above for T {}

/// Packets over a socket.
pub struct Connection {
    stream: TcpStream,
    above: Option<Box<dyn Above>>,
    version: Version,
    unread: Vec<u8>,
}

impl Connection {
    /// Connects to `address` and sends nothing yet.
    pub fn open(address: SocketAddr, version: Version) -> io::Result<Connection> {
        Connection::over(TcpStream::connect_timeout(&address, PATIENCE)?, version)
    }

    /// Over a socket that is there.
    pub fn over(stream: TcpStream, version: Version) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, above: None, version, unread: Vec::new() })
    }

    /// Through a layer over a socket that is there.
    pub fn through(
        stream: TcpStream,
        above: impl Above + 'static,
        version: Version,
    ) -> io::Result<Connection> {
        Ok(Connection { above: Some(Box::new(above)), ..Connection::over(stream, version)? })
    }

    /// Over a Unix socket.
    pub fn open_unix(path: &Path, version: Version) -> io::Result<Connection> {
        let stream = std::os::unix::net::UnixStream::connect(path)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // Reading, writing, timeouts and closing are the same calls for both.
        let stream = TcpStream::from(std::os::fd::OwnedFd::from(stream));
        Ok(Connection { stream, above: None, version, unread: Vec::new() })
    }

    /// Over TLS.
    pub fn open_tls(address: SocketAddr, version: Version, trust: &Trust) -> io::Result<Connection> {
        let secured = trust.connect(address)?;
        Connection::through(secured.sock.try_clone()?, secured, version)
    }

    /// The version that packets are read and written in.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Changes the version, for a server that has seen CONNECT.
    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.above {
            None => self.stream.write_all(bytes),
            Some(above) => above.write_all(bytes).and_then(|()| above.flush()),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.above {
            None => self.stream.read(buffer),
            Some(above) => above.read(buffer),
        }
    }

    /// The next packet; `None` if none came in time; `Err` once the connection is over.
    pub fn receive(&mut self, time: Duration) -> io::Result<Option<Incoming>> {
        let deadline = Instant::now() + time;
        let mut buffer = [0; 64 << 10];
        loop {
            if let Some(packet) = self.take_unread()? {
                return Ok(Some(packet));
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            // A timeout of 0 would mean none at all.
            self.stream.set_read_timeout(Some(rest.max(Duration::from_millis(1))))?;
            match self.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.unread.extend_from_slice(&buffer[..len]),
                Err(error) if is_timeout(&error) => {
                    if Instant::now() >= deadline {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn take_unread(&mut self) -> io::Result<Option<Incoming>> {
        let Some(frame) = wire::split(&self.unread, PACKET_BYTES_MAX).map_err(io::Error::other)? else {
            return Ok(None);
        };
        let len = frame.total_len();
        let packet = Incoming::of(wire::decode(frame, self.version).map_err(io::Error::other)?);
        self.unread.drain(..len);
        Ok(Some(packet))
    }

    /// Sends a CONNECT and reads its CONNACK.
    pub fn greet(&mut self, connect: &Connect) -> io::Result<wire::ConnAck> {
        let mut out = Vec::new();
        wire::encode_connect(&mut out, connect).map_err(io::Error::other)?;
        self.write(&out)?;
        match self.receive(PATIENCE)? {
            Some(Incoming::ConnAck(ack)) => Ok(*ack),
            Some(other) => Err(io::Error::other(format!("not CONNACK, but {other:?}"))),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Sends a PUBLISH.
    pub fn publish(&mut self, publish: &OutgoingPublish<'_>) -> io::Result<()> {
        let mut out = Vec::new();
        wire::encode_publish(&mut out, self.version, publish).map_err(io::Error::other)?;
        self.write(&out)
    }

    /// Sends a PUBACK.
    pub fn acknowledge(&mut self, packet_id: NonZeroU16) -> io::Result<()> {
        self.answer(AckKind::PubAck, packet_id)
    }

    /// Sends one of the four acknowledgements.
    pub fn answer(&mut self, kind: AckKind, packet_id: NonZeroU16) -> io::Result<()> {
        let mut out = Vec::new();
        wire::encode_ack(&mut out, self.version, kind, packet_id, ReasonCode::SUCCESS);
        self.write(&out)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("stream", &self.stream).finish_non_exhaustive()
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// How a connection ended, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The reason of the DISCONNECT that came before, if one did.
    pub reason: Option<ReasonCode>,
}

/// A connected client whose every step must succeed.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    /// What CONNACK said.
    pub greeting: wire::ConnAck,
    next_id: NonZeroU16,
    inbox: VecDeque<Received>,
    acked: Vec<(NonZeroU16, ReasonCode)>,
    manual: bool,
}

impl Client {
    /// Connects a client that must be accepted.
    #[track_caller]
    pub fn connect(address: SocketAddr, connect: &Connect) -> Client {
        let client = Client::try_connect(address, connect).expect("a CONNACK");
        assert_eq!(client.greeting.reason, ReasonCode::SUCCESS, "{:?} is accepted", connect.client_id);
        client
    }

    /// Connects; what CONNACK says is in `greeting`.
    pub fn try_connect(address: SocketAddr, connect: &Connect) -> io::Result<Client> {
        Client::over(Connection::open(address, connect.version)?, connect)
    }

    /// Connects through a connection that is there; what CONNACK says is in `greeting`.
    pub fn over(mut connection: Connection, connect: &Connect) -> io::Result<Client> {
        let greeting = connection.greet(connect)?;
        Ok(Client {
            connection,
            greeting,
            next_id: NonZeroU16::MIN,
            inbox: VecDeque::new(),
            acked: Vec::new(),
            manual: false,
        })
    }

    /// Leaves acknowledgements to the test.
    #[must_use]
    pub fn manual(mut self) -> Client {
        self.manual = true;
        self
    }

    /// The packets below.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Gives up the session's comforts.
    pub fn into_connection(self) -> Connection {
        self.connection
    }

    fn new_id(&mut self) -> NonZeroU16 {
        let id = self.next_id;
        self.next_id = id.checked_add(1).unwrap_or(NonZeroU16::MIN);
        id
    }

    /// Subscribes to one filter, which must be granted as asked.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, qos: Qos) {
        let reasons = self.subscribe_with(vec![Subscription::new(filter, qos)], None);
        assert_eq!(reasons, [ReasonCode::granted(qos)], "subscribing to {filter}");
    }

    /// Subscribes; the reasons of SUBACK.
    #[track_caller]
    pub fn subscribe_with(&mut self, subscriptions: Vec<Subscription>, id: Option<u32>) -> Vec<ReasonCode> {
        let packet_id = self.new_id();
        let subscription_id = id.and_then(NonZeroU32::new);
        let subscribe = Subscribe { packet_id, subscription_id, user_properties: Vec::new(), subscriptions };
        let mut out = Vec::new();
        wire::encode_subscribe(&mut out, self.connection.version, &subscribe).expect("a legal SUBSCRIBE");
        self.write(&out);
        loop {
            match self.next_packet("SUBACK") {
                Incoming::SubAck(id, reasons) if id == packet_id => return reasons,
                packet => self.keep(packet),
            }
        }
    }

    /// Unsubscribes from one filter; the reason of UNSUBACK, if the version has one.
    #[track_caller]
    pub fn unsubscribe(&mut self, filter: &str) -> Option<ReasonCode> {
        let packet_id = self.new_id();
        let unsubscribe =
            Unsubscribe { packet_id, user_properties: Vec::new(), filters: vec![filter.to_owned()] };
        let mut out = Vec::new();
        wire::encode_unsubscribe(&mut out, self.connection.version, &unsubscribe)
            .expect("a legal UNSUBSCRIBE");
        self.write(&out);
        loop {
            match self.next_packet("UNSUBACK") {
                Incoming::UnsubAck(id, reasons) if id == packet_id => return reasons.first().copied(),
                packet => self.keep(packet),
            }
        }
    }

    /// Publishes, and waits for its PUBACK with QoS 1, for its PUBCOMP with QoS 2.
    #[track_caller]
    pub fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: Qos) {
        self.publish_with(&OutgoingPublish { topic, payload: payload.as_ref(), qos, ..Default::default() });
    }

    /// Publishes with every field one likes but the packet identifier; waits as [`Client::publish`] does.
    #[track_caller]
    pub fn publish_with(&mut self, publish: &OutgoingPublish<'_>) {
        if let Some(id) = self.send(publish) {
            self.await_ack(id);
        }
    }

    /// Sends a PUBLISH and does not wait; its packet identifier, with QoS 1 and 2.
    #[track_caller]
    pub fn send(&mut self, publish: &OutgoingPublish<'_>) -> Option<NonZeroU16> {
        let id = (publish.qos != QOS_0).then(|| self.new_id());
        let sent = self.connection.publish(&OutgoingPublish { packet_id: id, ..*publish });
        sent.expect("the connection takes a PUBLISH");
        id
    }

    /// Publishes a burst with QoS 1, then waits until all of it is acknowledged.
    #[track_caller]
    pub fn publish_all<P: AsRef<[u8]>>(&mut self, topic: &str, payloads: impl IntoIterator<Item = P>) {
        let mut out = Vec::new();
        let mut ids = Vec::new();
        for payload in payloads {
            let packet_id = Some(self.new_id());
            ids.extend(packet_id);
            let publish = OutgoingPublish {
                topic,
                payload: payload.as_ref(),
                qos: QOS_1,
                packet_id,
                ..Default::default()
            };
            wire::encode_publish(&mut out, self.connection.version, &publish).expect("a legal PUBLISH");
        }
        self.write(&out);
        for id in ids {
            self.await_ack(id);
        }
    }

    /// Waits for the PUBACK or PUBCOMP of one packet identifier, which must say success.
    #[track_caller]
    pub fn await_ack(&mut self, packet_id: NonZeroU16) {
        let reason = self.await_reason(packet_id);
        assert!(!reason.is_error(), "PUBACK of {packet_id}: {reason:?}");
    }

    /// Whether a PUBACK or PUBCOMP has come among the packets that were read so far.
    pub fn has_ack(&self, packet_id: NonZeroU16) -> bool {
        self.acked.iter().any(|(id, _)| *id == packet_id)
    }

    /// Publishes with QoS 1; what its PUBACK says.
    #[track_caller]
    pub fn reason_of(&mut self, publish: &OutgoingPublish<'_>) -> ReasonCode {
        let id = self.send(publish).expect("QoS 1");
        self.await_reason(id)
    }

    #[track_caller]
    fn await_reason(&mut self, packet_id: NonZeroU16) -> ReasonCode {
        loop {
            if let Some(at) = self.acked.iter().position(|(id, _)| *id == packet_id) {
                return self.acked.swap_remove(at).1;
            }
            let packet = self.next_packet("PUBACK or PUBCOMP");
            self.keep(packet);
        }
    }

    /// The next message.
    #[track_caller]
    pub fn message(&mut self) -> Received {
        match self.message_within(PATIENCE) {
            Some(message) => message,
            None => panic!("waited {} s in vain for a message", PATIENCE.as_secs()),
        }
    }

    /// The next message, if one comes in time.
    #[track_caller]
    pub fn message_within(&mut self, time: Duration) -> Option<Received> {
        let deadline = Instant::now() + time;
        loop {
            if let Some(message) = self.inbox.pop_front() {
                return Some(message);
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            let packet = self.connection.receive(rest).expect("the connection stays")?;
            self.keep(packet);
        }
    }

    /// The next messages.
    #[track_caller]
    pub fn messages(&mut self, count: usize) -> Vec<Received> {
        let mut messages = Vec::with_capacity(count);
        for have in 0..count {
            match self.message_within(PATIENCE) {
                Some(message) => messages.push(message),
                None => panic!("waited in vain for message {} of {count}", have + 1),
            }
        }
        messages
    }

    /// The payloads of the next messages, as text.
    #[track_caller]
    pub fn texts(&mut self, count: usize) -> Vec<String> {
        self.messages(count).iter().map(|message| message.text().to_owned()).collect()
    }

    /// Answers a message with PUBACK or PUBREC, for a [`Client::manual`] one.
    #[track_caller]
    pub fn acknowledge(&mut self, message: &Received) {
        let kind = if message.qos == QOS_2 { AckKind::PubRec } else { AckKind::PubAck };
        if let Some(id) = message.packet_id {
            self.answer(kind, id);
        }
    }

    /// Sends one of the four acknowledgements.
    #[track_caller]
    pub fn answer(&mut self, kind: AckKind, packet_id: NonZeroU16) {
        self.connection.answer(kind, packet_id).expect("the connection takes an acknowledgement");
    }

    /// A PINGREQ and its PINGRESP: everything sent before has been dealt with.
    #[track_caller]
    pub fn ping(&mut self) {
        self.write(&[0xC0, 0]);
        loop {
            match self.next_packet("PINGRESP") {
                Incoming::PingResp => return,
                packet => self.keep(packet),
            }
        }
    }

    /// How the server ends the connection; messages on the way are passed over.
    #[track_caller]
    pub fn ending(&mut self) -> Ending {
        let mut reason = None;
        loop {
            match self.connection.receive(PATIENCE) {
                Ok(Some(Incoming::Disconnect(why))) => reason = Some(why),
                Ok(Some(_)) => {}
                Ok(None) => panic!("waited in vain for the server to close the connection"),
                Err(_) => return Ending { reason },
            }
        }
    }

    /// Says goodbye and waits until the server has closed.
    #[track_caller]
    pub fn disconnect(self) {
        self.disconnect_with(&Disconnect::new(ReasonCode::NORMAL_DISCONNECTION));
    }

    /// Says goodbye in words of one's own and waits until the server has closed.
    #[track_caller]
    pub fn disconnect_with(mut self, goodbye: &Disconnect) {
        let mut out = Vec::new();
        wire::encode_disconnect(&mut out, self.connection.version, goodbye).expect("a legal DISCONNECT");
        self.write(&out);
        self.ending();
    }

    /// Is gone, without a word.
    pub fn vanish(self) {
        // Whether the socket still lives or not: it is gone afterwards.
        self.connection.stream.shutdown(std::net::Shutdown::Both).ok();
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        self.connection.write(bytes).expect("the connection takes bytes");
    }

    #[track_caller]
    fn next_packet(&mut self, wanted: &str) -> Incoming {
        match self.connection.receive(PATIENCE) {
            Ok(Some(packet)) => packet,
            Ok(None) => panic!("waited {} s in vain for {wanted}", PATIENCE.as_secs()),
            Err(error) => panic!("the connection ended instead of {wanted}: {error}"),
        }
    }

    #[track_caller]
    fn keep(&mut self, packet: Incoming) {
        match packet {
            Incoming::Publish(message) => {
                if !self.manual {
                    self.acknowledge(&message);
                }
                self.inbox.push_back(message);
            }
            Incoming::PubAck(id, reason) | Incoming::PubComp(id, reason) => self.acked.push((id, reason)),
            Incoming::PubRec(id, reason) if reason.is_error() => self.acked.push((id, reason)),
            Incoming::PubRec(id, _) => self.answer(AckKind::PubRel, id),
            Incoming::PubRel(id, _) => self.answer(AckKind::PubComp, id),
            other => panic!("nobody asked for {other:?}"),
        }
    }
}
