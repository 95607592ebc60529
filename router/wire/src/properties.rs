//! Properties of MQTT 5.0 (§2.2.2): what each one is, who may carry it, and how a block of them is read.
//!
//! Knows: the whole table of §2.2.2.2. May use: `text`, `varint`, `malformed`. Never: what a property means.
//! In: a block (the bytes after the Property Length). Out: its properties in order, or the rule it breaks.
//! Invariant: a block that [`check`] has accepted can be walked again without an error.

use std::num::{NonZeroU16, NonZeroU32};

use crate::malformed::Rule;
use crate::packet::{PacketType, Unencodable};
use crate::text::Reader;

/// Identifiers of properties (MQTT 5.0 §2.2.2.2).
pub(crate) mod id {
    pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_ID: u8 = 0x0B;
    pub(crate) const SESSION_EXPIRY: u8 = 0x11;
    pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(crate) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(crate) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(crate) const WILL_DELAY: u8 = 0x18;
    pub(crate) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1A;
    pub(crate) const SERVER_REFERENCE: u8 = 0x1C;
    pub(crate) const REASON_STRING: u8 = 0x1F;
    pub(crate) const RECEIVE_MAX: u8 = 0x21;
    pub(crate) const TOPIC_ALIAS_MAX: u8 = 0x22;
    pub(crate) const TOPIC_ALIAS: u8 = 0x23;
    pub(crate) const QOS_MAX: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER: u8 = 0x26;
    pub(crate) const PACKET_BYTES_MAX: u8 = 0x27;
    pub(crate) const WILDCARD_SUBSCRIPTIONS: u8 = 0x28;
    pub(crate) const SUBSCRIPTION_IDS: u8 = 0x29;
    pub(crate) const SHARED_SUBSCRIPTIONS: u8 = 0x2A;
}

/// Who carries a block: a packet, or the Will inside a CONNECT, as one bit of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carrier(u16);

impl Carrier {
    pub(crate) const WILL: Carrier = Carrier(1);

    #[inline]
    pub(crate) const fn packet(packet: PacketType) -> Carrier {
        Carrier(1 << packet as u8)
    }
}

const CONNECT: u16 = 1 << PacketType::Connect as u8;
const CONNACK: u16 = 1 << PacketType::ConnAck as u8;
const PUBLISH: u16 = 1 << PacketType::Publish as u8;
const ACKS: u16 = 1 << PacketType::PubAck as u8
    | 1 << PacketType::PubRec as u8
    | 1 << PacketType::PubRel as u8
    | 1 << PacketType::PubComp as u8;
const SUBSCRIBE: u16 = 1 << PacketType::Subscribe as u8;
const SUBACKS: u16 = 1 << PacketType::SubAck as u8 | 1 << PacketType::UnsubAck as u8;
const UNSUBSCRIBE: u16 = 1 << PacketType::Unsubscribe as u8;
const DISCONNECT: u16 = 1 << PacketType::Disconnect as u8;
const AUTH: u16 = 1 << PacketType::Auth as u8;
const WILL: u16 = Carrier::WILL.0;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A byte that is 0 or 1; every Byte property of 5.0 is one.
    Flag,
    Two,
    TwoNotZero,
    Four,
    FourNotZero,
    VarintNotZero,
    Text,
    Binary,
    Pair,
}

