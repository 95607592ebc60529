//! Which program is under test, and running it for commands that end by themselves.
//!
//! In: `MILLRACE_BIN`, or else the directory that cargo built the test into. Out: a path that exists.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::process::{Finished, without_configuration};

/// The program under test.
///
/// Panics with what to do if there is none: a test that silently tests nothing is worse than one that fails.
pub fn millrace() -> PathBuf {
    if let Some(path) = std::env::var_os("MILLRACE_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "MILLRACE_BIN names {}, which is no file", path.display());
        return path;
    }
    let test = std::env::current_exe().expect("a running test has a path");
    // …/release/deps/it-0123456789abcdef: the program lies beside `deps`.
    let beside = test.parent().and_then(|deps| deps.parent()).map(|profile| profile.join("millrace"));
    match beside {
        Some(path) if path.is_file() => path,
        beside => panic!(
            "there is no millrace program at {}: run `make test`, which builds it, or set MILLRACE_BIN",
            beside.unwrap_or_default().display()
        ),
    }
}

/// Runs `millrace` with these arguments to its end.
#[track_caller]
pub fn run(arguments: &[&str]) -> Finished {
    let mut command = Command::new(millrace());
    without_configuration(&mut command).args(arguments).stdin(Stdio::null());
    Finished::of(command.output().expect("millrace can be started"))
}
