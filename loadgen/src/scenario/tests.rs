//! What makes sense is read; what does not is refused with file, key, value found and values allowed.

use super::*;

const LEAST: &str = "[run]\nduration_secs = 1\n[publishers]\nrate = 10\n[subscribers]\n";

fn parse(text: &str, overrides: &[&str]) -> Result<Scenario, String> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    Scenario::parse("s.toml", text, &overrides).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(overrides: &[&str], expected: &str) {
    let error = parse(LEAST, overrides).expect_err("nonsense is refused");
    assert_eq!(error, expected);
}

#[test]
fn the_least_scenario_has_sensible_defaults() {
    let scenario = parse(LEAST, &[]).unwrap();
    let publishers = scenario.publishers.unwrap();
    assert_eq!((publishers.count, publishers.batch, publishers.qos), (1, 64, Qos::AtMostOnce));
    assert_eq!(publishers.pacing, Pacing::Open { rate: 10.0, arrivals: Arrivals::Constant });
    assert_eq!(publishers.payload, PayloadKind::Binary { bytes: 256 });
    assert_eq!(publishers.endpoint.address.to_string(), "127.0.0.1:1883");
    assert_eq!(scenario.run.rules, Rules::default());
}

#[test]
fn overrides_win_and_the_last_one_wins_most() {
    let scenario = parse(
        LEAST,
        &[
            "publishers.count=3",
            "publishers.count=4",
            "url=mqtt://other:1",
            "publishers.payload.kind=telemetry",
        ],
    );
    let scenario = scenario.unwrap();
    let publishers = scenario.publishers.unwrap();
    assert_eq!((publishers.count, publishers.endpoint.address.port), (4, 1));
    assert_eq!(publishers.payload, PayloadKind::Telemetry { form: Form::Json, bytes: None });
    assert_eq!(scenario.source["publishers"]["count"].as_integer(), Some(4));
}

#[test]
fn an_override_takes_the_place_of_what_it_contradicts() {
    let text = "[run]\nduration_secs = 1\n[publishers]\nrate_total = 10\narrivals = \"poisson\"\nqos = 1\nwindow = 9";
    let pacing = |overrides: &[&str]| parse(text, overrides).unwrap().publishers.unwrap().pacing;
    assert_eq!(pacing(&["publishers.rate=max", "publishers.qos=0"]), Pacing::Max);
    let own = pacing(&["publishers.rate=3"]);
    assert_eq!(own, Pacing::Open { rate: 3.0, arrivals: Arrivals::Poisson });
    let last = pacing(&["publishers.rate=max", "publishers.rate_total=8"]);
    assert_eq!(last, Pacing::Open { rate: 8.0, arrivals: Arrivals::Constant });
}

#[test]
fn a_total_rate_is_shared_by_all_publishers() {
    let text = "[run]\nduration_secs = 1\n[publishers]\ncount = 4\nrate_total = 100\narrivals = \"poisson\"";
    let publishers = parse(text, &[]).unwrap().publishers.unwrap();
    assert_eq!(publishers.pacing, Pacing::Open { rate: 25.0, arrivals: Arrivals::Poisson });
}

#[test]
fn each_side_may_have_its_own_broker() {
    let scenario = parse(LEAST, &["subscribers.url=mqtt://plant:1884"]).unwrap();
    assert_eq!(scenario.subscribers.unwrap().endpoint.address.host, "plant");
    assert_eq!(scenario.publishers.unwrap().endpoint.address.host, "127.0.0.1");
}

#[test]
fn an_unknown_key_is_refused_with_the_known_ones() {
    let error = parse(LEAST, &["subscribers.qoss=1"]).unwrap_err();
    assert!(
        error.starts_with("s.toml: subscribers.qoss: not a key of a scenario; here are known: "),
        "{error}"
    );
    assert!(error.contains("client_id, count, filter"), "{error}");
    assert!(parse(LEAST, &["runs.x=1"]).unwrap_err().starts_with("s.toml: runs: not a key"));
}

