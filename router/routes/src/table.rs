//! The route table: compiled once, shared by all shards, asked for every message.
//!
//! Knows: how the parts play together. May use: every file of this room.
//! In:  route texts; then messages. Out: all errors at once, or a table; then matches.
//! Invariant: a table never changes. What matching needs to write is in the caller's [`Scratch`].

mod compile;

use std::ops::Range;

use model::{Instant, Limits, Match, Message, Priority, Property, RouteId, SinkId};
use rustc_hash::FxHashSet;

use crate::Mode;
use crate::body::{self, Body};
use crate::boxes::Boxes;
use crate::few::Few;
use crate::gates::{Gate, State};
use crate::index::{Candidate, Index, Said};
use crate::memo::{Concerned, Identity};
use crate::program::{Code, Machine, Program};
use crate::project::Projection;
use crate::scratch::{Counters, Scratch};
use crate::sink::Sink;
use crate::slots::Slots;
use crate::topics::Topics;
use crate::value::{Truth, Value, folded, same_name};

/// A route as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// Its name, for errors and reports.
    pub name: String,
    /// Its text: `FROM … [WHERE …] INTO …`.
    pub text: String,
    /// Its urgency.
    pub priority: Priority,
    /// How long its messages are worth delivering; `None` means the global setting.
    pub ttl_millis: Option<u64>,
}

/// How routes are understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whose rules hold.
    pub mode: Mode,
    /// Bounds of routes and bodies.
    pub limits: Limits,
}

/// A route of a table.
#[derive(Clone, Debug)]
pub struct CompiledRoute {
    /// Name and text, one behind the other.
    words: Box<str>,
    name_bytes: u32,
    /// The routes of the same source.
    group: u32,
    priority: Priority,
    ttl_millis: Option<u64>,
    sinks: Few<SinkId>,
    pub(crate) projection: Option<Box<Projection>>,
    gates: Box<[Gate]>,
}

/// What matching needs of a route, apart from the rest: many routes of these fit into a cache.
#[derive(Clone, Debug)]
pub(crate) struct Hot {
    pub(crate) when: When,
    /// Where its code goes on if the index has said the first part.
    behind_first: u32,
    gated: bool,
    pub(crate) priority: Priority,
    pub(crate) ttl_millis: Option<u64>,
    /// Its part of the table's list of sinks.
    pub(crate) sinks: Range<u32>,
}

/// When a route whose source fits matches.
#[derive(Clone, Debug)]
pub(crate) enum When {
    /// The condition is constant.
    Constant(Truth),
    /// The condition must be asked.
    Holds(Code),
}

impl CompiledRoute {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.words[..self.name_bytes as usize]
    }

    /// Its text, as configured.
    pub fn text(&self) -> &str {
        &self.words[self.name_bytes as usize..]
    }

    /// Its urgency.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// Its time to live in milliseconds; `None` means the global setting.
    pub fn ttl_millis(&self) -> Option<u64> {
        self.ttl_millis
    }

    /// Whether it sends something else than the body as it came: then ask [`RouteTable::project`].
    pub fn projects(&self) -> bool {
        self.projection.is_some()
    }

    /// Whether it has a `SAMPLE`, `THROTTLE` or `CHANGED` clause.
    pub fn is_gated(&self) -> bool {
        !self.gates.is_empty()
    }

    /// Where it leads, ascending, each once.
    pub fn sinks(&self) -> &[SinkId] {
        self.sinks.as_slice()
    }
}

/// Routes that can be asked. `Send` and `Sync`: share it in an `Arc`.
#[derive(Debug)]
pub struct RouteTable {
    pub(crate) mode: Mode,
    pub(crate) limits: Limits,
    sinks: Vec<Sink>,
    pub(crate) routes: Vec<CompiledRoute>,
    hot: Vec<Hot>,
    route_sinks: Vec<SinkId>,
    pub(crate) topics: Topics,
    groups: Vec<Group>,
    pub(crate) slots: Slots,
    pub(crate) program: Program,
    needs_properties: bool,
    needs_state: bool,
    /// Tells what a [`Scratch`] remembers of this table from what it remembers of another.
    identity: Identity,
}

