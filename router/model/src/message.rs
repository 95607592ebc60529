//! What routes and queues see of a publication.

use crate::{Priority, Qos, RouteId, SinkId};

/// One named property of a message. `value` is `None` where the sender wrote a name without a value
/// (possible in IoT Hub property bags, `reference/edgehub.md` §2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property<'t> {
    /// The name, as the sender wrote it.
    pub name: &'t str,
    /// The value, decoded.
    pub value: Option<&'t str>,
}

/// A message as routes see it, borrowed for one turn.
#[derive(Clone, Copy, Debug)]
pub struct Message<'t> {
    /// MQTT topic name it was published to.
    pub topic: &'t str,
    /// edgeHub source path (`reference/edgehub.md` §3.1), e.g. `/messages/` or
    /// `/messages/modules/m/outputs/o/`. A plain MQTT publication has `/messages/`.
    pub source: &'t str,
    /// The payload.
    pub body: &'t [u8],
    /// Application properties: MQTT 5 user properties, or the IoT Hub property bag.
    pub properties: &'t [Property<'t>],
    /// System properties (`contentType`, `connectionDeviceId`, …), named as in `reference/edgehub.md` §3.5.
    pub system: &'t [Property<'t>],
    /// Client identifier of the publisher.
    pub client_id: &'t str,
    /// Authenticated user name of the publisher; empty if anonymous.
    pub user: &'t str,
    /// Quality of service of the PUBLISH.
    pub qos: Qos,
    /// The RETAIN flag of the PUBLISH.
    pub retain: bool,
}

impl<'t> Message<'t> {
    /// A QoS 0 message without properties: the smallest legal one; tests and tools fill in the rest.
    pub const fn new(topic: &'t str, body: &'t [u8]) -> Message<'t> {
        Message {
            topic,
            source: "/messages/",
            body,
            properties: &[],
            system: &[],
            client_id: "",
            user: "",
            qos: Qos::AtMostOnce,
            retain: false,
        }
    }
}

/// One sink that a message must go to, as decided by the route table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Where to.
    pub sink: SinkId,
    /// The route that decided it: the most urgent of those that matched.
    pub route: RouteId,
    /// Its urgency.
    pub priority: Priority,
    /// Its time to live in milliseconds; `None` means that the global one applies.
    pub ttl_millis: Option<u64>,
}
