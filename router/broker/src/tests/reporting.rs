//! What the router publishes of its loss ledger, and when it counts as published.

use model::Qos;
use wire::Version;

use crate::StateSpace;
use crate::testbench::Bench;

/// What the store has as the number of the first entry that is not published.
fn noted(bench: &Bench) -> Option<u64> {
    let value = bench.disk.state.get(&(StateSpace::LossesPublished, Vec::new()))?;
    Some(u64::from_le_bytes(value.as_slice().try_into().expect("a number")))
}

/// A bench with a subscriber in this shard, whose session is stored.
fn bench(home: usize) -> (Bench, usize) {
    let mut bench = Bench::new(2);
    let subscriber = bench.client("s", Version::V5, home);
    bench.resume(subscriber);
    bench.subscribe(subscriber, "site/losses", Qos::AtLeastOnce);
    (bench, subscriber)
}

#[test]
fn a_part_and_the_note_that_it_is_published_are_durable_together() {
    let (mut bench, subscriber) = bench(0);
    assert!(bench.publish_losses("site/losses", "part", 5));
    assert_eq!(noted(&bench), None);
    while bench.disk_step() {}
    assert_eq!(noted(&bench), Some(5));
    bench.settle();
    assert_eq!(bench.texts(subscriber), ["part"]);
}

/// A crash in between would lose the part for the session of the other shard.
#[test]
fn a_part_counts_as_published_once_other_shards_have_kept_it() {
    let (mut bench, subscriber) = bench(1);
    assert!(bench.publish_losses("site/losses", "part", 5));
    while bench.disk_step() {}
    assert_eq!(noted(&bench), None, "the other shard has not even heard of it");
    bench.settle();
    assert_eq!((noted(&bench), bench.texts(subscriber)), (Some(5), vec!["part".to_owned()]));
    // An older part, which was sent twice, does not put it back.
    assert!(bench.publish_losses("site/losses", "again", 4));
    bench.settle();
    assert_eq!(noted(&bench), Some(5));
}
