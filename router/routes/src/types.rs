//! Static types and the typed tree that the checker builds and the emitter flattens.
//!
//! Knows: edgeHub's six types and how each operation was decided. May use: `syntax`, `value`, `slots`, `functions`.
//! In and out: plain values.
//! Invariant: operands fit their operation; what is not known until run time ends as undefined there.

use crate::functions::Function;
use crate::paths::Step;
use crate::slots::SlotId;
use crate::syntax::{ArithmeticOp, CompareOp, LogicOp};
use crate::value::Comparing;

/// What is known of a value before there is a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Type {
    Bool,
    Number,
    Text,
    Null,
    Undefined,
    /// From a body: known when it is there.
    Query,
    /// An error was reported here; fits everything, so that one mistake is told once.
    Broken,
}

impl Type {
    /// edgeHub's name, as its messages write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Type::Bool => "bool",
            Type::Number => "number",
            Type::Text => "string",
            Type::Null => "null",
            Type::Undefined => "undefined",
            Type::Query | Type::Broken => "unknown",
        }
    }
}

/// A value known while compiling.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Constant {
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
}

/// A decided operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Constant(Constant),
    Slot(SlotId),
    /// A slot that the body fills; what is missing is null to edgeHub.
    BodySlot(SlotId),
    /// A bare name where a number or bool is needed: property first, then body field, converted.
    Loose {
        property: SlotId,
        body: Option<SlotId>,
        to: Type,
    },
    /// Gives undefined unless the value is of this type.
    Only(Type, Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Logic {
        op: LogicOp,
        operands: Vec<Node>,
    },
    /// edgeHub's AND and OR with a body value on one side: both must be bool, else undefined.
    QueryLogic {
        op: LogicOp,
        left: Box<Node>,
        right: Box<Node>,
    },
    Compare {
        op: CompareOp,
        how: Comparing,
        left: Box<Node>,
        right: Box<Node>,
    },
    Arithmetic {
        op: ArithmeticOp,
        left: Box<Node>,
        right: Box<Node>,
    },
    /// At least two texts. A null one (a property without value) counts as empty.
    Concat(Vec<Node>),
    Coalesce(Box<Node>, Box<Node>),
    Call(Function, Vec<Node>),
    /// `value IN (constants)`.
    In {
        value: Box<Node>,
        how: Comparing,
        set: Vec<Constant>,
    },
    /// `value IN (…)` where some item is not constant.
    InList {
        value: Box<Node>,
        items: Vec<(Node, Comparing)>,
    },
    /// `low <= value AND value <= high`, value computed once.
    Between {
        value: Box<Node>,
        low: Box<Node>,
        high: Box<Node>,
        how: [Comparing; 2],
    },
    Like {
        value: Box<Node>,
        pattern: String,
    },
    /// A part of the element that an `ANY` or `ALL` around it looks at, by its number there.
    Element(u32),
    /// `ANY(…)` or `ALL(…)` of the elements of the array whose place is in the slot.
    Quantified {
        all: bool,
        array: SlotId,
        parts: Vec<Vec<Step>>,
        condition: Box<Node>,
    },
}

impl Node {
    pub(crate) fn constant(&self) -> Option<&Constant> {
        match self {
            Node::Constant(constant) => Some(constant),
            _ => None,
        }
    }

    pub(crate) const UNDEFINED: Node = Node::Constant(Constant::Undefined);
}

impl Node {
    /// The slots that the tree reads; a slot may come twice.
    pub(crate) fn slots(&self) -> Vec<SlotId> {
        let mut slots = Vec::new();
        self.visit(&mut |node| match node {
            Node::Slot(slot) | Node::BodySlot(slot) | Node::Quantified { array: slot, .. } => {
                slots.push(*slot)
            }
            Node::Loose { property, body, .. } => {
                slots.extend([Some(*property), *body].into_iter().flatten())
            }
            _ => {}
        });
        slots
    }

    /// Calls `visit` for this node and all below it.
    pub(crate) fn visit(&self, visit: &mut impl FnMut(&Node)) {
        visit(self);
        self.for_each_child(&mut |child| child.visit_dyn(visit));
    }

    fn visit_dyn(&self, visit: &mut dyn FnMut(&Node)) {
        visit(self);
        self.for_each_child(&mut |child| child.visit_dyn(visit));
    }

    /// Calls `with` for every direct child, in the order of evaluation.
    pub(crate) fn for_each_child(&self, with: &mut dyn FnMut(&Node)) {
        match self {
            Node::Constant(_) | Node::Slot(_) | Node::BodySlot(_) | Node::Loose { .. } | Node::Element(_) => {
            }
            Node::Quantified { condition, .. } => with(condition),
            Node::Only(_, operand) | Node::Not(operand) | Node::Negate(operand) => with(operand),
            Node::In { value: operand, .. } | Node::Like { value: operand, .. } => with(operand),
            Node::QueryLogic { left, right, .. }
            | Node::Compare { left, right, .. }
            | Node::Arithmetic { left, right, .. }
            | Node::Coalesce(left, right) => {
                with(left);
                with(right);
            }
            Node::Logic { operands, .. } | Node::Concat(operands) | Node::Call(_, operands) => {
                operands.iter().for_each(with);
            }
            Node::InList { value, items } => {
                with(value);
                items.iter().for_each(|(item, _)| with(item));
            }
            Node::Between { value, low, high, .. } => {
                with(value);
                with(low);
                with(high);
            }
        }
    }
}
