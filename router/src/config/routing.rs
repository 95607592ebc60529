//! The routes of a configuration: judged, compiled, and each of their sinks led somewhere.
//!
//! Knows: how a route is written in `[routes]`, and which uplinks there are. Never: the language of routes.
//! Out: routes and their table, in one order; or mistakes, each at the key of its route.

use model::{Limits, Priority};
use routes::{RouteSpec, RouteTable, Sink};

use super::checked::{Durability, Route, UPSTREAM, durability};
use super::drains::Drain;
use super::errors::{ConfigError, ConfigErrors};
use super::judge::Judge;
use super::raw::Raw;
use super::schema;
use super::suggest;

/// What holds for routes that do not say it themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usual {
    pub(super) durability: Durability,
    pub(super) ttl_millis: Option<u64>,
}

/// What the configuration says for all of them.
pub(super) fn usual(judge: &mut Judge<'_>) -> Usual {
    let durability = durability(judge.text(&schema::ROUTING_DURABILITY, ""));
    Usual { durability, ttl_millis: millis(judge.integer(&schema::ROUTING_TTL_SECS, "")) }
}

/// 0 is for ever.
fn millis(ttl_secs: Option<u64>) -> Option<u64> {
    ttl_secs.filter(|secs| *secs > 0).map(|secs| secs * 1_000)
}

/// `None` if its text is missing or refused; then an error says so.
pub(super) fn check_route(judge: &mut Judge<'_>, name: &str, usual: Usual) -> Option<Route> {
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        judge.push(ConfigError {
            found: Some(format!("{name:?}")),
            allowed: Some("text that is not empty".to_owned()),
            ..ConfigError::new(
                judge.origin("routes.*", name),
                suggest::dotted(&["routes", name]),
                "is no name for a route",
            )
        });
    }
    if judge.is_written(&schema::ROUTE, name) {
        let text = judge.text(&schema::ROUTE, name)?;
        let (priority, ttl_millis) = (Priority::DEFAULT, usual.ttl_millis);
        let spec = RouteSpec { name: name.to_owned(), text, priority, ttl_millis };
        return Some(Route { spec, durability: usual.durability, drain: None });
    }
    let priority = judge.integer(&schema::ROUTE_PRIORITY, name);
    let has_ttl = judge.is_written(&schema::ROUTE_TTL_SECS, name);
    let ttl_secs = judge.integer(&schema::ROUTE_TTL_SECS, name);
    let word = judge.text(&schema::ROUTE_DURABILITY, name);
    let durability = if word.is_some() { durability(word) } else { usual.durability };
    let drain = Drain::of(judge.text(&schema::ROUTE_DRAIN, name).as_deref());
    let text = judge.text(&schema::ROUTE_TEXT, name)?;
    let priority = priority.and_then(|number| Priority::new(number as i64).ok()).unwrap_or_default();
    let ttl_millis = if has_ttl { millis(ttl_secs) } else { usual.ttl_millis };
    let spec = RouteSpec { name: name.to_owned(), text, priority, ttl_millis };
    Some(Route { spec, durability, drain })
}

/// The routes of a file by themselves, ordered by name, with their table; sinks need not exist.
pub(super) fn check_routes(raw: &Raw) -> Result<(Vec<Route>, RouteTable), ConfigErrors> {
    let mut judge = Judge::new(raw);
    let names = judge.names(&["routes"]);
    let usual = usual(&mut judge);
    let routes: Vec<_> = names.iter().filter_map(|name| check_route(&mut judge, name, usual)).collect();
    let mode = mode(&mut judge);
    let table = compile(&mut judge, &routes, mode, &Limits::DEFAULT, None);
    let errors = judge.into_errors();
    match table {
        Some(table) if errors.is_empty() => Ok((routes, table)),
        _ => Err(ConfigErrors::new(errors)),
    }
}

