//! Authorities and certificates that live as long as one test.
//!
//! In: names. Out: PEM files in a directory of their own, and TLS as a client speaks it with them.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned, SupportedProtocolVersion,
};
use tempfile::TempDir;

use crate::wait::PATIENCE;

/// An authority with its directory.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    home: TempDir,
}

/// A certificate chain and its key, as files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The chain, PEM.
    pub cert: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
    /// Number of the certificate, for a revocation list.
    pub serial: u64,
}

impl Authority {
    /// A new one that nobody knows.
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "Test Authority");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let home = tempfile::tempdir().expect("a directory for certificates");
        fs::write(home.path().join("ca.pem"), issuer.pem()).expect("a file");
        Authority { issuer, home }
    }

    /// Its own certificate, PEM.
    pub fn file(&self) -> PathBuf {
        self.home.path().join("ca.pem")
    }

    /// Its directory.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A server's certificate for these names (and 127.0.0.1), in files that begin with `label`; it ends in `days`.
    pub fn server(&self, label: &str, names: &[&str], days: i64) -> Identity {
        let mut params = CertificateParams::default();
        for name in names {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into().expect("a DNS name")));
        }
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let now = rcgen::date_time_ymd(2020, 1, 1);
        params.not_before = now;
        params.not_after = days_from_now(days);
        self.issue(label, params, 1)
    }

    /// A client's certificate with this common name, and with names of every other kind made of it:
    /// `NAME.plant.example`, `urn:plant:NAME`, `NAME@plant.example`.
    pub fn client(&self, common_name: &str, serial: u64) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let email = format!("{common_name}@plant.example");
        params.subject_alt_names.push(SanType::Rfc822Name(email.as_str().try_into().expect("an address")));
        let (host, uri) = (format!("{common_name}.plant.example"), format!("urn:plant:{common_name}"));
        params.subject_alt_names.push(SanType::DnsName(host.as_str().try_into().expect("a DNS name")));
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().expect("a URI")));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(common_name, params, serial)
    }

    fn issue(&self, label: &str, mut params: CertificateParams, serial: u64) -> Identity {
        params.serial_number = Some(SerialNumber::from(serial));
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let path = |kind: &str| self.home.path().join(format!("{label}.{kind}.pem"));
        let identity = Identity { cert: path("cert"), key: path("key"), serial };
        fs::write(&identity.cert, certificate.pem()).expect("a file");
        fs::write(&identity.key, key.serialize_pem()).expect("a file");
        identity
    }

    /// A revocation list with these numbers.
    pub fn revoke(&self, serials: &[u64]) -> PathBuf {
        let now = days_from_now(-1);
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: days_from_now(30),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("a revocation list");
        let path = self.home.path().join("crl.pem");
        fs::write(&path, list.pem().expect("PEM")).expect("a file");
        path
    }

    /// TLS for a client that trusts this authority, as `identity` if there is one.
    pub fn trust(&self, identity: Option<&Identity>) -> Trust {
        Trust {
            ca: self.file(),
            identity: identity.cloned(),
            versions: rustls::ALL_VERSIONS,
            name: "127.0.0.1".into(),
        }
    }
}

impl Identity {
    /// As a server shows it, which asks nobody for a certificate.
    #[track_caller]
    pub fn serve(&self) -> ServerConfig {
        let chain =
            CertificateDer::pem_file_iter(&self.cert).expect("a file").map(|it| it.expect("PEM")).collect();
        let key = PrivateKeyDer::from_pem_file(&self.key).expect("a key");
        ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).expect("a pair")
    }
}

impl Default for Authority {
    fn default() -> Self {
        Authority::new()
    }
}

/// How a client speaks TLS.
#[derive(Clone, Debug)]
pub struct Trust {
    ca: PathBuf,
    identity: Option<Identity>,
    versions: &'static [&'static SupportedProtocolVersion],
    name: String,
}

static TLS_1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
static TLS_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// TLS over TCP, for [`crate::Connection`].
pub type Secured = StreamOwned<ClientConnection, TcpStream>;

impl Trust {
    /// With this certificate to show: files of chain and key, PEM.
    #[must_use]
    pub fn showing(self, cert: PathBuf, key: PathBuf) -> Trust {
        Trust { identity: Some(Identity { cert, key, serial: 0 }), ..self }
    }

    /// Trusts the authorities of this file, PEM.
    pub fn of(ca: &Path) -> Trust {
        Trust { ca: ca.to_owned(), identity: None, versions: rustls::ALL_VERSIONS, name: "127.0.0.1".into() }
    }

    /// Only TLS 1.2.
    #[must_use]
    pub fn tls_1_2(self) -> Trust {
        Trust { versions: TLS_1_2, ..self }
    }

    /// Only TLS 1.3.
    #[must_use]
    pub fn tls_1_3(self) -> Trust {
        Trust { versions: TLS_1_3, ..self }
    }

    /// Asks for this host instead of 127.0.0.1.
    #[must_use]
    pub fn name(mut self, name: &str) -> Trust {
        self.name = name.to_owned();
        self
    }

    /// Connects and shakes hands.
    pub fn connect(&self, address: SocketAddr) -> io::Result<Secured> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        self.over(stream)
    }

    /// Shakes hands over a socket that is there.
    pub fn over(&self, stream: TcpStream) -> io::Result<Secured> {
        let name = ServerName::try_from(self.name.clone()).expect("a host name");
        let session = ClientConnection::new(Arc::new(self.config()), name).map_err(io::Error::other)?;
        let mut secured = StreamOwned::new(session, stream);
        while secured.conn.is_handshaking() {
            secured.conn.complete_io(&mut secured.sock)?;
        }
        Ok(secured)
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&self.ca).expect("an authority") {
            roots.add(certificate.expect("a certificate")).expect("an authority");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .expect("versions")
            .with_root_certificates(roots);
        match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = CertificateDer::pem_file_iter(&identity.cert).expect("a certificate");
                let chain = chain.collect::<Result<_, _>>().expect("a certificate");
                let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a key that fits")
            }
        }
    }
}

fn days_from_now(days: i64) -> time::OffsetDateTime {
    // Half a day more, so that whole days do not depend on the second.
    time::OffsetDateTime::now_utc() + time::Duration::days(days) + time::Duration::hours(12)
}
