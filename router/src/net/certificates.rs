//! Certificates: from files to what TLS starts with, and from a client's certificate to its user.
//!
//! In: paths. Out: a [`TlsServer`], or one sentence that names the file and what is wrong with it. Nothing half-loaded:
//! a reload swaps the whole value or keeps the old one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::unjudged::Unjudged;
use crate::config::{ClientCertificate, ListenerKind, OwnCertificate, Tls, UserFrom};

/// From how long before its end a certificate is warned about.
const EXPIRY_WARNING_DAYS: i64 = 30;
const SECS_PER_DAY: i64 = 24 * 60 * 60;
/// Longest user name that a certificate may give; MQTT's own user names end there too.
const USER_BYTES_MAX: usize = 65_535;

/// What TLS connections of a listener start with.
#[derive(Debug)]
pub(crate) struct TlsServer {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// What names the user of a client's certificate.
    pub user_from: UserFrom,
    /// Whether clients' certificates are judged later, see `ClientCertificate::Identity`.
    pub is_unjudged: bool,
    /// The router's own certificates: the default one first.
    pub certificates: Vec<CertificateInfo>,
}

/// One of the router's own certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateInfo {
    /// Its file.
    pub path: PathBuf,
    /// The host names it is for, lower case.
    pub names: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
}

/// The gateway's certificate, wherever it came from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EdgeCertificate {
    /// Its chain, PEM, its own first.
    pub chain: String,
    /// Its private key, PEM.
    pub key: String,
    /// Where it came from, for people: a file, or the Workload API.
    pub source: PathBuf,
}

impl std::fmt::Debug for EdgeCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EdgeCertificate({})", self.source.display())
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[error("{key} = {path:?}: {problem}", path = path.display().to_string())]
pub struct CertificateError {
    key: String,
    path: PathBuf,
    problem: String,
}

impl CertificateError {
    /// What is wrong with the file that the key of a section names.
    pub(crate) fn new(section: &str, key: &str, path: &Path, problem: String) -> CertificateError {
        CertificateError { key: format!("{section}.{key}"), path: path.to_owned(), problem }
    }
}

impl CertificateInfo {
    /// Whole days until its end, negative once it is over.
    pub(crate) fn days_left(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        (self.not_after - now).div_euclid(SECS_PER_DAY)
    }

    /// What to say about its end, if it is near or over.
    pub(crate) fn warning(&self) -> Option<String> {
        let path = self.path.display();
        match self.days_left() {
            ..0 => Some(format!("the certificate {path} has expired: clients will refuse it")),
            days @ 0..EXPIRY_WARNING_DAYS => Some(format!("the certificate {path} expires in {days} days")),
            EXPIRY_WARNING_DAYS.. => None,
        }
    }
}

