//! Question: what does the commit log cost over a plain file, at the same number of messages per sync?
//!
//! Unit: microseconds per group (append all, one commit), and messages per second. Target (DESIGN §10): at least 60 %
//! of the plain file. Input: groups of 1, 32, 256 and 1024 messages of 256 B that do not compress, one lane, one
//! thread; cursors follow at once and space is given back between the timed groups, as with a healthy uplink.
//! Beside it: a file that grows by the same bytes (`append`), and one whose blocks are there already (`overwrite`),
//! which spares the file system's journal, as the log's recycled files do; each `write` and `fdatasync`.
//! Noise: the disk, easily ±20 % on a shared one; compare only within one run. The folder is `MILLRACE_BENCH_DATA`, else
//! the one for temporary files; on tmpfs a sync is free and the question is moot.
//! Run: `cargo bench -p millrace-bench --bench log`.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use model::Timestamp;
use store::{CommitLog, Log, Options};

const MESSAGE_BYTES: usize = 256;
const GROUPS: [usize; 4] = [1, 32, 256, 1024];
const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// Bytes after which a plain file starts over, and which the overwritten one has.
const FILE_BYTES: usize = 64 << 20;
/// Groups after which space is given back, outside the time.
const RECLAIM_EVERY: u64 = 256;

/// Bytes that neither LZ4 nor a clever disk can shorten.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn logged(log: &mut Log, payload: &[u8], groups: u64) -> Duration {
    let lane = log.lane("bench").expect("a lane is a name");
    let mut spent = Duration::ZERO;
    for number in 1..=groups {
        let begun = Instant::now();
        let mut last = None;
        for message in payload.chunks_exact(MESSAGE_BYTES) {
            last = Some(log.append(lane, &[message], NOW, None).expect("it is below every limit"));
        }
        log.commit().expect("the disk takes it");
        spent += begun.elapsed();
        log.advance(lane, last.expect("no group is empty")).expect("it was just written");
        if number.is_multiple_of(RECLAIM_EVERY) {
            log.reclaim(NOW).expect("the disk takes it");
        }
    }
    spent
}

/// Writes and syncs; starts over when the file is long enough, truncated or not, outside the time.
fn plain(file: &mut File, written: &mut usize, grows: bool, payload: &[u8], groups: u64) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..groups {
        if *written + payload.len() > FILE_BYTES {
            if grows {
                file.set_len(0).expect("it is our file");
            }
            file.rewind().expect("it is a file");
            *written = 0;
        }
        let begun = Instant::now();
        file.write_all(payload).expect("the disk takes it");
        file.sync_data().expect("the disk takes it");
        spent += begun.elapsed();
        *written += payload.len();
    }
    spent
}

fn file(folder: &Path, len: usize) -> File {
    let mut file = tempfile::tempfile_in(folder).expect("the folder can be written");
    file.write_all(&vec![0x5A; len]).expect("the disk has room");
    file.sync_all().expect("the disk takes it");
    file.rewind().expect("it is a file");
    file
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let folder = std::env::var_os("MILLRACE_BENCH_DATA").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(folder).expect("the folder can be written");
    for count in GROUPS {
        let payload = noise(count * MESSAGE_BYTES);
        let mut group = criterion.benchmark_group(format!("log, {count} per sync"));
        group
            .sample_size(20)
            .sampling_mode(SamplingMode::Flat)
            .throughput(Throughput::Elements(count as u64));
        let mut log = Log::open(&Options::new(folder.path().join(format!("store-{count}"))))
            .expect("a new store opens");
        group.bench_function("log", |bencher| {
            bencher.iter_custom(|groups| logged(&mut log, &payload, groups))
        });
        for (name, grows) in [("plain file, append", true), ("plain file, overwrite", false)] {
            let mut file = file(folder.path(), if grows { 0 } else { FILE_BYTES });
            let mut written = 0;
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|groups| plain(&mut file, &mut written, grows, &payload, groups));
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
