//! `millrace store`: looking into a store that no router runs on, and mending it.
//!
//! Knows: what a person wants to know of a store. May use: `store`, the loss ledger. Never: a store that is in use: then it
//! says who has it, and nothing is touched. In: a directory. Out: text, for `export` one JSON object per record.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use base64ct::{Base64, Encoding as _};
use model::{LaneId, Timestamp};
use serde_json::json;
use store::{CommitLog as _, Inspection, OpenError, ReadLimits, ReadOut, StoreError};

use super::check::bytes;
use super::{Exit, StoreArgs, StoreCommand};
use crate::disk::GATEWAY;
use crate::disk::losses::{Entry, Ledger};

/// Does what was asked; what went wrong is one sentence on `err`. Fails only if the writers fail.
pub fn store(args: &StoreArgs, out: &mut impl Write, err: &mut impl Write) -> io::Result<Exit> {
    let done = match &args.command {
        StoreCommand::Verify { path } => verify(path, out),
        StoreCommand::Stats { path } => stats(path, out),
        StoreCommand::Losses { path } => losses(path, out),
        StoreCommand::Compact { path } => compact(path, out),
        StoreCommand::Repair { path } => repair(path, out),
        StoreCommand::Export { path, lane } => export(path, lane.as_deref(), out),
    };
    match done {
        Ok(exit) => Ok(exit),
        Err(Failed::Output(error)) => Err(error),
        Err(Failed::Open(error @ OpenError::LockedByAnother { .. })) => {
            let who = holder(args.command.path()).map_or(String::new(), |pid| format!(" (process {pid})"));
            writeln!(err, "{error}{who}; nothing was touched. A running router answers `millrace status`")?;
            Ok(Exit::Failed)
        }
        Err(Failed::Open(error)) => writeln!(err, "{error}").map(|()| Exit::Failed),
        Err(Failed::Store(error)) => writeln!(err, "{error}").map(|()| Exit::Failed),
    }
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Output(#[from] io::Error),
}

fn verify(path: &Path, out: &mut impl Write) -> Result<Exit, Failed> {
    let report = Inspection::open(path)?.verify()?;
    for lane in report.lanes.iter().filter(|lane| lane.blocks > 0 || lane.lost > 0) {
        let (name, records, size) = (&lane.name, lane.records, bytes(lane.bytes));
        writeln!(out, "lane {name}: {records} messages, {size}, {} lost", lane.lost)?;
    }
    for problem in &report.problems {
        writeln!(out, "{problem}")?;
    }
    if report.problems_total == 0 {
        writeln!(out, "the store is sound")?;
        return Ok(Exit::Done);
    }
    writeln!(
        out,
        "{} problems; the router runs on such a store and enters what is lost in its ledger, `millrace store repair` \
         takes the damage out of it",
        report.problems_total
    )?;
    Ok(Exit::Failed)
}

fn stats(path: &Path, out: &mut impl Write) -> Result<Exit, Failed> {
    let inspection = Inspection::open(path)?;
    let stats = inspection.reader().stats()?;
    writeln!(
        out,
        "on disk {}, of it write-ahead log {}, sorted files {}",
        bytes(stats.disk_bytes),
        bytes(stats.wal_bytes),
        bytes(stats.sorted_bytes)
    )?;
    writeln!(out, "lanes {}, messages {}", stats.lanes, stats.live_messages)?;
    for lane in inspection.reader().lanes()?.iter().filter(|lane| lane.messages() > 0) {
        let (name, messages, size) = (&lane.name, lane.messages(), bytes(lane.bytes));
        writeln!(
            out,
            "lane {name}: {messages} messages, {size}, places {} to {}",
            lane.head,
            lane.tail.get() - 1
        )?;
    }
    Ok(Exit::Done)
}

fn losses(path: &Path, out: &mut impl Write) -> Result<Exit, Failed> {
    let inspection = Inspection::open(path)?;
    let contents = Ledger::load(inspection.reader(), usize::MAX)?.contents();
    for ((sink, reason), sum) in &contents.sums {
        writeln!(out, "{sink}: {} messages lost, {reason}, {}", sum.messages, bytes(sum.bytes))?;
    }
    for (_, entry) in &contents.entries {
        write_loss(entry, out)?;
    }
    if contents.sums.is_empty() {
        writeln!(out, "nothing was lost")?;
    }
    Ok(Exit::Done)
}

/// One entry on one line.
fn write_loss(entry: &Entry, out: &mut impl Write) -> io::Result<()> {
    let Entry { lane, messages, reason, .. } = entry;
    write!(out, "{} lane {lane}: {messages} messages, {}", entry.last_ms, reason.as_str())?;
    if let Some((first, last)) = entry.places {
        write!(out, ", places {first} to {last}")?;
    }
    if let Some(route) = &entry.route {
        write!(out, ", route {route}")?;
    }
    if let Some(sender) = &entry.sender {
        write!(out, ", sender {sender}")?;
    }
    writeln!(out)
}

fn options(path: &Path) -> store::Options {
    store::Options { create_if_missing: false, ..store::Options::new(path) }
}

fn compact(path: &Path, out: &mut impl Write) -> Result<Exit, Failed> {
    let mut log = store::Log::open(&options(path))?;
    let before = log.reader().stats()?.disk_bytes;
    // At the beginning of time nothing has expired: what a router has not given up is not given up here.
    while log.reclaim(Timestamp::default())? {}
    log.reader().merge_all()?;
    log.close()?;
    let after = Inspection::open(path)?.reader().stats()?.disk_bytes;
    writeln!(out, "{} on disk before, {} now", bytes(before), bytes(after))?;
    Ok(Exit::Done)
}

fn repair(path: &Path, out: &mut impl Write) -> Result<Exit, Failed> {
    let repaired = store::repair(&options(path))?;
    for (name, lost) in &repaired.lost {
        writeln!(out, "lane {name}: places {} to {} are lost", lost.from, lost.up_to)?;
    }
    if let Some(what) = &repaired.lost_log {
        writeln!(
            out,
            "{what}: what was in that log alone is lost, and nobody can say how much; \
             {} lanes lost their name and are kept as found/NUMBER (`millrace store export` has their messages)",
            repaired.found_lanes
        )?;
        // Places that were in it are given again. Under the old number their messages would have the ids of those that were
        // lost, and who removes repeats by id would remove them.
        let mut log = store::Log::open(&options(path))?;
        log.state_delete(GATEWAY, b"incarnation")?;
        log.close()?;
    }
    if repaired.assumed_format {
        writeln!(out, "the note of its format was lost; it was read as the format that its marker names")?;
    }
    if repaired.state_gaps > 0 {
        writeln!(
            out,
            "{} parts of the sessions' and retained messages' state are lost",
            repaired.state_gaps
        )?;
    }
    writeln!(
        out,
        "{} blocks kept, {} ranges lost, {} set aside in quarantine; the router enters what is lost in its ledger when it \
         comes to it",
        repaired.blocks,
        repaired.lost.len(),
        bytes(repaired.set_aside_bytes)
    )?;
    Ok(Exit::Done)
}

/// Messages read at once.
const EXPORT: ReadLimits = ReadLimits { messages_max: 1_000, bytes_max: 4 << 20 };

fn export(path: &Path, only: Option<&str>, out: &mut impl Write) -> Result<Exit, Failed> {
    let inspection = Inspection::open(path)?;
    let mut exit = Exit::Done;
    for lane in inspection.reader().lanes()? {
        if only.is_none_or(|only| only == &*lane.name) {
            let whole = export_lane(inspection.reader(), lane.id, &lane.name, lane.head, out)?;
            exit = if whole { exit } else { Exit::Failed };
        }
    }
    Ok(exit)
}

/// Whether nothing in it was damaged.
fn export_lane(
    reader: &store::Reader,
    lane: LaneId,
    name: &str,
    head: model::Seq,
    out: &mut impl Write,
) -> Result<bool, Failed> {
    let (mut from, mut records, mut whole) = (head, ReadOut::new(), true);
    loop {
        match reader.read_lane(lane, from, EXPORT, Timestamp::default(), &mut records) {
            Ok(()) if records.is_empty() && records.next() <= from => return Ok(whole),
            Ok(()) => from = records.next(),
            Err(StoreError::Damaged { from: first, up_to, .. }) => {
                writeln!(out, "{}", json!({ "lane": name, "damaged": [first.get(), up_to.get()] }))?;
                (from, whole) = (up_to.next(), false);
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        for record in records.records() {
            let line = json!({
                "lane": name,
                "place": record.seq.get(),
                "enqueued_ms": record.enqueued.0,
                "expires_ms": record.expires.map(|at| at.0),
                "record": Base64::encode_string(record.bytes),
            });
            writeln!(out, "{line}")?;
        }
    }
}

/// The process that holds the lock of a store, as the kernel says.
fn holder(path: &Path) -> Option<u32> {
    let inode = std::fs::metadata(path.join("MILLRACE-STORE")).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // 1: FLOCK  ADVISORY  WRITE 4711 08:01:123456 0 EOF
    locks.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let at = words.get(5)?.rsplit(':').next()?;
        (words.get(1) == Some(&"FLOCK") && at.parse() == Ok(inode)).then(|| words.get(4)?.parse().ok())?
    })
}
