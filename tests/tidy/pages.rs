//! What the pages at the root promise: ARCHITECTURE.md knows every crate and guards every never, README.md starts with
//! commands that exist.

use crate::tree::{expect_none, read, read_toml};

/// The nevers of the design, section 8, in its words.
const NEVERS: &[&str] = &[
    "Routing never knows sockets, sessions or storage",
    "The core never touches the world",
    "The store never knows MQTT",
    "An acknowledgement never outruns its promise",
    "Nothing grows without a name in `Limits`",
    "Nothing falls back in silence",
    "A client never acts for another",
];

/// Shortest words that can name a guard.
const GUARD_LETTERS_MIN: usize = 12;

#[test]
fn the_architecture_names_every_crate() {
    let page = read("ARCHITECTURE.md");
    let workspace = read_toml("Cargo.toml");
    let members = workspace["workspace"]["members"].as_array().expect("the workspace has members").clone();
    let mut faults = Vec::new();
    for folder in members.iter().filter_map(toml::Value::as_str) {
        let manifest = read_toml(&format!("{folder}/Cargo.toml"));
        let name = manifest["package"]["name"].as_str().expect("a crate has a name");
        let named = page.lines().any(|line| line.contains(&format!("`{name}`")));
        if !named {
            faults.push(format!("{name} ({folder})"));
        }
    }
    expect_none("crates that ARCHITECTURE.md does not name", &faults);
}

#[test]
fn every_never_is_there_with_its_guard() {
    let page = read("ARCHITECTURE.md");
    let mut faults = Vec::new();
    for never in NEVERS {
        let line = page.lines().find(|line| line.contains(never));
        let guard = line.and_then(|line| line.split_once("Guard:")).map(|(_, guard)| guard.trim());
        match (line, guard) {
            (None, _) => faults.push(format!("not there: {never}")),
            (_, Some(guard))
                if guard.chars().filter(|it| it.is_alphabetic()).count() >= GUARD_LETTERS_MIN => {}
            _ => faults.push(format!("no guard: {never}")),
        }
    }
    expect_none("nevers in ARCHITECTURE.md", &faults);
}

#[test]
fn the_architecture_names_files_that_exist() {
    let page = read("ARCHITECTURE.md");
    let quoted = page.split('`').skip(1).step_by(2);
    let paths = quoted.filter(|word| word.contains('/') && (word.ends_with(".rs") || word.ends_with('/')));
    let missing: Vec<_> =
        paths.filter(|path| !crate::tree::root().join(path).exists()).map(str::to_owned).collect();
    expect_none("files that ARCHITECTURE.md names and nobody has", &missing);
}

#[test]
fn the_architecture_fits_on_a_few_screens() {
    let lines = read("ARCHITECTURE.md").lines().count();
    assert!(lines <= 120, "ARCHITECTURE.md has {lines} lines; *how* belongs in the charters");
}

#[test]
fn the_readme_begins_with_two_commands_that_exist() {
    let (readme, makefile) = (read("README.md"), read("Makefile"));
    for target in ["run", "test"] {
        assert!(readme.contains(&format!("make {target}")), "README.md does not say `make {target}`");
        let defined = makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
        assert!(defined, "the Makefile has no target {target}");
    }
}

#[test]
fn the_readme_links_to_pages_that_exist() {
    let readme = read("README.md");
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
    let inside = links.filter(|link| !link.contains("://") && !link.starts_with('#'));
    let missing: Vec<_> =
        inside.filter(|link| !crate::tree::root().join(link).exists()).map(str::to_owned).collect();
    expect_none("pages that README.md links to and nobody has", &missing);
}
