//! Each kind of fault is found, counted once, and told apart from what MQTT allows.

use super::*;
use crate::random::Random;

const R: ReceiverId = ReceiverId(1);
const P: PublisherId = PublisherId(1);

/// One stream: 1..=`sent` sent, `acked` acknowledged, `arrived` in order of arrival.
fn ledger(contract: Contract, sent: u64, acked: &[u64], arrived: &[u64]) -> Ledger {
    let mut ledger = Ledger::new();
    ledger.expect(R, P, contract);
    (1..=sent).for_each(|sequence| ledger.sent(P, sequence));
    acked.iter().for_each(|&sequence| ledger.acked(P, sequence));
    for &sequence in arrived {
        ledger.arrived(R, P, sequence);
    }
    ledger
}

#[track_caller]
fn check(ledger: &Ledger, expected: &[&str]) -> Verdict {
    let verdict = ledger.verdict(Rules::default());
    assert_eq!(verdict.broken, expected);
    verdict
}

#[test]
fn all_arrived_is_all_kept() {
    let verdict = check(&ledger(Contract::AtLeastOnce, 3, &[1, 2, 3], &[1, 2, 3]), &[]);
    assert_eq!((verdict.sent, verdict.acked, verdict.expected, verdict.arrived), (3, 3, 3, 3));
}

#[test]
fn an_acknowledged_message_that_does_not_arrive_is_a_broken_promise() {
    let verdict = check(&ledger(Contract::AtLeastOnce, 4, &[1, 3, 4], &[1, 4]), &["1 acknowledged and lost"]);
    assert_eq!((verdict.lost, verdict.unacknowledged), (1, 1), "2 was never acknowledged");
    assert_eq!(verdict.examples, ["lost: message 3 at receiver 1, publisher 1"]);
}

#[test]
fn repeats_are_allowed_at_qos_1_and_not_at_qos_0() {
    let arrived = [1, 2, 1, 2, 3];
    let verdict = check(&ledger(Contract::AtLeastOnce, 3, &[1, 2, 3], &arrived), &[]);
    assert_eq!((verdict.duplicates, verdict.out_of_order), (2, 0));
    let verdict =
        check(&ledger(Contract::AtMostOnce, 3, &[], &arrived), &["2 delivered more than once at QoS 0"]);
    assert_eq!(verdict.duplicates_qos0, 2);
}

/// [MQTT-4.3.3-1]
#[test]
fn repeats_and_losses_are_both_broken_promises_at_qos_2() {
    let broken = ["1 acknowledged and lost", "2 delivered more than once at QoS 2"];
    let verdict = check(&ledger(Contract::ExactlyOnce, 4, &[1, 2, 4], &[1, 2, 1, 2, 3]), &broken);
    assert_eq!((verdict.duplicates_qos2, verdict.duplicates, verdict.lost), (2, 0, 1));
    check(&ledger(Contract::ExactlyOnce, 3, &[1, 2, 3], &[1, 2, 3]), &[]);
}

#[test]
fn a_message_for_a_group_reaches_one_member() {
    let member = |sequences: &[u64]| {
        let mut arrivals = Arrivals::default();
        for &sequence in sequences {
            arrivals.record(sequence);
        }
        arrivals
    };
    let mut ledger = ledger(Contract::AtLeastOnce, 4, &[1, 2, 3, 4], &[]);
    ledger.expect_no_order(R);
    ledger.add_arrivals(R, P, &member(&[1, 3, 3]));
    ledger.add_arrivals(R, P, &member(&[2, 4]));
    assert_eq!(check(&ledger, &[]).duplicates, 1, "a repeat to the same member is QoS 1's right");
    ledger.add_arrivals(R, P, &member(&[3]));
    check(&ledger, &["1 delivered to several members of a group"]);
    let lax = ledger.verdict(Rules { expect_one_member: false, ..Rules::default() });
    assert_eq!((lax.kept(), lax.several_members), (true, 1));
}

#[test]
fn what_was_altered_on_its_way_is_a_broken_promise() {
    let mut ledger = ledger(Contract::AtMostOnce, 1, &[], &[1]);
    ledger.altered(1);
    check(&ledger, &["1 with other properties or flags than published"]);
}

