//! All rules as one index over topic levels: a check is one walk, however many rules there are.
//!
//! In: rules in order. Out: for a client and a topic, the first rule that decides, like a firewall.
//! Publishing asks for the first rule whose filter matches the topic. Subscribing asks the rules in the same order:
//! an *allow* decides if it covers every topic of the wanted filter, a *deny* if it covers any of them. So a filter is
//! granted only if every topic that it can match may be subscribed to, and deliveries need no check of their own.
//! `%u` and `%c` are edges of the index, compared with one level each. A value that is missing or could mean more than
//! one level's text (it contains `+`, `#` or `/`, is empty, or starts with `$`) fits no *allow* and every *deny*.
//! Invariant: `first` of a node is the lowest number of any rule at or below it.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::own;
use super::rules::{Action, Effect, Level, Rule, Standing, Who};

/// No rule; higher than the number of every rule.
const NONE: u32 = u32::MAX;

/// Rules, compiled.
#[derive(Debug)]
pub struct Ruleset {
    rules: Vec<Rule>,
    default: Effect,
    /// Every different condition that some rule has.
    classes: HashMap<Who, u32, FixedState>,
    nodes: Vec<Node>,
}

/// Who a client is, as rules see it; made once per connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The conditions that hold for it, ascending.
    classes: Box<[u32]>,
    /// What `%u` stands for, if it can stand in a level.
    user: Option<Box<str>>,
    /// What `%c` stands for, if it can stand in a level.
    client_id: Option<Box<str>>,
    /// The name of the identity that it is, if it is one.
    identity: Option<Box<str>>,
}

/// A client that shows who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Its user; `None` if it is anonymous.
    pub user: Option<&'a str>,
    /// Its client identifier.
    pub client_id: &'a str,
    /// Whether a verified certificate says so.
    pub certificate: bool,
    /// Whether it is an identity that the edge knows; it has topics of its own, whatever the rules say.
    pub by_edge: bool,
}

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may.
    pub effect: Effect,
    /// The number of the rule that decided; `None` if none did, and the default holds.
    pub rule: Option<usize>,
}

#[derive(Debug)]
struct Node {
    children: HashMap<Box<str>, u32, FixedState>,
    plus: u32,
    user: u32,
    client: u32,
    /// Rules whose filter ends here.
    here: Place,
    /// Rules whose filter goes on with `#`, which covers this level too [MQTT-4.7.1-2].
    hash: Place,
    /// The lowest number of any rule at or below this node.
    first: u32,
    /// The same, of rules that deny subscribing.
    first_deny: u32,
}

impl Node {
    fn new() -> Node {
        Node {
            children: HashMap::with_hasher(FixedState::default()),
            // The root is nobody's child, so that 0 can mean that there is none.
            plus: 0,
            user: 0,
            client: 0,
            here: Place::default(),
            hash: Place::default(),
            first: NONE,
            first_deny: NONE,
        }
    }
}

#[derive(Debug, Default)]
struct Place {
    publish: Heads,
    subscribe: Heads,
}

/// The first rules of one place for each class of clients; later ones there never decide. Ascending by class.
#[derive(Debug, Default)]
struct Heads(Vec<Head>);

#[derive(Clone, Copy, Debug)]
struct Head {
    class: u32,
    allow: u32,
    deny: u32,
}

impl Heads {
    fn add(&mut self, class: u32, effect: Effect, number: u32) {
        let at = match self.0.binary_search_by_key(&class, |head| head.class) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, Head { class, allow: NONE, deny: NONE });
                at
            }
        };
        let slot = match effect {
            Effect::Allow => &mut self.0[at].allow,
            Effect::Deny => &mut self.0[at].deny,
        };
        *slot = number.min(*slot);
    }

    /// Lowers `allow` and `deny` to the first rules here for any of `classes`.
    #[inline]
    fn lower(&self, classes: &[u32], allow: &mut u32, deny: &mut u32) {
        if self.0.is_empty() {
            return;
        }
        for class in classes {
            if let Ok(at) = self.0.binary_search_by_key(class, |head| head.class) {
                *allow = self.0[at].allow.min(*allow);
                *deny = self.0[at].deny.min(*deny);
            }
        }
    }
}

impl Ruleset {
    /// Compiles rules; the first one that fits decides, and `default` where none does.
    pub fn new(rules: Vec<Rule>, default: Effect) -> Ruleset {
        assert!(rules.len() < NONE as usize, "rules are numbered in 32 bits");
        let mut set = Ruleset {
            rules: Vec::new(),
            default,
            classes: HashMap::with_hasher(FixedState::default()),
            nodes: vec![Node::new()],
        };
        for (number, rule) in rules.iter().enumerate() {
            set.add(number as u32, rule);
        }
        set.rules = rules;
        set
    }

