//! The naive evaluator: the oracle that every table is compared with. Only for tests.
//!
//! Knows: the same language, written a second time in the plainest way: it walks the tree of the syntax for
//! every message, parses the body into a tree, and computes types and values side by side.
//! May use: `syntax`, `parser` (the tree), `paths` (the path syntax), `dotnet`. Not: slots, scan, check, program, index.
//! In:  a condition and a message. Out: refused, or true, false, undefined.

use std::cmp::Ordering;

use model::{Limits, Message, Property};

use crate::Mode;
use crate::dotnet;
use crate::paths::{self, Step};
use crate::syntax::{ArithmeticOp, BinaryOp, CompareOp, Expr, ExprKind, Literal, LogicOp};

/// A JSON document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tree {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    Array(Vec<Tree>),
    /// In the order of the body, duplicates and all.
    Object(Vec<(String, Tree)>),
}

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

    fn call(&self, name: &str, arguments: &[Expr]) -> Out {
        if self.millrace() && matches!(name, "any" | "all") {
            return match arguments {
                [condition] if self.element.is_none() => self.quantified(name == "all", condition),
                _ => Err(Refused),
            };
        }
        let values = arguments.iter().map(|argument| self.expr(argument)).collect::<Result<Vec<_>, _>>()?;
        if name == "concat" {
            return if values.len() < 2 { Err(Refused) } else { self.concat(&values) };
        }
        if let Some(name) = name.strip_prefix("is_") {
            let [value] = values.as_slice() else { return Err(Refused) };
            return self.is(name, value, &arguments[0]);
        }
        let number = |at: usize| -> Result<Option<f64>, Refused> {
            match self.as_number(arguments.get(at).ok_or(Refused)?)? {
                (T::Number | T::Query, V::Number(value)) => Ok(Some(value)),
                (T::Number | T::Query, _) => Ok(None),
                _ => Err(Refused),
            }
        };
        let text = |at: usize| -> Result<Option<String>, Refused> {
            match values.get(at).ok_or(Refused)? {
                (T::Text | T::Query, V::Text(text)) => Ok(Some(text.clone())),
                (T::Text | T::Query, _) => Ok(None),
                _ => Err(Refused),
            }
        };
        let arity = |wanted: usize| if values.len() == wanted { Ok(()) } else { Err(Refused) };
        let of_number = |compute: fn(f64) -> f64| -> Out {
            arity(1)?;
            Ok((T::Number, number(0)?.map_or(V::Undefined, |value| defined(compute(value)))))
        };
        match name {
            "abs" => of_number(f64::abs),
            "ceiling" => of_number(f64::ceil),
            "exp" => of_number(f64::exp),
            "floor" => of_number(f64::floor),
            "sign" => of_number(|value| {
                if value > 0.0 {
                    1.0
                } else if value < 0.0 {
                    -1.0
                } else {
                    0.0
                }
            }),
            "sqrt" => of_number(f64::sqrt),
            "square" => of_number(|value| value * value),
            "power" => {
                arity(2)?;
                let (base, exponent) = (number(0)?, number(1)?);
                Ok((T::Number, base.zip(exponent).map_or(V::Undefined, |(b, e)| defined(b.powf(e)))))
            }
            "as_number" => {
                arity(1)?;
                match &values[0] {
                    (T::Text | T::Query, V::Text(text)) => {
                        Ok((T::Number, dotnet::parse_number(text).map_or(V::Undefined, defined)))
                    }
                    (T::Number | T::Query, V::Number(value)) => Ok((T::Number, defined(*value))),
                    (T::Number | T::Query | T::Text, _) => Ok((T::Number, V::Undefined)),
                    _ => Err(Refused),
                }
            }
            "length" => {
                arity(1)?;
                Ok((
                    T::Number,
                    text(0)?.map_or(V::Undefined, |text| V::Number(text.encode_utf16().count() as f64)),
                ))
            }
            "lower" | "upper" => {
                arity(1)?;
                let map = if name == "lower" { crate::value::lower } else { crate::value::upper };
                Ok((T::Text, text(0)?.map_or(V::Undefined, |text| V::Text(text.chars().map(map).collect()))))
            }
            "substring" => self.substring(
                values.len(),
                text(0)?,
                number(1)?,
                if values.len() == 3 { Some(number(2)?) } else { None },
            ),
            "index_of" | "starts_with" | "ends_with" | "contains" => {
                arity(2)?;
                let both = text(0)?.zip(text(1)?);
                let ty = if name == "index_of" { T::Number } else { T::Bool };
                Ok((
                    ty,
                    both.map_or(V::Undefined, |(text, part)| match name {
                        "index_of" => V::Number(
                            text.find(&part).map_or(-1.0, |at| text[..at].encode_utf16().count() as f64),
                        ),
                        "starts_with" => V::Bool(text.starts_with(&part)),
                        "ends_with" => V::Bool(text.ends_with(&part)),
                        _ => V::Bool(text.contains(&part)),
                    }),
                ))
            }
            _ => Err(Refused),
        }
    }

    fn substring(
        &self,
        arity: usize,
        text: Option<String>,
        start: Option<f64>,
        length: Option<Option<f64>>,
    ) -> Out {
        if !(2..=3).contains(&arity) {
            return Err(Refused);
        }
        let cut = || {
            let (text, start) = (text?, start?);
            let units: Vec<u16> = text.encode_utf16().collect();
            let whole = units.len() as f64;
            let end = match length {
                None if start >= 0.0 && start <= whole => units.len(),
                Some(length) => {
                    let length = length?;
                    (start >= 0.0 && start < whole && length >= 0.0 && length <= whole - start)
                        .then_some(())?;
                    start.trunc() as usize + length.trunc() as usize
                }
                None => return None,
            };
            String::from_utf16(&units[start.trunc() as usize..end]).ok()
        };
        Ok((T::Text, cut().map_or(V::Undefined, V::Text)))
    }

    fn is(&self, name: &str, value: &(T, V), argument: &Expr) -> Out {
        let bool = |value| Ok((T::Bool, V::Bool(value)));
        let undefined = value.1 == V::Undefined;
        match (name, value.0) {
            ("defined", T::Null) => bool(true),
            ("defined", _) => bool(!undefined),
            ("bool", T::Bool | T::Query) if undefined => Ok((T::Bool, V::Undefined)),
            ("bool", T::Bool | T::Query) => bool(matches!(value.1, V::Bool(_))),
            ("number", T::Number | T::Query) => {
                bool(matches!(value.1, V::Number(number) if number.is_finite()))
            }
            ("string", T::Text | T::Query) => bool(matches!(value.1, V::Text(_))),
            ("null", T::Null) => bool(true),
            ("null", T::Text) => bool(value.1 == V::Null),
            ("null", T::Query) if self.millrace() => bool(value.1 == V::Null),
            ("null", T::Query) if undefined => Ok((T::Bool, V::Undefined)),
            ("null", T::Query) => bool(!self.is_missing(argument)),
            ("bool" | "number" | "string" | "null", _) => bool(false),
            _ => Err(Refused),
        }
    }

    /// Whether a body path finds nothing at all: what edgeHub's `is_null` really tests.
    fn is_missing(&self, argument: &Expr) -> bool {
        let (ExprKind::Dollar(name) | ExprKind::Escaped(name)) = &argument.kind else { return false };
        let shadowed = matches!(argument.kind, ExprKind::Dollar(_))
            && property_present(self.message.properties, name).is_some();
        let steps = paths::parse(&name[6..], Limits::DEFAULT.body_path_names_max).unwrap_or_default();
        let millrace =
            Oracle { mode: Mode::Millrace, message: self.message, body: self.body.clone(), element: None };
        !shadowed && self.at(&steps) == V::Null && millrace.at(&steps) == V::Undefined
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

/// RFC 8259 by recursive descent; `None` for what is not well-formed or too deep.
pub(crate) fn parse_json(text: &str, depth: usize) -> Option<Tree> {
    let mut rest = text;
    let tree = json_value(&mut rest, depth)?;
    blank(&mut rest);
    rest.is_empty().then_some(tree)
}

fn blank(rest: &mut &str) {
    *rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
}

fn eat(rest: &mut &str, token: &str) -> bool {
    match rest.strip_prefix(token) {
        Some(after) => {
            *rest = after;
            true
        }
        None => false,
    }
}

fn json_value(rest: &mut &str, depth: usize) -> Option<Tree> {
    blank(rest);
    match rest.chars().next()? {
        '{' => {
            eat(rest, "{");
            let depth = depth.checked_sub(1)?;
            let mut members = Vec::new();
            blank(rest);
            if eat(rest, "}") {
                return Some(Tree::Object(members));
            }
            loop {
                blank(rest);
                let key = json_text(rest)?;
                blank(rest);
                eat(rest, ":").then_some(())?;
                members.push((key, json_value(rest, depth)?));
                blank(rest);
                if eat(rest, "}") {
                    return Some(Tree::Object(members));
                }
                eat(rest, ",").then_some(())?;
            }
        }
        '[' => {
            eat(rest, "[");
            let depth = depth.checked_sub(1)?;
            let mut items = Vec::new();
            blank(rest);
            if eat(rest, "]") {
                return Some(Tree::Array(items));
            }
            loop {
                items.push(json_value(rest, depth)?);
                blank(rest);
                if eat(rest, "]") {
                    return Some(Tree::Array(items));
                }
                eat(rest, ",").then_some(())?;
            }
        }
        '"' => json_text(rest).map(Tree::Text),
        't' => eat(rest, "true").then_some(Tree::Bool(true)),
        'f' => eat(rest, "false").then_some(Tree::Bool(false)),
        'n' => eat(rest, "null").then_some(Tree::Null),
        _ => json_number(rest),
    }
}

fn json_number(rest: &mut &str) -> Option<Tree> {
    let end =
        rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(rest.len());
    let (number, after) = rest.split_at(end);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (number, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    let sound = digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)));
    *rest = after;
    sound.then(|| Tree::Number(number.parse().unwrap()))
}

fn json_text(rest: &mut &str) -> Option<String> {
    eat(rest, "\"").then_some(())?;
    let (mut units, mut characters) = (Vec::new(), rest.char_indices());
    while let Some((at, c)) = characters.next() {
        let plain = match c {
            '"' => {
                *rest = &rest[at + 1..];
                return Some(String::from_utf16_lossy(&units));
            }
            '\\' => match characters.next()?.1 {
                c @ ('"' | '\\' | '/') => c,
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let digits: String = (0..4).map_while(|_| characters.next().map(|(_, c)| c)).collect();
                    let sound = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                    sound.then_some(())?;
                    units.push(u16::from_str_radix(&digits, 16).ok()?);
                    continue;
                }
                _ => return None,
            },
            c if c < ' ' => return None,
            c => c,
        };
        units.extend_from_slice(plain.encode_utf16(&mut [0; 2]));
    }
    None
}

#[cfg(test)]
mod tests;
