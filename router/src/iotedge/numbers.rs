//! edgeHub's series: those that say something true here, under its names and with its labels (`reference/edgehub.md` §8).
//!
//! In: what was counted. Out: text in the format of Prometheus. A series whose number nobody counts yet is left out, not
//! served as zero: a dashboard then shows a gap and not a lie. Those left out: see `router/docs/edgehub.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use broker::SERIES_SEPARATOR;

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

/// Messages, by the counts of all shards.
pub(crate) fn encode_messages(common: &Common, series: &BTreeMap<Box<str>, u64>) -> String {
    let mut out = Text { text: String::new(), common };
    let of = |word: &'static str| {
        series.iter().filter_map(move |(name, count)| {
            let mut parts = name.split(SERIES_SEPARATOR);
            (parts.next() == Some(word)).then(|| (parts.collect::<Vec<_>>(), *count))
        })
    };
    let name = "edgehub_messages_dropped_total";
    out.head(name, "counter", "Messages that no route wanted");
    for (labels, count) in of("no_route") {
        if let [from, output] = labels[..] {
            out.line(name, &[("reason", "no_route"), ("from", from), ("from_route_output", output)], count);
        }
    }
    let name = "edgehub_messages_received_total";
    out.head(name, "counter", "Messages received from clients");
    for (labels, count) in of("received") {
        if let [id, output] = labels[..] {
            out.line(name, &[("id", id), ("route_output", output)], count);
        }
    }
    let name = "edgehub_messages_sent_total";
    out.head(name, "counter", "Messages put into queues of modules' inputs");
    for (labels, count) in of("sent") {
        let [device, module, to, output, input, priority] = labels[..] else { continue };
        let from = if module.is_empty() { device.to_owned() } else { format!("{device}/{module}") };
        let to = format!("{}/{to}", common.device);
        let priority = if priority == "default" { DEFAULT_PRIORITY } else { priority };
        let labels = [
            ("from", from.as_str()),
            ("to", &to),
            ("from_route_output", output),
            ("to_route_input", input),
            ("priority", priority),
        ];
        out.line(name, &labels, count);
    }
    out.text
}

/// What the services of the dialect counted.
pub(crate) fn encode_services(common: &Common, numbers: &Numbers) -> String {
    let mut out = Text { text: String::new(), common };
    for (name, help, count) in numbers.each() {
        let name = format!("millrace_hub_{name}_total");
        out.head(&name, "counter", help);
        out.line(&name, &[], count);
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

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
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

    #[test]
    fn messages_are_counted_under_edgehubs_names() {
        let common = Common { device: "gw1".to_owned(), ..Common::default() };
        let counts: BTreeMap<Box<str>, u64> = [
            ("received\x00d1\x00", 3),
            ("no_route\x00gw1/filter\x00other", 1),
            ("sent\x00gw1\x00filter\x00ml\x00alert\x00in1\x00default", 2),
            ("sent\x00d1\x00\x00ml\x00\x00in1\x000", 4),
            ("further", 9),
        ]
        .map(|(name, count)| (name.into(), count))
        .into();
        let text = encode_messages(&common, &counts);
        let labels = "iothub=\"\",edge_device=\"gw1\",instance_number=\"\"";
        for line in [
            format!("edgehub_messages_received_total{{{labels},id=\"d1\",route_output=\"\"}} 3"),
            format!(
                "edgehub_messages_dropped_total{{{labels},reason=\"no_route\",from=\"gw1/filter\",from_route_output=\"other\"}} 1"
            ),
            format!(
                "edgehub_messages_sent_total{{{labels},from=\"gw1/filter\",to=\"gw1/ml\",from_route_output=\"alert\",to_route_input=\"in1\",priority=\"2000000000\"}} 2"
            ),
            format!(
                "edgehub_messages_sent_total{{{labels},from=\"d1\",to=\"gw1/ml\",from_route_output=\"\",to_route_input=\"in1\",priority=\"0\"}} 4"
            ),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
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
