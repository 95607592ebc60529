//! Any packet at all, for the property tests.

use std::num::{NonZeroU16, NonZeroU32};

use model::Qos;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::{
    Ack, AckKind, Auth, BlockBuilder, ConnAck, Connect, Disconnect, Packet, PacketType, Publish,
    PublishProperties, ReasonCode, RetainHandling, SubAck, Subscribe, Subscription, UnsubAck, Unsubscribe,
    Version, Will,
};

/// A packet that owns what it needs; [`AnyPacket::packet`] borrows from it.
#[derive(Clone, Debug)]
pub(super) enum AnyPacket {
    Publish {
        dup: bool,
        qos: Qos,
        retain: bool,
        packet_id: NonZeroU16,
        topic: String,
        block: Vec<u8>,
        payload: Vec<u8>,
    },
    Ack(AckKind, NonZeroU16, ReasonCode),
    Other(Packet<'static>),
}

impl AnyPacket {
    pub(super) fn packet(&self) -> Packet<'_> {
        match self {
            AnyPacket::Publish { dup, qos, retain, packet_id, topic, block, payload } => {
                let above_0 = *qos != Qos::AtMostOnce;
                Packet::Publish(Publish {
                    dup: *dup && above_0,
                    qos: *qos,
                    retain: *retain,
                    packet_id: above_0.then_some(*packet_id),
                    topic,
                    properties: PublishProperties::from_block(block).unwrap(),
                    payload,
                })
            }
            AnyPacket::Ack(kind, packet_id, reason) => {
                let ack = Ack::new(*packet_id, *reason);
                match kind {
                    AckKind::PubAck => Packet::PubAck(ack),
                    AckKind::PubRec => Packet::PubRec(ack),
                    AckKind::PubRel => Packet::PubRel(ack),
                    AckKind::PubComp => Packet::PubComp(ack),
                }
            }
            AnyPacket::Other(packet) => packet.clone(),
        }
    }

    pub(super) fn bytes(&self, version: Version) -> Vec<u8> {
        let mut bytes = Vec::new();
        super::encode(&mut bytes, version, &self.packet()).unwrap();
        bytes
    }
}

pub(super) fn any_version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V3), Just(Version::V5)]
}

fn text() -> impl Strategy<Value = String> {
    "[^\\x00]{0,12}"
}

fn topic() -> impl Strategy<Value = String> {
    "[^\\x00+#]{1,24}"
}

fn filter() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => topic().prop_filter("a shared filter", |text| !text.starts_with("$share/")),
        1 => Just("#".to_owned()),
        1 => Just("+/a/#".to_owned()),
        1 => Just("/+".to_owned()),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

fn user_properties(version: Version) -> BoxedStrategy<Vec<(String, String)>> {
    match version {
        Version::V3 => Just(Vec::new()).boxed(),
        Version::V5 => vec((text(), text()), 0..4).boxed(),
    }
}

fn qos() -> impl Strategy<Value = Qos> {
    prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)]
}

fn any_id() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|number| NonZeroU16::new(number).unwrap())
}

/// `None` in 3.1.1.
fn only_5<T: std::fmt::Debug + Clone + 'static>(
    version: Version,
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    match version {
        Version::V3 => Just(None).boxed(),
        Version::V5 => option::of(strategy).boxed(),
    }
}

fn reason(packet: PacketType) -> impl Strategy<Value = ReasonCode> {
    let codes: Vec<ReasonCode> =
        (0..=u8::MAX).filter_map(ReasonCode::from_bits).filter(|code| code.is_allowed_in(packet)).collect();
    proptest::sample::select(codes)
}

