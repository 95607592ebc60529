//! Why a message goes where it goes, and how a table finds its routes. For people; not for the data path.
//!
//! Knows: how to take a condition apart and show each part's value. May use: every file of this room.
//! In:  a table and perhaps a message. Out: a report that prints itself.
//! Invariant: what is reported is computed by the evaluator itself, part by part; there are no second rules.

use std::fmt;

use model::{Match, Message, RouteId, SinkId};

use crate::index::{Key, Said, best_way};
use crate::parser;
use crate::paths;
use crate::scratch::Scratch;
use crate::slots::{Origins, SlotId, Slots};
use crate::syntax::{Expr, ExprKind, LogicOp, Source};
use crate::table::{Options, RouteTable, When};
use crate::value::{Truth, Value};

/// Most reasons that are given for one route.
const REASONS_MAX: usize = 8;
/// Longest value that is shown, in characters.
const SHOWN_MAX: usize = 80;

/// What a table says to one message, route by route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// All routes, in their order.
    pub routes: Vec<RouteExplanation>,
}

/// What one route says to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteExplanation {
    /// The route.
    pub route: RouteId,
    /// Its name.
    pub name: String,
    /// What it says.
    pub verdict: Verdict,
}

/// Whether a route matches, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It matches.
    Matches {
        /// The sinks that it decides.
        sinks: Vec<SinkId>,
        /// Sinks that a more urgent route, or an earlier one of the same urgency, decides.
        overruled: Vec<(SinkId, RouteId)>,
    },
    /// The message does not come from its source.
    OtherSource {
        /// The source as written.
        source: String,
    },
    /// Its condition is not true.
    NotTrue {
        /// False, or undefined, which also does not match.
        undefined: bool,
        /// The parts that made it so.
        because: Vec<Reason>,
    },
}

/// A part of a condition and what it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The part as written.
    pub expression: String,
    /// `false`, `undefined`, or `true` below a NOT.
    pub value: String,
    /// The operands that are not constant, with their values.
    pub operands: Vec<(String, String)>,
}

/// How a table works, route by route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePlan {
    /// The route.
    pub route: RouteId,
    /// Its name.
    pub name: String,
    /// Its source as written.
    pub source: String,
    /// What it costs a message that comes from its source.
    pub cost: Cost,
    /// How it is found, for example `equality of $body.line`; empty if it is not by an index.
    pub found_by: String,
    /// What it looks at.
    pub reads: Vec<String>,
}

/// What a route costs a message of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// Nothing: its condition can never hold.
    Never,
    /// It always matches.
    Always,
    /// Nothing unless it matches: an index says its whole condition.
    Indexed,
    /// Its condition is asked only if an index proposes it.
    Proposed,
    /// Its condition is asked for every message.
    Asked,
}

impl RouteTable {
    /// Says for every route whether it matches `message`, and if not, which part of its condition was false or
    /// undefined, with the values it was computed from. `SAMPLE`, `THROTTLE` and `CHANGED` are not asked.
    ///
    /// Cost: compiles parts of conditions again; for tools, not for the data path.
    pub fn explain(&self, message: &Message<'_>) -> Explanation {
        let (mut scratch, mut matches) = (Scratch::new(), Vec::new());
        self.matches(message, &mut scratch, &mut matches);
        let groups = self.groups_of(message, &mut scratch);
        let explain = |id: RouteId| {
            let route = &self.routes[id.0 as usize];
            let parsed = parser::parse(route.text(), self.mode, &self.limits).ok();
            let verdict = match self.truth(id, message, &mut scratch) {
                _ if !groups.contains(&self.group_of(id)) => Verdict::OtherSource {
                    source: parsed.map_or(String::new(), |parsed| show_source(&parsed.source)),
                },
                Some(true) => {
                    let decided = |sink: &SinkId| matches.iter().find(|found| found.sink == *sink);
                    let (own, other): (Vec<&Match>, Vec<&Match>) =
                        route.sinks().iter().filter_map(decided).partition(|found| found.route == id);
                    Verdict::Matches {
                        sinks: own.iter().map(|found| found.sink).collect(),
                        overruled: other.iter().map(|found| (found.sink, found.route)).collect(),
                    }
                }
                truth => {
                    let mut because = Vec::new();
                    if let Some(parsed) = parsed {
                        let options = Options { mode: self.mode, limits: self.limits.clone() };
                        let asker = Asker { text: route.text(), options: &options, message };
                        asker.reasons(&parsed.condition, &mut because);
                    }
                    Verdict::NotTrue { undefined: truth.is_none(), because }
                }
            };
            RouteExplanation { route: id, name: route.name().to_owned(), verdict }
        };
        Explanation { routes: (0..self.routes.len() as u32).map(RouteId).map(explain).collect() }
    }

