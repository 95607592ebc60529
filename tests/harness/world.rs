//! The world as a router under test sees it: what time it is, and where names lead. Both may change while it runs.
//!
//! In: names, seconds. Out: a router's environment. A small library between the router and libc (`world.c`) is compiled by the
//! machine's C compiler, once for each world. Never: this machine's own clock or names.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Mutex;

use tempfile::TempDir;

use crate::Setup;

/// A world of its own.
#[derive(Debug)]
pub struct World {
    home: TempDir,
    names: Mutex<BTreeMap<String, Option<IpAddr>>>,
}

impl World {
    /// As it really is.
    #[track_caller]
    pub fn new() -> World {
        let home = tempfile::tempdir().expect("a directory for the test");
        let source = home.path().join("world.c");
        std::fs::write(&source, include_str!("world.c")).expect("a file");
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(home.path().join("world.so"))
            .arg(source)
            .arg("-ldl");
        let output = compiler.output().expect("cc can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        World { home, names: Mutex::default() }
    }

    /// A router in it.
    #[must_use]
    pub fn around(&self, setup: Setup) -> Setup {
        let library = self.home.path().join("world.so");
        setup.env("LD_PRELOAD", library).env("MILLRACE_TEST_WORLD", self.home.path())
    }

    /// The wall clock is so many seconds ahead from now on.
    pub fn set_clock(&self, ahead_secs: i64) {
        self.replace("clock", &ahead_secs.to_string());
    }

    /// A name leads there from now on, or nowhere.
    pub fn set_name(&self, name: &str, address: Option<IpAddr>) {
        let mut names = self.names.lock().expect("nobody panics with it");
        names.insert(name.to_owned(), address);
        let line = |(name, address): (&String, &Option<IpAddr>)| {
            format!("{name} {}\n", address.map_or("-".to_owned(), |address| address.to_string()))
        };
        self.replace("names", &names.iter().map(line).collect::<String>());
    }

    /// At once: never half of it is read.
    fn replace(&self, name: &str, text: &str) {
        let new = self.home.path().join(format!("{name}.new"));
        std::fs::write(&new, text).expect("a file");
        std::fs::rename(new, self.home.path().join(name)).expect("a file");
    }
}

impl Default for World {
    fn default() -> Self {
        World::new()
    }
}
