//! Places in the log and the numbers that come back from it.

use std::num::NonZeroU64;

/// Place of a message in its lane. Starts at 1, is dense, is never reused, survives restarts.
///
/// Dense per lane (and not one counter for the whole log): the backlog of a lane is a subtraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(NonZeroU64);

impl Seq {
    /// The first place of every lane.
    pub const FIRST: Seq = Seq(NonZeroU64::MIN);

    /// The place with this number; `None` for 0, which no message has.
    pub const fn new(number: u64) -> Option<Seq> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Seq(number)),
            None => None,
        }
    }

    /// The number itself, at least 1.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The place after this one.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0.checked_add(1).expect("lasts 580 000 years at 10⁶ messages a second"))
    }
}

impl std::fmt::Display for Seq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a record of a `spill` route among those of one shard since the process started. 0 means "none yet".
///
/// Apart from [`Ticket`], so that what waits for the upstream holds back nothing that waits for the disk. The disk thread
/// answers with the highest number that is safe: all up to it are delivered or durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpillTicket(pub u64);

impl SpillTicket {
    /// In place of a number: a record of a `memory` route. It may stay in memory, too, and nobody waits for it.
    pub const NOBODY: SpillTicket = SpillTicket(u64::MAX);

    /// The number after this one.
    #[must_use]
    pub fn next(self) -> SpillTicket {
        SpillTicket(self.0 + 1)
    }
}

/// Place of an append among the appends of one shard since the process started. 0 means "none yet".
///
/// The disk thread answers with the highest ticket that is durable: all tickets up to it are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

impl Ticket {
    /// The ticket after this one.
    #[must_use]
    pub fn next(self) -> Ticket {
        Ticket(self.0 + 1)
    }
}
