//! Which routes a message concerns at all: one tree of topic filters, one of edgeHub paths.
//!
//! Knows: MQTT's wildcards (MQTT 5.0 §4.7) and edgeHub's prefixes (`reference/edgehub.md` §3.1).
//! May use: `syntax`, `value`. In: sources while compiling; a topic and a path while matching. Out: group numbers.
//! Invariant: every source that means the same is one group; a message meets each group at most once.

use rustc_hash::FxHashMap;

use crate::syntax::Source;
use crate::value::{fold_into, folded};

/// All sources of a table.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    filters: Vec<Node>,
    paths: Vec<Node>,
    groups: u32,
    /// The groups of [`PLAIN`], which nearly every message has.
    plain: Vec<u32>,
}

/// The source of a plain MQTT publication.
const PLAIN: &str = "/messages/";

/// Nodes with at most this many children are searched one by one.
const FEW: usize = 4;

/// One for each level of each filter or path, so its size counts.
#[derive(Debug)]
struct Node {
    children: Children,
    /// The child of `+`, or [`NOBODY`].
    any: u32,
    /// The group of the filter that ends here, or [`NOBODY`].
    group: u32,
    /// The group of the filter that ends here with `#`, or [`NOBODY`].
    rest: u32,
}

#[derive(Debug)]
enum Children {
    None,
    /// Most nodes never get a second one.
    One(Box<str>, u32),
    /// At most [`FEW`].
    Few(Vec<(Box<str>, u32)>),
    Many(Box<FxHashMap<Box<str>, u32>>),
}

/// No node and no group.
const NOBODY: u32 = u32::MAX;

impl Topics {
    /// The group of `source`, new or known.
    pub(crate) fn add(&mut self, source: &Source) -> u32 {
        match source {
            Source::Filter(filter) => self.add_filter(filter),
            Source::Path(path) => self.add_path(path),
        }
    }

    pub(crate) fn groups(&self) -> u32 {
        self.groups
    }

    /// Gives back what the vectors have to spare.
    pub(crate) fn shrink(&mut self) {
        self.filters.shrink_to_fit();
        self.paths.shrink_to_fit();
    }

    fn add_filter(&mut self, filter: &str) -> u32 {
        let nodes = &mut self.filters;
        root(nodes);
        let mut at = 0;
        for level in filter.split('/') {
            if level == "#" {
                return known_or_next(&mut nodes[at].rest, &mut self.groups);
            }
            at = match level {
                "+" if nodes[at].any == NOBODY => {
                    let child = push(nodes);
                    nodes[at].any = child;
                    child as usize
                }
                "+" => nodes[at].any as usize,
                level => child(nodes, at, level),
            };
        }
        known_or_next(&mut nodes[at].group, &mut self.groups)
    }

    /// edgeHub's normal form: without stars and slashes at the end, then a prefix of whole segments.
    fn add_path(&mut self, path: &str) -> u32 {
        let nodes = &mut self.paths;
        root(nodes);
        let normal = folded(path.trim().trim_end_matches('*').trim_end_matches('/'));
        let mut at = 0;
        for segment in segments(&normal) {
            at = child(nodes, at, segment);
        }
        let group = known_or_next(&mut nodes[at].group, &mut self.groups);
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        self.find_paths(&folded(PLAIN), &mut plain);
        self.plain = plain;
        group
    }

    /// Collects the groups whose source matches into `groups`, which is cleared first. `path` is working space.
    pub(crate) fn find(&self, topic: &str, source: &str, path: &mut String, groups: &mut Vec<u32>) {
        groups.clear();
        if !self.filters.is_empty() {
            // Wildcards in the first level do not match a topic that starts with `$` [MQTT-4.7.2-1].
            self.find_filters(0, Some(topic), topic.starts_with('$'), groups);
        }
        if source == PLAIN {
            groups.extend(&self.plain);
        } else {
            path.clear();
            fold_into(source, path);
            self.find_paths(path, groups);
        }
    }

    /// Recursion is bounded by the levels of the longest filter (`Limits::topic_levels_max`).
    fn find_filters(&self, at: u32, rest: Option<&str>, reserved: bool, groups: &mut Vec<u32>) {
        let node = &self.filters[at as usize];
        if !reserved {
            groups.extend(some(node.rest));
        }
        let Some(rest) = rest else {
            groups.extend(some(node.group));
            return;
        };
        let (level, rest) = first_level(rest);
        if let Some(child) = node.child(level) {
            self.find_filters(child, rest, false, groups);
        }
        if let (Some(child), false) = (some(node.any), reserved) {
            self.find_filters(child, rest, false, groups);
        }
    }

    fn find_paths(&self, path: &str, groups: &mut Vec<u32>) {
        let Some(mut node) = self.paths.first() else { return };
        groups.extend(some(node.group));
        for segment in segments(path.strip_suffix('/').unwrap_or(path)) {
            match node.child(segment) {
                Some(child) => node = &self.paths[child as usize],
                None => return,
            }
            groups.extend(some(node.group));
        }
    }
}

/// The first level of a topic and what follows its slash. By bytes: levels are too short for a search by blocks.
fn first_level(topic: &str) -> (&str, Option<&str>) {
    match topic.bytes().position(|byte| byte == b'/') {
        Some(at) => (&topic[..at], Some(&topic[at + 1..])),
        None => (topic, None),
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split('/').take(if path.is_empty() { 0 } else { usize::MAX })
}

fn root(nodes: &mut Vec<Node>) {
    if nodes.is_empty() {
        push(nodes);
    }
}

fn push(nodes: &mut Vec<Node>) -> u32 {
    nodes.push(Node { children: Children::None, any: NOBODY, group: NOBODY, rest: NOBODY });
    nodes.len() as u32 - 1
}

fn child(nodes: &mut Vec<Node>, at: usize, level: &str) -> usize {
    if let Some(child) = nodes[at].child(level) {
        return child as usize;
    }
    let child = push(nodes);
    nodes[at].add(level, child);
    child as usize
}

impl Node {
    fn child(&self, level: &str) -> Option<u32> {
        match &self.children {
            Children::None => None,
            Children::One(name, child) => (**name == *level).then_some(*child),
            Children::Few(few) => few.iter().find(|(name, _)| **name == *level).map(|(_, child)| *child),
            Children::Many(many) => many.get(level).copied(),
        }
    }

    fn add(&mut self, level: &str, child: u32) {
        let added = (level.into(), child);
        self.children = match std::mem::replace(&mut self.children, Children::None) {
            Children::None => Children::One(added.0, added.1),
            Children::One(name, first) => Children::Few(vec![(name, first), added]),
            Children::Few(few) if few.len() == FEW => {
                Children::Many(Box::new(few.into_iter().chain([added]).collect()))
            }
            Children::Few(mut few) => {
                few.push(added);
                Children::Few(few)
            }
            Children::Many(mut many) => {
                many.insert(added.0, added.1);
                Children::Many(many)
            }
        };
    }
}

fn some(number: u32) -> Option<u32> {
    (number != NOBODY).then_some(number)
}

fn known_or_next(number: &mut u32, groups: &mut u32) -> u32 {
    if *number == NOBODY {
        *number = *groups;
        *groups += 1;
    }
    *number
}

#[cfg(test)]
mod tests;
