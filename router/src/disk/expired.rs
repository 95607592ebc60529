//! From whom the messages were that expired: what edgeHub's series say of them (`reference/edgehub.md` §8).
//!
//! In: ranges of lanes that have just expired, or that a reader has passed over, and whose space was not given back. Out:
//! counts by sender and output. Never fails: it is for people. Bound: [`MESSAGES_MAX`] messages and [`BYTES_MAX`] bytes, and
//! the one message that reaches over them, are looked at for all ranges that come at once; the rest is counted without a name,
//! as are messages that expired in memory. Names take `limits.series_bytes_max`. Only an edge device looks at all.

use std::sync::PoisonError;

use hub::series::FURTHER;
use model::Seq;
use store::{Lost, ReadLimits, ReadOut};

use super::Disk;

/// Messages that one look reads again.
const MESSAGES_MAX: usize = 1_000;
/// Their bytes.
const BYTES_MAX: usize = 1 << 20;

impl Disk {
    /// Looks whose messages these were.
    pub(super) fn note_expired_of(&self, lost: &[Lost]) {
        let Some(counts) = &self.state.expired_of else { return };
        let (mut messages_max, mut bytes_max) = (MESSAGES_MAX, BYTES_MAX);
        let mut out = ReadOut::new();
        for lost in lost {
            if messages_max == 0 || bytes_max == 0 {
                self.note_expired_unknown(lost.messages());
                continue;
            }
            let name = self.lane_name(lost.lane);
            let limits = ReadLimits { messages_max, bytes_max };
            let range = (lost.from, lost.up_to.next());
            if self.log.reader().read_passed(lost.lane, range, limits, &mut out).is_err() {
                self.note_expired_unknown(lost.messages());
                continue;
            }
            let mut unknown = lost.messages();
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            for record in out.records().filter(|record| is_within(record.seq, lost)) {
                messages_max = messages_max.saturating_sub(1);
                bytes_max = bytes_max.saturating_sub(record.bytes.len());
                if let Some((from, output)) = broker::sender_of_record(&name, record.bytes) {
                    counts.count("expired", &[&from, &output]);
                    unknown = unknown.saturating_sub(1);
                }
            }
            drop(counts);
            self.note_expired_unknown(unknown);
        }
    }

    /// Messages expired of which nobody knows whose they were.
    pub(super) fn note_expired_unknown(&self, messages: u64) {
        if let Some(counts) = self.state.expired_of.as_ref().filter(|_| messages > 0) {
            // By one name with those that there is no room for.
            counts.lock().unwrap_or_else(PoisonError::into_inner).add("expired", &[FURTHER], messages);
        }
    }
}

fn is_within(seq: Seq, lost: &Lost) -> bool {
    (lost.from..=lost.up_to).contains(&seq)
}
