//! `bench dialect`: what the IoT Hub dialect costs: from an output of a module to an input of another one, and devices that come
//! with tokens over TLS, beside clients that show nothing.
//!
//! Knows: one gateway with its identity file and certificate; the few packets that this takes. May use: `contestants`, `stats`,
//! the tokens and certificates of the test hub. Out: a [`Table`].
//! How: one publisher (a window of 1 000, bursts of 100) and one subscriber that acknowledges everything, a thread each; the hop
//! at 1 000 messages a second, one each millisecond; then a thousand connections one after the other, which stay: time and CPU of
//! the router, and its memory half a second later. Each round has fresh processes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use iothub::{Authority, sas};
use loadgen::process::Sample as Process;
use loadgen::tls::TlsPlan;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use wire::{Connect, OutgoingPublish, Version};

use crate::child::free_port;
use crate::contestants::{Binaries, Routes, Running, System};
use crate::page::{Table, decimals, whole};
use crate::stats::Spread;

const HOST: &str = "gw.local";
const OUTPUT: &str = "devices/gw1/modules/filter/messages/events/%24.on=alert/";
const INPUTS: &str = "devices/gw1/modules/ml/#";
const ROUTE: &str =
    r#"FROM /messages/modules/filter/outputs/alert INTO BrokeredEndpoint("/modules/ml/inputs/in1")"#;
const MESSAGE_BYTES: usize = 256;
const BURST: usize = 100;
const WINDOW: usize = 1_000;
const DEVICES: usize = 1_000;
const HOPS: usize = 3_000;
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one read may wait.
const LOOK: Duration = Duration::from_millis(50);
/// Before memory is read.
const REST: Duration = Duration::from_millis(500);

/// What is asked of each durability, messages a second; and of a hop, microseconds at p99.
const TARGETS: [(&str, f64); 2] = [("memory", 50_000.0), ("disk", 20_000.0)];
const HOP_MICROS: f64 = 2_000.0;

/// What was found between an output and an input.
struct Hop {
    /// Messages a second.
    rate: f64,
    /// Bytes that the router sent to the disk for each.
    written: f64,
    /// Microseconds.
    p50: f64,
    p99: f64,
}

/// A gateway's files.
struct Site {
    folder: TempDir,
    keys: Vec<(String, String)>,
    connector: TlsConnector,
}

/// Measures everything.
pub(crate) async fn run(
    binaries: &Binaries,
    rounds: u32,
    seconds: f64,
    interrupted: impl Fn() -> bool,
) -> anyhow::Result<Option<Table>> {
    loadgen::process::allow_open_files(DEVICES as u64 + 500);
    let site = Site::new(&binaries.millrace)?;
    let mut rows = Vec::new();
    for (durability, target) in TARGETS {
        let (mut rates, mut written, mut middles, mut tails) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let found = site.hop(binaries, durability, seconds)?;
            rates.push(found.rate);
            written.push(found.written);
            middles.push(found.p50);
            tails.push(found.p99);
            if interrupted() {
                return Ok(None);
            }
        }
        let named = |what: &str| format!("output → input, {durability}: {what}");
        rows.push(row(&named("messages/s at QoS 1"), rates, 0, |it| (it >= target, format!("≥ {target}"))));
        rows.push(row(&named("bytes to the disk for each"), written, 0, |_| (true, String::new())));
        rows.push(row(&named("hop at 1 000/s, p50 µs"), middles, 0, |_| (true, String::new())));
        let limit = format!("< {HOP_MICROS}");
        rows.push(row(&named("hop at 1 000/s, p99 µs"), tails, 0, |it| (it < HOP_MICROS, limit.clone())));
    }
    for (name, is_identity) in [("with tokens", true), ("that show nothing", false)] {
        let (mut secs, mut cpu, mut memory) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (took, used, bytes) = site.connects(binaries, is_identity).await?;
            secs.push(took);
            cpu.push(used);
            memory.push(bytes / 1_024.0);
            if interrupted() {
                return Ok(None);
            }
        }
        let named = |what: &str| format!("{DEVICES} TLS connects {name}: {what}");
        for (what, values) in
            [("seconds", secs), ("CPU seconds of the router", cpu), ("KiB each, idle", memory)]
        {
            rows.push(row(&named(what), values, 2, |_| (true, String::new())));
        }
    }
    Ok(Some(Table {
        title: "dialect".to_owned(),
        question: format!(
            "What the IoT Hub dialect costs: messages of {MESSAGE_BYTES} B from an output of a module to an input of another one \
             over TCP, one sender with {WINDOW} on their way, for {seconds} s; devices that connect over TLS 1.3, one after the \
             other. Medians of {rounds} rounds with minimum and maximum."
        ),
        columns: ["what", "found", "wanted"].map(str::to_owned).into(),
        rows,
    }))
}

