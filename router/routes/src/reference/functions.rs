//! The functions, once more, in the plainest way. Only for tests.
//!
//! Knows: `reference/edgehub.md` §3.7 and `router/docs/routes.md` §4. May use: what `reference` uses.
//! In:  a name and arguments. Out: a type and a value, or that the compiler would refuse it.

use super::*;

impl Oracle<'_> {
    pub(super) fn call(&self, name: &str, arguments: &[Expr]) -> Out {
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

    pub(super) fn substring(
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

    pub(super) fn is(&self, name: &str, value: &(T, V), argument: &Expr) -> Out {
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
    pub(super) fn is_missing(&self, argument: &Expr) -> bool {
        let (ExprKind::Dollar(name) | ExprKind::Escaped(name)) = &argument.kind else { return false };
        let shadowed = matches!(argument.kind, ExprKind::Dollar(_))
            && property_present(self.message.properties, name).is_some();
        let steps = paths::parse(&name[6..], Limits::DEFAULT.body_path_names_max).unwrap_or_default();
        let millrace =
            Oracle { mode: Mode::Millrace, message: self.message, body: self.body.clone(), element: None };
        !shadowed && self.at(&steps) == V::Null && millrace.at(&steps) == V::Undefined
    }
}
