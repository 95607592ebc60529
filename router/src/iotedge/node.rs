//! This gateway as a part of Azure IoT Edge: everything of this room, started in order.
//!
//! In: a configuration. Out: a gatekeeper for the shards, a certificate for the listeners and its successors, a vault; or one
//! sentence that says why not. Order: folder, runtime, certificate, trust, vault, identities. A start asks the runtime, which
//! is on this machine, and never waits for IoT Hub. Always: a certificate that cannot be renewed leaves the old one.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::cards::Cards;
use super::directory::{Directory, Source};
use super::gatekeeper::{Gatekeeper, GatekeeperSetup, Waiting};
use super::now_secs;
use super::scope::{Scope, trusting};
use super::signer::{ForUplink, Signer, Tokens};
use super::vault::{Keeper, Vault};
use super::visitors::Visitors;
use super::workload::{Patience, Workload};
use crate::config::{Config, EDGE_FOLDER, Edge, OwnCertificate, Standing, TRUST_FILE, without_port};
use crate::files;
use crate::mail::Mailbox;
use crate::net::{EdgeCertificate, end_of};

/// For how long a certificate is asked for, as by edgeHub; the runtime decides.
const CERTIFICATE_DAYS: i64 = 90;
/// Pause between two attempts to renew a certificate.
const RENEW_AGAIN: Duration = Duration::from_secs(60);
/// How often the trust bundle is read again at least.
const TRUST_AGAIN: Duration = Duration::from_secs(3_600);

/// Why a gateway does not start as an edge device.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something that is written is wrong.
    #[error("{0}")]
    Config(String),
    /// The runtime, the disk.
    #[error("{0}")]
    Failed(String),
}

/// The gateway.
pub(crate) struct EdgeNode {
    /// Who lets identities in.
    pub gatekeeper: Arc<Gatekeeper>,
    /// Who is known.
    directory: Arc<Directory>,
    config: Edge,
    workload: Option<Workload>,
    signer: Option<Arc<dyn Signer>>,
    visitors: Option<Arc<Visitors>>,
    cards: Arc<Cards>,
    folder: PathBuf,
    vault: Arc<Vault>,
    trust_file: PathBuf,
    certificate: watch::Sender<Option<Arc<EdgeCertificate>>>,
    waiting: Option<Waiting>,
}

impl EdgeNode {
    /// The gateway of `config`, if it is one.
    pub(crate) async fn start(
        config: &Config,
        mailboxes: &[Arc<Mailbox>],
    ) -> Result<Option<EdgeNode>, StartError> {
        let Some(edge) = &config.edge else { return Ok(None) };
        let failed = |error: &dyn std::error::Error| StartError::Failed(error.to_string());
        let folder = config.store.path.join(EDGE_FOLDER);
        make_folder(&folder).map_err(|error| StartError::Failed(format!("{}: {error}", folder.display())))?;
        say_old_storage(edge.old_storage.as_deref());
        let (workload, signer) = keys(edge);
        let wants_certificate = config
            .listeners
            .iter()
            .any(|listener| listener.tls.as_ref().is_some_and(|tls| tls.certificate == OwnCertificate::Edge));
        let certificate =
            if wants_certificate { Some(certificate(edge, workload.as_ref()).await?) } else { None };
        let bundle = trust_bundle(edge, workload.as_ref()).await?;
        let trust_file = folder.join(TRUST_FILE);
        files::replace(&trust_file, bundle.as_bytes())
            .map_err(|error| StartError::Failed(format!("{}: {error}", trust_file.display())))?;
        let keeper = workload.as_ref().map_or(Keeper::File, Keeper::Runtime);
        let vault = Arc::new(Vault::open(&folder, keeper).await.map_err(|error| failed(&error))?);
        let source = source(config, edge, signer.as_ref(), &bundle);
        let pauses =
            (Duration::from_secs(edge.scope_refresh_min_secs), Duration::from_secs(edge.scope_refresh_secs));
        let directory = Directory::open(
            source,
            edge.device.clone(),
            folder.clone(),
            Arc::clone(&vault),
            config.limits.identities_max as usize,
            pauses,
        )
        .map_err(|error| StartError::Config(error.to_string()))?;
        let directory = Arc::new(directory);
        let hosts = [edge.hub_host.as_deref(), Some(edge.host_name.as_str())];
        let visitors = edge.hub_host.as_deref().filter(|_| edge.asks_cloud && edge.has_cloud()).map(|hub| {
            let host = edge.parent_host.as_deref().unwrap_or(hub);
            let visitors_max = config.limits.identities_max as usize;
            let period = Duration::from_secs(edge.scope_refresh_secs);
            Arc::new(Visitors::new((hub, host), trusting(&bundle), visitors_max, period))
        });
        if let Some(visitors) = &visitors {
            directory.tell_doubts_to(Arc::clone(visitors));
        }
        let cards_max = config.limits.identities_max as usize;
        let cards = Arc::new(Cards::open(&folder, Arc::clone(&vault), cards_max));
        let (gatekeeper, waiting) = Gatekeeper::new(GatekeeperSetup {
            directory: Arc::clone(&directory),
            hosts: hosts.into_iter().flatten().map(without_port).collect(),
            takes_certificates: edge.client_certs,
            forwarder: edge.api_proxy_module.clone(),
            clients_max: edge.clients_max,
            lookup_timeout: Duration::from_millis(edge.lookup_timeout_millis),
            failures_free: config.auth.failures_free,
            limits: &config.limits,
            mailboxes: mailboxes.to_vec(),
            visitors: visitors.clone(),
            cards: Some(Arc::clone(&cards)),
        });
        gatekeeper.trust(authorities(&bundle));
        Ok(Some(EdgeNode {
            gatekeeper,
            directory,
            config: edge.clone(),
            workload,
            signer,
            visitors,
            cards,
            folder,
            vault,
            trust_file,
            certificate: watch::Sender::new(certificate.map(Arc::new)),
            waiting: Some(waiting),
        }))
    }

