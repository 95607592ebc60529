//! From a message to the few routes of a source that can match: conditions grouped by what they look at.
//!
//! Knows: which part of a condition rules a route out most cheaply. May use: `types`, `slots`, `program`, `value`.
//! In:  typed conditions while compiling; filled slots while matching. Out: candidates, a superset of the matches.
//! Invariant: a route whose condition is true is among the candidates; what is not said of one yet is asked.
//! Cost per message: what the message has (its fields that somebody asks for), not how many routes there are.

use std::cmp::Ordering;

use model::RouteId;
use rustc_hash::FxHashMap;

use crate::boxes::Bound;
use crate::few::Few;
use crate::pattern;
use crate::program::{Machine, number_key};
use crate::slots::SlotId;
use crate::syntax::{CompareOp, LogicOp};
use crate::types::{Constant, Node, Type};
use crate::value::{Comparing, Value, numbers};

use crate::functions::Function;

/// A route's number, and in the two highest bits how much of its condition is already known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate(u32);

/// How much of a condition being a candidate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Not enough to leave anything out.
    Nothing,
    /// The first operand of the AND that the condition is.
    First,
    /// The whole condition.
    All,
}

impl Candidate {
    const ALL: u32 = 1 << 31;
    const FIRST: u32 = 1 << 30;

    pub(crate) fn new(route: RouteId, said: Said) -> Candidate {
        Candidate(match said {
            Said::Nothing => route.0,
            Said::First => route.0 | Self::FIRST,
            Said::All => route.0 | Self::ALL,
        })
    }

    pub(crate) fn route(self) -> RouteId {
        RouteId(self.0 & !(Self::ALL | Self::FIRST))
    }

    pub(crate) fn said(self) -> Said {
        match self.0 {
            bits if bits & Self::ALL != 0 => Said::All,
            bits if bits & Self::FIRST != 0 => Said::First,
            _ => Said::Nothing,
        }
    }
}

/// All indexed routes of one source.
#[derive(Debug, Default)]
pub(crate) struct Index {
    accesses: Vec<Access>,
    by_key: FxHashMap<Key, u32>,
    /// The accesses that a slot takes part in.
    by_slot: FxHashMap<SlotId, Vec<u32>>,
    /// Accesses where a missing value satisfies something too (edgeHub's ranks).
    always: Vec<u32>,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Slot { slot: SlotId, body: bool },
    Loose { property: SlotId, body: Option<SlotId>, to: Type },
}

#[derive(Debug)]
struct Access {
    key: Key,
    texts: FxHashMap<Box<str>, List>,
    numbers: FxHashMap<u64, List>,
    bools: [List; 2],
    null: List,
    /// `value > bound`, ascending; what is satisfied is a prefix.
    above: Bounds,
    /// `value < bound`, descending; what is satisfied is a prefix.
    below: Bounds,
    /// The same with edgeHub's ranks.
    ranked_above: Bounds,
    ranked_below: Bounds,
    intervals: Intervals,
    prefixes: Prefixes,
}

/// Candidates under one key.
type List = Few<Candidate>;

#[derive(Debug, Default)]
struct Bounds {
    /// The bound and whether it is excluded.
    bounds: Vec<(f64, bool)>,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Default)]
struct Intervals {
    /// Sorted by lower bound, both ends included; a bound that is excluded is checked by the condition.
    rows: Vec<(f64, f64, Candidate)>,
    /// Highest upper bound of each node of a tree over the rows; the leaves are the rows.
    highest: Vec<f64>,
}

#[derive(Debug, Default)]
struct Prefixes {
    /// Lengths in bytes that occur, ascending.
    lengths: Vec<usize>,
    by_text: FxHashMap<Box<str>, List>,
}

/// How a route can be found.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    Equal(Key, Constant),
    In(Key, Vec<Constant>),
    Prefix(Key, String),
    Interval(Key, f64, f64),
    Above { key: Key, bound: f64, excluded: bool, ranked: bool },
    Below { key: Key, bound: f64, excluded: bool, ranked: bool },
    Any(Vec<Way>),
}

