//! Gives every name its slot and every operation its meaning, or says what does not fit.
//!
//! Knows: edgeHub's typing rules and where Millrace mode goes beyond them. May use: all files below it in the
//! pipeline (`syntax`, `types`, `slots`, `functions`, `paths`) and `program` to compute constants.
//! In:  a condition as written. Out: a typed tree with constants folded, or all its faults.
//! Invariant: what edgeHub accepts has the type that edgeHub gives it; a coercion happens only where edgeHub
//! would refuse the route (`router/docs/routes.md` §5).

mod fold;
mod operators;

use model::Limits;

use crate::Mode;
use crate::diagnostic::{Fault, Span, nearest};
use crate::functions::{self, Function, Parameter, SIGNATURES, Signature};
use crate::paths::{self, Step};
use crate::pattern::{Pattern, WILD_MAX};
use crate::slots::{Origins, Slots};
use crate::syntax::{ArithmeticOp, BinaryOp, CompareOp, Expr, ExprKind, Literal, LogicOp};
use crate::types::{Constant, Node, Type};
use crate::value::{Comparing, folded};
use fold::fold;
use operators::negate_if;

/// Checks a condition. The result counts as matched only where it is `true`.
pub(crate) fn check(
    condition: &Expr,
    mode: Mode,
    limits: &Limits,
    slots: &mut Slots,
) -> Result<Node, Vec<Fault>> {
    let mut checker = Checker { mode, limits, slots, faults: Vec::new(), scope: None };
    let typed = checker.expr(condition);
    if !checker.faults.is_empty() {
        return Err(checker.faults);
    }
    // A condition that is a text or a number is legal and never matches; null counts as false (§3.6).
    Ok(match typed.ty {
        Type::Bool => typed.node,
        Type::Query => Node::Only(Type::Bool, Box::new(typed.node)),
        Type::Null => Node::Constant(Constant::Bool(false)),
        Type::Number | Type::Text | Type::Undefined | Type::Broken => Node::UNDEFINED,
    })
}

/// Checks an expression whose value is wanted, of whatever type.
pub(crate) fn check_value(
    expr: &Expr,
    mode: Mode,
    limits: &Limits,
    slots: &mut Slots,
) -> Result<Node, Vec<Fault>> {
    let mut checker = Checker { mode, limits, slots, faults: Vec::new(), scope: None };
    let typed = checker.expr(expr);
    if checker.faults.is_empty() { Ok(typed.node) } else { Err(checker.faults) }
}

struct Checker<'s> {
    mode: Mode,
    limits: &'s Limits,
    slots: &'s mut Slots,
    faults: Vec<Fault>,
    /// The `ANY` or `ALL` around what is being checked.
    scope: Option<Scope>,
}

/// What an `ANY` or `ALL` looks at.
#[derive(Default)]
struct Scope {
    /// The path in front of `[*]`, once one was seen.
    array: Option<Vec<Step>>,
    /// The paths behind it.
    parts: Vec<Vec<Step>>,
}

/// A checked expression.
#[derive(Clone)]
struct Typed {
    node: Node,
    ty: Type,
    span: Span,
    /// The name, if it is a bare one: where edgeHub would refuse its type, Millrace mode converts it.
    name: Option<String>,
}

impl Typed {
    fn new(node: Node, ty: Type, span: &Span) -> Typed {
        Typed { node: fold(node), ty, span: span.clone(), name: None }
    }
}

