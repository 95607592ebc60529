//! CONNECT and CONNACK (MQTT 5.0 §3.1, §3.2; 3.1.1 §3.1, §3.2).
//!
//! Knows: what a client may say about itself, and how it is answered. May use: `properties`, `text`, `bridge`.
//! Never: whether the client is welcome.
//! CONNECT is read here and not by ntex, which lets broken ones pass
//! (`router/docs/decisions/0002-own-codec-where.md`).

use std::num::{NonZeroU16, NonZeroU32};

use model::Qos;

use crate::bridge;
use crate::frames::Frame;
use crate::malformed::Rule;
use crate::packet::{PacketType, Unencodable, Version};
use crate::properties::{self, Carrier, Walk, id};
use crate::reason::ReasonCode;
use crate::text::{Reader, contains_null_or_wildcard};

/// What Receive Maximum is where nobody says otherwise (MQTT 5.0 §3.1.2.11.3).
pub const RECEIVE_MAX_DEFAULT: NonZeroU16 = NonZeroU16::MAX;

/// A client's first packet. In 3.1.1, the fields of 5.0 have the values that `Connect::new` gives them.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// The version that the client speaks from now on.
    pub version: Version,
    /// Clean Start, or Clean Session in 3.1.1.
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive_secs: u16,
    /// May be empty: the client wants us to choose one.
    pub client_id: String,
    /// User Name.
    pub user_name: Option<String>,
    /// Password: any bytes. Not shown by `Debug`.
    pub password: Option<Vec<u8>>,
    /// What to publish when the client is gone.
    pub will: Option<Will>,
    /// 5.0: Session Expiry Interval as sent, 0 if absent; see [`Connect::session_secs`].
    pub session_expiry_secs: u32,
    /// 5.0: how many PUBLISH above QoS 0 the client takes at once.
    pub receive_max: NonZeroU16,
    /// 5.0: the largest packet the client takes; `None` is no limit of its own.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// 5.0: the highest topic alias the client takes; 0 is none.
    pub topic_alias_max: u16,
    /// 5.0: whether we may send Response Information.
    pub request_response_information: bool,
    /// 5.0: whether Reason Strings and user properties may come with any packet.
    pub request_problem_information: bool,
    /// 5.0: in order.
    pub user_properties: Vec<(String, String)>,
    /// 5.0: name of the extended authentication.
    pub authentication_method: Option<String>,
    /// 5.0: only with a method. Not shown by `Debug`.
    pub authentication_data: Option<Vec<u8>>,
}

impl Connect {
    /// A client without credentials, Will or wishes: clean start, no keep alive.
    pub fn new(version: Version, client_id: impl Into<String>) -> Connect {
        Connect {
            version,
            clean_start: true,
            keep_alive_secs: 0,
            client_id: client_id.into(),
            user_name: None,
            password: None,
            will: None,
            session_expiry_secs: 0,
            receive_max: RECEIVE_MAX_DEFAULT,
            packet_bytes_max: None,
            topic_alias_max: 0,
            request_response_information: false,
            request_problem_information: true,
            user_properties: Vec::new(),
            authentication_method: None,
            authentication_data: None,
        }
    }

    /// How long the client wants its session to live without a connection, in seconds; `u32::MAX` is for ever.
    ///
    /// In 3.1.1 a session lives as long as the connection or for ever, by Clean Session (§3.1.2.4).
    pub const fn session_secs(&self) -> u32 {
        match (self.version, self.clean_start) {
            (Version::V5, _) => self.session_expiry_secs,
            (Version::V3, true) => 0,
            (Version::V3, false) => u32::MAX,
        }
    }
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Logs are read by more people than passwords are meant for.
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive_secs", &self.keep_alive_secs)
            .field("client_id", &self.client_id)
            .field("user_name", &self.user_name)
            .field("password", &self.password.as_ref().map(|_| "hidden"))
            .field("will", &self.will)
            .field("session_expiry_secs", &self.session_expiry_secs)
            .field("receive_max", &self.receive_max)
            .field("packet_bytes_max", &self.packet_bytes_max)
            .field("topic_alias_max", &self.topic_alias_max)
            .field("request_response_information", &self.request_response_information)
            .field("request_problem_information", &self.request_problem_information)
            .field("user_properties", &self.user_properties)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &self.authentication_data.as_ref().map(|_| "hidden"))
            .finish()
    }
}

