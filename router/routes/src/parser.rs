//! Tokens to the shape of a route (`reference/edgehub.md` §3.1, §3.4; extensions in `router/docs/routes.md`).
//!
//! Knows: the grammar and the precedence of operators. May use: `lexer`, `syntax`, `diagnostic`.
//! In:  a route's text. Out: its tree, or the first thing that does not fit, and what would have.
//! Invariant: recursion is bounded by `Limits::route_depth_max`; every extension starts with a token that
//! edgeHub's grammar refuses at that place, so that no route that edgeHub accepts means something else here.

use model::Limits;

use crate::Mode;
use crate::diagnostic::{Fault, Span, nearest};
use crate::lexer::{Kind, Token, tokens};
use crate::syntax::{
    ArithmeticOp, BinaryOp, CompareOp, ExceptStep, Expr, ExprKind, GateKind, GateText, Literal, LogicOp,
    Route, Select, SelectItem, SinkText, Source,
};

/// Parses one route.
pub(crate) fn parse(text: &str, mode: Mode, limits: &Limits) -> Result<Route, Fault> {
    if text.len() > limits.route_bytes_max as usize {
        let message =
            format!("the route is {} bytes long, allowed are {}", text.len(), limits.route_bytes_max);
        return Err(Fault::new(0..text.len(), message));
    }
    let mut parser = Parser { text, tokens: tokens(text), at: 0, mode, depth: 0, limits };
    parser.route()
}

/// Parses a condition alone, as `explain` and the truth table of edgeHub need it. Nothing at all is `undefined`.
pub(crate) fn parse_condition(text: &str, mode: Mode, limits: &Limits) -> Result<Expr, Fault> {
    let mut parser = Parser { text, tokens: tokens(text), at: 0, mode, depth: 0, limits };
    if parser.kind() == Kind::End {
        return Ok(Expr { kind: ExprKind::Literal(Literal::Undefined), span: 0..0 });
    }
    let (condition, _) = parser.expr(0)?;
    match parser.kind() {
        Kind::End => Ok(condition),
        _ => Err(parser.unexpected("an operator or the end of the condition")),
    }
}

/// How strongly operators bind; the higher, the tighter (§3.4). All are left-associative.
mod precedence {
    pub(super) const COALESCE: u8 = 1;
    pub(super) const OR: u8 = 2;
    pub(super) const AND: u8 = 3;
    pub(super) const EQUALITY: u8 = 4;
    pub(super) const COMPARISON: u8 = 5;
    pub(super) const SUM: u8 = 6;
    pub(super) const PRODUCT: u8 = 7;
    pub(super) const NOT: u8 = 8;
    pub(super) const NEGATE: u8 = 9;
}

struct Parser<'s> {
    text: &'s str,
    tokens: Vec<Token>,
    at: usize,
    mode: Mode,
    depth: u32,
    limits: &'s Limits,
}

/// An expression and its height, so that long chains are refused like deep nesting.
type Grown = (Expr, u32);

enum Infix {
    Logic(LogicOp),
    Binary(BinaryOp),
    In,
    Between,
    Like,
    Glob,
}

