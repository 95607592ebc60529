//! The brake: who failed too often must wait before anything of it is verified again.
//!
//! In: failures and successes by address and user, with their times. Out: whether an attempt may be made.
//! Three things are counted: a user from an address, a user from anywhere, an address with any user. The last two have
//! more patience, because many honest clients can stand behind one address, and one user can have many.
//! Bound: `limits.failed_attempts_max`; what failed longest ago is forgotten first.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use model::Instant;

/// After so long without a failure all is forgotten.
const FORGET_MILLIS: u64 = 600_000;
/// The first wait; each further failure doubles it.
const WAIT_MILLIS_MIN: u64 = 1_000;
const WAIT_MILLIS_MAX: u64 = 60_000;
/// How many times more failures a user from anywhere and an address with any user may have.
const USER_PATIENCE: u32 = 10;
const ADDRESS_PATIENCE: u32 = 20;

/// What counts as one address: IPv4 as itself, through whatever socket it comes; of a public IPv6 address the network (/64),
/// because whoever has one of these has all of them. In a plant's own network each device has one.
fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(public) if public.segments()[0] & 0xE000 == 0x2000 => {
            IpAddr::V6((u128::from(public) & !u128::from(u64::MAX)).into())
        }
        address => address,
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    failures: u32,
    last: Instant,
    until: Instant,
}

/// Failed attempts, remembered.
#[derive(Debug)]
pub(crate) struct Brake {
    /// By a keyed hash: names that attackers choose are not kept.
    entries: HashMap<u64, Entry>,
    hasher: RandomState,
    entries_max: usize,
    /// Failures without consequence.
    free: u32,
}

impl Brake {
    pub(crate) fn new(entries_max: usize, free: u32) -> Brake {
        Brake { entries: HashMap::new(), hasher: RandomState::new(), entries_max, free }
    }

    fn keys(&self, address: Option<IpAddr>, user: &str) -> [(u64, u32); 3] {
        let address = address.map(place);
        let pair = self.hasher.hash_one((0, address, user));
        let user = self.hasher.hash_one((1, user));
        let address = self.hasher.hash_one((2, address));
        [
            (pair, self.free),
            (user, self.free.saturating_mul(USER_PATIENCE)),
            (address, self.free.saturating_mul(ADDRESS_PATIENCE)),
        ]
    }

    /// Whether an attempt may be made now.
    pub(crate) fn may_try(&self, address: Option<IpAddr>, user: &str, now: Instant) -> bool {
        let waits = |(key, _): &(u64, u32)| self.entries.get(key).is_some_and(|entry| entry.until > now);
        !self.keys(address, user).iter().any(waits)
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, address: Option<IpAddr>, user: &str, now: Instant) {
        for (key, free) in self.keys(address, user) {
            if !self.entries.contains_key(&key) && self.entries.len() >= self.entries_max {
                self.make_room(now);
            }
            let entry = self.entries.entry(key).or_insert(Entry { failures: 0, last: now, until: now });
            if now.millis_since(entry.last) > FORGET_MILLIS {
                entry.failures = 0;
            }
            entry.failures = entry.failures.saturating_add(1);
            entry.last = now;
            if let Some(over @ 1..) = entry.failures.checked_sub(free) {
                let wait = (WAIT_MILLIS_MIN << (over - 1).min(16)).min(WAIT_MILLIS_MAX);
                entry.until = now.plus_millis(wait);
            }
        }
    }

    /// An attempt was good: this user may make mistakes at this address again.
    pub(crate) fn succeeded(&mut self, address: Option<IpAddr>, user: &str) {
        let [(pair, _), ..] = self.keys(address, user);
        self.entries.remove(&pair);
    }

    fn make_room(&mut self, now: Instant) {
        self.entries.retain(|_, entry| now.millis_since(entry.last) <= FORGET_MILLIS);
        while self.entries.len() >= self.entries_max {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last).map(|(key, _)| *key);
            let Some(oldest) = oldest else { return };
            self.entries.remove(&oldest);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
