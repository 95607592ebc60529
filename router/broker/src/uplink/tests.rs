//! An uplink against an upstream that is played by hand.

mod ahead;
mod drains;
mod drawn;
mod exact;
mod pooled;
mod pooled_simulation;
mod simulation;
mod waiting;

use std::num::NonZeroU16;

use model::{Instant, LaneId, Now, Priority, Qos, Seq, Timestamp};
use wire::{Packet, ReasonCode, Version};

use super::*;
use crate::envelope::Envelope;

const URGENT: LaneId = LaneId(1);
const LANE: LaneId = LaneId(7);

pub(super) fn seq(number: u64) -> Seq {
    Seq::new(number).expect("not zero")
}

pub(super) fn at(millis: u64) -> Now {
    Now { instant: Instant(millis * 1_000), timestamp: Timestamp(millis) }
}

pub(super) fn setup(inflight_max: u16) -> LinkSetup {
    LinkSetup {
        version: Version::V5,
        client_id: "gateway".into(),
        user: None,
        password: None,
        keep_alive_secs: 10,
        greeting_millis: 15_000,
        answer_millis: 60_000,
        dialect: std::sync::Arc::new(mapping()),
        inbound: None,
        inflight_max,
        packet_bytes_max: 1 << 16,
        is_exact: true,
        address: 0,
        gone: [].into(),
        keeps_session: false,
    }
}

pub(super) fn mapping() -> Mapping {
    Mapping {
        version: Version::V5,
        prefix: "site/1/".into(),
        entries: Vec::new(),
        qos: Wish::AsPublished,
        keeps_retain: true,
        gateway: "gw".into(),
        origin: Origin::new("gw", 1),
        id_property: Some("id".into()),
        packing: None,
    }
}

pub(super) fn rules() -> Rules {
    Rules {
        schedule: Schedule::Strict,
        live_first: false,
        history_share_percent: 25,
        messages_per_sec: 0,
        bytes_per_sec: 0,
        drain_jitter_millis: 0,
        window: (1, 65_535),
        attempts_max: 3,
        retry_millis: (100, 1_000),
        look_ahead_max: 50,
        held_max: 50,
        senders_max: 4,
        read_bytes_max: 1 << 16,
        identity: Some("from-upstream".into()),
        seed: 7,
    }
}

pub(super) fn record(client_id: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let qos = Qos::AtLeastOnce;
    let envelope =
        Envelope { topic: "a/b", client_id, user: "", qos, retain: false, properties: &[], payload };
    envelope.encode(&mut bytes);
    bytes
}

pub(super) fn connack(receive_max: u16, packet_bytes_max: Option<u32>) -> Vec<u8> {
    let mut ack = wire::ConnAck::new(false, ReasonCode::SUCCESS);
    ack.receive_max = NonZeroU16::new(receive_max).expect("not zero");
    ack.packet_bytes_max = packet_bytes_max.and_then(|bytes| bytes.try_into().ok());
    let mut bytes = Vec::new();
    wire::encode_connack(&mut bytes, Version::V5, &ack).expect("fits");
    bytes
}

pub(super) fn puback(packet_id: u16, reason: ReasonCode) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packet_id = NonZeroU16::new(packet_id).expect("not zero");
    wire::encode_ack(&mut bytes, Version::V5, wire::AckKind::PubAck, packet_id, reason);
    bytes
}

/// A publication that the upstream was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) id: u16,
    pub(super) topic: String,
    pub(super) dup: bool,
    pub(super) payload: Vec<u8>,
}

/// Takes the publications off `out`.
pub(super) fn take_written(out: &mut Vec<u8>) -> Vec<Written> {
    let bytes = std::mem::take(out);
    let mut rest = &bytes[..];
    let mut seen = Vec::new();
    while let Some(frame) = wire::split(rest, 1 << 20).expect("our own packets") {
        rest = &rest[frame.total_len()..];
        if let Packet::Publish(publish) = wire::decode(frame, Version::V5).expect("our own packets") {
            seen.push(Written {
                id: publish.packet_id.map_or(0, NonZeroU16::get),
                topic: publish.topic.to_owned(),
                dup: publish.dup,
                payload: publish.payload.to_owned(),
            });
        }
    }
    assert!(rest.is_empty(), "only whole packets are written");
    seen
}

/// Two lanes and a link; each message's payload is its sender and its place.
struct Bench {
    carrier: Carrier,
    lanes: [(LaneId, Vec<Vec<u8>>); 2],
    out: Vec<u8>,
    /// Written and not answered.
    open: Vec<Written>,
    now: u64,
}

