//! Stored sessions at the start, put together from the keys that the store has of them.
//!
//! In: every key and value of [`StoredSessions::SPACES`], space by space. Out: the sessions, and keys that belong to none:
//! what a crash left behind of a session that had ended.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use model::{LaneId, Seq};

use super::record::{
    InvalidRecord, SessionRecord, decode_mark, decode_session, decode_subscription, split_key,
};
use super::{Mark, SubscriptionOptions};
use crate::effects::StateSpace;

/// What the store had of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    pub(crate) record: SessionRecord,
    pub(crate) subscriptions: BTreeMap<Box<str>, SubscriptionOptions>,
    pub(crate) received: Vec<NonZeroU16>,
    pub(crate) marks: BTreeMap<Seq, Mark>,
}

impl StoredSession {
    /// The lane in which its messages are.
    pub fn lane(&self) -> LaneId {
        self.record.lane
    }
}

/// What the store had of all of them.
#[derive(Debug, Default)]
pub struct StoredSessions {
    sessions: BTreeMap<Box<str>, StoredSession>,
    orphans: Vec<(StateSpace, Box<[u8]>)>,
}

impl StoredSessions {
    /// Where sessions are kept, in the order in which [`StoredSessions::add`] wants them.
    pub const SPACES: [StateSpace; 4] =
        [StateSpace::Sessions, StateSpace::Subscriptions, StateSpace::Received, StateSpace::Marks];

    /// Takes one key with its value.
    pub fn add(&mut self, space: StateSpace, key: &[u8], value: &[u8]) -> Result<(), InvalidRecord> {
        if space == StateSpace::Sessions {
            let client_id = std::str::from_utf8(key).map_err(|_| InvalidRecord)?;
            let session = StoredSession {
                record: decode_session(value)?,
                subscriptions: BTreeMap::new(),
                received: Vec::new(),
                marks: BTreeMap::new(),
            };
            self.sessions.insert(client_id.into(), session);
            return Ok(());
        }
        let (client_id, rest) = split_key(key)?;
        let Some(session) = self.sessions.get_mut(client_id) else {
            self.orphans.push((space, key.into()));
            return Ok(());
        };
        match space {
            StateSpace::Subscriptions => {
                let filter = std::str::from_utf8(rest).map_err(|_| InvalidRecord)?;
                session.subscriptions.insert(filter.into(), decode_subscription(value)?);
            }
            StateSpace::Received => {
                let packet_id = u16::from_be_bytes(rest.try_into().map_err(|_| InvalidRecord)?);
                session.received.push(NonZeroU16::new(packet_id).ok_or(InvalidRecord)?);
            }
            StateSpace::Marks => {
                let seq = u64::from_be_bytes(rest.try_into().map_err(|_| InvalidRecord)?);
                session.marks.insert(Seq::new(seq).ok_or(InvalidRecord)?, decode_mark(value)?);
            }
            StateSpace::Sessions
            | StateSpace::Retained
            | StateSpace::Poison
            | StateSpace::LossesPublished => return Err(InvalidRecord),
        }
        Ok(())
    }

    /// Keys that belong to no session, to be deleted.
    pub fn take_orphans(&mut self) -> Vec<(StateSpace, Box<[u8]>)> {
        std::mem::take(&mut self.orphans)
    }
}

impl IntoIterator for StoredSessions {
    type Item = (Box<str>, StoredSession);
    type IntoIter = std::collections::btree_map::IntoIter<Box<str>, StoredSession>;

    /// The sessions by client identifier.
    fn into_iter(self) -> Self::IntoIter {
        self.sessions.into_iter()
    }
}