    /// Whoever signs for this gateway, for an uplink; `None` without an IoT Hub.
    pub(crate) fn signer(&self) -> Option<Arc<dyn crate::upstream::Signer>> {
        let signer = self.signer.as_ref().map(Arc::clone)?;
        let (visitors, directory, cards) = (self.visitors.clone(), self.directory(), self.cards());
        Some(Arc::new(ForUplink { signer, visitors, directory, cards }))
    }

    /// What clients say of themselves.
    pub(crate) fn cards(&self) -> Arc<Cards> {
        Arc::clone(&self.cards)
    }

    /// Who is known.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    /// The folder of what this gateway keeps, and the vault that seals it.
    pub(crate) fn vault(&self) -> (&Path, Arc<Vault>) {
        (&self.folder, Arc::clone(&self.vault))
    }

    /// The certificate now, and each that follows.
    pub(crate) fn certificates(&self) -> watch::Receiver<Option<Arc<EdgeCertificate>>> {
        self.certificate.subscribe()
    }

    /// Reads the certificate's files anew, where it comes from files.
    pub(crate) fn reread_certificate(&self) -> Result<(), StartError> {
        let Some((cert, key)) = &self.config.certificate else { return Ok(()) };
        if self.certificate.borrow().is_some() {
            let new = from_files(cert, key)?;
            self.certificate.send_replace(Some(Arc::new(new)));
        }
        Ok(())
    }

    /// Starts what runs on its own; once.
    pub(crate) fn run(&mut self) {
        let Some(waiting) = self.waiting.take() else { return };
        let directory = Arc::clone(&self.directory);
        tokio::spawn(async move { directory.run().await });
        tokio::spawn(Arc::clone(&self.gatekeeper).run_lookups(waiting));
        tokio::spawn(Arc::clone(&self.gatekeeper).run_reviews());
        tokio::spawn(Arc::clone(&self.gatekeeper).run_second_questions());
        tokio::spawn(keep_trust(
            self.config.clone(),
            self.workload.clone(),
            Arc::clone(&self.gatekeeper),
            self.trust_file.clone(),
        ));
        if let (None, Some(workload)) = (&self.config.certificate, &self.workload)
            && self.certificate.borrow().is_some()
        {
            tokio::spawn(keep_certificate(self.config.clone(), workload.clone(), self.certificate.clone()));
        }
    }
}

/// Who has the key of `$edgeHub`.
fn keys(edge: &Edge) -> (Option<Workload>, Option<Arc<dyn Signer>>) {
    match &edge.standing {
        Standing::Runtime { uri, version, generation_id } => {
            let module = edge.module.module_id().unwrap_or_default();
            let workload = Workload::new(uri.clone(), version, module, generation_id, Patience::default());
            (Some(workload.clone()), Some(Arc::new(workload)))
        }
        Standing::Key(key) => (None, Some(Arc::new(key.clone()))),
        Standing::Alone(_) => (None, None),
    }
}

