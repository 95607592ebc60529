//! Tests of `topics`: the matrix of `reference/edgehub.md` §2.4, §2.6–2.8, byte for byte.

use super::*;

fn device() -> HubId {
    HubId::parse("d1").expect("an id")
}

fn module() -> HubId {
    HubId::parse("gw1/filter").expect("an id")
}

#[track_caller]
fn telemetry_of(topic: &str, device: &str, module: Option<&str>, bag: &str) {
    assert_eq!(inbound(topic), Ok(Inbound::Telemetry { device, module, bag }), "{topic}");
}

#[test]
fn all_eight_templates_of_telemetry() {
    telemetry_of("devices/d1/messages/events/a=1/", "d1", None, "a=1");
    telemetry_of("devices/d1/messages/events/", "d1", None, "");
    telemetry_of("devices/gw1/modules/m/messages/events/a=1/", "gw1", Some("m"), "a=1");
    telemetry_of("devices/gw1/modules/m/messages/events/", "gw1", Some("m"), "");
    telemetry_of("devices/d1/messages/events/a=1", "d1", None, "a=1");
    telemetry_of("devices/d1/messages/events", "d1", None, "");
    telemetry_of("devices/gw1/modules/m/messages/events/a=1", "gw1", Some("m"), "a=1");
    telemetry_of("devices/gw1/modules/m/messages/events", "gw1", Some("m"), "");
}

#[test]
fn templates_are_anchored_at_the_end_only() {
    telemetry_of("x/y/devices/d1/messages/events/", "d1", None, "");
    telemetry_of("/devices/d1/messages/events/a", "d1", None, "a");
    telemetry_of("xdevices/d1/messages/events/", "d1", None, "");
    telemetry_of("p/devices/gw1/modules/m/messages/events/a=1", "gw1", Some("m"), "a=1");
    assert_eq!(
        inbound("p/$iothub/methods/res/200/?$rid=1"),
        Ok(Inbound::MethodResponse { status: "200", rid: "1" })
    );
}

#[test]
fn placeholders_may_be_empty_and_hold_anything_but_a_slash() {
    telemetry_of("devices//messages/events/", "", None, "");
    telemetry_of("devices/d1/messages/events//", "d1", None, "");
    telemetry_of("devices/events/messages/events/events", "events", None, "events");
    telemetry_of("devices/messages/messages/events/events/", "messages", None, "events");
    telemetry_of("devices/d$!/messages/events/?a=b", "d$!", None, "?a=b");
}

#[test]
fn what_matches_no_template() {
    for topic in [
        "",
        "a",
        "devices/d1/messages/devicebound/",
        "devices/d1/messages/event/",
        "Devices/d1/messages/events/",
        "devices/d1/Messages/events/",
        "devices/d1/messages/events/a/b",
        "devices/d1/messages/events/a//",
        "devices/d1/x/messages/events/",
        "modules/m/messages/events/",
        "devices/d1/modules/messages/events",
        "devices/gw1/modules/m/inputs/in1/",
        "messages/events",
        "events/",
        "$iothub/methods/POST/x/?$rid=1",
        "$iothub/methods/res/200",
        "$iothub/methods/res/200/?rid=1",
        "$iothub/methods/res/200/x/?$rid=1",
        "$iothub/methods/res/200/?$rid=1/2",
        "$iothub/twin",
        "$SYS/x",
    ] {
        assert_eq!(inbound(topic), Err(UnknownTopic::NoTemplate), "{topic}");
    }
    assert!(!UnknownTopic::NoTemplate.closes());
}

#[test]
fn method_responses() {
    let found = inbound("$iothub/methods/res/200/?$rid=505e09bb-0076-4b9f-b4a3-529430f1593f");
    assert_eq!(
        found,
        Ok(Inbound::MethodResponse { status: "200", rid: "505e09bb-0076-4b9f-b4a3-529430f1593f" })
    );
    assert_eq!(inbound("$iothub/methods/res//?$rid="), Ok(Inbound::MethodResponse { status: "", rid: "" }));
    assert_eq!(
        inbound("$iothub/methods/res/x/?$rid=7"),
        Ok(Inbound::MethodResponse { status: "x", rid: "7" })
    );
}

