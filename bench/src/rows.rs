//! The questions of the comparison, each with its load and what we want to reach (DESIGN §10).
//!
//! Knows: scenarios as text and targets. Never: how they are run.

use crate::contestants::{Routes, System};

/// One question.
pub(crate) struct Row {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What is asked, with everything that a reader must know of the load.
    pub(crate) question: &'static str,
    /// The load, without address and duration.
    pub(crate) scenario: &'static str,
    /// What Millrace has to evaluate meanwhile.
    pub(crate) routes: Routes,
    /// Who takes part beside Millrace.
    pub(crate) peers: &'static [System],
    /// What is to be reached.
    pub(crate) targets: &'static [Target],
}

/// What Millrace is to reach in a row.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// CPU seconds per million delivered: at most this.
    Cpu(f64),
    /// CPU seconds per million delivered: at most this many times those of the peer.
    CpuTimes(f64, System),
    /// p50 and p99: at most those of the peer.
    LatencyOf(System),
    /// CPU per message at most a tenth above that of the peer, rate at most a tenth below.
    NotSlowerThan(System),
}

const WITH_RELAY: &[System] = &[System::Mosquitto, System::Relay];
const WITHOUT_RELAY: &[System] = &[System::Mosquitto];

const ALONE: &[System] = &[];

/// The rows whose cost must not grow while the protocol does: what `--peer-binary` compares unless told otherwise.
pub(crate) const HOT_ROWS: &[&str] = &["qos0-pairs", "qos1-pairs", "fan-out"];

/// All rows, in the order of DESIGN §10.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "qos0-pairs",
        question: "50 publishers to 50 subscribers in pairs, QoS 0, 256 B, up to 64 messages per write, closed loop \
                   (256 per pair under way). Millrace has 100 routes loaded, 10 of which ask every message.",
        scenario: r#"
