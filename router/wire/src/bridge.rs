//! The only file that sees ntex-mqtt: our types to its types and back, for packets off the hot path.
//!
//! Knows: ntex's packets. May use: our packets. Never: rules of the standard; whoever calls `decode_*` here has
//! checked the frame against them (why that is not left to ntex: `router/docs/decisions/0002-own-codec-where.md`).
//! In and out: our types and bytes; an error of ntex becomes one of ours.
//! Invariant: nothing is appended to `out` unless the whole packet is.

use std::num::{NonZeroU16, NonZeroU32};

use model::Qos;
use ntex_bytes::{BytePages, ByteString, Bytes, BytesMut};
use ntex_codec::{Decoder, Encoder};
use ntex_mqtt::error::EncodeError;
use ntex_mqtt::v3::codec as v3;
use ntex_mqtt::v5::codec as v5;

use crate::connect::{ConnAck, Connect, Will};
use crate::disconnect::{Auth, Disconnect};
use crate::frames::Frame;
use crate::malformed::Rule;
use crate::packet::{PacketType, Unencodable, Version};
use crate::properties::PublishProperties;
use crate::reason::ReasonCode;
use crate::subscribe::{RetainHandling, SubAck, Subscribe, Subscription, UnsubAck, Unsubscribe};
use crate::varint::VARINT_MAX;

// ---- decode -------------------------------------------------------------------------------------------------

pub(crate) fn decode_connack(frame: Frame<'_>) -> Result<ConnAck, Rule> {
    let v5::Packet::ConnectAck(ack) = decode_v5(frame)? else {
        return Err(Rule::Truncated);
    };
    let ack = *ack;
    Ok(ConnAck {
        session_present: ack.session_present,
        reason: reason(ack.reason_code)?,
        session_expiry_secs: ack.session_expiry_interval_secs,
        receive_max: ack.receive_max,
        qos_max: from_qos(ack.max_qos),
        retain_available: ack.retain_available,
        packet_bytes_max: ack.max_packet_size.and_then(NonZeroU32::new),
        assigned_client_id: ack.assigned_client_id.map(string),
        topic_alias_max: ack.topic_alias_max,
        reason_string: ack.reason_string.map(string),
        user_properties: strings(&ack.user_properties),
        wildcard_subscriptions_available: ack.wildcard_subscription_available,
        subscription_ids_available: ack.subscription_identifiers_available,
        shared_subscriptions_available: ack.shared_subscription_available,
        keep_alive_secs: ack.server_keepalive_sec,
        response_information: ack.response_info.map(string),
        server_reference: ack.server_reference.map(string),
        authentication_method: ack.auth_method.map(string),
        authentication_data: ack.auth_data.map(|data| data.to_vec()),
    })
}

pub(crate) fn decode_suback(frame: Frame<'_>, version: Version) -> Result<SubAck, Rule> {
    match version {
        Version::V3 => {
            let v3::Packet::SubscribeAck { packet_id, status } = decode_v3(frame)? else {
                return Err(Rule::Truncated);
            };
            let reasons = status.into_iter().map(|status| match status {
                v3::SubscribeReturnCode::Success(qos) => ReasonCode::granted(from_qos(qos)),
                v3::SubscribeReturnCode::Failure => ReasonCode::UNSPECIFIED_ERROR,
            });
            Ok(SubAck::new(packet_id, reasons.collect()))
        }
        Version::V5 => {
            let v5::Packet::SubscribeAck(ack) = decode_v5(frame)? else {
                return Err(Rule::Truncated);
            };
            Ok(SubAck {
                packet_id: ack.packet_id,
                reasons: ack.status.into_iter().map(reason).collect::<Result<_, Rule>>()?,
                reason_string: ack.reason_string.map(string),
                user_properties: strings(&ack.properties),
            })
        }
    }
}

pub(crate) fn decode_unsuback(frame: Frame<'_>, version: Version) -> Result<UnsubAck, Rule> {
    match version {
        Version::V3 => {
            let v3::Packet::UnsubscribeAck { packet_id } = decode_v3(frame)? else {
                return Err(Rule::Truncated);
            };
            Ok(UnsubAck::new(packet_id, Vec::new()))
        }
        Version::V5 => {
            let v5::Packet::UnsubscribeAck(ack) = decode_v5(frame)? else {
                return Err(Rule::Truncated);
            };
            Ok(UnsubAck {
                packet_id: ack.packet_id,
                reasons: ack.status.into_iter().map(reason).collect::<Result<_, Rule>>()?,
                reason_string: ack.reason_string.map(string),
                user_properties: strings(&ack.properties),
            })
        }
    }
}

