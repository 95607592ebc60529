//! Looking into a store that nobody is running: every block, every checksum, every place.
//!
//! Knows: what a sound store looks like. May use: `block`, `recovery`, `read`. Never: writes.
//! In:  a path. Out: a [`Reader`] (export, statistics, peeking), and a report.
//! Invariant: memory is bounded by the number of lanes and [`PROBLEMS_MAX`], whatever the size of the store.

use crate::block::Block;
use crate::cursor::Blocks;
use crate::engine::Engine;
use crate::error::{OpenError, StoreError};
use crate::home::Home;
use crate::husks::Husks;
use crate::keys::{self, FAMILY_LOG};
use crate::options::Options;
use crate::read::{Reader, Shared, is_damage, readable_from};
use crate::record::seq;
use crate::recovery;
use model::{LaneId, Seq};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Problems that a report lists; it counts the rest.
const PROBLEMS_MAX: usize = 100;

/// A store opened for looking only: nothing in it changes, and it is locked as if it were running.
///
/// [`Inspection::reader`] has everything that reading offers; `tidy` and cursors do nothing useful there.
pub struct Inspection {
    reader: Reader,
    _home: Home,
}

impl Inspection {
    /// Opens the store at `path`. Fails like [`crate::Log::open`]; a running store says `LockedByAnother`.
    pub fn open(path: impl AsRef<Path>) -> Result<Inspection, OpenError> {
        let options = Options { create_if_missing: false, ..Options::new(path) };
        let home = Home::enter_existing(&options.path)?;
        home.check_newest_log()?;
        let engine = Engine::open_read_only(&options, &home.engine_path())?;
        let shared = Shared::default();
        for lane in recovery::load(&engine, home.root())?.lanes {
            shared.lanes.insert(Arc::new(lane));
        }
        recovery::load_own(&engine, &shared.lanes);
        shared.replace_engine(Some(engine));
        Ok(Inspection { reader: Reader { shared: Arc::new(shared) }, _home: home })
    }

    /// Lanes, records, state and numbers, as they are on the disk.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// See [`Reader::verify`].
    pub fn verify(&self) -> Result<VerifyReport, StoreError> {
        self.reader.verify()
    }
}

/// What [`Reader::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Every lane, in the order of their numbers.
    pub lanes: Vec<LaneReport>,
    /// What is wrong, in sentences; the first hundred.
    pub problems: Vec<String>,
    /// How many things are wrong. 0 means that the store is sound.
    pub problems_total: u64,
    /// Blocks of lanes that were removed: dead space, not a problem.
    pub orphan_blocks: u64,
}

/// One lane in a [`VerifyReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneReport {
    /// Its number.
    pub id: LaneId,
    /// Its name.
    pub name: Arc<str>,
    /// The next undelivered place.
    pub head: Seq,
    /// The next place to be assigned.
    pub tail: Seq,
    /// Blocks on the disk, delivered ones that are not dropped yet included.
    pub blocks: u64,
    /// Undelivered records that are sound.
    pub records: u64,
    /// Their bytes, overhead included.
    pub bytes: u64,
    /// Undelivered places whose records have expired and were taken out.
    pub husks: u64,
    /// Undelivered places that are damaged or missing.
    pub lost: u64,
}

impl VerifyReport {
    fn problem(&mut self, text: String) {
        self.problems_total += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        }
    }
}

impl Reader {
    /// Reads every block of the store and checks what can be checked: RocksDB's checksums, ours of every block and
    /// record, and that no undelivered place is missing. Cost: the whole store is read once.
    ///
    /// Damage is in the report and not an error, also where the disk itself refuses. On a store that is being written,
    /// what comes after the call began is not looked at.
    pub fn verify(&self) -> Result<VerifyReport, StoreError> {
        let lanes = self.shared.lanes.all();
        // Heads and tails before the iterator: it sees at least this much.
        let ends: BTreeMap<LaneId, (u64, u64)> =
            lanes.iter().map(|lane| (lane.id, (lane.head(), lane.tail()))).collect();
        let engine = self.shared.engine()?;
        let mut report = VerifyReport::default();
        for lane in &lanes {
            let (head, tail) = ends[&lane.id];
            let husks = lane.husks().clone();
            let walked = verify_lane(&engine, lane.id, (head, tail), &husks, &mut report)?;
            // Those that are taken out while we look are seen in addition, and what is damaged is a problem already.
            let noted = husks.behind(head, 0).0.saturating_sub(walked.unseen_husks);
            if noted > walked.husks {
                report.problem(format!(
                    "lane {}: {noted} places are noted as expired and taken out, and {} are",
                    lane.id, walked.husks
                ));
            }
            report.lanes.push(LaneReport {
                id: lane.id,
                name: lane.name.clone(),
                head: seq(head),
                tail: seq(tail),
                blocks: walked.blocks,
                records: walked.records,
                bytes: walked.bytes,
                husks: walked.husks,
                lost: (tail - head).saturating_sub(walked.records + walked.husks),
            });
        }
        report.orphan_blocks = count_orphans(&engine, &ends)?;
        Ok(report)
    }
}

