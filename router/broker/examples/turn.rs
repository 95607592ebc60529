//! What a turn costs, without sockets: for callgrind and the like, which count instructions whatever else the machine does.
//!
//! `cargo build --release -p millrace-broker --example turn`, then
//! `valgrind --tool=callgrind …/examples/turn pairs 20000`; the first argument is one of [`WORKLOADS`], the second how
//! many messages of 256 B are published, 64 per read.

use std::sync::Arc;

use broker::{Broker, Effects, Peer, Plan, Setup, SinkPlan};
use model::{ConnId, Instant, Limits, Now, Priority, Qos, ShardId, Timestamp};
use wire::{OutgoingPublish, Subscribe, Subscription, Version};

const WORKLOADS: [&str; 5] = ["pairs", "pairs-routes", "pairs-qos1", "fan-out", "fan-in"];
const PER_READ: usize = 64;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let workload = arguments.next().unwrap_or_default();
    let count = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(20_000);
    if !WORKLOADS.contains(&workload.as_str()) {
        eprintln!("turn WORKLOAD [MESSAGES]; workloads: {}", WORKLOADS.join(", "));
        std::process::exit(2);
    }
    let delivered = Driver::new(&workload).run(count);
    println!("{workload}: {count} published, {delivered} delivered");
}

struct Driver {
    broker: Broker,
    effects: Effects,
    now: Now,
    qos: Qos,
    publishers: Vec<ConnId>,
    subscribers: Vec<ConnId>,
}

impl Driver {
    fn new(workload: &str) -> Driver {
        let plan = if workload == "pairs-routes" { routes() } else { Plan::empty() };
        let setup = Setup {
            shard: ShardId(0),
            shards: 1,
            limits: Arc::new(Limits::DEFAULT),
            offers: Arc::default(),
            access: Arc::new(broker::access::Access::open(true)),
            plan: Arc::new(plan),
            rooms: Arc::default(),
            seed: 7,
            home_seed: 7,
        };
        let mut driver = Driver {
            broker: Broker::new(setup),
            effects: Effects::new(1),
            now: Now { instant: Instant(1), timestamp: Timestamp(1) },
            qos: if workload == "pairs-qos1" { Qos::AtLeastOnce } else { Qos::AtMostOnce },
            publishers: Vec::new(),
            subscribers: Vec::new(),
        };
        let (publishers, subscribers) = match workload {
            "fan-out" => (1, 200),
            "fan-in" => (50, 1),
            _ => (50, 50),
        };
        for number in 0..publishers {
            let conn = driver.connect(&format!("p{number}"));
            driver.publishers.push(conn);
        }
        for number in 0..subscribers {
            let conn = driver.connect(&format!("s{number}"));
            driver.subscribers.push(conn);
            let filter =
                if publishers == subscribers { format!("bench/pair/{number}") } else { "bench/#".into() };
            let subscribe = Subscribe {
                packet_id: std::num::NonZeroU16::MIN,
                subscription_id: None,
                user_properties: Vec::new(),
                subscriptions: vec![Subscription::new(filter, driver.qos)],
            };
            let mut bytes = Vec::new();
            wire::encode_subscribe(&mut bytes, Version::V3, &subscribe).expect("small");
            driver.read(conn, &bytes);
        }
        driver.flush();
        driver
    }

    fn connect(&mut self, client_id: &str) -> ConnId {
        let conn = self.broker.open(Peer::default(), self.now);
        let mut bytes = Vec::new();
        wire::encode_connect(&mut bytes, &wire::Connect::new(Version::V3, client_id)).expect("small");
        self.read(conn, &bytes);
        conn
    }

    fn read(&mut self, conn: ConnId, bytes: &[u8]) {
        let taken = self.broker.read(conn, bytes, self.now, &mut self.effects);
        assert_eq!(taken, bytes.len());
    }

    /// Every socket takes everything; subscribers acknowledge.
    fn flush(&mut self) -> u64 {
        let mut acks = Vec::new();
        while let Some(conn) = self.effects.dirty.pop() {
            self.broker.flushing(conn);
            let pending = self.broker.pending(conn);
            if self.qos == Qos::AtLeastOnce {
                acknowledge(pending, &mut acks);
            }
            let len = pending.len();
            self.broker.wrote(conn, len, self.now, &mut self.effects);
            if !acks.is_empty() {
                self.read(conn, &acks);
                acks.clear();
            }
        }
        self.broker.counters().delivered
    }

    fn run(&mut self, count: usize) -> u64 {
        let payload = br#"{"deviceId":"press-0042","line":"L7","ts":1764000000123,"temperature":71.25,"pressure":3.481,"vibration":{"x":0.013,"y":-0.021,"z":0.998},"state":"running","alarms":[],"counter":918273,"firmware":"4.12.1","operator":"shift-b","ok":true,"spare":"xxxx"}"#;
        let mut bytes = Vec::new();
        let mut published = 0;
        let mut id = 0_u16;
        while published < count {
            for publisher in 0..self.publishers.len() {
                bytes.clear();
                let topic = format!("bench/pair/{publisher}");
                for _ in 0..PER_READ {
                    id = id % 60_000 + 1;
                    let publish = OutgoingPublish {
                        topic: &topic,
                        qos: self.qos,
                        packet_id: id.try_into().ok(),
                        payload,
                        ..OutgoingPublish::default()
                    };
                    wire::encode_publish(&mut bytes, Version::V3, &publish).expect("small");
                }
                self.read(self.publishers[publisher], &bytes);
                published += PER_READ;
            }
            self.flush();
        }
        self.flush()
    }
}

/// The PUBACKs for every PUBLISH in `pending`.
fn acknowledge(mut pending: &[u8], acks: &mut Vec<u8>) {
    while let Ok(Some(frame)) = wire::split(pending, u32::MAX) {
        if let Ok(wire::Packet::Publish(publish)) = wire::decode(frame, Version::V3)
            && let Some(packet_id) = publish.packet_id
        {
            wire::encode_ack(acks, Version::V3, wire::AckKind::PubAck, packet_id, wire::ReasonCode::SUCCESS);
        }
        pending = &pending[frame.total_len()..];
    }
}

/// 100 routes, 10 of which ask every message.
fn routes() -> Plan {
    let spec = |number: usize| {
        let source = if number < 10 { "bench/#".to_owned() } else { format!("plant/{number}/#") };
        let text =
            format!("FROM \"{source}\" WHERE $body.temperature > {} INTO topic \"hot\"", 1_000 + number);
        routes::RouteSpec { name: format!("r{number}"), text, priority: Priority::DEFAULT, ttl_millis: None }
    };
    let specs: Vec<_> = (0..100).map(spec).collect();
    let table = routes::RouteTable::compile(&specs, &routes::Options::default()).expect("routes");
    Plan {
        sinks: table.sinks().iter().map(|_| SinkPlan::Topic).collect(),
        durabilities: Vec::new(),
        table: Arc::new(table),
        keeps_user: false,
        ttl_millis: None,
    }
}
