//! How a new subscription gets what is retained: a walk along the topics, a slice in each turn.
//!
//! In: a subscription, room in the outbox, the queue or the lane of its session. Out: deliveries with RETAIN set.
//! Always: a walk looks at so many topics in a turn and no more, however many there are; it waits where the subscriber
//! is slow, so that it never drops for want of room. What changed after the subscription was made went there live, and
//! is passed over.
//! A stored session's messages of QoS 1 and 2 go to its lane at once, before SUBACK: it promises all of them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use model::{ConnId, Now, Qos};
use wire::{RetainHandling, Subscription};

use super::filter::{Look, look, start};
use super::{Record, Retained, RetainedNumbers, State};
use crate::acks::{Acks, Answer, Promise};
use crate::broker::Broker;
use crate::connections::Phase;
use crate::delivery::{Terms, fits_queue};
use crate::dispatch::Publication;
use crate::effects::Effects;
use crate::envelope::Envelope;
use crate::sessions::{Keeping, SubscriptionOptions};
use crate::subscriptions::SessionKey;

/// Topics looked at in one turn.
///
/// 512: about a tenth of a millisecond, also if each of them is delivered.
const SLICE: usize = 512;
/// Messages that a walk puts into a clean session's queue.
const QUEUED_MAX: usize = 64;
/// It goes on when the queue has come down to this.
pub(crate) const WALK_QUEUED_LOW: usize = QUEUED_MAX / 2;

/// Which messages a walk delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    All,
    /// Those that a stored session keeps: QoS 1 and 2.
    Kept,
    /// The others of a stored session: QoS 0, for this connection only.
    Passing,
}

/// How far one subscription is.
#[derive(Debug)]
struct Walk {
    filter: Box<str>,
    /// Highest QoS to deliver with.
    granted: Qos,
    no_local: bool,
    subscription_id: u32,
    part: Part,
    /// [`Retained::changes`] when the subscription was made.
    since: u64,
    /// The first topic not looked at.
    at: Vec<u8>,
    /// Whose SUBACK waits for the end of the walk.
    waiting: Option<ConnId>,
}

/// The walks of one session, in turn.
#[derive(Debug, Default)]
struct Queue {
    walks: VecDeque<Walk>,
    /// Whether the session stands in `Walks::ready`.
    ready: bool,
}

/// Every walk that is not at its end. At most one or two for each subscription of a session.
#[derive(Debug, Default)]
pub(crate) struct Walks {
    sessions: BTreeMap<SessionKey, Queue>,
    /// Sessions whose walk goes on in the next turns, in turn.
    ready: VecDeque<SessionKey>,
}

impl Walks {
    /// Whether there is none.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    fn wake(&mut self, key: SessionKey) {
        if let Some(queue) = self.sessions.get_mut(&key)
            && !queue.ready
        {
            queue.ready = true;
            self.ready.push_back(key);
        }
    }

    /// The session is gone.
    pub(crate) fn end(&mut self, key: SessionKey) {
        if self.sessions.remove(&key).is_some() {
            self.ready.retain(|other| *other != key);
        }
    }

    /// The connection of a session is gone: what can only go there ends.
    pub(crate) fn leave(&mut self, key: SessionKey) {
        let Some(queue) = self.sessions.get_mut(&key) else { return };
        queue.walks.retain(|walk| walk.part == Part::Kept);
        if queue.walks.is_empty() {
            self.end(key);
        }
    }

    /// A subscription is made again: what its walks still deliver goes on the new terms; if `again`, they end, because
    /// everything is sent again. A walk that a SUBACK waits for stays: it came in the same SUBSCRIBE.
    fn replace(&mut self, key: SessionKey, filter: &str, options: &SubscriptionOptions, again: bool) {
        let Some(queue) = self.sessions.get_mut(&key) else { return };
        queue.walks.retain(|walk| *walk.filter != *filter || !again || walk.waiting.is_some());
        for walk in queue.walks.iter_mut().filter(|walk| *walk.filter == *filter) {
            walk.granted = options.qos;
            walk.no_local = options.no_local;
            walk.subscription_id = options.subscription_id;
        }
        if queue.walks.is_empty() {
            self.end(key);
        }
    }

    /// A subscription is gone.
    pub(crate) fn forget(&mut self, key: SessionKey, filter: &str) {
        let Some(queue) = self.sessions.get_mut(&key) else { return };
        queue.walks.retain(|walk| *walk.filter != *filter);
        if queue.walks.is_empty() {
            self.end(key);
        }
    }

    /// Checks what must hold between turns.
    pub(crate) fn invariants(&self, sessions: impl Fn(SessionKey) -> bool) {
        for (key, queue) in &self.sessions {
            assert!(sessions(*key), "a walk belongs to a session");
            assert!(!queue.walks.is_empty(), "a queue without walks does not exist");
            assert_eq!(queue.ready, self.ready.contains(key), "who is ready stands there once");
        }
        assert!(self.ready.len() <= self.sessions.len(), "nobody else is ready");
    }
}

