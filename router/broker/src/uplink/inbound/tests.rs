//! What comes from an upstream, with both sides played by hand.

use wire::{BlockBuilder, ConnAck};

use super::*;

fn rules() -> Arc<InboundRules> {
    let entry = |filter: &str, template: &str| InboundEntry {
        filter: filter.into(),
        template: Template::parse(template).expect("a template"),
        qos: Qos::AtLeastOnce,
        retain: false,
    };
    Arc::new(InboundRules {
        entries: vec![entry("cmd/gw1/#", "commands/{topic[2..]}"), entry("$share/g/news/+", "{topic}")],
        identity: "$uplink/plant".into(),
        gateway: "gw1".into(),
        origin: Origin::new("gw1", 7),
        id_property: Some("millrace-id".into()),
        packing: None,
        open_max: 1,
        packet_bytes_max: 1 << 16,
    })
}

/// What came of it: bytes for our broker, and identifiers acknowledged upstream.
struct Sides {
    inbound: Inbound,
    local: Vec<u8>,
    out: Vec<u8>,
}

impl Sides {
    fn new() -> Sides {
        Sides { inbound: Inbound::new(rules()), local: Vec::new(), out: Vec::new() }
    }

    fn come(&mut self, topic: &str, packet_id: u16, properties: &[u8]) {
        let qos = if packet_id > 0 { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        self.come_at(qos, topic, packet_id, properties).expect("not too many");
    }

    fn come_at(
        &mut self,
        qos: Qos,
        topic: &str,
        packet_id: u16,
        properties: &[u8],
    ) -> Result<(), &'static str> {
        let mut bytes = Vec::new();
        let publish = OutgoingPublish {
            topic,
            qos,
            packet_id: NonZeroU16::new(packet_id),
            properties,
            payload: b"x",
            retain: true,
            expiry_secs: Some(60),
            ..OutgoingPublish::default()
        };
        wire::encode_publish(&mut bytes, Version::V5, &publish).expect("fits");
        let frame = wire::split(&bytes, 1 << 16).expect("ours").expect("whole");
        let Packet::Publish(publish) = wire::decode(frame, Version::V5).expect("ours") else {
            unreachable!()
        };
        self.inbound.take(&publish, Version::V5, &mut self.local, &mut self.out)
    }

    /// Topic, identifier, RETAIN and expiry of what our broker got.
    fn published(&mut self) -> Vec<(String, u16, bool, Option<u32>)> {
        let bytes = std::mem::take(&mut self.local);
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        while let Some(frame) = wire::split(rest, 1 << 16).expect("ours") {
            rest = &rest[frame.total_len()..];
            if let Packet::Publish(it) = wire::decode(frame, Version::V5).expect("ours") {
                let id = it.packet_id.map_or(0, NonZeroU16::get);
                seen.push((it.topic.to_owned(), id, it.retain, it.properties.expiry_secs()));
            }
        }
        seen
    }

    fn acknowledged(&mut self) -> Vec<u16> {
        self.answered().into_iter().map(|(_, id)| id).collect()
    }

    /// What the upstream was told, in order.
    fn answered(&mut self) -> Vec<(AckKind, u16)> {
        acks(&std::mem::take(&mut self.out))
    }

    fn local_answer(&mut self, packet_id: u16, reason: ReasonCode) {
        self.local_says(AckKind::PubAck, packet_id, reason);
    }

    fn local_says(&mut self, kind: AckKind, packet_id: u16, reason: ReasonCode) {
        let mut bytes = Vec::new();
        let packet_id = NonZeroU16::new(packet_id).expect("not 0");
        wire::encode_ack(&mut bytes, Version::V5, kind, packet_id, reason);
        let taken = self.inbound.read_local(&bytes, Version::V5, &mut self.out).expect("ours");
        assert_eq!(taken, bytes.len());
    }
}

fn acks(mut rest: &[u8]) -> Vec<(AckKind, u16)> {
    let mut seen = Vec::new();
    while let Some(frame) = wire::split(rest, 1 << 16).expect("ours") {
        rest = &rest[frame.total_len()..];
        seen.extend(match wire::decode(frame, Version::V5).expect("ours") {
            Packet::PubAck(ack) => Some((AckKind::PubAck, ack.packet_id.get())),
            Packet::PubRec(ack) => Some((AckKind::PubRec, ack.packet_id.get())),
            Packet::PubRel(ack) => Some((AckKind::PubRel, ack.packet_id.get())),
            Packet::PubComp(ack) => Some((AckKind::PubComp, ack.packet_id.get())),
            _ => None,
        });
    }
    seen
}