pub(crate) fn decode_disconnect(frame: Frame<'_>) -> Result<Disconnect, Rule> {
    let v5::Packet::Disconnect(packet) = decode_v5(frame)? else {
        return Err(Rule::Truncated);
    };
    Ok(Disconnect {
        reason: reason(packet.reason_code)?,
        session_expiry_secs: packet.session_expiry_interval_secs,
        reason_string: packet.reason_string.map(string),
        server_reference: packet.server_reference.map(string),
        user_properties: strings(&packet.user_properties),
    })
}

pub(crate) fn decode_auth(frame: Frame<'_>) -> Result<Auth, Rule> {
    let v5::Packet::Auth(packet) = decode_v5(frame)? else {
        return Err(Rule::Truncated);
    };
    Ok(Auth {
        reason: reason(packet.reason_code)?,
        method: packet.auth_method.map(string),
        data: packet.auth_data.map(|data| data.to_vec()),
        reason_string: packet.reason_string.map(string),
        user_properties: strings(&packet.user_properties),
    })
}

/// The frame has been checked before; should ntex refuse it all the same, it was not read to its end.
fn decode_v3(frame: Frame<'_>) -> Result<v3::Packet, Rule> {
    match v3::Codec::new().decode(&mut BytesMut::copy_from_slice(frame.bytes())) {
        Ok(Some(v3::Decoded::Packet(packet, _))) => Ok(packet),
        _ => Err(Rule::Truncated),
    }
}

fn decode_v5(frame: Frame<'_>) -> Result<v5::Packet, Rule> {
    match v5::Codec::new().decode(&mut BytesMut::copy_from_slice(frame.bytes())) {
        Ok(Some(v5::Decoded::Packet(packet, _))) => Ok(packet),
        _ => Err(Rule::Truncated),
    }
}

fn reason(code: impl Into<u8>) -> Result<ReasonCode, Rule> {
    ReasonCode::from_bits(code.into()).ok_or(Rule::ReasonCodeNotAllowed)
}

fn string(text: ByteString) -> String {
    AsRef::<str>::as_ref(&text).to_owned()
}

