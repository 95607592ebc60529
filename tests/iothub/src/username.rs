//! The user name of a CONNECT: host, identity, and what the client says of itself.
//!
//! In: `{host}/{device}[/{module}]/?api-version=…&…`, or the older form without `?`. Out: its parts, or the rule it breaks.

use crate::bag;

/// Whom a client claims to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Username {
    /// The IoT Hub.
    pub host: String,
    /// The device.
    pub device_id: String,
    /// The module, if it is one.
    pub module_id: Option<String>,
    /// As sent, a date.
    pub api_version: String,
    /// `DeviceClientType`, decoded.
    pub product_info: Option<String>,
    /// `model-id`, decoded.
    pub model_id: Option<String>,
    /// `auth-chain`, decoded and split: target first, actor last. Empty: the client speaks for itself.
    pub auth_chain: Vec<String>,
    /// The form without `?`.
    pub legacy: bool,
}

impl Username {
    /// Reads it; the error is a sentence.
    pub fn parse(text: &str) -> Result<Username, String> {
        let segments: Vec<_> = text.split('/').collect();
        let (last, names) = segments.split_last().ok_or("an empty user name")?;
        let (host, device_id, module_id) = match names {
            [host, device] => (*host, *device, None),
            [host, device, module] => (*host, *device, Some((*module).to_owned())),
            _ => return Err(format!("{} segments in the user name, there must be 3 or 4", segments.len())),
        };
        if host.is_empty() || device_id.is_empty() || module_id.as_deref() == Some("") {
            return Err("an empty segment in the user name".into());
        }
        let (query, legacy) = match last.strip_prefix('?') {
            Some(query) => (query, false),
            None => (*last, true),
        };
        let mut name = Username {
            host: host.to_owned(),
            device_id: device_id.to_owned(),
            module_id,
            api_version: String::new(),
            product_info: None,
            model_id: None,
            auth_chain: Vec::new(),
            legacy,
        };
        for (key, value) in bag::pairs(query).map_err(|error| format!("the user name has {error}"))? {
            let known = match key.as_str() {
                "api-version" => !std::mem::replace(&mut name.api_version, value).is_empty(),
                "DeviceClientType" => name.product_info.replace(value).is_some(),
                "model-id" => name.model_id.replace(value).is_some(),
                "auth-chain" => {
                    let chain: Vec<_> = value.split(';').map(str::to_owned).collect();
                    if chain.iter().any(String::is_empty) {
                        return Err(format!("an empty link in the auth-chain {value:?}"));
                    }
                    !std::mem::replace(&mut name.auth_chain, chain).is_empty()
                }
                _ => return Err(format!("the user name has an unknown key {key:?}")),
            };
            if known {
                return Err(format!("the user name has {key} twice"));
            }
        }
        if !is_api_version(&name.api_version) {
            return Err(format!("api-version {:?} is no date", name.api_version));
        }
        Ok(name)
    }

    /// What the client identifier must be.
    pub fn client_id(&self) -> String {
        match &self.module_id {
            Some(module_id) => format!("{}/{module_id}", self.device_id),
            None => self.device_id.clone(),
        }
    }
}

/// `2021-04-12`, perhaps with `-preview`.
fn is_api_version(text: &str) -> bool {
    let date = text.strip_suffix("-preview").unwrap_or(text);
    let parts: Vec<_> = date.split('-').collect();
    let digits = |part: &str, len| part.len() == len && part.bytes().all(|it| it.is_ascii_digit());
    matches!(parts[..], [year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2))
}

#[cfg(test)]
mod tests {
    use super::Username;

    #[test]
    fn the_forms_of_devices_modules_and_gateways_are_read() {
        let name = Username::parse("h/d1/?api-version=2021-04-12").expect("a user name");
        assert_eq!((name.client_id().as_str(), name.legacy), ("d1", false));
        let name = Username::parse(
            "h/gw/m1/?api-version=2018-06-30&DeviceClientType=py%2F2.1&model-id=dtmi%3Acom%3Ax%3B1&auth-chain=gw%2Fm1%3Bgw",
        );
        let name = name.expect("a user name");
        assert_eq!(name.client_id(), "gw/m1");
        assert_eq!(name.product_info.as_deref(), Some("py/2.1"));
        assert_eq!(name.model_id.as_deref(), Some("dtmi:com:x;1"));
        assert_eq!(name.auth_chain, ["gw/m1", "gw"]);
        assert!(Username::parse("h/d1/m1/api-version=2010-01-01").expect("the older form").legacy);
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            "",
            "h/d1",
            "h/d1/fooBar",
            "h/d1/m1/?version=1",
            "h//?api-version=2021-04-12",
            "h/d1/m1?api-version=2021-04-12",
            "h/d/m/api-version=2021-04-12/extra",
            "h/d1/?api-version=",
            "h/d1/?api-version=2021-04-12&other=1",
            "h/d1/?api-version=2021-04-12&api-version=2021-04-12",
            "h/d1/?api-version=2021-04-12&auth-chain=a;;b",
        ] {
            assert!(Username::parse(bad).is_err(), "{bad}");
        }
    }
}
