//! Question: what does the commit log cost over a plain file, and how fast does it drain, reopen and give space back?
//!
//! Unit: thousand messages of 256 B per second, unless said. Input: one writer thread, groups of 1 to 1024 records.
//! Noise: the disk; so plain file and store take turns within each round, and the median of the rounds counts.
//!
//! `cargo run --release -p millrace-store --example append -- [DIRECTORY] [ROUNDS] [append|drain|steady|backlog|all]`

use model::{LaneId, Seq, Timestamp};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use store::{CommitLog, Log, Options, ReadLimits, ReadOut};

const RECORD_BYTES: usize = 256;
const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let root = arguments.next().map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let rounds: usize = arguments.next().map_or(5, |text| text.parse().expect("a number of rounds"));
    let what = arguments.next().unwrap_or_else(|| "all".into());
    let wanted = |name: &str| what == name || what == "all";
    println!("in {}", root.display());
    if wanted("append") {
        append(&root, rounds);
    }
    if wanted("drain") {
        drain(&root);
    }
    if wanted("steady") {
        steady(&root);
    }
    if wanted("backlog") {
        backlog(&root);
    }
}

/// Every payload differs and does not compress well, so that neither LZ4 nor a cache flatters anybody.
struct Payloads {
    bytes: Vec<u8>,
    at: usize,
}

impl Payloads {
    fn new() -> Payloads {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let bytes = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        });
        Payloads { bytes: bytes.take(1 << 20).collect(), at: 0 }
    }

    fn next(&mut self) -> &[u8] {
        self.at = (self.at + 257) % (self.bytes.len() - RECORD_BYTES);
        &self.bytes[self.at..self.at + RECORD_BYTES]
    }
}

fn open(path: &Path, sync: bool) -> Log {
    Log::open(&Options { sync, ..Options::new(path) }).expect("the store opens")
}

fn append_group(log: &mut Log, lanes: &[LaneId], payloads: &mut Payloads, group: usize) {
    for at in 0..group {
        log.append(lanes[at % lanes.len()], &[payloads.next()], NOW, None).expect("within limits");
    }
    log.commit().expect("the disk takes it");
}

fn lanes_of(log: &mut Log, count: usize) -> Vec<LaneId> {
    (0..count).map(|name| log.lane(&format!("lane {name}")).expect("a lane")).collect()
}