#[test]
fn twin_requests() {
    assert_eq!(inbound("$iothub/twin/GET/?$rid=7"), Ok(Inbound::TwinGet { rid: "7" }));
    assert_eq!(inbound("$iothub/twin/GET/?a=1&$rid=%37"), Ok(Inbound::TwinGet { rid: "%37" }));
    let patch = inbound("$iothub/twin/PATCH/properties/reported/?$rid=8");
    assert_eq!(patch, Ok(Inbound::TwinReported { rid: Some("8") }));
    for topic in ["$iothub/twin/PATCH/properties/reported/", "$iothub/twin/PATCH/properties/reported/?$rid="]
    {
        assert_eq!(inbound(topic), Ok(Inbound::TwinReported { rid: None }), "{topic}");
    }
    for topic in
        ["$iothub/twin/GET/", "$iothub/twin/GET", "$iothub/twin/GET/?$rid=", "$iothub/twin/GET/?rid=1"]
    {
        assert_eq!(inbound(topic), Err(UnknownTopic::TwinWithoutRid), "{topic}");
    }
    for topic in [
        "$iothub/twin/",
        "$iothub/twin/xxx",
        "$iothub/twin/get/?$rid=1",
        "$iothub/twin/GET/x/?$rid=1",
        "$iothub/twin/PATCH/?$rid=1",
        "$iothub/twin/PATCH/properties/desired/?$rid=1",
        "$iothub/twin/PATCH/properties/reported/x/?$rid=1",
        "$iothub/twin/res/200/?$rid=1",
    ] {
        assert_eq!(inbound(topic), Err(UnknownTopic::TwinOperation), "{topic}");
        assert!(UnknownTopic::TwinOperation.closes());
    }
}

#[test]
fn filters_turn_features_on() {
    for (text, id, expected) in [
        ("devices/d1/messages/devicebound/#", device(), Filter::Feature(Feature::CloudToDevice)),
        (
            "devices/gw1/modules/filter/messages/devicebound/#",
            module(),
            Filter::Feature(Feature::CloudToDevice),
        ),
        ("devices/d2/messages/devicebound/#", device(), Filter::Foreign(Feature::CloudToDevice)),
        ("x/devices/d1/messages/devicebound/#", device(), Filter::Foreign(Feature::CloudToDevice)),
        ("devices/+/messages/devicebound/#", device(), Filter::Foreign(Feature::CloudToDevice)),
        ("devices/gw1/modules/filter/#", module(), Filter::Feature(Feature::Inputs)),
        ("devices/gw1/modules/filter/inputs/#", module(), Filter::Feature(Feature::Inputs)),
        ("devices/gw1/modules/filter/inputs/in1/#", module(), Filter::Feature(Feature::Inputs)),
        ("devices/gw1/modules/filter2/#", module(), Filter::Foreign(Feature::Inputs)),
        ("devices/gw1/modules/ml/#", module(), Filter::Foreign(Feature::Inputs)),
        ("devices/gw1/modules/+/#", module(), Filter::Foreign(Feature::Inputs)),
        ("devices/d1/modules/m/#", device(), Filter::Foreign(Feature::Inputs)),
        ("$iothub/methods/POST/#", device(), Filter::Feature(Feature::Methods)),
        ("$iothub/methods/POST/reboot/#", device(), Filter::Feature(Feature::Methods)),
        ("$iothub/twin/PATCH/properties/desired/#", device(), Filter::Feature(Feature::Desired)),
        ("$iothub/twin/res/#", device(), Filter::Feature(Feature::TwinResponses)),
        ("$iothub/twin/res/+", device(), Filter::Other),
        ("$iothub/methods/res/#", device(), Filter::Other),
        ("devices/d1/messages/devicebound/", device(), Filter::Other),
        ("devices/d1/messages/events/#", device(), Filter::Other),
        ("devices/gw1/modules//#", module(), Filter::Other),
        ("#", device(), Filter::Other),
        ("devices/#", device(), Filter::Other),
        ("plant/line1", device(), Filter::Other),
    ] {
        assert_eq!(filter(text, &id), expected, "{text} for {id}");
    }
}

