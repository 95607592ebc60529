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
fn what_is_of_another_shape_stays_as_it_is() {
    let mut form = Form::default();
    for topic in ["a", "a/b", "a/=x", "a/x=%FF"] {
        assert!(!InTopic.unpack(&publish(topic, b""), &mut form), "{topic}");
    }
    for payload in ["", "7", "{}", r#"{"properties":[],"payload":7}"#, r#"{"properties":[[1]],"payload":""}"#]
    {
        assert!(!InPayload.unpack(&publish("a", payload.as_bytes()), &mut form), "{payload}");
    }
}