/// The time and what was remembered, where a call has them.
type Memory<'s> = Option<(Instant, &'s mut State)>;

/// The routes of one source. There can be as many as routes, each with one.
#[derive(Debug, Default)]
struct Group {
    /// Routes without a condition.
    always: Few<RouteId>,
    /// Routes that no index finds; each is asked.
    asked: Few<RouteId>,
    /// What finds the others; most sources have too few routes to need it.
    finder: Option<Box<Finder>>,
    /// Whether one of its routes has a clause that depends on earlier messages.
    gated: bool,
    reads_body: bool,
    reads_slots: bool,
}

/// Finds the routes of one source that can match.
#[derive(Debug, Default)]
struct Finder {
    index: Index,
    boxes: Option<Boxes>,
}

impl RouteTable {
    /// All sinks of the table, indexed by [`SinkId`]; equal ones are one.
    pub fn sinks(&self) -> &[Sink] {
        &self.sinks
    }

    /// All routes of the table, indexed by [`RouteId`], in the order of their specs.
    pub fn routes(&self) -> &[CompiledRoute] {
        &self.routes
    }

    /// Whether there are no routes.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Whether matching looks at application or system properties; if not, callers need not decode them. In
    /// edgeHub mode that is always so, because two names that differ only in case decide.
    /// Reading a body counts too: its content type is a system property.
    pub fn needs_properties(&self) -> bool {
        self.needs_properties
    }

    /// Whether a route samples, throttles or looks for changes; if not, [`RouteTable::matches`] says the same as
    /// [`RouteTable::matches_at`].
    pub fn needs_state(&self) -> bool {
        self.needs_state
    }

    /// Finds the sinks of `message`.
    ///
    /// `matches` is cleared, then filled in ascending [`SinkId`] order, each sink at most once; if several
    /// routes lead to one sink, the most urgent priority wins, with its time to live, and among equals the
    /// first route. `SAMPLE`, `THROTTLE` and `CHANGED` clauses let everything pass here.
    ///
    /// Cost: one walk down the topic index and at most one scan of the body, for any number of routes.
    /// Never fails: a predicate on a missing field is *undefined*, and undefined does not match.
    /// Source: route rules in `router/docs/routes.md` §3.
    pub fn matches(&self, message: &Message<'_>, scratch: &mut Scratch, matches: &mut Vec<Match>) {
        self.find(message, None, scratch, matches);
    }

    /// The same at a time and with a memory, so that `SAMPLE`, `THROTTLE` and `CHANGED` count.
    ///
    /// `now` must not go back between calls with one `state`. A route that is held back leaves its sinks to
    /// other routes. Source: `router/docs/routes.md` §8.
    pub fn matches_at(
        &self,
        message: &Message<'_>,
        now: Instant,
        state: &mut State,
        scratch: &mut Scratch,
        matches: &mut Vec<Match>,
    ) {
        self.find(message, Some((now, state)), scratch, matches);
    }

    fn find(
        &self,
        message: &Message<'_>,
        mut memory: Memory<'_>,
        scratch: &mut Scratch,
        matches: &mut Vec<Match>,
    ) {
        matches.clear();
        scratch.counters.messages += 1;
        if self.mode == Mode::EdgeHub && has_duplicate_names(message.properties) {
            scratch.counters.messages_dropped += 1;
            return;
        }
        let (place, known) = scratch.memo.place(&self.identity, message);
        if !known {
            self.concern(message, &mut scratch.name, scratch.memo.concerned(place));
        }
        let Concerned { groups, reads_slots, reads_body, waits_for_values } = scratch.memo.concerned(place);
        let (groups, reads_body, waits_for_values) = (groups.len(), *reads_body, *waits_for_values);
        if groups == 0 {
            return;
        }
        let body = if *reads_slots { self.fill(message, reads_body, scratch) } else { Body::NotRead };
        if waits_for_values && scratch.filled.written().is_empty() {
            return;
        }
        scratch.found.begin(self.sinks.len());
        for at in 0..groups {
            let group = scratch.memo.concerned(place).groups[at];
            self.match_group(&self.groups[group as usize], message, body, &mut memory, scratch);
        }
        scratch.found.take(&self.hot, matches);
    }

