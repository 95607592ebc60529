//! Compares what is written with the schema: unknown keys, wrong types, impossible values; all of them.
//!
//! Knows: the tree as written and the rules of one key. Never: what two keys mean together.
//! In:  a `Raw`. Out: typed values, and the list of mistakes, each with key, value found and values allowed.

use std::net::SocketAddr;

use super::errors::ConfigError;
use super::raw::{Node, Origin, Raw, Section, Value};
use super::schema::{self, Allowed, Default, Key};
use super::{suggest, transport};

/// Hands out values by key and collects the mistakes on the way.
#[derive(Debug)]
pub(super) struct Judge<'r> {
    raw: &'r Raw,
    errors: Vec<ConfigError>,
}

impl<'r> Judge<'r> {
    /// Reports what `raw` holds and no key allows; values are judged when they are asked for.
    pub(super) fn new(raw: &'r Raw) -> Judge<'r> {
        let mut judge = Judge { raw, errors: Vec::new() };
        judge.walk(raw.root(), &mut Vec::new());
        judge
    }

    /// The value of `key`, or its default; `None` if it has neither, or if the value was refused.
    pub(super) fn integer(&mut self, key: &'static Key, name: &str) -> Option<u64> {
        let Some((value, origin)) = self.written(key, name) else {
            return match key.default {
                Default::Integer(default) => Some(default),
                _ => None,
            };
        };
        let Allowed::Integer { min, max } = key.allowed else { return None };
        let number = match value {
            Value::Integer(number) => Some(*number),
            Value::Untyped(text) => text.replace('_', "").parse().ok(),
            _ => None,
        };
        match number.and_then(|number| u64::try_from(number).ok()) {
            Some(number) if (min..=max).contains(&number) => Some(number),
            _ => self.refuse(key, name, value, origin, None),
        }
    }

    /// As `integer`.
    pub(super) fn boolean(&mut self, key: &'static Key, name: &str) -> Option<bool> {
        let Some((value, origin)) = self.written(key, name) else {
            return match key.default {
                Default::Boolean(default) => Some(default),
                _ => None,
            };
        };
        match value {
            Value::Boolean(truth) => Some(*truth),
            Value::Untyped(text) if text == "true" => Some(true),
            Value::Untyped(text) if text == "false" => Some(false),
            _ => self.refuse(key, name, value, origin, None),
        }
    }

    /// As `integer`, for every key that is text; what the text must look like is judged here too.
    pub(super) fn text(&mut self, key: &'static Key, name: &str) -> Option<String> {
        let Some((value, origin)) = self.written(key, name) else {
            return match key.default {
                Default::Text(default) => Some(default.to_owned()),
                Default::Required => {
                    self.missing(key, name);
                    None
                }
                _ => None,
            };
        };
        let text = match value {
            Value::String(text) | Value::Untyped(text) => text,
            other => {
                let hint = format!("write it in quotes: \"{other}\"");
                let hint = matches!(other, Value::Integer(_) | Value::Boolean(_)).then_some(hint);
                return self.refuse(key, name, value, origin, hint.filter(|_| !is_secret(key)));
            }
        };
        match judge_text(&key.allowed, text) {
            Ok(()) => Some(text.clone()),
            Err(hint) => self.refuse(key, name, value, origin, hint),
        }
    }

    /// As `integer`; an empty text is none.
    pub(super) fn address(&mut self, key: &'static Key, name: &str) -> Option<SocketAddr> {
        // `text` has judged it: what does not parse is empty.
        self.text(key, name)?.parse().ok()
    }

    /// A list of texts, each with where it was written; `None` if nobody wrote it. As `integer`.
    pub(super) fn list(&mut self, key: &'static Key, name: &str) -> Option<Vec<(String, Origin)>> {
        let (value, origin) = self.written(key, name)?;
        let Value::List(values) = value else { return self.refuse(key, name, value, origin, None) };
        let mut texts = Vec::with_capacity(values.len());
        for (value, origin) in values {
            match value {
                Value::String(text) => texts.push((text.clone(), origin.clone())),
                other => self.refuse(key, name, other, origin, None)?,
            }
        }
        Some(texts)
    }

    /// The names that the operator gave in a section, such as those of `uplink`, in order.
    pub(super) fn names(&self, section: &[&str]) -> Vec<String> {
        let Some(Node::Section(names, _)) = self.raw.node(section) else { return Vec::new() };
        // `uplink.url = …` names no uplink called `url`; `walk` has said what it is.
        let may_be_value =
            schema::keys().any(|key| key.path.strip_suffix(".*") == Some(section.join(".").as_str()));
        let is_name = |node: &Node| may_be_value || matches!(node, Node::Section(..));
        names.iter().filter(|(_, node)| is_name(node)).map(|(name, _)| name.clone()).collect()
    }

    /// Whether somebody wrote this key.
    pub(super) fn is_written(&self, key: &Key, name: &str) -> bool {
        self.written(key, name).is_some()
    }

    /// Where a key was written, or the nearest section above it.
    pub(super) fn origin(&self, path: &str, name: &str) -> Origin {
        let segments = segments(path, name);
        (1..=segments.len())
            .rev()
            .find_map(|depth| self.raw.node(&segments[..depth]))
            .map_or(Origin::Nowhere, |node| node.origin().clone())
    }

    /// Adds a mistake about a key that only shows in context.
    pub(super) fn complain(
        &mut self,
        key: &Key,
        name: &str,
        complete: impl FnOnce(ConfigError) -> ConfigError,
    ) {
        let error = ConfigError::new(self.origin(key.path, name), concrete(key.path, name), "");
        self.errors.push(complete(error));
    }

    /// Adds a mistake.
    pub(super) fn push(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// Whether there is no mistake yet.
    pub(super) fn is_flawless(&self) -> bool {
        self.errors.is_empty() && !self.is_damaged()
    }

    /// Whether a layer could not be read as a whole, so that something may only seem to be missing.
    pub(super) fn is_damaged(&self) -> bool {
        !self.raw.faults().is_empty()
    }

    /// Every mistake found, in the order of the layers and of their lines. What a line that is not even TOML
    /// seems to say is left out.
    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        let faults = self.raw.faults();
        let is_torn = |origin: &Origin| {
            matches!(origin, Origin::File { line: Some(_), .. })
                && faults.iter().any(|fault| fault.origin == *origin)
        };
        let judged = self.errors.into_iter().filter(|error| !is_torn(&error.origin));
        let mut errors: Vec<_> = faults.iter().cloned().chain(judged).collect();
        errors.sort_by_key(|error| error.origin.rank());
        errors
    }

    fn written(&self, key: &Key, name: &str) -> Option<(&'r Value, &'r Origin)> {
        match self.raw.node(&segments(key.path, name))? {
            Node::Value(value, origin) => Some((value, origin)),
            Node::Section(..) => None,
        }
    }

    /// A key that must be written is not.
    pub(super) fn missing(&mut self, key: &Key, name: &str) {
        if !self.is_damaged() {
            self.complain(key, name, |error| ConfigError {
                problem: "is missing".to_owned(),
                allowed: Some(key.allowed.describe()),
                ..error
            });
        }
    }

    fn refuse<T>(
        &mut self,
        key: &Key,
        name: &str,
        value: &Value,
        origin: &Origin,
        hint: Option<String>,
    ) -> Option<T> {
        let found = if is_secret(key) { "(not shown)".to_owned() } else { value.to_string() };
        let later = match (key.allowed, value) {
            (Allowed::Choice { later, .. }, Value::String(text) | Value::Untyped(text)) => {
                later.contains(&text.as_str())
            }
            _ => false,
        };
        let problem = if later { NOT_AVAILABLE } else { "is not allowed" };
        self.errors.push(ConfigError {
            found: Some(found),
            allowed: Some(key.allowed.describe()),
            hint,
            ..ConfigError::new(origin.clone(), concrete(key.path, name), problem)
        });
        None
    }

    /// Reports keys that do not exist, values that should be tables and tables that should be values.
    fn walk(&mut self, section: &Section, path: &mut Vec<String>) {
        for (name, node) in section {
            path.push(name.clone());
            let key = schema::keys().find(|key| matches_whole(key.path, path));
            let is_section = schema::keys().any(|key| matches_beginning(key.path, path));
            match (node, key) {
                (Node::Section(below, _), _) if is_section => self.walk(below, path),
                (Node::Value(..), Some(_)) => {}
                (Node::Section(..), Some(key)) => self.errors.push(ConfigError {
                    found: Some("a table".to_owned()),
                    allowed: Some(key.allowed.describe()),
                    ..ConfigError::new(node.origin().clone(), suggest::dotted(path), "is not allowed")
                }),
                (Node::Value(value, _), None) if is_section => self.errors.push(ConfigError {
                    found: (!schema::is_secret_name(name)).then(|| value.to_string()),
                    allowed: Some(format!("a table with the keys {}", suggest::keys_of(path).join(", "))),
                    hint: suggest::nearest(path),
                    ..ConfigError::new(
                        node.origin().clone(),
                        suggest::dotted(path),
                        "is not a value but a table",
                    )
                }),
                // A section that does not exist is reported by its keys: they show best what was meant.
                (Node::Section(below, _), None) if !below.is_empty() => self.walk(below, path),
                (_, None) => {
                    let siblings = suggest::keys_of(&path[..path.len() - 1]);
                    self.errors.push(ConfigError {
                        allowed: (!siblings.is_empty()).then(|| siblings.join(", ")),
                        hint: suggest::nearest(path),
                        ..ConfigError::new(node.origin().clone(), suggest::dotted(path), "is not a key")
                    });
                }
            }
            path.pop();
        }
    }
}

const NOT_AVAILABLE: &str = "is not available in this version";

/// Stands between the names for a key that has several, such as `listener.*.sni.*.cert`.
pub(super) const BETWEEN_NAMES: char = '\0';

/// The segments of a key path with the operator's names in place of each `*`.
fn segments<'a>(path: &'a str, name: &'a str) -> Vec<&'a str> {
    let mut names = name.split(BETWEEN_NAMES);
    let mut next = || names.next().unwrap_or_default();
    path.split('.').map(|segment| if segment == "*" { next() } else { segment }).collect()
}

fn concrete(path: &str, name: &str) -> String {
    suggest::dotted(&segments(path, name))
}

fn is_secret(key: &Key) -> bool {
    matches!(key.allowed, Allowed::Secret)
}

fn matches_whole(pattern: &str, path: &[String]) -> bool {
    pattern.split('.').count() == path.len() && fits(pattern, path)
}

fn matches_beginning(pattern: &str, path: &[String]) -> bool {
    pattern.split('.').count() > path.len() && fits(pattern, path)
}

fn fits(pattern: &str, path: &[String]) -> bool {
    pattern.split('.').zip(path).all(|(segment, name)| segment == "*" || segment == name)
}

/// `Err` with a hint if the text does not fit.
fn judge_text(allowed: &Allowed, text: &str) -> Result<(), Option<String>> {
    let fits = match allowed {
        Allowed::Choice { values, .. } => {
            return if values.contains(&text) { Ok(()) } else { Err(suggest::nearest_word(text, values)) };
        }
        Allowed::Text | Allowed::Secret | Allowed::Route => !text.trim().is_empty(),
        Allowed::AddressOrNone if text.is_empty() => true,
        Allowed::AddressOrNone => return judge_address(text),
        Allowed::Url => return transport::parse_url(text).map(|_| ()),
        Allowed::ProxyUrl => return transport::parse_proxy(text).map(|_| ()),
        Allowed::Pins => return transport::parse_pins(text).map(|_| ()),
        Allowed::WorkloadUri => crate::iotedge::WorkloadUri::parse(text).is_some(),
        Allowed::FileMode => u32::from_str_radix(text, 8).is_ok_and(|mode| mode <= 0o777),
        Allowed::TopicPrefix => !text.contains(['+', '#', '\0']),
        Allowed::LogFilter => text.split(',').all(is_log_directive),
        Allowed::Fitting { judge, .. } => return judge(text),
        Allowed::TextOrNone => true,
        Allowed::Word => !text.is_empty() && text.chars().all(is_word),
        Allowed::Integer { .. } | Allowed::Boolean | Allowed::Rules | Allowed::List(_) => false,
    };
    if fits { Ok(()) } else { Err(None) }
}

/// Whether it may stand in the name of a gateway.
pub(super) fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

fn judge_address(text: &str) -> Result<(), Option<String>> {
    if text.parse::<SocketAddr>().is_ok() {
        return Ok(());
    }
    Err(match text.rsplit_once(':') {
        Some((_, port)) if port.parse::<u32>().is_ok_and(|port| port > 65_535) => {
            Some("the largest port is 65535".to_owned())
        }
        Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
            Some(format!("for every interface write 0.0.0.0:{port}"))
        }
        Some(("localhost", port)) => Some(format!("write 127.0.0.1:{port}")),
        Some((host, port)) if host.contains(':') && !host.starts_with('[') && port.parse::<u16>().is_ok() => {
            Some(format!("an IPv6 address stands in brackets, as in [{host}]:{port}"))
        }
        None if text.parse::<std::net::IpAddr>().is_ok() => Some("the port is missing".to_owned()),
        None if text.parse::<u16>().is_ok() => Some("the address is missing".to_owned()),
        _ => None,
    })
}

/// `LEVEL` or `TARGET=LEVEL`.
fn is_log_directive(text: &str) -> bool {
    let (target, level) = text.trim().split_once('=').unwrap_or(("all", text.trim()));
    let is_target = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    !target.is_empty()
        && target.chars().all(is_target)
        && ["off", "error", "warn", "info", "debug", "trace"].contains(&level)
}
