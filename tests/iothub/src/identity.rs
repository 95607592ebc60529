//! The registry: devices, modules, their keys, and which gateway a device stands below.
//!
//! In: identities as the control port describes them. Out: who may do what; the scope of a gateway as the service tells it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How an identity proves itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Authentication {
    /// By keys, base64; those left out are made.
    #[serde(rename = "sas")]
    Sas {
        /// The one a client normally uses.
        #[serde(default = "random_key")]
        primary_key: String,
        /// The other one.
        #[serde(default = "random_key")]
        secondary_key: String,
    },
    /// By a certificate with one of these thumbprints (hexadecimal, SHA-1 or SHA-256).
    #[serde(rename = "selfSigned")]
    SelfSigned {
        /// One.
        primary_thumbprint: String,
        /// The other one.
        #[serde(default)]
        secondary_thumbprint: String,
    },
    /// By a certificate of an authority that the hub knows, with the device's name.
    #[serde(rename = "certificateAuthority")]
    CertificateAuthority,
}

impl Default for Authentication {
    fn default() -> Self {
        Authentication::Sas { primary_key: random_key(), secondary_key: random_key() }
    }
}

/// 32 random bytes as base64.
pub fn random_key() -> String {
    let mut key = [0; 32];
    SystemRandom::new().fill(&mut key).expect("the system has random numbers");
    BASE64.encode(key)
}

const fn yes() -> bool {
    true
}

/// A device or a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// The device.
    pub device_id: String,
    /// The module, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_id: Option<String>,
    /// Changes when an identity is made anew.
    #[serde(default = "generation")]
    pub generation_id: String,
    /// How it proves itself.
    #[serde(default)]
    pub authentication: Authentication,
    /// Disabled identities are refused. Modules follow their device.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Whether it is a gateway.
    #[serde(default)]
    pub edge: bool,
    /// The gateway it stands below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

fn generation() -> String {
    let mut bytes = [0; 6];
    SystemRandom::new().fill(&mut bytes).expect("the system has random numbers");
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}

impl Identity {
    /// A device with keys.
    pub fn device(device_id: &str) -> Identity {
        Identity {
            device_id: device_id.to_owned(),
            module_id: None,
            generation_id: generation(),
            authentication: Authentication::default(),
            enabled: true,
            edge: false,
            parent: None,
        }
    }

    /// A gateway.
    pub fn gateway(device_id: &str) -> Identity {
        Identity { edge: true, ..Identity::device(device_id) }
    }

    /// A module with keys.
    pub fn module(device_id: &str, module_id: &str) -> Identity {
        Identity { module_id: Some(module_id.to_owned()), ..Identity::device(device_id) }
    }

    /// The same below this gateway.
    #[must_use]
    pub fn below(self, parent: &str) -> Identity {
        Identity { parent: Some(parent.to_owned()), ..self }
    }

    /// The same with another proof.
    #[must_use]
    pub fn with(self, authentication: Authentication) -> Identity {
        Identity { authentication, ..self }
    }

    /// `device` or `device/module`.
    pub fn id(&self) -> String {
        match &self.module_id {
            Some(module_id) => format!("{}/{module_id}", self.device_id),
            None => self.device_id.clone(),
        }
    }

    /// Its keys; none if it proves itself otherwise.
    pub fn keys(&self) -> Vec<&str> {
        match &self.authentication {
            Authentication::Sas { primary_key, secondary_key } => vec![primary_key, secondary_key],
            _ => Vec::new(),
        }
    }

    /// Its primary key; empty if it has none.
    pub fn key(&self) -> &str {
        self.keys().first().copied().unwrap_or_default()
    }

    fn scope(&self) -> String {
        format!("ms-azure-iot-edge://{}-{}", self.device_id, self.generation_id)
    }
}

/// All identities, by [`Identity::id`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry(BTreeMap<String, Identity>);

/// Deepest nesting of gateways.
const DEPTH_MAX: usize = 5;

impl Registry {
    /// Adds or replaces. A module needs its device, a child its gateway.
    pub(crate) fn put(&mut self, identity: Identity) -> Result<&Identity, String> {
        if identity.module_id.is_some() && !self.0.contains_key(&identity.device_id) {
            return Err(format!("there is no device {}", identity.device_id));
        }
        if let Some(parent) = &identity.parent
            && !self.0.get(parent).is_some_and(|it| it.edge)
        {
            return Err(format!("there is no gateway {parent}"));
        }
        let id = identity.id();
        self.0.insert(id.clone(), identity);
        Ok(&self.0[&id])
    }

    /// Removes an identity, and a device's modules with it.
    pub(crate) fn remove(&mut self, id: &str) -> bool {
        let modules = format!("{id}/");
        let found = self.0.remove(id).is_some();
        self.0.retain(|key, _| !key.starts_with(&modules));
        found
    }

    /// One identity.
    pub(crate) fn find(&self, id: &str) -> Option<&Identity> {
        self.0.get(id)
    }

