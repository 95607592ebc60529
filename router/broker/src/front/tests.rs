//! A front by itself; with an uplink, a log and crashes around it: `uplink::tests::simulation`.

use super::*;

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

const OWNER: ShardId = ShardId(0);

fn held(number: u64, expires: Option<u64>) -> Held {
    let bytes = format!("message {number}").into_bytes().into();
    let came = (Timestamp(number), expires.map(Timestamp));
    Held::new(bytes, came, Instant(number * 1_000), (OWNER, SpillTicket(number)))
}

fn progress(head: u64, read_to: u64, log_end: u64) -> Progress {
    let (head, read_to, log_end) = (seq(head), seq(read_to), seq(log_end));
    Progress { link_up: true, read_to, head, log_end, writing: false }
}

/// A front of a lane with ten delivered messages, and three more in it.
fn front() -> Front {
    let mut front = Front::new(seq(11), 500);
    for number in 1..=3 {
        assert_eq!(front.admits(&progress(11, 11, 11)), Ok(()));
        assert_eq!(front.push(held(number, None), seq(11)), seq(10 + number));
    }
    front.invariants();
    front
}

fn read(front: &mut Front, from: u64, messages_max: usize, now: u64) -> Option<(u64, Vec<u64>, u64)> {
    let mut given = Vec::new();
    let (next, expired) = front.read(seq(from), (messages_max, 1_000), Timestamp(now), &mut given)?;
    Some((next.get(), given.iter().map(|it| it.seq.get()).collect(), expired))
}

#[test]
fn what_is_delivered_leaves_unwritten_and_says_whose_it_was() {
    let mut front = front();
    let mut done = Vec::new();
    let left = front.delivered(seq(13), |(_, ticket)| done.push(ticket.0));
    assert_eq!((left.messages, left.expired, done), (2, 0, vec![1, 2]));
    assert_eq!((front.first(), front.end(), front.messages()), (seq(13), seq(14), 1));
    front.delivered(seq(14), |_| {});
    assert_eq!((front.bytes(), front.is_empty()), (0, true));
    assert_eq!(
        front.push(held(4, None), seq(11)),
        seq(14),
        "a log that has not heard of it gives no place again"
    );
    front.invariants();
}

#[test]
fn a_front_gives_what_it_has_from_a_place_on() {
    let mut front = front();
    assert_eq!(read(&mut front, 11, 9, 0), Some((14, vec![11, 12, 13], 0)));
    assert_eq!(read(&mut front, 12, 1, 0), Some((13, vec![12], 0)));
    assert_eq!(read(&mut front, 10, 9, 0), None, "that is in the log");
    assert_eq!(read(&mut front, 14, 9, 0), None, "that is still to come");
}

#[test]
fn what_has_expired_is_passed_over_and_counted_once() {
    let mut front = front();
    front.push(held(4, Some(100)), seq(11));
    front.push(held(5, None), seq(11));
    assert_eq!(read(&mut front, 13, 9, 99), Some((16, vec![13, 14, 15], 0)));
    assert_eq!(read(&mut front, 13, 9, 100), Some((16, vec![13, 15], 1)));
    assert_eq!(read(&mut front, 14, 9, 100), Some((16, vec![15], 0)));
    let expired_bytes: usize = front.expired_before(seq(16)).map(|held| held.bytes.len()).sum();
    let left = front.delivered(seq(16), |_| {});
    assert_eq!((left.messages, left.expired, expired_bytes), (5, 1, "message 4".len()));
}

/// What has expired at `now` and stands at `from` or behind it, by its number; at most so many records are looked at.
fn expire(front: &mut Front, now: u64, from: u64, records_max: usize) -> (Vec<String>, usize) {
    let mut told = Vec::new();
    let text = |held: &Held| String::from_utf8_lossy(&held.bytes).replace("message ", "");
    let looked = front.expire(Timestamp(now), seq(from), records_max, |held| told.push(text(held)));
    front.invariants();
    (told, looked)
}

