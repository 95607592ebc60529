//! What is refused, by which clause and with which reason code: one line per case.

use super::packet;
use crate::Version::{V3, V5};
use crate::{Malformed, PacketType, ReasonCode, Refusal, Rule, Unencodable, Version, decode, split};

const MALFORMED: ReasonCode = ReasonCode::MALFORMED_PACKET;
const PROTOCOL: ReasonCode = ReasonCode::PROTOCOL_ERROR;
const FILTER: ReasonCode = ReasonCode::TOPIC_FILTER_INVALID;

/// Splits and decodes; `bytes` must be refused.
#[track_caller]
fn refuse(version: Version, bytes: &[u8]) -> Malformed {
    let frame = match split(bytes, 1 << 20) {
        Err(malformed) => return malformed,
        Ok(None) => panic!("waits for more: {bytes:02X?}"),
        Ok(Some(frame)) => frame,
    };
    match decode(frame, version) {
        Err(malformed) => malformed,
        Ok(packet) => panic!("accepted: {packet:?}"),
    }
}

struct Case {
    version: Version,
    bytes: Vec<u8>,
    rule: Rule,
    clause: &'static str,
    reason: ReasonCode,
}

fn case(
    version: Version,
    bytes: impl Into<Vec<u8>>,
    rule: Rule,
    clause: &'static str,
    reason: ReasonCode,
) -> Case {
    Case { version, bytes: bytes.into(), rule, clause, reason }
}

/// A CONNECT with these flags and this payload.
fn connect(version: Version, flags: u8, payload: &[u8]) -> Vec<u8> {
    let properties: &[u8] = if version == V5 { b"\0" } else { b"" };
    packet(0x10, &[b"\0\x04MQTT", &[version.level(), flags], b"\0\0", properties, payload])
}

/// A CONNECT of 5.0 with these properties.
fn connect_with(properties: &[u8]) -> Vec<u8> {
    packet(0x10, &[b"\0\x04MQTT\x05\x02\0\0", &[properties.len() as u8], properties, b"\0\x01c"])
}

