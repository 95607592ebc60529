//! One MQTT 3.1.1 connection: reads packets, checks each rule of IoT Hub, answers.
//!
//! In: a stream, the client's certificates. Out: records and events in the state. What breaks a rule is noted as a
//! `violation` with a sentence and ends the connection, as the service ends it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use model::Qos;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until, timeout};
use wire::{Connect, Packet, PacketType, Version, Will};

use crate::admission::admit;
use crate::faults::Farewell;
use crate::hub::Shared;
use crate::state::{Link, OUTBOX_MAX, Out, Telemetry, puback};
use crate::topics::{self, Feature, Request};

/// Largest packet, as IoT Hub's and edgeHub's.
pub const PACKET_BYTES_MAX: u32 = 256 << 10;
/// How long a client may take until its CONNECT is there.
const CONNECT_ARRIVAL: Duration = Duration::from_secs(60);
/// What the service takes for a keep-alive of 0 and for longer ones.
const KEEP_ALIVE_SECS_MAX: u64 = 1_767;
/// How long a connection that is told to end may still send.
const FAREWELL: Duration = Duration::from_secs(2);

/// Makes the end of a connection another one than a polite one.
pub(crate) type Abort = Arc<dyn Fn(Farewell) + Send + Sync>;

/// Packets of a stream.
struct Reader<S> {
    stream: ReadHalf<S>,
    buffer: Vec<u8>,
    used: usize,
}

impl<S: AsyncRead> Reader<S> {
    /// Lets `look` see the next packet; `None` at the end of the stream.
    async fn next<T>(&mut self, look: impl FnOnce(Packet<'_>) -> T) -> Result<Option<T>, String> {
        loop {
            let bytes = &self.buffer[self.used..];
            match wire::split(bytes, PACKET_BYTES_MAX) {
                Err(error) => return Err(error.to_string()),
                Ok(Some(frame)) => {
                    let length = frame.total_len();
                    let packet = wire::decode(frame, Version::V3).map_err(|error| error.to_string())?;
                    let seen = look(packet);
                    self.used += length;
                    return Ok(Some(seen));
                }
                Ok(None) => {}
            }
            self.buffer.drain(..self.used);
            self.used = 0;
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
            }
        }
    }
}

/// What the next packet asks for, taken off the buffer.
enum Asked {
    Publish { topic: String, payload: Vec<u8>, qos: Qos, packet_id: Option<u16>, dup: bool, retain: bool },
    PubAck(u16),
    Subscribe(u16, Vec<(String, Qos)>),
    Unsubscribe(u16, Vec<String>),
    Ping,
    Disconnect,
    Connect(Box<Connect>),
    Other(PacketType),
}