#[test]
fn loss_at_qos_0_counts_only_where_the_scenario_says_so() {
    let ledger = ledger(Contract::AtMostOnce, 5, &[], &[1, 5]);
    assert_eq!(check(&ledger, &[]).lost_qos0, 3);
    let strict = ledger.verdict(Rules { expect_qos0: true, ..Rules::default() });
    assert_eq!(strict.broken, ["3 lost at QoS 0 (expect_qos0 = true)"]);
}

#[test]
fn order_is_judged_on_first_copies() {
    // [MQTT-4.6.0-6] is about first copies: a retransmission may come at any time.
    check(&ledger(Contract::AtLeastOnce, 4, &[], &[1, 2, 3, 2, 4]), &[]);
    let verdict = check(&ledger(Contract::AtLeastOnce, 4, &[], &[1, 3, 2, 4]), &["1 out of order"]);
    assert_eq!(verdict.examples, ["1 out of order at receiver 1, publisher 1"]);
}

#[test]
fn a_shared_subscription_has_no_order() {
    let mut ledger = ledger(Contract::AtLeastOnce, 3, &[1, 2, 3], &[3, 1, 2]);
    ledger.expect_no_order(R);
    check(&ledger, &[]);
}

#[test]
fn what_was_never_sent_or_never_subscribed_is_invented() {
    check(&ledger(Contract::AtLeastOnce, 2, &[], &[1, 2, 9]), &["1 never sent to where they arrived"]);
    let mut unexpected = Ledger::new();
    unexpected.sent(P, 1);
    unexpected.arrived(R, P, 1);
    check(&unexpected, &["1 never sent to where they arrived"]);
}

#[test]
fn a_corrupt_message_is_a_broken_promise_and_a_foreign_one_is_not() {
    let mut ledger = Ledger::new();
    ledger.foreign(3);
    assert_eq!(check(&ledger, &[]).foreign, 3);
    ledger.corrupted(2);
    check(&ledger, &["2 corrupt"]);
}

#[test]
fn fan_out_is_one_stream_per_receiver() {
    let mut ledger = Ledger::new();
    for receiver in 1..=3 {
        ledger.expect(ReceiverId(receiver), P, Contract::AtLeastOnce);
    }
    ledger.sent(P, 1);
    ledger.acked(P, 1);
    ledger.arrived(ReceiverId(1), P, 1);
    ledger.arrived(ReceiverId(3), P, 1);
    let verdict = check(&ledger, &["1 acknowledged and lost"]);
    assert_eq!((verdict.sent, verdict.expected, verdict.arrived), (1, 3, 2));
}

#[test]
fn merged_parts_say_what_the_whole_would_say() {
    for seed in 1..=40 {
        let mut random = Random::new(seed);
        let (mut whole, mut parts) = (Ledger::new(), [Ledger::new(), Ledger::new(), Ledger::new()]);
        for publisher in (1..=3).map(PublisherId) {
            whole.expect(R, publisher, Contract::AtLeastOnce);
            parts[2].expect(R, publisher, Contract::AtLeastOnce);
            for sequence in 1..=random.below(6_000) {
                whole.sent(publisher, sequence);
                parts[0].sent(publisher, sequence);
                if random.below(4) > 0 {
                    whole.acked(publisher, sequence);
                    // Acknowledgements may come to another incarnation of the publisher.
                    parts[random.below(2) as usize].acked(publisher, sequence);
                }
                for _ in 0..random.below(3) {
                    whole.arrived(R, publisher, sequence);
                    parts[2].arrived(R, publisher, sequence);
                }
            }
        }
        let mut merged = Ledger::new();
        parts.iter().for_each(|part| merged.merge(part));
        assert_eq!(merged.verdict(Rules::default()), whole.verdict(Rules::default()), "seed {seed}");
    }
}

#[test]
fn what_two_incarnations_of_a_receiver_both_saw_is_a_repeat() {
    let mut first = ledger(Contract::AtLeastOnce, 4, &[1, 2, 3, 4], &[1, 2, 3]);
    let second = ledger(Contract::AtLeastOnce, 4, &[], &[3, 4]);
    first.merge(&second);
    let verdict = check(&first, &[]);
    assert_eq!((verdict.arrived, verdict.duplicates), (4, 1));
}

#[test]
fn a_ledger_survives_json() {
    let ledger = ledger(Contract::AtLeastOnce, 5_000, &[1, 2, 4_000], &[1, 2, 9, 7]);
    let text = serde_json::to_string(&ledger).unwrap();
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
}
