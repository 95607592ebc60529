//! IoT Hub connection strings: `HostName=…;DeviceId=…;ModuleId=…;SharedAccessKey=…`.
//!
//! May use: `id`. In: text. Out: its parts, or everything that is wrong with it.
//! Never: the key in an error or in `Debug`.

use std::fmt;

use base64ct::{Base64, Encoding};

use crate::id::HubId;

/// What a connection string says.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString {
    /// The IoT Hub.
    pub host: String,
    /// Who connects.
    pub id: HubId,
    /// Base64; `None` with a certificate.
    pub key: Option<String>,
    /// `GatewayHostName`: where to connect instead of to the hub.
    pub gateway: Option<String>,
    /// `x509=true`
    pub x509: bool,
}

/// One thing that is wrong with a connection string.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionStringError {
    /// Not `NAME=VALUE`.
    #[error("part {0} is not NAME=VALUE")]
    Part(usize),
    /// Twice.
    #[error("{0} occurs twice")]
    Twice(&'static str),
    /// Not a name we know.
    #[error(
        "{0} is none of HostName, DeviceId, ModuleId, SharedAccessKey, SharedAccessKeyName, GatewayHostName, x509"
    )]
    Unknown(String),
    /// Needed.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Not base64, not an id, not true or false.
    #[error("{0} is not {1}")]
    Value(&'static str, String),
    /// A policy's key makes tokens for the whole hub; we connect as one identity.
    #[error(
        "SharedAccessKeyName: this is the connection string of a policy; take that of the device or module"
    )]
    Policy,
}

const NAMES: [&str; 7] =
    ["HostName", "DeviceId", "ModuleId", "SharedAccessKey", "SharedAccessKeyName", "GatewayHostName", "x509"];

impl ConnectionString {
    /// Reads `text`; every error at once.
    pub fn parse(text: &str) -> Result<ConnectionString, Vec<ConnectionStringError>> {
        let mut errors = Vec::new();
        let mut values: [Option<&str>; NAMES.len()] = [None; NAMES.len()];
        for (at, part) in text.trim().split(';').enumerate().filter(|(_, part)| !part.trim().is_empty()) {
            // The first `=`: keys end in one.
            let Some((name, value)) = part.split_once('=') else {
                errors.push(ConnectionStringError::Part(at + 1));
                continue;
            };
            match NAMES.iter().position(|known| known.eq_ignore_ascii_case(name.trim())) {
                None => errors.push(ConnectionStringError::Unknown(name.trim().to_owned())),
                Some(known) if values[known].is_some() => {
                    errors.push(ConnectionStringError::Twice(NAMES[known]));
                }
                Some(known) => values[known] = Some(value.trim()).filter(|value| !value.is_empty()),
            }
        }
        let [host, device, module, key, policy, gateway, x509] = values;
        if policy.is_some() {
            errors.push(ConnectionStringError::Policy);
        }
        if host.is_none() {
            errors.push(ConnectionStringError::Missing("HostName"));
        }
        let x509 = match x509.map(str::to_ascii_lowercase).as_deref() {
            Some("true") => true,
            None | Some("false") => false,
            Some(other) => {
                errors.push(ConnectionStringError::Value("x509", format!("true or false: {other}")));
                false
            }
        };
        match key {
            None if !x509 => errors.push(ConnectionStringError::Missing("SharedAccessKey")),
            Some(key) if Base64::decode_vec(key).is_err() => {
                errors.push(ConnectionStringError::Value("SharedAccessKey", "base64".to_owned()));
            }
            _ => {}
        }
        let id = match device.map(|device| HubId::new(device, module)) {
            None => {
                errors.push(ConnectionStringError::Missing("DeviceId"));
                None
            }
            Some(Err(reason)) => {
                errors.push(ConnectionStringError::Value("DeviceId or ModuleId", format!("an id: {reason}")));
                None
            }
            Some(Ok(id)) => Some(id),
        };
        match (id, host) {
            (Some(id), Some(host)) if errors.is_empty() => Ok(ConnectionString {
                host: host.to_owned(),
                id,
                key: key.map(str::to_owned),
                gateway: gateway.map(str::to_owned),
                x509,
            }),
            _ => Err(errors),
        }
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_some() { "a key" } else { "no key" };
        write!(f, "ConnectionString({}, {}, {key}, x509={})", self.host, self.id, self.x509)
    }
}

#[cfg(test)]
mod tests;
