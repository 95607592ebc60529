//! Who somebody is to IoT Hub: a device, or a module of a device.
//!
//! In: client identifiers and ids. Out: a [`HubId`], which fits into a topic.
//! Bound: [`ID_BYTES_MAX`] for each part.

use std::fmt;

/// Longest device or module id, in bytes (IoT Hub's own limit).
pub const ID_BYTES_MAX: usize = 128;

/// A device (`d1`) or a module of a device (`gw1/filter`). Compared case-sensitively.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HubId {
    text: Box<str>,
    /// Where the slash is, for a module.
    slash: Option<usize>,
}

/// Why a text is no device or module id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Blank.
    #[error("it is blank")]
    Blank,
    /// Over [`ID_BYTES_MAX`].
    #[error("it is longer than {ID_BYTES_MAX} bytes")]
    TooLong,
    /// IoT Hub does not give such ids, or no topic could name them.
    #[error("it contains {0:?}, which no id of an MQTT client has")]
    Character(char),
    /// `a/b/c`
    #[error("it has more than the two parts DEVICE/MODULE")]
    Parts,
}

impl HubId {
    /// A device.
    pub fn device(device: &str) -> Result<HubId, InvalidId> {
        check(device)?;
        Ok(HubId { text: device.into(), slash: None })
    }

    /// A module of a device.
    pub fn module(device: &str, module: &str) -> Result<HubId, InvalidId> {
        check(device)?;
        check(module)?;
        Ok(HubId { text: format!("{device}/{module}").into(), slash: Some(device.len()) })
    }

    /// Either.
    pub fn new(device: &str, module: Option<&str>) -> Result<HubId, InvalidId> {
        module.map_or_else(|| HubId::device(device), |module| HubId::module(device, module))
    }

    /// From a client identifier: `DEVICE` or `DEVICE/MODULE`.
    pub fn parse(text: &str) -> Result<HubId, InvalidId> {
        match text.split_once('/') {
            None => HubId::device(text),
            Some((_, module)) if module.contains('/') => Err(InvalidId::Parts),
            Some((device, module)) => HubId::module(device, module),
        }
    }

    /// `DEVICE` or `DEVICE/MODULE`, which is also its client identifier.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The device.
    pub fn device_id(&self) -> &str {
        &self.text[..self.slash.unwrap_or(self.text.len())]
    }

    /// The module, unless this is the device itself.
    pub fn module_id(&self) -> Option<&str> {
        self.slash.map(|at| &self.text[at + 1..])
    }

    /// Whether a topic with these ids speaks of this one.
    pub fn is(&self, device: &str, module: Option<&str>) -> bool {
        self.device_id() == device && self.module_id() == module
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn check(id: &str) -> Result<(), InvalidId> {
    if id.trim().is_empty() {
        return Err(InvalidId::Blank);
    }
    if id.len() > ID_BYTES_MAX {
        return Err(InvalidId::TooLong);
    }
    // Wildcards: IoT Hub allows them in ids, but such a device cannot use MQTT there either. A semicolon would be two
    // links of an auth chain.
    let strange = |at: &char| matches!(at, '/' | '+' | '#' | ';') || at.is_control() || at.is_whitespace();
    id.chars().find(strange).map_or(Ok(()), |found| Err(InvalidId::Character(found)))
}
