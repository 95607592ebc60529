//! What does not depend on a message is computed while compiling.
//!
//! Knows: which nodes are constant. May use: `program`, so that constants come out as they would at run time.
//! In:  a node. Out: the same, or the constant that it always gives.
//! Invariant: folding never changes what a condition gives.

use crate::program;
use crate::syntax::LogicOp;
use crate::types::{Constant, Node};

/// Computes what does not depend on a message, with the evaluator itself, so that both always agree.
pub(super) fn fold(node: Node) -> Node {
    if let Node::Logic { op, operands } = node {
        return fold_logic(op, operands);
    }
    match children_are_constant(&node) {
        true => Node::Constant(program::constant(&node)),
        false => node,
    }
}

/// `false AND x` is false and `true AND x` is x, whatever x is; likewise for OR.
fn fold_logic(op: LogicOp, operands: Vec<Node>) -> Node {
    let decides = op == LogicOp::Or;
    if operands.iter().any(|operand| operand.constant() == Some(&Constant::Bool(decides))) {
        return Node::Constant(Constant::Bool(decides));
    }
    let neutral = Node::Constant(Constant::Bool(!decides));
    let mut rest: Vec<Node> = operands.into_iter().filter(|operand| *operand != neutral).collect();
    match rest.len() {
        0 => neutral,
        1 => rest.remove(0),
        _ if rest.iter().all(|operand| operand.constant().is_some()) => Node::UNDEFINED,
        _ => Node::Logic { op, operands: rest },
    }
}

fn children_are_constant(node: &Node) -> bool {
    let constant = |node: &Node| node.constant().is_some();
    match node {
        Node::Constant(_) | Node::Slot(_) | Node::BodySlot(_) | Node::Loose { .. } | Node::Logic { .. } => {
            false
        }
        Node::Element(_) | Node::Quantified { .. } => false,
        Node::Only(_, operand) | Node::Not(operand) | Node::Negate(operand) => constant(operand),
        Node::QueryLogic { left, right, .. }
        | Node::Compare { left, right, .. }
        | Node::Arithmetic { left, right, .. }
        | Node::Coalesce(left, right) => constant(left) && constant(right),
        Node::Concat(operands) | Node::Call(_, operands) => operands.iter().all(constant),
        Node::InList { value, items } => constant(value) && items.iter().all(|(item, _)| constant(item)),
        Node::Between { value, low, high, .. } => constant(value) && constant(low) && constant(high),
        Node::In { value, .. } | Node::Like { value, .. } => constant(value),
    }
}