/// [MQTT-4.6.0-2], [MQTT-4.6.0-3]: whoever answers first, the upstream is told in the order of its publications.
#[test]
fn answers_go_upstream_in_the_order_of_what_they_answer() {
    let mut sides = Sides::new();
    sides.come("news/today", 7, b"");
    sides.come("left/over", 3, b"");
    sides.come_at(Qos::ExactlyOnce, "news/today", 9, b"").expect("not too many");
    sides.come("news/today", 1, b"");
    assert_eq!(sides.answered(), [], "what nobody here wants waits for its turn, too");
    sides.local_answer(1, ReasonCode::SUCCESS);
    sides.local_says(AckKind::PubRec, 9, ReasonCode::SUCCESS);
    assert_eq!(sides.answered(), []);
    sides.local_answer(7, ReasonCode::QUOTA_EXCEEDED);
    let rest = [(AckKind::PubAck, 3), (AckKind::PubRec, 9), (AckKind::PubAck, 1)];
    assert_eq!(sides.answered(), rest, "what there was no room for holds up nobody");
}

/// Both halves of an exchange are our own session's, which lasts over connections.
#[test]
fn an_exchange_of_qos_2_is_passed_through_under_its_identifier() {
    let mut sides = Sides::new();
    let id = NonZeroU16::new(4_711).expect("not 0");
    sides.come_at(Qos::ExactlyOnce, "news/today", 4_711, b"").expect("not too many");
    sides.come_at(Qos::ExactlyOnce, "news/today", 4_711, b"").expect("not too many");
    let seen: Vec<_> = sides.published().into_iter().map(|it| it.1).collect();
    assert_eq!(seen, [4_711], "a repeat before the answer has that answer");
    sides.local_says(AckKind::PubRec, 4_711, ReasonCode::SUCCESS);
    assert_eq!(sides.answered(), [(AckKind::PubRec, 4_711)]);
    assert_eq!(
        sides.come_at(Qos::ExactlyOnce, "news/today", 4_712, b""),
        Err(TOO_MANY),
        "one at a time was agreed on"
    );
    sides.published();
    sides.inbound.release(id, &mut sides.local);
    assert_eq!(acks(&std::mem::take(&mut sides.local)), [(AckKind::PubRel, 4_711)]);
    assert_eq!(sides.answered(), []);
    sides.local_says(AckKind::PubComp, 4_711, ReasonCode::SUCCESS);
    // Our PUBCOMP was lost: the upstream asks again, and our own broker does not know any more.
    sides.inbound.release(id, &mut sides.local);
    sides.local_says(AckKind::PubComp, 4_711, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
    assert_eq!(sides.answered(), [(AckKind::PubComp, 4_711); 2]);
}

#[test]
fn what_our_broker_refuses_of_qos_2_ends_there_and_what_it_has_no_room_for_does_not() {
    let mut sides = Sides::new();
    sides.come_at(Qos::ExactlyOnce, "news/today", 5, b"").expect("not too many");
    sides.local_says(AckKind::PubRec, 5, ReasonCode::NOT_AUTHORIZED);
    assert_eq!((sides.answered(), sides.inbound.counts().refused), (vec![(AckKind::PubRec, 5)], 1));
    sides.local_says(AckKind::PubComp, 5, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
    assert_eq!(sides.answered(), [(AckKind::PubComp, 5)]);
    sides.come_at(Qos::ExactlyOnce, "news/today", 6, b"").expect("not too many");
    sides.local_says(AckKind::PubRec, 6, ReasonCode::QUOTA_EXCEEDED);
    assert_eq!((sides.answered(), sides.inbound.counts().unroomed), (vec![], 1));
}

/// Where the upstream has forgotten us, identifiers begin anew: what our own session remembers of them would take a new
/// message for a repeat.
#[test]
fn our_own_session_goes_on_only_with_that_of_the_upstream() {
    let connect = |exact: bool, continues: bool| {
        let mut rules = (*rules()).clone();
        rules.entries[0].qos = if exact { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
        let mut local = Vec::new();
        Inbound::new(Arc::new(rules)).begin(continues, &mut local);
        let frame = wire::split(&local, 1 << 16).expect("ours").expect("whole");
        let Packet::Connect(connect) = wire::decode(frame, Version::V5).expect("ours") else {
            unreachable!()
        };
        (connect.clean_start, connect.session_expiry_secs)
    };
    assert_eq!(connect(false, true), (true, 0), "nothing is remembered without QoS 2");
    assert_eq!(connect(true, false), (true, SESSION_SECS));
    assert_eq!(connect(true, true), (false, SESSION_SECS));
}

#[test]
fn the_upstream_is_told_after_our_own_broker_has_promised() {
    let mut sides = Sides::new();
    sides.come("cmd/gw1/press/stop", 40, b"");
    sides.come("news/today", 41, b"");
    assert!(sides.inbound.is_full());
    let expected = [
        ("commands/press/stop".to_owned(), 40, false, Some(60)),
        ("news/today".to_owned(), 41, false, Some(60)),
    ];
    assert_eq!(sides.published(), expected);
    assert_eq!(sides.acknowledged(), [0_u16; 0]);
    sides.local_answer(40, ReasonCode::NO_MATCHING_SUBSCRIBERS);
    assert_eq!(sides.acknowledged(), [40]);
    sides.local_answer(41, ReasonCode::SUCCESS);
    assert_eq!(sides.acknowledged(), [41]);
    assert!(!sides.inbound.is_full());
    sides.come("news/tomorrow", 42, b"");
    assert_eq!(sides.published()[0].1, 42);
    assert_eq!(sides.inbound.counts().published, 2);
}

#[test]
fn qos_0_is_passed_on_without_an_answer() {
    let mut sides = Sides::new();
    sides.come("news/today", 0, b"");
    assert_eq!(sides.published(), [("news/today".to_owned(), 0, false, Some(60))]);
    assert_eq!(sides.inbound.counts(), InboundCounts { published: 1, ..InboundCounts::default() });
}

/// Filters that overlap, or a session from before the map was changed: the upstream sends at a higher QoS than the entry.
#[test]
fn qos_1_there_and_qos_0_here_is_acknowledged_at_once() {
    let mut rules = (*rules()).clone();
    rules.entries[1].qos = Qos::AtMostOnce;
    let mut sides = Sides::new();
    sides.inbound = Inbound::new(Arc::new(rules));
    sides.come("news/today", 9, b"");
    assert_eq!(sides.published(), [("news/today".to_owned(), 0, false, Some(60))]);
    assert_eq!((sides.acknowledged(), sides.inbound.is_full()), (vec![9], false));
}

#[test]
fn what_this_gateway_sent_itself_does_not_come_back() {
    let mut sides = Sides::new();
    let mut block = BlockBuilder::new();
    block
        .user("millrace-id", "gw0/00000001/1/5")
        .and_then(|it| it.user("millrace-id", "gw1/00000007/3/9"))
        .expect("short");
    sides.come("news/today", 9, block.as_bytes());
    assert_eq!((sides.published(), sides.acknowledged()), (vec![], vec![9]));
    assert_eq!(sides.inbound.counts().loops, 1);
    block.begin(&[]).user("millrace-id", "gw1/00000008/3/9").expect("short");
    sides.come("news/today", 10, block.as_bytes());
    assert_eq!(sides.published().len(), 1, "another life of the store is another gateway");
}

#[test]
fn what_no_entry_is_for_is_acknowledged_and_counted() {
    let mut sides = Sides::new();
    sides.come("left/over", 9, b"");
    sides.come("cmd/gw1", 10, b"");
    assert_eq!((sides.published(), sides.acknowledged()), (vec![], vec![9, 10]));
    assert_eq!(sides.inbound.counts().unmapped, 2);
}

#[test]
fn what_our_broker_has_no_room_for_stays_unacknowledged_and_what_it_refuses_does_not() {
    let mut sides = Sides::new();
    sides.come("news/today", 9, b"");
    sides.come("news/today", 10, b"");
    sides.local_answer(9, ReasonCode::QUOTA_EXCEEDED);
    sides.local_answer(10, ReasonCode::NOT_AUTHORIZED);
    assert_eq!(sides.acknowledged(), [10]);
    let counts = sides.inbound.counts();
    assert_eq!((counts.unroomed, counts.refused, counts.published), (1, 1, 0));
}

#[test]
fn the_end_of_our_own_session_is_told() {
    let mut sides = Sides::new();
    let mut bytes = Vec::new();
    wire::encode_connack(&mut bytes, Version::V5, &ConnAck::new(false, ReasonCode::NOT_AUTHORIZED))
        .expect("fits");
    let error = sides.inbound.read_local(&bytes, Version::V5, &mut sides.out);
    assert_eq!(error, Err(LocalError::Refused(ReasonCode::NOT_AUTHORIZED)));
}

#[test]
fn our_own_messages_are_not_asked_for() {
    let subscriptions = Sides::new().inbound.subscriptions();
    let seen: Vec<_> =
        subscriptions.iter().map(|it| (&*it.filter, it.no_local, it.retain_as_published)).collect();
    // [MQTT-3.8.3-4]: a shared subscription cannot say so.
    assert_eq!(seen, [("cmd/gw1/#", true, true), ("$share/g/news/+", false, true)]);
}
