//! The index agrees with the rules read one by one, and both with what filters mean.

use proptest::prelude::*;

use super::explain::{covers, overlaps};
use super::*;

fn rule(text: &str) -> Rule {
    let mut words: Vec<&str> = text.split(' ').collect();
    let filter = RuleFilter::new(words.pop().unwrap()).unwrap();
    let actions = match words.pop().unwrap() {
        "publish" => Actions::Publish,
        "subscribe" => Actions::Subscribe,
        "all" => Actions::All,
        other => panic!("{other}"),
    };
    let mut who = Who::default();
    for word in &words[1..] {
        match word.split_once('=') {
            Some(("user", user)) => who.user = Some(user.into()),
            Some(("client", client_id)) => who.client_id = Some(client_id.into()),
            _ => {
                who.standing = match *word {
                    "anonymous" => Standing::Anonymous,
                    "authenticated" => Standing::Authenticated,
                    "certificate" => Standing::Certificate,
                    other => panic!("{other}"),
                }
            }
        }
    }
    let effect = if words[0] == "allow" { Effect::Allow } else { Effect::Deny };
    Rule { effect, who, actions, filter, origin: Origin { file: "acl".into(), line: 1 } }
}

fn rules(lines: &[&str]) -> Ruleset {
    Ruleset::new(lines.iter().map(|line| rule(line)).collect(), Effect::Deny)
}

const fn named<'a>(user: &'a str, client_id: &'a str) -> Identity<'a> {
    Identity { user: Some(user), client_id, certificate: false, by_edge: false }
}

#[track_caller]
fn check(
    set: &Ruleset,
    identity: Identity<'_>,
    action: Action,
    topic: &str,
    expected: (Effect, Option<usize>),
) {
    let subject = set.subject(identity);
    let found = match action {
        Action::Publish => set.may_publish(&subject, topic),
        Action::Subscribe => set.may_subscribe(&subject, topic),
    };
    assert_eq!((found.effect, found.rule), expected, "{identity:?} {action} {topic}");
    assert_eq!(set.explain(identity, action, topic).decision, found, "{identity:?} {action} {topic}");
}

#[test]
fn the_first_rule_that_fits_decides() {
    use {Action::*, Effect::*};
    let set =
        rules(&["deny publish a/secret", "allow user=u publish a/#", "deny publish a/#", "allow all #"]);
    check(&set, named("u", "c"), Publish, "a/x", (Allow, Some(1)));
    check(&set, named("u", "c"), Publish, "a/secret", (Deny, Some(0)));
    check(&set, named("v", "c"), Publish, "a/x", (Deny, Some(2)));
    check(&set, named("v", "c"), Publish, "b", (Allow, Some(3)));
    check(&set, named("v", "c"), Subscribe, "a/x", (Allow, Some(3)));
    check(&set, named("v", "c"), Publish, "$SYS/x", (Deny, None));
}

#[test]
fn conditions_hold_together() {
    use {Action::*, Effect::*};
    let set = rules(&[
        "allow user=u client=c all both",
        "allow anonymous all nobody",
        "allow authenticated all somebody",
        "allow certificate all shown",
        "allow client=c all mine",
    ]);
    let anonymous = Identity { user: None, client_id: "c", certificate: false, by_edge: false };
    let certificate = Identity { certificate: true, ..named("u", "d") };
    check(&set, named("u", "c"), Publish, "both", (Allow, Some(0)));
    check(&set, named("u", "d"), Publish, "both", (Deny, None));
    check(&set, anonymous, Publish, "nobody", (Allow, Some(1)));
    check(&set, named("u", "c"), Publish, "nobody", (Deny, None));
    check(&set, named("u", "c"), Publish, "somebody", (Allow, Some(2)));
    check(&set, anonymous, Publish, "somebody", (Deny, None));
    check(&set, certificate, Publish, "shown", (Allow, Some(3)));
    check(&set, named("u", "d"), Publish, "shown", (Deny, None));
    check(&set, anonymous, Subscribe, "mine", (Allow, Some(4)));
}

