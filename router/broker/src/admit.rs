//! Station 4: whether there is room for a publication, before anything of it is delivered or appended.
//!
//! In: the levels that the disk thread publishes; a publication that passed the session rules. Out: what it needs that is
//! not there, for all its sinks together; later, sink by sink, what goes without it.
//! Always: while everything is roomy and the store takes writes, nothing here is asked. Nobody gets a message that is
//! refused, or waits. What is ours already (handed over by another shard, passed on, a will) is never refused here: the
//! shard that read it has decided, and its levels may be a moment older than ours.
//!
//! Who goes without: of QoS 0 and of messages that nobody can send again (wills), each sink that has no room, counted and
//! on the tray of losses. `limits.commit_bytes_max` bounds what waits in memory for a store that takes no writes.

use std::num::NonZeroU64;

use model::{ConnId, Match, Priority, Qos, RouteId};

use crate::broker::Broker;
use crate::dispatch::{Forward, MessageParts, Publication, add_forward};
use crate::effects::{Effects, Loss, LossReason};
use crate::plan::{Durability, Plan, SinkPlan};
use crate::sessions::Keeping;

/// Losses of one turn that are told apart by route and sender.
const LOSSES_APART_MAX: usize = 64;

/// How much more a store, or the lanes of an uplink, take.
///
/// Who publishes levels does so with hysteresis: every change lets all waiting connections try again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Everything.
    #[default]
    Roomy,
    /// Urgent priorities only: the rest of the space is their reserve.
    FullForOrdinary,
    /// Nothing.
    FullForUrgent,
}

impl Level {
    /// Whether there is room for a message of this priority.
    pub const fn takes(self, priority: Priority) -> bool {
        match self {
            Level::Roomy => true,
            Level::FullForOrdinary => priority.is_urgent(),
            Level::FullForUrgent => false,
        }
    }

    /// The level with this number; the numbers are those of the variants in their order, and more is full.
    pub const fn from_u8(number: u8) -> Level {
        match number {
            0 => Level::Roomy,
            1 => Level::FullForOrdinary,
            _ => Level::FullForUrgent,
        }
    }
}

/// What happens to messages for an uplink that has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// The publisher is told, or waits, and nobody gets the message; QoS 0 is dropped for this uplink alone.
    #[default]
    Refuse,
    /// The disk makes room; if it cannot, as [`WhenFull::DropNewest`].
    DropOldest,
    /// The message is dropped for this uplink alone, counted, and acknowledged.
    DropNewest,
}

/// How much room there is, as the disk thread last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Whether the store takes writes. While it does not, what was appended is kept in memory and written later.
    pub takes_writes: bool,
    /// For what is stored and leads to no uplink: stored sessions.
    pub store: Level,
    /// By number of the uplink, with the store's level and the uplink's policy in it.
    pub uplinks: Box<[Level]>,
    /// By number of the uplink: whether records of `spill` routes are held for it although the store takes no writes.
    pub fronts: Box<[bool]>,
}

impl Default for Levels {
    fn default() -> Levels {
        Levels { takes_writes: true, store: Level::Roomy, uplinks: Box::default(), fronts: Box::default() }
    }
}

impl Levels {
    /// The level of an uplink; one that nobody spoke of is roomy.
    pub fn uplink(&self, number: u32) -> Level {
        self.uplinks.get(number as usize).copied().unwrap_or_default()
    }

    /// Whether records of `spill` routes to an uplink are held in memory, whatever the store does.
    pub fn holds_for(&self, number: u32) -> bool {
        self.fronts.get(number as usize).copied().unwrap_or(false)
    }

    /// Whether there is room for everything.
    pub fn are_roomy(&self) -> bool {
        self.takes_writes && self.store == Level::Roomy && self.uplinks.iter().all(|it| *it == Level::Roomy)
    }
}

/// What a publication needs that there may be too little of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// A sink that refuses has no room for it.
    pub(crate) refused: bool,
    /// Its acknowledgement must wait for the disk.
    pub(crate) disk: bool,
    /// It must be held in memory until the disk has it.
    pub(crate) memory: bool,
    /// A sink that drops what comes has no room for it.
    pub(crate) dropped: bool,
}

impl Broker {
    /// There is more room, or less: who waited may try again, in the order in which they began to wait.
    pub(crate) fn on_levels(&mut self, levels: Levels, effects: &mut Effects) {
        self.is_tight = !levels.are_roomy();
        self.is_careful = self.is_tight || self.setup.rooms.has_bounds();
        self.levels = levels;
        let withheld = |it: &mut crate::connections::Connection| Some((it.withheld.take()?, it.id));
        let mut waiting: Vec<(NonZeroU64, ConnId)> =
            self.connections.iter_mut().filter_map(withheld).collect();
        waiting.sort_unstable();
        effects.resumed.extend(waiting.into_iter().map(|(_, conn)| conn));
        if !self.walks.is_empty() {
            self.wake_walks(effects);
        }
    }