/// A QoS 0 PUBLISH of 5.0 with these properties.
fn publish_with(properties: &[u8]) -> Vec<u8> {
    packet(0x30, &[b"\0\x01a", &[properties.len() as u8], properties, b"payload"])
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let too_large = {
        let mut bytes = vec![0x30];
        crate::varint::write(&mut bytes, 1 << 20);
        bytes
    };
    let repeated = |property: &[u8]| [property, property].concat();
    let mut cases = vec![
        // Every packet
        case(V3, b"\x00\0", Rule::ReservedPacketType, "5.0 §2.1.2", MALFORMED),
        case(V3, b"\xF0\0", Rule::ReservedPacketType, "3.1.1 §2.2.1", MALFORMED),
        case(V5, b"\x30\x80\x80\x80\x80", Rule::VarintTooLong, "5.0 §1.5.5", MALFORMED),
        case(V5, b"\xC0\x80\0", Rule::VarintNotMinimal, "MQTT-1.5.5-1", MALFORMED),
        case(V5, b"\x30\x84\0\0\x01a\0", Rule::VarintNotMinimal, "MQTT-1.5.5-1", MALFORMED),
        case(V5, b"\x30\x05\0\x01a\x80\0", Rule::VarintNotMinimal, "MQTT-1.5.5-1", MALFORMED),
        case(V5, b"\x30\x08\0\x01a\x80\x80\x80\x80\x01", Rule::VarintTooLong, "5.0 §1.5.5", MALFORMED),
        case(V5, too_large.clone(), Rule::PacketTooLarge, "MQTT-3.2.2-15", ReasonCode::PACKET_TOO_LARGE),
        case(V3, b"\xC0\x01\0", Rule::TrailingBytes, "MQTT3-4.8.0-1", MALFORMED),
        case(V5, b"\xD0\x01\0", Rule::TrailingBytes, "MQTT-4.13.1-1", MALFORMED),
        // PUBLISH
        case(V3, b"\x36\x05\0\x01a\0\x01", Rule::QosReserved, "MQTT-3.3.1-4", MALFORMED),
        case(V3, b"\x3E\x05\0\x01a\0\x01", Rule::QosReserved, "MQTT-3.3.1-4", MALFORMED),
        case(V3, b"\x38\x03\0\x01a", Rule::DupWithQos0, "MQTT-3.3.1-2", PROTOCOL),
        case(V3, b"\x32\x05\0\x01a\0\0", Rule::PacketIdZero, "MQTT3-2.3.1-1", PROTOCOL),
        case(V5, b"\x34\x06\0\x01a\0\0\0", Rule::PacketIdZero, "MQTT-2.2.1-3", PROTOCOL),
        case(V3, b"\x30\0", Rule::Truncated, "MQTT3-4.8.0-1", MALFORMED),
        case(V3, b"\x30\x01\0", Rule::Truncated, "MQTT3-4.8.0-1", MALFORMED),
        case(V3, b"\x30\x03\0\x02a", Rule::Truncated, "MQTT3-4.8.0-1", MALFORMED),
        case(V3, b"\x32\x04\0\x01a\0", Rule::Truncated, "MQTT3-4.8.0-1", MALFORMED),
        case(V5, b"\x30\x03\0\x01a", Rule::Truncated, "MQTT-4.13.1-1", MALFORMED),
        case(V5, b"\x30\x04\0\x01a\x01", Rule::Truncated, "MQTT-4.13.1-1", MALFORMED),
        case(V3, b"\x30\x03\0\x01\xFF", Rule::InvalidUtf8, "MQTT3-1.5.3-1", MALFORMED),
        // A surrogate, U+D800, and an overlong '/'.
        case(V5, b"\x30\x06\0\x03\xED\xA0\x80\0", Rule::InvalidUtf8, "MQTT-1.5.4-1", MALFORMED),
        case(V5, b"\x30\x05\0\x02\xC0\xAF\0", Rule::InvalidUtf8, "MQTT-1.5.4-1", MALFORMED),
        case(V3, b"\x30\x03\0\x01\0", Rule::NullCharacter, "MQTT3-1.5.3-2", MALFORMED),
        case(V5, b"\x30\x06\0\x03a\0b\0", Rule::NullCharacter, "MQTT-1.5.4-2", MALFORMED),
        case(
            V3,
            b"\x30\x03\0\x01#",
            Rule::WildcardInTopicName,
            "MQTT3-3.3.2-2",
            ReasonCode::TOPIC_NAME_INVALID,
        ),
        case(
            V5,
            b"\x30\x06\0\x03a/+\0",
            Rule::WildcardInTopicName,
            "MQTT-3.3.2-2",
            ReasonCode::TOPIC_NAME_INVALID,
        ),
        case(V3, b"\x30\x03\0\0x", Rule::EmptyTopicName, "MQTT3-4.7.3-1", PROTOCOL),
        case(V5, b"\x30\x03\0\0\0", Rule::EmptyTopicName, "5.0 §3.3.2.1", PROTOCOL),
        case(
            V5,
            publish_with(b"\x23\0\0"),
            Rule::TopicAliasZero,
            "MQTT-3.3.2-8",
            ReasonCode::TOPIC_ALIAS_INVALID,
        ),
        case(V5, publish_with(b"\x08\0\x03a/#"), Rule::WildcardInResponseTopic, "MQTT-3.3.2-14", PROTOCOL),
        case(V5, publish_with(b"\x08\0\x01\xFF"), Rule::InvalidUtf8, "MQTT-1.5.4-1", MALFORMED),
        case(V5, publish_with(b"\x01\x02"), Rule::PropertyValue, "5.0 §2.2.2.2", PROTOCOL),
        case(V5, publish_with(b"\x0B\0"), Rule::PropertyValue, "5.0 §2.2.2.2", PROTOCOL),
        case(V5, publish_with(b"\x0B\x80\0"), Rule::VarintNotMinimal, "MQTT-1.5.5-1", MALFORMED),
        case(V5, publish_with(b"\x02\0\0"), Rule::Truncated, "MQTT-4.13.1-1", MALFORMED),
        case(V5, publish_with(b"\x26\0\x01k\0\x02v"), Rule::Truncated, "MQTT-4.13.1-1", MALFORMED),
        case(V5, publish_with(b"\x26\0\x01\0\0\0"), Rule::NullCharacter, "MQTT-1.5.4-2", MALFORMED),
        case(V5, publish_with(b"\x03\0\x01\0"), Rule::NullCharacter, "MQTT-1.5.4-2", MALFORMED),
        case(V5, publish_with(b"\x04\0"), Rule::UnknownProperty, "5.0 §2.2.2.2", MALFORMED),
        case(V5, publish_with(b"\x81\0"), Rule::UnknownProperty, "5.0 §2.2.2.2", MALFORMED),
        case(V5, publish_with(b"\x11\0\0\0\0"), Rule::PropertyNotAllowed, "5.0 §2.2.2.2", MALFORMED),
        case(V5, publish_with(b"\x1F\0\0"), Rule::PropertyNotAllowed, "5.0 §2.2.2.2", MALFORMED),
        // CONNECT
        case(
            V5,
            b"\x10\x06\0\x03MQT\x05",
            Rule::ProtocolName,
            "MQTT-3.1.2-1",
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
        ),
        case(
            V3,
            b"\x10\x08\0\x04mqtt\x04\x02",
            Rule::ProtocolName,
            "MQTT-3.1.2-1",
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
        ),
        case(
            V5,
            b"\x10\x07\0\x04MQTT\x06",
            Rule::UnsupportedVersion,
            "MQTT-3.1.2-2",
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
        ),
        case(
            V5,
            b"\x10\x07\0\x04MQTT\x03",
            Rule::UnsupportedVersion,
            "MQTT3-3.1.2-2",
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
        ),
        case(
            V3,
            b"\x10\x09\0\x06MQIsdp\x03",
            Rule::UnsupportedVersion,
            "MQTT3-3.1.2-2",
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
        ),
        case(V3, b"\x10\x06\0\x04MQTT", Rule::Truncated, "MQTT-4.13.1-1", MALFORMED),
        case(V3, connect(V3, 0x03, b"\0\x01c"), Rule::ConnectReservedFlag, "MQTT3-3.1.2-3", MALFORMED),
        case(V5, connect(V5, 0x03, b"\0\x01c"), Rule::ConnectReservedFlag, "MQTT-3.1.2-3", MALFORMED),
        case(V3, connect(V3, 0x0A, b"\0\x01c"), Rule::WillQosWithoutWill, "MQTT3-3.1.2-13", MALFORMED),
        case(V5, connect(V5, 0x12, b"\0\x01c"), Rule::WillQosWithoutWill, "MQTT-3.1.2-11", MALFORMED),
        case(
            V3,
            connect(V3, 0x1E, b"\0\x01c\0\x01w\0\0"),
            Rule::WillQosReserved,
            "MQTT3-3.1.2-14",
            MALFORMED,
        ),
        case(
            V5,
            connect(V5, 0x1E, b"\0\x01c\0\0\x01w\0\0"),
            Rule::WillQosReserved,
            "MQTT-3.1.2-12",
            MALFORMED,
        ),
        case(V3, connect(V3, 0x22, b"\0\x01c"), Rule::WillRetainWithoutWill, "MQTT3-3.1.2-15", MALFORMED),
        case(V5, connect(V5, 0x22, b"\0\x01c"), Rule::WillRetainWithoutWill, "MQTT-3.1.2-13", MALFORMED),
        case(
            V3,
            connect(V3, 0x42, b"\0\x01c\0\x01p"),
            Rule::PasswordWithoutUserName,
            "MQTT3-3.1.2-22",
            MALFORMED,
        ),
        case(
            V3,
            connect(V3, 0x00, b"\0\0"),
            Rule::EmptyClientId,
            "MQTT3-3.1.3-8",
            ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
        ),
        case(V3, connect(V3, 0x02, b"\0\x01\0"), Rule::NullCharacter, "MQTT3-1.5.3-2", MALFORMED),
        case(V5, connect(V5, 0x02, b"\0\x01\xC3"), Rule::InvalidUtf8, "MQTT-1.5.4-1", MALFORMED),
        case(V3, connect(V3, 0x02, b"\0\x01cx"), Rule::TrailingBytes, "MQTT3-4.8.0-1", MALFORMED),
        case(V5, connect(V5, 0x02, b"\0\x01cx"), Rule::TrailingBytes, "MQTT-4.13.1-1", MALFORMED),
        case(V3, connect(V3, 0x82, b"\0\x01c"), Rule::Truncated, "MQTT3-4.8.0-1", MALFORMED),
        case(V5, connect(V5, 0x06, b"\0\x01c"), Rule::Truncated, "MQTT-4.13.1-1", MALFORMED),
        case(V3, connect(V3, 0xC2, b"\0\x01c\0\x01u"), Rule::Truncated, "MQTT3-4.8.0-1", MALFORMED),
        case(V3, connect(V3, 0x82, b"\0\x01c\0\x01\0"), Rule::NullCharacter, "MQTT3-1.5.3-2", MALFORMED),
        case(
            V3,
            connect(V3, 0x06, b"\0\x01c\0\0\0\0"),
            Rule::EmptyWillTopic,
            "MQTT3-4.7.3-1",
            ReasonCode::TOPIC_NAME_INVALID,
        ),
        case(
            V5,
            connect(V5, 0x06, b"\0\x01c\0\0\0\0\0"),
            Rule::EmptyWillTopic,
            "MQTT-4.7.3-1",
            ReasonCode::TOPIC_NAME_INVALID,
        ),
        case(
            V3,
            connect(V3, 0x06, b"\0\x01c\0\x01#\0\0"),
            Rule::WildcardInTopicName,
            "MQTT3-3.3.2-2",
            ReasonCode::TOPIC_NAME_INVALID,
        ),
        case(V3, connect(V3, 0x06, b"\0\x01c\0\x01\0\0\0"), Rule::NullCharacter, "MQTT3-1.5.3-2", MALFORMED),
        case(
            V5,
            connect(V5, 0x06, b"\0\x01c\x05\x11\0\0\0\0\0\x01w\0\0"),
            Rule::PropertyNotAllowed,
            "5.0 §2.2.2.2",
            MALFORMED,
        ),
        case(
            V5,
            connect(V5, 0x06, b"\0\x01c\x04\x08\0\x01#\0\x01w\0\0"),
            Rule::WildcardInResponseTopic,
            "MQTT-3.3.2-14",
            PROTOCOL,
        ),
        case(V5, connect_with(b"\x21\0\0"), Rule::PropertyValue, "5.0 §2.2.2.2", PROTOCOL),
        case(V5, connect_with(b"\x27\0\0\0\0"), Rule::PropertyValue, "5.0 §2.2.2.2", PROTOCOL),
        case(V5, connect_with(b"\x17\x02"), Rule::PropertyValue, "5.0 §2.2.2.2", PROTOCOL),
        case(V5, connect_with(b"\x19\x02"), Rule::PropertyValue, "5.0 §2.2.2.2", PROTOCOL),
        case(V5, connect_with(b"\x18\0\0\0\0"), Rule::PropertyNotAllowed, "5.0 §2.2.2.2", MALFORMED),
        case(V5, connect_with(b"\x16\0\0"), Rule::AuthenticationMethodMissing, "5.0 §3.1.2.11.10", PROTOCOL),
        case(
            V5,
            b"\x10\x8D\0\0\x04MQTT\x05\x02\0\0\0\0\0",
            Rule::VarintNotMinimal,
            "MQTT-1.5.5-1",
            MALFORMED,
        ),
        // CONNACK
        case(V3, b"\x20\x02\x02\0", Rule::ConnAckFlags, "3.1.1 §3.2.2.1", MALFORMED),
        case(V5, b"\x20\x03\x80\0\0", Rule::ConnAckFlags, "MQTT-3.2.2-1", MALFORMED),
        case(V3, b"\x20\x02\x01\x05", Rule::SessionPresentWithError, "MQTT3-3.2.2-4", PROTOCOL),
        case(V5, b"\x20\x03\x01\x87\0", Rule::SessionPresentWithError, "MQTT-3.2.2-6", PROTOCOL),
        case(V3, b"\x20\x02\0\x06", Rule::ReasonCodeNotAllowed, "3.1.1 §3.2.2.3", PROTOCOL),
        case(V5, b"\x20\x03\0\x8E\0", Rule::ReasonCodeNotAllowed, "MQTT-3.2.2-8", PROTOCOL),
        case(V5, b"\x20\x05\0\0\x02\x24\x02", Rule::PropertyValue, "5.0 §2.2.2.2", PROTOCOL),
        case(V5, b"\x20\x08\0\0\x05\x27\0\0\0\0", Rule::PropertyValue, "5.0 §2.2.2.2", PROTOCOL),
        case(V5, b"\x20\x07\0\0\x04\x25\x01\x25\x01", Rule::DuplicateProperty, "5.0 §2.2.2.2", PROTOCOL),
        case(V5, b"\x20\x07\0\0\x04\x1F\0\x01\0", Rule::NullCharacter, "MQTT-1.5.4-2", MALFORMED),
        case(V5, b"\x20\x02\0\0", Rule::Truncated, "MQTT-4.13.1-1", MALFORMED),
        case(V3, b"\x20\x03\0\0\0", Rule::TrailingBytes, "MQTT3-4.8.0-1", MALFORMED),
        case(V5, b"\x20\x04\0\0\0\0", Rule::TrailingBytes, "MQTT-4.13.1-1", MALFORMED),
        // PUBACK and its kin
        case(V3, b"\x40\x02\0\0", Rule::PacketIdZero, "MQTT3-2.3.1-1", PROTOCOL),
        case(V3, b"\x40\x01\0", Rule::Truncated, "MQTT3-4.8.0-1", MALFORMED),
        case(V3, b"\x40\x03\0\x01\0", Rule::TrailingBytes, "MQTT3-4.8.0-1", MALFORMED),
        case(V5, b"\x40\x03\0\x01\x92", Rule::ReasonCodeNotAllowed, "MQTT-3.4.2-1", PROTOCOL),
        case(V5, b"\x50\x03\0\x01\x03", Rule::ReasonCodeNotAllowed, "MQTT-3.5.2-1", PROTOCOL),
        case(V5, b"\x62\x03\0\x01\x10", Rule::ReasonCodeNotAllowed, "MQTT-3.6.2-1", PROTOCOL),
        case(V5, b"\x70\x03\0\x01\x80", Rule::ReasonCodeNotAllowed, "MQTT-3.7.2-1", PROTOCOL),
        case(V5, b"\x40\x05\0\x01\0\0\0", Rule::TrailingBytes, "MQTT-4.13.1-1", MALFORMED),
        case(V5, b"\x40\x06\0\x01\0\x02\x01\x01", Rule::PropertyNotAllowed, "5.0 §2.2.2.2", MALFORMED),
        case(V5, b"\x40\x0A\0\x01\0\x06\x1F\0\0\x1F\0\0", Rule::DuplicateProperty, "5.0 §2.2.2.2", PROTOCOL),
        // SUBSCRIBE
        case(V3, b"\x82\x02\0\x01", Rule::EmptySubscribe, "MQTT3-3.8.3-3", PROTOCOL),
        case(V5, b"\x82\x03\0\x01\0", Rule::EmptySubscribe, "MQTT-3.8.3-2", PROTOCOL),
        case(V3, b"\x82\x06\0\0\0\x01a\0", Rule::PacketIdZero, "MQTT3-2.3.1-1", PROTOCOL),
        case(V3, b"\x82\x05\0\x01\0\x01a", Rule::Truncated, "MQTT3-4.8.0-1", MALFORMED),
        case(V3, b"\x82\x06\0\x01\0\x01a\x04", Rule::SubscribeReservedBits, "MQTT3-3.8.3-4", MALFORMED),
        case(V5, b"\x82\x07\0\x01\0\0\x01a\x40", Rule::SubscribeReservedBits, "MQTT-3.8.3-5", MALFORMED),
        case(V5, b"\x82\x07\0\x01\0\0\x01a\x80", Rule::SubscribeReservedBits, "MQTT-3.8.3-5", MALFORMED),
        case(V3, b"\x82\x06\0\x01\0\x01a\x03", Rule::SubscribeQosReserved, "MQTT3-3.8.3-4", PROTOCOL),
        case(V5, b"\x82\x07\0\x01\0\0\x01a\x03", Rule::SubscribeQosReserved, "5.0 §3.8.3.1", PROTOCOL),
        case(V5, b"\x82\x07\0\x01\0\0\x01a\x30", Rule::RetainHandlingReserved, "5.0 §3.8.3.1", PROTOCOL),
        case(V5, b"\x82\x10\0\x01\0\0\x0A$share/g/a\x04", Rule::NoLocalOnShared, "MQTT-3.8.3-4", PROTOCOL),
        case(V5, b"\x82\x09\0\x01\x02\x0B\0\0\x01a\0", Rule::PropertyValue, "5.0 §2.2.2.2", PROTOCOL),
        case(
            V5,
            b"\x82\x0B\0\x01\x04\x0B\x01\x0B\x02\0\x01a\0",
            Rule::DuplicateProperty,
            "5.0 §2.2.2.2",
            PROTOCOL,
        ),
        case(V3, b"\x82\x06\0\x01\0\x01\0\0", Rule::NullCharacter, "MQTT3-1.5.3-2", MALFORMED),
        case(V5, b"\x82\x07\0\x01\0\0\x01\x80\0", Rule::InvalidUtf8, "MQTT-1.5.4-1", MALFORMED),
        // UNSUBSCRIBE
        case(V3, b"\x82\x05\0\x01\0\0\0", Rule::EmptyTopicFilter, "MQTT3-4.7.3-1", FILTER),
        case(V5, b"\x82\x06\0\x01\0\0\0\0", Rule::EmptyTopicFilter, "MQTT-4.7.3-1", FILTER),
        case(V3, b"\x82\x0A\0\x01\0\x05a/#/b\0", Rule::MisplacedHash, "MQTT3-4.7.1-2", FILTER),
        case(V5, b"\x82\x0B\0\x01\0\0\x05a/#/b\0", Rule::MisplacedHash, "MQTT-4.7.1-1", FILTER),
        case(V5, b"\x82\x08\0\x01\0\0\x02a#\0", Rule::MisplacedHash, "MQTT-4.7.1-1", FILTER),
        case(V3, b"\x82\x07\0\x01\0\x02a+\0", Rule::MisplacedPlus, "MQTT3-4.7.1-3", FILTER),
        case(V5, b"\x82\x08\0\x01\0\0\x02+b\0", Rule::MisplacedPlus, "MQTT-4.7.1-2", FILTER),
        case(V5, b"\x82\x0D\0\x01\0\0\x07$share/\0", Rule::ShareName, "MQTT-4.8.2-1", FILTER),
        case(V5, b"\x82\x0F\0\x01\0\0\x09$share//a\0", Rule::ShareName, "MQTT-4.8.2-1", FILTER),
        case(V5, b"\x82\x0E\0\x01\0\0\x08$share/g\0", Rule::ShareName, "MQTT-4.8.2-1", FILTER),
        case(V5, b"\x82\x0F\0\x01\0\0\x09$share/g/\0", Rule::ShareName, "MQTT-4.8.2-1", FILTER),
        case(V5, b"\x82\x11\0\x01\0\0\x0B$share/g+/a\0", Rule::ShareName, "MQTT-4.8.2-1", FILTER),
        case(V3, b"\xA2\x06\0\x01\0\x02#a", Rule::MisplacedHash, "MQTT3-4.7.1-2", FILTER),
        case(V5, b"\xA2\x05\0\x01\0\0\0", Rule::EmptyTopicFilter, "MQTT-4.7.3-1", FILTER),
        case(V3, b"\xA2\x02\0\x01", Rule::EmptyUnsubscribe, "MQTT3-3.10.3-2", PROTOCOL),
        case(V5, b"\xA2\x03\0\x01\0", Rule::EmptyUnsubscribe, "MQTT-3.10.3-2", PROTOCOL),
        case(V3, b"\xA2\x05\0\0\0\x01a", Rule::PacketIdZero, "MQTT3-2.3.1-1", PROTOCOL),
        case(V3, b"\xA2\x05\0\x01\0\x02a", Rule::Truncated, "MQTT3-4.8.0-1", MALFORMED),
        case(V3, b"\xA2\x05\0\x01\0\x01\0", Rule::NullCharacter, "MQTT3-1.5.3-2", MALFORMED),
        case(V5, b"\xA2\x08\0\x01\x02\x0B\x01\0\x01a", Rule::PropertyNotAllowed, "5.0 §2.2.2.2", MALFORMED),
        // SUBACK, UNSUBACK
        case(V3, b"\x90\x02\0\x01", Rule::EmptyAcknowledgement, "3.1.1 §3.9.3", PROTOCOL),
        case(V5, b"\xB0\x03\0\x01\0", Rule::EmptyAcknowledgement, "5.0 §3.11.3", PROTOCOL),
        case(V3, b"\x90\x03\0\x01\x03", Rule::ReasonCodeNotAllowed, "MQTT3-3.9.3-2", PROTOCOL),
        case(V5, b"\x90\x04\0\x01\0\x11", Rule::ReasonCodeNotAllowed, "MQTT-3.9.3-2", PROTOCOL),
        case(V5, b"\xB0\x04\0\x01\0\x97", Rule::ReasonCodeNotAllowed, "MQTT-3.11.3-2", PROTOCOL),
        case(V3, b"\xB0\x03\0\x01\0", Rule::TrailingBytes, "MQTT3-4.8.0-1", MALFORMED),
        case(V5, b"\x90\x0A\0\x01\x06\x1F\0\0\x1F\0\0\0", Rule::DuplicateProperty, "5.0 §2.2.2.2", PROTOCOL),
        // DISCONNECT
        case(V3, b"\xE0\x01\0", Rule::TrailingBytes, "MQTT3-4.8.0-1", MALFORMED),
        case(V5, b"\xE0\x01\x10", Rule::ReasonCodeNotAllowed, "MQTT-3.14.2-1", PROTOCOL),
        case(V5, b"\xE0\x03\0\0\0", Rule::TrailingBytes, "MQTT-4.13.1-1", MALFORMED),
        case(V5, b"\xE0\x03\0\x02\x11", Rule::Truncated, "MQTT-4.13.1-1", MALFORMED),
        case(V5, b"\xE0\x05\0\x03\x21\0\x01", Rule::PropertyNotAllowed, "5.0 §2.2.2.2", MALFORMED),
        // AUTH
        case(V5, b"\xF0\x01\x80", Rule::ReasonCodeNotAllowed, "MQTT-3.15.2-1", PROTOCOL),
        case(V5, b"\xF0\x02\x18\0", Rule::AuthenticationMethodMissing, "5.0 §3.15.2.2.2", PROTOCOL),
    ];
    // [MQTT-2.1.3-1] [MQTT3-2.2.2-1]: flags, of each type that has them fixed.
    for (packet_type, legal) in [
        (1, 0),
        (2, 0),
        (4, 0),
        (5, 0),
        (6, 2),
        (7, 0),
        (8, 2),
        (9, 0),
        (10, 2),
        (11, 0),
        (12, 0),
        (13, 0),
        (14, 0),
        (15, 0),
    ] {
        for flags in (0..16_u8).filter(|flags| *flags != legal) {
            let bytes = [packet_type << 4 | flags, 0];
            cases.push(case(V5, bytes, Rule::ReservedFlags, "MQTT-2.1.3-1", MALFORMED));
        }
    }
    // 5.0 §3.1.2.11, §3.3.2.3: each of these may be there once.
    for property in
        [&b"\x01\0"[..], b"\x02\0\0\0\x01", b"\x03\0\0", b"\x08\0\x01r", b"\x09\0\0", b"\x23\0\x01"]
    {
        let bytes = publish_with(&repeated(property));
        cases.push(case(V5, bytes, Rule::DuplicateProperty, "5.0 §2.2.2.2", PROTOCOL));
    }
    for property in [
        &b"\x11\0\0\0\x01"[..],
        b"\x15\0\x01m",
        b"\x16\0\x01d",
        b"\x17\x01",
        b"\x19\x01",
        b"\x21\0\x01",
        b"\x22\0\x01",
        b"\x27\0\0\0\x01",
    ] {
        let bytes = connect_with(&repeated(property));
        cases.push(case(V5, bytes, Rule::DuplicateProperty, "5.0 §2.2.2.2", PROTOCOL));
    }
    cases
}

