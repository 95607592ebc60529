//! SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK (MQTT 5.0 §3.8 to §3.11; the same sections of 3.1.1).
//!
//! Knows: their layouts and options, and what is no topic filter at all (`model::TopicFilter`). May use: `properties`,
//! `text`, `bridge`. Never: whether a filter is granted; SUBACK says that, filter by filter.
//! SUBSCRIBE and UNSUBSCRIBE are read here and not by ntex, which lets broken ones pass
//! (`router/docs/decisions/0002-own-codec-where.md`).

use std::num::{NonZeroU16, NonZeroU32};

use model::{InvalidTopic, Qos, TopicFilter};

use crate::bridge;
use crate::frames::Frame;
use crate::malformed::Rule;
use crate::packet::{PacketType, Unencodable, Version};
use crate::properties::{self, Carrier, id};
use crate::reason::ReasonCode;
use crate::text::Reader;

/// What a new subscription gets of the retained messages (MQTT 5.0 §3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// All that match; always so in 3.1.1.
    #[default]
    Send = 0,
    /// All that match, if the subscription did not exist before.
    SendIfNew = 1,
    /// None.
    DoNotSend = 2,
}

/// One line of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// As sent. What `decode` lets pass is a topic filter; in 3.1.1 perhaps one that looks like a broken shared one.
    pub filter: String,
    /// The highest QoS the client wants.
    pub qos: Qos,
    /// 5.0: not what the client publishes itself. Never set on a shared subscription [MQTT-3.8.3-4].
    pub no_local: bool,
    /// 5.0: pass the RETAIN flag on as it was published.
    pub retain_as_published: bool,
    /// 5.0: what of the retained messages to send.
    pub retain_handling: RetainHandling,
}

impl Subscription {
    /// A subscription without the options of 5.0.
    pub fn new(filter: impl Into<String>, qos: Qos) -> Subscription {
        Subscription {
            filter: filter.into(),
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }
}

/// A SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Never 0.
    pub packet_id: NonZeroU16,
    /// 5.0: 1 to 268 435 455, for all its subscriptions.
    pub subscription_id: Option<NonZeroU32>,
    /// 5.0: in order.
    pub user_properties: Vec<(String, String)>,
    /// At least one.
    pub subscriptions: Vec<Subscription>,
}

/// An UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Never 0.
    pub packet_id: NonZeroU16,
    /// 5.0: in order.
    pub user_properties: Vec<(String, String)>,
    /// At least one, each a topic filter.
    pub filters: Vec<String>,
}

/// A SUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// That of the SUBSCRIBE.
    pub packet_id: NonZeroU16,
    /// One for each subscription, in order. 3.1.1 knows one failure: whatever [`ReasonCode::is_error`] is 0x80 there.
    pub reasons: Vec<ReasonCode>,
    /// 5.0: for a person.
    pub reason_string: Option<String>,
    /// 5.0: in order.
    pub user_properties: Vec<(String, String)>,
}

impl SubAck {
    /// A SUBACK without properties.
    pub const fn new(packet_id: NonZeroU16, reasons: Vec<ReasonCode>) -> SubAck {
        SubAck { packet_id, reasons, reason_string: None, user_properties: Vec::new() }
    }
}

/// An UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck {
    /// That of the UNSUBSCRIBE.
    pub packet_id: NonZeroU16,
    /// 5.0: one for each filter, in order. 3.1.1 has none: left out when written, empty when read.
    pub reasons: Vec<ReasonCode>,
    /// 5.0: for a person.
    pub reason_string: Option<String>,
    /// 5.0: in order.
    pub user_properties: Vec<(String, String)>,
}

impl UnsubAck {
    /// An UNSUBACK without properties.
    pub const fn new(packet_id: NonZeroU16, reasons: Vec<ReasonCode>) -> UnsubAck {
        UnsubAck { packet_id, reasons, reason_string: None, user_properties: Vec::new() }
    }
}

