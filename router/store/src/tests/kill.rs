//! kill -9: what a process was told is durable is there when the next one opens the store.
//!
//! The child is this test binary again, running only `the_child`; it prints what each commit confirmed.

use super::*;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const CHILD: &str = "MILLRACE_STORE_KILL_CHILD";

/// So small that log files are finished, reused and tracked, and sorted files merged, many times within a run.
fn tiny(path: &std::ffi::OsStr) -> Options {
    Options {
        memtable_bytes: 256 << 10,
        wal_bytes_max: 1 << 20,
        sorted_file_bytes: 256 << 10,
        ..Options::small(path)
    }
}

/// Not a test by itself: does nothing unless started by `what_was_confirmed_survives_kill_9`.
#[test]
fn the_child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let mut log = Log::open(&tiny(&path)).unwrap();
    let lanes: Vec<LaneId> = (0..3).map(|name| log.lane(&format!("lane {name}")).unwrap()).collect();
    let mut out = std::io::stdout();
    for round in 0u64.. {
        let mut heads = Vec::new();
        for &lane in &lanes {
            let state = log.lane_state(lane).unwrap();
            let (head, tail) = (state.head.get(), state.tail.get());
            for place in tail..tail + 1 + round % 97 {
                log.append(lane, &[&payload(lane, place, 200)], Timestamp(round), None).unwrap();
            }
            if round % 5 == 4 && tail > head + 300 {
                log.advance(lane, seq(tail - 300)).unwrap();
            }
            heads.push(head);
        }
        log.state_put(crate::Space(9), b"round", &round.to_be_bytes()).unwrap();
        let committed = log.commit().unwrap();
        let tails: Vec<String> =
            committed.lanes.iter().map(|(lane, last)| format!("{lane}={last}")).collect();
        writeln!(out, "durable {round} {}", tails.join(" ")).unwrap();
        if round % 3 == 0 {
            log.reclaim(Timestamp(round * 1_000)).unwrap();
        }
    }
}

#[test]
fn what_was_confirmed_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store").into_os_string();
    for lines in [3, 40, 150, 400] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::kill::the_child", "--nocapture", "--test-threads=1"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let confirmed: Vec<String> = output
            .lines()
            .map(Result::unwrap)
            // libtest prints its own words before the first line, without ending the line.
            .filter_map(|line| line.find("durable ").map(|at| line[at..].to_owned()))
            .take(lines)
            .collect();
        child.kill().unwrap();
        child.wait().unwrap();
        let mut words = confirmed.last().unwrap().split(' ').skip(1);
        let round: u64 = words.next().unwrap().parse().unwrap();

        let log = Log::open(&tiny(&path)).unwrap();
        log.invariants();
        let report = log.reader().verify().unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        let kept = log.state_get(crate::Space(9), b"round").unwrap().unwrap();
        assert!(u64::from_be_bytes(kept.try_into().unwrap()) >= round);
        for word in words {
            let (lane, last) = word.split_once('=').unwrap();
            let lane = LaneId(lane.parse().unwrap());
            let state = log.lane_state(lane).unwrap();
            assert!(
                state.tail.get() > last.parse().unwrap(),
                "lane {lane} ends at {}, confirmed {last}",
                state.tail
            );
            let (records, _) = read_all(&log, lane, seq(1), Timestamp(0)).unwrap();
            let expected: Vec<u64> = (state.head.get()..state.tail.get()).collect();
            assert_eq!(records.iter().map(|(place, _)| *place).collect::<Vec<_>>(), expected);
            assert!(records.iter().all(|(place, bytes)| *bytes == payload(lane, *place, 200)));
        }
    }
}
