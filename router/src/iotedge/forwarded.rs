//! The certificate of a client that came through a proxy: `x-ms-edge-clientcert` (`reference/edgehub.md` §5.5).
//!
//! In: the header as nginx writes it (`$ssl_client_escaped_cert`): PEM, percent-encoded. Out: certificates, the client's first.
//! Never: whether they are good, and whether whoever says so may say so; both are the gatekeeper's. Unlike with TLS, nobody here has
//! seen that the client has the key: only the proxy has, which is why it alone is believed.
//! Bound: [`CERTIFICATES_MAX`]; the header's length is that of a request's head.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Most certificates of one client.
const CERTIFICATES_MAX: usize = 10;

/// The certificates in a header; `None` if it is not made of them.
pub(crate) fn certificates(header: &str) -> Option<Arc<[Box<[u8]>]>> {
    // A plus is a plus: base64 is full of them, and some proxies leave them as they are.
    let pem = percent_encoding::percent_decode_str(header).collect::<Vec<u8>>();
    let all = CertificateDer::pem_slice_iter(&pem).take(CERTIFICATES_MAX + 1);
    let all: Vec<Box<[u8]>> =
        all.map(|one| one.map(|one| one.as_ref().into())).collect::<Result<_, _>>().ok()?;
    (1..=CERTIFICATES_MAX).contains(&all.len()).then(|| all.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAQID+/8=\n-----END CERTIFICATE-----\n";

    fn escaped(text: &str) -> String {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    }

    #[test]
    fn certificates_are_read_as_nginx_writes_them() {
        let der: Box<[u8]> = [1, 2, 3, 251, 255].into();
        assert_eq!(certificates(&escaped(ONE)).as_deref(), Some(&[der.clone()][..]));
        let with_plus = escaped(ONE).replace("%2B", "+");
        assert_eq!(certificates(&with_plus).as_deref(), Some(&[der.clone()][..]));
        let chain = certificates(&escaped(&format!("{ONE}{ONE}"))).expect("two");
        assert_eq!(chain.len(), 2);
        for bad in ["", "%", "AQID", &escaped("-----BEGIN CERTIFICATE-----\nAQID"), &escaped(&ONE.repeat(11))]
        {
            assert_eq!(certificates(bad), None, "{bad}");
        }
        let key = ONE.replace("CERTIFICATE", "PRIVATE KEY");
        assert_eq!(certificates(&escaped(&key)), None);
    }
}
