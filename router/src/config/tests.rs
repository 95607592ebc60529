//! What operators may write, what they are told, and what the router then runs on.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::config::schema::Allowed;

mod budgets;
mod edge;
mod listeners;
mod topics;
mod transport;

/// A file with this text, and the flags that name it.
fn file(text: &str) -> (TempDir, ConfigArgs) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("gateway.toml");
    fs::write(&path, text).expect("a file");
    (directory, ConfigArgs { config: Some(path), ..ConfigArgs::default() })
}

fn host() -> Host {
    Host { name: "gate7".to_owned(), cores: 3 }
}

fn check_layers(text: &str, env: &[(&str, &str)], set: &[&str]) -> Result<Config, ConfigErrors> {
    let (_directory, args) = file(text);
    let args = ConfigArgs { set: set.iter().map(|flag| flag.to_string()).collect(), ..args };
    let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Config::check(&sources::collect(&args, env), &host())
}

#[track_caller]
fn good(text: &str, env: &[(&str, &str)], set: &[&str]) -> Config {
    match check_layers(text, env, set) {
        Ok(config) => config,
        Err(errors) => panic!("refused:\n{errors}"),
    }
}

#[track_caller]
fn bad(text: &str, env: &[(&str, &str)], set: &[&str]) -> Vec<ConfigError> {
    match check_layers(text, env, set) {
        Ok(_) => panic!("accepted: {text}"),
        Err(errors) => errors.iter().cloned().collect(),
    }
}

/// Expects exactly one mistake: at this key, with this in what is allowed, and this in the hint.
#[track_caller]
fn refused(text: &str, key: &str, allowed: &str, hint: &str) {
    let errors = bad(text, &[], &[]);
    let [error] = errors.as_slice() else { panic!("{errors:#?}") };
    assert_eq!(error.key, key);
    assert!(error.allowed.as_deref().unwrap_or_default().contains(allowed), "{error}");
    assert!(error.hint.as_deref().unwrap_or_default().contains(hint), "{error}");
}

#[test]
fn an_empty_file_gives_a_complete_configuration() {
    let config = good("", &[], &[]);
    assert_eq!(config.shards, 1, "one for two cores, whole ones");
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].name, "tcp");
    assert_eq!(config.limits, model::Limits::DEFAULT);
    assert!(config.store.sync && !config.auth.anonymous);
    assert_eq!(config.http, None);
    assert_eq!(config.session.durability, Durability::Disk);
    assert_eq!(config.log, Log { filter: "info".to_owned(), format: LogFormat::Text });
}

#[test]
fn no_configuration_file_at_all_is_the_default_profile() {
    let args = ConfigArgs::default();
    let config = Config::check(&sources::collect(&args, std::iter::empty()), &host()).expect("good");
    assert_eq!(config.store.path, PathBuf::from("/var/lib/millrace"));
}

#[test]
fn a_stronger_layer_wins_key_by_key() {
    let text =
        "[listener.tcp]\nbind = '127.0.0.1:2000'\n[store]\npath = 'from-file'\nmemtable_bytes = 2_000_000";
    let env = [("MILLRACE__STORE__PATH", "from-env"), ("MILLRACE__LISTENER__TCP__BIND", "127.0.0.1:3000")];
    let set = ["listener.tcp.bind=127.0.0.1:4000", "listener.tcp.bind=127.0.0.1:5000"];

    let profile = good("", &[], &[]);
    assert_eq!(profile.listeners[0].bind.to_string(), "0.0.0.0:1883");
    let with_file = good(text, &[], &[]);
    assert_eq!(with_file.listeners[0].bind.to_string(), "127.0.0.1:2000");
    assert_eq!(with_file.store.path, PathBuf::from("from-file"));
    let with_env = good(text, &env, &[]);
    assert_eq!(with_env.listeners[0].bind.to_string(), "127.0.0.1:3000");
    assert_eq!(with_env.store.path, PathBuf::from("from-env"));
    assert_eq!(with_env.store.memtable_bytes, 2_000_000, "nobody stronger wrote this one");
    let with_flags = good(text, &env, &set);
    assert_eq!(with_flags.listeners[0].bind.to_string(), "127.0.0.1:5000", "the last flag wins");
    assert_eq!(with_flags.store.path, PathBuf::from("from-env"));
}

#[test]
fn a_profile_is_weaker_than_the_file() {
    let (_directory, args) = file("auth.anonymous = false");
    let args = ConfigArgs { profile: Some("quickstart".to_owned()), ..args };
    let config = Config::check(&sources::collect(&args, std::iter::empty()), &host()).expect("good");
    assert!(!config.auth.anonymous, "the file says so");
    assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:1883", "the profile says so");
}

#[test]
fn a_wrong_value_that_a_stronger_layer_replaces_does_no_harm() {
    assert_eq!(good("shards = 100000", &[], &["shards=2"]).shards, 2);
}

