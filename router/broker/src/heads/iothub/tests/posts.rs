//! Messages of the cloud: done with the device's acknowledgement, given back without.

use super::*;

fn cloud_message(text: &str, token: u64) -> HubAnswer {
    HubAnswer::CloudToDevice { bag: "a=b".into(), payload: text.as_bytes().into(), token }
}

/// A device that takes messages of the cloud.
fn listener(bench: &mut Bench, clean: bool) -> usize {
    let (leaf, _) = enter(bench, "d1", Version::V3, clean);
    bench.subscribe(leaf, "devices/d1/messages/devicebound/#", Qos::AtLeastOnce);
    bench.hub_requests.clear();
    leaf
}

#[test]
fn a_message_of_the_cloud_is_done_when_the_device_has_acknowledged_it() {
    for clean in [false, true] {
        let mut bench = bench(&[]);
        let (leaf, _) = enter(&mut bench, "d1", Version::V3, clean);
        assert_eq!(bench.answer_hub(leaf, &cloud_message("go", 1)), Err(Unanswered::NotSubscribed));
        bench.subscribe(leaf, "devices/d1/messages/devicebound/#", Qos::AtLeastOnce);
        bench.hub_requests.clear();
        for token in 2..5 {
            assert_eq!(bench.answer_hub(leaf, &cloud_message("go", token)), Ok(()));
        }
        bench.settle();
        let got = bench.got(leaf);
        let first = &got[0];
        assert_eq!(
            (first.topic.as_str(), first.qos, got.len()),
            ("devices/d1/messages/devicebound/a=b", Qos::AtLeastOnce, 3)
        );
        assert_eq!(bench.hub_requests, [], "sent and durable is not enough");
        for (at, token) in [(1, 3), (0, 2), (2, 4)] {
            bench.ack(leaf, got[at].id);
            assert_eq!(bench.hub_requests, [HubRequest::Posted { token }]);
            bench.hub_requests.clear();
            bench.ack(leaf, got[at].id);
            assert_eq!(bench.hub_requests, [], "once");
        }
        let odd = HubAnswer::CloudToDevice { bag: "#".into(), payload: Box::default(), token: 9 };
        assert_eq!(bench.answer_hub(leaf, &odd), Err(Unanswered::NoRoom));
    }
}

#[test]
fn a_message_of_the_cloud_that_is_not_acknowledged_goes_back_and_comes_from_there_alone() {
    for clean in [false, true] {
        let mut bench = bench(&[]);
        let leaf = listener(&mut bench, clean);
        for token in 1..4 {
            assert_eq!(bench.answer_hub(leaf, &cloud_message("go", token)), Ok(()));
        }
        bench.settle();
        let got = bench.got(leaf);
        bench.ack(leaf, got[1].id);
        bench.hub_requests.clear();
        bench.cut(leaf);
        bench.settle();
        for token in [1, 3] {
            assert!(bench.hub_requests.contains(&HubRequest::Unposted { token }), "{:?}", bench.hub_requests);
        }
        if !clean {
            assert_eq!(come_and_get(&mut bench, leaf), [] as [&str; 0], "it is the cloud's again");
        }
    }
}

#[test]
fn a_message_of_the_cloud_outlives_a_crash_here_or_there() {
    let mut bench = bench(&[]);
    let leaf = listener(&mut bench, false);
    assert_eq!(bench.answer_hub(leaf, &cloud_message("go", 1)), Ok(()));
    bench.settle();
    assert_eq!(bench.hub_requests, [], "the cloud has it");
    bench.crash();
    assert_eq!(come_and_get(&mut bench, leaf), ["go"]);
}

#[test]
fn a_message_of_the_cloud_for_who_wants_no_acknowledgements_is_done_when_sent() {
    let mut bench = bench(&[]);
    let (leaf, _) = enter(&mut bench, "d1", Version::V3, false);
    bench.subscribe(leaf, "devices/d1/messages/devicebound/#", Qos::AtMostOnce);
    bench.hub_requests.clear();
    assert_eq!(bench.answer_hub(leaf, &cloud_message("go", 1)), Ok(()));
    assert_eq!(bench.hub_requests, [HubRequest::Posted { token: 1 }]);
}
