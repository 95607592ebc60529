//! Bad networks, with TCP of the kernel over an emulated way: loss, reordering, delay, blackholes, flapping. The ledger of
//! each: nothing acknowledged is lost, every sender's order holds, repeats come only after a new connection and say so.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::network::{Emulated, Way, as_root, emulated, listen_far};
use harness::{Authority, Layers, Proxy, Received, Recorder, Router, Setup, Version, until, v5, within};

const SENDERS: usize = 4;
const KEEP_ALIVE_SECS: u64 = 4;

struct Scene {
    network: Emulated,
    upstream: Recorder,
    router: Router,
}

impl Scene {
    fn new(way: Way) -> Scene {
        let network = emulated(way);
        let upstream = Recorder::over(listen_far(&network), NonZeroU16::MAX, None);
        let router = Setup::new()
            .uplink(upstream.address(), Version::V5)
            .set("uplink.plant.keep_alive_secs", KEEP_ALIVE_SECS)
            .set("uplink.plant.connect_timeout_secs", 2)
            .set("routes.all", r#"FROM "factory/#" INTO $upstream"#)
            .start();
        Scene { network, upstream, router }
    }

    /// So many messages of each sender, numbered.
    fn publish(&self, range: std::ops::Range<usize>) {
        publish(&self.router, range);
    }

    /// Waits until everything is delivered, and judges the record.
    #[track_caller]
    fn reconcile(&self, count: usize) {
        // Over a bad way it may take its time.
        let empty = within(Duration::from_secs(60), || (self.router.backlog() == 0).then_some(()));
        assert!(empty.is_some(), "the lane is not empty: {:#}", self.router.status());
        let connects = self.upstream.connects();
        reconcile(&self.upstream.record(), count, connects);
    }
}

fn publish(router: &Router, range: std::ops::Range<usize>) {
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let range = range.clone();
            scope.spawn(move || {
                let mut client = router.connect(&v5(&format!("sender-{sender}")));
                client.publish_all(&format!("factory/{sender}"), range.map(|number| number.to_string()));
            });
        }
    });
}

/// Every sender's messages from 0 to `count`, in order once repeats are out; a repeat says that it is one, and there is none
/// without a second connection.
#[track_caller]
fn reconcile(record: &[Received], count: usize, connects: u64) {
    for sender in 0..SENDERS {
        let (topic, mut next) = (format!("factory/{sender}"), 0);
        for message in record.iter().filter(|message| message.topic == topic) {
            let number: usize = message.text().parse().expect("a number");
            assert!(number <= next, "{number} of {topic} came before {next}");
            if number < next {
                assert!(message.dup, "{number} of {topic} came again and does not say so");
                assert!(connects > 1, "{number} of {topic} came again on the same connection");
            }
            next = next.max(number + 1);
        }
        assert_eq!(next, count, "of {topic}");
    }
}

/// For so long, whatever else happens.
fn during(time: Duration, mut step: impl FnMut(Duration)) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        step(begin.elapsed());
        within(Duration::from_millis(100), || None::<()>);
    }
}

#[test]
fn packets_that_are_lost_and_overtaken_cost_time_and_nothing_else() {
    as_root("network::packets_that_are_lost_and_overtaken_cost_time_and_nothing_else", || {
        let scene = Scene::new(Way { lost_permille: 20, late_permille: 50, ..Way::of_rtt(40) });
        scene.publish(0..1_000);
        scene.reconcile(1_000);
        assert!(scene.network.carried().lost > 0, "the way lost nothing: it proves nothing");
        assert_eq!(scene.upstream.connects(), 1);
        assert_eq!(scene.upstream.record().len(), SENDERS * 1_000, "nothing came twice");
    });
}

#[test]
fn a_satellite_is_filled_by_a_window_that_grows() {
    as_root("network::a_satellite_is_filled_by_a_window_that_grows", || {
        let scene = Scene::new(Way::of_rtt(300));
        scene.publish(0..5_000);
        let begin = Instant::now();
        scene.reconcile(5_000);
        // Ten messages a round trip would take ten minutes.
        assert!(begin.elapsed() < Duration::from_secs(60), "took {:?}", begin.elapsed());
        let delay = scene.router.number("/uplinks/0/delay_micros");
        assert!((300_000..500_000).contains(&delay), "{delay}");
    });
}

#[test]
fn a_way_that_swallows_everything_is_noticed_and_the_messages_go_on_when_it_is_back() {
    as_root(
        "network::a_way_that_swallows_everything_is_noticed_and_the_messages_go_on_when_it_is_back",
        || {
            let scene = Scene::new(Way::of_rtt(10));
            scene.publish(0..100);
            until("an empty lane", || (scene.router.backlog() == 0).then_some(()));
            scene.network.set(Way { is_black: true, ..Way::of_rtt(10) });
            scene.publish(100..300);
            let error = until("the outage to be noticed", || {
                scene.router.status()["uplinks"][0]["last_error"].as_str().map(str::to_owned)
            });
            assert!(error.contains("silent") || error.contains("does not arrive"), "{error}");
            scene.network.set(Way::of_rtt(10));
            scene.reconcile(300);
            assert!(scene.upstream.connects() > 1);
        },
    );
}

#[test]
fn a_way_that_flaps_every_second_loses_nothing() {
    as_root("network::a_way_that_flaps_every_second_loses_nothing", || {
        let scene = Scene::new(Way::of_rtt(20));
        std::thread::scope(|scope| {
            scope.spawn(|| scene.publish(0..1_500));
            during(Duration::from_secs(8), |at| {
                scene.network.set(Way { is_black: at.as_secs() % 2 == 1, ..Way::of_rtt(20) });
            });
            scene.network.set(Way::of_rtt(20));
        });
        scene.reconcile(1_500);
    });
}

