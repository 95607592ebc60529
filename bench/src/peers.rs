//! Other brokers, each by a small TOML file: how it is started is all that is known of it.
//!
//! In:  a file (`configs/peers/*.toml`). Out: a [`Peer`], or what is wrong with it; then a command line and its files for one
//! port and one folder. Never: processes; `contestants` starts them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;

/// A broker that somebody has.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peer {
    /// Its name in tables.
    pub(crate) name: String,
    /// The program and its arguments; `{port}` and `{folder}` are filled in.
    command: Vec<String>,
    /// What it must do before it is measured.
    #[serde(default)]
    pub(crate) ready: Readiness,
    /// How long that may take.
    #[serde(default = "ready_secs")]
    pub(crate) ready_secs: u64,
    /// A command that prints its version in the first line that is not empty.
    #[serde(default)]
    pub(crate) version: Vec<String>,
    /// Files in its folder, by name, with the same holes.
    #[serde(default)]
    files: BTreeMap<String, String>,
}

/// When a broker is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Readiness {
    /// It answers a CONNECT.
    #[default]
    Connack,
    /// Its port is open: for one that asks for a user.
    Port,
}

fn ready_secs() -> u64 {
    30
}

/// A peer that is told where to listen.
pub(crate) struct Placed {
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
}

impl Peer {
    /// Reads a file; fails with its name and what is wrong.
    pub(crate) fn load(file: &Path) -> anyhow::Result<Peer> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Peer::parse(&text).with_context(|| file.display().to_string())
    }

    fn parse(text: &str) -> anyhow::Result<Peer> {
        let peer: Peer = toml::from_str(text)?;
        if peer.command.is_empty() {
            bail!("command: empty; expected [\"program\", \"argument\", …]");
        }
        let everything = peer.command.iter().chain(peer.files.values());
        if !everything.clone().any(|text| text.contains("{port}")) {
            bail!("neither command nor files say {{port}}: it must listen where we look for it");
        }
        if !(1..=600).contains(&peer.ready_secs) {
            bail!("ready_secs: {} found, 1 to 600 expected", peer.ready_secs);
        }
        if let Some(name) = peer.files.keys().find(|name| name.contains('/') || name.starts_with('.')) {
            bail!("files: \"{name}\" found, a plain file name expected");
        }
        Ok(peer)
    }

    /// Writes its files into `folder` and fills in the command line.
    pub(crate) fn place(&self, port: u16, folder: &Path) -> anyhow::Result<Placed> {
        let fill = |text: &String| {
            text.replace("{port}", &port.to_string()).replace("{folder}", &folder.to_string_lossy())
        };
        for (name, text) in &self.files {
            std::fs::write(folder.join(name), fill(text)).with_context(|| format!("cannot write {name}"))?;
        }
        let mut words = self.command.iter().map(fill);
        let program = words.next().context("the command is empty")?;
        Ok(Placed { program, arguments: words.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_told_its_port_and_its_folder() {
        let text = "name = \"x\"\ncommand = [\"xd\", \"-c\", \"{folder}/x.conf\"]\n[files]\n\"x.conf\" = \"listen {port}\"";
        let folder = tempfile::tempdir().unwrap();
        let peer = Peer::parse(text).unwrap();
        assert_eq!((peer.ready, peer.ready_secs), (Readiness::Connack, 30));
        let placed = peer.place(1883, folder.path()).unwrap();
        let config = folder.path().join("x.conf");
        assert_eq!(std::fs::read_to_string(&config).unwrap(), "listen 1883");
        assert_eq!(placed.program, "xd");
        assert_eq!(placed.arguments, ["-c".to_owned(), config.to_string_lossy().into_owned()]);
    }

    #[test]
    fn what_cannot_work_is_refused_with_words() {
        let refused = |text: &str, word: &str| {
            let error = format!("{:#}", Peer::parse(text).unwrap_err());
            assert!(error.contains(word), "{error}");
        };
        refused("name = \"x\"\ncommand = []", "command: empty");
        refused("name = \"x\"\ncommand = [\"xd\"]", "{port}");
        refused("name = \"x\"\ncommand = [\"xd\", \"{port}\"]\n[files]\n\"../a\" = \"\"", "plain file name");
        refused("name = \"x\"\ncommand = [\"xd\", \"{port}\"]\ncolour = 1", "colour");
        refused("name = \"x\"\ncommand = [\"xd\", \"{port}\"]\nready = \"soon\"", "soon");
        refused("name = \"x\"\ncommand = [\"xd\", \"{port}\"]\nready_secs = 0", "1 to 600 expected");
        refused("command = [\"xd\", \"{port}\"]", "name");
    }

    #[test]
    fn every_peer_we_ship_is_read() {
        let mut names = Vec::new();
        for entry in std::fs::read_dir("../configs/peers").unwrap() {
            let path = entry.unwrap().path();
            let peer = Peer::load(&path).unwrap();
            assert_eq!(Some(peer.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
            names.push(peer.name);
        }
        names.sort();
        assert_eq!(names, ["flashmq", "mosquitto", "nanomq", "rumqttd"]);
    }
}