/// The table of MQTT 5.0 §2.2.2.2: form, and who may carry it; `None` if there is no such property.
#[inline]
const fn describe(property: u8) -> Option<(Form, u16)> {
    Some(match property {
        id::PAYLOAD_FORMAT => (Form::Flag, PUBLISH | WILL),
        id::MESSAGE_EXPIRY => (Form::Four, PUBLISH | WILL),
        id::CONTENT_TYPE => (Form::Text, PUBLISH | WILL),
        id::RESPONSE_TOPIC => (Form::Text, PUBLISH | WILL),
        id::CORRELATION => (Form::Binary, PUBLISH | WILL),
        id::SUBSCRIPTION_ID => (Form::VarintNotZero, PUBLISH | SUBSCRIBE),
        id::SESSION_EXPIRY => (Form::Four, CONNECT | CONNACK | DISCONNECT),
        id::ASSIGNED_CLIENT_ID => (Form::Text, CONNACK),
        id::SERVER_KEEP_ALIVE => (Form::Two, CONNACK),
        id::AUTHENTICATION_METHOD => (Form::Text, CONNECT | CONNACK | AUTH),
        id::AUTHENTICATION_DATA => (Form::Binary, CONNECT | CONNACK | AUTH),
        id::REQUEST_PROBLEM_INFORMATION => (Form::Flag, CONNECT),
        id::WILL_DELAY => (Form::Four, WILL),
        id::REQUEST_RESPONSE_INFORMATION => (Form::Flag, CONNECT),
        id::RESPONSE_INFORMATION => (Form::Text, CONNACK),
        id::SERVER_REFERENCE => (Form::Text, CONNACK | DISCONNECT),
        id::REASON_STRING => (Form::Text, CONNACK | ACKS | SUBACKS | DISCONNECT | AUTH),
        id::RECEIVE_MAX => (Form::TwoNotZero, CONNECT | CONNACK),
        id::TOPIC_ALIAS_MAX => (Form::Two, CONNECT | CONNACK),
        id::TOPIC_ALIAS => (Form::TwoNotZero, PUBLISH),
        id::QOS_MAX => (Form::Flag, CONNACK),
        id::RETAIN_AVAILABLE => (Form::Flag, CONNACK),
        id::USER => (
            Form::Pair,
            CONNECT | CONNACK | PUBLISH | WILL | ACKS | SUBSCRIBE | SUBACKS | UNSUBSCRIBE | DISCONNECT | AUTH,
        ),
        id::PACKET_BYTES_MAX => (Form::FourNotZero, CONNECT | CONNACK),
        id::WILDCARD_SUBSCRIPTIONS => (Form::Flag, CONNACK),
        id::SUBSCRIPTION_IDS => (Form::Flag, CONNACK),
        id::SHARED_SUBSCRIPTIONS => (Form::Flag, CONNACK),
        _ => return None,
    })
}

/// Whether a carrier may have the property more than once.
#[inline]
const fn may_repeat(property: u8, carrier: Carrier) -> bool {
    // One Subscription Identifier in SUBSCRIBE (§3.8.2.1.2), any number in PUBLISH (§3.3.2.3.8).
    property == id::USER || property == id::SUBSCRIPTION_ID && carrier.0 == PUBLISH
}

/// One value, borrowed from its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'t> {
    Flag(bool),
    Two(u16),
    Four(u32),
    Text(&'t str),
    Binary(&'t [u8]),
    Pair(&'t str, &'t str),
}

impl<'t> Value<'t> {
    pub(crate) fn flag(self) -> bool {
        matches!(self, Value::Flag(true))
    }

    pub(crate) fn number(self) -> u32 {
        match self {
            Value::Two(number) => u32::from(number),
            Value::Four(number) => number,
            Value::Flag(flag) => u32::from(flag),
            _ => 0,
        }
    }

    pub(crate) fn two(self) -> u16 {
        if let Value::Two(number) = self { number } else { 0 }
    }

    pub(crate) fn text(self) -> &'t str {
        if let Value::Text(text) = self { text } else { "" }
    }

    pub(crate) fn binary(self) -> &'t [u8] {
        if let Value::Binary(bytes) = self { bytes } else { &[] }
    }

    pub(crate) fn pair(self) -> (&'t str, &'t str) {
        if let Value::Pair(name, value) = self { (name, value) } else { ("", "") }
    }
}

/// Takes a Property Length and the block it announces.
#[inline]
pub(crate) fn take_block<'t>(reader: &mut Reader<'t>) -> Result<&'t [u8], Rule> {
    let len = reader.varint()?;
    reader.take(len as usize)
}