/// What a message takes along, in the order in which ntex writes a Will.
fn passed_on() -> impl Strategy<Value = Vec<u8>> {
    (
        option::of(any::<bool>()),
        option::of(text()),
        option::of(topic()),
        option::of(bytes()),
        user_properties(Version::V5),
    )
        .prop_map(|(utf8, content_type, response_topic, correlation, user)| {
            let mut block = BlockBuilder::new();
            if let Some(utf8) = utf8 {
                block.payload_is_utf8(utf8);
            }
            if let Some(content_type) = content_type {
                block.content_type(&content_type).unwrap();
            }
            if let Some(topic) = response_topic {
                block.response_topic(&topic).unwrap();
            }
            if let Some(bytes) = correlation {
                block.correlation(&bytes).unwrap();
            }
            for (name, value) in user {
                block.user(&name, &value).unwrap();
            }
            block.into_bytes()
        })
}

fn publish(version: Version) -> BoxedStrategy<AnyPacket> {
    let hop = (option::of(1..=u16::MAX), option::of(any::<u32>()), vec(1..=268_435_455_u32, 0..3));
    let block = match version {
        Version::V3 => Just(Vec::new()).boxed(),
        Version::V5 => (hop, passed_on())
            .prop_map(|((alias, expiry, ids), rest)| {
                let mut block = Vec::new();
                if let Some(alias) = alias {
                    block.push(0x23);
                    block.extend_from_slice(&alias.to_be_bytes());
                }
                if let Some(expiry) = expiry {
                    block.push(0x02);
                    block.extend_from_slice(&expiry.to_be_bytes());
                }
                for id in ids {
                    block.push(0x0B);
                    crate::varint::write(&mut block, id);
                }
                block.extend_from_slice(&rest);
                block
            })
            .boxed(),
    };
    let payload = prop_oneof![vec(any::<u8>(), 0..64), vec(any::<u8>(), 0..20_000)];
    (any::<bool>(), qos(), any::<bool>(), any_id(), topic(), block, payload)
        .prop_map(|(dup, qos, retain, packet_id, topic, block, payload)| AnyPacket::Publish {
            dup,
            qos,
            retain,
            packet_id,
            topic,
            block,
            payload,
        })
        .boxed()
}

fn ack(version: Version) -> BoxedStrategy<AnyPacket> {
    prop_oneof![Just(AckKind::PubAck), Just(AckKind::PubRec), Just(AckKind::PubRel), Just(AckKind::PubComp)]
        .prop_flat_map(move |kind| {
            let reason = match version {
                Version::V3 => Just(ReasonCode::SUCCESS).boxed(),
                Version::V5 => reason(kind.packet_type()).boxed(),
            };
            (Just(kind), any_id(), reason)
        })
        .prop_map(|(kind, packet_id, reason)| AnyPacket::Ack(kind, packet_id, reason))
        .boxed()
}

fn will(version: Version) -> impl Strategy<Value = Will> {
    let five = match version {
        Version::V3 => Just((0, None, Vec::new())).boxed(),
        Version::V5 => (any::<u32>(), option::of(1..=u32::MAX), passed_on()).boxed(),
    };
    (topic(), bytes(), qos(), any::<bool>(), five).prop_map(
        |(topic, payload, qos, retain, (delay_secs, expiry_secs, properties))| Will {
            topic,
            payload,
            qos,
            retain,
            delay_secs,
            expiry_secs,
            properties,
        },
    )
}

fn connect(version: Version) -> impl Strategy<Value = AnyPacket> {
    let common = (
        any::<bool>(),
        any::<u16>(),
        text(),
        option::of(text()),
        option::of(bytes()),
        option::of(will(version)),
    );
    let five = (
        only_5(version, any::<u32>()),
        only_5(version, any_id()),
        only_5(version, 1..=u32::MAX),
        only_5(version, any::<u16>()),
        only_5(version, (any::<bool>(), any::<bool>())),
        user_properties(version),
        only_5(version, (text(), option::of(bytes()))),
    );
    (common, five).prop_map(move |(common, five)| {
        let (clean_start, keep_alive_secs, client_id, user_name, password, will) = common;
        let (
            expiry,
            receive_max,
            packet_bytes_max,
            topic_alias_max,
            requests,
            user_properties,
            authentication,
        ) = five;
        let mut connect = Connect {
            // [MQTT3-3.1.3-7] [MQTT3-3.1.2-22]
            clean_start: clean_start || version == Version::V3 && client_id.is_empty(),
            keep_alive_secs,
            password: password.filter(|_| version == Version::V5 || user_name.is_some()),
            user_name,
            will,
            session_expiry_secs: expiry.unwrap_or(0),
            packet_bytes_max: packet_bytes_max.and_then(NonZeroU32::new),
            topic_alias_max: topic_alias_max.unwrap_or(0),
            user_properties,
            ..Connect::new(version, client_id)
        };
        if let Some(max) = receive_max {
            connect.receive_max = max;
        }
        if let Some((response, problem)) = requests {
            connect.request_response_information = response;
            connect.request_problem_information = problem;
        }
        if let Some((method, data)) = authentication {
            connect.authentication_method = Some(method);
            connect.authentication_data = data;
        }
        AnyPacket::Other(Packet::Connect(Box::new(connect)))
    })
}

