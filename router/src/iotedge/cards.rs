//! What clients say of themselves when they connect, for the links that stand for them upstream: the model of a device
//! (Plug and Play) and the library it speaks with (`reference/edgehub.md` §9.2).
//!
//! In: user names of clients that were let in. Out: the same by identity, after any restart: messages of a client are sent
//! long after it has gone. Kept sealed in one file, which is written anew as a whole where something has changed.
//! Bound: `identities_max`, as for identities; [`TEXT_BYTES_MAX`] for each text.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hub::HubId;
use hub::connect::UserName;
use serde::{Deserialize, Serialize};

use super::vault::Vault;
use crate::files;
use crate::upstream::About;

/// The name under which cards are sealed, and of their file.
const SEALED: &str = "cards.sealed";
/// Longest model or library that is passed on; IoT Hub takes models of 128 characters.
const TEXT_BYTES_MAX: usize = 512;

/// What one client says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Card {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_type: Option<String>,
}

/// The cards of all clients.
#[derive(Debug)]
pub(crate) struct Cards {
    path: PathBuf,
    vault: Arc<Vault>,
    cards_max: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_id: BTreeMap<String, Card>,
    /// They are not on the disk as they are.
    has_changed: bool,
}

impl Cards {
    /// Those of earlier runs. What cannot be read is said, and comes again with the clients.
    pub(super) fn open(folder: &std::path::Path, vault: Arc<Vault>, cards_max: usize) -> Cards {
        let path = folder.join(SEALED);
        let by_id = match std::fs::read(&path) {
            Ok(sealed) => {
                let text = vault.open_sealed(SEALED, &sealed).map_err(|error| error.to_string());
                let cards =
                    text.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
                cards.unwrap_or_else(|problem| {
                    tracing::error!(path = %path.display(), problem, "what clients have said of themselves is of no use");
                    BTreeMap::default()
                })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::default(),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "what clients have said of themselves cannot be read");
                BTreeMap::default()
            }
        };
        Cards { path, vault, cards_max, known: Mutex::new(Known { by_id, has_changed: false }) }
    }

    /// A client was let in that says this.
    pub(super) fn note(&self, name: &UserName) {
        let text = |text: &Option<String>| {
            text.clone().filter(|text| !text.is_empty() && text.len() <= TEXT_BYTES_MAX)
        };
        let card = Card { model_id: text(&name.model_id), client_type: text(&name.client_type) };
        let mut known = lock(&self.known);
        if known.by_id.get(name.id.as_str()).unwrap_or(&Card::default()) == &card {
            return;
        }
        if !known.by_id.contains_key(name.id.as_str()) && known.by_id.len() >= self.cards_max {
            // Names of identities that are no more, most likely; who is here says it again.
            known.by_id.pop_first();
        }
        known.by_id.insert(name.id.to_string(), card);
        known.has_changed = true;
    }

    /// What a client has said last.
    pub(crate) fn of(&self, id: &HubId) -> About {
        let known = lock(&self.known);
        let Card { model_id, client_type } = known.by_id.get(id.as_str()).cloned().unwrap_or_default();
        About { model_id, client_type }
    }

    /// Whether there is something to be kept.
    pub(crate) fn have_changed(&self) -> bool {
        lock(&self.known).has_changed
    }

    /// Writes them down, for the next start. What fails is said, and tried again with the next change.
    pub(crate) fn keep(&self) {
        let text = {
            let mut known = lock(&self.known);
            known.has_changed = false;
            serde_json::to_vec(&known.by_id)
        };
        let sealed = text
            .map_err(|error| error.to_string())
            .and_then(|text| self.vault.seal(SEALED, &text).map_err(|error| error.to_string()));
        let kept =
            sealed.and_then(|sealed| files::replace(&self.path, &sealed).map_err(|error| error.to_string()));
        if let Err(problem) = kept {
            tracing::error!(path = %self.path.display(), problem, "what clients say of themselves cannot be kept");
        }
    }
}

fn lock(mutex: &Mutex<Known>) -> MutexGuard<'_, Known> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::vault::Keeper;
    use super::*;

    fn name(id: &str, model: &str, library: &str) -> UserName {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        UserName {
            id: HubId::parse(id).expect("an id"),
            api_version: String::new(),
            client_type: text(library),
            model_id: text(model),
            auth_chain: None,
        }
    }

    #[tokio::test]
    async fn what_a_client_says_of_itself_is_known_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let vault = Arc::new(Vault::open(folder.path(), Keeper::File).await.expect("a vault"));
        let open = || Cards::open(folder.path(), Arc::clone(&vault), 2);
        let cards = open();
        cards.note(&name("d1", "", ""));
        assert!(!cards.have_changed(), "it says nothing");
        cards.note(&name("d1", "dtmi:x;1", "py/2.1"));
        assert!(cards.have_changed());
        cards.keep();
        assert!(!cards.have_changed());
        cards.note(&name("d1", "dtmi:x;1", "py/2.1"));
        assert!(!cards.have_changed(), "nothing new");
        let sealed = std::fs::read(folder.path().join(SEALED)).expect("a file");
        assert!(!sealed.windows(4).any(|window| window == b"dtmi"));
        let cards = open();
        let of = |cards: &Cards, id: &str| {
            let About { model_id, client_type } = cards.of(&HubId::parse(id).expect("an id"));
            (model_id, client_type)
        };
        assert_eq!(of(&cards, "d1"), (Some("dtmi:x;1".to_owned()), Some("py/2.1".to_owned())));
        // The next time it says something else, or too much.
        cards.note(&name("d1", &"m".repeat(TEXT_BYTES_MAX + 1), "c/3"));
        assert_eq!(of(&cards, "d1"), (None, Some("c/3".to_owned())));
        for id in ["d2", "d3"] {
            cards.note(&name(id, "", "c/3"));
        }
        assert_eq!(of(&cards, "d1"), (None, None), "no more than so many");
        assert_eq!(of(&cards, "d3"), (None, Some("c/3".to_owned())));
    }
}
