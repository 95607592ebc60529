//! Whom an uplink believes: from files to what TLS starts with, and from a mistake of TLS to a sentence.
//!
//! In: paths, pins. Out: a rustls configuration, or what is wrong and what to do. Never: a socket.
//! The files are read for every connection: one that was renewed needs no restart.

use std::fmt;
use std::sync::Arc;

use base64ct::{Base64, Encoding as _};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::UplinkTls;
use crate::net::{CertificateError, certificates, pem_problem};

/// Reads everything that TLS to the other end of the uplink `name` needs.
pub(crate) fn client_config(name: &str, settings: &UplinkTls) -> Result<ClientConfig, CertificateError> {
    let section = format!("uplink.{name}");
    let provider = Arc::new(ring::default_provider());
    let versions: &[_] = if settings.tls_1_2 {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    } else {
        &[&rustls::version::TLS13]
    };
    let demands = demands(&section, settings, &provider)?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .expect("the provider speaks both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(demands));
    let Some((cert, key)) = &settings.cert else { return Ok(builder.with_no_client_auth()) };
    let at_key = |problem| CertificateError::new(&section, "key", key, problem);
    let chain =
        certificates(cert).map_err(|problem| CertificateError::new(&section, "cert", cert, problem))?;
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| at_key(pem_problem(&error, "private key")))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| match error {
        Error::InconsistentKeys(_) => at_key(format!("is not the key of {}", cert.display())),
        error => at_key(format!("cannot be used: {error}")),
    })
}

fn demands(
    section: &str,
    settings: &UplinkTls,
    provider: &Arc<CryptoProvider>,
) -> Result<Demands, CertificateError> {
    let chain = if settings.insecure {
        None
    } else {
        let roots = Arc::new(roots(section, settings)?);
        let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
        Some(chain.expect("there is an authority, and no revocation list"))
    };
    Ok(Demands { chain, pins: settings.pins.clone(), provider: Arc::clone(provider) })
}

/// The authorities that are believed; at least one.
fn roots(section: &str, settings: &UplinkTls) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    let Some(ca) = &settings.ca else {
        // Some of the system's certificates may be unusable for reasons of their own.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(also) = &settings.also {
            roots.add_parsable_certificates(certificates(also).unwrap_or_default());
        }
        if roots.is_empty() {
            let problem =
                "is not set, and this system has no authorities; install the package ca-certificates";
            return Err(CertificateError::new(section, "ca", "".as_ref(), problem.to_owned()));
        }
        return Ok(roots);
    };
    let at_ca = |problem| CertificateError::new(section, "ca", ca, problem);
    for certificate in certificates(ca).map_err(at_ca)? {
        roots
            .add(certificate)
            .map_err(|error| at_ca(format!("holds a certificate that is no authority: {error}")))?;
    }
    Ok(roots)
}

/// What is demanded of the other end besides that it has the key of its certificate.
#[derive(Debug)]
struct Demands {
    /// A chain to an authority, for the right name, today; `None` believes everybody.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// One of these keys; empty is any.
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

/// The key of the other end is not pinned.
#[derive(Debug)]
struct NotPinned(String);

impl fmt::Display for NotPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its key is {}, which is not pinned", self.0)
    }
}

impl std::error::Error for NotPinned {}

impl Demands {
    fn check_pins(&self, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
        let (_, certificate) = X509Certificate::from_der(end_entity)
            .map_err(|_| Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
        let key: [u8; 32] = Sha256::digest(certificate.public_key().raw).into();
        if self.pins.contains(&key) {
            return Ok(());
        }
        let why = rustls::OtherError(Arc::new(NotPinned(format!("sha256/{}", Base64::encode_string(&key)))));
        Err(Error::InvalidCertificate(rustls::CertificateError::Other(why)))
    }
}

impl ServerCertVerifier for Demands {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(chain) = &self.chain {
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        }
        if !self.pins.is_empty() {
            self.check_pins(end_entity)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The names of a certificate as people write them.
pub(super) fn names(presented: &[String]) -> String {
    let name = |text: &String| {
        let inner = text.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(text);
        inner.trim_matches('"').to_owned()
    };
    presented.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// A mistake of TLS, in a sentence that says what to do. `section`: the uplink's keys.
pub(super) fn sentence(error: &Error, section: &str) -> String {
    use rustls::CertificateError as Bad;
    match error {
        Error::InvalidCertificate(bad) => match bad {
            // An authority of the same name with another key is another one.
            Bad::UnknownIssuer | Bad::BadSignature => format!(
                "its certificate is signed by an authority that is not believed here; name the authority's file \
                 in {section}.ca, or install it in this system"
            ),
            Bad::NotValidForNameContext { expected, presented } => format!(
                "its certificate is for {}, not for {}; mend {section}.url, or set {section}.server_name",
                names(presented),
                expected.to_str()
            ),
            Bad::ExpiredContext { time, not_after } => {
                format!("its certificate has expired: {}", compared(*not_after, *time))
            }
            Bad::NotValidYetContext { time, not_before } => {
                format!("its certificate is not valid yet: {}", compared(*not_before, *time))
            }
            Bad::Other(why) if why.0.is::<NotPinned>() => format!("{}; see {section}.pin", why.0),
            bad => format!("its certificate is not good: {bad}"),
        },
        Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::AccessDenied,
        ) => format!("it refuses our client certificate, or wants one ({error}); see {section}.cert"),
        Error::InvalidMessage(_) => {
            format!("what answers does not speak TLS; is the port in {section}.url right?")
        }
        error => error.to_string(),
    }
}

/// A bound of a certificate beside the clock.
fn compared(bound: UnixTime, now: UnixTime) -> String {
    let date = |at: UnixTime| {
        OffsetDateTime::from_unix_timestamp(at.as_secs().cast_signed()).map_or_else(
            |_| "never".to_owned(),
            |at| format!("{} {:02}:{:02} UTC", at.date(), at.hour(), at.minute()),
        )
    };
    format!(
        "its bound is {}, this machine's clock says {}; renew it, or set the clock",
        date(bound),
        date(now)
    )
}
