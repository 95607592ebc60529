//! Secrets at rest: keys of clients, and whatever else of the dialect lies on the disk and is nobody's business.
//!
//! In: bytes and the name they are kept under. Out: sealed bytes (AES-256-GCM), and back; each sealed value belongs to its
//! name and opens under no other. The key of all of them lies sealed by the Workload API in `vault.key`, or, where there
//! is none, in a file of its own that its owner alone reads: so a start asks the runtime once, and no read or write does
//! (decision 0023). Never: a key in a log, in `Debug`, or in a file that others read.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding as _};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

use super::workload::{Workload, WorkloadError};
use crate::files;

const KEY_BYTES: usize = 32;
/// Of the runtime's own encryption.
const VECTOR_BYTES: usize = 16;
/// The first byte of everything sealed: how it was done.
const FORMAT: u8 = 1;
const FILE: &str = "vault.key";

/// Who keeps the key of the vault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keeper<'a> {
    /// The runtime: only it can open the key.
    Runtime(&'a Workload),
    /// The file itself.
    File,
}

/// Seals and opens.
pub(crate) struct Vault {
    key: LessSafeKey,
}

/// Why there is no vault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    /// The file.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// What is in it.
    #[error(
        "{path}: {problem}; if it belongs to another installation, move it away: what was sealed with it is then fetched anew",
        path = path.display()
    )]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] WorkloadError),
    /// The system.
    #[error("no randomness: {0}")]
    Random(String),
}

/// What cannot be opened: it was sealed under another name or key, or has changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was not sealed here under this name, or it has changed since")]
pub(crate) struct NotOurs;

/// The file of the key.
#[derive(Serialize, Deserialize)]
struct KeyFile {
    /// `runtime` or `file`.
    keeper: String,
    /// The key, sealed by the runtime or not; base64.
    key: String,
    /// For the runtime; base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    vector: String,
}

impl Vault {
    /// The vault whose key lies in `folder`; a new key if there is none yet.
    pub(crate) async fn open(folder: &Path, keeper: Keeper<'_>) -> Result<Vault, VaultError> {
        let path = folder.join(FILE);
        let key = match fs::read(&path) {
            Ok(text) => unlock(&path, &text, keeper).await?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path, keeper).await?,
            Err(error) => return Err(VaultError::File { path, error }),
        };
        Ok(Vault::with_key(&key))
    }

    fn with_key(key: &[u8; KEY_BYTES]) -> Vault {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("the key has the length of the algorithm");
        Vault { key: LessSafeKey::new(key) }
    }

    /// Seals `plain` under `name`. Costs one pass, no call of anybody.
    pub(crate) fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        // 96 random bits for each value: fine for the 2³² values that one key may seal, and a gateway writes a few a second.
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        let mut text = plain.to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(name.as_bytes()),
                &mut text,
            )
            .map_err(|_| VaultError::Random("the value is too long to be sealed".to_owned()))?;
        sealed.append(&mut text);
        Ok(sealed)
    }

    /// What was sealed under `name`.
    pub(crate) fn open_sealed(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, NotOurs> {
        let (format, rest) = sealed.split_first().ok_or(NotOurs)?;
        if *format != FORMAT {
            return Err(NotOurs);
        }
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(NotOurs)?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len =
            self.key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut text).map_err(|_| NotOurs)?.len();
        text.truncate(len);
        Ok(text)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(…)")
    }
}

async fn make(path: &Path, keeper: Keeper<'_>) -> Result<[u8; KEY_BYTES], VaultError> {
    let key: [u8; KEY_BYTES] = random()?;
    let file = match keeper {
        Keeper::File => {
            KeyFile { keeper: "file".to_owned(), key: Base64::encode_string(&key), vector: String::new() }
        }
        Keeper::Runtime(workload) => {
            let vector: [u8; VECTOR_BYTES] = random()?;
            let sealed = workload.encrypt(&key, &vector).await?;
            KeyFile {
                keeper: "runtime".to_owned(),
                key: Base64::encode_string(&sealed),
                vector: Base64::encode_string(&vector),
            }
        }
    };
    let text = serde_json::to_string_pretty(&file)
        .map_err(|error| VaultError::File { path: path.to_owned(), error: io::Error::other(error) })?;
    files::replace(path, text.as_bytes())
        .map_err(|error| VaultError::File { path: path.to_owned(), error })?;
    Ok(key)
}

async fn unlock(path: &Path, text: &[u8], keeper: Keeper<'_>) -> Result<[u8; KEY_BYTES], VaultError> {
    let wrong = |problem: &str| VaultError::Content { path: path.to_owned(), problem: problem.to_owned() };
    let file: KeyFile = serde_json::from_slice(text).map_err(|_| wrong("it is no key of a vault"))?;
    let decode = |text: &str| Base64::decode_vec(text).map_err(|_| wrong("it holds no base64"));
    let key = match (keeper, file.keeper.as_str()) {
        (Keeper::File, "file") => decode(&file.key)?,
        (Keeper::Runtime(workload), "runtime") => {
            workload.decrypt(&decode(&file.key)?, &decode(&file.vector)?).await?
        }
        (Keeper::File, _) => {
            return Err(wrong("its key is sealed by an IoT Edge runtime, and there is none"));
        }
        (Keeper::Runtime(_), _) => {
            return Err(wrong("its key is not sealed, and here the IoT Edge runtime seals it"));
        }
    };
    key.try_into().map_err(|_| wrong("its key has the wrong length"))
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], VaultError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| VaultError::Random(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