impl Bench {
    fn new(rules: Rules) -> Bench {
        let mut carrier = Carrier::new(rules);
        carrier.add_lane(URGENT, Priority::HIGHEST, seq(1), seq(1));
        carrier.add_lane(LANE, Priority::DEFAULT, seq(1), seq(1));
        let lanes = [(URGENT, Vec::new()), (LANE, Vec::new())];
        Bench { carrier, lanes, out: Vec::new(), open: Vec::new(), now: 1 }
    }

    /// A link that is up, with this window.
    fn up(rules: Rules, window: u16) -> Bench {
        let mut bench = Bench::new(rules);
        bench.connect(window, None);
        bench
    }

    fn connect(&mut self, window: u16, packet_bytes_max: Option<u32>) {
        self.out.clear();
        self.open.clear();
        self.carrier.connected(setup(window), at(self.now), &mut self.out).expect("opens");
        self.fill();
        assert_eq!(take_written(&mut self.out), [], "nothing is sent before CONNACK");
        self.read(&connack(u16::MAX, packet_bytes_max)).expect("accepted");
    }

    fn publish(&mut self, lane: LaneId, sender: &str) {
        let records = &mut self.lanes.iter_mut().find(|it| it.0 == lane).expect("one of two").1;
        let payload = format!("{sender}{}", records.len() + 1);
        records.push(record(sender, payload.as_bytes()));
        let tail = seq(records.len() as u64 + 1);
        self.carrier.grown(lane, tail);
    }

    fn read(&mut self, bytes: &[u8]) -> Result<usize, LinkError> {
        self.carrier.read(bytes, at(self.now), &mut self.out)
    }

    fn fill(&mut self) {
        while let Some(mut reading) = self.carrier.next_reading(self.out.len(), at(self.now).instant) {
            let records = &self.lanes.iter().find(|it| it.0 == reading.lane).expect("one of two").1;
            let (mut place, mut given, mut bytes) = (reading.from.get() as usize, 0, 0);
            while place <= records.len() && given < reading.messages_max {
                let record = &records[place - 1];
                bytes += record.len();
                // Like the store: one record at least, and no more bytes than that; what has expired (is empty) does not count.
                if !record.is_empty() {
                    if given > 0 && bytes > reading.bytes_max {
                        break;
                    }
                    given += 1;
                    let now = at(self.now);
                    self.carrier.offer(&mut reading, seq(place as u64), record, None, now, &mut self.out);
                }
                place += 1;
            }
            self.carrier.passed(&reading, seq(place as u64));
            self.carrier.invariants();
        }
    }

    /// What is sent now: payloads.
    fn sent(&mut self) -> Vec<String> {
        self.fill();
        let written = take_written(&mut self.out);
        self.open.extend(written.iter().cloned());
        written.into_iter().map(|it| String::from_utf8(it.payload).expect("text")).collect()
    }

    /// Answers the oldest publication in flight with this payload.
    #[track_caller]
    fn answer(&mut self, payload: &str, reason: ReasonCode) {
        let index = self.open.iter().position(|it| it.payload == payload.as_bytes()).expect("in flight");
        let id = self.open.remove(index).id;
        self.read(&puback(id, reason)).expect("an answer");
        self.carrier.invariants();
    }

    fn take(&mut self, payloads: &[&str]) {
        payloads.iter().for_each(|payload| self.answer(payload, ReasonCode::SUCCESS));
    }

    fn delivered(&mut self) -> Vec<(LaneId, u64)> {
        let mut delivered = Vec::new();
        self.carrier.delivered(&mut delivered);
        delivered.into_iter().map(|(lane, seq)| (lane, seq.get())).collect()
    }

    /// What is delivered behind heads, and was not told.
    fn ahead(&mut self) -> Vec<(LaneId, u64, u64)> {
        let mut ahead = Vec::new();
        self.carrier.delivered_ahead(&mut ahead);
        self.carrier.invariants();
        ahead.into_iter().map(|it| (it.lane, it.from.get(), it.up_to.get())).collect()
    }

    fn pass(&mut self, millis: u64) {
        self.now += millis;
    }

    fn lose(&mut self) {
        self.carrier.lost(true, None, at(self.now).instant);
    }
}

#[test]
fn the_smaller_of_both_windows_holds() {
    for (ours, theirs, expected) in [(100, 3, 3), (2, 30, 2)] {
        let mut bench = Bench::new(rules());
        (0..10).for_each(|_| bench.publish(LANE, "a"));
        bench.carrier.connected(setup(ours), at(0), &mut bench.out).expect("opens");
        bench.read(&connack(theirs, None)).expect("accepted");
        assert_eq!(bench.sent().len(), expected);
    }
}