#[test]
fn a_value_never_widens_a_rule() {
    use {Action::*, Effect::*};
    let set = rules(&["allow all dev/%u/#", "allow all own/%c", "allow all %u/x"]);
    check(&set, named("u", "c"), Publish, "dev/u/x", (Allow, Some(0)));
    check(&set, named("u", "c"), Publish, "own/c", (Allow, Some(1)));
    check(&set, named("u", "c"), Publish, "dev/v/x", (Deny, None));
    check(&set, named("u", "c"), Publish, "dev/%u/x", (Deny, None));
    for user in ["+", "#", "u/v", "", "$SYS", "a+"] {
        for topic in ["dev/v/x", "dev/+/x", "dev/u/v", "dev/u/v/x", "dev//x", "dev/$SYS/x", "$SYS/x"] {
            if !topic.contains('+') {
                check(&set, named(user, "c"), Publish, topic, (Deny, None));
            }
            check(&set, named(user, "c"), Subscribe, topic, (Deny, None));
        }
        check(&set, named(user, "c"), Subscribe, "dev/#", (Deny, None));
        check(&set, named("u", user), Subscribe, "own/+", (Deny, None));
    }
    let anonymous = Identity { user: None, client_id: "c", certificate: false, by_edge: false };
    check(&set, anonymous, Publish, "dev//x", (Deny, None));
}

#[test]
fn a_value_that_cannot_stand_in_a_level_is_denied_everywhere_there() {
    use {Action::*, Effect::*};
    let set = rules(&["deny all dev/%u/config", "allow all dev/#"]);
    check(&set, named("u", "c"), Publish, "dev/u/config", (Deny, Some(0)));
    check(&set, named("u", "c"), Publish, "dev/v/config", (Allow, Some(1)));
    check(&set, named("a/b", "c"), Publish, "dev/v/config", (Deny, Some(0)));
    check(&set, named("a/b", "c"), Subscribe, "dev/v/config", (Deny, Some(0)));
    check(&set, named("a/b", "c"), Publish, "dev/v/x", (Allow, Some(1)));
}

#[test]
fn a_subscription_must_be_covered_whole() {
    use {Action::*, Effect::*};
    let set =
        rules(&["allow all a/public/#", "deny all a/+/secret", "allow all a/#", "deny subscribe $SYS/x"]);
    for (filter, expected) in [
        ("a/public/#", (Allow, Some(0))),
        ("a/public", (Allow, Some(0))),
        ("a/public/+/secret", (Allow, Some(0))),
        ("a/b/secret", (Deny, Some(1))),
        ("a/b/+", (Deny, Some(1))),
        ("a/#", (Deny, Some(1))),
        ("#", (Deny, Some(1))),
        ("+/#", (Deny, Some(1))),
        ("a/+", (Allow, Some(2))),
        ("a/b/c/d", (Allow, Some(2))),
        ("b", (Deny, None)),
        ("+", (Deny, None)),
        ("$SYS/#", (Deny, Some(3))),
        ("$SYS/y", (Deny, None)),
    ] {
        check(&set, named("u", "c"), Subscribe, filter, expected);
    }
}

#[test]
fn names_with_a_dollar_need_a_rule_that_names_them() {
    use {Action::*, Effect::*};
    let set = rules(&["allow all #", "allow all +/x", "allow subscribe $SYS/broker/#"]);
    check(&set, named("u", "c"), Subscribe, "#", (Allow, Some(0)));
    check(&set, named("u", "c"), Subscribe, "$SYS/#", (Deny, None));
    check(&set, named("u", "c"), Subscribe, "$SYS/broker/#", (Allow, Some(2)));
    check(&set, named("u", "c"), Publish, "$SYS/x", (Deny, None));
    let open = Ruleset::new(vec![rule("deny all $SYS/#")], Effect::Allow);
    check(&open, named("u", "c"), Subscribe, "#", (Allow, None));
    check(&open, named("u", "c"), Subscribe, "+/#", (Allow, None));
    check(&open, named("u", "c"), Subscribe, "$SYS/#", (Deny, Some(0)));
}

