//! Many clients on several shards look like one router: everybody reaches everybody, in order.
//!
//! A client identifier decides the shard and the seed of that changes with every start, so these tests use enough
//! identifiers that every pair of shards is there (24 on 3 shards: all but once in 5 000 starts).

use std::collections::BTreeMap;

use harness::{Client, QOS_0, QOS_1, Qos, Router, v3, v5};

const CLIENTS: usize = 24;

fn clients(router: &Router, name: &str) -> Vec<Client> {
    let connect = |number| {
        let client_id = format!("{name}-{number}");
        if number % 2 == 0 { v5(&client_id) } else { v3(&client_id) }
    };
    (0..CLIENTS).map(|number| router.connect(&connect(number))).collect()
}

#[track_caller]
fn check_everybody_reaches_everybody(shards: usize, qos: Qos) {
    let router = Router::with_shards(shards);
    let mut subscribers = clients(&router, "subscriber");
    for subscriber in &mut subscribers {
        subscriber.subscribe("all/#", qos);
    }
    // SUBACK means that every shard knows: no publication from now on may be missed.
    let mut publishers = clients(&router, "publisher");
    for (number, publisher) in publishers.iter_mut().enumerate() {
        publisher.publish(&format!("all/{number}"), number.to_string(), qos);
    }
    for subscriber in &mut subscribers {
        let mut texts = subscriber.texts(CLIENTS);
        texts.sort_by_key(|text| text.parse::<usize>().unwrap_or(usize::MAX));
        let expected: Vec<_> = (0..CLIENTS).map(|number| number.to_string()).collect();
        assert_eq!(texts, expected, "{shards} shards, {qos:?}");
    }
}

#[test]
fn every_subscriber_hears_every_publisher_with_qos_0() {
    for shards in 1..=3 {
        check_everybody_reaches_everybody(shards, QOS_0);
    }
}

#[test]
fn every_subscriber_hears_every_publisher_with_qos_1() {
    for shards in 1..=3 {
        check_everybody_reaches_everybody(shards, QOS_1);
    }
}

#[test]
fn order_per_publisher_holds_across_shards() {
    for shards in [2, 3] {
        let router = Router::with_shards(shards);
        let mut subscribers: Vec<_> = (0..6).map(|it| router.connect(&v5(&format!("s-{it}")))).collect();
        for subscriber in &mut subscribers {
            subscriber.subscribe("order/#", QOS_1);
        }
        let (publishers, messages) = (6, 200);
        std::thread::scope(|scope| {
            for publisher in 0..publishers {
                let router = &router;
                scope.spawn(move || {
                    let mut client = router.connect(&v5(&format!("p-{publisher}")));
                    let topic = format!("order/{publisher}");
                    for burst in 0..messages / 50 {
                        client.publish_all(&topic, (burst * 50..burst * 50 + 50).map(|it| it.to_string()));
                    }
                });
            }
        });
        for subscriber in &mut subscribers {
            let mut next: BTreeMap<String, usize> = BTreeMap::new();
            for message in subscriber.messages(publishers * messages) {
                let next = next.entry(message.topic.clone()).or_default();
                assert_eq!(message.text(), next.to_string(), "{} on {shards} shards", message.topic);
                *next += 1;
            }
        }
    }
}

#[test]
fn order_holds_between_qos_0_and_qos_1_of_one_topic_for_live_subscribers() {
    // MQTT 5.0 §4.6 asks for order per topic and QoS only; we keep it over both while nothing waits.
    let router = Router::with_shards(3);
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("a", QOS_1);
    for publisher in 0..6 {
        let mut client = router.connect(&v5(&format!("p-{publisher}")));
        for number in 0..20 {
            client.publish("a", number.to_string(), if number % 3 == 0 { QOS_0 } else { QOS_1 });
        }
        let expected: Vec<_> = (0..20).map(|number| number.to_string()).collect();
        assert_eq!(subscriber.texts(20), expected);
    }
}

#[test]
fn a_client_that_comes_back_is_found_again_whatever_shard_its_socket_lands_on() {
    let router = Router::with_shards(3);
    let connect = harness::Connect { clean_start: false, session_expiry_secs: 60, ..v5("wanderer") };
    router.connect(&connect).subscribe("a", QOS_1);
    let mut publisher = router.connect(&v5("publisher"));
    // Sockets are handed to shards in turn: six connections see every shard twice.
    for round in 0..6 {
        publisher.publish("a", round.to_string(), QOS_1);
        let mut client = router.connect(&connect);
        assert!(client.greeting.session_present, "round {round}");
        assert_eq!(client.message().text(), round.to_string());
        client.ping();
        client.disconnect();
    }
}
