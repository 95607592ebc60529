//! What the commands print and how they end.

use std::fs;

use clap::{CommandFactory, Parser};
use tempfile::TempDir;

use super::*;

/// Runs a command that needs no router; gives exit code, standard output and standard error.
fn run(arguments: &[&str]) -> (Exit, String, String) {
    let cli = Cli::try_parse_from([&["millrace"], arguments].concat()).expect("arguments");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = match cli.command {
        Command::Check(args) => check(&args, std::iter::empty(), &mut out, &mut err),
        Command::Route(args) => route(&args, &mut out, &mut err),
        Command::Authz(args) => authz(&args, std::iter::empty(), &mut out, &mut err),
        Command::Passwd(args) => passwd(&args, &mut &b""[..], &mut out, &mut err),
        Command::Run(_) | Command::Status(_) | Command::Lanes(_) => panic!("needs a router"),
        Command::Store(args) => store(&args, &mut out, &mut err),
        Command::Identity(args) => identity(&args, &mut out, &mut err),
    };
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (exit.expect("written"), text(out), text(err))
}

struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("a directory"))
    }

    fn add(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).expect("a file");
        path.to_string_lossy().into_owned()
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn run_takes_the_flags_of_the_contract() {
    let arguments = [
        "millrace",
        "run",
        "--config",
        "f.toml",
        "--profile",
        "quickstart",
        "--set",
        "a=1",
        "--set",
        "b=2",
        "--ready-file",
        "r.json",
    ];
    let Command::Run(args) = Cli::try_parse_from(arguments).expect("good").command else { panic!("not run") };
    assert_eq!(args.config.config, Some("f.toml".into()));
    assert_eq!(args.config.profile.as_deref(), Some("quickstart"));
    assert_eq!(args.config.set, ["a=1", "b=2"]);
    assert_eq!(args.ready_file, Some("r.json".into()));
}

#[test]
fn a_usage_error_ends_with_2() {
    let error = Cli::try_parse_from(["millrace", "run", "--confg", "x"]).expect_err("refused");
    assert_eq!(error.exit_code(), Exit::BadConfig as i32);
}

#[test]
fn check_prints_a_plan() {
    let files = Files::new();
    let text = "[uplink.cloud]\nurl = 'mqtt://plant.example:2883'\npace_messages_per_sec = 50\n[routes]\n\
                alarms = { route = 'FROM /messages/* INTO $upstream', priority = 0, ttl = 60, \
                durability = 'memory' }\n";
    let config = files.add("c.toml", text);
    let (exit, out, err) = run(&["check", "--config", &config, "--profile", "quickstart"]);
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    for expected in [
        "tcp  127.0.0.1:1883",
        "127.0.0.1:9883",
        "millrace-data",
        "cloud  MQTT 5 to plant.example port 2883",
        "at most 50 a second",
        "to uplink cloud",
        "priority 0, dropped after 60 s",
        "acknowledged (memory) means: the router holds the message",
        "memory    at most",
    ] {
        assert!(out.contains(expected), "{expected:?} is missing in:\n{out}");
    }
}

