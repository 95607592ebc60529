//! The part of the composition that only an edge device has: the services of the IoT Hub dialect, and routes that come from
//! the gateway's own twin.
//!
//! In: a configuration, wishes of the twin. Out: services for shards; new routes, swapped whole, or every mistake of them.
//! Always: routes are compiled before the twin is told 200; with a mistake nothing changes. Until the first ones are in effect
//! no client is let in: what it sent would be acknowledged and lead nowhere.

use std::sync::{Arc, PoisonError};

use anyhow::Context as _;
use broker::HubSetup;
use hub::manifest::HubConfig;
use routes::{Mode, Options, RouteTable};
use tokio::sync::mpsc;
use tracing::{error, info};

use super::Router;
use crate::config::{Config, Route, route_of_manifest};
use crate::iotedge::EdgeNode;
use crate::mail::Mailbox;
use crate::net::Arrival;
use crate::services::{self, Desk, Service, ServiceSetup, Shelf, Web, Wish};
use crate::upstream::{self, UplinkSetup};

/// Properties of one message in the IoT Hub dialect; as many as go upstream.
const PROPERTIES_MAX: usize = 256;
/// Wishes that may wait; a newer one makes an older one worthless.
const WISHES_MAX: usize = 1;

/// What an edge device has besides.
pub(super) struct Parts {
    /// For shards.
    pub(super) shards: (HubSetup, Desk),
    /// To be run.
    pub(super) service: Service,
    /// To be run, too.
    pub(super) web: (Web, mpsc::Receiver<Arrival>),
    /// What the twin wants, if routes come from there.
    pub(super) petitions: Option<Petitions>,
}

/// Wishes, and where their outcomes go.
pub(super) struct Petitions {
    wishes: mpsc::Receiver<Wish>,
    verdicts: mpsc::Sender<(u64, Result<(), String>)>,
}

/// The services of an edge device; `None` if this is none.
pub(super) fn parts(
    config: &Config,
    edge: Option<&EdgeNode>,
    uplinks: &mut [UplinkSetup],
    mailboxes: &[Arc<Mailbox>],
) -> anyhow::Result<Option<Parts>> {
    let Some((node, edge)) = edge.zip(config.edge.as_ref()) else { return Ok(None) };
    let (folder, vault) = node.vault();
    let shelf = Shelf::open(folder, vault).context("twins cannot be kept")?;
    let cloud = uplinks.iter_mut().find(|setup| setup.config.hub.as_ref().is_some_and(|hub| hub.is_edge));
    let operator = cloud.map(|setup| {
        let (line, operator) = upstream::line();
        setup.line = Some(line);
        operator
    });
    let (desk, questions, arrivals) = services::desk();
    let setup = HubSetup {
        edge_device: edge.device.as_str().into(),
        allow_sender_mismatch: edge.allow_sender_mismatch,
        keep_for_unknown: edge.keep_for_unknown,
        properties_max: PROPERTIES_MAX,
    };
    let (own, petitions) = if edge.is_led_by_twin() && operator.is_some() {
        let (wish, wishes) = mpsc::channel(WISHES_MAX);
        let (verdicts, verdict) = mpsc::channel(WISHES_MAX);
        (Some((wish, verdict)), Some(Petitions { wishes, verdicts }))
    } else {
        (None, None)
    };
    let mailboxes = mailboxes.to_vec();
    let directory = node.directory();
    let module = edge.module.clone();
    let service = Service::new(ServiceSetup {
        questions,
        operator,
        shelf,
        mailboxes,
        directory,
        cards: node.cards(),
        module,
        twin_refresh_secs: edge.twin_refresh_secs,
        series_bytes_max: config.limits.series_bytes_max as usize,
        own,
    });
    let numbers = service.numbers();
    let web = Web {
        gatekeeper: Arc::clone(&node.gatekeeper),
        directory: node.directory(),
        device: edge.device.clone(),
        nested: edge.nested,
        desk: desk.clone(),
        limits: Arc::new(config.limits.clone()),
        numbers: Arc::clone(&numbers.lock().unwrap_or_else(PoisonError::into_inner).web),
    };
    Ok(Some(Parts { shards: (setup, desk), service, web: (web, arrivals), petitions }))
}