impl Way {
    /// The lower, the fewer candidates are to be expected.
    fn cost(&self) -> u32 {
        match self {
            Way::Equal(_, Constant::Bool(_)) => 60,
            Way::Equal(..) => 0,
            Way::In(_, set) => 1 + (set.len() as u32).min(8),
            Way::Prefix(_, prefix) => 19 - (prefix.len() as u32).min(9),
            Way::Interval(..) => 30,
            Way::Above { .. } | Way::Below { .. } => 40,
            Way::Any(ways) => ways.iter().map(|way| way.cost() + 1).sum::<u32>().min(70),
        }
    }

    /// What is looked at, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Way::Equal(..) => "equality",
            Way::In(..) => "set",
            Way::Prefix(..) => "prefix",
            Way::Interval(..) => "interval",
            Way::Above { .. } | Way::Below { .. } => "range",
            Way::Any(_) => "alternatives",
        }
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        match self {
            Way::Equal(key, _) | Way::In(key, _) | Way::Prefix(key, _) | Way::Interval(key, ..) => vec![*key],
            Way::Above { key, .. } | Way::Below { key, .. } => vec![*key],
            Way::Any(ways) => ways.iter().flat_map(Way::keys).collect(),
        }
    }
}

/// The best way to find a route with this condition, and how much of the condition it says. The operand of
/// an AND that the way comes from is moved to the front: the order of an AND means nothing.
pub(crate) fn best_way(condition: &mut Node) -> Option<(Way, Said)> {
    let mut parts = Vec::new();
    conjuncts(condition, &mut parts);
    let whole = parts.len() == 1;
    let mut ways: Vec<(Way, Option<usize>)> = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        ways.extend(way(part).map(|way| (way, says_all(part).then_some(at))));
    }
    if let Some(interval) = interval_of(&ways) {
        ways.push((interval, None));
    }
    let count = parts.len();
    let flat = matches!(&*condition, Node::Logic { op: LogicOp::And, operands } if operands.len() == count);
    let (best, from) = ways.into_iter().min_by_key(|(way, _)| way.cost())?;
    let said = match (from, condition) {
        (None, _) => Said::Nothing,
        (Some(_), _) if whole => Said::All,
        (Some(at), Node::Logic { operands, .. }) if flat => {
            operands[..=at].rotate_right(1);
            Said::First
        }
        _ => Said::Nothing,
    };
    Some((best, said))
}

/// What all must be true for the condition to be true.
pub(crate) fn conjuncts<'n>(node: &'n Node, parts: &mut Vec<&'n Node>) {
    match node {
        Node::Logic { op: LogicOp::And, operands } => {
            operands.iter().for_each(|operand| conjuncts(operand, parts));
        }
        Node::QueryLogic { op: LogicOp::And, left, right } => {
            conjuncts(left, parts);
            conjuncts(right, parts);
        }
        Node::Only(Type::Bool, inner) if !matches!(**inner, Node::Slot(_) | Node::BodySlot(_)) => {
            conjuncts(inner, parts);
        }
        node => parts.push(node),
    }
}

fn says_all(part: &Node) -> bool {
    match part {
        Node::Call(..) | Node::Like { .. } | Node::Between { .. } => false,
        // An alternative that is a conjunction was indexed by one part of it only.
        Node::Logic { op: LogicOp::Or, operands } => operands.iter().all(says_all),
        Node::Logic { .. } | Node::QueryLogic { .. } => false,
        _ => true,
    }
}

