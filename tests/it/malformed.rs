//! Bytes that are no legal packet: only their own connection ends, with the right code, and it is counted.

use std::num::NonZeroU16;

use harness::{
    Client, Connection, Incoming, OutgoingPublish, PATIENCE, QOS_1, ReasonCode, Router, Setup, Version,
    until, v3, v5,
};

/// Largest packet in these tests.
const PACKET_BYTES_MAX: usize = 1_024;

/// What a client does wrong after a good CONNECT, and what MQTT 5 says about it.
struct Fault {
    name: &'static str,
    bytes: Vec<u8>,
    reason: ReasonCode,
    counted: &'static str,
    /// Whether 3.1.1 forbids it, too.
    in_v3: bool,
}

fn fault(name: &'static str, bytes: impl Into<Vec<u8>>, reason: ReasonCode, counted: &'static str) -> Fault {
    Fault { name, bytes: bytes.into(), reason, counted, in_v3: true }
}

const MALFORMED: &str = "malformed";
const PROTOCOL: &str = "protocol";

/// A PUBLISH of MQTT 5 and of 3.1.1 alike, as far as the fault goes.
fn publish(header: u8, topic: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(topic);
    body.extend_from_slice(rest);
    let mut packet = vec![header, body.len() as u8];
    packet.extend(body);
    packet
}

fn faults() -> Vec<Fault> {
    use ReasonCode as R;
    let mut connect = Vec::new();
    wire::encode_connect(&mut connect, &v5("again")).expect("a legal CONNECT");
    let only_v5 = |fault: Fault| Fault { in_v3: false, ..fault };
    vec![
        fault("reserved packet type", [0x00, 0x00], R::MALFORMED_PACKET, MALFORMED),
        fault("reserved flags of PINGREQ", [0xC1, 0x00], R::MALFORMED_PACKET, MALFORMED),
        fault("reserved flags of SUBSCRIBE", [0x80, 0x00], R::MALFORMED_PACKET, MALFORMED),
        fault("a length of five bytes", [0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], R::MALFORMED_PACKET, MALFORMED),
        fault("PINGREQ with a body", [0xC0, 0x01, 0x00], R::MALFORMED_PACKET, MALFORMED),
        fault("QoS 3", publish(0x36, b"a", &[0, 1, 0]), R::MALFORMED_PACKET, MALFORMED),
        fault("DUP with QoS 0", publish(0x38, b"a", &[0]), R::PROTOCOL_ERROR, MALFORMED),
        fault("packet identifier 0", publish(0x32, b"a", &[0, 0, 0]), R::PROTOCOL_ERROR, MALFORMED),
        fault("wildcard + in a topic", publish(0x30, b"a/+", &[0]), R::TOPIC_NAME_INVALID, MALFORMED),
        fault("wildcard # in a topic", publish(0x30, b"#", &[0]), R::TOPIC_NAME_INVALID, MALFORMED),
        fault("U+0000 in a topic", publish(0x30, b"a\0b", &[0]), R::MALFORMED_PACKET, MALFORMED),
        fault("a topic that is not UTF-8", publish(0x30, b"a\xFFb", &[0]), R::MALFORMED_PACKET, MALFORMED),
        fault("an empty topic", publish(0x30, b"", &[0]), R::PROTOCOL_ERROR, MALFORMED),
        fault(
            "a topic longer than its packet",
            [0x30, 0x03, 0x00, 0x09, b'a'],
            R::MALFORMED_PACKET,
            MALFORMED,
        ),
        // 1 025 bytes and more are announced; not one of them needs to come.
        fault("a packet above the limit", [0x30, 0xFF, 0x07], R::PACKET_TOO_LARGE, MALFORMED),
        fault("PUBACK of packet identifier 0", [0x40, 0x02, 0x00, 0x00], R::PROTOCOL_ERROR, MALFORMED),
        only_v5(fault(
            "SUBSCRIBE without filters",
            [0x82, 0x03, 0x00, 0x01, 0x00],
            R::PROTOCOL_ERROR,
            MALFORMED,
        )),
        only_v5(fault(
            "an unknown property",
            publish(0x30, b"a", &[0x02, 0x7F, 0x00]),
            R::MALFORMED_PACKET,
            MALFORMED,
        )),
        only_v5(fault(
            "a property twice",
            publish(0x30, b"a", &[0x04, 0x01, 0x00, 0x01, 0x00]),
            R::PROTOCOL_ERROR,
            MALFORMED,
        )),
        only_v5(fault(
            "a topic alias that was not agreed on",
            publish(0x30, b"a", &[0x03, 0x23, 0x00, 0x01]),
            R::TOPIC_ALIAS_INVALID,
            PROTOCOL,
        )),
        only_v5(fault("AUTH without a method", [0xF0, 0x00], R::PROTOCOL_ERROR, PROTOCOL)),
        fault("a second CONNECT", connect, R::PROTOCOL_ERROR, PROTOCOL),
        fault("QoS 2", publish(0x34, b"a", &[0, 1, 0]), R::QOS_NOT_SUPPORTED, PROTOCOL),
        fault("PUBREL", [0x62, 0x02, 0x00, 0x01], R::QOS_NOT_SUPPORTED, PROTOCOL),
        fault("PINGRESP from a client", [0xD0, 0x00], R::PROTOCOL_ERROR, PROTOCOL),
        fault(
            "a topic of too many levels",
            publish(0x30, "/".repeat(64).as_bytes(), &[0]),
            R::TOPIC_NAME_INVALID,
            PROTOCOL,
        ),
    ]
}