#[test]
fn a_rule_behind_its_like_is_shadowed() {
    let set =
        rules(&["allow all a", "deny publish a", "deny user=u publish a", "deny all a", "allow publish b"]);
    assert_eq!(set.shadowed(), [(1, 0), (3, 0)]);
}

fn level() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("a"), 2 => Just("b"), 1 => Just(""), 1 => Just("$s")]
}

fn any_filter(extra: &'static [&'static str]) -> impl Strategy<Value = String> {
    let wild = prop_oneof![3 => level(), 2 => Just("+"), 1 => proptest::sample::select(extra)];
    (proptest::collection::vec(wild, 1..4), any::<bool>()).prop_filter_map("empty", |(mut levels, hash)| {
        if hash {
            levels.push("#");
        }
        Some(levels.join("/")).filter(|text| !text.is_empty())
    })
}

fn any_name() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&["a", "b", "", "+", "a/b", "$s", "#"][..])
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let effect = prop_oneof![Just(Effect::Allow), Just(Effect::Deny)];
    let actions = prop_oneof![Just(Actions::Publish), Just(Actions::Subscribe), Just(Actions::All)];
    let standing = prop_oneof![
        3 => Just(Standing::Anyone),
        1 => Just(Standing::Anonymous),
        1 => Just(Standing::Authenticated),
        1 => Just(Standing::Certificate)
    ];
    let name = || proptest::option::weighted(0.3, any_name());
    (effect, actions, standing, name(), name(), any_filter(&["%u", "%c"])).prop_map(
        |(effect, actions, standing, user, client_id, filter)| Rule {
            effect,
            who: Who { user: user.map(Into::into), client_id: client_id.map(Into::into), standing },
            actions,
            filter: RuleFilter::new(&filter).unwrap(),
            origin: Origin { file: "acl".into(), line: 1 },
        },
    )
}

fn any_identity() -> impl Strategy<Value = (Option<&'static str>, &'static str, bool)> {
    (proptest::option::of(any_name()), any_name(), any::<bool>())
}

/// Every name of up to four levels over the alphabet of the filters.
fn all_names() -> Vec<String> {
    let mut names: Vec<String> = ["a", "b", "", "$s", "other"].map(str::to_owned).into();
    let mut longer = names.clone();
    for _ in 0..3 {
        longer = longer
            .iter()
            .flat_map(|name| ["a", "b", "", "$s", "other"].map(|level| format!("{name}/{level}")))
            .collect();
        names.extend_from_slice(&longer);
    }
    names.retain(|name| !name.is_empty());
    names
}