/// The next wish; for ever, if there will be none.
pub(super) async fn next(petitions: &mut Option<Petitions>) -> Wish {
    if let Some(petitions) = petitions
        && let Some(wish) = petitions.wishes.recv().await
    {
        return wish;
    }
    std::future::pending().await
}

impl Petitions {
    /// Says what became of a wish.
    pub(super) async fn answer(&self, version: u64, result: Result<(), String>) {
        // The service goes with the process.
        self.verdicts.send((version, result)).await.unwrap_or_default();
    }
}

impl Router {
    /// Does what the gateway's twin wants: all of it, or nothing, and then why not.
    pub(super) fn grant(&mut self, wish: &Wish) -> Result<(), String> {
        let granted = self.try_grant(wish);
        match &granted {
            Ok(()) => info!(
                version = wish.version,
                routes = self.config.routes.len(),
                "the twin's routes are in effect"
            ),
            Err(problem) => {
                error!(version = wish.version, "the twin's desired properties change nothing: {problem}")
            }
        }
        granted
    }

    fn try_grant(&mut self, wish: &Wish) -> Result<(), String> {
        let (config, wanted) = granted(&self.config, wish)?;
        for ignored in &wanted.ignored {
            info!("the twin's {ignored} has no effect here");
        }
        self.is_led = true;
        self.swap(config);
        Ok(())
    }
}

/// The configuration with the routes that the twin wants, and what else it says; or every mistake of it.
fn granted(config: &Config, wish: &Wish) -> Result<(Config, HubConfig), String> {
    let failed =
        |problems: Vec<String>| format!("Error while parsing desired properties - {}", problems.join("; "));
    let limits = &config.limits;
    let wanted = HubConfig::parse(&wish.desired, limits.routes_max as usize)
        .map_err(|errors| failed(errors.iter().map(ToString::to_string).collect()))?;
    let specs: Vec<_> = wanted.routes.iter().map(route_of_manifest).collect();
    let options = Options { mode: Mode::EdgeHub, limits: limits.clone() };
    let table = RouteTable::compile(&specs, &options).map_err(|errors| {
        failed(errors.iter().map(|error| format!("routes.{}: {error}", error.route)).collect())
    })?;
    // A twin has no word for what its routes promise and for how they drain.
    let route = |spec| Route { spec, durability: config.durability, drain: None };
    let config = Config {
        routes: specs.into_iter().map(route).collect(),
        table: Arc::new(table),
        ttl_millis: wanted.ttl_secs.map(|secs| secs * 1_000),
        store_limit_bytes: wanted.store_bytes_max,
        ..config.clone()
    };
    let unknown = config.routes_without_uplink();
    if !unknown.is_empty() {
        return Err(failed(vec![format!("routes without an uplink: {}", unknown.join(", "))]));
    }
    Ok((config, wanted))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{ConfigArgs, Durability, load};

    fn wish(routes: Value) -> Wish {
        let desired = json!({
            "schemaVersion": "1.1",
            "routes": routes,
            "storeAndForwardConfiguration": { "timeToLiveSecs": 7200 },
        });
        let Value::Object(desired) = desired else { panic!("an object") };
        Wish { version: 4, desired }
    }

    #[test]
    fn routes_of_the_twin_promise_what_is_usual_here() {
        for (written, expected) in
            [("", Durability::Disk), ("spill", Durability::Spill), ("memory", Durability::Memory)]
        {
            let mut args =
                ConfigArgs { set: vec!["uplink.up.url=mqtt://h".to_owned()], ..Default::default() };
            if !written.is_empty() {
                args.set.push(format!("routing.durability={written}"));
            }
            let config = load(&args, std::iter::empty()).expect("good");
            let route = "FROM /messages/* INTO $upstream";
            let (config, _) = granted(&config, &wish(json!({ "a": route }))).expect("granted");
            assert_eq!(config.routes[0].durability, expected);
        }
        let nowhere = load(&ConfigArgs::default(), std::iter::empty()).expect("good");
        let refused = granted(&nowhere, &wish(json!({"a": "FROM /messages/* INTO $upstream"})));
        assert!(refused.is_err_and(|problem| problem.contains("without an uplink")));
    }
}