impl Parser<'_> {
    fn route(&mut self) -> Result<Route, Fault> {
        let mut select = match self.kind() {
            Kind::Select => self.select()?,
            _ => None,
        };
        if self.kind() != Kind::From {
            return Err(self.expected_keyword("FROM", "a route starts with FROM"));
        }
        self.advance();
        let source = self.source()?;
        let condition = match self.kind() {
            Kind::Where => {
                self.advance();
                if matches!(self.kind(), Kind::Into | Kind::End) {
                    return Err(self.unexpected("a condition after WHERE"));
                }
                self.expr(0)?.0
            }
            _ => Expr { kind: ExprKind::Literal(Literal::Bool(true)), span: self.here() },
        };
        if self.kind() == Kind::Select && select.is_none() {
            self.extension("SELECT behind the condition")?;
            select = self.select()?;
        }
        let gates = self.gates()?;
        if self.kind() != Kind::Into {
            return Err(self.expected_keyword("INTO", "expected an operator, or INTO and a sink"));
        }
        self.advance();
        let sinks = self.sinks()?;
        Ok(Route { source, condition, select, gates, sinks })
    }

    // ---- what is sent ----

    /// `SELECT *` is the message as it came, and the only form that edgeHub knows.
    fn select(&mut self) -> Result<Option<Select>, Fault> {
        self.advance();
        if self.kind() == Kind::Star && matches!(self.peek(1), Kind::From | Kind::Into) {
            self.advance();
            return Ok(None);
        }
        if self.kind() == Kind::From {
            return Err(self.unexpected("'*' after SELECT"));
        }
        self.extension("a selection other than '*'")?;
        let mut select = Select { everything_except: None, items: Vec::new() };
        let everything = self.kind() == Kind::Star;
        if everything {
            self.advance();
            select.everything_except = Some(self.except()?);
        }
        if everything && self.kind() != Kind::Comma {
            return Ok(Some(select));
        }
        if everything {
            self.advance();
        }
        loop {
            let item = self.item()?;
            if select.items.iter().any(|known| known.name == item.name) {
                let message = format!("two selected values are called '{}'", item.name);
                return Err(
                    Fault::new(item.value.span, message).help("give one of them another name with AS")
                );
            }
            select.items.push(item);
            if self.kind() != Kind::Comma {
                return Ok(Some(select));
            }
            self.advance();
        }
    }

    /// `EXCEPT path, path`: the list goes on as long as plain paths follow.
    fn except(&mut self) -> Result<Vec<(Vec<ExceptStep>, Span)>, Fault> {
        let mut paths = Vec::new();
        if !self.is_word("EXCEPT") {
            return Ok(paths);
        }
        self.advance();
        loop {
            let (span, text) = (self.here(), self.slice().to_owned());
            if self.kind() != Kind::Dollar {
                return Err(self.unexpected("a path such as $body.patient.name"));
            }
            let steps = except_path(&text, self.limits.body_path_names_max)
                .map_err(|reason| Fault::new(span.clone(), format!("error in EXCEPT path: {reason}")))?;
            paths.push((steps, span));
            self.advance();
            let plain = self.peek(1) == Kind::Dollar
                && (matches!(self.peek(2), Kind::Comma | Kind::From | Kind::Into)
                    || (self.peek(2) == Kind::Name && is_clause(self.slice_at(2))));
            if self.kind() != Kind::Comma || !plain {
                return Ok(paths);
            }
            self.advance();
        }
    }

    fn item(&mut self) -> Result<SelectItem, Fault> {
        let value = self.expr(0)?.0;
        if self.is_word("AS") {
            self.advance();
            let name = match self.kind() {
                Kind::Name => self.slice().to_owned(),
                Kind::Text => unescape(inner(self.slice())),
                _ => return Err(self.unexpected("a name after AS")),
            };
            self.advance();
            return Ok(SelectItem { value, name });
        }
        let name = match &value.kind {
            ExprKind::Name(name) => Some(name.as_str()),
            ExprKind::Dollar(path) | ExprKind::Escaped(path) if !path.ends_with(']') => {
                path.rsplit('.').next().map(|name| name.trim_start_matches('$'))
            }
            _ => None,
        };
        match name {
            Some(name) => Ok(SelectItem { name: name.to_owned(), value }),
            None => Err(self.unexpected("AS and a name for this value")),
        }
    }

    // ---- what depends on earlier messages ----

    fn gates(&mut self) -> Result<Vec<GateText>, Fault> {
        let mut gates = Vec::new();
        while self.kind() == Kind::Name && is_gate(self.slice()) {
            self.extension("this clause")?;
            let word = self.slice().to_ascii_uppercase();
            self.advance();
            let kind = match word.as_str() {
                "SAMPLE" => self.sample()?,
                "THROTTLE" => self.throttle()?,
                _ => self.changed()?,
            };
            let by = if self.is_word("BY") {
                self.advance();
                Some(self.expr(0)?.0)
            } else {
                None
            };
            gates.push(GateText { kind, by });
        }
        Ok(gates)
    }

    fn sample(&mut self) -> Result<GateKind, Fault> {
        if self.count()? != 1 || !self.is_word("IN") {
            return Err(self.unexpected("SAMPLE 1 IN n"));
        }
        self.advance();
        Ok(GateKind::Sample { one_in: self.count()? })
    }

    fn throttle(&mut self) -> Result<GateKind, Fault> {
        let messages = self.count()?;
        if !self.is_word("PER") {
            return Err(self.unexpected("PER and a time such as 10s"));
        }
        self.advance();
        let micros =
            micros(self.slice()).ok_or_else(|| self.unexpected("a time such as 500ms, 10s, 5m or 1h"))?;
        self.advance();
        Ok(GateKind::Throttle { messages, micros })
    }

    fn changed(&mut self) -> Result<GateKind, Fault> {
        self.expect(Kind::Open, "'(' and a value")?;
        let value = self.expr(0)?.0;
        let mut delta = 0.0;
        if self.kind() == Kind::Comma {
            self.advance();
            delta = match (self.kind(), decimal(self.slice())) {
                (Kind::Integer | Kind::Real, Literal::Number(delta)) if delta >= 0.0 => delta,
                _ => return Err(self.unexpected("the least change that counts, a number")),
            };
            self.advance();
        }
        self.expect(Kind::Close, "')'")?;
        Ok(GateKind::Changed { value, delta })
    }

    /// A whole number, at least 1.
    fn count(&mut self) -> Result<u64, Fault> {
        let count = self.slice().parse().ok().filter(|count| self.kind() == Kind::Integer && *count > 0);
        let count = count.ok_or_else(|| self.unexpected("a whole number, at least 1"))?;
        self.advance();
        Ok(count)
    }

    fn is_word(&self, word: &str) -> bool {
        self.kind() == Kind::Name && self.slice().eq_ignore_ascii_case(word)
    }

    // ---- source ----

    fn source(&mut self) -> Result<Source, Fault> {
        match self.kind() {
            Kind::Slash => self.path(),
            Kind::Text => self.filter(),
            _ => Err(self.unexpected(
                "a source: a path such as /messages/* or a topic filter in quotes such as \"site/+/line/#\"",
            )),
        }
    }

    fn path(&mut self) -> Result<Source, Fault> {
        let mut path = String::new();
        while self.kind() == Kind::Slash {
            self.advance();
            path.push('/');
            match self.kind() {
                Kind::Star | Kind::Name => {
                    path.push_str(self.slice());
                    self.advance();
                }
                // edgeHub refuses words that are also literals or numbers; there is no other reading, so we take them.
                Kind::True
                | Kind::False
                | Kind::Null
                | Kind::Undefined
                | Kind::Integer
                | Kind::Real
                | Kind::Hex
                    if self.mode == Mode::Millrace =>
                {
                    path.push_str(self.slice());
                    self.advance();
                }
                Kind::Where | Kind::Into | Kind::Slash => {}
                _ => return Err(self.unexpected("a name or '*' in the source path")),
            }
        }
        Ok(Source::Path(path))
    }

    fn filter(&mut self) -> Result<Source, Fault> {
        let span = self.here();
        self.extension("a topic filter as source")?;
        let filter = unescape(inner(self.slice()));
        if filter.starts_with("$share/") {
            return Err(Fault::new(span, "a route's topic filter cannot be shared; leave out $share/NAME/"));
        }
        if let Err(reason) = model::validate_filter(&filter) {
            return Err(Fault::new(span, format!("this is no topic filter: {reason}")));
        }
        if filter.split('/').count() > self.limits.topic_levels_max as usize {
            let allowed = self.limits.topic_levels_max;
            return Err(Fault::new(span, format!("the topic filter has more than {allowed} levels")));
        }
        self.advance();
        Ok(Source::Filter(filter))
    }

    // ---- sinks ----

    fn sinks(&mut self) -> Result<Vec<SinkText>, Fault> {
        let mut sinks = vec![self.sink()?];
        if self.mode == Mode::EdgeHub {
            return Ok(sinks); // edgeHub does not look at what follows a complete sink (§3.1, "End of input")
        }
        while self.kind() == Kind::Comma {
            self.advance();
            sinks.push(self.sink()?);
        }
        match self.kind() {
            Kind::End => Ok(sinks),
            _ => Err(self.unexpected("',' and another sink, or the end of the route")),
        }
    }

    fn sink(&mut self) -> Result<SinkText, Fault> {
        let (kind, span, word) = (self.kind(), self.here(), self.slice().to_owned());
        match kind {
            Kind::Dollar if word.eq_ignore_ascii_case("$upstream") => {
                self.advance();
                Ok(SinkText::Upstream)
            }
            Kind::Dollar => {
                let fault = Fault::new(span, format!("there is no system sink '{word}'; expected $upstream"));
                Err(fault.help("did you mean $upstream?"))
            }
            Kind::Name if self.peek(1) == Kind::Open => self.function_sink(&word, span),
            Kind::Name if word.eq_ignore_ascii_case("topic") && self.peek(1) == Kind::Text => {
                self.extension("a topic as sink")?;
                self.advance();
                self.topic_sink()
            }
            Kind::Name if word.eq_ignore_ascii_case("upstream") => {
                Err(self.unexpected(EXPECTED_SINK).help("did you mean $upstream?"))
            }
            _ => Err(self.unexpected(EXPECTED_SINK)),
        }
    }

    fn function_sink(&mut self, name: &str, span: Span) -> Result<SinkText, Fault> {
        let known = ["BrokeredEndpoint", "uplink", "topic"];
        let Some(which) = known.iter().find(|known| known.eq_ignore_ascii_case(name)) else {
            let mut fault = Fault::new(span, format!("there is no sink '{name}'; {EXPECTED_SINK}"));
            if let Some(near) = nearest(name, known.into_iter()) {
                fault = fault.help(format!("did you mean {near}(…)?"));
            }
            return Err(fault);
        };
        if *which != "BrokeredEndpoint" {
            self.extension("this sink")?;
        }
        self.advance();
        self.expect(Kind::Open, "'('")?;
        if self.kind() != Kind::Text {
            return Err(self.unexpected("a text in quotes"));
        }
        let sink = match *which {
            "topic" => self.topic_sink()?,
            "uplink" => {
                let name = unescape(inner(self.slice()));
                if name.is_empty() {
                    return Err(Fault::new(self.here(), "an uplink has a name; expected uplink(\"name\")"));
                }
                self.advance();
                SinkText::Uplink(name)
            }
            _ => self.input_sink()?,
        };
        self.expect(Kind::Close, "')'")?;
        Ok(sink)
    }

    /// edgeHub strips one slash at either end, splits, and looks at the second and the fourth part only.
    /// It does not know escapes here.
    fn input_sink(&mut self) -> Result<SinkText, Fault> {
        let text = inner(self.slice());
        let path = text.strip_prefix('/').unwrap_or(text);
        let path = path.strip_suffix('/').unwrap_or(path);
        let parts: Vec<&str> = path.split('/').collect();
        let [_, module, _, input] = parts[..] else {
            let message = format!("'{text}' names no input; expected \"/modules/MODULE/inputs/INPUT\"");
            return Err(Fault::new(self.here(), message));
        };
        let sink = SinkText::Input { module: module.to_owned(), input: input.to_owned() };
        self.advance();
        Ok(sink)
    }

    fn topic_sink(&mut self) -> Result<SinkText, Fault> {
        let span = self.here();
        let template = unescape(inner(self.slice()));
        self.advance();
        Ok(SinkText::Topic { template, span })
    }

    // ---- condition ----

    fn expr(&mut self, minimum: u8) -> Result<Grown, Fault> {
        self.depth += 1;
        self.check_depth(self.depth)?;
        let mut left = self.prefix()?;
        while let Some((infix, binds, width)) = self.infix() {
            if binds < minimum {
                break;
            }
            left = match infix {
                Infix::Logic(op) => self.logic(left, op, binds, width)?,
                Infix::Binary(op) => self.binary(left, op, binds, width)?,
                Infix::In | Infix::Between | Infix::Like | Infix::Glob => self.membership(left, &infix)?,
            };
            self.check_depth(left.1)?;
        }
        self.depth -= 1;
        Ok(left)
    }

    fn logic(&mut self, first: Grown, op: LogicOp, binds: u8, width: usize) -> Result<Grown, Fault> {
        let start = first.0.span.start;
        let (mut operands, mut op_spans, mut height) = (vec![first.0], Vec::new(), first.1);
        let mut width = width;
        loop {
            op_spans.push(self.take(width));
            let (operand, grown) = self.expr(binds + 1)?;
            operands.push(operand);
            height = height.max(grown);
            match self.infix() {
                Some((Infix::Logic(next), _, next_width)) if next == op => width = next_width,
                _ => break,
            }
        }
        let span = start..operands.last().map_or(start, |last| last.span.end);
        Ok((Expr { kind: ExprKind::Logic { op, operands, op_spans }, span }, height + 1))
    }

    fn binary(&mut self, left: Grown, op: BinaryOp, binds: u8, width: usize) -> Result<Grown, Fault> {
        let op_span = self.take(width);
        let right = self.expr(binds + 1)?;
        let span = left.0.span.start..right.0.span.end;
        let height = left.1.max(right.1) + 1;
        let kind = ExprKind::Binary { op, op_span, left: Box::new(left.0), right: Box::new(right.0) };
        Ok((Expr { kind, span }, height))
    }

    fn membership(&mut self, value: Grown, infix: &Infix) -> Result<Grown, Fault> {
        let negated = self.kind() == Kind::Not;
        let op_start = self.here();
        self.extension("this operator")?;
        if negated {
            self.advance();
        }
        let op_span = op_start.start..self.here().end;
        self.advance();
        let (start, boxed) = (value.0.span.start, Box::new(value.0));
        let (kind, height) = match infix {
            Infix::In => {
                self.expect(Kind::Open, "'(' and a list of values")?;
                let (set, height) = self.list()?;
                (ExprKind::In { value: boxed, set, negated, op_span }, height)
            }
            Infix::Between => {
                let low = self.expr(precedence::SUM)?;
                self.expect(Kind::And, "AND and the upper bound")?;
                let high = self.expr(precedence::SUM)?;
                let height = low.1.max(high.1);
                let (low, high) = (Box::new(low.0), Box::new(high.0));
                (ExprKind::Between { value: boxed, low, high, negated, op_span }, height)
            }
            _ => {
                if self.kind() != Kind::Text {
                    return Err(self
                        .unexpected("a pattern in quotes: '%' stands for any text, '_' for one character"));
                }
                let mut pattern = unescape(inner(self.slice()));
                if matches!(infix, Infix::Glob) {
                    pattern = glob_as_like(&pattern);
                }
                self.advance();
                (ExprKind::Like { value: boxed, pattern, negated, op_span }, 0)
            }
        };
        Ok((Expr { kind, span: start..self.before() }, value.1.max(height) + 1))
    }

    /// Arguments up to and with the closing parenthesis; at least one.
    fn list(&mut self) -> Result<(Vec<Expr>, u32), Fault> {
        let (mut items, mut height) = (Vec::new(), 0);
        loop {
            let (item, grown) = self.expr(0)?;
            items.push(item);
            height = height.max(grown);
            match self.kind() {
                Kind::Comma => self.advance(),
                Kind::Close => {
                    self.advance();
                    return Ok((items, height));
                }
                _ => return Err(self.unexpected("',' or ')'")),
            }
        }
    }

    /// What operator stands here, how strongly it binds, and how many tokens it takes.
    fn infix(&self) -> Option<(Infix, u8, usize)> {
        use precedence::{AND, COALESCE, COMPARISON, EQUALITY, OR, PRODUCT, SUM};
        let compare = |op, binds| Some((Infix::Binary(BinaryOp::Compare(op)), binds, 1));
        let arithmetic = |op, binds| Some((Infix::Binary(BinaryOp::Arithmetic(op)), binds, 1));
        match self.kind() {
            Kind::And => Some((Infix::Logic(LogicOp::And), AND, 1)),
            Kind::Or => Some((Infix::Logic(LogicOp::Or), OR, 1)),
            Kind::Equal if self.double_equal() => {
                Some((Infix::Binary(BinaryOp::Compare(CompareOp::Equal)), EQUALITY, 2))
            }
            Kind::Equal => compare(CompareOp::Equal, EQUALITY),
            Kind::NotEqual => compare(CompareOp::NotEqual, EQUALITY),
            Kind::Less => compare(CompareOp::Less, COMPARISON),
            Kind::LessEqual => compare(CompareOp::LessEqual, COMPARISON),
            Kind::Greater => compare(CompareOp::Greater, COMPARISON),
            Kind::GreaterEqual => compare(CompareOp::GreaterEqual, COMPARISON),
            Kind::Plus => arithmetic(ArithmeticOp::Add, SUM),
            Kind::Minus => arithmetic(ArithmeticOp::Subtract, SUM),
            Kind::Concat => Some((Infix::Binary(BinaryOp::Concat), SUM, 1)),
            Kind::Star => arithmetic(ArithmeticOp::Multiply, PRODUCT),
            Kind::Slash => arithmetic(ArithmeticOp::Divide, PRODUCT),
            Kind::Percent => arithmetic(ArithmeticOp::Remainder, PRODUCT),
            Kind::Coalesce => Some((Infix::Binary(BinaryOp::Coalesce), COALESCE, 1)),
            Kind::Name if self.slice() == "&&" => Some((Infix::Logic(LogicOp::And), AND, 1)),
            Kind::Name => membership_word(self.slice()).map(|infix| (infix, COMPARISON, 1)),
            Kind::Not if self.peek(1) == Kind::Name => {
                membership_word(self.slice_at(1)).map(|infix| (infix, COMPARISON, 2))
            }
            _ => None,
        }
    }

    fn double_equal(&self) -> bool {
        self.peek(1) == Kind::Equal && self.tokens[self.at].span.end == self.tokens[self.at + 1].span.start
    }

    fn prefix(&mut self) -> Result<Grown, Fault> {
        let span = self.here();
        let bang = self.kind() == Kind::Name && self.slice() == "!";
        if self.kind() == Kind::Not || bang {
            if bang {
                self.extension("'!'")?;
            }
            self.advance();
            let (operand, height) = self.expr(precedence::NOT)?;
            let whole = span.start..operand.span.end;
            let kind = ExprKind::Not { op_span: span, operand: Box::new(operand) };
            return Ok((Expr { kind, span: whole }, height + 1));
        }
        if self.kind() == Kind::Minus {
            self.advance();
            let (operand, height) = self.expr(precedence::NEGATE)?;
            let whole = span.start..operand.span.end;
            let kind = ExprKind::Negate { op_span: span, operand: Box::new(operand) };
            return Ok((Expr { kind, span: whole }, height + 1));
        }
        self.primary()
    }

    fn primary(&mut self) -> Result<Grown, Fault> {
        let span = self.here();
        let literal = |literal| ExprKind::Literal(literal);
        let kind = match self.kind() {
            Kind::Open => return self.nested(),
            Kind::Name if self.peek(1) == Kind::Open => return self.call(),
            Kind::BraceOpen => return self.escaped(),
            Kind::Name => ExprKind::Name(self.slice().to_owned()),
            Kind::Dollar => ExprKind::Dollar(self.slice().to_owned()),
            Kind::True => literal(Literal::Bool(true)),
            Kind::False => literal(Literal::Bool(false)),
            Kind::Null => literal(Literal::Null),
            Kind::Undefined => literal(Literal::Undefined),
            Kind::Text => literal(Literal::Text(unescape(inner(self.slice())))),
            Kind::Integer | Kind::Real => literal(decimal(self.slice())),
            Kind::Hex => literal(hexadecimal(self.slice())),
            Kind::TextUnterminated => {
                return Err(Fault::new(span, "syntax error: unterminated string; expected a closing quote"));
            }
            Kind::Unknown => {
                return Err(Fault::new(span, format!("syntax error: invalid symbol '{}'", self.slice())));
            }
            _ => return Err(self.unexpected("a value: a name, $name, $body.path, a literal, a call or '('")),
        };
        self.advance();
        Ok((Expr { kind, span }, 1))
    }

    fn nested(&mut self) -> Result<Grown, Fault> {
        let open = self.take(1);
        let (mut expr, height) = self.expr(0)?;
        match self.kind() {
            Kind::Close => {
                let close = self.take(1);
                expr.span = open.start..close.end;
                Ok((expr, height + 1))
            }
            Kind::Into | Kind::End => Err(Fault::new(open, "syntax error: missing closing ')'")),
            _ => Err(self.unexpected("an operator or ')'")),
        }
    }

    fn call(&mut self) -> Result<Grown, Fault> {
        let name = self.slice().to_owned();
        let name_span = self.take(1);
        let open = self.take(1);
        let (arguments, height) = match self.kind() {
            Kind::Close => {
                self.advance();
                (Vec::new(), 0)
            }
            Kind::Into | Kind::End => return Err(Fault::new(open, "syntax error: missing closing ')'")),
            _ => self.list()?,
        };
        let span = name_span.start..self.before();
        Ok((Expr { kind: ExprKind::Call { name, name_span, arguments }, span }, height + 1))
    }

    fn escaped(&mut self) -> Result<Grown, Fault> {
        let open = self.take(1);
        if self.kind() != Kind::Dollar {
            return Err(self.unexpected("a system property such as {$contentType}"));
        }
        let name = self.slice().to_owned();
        self.advance();
        self.expect(Kind::BraceClose, "'}'")?;
        Ok((Expr { kind: ExprKind::Escaped(name), span: open.start..self.before() }, 1))
    }

    // ---- tokens ----

    fn kind(&self) -> Kind {
        self.tokens[self.at].kind
    }

    fn peek(&self, ahead: usize) -> Kind {
        self.tokens.get(self.at + ahead).map_or(Kind::End, |token| token.kind)
    }

    fn here(&self) -> Span {
        self.tokens[self.at].span.clone()
    }

    /// Where the token before this one ended.
    fn before(&self) -> usize {
        self.at.checked_sub(1).map_or(0, |at| self.tokens[at].span.end)
    }

    fn slice(&self) -> &str {
        self.slice_at(0)
    }

    fn slice_at(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", |token| &self.text[token.span.clone()])
    }

    fn advance(&mut self) {
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
    }

    /// Goes on by `width` tokens and says where they stood.
    fn take(&mut self, width: usize) -> Span {
        let start = self.here().start;
        for _ in 0..width {
            self.advance();
        }
        start..self.before().max(start)
    }

    fn expect(&mut self, kind: Kind, what: &str) -> Result<(), Fault> {
        if self.kind() != kind {
            return Err(self.unexpected(what));
        }
        self.advance();
        Ok(())
    }

    fn unexpected(&self, expected: &str) -> Fault {
        let expected = expected.strip_prefix("expected ").unwrap_or(expected);
        let found = match self.kind() {
            Kind::End => "the end of the route".to_owned(),
            Kind::Close => {
                return Fault::new(
                    self.here(),
                    format!("syntax error: unmatched closing ')'; expected {expected}"),
                );
            }
            Kind::TextUnterminated => {
                return Fault::new(
                    self.here(),
                    "syntax error: unterminated string; expected a closing quote",
                );
            }
            Kind::Unknown => {
                return Fault::new(
                    self.here(),
                    format!("syntax error: invalid symbol '{}'; expected {expected}", self.slice()),
                );
            }
            _ => format!("'{}'", self.slice()),
        };
        Fault::new(self.here(), format!("syntax error: found {found}, expected {expected}"))
    }

    fn expected_keyword(&self, keyword: &str, expected: &str) -> Fault {
        let fault = self.unexpected(expected);
        match nearest(self.slice(), [keyword].into_iter()) {
            Some(keyword) => fault.help(format!("did you mean {keyword}?")),
            None => fault,
        }
    }

    fn extension(&self, what: &str) -> Result<(), Fault> {
        match self.mode {
            Mode::Millrace => Ok(()),
            Mode::EdgeHub => {
                let message = format!("syntax error: edgeHub does not know {what}");
                Err(Fault::new(self.here(), message)
                    .help("it is allowed when the router's routes are in millrace mode"))
            }
        }
    }

    fn check_depth(&self, depth: u32) -> Result<(), Fault> {
        if depth > self.limits.route_depth_max {
            let message =
                format!("the condition is nested deeper than {} levels", self.limits.route_depth_max);
            return Err(Fault::new(self.here(), message));
        }
        Ok(())
    }
}

