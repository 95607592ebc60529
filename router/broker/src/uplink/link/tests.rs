//! A link against an upstream that is played by hand.

use model::{Instant, Priority};

use super::*;

fn seq(number: u64) -> Seq {
    Seq::new(number).expect("not zero")
}

fn at(millis: u64) -> Now {
    Now { instant: Instant(millis * 1_000), timestamp: Timestamp(millis) }
}

fn setup(inflight_max: u16) -> LinkSetup {
    LinkSetup {
        version: Version::V5,
        client_id: "gateway".into(),
        user: None,
        password: None,
        keep_alive_secs: 10,
        topic_prefix: "site/1/".into(),
        inflight_max,
        packet_bytes_max: 1 << 16,
    }
}

fn record(topic: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let envelope = Envelope {
        topic,
        client_id: "c",
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: &[],
        payload: b"21",
    };
    envelope.encode(&mut bytes);
    bytes
}

fn connack(receive_max: u16, packet_bytes_max: Option<u32>) -> Vec<u8> {
    let mut ack = wire::ConnAck::new(false, ReasonCode::SUCCESS);
    ack.receive_max = NonZeroU16::new(receive_max).expect("not zero");
    ack.packet_bytes_max = packet_bytes_max.and_then(|bytes| bytes.try_into().ok());
    let mut bytes = Vec::new();
    wire::encode_connack(&mut bytes, Version::V5, &ack).expect("fits");
    bytes
}

fn puback(packet_id: u16, reason: ReasonCode) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packet_id = NonZeroU16::new(packet_id).expect("not zero");
    wire::encode_ack(&mut bytes, Version::V5, wire::AckKind::PubAck, packet_id, reason);
    bytes
}

struct Bench {
    link: Link,
    lanes: Lanes,
    out: Vec<u8>,
    delivered: Vec<(LaneId, Seq)>,
}

fn up(inflight_max: u16, receive_max: u16) -> Bench {
    let mut out = Vec::new();
    let link = Link::open(setup(inflight_max), at(0), &mut out).expect("opens");
    let mut lanes = Lanes::default();
    lanes.add(LaneId(7), Priority::DEFAULT, seq(1), seq(100));
    let mut bench = Bench { link, lanes, out, delivered: Vec::new() };
    assert_eq!(bench.link.room(), 0, "nothing is sent before CONNACK");
    bench.read(&connack(receive_max, None), 0).expect("accepted");
    bench.out.clear();
    bench
}

impl Bench {
    fn read(&mut self, bytes: &[u8], millis: u64) -> Result<usize, LinkError> {
        self.link.read(bytes, &mut self.lanes, &mut self.delivered, at(millis), &mut self.out)
    }

    fn send(&mut self, number: u64) -> Sent {
        self.link.send(&mut self.lanes, 0, seq(number), &record("a/b"), None, at(1), &mut self.out)
    }

    /// Topic, DUP and packet identifier of everything written so far.
    fn written(&self) -> Vec<(String, bool, u16)> {
        let mut rest = &self.out[..];
        let mut seen = Vec::new();
        while let Some(frame) = wire::split(rest, 1 << 20).expect("our own packets") {
            rest = &rest[frame.total_len()..];
            if let Packet::Publish(publish) = wire::decode(frame, Version::V5).expect("our own packets") {
                seen.push((
                    publish.topic.to_owned(),
                    publish.dup,
                    publish.packet_id.map_or(0, NonZeroU16::get),
                ));
            }
        }
        seen
    }
}

#[test]
fn the_smaller_of_both_windows_holds() {
    assert_eq!(up(100, 3).link.room(), 3);
    assert_eq!(up(2, 30).link.room(), 2);
}

#[test]
fn places_are_delivered_in_order_whatever_the_order_of_acknowledgements() {
    let mut bench = up(10, 10);
    for number in 1..=3 {
        assert_eq!(bench.send(number), Sent::InFlight);
    }
    assert_eq!(bench.written()[2], ("site/1/a/b".to_owned(), false, 3));
    bench.read(&puback(2, ReasonCode::SUCCESS), 5).expect("known");
    assert_eq!(bench.delivered, []);
    bench.read(&puback(1, ReasonCode::SUCCESS), 5).expect("known");
    assert_eq!(bench.delivered, [(LaneId(7), seq(2))]);
    assert_eq!(bench.link.inflight(), 1);
    bench.read(&puback(9, ReasonCode::SUCCESS), 5).expect("an unknown identifier changes nothing");
    assert_eq!(bench.link.inflight(), 1);
}

#[test]
fn after_a_lost_link_repeats_are_marked() {
    let mut bench = up(10, 10);
    bench.send(1);
    bench.send(2);
    bench.read(&puback(1, ReasonCode::SUCCESS), 5).expect("known");
    bench.lanes.rewind();
    let mut out = Vec::new();
    bench.link = Link::open(setup(10), at(9), &mut out).expect("opens");
    bench.read(&connack(10, None), 9).expect("accepted");
    bench.out.clear();
    bench.send(2);
    bench.send(3);
    let dups: Vec<bool> = bench.written().into_iter().map(|(_, dup, _)| dup).collect();
    assert_eq!(dups, [true, false]);
}

#[test]
fn a_refused_message_ends_the_link_and_stays_in_its_lane() {
    let mut bench = up(10, 10);
    bench.send(1);
    let error = bench.read(&puback(1, ReasonCode::NOT_AUTHORIZED), 5).expect_err("refused");
    let expected =
        LinkError::MessageRefused { lane: LaneId(7), seq: seq(1), reason: ReasonCode::NOT_AUTHORIZED };
    assert_eq!(error, expected);
    assert_eq!(bench.delivered, []);
}

#[test]
fn what_the_upstream_cannot_take_is_reported_and_passed_over() {
    let mut bench = up(10, 10);
    bench.link.packet_bytes_max = 8;
    assert_eq!(bench.send(1), Sent::Impossible(Impossible::TooLarge));
    assert!(bench.out.is_empty());
    let sent = bench.link.send(&mut bench.lanes, 0, seq(2), b"junk", None, at(1), &mut bench.out);
    assert_eq!(sent, Sent::Impossible(Impossible::Unreadable));
    assert_eq!(bench.lanes.settle(0, seq(1)), Some((LaneId(7), seq(1))));
}

#[test]
fn a_refused_connection_says_why() {
    let mut out = Vec::new();
    let mut link = Link::open(setup(10), at(0), &mut out).expect("opens");
    let mut bytes = Vec::new();
    let ack = wire::ConnAck::new(false, ReasonCode::NOT_AUTHORIZED);
    wire::encode_connack(&mut bytes, Version::V5, &ack).expect("fits");
    let result = link.read(&bytes, &mut Lanes::default(), &mut Vec::new(), at(1), &mut out);
    assert_eq!(result, Err(LinkError::Refused(ReasonCode::NOT_AUTHORIZED)));
}

#[test]
fn a_quiet_link_is_probed_and_a_silent_one_ends() {
    let mut bench = up(10, 10);
    bench.link.tick(at(4_000), &mut bench.out).expect("alive");
    assert!(bench.out.is_empty());
    bench.link.tick(at(5_000), &mut bench.out).expect("alive");
    assert_eq!(bench.out, [0xC0, 0x00]);
    assert_eq!(bench.link.tick(at(15_001), &mut bench.out), Err(LinkError::Silent));
}