#[test]
fn an_impossible_value_is_refused_with_the_possible_ones() {
    refused(
        &["publishers.count=0"],
        "s.toml: publishers.count: 0 found, a whole number from 1 to 100000 expected",
    );
    refused(&["publishers.qos=3"], "s.toml: publishers.qos: 3 found, a whole number from 0 to 2 expected");
    refused(
        &["publishers.user_properties=[\"a\"]"],
        "s.toml: publishers.user_properties: a list found, a list of pairs, as in [[\"name\", \"value\"]] expected",
    );
    refused(&["publishers.version=3"], "s.toml: publishers.version: 3 found, \"3.1.1\" or \"5\" expected");
    refused(
        &["publishers.topic=load/#"],
        "s.toml: publishers.topic: not a topic name: it contains a wildcard ('+' or '#'), which a topic name may not",
    );
    refused(
        &["publishers.payload.bytes=10"],
        "s.toml: publishers.payload.bytes: 10 found, a whole number from 40 to 16777216 expected",
    );
    refused(&["publishers.rate=fast"], "s.toml: publishers.rate: \"fast\" found, \"max\" expected");
    refused(
        &["publishers.qos=1", "publishers.window=0"],
        "s.toml: publishers.window: 0 found, a whole number from 1 to 65535 expected",
    );
}

#[test]
fn contradictions_are_refused() {
    let both = "[run]\nduration_secs = 1\n[publishers]\nrate = 10\nrate_total = 5";
    let error = parse(both, &[]).unwrap_err();
    assert_eq!(error, "s.toml: publishers.rate: cannot stand beside rate_total: take one of them");
    refused(
        &["publishers.burst=5"],
        "s.toml: publishers.burst: only means something with arrivals = \"bursts\"",
    );
    refused(
        &["publishers.count=2", "publishers.client_id=same"],
        "s.toml: publishers.client_id: several clients need {publisher} in it, to differ",
    );
    let error = parse("[publishers]\nrate = 1", &[]).unwrap_err();
    assert_eq!(error, "s.toml: run.duration_secs: missing: give it, or publishers.messages");
}

#[test]
fn what_needs_a_partner_is_refused_alone() {
    refused(
        &["publishers.topics=2"],
        "s.toml: publishers.topic: several topics need {topic} in it, to differ",
    );
    refused(
        &["publishers.user_properties=[[\"a\", \"b\"]]"],
        "s.toml: publishers.user_properties: 3.1.1 has none: give version = \"5\" beside them",
    );
    refused(
        &["run.reconnect=true", "publishers.qos=2"],
        "s.toml: publishers.clean: must be false with QoS 2 and run.reconnect: exactly once needs the session to last",
    );
    let error = parse(LEAST, &["subscribers.join=after"]).unwrap_err();
    assert!(error.contains("publishers.retain = true") && error.contains("publishers.qos"), "{error}");
    refused(
        &["publishers.topics=5", "publishers.topic=load/{topic}", "subscribers.filter=load/1"],
        "s.toml: subscribers.filter: matches some topics of a publisher and not others: all or none can be judged",
    );
}

#[test]
fn processes_share_the_connections_without_gap_or_overlap() {
    let mut all = Vec::new();
    for part in 1..=3 {
        let overrides = [format!("run.part={part}/3"), "run.threads=2".to_owned()];
        let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
        let run = parse(LEAST, &overrides).unwrap().run;
        let mine: Vec<u32> = (0..2).flat_map(|thread| run.mine(thread, 10)).collect();
        assert_eq!(run.share(10) as usize, mine.len());
        all.extend(mine);
    }
    all.sort_unstable();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    refused(
        &["run.part=3/2"],
        "s.toml: run.part: \"3/2\" found, PART/PARTS with at most 64 parts expected, as in \"1/3\"",
    );
}

#[test]
fn clients_that_come_again_must_leave_first() {
    let clients = |keys: &str| parse(&format!("[run]\nduration_secs = 1\n[clients]\n{keys}"), &[]);
    let storm = clients("cycles = 2\nstorm_at_secs = 1\nconnect_rate = 100\nleave = \"vanish\"").unwrap();
    let plan = storm.clients.unwrap();
    let start = crate::clock::Micros(0);
    assert_eq!(plan.due(start, 50).0, 500_000);
    assert_eq!(plan.leave_at(start, plan.due(start, 50), 1).map(|at| at.0), Some(1_000_000));
    assert_eq!(plan.leave_at(start, start, 2), None);
    assert!(clients("cycles = 3").unwrap_err().contains("a client comes again only after it left"));
    assert!(clients("will = {}").unwrap_err().contains("\"vanish\" expected beside a will"));
}

