//! `millrace authz explain`: what the rules say about one client and one topic, and why.
//!
//! In: a configuration, a client, an action. Out: the decision, the rule that decided with its place, the rules that came
//! close. Uses what the router itself decides by; the plain reading of the rules is only asked for the reasons.

use std::io::{self, Write};

use broker::access::{Action, Effect, Identity, Miss, Ruleset};
use model::TopicFilter;

use super::{AuthzAction, AuthzArgs, AuthzCommand, Exit, ExplainArgs};
use crate::config;

/// Rules shown besides the one that decided.
const NEAR_MAX: usize = 5;

/// Does what `args` ask. Exit code 0: allowed; 1: denied; 2: the question or the configuration is wrong.
pub fn authz(
    args: &AuthzArgs,
    env: impl Iterator<Item = (String, String)>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<Exit> {
    let AuthzCommand::Explain(args) = &args.command;
    let config = match config::load(&args.config, env) {
        Ok(config) => config,
        Err(errors) => {
            writeln!(err, "{errors}")?;
            return Ok(Exit::BadConfig);
        }
    };
    let action = match args.action {
        AuthzAction::Publish => Action::Publish,
        AuthzAction::Subscribe => Action::Subscribe,
    };
    let topic = match checked_topic(action, &args.topic) {
        Ok(topic) => topic,
        Err(fault) => {
            writeln!(err, "{:?}: {fault}", args.topic)?;
            return Ok(Exit::BadConfig);
        }
    };
    let Some(rules) = config.auth.ruleset() else {
        writeln!(out, "ALLOWED: there are no rules (auth.acl and auth.acl_file are not set)")?;
        return Ok(Exit::Done);
    };
    explain(&rules, args, action, &topic, out)
}

/// The topic without its share name.
fn checked_topic(action: Action, topic: &str) -> Result<String, model::InvalidTopic> {
    match action {
        Action::Publish => model::validate_name(topic).map(|()| topic.to_owned()),
        Action::Subscribe => TopicFilter::new(topic).map(|filter| filter.as_str().to_owned()),
    }
}

fn explain(
    rules: &Ruleset,
    args: &ExplainArgs,
    action: Action,
    topic: &str,
    out: &mut impl Write,
) -> io::Result<Exit> {
    let identity = Identity {
        user: args.user.as_deref(),
        client_id: &args.client,
        certificate: args.certificate,
        by_edge: false,
    };
    let subject = rules.subject(identity);
    let decision = match action {
        Action::Publish => rules.may_publish(&subject, topic),
        Action::Subscribe => rules.may_subscribe(&subject, topic),
    };
    let explanation = rules.explain(identity, action, topic);
    debug_assert_eq!(explanation.decision, decision, "the index agrees with the rules");
    let user = args.user.as_deref().map_or("an anonymous client".to_owned(), |user| format!("user {user:?}"));
    let answer = if decision.effect == Effect::Allow { "ALLOWED" } else { "DENIED" };
    writeln!(out, "{answer}: {user} with client identifier {:?}, {action} {topic:?}", args.client)?;
    match decision.rule {
        Some(number) => {
            let rule = &rules.rules()[number];
            writeln!(out, "  because of {}: {rule}", rule.origin)?;
        }
        None => {
            writeln!(out, "  because no rule fits and auth.acl_default = \"{}\"", rules.default_effect())?
        }
    }
    let first = decision.rule.unwrap_or(usize::MAX);
    let mut near: Vec<_> = explanation
        .findings
        .iter()
        .filter(|finding| finding.rule != first)
        .filter_map(|finding| Some((closeness(&finding.misses)?, finding)))
        .collect();
    near.sort_by_key(|(closeness, finding)| (std::cmp::Reverse(*closeness), finding.rule));
    if !near.is_empty() {
        writeln!(out, "  close:")?;
    }
    for (_, finding) in near.into_iter().take(NEAR_MAX) {
        let rule = &rules.rules()[finding.rule];
        writeln!(out, "    {}: {rule}", rule.origin)?;
        writeln!(out, "      {}", reason(&finding.misses, action))?;
    }
    Ok(if decision.effect == Effect::Allow { Exit::Done } else { Exit::Failed })
}

/// How close a rule came: only those that miss by one thing count, and a topic only if it begins alike.
fn closeness(misses: &[Miss]) -> Option<usize> {
    match misses {
        [] => Some(usize::MAX),
        [Miss::Topic { levels: 0 }] => None,
        [Miss::Topic { levels }] => Some(*levels),
        [_] => Some(1_000),
        _ => None,
    }
}

fn reason(misses: &[Miss], action: Action) -> String {
    match misses {
        [] => "fits too, but the rule above comes first".to_owned(),
        [Miss::User] => "is about another user".to_owned(),
        [Miss::ClientId] => "is about another client identifier".to_owned(),
        [Miss::Standing] => "is about clients that show who they are in another way".to_owned(),
        [Miss::Action] => format!("is not about {action}"),
        [Miss::Topic { levels }, ..] if action == Action::Subscribe => {
            format!("fits {levels} levels; an allow must cover the whole filter, a deny some of it")
        }
        [Miss::Topic { levels }, ..] => format!("fits {levels} levels of the topic"),
        _ => "misses by more than one thing".to_owned(),
    }
}
