//! Who knows whom: manifests against the table of the design, and the bans of the pure rooms.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{expect_none, read, read_toml, rust_below};

/// Folder of each room and the rooms it may know. `router` knows all below it.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("router/model", &[]),
    ("router/wire", &["millrace-model"]),
    ("router/routes", &["millrace-model"]),
    ("router/hub", &["millrace-model"]),
    ("router/store", &["millrace-model"]),
    ("router/broker", &["millrace-model", "millrace-wire", "millrace-routes", "millrace-hub"]),
    (
        "router",
        &[
            "millrace-model",
            "millrace-wire",
            "millrace-routes",
            "millrace-hub",
            "millrace-store",
            "millrace-broker",
        ],
    ),
];

/// Rooms that never touch the world. `hub` joins them with its first inhabitant.
const PURE: &[&str] = &["router/model", "router/wire", "router/routes", "router/hub", "router/broker"];

/// What reaches the world: runtimes, sockets, disks, threads, randomness.
const WORLDLY: &[&str] = &[
    "async-std",
    "axum",
    "crossbeam",
    "getrandom",
    "hyper",
    "libc",
    "mio",
    "nix",
    "rand",
    "rayon",
    "rocksdb",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
];

/// What the `clippy.toml` of a pure room bans, each with its reason beside it.
const BANNED: &[&str] = &[
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "std::thread::spawn",
    "std::thread::sleep",
    "std::fs::File::open",
    "std::net::TcpStream::connect",
];

/// The rooms that exist: `hub` is in the table before it is in the repository.
fn members() -> BTreeSet<String> {
    let workspace = read_toml("Cargo.toml");
    let members = workspace["workspace"]["members"].as_array().expect("the workspace has members");
    members.iter().filter_map(|member| member.as_str().map(str::to_owned)).collect()
}

/// Package names behind the keys of `[workspace.dependencies]`.
fn workspace_packages() -> BTreeMap<String, String> {
    let workspace = read_toml("Cargo.toml");
    let table = workspace["workspace"]["dependencies"].as_table().expect("the workspace shares versions");
    let package = |key: &String, value: &toml::Value| {
        let renamed = value.get("package").and_then(toml::Value::as_str);
        (key.clone(), renamed.unwrap_or(key).to_owned())
    };
    table.iter().map(|(key, value)| package(key, value)).collect()
}

/// Packages that a room names under these headings, by their real names; also those for one platform only.
fn dependencies(folder: &str, headings: &[&str]) -> BTreeSet<String> {
    let manifest = read_toml(&format!("{folder}/Cargo.toml"));
    let shared = workspace_packages();
    let mut tables = vec![&manifest];
    let platforms = manifest.get("target").and_then(toml::Value::as_table);
    tables.extend(platforms.into_iter().flat_map(|it| it.values()).filter_map(toml::Value::as_table));
    let mut names = BTreeSet::new();
    for table in tables {
        for heading in headings {
            let Some(named) = table.get(*heading).and_then(toml::Value::as_table) else { continue };
            for (key, value) in named {
                let renamed = value.get("package").and_then(toml::Value::as_str);
                let name = renamed.or_else(|| shared.get(key).map(String::as_str)).unwrap_or(key);
                names.insert(name.to_owned());
            }
        }
    }
    names
}

const ALL_HEADINGS: &[&str] = &["dependencies", "build-dependencies", "dev-dependencies"];

fn is_ours(package: &str) -> bool {
    package == "millrace" || package.starts_with("millrace-")
}

#[test]
fn a_room_knows_only_the_rooms_below_it() {
    let members = members();
    let mut faults = Vec::new();
    for (folder, may_know) in MAY_KNOW.iter().filter(|(folder, _)| members.contains(*folder)) {
        for known in dependencies(folder, ALL_HEADINGS).iter().filter(|name| is_ours(name)) {
            if !may_know.contains(&known.as_str()) {
                faults.push(format!("{folder} may not know {known}"));
            }
        }
    }
    expect_none("walls of the design, section 3", &faults);
}

#[test]
fn every_room_of_the_product_is_in_the_table() {
    let known: BTreeSet<_> = MAY_KNOW.iter().map(|(folder, _)| (*folder).to_owned()).collect();
    let others: BTreeSet<_> =
        ["bench", "loadgen", "tests", "tests/iothub", "tests/powercut"].map(str::to_owned).into();
    let strangers: Vec<_> =
        members().into_iter().filter(|it| !known.contains(it) && !others.contains(it)).collect();
    expect_none("rooms without a line in the table of walls", &strangers);
}

