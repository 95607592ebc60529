//! Space comes back: what is delivered, expired or removed does not stay on the disk.

use super::*;

const NOW: Timestamp = Timestamp(1_000);

/// Writes so much to each lane that it ends in sorted files.
fn fill(log: &mut Log, lanes: &[LaneId], bytes_each: usize, expires: Option<Timestamp>) {
    let mut at = 0;
    while at < bytes_each {
        for &lane in lanes {
            let place = log.lane_state(lane).unwrap().tail.get();
            for more in 0..64 {
                log.append(lane, &[&payload(lane, place + more, 1_000)], NOW, expires).unwrap();
            }
        }
        log.commit().unwrap();
        at += 64_000;
    }
}

fn settle(log: &mut Log, now: Timestamp) {
    while log.expire(now).unwrap().more {}
    while log.reclaim(now).unwrap() {}
    let reader = log.reader();
    while reader.tidy().unwrap() {}
}

/// Memory is written out by a thread of RocksDB: what it writes after the last look is found by the next one, as in a
/// router, which looks every 200 ms.
fn settle_below(log: &mut Log, sorted_bytes: u64) -> crate::Stats {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        settle(log, Timestamp(2_000));
        let stats = log.reader().stats().unwrap();
        if stats.sorted_bytes < sorted_bytes {
            return stats;
        }
        assert!(std::time::Instant::now() < deadline, "{stats:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn delivered_expired_and_removed_lanes_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(&small(&directory)).unwrap();
    let lanes: Vec<LaneId> =
        ["delivered", "expired", "removed", "kept"].iter().map(|name| log.lane(name).unwrap()).collect();
    fill(&mut log, &[lanes[0], lanes[2]], 6 << 20, None);
    fill(&mut log, &[lanes[1]], 6 << 20, Some(Timestamp(2_000)));
    fill(&mut log, &[lanes[3]], 1 << 20, None);
    let full = log.reader().stats().unwrap();
    assert!(full.sorted_bytes > 14 << 20, "{full:?}");
    let last = log.lane_state(lanes[0]).unwrap().tail.get() - 1;
    log.advance(lanes[0], seq(last)).unwrap();
    log.remove_lane(lanes[2]).unwrap();
    log.commit().unwrap();
    let stats = settle_below(&mut log, 4 << 20);
    assert_eq!(stats.live_messages, log.lane_state(lanes[3]).unwrap().messages());
    assert_eq!(log.lane_state(lanes[1]).unwrap().messages(), 0);
    assert_eq!(log.reader().verify().unwrap().problems, Vec::<String>::new());
    drop(log);
    let log = Log::open(&small(&directory)).unwrap();
    let report = log.reader().verify().unwrap();
    assert_eq!((report.problems_total, report.orphan_blocks), (0, 0));
    assert_eq!(log.lane_state(lanes[0]).unwrap().tail.get(), last + 1);
}

#[test]
fn opening_does_not_depend_on_the_backlog() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(&small(&directory)).unwrap();
    let lane = log.lane("a").unwrap();
    fill(&mut log, &[lane], 16 << 20, None);
    // Else the merges that were due would go on behind the opening, and what they read would be in the cache.
    log.reader().merge_all().unwrap();
    drop(log);
    let log = Log::open(&small(&directory)).unwrap();
    let stats = log.reader().stats().unwrap();
    // The write-ahead log was read and written out as sorted files; nothing of the backlog is in memory.
    assert!(stats.memtable_bytes < 1 << 20 && stats.cache_bytes < 1 << 20, "{stats:?}");
    assert!(stats.live_messages > 16_000);
}