    /// Connections that wait for room.
    pub fn withheld(&self) -> usize {
        if !self.is_careful {
            return 0;
        }
        self.connections.iter().filter(|connection| connection.withheld.is_some()).count()
    }

    /// Whether as much is appended and not durable as may be.
    #[inline]
    pub(crate) fn is_behind(&self) -> bool {
        self.appended_bytes - self.durable_bytes > u64::from(self.setup.limits.commit_bytes_max)
    }

    /// Whether the store takes no writes, and no memory is left for what it would have to take.
    pub(crate) fn holds_no_more(&self) -> bool {
        !self.levels.takes_writes && self.is_behind()
    }

    /// What a publication of QoS 1 or 2 needs, rather too much than too little: it may turn out that a clause of a route
    /// holds it back, or that a session is its publisher's own.
    pub(crate) fn needs_of(&mut self, publication: &Publication<'_>) -> Needs {
        let mut needs = Needs::default();
        self.ask_subscriptions(publication.envelope.topic, publication.hub, &mut needs);
        if self.plan.table.is_empty() {
            return needs;
        }
        let plan = std::rc::Rc::clone(&self.plan);
        let publication = &publication.for_lanes(&plan);
        let parts = MessageParts::new(publication, plan.table.needs_properties());
        let message = parts.message(publication);
        let mut matches = std::mem::take(&mut self.scratch.matches);
        let mut forwards = std::mem::take(&mut self.scratch.forwards);
        forwards.clear();
        // Without the memory of SAMPLE and its like: a message that is refused must not have counted.
        plan.table.matches(&message, &mut self.scratch.routes, &mut matches);
        for found in &matches {
            match plan.sink(found) {
                Some(SinkPlan::Lanes { .. }) => {
                    self.counters.bugs += u64::from(!add_forward(&mut forwards, &plan, found));
                }
                Some(SinkPlan::Topic) => {
                    let mut topic = std::mem::take(&mut self.scratch.topic);
                    topic.clear();
                    if let Some(routes::Sink::Topic(template)) = plan.table.sinks().get(found.sink.0 as usize)
                        && template.render(&message, &mut topic).is_ok()
                    {
                        self.ask_subscriptions(&topic, None, &mut needs);
                    }
                    self.scratch.topic = topic;
                }
                Some(SinkPlan::Input) => {
                    let mut topic = std::mem::take(&mut self.scratch.topic);
                    if self.input_topic(found, &plan, &mut topic) {
                        self.ask_subscriptions(&topic, None, &mut needs);
                    }
                    self.scratch.topic = topic;
                }
                None => {}
            }
        }
        let len = publication.envelope.encoded_len() as u64;
        for forward in &forwards {
            self.ask_lane(forward, len, &plan, publication.envelope.qos, &mut needs);
        }
        self.scratch.matches = matches;
        self.scratch.forwards = forwards;
        needs
    }

    /// Whether stored sessions want a topic: they have their messages on disk, and no priority. `hub`: it is the topic of
    /// telemetry, and this is what it says.
    fn ask_subscriptions(
        &mut self,
        topic: &str,
        hub: Option<&hub::mapping::Properties<'_>>,
        needs: &mut Needs,
    ) {
        let mut found = std::mem::take(&mut self.scratch.found);
        self.subscriptions.find(topic, &mut found);
        if let Some(properties) = hub {
            self.leave_out_sender(&mut found, properties);
        }
        let is_stored = found.remote.kept != 0
            || found.entries.iter().any(|entry| entry.stored && entry.qos != Qos::AtMostOnce)
            || found.shares.iter().any(|key| self.subscriptions.shares.group(*key).is_kept());
        self.scratch.found = found;
        needs.disk |= is_stored;
        needs.refused |= is_stored && !self.levels.store.takes(Priority::DEFAULT);
    }

    /// Takes the room that a message needs; what is not used is given back behind the packet.
    fn ask_lane(&mut self, forward: &Forward, len: u64, plan: &Plan, qos: Qos, needs: &mut Needs) {
        // A clause that holds the most urgent way back leaves the sink to a less urgent, or stricter one.
        let is_sure = !is_gated(plan, &forward.best);
        let priority = if is_sure { forward.best.priority } else { Priority::DEFAULT };
        let refuses = forward.when_full == WhenFull::Refuse;
        if self.levels.uplink(forward.uplink).takes(priority)
            && (!refuses || self.setup.rooms.take(forward.uplink, priority, len))
        {
            if refuses {
                self.rooms_taken.push((forward.uplink, len));
            }
            let is_held = match forward.durability.of(qos) {
                Durability::Disk => false,
                Durability::Spill => self.levels.holds_for(forward.uplink),
                Durability::Memory => true,
            };
            needs.disk |= !is_sure || !is_held;
            needs.memory = true;
        } else {
            needs.refused |= refuses;
            needs.dropped |= !refuses;
        }
    }