#[test]
fn what_the_hub_publishes_is_read_by_an_uplink() {
    let mut out = String::new();
    input("gw1", "ml", "in1", "level=high&%24.cdid=d1", &mut out);
    assert_eq!(out, "devices/gw1/modules/ml/inputs/in1/level=high&%24.cdid=d1");
    let read = Outbound::Input { device: "gw1", module: "ml", input: "in1", bag: "level=high&%24.cdid=d1" };
    assert_eq!(outbound(&out), Some(read));
    input("gw1", "ml", "in1", "", &mut out);
    assert_eq!(out, "devices/gw1/modules/ml/inputs/in1/");

    cloud_to_device("d1", "prop=val&%24.to=%2Fdevices%2Fd1%2Fmessages%2FdeviceBound", &mut out);
    assert_eq!(
        out,
        "devices/d1/messages/devicebound/prop=val&%24.to=%2Fdevices%2Fd1%2Fmessages%2FdeviceBound"
    );
    let bag = "prop=val&%24.to=%2Fdevices%2Fd1%2Fmessages%2FdeviceBound";
    assert_eq!(outbound(&out), Some(Outbound::CloudToDevice { device: "d1", bag }));

    method_request("reboot", "505e09bb", &mut out);
    assert_eq!(out, "$iothub/methods/POST/reboot/?$rid=505e09bb");
    assert_eq!(outbound(&out), Some(Outbound::Method { name: "reboot", rid: "505e09bb" }));

    twin_response(200, "7", None, &mut out);
    assert_eq!(out, "$iothub/twin/res/200/?$rid=7");
    assert_eq!(outbound(&out), Some(Outbound::TwinResponse { status: 200, rid: "7", version: None }));
    twin_response(204, "8", Some(3), &mut out);
    assert_eq!(out, "$iothub/twin/res/204/?$rid=8&$version=3");
    assert_eq!(outbound(&out), Some(Outbound::TwinResponse { status: 204, rid: "8", version: Some(3) }));

    desired(9, &mut out);
    assert_eq!(out, "$iothub/twin/PATCH/properties/desired/?$version=9");
    assert_eq!(outbound(&out), Some(Outbound::Desired { version: 9 }));

    for other in
        ["", "devices/d1/messages/events/", "$iothub/twin/GET/?$rid=1", "$iothub/twin/res/x/?$rid=1", "a/b"]
    {
        assert_eq!(outbound(other), None, "{other}");
    }
}

#[test]
fn what_an_uplink_publishes_is_read_by_the_hub() {
    let mut out = String::new();
    events(&device(), "a=1", &mut out);
    assert_eq!(out, "devices/d1/messages/events/a=1");
    events(&module(), "", &mut out);
    telemetry_of(&out, "gw1", Some("filter"), "");
    method_response_topic(200, "9", &mut out);
    assert_eq!(inbound(&out), Ok(Inbound::MethodResponse { status: "200", rid: "9" }));
    twin_get("3", &mut out);
    assert_eq!(inbound(&out), Ok(Inbound::TwinGet { rid: "3" }));
    twin_reported("4", &mut out);
    assert_eq!(inbound(&out), Ok(Inbound::TwinReported { rid: Some("4") }));
}

#[test]
fn what_an_uplink_subscribes_to_turns_the_feature_on() {
    for feature in Feature::ALL {
        assert_eq!(filter(&filter_of(feature, &module()), &module()), Filter::Feature(feature));
    }
    assert_eq!(filter_of(Feature::CloudToDevice, &device()), "devices/d1/messages/devicebound/#");
    assert_eq!(filter_of(Feature::Inputs, &module()), "devices/gw1/modules/filter/#");
}

#[test]
fn a_set_of_features() {
    let set = Features::default().with(Feature::Inputs).with(Feature::Methods).with(Feature::Inputs);
    assert_eq!(set.iter().collect::<Vec<_>>(), [Feature::Inputs, Feature::Methods]);
    assert!(set.without(Feature::Inputs).without(Feature::Methods).is_empty());
    assert!(!set.has(Feature::Desired));
}

proptest::proptest! {
    /// Any topic has an answer; and what telemetry says is in the topic, in this order.
    #[test]
    fn any_topic_has_an_answer(topic in "(devices|modules|messages|events|d1|a=1|\\$iothub|/|methods|res|\\?\\$rid=){0,16}") {
        if let Ok(Inbound::Telemetry { device, module, bag }) = inbound(&topic) {
            let module = module.map(|module| format!("/modules/{module}")).unwrap_or_default();
            let plain = format!("devices/{device}{module}/messages/events");
            let forms = [plain.clone(), format!("{plain}/"), format!("{plain}/{bag}"), format!("{plain}/{bag}/")];
            proptest::prop_assert!(forms.iter().any(|form| topic.ends_with(form.as_str())), "{}", topic);
        }
    }
}
