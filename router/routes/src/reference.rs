//! The naive evaluator: the oracle that every table is compared with. Only for tests.
//!
//! Knows: the same language, written a second time in the plainest way: it walks the tree of the syntax for
//! every message, parses the body into a tree, and computes types and values side by side.
//! May use: `syntax`, `parser` (the tree), `paths` (the path syntax), `dotnet`. Not: slots, scan, check, program, index.
//! In:  a condition and a message. Out: refused, or true, false, undefined.

mod functions;
mod json;

use std::cmp::Ordering;

use model::{Limits, Message, Property};

use crate::Mode;
use crate::dotnet;
use crate::paths::{self, Step};
use crate::syntax::{ArithmeticOp, BinaryOp, CompareOp, Expr, ExprKind, Literal, LogicOp};

pub(crate) use json::{Tree, parse_json};

#[derive(Clone, Debug, PartialEq)]
enum V {
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum T {
    Bool,
    Number,
    Text,
    Null,
    Undefined,
    Query,
}

/// The compiler would refuse it.
#[derive(Debug)]
pub(crate) struct Refused;

type Out = Result<(T, V), Refused>;

/// Evaluates `condition`.
pub(crate) fn evaluate(condition: &Expr, mode: Mode, message: &Message<'_>) -> Result<Option<bool>, Refused> {
    let oracle = Oracle { mode, message, body: read_body(mode, message), element: None };
    Ok(match oracle.expr(condition)? {
        (T::Null, _) => Some(false),
        (T::Bool | T::Query, V::Bool(value)) => Some(value),
        _ => None,
    })
}

struct Oracle<'m> {
    mode: Mode,
    message: &'m Message<'m>,
    body: Option<Tree>,
    /// Within ANY and ALL: the element.
    element: Option<Tree>,
}

