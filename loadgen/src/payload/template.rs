//! Payloads made from a template: fields with random walks, choices, counters and constants, as JSON or CBOR.
//!
//! Knows: fields and how both forms write them. May use: a seeded random stream. Never: TOML, MQTT, clocks.
//! In:  what every field is, and a [`Stamp`] per message. Out: bytes that [`super::read`] judges.
//! Invariant: no payload is longer than [`bytes_max`] says; everything that never changes is rendered once.

use crate::pattern::Pattern;
use crate::random::Random;

use super::{CBOR_SUM, CBOR_SUM_BYTES, Form, PAD, SUM, SUM_BYTES, Stamp, hash};

/// Names at the top of every payload that are ours: who sent it, which one it is, and the checksum.
pub const RESERVED: [&str; 6] = ["run", "publisher", "seq", "intended_us", "pad", "sum"];

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Any number.
    Real(f64),
    /// True or false.
    Flag(bool),
}

/// Numbers with a fixed count of decimal digits; all three are scaled by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The smallest.
    pub low: i64,
    /// The largest.
    pub high: i64,
    /// Digits behind the point.
    pub digits: u32,
}

/// What one field is.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// Always the same.
    Constant(Scalar),
    /// Wanders within a range, in steps of at most `step`, from `start` or anywhere.
    Walk {
        /// Where.
        range: Range,
        /// Scaled, like the range.
        step: i64,
        /// Scaled, like the range.
        start: Option<i64>,
    },
    /// Anything within a range, each time anew.
    Random(Range),
    /// One of these, each time anew; at least one.
    Choice(Vec<Scalar>),
    /// A text with the numbers of publisher and message in it.
    Text(Pattern),
    /// Counts the messages of its publisher.
    Counter {
        /// The first value.
        start: i64,
        /// From one to the next.
        step: i64,
    },
    /// Fields within a field.
    Object(Vec<(String, Field)>),
    /// Values in a row.
    List(Vec<Field>),
}

/// A [`Field`] that has a state, with its constants rendered.
#[derive(Clone, Debug)]
enum Node {
    Fixed(Vec<u8>),
    Walk { range: Range, step: i64, value: i64 },
    Random(Range),
    Choice(Vec<Vec<u8>>),
    Text(Pattern, u32),
    Counter { start: i64, step: i64 },
    Object(Vec<(Vec<u8>, Node)>),
    List(Vec<Node>),
}

/// The state of one publisher.
#[derive(Clone, Debug)]
pub struct Template {
    form: Form,
    fields: Vec<(Vec<u8>, Node)>,
    random: Random,
    bytes: Option<usize>,
    text: Vec<u8>,
}

impl Template {
    /// `number` is the publisher's; `bytes` is the exact length of each payload, at least [`bytes_max`], or as short as
    /// it goes.
    pub(super) fn new(
        form: Form,
        fields: &[(String, Field)],
        bytes: Option<usize>,
        number: u32,
        mut random: Random,
    ) -> Template {
        let fields = nodes(form, fields, number, &mut random);
        Template { form, fields, random, bytes, text: Vec::with_capacity(bytes.unwrap_or(256)) }
    }

    /// The next payload.
    pub(super) fn next(&mut self, stamp: Stamp) -> &[u8] {
        let Template { form, fields, random, bytes, text } = self;
        text.clear();
        write_head(text, *form, stamp, fields.len() + usize::from(bytes.is_some()));
        for (name, node) in fields {
            if *form == Form::Json {
                text.push(b',');
            }
            text.extend_from_slice(name);
            node.write(text, *form, random, stamp.sequence);
        }
        write_end(text, *form, *bytes);
        text
    }
}

fn nodes(form: Form, fields: &[(String, Field)], number: u32, random: &mut Random) -> Vec<(Vec<u8>, Node)> {
    let node = |(name, field): &(String, Field)| {
        let mut rendered = Vec::new();
        write_text(&mut rendered, form, name);
        if form == Form::Json {
            rendered.push(b':');
        }
        (rendered, Node::new(form, field, number, random))
    };
    fields.iter().map(node).collect()
}

impl Node {
    fn new(form: Form, field: &Field, number: u32, random: &mut Random) -> Node {
        match field {
            Field::Constant(scalar) => Node::Fixed(rendered(form, scalar)),
            Field::Walk { range, step, start } => {
                let value = start.unwrap_or_else(|| range.any(random));
                Node::Walk { range: *range, step: *step, value }
            }
            Field::Random(range) => Node::Random(*range),
            Field::Choice(scalars) => {
                Node::Choice(scalars.iter().map(|scalar| rendered(form, scalar)).collect())
            }
            Field::Text(pattern) if pattern.varies_in_second() => Node::Text(pattern.clone(), number),
            Field::Text(pattern) => Node::Fixed(rendered(form, &Scalar::Text(pattern.expand(number)))),
            Field::Counter { start, step } => Node::Counter { start: *start, step: *step },
            Field::Object(fields) => Node::Object(nodes(form, fields, number, random)),
            Field::List(items) => {
                Node::List(items.iter().map(|item| Node::new(form, item, number, random)).collect())
            }
        }
    }