/// [MQTT-3.2.2-14]
#[test]
fn where_retained_messages_are_not_available_they_are_sent_without_retain() {
    for is_available in [true, false] {
        let mut bench = Bench::new(rules());
        let mut bytes = Vec::new();
        let (topic, client_id, qos) = ("a/b", "a", Qos::AtLeastOnce);
        let envelope =
            Envelope { topic, client_id, user: "", qos, retain: true, properties: &[], payload: b"a1" };
        envelope.encode(&mut bytes);
        bench.lanes[1].1.push(bytes);
        bench.carrier.grown(LANE, seq(2));
        bench.carrier.connected(setup(1), at(0), &mut bench.out).expect("opens");
        let mut ack = wire::ConnAck::new(false, ReasonCode::SUCCESS);
        ack.retain_available = is_available;
        let mut bytes = Vec::new();
        wire::encode_connack(&mut bytes, Version::V5, &ack).expect("fits");
        bench.out.clear();
        bench.read(&bytes).expect("accepted");
        bench.fill();
        let frame = wire::split(&bench.out, 1 << 20).expect("a packet").expect("a whole one");
        let Ok(Packet::Publish(publish)) = wire::decode(frame, Version::V5) else { panic!("a PUBLISH") };
        assert_eq!(publish.retain, is_available);
    }
}

#[test]
fn places_are_delivered_without_gaps_whatever_the_order_of_answers() {
    let mut bench = Bench::up(rules(), 10);
    (0..3).for_each(|_| bench.publish(LANE, "a"));
    assert_eq!(bench.sent(), ["a1", "a2", "a3"]);
    assert_eq!(bench.open[2].topic, "site/1/a/b");
    bench.take(&["a2"]);
    assert_eq!(bench.delivered(), []);
    bench.take(&["a1"]);
    assert_eq!(bench.delivered(), [(LANE, 2)]);
    bench.read(&puback(9, ReasonCode::SUCCESS)).expect("an unknown identifier changes nothing");
    assert_eq!((bench.carrier.inflight(), bench.carrier.backlog()), (1, 1));
}

#[test]
fn after_a_lost_link_only_what_was_not_answered_is_sent_again_and_marked() {
    let mut bench = Bench::up(rules(), 3);
    (0..4).for_each(|_| bench.publish(LANE, "a"));
    assert_eq!(bench.sent(), ["a1", "a2", "a3"]);
    bench.take(&["a2"]);
    bench.lose();
    bench.connect(10, None);
    assert_eq!(bench.sent(), ["a1", "a3", "a4"]);
    let dups: Vec<bool> = bench.open.iter().map(|it| it.dup).collect();
    assert_eq!(dups, [true, true, false]);
    bench.take(&["a1", "a3", "a4"]);
    assert_eq!(bench.delivered(), [(LANE, 4)]);
}

#[test]
fn an_urgent_message_overtakes_a_backlog_and_a_lane_that_fails() {
    let mut bench = Bench::up(rules(), 2);
    (0..4).for_each(|_| bench.publish(LANE, "a"));
    assert_eq!(bench.sent(), ["a1", "a2"]);
    bench.publish(URGENT, "u");
    bench.answer("a1", ReasonCode::QUOTA_EXCEEDED);
    assert_eq!(bench.sent(), ["u1"]);
    bench.take(&["u1", "a2"]);
    assert_eq!(bench.delivered(), [(URGENT, 1)]);
}

#[test]
fn a_refused_sender_waits_in_order_and_the_others_go_on() {
    let mut bench = Bench::up(rules(), 10);
    for sender in ["a", "b", "a", "b"] {
        bench.publish(LANE, sender);
    }
    assert_eq!(bench.sent(), ["a1", "b2", "a3", "b4"]);
    bench.answer("a1", ReasonCode::QUOTA_EXCEEDED);
    bench.answer("a3", ReasonCode::QUOTA_EXCEEDED);
    bench.publish(LANE, "a");
    bench.publish(LANE, "b");
    assert_eq!(bench.sent(), ["b6"]);
    bench.take(&["b2", "b4", "b6"]);
    assert_eq!(bench.delivered(), []);
    let wait = bench.carrier.wait_millis(at(bench.now).instant).expect("a try is due");
    assert!((50..=101).contains(&wait), "{wait}");
    bench.pass(wait);
    assert_eq!(bench.sent(), ["a1"], "its oldest one alone");
    bench.answer("a1", ReasonCode::QUOTA_EXCEEDED);
    bench.pass(1_000);
    assert_eq!(bench.sent(), ["a1"]);
    bench.take(&["a1"]);
    assert_eq!(bench.sent(), ["a3", "a5"]);
    bench.take(&["a3", "a5"]);
    assert_eq!(bench.delivered(), [(LANE, 6)]);
    assert_eq!(bench.carrier.senders_waiting(), 0);
}

