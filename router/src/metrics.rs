//! The numbers of [`Overview`] as OpenMetrics text, for Prometheus and its relatives.
//!
//! In: numbers as last published. Out: text. The names are a contract: `millrace_` first, unit last.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::clock::Clock;
use crate::http::{EdgeNumbers, Overview};
use crate::iotedge::{Queue, encode_numbers, encode_series, encode_services};
use crate::net::{CertificateInfo, Refusal};
use crate::telemetry::total;
use crate::upstream::LinkStatus;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Listener {
    listener: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lost {
    sink: String,
    reason: String,
}

/// The text of one scrape.
pub(crate) fn encode(overview: &Overview) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("millrace");
    shards(&mut registry, overview);
    listeners(&mut registry, overview);
    uplinks(&mut registry, overview);
    spills(&mut registry, overview);
    lanes(&mut registry, overview);
    store(&mut registry, overview);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    if let Some(EdgeNumbers { gatekeeper, common, services }) = &overview.edge {
        // Before the mark of the end.
        let end = text.rfind("# EOF").unwrap_or(text.len());
        let mut own = encode_numbers(common, &gatekeeper.numbers(), &queues(overview, &common.device));
        let known = services.lock().unwrap_or_else(PoisonError::into_inner);
        let mut series = known.series.clone();
        overview.shards.iter().for_each(|report| report.add_series(&mut series));
        for (_, status) in &overview.uplinks {
            series.merge(&status.sources.lock().unwrap_or_else(PoisonError::into_inner));
        }
        if let Some(expired) = &overview.disk.expired_of {
            series.merge(&expired.lock().unwrap_or_else(PoisonError::into_inner));
        }
        own += &encode_series(common, &series, Clock::default().now().timestamp);
        own += &encode_services(common, &known.numbers, &known.web.each());
        drop(known);
        text.insert_str(end, &own);
    }
    Ok(text)
}

/// The lanes of uplinks and of modules of this gateway, as edgeHub calls them.
fn queues(overview: &Overview, device: &str) -> Vec<Queue> {
    let lanes = overview.reader.lanes().unwrap_or_default();
    let queue = |name: &str, length: u64| {
        if let Some(client) = name.strip_prefix("s/") {
            let module = client.strip_prefix(device)?.strip_prefix('/')?;
            let endpoint = format!("{device}/{module}");
            return Some(Queue { endpoint, priority: 2_000_000_000, length });
        }
        if let Some((client, input, priority)) = broker::read_input_lane_name(name) {
            let module = client.strip_prefix(device)?.strip_prefix('/')?;
            let endpoint = format!("{device}/{module}/{input}");
            return Some(Queue { endpoint, priority: priority.get(), length });
        }
        let (uplink, priority) = name.strip_prefix("u/")?.rsplit_once('/')?;
        let endpoint = match &overview.uplinks[..] {
            [_] => "iothub",
            _ if uplink == "upstream" => "iothub",
            _ => uplink,
        };
        Some(Queue {
            endpoint: endpoint.to_owned(),
            priority: priority.parse().unwrap_or(2_000_000_000),
            length,
        })
    };
    lanes
        .iter()
        .filter(|state| state.tail > model::Seq::FIRST)
        .filter_map(|state| queue(&state.name, state.messages()))
        .collect()
}

