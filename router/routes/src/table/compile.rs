//! From route texts to a table: everything is checked, named and indexed here, once.
//!
//! Knows: how the parts of a table are filled. May use: what `table` uses, and the parser and the checker.
//! In:  route texts in their order. Out: all errors of a route, or its place in the table.
//! Invariant: a route with an error leaves no route behind; the caller then throws the whole table away.

use model::{RouteId, SinkId};
use rustc_hash::{FxHashMap, FxHashSet};

use super::*;
use crate::boxes::{Bound, SIDES_MAX};
use crate::check::{check, check_value};
use crate::diagnostic::{Fault, RouteError};
use crate::index::{Way, best_way, bounds};
use crate::parser;
use crate::sink::TopicTemplate;
use crate::slots::SlotId;
use crate::syntax::{Expr, Route, SinkText, Source};
use crate::types::{Constant, Node};

/// [`check`] or [`check_value`].
type Check = fn(&Expr, Mode, &Limits, &mut Slots) -> Result<Node, Vec<Fault>>;

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
    fn finish(&mut self, mut ways: Vec<Found>) {
        if ways.len() < INDEXED_MIN {
            ways.iter().for_each(|found| self.asked.push(found.id));
            return;
        }
        let mut finder = Box::new(Finder { boxes: take_boxes(&mut ways), ..Finder::default() });
        for Found { id, way, said, .. } in &ways {
            finder.index.add(way, *id, *said);
        }
        finder.index.finish();
        self.finder = Some(finder);
    }
}

/// Takes the routes with several bounds out of `ways`, if there are enough of them and few enough sides.
fn take_boxes(ways: &mut Vec<Found>) -> Option<Boxes> {
    let bounds = || ways.iter().filter_map(|found| found.bounds.as_ref());
    let sides: FxHashSet<_> =
        bounds().flat_map(|(bounds, _)| bounds.iter().map(|bound| (bound.key, bound.side))).collect();
    if bounds().count() < BOXED_MIN || sides.len() > SIDES_MAX {
        return None;
    }
    let (boxed, rest): (Vec<Found>, Vec<Found>) = ways.drain(..).partition(|found| found.bounds.is_some());
    *ways = rest;
    let boxed: Vec<(Candidate, Vec<Bound>)> = boxed
        .into_iter()
        .filter_map(|found| {
            let (bounds, exact) = found.bounds?;
            let said = if exact { Said::All } else { Said::Nothing };
            Some((Candidate::new(found.id, said), bounds))
        })
        .collect();
    Some(Boxes::new(&boxed))
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
            words: [spec.name.as_str(), spec.text.as_str()].concat().into(),
            name_bytes: spec.name.len() as u32,
            group: group as u32,
            priority: spec.priority,
            ttl_millis: spec.ttl_millis,
            sinks: sinks.into_iter().collect(),
            projection: projection.map(Box::new),
            gates: gates.into(),
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