#[test]
fn what_has_expired_leaves_memory_and_counts_without_a_reader_and_is_told_once() {
    let mut front = front();
    front.push(held(4, Some(100)), seq(11));
    front.push(held(5, None), seq(11));
    front.push(held(6, Some(200)), seq(11));
    let (bytes, record_bytes) = (front.bytes(), front.record_bytes(24));
    assert_eq!(expire(&mut front, 99, 11, 9), (vec![], 0), "nothing is due, and nothing is looked at");
    assert_eq!(expire(&mut front, 100, 11, 9), (vec!["4".to_owned()], 6));
    assert_eq!((front.messages(), front.end()), (5, seq(17)), "places stay dense");
    let gone = "message 4".len() as u64;
    assert_eq!((front.bytes(), front.record_bytes(24)), (bytes - gone, record_bytes - gone - 24));
    assert_eq!(expire(&mut front, 199, 11, 9), (vec![], 0), "it is told once");
    assert_eq!(read(&mut front, 13, 9, 50), Some((17, vec![13, 15, 16], 0)), "it does not come back");
    let left = front.delivered(seq(17), |_| {});
    assert_eq!((left.messages, left.told, left.expired), (6, 1, 0));
    front.invariants();
}

#[test]
fn a_look_for_what_has_expired_is_bounded_and_goes_on() {
    let mut front = front();
    for number in 4..=9 {
        front.push(held(number, Some(100)), seq(11));
    }
    let mut told = Vec::new();
    for _ in 0..5 {
        let (more, looked) = expire(&mut front, 100, 11, 2);
        assert!(looked <= 2);
        told.extend(more);
        // What comes meanwhile is seen, too; the first two are delivered.
        if told.len() == 1 {
            front.push(held(10, Some(50)), seq(11));
            front.delivered(seq(13), |_| {});
        }
    }
    assert_eq!(told, ["4", "5", "6", "7", "8", "9", "10"]);
    assert_eq!((front.messages(), front.told_to(), front.first()), (1, seq(13), seq(13)));
    front.delivered(seq(14), |_| {});
    assert_eq!((front.messages(), front.told_to(), front.end()), (0, seq(21), seq(21)));
}

/// What an uplink with a link has read may arrive; only what it passed over will not.
#[test]
fn what_is_on_its_way_is_not_taken() {
    let mut front = Front::new(seq(1), 500);
    (1..=3).for_each(|number| {
        assert_eq!(front.admits(&progress(1, 1, 1)), Ok(()));
        front.push(held(number, Some(100 * number)), seq(1));
    });
    assert_eq!(read(&mut front, 1, 9, 100), Some((4, vec![2, 3], 1)));
    assert_eq!(expire(&mut front, 200, 4, 9).0, ["1"]);
    assert_eq!(expire(&mut front, 200, 1, 9).0, ["2"], "the link is down");
    assert_eq!(front.told_to(), seq(3));
}

/// A front that is written has a place for everything, also for what has no content any more; and that never comes back.
#[test]
fn what_has_expired_is_written_without_content() {
    let mut front = front();
    front.push(held(4, Some(100)), seq(11));
    front.push(held(5, None), seq(11));
    expire(&mut front, 100, 11, 9);
    front.close();
    let mut staged = Vec::new();
    while let Some((seq, held)) = front.to_stage() {
        staged.push((seq.get(), held.bytes.len(), held.expires));
        front.staged();
    }
    assert_eq!(staged[3], (14, 0, Some(Timestamp(0))));
    assert_eq!(expire(&mut front, 900, 11, 9), (vec![], 0), "what is in a group stays as it is");
    let mut left = Vec::new();
    front.written(seq(16), |_, _, ended| left.push(ended));
    assert_eq!(left, [Ended::No, Ended::No, Ended::No, Ended::Told, Ended::No]);
    front.invariants();
}

#[test]
fn it_is_written_when_it_is_late_or_the_link_is_down() {
    let mut front = front();
    assert_eq!(front.due_at(), Some(Instant(501_000)));
    assert_eq!(front.is_due(true, Instant(500_999)), None);
    assert_eq!(front.is_due(true, Instant(501_000)), Some(Why::Late));
    assert_eq!(front.is_due(false, Instant(0)), Some(Why::LinkDown));
    front.close();
    assert_eq!((front.is_due(false, Instant(u64::MAX)), front.due_at()), (None, None), "it is on its way");
    front.delivered(seq(14), |_| {});
    assert_eq!(front.is_due(false, Instant(u64::MAX)), None, "nothing is here");
}