fn own(packet: Packet<'_>) -> Asked {
    match packet {
        Packet::Publish(it) => Asked::Publish {
            topic: it.topic.to_owned(),
            payload: it.payload.to_vec(),
            qos: it.qos,
            packet_id: it.packet_id.map(Into::into),
            dup: it.dup,
            retain: it.retain,
        },
        Packet::PubAck(it) => Asked::PubAck(it.packet_id.get()),
        Packet::Subscribe(it) => {
            let filters = it.subscriptions.into_iter().map(|it| (it.filter, it.qos)).collect();
            Asked::Subscribe(it.packet_id.get(), filters)
        }
        Packet::Unsubscribe(it) => Asked::Unsubscribe(it.packet_id.get(), it.filters),
        Packet::PingReq => Asked::Ping,
        Packet::Disconnect(_) => Asked::Disconnect,
        Packet::Connect(it) => Asked::Connect(it),
        other => Asked::Other(other.packet_type()),
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve<S>(
    shared: Arc<Shared>,
    stream: S,
    chain: Vec<CertificateDer<'static>>,
    transport: &'static str,
    abort: Abort,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, mut writer) = split(stream);
    let mut reader = Reader { stream: reader, buffer: Vec::new(), used: 0 };
    let first = match timeout(CONNECT_ARRIVAL, reader.next(own)).await {
        Err(_) => return shared.state().note("violation", "", "no CONNECT within 60 s"),
        Ok(Ok(None)) => return shared.state().note("closed", "", format!("{transport}: before CONNECT")),
        Ok(Ok(Some(asked))) => Ok(asked),
        Ok(Err(why)) => Err(why),
    };
    let connect = match first {
        Ok(Asked::Connect(connect)) => connect,
        Ok(_) => return shared.state().note("violation", "", "the first packet is no CONNECT"),
        Err(why) => {
            // 3.1.1 §3.1.2.2: the one mistake that is answered.
            writer.write_all(&[0x20, 2, 0, 1]).await.ok();
            return shared.state().note("violation", "", format!("instead of CONNECT: {why}"));
        }
    };
    if connect.version != Version::V3 {
        writer.write_all(&[0x20, 2, 0, 1]).await.ok();
        return shared.state().note(
            "violation",
            &connect.client_id,
            "a CONNECT of another version than 3.1.1",
        );
    }
    let id = connect.client_id.clone();
    let (faults, admitted, number) = {
        let mut state = shared.state();
        let faults = state.faults(&id);
        let refusal = state.active(&id).and_then(crate::faults::Active::refusal);
        let admitted = match refusal {
            Some(code) => Err((code, "on command".to_owned())),
            None => admit(&state, &shared.host, &connect, &chain).map_err(|it| (it.code, it.why)),
        };
        state.connections += 1;
        (faults, admitted, state.connections)
    };
    if faults.ignore_connect {
        shared.state().note("ignored", &id, "CONNECT, on command");
        // Until the client gives up.
        while let Ok(Some(())) = reader.next(|_| ()).await {}
        return;
    }
    sleep(Duration::from_millis(faults.connack_delay_ms)).await;
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err((code, why)) => {
            shared.state().note("refused", &id, format!("{code}: {why}"));
            writer.write_all(&[0x20, 2, 0, code]).await.ok();
            writer.shutdown().await.ok();
            return;
        }
    };

    let (out, outs) = mpsc::channel(OUTBOX_MAX);
    let name = admitted.name;
    let link = Link {
        number,
        out: out.clone(),
        transport,
        product_info: name.product_info.clone(),
        model_id: name.model_id.clone(),
        auth_chain: name.auth_chain.clone(),
        api_version: name.api_version.clone(),
        clean_session: connect.clean_start,
        keep_alive_secs: connect.keep_alive_secs,
    };
    {
        let mut state = shared.state();
        let present = state.connected(&id, link);
        // Before anything else that the session may send.
        out.try_send(Out::Bytes(vec![0x20, 2, u8::from(present), 0], Instant::now())).ok();
        state.deliver(&id);
    }
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        write(writer, outs, abort).await;
        ended.send(()).ok();
    });

    let device_id = name.device_id;
    let session =
        Connection { shared: Arc::clone(&shared), id, device_id, module_id: name.module_id, number, out };
    let why = tokio::select! {
        why = session.read(&mut reader, &connect) => why,
        _ = end => Ended::Quiet("closed by the hub".into()),
        () = until(admitted.until, &shared) => Ended::Quiet("its token is over".into()),
    };
    session.end(why, connect.will.as_ref());
    drop(session);
    if faults.no_goodbye {
        // Bytes that nobody reads would make a reset of it.
        timeout(FAREWELL, async { while let Ok(Some(())) = reader.next(|_| ()).await {} }).await.ok();
    }
    // What is on its way, the last acknowledgements, may still leave; a client that does not read is cut off.
    let cut_off = writing.abort_handle();
    timeout(FAREWELL, writing).await.ok();
    cut_off.abort();
}

/// Waits until a token is over by the hub's clock.
async fn until(end: Option<SystemTime>, shared: &Shared) {
    let Some(end) = end else { return std::future::pending().await };
    loop {
        // The clock can be moved by a fault: look again, but not often.
        let now = shared.state().wall_clock();
        match end.duration_since(now) {
            Err(_) => return,
            Ok(rest) => sleep(rest.min(Duration::from_millis(200))).await,
        }
    }
}

async fn write<S: AsyncWrite>(mut writer: WriteHalf<S>, mut outs: mpsc::Receiver<Out>, abort: Abort) {
    while let Some(out) = outs.recv().await {
        match out {
            Out::Bytes(bytes, at) => {
                sleep_until(at.into()).await;
                if writer.write_all(&bytes).await.is_err()
                    || (outs.is_empty() && writer.flush().await.is_err())
                {
                    return;
                }
            }
            Out::Close(farewell) => {
                match farewell {
                    Farewell::Polite => drop(writer.shutdown().await),
                    Farewell::Reset => abort(farewell),
                    Farewell::Bare => {
                        writer.flush().await.ok();
                        abort(farewell);
                    }
                }
                return;
            }
        }
    }
    writer.shutdown().await.ok();
}

/// How a connection ended.
enum Ended {
    /// With DISCONNECT: no last will.
    Goodbye,
    /// Otherwise.
    Quiet(String),
    /// The client broke a rule.
    Violation(String),
}

struct Connection {
    shared: Arc<Shared>,
    id: String,
    device_id: String,
    module_id: Option<String>,
    number: u64,
    out: mpsc::Sender<Out>,
}

