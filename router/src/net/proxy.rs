//! PROXY protocol version 2: what a proxy in front of us says of the client behind it.
//!
//! In: the first bytes of a connection. Out: the client's address, and the name in the certificate that the proxy has
//! verified. Bytes as in the specification "The PROXY protocol", §2.2. Only behind `proxy_protocol = true`: whoever can
//! reach such a listener directly can claim any address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::door::{Refusal, Refused};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const FIXED_BYTES: usize = 16;
const TLV_SSL: u8 = 0x20;
const TLV_SSL_CN: u8 = 0x22;
/// The client presented a certificate over this connection, or over the session it resumed.
const SSL_CERTIFICATE: u8 = 0x02 | 0x04;

/// What is believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProxyRules {
    /// Whether the name in the client's certificate is.
    pub trust_cn: bool,
}

/// A header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Its bytes.
    pub len: usize,
    /// The client's address; `None` if the proxy speaks for itself, or for a client without an IP address.
    pub source: Option<SocketAddr>,
    /// The common name of the client's verified certificate, if that is believed.
    pub common_name: Option<Arc<str>>,
}

/// Reads the header at the start of `bytes`; `None` if it is not there in whole.
pub(crate) fn parse(bytes: &[u8], rules: ProxyRules, bytes_max: usize) -> Result<Option<Header>, Refused> {
    let refused = |detail: String| Refused::new(Refusal::ProxyHeader, detail);
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes[..seen] != SIGNATURE[..seen] {
        return Err(refused("the connection does not begin with a PROXY header of version 2".to_owned()));
    }
    let Some(fixed) = bytes.get(..FIXED_BYTES) else { return Ok(None) };
    let len = FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if len > bytes_max {
        return Err(refused(format!(
            "the header has {len} bytes, more than limits.handshake_bytes_max = {bytes_max}"
        )));
    }
    let Some(body) = bytes.get(FIXED_BYTES..len) else { return Ok(None) };
    let is_local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        other => return Err(refused(format!("version and command are {other:#04x}"))),
    };
    if is_local {
        return Ok(Some(Header { len, source: None, common_name: None }));
    }
    let short = || refused(format!("{} bytes are too short for the address", body.len()));
    let (source, tlvs) = match fixed[13] {
        // TCP over IPv4, over IPv6: source and destination address, source and destination port.
        0x11 => {
            let (block, tlvs) = body.split_first_chunk::<12>().ok_or_else(short)?;
            let ip: [u8; 4] = [block[0], block[1], block[2], block[3]];
            (Some(address(IpAddr::from(ip), [block[8], block[9]])), tlvs)
        }
        0x21 => {
            let (block, tlvs) = body.split_first_chunk::<36>().ok_or_else(short)?;
            let ip: [u8; 16] = *block.first_chunk().unwrap_or(&[0; 16]);
            (Some(address(IpAddr::from(ip), [block[32], block[33]])), tlvs)
        }
        // A Unix socket at the proxy: two paths of 108 bytes.
        0x31 => (None, body.get(216..).ok_or_else(short)?),
        0x00 => (None, &body[body.len()..]),
        other => return Err(refused(format!("family and protocol are {other:#04x}, no stream we know"))),
    };
    let common_name = common_name(tlvs).map_err(|problem| refused(problem.to_owned()))?;
    Ok(Some(Header { len, source, common_name: common_name.filter(|_| rules.trust_cn) }))
}

fn address(ip: IpAddr, port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(ip, u16::from_be_bytes(port))
}

/// The common name in the SSL part, if the proxy has verified the certificate.
fn common_name(tlvs: &[u8]) -> Result<Option<Arc<str>>, &'static str> {
    let mut name = None;
    for tlv in Tlvs(tlvs) {
        let (kind, value) = tlv?;
        if kind != TLV_SSL {
            continue;
        }
        let (head, subs) = value.split_first_chunk::<5>().ok_or("the SSL part is too short")?;
        let verified = head[0] & SSL_CERTIFICATE != 0 && head[1..5] == [0; 4];
        for sub in Tlvs(subs) {
            let (kind, value) = sub?;
            if kind == TLV_SSL_CN && verified {
                let text = std::str::from_utf8(value).map_err(|_| "the common name is not UTF-8")?;
                name = (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.into());
            }
        }
    }
    Ok(name)
}