/// What a client wants published when it is gone without a DISCONNECT (MQTT 5.0 §3.1.2.5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Will {
    /// A valid topic name.
    pub topic: String,
    /// The message itself.
    pub payload: Vec<u8>,
    /// The QoS to publish it with.
    pub qos: Qos,
    /// Whether to retain it.
    pub retain: bool,
    /// 5.0: how long to wait for the client to come back, in seconds.
    pub delay_secs: u32,
    /// 5.0: life of the message from its publication on, in seconds.
    pub expiry_secs: Option<u32>,
    /// 5.0: all other properties, in order, as [`crate::OutgoingPublish::properties`] takes them.
    pub properties: Vec<u8>,
}

/// The answer to a CONNECT. In 3.1.1 there is nothing but `session_present` and `reason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// We have a session of this client. Never together with a refusal [MQTT-3.2.2-6].
    pub session_present: bool,
    /// Success, or why not.
    pub reason: ReasonCode,
    /// Session Expiry Interval, if it is not the one asked for.
    pub session_expiry_secs: Option<u32>,
    /// How many PUBLISH above QoS 0 the server takes at once.
    pub receive_max: NonZeroU16,
    /// Highest QoS the server takes.
    pub qos_max: Qos,
    /// Whether the server keeps retained messages.
    pub retain_available: bool,
    /// The largest packet the server takes; `None` is no limit of its own.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// The identifier that the server chose for a client that had none.
    pub assigned_client_id: Option<String>,
    /// The highest topic alias the server takes; 0 is none.
    pub topic_alias_max: u16,
    /// For a person.
    pub reason_string: Option<String>,
    /// In order.
    pub user_properties: Vec<(String, String)>,
    /// Whether wildcards may be subscribed to.
    pub wildcard_subscriptions_available: bool,
    /// Whether subscriptions may have identifiers.
    pub subscription_ids_available: bool,
    /// Whether subscriptions may be shared.
    pub shared_subscriptions_available: bool,
    /// Server Keep Alive in seconds: replaces the client's.
    pub keep_alive_secs: Option<u16>,
    /// A basis for response topics.
    pub response_information: Option<String>,
    /// Another server to use.
    pub server_reference: Option<String>,
    /// Name of the extended authentication.
    pub authentication_method: Option<String>,
    /// Only with a method.
    pub authentication_data: Option<Vec<u8>>,
}

impl ConnAck {
    /// An answer that says nothing but this; every property has the value that its absence means.
    pub const fn new(session_present: bool, reason: ReasonCode) -> ConnAck {
        ConnAck {
            session_present,
            reason,
            session_expiry_secs: None,
            receive_max: RECEIVE_MAX_DEFAULT,
            qos_max: Qos::ExactlyOnce,
            retain_available: true,
            packet_bytes_max: None,
            assigned_client_id: None,
            topic_alias_max: 0,
            reason_string: None,
            user_properties: Vec::new(),
            wildcard_subscriptions_available: true,
            subscription_ids_available: true,
            shared_subscriptions_available: true,
            keep_alive_secs: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        }
    }
}

const USER_NAME: u8 = 0b1000_0000;
const PASSWORD: u8 = 0b0100_0000;
const WILL_RETAIN: u8 = 0b0010_0000;
const WILL_QOS: u8 = 0b0001_1000;
const WILL: u8 = 0b0000_0100;
const CLEAN_START: u8 = 0b0000_0010;
const RESERVED: u8 = 0b0000_0001;

/// Reads a CONNECT. An error carries the version in which it is to be answered, as far as that is known.
pub(crate) fn decode(frame: Frame<'_>) -> Result<Connect, (Option<Version>, Rule)> {
    let mut reader = Reader::new(frame.body());
    let version = read_version(&mut reader)?;
    // [MQTT-1.5.5-1]
    if version == Version::V5 && !frame.is_minimal() {
        return Err((Some(version), Rule::VarintNotMinimal));
    }
    read_rest(reader, version).map_err(|rule| (Some(version), rule))
}

