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
    assert_eq!(inflight.push(Some(seq(65_535)), Qos::AtLeastOnce), id(65_535));
    assert_eq!(inflight.push(Some(seq(65_536)), Qos::AtLeastOnce), id(1), "the ring has no zero");
    let mut after_restart = Inflight::default();
    assert_eq!(
        after_restart.push(Some(seq(65_536)), Qos::AtLeastOnce),
        id(1),
        "the same message has the same identifier"
    );
}

#[test]
fn the_head_moves_only_over_what_is_acknowledged_without_a_gap() {
    let mut inflight = Inflight::default();
    for number in 1..=3 {
        inflight.push(Some(seq(number)), Qos::AtLeastOnce);
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
        let packet_id = inflight.push(None, Qos::AtLeastOnce);
        assert_eq!(u32::from(packet_id.get()), round % 65_535 + 1);
        assert_eq!(inflight.acknowledge(packet_id), Acked::Known { head: None });
    }
}

#[test]
fn what_is_skipped_moves_the_head_when_its_turn_comes() {
    let mut inflight = Inflight::default();
    assert_eq!(inflight.skip(seq(7)), Some(seq(8)));
    let packet_id = inflight.push(Some(seq(8)), Qos::AtLeastOnce);
    assert_eq!(inflight.skip(seq(9)), None, "8 is still open");
    assert_eq!(inflight.acknowledge(packet_id), Acked::Known { head: Some(seq(10)) });
}

#[test]
fn a_gap_in_the_lane_does_not_shift_identifiers() {
    let mut inflight = Inflight::default();
    assert_eq!(inflight.push(Some(seq(5)), Qos::AtLeastOnce), id(5));
    assert_eq!(inflight.push(Some(seq(9)), Qos::AtLeastOnce), id(9), "6 to 8 expired on disk");
    assert_eq!(inflight.open(), 2);
    assert_eq!(inflight.acknowledge(id(7)), Acked::Unknown, "nobody was sent 7");
    assert_eq!(inflight.acknowledge(id(5)), Acked::Known { head: Some(seq(9)) });
    assert_eq!(inflight.acknowledge(id(9)), Acked::Known { head: Some(seq(10)) });
    inflight.invariants();
}

#[test]
fn two_open_messages_never_share_an_identifier() {
    let mut inflight = Inflight::default();
    inflight.push(Some(seq(1)), Qos::AtLeastOnce);
    assert!(inflight.has_place(Some(seq(65_535)), u32::MAX));
    assert!(!inflight.has_place(Some(seq(65_536)), u32::MAX), "it would be 1 again");
    inflight.acknowledge(id(1));
    assert!(inflight.has_place(Some(seq(65_536)), u32::MAX));
}

/// [MQTT-4.3.3-6]: from PUBREC on it is released, until PUBCOMP.
#[test]
fn an_exchange_goes_from_published_to_released_to_completed() {
    let mut inflight = Inflight::default();
    let packet_id = inflight.push(Some(seq(1)), Qos::ExactlyOnce);
    assert_eq!(inflight.acknowledge(packet_id), Acked::Unknown, "PUBACK is not for QoS 2");
    assert_eq!(inflight.complete(packet_id, true), (Acked::Unknown, None), "PUBREC comes first");
    assert_eq!(inflight.receive(packet_id), Received::First(Some(seq(1))));
    assert_eq!(inflight.receive(packet_id), Received::Again);
    assert_eq!(inflight.complete(packet_id, false), (Acked::Unknown, None), "too late to refuse it");
    assert_eq!(inflight.open(), 1, "it counts until PUBCOMP");
    assert_eq!(inflight.complete(packet_id, true), (Acked::Known { head: Some(seq(2)) }, None));
    assert_eq!(inflight.take_finished(), [seq(1)]);
    assert_eq!(inflight.receive(packet_id), Received::Unknown);
}

#[test]
fn what_completes_behind_an_open_message_keeps_its_mark() {
    let mut inflight = Inflight::default();
    let first = inflight.push(Some(seq(1)), Qos::AtLeastOnce);
    let second = inflight.push(Some(seq(2)), Qos::ExactlyOnce);
    inflight.receive(second);
    assert_eq!(inflight.complete(second, true), (Acked::Known { head: None }, Some(seq(2))));
    assert_eq!(inflight.marks().collect::<Vec<_>>(), [(seq(2), Mark::Completed)]);
    assert_eq!(inflight.acknowledge(first), Acked::Known { head: Some(seq(3)) });
    assert_eq!(inflight.take_finished(), [seq(2)]);
}

#[test]
fn marks_bring_a_window_back() {
    let mut inflight = Inflight::default();
    assert_eq!(inflight.resume(seq(4), Mark::Completed).1, Some(seq(5)));
    assert_eq!(inflight.take_finished(), [seq(4)]);
    assert_eq!(inflight.resume(seq(5), Mark::Released), (id(5), None));
    assert_eq!(inflight.resume(seq(7), Mark::Settled).1, None);
    assert_eq!(inflight.open(), 1);
    assert_eq!(inflight.complete(id(5), true), (Acked::Known { head: Some(seq(8)) }, None));
    inflight.take_finished();
    inflight.invariants();
}

/// [MQTT-2.2.1-4] [MQTT3-2.3.1-4]: an identifier is not given to another message before its exchange is over.
#[test]
fn an_open_exchange_keeps_its_identifier() {
    let mut inflight = Inflight::default();
    let kept = inflight.push(None, Qos::ExactlyOnce);
    inflight.receive(kept);
    for _ in 1..RING {
        assert!(inflight.has_place(None, u32::MAX));
        let packet_id = inflight.push(None, Qos::AtLeastOnce);
        assert_ne!(packet_id, kept);
        inflight.acknowledge(packet_id);
    }
    assert!(!inflight.has_place(None, u32::MAX), "the next one would be it");
    inflight.complete(kept, true);
    assert!(inflight.has_place(None, u32::MAX));
    assert_eq!(inflight.push(None, Qos::AtLeastOnce), kept);
}

#[test]
fn a_window_is_no_wider_than_its_span() {
    let mut inflight = Inflight::default();
    inflight.push(Some(seq(1)), Qos::AtLeastOnce);
    assert!(inflight.has_place(Some(seq(4)), 4));
    assert!(!inflight.has_place(Some(seq(5)), 4));
}