#[test]
fn the_environment_carries_text_and_the_key_says_what_it_means() {
    let env = [
        ("MILLRACE__SHARDS", "2"),
        ("MILLRACE__AUTH__ANONYMOUS", "true"),
        ("MILLRACE__STORE__MEMTABLE_BYTES", "8_388_608"),
        ("MILLRACE__UPLINK__CLOUD__URL", "mqtt://cloud.example"),
        ("MILLRACE__UPLINK__CLOUD__VERSION", "5"),
        ("MILLRACE__UPLINK__CLOUD__USER", "gate"),
        ("MILLRACE__UPLINK__CLOUD__PASSWORD", "12345"),
        ("MILLRACE__ROUTES__ALL", "FROM /messages/* INTO $upstream"),
        ("PATH", "/bin"),
        ("MILLRACE_OTHER", "not ours"),
    ];
    let config = good("", &env, &[]);
    assert_eq!(config.shards, 2);
    assert!(config.auth.anonymous);
    assert_eq!(config.store.memtable_bytes, 8 << 20);
    let uplink = &config.uplinks[0];
    assert_eq!(
        (uplink.name.as_str(), uplink.transport.host.as_str(), uplink.transport.port),
        ("cloud", "cloud.example", 1883)
    );
    assert_eq!(uplink.version, MqttVersion::V5);
    assert_eq!(uplink.password.as_ref().map(Secret::reveal), Some("12345"));
    assert_eq!(config.routes[0].spec.name, "all");
}

#[test]
fn the_environment_finds_names_that_the_file_spells_with_capitals_and_hyphens() {
    let text = "[uplink.Plant-North]\nurl = 'mqtt://a'";
    let config = good(text, &[("MILLRACE__UPLINK__PLANT_NORTH__URL", "mqtt://b")], &[]);
    assert_eq!(config.uplinks.len(), 1);
    assert_eq!(
        (config.uplinks[0].name.as_str(), config.uplinks[0].transport.host.as_str()),
        ("Plant-North", "b")
    );
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let errors = bad("", &[("MILLRACE__STORE__SYNK", "true"), ("MILLRACE____X", "1")], &[]);
    assert_eq!(errors.len(), 2, "{errors:#?}");
    let synk = errors.iter().find(|error| error.key == "store.synk").expect("reported");
    assert_eq!(synk.origin, Origin::Environment("MILLRACE__STORE__SYNK".into()));
    assert_eq!(synk.hint.as_deref(), Some("did you mean store.sync?"));
}

#[test]
fn flags_take_bare_text_quoted_text_and_tables() {
    let set = [
        "uplink.up.url=mqtt://h:2883",
        "uplink.up.topic_prefix=\"plant = 7/\"",
        "routes.a=FROM /messages/* WHERE x = 1 INTO $upstream",
        "routes.\"b.c\"={ route = \"FROM /messages/* INTO $upstream\", priority = 3 }",
        "routes.\"b.c\".ttl=60",
        "log.format=json",
        " shards =2",
    ];
    let config = good("", &[], &set);
    assert_eq!(config.uplinks[0].transport.port, 2883);
    assert_eq!(config.uplinks[0].topic_prefix, "plant = 7/");
    assert_eq!(config.routes[0].spec.text, "FROM /messages/* WHERE x = 1 INTO $upstream");
    let second = &config.routes[1].spec;
    assert_eq!((second.name.as_str(), second.priority.get(), second.ttl_millis), ("b.c", 3, Some(60_000)));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.shards, 2);
}

#[test]
fn a_flag_without_key_or_value_is_a_mistake() {
    for flag in ["shards", "=2", "a b=2", "listener..bind=x", "x\ny=1"] {
        let errors = bad("", &[], &[flag]);
        assert!(errors.iter().any(|error| error.origin == Origin::Set && error.key.is_empty()), "{flag}");
    }
}

#[test]
fn a_route_written_as_text_may_get_its_priority_from_a_stronger_layer() {
    let text = "uplink.up.url = 'mqtt://h'\nroutes.a = 'FROM /messages/* INTO $upstream'";
    let config = good(text, &[("MILLRACE__ROUTES__A__PRIORITY", "2")], &["routes.a.durability=memory"]);
    let route = &config.routes[0];
    assert_eq!(route.spec.text, "FROM /messages/* INTO $upstream");
    assert_eq!(route.spec.priority.get(), 2);
    assert_eq!(route.durability, Durability::Memory);
}

