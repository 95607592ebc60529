//! DISCONNECT and AUTH (MQTT 5.0 §3.14, §3.15; 3.1.1 §3.14).
//!
//! Knows: their layouts. May use: `properties`, `text`, `bridge`. Never: what happens to the session.

use crate::bridge;
use crate::frames::Frame;
use crate::malformed::Rule;
use crate::packet::{PacketType, Unencodable, Version};
use crate::properties::{self, Carrier, id};
use crate::reason::ReasonCode;
use crate::text::Reader;

/// The last packet of a connection. In 3.1.1 only clients send it, and it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disconnect {
    /// Why; [`ReasonCode::NORMAL_DISCONNECTION`] in 3.1.1.
    pub reason: ReasonCode,
    /// A client's last word on Session Expiry Interval.
    pub session_expiry_secs: Option<u32>,
    /// For a person.
    pub reason_string: Option<String>,
    /// Another server to use.
    pub server_reference: Option<String>,
    /// In order.
    pub user_properties: Vec<(String, String)>,
}

impl Disconnect {
    /// A DISCONNECT that says nothing but this.
    pub const fn new(reason: ReasonCode) -> Disconnect {
        Disconnect {
            reason,
            session_expiry_secs: None,
            reason_string: None,
            server_reference: None,
            user_properties: Vec::new(),
        }
    }
}

/// One step of an extended authentication (MQTT 5.0 §4.12).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// Absent only in the short form of Success.
    pub method: Option<String>,
    /// Not shown by `Debug`.
    pub data: Option<Vec<u8>>,
    /// For a person.
    pub reason_string: Option<String>,
    /// In order.
    pub user_properties: Vec<(String, String)>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("reason", &self.reason)
            .field("method", &self.method)
            .field("data", &self.data.as_ref().map(|_| "hidden"))
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .finish()
    }
}

pub(crate) fn decode(frame: Frame<'_>, version: Version) -> Result<Disconnect, Rule> {
    if version == Version::V3 {
        // 3.1.1 §3.14: no variable header, no payload.
        Reader::new(frame.body()).finish()?;
        return Ok(Disconnect::default());
    }
    check(frame, PacketType::Disconnect)?;
    bridge::decode_disconnect(frame)
}

pub(crate) fn decode_auth(frame: Frame<'_>, version: Version) -> Result<Auth, Rule> {
    if version == Version::V3 {
        return Err(Rule::ReservedPacketType); // 3.1.1 §2.2.1: type 15 is reserved.
    }
    let has_method = check(frame, PacketType::Auth)?;
    // §3.15.2.2.2: it is a Protocol Error to omit the method; but §3.15.2.1 lets a bare Success omit everything.
    if !has_method && !frame.body().is_empty() {
        return Err(Rule::AuthenticationMethodMissing);
    }
    bridge::decode_auth(frame)
}

/// Checks what ntex does not: reason code and property block. Says whether there is an authentication method.
fn check(frame: Frame<'_>, packet: PacketType) -> Result<bool, Rule> {
    let mut reader = Reader::new(frame.body());
    let mut has_method = false;
    if reader.is_empty() {
        return Ok(has_method);
    }
    // [MQTT-3.14.2-1] [MQTT-3.15.2-1]
    ReasonCode::from_bits(reader.byte()?)
        .filter(|reason| reason.is_allowed_in(packet))
        .ok_or(Rule::ReasonCodeNotAllowed)?;
    if reader.is_empty() {
        return Ok(has_method);
    }
    let block = properties::take_block(&mut reader)?;
    reader.finish()?;
    properties::check(block, Carrier::packet(packet), |property, _| {
        has_method |= property == id::AUTHENTICATION_METHOD;
        Ok(())
    })?;
    Ok(has_method)
}

/// Appends a DISCONNECT. In 3.1.1 it says nothing, and a server must not send it at all: it just closes.
///
/// Fails, with `out` as it was, if a string is too long or a DISCONNECT may not carry the reason.
pub fn encode_disconnect(
    out: &mut Vec<u8>,
    version: Version,
    disconnect: &Disconnect,
) -> Result<(), Unencodable> {
    bridge::encode_disconnect(out, version, disconnect)
}

/// Appends an AUTH (5.0).
///
/// Fails, with `out` as it was, if a string is too long, an AUTH may not carry the reason, or there is no method and
/// more to say than Success.
pub fn encode_auth(out: &mut Vec<u8>, auth: &Auth) -> Result<(), Unencodable> {
    bridge::encode_auth(out, auth)
}
