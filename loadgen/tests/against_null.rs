//! The generator against its own null sink, over real sockets: loads are met, and every fault is seen.
//!
//! Bounded by counts, not by time; nothing here depends on how fast the machine is.
#![expect(clippy::unwrap_used, reason = "tests; clippy does not see that helpers beside them are tests too")]

use std::time::Duration;

use loadgen::ledger::Rules;
use loadgen::measure::{Watch, measure};
use loadgen::null::{Faults, Manners, NullBroker};
use loadgen::report::Report;
use loadgen::run::Run;
use loadgen::scenario::Scenario;
use loadgen::wan::Wan;

const PAIRS: &str = r#"
name = "test"
[run]
duration_secs = 20
warmup_secs = 0
drain_secs = 5
slip_max_percent = 100
[publishers]
count = 4
topic = "load/{publisher}"
rate = "max"
messages = 3000
[subscribers]
count = 4
filter = "load/{subscriber}"
"#;

#[track_caller]
fn run(faults: Faults, overrides: &[&str]) -> Report {
    let broker = NullBroker::start(faults).unwrap();
    let mut overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    overrides.push(format!("url={}", broker.url()));
    let scenario = Scenario::parse("test.toml", PAIRS, &overrides).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(scenario, Watch::default(), |_| ())).unwrap()
}

#[track_caller]
fn all_arrives(overrides: &[&str], copies: u64) {
    let report = run(Faults::default(), overrides);
    assert_eq!(report.verdict.broken, Vec::<String>::new());
    assert_eq!((report.verdict.sent, report.verdict.arrived), (12_000, 12_000 * copies));
    assert!(report.valid, "{:?}", report.remarks);
    let last = report.series.last().unwrap();
    assert_eq!((last.sent, last.arrived, last.missing), (12_000, 12_000 * copies, 0));
}

#[test]
fn everything_arrives_at_each_qos_and_version() {
    for (publisher, subscriber) in [("3.1.1", "3.1.1"), ("5", "5"), ("3.1.1", "5"), ("5", "3.1.1")] {
        for qos in ["0", "1", "2"] {
            all_arrives(
                &[
                    &format!("publishers.version={publisher:?}"),
                    &format!("subscribers.version={subscriber:?}"),
                    &format!("publishers.qos={qos}"),
                    &format!("subscribers.qos={qos}"),
                ],
                1,
            );
        }
    }
}

#[test]
fn fan_in_and_fan_out_are_judged_per_receiver() {
    all_arrives(&["subscribers.count=1", "subscribers.filter=load/#"], 1);
    all_arrives(&["subscribers.count=3", "subscribers.filter=load/+"], 3);
}

#[test]
fn a_group_gets_each_message_once() {
    for qos in ["0", "1", "2"] {
        let (publishers, subscribers) = (format!("publishers.qos={qos}"), format!("subscribers.qos={qos}"));
        all_arrives(&["subscribers.filter=$share/g/load/#", &publishers, &subscribers], 1);
    }
}

#[test]
fn user_properties_are_checked_where_they_can_be_seen() {
    let properties = "publishers.user_properties=[[\"site\", \"north\"], [\"site\", \"south\"]]";
    all_arrives(&["publishers.version=5", "subscribers.version=5", properties], 1);
    all_arrives(&["publishers.version=5", properties], 1);
}

#[test]
fn who_joins_later_gets_all_that_is_retained() {
    let overrides = [
        "publishers.topic=kept/{publisher}/{topic}",
        "publishers.topics=3000",
        "publishers.retain=true",
        "publishers.qos=1",
        "subscribers.qos=1",
        "subscribers.filter=kept/#",
        "subscribers.join=after",
        "subscribers.count=2",
    ];
    let report = run(Faults::default(), &overrides);
    assert_eq!(report.verdict.broken, Vec::<String>::new());
    assert_eq!((report.verdict.sent, report.verdict.arrived), (12_000, 24_000));
    assert!(report.spans.load_secs > 0.0 && report.latency_micros.count == 24_000);
}

#[test]
fn what_the_null_sink_refuses_is_answered_and_arrives_nowhere() {
    use std::sync::atomic::Ordering;

    for qos in [1, 2] {
        let refuse = model::TopicFilter::new("load/2").ok();
        let manners = Manners { refuse, ..Manners::default() };
        let broker = NullBroker::start_at("127.0.0.1:0", Faults::default(), manners).unwrap();
        let overrides = [
            format!("url={}", broker.url()),
            format!("publishers.qos={qos}"),
            "publishers.version=5".to_owned(),
            // Nobody waits for what the second one sends.
            "subscribers.count=1".to_owned(),
        ];
        let scenario = Scenario::parse("test.toml", PAIRS, &overrides).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(measure(scenario, Watch::default(), |_| ())).unwrap();
        assert_eq!((report.verdict.sent, report.verdict.arrived), (12_000, 3_000));
        let tally = broker.tally();
        assert_eq!(tally.taken.load(Ordering::Relaxed), 9_000, "QoS {qos}");
        assert_eq!(tally.refused.load(Ordering::Relaxed), 3_000, "QoS {qos}");
    }
}

