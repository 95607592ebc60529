//! What messages look like to IoT Hub.

use model::{LaneId, Qos, Seq, Timestamp};

use super::*;

fn dialect(on_behalf_of: bool) -> HubDialect {
    HubDialect {
        own: HubId::module("gw1", "$edgeHub").expect("an id"),
        children: ["d1".to_owned()].into(),
        on_behalf_of,
        speakers: Speakers::Users(BTreeSet::new()),
        origin: Origin::new("gw1", 1),
        id_property: Some("millrace-id".to_owned()),
    }
}

fn envelope<'a>(topic: &'a str, properties: &'a [u8], payload: &'a [u8]) -> Envelope<'a> {
    Envelope {
        topic,
        client_id: "press7",
        user: "",
        qos: Qos::AtLeastOnce,
        retain: false,
        properties,
        payload,
    }
}

fn topic(envelope: &Envelope<'_>) -> Result<String, Refusal> {
    let mut form = Form::default();
    form.clear();
    let expires = Some(Timestamp(1_800_000_000_123));
    let message = Outgoing { envelope, lane: LaneId(3), seq: Seq::FIRST, expires };
    dialect(true).write(&message, &mut form).map(|()| form.topic)
}

const ID: &str = "millrace-id=gw1%2F00000001%2F3%2F1";
const EXPIRY: &str = "%24.exp=2027-01-15T08%3A00%3A00.123Z";

#[test]
fn telemetry_of_a_device_keeps_its_bag() {
    let of_device = envelope("devices/d1/messages/events/%24.ct=application%2Fjson&level=high/", b"", b"{}");
    let expected = format!("devices/d1/messages/events/%24.ct=application%2Fjson&level=high&{EXPIRY}&{ID}");
    assert_eq!(topic(&of_device), Ok(expected));
    let of_module = envelope("devices/gw1/modules/filter/messages/events/", b"", b"");
    assert_eq!(topic(&of_module), Ok(format!("devices/gw1/modules/filter/messages/events/{EXPIRY}&{ID}")));
}

#[test]
fn everything_of_another_client_goes_along_under_the_gateway() {
    let mut block = wire::BlockBuilder::new();
    block.payload_is_utf8(true);
    block.content_type("text/plain").and_then(|it| it.correlation(b"c1")).expect("short");
    block.response_topic("r/1").and_then(|it| it.user("tenant", "north")).expect("short");
    block.user("millrace-id", "gw0/00000009/1/5").expect("short");
    let mut plain = envelope("site/a b", block.as_bytes(), b"");
    plain.retain = true;
    let topic = topic(&plain).expect("fits");
    assert_eq!(
        topic,
        format!(
            "devices/gw1/modules/$edgeHub/messages/events/millrace-topic=site%2Fa%20b&millrace-client=press7&tenant=north&\
             millrace-id=gw0%2F00000009%2F1%2F5%2Cgw1%2F00000001%2F3%2F1&%24.ct=text%2Fplain&%24.ce=utf-8&\
             millrace-response-topic=r%2F1&%24.cid=c1&mqtt-retain=true&{EXPIRY}"
        )
    );
}

#[test]
fn what_has_no_place_is_refused_with_a_reason() {
    let mut block = wire::BlockBuilder::new();
    block.user("a", "1").and_then(|it| it.user("a", "2")).expect("short");
    let twice = envelope("site/a", block.as_bytes(), b"");
    assert_eq!(topic(&twice), Err(Refusal::Unfit(Unfit::Properties)));
    let payload = vec![0; MESSAGE_BYTES_MAX];
    let large = envelope("site/a", b"", &payload);
    assert_eq!(topic(&large), Err(Refusal::TooLarge { bytes_max: 262_144 }));
    let bad = envelope("devices/d1/messages/events/a=b=c", b"", b"");
    assert_eq!(topic(&bad), Err(Refusal::Unfit(Unfit::Properties)));
}

