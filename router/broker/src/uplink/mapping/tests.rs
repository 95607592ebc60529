//! What messages look like at an MQTT broker.

use model::{LaneId, Seq};

use super::*;
use crate::envelope::Envelope;

fn mapping() -> Mapping {
    let entry = |filter: &str, template: &str, qos, retain| Entry {
        filter: filter.into(),
        template: Template::parse(template).expect("a template"),
        qos,
        retain,
    };
    Mapping {
        version: Version::V5,
        prefix: "plant/".into(),
        entries: vec![
            entry("a/+/alarm", "alarms/{topic[1]}", Some(Wish::Be(Qos::AtLeastOnce)), Some(true)),
            entry("a/#", "data/{property:line}", Some(Wish::Be(Qos::AtMostOnce)), None),
        ],
        qos: Wish::AsPublished,
        keeps_retain: true,
        gateway: "gw1".into(),
        origin: Origin::new("gw1", 0xBEEF),
        id_property: Some("millrace-id".into()),
        packing: None,
    }
}

fn envelope<'a>(topic: &'a str, properties: &'a [u8]) -> Envelope<'a> {
    Envelope {
        topic,
        client_id: "c",
        user: "",
        qos: Qos::ExactlyOnce,
        retain: false,
        properties,
        payload: b"x",
    }
}

fn write(mapping: &Mapping, envelope: &Envelope<'_>) -> Result<Form, Refusal> {
    let mut form = Form::default();
    form.clear();
    let seq = Seq::new(12).expect("not 0");
    mapping.write(&Outgoing { envelope, lane: LaneId(7), seq, expires: None }, &mut form).map(|()| form)
}

fn users(form: &Form) -> Vec<(String, String)> {
    let block = wire::PublishProperties::from_block(form.properties.as_bytes()).expect("a block");
    block.user_properties().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_first_entry_that_matches_decides_and_the_prefix_comes_first() {
    let form = write(&mapping(), &envelope("a/press7/alarm", b"")).expect("fits");
    assert_eq!((&*form.topic, form.qos, form.retain), ("plant/alarms/press7", Qos::AtLeastOnce, true));
    let form = write(&mapping(), &envelope("b/c", b"")).expect("fits");
    assert_eq!((&*form.topic, form.qos, form.retain), ("plant/b/c", Qos::ExactlyOnce, false));
}

#[test]
fn properties_keep_their_order_and_the_id_is_the_last() {
    let mut block = wire::BlockBuilder::new();
    block.user("line", "3").and_then(|it| it.user("millrace-id", "gw0/00000001/1/1")).expect("short");
    let form = write(&mapping(), &envelope("a/x", block.as_bytes())).expect("fits");
    assert_eq!((&*form.topic, form.qos), ("plant/data/3", Qos::AtMostOnce));
    let expected = [("line", "3"), ("millrace-id", "gw0/00000001/1/1"), ("millrace-id", "gw1/0000beef/7/12")];
    assert_eq!(users(&form), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn a_hole_that_cannot_be_filled_is_told_with_its_entry() {
    let missing = Refusal::MissingField { entry: 2, hole: crate::uplink::Hole::Property };
    assert_eq!(write(&mapping(), &envelope("a/x", b"")).err(), Some(missing));
}

#[test]
fn what_makes_no_topic_is_told() {
    let mut block = wire::BlockBuilder::new();
    block.user("line", "3/#").expect("short");
    let unfit = Refusal::Unfit(Unfit::Topic);
    assert_eq!(write(&mapping(), &envelope("a/x", block.as_bytes())).err(), Some(unfit));
}

#[test]
fn without_a_packing_3_1_1_is_poorer_by_the_properties_and_that_is_told() {
    let mut block = wire::BlockBuilder::new();
    block.user("line", "3").expect("short");
    let mapping = Mapping { version: Version::V3, ..mapping() };
    assert!(write(&mapping, &envelope("b", block.as_bytes())).expect("fits").is_poorer);
    assert!(!write(&mapping, &envelope("b", b"")).expect("fits").is_poorer);
}

#[test]
fn an_id_is_ours_only_in_this_life_of_the_store() {
    let (ours, other) = (Origin::new("gw1", 1), Origin::new("gw1", 2));
    let mut id = String::new();
    ours.write_id(LaneId(3), Seq::FIRST, &mut id);
    assert_eq!(id, "gw1/00000001/3/1");
    assert!(ours.is_mine(&id) && !other.is_mine(&id));
}

#[test]
fn an_id_names_the_life_that_gave_the_place() {
    let place = |number| Seq::new(number).expect("not 0");
    let id = |origin: &Origin, lane: u32, number: u64| {
        let mut id = String::new();
        origin.write_id(LaneId(lane), place(number), &mut id);
        id
    };
    let mut ours = Origin::new("gw1", 1);
    ours.add_lives(LaneId(3), &[(place(5), 0xA), (place(9), 0xB)]);
    for (lane, number, expected) in [
        (3, 4, "gw1/00000001/3/4"),
        (3, 5, "gw1/00000001-0000000a/3/5"),
        (3, 8, "gw1/00000001-0000000a/3/8"),
        (3, 9, "gw1/00000001-0000000b/3/9"),
        (4, 9, "gw1/00000001/4/9"),
    ] {
        assert_eq!(id(&ours, lane, number), expected);
        assert!(ours.is_mine(expected));
    }
    assert!(ours.is_mine("gw1/00000001-0000dead/3/1"), "of a life that is forgotten");
    assert!(!ours.is_mine("gw1/000000010/3/1") && !ours.is_mine("gw1/00000002-0000000a/3/5"));
}