proptest! {
    #[test]
    fn covering_and_overlapping_mean_what_filters_match(pattern in any_filter(&["+"]), filter in any_filter(&["+"])) {
        let mut names = all_names();
        names.push(String::new()); // no name, but `/#` and `+` would meet there
        let matched = |name: &&String| model::filter_matches(&filter, name);
        let both = names.iter().filter(matched).any(|name| model::filter_matches(&pattern, name));
        prop_assert_eq!(overlaps(&pattern, &filter), both);
        let whole = names.iter().filter(matched).all(|name| model::filter_matches(&pattern, name));
        prop_assert!(!covers(&pattern, &filter) || whole, "it never says yes too early");
        let equal_to_hash = pattern.ends_with("+/#") && filter.ends_with('#');
        prop_assert!(covers(&pattern, &filter) || !whole || equal_to_hash, "nor no without need");
    }

    #[test]
    fn the_index_agrees_with_the_rules_read_one_by_one(
        rules in proptest::collection::vec(any_rule(), 0..30),
        open in any::<bool>(),
        (user, client_id, certificate) in any_identity(),
        names in proptest::collection::vec(proptest::collection::vec(level(), 1..4), 1..20),
        filters in proptest::collection::vec(any_filter(&["+"]), 1..20),
    ) {
        let set = Ruleset::new(rules, if open { Effect::Allow } else { Effect::Deny });
        let identity = Identity { user, client_id, certificate, by_edge: false };
        let subject = set.subject(identity);
        for name in names.into_iter().map(|levels| levels.join("/")).filter(|name| !name.is_empty()) {
            let expected = set.explain(identity, Action::Publish, &name).decision;
            prop_assert_eq!(set.may_publish(&subject, &name), expected, "{}", name);
        }
        for filter in filters {
            let expected = set.explain(identity, Action::Subscribe, &filter).decision;
            prop_assert_eq!(set.may_subscribe(&subject, &filter), expected, "{}", filter);
        }
    }

    /// Deliveries need no check: nothing that a granted filter matches is forbidden.
    #[test]
    fn a_granted_filter_matches_no_forbidden_topic(
        rules in proptest::collection::vec(any_rule(), 0..12),
        open in any::<bool>(),
        (user, client_id, certificate) in any_identity(),
        filter in any_filter(&["+"]),
    ) {
        let set = Ruleset::new(rules, if open { Effect::Allow } else { Effect::Deny });
        let identity = Identity { user, client_id, certificate, by_edge: false };
        prop_assume!(set.may_subscribe(&set.subject(identity), &filter).effect == Effect::Allow);
        for name in all_names().iter().filter(|name| model::filter_matches(&filter, name)) {
            let single = set.explain(identity, Action::Subscribe, name).decision;
            prop_assert_eq!(single.effect, Effect::Allow, "{} by {}", name, filter);
        }
    }
}

#[test]
fn what_a_client_shows_decides_how_it_comes_in() {
    let peer = |user: Option<&str>| Peer { certificate_user: user.map(Into::into), ..Peer::default() };
    let hello = |name: Option<&str>| {
        let mut connect = Connect::new(wire::Version::V5, "c");
        connect.user_name = name.map(str::to_owned);
        connect
    };
    let with = |anonymous, users: bool| Access {
        users: users.then(|| [("u".into(), 1)].into_iter().collect()),
        ..Access::open(anonymous)
    };
    let bad = Admission::Refused(ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    let never = Admission::Refused(ReasonCode::NOT_AUTHORIZED);
    for (certificate, name, anonymous, users, expected) in [
        (Some("u"), None, false, false, Admission::Certificate),
        (Some("u"), Some("u"), false, true, Admission::Certificate),
        (Some("u"), Some("v"), true, true, bad),
        (None, Some("u"), false, true, Admission::Ask),
        (None, Some("u"), true, true, Admission::Ask),
        (None, Some("u"), true, false, Admission::Anonymous),
        (None, Some("u"), false, false, bad),
        (None, None, true, true, Admission::Anonymous),
        (None, None, false, true, never),
        (None, None, false, false, never),
    ] {
        let found = with(anonymous, users).admit(&peer(certificate), &hello(name));
        assert_eq!(found, expected, "{certificate:?} {name:?} {anonymous} {users}");
    }
}

#[test]
fn each_listener_asks_for_itself_and_the_last_one_for_those_beyond() {
    let of = |anonymous, packet_bytes_max| ListenerAccess { anonymous, packet_bytes_max, identities: false };
    let listeners = vec![of(true, Some(200)), of(false, None), of(true, Some(u32::MAX))];
    let access = Access { listeners, ..Access::open(false) };
    let limits = Limits { packet_bytes_max: 1_000, ..Limits::DEFAULT };
    for (listener, anonymous, bytes) in
        [(0, true, 200), (1, false, 1_000), (2, true, 1_000), (9, true, 1_000)]
    {
        let peer = Peer { listener, ..Peer::default() };
        let refused = Admission::Refused(ReasonCode::NOT_AUTHORIZED);
        let expected = if anonymous { Admission::Anonymous } else { refused };
        assert_eq!(access.admit(&peer, &Connect::new(wire::Version::V5, "c")), expected, "{listener}");
        assert_eq!(access.packet_bytes_max(listener, &limits), bytes, "{listener}");
    }
}
