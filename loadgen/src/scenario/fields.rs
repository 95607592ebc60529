//! The judge of payloads: kinds, lengths, and the fields of a template.
//!
//! In:  the table `publishers.payload`. Out: a [`PayloadKind`], or errors noted in the sections. Never: bytes.

use std::ops::RangeInclusive;

use toml::Value;

use super::PayloadKind;
use super::section::Section;
use crate::pattern::Pattern;
use crate::payload::{Field, Form, HEADER_BYTES, RESERVED, Range, Scalar, TELEMETRY_BYTES_MIN, bytes_max};

/// Longest payload.
const BYTES_MAX: i64 = 1 << 24;

/// Lengths to choose from.
const LENGTHS_MAX: usize = 64;

/// Fields of one template, those within fields and the items of lists included.
const FIELDS_MAX: usize = 1_000;

/// Fields within fields.
const DEPTH_MAX: usize = 8;

/// Values of one choice.
const CHOICES_MAX: usize = 1_000;

/// Numbers lie between this and its negative, so that with all digits they are still whole in 64 bits.
const NUMBER_MAX: f64 = 1e9;

/// The keys of which one makes a table a value; without any it is an object.
const MAKERS: [&str; 5] = ["walk", "random", "choice", "text", "counter"];

/// Judges the table. `None` only if an error was noted.
pub(super) fn payload(mut section: Section<'_>) -> Option<PayloadKind> {
    let kind = section.choice("kind", &["binary", "telemetry", "json", "cbor"]).unwrap_or("binary");
    let of_fields = kind == "json" || kind == "cbor" && section.has("fields");
    if section.has("fields") && !of_fields {
        section
            .error("fields", &format!("means nothing with kind = \"{kind}\": \"json\" or \"cbor\" expected"));
    }
    if section.has("lengths") && kind != "binary" {
        section.error("lengths", &format!("means nothing with kind = \"{kind}\": \"binary\" expected"));
    }
    let form = if kind == "cbor" { Form::Cbor } else { Form::Json };
    let found = match kind {
        _ if of_fields => template(&mut section, form),
        "binary" if section.has("lengths") => lengths(&mut section).map(PayloadKind::Lengths),
        "binary" => {
            let bytes = section.number("bytes", HEADER_BYTES as i64..=BYTES_MAX).unwrap_or(256);
            Some(PayloadKind::Binary { bytes })
        }
        _ => {
            let bytes = section.number("bytes", TELEMETRY_BYTES_MIN as i64..=BYTES_MAX);
            Some(PayloadKind::Telemetry { form, bytes })
        }
    };
    section.finish();
    found
}

fn lengths(section: &mut Section<'_>) -> Option<Vec<usize>> {
    if section.has("bytes") {
        section.error("bytes", "cannot stand beside lengths: take one of them");
    }
    let value = section.value("lengths")?;
    let allowed = HEADER_BYTES as i64..=BYTES_MAX;
    let length = |item: &Value| {
        item.as_integer().filter(|length| allowed.contains(length)).and_then(|length| length.try_into().ok())
    };
    let found = value.as_array().filter(|list| (1..=LENGTHS_MAX).contains(&list.len()));
    let found = found.and_then(|list| list.iter().map(length).collect());
    found.or_else(|| {
        let expected = format!(
            "a list of up to {LENGTHS_MAX} whole numbers from {HEADER_BYTES} to {BYTES_MAX}, as in [64, 64, 4096], expected"
        );
        section.error("lengths", &format!("{value} found, {expected}"));
        None
    })
}

fn template(section: &mut Section<'_>, form: Form) -> Option<PayloadKind> {
    let mut left = FIELDS_MAX;
    let fields = match section.has("fields") {
        true => section.section("fields").and_then(|inner| objects(inner, 1, &mut left)),
        false => None,
    };
    if !section.has("fields") {
        section.error(
            "fields",
            "missing: what kind = \"json\" consists of, as in { temperature = { walk = [10, 90] } }",
        );
    }
    let Some(fields) = fields else {
        // Judged by its type alone: how long the fields are is not known.
        section.number::<i64>("bytes", 1..=BYTES_MAX);
        return None;
    };
    if fields.is_empty() {
        section.error("fields", "no field found, at least one expected");
    }
    for (name, _) in fields.iter().filter(|(name, _)| RESERVED.contains(&name.as_str())) {
        let reserved = RESERVED.join(", ");
        section
            .error(&format!("fields.{name}"), &format!("every payload has it already, as it has {reserved}"));
    }
    let longest = bytes_max(form, &fields);
    if longest as i64 > BYTES_MAX {
        section.error("fields", &format!("can become {longest} bytes long, at most {BYTES_MAX} are allowed"));
        return None;
    }
    // What is padded to a length must never be longer than it.
    let bytes = section.number("bytes", longest as i64..=BYTES_MAX);
    Some(PayloadKind::Template { form, fields, bytes })
}

/// The fields of an object, in the order of their names.
fn objects(mut section: Section<'_>, depth: usize, left: &mut usize) -> Option<Vec<(String, Field)>> {
    let mut fields = Some(Vec::new());
    for name in section.keys() {
        let found = field(&mut section, &name, depth, left);
        fields = fields.zip(found).map(|(mut fields, field)| {
            fields.push((name, field));
            fields
        });
    }
    section.finish();
    fields
}

