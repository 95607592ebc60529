//! QoS 2 upstream: what is acknowledged halfway over lost links.

use wire::AckKind;

use super::*;

/// What was written besides publications.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Connect { is_clean: bool },
    Publish { id: u16, dup: bool, payload: String },
    Release(u16),
}

struct Exact {
    bench: Bench,
}

impl Exact {
    fn new(window: u16) -> Exact {
        let mut exact = Exact { bench: Bench::new(rules()) };
        assert_eq!(exact.connect(window, false), [Said::Connect { is_clean: true }]);
        exact
    }

    /// A new link; what is said at once.
    fn connect(&mut self, window: u16, session_present: bool) -> Vec<Said> {
        self.connect_to(0, window, session_present)
    }

    fn connect_to(&mut self, address: usize, window: u16, session_present: bool) -> Vec<Said> {
        self.bench.out.clear();
        let setup = LinkSetup { address, ..setup(window) };
        self.bench.carrier.connected(setup, at(self.bench.now), &mut self.bench.out).expect("opens");
        let mut ack = wire::ConnAck::new(session_present, ReasonCode::SUCCESS);
        ack.receive_max = NonZeroU16::MAX;
        let mut bytes = Vec::new();
        wire::encode_connack(&mut bytes, Version::V5, &ack).expect("fits");
        self.bench.read(&bytes).expect("accepted");
        self.said()
    }

    fn publish(&mut self, count: usize) {
        let records = &mut self.bench.lanes[1].1;
        for _ in 0..count {
            let payload = format!("a{}", records.len() + 1);
            let mut bytes = Vec::new();
            Envelope {
                user: "",
                topic: "a/b",
                client_id: "a",
                qos: Qos::ExactlyOnce,
                retain: false,
                properties: &[],
                payload: payload.as_bytes(),
            }
            .encode(&mut bytes);
            records.push(bytes);
        }
        let tail = seq(records.len() as u64 + 1);
        self.bench.carrier.grown(LANE, tail);
    }

    fn said(&mut self) -> Vec<Said> {
        self.bench.fill();
        let bytes = std::mem::take(&mut self.bench.out);
        let mut rest = &bytes[..];
        let mut said = Vec::new();
        while let Some(frame) = wire::split(rest, 1 << 20).expect("our own packets") {
            rest = &rest[frame.total_len()..];
            match wire::decode(frame, Version::V5).expect("our own packets") {
                Packet::Connect(connect) => said.push(Said::Connect { is_clean: connect.clean_start }),
                Packet::PubRel(ack) => said.push(Said::Release(ack.packet_id.get())),
                Packet::Publish(publish) => {
                    assert_eq!(publish.qos, Qos::ExactlyOnce);
                    said.push(Said::Publish {
                        id: publish.packet_id.map_or(0, NonZeroU16::get),
                        dup: publish.dup,
                        payload: String::from_utf8_lossy(publish.payload).into_owned(),
                    });
                }
                other => panic!("{:?}", other.packet_type()),
            }
        }
        said
    }

    fn answer(&mut self, kind: AckKind, id: u16, reason: ReasonCode) {
        let mut bytes = Vec::new();
        let id = NonZeroU16::new(id).expect("not zero");
        wire::encode_ack(&mut bytes, Version::V5, kind, id, reason);
        self.bench.read(&bytes).expect("an answer");
        self.bench.carrier.invariants();
    }
}

fn publish(id: u16, dup: bool, payload: &str) -> Said {
    Said::Publish { id, dup, payload: payload.to_owned() }
}

const FIRST: u16 = 32_768;

#[test]
fn a_message_is_delivered_and_its_identifier_free_with_pubcomp() {
    let mut exact = Exact::new(2);
    exact.publish(3);
    assert_eq!(exact.said(), [publish(FIRST, false, "a1"), publish(FIRST + 1, false, "a2")]);
    exact.answer(AckKind::PubRec, FIRST, ReasonCode::SUCCESS);
    assert_eq!(exact.bench.delivered(), []);
    assert_eq!(exact.said(), [Said::Release(FIRST)], "it still counts for the window [MQTT-4.9.0-2]");
    exact.answer(AckKind::PubComp, FIRST, ReasonCode::SUCCESS);
    assert_eq!(exact.bench.delivered(), [(LANE, 1)]);
    assert_eq!(exact.said(), [publish(FIRST + 2, false, "a3")]);
    // A second PUBREC is answered as the first one.
    exact.answer(AckKind::PubRec, FIRST, ReasonCode::SUCCESS);
    assert_eq!(exact.said(), [Said::Release(FIRST)]);
}

