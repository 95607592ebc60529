//! What the `$edgeHub` twin, or a deployment manifest, says to this router, and what it reports back
//! (`reference/edgehub.md` §3.2, §6).
//!
//! May use: JSON, `twin`. In: desired properties of schema 1.0 to 1.3. Out: routes and settings, or every mistake at
//! once; the document to report. Routes are text here: whoever compiles them adds what is wrong with them.
//! Bound: the document; `routes_max`, given by the caller.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::twin::Object;

/// What a route has that states no priority: the least urgent, and the only value above 9 that a document may say.
pub const PRIORITY_DEFAULT: u64 = 2_000_000_000;

/// What the desired properties say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubConfig {
    /// `1.0` to `1.3`
    pub schema: Schema,
    /// By name.
    pub routes: Vec<RouteSpec>,
    /// Time to live of messages whose route states none, in seconds; `None`: for ever.
    pub ttl_secs: Option<u64>,
    /// `storeLimits.maxSizeBytes`
    pub store_bytes_max: Option<u64>,
    /// What is understood and has no effect, to be said once.
    pub ignored: Vec<&'static str>,
}

/// Version of the document: `1.minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Schema {
    minor: u8,
}

impl Schema {
    /// The newest we know.
    pub const NEWEST: Schema = Schema { minor: 3 };

    fn parse(text: &str) -> Option<Schema> {
        let parts: Vec<u32> = text.trim().split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        match parts[..] {
            [1, minor @ 0..=3] | [1, minor @ 0..=3, _] | [1, minor @ 0..=3, _, _] => {
                Some(Schema { minor: minor as u8 })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.minor)
    }
}

/// One route, not compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// Its name.
    pub name: String,
    /// `FROM … INTO …`
    pub text: String,
    /// 0 is the most urgent; `None` is behind 9.
    pub priority: Option<u8>,
    /// `None`: as the document says for all.
    pub ttl_secs: Option<u64>,
}

/// One mistake in the document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// None at all.
    #[error("EdgeHub config missing SchemaVersion")]
    NoSchema,
    /// Not `1.0` to `1.3`.
    #[error("EdgeHub config contains unsupported SchemaVersion {0}: 1.0, 1.1, 1.2 and 1.3 are known")]
    Schema(String),
    /// Missing, or of another type.
    #[error("{key}: expected {expected}, found {found}")]
    Type {
        /// Where.
        key: String,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A name that is none.
    #[error("Empty route name")]
    RouteName,
    /// Blank where blank means nothing.
    #[error("routes.{0}: the route is blank")]
    BlankRoute(String),
    /// Not 0 to 9.
    #[error("Invalid priority for route: {route}, priority can only be between 0-9; found {found}")]
    Priority {
        /// Whose.
        route: String,
        /// What it says.
        found: String,
    },
    /// Over the caller's bound.
    #[error("routes: {found} of them; limits.routes_max is {max}")]
    TooManyRoutes {
        /// How many.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// Not a manifest.
    #[error(
        "this is neither a deployment manifest (modulesContent.$edgeHub) nor desired properties of $edgeHub"
    )]
    NoHub,
}

/// The desired properties of `$edgeHub` in a deployment manifest; in either of its two forms, or as they are.
pub fn of_manifest(document: &Value) -> Result<&Object, ManifestError> {
    let wrapped = document.get("content").unwrap_or(document);
    let hub = wrapped.get("modulesContent").and_then(|modules| modules.get("$edgeHub"));
    let desired = match hub {
        Some(hub) => hub.get("properties.desired").or_else(|| hub.get("properties")?.get("desired")),
        None => Some(document).filter(|document| document.get("schemaVersion").is_some()),
    };
    desired.and_then(Value::as_object).ok_or(ManifestError::NoHub)
}

impl HubConfig {
    /// Reads desired properties; every mistake at once.
    pub fn parse(desired: &Object, routes_max: usize) -> Result<HubConfig, Vec<ManifestError>> {
        let mut errors = Vec::new();
        let schema = match desired.get("schemaVersion") {
            None | Some(Value::Null) => Err(ManifestError::NoSchema),
            Some(Value::String(text)) => {
                Schema::parse(text).ok_or_else(|| ManifestError::Schema(format!("\"{text}\"")))
            }
            Some(other) => Err(ManifestError::Schema(other.to_string())),
        };
        // Without a version the rest is judged as the newest, so that one look shows everything.
        let schema = schema.unwrap_or_else(|error| {
            errors.push(error);
            Schema::NEWEST
        });
        let mut reader = Reader { schema, errors, ignored: Vec::new() };
        let routes = reader.routes(desired, routes_max);
        let (ttl_secs, store_bytes_max) = reader.store(desired);
        reader.others(desired);
        let Reader { errors, ignored, .. } = reader;
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(HubConfig { schema, routes, ttl_secs, store_bytes_max, ignored })
    }
}