fn row(what: &str, values: Vec<f64>, places: usize, judge: impl Fn(f64) -> (bool, String)) -> Vec<String> {
    let Some(spread) = Spread::of(values) else {
        return vec![what.to_owned(), "not there".to_owned(), String::new()];
    };
    let found = if places == 0 { whole(&spread) } else { decimals(&spread, places) };
    let (is_reached, wanted) = judge(spread.median);
    let missed = if is_reached { "" } else { " MISSED" };
    vec![what.to_owned(), found, format!("{wanted}{missed}")]
}

impl Site {
    fn new(millrace: &Path) -> anyhow::Result<Site> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let authority = Authority::new("bench");
        let server = authority.server(&[HOST], time::Duration::hours(-1), time::Duration::days(30));
        std::fs::write(at("ca.pem"), authority.pem())?;
        std::fs::write(at("cert.pem"), server.certificate)?;
        std::fs::write(at("key.pem"), server.key)?;
        let file = at("identities.json");
        for arguments in [&["gw1", "--edge"][..], &["gw1/filter"], &["gw1/ml"], &["d1"]] {
            let made = Command::new(millrace)
                .args(["identity", "--file"])
                .arg(&file)
                .arg("create")
                .args(arguments)
                .output()
                .context("millrace identity cannot be run")?;
            if !made.status.success() {
                bail!("millrace identity: {}", String::from_utf8_lossy(&made.stderr));
            }
        }
        let mut document: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let devices = document["devices"].as_array_mut().context("an identity file has devices")?;
        let one = devices.iter().find(|device| device["deviceId"] == "d1").context("d1 is there")?.clone();
        devices.extend((0..DEVICES).map(|number| {
            let mut device = one.clone();
            device["deviceId"] = json!(name_of(number));
            device
        }));
        std::fs::write(&file, document.to_string())?;
        let mut keys = Vec::new();
        for list in ["devices", "modules"] {
            for identity in document[list].as_array().into_iter().flatten() {
                let device = identity["deviceId"].as_str().unwrap_or_default();
                let id = match identity["moduleId"].as_str() {
                    Some(module) => format!("{device}/{module}"),
                    None => device.to_owned(),
                };
                let key =
                    identity["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap_or_default();
                keys.push((id, key.to_owned()));
            }
        }
        let plan = TlsPlan { ca: Some(at("ca.pem")), ..TlsPlan::default() };
        let connector = plan.connector()?;
        Ok(Site { folder, keys, connector })
    }

