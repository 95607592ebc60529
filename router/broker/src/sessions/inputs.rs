//! Lanes of the inputs of one module, beside the lane of its session: one for each input and priority (decision 0075).
//!
//! Knows: what waits in each, what is on its way to the client, whose turn it is. Never: sockets, the disk, other sessions.
//! In: places, records, acknowledgements. Out: identifiers, heads of lanes.
//! Identifiers do not follow from places here, since all lanes share those of one connection: they are taken from the upper
//! half of the ring, the least used first; what is sent again has another one. All is QoS 1.
//! Always: within an input nothing goes while a more urgent lane of it has something to send; an input has no more than its
//! share on its way, so that one that is not acknowledged leaves the others theirs.
//! Bound: `Limits::module_lanes_max` lanes; what is on its way by the client's window, what waits by the session's queue.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::rc::Rc;

use model::{LaneId, Limits, Priority, Seq, Timestamp};

use super::inflight::packet_id_of;
use super::{Queued, Stored};

/// Identifiers below are those of the session's own lane, mostly.
const FIRST_ID: u16 = 32_768;
const IDS_MAX: usize = 32_768;
/// So many are used before one is used again.
const ROTATION: usize = 1_024;

/// A message that was sent and stands in no lane.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// The session record: see [`super::record`].
    pub(crate) record: Rc<[u8]>,
    pub(crate) expires: Option<Timestamp>,
}

/// A message on its way, or acknowledged behind one that is.
#[derive(Debug)]
struct Sent {
    packet_id: NonZeroU16,
    /// Its place; `None` if it stands in no lane.
    seq: Option<Seq>,
    kept: Option<Kept>,
    is_open: bool,
}

/// One lane.
#[derive(Debug)]
pub(crate) struct InputLane {
    pub(crate) input: Box<str>,
    pub(crate) priority: Priority,
    /// Names it while it is being opened.
    pub(crate) generation: u32,
    /// The broker reads nothing before it is open.
    pub(crate) awaited: bool,
    /// `None`: it is being opened; messages go into the session's own lane until then.
    pub(crate) stored: Option<Stored>,
    /// What the session's own lane has before this place goes first: it may be of this input.
    pub(crate) after: Seq,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    sent: VecDeque<Sent>,
    /// Number of the first of `sent`.
    first: u64,
    /// Of `sent`, those that stand in the lane and are not acknowledged.
    written_open: usize,
    /// Acknowledged on an earlier connection, behind what was not: not sent again.
    settled: BTreeSet<Seq>,
    /// Which input, counted from the first.
    number: u16,
}

impl InputLane {
    /// Where its head is: everything before is done.
    fn head(&self) -> Option<Seq> {
        let stored = self.stored.as_ref()?;
        let sent = match self.written_open {
            0 => None,
            _ => self.sent.iter().find(|sent| sent.is_open && sent.seq.is_some()).and_then(|sent| sent.seq),
        };
        let queued = self.queue.front().and_then(|queued| queued.seq);
        Some(sent.or(queued).unwrap_or(stored.read_to))
    }

    /// Whether it has something that was not sent.
    fn waits(&self) -> bool {
        !self.queue.is_empty() || self.stored.is_some_and(|stored| !stored.is_live())
    }

    pub(crate) fn next_queued(&self) -> Option<&Queued> {
        self.queue.front()
    }

    /// Whether memory holds everything of it, and nothing waits.
    pub(crate) fn is_next(&self) -> bool {
        self.stored.is_some_and(|stored| stored.is_live()) && self.queue.is_empty()
    }
}

/// All of a module.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    lanes: Vec<InputLane>,
    /// Places in `lanes`, the most urgent ones first.
    order: Vec<u16>,
    /// On their way, by input.
    open_by_input: Vec<usize>,
    open: usize,
    /// By identifier: which lane, and its number there.
    slots: Vec<Option<(u16, u64)>>,
    free: VecDeque<u16>,
    /// Of what waits, and of what is on its way and in no lane.
    bytes: usize,
    sends: u64,
    last_id: Option<NonZeroU16>,
    /// What a connection left that stands in no lane, in order, with the lane it belongs to.
    left: Vec<(u16, Kept)>,
}