impl Connection {
    async fn read<S: AsyncRead>(&self, reader: &mut Reader<S>, connect: &Connect) -> Ended {
        let keep_alive = match u64::from(connect.keep_alive_secs) {
            0 => KEEP_ALIVE_SECS_MAX,
            secs => secs.min(KEEP_ALIVE_SECS_MAX),
        };
        let patience = Duration::from_secs(keep_alive).mul_f64(1.5);
        loop {
            let asked = match timeout(patience, reader.next(own)).await {
                Err(_) => return Ended::Quiet(format!("nothing came within {} s", patience.as_secs())),
                Ok(Ok(None)) => return Ended::Quiet("closed by the client".into()),
                Ok(Err(why)) => return Ended::Violation(why),
                Ok(Ok(Some(asked))) => asked,
            };
            if let Err(ended) = self.on(asked).await {
                return ended;
            }
        }
    }

    async fn on(&self, asked: Asked) -> Result<(), Ended> {
        match asked {
            Asked::Publish { topic, payload, qos, packet_id, dup, retain } => {
                if qos == Qos::ExactlyOnce {
                    return Err(Ended::Violation("a PUBLISH with QoS 2".into()));
                }
                let request = topics::request(&topic, &self.device_id, self.module_id.as_deref());
                let request = request.map_err(Ended::Violation)?;
                match request {
                    Request::Telemetry(bag) => {
                        let mut properties = bag.application;
                        if retain {
                            properties.push(("x-opt-retain".into(), "true".into()));
                        }
                        let message = self.message(bag.system, properties, payload);
                        let message = Telemetry { topic, dup, qos: qos.bits(), ..message };
                        self.on_telemetry(message, packet_id).await
                    }
                    other => {
                        self.on_request(other, &payload)?;
                        if let Some(packet_id) = packet_id {
                            self.send(puback(packet_id)).await;
                        }
                        Ok(())
                    }
                }
            }
            Asked::PubAck(packet_id) => {
                let mut state = self.shared.state();
                state.acknowledged(&self.id, packet_id);
                Ok(())
            }
            Asked::Subscribe(packet_id, filters) => self.on_subscribe(packet_id, filters).await,
            Asked::Unsubscribe(packet_id, filters) => {
                {
                    let mut state = self.shared.state();
                    if let Some(session) = state.sessions.get_mut(&self.id) {
                        session.filters.retain(|_, (filter, _)| !filters.contains(filter));
                    }
                    state.note("unsubscribed", &self.id, filters.join(" "));
                }
                let [high, low] = packet_id.to_be_bytes();
                self.send(vec![0xB0, 2, high, low]).await;
                Ok(())
            }
            Asked::Ping => {
                let ignored = self.shared.state().faults(&self.id).ignore_ping;
                if !ignored {
                    self.send(vec![0xD0, 0]).await;
                }
                Ok(())
            }
            Asked::Disconnect => Err(Ended::Goodbye),
            Asked::Connect(_) => Err(Ended::Violation("a second CONNECT".into())),
            Asked::Other(kind) => Err(Ended::Violation(format!("a client does not send {kind}"))),
        }
    }

    fn message(&self, system: crate::bag::Pairs, properties: crate::bag::Pairs, body: Vec<u8>) -> Telemetry {
        Telemetry {
            number: 0,
            at: Duration::ZERO,
            device_id: self.device_id.clone(),
            module_id: self.module_id.clone(),
            topic: String::new(),
            system,
            properties,
            body,
            dup: false,
            qos: 0,
            connection: self.number,
            will: false,
        }
    }

    async fn on_telemetry(&self, message: Telemetry, packet_id: Option<u16>) -> Result<(), Ended> {
        let (verdict, farewell) = {
            let mut state = self.shared.state();
            let verdict = state.judge(&self.id, &message.body);
            if verdict.throttled {
                state.note(
                    "throttled",
                    &self.id,
                    if verdict.record { "acknowledged later" } else { "not taken" },
                );
            }
            if verdict.record {
                state.record(message);
            }
            if let (true, Some(packet_id)) = (verdict.withhold, packet_id)
                && let Some(session) = state.sessions.get_mut(&self.id)
            {
                session.withheld.push(packet_id);
            }
            (verdict, state.faults(&self.id).farewell())
        };
        if let (Some(delay), Some(packet_id)) = (verdict.acknowledge, packet_id) {
            self.send_at(puback(packet_id), Instant::now() + delay).await;
        }
        if verdict.close {
            let why = if verdict.throttled { "throttled" } else { "on command" };
            self.out.send(Out::Close(farewell)).await.ok();
            return Err(Ended::Quiet(format!("closed by the hub: {why}")));
        }
        Ok(())
    }