#[test]
fn a_message_goes_over_the_link_of_its_identity() {
    let own = dialect(false);
    assert_eq!(identity(&own, "", "site/a"), Ok("gw1/$edgeHub".to_owned()));
    assert_eq!(identity(&own, "d1", "devices/d1/messages/events/"), Ok("d1".to_owned()));
    assert_eq!(identity(&own, "d2", "devices/d2/messages/events/"), Err(Refusal::Unfit(Unfit::Identity)));
    let chained = dialect(true);
    assert_eq!(identity(&chained, "d2/m", "devices/d2/modules/m/messages/events/x=y"), Ok("d2/m".to_owned()));
}

fn identity(dialect: &HubDialect, user: &str, topic: &str) -> Result<String, Refusal> {
    let envelope = Envelope { user, client_id: "d1", ..envelope(topic, b"", b"") };
    dialect.identity(&envelope).map(Cow::into_owned)
}

/// Everybody may choose a client identifier and write a topic; only a user is proved.
#[test]
fn nobody_speaks_for_an_identity_but_itself_and_whom_the_configuration_names() {
    let of_d1 = "devices/d1/messages/events/";
    let mut strict = dialect(true);
    assert_eq!(identity(&strict, "d1", of_d1), Ok("d1".to_owned()));
    for (user, topic) in [
        ("", of_d1),
        ("d2", of_d1),
        ("D1", of_d1),
        ("d1/m", of_d1),
        ("d1", "devices/d1/modules/m/messages/events/"),
        ("d2/m", "devices/d1/modules/m/messages/events/"),
        ("d1", "devices/gw1/modules/$edgeHub/messages/events/"),
        ("*", of_d1),
    ] {
        assert_eq!(identity(&strict, user, topic), Err(Refusal::Unfit(Unfit::Sender)), "{user}: {topic}");
    }
    // What says nothing about its sender is the gateway's, and names its client as a property.
    assert_eq!(identity(&strict, "", "site/a"), Ok("gw1/$edgeHub".to_owned()));
    strict.speakers = Speakers::Users(["app".to_owned()].into());
    assert_eq!(identity(&strict, "app", of_d1), Ok("d1".to_owned()));
    assert_eq!(identity(&strict, "", of_d1), Err(Refusal::Unfit(Unfit::Sender)));
    assert_eq!(identity(&strict, "d2", of_d1), Err(Refusal::Unfit(Unfit::Sender)));
    strict.speakers = Speakers::Anyone;
    assert_eq!(identity(&strict, "", of_d1), Ok("d1".to_owned()));
    strict.on_behalf_of = false;
    assert_eq!(identity(&strict, "", "devices/d2/messages/events/"), Err(Refusal::Unfit(Unfit::Identity)));
}

/// Rules for `devices/#` do not hold there.
#[test]
fn a_topic_that_has_a_device_behind_something_else_is_the_gateways() {
    let mut lax = dialect(true);
    lax.speakers = Speakers::Anyone;
    for of_nobody in [
        "plant/devices/d1/messages/events/x=y",
        "plant/devices/d1/modules/m/messages/events/",
        "xdevices/d1/messages/events/",
        "/devices/d1/messages/events/",
        "devices/d2/devices/d1/messages/events/",
        "devices/d1/x/devices/d1/messages/events/",
        "devices/d1/modules/m/devices/d1/messages/events",
    ] {
        assert_eq!(identity(&lax, "d1", of_nobody), Ok("gw1/$edgeHub".to_owned()), "{of_nobody}");
        let topic = topic(&envelope(of_nobody, b"", b"")).expect("fits");
        assert!(
            topic.starts_with("devices/gw1/modules/%24edgeHub/")
                || topic.starts_with("devices/gw1/modules/$edgeHub/"),
            "{topic}"
        );
        assert!(topic.contains("millrace-topic="), "{topic}");
    }
    for of_d1 in
        ["devices/d1/messages/events", "devices/d1/messages/events/", "devices/d1/messages/events/a=b/"]
    {
        assert_eq!(identity(&lax, "", of_d1), Ok("d1".to_owned()), "{of_d1}");
    }
}