fn way(part: &Node) -> Option<Way> {
    match part {
        Node::Compare { op, how, left, right } => comparison(*op, *how, left, right),
        Node::In { value, set, .. } => {
            let indexable = |constant: &Constant| !matches!(constant, Constant::Null | Constant::Undefined);
            let key = key(value).filter(|_| set.iter().all(indexable))?;
            Some(Way::In(key, set.clone()))
        }
        Node::Between { value, low, high, how } if !how.contains(&Comparing::Ranked) => {
            match (low.constant()?, high.constant()?) {
                (Constant::Number(low), Constant::Number(high)) => {
                    Some(Way::Interval(key(value)?, *low, *high))
                }
                _ => None,
            }
        }
        Node::Call(Function::StartsWith, arguments) => match arguments[1].constant()? {
            Constant::Text(prefix) if !prefix.is_empty() => {
                Some(Way::Prefix(key(&arguments[0])?, prefix.clone()))
            }
            _ => None,
        },
        Node::Like { value, pattern } => {
            let prefix = pattern::literal_prefix(pattern);
            (!prefix.is_empty()).then_some(())?;
            Some(Way::Prefix(key(value)?, prefix))
        }
        Node::Logic { op: LogicOp::Or, operands } => {
            let ways: Option<Vec<Way>> = operands.iter().map(simple_way).collect();
            ways.map(Way::Any)
        }
        Node::Not(operand) => Some(Way::Equal(bool_key(operand)?, Constant::Bool(false))),
        part => Some(Way::Equal(bool_key(part)?, Constant::Bool(true))),
    }
}

/// A way of one alternative of an OR; an alternative that is itself a conjunction has its best one.
fn simple_way(operand: &Node) -> Option<Way> {
    match operand {
        Node::Logic { op: LogicOp::Or, .. } => None,
        operand => best_way(&mut operand.clone()).map(|(way, _)| way),
    }
}

fn bool_key(node: &Node) -> Option<Key> {
    match node {
        Node::Only(Type::Bool, inner) => slot_key(inner),
        Node::Loose { to: Type::Bool, .. } => key(node),
        Node::Slot(_) => slot_key(node),
        _ => None,
    }
}

fn slot_key(node: &Node) -> Option<Key> {
    match node {
        Node::Slot(slot) => Some(Key::Slot { slot: *slot, body: false }),
        Node::BodySlot(slot) => Some(Key::Slot { slot: *slot, body: true }),
        _ => None,
    }
}

fn key(node: &Node) -> Option<Key> {
    match node {
        Node::Loose { property, body, to } => Some(Key::Loose { property: *property, body: *body, to: *to }),
        node => slot_key(node),
    }
}

fn comparison(op: CompareOp, how: Comparing, left: &Node, right: &Node) -> Option<Way> {
    let (key, constant, op) = match (left.constant(), right.constant()) {
        (None, Some(constant)) => (key(left)?, constant, op),
        (Some(constant), None) => (key(right)?, constant, op.mirrored()),
        _ => return None,
    };
    let ranked = how == Comparing::Ranked;
    match (op, constant) {
        // To edgeHub a missing value is null, and what is missing is not among the slots that were filled.
        (CompareOp::Equal, Constant::Null) if ranked => None,
        (CompareOp::Equal, Constant::Undefined) => None,
        (CompareOp::Equal, constant) => Some(Way::Equal(key, constant.clone())),
        (_, Constant::Number(bound)) => match op {
            CompareOp::Greater => Some(Way::Above { key, bound: *bound, excluded: true, ranked }),
            CompareOp::GreaterEqual => Some(Way::Above { key, bound: *bound, excluded: false, ranked }),
            CompareOp::Less => Some(Way::Below { key, bound: *bound, excluded: true, ranked }),
            CompareOp::LessEqual => Some(Way::Below { key, bound: *bound, excluded: false, ranked }),
            _ => None,
        },
        _ => None,
    }
}

