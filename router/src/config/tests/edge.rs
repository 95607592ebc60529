//! `[edge]`: three ways to be an edge device, and what edgeHub's environment makes of it.

use crate::iotedge::WorkloadUri;

use super::*;
use crate::config::edge::Standing;

fn edgehub(env: &[(&str, &str)], set: &[&str]) -> Result<Config, ConfigErrors> {
    let set = set.iter().map(|flag| (*flag).to_owned()).collect();
    let args = ConfigArgs { profile: Some("edgehub".to_owned()), set, ..ConfigArgs::default() };
    let more = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let mut all: Vec<_> = runtime();
    all.retain(|(name, _)| !env.iter().any(|(other, _)| other == name));
    Config::check(&sources::collect(&args, all.into_iter().chain(more)), &host())
}

#[test]
fn the_environment_of_a_runtime_is_a_whole_configuration() {
    let config = edgehub(&[], &[]).expect("good");
    let edge = config.edge.expect("an edge device");
    assert_eq!((edge.device.as_str(), edge.module.as_str()), ("gw1", "gw1/$edgeHub"));
    assert_eq!((edge.hub_host.as_deref(), edge.host_name.as_str()), (Some("hub.example"), "gw.local"));
    assert_eq!((edge.parent_host, edge.clients_max), (None, Some(100)));
    let uri = WorkloadUri::Unix("/var/run/iotedge/workload.sock".into());
    let generation_id = "637".to_owned();
    assert_eq!(edge.standing, Standing::Runtime { uri, version: "2020-07-07", generation_id });
    let listeners: Vec<_> =
        config.listeners.iter().map(|it| (it.bind.to_string(), it.kind.to_string(), it.identities)).collect();
    let listener = |bind: &str, kind: &str| (bind.to_owned(), kind.to_owned(), true);
    assert_eq!(listeners, [listener("[::]:8883", "tls"), listener("[::]:443", "wss")]);
    assert_eq!(config.http.map(|address| address.port()), Some(9_600));
    assert_eq!(config.log.format, LogFormat::Syslog);
    assert_eq!(config.auth.rules, Some(Vec::new()), "free topics are nobody's");
}

/// A bare name is text in edgeHub; only Millrace's own mode makes a number of it.
#[test]
fn routes_of_the_profile_are_read_as_edgehub_reads_them() {
    let route = |text: &str| edgehub(&[("routes__All", text)], &["uplink.cloud.url=mqtt://h"]);
    let good = "FROM /messages/* WHERE as_number(temperature) > 30 INTO $upstream";
    assert!(route(good).is_ok());
    let Err(errors) = route(&good.replace("as_number(temperature)", "temperature")) else {
        panic!("accepted");
    };
    let errors = errors.to_string();
    assert!(errors.contains("All") && errors.contains("as_number(temperature)"), "{errors}");
}

#[test]
fn variables_of_edgehub_reach_their_keys() {
    let config = edgehub(
        &[
            ("HttpSettings__Port", "4433"),
            ("httpsettings__metrics_port", "9700"),
            ("SslProtocols", "tls1.3"),
            ("StorageFolder", "/iotedge/storage"),
            ("MaxConnectedClients", "7"),
            ("RuntimeLogLevel", "debug"),
            ("IOTEDGE_GATEWAYHOSTNAME", "parent"),
            ("ClientCertAuthEnabled", "False"),
            ("CacheTokens", "true"),
            ("routes__All", "FROM /messages/* INTO $upstream"),
        ],
        &["uplink.cloud.url=mqtt://h"],
    );
    let config = match config {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    };
    assert_eq!(config.listeners[1].bind.to_string(), "[::]:4433");
    assert_eq!(config.http.map(|address| address.port()), Some(9_700));
    assert!(config.listeners.iter().all(|it| it.tls.as_ref().is_some_and(|tls| !tls.tls_1_2)));
    assert_eq!(config.store.path, PathBuf::from("/iotedge/storage/millrace"));
    assert_eq!(config.log.filter, "debug");
    assert_eq!(config.routes[0].spec.name, "All");
    let edge = config.edge.expect("an edge device");
    assert_eq!((edge.clients_max, edge.client_certs), (Some(7), false));
    assert_eq!(edge.parent_host.as_deref(), Some("parent"));
    assert_eq!(edge.old_storage, Some("/iotedge/storage".into()));
    let said = config.warnings.iter().find(|warning| warning.key == "CacheTokens").expect("a word");
    assert!(said.text.starts_with("ignored: "), "{}", said.text);
}

