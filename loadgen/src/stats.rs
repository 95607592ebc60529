//! What is counted while a run goes on, cheaply enough to count every message.
//!
//! Knows: counters and histograms of one worker thread, read by the reporter. Never: what a message is.
//! Invariant: counters only grow; a histogram holds what was recorded since the reporter last took it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;

/// Largest time that is told from larger ones: a minute, in microseconds.
pub(crate) const TIME_MAX_MICROS: u64 = 60_000_000;

/// A histogram of microseconds, 1 µs to a minute, three significant digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, TIME_MAX_MICROS, 3).expect("the bounds are constants that make sense")
}

/// The counters of one worker. Their own cache lines: the reporter must not slow the worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    /// Connections that are open and, for subscribers, subscribed.
    pub(crate) ready: AtomicU64,
    /// Publishers that send no more and have all acknowledgements.
    pub(crate) finished: AtomicU64,
    /// Publishers that send no more.
    pub(crate) stopped: AtomicU64,
    /// Messages handed to sockets, each once.
    pub(crate) sent: AtomicU64,
    /// Messages sent again after a reconnect.
    pub(crate) resent: AtomicU64,
    /// Messages acknowledged.
    pub(crate) acked: AtomicU64,
    /// Acknowledgements with a reason code that is an error.
    pub(crate) refused: AtomicU64,
    /// First copies that ought to arrive in this process.
    pub(crate) owed: AtomicU64,
    /// Copies that arrived.
    pub(crate) arrived: AtomicU64,
    /// First copies that arrived.
    pub(crate) arrived_first: AtomicU64,
    /// Payload bytes that arrived.
    pub(crate) arrived_bytes: AtomicU64,
    /// Messages due within the measured interval.
    pub(crate) scheduled: AtomicU64,
    /// Of those, sent late although nothing was in the way: the generator's own fault.
    pub(crate) slipped: AtomicU64,
    /// Of those, sent late or not at all because the broker did not take more.
    pub(crate) blocked: AtomicU64,
    /// Of those, never sent, whoever was in the way.
    pub(crate) unsent: AtomicU64,
    /// Connections lost before the end.
    pub(crate) lost_connections: AtomicU64,
    /// Connections opened again.
    pub(crate) reconnects: AtomicU64,
    /// Of those, without the session that should have waited for them.
    pub(crate) sessions_lost: AtomicU64,
    /// Connections of clients that come and go.
    pub(crate) connects: AtomicU64,
    /// Attempts of theirs that failed, or connections that broke.
    pub(crate) connects_failed: AtomicU64,
    /// Connections of theirs that are over.
    pub(crate) left: AtomicU64,
    /// Clients that will not come again.
    pub(crate) clients_done: AtomicU64,
}

impl Counters {
    /// Adds to a counter of which this thread is the only writer.
    #[inline]
    pub(crate) fn add(counter: &AtomicU64, number: u64) {
        // One writer per counter: a load and a store are enough, and cheaper than a locked addition.
        counter.store(counter.load(Ordering::Relaxed) + number, Ordering::Relaxed);
    }
}

/// The histograms of one worker, taken by the reporter once a second.
#[derive(Debug)]
pub(crate) struct Timings {
    /// From the intended send time to the arrival.
    pub(crate) latency: Slot,
    /// From the intended send time to the acknowledgement.
    pub(crate) ack: Slot,
    /// From the intended to the actual send time.
    pub(crate) lateness: Slot,
    /// From when a client was due to connect until it was there.
    pub(crate) connect: Slot,
}

/// A histogram with one writer, who locks it once per batch, and one reader, who takes it once a second.
#[derive(Debug)]
pub(crate) struct Slot(Mutex<Histogram<u64>>);

impl Slot {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds everything to `total` and starts anew.
    pub(crate) fn move_into(&self, total: &mut Histogram<u64>) {
        let mut own = self.lock();
        total.add(&*own).expect("all histograms have the same bounds");
        own.reset();
    }
}

