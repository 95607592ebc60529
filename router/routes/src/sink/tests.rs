//! Topics from templates.

use model::{Property, Qos};

use super::*;

#[track_caller]
fn check(template: &str, expected: Result<&str, RenderError>) {
    let properties =
        [Property { name: "Severity", value: Some("high") }, Property { name: "wild", value: Some("+") }];
    let system = [Property { name: "connectionDeviceId", value: Some("$dev") }];
    let message = Message {
        properties: &properties,
        system: &system,
        client_id: "c1",
        qos: Qos::AtLeastOnce,
        ..Message::new("site/line/7", b"")
    };
    let template = TopicTemplate::parse(template).unwrap();
    let mut topic = String::from("rubbish");
    assert_eq!(template.render(&message, &mut topic).map(|()| topic.as_str()), expected);
}

#[test]
fn holes_take_levels_fields_and_properties() {
    check("alerts/{$topic[1]}/{severity}", Ok("alerts/line/high"));
    check("c/{$clientId}/q{$qos}/{$retain}", Ok("c/c1/q1/false"));
    check("copy/{$topic}", Ok("copy/site/line/7"));
    check("d/{$connectionDeviceId}", Ok("d/$dev"));
    check("plain", Ok("plain"));
}

#[test]
fn what_the_message_lacks_is_named() {
    check("a/{$topic[3]}", Err(RenderError::Missing("$topic[3]".into())));
    check("a/{nothing}", Err(RenderError::Missing("nothing".into())));
    check("a/{$user}", Err(RenderError::Missing("$user".into())));
}

#[test]
fn a_value_cannot_smuggle_in_a_wildcard_or_a_reserved_topic() {
    check("a/{wild}", Err(RenderError::Invalid(InvalidTopic::WildcardInName)));
    check("{$connectionDeviceId}/x", Err(RenderError::Reserved));
}

#[test]
fn a_bad_template_is_refused() {
    for template in ["", "a/+/b", "a/{x", "a/{}", "a/{$topic[x]}", "a/{$body.x}", "a/{$}"] {
        assert!(TopicTemplate::parse(template).is_err(), "{template}");
    }
}