/// Each route may drain in its own way where it has a lane of its own; else order holds, and whoever wanted it otherwise is told.
#[test]
fn check_says_how_a_backlog_drains_and_whose_order_holds() {
    let files = Files::new();
    let text = "uplink.plant = { url = 'mqtt://h', history_share_percent = 40 }\n[routes]\n\
                own = { route = 'FROM \"a\" INTO $upstream', priority = 1, drain = 'live-first' }\n\
                shared = { route = 'FROM \"b\" INTO $upstream', drain = 'live-first' }\n\
                usual = 'FROM \"c\" INTO $upstream'\n";
    let config = files.add("c.toml", text);
    let (exit, out, err) = run(&["check", "--config", &config, "--profile", "quickstart"]);
    assert_eq!(exit, Exit::Done, "{err}");
    for expected in [
        "a backlog for plant drains live-first: what comes after a reconnect passes what waited, which keeps 40 % of",
        "a backlog for plant drains in-order, although it wants live-first: route usual keeps order in the same lane",
        "a backlog for plant drains in-order: what waited goes before what comes after it",
    ] {
        assert_eq!(out.matches(expected).count(), 1, "{expected:?} in:\n{out}");
    }
    let warned =
        "routes.shared.drain: is live-first, which means nothing: route usual keeps order in the same lane";
    assert!(format!("{out}{err}").contains(warned), "{out}{err}");
    let (_, out, _) = run(&["route", "explain", &config]);
    assert_eq!(out.matches("a backlog drains live-first, if no other route").count(), 2, "{out}");

    // What the uplink says holds for those who say nothing, and a route of its own lane may want it otherwise.
    let text = "uplink.plant = { url = 'mqtt://h', drain = 'live-first' }\n[routes]\n\
                own = { route = 'FROM \"a\" INTO $upstream', priority = 1, drain = 'in-order' }\n\
                usual = 'FROM \"c\" INTO $upstream'\n";
    let config = files.add("d.toml", text);
    let (exit, out, err) = run(&["check", "--config", &config, "--profile", "quickstart"]);
    assert_eq!(exit, Exit::Done, "{err}");
    assert!(out.contains("drains live-first") && out.contains("drains in-order: "), "{out}");
    assert!(!format!("{out}{err}").contains("means nothing"), "{out}{err}");
}

