//! The one place that asks what time it is; everybody below gets it as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use model::{Instant, Now, Timestamp};

/// Both clocks, read together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: std::time::Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { start: std::time::Instant::now() }
    }
}

impl Clock {
    /// The time now. A wall clock before 1970 counts as 1970.
    #[inline]
    pub(crate) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            instant: Instant(self.start.elapsed().as_micros() as u64),
            timestamp: Timestamp(wall.as_millis() as u64),
        }
    }
}

/// A number that nobody outside can guess, for seeds and jitter.
pub(crate) fn entropy() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds its hasher from the operating system.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
