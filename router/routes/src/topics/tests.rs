//! Sources and what they match.

use proptest::prelude::*;

use super::*;

fn matches(source: &Source, topic: &str, path: &str) -> bool {
    let (mut topics, mut groups) = (Topics::default(), Vec::new());
    let group = topics.add(source);
    topics.find(topic, path, &mut String::new(), &mut groups);
    assert!(groups.iter().all(|found| *found == group) && groups.len() <= 1);
    !groups.is_empty()
}

/// The table of `reference/edgehub.md` §3.1: device message, output of a module, twin change.
#[test]
fn edgehub_sources_match_as_in_its_table() {
    let rows: [(&[&str], [bool; 3]); 6] = [
        (&["/", "/*", "/**"], [true, true, true]),
        (&["/messages", "/messages/", "/messages/*", "/MESSAGES/*"], [true, true, false]),
        (&["/messages/modules", "/messages/modules/*"], [false, true, false]),
        (
            &[
                "/messages/modules/ModId1",
                "/messages/modules/modid1/*",
                "/messages/modules/ModId1/outputs/*",
                "/messages/modules/ModId1/outputs/Op1",
            ],
            [false, true, false],
        ),
        (&["/twinChangeNotifications", "/twinChangeNotifications/*"], [false, false, true]),
        (
            &[
                "/messages/modules/ModId2",
                "/messages/modules/ModId1/outputs/Op2",
                "/messages/events",
                "/modulemessages",
                "/*/messages/*",
                "/message",
                "/foo/*",
            ],
            [false, false, false],
        ),
    ];
    let paths = ["/messages/", "/messages/modules/ModId1/outputs/Op1/", "/twinChangeNotifications/"];
    for (sources, expected) in rows {
        for source in sources {
            let found = paths.map(|path| matches(&Source::Path((*source).to_owned()), "t", path));
            assert_eq!(found, expected, "{source}");
        }
    }
}

#[test]
fn sources_that_mean_the_same_are_one_group() {
    let mut topics = Topics::default();
    let first = topics.add(&Source::Path("/messages/*".into()));
    assert_eq!(topics.add(&Source::Path("/Messages".into())), first);
    let filter = topics.add(&Source::Filter("a/+/#".into()));
    assert_eq!(topics.add(&Source::Filter("a/+/#".into())), filter);
    assert_eq!(topics.groups(), 2);
}

proptest! {
    #[test]
    fn filters_match_like_the_plain_rule(
        filters in prop::collection::vec("(\\+|[ab$]|)(/(\\+|[ab]|)){0,3}(/#)?|#", 1..8),
        topic in "[ab$]?(/[ab$]?){0,4}",
    ) {
        let mut topics = Topics::default();
        let valid: Vec<String> = filters.into_iter().filter(|f| model::validate_filter(f).is_ok()).collect();
        let ids: Vec<u32> = valid.iter().map(|f| topics.add(&Source::Filter(f.clone()))).collect();
        let mut groups = Vec::new();
        topics.find(&topic, "/messages/", &mut String::new(), &mut groups);
        for (filter, id) in valid.iter().zip(&ids) {
            prop_assert_eq!(groups.contains(id), model::filter_matches(filter, &topic), "{} {}", filter, topic);
        }
        let before = groups.len();
        groups.dedup();
        prop_assert_eq!(groups.len(), before);
    }
}
