//! Identifiers come and go; nothing is counted twice.

use std::collections::BTreeSet;

use model::Ticket;
use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn it_is_a_set(steps in proptest::collection::vec((any::<bool>(), 1u16..200), 0..200)) {
        let (mut exchanges, mut set) = (Exchanges::default(), BTreeSet::new());
        for (insert, id) in steps {
            let id = NonZeroU16::new(id).unwrap();
            if insert {
                prop_assert_eq!(exchanges.insert(id), set.insert(id));
            } else {
                prop_assert_eq!(exchanges.remove(id), set.remove(&id));
            }
            prop_assert_eq!(exchanges.contains(id), set.contains(&id));
            exchanges.invariants();
        }
        prop_assert!(exchanges.iter().eq(set.iter().copied()));
        prop_assert_eq!(exchanges.on_this_connection(), set.len());
    }
}

#[test]
fn what_came_on_an_earlier_connection_does_not_count_against_this_one() {
    let id = |number| NonZeroU16::new(number).unwrap();
    let mut exchanges = Exchanges::default();
    exchanges.insert(id(1));
    exchanges.insert(id(65_535));
    exchanges.carry();
    assert_eq!(exchanges.on_this_connection(), 0);
    exchanges.insert(id(2));
    assert_eq!(exchanges.on_this_connection(), 1);
}

#[test]
fn promises_that_are_kept_are_forgotten_when_there_are_many() {
    let mut exchanges = Exchanges::default();
    for number in 1..=1_000 {
        let packet_id = NonZeroU16::new(number).unwrap();
        exchanges.insert(packet_id);
        let promise = Promise { ticket: Ticket(u64::from(number)), ..Promise::default() };
        exchanges.wait(packet_id, promise, |earlier| earlier.ticket < Ticket(990));
    }
    assert!(exchanges.promises.len() <= PROMISES_FEW, "{}", exchanges.promises.len());
    let last = NonZeroU16::new(1_000).unwrap();
    assert_eq!(exchanges.promise(last).ticket, Ticket(1_000));
}