    fn write(&mut self, out: &mut Vec<u8>, form: Form, random: &mut Random, sequence: u64) {
        match self {
            Node::Fixed(bytes) => out.extend_from_slice(bytes),
            Node::Walk { range, step, value } => {
                let change = random.below(2 * *step as u64 + 1) as i64 - *step;
                *value = (*value + change).clamp(range.low, range.high);
                write_number(out, form, *value, range.digits);
            }
            Node::Random(range) => write_number(out, form, range.any(random), range.digits),
            Node::Choice(choices) => {
                out.extend_from_slice(&choices[random.below(choices.len() as u64) as usize]);
            }
            Node::Text(pattern, number) => write_text(out, form, &pattern.expand_with(*number, sequence)),
            Node::Counter { start, step } => {
                let count = sequence.wrapping_sub(1) as i64;
                write_number(out, form, start.wrapping_add(step.wrapping_mul(count)), 0);
            }
            Node::Object(fields) => {
                open(out, form, (b'{', 5), fields.len());
                for (index, (name, node)) in fields.iter_mut().enumerate() {
                    if form == Form::Json && index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(name);
                    node.write(out, form, random, sequence);
                }
                close(out, form, b'}');
            }
            Node::List(items) => {
                open(out, form, (b'[', 4), items.len());
                for (index, node) in items.iter_mut().enumerate() {
                    if form == Form::Json && index > 0 {
                        out.push(b',');
                    }
                    node.write(out, form, random, sequence);
                }
                close(out, form, b']');
            }
        }
    }
}

impl Range {
    fn any(self, random: &mut Random) -> i64 {
        self.low + random.below((self.high - self.low) as u64 + 1) as i64
    }
}

/// The longest that a payload of these fields can become, padding not counted but for its name.
#[must_use]
pub fn bytes_max(form: Form, fields: &[(String, Field)]) -> usize {
    let widest = Stamp {
        run: super::RunId(u32::MAX),
        publisher: crate::ledger::PublisherId(u32::MAX),
        sequence: u64::MAX,
        intended: crate::clock::Micros::NEVER,
    };
    let mut ends = Vec::new();
    write_head(&mut ends, form, widest, fields.len() + 1);
    write_end(&mut ends, form, Some(0));
    ends.len() + named_bytes_max(form, fields)
}

fn named_bytes_max(form: Form, fields: &[(String, Field)]) -> usize {
    let one = |(name, field): &(String, Field)| {
        // In JSON a comma and a colon.
        let name = rendered(form, &Scalar::Text(name.clone())).len() + 2;
        name + value_bytes_max(form, field)
    };
    fields.iter().map(one).sum()
}

fn value_bytes_max(form: Form, field: &Field) -> usize {
    let longest = |scalars: &[Scalar]| scalars.iter().map(|it| rendered(form, it).len()).max().unwrap_or(0);
    match field {
        Field::Constant(scalar) => longest(std::slice::from_ref(scalar)),
        // With a fixed count of digits, what lies between two numbers is no longer than the longer of them.
        Field::Walk { range, .. } | Field::Random(range) => {
            let long = |value| {
                let mut out = Vec::new();
                write_number(&mut out, form, value, range.digits);
                // CBOR writes small whole numbers shorter, also those between.
                if form == Form::Cbor { 9 } else { out.len() }
            };
            long(range.low).max(long(range.high))
        }
        Field::Choice(scalars) => longest(scalars),
        Field::Text(pattern) => longest(&[Scalar::Text(pattern.expand_with(u32::MAX, u64::MAX))]),
        Field::Counter { .. } => 20,
        // Brackets, or the head of a map or list.
        Field::Object(fields) => 9 + named_bytes_max(form, fields),
        Field::List(items) => 9 + items.iter().map(|item| 1 + value_bytes_max(form, item)).sum::<usize>(),
    }
}

fn rendered(form: Form, scalar: &Scalar) -> Vec<u8> {
    let mut out = Vec::new();
    match (scalar, form) {
        (Scalar::Text(text), _) => write_text(&mut out, form, text),
        (Scalar::Integer(number), _) => write_number(&mut out, form, *number, 0),
        (Scalar::Real(number), Form::Json) => out.extend_from_slice(number.to_string().as_bytes()),
        (Scalar::Real(number), Form::Cbor) => write_float(&mut out, *number),
        (Scalar::Flag(flag), Form::Json) => out.extend_from_slice(flag.to_string().as_bytes()),
        (Scalar::Flag(flag), Form::Cbor) => out.push(0xF4 + u8::from(*flag)),
    }
    out
}