const EXPECTED_SINK: &str = "expected a sink: $upstream, BrokeredEndpoint(\"/modules/MODULE/inputs/INPUT\"), \
                             uplink(\"NAME\") or topic \"TOPIC\"";

/// `*` and `?` of a glob as `%` and `_`; what LIKE would read otherwise is escaped.
fn glob_as_like(glob: &str) -> String {
    let mut pattern = String::with_capacity(glob.len());
    for c in glob.chars() {
        match c {
            '*' => pattern.push('%'),
            '?' => pattern.push('_'),
            '%' | '_' | '\\' => pattern.extend(['\\', c]),
            c => pattern.push(c),
        }
    }
    pattern
}

fn is_gate(word: &str) -> bool {
    ["SAMPLE", "THROTTLE", "CHANGED"].iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// Words that end a list of EXCEPT paths.
fn is_clause(word: &str) -> bool {
    is_gate(word)
}

/// `500ms`, `10s`, `5m`, `1h` in microseconds.
fn micros(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let unit: u64 = match unit.to_ascii_lowercase().as_str() {
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return None,
    };
    count.parse::<u64>().ok()?.checked_mul(unit).filter(|micros| *micros > 0)
}

/// `$body.a.*`, `$body.list[*].secret`, `$body.list[0]`.
fn except_path(text: &str, names_max: u32) -> Result<Vec<ExceptStep>, String> {
    let path = text.get(..6).filter(|prefix| prefix.eq_ignore_ascii_case("$body.")).map(|_| &text[6..]);
    let path = path.ok_or("expected a path that starts with $body.")?;
    let mut steps = Vec::new();
    for part in path.split('.') {
        let (name, index) = part.split_once('[').map_or((part, None), |(name, rest)| (name, Some(rest)));
        match name {
            "" => return Err("a name is missing".to_owned()),
            "*" => steps.push(ExceptStep::AnyKey),
            name => steps.push(ExceptStep::Key(name.to_owned())),
        }
        match index.map(|rest| rest.strip_suffix(']')) {
            None => {}
            Some(Some("*")) => steps.push(ExceptStep::AnyIndex),
            Some(digits) => {
                let index = digits.and_then(|digits| digits.parse().ok());
                steps.push(ExceptStep::Index(index.ok_or("expected an index such as [0] or [*]")?));
            }
        }
    }
    match steps.len() > names_max as usize {
        true => Err(format!("it has more than {names_max} steps")),
        false => Ok(steps),
    }
}

fn membership_word(word: &str) -> Option<Infix> {
    match () {
        () if word.eq_ignore_ascii_case("IN") => Some(Infix::In),
        () if word.eq_ignore_ascii_case("BETWEEN") => Some(Infix::Between),
        () if word.eq_ignore_ascii_case("LIKE") => Some(Infix::Like),
        () if word.eq_ignore_ascii_case("GLOB") => Some(Infix::Glob),
        () => None,
    }
}

/// A string token without its quotes.
fn inner(quoted: &str) -> &str {
    quoted.get(1..quoted.len().max(2) - 1).unwrap_or("")
}

/// edgeHub unescapes in two passes, first `\uXXXX` and `\UXXXX`, then `\"`, `\'` and `\\`.
fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    let (mut first, mut at) = (Vec::with_capacity(units.len()), 0);
    while at < units.len() {
        match code_unit(&units[at..]) {
            Some(unit) => {
                first.push(unit);
                at += 6;
            }
            None => {
                first.push(units[at]);
                at += 1;
            }
        }
    }
    let backslash = u16::from(b'\\');
    let escaped = |unit: &u16| [b'"', b'\'', b'\\'].iter().any(|byte| u16::from(*byte) == *unit);
    let (mut second, mut at) = (Vec::with_capacity(first.len()), 0);
    while at < first.len() {
        if first[at] == backslash && first.get(at + 1).is_some_and(escaped) {
            at += 1;
        }
        second.push(first[at]);
        at += 1;
    }
    String::from_utf16_lossy(&second)
}

fn code_unit(units: &[u16]) -> Option<u16> {
    let [backslash, u, digits @ ..] = units else { return None };
    if *backslash != u16::from(b'\\') || !matches!(u8::try_from(*u), Ok(b'u' | b'U')) {
        return None;
    }
    digits.get(..4)?.iter().try_fold(0u16, |value, unit| {
        let digit = char::from_u32(u32::from(*unit))?.to_digit(16)?;
        Some(value << 4 | digit as u16)
    })
}

fn decimal(text: &str) -> Literal {
    // The lexer also takes `-E5`, which is no number to anybody.
    text.parse().map_or(Literal::Undefined, Literal::Number)
}

/// 64 bits with sign, as edgeHub reads it; longer is undefined.
fn hexadecimal(text: &str) -> Literal {
    match u64::from_str_radix(text[2..].trim_start_matches('0'), 16) {
        Ok(bits) => Literal::Number(bits as i64 as f64),
        Err(_) if text[2..].bytes().all(|digit| digit == b'0') => Literal::Number(0.0),
        Err(_) => Literal::Undefined,
    }
}

#[cfg(test)]
mod tests;
