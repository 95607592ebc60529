//! The thread that reads sessions' lanes, so that neither a shard nor the disk thread waits for old data; and the one that
//! merges files, which may take long.
//!
//! In: where to read on. Out: records in the session's mailbox. Damage is noted by the store, and entered by the disk thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use model::{LaneId, Seq, ShardId, Timestamp};
use store::{ReadLimits, ReadOut, StoreError};
use tracing::{error, info, warn};

use super::DiskState;
use crate::clock::Clock;
use crate::mail::{Mail, Mailbox};

/// How often whole files of delivered data are looked for.
const TIDY: Duration = Duration::from_secs(60);
/// How often somebody looks whether merging is wanted because space is short.
const LOOK: Duration = Duration::from_millis(250);

/// Read on in a session's lane.
#[derive(Debug)]
pub(crate) struct ReadJob {
    pub(super) shard: ShardId,
    pub(super) session: broker::SessionKey,
    pub(super) generation: u32,
    pub(super) lane: LaneId,
    pub(super) from: Seq,
    pub(super) bytes_max: u32,
    pub(super) expired_too: bool,
}

type ReadRecord = (Seq, Option<Timestamp>, Box<[u8]>);

/// The thread that reads sessions' lanes.
pub(crate) fn run_lane_reader(
    reader: &store::Reader,
    jobs: &Receiver<ReadJob>,
    mailboxes: &[Arc<Mailbox>],
    state: &DiskState,
) {
    let clock = Clock::default();
    let mut out = ReadOut::new();
    while let Ok(job) = jobs.recv() {
        let Some((records, next, expired)) = read(reader, &job, &clock, &mut out, state) else { continue };
        let mut mail =
            Mail::LaneRead { session: job.session, generation: job.generation, records, next, expired };
        while let Err(back) = mailboxes[usize::from(job.shard.0)].send(mail) {
            mail = back;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn read(
    reader: &store::Reader,
    job: &ReadJob,
    clock: &Clock,
    out: &mut ReadOut,
    state: &DiskState,
) -> Option<(Vec<ReadRecord>, Seq, u64)> {
    let limits = ReadLimits { bytes_max: job.bytes_max as usize, messages_max: 4_096 };
    // At the beginning of time nothing has expired.
    let now = if job.expired_too { Timestamp::default() } else { clock.now().timestamp };
    match reader.read_lane(job.lane, job.from, limits, now, out) {
        Ok(()) => {
            let records =
                out.records().map(|record| (record.seq, record.expires, record.bytes.into())).collect();
            Some((records, out.next(), out.expired_messages()))
        }
        Err(StoreError::Damaged { lane, from, up_to }) => {
            let places = up_to.get() - from.get() + 1;
            state.damaged.fetch_add(places, Ordering::Relaxed);
            error!(%lane, %from, %up_to, "stored messages are damaged; they are lost and counted, the rest goes on");
            Some((Vec::new(), up_to.next(), 0))
        }
        Err(error) => {
            // No answer: the session asks again when its client comes back, not in a loop.
            error!(%error, lane = %job.lane, "a stored session's messages cannot be read");
            None
        }
    }
}

/// The thread that merges files: now and then where more than half of them is dead, and at once where space is short.
/// Ends when `stop` does.
pub(crate) fn run_merger(reader: &store::Reader, stop: &Receiver<()>, state: &DiskState) {
    let mut tidied = Instant::now();
    while stop.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let merged = if state.room.merge.swap(false, Ordering::Relaxed) {
            reader.merge_released().map(|bytes| {
                state.room.merges.fetch_add(1, Ordering::Relaxed);
                info!(bytes, "files were merged, since space is short");
            })
        } else if tidied.elapsed() >= TIDY {
            tidied = Instant::now();
            reader.tidy().map(drop)
        } else {
            continue;
        };
        match merged {
            // A store that recovers is closed for a moment.
            Ok(()) | Err(StoreError::Closed) => {}
            Err(error) => warn!(%error, "space of delivered messages was not given back"),
        }
    }
}
