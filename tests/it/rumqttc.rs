//! A client that other people wrote in Rust: rumqttc, both of its modules (3.1.1 and 5.0).

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use harness::{PATIENCE, Router};

/// How long what must not come is waited for.
const QUIET: Duration = Duration::from_millis(300);

/// Events that may wait to be looked at; a connection with more stands still.
const EVENTS: usize = 10_000;

/// Runs a connection of rumqttc until it ends, by itself or by us, and hands on what it says.
macro_rules! events {
    ($connection:expr) => {{
        let (sender, receiver) = sync_channel(EVENTS);
        let mut connection = $connection;
        std::thread::spawn(move || {
            for event in connection.iter() {
                let ended = event.is_err();
                // It would connect again by itself; a test that wants that makes a new client.
                if sender.send(event.map_err(|error| error.to_string())).is_err() || ended {
                    return;
                }
            }
        });
        receiver
    }};
}

/// Waits for the first event that is wanted and passes over others.
#[track_caller]
fn wait<E: std::fmt::Debug, T>(
    events: &Receiver<Result<E, String>>,
    what: &str,
    mut wanted: impl FnMut(&E) -> Option<T>,
) -> T {
    loop {
        match events.recv_timeout(PATIENCE) {
            Ok(Ok(event)) => {
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
            Ok(Err(error)) => panic!("the connection ended instead of {what}: {error}"),
            Err(_) => panic!("waited in vain for {what}"),
        }
    }
}

mod v4 {
    //! 3.1.1.

    use rumqttc::{Client, ConnAck, Event, LastWill, MqttOptions, Packet, Publish, QoS};

    use super::*;

    type Events = Receiver<Result<Event, String>>;
    const ALL: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

    #[track_caller]
    fn connect(
        address: SocketAddr,
        id: &str,
        change: impl FnOnce(&mut MqttOptions),
    ) -> (Client, Events, ConnAck) {
        let mut options = MqttOptions::new(id, address.ip().to_string(), address.port());
        change(&mut options);
        let (client, connection) = Client::new(options, 1_000);
        let events = events!(connection);
        let ack = wait(&events, "CONNACK", |event| match event {
            Event::Incoming(Packet::ConnAck(ack)) => Some(ack.clone()),
            _ => None,
        });
        (client, events, ack)
    }

    #[track_caller]
    fn subscribe(client: &Client, events: &Events, filter: &str, qos: QoS) {
        client.subscribe(filter, qos).expect("a request is taken");
        wait(events, "SUBACK", |event| matches!(event, Event::Incoming(Packet::SubAck(_))).then_some(()));
    }

    #[track_caller]
    fn message(events: &Events) -> Publish {
        wait(events, "a message", |event| match event {
            Event::Incoming(Packet::Publish(publish)) => Some(publish.clone()),
            _ => None,
        })
    }

    /// [MQTT3-3.8.4-6] [MQTT3-4.3.1-1] [MQTT3-4.3.2-2] [MQTT3-4.3.3-2] [MQTT3-3.8.4-1]
    #[test]
    fn rumqttc_gets_every_quality_of_service() {
        for shards in [1, 3] {
            let router = Router::with_shards(shards);
            let (publisher, published, _) = connect(router.address(), "publisher", |_| {});
            for granted in ALL {
                let (subscriber, events, _) = connect(router.address(), "subscriber", |_| {});
                subscribe(&subscriber, &events, "a/+", granted);
                for sent in ALL {
                    publisher.publish("a/b", sent, false, "text").expect("a request is taken");
                    let got = message(&events);
                    let lower = ALL[(granted as usize).min(sent as usize)];
                    assert_eq!((got.topic.as_str(), &got.payload[..], got.qos), ("a/b", &b"text"[..], lower));
                }
                subscriber.disconnect().expect("a request is taken");
            }
            wait(&published, "PUBCOMP", |event| {
                matches!(event, Event::Incoming(Packet::PubComp(_))).then_some(())
            });
        }
    }

    /// [MQTT3-3.3.1-5] [MQTT3-3.3.1-6] [MQTT3-3.3.1-8] [MQTT3-3.3.1-9] [MQTT3-3.3.1-10] [MQTT3-3.3.1-11]
    #[test]
    fn rumqttc_keeps_retained_messages() {
        let router = Router::with_shards(2);
        let (publisher, _published, _) = connect(router.address(), "publisher", |_| {});
        let (early, events, _) = connect(router.address(), "early", |_| {});
        subscribe(&early, &events, "a/#", QoS::AtLeastOnce);
        for (topic, payload) in [("a/1", "old"), ("a/1", "new"), ("a/2", "gone"), ("a/2", "")] {
            publisher.publish(topic, QoS::AtLeastOnce, true, payload).expect("a request is taken");
            let live = message(&events);
            assert_eq!(
                (&live.payload[..], live.retain),
                (payload.as_bytes(), false),
                "to who was there before"
            );
        }
        let (late, events, _) = connect(router.address(), "late", |_| {});
        subscribe(&late, &events, "a/#", QoS::AtLeastOnce);
        let kept = message(&events);
        assert_eq!((kept.topic.as_str(), &kept.payload[..], kept.retain), ("a/1", &b"new"[..], true));
        publisher.publish("a/3", QoS::AtLeastOnce, false, "end").expect("a request is taken");
        assert_eq!(message(&events).topic, "a/3", "what was cleared does not come");
    }

    /// [MQTT3-3.1.2-4] [MQTT3-3.1.2-5] [MQTT3-3.1.2-6] [MQTT3-3.2.2-2] [MQTT3-3.2.2-3]
    #[test]
    fn rumqttc_comes_back_to_its_session() {
        let router = Router::with_shards(2);
        let (publisher, published, _) = connect(router.address(), "publisher", |_| {});
        for (clean, present) in [(false, true), (true, false)] {
            let lasting = |options: &mut MqttOptions| {
                options.set_clean_session(clean);
            };
            let id = format!("client-{clean}");
            let (client, events, ack) = connect(router.address(), &id, lasting);
            assert!(!ack.session_present);
            subscribe(&client, &events, "a", QoS::AtLeastOnce);
            client.disconnect().expect("a request is taken");
            while events.recv_timeout(PATIENCE).is_ok_and(|event| event.is_ok()) {}
            publisher.publish("a", QoS::AtLeastOnce, false, "while away").expect("a request is taken");
            wait(&published, "PUBACK", |event| {
                matches!(event, Event::Incoming(Packet::PubAck(_))).then_some(())
            });
            let (_client, events, ack) = connect(router.address(), &id, lasting);
            assert_eq!(ack.session_present, present);
            if present {
                assert_eq!(message(&events).payload, "while away");
            }
            let more = events.recv_timeout(QUIET);
            assert!(!matches!(more, Ok(Ok(Event::Incoming(Packet::Publish(_))))), "{more:?}");
        }
    }

    /// [MQTT3-3.1.2-8] [MQTT3-3.1.2-10] [MQTT3-3.1.2-12] [MQTT3-3.1.4-2] [MQTT3-3.14.4-3]
    #[test]
    fn rumqttc_leaves_a_will_unless_it_says_goodbye() {
        let router = Router::with_shards(2);
        let (watcher, seen, _) = connect(router.address(), "watcher", |_| {});
        subscribe(&watcher, &seen, "wills/#", QoS::AtLeastOnce);
        let mortal = |options: &mut MqttOptions| {
            options.set_last_will(LastWill::new("wills/mortal", "gone", QoS::AtLeastOnce, false));
        };
        let (polite, events, _) = connect(router.address(), "mortal", mortal);
        polite.disconnect().expect("a request is taken");
        while events.recv_timeout(PATIENCE).is_ok_and(|event| event.is_ok()) {}
        let (_client, events, _) = connect(router.address(), "mortal", mortal);
        // Another one of its name: its connection is closed without its goodbye.
        let (_heir, _events, _) = connect(router.address(), "mortal", |_| {});
        while events.recv_timeout(PATIENCE).is_ok_and(|event| event.is_ok()) {}
        assert_eq!(message(&seen).payload, "gone");
        let more = seen.recv_timeout(QUIET);
        assert!(!matches!(more, Ok(Ok(Event::Incoming(Packet::Publish(_))))), "one will only: {more:?}");
    }
}

mod v5 {
    //! 5.0.

    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{
        Filter, Packet, Publish, PublishProperties, SubscribeProperties, SubscribeReasonCode,
    };
    use rumqttc::v5::{Client, Event, MqttOptions};

    use super::*;

    type Events = Receiver<Result<Event, String>>;

    #[track_caller]
    fn connect(address: SocketAddr, id: &str) -> (Client, Events) {
        let mut options = MqttOptions::new(id, address.ip().to_string(), address.port());
        options.set_topic_alias_max(Some(10));
        let (client, connection) = Client::new(options, 1_000);
        let events = events!(connection);
        wait(&events, "CONNACK", |event| matches!(event, Event::Incoming(Packet::ConnAck(_))).then_some(()));
        (client, events)
    }

    #[track_caller]
    fn granted(events: &Events) -> Vec<SubscribeReasonCode> {
        wait(events, "SUBACK", |event| match event {
            Event::Incoming(Packet::SubAck(ack)) => Some(ack.return_codes.clone()),
            _ => None,
        })
    }

    #[track_caller]
    fn message(events: &Events) -> Publish {
        wait(events, "a message", |event| match event {
            Event::Incoming(Packet::Publish(publish)) => Some(publish.clone()),
            _ => None,
        })
    }

    /// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20] [MQTT-3.3.4-3]
    #[test]
    fn rumqttc_gets_every_property() {
        for shards in [1, 3] {
            let router = Router::with_shards(shards);
            let (subscriber, events) = connect(router.address(), "subscriber");
            let properties = SubscribeProperties { id: Some(300), user_properties: vec![] };
            let filter = Filter::new("a/+", QoS::AtLeastOnce);
            subscriber.subscribe_many_with_properties([filter], properties).expect("a request is taken");
            assert_eq!(granted(&events), [SubscribeReasonCode::Success(QoS::AtLeastOnce)]);
            let (publisher, _published) = connect(router.address(), "publisher");
            let sent = PublishProperties {
                payload_format_indicator: Some(1),
                message_expiry_interval: Some(1_000),
                response_topic: Some("answers".into()),
                correlation_data: Some(vec![0, 255, 1].into()),
                user_properties: vec![
                    ("b".into(), "1".into()),
                    ("a".into(), "2".into()),
                    ("b".into(), "1".into()),
                ],
                content_type: Some("text/plain".into()),
                ..Default::default()
            };
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
                let request = publisher.publish_with_properties("a/b", qos, false, "text", sent.clone());
                request.expect("a request is taken");
                let got = message(&events);
                assert_eq!((&got.topic[..], &got.payload[..], got.qos), (&b"a/b"[..], &b"text"[..], qos));
                let mut properties = got.properties.expect("properties");
                let left = properties.message_expiry_interval.take().expect("a message expiry interval");
                assert!((990..=1_000).contains(&left), "{left}");
                let expected = PublishProperties {
                    message_expiry_interval: None,
                    subscription_identifiers: vec![300],
                    topic_alias: properties.topic_alias,
                    ..sent.clone()
                };
                assert_eq!(properties, expected);
            }
        }
    }

    /// [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1]
    #[test]
    fn rumqttc_reads_reason_codes() {
        let router = Router::with_shards(2);
        let (client, events) = connect(router.address(), "client");
        let filters = [
            Filter::new("a", QoS::AtMostOnce),
            Filter::new("/".repeat(300), QoS::AtLeastOnce),
            Filter::new("b/#", QoS::AtLeastOnce),
        ];
        client.subscribe_many(filters).expect("a request is taken");
        let expected = [
            SubscribeReasonCode::Success(QoS::AtMostOnce),
            SubscribeReasonCode::TopicFilterInvalid,
            SubscribeReasonCode::Success(QoS::AtLeastOnce),
        ];
        assert_eq!(granted(&events), expected);
    }

    /// Every message goes to one member of a group. [MQTT-4.8.2-3]
    #[test]
    fn rumqttc_shares_a_subscription() {
        let router = Router::with_shards(2);
        let members: Vec<_> = (0..3).map(|it| connect(router.address(), &format!("member-{it}"))).collect();
        for (member, events) in &members {
            member.subscribe("$share/group/jobs/#", QoS::AtLeastOnce).expect("a request is taken");
            assert_eq!(granted(events), [SubscribeReasonCode::Success(QoS::AtLeastOnce)]);
        }
        let (publisher, _published) = connect(router.address(), "publisher");
        for number in 0..90 {
            let request = publisher.publish("jobs/a", QoS::AtLeastOnce, false, number.to_string());
            request.expect("a request is taken");
        }
        let mut numbers = Vec::new();
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut shares = [0; 3];
        while numbers.len() < 90 && std::time::Instant::now() < deadline {
            for (at, (_, events)) in members.iter().enumerate() {
                while let Ok(Ok(event)) = events.recv_timeout(Duration::from_millis(10)) {
                    if let Event::Incoming(Packet::Publish(publish)) = event {
                        let text = String::from_utf8(publish.payload.to_vec()).expect("a number");
                        numbers.push(text.parse::<u32>().expect("a number"));
                        shares[at] += 1;
                    }
                }
            }
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..90).collect::<Vec<_>>(), "each once");
        assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    }
}
