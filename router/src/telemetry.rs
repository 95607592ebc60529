//! Numbers and log lines for people: what each shard publishes, and how tracing is set up.

use std::sync::Mutex;
use std::sync::PoisonError;

use broker::{Broker, Counters, RetainedNumbers};
use hub::series::Series;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};
use crate::syslog::Syslog;

/// What one shard publishes, a few times a second.
#[derive(Debug, Default)]
pub(crate) struct ShardReport {
    latest: Mutex<ShardNumbers>,
    /// Messages of the IoT Hub dialect by name; see [`Broker::hub_series`].
    series: Mutex<Series>,
}

/// The numbers of one shard, or of all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShardNumbers {
    /// Everything counted.
    pub counters: Counters,
    /// Connections now.
    pub connections: usize,
    /// Sessions now.
    pub sessions: usize,
    /// Subscriptions now.
    pub subscriptions: usize,
    /// What is retained: the same in every shard, but for what is on its way; and the walks of each.
    pub retained: RetainedNumbers,
    /// Connections that wait for room on the disk.
    pub withheld: usize,
    /// What the route table counted.
    pub routes: routes::Counters,
}

impl ShardReport {
    /// Replaces the numbers by the broker's.
    pub(crate) fn publish(&self, broker: &Broker) {
        let numbers = ShardNumbers {
            counters: *broker.counters(),
            connections: broker.connections(),
            sessions: broker.sessions(),
            subscriptions: broker.subscriptions(),
            retained: broker.retained(),
            withheld: broker.withheld(),
            routes: broker.route_counters(),
        };
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = numbers;
        let (new, mut series) =
            (broker.hub_series(), self.series.lock().unwrap_or_else(PoisonError::into_inner));
        if !new.is_empty() && *new != *series {
            series.clone_from(new);
        }
    }

    /// Adds what was counted and measured by name, as last published, to `sums`.
    pub(crate) fn add_series(&self, sums: &mut Series) {
        sums.merge(&self.series.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The numbers as last published.
    pub(crate) fn numbers(&self) -> ShardNumbers {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sum over all shards.
pub(crate) fn total<'a>(reports: impl IntoIterator<Item = &'a ShardReport>) -> ShardNumbers {
    let mut total = ShardNumbers::default();
    for report in reports {
        let numbers = report.numbers();
        total.counters.add(&numbers.counters);
        total.connections += numbers.connections;
        total.sessions += numbers.sessions;
        total.subscriptions += numbers.subscriptions;
        total.withheld += numbers.withheld;
        let walks = total.retained.walks + numbers.retained.walks;
        total.retained = RetainedNumbers { walks, ..numbers.retained };
        add_routes(&mut total.routes, &numbers.routes);
    }
    total
}

fn add_routes(total: &mut routes::Counters, more: &routes::Counters) {
    total.messages += more.messages;
    total.bodies_scanned += more.bodies_scanned;
    total.bodies_malformed += more.bodies_malformed;
    total.bodies_too_long += more.bodies_too_long;
    total.bodies_too_deep += more.bodies_too_deep;
    total.arrays_given_up += more.arrays_given_up;
    total.bodies_other_type += more.bodies_other_type;
    total.messages_dropped += more.messages_dropped;
    total.held_back += more.held_back;
}

/// Sends log lines to standard error, as configured. An invalid filter was refused with the configuration.
pub(crate) fn start_logging(log: &Log) {
    let filter = EnvFilter::try_new(&log.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    // Only a second call fails, and the first one's choice stands.
    drop(match log.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Syslog => builder.with_ansi(false).event_format(Syslog).try_init(),
    });
}