    /// Says for every route how it is found, what it reads and what that costs.
    pub fn plan(&self) -> Vec<RoutePlan> {
        (0..self.routes.len() as u32).map(RouteId).map(|id| self.plan_of(id)).collect()
    }

    fn plan_of(&self, id: RouteId) -> RoutePlan {
        let route = &self.routes[id.0 as usize];
        let mut slots = Slots::default();
        let (mut source, mut reads, mut way) = (String::new(), Vec::new(), None);
        if let Ok(parsed) = parser::parse(route.text(), self.mode, &self.limits) {
            source = show_source(&parsed.source);
            if let Ok(mut node) = crate::check::check(&parsed.condition, self.mode, &self.limits, &mut slots)
            {
                reads = node.slots();
                way = best_way(&mut node);
            }
        }
        let way = way.filter(|_| !self.is_asked(id));
        let cost = match (self.when(id), &way) {
            (When::Constant(Some(true)), _) => Cost::Always,
            (When::Constant(_), _) => Cost::Never,
            (_, Some((_, Said::All))) => Cost::Indexed,
            (_, Some(_)) => Cost::Proposed,
            (_, None) => Cost::Asked,
        };
        let found_by = match (&way, cost) {
            (Some((way, _)), Cost::Indexed | Cost::Proposed) => {
                let keys: Vec<String> = way.keys().into_iter().map(|key| show_key(key, &slots)).collect();
                format!("{} of {}", way.kind(), keys.join(" and "))
            }
            _ => String::new(),
        };
        reads.sort_unstable();
        reads.dedup();
        let reads = reads.into_iter().map(|slot| show_slot(slot, &slots)).collect();
        RoutePlan { route: id, name: route.name().to_owned(), source, cost, found_by, reads }
    }
}

/// Asks for parts of one route's condition.
struct Asker<'a> {
    text: &'a str,
    options: &'a Options,
    message: &'a Message<'a>,
}

impl Asker<'_> {
    fn reasons(&self, expr: &Expr, because: &mut Vec<Reason>) {
        if because.len() >= REASONS_MAX {
            return;
        }
        match &expr.kind {
            // Of an AND whatever is not true counts, of an OR everything.
            ExprKind::Logic { op, operands, .. } => {
                for operand in operands {
                    if *op == LogicOp::Or || self.truth(operand) != Some(true) {
                        self.reasons(operand, because);
                    }
                }
            }
            _ => because.push(Reason {
                expression: self.slice(expr).to_owned(),
                value: show_truth(self.truth(expr)).to_owned(),
                operands: self.operands(expr),
            }),
        }
    }

    fn operands(&self, expr: &Expr) -> Vec<(String, String)> {
        let mut leaves = Vec::new();
        collect_leaves(expr, &mut leaves);
        let mut shown: Vec<(String, String)> = Vec::new();
        for leaf in leaves {
            let text = self.slice(leaf).to_owned();
            if text != self.slice(expr) && !shown.iter().any(|(known, _)| *known == text) {
                let value = self.value(leaf);
                shown.push((text, value));
            }
        }
        shown.truncate(REASONS_MAX);
        shown
    }

    fn slice(&self, expr: &Expr) -> &str {
        self.text.get(expr.span.clone()).unwrap_or_default()
    }

    fn truth(&self, expr: &Expr) -> Truth {
        let table = RouteTable::of_condition(self.slice(expr), self.options).ok()?;
        table.truth(RouteId(0), self.message, &mut Scratch::new())
    }

    fn value(&self, expr: &Expr) -> String {
        let shown = self.value_of(self.slice(expr));
        match &expr.kind {
            // A bare name falls back to the body.
            ExprKind::Name(name) if shown == "undefined" => self.value_of(&format!("{{$body.{name}}}")),
            _ => shown,
        }
    }

    fn value_of(&self, text: &str) -> String {
        let Ok(table) = RouteTable::of_value(text, self.options) else { return "undefined".to_owned() };
        table.with_value(self.message, &mut Scratch::new(), |value, text| match value {
            Value::Missing | Value::Undefined => "undefined".to_owned(),
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(value) => value.to_string(),
            Value::Text(_) => {
                let cut: String = text.chars().take(SHOWN_MAX).collect();
                format!("'{cut}{}'", if cut.len() < text.len() { "…" } else { "" })
            }
        })
    }
}

