//! What an uplink wants of the store: how far its lanes reach, their records, and that what is delivered is written down.
//!
//! In: the carrier's readings and the keeper's tray. Out: records for the carrier, positions for the store. Always: a fault is
//! said once, and when it is over (`faults`); each time it is met counts. Nothing is lost by one: what is not read waits.

use std::sync::atomic::Ordering;

use broker::uplink::{Ahead, Reading};
use model::{LaneId, Seq};
use store::{ReadLimits, StoreError};
use tracing::{error, info, warn};

use super::super::faults::Act;
use super::{Ended, Uplink};

/// What warnings of the store are about; no identity is called so.
const STORE: &str = "the store";

impl Uplink {
    /// Sends what may be sent: whose turn it is, decided anew for each batch.
    pub(super) fn fill(&mut self) -> Result<(), Ended> {
        self.hear_of_poison();
        let mut sent = Ok(());
        while sent.is_ok()
            && let Some(reading) = self.carrier.next_reading(self.out.len(), self.clock.now().instant)
        {
            sent = self.send_batch(reading);
        }
        let status = &self.setup.status;
        status.inflight.store(self.carrier.inflight() as u64, Ordering::Relaxed);
        status.waiting_senders.store(self.carrier.senders_waiting() as u64, Ordering::Relaxed);
        status.set_counts(&self.carrier.counts());
        self.show_sources();
        self.keep_positions();
        sent
    }

    /// The same where a fault of the store ends no link: what is not read waits, and people may see why.
    pub(super) fn read_lanes(&mut self) {
        let had = self.faults.has(Act::Look) || self.faults.has(Act::Read);
        // Nobody rings again for what was not seen.
        let looked = if self.faults.has(Act::Look) { self.look_at_tails() } else { Ok(()) };
        match self.fill().and(looked) {
            Err(error) => {
                let most = self.limits.uplink_links_max as usize;
                self.setup.status.warn_about(STORE, error.to_string(), most);
            }
            Ok(()) if had && !self.faults.has(Act::Read) => self.setup.status.works(STORE),
            Ok(()) => {}
        }
    }

    /// Reads a batch of one lane and sends it.
    fn send_batch(&mut self, mut reading: Reading) -> Result<(), Ended> {
        let now = self.clock.now();
        let limits = ReadLimits { messages_max: reading.messages_max, bytes_max: reading.bytes_max };
        let mut records = std::mem::take(&mut self.records);
        let read = self.source.read_lane(reading.lane, reading.from, limits, now.timestamp, &mut records);
        for record in records.records() {
            let (seq, bytes, expires, kept) = (record.seq, record.bytes, record.expires, record.enqueued);
            let bytes = self.packer.as_mut().map_or(bytes, |packer| packer.pack(bytes));
            self.carrier.offer(&mut reading, seq, bytes, expires, now, &mut self.out);
            self.carrier.note_kept(&reading, seq, kept);
        }
        let mut next = records.next();
        let is_stuck = records.is_empty() && next == reading.from;
        let status = &self.setup.status;
        status.dropped_expired.fetch_add(records.expired_messages(), Ordering::Relaxed);
        self.records = records;
        let read = match read {
            Ok(()) if is_stuck => Err(StoreError::UnknownLane(reading.lane)),
            // What expired at the end of the batch, or the whole of it.
            Ok(()) => {
                self.carrier.passed(&reading, next);
                Ok(())
            }
            Err(StoreError::Damaged { lane, from, up_to }) => {
                let places = up_to.get() - from.get() + 1;
                status.dropped_damaged.fetch_add(places, Ordering::Relaxed);
                error!(uplink = %self.name, %lane, %from, %up_to, "stored messages are damaged; they are lost and counted, the rest goes on");
                next = up_to.next();
                self.carrier.passed(&reading, next);
                Ok(())
            }
            Err(error) => Err(error),
        };
        self.met(Act::Read, (reading.lane, Some(next)), read).map_err(Ended::from)
    }

    /// Gives the keeper what is to be moved aside, and hears what is there by now.
    fn hear_of_poison(&mut self) {
        let mut tray = self.tray.borrow_mut();
        for (lane, seq) in tray.done.drain(..) {
            self.carrier.is_aside(lane, seq);
        }
        let before = tray.asides.len();
        tray.asides.extend(std::iter::from_fn(|| self.carrier.next_aside()));
        if tray.asides.len() > before {
            self.wake_keeper.notify_one();
        }
    }

    /// As [`Uplink::look_at_tails`], where a fault ends nothing: it is said, and looked at again.
    pub(super) fn look_at_tails_or_say(&mut self) {
        drop(self.look_at_tails());
    }

    /// Sees how far the lanes reach. One that is not there keeps nobody from the others.
    pub(super) fn look_at_tails(&mut self) -> Result<(), Ended> {
        let mut all = Ok(());
        for index in 0..self.setup.lanes.len() {
            let lane = self.setup.lanes[index].0;
            let end = self.source.end(lane);
            // After its end is known, before what stands there is sent: a lane that is to keep its order is told before the
            // messages that want it are routed.
            self.look_at_drains();
            match self.met(Act::Look, (lane, None), end) {
                Ok(tail) => self.carrier.grown(lane, tail),
                Err(error) => all = Err(error.into()),
            }
        }
        all
    }

    /// Sees which lanes live messages may pass.
    pub(super) fn look_at_drains(&mut self) {
        let drains = self.setup.drains.read();
        if self.drains == Some(drains) {
            return;
        }
        self.drains = Some(drains);
        for (index, (lane, _)) in self.setup.lanes.iter().enumerate() {
            self.carrier.set_live_first(*lane, drains.is_live_first(index));
        }
    }

    /// Tells the store what is delivered; it writes that down with its next group.
    pub(super) fn keep_positions(&mut self) {
        self.hear_of_poison();
        let mut delivered: Vec<(LaneId, Seq)> = std::mem::take(&mut self.delivered);
        self.carrier.delivered(&mut delivered);
        for (lane, up_to) in delivered.drain(..) {
            let kept = self.source.advance(lane, up_to);
            drop(self.met(Act::Keep, (lane, None), kept));
        }
        self.delivered = delivered;
    }

    /// Tells the store what is delivered behind what waits, so that it gives the space back and nothing of it is sent again.
    pub(super) fn keep_ahead(&mut self) {
        let mut ahead: Vec<Ahead> = Vec::new();
        self.carrier.delivered_ahead(&mut ahead);
        for ahead in &ahead {
            let kept = self.source.deliver_ahead(ahead);
            drop(self.met(Act::Keep, (ahead.lane, None), kept));
        }
    }

    /// Passes on what came of a call of the store about a lane, and how far it went there. A fault counts, and is said when it
    /// begins and when it is over.
    fn met<T>(
        &mut self,
        act: Act,
        (lane, next): (LaneId, Option<Seq>),
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let now = self.clock.now().instant;
        match &result {
            Ok(_) => {
                if let Some(over) = self.faults.went_well(act, lane, next, now) {
                    info!(uplink = %self.name, %lane, after_ms = over.millis, failed = over.met, "the store does again what it failed to do");
                }
            }
            Err(error) => {
                self.setup.status.store_faults.fetch_add(1, Ordering::Relaxed);
                if self.faults.failed(act, lane, next, now) {
                    warn!(uplink = %self.name, %lane, %error, "{}; it is said again when it is over", act.as_str());
                }
            }
        }
        result
    }
}