/// What a step of a walk came to.
enum Step {
    /// It goes on in a later turn.
    Later,
    /// Something else must happen first, and wakes it.
    Waits,
    /// It is at its end.
    Over,
}

impl Broker {
    /// A subscription was granted: what is retained goes there. `existed`: the session had it before. Returns for how
    /// many walks the SUBACK of `conn` must wait.
    pub(crate) fn send_retained(
        &mut self,
        conn: ConnId,
        key: SessionKey,
        wanted: &Subscription,
        existed: bool,
        effects: &mut Effects,
    ) -> u32 {
        let filter = wanted.filter.as_str();
        let wants = match wanted.retain_handling {
            RetainHandling::Send => true,          // [MQTT-3.3.1-9]
            RetainHandling::SendIfNew => !existed, // [MQTT-3.3.1-10]
            RetainHandling::DoNotSend => false,    // [MQTT-3.3.1-11]
        };
        // Shared subscriptions get none (MQTT 5.0 §4.8.2).
        if filter.starts_with("$share/") {
            return 0;
        }
        let Some(session) = self.sessions.get(key.0 as usize) else { return 0 };
        let Some(options) = session.subscriptions.get(filter) else { return 0 };
        if existed {
            self.walks.replace(key, filter, options, wants);
        }
        if !wants || !self.retained.may_match(filter) {
            return 0;
        }
        let walk = |part, waiting| Walk {
            filter: filter.into(),
            granted: options.qos,
            no_local: options.no_local,
            subscription_id: options.subscription_id,
            part,
            since: self.retained.changes(),
            at: start(filter).into(),
            waiting,
        };
        let queue = self.walks.sessions.entry(key).or_default();
        let keeps = session.is_stored() && options.qos != Qos::AtMostOnce;
        if keeps {
            // First, because a SUBACK waits for it, and all others wait for a SUBACK.
            queue.walks.push_front(walk(Part::Kept, Some(conn)));
            queue.walks.push_back(walk(Part::Passing, None));
        } else {
            queue.walks.push_back(walk(Part::All, None));
        }
        self.wake_walk(key, effects);
        u32::from(keeps)
    }

    /// Something changed for a session that its walk may have waited for.
    pub(crate) fn wake_walk(&mut self, key: SessionKey, effects: &mut Effects) {
        self.walks.wake(key);
        effects.walk |= !self.walks.ready.is_empty();
    }

    /// The same for all: memory, the disk.
    pub(crate) fn wake_walks(&mut self, effects: &mut Effects) {
        let keys: Vec<SessionKey> = self.walks.sessions.keys().copied().collect();
        for key in keys {
            self.wake_walk(key, effects);
        }
    }

    /// Goes on with what subscriptions get of the retained messages, one slice of one subscription. Call it in a turn
    /// of its own when [`Effects::walk`] asks for it, after others had theirs.
    pub fn walk(&mut self, now: Now, effects: &mut Effects) {
        if let Some(key) = self.walks.ready.pop_front()
            && let Some(queue) = self.walks.sessions.get_mut(&key)
            && let Some(mut walk) = queue.walks.pop_front()
        {
            queue.ready = false;
            // Both are taken, so that the rest of us can be used meanwhile.
            let retained = std::mem::take(&mut self.retained);
            let step = self.step(key, &mut walk, &retained, now, effects);
            self.retained = retained;
            self.after_step(key, walk, &step, now, effects);
        }
        effects.walk |= !self.walks.ready.is_empty();
    }

    fn after_step(&mut self, key: SessionKey, walk: Walk, step: &Step, now: Now, effects: &mut Effects) {
        let Some(queue) = self.walks.sessions.get_mut(&key) else { return };
        if !matches!(step, Step::Over) {
            queue.walks.push_front(walk);
            if matches!(step, Step::Later) {
                self.walks.wake(key);
            }
            return;
        }
        if queue.walks.is_empty() {
            self.walks.end(key);
        } else {
            self.walks.wake(key);
        }
        if let Some(conn) = walk.waiting {
            let promise = Promise { ticket: effects.appends.last, ..Promise::default() };
            if self.acks.check(&promise).is_some() {
                self.let_go(conn, now, effects);
            } else {
                self.acks.wait(Acks::queue(&promise), conn, promise, Answer::Held);
            }
        }
    }

