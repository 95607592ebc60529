//! Publishers at a gateway, and whoever counts at the plant behind it: what scenes with an uplink have in common.
//!
//! Knows: the load generator's scenarios. In: addresses, a pace. Out: a scenario that never ends by itself, and waits that do.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use loadgen::scenario::Scenario;

/// Bytes of a payload.
pub(crate) const MESSAGE_BYTES: u32 = 256;
/// Where nothing else is said.
pub(crate) const PUBLISHERS: u64 = 50;

const LOOK: Duration = Duration::from_millis(5);

/// Who publishes what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fleet<'a> {
    pub(crate) publishers: u64,
    /// With `{publisher}` for its number.
    pub(crate) topic: &'a str,
    /// How fast, and how much: lines of the scenario.
    pub(crate) pace: &'a str,
    pub(crate) gateway: SocketAddr,
    /// Where one subscriber counts what arrives, if one does.
    pub(crate) plant: Option<SocketAddr>,
}

impl Default for Fleet<'_> {
    fn default() -> Self {
        let gateway = SocketAddr::from(([127, 0, 0, 1], 1_883));
        Fleet { publishers: PUBLISHERS, topic: "load/{publisher}", pace: "", gateway, plant: None }
    }
}

impl Fleet<'_> {
    /// The scenario; it runs until it is stopped.
    pub(crate) fn scenario(&self) -> anyhow::Result<Scenario> {
        Scenario::parse("a fleet at a gateway", &self.text(), &[]).context("the scenario of the fleet")
    }

    fn text(&self) -> String {
        let Fleet { publishers, topic, pace, gateway, plant } = self;
        let subscribers = plant.map_or_else(String::new, |plant| {
            format!("[subscribers]\nurl = \"mqtt://{plant}\"\ncount = 1\nfilter = \"load/#\"\nqos = 1\n")
        });
        format!(
            "name = \"fleet\"\n[publishers]\nurl = \"mqtt://{gateway}\"\ncount = {publishers}\ntopic = \"{topic}\"\nqos = 1\n{pace}\n\
             payload = {{ kind = \"binary\", bytes = {MESSAGE_BYTES} }}\n{subscribers}\
             [run]\nduration_secs = 604800\nwarmup_secs = 0\nkeep_alive_secs = 0\n"
        )
    }
}

/// The pace of a backlog: so many messages of each publisher, as fast as they are taken.
pub(crate) fn backlog(each: u64) -> String {
    format!("rate = \"max\"\nbatch = 16\nwindow = 64\nmessages = {each}\nahead = 0")
}

/// Waits until it is so; whether it came in time.
pub(crate) async fn wait(patience: Duration, is_so: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < patience {
        if is_so() {
            return true;
        }
        tokio::time::sleep(LOOK).await;
    }
    is_so()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_publishes_here_and_counts_there() {
        let pace = backlog(100);
        let fleet = Fleet { pace: &pace, plant: Some(([127, 0, 0, 1], 2).into()), ..Fleet::default() };
        let scenario = fleet.scenario().expect("a scenario");
        let publishers = scenario.publishers.expect("publishers");
        assert_eq!((u64::from(publishers.count), publishers.messages), (PUBLISHERS, Some(100)));
        assert_eq!(scenario.subscribers.expect("a subscriber").count, 1);
        let alone = Fleet { pace: "rate_total = 5000\nwindow = 1000", plant: None, ..fleet };
        assert!(alone.scenario().expect("a scenario").subscribers.is_none());
    }
}
