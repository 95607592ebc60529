//! Rules of MQTT 5.0 §4.7, by example.

use super::*;

#[test]
fn filters_match_as_the_standard_says() {
    let cases = [
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/#", "sport", true),
        ("#", "a/b/c", true),
        ("+", "finance", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("a//b", "a//b", true),
        ("a/+/b", "a//b", true),
        ("#", "$SYS/x", false),
        ("+/monitor", "$SYS/monitor", false),
        ("$SYS/#", "$SYS/x", true),
        ("a", "a/b", false),
        ("A", "a", false),
    ];
    for (filter, name, expected) in cases {
        assert_eq!(filter_matches(filter, name), expected, "filter {filter}, name {name}");
    }
}

/// [MQTT-4.7.3-3] [MQTT3-4.7.3-3]
#[test]
fn names_refuse_wildcards_null_and_emptiness() {
    assert_eq!(validate_name("a/+"), Err(InvalidTopic::WildcardInName));
    assert_eq!(validate_name("#"), Err(InvalidTopic::WildcardInName));
    assert_eq!(validate_name(""), Err(InvalidTopic::Empty));
    assert_eq!(validate_name("a\0b"), Err(InvalidTopic::Null));
    assert_eq!(validate_name(&"x".repeat(65_536)), Err(InvalidTopic::TooLong));
    assert_eq!(validate_name("/"), Ok(()));
}

#[test]
fn filters_refuse_misplaced_wildcards() {
    for filter in ["a/#/b", "a#", "#a", "a/b#"] {
        assert_eq!(validate_filter(filter), Err(InvalidTopic::MisplacedHash), "{filter}");
    }
    for filter in ["a+", "+a/b", "a/b+/c"] {
        assert_eq!(validate_filter(filter), Err(InvalidTopic::MisplacedPlus), "{filter}");
    }
    for filter in ["#", "+", "+/+/#", "/", "a//+"] {
        assert_eq!(validate_filter(filter), Ok(()), "{filter}");
    }
}

#[test]
fn a_share_name_is_split_off() {
    let filter = TopicFilter::new("$share/g/a/#").expect("valid");
    assert_eq!((filter.share(), filter.as_str()), (Some("g"), "a/#"));
    for text in ["$share/g", "$share//a", "$share/g+/a", "$share/g/"] {
        assert_eq!(TopicFilter::new(text), Err(InvalidTopic::ShareName), "{text}");
    }
}