/// A lower and an upper bound of the same value make an interval.
fn interval_of(ways: &[(Way, Option<usize>)]) -> Option<Way> {
    ways.iter().find_map(|(way, _)| {
        let Way::Above { key, bound: low, ranked: false, .. } = way else { return None };
        ways.iter().find_map(|(other, _)| match other {
            Way::Below { key: same, bound: high, ranked: false, .. } if same == key => {
                Some(Way::Interval(*key, *low, *high))
            }
            _ => None,
        })
    })
}

/// The bounds of a condition if it is best found by them: at least two, of different values or directions.
/// The flag says whether they are the whole condition.
pub(crate) fn bounds(condition: &Node) -> Option<(Vec<Bound>, bool)> {
    let mut parts = Vec::new();
    conjuncts(condition, &mut parts);
    let (mut bounds, mut exact) = (Vec::new(), true);
    for part in parts {
        let before = bounds.len();
        match part {
            Node::Compare { op, how, left, right } => match comparison(*op, *how, left, right) {
                Some(Way::Above { key, bound, excluded, ranked: false }) => {
                    bounds.push(Bound { key, side: Ordering::Less, bound, excluded });
                }
                Some(Way::Below { key, bound, excluded, ranked: false }) => {
                    bounds.push(Bound { key, side: Ordering::Greater, bound, excluded });
                }
                _ => {}
            },
            part => {
                if let Some(Way::Interval(key, low, high)) = way(part) {
                    bounds.push(Bound { key, side: Ordering::Less, bound: low, excluded: false });
                    bounds.push(Bound { key, side: Ordering::Greater, bound: high, excluded: false });
                }
            }
        }
        exact &= bounds.len() > before;
    }
    let first = *bounds.first()?;
    let several = bounds.iter().any(|bound| bound.key != first.key);
    several.then_some((bounds, exact))
}

impl Way {
    /// Whether the route is better found by all its bounds together.
    pub(crate) fn is_bound(&self) -> bool {
        matches!(self, Way::Above { .. } | Way::Below { .. } | Way::Interval(..))
    }
}

impl Index {
    pub(crate) fn add(&mut self, way: &Way, route: RouteId, said: Said) {
        let candidate = Candidate::new(route, said);
        match way {
            Way::Equal(key, constant) => self.access(*key).equal(constant, candidate),
            Way::In(key, set) => {
                let access = self.access(*key);
                set.iter().for_each(|constant| access.equal(constant, candidate));
            }
            Way::Prefix(key, prefix) => self.access(*key).prefixes.add(prefix, candidate),
            Way::Interval(key, low, high) => {
                let candidate = Candidate::new(route, Said::Nothing);
                self.access(*key).intervals.rows.push((*low, *high, candidate));
            }
            Way::Above { key, bound, excluded, ranked } => {
                self.visit_always(*key, *ranked);
                let access = self.access(*key);
                let bounds = if *ranked { &mut access.ranked_above } else { &mut access.above };
                bounds.push(*bound, *excluded, candidate);
            }
            Way::Below { key, bound, excluded, ranked } => {
                self.visit_always(*key, *ranked);
                let access = self.access(*key);
                let bounds = if *ranked { &mut access.ranked_below } else { &mut access.below };
                bounds.push(*bound, *excluded, candidate);
            }
            Way::Any(ways) => ways.iter().for_each(|way| self.add(way, route, said)),
        }
    }

    fn visit_always(&mut self, key: Key, ranked: bool) {
        if ranked {
            self.access(key);
            let at = self.by_key[&key];
            if !self.always.contains(&at) {
                self.always.push(at);
            }
        }
    }

    fn access(&mut self, key: Key) -> &mut Access {
        let at = *self.by_key.entry(key).or_insert_with(|| {
            let at = self.accesses.len() as u32;
            self.accesses.push(Access::new(key));
            for slot in key.slots() {
                self.by_slot.entry(slot).or_default().push(at);
            }
            at
        });
        &mut self.accesses[at as usize]
    }