/// A lower bound of time only: that never fails on a slow machine.
#[test]
fn a_pace_takes_its_time() {
    let manners = Manners { per_second: Some(2_000.0), ..Manners::default() };
    let broker = NullBroker::start_at("127.0.0.1:0", Faults::default(), manners).unwrap();
    let overrides = [format!("url={}", broker.url()), "publishers.messages=1000".to_owned()];
    let scenario = Scenario::parse("test.toml", PAIRS, &overrides).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(measure(scenario, Watch::default(), |_| ())).unwrap();
    assert_eq!((report.verdict.sent, report.verdict.arrived), (4_000, 4_000));
    // Each of the four connections: 1 000 messages at 2 000 a second; the last piece is read before it is paid for.
    assert!(report.spans.load_secs + report.spans.drain_secs > 0.4, "{:?}", report.spans);
}

#[test]
fn a_recording_is_offered_with_its_own_timing() {
    let csv = |at| format!("{},{}", f64::from(at) / 1_000.0, at % 8);
    let jsonl = |at| format!("{{\"time_us\": {}, \"publisher\": {}}}", at * 1_000, at % 8);
    let lines = |line: &dyn Fn(u32) -> String| (0..400).map(line).collect::<Vec<_>>().join("\n");
    replay("load.csv", &format!("time,publisher\n{}\n", lines(&csv)));
    replay("load.jsonl", &lines(&jsonl));
}

/// 400 messages in 0.4 s.
#[track_caller]
fn replay(name: &str, recording: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, recording).unwrap();
    let text = format!(
        "[run]\nduration_secs = 20\nwarmup_secs = 0\nslip_max_percent = 100\n[publishers]\ncount = 4\n\
         replay = {file:?}\n[subscribers]\ncount = 4\n"
    );
    let broker = NullBroker::start(Faults::default()).unwrap();
    let scenario = Scenario::parse("s.toml", &text, &[format!("url={}", broker.url())]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(measure(scenario, Watch::default(), |_| ())).unwrap();
    assert_eq!((report.load_model.as_str(), report.slip.scheduled), ("open", 400));
    assert_eq!((report.verdict.sent, report.verdict.arrived), (400, 400));
    assert!(report.spans.load_secs >= 0.39, "{:?}", report.spans);
}

