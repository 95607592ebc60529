//! The topics of an identity that the edge knows: those of the IoT Hub dialect, each for the one whose name it carries.
//!
//! In: an identity (`DEVICE` or `DEVICE/MODULE`) and a topic or filter. Out: yes, no, or that the rules decide.
//! Always: no identity publishes in the name of another, or reads what is sent to another (DESIGN §8, never 7); what is not
//! of the dialect is for the rules, and so is every filter whose wildcards reach beyond it.

/// What an identity may publish to; `$iothub/` topics are its own by nature, its name is not in them.
const PUBLISH: [&str; 3] =
    ["$iothub/twin/GET/", "$iothub/twin/PATCH/properties/reported/", "$iothub/methods/res/"];
/// What it may subscribe to.
const SUBSCRIBE: [&str; 3] =
    ["$iothub/methods/POST/", "$iothub/twin/res/", "$iothub/twin/PATCH/properties/desired/"];

/// Whether the identity `name` may publish to `topic`; `None`: it is not a topic of the dialect.
pub(super) fn may_publish(name: &str, topic: &str) -> Option<bool> {
    if topic.starts_with("$iothub/") {
        return Some(PUBLISH.iter().any(|known| topic.starts_with(known)));
    }
    let rest = topic.strip_prefix("devices/")?;
    let Some(rest) = own(name, rest) else { return Some(false) };
    let events = rest.strip_prefix("messages/events");
    Some(events.is_some_and(|bag| bag.is_empty() || bag.starts_with('/')))
}

/// Whether the identity `name` may subscribe to `filter`; `None`: it is not a filter of the dialect alone.
pub(super) fn may_subscribe(name: &str, filter: &str) -> Option<bool> {
    if filter.starts_with("$iothub/") {
        return Some(SUBSCRIBE.iter().any(|known| filter.starts_with(known)));
    }
    let rest = filter.strip_prefix("devices/")?;
    // Its own name holds no wildcard, so a filter that begins with it reaches nobody else.
    let Some(rest) = own(name, rest) else { return Some(false) };
    let is_module = name.contains('/');
    Some(
        rest.starts_with("messages/devicebound/")
            || is_module && (rest == "#" || rest.starts_with("inputs/")),
    )
}

/// What follows `DEVICE/` or `DEVICE/modules/MODULE/`, if these are the identity's own.
fn own<'t>(name: &str, topic: &'t str) -> Option<&'t str> {
    match name.split_once('/') {
        None => {
            let rest = topic.strip_prefix(name)?.strip_prefix('/')?;
            // That of one of its modules is not its own.
            (!rest.starts_with("modules/")).then_some(rest)
        }
        Some((device, module)) => {
            topic.strip_prefix(device)?.strip_prefix("/modules/")?.strip_prefix(module)?.strip_prefix('/')
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_publishes_in_its_own_name() {
        for (name, topic, expected) in [
            ("d1", "devices/d1/messages/events", Some(true)),
            ("d1", "devices/d1/messages/events/", Some(true)),
            ("d1", "devices/d1/messages/events/a=b&%24.mid=1/", Some(true)),
            ("d1", "devices/d1/messages/eventsx", Some(false)),
            ("d1", "devices/d10/messages/events/", Some(false)),
            ("d1", "devices/D1/messages/events/", Some(false)),
            ("d1", "devices/d2/messages/events/", Some(false)),
            ("d1", "devices/d1/modules/m/messages/events/", Some(false)),
            ("d1", "devices/d1/messages/devicebound/x", Some(false)),
            ("d1", "devices/", Some(false)),
            ("gw1/m", "devices/gw1/modules/m/messages/events/x=y", Some(true)),
            ("gw1/m", "devices/gw1/messages/events/", Some(false)),
            ("gw1/m", "devices/gw1/modules/other/messages/events/", Some(false)),
            ("gw1/m", "devices/gw1/modules/m/inputs/in1/", Some(false)),
            ("d1", "$iothub/twin/GET/?$rid=1", Some(true)),
            ("d1", "$iothub/twin/PATCH/properties/reported/?$rid=1", Some(true)),
            ("d1", "$iothub/methods/res/200/?$rid=1", Some(true)),
            ("d1", "$iothub/twin/res/200/?$rid=1", Some(false)),
            ("d1", "$iothub/methods/POST/reboot/?$rid=1", Some(false)),
            ("d1", "plant/d1", None),
            ("d1", "$SYS/x", None),
            ("d1", "Devices/d1/messages/events", None),
        ] {
            assert_eq!(may_publish(name, topic), expected, "{name} {topic}");
        }
    }

    #[test]
    fn an_identity_reads_what_is_sent_to_it() {
        for (name, filter, expected) in [
            ("d1", "devices/d1/messages/devicebound/#", Some(true)),
            ("d1", "devices/d2/messages/devicebound/#", Some(false)),
            ("d1", "devices/+/messages/devicebound/#", Some(false)),
            ("d1", "devices/#", Some(false)),
            ("d1", "devices/d1/#", Some(false)),
            ("d1", "devices/d1/messages/events/#", Some(false)),
            ("gw1/m", "devices/gw1/modules/m/#", Some(true)),
            ("gw1/m", "devices/gw1/modules/m/inputs/in1/#", Some(true)),
            ("gw1/m", "devices/gw1/modules/+/#", Some(false)),
            ("gw1/m", "devices/gw1/#", Some(false)),
            ("gw1/m", "devices/gw1/modules/m/messages/devicebound/#", Some(true)),
            ("d1", "$iothub/methods/POST/#", Some(true)),
            ("d1", "$iothub/twin/res/#", Some(true)),
            ("d1", "$iothub/twin/PATCH/properties/desired/#", Some(true)),
            ("d1", "$iothub/#", Some(false)),
            ("d1", "$iothub/twin/GET/#", Some(false)),
            ("d1", "#", None),
            ("d1", "+/d1/messages/events/#", None),
            ("d1", "plant/#", None),
        ] {
            assert_eq!(may_subscribe(name, filter), expected, "{name} {filter}");
        }
    }
}