/// Reads a block property by property and gives each to `each`, in order; stops at the first broken rule.
#[inline]
pub(crate) fn check<'t>(
    block: &'t [u8],
    carrier: Carrier,
    mut each: impl FnMut(u8, Value<'t>) -> Result<(), Rule>,
) -> Result<(), Rule> {
    let mut reader = Reader::new(block);
    let mut seen = 0_u64;
    while !reader.is_empty() {
        // The identifier is a Variable Byte Integer, but all that exist take one byte; 0x80 and above is
        // one that does not exist (or an existing one written too long).
        let property = reader.byte()?;
        let (form, carriers) = describe(property).ok_or(Rule::UnknownProperty)?;
        if carriers & carrier.0 == 0 {
            return Err(Rule::PropertyNotAllowed);
        }
        if seen & 1 << property != 0 && !may_repeat(property, carrier) {
            return Err(Rule::DuplicateProperty);
        }
        seen |= 1 << property;
        each(property, read_value(&mut reader, property, form)?)?;
    }
    Ok(())
}

#[inline]
fn read_value<'t>(reader: &mut Reader<'t>, property: u8, form: Form) -> Result<Value<'t>, Rule> {
    Ok(match form {
        Form::Flag => match reader.byte()? {
            0 => Value::Flag(false),
            1 => Value::Flag(true),
            _ => return Err(Rule::PropertyValue),
        },
        Form::Two => Value::Two(reader.two()?),
        Form::TwoNotZero => match reader.two()? {
            // [MQTT-3.3.2-8]
            0 if property == id::TOPIC_ALIAS => return Err(Rule::TopicAliasZero),
            0 => return Err(Rule::PropertyValue),
            number => Value::Two(number),
        },
        Form::Four => Value::Four(reader.four()?),
        Form::FourNotZero => match reader.four()? {
            0 => return Err(Rule::PropertyValue),
            number => Value::Four(number),
        },
        Form::VarintNotZero => match reader.varint()? {
            0 => return Err(Rule::PropertyValue),
            number => Value::Four(number),
        },
        Form::Text => Value::Text(reader.text()?),
        Form::Binary => Value::Binary(reader.binary()?),
        Form::Pair => Value::Pair(reader.text()?, reader.text()?),
    })
}

/// Walks a block that [`check`] has accepted. Ends early if it was not; it never fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk<'t> {
    reader: Reader<'t>,
}

impl<'t> Walk<'t> {
    #[inline]
    pub(crate) fn new(block: &'t [u8]) -> Walk<'t> {
        Walk { reader: Reader::new(block) }
    }

    /// The first property with this identifier.
    pub(crate) fn find(mut self, wanted: u8) -> Option<Value<'t>> {
        loop {
            let (property, bytes) = self.next_raw()?;
            if property == wanted {
                let (form, _) = describe(property)?;
                return read_value(&mut Reader::new(&bytes[1..]), property, form).ok();
            }
        }
    }

    /// The next property as it stands: its identifier, and its bytes with the identifier in front.
    #[inline]
    pub(crate) fn next_raw(&mut self) -> Option<(u8, &'t [u8])> {
        let start = self.reader.rest();
        let property = self.reader.byte().ok()?;
        let (form, _) = describe(property)?;
        match form {
            Form::Flag => self.reader.take(1).map(drop),
            Form::Two | Form::TwoNotZero => self.reader.take(2).map(drop),
            Form::Four | Form::FourNotZero => self.reader.take(4).map(drop),
            Form::VarintNotZero => self.reader.varint().map(drop),
            Form::Text | Form::Binary => self.reader.binary().map(drop),
            Form::Pair => self.reader.binary().and_then(|_| self.reader.binary()).map(drop),
        }
        .ok()?;
        Some((property, &start[..start.len() - self.reader.rest().len()]))
    }
}

/// User properties, name and value, in the order of the packet [MQTT-3.1.3-10] [MQTT-3.3.2-18].
#[derive(Clone, Debug)]
pub struct UserProperties<'t> {
    walk: Walk<'t>,
}

impl<'t> UserProperties<'t> {
    #[inline]
    pub(crate) fn new(block: &'t [u8]) -> UserProperties<'t> {
        UserProperties { walk: Walk::new(block) }
    }
}

impl<'t> Iterator for UserProperties<'t> {
    type Item = (&'t str, &'t str);

