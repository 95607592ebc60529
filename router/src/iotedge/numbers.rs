//! edgeHub's series: those that say something true here, under its names and with its labels (`reference/edgehub.md` §8).
//!
//! In: what was counted and measured. Out: text in the format of Prometheus. Where a label cannot be known it is empty, and
//! `router/docs/edgehub.md` says so.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hub::series::{FURTHER, SEPARATOR, Series};
use hub::summary::QUANTILES;
use model::Timestamp;

use super::gatekeeper::IdentityNumbers;
use crate::services::Numbers;

/// What edgeHub shows for a route without priority.
const DEFAULT_PRIORITY: &str = "2000000000";

/// The labels that every series has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Common {
    /// `iothub`
    pub hub_host: String,
    /// `edge_device`
    pub device: String,
    /// `instance_number`: another one for each process.
    pub instance: String,
}

/// One queue towards an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    /// edgeHub calls everything upstream `iothub`.
    pub endpoint: String,
    /// As edgeHub writes it: the one of messages without priority is 2000000000.
    pub priority: u32,
    /// Messages that wait.
    pub length: u64,
}

/// The series, in the order of their names.
pub(crate) fn encode(common: &Common, identities: &IdentityNumbers, queues: &[Queue]) -> String {
    let mut out = Text { text: String::new(), common };
    let mut refused = std::collections::BTreeMap::<&str, u64>::new();
    for ((id, _), count) in &identities.denied {
        *refused.entry(id).or_default() += count;
    }
    out.head("edgehub_client_connect_failed_total", "counter", "Client connections that were refused");
    for (id, count) in refused {
        // edgeHub knows this one reason; ours stand in millrace_identities_refused_total.
        out.line(
            "edgehub_client_connect_failed_total",
            &[("id", id), ("reason", "not_authenticated")],
            count,
        );
    }
    out.head("edgehub_client_connect_success_total", "counter", "Client connections that were accepted");
    for (id, count) in &identities.accepted {
        out.line("edgehub_client_connect_success_total", &[("id", id)], *count);
    }
    out.head("edgehub_client_disconnect_total", "counter", "Client connections that have ended");
    for (id, count) in &identities.left {
        out.line("edgehub_client_disconnect_total", &[("id", id)], *count);
    }
    out.head("edgehub_connected_clients", "gauge", "Clients connected now");
    out.line("edgehub_connected_clients", &[], identities.connected as u64);
    out.head("edgehub_queue_length", "gauge", "Messages that wait for an endpoint");
    for queue in queues {
        let priority = queue.priority.to_string();
        out.line(
            "edgehub_queue_length",
            &[("endpoint", &queue.endpoint), ("priority", &priority), ("ms_telemetry", "True")],
            queue.length,
        );
    }
    out.head("millrace_identities_known", "gauge", "Devices and modules known now");
    out.line("millrace_identities_known", &[], identities.known as u64);
    out.head("millrace_identities_refresh_failures_total", "counter", "Reads of all identities that failed");
    out.line("millrace_identities_refresh_failures_total", &[], identities.refreshes.1);
    out.head("millrace_identities_refreshes_total", "counter", "Reads of all identities");
    out.line("millrace_identities_refreshes_total", &[], identities.refreshes.0);
    out.head(
        "millrace_identities_refused_total",
        "counter",
        "Client connections that were refused, by reason",
    );
    for ((id, reason), count) in &identities.denied {
        out.line("millrace_identities_refused_total", &[("id", id), ("reason", reason)], *count);
    }
    out.text
}