impl Checker<'_> {
    fn expr(&mut self, expr: &Expr) -> Typed {
        let span = &expr.span;
        match &expr.kind {
            ExprKind::Literal(literal) => literal_value(literal, span),
            ExprKind::Name(name) => self.name(name, span),
            ExprKind::Dollar(name) => self.dollar(name, span),
            ExprKind::Escaped(name) => self.escaped(name, span),
            ExprKind::Call { name, name_span, arguments } => self.call(name, name_span, arguments, span),
            ExprKind::Not { op_span, operand } => {
                let operand = self.expr(operand);
                self.not(operand, op_span, span)
            }
            ExprKind::Negate { op_span, operand } => {
                let operand = self.expr(operand);
                self.negate(operand, op_span, span)
            }
            ExprKind::Logic { op, operands, op_spans } => self.logic(*op, operands, op_spans, span),
            ExprKind::Binary { op, op_span, left, right } => {
                let (left, right) = (self.expr(left), self.expr(right));
                self.binary(*op, op_span, left, right, span)
            }
            ExprKind::In { value, set, negated, op_span } => {
                let found = self.contained(value, set, op_span, span);
                negate_if(*negated, found)
            }
            ExprKind::Between { value, low, high, negated, op_span } => {
                let found = self.between([value, low, high], op_span, span);
                negate_if(*negated, found)
            }
            ExprKind::Like { value, pattern, negated, op_span } => {
                let found = self.like(value, pattern, op_span, span);
                negate_if(*negated, found)
            }
        }
    }

    // ---- names ----

    fn name(&mut self, name: &str, span: &Span) -> Typed {
        let slot = self.slots.intern(Origins::Property(folded(name)));
        Typed { name: Some(name.to_owned()), ..Typed::new(Node::Slot(slot), Type::Text, span) }
    }

    fn dollar(&mut self, name: &str, span: &Span) -> Typed {
        if let Some(path) = body_path(name).filter(|path| self.mode == Mode::Millrace && path.contains("[*]"))
        {
            return self.element(path, span);
        }
        if let Some(path) = body_path(name) {
            let Some(steps) = self.body(path, span) else { return broken(span) };
            // A property's name cannot hold brackets, so such a path is never shadowed.
            let origins = match path.contains(['[', ']']) {
                true => Origins::Body(steps),
                false => Origins::DollarBody(steps, folded(name)),
            };
            return Typed::new(Node::BodySlot(self.slots.intern(origins)), Type::Query, span);
        }
        if let Some(field) = self.field(name, span) {
            return field;
        }
        if name.contains(['[', ']']) {
            return Typed::new(Node::UNDEFINED, Type::Undefined, span);
        }
        let slot = self.slots.intern(Origins::Dollar(folded(name)));
        Typed::new(Node::Slot(slot), Type::Text, span)
    }

    fn escaped(&mut self, name: &str, span: &Span) -> Typed {
        if let Some(path) = body_path(name) {
            let Some(steps) = self.body(path, span) else { return broken(span) };
            return Typed::new(Node::BodySlot(self.slots.intern(Origins::Body(steps))), Type::Query, span);
        }
        if name.contains(['[', ']']) {
            return Typed::new(Node::UNDEFINED, Type::Undefined, span);
        }
        let slot = self.slots.intern(Origins::System(folded(&name[1..])));
        Typed::new(Node::Slot(slot), Type::Text, span)
    }

    /// `$body.list[*].x` within an `ANY` or `ALL`.
    fn element(&mut self, path: &str, span: &Span) -> Typed {
        let (array, part) = path.split_once("[*]").unwrap_or((path, ""));
        let (array, part) = (
            self.body(array, span),
            match part.strip_prefix('.') {
                None if part.is_empty() => Some(Vec::new()),
                None => self.body(part, span),
                Some(part) => self.body(part, span),
            },
        );
        let (Some(array), Some(part)) = (array, part) else { return broken(span) };
        let fault = |message: &str| Fault::new(span.clone(), message);
        let Some(scope) = &mut self.scope else {
            let help = format!("did you mean ANY($body.{path} = …)?");
            self.faults
                .push(fault("'[*]' stands for each element and needs ANY(…) or ALL(…) around it").help(help));
            return broken(span);
        };
        if *scope.array.get_or_insert_with(|| array.clone()) != array {
            self.faults.push(fault("one ANY or ALL looks at one array; this is another"));
            return broken(span);
        }
        let known = scope.parts.iter().position(|known| *known == part);
        let number = known.unwrap_or(scope.parts.len());
        if known.is_none() {
            scope.parts.push(part);
        }
        Typed::new(Node::Element(number as u32), Type::Query, span)
    }

    fn quantified(&mut self, all: bool, name_span: &Span, arguments: &[Expr], span: &Span) -> Typed {
        let message = match (arguments.len(), &self.scope) {
            (1, None) => None,
            (1, Some(_)) => Some("an ANY or ALL cannot stand in another one"),
            _ => Some("expected one condition, such as ANY($body.readings[*].value > 50)"),
        };
        if let Some(message) = message {
            self.faults.push(Fault::new(name_span.clone(), message));
            return broken(span);
        }
        self.scope = Some(Scope::default());
        let condition = self.expr(&arguments[0]);
        let scope = self.scope.take().unwrap_or_default();
        let condition = self.coerce(condition, Type::Bool);
        match (condition.ty, scope.array) {
            (Type::Broken, _) => broken(span),
            (Type::Bool | Type::Query, Some(array)) => {
                let array = self.slots.intern(Origins::Elements(array));
                let condition = Box::new(self.bool_of(condition, span).node);
                let node = Node::Quantified { all, array, parts: scope.parts, condition };
                Typed::new(node, Type::Bool, span)
            }
            (_, array) => {
                let message = match array {
                    Some(_) => "expected a condition, such as ANY($body.readings[*].value > 50)",
                    None => "expected a path with '[*]', such as ANY($body.readings[*].value > 50)",
                };
                self.faults.push(Fault::new(name_span.clone(), message));
                broken(span)
            }
        }
    }

    fn body(&mut self, path: &str, span: &Span) -> Option<Vec<Step>> {
        match paths::parse(path, self.limits.body_path_names_max) {
            Ok(steps) => Some(steps),
            Err(reason) => {
                self.faults.push(Fault::new(span.clone(), format!("error in $body query: {reason}")));
                None
            }
        }
    }

    /// What MQTT knows of a message; only in Millrace mode, and not to be shadowed by a property.
    fn field(&mut self, name: &str, span: &Span) -> Option<Typed> {
        if self.mode == Mode::EdgeHub {
            return None;
        }
        let lower = name.to_ascii_lowercase();
        let (origins, ty) = match lower.as_str() {
            "$topic" => (Origins::Topic, Type::Text),
            "$clientid" => (Origins::ClientId, Type::Text),
            "$user" => (Origins::User, Type::Text),
            "$qos" => (Origins::Qos, Type::Number),
            "$retain" => (Origins::Retain, Type::Bool),
            level => match level.strip_prefix("$topic[")?.strip_suffix(']').and_then(|n| n.parse().ok()) {
                Some(level) => (Origins::TopicLevel(level), Type::Text),
                None => {
                    let message = "expected a level of the topic, counted from 0, such as $topic[2]";
                    self.faults.push(Fault::new(span.clone(), message));
                    return Some(broken(span));
                }
            },
        };
        Some(Typed::new(Node::Slot(self.slots.intern(origins)), ty, span))
    }

    // ---- functions ----

    fn call(&mut self, name: &str, name_span: &Span, arguments: &[Expr], span: &Span) -> Typed {
        if self.mode == Mode::Millrace && ["any", "all"].iter().any(|known| known.eq_ignore_ascii_case(name))
        {
            return self.quantified(name.eq_ignore_ascii_case("all"), name_span, arguments, span);
        }
        let arguments: Vec<Typed> = arguments.iter().map(|argument| self.expr(argument)).collect();
        if arguments.iter().any(|argument| argument.ty == Type::Broken) {
            return broken(span);
        }
        let lower = name.to_ascii_lowercase();
        if functions::SPECIAL.contains(&lower.as_str()) {
            if let Some(typed) = self.special(&lower, &arguments, span) {
                return typed;
            }
            return self.bad_arguments(name, name_span, &arguments, span);
        }
        let mode = self.mode;
        let allowed = |signature: &&Signature| mode == Mode::Millrace || !signature.extension;
        let mut known =
            SIGNATURES.iter().filter(allowed).filter(|signature| signature.name == lower).peekable();
        if known.peek().is_none() {
            let mut fault = Fault::new(name_span.clone(), format!("invalid built-in function '{name}'"));
            if let Some(near) = nearest(&lower, functions::names()) {
                fault = fault.help(format!("did you mean {near}(…)?"));
            }
            self.faults.push(fault);
            return broken(span);
        }
        for signature in known {
            if let Some(nodes) = self.fit(signature, &arguments) {
                return Typed::new(Node::Call(signature.function, nodes), signature.result, span);
            }
        }
        self.bad_arguments(name, name_span, &arguments, span)
    }

    fn fit(&mut self, signature: &Signature, arguments: &[Typed]) -> Option<Vec<Node>> {
        if signature.parameters.len() != arguments.len() {
            return None;
        }
        signature
            .parameters
            .iter()
            .zip(arguments)
            .map(|(parameter, argument)| {
                let argument = match parameter {
                    Parameter::Number => self.coerce(argument.clone(), Type::Number),
                    Parameter::Text | Parameter::NumberOrText => argument.clone(),
                };
                let fits = match (parameter, argument.ty) {
                    (_, Type::Query) => true,
                    (Parameter::Number, ty) => ty == Type::Number,
                    (Parameter::Text, ty) => ty == Type::Text,
                    (Parameter::NumberOrText, ty) => matches!(ty, Type::Number | Type::Text),
                };
                fits.then_some(argument.node)
            })
            .collect()
    }

    fn bad_arguments(&mut self, name: &str, name_span: &Span, given: &[Typed], span: &Span) -> Typed {
        let types: Vec<&str> = given.iter().map(|argument| argument.ty.name()).collect();
        let mut message =
            format!("invalid arguments to built-in function '{name}': {name}({})", types.join(", "));
        let lower = name.to_ascii_lowercase();
        let forms: Vec<String> =
            SIGNATURES.iter().filter(|signature| signature.name == lower).map(show_signature).collect();
        match forms.is_empty() {
            false => message.push_str(&format!("; expected {}", forms.join(" or "))),
            true if lower == "concat" => message.push_str("; expected concat(string, string, …)"),
            true => message.push_str("; expected one argument"),
        }
        self.faults.push(Fault::new(name_span.clone(), message));
        broken(span)
    }

    fn special(&mut self, name: &str, arguments: &[Typed], span: &Span) -> Option<Typed> {
        if name == "concat" {
            return concat(arguments, span);
        }
        let [argument] = arguments else { return None };
        let constant = |value| Some(Typed::new(Node::Constant(Constant::Bool(value)), Type::Bool, span));
        let call =
            |function| Some(Typed::new(Node::Call(function, vec![argument.node.clone()]), Type::Bool, span));
        match (name, argument.ty) {
            ("is_defined", Type::Null) => constant(true),
            ("is_defined", Type::Undefined) => constant(false),
            ("is_defined", _) => call(Function::IsDefined),
            ("is_bool", Type::Bool | Type::Query) => call(Function::IsBool),
            ("is_number", Type::Number | Type::Query) => call(Function::IsNumber),
            ("is_string", Type::Text | Type::Query) => call(Function::IsText),
            ("is_null", Type::Null) => constant(true),
            ("is_null", Type::Text) => call(Function::IsNullText),
            ("is_null", Type::Query) if self.mode == Mode::EdgeHub => call(Function::IsNullInverted),
            ("is_null", Type::Query) => call(Function::IsNullLoose),
            _ => constant(false),
        }
    }

    // ---- types ----

    /// Brings two sides that must be of one type together, where one of them is a bare name.
    fn meet(&mut self, left: Typed, right: Typed) -> (Typed, Typed) {
        let loose = |ty| matches!(ty, Type::Number | Type::Bool);
        if loose(right.ty) {
            return (self.coerce(left, right.ty), right);
        }
        if loose(left.ty) {
            let ty = left.ty;
            return (left, self.coerce(right, ty));
        }
        (left, right)
    }

    /// Where edgeHub would refuse a bare name, Millrace mode reads it as the number or bool that is needed.
    fn coerce(&mut self, typed: Typed, to: Type) -> Typed {
        if self.mode == Mode::EdgeHub {
            return typed;
        }
        let Some(name) = &typed.name else { return typed };
        // `!flag` and `-x` are names to the lexer. They are refused here too, so the sign can mean what it says.
        if let (Type::Bool, Some(rest)) = (to, name.strip_prefix('!').filter(|rest| !rest.is_empty())) {
            let operand = self.word(rest, &typed.span, to);
            let span = typed.span.clone();
            return self.not(operand, &span, &span);
        }
        if let (Type::Number, Some(rest)) = (to, name.strip_prefix('-').filter(|rest| !rest.is_empty())) {
            let operand = self.word(rest, &typed.span, to);
            let span = typed.span.clone();
            return self.negate(operand, &span, &span);
        }
        self.loose(&name.clone(), &typed.span, to)
    }

    fn word(&mut self, word: &str, span: &Span, to: Type) -> Typed {
        match word.starts_with('$') && word.len() > 1 {
            true => self.dollar(word, span),
            false => self.loose(word, span, to),
        }
    }

    fn loose(&mut self, name: &str, span: &Span, to: Type) -> Typed {
        let property = self.slots.intern(Origins::Property(folded(name)));
        let path = paths::parse(name, self.limits.body_path_names_max).ok();
        let body = path.map(|path| self.slots.intern(Origins::Body(path)));
        Typed::new(Node::Loose { property, body, to }, to, span)
    }

    fn operands(&mut self, op: &str, op_span: &Span, left: &Typed, right: &Typed, expected: Type) {
        let (have_left, have_right, expected_name) = (left.ty.name(), right.ty.name(), expected.name());
        let message = format!(
            "invalid operands to binary operator '{op}': have '{have_left}' and '{have_right}', \
             expected '{expected_name}' and '{expected_name}'"
        );
        let mut fault = Fault::new(op_span.clone(), message);
        for (this, other) in [(left, right), (right, left)] {
            if let (Some(name), Type::Number, None) = (&this.name, other.ty, &fault.help) {
                let help = match name.strip_suffix('!') {
                    Some(short) => format!(
                        "did you mean {short} != …? '!' belongs to the name here: put a space before it"
                    ),
                    None => format!("did you mean as_number({name})?"),
                };
                // The name is what has to change; the operator is fine.
                fault = Fault { span: this.span.clone(), ..fault }.help(help);
            }
        }
        if fault.help.is_none()
            && left.ty == Type::Bool
            && right.ty != Type::Bool
            && expected == Type::Bool
            && op == "="
        {
            fault = fault.help("NOT binds tighter than a comparison: write NOT (a = b)");
        }
        self.faults.push(fault);
    }
}