fn connack(version: Version) -> BoxedStrategy<AnyPacket> {
    if version == Version::V3 {
        return (any::<bool>(), 0..=5_u8)
            .prop_map(|(session_present, code)| {
                let reason = ReasonCode::from_connect_return_code_v3(code).unwrap();
                AnyPacket::Other(Packet::ConnAck(Box::new(ConnAck::new(
                    session_present && code == 0,
                    reason,
                ))))
            })
            .boxed();
    }
    let numbers = (
        option::of(any::<u32>()),
        any_id(),
        qos(),
        option::of(1..=u32::MAX),
        any::<u16>(),
        option::of(any::<u16>()),
        any::<[bool; 4]>(),
    );
    let strings = (
        option::of(text()),
        option::of(text()),
        option::of(text()),
        option::of(text()),
        option::of((text(), option::of(bytes()))),
        user_properties(version),
    );
    (any::<bool>(), reason(PacketType::ConnAck), numbers, strings)
        .prop_map(|(session_present, reason, numbers, strings)| {
            let (
                session_expiry_secs,
                receive_max,
                qos_max,
                packet_bytes_max,
                topic_alias_max,
                keep_alive_secs,
                available,
            ) = numbers;
            let (
                assigned_client_id,
                reason_string,
                response_information,
                server_reference,
                authentication,
                user_properties,
            ) = strings;
            let (authentication_method, authentication_data) =
                authentication.map_or((None, None), |(method, data)| (Some(method), data));
            AnyPacket::Other(Packet::ConnAck(Box::new(ConnAck {
                session_present: session_present && !reason.is_error(),
                reason,
                session_expiry_secs,
                receive_max,
                qos_max,
                retain_available: available[0],
                packet_bytes_max: packet_bytes_max.and_then(NonZeroU32::new),
                assigned_client_id,
                topic_alias_max,
                reason_string,
                user_properties,
                wildcard_subscriptions_available: available[1],
                subscription_ids_available: available[2],
                shared_subscriptions_available: available[3],
                keep_alive_secs,
                response_information,
                server_reference,
                authentication_method,
                authentication_data,
            })))
        })
        .boxed()
}

fn subscription(version: Version) -> BoxedStrategy<Subscription> {
    if version == Version::V3 {
        return (filter(), qos()).prop_map(|(filter, qos)| Subscription::new(filter, qos)).boxed();
    }
    let handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend)
    ];
    (prop_oneof![filter(), Just("$share/g/#".to_owned())], qos(), any::<bool>(), any::<bool>(), handling)
        .prop_map(|(filter, qos, no_local, retain_as_published, retain_handling)| Subscription {
            no_local: no_local && !filter.starts_with("$share/"), // [MQTT-3.8.3-4]
            filter,
            qos,
            retain_as_published,
            retain_handling,
        })
        .boxed()
}