#[test]
fn a_message_refused_too_often_goes_aside_and_its_place_counts_once_it_is_safe() {
    let mut bench = Bench::up(rules(), 10);
    bench.publish(LANE, "a");
    bench.publish(LANE, "a");
    assert_eq!(bench.sent(), ["a1", "a2"]);
    bench.take(&["a2"]);
    for attempt in 1..=3 {
        assert_eq!(bench.carrier.next_aside(), None);
        bench.answer("a1", ReasonCode::NOT_AUTHORIZED);
        bench.pass(1_000);
        assert_eq!(bench.sent().len(), usize::from(attempt < 3));
    }
    let why = Refusal::Answered(ReasonCode::NOT_AUTHORIZED);
    assert_eq!(bench.carrier.next_aside(), Some(Aside { lane: LANE, seq: seq(1), attempts: 3, why }));
    assert_eq!(bench.delivered(), []);
    bench.carrier.is_aside(LANE, seq(1));
    assert_eq!(bench.delivered(), [(LANE, 2)]);
}

#[test]
fn after_its_first_message_a_sender_loses_one_per_attempt_and_not_all_at_once() {
    let mut bench = Bench::up(rules(), 2);
    (0..4).for_each(|_| bench.publish(LANE, "a"));
    assert_eq!(bench.sent(), ["a1", "a2"]);
    bench.answer("a1", ReasonCode::NOT_AUTHORIZED);
    bench.answer("a2", ReasonCode::NOT_AUTHORIZED);
    for _ in 0..2 {
        bench.pass(1_000);
        assert_eq!(bench.sent(), ["a1"]);
        bench.answer("a1", ReasonCode::NOT_AUTHORIZED);
    }
    assert!(bench.carrier.next_aside().is_some());
    for payload in ["a2", "a3"] {
        assert_eq!(bench.sent(), [""; 0], "not before the shortest delay");
        bench.pass(100);
        assert_eq!(bench.sent(), [payload]);
        bench.answer(payload, ReasonCode::NOT_AUTHORIZED);
        assert!(bench.carrier.next_aside().is_some());
    }
    bench.pass(100);
    assert_eq!(bench.sent(), ["a4"]);
    bench.take(&["a4"]);
    assert_eq!(bench.carrier.senders_waiting(), 0);
}

#[test]
fn what_the_upstream_can_never_take_goes_aside_at_once() {
    let mut bench = Bench::new(rules());
    bench.lanes[1].1.push(record("a", &[b'x'; 300]));
    bench.lanes[1].1.push(b"junk".to_vec());
    bench.publish(LANE, "a");
    bench.connect(10, Some(200));
    assert_eq!(bench.sent(), ["a3"]);
    let mut asides: Vec<_> = std::iter::from_fn(|| bench.carrier.next_aside()).collect();
    asides.sort_by_key(|aside| aside.seq);
    assert_eq!(asides[0].why, Refusal::TooLarge { bytes_max: 200 });
    assert_eq!(asides[1].why, Refusal::Unreadable);
    bench.answer("a3", ReasonCode::TOPIC_NAME_INVALID);
    assert_eq!(bench.carrier.next_aside().map(|aside| aside.attempts), Some(1));
}

#[test]
fn the_message_that_ends_the_connection_each_time_is_found_and_goes_aside() {
    let mut bench = Bench::up(rules(), 10);
    (0..6).for_each(|_| bench.publish(LANE, "a"));
    // The upstream answers nothing of what it got with the third, which kills it.
    for attempt in 0..20 {
        let sent = bench.sent();
        if let Some(aside) = bench.carrier.next_aside() {
            assert_eq!((aside.seq, aside.why, aside.attempts), (seq(3), Refusal::EndsLink(None), 3));
            assert!(attempt < 12);
            bench.carrier.is_aside(LANE, seq(3));
            assert_eq!(sent, ["a4"], "the rest of what was in flight goes one by one, too");
            bench.take(&["a4"]);
            break;
        }
        if sent.iter().any(|payload| payload == "a3") {
            bench.lose();
            bench.connect(10, None);
        } else {
            sent.iter().for_each(|payload| bench.take(&[payload]));
        }
    }
    assert_eq!(bench.delivered(), [(LANE, 4)]);
    assert_eq!(bench.sent(), ["a5"]);
    bench.take(&["a5"]);
    assert_eq!(bench.sent(), ["a6"]);
}

