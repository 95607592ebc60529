//! The route table: compiled once, shared by all shards, asked for every message.
//!
//! Knows: how the parts play together. May use: every file of this room.
//! In:  route texts; then messages. Out: all errors at once, or a table; then matches.
//! Invariant: a table never changes. What matching needs to write is in the caller's [`Scratch`].

use std::ops::Range;

use model::{Instant, Limits, Match, Message, Priority, Property, RouteId, SinkId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::Mode;
use crate::body::{self, Body};
use crate::boxes::{Bound, Boxes, SIDES_MAX};
use crate::check::{check, check_value};
use crate::diagnostic::{Fault, RouteError};
use crate::gates::{Gate, State};
use crate::index::{Candidate, Index, Said, Way, best_way, bounds};
use crate::memo::{Concerned, Identity};
use crate::parser;
use crate::program::{Code, Machine, Program};
use crate::project::Projection;
use crate::scratch::{Counters, Scratch};
use crate::sink::{Sink, TopicTemplate};
use crate::slots::{SlotId, Slots};
use crate::syntax::{Expr, Route, SinkText, Source};
use crate::topics::Topics;
use crate::types::{Constant, Node};
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
    pub(crate) name: Box<str>,
    pub(crate) text: Box<str>,
    pub(crate) priority: Priority,
    pub(crate) ttl_millis: Option<u64>,
    pub(crate) sinks: Box<[SinkId]>,
    pub(crate) projection: Option<Box<Projection>>,
    gates: Box<[Gate]>,
    /// The routes of the same source.
    group: u32,
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
        &self.name
    }

    /// Its text, as configured.
    pub fn text(&self) -> &str {
        &self.text
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
        &self.sinks
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

/// [`check`] or [`check_value`].
type Check = fn(&Expr, Mode, &Limits, &mut Slots) -> Result<Node, Vec<Fault>>;

/// The time and what was remembered, where a call has them.
type Memory<'s> = Option<(Instant, &'s mut State)>;

/// The routes of one source.
#[derive(Debug, Default)]
struct Group {
    /// Routes without a condition.
    always: Vec<RouteId>,
    /// Boxed like `boxes`, because most sources have too few routes to need one.
    index: Option<Box<Index>>,
    /// Routes that no index finds; each is asked.
    asked: Vec<RouteId>,
    boxes: Option<Box<Boxes>>,
    /// Whether one of its routes has a clause that depends on earlier messages.
    gated: bool,
    reads_body: bool,
    reads_slots: bool,
}

impl RouteTable {
    /// Compiles `specs` in their order; a route's place is its [`RouteId`].
    ///
    /// Errors: all that can be found, of all routes; then there is no table. Two routes may share a name.
    /// Cost: about linear in the bytes of all routes. Source: `router/docs/routes.md`.
    pub fn compile(specs: &[RouteSpec], options: &Options) -> Result<RouteTable, Vec<RouteError>> {
        let mut compiler = Compiler::new(options);
        let mut errors = Vec::new();
        for (number, spec) in specs.iter().enumerate() {
            if number >= options.limits.routes_max as usize {
                let message =
                    format!("there are {} routes, allowed are {}", specs.len(), options.limits.routes_max);
                errors.push(Fault::new(0..0, message).in_route(&spec.name, &spec.text));
                break;
            }
            if let Err(faults) = compiler.add(spec) {
                errors.extend(faults.into_iter().map(|fault| fault.in_route(&spec.name, &spec.text)));
            }
        }
        if errors.is_empty() { Ok(compiler.finish()) } else { Err(errors) }
    }