/// Proves the clauses of its rows.
#[test]
fn illegal_packets_are_refused_for_the_right_reason() {
    for Case { version, bytes, rule, clause, reason } in cases() {
        let malformed = refuse(version, &bytes);
        assert_eq!(malformed.rule, rule, "{version} {bytes:02X?}");
        assert_eq!(malformed.reason_code(), reason, "{version} {bytes:02X?}");
        // While a packet is split off, its version is not known: 5.0 numbering then.
        let clause = if malformed.version.is_none() { rule.clause() } else { clause };
        assert_eq!(malformed.clause(), clause, "{version} {bytes:02X?}");
        assert_eq!(malformed.packet, PacketType::from_header(bytes[0]));
        assert!(malformed.to_string().contains(clause), "{malformed}");
    }
}

#[test]
fn every_rule_has_a_case() {
    let cases = cases();
    for rule in Rule::ALL {
        assert!(cases.iter().any(|case| case.rule == *rule), "{rule:?}");
    }
}

/// Nobody makes us wait for a packet that we will not take, nor for the rest of one that cannot become legal.
#[test]
fn refused_before_it_is_there_in_whole() {
    assert_eq!(split(b"\x36", 100).unwrap_err().rule, Rule::QosReserved);
    assert_eq!(split(b"\x30\x63", 100).unwrap_err().rule, Rule::PacketTooLarge);
    assert_eq!(split(b"\x30\x62", 100), Ok(None));
    assert_eq!(split(b"\x30\xFF\xFF\xFF", 100), Ok(None));
    assert_eq!(split(b"\x30\xFF\xFF\xFF\x7F", 100).unwrap_err().rule, Rule::PacketTooLarge);
    assert_eq!(split(b"\x30\xFF\xFF\xFF\xFF", u32::MAX).unwrap_err().rule, Rule::VarintTooLong);
    assert_eq!(split(b"\x30\xFF\xFF\xFF\x7F", u32::MAX), Ok(None));
}