fn source(config: &Config, edge: &Edge, signer: Option<&Arc<dyn Signer>>, bundle: &str) -> Source {
    match (&edge.standing, signer, &edge.hub_host) {
        (Standing::Alone(path), _, _) => Source::Local(path.clone()),
        // `Config` has made sure of signer and hub.
        (_, signer, hub_host) => {
            let hub_host = hub_host.clone().unwrap_or_default();
            let signer = signer.cloned().unwrap_or_else(|| Arc::new(crate::config::Secret(String::new())));
            let tokens = Tokens::new(signer, &without_port(&hub_host), &edge.module);
            let host = edge.parent_host.as_deref().unwrap_or(&hub_host);
            let identities_max = config.limits.identities_max as usize;
            let us = (edge.device.clone(), edge.module.clone());
            Source::Scope(Box::new(Scope::new(
                host,
                us,
                edge.nested,
                tokens,
                trusting(bundle),
                identities_max,
            )))
        }
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Somebody who comes from edgeHub should not wonder where the old messages are.
fn say_old_storage(old: Option<&Path>) {
    let Some(old) = old.map(|old| old.join("edgeHub")).filter(|old| old.exists()) else { return };
    tracing::warn!(
        folder = %old.display(),
        "the storage of an edgeHub is here; it is neither read nor changed, and messages that it has not delivered stay in it"
    );
}

/// The gateway's certificate, where it comes from files.
pub(crate) fn own_certificate(config: &Config) -> Result<Option<EdgeCertificate>, StartError> {
    let files = config.edge.as_ref().and_then(|edge| edge.certificate.as_ref());
    files.map(|(cert, key)| from_files(cert, key)).transpose()
}

async fn certificate(edge: &Edge, workload: Option<&Workload>) -> Result<EdgeCertificate, StartError> {
    match (&edge.certificate, workload) {
        (Some((cert, key)), _) => from_files(cert, key),
        (None, Some(workload)) => {
            from_runtime(edge, workload).await.map_err(|error| StartError::Failed(error.to_string()))
        }
        (None, None) => Err(StartError::Config(
            "a listener has certificate = \"edge\", and there is none: without an IoT Edge runtime, write edge.cert and \
             edge.key"
                .to_owned(),
        )),
    }
}

fn from_files(cert: &Path, key: &Path) -> Result<EdgeCertificate, StartError> {
    let read = |name: &str, path: &Path| {
        fs::read_to_string(path)
            .map_err(|error| StartError::Config(format!("{name} = \"{}\": {error}", path.display())))
    };
    Ok(EdgeCertificate {
        chain: read("edge.cert", cert)?,
        key: read("edge.key", key)?,
        source: cert.to_owned(),
    })
}

async fn from_runtime(
    edge: &Edge,
    workload: &Workload,
) -> Result<EdgeCertificate, super::workload::WorkloadError> {
    let until = OffsetDateTime::now_utc() + time::Duration::days(CERTIFICATE_DAYS);
    let issued = workload.server_certificate(&edge.host_name, until).await?;
    Ok(EdgeCertificate { chain: issued.chain, key: issued.key, source: PathBuf::from("the Workload API") })
}

/// What certificates of clients and of the parent gateway may come from, PEM.
async fn trust_bundle(edge: &Edge, workload: Option<&Workload>) -> Result<String, StartError> {
    let mut bundle = String::new();
    if let Some(path) = &edge.trust_bundle {
        bundle = fs::read_to_string(path).map_err(|error| {
            StartError::Config(format!("edge.trust_bundle = \"{}\": {error}", path.display()))
        })?;
        if authorities(&bundle).is_none() {
            let problem = "holds no certificate of an authority in PEM form";
            return Err(StartError::Config(format!("edge.trust_bundle = \"{}\": {problem}", path.display())));
        }
    }
    if let Some(workload) = workload {
        let of_runtime =
            workload.trust_bundle().await.map_err(|error| StartError::Failed(error.to_string()))?;
        bundle.push('\n');
        bundle.push_str(&of_runtime);
        match workload.manifest_trust_bundle().await {
            Ok(Some(_)) => {
                tracing::info!("the runtime has a manifest trust bundle; manifests are not verified here")
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the manifest trust bundle is not known"),
        }
    }
    Ok(bundle)
}

/// A verifier that believes these authorities; `None` if there are none.
fn authorities(bundle: &str) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(bundle.as_bytes()).flatten());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // It fails without authorities alone.
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()
}

/// Gets a new certificate when a fifth of the old one's time is left.
async fn keep_certificate(
    edge: Edge,
    workload: Workload,
    certificate: watch::Sender<Option<Arc<EdgeCertificate>>>,
) {
    let left = || {
        let end = certificate.borrow().as_ref().and_then(|now| end_of(&now.chain));
        end.map(|end| (end - now_secs() as i64).max(0) as u64)
    };
    loop {
        let pause = left().map_or(RENEW_AGAIN, |left| Duration::from_secs((left / 5 * 4).max(1)));
        tokio::time::sleep(pause).await;
        loop {
            match from_runtime(&edge, &workload).await {
                Ok(new) => {
                    certificate.send_replace(Some(Arc::new(new)));
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "the certificate is not renewed; the old one stays");
                    // What is left may be less than the usual pause.
                    let again = match left().unwrap_or_default() {
                        0 => RENEW_AGAIN,
                        left => Duration::from_secs((left / 5).max(1)).min(RENEW_AGAIN),
                    };
                    tokio::time::sleep(again).await;
                }
            }
        }
    }
}

/// Reads the trust bundle anew from time to time.
async fn keep_trust(
    edge: Edge,
    workload: Option<Workload>,
    gatekeeper: Arc<Gatekeeper>,
    trust_file: PathBuf,
) {
    loop {
        tokio::time::sleep(TRUST_AGAIN).await;
        match trust_bundle(&edge, workload.as_ref()).await {
            Ok(bundle) => {
                gatekeeper.trust(authorities(&bundle));
                if let Err(error) = files::replace(&trust_file, bundle.as_bytes()) {
                    tracing::warn!(file = %trust_file.display(), %error, "the trust bundle is not written");
                }
            }
            Err(error) => tracing::warn!(%error, "the trust bundle stays what it was"),
        }
    }
}