    fn add(&mut self, number: u32, rule: &Rule) {
        let fresh = self.classes.len() as u32;
        let class = *self.classes.entry(rule.who.clone()).or_insert(fresh);
        let denies = rule.effect == Effect::Deny && rule.actions.covers(Action::Subscribe);
        let mut node = 0;
        let mut is_hash = false;
        self.pass(node, number, denies);
        for level in rule.filter.levels() {
            if level == Level::Hash {
                is_hash = true;
                break;
            }
            node = self.child(node, level);
            self.pass(node, number, denies);
        }
        let node = &mut self.nodes[node as usize];
        let place = if is_hash { &mut node.hash } else { &mut node.here };
        if rule.actions.covers(Action::Publish) {
            place.publish.add(class, rule.effect, number);
        }
        if rule.actions.covers(Action::Subscribe) {
            place.subscribe.add(class, rule.effect, number);
        }
    }

    fn pass(&mut self, node: u32, number: u32, denies: bool) {
        let node = &mut self.nodes[node as usize];
        node.first = node.first.min(number);
        if denies {
            node.first_deny = node.first_deny.min(number);
        }
    }

    fn child(&mut self, node: u32, level: Level<'_>) -> u32 {
        let fresh = self.nodes.len() as u32;
        let parent = &mut self.nodes[node as usize];
        let slot = match level {
            Level::Text(text) => parent.children.entry(text.into()).or_insert(0),
            Level::Plus => &mut parent.plus,
            Level::User => &mut parent.user,
            Level::Client | Level::Hash => &mut parent.client,
        };
        if *slot == 0 {
            *slot = fresh;
            self.nodes.push(Node::new());
            return fresh;
        }
        *slot
    }

    /// The rules, by number.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What holds where no rule fits.
    pub fn default_effect(&self) -> Effect {
        self.default
    }

    /// Looks a client up; costs some hashes, for any number of rules.
    pub fn subject(&self, identity: Identity<'_>) -> Subject {
        let standings: &[Standing] = match (identity.user, identity.certificate) {
            (None, _) => &[Standing::Anyone, Standing::Anonymous],
            (Some(_), false) => &[Standing::Anyone, Standing::Authenticated],
            (Some(_), true) => &[Standing::Anyone, Standing::Authenticated, Standing::Certificate],
        };
        let users = [None, identity.user];
        let users = &users[..1 + usize::from(identity.user.is_some())];
        let mut classes = Vec::new();
        for user in users {
            for client_id in [None, Some(identity.client_id)] {
                for standing in standings {
                    let who = Who {
                        user: user.map(Into::into),
                        client_id: client_id.map(Into::into),
                        standing: *standing,
                    };
                    classes.extend(self.classes.get(&who));
                }
            }
        }
        classes.sort_unstable();
        let usable = |value: &str| can_stand_in_a_level(value).then(|| value.into());
        Subject {
            classes: classes.into(),
            user: identity.user.and_then(usable),
            client_id: usable(identity.client_id),
            identity: identity.user.filter(|_| identity.by_edge).map(Into::into),
        }
    }

    /// Whether `subject` may publish to the topic name `topic`.
    ///
    /// Cost: one walk down the index, which meets the places whose filter matches and no others.
    pub fn may_publish(&self, subject: &Subject, topic: &str) -> Decision {
        if let Some(own) = subject.identity.as_deref().and_then(|name| own::may_publish(name, topic)) {
            return own_decision(own);
        }
        let mut walk = Walk { set: self, subject, allow: NONE, deny: NONE };
        if topic.starts_with('$') {
            // Leading wildcards do not match names that start with `$` [MQTT-4.7.2-1], nor do substitutes.
            let (level, rest) = split_level(topic);
            walk.child(&self.nodes[0], level, |walk, child| walk.publish(child, rest, false));
        } else {
            walk.publish(0, Some(topic), false);
        }
        self.decision(walk.allow.min(walk.deny))
    }

    /// Whether `subject` may subscribe to the topic filter `filter`, given without a `$share` prefix.
    ///
    /// Cost: one walk; where an *allow* covers the filter, a second one over the *deny* rules before it that the
    /// filter's wildcards reach.
    pub fn may_subscribe(&self, subject: &Subject, filter: &str) -> Decision {
        if let Some(own) = subject.identity.as_deref().and_then(|name| own::may_subscribe(name, filter)) {
            return own_decision(own);
        }
        let mut walk = Walk { set: self, subject, allow: NONE, deny: NONE };
        if filter.starts_with('$') {
            let (level, rest) = split_level(filter);
            walk.child(&self.nodes[0], level, |walk, child| walk.cover(child, rest));
            walk.child(&self.nodes[0], level, |walk, child| walk.overlap(child, rest, false));
        } else {
            walk.cover(0, Some(filter));
            walk.overlap(0, Some(filter), true);
        }
        self.decision(walk.allow.min(walk.deny))
    }

    fn decision(&self, number: u32) -> Decision {
        match self.rules.get(number as usize) {
            Some(rule) => Decision { effect: rule.effect, rule: Some(number as usize) },
            None => Decision { effect: self.default, rule: None },
        }
    }
}

/// What an identity may do with topics of its own dialect; no rule says it.
fn own_decision(may: bool) -> Decision {
    Decision { effect: if may { Effect::Allow } else { Effect::Deny }, rule: None }
}