    /// The packet at hand is done with: gives back the room that was taken for it and that it did not use.
    pub(crate) fn give_back_room(&mut self) {
        for (uplink, len) in self.rooms_taken.drain(..) {
            self.setup.rooms.give_back(uplink, len);
        }
    }

    /// Whether there is room for a message in an uplink with a bound, which is taken then.
    fn take_room(&mut self, forward: &Forward, publication: &Publication<'_>) -> bool {
        let (uplink, len) = (forward.uplink, publication.envelope.encoded_len() as u64);
        if let Some(at) = self.rooms_taken.iter().position(|(of, _)| *of == uplink) {
            self.rooms_taken.swap_remove(at);
            return true;
        }
        let level = self.levels.uplink(uplink);
        if level.takes(forward.best.priority) && self.setup.rooms.take(uplink, forward.best.priority, len) {
            return true;
        }
        // It was let in when there was room for the largest message of every shard; its publisher will be told so.
        let is_admitted = publication.envelope.qos != Qos::AtMostOnce
            && forward.when_full == WhenFull::Refuse
            && !(self.is_tight || self.publishes_will);
        if is_admitted {
            self.setup.rooms.take_anyway(uplink, len);
        }
        is_admitted
    }

    /// Whether an uplink takes a message now. What it does not take is lost for it alone, counted and noted.
    #[cold]
    pub(crate) fn has_room_for(
        &mut self,
        forward: &Forward,
        publication: &Publication<'_>,
        effects: &mut Effects,
    ) -> bool {
        let is_full = !self.levels.uplink(forward.uplink).takes(forward.best.priority);
        let is_lost = publication.envelope.qos == Qos::AtMostOnce && self.holds_no_more();
        let reason = if !is_full && is_lost {
            self.counters.dropped_store_fails += 1;
            LossReason::StoreFails
        } else if !self.take_room(forward, publication) {
            self.counters.dropped_sink_full += 1;
            LossReason::SinkFull
        } else {
            return true;
        };
        let (bytes, at) = (publication.envelope.encoded_len() as u64, publication.now.timestamp);
        let (lane, route, sender) = (forward.lane, forward.best.route, publication.envelope.client_id);
        let has = |it: &Loss, route: Option<RouteId>, sender: &str| {
            (it.lane, it.reason, it.route, &*it.sender) == (lane, reason, route, sender)
        };
        // A turn with more kinds of losses than are told apart has the rest under nobody's name.
        let is_rest = effects.losses.len() >= LOSSES_APART_MAX;
        let known = match effects.losses.iter().rposition(|it| has(it, Some(route), sender)) {
            None if is_rest => effects.losses.iter().rposition(|it| has(it, None, "")),
            known => known,
        };
        match known.map(|at| &mut effects.losses[at]) {
            Some(loss) => {
                loss.count += 1;
                loss.bytes += bytes;
                loss.up_to = at;
            }
            None => effects.losses.push(Loss {
                lane,
                reason,
                route: (!is_rest).then_some(route),
                sender: if is_rest { "" } else { sender }.into(),
                count: 1,
                bytes,
                from: at,
                up_to: at,
            }),
        }
        false
    }

    /// QoS and RETAIN of a will. Nobody can be asked to send it again, so it may use what is left for urgent messages;
    /// when not even that is there, it goes out at QoS 0 to those who are connected.
    pub(crate) fn as_room_allows(&mut self, qos: Qos, retain: bool) -> (Qos, bool) {
        let weakened = if self.holds_no_more() {
            (Qos::AtMostOnce, false)
        } else if !self.levels.store.takes(Priority::HIGHEST) {
            (Qos::AtMostOnce, retain)
        } else {
            return (qos, retain);
        };
        self.counters.wills_weakened += u64::from(weakened != (qos, retain));
        weakened
    }

    /// Whether a CONNECT would have to be written down and cannot be.
    pub(crate) fn cannot_remember(&self, client_id: &str, expiry_secs: u32) -> bool {
        let known = self.by_client.get(client_id).and_then(|key| self.sessions.get(key.0 as usize));
        let is_stored = known.is_some_and(|session| session.keeping != Keeping::Clean);
        self.holds_no_more() && (expiry_secs > 0 || is_stored)
    }
}

fn is_gated(plan: &Plan, found: &Match) -> bool {
    plan.table.routes().get(found.route.0 as usize).is_none_or(routes::CompiledRoute::is_gated)
}
