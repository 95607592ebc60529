//! Topics of an uplink: what ours become there, what theirs become here, and that no message goes round in circles.
//!
//! Knows: the keys of `[uplink.NAME]` about topics, QoS, RETAIN and properties. In: a `Judge`. Out: one `Topics` an uplink.

use broker::uplink::{Entry, InboundEntry, Template, Wish, filters_meet, image, unshared};
use model::{Qos, TopicFilter, validate_filter};

use super::checked::MqttVersion;
use super::errors::ConfigError;
use super::judge::Judge;
use super::schema::{self, Key};

/// What becomes of topics and properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// From here to there, in order.
    pub entries: Vec<Entry>,
    /// From there to here, in order.
    pub inbound: Vec<InboundEntry>,
    /// QoS where `entries` do not say it.
    pub qos: Wish,
    /// Whether RETAIN goes along where `entries` do not say it.
    pub keeps_retain: bool,
    /// What becomes of properties in 3.1.1.
    pub properties: Properties,
    /// The user property with the id.
    pub id_property: Option<String>,
}

/// What becomes of properties where the protocol has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Properties {
    /// They are left out.
    Drop,
    /// They make a last level of the topic.
    Topic,
    /// They go into an envelope, with the payload.
    Json,
}

impl Topics {
    /// Whether what becomes of a topic there depends on who published.
    pub(crate) fn ask_for_user(&self) -> bool {
        self.entries.iter().any(|entry| entry.template.asks_for_user())
    }

    /// Whether messages of QoS 2 may go there.
    pub(crate) fn may_be_exact(&self) -> bool {
        self.entries.iter().filter_map(|entry| entry.qos).chain([self.qos]).any(Wish::may_be_exact)
    }
}

/// Mistakes are told to `judge`; then what is returned has gaps.
pub(super) fn check(judge: &mut Judge<'_>, name: &str, version: MqttVersion, prefix: &str) -> Topics {
    let entries = list(judge, &schema::kinds::UPLINK_TOPICS, name, parse_entry);
    let inbound = list(judge, &schema::kinds::UPLINK_INBOUND, name, parse_inbound);
    let properties = match judge.text(&schema::kinds::UPLINK_PROPERTIES, name).as_deref() {
        Some("topic") => Properties::Topic,
        Some("json") => Properties::Json,
        _ => Properties::Drop,
    };
    if version == MqttVersion::V5 && judge.is_written(&schema::kinds::UPLINK_PROPERTIES, name) {
        judge.complain(&schema::kinds::UPLINK_PROPERTIES, name, |error| ConfigError {
            problem: "is about MQTT 3.1.1, and this uplink speaks 5, which carries properties".to_owned(),
            ..error
        });
    }
    let id_property =
        judge.text(&schema::kinds::UPLINK_ID_PROPERTY, name).filter(|property| !property.is_empty());
    let marks = id_property.is_some() && (version == MqttVersion::V5 || properties != Properties::Drop);
    // In 5.0 No Local keeps ours away without an id, but from a shared subscription, which cannot ask for it.
    let is_open = |entry: &&InboundEntry| version == MqttVersion::V311 || entry.filter.starts_with("$share/");
    if !marks {
        let open: Vec<_> = inbound.iter().filter(is_open).collect();
        refuse_loops(judge, name, &entries, &open, prefix);
    }
    Topics {
        entries,
        inbound,
        qos: judge
            .text(&schema::kinds::UPLINK_QOS, name)
            .and_then(|text| wish(&text))
            .unwrap_or(Wish::Be(Qos::AtLeastOnce)),
        keeps_retain: judge.text(&schema::kinds::UPLINK_RETAIN, name).as_deref() != Some("never"),
        properties,
        id_property,
    }
}

fn list<T>(
    judge: &mut Judge<'_>,
    key: &'static Key,
    name: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let mut parsed = Vec::new();
    for (text, origin) in judge.list(key, name).unwrap_or_default() {
        match parse(&text) {
            Ok(entry) => parsed.push(entry),
            Err(problem) => judge.complain(key, name, |error| ConfigError {
                origin,
                problem,
                found: Some(format!("{text:?}")),
                allowed: Some(key.allowed.describe()),
                ..error
            }),
        }
    }
    parsed
}