struct Reader {
    schema: Schema,
    errors: Vec<ManifestError>,
    ignored: Vec<&'static str>,
}

impl Reader {
    fn expect(&mut self, key: impl Into<String>, expected: &'static str, found: Option<&Value>) {
        self.errors.push(ManifestError::Type { key: key.into(), expected, found: kind(found) });
    }

    fn routes(&mut self, desired: &Object, routes_max: usize) -> Vec<RouteSpec> {
        let routes = match desired.get("routes") {
            Some(Value::Object(routes)) => routes,
            None | Some(Value::Null) => return Vec::new(),
            found => {
                self.expect("routes", "an object of routes by name", found);
                return Vec::new();
            }
        };
        if routes.len() > routes_max {
            self.errors.push(ManifestError::TooManyRoutes { found: routes.len(), max: routes_max });
        }
        routes.iter().filter_map(|(name, value)| self.route(name, value)).collect()
    }

    fn route(&mut self, name: &str, value: &Value) -> Option<RouteSpec> {
        if name.trim().is_empty() {
            self.errors.push(ManifestError::RouteName);
            return None;
        }
        let spec = |text: &str| RouteSpec {
            name: name.to_owned(),
            text: text.to_owned(),
            priority: None,
            ttl_secs: None,
        };
        match value {
            // The portal deletes a route of schema 1.0 by blanking it; a patch may leave null.
            Value::String(text) if text.trim().is_empty() && self.schema.minor == 0 => None,
            Value::Null if self.schema.minor == 0 => None,
            Value::String(text) if text.trim().is_empty() => {
                self.errors.push(ManifestError::BlankRoute(name.to_owned()));
                None
            }
            Value::String(text) => Some(spec(text)),
            Value::Object(route) if self.schema.minor > 0 => self.route_object(name, route),
            other => {
                let expected =
                    if self.schema.minor == 0 { "a route" } else { "a route, or an object with one" };
                self.expect(format!("routes.{name}"), expected, Some(other));
                None
            }
        }
    }