impl Oracle<'_> {
    fn millrace(&self) -> bool {
        self.mode == Mode::Millrace
    }

    fn expr(&self, expr: &Expr) -> Out {
        Ok(match &expr.kind {
            ExprKind::Literal(literal) => match literal {
                Literal::Bool(value) => (T::Bool, V::Bool(*value)),
                Literal::Number(value) => (T::Number, V::Number(*value)),
                Literal::Text(value) => (T::Text, V::Text(value.clone())),
                Literal::Null => (T::Null, V::Null),
                Literal::Undefined => (T::Undefined, V::Undefined),
            },
            ExprKind::Name(name) => (T::Text, property(self.message.properties, name)),
            ExprKind::Dollar(name) => self.dollar(name)?,
            ExprKind::Escaped(name) => match name.to_ascii_lowercase().starts_with("$body.") {
                true => (T::Query, self.body_value(&name[6..])?),
                false if name.contains(['[', ']']) => (T::Undefined, V::Undefined),
                false => (T::Text, property(self.message.system, &name[1..])),
            },
            ExprKind::Call { name, arguments, .. } => self.call(&name.to_ascii_lowercase(), arguments)?,
            ExprKind::Not { operand, .. } => {
                let operand = self.as_bool(operand)?;
                match operand.0 {
                    T::Null => (T::Bool, V::Bool(true)),
                    T::Bool | T::Query | T::Undefined => (T::Bool, not(operand.1)),
                    T::Number | T::Text => return Err(Refused),
                }
            }
            ExprKind::Negate { operand, .. } => match self.as_number(operand)? {
                (T::Query, _) if !self.millrace() => return Err(Refused),
                (ty @ (T::Number | T::Query), value) => (ty, numeric(value, |number| -number)),
                _ => return Err(Refused),
            },
            ExprKind::Logic { op, operands, .. } => {
                let mut left = self.expr(&operands[0])?;
                let mut first = Some(&operands[0]);
                for right in &operands[1..] {
                    left = self.logic(*op, first.take(), left, right)?;
                }
                left
            }
            ExprKind::Binary { op, left, right, .. } => self.binary(*op, left, right)?,
            ExprKind::In { value, set, negated, .. } => self.contained(value, set, *negated)?,
            ExprKind::Between { value, low, high, negated, .. } => {
                let mut parts = vec![self.expr(low)?, self.expr(high)?, self.expr(value)?];
                let wanted = [&parts[2], &parts[0], &parts[1]].map(|part| part.0);
                if let Some(wanted) = wanted.into_iter().find(|ty| matches!(ty, T::Number | T::Bool)) {
                    parts = vec![
                        self.converted(low, wanted)?,
                        self.converted(high, wanted)?,
                        self.converted(value, wanted)?,
                    ];
                }
                let from = self.compared(CompareOp::GreaterEqual, parts[2].clone(), parts[0].clone())?;
                let to = self.compared(CompareOp::LessEqual, parts[2].clone(), parts[1].clone())?;
                (T::Bool, maybe_not(*negated, kleene(LogicOp::And, from.1, to.1)))
            }
            ExprKind::Like { value, pattern, negated, .. } => match self.expr(value)? {
                (T::Text | T::Query, V::Text(text)) => {
                    let (pattern, text): (Vec<char>, Vec<char>) =
                        (pattern.chars().collect(), text.chars().collect());
                    (T::Bool, maybe_not(*negated, V::Bool(like(&pattern, &text))))
                }
                (T::Text | T::Query, _) => (T::Bool, V::Undefined),
                _ => return Err(Refused),
            },
        })
    }

    fn dollar(&self, name: &str) -> Out {
        let lower = name.to_ascii_lowercase();
        if let (true, Some((_, part)), true) =
            (lower.starts_with("$body."), name.split_once("[*]"), self.millrace())
        {
            let element = self.element.as_ref().ok_or(Refused)?;
            let steps = match part.strip_prefix('.') {
                Some(part) => paths::parse(part, 32).map_err(|_| Refused)?,
                None => Vec::new(),
            };
            return Ok((T::Query, self.below(element, &steps)));
        }
        if lower.starts_with("$body.") {
            let value = self.body_value(&name[6..])?;
            return Ok((
                T::Query,
                match property_present(self.message.properties, name) {
                    Some(shadow) if !name.contains(['[', ']']) => shadow,
                    _ => value,
                },
            ));
        }
        if self.millrace() {
            let text = |text: &str| V::Text(text.to_owned());
            match lower.as_str() {
                "$topic" => return Ok((T::Text, text(self.message.topic))),
                "$clientid" => return Ok((T::Text, text(self.message.client_id))),
                "$user" if self.message.user.is_empty() => return Ok((T::Text, V::Undefined)),
                "$user" => return Ok((T::Text, text(self.message.user))),
                "$qos" => return Ok((T::Number, V::Number(f64::from(self.message.qos.bits())))),
                "$retain" => return Ok((T::Bool, V::Bool(self.message.retain))),
                _ => {}
            }
            if let Some(level) = lower.strip_prefix("$topic[") {
                let level: u32 = level.strip_suffix(']').and_then(|n| n.parse().ok()).ok_or(Refused)?;
                let level = self.message.topic.split('/').nth(level as usize);
                return Ok((T::Text, level.map_or(V::Undefined, text)));
            }
        }
        if name.contains(['[', ']']) {
            return Ok((T::Undefined, V::Undefined));
        }
        let own = property_present(self.message.properties, name);
        Ok((T::Text, own.unwrap_or_else(|| property(self.message.system, &name[1..]))))
    }

    fn body_value(&self, path: &str) -> Result<V, Refused> {
        let steps = paths::parse(path, Limits::DEFAULT.body_path_names_max).map_err(|_| Refused)?;
        Ok(self.at(&steps))
    }

    fn at(&self, steps: &[Step]) -> V {
        let Some(root) = &self.body else { return V::Undefined };
        self.below(root, steps)
    }

    fn below(&self, root: &Tree, steps: &[Step]) -> V {
        let found = steps.iter().try_fold(root, |tree, step| match (tree, step) {
            (Tree::Object(members), Step::Key(key)) => {
                members.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            (Tree::Array(items), Step::Index(index)) => items.get(*index as usize),
            _ => None,
        });
        match found {
            None if self.millrace() => V::Undefined,
            None | Some(Tree::Null) => V::Null,
            Some(Tree::Bool(value)) => V::Bool(*value),
            Some(Tree::Number(value)) => defined(*value),
            Some(Tree::Text(text)) if !self.millrace() && dotnet::looks_like_date(text) => V::Undefined,
            Some(Tree::Text(text)) => V::Text(text.clone()),
            Some(Tree::Array(_) | Tree::Object(_)) => V::Undefined,
        }
    }

    /// A bare name where edgeHub refuses one.
    fn loose(&self, name: &str, to: T) -> Out {
        if let (T::Bool, Some(rest)) = (to, name.strip_prefix('!').filter(|rest| !rest.is_empty())) {
            let (ty, value) = self.signed(rest, to)?;
            return match ty {
                T::Bool | T::Query | T::Undefined => Ok((T::Bool, not(value))),
                _ => Err(Refused),
            };
        }
        if let (T::Number, Some(rest)) = (to, name.strip_prefix('-').filter(|rest| !rest.is_empty())) {
            let (ty, value) = self.signed(rest, to)?;
            return match ty {
                T::Number | T::Query => Ok((ty, numeric(value, |number| -number))),
                _ => Err(Refused),
            };
        }
        Ok((to, self.word(name, to)))
    }

    fn signed(&self, rest: &str, to: T) -> Out {
        match rest.starts_with('$') && rest.len() > 1 {
            true => self.dollar(rest),
            false => Ok((to, self.word(rest, to))),
        }
    }

    fn word(&self, name: &str, to: T) -> V {
        let value = property_present(self.message.properties, name).unwrap_or_else(|| {
            let steps = paths::parse(name, Limits::DEFAULT.body_path_names_max);
            steps.map_or(V::Undefined, |steps| self.at(&steps))
        });
        match (to, value) {
            (T::Number, V::Number(value)) => V::Number(value),
            (T::Number, V::Text(text)) => dotnet::parse_number(&text).map_or(V::Undefined, defined),
            (T::Bool, V::Bool(value)) => V::Bool(value),
            (T::Bool, V::Text(text)) => match text.to_ascii_lowercase().as_str() {
                "true" => V::Bool(true),
                "false" => V::Bool(false),
                _ => V::Undefined,
            },
            _ => V::Undefined,
        }
    }

    fn converted(&self, expr: &Expr, to: T) -> Out {
        match &expr.kind {
            ExprKind::Name(name) if self.millrace() => self.loose(name, to),
            _ => self.expr(expr),
        }
    }

    fn as_bool(&self, expr: &Expr) -> Out {
        self.converted(expr, T::Bool)
    }

    fn as_number(&self, expr: &Expr) -> Out {
        self.converted(expr, T::Number)
    }

    fn logic(&self, op: LogicOp, left_expr: Option<&Expr>, left: (T, V), right: &Expr) -> Out {
        let left = match left_expr {
            Some(expr) => self.as_bool(expr)?,
            None => left,
        };
        let right = self.as_bool(right)?;
        let fits = |ty| matches!(ty, T::Null | T::Bool | T::Undefined);
        if self.millrace() {
            if ![left.0, right.0].into_iter().all(|ty| fits(ty) || ty == T::Query) {
                return Err(Refused);
            }
        } else if left.0 == T::Query {
            if right.0 == T::Null {
                return Err(Refused);
            }
            return Ok((
                T::Bool,
                match (left.1, right.1) {
                    (V::Bool(left), V::Bool(right)) if op == LogicOp::And => V::Bool(left && right),
                    (V::Bool(left), V::Bool(right)) => V::Bool(left || right),
                    _ => V::Undefined,
                },
            ));
        } else if !fits(left.0) || !fits(right.0) {
            return Err(Refused);
        }
        Ok(match (op, left.0, right.0) {
            (LogicOp::And, T::Null, _) | (LogicOp::And, _, T::Null) | (_, T::Null, T::Null) => {
                (T::Null, V::Null)
            }
            (LogicOp::Or, T::Null, _) => (T::Bool, bool_only(right.1)),
            (LogicOp::Or, _, T::Null) => (T::Bool, bool_only(left.1)),
            _ => (T::Bool, kleene(op, bool_only(left.1), bool_only(right.1))),
        })
    }

    fn binary(&self, op: BinaryOp, left: &Expr, right: &Expr) -> Out {
        match op {
            BinaryOp::Compare(op) => self.compare(op, left, right),
            BinaryOp::Arithmetic(op) => self.arithmetic(op, left, right),
            BinaryOp::Concat => self.concat(&[self.expr(left)?, self.expr(right)?]),
            BinaryOp::Coalesce => {
                let number = self.expr(left)?.0 == T::Number || self.expr(right)?.0 == T::Number;
                let [left, right] = match number {
                    true => self.meet(left, right)?,
                    false => [self.expr(left)?, self.expr(right)?],
                };
                comparable(left.0, right.0)?;
                let ty = if left.0 == right.0 { left.0 } else { T::Query };
                Ok((ty, if left.1 == V::Undefined { right.1 } else { left.1 }))
            }
        }
    }

    /// Both sides, a bare name converted to the number or bool on the other side.
    fn meet(&self, left: &Expr, right: &Expr) -> Result<[(T, V); 2], Refused> {
        let (plain_left, plain_right) = (self.expr(left)?, self.expr(right)?);
        if matches!(plain_right.0, T::Number | T::Bool) {
            return Ok([self.converted(left, plain_right.0)?, plain_right]);
        }
        if matches!(plain_left.0, T::Number | T::Bool) {
            let ty = plain_left.0;
            return Ok([plain_left, self.converted(right, ty)?]);
        }
        Ok([plain_left, plain_right])
    }

    fn compare(&self, op: CompareOp, left: &Expr, right: &Expr) -> Out {
        let [left, right] = self.meet(left, right)?;
        self.compared(op, left, right)
    }

    fn compared(&self, op: CompareOp, left: (T, V), right: (T, V)) -> Out {
        let query = comparable(left.0, right.0)?;
        if left.0 == T::Null && right.0 == T::Null {
            return Ok((T::Bool, V::Bool(op.holds(Ordering::Equal))));
        }
        let order = match (&left.1, &right.1) {
            (V::Undefined, _) | (_, V::Undefined) => None,
            (V::Null, V::Null) if query => Some(Ordering::Equal),
            (V::Bool(left), V::Bool(right)) => Some(left.cmp(right)),
            (V::Number(left), V::Number(right)) => left.partial_cmp(right),
            (V::Text(left), V::Text(right)) => Some(left.encode_utf16().cmp(right.encode_utf16())),
            _ if !query => None,
            (left, right) if !self.millrace() => Some(rank(left).cmp(&rank(right))),
            _ => {
                return Ok((
                    T::Bool,
                    match op {
                        CompareOp::Equal => V::Bool(false),
                        CompareOp::NotEqual => V::Bool(true),
                        _ => V::Undefined,
                    },
                ));
            }
        };
        Ok((T::Bool, order.map_or(V::Undefined, |order| V::Bool(op.holds(order)))))
    }

    fn arithmetic(&self, op: ArithmeticOp, left: &Expr, right: &Expr) -> Out {
        let (left, right) = (self.as_number(left)?, self.as_number(right)?);
        let fits = |ty| matches!(ty, T::Number | T::Query);
        if !fits(left.0) || !fits(right.0) {
            return Err(Refused);
        }
        let query = left.0 == T::Query || right.0 == T::Query;
        if query && op == ArithmeticOp::Remainder && !self.millrace() {
            return Err(Refused);
        }
        let value = match (left.1, right.1) {
            (V::Number(left), V::Number(right)) => defined(match op {
                ArithmeticOp::Add => left + right,
                ArithmeticOp::Subtract => left - right,
                ArithmeticOp::Multiply => left * right,
                ArithmeticOp::Divide => left / right,
                ArithmeticOp::Remainder => left % right,
            }),
            _ => V::Undefined,
        };
        Ok((if query { T::Query } else { T::Number }, value))
    }

    fn concat(&self, parts: &[(T, V)]) -> Out {
        let mut whole = Some(String::new());
        for part in parts {
            match part {
                (T::Text | T::Query, V::Text(text)) => whole = whole.map(|whole| whole + text),
                (T::Text, V::Null) => {}
                (T::Text | T::Query, _) => whole = None,
                _ => return Err(Refused),
            }
        }
        Ok((T::Text, whole.map_or(V::Undefined, V::Text)))
    }

    fn contained(&self, value: &Expr, set: &[Expr], negated: bool) -> Out {
        let items = set.iter().map(|item| self.expr(item)).collect::<Result<Vec<_>, _>>()?;
        let value = match items.iter().find(|item| matches!(item.0, T::Number | T::Bool)) {
            Some(item) => self.converted(value, item.0)?,
            None => self.expr(value)?,
        };
        let mut found = V::Bool(false);
        for item in items {
            let equal = self.compared(CompareOp::Equal, value.clone(), item)?;
            found = kleene(LogicOp::Or, found, equal.1);
        }
        Ok((T::Bool, maybe_not(negated, found)))
    }

    /// The elements of the array that the condition looks at.
    fn quantified(&self, all: bool, condition: &Expr) -> Out {
        let mut array = None;
        find_array(condition, &mut array);
        let steps = paths::parse(&array.ok_or(Refused)?, 32).map_err(|_| Refused)?;
        let ask = |element: Tree| -> Out {
            let body = self.body.clone();
            Oracle { mode: self.mode, message: self.message, body, element: Some(element) }.as_bool(condition)
        };
        if !matches!(ask(Tree::Null)?.0, T::Bool | T::Query) {
            return Err(Refused);
        }
        let found = self.body.as_ref().and_then(|root| {
            steps.iter().try_fold(root, |tree, step| match (tree, step) {
                (Tree::Object(members), Step::Key(key)) => {
                    members.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
                }
                (Tree::Array(items), Step::Index(index)) => items.get(*index as usize),
                _ => None,
            })
        });
        let Some(Tree::Array(items)) = found else { return Ok((T::Bool, V::Undefined)) };
        let op = if all { LogicOp::And } else { LogicOp::Or };
        let mut whole = V::Bool(all);
        for item in items {
            whole = kleene(op, whole, bool_only(ask(item.clone())?.1));
        }
        Ok((T::Bool, whole))
    }
}