fn strings(properties: &[v5::UserProperty]) -> Vec<(String, String)> {
    properties.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn from_qos(qos: v5::QoS) -> Qos {
    match qos {
        v5::QoS::AtMostOnce => Qos::AtMostOnce,
        v5::QoS::AtLeastOnce => Qos::AtLeastOnce,
        v5::QoS::ExactlyOnce => Qos::ExactlyOnce,
    }
}

// ---- encode -------------------------------------------------------------------------------------------------

pub(crate) fn encode_connect(out: &mut Vec<u8>, connect: &Connect) -> Result<(), Unencodable> {
    let client_id = text(&connect.client_id)?;
    let username = optional_text(connect.user_name.as_deref())?;
    let password = optional_bytes(connect.password.as_deref())?;
    match connect.version {
        Version::V3 => {
            if password.is_some() && username.is_none() {
                return Err(Unencodable::NotInThisVersion); // [MQTT3-3.1.2-22]
            }
            let packet = v3::Connect {
                clean_session: connect.clean_start,
                keep_alive: connect.keep_alive_secs,
                last_will: connect.will.as_ref().map(will_v3).transpose()?,
                client_id,
                username,
                password,
            };
            append_v3(out, packet.into())
        }
        Version::V5 => {
            let packet = v5::Connect {
                clean_start: connect.clean_start,
                keep_alive: connect.keep_alive_secs,
                session_expiry_interval_secs: connect.session_expiry_secs,
                auth_method: optional_text(connect.authentication_method.as_deref())?,
                auth_data: optional_bytes(connect.authentication_data.as_deref())?,
                request_problem_info: connect.request_problem_information,
                request_response_info: connect.request_response_information,
                receive_max: Some(connect.receive_max).filter(|max| *max != NonZeroU16::MAX),
                topic_alias_max: connect.topic_alias_max,
                user_properties: texts(&connect.user_properties)?,
                max_packet_size: connect.packet_bytes_max,
                last_will: connect.will.as_ref().map(will_v5).transpose()?,
                client_id,
                username,
                password,
            };
            append_v5(out, packet.into())
        }
    }
}

fn will_v3(will: &Will) -> Result<v3::LastWill, Unencodable> {
    Ok(v3::LastWill {
        qos: to_qos(will.qos),
        retain: will.retain,
        topic: text(&will.topic)?,
        message: bytes(&will.payload)?,
    })
}

fn will_v5(will: &Will) -> Result<v5::LastWill, Unencodable> {
    let properties = PublishProperties::from_block(&will.properties).map_err(|_| Unencodable::Properties)?;
    Ok(v5::LastWill {
        qos: to_qos(will.qos),
        retain: will.retain,
        topic: text(&will.topic)?,
        message: bytes(&will.payload)?,
        will_delay_interval_sec: Some(will.delay_secs).filter(|secs| *secs != 0),
        correlation_data: optional_bytes(properties.correlation())?,
        message_expiry_interval: will
            .expiry_secs
            .map(|secs| NonZeroU32::new(secs).ok_or(Unencodable::Empty))
            .transpose()?,
        content_type: optional_text(properties.content_type())?,
        user_properties: properties
            .user_properties()
            .map(|(name, value)| Ok((text(name)?, text(value)?)))
            .collect::<Result<_, Unencodable>>()?,
        is_utf8_payload: properties.payload_is_utf8(),
        response_topic: optional_text(properties.response_topic())?,
    })
}

pub(crate) fn encode_connack(out: &mut Vec<u8>, version: Version, ack: &ConnAck) -> Result<(), Unencodable> {
    match version {
        Version::V3 => {
            let code = ack.reason.connect_return_code_v3();
            let packet = v3::ConnectAck {
                return_code: v3::ConnectAckReason::try_from(code).map_err(|_| Unencodable::ReasonCode)?,
                session_present: ack.session_present,
            };
            append_v3(out, v3::Packet::ConnectAck(packet))
        }
        Version::V5 => {
            check_reason(ack.reason, PacketType::ConnAck)?;
            let packet = v5::ConnectAck {
                session_present: ack.session_present,
                reason_code: ack.reason.bits().try_into().map_err(|_| Unencodable::ReasonCode)?,
                session_expiry_interval_secs: ack.session_expiry_secs,
                receive_max: ack.receive_max,
                max_qos: to_qos(ack.qos_max),
                max_packet_size: ack.packet_bytes_max.map(NonZeroU32::get),
                assigned_client_id: optional_text(ack.assigned_client_id.as_deref())?,
                topic_alias_max: ack.topic_alias_max,
                retain_available: ack.retain_available,
                wildcard_subscription_available: ack.wildcard_subscriptions_available,
                subscription_identifiers_available: ack.subscription_ids_available,
                shared_subscription_available: ack.shared_subscriptions_available,
                server_keepalive_sec: ack.keep_alive_secs,
                response_info: optional_text(ack.response_information.as_deref())?,
                server_reference: optional_text(ack.server_reference.as_deref())?,
                auth_method: optional_text(ack.authentication_method.as_deref())?,
                auth_data: optional_bytes(ack.authentication_data.as_deref())?,
                reason_string: optional_text(ack.reason_string.as_deref())?,
                user_properties: texts(&ack.user_properties)?,
            };
            append_v5(out, packet.into())
        }
    }
}

pub(crate) fn encode_subscribe(
    out: &mut Vec<u8>,
    version: Version,
    subscribe: &Subscribe,
) -> Result<(), Unencodable> {
    let packet_id = subscribe.packet_id;
    not_empty(&subscribe.subscriptions)?; // [MQTT-3.8.3-2] [MQTT3-3.8.3-3]
    check_filters(subscribe.subscriptions.iter().map(|it| it.filter.as_str()))?;
    match version {
        Version::V3 => {
            let topic_filters = subscribe
                .subscriptions
                .iter()
                .map(|it| Ok((text(&it.filter)?, to_qos(it.qos))))
                .collect::<Result<_, Unencodable>>()?;
            append_v3(out, v3::Packet::Subscribe { packet_id, topic_filters })
        }
        Version::V5 => {
            if subscribe.subscription_id.is_some_and(|id| id.get() > VARINT_MAX) {
                return Err(Unencodable::TooLong);
            }
            let packet = v5::Subscribe {
                packet_id,
                id: subscribe.subscription_id,
                user_properties: texts(&subscribe.user_properties)?,
                topic_filters: subscribe
                    .subscriptions
                    .iter()
                    .map(|it| Ok((text(&it.filter)?, options(it))))
                    .collect::<Result<_, Unencodable>>()?,
            };
            append_v5(out, packet.into())
        }
    }
}

fn options(subscription: &Subscription) -> v5::SubscriptionOptions {
    v5::SubscriptionOptions {
        qos: to_qos(subscription.qos),
        no_local: subscription.no_local,
        retain_as_published: subscription.retain_as_published,
        retain_handling: match subscription.retain_handling {
            RetainHandling::Send => v5::RetainHandling::AtSubscribe,
            RetainHandling::SendIfNew => v5::RetainHandling::AtSubscribeNew,
            RetainHandling::DoNotSend => v5::RetainHandling::NoAtSubscribe,
        },
    }
}

pub(crate) fn encode_suback(out: &mut Vec<u8>, version: Version, ack: &SubAck) -> Result<(), Unencodable> {
    let packet_id = ack.packet_id;
    not_empty(&ack.reasons)?;
    for &reason in &ack.reasons {
        check_reason(reason, PacketType::SubAck)?;
    }
    match version {
        Version::V3 => {
            let status = ack.reasons.iter().map(|reason| match reason.bits() {
                0 => v3::SubscribeReturnCode::Success(v3::QoS::AtMostOnce),
                1 => v3::SubscribeReturnCode::Success(v3::QoS::AtLeastOnce),
                2 => v3::SubscribeReturnCode::Success(v3::QoS::ExactlyOnce),
                _ => v3::SubscribeReturnCode::Failure,
            });
            append_v3(out, v3::Packet::SubscribeAck { packet_id, status: status.collect() })
        }
        Version::V5 => {
            let packet = v5::SubscribeAck {
                packet_id,
                properties: texts(&ack.user_properties)?,
                reason_string: optional_text(ack.reason_string.as_deref())?,
                status: ack
                    .reasons
                    .iter()
                    .map(|reason| reason.bits().try_into().map_err(|_| Unencodable::ReasonCode))
                    .collect::<Result<_, Unencodable>>()?,
            };
            append_v5(out, packet.into())
        }
    }
}

pub(crate) fn encode_unsubscribe(
    out: &mut Vec<u8>,
    version: Version,
    unsubscribe: &Unsubscribe,
) -> Result<(), Unencodable> {
    let packet_id = unsubscribe.packet_id;
    not_empty(&unsubscribe.filters)?; // [MQTT-3.10.3-2] [MQTT3-3.10.3-2]
    check_filters(unsubscribe.filters.iter().map(String::as_str))?;
    let topic_filters =
        unsubscribe.filters.iter().map(|filter| text(filter)).collect::<Result<_, Unencodable>>()?;
    match version {
        Version::V3 => append_v3(out, v3::Packet::Unsubscribe { packet_id, topic_filters }),
        Version::V5 => {
            let packet = v5::Unsubscribe {
                packet_id,
                user_properties: texts(&unsubscribe.user_properties)?,
                topic_filters,
            };
            append_v5(out, packet.into())
        }
    }
}

pub(crate) fn encode_unsuback(
    out: &mut Vec<u8>,
    version: Version,
    ack: &UnsubAck,
) -> Result<(), Unencodable> {
    let packet_id = ack.packet_id;
    match version {
        Version::V3 => append_v3(out, v3::Packet::UnsubscribeAck { packet_id }),
        Version::V5 => {
            not_empty(&ack.reasons)?;
            for &reason in &ack.reasons {
                check_reason(reason, PacketType::UnsubAck)?;
            }
            let packet = v5::UnsubscribeAck {
                packet_id,
                properties: texts(&ack.user_properties)?,
                reason_string: optional_text(ack.reason_string.as_deref())?,
                status: ack
                    .reasons
                    .iter()
                    .map(|reason| reason.bits().try_into().map_err(|_| Unencodable::ReasonCode))
                    .collect::<Result<_, Unencodable>>()?,
            };
            append_v5(out, packet.into())
        }
    }
}

pub(crate) fn encode_disconnect(
    out: &mut Vec<u8>,
    version: Version,
    disconnect: &Disconnect,
) -> Result<(), Unencodable> {
    match version {
        Version::V3 => append_v3(out, v3::Packet::Disconnect),
        Version::V5 => {
            check_reason(disconnect.reason, PacketType::Disconnect)?;
            let packet = v5::Disconnect {
                reason_code: disconnect.reason.bits().try_into().map_err(|_| Unencodable::ReasonCode)?,
                session_expiry_interval_secs: disconnect.session_expiry_secs,
                server_reference: optional_text(disconnect.server_reference.as_deref())?,
                reason_string: optional_text(disconnect.reason_string.as_deref())?,
                user_properties: texts(&disconnect.user_properties)?,
            };
            append_v5(out, packet.into())
        }
    }
}

pub(crate) fn encode_auth(out: &mut Vec<u8>, auth: &Auth) -> Result<(), Unencodable> {
    check_reason(auth.reason, PacketType::Auth)?;
    if auth.method.is_none() {
        // §3.15.2.1: only a Success that says nothing else goes without a method, and then without properties as well;
        // ntex would write an empty block of them, which nobody may accept.
        let bare = Auth::default();
        return if *auth == bare {
            out.extend_from_slice(&[0xF0, 0]);
            Ok(())
        } else {
            Err(Unencodable::Empty)
        };
    }
    let packet = v5::Auth {
        reason_code: auth.reason.bits().try_into().map_err(|_| Unencodable::ReasonCode)?,
        auth_method: optional_text(auth.method.as_deref())?,
        auth_data: optional_bytes(auth.data.as_deref())?,
        reason_string: optional_text(auth.reason_string.as_deref())?,
        user_properties: texts(&auth.user_properties)?,
    };
    append_v5(out, packet.into())
}

fn append_v3(out: &mut Vec<u8>, packet: v3::Packet) -> Result<(), Unencodable> {
    let mut pages = BytePages::default();
    v3::Codec::new().encodev(packet.into(), &mut pages).map_err(unencodable)?;
    out.extend_from_slice(&pages.freeze());
    Ok(())
}

fn append_v5(out: &mut Vec<u8>, packet: v5::Packet) -> Result<(), Unencodable> {
    let mut pages = BytePages::default();
    v5::Codec::new().encodev(packet.into(), &mut pages).map_err(unencodable)?;
    out.extend_from_slice(&pages.freeze());
    Ok(())
}

fn unencodable(error: EncodeError) -> Unencodable {
    match error {
        EncodeError::MalformedPacket | EncodeError::PacketIdRequired => Unencodable::Empty,
        _ => Unencodable::TooLong,
    }
}

fn check_reason(reason: ReasonCode, packet: PacketType) -> Result<(), Unencodable> {
    if reason.is_allowed_in(packet) { Ok(()) } else { Err(Unencodable::ReasonCode) }
}

fn not_empty<T>(list: &[T]) -> Result<(), Unencodable> {
    if list.is_empty() { Err(Unencodable::Empty) } else { Ok(()) }
}

/// ntex adds up the lengths of a 3.1.1 packet unchecked and panics above what MQTT can say.
fn check_filters<'t>(mut filters: impl Iterator<Item = &'t str>) -> Result<(), Unencodable> {
    filters
        .try_fold(2_usize, |sum, filter| {
            Some(sum + 3 + filter.len()).filter(|sum| *sum <= VARINT_MAX as usize)
        })
        .map(|_| ())
        .ok_or(Unencodable::TooLong)
}

