//! The performance table of README.md: written from the newest results below `bench/results`, never typed.
//!
//! In:  `results.json` of `bench compare`. Out: the text between the two marks; a fault if the page says anything else.
//! `MILLRACE_BLESS=1` writes it. The newest are those with the latest date inside, not the latest name, that have every row:
//! a comparison of a few rows stands beside the table, never in its place.

use std::fmt::Write;

use serde_json::Value;

use crate::tree::{files_below, read, root};

const PAGE: &str = "README.md";
const BEGIN: &str = "<!-- performance: generated from bench/results by the tidy test, MILLRACE_BLESS=1 -->\n";
const END: &str = "<!-- performance: end -->\n";

/// Whether results have every row: they say so since it is asked; those from before are all whole.
fn is_whole(results: &Value) -> bool {
    results["whole"].as_bool().unwrap_or(true)
}

/// The newest results that are whole, with the folder that they are in.
fn newest() -> (String, Value) {
    let files = files_below(&["bench/results"]);
    let results = files.into_iter().filter_map(|file| {
        let folder = file.name.strip_suffix("/results.json")?.to_owned();
        let results: Value =
            serde_json::from_str(&file.text).unwrap_or_else(|error| panic!("{}: {error}", file.name));
        Some((folder, results))
    });
    results
        .filter(|(_, results)| is_whole(results))
        .max_by_key(|(_, results)| results["facts"]["date"].as_str().unwrap_or_default().to_owned())
        .expect("bench/results has a results.json that is whole")
}

fn table((folder, results): &(String, Value)) -> String {
    let facts = &results["facts"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let others = other_peers(results);
    let names: Vec<&str> = std::iter::once("mosquitto").chain(others.iter().map(String::as_str)).collect();
    let mut out = String::new();
    writeln!(
        out,
        "Medians of {} rounds of {} s beside Debian's mosquitto{} in the same run, load and broker on one machine: {} × {}, \
         Linux {}, commit {}, {}. [All figures, targets and the method]({folder}/README.md).\n",
        results["rounds"],
        results["seconds"],
        if others.is_empty() { String::new() } else { format!(" and {}", others.join(", ")) },
        facts["processors"],
        word(&facts["processor"]),
        word(&facts["kernel"]),
        word(&facts["commit"]),
        word(&facts["date"])
    )
    .expect("writing to memory cannot fail");
    let heads =
        ["delivered/s", "CPU s per 10⁶", "p99 µs"].map(|head| format!("{head} | {}", names.join(" | ")));
    out += &format!("| Load | {} |\n|---|{}\n", heads.join(" | "), "--:|".repeat(3 * (1 + names.len())));
    for finding in results["compare"].as_array().into_iter().flatten() {
        let of = |system: &str, figure: &str| {
            let systems = finding["systems"].as_array().into_iter().flatten();
            let summary = systems.into_iter().find(|summary| summary["system"] == system);
            summary.and_then(|summary| summary[figure]["median"].as_f64())
        };
        let cell = |value: Option<f64>, places: usize| match value {
            None => "–".to_owned(),
            Some(value) if places == 0 => grouped(value),
            Some(value) => format!("{value:.places$}"),
        };
        let mut cells = Vec::new();
        for (figure, places) in [("delivered_per_sec", 0), ("cpu_secs_per_million", 2), ("p99_micros", 0)] {
            cells.push(cell(of("millrace", figure), places));
            cells.extend(names.iter().map(|peer| cell(of(peer, figure), places)));
        }
        writeln!(out, "| {} | {} |", word(&finding["row"]), cells.join(" | "))
            .expect("writing to memory cannot fail");
    }
    out
}

/// Peers that somebody named, beside mosquitto and the relay.
fn other_peers(results: &Value) -> Vec<String> {
    let rows = results["compare"].as_array().into_iter().flatten();
    let systems = rows.flat_map(|row| row["systems"].as_array().into_iter().flatten());
    let names = systems.filter_map(|summary| summary["system"].as_str());
    let known = ["millrace", "before", "mosquitto", "relay"];
    let found: std::collections::BTreeSet<&str> = names.filter(|name| !known.contains(name)).collect();
    found.into_iter().map(str::to_owned).collect()
}

/// A whole number with groups: 1234567 becomes "1 234 567".
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[test]
fn the_performance_table_is_that_of_the_newest_results() {
    let page = read(PAGE);
    let (before, rest) = page.split_once(BEGIN).expect("README.md has the mark where the table begins");
    let (found, after) = rest.split_once(END).expect("README.md has the mark where the table ends");
    let table = table(&newest());
    if std::env::var_os("MILLRACE_BLESS").is_some() {
        let page = format!("{before}{BEGIN}{table}{END}{after}");
        std::fs::write(root().join(PAGE), page).expect("the page can be written");
    } else {
        assert!(
            found == table,
            "the performance table of {PAGE} is not that of bench/results: run the tidy tests once with MILLRACE_BLESS=1"
        );
    }
}

#[test]
fn rows_without_a_peer_have_a_dash() {
    let results = serde_json::json!({
        "facts": { "date": "d", "processors": 2 }, "rounds": 5, "seconds": 2.0,
        "compare": [{ "row": "alone", "systems": [
            { "system": "millrace", "delivered_per_sec": { "median": 1234567.0 }, "cpu_secs_per_million": { "median": 0.5 } }
        ]}]
    });
    let table = table(&("bench/results/x".to_owned(), results));
    assert!(table.contains("| alone | 1 234 567 | – | 0.50 | – | – | – |"), "{table}");
}

#[test]
fn a_peer_that_was_named_has_its_columns() {
    let system = |name: &str, rate: f64| serde_json::json!({ "system": name, "delivered_per_sec": { "median": rate } });
    let systems =
        [system("millrace", 9.0), system("mosquitto", 3.0), system("relay", 8.0), system("rumqttd", 5.0)];
    let results = serde_json::json!({ "facts": {}, "compare": [{ "row": "pairs", "systems": systems }] });
    let table = table(&("bench/results/x".to_owned(), results));
    assert!(table.contains("beside Debian's mosquitto and rumqttd in the same run"), "{table}");
    assert!(table.contains("| Load | delivered/s | mosquitto | rumqttd | CPU s per 10⁶ |"), "{table}");
    assert!(table.contains("| pairs | 9 | 3 | 5 | – |"), "{table}");
}

#[test]
fn results_of_a_few_rows_never_make_the_table() {
    assert!(!is_whole(&serde_json::json!({ "whole": false })));
    assert!(is_whole(&serde_json::json!({ "whole": true })) && is_whole(&serde_json::json!({})));
}
