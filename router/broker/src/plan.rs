//! The route table together with where its sinks lead and what its routes promise; one value, swapped whole.

use std::sync::Arc;

use model::{LaneId, Match, Priority, Qos, RouteId};
use routes::RouteTable;

use crate::admit::WhenFull;

/// What an acknowledgement of a message on a route means (DESIGN §4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The message is on disk, synced, before its PUBACK.
    #[default]
    Disk,
    /// The upstream has acknowledged the message before its PUBACK, or it is on disk, synced, whichever is first. It is
    /// not written while the upstream keeps up (see `crate::front`). Of QoS 2 as [`Durability::Disk`]: the identifier is
    /// on disk with the message, or a crash would take a repeat for a duplicate of what is lost.
    Spill,
    /// The message is held in memory at its PUBACK; it is written with the next group commit.
    Memory,
}

impl Durability {
    /// The stricter one of two.
    pub(crate) fn stricter(self, other: Durability) -> Durability {
        use Durability::{Disk, Memory, Spill};
        match (self, other) {
            (Disk, _) | (_, Disk) => Disk,
            (Spill, _) | (_, Spill) => Spill,
            (Memory, Memory) => Memory,
        }
    }

    /// What it is for a publication of this quality.
    pub(crate) fn of(self, qos: Qos) -> Durability {
        if self == Durability::Spill && qos == Qos::ExactlyOnce { Durability::Disk } else { self }
    }
}

/// Where one sink of the table leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkPlan {
    /// To an uplink.
    Lanes {
        /// Which one: sinks with the same number lead to the same uplink, which gets a message once.
        uplink: u32,
        /// One lane for each priority that some route gives it.
        lanes: Vec<(Priority, LaneId)>,
        /// What happens when there is no room.
        when_full: WhenFull,
    },
    /// Back into the local topic space, by the sink's template.
    Topic,
    /// To an input of a module of this edge device.
    Input,
}

/// Everything that decides where a publication goes besides subscriptions.
#[derive(Debug)]
pub struct Plan {
    /// The compiled routes.
    pub table: Arc<RouteTable>,
    /// Indexed by [`model::SinkId`].
    pub sinks: Vec<SinkPlan>,
    /// Indexed by [`RouteId`].
    pub durabilities: Vec<Durability>,
    /// Whether what goes to lanes has its publisher's user with it: somebody upstream wants to know.
    pub keeps_user: bool,
    /// Time to live of messages whose route states none, in milliseconds.
    pub ttl_millis: Option<u64>,
}

impl Plan {
    /// A plan without routes.
    pub fn empty() -> Plan {
        Plan {
            table: Arc::new(RouteTable::empty()),
            sinks: Vec::new(),
            durabilities: Vec::new(),
            keeps_user: false,
            ttl_millis: None,
        }
    }

    /// Where a match leads.
    pub(crate) fn sink(&self, found: &Match) -> Option<&SinkPlan> {
        self.sinks.get(found.sink.0 as usize)
    }

    /// What `route` promises.
    pub(crate) fn durability(&self, route: RouteId) -> Durability {
        self.durabilities.get(route.0 as usize).copied().unwrap_or_default()
    }
}