    /// Which groups a message concerns, and what they look at.
    fn concern(&self, message: &Message<'_>, name: &mut String, concerned: &mut Concerned) {
        self.topics.find(message.topic, message.source, name, &mut concerned.groups);
        let groups = || concerned.groups.iter().map(|group| &self.groups[*group as usize]);
        let reads_slots = groups().any(|group| group.reads_slots);
        let reads_body = groups().any(|group| group.reads_body);
        let waits_for_values = reads_slots && groups().all(Group::waits_for_values);
        *concerned = Concerned {
            groups: std::mem::take(&mut concerned.groups),
            reads_slots,
            reads_body,
            waits_for_values,
        };
    }

    pub(crate) fn projection(&self, route: RouteId) -> Option<&Projection> {
        self.routes.get(route.0 as usize)?.projection.as_deref()
    }

    /// Gives back what the vectors have to spare: a table stays as it is.
    fn shrink(&mut self) {
        self.sinks.shrink_to_fit();
        self.routes.shrink_to_fit();
        self.hot.shrink_to_fit();
        self.route_sinks.shrink_to_fit();
        self.groups.shrink_to_fit();
        self.topics.shrink();
        self.program.shrink();
    }

    /// Fills all slots; the body first, because properties can shadow it.
    pub(crate) fn fill<'t>(
        &self,
        message: &Message<'t>,
        reads_body: bool,
        scratch: &mut Scratch,
    ) -> Body<'t> {
        scratch.filled.begin(self.slots.len(), self.slots.paths().len());
        scratch.stack.elements.begin(&self.limits);
        let body = if reads_body { body::fill(self, message, scratch) } else { Body::NotRead };
        self.slots.fill(message, &mut scratch.filled, &mut scratch.name);
        body
    }

    /// What the condition of one route gives, whether or not its source fits.
    pub(crate) fn truth(&self, route: RouteId, message: &Message<'_>, scratch: &mut Scratch) -> Truth {
        self.with_machine(message, scratch, |machine| machine.asked(&self.hot(route).when))
    }

    /// Calls `with` with the value of the only route of a table made by [`RouteTable::of_value`], and its text if
    /// it is one.
    pub(crate) fn with_value<R>(
        &self,
        message: &Message<'_>,
        scratch: &mut Scratch,
        with: impl FnOnce(Value, &str) -> R,
    ) -> R {
        self.with_machine(message, scratch, |machine| {
            let value = match &self.hot(RouteId(0)).when {
                When::Constant(truth) => (*truth).into(),
                When::Holds(code) => machine.run(code),
            };
            let text = if let Value::Text(text) = value { machine.text(text) } else { "" };
            with(value, text)
        })
    }

    fn with_machine<R>(
        &self,
        message: &Message<'_>,
        scratch: &mut Scratch,
        with: impl FnOnce(&mut Machine<'_>) -> R,
    ) -> R {
        let body = self.fill(message, true, scratch);
        with(&mut Machine {
            program: &self.program,
            message,
            body: body.text(&scratch.decoded),
            encoding: body.encoding(),
            missing: body.missing(self.mode),
            filled: &scratch.filled,
            stack: &mut scratch.stack,
        })
    }

    /// The groups that a message concerns.
    pub(crate) fn groups_of(&self, message: &Message<'_>, scratch: &mut Scratch) -> Vec<u32> {
        let mut groups = Vec::new();
        self.topics.find(message.topic, message.source, &mut scratch.name, &mut groups);
        groups
    }

    pub(crate) fn group_of(&self, route: RouteId) -> u32 {
        self.routes[route.0 as usize].group
    }

    pub(crate) fn when(&self, route: RouteId) -> &When {
        &self.hot(route).when
    }

    /// Whether a route is asked for every message of its source.
    pub(crate) fn is_asked(&self, route: RouteId) -> bool {
        self.groups[self.group_of(route) as usize].asked.as_slice().contains(&route)
    }

    fn hot(&self, route: RouteId) -> &Hot {
        &self.hot[route.0 as usize]
    }

    fn match_group(
        &self,
        group: &Group,
        message: &Message<'_>,
        body: Body<'_>,
        memory: &mut Memory<'_>,
        scratch: &mut Scratch,
    ) {
        let mut machine = Machine {
            program: &self.program,
            message,
            body: body.text(&scratch.decoded),
            encoding: body.encoding(),
            missing: body.missing(self.mode),
            filled: &scratch.filled,
            stack: &mut scratch.stack,
        };
        let (found, counters) = (&mut scratch.found, &mut scratch.counters);
        let mut add = |id: RouteId, machine: &mut Machine<'_>| {
            let hot = self.hot(id);
            if hot.gated && !self.passes(id, machine, memory) {
                counters.held_back += 1;
                return;
            }
            found.add(id, hot, &self.route_sinks);
        };
        for &id in group.always.as_slice() {
            add(id, &mut machine);
        }
        self.find_candidates(group, &machine, &mut scratch.candidates, &mut scratch.bits);
        for candidate in &scratch.candidates {
            let id = candidate.route();
            let hot = self.hot(id);
            let holds = match (candidate.said(), &hot.when) {
                (Said::All, _) => true,
                (Said::First, When::Holds(code)) => {
                    machine.truth_behind_first(code, hot.behind_first) == Some(true)
                }
                (_, when) => machine.asked(when) == Some(true),
            };
            if holds {
                add(id, &mut machine);
            }
        }
        for &id in group.asked.as_slice() {
            if machine.asked(&self.hot(id).when) == Some(true) {
                add(id, &mut machine);
            }
        }
    }

    fn find_candidates(
        &self,
        group: &Group,
        machine: &Machine<'_>,
        candidates: &mut Vec<Candidate>,
        bits: &mut Vec<u64>,
    ) {
        candidates.clear();
        if let Some(finder) = &group.finder {
            finder.index.find(machine, candidates);
            if let Some(boxes) = &finder.boxes {
                boxes.find(machine, bits, candidates);
            }
        }
        if group.gated {
            // A route can be found in two ways, but must pass its gates once.
            candidates.sort_unstable_by_key(|candidate| candidate.route());
            candidates.dedup_by_key(|candidate| candidate.route());
        }
    }

    fn passes(&self, id: RouteId, machine: &mut Machine<'_>, memory: &mut Memory<'_>) -> bool {
        let Some((now, state)) = memory else { return true };
        // Every clause must pass, and one that holds back keeps those behind it from counting.
        self.routes[id.0 as usize].gates.iter().all(|gate| gate.passes(machine, *now, state))
    }
}