#[test]
fn a_packet_of_exactly_the_largest_size_is_taken() {
    let bytes = packet(0x30, &[b"\0\x01a", &[0; 95]]);
    assert_eq!(bytes.len(), 100);
    assert!(split(&bytes, 100).unwrap().is_some());
    assert_eq!(split(&bytes, 99).unwrap_err().reason_code(), ReasonCode::PACKET_TOO_LARGE);
}

/// 3.1.1 knows no shared subscriptions: there `$share/` begins a filter like any other.
#[test]
fn version_3_may_subscribe_to_what_looks_like_a_broken_shared_filter() {
    for bytes in [&b"\x82\x0E\0\x01\0\x09$share//a\0"[..], b"\x82\x0D\0\x01\0\x08$share/g\0"] {
        let frame = split(bytes, 100).unwrap().unwrap();
        assert!(decode(frame, V3).is_ok() && decode(frame, V5).is_err());
    }
}

/// 3.1.1 does not ask for the shortest Remaining Length, and there are devices that do not write it.
#[test]
fn version_3_may_write_lengths_in_full() {
    let frame = split(b"\x30\x84\x80\x80\0\0\x01ax", 100).unwrap().unwrap();
    assert_eq!((frame.total_len(), frame.body()), (9, &b"\0\x01ax"[..]));
    assert!(decode(frame, V3).is_ok());
    // Also in its CONNECT, whatever the caller believes before it has read it.
    let frame = split(b"\x10\x8D\0\0\x04MQTT\x04\x02\0\0\0\x01c", 100).unwrap().unwrap();
    assert!(decode(frame, V3).is_ok() && decode(frame, V5).is_ok());
}

