//! Filters with wildcards, level by level.
//!
//! In: filters. Out: the places whose filter matches a topic name, in one walk.
//! Cost: at most two branches a level (the level itself and `+`), plus `#` at each; no allocation.
//! Invariant: a node other than the root has a place or a child.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::{Found, Place};

#[derive(Debug)]
struct Node {
    /// The filter that ends at this level.
    place: Place,
    /// The filter that continues with `#`; it matches this level too [MQTT-4.7.1-2].
    hash: Place,
    plus: Option<Box<Node>>,
    children: HashMap<Box<str>, Node, FixedState>,
}

impl Node {
    fn new(seed: u64) -> Node {
        Node {
            place: Place::default(),
            hash: Place::default(),
            plus: None,
            children: HashMap::with_hasher(FixedState::with_seed(seed)),
        }
    }

    fn is_empty(&self) -> bool {
        self.place.is_empty() && self.hash.is_empty() && self.plus.is_none() && self.children.is_empty()
    }

    fn find(&self, rest: Option<&str>, found: &mut Found) {
        found.take(&self.hash);
        let Some(rest) = rest else {
            found.take(&self.place);
            return;
        };
        let (level, rest) = split_level(rest);
        if let Some(child) = self.children.get(level) {
            child.find(rest, found);
        }
        if let Some(plus) = &self.plus {
            plus.find(rest, found);
        }
    }

    fn edit(&mut self, rest: Option<&str>, change: impl FnOnce(&mut Place) -> bool) -> bool {
        let Some(rest) = rest else { return change(&mut self.place) };
        let (level, rest) = split_level(rest);
        match level {
            "#" => change(&mut self.hash),
            "+" => {
                let Some(plus) = &mut self.plus else { return false };
                let changed = plus.edit(rest, change);
                if plus.is_empty() {
                    self.plus = None;
                }
                changed
            }
            _ => {
                let Some(child) = self.children.get_mut(level) else { return false };
                let changed = child.edit(rest, change);
                if child.is_empty() {
                    self.children.remove(level);
                }
                changed
            }
        }
    }
}

/// The trie of all filters with wildcards.
#[derive(Debug)]
pub(super) struct Trie {
    root: Node,
    seed: u64,
}

impl Trie {
    pub(super) fn new(seed: u64) -> Trie {
        Trie { root: Node::new(seed), seed }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// The place of `filter`, made if it is new.
    pub(super) fn place_mut(&mut self, filter: &str) -> &mut Place {
        let seed = self.seed;
        let mut node = &mut self.root;
        let mut rest = Some(filter);
        while let Some(text) = rest {
            let (level, after) = split_level(text);
            rest = after;
            node = match level {
                "#" => return &mut node.hash,
                "+" => node.plus.get_or_insert_with(|| Box::new(Node::new(seed))),
                _ => node.children.entry(level.into()).or_insert_with(|| Node::new(seed)),
            };
        }
        &mut node.place
    }

    pub(super) fn get(&self, filter: &str) -> Option<&Place> {
        let mut node = &self.root;
        let mut rest = Some(filter);
        while let Some(text) = rest {
            let (level, after) = split_level(text);
            rest = after;
            node = match level {
                "#" => return Some(&node.hash),
                "+" => node.plus.as_deref()?,
                _ => node.children.get(level)?,
            };
        }
        Some(&node.place)
    }

    pub(super) fn edit(&mut self, filter: &str, change: impl FnOnce(&mut Place) -> bool) -> bool {
        self.root.edit(Some(filter), change)
    }

    pub(super) fn find(&self, topic: &str, found: &mut Found) {
        if topic.starts_with('$') {
            // Leading wildcards do not match names that start with `$` [MQTT-4.7.2-1].
            let (level, rest) = split_level(topic);
            if let Some(child) = self.root.children.get(level) {
                child.find(rest, found);
            }
            return;
        }
        self.root.find(Some(topic), found);
    }
}

/// The first level of a topic or filter, and what follows its `/`.
fn split_level(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (text, None),
    }
}