#[test]
fn our_own_words_are_stronger_and_other_profiles_do_not_listen() {
    let config = edgehub(&[("MILLRACE__EDGE__DEVICE_ID", "gw2")], &[]).expect("good");
    assert_eq!(config.edge.expect("an edge device").device.as_str(), "gw2");
    let config = good("", &[("IOTEDGE_DEVICEID", "gw1"), ("StorageFolder", "/x")], &[]);
    assert_eq!(config.edge, None);
    assert!(config.warnings.iter().all(|warning| warning.key == "auth.anonymous"));
    assert_ne!(config.store.path, PathBuf::from("/x/millrace"));
}

#[test]
fn mistakes_of_the_environment_name_the_variable() {
    let errors = edgehub(&[("HttpSettings__Port", "https")], &[]).expect_err("a mistake").to_string();
    assert!(errors.contains("HttpSettings__Port") && errors.contains("a port from 0"), "{errors}");
    let errors = edgehub(&[("IOTEDGE_DEVICEID", "")], &[]).expect_err("a mistake").to_string();
    assert!(errors.contains("edge.device_id") && errors.contains("IOTEDGE_DEVICEID"), "{errors}");
    let errors = edgehub(&[("IOTEDGE_WORKLOADURI", "tcp://x")], &[]).expect_err("a mistake").to_string();
    assert!(errors.contains("edge.workload_uri") && errors.contains("unix:///PATH"), "{errors}");
    let errors = edgehub(&[("IOTEDGE_APIVERSION", "2017-01-01")], &[]).expect_err("a mistake").to_string();
    assert!(errors.contains("edge.workload_version"), "{errors}");
}

const STRING: &str = "HostName=hub.example;DeviceId=gw1;ModuleId=$edgeHub;SharedAccessKey=a2V5";

#[test]
fn a_connection_string_says_who_and_where() {
    let config = good("", &[], &[&format!("edge.connection_string={STRING};GatewayHostName=parent")]);
    let edge = config.edge.expect("an edge device");
    assert_eq!((edge.device.as_str(), edge.hub_host.as_deref()), ("gw1", Some("hub.example")));
    assert_eq!((edge.parent_host.as_deref(), edge.host_name.as_str()), (Some("parent"), "gate7"));
    assert_eq!(edge.standing, Standing::Key(Secret("a2V5".to_owned())));
    assert!(!format!("{edge:?}").contains("a2V5"));
    for bad_string in ["nonsense", "HostName=h;DeviceId=d;x509=true"] {
        let errors = bad("", &[], &[&format!("edge.connection_string={bad_string}")]);
        assert!(errors.iter().any(|error| error.key == "edge.connection_string"), "{errors:?}");
    }
}

#[test]
fn exactly_one_way_is_written() {
    let alone = good("[edge]\ndevice_id = 'gw1'\nidentities = 'i.json'", &[], &[]);
    assert_eq!(alone.edge.expect("an edge device").standing, Standing::Alone("i.json".into()));
    let errors = bad("[edge]\ndevice_id = 'gw1'", &[], &[]);
    assert_eq!(errors[0].key, "edge.workload_uri");
    let both = format!("edge.connection_string={STRING}");
    let errors = bad("[edge]\nidentities = 'i.json'", &[], &[&both]);
    assert!(errors[0].problem.contains("does not go together with edge.connection_string"), "{errors:?}");
    let errors = bad("[edge]\ndevice_id = 'a b'\nidentities = 'i.json'", &[], &[]);
    assert_eq!((errors[0].key.as_str(), errors[0].found.as_deref()), ("edge.device_id", Some("\"a b\"")));
    let errors = bad("[edge]\ndevice_id = 'gw1'\nidentities = 'i'\ncert = 'c'", &[], &[]);
    assert!(errors[0].problem.contains("needs edge.key"), "{errors:?}");
    let errors =
        bad("listener.tls = { bind = '127.0.0.1:0', identities = 'iothub', certificate = 'edge' }", &[], &[]);
    assert!(errors.iter().any(|error| error.key == "edge.workload_uri"), "{errors:?}");
}

#[test]
fn a_listener_of_identities_asks_for_no_authority_of_its_own() {
    let text = "[edge]\ndevice_id = 'gw1'\nidentities = 'i'\n[listener.tls]\nbind = '127.0.0.1:0'\n\
                identities = 'iothub'\ncertificate = 'edge'\n";
    let config = good(text, &[], &[]);
    let tls = config.listeners[1].tls.as_ref().expect("TLS");
    assert_eq!(tls.client_cert, ClientCertificate::Identity);
    assert_eq!(tls.certificate, OwnCertificate::Edge);
    let errors = bad(&format!("{text}client_ca = 'x'"), &[], &[]);
    assert!(errors[0].problem.contains("means nothing where identities"), "{errors:?}");
    let errors = bad(&format!("{text}cert = 'x'"), &[], &[]);
    assert!(errors[0].problem.contains("means nothing where certificate"), "{errors:?}");
}
