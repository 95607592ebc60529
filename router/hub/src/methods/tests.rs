//! Tests of `methods`: bodies, outcomes, correlation by hand-moved time.

use super::*;

#[track_caller]
fn refused(body: &str, expected: &str) {
    let error = Call::parse(body.as_bytes()).expect_err("refused");
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn calls_that_parse() {
    let body = br#"{"methodName":"x","payload": {"a": [1, 2]},"responseTimeoutInSeconds":5,"connectTimeoutInSeconds":300}"#;
    let call = Call::parse(body).expect("a call");
    let expected = Call {
        name: "x".to_owned(),
        payload: r#"{"a":[1,2]}"#.to_owned(),
        response_millis: 5_000,
        connect_millis: 300_000,
    };
    assert_eq!(call, expected);
    let plain = Call::parse(br#"{"methodName":"x","unknown":1}"#).expect("a call");
    assert_eq!((plain.payload.as_str(), plain.response_millis, plain.connect_millis), ("null", 30_000, 0));
    let cloud = Call::from_cloud("reboot", b"{\"delay\":1}").expect("a call");
    assert_eq!((cloud.payload.as_str(), cloud.response_millis), ("{\"delay\":1}", 330_000));
}

#[test]
fn calls_that_do_not() {
    refused("", "not a method call");
    refused("[1]", "not a method call");
    refused(r#"{"payload":1}"#, "methodName");
    refused(r#"{"methodName":""}"#, "methodName");
    refused(r#"{"methodName":"  "}"#, "methodName");
    refused(r#"{"methodName":"a/b"}"#, "methodName");
    refused(r#"{"methodName":"a#"}"#, "methodName");
    refused(r#"{"methodName":7}"#, "not a method call");
    refused(&format!(r#"{{"methodName":"{}"}}"#, "n".repeat(101)), "methodName");
    refused(r#"{"methodName":"x","responseTimeoutInSeconds":4}"#, "4 is not 5 to 300");
    refused(r#"{"methodName":"x","responseTimeoutInSeconds":301}"#, "301 is not");
    refused(r#"{"methodName":"x","connectTimeoutInSeconds":-1}"#, "-1 is not 0 to 300");
    refused(r#"{"methodName":"x","connectTimeoutInSeconds":301}"#, "301 is not 0 to 300");
    let large = format!(r#"{{"methodName":"x","payload":"{}"}}"#, "p".repeat(PAYLOAD_BYTES_MAX));
    refused(&large, "131074 bytes");
    assert_eq!(Call::from_cloud("a/b", b""), Err(CallError::Name));
}

#[test]
fn outcomes_for_the_caller() {
    let http = |outcome: Outcome| {
        let (status, body) = outcome.to_http("gw1/m");
        (status, String::from_utf8(body).expect("UTF-8"))
    };
    let answered = Outcome::of_answer("201", br#"{"ok":true}"#);
    assert_eq!(http(answered.clone()), (200, r#"{"payload":{"ok":true},"status":201}"#.to_owned()));
    assert_eq!(answered.to_cloud(), (201, br#"{"ok":true}"#.to_vec()));
    assert_eq!(http(Outcome::of_answer("200", b"")), (200, r#"{"payload":null,"status":200}"#.to_owned()));
    assert_eq!(http(Outcome::of_answer("200", b"hi")), (200, r#"{"payload":"hi","status":200}"#.to_owned()));
    let unreadable = Outcome::of_answer("ok", b"{}");
    assert_eq!(unreadable, Outcome::Answered { status: 400_000, payload: Vec::new() });
    assert_eq!(http(Outcome::NotFound), (404, r#"{"message":"Client gw1/m not found"}"#.to_owned()));
    assert_eq!(http(Outcome::TimedOut).0, 504);
    assert_eq!(Outcome::TimedOut.to_cloud(), (504, Vec::new()));
}

#[test]
fn an_answer_finds_its_call_once() {
    let mut calls = Calls::new(2);
    assert_eq!(calls.begin("1", "d1", Instant(10), "a"), Ok(()));
    assert_eq!(calls.begin("1", "d2", Instant(10), "b"), Err("b"), "in use");
    assert_eq!(calls.begin("2", "d2", Instant(20), "c"), Ok(()));
    assert_eq!(calls.begin("3", "d2", Instant(20), "d"), Err("d"), "full");
    assert_eq!(calls.answer("1", "d2"), None, "another client does not answer for it");
    assert_eq!(calls.answer("1", "d1"), Some("a"));
    assert_eq!(calls.answer("1", "d1"), None);
    assert_eq!(calls.expire(Instant(19)), Vec::<&str>::new());
    assert_eq!(calls.expire(Instant(20)), ["c"]);
    assert_eq!(calls.begin("4", "d3", Instant(30), "e"), Ok(()));
    assert_eq!(calls.abandon("d3"), ["e"]);
    assert!(calls.is_empty());
}