    fn route_object(&mut self, name: &str, route: &Map<String, Value>) -> Option<RouteSpec> {
        let text = match route.get("route") {
            Some(Value::String(text)) if text.trim().is_empty() => {
                self.errors.push(ManifestError::BlankRoute(name.to_owned()));
                None
            }
            Some(Value::String(text)) => Some(text.clone()),
            found => {
                self.expect(format!("routes.{name}.route"), "a route", found);
                None
            }
        };
        let priority = match route.get("priority") {
            None | Some(Value::Null) => None,
            Some(value) => match value.as_u64() {
                Some(urgent @ 0..=9) => Some(urgent as u8),
                Some(PRIORITY_DEFAULT) => None,
                _ => {
                    let (route, found) = (name.to_owned(), value.to_string());
                    self.errors.push(ManifestError::Priority { route, found });
                    None
                }
            },
        };
        let ttl_secs = match route.get("timeToLiveSecs") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let secs = value.as_u64().filter(|secs| *secs <= u64::from(u32::MAX));
                if secs.is_none() {
                    self.expect(
                        format!("routes.{name}.timeToLiveSecs"),
                        "a number of seconds from 0",
                        Some(value),
                    );
                }
                secs.filter(|secs| *secs > 0)
            }
        };
        text.map(|text| RouteSpec { name: name.to_owned(), text, priority, ttl_secs })
    }

    fn store(&mut self, desired: &Object) -> (Option<u64>, Option<u64>) {
        const KEY: &str = "storeAndForwardConfiguration";
        let store = match desired.get(KEY) {
            Some(Value::Object(store)) => store,
            // Schema 1.0 takes a document without it and keeps messages for ever.
            None | Some(Value::Null) if self.schema.minor == 0 => return (None, None),
            found => {
                self.expect(KEY, "an object with timeToLiveSecs", found);
                return (None, None);
            }
        };
        let ttl_secs = match store.get("timeToLiveSecs") {
            Some(value) if value.is_i64() || value.is_u64() => value.as_u64(),
            found => {
                self.expect(
                    format!("{KEY}.timeToLiveSecs"),
                    "a number of seconds; negative is for ever",
                    found,
                );
                None
            }
        };
        let limits = match store.get("storeLimits") {
            None | Some(Value::Null) => return (ttl_secs, None),
            Some(Value::Object(limits)) => limits,
            found => {
                self.expect(format!("{KEY}.storeLimits"), "an object with maxSizeBytes", found);
                return (ttl_secs, None);
            }
        };
        let bytes_max = limits.get("maxSizeBytes").and_then(Value::as_u64);
        if bytes_max.is_none() {
            let key = format!("{KEY}.storeLimits.maxSizeBytes");
            self.expect(key, "a number of bytes", limits.get("maxSizeBytes"));
        }
        (ttl_secs, bytes_max)
    }

    /// What had a meaning once: judged as ever, and without effect.
    fn others(&mut self, desired: &Object) {
        match desired.get("mqttBroker") {
            None | Some(Value::Null) => {}
            Some(_) if self.schema.minor < 2 => self.ignored.push("mqttBroker: not of this schema"),
            Some(Value::Object(broker)) => {
                self.ignored.push(
                    "mqttBroker: the broker preview ended with edgeHub 1.3; use the configuration's rules",
                );
                self.authorizations(broker.get("authorizations"));
                self.bridges(broker.get("bridges"));
            }
            found => self.expect("mqttBroker", "an object", found),
        }
        match desired.get("integrity") {
            None | Some(Value::Null) => {}
            Some(_) if self.schema.minor < 3 => self.ignored.push("integrity: not of this schema"),
            Some(Value::Object(integrity)) => {
                self.ignored.push("integrity: signatures of manifests are not verified, as in edgeHub");
                self.integrity(integrity);
            }
            found => self.expect("integrity", "an object", found),
        }
    }

    fn authorizations(&mut self, list: Option<&Value>) {
        for (at, one) in self.elements("mqttBroker.authorizations", list).iter().enumerate() {
            let key = format!("mqttBroker.authorizations[{at}]");
            self.texts(format!("{key}.identities"), one.get("identities"), None);
            for side in ["allow", "deny"] {
                for (at, rule) in self.elements(&format!("{key}.{side}"), one.get(side)).iter().enumerate() {
                    let key = format!("{key}.{side}[{at}]");
                    const OPERATIONS: &[&str] = &["mqtt:connect", "mqtt:publish", "mqtt:subscribe"];
                    self.texts(format!("{key}.operations"), rule.get("operations"), Some(OPERATIONS));
                    let connects = |it: &Value| it.as_str() == Some("mqtt:connect");
                    let only_connects = rule
                        .get("operations")
                        .and_then(Value::as_array)
                        .is_some_and(|all| all.iter().all(connects));
                    if !only_connects || rule.get("resources").is_some() {
                        self.texts(format!("{key}.resources"), rule.get("resources"), None);
                    }
                }
            }
        }
    }

    fn bridges(&mut self, list: Option<&Value>) {
        for (at, one) in self.elements("mqttBroker.bridges", list).iter().enumerate() {
            let key = format!("mqttBroker.bridges[{at}]");
            if one.get("endpoint").and_then(Value::as_str).is_none_or(|endpoint| endpoint.trim().is_empty()) {
                self.expect(format!("{key}.endpoint"), "a name", one.get("endpoint"));
            }
            for (at, setting) in
                self.elements(&format!("{key}.settings"), one.get("settings")).iter().enumerate()
            {
                let direction = setting.get("direction");
                if !direction.and_then(Value::as_str).is_some_and(|it| ["in", "out", "both"].contains(&it)) {
                    self.expect(format!("{key}.settings[{at}].direction"), "in, out or both", direction);
                }
            }
        }
    }

    fn integrity(&mut self, integrity: &Map<String, Value>) {
        let header = integrity.get("header");
        for key in ["signercert", "intermediatecacert"] {
            self.texts(format!("integrity.header.{key}"), header.and_then(|it| it.get(key)), None);
        }
        let signature = integrity.get("signature");
        for key in ["bytes", "algorithm"] {
            let found = signature.and_then(|it| it.get(key));
            if found.and_then(Value::as_str).is_none() {
                self.expect(format!("integrity.signature.{key}"), "text", found);
            }
        }
    }

    fn elements<'v>(&mut self, key: &str, list: Option<&'v Value>) -> &'v [Value] {
        match list {
            Some(Value::Array(elements)) => elements,
            None | Some(Value::Null) => &[],
            found => {
                self.expect(key, "a list", found);
                &[]
            }
        }
    }

    fn texts(&mut self, key: String, list: Option<&Value>, allowed: Option<&[&str]>) {
        let legal =
            |it: &Value| it.as_str().is_some_and(|it| allowed.is_none_or(|allowed| allowed.contains(&it)));
        let fits = list.and_then(Value::as_array).is_some_and(|all| !all.is_empty() && all.iter().all(legal));
        if !fits {
            let expected = if allowed.is_some() { "a list of known operations" } else { "a list of texts" };
            self.expect(key, expected, list);
        }
    }
}