    /// Called once when all routes are in.
    pub(crate) fn finish(&mut self) {
        for access in &mut self.accesses {
            access.above.sort(|left, right| numbers(left.0, right.0).then(left.1.cmp(&right.1)));
            access.ranked_above.sort(|left, right| numbers(left.0, right.0).then(left.1.cmp(&right.1)));
            access.below.sort(|left, right| numbers(right.0, left.0).then(left.1.cmp(&right.1)));
            access.ranked_below.sort(|left, right| numbers(right.0, left.0).then(left.1.cmp(&right.1)));
            access.intervals.finish();
        }
    }

    /// Whether nothing is a candidate while no slot has a value.
    pub(crate) fn waits_for_values(&self) -> bool {
        self.always.is_empty()
    }

    /// Appends the candidates for the message of `machine`; a route may come twice.
    pub(crate) fn find(&self, machine: &Machine<'_>, candidates: &mut Vec<Candidate>) {
        let written = machine.filled.written();
        for &at in &self.always {
            self.accesses[at as usize].find(machine, candidates);
        }
        if self.accesses.len() <= written.len() {
            for access in self.accesses.iter().filter(|access| !access.is_ranked()) {
                access.find(machine, candidates);
            }
            return;
        }
        for slot in written {
            for &at in self.by_slot.get(slot).into_iter().flatten() {
                let access = &self.accesses[at as usize];
                if !access.is_ranked() && access.key.belongs_to(*slot, machine) {
                    access.find(machine, candidates);
                }
            }
        }
    }
}

impl Key {
    #[inline]
    pub(crate) fn value(self, machine: &Machine<'_>) -> Value {
        match self {
            Key::Slot { slot, body } => machine.slot(slot, body),
            Key::Loose { property, body, to } => machine.loose(property, body, to),
        }
    }

    pub(crate) fn slots(self) -> impl Iterator<Item = SlotId> {
        let (first, second) = match self {
            Key::Slot { slot, .. } => (slot, None),
            Key::Loose { property, body, .. } => (property, body),
        };
        std::iter::once(first).chain(second)
    }

    /// A key with two slots is looked at once: by way of its property if the message has that.
    fn belongs_to(self, slot: SlotId, machine: &Machine<'_>) -> bool {
        match self {
            Key::Slot { .. } => true,
            Key::Loose { property, .. } => {
                slot == property || machine.filled.read(property) == Value::Missing
            }
        }
    }
}

impl Access {
    fn new(key: Key) -> Access {
        Access {
            key,
            texts: FxHashMap::default(),
            numbers: FxHashMap::default(),
            bools: [List::None, List::None],
            null: List::None,
            above: Bounds::default(),
            below: Bounds::default(),
            ranked_above: Bounds::default(),
            ranked_below: Bounds::default(),
            intervals: Intervals::default(),
            prefixes: Prefixes::default(),
        }
    }

    fn is_ranked(&self) -> bool {
        !self.ranked_above.bounds.is_empty() || !self.ranked_below.bounds.is_empty()
    }

    fn equal(&mut self, constant: &Constant, candidate: Candidate) {
        match constant {
            Constant::Undefined => {}
            Constant::Null => self.null.push(candidate),
            Constant::Bool(value) => self.bools[usize::from(*value)].push(candidate),
            Constant::Number(value) => self.numbers.entry(number_key(*value)).or_default().push(candidate),
            Constant::Text(text) => self.texts.entry(text.as_str().into()).or_default().push(candidate),
        }
    }

    fn find(&self, machine: &Machine<'_>, candidates: &mut Vec<Candidate>) {
        match self.key.value(machine) {
            Value::Missing | Value::Undefined => {}
            Value::Null => {
                candidates.extend(self.null.as_slice());
                candidates.extend(&self.ranked_above.candidates);
            }
            Value::Bool(value) => {
                candidates.extend(self.bools[usize::from(value)].as_slice());
                candidates.extend(&self.ranked_below.candidates);
            }
            Value::Number(value) => self.find_number(value, candidates),
            Value::Text(text) => {
                let text = machine.text(text);
                if !self.texts.is_empty() {
                    self.texts.get(text).into_iter().for_each(|list| candidates.extend(list.as_slice()));
                }
                self.prefixes.find(text, candidates);
                candidates.extend(&self.ranked_above.candidates);
            }
        }
    }

