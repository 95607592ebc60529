//! Why: the rules one by one, the plain way. Slow, and the oracle for the index.
//!
//! In: rules, a client, what it wants. Out: the rule that decides, and for each rule what keeps it from fitting.
//! Knows: the meaning of rules, written down a second time without the index, so that each can prove the other.

use super::index::{Decision, Identity, Ruleset, can_stand_in_a_level};
use super::rules::{Action, Effect, Level, Rule, RuleFilter, Standing, Who};

/// What keeps a rule from fitting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It is about another user.
    User,
    /// It is about another client identifier.
    ClientId,
    /// It is about clients that are known in another way.
    Standing,
    /// It is about something else than publishing or subscribing, whichever is asked.
    Action,
    /// Its filter does not fit.
    Topic {
        /// How many levels, from the left, do.
        levels: usize,
    },
}

/// What one rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub rule: usize,
    /// Everything that keeps it from fitting; nothing if it fits.
    pub misses: Vec<Miss>,
}

/// The answer with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The answer.
    pub decision: Decision,
    /// One finding for each rule, in order.
    pub findings: Vec<Finding>,
}

impl Ruleset {
    /// Says whether a client may do something, and why. `topic` is a topic name or filter, without a `$share` prefix.
    ///
    /// Cost: all rules, one after the other.
    pub fn explain(&self, identity: Identity<'_>, action: Action, topic: &str) -> Explanation {
        let finding = |(number, rule): (usize, &Rule)| Finding {
            rule: number,
            misses: misses(rule, identity, action, topic),
        };
        let findings: Vec<Finding> = self.rules().iter().enumerate().map(finding).collect();
        let first = findings.iter().find(|finding| finding.misses.is_empty()).map(|finding| finding.rule);
        let effect = first.map_or(self.default_effect(), |number| self.rules()[number].effect);
        Explanation { decision: Decision { effect, rule: first }, findings }
    }

    /// Rules that can never decide, each with an earlier one that always does before it: same people, no fewer
    /// actions, a filter that covers theirs. Only the nearest forms are seen; the list is not complete.
    pub fn shadowed(&self) -> Vec<(usize, usize)> {
        let mut seen: std::collections::HashMap<(&Who, &RuleFilter), Vec<usize>> = Default::default();
        let mut shadowed = Vec::new();
        for (number, rule) in self.rules().iter().enumerate() {
            let earlier = seen.entry((&rule.who, &rule.filter)).or_default();
            let covers = |other: &&usize| {
                [Action::Publish, Action::Subscribe].into_iter().all(|action| {
                    !rule.actions.covers(action) || self.rules()[**other].actions.covers(action)
                })
            };
            if let Some(by) = earlier.iter().find(covers) {
                shadowed.push((number, *by));
            }
            earlier.push(number);
        }
        shadowed
    }
}

fn misses(rule: &Rule, identity: Identity<'_>, action: Action, topic: &str) -> Vec<Miss> {
    let mut misses = who_misses(&rule.who, identity);
    if !rule.actions.covers(action) {
        misses.push(Miss::Action);
    }
    let pattern = substituted(rule, identity);
    let fits = match (&pattern, action, rule.effect) {
        (None, ..) => false,
        (Some(pattern), Action::Publish, _) => model::filter_matches(pattern, topic),
        (Some(pattern), Action::Subscribe, Effect::Allow) => covers(pattern, topic),
        (Some(pattern), Action::Subscribe, Effect::Deny) => overlaps(pattern, topic),
    };
    if !fits {
        let pattern = pattern.as_deref().unwrap_or(rule.filter.as_str());
        let same = |(wanted, level): &(&str, &str)| wanted == level || matches!(*wanted, "+" | "#");
        let levels = pattern.split('/').zip(topic.split('/')).take_while(same).count();
        misses.push(Miss::Topic { levels });
    }
    misses
}

fn who_misses(who: &Who, identity: Identity<'_>) -> Vec<Miss> {
    let mut misses = Vec::new();
    if who.user.is_some() && who.user.as_deref() != identity.user {
        misses.push(Miss::User);
    }
    if who.client_id.as_deref().is_some_and(|wanted| wanted != identity.client_id) {
        misses.push(Miss::ClientId);
    }
    let stands = match who.standing {
        Standing::Anyone => true,
        Standing::Anonymous => identity.user.is_none(),
        Standing::Authenticated => identity.user.is_some(),
        Standing::Certificate => identity.user.is_some() && identity.certificate,
    };
    if !stands {
        misses.push(Miss::Standing);
    }
    misses
}

/// The rule's filter for this client; `None` for an *allow* whose value cannot stand in a level. In a *deny*, such a
/// value stands for every text.
fn substituted(rule: &Rule, identity: Identity<'_>) -> Option<String> {
    let value = |value: Option<&str>| match value.filter(|value| can_stand_in_a_level(value)) {
        Some(value) => Some(value.to_owned()),
        None => (rule.effect == Effect::Deny).then(|| "+".to_owned()),
    };
    let levels = rule.filter.levels().map(|level| match level {
        Level::Text(text) => Some(text.to_owned()),
        Level::Plus => Some("+".to_owned()),
        Level::Hash => Some("#".to_owned()),
        Level::User => value(identity.user),
        Level::Client => value(Some(identity.client_id)),
    });
    levels.collect::<Option<Vec<_>>>().map(|levels| levels.join("/"))
}

/// Whether every topic name that `filter` matches is matched by `pattern` too, judged level by level.
///
/// `#` and `+/#` match the same names, which this does not see: it says no where it could say yes, never the other way.
pub(super) fn covers(pattern: &str, filter: &str) -> bool {
    if filter.starts_with('$') && pattern.starts_with(['+', '#']) {
        return false; // [MQTT-4.7.2-1]
    }
    let mut levels = filter.split('/');
    for wanted in pattern.split('/') {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some("#") | None => return false,
            Some("+") if wanted != "+" => return false,
            Some(level) if wanted != "+" && wanted != level => return false,
            Some(_) => {}
        }
    }
    levels.next().is_none()
}

/// Whether some topic name is matched by both.
pub(super) fn overlaps(pattern: &str, filter: &str) -> bool {
    let wild = |text: &str| text.starts_with(['+', '#']);
    if pattern.starts_with('$') && wild(filter) || filter.starts_with('$') && wild(pattern) {
        return false; // [MQTT-4.7.2-1]
    }
    let (mut left, mut right) = (pattern.split('/'), filter.split('/'));
    loop {
        match (left.next(), right.next()) {
            (None, None) | (Some("#"), _) | (_, Some("#")) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}
