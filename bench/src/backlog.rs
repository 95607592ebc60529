//! A backlog that is written into a store directly: as many messages as wanted at the speed of the disk, and incompressible.
//!
//! Knows: how the router keeps a message (an envelope in lane `u/UPLINK/default`). May use: `store`, `broker::Envelope`.
//! In: a store that nobody has open. Out: the same with messages in it. Bound: one group of [`GROUP_BYTES`] in memory.

use std::path::Path;

use anyhow::Context;
use broker::Envelope;
use model::{Qos, Timestamp};
use store::{CommitLog, Log, Options};

/// Bytes written at once.
const GROUP_BYTES: u64 = 8 << 20;

/// Appends so many messages for an uplink, with payloads of so many random bytes.
pub(crate) fn fill(store: &Path, uplink: &str, messages: u64, payload_bytes: usize) -> anyhow::Result<()> {
    // Not synced until the end: nobody was promised anything.
    let mut log =
        Log::open(&Options { sync: false, ..Options::new(store) }).context("the store of the backlog")?;
    let lane = log.lane(&format!("u/{uplink}/default"))?;
    let (mut state, mut record) = (0x9E37_79B9_7F4A_7C15_u64, Vec::new());
    let mut payload = vec![0; payload_bytes];
    for number in 0..messages {
        for bytes in payload.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.copy_from_slice(&state.to_le_bytes()[..bytes.len()]);
        }
        record.clear();
        let client_id = ["device-0", "device-1", "device-2", "device-3"][(number % 4) as usize];
        Envelope {
            user: "",
            topic: "backlog/old",
            client_id,
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: &[],
            payload: &payload,
        }
        .encode(&mut record);
        log.append(lane, &[&record], Timestamp(1_700_000_000_000), None)?;
        if log.staged_bytes() >= GROUP_BYTES {
            log.commit()?;
        }
    }
    log.close().context("the backlog cannot be synced")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_waits_in_the_lane() {
        let home = tempfile::tempdir().unwrap();
        fill(&home.path().join("store"), "plant", 1_000, 100).unwrap();
        let log = Log::open(&Options::new(home.path().join("store"))).unwrap();
        let lane = log.find_lane("u/plant/default").unwrap();
        assert_eq!(log.lane_state(lane).unwrap().messages(), 1_000);
    }
}