    fn next(&mut self) -> Option<(&'t str, &'t str)> {
        loop {
            let (property, bytes) = self.walk.next_raw()?;
            if property == id::USER {
                return read_value(&mut Reader::new(&bytes[1..]), property, Form::Pair).ok().map(Value::pair);
            }
        }
    }
}

/// Subscription Identifiers of a PUBLISH, in the order of the packet.
#[derive(Clone, Debug)]
pub struct SubscriptionIds<'t> {
    walk: Walk<'t>,
}

impl<'t> SubscriptionIds<'t> {
    #[inline]
    pub(crate) fn new(block: &'t [u8]) -> SubscriptionIds<'t> {
        SubscriptionIds { walk: Walk::new(block) }
    }
}

impl Iterator for SubscriptionIds<'_> {
    type Item = NonZeroU32;

    fn next(&mut self) -> Option<NonZeroU32> {
        loop {
            let (property, bytes) = self.walk.next_raw()?;
            if property == id::SUBSCRIPTION_ID {
                return Reader::new(&bytes[1..]).varint().ok().and_then(NonZeroU32::new);
            }
        }
    }
}

/// Properties of a PUBLISH. The block they came in is checked and kept as it is; most of them are looked up
/// when asked for, since most packets have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties<'t> {
    block: &'t [u8],
    expiry_secs: Option<u32>,
    topic_alias: Option<NonZeroU16>,
    has_subscription_ids: bool,
}

impl<'t> PublishProperties<'t> {
    /// No properties at all; also those of every 3.1.1 packet.
    pub const NONE: PublishProperties<'static> =
        PublishProperties { block: &[], expiry_secs: None, topic_alias: None, has_subscription_ids: false };

    #[inline]
    pub(crate) fn decode(block: &'t [u8]) -> Result<PublishProperties<'t>, Rule> {
        if block.is_empty() {
            return Ok(PublishProperties::NONE);
        }
        Self::decode_some(block)
    }

    fn decode_some(block: &'t [u8]) -> Result<PublishProperties<'t>, Rule> {
        let mut properties = PublishProperties { block, ..PublishProperties::NONE };
        check(block, Carrier::packet(PacketType::Publish), |property, value| {
            match property {
                id::MESSAGE_EXPIRY => properties.expiry_secs = Some(value.number()),
                id::TOPIC_ALIAS => properties.topic_alias = NonZeroU16::new(value.two()),
                id::SUBSCRIPTION_ID => properties.has_subscription_ids = true,
                id::RESPONSE_TOPIC => check_response_topic(value.text())?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(properties)
    }

    /// Reads a block that was kept, e.g. in the log. The same rules apply as in a PUBLISH.
    pub fn from_block(block: &'t [u8]) -> Result<PublishProperties<'t>, Rule> {
        Self::decode(block)
    }

    /// The block as it came: the bytes after the Property Length.
    #[inline]
    pub const fn block(&self) -> &'t [u8] {
        self.block
    }

    /// Topic Alias (§3.3.2.3.4), never 0.
    #[inline]
    pub const fn topic_alias(&self) -> Option<NonZeroU16> {
        self.topic_alias
    }

    /// Message Expiry Interval in seconds (§3.3.2.3.3).
    #[inline]
    pub const fn expiry_secs(&self) -> Option<u32> {
        self.expiry_secs
    }

    /// Whether there are Subscription Identifiers. A client may not send any [MQTT-3.3.4-6].
    #[inline]
    pub const fn has_subscription_ids(&self) -> bool {
        self.has_subscription_ids
    }

    /// Subscription Identifiers (§3.3.2.3.8), in order.
    pub fn subscription_ids(&self) -> SubscriptionIds<'t> {
        SubscriptionIds::new(if self.has_subscription_ids { self.block } else { &[] })
    }

    /// Payload Format Indicator (§3.3.2.3.2): whether the payload says it is UTF-8. Not verified.
    pub fn payload_is_utf8(&self) -> Option<bool> {
        Walk::new(self.block).find(id::PAYLOAD_FORMAT).map(Value::flag)
    }

    /// Content Type (§3.3.2.3.9).
    pub fn content_type(&self) -> Option<&'t str> {
        Walk::new(self.block).find(id::CONTENT_TYPE).map(Value::text)
    }

    /// Response Topic (§3.3.2.3.5), without wildcards [MQTT-3.3.2-14].
    pub fn response_topic(&self) -> Option<&'t str> {
        Walk::new(self.block).find(id::RESPONSE_TOPIC).map(Value::text)
    }

    /// Correlation Data (§3.3.2.3.6).
    pub fn correlation(&self) -> Option<&'t [u8]> {
        Walk::new(self.block).find(id::CORRELATION).map(Value::binary)
    }

    /// User properties (§3.3.2.3.7), in order.
    pub fn user_properties(&self) -> UserProperties<'t> {
        UserProperties::new(self.block)
    }
}

