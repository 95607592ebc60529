//! A disk that refuses: nothing more is confirmed, reading goes on, and recovery starts from what is there.
//!
//! The refusal is real: a child process (this binary again) runs under a limit on the size of files.

use super::*;
use crate::{FaultKind, Space};
use std::process::Command;

const CHILD: &str = "MILLRACE_STORE_POISON_CHILD";
const NOW: Timestamp = Timestamp(1);

/// Not a test by itself: does nothing unless started by one of the tests below.
#[test]
fn the_child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let mut log = Log::open(&Options { memtable_bytes: 64 << 20, ..Options::small(&path) }).unwrap();
    let lane = log.lane("a").unwrap();
    let mut confirmed = 0;
    let error = loop {
        for place in confirmed + 1..=confirmed + 64 {
            log.append(lane, &[&payload(lane, place, 1_000)], NOW, None).unwrap();
        }
        log.state_put(Space(1), b"confirmed", &(confirmed + 64).to_be_bytes()).unwrap();
        match log.commit() {
            Ok(_) => confirmed += 64,
            Err(error) => break error,
        }
    };
    assert!(confirmed > 0);
    let StoreError::Poisoned(fault) = &error else { panic!("{error}") };
    let expected =
        if std::env::var_os("MILLRACE_STORE_FULL").is_some() { FaultKind::NoSpace } else { FaultKind::Io };
    assert_eq!(fault.kind, expected, "{fault}");
    // Nothing more is written …
    assert!(matches!(log.commit(), Err(StoreError::Poisoned(_))));
    assert!(matches!(log.append(lane, &[b"x"], NOW, None), Err(StoreError::Poisoned(_))));
    assert!(matches!(log.flush_cursors(), Err(StoreError::Poisoned(_))));
    assert!(matches!(log.reclaim(NOW), Err(StoreError::Poisoned(_))));
    assert!(matches!(log.state_put(Space(1), b"x", b"y"), Err(StoreError::Poisoned(_))));
    // … and what was confirmed is read.
    assert_eq!(read_all(&log, lane, seq(1), NOW).unwrap().0.len() as u64, confirmed);
    log.advance(lane, seq(confirmed - 10)).unwrap();
    if std::env::var_os("MILLRACE_STORE_FULL").is_some() {
        std::fs::remove_file(std::path::Path::new(&path).parent().unwrap().join("ballast")).unwrap();
        log.try_recover().unwrap();
        assert_eq!(log.poison(), None);
        let state = log.lane_state(lane).unwrap();
        assert_eq!(state.head.get(), confirmed - 9);
        let tail = state.tail.get();
        assert!(tail == confirmed + 1 || tail == confirmed + 65, "all of the failed commit or nothing");
        assert_eq!(log.append(lane, &[&payload(lane, tail, 1_000)], NOW, None), Ok(seq(tail)));
        log.commit().unwrap();
        assert_eq!(read_all(&log, lane, seq(1), NOW).unwrap().0.len() as u64, tail - (confirmed - 10));
        log.invariants();
    }
    println!("done");
}

/// Runs the child by `sh`, which can ignore the signal and set the limit before it.
fn run_child(setup: &str, path: &std::path::Path) -> std::process::Output {
    Command::new("sh")
        .arg("-c")
        .arg(format!("{setup} exec \"$0\" --exact tests::poison::the_child --nocapture --test-threads=1"))
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, path)
        .output()
        .unwrap()
}

#[test]
fn after_a_failed_write_nothing_is_confirmed_and_reading_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    // 4 MiB per file (512-byte units in sh): the write-ahead log hits it first.
    let output = run_child("trap '' XFSZ; ulimit -f 8192;", &path);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("done"), "{text}");

    // The next process finds what was confirmed; the failed commit is there whole or not at all.
    let log = Log::open(&Options::small(&path)).unwrap();
    let confirmed = log.state_get(Space(1), b"confirmed").unwrap().unwrap();
    let confirmed = u64::from_be_bytes(confirmed.try_into().unwrap());
    let lane = log.find_lane("a").unwrap();
    assert_eq!(log.lane_state(lane).unwrap().tail.get(), confirmed + 1);
    assert_eq!(log.reader().verify().unwrap().problems_total, 0);
}

/// A small file system in a mount namespace of its own, which goes with the child; as root or in a user namespace.
#[test]
fn a_full_disk_is_told_from_other_faults_and_recovered_from() {
    let directory = tempfile::tempdir().unwrap();
    let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    let namespace = if is_root { "--mount" } else { "--mount --map-root-user" };
    let setup = format!(
        "export MILLRACE_STORE_FULL=1; exec unshare {namespace} sh -c '\
         mount -t tmpfs -o size=24m tmpfs {0} && dd if=/dev/zero of={0}/ballast bs=1M count=12 2>/dev/null && \
         exec \"$0\" --exact tests::poison::the_child --nocapture --test-threads=1' \"$0\";",
        directory.path().display()
    );
    let output = run_child(&setup, &directory.path().join("store"));
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("done"), "{text}");
}
