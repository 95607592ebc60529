//! The shape of a route as written: what the parser builds, what the checker and the oracle walk.
//!
//! Knows: the constructs of the language and where each stands in the text. May use: `diagnostic`.
//! In and out: plain values. Names are not resolved and types not known here.
//! Invariant: no tree is deeper than `Limits::route_depth_max`; long chains of AND and OR are flat lists.

use crate::diagnostic::Span;

/// A whole route.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) source: Source,
    /// What must hold; no WHERE is the literal `true`.
    pub(crate) condition: Expr,
    /// What is sent; `None` is the message as it came (`SELECT *` says the same).
    pub(crate) select: Option<Select>,
    pub(crate) gates: Vec<GateText>,
    pub(crate) sinks: Vec<SinkText>,
}

/// `SELECT * EXCEPT $body.secret, hash($body.id) AS id`.
#[derive(Clone, Debug)]
pub(crate) struct Select {
    /// The whole body without these parts; `None` if only the items are sent.
    pub(crate) everything_except: Option<Vec<(Vec<ExceptStep>, Span)>>,
    pub(crate) items: Vec<SelectItem>,
}

/// One step of an EXCEPT path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExceptStep {
    Key(String),
    /// `.*`
    AnyKey,
    Index(u32),
    /// `[*]`
    AnyIndex,
}

/// `value AS name`.
#[derive(Clone, Debug)]
pub(crate) struct SelectItem {
    pub(crate) value: Expr,
    pub(crate) name: String,
}

/// A clause that depends on earlier messages.
#[derive(Clone, Debug)]
pub(crate) struct GateText {
    pub(crate) kind: GateKind,
    /// `BY expr`: each value of it by itself.
    pub(crate) by: Option<Expr>,
}

#[derive(Clone, Debug)]
pub(crate) enum GateKind {
    /// `SAMPLE 1 IN n`
    Sample { one_in: u64 },
    /// `THROTTLE n PER duration`
    Throttle { messages: u64, micros: u64 },
    /// `CHANGED(value, by at least)`
    Changed { value: Expr, delta: f64 },
}

/// Where messages come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// An edgeHub path, white space taken out: `/messages/*`.
    Path(String),
    /// An MQTT topic filter, valid.
    Filter(String),
}

/// Where matches go, as written and already understood.
#[derive(Clone, Debug)]
pub(crate) enum SinkText {
    Upstream,
    Uplink(String),
    Topic { template: String, span: Span },
    Input { module: String, input: String },
}

/// A part of a condition.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) kind: ExprKind,
    pub(crate) span: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum ExprKind {
    Literal(Literal),
    /// A bare name.
    Name(String),
    /// `$name`, `$body.path`, `$topic[1]`, with its dollar.
    Dollar(String),
    /// `{$name}`, with its dollar and without its braces.
    Escaped(String),
    Call {
        name: String,
        name_span: Span,
        arguments: Vec<Expr>,
    },
    Not {
        op_span: Span,
        operand: Box<Expr>,
    },
    Negate {
        op_span: Span,
        operand: Box<Expr>,
    },
    /// `a AND b AND c`: at least two operands. `op_spans` has one less.
    Logic {
        op: LogicOp,
        operands: Vec<Expr>,
        op_spans: Vec<Span>,
    },
    Binary {
        op: BinaryOp,
        op_span: Span,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// `value IN (…)`.
    In {
        value: Box<Expr>,
        set: Vec<Expr>,
        negated: bool,
        op_span: Span,
    },
    /// `value BETWEEN low AND high`, both included.
    Between {
        value: Box<Expr>,
        low: Box<Expr>,
        high: Box<Expr>,
        negated: bool,
        op_span: Span,
    },
    /// `value LIKE 'pattern'`.
    Like {
        value: Box<Expr>,
        pattern: String,
        negated: bool,
        op_span: Span,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Bool(bool),
    Number(f64),
    Text(String),
    Null,
    Undefined,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LogicOp {
    And,
    Or,
}

impl LogicOp {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            LogicOp::And => "AND",
            LogicOp::Or => "OR",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BinaryOp {
    Compare(CompareOp),
    Arithmetic(ArithmeticOp),
    Concat,
    Coalesce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CompareOp {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ArithmeticOp {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl BinaryOp {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            BinaryOp::Compare(op) => op.symbol(),
            BinaryOp::Arithmetic(ArithmeticOp::Add) => "+",
            BinaryOp::Arithmetic(ArithmeticOp::Subtract) => "-",
            BinaryOp::Arithmetic(ArithmeticOp::Multiply) => "*",
            BinaryOp::Arithmetic(ArithmeticOp::Divide) => "/",
            BinaryOp::Arithmetic(ArithmeticOp::Remainder) => "%",
            BinaryOp::Concat => "||",
            BinaryOp::Coalesce => "??",
        }
    }
}

impl CompareOp {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            CompareOp::Equal => "=",
            CompareOp::NotEqual => "!=",
            CompareOp::Less => "<",
            CompareOp::LessEqual => "<=",
            CompareOp::Greater => ">",
            CompareOp::GreaterEqual => ">=",
        }
    }

    /// Whether the comparison holds for this order of its sides.
    pub(crate) fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            CompareOp::Equal => order.is_eq(),
            CompareOp::NotEqual => order.is_ne(),
            CompareOp::Less => order.is_lt(),
            CompareOp::LessEqual => order.is_le(),
            CompareOp::Greater => order.is_gt(),
            CompareOp::GreaterEqual => order.is_ge(),
        }
    }

    /// The same comparison with its sides exchanged.
    pub(crate) fn mirrored(self) -> CompareOp {
        match self {
            CompareOp::Less => CompareOp::Greater,
            CompareOp::LessEqual => CompareOp::GreaterEqual,
            CompareOp::Greater => CompareOp::Less,
            CompareOp::GreaterEqual => CompareOp::LessEqual,
            same => same,
        }
    }
}

impl Expr {
    /// Calls `with` for every direct child, in the order of the text.
    pub(crate) fn for_each_child<'e>(&'e self, with: &mut dyn FnMut(&'e Expr)) {
        match &self.kind {
            ExprKind::Literal(_) | ExprKind::Name(_) | ExprKind::Dollar(_) | ExprKind::Escaped(_) => {}
            ExprKind::Not { operand, .. } | ExprKind::Negate { operand, .. } => with(operand),
            ExprKind::Call { arguments: many, .. } | ExprKind::Logic { operands: many, .. } => {
                many.iter().for_each(with);
            }
            ExprKind::Binary { left, right, .. } => {
                with(left);
                with(right);
            }
            ExprKind::In { value, set, .. } => {
                with(value);
                set.iter().for_each(with);
            }
            ExprKind::Between { value, low, high, .. } => {
                with(value);
                with(low);
                with(high);
            }
            ExprKind::Like { value, .. } => with(value),
        }
    }
}
