//! Station 4: whether there is room for a publication, before anything of it is delivered or appended.
//!
//! In: the levels that the disk thread publishes. Out: connections that may go on when they change.
//! Always: while everything is roomy and the store takes writes, nothing here is asked.

use model::Priority;

use crate::broker::Broker;
use crate::effects::Effects;

/// How much more a store, or the lanes of an uplink, take.
///
/// Who publishes levels does so with hysteresis: every change lets all waiting connections try again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Everything.
    #[default]
    Roomy,
    /// Urgent priorities only: the rest of the space is their reserve.
    FullForOrdinary,
    /// Nothing.
    FullForUrgent,
}

impl Level {
    /// Whether there is room for a message of this priority.
    pub const fn takes(self, priority: Priority) -> bool {
        match self {
            Level::Roomy => true,
            Level::FullForOrdinary => priority.is_urgent(),
            Level::FullForUrgent => false,
        }
    }

    /// The level with this number; the numbers are those of the variants in their order, and more is full.
    pub const fn from_u8(number: u8) -> Level {
        match number {
            0 => Level::Roomy,
            1 => Level::FullForOrdinary,
            _ => Level::FullForUrgent,
        }
    }
}

/// What happens to messages for an uplink that has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// The publisher is told, or waits, and nobody gets the message; QoS 0 is dropped for this uplink alone.
    #[default]
    Refuse,
    /// The disk makes room; if it cannot, as [`WhenFull::DropNewest`].
    DropOldest,
    /// The message is dropped for this uplink alone, counted, and acknowledged.
    DropNewest,
}

/// How much room there is, as the disk thread last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Whether the store takes writes. While it does not, what was appended is kept in memory and written later.
    pub takes_writes: bool,
    /// For what is stored and leads to no uplink: stored sessions.
    pub store: Level,
    /// By number of the uplink, with the store's level and the uplink's policy in it.
    pub uplinks: Box<[Level]>,
}

impl Default for Levels {
    fn default() -> Levels {
        Levels { takes_writes: true, store: Level::Roomy, uplinks: Box::default() }
    }
}

impl Levels {
    /// The level of an uplink; one that nobody spoke of is roomy.
    pub fn uplink(&self, number: u32) -> Level {
        self.uplinks.get(number as usize).copied().unwrap_or_default()
    }

    /// Whether there is room for everything.
    pub fn are_roomy(&self) -> bool {
        self.takes_writes && self.store == Level::Roomy && self.uplinks.iter().all(|it| *it == Level::Roomy)
    }
}

impl Broker {
    /// There is more room, or less.
    pub(crate) fn on_levels(&mut self, levels: Levels, _effects: &mut Effects) {
        self.is_tight = !levels.are_roomy();
        self.levels = levels;
    }
}
