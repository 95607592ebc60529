//! Bytes that are no legal packet: only their own connection ends, with the right code, and it is counted.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use harness::notation::{self, Atom, hex, matches};
use harness::{
    Client, Incoming, OutgoingPublish, PATIENCE, QOS_1, ReasonCode, Router, Setup, Talk, Version, until, v3,
    v5,
};

/// Largest packet in these tests.
const PACKET_BYTES_MAX: usize = 1_024;

/// A row of the table: what a client does wrong and what it gets for it.
struct Row {
    name: String,
    version: Version,
    /// Behind a CONNECT that was accepted.
    open: bool,
    sent: Vec<u8>,
    answer: Vec<Atom>,
}

fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in include_str!("scripts/illegal.txt").lines().filter(|line| !line.is_empty()) {
        let read = |text| notation::parse(text).unwrap_or_else(|fault| panic!("{fault}: {line}"));
        match (line.chars().next(), rows.last_mut()) {
            (Some('#'), _) => {}
            (Some('>'), Some(row)) => row.sent.extend(notation::bytes(&line[1..]).expect("bytes")),
            (Some('<'), Some(row)) => row.answer.extend(read(&line[1..])),
            _ => {
                let (head, name) = line.split_once(": ").unwrap_or_else(|| panic!("no row: {line}"));
                assert!(head.starts_with('['), "a row without its clause: {line}");
                let words: Vec<_> = head.split(' ').filter(|word| !word.starts_with('[')).collect();
                let version = if words[0] == "5" { Version::V5 } else { Version::V3 };
                rows.push(Row {
                    name: format!("{}: {name}", words.join(" ")),
                    version,
                    open: words[1] == "open",
                    sent: Vec::new(),
                    answer: Vec::new(),
                });
            }
        }
    }
    rows
}

/// Two clients that talk to each other and notice nothing.
struct Bystanders {
    publisher: Client,
    subscriber: Client,
}

impl Bystanders {
    fn of(router: &Router) -> Bystanders {
        let mut subscriber = router.connect(&v3("bystander"));
        subscriber.subscribe("#", QOS_1);
        Bystanders { publisher: router.connect(&v5("publisher")), subscriber }
    }

    #[track_caller]
    fn exchange(&mut self, text: &str) {
        self.publisher.publish("news", text, QOS_1);
        assert_eq!(self.subscriber.message().text(), text, "the bystanders");
    }
}

