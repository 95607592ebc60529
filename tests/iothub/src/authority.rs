//! An authority of a test: certificates for servers, good and bad ones on demand, and what names a client's certificate.
//!
//! In: names and days. Out: PEM, and keys for TLS. Nothing is written to disk; who needs files writes them.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::{Duration, OffsetDateTime};

/// A chain and its key.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, PEM.
    pub certificate: String,
    /// The key, PEM.
    pub key: String,
    /// When it ends.
    pub not_after: OffsetDateTime,
}

impl Issued {
    /// For a TLS server.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("a chain of ours can be read");
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key of ours can be read");
        Arc::new(CertifiedKey::new(chain, any_supported_type(&key).expect("a key of a kind that TLS has")))
    }

    /// SHA-256 of the certificate, hexadecimal in capitals, as IoT Hub keeps it.
    pub fn thumbprint(&self) -> String {
        let leaf =
            CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate of ours");
        thumbprint(&ring::digest::SHA256, &leaf)
    }
}

/// The hash of a certificate, hexadecimal in capitals.
pub(crate) fn thumbprint(algorithm: &'static ring::digest::Algorithm, leaf: &CertificateDer<'_>) -> String {
    ring::digest::digest(algorithm, leaf).as_ref().iter().map(|it| format!("{it:02X}")).collect()
}

/// An authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one that nobody knows.
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        // Some clients take no authority that began this second.
        params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(30);
        let key = KeyPair::generate().expect("a key");
        Authority { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority") }
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server's certificate for these names, each a host name or an address. It begins and ends so far from now.
    pub fn server(&self, names: &[&str], begins: Duration, ends: Duration) -> Issued {
        let mut params = CertificateParams::default();
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().expect("a host name")),
            });
        }
        let common_name = names.first().copied().unwrap_or("nobody");
        self.issue(params, common_name, ExtendedKeyUsagePurpose::ServerAuth, begins, ends)
    }

    /// A client's certificate with this common name, for a week.
    pub fn client(&self, common_name: &str) -> Issued {
        self.client_between(common_name, Duration::hours(-1), Duration::days(7))
    }

    /// As `client`, with a beginning and an end.
    pub fn client_between(&self, common_name: &str, begins: Duration, ends: Duration) -> Issued {
        self.issue(
            CertificateParams::default(),
            common_name,
            ExtendedKeyUsagePurpose::ClientAuth,
            begins,
            ends,
        )
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        common_name: &str,
        purpose: ExtendedKeyUsagePurpose,
        begins: Duration,
        ends: Duration,
    ) -> Issued {
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        let now = OffsetDateTime::now_utc();
        params.not_before = now + begins;
        params.not_after = now + ends;
        let not_after = params.not_after;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { certificate: certificate.pem(), key: key.serialize_pem(), not_after }
    }
}
