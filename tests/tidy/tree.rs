//! The checkout: where it is, which files are in it.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that are nobody's source.
const SKIPPED: &[&str] = &[".git", "target", "data"];

/// A file of the repository.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// From the root, with `/`.
    pub(crate) name: String,
    /// What it says; bytes that are no text are shown as such.
    pub(crate) text: String,
}

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the crate lies in the workspace").to_owned()
}

/// Reads a file that must be there.
#[track_caller]
pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Reads a TOML file that must be there and right.
#[track_caller]
pub(crate) fn read_toml(name: &str) -> toml::Table {
    read(name).parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every file below these folders, by name.
#[track_caller]
pub(crate) fn files_below(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut found);
    }
    assert!(!found.is_empty(), "nothing lies below {folders:?}");
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// Every Rust file below these folders.
#[track_caller]
pub(crate) fn rust_below(folders: &[&str]) -> Vec<Source> {
    let mut files = files_below(folders);
    files.retain(|file| file.name.ends_with(".rs"));
    files
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a folder can be read").path();
        let skipped = path.file_name().is_some_and(|name| SKIPPED.iter().any(|skipped| name == *skipped));
        if path.is_dir() && !skipped {
            collect(&path, found);
        } else if path.is_file() {
            let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let name = path.strip_prefix(root()).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            found.push(Source {
                name: name.trim_start_matches("./").to_owned(),
                text: String::from_utf8_lossy(&bytes).into_owned(),
            });
        }
    }
}

/// Fails with all faults, if there are any.
#[track_caller]
pub(crate) fn expect_none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
}