/// Reads everything that a listener needs for TLS. `name` is the listener's, `edge` the gateway's certificate.
pub(crate) fn load(
    name: &str,
    kind: ListenerKind,
    settings: &Tls,
    edge: Option<&EdgeCertificate>,
) -> Result<TlsServer, CertificateError> {
    let provider = Arc::new(ring::default_provider());
    let section = format!("listener.{name}");
    let (default, info) = match &settings.certificate {
        OwnCertificate::Files { cert, key } => certified_key(&section, cert, key, &provider)?,
        OwnCertificate::Edge => edge_key(&section, edge, &provider)?,
    };
    let own = info.path.clone();
    let mut certificates = vec![info];
    let mut by_name = HashMap::new();
    for (label, cert, key) in &settings.sni {
        let (key, info) = certified_key(&format!("{section}.sni.{label}"), cert, key, &provider)?;
        if info.names.is_empty() {
            let problem = "has no DNS name to be chosen by (subjectAltName)".to_owned();
            return Err(CertificateError {
                key: format!("{section}.sni.{label}.cert"),
                path: cert.clone(),
                problem,
            });
        }
        for name in &info.names {
            by_name.insert(name.clone(), Arc::clone(&key));
        }
        certificates.push(info);
    }
    let versions: &[_] = if settings.tls_1_2 {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    } else {
        &[&rustls::version::TLS13]
    };
    let whole =
        |problem: String| CertificateError { key: format!("{section}.cert"), path: own.clone(), problem };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| whole(error.to_string()))?;
    let verifier = client_verifier(&section, settings, &provider)?;
    let verifies = verifier.is_some();
    let builder = match verifier {
        // Resumed sessions bring the certificates back; they are judged again all the same.
        None if settings.client_cert == ClientCertificate::Identity => {
            builder.with_client_cert_verifier(Arc::new(Unjudged(Arc::clone(&provider))))
        }
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let is_unjudged = settings.client_cert == ClientCertificate::Identity;
    let mut config = builder.with_cert_resolver(Arc::new(ByName { default, by_name }));
    let protocol: &[u8] = if kind.is_websocket() { b"http/1.1" } else { b"mqtt" };
    config.alpn_protocols = vec![protocol.to_vec()];
    if verifies {
        // A resumed session would bring back a client whose certificate has been revoked or has ended meanwhile.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        // Tickets keep no state here, so that a whole fleet can come back cheaply after an outage.
        config.ticketer = ring::Ticketer::new().map_err(|error| whole(error.to_string()))?;
        config.send_tls13_tickets = 1;
    }
    Ok(TlsServer { config: Arc::new(config), user_from: settings.user_from, is_unjudged, certificates })
}

fn certified_key(
    section: &str,
    cert: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, CertificateInfo), CertificateError> {
    let at_cert =
        |problem: String| CertificateError { key: format!("{section}.cert"), path: cert.to_owned(), problem };
    let at_key =
        |problem: String| CertificateError { key: format!("{section}.key"), path: key.to_owned(), problem };
    let chain = certificates(cert).map_err(at_cert)?;
    let info = describe(cert, &chain[0]).map_err(at_cert)?;
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| at_key(pem_problem(&error, "private key")))?;
    let certified = CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => at_key(format!("is not the key of {}", cert.display())),
        error => at_key(format!("cannot be used: {error}")),
    })?;
    Ok((Arc::new(certified), info))
}

/// The gateway's certificate, in the place of a listener's own.
fn edge_key(
    section: &str,
    edge: Option<&EdgeCertificate>,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, CertificateInfo), CertificateError> {
    let source = edge.map(|edge| edge.source.clone()).unwrap_or_default();
    let wrong = |problem: String| CertificateError::new(section, "certificate", &source, problem);
    let Some(edge) = edge else { return Err(wrong("the gateway has no certificate yet".to_owned())) };
    let chain = CertificateDer::pem_slice_iter(edge.chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(pem_problem(&error, "certificate")))?;
    let Some(leaf) = chain.first() else { return Err(wrong("holds no certificate in PEM form".to_owned())) };
    let info = describe(&edge.source, leaf).map_err(wrong)?;
    let private = PrivateKeyDer::from_pem_slice(edge.key.as_bytes())
        .map_err(|error| wrong(pem_problem(&error, "private key")))?;
    let certified = CertifiedKey::from_der(chain, private, provider)
        .map_err(|error| wrong(format!("certificate and key cannot be used: {error}")))?;
    Ok((Arc::new(certified), info))
}