fn field(section: &mut Section<'_>, key: &str, depth: usize, left: &mut usize) -> Option<Field> {
    if depth > DEPTH_MAX {
        section.error(key, &format!("too deep: fields lie in at most {DEPTH_MAX} others"));
        return None;
    }
    *left = left.checked_sub(1).or_else(|| {
        section.error(key, &format!("too many fields: at most {FIELDS_MAX} are allowed, in all"));
        None
    })?;
    let value = section.value(key)?;
    match value {
        Value::Table(_) => made(section.section(key)?, depth, left),
        Value::Array(items) => {
            let mut list = Vec::new();
            for (index, item) in items.iter().enumerate() {
                *left = left.saturating_sub(1);
                let found = match item {
                    Value::Table(table) => made(section.item(key, index, table), depth, left),
                    other => constant(section, key, other).map(Field::Constant),
                };
                list.push(found);
            }
            list.into_iter().collect::<Option<_>>().map(Field::List)
        }
        other => constant(section, key, other).map(Field::Constant),
    }
}

fn constant(section: &mut Section<'_>, key: &str, value: &Value) -> Option<Scalar> {
    match value {
        Value::String(text) => Some(Scalar::Text(text.clone())),
        Value::Integer(number) => Some(Scalar::Integer(*number)),
        Value::Float(number) if number.is_finite() => Some(Scalar::Real(*number)),
        Value::Boolean(flag) => Some(Scalar::Flag(*flag)),
        other => {
            section.error(key, &format!("{other} found, a text, a number, true or false expected"));
            None
        }
    }
}

/// A table: a value that is made, or an object.
fn made(mut section: Section<'_>, depth: usize, left: &mut usize) -> Option<Field> {
    let makers: Vec<&str> = MAKERS.into_iter().filter(|maker| section.has(maker)).collect();
    let found = match makers.as_slice() {
        [] => return objects(section, depth + 1, left).map(Field::Object),
        ["walk"] => walk(&mut section),
        ["random"] => range(&mut section, "random").map(Field::Random),
        ["choice"] => choice(&mut section).map(Field::Choice),
        ["text"] => {
            let text = section.text("text");
            let parsed = text.map(|text| Pattern::parse(&text, &["publisher", "sequence"]));
            parsed.and_then(|parsed| section.parsed("text", parsed)).map(Field::Text)
        }
        ["counter"] => {
            let allowed = || -(NUMBER_MAX as i64)..=NUMBER_MAX as i64;
            let start = section.number("counter", allowed());
            let step = if section.has("step") { section.number("step", allowed()) } else { Some(1) };
            start.zip(step).map(|(start, step)| Field::Counter { start, step })
        }
        [.., last] => {
            section.error(last, &format!("{} found, one of them expected", makers.join(" and ")));
            return None;
        }
    };
    section.finish();
    found
}

/// Two numbers, and with how many digits.
fn range(section: &mut Section<'_>, key: &str) -> Option<Range> {
    let value = section.value(key)?;
    let digits = section.number("digits", 0..=6);
    let digits: u32 = if section.has("digits") { digits? } else { 2 };
    let number = |item: &Value| item.as_float().or_else(|| item.as_integer().map(|number| number as f64));
    let ends = match value.as_array().map(Vec::as_slice) {
        Some([low, high]) => number(low).zip(number(high)),
        _ => None,
    };
    let fits = |(low, high): &(f64, f64)| low < high && *low >= -NUMBER_MAX && *high <= NUMBER_MAX;
    let Some((low, high)) = ends.filter(fits) else {
        let expected = format!("[LOW, HIGH] with LOW below HIGH, both from -{NUMBER_MAX} to {NUMBER_MAX}");
        section.error(key, &format!("{value} found, {expected} expected"));
        return None;
    };
    Some(Range { low: scaled(low, digits), high: scaled(high, digits), digits })
}

fn scaled(number: f64, digits: u32) -> i64 {
    (number * 10_f64.powi(digits as i32)).round() as i64
}

fn walk(section: &mut Section<'_>) -> Option<Field> {
    let range = range(section, "walk")?;
    let Range { low, high, digits } = range;
    let unit = 10_f64.powi(digits as i32);
    let mut within = |key: &str, allowed: RangeInclusive<i64>| {
        let allowed = *allowed.start() as f64 / unit..=*allowed.end() as f64 / unit;
        let found = section.real(key, allowed).map(|number| scaled(number, digits));
        if found.is_none() && section.has(key) { None } else { Some(found) }
    };
    let step = within("step", 1..=(high - low).max(1))?;
    let start = within("start", low..=high)?;
    Some(Field::Walk { range, step: step.unwrap_or(((high - low) / 100).max(1)), start })
}

fn choice(section: &mut Section<'_>) -> Option<Vec<Scalar>> {
    let value = section.value("choice")?;
    let list = value.as_array().filter(|list| (1..=CHOICES_MAX).contains(&list.len()));
    let Some(list) = list else {
        section.error(
            "choice",
            &format!("{value} found, a list of one to {CHOICES_MAX} texts, numbers or flags expected"),
        );
        return None;
    };
    list.iter().map(|item| constant(section, "choice", item)).collect()
}
