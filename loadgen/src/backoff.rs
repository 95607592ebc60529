//! Pauses between attempts to connect again.
//!
//! Knows: a seeded random stream, the phase of the run. Never: why a connection ended.

use std::time::Duration;

use tokio::sync::watch;

use crate::random::Random;
use crate::worker::Phase;

/// Pauses between attempts to connect again.
pub(crate) struct Backoff {
    attempt: u32,
    random: Random,
}

impl Backoff {
    pub(crate) fn new(seed: u64) -> Backoff {
        Backoff { attempt: 0, random: Random::new(seed) }
    }

    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Waits; `false` if the run ends meanwhile.
    pub(crate) async fn wait(&mut self, phase: &mut watch::Receiver<Phase>) -> bool {
        let longest = (50 << self.attempt.min(5)).min(1_000);
        self.attempt += 1;
        // Jitter: a broker that comes back must not find the whole fleet at its door in the same millisecond.
        let pause = Duration::from_millis(20 + self.random.below(longest));
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            closing = phase.wait_for(|phase| *phase == Phase::Closing) => {
                drop(closing);
                false
            }
        }
    }
}