#[test]
fn networks_that_fail_are_no_messages_fault() {
    let mut bench = Bench::up(rules(), 1);
    bench.publish(LANE, "a");
    let shutting_down = LinkError::Disconnected(ReasonCode::SERVER_SHUTTING_DOWN);
    for error in [None, Some(&shutting_down)] {
        for _ in 0..10 {
            assert_eq!(bench.sent(), ["a1"]);
            bench.carrier.lost(error.is_some(), error, at(bench.now).instant);
            bench.connect(1, None);
        }
    }
    assert_eq!(bench.carrier.next_aside(), None);
}

#[test]
fn with_more_refused_senders_than_may_wait_everything_rests() {
    let mut bench = Bench::up(rules(), 10);
    for sender in ["a", "b", "c", "d", "e", "f"] {
        bench.publish(LANE, sender);
    }
    let sent = bench.sent();
    sent.iter().for_each(|payload| bench.answer(payload, ReasonCode::QUOTA_EXCEEDED));
    bench.publish(LANE, "g");
    assert_eq!(bench.sent(), [""; 0]);
    assert_eq!(bench.carrier.senders_waiting(), 4);
    bench.pass(2_000);
    let mut again: Vec<_> =
        std::iter::from_fn(|| Some(bench.sent()).filter(|it| !it.is_empty())).flatten().collect();
    again.sort();
    assert_eq!(again, ["a1", "b2", "c3", "d4", "e5", "f6", "g7"]);
}

#[test]
fn a_lane_reads_no_further_than_the_look_ahead_while_the_poison_lane_is_slow() {
    let mut bench = Bench::up(Rules { look_ahead_max: 5, ..rules() }, 2);
    (0..10).for_each(|_| bench.publish(LANE, "a"));
    let mut count = 0;
    loop {
        let sent = bench.sent();
        if sent.is_empty() {
            break;
        }
        count += sent.len();
        sent.iter().for_each(|payload| bench.answer(payload, ReasonCode::TOPIC_NAME_INVALID));
    }
    assert_eq!(count, 5);
    let aside = bench.carrier.next_aside().expect("refused");
    assert!(bench.sent().is_empty(), "it is not safe yet");
    bench.carrier.is_aside(aside.lane, aside.seq);
    assert_eq!(bench.sent(), ["a6"]);
}

#[test]
fn a_refused_sender_reads_no_further_than_the_look_ahead() {
    let mut bench = Bench::up(rules(), 10);
    (0..200).for_each(|_| bench.publish(LANE, "a"));
    let sent = bench.sent();
    sent.iter().for_each(|payload| bench.answer(payload, ReasonCode::QUOTA_EXCEEDED));
    assert_eq!(bench.sent(), [""; 0]);
    // 50 places: what is behind them waits for the sender, too, and for nobody else's lane.
    bench.publish(URGENT, "u");
    assert_eq!(bench.sent(), ["u1"]);
}

#[test]
fn live_messages_pass_what_waited_which_keeps_its_share() {
    let mut bench = Bench::new(Rules { live_first: true, ..rules() });
    (0..40).for_each(|_| bench.publish(LANE, "h"));
    bench.connect(8, None);
    assert_eq!(
        bench.sent(),
        ["h1", "h2", "h3", "h4", "h5", "h6"],
        "a quarter of the window is left for live ones"
    );
    bench.publish(LANE, "l");
    bench.publish(LANE, "l");
    assert_eq!(bench.sent(), ["l41", "l42"]);
    bench.take(&["l41", "l42"]);
    assert_eq!(bench.delivered(), [], "what waited is not delivered");
    // Both always have something.
    let (mut history, mut live) = (0, 0);
    for _ in 0..24 {
        (0..3).for_each(|_| bench.publish(LANE, "l"));
        let open: Vec<_> =
            bench.open.iter().map(|it| String::from_utf8(it.payload.clone()).expect("text")).collect();
        open.iter().take(2).for_each(|payload| bench.take(&[payload]));
        for payload in bench.sent() {
            if payload.starts_with('h') { history += 1 } else { live += 1 }
        }
    }
    assert!(history >= (history + live) / 5, "{history} of {}", history + live);
    assert!(live > history, "{live} against {history}");
}