/// [MQTT-3.3.2-14]
pub(crate) fn check_response_topic(topic: &str) -> Result<(), Rule> {
    if topic.contains(['+', '#']) { Err(Rule::WildcardInResponseTopic) } else { Ok(()) }
}

/// Makes a block of properties for a PUBLISH or a Will of our own.
///
/// ```
/// let mut block = wire::BlockBuilder::new();
/// block.content_type("application/json")?.user("tenant", "north")?;
/// let publish = wire::OutgoingPublish { topic: "a", properties: block.as_bytes(), ..Default::default() };
/// # Ok::<(), wire::Unencodable>(())
/// ```
///
/// All but user properties may be there once; asking twice makes a block that nobody accepts. A name or value above
/// 65 535 bytes is refused, and the block stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockBuilder {
    block: Vec<u8>,
}

impl BlockBuilder {
    /// An empty block.
    pub const fn new() -> BlockBuilder {
        BlockBuilder { block: Vec::new() }
    }

    /// Forgets what is there and begins with a block that [`PublishProperties::from_block`] takes.
    pub fn begin(&mut self, block: &[u8]) -> &mut BlockBuilder {
        self.block.clear();
        self.block.extend_from_slice(block);
        self
    }

    /// The block so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.block
    }

    /// The block.
    pub fn into_bytes(self) -> Vec<u8> {
        self.block
    }

    /// Payload Format Indicator.
    pub fn payload_is_utf8(&mut self, yes: bool) -> &mut BlockBuilder {
        self.block.extend_from_slice(&[id::PAYLOAD_FORMAT, u8::from(yes)]);
        self
    }

    /// Content Type.
    pub fn content_type(&mut self, text: &str) -> Result<&mut BlockBuilder, Unencodable> {
        self.fields(id::CONTENT_TYPE, &[text.as_bytes()])
    }

    /// Response Topic; without wildcards [MQTT-3.3.2-14].
    pub fn response_topic(&mut self, topic: &str) -> Result<&mut BlockBuilder, Unencodable> {
        self.fields(id::RESPONSE_TOPIC, &[topic.as_bytes()])
    }

    /// Correlation Data.
    pub fn correlation(&mut self, bytes: &[u8]) -> Result<&mut BlockBuilder, Unencodable> {
        self.fields(id::CORRELATION, &[bytes])
    }

    /// A user property; any number, in order.
    pub fn user(&mut self, name: &str, value: &str) -> Result<&mut BlockBuilder, Unencodable> {
        self.fields(id::USER, &[name.as_bytes(), value.as_bytes()])
    }

    fn fields(&mut self, property: u8, fields: &[&[u8]]) -> Result<&mut BlockBuilder, Unencodable> {
        if fields.iter().any(|field| field.len() > usize::from(u16::MAX)) {
            return Err(Unencodable::TooLong);
        }
        self.block.push(property);
        for field in fields {
            self.block.extend_from_slice(&(field.len() as u16).to_be_bytes());
            self.block.extend_from_slice(field);
        }
        Ok(self)
    }
}