/// Everything before the first field: whose it is, as [`super::read`] looks for it.
fn write_head(out: &mut Vec<u8>, form: Form, stamp: Stamp, more: usize) {
    let parts: [(&[u8], &[u8], u64); 4] = [
        (b"{\"run\":", b"run", u64::from(stamp.run.0)),
        (b",\"publisher\":", b"publisher", u64::from(stamp.publisher.0)),
        (b",\"seq\":", b"seq", stamp.sequence),
        (b",\"intended_us\":", b"intended_us", stamp.intended.0),
    ];
    if form == Form::Cbor {
        // These four and the sum.
        write_cbor_head(out, 5, more as u64 + 5);
    }
    for (json, cbor, number) in parts {
        match form {
            Form::Json => {
                out.extend_from_slice(json);
                write_digits(out, number, 1);
            }
            Form::Cbor => {
                write_cbor_head(out, 3, cbor.len() as u64);
                out.extend_from_slice(cbor);
                // Always eight bytes long, so that every payload is as long as the first.
                out.push(0x1B);
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
    }
}

/// The padding up to `bytes`, if there is to be any, and the sum over everything before it.
fn write_end(out: &mut Vec<u8>, form: Form, bytes: Option<usize>) {
    match (form, bytes) {
        (_, None) => {}
        (Form::Json, Some(bytes)) => {
            let missing = bytes.saturating_sub(out.len() + SUM_BYTES + PAD.len());
            out.extend_from_slice(&PAD[..PAD.len() - 1]);
            out.resize(out.len() + missing, b'.');
            out.push(b'"');
        }
        (Form::Cbor, Some(bytes)) => {
            out.extend_from_slice(b"\x63pad");
            // A text with its length in four bytes.
            let missing = bytes.saturating_sub(out.len() + 5 + CBOR_SUM_BYTES);
            out.push(0x7A);
            out.extend_from_slice(&(missing as u32).to_be_bytes());
            out.resize(out.len() + missing, b'.');
        }
    }
    let sum = hash(out);
    match form {
        Form::Json => {
            out.extend_from_slice(SUM);
            out.extend((0..16).rev().map(|digit| b"0123456789abcdef"[(sum >> (4 * digit)) as usize & 15]));
            out.extend_from_slice(b"\"}");
        }
        Form::Cbor => {
            out.extend_from_slice(CBOR_SUM);
            out.extend_from_slice(&sum.to_be_bytes());
        }
    }
}

fn open(out: &mut Vec<u8>, form: Form, (json, major): (u8, u8), len: usize) {
    match form {
        Form::Json => out.push(json),
        Form::Cbor => write_cbor_head(out, major, len as u64),
    }
}

fn close(out: &mut Vec<u8>, form: Form, json: u8) {
    if form == Form::Json {
        out.push(json);
    }
}

fn write_text(out: &mut Vec<u8>, form: Form, text: &str) {
    match form {
        Form::Json => serde_json::to_writer(&mut *out, text).expect("writing to memory cannot fail"),
        Form::Cbor => {
            write_cbor_head(out, 3, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// A number that is scaled by its digits behind the point.
fn write_number(out: &mut Vec<u8>, form: Form, value: i64, digits: u32) {
    match (form, digits) {
        (Form::Cbor, 0) if value >= 0 => write_cbor_head(out, 0, value as u64),
        (Form::Cbor, 0) => write_cbor_head(out, 1, !value as u64),
        (Form::Cbor, _) => write_float(out, value as f64 / 10_f64.powi(digits as i32)),
        (Form::Json, _) => {
            if value < 0 {
                out.push(b'-');
            }
            let unit = 10_u64.pow(digits);
            write_digits(out, value.unsigned_abs() / unit, 1);
            if digits > 0 {
                out.push(b'.');
                write_digits(out, value.unsigned_abs() % unit, digits as usize);
            }
        }
    }
}

/// Decimal digits, at least `least` of them. By hand: formatting takes longer than all the rest of a payload.
fn write_digits(out: &mut Vec<u8>, mut number: u64, least: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while number > 0 || digits.len() - at < least {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[at..]);
}

fn write_float(out: &mut Vec<u8>, number: f64) {
    out.push(0xFB);
    out.extend_from_slice(&number.to_be_bytes());
}

/// The first bytes of an item: its major type, and a number as short as it goes (RFC 8949 §3).
fn write_cbor_head(out: &mut Vec<u8>, major: u8, number: u64) {
    let major = major << 5;
    match number {
        0..24 => out.push(major | number as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, number as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&(number as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&(number as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
