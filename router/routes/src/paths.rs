//! Body paths: how they are written, and one tree of all that a table needs.
//!
//! Knows: edgeHub's path syntax (`reference/edgehub.md` §3.5). May use: `slots` (the number only).
//! In:  paths while a table compiles; keys and indexes while a body is scanned. Out: nodes, and slots at nodes.
//! Invariant: node 0 is the root; a node's parent has a lower number.

use rustc_hash::FxHashMap;

use crate::slots::SlotId;

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Key(String),
    Index(u32),
}

/// The node that nobody needs anything of.
pub(crate) const NOBODY: u32 = u32::MAX;

/// Nodes with at most this many keys are searched one by one: faster than hashing.
const FEW: usize = 6;

/// All paths of a table as one tree.
#[derive(Debug)]
pub(crate) struct Paths {
    nodes: Vec<Node>,
    /// The node of each slot, by slot number; `NOBODY` for slots that no body fills.
    places: Vec<u32>,
}

#[derive(Debug)]
struct Node {
    parent: u32,
    slots: Vec<SlotId>,
    /// The slot that wants to know where an array starts.
    array: Option<SlotId>,
    /// A bit for each length of a key, all lengths from 63 on sharing one: most keys of a body are nobody's, and
    /// most of these are told apart by their length alone.
    lengths: u64,
    keys: Vec<(Box<[u8]>, u32)>,
    /// Filled when there are more than [`FEW`] keys.
    by_key: FxHashMap<Box<[u8]>, u32>,
    /// Ascending.
    indexes: Vec<(u32, u32)>,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths { nodes: vec![Node::new(NOBODY)], places: Vec::new() }
    }
}

impl Node {
    fn new(parent: u32) -> Node {
        Node {
            parent,
            slots: Vec::new(),
            array: None,
            lengths: 0,
            keys: Vec::new(),
            by_key: FxHashMap::default(),
            indexes: Vec::new(),
        }
    }
}

impl Paths {
    pub(crate) fn add(&mut self, path: &[Step], slot: SlotId) {
        let node = self.place(path, slot);
        self.nodes[node].slots.push(slot);
    }

    /// The same for a slot that takes the place of an array, whose elements are asked for.
    pub(crate) fn add_array(&mut self, path: &[Step], slot: SlotId) {
        let node = self.place(path, slot);
        self.nodes[node].array = Some(slot);
    }

    fn place(&mut self, path: &[Step], slot: SlotId) -> usize {
        let node = path.iter().fold(0, |node, step| self.child(node, step));
        let at = slot.0 as usize;
        if self.places.len() <= at {
            self.places.resize(at + 1, NOBODY);
        }
        self.places[at] = node;
        node as usize
    }

    fn child(&mut self, node: u32, step: &Step) -> u32 {
        let known = match step {
            Step::Key(key) => self.key(node, key.as_bytes()),
            Step::Index(index) => self.index(node, *index),
        };
        if known != NOBODY {
            return known;
        }
        let new = u32::try_from(self.nodes.len()).expect("nodes are bounded by the bytes of all routes");
        self.nodes.push(Node::new(node));
        let parent = &mut self.nodes[node as usize];
        match step {
            Step::Key(key) => parent.add_key(key, new),
            Step::Index(index) => {
                let at = parent.indexes.partition_point(|(known, _)| known < index);
                parent.indexes.insert(at, (*index, new));
            }
        }
        new
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The child of `node` under `key`.
    #[inline(always)]
    pub(crate) fn key(&self, node: u32, key: &[u8]) -> u32 {
        let node = &self.nodes[node as usize];
        if node.lengths & length_bit(key) == 0 {
            return NOBODY;
        }
        node.find(key)
    }

    /// The child of `node` at `index`.
    #[inline]
    pub(crate) fn index(&self, node: u32, index: u32) -> u32 {
        let indexes = &self.nodes[node as usize].indexes;
        match indexes.binary_search_by_key(&index, |(known, _)| *known) {
            Ok(at) => indexes[at].1,
            Err(_) => NOBODY,
        }
    }

    /// One more than the highest number of a slot among these paths.
    pub(crate) fn slot_count(&self) -> usize {
        self.places.len()
    }

    /// The slot that takes the place of an array at `node`.
    #[inline]
    pub(crate) fn array(&self, node: u32) -> Option<SlotId> {
        if node == NOBODY { None } else { self.nodes[node as usize].array }
    }

    /// The slots that a value at `node` fills.
    #[inline]
    pub(crate) fn slots(&self, node: u32) -> &[SlotId] {
        &self.nodes[node as usize].slots
    }

    /// The nodes from a slot's place up to the root, without the root.
    pub(crate) fn ancestors(&self, slot: SlotId) -> impl Iterator<Item = u32> + '_ {
        let place = self.places.get(slot.0 as usize).copied().unwrap_or(NOBODY);
        let real = |node: u32| (node != NOBODY && node != 0).then_some(node);
        std::iter::successors(real(place), move |node| real(self.nodes[*node as usize].parent))
    }
}

fn length_bit(key: &[u8]) -> u64 {
    1 << key.len().min(63)
}

impl Node {
    fn find(&self, key: &[u8]) -> u32 {
        if self.keys.len() > FEW {
            return self.by_key.get(key).copied().unwrap_or(NOBODY);
        }
        self.keys.iter().find(|(known, _)| **known == *key).map_or(NOBODY, |(_, child)| *child)
    }

    fn add_key(&mut self, key: &str, child: u32) {
        self.lengths |= length_bit(key.as_bytes());
        self.keys.push((key.as_bytes().into(), child));
        match self.keys.len() {
            0..=FEW => {}
            more if more == FEW + 1 => self.by_key = self.keys.iter().cloned().collect(),
            _ => {
                self.by_key.insert(key.as_bytes().into(), child);
            }
        }
    }
}

/// Reads what follows `$body.`: `name(.name)*`, each with at most one `[index]`. The error says what is wrong.
pub(crate) fn parse(text: &str, names_max: u32) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for (number, part) in text.split('.').enumerate() {
        if number as u32 >= names_max {
            return Err(format!("it has more than {names_max} names"));
        }
        let (name, index) = match part.split_once('[') {
            Some((name, rest)) => (name, Some(rest)),
            None => (part, None),
        };
        if name.is_empty() {
            return Err("a name is missing".to_owned());
        }
        if name.contains(']') {
            return Err("']' without '['".to_owned());
        }
        steps.push(Step::Key(name.to_owned()));
        if let Some(rest) = index {
            steps.push(Step::Index(parse_index(rest)?));
        }
    }
    Ok(steps)
}

fn parse_index(rest: &str) -> Result<u32, String> {
    let digits = rest.strip_suffix(']').ok_or("expected ']' after one index")?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("'[{digits}]' is no index; expected a whole number such as [0]"));
    }
    digits.parse().map_err(|_| format!("the index {digits} is too large"))
}

/// A path as it is written in a route.
pub(crate) fn show(path: &[Step]) -> String {
    let mut text = String::from("$body");
    for step in path {
        match step {
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}
