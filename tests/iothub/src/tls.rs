//! TLS of the hub: a certificate that can be swapped for a bad one, and clients' certificates, judged later by identity.
//!
//! In: sockets. Out: streams with the client's chain. A client's certificate is asked for, never demanded; that it has
//! the key is proved here, whose it is in [`crate::admission`].

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificate that is shown now.
#[derive(Debug)]
pub(crate) struct Shown(Mutex<Arc<CertifiedKey>>);

impl Shown {
    pub(crate) fn new(key: Arc<CertifiedKey>) -> Arc<Shown> {
        Arc::new(Shown(Mutex::new(key)))
    }

    pub(crate) fn swap(&self, key: Arc<CertifiedKey>) {
        *self.0.lock().expect("no panic while it is held") = key;
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().expect("no panic while it is held")))
    }
}

/// TLS 1.2 and 1.3 with the certificate in `shown`.
pub(crate) fn server(shown: Arc<Shown>) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let config = config.expect("the provider has both versions");
    let config = config.with_client_cert_verifier(Arc::new(AnyClient(provider())));
    Arc::new(config.with_cert_resolver(shown))
}

/// Takes every client that has the key of the certificate it shows.
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether `chain` leads to one of `authorities` (PEM) at this time.
pub(crate) fn leads_to(
    chain: &[CertificateDer<'_>],
    authorities: &[String],
    now: SystemTime,
) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for pem in authorities {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate =
                certificate.map_err(|error| format!("an authority that cannot be read: {error}"))?;
            roots.add(certificate).map_err(|error| format!("an authority that cannot be used: {error}"))?;
        }
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let verifier = verifier.map_err(|error| format!("no authority is known: {error}"))?;
    let (leaf, others) = chain.split_first().ok_or("no certificate")?;
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    verifier.verify_client_cert(leaf, others, now).map_err(|error| error.to_string())?;
    Ok(())
}
