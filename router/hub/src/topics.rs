//! The topics of the dialect: what clients publish to, what they subscribe to, what they are sent
//! (`reference/edgehub.md` §2.4, §2.6–2.8).
//!
//! May use: `escape`, `id`. In: topic names, topic filters. Out: what they ask for; topic names.
//! Bags stay text here: `bag` reads them when somebody needs them.
//! Cost: one pass, no allocation.

use std::fmt::Write;

use crate::escape::escape_into;
use crate::id::HubId;

/// What a client asks by publishing to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound<'t> {
    /// `devices/{device}[/modules/{module}]/messages/events[/{bag}][/]`
    Telemetry {
        /// As in the topic: not yet compared with who sends it.
        device: &'t str,
        /// As in the topic.
        module: Option<&'t str>,
        /// Not decoded.
        bag: &'t str,
    },
    /// `$iothub/methods/res/{status}/?$rid={rid}`
    MethodResponse {
        /// Should be a number.
        status: &'t str,
        /// Which request it answers.
        rid: &'t str,
    },
    /// `$iothub/twin/GET/?$rid={rid}`
    TwinGet {
        /// Without one there is nobody to answer: the session ends.
        rid: &'t str,
    },
    /// `$iothub/twin/PATCH/properties/reported/?$rid={rid}`
    TwinReported {
        /// `None`: applied, and not answered.
        rid: Option<&'t str>,
    },
}

/// Why a topic asks for nothing we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownTopic {
    /// Not of the dialect at all: a policy may give it another meaning.
    #[error("it matches no topic of the IoT Hub dialect")]
    NoTemplate,
    /// `$iothub/twin/xxx`
    #[error("$iothub/twin/ is followed by neither GET/ nor PATCH/properties/reported/")]
    TwinOperation,
    /// GET without `$rid`.
    #[error("a twin request needs ?$rid=")]
    TwinWithoutRid,
}

impl UnknownTopic {
    /// Whether edgeHub closes the connection over it (§2.7), where it otherwise acknowledges and drops.
    pub const fn closes(self) -> bool {
        !matches!(self, UnknownTopic::NoTemplate)
    }
}

const METHOD_RESPONSE: &str = "$iothub/methods/res/";
const METHOD_REQUEST: &str = "$iothub/methods/POST/";
const TWIN: &str = "$iothub/twin/";
const TWIN_RESPONSE: &str = "$iothub/twin/res/";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/";
const RID: &str = "$rid";

/// Reads the topic of a PUBLISH.
///
/// As edgeHub's templates, these are anchored at the end only: what precedes `devices/` and `$iothub/methods/` is
/// ignored.
pub fn inbound(topic: &str) -> Result<Inbound<'_>, UnknownTopic> {
    if let Some(request) = topic.strip_prefix(TWIN) {
        return twin_request(request);
    }
    if let Some(found) = telemetry(topic) {
        return Ok(found);
    }
    method_response(topic).ok_or(UnknownTopic::NoTemplate)
}

fn twin_request(request: &str) -> Result<Inbound<'_>, UnknownTopic> {
    let (path, query) = request.split_once("/?").unwrap_or((request.trim_end_matches('/'), ""));
    let rid = query_value(query, RID).filter(|rid| !rid.is_empty());
    match path {
        "GET" => rid.map(|rid| Inbound::TwinGet { rid }).ok_or(UnknownTopic::TwinWithoutRid),
        "PATCH/properties/reported" => Ok(Inbound::TwinReported { rid }),
        _ => Err(UnknownTopic::TwinOperation),
    }
}

/// The eight templates of §2.4, read from the end. Those with a slash at the end come first.
fn telemetry(topic: &str) -> Option<Inbound<'_>> {
    if let Some(without) = topic.strip_suffix('/')
        && let Some(found) = read_events(without, true)
    {
        return Some(found);
    }
    read_events(topic, false)
}

/// `slash`: whether the topic had one at its end, which `…/events/{bag}` needs if the bag is empty.
fn read_events(topic: &str, slash: bool) -> Option<Inbound<'_>> {
    let mut levels = topic.rsplit('/');
    let last = levels.next()?;
    let before = levels.next()?;
    if before == "events" && (slash || !last.is_empty()) && levels.next() == Some("messages") {
        return sender(levels, last);
    }
    let mut levels = topic.rsplit('/').skip(1);
    if last == "events" && levels.next() == Some("messages") {
        return sender(levels, "");
    }
    None
}

fn sender<'t>(mut levels: impl Iterator<Item = &'t str>, bag: &'t str) -> Option<Inbound<'t>> {
    let id = levels.next()?;
    let kind = levels.next()?;
    if kind.ends_with("devices") {
        return Some(Inbound::Telemetry { device: id, module: None, bag });
    }
    let device = levels.next()?;
    if kind == "modules" && levels.next()?.ends_with("devices") {
        return Some(Inbound::Telemetry { device, module: Some(id), bag });
    }
    None
}

