//! What a client says of itself in CONNECT's user name (`reference/edgehub.md` §2.3).
//!
//! May use: `escape`, `id`, `tree`. In: a user name and a client identifier. Out: who it claims to be, not yet believed.
//! Bound: the text it came from.

use crate::escape::unescape;
use crate::id::{HubId, InvalidId};
use crate::tree::{AuthChain, InvalidChain};

/// What the user name claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName {
    /// Who.
    pub id: HubId,
    /// Present and not blank; its value means nothing to edgeHub.
    pub api_version: String,
    /// `DeviceClientType`: the client library, passed on upstream.
    pub client_type: Option<String>,
    /// The device's model (Plug and Play), on every message of the session.
    pub model_id: Option<String>,
    /// Who vouches for it, for a client behind another edge device.
    pub auth_chain: Option<AuthChain>,
}

/// Why a user name is not one of a hub client. edgeHub answers CONNACK 3.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserNameError {
    /// Not three or four parts.
    #[error("the user name is not HOST/DEVICE[/MODULE]/?api-version=…")]
    Shape,
    /// The device's or module's.
    #[error("the {0} id in the user name cannot be one: {1}")]
    Id(&'static str, InvalidId),
    /// Missing or blank.
    #[error("the user name has no api-version")]
    NoApiVersion,
    /// A value that cannot be unescaped.
    #[error("{0} in the user name is not UTF-8 when unescaped")]
    NotUtf8(&'static str),
    /// `auth-chain`
    #[error("the auth-chain in the user name is none: {0}")]
    Chain(InvalidChain),
}

/// The one user name of more segments that edgeHub still takes, from a preview of the .NET client.
const PREVIEW: [&str; 3] =
    ["api-version=2017-06-30", "DeviceClientType=Microsoft.Azure.Devices.Client", "1.5.1-preview-003"];

/// Reads `HOST/DEVICE[/MODULE]/?QUERY`, or the older form without `?`. The host is not looked at.
pub fn parse_user_name(text: &str) -> Result<UserName, UserNameError> {
    let parts: Vec<&str> = text.splitn(8, '/').collect();
    let (device, module, query) = match parts[..] {
        [_, device, query] => (device, None, query),
        [_, device, module, query] => (device, Some(module), query),
        [_, device, module, a, b, c] if [a, b, c] == PREVIEW => {
            return Ok(UserName {
                id: id_of(device, Some(module))?,
                api_version: "2017-06-30".to_owned(),
                client_type: Some("Microsoft.Azure.Devices.Client/1.5.1-preview-003".to_owned()),
                model_id: None,
                auth_chain: None,
            });
        }
        _ => return Err(UserNameError::Shape),
    };
    let query = query.strip_prefix('?').unwrap_or(query);
    let id = id_of(device, module)?;
    let api_version = value(query, "api-version")?.filter(|version| !version.trim().is_empty());
    let chain = value(query, "auth-chain")?.filter(|chain| !chain.is_empty());
    Ok(UserName {
        id,
        api_version: api_version.ok_or(UserNameError::NoApiVersion)?,
        client_type: value(query, "DeviceClientType")?,
        model_id: value(query, "model-id")?.filter(|model| !model.is_empty()),
        auth_chain: chain.map(|chain| AuthChain::parse(&chain)).transpose().map_err(UserNameError::Chain)?,
    })
}

impl UserName {
    /// Of one who has said nothing but who it is.
    pub fn of(id: HubId) -> UserName {
        UserName { id, api_version: String::new(), client_type: None, model_id: None, auth_chain: None }
    }

    /// Whether this is the client identifier that goes with it; case counts.
    pub fn is_client(&self, client_id: &str) -> bool {
        self.id.as_str() == client_id
    }
}

fn id_of(device: &str, module: Option<&str>) -> Result<HubId, UserNameError> {
    HubId::device(device).map_err(|reason| UserNameError::Id("device", reason))?;
    HubId::new(device, module).map_err(|reason| UserNameError::Id("module", reason))
}

/// The first value of `key`, unescaped.
fn value(query: &str, key: &'static str) -> Result<Option<String>, UserNameError> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let Some((_, value)) = pairs.find(|(name, _)| *name == key) else { return Ok(None) };
    let value = unescape(value).ok_or(UserNameError::NotUtf8(key))?;
    Ok(Some(value.into_owned()))
}

/// Writes the user name with which an identity connects upstream.
pub fn user_name(host: &str, name: &UserName) -> String {
    use crate::escape::escape_into;
    let mut out = format!("{host}/{}/?api-version={}", name.id, name.api_version);
    let chain = name.auth_chain.as_ref().map(AuthChain::to_string);
    let optional =
        [("DeviceClientType", &name.client_type), ("model-id", &name.model_id), ("auth-chain", &chain)];
    for (key, value) in optional {
        if let Some(value) = value {
            out.push('&');
            out.push_str(key);
            out.push('=');
            escape_into(value, &mut out);
        }
    }
    out
}

#[cfg(test)]
mod tests;