    /// One identity, to change it.
    pub(crate) fn find_mut(&mut self, id: &str) -> Option<&mut Identity> {
        self.0.get_mut(id)
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Identity> {
        self.0.values()
    }

    /// Whether it and its device are enabled.
    pub(crate) fn is_enabled(&self, identity: &Identity) -> bool {
        identity.enabled && self.0.get(&identity.device_id).is_some_and(|device| device.enabled)
    }

    /// Whether `target` is the gateway, one of its modules, or stands somewhere below it.
    pub(crate) fn is_below(&self, target: &Identity, gateway: &str) -> bool {
        let mut device = self.0.get(&target.device_id);
        for _ in 0..=DEPTH_MAX {
            let Some(at) = device else { return false };
            if at.device_id == gateway {
                return true;
            }
            device = at.parent.as_deref().and_then(|parent| self.0.get(parent));
        }
        false
    }

    /// Whether `chain` is the way from `target` up to the gateway that speaks, each link the parent of the one before.
    pub(crate) fn check_chain(&self, target: &str, chain: &[String]) -> Result<(), String> {
        let (first, last) = (chain.first().map(String::as_str), chain.last());
        if first != Some(target) {
            return Err(format!("the auth-chain {chain:?} does not begin with {target}"));
        }
        let actor = last.and_then(|it| self.0.get(it));
        if !actor.is_some_and(|it| it.edge && it.module_id.is_none()) {
            return Err(format!("the auth-chain {chain:?} does not end with a gateway"));
        }
        for pair in chain.windows(2) {
            let [below, above] = pair else { continue };
            let Some(identity) = self.0.get(below) else {
                return Err(format!("the auth-chain has {below}, which is unknown"));
            };
            let parent = match identity.module_id {
                Some(_) => Some(&identity.device_id),
                None => identity.parent.as_ref(),
            };
            if parent != Some(above) {
                return Err(format!("the auth-chain has {above} above {below}, which is not so"));
            }
        }
        Ok(())
    }

    /// What stands directly below a gateway, itself and its own modules included: devices, then modules.
    pub(crate) fn scope(&self, gateway: &str) -> (Vec<&Identity>, Vec<&Identity>) {
        let devices = self.0.values().filter(|it| it.module_id.is_none());
        let devices = devices.filter(|it| it.device_id == gateway || it.parent.as_deref() == Some(gateway));
        let modules = self.0.values().filter(|it| it.module_id.is_some() && it.device_id == gateway);
        (devices.collect(), modules.collect())
    }

    /// An identity as the service's scope requests describe it.
    pub(crate) fn describe(&self, identity: &Identity) -> Value {
        let authentication = match &identity.authentication {
            Authentication::Sas { primary_key, secondary_key } => json!({
                "type": "sas", "symmetricKey": {"primaryKey": primary_key, "secondaryKey": secondary_key},
                "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null},
            }),
            Authentication::SelfSigned { primary_thumbprint, secondary_thumbprint } => json!({
                "type": "selfSigned", "symmetricKey": {"primaryKey": null, "secondaryKey": null},
                "x509Thumbprint": {"primaryThumbprint": primary_thumbprint, "secondaryThumbprint": secondary_thumbprint},
            }),
            Authentication::CertificateAuthority => json!({
                "type": "certificateAuthority", "symmetricKey": {"primaryKey": null, "secondaryKey": null},
                "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null},
            }),
        };
        if let Some(module_id) = &identity.module_id {
            return json!({
                "moduleId": module_id, "deviceId": identity.device_id, "generationId": identity.generation_id,
                "authentication": authentication,
            });
        }
        let parent = identity.parent.as_ref().and_then(|it| self.0.get(it)).map(Identity::scope);
        let scope = if identity.edge { Some(identity.scope()) } else { parent.clone() };
        json!({
            "deviceId": identity.device_id, "generationId": identity.generation_id,
            "status": if identity.enabled { "enabled" } else { "disabled" },
            "authentication": authentication, "capabilities": {"iotEdge": identity.edge},
            "deviceScope": scope, "parentScopes": parent.into_iter().collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, Registry};

    fn plant() -> Registry {
        let mut registry = Registry::default();
        for identity in [
            Identity::gateway("top"),
            Identity::gateway("low").below("top"),
            Identity::device("d1").below("low"),
            Identity::module("low", "m1"),
            Identity::device("stranger"),
        ] {
            registry.put(identity).expect("an identity that fits");
        }
        registry
    }

    #[test]
    fn a_chain_must_be_the_way_up() {
        let registry = plant();
        let check = |target: &str, chain: &str| {
            registry.check_chain(target, &chain.split(';').map(str::to_owned).collect::<Vec<_>>())
        };
        for (target, chain) in
            [("d1", "d1;low"), ("d1", "d1;low;top"), ("low/m1", "low/m1;low;top"), ("low", "low;top")]
        {
            assert_eq!(check(target, chain), Ok(()), "{chain}");
        }
        for (target, chain) in
            [("d1", "d1;top"), ("d1", "low;top"), ("stranger", "stranger;low"), ("d1", "d1"), ("x", "x;low")]
        {
            assert!(check(target, chain).is_err(), "{chain}");
        }
    }

    #[test]
    fn the_scope_of_a_gateway_is_one_level() {
        let registry = plant();
        let names = |gateway| {
            let (devices, modules) = registry.scope(gateway);
            devices.iter().chain(&modules).map(|it| it.id()).collect::<Vec<_>>()
        };
        assert_eq!(names("top"), ["low", "top"]);
        assert_eq!(names("low"), ["d1", "low", "low/m1"]);
        let described = registry.describe(registry.find("d1").expect("it is there"));
        assert_eq!(
            described["parentScopes"][0],
            registry.describe(registry.find("low").expect("it is there"))["deviceScope"]
        );
    }

    #[test]
    fn orphans_are_refused() {
        let mut registry = plant();
        assert!(registry.put(Identity::module("nobody", "m")).is_err());
        assert!(registry.put(Identity::device("d2").below("d1")).is_err());
        assert!(registry.remove("low") && registry.find("low/m1").is_none());
    }
}
