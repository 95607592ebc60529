//! What an acknowledgement means, route by route, in words: the promise that `millrace status` and `/status` state. And how
//! what waits drains.
//!
//! In: a configuration. Out: sentences for people beside the facts for programs.

use serde::Serialize;

use crate::config::{Config, Drain, Drains, Durability, Route, Uplink, WhenFull};

/// One route and what its acknowledgements mean.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RouteStatus {
    /// Its name.
    pub name: String,
    /// Its text.
    pub route: String,
    /// Where it leads, as its text says it.
    pub sinks: Vec<String>,
    /// 0 to 9, or `default`.
    pub priority: String,
    /// How long a message may wait for an uplink.
    pub ttl_secs: Option<u64>,
    /// `disk`, `spill` or `memory` for uplinks, `local` where nothing leaves the router.
    pub durability: String,
    /// What a PUBACK of a message on it means.
    pub promise: String,
    /// How what waits for uplinks drains when they are back.
    pub drains: Vec<RouteDrain>,
}

/// How the messages of a route drain that wait for one uplink.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RouteDrain {
    /// The name of the uplink.
    pub uplink: String,
    /// What holds, whatever the route wants.
    pub drain: Drain,
    /// The same, and why, in words.
    pub means: String,
}

/// The promises of all routes, in their order.
pub(crate) fn promises(config: &Config) -> Vec<RouteStatus> {
    let drains = Drains::of(config);
    let status = |(index, route): (usize, &Route)| {
        let uplinks: Vec<&Uplink> = config.sinks(index).filter_map(|sink| config.uplink(sink)).collect();
        let has_inputs = config.sinks(index).any(|sink| matches!(sink, routes::Sink::Input { .. }));
        let durability = match (&uplinks[..], route.durability) {
            ([], _) if !has_inputs => "local".to_owned(),
            // The queue of an input has no front.
            ([], Durability::Spill) => Durability::Disk.to_string(),
            _ => route.durability.to_string(),
        };
        let ttl_millis = config.ttl_of(route);
        RouteStatus {
            name: route.spec.name.clone(),
            route: route.spec.text.clone(),
            sinks: config.sinks(index).map(|sink| words_of(config, sink)).collect(),
            priority: route.spec.priority.to_string(),
            ttl_secs: ttl_millis.map(|millis| millis / 1_000),
            drains: uplinks.iter().map(|uplink| drain_of(&drains, uplink, route)).collect(),
            promise: format!("{durability}: {}", sentence(route, ttl_millis, &uplinks, has_inputs)),
            durability,
        }
    };
    config.routes.iter().enumerate().map(status).collect()
}

fn drain_of(drains: &Drains<'_>, uplink: &Uplink, route: &Route) -> RouteDrain {
    RouteDrain {
        uplink: uplink.name.clone(),
        drain: drains.of_lane(uplink, route.spec.priority),
        means: drains.sentence(uplink, route),
    }
}

fn words_of(config: &Config, sink: &routes::Sink) -> String {
    match config.uplink(sink) {
        Some(uplink) => format!("uplink {}", uplink.name),
        None => crate::cli::sink_name(sink),
    }
}

fn sentence(route: &Route, ttl_millis: Option<u64>, uplinks: &[&Uplink], has_inputs: bool) -> String {
    let of_inputs = match route.durability {
        Durability::Disk | Durability::Spill => "the queue of the module has it on disk before the PUBACK",
        Durability::Memory => {
            "acknowledged at once; written only where the module is away or slow, or goes with it unacknowledged"
        }
    };
    if uplinks.is_empty() && has_inputs {
        return of_inputs.to_owned();
    }
    if uplinks.is_empty() {
        return "delivered like any publication; stored sessions have it on disk before the PUBACK"
            .to_owned();
    }
    let waits = match ttl_millis {
        Some(millis) => format!("for at most {} s", millis / 1_000),
        None => "for as long as it takes".to_owned(),
    };
    let names: Vec<&str> = uplinks.iter().map(|uplink| &*uplink.name).collect();
    let mut sentence = format!(
        "{}; it waits for {} {waits}, at priority {}",
        route.durability.promise(),
        names.join(" and "),
        route.spec.priority
    );
    if has_inputs {
        sentence += &format!("; for an input: {of_inputs}");
    }
    for uplink in uplinks {
        sentence += &format!("; {}", when_full(uplink));
    }
    match route.durability {
        Durability::Disk => {}
        Durability::Spill => {
            for uplink in uplinks {
                let (name, after) = (&uplink.name, uplink.forwarding.spill_after_millis);
                sentence += &format!(
                    "; nothing is written while {name} keeps up: after {after} ms at most, and at once while its link is \
                     down, the disk has it"
                );
            }
            sentence += "; QoS 2 as disk";
        }
        Durability::Memory => {
            sentence += "; while the store takes no writes, as much as limits.commit_bytes_max per shard";
        }
    }
    sentence
}

fn when_full(uplink: &Uplink) -> String {
    let name = &uplink.name;
    match uplink.when_full {
        WhenFull::Refuse => {
            format!("when {name} has no room, it is not acknowledged: 5.0 is told, 3.1.1 waits")
        }
        WhenFull::DropOldest => {
            format!("when {name} has no room, its oldest are given up, although acknowledged")
        }
        WhenFull::DropNewest => format!("when {name} has no room, it is acknowledged and dropped"),
    }
}