    /// A router, fresh, and where it takes TLS.
    fn start(&self, binaries: &Binaries, more: &[String]) -> anyhow::Result<(Running, SocketAddr)> {
        let tls = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let at = |name: &str| format!("{:?}", self.folder.path().join(name));
        let mut set = binaries.set.clone();
        set.extend(
            [
                ("auth.anonymous", "false".to_owned()),
                ("routing.mode", "\"edgehub\"".to_owned()),
                ("edge.device_id", "\"gw1\"".to_owned()),
                ("edge.host_name", format!("{HOST:?}")),
                ("edge.identities", at("identities.json")),
                ("edge.cert", at("cert.pem")),
                ("edge.key", at("key.pem")),
                ("edge.trust_bundle", at("ca.pem")),
                ("listener.tcp.identities", "\"iothub\"".to_owned()),
                ("listener.tls.bind", format!("\"{tls}\"")),
                ("listener.tls.certificate", "\"edge\"".to_owned()),
            ]
            .map(|(key, value)| format!("{key}={value}")),
        );
        set.extend_from_slice(more);
        let binaries = Binaries { set, ..binaries.clone() };
        Ok((binaries.start(System::Millrace, Routes::None)?, tls))
    }

    /// CONNECT of an identity.
    fn hello(&self, id: &str) -> anyhow::Result<Vec<u8>> {
        let (_, key) = self.keys.iter().find(|(have, _)| have == id).context("an identity of the file")?;
        let expiry = SystemTime::now() + Duration::from_secs(3_600);
        let (device, module) =
            id.split_once('/').map_or((id, None), |(device, module)| (device, Some(module)));
        let mut connect = Connect::new(Version::V3, id);
        connect.user_name = Some(format!("{HOST}/{id}/?api-version=2021-04-12"));
        connect.password = Some(sas::token(HOST, device, module, key, expiry).into_bytes());
        connect.keep_alive_secs = 0;
        let mut bytes = Vec::new();
        wire::encode_connect(&mut bytes, &connect)?;
        Ok(bytes)
    }

    /// Connects a module over TCP.
    fn enter(&self, address: SocketAddr, id: &str) -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&self.hello(id)?)?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        is_welcome(answer, id)?;
        Ok(stream)
    }

    fn hop(&self, binaries: &Binaries, durability: &str, seconds: f64) -> anyhow::Result<Hop> {
        let route =
            [format!("routes.alerts.route={ROUTE:?}"), format!("routes.alerts.durability={durability:?}")];
        let (mut router, _) = self.start(binaries, &route)?;
        let mut ml = self.enter(router.address, "gw1/ml")?;
        let filter = INPUTS.as_bytes();
        let mut subscribe = vec![0x82, filter.len() as u8 + 5, 0, 1, 0, filter.len() as u8];
        subscribe.extend_from_slice(filter);
        subscribe.push(1);
        ml.write_all(&subscribe)?;
        let mut suback = [0; 5];
        ml.read_exact(&mut suback)?;
        let sender = self.enter(router.address, "gw1/filter")?;
        ml.set_read_timeout(Some(LOOK))?;
        let mut receiver = Receiver { stream: ml, unread: Vec::new(), heard: Instant::now() };
        // A second to warm up, then what is counted.
        flood(&sender, &mut receiver, 1.0)?;
        let before = Process::of(router.pid())?;
        let rate = flood(&sender, &mut receiver, seconds)?;
        let written = Process::of(router.pid())?.since(&before, (rate * seconds) as u64).written_bytes as f64;
        let hops = pace(&sender, &mut receiver)?;
        router.check()?;
        let at = |share: usize| hops[hops.len() * share / 100] as f64 / 1_000.0;
        Ok(Hop { rate, written: written / (rate * seconds), p50: at(50), p99: at(99) })
    }

    /// Seconds and CPU seconds of the connects, and bytes of each while they rest.
    async fn connects(&self, binaries: &Binaries, is_identity: bool) -> anyhow::Result<(f64, f64, f64)> {
        let own = match is_identity {
            true => "listener.tls.identities=\"iothub\"",
            false => "listener.tls.anonymous=true",
        };
        let (mut router, address) = self.start(binaries, &[own.to_owned()])?;
        let mut hellos = Vec::new();
        for number in 0..DEVICES {
            hellos.push(match is_identity {
                true => self.hello(&name_of(number))?,
                false => {
                    let mut connect = Connect::new(Version::V3, name_of(number));
                    connect.keep_alive_secs = 0;
                    let mut bytes = Vec::new();
                    wire::encode_connect(&mut bytes, &connect)?;
                    bytes
                }
            });
        }
        tokio::time::sleep(REST).await;
        let before = Process::of(router.pid())?;
        let began = Instant::now();
        let mut open = Vec::new();
        for hello in &hellos {
            open.push(self.connect_tls(address, hello).await?);
        }
        let took = began.elapsed().as_secs_f64();
        let used = Process::of(router.pid())?.since(&before, DEVICES as u64).cpu_secs;
        tokio::time::sleep(REST).await;
        let after = Process::of(router.pid())?;
        router.check()?;
        let bytes = after.rss_bytes.saturating_sub(before.rss_bytes) as f64 / DEVICES as f64;
        drop(open);
        Ok((took, used, bytes))
    }

    async fn connect_tls(
        &self,
        address: SocketAddr,
        hello: &[u8],
    ) -> anyhow::Result<TlsStream<tokio::net::TcpStream>> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        let mut stream = self.connector.connect(ServerName::try_from(HOST)?, stream).await?;
        stream.write_all(hello).await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        is_welcome(answer, "a client over TLS")?;
        Ok(stream)
    }
}