/// Labels of one series, from the parts of its name; `None`: a name that is none.
type LabelsOf = fn(&Common, &[&str]) -> Option<Vec<(&'static str, String)>>;

/// One series: its name without `edgehub_`, what it is, the word it is counted or measured under, its labels.
struct Row(&'static str, &'static str, &'static str, LabelsOf);

const COUNTERS: [Row; 12] = [
    Row("direct_methods_total", "Direct methods that were called", "methods", |_, it| {
        named(["from", "to"], it)
    }),
    Row("gettwin_total", "Twins given to clients", "gettwin", |_, it| named(["source", "id"], it)),
    Row("messages_dropped_total", "Messages that were dropped", "no_route", |_, it| reason("no_route", it)),
    Row("messages_dropped_total", "Messages that were dropped", "expired", |_, it| reason("ttl_expiry", it)),
    Row("messages_received_total", "Messages received from clients", "received", |_, it| {
        named(["id", "route_output"], it)
    }),
    Row("messages_sent_total", "Messages sent to modules and upstream", "sent", |common, it| {
        let [from, to, output, input, priority] = of_input(common, it)?;
        Some(vec![from, to, output, input, priority])
    }),
    Row("messages_sent_total", "Messages sent to modules and upstream", "forwarded", |_, it| {
        let [from, output, priority] = it.try_into().ok()?;
        let labels = named(["from", "from_route_output", "priority"], &[from, output, shown(priority)])?;
        Some([labels, upstream()].concat())
    }),
    Row("messages_unack_total", "Messages that were not acknowledged", "unacknowledged", |_, it| {
        reason("storage_failure", it)
    }),
    Row("offline_count_total", "How often the upstream was lost", "offline", |_, it| named(["id"], it)),
    Row("operation_retry_total", "Operations that were tried again", "again", |_, it| {
        let id = named(["id"], it)?.remove(0);
        Some(vec![id, ("operation", TO_MODULE.to_owned())])
    }),
    Row("operation_retry_total", "Operations that were tried again", "repeated", |_, it| {
        let id = named(["id"], it)?.remove(0);
        Some(vec![id, ("operation", TO_CLOUD.to_owned())])
    }),
    Row("reported_properties_total", "Reports of properties that were taken", "reported", |_, it| {
        named(["target", "id"], it)
    }),
];

const SUMMARIES: [Row; 9] = [
    Row("direct_method_duration_seconds", "How long direct methods took", "methods", |_, it| {
        named(["from", "to"], it)
    }),
    Row("gettwin_duration_seconds", "How long it took to give twins", "gettwin", |_, it| {
        named(["source", "id"], it)
    }),
    Row("message_process_duration_seconds", "From arrival to acknowledgement", "taken", |common, it| {
        let [from, to, _, _, priority] = of_input(common, it)?;
        Some(vec![from, to, priority])
    }),
    Row("message_process_duration_seconds", "From arrival to acknowledgement", "process", |_, it| {
        let [from, priority] = it.try_into().ok()?;
        let labels = named(["from", "priority"], &[from, shown(priority)])?;
        Some([labels, vec![("to", UPSTREAM.to_owned())]].concat())
    }),
    Row("message_send_duration_seconds", "From sending to acknowledgement", "taken", |common, it| {
        let [from, to, output, input, _] = of_input(common, it)?;
        Some(vec![from, to, output, input])
    }),
    Row("message_send_duration_seconds", "From sending to acknowledgement", "send", |_, it| {
        Some([named(["from", "from_route_output"], it)?, upstream()].concat())
    }),
    Row("message_size_bytes", "Sizes of messages from clients", "size", |_, it| named(["id"], it)),
    Row("offline_duration_seconds", "How long the upstream was away", "offline", |_, it| named(["id"], it)),
    Row("reported_properties_update_duration_seconds", "How long reports took", "reported", |_, it| {
        named(["target", "id"], it)
    }),
];

/// edgeHub writes them with a blank in front.
const TO_MODULE: &str = " SendMessageToModule";
const TO_CLOUD: &str = " SendMessageToCloud";

/// What edgeHub calls everything upstream where messages are sent.
const UPSTREAM: &str = "upstream";

/// Where messages go that no input gets.
fn upstream() -> Vec<(&'static str, String)> {
    vec![("to", UPSTREAM.to_owned()), ("to_route_input", String::new())]
}

/// A priority as edgeHub writes it.
fn shown(priority: &str) -> &str {
    if priority == "default" { DEFAULT_PRIORITY } else { priority }
}

fn named<const N: usize>(labels: [&'static str; N], parts: &[&str]) -> Option<Vec<(&'static str, String)>> {
    let values = <[&str; N]>::try_from(parts).ok()?;
    Some(labels.into_iter().zip(values.map(str::to_owned)).collect())
}

fn reason(reason: &str, parts: &[&str]) -> Option<Vec<(&'static str, String)>> {
    let mut labels = named(["from", "from_route_output"], parts)?;
    labels.insert(0, ("reason", reason.to_owned()));
    Some(labels)
}

/// Labels of a message to an input: from, to, output, input, priority.
fn of_input(common: &Common, parts: &[&str]) -> Option<[(&'static str, String); 5]> {
    let [device, module, to, output, input, priority] = parts.try_into().ok()?;
    let from =
        if module.is_empty() || device == FURTHER { device.to_owned() } else { format!("{device}/{module}") };
    let to = if device == FURTHER { FURTHER.to_owned() } else { format!("{}/{to}", common.device) };
    let priority = shown(priority);
    Some([
        ("from", from),
        ("to", to),
        ("from_route_output", output.to_owned()),
        ("to_route_input", input.to_owned()),
        ("priority", priority.to_owned()),
    ])
}

/// The labels of one count or summary; those that had no room for names of their own have the same value everywhere.
fn labels_of(row: &Row, common: &Common, parts: &[&str]) -> Option<Vec<(&'static str, String)>> {
    let Row(_, _, _, labels) = row;
    match parts {
        [FURTHER] => (1..=6).find_map(|count| labels(common, &[FURTHER; 6][..count])),
        parts => labels(common, parts),
    }
}

/// Everything counted and measured by name, of shards, uplinks and services.
pub(crate) fn encode_series(common: &Common, series: &Series, now: Timestamp) -> String {
    let mut out = Text { text: String::new(), common };
    let mut last = "";
    for row @ Row(short, help, word, _) in &COUNTERS {
        let name = format!("edgehub_{short}");
        if std::mem::replace(&mut last, *short) != *short {
            out.head(&name, "counter", help);
        }
        for (parts, count) in of(series.counts(), word) {
            if let Some(labels) = labels_of(row, common, &parts) {
                out.line(&name, &borrowed(&labels), *count);
            }
        }
    }
    for row @ Row(short, help, word, _) in &SUMMARIES {
        let name = format!("edgehub_{short}");
        if std::mem::replace(&mut last, *short) != *short {
            out.head(&name, "summary", help);
        }
        for (parts, summary) in of(series.summaries(), word) {
            let Some(labels) = labels_of(row, common, &parts) else { continue };
            let labels = borrowed(&labels);
            for quantile in QUANTILES {
                let (value, quantile) = (summary.quantile(quantile, now), quantile.to_string());
                let value = value.map_or_else(|| "NaN".to_owned(), |value| format!("{value:.6}"));
                out.line(&name, &[&labels[..], &[("quantile", &quantile)]].concat(), value);
            }
            out.line(&format!("{name}_sum"), &labels, summary.sum());
            out.line(&format!("{name}_count"), &labels, summary.count());
        }
    }
    out.text
}

/// Those of one word, with what stands behind it.
fn of<'a, V>(all: &'a BTreeMap<Box<str>, V>, word: &'a str) -> impl Iterator<Item = (Vec<&'a str>, &'a V)> {
    all.iter().filter_map(move |(name, value)| {
        let mut parts = name.split(SEPARATOR);
        (parts.next() == Some(word)).then(|| (parts.collect(), value))
    })
}

fn borrowed<'a>(labels: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    labels.iter().map(|(label, value)| (*label, value.as_str())).collect()
}

/// What the services of the dialect counted; `web`: connections over HTTPS that were not served, by reason.
pub(crate) fn encode_services(common: &Common, numbers: &Numbers, web: &[(&'static str, u64)]) -> String {
    let mut out = Text { text: String::new(), common };
    for (name, help, count) in numbers.each() {
        let name = format!("millrace_hub_{name}_total");
        out.head(&name, "counter", help);
        out.line(&name, &[], count);
    }
    let name = "millrace_https_connections_refused_total";
    out.head(
        name,
        "counter",
        "Connections over HTTPS that had no place, lost it to another one, or took too long",
    );
    for (reason, count) in web {
        out.line(name, &[("reason", reason)], *count);
    }
    out.text
}

struct Text<'a> {
    text: String,
    common: &'a Common,
}

impl Text<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // OpenMetrics names a counter without its suffix in what describes it.
        let name = name.strip_suffix("_total").unwrap_or(name);
        self.push(format_args!("# HELP {name} {help}.\n# TYPE {name} {kind}\n"));
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let Common { hub_host, device, instance } = self.common;
        let common = [("iothub", hub_host.as_str()), ("edge_device", device), ("instance_number", instance)];
        let mut text = String::new();
        for (key, value) in common.into_iter().chain(labels.iter().copied()) {
            let separator = if text.is_empty() { "" } else { "," };
            text.push_str(separator);
            text.push_str(key);
            text.push_str("=\"");
            for character in value.chars() {
                match character {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    other => text.push(other),
                }
            }
            text.push('"');
        }
        self.push(format_args!("{name}{{{text}}} {value}\n"));
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a `String` does not fail.
        self.text.write_fmt(text).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series() -> Series {
        let mut series = Series::default();
        let at = Timestamp(1);
        for (word, labels) in [
            ("received", &["d1", ""][..]),
            ("no_route", &["gw1/filter", "other"]),
            ("unacknowledged", &["d1", ""]),
            ("sent", &["gw1", "filter", "ml", "alert", "in1", "default"]),
            ("again", &["gw1/ml"]),
            ("gettwin", &["upstream", "d1"]),
            ("reported", &["edge_hub", "d1"]),
            ("methods", &["gw1/filter", "d1"]),
            ("offline", &["gw1/$edgeHub"]),
        ] {
            series.count(word, labels);
            series.observe(word, labels, 0.5, at);
        }
        series.add("sent", &["d1", "", "ml", "", "in1", "0"], 4);
        series.observe("size", &["d1"], 100.0, at);
        series.observe("taken", &["gw1", "filter", "ml", "alert", "in1", "default"], 0.25, at);
        series.add("forwarded", &["gw1/filter", "alert", "0"], 7);
        series.add("repeated", &["d1"], 2);
        series.add("expired", &["d1", ""], 3);
        series.observe("send", &["gw1/filter", "alert"], 0.5, at);
        series.observe("process", &["gw1/filter", "default"], 0.5, at);
        series.add("received", &[FURTHER], 9);
        series.add("sent", &[FURTHER], 9);
        series
    }

    /// Every series of §8, with its labels.
    #[test]
    fn every_series_of_edgehub_is_served_with_its_labels() {
        let common = Common { device: "gw1".to_owned(), ..Common::default() };
        let queue = Queue { endpoint: "iothub".to_owned(), priority: 1, length: 9 };
        let mut identities = IdentityNumbers::default();
        for numbers in [&mut identities.accepted, &mut identities.left] {
            numbers.insert("d1".to_owned(), 1);
        }
        identities.denied.insert(("d1".to_owned(), "expired"), 1);
        let mut text = encode(&common, &identities, &[queue]);
        text += &encode_series(&common, &series(), Timestamp(1));
        for (name, labels) in [
            ("messages_received_total", "id route_output"),
            ("messages_sent_total", "from to from_route_output to_route_input priority"),
            ("messages_dropped_total", "reason from from_route_output"),
            ("messages_unack_total", "reason from from_route_output"),
            ("queue_length", "endpoint priority"),
            ("message_size_bytes", "id quantile"),
            ("message_send_duration_seconds", "from to from_route_output to_route_input quantile"),
            ("message_process_duration_seconds", "from to priority quantile"),
            ("gettwin_total", "source id"),
            ("gettwin_duration_seconds", "source id quantile"),
            ("reported_properties_total", "target id"),
            ("reported_properties_update_duration_seconds", "target id quantile"),
            ("direct_methods_total", "from to"),
            ("direct_method_duration_seconds", "from to quantile"),
            ("operation_retry_total", "id operation"),
            ("offline_count_total", "id"),
            ("offline_duration_seconds", "id quantile"),
            ("connected_clients", ""),
            ("client_connect_success_total", "id"),
            ("client_disconnect_total", "id"),
            ("client_connect_failed_total", "id reason"),
        ] {
            let lines: Vec<_> =
                text.lines().filter(|it| it.starts_with(&format!("edgehub_{name}{{"))).collect();
            assert!(!lines.is_empty(), "edgehub_{name} is not served");
            for line in lines {
                let wanted = labels.split_whitespace().chain(["iothub", "edge_device", "instance_number"]);
                for label in wanted {
                    let has =
                        [format!("{{{label}=\""), format!(",{label}=\"")].iter().any(|it| line.contains(it));
                    assert!(has, "{line} has no {label}");
                }
            }
        }
    }

    #[test]
    fn messages_are_counted_under_edgehubs_names() {
        let common = Common { device: "gw1".to_owned(), ..Common::default() };
        let text = encode_series(&common, &series(), Timestamp(1));
        let labels = "iothub=\"\",edge_device=\"gw1\",instance_number=\"\"";
        for line in [
            format!("edgehub_messages_received_total{{{labels},id=\"d1\",route_output=\"\"}} 1"),
            format!(
                "edgehub_messages_dropped_total{{{labels},reason=\"no_route\",from=\"gw1/filter\",from_route_output=\"other\"}} 1"
            ),
            format!(
                "edgehub_messages_dropped_total{{{labels},reason=\"ttl_expiry\",from=\"d1\",from_route_output=\"\"}} 3"
            ),
            format!(
                "edgehub_messages_sent_total{{{labels},from=\"gw1/filter\",to=\"gw1/ml\",from_route_output=\"alert\",to_route_input=\"in1\",priority=\"2000000000\"}} 1"
            ),
            format!(
                "edgehub_messages_sent_total{{{labels},from=\"d1\",to=\"gw1/ml\",from_route_output=\"\",to_route_input=\"in1\",priority=\"0\"}} 4"
            ),
            format!(
                "edgehub_messages_sent_total{{{labels},from=\"gw1/filter\",from_route_output=\"alert\",priority=\"0\",to=\"upstream\",to_route_input=\"\"}} 7"
            ),
            format!(
                "edgehub_operation_retry_total{{{labels},id=\"gw1/ml\",operation=\" SendMessageToModule\"}} 1"
            ),
            format!(
                "edgehub_operation_retry_total{{{labels},id=\"d1\",operation=\" SendMessageToCloud\"}} 2"
            ),
            format!(
                "edgehub_message_process_duration_seconds_sum{{{labels},from=\"gw1/filter\",priority=\"2000000000\",to=\"upstream\"}} 0.5"
            ),
            format!("edgehub_messages_received_total{{{labels},id=\"further\",route_output=\"further\"}} 9"),
            format!(
                "edgehub_messages_sent_total{{{labels},from=\"further\",to=\"further\",from_route_output=\"further\",to_route_input=\"further\",priority=\"further\"}} 9"
            ),
            format!("edgehub_message_size_bytes_sum{{{labels},id=\"d1\"}} 100"),
            format!("edgehub_message_size_bytes_count{{{labels},id=\"d1\"}} 1"),
            "# TYPE edgehub_message_size_bytes summary".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
        assert!(encode_series(&common, &series(), Timestamp(u64::MAX)).contains("} NaN"));
    }

    #[test]
    fn series_have_the_names_and_labels_of_edgehub() {
        let common =
            Common { hub_host: "hub.example".to_owned(), device: "gw1".to_owned(), instance: "7".to_owned() };
        let mut identities = IdentityNumbers { connected: 2, ..IdentityNumbers::default() };
        identities.accepted.insert("gw1/filter".to_owned(), 3);
        identities.left.insert("d\"1".to_owned(), 1);
        identities.denied.insert(("d1".to_owned(), "expired"), 4);
        identities.denied.insert(("d1".to_owned(), "signature"), 1);
        let queue = Queue { endpoint: "iothub".to_owned(), priority: 2_000_000_000, length: 9 };
        let text = encode(&common, &identities, &[queue]);
        let labels = "iothub=\"hub.example\",edge_device=\"gw1\",instance_number=\"7\"";
        for line in [
            format!(
                "edgehub_client_connect_failed_total{{{labels},id=\"d1\",reason=\"not_authenticated\"}} 5"
            ),
            format!("edgehub_client_connect_success_total{{{labels},id=\"gw1/filter\"}} 3"),
            format!("edgehub_client_disconnect_total{{{labels},id=\"d\\\"1\"}} 1"),
            format!("edgehub_connected_clients{{{labels}}} 2"),
            format!(
                "edgehub_queue_length{{{labels},endpoint=\"iothub\",priority=\"2000000000\",ms_telemetry=\"True\"}} 9"
            ),
            format!("millrace_identities_refused_total{{{labels},id=\"d1\",reason=\"expired\"}} 4"),
            "# TYPE edgehub_client_connect_failed counter".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
    }
}