impl Group {
    /// Whether no route of it can match while no slot has a value.
    fn waits_for_values(&self) -> bool {
        let by_index = self.finder.as_ref().is_none_or(|finder| finder.index.waits_for_values());
        self.always.as_slice().is_empty() && self.asked.as_slice().is_empty() && by_index
    }
}

/// edgeHub cannot represent two properties whose names differ only in case, and drops the message (§3.5).
fn has_duplicate_names(properties: &[Property<'_>]) -> bool {
    const FEW: usize = 16;
    if properties.len() <= FEW {
        let twice = |at: usize| properties[..at].iter().any(|one| same_name(one.name, properties[at].name));
        return (1..properties.len()).any(twice);
    }
    let mut names: FxHashSet<String> = FxHashSet::default();
    properties.iter().any(|property| !names.insert(folded(property.name)))
}

impl Scratch {
    /// What was counted since this scratch exists.
    pub fn counters(&self) -> Counters {
        Counters { arrays_given_up: self.stack.elements.given_up, ..self.counters }
    }
}

impl Machine<'_> {
    fn asked(&mut self, when: &When) -> Truth {
        match when {
            When::Constant(truth) => *truth,
            When::Holds(code) => self.truth(code),
        }
    }
}

impl Body<'_> {
    fn missing(self, mode: Mode) -> Value {
        match (mode, self) {
            (Mode::EdgeHub, Body::AsItCame(_) | Body::Decoded) => Value::Null,
            _ => Value::Undefined,
        }
    }
}

#[cfg(test)]
mod tests;