pub(crate) fn decode(frame: Frame<'_>, version: Version) -> Result<Subscribe, Rule> {
    let mut reader = Reader::new(frame.body());
    let mut subscribe = Subscribe {
        packet_id: reader.packet_id()?, // [MQTT-2.2.1-3] [MQTT3-2.3.1-1]
        subscription_id: None,
        user_properties: Vec::new(),
        subscriptions: Vec::new(),
    };
    if version == Version::V5 {
        let block = properties::take_block(&mut reader)?;
        properties::check(block, Carrier::packet(PacketType::Subscribe), |property, value| {
            match property {
                id::SUBSCRIPTION_ID => subscribe.subscription_id = NonZeroU32::new(value.number()),
                id::USER => subscribe.user_properties.push(owned(value.pair())),
                _ => {}
            }
            Ok(())
        })?;
    }
    while !reader.is_empty() {
        // [MQTT-3.8.3-1] [MQTT3-3.8.3-1]
        let filter = read_filter(&mut reader, version)?;
        let subscription = read_options(filter, reader.byte()?, version)?;
        subscribe.subscriptions.push(subscription);
    }
    if subscribe.subscriptions.is_empty() {
        return Err(Rule::EmptySubscribe); // [MQTT-3.8.3-2] [MQTT3-3.8.3-3]
    }
    Ok(subscribe)
}

/// A topic filter that can match something. One of the wrong form is not allowed by the protocol, so it ends the
/// connection (5.0 §1.2 "Protocol Error", [MQTT-4.13.1-1] [MQTT3-4.8.0-1]); one that we merely do not want is answered.
fn read_filter<'t>(reader: &mut Reader<'t>, version: Version) -> Result<&'t str, Rule> {
    let filter = reader.text()?;
    match TopicFilter::check(filter) {
        Ok(()) => Ok(filter),
        Err(InvalidTopic::Empty) => Err(Rule::EmptyTopicFilter), // [MQTT-4.7.3-1] [MQTT3-4.7.3-1]
        Err(InvalidTopic::MisplacedHash) => Err(Rule::MisplacedHash), // [MQTT-4.7.1-1] [MQTT3-4.7.1-2]
        Err(InvalidTopic::MisplacedPlus) => Err(Rule::MisplacedPlus), // [MQTT-4.7.1-2] [MQTT3-4.7.1-3]
        // 3.1.1 knows no shared subscriptions: there such a filter is an odd one, and whoever grants it answers.
        Err(InvalidTopic::ShareName) if version == Version::V3 => Ok(filter),
        Err(InvalidTopic::ShareName) => Err(Rule::ShareName), // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
        // Length and U+0000 are what `text` looks at; names are not filters.
        Err(InvalidTopic::TooLong | InvalidTopic::Null | InvalidTopic::WildcardInName) => {
            Err(Rule::NullCharacter)
        }
    }
}

fn read_options(filter: &str, options: u8, version: Version) -> Result<Subscription, Rule> {
    let reserved = match version {
        Version::V3 => 0b1111_1100, // [MQTT3-3.8.3-4]
        Version::V5 => 0b1100_0000, // [MQTT-3.8.3-5]
    };
    if options & reserved != 0 {
        return Err(Rule::SubscribeReservedBits);
    }
    // 5.0 §3.8.3.1 [MQTT3-3.8.3-4]
    let qos = Qos::from_bits(options & 0b11).ok_or(Rule::SubscribeQosReserved)?;
    let no_local = options & 0b0000_0100 != 0;
    // [MQTT-3.8.3-4]
    if no_local && filter.starts_with("$share/") {
        return Err(Rule::NoLocalOnShared);
    }
    Ok(Subscription {
        filter: filter.to_owned(),
        qos,
        no_local,
        retain_as_published: options & 0b0000_1000 != 0,
        retain_handling: match options >> 4 & 0b11 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(Rule::RetainHandlingReserved),
        },
    })
}