fn text(text: &str) -> Result<ByteString, Unencodable> {
    if text.len() > usize::from(u16::MAX) { Err(Unencodable::TooLong) } else { Ok(ByteString::from(text)) }
}

fn bytes(bytes: &[u8]) -> Result<Bytes, Unencodable> {
    if bytes.len() > usize::from(u16::MAX) {
        Err(Unencodable::TooLong)
    } else {
        Ok(Bytes::copy_from_slice(bytes))
    }
}

fn optional_text(optional: Option<&str>) -> Result<Option<ByteString>, Unencodable> {
    optional.map(text).transpose()
}

fn optional_bytes(optional: Option<&[u8]>) -> Result<Option<Bytes>, Unencodable> {
    optional.map(bytes).transpose()
}

fn texts(properties: &[(String, String)]) -> Result<v5::UserProperties, Unencodable> {
    properties.iter().map(|(name, value)| Ok((text(name)?, text(value)?))).collect()
}

fn to_qos(qos: Qos) -> v5::QoS {
    match qos {
        Qos::AtMostOnce => v5::QoS::AtMostOnce,
        Qos::AtLeastOnce => v5::QoS::AtLeastOnce,
        Qos::ExactlyOnce => v5::QoS::ExactlyOnce,
    }
}

#[cfg(test)]
mod tests;