name = "qos0-pairs"
[publishers]
count = 50
qos = 0
rate = "max"
batch = 64
ahead = 256
payload = { kind = "binary", bytes = 256 }
[subscribers]
count = 50
qos = 0
[run]
keep_alive_secs = 0
"#,
        routes: Routes::Hundred,
        peers: WITH_RELAY,
        targets: &[Target::Cpu(0.30)],
    },
    Row {
        name: "qos1-pairs",
        question: "50 publishers to 50 subscribers in pairs, QoS 1 on both sides, 256 B, up to 64 messages per write, \
                   closed loop (window 256).",
        scenario: r#"
name = "qos1-pairs"
[publishers]
count = 50
qos = 1
rate = "max"
batch = 64
window = 256
payload = { kind = "binary", bytes = 256 }
[subscribers]
count = 50
qos = 1
[run]
keep_alive_secs = 0
"#,
        routes: Routes::None,
        peers: WITH_RELAY,
        targets: &[Target::Cpu(0.70)],
    },
    Row {
        name: "fan-out",
        question: "1 publisher to 200 subscribers, QoS 0, 256 B, up to 64 messages per write, closed loop (256 under way).",
        scenario: r#"
name = "fan-out"
[publishers]
count = 1
topic = "load/all"
qos = 0
rate = "max"
batch = 64
ahead = 256
payload = { kind = "binary", bytes = 256 }
[subscribers]
count = 200
filter = "load/all"
qos = 0
[run]
keep_alive_secs = 0
"#,
        routes: Routes::None,
        peers: WITHOUT_RELAY,
        targets: &[Target::Cpu(0.15)],
    },
    Row {
        name: "fan-in",
        question: "50 publishers to 1 subscriber, QoS 0, 256 B, up to 64 messages per write, closed loop \
                   (128 per publisher under way).",
        scenario: r#"
name = "fan-in"
[publishers]
count = 50
qos = 0
rate = "max"
batch = 64
ahead = 128
payload = { kind = "binary", bytes = 256 }
[subscribers]
count = 1
filter = "load/#"
qos = 0
[run]
keep_alive_secs = 0
"#,
        routes: Routes::None,
        peers: WITHOUT_RELAY,
        targets: &[],
    },
    Row {
        name: "qos2-pairs",
        question: "50 publishers to 50 subscribers in pairs, QoS 2 on both sides, 256 B, up to 64 messages per write, \
                   closed loop (window 64).",
        scenario: r#"
name = "qos2-pairs"
[publishers]
count = 50
qos = 2
rate = "max"
batch = 64
window = 64
payload = { kind = "binary", bytes = 256 }
[subscribers]
count = 50
qos = 2
[run]
keep_alive_secs = 0
"#,
        routes: Routes::None,
        peers: WITHOUT_RELAY,
        targets: &[],
    },
    Row {
        name: "fan-out-qos1",
        question: "1 publisher to 200 subscribers, QoS 1 on both sides, 256 B, up to 64 messages per write, closed loop \
                   (window 256).",
        scenario: r#"
name = "fan-out-qos1"
[publishers]
count = 1
topic = "load/all"
qos = 1
rate = "max"
batch = 64
window = 256
ahead = 256
payload = { kind = "binary", bytes = 256 }
[subscribers]
count = 200
filter = "load/all"
qos = 1
[run]
keep_alive_secs = 0
"#,
        routes: Routes::None,
        peers: WITHOUT_RELAY,
        targets: &[],
    },
    Row {
        name: "shared-fan-in",
        question: "50 publishers into a shared subscription of 10, QoS 1 on both sides, 256 B, up to 64 messages per write, \
                   closed loop (window 64); a message that two members got would be a broken promise.",
        scenario: r#"
name = "shared-fan-in"
[publishers]
count = 50
qos = 1
rate = "max"
batch = 64
window = 64
ahead = 128
payload = { kind = "binary", bytes = 256 }
[subscribers]
count = 10
version = "5"
filter = "$share/workers/load/#"
qos = 1
[run]
keep_alive_secs = 0
"#,
        routes: Routes::None,
        peers: WITHOUT_RELAY,
        targets: &[],
    },
    Row {
        name: "v5-properties",
        question: "50 publishers to 50 subscribers in pairs, 5.0, QoS 1 on both sides, 256 B and five user properties, which \
                   the subscribers compare, up to 64 messages per write, closed loop (window 256).",
        scenario: r#"
name = "v5-properties"
[publishers]
count = 50
version = "5"
qos = 1
user_properties = [
    ["site", "north"],
    ["line", "3"],
    ["schema", "telemetry/2"],
    ["trace", "4bf92f3577b34da6a3ce929d0e0e4736"],
    ["site", "fallback"],
]
rate = "max"
batch = 64
window = 256
payload = { kind = "binary", bytes = 256 }
[subscribers]
count = 50
version = "5"
qos = 1
[run]
keep_alive_secs = 0
"#,
        routes: Routes::None,
        peers: WITHOUT_RELAY,
        targets: &[],
    },
    Row {
        name: "single-write",
        question: "50 publishers to 50 subscribers in pairs, QoS 1, 256 B, every message a write of its own: each \
                   publisher sends the next when the one before is acknowledged and has arrived, closed loop.",
        scenario: r#"
name = "single-write"
[publishers]
count = 50
qos = 1
rate = "max"
batch = 1
window = 1
ahead = 1
payload = { kind = "binary", bytes = 256 }
[subscribers]
count = 50
qos = 1
[run]
keep_alive_secs = 0
"#,
        routes: Routes::None,
        peers: WITH_RELAY,
        targets: &[Target::CpuTimes(1.15, System::Relay)],
    },
    Row {
        name: "slow-clients",
        question: "200 publishers to 200 subscribers in pairs, QoS 1, 256 B, each 100 messages a second at random times \
                   (Poisson), 20 000 a second in all, open loop: the same load for everybody, every message on its own.",
        scenario: r#"
name = "slow-clients"
[publishers]
count = 200
qos = 1
rate = 100
arrivals = "poisson"
batch = 1
window = 1000
payload = { kind = "binary", bytes = 256 }
[subscribers]
count = 200
qos = 1
[run]
keep_alive_secs = 0
slip_max_percent = 5
"#,
        routes: Routes::None,
        peers: WITH_RELAY,
        targets: &[Target::CpuTimes(1.15, System::Relay)],
    },
    Row {
        name: "latency",
        question: "10 publishers to 10 subscribers in pairs, QoS 1, 256 B, 5 000 messages a second in all at random times \
                   (Poisson), open loop: latency counts from the intended send time.",
        scenario: r#"
name = "latency"
[publishers]
count = 10
qos = 1
rate_total = 5000
arrivals = "poisson"
window = 1000
payload = { kind = "binary", bytes = 256 }
[subscribers]
count = 10
qos = 1
[run]
keep_alive_secs = 0
slip_max_percent = 5
"#,
        routes: Routes::None,
        peers: WITH_RELAY,
        targets: &[Target::LatencyOf(System::Mosquitto)],
    },
    Row {
        name: "rules-1",
        question: "1 route that asks the body of every message and does not match: 10 publishers to 10 subscribers in pairs, \
                   QoS 0, JSON telemetry, up to 64 messages per write, closed loop (256 per pair under way).",
        scenario: r#"
name = "rules-1"
[publishers]
count = 10
qos = 0
rate = "max"
batch = 64
ahead = 256
payload = { kind = "telemetry", bytes = 256 }
[subscribers]
count = 10
qos = 0
[run]
keep_alive_secs = 0
"#,
        routes: Routes::Asking(1),
        peers: ALONE,
        targets: &[],
    },
    Row {
        name: "rules-1k",
        question: "1 000 routes that ask the body of every message and do not match: 10 publishers to 10 subscribers in pairs, \
                   QoS 0, JSON telemetry, up to 64 messages per write, closed loop (256 per pair under way).",
        scenario: r#"
name = "rules-1k"
[publishers]
count = 10
qos = 0
rate = "max"
batch = 64
ahead = 256
payload = { kind = "telemetry", bytes = 256 }
[subscribers]
count = 10
qos = 0
[run]
keep_alive_secs = 0
"#,
        routes: Routes::Asking(1_000),
        peers: ALONE,
        targets: &[],
    },
    Row {
        name: "rules-10k",
        question: "10 000 routes that ask the body of every message and do not match: 10 publishers to 10 subscribers in pairs, \
                   QoS 0, JSON telemetry, up to 64 messages per write, closed loop (256 per pair under way).",
        scenario: r#"
name = "rules-10k"
[publishers]
count = 10
qos = 0
rate = "max"
batch = 64
ahead = 256
payload = { kind = "telemetry", bytes = 256 }
[subscribers]
count = 10
qos = 0
[run]
keep_alive_secs = 0
"#,
        routes: Routes::Asking(10_000),
        peers: ALONE,
        targets: &[Target::Cpu(5.0)],
    },
    Row {
        name: "rules-10k-match",
        question: "10 000 routes that ask the body of every message; 100 of them match and lead to 7 topics without \
                   subscribers: 10 publishers to 10 subscribers in pairs, QoS 0, JSON telemetry, up to 64 messages per \
                   write, closed loop (256 per pair under way). 5 s CPU per 10⁶ are 200 000 messages a second and core.",
        scenario: r#"
name = "rules-10k-match"
[publishers]
count = 10
qos = 0
rate = "max"
batch = 64
ahead = 256
payload = { kind = "telemetry", bytes = 256 }
[subscribers]
count = 10
qos = 0
[run]
keep_alive_secs = 0
"#,
        routes: Routes::OnePercent(10_000),
        peers: ALONE,
        targets: &[Target::Cpu(5.0)],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_one() {
        for row in ROWS {
            let overrides = ["run.duration_secs=1".to_owned()];
            let scenario = loadgen::scenario::Scenario::parse(row.name, row.scenario, &overrides).unwrap();
            assert_eq!(scenario.name, row.name);
        }
    }

    #[test]
    fn the_relay_gets_pairs_only() {
        for row in ROWS.iter().filter(|row| row.peers.contains(&System::Relay)) {
            let overrides = ["run.duration_secs=1".to_owned()];
            let scenario = loadgen::scenario::Scenario::parse(row.name, row.scenario, &overrides).unwrap();
            let (publishers, subscribers) = (scenario.publishers.unwrap(), scenario.subscribers.unwrap());
            assert_eq!(publishers.count, subscribers.count);
            assert!(publishers.topic.varies() && subscribers.filter.varies());
        }
    }

    #[test]
    fn a_target_of_a_peer_has_that_peer() {
        for row in ROWS {
            for target in row.targets {
                match target {
                    Target::Cpu(_) => {}
                    Target::CpuTimes(_, peer) | Target::LatencyOf(peer) | Target::NotSlowerThan(peer) => {
                        assert!(row.peers.contains(peer));
                    }
                }
            }
        }
    }
}
