//! Who may connect, and what they may publish and subscribe to.
//!
//! In: what operators wrote, already parsed. Out: admissions at CONNECT, decisions per topic.
//! Knows: listeners, users by name, rules. Never: passwords, files; who verifies a password is asked through a tray
//! (`Effects::authentications`) and answers with [`crate::Event::Authenticated`].
//! Order of what a client can show: a verified certificate names the user and outweighs everything; a user name with a
//! password is verified where somebody can; nothing at all is anonymous.

mod explain;
mod index;
mod own;
mod rules;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use model::Limits;
use wire::{Connect, ReasonCode};

pub use self::explain::{Explanation, Finding, Miss};
pub use self::index::{Decision, Identity, Ruleset, Subject};
pub use self::rules::{Action, Actions, Effect, InvalidRuleFilter, Origin, Rule, RuleFilter, Standing, Who};
use crate::connections::Peer;

/// Everything that decides who may do what; one value, swapped whole between turns.
#[derive(Debug)]
pub struct Access {
    /// By place in the configuration; the last one also stands for listeners beyond.
    pub listeners: Vec<ListenerAccess>,
    /// Users with a password; `None` if nobody verifies passwords.
    pub users: Option<Users>,
    /// What clients may publish and subscribe to; `None`: everything.
    pub rules: Option<Ruleset>,
    /// What a 3.1.1 client is told whose publication is refused.
    pub denied_v3: DeniedV3,
    /// Which client identifiers a user may have.
    pub client_ids: ClientIds,
}

/// What one listener asks of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerAccess {
    /// Whether clients that show nothing may come in.
    pub anonymous: bool,
    /// Largest packet it takes, where that is less than `limits.packet_bytes_max`.
    pub packet_bytes_max: Option<u32>,
    /// Whether user names with a `/` are those of identities that the edge knows (`HOST/DEVICE/?…`), and not users'.
    pub identities: bool,
}

/// The names of all users, each with a print of what verifies it: it changes when the password does.
#[derive(Clone, Debug, Default)]
pub struct Users(HashMap<Box<str>, u64, FixedState>);

impl FromIterator<(Box<str>, u64)> for Users {
    fn from_iter<I: IntoIterator<Item = (Box<str>, u64)>>(users: I) -> Users {
        Users(users.into_iter().collect())
    }
}

impl Users {
    /// Whether there is such a user.
    pub fn contains(&self, user: &str) -> bool {
        self.0.contains_key(user)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// MQTT 3.1.1 has no way to refuse a publication: it is acknowledged or the connection ends [MQTT3-3.3.5-2].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeniedV3 {
    /// Acknowledged and dropped.
    #[default]
    Acknowledge,
    /// The connection ends.
    Disconnect,
}

/// Which client identifiers a user may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientIds {
    /// Any.
    #[default]
    Any,
    /// Those that begin with the user's name.
    StartWithUser,
    /// The user's name.
    AreUser,
}

/// What somebody who verified credentials found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are good.
    Accepted {
        /// The user; may be another name for what the client said.
        user: Arc<str>,
        /// Changes when what verifies the user changes; see [`Users`].
        print: u64,
    },
    /// It is an identity that the edge knows and verifies itself, whatever users there are; the edge also says when it
    /// may not stay any longer, with [`crate::Event::Withdrawn`].
    Identified {
        /// The identity's name, which is its user here.
        user: Arc<str>,
    },
    /// User name and password do not belong together, or to nobody.
    BadCredentials,
    /// The user name is none that could belong to anybody.
    Unusable,
    /// As many identities are connected as may be at once.
    TooManyClients,
    /// They are good, and the client may not come in all the same.
    NotAuthorized,
    /// Too many attempts failed before; they were not even looked at.
    TooManyAttempts,
    /// There are too many to verify.
    Busy,
}

/// What to do with a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It comes in without a user.
    Anonymous,
    /// It comes in as the user of its certificate.
    Certificate,
    /// Somebody must verify its password.
    Ask,
    /// The edge must look whether it is the identity that it says it is.
    AskIdentity,
    /// It stays out.
    Refused(ReasonCode),
}

impl Access {
    /// No users and no rules: everybody or nobody may come in, and do everything.
    pub fn open(anonymous: bool) -> Access {
        Access {
            listeners: vec![ListenerAccess { anonymous, packet_bytes_max: None, identities: false }],
            users: None,
            rules: None,
            denied_v3: DeniedV3::default(),
            client_ids: ClientIds::default(),
        }
    }

    /// Whether the listener takes clients that show nothing.
    pub(crate) fn takes_anonymous(&self, listener: u16) -> bool {
        self.of_listener(listener).is_some_and(|access| access.anonymous)
    }

    /// The largest packet that a client of this listener may send.
    pub(crate) fn packet_bytes_max(&self, listener: u16, limits: &Limits) -> u32 {
        let own = self.of_listener(listener).and_then(|access| access.packet_bytes_max);
        own.map_or(limits.packet_bytes_max, |own| own.min(limits.packet_bytes_max))
    }

    fn of_listener(&self, listener: u16) -> Option<&ListenerAccess> {
        self.listeners.get(usize::from(listener)).or(self.listeners.last())
    }

    /// What a client's first packet leads to.
    pub(crate) fn admit(&self, peer: &Peer, connect: &Connect) -> Admission {
        let takes_identities = self.of_listener(peer.listener).is_some_and(|access| access.identities);
        if takes_identities && connect.user_name.as_deref().is_some_and(|name| name.contains('/')) {
            return Admission::AskIdentity;
        }
        if let Some(user) = &peer.certificate_user {
            return match &connect.user_name {
                // Two different names: one of them would act for the other.
                Some(name) if **name != **user => Admission::Refused(ReasonCode::BAD_USER_NAME_OR_PASSWORD),
                _ => Admission::Certificate,
            };
        }
        let anonymous = self.takes_anonymous(peer.listener);
        match (&connect.user_name, &self.users) {
            // Credentials that nobody can verify count as none; credentials that are wrong never do.
            (Some(_), Some(_)) => Admission::Ask,
            _ if anonymous => Admission::Anonymous,
            (Some(_), None) => Admission::Refused(ReasonCode::BAD_USER_NAME_OR_PASSWORD),
            (None, _) => Admission::Refused(ReasonCode::NOT_AUTHORIZED),
        }
    }

    /// Whether `user` may have this client identifier; without a user there is nothing to compare.
    pub(crate) fn takes_client_id(&self, user: Option<&str>, client_id: &str) -> bool {
        match (self.client_ids, user) {
            (ClientIds::Any, _) | (_, None) => true,
            (ClientIds::StartWithUser, Some(user)) => client_id.starts_with(user),
            (ClientIds::AreUser, Some(user)) => client_id == user,
        }
    }

    /// The print of a user's password; `None` if there is no such user.
    pub(crate) fn print_of(&self, user: &str) -> Option<u64> {
        self.users.as_ref()?.0.get(user).copied()
    }
}

#[cfg(test)]
mod tests;