/// One check: the lowest numbers found so far.
struct Walk<'a> {
    set: &'a Ruleset,
    subject: &'a Subject,
    allow: u32,
    deny: u32,
}

impl<'a> Walk<'a> {
    fn node(&self, node: u32) -> &'a Node {
        &self.set.nodes[node as usize]
    }

    #[inline]
    fn child(&mut self, node: &Node, level: &str, go: impl FnOnce(&mut Self, u32)) {
        if let Some(child) = node.children.get(level) {
            go(self, *child);
        }
    }

    /// Every rule whose filter matches the topic name that goes on with `rest`.
    fn publish(&mut self, node: u32, rest: Option<&str>, deny_only: bool) {
        let node = self.node(node);
        if node.first >= self.allow.min(self.deny) {
            return;
        }
        self.take(&node.hash.publish, deny_only);
        let Some(rest) = rest else {
            self.take(&node.here.publish, deny_only);
            return;
        };
        let (level, rest) = split_level(rest);
        self.child(node, level, |walk, child| walk.publish(child, rest, deny_only));
        if node.plus != 0 {
            self.publish(node.plus, rest, deny_only);
        }
        for (child, value) in self.substitutes(node) {
            match value {
                Some(value) if value == level => self.publish(child, rest, deny_only),
                Some(_) => {}
                None => self.publish(child, rest, true),
            }
        }
    }

    /// Every *allow* whose filter covers all topics of the filter that goes on with `rest`.
    fn cover(&mut self, node: u32, rest: Option<&str>) {
        let node = self.node(node);
        if node.first >= self.allow {
            return;
        }
        self.take_allow(&node.hash.subscribe);
        let Some(rest) = rest else {
            self.take_allow(&node.here.subscribe);
            return;
        };
        let (level, rest) = split_level(rest);
        match level {
            "#" => {}
            "+" if node.plus != 0 => self.cover(node.plus, rest),
            "+" => {}
            _ => {
                self.child(node, level, |walk, child| walk.cover(child, rest));
                if node.plus != 0 {
                    self.cover(node.plus, rest);
                }
                for (child, value) in self.substitutes(node) {
                    if value == Some(level) {
                        self.cover(child, rest);
                    }
                }
            }
        }
    }

    /// Every *deny* before the best *allow* whose filter has a topic in common with the filter that goes on with
    /// `rest`.
    fn overlap(&mut self, node: u32, rest: Option<&str>, is_root: bool) {
        let node = self.node(node);
        if node.first_deny >= self.allow.min(self.deny) {
            return;
        }
        self.take_deny(&node.hash.subscribe);
        let Some(rest) = rest else {
            self.take_deny(&node.here.subscribe);
            return;
        };
        let (level, rest) = split_level(rest);
        match level {
            "#" | "+" => {
                // Below `#` everything is met, whatever follows: the same `#` again, which ends everywhere.
                let below = if level == "#" { Some("#") } else { rest };
                if level == "#" {
                    self.take_deny(&node.here.subscribe);
                }
                for (text, child) in &node.children {
                    if !(is_root && text.starts_with('$')) {
                        self.overlap(*child, below, false);
                    }
                }
                for child in [node.plus, node.user, node.client].into_iter().filter(|child| *child != 0) {
                    self.overlap(child, below, false);
                }
            }
            _ => {
                self.child(node, level, |walk, child| walk.overlap(child, rest, false));
                if node.plus != 0 {
                    self.overlap(node.plus, rest, false);
                }
                for (child, value) in self.substitutes(node) {
                    if value.is_none_or(|value| value == level) {
                        self.overlap(child, rest, false);
                    }
                }
            }
        }
    }

    /// The edges `%u` and `%c` of a node, with the text that fits.
    #[inline]
    fn substitutes(&self, node: &Node) -> impl Iterator<Item = (u32, Option<&'a str>)> + use<'a> {
        let both =
            [(node.user, self.subject.user.as_deref()), (node.client, self.subject.client_id.as_deref())];
        both.into_iter().filter(|(child, _)| *child != 0)
    }

    #[inline]
    fn take(&mut self, heads: &Heads, deny_only: bool) {
        let mut ignored = NONE;
        let allow = if deny_only { &mut ignored } else { &mut self.allow };
        heads.lower(&self.subject.classes, allow, &mut self.deny);
    }

    fn take_allow(&mut self, heads: &Heads) {
        heads.lower(&self.subject.classes, &mut self.allow, &mut { NONE });
    }

    fn take_deny(&mut self, heads: &Heads) {
        heads.lower(&self.subject.classes, &mut { NONE }, &mut self.deny);
    }
}

/// Whether a user or client identifier can stand for `%u` or `%c`: it must mean one level's text and nothing more.
pub(super) fn can_stand_in_a_level(value: &str) -> bool {
    !value.is_empty() && !value.starts_with('$') && !value.contains(['+', '#', '/', '\0'])
}

fn split_level(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (text, None),
    }
}