#[test]
fn bytes_needed_is_the_length_of_the_first_packet() {
    use crate::bytes_needed;
    assert_eq!(bytes_needed(b""), None);
    assert_eq!(bytes_needed(b"\x30"), None);
    assert_eq!(bytes_needed(b"\x30\x80"), None);
    assert_eq!(bytes_needed(b"\x30\x80\x01"), Some(131));
    assert_eq!(bytes_needed(b"\xC0\0\xC0\0"), Some(2));
    assert_eq!(bytes_needed(b"\x30\xFF\xFF\xFF\xFF"), None);
}

/// [MQTT-3.1.2-1] [MQTT-3.1.2-2] [MQTT-3.1.4-1] [MQTT3-3.1.2-2] [MQTT3-3.1.3-8] [MQTT3-3.1.4-1]
#[test]
fn a_broken_connect_is_answered_where_an_answer_exists() {
    let unsupported = ReasonCode::UNSUPPORTED_PROTOCOL_VERSION;
    let old = Some(Refusal { version: V3, reason: unsupported });
    let new = Some(Refusal { version: V5, reason: unsupported });
    for (bytes, refusal) in [
        (b"\x10\x09\0\x06MQIsdp\x03".to_vec(), old),
        (b"\x10\x07\0\x04MQTT\x03".to_vec(), old),
        // The bridge bit that Mosquitto sets in the protocol level.
        (b"\x10\x07\0\x04MQTT\x84".to_vec(), old),
        (b"\x10\x07\0\x04MQTT\x06".to_vec(), new),
        (b"\x10\x06\0\x03MQT\x05".to_vec(), None),
        (
            connect(V3, 0, b"\0\0"),
            Some(Refusal { version: V3, reason: ReasonCode::CLIENT_IDENTIFIER_NOT_VALID }),
        ),
        (connect(V3, 3, b"\0\0"), None),
        (
            b"\x10\x8D\0\0\x04MQTT\x05\x02\0\0\0\0\0".to_vec(),
            Some(Refusal { version: V5, reason: MALFORMED }),
        ),
        (connect(V5, 3, b"\0\0"), Some(Refusal { version: V5, reason: MALFORMED })),
    ] {
        // Whatever version the caller assumes: a CONNECT says its own.
        for version in [V3, V5] {
            assert_eq!(refuse(version, &bytes).refusal(), refusal, "{bytes:02X?}");
        }
    }
    assert_eq!(refuse(V5, b"\xE0\x01\x10").refusal(), None);

    // And so it is answered.
    let mut out = Vec::new();
    for refusal in [old, new].into_iter().flatten() {
        crate::encode_connack(&mut out, refusal.version, &crate::ConnAck::new(false, refusal.reason))
            .unwrap();
    }
    assert_eq!(out, b"\x20\x02\0\x01\x20\x03\0\x84\0");
}

