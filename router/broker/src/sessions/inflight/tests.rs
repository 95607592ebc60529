//! Identifiers go round the ring and come back in any order.

use super::*;

fn seq(number: u64) -> Seq {
    Seq::new(number).expect("not zero")
}

fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("not zero")
}

#[test]
fn identifiers_follow_from_the_place_in_the_lane() {
    let mut inflight = Inflight::default();
    assert_eq!(inflight.push(Some(seq(65_535))), id(65_535));
    assert_eq!(inflight.push(Some(seq(65_536))), id(1), "the ring has no zero");
    let mut after_restart = Inflight::default();
    assert_eq!(after_restart.push(Some(seq(65_536))), id(1), "the same message has the same identifier");
}

#[test]
fn the_head_moves_only_over_what_is_acknowledged_without_a_gap() {
    let mut inflight = Inflight::default();
    for number in 1..=3 {
        inflight.push(Some(seq(number)));
    }
    assert_eq!(inflight.acknowledge(id(2)), Acked::Known { head: None });
    assert_eq!(inflight.acknowledge(id(2)), Acked::Unknown, "twice is once too often");
    assert_eq!(inflight.acknowledge(id(1)), Acked::Known { head: Some(seq(3)) });
    assert_eq!(inflight.acknowledge(id(9)), Acked::Unknown);
    assert_eq!(inflight.acknowledge(id(3)), Acked::Known { head: Some(seq(4)) });
    assert!(inflight.is_empty());
}

#[test]
fn a_clean_session_goes_round_the_ring_without_reusing_what_is_open() {
    let mut inflight = Inflight::default();
    for round in 0..70_000u32 {
        let packet_id = inflight.push(None);
        assert_eq!(u32::from(packet_id.get()), round % 65_535 + 1);
        assert_eq!(inflight.acknowledge(packet_id), Acked::Known { head: None });
    }
}

#[test]
fn what_is_skipped_moves_the_head_when_its_turn_comes() {
    let mut inflight = Inflight::default();
    assert_eq!(inflight.skip(seq(7)), Some(seq(8)));
    let packet_id = inflight.push(Some(seq(8)));
    assert_eq!(inflight.skip(seq(9)), None, "8 is still open");
    assert_eq!(inflight.acknowledge(packet_id), Acked::Known { head: Some(seq(10)) });
}

#[test]
fn a_gap_in_the_lane_does_not_shift_identifiers() {
    let mut inflight = Inflight::default();
    assert_eq!(inflight.push(Some(seq(5))), id(5));
    assert_eq!(inflight.push(Some(seq(9))), id(9), "6 to 8 expired on disk");
    assert_eq!(inflight.open(), 2);
    assert_eq!(inflight.acknowledge(id(7)), Acked::Unknown, "nobody was sent 7");
    assert_eq!(inflight.acknowledge(id(5)), Acked::Known { head: Some(seq(9)) });
    assert_eq!(inflight.acknowledge(id(9)), Acked::Known { head: Some(seq(10)) });
    inflight.invariants();
}

#[test]
fn two_open_messages_never_share_an_identifier() {
    let mut inflight = Inflight::default();
    inflight.push(Some(seq(1)));
    assert!(inflight.has_place(Some(seq(65_535))));
    assert!(!inflight.has_place(Some(seq(65_536))), "it would be 1 again");
    inflight.acknowledge(id(1));
    assert!(inflight.has_place(Some(seq(65_536))));
}