#[test]
fn a_recording_has_its_own_timing() {
    let text = "[run]\nduration_secs = 1\n[publishers]\nreplay = \"a.csv\"\n";
    assert_eq!(parse(text, &[]).unwrap().publishers.unwrap().pacing, Pacing::Replay);
    let error = parse(text, &["publishers.rate=5"]).unwrap_err();
    assert!(error.contains("cannot stand beside replay"), "{error}");
}

#[test]
fn an_upstream_has_manners_and_an_address() {
    let text = "[run]\nduration_secs = 1\n[publishers]\nrate = 1\n[upstream]\n";
    let upstream = |keys: &str| parse(&format!("{text}{keys}"), &[]);
    let plan = upstream("refuse = \"a/#\"\nper_second = 2.5").unwrap().upstream.unwrap();
    assert_eq!(plan.manners.refuse.map(|filter| filter.as_str().to_owned()).as_deref(), Some("a/#"));
    assert_eq!((plan.listen.as_str(), plan.manners.per_second), ("127.0.0.1:1884", Some(2.5)));
    assert!(upstream("listen = \"nowhere\"").unwrap_err().contains("ADDRESS:PORT expected"));
    assert!(upstream("refuse = \"a/#/b\"").unwrap_err().contains("upstream.refuse"));
    assert!(upstream("per_second = 0").unwrap_err().contains("upstream.per_second"));
}

const FIELDS: &str =
    "[run]\nduration_secs = 1\n[publishers]\nrate = 1\n[publishers.payload]\nkind = \"json\"\n";

#[test]
fn a_template_has_the_fields_that_it_names() {
    let text = "[publishers.payload.fields]\nsite = \"north\"\ncount = { counter = 1 }\n\
                temperature = { walk = [10, 90.5], step = 0.5, start = 20, digits = 1 }\nload = { random = [0, 100], digits = 0 }\n\
                state = { choice = [\"run\", 3, true] }\nname = { text = \"press{publisher:02}\" }\n\
                axes = [1, { walk = [0, 1] }]\nmotor = { on = true, power = { random = [0, 5.5] } }\n";
    let payload = parse(&format!("{FIELDS}{text}"), &[]).unwrap().publishers.unwrap().payload;
    let PayloadKind::Template { form: Form::Json, fields, bytes: None } = payload else {
        panic!("{payload:?}")
    };
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["axes", "count", "load", "motor", "name", "site", "state", "temperature"]);
    let range = crate::payload::Range { low: 100, high: 905, digits: 1 };
    assert_eq!(fields[7].1, Field::Walk { range, step: 5, start: Some(200) });
    assert!(matches!(&fields[3].1, Field::Object(inner) if inner.len() == 2), "{:?}", fields[3]);
    assert!(matches!(&fields[0].1, Field::List(items) if items.len() == 2), "{:?}", fields[0]);
    let cbor =
        parse(&format!("{FIELDS}{text}"), &["publishers.payload.kind=cbor", "publishers.payload.bytes=600"]);
    let payload = cbor.unwrap().publishers.unwrap().payload;
    assert!(
        matches!(payload, PayloadKind::Template { form: Form::Cbor, bytes: Some(600), .. }),
        "{payload:?}"
    );
}

#[test]
fn a_field_that_makes_no_sense_is_refused_with_what_does() {
    let check = |field: &str, expected: &str| {
        let error = parse(FIELDS, &[&format!("publishers.payload.fields.x={field}")]).unwrap_err();
        assert_eq!(error, format!("s.toml: publishers.payload.fields.x{expected}"));
    };
    let range = "[LOW, HIGH] with LOW below HIGH, both from -1000000000 to 1000000000 expected";
    check("{ walk = [5, 1] }", &format!(".walk: [5, 1] found, {range}"));
    check("{ random = 7 }", &format!(".random: 7 found, {range}"));
    check("{ walk = [0, 1], step = 2 }", ".step: 2 found, a number from 0.01 to 1 expected");
    check("{ walk = [0, 1], start = -1 }", ".start: -1 found, a number from 0 to 1 expected");
    check("{ walk = [0, 1], digits = 9 }", ".digits: 9 found, a whole number from 0 to 6 expected");
    check(
        "{ walk = [0, 1], speed = 2 }",
        ".speed: not a key of a scenario; here are known: digits, start, step, walk",
    );
    check("{ walk = [0, 1], choice = [1] }", ".choice: walk and choice found, one of them expected");
    check("{ choice = [] }", ".choice: [] found, a list of one to 1000 texts, numbers or flags expected");
    check("{ choice = [[1]] }", ".choice: [1] found, a text, a number, true or false expected");
    check(
        "{ text = \"{topic}\" }",
        ".text: \"{topic}\" is not a pattern: only {publisher} and {sequence} is known here, not {topic}",
    );
    check("{ counter = 0.5 }", ".counter: 0.5 found, a whole number from -1000000000 to 1000000000 expected");
    check("1979-05-27", ": 1979-05-27 found, a text, a number, true or false expected");
    check("{ a = [{ walk = 1 }] }", &format!(".a[0].walk: 1 found, {range}"));
}