#[test]
fn the_product_does_not_know_its_tools() {
    let members = members();
    let mut faults = Vec::new();
    for (folder, _) in MAY_KNOW.iter().filter(|(folder, _)| members.contains(*folder)) {
        let known = dependencies(folder, ALL_HEADINGS);
        let tools = ["millrace-bench", "millrace-loadgen", "millrace-tests", "millrace-test-iothub"];
        faults.extend(
            tools.iter().filter(|tool| known.contains(**tool)).map(|tool| format!("{folder} knows {tool}")),
        );
    }
    expect_none("the product stands without its tools", &faults);
}

#[test]
fn pure_rooms_depend_on_nothing_that_touches_the_world() {
    let members = members();
    let mut faults = Vec::new();
    for folder in PURE.iter().filter(|folder| members.contains(**folder)) {
        let known = dependencies(folder, &["dependencies", "build-dependencies"]);
        let worldly =
            known.iter().filter(|name| WORLDLY.contains(&name.as_str()) || name.starts_with("tokio-"));
        faults.extend(worldly.map(|name| format!("{folder} depends on {name}")));
    }
    expect_none("pure rooms", &faults);
}

#[test]
fn pure_rooms_ban_the_world_and_unsafe_code() {
    let members = members();
    let mut faults = Vec::new();
    for folder in PURE.iter().filter(|folder| members.contains(**folder)) {
        let clippy = read_toml(&format!("{folder}/clippy.toml"));
        let bans =
            clippy.get("disallowed-methods").and_then(toml::Value::as_array).cloned().unwrap_or_default();
        for banned in BANNED {
            let entry =
                bans.iter().find(|entry| entry.get("path").and_then(toml::Value::as_str) == Some(banned));
            let reason = entry.and_then(|entry| entry.get("reason")).and_then(toml::Value::as_str);
            if reason.is_none_or(str::is_empty) {
                faults.push(format!("{folder}/clippy.toml does not ban {banned} and say why"));
            }
        }
        if !read(&format!("{folder}/src/lib.rs")).lines().any(|line| line.trim() == "#![forbid(unsafe_code)]")
        {
            faults.push(format!("{folder}/src/lib.rs does not forbid unsafe code"));
        }
    }
    expect_none("pure rooms", &faults);
}

#[test]
fn pure_rooms_do_not_even_name_the_world() {
    // Clippy sees methods; this sees what methods it does not list.
    let names =
        ["std::fs", "std::net", "std::process", "std::thread", "std::env", "SystemTime", "std::io::std"];
    let members = members();
    let mut faults = Vec::new();
    for folder in PURE.iter().filter(|folder| members.contains(**folder)) {
        for file in rust_below(&[&format!("{folder}/src")]).iter().filter(|file| !is_test(&file.name)) {
            let (code, _) = file.text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((&file.text, ""));
            for (at, line) in
                code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
            {
                let named = names.iter().filter(|name| line.contains(**name));
                faults.extend(named.map(|name| format!("{}:{}: {name}", file.name, at + 1)));
            }
        }
    }
    expect_none("pure rooms", &faults);
}

fn is_test(name: &str) -> bool {
    name.contains("/tests/") || name.ends_with("tests.rs") || name.ends_with("testbench.rs")
}

#[test]
fn only_wire_sees_the_foreign_codec_and_only_the_store_sees_rocksdb() {
    let mut faults = Vec::new();
    for folder in members() {
        for name in dependencies(&folder, ALL_HEADINGS) {
            if name.starts_with("ntex") && folder != "router/wire" {
                faults.push(format!("{folder} depends on {name}"));
            }
            if (name == "rocksdb" || name == "librocksdb-sys") && folder != "router/store" {
                faults.push(format!("{folder} depends on {name}"));
            }
        }
    }
    expect_none("what one room hides", &faults);
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let mut faults = Vec::new();
    for folder in members() {
        let manifest = read_toml(&format!("{folder}/Cargo.toml"));
        let inherits =
            manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        if inherits != Some(true) {
            faults.push(format!("{folder}/Cargo.toml has no `lints.workspace = true`"));
        }
    }
    expect_none("lints are part of the design", &faults);
}
