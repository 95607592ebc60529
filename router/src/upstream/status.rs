//! What people may see of an uplink.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How an uplink is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum UplinkState {
    /// Trying to connect.
    #[default]
    Connecting,
    /// Connected; publications flow.
    Up,
    /// Connected; the upstream wants less than there is.
    Throttled,
    /// Not connected, outside the hours of a metered link.
    Resting,
    /// Waiting before the next attempt.
    Waiting,
}

impl UplinkState {
    /// Whether publications can leave.
    pub(crate) const fn is_up(self) -> bool {
        matches!(self, UplinkState::Up | UplinkState::Throttled)
    }

    /// One word for status and metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            UplinkState::Connecting => "connecting",
            UplinkState::Up => "up",
            UplinkState::Throttled => "throttled",
            UplinkState::Resting => "resting",
            UplinkState::Waiting => "down",
        }
    }
}

/// The numbers of one uplink.
#[derive(Debug, Default)]
pub(crate) struct LinkStatus {
    state: Mutex<(UplinkState, Option<String>)>,
    /// Publications that may be in flight now.
    pub window: AtomicU64,
    /// Shortest round trip to the upstream's acknowledgement, microseconds.
    pub delay_micros: AtomicU64,
    /// Signs of throttling.
    pub throttles: AtomicU64,
    /// Whether the upstream wants less than the link could carry, connected or not.
    pub throttled: AtomicBool,
    /// Whether `certificate_days` says something.
    pub has_certificate: AtomicBool,
    /// Days until the other end's certificate ends, as of the last connection.
    pub certificate_days: AtomicI64,
    /// Jumps of the wall clock.
    pub clock_jumps: AtomicU64,
    /// Publications acknowledged by the upstream.
    pub forwarded: AtomicU64,
    /// Publications sent, repeats included.
    pub sent: AtomicU64,
    /// Publications that wait for the upstream's acknowledgement.
    pub inflight: AtomicU64,
    /// Connections made.
    pub connects: AtomicU64,
    /// Publications that the upstream refused, repeats included.
    pub refused: AtomicU64,
    /// Senders that wait now because the upstream refuses their messages.
    pub waiting_senders: AtomicU64,
    /// Messages moved into the poison lane.
    pub poisoned: AtomicU64,
    /// Messages sent again out of the poison lane.
    pub poison_retried: AtomicU64,
    /// Messages dropped from the poison lane, by an operator or because it was full.
    pub poison_dropped: AtomicU64,
    /// Messages that expired before their turn.
    pub dropped_expired: AtomicU64,
    /// Messages lost because the store cannot read them.
    pub dropped_damaged: AtomicU64,
}

impl LinkStatus {
    /// Notes a new state; an error stays until the uplink is up again.
    pub(crate) fn set(&self, state: UplinkState, error: Option<String>) {
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let error = match (state, error) {
            (state, _) if state.is_up() || state == UplinkState::Resting => None,
            (_, None) => current.1.take(),
            (_, error) => error,
        };
        *current = (state, error);
        if !state.is_up() {
            self.inflight.store(0, Ordering::Relaxed);
        }
    }

    /// The state, and why it is not up.
    pub(crate) fn get(&self) -> (UplinkState, Option<String>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