#[test]
fn a_template_that_cannot_be_is_refused() {
    let check = |overrides: &[&str], expected: &str| {
        let error = parse(FIELDS, overrides).unwrap_err();
        assert!(error.starts_with(&format!("s.toml: publishers.payload.{expected}")), "{error}");
    };
    check(&[], "fields: missing: what kind = \"json\" consists of");
    check(&["publishers.payload.fields={}"], "fields: no field found, at least one expected");
    check(
        &["publishers.payload.fields.seq=1"],
        "fields.seq: every payload has it already, as it has run, publisher",
    );
    let one = "publishers.payload.fields.x=1";
    check(&[one, "publishers.payload.kind=telemetry"], "fields: means nothing with kind = \"telemetry\"");
    check(&[one, "publishers.payload.bytes=90"], "bytes: 90 found, a whole number from ");
    check(&[one, "publishers.payload.lengths=[50]"], "lengths: means nothing with kind = \"json\"");
    let deep = format!("publishers.payload.fields.x={}1{}", "{ a = ".repeat(9), " }".repeat(9));
    check(&[&deep], "fields.x.a.a.a.a.a.a.a.a: too deep: fields lie in at most 8 others");
    let many = format!(
        "publishers.payload.fields.x={{ {} }}",
        (0..1_001).map(|n| format!("f{n} = 1")).collect::<Vec<_>>().join(", ")
    );
    check(&[&many], "fields.x.");
    let lengths = ["publishers.payload.kind=binary", "publishers.payload.lengths=[64, 12]"];
    check(&lengths, "lengths: [64, 12] found, a list of up to 64 whole numbers from 40 to 16777216");
    let both =
        ["publishers.payload.kind=binary", "publishers.payload.lengths=[64]", "publishers.payload.bytes=64"];
    check(&both, "bytes: cannot stand beside lengths: take one of them");
}

#[test]
fn only_5_0_says_what_a_payload_is() {
    refused(
        &["publishers.content_type=\"application/cbor\""],
        "s.toml: publishers.content_type: 3.1.1 has none: give version = \"5\" beside it",
    );
}

#[test]
fn every_error_is_told_at_once() {
    let error = parse(LEAST, &["publishers.count=0", "subscribers.qos=7", "run.threads=0"]).unwrap_err();
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    let error = parse("[run\nduration_secs = 1", &[]).unwrap_err();
    assert!(error.starts_with("s.toml is not valid TOML") && error.contains("line 1"), "{error}");
}

#[test]
fn every_scenario_we_ship_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/scenarios");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let scenario = Scenario::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert!(!scenario.description.is_empty(), "{} says what it is about", path.display());
        assert_eq!(Some(scenario.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
        names.push(scenario.name);
    }
    names.sort();
    let expected = [
        "cbor",
        "conn-storm",
        "fanin",
        "fanout",
        "kill-9",
        "latency",
        "offline-then-drain",
        "p2p",
        "p2p-qos0",
        "p2p-qos1",
        "p2p-qos2",
        "poison",
        "priority-inversion",
        "quickstart",
        "reconnect-storm",
        "retained-load",
        "rules-1",
        "rules-10k",
        "rules-1k",
        "sharedsub",
        "slow",
        "slow-consumer",
        "template",
        "upstream-throttle",
        "user-properties",
        "wildcard-heavy",
        "will-storm",
    ];
    assert_eq!(names, expected);
}