#[test]
fn what_mqtt_cannot_say_is_not_written() {
    use crate::{Auth, ConnAck, Connect, Disconnect, SubAck, Subscribe, UnsubAck, Unsubscribe, Will};
    let id = super::id(1);
    let long = "x".repeat(65_536);
    let mut out = b"kept".to_vec();
    for version in [V3, V5] {
        assert_eq!(
            crate::encode_connect(&mut out, &Connect::new(version, long.clone())),
            Err(Unencodable::TooLong)
        );
        let will = Will { topic: "w".into(), payload: long.clone().into_bytes(), ..Will::default() };
        let connect = Connect { will: Some(will), ..Connect::new(version, "c") };
        assert_eq!(crate::encode_connect(&mut out, &connect), Err(Unencodable::TooLong));
        let subscribe = Subscribe {
            packet_id: id,
            subscription_id: None,
            user_properties: vec![],
            subscriptions: vec![],
        };
        assert_eq!(crate::encode_subscribe(&mut out, version, &subscribe), Err(Unencodable::Empty));
        let unsubscribe = Unsubscribe { packet_id: id, user_properties: vec![], filters: vec![] };
        assert_eq!(crate::encode_unsubscribe(&mut out, version, &unsubscribe), Err(Unencodable::Empty));
        let unsubscribe = Unsubscribe { filters: vec![long.clone()], ..unsubscribe };
        assert_eq!(crate::encode_unsubscribe(&mut out, version, &unsubscribe), Err(Unencodable::TooLong));
        assert_eq!(
            crate::encode_suback(&mut out, version, &SubAck::new(id, vec![])),
            Err(Unencodable::Empty)
        );
        let ack = SubAck::new(id, vec![ReasonCode::BANNED]);
        assert_eq!(crate::encode_suback(&mut out, version, &ack), Err(Unencodable::ReasonCode));
    }
    let connect = Connect { password: Some(vec![]), ..Connect::new(V3, "c") };
    assert_eq!(crate::encode_connect(&mut out, &connect), Err(Unencodable::NotInThisVersion));
    let will = Will { topic: "w".into(), expiry_secs: Some(0), ..Will::default() };
    let connect = Connect { will: Some(will), ..Connect::new(V5, "c") };
    assert_eq!(crate::encode_connect(&mut out, &connect), Err(Unencodable::Empty));
    let will = Will { topic: "w".into(), properties: b"\x03\0\x09".to_vec(), ..Will::default() };
    let connect = Connect { will: Some(will), ..Connect::new(V5, "c") };
    assert_eq!(crate::encode_connect(&mut out, &connect), Err(Unencodable::Properties));
    let ack = ConnAck::new(false, ReasonCode::KEEP_ALIVE_TIMEOUT);
    assert_eq!(crate::encode_connack(&mut out, V5, &ack), Err(Unencodable::ReasonCode));
    let ack = UnsubAck::new(id, vec![ReasonCode::QUOTA_EXCEEDED]);
    assert_eq!(crate::encode_unsuback(&mut out, V5, &ack), Err(Unencodable::ReasonCode));
    assert_eq!(crate::encode_unsuback(&mut out, V5, &UnsubAck::new(id, vec![])), Err(Unencodable::Empty));
    let disconnect = Disconnect::new(ReasonCode::BANNED);
    assert_eq!(crate::encode_disconnect(&mut out, V5, &disconnect), Err(Unencodable::ReasonCode));
    let auth = Auth { reason: ReasonCode::BANNED, ..Auth::default() };
    assert_eq!(crate::encode_auth(&mut out, &auth), Err(Unencodable::ReasonCode));
    let auth = Auth { reason_string: Some("no method".into()), ..Auth::default() };
    assert_eq!(crate::encode_auth(&mut out, &auth), Err(Unencodable::Empty));
    assert_eq!(out, b"kept");
}