#[derive(Default)]
struct Walked {
    blocks: u64,
    records: u64,
    bytes: u64,
    husks: u64,
    /// Places that are noted as husks and cannot be seen.
    unseen_husks: u64,
}

fn verify_lane(
    engine: &Engine,
    lane: LaneId,
    (head, tail): (u64, u64),
    noted: &Husks,
    report: &mut VerifyReport,
) -> Result<Walked, StoreError> {
    let mut walked = Walked::default();
    let mut blocks = Blocks::from(engine, lane, 1, false);
    let noted_in = |(first, last): (u64, u64)| {
        let ranges = if first <= last { noted.within((first, last)) } else { Vec::new() };
        ranges.iter().map(|(first, last)| last - first + 1).sum::<u64>()
    };
    // The place the walk has come to, and the first undelivered one that is not seen yet.
    let (mut at, mut next) = (1, head);
    loop {
        let Some((key, value)) = blocks.item() else {
            let Err(error) = blocks.status() else { break };
            if at >= tail {
                break; // in whatever is behind this lane
            }
            let text = error.to_string();
            if at < head {
                // What is delivered may be gone already: what waits is not to be searched for from there.
                report
                    .problem(format!("lane {lane}: places from {at} to {} cannot be read: {text}", head - 1));
                at = head;
                blocks.seek(at);
                continue;
            }
            let good = readable_from(engine, lane, at, tail, error)?;
            report.problem(format!("lane {lane}: places {at} to {} cannot be read: {text}", good - 1));
            walked.unseen_husks += noted_in((next, good - 1));
            (at, next) = (good, next.max(good));
            if good >= tail {
                break;
            }
            blocks.seek(good);
            continue;
        };
        let last = keys::parse_block(key).map_or(0, |(_, last)| last.get());
        match Block::parse(key, value) {
            Some(block) if block.first >= tail => break, // written since we began
            Some(block) => {
                if block.first > next {
                    report.problem(format!("lane {lane}: places {next} to {} are missing", block.first - 1));
                    walked.unseen_husks += noted_in((next, block.first - 1));
                }
                verify_block(&block, next, &mut walked, report);
            }
            None => {
                walked.unseen_husks += noted_in((next, last));
                report.problem(format!(
                    "lane {lane}: the header of the block that ends at place {last} is damaged"
                ));
            }
        }
        walked.blocks += 1;
        next = next.max(last + 1);
        at = last + 1;
        blocks.next(at);
    }
    if next < tail {
        report.problem(format!("lane {lane}: places {next} to {} are missing", tail - 1));
        walked.unseen_husks += noted_in((next, tail - 1));
    }
    Ok(walked)
}

/// Counts places from `from` on: those before are delivered, or were seen in an earlier block. (Small blocks that came back stand
/// beside the one husk that took their place.)
fn verify_block(block: &Block<'_>, from: u64, walked: &mut Walked, report: &mut VerifyReport) {
    let lane = block.lane;
    if block.is_husk() {
        walked.husks += (block.last + 1).saturating_sub(block.first.max(from));
        return;
    }
    let mut next = block.first;
    for (seq, record) in block.records() {
        next = seq + 1;
        if !record.is_sound(lane, seq) {
            report.problem(format!("lane {lane}: the record at place {seq} is damaged"));
        } else if seq >= from {
            walked.records += 1;
            walked.bytes += record.len() as u64;
        }
    }
    if next <= block.last {
        report
            .problem(format!("lane {lane}: places {next} to {} cannot be found in their block", block.last));
    }
}

/// Blocks between the known lanes, as far as they can be read: damage there is nobody's loss.
fn count_orphans(engine: &Engine, known: &BTreeMap<LaneId, (u64, u64)>) -> Result<u64, StoreError> {
    let mut count = 0;
    let mut blocks = engine.db.raw_iterator_cf(engine.family(FAMILY_LOG));
    blocks.seek_to_first();
    let mut behind = None;
    loop {
        while let Some(key) = blocks.key() {
            match keys::parse_block(key) {
                Some((lane, _)) if known.contains_key(&lane) => {
                    behind = Some(lane);
                    blocks.seek(keys::lane_end(lane));
                }
                _ => {
                    count += 1;
                    blocks.next();
                }
            }
        }
        let Err(error) = blocks.status() else { return Ok(count) };
        is_damage(engine, error)?;
        let Some(&lane) = known.keys().find(|lane| behind.is_none_or(|behind| **lane > behind)) else {
            return Ok(count);
        };
        behind = Some(lane);
        blocks.seek(keys::lane_end(lane));
    }
}