/// Runs `group` after `group` for a second; thousand messages per second, and the median time of a group.
fn rate(group: usize, mut one: impl FnMut()) -> (f64, f64) {
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < Duration::from_millis(1_000) {
        let at = Instant::now();
        one();
        times.push(at.elapsed().as_secs_f64() * 1e3);
    }
    let rate = (times.len() * group) as f64 / begun.elapsed().as_secs_f64() / 1e3;
    (rate, median(&mut times))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn append(root: &Path, rounds: usize) {
    println!("\nappend + sync, {rounds} rounds; k msg/s (median ms per group)");
    println!(
        "{:>6} {:>18} {:>18} {:>18} {:>8} {:>18}",
        "group", "plain file", "one lane", "eight lanes", "share", "not synced"
    );
    for group in [1, 32, 256, 1024] {
        let mut results = [const { Vec::new() }; 4];
        let mut latencies = [const { Vec::new() }; 4];
        for round in 0..rounds {
            let measured = [
                plain(&root.join(format!("plain-{round}")), group),
                logged(&root.join(format!("one-{group}-{round}")), group, 1, true),
                logged(&root.join(format!("eight-{group}-{round}")), group, 8, true),
                logged(&root.join(format!("unsynced-{group}-{round}")), group, 1, false),
            ];
            for (at, (rate, latency)) in measured.into_iter().enumerate() {
                results[at].push(rate);
                latencies[at].push(latency);
            }
        }
        let rates = results.each_mut().map(|rates| median(rates));
        let times = latencies.each_mut().map(|times| median(times));
        let cell = |at: usize| format!("{:.1} ({:.2})", rates[at], times[at]);
        let share = format!("{:.0} %", 100.0 * rates[1] / rates[0]);
        println!("{group:>6} {:>18} {:>18} {:>18} {share:>8} {:>18}", cell(0), cell(1), cell(2), cell(3));
    }
}

fn plain(path: &Path, group: usize) -> (f64, f64) {
    let mut payloads = Payloads::new();
    let mut file = File::create(path).expect("a file");
    let mut buffer = Vec::new();
    let result = rate(group, || {
        buffer.clear();
        (0..group).for_each(|_| buffer.extend_from_slice(payloads.next()));
        file.write_all(&buffer).expect("the disk takes it");
        file.sync_data().expect("the disk takes it");
    });
    std::fs::remove_file(path).expect("our own file");
    result
}

fn logged(path: &Path, group: usize, lanes: usize, sync: bool) -> (f64, f64) {
    let mut payloads = Payloads::new();
    let mut log = open(path, sync);
    let lanes = lanes_of(&mut log, lanes);
    let result = rate(group, || append_group(&mut log, &lanes, &mut payloads, group));
    drop(log);
    std::fs::remove_dir_all(path).expect("our own directory");
    result
}

/// How much of everything there is to read, in reads of 256 KiB, the cursor following; thousand messages per second.
fn read_out(log: &mut Log, lanes: &[LaneId], reclaim: bool) -> (f64, u64) {
    let limits = ReadLimits { messages_max: 1_024, bytes_max: 256 << 10 };
    let mut out = ReadOut::new();
    let (begun, mut messages, mut bytes) = (Instant::now(), 0, 0);
    let mut reclaimed = Instant::now();
    for &lane in lanes {
        let mut from = Seq::FIRST;
        loop {
            log.read_lane(lane, from, limits, NOW, &mut out).expect("it is readable");
            let Some(last) = out.records().next_back_seq() else { break };
            messages += out.len() as u64;
            bytes += out.records().map(|record| record.bytes.len() as u64).sum::<u64>();
            log.advance(lane, last).expect("it was read");
            from = out.next();
            if reclaim && reclaimed.elapsed() > Duration::from_millis(100) {
                log.reclaim(NOW).expect("the disk takes it");
                reclaimed = Instant::now();
            }
        }
    }
    assert_eq!(bytes, messages * RECORD_BYTES as u64);
    (messages as f64 / begun.elapsed().as_secs_f64() / 1e3, messages)
}

trait LastSeq {
    fn next_back_seq(self) -> Option<Seq>;
}

impl<'o, I: Iterator<Item = store::Record<'o>>> LastSeq for I {
    fn next_back_seq(self) -> Option<Seq> {
        self.last().map(|record| record.seq)
    }
}

fn drain(root: &Path) {
    println!(
        "\ndrain, k msg/s: reading in order, every record checked, cursor advanced, space reclaimed every 100 ms"
    );
    for (what, messages, group, lanes) in [
        ("150 k messages, still in memory", 150_000, 1_024, 1),
        ("2 M messages, from sorted files", 2_000_000, 1_024, 1),
        ("2 M messages in four lanes", 2_000_000, 1_024, 4),
        ("300 k messages, committed one by one", 300_000, 1, 1),
        ("1 M messages, committed by 32", 1_000_000, 32, 1),
    ] {
        let path = root.join("drain");
        let mut log = open(&path, false);
        let lanes = lanes_of(&mut log, lanes);
        let mut payloads = Payloads::new();
        (0..messages / group).for_each(|_| append_group(&mut log, &lanes, &mut payloads, group));
        let (rate, drained) = read_out(&mut log, &lanes, true);
        let first = Instant::now();
        append_group(&mut log, &lanes, &mut payloads, 1);
        let next = log.lane_state(lanes[0]).expect("a lane").head;
        let mut out = ReadOut::new();
        let limits = ReadLimits { messages_max: 1, bytes_max: 1 };
        log.read_lane(lanes[0], next, limits, NOW, &mut out).expect("it is readable");
        println!(
            "{what:>40}: {rate:.0} ({drained} read; next message after the drain in {:.2} ms)",
            first.elapsed().as_secs_f64() * 1e3
        );
        drop(log);
        std::fs::remove_dir_all(&path).expect("our own directory");
    }
}

/// A healthy uplink: what comes in goes out a moment later. Bytes to the disk per byte of payload.
fn steady(root: &Path) {
    println!(
        "\nsteady in and out for 8 s: k msg/s, bytes to the disk per payload byte, space on disk at the end"
    );
    for (group, sync) in [(1, true), (32, true), (256, true), (1_024, true), (256, false)] {
        let path = root.join("steady");
        let mut log = open(&path, sync);
        let lanes = lanes_of(&mut log, 2);
        let mut payloads = Payloads::new();
        let mut cursors = [Seq::FIRST; 2];
        let mut out = ReadOut::new();
        let limits = ReadLimits { messages_max: 1_024, bytes_max: 256 << 10 };
        let (written, begun) = (written_bytes(), Instant::now());
        let (mut sent, mut clock) = (0, Instant::now());
        while begun.elapsed() < Duration::from_secs(8) {
            append_group(&mut log, &lanes, &mut payloads, group);
            sent += group;
            for (lane, cursor) in lanes.iter().zip(&mut cursors) {
                log.read_lane(*lane, *cursor, limits, NOW, &mut out).expect("it is readable");
                *cursor = out.next();
                if !out.is_empty() {
                    let last = Seq::new(cursor.get() - 1).expect("something was read");
                    log.advance(*lane, last).expect("it was read");
                }
            }
            if clock.elapsed() > Duration::from_millis(100) {
                let now = Timestamp(NOW.0 + begun.elapsed().as_millis() as u64);
                log.reclaim(now).expect("the disk takes it");
                clock = Instant::now();
            }
        }
        let rate = sent as f64 / begun.elapsed().as_secs_f64() / 1e3;
        let share = (written_bytes() - written) as f64 / (sent * RECORD_BYTES) as f64;
        let stats = log.reader().stats().expect("numbers");
        println!(
            "{group:>6} {} {rate:>8.1} {share:>6.2} {:>6} MiB (sorted {} MiB)",
            if sync { "synced" } else { "not   " },
            stats.disk_bytes >> 20,
            stats.sorted_bytes >> 20
        );
        drop(log);
        std::fs::remove_dir_all(&path).expect("our own directory");
    }
}

/// An outage: gigabytes pile up, the process restarts, the link comes back.
fn backlog(root: &Path) {
    let gigabytes: usize = std::env::var("BACKLOG_GB").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let path = root.join("backlog");
    let mut log = open(&path, false);
    let lanes = lanes_of(&mut log, 4);
    let mut payloads = Payloads::new();
    let (written, begun) = (written_bytes(), Instant::now());
    let groups = gigabytes * (1 << 30) / (512 * RECORD_BYTES);
    (0..groups).for_each(|_| append_group(&mut log, &lanes, &mut payloads, 512));
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "\nbacklog of {gigabytes} GiB in four lanes: {:.0} k msg/s in, resident {} MiB",
        groups as f64 * 512.0 / seconds / 1e3,
        resident_mib()
    );
    let report = |log: &Log, what: &str| {
        let stats = log.reader().stats().expect("numbers");
        println!(
            "  {what}: {} MiB on disk, sorted {} MiB, resident {} MiB",
            stats.disk_bytes >> 20,
            stats.sorted_bytes >> 20,
            resident_mib()
        );
    };
    report(&log, "filled");
    drop(log);
    let share = (written_bytes() - written) as f64 / (gigabytes << 30) as f64;
    println!("  {share:.2} bytes to the disk per payload byte");
    let begun = Instant::now();
    let mut log = open(&path, false);
    println!("  opened in {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    report(&log, "opened");
    let (rate, messages) = read_out(&mut log, &lanes, true);
    println!("  drained {messages} at {rate:.0} k msg/s");
    report(&log, "drained");
    let begun = Instant::now();
    while log.reclaim(NOW).expect("the disk takes it") {}
    report(&log, "reclaimed");
    let tidied = log.reader().tidy().expect("readable");
    println!("  tidy ({tidied}) took {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    report(&log, "tidied");
    drop(log);
    std::fs::remove_dir_all(&path).expect("our own directory");
}

/// What this process made the kernel write, page cache included once; from `/proc/self/io`.
fn written_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn resident_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
