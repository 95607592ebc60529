//! Time as an argument: nobody below the edges asks a clock.

/// Monotonic time in microseconds since an arbitrary start; for timeouts and ages within a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// This time plus a number of milliseconds; stays at the end of time instead of wrapping.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Instant {
        Instant(self.0.saturating_add(millis.saturating_mul(1_000)))
    }

    /// Milliseconds since `earlier`; 0 if that is later.
    pub const fn millis_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000
    }
}

/// Wall-clock time in milliseconds since 1970-01-01T00:00:00Z; for what must outlive the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This time plus a number of milliseconds; stays at the end of time instead of wrapping.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Timestamp {
        Timestamp(self.0.saturating_add(millis))
    }
}

/// Both clocks, read once per turn by the edge and handed down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For timeouts.
    pub instant: Instant,
    /// For expiry and for records on disk.
    pub timestamp: Timestamp,
}
