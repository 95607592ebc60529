//! Configuration: from what operators write to what the router runs on.
//!
//! Knows: keys, defaults, layers, and what goes together. May use: one file and the environment, on load.
//! In:  flags, environment, file, profile. Out: one complete `Config`, or every mistake at once.
//! Invariant: what is not understood or not available is refused, never ignored.
//!
//! Reading order: `sources` (the layers), `raw` (as written), `schema` (every key), `judge` (one key at a
//! time), `checked`, `listeners`, `transport`, `topics` and `iothub` (as used, and what two keys mean together), `auth` (users and rules),
//! `edge` (the place in Azure IoT Edge), `manifest` (its routes, where a file has them), `routing` (routes and where they lead), `drains` (how what waited for them goes), `budgets` (space on the disk), `warnings`, `memory` (the ceiling), `reference`
//! (the page of keys).

use std::path::Path;

use routes::RouteTable;

mod auth;
mod budgets;
mod checked;
mod drains;
mod edge;
mod errors;
mod forwarding;
mod hours;
mod iothub;
mod judge;
mod listeners;
mod manifest;
mod memory;
mod pacing;
mod packing;
mod profiles;
mod raw;
mod reference;
mod routing;
mod schema;
mod sources;
mod suggest;
mod topics;
mod transport;
mod warnings;

#[cfg(test)]
mod tests;

pub use auth::Auth;
pub use checked::{
    Config, Durability, Host, Log, LogFormat, LossReports, MqttVersion, Route, Secret, Session, Store,
    Uplink, UplinkKind, Warning, WhenFull,
};
pub(crate) use checked::{EDGE_FOLDER, TRUST_FILE};
pub use drains::Drain;
pub(crate) use drains::Drains;
pub(crate) use edge::without_port;
pub use edge::{Edge, Standing};
pub use errors::{ConfigError, ConfigErrors};
pub use forwarding::Forwarding;
pub use hours::Hours;
pub use iothub::{Child, IotHub, Proof, Speakers};
pub use listeners::{Bind, ClientCertificate, Listener, ListenerKind, OwnCertificate, Tls, UserFrom};
pub(crate) use manifest::spec as route_of_manifest;
pub use memory::Holder;
pub use pacing::Pacing;
pub use packing::{Compression, Decompression};
pub use raw::{Origin, Raw};
pub use reference::page;
pub use routing::sinks;
pub use sources::{ConfigArgs, environment};
pub use topics::{Properties, Topics};
pub use transport::{Failover, Proxy, ProxyKind, Transport, UplinkTls};

/// Reads every layer and judges the result.
///
/// Order, weakest first: defaults, profile, file, environment, `--set`. Reads the file named in `args`
/// and the name and core count of this machine; nothing else, and changes nothing.
/// `Err` holds every mistake that could be found, each with its origin and key.
pub fn load(args: &ConfigArgs, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigErrors> {
    Config::check(&sources::collect(args, env), &Host::detect())
}

/// Reads the routes of one file and compiles them, without asking where their sinks are.
///
/// A file named `*.toml` gives its `[routes]`; every other file holds one route per line, which is then named
/// `line-N`. The table numbers the routes in the order of the list. `Err` holds every mistake.
pub fn load_routes(path: &Path) -> Result<(Vec<Route>, RouteTable), ConfigErrors> {
    routing::check_routes(&sources::collect_routes(path))
}
