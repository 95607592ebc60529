//! Who is below whom: the tree of identities of this edge device, and auth chains through it
//! (`reference/edgehub.md` §5.6).
//!
//! May use: `id`, `identity`. In: identities, chains. Out: which identity vouches for a client.
//! Bound: `identities_max`, given by the caller; chains [`DEPTH_MAX`].

use std::collections::BTreeMap;
use std::fmt;

use crate::id::{HubId, InvalidId};
use crate::identity::Identity;

/// Edge devices above one another, at most.
pub const DEPTH_MAX: usize = 5;

/// `target;parent;…;actor`: the client, and the edge devices that stand in for it, the nearest to us last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthChain {
    links: Vec<HubId>,
}

/// Why a text is no auth chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChain {
    /// One of its links.
    #[error("link {0}: {1}")]
    Link(usize, InvalidId),
    /// A module, its device and [`DEPTH_MAX`] edge devices is the longest there can be.
    #[error("it has more links than {DEPTH_MAX} edge devices, a device and a module")]
    TooLong,
}

impl AuthChain {
    /// Reads `target;…;actor`.
    pub fn parse(text: &str) -> Result<AuthChain, InvalidChain> {
        let links: Vec<&str> = text.splitn(DEPTH_MAX + 4, ';').collect();
        if links.len() > DEPTH_MAX + 2 {
            return Err(InvalidChain::TooLong);
        }
        let link = |(at, text): (usize, &&str)| {
            HubId::parse(text).map_err(|reason| InvalidChain::Link(at + 1, reason))
        };
        Ok(AuthChain { links: links.iter().enumerate().map(link).collect::<Result<_, _>>()? })
    }

    /// Whom it is for.
    pub fn target(&self) -> &HubId {
        &self.links[0]
    }

    /// Who talks to us: the target itself, or the edge device nearest to us.
    pub fn actor(&self) -> &HubId {
        &self.links[self.links.len() - 1]
    }

    /// Whether somebody else stands in for the target.
    pub fn is_on_behalf(&self) -> bool {
        self.links.len() > 1
    }

    /// All of it, the target first.
    pub fn links(&self) -> &[HubId] {
        &self.links
    }
}

impl fmt::Display for AuthChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, link) in self.links.iter().enumerate() {
            write!(f, "{}{link}", if at == 0 { "" } else { ";" })?;
        }
        Ok(())
    }
}

/// Why somebody may not act for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// `chain[0]` is somebody else.
    #[error("the chain is for another client")]
    Target,
    /// The one who talks to us is not in it.
    #[error("the chain does not name who presents it")]
    Actor,
    /// The scope does not put the target below the actor.
    #[error("the client is not below who presents the chain")]
    NotBelow,
}

/// The identities below this edge device, itself included.
#[derive(Debug)]
pub struct Tree {
    root: HubId,
    identities_max: usize,
    identities: BTreeMap<HubId, Identity>,
    /// Which edge device has a scope.
    scopes: BTreeMap<String, HubId>,
}

/// There is no room for a further identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device scope has more than {0} identities")]
pub struct TooManyIdentities(pub usize);

impl Tree {
    /// A tree without identities, of the edge device `root`.
    pub fn new(root: HubId, identities_max: usize) -> Tree {
        Tree { root, identities_max, identities: BTreeMap::new(), scopes: BTreeMap::new() }
    }

    /// Adds or replaces an identity; whether it changed.
    pub fn set(&mut self, identity: Identity) -> Result<bool, TooManyIdentities> {
        let known = self.identities.get(&identity.id);
        if known == Some(&identity) {
            return Ok(false);
        }
        if known.is_none() && self.identities.len() >= self.identities_max {
            return Err(TooManyIdentities(self.identities_max));
        }
        self.forget_scope(&identity.id.clone());
        if let (true, Some(scope)) = (identity.is_edge, &identity.scope) {
            self.scopes.insert(scope.clone(), identity.id.clone());
        }
        self.identities.insert(identity.id.clone(), identity);
        Ok(true)
    }

    /// Removes an identity, a device with its modules; whether it was there.
    pub fn remove(&mut self, id: &HubId) -> bool {
        self.forget_scope(id);
        if id.module_id().is_none() {
            self.identities
                .retain(|known, _| known.module_id().is_none() || known.device_id() != id.device_id());
        }
        self.identities.remove(id).is_some()
    }