    fn on_request(&self, request: Request, payload: &[u8]) -> Result<(), Ended> {
        let mut state = self.shared.state();
        let faults = state.faults(&self.id);
        let (rid, status, version, body) = match request {
            Request::MethodAnswer { status, rid } => {
                let payload = match payload {
                    [] => Value::Null,
                    text => serde_json::from_slice(text).map_err(|error| {
                        Ended::Violation(format!("the answer to a method is not JSON: {error}"))
                    })?,
                };
                if !state.answered(&self.id, &rid, status, payload) {
                    state.note("method-late", &self.id, format!("nobody waits for an answer to {rid}"));
                }
                return Ok(());
            }
            Request::Telemetry(_) => return Ok(()),
            _ if faults.twin_silence => return Ok(()),
            Request::TwinGet { rid } if faults.twin_status.is_none() => {
                state.note("twin-get", &self.id, rid.as_str());
                let twin = state.twins.entry(self.id.clone()).or_default();
                (rid, 200, None, twin.document().to_string())
            }
            Request::TwinPatch { rid } if faults.twin_status.is_none() => {
                let patch: Result<Value, _> = serde_json::from_slice(payload);
                let twin = state.twins.entry(self.id.clone()).or_default();
                let done =
                    patch.map_err(|error| error.to_string()).and_then(|patch| twin.reported.patch(&patch));
                match done {
                    Ok(version) => {
                        state.note("twin-patch", &self.id, String::from_utf8_lossy(payload));
                        (rid, 204, Some(version), String::new())
                    }
                    Err(why) => {
                        state.note("twin-refused", &self.id, why.as_str());
                        (
                            rid,
                            400,
                            None,
                            serde_json::json!({"errorCode": 400_000, "message": why}).to_string(),
                        )
                    }
                }
            }
            Request::TwinGet { rid } | Request::TwinPatch { rid } => {
                (rid, faults.twin_status.unwrap_or(500), None, r#"{"message":"on command"}"#.to_owned())
            }
        };
        let mut topic = format!("$iothub/twin/res/{status}/?$rid={}", crate::bag::encode(&rid));
        if let Some(version) = version {
            topic.push_str(&format!("&$version={version}"));
        }
        if !state.publish(&self.id, Feature::TwinAnswers, &topic, body.as_bytes()) {
            return Err(Ended::Violation(
                "a request about the twin without a subscription to the answers".into(),
            ));
        }
        Ok(())
    }

    async fn on_subscribe(&self, packet_id: u16, filters: Vec<(String, Qos)>) -> Result<(), Ended> {
        let mut answer = vec![0x90, 2 + filters.len() as u8];
        answer.extend_from_slice(&packet_id.to_be_bytes());
        let mut wrong = None;
        {
            let mut state = self.shared.state();
            for (filter, qos) in filters {
                match topics::feature(&filter, &self.device_id, self.module_id.as_deref()) {
                    Ok(feature) => {
                        let granted = qos.min(Qos::AtLeastOnce);
                        answer.push(granted.bits());
                        state.note("subscribed", &self.id, format!("{filter} {}", qos.bits()));
                        if let Some(session) = state.sessions.get_mut(&self.id) {
                            session.filters.insert(feature, (filter, granted));
                        }
                    }
                    Err(why) => {
                        answer.push(0x80);
                        wrong = Some(why);
                    }
                }
            }
        }
        self.send(answer).await;
        if let Some(why) = wrong {
            self.shared.state().note("violation", &self.id, why);
        }
        self.shared.state().deliver(&self.id);
        Ok(())
    }

    async fn send(&self, bytes: Vec<u8>) {
        self.send_at(bytes, Instant::now()).await;
    }

    /// Waits while the outbox is full: then the client is not read, either.
    async fn send_at(&self, bytes: Vec<u8>, at: Instant) {
        // Fails only if the writer is gone, which ends the session by itself.
        self.out.send(Out::Bytes(bytes, at)).await.ok();
    }

    fn end(&self, why: Ended, will: Option<&Will>) {
        let mut state = self.shared.state();
        let (text, polite) = match why {
            Ended::Goodbye => ("DISCONNECT".to_owned(), true),
            Ended::Quiet(why) => (why, false),
            Ended::Violation(why) => {
                state.note("violation", &self.id, why.as_str());
                (format!("closed by the hub: {why}"), false)
            }
        };
        if let Some(will) = will.filter(|_| !polite) {
            match topics::request(&will.topic, &self.device_id, self.module_id.as_deref()) {
                Ok(Request::Telemetry(bag)) => {
                    let mut properties = bag.application;
                    properties.push(("iothub-MessageType".into(), "Will".into()));
                    let message = self.message(bag.system, properties, will.payload.clone());
                    state.record(Telemetry { will: true, qos: will.qos.bits(), ..message });
                }
                _ => state.note("violation", &self.id, format!("a last will to {:?}", will.topic)),
            }
        }
        state.disconnected(&self.id, self.number, &text);
        drop(state);
        self.out.try_send(Out::Close(Farewell::Polite)).ok();
    }
}
