//! Conditions as flat code, and the machine that runs it.
//!
//! Knows: what every operation computes. May use: `types`, `value`, `slots`, `dotnet`, `pattern`.
//! In:  a typed tree while compiling; filled slots while matching. Out: code; true, false or undefined.
//! Invariant: jumps go forward only, so a run takes at most as many steps as the code is long; the stack is as
//! deep as the tree; texts computed in one run are bounded by [`COMPUTED_BYTES_MAX`].

mod machine;

use std::ops::Range;

use model::Message;
use rustc_hash::FxHashSet;

use crate::binary::Encoding;
use crate::dotnet;
use crate::elements::{Elements, Scanned, Step};
use crate::functions::Function;
use crate::paths::Paths;
use crate::pattern::Pattern;
use crate::sha256;
use crate::slots::{Filled, SlotId};
use crate::syntax::{ArithmeticOp, CompareOp, LogicOp};
use crate::time;
use crate::types::{Constant, Node, Type};
use crate::value::{self, Comparing, Origin, TextAt, Truth, Value, compare, lower, upper};

pub(crate) use machine::{Machine, Stack};

/// Most bytes of text that one run computes (`concat`, `lower`, …); what goes beyond is undefined.
pub(crate) const COMPUTED_BYTES_MAX: usize = 4 << 20;

/// One step. Operands are on the stack unless said otherwise.
#[derive(Clone, Copy, Debug)]
enum Op {
    Constant(Value),
    Slot(SlotId),
    BodySlot(SlotId),
    Loose {
        property: SlotId,
        body: Option<SlotId>,
        to: Type,
    },
    Only(Type),
    Not,
    Negate,
    /// Leaves the top and goes on at `target` if it decides the chain.
    JumpIf {
        value: bool,
        target: u32,
    },
    Logic(LogicOp),
    QueryLogic(LogicOp),
    Compare {
        op: CompareOp,
        how: Comparing,
    },
    /// A slot with a constant, nothing on the stack: most conditions are of this form.
    CompareSlot {
        slot: SlotId,
        body: bool,
        op: CompareOp,
        how: Comparing,
        constant: Value,
    },
    Between([Comparing; 2]),
    Arithmetic(ArithmeticOp),
    Concat,
    Coalesce,
    In {
        set: u32,
        how: Comparing,
    },
    /// Takes an item; below it lie the result so far and the value.
    InItem(Comparing),
    /// Takes the result; below it lies the value.
    InEnd,
    Like(u32),
    Call(Function),
    /// A part of the element at hand.
    Element(u32),
    /// Runs the code that follows for each element of an array and goes on behind it.
    Quantified(u32),
    /// edgeHub's `is_null($body.x)`: false where the body has no x, true for whatever it has, null or not.
    IsNullInverted(SlotId),
}

/// The code of one route.
pub(crate) type Code = Range<u32>;

/// The code of all routes of a table and the constants it uses.
#[derive(Debug, Default)]
pub(crate) struct Program {
    ops: Vec<Op>,
    texts: String,
    sets: Vec<Set>,
    patterns: Vec<Pattern>,
    quantified: Vec<Quantified>,
}

/// An `ANY` or `ALL`.
#[derive(Debug)]
struct Quantified {
    all: bool,
    /// Where the array starts.
    array: SlotId,
    /// What its condition looks at of each element.
    parts: Paths,
    code: Code,
}

/// The constants of an `IN`.
#[derive(Debug, Default)]
struct Set {
    texts: FxHashSet<Box<str>>,
    /// Bits of the numbers, zeros made equal.
    numbers: FxHashSet<u64>,
    /// Null, false, true.
    others: [bool; 3],
    /// Whether an item is undefined: then what is not found is undefined, not absent.
    undefined: bool,
}

impl Program {
    /// Appends the code of `node`.
    pub(crate) fn emit_route(&mut self, node: &Node) -> Code {
        let start = self.ops.len() as u32;
        self.emit(node);
        start..self.ops.len() as u32
    }

    /// Gives back what the vectors have to spare.
    pub(crate) fn shrink(&mut self) {
        self.ops.shrink_to_fit();
        self.texts.shrink_to_fit();
        self.sets.shrink_to_fit();
        self.patterns.shrink_to_fit();
        self.quantified.shrink_to_fit();
    }

    /// Where the code of an AND goes on once its first operand is known to be true.
    pub(crate) fn behind_first(&self, code: &Code) -> u32 {
        let ops = &self.ops[code.start as usize..code.end as usize];
        // Only the jumps of the outermost chain lead to the end.
        let jump = ops.iter().position(|op| matches!(op, Op::JumpIf { target, .. } if *target == code.end));
        jump.map_or(code.start, |at| code.start + at as u32 + 1)
    }

