//! The loss ledger for others: published on a topic, taken upstream by a route, each entry at least once.

use std::collections::BTreeMap;

use harness::{QOS_1, Recorder, until, v5};
use serde_json::Value;

use crate::space::{cut_off, lost};

/// Messages lost by number of the entry, as told on the topic; an entry that comes twice must be the same.
fn told<'m>(messages: impl Iterator<Item = &'m str>) -> BTreeMap<u64, u64> {
    let mut entries = BTreeMap::<u64, Value>::new();
    for message in messages {
        let message: Value = serde_json::from_str(message).expect("JSON");
        assert_eq!((message["version"].as_u64(), message["forgotten"].as_u64()), (Some(1), Some(0)));
        for loss in message["losses"].as_array().expect("a list") {
            assert_eq!(loss["lane"], "u/plant/default", "{loss}");
            let before = entries.insert(loss["number"].as_u64().expect("a number"), loss.clone());
            assert!(before.is_none_or(|before| before == *loss), "an entry that was told grows no more");
        }
    }
    assert!(entries.keys().copied().eq(0..entries.len() as u64), "without a hole: {entries:?}");
    entries.iter().map(|(number, loss)| (*number, loss["messages"].as_u64().expect("a count"))).collect()
}

#[test]
fn what_is_lost_is_told_upstream_and_to_subscribers_also_across_a_crash() {
    const COUNT: u64 = 300;
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let mut router = setup
        .set("routes.all", r#"{ route = 'FROM "factory/#" INTO $upstream', ttl = 1 }"#)
        .set("routes.losses", r#"{ route = 'FROM "site/losses" INTO $upstream', priority = 9 }"#)
        .set("losses.topic", "site/losses")
        .set("losses.interval_secs", 1)
        .start();
    let mut subscriber = router.connect(&v5("subscriber"));
    subscriber.subscribe("site/losses", QOS_1);
    let mut local = Vec::new();
    for round in 1..=3 {
        let publish = (0..COUNT / 3).map(|number| number.to_string());
        router.connect(&v5("publisher")).publish_all("factory/a", publish);
        until("them to expire", || (lost(&router.status(), "expired") == round * COUNT / 3).then_some(()));
        if round < 3 {
            local.push(subscriber.message().text().to_owned());
        } else {
            router.kill();
            router.start_again();
        }
    }
    assert_eq!(told(local.iter().map(String::as_str)).values().sum::<u64>(), COUNT * 2 / 3);
    proxy.mend();
    until("all losses to be told upstream", || {
        let record = recorder.record();
        let reports = record.iter().filter(|message| message.topic == "site/losses");
        (told(reports.map(harness::Received::text)).values().sum::<u64>() == COUNT).then_some(())
    });
}

/// Which route, and whose messages: each sender has an entry of its own.
#[test]
fn an_entry_says_which_route_and_whose_messages_are_lost() {
    const DEVICES: u64 = 10;
    let recorder = Recorder::start();
    let (_proxy, setup) = cut_off(&recorder);
    let router = setup.set("routes.all", r#"{ route = 'FROM "factory/#" INTO $upstream', ttl = 1 }"#).start();
    for round in 0..3 {
        for device in 0..DEVICES {
            let texts = (0..5).map(|number| format!("{round} {number}"));
            router.connect(&v5(&format!("dev{device}"))).publish_all("factory/a", texts);
        }
    }
    until("them to expire", || (lost(&router.status(), "expired") == 15 * DEVICES).then_some(()));
    let status = router.status();
    let entries = status["losses"]["latest"].as_array().expect("a list");
    let mut by_sender = BTreeMap::<&str, u64>::new();
    for entry in entries {
        assert_eq!((&entry["route"], &entry["lane"]), (&"all".into(), &"u/plant/default".into()), "{entry}");
        *by_sender.entry(entry["sender"].as_str().expect("a name")).or_default() +=
            entry["messages"].as_u64().expect("a count");
    }
    assert_eq!(by_sender.len() as u64, DEVICES, "{by_sender:?}");
    assert!(by_sender.values().all(|messages| *messages == 15), "{by_sender:?}");
}

#[test]
fn a_topic_for_losses_that_nobody_could_publish_to_is_refused() {
    for (topic, words) in [("$SYS/losses", "does not begin with $"), ("a/#", "without + and #")] {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("millrace.toml");
        std::fs::write(&file, format!("losses.topic = \"{topic}\"\nlosses.interval_secs = 0\n"))
            .expect("a file");
        let done = harness::run(&["check", "--config", &file.display().to_string()]);
        assert_eq!(done.code, Some(2), "{}", done.err);
        let said = format!("{}{}", done.out, done.err);
        for part in ["losses.topic", topic, words, "losses.interval_secs", "from 1 to 86400"] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }
}
