//! Which alias goes out for which topic.

use super::*;

fn alias(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

/// Sends a topic, as `delivery` does; what was written.
fn send(aliases: &mut OutboundAliases, topic: &str) -> Spelling {
    let spelling = aliases.spell(topic);
    if let Spelling::Introduce(alias) = spelling {
        aliases.set(alias, topic);
    }
    spelling
}

#[test]
fn a_topic_that_comes_back_is_sent_by_its_alias() {
    let mut aliases = OutboundAliases::new(2).unwrap();
    assert_eq!(send(&mut aliases, "plant/line/1"), Spelling::Introduce(alias(1)));
    assert_eq!(send(&mut aliases, "plant/line/1"), Spelling::Alias(alias(1)));
    assert_eq!(send(&mut aliases, "short"), Spelling::Plain);
}

/// [MQTT-3.3.2-11]
#[test]
fn no_alias_is_above_the_maximum_and_what_comes_back_stays() {
    let mut aliases = OutboundAliases::new(3).unwrap();
    send(&mut aliases, "plant/busy/1");
    for number in 0..100 {
        assert!(matches!(send(&mut aliases, "plant/busy/1"), Spelling::Alias(have) if have == alias(1)));
        match send(&mut aliases, &format!("plant/once/{number}")) {
            Spelling::Introduce(have) => assert!(have.get() > 1 && have.get() <= 3),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_introduction_that_was_not_sent_leaves_nothing_behind() {
    let mut aliases = OutboundAliases::new(1).unwrap();
    assert_eq!(aliases.spell("plant/line/1"), Spelling::Introduce(alias(1)));
    assert_eq!(aliases.spell("plant/line/1"), Spelling::Introduce(alias(1)));
    aliases.set(alias(1), "plant/line/1");
    assert_eq!(aliases.spell("plant/line/2"), Spelling::Introduce(alias(1)));
    assert_eq!(aliases.spell("plant/line/1"), Spelling::Alias(alias(1)));
}

#[test]
fn a_client_that_takes_no_alias_costs_nothing() {
    assert!(OutboundAliases::new(0).is_none());
}

/// [MQTT-3.3.2-12]
#[test]
fn inbound_aliases_come_in_any_order_and_may_change() {
    let mut aliases = InboundAliases::default();
    aliases.set(alias(7), "a");
    aliases.set(alias(2), "b");
    assert_eq!((aliases.topic(alias(7)), aliases.topic(alias(2))), (Some("a"), Some("b")));
    assert_eq!((aliases.topic(alias(1)), aliases.topic(alias(8))), (None, None));
    aliases.set(alias(7), "c");
    assert_eq!(aliases.topic(alias(7)), Some("c"));
}
