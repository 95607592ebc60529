//! Shared subscriptions: `$share/NAME/FILTER`, a group of which one member gets each publication (MQTT 5.0 §4.8.2).
//!
//! In: members of this shard; how many members the other shards have. Out: whose turn it is.
//! No shard owns a group. The shard that has a publication draws a shard, each with as many lots as it has members, and
//! the shard drawn picks one of its own. Drawing is smooth weighted round-robin: no randomness, and over any run of
//! publications a shard is off its share by less than one round.
//! Invariant: `here` counts `members`; a group without members here and elsewhere does not exist.

use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::FixedState;
use model::ShardId;
use slab::Slab;

use super::{Entry, SessionKey};

/// Index of a group within its shard; valid for a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShareKey(u32);

/// How many members a shard has in a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Connected ones.
    pub live: u32,
    /// Stored sessions whose client is away.
    pub away: u32,
}

impl Members {
    fn count(&mut self, live: bool) -> &mut u32 {
        if live { &mut self.live } else { &mut self.away }
    }
}

/// A member at home in this shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    /// Its subscription.
    pub(crate) entry: Entry,
    /// Whether it is connected.
    pub(crate) live: bool,
}

/// The members of another shard.
#[derive(Debug)]
struct Other {
    shard: ShardId,
    members: Members,
    /// Whether one of them is a stored session.
    kept: bool,
    credit: i64,
}

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    /// `$share/NAME/FILTER`
    name: Rc<str>,
    members: Vec<Member>,
    here: Members,
    /// Whose turn it is among `members`.
    turn: usize,
    others: Vec<Other>,
    credit: i64,
}

impl Group {
    fn new(name: &str) -> Group {
        let (members, others) = (Vec::new(), Vec::new());
        Group { name: name.into(), members, here: Members::default(), turn: 0, others, credit: 0 }
    }

    /// The whole filter, `$share` included.
    pub(crate) fn name(&self) -> Rc<str> {
        Rc::clone(&self.name)
    }

    /// The members of this shard, whose turn it is first.
    pub(crate) fn members(&self) -> impl Iterator<Item = (usize, &Member)> {
        let (behind, first) = self.members.split_at(self.turn.min(self.members.len()));
        let behind = behind.iter().enumerate();
        first
            .iter()
            .enumerate()
            .map(|(index, member)| (self.members.len() - first.len() + index, member))
            .chain(behind)
    }

    /// The member with this index had its turn.
    pub(crate) fn took(&mut self, index: usize) {
        self.turn = if index + 1 < self.members.len() { index + 1 } else { 0 };
    }

    /// Whether any member is a stored session.
    pub(crate) fn is_kept(&self) -> bool {
        self.members.iter().any(|member| member.entry.stored) || self.others.iter().any(|other| other.kept)
    }

    /// Whether another shard has a stored member.
    pub(crate) fn is_kept_by(&self, shard: ShardId) -> bool {
        self.others.iter().any(|other| other.shard == shard && other.kept)
    }

    /// Draws the shard that gets the next publication: among those with connected members, or, if nobody is connected,
    /// among those with members that are away, if those can take it (`durable`).
    pub(crate) fn draw(&mut self, own: ShardId, durable: bool) -> Option<ShardId> {
        self.draw_among(own, self.here, durable)
    }

    /// The same, with only the others to draw from.
    pub(crate) fn draw_elsewhere(&mut self, own: ShardId, durable: bool) -> Option<ShardId> {
        self.draw_among(own, Members::default(), durable)
    }

