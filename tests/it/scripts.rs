//! Good behaviour, byte for byte: the conversations in `scripts/*.txt`, each on one shard and on three.

use harness::Script;

#[track_caller]
fn play(name: &str) {
    let path = format!("{}/it/scripts/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let script = Script::parse(name, &text);
    for shards in [1, 3] {
        script.play(shards);
    }
}

#[test]
fn greetings() {
    play("greetings.txt");
}

#[test]
fn subscriptions() {
    play("subscriptions.txt");
}

#[test]
fn deliveries() {
    play("deliveries.txt");
}

#[test]
fn sessions() {
    play("sessions.txt");
}

#[test]
fn endings() {
    play("endings.txt");
}

#[test]
fn exactly_once() {
    play("qos2.txt");
}

#[test]
fn retained() {
    play("retained.txt");
}

/// A script that nobody plays proves nothing.
#[test]
fn every_script_is_played() {
    let folder = format!("{}/it/scripts", env!("CARGO_MANIFEST_DIR"));
    let code = [include_str!("scripts.rs"), include_str!("malformed.rs")].concat();
    for entry in std::fs::read_dir(folder).expect("the scripts are there") {
        let name = entry.expect("a folder can be read").file_name();
        let name = name.to_string_lossy();
        assert!(code.contains(&format!("\"{name}\"")) || code.contains(&format!("/{name}\"")), "{name}");
    }
}