    fn find_number(&self, value: f64, candidates: &mut Vec<Candidate>) {
        if !self.numbers.is_empty() {
            self.numbers
                .get(&number_key(value))
                .into_iter()
                .for_each(|list| candidates.extend(list.as_slice()));
        }
        self.above.find(value, Ordering::Less, candidates);
        self.below.find(value, Ordering::Greater, candidates);
        self.ranked_above.find(value, Ordering::Less, candidates);
        self.ranked_below.find(value, Ordering::Greater, candidates);
        self.intervals.find(value, candidates);
    }
}

impl Bounds {
    fn push(&mut self, bound: f64, excluded: bool, candidate: Candidate) {
        self.bounds.push((bound, excluded));
        self.candidates.push(candidate);
    }

    fn sort(&mut self, order: impl Fn(&(f64, bool), &(f64, bool)) -> Ordering) {
        let mut rows: Vec<((f64, bool), Candidate)> =
            self.bounds.drain(..).zip(self.candidates.drain(..)).collect();
        rows.sort_by(|left, right| order(&left.0, &right.0));
        (self.bounds, self.candidates) = rows.into_iter().unzip();
    }

    /// The bounds that lie on the `side` of `value`, or are equal to it and included.
    fn find(&self, value: f64, side: Ordering, candidates: &mut Vec<Candidate>) {
        if self.bounds.is_empty() {
            return;
        }
        let satisfied = self.bounds.partition_point(|(bound, excluded)| match numbers(*bound, value) {
            Ordering::Equal => !excluded,
            order => order == side,
        });
        candidates.extend(&self.candidates[..satisfied]);
    }
}

impl Intervals {
    fn finish(&mut self) {
        self.rows.sort_by(|left, right| numbers(left.0, right.0));
        let leaves = self.rows.len().next_power_of_two();
        self.highest = vec![f64::NEG_INFINITY; leaves * 2];
        for (at, row) in self.rows.iter().enumerate() {
            self.highest[leaves + at] = row.1;
        }
        for at in (1..leaves).rev() {
            self.highest[at] = self.highest[at * 2].max(self.highest[at * 2 + 1]);
        }
    }

    fn find(&self, value: f64, candidates: &mut Vec<Candidate>) {
        if self.rows.is_empty() {
            return;
        }
        let started = self.rows.partition_point(|row| row.0 <= value);
        self.descend(1, 0, self.highest.len() / 2, started, value, candidates);
    }

    /// Visits the rows before `started` that reach `value`; a subtree in which none does is left out.
    fn descend(
        &self,
        node: usize,
        from: usize,
        width: usize,
        started: usize,
        value: f64,
        out: &mut Vec<Candidate>,
    ) {
        if from >= started || self.highest[node] < value {
            return;
        }
        if width == 1 {
            out.push(self.rows[from].2);
            return;
        }
        let half = width / 2;
        self.descend(node * 2, from, half, started, value, out);
        self.descend(node * 2 + 1, from + half, half, started, value, out);
    }
}

impl Prefixes {
    fn add(&mut self, prefix: &str, candidate: Candidate) {
        if let Err(at) = self.lengths.binary_search(&prefix.len()) {
            self.lengths.insert(at, prefix.len());
        }
        self.by_text.entry(prefix.into()).or_default().push(candidate);
    }

    fn find(&self, text: &str, candidates: &mut Vec<Candidate>) {
        for &length in &self.lengths {
            if length > text.len() {
                return;
            }
            if let Some(list) = text.get(..length).and_then(|prefix| self.by_text.get(prefix)) {
                candidates.extend(list.as_slice());
            }
        }
    }
}
