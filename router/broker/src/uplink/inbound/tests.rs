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
        let mut local = Vec::new();
        let inbound = Inbound::new(rules(), &mut local);
        local.clear();
        Sides { inbound, local, out: Vec::new() }
    }

    fn come(&mut self, topic: &str, packet_id: u16, properties: &[u8]) {
        let mut bytes = Vec::new();
        let publish = OutgoingPublish {
            topic,
            qos: if packet_id > 0 { Qos::AtLeastOnce } else { Qos::AtMostOnce },
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
        self.inbound.take(&publish, Version::V5, &mut self.local, &mut self.out);
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
        let bytes = std::mem::take(&mut self.out);
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        while let Some(frame) = wire::split(rest, 1 << 16).expect("ours") {
            rest = &rest[frame.total_len()..];
            if let Packet::PubAck(ack) = wire::decode(frame, Version::V5).expect("ours") {
                seen.push(ack.packet_id.get());
            }
        }
        seen
    }

    fn local_answer(&mut self, packet_id: u16, reason: ReasonCode) {
        let mut bytes = Vec::new();
        wire::encode_ack(
            &mut bytes,
            Version::V5,
            AckKind::PubAck,
            NonZeroU16::new(packet_id).expect("not 0"),
            reason,
        );
        let taken = self.inbound.read_local(&bytes, Version::V5, &mut self.out).expect("ours");
        assert_eq!(taken, bytes.len());
    }
}

#[test]
fn the_upstream_is_told_after_our_own_broker_has_promised() {
    let mut sides = Sides::new();
    sides.come("cmd/gw1/press/stop", 40, b"");
    sides.come("news/today", 41, b"");
    assert!(sides.inbound.is_full());
    let expected = [
        ("commands/press/stop".to_owned(), 1, false, Some(60)),
        ("news/today".to_owned(), 2, false, Some(60)),
    ];
    assert_eq!(sides.published(), expected);
    assert_eq!(sides.acknowledged(), [0_u16; 0]);
    sides.local_answer(2, ReasonCode::SUCCESS);
    assert_eq!(sides.acknowledged(), [41]);
    sides.local_answer(1, ReasonCode::NO_MATCHING_SUBSCRIBERS);
    assert_eq!(sides.acknowledged(), [40]);
    assert!(!sides.inbound.is_full());
    sides.come("news/tomorrow", 42, b"");
    assert_eq!(sides.published()[0].1, 3);
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
    sides.inbound = Inbound::new(Arc::new(rules), &mut Vec::new());
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
    sides.local_answer(1, ReasonCode::QUOTA_EXCEEDED);
    sides.local_answer(2, ReasonCode::NOT_AUTHORIZED);
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