fn find_array(expr: &Expr, array: &mut Option<String>) {
    if let ExprKind::Dollar(name) = &expr.kind
        && let Some((path, _)) = name.split_once("[*]")
    {
        *array = Some(path[6..].to_owned());
    }
    expr.for_each_child(&mut |child| find_array(child, array));
}

/// Whether both types may be compared, and whether one of them comes from a body.
fn comparable(left: T, right: T) -> Result<bool, Refused> {
    match (left, right) {
        (T::Query, T::Undefined) | (T::Undefined, T::Query) => Err(Refused),
        (T::Query, _) | (_, T::Query) => Ok(true),
        (left, right) if left == right => Ok(false),
        _ => Err(Refused),
    }
}

fn rank(value: &V) -> u8 {
    match value {
        V::Undefined => 0,
        V::Bool(_) => 1,
        V::Number(_) => 2,
        V::Text(_) => 3,
        V::Null => 4,
    }
}

fn defined(number: f64) -> V {
    if number.is_nan() { V::Undefined } else { V::Number(number) }
}

fn not(value: V) -> V {
    match value {
        V::Bool(value) => V::Bool(!value),
        _ => V::Undefined,
    }
}

fn maybe_not(negated: bool, value: V) -> V {
    if negated { not(value) } else { value }
}

