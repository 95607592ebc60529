//! The built-in functions: which there are, what they take, what they give (`reference/edgehub.md` §3.7).
//!
//! Knows: names and signatures. May use: `types`. What they compute is in `program`.
//! In:  a name and the types of the arguments. Out: a function and its type, or nothing.

use crate::types::Type;

/// A function with a fixed number of operands (`concat` is an operator, `is_…` of a known type a constant).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Function {
    Abs,
    Ceiling,
    Exp,
    Floor,
    Sign,
    Sqrt,
    Square,
    Power,
    AsNumber,
    IsBool,
    IsDefined,
    IsNumber,
    IsText,
    /// `is_null` of a property: whether it is there without a value.
    IsNullText,
    /// `is_null` of a body value, sane.
    IsNullLoose,
    /// `is_null` of a body value as edgeHub has it: inverted.
    IsNullInverted,
    Length,
    Lower,
    Upper,
    SubstringFrom,
    Substring,
    IndexOf,
    StartsWith,
    EndsWith,
    Contains,
    /// SHA-256 in hexadecimal digits.
    Hash,
    /// The same of the salt and the value.
    HashSalted,
    /// Milliseconds since 1970 of a time as text or number.
    AsTime,
    Year,
    Month,
    Day,
    /// 1 is Monday.
    Weekday,
    Hour,
    Minute,
    Second,
}

/// What edgeHub says one parameter may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parameter {
    Number,
    Text,
    /// `as_number` takes both.
    NumberOrText,
}

/// A function with ordinary parameters. A body value fits every parameter and is judged when it is known.
pub(crate) struct Signature {
    pub(crate) name: &'static str,
    pub(crate) parameters: &'static [Parameter],
    pub(crate) result: Type,
    pub(crate) function: Function,
    /// Whether edgeHub does not know it.
    pub(crate) extension: bool,
}

use Parameter::{Number as N, NumberOrText as A, Text as T};

/// All functions with ordinary parameters; one name may come with several numbers of parameters.
pub(crate) const SIGNATURES: &[Signature] = &[
    signature("abs", &[N], Type::Number, Function::Abs),
    signature("ceiling", &[N], Type::Number, Function::Ceiling),
    signature("exp", &[N], Type::Number, Function::Exp),
    signature("floor", &[N], Type::Number, Function::Floor),
    signature("sign", &[N], Type::Number, Function::Sign),
    signature("sqrt", &[N], Type::Number, Function::Sqrt),
    signature("square", &[N], Type::Number, Function::Square),
    signature("power", &[N, N], Type::Number, Function::Power),
    signature("as_number", &[A], Type::Number, Function::AsNumber),
    signature("length", &[T], Type::Number, Function::Length),
    signature("lower", &[T], Type::Text, Function::Lower),
    signature("upper", &[T], Type::Text, Function::Upper),
    signature("substring", &[T, N], Type::Text, Function::SubstringFrom),
    signature("substring", &[T, N, N], Type::Text, Function::Substring),
    signature("index_of", &[T, T], Type::Number, Function::IndexOf),
    signature("starts_with", &[T, T], Type::Bool, Function::StartsWith),
    signature("ends_with", &[T, T], Type::Bool, Function::EndsWith),
    signature("contains", &[T, T], Type::Bool, Function::Contains),
    extension("hash", &[A], Type::Text, Function::Hash),
    extension("hash", &[A, T], Type::Text, Function::HashSalted),
    extension("as_time", &[A], Type::Number, Function::AsTime),
    extension("year", &[A], Type::Number, Function::Year),
    extension("month", &[A], Type::Number, Function::Month),
    extension("day", &[A], Type::Number, Function::Day),
    extension("weekday", &[A], Type::Number, Function::Weekday),
    extension("hour", &[A], Type::Number, Function::Hour),
    extension("minute", &[A], Type::Number, Function::Minute),
    extension("second", &[A], Type::Number, Function::Second),
];

/// The functions that the checker treats by itself.
pub(crate) const SPECIAL: &[&str] = &["concat", "is_bool", "is_defined", "is_null", "is_number", "is_string"];

const fn signature(
    name: &'static str,
    parameters: &'static [Parameter],
    result: Type,
    function: Function,
) -> Signature {
    Signature { name, parameters, result, function, extension: false }
}

const fn extension(
    name: &'static str,
    parameters: &'static [Parameter],
    result: Type,
    function: Function,
) -> Signature {
    Signature { name, parameters, result, function, extension: true }
}

/// Every name there is, for proposals.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SIGNATURES.iter().map(|signature| signature.name).chain(SPECIAL.iter().copied()).chain(["any", "all"])
}

impl Function {
    pub(crate) fn operands(self) -> usize {
        match self {
            Function::Substring => 3,
            Function::Power
            | Function::SubstringFrom
            | Function::IndexOf
            | Function::StartsWith
            | Function::EndsWith
            | Function::Contains
            | Function::HashSalted => 2,
            _ => 1,
        }
    }
}