fn client_verifier(
    section: &str,
    settings: &Tls,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, CertificateError> {
    let verifies = !matches!(settings.client_cert, ClientCertificate::None | ClientCertificate::Identity);
    let Some(ca) = settings.client_ca.as_ref().filter(|_| verifies) else {
        return Ok(None);
    };
    let at_ca =
        |problem: String| CertificateError { key: format!("{section}.client_ca"), path: ca.clone(), problem };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca).map_err(at_ca)? {
        roots
            .add(certificate)
            .map_err(|error| at_ca(format!("holds a certificate that is no authority: {error}")))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(crl) = &settings.client_crl {
        let at_crl =
            |problem| CertificateError { key: format!("{section}.client_crl"), path: crl.clone(), problem };
        let lists = CertificateRevocationListDer::pem_file_iter(crl)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| at_crl(pem_problem(&error, "revocation list")))?;
        if lists.is_empty() {
            return Err(at_crl("holds no revocation list in PEM form".to_owned()));
        }
        builder = builder.with_crls(lists).only_check_end_entity_revocation();
    }
    if settings.client_cert == ClientCertificate::Optional {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder.build().map_err(|error| at_ca(error.to_string()))?;
    Ok(Some(verifier))
}

/// The certificates of a PEM file; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| pem_problem(&error, "certificate"))?;
    if chain.is_empty() { Err("holds no certificate in PEM form".to_owned()) } else { Ok(chain) }
}

/// What to say of a PEM file that should hold `what`.
pub(crate) fn pem_problem(error: &rustls::pki_types::pem::Error, what: &str) -> String {
    use rustls::pki_types::pem::Error;
    match error {
        Error::Io(error) => format!("cannot be read: {error}"),
        Error::NoItemsFound => format!("holds no {what} in PEM form"),
        error => format!("is not valid PEM: {error}"),
    }
}

fn describe(path: &Path, leaf: &CertificateDer<'_>) -> Result<CertificateInfo, String> {
    let (_, certificate) =
        X509Certificate::from_der(leaf).map_err(|error| format!("is no X.509 certificate: {error}"))?;
    let names = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_lowercase()),
            _ => None,
        }),
        _ => {
            return Ok(CertificateInfo {
                path: path.to_owned(),
                names: Vec::new(),
                not_after: end(&certificate),
            });
        }
    };
    Ok(CertificateInfo { path: path.to_owned(), names: names.collect(), not_after: end(&certificate) })
}

fn end(certificate: &X509Certificate<'_>) -> i64 {
    certificate.validity().not_after.timestamp()
}

/// When a certificate ends, in seconds since 1970; `None` if it is none.
pub(crate) fn end_of(pem: &str) -> Option<i64> {
    let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    X509Certificate::from_der(&leaf).ok().map(|(_, certificate)| end(&certificate))
}

/// The user whom a verified client certificate names; `None` if it names none in this way, or more than one.
pub(crate) fn user_of(certificate: &CertificateDer<'_>, from: UserFrom) -> Option<Arc<str>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    if from == UserFrom::Cn {
        let mut names = certificate.subject().iter_common_name();
        // With two of them, another reader of the same certificate might take the other one.
        return match (names.next(), names.next()) {
            (Some(name), None) => user(name.as_str().ok()?),
            _ => None,
        };
    }
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let name = names.iter().find_map(|name| match (name, from) {
        (GeneralName::DNSName(name), UserFrom::SanDns)
        | (GeneralName::URI(name), UserFrom::SanUri)
        | (GeneralName::RFC822Name(name), UserFrom::SanEmail) => Some(*name),
        _ => None,
    })?;
    user(name)
}

fn user(name: &str) -> Option<Arc<str>> {
    // What MQTT forbids in a user name, and what would break a line of a log or of a rule.
    let is_fit = !name.is_empty() && name.len() <= USER_BYTES_MAX && !name.chars().any(char::is_control);
    is_fit.then(|| name.into())
}

/// Chooses the certificate by the name that the client asks for.
#[derive(Debug)]
struct ByName {
    default: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_lowercase();
        // A wildcard stands for one label (RFC 9525 §6.3).
        self.by_name.get(&name).or_else(|| self.by_name.get(&format!("*.{}", name.split_once('.')?.1)))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = hello.server_name().and_then(|name| self.find(name));
        Some(Arc::clone(chosen.unwrap_or(&self.default)))
    }
}
