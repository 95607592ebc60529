//! Credentials that were found good a moment ago, so that a reconnect storm does not pay for each of them again.
//!
//! In: credentials that were verified. Out: whether these were. Kept is a keyed hash (BLAKE2s, key drawn at the start),
//! never a password. Bound: `limits.authentication_cache_max`, and a short life.

use std::collections::HashMap;

use blake2::Blake2sMac256;
use blake2::digest::{KeyInit, Mac};
use model::Instant;

#[derive(Debug)]
pub(crate) struct Recent {
    entries: HashMap<[u8; 32], (u64, Instant)>,
    key: [u8; 32],
    entries_max: usize,
    life_millis: u64,
}

impl Recent {
    /// An empty memory; `key` must be random.
    pub(crate) fn new(key: [u8; 32], entries_max: usize, life_millis: u64) -> Recent {
        Recent { entries: HashMap::new(), key, entries_max, life_millis }
    }

    /// The print under which these credentials were good.
    pub(crate) fn find(&self, user: &str, password: &[u8], now: Instant) -> Option<u64> {
        if self.entries.is_empty() {
            return None;
        }
        let (print, until) = self.entries.get(&self.digest(user, password)?)?;
        (*until > now).then_some(*print)
    }

    /// These credentials are good, as of `print`.
    pub(crate) fn add(&mut self, user: &str, password: &[u8], print: u64, now: Instant) {
        if self.entries_max == 0 || self.life_millis == 0 {
            return;
        }
        let Some(digest) = self.digest(user, password) else { return };
        if self.entries.len() >= self.entries_max {
            self.entries.retain(|_, (_, until)| *until > now);
        }
        if self.entries.len() >= self.entries_max
            && let Some(any) = self.entries.keys().next().copied()
        {
            self.entries.remove(&any);
        }
        self.entries.insert(digest, (print, now.plus_millis(self.life_millis)));
    }

    fn digest(&self, user: &str, password: &[u8]) -> Option<[u8; 32]> {
        let mut mac = Blake2sMac256::new_from_slice(&self.key).ok()?;
        mac.update(&(user.len() as u64).to_le_bytes());
        mac.update(user.as_bytes());
        mac.update(password);
        Some(mac.finalize().into_bytes().into())
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