/// 3.1.1, and a shared subscription, have no way to say that our own messages shall not come back: then topics must not meet.
fn refuse_loops(
    judge: &mut Judge<'_>,
    name: &str,
    entries: &[Entry],
    inbound: &[&InboundEntry],
    prefix: &str,
) {
    let mut images: Vec<String> = entries.iter().map(|entry| entry.template.image(prefix)).collect();
    if !entries.iter().any(|entry| entry.filter == "#") {
        images.push(image(prefix));
    }
    for entry in inbound {
        let filter = unshared(&entry.filter);
        let Some(met) = images.iter().find(|image| filters_meet(image, filter)) else { continue };
        judge.complain(&schema::kinds::UPLINK_INBOUND, name, |error| ConfigError {
            problem: "would take back what this uplink sends: neither MQTT 3.1.1 nor a shared subscription can tell the two apart"
                .to_owned(),
            found: Some(format!("{:?}, and messages go to {met:?}", entry.filter)),
            hint: Some(
                "speak version 5; or mark messages with id_property, in 3.1.1 with properties = \"topic\" or \"json\", too; or set topic_prefix or topics so that they do not meet"
                    .to_owned(),
            ),
            ..error
        });
    }
}

/// Filter, template, options.
type Parts<'t> = (String, Template, Vec<(&'t str, &'t str)>);

/// `FILTER -> TEMPLATE OPTION…`, or `FILTER OPTION…` that leaves the topic as it is.
fn split(text: &str) -> Result<Parts<'_>, String> {
    let (filter, rest) = match text.split_once("->") {
        Some((filter, rest)) => (filter.trim(), rest.trim()),
        None => match text.trim().split_once(char::is_whitespace) {
            Some((filter, rest)) => (filter, rest),
            None => (text.trim(), ""),
        },
    };
    let mut words = rest.split_whitespace();
    let template = if text.contains("->") {
        words.next().ok_or_else(|| "has no template behind ->".to_owned())?
    } else {
        "{topic}"
    };
    if filter.contains(char::is_whitespace) {
        return Err("has a space in its filter; write + for a level with spaces".to_owned());
    }
    let template = Template::parse(template).map_err(|error| format!("its template: {error}"))?;
    let options = words.map(|word| {
        word.split_once('=').ok_or_else(|| format!("{word} is no option; write qos=1 or retain=never"))
    });
    Ok((filter.to_owned(), template, options.collect::<Result<_, _>>()?))
}

fn wish(text: &str) -> Option<Wish> {
    Some(match text {
        "0" => Wish::Be(Qos::AtMostOnce),
        "1" => Wish::Be(Qos::AtLeastOnce),
        "2" => Wish::Be(Qos::ExactlyOnce),
        "as-published" => Wish::AsPublished,
        _ => return None,
    })
}

fn parse_entry(text: &str) -> Result<Entry, String> {
    let (filter, template, options) = split(text)?;
    validate_filter(&filter).map_err(|error| format!("its filter: {error}"))?;
    let mut entry = Entry { filter, template, qos: None, retain: None };
    for (option, value) in options {
        match (option, value) {
            ("qos", value) if wish(value).is_some() => entry.qos = wish(value),
            ("retain", "always") => entry.retain = Some(true),
            ("retain", "never") => entry.retain = Some(false),
            ("retain", "keep") => entry.retain = None,
            _ => {
                return Err(no_option(
                    option,
                    value,
                    "qos=0, qos=1, qos=2, qos=as-published, retain=keep, retain=never, retain=always",
                ));
            }
        }
    }
    Ok(entry)
}

fn parse_inbound(text: &str) -> Result<InboundEntry, String> {
    let (filter, template, options) = split(text)?;
    TopicFilter::check(&filter).map_err(|error| format!("its filter: {error}"))?;
    let mut entry = InboundEntry { filter, template, qos: Qos::AtLeastOnce, retain: true };
    for (option, value) in options {
        match (option, value) {
            ("qos", "0") => entry.qos = Qos::AtMostOnce,
            ("qos", "1") => entry.qos = Qos::AtLeastOnce,
            ("qos", "2") => entry.qos = Qos::ExactlyOnce,
            ("retain", "keep") => entry.retain = true,
            ("retain", "never") => entry.retain = false,
            _ => return Err(no_option(option, value, "qos=0, qos=1, qos=2, retain=keep, retain=never")),
        }
    }
    Ok(entry)
}

fn no_option(option: &str, value: &str, there_are: &str) -> String {
    format!("{option}={value} is no option; there are {there_are}")
}