impl Inputs {
    pub(crate) fn len(&self) -> usize {
        self.lanes.len()
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = &InputLane> {
        self.lanes.iter()
    }

    pub(crate) fn lane(&self, at: usize) -> &InputLane {
        &self.lanes[at]
    }

    pub(crate) fn lane_mut(&mut self, at: usize) -> &mut InputLane {
        &mut self.lanes[at]
    }

    pub(crate) fn find(&self, input: &str, priority: Priority) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.priority == priority && *lane.input == *input)
    }

    /// The lane that is being opened under this number.
    pub(crate) fn opening(&self, generation: u32) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.stored.is_none() && lane.generation == generation)
    }

    /// The lane of which this is the read under way.
    pub(crate) fn reading(&self, read: u32) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.stored.is_some_and(|stored| stored.reading == Some(read)))
    }

    /// Adds a lane.
    pub(crate) fn add(
        &mut self,
        input: &str,
        priority: Priority,
        generation: u32,
        stored: Option<Stored>,
        after: Seq,
    ) -> usize {
        let known = self.lanes.iter().find(|lane| *lane.input == *input).map(|lane| lane.number);
        let number = known.unwrap_or_else(|| {
            self.open_by_input.push(0);
            self.open_by_input.len() as u16 - 1
        });
        let at = self.lanes.len();
        self.lanes.push(InputLane {
            input: input.into(),
            priority,
            generation,
            awaited: false,
            stored,
            after,
            queue: VecDeque::new(),
            queue_bytes: 0,
            sent: VecDeque::new(),
            first: 0,
            written_open: 0,
            settled: BTreeSet::new(),
            number,
        });
        let lanes = &self.lanes;
        self.order.push(at as u16);
        self.order.sort_by_key(|at| lanes[usize::from(*at)].priority);
        at
    }

    /// Messages on their way.
    #[inline]
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Memory that messages take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages sent since the start, and the identifier of the last one.
    pub(crate) fn sends(&self) -> (u64, Option<NonZeroU16>) {
        (self.sends, self.last_id)
    }

    /// Whether a message of this lane may go as far as the other lanes and its share of the window are concerned;
    /// `sent_to`: how far the session's own lane was sent, of `next` places.
    pub(crate) fn may_send(
        &self,
        at: usize,
        window: u16,
        (sent_to, next): (Seq, Seq),
        limits: &Limits,
    ) -> bool {
        let lane = &self.lanes[at];
        // An eighth is for what else the module has subscribed to.
        let shared = usize::from(window - window / 8);
        let share = (shared / self.open_by_input.len().max(1)).max(1);
        self.open_by_input[usize::from(lane.number)] < share
            && self.open < shared
            && lane.sent.len() < limits.session_inflight_span() as usize
            && sent_to >= lane.after.min(next)
            && !self
                .lanes
                .iter()
                .any(|other| other.number == lane.number && other.priority < lane.priority && other.waits())
    }

    /// Whether one more may wait in memory: lanes have equal shares of what a session may have there.
    pub(crate) fn fits(&self, at: usize, limits: &Limits) -> bool {
        let (lane, lanes) = (&self.lanes[at], self.lanes.len() as u32);
        lane.queue.len() < (limits.session_queue_messages_max / lanes).max(1) as usize
            && lane.queue_bytes < (limits.session_queue_bytes_max / lanes) as usize
    }

    /// Whether the identifier of this place in the session's own lane is free of them.
    pub(crate) fn leaves(&self, seq: Option<Seq>) -> bool {
        seq.is_none_or(|seq| !self.has(packet_id_of(seq)))
    }

    /// Whether one that is on its way has this identifier.
    pub(crate) fn has(&self, packet_id: NonZeroU16) -> bool {
        let slot = usize::from(packet_id.get()).checked_sub(usize::from(FIRST_ID));
        slot.is_some_and(|slot| self.slots.get(slot).is_some_and(Option::is_some))
    }

    /// An identifier that none of them has, nor anything else of the session; `None`: all are in use.
    pub(crate) fn free_id(&mut self, is_taken: impl Fn(NonZeroU16) -> bool) -> Option<NonZeroU16> {
        for _ in 0..self.free.len() + ROTATION {
            let slot = match self.free.front() {
                Some(slot) if self.slots.len() >= ROTATION => *slot,
                _ if self.slots.len() < IDS_MAX => {
                    self.slots.push(None);
                    let slot = self.slots.len() as u16 - 1;
                    self.free.push_front(slot);
                    slot
                }
                Some(slot) => *slot,
                None => return None,
            };
            let packet_id = id_of(slot);
            if !is_taken(packet_id) {
                return Some(packet_id);
            }
            self.free.rotate_left(1);
        }
        None
    }

    /// A message has left under the identifier that was just given.
    pub(crate) fn sent(&mut self, at: usize, packet_id: NonZeroU16, seq: Option<Seq>, kept: Option<Kept>) {
        let slot = packet_id.get() - FIRST_ID;
        let taken = self.free.pop_front();
        debug_assert_eq!(taken, Some(slot), "the identifier is the one that was given");
        let lane = &mut self.lanes[at];
        self.slots[usize::from(slot)] = Some((at as u16, lane.first + lane.sent.len() as u64));
        self.bytes += kept.as_ref().map_or(0, |kept| kept.record.len());
        lane.written_open += usize::from(seq.is_some());
        lane.sent.push_back(Sent { packet_id, seq, kept, is_open: true });
        self.open_by_input[usize::from(lane.number)] += 1;
        self.open += 1;
        self.sends += 1;
        self.last_id = Some(packet_id);
    }

    /// The client has the message with this identifier: whose lane it was; `None` if it is none of them.
    pub(crate) fn settle(&mut self, packet_id: NonZeroU16) -> Option<usize> {
        let slot = packet_id.get().checked_sub(FIRST_ID)?;
        let (at, number) = self.slots.get_mut(usize::from(slot))?.take()?;
        self.free.push_back(slot);
        let lane = &mut self.lanes[usize::from(at)];
        let sent = lane.sent.get_mut((number - lane.first) as usize)?;
        sent.is_open = false;
        lane.written_open -= usize::from(sent.seq.is_some());
        self.bytes -= sent.kept.take().map_or(0, |kept| kept.record.len());
        self.open_by_input[usize::from(lane.number)] -= 1;
        self.open -= 1;
        while lane.sent.front().is_some_and(|sent| !sent.is_open) {
            lane.sent.pop_front();
            lane.first += 1;
        }
        Some(usize::from(at))
    }

    /// Puts a message behind the others of its lane; one that is done already is passed over.
    pub(crate) fn enqueue(&mut self, at: usize, queued: Queued) {
        let lane = &mut self.lanes[at];
        if queued.seq.is_some_and(|seq| lane.settled.remove(&seq)) {
            return;
        }
        lane.queue_bytes += queued.record.len();
        self.bytes += queued.record.len();
        lane.queue.push_back(queued);
    }

    /// Takes the message whose turn it is.
    pub(crate) fn dequeue(&mut self, at: usize) -> Option<Queued> {
        let lane = &mut self.lanes[at];
        let queued = lane.queue.pop_front()?;
        lane.queue_bytes -= queued.record.len();
        self.bytes -= queued.record.len();
        Some(queued)
    }

    /// Moves the head of a lane over what is done: the lane, and the last place that is.
    pub(crate) fn advance(&mut self, at: usize) -> Option<(LaneId, Seq)> {
        let lane = &mut self.lanes[at];
        let head = lane.head()?;
        let stored = lane.stored.as_mut()?;
        if head <= stored.head {
            return None;
        }
        stored.head = head;
        while lane.settled.first().is_some_and(|seq| *seq < head) {
            lane.settled.pop_first();
        }
        Some((stored.lane, Seq::new(head.get() - 1)?))
    }

    /// The next round: among lanes of the same urgency another one is the first.
    pub(crate) fn rotate(&mut self) {
        let lanes = &self.lanes;
        let priority = |at: &u16| lanes[usize::from(*at)].priority;
        self.order
            .chunk_by_mut(|one, other| priority(one) == priority(other))
            .for_each(|same| same.rotate_left(1));
    }

    /// The lane that is number `turn` in this round; the most urgent ones come first.
    pub(crate) fn in_turn(&self, turn: usize) -> usize {
        usize::from(self.order[turn])
    }

    /// Everything that the session's own lane has before this place goes before what is in these.
    pub(crate) fn wait_for(&mut self, next: Seq) {
        for lane in &mut self.lanes {
            lane.after = lane.after.max(next);
        }
    }

    /// Forgets what memory holds; what stands in no lane waits to be taken by [`Inputs::take_left`].
    pub(crate) fn disconnect(&mut self) {
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            let unsent = lane.queue.front().and_then(|queued| queued.seq);
            (lane.queue, lane.queue_bytes) = (VecDeque::new(), 0);
            for sent in std::mem::take(&mut lane.sent) {
                match (sent.is_open, sent.seq, sent.kept) {
                    (false, Some(seq), _) => _ = lane.settled.insert(seq),
                    (true, None, Some(kept)) => self.left.push((at as u16, kept)),
                    _ => {}
                }
            }
            lane.written_open = 0;
            if let Some(stored) = &mut lane.stored {
                stored.sent_before = stored.sent_before.max(unsent.unwrap_or(stored.read_to));
                stored.read_to = stored.head;
                stored.reading = None;
                lane.settled.retain(|seq| *seq >= stored.head);
            }
        }
        self.open_by_input.fill(0);
        (self.open, self.bytes) = (0, 0);
        (self.slots, self.free) = (Vec::new(), VecDeque::new());
    }

    /// What the connection left that is to be written.
    pub(crate) fn take_left(&mut self) -> Vec<(u16, Kept)> {
        std::mem::take(&mut self.left)
    }

    /// Checks what must hold between turns.
    pub(crate) fn invariants(&self, is_connected: bool) {
        let mut bytes = 0;
        for lane in &self.lanes {
            let queued: usize = lane.queue.iter().map(|queued| queued.record.len()).sum();
            assert_eq!(lane.queue_bytes, queued, "queue bytes are counted");
            let kept = lane.sent.iter().filter_map(|sent| sent.kept.as_ref());
            bytes += queued + kept.map(|kept| kept.record.len()).sum::<usize>();
            let written = lane.sent.iter().filter(|sent| sent.is_open && sent.seq.is_some()).count();
            assert_eq!(lane.written_open, written, "what is on its way is counted");
            assert!(lane.sent.front().is_none_or(|sent| sent.is_open), "the first one is open");
            for (number, sent) in (lane.first..).zip(&lane.sent).filter(|(_, sent)| sent.is_open) {
                let slot = self.slots[usize::from(sent.packet_id.get() - FIRST_ID)];
                let place = slot.map(|(at, number)| (&*self.lanes[usize::from(at)].input, number));
                assert_eq!(place, Some((&*lane.input, number)), "an identifier leads to its message");
            }
            if let Some(stored) = &lane.stored {
                assert!(stored.head <= stored.read_to && stored.read_to <= stored.next, "{stored:?}");
                assert!(lane.settled.iter().all(|seq| (stored.head..stored.next).contains(seq)));
            } else {
                assert!(lane.queue.is_empty() && lane.sent.is_empty(), "nothing goes before it is open");
            }
        }
        assert_eq!(self.bytes, bytes, "bytes that wait are counted");
        let open = self.slots.iter().flatten().count();
        assert_eq!((self.open, self.open_by_input.iter().sum::<usize>()), (open, open), "and messages");
        assert_eq!(self.slots.len(), open + self.free.len(), "every identifier is free or in use");
        assert!(is_connected || self.bytes == 0 && self.open == 0, "memory holds only for who is there");
        assert!(self.left.is_empty(), "what was left is written");
    }
}

fn id_of(slot: u16) -> NonZeroU16 {
    NonZeroU16::new(FIRST_ID + slot.min(IDS_MAX as u16 - 1)).expect("not 0")
}
