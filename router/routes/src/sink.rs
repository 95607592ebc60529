//! Where messages go.
//!
//! Knows: the kinds of sinks and how a topic is made from a template. May use: `model`, `diagnostic`, `value`.
//! In:  a template while compiling; a message while it is delivered. Out: a topic name.
//! Invariant: what `render` gives is a valid topic name, and it starts with `$` only if the template does.

use std::fmt::Write;

use model::{InvalidTopic, Message};

use crate::diagnostic::Fault;
use crate::value::same_name;

/// Where a route's matches go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sink {
    /// `$upstream`: the default uplink.
    Upstream,
    /// `uplink("name")`: an uplink by its name in the configuration.
    Uplink(String),
    /// `topic "…"`: published again on this router.
    Topic(TopicTemplate),
    /// `BrokeredEndpoint("/modules/MODULE/inputs/INPUT")`: an input of a module on this device.
    Input {
        /// The module.
        module: String,
        /// Its input.
        input: String,
    },
}

/// A topic name with holes: `alerts/{$topic[1]}/{severity}`.
///
/// Holes: `{$topic}`, `{$topic[n]}` (from 0), `{$clientId}`, `{$user}`, `{$qos}`, `{$retain}`, `{$name}` for a
/// system property, `{name}` for an application property.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicTemplate {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Text(String),
    Topic,
    Level(usize),
    ClientId,
    User,
    Qos,
    Retain,
    System(String),
    Property(String),
}

/// Why a template gives no topic for a message: the message is not republished, and that is counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The message lacks what a hole asks for.
    #[error("the message has no {{{0}}}")]
    Missing(String),
    /// A value makes the topic invalid, for example by a wildcard.
    #[error("the topic is not valid: {0}")]
    Invalid(#[from] InvalidTopic),
    /// A value would make the topic one of the reserved ones.
    #[error("the topic would start with '$', which only the template itself may do")]
    Reserved,
}

impl TopicTemplate {
    /// Reads a template; the fault's span counts bytes of `text`.
    pub(crate) fn parse(text: &str) -> Result<TopicTemplate, Fault> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(open) = rest.find('{') {
            let at = text.len() - rest.len() + open;
            let Some(close) = rest[open..].find('}') else {
                return Err(Fault::new(at..at + 1, "missing closing '}' in the topic"));
            };
            if open > 0 {
                parts.push(Part::Text(rest[..open].to_owned()));
            }
            let name = rest[open + 1..open + close].trim();
            parts.push(hole(name).map_err(|message| Fault::new(at..at + close + 1, message))?);
            rest = &rest[open + close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        // With `x` in every hole a sound template is a sound name.
        let sample: String =
            parts.iter().map(|part| if let Part::Text(text) = part { text } else { "x" }).collect();
        if let Err(reason) = model::validate_name(&sample) {
            return Err(Fault::new(0..text.len(), format!("this is no topic name: {reason}")));
        }
        Ok(TopicTemplate { text: text.to_owned(), parts })
    }

    /// The template as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is a plain topic, the same for every message.
    pub fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// Whether a hole is filled from an application or system property.
    pub fn needs_properties(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::System(_) | Part::Property(_)))
    }

    /// Writes the topic for `message` into `out`, which is cleared first.
    ///
    /// Errors: a hole that the message cannot fill, or a value that makes the topic invalid; `out` is then
    /// unspecified. Cost: linear in the topic; no allocation once `out` is large enough.
    pub fn render(&self, message: &Message<'_>, out: &mut String) -> Result<(), RenderError> {
        out.clear();
        for part in &self.parts {
            part.render(message, out)?;
        }
        model::validate_name(out)?;
        if out.starts_with('$') && !self.text.starts_with('$') {
            return Err(RenderError::Reserved);
        }
        Ok(())
    }
}

impl Part {
    fn render(&self, message: &Message<'_>, out: &mut String) -> Result<(), RenderError> {
        let present = |text: &'_ str| !text.is_empty();
        let value = match self {
            Part::Text(text) => Some(text.as_str()),
            Part::Topic => Some(message.topic),
            Part::Level(level) => message.topic.split('/').nth(*level),
            Part::ClientId => Some(message.client_id).filter(|text| present(text)),
            Part::User => Some(message.user).filter(|text| present(text)),
            Part::Qos => return number(message.qos.bits(), out),
            Part::Retain => Some(if message.retain { "true" } else { "false" }),
            Part::System(name) => lookup(message.system, name),
            Part::Property(name) => lookup(message.properties, name),
        };
        out.push_str(value.ok_or_else(|| RenderError::Missing(self.name()))?);
        Ok(())
    }

    fn name(&self) -> String {
        match self {
            Part::Text(_) => String::new(),
            Part::Topic => "$topic".to_owned(),
            Part::Level(level) => format!("$topic[{level}]"),
            Part::ClientId => "$clientId".to_owned(),
            Part::User => "$user".to_owned(),
            Part::Qos => "$qos".to_owned(),
            Part::Retain => "$retain".to_owned(),
            Part::System(name) => format!("${name}"),
            Part::Property(name) => name.clone(),
        }
    }
}

fn number(number: u8, out: &mut String) -> Result<(), RenderError> {
    write!(out, "{number}").expect("writing to a String cannot fail");
    Ok(())
}

fn hole(name: &str) -> Result<Part, String> {
    let lower = name.to_ascii_lowercase();
    let level = lower.strip_prefix("$topic[").map(|rest| rest.strip_suffix(']').and_then(|n| n.parse().ok()));
    Ok(match (lower.as_str(), level) {
        (_, Some(Some(level))) => Part::Level(level),
        (_, Some(None)) => {
            return Err("expected a level of the topic, counted from 0, such as {$topic[2]}".into());
        }
        ("", _) => return Err("expected a name between '{' and '}'".into()),
        ("$topic", _) => Part::Topic,
        ("$clientid", _) => Part::ClientId,
        ("$user", _) => Part::User,
        ("$qos", _) => Part::Qos,
        ("$retain", _) => Part::Retain,
        (body, _) if body == "$body" || body.starts_with("$body.") => {
            return Err("a topic cannot be made from the body; use the topic's levels or a property".into());
        }
        _ => match name.strip_prefix('$') {
            Some("") => return Err("expected a name after '$'".into()),
            Some(system) => Part::System(system.to_owned()),
            None => Part::Property(name.to_owned()),
        },
    })
}

fn lookup<'t>(properties: &[model::Property<'t>], name: &str) -> Option<&'t str> {
    properties.iter().find(|property| same_name(property.name, name)).and_then(|property| property.value)
}

#[cfg(test)]
mod tests;
