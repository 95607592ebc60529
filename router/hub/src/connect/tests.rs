//! Tests of `connect`: the examples of `reference/edgehub.md` §2.3.

use super::*;

#[track_caller]
fn parsed(text: &str) -> UserName {
    parse_user_name(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn user_names_that_parse() {
    let device = parsed("h/d1/?api-version=2021-04-12");
    assert_eq!(
        (device.id.as_str(), device.api_version.as_str(), device.client_type),
        ("d1", "2021-04-12", None)
    );

    let module =
        parsed("h/d1/m1/?api-version=2018-06-30&DeviceClientType=py%2F2.1&model-id=dtmi%3Acom%3Ax%3B1");
    assert_eq!(module.id.as_str(), "d1/m1");
    assert_eq!(module.client_type.as_deref(), Some("py/2.1"));
    assert_eq!(module.model_id.as_deref(), Some("dtmi:com:x;1"));
    assert!(module.is_client("d1/m1") && !module.is_client("D1/m1") && !module.is_client("d1"));

    assert_eq!(parsed("h/d1/m1/api-version=2010-01-01&").id.as_str(), "d1/m1");
    assert_eq!(parsed("h/d1/api-version=2010-01-01").id.as_str(), "d1");
    assert_eq!(parsed("/d1/?api-version=x").id.as_str(), "d1");
    assert_eq!(parsed("h/d1/?unknown=1&api-version=a&api-version=b").api_version, "a");
    let preview =
        "h/d/m/api-version=2017-06-30/DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003";
    assert_eq!(parsed(preview).id.as_str(), "d/m");

    let nested = parsed("h/d1/?api-version=x&auth-chain=d1%3Bedge2%3Bgw1");
    let chain = nested.auth_chain.expect("a chain");
    assert_eq!((chain.target().as_str(), chain.actor().as_str(), chain.is_on_behalf()), ("d1", "gw1", true));
}

#[test]
fn user_names_that_do_not() {
    for text in [
        "",
        "h",
        "h/d1",
        "h/d1/fooBar",
        "h/d1/m1/?version=2018-06-30",
        "h//?api-version=2018-06-30",
        "h/ /?api-version=2018-06-30",
        "h/d1//?api-version=2018-06-30",
        "h/d1/m1?api-version=2018-06-30",
        "h/d/m/api-version=x/extra",
        "h/d/m/x/?api-version=x",
        "h/d1/?api-version=",
        "h/d1/?api-version=%20",
        "h/d1/?api-version=x&DeviceClientType=%ff",
        "h/d1/?api-version=x&auth-chain=a;b;;c",
        "h/d1/?api-version=x&auth-chain=a;b;c;d;e;f;g;h",
        "h/d+/?api-version=x",
        "h/d#/?api-version=x",
    ] {
        assert!(parse_user_name(text).is_err(), "{text}");
    }
    assert_eq!(parse_user_name("h/d1"), Err(UserNameError::Shape));
    assert_eq!(parse_user_name("h/d1/fooBar"), Err(UserNameError::NoApiVersion));
    assert_eq!(parse_user_name("h//?api-version=x"), Err(UserNameError::Id("device", InvalidId::Blank)));
}

#[test]
fn what_is_written_is_read_back() {
    let name = parsed(
        "h/gw/m/?api-version=2020-09-30&DeviceClientType=py%2F2.1%20EdgeHub%2F1&model-id=dtmi%3Ax%3B1&auth-chain=a%3Bb",
    );
    let text = user_name("hub.example", &name);
    assert_eq!(
        text,
        "hub.example/gw/m/?api-version=2020-09-30&DeviceClientType=py%2F2.1%20EdgeHub%2F1&model-id=dtmi%3Ax%3B1&auth-chain=a%3Bb"
    );
    assert_eq!(parsed(&text), name);
}
