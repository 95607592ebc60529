//! The index agrees with the plain rule, whatever is added and removed.

use proptest::prelude::*;

use super::*;

fn entry(session: u32) -> Entry {
    Entry {
        session: SessionKey(session),
        qos: Qos::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        subscription_id: 0,
        stored: false,
    }
}

fn presence(any: bool, kept: bool) -> Presence {
    Presence { any, kept, members: Members::default() }
}

fn sessions_for(index: &Subscriptions, topic: &str) -> Vec<u32> {
    let mut found = Found::default();
    index.find(topic, &mut found);
    let mut sessions: Vec<u32> = found.entries.iter().map(|entry| entry.session.0).collect();
    sessions.sort_unstable();
    sessions
}

#[test]
fn a_second_subscription_to_the_same_filter_replaces_the_first() {
    let mut index = Subscriptions::new(1);
    index.insert("a/+", entry(1), true);
    index.insert("a/+", Entry { qos: Qos::AtMostOnce, ..entry(1) }, true);
    assert_eq!(index.entries("a/+"), &[Entry { qos: Qos::AtMostOnce, ..entry(1) }]);
}

#[test]
fn remote_shards_are_found_and_forgotten() {
    let mut index = Subscriptions::new(1);
    let mut found = Found::default();
    index.set_remote("a/#", ShardId(2), presence(true, true));
    index.set_remote("a/b", ShardId(3), presence(true, false));
    index.find("a/b", &mut found);
    assert_eq!(found.remote, Shards { any: 0b1100, kept: 0b0100 });
    index.set_remote("a/#", ShardId(2), presence(true, false));
    index.find("a/b", &mut found);
    assert_eq!(found.remote, Shards { any: 0b1100, kept: 0 });
    index.set_remote("a/#", ShardId(2), presence(false, false));
    index.find("a/b", &mut found);
    assert_eq!(found.remote, Shards { any: 0b1000, kept: 0 });
}

/// The sessions that got the next publications of a group, with two shards drawing.
fn turns(index: &mut Subscriptions, name: &str, count: usize) -> Vec<u16> {
    let key = index.shares.find(name).unwrap();
    (0..count).map(|_| index.shares.group_mut(key).draw(ShardId(0), true).unwrap().0).collect()
}

#[test]
fn shards_are_drawn_by_their_members() {
    let mut index = Subscriptions::new(1);
    let (name, live) =
        ("$share/g/a/+", |live| Presence { any: true, kept: false, members: Members { live, away: 0 } });
    index.insert(name, entry(1), true);
    index.set_remote(name, ShardId(2), live(2));
    index.set_remote(name, ShardId(1), live(1));
    assert_eq!(turns(&mut index, name, 8), [2, 0, 1, 2, 2, 0, 1, 2], "2 of 4, 1 of 4, 1 of 4, and evenly");
    let mut found = Found::default();
    index.find("a/b", &mut found);
    assert_eq!((found.shares.len(), found.entries.len(), found.remote), (1, 0, Shards::default()));
    index.remove(name, SessionKey(1));
    assert!(!turns(&mut index, name, 6).contains(&0));
    for shard in [1, 2] {
        index.set_remote(name, ShardId(shard), live(0));
    }
    index.find("a/b", &mut found);
    assert!(
        found.shares.is_empty() && index.shares.is_empty() && index.trie.is_empty(),
        "nothing is left behind"
    );
}

#[test]
fn members_that_are_away_are_drawn_only_if_nobody_is_there() {
    let mut index = Subscriptions::new(1);
    let name = "$share/g/a";
    let members = |live, away| Presence { any: true, kept: true, members: Members { live, away } };
    index.insert(name, entry(1), false);
    index.set_remote(name, ShardId(1), members(1, 0));
    assert_eq!(turns(&mut index, name, 3), [1, 1, 1]);
    index.set_remote(name, ShardId(1), members(0, 1));
    assert_eq!(turns(&mut index, name, 4), [0, 1, 0, 1]);
    let key = index.shares.find(name).unwrap();
    assert_eq!(index.shares.group_mut(key).draw(ShardId(0), false), None, "QoS 0 does not wait for anybody");
    index.shares.invariants();
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just(String::new()), Just("$s".to_owned())]
}

fn any_filter() -> impl Strategy<Value = String> {
    let wild = prop_oneof![level(), Just("+".to_owned())];
    (proptest::collection::vec(wild, 1..5), any::<bool>()).prop_map(|(mut levels, hash)| {
        if hash {
            levels.push("#".to_owned());
        }
        levels.join("/")
    })
}

proptest! {
    #[test]
    fn the_index_agrees_with_a_naive_scan(
        changes in proptest::collection::vec((any_filter(), 0u32..4, any::<bool>()), 0..40),
        topics in proptest::collection::vec(proptest::collection::vec(level(), 1..5), 1..20),
    ) {
        let mut index = Subscriptions::new(7);
        let mut plain: Vec<(String, u32)> = Vec::new();
        for (filter, session, add) in changes.into_iter().filter(|(filter, ..)| !filter.is_empty()) {
            let known = plain.iter().position(|have| *have == (filter.clone(), session));
            if add {
                index.insert(&filter, entry(session), true);
                if known.is_none() {
                    plain.push((filter, session));
                }
            } else {
                prop_assert_eq!(index.remove(&filter, SessionKey(session)), known.is_some());
                if let Some(at) = known {
                    plain.remove(at);
                }
            }
        }
        for topic in topics {
            let topic = topic.join("/");
            let mut expected: Vec<u32> = plain
                .iter()
                .filter(|(filter, _)| model::filter_matches(filter, &topic))
                .map(|(_, session)| *session)
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(sessions_for(&index, &topic), expected, "topic {}", topic);
        }
        for (filter, session) in plain {
            index.remove(&filter, SessionKey(session));
        }
        prop_assert!(index.exact.is_empty() && index.trie.is_empty() && index.shares.is_empty(), "nothing is left behind");
    }
}
