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

/// Nodes with at most this many children are searched one by one, which also takes less memory.
const FEW: usize = 4;

#[derive(Debug, Default)]
struct Node {
    children: Vec<(Box<str>, u32)>,
    /// Filled when there are more than [`FEW`] children.
    by_name: Option<Box<FxHashMap<Box<str>, u32>>>,
    /// The child of `+`.
    any: Option<u32>,
    /// The group of the filter that ends here.
    group: Option<u32>,
    /// The group of the filter that ends here with `#`.
    rest: Option<u32>,
}

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
                return *nodes[at].rest.get_or_insert_with(|| next(&mut self.groups));
            }
            at = match level {
                "+" => match nodes[at].any {
                    Some(child) => child as usize,
                    None => {
                        let child = push(nodes);
                        nodes[at].any = Some(child);
                        child as usize
                    }
                },
                level => child(nodes, at, level),
            };
        }
        *nodes[at].group.get_or_insert_with(|| next(&mut self.groups))
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
        let group = *nodes[at].group.get_or_insert_with(|| next(&mut self.groups));
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
            groups.extend(node.rest);
        }
        let Some(rest) = rest else {
            groups.extend(node.group);
            return;
        };
        let (level, rest) = first_level(rest);
        if let Some(child) = node.child(level) {
            self.find_filters(child, rest, false, groups);
        }
        if let (Some(child), false) = (node.any, reserved) {
            self.find_filters(child, rest, false, groups);
        }
    }

    fn find_paths(&self, path: &str, groups: &mut Vec<u32>) {
        let Some(mut node) = self.paths.first() else { return };
        groups.extend(node.group);
        for segment in segments(path.strip_suffix('/').unwrap_or(path)) {
            match node.child(segment) {
                Some(child) => node = &self.paths[child as usize],
                None => return,
            }
            groups.extend(node.group);
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
        nodes.push(Node::default());
    }
}

fn push(nodes: &mut Vec<Node>) -> u32 {
    nodes.push(Node::default());
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
        match &self.by_name {
            Some(by_name) => by_name.get(level).copied(),
            None => self.children.iter().find(|(name, _)| **name == *level).map(|(_, child)| *child),
        }
    }

    fn add(&mut self, level: &str, child: u32) {
        match &mut self.by_name {
            Some(by_name) => {
                by_name.insert(level.into(), child);
            }
            None if self.children.len() == FEW => {
                let mut by_name: FxHashMap<_, _> = self.children.drain(..).collect();
                by_name.insert(level.into(), child);
                self.by_name = Some(Box::new(by_name));
            }
            None => {
                // One at a time: most nodes never get a second child.
                self.children.reserve_exact(1);
                self.children.push((level.into(), child));
            }
        }
    }
}

fn next(groups: &mut u32) -> u32 {
    *groups += 1;
    *groups - 1
}

#[cfg(test)]
mod tests;
