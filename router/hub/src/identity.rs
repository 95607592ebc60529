//! Identities as IoT Hub's scope API describes them (`reference/edgehub.md` §5.6), and whether a certificate is theirs.
//!
//! May use: `id`, JSON. In: documents. Out: [`Identity`]. Bound: the document.
//! Never: a key in `Debug`.

use std::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::id::{HubId, InvalidId};

/// One identity of the device scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who.
    pub id: HubId,
    /// Changes when it is deleted and made again under the same id.
    pub generation: String,
    /// Whether it may connect.
    pub enabled: bool,
    /// How it proves who it is.
    pub auth: Auth,
    /// Whether it is an edge device: one that others connect through.
    pub is_edge: bool,
    /// The scope that an edge device has, or that a leaf is in.
    pub scope: Option<String>,
    /// The scopes an edge device is in: its parent's.
    pub parent_scopes: Vec<String>,
}

/// How an identity proves who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// Tokens signed with one of these keys, in base64.
    Sas {
        /// Both are good.
        primary: String,
        /// For rotation.
        secondary: String,
    },
    /// A certificate with one of these thumbprints, SHA-1 or SHA-256 in hex.
    Thumbprint {
        /// Both are good.
        primary: Option<String>,
        /// For rotation.
        secondary: Option<String>,
    },
    /// A certificate of a trusted authority whose common name is the device id.
    Authority,
    /// None that we know: it cannot connect here.
    None,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl Auth {
    /// As in the scope API.
    pub const fn label(&self) -> &'static str {
        match self {
            Auth::Sas { .. } => "sas",
            Auth::Thumbprint { .. } => "selfSigned",
            Auth::Authority => "certificateAuthority",
            Auth::None => "none",
        }
    }

    /// The keys that may sign its tokens.
    pub fn keys(&self) -> Vec<&str> {
        match self {
            Auth::Sas { primary, secondary } => {
                [primary, secondary].into_iter().map(String::as_str).filter(|key| !key.is_empty()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether one of the thumbprints of a certificate (hex, any case) is one of its own.
    pub fn has_thumbprint(&self, of_certificate: &[&str]) -> bool {
        let Auth::Thumbprint { primary, secondary } = self else { return false };
        let own = [primary, secondary].into_iter().flatten().map(|own| own.to_ascii_uppercase());
        let mut found = false;
        for own in own.filter(|own| !own.is_empty()) {
            for thumbprint in of_certificate {
                found |= is_same_secret(own.as_bytes(), thumbprint.to_ascii_uppercase().as_bytes());
            }
        }
        found
    }
}

/// Compares in a time that depends on the lengths only.
pub fn is_same_secret(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

/// A page of the scope API's answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScopePage {
    /// Devices.
    #[serde(default)]
    pub devices: Vec<DeviceDocument>,
    /// Modules.
    #[serde(default)]
    pub modules: Vec<ModuleDocument>,
    /// Where the next page is.
    #[serde(default)]
    pub continuation_link: Option<String>,
}

/// A device, as the scope API and the local identity file describe it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceDocument {
    /// Its id.
    pub device_id: String,
    /// See [`Identity::generation`].
    #[serde(default)]
    pub generation_id: Option<String>,
    /// `enabled` or `disabled`; enabled if it does not say.
    #[serde(default)]
    pub status: Option<String>,
    /// How it proves who it is.
    #[serde(default)]
    pub authentication: AuthenticationDocument,
    /// What it can do.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// See [`Identity::scope`].
    #[serde(default)]
    pub device_scope: Option<String>,
    /// See [`Identity::parent_scopes`].
    #[serde(default)]
    pub parent_scopes: Option<Vec<String>>,
}

/// A module, as the scope API and the local identity file describe it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleDocument {
    /// Its id.
    pub module_id: String,
    /// The device it is on.
    pub device_id: String,
    /// See [`Identity::generation`].
    #[serde(default)]
    pub generation_id: Option<String>,
    /// How it proves who it is.
    #[serde(default)]
    pub authentication: AuthenticationDocument,
}

/// How an identity proves who it is, as a document.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationDocument {
    /// `sas`, `selfSigned`, `certificateAuthority`, `none`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// For `sas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symmetric_key: Option<Keys>,
    /// For `selfSigned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x509_thumbprint: Option<Thumbprints>,
}

impl fmt::Debug for AuthenticationDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthenticationDocument({:?})", self.kind)
    }
}

