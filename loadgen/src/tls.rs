//! What a TLS client needs: whom to trust, and who it is.
//!
//! In:  the `[tls]` table of a scenario. Out: a connector, or which file is wrong and why.
//! Never: a connection without verification; a broker with a certificate of its own is trusted by naming it as `ca`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// Files and names for TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsPlan {
    /// Certificates to trust (PEM).
    pub ca: Option<PathBuf>,
    /// Our certificate chain (PEM), with `key`.
    pub cert: Option<PathBuf>,
    /// Its private key (PEM).
    pub key: Option<PathBuf>,
    /// The name to expect in the broker's certificate, if it is not the host of the URL.
    pub server_name: Option<String>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Nobody to trust.
    #[error("TLS needs tls.ca: a PEM file with the certificates to trust (`--set tls.ca=FILE`)")]
    NoCa,
    /// A file that cannot be used.
    #[error("{key}: {file} cannot be used: {why}")]
    File {
        /// Its key in the scenario.
        key: &'static str,
        /// Which one.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl TlsPlan {
    /// Reads the files.
    pub fn connector(&self) -> Result<TlsConnector, TlsError> {
        let ca = self.ca.as_ref().ok_or(TlsError::NoCa)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates("tls.ca", ca)? {
            roots.add(certificate).map_err(|error| failed("tls.ca", ca, error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed("tls.ca", ca, error))?
            .with_root_certificates(roots);
        let config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let secret =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| failed("tls.key", key, error))?;
                builder
                    .with_client_auth_cert(certificates("tls.cert", cert)?, secret)
                    .map_err(|error| failed("tls.cert", cert, error))?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| failed(key, file, error))?;
    if found.is_empty() { Err(failed(key, file, "no certificate is in it")) } else { Ok(found) }
}

fn failed(key: &'static str, file: &Path, why: impl std::fmt::Display) -> TlsError {
    TlsError::File { key, file: file.to_owned(), why: why.to_string() }
}
