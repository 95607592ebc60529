//! Topics with holes: how they are filled, and what is wrong with some.

use model::Qos;
use proptest::prelude::*;

use super::*;

fn envelope(properties: &[u8]) -> Envelope<'_> {
    let qos = Qos::AtLeastOnce;
    Envelope {
        user: "line-a",
        topic: "site/line1/press7/temp",
        client_id: "press7",
        qos,
        retain: false,
        properties,
        payload: b"",
    }
}

#[track_caller]
fn check(template: &str, expected: Result<&str, Hole>) {
    let mut block = wire::BlockBuilder::new();
    block.content_type("application/json").and_then(|it| it.user("tenant", "north")).expect("short");
    let envelope = envelope(block.as_bytes());
    let mut out = String::new();
    let fields = Fields { envelope: &envelope, gateway: "gw1" };
    let rendered = Template::parse(template).expect("a template").render(&fields, &mut out);
    assert_eq!(rendered.map(|()| &*out), expected, "{template}");
}

#[test]
fn holes_are_filled_from_the_message() {
    check("{topic}", Ok("site/line1/press7/temp"));
    check("a/{topic[1]}/{$topic[0]}", Ok("a/line1/site"));
    check("{topic[2..]}", Ok("press7/temp"));
    check("{topic[0..]}", Ok("site/line1/press7/temp"));
    check("{user}/{$user|x}", Ok("line-a/line-a"));
    check("{gateway}/{clientId}/{{x}}", Ok("gw1/press7/{x}"));
    check("{property:tenant}/{contentType}", Ok("north/application/json"));
}

#[test]
fn a_hole_without_a_value_is_named_or_has_its_other_text() {
    check("a/{topic[9]}", Err(Hole::Level));
    check("a/{topic[9..]}", Err(Hole::Level));
    check("a/{property:line}", Err(Hole::Property));
    check("a/{property:line|unknown}/b", Ok("a/unknown/b"));
}

#[test]
fn whoever_is_anonymous_has_no_user() {
    let envelope = Envelope { user: "", ..envelope(&[]) };
    let fields = Fields { envelope: &envelope, gateway: "gw1" };
    let template = Template::parse("a/{user}").expect("a template");
    assert!(template.asks_for_user() && !Template::parse("{topic}").expect("a template").asks_for_user());
    assert_eq!(template.render(&fields, &mut String::new()), Err(Hole::User));
}

#[test]
fn mistakes_are_told_apart() {
    for (text, wrong) in [
        ("", InvalidTemplate::Empty),
        ("a/{topic", InvalidTemplate::Open),
        ("a}", InvalidTemplate::Closed),
        ("a/+/b", InvalidTemplate::Wildcard),
        ("{topic|#}", InvalidTemplate::Wildcard),
        ("{topics}", InvalidTemplate::Unknown("topics".into())),
        ("{topic[x]}", InvalidTemplate::Unknown("topic[x]".into())),
        ("{property:}", InvalidTemplate::Unknown("property:".into())),
    ] {
        assert_eq!(Template::parse(text), Err(wrong), "{text:?}");
    }
}

#[test]
fn an_image_is_a_filter_for_whatever_a_template_becomes() {
    let image = |text: &str| Template::parse(text).expect("a template").image("up/");
    assert_eq!(image("a/b"), "up/a/b");
    assert_eq!(image("a/b{clientId}"), "up/a/#");
    assert_eq!(image("{topic}"), "up/#");
    assert_eq!(Template::parse("{topic}").expect("a template").image(""), "#");
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "+"]);
    (prop::collection::vec(level, 1..4), any::<bool>())
        .prop_map(|(levels, hash)| levels.join("/") + if hash { "/#" } else { "" })
}

proptest! {
    /// Compared with every topic of up to five levels.
    #[test]
    fn filters_meet_exactly_if_some_topic_matches_both(one in filter(), other in filter()) {
        let mut topics = vec![String::new()];
        let mut found = false;
        for _ in 0..5 {
            topics = topics.iter().flat_map(|topic| ["a", "b"].map(|level| format!("{topic}{level}/"))).collect();
            found |= topics.iter().map(|topic| topic.trim_end_matches('/')).any(|topic| {
                model::filter_matches(&one, topic) && model::filter_matches(&other, topic)
            });
        }
        prop_assert_eq!(filters_meet(&one, &other), found);
    }
}