#[test]
fn what_is_written_leaves_after_the_log_has_it_and_comes_again_if_it_has_not() {
    let mut front = front();
    assert!(front.to_stage().is_none(), "an open front stays");
    front.close();
    let stage = |front: &mut Front| {
        let mut staged = Vec::new();
        while let Some((seq, _)) = front.to_stage() {
            staged.push(seq.get());
            front.staged();
        }
        staged
    };
    assert_eq!(stage(&mut front), [11, 12, 13]);
    assert_eq!(read(&mut front, 11, 9, 0), Some((14, vec![11, 12, 13], 0)), "never not");
    front.start_over();
    front.delivered(seq(12), |_| {});
    assert_eq!(stage(&mut front), [12, 13]);
    let mut left = Vec::new();
    front.written(seq(14), |seq, held, ended| left.push((seq.get(), held.owner.1.0, ended)));
    assert_eq!(left, [(12, 2, Ended::No), (13, 3, Ended::No)]);
    assert!(front.is_empty() && front.is_closed());
    front.invariants();
}

/// A backlog in the log would only make the front wait behind it; what is on its way does not count as one.
#[test]
fn a_closed_front_opens_once_the_uplink_has_caught_up() {
    let mut front = front();
    front.close();
    while front.to_stage().is_some() {
        front.staged();
    }
    front.written(seq(14), |_, _, _| {});
    assert_eq!(front.admits(&progress(13, 14, 14)), Err(Why::Backlog), "not delivered");
    // Meanwhile more was written, in two groups.
    front.written(seq(20), |_, _, _| {});
    front.written(seq(25), |_, _, _| {});
    assert_eq!(front.admits(&progress(14, 19, 25)), Err(Why::Backlog), "delivered, and not read");
    assert_eq!(front.admits(&Progress { link_up: false, ..progress(14, 20, 25) }), Err(Why::LinkDown));
    assert_eq!(front.admits(&progress(14, 20, 25)), Err(Why::Backlog), "who closed it last, decides");
    let until = 25;
    assert_eq!(front.admits(&Progress { writing: true, ..progress(until, 25, 25) }), Err(Why::Order));
    assert_eq!(front.admits(&progress(until, 25, 25)), Ok(()));
    assert_eq!(front.push(held(9, None), seq(25)), seq(25));
    front.invariants();
}

#[test]
fn what_passes_it_by_closes_it_until_that_is_delivered() {
    let mut front = Front::new(seq(1), 500);
    assert_eq!(front.admits(&progress(1, 1, 1)), Ok(()));
    front.passed_by(seq(1));
    front.written(seq(2), |_, _, _| {});
    assert_eq!(front.admits(&progress(1, 2, 2)), Err(Why::Backlog));
    assert_eq!(front.admits(&progress(2, 2, 2)), Ok(()));
}

fn for_nobody(number: u64) -> Held {
    Held::new(
        Arc::from(&b"x"[..]),
        (Timestamp(0), None),
        Instant(number * 1_000),
        (OWNER, SpillTicket::NOBODY),
    )
}

/// `memory`: neither a link that is down, nor a backlog, nor age is a reason to write.
#[test]
fn what_nobody_waits_for_is_written_for_room_order_and_the_end_alone() {
    let mut front = Front::new(seq(11), 500);
    let down = Progress { link_up: false, ..progress(3, 3, 11) };
    for number in 1..=3 {
        assert_eq!(front.admits_for_nobody(&down), Ok(()));
        assert_eq!(front.push(for_nobody(number), seq(11)), seq(10 + number));
    }
    assert_eq!((front.is_due(false, Instant(u64::MAX)), front.due_at()), (None, None));
    assert_eq!(front.admits_for_nobody(&Progress { writing: true, ..down }), Err(Why::Order));
    // A record that somebody waits for makes the front due, with all that stands before it.
    assert_eq!(front.admits(&progress(11, 11, 11)), Ok(()));
    front.push(held(9, None), seq(11));
    front.invariants();
    assert_eq!(front.is_due(false, Instant(9_000)), Some(Why::LinkDown));
    assert_eq!(front.due_at(), Some(Instant(509_000)));
    assert_eq!(front.is_due(true, Instant(509_000)), Some(Why::Late));
    let mut done = Vec::new();
    front.delivered(seq(15), |(_, ticket)| done.push(ticket));
    assert_eq!(done[..3], [SpillTicket::NOBODY; 3]);
    assert_eq!((front.due_at(), front.bytes()), (None, 0));
    front.push(for_nobody(10), seq(11));
    front.close();
    assert_eq!(front.admits_for_nobody(&down), Err(Why::Backlog), "what stands here goes first");
    assert!(front.to_stage().is_some());
    front.staged();
    front.written(seq(16), |_, _, _| {});
    assert_eq!(front.admits_for_nobody(&down), Ok(()));
    front.invariants();
}