const fn kind(value: Option<&Value>) -> &'static str {
    match value {
        None => "nothing",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "true or false",
        Some(Value::Number(_)) => "a number",
        Some(Value::String(_)) => "text",
        Some(Value::Array(_)) => "a list",
        Some(Value::Object(_)) => "an object",
    }
}

/// What the router reports of itself; a patch of the reported properties of `$edgeHub` (§6.3).
#[derive(Clone, Debug, Default)]
pub struct Report<'a> {
    /// Version and build of the router.
    pub version: Option<(&'a str, &'a str, &'a str)>,
    /// The version of the desired properties that were read last, and what came of it.
    pub desired: Option<(u64, &'a Result<(), String>)>,
}

impl Report<'_> {
    /// As a patch.
    pub fn to_patch(&self) -> Object {
        let mut patch = Object::new();
        if let Some((version, build, commit)) = self.version {
            patch.insert("schemaVersion".to_owned(), json!("1.0"));
            patch.insert("version".to_owned(), json!({"version": version, "build": build, "commit": commit}));
        }
        if let Some((version, result)) = self.desired {
            let (code, description) = match result {
                Ok(()) => (200, String::new()),
                Err(reason) => (400, format!("Error while parsing desired properties - {reason}")),
            };
            patch.insert("lastDesiredVersion".to_owned(), json!(version));
            patch.insert("lastDesiredStatus".to_owned(), json!({"code": code, "description": description}));
        }
        patch
    }
}

/// A client's part of `clients` (§6.3), as a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientStatus<'a> {
    /// It came, at this time (RFC 3339).
    Connected(&'a str),
    /// It went, at this time. A device is taken out of the document, a module stays.
    Disconnected(&'a str),
}

/// The patch that reports a client's status.
pub fn client_patch(client: &crate::HubId, status: ClientStatus<'_>) -> Object {
    let value = match status {
        ClientStatus::Connected(at) => json!({"status": "Connected", "lastConnectedTimeUtc": at}),
        ClientStatus::Disconnected(at) if client.module_id().is_some() => {
            json!({"status": "Disconnected", "lastDisconnectedTimeUtc": at})
        }
        ClientStatus::Disconnected(_) => Value::Null,
    };
    let mut clients = Object::new();
    clients.insert(client_key(client.as_str()), value);
    let mut patch = Object::new();
    patch.insert("clients".to_owned(), Value::Object(clients));
    patch
}

/// The patch that forgets all clients, for the start.
pub fn no_clients_patch() -> Object {
    let mut patch = Object::new();
    patch.insert("clients".to_owned(), Value::Null);
    patch
}

/// The patch that makes room: it forgets the clients that have gone, or all of `reported`. `None`: there are none.
pub fn fewer_clients_patch(reported: &Object, only_gone: bool) -> Option<Object> {
    let clients = reported.get("clients")?.as_object()?;
    let gone = clients.iter().filter(|(_, client)| !only_gone || client["status"] == "Disconnected");
    let gone: Object = gone.map(|(key, _)| (key.clone(), Value::Null)).collect();
    (!gone.is_empty()).then(|| [("clients".to_owned(), Value::Object(gone))].into_iter().collect())
}

fn client_key(client: &str) -> String {
    client.replace('.', "%2E").replace('$', "%24").replace(' ', "%20")
}

#[cfg(test)]
mod tests;