#[test]
fn every_mistake_is_reported_at_once_and_with_its_line() {
    let text =
        "shards = -1\n[store]\npath = 7\nsink = true\n[uplink.x]\nwindow = 0\n[routes]\nr = 'nonsense'\n";
    let errors = bad(text, &[("MILLRACE__LOG__FORMAT", "xml")], &["http.bind=here"]);
    let seen: Vec<_> = errors
        .iter()
        .map(|error| {
            let line = if let Origin::File { line, .. } = &error.origin { *line } else { None };
            (error.key.as_str(), line)
        })
        .collect();
    let expected = [
        ("shards", Some(1)),
        ("store.path", Some(3)),
        ("store.sink", Some(4)),
        ("uplink.x.url", Some(5)),
        ("uplink.x.window", Some(6)),
        ("routes.r", Some(8)),
        ("log.format", None),
        ("http.bind", None),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_line_that_is_not_toml_does_not_hide_the_others_and_invents_none() {
    let errors = bad(
        "[uplink.up\nurl = 'mqtt://h'\n[store]\npath = \nsynk = 1\n[routes]\n\
         a = 'FROM /messages/* INTO $upstream'",
        &[],
        &[],
    );
    assert!(
        errors.iter().filter(|error| error.problem.contains("not valid TOML")).count() >= 2,
        "{errors:#?}"
    );
    assert!(errors.iter().any(|error| error.key == "store.synk"), "{errors:#?}");
    assert!(!errors.iter().any(|error| error.key == "routes.a"), "{errors:#?}");
}

#[test]
fn a_file_cut_or_damaged_anywhere_is_judged_without_a_panic() {
    let text = "shards = 2 # two\n[listener.tcp]\nbind = \"[::1]:0\"\n[uplink.'ü p']\nurl = 'mqtt://h'\n\
                [routes]\na = { route = \"FROM /messages/* INTO $upstream\", ttl = 1_0 }\n";
    for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
        for damage in ["", "\"", "=", "[", "}", "\n", "\u{0}", "€"] {
            for rest in ["", &text[at..]] {
                // Which mistakes are found does not matter here; that they can be shown does.
                let mut raw = Raw::default();
                raw.add_document(&[&text[..at], damage, rest].concat(), &|_| Origin::Nowhere);
                if let Err(errors) = Config::check(&raw, &host()) {
                    assert!(errors.to_string().lines().count() > 1);
                }
            }
        }
    }
}

#[test]
fn a_key_written_twice_is_a_mistake() {
    let errors = bad("shards = 1\nshards = 2", &[], &[]);
    assert!(errors.iter().any(|error| error.problem.contains("duplicate key")), "{errors:#?}");
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake() {
    let args = ConfigArgs { config: Some("/nowhere/millrace.toml".into()), ..ConfigArgs::default() };
    let errors = load(&args, std::iter::empty()).expect_err("refused");
    assert!(errors.to_string().starts_with("/nowhere/millrace.toml: cannot be read"), "{errors}");
}

#[test]
fn a_profile_that_does_not_exist_is_a_mistake() {
    let args = ConfigArgs { profile: Some("gatway".to_owned()), ..ConfigArgs::default() };
    let errors = load(&args, std::iter::empty()).expect_err("refused");
    let error = errors.iter().next().expect("one");
    assert_eq!(error.key, "--profile");
    assert_eq!(error.hint.as_deref(), Some("did you mean gateway?"));
    assert!(error.allowed.as_deref().unwrap_or_default().contains("quickstart, gateway-small, gateway"));
}

#[test]
fn values_outside_their_range_are_refused() {
    refused("shards = 65", "shards", "from 0 to 64", "");
    refused("shards = -1", "shards", "from 0 to 64", "");
    refused("shards = 99999999999999999999999", "shards", "from 0 to 64", "");
    refused("limits.session_inflight_max = 65536", "limits.session_inflight_max", "from 1 to 65535", "");
    refused("limits.connections_max = 0", "limits.connections_max", "from 1 to", "");
    refused("store.memtable_bytes = 1000", "store.memtable_bytes", "from 1048576 to 1073741824", "");
    refused("uplink.a = { url = 'mqtt://h', window = 32767 }", "uplink.a.window", "from 1 to 32766", "");
    refused(
        "uplink.a = { url = 'mqtt://h', keep_alive_secs = 65536 }",
        "uplink.a.keep_alive_secs",
        "from 0 to 65535",
        "",
    );
}

#[test]
fn values_of_the_wrong_type_are_refused() {
    refused("shards = 'many'", "shards", "a whole number", "");
    refused("shards = 1.5", "shards", "a whole number", "");
    refused("shards = '2'", "shards", "a whole number", "");
    refused("auth.anonymous = 'yes'", "auth.anonymous", "true or false", "");
    refused("auth.anonymous = 1", "auth.anonymous", "true or false", "");
    refused("store.path = 5", "store.path", "text that is not empty", "write it in quotes: \"5\"");
    refused("store.path = ''", "store.path", "text that is not empty", "");
    refused("listener.tcp.bind = ['127.0.0.1:1']", "listener.tcp.bind", "IP:PORT", "");
    refused("log.level = 2024-01-01", "log.level", "off, error, warn", "");
    refused(
        "uplink.a = { url = 'mqtt://h', version = 5 }",
        "uplink.a.version",
        "\"5\" or \"3.1.1\"",
        "\"5\"",
    );
}

#[test]
fn a_table_in_place_of_a_value_is_refused_and_the_other_way_round() {
    refused("[shards]\ncount = 2", "shards", "a whole number", "");
    refused("store = 'here'", "store", "path, memtable_bytes, sync", "");
    refused("uplink.url = 'mqtt://h'", "uplink.url", "kind, url", "uplink.NAME.url");
    refused("[[routes]]\nroute = 'x'", "routes", "a table", "");
}

#[test]
fn addresses_are_refused_with_what_is_probably_meant() {
    for (value, hint) in [
        ("127.0.0.1:65536", "the largest port is 65535"),
        (":1883", "0.0.0.0:1883"),
        ("*:1883", "0.0.0.0:1883"),
        ("localhost:1883", "127.0.0.1:1883"),
        ("127.0.0.1", "the port is missing"),
        ("1883", "the address is missing"),
        ("::1:1883", "[::1]:1883"),
        ("gateway.example:1883", ""),
    ] {
        refused(&format!("listener.tcp.bind = '{value}'"), "listener.tcp.bind", "IP:PORT", hint);
    }
}

#[test]
fn addresses_with_port_zero_and_ipv6_are_taken() {
    let config = good("listener.tcp.bind = '[::1]:0'\nhttp.bind = '127.0.0.1:0'", &[], &[]);
    assert_eq!(config.listeners[0].bind.to_string(), "[::1]:0");
    assert_eq!(config.http.map(|bind| bind.port()), Some(0));
}

#[test]
fn an_empty_http_address_turns_off_what_the_profile_turned_on() {
    let (_directory, args) = file("http.bind = ''");
    let args = ConfigArgs { profile: Some("quickstart".to_owned()), ..args };
    let config = Config::check(&sources::collect(&args, std::iter::empty()), &host()).expect("good");
    assert_eq!(config.http, None);
}

#[test]
fn urls_of_uplinks_are_taken_apart() {
    for (url, host, port) in [
        ("mqtt://cloud", "cloud", 1883),
        ("mqtt://cloud:8000/", "cloud", 8000),
        ("tcp://10.0.0.1:1", "10.0.0.1", 1),
        ("mqtt://[fe80::1]", "fe80::1", 1883),
        ("mqtt://[fe80::1]:77", "fe80::1", 77),
        ("mqtts://cloud", "cloud", 8883),
        ("mqtts://cloud:443", "cloud", 443),
        ("wss://cloud", "cloud", 443),
        ("ws://cloud:8080/broker/mqtt", "cloud", 8080),
    ] {
        let config = good(&format!("uplink.a.url = '{url}'"), &[], &[]);
        assert_eq!(
            (config.uplinks[0].transport.host.as_str(), config.uplinks[0].transport.port),
            (host, port),
            "{url}"
        );
    }
    for (url, hint) in [
        ("cloud:1883", "write mqtt://cloud:1883"),
        ("wss://cloud/a b", "a path has no spaces"),
        ("http://cloud", ""),
        ("mqtt://me:secret@cloud", "user and password have keys of their own"),
        ("mqtt://cloud/topic", "nothing may follow the port"),
        ("mqtt://cloud:0", "1 to 65535"),
        ("mqtt://cloud:70000", "1 to 65535"),
        ("mqtt://:1883", "the host is missing"),
        ("mqtt://::1:1883", "in brackets"),
    ] {
        refused(&format!("uplink.a.url = '{url}'"), "uplink.a.url", "mqtt://HOST:PORT", hint);
    }
}

#[test]
fn a_key_that_does_not_exist_is_refused_with_the_nearest_one() {
    for (key, hint) in [
        ("listener.tcp.bnid", "did you mean listener.tcp.bind?"),
        ("listeners.tcp.bind", "did you mean listener.tcp.bind?"),
        ("stroe.path", "did you mean store.path?"),
        ("shard", "did you mean shards?"),
        ("anonymous", "did you mean auth.anonymous?"),
        ("uplink.a.keep_alive", "did you mean uplink.a.keep_alive_secs?"),
        ("uplink.a.clientid", "did you mean uplink.a.client_id?"),
        ("routes.a.ttl_secs", "did you mean routes.a.ttl?"),
        ("limits.conections_max", "did you mean limits.connections_max?"),
        ("entirely.unlike", ""),
    ] {
        let errors = bad("", &[], &[&format!("{key}=1")]);
        let error = errors.iter().find(|error| error.key == key).unwrap_or_else(|| panic!("{errors:#?}"));
        assert_eq!(error.problem, "is not a key");
        assert_eq!(error.hint.as_deref().unwrap_or_default(), hint);
    }
}

#[test]
fn an_unknown_key_comes_with_its_neighbours() {
    refused("[store]\nsize = 1", "store.size", "path, memtable_bytes, sync", "");
    refused("[nothing]", "nothing", "shards, listener, store", "");
}

#[test]
fn what_later_versions_bring_is_refused_and_never_ignored() {
    let text = "uplink.a = { url = 'mqtt://h', kind = 'kafka' }\nsession.durability = 'memory'";
    let errors = bad(text, &[], &[]);
    let seen: Vec<_> = errors.iter().map(|error| (error.key.as_str(), error.problem.as_str())).collect();
    let problem = "is not available in this version";
    assert_eq!(seen, [("uplink.a.kind", problem), ("session.durability", problem)]);
    assert_eq!(errors[1].allowed.as_deref(), Some("\"disk\""));
}

#[test]
fn an_uplink_is_complete_without_anything_but_its_url() {
    let config = good("uplink.cloud.url = 'mqtt://h'", &[], &[]);
    let expected = Uplink {
        name: "cloud".to_owned(),
        kind: UplinkKind::Mqtt,
        hub: None,
        transport: Transport { host: "h".to_owned(), port: 1883, tls: None, websocket: None, proxy: None },
        failover: Failover { transports: Vec::new(), attempts: 3, return_secs: 300 },
        required: false,
        version: MqttVersion::V5,
        client_id: "millrace-gate7-cloud".to_owned(),
        user: None,
        password: None,
        keep_alive_secs: 60,
        window: model::Limits::DEFAULT.uplink_inflight_max,
        topic_prefix: String::new(),
        topics: Topics {
            entries: Vec::new(),
            inbound: Vec::new(),
            qos: broker::uplink::Wish::Be(model::Qos::AtLeastOnce),
            keeps_retain: true,
            properties: Properties::Drop,
            id_property: Some("millrace-id".to_owned()),
        },
        backoff_min_millis: 500,
        backoff_max_millis: 60_000,
        pace_messages_per_sec: None,
        forwarding: Forwarding {
            pace_bytes_per_sec: 0,
            weighted: false,
            drain: Drain::InOrder,
            history_share_percent: 25,
            drain_jitter_millis: 0,
            spill_after_millis: 1_000,
            attempts_max: 5,
            poison_messages_max: 10_000,
            poison_bytes_max: 64 << 20,
        },
        pacing: Pacing {
            window_min: 4,
            connect_timeout_secs: 15,
            ack_timeout_secs: 60,
            hours: Hours::default(),
            hours_always: None,
        },
        compression: None,
        bytes_max: None,
        when_full: WhenFull::Refuse,
    };
    assert_eq!(config.uplinks, [expected]);
}

#[test]
fn hours_and_the_window_of_an_uplink_are_judged() {
    let config = good(
        "uplink.a = { url = 'mqtts://h', hours = '22:00-06:00', hours_utc_offset = '+02:00', hours_always = 1, window = 3 }",
        &[],
        &[],
    );
    let pacing = &config.uplinks[0].pacing;
    assert_eq!(pacing.hours.to_string(), "22:00-06:00 UTC+02:00");
    assert_eq!(pacing.hours_always, model::Priority::new(1).ok());
    assert_eq!(pacing.window_min, 3, "the default follows a smaller window");
    // 120 pings an hour: request and answer with what IP, TCP and TLS add, and the acknowledgement of TCP.
    assert_eq!(config.uplinks[0].idle_bytes_per_hour(), 120 * (76 + 76 + 52));
    assert_eq!(config.uplinks[0].looks_per_hour(), None);
    let looks = |more: &str| {
        let text = format!("uplink.a = {{ url = 'mqtts://h', failover = ['mqtts://i'], {more} }}");
        good(&text, &[], &[]).uplinks[0].looks_per_hour()
    };
    assert_eq!(looks("failover_attempts = 2"), Some((12, 12 * (7 * 52 + 5_000))), "every 300 s");
    assert_eq!(looks("failover_return_secs = 0"), None);
    let config = good("uplink.a = { url = 'wss://h' }", &[], &[]);
    assert_eq!(
        config.uplinks[0].idle_bytes_per_hour(),
        120 * (82 + 78 + 52),
        "frames of WebSocket, ours with a mask"
    );
    refused("uplink.a = { url = 'mqtt://h', hours = '22-6' }", "uplink.a.hours", "22:00-06:00", "");
    refused("uplink.a = { url = 'mqtt://h', hours_always = 1 }", "uplink.a.hours_always", "", "add hours");
    refused(
        "uplink.a = { url = 'mqtt://h', hours = '08:00-09:00', hours_utc_offset = 'CET' }",
        "uplink.a.hours_utc_offset",
        "+01:00",
        "write the offset",
    );
    refused(
        "uplink.a = { url = 'mqtt://h', window = 10, window_min = 20 }",
        "uplink.a.window_min",
        "from 1 to 10",
        "",
    );
}

#[test]
fn compression_is_judged_on_both_sides() {
    let config = good(
        "uplink.a = { url = 'mqtt://h', compression = 'zstd', compression_dictionary = 'd' }\n\
         listener.tcp = { accept_zstd = true, zstd_dictionary = 'd' }",
        &[],
        &[],
    );
    let packed = config.uplinks[0].compression.as_ref().expect("it is on");
    assert_eq!((packed.level, packed.dictionary.as_deref()), (3, Some("d".as_ref())));
    let unpacked = config.listeners[0].decompression.as_ref().expect("it is on");
    assert_eq!(unpacked.dictionary.as_deref(), Some("d".as_ref()));
    for (text, key) in [
        ("uplink.a = { url = 'mqtt://h', compression = 'zstd', version = '3.1.1' }", "uplink.a.compression"),
        ("uplink.a = { url = 'mqtt://h', compression_level = 5 }", "uplink.a.compression_level"),
        ("listener.tcp.zstd_dictionary = 'd'", "listener.tcp.zstd_dictionary"),
    ] {
        refused(text, key, "", "");
    }
}

#[test]
fn keys_of_an_uplink_that_do_not_go_together_are_refused() {
    refused("uplink.a = { kind = 'mqtt' }", "uplink.a.url", "mqtt://HOST:PORT", "");
    refused("uplink.a = { url = 'mqtt://h', password = 'p' }", "uplink.a.password", "", "add uplink.a.user");
    refused(
        "uplink.a = { url = 'mqtt://h', window = 20000 }",
        "uplink.a.window",
        "from 1 to 16384",
        "raise limits.uplink_inflight_max",
    );
    refused(
        "uplink.a = { url = 'mqtt://h', backoff_min_ms = 100, backoff_max_ms = 50 }",
        "uplink.a.backoff_max_ms",
        "from 100 to",
        "",
    );
    refused("uplink.'a b' = { url = 'mqtt://h' }", "uplink.\"a b\"", "letters, digits, _ and -", "");
    refused(
        "uplink.a = { url = 'mqtt://h', topic_prefix = 'a/#' }",
        "uplink.a.topic_prefix",
        "without + and #",
        "",
    );
}

#[test]
fn a_secret_appears_in_no_error_and_no_debug_output() {
    let errors = bad("uplink.a = { url = 'mqtt://h', user = 'u', password = 271828 }", &[], &[]);
    assert_eq!(errors[0].key, "uplink.a.password");
    assert!(!format!("{errors:?}{}", errors[0]).contains("271828"));
    for (text, flag) in [
        ("uplink.a.password = hush", "shards=2"),
        ("uplink.a = { user = 'u', password = 'hush }", "shards=2"),
        ("uplink.password = 'hush'", "shards=2"),
        ("uplink.a.passwd = 'hush'", "shards=2"),
        ("", "uplink.a b.password=hush"),
    ] {
        let errors = bad(text, &[], &[flag]);
        assert!(!format!("{errors:?}").contains("hush"), "{errors:#?}");
    }
    let config = good("uplink.a = { url = 'mqtt://h', user = 'u', password = 'hush' }", &[], &[]);
    assert!(!format!("{config:?}").contains("hush"));
    assert!(config.warnings.iter().any(|warning| warning.key == "uplink.a.password"));
}

#[test]
fn a_route_that_does_not_compile_is_shown_with_its_place() {
    let errors =
        bad("uplink.a.url = 'mqtt://h'\nroutes.r = 'FROM /messages/* WHERE INTO $upstream'", &[], &[]);
    let [error] = errors.as_slice() else { panic!("{errors:#?}") };
    assert_eq!(error.key, "routes.r");
    assert!(matches!(error.origin, Origin::File { line: Some(2), .. }));
    assert!(error.problem.contains("WHERE INTO") && error.problem.contains('^'), "{error}");
}

#[test]
fn routes_are_judged_by_every_key() {
    let route = "route = 'FROM /messages/* INTO $upstream'";
    let with = |more: &str| format!("uplink.a.url = 'mqtt://h'\nroutes.r = {{ {route}, {more} }}");
    refused(&with("priority = 10"), "routes.r.priority", "from 0 to 9", "");
    refused(&with("priority = -1"), "routes.r.priority", "from 0 to 9", "");
    refused(&with("ttl = -1"), "routes.r.ttl", "from 0 to 4294967295", "");
    refused(
        &with("durability = 'disc'"),
        "routes.r.durability",
        "\"disk\", \"spill\" or \"memory\"",
        "did you mean disk?",
    );
    refused("routes.r = { priority = 1 }", "routes.r.route", "the text of a route", "");
    refused("routes.r = 5", "routes.r", "the text of a route", "quotes");
    refused("routes.r = ''", "routes.r", "the text of a route", "");
    let config = good(&with("priority = 0, ttl = 7, durability = 'memory'"), &[], &[]);
    let route = &config.routes[0];
    assert_eq!((route.spec.priority.get(), route.spec.ttl_millis), (0, Some(7_000)));
    assert_eq!(route.durability, Durability::Memory);
}

#[test]
fn a_route_promises_what_it_says_and_else_what_is_usual() {
    let text = "uplink.up.url = 'mqtt://h'\nrouting.durability = 'spill'\n\
                routes.a = 'FROM /messages/* INTO $upstream'\n\
                routes.b = { route = 'FROM /messages/* INTO $upstream' }\n\
                routes.c = { route = 'FROM /messages/* INTO $upstream', durability = 'disk' }";
    let config = good(text, &[], &[]);
    let promised: Vec<_> = config.routes.iter().map(|route| route.durability).collect();
    assert_eq!(promised, [Durability::Spill, Durability::Spill, Durability::Disk]);
    refused("routing.durability = 'no'", "routing.durability", "\"disk\", \"spill\" or \"memory\"", "");
}

#[test]
fn a_route_waits_as_long_as_it_says_and_else_as_long_as_is_usual() {
    let text = "uplink.up.url = 'mqtt://h'\nrouting.ttl = 60\n\
                routes.a = 'FROM /messages/* INTO $upstream'\n\
                routes.b = { route = 'FROM /messages/* INTO $upstream' }\n\
                routes.c = { route = 'FROM /messages/* INTO $upstream', ttl = 0 }\n\
                routes.d = { route = 'FROM /messages/* INTO $upstream', ttl = 5 }";
    let config = good(text, &[], &[]);
    let ttls: Vec<_> = config.routes.iter().map(|route| config.ttl_of(route)).collect();
    assert_eq!(ttls, [Some(60_000), Some(60_000), None, Some(5_000)]);
    let promises: Vec<_> = crate::promises::promises(&config)
        .into_iter()
        .map(|status| (status.ttl_secs, status.promise.contains("for as long as it takes")))
        .collect();
    assert_eq!(promises, [(Some(60), false), (Some(60), false), (None, true), (Some(5), false)]);
    refused("routing.ttl = -1", "routing.ttl", "from 0 to 4294967295", "");
}

#[test]
fn a_route_needs_an_uplink_that_exists() {
    let route = "routes.r = 'FROM /messages/* INTO $upstream'\n";
    refused(route, "routes.r", "", "add uplink.upstream.url");
    let two = "uplink.a.url = 'mqtt://h'\nuplink.b.url = 'mqtt://h'\n";
    refused(&format!("{two}{route}"), "routes.r", "uplinks: a, b", "call one of them upstream");
    let by_name = "uplink.cloud.url = 'mqtt://h'\nroutes.r = \"FROM /messages/* INTO uplink('clod')\"";
    refused(by_name, "routes.r", "uplinks: cloud", "did you mean cloud?");
}

#[test]
fn upstream_is_the_uplink_of_that_name_or_the_only_one() {
    let route = "routes.r = 'FROM /messages/* INTO $upstream'\n";
    let config = good(&format!("{route}uplink.cloud.url = 'mqtt://h'"), &[], &[]);
    let sink = config.sinks(0).next().expect("a sink");
    assert_eq!(config.uplink(sink).map(|uplink| uplink.name.as_str()), Some("cloud"));
    let config =
        good(&format!("{route}uplink.cloud.url = 'mqtt://h'\nuplink.upstream.url = 'mqtt://h'"), &[], &[]);
    let sink = config.sinks(0).next().expect("a sink");
    assert_eq!(config.uplink(sink).map(|uplink| uplink.name.as_str()), Some("upstream"));
}

#[test]
fn a_route_into_a_module_input_needs_an_edge_device() {
    let route = "routes.r = 'FROM /messages/* INTO BrokeredEndpoint(\"/modules/m/inputs/i\")'";
    let errors = bad(route, &[], &[]);
    let [error] = errors.as_slice() else { panic!("{errors:#?}") };
    assert!(error.problem.contains("this router is no edge device"), "{error}");
    good(&format!("{route}\nedge.device_id = 'gw1'\nedge.identities = 'ids.json'"), &[], &[]);
}

#[test]
fn log_filters_are_levels_or_directives() {
    for filter in ["off", "debug", "info,millrace=debug", "warn, millrace::config=trace"] {
        assert_eq!(good("", &[], &[&format!("log.level={filter}")]).log.filter, filter);
    }
    for filter in ["verbose", "", "info,", "mill race=debug", "=info"] {
        refused(
            &format!("log.level = '{filter}'"),
            "log.level",
            "off, error, warn, info, debug or trace",
            "",
        );
    }
}

#[test]
fn what_is_legal_but_probably_not_meant_is_warned_about() {
    let keys = |config: Config| config.warnings.into_iter().map(|warning| warning.key).collect::<Vec<_>>();
    assert_eq!(keys(good("", &[], &[])), ["auth.anonymous"], "nobody can connect");
    let local = "listener.tcp.bind = '127.0.0.1:0'\nauth.anonymous = true\n";
    assert_eq!(keys(good(local, &[], &[])), [""; 0]);
    assert_eq!(keys(good("auth.anonymous = true", &[], &[])), ["auth.anonymous"], "everybody can connect");
    assert_eq!(keys(good(&format!("{local}store.sync = false"), &[], &[])), ["store.sync"]);
    assert_eq!(keys(good(&format!("{local}uplink.a.url = 'mqtt://h'"), &[], &[])), ["uplink.a"]);
    assert_eq!(
        keys(good(&format!("{local}limits.outbox_bytes_max = 4096"), &[], &[])),
        ["limits.outbox_bytes_max"]
    );
}

#[test]
fn two_uplinks_that_would_disconnect_each_other_are_warned_about() {
    let text =
        "uplink.a = { url = 'mqtt://h', client_id = 'x' }\nuplink.b = { url = 'mqtt://h', client_id = 'x' }";
    let config = good(text, &[], &[]);
    assert!(config.warnings.iter().any(|warning| warning.key == "uplink.b.client_id"));
    let apart = text.replacen("'x'", "'y'", 1);
    assert!(!good(&apart, &[], &[]).warnings.iter().any(|warning| warning.key.ends_with("client_id")));
}

#[test]
fn every_limit_can_be_set_and_its_range_fits_its_type() {
    for (path, type_max) in schema::LIMIT_TYPES_MAX {
        let key = schema::keys().find(|key| key.path == *path).expect("a key");
        let Allowed::Integer { min, max } = key.allowed else { panic!("{path} is no number") };
        assert!(max <= *type_max, "{path} allows more than its type holds");
        let schema::Default::Integer(default) = key.default else { panic!("{path} has no default") };
        assert!((min..=max).contains(&default), "{path}");
        let low = good("", &[], &[&format!("{path}={min}")]);
        let high = good("", &[], &[&format!("{path}={max}")]);
        assert!(min == max || low.limits != high.limits, "{path} changes nothing");
    }
}

#[test]
fn every_default_is_a_value_that_could_be_written() {
    for key in schema::keys().filter(|key| !key.path.contains('*')) {
        let value = match key.default {
            schema::Default::Integer(number) => number.to_string(),
            schema::Default::Boolean(truth) => truth.to_string(),
            schema::Default::Text(text) => text.to_owned(),
            _ => continue,
        };
        good("", &[], &[&format!("{}={value}", key.path)]);
    }
}

#[test]
fn clients_are_sent_elsewhere_only_if_somebody_says_where() {
    let config = good("", &[], &["redirect.to=spare:1883", "redirect.when=always"]);
    let redirect = config.offers.redirect.expect("a redirect");
    assert_eq!((&*redirect.to, redirect.moved), ("spare:1883", true));
    assert!(!good("", &[], &["redirect.to=spare:1883"]).offers.redirect.expect("a redirect").moved);
    let errors = format!("{:?}", bad("", &[], &["redirect.when=always"]));
    assert!(errors.contains("redirect.when") && errors.contains("redirect.to"), "{errors}");
}

#[test]
fn every_key_is_documented_once() {
    let mut seen = BTreeSet::new();
    for key in schema::keys() {
        assert!(seen.insert(key.path), "{} stands twice", key.path);
        assert!(key.doc.ends_with('.'), "{} needs a sentence", key.path);
    }
}

/// What an IoT Edge runtime says to its edgeHub.
fn runtime() -> Vec<(String, String)> {
    [
        ("IOTEDGE_WORKLOADURI", "unix:///var/run/iotedge/workload.sock"),
        ("IOTEDGE_APIVERSION", "2021-12-07"),
        ("IOTEDGE_MODULEID", "$edgeHub"),
        ("IOTEDGE_MODULEGENERATIONID", "637"),
        ("IOTEDGE_DEVICEID", "gw1"),
        ("IOTEDGE_IOTHUBHOSTNAME", "hub.example"),
        ("EDGEDEVICEHOSTNAME", "gw.local"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

#[test]
fn every_shipped_profile_is_a_good_configuration() {
    let shipped = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/profiles"));
    let shipped: BTreeSet<_> = shipped
        .expect("the directory of profiles")
        .map(|entry| {
            entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .collect();
    assert_eq!(shipped, profiles::names().map(str::to_owned).collect(), "each file is embedded");
    for name in profiles::names() {
        let args = ConfigArgs { profile: Some(name.to_owned()), ..ConfigArgs::default() };
        let env = runtime().into_iter().filter(|_| name == "edgehub");
        let config = match Config::check(&sources::collect(&args, env), &host()) {
            Ok(config) => config,
            Err(errors) => panic!("{name}:\n{errors}"),
        };
        // Routes are the deployment's.
        let known = ["auth.anonymous", "uplink.upstream"];
        assert!(config.warnings.iter().all(|warning| known.contains(&&*warning.key)), "{name}");
    }
}

#[test]
fn the_profile_for_small_gateways_keeps_below_64_mib() {
    let args = ConfigArgs { profile: Some("gateway-small".to_owned()), ..ConfigArgs::default() };
    let args = ConfigArgs { set: vec!["uplink.cloud.url=mqtt://h".to_owned()], ..args };
    let config = Config::check(&sources::collect(&args, std::iter::empty()), &host()).expect("good");
    let held: u64 = config.memory_ceiling().iter().map(|holder| holder.bytes).sum();
    let program = 12 << 20; // DESIGN §10, idle
    assert!(held + program <= 64 << 20, "{held} bytes");
}

#[test]
fn the_page_of_keys_is_the_one_in_the_docs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    if std::env::var_os("MILLRACE_BLESS").is_some() {
        fs::write(path, page()).expect("a file");
    }
    let shipped = fs::read_to_string(path).expect("the page");
    let hint = "write it anew: millrace check --reference > router/docs/configuration.md";
    assert!(page() == shipped, "{hint}");
}
