//! The machine that runs the code of conditions.
//!
//! Knows: what every operation computes. May use: what `program` uses.
//! In:  code, and a message with its slots filled. Out: a value; texts that were computed lie in the [`Stack`].
//! Invariant: a run takes at most as many steps as the code is long; computed texts are bounded by
//! [`COMPUTED_BYTES_MAX`].

use super::*;

/// What a machine needs between runs.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    values: Vec<Value>,
    computed: String,
    /// What an `ANY` or `ALL` looks at.
    pub(crate) elements: Elements,
}

/// A message with its slots filled, ready to run code.
pub(crate) struct Machine<'r> {
    pub(crate) program: &'r Program,
    pub(crate) message: &'r Message<'r>,
    /// The body as text, empty if it is none.
    pub(crate) body: &'r str,
    /// How the body is encoded, if not as JSON.
    pub(crate) encoding: Option<Encoding>,
    /// What a path gives that the body does not have: null to edgeHub, else undefined.
    pub(crate) missing: Value,
    pub(crate) filled: &'r Filled,
    pub(crate) stack: &'r mut Stack,
}

impl Machine<'_> {
    /// Whether the condition holds.
    pub(crate) fn truth(&mut self, code: &Code) -> Truth {
        match self.run(code) {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The same, given that the first operand of the AND is true.
    pub(crate) fn truth_behind_first(&mut self, code: &Code, behind_first: u32) -> Truth {
        self.stack.values.clear();
        self.stack.computed.clear();
        self.stack.values.push(Value::Bool(true));
        match self.run_on(&(behind_first..code.end)) {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn run(&mut self, code: &Code) -> Value {
        self.stack.values.clear();
        self.stack.computed.clear();
        self.run_on(code)
    }

    fn run_on(&mut self, code: &Code) -> Value {
        let program = self.program;
        let (mut at, end) = (code.start as usize, code.end as usize);
        while at < end {
            at += 1;
            if let Op::JumpIf { value, target } = program.ops[at - 1] {
                if self.top() == Value::Bool(value) {
                    at = target as usize;
                }
                continue;
            }
            if let Op::Quantified(number) = program.ops[at - 1] {
                let quantified = &program.quantified[number as usize];
                let truth = self.quantify(quantified);
                self.stack.values.push(truth.into());
                at = quantified.code.end as usize;
                continue;
            }
            self.step(&program.ops[at - 1]);
        }
        self.pop()
    }

    #[inline]
    fn step(&mut self, op: &Op) {
        let value = match *op {
            Op::Constant(value) => value,
            Op::Slot(slot) => self.slot(slot, false),
            Op::BodySlot(slot) => self.slot(slot, true),
            Op::Loose { property, body, to } => self.loose(property, body, to),
            Op::Only(ty) => only(ty, self.pop()),
            Op::Not => match self.pop() {
                Value::Bool(value) => Value::Bool(!value),
                _ => Value::Undefined,
            },
            Op::Negate => match self.pop() {
                Value::Number(number) => Value::Number(-number),
                _ => Value::Undefined,
            },
            Op::JumpIf { .. } | Op::Quantified(_) => return,
            Op::Element(part) => self.stack.elements.part(part),
            Op::Logic(op) => {
                let right = self.pop();
                logic(op, self.pop(), right)
            }
            Op::QueryLogic(op) => {
                let right = self.pop();
                query_logic(op, self.pop(), right)
            }
            Op::Compare { op, how } => {
                let right = self.pop();
                let left = self.pop();
                self.compare(how, op, left, right).into()
            }
            Op::CompareSlot { slot, body, op, how, constant } => {
                let left = self.slot(slot, body);
                self.compare(how, op, left, constant).into()
            }
            Op::Between(how) => self.between(how),
            Op::Arithmetic(op) => {
                let right = self.pop();
                arithmetic(op, self.pop(), right)
            }
            Op::Concat => self.concat(),
            Op::Coalesce => {
                let right = self.pop();
                let left = self.pop();
                if left.is_defined() { left } else { right }
            }
            Op::In { set, how } => self.contained(set, how),
            Op::InItem(how) => {
                let item = self.pop();
                let found = self.pop();
                let equal = self.compare(how, CompareOp::Equal, self.top(), item);
                logic(LogicOp::Or, found, equal.into())
            }
            Op::InEnd => {
                let found = self.pop();
                self.pop();
                found
            }
            Op::Like(pattern) => match self.pop() {
                Value::Text(text) => {
                    Value::Bool(self.program.patterns[pattern as usize].matches(self.text(text)))
                }
                _ => Value::Undefined,
            },
            Op::Call(function) => self.call(function),
            Op::IsNullInverted(slot) => match self.filled.read(slot) {
                Value::Missing if self.missing == Value::Null => Value::Bool(false),
                Value::Missing | Value::Undefined => Value::Undefined,
                _ => Value::Bool(true),
            },
        };
        self.stack.values.push(value);
    }

    /// Asks for each element until it is decided. What is no array is undefined; no elements are no exception.
    fn quantify(&mut self, quantified: &Quantified) -> Truth {
        let Value::Number(start) = self.filled.read(quantified.array) else { return None };
        let body = match self.encoding {
            None => Scanned::Json(self.body),
            Some(encoding) => Scanned::Binary(self.message.body, encoding),
        };
        let (mut truth, kept) = (Some(quantified.all), self.stack.computed.len());
        let mut cursor = self.stack.elements.walk(body, start as usize);
        loop {
            match self.stack.elements.next(body, &mut cursor, &quantified.parts) {
                Step::End => return truth,
                Step::TooMuch => return None,
                Step::Element => {}
            }
            match self.run_on(&quantified.code) {
                Value::Bool(value) if value != quantified.all => return Some(value),
                Value::Bool(_) => {}
                _ => truth = None,
            }
            self.stack.computed.truncate(kept);
        }
    }

    fn top(&self) -> Value {
        self.stack.values.last().copied().unwrap_or(Value::Undefined)
    }

    fn pop(&mut self) -> Value {
        self.stack.values.pop().unwrap_or(Value::Undefined)
    }

    #[inline]
    pub(crate) fn slot(&self, slot: SlotId, body: bool) -> Value {
        match self.filled.read(slot) {
            Value::Missing if body => self.missing,
            Value::Missing => Value::Undefined,
            value => value,
        }
    }

    /// The text that lies there.
    pub(crate) fn text(&self, at: TextAt) -> &str {
        let (start, end) = (at.start as usize, (at.start + at.length) as usize);
        match at.origin {
            Origin::Body => &self.body[start..end],
            Origin::Unescaped => &self.filled.unescaped[start..end],
            Origin::Element => &self.stack.elements.texts()[start..end],
            Origin::Computed => &self.stack.computed[start..end],
            Origin::Constant => &self.program.texts[start..end],
            Origin::Property => self.message.properties[start].value.unwrap_or(""),
            Origin::System => self.message.system[start].value.unwrap_or(""),
            Origin::Topic => &self.message.topic[start..end],
            Origin::ClientId => &self.message.client_id[start..end],
            Origin::User => &self.message.user[start..end],
        }
    }

    #[inline]
    fn compare(&self, how: Comparing, op: CompareOp, left: Value, right: Value) -> Truth {
        compare(how, op, left, right, |left, right| {
            let (left, right) = (self.text(left), self.text(right));
            match op {
                // Equality needs no order, and most texts differ in length.
                CompareOp::Equal | CompareOp::NotEqual if left == right => std::cmp::Ordering::Equal,
                CompareOp::Equal | CompareOp::NotEqual => std::cmp::Ordering::Less,
                _ => value::utf16_order(left, right),
            }
        })
    }

    fn between(&mut self, how: [Comparing; 2]) -> Value {
        let (high, low, value) = (self.pop(), self.pop(), self.pop());
        let from = self.compare(how[0], CompareOp::GreaterEqual, value, low);
        let to = self.compare(how[1], CompareOp::LessEqual, value, high);
        logic(LogicOp::And, from.into(), to.into())
    }

    fn contained(&mut self, set: u32, how: Comparing) -> Value {
        let (set, value) = (&self.program.sets[set as usize], self.pop());
        let found = match value {
            Value::Undefined | Value::Missing => return Value::Undefined,
            Value::Null if how == Comparing::Same => return Value::Undefined,
            Value::Null => set.others[0],
            Value::Bool(value) => set.others[1 + usize::from(value)],
            Value::Number(number) => set.numbers.contains(&number_key(number)),
            Value::Text(text) => set.texts.contains(self.text(text)),
        };
        if found || !set.undefined { Value::Bool(found) } else { Value::Undefined }
    }

    /// Property first, then body field; a text is read as the number or bool that is needed.
    pub(crate) fn loose(&self, property: SlotId, body: Option<SlotId>, to: Type) -> Value {
        let value = match (self.filled.read(property), body) {
            (Value::Missing, Some(body)) => self.filled.read(body),
            (value, _) => value,
        };
        match (value, to) {
            (Value::Text(text), Type::Number) => {
                dotnet::parse_number(self.text(text)).map_or(Value::Undefined, Value::number)
            }
            (Value::Text(text), _) => read_bool(self.text(text)),
            (value, to) => only(to, value),
        }
    }

    fn concat(&mut self) -> Value {
        let (right, left) = (self.pop(), self.pop());
        match (left, right) {
            (Value::Text(left), Value::Text(right)) => self.join(left, right),
            (Value::Text(text), Value::Null) | (Value::Null, Value::Text(text)) => Value::Text(text),
            (Value::Null, Value::Null) => {
                Value::Text(TextAt { origin: Origin::Computed, start: 0, length: 0 })
            }
            _ => Value::Undefined,
        }
    }

    fn join(&mut self, left: TextAt, right: TextAt) -> Value {
        let length = left.length as usize + right.length as usize;
        let start = self.stack.computed.len();
        if start + length > COMPUTED_BYTES_MAX {
            return Value::Undefined;
        }
        for part in [left, right] {
            match part.origin {
                Origin::Computed => {
                    let from = part.start as usize;
                    self.stack.computed.extend_from_within(from..from + part.length as usize);
                }
                _ => self.push_text(part),
            }
        }
        self.computed_since(start)
    }

    /// Appends a text that is not itself computed.
    fn push_text(&mut self, at: TextAt) {
        let mut computed = std::mem::take(&mut self.stack.computed);
        computed.push_str(self.text(at));
        self.stack.computed = computed;
    }

    fn computed_since(&self, start: usize) -> Value {
        let length = (self.stack.computed.len() - start) as u32;
        Value::Text(TextAt { origin: Origin::Computed, start: start as u32, length })
    }

    fn call(&mut self, function: Function) -> Value {
        match function.operands() {
            1 => {
                let operand = self.pop();
                self.call_one(function, operand)
            }
            2 => {
                let (second, first) = (self.pop(), self.pop());
                self.call_two(function, first, second)
            }
            _ => {
                let (length, start, text) = (self.pop(), self.pop(), self.pop());
                self.substring(text, start, Some(length))
            }
        }
    }

    fn call_one(&mut self, function: Function, operand: Value) -> Value {
        let number = |compute: fn(f64) -> f64| match operand {
            Value::Number(number) => Value::number(compute(number)),
            _ => Value::Undefined,
        };
        match function {
            Function::Abs => number(f64::abs),
            Function::Ceiling => number(f64::ceil),
            Function::Exp => number(f64::exp),
            Function::Floor => number(f64::floor),
            Function::Sign => number(|number| if number == 0.0 { 0.0 } else { number.signum() }),
            Function::Sqrt => number(f64::sqrt),
            Function::Square => number(|number| number * number),
            Function::AsNumber => match operand {
                Value::Text(text) => {
                    dotnet::parse_number(self.text(text)).map_or(Value::Undefined, Value::number)
                }
                operand => only(Type::Number, operand),
            },
            Function::Length => match operand {
                Value::Text(text) => Value::Number(utf16_length(self.text(text)) as f64),
                _ => Value::Undefined,
            },
            Function::Hash => self.hash(operand, None),
            Function::AsTime
            | Function::Year
            | Function::Month
            | Function::Day
            | Function::Weekday
            | Function::Hour
            | Function::Minute
            | Function::Second => self.time(function, operand),
            Function::Lower => self.mapped(operand, lower),
            Function::Upper => self.mapped(operand, upper),
            _ => tests_of_kind(function, operand),
        }
    }

    fn call_two(&mut self, function: Function, first: Value, second: Value) -> Value {
        match (function, first, second) {
            (Function::Power, Value::Number(base), Value::Number(exponent)) => {
                Value::number(base.powf(exponent))
            }
            (Function::HashSalted, value, Value::Text(salt)) => self.hash(value, Some(salt)),
            (Function::SubstringFrom, text, start) => self.substring(text, start, None),
            (_, Value::Text(text), Value::Text(part)) => {
                let (text, part) = (self.text(text), self.text(part));
                match function {
                    Function::IndexOf => Value::Number(index_of(text, part)),
                    Function::StartsWith => Value::Bool(text.starts_with(part)),
                    Function::EndsWith => Value::Bool(text.ends_with(part)),
                    _ => Value::Bool(text.contains(part)),
                }
            }
            _ => Value::Undefined,
        }
    }

    /// SHA-256 of salt and value; a number is hashed as it is written in JSON.
    fn hash(&mut self, value: Value, salt: Option<TextAt>) -> Value {
        let salt = salt.map_or("", |salt| self.text(salt));
        let hex = match value {
            Value::Text(text) => sha256::hex(&[salt.as_bytes(), self.text(text).as_bytes()]),
            Value::Number(number) => sha256::hex(&[salt.as_bytes(), number.to_string().as_bytes()]),
            _ => return Value::Undefined,
        };
        let start = self.stack.computed.len();
        if start + hex.as_str().len() > COMPUTED_BYTES_MAX {
            return Value::Undefined;
        }
        self.stack.computed.push_str(hex.as_str());
        self.computed_since(start)
    }

    fn time(&self, function: Function, operand: Value) -> Value {
        let millis = match operand {
            Value::Number(millis) => Some(millis),
            Value::Text(text) => time::parse(self.text(text)),
            _ => None,
        };
        let Some(millis) = millis else { return Value::Undefined };
        if function == Function::AsTime {
            return Value::number(millis);
        }
        let Some(parts) = time::parts(millis) else { return Value::Undefined };
        Value::Number(match function {
            Function::Year => parts.year,
            Function::Month => parts.month,
            Function::Day => parts.day,
            Function::Weekday => parts.weekday,
            Function::Hour => parts.hour,
            Function::Minute => parts.minute,
            _ => parts.second,
        })
    }

    fn mapped(&mut self, operand: Value, map: fn(char) -> char) -> Value {
        let Value::Text(text) = operand else { return Value::Undefined };
        let start = self.stack.computed.len();
        // A mapped character takes at most three bytes more than the original.
        if start + text.length as usize * 4 > COMPUTED_BYTES_MAX {
            return Value::Undefined;
        }
        let mut computed = std::mem::take(&mut self.stack.computed);
        match text.origin {
            Origin::Computed => {
                let (mut at, end) = (text.start as usize, (text.start + text.length) as usize);
                while let Some(c) = computed[at..end].chars().next() {
                    computed.push(map(c));
                    at += c.len_utf8();
                }
            }
            _ => computed.extend(self.text(text).chars().map(map)),
        }
        self.stack.computed = computed;
        self.computed_since(start)
    }

    fn part(&mut self, at: TextAt, from: usize, to: usize) -> Value {
        if !matches!(at.origin, Origin::Property | Origin::System) {
            return Value::Text(TextAt { start: at.start + from as u32, length: (to - from) as u32, ..at });
        }
        // The value of a property is addressed by its number, so a part of it needs a place of its own.
        let start = self.stack.computed.len();
        if start + (to - from) > COMPUTED_BYTES_MAX {
            return Value::Undefined;
        }
        let mut computed = std::mem::take(&mut self.stack.computed);
        computed.push_str(&self.text(at)[from..to]);
        self.stack.computed = computed;
        self.computed_since(start)
    }

    /// Positions count UTF-16 units and are cut to whole numbers; a cut through a pair of them is undefined.
    fn substring(&mut self, text: Value, start: Value, length: Option<Value>) -> Value {
        let (Value::Text(at), Value::Number(start)) = (text, start) else { return Value::Undefined };
        let text = self.text(at);
        let whole = utf16_length(text) as f64;
        let units = match length {
            None if (0.0..=whole).contains(&start) => whole - start.trunc(),
            Some(Value::Number(length))
                if (0.0..whole).contains(&start) && (0.0..=whole - start).contains(&length) =>
            {
                length.trunc()
            }
            _ => return Value::Undefined,
        };
        if units == 0.0 {
            return self.part(at, 0, 0);
        }
        let from = byte_at(text, start.trunc() as usize);
        let to = from.and_then(|from| Some(from + byte_at(&text[from..], units as usize)?));
        match (from, to) {
            (Some(from), Some(to)) => self.part(at, from, to),
            _ => Value::Undefined,
        }
    }
}

/// Passes values of one type.
fn only(ty: Type, value: Value) -> Value {
    match (ty, value) {
        (Type::Bool, Value::Bool(_)) | (Type::Number, Value::Number(_)) | (Type::Text, Value::Text(_)) => {
            value
        }
        _ => Value::Undefined,
    }
}

fn logic(op: LogicOp, left: Value, right: Value) -> Value {
    let decides = Value::Bool(op == LogicOp::Or);
    match (left, right) {
        (left, right) if left == decides || right == decides => decides,
        (Value::Bool(_), Value::Bool(_)) => Value::Bool(op == LogicOp::And),
        _ => Value::Undefined,
    }
}

fn query_logic(op: LogicOp, left: Value, right: Value) -> Value {
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => Value::Bool(match op {
            LogicOp::And => left && right,
            LogicOp::Or => left || right,
        }),
        _ => Value::Undefined,
    }
}

fn arithmetic(op: ArithmeticOp, left: Value, right: Value) -> Value {
    let (Value::Number(left), Value::Number(right)) = (left, right) else { return Value::Undefined };
    Value::number(match op {
        ArithmeticOp::Add => left + right,
        ArithmeticOp::Subtract => left - right,
        ArithmeticOp::Multiply => left * right,
        ArithmeticOp::Divide => left / right,
        ArithmeticOp::Remainder => left % right,
    })
}

fn tests_of_kind(function: Function, operand: Value) -> Value {
    let defined = operand.is_defined();
    match function {
        Function::IsDefined => Value::Bool(defined),
        Function::IsNumber => Value::Bool(matches!(operand, Value::Number(number) if number.is_finite())),
        Function::IsText => Value::Bool(matches!(operand, Value::Text(_))),
        Function::IsNullText | Function::IsNullLoose => Value::Bool(operand == Value::Null),
        Function::IsNullInverted if defined => Value::Bool(true),
        Function::IsBool if defined => Value::Bool(matches!(operand, Value::Bool(_))),
        _ => Value::Undefined,
    }
}

fn read_bool(text: &str) -> Value {
    match () {
        () if text.eq_ignore_ascii_case("true") => Value::Bool(true),
        () if text.eq_ignore_ascii_case("false") => Value::Bool(false),
        () => Value::Undefined,
    }
}

fn utf16_length(text: &str) -> usize {
    // Every character but the four-byte ones is one unit.
    text.chars().count() + text.bytes().filter(|byte| *byte >= 0xF0).count()
}

fn index_of(text: &str, part: &str) -> f64 {
    text.find(part).map_or(-1.0, |at| utf16_length(&text[..at]) as f64)
}

/// The byte where the UTF-16 unit with this number starts; `None` within a pair or behind the end.
fn byte_at(text: &str, units: usize) -> Option<usize> {
    if text.is_ascii() {
        return (units <= text.len()).then_some(units);
    }
    let mut left = units;
    for (at, c) in text.char_indices() {
        if left == 0 {
            return Some(at);
        }
        left = left.checked_sub(c.len_utf16())?;
    }
    (left == 0).then_some(text.len())
}
