//! The topics that clients publish to, the filters they may subscribe to, and the topics that the hub publishes to.
//!
//! In: a topic and whose connection it came by. Out: what it asks for, or the rule it breaks: on IoT Hub a client never
//! acts for another, and there are no other topics.

use crate::bag::{self, Bag};

/// What a PUBLISH of a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Telemetry with its properties.
    Telemetry(Bag),
    /// The twin, please.
    TwinGet {
        /// For the answer.
        rid: String,
    },
    /// A patch of the reported properties.
    TwinPatch {
        /// For the answer.
        rid: String,
    },
    /// The answer to a method.
    MethodAnswer {
        /// Of the device.
        status: i64,
        /// Of the call.
        rid: String,
    },
}

/// What a filter of a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Feature {
    /// Messages from the cloud.
    CloudToDevice,
    /// Inputs of a module.
    Inputs,
    /// Methods.
    Methods,
    /// Answers about the twin.
    TwinAnswers,
    /// Changes of the desired properties.
    DesiredPatches,
}

/// Reads the topic of a PUBLISH by this identity.
pub(crate) fn request(topic: &str, device_id: &str, module_id: Option<&str>) -> Result<Request, String> {
    if let Some(rest) = topic.strip_prefix("$iothub/twin/") {
        return twin_request(topic, rest);
    }
    if let Some(rest) = topic.strip_prefix("$iothub/methods/res/") {
        let (status, query) =
            rest.split_once("/?").ok_or_else(|| format!("{topic:?} is no answer to a method"))?;
        let status = status.parse().map_err(|_| format!("{topic:?} has the status {status:?}, no number"))?;
        return Ok(Request::MethodAnswer { status, rid: rid(query)? });
    }
    let own = base(device_id, module_id);
    let rest = topic.strip_prefix(own.as_str()).and_then(|rest| rest.strip_prefix("/messages/events/"));
    let Some(rest) = rest else {
        let foreign = topic.starts_with("devices/") && topic.contains("/messages/events/");
        let what = if foreign { "belongs to another identity than" } else { "is no topic of IoT Hub for" };
        return Err(format!("{topic:?} {what} {own}"));
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    Bag::parse(rest).map(Request::Telemetry)
}

fn twin_request(topic: &str, rest: &str) -> Result<Request, String> {
    if let Some(query) = rest.strip_prefix("GET/?") {
        return Ok(Request::TwinGet { rid: rid(query)? });
    }
    if let Some(query) = rest.strip_prefix("PATCH/properties/reported/?") {
        return Ok(Request::TwinPatch { rid: rid(query)? });
    }
    Err(format!("{topic:?} is no request about a twin"))
}

/// The request identifier; other keys are refused, but `$version` of a conditional patch.
fn rid(query: &str) -> Result<String, String> {
    let mut found = None;
    for (key, value) in bag::pairs(query)? {
        match key.as_str() {
            "$rid" if !value.is_empty() && found.is_none() => found = Some(value),
            "$version" => {}
            _ => return Err(format!("{query:?} has {key:?}, where there must be one $rid")),
        }
    }
    found.ok_or_else(|| format!("{query:?} has no $rid"))
}

/// `devices/d` or `devices/d/modules/m`.
pub(crate) fn base(device_id: &str, module_id: Option<&str>) -> String {
    match module_id {
        Some(module_id) => format!("devices/{device_id}/modules/{module_id}"),
        None => format!("devices/{device_id}"),
    }
}

/// Reads a filter that this identity subscribes to.
pub(crate) fn feature(filter: &str, device_id: &str, module_id: Option<&str>) -> Result<Feature, String> {
    let own = base(device_id, module_id);
    match (filter, module_id) {
        ("$iothub/methods/POST/#", _) => Ok(Feature::Methods),
        ("$iothub/twin/res/#", _) => Ok(Feature::TwinAnswers),
        ("$iothub/twin/PATCH/properties/desired/#", _) => Ok(Feature::DesiredPatches),
        (_, None) if filter == format!("{own}/messages/devicebound/#") => Ok(Feature::CloudToDevice),
        (_, Some(_)) if filter == format!("{own}/#") || filter == format!("{own}/inputs/#") => {
            Ok(Feature::Inputs)
        }
        _ => Err(format!("{filter:?} is no filter of IoT Hub for {own}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Feature, Request, feature, request};

    #[test]
    fn telemetry_is_only_ones_own() {
        for topic in [
            "devices/d1/messages/events/",
            "devices/d1/messages/events/a=1",
            "devices/d1/messages/events/a=1/",
        ] {
            assert!(matches!(request(topic, "d1", None), Ok(Request::Telemetry(_))), "{topic}");
        }
        assert!(matches!(
            request("devices/gw/modules/m/messages/events/%24.on=out/", "gw", Some("m")),
            Ok(Request::Telemetry(bag)) if bag.system("$.on") == Some("out")
        ));
        for topic in [
            "devices/d2/messages/events/",
            "x/devices/d1/messages/events/",
            "devices/d1/messages/events",
            "devices/d1/modules/m/messages/events/",
            "devices/d1/messages/events/a/b/",
            "plant/x",
            "devices/d1/messages/devicebound/",
        ] {
            assert!(request(topic, "d1", None).is_err(), "{topic}");
        }
    }

    #[test]
    fn twins_and_methods_need_a_request_identifier() {
        assert_eq!(request("$iothub/twin/GET/?$rid=7", "d", None), Ok(Request::TwinGet { rid: "7".into() }));
        assert_eq!(
            request("$iothub/twin/PATCH/properties/reported/?$rid=8", "d", None),
            Ok(Request::TwinPatch { rid: "8".into() })
        );
        assert_eq!(
            request("$iothub/methods/res/-1/?$rid=a-b", "d", None),
            Ok(Request::MethodAnswer { status: -1, rid: "a-b".into() })
        );
        for topic in [
            "$iothub/twin/GET/?$rid=",
            "$iothub/twin/GET/",
            "$iothub/twin/POST/?$rid=1",
            "$iothub/methods/res/ok/?$rid=1",
            "$iothub/methods/res/200/",
            "$iothub/twin/GET/more/?$rid=1",
        ] {
            assert!(request(topic, "d", None).is_err(), "{topic}");
        }
    }

    #[test]
    fn filters_are_only_ones_own() {
        assert_eq!(feature("devices/d1/messages/devicebound/#", "d1", None), Ok(Feature::CloudToDevice));
        assert_eq!(feature("devices/gw/modules/m/#", "gw", Some("m")), Ok(Feature::Inputs));
        for filter in ["#", "devices/d2/messages/devicebound/#", "devices/gw/modules/m/#", "$iothub/#"] {
            assert!(feature(filter, "d1", None).is_err(), "{filter}");
        }
    }
}
