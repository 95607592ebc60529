//! What the conductor decides, without processes; with processes see `tests/quickstart.rs`.

use super::*;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_outage_is_a_start_and_a_length() {
    assert_eq!("5:10".parse(), Ok(Outage { at: secs(5), lasts: secs(10) }));
    assert_eq!("0.5:0.25".parse::<Outage>().unwrap().at, Duration::from_millis(500));
    for text in ["5", "5:", "a:b", "-1:2", ""] {
        assert!(text.parse::<Outage>().unwrap_err().contains("is not AT:FOR"), "{text}");
    }
}

#[test]
fn outages_switch_the_line_off_and_on_again() {
    let mut outages =
        Outages::new(vec![Outage { at: secs(20), lasts: secs(5) }, Outage { at: secs(2), lasts: secs(3) }]);
    let seen: Vec<_> = (0..30).filter_map(|at| Some((at, outages.due(secs(at))?))).collect();
    assert_eq!(seen, [(2, Line::Down), (5, Line::Up), (20, Line::Down), (25, Line::Up)]);
}

#[test]
fn an_outage_that_is_over_when_we_look_leaves_the_line_up() {
    let mut outages = Outages::new(vec![Outage { at: secs(1), lasts: secs(1) }]);
    assert_eq!((outages.due(secs(9)), outages.due(secs(10))), (Some(Line::Up), None));
}

#[test]
fn a_millrace_is_started_as_the_contract_for_scripts_says() {
    let set = ["uplink.plant.url=mqtt://127.0.0.1:9".to_owned()];
    let arguments = arguments(Path::new("d/gateway"), "127.0.0.1:1883", &set, Path::new("d/g.json"));
    assert_eq!(
        arguments.join(" "),
        "run --profile quickstart --set listener.tcp.bind=127.0.0.1:1883 --set store.path=d/gateway \
         --set http.bind=127.0.0.1:0 --set uplink.plant.url=mqtt://127.0.0.1:9 --ready-file d/g.json"
    );
}

#[test]
fn a_fleet_is_built_in() {
    let scenario = Scenario::parse("fleet", FLEET, &[]).unwrap();
    assert_eq!(scenario.publishers.unwrap().topic.expand(7), "factory/line1/device07/telemetry");
    assert!(scenario.run.reconnect);
}
