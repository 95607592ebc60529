//! Who wants a topic: the sessions of this shard, and the other shards that have some.
//!
//! In: subscribe and unsubscribe, by session and by remote shard. Out: for a topic name, every entry that matches.
//! Filters without wildcards stand in one flat map (one hash for the whole topic); the others in a trie by level.
//! Invariant: a node without entries, remotes and children does not exist.

pub(crate) mod shares;
mod trie;

use std::collections::HashMap;

use foldhash::fast::FixedState;
use model::{Qos, ShardId};

use self::shares::{Members, ShareKey, Shares, shared_filter};
use self::trie::Trie;

/// Index of a session within its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub u32);

/// One subscription of one session, as its SUBSCRIBE asked for it (MQTT 5.0 §3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Whose it is.
    pub(crate) session: SessionKey,
    /// Highest QoS to deliver with.
    pub(crate) qos: Qos,
    /// Do not send the session its own publications.
    pub(crate) no_local: bool,
    /// Keep the RETAIN flag as published.
    pub(crate) retain_as_published: bool,
    /// Subscription identifier; 0 for none.
    pub(crate) subscription_id: u32,
    /// Whether the session is a stored one: other shards' promises wait for its disk.
    pub(crate) stored: bool,
}

/// Sets of shards, one bit each. 64 shards are far beyond the gateways Millrace is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shards {
    /// Shards with any subscription.
    pub(crate) any: u64,
    /// Those of them where a stored session wants it: the acknowledgement must wait for their disk.
    pub(crate) kept: u64,
}

/// What stands at one filter.
#[derive(Debug, Default)]
struct Place {
    entries: Vec<Entry>,
    remote: Shards,
    /// Groups that share this filter.
    shares: Vec<ShareKey>,
}

impl Place {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.remote == Shards::default() && self.shares.is_empty()
    }
}

/// What a topic name met, in the caller's reused buffer.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Matching subscriptions; a session may appear once per filter.
    pub(crate) entries: Vec<Entry>,
    /// How many filters they come from; a session can appear twice only if there is more than one.
    places: u32,
    /// Other shards to hand the publication to.
    pub(crate) remote: Shards,
    /// Groups of which one member gets it.
    pub(crate) shares: Vec<ShareKey>,
}

impl Found {
    fn take(&mut self, place: &Place) {
        if !place.entries.is_empty() {
            self.places += 1;
            self.entries.extend_from_slice(&place.entries);
        }
        self.remote.any |= place.remote.any;
        self.remote.kept |= place.remote.kept;
        if !place.shares.is_empty() {
            self.shares.extend_from_slice(&place.shares);
        }
    }
}

/// Every subscription that this shard must know.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    exact: HashMap<Box<str>, Place, FixedState>,
    trie: Trie,
    pub(crate) shares: Shares,
    /// Subscriptions of this shard's sessions.
    len: usize,
}

/// What a shard has at a filter: it is told to the others whenever it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Presence {
    /// Whether there is any subscription.
    pub(crate) any: bool,
    /// Whether one of them belongs to a stored session.
    pub(crate) kept: bool,
    /// Of a shared filter: how many members.
    pub(crate) members: Members,
}

impl Subscriptions {
    /// An empty index; `seed` keeps clients from choosing names that collide in its maps.
    pub(crate) fn new(seed: u64) -> Subscriptions {
        Subscriptions {
            exact: HashMap::with_hasher(FixedState::with_seed(seed)),
            trie: Trie::new(seed),
            shares: Shares::new(seed),
            len: 0,
        }
    }

    /// Adds or replaces the subscription of `entry.session` to `filter`; `live` says whether its client is connected.
    pub(crate) fn insert(&mut self, filter: &str, entry: Entry, live: bool) {
        if let Some(shared) = shared_filter(filter) {
            let (new_member, new_group) = self.shares.insert(filter, entry, live);
            self.len += usize::from(new_member);
            if let Some(key) = new_group {
                self.place_mut(shared).shares.push(key);
            }
            return;
        }
        let entries = &mut self.place_mut(filter).entries;
        match entries.iter_mut().find(|known| known.session == entry.session) {
            Some(known) => *known = entry,
            None => {
                entries.push(entry);
                self.len += 1;
            }
        }
    }

