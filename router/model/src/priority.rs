//! Urgency of a route (edgeHub §3.2).

/// Urgency of a route and of the lane it leads to. 0 is the most urgent, the default is the least.
///
/// Source: edgeHub route objects (`reference/edgehub.md` §3.2): 0 to 9, or absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u32);

/// A number that is no priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("priority {0} is not allowed: 0 (most urgent) to 9, or leave it out")]
pub struct InvalidPriority(pub i64);

impl Priority {
    /// What a route without a priority has: less urgent than 9 (edgeHub writes it as 2 000 000 000).
    pub const DEFAULT: Priority = Priority(2_000_000_000);

    /// The most urgent priority.
    pub const HIGHEST: Priority = Priority(0);

    /// Every priority there is, most urgent first.
    pub fn all() -> impl Iterator<Item = Priority> {
        (0..=9).map(Priority).chain([Priority::DEFAULT])
    }

    /// Accepts 0 to 9 and edgeHub's number for the default.
    pub fn new(number: i64) -> Result<Priority, InvalidPriority> {
        match number {
            0..=9 => Ok(Priority(number as u32)),
            2_000_000_000 => Ok(Priority::DEFAULT),
            _ => Err(InvalidPriority(number)),
        }
    }

    /// Whether it may use the reserve that every budget of the store has: 0, 1 and 2 may.
    pub const fn is_urgent(self) -> bool {
        self.0 <= 2
    }

    /// 0 to 9, or 2 000 000 000 for the default.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Priority::DEFAULT
    }
}

impl std::fmt::Display for Priority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Priority::DEFAULT => f.write_str("default"),
            Priority(number) => number.fmt(f),
        }
    }
}