/// Type, length, value; to the end.
struct Tlvs<'b>(&'b [u8]);

impl<'b> Iterator for Tlvs<'b> {
    type Item = Result<(u8, &'b [u8]), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let parsed = self.0.split_first_chunk::<3>().and_then(|(head, rest)| {
            let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[1], head[2]])))?;
            Some((head[0], value, rest))
        });
        Some(match parsed {
            Some((kind, value, rest)) => {
                self.0 = rest;
                Ok((kind, value))
            }
            None => {
                self.0 = &[];
                Err("an additional value is longer than the header")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: ProxyRules = ProxyRules { trust_cn: true };

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xC0, 0x01, 0x07, 0x5B];

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((value.len() as u16).to_be_bytes());
        bytes.extend(value);
        bytes
    }

    #[track_caller]
    fn source(bytes: &[u8]) -> Option<SocketAddr> {
        let header = parse(bytes, RULES, 1_024).unwrap().unwrap();
        assert_eq!(header.len, bytes.len());
        header.source
    }

    #[test]
    fn addresses_of_every_family() {
        assert_eq!(source(&header(0x21, 0x11, &V4)), Some("192.0.2.7:49153".parse().unwrap()));
        let mut v6 = [0; 36];
        (v6[0], v6[1], v6[15], v6[33]) = (0x20, 0x01, 9, 80);
        assert_eq!(source(&header(0x21, 0x21, &v6)), Some("[2001::9]:80".parse().unwrap()));
        assert_eq!(source(&header(0x21, 0x31, &[0; 216])), None);
        assert_eq!(source(&header(0x21, 0x00, b"whatever")), None);
        // LOCAL: a health check of the proxy itself; what follows is skipped.
        assert_eq!(source(&header(0x20, 0x00, b"")), None);
        assert_eq!(source(&header(0x20, 0x11, &V4)), None);
    }

    #[test]
    fn the_name_in_a_certificate_counts_only_if_it_was_verified_and_is_trusted() {
        let named = |client: u8, verify: u32| {
            let mut ssl = vec![client];
            ssl.extend(verify.to_be_bytes());
            ssl.extend(tlv(0x21, b"TLSv1.3"));
            ssl.extend(tlv(TLV_SSL_CN, b"press-7"));
            let mut body = V4.to_vec();
            body.extend(tlv(0x04, &[0; 40]));
            body.extend(tlv(TLV_SSL, &ssl));
            header(0x21, 0x11, &body)
        };
        let name = |bytes: &[u8], trust_cn| {
            parse(bytes, ProxyRules { trust_cn }, 1_024).unwrap().unwrap().common_name
        };
        assert_eq!(name(&named(0x03, 0), true).as_deref(), Some("press-7"));
        assert_eq!(name(&named(0x05, 0), true).as_deref(), Some("press-7"));
        assert_eq!(name(&named(0x03, 0), false), None);
        assert_eq!(name(&named(0x03, 1), true), None);
        assert_eq!(name(&named(0x01, 0), true), None);
    }

    #[test]
    fn a_header_may_come_byte_by_byte() {
        let bytes = header(0x21, 0x11, &V4);
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len], RULES, 1_024).unwrap(), None, "{len}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
        let wrong = [
            b"\x10".to_vec(),
            b"PROXY TCP4 192.0.2.7".to_vec(),
            b"\r\n\r\n\0\r\nQUIS".to_vec(),
            header(0x11, 0x11, &V4),
            header(0x22, 0x11, &V4),
            header(0x21, 0x12, &V4),
            header(0x21, 0x11, &V4[..11]),
            header(0x21, 0x21, &V4),
            header(0x21, 0x31, &V4),
            header(0x21, 0x11, &[V4.as_slice(), &[0x20, 0, 9, 1]].concat()),
            header(0x21, 0x11, &[V4.as_slice(), &tlv(TLV_SSL, &[1, 0])].concat()),
            header(0x21, 0x11, &vec![0; 2_000]),
        ];
        for bytes in wrong {
            let refused = parse(&bytes, RULES, 1_024).unwrap_err();
            assert_eq!(refused.why, Refusal::ProxyHeader, "{bytes:?}");
        }
    }
}
