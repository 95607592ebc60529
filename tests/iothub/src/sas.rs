//! Shared access signatures: `SharedAccessSignature sr=…&sig=…&se=…`.
//!
//! Knows: HMAC-SHA256 by ring (the product uses another library, so that a shared mistake is found).
//! In: a token, keys, what it must be for, the time. Out: nothing, or why not; and tokens for tests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;

use crate::bag;

/// A token, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// As sent: that is what is signed.
    pub resource: String,
    /// Decoded.
    signature: Vec<u8>,
    /// Seconds since 1970.
    pub expiry: u64,
}

impl Token {
    /// Reads it; the error is a sentence.
    pub fn parse(text: &str) -> Result<Token, String> {
        let fields = text.strip_prefix("SharedAccessSignature ").ok_or("not a SharedAccessSignature")?;
        let [mut resource, mut signature, mut expiry] = [None, None, None];
        for field in fields.split('&') {
            let (key, value) =
                field.split_once('=').ok_or_else(|| format!("{field:?} is no field of a token"))?;
            let place = match key {
                "sr" => &mut resource,
                "sig" => &mut signature,
                "se" => &mut expiry,
                // Tokens of policies have it; devices and modules have none.
                "skn" if value.is_empty() => continue,
                _ => return Err(format!("the token has an unknown field {key:?}")),
            };
            if place.replace(value).is_some() {
                return Err(format!("the token has {key} twice"));
            }
        }
        let signature = bag::decode(signature.ok_or("the token has no sig")?)?;
        let signature = BASE64.decode(signature).map_err(|_| "sig is not base64")?;
        let expiry = expiry.ok_or("the token has no se")?;
        Ok(Token {
            resource: resource.ok_or("the token has no sr")?.to_owned(),
            signature,
            expiry: expiry.parse().map_err(|_| format!("se is {expiry:?}, not a number of seconds"))?,
        })
    }

    /// Whether one of `keys` (base64) signed it.
    pub fn is_signed_by(&self, keys: &[&str]) -> bool {
        let signed = format!("{}\n{}", self.resource, self.expiry);
        keys.iter().any(|key| {
            let Ok(key) = BASE64.decode(key) else { return false };
            hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes(), &self.signature).is_ok()
        })
    }

    /// Whether it is over.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expiry <= seconds(now)
    }

    /// Whether it is for this identity at this host. Identifiers may be encoded once more within the resource.
    pub fn is_for(&self, host: &str, device_id: &str, module_id: Option<&str>) -> bool {
        let Ok(resource) = bag_free_decode(&self.resource) else { return false };
        let segments: Vec<_> = resource.split('/').collect();
        let same = |segment: &str, id: &str| segment == id || bag_free_decode(segment).as_deref() == Ok(id);
        match (&segments[..], module_id) {
            ([its_host, "devices", device], None) => {
                its_host.eq_ignore_ascii_case(host) && same(device, device_id)
            }
            ([its_host, "devices", device, "modules", module], Some(module_id)) => {
                its_host.eq_ignore_ascii_case(host) && same(device, device_id) && same(module, module_id)
            }
            _ => false,
        }
    }
}

/// As [`bag::decode`], but slashes may stand raw: some SDKs leave them.
fn bag_free_decode(text: &str) -> Result<String, String> {
    text.split('/').map(bag::decode).collect::<Result<Vec<_>, _>>().map(|parts| parts.join("/"))
}

/// A token as an SDK makes it. `key` is base64.
pub fn token(host: &str, device_id: &str, module_id: Option<&str>, key: &str, expiry: SystemTime) -> String {
    let resource = match module_id {
        Some(module_id) => {
            format!("{host}/devices/{}/modules/{}", bag::encode(device_id), bag::encode(module_id))
        }
        None => format!("{host}/devices/{}", bag::encode(device_id)),
    };
    sign(&bag::encode(&resource), key, seconds(expiry))
}

/// A token for this resource, written as it stands.
pub fn sign(resource: &str, key: &str, expiry: u64) -> String {
    let key = BASE64.decode(key).unwrap_or_default();
    let signature = digest(&key, format!("{resource}\n{expiry}").as_bytes());
    format!("SharedAccessSignature sr={resource}&sig={}&se={expiry}", bag::encode(&BASE64.encode(signature)))
}

/// HMAC-SHA256.
pub fn digest(key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{Token, sign, token};

    const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

    #[test]
    fn a_token_is_for_one_identity_one_host_and_one_time() {
        let now = SystemTime::now();
        let text = token("hub.example.com", "gw", Some("$edgeHub"), KEY, now + Duration::from_secs(60));
        let token = Token::parse(&text).expect("a token");
        assert!(token.is_signed_by(&["AAAA", KEY]));
        assert!(!token.is_signed_by(&["AAAA"]));
        assert!(!token.is_expired(now) && token.is_expired(now + Duration::from_secs(60)));
        assert!(token.is_for("HUB.example.com", "gw", Some("$edgeHub")));
        for (host, device, module) in [
            ("other", "gw", Some("$edgeHub")),
            ("hub.example.com", "gw", None),
            ("hub.example.com", "gw", Some("m")),
        ] {
            assert!(!token.is_for(host, device, module));
        }
    }

    /// Worked out with `openssl dgst -sha256 -hmac`, so that one wrong idea in here cannot prove itself.
    #[test]
    fn the_signature_is_that_of_openssl() {
        let text = sign("hub%2Fdevices%2Fd1", KEY, 1_700_000_000);
        assert_eq!(
            text,
            "SharedAccessSignature sr=hub%2Fdevices%2Fd1&sig=kH1kXuq785AWxlO1V%2Bk1Ja%2B9oHEXSo5%2F0INvWFX4g%2FQ%3D&se=1700000000"
        );
    }

    #[test]
    fn broken_tokens_are_refused() {
        for bad in [
            "",
            "Bearer x",
            "SharedAccessSignature sr=a&se=1",
            "SharedAccessSignature sr=a&sig=AAAA",
            "SharedAccessSignature sig=AAAA&se=1",
            "SharedAccessSignature sr=a&sig=AAAA&se=x",
            "SharedAccessSignature sr=a&sig=*&se=1",
            "SharedAccessSignature sr=a&sr=b&sig=AAAA&se=1",
        ] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
    }
}
