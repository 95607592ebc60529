//! A rule as an operator wrote it: who may do what where.
//!
//! In: the words of one line. Out: a [`Rule`] that is known to be good, or what is wrong with it.
//! Knows: topic filters with `%u` and `%c`. Never: files, other rules.

use std::fmt;
use std::sync::Arc;

use model::InvalidTopic;

/// Most levels of a rule's filter: the index is walked level by level, on the stack.
const LEVELS_MAX: usize = 128;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it decides.
    pub effect: Effect,
    /// About whom.
    pub who: Who,
    /// About what.
    pub actions: Actions,
    /// Where.
    pub filter: RuleFilter,
    /// Where it was written.
    pub origin: Origin,
}

/// What a rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// What a client wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Publish to a topic name; a Will is a publication too.
    Publish,
    /// Subscribe to a topic filter.
    Subscribe,
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actions {
    /// Publishing alone.
    Publish,
    /// Subscribing alone.
    Subscribe,
    /// Both.
    All,
}

impl Actions {
    /// Whether `action` is among them.
    pub const fn covers(self, action: Action) -> bool {
        matches!(
            (self, action),
            (Actions::All, _) | (Actions::Publish, Action::Publish) | (Actions::Subscribe, Action::Subscribe)
        )
    }
}

/// Whom a rule is about: every condition must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Who {
    /// Only this user.
    pub user: Option<Box<str>>,
    /// Only this client identifier.
    pub client_id: Option<Box<str>>,
    /// How the client must have shown who it is.
    pub standing: Standing,
}

/// How a client showed who it is, as a rule may ask for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Does not matter.
    #[default]
    Anyone,
    /// Not at all.
    Anonymous,
    /// By a password or a certificate.
    Authenticated,
    /// By a certificate.
    Certificate,
}

/// Where a rule was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file, as the configuration names it.
    pub file: Arc<str>,
    /// The line, from 1; 0 if there are no lines.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// A topic filter in which a whole level may be `%u` (the user) or `%c` (the client identifier).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleFilter(Box<str>);

/// One level of such a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level<'a> {
    /// As it is.
    Text(&'a str),
    /// `+`
    Plus,
    /// `#`
    Hash,
    /// `%u`
    User,
    /// `%c`
    Client,
}

impl<'a> Level<'a> {
    pub(super) fn of(text: &'a str) -> Level<'a> {
        match text {
            "+" => Level::Plus,
            "#" => Level::Hash,
            "%u" => Level::User,
            "%c" => Level::Client,
            _ => Level::Text(text),
        }
    }
}

/// Why a text is no filter of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRuleFilter {
    /// It is no topic filter.
    #[error(transparent)]
    Topic(#[from] InvalidTopic),
    /// `%u` or `%c` is only a part of its level.
    #[error("'%u' and '%c' must stand alone in their level")]
    PartOfLevel,
    /// A share name says nothing about topics.
    #[error("a rule is about topics: '$share/NAME/FILTER' is checked as FILTER")]
    Shared,
    /// See [`LEVELS_MAX`].
    #[error("it has more than 128 levels")]
    TooDeep,
}

impl RuleFilter {
    /// Checks `text`.
    pub fn new(text: &str) -> Result<RuleFilter, InvalidRuleFilter> {
        model::validate_filter(text)?;
        if text.starts_with("$share/") {
            return Err(InvalidRuleFilter::Shared);
        }
        if text.split('/').count() > LEVELS_MAX {
            return Err(InvalidRuleFilter::TooDeep);
        }
        let is_part = |level: &str| level.len() > 2 && (level.contains("%u") || level.contains("%c"));
        if text.split('/').any(is_part) {
            return Err(InvalidRuleFilter::PartOfLevel);
        }
        Ok(RuleFilter(text.into()))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn levels(&self) -> impl Iterator<Item = Level<'_>> {
        self.0.split('/').map(Level::of)
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Publish => "publish",
            Action::Subscribe => "subscribe",
        })
    }
}

impl fmt::Display for Rule {
    /// As it could be written in a file of rules.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.effect)?;
        if let Some(user) = &self.who.user {
            write!(f, " user={}", Word(user))?;
        }
        if let Some(client_id) = &self.who.client_id {
            write!(f, " client={}", Word(client_id))?;
        }
        f.write_str(match self.who.standing {
            Standing::Anyone => "",
            Standing::Anonymous => " anonymous",
            Standing::Authenticated => " authenticated",
            Standing::Certificate => " certificate",
        })?;
        f.write_str(match self.actions {
            Actions::Publish => " publish ",
            Actions::Subscribe => " subscribe ",
            Actions::All => " all ",
        })?;
        write!(f, "{}", self.filter.as_str())
    }
}

/// A name, in quotes if it has blanks.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(char::is_whitespace) { write!(f, "\"{}\"", self.0) } else { f.write_str(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_topic_filter_with_whole_substitutes() {
        for good in ["a", "a/+/b", "#", "%u/#", "a/%c", "$SYS/#", "a b/%", "100%", "/", "%U"] {
            assert!(RuleFilter::new(good).is_ok(), "{good}");
        }
        let bad = [
            ("", InvalidRuleFilter::Topic(InvalidTopic::Empty)),
            ("a/#/b", InvalidRuleFilter::Topic(InvalidTopic::MisplacedHash)),
            ("a+", InvalidRuleFilter::Topic(InvalidTopic::MisplacedPlus)),
            ("a/dev-%u", InvalidRuleFilter::PartOfLevel),
            ("%u%c/a", InvalidRuleFilter::PartOfLevel),
            ("$share/g/a", InvalidRuleFilter::Shared),
        ];
        for (text, error) in bad {
            assert_eq!(RuleFilter::new(text), Err(error), "{text}");
        }
        assert_eq!(RuleFilter::new(&["a"; 129].join("/")), Err(InvalidRuleFilter::TooDeep));
    }
}