    /// A table without routes: nothing matches.
    pub fn empty() -> RouteTable {
        Compiler::new(&Options::default()).table
    }

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
        scratch.filled.begin(&self.slots);
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
            missing: body.missing(self.mode),
            filled: &scratch.filled,
            stack: &mut scratch.stack,
        })
    }

    /// A table with one route that has this condition; the condition may be empty.
    pub(crate) fn of_condition(text: &str, options: &Options) -> Result<RouteTable, Vec<RouteError>> {
        RouteTable::of(text, options, check)
    }

    /// A table with one route whose condition is this expression, of whatever type.
    pub(crate) fn of_value(text: &str, options: &Options) -> Result<RouteTable, Vec<RouteError>> {
        RouteTable::of(text, options, check_value)
    }

    fn of(text: &str, options: &Options, check: Check) -> Result<RouteTable, Vec<RouteError>> {
        let mut compiler = Compiler::new(options);
        let (name, text) = ("condition".to_owned(), text.to_owned());
        let spec = RouteSpec { name, text, priority: Priority::DEFAULT, ttl_millis: None };
        let slots = &mut compiler.table.slots;
        let condition = parser::parse_condition(&spec.text, options.mode, &options.limits)
            .map_err(|fault| vec![fault])
            .and_then(|parsed| check(&parsed, options.mode, &options.limits, slots))
            .map_err(|faults| {
                faults.into_iter().map(|fault| fault.in_route(&spec.name, &spec.text)).collect::<Vec<_>>()
            })?;
        let (gates, reads, sinks) = (Vec::new(), Vec::new(), Vec::new());
        compiler.install(
            &spec,
            &Source::Path("/*".into()),
            Parts { condition, projection: None, gates, reads, sinks },
        );
        Ok(compiler.table)
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
        self.groups[self.group_of(route) as usize].asked.contains(&route)
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
        for &id in &group.always {
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
        for &id in &group.asked {
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
        if let Some(index) = &group.index {
            index.find(machine, candidates);
        }
        if let Some(boxes) = &group.boxes {
            boxes.find(machine, bits, candidates);
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

/// How a route of a group can be found, until its index is built.
#[derive(Debug)]
struct Found {
    id: RouteId,
    way: Way,
    said: Said,
    /// Its bounds, if it has several and nothing better.
    bounds: Option<(Vec<Bound>, bool)>,
}

/// From this many routes with several bounds on, they are worth rows of bits.
const BOXED_MIN: usize = if cfg!(test) { 2 } else { 16 };

/// From this many routes of one source on an index is faster than asking each, and worth its memory.
const INDEXED_MIN: usize = if cfg!(test) { 1 } else { 5 };

impl Group {
    /// Whether no route of it can match while no slot has a value.
    fn waits_for_values(&self) -> bool {
        let by_index = self.index.as_ref().is_none_or(|index| index.waits_for_values());
        self.always.is_empty() && self.asked.is_empty() && by_index
    }

    fn finish(&mut self, mut ways: Vec<Found>) {
        if ways.len() < INDEXED_MIN {
            self.asked.extend(ways.iter().map(|found| found.id));
            return;
        }
        self.finish_boxes(&mut ways);
        let mut index = Box::<Index>::default();
        for Found { id, way, said, .. } in &ways {
            index.add(way, *id, *said);
        }
        index.finish();
        self.index = Some(index);
    }

    /// Takes the routes with several bounds out of `ways`, if there are enough of them and few enough sides.
    fn finish_boxes(&mut self, ways: &mut Vec<Found>) {
        let bounds = || ways.iter().filter_map(|found| found.bounds.as_ref());
        let sides: FxHashSet<_> =
            bounds().flat_map(|(bounds, _)| bounds.iter().map(|bound| (bound.key, bound.side))).collect();
        if bounds().count() < BOXED_MIN || sides.len() > SIDES_MAX {
            return;
        }
        let (boxed, rest): (Vec<Found>, Vec<Found>) =
            ways.drain(..).partition(|found| found.bounds.is_some());
        *ways = rest;
        let boxed: Vec<(Candidate, Vec<Bound>)> = boxed
            .into_iter()
            .filter_map(|found| {
                let (bounds, exact) = found.bounds?;
                let said = if exact { Said::All } else { Said::Nothing };
                Some((Candidate::new(found.id, said), bounds))
            })
            .collect();
        self.boxes = Some(Box::new(Boxes::new(&boxed)));
    }
}

struct Compiler {
    table: RouteTable,
    sinks: FxHashMap<Sink, SinkId>,
    /// What is to be indexed, with its group.
    ways: Vec<(u32, Found)>,
}

impl Compiler {
    fn new(options: &Options) -> Compiler {
        let table = RouteTable {
            mode: options.mode,
            limits: options.limits.clone(),
            sinks: Vec::new(),
            routes: Vec::new(),
            hot: Vec::new(),
            route_sinks: Vec::new(),
            topics: Topics::default(),
            groups: Vec::new(),
            slots: Slots::default(),
            program: Program::default(),
            needs_properties: options.mode == Mode::EdgeHub,
            needs_state: false,
            identity: Identity::default(),
        };
        Compiler { table, sinks: FxHashMap::default(), ways: Vec::new() }
    }

    fn add(&mut self, spec: &RouteSpec) -> Result<(), Vec<Fault>> {
        let table = &mut self.table;
        let parsed = parser::parse(&spec.text, table.mode, &table.limits).map_err(|fault| vec![fault])?;
        let (mode, limits) = (table.mode, &table.limits);
        let mut faults = Vec::new();
        let mut keep = |more: Vec<Fault>| faults.extend(more);
        let condition = check(&parsed.condition, mode, limits, &mut table.slots).map_err(&mut keep);
        let projection = parsed.select.as_ref().map(|select| {
            Projection::compile(select, mode, limits, &mut table.slots, &mut table.program).map_err(&mut keep)
        });
        let mut reads = Vec::new();
        let names = (spec.name.as_str(), spec.text.as_str());
        let (slots, program) = (&mut table.slots, &mut table.program);
        let gates = Gate::compile_all(&parsed.gates, names, (mode, limits), slots, program, &mut reads);
        let gates = gates.map_err(&mut keep);
        let sinks = self.sinks_of(&parsed).map_err(&mut keep);
        match (condition, projection.transpose(), gates, sinks) {
            (Ok(condition), Ok(projection), Ok(gates), Ok(sinks)) => {
                let parts = Parts { condition, projection, gates, reads, sinks };
                self.install(spec, &parsed.source, parts);
                Ok(())
            }
            _ => Err(faults),
        }
    }

    fn install(&mut self, spec: &RouteSpec, source: &Source, parts: Parts) {
        let Parts { mut condition, projection, gates, mut reads, sinks } = parts;
        let table = &mut self.table;
        let id = RouteId(table.routes.len() as u32);
        let way = best_way(&mut condition);
        let when = match &condition {
            Node::Constant(Constant::Bool(truth)) => When::Constant(Some(*truth)),
            Node::Constant(_) => When::Constant(None),
            condition => When::Holds(table.program.emit_route(condition)),
        };
        let behind_first = match &when {
            When::Constant(_) => 0,
            When::Holds(code) => table.program.behind_first(code),
        };
        let group = table.topics.add(source) as usize;
        table.groups.resize_with(table.topics.groups() as usize, Group::default);
        // A condition that is constant and not true never holds.
        if !matches!(when, When::Constant(None | Some(false))) {
            let group_id = group as u32;
            let group = &mut table.groups[group];
            match way {
                _ if matches!(when, When::Constant(_)) => group.always.push(id),
                Some((way, said)) => {
                    let bounds = if way.is_bound() { bounds(&condition) } else { None };
                    self.ways.push((group_id, Found { id, way, said, bounds }));
                }
                None => group.asked.push(id),
            }
            reads.extend(condition.slots());
            group.gated |= !gates.is_empty();
            group.reads_slots |= !reads.is_empty();
            group.reads_body |= reads.iter().any(|slot| table.slots.origins(*slot).is_body());
            table.needs_state |= !gates.is_empty();
            // What is sent is decided with the body and perhaps properties too.
            table.needs_properties |= projection.is_some()
                || reads.iter().any(|slot| {
                    let origins = table.slots.origins(*slot);
                    origins.is_property() || origins.is_body()
                });
        }
        let first = table.route_sinks.len() as u32;
        table.route_sinks.extend(&sinks);
        table.hot.push(Hot {
            when,
            behind_first,
            gated: !gates.is_empty(),
            priority: spec.priority,
            ttl_millis: spec.ttl_millis,
            sinks: first..table.route_sinks.len() as u32,
        });
        table.routes.push(CompiledRoute {
            name: spec.name.as_str().into(),
            text: spec.text.as_str().into(),
            priority: spec.priority,
            ttl_millis: spec.ttl_millis,
            sinks: sinks.into(),
            projection: projection.map(Box::new),
            gates: gates.into(),
            group: group as u32,
        });
    }

    fn finish(mut self) -> RouteTable {
        // Stable: within a group the routes stay in their order.
        self.ways.sort_by_key(|(group, _)| *group);
        let mut ways = self.ways.into_iter().peekable();
        while let Some((group, found)) = ways.next() {
            let mut of_group = vec![found];
            while let Some((_, found)) = ways.next_if(|(next, _)| *next == group) {
                of_group.push(found);
            }
            self.table.groups[group as usize].finish(of_group);
        }
        self.table.shrink();
        self.table
    }

    fn sinks_of(&mut self, parsed: &Route) -> Result<Vec<SinkId>, Vec<Fault>> {
        let (mut ids, mut faults) = (Vec::new(), Vec::new());
        for sink in &parsed.sinks {
            match understand(sink) {
                Ok(sink) => ids.push(self.sink(sink)),
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn sink(&mut self, sink: Sink) -> SinkId {
        let sinks = &mut self.table.sinks;
        if let Sink::Topic(template) = &sink {
            self.table.needs_properties |= template.needs_properties();
        }
        *self.sinks.entry(sink.clone()).or_insert_with(|| {
            sinks.push(sink);
            SinkId(sinks.len() as u32 - 1)
        })
    }
}

/// A checked route on its way into the table.
struct Parts {
    condition: Node,
    projection: Option<Projection>,
    gates: Vec<Gate>,
    /// Slots that the gates read.
    reads: Vec<SlotId>,
    sinks: Vec<SinkId>,
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

fn understand(sink: &SinkText) -> Result<Sink, Fault> {
    Ok(match sink {
        SinkText::Upstream => Sink::Upstream,
        SinkText::Uplink(name) => Sink::Uplink(name.clone()),
        SinkText::Input { module, input } => Sink::Input { module: module.clone(), input: input.clone() },
        SinkText::Topic { template, span } => match TopicTemplate::parse(template) {
            Ok(template) => Sink::Topic(template),
            // Escapes may shift what is inside the quotes; then the whole text is shown.
            Err(fault) if span.len() == template.len() + 2 => {
                let (start, end) = (span.start + 1 + fault.span.start, span.start + 1 + fault.span.end);
                return Err(Fault { span: start..end, ..fault });
            }
            Err(fault) => return Err(Fault { span: span.clone(), ..fault }),
        },
    })
}

impl Scratch {
    /// What was counted since this scratch exists.
    pub fn counters(&self) -> Counters {
        self.counters
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
