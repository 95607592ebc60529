//! `millrace route check|test|explain`: compile routes, try them, and show how they are found, without a router.
//!
//! Knows: files of routes and of one message. Never: what a route means (that is the crate `routes`).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use model::{Message, Property, Qos, RouteId, SinkId};
use routes::{Cost, Reason, RouteTable, Scratch, Sink, Verdict};
use serde::Deserialize;
use serde_json::Value;

use super::{Exit, RouteArgs, RouteCommand, RouteTestArgs};
use crate::config::{self, Route};

/// Does what `args` ask, writing results to `out` and mistakes to `err`.
///
/// Fails only if the writers fail; what is wrong with the files is written and becomes `Exit::BadConfig`.
pub fn route(args: &RouteArgs, out: &mut impl Write, err: &mut impl Write) -> io::Result<Exit> {
    let file = match &args.command {
        RouteCommand::Check { file } | RouteCommand::Explain { file } => file,
        RouteCommand::Test(args) => &args.file,
    };
    let (routes, table) = match config::load_routes(file) {
        Ok(loaded) => loaded,
        Err(errors) => {
            writeln!(err, "{errors}")?;
            return Ok(Exit::BadConfig);
        }
    };
    match &args.command {
        RouteCommand::Check { .. } => list(&routes, &table, out)?,
        RouteCommand::Explain { .. } => show_plan(&routes, &table, out)?,
        RouteCommand::Test(args) => match Sample::load(args) {
            Ok(sample) => try_sample(&sample, &routes, &table, out)?,
            Err(fault) => {
                writeln!(err, "{fault}")?;
                return Ok(Exit::BadConfig);
            }
        },
    }
    Ok(Exit::Done)
}

/// A sink as a route writes it.
pub(crate) fn sink_name(sink: &Sink) -> String {
    match sink {
        Sink::Upstream => "$upstream".to_owned(),
        Sink::Uplink(name) => format!("uplink({name:?})"),
        Sink::Topic(template) => format!("topic({:?})", template.as_str()),
        Sink::Input { module, input } => format!("BrokeredEndpoint(\"/modules/{module}/inputs/{input}\")"),
    }
}

fn list(routes: &[Route], table: &RouteTable, out: &mut impl Write) -> io::Result<()> {
    for (index, route) in routes.iter().enumerate() {
        let names: Vec<_> = config::sinks(table, index).map(sink_name).collect();
        writeln!(out, "{}  priority {}  to {}", route.spec.name, route.spec.priority, names.join(", "))?;
    }
    writeln!(out, "{} routes, all good", routes.len())
}

/// The message to try, as its file has it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sample {
    topic: String,
    source: Option<String>,
    /// Any JSON; its text is the payload.
    body: Option<Value>,
    /// A payload that is not JSON.
    text: Option<String>,
    properties: BTreeMap<String, Value>,
    system: BTreeMap<String, Value>,
    client: String,
    user: String,
    qos: u8,
    retain: bool,
}

impl Sample {
    /// The message of the file with what the flags change; `Err` is a line for a person.
    fn load(args: &RouteTestArgs) -> Result<Sample, String> {
        let mut sample = args.message.as_deref().map_or_else(|| Ok(Sample::default()), Sample::read)?;
        if let Some(topic) = &args.topic {
            sample.topic.clone_from(topic);
        }
        if let Some(client) = &args.client {
            sample.client.clone_from(client);
        }
        for property in &args.properties {
            let (name, value) =
                property.split_once('=').ok_or_else(|| format!("--prop {property}: expected KEY=VALUE"))?;
            sample.properties.insert(name.to_owned(), Value::String(value.to_owned()));
        }
        if sample.body.is_some() && sample.text.is_some() {
            return Err("the message has both body and text; leave one out".to_owned());
        }
        if Qos::from_bits(sample.qos).is_none() {
            return Err(format!("qos {}: expected 0, 1 or 2", sample.qos));
        }
        // An empty topic stands for a message of the IoT Hub dialect, which has a source instead.
        if !sample.topic.is_empty()
            && let Err(fault) = model::validate_name(&sample.topic)
        {
            return Err(format!("topic {:?}: {fault}", sample.topic));
        }
        Ok(sample)
    }

