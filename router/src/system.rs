//! `$SYS/broker/…`: what the router says of itself to MQTT clients, under the names that Mosquitto's users know.
//!
//! In: the numbers that shards publish. Out: every `mqtt.sys_interval_secs` the topics whose value has changed, to one
//! shard, which retains them for all. The topics are listed in `router/docs/mqtt.md`; a test compares.
//! Costs nothing but that: no message is looked at for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::http::Overview;
use crate::mail::{Mail, Mailbox};
use crate::telemetry::{ShardNumbers, total};

/// Minutes over which loads are averaged.
const MINUTES: [u32; 3] = [1, 5, 15];

/// Topics that changed, with their payloads.
pub(crate) type Changes = Vec<(String, String)>;

/// Publishes until the process ends.
pub(crate) async fn run(overview: Arc<Overview>, shard: Arc<Mailbox>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut board = Board::default();
    loop {
        ticks.tick().await;
        let numbers = total(overview.shards.iter().map(|report| &**report));
        let changes = board.changes(&numbers, overview.started.elapsed().as_secs());
        // A full box is a busy shard: the next tick brings what this one could not.
        if let Err(Mail::System(changes)) = shard.send(Mail::System(changes)) {
            board.forget(&changes);
        }
    }
}

/// What was published last.
#[derive(Debug, Default)]
struct Board {
    published: HashMap<String, String>,
    clients_max: usize,
    loads: HashMap<&'static str, Load>,
    at_secs: u64,
}

/// Events per minute, averaged with weights that fade.
#[derive(Debug, Default)]
struct Load {
    count: u64,
    per_minute: [f64; 3],
}

impl Load {
    fn update(&mut self, count: u64, secs: f64) {
        let rate = (count.saturating_sub(self.count)) as f64 * 60.0 / secs;
        self.count = count;
        for (average, minutes) in self.per_minute.iter_mut().zip(MINUTES) {
            let fade = (-secs / (60.0 * f64::from(minutes))).exp();
            *average = rate + fade * (*average - rate);
        }
    }
}

impl Board {
    /// Every topic whose value is not the one that was published last.
    fn changes(&mut self, numbers: &ShardNumbers, uptime_secs: u64) -> Changes {
        let mut topics = self.values(numbers, uptime_secs);
        topics.extend(self.load_values(numbers, uptime_secs));
        let mut changes = Changes::new();
        for (name, value) in topics {
            let topic = format!("$SYS/broker/{name}");
            if self.published.get(&topic) != Some(&value) {
                self.published.insert(topic.clone(), value.clone());
                changes.push((topic, value));
            }
        }
        changes
    }

    /// These were not published after all.
    fn forget(&mut self, changes: &Changes) {
        changes.iter().for_each(|(topic, _)| drop(self.published.remove(topic)));
    }

    fn values(&mut self, numbers: &ShardNumbers, uptime_secs: u64) -> Vec<(String, String)> {
        let counters = &numbers.counters;
        let (connected, total) = (numbers.connections, numbers.sessions.max(numbers.connections));
        self.clients_max = self.clients_max.max(connected);
        let values = [
            ("version", concat!("millrace ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("uptime", format!("{uptime_secs} seconds")),
            ("clients/connected", connected.to_string()),
            ("clients/disconnected", (total - connected).to_string()),
            ("clients/total", total.to_string()),
            ("clients/maximum", self.clients_max.to_string()),
            ("messages/received", counters.received.to_string()),
            ("messages/sent", counters.delivered.to_string()),
            ("publish/messages/received", counters.received.to_string()),
            ("publish/messages/sent", counters.delivered.to_string()),
            ("publish/messages/dropped", dropped(numbers).to_string()),
            ("publish/bytes/received", counters.received_bytes.to_string()),
            ("bytes/received", counters.bytes_in.to_string()),
            ("bytes/sent", counters.bytes_out.to_string()),
            ("subscriptions/count", numbers.subscriptions.to_string()),
            ("retained messages/count", numbers.retained.messages.to_string()),
        ];
        values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn load_values(&mut self, numbers: &ShardNumbers, uptime_secs: u64) -> Vec<(String, String)> {
        let secs = uptime_secs.saturating_sub(self.at_secs).max(1) as f64;
        self.at_secs = uptime_secs;
        let counters = &numbers.counters;
        let counts = [
            ("publish/received", counters.received),
            ("publish/sent", counters.delivered),
            ("publish/dropped", dropped(numbers)),
            ("bytes/received", counters.bytes_in),
            ("bytes/sent", counters.bytes_out),
            ("connections", counters.connects_accepted),
        ];
        let mut values = Vec::new();
        for (name, count) in counts {
            let load = self.loads.entry(name).or_default();
            load.update(count, secs);
            for (average, minutes) in load.per_minute.iter().zip(MINUTES) {
                values.push((format!("load/{name}/{minutes}min"), format!("{average:.2}")));
            }
        }
        values
    }
}

fn dropped(numbers: &ShardNumbers) -> u64 {
    let reasons = numbers.counters.each().filter(|(name, _)| name.starts_with("dropped_"));
    reasons.map(|(_, count)| count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_published() {
        let mut board = Board::default();
        let mut numbers = ShardNumbers::default();
        let all = board.changes(&numbers, 1);
        assert!(all.iter().all(|(topic, payload)| topic.starts_with("$SYS/broker/") && !payload.is_empty()));
        numbers.counters.received = 5;
        let changed: Vec<String> = board.changes(&numbers, 1).into_iter().map(|(topic, _)| topic).collect();
        let expected = [
            "messages/received",
            "publish/messages/received",
            "load/publish/received/1min",
            "load/publish/received/5min",
            "load/publish/received/15min",
        ];
        assert_eq!(changed, expected.map(|name| format!("$SYS/broker/{name}")));
        board.forget(&vec![("$SYS/broker/messages/received".to_owned(), String::new())]);
        assert!(board.changes(&numbers, 1).iter().any(|(topic, _)| topic == "$SYS/broker/messages/received"));
    }

    #[test]
    fn a_steady_rate_becomes_the_load() {
        let mut load = Load::default();
        for second in 1..=3_600 {
            load.update(second * 10, 1.0);
        }
        for average in load.per_minute {
            assert!((average - 600.0).abs() < 20.0, "{average} per minute of 10 a second");
        }
    }

    #[test]
    fn every_topic_is_on_the_page() {
        let page = include_str!("../docs/mqtt.md");
        for (topic, _) in Board::default().changes(&ShardNumbers::default(), 1) {
            let name = topic.strip_prefix("$SYS/broker/").expect("its prefix");
            let name = name.trim_end_matches("15min").trim_end_matches("1min").trim_end_matches("5min");
            assert!(page.contains(&format!("`{name}")), "{topic} is missing in router/docs/mqtt.md");
        }
    }
}
