//! Properties in 3.1.1: there and back.

use broker::Envelope;
use model::{LaneId, Qos, Seq};

use super::*;

fn publish<'a>(topic: &'a str, payload: &'a [u8]) -> Publish<'a> {
    Publish {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        packet_id: None,
        topic,
        properties: PublishProperties::NONE,
        payload,
    }
}

#[track_caller]
fn there_and_back(packing: &dyn Packing, payload: &[u8]) -> (String, Vec<u8>) {
    let mut block = BlockBuilder::new();
    block.payload_is_utf8(true);
    block.content_type("text/plain; a=b").expect("short");
    block.response_topic("answers/é").and_then(|it| it.correlation(&[0, 255])).expect("short");
    block.user("Ort & Zeit", "Halle 7/=").and_then(|it| it.user("leer", "")).expect("short");
    // Twice, in between others, without a name, and as if it were a known one.
    block
        .user("leer", "nicht")
        .and_then(|it| it.user("", "x"))
        .and_then(|it| it.user("leer", ""))
        .expect("short");
    block.user("$.ct", "no type").and_then(|it| it.user("$..ct", "%2F")).expect("short");
    let (topic, qos) = ("site/a", Qos::AtLeastOnce);
    let envelope = Envelope {
        topic,
        client_id: "c",
        user: "",
        qos,
        retain: false,
        properties: block.as_bytes(),
        payload,
    };
    let message = Outgoing { envelope: &envelope, lane: LaneId(1), seq: Seq::FIRST, expires: None };
    let mut form = Form { topic: topic.to_owned(), ..Form::default() };
    packing.pack(&message, Some(("id", "gw/1/2/3")), &mut form).expect("fits");
    block.user("id", "gw/1/2/3").expect("short");
    let (there, sent) = (form.topic.clone(), form.payload.clone().unwrap_or(payload.to_vec()));
    let mut back = Form::default();
    assert!(packing.unpack(&publish(&there, &sent), &mut back), "{there} {}", sent.escape_ascii());
    assert_eq!((&*back.topic, back.payload.as_deref().unwrap_or(payload)), (topic, payload));
    assert_eq!(back.properties, block);
    (there, sent)
}

#[test]
fn a_topic_carries_properties_there_and_back() {
    let (topic, _) = there_and_back(&InTopic, b"\xFFx");
    assert!(
        topic.starts_with("site/a/%24.utf8=1&%24.ct=text%2Fplain%3B%20a%3Db&%24.rt=answers%2F%C3%A9&"),
        "{topic}"
    );
}

#[test]
fn an_envelope_carries_properties_there_and_back() {
    let (topic, payload) = there_and_back(&InPayload, b"21.5");
    assert_eq!(topic, "site/a");
    let text = String::from_utf8(payload).expect("JSON");
    assert!(text.contains(r#""payload":"21.5""#) && text.contains(r#"["id","gw/1/2/3"]"#), "{text}");
    there_and_back(&InPayload, b"\xFFx");
}

#[test]
fn any_number_of_properties_goes_there_and_back() {
    for packing in [&InTopic as &dyn Packing, &InPayload] {
        let mut block = BlockBuilder::new();
        for number in 0..1_000 {
            block.user("n", &number.to_string()).expect("short");
        }
        let (form, back) = round("a", block.as_bytes(), packing);
        assert_eq!((&*back.topic, &back.properties), ("a", &block), "{}", form.topic.len());
    }
}

/// Without a property and without an id, a topic stays what it is, whatever it looks like.
#[test]
fn a_topic_that_looks_like_properties_is_no_properties() {
    for topic in ["a/x=1", "a/&", "a/x=1/&", "a/=", "a/b", "x=1", "a/x=%FF"] {
        let (form, back) = round(topic, b"", &InTopic);
        let came = if back.topic.is_empty() { &form.topic } else { &back.topic };
        assert_eq!((&**came, back.properties.as_bytes()), (topic, &b""[..]), "{}", form.topic);
    }
}

/// Packed without an id, and unpacked if it is of that shape.
fn round(topic: &str, properties: &[u8], packing: &dyn Packing) -> (Form, Form) {
    let qos = Qos::AtLeastOnce;
    let envelope =
        Envelope { topic, client_id: "c", user: "", qos, retain: false, properties, payload: b"x" };
    let message = Outgoing { envelope: &envelope, lane: LaneId(1), seq: Seq::FIRST, expires: None };
    let mut form = Form { topic: topic.to_owned(), ..Form::default() };
    packing.pack(&message, None, &mut form).expect("fits");
    let mut back = Form::default();
    packing.unpack(&publish(&form.topic, form.payload.as_deref().unwrap_or(b"x")), &mut back);
    (form, back)
}

#[test]
fn what_is_of_another_shape_stays_as_it_is() {
    let mut form = Form::default();
    for topic in ["a", "a/b", "a/x=%FF", "a/x=y=z"] {
        assert!(!InTopic.unpack(&publish(topic, b""), &mut form), "{topic}");
    }
    for payload in ["", "7", "{}", r#"{"properties":[],"payload":7}"#, r#"{"properties":[[1]],"payload":""}"#]
    {
        assert!(!InPayload.unpack(&publish("a", payload.as_bytes()), &mut form), "{payload}");
    }
}