    fn read(path: &Path) -> Result<Sample, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
        // serde would take a list for the fields in their order.
        if !text.trim_start().starts_with('{') {
            return Err(format!("{}: expected a JSON object", path.display()));
        }
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Shows what the router would do, route by route: where to, or which part of the condition was not true and why.
fn try_sample(sample: &Sample, routes: &[Route], table: &RouteTable, out: &mut impl Write) -> io::Result<()> {
    let body = match (&sample.body, &sample.text) {
        (Some(json), _) => json.to_string(),
        (None, Some(text)) => text.clone(),
        (None, None) => String::new(),
    };
    let (property_texts, system_texts) = (texts(&sample.properties), texts(&sample.system));
    let (properties, system) = (bag(&property_texts), bag(&system_texts));
    let message = Message {
        source: sample.source.as_deref().unwrap_or("/messages/"),
        properties: &properties,
        system: &system,
        client_id: &sample.client,
        user: &sample.user,
        qos: Qos::from_bits(sample.qos).unwrap_or_default(),
        retain: sample.retain,
        ..Message::new(&sample.topic, body.as_bytes())
    };
    let mut matched = 0;
    for explanation in table.explain(&message).routes {
        let name = &explanation.name;
        match explanation.verdict {
            Verdict::Matches { sinks, overruled } => {
                matched += 1;
                write_match(table, explanation.route, &sinks, &message, out)?;
                for (sink, by) in overruled {
                    let by = routes.get(by.0 as usize).map_or("?", |route| route.spec.name.as_str());
                    writeln!(out, "{name}: matches, but route {by} decides {}", show_sink(table, sink))?;
                }
            }
            Verdict::OtherSource { source } => writeln!(out, "{name}: not from its source {source}")?,
            Verdict::NotTrue { undefined, because } => {
                let truth = if undefined { "undefined, and undefined does not match" } else { "false" };
                writeln!(out, "{name}: its condition is {truth}")?;
                for reason in because {
                    write_reason(&reason, out)?;
                }
            }
        }
    }
    writeln!(out, "{matched} of {} routes match", routes.len())
}

fn write_match(
    table: &RouteTable,
    id: RouteId,
    sinks: &[SinkId],
    message: &Message<'_>,
    out: &mut impl Write,
) -> io::Result<()> {
    let Some(route) = table.routes().get(id.0 as usize) else { return Ok(()) };
    for sink in sinks {
        write!(
            out,
            "{}: matches, to {}, priority {}",
            route.name(),
            show_sink(table, *sink),
            route.priority()
        )?;
        match route.ttl_millis() {
            Some(ttl) => writeln!(out, ", time to live {} s", ttl / 1_000)?,
            None => writeln!(out)?,
        }
        if let Some(Sink::Topic(template)) = table.sinks().get(sink.0 as usize) {
            let mut topic = String::new();
            match template.render(message, &mut topic) {
                Ok(()) => writeln!(out, "    as topic {topic}")?,
                Err(error) => writeln!(out, "    dropped: {error}")?,
            }
        }
    }
    if route.is_gated() {
        writeln!(out, "    unless SAMPLE, THROTTLE or CHANGED holds it back, which needs its history")?;
    }
    if route.projects() {
        let mut body = Vec::new();
        match table.project(id, message, &mut Scratch::new(), &mut body) {
            Ok(_) => writeln!(out, "    sends {}", String::from_utf8_lossy(&body))?,
            Err(error) => writeln!(out, "    dropped: {error}")?,
        }
    }
    Ok(())
}

fn write_reason(reason: &Reason, out: &mut impl Write) -> io::Result<()> {
    write!(out, "    {} is {}", reason.expression, reason.value)?;
    let operands: Vec<_> = reason.operands.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    if operands.is_empty() { writeln!(out) } else { writeln!(out, ": {}", operands.join(", ")) }
}

fn show_sink(table: &RouteTable, sink: SinkId) -> String {
    table.sinks().get(sink.0 as usize).map(sink_name).unwrap_or_default()
}

/// Shows how each route is found, what it reads and what it costs.
fn show_plan(routes: &[Route], table: &RouteTable, out: &mut impl Write) -> io::Result<()> {
    for (index, plan) in table.plan().into_iter().enumerate() {
        let cost = match plan.cost {
            Cost::Never => "never matches; it costs nothing, and is probably not meant",
            Cost::Always => "always matches",
            Cost::Indexed => "decided by an index; costs nothing unless it matches",
            Cost::Proposed => "asked only if an index proposes it",
            Cost::Asked => "asked for every message of its source",
        };
        writeln!(out, "{}: from {}\n    {cost}", plan.name, plan.source)?;
        if !plan.found_by.is_empty() {
            writeln!(out, "    found by {}", plan.found_by)?;
        }
        if !plan.reads.is_empty() {
            writeln!(out, "    reads {}", plan.reads.join(", "))?;
        }
        if let Some(drain) = routes.get(index).and_then(|route| route.drain) {
            writeln!(out, "    a backlog drains {drain}, if no other route of its lane wants it otherwise")?;
        }
    }
    writeln!(out, "{} routes", table.routes().len())
}

/// Property values as text; `null` is a name without a value.
fn texts(values: &BTreeMap<String, Value>) -> Vec<(&str, Option<String>)> {
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    values.iter().map(|(name, value)| (name.as_str(), text(value))).collect()
}

fn bag<'t>(texts: &'t [(&'t str, Option<String>)]) -> Vec<Property<'t>> {
    texts.iter().map(|(name, value)| Property { name, value: value.as_deref() }).collect()
}