#[test]
fn a_network_that_ends_every_connection_each_second_loses_nothing() {
    let upstream = Recorder::start();
    let network = Proxy::to(upstream.address());
    let router = Setup::new()
        .uplink(network.address(), Version::V5)
        .set("uplink.plant.pace_messages_per_sec", 1_000)
        .set("routes.all", r#"FROM "factory/#" INTO $upstream"#)
        .start();
    std::thread::scope(|scope| {
        scope.spawn(|| publish(&router, 0..1_200));
        during(Duration::from_secs(5), |at| match at.as_millis() % 1_000 {
            0..150 => network.cut(),
            _ => network.mend(),
        });
        network.mend();
    });
    let empty = within(Duration::from_secs(60), || (router.backlog() == 0).then_some(()));
    assert!(empty.is_some(), "the lane is not empty: {:#}", router.status());
    assert!(upstream.connects() > 2);
    reconcile(&upstream.record(), 1_200, upstream.connects());
}

#[test]
fn a_narrow_way_is_used_and_not_flooded() {
    as_root("network::a_narrow_way_is_used_and_not_flooded", || {
        // 100 kB/s: a window of thousands would be seconds of queue, which an urgent message could not pass.
        let scene = Scene::new(Way { bytes_per_sec: 100_000, ..Way::of_rtt(40) });
        scene.publish(0..2_500);
        let mut most = 0;
        until("some of it to be there", || {
            most = most.max(scene.router.number("/uplinks/0/inflight"));
            (scene.upstream.record().len() > SENDERS * 1_500).then_some(())
        });
        assert!(most < 4_000, "{most} in flight");
        scene.reconcile(2_500);
    });
}

/// Bytes of a packet besides what it carries: IPv4, TCP with timestamps.
const PACKET_BYTES: u64 = 52;

/// Counts what the idle connection of an uplink to this upstream costs, and compares it with what `millrace check` states.
/// `there` and `back`: bytes of a ping and of its answer, as TCP carries them.
#[track_caller]
fn check_idle_cost(scheme: &str, (there, back): (u64, u64)) {
    let network = emulated(Way::of_rtt(5));
    let authority = Authority::new();
    let tls = Arc::new(authority.server("plant", &["plant.example"], 30).serve());
    let listener = listen_far(&network);
    let upstream = match scheme {
        "mqtt" => Recorder::over(listener, NonZeroU16::MAX, None),
        _ => Recorder::behind(listener, Layers { tls, websocket: scheme == "wss" }),
    };
    let mut setup = Setup::new()
        .uplink(upstream.address(), Version::V5)
        .set("uplink.plant.url", format!("{scheme}://{}", upstream.address()))
        .set("uplink.plant.keep_alive_secs", KEEP_ALIVE_SECS)
        .set("routes.all", r#"FROM "factory/#" INTO $upstream"#);
    if scheme != "mqtt" {
        let ca = authority.file();
        setup = setup.set("uplink.plant.ca", ca.display()).set("uplink.plant.server_name", "plant.example");
    }
    let stated = setup.check();
    let router = setup.start();
    until("the uplink to be up", || (router.status()["uplinks"][0]["state"] == "up").then_some(()));
    // What the greeting still costs, such as tickets of TLS, is not its idle hour.
    within(Duration::from_secs(1), || None::<()>);
    // Nor is a ping whose answer is still on its way.
    let before = until("a quiet moment", || {
        let before = network.carried();
        within(Duration::from_millis(200), || None::<()>);
        (network.carried() == before).then_some(before)
    });
    let begin = Instant::now();
    // As soon as a ping and its answer are there, whole: packets that carry nothing may be more or fewer.
    let (pings, packets) = until("three pings and their answers", || {
        let now = network.carried();
        let (bytes, packets) = (now.bytes - before.bytes, now.packets - before.packets);
        let data = bytes - packets * PACKET_BYTES;
        let pings = data / (there + back);
        (pings >= 3 && data.is_multiple_of(there + back)).then_some((pings, packets))
    });
    let most = begin.elapsed().as_secs_f64() / (KEEP_ALIVE_SECS as f64 / 2.0) + 1.0;
    assert!(pings as f64 <= most, "{pings} pings, at most {most} are stated");
    // One more each where an end is slow to answer.
    assert!(packets <= 4 * pings, "{packets} packets for {pings} pings");
    let an_hour = 3_600 / (KEEP_ALIVE_SECS / 2) * (there + back + 3 * PACKET_BYTES);
    let words =
        format!("an idle hour of its connection costs {:.0} KiB on the wire", an_hour as f64 / 1_024.0);
    assert!(stated.contains(&words), "{words}: not in\n{stated}");
    assert_eq!(upstream.connects(), 1);
}

#[test]
fn an_idle_connection_costs_no_more_than_is_stated() {
    as_root("network::an_idle_connection_costs_no_more_than_is_stated", || check_idle_cost("mqtt", (2, 2)));
}

/// A record of TLS 1.3 has 5 + 1 + 16 bytes more.
#[test]
fn an_idle_connection_over_tls_costs_no_more_than_is_stated() {
    as_root("network::an_idle_connection_over_tls_costs_no_more_than_is_stated", || {
        check_idle_cost("mqtts", (24, 24));
    });
}

/// A frame has a head of 2 bytes, ours a mask of 4 more.
#[test]
fn an_idle_connection_over_websocket_costs_no_more_than_is_stated() {
    as_root("network::an_idle_connection_over_websocket_costs_no_more_than_is_stated", || {
        check_idle_cost("wss", (30, 26));
    });
}
