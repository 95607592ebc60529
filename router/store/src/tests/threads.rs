//! One thread writes, others read and move cursors meanwhile.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

const RECORDS: u64 = 30_000;

#[test]
fn an_uplink_on_another_thread_sees_every_record_once_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(&Options { sync: false, ..options(&directory) }).unwrap();
    let lanes: Vec<LaneId> = (0..2).map(|name| log.lane(&format!("lane {name}")).unwrap()).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for &lane in &lanes {
            let (reader, done) = (log.reader(), &done);
            scope.spawn(move || {
                let (mut from, mut out) = (seq(1), ReadOut::new());
                let limits = ReadLimits { messages_max: 700, bytes_max: 60_000 };
                loop {
                    let last_look = done.load(Ordering::Acquire);
                    reader.read_lane(lane, from, limits, Timestamp(0), &mut out).unwrap();
                    for record in out.records() {
                        assert_eq!(record.seq, from);
                        assert_eq!(record.bytes, payload(lane, from.get(), 60));
                        from = from.next();
                    }
                    assert_eq!(out.next(), from);
                    if !out.is_empty() {
                        reader.advance(lane, seq(from.get() - 1)).unwrap();
                        let state = reader.lane_state(lane).unwrap();
                        assert!(state.head == from && state.head <= state.tail);
                    } else if last_look {
                        assert_eq!(from.get(), RECORDS + 1);
                        return;
                    }
                }
            });
        }
        for place in 1..=RECORDS {
            for &lane in &lanes {
                assert_eq!(
                    log.append(lane, &[&payload(lane, place, 60)], Timestamp(place), None),
                    Ok(seq(place))
                );
            }
            if place % 50 == 0 || place == RECORDS {
                log.commit().unwrap();
            }
            if place % 500 == 0 {
                log.reclaim(Timestamp(place * 1_000)).unwrap();
                log.invariants();
            }
        }
        done.store(true, Ordering::Release);
    });
    log.close().unwrap();
    let log = open(&directory);
    assert!(log.lanes().unwrap().iter().all(|lane| lane.head.get() == RECORDS + 1 && lane.bytes == 0));
}

#[test]
fn a_reader_can_be_sent_and_shared() {
    fn is_send_and_sync<T: Send + Sync>() {}
    fn is_send<T: Send>() {}
    is_send_and_sync::<crate::Reader>();
    is_send::<Log>();
}