#[test]
fn a_backlog_starts_to_drain_within_its_jitter_and_other_lanes_at_once() {
    let mut bench = Bench::new(Rules { drain_jitter_millis: 5_000, ..rules() });
    (0..20).for_each(|_| bench.publish(LANE, "a"));
    bench.connect(8, None);
    bench.publish(URGENT, "u");
    assert_eq!(bench.sent(), ["u1"]);
    let wait = bench.carrier.wait_millis(at(bench.now).instant).expect("it is waited for");
    assert!((1..=5_001).contains(&wait), "{wait}");
    bench.pass(wait);
    assert_eq!(bench.sent().len(), 7);
}

#[test]
fn each_reconnect_draws_its_own_start_of_the_drain() {
    let mut bench = Bench::new(Rules { drain_jitter_millis: 5_000, ..rules() });
    (0..20).for_each(|_| bench.publish(LANE, "a"));
    let mut waits = std::collections::BTreeSet::new();
    for _ in 0..20 {
        bench.connect(8, None);
        assert_eq!(bench.sent(), [""; 0], "what is left waits again");
        let wait = bench.carrier.wait_millis(at(bench.now).instant).expect("it is waited for");
        assert!(wait <= 5_001, "{wait}");
        waits.insert(wait);
        bench.pass(wait);
        assert_eq!(bench.sent().len(), 8);
        bench.carrier.lost(false, None, at(bench.now).instant);
        bench.pass(60_000);
    }
    assert!(waits.len() > 15, "not all gateways of a site begin in the same moment: {waits:?}");
}

#[test]
fn a_pace_in_bytes_lets_large_messages_through_one_by_one() {
    let mut bench = Bench::up(Rules { bytes_per_sec: 10, ..rules() }, 8);
    bench.pass(10_000);
    (0..3).for_each(|_| bench.publish(LANE, "a"));
    assert_eq!(bench.sent(), ["a1"]);
    assert_eq!(bench.sent(), [""; 0]);
    let wait = bench.carrier.wait_millis(at(bench.now).instant).expect("a debt");
    bench.pass(wait + 1);
    assert_eq!(bench.sent(), ["a2"]);
}

/// Topic, properties and id are most of what a small message is.
#[test]
fn a_pace_in_bytes_counts_what_is_sent_and_not_what_is_stored() {
    let paced = Rules { bytes_per_sec: 10_000, look_ahead_max: 10_000, held_max: 10_000, ..rules() };
    let mut bench = Bench::up(paced, 100);
    (0..2_000).for_each(|_| bench.publish(LANE, "a"));
    let mut bytes = 0;
    for _ in 0..500 {
        bench.pass(10);
        bench.fill();
        bytes += bench.out.len();
        for written in take_written(&mut bench.out) {
            bench.read(&puback(written.id, ReasonCode::SUCCESS)).expect("an answer");
        }
    }
    assert!((48_000..=53_000).contains(&bytes), "{bytes} in 5 s");
}

/// The upstream takes 100 a second, of senders who together have 150, and most answers say that all is well.
#[test]
fn a_quota_that_takes_most_of_what_comes_is_throttling_too() {
    let mut bench =
        Bench::up(Rules { senders_max: 100, look_ahead_max: 10_000, held_max: 10_000, ..rules() }, 1_000);
    let mut tokens = 10.0_f64;
    let (mut refused, mut run, mut longest) = (0, 0, 0);
    for step in 0..1_000 {
        bench.pass(10);
        tokens = (tokens + 1.0).min(10.0);
        let new = if step % 2 == 0 { 2 } else { 1 };
        (0..new).for_each(|number| bench.publish(LANE, &format!("s{}-", (step + number * 7) % 25)));
        bench.fill();
        for written in take_written(&mut bench.out) {
            let is_taken = tokens >= 1.0;
            tokens -= f64::from(u8::from(is_taken));
            refused += u32::from(!is_taken);
            run = if is_taken { 0 } else { run + 1 };
            longest = longest.max(run);
            let reason = if is_taken { ReasonCode::SUCCESS } else { ReasonCode::QUOTA_EXCEEDED };
            bench.read(&puback(written.id, reason)).expect("an answer");
        }
    }
    assert!(longest < 8, "{longest} in a row: that would be noticed in any case");
    assert!(bench.carrier.pressure().throttles > 0, "{refused} refusals, and nothing is noticed");
    assert_eq!(bench.carrier.next_aside(), None);
}

