//! The local identity file: the device scope of a gateway that has no IoT Hub (`millrace identity`).
//!
//! JSON, with the documents of IoT Hub's scope API inside, so that one reader does for both:
//! `{ "format": 1, "device": "gw1", "devices": [ … ], "modules": [ … ] }`. `device` is the gateway itself.
//! In: the file; changes. Out: identities, the changed file, or every mistake. Always: the file is readable by its owner
//! alone, before and after; a key is 32 random bytes. Bound: `identities_max`.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use base64ct::{Base64, Encoding as _};
use hub::HubId;
use hub::identity::{Auth, DeviceDocument, Identity, ModuleDocument};
use hub::tree::Tree;
use serde::{Deserialize, Serialize};

use super::vault::random;
use crate::files;

const FORMAT: u32 = 1;

/// The file as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    device: String,
    #[serde(default)]
    devices: Vec<DeviceDocument>,
    #[serde(default)]
    modules: Vec<ModuleDocument>,
}

/// The file as used.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalFile {
    /// The gateway itself.
    pub gateway: HubId,
    /// Everybody, in the order of the file, devices first.
    pub identities: Vec<Identity>,
}

/// What is wrong with an identity file, or with a change to it.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The system.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Keys are in it.
    #[error("others than its owner may read it (mode {0:o}), and it holds keys; run: chmod 600 on it")]
    Mode(u32),
    /// Not this format.
    #[error("it is no identity file: {0}")]
    Format(String),
    /// Written by something newer.
    #[error("its format is {0}, and this version knows {FORMAT}")]
    Newer(u32),
    /// An id.
    #[error("{0:?} is no id: {1}")]
    Id(String, hub::id::InvalidId),
    /// The same id twice.
    #[error("{0} stands in it twice")]
    Twice(HubId),
    /// A module without device.
    #[error("{0} is a module of a device that is not in it")]
    NoDevice(HubId),
    /// More than fit.
    #[error("it has more than {0} identities (limits.identities_max)")]
    TooMany(usize),
    /// A change to nobody.
    #[error("it has no identity {0}")]
    Unknown(HubId),
    /// Made already.
    #[error("it has an identity {0} already")]
    Exists(HubId),
    /// Something else than a key.
    #[error("{0} has no keys: it authenticates by {1}")]
    NoKeys(HubId, &'static str),
    /// The parent.
    #[error("{0} is no edge device in this file")]
    NoEdge(HubId),
    /// The gateway cannot go.
    #[error("{0} is the gateway itself")]
    Gateway(HubId),
    /// Not a thumbprint.
    #[error("{0:?} is no thumbprint: 40 hexadecimal digits (SHA-1) or 64 (SHA-256)")]
    Thumbprint(String),
    /// Modules have keys.
    #[error("a module authenticates by keys alone, and is no edge device")]
    Module,
}

/// How a new identity proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Two new keys.
    #[default]
    Keys,
    /// One or two thumbprints.
    Thumbprints(Vec<String>),
    /// A certificate of a trusted authority.
    Authority,
}

impl LocalFile {
    /// A file with the gateway in it, and its `$edgeHub`.
    pub fn new(gateway: &HubId) -> Result<LocalFile, LocalError> {
        if gateway.module_id().is_some() {
            return Err(LocalError::Module);
        }
        let mut file = LocalFile { gateway: gateway.clone(), identities: Vec::new() };
        file.add_edge(gateway, Vec::new())?;
        Ok(file)
    }