    /// One slice.
    fn step(
        &mut self,
        key: SessionKey,
        walk: &mut Walk,
        retained: &Retained,
        now: Now,
        effects: &mut Effects,
    ) -> Step {
        let mut topics = retained.from(&walk.at);
        let mut seek = Vec::new();
        for _ in 0..SLICE {
            let Some((record, state)) = topics.next() else { return Step::Over };
            match look(&walk.filter, record.topic(), &mut seek) {
                Look::End => return Step::Over,
                Look::Seek => topics = retained.from(&seek),
                Look::Next => {}
                Look::Match => {
                    if !self.deliver_retained(key, walk, (record, state), now, effects) {
                        walk.at = record.topic().into();
                        return Step::Waits;
                    }
                }
            }
        }
        let Some((record, _)) = topics.next() else { return Step::Over };
        walk.at = record.topic().into();
        Step::Later
    }

    /// Delivers one message, if it is for this walk; `false` if it must wait.
    fn deliver_retained(
        &mut self,
        key: SessionKey,
        walk: &Walk,
        (record, state): (&Record, &State),
        now: Now,
        effects: &mut Effects,
    ) -> bool {
        if record.is_gone() || state.changed > walk.since || state.is_expired(now.timestamp) {
            return true;
        }
        let Ok(envelope) = Envelope::decode(&record.0) else {
            self.counters.bugs += 1;
            return true;
        };
        let qos = envelope.qos.min(walk.granted); // [MQTT-3.8.4-8]
        let wanted = match walk.part {
            Part::All => true,
            Part::Kept => qos != Qos::AtMostOnce,
            Part::Passing => qos == Qos::AtMostOnce,
        };
        let Some(session) = self.sessions.get(key.0 as usize) else { return true };
        // [MQTT-3.8.3-3] knows no exception for retained messages.
        if !wanted || walk.no_local && *session.client_id == *envelope.client_id {
            return true;
        }
        if !self.has_room_for_retained(key, qos) {
            return false;
        }
        let id = [walk.subscription_id];
        let subscription_ids = if walk.subscription_id == 0 { &[][..] } else { &id };
        let terms = Terms { qos, retain: true, subscription_ids, share: "" }; // [MQTT3-3.3.1-8]
        self.deliver_alone(
            key,
            &Publication {
                envelope,
                user: "",
                expires: state.expires,
                now,
                hub: None,
                is_written: true,
                input: None,
            },
            terms,
            effects,
        );
        true
    }

    /// Whether a walk may put a message there now; if not, whoever makes room wakes it.
    fn has_room_for_retained(&self, key: SessionKey, qos: Qos) -> bool {
        let limits = &self.setup.limits;
        let Some(session) = self.sessions.get(key.0 as usize) else { return true };
        if let (Keeping::Stored(_), Qos::AtLeastOnce | Qos::ExactlyOnce) = (session.keeping, qos) {
            return !self.is_behind();
        }
        let Some(connection) = session.conn.and_then(|conn| self.connections.get(conn)) else { return true };
        // Behind SUBACK; half of the outbox stays for what is live.
        connection.held.is_none()
            && matches!(connection.phase, Phase::Open(_))
            && connection.outbox.len() <= limits.outbox_bytes_max as usize / 2
            && !self.is_memory_full()
            && (qos == Qos::AtMostOnce || session.queue.len() < QUEUED_MAX && fits_queue(session, limits))
    }

    /// How much is retained, and how many walks there are.
    pub fn retained(&self) -> RetainedNumbers {
        let walks = self.walks.sessions.values().map(|queue| queue.walks.len()).sum();
        self.retained.numbers(walks)
    }
}

impl Retained {
    /// The topics from `at` on.
    pub(super) fn from(&self, at: &[u8]) -> std::collections::btree_map::Range<'_, Record, State> {
        self.topics.range::<[u8], _>((Bound::Included(at), Bound::Unbounded))
    }

    /// Whether there is anything behind the literal start of `filter`.
    fn may_match(&self, filter: &str) -> bool {
        let start = start(filter).as_bytes();
        self.from(start).next().is_some_and(|(record, _)| record.topic().starts_with(start))
    }
}
