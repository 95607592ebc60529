//! What holds for every file: charters, length, configurations that parse, nothing of the machine it was written on.

use std::collections::BTreeSet;

use crate::tree::{Source, expect_none, files_below, rust_below};

const ROOMS: &[&str] = &["router", "loadgen", "bench", "tests"];

/// Longest file of Rust by room, tests not counted. What is longer has two ideas in it.
const LINES_MAX: &[(&str, usize)] = &[("bench/", 700), ("loadgen/", 600), ("router/", 1_000)];

/// Hosts that a page or manifest may name: public homes of what we use or cite, names kept for examples, ourselves.
const HOSTS: &[&str] = &[
    "127.0.0.1",
    "crates.io",
    "docs.oasis-open.org",
    "docs.rs",
    "github.com",
    "keepachangelog.com",
    "learn.microsoft.com",
    "localhost",
    "openmetrics.io",
    "opensource.org",
    "prometheus.io",
    "raw.githubusercontent.com",
    "semver.org",
    "www.apache.org",
];

#[test]
fn every_rust_file_opens_with_its_charter() {
    let files = rust_below(ROOMS);
    let naked = files.iter().filter(|file| !file.text.starts_with("//!")).map(|file| file.name.clone());
    expect_none("files without a charter (`//!`)", &naked.collect::<Vec<_>>());
}

#[test]
fn no_rust_file_is_too_long() {
    let files = rust_below(ROOMS);
    let tests = test_modules(&files);
    let mut long = Vec::new();
    for file in &files {
        let is_test = file.name.contains("/tests/")
            || file.name.starts_with("tests/")
            || file.name.ends_with("/tests.rs")
            || tests.contains(&file.name);
        let (code, _) = file.text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((&file.text, ""));
        let lines = code.lines().count();
        let allowed = LINES_MAX.iter().find(|(room, _)| file.name.starts_with(room)).map(|(_, lines)| *lines);
        if let Some(allowed) = allowed.filter(|allowed| !is_test && lines > *allowed) {
            long.push(format!("{} has {lines} lines, {allowed} are allowed", file.name));
        }
    }
    expect_none("files that are too long", &long);
}

/// Files that are compiled for tests only: behind `#[cfg(test)]` where they are declared.
fn test_modules(files: &[Source]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files {
        let Some((folder, own)) = file.name.rsplit_once('/') else { continue };
        let stem = own.trim_end_matches(".rs");
        let below = if matches!(stem, "lib" | "main" | "mod") {
            folder.to_owned()
        } else {
            format!("{folder}/{stem}")
        };
        let mut lines = file.text.lines().peekable();
        while let Some(line) = lines.next() {
            let next = lines.peek().map_or("", |line| line.trim());
            let module = next.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            if line.trim() == "#[cfg(test)]"
                && let Some(module) = module.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'))
            {
                names.insert(format!("{below}/{module}.rs"));
                names.insert(format!("{below}/{module}/mod.rs"));
            }
        }
    }
    names
}

#[test]
fn an_ignored_test_says_why() {
    // Put together here, so that this file is not found itself.
    let mute = ["#[", "ignore]"].concat();
    let files = rust_below(ROOMS);
    let found = files.iter().filter(|file| file.text.contains(&mute)).map(|file| file.name.clone());
    expect_none("tests that are ignored without a reason", &found.collect::<Vec<_>>());
}

#[test]
fn every_shipped_configuration_is_toml() {
    let mut faults = Vec::new();
    for file in files_below(&["configs"]) {
        if file.name.ends_with(".toml") {
            if let Err(error) = file.text.parse::<toml::Table>() {
                faults.push(format!("{}: {error}", file.name));
            }
        } else if !file.name.ends_with(".json") && !file.name.ends_with(".md") {
            faults.push(format!("{}: nothing knows what this is", file.name));
        }
    }
    expect_none("shipped configurations", &faults);
}

#[test]
fn every_shipped_configuration_says_what_it_is_for() {
    let files = files_below(&["configs/profiles", "configs/scenarios"]);
    let mute = files.iter().filter(|file| file.name.ends_with(".toml") && !file.text.starts_with('#'));
    expect_none(
        "configurations without a word at the top",
        &mute.map(|it| it.name.clone()).collect::<Vec<_>>(),
    );
}

#[test]
fn no_file_names_a_place_on_the_machine_it_was_written_on() {
    // Put together here, so that this file does not name them either.
    let places = [["/", "root/"].concat(), ["/", "work/"].concat(), ["/", "home/"].concat()];
    let mut faults = Vec::new();
    for file in files_below(&["."]).iter().filter(|file| !file.name.starts_with("bench/results/")) {
        for (at, line) in file.text.lines().enumerate() {
            let found = places.iter().filter(|place| line.contains(place.as_str()));
            faults.extend(found.map(|place| format!("{}:{}: {place}", file.name, at + 1)));
        }
    }
    expect_none("places that other machines do not have", &faults);
}

#[test]
fn no_file_names_a_host_that_is_not_public() {
    let mut faults = Vec::new();
    for file in files_below(&["."]).iter().filter(|file| !file.name.starts_with("bench/results/")) {
        for (at, line) in file.text.lines().enumerate() {
            for scheme in ["https://", "http://"] {
                for rest in line.split(scheme).skip(1) {
                    let host: String = rest
                        .chars()
                        .take_while(|it| it.is_ascii_alphanumeric() || ".-".contains(*it))
                        .collect();
                    let host = host.trim_end_matches('.');
                    // Nothing: a placeholder such as `{address}`. Capitals: one such as `HOST`. In a Rust file a single
                    // word is an example, too.
                    let word = file.name.ends_with(".rs") && !host.contains('.');
                    let placeholder =
                        word || host.is_empty() || host.chars().any(|it| it.is_ascii_uppercase());
                    let example = host.ends_with(".example") || host.ends_with("example.com");
                    if !placeholder && !example && !HOSTS.contains(&host) {
                        faults.push(format!("{}:{}: {host}", file.name, at + 1));
                    }
                }
            }
        }
    }
    expect_none("hosts that are not in the list of public ones", &faults);
}

#[test]
fn packages_come_from_the_public_registry_and_nowhere_else() {
    let lock = crate::tree::read("Cargo.lock");
    let public = r#"source = "registry+https://github.com/rust-lang/crates.io-index""#;
    let others = lock.lines().filter(|line| line.starts_with("source = ") && *line != public);
    expect_none("sources in Cargo.lock", &others.map(str::to_owned).collect::<Vec<_>>());
    let mut faults = Vec::new();
    for file in files_below(&["."]).iter().filter(|file| file.name.ends_with(".toml")) {
        let headings = file.text.lines().map(str::trim);
        let replaced = headings.filter(|it| it.starts_with("[source.") || it.starts_with("[registr"));
        faults.extend(replaced.map(|line| format!("{}: {line}", file.name)));
    }
    expect_none("registries that only one machine has", &faults);
}
