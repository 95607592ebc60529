//! Routes that come from a deployment manifest: `edge.manifest`, in place of `[routes]`.
//!
//! May use: the file, `hub`'s reading of it. In: `edge.config_source` and the path. Out: routes and settings of `$edgeHub`, in
//! schema 1.0 to 1.3, or every mistake, at the key that names the file. Never: the language of routes.
//! Bound: [`BYTES_MAX`] of the file.

use std::path::PathBuf;

use hub::manifest::{HubConfig, of_manifest};
use model::{Limits, Priority};
use routes::RouteSpec;

use super::checked::Route;
use super::errors::ConfigError;
use super::judge::Judge;
use super::routing::Usual;
use super::schema;

/// Largest manifest; those of IoT Hub are a few dozen kilobytes.
const BYTES_MAX: u64 = 4 << 20;

/// What a manifest says to this router.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) routes: Vec<Route>,
    /// Time to live of messages whose route states none.
    pub(super) ttl_millis: Option<u64>,
    /// `storeLimits.maxSizeBytes`
    pub(super) store_limit_bytes: Option<u64>,
    /// What has no effect.
    pub(super) ignored: Vec<&'static str>,
}

/// `None`: routes come from somewhere else, or an error says why not from there.
pub(super) fn check(judge: &mut Judge<'_>, usual: Usual, limits: &Limits) -> Option<Manifest> {
    let path = judge.text(&schema::EDGE_MANIFEST, "").map(PathBuf::from);
    if judge.text(&schema::EDGE_CONFIG_SOURCE, "").as_deref() != Some("manifest") {
        if path.is_some() {
            complain(judge, "needs edge.config_source = \"manifest\" beside it".to_owned());
        }
        return None;
    }
    let Some(path) = path else {
        judge.complain(&schema::EDGE_CONFIG_SOURCE, "", |error| ConfigError {
            problem: "is \"manifest\", and edge.manifest does not say which".to_owned(),
            hint: Some("edge.manifest = \"deployment.json\"".to_owned()),
            ..error
        });
        return None;
    };
    let text = match std::fs::metadata(&path) {
        Ok(about) if about.len() > BYTES_MAX => {
            complain(judge, format!("{}: it has more than {BYTES_MAX} bytes", path.display()));
            return None;
        }
        _ => std::fs::read_to_string(&path),
    };
    let config = text.map_err(|error| vec![error.to_string()]).and_then(|text| {
        let document = serde_json::from_str(&text).map_err(|error| vec![format!("no JSON: {error}")])?;
        let desired = of_manifest(&document).map_err(|error| vec![error.to_string()])?;
        HubConfig::parse(desired, limits.routes_max as usize)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    });
    match config {
        Ok(config) => Some(Manifest {
            routes: config
                .routes
                .iter()
                .map(|route| Route { spec: spec(route), durability: usual.durability, drain: None })
                .collect(),
            ttl_millis: config.ttl_secs.map(|secs| secs * 1_000),
            store_limit_bytes: config.store_bytes_max,
            ignored: config.ignored,
        }),
        Err(problems) => {
            for problem in problems {
                complain(judge, format!("{}: {problem}", path.display()));
            }
            None
        }
    }
}

fn complain(judge: &mut Judge<'_>, problem: String) {
    judge.complain(&schema::EDGE_MANIFEST, "", |error| ConfigError { problem, ..error });
}

/// A route of a manifest, or of a twin, as it is compiled.
pub(crate) fn spec(route: &hub::manifest::RouteSpec) -> RouteSpec {
    let priority = route.priority.and_then(|number| Priority::new(i64::from(number)).ok());
    RouteSpec {
        name: route.name.clone(),
        text: route.text.clone(),
        priority: priority.unwrap_or_default(),
        ttl_millis: route.ttl_secs.filter(|secs| *secs > 0).map(|secs| secs * 1_000),
    }
}