/// Whoever says how long a message waits, the plan repeats it.
#[test]
fn check_says_for_how_long_a_message_is_kept() {
    let files = Files::new();
    let manifest = |ttl: &str| {
        format!(
            r#"{{ "modulesContent": {{ "$edgeHub": {{ "properties.desired": {{ "schemaVersion": "1.1",
               "routes": {{ "up": "FROM /messages/* INTO $upstream" }},
               "storeAndForwardConfiguration": {{ {ttl} }} }} }} }} }}"#
        )
    };
    let said = files.add("said.json", &manifest(r#""timeToLiveSecs": 7200"#));
    let for_ever = files.add("for-ever.json", &manifest(r#""timeToLiveSecs": -1"#));
    let edge = "uplink.cloud.url = 'mqtt://h'\nedge.config_source = 'manifest'\n";
    let route = "uplink.cloud.url = 'mqtt://h'\nroutes.up = 'FROM /messages/* INTO $upstream'\n";
    for (text, expected) in [
        (format!("{edge}edge.manifest = '{said}'\n"), "dropped after 7200 s"),
        (format!("{edge}edge.manifest = '{said}'\nrouting.ttl = 60\n"), "dropped after 7200 s"),
        (format!("{edge}edge.manifest = '{for_ever}'\nrouting.ttl = 60\n"), "kept until delivered"),
        (format!("{route}routing.ttl = 60\n"), "dropped after 60 s"),
        (route.to_owned(), "kept until delivered"),
    ] {
        let config = files.add("c.toml", &text);
        let (exit, out, err) = run(&["check", "--config", &config, "--profile", "quickstart"]);
        assert!(exit == Exit::Done && out.contains(expected), "{expected:?} is missing in:\n{out}{err}");
    }
}

#[test]
fn check_prints_every_mistake_and_ends_with_2() {
    let files = Files::new();
    let config = files.add("c.toml", "shards = 'x'\nlog.levl = 'y'\n");
    let (exit, out, err) = run(&["check", "--config", &config]);
    assert_eq!((exit, out.as_str()), (Exit::BadConfig, ""));
    let expected = format!(
        "{config}:1: shards: is not allowed\n    found: \"x\"\n    allowed: a whole number from 0 to 64\n\
         {config}:2: log.levl: is not a key\n    allowed: level, format\n    \
         hint: did you mean log.level?\n2 mistakes in the configuration\n"
    );
    assert_eq!(err, expected);
}

#[test]
fn route_check_takes_toml_and_plain_lines() {
    let files = Files::new();
    let toml =
        files.add("c.toml", "shards = 'ignored here'\nroutes.up = 'FROM /messages/* INTO $upstream'\n");
    let (exit, out, _) = run(&["route", "check", &toml]);
    assert_eq!(exit, Exit::Done);
    assert!(out.contains("up  priority default  to $upstream\n1 routes, all good"), "{out}");

    let lines = files.add("r.txt", "# two routes\n\nFROM /messages/* INTO $upstream\nFROM nowhere\n");
    let (exit, _, err) = run(&["route", "check", &lines]);
    assert_eq!(exit, Exit::BadConfig);
    assert!(err.starts_with(&format!("{lines}:4: routes.line-4: ")), "{err}");
}

#[test]
fn route_test_shows_where_a_message_goes() {
    let files = Files::new();
    let text = "FROM /messages/* WHERE $body.temp > 20 INTO $upstream\nFROM 'plant/#' INTO uplink('hist')\n";
    let routes = files.add("r.txt", text);
    let hot = files.add("m.json", r#"{"topic": "plant/a", "body": {"temp": 21}}"#);
    let (exit, out, err) = run(&["route", "test", &routes, "--message", &hot]);
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    assert!(out.contains("line-1: matches, to $upstream, priority default"), "{out}");
    assert!(out.contains("line-2: matches, to uplink(\"hist\")"), "{out}");
    assert!(out.ends_with("2 of 2 routes match\n"), "{out}");
}

#[test]
fn route_test_says_why_a_route_does_not_match() {
    let files = Files::new();
    let text = "FROM /messages/* WHERE $body.temp > 20 INTO $upstream\nFROM 'plant/#' INTO uplink('hist')\n";
    let routes = files.add("r.txt", text);
    let cold = files.add("m.json", r#"{"topic": "other", "body": {"temp": 19}}"#);
    let (_, out, _) = run(&["route", "test", &routes, "--message", &cold]);
    assert!(
        out.contains("line-1: its condition is false\n    $body.temp > 20 is false: $body.temp = 19"),
        "{out}"
    );
    assert!(out.contains("line-2: not from its source \"plant/#\""), "{out}");
    assert!(out.ends_with("0 of 2 routes match\n"), "{out}");
}

#[test]
fn route_test_shows_what_a_selection_sends() {
    let files = Files::new();
    let text = "SELECT * EXCEPT $body.secret FROM 'plant/#' INTO topic 'clean/{$topic[1]}'\n";
    let routes = files.add("r.txt", text);
    let message = files.add("m.json", r#"{"topic": "plant/a", "body": {"temp": 21, "secret": 1}}"#);
    let (_, out, _) = run(&["route", "test", &routes, "--message", &message]);
    assert!(out.contains("as topic clean/a") && out.contains("sends {\"temp\":21}"), "{out}");
}

#[test]
fn route_explain_says_how_each_route_is_found() {
    let files = Files::new();
    let text = "FROM /messages/* WHERE $body.line = 'a' INTO $upstream\nFROM /messages/* INTO $upstream\n";
    let (exit, out, _) = run(&["route", "explain", &files.add("r.txt", text)]);
    assert_eq!(exit, Exit::Done);
    assert!(out.contains("line-1: from /messages/*"), "{out}");
    assert!(out.contains("reads $body.line") && out.contains("always matches"), "{out}");
}

#[test]
fn route_test_refuses_a_message_it_does_not_understand() {
    let files = Files::new();
    let routes = files.add("r.txt", "FROM /messages/* INTO $upstream\n");
    for message in
        [r#"{"topc": "x"}"#, "[]", r#"{"topic": "a/#"}"#, r#"{"qos": 3}"#, r#"{"body": 1, "text": ""}"#]
    {
        let message = files.add("m.json", message);
        let (exit, _, err) = run(&["route", "test", &routes, "--message", &message]);
        assert_eq!(exit, Exit::BadConfig);
        assert!(!err.is_empty());
    }
    let (exit, _, _) = run(&["route", "test", &routes, "--prop", "no-value"]);
    assert_eq!(exit, Exit::BadConfig);
}

#[test]
fn route_test_takes_properties_from_the_command_line() {
    let files = Files::new();
    let routes = files.add("r.txt", "FROM /messages/* WHERE level = 'high' AND site = 'A' INTO $upstream\n");
    for (level, expected) in [("level=high", "1 of 1 routes match\n"), ("level=low", "0 of 1 routes match\n")]
    {
        let (exit, out, err) = run(&["route", "test", &routes, "--prop", level, "--prop", "site=A"]);
        assert_eq!(exit, Exit::Done, "{err}");
        assert!(out.ends_with(expected), "{level}: {out}");
    }
}

#[test]
fn identities_are_made_shown_and_changed() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("identities.json").display().to_string();
    let identity = |arguments: &[&str]| run(&[&["identity", "--file", &file], arguments].concat());
    for (arguments, expected) in [
        (&["create", "d1"][..], "create the gateway itself first, with --edge"),
        (&["list"], "No such file"),
        (&["create", "a b", "--edge"], "is no id"),
    ] {
        let (exit, _, err) = identity(arguments);
        assert_eq!(exit, Exit::BadConfig, "{arguments:?}");
        assert!(err.contains(expected), "{err}");
    }
    for arguments in [
        &["create", "gw1", "--edge"][..],
        &["create", "d1"],
        &["create", "gw1/filter"],
        &["create", "x1", "--authority"],
        &["create", "gw2", "--edge"],
        &["create", "d2", "--parent", "gw2"],
        &["rotate", "d1"],
        &["disable", "d1"],
        &["delete", "d2"],
    ] {
        let (exit, _, err) = identity(arguments);
        assert_eq!(exit, Exit::Done, "{arguments:?}: {err}");
    }
    let (_, list, _) = identity(&["list"]);
    let lines: Vec<String> =
        list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "gw1 sas edge gateway",
        "gw1/$edgeHub sas",
        "d1 sas disabled",
        "x1 certificateAuthority",
        "gw2 sas edge",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line}\n{list}");
    }
    assert!(!list.contains("d2"), "{list}");
    let (_, string, _) = identity(&["show", "gw1/filter", "--host", "gw.local"]);
    assert!(
        string.starts_with("HostName=gw.local;DeviceId=gw1;ModuleId=filter;SharedAccessKey="),
        "{string}"
    );
    let (_, token, _) = identity(&["token", "gw1/filter", "--host", "gw.local"]);
    assert!(
        token.starts_with("SharedAccessSignature sr=gw.local%2Fdevices%2Fgw1%2Fmodules%2Ffilter&sig="),
        "{token}"
    );
    let (exit, _, err) = identity(&["token", "x1"]);
    assert_eq!(exit, Exit::BadConfig);
    assert!(err.contains("x1 has no keys"), "{err}");
}

#[test]
fn a_check_tells_the_place_in_iot_edge_and_asks_no_runtime() {
    let (exit, out, err) = run(&[
        "check",
        "--set=edge.device_id=gw1",
        "--set=edge.hub_host=hub.example",
        "--set=edge.generation_id=1",
        "--set=edge.workload_uri=unix:///nowhere/workload.sock",
        "--set=listener.tls.bind=127.0.0.1:0",
        "--set=listener.tls.certificate=edge",
        "--set=listener.tls.identities=iothub",
    ]);
    assert_eq!(exit, Exit::Done, "{err}");
    assert!(out.contains("edge      gw1/$edgeHub as "), "{out}");
    assert!(out.contains("identities from the device scope at hub.example, any number of them"), "{out}");
}