fn subscribe(version: Version) -> impl Strategy<Value = AnyPacket> {
    let subscription_id = only_5(version, 1..=268_435_455_u32);
    (any_id(), subscription_id, user_properties(version), vec(subscription(version), 1..5)).prop_map(
        |(packet_id, subscription_id, user_properties, subscriptions)| {
            AnyPacket::Other(Packet::Subscribe(Box::new(Subscribe {
                packet_id,
                subscription_id: subscription_id.and_then(NonZeroU32::new),
                user_properties,
                subscriptions,
            })))
        },
    )
}

fn unsubscribe(version: Version) -> impl Strategy<Value = AnyPacket> {
    (any_id(), user_properties(version), vec(filter(), 1..5)).prop_map(
        |(packet_id, user_properties, filters)| {
            AnyPacket::Other(Packet::Unsubscribe(Box::new(Unsubscribe {
                packet_id,
                user_properties,
                filters,
            })))
        },
    )
}

fn suback(version: Version) -> impl Strategy<Value = AnyPacket> {
    let reason = match version {
        Version::V3 => proptest::sample::select(vec![0, 1, 2, 0x80])
            .prop_map(|code| ReasonCode::from_bits(code).unwrap())
            .boxed(),
        Version::V5 => reason(PacketType::SubAck).boxed(),
    };
    (any_id(), vec(reason, 1..5), only_5(version, text()), user_properties(version)).prop_map(
        |(packet_id, reasons, reason_string, user_properties)| {
            AnyPacket::Other(Packet::SubAck(Box::new(SubAck {
                packet_id,
                reasons,
                reason_string,
                user_properties,
            })))
        },
    )
}

fn unsuback(version: Version) -> impl Strategy<Value = AnyPacket> {
    let reasons = match version {
        Version::V3 => Just(Vec::new()).boxed(),
        Version::V5 => vec(reason(PacketType::UnsubAck), 1..5).boxed(),
    };
    (any_id(), reasons, only_5(version, text()), user_properties(version)).prop_map(
        |(packet_id, reasons, reason_string, user_properties)| {
            AnyPacket::Other(Packet::UnsubAck(Box::new(UnsubAck {
                packet_id,
                reasons,
                reason_string,
                user_properties,
            })))
        },
    )
}

fn disconnect(version: Version) -> BoxedStrategy<AnyPacket> {
    if version == Version::V3 {
        return Just(AnyPacket::Other(Packet::Disconnect(Box::default()))).boxed();
    }
    let strings = (option::of(text()), option::of(text()), user_properties(version));
    (reason(PacketType::Disconnect), option::of(any::<u32>()), strings)
        .prop_map(|(reason, session_expiry_secs, (reason_string, server_reference, user_properties))| {
            AnyPacket::Other(Packet::Disconnect(Box::new(Disconnect {
                reason,
                session_expiry_secs,
                reason_string,
                server_reference,
                user_properties,
            })))
        })
        .boxed()
}

fn auth() -> impl Strategy<Value = AnyPacket> {
    let strings = (text(), option::of(bytes()), option::of(text()), user_properties(Version::V5));
    let said = (reason(PacketType::Auth), strings).prop_map(
        |(reason, (method, data, reason_string, user_properties))| {
            AnyPacket::Other(Packet::Auth(Box::new(Auth {
                reason,
                method: Some(method),
                data,
                reason_string,
                user_properties,
            })))
        },
    );
    prop_oneof![3 => said, 1 => Just(AnyPacket::Other(Packet::Auth(Box::default())))]
}

/// Any packet of this version, by either side.
pub(super) fn any_packet(version: Version) -> BoxedStrategy<AnyPacket> {
    let common = prop_oneof![
        4 => publish(version),
        2 => ack(version),
        1 => connect(version),
        1 => connack(version),
        1 => subscribe(version),
        1 => suback(version),
        1 => unsubscribe(version),
        1 => unsuback(version),
        1 => disconnect(version),
        1 => prop_oneof![Just(AnyPacket::Other(Packet::PingReq)), Just(AnyPacket::Other(Packet::PingResp))],
    ];
    match version {
        Version::V3 => common.boxed(),
        Version::V5 => prop_oneof![15 => common, 1 => auth()].boxed(),
    }
}