fn name_of(number: usize) -> String {
    format!("many{number}")
}

fn is_welcome(answer: [u8; 4], who: &str) -> anyhow::Result<()> {
    match answer {
        [0x20, 2, _, 0] => Ok(()),
        answer => bail!("{who} is not let in: {answer:02x?}"),
    }
}

/// The module that gets messages and acknowledges them.
struct Receiver {
    stream: TcpStream,
    unread: Vec<u8>,
    /// When something came last.
    heard: Instant,
}

impl Receiver {
    /// Reads once and acknowledges all that came, each after `seen` has its payload; how many those were.
    fn take(&mut self, mut seen: impl FnMut(&[u8])) -> anyhow::Result<usize> {
        let mut buffer = [0; 64 << 10];
        let len = match self.stream.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.heard.elapsed() < PATIENCE => {
                return Ok(0);
            }
            read => read.context("nothing comes to the module any more")?,
        };
        self.heard = Instant::now();
        if len == 0 {
            bail!("the router has closed the connection of the module");
        }
        self.unread.extend_from_slice(&buffer[..len]);
        let (mut at, mut count, mut acks) = (0, 0, Vec::new());
        while let Some(len) =
            wire::bytes_needed(&self.unread[at..]).filter(|len| at + len <= self.unread.len())
        {
            let frame = &self.unread[at..at + len];
            at += len;
            if frame[0] >> 4 != 3 {
                continue;
            }
            // Behind the fixed header the topic with its length, then the identifier.
            let header = 1 + frame[1..].iter().position(|byte| byte & 0x80 == 0).unwrap_or_default() + 1;
            let topic = usize::from(u16::from_be_bytes([frame[header], frame[header + 1]]));
            let id = header + 2 + topic;
            acks.extend_from_slice(&[0x40, 2, frame[id], frame[id + 1]]);
            seen(&frame[id + 2..]);
            count += 1;
        }
        self.unread.drain(..at);
        self.stream.write_all(&acks)?;
        Ok(count)
    }
}

fn publish(out: &mut Vec<u8>, id: u16, payload: &[u8]) -> anyhow::Result<()> {
    let packet_id = std::num::NonZeroU16::new(id.max(1));
    let outgoing = OutgoingPublish {
        topic: OUTPUT,
        payload,
        qos: model::Qos::AtLeastOnce,
        packet_id,
        ..OutgoingPublish::default()
    };
    wire::encode_publish(out, Version::V3, &outgoing)?;
    Ok(())
}