impl Default for Timings {
    fn default() -> Self {
        let slot = || Slot(Mutex::new(histogram()));
        Timings { latency: slot(), ack: slot(), lateness: slot(), connect: slot() }
    }
}

/// The sum of the counters of all workers at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Connections that are ready.
    pub ready: u64,
    /// Publishers that send no more.
    pub stopped: u64,
    /// Publishers that send no more and have all acknowledgements.
    pub finished: u64,
    /// Messages handed to sockets, each once.
    pub sent: u64,
    /// Messages sent again after a reconnect.
    pub resent: u64,
    /// Messages acknowledged to their publishers.
    pub acked: u64,
    /// Acknowledgements that said no.
    pub refused: u64,
    /// First copies that ought to arrive.
    pub owed: u64,
    /// Copies that arrived.
    pub arrived: u64,
    /// First copies that arrived.
    pub arrived_first: u64,
    /// Payload bytes that arrived.
    pub arrived_bytes: u64,
    /// Messages due in the measured interval.
    pub scheduled: u64,
    /// Of those, late by the generator's own fault.
    pub slipped: u64,
    /// Of those, late or unsent because the broker did not take more.
    pub blocked: u64,
    /// Of those, never sent.
    pub unsent: u64,
    /// Connections lost before the end.
    pub lost_connections: u64,
    /// Connections opened again.
    pub reconnects: u64,
    /// Of those, without the session that should have waited for them.
    pub sessions_lost: u64,
    /// Connections of clients that come and go.
    pub connects: u64,
    /// Attempts of theirs that failed, or connections that broke.
    pub connects_failed: u64,
    /// Connections of theirs that are over.
    pub left: u64,
    /// Clients that will not come again.
    pub clients_done: u64,
}

impl Live {
    pub(crate) fn add(&mut self, counters: &Counters) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.ready += read(&counters.ready);
        self.stopped += read(&counters.stopped);
        self.finished += read(&counters.finished);
        self.sent += read(&counters.sent);
        self.resent += read(&counters.resent);
        self.acked += read(&counters.acked);
        self.refused += read(&counters.refused);
        self.owed += read(&counters.owed);
        self.arrived += read(&counters.arrived);
        self.arrived_first += read(&counters.arrived_first);
        self.arrived_bytes += read(&counters.arrived_bytes);
        self.scheduled += read(&counters.scheduled);
        self.slipped += read(&counters.slipped);
        self.blocked += read(&counters.blocked);
        self.unsent += read(&counters.unsent);
        self.lost_connections += read(&counters.lost_connections);
        self.reconnects += read(&counters.reconnects);
        self.sessions_lost += read(&counters.sessions_lost);
        self.connects += read(&counters.connects);
        self.connects_failed += read(&counters.connects_failed);
        self.left += read(&counters.left);
        self.clients_done += read(&counters.clients_done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_tells_a_microsecond_from_a_minute_to_three_digits() {
        let mut histogram = histogram();
        histogram.saturating_record(1);
        histogram.saturating_record(TIME_MAX_MICROS);
        histogram.saturating_record(u64::MAX);
        assert_eq!(histogram.min(), 1);
        let top = histogram.max();
        assert!((TIME_MAX_MICROS..TIME_MAX_MICROS + TIME_MAX_MICROS / 500).contains(&top), "{top}");
        for value in [999, 12_340, 1_234_567] {
            let seen = histogram.highest_equivalent(value);
            assert!(seen - value <= value / 1_000 + 1, "{value} is shown as {seen}");
        }
    }

    #[test]
    fn what_the_reporter_takes_is_taken_once() {
        let timings = Timings::default();
        let mut total = histogram();
        timings.latency.lock().saturating_record(5);
        timings.latency.move_into(&mut total);
        timings.latency.move_into(&mut total);
        assert_eq!(total.len(), 1);
    }
}