    /// Reads the file. `Err` says the first mistake.
    pub fn read(path: &Path, identities_max: usize) -> Result<LocalFile, LocalError> {
        let mode = fs::metadata(path)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(LocalError::Mode(mode));
        }
        LocalFile::parse(&fs::read(path)?, identities_max)
    }

    fn parse(text: &[u8], identities_max: usize) -> Result<LocalFile, LocalError> {
        let document: Document = serde_json::from_slice(text).map_err(|error| {
            // Its own words may quote a key.
            let kind = match error.classify() {
                serde_json::error::Category::Data => "a field is missing, unknown or of another type",
                _ => "it is not JSON",
            };
            LocalError::Format(format!("{kind}, line {}, column {}", error.line(), error.column()))
        })?;
        if document.format != FORMAT {
            return Err(LocalError::Newer(document.format));
        }
        let bad = |text: &str| {
            let text = text.to_owned();
            move |error| LocalError::Id(text, error)
        };
        let gateway = HubId::device(&document.device).map_err(bad(&document.device))?;
        let mut tree = Tree::new(gateway.clone(), identities_max);
        let mut identities = Vec::new();
        for device in &document.devices {
            identities.push(Identity::try_from(device).map_err(bad(&device.device_id))?);
        }
        for module in &document.modules {
            let id = format!("{}/{}", module.device_id, module.module_id);
            identities.push(Identity::try_from(module).map_err(bad(&id))?);
        }
        for identity in &identities {
            if tree.find(&identity.id).is_some() {
                return Err(LocalError::Twice(identity.id.clone()));
            }
            tree.set(identity.clone()).map_err(|error| LocalError::TooMany(error.0))?;
        }
        let device_of = |id: &HubId| HubId::device(id.device_id()).ok();
        for identity in identities.iter().filter(|identity| identity.id.module_id().is_some()) {
            if device_of(&identity.id).is_none_or(|device| tree.find(&device).is_none()) {
                return Err(LocalError::NoDevice(identity.id.clone()));
            }
        }
        if tree.find(&gateway).is_none_or(|gateway| !gateway.is_edge) {
            return Err(LocalError::NoEdge(gateway));
        }
        Ok(LocalFile { gateway, identities })
    }

    /// Writes the file, whole, for its owner alone.
    pub fn write(&self, path: &Path) -> Result<(), LocalError> {
        let document = Document {
            format: FORMAT,
            device: self.gateway.to_string(),
            devices: self.identities.iter().filter_map(Identity::to_device_document).collect(),
            modules: self.identities.iter().filter_map(Identity::to_module_document).collect(),
        };
        let mut text = serde_json::to_vec_pretty(&document).map_err(io::Error::other)?;
        text.push(b'\n');
        Ok(files::replace(path, &text)?)
    }

    /// The identity of this id.
    pub fn find(&self, id: &HubId) -> Result<&Identity, LocalError> {
        self.identities
            .iter()
            .find(|identity| identity.id == *id)
            .ok_or_else(|| LocalError::Unknown(id.clone()))
    }

    fn find_mut(&mut self, id: &HubId) -> Result<&mut Identity, LocalError> {
        let found = self.identities.iter_mut().find(|identity| identity.id == *id);
        found.ok_or_else(|| LocalError::Unknown(id.clone()))
    }

    /// Adds an identity below `parent`, an edge device; below the gateway if there is none.
    pub fn create(
        &mut self,
        id: &HubId,
        method: Method,
        is_edge: bool,
        parent: Option<&HubId>,
    ) -> Result<(), LocalError> {
        if self.find(id).is_ok() {
            return Err(LocalError::Exists(id.clone()));
        }
        if id.module_id().is_some() {
            if method != Method::Keys || is_edge || parent.is_some() {
                return Err(LocalError::Module);
            }
            let device = HubId::device(id.device_id()).map_err(|_| LocalError::NoDevice(id.clone()))?;
            self.find(&device).map_err(|_| LocalError::NoDevice(id.clone()))?;
            return self.add(id, auth(method)?, false, None, Vec::new());
        }
        let parent = parent.unwrap_or(&self.gateway);
        let scope =
            self.find(parent).ok().filter(|parent| parent.is_edge).and_then(|edge| edge.scope.clone());
        let scope = scope.ok_or_else(|| LocalError::NoEdge(parent.clone()))?;
        if is_edge {
            if method != Method::Keys {
                let parent = id.clone();
                return Err(LocalError::NoKeys(parent, "something else"));
            }
            return self.add_edge(id, vec![scope]);
        }
        self.add(id, auth(method)?, false, Some(scope), Vec::new())
    }

    fn add_edge(&mut self, id: &HubId, parents: Vec<String>) -> Result<(), LocalError> {
        let scope = format!("ms-azure-iot-edge://{id}-{}", generation()?);
        self.add(id, auth(Method::Keys)?, true, Some(scope), parents)?;
        let hub = HubId::module(id.device_id(), super::judge::EDGE_HUB)
            .map_err(|error| LocalError::Id(id.to_string(), error))?;
        self.add(&hub, auth(Method::Keys)?, false, None, Vec::new())
    }

    fn add(
        &mut self,
        id: &HubId,
        auth: Auth,
        is_edge: bool,
        scope: Option<String>,
        parent_scopes: Vec<String>,
    ) -> Result<(), LocalError> {
        let generation = generation()?;
        self.identities.push(Identity {
            id: id.clone(),
            generation,
            enabled: true,
            auth,
            is_edge,
            scope,
            parent_scopes,
        });
        Ok(())
    }

    /// Makes a new primary key; the old one becomes the secondary, so that clients have time to change.
    pub fn rotate(&mut self, id: &HubId) -> Result<(), LocalError> {
        let key = new_key()?;
        let identity = self.find_mut(id)?;
        match &mut identity.auth {
            Auth::Sas { primary, secondary } => *secondary = std::mem::replace(primary, key),
            other => return Err(LocalError::NoKeys(id.clone(), other.label())),
        }
        Ok(())
    }

    /// Lets a device in, or keeps it and its modules out.
    pub fn enable(&mut self, id: &HubId, enabled: bool) -> Result<(), LocalError> {
        if id.module_id().is_some() {
            // The documents of modules have no status, as IoT Hub's have none.
            return Err(LocalError::Module);
        }
        self.find_mut(id)?.enabled = enabled;
        Ok(())
    }

    /// Removes an identity; with a device go its modules.
    pub fn delete(&mut self, id: &HubId) -> Result<(), LocalError> {
        self.find(id)?;
        if *id == self.gateway {
            return Err(LocalError::Gateway(id.clone()));
        }
        let is_device = id.module_id().is_none();
        self.identities
            .retain(|known| known.id != *id && !(is_device && known.id.device_id() == id.device_id()));
        Ok(())
    }
}

