//! The lanes of one uplink: what was sent, what was acknowledged, which is next.
//!
//! In: how far each lane reaches, acknowledgements. Out: the lane to read next and the places that are delivered.
//! Invariant per lane: `head <= next <= tail`; the window holds exactly the places `head..next`.

use std::collections::VecDeque;

use model::{LaneId, Priority, Seq};

/// One lane and its part of the window.
#[derive(Debug)]
pub struct LaneWindow {
    /// Which lane.
    pub lane: LaneId,
    /// Its urgency.
    pub priority: Priority,
    head: Seq,
    next: Seq,
    tail: Seq,
    sent_before: Seq,
    acknowledged: VecDeque<bool>,
}

impl LaneWindow {
    /// First place to send.
    pub fn next(&self) -> Seq {
        self.next
    }

    /// Messages that are not delivered yet.
    pub fn backlog(&self) -> u64 {
        self.tail.get() - self.head.get()
    }

    /// Whether this place had been sent before the link was last lost.
    pub fn is_repeat(&self, seq: Seq) -> bool {
        seq < self.sent_before
    }

    /// Settles a place; the last delivered place, if that moved.
    fn settle(&mut self, seq: Seq) -> Option<Seq> {
        let index = seq.get().checked_sub(self.head.get())?;
        *self.acknowledged.get_mut(index as usize)? = true;
        self.drop_front()
    }

    /// Places up to this one (not included) need not be sent: they count as settled.
    fn skip_to(&mut self, next: Seq) {
        while self.next < next {
            self.acknowledged.push_back(true);
            self.next = self.next.next();
        }
    }

    /// Drops the settled front of the window; the last delivered place, if there is one.
    fn drop_front(&mut self) -> Option<Seq> {
        let mut delivered = None;
        while self.acknowledged.front() == Some(&true) {
            self.acknowledged.pop_front();
            delivered = Some(self.head);
            self.head = self.head.next();
        }
        delivered
    }
}

/// All lanes of one uplink, most urgent first.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: Vec<LaneWindow>,
}

impl Lanes {
    /// Adds a lane with what is in it: the first place that is not delivered and the place the next record will get.
    pub fn add(&mut self, lane: LaneId, priority: Priority, head: Seq, tail: Seq) {
        self.lanes.push(LaneWindow {
            lane,
            priority,
            head,
            next: head,
            tail: tail.max(head),
            sent_before: head,
            acknowledged: VecDeque::new(),
        });
        self.lanes.sort_by_key(|lane| lane.priority);
    }

    /// The lane reaches up to here now.
    pub fn grown(&mut self, lane: LaneId, tail: Seq) {
        if let Some(lane) = self.lanes.iter_mut().find(|have| have.lane == lane) {
            lane.tail = lane.tail.max(tail);
        }
    }

    /// The most urgent lane with something to send, as an index.
    pub fn most_urgent(&self) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.next < lane.tail)
    }

    /// A lane by its index.
    pub fn lane(&self, index: usize) -> &LaneWindow {
        &self.lanes[index]
    }

    /// Every lane, most urgent first.
    pub fn iter(&self) -> impl Iterator<Item = &LaneWindow> {
        self.lanes.iter()
    }

    /// A place of this lane was sent; places skipped on the way (expired) count as settled.
    pub fn sent(&mut self, index: usize, seq: Seq) {
        let lane = &mut self.lanes[index];
        assert!(seq >= lane.next, "a lane is sent in order");
        lane.skip_to(seq);
        lane.acknowledged.push_back(false);
        lane.next = seq.next();
    }

    /// Nothing is left before this place (all expired or removed); the last delivered place, if that moved.
    pub fn skipped_to(&mut self, index: usize, next: Seq) -> Option<(LaneId, Seq)> {
        let lane = &mut self.lanes[index];
        lane.skip_to(next);
        lane.tail = lane.tail.max(lane.next);
        lane.drop_front().map(|delivered| (lane.lane, delivered))
    }

    /// The upstream acknowledged a place; the last delivered place of that lane, if that moved.
    pub fn settle(&mut self, index: usize, seq: Seq) -> Option<(LaneId, Seq)> {
        let lane = &mut self.lanes[index];
        lane.settle(seq).map(|delivered| (lane.lane, delivered))
    }

    /// The link is lost: everything that was not acknowledged will be sent again.
    pub fn rewind(&mut self) {
        for lane in &mut self.lanes {
            lane.sent_before = lane.sent_before.max(lane.next);
            lane.next = lane.head;
            lane.acknowledged.clear();
        }
    }

    /// Messages that are not delivered yet, over all lanes.
    pub fn backlog(&self) -> u64 {
        self.lanes.iter().map(LaneWindow::backlog).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(number: u64) -> Seq {
        Seq::new(number).expect("not zero")
    }

    fn lanes() -> Lanes {
        let mut lanes = Lanes::default();
        lanes.add(LaneId(1), Priority::DEFAULT, seq(1), seq(5));
        lanes.add(LaneId(2), Priority::HIGHEST, seq(10), seq(10));
        lanes
    }

    #[test]
    fn an_urgent_message_overtakes_a_backlog() {
        let mut lanes = lanes();
        assert_eq!(lanes.most_urgent().map(|index| lanes.lane(index).lane), Some(LaneId(1)));
        lanes.grown(LaneId(2), seq(11));
        assert_eq!(lanes.most_urgent().map(|index| lanes.lane(index).lane), Some(LaneId(2)));
    }

    #[test]
    fn delivered_moves_only_without_gaps() {
        let mut lanes = lanes();
        let index = lanes.most_urgent().expect("a backlog");
        for number in 1..=3 {
            lanes.sent(index, seq(number));
        }
        assert_eq!(lanes.settle(index, seq(2)), None);
        assert_eq!(lanes.settle(index, seq(1)), Some((LaneId(1), seq(2))));
        assert_eq!(lanes.settle(index, seq(1)), None, "a late repeat of an acknowledgement changes nothing");
        assert_eq!(lanes.lane(index).backlog(), 2);
    }

    #[test]
    fn after_a_lost_link_the_unacknowledged_is_sent_again_as_repeat() {
        let mut lanes = lanes();
        let index = lanes.most_urgent().expect("a backlog");
        lanes.sent(index, seq(1));
        lanes.sent(index, seq(2));
        lanes.settle(index, seq(1));
        lanes.rewind();
        assert_eq!(lanes.lane(index).next(), seq(2));
        assert!(lanes.lane(index).is_repeat(seq(2)));
        assert!(!lanes.lane(index).is_repeat(seq(3)));
    }

    #[test]
    fn expired_places_count_as_settled_in_their_turn() {
        let mut lanes = lanes();
        let index = lanes.most_urgent().expect("a backlog");
        lanes.sent(index, seq(1));
        lanes.sent(index, seq(4));
        assert_eq!(lanes.settle(index, seq(4)), None);
        assert_eq!(lanes.settle(index, seq(1)), Some((LaneId(1), seq(4))));
        lanes.grown(LaneId(1), seq(9));
        assert_eq!(lanes.skipped_to(index, seq(9)), Some((LaneId(1), seq(8))));
        assert_eq!(lanes.backlog(), 0);
    }
}
