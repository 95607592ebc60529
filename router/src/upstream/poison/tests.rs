//! The keeper against a store that fails for a while.

use broker::uplink::Refusal;
use store::{CommitLog as _, Log, Options};

use super::*;
use crate::fronts::FrontBoard;
use crate::upstream::Bell;

/// A log with two messages in a lane; its reader leads a source of its own.
fn open(home: &tempfile::TempDir) -> (Log, LaneId, LaneId) {
    let mut log = Log::open(&Options::new(home.path())).expect("a store");
    let (lane, poison) = (log.lane("u/plant/2").expect("a lane"), log.lane("p/plant").expect("a lane"));
    log.commit().expect("a commit");
    (log, lane, poison)
}

fn source(log: &Log) -> Source {
    let (jobs, _) = crossbeam::channel::bounded(1);
    Source::new(log.reader(), Arc::new(FrontBoard::new(Vec::new(), jobs)))
}

#[tokio::test]
async fn what_a_store_does_not_give_now_is_moved_aside_later_and_not_lost() {
    let home = tempfile::tempdir().expect("a directory");
    let (mut log, lane, poison) = open(&home);
    for text in [b"first", b"other"] {
        log.append(lane, &[text], Timestamp(1), None).expect("a record");
    }
    log.commit().expect("a commit");
    let (jobs, written) = crossbeam::channel::bounded(8);
    let (mailbox, status) = (Arc::new(Mailbox::new(8)), Arc::new(LinkStatus::default()));
    // What is written is durable at once here.
    mailbox.durable(Ticket(100), 0, SpillTicket(0));
    let rooms = Arc::new(Rooms::new([None], 1, 1 << 10, 0));
    let disk = DiskAccess { shard: ShardId(0), jobs, mailbox, source: source(&log), rooms };
    let tray = SharedTray::default();
    let about = PoisonLane {
        uplink: "plant".to_owned(),
        lane: poison,
        messages_max: 10,
        bytes_max: 1 << 20,
        status: Arc::clone(&status),
    };
    let (_commands, orders) = mpsc::channel(1);
    let lanes = vec![(about, Rc::clone(&tray), Arc::new(Bell::default()))];
    let mut keeper = Keeper::new(disk, lanes, orders);
    let aside = |seq: Seq| Aside { lane, seq, attempts: 1, why: Refusal::Unreadable };
    let both = [Seq::FIRST, Seq::FIRST.next()].map(aside);
    tray.borrow_mut().asides.extend(both);
    // Closed, as it is while a store recovers.
    drop(log);
    for met in 1..=3 {
        assert!(!keeper.move_aside(0).await, "not again at once");
        assert_eq!(tray.borrow().asides, both, "they wait, in order");
        assert!(tray.borrow().done.is_empty() && written.is_empty());
        assert_eq!(status.store_faults.load(std::sync::atomic::Ordering::Relaxed), met);
        assert!(keeper.faults.has(Act::Read), "it is tried again without being woken");
    }
    let (log, ..) = open(&home);
    keeper.disk.source = source(&log);
    assert!(!keeper.move_aside(0).await);
    assert!(!keeper.faults.has(Act::Read));
    assert_eq!(tray.borrow().done, both.map(|it| (it.lane, it.seq)));
    let Ok(Job::Append { tray, .. }) = written.try_recv() else { panic!("nothing was written") };
    assert_eq!(tray.writes.len(), 2);
    assert_eq!(status.poisoned.load(std::sync::atomic::Ordering::Relaxed), 2);
}
