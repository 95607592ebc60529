//! Operators: which types each takes, in which mode, and what it means.
//!
//! Knows: edgeHub's typing rules, pair by pair (`reference/edgehub.md` §3.6). May use: what `check` uses.
//! In:  operands with their types. Out: a typed node, or a fault that names the operator.
//! Invariant: what edgeHub accepts has the type that edgeHub gives it.

use super::*;

impl Checker<'_> {
    pub(super) fn not(&mut self, operand: Typed, op_span: &Span, span: &Span) -> Typed {
        let operand = self.coerce(operand, Type::Bool);
        match operand.ty {
            Type::Null => Typed::new(Node::Constant(Constant::Bool(true)), Type::Bool, span),
            Type::Bool | Type::Undefined => Typed::new(Node::Not(Box::new(operand.node)), Type::Bool, span),
            Type::Query => {
                let bool_only = Node::Only(Type::Bool, Box::new(operand.node));
                Typed::new(Node::Not(Box::new(bool_only)), Type::Bool, span)
            }
            Type::Broken => broken(span),
            Type::Number | Type::Text => {
                let found = operand.ty.name();
                let message =
                    format!("invalid operand to unary operator 'NOT': have '{found}', expected 'bool'");
                let help = "NOT binds tighter than a comparison: write NOT (a = b)";
                self.faults.push(Fault::new(op_span.clone(), message).help(help));
                broken(span)
            }
        }
    }

    pub(super) fn negate(&mut self, operand: Typed, op_span: &Span, span: &Span) -> Typed {
        let operand = self.coerce(operand, Type::Number);
        match (operand.ty, self.mode) {
            (Type::Number, _) | (Type::Query, Mode::Millrace) => {
                Typed::new(Node::Negate(Box::new(operand.node)), operand.ty, span)
            }
            (Type::Broken, _) => broken(span),
            (Type::Query, Mode::EdgeHub) => {
                self.unsupported("-", op_span);
                broken(span)
            }
            (found, _) => {
                let found = found.name();
                let message =
                    format!("invalid operand to unary operator '-': have '{found}', expected 'number'");
                self.faults.push(Fault::new(op_span.clone(), message));
                broken(span)
            }
        }
    }

    /// `-` and `%` of body values: edgeHub's compiler throws (§3.6).
    pub(super) fn unsupported(&mut self, op: &str, span: &Span) {
        let message = format!("edgeHub has no operator '{op}' for $body values");
        self.faults.push(Fault::new(span.clone(), message).help("as_number($body.…) makes it a number"));
    }

    /// A chain of ANDs or ORs. edgeHub types it pair by pair from the left.
    pub(super) fn logic(&mut self, op: LogicOp, operands: &[Expr], op_spans: &[Span], span: &Span) -> Typed {
        let mut left = self.expr(&operands[0]);
        for (operand, op_span) in operands[1..].iter().zip(op_spans) {
            let right = self.expr(operand);
            left = self.logic_pair(op, left, right, op_span, span);
        }
        left
    }

    pub(super) fn logic_pair(
        &mut self,
        op: LogicOp,
        left: Typed,
        right: Typed,
        op_span: &Span,
        span: &Span,
    ) -> Typed {
        let (left, right) = (self.coerce(left, Type::Bool), self.coerce(right, Type::Bool));
        if left.ty == Type::Broken || right.ty == Type::Broken {
            return broken(span);
        }
        let fits = |ty| matches!(ty, Type::Null | Type::Bool | Type::Undefined);
        let query = left.ty == Type::Query || right.ty == Type::Query;
        let allowed = match self.mode {
            Mode::Millrace => [left.ty, right.ty].into_iter().all(|ty| fits(ty) || ty == Type::Query),
            // The checker of edgeHub looks at the left side twice: so a body value on the right needs one on
            // the left, and one on the left allows anything but null on the right.
            Mode::EdgeHub if left.ty == Type::Query => right.ty != Type::Null,
            Mode::EdgeHub => fits(left.ty) && fits(right.ty),
        };
        if !allowed {
            self.operands(op.symbol(), op_span, &left, &right, Type::Bool);
            return broken(span);
        }
        if query && self.mode == Mode::EdgeHub {
            let (left, right) = (Box::new(left.node), Box::new(right.node));
            return Typed::new(Node::QueryLogic { op, left, right }, Type::Bool, span);
        }
        match (op, left.ty, right.ty) {
            (LogicOp::And, Type::Null, _) | (LogicOp::And, _, Type::Null) | (_, Type::Null, Type::Null) => {
                Typed::new(Node::Constant(Constant::Null), Type::Null, span)
            }
            (LogicOp::Or, Type::Null, _) => self.bool_of(right, span),
            (LogicOp::Or, _, Type::Null) => self.bool_of(left, span),
            _ => {
                let (left, right) = (self.bool_of(left, span), self.bool_of(right, span));
                let mut operands = match left.node {
                    Node::Logic { op: inner, operands } if inner == op => operands,
                    node => vec![node],
                };
                operands.push(right.node);
                Typed::new(Node::Logic { op, operands }, Type::Bool, span)
            }
        }
    }

    pub(super) fn bool_of(&mut self, typed: Typed, span: &Span) -> Typed {
        match typed.ty {
            Type::Query => Typed::new(Node::Only(Type::Bool, Box::new(typed.node)), Type::Bool, span),
            _ => Typed { ty: Type::Bool, span: span.clone(), ..typed },
        }
    }

    pub(super) fn binary(
        &mut self,
        op: BinaryOp,
        op_span: &Span,
        left: Typed,
        right: Typed,
        span: &Span,
    ) -> Typed {
        match op {
            BinaryOp::Compare(compare) => self.compare(compare, op_span, left, right, span),
            BinaryOp::Arithmetic(arithmetic) => self.arithmetic(arithmetic, op_span, left, right, span),
            BinaryOp::Concat => self.concat_operator(op_span, left, right, span),
            BinaryOp::Coalesce => self.coalesce(op_span, left, right, span),
        }
    }

    pub(super) fn compare(
        &mut self,
        op: CompareOp,
        op_span: &Span,
        left: Typed,
        right: Typed,
        span: &Span,
    ) -> Typed {
        let (left, right) = self.meet(left, right);
        match self.comparing(&left, &right) {
            Some(Comparing::Same) if left.ty == Type::Null => {
                let holds = op.holds(std::cmp::Ordering::Equal);
                Typed::new(Node::Constant(Constant::Bool(holds)), Type::Bool, span)
            }
            Some(how) => {
                let (left, right) = (Box::new(left.node), Box::new(right.node));
                Typed::new(Node::Compare { op, how, left, right }, Type::Bool, span)
            }
            None => {
                if left.ty != Type::Broken && right.ty != Type::Broken {
                    self.operands(op.symbol(), op_span, &left, &right, left.ty);
                }
                broken(span)
            }
        }
    }

    /// How two sides compare; `None` if edgeHub refuses them.
    pub(super) fn comparing(&self, left: &Typed, right: &Typed) -> Option<Comparing> {
        let scalar = |ty| matches!(ty, Type::Bool | Type::Number | Type::Text | Type::Null);
        let of_body = match self.mode {
            Mode::Millrace => Comparing::Loose,
            Mode::EdgeHub => Comparing::Ranked,
        };
        match (left.ty, right.ty) {
            (Type::Broken, _) | (_, Type::Broken) => None,
            (Type::Query, Type::Query) => Some(of_body),
            (Type::Query, other) | (other, Type::Query) => scalar(other).then_some(of_body),
            (left, right) => (left == right).then_some(Comparing::Same),
        }
    }

    pub(super) fn arithmetic(
        &mut self,
        op: ArithmeticOp,
        op_span: &Span,
        left: Typed,
        right: Typed,
        span: &Span,
    ) -> Typed {
        let (left, right) = (self.coerce(left, Type::Number), self.coerce(right, Type::Number));
        if left.ty == Type::Broken || right.ty == Type::Broken {
            return broken(span);
        }
        let fits = |ty| matches!(ty, Type::Number | Type::Query);
        if !fits(left.ty) || !fits(right.ty) {
            self.operands(BinaryOp::Arithmetic(op).symbol(), op_span, &left, &right, Type::Number);
            return broken(span);
        }
        let query = left.ty == Type::Query || right.ty == Type::Query;
        if query && op == ArithmeticOp::Remainder && self.mode == Mode::EdgeHub {
            self.unsupported("%", op_span);
            return broken(span);
        }
        let ty = if query { Type::Query } else { Type::Number };
        let (left, right) = (Box::new(left.node), Box::new(right.node));
        Typed::new(Node::Arithmetic { op, left, right }, ty, span)
    }

    pub(super) fn concat_operator(
        &mut self,
        op_span: &Span,
        left: Typed,
        right: Typed,
        span: &Span,
    ) -> Typed {
        let fits = |ty| matches!(ty, Type::Text | Type::Query | Type::Broken);
        if !fits(left.ty) || !fits(right.ty) {
            self.operands("||", op_span, &left, &right, Type::Text);
            return broken(span);
        }
        if left.ty == Type::Broken || right.ty == Type::Broken {
            return broken(span);
        }
        let mut parts = match left.node {
            Node::Concat(parts) => parts,
            node => vec![text_of(Typed { node, ..left })],
        };
        parts.push(text_of(right));
        Typed::new(Node::Concat(parts), Type::Text, span)
    }

    pub(super) fn coalesce(&mut self, op_span: &Span, left: Typed, right: Typed, span: &Span) -> Typed {
        // `a ?? b = c` reads as `a ?? (b = c)`: a bool on one side is that trap, and no reason to convert.
        let (left, right) = match left.ty == Type::Number || right.ty == Type::Number {
            true => self.meet(left, right),
            false => (left, right),
        };
        if self.comparing(&left, &right).is_none() {
            if left.ty != Type::Broken && right.ty != Type::Broken {
                self.operands("??", op_span, &left, &right, left.ty);
            }
            return broken(span);
        }
        let ty = if left.ty == right.ty { left.ty } else { Type::Query };
        Typed::new(Node::Coalesce(Box::new(left.node), Box::new(right.node)), ty, span)
    }

    pub(super) fn contained(&mut self, value: &Expr, set: &[Expr], op_span: &Span, span: &Span) -> Typed {
        let mut value = self.expr(value);
        let set: Vec<Typed> = set.iter().map(|item| self.expr(item)).collect();
        if let Some(item) = set.iter().find(|item| matches!(item.ty, Type::Number | Type::Bool)) {
            value = self.coerce(value, item.ty);
        }
        // Each item is compared as `=` would: whether it comes from a body says how.
        let mut items = Vec::new();
        let mut is_always_in = false;
        for item in set {
            let Some(how) = self.comparing(&value, &item) else {
                if value.ty != Type::Broken && item.ty != Type::Broken {
                    self.operands("IN", op_span, &value, &item, value.ty);
                }
                return broken(span);
            };
            is_always_in |= value.ty == Type::Null && how == Comparing::Same;
            items.push((item.node, how));
        }
        if is_always_in {
            return Typed::new(Node::Constant(Constant::Bool(true)), Type::Bool, span);
        }
        let constants: Option<Vec<Constant>> =
            items.iter().map(|(item, _)| item.constant().cloned()).collect();
        let value = Box::new(value.node);
        let node = match (constants, items.first()) {
            // Constants do not come from a body: they are all compared alike.
            (Some(set), Some((_, how))) => Node::In { value, how: *how, set },
            _ => Node::InList { value, items },
        };
        Typed::new(node, Type::Bool, span)
    }

    pub(super) fn between(&mut self, parts: [&Expr; 3], op_span: &Span, span: &Span) -> Typed {
        let parts = parts.map(|part| self.expr(part));
        // One number or bool among the three decides how bare names are read.
        let wanted = parts.iter().map(|part| part.ty).find(|ty| matches!(ty, Type::Number | Type::Bool));
        let [value, low, high] = match wanted {
            Some(wanted) => parts.map(|part| self.coerce(part, wanted)),
            None => parts,
        };
        let (Some(from), Some(to)) = (self.comparing(&value, &low), self.comparing(&value, &high)) else {
            if [&value, &low, &high].iter().all(|part| part.ty != Type::Broken) {
                let other = if self.comparing(&value, &low).is_none() { &low } else { &high };
                self.operands("BETWEEN", op_span, &value, other, value.ty);
            }
            return broken(span);
        };
        if value.ty == Type::Null && from == Comparing::Same && to == Comparing::Same {
            return Typed::new(Node::Constant(Constant::Bool(true)), Type::Bool, span);
        }
        let [value, low, high] = [value, low, high].map(|part| Box::new(part.node));
        Typed::new(Node::Between { value, low, high, how: [from, to] }, Type::Bool, span)
    }

    pub(super) fn like(&mut self, value: &Expr, pattern: &str, op_span: &Span, span: &Span) -> Typed {
        if Pattern::new(pattern).is_too_wild() {
            let message = format!("between two '%' a pattern with '_' has at most {WILD_MAX} characters");
            self.faults.push(Fault::new(op_span.clone(), message));
            return broken(span);
        }
        let value = self.expr(value);
        match value.ty {
            Type::Text | Type::Query => Typed::new(
                Node::Like { value: Box::new(value.node), pattern: pattern.to_owned() },
                Type::Bool,
                span,
            ),
            Type::Broken => broken(span),
            found => {
                let found = found.name();
                let message =
                    format!("invalid operand to operator 'LIKE': have '{found}', expected 'string'");
                self.faults.push(Fault::new(op_span.clone(), message));
                broken(span)
            }
        }
    }
}

pub(super) fn negate_if(negated: bool, typed: Typed) -> Typed {
    match negated && typed.ty == Type::Bool {
        true => Typed { node: fold(Node::Not(Box::new(typed.node))), ..typed },
        false => typed,
    }
}
