//! Question: does a check stay flat when rules are added, and what does a subscription cost?
//!
//! Input: rules of 10 to 10 000 different users and topics, of which two concern the client. Unit: nanoseconds per check,
//! the best of many short windows. Noise: about ±10 % on a shared machine.
//! Run: `cargo test --release -p millrace-broker --test access_figures -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use broker::access::{Actions, Effect, Identity, Origin, Rule, RuleFilter, Ruleset, Who};

fn rule(user: Option<String>, actions: Actions, filter: &str) -> Rule {
    Rule {
        effect: Effect::Allow,
        who: Who { user: user.map(String::into_boxed_str), ..Who::default() },
        actions,
        filter: RuleFilter::new(filter).expect("a filter"),
        origin: Origin { file: "acl".into(), line: 1 },
    }
}

/// Half of the rules are about topics of their own, half about one topic that many users share.
fn rules(count: usize) -> Ruleset {
    let mut rules: Vec<Rule> = (0..count)
        .map(|number| match number % 2 {
            0 => rule(Some(format!("u{number}")), Actions::All, &format!("plant/line{number}/+/state")),
            _ => rule(Some(format!("u{number}")), Actions::Publish, "plant/shared/#"),
        })
        .collect();
    rules.push(rule(None, Actions::All, "devices/%u/#"));
    Ruleset::new(rules, Effect::Deny)
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn best(mut check: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..300 {
        let start = now();
        (0..200).for_each(|_| check());
        best = best.min(start.elapsed().as_nanos() as f64 / 200.0);
    }
    best
}

#[test]
#[ignore = "a measurement, for a release build and a quiet machine"]
fn figures() {
    for count in [10, 1_000, 10_000] {
        let set = rules(count);
        let subject =
            set.subject(Identity { user: Some("u3"), client_id: "c", certificate: false, by_edge: false });
        for (topic, effect) in [
            ("plant/shared/a/b", Effect::Allow),
            ("devices/u3/state", Effect::Allow),
            ("plant/line2/x/state", Effect::Deny),
        ] {
            assert_eq!(set.may_publish(&subject, topic).effect, effect, "{topic}");
            let nanos = best(|| {
                black_box(set.may_publish(black_box(&subject), black_box(topic)));
            });
            println!("{count:>6} rules  publish {topic:<22} {nanos:>6.0} ns");
        }
        for filter in ["devices/u3/#", "#"] {
            let nanos = best(|| {
                black_box(set.may_subscribe(black_box(&subject), black_box(filter)));
            });
            println!("{count:>6} rules  subscribe {filter:<20} {nanos:>6.0} ns");
        }
    }
}
