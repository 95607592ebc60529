//! What is legal and probably not meant: said at every start and by `millrace check`, and refused by nobody.
//!
//! Knows: a `Config`. Never: how it was written. Out: warnings, each with the key it is about.

use std::os::unix::fs::PermissionsExt;

use routes::Sink;

use super::auth::Auth;
use super::checked::{Config, Uplink, Warning};
use super::drains::Drains;
use super::edge::Edge;
use super::iothub::Speakers;
use super::listeners::Listener;
use super::suggest;

/// Everything that deserves one, in the order of the keys' sections.
pub(super) fn warnings(config: &Config) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |key: &str, text: String| warnings.push(Warning { key: key.to_owned(), text });
    if !config.store.sync {
        warn("store.sync", "is false: a power cut loses messages that were acknowledged".to_owned());
    }
    closed_listeners(config, &mut warn);
    access_warnings(&config.auth, &mut warn);
    for listener in config.listeners.iter().filter(|listener| listener.is_exposed()) {
        if config.listener_access(listener).anonymous {
            let rules = if config.auth.rules.is_some() { " as the rules say" } else { "" };
            let text = format!("everybody who reaches {} may publish and subscribe{rules}", listener.bind);
            warn(&anonymous_key(listener), text);
        }
    }
    for uplink in &config.uplinks {
        let key = |key| suggest::dotted(&["uplink", &uplink.name, key]);
        match &uplink.transport.tls {
            None if uplink.password.is_some() => {
                warn(&key("password"), "is sent in clear text; write the url as mqtts://".to_owned());
            }
            Some(tls) if tls.insecure => {
                let text = "is true: whoever is on the way can read and change everything".to_owned();
                warn(&key("insecure"), text);
            }
            _ => {}
        }
        let anyone = uplink.hub.as_ref().is_some_and(|hub| hub.speakers == Speakers::Anyone);
        if anyone && config.auth.rules.is_none() && config.edge.is_none() {
            let text =
                "has \"*\", and there are no rules (auth.acl): every client may speak for every device"
                    .to_owned();
            warn(&key("speakers"), text);
        }
    }
    for uplink in &config.uplinks {
        let leads_there = |sink: &Sink| config.uplink(sink).is_some_and(|used| used.name == uplink.name);
        // Routes that come from a twin are not known yet.
        let is_led = config.edge.as_ref().is_some_and(Edge::is_led_by_twin);
        if !is_led && !config.table.sinks().iter().any(leads_there) {
            warn(&suggest::dotted(&["uplink", &uplink.name]), "no route leads to it".to_owned());
        }
    }
    for dispute in Drains::of(config).disputes() {
        let text = format!(
            "is live-first, which means nothing: route {} keeps order in the same lane, that of uplink {} for priority {}; \
             routes that drain in different ways want different priorities",
            dispute.keeps, dispute.uplink, dispute.priority
        );
        warn(&suggest::dotted(&["routes", dispute.passes, "drain"]), text);
    }
    if config.edge.as_ref().is_some_and(Edge::is_led_by_twin) && !config.routes.is_empty() {
        warn("routes", "mean nothing: edge.config_source = \"twin\"".to_owned());
    }
    for (at, uplink) in config.uplinks.iter().enumerate() {
        let same = |other: &&Uplink| {
            (&other.transport.host, other.transport.port, &other.client_id)
                == (&uplink.transport.host, uplink.transport.port, &uplink.client_id)
        };
        if let Some(other) = config.uplinks[..at].iter().find(same) {
            let text = format!(
                "is that of uplink {} to the same broker: they will disconnect each other",
                other.name
            );
            warn(&suggest::dotted(&["uplink", &uplink.name, "client_id"]), text);
        }
    }
    let limits = &config.limits;
    if limits.sessions_max < limits.connections_max {
        let text = format!(
            "is below limits.connections_max = {}, which needs a session each",
            limits.connections_max
        );
        warn("limits.sessions_max", text);
    }
    let is_bare = |it: &&Listener| it.identities && it.tls.is_none() && it.is_exposed();
    for listener in config.listeners.iter().filter(is_bare) {
        let key = suggest::dotted(&["listener", &listener.name, "identities"]);
        warn(&key, format!("tokens of devices go in clear text to {}; they want TLS", listener.bind));
    }
    for (key, bytes) in [
        ("limits.outbox_bytes_max", limits.outbox_bytes_max),
        ("limits.session_queue_bytes_max", limits.session_queue_bytes_max),
        ("limits.commit_bytes_max", limits.commit_bytes_max),
        ("limits.handoff_batch_bytes_max", limits.handoff_batch_bytes_max),
        ("limits.uplink_read_bytes_max", limits.uplink_read_bytes_max),
    ] {
        if bytes < limits.packet_bytes_max {
            let max = limits.packet_bytes_max;
            warn(key, format!("is {bytes}, less than one packet may have (limits.packet_bytes_max = {max})"));
        }
    }
    warnings
}

/// The key that decides whether anonymous clients may connect there.
fn anonymous_key(listener: &Listener) -> String {
    match listener.anonymous {
        Some(_) => suggest::dotted(&["listener", &listener.name, "anonymous"]),
        None => "auth.anonymous".to_owned(),
    }
}

/// Listeners at which every client is refused.
fn closed_listeners(config: &Config, warn: &mut impl FnMut(&str, String)) {
    if config.auth.users.as_ref().is_some_and(|users| !users.is_empty()) {
        return;
    }
    let is_closed = |listener: &&Listener| {
        !config.listener_access(listener).anonymous && !listener.names_users() && !listener.identities
    };
    let closed: Vec<_> = config.listeners.iter().filter(is_closed).collect();
    if closed.len() == config.listeners.len() {
        warn(
            "auth.anonymous",
            "is false, and there are no users (auth.password_file) and no client certificates: every CONNECT will be refused".to_owned(),
        );
        return;
    }
    for listener in closed {
        let text = format!(
            "is false, and there are no users (auth.password_file): every CONNECT at {} will be refused",
            listener.bind
        );
        warn(&anonymous_key(listener), text);
    }
}

fn access_warnings(auth: &Auth, warn: &mut impl FnMut(&str, String)) {
    if let Some(path) = &auth.password_file
        && let Ok(metadata) = std::fs::metadata(path)
        && metadata.permissions().mode() & 0o077 != 0
    {
        let text = format!("{} can be read by others: chmod 600 {0}", path.display());
        warn("auth.password_file", text);
    }
    let Some(rules) = auth.ruleset() else { return };
    for (rule, by) in rules.shadowed() {
        let (rule, by) = (&rules.rules()[rule], &rules.rules()[by]);
        warn(
            "auth.acl",
            format!("{}: \"{rule}\" never decides, for {} comes first: \"{by}\"", rule.origin, by.origin),
        );
    }
}

/// What of a manifest has no effect, and what has none because of it.
pub(super) fn of_manifest(ignored: &[&'static str], has_routes: bool) -> Vec<Warning> {
    let of = |text: String| Warning { key: "edge.manifest".to_owned(), text };
    let ignored = ignored.iter().map(|part| of(format!("its {part} has no effect here")));
    let routes = has_routes.then(|| Warning {
        key: "routes".to_owned(),
        text: "mean nothing: edge.config_source = \"manifest\"".to_owned(),
    });
    ignored.chain(routes).collect()
}