fn read_version(reader: &mut Reader<'_>) -> Result<Version, (Option<Version>, Rule)> {
    let fail = |rule| (None, rule);
    match reader.binary().map_err(fail)? {
        b"MQTT" => {}
        // MQTT 3.1, from before OASIS. Its clients know the 3.1.1 form of CONNACK and its return code 1.
        b"MQIsdp" => return Err((Some(Version::V3), Rule::UnsupportedVersion)),
        // [MQTT-3.1.2-1] [MQTT3-3.1.2-1]
        _ => return Err((None, Rule::ProtocolName)),
    }
    match reader.byte().map_err(fail)? {
        4 => Ok(Version::V3),
        5 => Ok(Version::V5),
        // [MQTT3-3.1.2-2] [MQTT-3.1.2-2]. The answer has the form that the client is likely to know. The top bit is
        // how bridges of some brokers ask for more than the standard; refused, they ask again without it.
        level if level & 0x7F <= 4 => Err((Some(Version::V3), Rule::UnsupportedVersion)),
        _ => Err((Some(Version::V5), Rule::UnsupportedVersion)),
    }
}

fn read_rest(mut reader: Reader<'_>, version: Version) -> Result<Connect, Rule> {
    let flags = reader.byte()?;
    check_flags(flags, version)?;
    let keep_alive_secs = reader.two()?;

    let mut connect = Connect::new(version, "");
    connect.clean_start = flags & CLEAN_START != 0;
    connect.keep_alive_secs = keep_alive_secs;
    if version == Version::V5 {
        read_properties(&mut connect, properties::take_block(&mut reader)?)?;
    }

    // [MQTT-3.1.3-3] [MQTT-3.1.3-4] [MQTT3-3.1.3-3] [MQTT3-3.1.3-4]
    connect.client_id = reader.text()?.to_owned();
    // [MQTT3-3.1.3-7] [MQTT3-3.1.3-8]; 5.0 lets us choose one in any case [MQTT-3.1.3-6].
    if version == Version::V3 && connect.client_id.is_empty() && !connect.clean_start {
        return Err(Rule::EmptyClientId);
    }
    // [MQTT-3.1.2-9] [MQTT3-3.1.2-9]
    if flags & WILL != 0 {
        connect.will = Some(read_will(&mut reader, version, flags)?);
    }
    // [MQTT-3.1.2-17] [MQTT3-3.1.2-19]
    if flags & USER_NAME != 0 {
        connect.user_name = Some(reader.text()?.to_owned());
    }
    // [MQTT-3.1.2-19] [MQTT3-3.1.2-21]
    if flags & PASSWORD != 0 {
        connect.password = Some(reader.binary()?.to_owned());
    }
    reader.finish()?;
    Ok(connect)
}

fn check_flags(flags: u8, version: Version) -> Result<(), Rule> {
    if flags & RESERVED != 0 {
        return Err(Rule::ConnectReservedFlag); // [MQTT-3.1.2-3] [MQTT3-3.1.2-3]
    }
    if flags & WILL_QOS == WILL_QOS {
        return Err(Rule::WillQosReserved); // [MQTT-3.1.2-12] [MQTT3-3.1.2-14]
    }
    if flags & WILL == 0 && flags & WILL_QOS != 0 {
        return Err(Rule::WillQosWithoutWill); // [MQTT-3.1.2-11] [MQTT3-3.1.2-13]
    }
    if flags & WILL == 0 && flags & WILL_RETAIN != 0 {
        return Err(Rule::WillRetainWithoutWill); // [MQTT-3.1.2-13] [MQTT3-3.1.2-15]
    }
    if version == Version::V3 && flags & USER_NAME == 0 && flags & PASSWORD != 0 {
        return Err(Rule::PasswordWithoutUserName); // [MQTT3-3.1.2-22]
    }
    Ok(())
}

