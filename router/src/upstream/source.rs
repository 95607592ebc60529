//! Where an uplink reads from: a lane as a whole, its log first and then its front.
//!
//! In: places. Out: records, in order, whichever holds them; positions for the store and for the disk thread.
//! Always: what leaves a front for the log is in the log before; so who misses it in the front finds it in the log.

use std::sync::Arc;

use broker::front::Given;
use broker::uplink::Ahead;
use model::{LaneId, Seq, Timestamp};
use store::{ReadLimits, ReadOut, Reader, StoreError};

use crate::fronts::FrontBoard;

/// Looks at the log again if a record leaves the front just then; more often than that it does not happen to one place.
const LOOKS_MAX: usize = 3;

/// See the charter.
#[derive(Clone)]
pub(crate) struct Source {
    reader: Reader,
    fronts: Arc<FrontBoard>,
    given: Vec<Given>,
}

impl Source {
    /// Of this store and these fronts.
    pub(crate) fn new(reader: Reader, fronts: Arc<FrontBoard>) -> Source {
        Source { reader, fronts, given: Vec::new() }
    }

    /// What is in the log alone.
    pub(crate) fn log(&self) -> &Reader {
        &self.reader
    }

    /// The first place that is not delivered, and the place that the next record gets.
    pub(crate) fn bounds(&self, lane: LaneId) -> Result<(Seq, Seq), StoreError> {
        // The front first: what leaves it meanwhile is in the log then.
        let front = self.fronts.end(lane);
        let (head, tail) = self.reader.bounds_of(lane)?;
        Ok((head, front.map_or(tail, |end| end.max(tail))))
    }

    /// The place that the next record gets. Reads nothing: it is asked at every event.
    pub(crate) fn end(&self, lane: LaneId) -> Result<Seq, StoreError> {
        let front = self.fronts.end(lane);
        let tail = self.reader.end_of(lane)?;
        Ok(front.map_or(tail, |end| end.max(tail)))
    }

    /// As [`Reader::read_lane`], and on into the front.
    pub(crate) fn read_lane(
        &mut self,
        lane: LaneId,
        from: Seq,
        limits: ReadLimits,
        now: Timestamp,
        out: &mut ReadOut,
    ) -> Result<(), StoreError> {
        for _ in 0..LOOKS_MAX {
            self.reader.read_lane(lane, from, limits, now, out)?;
            if !out.is_empty() || out.next() > from {
                break;
            }
            let bounds = (limits.messages_max, limits.bytes_max);
            if let Some((next, expired)) = self.fronts.read(lane, from, bounds, now, &mut self.given) {
                for it in self.given.drain(..) {
                    out.give(it.seq, it.enqueued, it.expires, &it.bytes);
                }
                out.give_up_to(next, expired);
                break;
            }
        }
        self.fronts.read_to(lane, out.next());
        Ok(())
    }

    /// Everything up to `up_to` is delivered: the store keeps what is in the log, the disk thread hears of the rest.
    pub(crate) fn advance(&self, lane: LaneId, up_to: Seq) -> Result<(), StoreError> {
        let advanced = match self.reader.advance(lane, up_to) {
            Err(StoreError::NotAppended { tail, .. }) => match Seq::new(tail.get() - 1) {
                Some(last) => self.reader.advance(lane, last),
                None => Ok(()),
            },
            result => result,
        };
        self.fronts.delivered(lane, up_to);
        advanced
    }

    /// These are delivered, although something before them in their lane is not. What is in a front stays there.
    pub(crate) fn deliver_ahead(&self, ahead: &Ahead) -> Result<(), StoreError> {
        self.reader.deliver_ahead(ahead.lane, ahead.from, ahead.up_to)
    }

    /// The link that carries these lanes came up, or is down.
    pub(crate) fn set_link(&self, lanes: impl Iterator<Item = LaneId>, up: bool) {
        self.fronts.set_link(lanes, up);
    }
}