fn closed(router: &Router, reason: &str) -> u64 {
    router.metric(&format!(r#"millrace_connections_closed_total{{reason="{reason}"}}"#)) as u64
}

/// Every row: the whole answer, the end of the connection, and that it is counted. [MQTT-4.13.1-1] [MQTT3-4.8.0-1]
#[test]
fn what_is_illegal_ends_only_its_own_connection_with_the_right_answer() {
    play(&rows());
}

/// Every property of MQTT 5.0 (§2.2.2.2): value, and the packets that may have it. `0x0B` is in PUBLISH from servers alone.
const PROPERTIES: [(&str, &str); 27] = [
    ("01 01", "PUBLISH will"),
    ("02 0000000A", "PUBLISH will"),
    ("03 \"t\"", "PUBLISH will"),
    ("08 \"r\"", "PUBLISH will"),
    ("09 \"d\"", "PUBLISH will"),
    ("0B 01", "SUBSCRIBE PUBLISH"),
    ("11 00000000", "CONNECT DISCONNECT"),
    ("12 \"i\"", ""),
    ("13 0001", ""),
    ("15 \"m\"", "CONNECT AUTH"),
    ("16 \"d\"", "CONNECT AUTH"),
    ("17 01", "CONNECT"),
    ("18 00000001", "will"),
    ("19 01", "CONNECT"),
    ("1A \"r\"", ""),
    ("1C \"s\"", "DISCONNECT"),
    ("1F \"r\"", "PUBACK PUBREC PUBREL PUBCOMP DISCONNECT AUTH"),
    ("21 0001", "CONNECT"),
    ("22 0001", "CONNECT"),
    ("23 0001", "PUBLISH"),
    ("24 01", ""),
    ("25 01", ""),
    ("26 \"k\" \"v\"", "everywhere"),
    ("27 00000100", "CONNECT"),
    ("28 01", ""),
    ("29 01", ""),
    ("2A 01", ""),
];

/// The packets of a client that have properties, with `*` where these stand.
const CARRIERS: [(&str, &str); 11] = [
    ("CONNECT", "10 [ \"MQTT\" 05 02 0000 [ * ] \"x\" ]"),
    ("will", "10 [ \"MQTT\" 05 06 0000 [] \"x\" [ * ] \"w\" \"\" ]"),
    ("PUBLISH", "30 [ \"a\" [ * ] 'x' ]"),
    ("PUBACK", "40 [ 0001 00 [ * ] ]"),
    ("PUBREC", "50 [ 0001 00 [ * ] ]"),
    ("PUBREL", "62 [ 0001 00 [ * ] ]"),
    ("PUBCOMP", "70 [ 0001 00 [ * ] ]"),
    ("SUBSCRIBE", "82 [ 0001 [ * ] \"a\" 00 ]"),
    ("UNSUBSCRIBE", "A2 [ 0001 [ * ] \"a\" ]"),
    ("DISCONNECT", "E0 [ 00 [ * ] ]"),
    ("AUTH", "F0 [ 18 [ * ] ]"),
];

/// In a packet that does not have it, a property is malformed; twice where it may be once, a protocol error.
/// [MQTT-4.13.1-1] [MQTT-4.13.2-1]
#[test]
fn every_property_in_the_wrong_packet_or_twice_is_refused() {
    let mut rows = Vec::new();
    for (carrier, packet) in CARRIERS {
        let open = packet.as_bytes()[0] != b'1';
        for (property, carriers) in PROPERTIES.iter().filter(|(_, carriers)| *carriers != "everywhere") {
            let belongs = carriers.split(' ').any(|name| name == carrier);
            let (times, code) = if belongs { (2, "82") } else { (1, "81") };
            let sent = packet.replace('*', &vec![*property; times].join(" "));
            let answer = if open { format!("E0 [ {code} ... ]") } else { format!("20 [ 00 {code} [] ]") };
            rows.push(Row {
                name: format!("{times} times {property} in {carrier}"),
                version: Version::V5,
                open,
                sent: notation::bytes(&sent).unwrap_or_else(|fault| panic!("{fault}: {sent}")),
                answer: notation::parse(&answer).expect("an answer"),
            });
        }
    }
    assert_eq!(rows.len(), 11 * 26);
    play(&rows);
}

/// Sends each row over a connection of its own, beside two clients that notice nothing.
#[track_caller]
fn play(rows: &[Row]) {
    let router = Setup::new().set("limits.packet_bytes_max", PACKET_BYTES_MAX).start();
    let mut bystanders = Bystanders::of(&router);
    let mut faults = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let mut talk = Talk::open(router.address());
        if row.open {
            let client_id = format!("culprit-{number}");
            let connect = if row.version == Version::V5 { v5(&client_id) } else { v3(&client_id) };
            let mut bytes = Vec::new();
            wire::encode_connect(&mut bytes, &connect).expect("a legal CONNECT");
            talk.send(&bytes).expect("the connection takes bytes");
            let welcome = talk.packet().expect("a CONNACK");
            assert_eq!((welcome[0], welcome[2], welcome[3]), (0x20, 0, 0), "{}", row.name);
        }
        talk.send(&row.sent).expect("the connection takes bytes");
        match talk.rest() {
            Some(answer) if matches(&row.answer, &answer) => {}
            Some(answer) => faults.push(format!("{}: {}, not {:?}", row.name, hex(&answer), row.answer)),
            None => faults.push(format!("{}: the connection stays open", row.name)),
        }
        bystanders.exchange(&row.name);
    }
    assert!(faults.is_empty(), "{} rows:\n{}", faults.len(), faults.join("\n"));
    // A method that we do not have is refused and no fault.
    let expected = rows.iter().filter(|row| row.answer.get(3) != Some(&Atom::Byte(0x8C))).count() as u64;
    let counted = || closed(&router, "malformed") + closed(&router, "protocol");
    until(&format!("{expected} faults to be counted"), || (counted() >= expected).then_some(()));
    assert_eq!((counted(), router.number("/counters/bugs")), (expected, 0));
}

/// A packet that never ends: before CONNECT the connect timeout ends it, afterwards the keep alive, which counts packets and
/// not bytes. [MQTT-3.1.2-22] [MQTT3-3.1.2-24]
#[test]
fn half_a_packet_does_not_keep_a_connection() {
    let router = Setup::new().set("limits.connect_timeout_millis", 500).start();
    let mut bystanders = Bystanders::of(&router);
    let mut greeting = Vec::new();
    let connect = harness::Connect { keep_alive_secs: 1, ..v5("half") };
    wire::encode_connect(&mut greeting, &connect).expect("a legal CONNECT");
    let publish = publish(0x30, b"a", &[0, b'x', b'x', b'x', b'x', b'x', b'x', b'x', b'x', b'x']);
    for open in [false, true] {
        let mut talk = Talk::open(router.address());
        let mut drops = if open {
            talk.send(&greeting).expect("the connection takes bytes");
            talk.packet().expect("a CONNACK");
            publish.iter()
        } else {
            greeting.iter()
        };
        // One byte after the other, so that it is never silent for long.
        let started = Instant::now();
        let answer = loop {
            let byte = drops.next().filter(|_| drops.len() > 0);
            let sent = byte.is_none_or(|byte| talk.send(&[*byte]).is_ok());
            if !sent || started.elapsed() > Duration::from_millis(2_500) {
                break talk.rest();
            }
            bystanders.exchange("still here");
            std::thread::sleep(Duration::from_millis(250));
        };
        let answer = answer.expect("it is closed");
        let expected = if open { &[0xE0, ReasonCode::KEEP_ALIVE_TIMEOUT.bits()][..] } else { &[] };
        let said: Vec<u8> = answer.iter().copied().take(1).chain(answer.get(2).copied()).collect();
        assert_eq!(said, expected, "{}", hex(&answer));
    }
}

/// A PUBLISH of MQTT 5 and of 3.1.1 alike, as far as the fault goes.
fn publish(header: u8, topic: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(topic);
    body.extend_from_slice(rest);
    let mut packet = vec![header, body.len() as u8];
    packet.extend(body);
    packet
}

#[test]
fn a_fault_behind_good_packets_does_not_undo_them() {
    // All in one write: what came before the fault is done, what comes after it is not looked at.
    for version in [Version::V3, Version::V5] {
        let router = Router::with_shards(2);
        let mut subscriber = router.connect(&v5("subscriber"));
        subscriber.subscribe("a", QOS_1);
        let connect = if version == Version::V5 { v5("culprit") } else { v3("culprit") };
        let mut culprit = router.connect(&connect).into_connection();
        let mut bytes = Vec::new();
        for (payload, packet_id, after) in [("good", 1, &[0xC1, 0x00][..]), ("never seen", 2, &[])] {
            let publish = OutgoingPublish {
                topic: "a",
                payload: payload.as_bytes(),
                qos: QOS_1,
                packet_id: NonZeroU16::new(packet_id),
                ..Default::default()
            };
            wire::encode_publish(&mut bytes, version, &publish).expect("a legal PUBLISH");
            bytes.extend_from_slice(after);
        }
        culprit.write(&bytes).expect("bytes are taken");
        let ack = culprit.receive(PATIENCE).expect("a connection");
        assert!(matches!(ack, Some(Incoming::PubAck(id, ReasonCode::SUCCESS)) if id.get() == 1), "{ack:?}");
        assert_eq!(subscriber.message().text(), "good");
        router.connect(&v5("publisher")).publish("a", "next", QOS_1);
        assert_eq!(subscriber.message().text(), "next");
    }
}