fn method_response(topic: &str) -> Option<Inbound<'_>> {
    let at = topic.rfind(METHOD_RESPONSE)?;
    let (status, query) = topic[at + METHOD_RESPONSE.len()..].split_once("/?$rid=")?;
    (!status.contains('/') && !query.contains('/')).then_some(Inbound::MethodResponse { status, rid: query })
}

/// The value of `name` in `a=1&b=2`, as written: twin and method topics are not percent-encoded (§2.7).
fn query_value<'t>(query: &'t str, name: &str) -> Option<&'t str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// What a subscription turns on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Cloud-to-device messages.
    CloudToDevice,
    /// Messages routed to inputs of a module.
    Inputs,
    /// Calls of direct methods.
    Methods,
    /// Changes of desired properties.
    Desired,
    /// Answers to twin requests.
    TwinResponses,
}

impl Feature {
    /// All of them.
    pub const ALL: [Feature; 5] =
        [Feature::CloudToDevice, Feature::Inputs, Feature::Methods, Feature::Desired, Feature::TwinResponses];

    /// For logs and counters: one word.
    pub const fn label(self) -> &'static str {
        match self {
            Feature::CloudToDevice => "c2d",
            Feature::Inputs => "inputs",
            Feature::Methods => "methods",
            Feature::Desired => "desired",
            Feature::TwinResponses => "twin_responses",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(u8);

impl Features {
    /// Whether `feature` is in it.
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & feature.bit() != 0
    }

    /// With `feature` as well.
    #[must_use]
    pub const fn with(self, feature: Feature) -> Features {
        Features(self.0 | feature.bit())
    }

    /// Without `feature`.
    #[must_use]
    pub const fn without(self, feature: Feature) -> Features {
        Features(self.0 & !feature.bit())
    }

    /// Each that is in it.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |feature| self.has(*feature))
    }

    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What a topic filter is to the client that subscribes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// One of the client's own.
    Feature(Feature),
    /// One of the dialect, but another client's: edgeHub grants it and nothing ever comes.
    Foreign(Feature),
    /// Not of the dialect: a policy may give it another meaning.
    Other,
}

/// Reads a topic filter of the client `id` as edgeHub recognises it (§2.6).
pub fn filter(filter: &str, id: &HubId) -> Filter {
    if filter.starts_with(METHOD_REQUEST) {
        return Filter::Feature(Feature::Methods);
    }
    if filter.starts_with(DESIRED) {
        return Filter::Feature(Feature::Desired);
    }
    if filter == "$iothub/twin/res/#" {
        return Filter::Feature(Feature::TwinResponses);
    }
    if let Some(before) = filter.strip_suffix("messages/devicebound/#") {
        let own = before.strip_prefix("devices/").and_then(|rest| rest.strip_suffix('/'));
        let is_own = own == Some(id.as_str()) || is_module_path(own, id);
        return owned(is_own, Feature::CloudToDevice);
    }
    let between = filter.strip_prefix("devices/").and_then(|rest| rest.strip_suffix("/#"));
    if let Some((device, module)) = between.and_then(|ids| ids.split_once("/modules/"))
        && !device.is_empty()
        && !module.is_empty()
    {
        // `…/modules/m/inputs/in1/#` is recognised, too.
        let module = module.split('/').next().unwrap_or_default();
        return owned(id.is(device, Some(module)), Feature::Inputs);
    }
    Filter::Other
}

fn is_module_path(path: Option<&str>, id: &HubId) -> bool {
    path.and_then(|path| path.split_once("/modules/"))
        .is_some_and(|(device, module)| id.is(device, Some(module)))
}

const fn owned(is_own: bool, feature: Feature) -> Filter {
    if is_own { Filter::Feature(feature) } else { Filter::Foreign(feature) }
}

/// Writes `devices/{d}/modules/{m}/inputs/{input}/{bag}`; `bag` is encoded already and may be empty.
pub fn input(device: &str, module: &str, input: &str, bag: &str, out: &mut String) {
    out.clear();
    for part in ["devices/", device, "/modules/", module, "/inputs/", input, "/", bag] {
        out.push_str(part);
    }
}

/// Writes `devices/{d}/messages/devicebound/{bag}`; `bag` is encoded already.
pub fn cloud_to_device(device: &str, bag: &str, out: &mut String) {
    out.clear();
    for part in ["devices/", device, "/messages/devicebound/", bag] {
        out.push_str(part);
    }
}

/// Writes `$iothub/methods/POST/{name}/?$rid={rid}`.
pub fn method_request(name: &str, rid: &str, out: &mut String) {
    out.clear();
    for part in [METHOD_REQUEST, name, "/?$rid=", rid] {
        out.push_str(part);
    }
}

/// Writes `$iothub/twin/res/{status}/?$rid={rid}`, with `&$version={version}` where IoT Hub gives one; edgeHub does not.
pub fn twin_response(status: u16, rid: &str, version: Option<u64>, out: &mut String) {
    out.clear();
    // Writing to a String cannot fail.
    write!(out, "{TWIN_RESPONSE}{status}/?$rid={rid}").expect("a string takes everything");
    if let Some(version) = version {
        write!(out, "&$version={version}").expect("a string takes everything");
    }
}

