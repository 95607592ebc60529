//! Rules as text: one line each, in the order in which they are asked.
//!
//! ```text
//! # effect, conditions, what, where
//! deny  anonymous            all        $SYS/#
//! allow user=press7          publish    plant/press7/#
//! allow                      subscribe  devices/%u/#
//! ```
//! In: a line or a file. Out: rules for the broker, or every mistake with its line. A line that starts with `#` is a
//! comment; nowhere else is one, for `#` is a wildcard.

use std::sync::Arc;

use broker::access::{Actions, Effect, Origin, Rule, RuleFilter, Standing, Who};

/// Why a line is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// The first word.
    #[error("a rule begins with allow or deny, not with {0:?}")]
    Effect(String),
    /// Neither condition nor action.
    #[error(
        "{0:?} is neither a condition (user=NAME, client=ID, anonymous, authenticated, certificate) nor what the rule is \
         about (publish, subscribe, all)"
    )]
    Word(String),
    /// Given twice, or two that exclude each other.
    #[error("{0} cannot hold together with the conditions before it")]
    Contradiction(String),
    /// Nothing behind `=`.
    #[error("{0} needs a name behind it, as in {0}NAME")]
    NoName(&'static str),
    /// A quote that is not closed.
    #[error("a quote is not closed")]
    Quote,
    /// The line ends too early.
    #[error("what the rule is about is missing: publish, subscribe or all, then a topic filter")]
    NoAction,
    /// No filter.
    #[error("the topic filter is missing")]
    NoFilter,
    /// The filter.
    #[error("topic filter {0:?}: {1}")]
    Filter(String, broker::access::InvalidRuleFilter),
}

/// Reads a file of rules. Lines are numbered from 1; every mistake is reported.
pub fn parse(file: &str, text: &str) -> (Vec<Rule>, Vec<(u32, AclError)>) {
    let file: Arc<str> = file.into();
    let (mut rules, mut errors) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let number = index as u32 + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_rule(line, Origin { file: Arc::clone(&file), line: number }) {
            Ok(rule) => rules.push(rule),
            Err(error) => errors.push((number, error)),
        }
    }
    (rules, errors)
}

/// Reads one rule.
pub fn parse_rule(line: &str, origin: Origin) -> Result<Rule, AclError> {
    let (word, mut rest) = next_word(line)?;
    let effect = match &*word {
        "allow" => Effect::Allow,
        "deny" => Effect::Deny,
        _ => return Err(AclError::Effect(word)),
    };
    let mut who = Who::default();
    let actions = loop {
        if rest.is_empty() {
            return Err(AclError::NoAction);
        }
        let (word, after) = next_word(rest)?;
        rest = after;
        match &*word {
            "publish" => break Actions::Publish,
            "subscribe" => break Actions::Subscribe,
            "all" => break Actions::All,
            _ => add_condition(&mut who, &word)?,
        }
    };
    let filter =
        rest.strip_prefix('"').map_or(Ok(rest), |inner| inner.strip_suffix('"').ok_or(AclError::Quote))?;
    if filter.is_empty() {
        return Err(AclError::NoFilter);
    }
    let filter = RuleFilter::new(filter).map_err(|error| AclError::Filter(filter.to_owned(), error))?;
    Ok(Rule { effect, who, actions, filter, origin })
}

fn add_condition(who: &mut Who, word: &str) -> Result<(), AclError> {
    let contradiction = || AclError::Contradiction(word.to_owned());
    if let Some(user) = word.strip_prefix("user=") {
        if who.user.is_some() || who.standing == Standing::Anonymous {
            return Err(contradiction());
        }
        who.user = Some(Some(user).filter(|user| !user.is_empty()).ok_or(AclError::NoName("user="))?.into());
        return Ok(());
    }
    if let Some(client_id) = word.strip_prefix("client=") {
        if who.client_id.is_some() {
            return Err(contradiction());
        }
        let client_id = Some(client_id).filter(|client_id| !client_id.is_empty());
        who.client_id = Some(client_id.ok_or(AclError::NoName("client="))?.into());
        return Ok(());
    }
    let standing = match word {
        "anonymous" => Standing::Anonymous,
        "authenticated" => Standing::Authenticated,
        "certificate" => Standing::Certificate,
        _ => return Err(AclError::Word(word.to_owned())),
    };
    if who.standing != Standing::Anyone || who.user.is_some() && standing == Standing::Anonymous {
        return Err(contradiction());
    }
    who.standing = standing;
    Ok(())
}

/// The first word, without its quotes, and what follows it. Blanks within quotes belong to the word.
fn next_word(text: &str) -> Result<(String, &str), AclError> {
    let mut word = String::new();
    let mut quoted = false;
    for (at, character) in text.char_indices() {
        match character {
            '"' => quoted = !quoted,
            _ if character.is_whitespace() && !quoted => return Ok((word, text[at..].trim_start())),
            _ => word.push(character),
        }
    }
    if quoted { Err(AclError::Quote) } else { Ok((word, "")) }
}
