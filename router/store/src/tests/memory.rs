//! What only the log in memory can do: fail and crash when told to.

use super::*;
use crate::{FaultKind, MemoryLog};

const NOW: Timestamp = Timestamp(1);

#[test]
fn a_failing_write_poisons_and_a_crash_keeps_what_was_confirmed() {
    let mut log = MemoryLog::new(1 << 20);
    let lane = log.lane("a").unwrap();
    log.append(lane, &[b"kept"], NOW, None).unwrap();
    log.commit().unwrap();
    log.append(lane, &[b"lost"], NOW, None).unwrap();
    log.fail_writes(true);
    assert!(matches!(log.commit(), Err(StoreError::Poisoned(fault)) if fault.kind == FaultKind::NoSpace));
    log.fail_writes(false);
    assert!(matches!(log.commit(), Err(StoreError::Poisoned(_))), "nothing is retried by itself");
    assert_eq!(read_all(&log, lane, seq(1), NOW).unwrap().0, [(1, b"kept".to_vec())]);
    log.crash();
    log.invariants();
    assert_eq!(log.append(lane, &[b"again"], NOW, None), Ok(seq(2)));
    log.commit().unwrap();
    assert_eq!(read_all(&log, lane, seq(1), NOW).unwrap().0.len(), 2);
}

#[test]
fn cursors_that_were_not_committed_go_back_in_a_crash() {
    let mut log = MemoryLog::new(1 << 20);
    let lane = log.lane("a").unwrap();
    for _ in 0..3 {
        log.append(lane, &[b"x"], NOW, None).unwrap();
    }
    log.commit().unwrap();
    log.advance(lane, seq(1)).unwrap();
    log.commit().unwrap();
    log.advance(lane, seq(2)).unwrap();
    log.crash();
    assert_eq!(log.lane_state(lane).unwrap().head, seq(2));
}