fn bool_only(value: V) -> V {
    if matches!(value, V::Bool(_)) { value } else { V::Undefined }
}

fn numeric(value: V, compute: impl Fn(f64) -> f64) -> V {
    match value {
        V::Number(number) => defined(compute(number)),
        _ => V::Undefined,
    }
}

fn kleene(op: LogicOp, left: V, right: V) -> V {
    let decides = V::Bool(op == LogicOp::Or);
    match (&left, &right) {
        _ if left == decides || right == decides => decides,
        (V::Bool(_), V::Bool(_)) => V::Bool(op == LogicOp::And),
        _ => V::Undefined,
    }
}

fn like(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], text) => text.is_empty(),
        (['%', rest @ ..], text) => (0..=text.len()).any(|skipped| like(rest, &text[skipped..])),
        (['_', rest @ ..], [_, text @ ..]) => like(rest, text),
        (['\\', escaped, rest @ ..], [c, text @ ..]) => escaped == c && like(rest, text),
        ([wanted, rest @ ..], [c, text @ ..]) => wanted == c && like(rest, text),
        _ => false,
    }
}

fn property(properties: &[Property<'_>], name: &str) -> V {
    property_present(properties, name).unwrap_or(V::Undefined)
}

fn property_present(properties: &[Property<'_>], name: &str) -> Option<V> {
    let found = properties.iter().find(|property| property.name.to_lowercase() == name.to_lowercase())?;
    Some(found.value.map_or(V::Null, |text| V::Text(text.to_owned())))
}

fn read_body(mode: Mode, message: &Message<'_>) -> Option<Tree> {
    let system = |name: &str| match property(message.system, name) {
        V::Text(text) => Some(text.to_ascii_lowercase()),
        _ => None,
    };
    let text = match (mode, system("contentType").as_deref(), system("contentEncoding").as_deref()) {
        (Mode::Millrace, None, _) => std::str::from_utf8(message.body).ok()?.to_owned(),
        (Mode::Millrace, Some(kind), _) if kind.contains("json") => {
            std::str::from_utf8(message.body).ok()?.to_owned()
        }
        (Mode::EdgeHub, Some("application/json"), Some("utf-8")) => {
            String::from_utf8_lossy(message.body).into_owned()
        }
        _ => return None,
    };
    let limits = Limits::DEFAULT;
    (message.body.len() <= limits.body_scan_bytes_max as usize).then_some(())?;
    match parse_json(&text, limits.body_depth_max as usize)? {
        tree @ Tree::Object(_) => Some(tree),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