fn closed(router: &Router, reason: &str) -> u64 {
    router.metric(&format!(r#"millrace_connections_closed_total{{reason="{reason}"}}"#)) as u64
}

#[track_caller]
fn check_all(version: Version) {
    let router = Setup::new().set("limits.packet_bytes_max", PACKET_BYTES_MAX).start();
    let mut bystander = router.connect(&v5("bystander"));
    bystander.subscribe("#", QOS_1);
    let faults: Vec<_> = faults().into_iter().filter(|it| version == Version::V5 || it.in_v3).collect();
    for (number, fault) in faults.iter().enumerate() {
        let client_id = format!("culprit-{number}");
        let connect = if version == Version::V5 { v5(&client_id) } else { v3(&client_id) };
        let mut culprit = Client::connect(router.address(), &connect);
        // What came before the fault counts.
        culprit.publish("before", fault.name, QOS_1);
        culprit.write(&fault.bytes);
        let expected = (version == Version::V5).then_some(fault.reason);
        assert_eq!(culprit.ending().reason, expected, "{}", fault.name);
        assert_eq!(bystander.message().text(), fault.name);
    }
    bystander.ping();
    for counted in [MALFORMED, PROTOCOL] {
        let expected = faults.iter().filter(|fault| fault.counted == counted).count() as u64;
        until(&format!("{expected} connections closed as {counted}"), || {
            (closed(&router, counted) >= expected).then_some(())
        });
        assert_eq!(closed(&router, counted), expected, "{counted}");
    }
    assert_eq!(router.number("/counters/bugs"), 0);
}

#[test]
fn a_fault_after_connect_ends_only_its_connection_with_its_code_in_5() {
    check_all(Version::V5);
}

#[test]
fn a_fault_after_connect_ends_only_its_connection_without_a_word_in_3_1_1() {
    check_all(Version::V3);
}

/// What comes back for these first bytes of a connection until the router closes it.
#[track_caller]
fn answer(router: &Router, bytes: &[u8]) -> Vec<u8> {
    use std::io::Read as _;
    let mut connection = Connection::open(router.address(), Version::V5).expect("a connection");
    connection.write(bytes).expect("bytes are taken");
    let mut stream = connection.stream();
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the router closes the connection");
    answer
}

/// A CONNECT with this protocol name and level, flags and what follows them.
fn connect(name: &[u8], level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    let mut body = (name.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(name);
    body.extend_from_slice(&[level, flags, 0, 0]);
    body.extend_from_slice(rest);
    let mut packet = vec![0x10, body.len() as u8];
    packet.extend(body);
    packet
}

#[test]
fn a_broken_greeting_is_answered_as_its_version_allows() {
    let router = Router::with_shards(2);
    let v5_refusal = |reason: ReasonCode| vec![0x20, 0x03, 0x00, reason.bits(), 0x00];
    let unsupported = v5_refusal(ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
    let id = [0, 1, b'x'];
    let id_v5 = [0, 0, 1, b'x'];
    let table: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("level 3 of MQTT", connect(b"MQTT", 3, 2, &id), vec![0x20, 0x02, 0x00, 0x01]),
        ("MQTT 3.1", connect(b"MQIsdp", 3, 2, &id), vec![0x20, 0x02, 0x00, 0x01]),
        ("level 6", connect(b"MQTT", 6, 2, &id_v5), unsupported),
        ("another protocol", connect(b"HTTP", 4, 2, &id), vec![]),
        ("the reserved flag in 3.1.1", connect(b"MQTT", 4, 3, &id), vec![]),
        ("the reserved flag in 5", connect(b"MQTT", 5, 3, &id_v5), v5_refusal(ReasonCode::MALFORMED_PACKET)),
        (
            "a will with QoS 3",
            connect(b"MQTT", 5, 0b1_1110, &id_v5),
            v5_refusal(ReasonCode::MALFORMED_PACKET),
        ),
        (
            "a will that is not there",
            connect(b"MQTT", 5, 0b110, &id_v5),
            v5_refusal(ReasonCode::MALFORMED_PACKET),
        ),
        ("more than the packet says", connect(b"MQTT", 4, 2, &[0, 9, b'x']), vec![]),
        ("PINGREQ first", vec![0xC0, 0x00], vec![]),
        ("PUBLISH first", publish(0x30, b"a", &[0]), vec![]),
        ("DISCONNECT first", vec![0xE0, 0x00], vec![]),
        ("a server's packet first", vec![0x20, 0x02, 0x00, 0x00], vec![]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), vec![]),
        ("TLS", vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC, 0x03, 0x03], vec![]),
    ];
    for (name, bytes, expected) in &table {
        assert_eq!(answer(&router, bytes), *expected, "{name}");
    }
    let count = table.len() as u64;
    let counted = || closed(&router, MALFORMED) + closed(&router, PROTOCOL);
    until("all of them to be counted", || (counted() >= count).then_some(()));
    assert_eq!(counted(), count);
    router.connect(&v5("good")).ping();
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