    fn draw_among(&mut self, own: ShardId, here: Members, durable: bool) -> Option<ShardId> {
        let any_live = here.live > 0 || self.others.iter().any(|other| other.members.live > 0);
        let weight = |members: Members| match (any_live, durable) {
            (true, _) => i64::from(members.live),
            (false, true) => i64::from(members.away),
            (false, false) => 0,
        };
        let mut total = weight(here);
        if self.others.is_empty() {
            return (total > 0).then_some(own);
        }
        self.credit += total;
        let (mut best, mut drawn) = (if total > 0 { self.credit } else { i64::MIN }, None);
        for (index, other) in self.others.iter_mut().enumerate() {
            let lots = weight(other.members);
            other.credit += lots;
            total += lots;
            if lots > 0 && other.credit > best {
                (best, drawn) = (other.credit, Some(index));
            }
        }
        if total == 0 {
            return None;
        }
        match drawn {
            Some(index) => {
                self.others[index].credit -= total;
                Some(self.others[index].shard)
            }
            None => {
                self.credit -= total;
                Some(own)
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.others.is_empty()
    }

    /// Numbers change: whoever was ahead or behind starts anew.
    fn forget_credit(&mut self) {
        self.credit = 0;
        self.others.iter_mut().for_each(|other| other.credit = 0);
    }
}

/// Every group that this shard must know.
#[derive(Debug)]
pub(crate) struct Shares {
    groups: Slab<Group>,
    by_name: HashMap<Rc<str>, ShareKey, FixedState>,
}

impl Shares {
    /// No group; `seed` as for the index of filters.
    pub(super) fn new(seed: u64) -> Shares {
        Shares { groups: Slab::new(), by_name: HashMap::with_hasher(FixedState::with_seed(seed)) }
    }

    /// The group with this name.
    pub(crate) fn find(&self, name: &str) -> Option<ShareKey> {
        self.by_name.get(name).copied()
    }

    /// A group that exists: a key is valid in the turn in which it was found.
    pub(crate) fn group(&self, key: ShareKey) -> &Group {
        &self.groups[key.0 as usize]
    }

    /// The same, to change.
    pub(crate) fn group_mut(&mut self, key: ShareKey) -> &mut Group {
        &mut self.groups[key.0 as usize]
    }

    /// The group with this name, and whether it is new.
    fn open(&mut self, name: &str) -> (ShareKey, bool) {
        if let Some(key) = self.find(name) {
            return (key, false);
        }
        let group = Group::new(name);
        let name = group.name();
        let key = ShareKey(self.groups.insert(group) as u32);
        self.by_name.insert(name, key);
        (key, true)
    }

    /// Forgets a group that nobody is in; whether it did.
    fn close_if_empty(&mut self, key: ShareKey) -> bool {
        let empty = self.group(key).is_empty();
        if empty {
            let group = self.groups.remove(key.0 as usize);
            self.by_name.remove(&group.name);
        }
        empty
    }

    /// Adds or replaces a member, `live` if it is new: whether it is, and the group if that is new.
    pub(super) fn insert(&mut self, name: &str, entry: Entry, live: bool) -> (bool, Option<ShareKey>) {
        let (key, is_new) = self.open(name);
        let group = self.group_mut(key);
        let before = group.members.len();
        match group.members.iter_mut().find(|member| member.entry.session == entry.session) {
            Some(member) => member.entry = entry,
            None => {
                group.members.push(Member { entry, live });
                *group.here.count(live) += 1;
                group.forget_credit();
            }
        }
        (group.members.len() > before, is_new.then_some(key))
    }

    /// Removes a member: whether it was one, and the group if it is gone now.
    pub(super) fn remove(&mut self, name: &str, session: SessionKey) -> (bool, Option<ShareKey>) {
        let Some(key) = self.find(name) else { return (false, None) };
        let group = self.group_mut(key);
        let Some(index) = group.members.iter().position(|member| member.entry.session == session) else {
            return (false, None);
        };
        let member = group.members.remove(index);
        *group.here.count(member.live) -= 1;
        group.turn -= usize::from(group.turn > index);
        group.forget_credit();
        (true, self.close_if_empty(key).then_some(key))
    }

    /// A member comes or goes; whether that is news.
    pub(super) fn set_live(&mut self, name: &str, session: SessionKey, live: bool) -> bool {
        let Some(key) = self.find(name) else { return false };
        let group = self.group_mut(key);
        let Some(member) = group.members.iter_mut().find(|member| member.entry.session == session) else {
            return false;
        };
        if member.live == live {
            return false;
        }
        member.live = live;
        *group.here.count(live) += 1;
        *group.here.count(!live) -= 1;
        group.forget_credit();
        true
    }

    /// What this shard has in a group: how many, and whether one is a stored session.
    pub(super) fn here(&self, name: &str) -> (Members, bool) {
        let Some(key) = self.find(name) else { return (Members::default(), false) };
        let group = self.group(key);
        (group.here, group.members.iter().any(|member| member.entry.stored))
    }

    /// Notes what another shard has; the group if it is new (`true`) or gone (`false`) by that.
    pub(super) fn set_remote(
        &mut self,
        name: &str,
        shard: ShardId,
        members: Members,
        kept: bool,
    ) -> Option<(ShareKey, bool)> {
        if members == Members::default() && self.find(name).is_none() {
            return None;
        }
        let (key, is_new) = self.open(name);
        let group = self.group_mut(key);
        group.others.retain(|other| other.shard != shard);
        if members != Members::default() {
            // In the order of their numbers, so that the same news in another order give the same draws.
            let at = group.others.partition_point(|other| other.shard < shard);
            group.others.insert(at, Other { shard, members, kept, credit: 0 });
        }
        group.forget_credit();
        if is_new {
            return Some((key, true));
        }
        self.close_if_empty(key).then_some((key, false))
    }

    /// Whether there is no group.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.by_name.is_empty()
    }

    /// Checks what must hold between turns.
    pub(crate) fn invariants(&self) {
        assert_eq!(self.groups.len(), self.by_name.len(), "every group has a name");
        for (_, group) in &self.groups {
            assert!(!group.is_empty(), "{} has members", group.name);
            assert!(group.turn <= group.members.len());
            let live = group.members.iter().filter(|member| member.live).count() as u32;
            let away = group.members.len() as u32 - live;
            assert_eq!(group.here, Members { live, away }, "members of {} are counted", group.name);
        }
    }
}

/// The filter of a shared subscription, behind `$share/NAME/`.
pub(crate) fn shared_filter(text: &str) -> Option<&str> {
    Some(text.strip_prefix("$share/")?.split_once('/')?.1)
}