#[test]
fn an_upstream_that_takes_only_qos_0_gets_nothing_that_is_to_be_delivered() {
    let connack = |bench: &mut Bench, setup: LinkSetup| {
        bench.carrier.connected(setup, at(0), &mut bench.out).expect("opens");
        let mut ack = wire::ConnAck::new(false, ReasonCode::SUCCESS);
        ack.qos_max = Qos::AtMostOnce;
        let mut bytes = Vec::new();
        wire::encode_connack(&mut bytes, Version::V5, &ack).expect("fits");
        bench.read(&bytes)
    };
    let mut bench = Bench::new(rules());
    bench.publish(LANE, "a");
    assert_eq!(connack(&mut bench, setup(10)), Err(LinkError::NeverAnswers));
    assert_eq!((bench.sent(), bench.delivered()), (vec![], vec![]));
    bench.carrier.lost(false, Some(&LinkError::NeverAnswers), at(1).instant);
    // Where the map says that all of it may be lost, it is what was asked for.
    let map = Mapping { qos: Wish::Be(Qos::AtMostOnce), ..mapping() };
    let setup = LinkSetup { dialect: std::sync::Arc::new(map), ..setup(10) };
    assert!(connack(&mut bench, setup).is_ok());
    assert_eq!((bench.sent(), bench.delivered()), (vec!["a1".to_owned()], vec![(LANE, 1)]));
}

#[test]
fn a_session_that_nobody_needs_begins_anew() {
    let is_clean = |setup: LinkSetup| {
        let mut out = Vec::new();
        let version = setup.version;
        Bench::new(rules()).carrier.connected(setup, at(0), &mut out).expect("opens");
        let frame = wire::split(&out, 1 << 20).expect("our own packet").expect("a whole one");
        match wire::decode(frame, version).expect("our own packet") {
            Packet::Connect(connect) => connect.clean_start,
            other => panic!("{:?}", other.packet_type()),
        }
    };
    let v3 = |is_exact| LinkSetup { version: Version::V3, is_exact, ..setup(8) };
    assert!(is_clean(setup(8)) && is_clean(v3(false)));
    assert!(!is_clean(v3(true)), "it would end with the connection, and each exchange with it");
    assert!(!is_clean(LinkSetup { keeps_session: true, ..setup(8) }));
}

/// What the link was told to end there.
fn unsubscribed(out: &mut Vec<u8>) -> Vec<(NonZeroU16, Vec<String>)> {
    let bytes = std::mem::take(out);
    let (mut rest, mut seen) = (&bytes[..], Vec::new());
    while let Some(frame) = wire::split(rest, 1 << 20).expect("our own packets") {
        rest = &rest[frame.total_len()..];
        if let Packet::Unsubscribe(it) = wire::decode(frame, Version::V5).expect("our own packets") {
            seen.push((it.packet_id, it.filters));
        }
    }
    seen
}

#[test]
fn what_is_not_subscribed_to_any_more_is_ended_and_counted_until_then() {
    for session_present in [false, true] {
        let mut bench = Bench::new(rules());
        let gone = ["a/#".to_owned(), "b/#".to_owned()].into();
        let setup = LinkSetup { gone, ..setup(8) };
        bench.carrier.connected(setup, at(0), &mut bench.out).expect("opens");
        bench.out.clear();
        let mut bytes = Vec::new();
        let ack = wire::ConnAck::new(session_present, ReasonCode::SUCCESS);
        wire::encode_connack(&mut bytes, Version::V5, &ack).expect("fits");
        bench.read(&bytes).expect("accepted");
        let mut told = Vec::new();
        while let [(packet_id, filters)] = &unsubscribed(&mut bench.out)[..] {
            told.extend(filters.clone());
            let mut bytes = Vec::new();
            let ack = wire::UnsubAck::new(*packet_id, vec![ReasonCode::SUCCESS]);
            wire::encode_unsuback(&mut bytes, Version::V5, &ack).expect("fits");
            bench.read(&bytes).expect("an answer");
        }
        assert_eq!(told, if session_present { &["a/#", "b/#"][..] } else { &[] });
        let mut bytes = Vec::new();
        let publish = wire::OutgoingPublish { topic: "a/b", payload: b"x", ..Default::default() };
        wire::encode_publish(&mut bytes, Version::V5, &publish).expect("fits");
        bench.read(&bytes).expect("a message");
        assert_eq!(bench.carrier.counts().inbound.unmapped, 1);
    }
}

#[test]
fn a_refused_connection_says_why() {
    let mut bench = Bench::new(rules());
    bench.carrier.connected(setup(10), at(0), &mut bench.out).expect("opens");
    let mut bytes = Vec::new();
    let ack = wire::ConnAck::new(false, ReasonCode::NOT_AUTHORIZED);
    wire::encode_connack(&mut bytes, Version::V5, &ack).expect("fits");
    assert_eq!(bench.read(&bytes), Err(LinkError::Refused(ReasonCode::NOT_AUTHORIZED)));
}