fn read_properties(connect: &mut Connect, block: &[u8]) -> Result<(), Rule> {
    properties::check(block, Carrier::packet(PacketType::Connect), |property, value| {
        match property {
            id::SESSION_EXPIRY => connect.session_expiry_secs = value.number(),
            id::RECEIVE_MAX => {
                connect.receive_max = NonZeroU16::new(value.two()).unwrap_or(RECEIVE_MAX_DEFAULT);
            }
            id::PACKET_BYTES_MAX => connect.packet_bytes_max = NonZeroU32::new(value.number()),
            id::TOPIC_ALIAS_MAX => connect.topic_alias_max = value.two(),
            id::REQUEST_RESPONSE_INFORMATION => connect.request_response_information = value.flag(),
            id::REQUEST_PROBLEM_INFORMATION => connect.request_problem_information = value.flag(),
            id::USER => {
                let (name, value) = value.pair();
                connect.user_properties.push((name.to_owned(), value.to_owned()));
            }
            id::AUTHENTICATION_METHOD => connect.authentication_method = Some(value.text().to_owned()),
            id::AUTHENTICATION_DATA => connect.authentication_data = Some(value.binary().to_owned()),
            _ => {}
        }
        Ok(())
    })?;
    // §3.1.2.11.10: data without a method is a Protocol Error.
    if connect.authentication_data.is_some() && connect.authentication_method.is_none() {
        return Err(Rule::AuthenticationMethodMissing);
    }
    Ok(())
}

fn read_will(reader: &mut Reader<'_>, version: Version, flags: u8) -> Result<Will, Rule> {
    let mut will = Will {
        qos: Qos::from_bits((flags & WILL_QOS) >> 3).ok_or(Rule::WillQosReserved)?,
        retain: flags & WILL_RETAIN != 0,
        ..Will::default()
    };
    if version == Version::V5 {
        let block = properties::take_block(reader)?;
        properties::check(block, Carrier::WILL, |property, value| {
            match property {
                id::WILL_DELAY => will.delay_secs = value.number(),
                id::MESSAGE_EXPIRY => will.expiry_secs = Some(value.number()),
                id::RESPONSE_TOPIC => properties::check_response_topic(value.text())?,
                _ => {}
            }
            Ok(())
        })?;
        let mut walk = Walk::new(block);
        while let Some((property, bytes)) = walk.next_raw() {
            if !matches!(property, id::WILL_DELAY | id::MESSAGE_EXPIRY) {
                will.properties.extend_from_slice(bytes);
            }
        }
    }
    // [MQTT-3.1.3-11] [MQTT3-3.1.3-10]; and it must be a topic one can publish to.
    let topic = reader.text()?;
    if topic.is_empty() {
        return Err(Rule::EmptyWillTopic);
    }
    if contains_null_or_wildcard(topic) {
        return Err(Rule::WildcardInTopicName);
    }
    topic.clone_into(&mut will.topic);
    reader.binary()?.clone_into(&mut will.payload);
    Ok(will)
}

pub(crate) fn decode_connack(frame: Frame<'_>, version: Version) -> Result<ConnAck, Rule> {
    let mut reader = Reader::new(frame.body());
    let flags = reader.byte()?;
    // [MQTT-3.2.2-1]
    if flags & !1 != 0 {
        return Err(Rule::ConnAckFlags);
    }
    let code = reader.byte()?;
    let reason = match version {
        Version::V3 => ReasonCode::from_connect_return_code_v3(code),
        // [MQTT-3.2.2-8]
        Version::V5 => ReasonCode::from_bits(code).filter(|reason| reason.is_allowed_in(PacketType::ConnAck)),
    }
    .ok_or(Rule::ReasonCodeNotAllowed)?;
    // [MQTT-3.2.2-6] [MQTT3-3.2.2-4]
    if flags & 1 != 0 && reason.is_error() {
        return Err(Rule::SessionPresentWithError);
    }
    if version == Version::V3 {
        reader.finish()?;
        return Ok(ConnAck::new(flags & 1 != 0, reason));
    }
    let block = properties::take_block(&mut reader)?;
    reader.finish()?;
    properties::check(block, Carrier::packet(PacketType::ConnAck), |_, _| Ok(()))?;
    bridge::decode_connack(frame)
}

/// Appends a CONNECT; its version is that of `connect`.
///
/// Fails, with `out` as it was, if a string is too long, or 3.1.1 has no way to say it (a password without a
/// user name), or the Will's expiry is 0 (it could never be delivered).
pub fn encode_connect(out: &mut Vec<u8>, connect: &Connect) -> Result<(), Unencodable> {
    bridge::encode_connect(out, connect)
}

/// Appends a CONNACK. In 3.1.1 the reason becomes a return code and all else is left out.
///
/// Fails, with `out` as it was, if a string is too long or a 5.0 CONNACK may not carry the reason.
pub fn encode_connack(out: &mut Vec<u8>, version: Version, ack: &ConnAck) -> Result<(), Unencodable> {
    bridge::encode_connack(out, version, ack)
}
