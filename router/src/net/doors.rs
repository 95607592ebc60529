//! All listeners of the process: opened together, their certificates read anew together.
//!
//! In: a configuration. Out: doors, or one sentence that says why not. A reload takes all new certificates or none.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tracing::{info, warn};

use super::certificates::{self, CertificateError, EdgeCertificate, TlsServer};
use super::door::Door;
use super::listener::{Bound, ListenError, bind};
use crate::config::{Config, Listener};
use crate::packing::{self, Unpacking};

/// How often the ends of certificates are looked at.
const LOOK: Duration = Duration::from_hours(24);

/// Why the listeners do not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An address cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Certificates read anew, and the doors they are for.
pub(crate) struct NewCertificates(Vec<(Arc<Door>, TlsServer)>);

/// Opens every listener, in the order of the configuration. Nobody is let in yet.
pub(crate) fn open(
    config: &Config,
    edge: Option<&EdgeCertificate>,
) -> Result<Vec<(Bound, Arc<Door>)>, OpenError> {
    let all_open = Arc::new(AtomicU32::new(0));
    let mut doors = Vec::new();
    for (number, listener) in config.listeners.iter().enumerate() {
        let tls = load(listener, edge)?;
        let bound = bind(listener)?;
        let address = bound.address.to_string();
        let unpacking = unpacking(listener, config.limits.packet_bytes_max)?;
        let door = Door::new(number as u16, listener.clone(), address, tls, unpacking, Arc::clone(&all_open));
        doors.push((bound, Arc::new(door)));
    }
    Ok(doors)
}

/// Reads what a new configuration says about the TLS of listeners that run; listeners it does not know keep theirs.
pub(crate) fn read_anew(
    doors: &[Arc<Door>],
    config: &Config,
    edge: Option<&EdgeCertificate>,
) -> Result<NewCertificates, CertificateError> {
    let mut new = Vec::new();
    for door in doors {
        let same = |listener: &&Listener| listener.name == door.listener.name && listener.kind == door.kind();
        if let Some(listener) = config.listeners.iter().find(same)
            && let Some(tls) = load(listener, edge)?
        {
            new.push((Arc::clone(door), tls));
        }
    }
    Ok(NewCertificates(new))
}

impl NewCertificates {
    /// From now on clients that connect see these.
    pub(crate) fn take_effect(self) {
        let count = self.0.len();
        for (door, tls) in self.0 {
            door.replace_tls(tls);
        }
        if count > 0 {
            info!(listeners = count, "certificates read anew");
        }
    }
}

fn unpacking(listener: &Listener, packet_bytes_max: u32) -> Result<Option<Unpacking>, CertificateError> {
    let Some(settings) = &listener.decompression else { return Ok(None) };
    let dictionary = match &settings.dictionary {
        None => Vec::new(),
        Some(path) => packing::read_dictionary(path).map_err(|problem| {
            let section = format!("listener.{}", listener.name);
            CertificateError::new(&section, "zstd_dictionary", path, problem)
        })?,
    };
    let most = listener.packet_bytes_max.unwrap_or(packet_bytes_max);
    Ok(Some(Unpacking::new(&dictionary, most)))
}

fn load(listener: &Listener, edge: Option<&EdgeCertificate>) -> Result<Option<TlsServer>, CertificateError> {
    let Some(settings) = &listener.tls else { return Ok(None) };
    let server = certificates::load(&listener.name, listener.kind, settings, edge)?;
    for warning in server.certificates.iter().filter_map(|certificate| certificate.warning()) {
        warn!(listener = listener.name, "{warning}");
    }
    Ok(Some(server))
}

/// Looks at the ends of all certificates once a day, for ever.
pub(crate) async fn watch_certificates(doors: Vec<Arc<Door>>) {
    loop {
        tokio::time::sleep(LOOK).await;
        for (door, tls) in doors.iter().filter_map(|door| Some((door, door.tls()?))) {
            for warning in tls.certificates.iter().filter_map(|certificate| certificate.warning()) {
                warn!(listener = door.listener.name, "{warning}");
            }
        }
    }
}