pub(crate) fn decode_unsubscribe(frame: Frame<'_>, version: Version) -> Result<Unsubscribe, Rule> {
    let mut reader = Reader::new(frame.body());
    let mut unsubscribe = Unsubscribe {
        packet_id: reader.packet_id()?, // [MQTT-2.2.1-3] [MQTT3-2.3.1-1]
        user_properties: Vec::new(),
        filters: Vec::new(),
    };
    if version == Version::V5 {
        let block = properties::take_block(&mut reader)?;
        properties::check(block, Carrier::packet(PacketType::Unsubscribe), |_, value| {
            unsubscribe.user_properties.push(owned(value.pair()));
            Ok(())
        })?;
    }
    while !reader.is_empty() {
        // [MQTT-3.10.3-1] [MQTT3-3.10.3-1]
        unsubscribe.filters.push(read_filter(&mut reader, version)?.to_owned());
    }
    if unsubscribe.filters.is_empty() {
        return Err(Rule::EmptyUnsubscribe); // [MQTT-3.10.3-2] [MQTT3-3.10.3-2]
    }
    Ok(unsubscribe)
}

pub(crate) fn decode_suback(frame: Frame<'_>, version: Version) -> Result<SubAck, Rule> {
    let reasons = check_suback(frame, version, PacketType::SubAck)?;
    let legal = match version {
        // [MQTT3-3.9.3-2]
        Version::V3 => reasons.iter().all(|code| matches!(code, 0..=2 | 0x80)),
        Version::V5 => all_allowed(reasons, PacketType::SubAck),
    };
    if !legal {
        return Err(Rule::ReasonCodeNotAllowed);
    }
    if reasons.is_empty() {
        return Err(Rule::EmptyAcknowledgement);
    }
    bridge::decode_suback(frame, version)
}

pub(crate) fn decode_unsuback(frame: Frame<'_>, version: Version) -> Result<UnsubAck, Rule> {
    let reasons = check_suback(frame, version, PacketType::UnsubAck)?;
    if version == Version::V3 {
        // 3.1.1 §3.11.3: no payload.
        if !reasons.is_empty() {
            return Err(Rule::TrailingBytes);
        }
    } else if reasons.is_empty() {
        return Err(Rule::EmptyAcknowledgement);
    } else if !all_allowed(reasons, PacketType::UnsubAck) {
        return Err(Rule::ReasonCodeNotAllowed);
    }
    bridge::decode_unsuback(frame, version)
}

/// Checks what ntex does not, and gives back the payload.
fn check_suback(frame: Frame<'_>, version: Version, packet: PacketType) -> Result<&[u8], Rule> {
    let mut reader = Reader::new(frame.body());
    reader.packet_id()?;
    if version == Version::V5 {
        let block = properties::take_block(&mut reader)?;
        properties::check(block, Carrier::packet(packet), |_, _| Ok(()))?;
    }
    Ok(reader.rest())
}

fn all_allowed(codes: &[u8], packet: PacketType) -> bool {
    codes.iter().all(|&code| ReasonCode::from_bits(code).is_some_and(|code| code.is_allowed_in(packet)))
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Appends a SUBSCRIBE. The options and properties of 5.0 are left out in 3.1.1.
///
/// Fails, with `out` as it was, if it has no subscription or is too long.
pub fn encode_subscribe(
    out: &mut Vec<u8>,
    version: Version,
    subscribe: &Subscribe,
) -> Result<(), Unencodable> {
    bridge::encode_subscribe(out, version, subscribe)
}

/// Appends a SUBACK.
///
/// Fails, with `out` as it was, if it has no reason or one that a SUBACK may not carry, or is too long.
pub fn encode_suback(out: &mut Vec<u8>, version: Version, ack: &SubAck) -> Result<(), Unencodable> {
    bridge::encode_suback(out, version, ack)
}

/// Appends an UNSUBSCRIBE. The properties of 5.0 are left out in 3.1.1.
///
/// Fails, with `out` as it was, if it has no filter or is too long.
pub fn encode_unsubscribe(
    out: &mut Vec<u8>,
    version: Version,
    unsubscribe: &Unsubscribe,
) -> Result<(), Unencodable> {
    bridge::encode_unsubscribe(out, version, unsubscribe)
}

/// Appends an UNSUBACK. In 3.1.1 it is a packet identifier and nothing else.
///
/// Fails, with `out` as it was, if (in 5.0) it has no reason or one that an UNSUBACK may not carry, or is too long.
pub fn encode_unsuback(out: &mut Vec<u8>, version: Version, ack: &UnsubAck) -> Result<(), Unencodable> {
    bridge::encode_unsuback(out, version, ack)
}