fn literal_value(literal: &Literal, span: &Span) -> Typed {
    let (constant, ty) = match literal {
        Literal::Bool(value) => (Constant::Bool(*value), Type::Bool),
        Literal::Number(value) => (Constant::Number(*value), Type::Number),
        Literal::Text(value) => (Constant::Text(value.clone()), Type::Text),
        Literal::Null => (Constant::Null, Type::Null),
        Literal::Undefined => (Constant::Undefined, Type::Undefined),
    };
    Typed::new(Node::Constant(constant), ty, span)
}

fn broken(span: &Span) -> Typed {
    Typed { node: Node::UNDEFINED, ty: Type::Broken, span: span.clone(), name: None }
}

fn concat(arguments: &[Typed], span: &Span) -> Option<Typed> {
    let fits = |argument: &Typed| matches!(argument.ty, Type::Text | Type::Query);
    if arguments.len() < 2 || !arguments.iter().all(fits) {
        return None;
    }
    let parts = arguments.iter().cloned().map(text_of).collect();
    Some(Typed::new(Node::Concat(parts), Type::Text, span))
}

/// A body value counts as text only if it is one; in particular null is not the empty text there.
fn text_of(typed: Typed) -> Node {
    match typed.ty {
        Type::Query => Node::Only(Type::Text, Box::new(typed.node)),
        _ => typed.node,
    }
}

/// What follows `$body.`, whose letters may be of either case.
fn body_path(name: &str) -> Option<&str> {
    let prefix = name.get(..6)?;
    prefix.eq_ignore_ascii_case("$body.").then(|| &name[6..])
}

fn show_signature(signature: &Signature) -> String {
    let parameters: Vec<&str> = signature
        .parameters
        .iter()
        .map(|parameter| match parameter {
            Parameter::Number => "number",
            Parameter::Text => "string",
            Parameter::NumberOrText => "string or number",
        })
        .collect();
    format!("{}({})", signature.name, parameters.join(", "))
}
