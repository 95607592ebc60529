//! The conductor with stand-ins for Millrace: an outage passes, everything acknowledged arrives, nobody is left.
//!
//! The stand-in is this test binary itself, started again as `mock_millrace`: a null sink with a slow uplink. What a
//! real Millrace makes of it is tested in `tests/it`.
#![expect(clippy::unwrap_used, reason = "tests; clippy does not see that helpers beside them are tests too")]

use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use loadgen::null::NullBroker;
use loadgen::quickstart::{Ending, Options, QuickstartError, conduct};
use model::Qos;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use wire::{AckKind, Connect, OutgoingPublish, Packet, ReasonCode, Subscribe, Subscription, Version};

/// A program at which `--millrace` can point.
fn stand_in(folder: &Path, script: &str) -> PathBuf {
    let program = folder.join("millrace");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

fn options(folder: &Path, script: &str) -> Options {
    Options {
        millrace: stand_in(folder, script),
        gateway_bind: "127.0.0.1:0".to_owned(),
        data: folder.join("data"),
        duration: Some(Duration::from_secs(4)),
        terminal: false,
        outages: vec!["1:1.5".parse().unwrap()],
        fleet: vec!["publishers.count=5".to_owned(), "publishers.rate=20".to_owned()],
        gateway_set: Vec::new(),
    }
}

fn run(options: Options) -> Result<Ending, QuickstartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(conduct(options))
}

#[test]
fn an_outage_passes_and_everything_acknowledged_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let me = std::env::current_exe().unwrap();
    let script = format!(
        "MOCK=$(printf '%s\\n' \"$@\") exec '{}' --exact mock_millrace --ignored --nocapture",
        me.display()
    );
    let ending = run(options(folder.path(), &script)).unwrap();
    assert_eq!((ending.verdict.broken.clone(), ending.complaints.clone()), (vec![], vec![]));
    assert!(ending.is_good() && ending.verdict.sent >= 350, "{:?}", ending.verdict);
    assert_eq!(ending.verdict.arrived, ending.verdict.sent);
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let data = folder.path().display().to_string();
    let left = processes.filter(|process| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&data)
    });
    assert_eq!(left.count(), 0, "no child outlives the conductor");
}

#[test]
fn a_millrace_that_does_not_start_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let error =
        run(options(folder.path(), "echo 'store.path: is a file' >&2; exit 2")).unwrap_err().to_string();
    assert!(error.starts_with("plant ended with exit status: 2"), "{error}");
    assert!(error.ends_with("    store.path: is a file"), "{error}");
}

#[test]
fn a_port_that_is_taken_is_told_with_the_flag_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = options(folder.path(), "exit 0");
    options.gateway_bind = taken.local_addr().unwrap().to_string();
    let error = run(options).unwrap_err().to_string();
    assert!(error.contains("is taken") && error.contains("--gateway-bind"), "{error}");
}

/// Not a test: the process that stands in for Millrace.
#[test]
#[ignore = "a process that another test starts"]
fn mock_millrace() {
    let Ok(arguments) = std::env::var("MOCK") else { return };
    let arguments: Vec<&str> = arguments.lines().collect();
    let set = |key: &str| arguments.iter().find_map(|argument| argument.strip_prefix(key)?.strip_prefix('='));
    let ready_file =
        arguments[arguments.iter().position(|argument| *argument == "--ready-file").unwrap() + 1];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate()).unwrap();
        let broker = NullBroker::bind(set("listener.tcp.bind").unwrap()).await.unwrap();
        let address = broker.address();
        let uplink = set("uplink.plant.url").map(|url| url.trim_start_matches("mqtt://").to_owned());
        let ready =
            format!("{{\"listeners\":[{{\"name\":\"tcp\",\"address\":\"{address}\"}}],\"http\":null}}");
        let subscribed = Notify::new();
        let forwarding = async {
            let Some(to) = uplink else {
                subscribed.notify_one();
                return std::future::pending().await;
            };
            let (sender, queue) = mpsc::channel(10_000);
            tokio::join!(collect(address.to_string(), sender, &subscribed), forward(to, queue));
        };
        let tell = async {
            // The uplink subscribes first: what comes before it would be lost.
            subscribed.notified().await;
            std::fs::write(ready_file, ready).unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = broker.serve() => {}
            () = forwarding => {}
            () = tell => {}
            _ = stop.recv() => {}
        }
    });
}

type Message = (String, Vec<u8>);

/// Subscribes to everything, and says when it has.
async fn collect(address: String, queue: mpsc::Sender<Message>, subscribed: &Notify) {
    let mut link = Link::open(&address, "uplink-in").await.unwrap();
    let subscribe = Subscribe {
        packet_id: NonZeroU16::MIN,
        subscription_id: None,
        user_properties: Vec::new(),
        subscriptions: vec![Subscription::new("#", Qos::AtLeastOnce)],
    };
    wire::encode_subscribe(&mut link.out, Version::V3, &subscribe).unwrap();
    link.next(|packet, _| matches!(packet, Packet::SubAck(_)).then_some(())).await.unwrap();
    subscribed.notify_one();
    loop {
        let message = link.next(|packet, out| match packet {
            Packet::Publish(publish) => {
                wire::encode_ack(out, Version::V3, AckKind::PubAck, publish.packet_id?, ReasonCode::SUCCESS);
                Some((publish.topic.to_owned(), publish.payload.to_vec()))
            }
            _ => None,
        });
        queue.send(message.await.unwrap()).await.unwrap();
    }
}

/// Sends one message after the other, again and again until it is acknowledged.
async fn forward(to: String, mut queue: mpsc::Receiver<Message>) {
    let mut waiting: Option<Message> = None;
    loop {
        let Ok(mut link) = Link::open(&to, "uplink-out").await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        loop {
            if waiting.is_none() {
                waiting = queue.recv().await;
            }
            let Some((topic, payload)) = &waiting else { return };
            let publish = OutgoingPublish {
                qos: Qos::AtLeastOnce,
                packet_id: Some(NonZeroU16::MIN),
                topic,
                payload,
                ..OutgoingPublish::default()
            };
            wire::encode_publish(&mut link.out, Version::V3, &publish).unwrap();
            if link.next(|packet, _| matches!(packet, Packet::PubAck(_)).then_some(())).await.is_err() {
                break;
            }
            waiting = None;
        }
    }
}

/// A connection that can wait for one packet.
struct Link {
    stream: TcpStream,
    read: Vec<u8>,
    out: Vec<u8>,
}

impl Link {
    async fn open(address: &str, client_id: &str) -> std::io::Result<Link> {
        let stream = TcpStream::connect(address).await?;
        let mut link = Link { stream, read: Vec::new(), out: Vec::new() };
        wire::encode_connect(&mut link.out, &Connect::new(Version::V3, client_id)).unwrap();
        link.next(|packet, _| matches!(packet, Packet::ConnAck(_)).then_some(())).await?;
        Ok(link)
    }

    /// Writes what is to be written, and reads until `wanted` finds something.
    async fn next<T>(
        &mut self,
        mut wanted: impl FnMut(Packet<'_>, &mut Vec<u8>) -> Option<T>,
    ) -> std::io::Result<T> {
        loop {
            while let Some(frame) = wire::split(&self.read, 1 << 20).unwrap() {
                let length = frame.total_len();
                let found = wanted(wire::decode(frame, Version::V3).unwrap(), &mut self.out);
                self.read.drain(..length);
                if let Some(found) = found {
                    return Ok(found);
                }
            }
            self.stream.write_all(&std::mem::take(&mut self.out)).await?;
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