/// What a client of `host` connects with: a connection string with the primary key; `None` without keys.
pub fn connection_string(identity: &Identity, host: &str) -> Option<String> {
    let mut text = format!("HostName={host};DeviceId={}", identity.id.device_id());
    if let Some(module) = identity.id.module_id() {
        write!(text, ";ModuleId={module}").ok()?;
    }
    match &identity.auth {
        Auth::Sas { primary, .. } => write!(text, ";SharedAccessKey={primary}").ok()?,
        Auth::Thumbprint { .. } | Auth::Authority => text.push_str(";x509=true"),
        Auth::None => return None,
    }
    Some(text)
}

fn auth(method: Method) -> Result<Auth, LocalError> {
    Ok(match method {
        Method::Keys => Auth::Sas { primary: new_key()?, secondary: new_key()? },
        Method::Authority => Auth::Authority,
        Method::Thumbprints(thumbprints) => {
            for thumbprint in &thumbprints {
                let is_hex = thumbprint.bytes().all(|byte| byte.is_ascii_hexdigit());
                if !is_hex || !matches!(thumbprint.len(), 40 | 64) {
                    return Err(LocalError::Thumbprint(thumbprint.clone()));
                }
            }
            let mut thumbprints = thumbprints.into_iter();
            Auth::Thumbprint { primary: thumbprints.next(), secondary: thumbprints.next() }
        }
    })
}

fn new_key() -> Result<String, LocalError> {
    let key: [u8; 32] = random().map_err(io::Error::other)?;
    Ok(Base64::encode_string(&key))
}

fn generation() -> Result<String, LocalError> {
    let number: [u8; 8] = random().map_err(io::Error::other)?;
    Ok(u64::from_be_bytes(number).to_string())
}

#[cfg(test)]
mod tests;
