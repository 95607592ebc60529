//! Twins on the disk: a sealed file for each identity, in `store.path`/edge/twins; and one for the gateway's own desired
//! properties that are in effect, which may be older than its twin; and one with the names of those whose reports wait for IoT
//! Hub.
//!
//! In: twins. Out: the same, after any restart. A file is replaced as a whole; what cannot be opened counts as not there, and
//! is said: IoT Hub has the twin, and a client reports again. Bound: two documents, and twice what may be pending, for each identity.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hub::twin::Twin;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::files;
use crate::iotedge::Vault;

const FOLDER: &str = "twins";
/// What the index goes by; no identity is called so.
const INDEX: &str = "//index";

/// Where twins lie.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    folder: PathBuf,
    vault: Arc<Vault>,
}

impl Shelf {
    /// The shelf in a gateway's folder.
    pub(crate) fn open(folder: &Path, vault: Arc<Vault>) -> io::Result<Shelf> {
        let folder = folder.join(FOLDER);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Shelf { folder, vault })
    }

    /// The twin of an identity, if it is there and whole.
    pub(super) fn load(&self, id: &str) -> Option<Twin> {
        self.read(id, "a twin")
    }

    /// Keeps the twin of an identity; it is on the disk afterwards.
    pub(super) fn keep(&self, id: &str, twin: &Twin) -> Result<(), String> {
        self.write(id, twin)
    }

    fn read<T: DeserializeOwned>(&self, id: &str, what: &str) -> Option<T> {
        let path = self.path(id);
        let sealed = match fs::read(&path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(identity = id, path = %path.display(), %error, "{what} cannot be read");
                return None;
            }
        };
        let read = self.vault.open_sealed(&name(id), &sealed).map_err(|error| error.to_string());
        let read = read.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
        read.inspect_err(|problem| {
            tracing::error!(identity = id, path = %path.display(), problem, "{what} is of no use; it begins anew");
        })
        .ok()
    }

    fn write(&self, id: &str, what: &impl Serialize) -> Result<(), String> {
        let text = serde_json::to_vec(what).map_err(|error| error.to_string())?;
        let sealed = self.vault.seal(&name(id), &text).map_err(|error| error.to_string())?;
        let path = self.path(id);
        files::replace(&path, &sealed).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Whose twins have reports that IoT Hub may not have; empty if that is not known.
    pub(super) fn index(&self) -> BTreeSet<Box<str>> {
        self.read(INDEX, "the index of reports that wait for IoT Hub").unwrap_or_default()
    }

    /// Keeps that; it is on the disk afterwards.
    pub(super) fn keep_index(&self, ids: &BTreeSet<Box<str>>) -> Result<(), String> {
        self.write(INDEX, ids)
    }

    /// Ids are longer than file names may be, and have characters that those have not.
    fn path(&self, id: &str) -> PathBuf {
        let digest = Sha256::digest(id.as_bytes());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(format!("{hex}.sealed"))
    }
}

/// What a twin is sealed under: nobody's twin opens as another's.
fn name(id: &str) -> String {
    format!("twin/{id}")
}