    fn emit(&mut self, node: &Node) {
        match node {
            Node::Constant(constant) => {
                let value = self.intern(constant);
                self.ops.push(Op::Constant(value));
            }
            Node::Slot(slot) => self.ops.push(Op::Slot(*slot)),
            Node::BodySlot(slot) => self.ops.push(Op::BodySlot(*slot)),
            Node::Loose { property, body, to } => {
                self.ops.push(Op::Loose { property: *property, body: *body, to: *to });
            }
            Node::Only(ty, operand) => self.unary(operand, Op::Only(*ty)),
            Node::Not(operand) => self.unary(operand, Op::Not),
            Node::Negate(operand) => self.unary(operand, Op::Negate),
            Node::Logic { op, operands } => self.emit_logic(*op, operands),
            Node::QueryLogic { op, left, right } => self.all([&**left, &**right], Op::QueryLogic(*op)),
            Node::Compare { op, how, left, right } => self.emit_compare(*op, *how, left, right),
            Node::Arithmetic { op, left, right } => self.all([&**left, &**right], Op::Arithmetic(*op)),
            Node::Concat(parts) => {
                self.emit(&parts[0]);
                for part in &parts[1..] {
                    self.unary(part, Op::Concat);
                }
            }
            Node::Coalesce(left, right) => self.all([&**left, &**right], Op::Coalesce),
            Node::Call(Function::IsNullInverted, arguments) => match &arguments[0] {
                Node::BodySlot(slot) => self.ops.push(Op::IsNullInverted(*slot)),
                operand => self.unary(operand, Op::Call(Function::IsNullInverted)),
            },
            Node::Call(function, arguments) => self.all(arguments, Op::Call(*function)),
            Node::In { value, how, set } => {
                let set = self.add_set(set);
                self.unary(value, Op::In { set, how: *how });
            }
            Node::InList { value, items } => {
                self.emit(value);
                self.ops.push(Op::Constant(Value::Bool(false)));
                for (item, how) in items {
                    self.unary(item, Op::InItem(*how));
                }
                self.ops.push(Op::InEnd);
            }
            Node::Between { value, low, high, how } => {
                self.all([&**value, &**low, &**high], Op::Between(*how));
            }
            Node::Element(part) => self.ops.push(Op::Element(*part)),
            Node::Quantified { all, array, parts, condition } => {
                let at = self.ops.len();
                self.ops.push(Op::Quantified(0));
                self.emit(condition);
                let code = at as u32 + 1..self.ops.len() as u32;
                self.ops[at] = Op::Quantified(self.quantified.len() as u32);
                let mut paths = Paths::default();
                for (number, part) in parts.iter().enumerate() {
                    paths.add(part, SlotId(number as u32));
                }
                self.quantified.push(Quantified { all: *all, array: *array, parts: paths, code });
            }
            Node::Like { value, pattern } => {
                self.patterns.push(Pattern::new(pattern));
                let pattern = self.patterns.len() as u32 - 1;
                self.unary(value, Op::Like(pattern));
            }
        }
    }

    fn unary(&mut self, operand: &Node, op: Op) {
        self.emit(operand);
        self.ops.push(op);
    }

    fn all<'n>(&mut self, operands: impl IntoIterator<Item = &'n Node>, op: Op) {
        for operand in operands {
            self.emit(operand);
        }
        self.ops.push(op);
    }

    fn emit_logic(&mut self, op: LogicOp, operands: &[Node]) {
        let decides = op == LogicOp::Or;
        let mut jumps = Vec::new();
        self.emit(&operands[0]);
        for operand in &operands[1..] {
            jumps.push(self.ops.len());
            self.ops.push(Op::JumpIf { value: decides, target: 0 });
            self.unary(operand, Op::Logic(op));
        }
        let end = self.ops.len() as u32;
        for jump in jumps {
            self.ops[jump] = Op::JumpIf { value: decides, target: end };
        }
    }

    fn emit_compare(&mut self, op: CompareOp, how: Comparing, left: &Node, right: &Node) {
        let (slot, constant, op) = match (left, right) {
            (slot, Node::Constant(constant)) => (slot, constant, op),
            (Node::Constant(constant), slot) => (slot, constant, op.mirrored()),
            _ => return self.all([left, right], Op::Compare { op, how }),
        };
        let (slot, body) = match slot {
            Node::Slot(slot) => (*slot, false),
            Node::BodySlot(slot) => (*slot, true),
            _ => return self.all([slot, &Node::Constant(constant.clone())], Op::Compare { op, how }),
        };
        let constant = self.intern(constant);
        self.ops.push(Op::CompareSlot { slot, body, op, how, constant });
    }

    fn intern(&mut self, constant: &Constant) -> Value {
        match constant {
            Constant::Undefined => Value::Undefined,
            Constant::Null => Value::Null,
            Constant::Bool(value) => Value::Bool(*value),
            Constant::Number(value) => Value::number(*value),
            Constant::Text(text) => {
                let start = self.texts.len() as u32;
                self.texts.push_str(text);
                Value::Text(TextAt { origin: Origin::Constant, start, length: text.len() as u32 })
            }
        }
    }

    fn add_set(&mut self, constants: &[Constant]) -> u32 {
        let mut set = Set::default();
        for constant in constants {
            match constant {
                Constant::Undefined => set.undefined = true,
                Constant::Null => set.others[0] = true,
                Constant::Bool(value) => set.others[1 + usize::from(*value)] = true,
                Constant::Number(value) => {
                    set.numbers.insert(number_key(*value));
                }
                Constant::Text(text) => {
                    set.texts.insert(text.as_str().into());
                }
            }
        }
        self.sets.push(set);
        self.sets.len() as u32 - 1
    }
}

/// Bits under which equal numbers meet.
pub(crate) fn number_key(number: f64) -> u64 {
    (number + 0.0).to_bits()
}

/// An operation, its slot and a constant: many of these are read per message.
const _: () = assert!(size_of::<Op>() <= 32, "an operation fits half a cache line");

/// Runs code that needs no message.
pub(crate) fn constant(node: &Node) -> Constant {
    let mut program = Program::default();
    let code = program.emit_route(node);
    let (message, filled, mut stack) = (Message::new("", b""), Filled::default(), Stack::default());
    let mut machine = Machine {
        program: &program,
        message: &message,
        body: "",
        encoding: None,
        missing: Value::Undefined,
        filled: &filled,
        stack: &mut stack,
    };
    match machine.run(&code) {
        Value::Missing | Value::Undefined => Constant::Undefined,
        Value::Null => Constant::Null,
        Value::Bool(value) => Constant::Bool(value),
        Value::Number(value) => Constant::Number(value),
        Value::Text(text) => Constant::Text(machine.text(text).to_owned()),
    }
}