#[test]
fn clients_come_leave_and_come_again() {
    let text = "[run]\nduration_secs = 0.6\nwarmup_secs = 0\n[clients]\ncount = 50\nconnect_rate = 500\n\
                storm_at_secs = 0.3\ncycles = 2\nleave = \"vanish\"\nfilter = \"c/{client}\"\nqos = 1\n";
    let broker = NullBroker::start(Faults::default()).unwrap();
    let scenario = Scenario::parse("s.toml", text, &[format!("url={}", broker.url())]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(measure(scenario, Watch::default(), |_| ())).unwrap();
    assert_eq!((report.connects, report.connects_failed, report.lost_connections), (100, 0, 0));
    assert_eq!(report.connect_micros.count, 100);
    assert_eq!(report.series.last().unwrap().connections, 50);
}

/// The null sink publishes no wills, which is what the referee must notice.
#[test]
fn a_will_that_does_not_come_is_lost() {
    let text = "[run]\nduration_secs = 0.4\nwarmup_secs = 0\ndrain_secs = 0.2\n[clients]\ncount = 5\n\
                storm_at_secs = 0.1\nleave = \"vanish\"\nwill = { topic = \"wills/{client}\", qos = 1 }\n\
                [subscribers]\nfilter = \"wills/#\"\nqos = 1\n";
    let broker = NullBroker::start(Faults::default()).unwrap();
    let scenario = Scenario::parse("s.toml", text, &[format!("url={}", broker.url())]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(measure(scenario, Watch::default(), |_| ())).unwrap();
    assert_eq!(report.verdict.broken, ["5 acknowledged and lost"]);
}

#[test]
fn a_slow_subscriber_gets_everything_in_the_end_and_ballast_matches_nothing() {
    let slow = ["subscribers.slow=1", "subscribers.slow_pause_millis=1", "subscribers.ballast=250"];
    let qos = ["publishers.qos=1", "subscribers.qos=1", "publishers.ahead=0"];
    all_arrives(&[&slow[..], &qos[..]].concat(), 1);
}

#[test]
fn several_threads_share_one_ledger() {
    all_arrives(&["run.threads=3", "publishers.qos=1", "subscribers.qos=1"], 1);
}

#[test]
fn telemetry_is_judged_like_binary_payloads() {
    all_arrives(&["publishers.payload.kind=telemetry", "publishers.qos=1", "subscribers.qos=1"], 1);
}

#[test]
fn templates_and_lengths_are_judged_like_any_other_payload() {
    let fields = "publishers.payload.fields={ t = { walk = [-5, 5] }, on = { choice = [true, false] }, n = { counter = 1 } }";
    for kind in ["json", "cbor"] {
        all_arrives(
            &[&format!("publishers.payload.kind={kind}"), fields, "publishers.qos=1", "subscribers.qos=1"],
            1,
        );
    }
    all_arrives(&["publishers.payload.lengths=[40, 64, 3000]"], 1);
}

#[test]
fn an_open_loop_sends_what_the_schedule_says() {
    for arrivals in ["constant", "poisson", "bursts"] {
        let rate = "publishers.rate=20000";
        let report = run(Faults::default(), &[rate, &format!("publishers.arrivals={arrivals}")]);
        assert_eq!((report.load_model.as_str(), report.slip.scheduled), ("open", 12_000));
        assert_eq!((report.latency_micros.count, report.verdict.arrived), (12_000, 12_000));
    }
}

#[test]
fn lost_messages_are_seen() {
    let faults = Faults { lose_every: 100, ..Faults::default() };
    let report = run(faults, &["publishers.qos=1", "subscribers.qos=1", "run.drain_secs=3"]);
    assert_eq!(report.verdict.broken, ["120 acknowledged and lost"]);
    let report = run(faults, &["publishers.ahead=64"]);
    assert!(report.kept(), "QoS 0 promises nothing");
    assert_eq!(report.verdict.lost_qos0, 120, "and the window does not wait for what is lost");
    let report = run(faults, &["run.expect_qos0=true", "publishers.ahead=1000"]);
    assert_eq!(report.verdict.broken, ["120 lost at QoS 0 (expect_qos0 = true)"]);
}

#[test]
fn repeats_are_seen_and_judged_by_qos() {
    let faults = Faults { repeat_every: 50, ..Faults::default() };
    let report = run(faults, &["publishers.qos=1", "subscribers.qos=1"]);
    assert_eq!((report.kept(), report.verdict.duplicates), (true, 240));
    let report = run(faults, &[]);
    assert_eq!(report.verdict.broken, ["240 delivered more than once at QoS 0"]);
    let report = run(faults, &["publishers.qos=2", "subscribers.qos=2"]);
    assert_eq!(report.verdict.broken, ["240 delivered more than once at QoS 2"]);
}

#[test]
fn a_broken_order_is_seen() {
    let report =
        run(Faults { delay_every: 1_000, ..Faults::default() }, &["publishers.qos=1", "subscribers.qos=1"]);
    assert!(report.verdict.out_of_order > 0);
    assert!(!report.kept());
}

#[test]
fn a_flipped_bit_is_seen() {
    let report = run(Faults { corrupt_every: 400, ..Faults::default() }, &["run.drain_secs=3"]);
    assert_eq!(report.verdict.corrupt, 30);
    assert!(report.verdict.broken.contains(&"30 corrupt".to_owned()));
}

#[test]
fn after_a_cut_everything_unacknowledged_is_sent_again_and_nothing_acknowledged_is_lost() {
    let broker = NullBroker::start(Faults::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let wan = Wan::start("127.0.0.1:0", broker.url().trim_start_matches("mqtt://")).await.unwrap();
        let overrides = [
            format!("publishers.url=mqtt://{}", wan.address()),
            format!("subscribers.url={}", broker.url()),
            "run.reconnect=true".to_owned(),
            "publishers.qos=1".to_owned(),
            "subscribers.qos=1".to_owned(),
            "publishers.window=8".to_owned(),
        ];
        let run = Run::start(Scenario::parse("test.toml", PAIRS, &overrides).unwrap()).unwrap();
        run.ready(Duration::from_secs(20)).await.unwrap();
        run.begin();
        for acked in [1_000, 4_000, 8_000] {
            until(|| run.live().acked >= acked).await;
            wan.cut();
            tokio::task::yield_now().await;
            wan.restore();
        }
        until(|| run.is_drained()).await;
        let outcome = run.finish();
        let verdict = outcome.ledger.verdict(Rules::default());
        assert_eq!((verdict.broken, verdict.sent, verdict.arrived), (vec![], 12_000, 12_000));
        assert!(outcome.live.reconnects >= 4, "{:?}", outcome.live);
    });
}

async fn until(happened: impl Fn() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it happens in time");
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    let scenario = Scenario::parse("test.toml", PAIRS, &["url=mqtt://127.0.0.1:1".to_owned()]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(measure(scenario, Watch::default(), |_| ())).unwrap_err().to_string();
    assert!(error.contains("cannot connect to 127.0.0.1:1"), "{error}");
    assert!(error.contains("is the broker running there?"), "{error}");
}