/// Sends as much as is taken for so long; how many a second have arrived.
fn flood(sender: &TcpStream, receiver: &mut Receiver, seconds: f64) -> anyhow::Result<f64> {
    let mut sender = sender.try_clone()?;
    let began = Instant::now();
    let sending = std::thread::spawn(move || -> anyhow::Result<usize> {
        let payload = vec![b'x'; MESSAGE_BYTES];
        let (mut sent, mut acked, mut left, mut buffer) = (0, 0, 0, [0; 16 << 10]);
        while began.elapsed().as_secs_f64() < seconds || acked < sent {
            if began.elapsed().as_secs_f64() < seconds && sent - acked + BURST <= WINDOW {
                let mut out = Vec::new();
                for _ in 0..BURST {
                    sent += 1;
                    publish(&mut out, (sent % 65_535) as u16 + 1, &payload)?;
                }
                sender.write_all(&out)?;
                continue;
            }
            // A PUBACK has four bytes.
            let len = sender.read(&mut buffer)?;
            if len == 0 {
                bail!("the router has closed the connection of the sender");
            }
            acked += (left + len) / 4;
            left = (left + len) % 4;
        }
        Ok(sent)
    });
    let (mut count, mut wanted) = (0, None);
    let mut sending = Some(sending);
    while wanted.is_none_or(|wanted| count < wanted) {
        count += receiver.take(|_| {})?;
        if let Some(done) = sending.take_if(|sending| sending.is_finished()) {
            wanted = Some(done.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??);
        }
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// One message each millisecond; how long each was on its way, nanoseconds, ascending.
fn pace(sender: &TcpStream, receiver: &mut Receiver) -> anyhow::Result<Vec<u64>> {
    let (mut writer, mut reader) = (sender.try_clone()?, sender.try_clone()?);
    let zero = Instant::now();
    let acks = std::thread::spawn(move || {
        let mut left = HOPS * 4;
        let mut buffer = [0; 4_096];
        while left > 0 {
            match reader.read(&mut buffer) {
                Ok(len @ 1..) => left = left.saturating_sub(len),
                _ => return,
            }
        }
    });
    let sending = std::thread::spawn(move || -> anyhow::Result<()> {
        for number in 0..HOPS {
            let due = Duration::from_millis(number as u64);
            std::thread::sleep(due.saturating_sub(zero.elapsed()));
            let mut payload = [b'x'; MESSAGE_BYTES];
            payload[..8].copy_from_slice(&(zero.elapsed().as_nanos() as u64).to_be_bytes());
            let mut out = Vec::new();
            publish(&mut out, number as u16 + 1, &payload)?;
            writer.write_all(&out)?;
        }
        Ok(())
    });
    let mut hops = Vec::with_capacity(HOPS);
    while hops.len() < HOPS {
        receiver.take(|payload| {
            if let Some(sent) = payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)) {
                hops.push((zero.elapsed().as_nanos() as u64).saturating_sub(sent));
            }
        })?;
    }
    sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    acks.join().map_err(|_| anyhow::anyhow!("the reader of acknowledgements panicked"))?;
    hops.sort_unstable();
    Ok(hops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_acknowledges_what_came_in_pieces() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        let mut receiver = Receiver { stream, unread: Vec::new(), heard: Instant::now() };
        let mut bytes = Vec::new();
        publish(&mut bytes, 7, &[b'x'; 300]).unwrap();
        let (first, rest) = bytes.split_at(100);
        other.write_all(first).unwrap();
        assert_eq!(receiver.take(|_| panic!("half a packet")).unwrap(), 0);
        other.write_all(rest).unwrap();
        assert_eq!(receiver.take(|payload| assert_eq!(payload.len(), 300)).unwrap(), 1);
        let mut ack = [0; 4];
        other.read_exact(&mut ack).unwrap();
        assert_eq!(ack, [0x40, 2, 0, 7]);
    }
}
