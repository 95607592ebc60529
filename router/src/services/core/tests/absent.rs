//! Reports of clients that have gone before IoT Hub had them.

use super::*;

const GATEWAY: &str = "gw1/$edgeHub";

fn reported(value: u32) -> Twin {
    let mut twin = Twin::default();
    let Value::Object(patch) = json!({ "fw": value }) else { panic!("an object") };
    twin.report(&patch).expect("a report");
    twin
}

impl Bench {
    fn gateway(&mut self, is_up: bool) {
        let news = if is_up { News::Up(GATEWAY.into()) } else { News::Down(GATEWAY.into()) };
        self.core.on_news(news, self.now);
        self.pass(0);
    }

    fn wanted(&mut self) -> Vec<Box<str>> {
        self.core.wants_absent(self.now)
    }
}

fn bench() -> Bench {
    let mut bench = Bench::new(true);
    bench.core.call_gateway(&HubId::parse(GATEWAY).expect("an id"), 0);
    bench
}

#[test]
fn what_an_earlier_run_has_taken_goes_up_when_the_cloud_is_there() {
    let mut bench = bench();
    bench.core.remember_absent(["d1".into(), "d2".into()]);
    assert_eq!(bench.wanted(), []);
    bench.gateway(true);
    assert_eq!(bench.wanted(), ["d1".into(), "d2".into()]);
    bench.core.on_absent("d1", Some(reported(7)));
    // What the index has named too much.
    bench.core.on_absent("d2", Some(Twin::default()));
    assert_eq!(bench.heard_filters(), [set(&[RES])], "its link is wanted");
    bench.up();
    let said = bench.said();
    let [(topic, patch)] = &said[..] else { panic!("its report alone: {said:?}") };
    assert!(topic.starts_with("$iothub/twin/PATCH/properties/reported/?$rid="), "{topic}");
    assert_eq!(*patch, json!({"fw": 7}));
    let named = BTreeSet::new();
    assert_eq!(bench.core.with_reports(&named), ["d1".into()].into());
    let rid = topic.rsplit_once('=').expect("a number").1.to_owned();
    bench.hear(&format!("$iothub/twin/res/204/?$rid={rid}&$version=5"), &NOTHING);
    bench.told();
    assert_eq!(bench.heard_filters().last(), Some(&set(&[])), "its link is not wanted any more");
    assert!(bench.core.clients.is_empty() && bench.core.with_reports(&named).is_empty());
    assert_eq!(bench.wanted(), []);
}

#[test]
fn what_a_client_has_left_behind_is_tried_again_later_or_with_the_next_link_of_the_gateway() {
    let mut bench = bench();
    bench.gateway(true);
    bench.connect(&[]);
    bench.core.on_news(News::Down("d1".into()), bench.now);
    bench.report("1", &json!({"fw": 1}));
    bench.disconnect();
    bench.told();
    assert!(bench.core.clients.is_empty());
    assert_eq!(bench.wanted(), []);
    bench.pass(5_000);
    assert_eq!(bench.wanted(), ["d1".into()]);
    // Its link does not come up.
    bench.core.on_absent("d1", Some(reported(1)));
    bench.core.on_news(News::Down("d1".into()), bench.now);
    bench.told();
    assert_eq!(bench.wanted(), []);
    bench.gateway(false);
    bench.pass(5_000);
    assert_eq!(bench.wanted(), [], "nobody is there");
    bench.gateway(true);
    assert_eq!(bench.wanted(), ["d1".into()]);
    // It comes itself, with its own twin.
    bench.connect_with(&[], Some(reported(1)));
    assert_eq!(bench.wanted(), []);
}

#[test]
fn a_few_are_taken_up_at_a_time() {
    let mut bench = bench();
    bench.core.remember_absent((0..100).map(|number| format!("d{number}").into()));
    bench.gateway(true);
    let mut loaded = 0;
    loop {
        let wanted = bench.wanted();
        assert!(wanted.len() <= 8);
        if wanted.is_empty() {
            break;
        }
        for id in wanted {
            bench.core.on_absent(&id, Some(reported(1)));
            loaded += 1;
        }
    }
    assert_eq!(loaded, 32, "until the first of them are done");
}