/// Names, system properties and body paths below an expression.
fn collect_leaves<'e>(expr: &'e Expr, leaves: &mut Vec<&'e Expr>) {
    match &expr.kind {
        ExprKind::Name(_) | ExprKind::Dollar(_) | ExprKind::Escaped(_) => leaves.push(expr),
        _ => expr.for_each_child(&mut |child| collect_leaves(child, leaves)),
    }
}

fn show_truth(truth: Truth) -> &'static str {
    match truth {
        Some(true) => "true",
        Some(false) => "false",
        None => "undefined",
    }
}

fn show_source(source: &Source) -> String {
    match source {
        Source::Path(path) => path.clone(),
        Source::Filter(filter) => format!("\"{filter}\""),
    }
}

fn show_key(key: Key, slots: &Slots) -> String {
    let shown: Vec<String> = key.slots().map(|slot| show_slot(slot, slots)).collect();
    shown.join(" or ")
}

fn show_slot(slot: SlotId, slots: &Slots) -> String {
    match slots.origins(slot) {
        Origins::Property(name) => format!("property {name}"),
        Origins::System(name) => format!("{{${name}}}"),
        Origins::Dollar(name) => name.clone(),
        Origins::Body(path) | Origins::DollarBody(path, _) => paths::show(path),
        Origins::Elements(path) => format!("{}[*]", paths::show(path)),
        Origins::Topic => "$topic".to_owned(),
        Origins::TopicLevel(level) => format!("$topic[{level}]"),
        Origins::ClientId => "$clientId".to_owned(),
        Origins::User => "$user".to_owned(),
        Origins::Qos => "$qos".to_owned(),
        Origins::Retain => "$retain".to_owned(),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.routes.iter().try_for_each(|route| write!(f, "{route}"))
    }
}

impl fmt::Display for RouteExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.verdict {
            Verdict::Matches { sinks, overruled } => {
                writeln!(f, "+ {name}: matches")?;
                sinks.iter().try_for_each(|sink| writeln!(f, "    decides sink {sink}"))?;
                overruled
                    .iter()
                    .try_for_each(|(sink, route)| writeln!(f, "    sink {sink} is decided by route {route}"))
            }
            Verdict::OtherSource { source } => {
                writeln!(f, "- {name}: the message does not come from {source}")
            }
            Verdict::NotTrue { undefined, because } => {
                writeln!(f, "- {name}: the condition is {}", if *undefined { "undefined" } else { "false" })?;
                because.iter().try_for_each(|reason| writeln!(f, "    {reason}"))
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.expression, self.value)?;
        for (at, (operand, value)) in self.operands.iter().enumerate() {
            write!(f, "{}{operand} is {value}", if at == 0 { ": " } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for RoutePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cost = match self.cost {
            Cost::Never => "never matches",
            Cost::Always => "always matches",
            Cost::Indexed => "found by",
            Cost::Proposed => "proposed by",
            Cost::Asked => "asked for every message",
        };
        write!(f, "{} from {}: {cost}", self.name, self.source)?;
        if !self.found_by.is_empty() {
            write!(f, " {}", self.found_by)?;
        }
        match self.reads.is_empty() {
            true => Ok(()),
            false => write!(f, "; reads {}", self.reads.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests;