/// Writes `$iothub/twin/PATCH/properties/desired/?$version={version}`.
pub fn desired(version: u64, out: &mut String) {
    out.clear();
    write!(out, "{DESIRED}?$version={version}").expect("a string takes everything");
}

/// Writes the topic on which the identity sends telemetry upstream; `bag` is encoded already and may be empty.
pub fn events(id: &HubId, bag: &str, out: &mut String) {
    out.clear();
    identity_path(id, out);
    out.push_str("/messages/events/");
    out.push_str(bag);
}

/// Writes `$iothub/methods/res/{status}/?$rid={rid}`.
pub fn method_response_topic(status: i64, rid: &str, out: &mut String) {
    out.clear();
    write!(out, "{METHOD_RESPONSE}{status}/?$rid={rid}").expect("a string takes everything");
}

/// Writes `$iothub/twin/GET/?$rid={rid}`.
pub fn twin_get(rid: &str, out: &mut String) {
    out.clear();
    write!(out, "{TWIN}GET/?$rid={rid}").expect("a string takes everything");
}

/// Writes `$iothub/twin/PATCH/properties/reported/?$rid={rid}`.
pub fn twin_reported(rid: &str, out: &mut String) {
    out.clear();
    write!(out, "{TWIN}PATCH/properties/reported/?$rid={rid}").expect("a string takes everything");
}

/// The filter that turns a feature on for the identity; what an uplink subscribes to.
pub fn filter_of(feature: Feature, id: &HubId) -> String {
    let mut out = String::new();
    match feature {
        Feature::Methods => out.push_str("$iothub/methods/POST/#"),
        Feature::Desired => out.push_str("$iothub/twin/PATCH/properties/desired/#"),
        Feature::TwinResponses => out.push_str("$iothub/twin/res/#"),
        Feature::CloudToDevice => {
            identity_path(id, &mut out);
            out.push_str("/messages/devicebound/#");
        }
        Feature::Inputs => {
            identity_path(id, &mut out);
            out.push_str("/#");
        }
    }
    out
}

fn identity_path(id: &HubId, out: &mut String) {
    out.push_str("devices/");
    out.push_str(id.device_id());
    if let Some(module) = id.module_id() {
        out.push_str("/modules/");
        out.push_str(module);
    }
}

/// What IoT Hub, or a parent, publishes to the client of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound<'t> {
    /// A cloud-to-device message.
    CloudToDevice {
        /// For whom.
        device: &'t str,
        /// Not decoded.
        bag: &'t str,
    },
    /// A message for an input of a module.
    Input {
        /// For whom.
        device: &'t str,
        /// For whom.
        module: &'t str,
        /// Which input.
        input: &'t str,
        /// Not decoded.
        bag: &'t str,
    },
    /// A call of a direct method.
    Method {
        /// Its name.
        name: &'t str,
        /// To be given back with the answer.
        rid: &'t str,
    },
    /// The answer to a twin request.
    TwinResponse {
        /// As in HTTP.
        status: u16,
        /// Of the request.
        rid: &'t str,
        /// Of the reported properties, after a patch.
        version: Option<u64>,
    },
    /// A change of desired properties.
    Desired {
        /// The version after it.
        version: u64,
    },
}

/// Reads a topic on which IoT Hub publishes to us. `None` if it is not one of them.
pub fn outbound(topic: &str) -> Option<Outbound<'_>> {
    if let Some(rest) = topic.strip_prefix(METHOD_REQUEST) {
        let (name, query) = rest.split_once("/?")?;
        return Some(Outbound::Method { name, rid: query_value(query, RID)? });
    }
    if let Some(rest) = topic.strip_prefix(TWIN_RESPONSE) {
        let (status, query) = rest.split_once("/?")?;
        let version = query_value(query, "$version").and_then(|version| version.parse().ok());
        return Some(Outbound::TwinResponse {
            status: status.parse().ok()?,
            rid: query_value(query, RID)?,
            version,
        });
    }
    if let Some(query) = topic.strip_prefix(DESIRED).and_then(|rest| rest.strip_prefix('?')) {
        return Some(Outbound::Desired { version: query_value(query, "$version")?.parse().ok()? });
    }
    let rest = topic.strip_prefix("devices/")?;
    if let Some((device, bag)) = rest.split_once("/messages/devicebound/") {
        return (!device.contains('/')).then_some(Outbound::CloudToDevice { device, bag });
    }
    let (device, rest) = rest.split_once("/modules/")?;
    let (module, rest) = rest.split_once("/inputs/")?;
    let (input, bag) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = ![device, module].iter().any(|part| part.contains('/'));
    plain.then_some(Outbound::Input { device, module, input, bag })
}

/// Appends an id to a path of IoT Hub's REST interface, escaped.
pub fn push_escaped(id: &str, out: &mut String) {
    escape_into(id, out);
}

#[cfg(test)]
mod tests;