/// Where the text of a route was written.
fn text_key(judge: &Judge<'_>, name: &str) -> &'static schema::Key {
    if judge.is_written(&schema::ROUTE, name) { &schema::ROUTE } else { &schema::ROUTE_TEXT }
}

/// Whose rules hold for conditions.
pub(super) fn mode(judge: &mut Judge<'_>) -> routes::Mode {
    match judge.text(&schema::ROUTING_MODE, "").as_deref() {
        Some("edgehub") => routes::Mode::EdgeHub,
        _ => routes::Mode::Millrace,
    }
}

/// `None` if a route does not compile; then every one of them is reported, at `place` if they all come from there.
pub(super) fn compile(
    judge: &mut Judge<'_>,
    routes: &[Route],
    mode: routes::Mode,
    limits: &Limits,
    place: Option<&'static schema::Key>,
) -> Option<RouteTable> {
    let specs: Vec<_> = routes.iter().map(|route| route.spec.clone()).collect();
    let options = routes::Options { mode, limits: limits.clone() };
    let errors = match RouteTable::compile(&specs, &options) {
        Ok(table) => return Some(table),
        Err(errors) => errors,
    };
    for error in errors {
        let name = error.route.as_str();
        complain(judge, place, name, error.to_string(), |complaint| complaint);
    }
    None
}

/// A mistake of a route.
fn complain(
    judge: &mut Judge<'_>,
    place: Option<&'static schema::Key>,
    name: &str,
    problem: String,
    complete: impl FnOnce(ConfigError) -> ConfigError,
) {
    let (key, problem) = match place {
        Some(key) => (key, format!("routes.{name}: {problem}")),
        None => (text_key(judge, name), problem),
    };
    judge.complain(key, name, |complaint| complete(ConfigError { problem, ..complaint }));
}

/// Where a route of a table leads; at least one sink, or none beyond the end of the table.
pub fn sinks(table: &RouteTable, route: usize) -> impl Iterator<Item = &Sink> {
    let ids = table.routes().get(route).into_iter().flat_map(|route| route.sinks());
    ids.filter_map(|id| table.sinks().get(id.0 as usize))
}

/// Every sink must lead somewhere: to an uplink that exists, or to a topic.
pub(super) fn check_sinks(
    judge: &mut Judge<'_>,
    table: &RouteTable,
    routes: &[Route],
    (uplinks, has_edge): (&[String], bool),
    place: Option<&'static schema::Key>,
) {
    // A line that is not TOML may have been the head of the uplink that would seem to be missing.
    if judge.is_damaged() {
        return;
    }
    let uplinks: Vec<_> = uplinks.iter().map(String::as_str).collect();
    for (index, route) in routes.iter().enumerate() {
        for (problem, hint) in sinks(table, index).filter_map(|sink| sink_fault(sink, &uplinks, has_edge)) {
            let name = route.spec.name.as_str();
            complain(judge, place, name, problem, |error| ConfigError {
                found: Some(route.spec.text.clone()),
                allowed: (!uplinks.is_empty()).then(|| format!("uplinks: {}", uplinks.join(", "))),
                hint,
                ..error
            });
        }
    }
}

/// What is wrong with a sink, and what to do about it.
fn sink_fault(sink: &Sink, uplinks: &[&str], has_edge: bool) -> Option<(String, Option<String>)> {
    let add = |name: &str| Some(format!("add uplink.{name}.url = \"mqtt://HOST:1883\""));
    match (sink, uplinks) {
        (Sink::Upstream, []) => {
            Some(("leads to $upstream, but there is no uplink".to_owned(), add(UPSTREAM)))
        }
        (Sink::Upstream, [_]) => None,
        (Sink::Upstream, several) if several.contains(&UPSTREAM) => None,
        (Sink::Upstream, _) => Some((
            format!("leads to $upstream, but there are several uplinks and none is named {UPSTREAM}"),
            Some(format!("name the uplink in the route, or call one of them {UPSTREAM}")),
        )),
        (Sink::Uplink(name), _) if uplinks.contains(&name.as_str()) => None,
        (Sink::Uplink(name), _) => Some((
            format!("leads to an uplink that does not exist: {name}"),
            suggest::nearest_word(name, uplinks).or_else(|| add(name)),
        )),
        // The inputs are those of the modules of this gateway's device; without one nobody could be such a module.
        (Sink::Input { .. }, _) if has_edge => None,
        (Sink::Input { module, input }, _) => Some((
            "leads into a module input, and this router is no edge device: [edge] says how it becomes one"
                .to_owned(),
            Some(format!(
                "for a client that subscribes by itself: INTO topic \"modules/{module}/inputs/{input}\""
            )),
        )),
        _ => None,
    }
}
