//! Stores that must not be opened, or not by us: the start fails in one sentence and nothing is touched.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use harness::{QOS_1, Router, Setup, v5};

const MARKER: &str = "MILLRACE-STORE";

/// Every file below a directory with its length and last change.
fn picture(directory: &Path) -> BTreeMap<String, (u64, std::time::SystemTime)> {
    let mut picture = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory can be read") {
        let entry = entry.expect("a directory can be read");
        let path = entry.path();
        if path.is_dir() {
            picture.extend(self::picture(&path));
        } else {
            let about = entry.metadata().expect("a file has metadata");
            picture.insert(path.display().to_string(), (about.len(), about.modified().expect("a time")));
        }
    }
    picture
}

/// A start on this store must fail, name it, say this, and leave it as it is.
#[track_caller]
fn expect_refusal(store: &Path, words: &[&str]) {
    let before = picture(store);
    let (code, log) = Setup::new().store(store).fail_to_start();
    assert_eq!(code, Some(1), "{log}");
    for word in words {
        assert!(log.contains(word), "not a word about {word:?}:\n{log}");
    }
    assert!(log.contains(&store.display().to_string()), "the store is not named:\n{log}");
    assert_eq!(picture(store), before, "the store was touched");
}

/// A store of a router that has stopped.
#[track_caller]
fn stopped() -> Router {
    let mut router = Router::with_shards(1);
    let connect = harness::Connect { clean_start: false, session_expiry_secs: 600, ..v5("client") };
    let mut client = router.connect(&connect);
    client.subscribe("a", QOS_1);
    client.disconnect();
    router.connect(&v5("publisher")).publish("a", "kept", QOS_1);
    assert_eq!(router.terminate().code(), Some(0));
    router
}

#[test]
fn a_store_that_another_process_has_is_refused_and_that_one_goes_on() {
    let router = Router::with_shards(1);
    let (code, log) = Setup::new().store(&router.store()).fail_to_start();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("in use by another process"), "{log}");
    router.connect(&v5("client")).ping();
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_left_as_it_is() {
    let mut router = stopped();
    let marker = router.store().join(MARKER);
    let ours = fs::read_to_string(&marker).expect("a marker");
    fs::write(&marker, "millrace store\nformat 99\n").expect("the marker can be written");
    expect_refusal(&router.store(), &["format 99", "newer"]);
    fs::write(&marker, ours).expect("the marker can be written");
    router.start_again();
    let connect = harness::Connect { clean_start: false, session_expiry_secs: 600, ..v5("client") };
    assert_eq!(router.connect(&connect).message().text(), "kept");
}

#[test]
fn a_directory_with_other_things_is_no_store() {
    let home = tempfile::tempdir().expect("a directory");
    fs::write(home.path().join("letter.txt"), "dear reader").expect("a file can be written");
    expect_refusal(home.path(), &["is not a store", "letter.txt"]);
}

#[test]
fn a_file_is_no_store() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("file");
    fs::write(&file, "dear reader").expect("a file can be written");
    let (code, log) = Setup::new().store(&file).fail_to_start();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("is not a store"), "{log}");
}

#[test]
fn a_store_without_its_database_is_damaged_and_not_started_empty() {
    let router = stopped();
    let engine = router.store().join("rocksdb");
    fs::rename(&engine, router.store().join("elsewhere")).expect("a directory can be renamed");
    expect_refusal(&router.store(), &["damaged"]);
}

#[test]
fn a_store_whose_database_is_broken_is_not_started_empty() {
    let router = stopped();
    fs::write(router.store().join("rocksdb").join("CURRENT"), "MANIFEST-999999\n")
        .expect("a file can be written");
    let (code, log) = Setup::new().store(&router.store()).fail_to_start();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("damaged") || log.contains("cannot be opened"), "{log}");
}

#[test]
fn an_interrupted_first_start_does_not_stand_in_the_way() {
    let home = tempfile::tempdir().expect("a directory");
    let store = home.path().join("store");
    fs::create_dir_all(store.join("rocksdb")).expect("a directory can be made");
    fs::write(store.join("MILLRACE-STORE.creating"), "millrace").expect("a file can be written");
    fs::write(store.join("rocksdb").join("000001.log"), "half").expect("a file can be written");
    let router = Setup::new().store(&store).start();
    router.connect(&v5("client")).ping();
}

#[test]
fn missing_parents_of_the_store_are_made() {
    let home = tempfile::tempdir().expect("a directory");
    let store = home.path().join("one").join("two").join("store");
    Setup::new().store(&store).start().connect(&v5("client")).ping();
    assert!(store.join(MARKER).is_file());
}

#[test]
fn what_is_delivered_gives_its_room_back() {
    let router = Setup::new().set("store.memtable_bytes", 4_194_304).start();
    let connect = harness::Connect { clean_start: false, session_expiry_secs: 600, ..v5("client") };
    let mut client = router.connect(&connect);
    client.subscribe("a", QOS_1);
    let mut publisher = router.connect(&v5("publisher"));
    let payload = vec![b'x'; 64 << 10];
    for _ in 0..60 {
        publisher.publish_all("a", std::iter::repeat_n(&payload, 64));
        client.messages(64);
    }
    // 240 MiB went through. What may stay is the write-ahead log's bound of 160 MiB and a few files being written.
    harness::until("room to be given back", || {
        (router.number("/store/bytes_on_disk") < 200 << 20).then_some(())
    });
}
