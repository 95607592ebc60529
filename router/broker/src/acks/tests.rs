//! Answers leave in order, and never before their promise is kept.

use super::*;

fn puback(packet_id: u16) -> Answer {
    let packet_id = NonZeroU16::new(packet_id).expect("not zero");
    Answer::Ack(OwedAck { kind: AckKind::PubAck, packet_id, reason: ReasonCode::SUCCESS })
}

fn released(acks: &mut Acks) -> Vec<u16> {
    (0..acks.queues())
        .flat_map(|queue| std::iter::from_fn(|| acks.release(queue)).collect::<Vec<_>>())
        .map(|(_, answer, _)| match answer {
            Answer::Ack(ack) => ack.packet_id.get(),
            Answer::Refusal(_) | Answer::Held | Answer::Estate(_) | Answer::Will(..) | Answer::Losses(_) => 0,
        })
        .collect()
}

#[test]
fn an_answer_waits_for_its_ticket_and_for_those_before_it() {
    let mut acks = Acks::new(2, ShardId(0));
    acks.wait(AckQueue::default(), ConnId(1), Promise { ticket: Ticket(2), ..Promise::default() }, puback(1));
    acks.wait(AckQueue::default(), ConnId(1), Promise::default(), puback(2));
    assert_eq!(released(&mut acks), [] as [u16; 0]);
    acks.durable(Ticket(1));
    assert_eq!(released(&mut acks), [] as [u16; 0]);
    acks.durable(Ticket(2));
    assert_eq!(released(&mut acks), [1, 2]);
}

#[test]
fn an_answer_waits_for_every_shard_it_was_handed_to() {
    let mut acks = Acks::new(3, ShardId(0));
    acks.wait(
        AckQueue::default(),
        ConnId(1),
        Promise { ticket: Ticket(0), shards: 0b110, handoff: 7, ..Promise::default() },
        puback(1),
    );
    acks.kept(ShardId(1), 9);
    assert_eq!(released(&mut acks), [] as [u16; 0]);
    acks.kept(ShardId(2), 6);
    assert_eq!(released(&mut acks), [] as [u16; 0]);
    acks.kept(ShardId(2), 7);
    acks.kept(ShardId(2), 3);
    assert_eq!(released(&mut acks), [1]);
    assert!(
        acks.check(&Promise { ticket: Ticket(0), shards: 0b100, handoff: 7, ..Promise::default() }).is_some(),
        "marks never go back"
    );
}

/// [MQTT-4.6.0-2]: the order is per connection; who needs only the disk does not wait for another shard.
#[test]
fn a_slow_shard_holds_back_only_who_needs_it() {
    let mut acks = Acks::new(2, ShardId(0));
    let slow = Promise { ticket: Ticket(1), shards: 0b10, handoff: 1, ..Promise::default() };
    let quick = Promise { ticket: Ticket(2), ..Promise::default() };
    acks.wait(Acks::queue(&slow), ConnId(1), slow, puback(1));
    acks.wait(Acks::queue(&quick), ConnId(2), quick, puback(2));
    acks.durable(Ticket(2));
    assert_eq!(released(&mut acks), [2]);
    acks.kept(ShardId(1), 1);
    assert_eq!(released(&mut acks), [1]);
}

/// What waits for an upstream holds back nothing that waits for the disk, and the other way round.
#[test]
fn a_slow_upstream_holds_back_only_who_needs_it() {
    let mut acks = Acks::new(2, ShardId(0));
    let slow = Promise { ticket: Ticket(1), spill: SpillTicket(1), ..Promise::default() };
    let both = Promise { spill: SpillTicket(2), shards: 0b10, handoff: 1, ..Promise::default() };
    let quick = Promise { ticket: Ticket(2), ..Promise::default() };
    for (number, promise) in [(1, slow), (2, both), (3, quick)] {
        acks.wait(Acks::queue(&promise), ConnId(number.into()), promise, puback(number));
    }
    acks.durable(Ticket(2));
    assert_eq!(released(&mut acks), [3]);
    acks.spilled(SpillTicket(2));
    assert_eq!(released(&mut acks), [1], "the other shard has it not");
    acks.spilled(SpillTicket(1));
    acks.kept(ShardId(1), 1);
    assert_eq!(released(&mut acks), [2], "a watermark never goes back");
}

#[test]
fn an_identifier_is_written_after_other_shards_have_kept_its_publication() {
    let mut acks = Acks::new(2, ShardId(0));
    let packet_id = NonZeroU16::MIN;
    let promise = Promise { ticket: Ticket(1), shards: 0b10, handoff: 5, ..Promise::default() };
    let marking = Marking { session: SessionKey(0), generation: 1, packet_id, promise };
    let pubrec = acks.mark_later(marking);
    acks.durable(Ticket(1));
    assert!(acks.next_marking().is_none(), "the other shard has it not");
    acks.kept(ShardId(1), 5);
    let marking = acks.next_marking().expect("now it may be written");
    acks.mark_written(&marking, Ticket(2));
    assert!(acks.check(&pubrec).is_none(), "it is not durable");
    acks.durable(Ticket(2));
    assert!(acks.check(&pubrec).is_some());
    assert!(acks.next_marking().is_none());
}
