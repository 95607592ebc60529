//! Conditions: an operator precedence parser, bounded in depth.
//!
//! Knows: edgeHub's precedences (`reference/edgehub.md` §3.4) and the operators beyond them. May use: what `parser` uses.
//! In:  tokens. Out: a tree, or where it goes wrong and what was expected.
//! Invariant: a tree is never deeper than `Limits::route_depth_max`.

use super::*;

enum Infix {
    Logic(LogicOp),
    Binary(BinaryOp),
    In,
    Between,
    Like,
    Glob,
}

impl Parser<'_> {
    pub(super) fn expr(&mut self, minimum: u8) -> Result<Grown, Fault> {
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
            if self.kind() == Kind::Name {
                self.extension("'&&'")?;
            }
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
        if width > 1 {
            self.extension("'=='")?;
        }
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
}

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

fn membership_word(word: &str) -> Option<Infix> {
    match () {
        () if word.eq_ignore_ascii_case("IN") => Some(Infix::In),
        () if word.eq_ignore_ascii_case("BETWEEN") => Some(Infix::Between),
        () if word.eq_ignore_ascii_case("LIKE") => Some(Infix::Like),
        () if word.eq_ignore_ascii_case("GLOB") => Some(Infix::Glob),
        () => None,
    }
}