    /// Removes the subscription of `session` to `filter`; whether there was one.
    pub(crate) fn remove(&mut self, filter: &str, session: SessionKey) -> bool {
        if let Some(shared) = shared_filter(filter) {
            let (known, gone) = self.shares.remove(filter, session);
            self.forget_share(shared, gone);
            self.len -= usize::from(known);
            return known;
        }
        let known = self.edit(filter, |place| {
            let before = place.entries.len();
            place.entries.retain(|entry| entry.session != session);
            place.entries.len() < before
        });
        self.len -= usize::from(known);
        known
    }

    /// Subscriptions of this shard's sessions.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The client of a member comes or goes; whether others must be told.
    pub(crate) fn set_live(&mut self, filter: &str, session: SessionKey, live: bool) -> bool {
        self.shares.set_live(filter, session, live)
    }

    fn forget_share(&mut self, shared: &str, gone: Option<ShareKey>) {
        let Some(key) = gone else { return };
        self.edit(shared, |place| {
            place.shares.retain(|have| *have != key);
            true
        });
    }

    /// What this shard has at `filter`.
    pub(crate) fn presence(&self, filter: &str) -> Presence {
        if shared_filter(filter).is_some() {
            let (members, kept) = self.shares.here(filter);
            return Presence { any: members != Members::default(), kept, members };
        }
        let entries = self.entries(filter);
        let kept = entries.iter().any(|entry| entry.stored);
        Presence { any: !entries.is_empty(), kept, members: Members::default() }
    }

    /// The sessions of this shard that subscribe to exactly `filter`.
    fn entries(&self, filter: &str) -> &[Entry] {
        let place = if has_wildcard(filter) { self.trie.get(filter) } else { self.exact.get(filter) };
        place.map_or(&[], |place| &place.entries)
    }

    /// Notes what another shard has at `filter`.
    pub(crate) fn set_remote(&mut self, filter: &str, shard: ShardId, presence: Presence) {
        let Presence { any, kept, members } = presence;
        if let Some(shared) = shared_filter(filter) {
            match self.shares.set_remote(filter, shard, members, kept) {
                Some((key, true)) => self.place_mut(shared).shares.push(key),
                Some((key, false)) => self.forget_share(shared, Some(key)),
                None => {}
            }
            return;
        }
        let bit = 1u64 << shard.0;
        if any {
            let remote = &mut self.place_mut(filter).remote;
            remote.any |= bit;
            remote.kept = if kept { remote.kept | bit } else { remote.kept & !bit };
        } else {
            self.edit(filter, |place| {
                place.remote.any &= !bit;
                place.remote.kept &= !bit;
                true
            });
        }
    }

    /// Finds everything that matches `topic`; `found` is cleared first. The entries of a session stand side by side.
    #[inline]
    pub(crate) fn find(&self, topic: &str, found: &mut Found) {
        found.entries.clear();
        found.places = 0;
        found.remote = Shards::default();
        found.shares.clear();
        if let Some(place) = self.exact.get(topic) {
            found.take(place);
        }
        if !self.trie.is_empty() {
            self.trie.find(topic, found);
        }
        if found.places > 1 {
            found.entries.sort_unstable_by_key(|entry| entry.session);
        }
    }

    fn place_mut(&mut self, filter: &str) -> &mut Place {
        if has_wildcard(filter) {
            self.trie.place_mut(filter)
        } else {
            self.exact.entry(filter.into()).or_default()
        }
    }

    /// Changes a place that exists, and removes it if nothing is left.
    fn edit(&mut self, filter: &str, change: impl FnOnce(&mut Place) -> bool) -> bool {
        if has_wildcard(filter) {
            return self.trie.edit(filter, change);
        }
        let Some(place) = self.exact.get_mut(filter) else { return false };
        let changed = change(place);
        if place.is_empty() {
            self.exact.remove(filter);
        }
        changed
    }
}

fn has_wildcard(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

#[cfg(test)]
mod tests;
