//! Answers leave in order, and never before their promise is kept.

use super::*;

fn puback(packet_id: u16) -> Answer {
    let packet_id = NonZeroU16::new(packet_id).expect("not zero");
    Answer::Ack(OwedAck { kind: AckKind::PubAck, packet_id, reason: ReasonCode::SUCCESS })
}

fn released(acks: &mut Acks) -> Vec<u16> {
    std::iter::from_fn(|| acks.release())
        .map(|(_, answer, _)| match answer {
            Answer::Ack(ack) => ack.packet_id.get(),
            Answer::Held | Answer::Estate(_) => 0,
        })
        .collect()
}

#[test]
fn an_answer_waits_for_its_ticket_and_for_those_before_it() {
    let mut acks = Acks::new(2);
    acks.wait(ConnId(1), Promise { ticket: Ticket(2), ..Promise::default() }, puback(1));
    acks.wait(ConnId(1), Promise::default(), puback(2));
    assert_eq!(released(&mut acks), [] as [u16; 0]);
    acks.durable(Ticket(1));
    assert_eq!(released(&mut acks), [] as [u16; 0]);
    acks.durable(Ticket(2));
    assert_eq!(released(&mut acks), [1, 2]);
}

#[test]
fn an_answer_waits_for_every_shard_it_was_handed_to() {
    let mut acks = Acks::new(3);
    acks.wait(ConnId(1), Promise { ticket: Ticket(0), shards: 0b110, handoff: 7 }, puback(1));
    acks.kept(ShardId(1), 9);
    assert_eq!(released(&mut acks), [] as [u16; 0]);
    acks.kept(ShardId(2), 6);
    assert_eq!(released(&mut acks), [] as [u16; 0]);
    acks.kept(ShardId(2), 7);
    acks.kept(ShardId(2), 3);
    assert_eq!(released(&mut acks), [1]);
    assert!(
        acks.check(&Promise { ticket: Ticket(0), shards: 0b100, handoff: 7 }).is_some(),
        "marks never go back"
    );
}