fn shards(registry: &mut Registry, overview: &Overview) {
    let numbers = total(overview.shards.iter().map(|report| &**report));
    gauge(registry, "connections", "Clients connected now", numbers.connections as u64);
    gauge(registry, "sessions", "Sessions kept now, connected or not", numbers.sessions as u64);
    gauge(registry, "subscriptions", "Subscriptions of all sessions", numbers.subscriptions as u64);
    let help = "Clients that are not read until there is room on the disk";
    gauge(registry, "connections_withheld", help, numbers.withheld as u64);
    let retained = numbers.retained;
    gauge(registry, "retained_messages", "Topics with a retained message", retained.messages as u64);
    gauge(registry, "retained_bytes", "What they count, in each shard", retained.bytes as u64);
    let help = "Subscriptions that are still being sent what was retained";
    gauge(registry, "retained_walks", help, retained.walks as u64);
    let dropped = Family::<Reason, Counter>::default();
    registry.register("messages_dropped", "Messages dropped, by reason", dropped.clone());
    let closed = Family::<Reason, Counter>::default();
    registry.register("connections_closed", "Connections closed by us, by reason", closed.clone());
    for (name, count) in numbers.counters.each() {
        if let Some(reason) = name.strip_prefix("dropped_") {
            dropped.get_or_create(&Reason { reason: reason.to_owned() }).inc_by(count);
        } else if let Some(reason) = name.strip_prefix("closed_") {
            closed.get_or_create(&Reason { reason: reason.to_owned() }).inc_by(count);
        } else {
            counter(
                registry,
                &format!("broker_{name}"),
                "Counted by the broker, see router/docs/operations.md",
                count,
            );
        }
    }
    let routes = numbers.routes;
    counter(registry, "routes_messages", "Messages that routes were asked about", routes.messages);
    counter(
        registry,
        "routes_bodies_scanned",
        "Bodies that a condition wanted and that were read",
        routes.bodies_scanned,
    );
    counter(
        registry,
        "routes_held_back",
        "Matches that SAMPLE, THROTTLE or CHANGED held back",
        routes.held_back,
    );
    counter(
        registry,
        "routes_arrays_given_up",
        "Arrays too large for all the ANY and ALL that asked for their elements",
        routes.arrays_given_up,
    );
    let undefined = Family::<Reason, Counter>::default();
    registry.register(
        "routes_bodies_undefined",
        "Bodies that conditions could not read, by reason",
        undefined.clone(),
    );
    for (reason, count) in [
        ("malformed", routes.bodies_malformed),
        ("too_long", routes.bodies_too_long),
        ("too_deep", routes.bodies_too_deep),
        ("other_type", routes.bodies_other_type),
        ("duplicate_properties", routes.messages_dropped),
    ] {
        undefined.get_or_create(&Reason { reason: reason.to_owned() }).inc_by(count);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    listener: String,
    reason: &'static str,
}

/// What our own bounds turned away at the door, be it told or closed without a word.
const BOUNDS: [Refusal; 4] =
    [Refusal::ConnectionsMax, Refusal::ConnectRate, Refusal::ListenerConnectionsMax, Refusal::ShardBusy];

fn listeners(registry: &mut Registry, overview: &Overview) {
    let open = Family::<Listener, Gauge>::default();
    registry.register("listener_connections", "Connections open now", open.clone());
    let accepted = Family::<Listener, Counter>::default();
    registry.register("listener_accepted", "Connections accepted", accepted.clone());
    let refused = Family::<Refused, Counter>::default();
    registry.register(
        "listener_refused",
        "Connections refused or closed by what lies below MQTT, by reason",
        refused.clone(),
    );
    let days = Family::<Listener, Gauge>::default();
    registry.register("listener_certificate_days", "Days until the first certificate ends", days.clone());
    let mut too_many = 0;
    for door in &overview.doors {
        let listener = door.listener.name.clone();
        let label = Listener { listener: listener.clone() };
        open.get_or_create(&label).set(i64::from(door.open()));
        accepted.get_or_create(&label).inc_by(door.accepted());
        for (reason, count) in door.refused().filter(|(_, count)| *count > 0) {
            refused.get_or_create(&Refused { listener: listener.clone(), reason }).inc_by(count);
        }
        let first = door.tls().and_then(|tls| tls.certificates.iter().map(CertificateInfo::days_left).min());
        if let Some(first) = first {
            days.get_or_create(&label).set(first);
        }
        too_many += BOUNDS.iter().map(|bound| door.count_of(*bound)).sum::<u64>();
    }
    counter(
        registry,
        "connections_refused",
        "Connections refused at the door by a bound: connections, of all or of a listener, connect rate, a busy shard",
        too_many,
    );
}

/// What each uplink counts: name, what it is, where it stands.
const UPLINK_COUNTS: [(&str, &str, CountOf); 15] = [
    ("uplink_forwarded", "Messages acknowledged by the upstream", |it| &it.forwarded),
    ("uplink_connects", "Connections made to the upstream", |it| &it.connects),
    ("uplink_refused", "Messages refused by the upstream, repeats included", |it| &it.refused),
    ("uplink_poisoned", "Messages moved into the poison lane", |it| &it.poisoned),
    ("uplink_poison_dropped", "Messages dropped from the poison lane", |it| &it.poison_dropped),
    ("uplink_failovers", "How often another address was taken", |it| &it.failovers),
    ("uplink_missing_fields", "Messages moved aside because a template needs what they have not", |it| {
        &it.missing_fields
    }),
    (
        "uplink_foreign_senders",
        "Messages moved aside because their topic names a sender who their publisher is not",
        |it| &it.foreign_senders,
    ),
    ("uplink_properties_dropped", "Messages sent without their properties, in MQTT 3.1.1", |it| &it.poorer),
    ("uplink_own", "Messages from an upstream that were not sent back there", |it| &it.own),
    ("uplink_inbound", "Messages from an upstream published here", |it| &it.inbound),
    ("uplink_inbound_loops", "Messages from an upstream that this gateway had sent itself", |it| {
        &it.inbound_loops
    }),
    ("uplink_inbound_unmapped", "Messages from an upstream that no entry is for", |it| &it.inbound_unmapped),
    ("uplink_inbound_refused", "Messages from an upstream that this router refuses", |it| {
        &it.inbound_refused
    }),
    ("uplink_inbound_unroomed", "Messages from an upstream that this router had no room for", |it| {
        &it.inbound_unroomed
    }),
];

/// How each uplink is: name, what it is, and the number of the uplink that has its status.
const UPLINK_LEVELS: [(&str, &str, LevelOf); 6] = [
    ("uplink_up", "1 while the uplink is connected", |_, _, it| i64::from(it.get().0.is_up())),
    ("uplink_inflight", "Messages that wait for the upstream's acknowledgement", |_, _, it| {
        it.inflight.load(Ordering::Relaxed) as i64
    }),
    (
        "uplink_full",
        "0 while there is room on the disk, 1 with room for urgent priorities alone, 2 without",
        |overview, number, _| overview.levels.read().uplink(number) as i64,
    ),
    ("uplink_waiting_senders", "Senders whose messages the upstream refuses now", |_, _, it| {
        it.waiting_senders.load(Ordering::Relaxed) as i64
    }),
    (
        "uplink_front_messages",
        "Messages of spill and memory routes that are in memory and need not be written now",
        |overview, number, _| overview.fronts.held(number as usize).0 as i64,
    ),
    ("uplink_front_bytes", "Memory that they take", |overview, number, _| {
        overview.fronts.held(number as usize).1 as i64
    }),
];

fn uplinks(registry: &mut Registry, overview: &Overview) {
    uplink_pace(registry, overview);
    for (name, help, of) in UPLINK_LEVELS {
        let family = Family::<Name, Gauge>::default();
        registry.register(name, help, family.clone());
        for (number, (name, status)) in (0..).zip(&overview.uplinks) {
            family.get_or_create(&Name { name: name.clone() }).set(of(overview, number, status));
        }
    }
    for (name, help, of) in UPLINK_COUNTS {
        let family = Family::<Name, Counter>::default();
        registry.register(name, help, family.clone());
        for (name, status) in &overview.uplinks {
            let count = of(status).load(Ordering::Relaxed);
            family.get_or_create(&Name { name: name.clone() }).inc_by(count);
        }
    }
}

fn spills(registry: &mut Registry, overview: &Overview) {
    let help = "Messages of spill and memory routes that an upstream had before they had to be written";
    let unwritten = overview.fronts.unwritten.load(Ordering::Relaxed);
    counter(registry, "spill_delivered_unwritten", help, unwritten);
    let written = Family::<Reason, Counter>::default();
    registry.register(
        "spill_written",
        "Messages of spill and memory routes that were written, by reason",
        written.clone(),
    );
    for (why, messages) in overview.fronts.written() {
        written.get_or_create(&Reason { reason: why.as_str().to_owned() }).inc_by(messages);
    }
}

/// What an uplink's link can carry, and what keeps watch over it.
fn uplink_pace(registry: &mut Registry, overview: &Overview) {
    let gauges = [
        ("uplink_window", "Messages that may be in flight now"),
        ("uplink_delay_micros", "Shortest round trip to an acknowledgement, microseconds"),
        ("uplink_throttled", "1 while the upstream wants less than the link could carry"),
        ("uplink_certificate_days", "Days until the certificate of the other end ends, where it has one"),
    ];
    let gauges = gauges.map(|(name, help)| {
        let family = Family::<Name, Gauge>::default();
        registry.register(name, help, family.clone());
        family
    });
    let counters = [
        ("uplink_throttles", "Signs of throttling by the upstream"),
        ("uplink_clock_jumps", "Jumps of the wall clock that the uplink noticed"),
        (
            "uplink_store_faults",
            "Times that the store did not read a lane for the uplink, or keep its position",
        ),
    ];
    let counters = counters.map(|(name, help)| {
        let family = Family::<Name, Counter>::default();
        registry.register(name, help, family.clone());
        family
    });
    for (name, status) in &overview.uplinks {
        let label = Name { name: name.clone() };
        let [window, delay, throttled, certificate] = &gauges;
        window.get_or_create(&label).set(status.window.load(Ordering::Relaxed) as i64);
        delay.get_or_create(&label).set(status.delay_micros.load(Ordering::Relaxed) as i64);
        throttled.get_or_create(&label).set(status.throttled.load(Ordering::Relaxed).into());
        if status.has_certificate.load(Ordering::Relaxed) {
            certificate.get_or_create(&label).set(status.certificate_days.load(Ordering::Relaxed));
        }
        let [throttles, jumps, faults] = &counters;
        throttles.get_or_create(&label).inc_by(status.throttles.load(Ordering::Relaxed));
        jumps.get_or_create(&label).inc_by(status.clock_jumps.load(Ordering::Relaxed));
        faults.get_or_create(&label).inc_by(status.store_faults.load(Ordering::Relaxed));
    }
}

/// Where a count stands.
type CountOf = fn(&LinkStatus) -> &AtomicU64;

/// How something is now.
type LevelOf = fn(&Overview, u32, &LinkStatus) -> i64;

fn lanes(registry: &mut Registry, overview: &Overview) {
    let messages = Family::<Name, Gauge>::default();
    registry.register("lane_messages", "Messages waiting in a lane", messages.clone());
    let bytes = Family::<Name, Gauge>::default();
    registry.register("lane_bytes", "Bytes waiting in a lane", bytes.clone());
    let mut sessions = (0, 0);
    for state in overview.reader.lanes().unwrap_or_default() {
        let held = overview.fronts.messages(state.id);
        // One series per lane, but not per client: a thousand clients would be a thousand series.
        if state.name.starts_with("s/") {
            sessions = (sessions.0 + state.messages(), sessions.1 + state.bytes);
            continue;
        }
        if state.tail == model::Seq::FIRST && held == 0 {
            continue;
        }
        let label = Name { name: state.name.to_string() };
        messages.get_or_create(&label).set((state.messages() + held) as i64);
        bytes.get_or_create(&label).set(state.bytes as i64);
    }
    let label = Name { name: "sessions".to_owned() };
    messages.get_or_create(&label).set(sessions.0 as i64);
    bytes.get_or_create(&label).set(sessions.1 as i64);
}

fn store(registry: &mut Registry, overview: &Overview) {
    let disk = &overview.disk;
    gauge(
        registry,
        "store_poisoned",
        "1 once a write has failed and nothing is acknowledged any more",
        u64::from(disk.poisoned.load(Ordering::Relaxed)),
    );
    gauge(
        registry,
        "store_full",
        "0 while there is room on the disk, 1 with room for urgent priorities alone, 2 without",
        overview.levels.read().store as u64,
    );
    counter(
        registry,
        "store_expired_messages",
        "Messages that expired before they were delivered",
        disk.expired.load(Ordering::Relaxed),
    );
    counter(
        registry,
        "store_damaged_messages",
        "Messages lost to damage in the store",
        disk.damaged.load(Ordering::Relaxed),
    );
    let lost = Family::<Lost, Counter>::default();
    registry.register(
        "lost_messages",
        "Messages in the loss ledger, by sink and reason, since the store was made",
        lost.clone(),
    );
    for ((sink, reason), sum) in disk.ledger.sums() {
        lost.get_or_create(&Lost { sink, reason }).inc_by(sum.messages);
    }
    let quarantined = disk.quarantined.load(Ordering::Relaxed);
    counter(
        registry,
        "store_quarantined",
        "Ranges of messages that were found damaged and set aside",
        quarantined,
    );
    let unnoted = disk.unnoted.load(Ordering::Relaxed);
    counter(registry, "lost_messages_unnoted", "Lost messages that the loss ledger had no room for", unnoted);
    gauge(
        registry,
        "store_free_bytes",
        "Bytes that the file system still has",
        disk.room.free.load(Ordering::Relaxed),
    );
    if let Some(bytes_max) = overview.store_bytes_max {
        gauge(registry, "store_budget_bytes", "Most bytes that the store may take", bytes_max);
    }
    if let Ok(stats) = overview.reader.stats() {
        let help = "Bytes written to the device: write-ahead log, memory written out, merges";
        counter(registry, "store_device_bytes", help, stats.device_bytes);
        gauge(registry, "store_disk_bytes", "Bytes that the store takes on disk", stats.disk_bytes);
        counter(registry, "store_records", "Records made durable", stats.records);
        counter(registry, "store_record_bytes", "Bytes of these records", stats.record_bytes);
        counter(registry, "store_written_bytes", "Bytes handed to the write-ahead log", stats.written_bytes);
        counter(registry, "store_syncs", "Syncs of the write-ahead log", stats.syncs);
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(value as i64);
    registry.register(name, help, gauge);
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter = Counter::<u64>::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}