    fn forget_scope(&mut self, id: &HubId) {
        if let Some(scope) =
            self.identities.get(id).filter(|known| known.is_edge).and_then(|known| known.scope.as_ref())
        {
            self.scopes.remove(scope);
        }
    }

    /// The identity of this id.
    pub fn find(&self, id: &HubId) -> Option<&Identity> {
        self.identities.get(id)
    }

    /// All identities, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Identity> {
        self.identities.values()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.identities.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    /// The links from `id` up to this edge device: `d1;edge2;gw1`, `edge2/m;edge2;gw1`.
    ///
    /// `None` if it is not below this device: unknown, in no scope we know, or deeper than [`DEPTH_MAX`].
    pub fn chain_of(&self, id: &HubId) -> Option<AuthChain> {
        let mut links = vec![id.clone()];
        let mut at = self.identities.get(id)?;
        if id.module_id().is_some() {
            let device = HubId::device(id.device_id()).ok()?;
            links.push(device.clone());
            at = self.identities.get(&device)?;
        }
        let devices = links.len() - 1 + DEPTH_MAX;
        while at.id != self.root {
            at = self.identities.get(self.parent_of(at)?)?;
            if links.len() > devices {
                return None;
            }
            links.push(at.id.clone());
        }
        Some(AuthChain { links })
    }

    fn parent_of(&self, identity: &Identity) -> Option<&HubId> {
        // An edge device is in its parents' scopes, and `scope` is its own; a leaf is in `scope`.
        let own = identity.scope.iter().filter(|_| !identity.is_edge);
        let scopes = identity.parent_scopes.iter().chain(own);
        scopes.filter_map(|scope| self.scopes.get(scope)).find(|parent| **parent != identity.id)
    }

    /// What an edge device has below it without another one between: itself, its children, and modules of both, but not of
    /// children that are edge devices. By id.
    pub fn scope_of(&self, edge: &HubId) -> Vec<&Identity> {
        let belongs = |identity: &&Identity| {
            if identity.id == *edge {
                return true;
            }
            let device = HubId::device(identity.id.device_id()).ok();
            let device = device.and_then(|device| self.identities.get(&device));
            match identity.id.module_id() {
                Some(_) if identity.id.device_id() == edge.device_id() => true,
                Some(_) => device.is_some_and(|it| !it.is_edge && self.parent_of(it) == Some(edge)),
                None => self.parent_of(identity) == Some(edge),
            }
        };
        self.identities.values().filter(belongs).collect()
    }

    /// Whether `id` is `actor` or below it, as far as is known.
    pub fn is_below(&self, id: &HubId, actor: &HubId) -> bool {
        self.chain_of(id).is_some_and(|known| known.links.contains(actor))
    }

    /// Whether the chain that `actor`, an edge device, presents may be looked at further: its target is below it, or its
    /// target and the device of that are unknown, and the next link is below it. Whoever is known stands where it is known to
    /// stand, or nowhere.
    pub fn may_be_below(&self, chain: &AuthChain, actor: &HubId) -> bool {
        let target = chain.target();
        let device = HubId::device(target.device_id()).ok();
        let known = [Some(target), device.as_ref()].into_iter().flatten().find(|id| self.find(id).is_some());
        known.or(chain.links.get(1)).is_some_and(|near| self.is_below(near, actor))
    }

    /// Checks that the chain a client presents is for `target` and that the scope agrees; gives the edge device that
    /// acts, whose `$edgeHub` must have signed the token.
    pub fn actor_of(&self, chain: &AuthChain, target: &HubId) -> Result<HubId, ChainError> {
        if chain.target() != target {
            return Err(ChainError::Target);
        }
        let known = self.chain_of(target).ok_or(ChainError::NotBelow)?;
        let actor = HubId::device(chain.actor().device_id()).map_err(|_| ChainError::Actor)?;
        if !known.links.contains(&actor) {
            return Err(ChainError::NotBelow);
        }
        Ok(actor)
    }

    /// Checks that `actor`, an edge device, may act for `target` by the chain it presents.
    pub fn check_actor(&self, chain: &AuthChain, target: &HubId, actor: &str) -> Result<(), ChainError> {
        if !chain.links.iter().any(|link| link.device_id() == actor) {
            return Err(ChainError::Actor);
        }
        let found = self.actor_of(chain, target)?;
        if found.device_id() == actor { Ok(()) } else { Err(ChainError::Actor) }
    }
}

#[cfg(test)]
mod tests;
