//! When a place answers, and when it must not.

use super::*;

fn known(memo: &mut Memo, table: &Identity, topic: &str, source: &str) -> bool {
    let message = Message { source, ..Message::new(topic, b"") };
    let (place, known) = memo.place(table, &message);
    let concerned = memo.concerned(place);
    if !known {
        concerned.groups = vec![topic.len() as u32];
    }
    assert_eq!(concerned.groups, [topic.len() as u32]);
    known
}

#[test]
fn the_same_topic_and_source_are_known_again() {
    let (mut memo, table) = (Memo::default(), Identity::default());
    assert!(!known(&mut memo, &table, "site/a", "/messages/"));
    assert!(known(&mut memo, &table, "site/a", "/messages/"));
    assert!(!known(&mut memo, &table, "site/b", "/messages/"));
    assert!(!known(&mut memo, &table, "site/a", "/twinChangeNotifications"));
}

#[test]
fn topics_of_one_place_drive_each_other_out() {
    let (mut memo, table) = (Memo::default(), Identity::default());
    // Only the last eight bytes name a place, so these meet.
    for topic in ["one/12345678", "another/12345678"] {
        assert!(!known(&mut memo, &table, topic, "/messages/"));
        assert!(known(&mut memo, &table, topic, "/messages/"));
    }
    assert!(!known(&mut memo, &table, "one/12345678", "/messages/"));
}

#[test]
fn another_table_knows_nothing() {
    let (mut memo, first) = (Memo::default(), Identity::default());
    assert!(!known(&mut memo, &first, "a", "/messages/"));
    let second = Identity::default();
    assert!(!known(&mut memo, &second, "a", "/messages/"));
    assert!(!known(&mut memo, &first, "a", "/messages/"), "what was forgotten does not come back");
    assert!(known(&mut memo, &first.clone(), "a", "/messages/"));
}

#[test]
fn a_long_topic_is_looked_up_each_time() {
    let (mut memo, table) = (Memo::default(), Identity::default());
    let long = "x".repeat(TOPIC_BYTES_MAX + 1);
    assert!(!known(&mut memo, &table, &long, "/messages/"));
    assert!(!known(&mut memo, &table, &long, "/messages/"));
    assert!(!known(&mut memo, &table, &long[1..], "/messages/"));
    assert!(known(&mut memo, &table, &long[1..], "/messages/"));
}
