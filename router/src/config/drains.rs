//! How what waited drains beside what comes after it: what each route wants, and what holds where several share a lane.
//!
//! Knows: routes, their uplinks and priorities. In: a configuration. Out: the way of each lane, in words, too.
//! Always: a lane is passed only if every route that leads there lets it be. A record does not say which route brought it,
//! and nobody who asked for order may lose it because of somebody else.

use std::collections::BTreeMap;
use std::fmt;

use model::Priority;
use serde::Serialize;

use super::checked::{Config, Route, Uplink};

/// What happens to a backlog when the link is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drain {
    /// It goes before anything newer.
    InOrder,
    /// What comes from then on passes it.
    LiveFirst,
}

impl Drain {
    /// `None` for words that it does not know, and for no word.
    pub(super) fn of(word: Option<&str>) -> Option<Drain> {
        match word? {
            "in-order" => Some(Drain::InOrder),
            "live-first" => Some(Drain::LiveFirst),
            _ => None,
        }
    }
}

impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Drain::InOrder => "in-order",
            Drain::LiveFirst => "live-first",
        })
    }
}

/// The ways of all lanes that some route leads to. Made for one look: what it costs are the sinks of all routes.
#[derive(Debug)]
pub(crate) struct Drains<'c> {
    lanes: BTreeMap<(&'c str, Priority), Lane<'c>>,
}

/// The first route of each kind that leads to a lane.
#[derive(Debug, Default)]
struct Lane<'c> {
    keeps: Option<&'c str>,
    passes: Option<&'c str>,
}

/// Routes of one lane that do not want the same.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dispute<'c> {
    pub(crate) uplink: &'c str,
    pub(crate) priority: Priority,
    /// Whose messages keep their order, and with them everybody's.
    pub(crate) keeps: &'c str,
    /// Who wants to pass what waited, and may not.
    pub(crate) passes: &'c str,
}

impl<'c> Drains<'c> {
    pub(crate) fn of(config: &'c Config) -> Drains<'c> {
        let mut lanes = BTreeMap::<_, Lane<'c>>::new();
        for (index, route) in config.routes.iter().enumerate() {
            for uplink in config.sinks(index).filter_map(|sink| config.uplink(sink)) {
                let lane = lanes.entry((uplink.name.as_str(), route.spec.priority)).or_default();
                let first = match wanted(uplink, route) {
                    Drain::InOrder => &mut lane.keeps,
                    Drain::LiveFirst => &mut lane.passes,
                };
                first.get_or_insert(&route.spec.name);
            }
        }
        Drains { lanes }
    }

    /// How the lane of an uplink for one priority drains; without a route as the uplink says.
    pub(crate) fn of_lane(&self, uplink: &Uplink, priority: Priority) -> Drain {
        match self.lanes.get(&(uplink.name.as_str(), priority)) {
            Some(Lane { keeps: Some(_), .. }) => Drain::InOrder,
            Some(_) => Drain::LiveFirst,
            None => uplink.forwarding.drain,
        }
    }

    /// What becomes of the messages of a route that wait for an uplink, as a sentence without an end.
    pub(crate) fn sentence(&self, uplink: &Uplink, route: &Route) -> String {
        let lane = self.lanes.get(&(uplink.name.as_str(), route.spec.priority));
        let (wanted, way) = (wanted(uplink, route), self.of_lane(uplink, route.spec.priority));
        match (wanted, way, lane.and_then(|lane| lane.keeps)) {
            (_, Drain::LiveFirst, _) => format!(
                "live-first: what comes after a reconnect passes what waited, which keeps {} % of the messages sent",
                uplink.forwarding.history_share_percent
            ),
            (Drain::LiveFirst, _, Some(other)) => {
                format!("in-order, although it wants live-first: route {other} keeps order in the same lane")
            }
            _ => "in-order: what waited goes before what comes after it".to_owned(),
        }
    }

    /// Lanes whose routes do not want the same.
    pub(crate) fn disputes(&self) -> impl Iterator<Item = Dispute<'c>> + use<'c, '_> {
        self.lanes.iter().filter_map(|(&(uplink, priority), lane)| {
            Some(Dispute { uplink, priority, keeps: lane.keeps?, passes: lane.passes? })
        })
    }
}

fn wanted(uplink: &Uplink, route: &Route) -> Drain {
    route.drain.unwrap_or(uplink.forwarding.drain)
}