/// Two keys, in base64.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Keys {
    /// One.
    pub primary_key: Option<String>,
    /// The other.
    pub secondary_key: Option<String>,
}

/// Two thumbprints, in hex.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Thumbprints {
    /// One.
    pub primary_thumbprint: Option<String>,
    /// The other.
    pub secondary_thumbprint: Option<String>,
}

/// What a device can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capabilities {
    /// Whether others connect through it.
    pub iot_edge: bool,
}

impl TryFrom<&DeviceDocument> for Identity {
    type Error = InvalidId;

    fn try_from(document: &DeviceDocument) -> Result<Identity, InvalidId> {
        Ok(Identity {
            id: HubId::device(&document.device_id)?,
            generation: document.generation_id.clone().unwrap_or_default(),
            enabled: document.status.as_deref().is_none_or(|status| status.eq_ignore_ascii_case("enabled")),
            auth: Auth::from(&document.authentication),
            is_edge: document.capabilities.iot_edge,
            scope: document.device_scope.clone().filter(|scope| !scope.is_empty()),
            parent_scopes: document.parent_scopes.clone().unwrap_or_default(),
        })
    }
}

impl TryFrom<&ModuleDocument> for Identity {
    type Error = InvalidId;

    fn try_from(document: &ModuleDocument) -> Result<Identity, InvalidId> {
        Ok(Identity {
            id: HubId::module(&document.device_id, &document.module_id)?,
            generation: document.generation_id.clone().unwrap_or_default(),
            enabled: true,
            auth: Auth::from(&document.authentication),
            is_edge: false,
            scope: None,
            parent_scopes: Vec::new(),
        })
    }
}

impl From<&AuthenticationDocument> for Auth {
    fn from(document: &AuthenticationDocument) -> Auth {
        let keys = document.symmetric_key.clone().unwrap_or_default();
        let thumbprints = document.x509_thumbprint.clone().unwrap_or_default();
        match document.kind.as_deref() {
            Some(kind) if kind.eq_ignore_ascii_case("sas") => Auth::Sas {
                primary: keys.primary_key.unwrap_or_default(),
                secondary: keys.secondary_key.unwrap_or_default(),
            },
            Some(kind) if kind.eq_ignore_ascii_case("selfSigned") => Auth::Thumbprint {
                primary: thumbprints.primary_thumbprint,
                secondary: thumbprints.secondary_thumbprint,
            },
            Some(kind) if kind.eq_ignore_ascii_case("certificateAuthority") => Auth::Authority,
            _ => Auth::None,
        }
    }
}

impl Identity {
    /// As the scope API gives a device. `None` for a module.
    pub fn to_device_document(&self) -> Option<DeviceDocument> {
        if self.id.module_id().is_some() {
            return None;
        }
        Some(DeviceDocument {
            device_id: self.id.device_id().to_owned(),
            generation_id: Some(self.generation.clone()),
            status: Some(if self.enabled { "enabled" } else { "disabled" }.to_owned()),
            authentication: AuthenticationDocument::from(&self.auth),
            capabilities: Capabilities { iot_edge: self.is_edge },
            device_scope: self.scope.clone(),
            parent_scopes: Some(self.parent_scopes.clone()),
        })
    }

    /// As the scope API gives a module. `None` for a device.
    pub fn to_module_document(&self) -> Option<ModuleDocument> {
        Some(ModuleDocument {
            module_id: self.id.module_id()?.to_owned(),
            device_id: self.id.device_id().to_owned(),
            generation_id: Some(self.generation.clone()),
            authentication: AuthenticationDocument::from(&self.auth),
        })
    }
}

impl From<&Auth> for AuthenticationDocument {
    fn from(auth: &Auth) -> AuthenticationDocument {
        let mut document = AuthenticationDocument {
            kind: Some(auth.label().to_owned()),
            ..AuthenticationDocument::default()
        };
        match auth {
            Auth::Sas { primary, secondary } => {
                document.symmetric_key =
                    Some(Keys { primary_key: Some(primary.clone()), secondary_key: Some(secondary.clone()) });
            }
            Auth::Thumbprint { primary, secondary } => {
                document.x509_thumbprint = Some(Thumbprints {
                    primary_thumbprint: primary.clone(),
                    secondary_thumbprint: secondary.clone(),
                });
            }
            Auth::Authority | Auth::None => {}
        }
        document
    }
}

#[cfg(test)]
mod tests;