#[test]
fn over_a_lost_link_identifiers_stay_and_what_has_pubrec_is_only_released() {
    let mut exact = Exact::new(10);
    exact.publish(3);
    exact.said();
    exact.answer(AckKind::PubRec, FIRST, ReasonCode::SUCCESS);
    exact.bench.lose();
    assert_eq!(
        exact.connect(10, true),
        [
            Said::Connect { is_clean: false },
            Said::Release(FIRST),
            publish(FIRST + 1, true, "a2"),
            publish(FIRST + 2, true, "a3")
        ]
    );
    for id in [FIRST + 1, FIRST + 2] {
        exact.answer(AckKind::PubRec, id, ReasonCode::SUCCESS);
        exact.answer(AckKind::PubComp, id, ReasonCode::SUCCESS);
    }
    exact.answer(AckKind::PubComp, FIRST, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
    assert_eq!(exact.bench.delivered(), [(LANE, 3)]);
    assert_eq!(exact.bench.carrier.inflight(), 0);
}

#[test]
fn an_upstream_that_has_forgotten_us_gets_what_has_no_pubcomp_as_something_new() {
    let mut exact = Exact::new(10);
    exact.publish(2);
    exact.said();
    exact.answer(AckKind::PubRec, FIRST, ReasonCode::SUCCESS);
    exact.bench.lose();
    let said = exact.connect(10, false);
    assert_eq!(
        said,
        [Said::Connect { is_clean: false }, publish(FIRST + 2, true, "a1"), publish(FIRST + 3, true, "a2")],
        "what it had not passed on may be lost there"
    );
}

#[test]
fn a_refused_message_is_tried_again_with_an_identifier_that_is_free() {
    let mut exact = Exact::new(10);
    exact.publish(1);
    exact.said();
    exact.answer(AckKind::PubRec, FIRST, ReasonCode::QUOTA_EXCEEDED);
    assert_eq!(exact.said(), [], "no PUBREL [MQTT-4.3.3-4]");
    assert_eq!((exact.bench.carrier.inflight(), exact.bench.delivered()), (0, vec![]));
    exact.bench.pass(2_000);
    assert_eq!(exact.said(), [publish(FIRST + 1, true, "a1")]);
}

#[test]
fn an_upstream_that_takes_no_qos_2_gets_qos_1() {
    let mut bench = Bench::new(rules());
    bench.carrier.connected(setup(10), at(1), &mut bench.out).expect("opens");
    let mut ack = wire::ConnAck::new(false, ReasonCode::SUCCESS);
    ack.qos_max = Qos::AtLeastOnce;
    let mut bytes = Vec::new();
    wire::encode_connack(&mut bytes, Version::V5, &ack).expect("fits");
    bench.read(&bytes).expect("accepted");
    let mut exact = Exact { bench };
    exact.publish(1);
    assert_eq!(exact.bench.sent(), ["a1"]);
    assert_eq!(exact.bench.open[0].id, 1);
}

#[test]
fn the_end_of_a_message_that_waited_for_its_turn_is_its_end() {
    let mut exact = Exact::new(10);
    exact.publish(2);
    exact.said();
    // Its sender waits, and this one is tried alone.
    exact.answer(AckKind::PubRec, FIRST, ReasonCode::UNSPECIFIED_ERROR);
    exact.answer(AckKind::PubRec, FIRST + 1, ReasonCode::UNSPECIFIED_ERROR);
    exact.bench.pass(2_000);
    assert_eq!(exact.said(), [publish(FIRST + 2, true, "a1")]);
    exact.answer(AckKind::PubRec, FIRST + 2, ReasonCode::SUCCESS);
    exact.bench.lose();
    assert_eq!(exact.connect(10, true)[..2], [Said::Connect { is_clean: false }, Said::Release(FIRST + 2)]);
    exact.answer(AckKind::PubComp, FIRST + 2, ReasonCode::SUCCESS);
    assert_eq!(exact.bench.delivered(), [(LANE, 1)]);
    exact.bench.pass(5_000);
    let said = exact.said();
    assert_eq!(said, [publish(FIRST + 3, true, "a2")], "a1 is not sent again");
}

#[test]
fn another_address_gets_what_has_no_pubcomp_as_something_new_and_so_does_the_first_again() {
    let mut exact = Exact::new(10);
    exact.publish(2);
    exact.said();
    exact.answer(AckKind::PubRec, FIRST, ReasonCode::SUCCESS);
    exact.bench.lose();
    // That one has a session of ours, of some earlier time: an identifier may be stuck in it.
    let said = exact.connect_to(1, 10, true);
    let [third, fourth] = [FIRST + 2, FIRST + 3];
    assert_eq!(
        said,
        [
            Said::Connect { is_clean: true },
            Said::Release(third),
            publish(third, true, "a1"),
            Said::Release(fourth),
            publish(fourth, true, "a2")
        ],
        "no PUBREL of what the first one was sent"
    );
    exact.answer(AckKind::PubComp, FIRST, ReasonCode::SUCCESS);
    assert_eq!(exact.bench.delivered(), [], "not even if it answers one");
    exact.answer(AckKind::PubRec, third, ReasonCode::SUCCESS);
    exact.answer(AckKind::PubComp, third, ReasonCode::SUCCESS);
    assert_eq!(exact.bench.delivered(), [(LANE, 1)]);
    exact.bench.lose();
    let said = exact.connect_to(0, 10, true);
    let next = FIRST + 4;
    assert_eq!(said, [Said::Connect { is_clean: true }, Said::Release(next), publish(next, true, "a2")]);
}
