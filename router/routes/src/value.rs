//! Values while a message is looked at, and the rules that compare them (`reference/edgehub.md` §3.6).
//!
//! Knows: the six kinds of value, where a text lies, edgeHub's orders. May use: `syntax`.
//! In and out: plain values. A text is a place, not a pointer: so values live in a `Scratch` between messages.
//! Invariant: a number is never NaN; what would be NaN is undefined.

use std::cmp::Ordering;

use crate::syntax::CompareOp;

/// One value. Small and `Copy`, because it is what the evaluator moves around.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    /// No body or no property had it. Becomes undefined, or null where edgeHub says so.
    Missing,
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    Text(TextAt),
}

/// Where a text lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TextAt {
    pub(crate) origin: Origin,
    pub(crate) start: u32,
    pub(crate) length: u32,
}

/// What a text is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The body as it came.
    Body,
    /// Texts of the body that had escapes.
    Unescaped,
    /// The same, of the element that an `ANY` or `ALL` looks at.
    Element,
    /// Results of this evaluation.
    Computed,
    /// Constants of the table.
    Constant,
    /// The value of the application property with the number `start`.
    Property,
    /// The value of the system property with the number `start`.
    System,
    /// The topic name.
    Topic,
    ClientId,
    User,
}

impl Value {
    /// A number, or undefined if it is none.
    pub(crate) fn number(number: f64) -> Value {
        if number.is_nan() { Value::Undefined } else { Value::Number(number) }
    }

    pub(crate) fn is_defined(self) -> bool {
        !matches!(self, Value::Undefined | Value::Missing)
    }
}

/// Three-valued logic: `None` is undefined.
pub(crate) type Truth = Option<bool>;

impl From<Truth> for Value {
    fn from(truth: Truth) -> Value {
        truth.map_or(Value::Undefined, Value::Bool)
    }
}

/// How two sides are compared; decided by the checker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Comparing {
    /// Both are of one known type; whatever else they turn out to be is undefined.
    Same,
    /// At least one comes from a body; different kinds are not equal and have no order.
    Loose,
    /// The same as edgeHub does it: different kinds compare by rank (§3.6).
    Ranked,
}

/// Compares, given how texts compare.
pub(crate) fn compare(
    how: Comparing,
    op: CompareOp,
    left: Value,
    right: Value,
    texts: impl FnOnce(TextAt, TextAt) -> Ordering,
) -> Truth {
    let order = match (left, right) {
        (Value::Undefined | Value::Missing, _) | (_, Value::Undefined | Value::Missing) => return None,
        (Value::Number(left), Value::Number(right)) => numbers(left, right),
        (Value::Text(left), Value::Text(right)) => texts(left, right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(&right),
        (Value::Null, Value::Null) if how == Comparing::Same => return None,
        (Value::Null, Value::Null) => Ordering::Equal,
        _ => return different_kinds(how, op, left, right),
    };
    Some(op.holds(order))
}

fn different_kinds(how: Comparing, op: CompareOp, left: Value, right: Value) -> Truth {
    match (how, op) {
        (Comparing::Same, _) => None,
        (Comparing::Ranked, _) => Some(op.holds(rank(left).cmp(&rank(right)))),
        (Comparing::Loose, CompareOp::Equal) => Some(false),
        (Comparing::Loose, CompareOp::NotEqual) => Some(true),
        (Comparing::Loose, _) => None,
    }
}

fn rank(value: Value) -> u8 {
    match value {
        Value::Missing | Value::Undefined => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::Text(_) => 3,
        Value::Null => 4,
    }
}

/// Orders numbers; there is no NaN among them, and both zeros are equal.
pub(crate) fn numbers(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right).unwrap_or(Ordering::Equal)
}

/// .NET's ordinal order: by UTF-16 code unit.
pub(crate) fn utf16_order(left: &str, right: &str) -> Ordering {
    // UTF-8 bytes order like code points. Only where both differ and one is beyond the BMP do the orders
    // disagree: its surrogates (D800..DFFF) come before E000..FFFF.
    let differs = left.as_bytes().iter().zip(right.as_bytes()).position(|(l, r)| l != r);
    let Some(at) = differs else { return left.len().cmp(&right.len()) };
    let (l, r) = (left.as_bytes()[at], right.as_bytes()[at]);
    if l < 0xEE && r < 0xEE {
        return l.cmp(&r);
    }
    left.encode_utf16().cmp(right.encode_utf16())
}

/// One character of a name without regard to case: as .NET's invariant, one to one.
pub(crate) fn fold(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_uppercase();
    }
    upper(c)
}

/// Upper case of one character if that is one character.
pub(crate) fn upper(c: char) -> char {
    let mut mapped = c.to_uppercase();
    match (mapped.next(), mapped.next()) {
        (Some(single), None) => single,
        _ => c,
    }
}

/// Lower case of one character if that is one character.
pub(crate) fn lower(c: char) -> char {
    let mut mapped = c.to_lowercase();
    match (mapped.next(), mapped.next()) {
        (Some(single), None) => single,
        _ => c,
    }
}

/// Puts the folded `name` behind what is in `out`.
pub(crate) fn fold_into(name: &str, out: &mut String) {
    if name.is_ascii() {
        let start = out.len();
        out.push_str(name);
        out[start..].make_ascii_uppercase();
    } else {
        out.extend(name.chars().map(fold));
    }
}

/// A name without regard to case.
pub(crate) fn folded(name: &str) -> String {
    name.chars().map(fold).collect()
}

/// Whether two names are equal without regard to case.
pub(crate) fn same_name(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
        || (!left.is_ascii() && !right.is_ascii() && left.chars().map(fold).eq(right.chars().map(fold)))
}

#[cfg(test)]
mod tests;