#[test]
fn a_quiet_link_is_probed_and_a_silent_one_ends() {
    let mut bench = Bench::up(rules(), 10);
    bench.carrier.tick(at(4_000), &mut bench.out).expect("alive");
    assert!(bench.out.is_empty());
    bench.carrier.tick(at(5_001), &mut bench.out).expect("alive");
    assert_eq!(bench.out, [0xC0, 0x00]);
    assert_eq!(bench.carrier.tick(at(15_002), &mut bench.out), Err(LinkError::Silent));
}

#[test]
fn an_upstream_that_answers_nothing_is_given_up_at_connect_and_later() {
    let mut bench = Bench::new(rules());
    bench.carrier.connected(setup(10), at(1), &mut bench.out).expect("opens");
    bench.carrier.tick(at(15_001), &mut bench.out).expect("patience");
    let error = bench.carrier.tick(at(15_002), &mut bench.out).expect_err("no CONNACK");
    assert_eq!(error, LinkError::NotGreeted { millis: 15_000 });
    assert!(error.to_string().contains("does not answer CONNECT within 15 s"), "{error}");

    let mut bench = Bench::up(rules(), 10);
    bench.publish(LANE, "a");
    assert_eq!(bench.sent(), ["a1"]);
    for _ in 0..12 {
        bench.pass(5_000);
        let now = at(bench.now);
        bench.carrier.tick(now, &mut bench.out).expect("it answers pings");
        bench.read(&[0xD0, 0]).expect("PINGRESP");
    }
    bench.pass(1);
    let error = bench.carrier.tick(at(bench.now), &mut bench.out).expect_err("no progress");
    assert_eq!(error, LinkError::Unanswered { millis: 60_000, inflight: 1 });
}

#[test]
fn a_probe_that_nobody_answers_ends_the_link() {
    let mut bench = Bench::up(rules(), 10);
    bench.carrier.probe(at(1_000), &mut bench.out);
    assert_eq!(std::mem::take(&mut bench.out), [0xC0, 0]);
    bench.carrier.tick(at(11_000), &mut bench.out).expect("patience");
    assert_eq!(bench.carrier.tick(at(11_001), &mut bench.out), Err(LinkError::Silent));
}

#[test]
fn throttling_by_answers_and_by_endings_shrinks_the_window_and_keeps_everything() {
    let mut bench = Bench::up(rules(), 100);
    (0..100).for_each(|_| bench.publish(LANE, "a"));
    assert_eq!(bench.sent().len(), 64, "where every link starts");
    (1..=7).for_each(|place| bench.answer(&format!("a{place}"), ReasonCode::QUOTA_EXCEEDED));
    assert!(!bench.carrier.pressure().is_throttled, "so far it may be the sender's");
    bench.answer("a8", ReasonCode::QUOTA_EXCEEDED);
    let pressure = bench.carrier.pressure();
    assert!(pressure.is_throttled && pressure.window <= 32, "{pressure:?}");
    let too_fast = LinkError::Disconnected(ReasonCode::MESSAGE_RATE_TOO_HIGH);
    bench.pass(100);
    bench.carrier.lost(true, Some(&too_fast), at(bench.now).instant);
    assert_eq!(bench.carrier.pressure().throttles, 2);
    assert_eq!((bench.carrier.backlog(), bench.carrier.next_aside()), (100, None));
    // Without a word: once is chance, twice is not.
    let mut bench = Bench::up(rules(), 100);
    (0..100).for_each(|_| bench.publish(LANE, "a"));
    for expected in [0, 1] {
        assert_eq!(bench.sent().len(), 64);
        bench.pass(1_000);
        bench.carrier.cut_off(at(bench.now).instant);
        bench.carrier.lost(false, None, at(bench.now).instant);
        assert_eq!(bench.carrier.pressure().throttles, expected);
        bench.connect(100, None);
    }
}

#[test]
fn outside_the_hours_only_urgent_lanes_go() {
    let mut bench = Bench::up(rules(), 10);
    bench.publish(LANE, "a");
    bench.carrier.set_open(false, None);
    assert!(!bench.carrier.has_something_to_go());
    assert_eq!(bench.sent(), [""; 0]);
    bench.carrier.set_open(false, Priority::new(2).ok());
    assert!(!bench.carrier.has_something_to_go());
    bench.publish(URGENT, "u");
    assert!(bench.carrier.has_something_to_go());
    assert_eq!(bench.sent(), ["u1"]);
    bench.carrier.set_open(true, None);
    assert_eq!(bench.sent(), ["a1"]);
}
