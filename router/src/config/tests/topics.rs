//! Topics of uplinks, several addresses, IoT Hub: what goes together, and what is told where it does not.

use super::*;
use broker::uplink::{Template, Wish};
use model::Qos;

#[track_caller]
fn complains(text: &str, key: &str, words: &[&str]) {
    let errors = bad(text, &[], &[]);
    let [error] = errors.as_slice() else { panic!("{errors:#?}") };
    assert_eq!(error.key, key);
    let said = error.to_string();
    assert!(words.iter().all(|words| said.contains(words)), "{said}");
}

const V5: &str = "uplink.a.url = 'mqtt://h'\n";
const V3: &str = "uplink.a.url = 'mqtt://h'\nuplink.a.version = '3.1.1'\n";

#[test]
fn a_map_is_read_in_order_with_its_options() {
    let config = good(
        &format!(
            "{V5}uplink.a.topics = ['a/+ -> x/{{topic[1]}} qos=0 retain=always', 'b/# retain=never']\nuplink.a.inbound = ['$share/g/c/#', 'd -> e qos=0']"
        ),
        &[],
        &[],
    );
    let topics = &config.uplinks[0].topics;
    assert_eq!(topics.entries.len(), 2);
    let first = &topics.entries[0];
    assert_eq!(
        (&*first.filter, first.qos, first.retain),
        ("a/+", Some(Wish::Be(Qos::AtMostOnce)), Some(true))
    );
    assert_eq!(topics.entries[1].template, Template::parse("{topic}").expect("a template"));
    assert_eq!((topics.entries[1].qos, topics.entries[1].retain), (None, Some(false)));
    assert_eq!(topics.inbound[0].filter, "$share/g/c/#");
    assert_eq!((topics.inbound[1].qos, topics.inbound[1].retain), (Qos::AtMostOnce, true));
    assert_eq!(config.gateway, "gate7");
}

#[test]
fn each_mistake_in_a_map_is_told_with_its_entry() {
    for (entry, words) in [
        ("a/#/b -> c", "'#' must be the last"),
        ("a -> {topics}", "{topics} is no hole"),
        ("a -> b/+", "cannot have + or #"),
        ("a -> b qos=3", "there are qos=0, qos=1"),
        ("a -> b retain", "retain is no option"),
        ("a b -> c", "write + for a level with spaces"),
        ("a ->", "no template behind ->"),
    ] {
        complains(&format!("{V5}uplink.a.topics = ['{entry}']"), "uplink.a.topics", &[words, entry]);
    }
    complains(
        &format!("{V5}uplink.a.inbound = ['a -> b retain=always']"),
        "uplink.a.inbound",
        &["there are qos=0"],
    );
    complains(&format!("{V5}uplink.a.topics = 'a -> b'"), "uplink.a.topics", &["a list of entries"]);
}

#[test]
fn in_3_1_1_topics_that_would_come_back_are_refused() {
    let inbound = "uplink.a.inbound = ['cmd/#']\n";
    complains(
        &format!("{V3}{inbound}"),
        "uplink.a.inbound",
        &["would take back", "topic_prefix", "version 5"],
    );
    good(&format!("{V3}{inbound}uplink.a.topic_prefix = 'from/gw1/'"), &[], &[]);
    good(&format!("{V3}{inbound}uplink.a.properties = 'json'"), &[], &[]);
    good(&format!("{V5}{inbound}"), &[], &[]);
    good(&format!("{V3}{inbound}uplink.a.topics = ['# -> data/{{topic}}']"), &[], &[]);
    complains(
        &format!("{V3}{inbound}uplink.a.topics = ['# -> {{topic}}']"),
        "uplink.a.inbound",
        &["cmd/#", "messages go to \"#\""],
    );
    // A shared subscription cannot ask for No Local; then only ids tell.
    let shared = "uplink.a.inbound = ['$share/g/cmd/#']\n";
    complains(&format!("{V3}{shared}"), "uplink.a.inbound", &["would take back", "$share/g/cmd/#"]);
    good(&format!("{V5}{shared}"), &[], &[]);
    let nameless = "uplink.a.id_property = ''\n";
    complains(&format!("{V5}{shared}{nameless}"), "uplink.a.inbound", &["would take back", "id_property"]);
    good(&format!("{V5}{inbound}{nameless}"), &[], &[]);
    complains(&format!("{V5}uplink.a.properties = 'json'"), "uplink.a.properties", &["is about MQTT 3.1.1"]);
}

#[test]
fn a_parent_gets_messages_as_they_are() {
    let parent = "uplink.a = { kind = 'parent', url = 'mqtt://h'";
    good(&format!("{parent} }}"), &[], &[]);
    complains(
        &format!("{parent}, topic_prefix = 'x/' }}"),
        "uplink.a.topic_prefix",
        &["a parent gets them as they are"],
    );
    complains(&format!("{parent}, version = '3.1.1' }}"), "uplink.a.version", &["loses properties"]);
}

#[test]
fn more_addresses_are_like_the_first() {
    let tls = "uplink.a.url = 'mqtts://one.example'\n";
    let config = good(&format!("{tls}uplink.a.failover = ['mqtts://two.example:99']"), &[], &[]);
    let second = &config.uplinks[0].failover.transports[0];
    assert_eq!((&*second.host, second.port), ("two.example", 99));
    assert_eq!(second.tls.as_ref().map(|tls| &*tls.server_name), Some("two.example"));
    complains(
        &format!("{tls}uplink.a.failover = ['mqtt://two']"),
        "uplink.a.failover",
        &["must be TLS exactly if url is"],
    );
    complains(
        &format!("{tls}uplink.a.failover = ['two:1']"),
        "uplink.a.failover",
        &["is no url", "write mqtt://two:1"],
    );
    // From 8883 to 443, where a firewall is in between.
    let hub = format!(
        "uplink.c = {{ kind = 'iothub', hub = 'h', device = 'gw1', shared_access_key = '{KEY}', failover = ['wss://h'] }}"
    );
    let config = good(&hub, &[], &[]);
    let second = config.uplinks[0].failover.transports[0].to_string();
    assert_eq!(second, "wss://h:443/$iothub/websocket");
    complains(
        &format!("{V5}uplink.a.failover_attempts = 2"),
        "uplink.a.failover_attempts",
        &["names no other address"],
    );
}

const KEY: &str = "c2VjcmV0IGtleSBvZiBhIGRldmljZQ==";

#[test]
fn an_iot_hub_is_known_by_its_connection_string_or_by_its_parts() {
    let text = format!(
        "uplink.c = {{ kind = 'iothub', connection_string = 'HostName=p.azure-devices.net;DeviceId=gw1;SharedAccessKey={KEY}' }}"
    );
    let config = good(&text, &[], &[]);
    let uplink = &config.uplinks[0];
    let hub = uplink.hub.as_ref().expect("a hub");
    assert_eq!(
        (&*hub.hub, hub.id.as_str(), uplink.version),
        ("p.azure-devices.net", "gw1", MqttVersion::V311)
    );
    assert_eq!(uplink.transport.to_string(), "mqtts://p.azure-devices.net:8883");
    let parts = format!(
        "uplink.c = {{ kind = 'iothub', hub = 'h', device = 'gw1', module = 'm', shared_access_key = '{KEY}', url = 'wss://h' }}"
    );
    let config = good(&parts, &[], &[]);
    assert_eq!(config.uplinks[0].transport.to_string(), "wss://h:443/$iothub/websocket");
    assert_eq!(config.uplinks[0].client_id, "gw1/m");
    let children = parts.replace(
        " }",
        &format!(", identity = {{ d1 = {{ shared_access_key = '{KEY}' }}, 'd2/m' = {{ cert = 'c', key = 'k' }} }} }}"),
    );
    assert_eq!(good(&children, &[], &[]).uplinks[0].hub.as_ref().map(|hub| hub.children.len()), Some(2));
}

#[test]
fn what_an_iot_hub_leaves_no_choice_about_and_what_is_missing_is_told() {
    let hub = |rest: &str| format!("uplink.c = {{ kind = 'iothub', hub = 'h', device = 'd'{rest} }}");
    let key = format!(", shared_access_key = '{KEY}'");
    complains(&hub(""), "uplink.c.shared_access_key", &["without a key or a certificate"]);
    complains(&hub(", shared_access_key = '%%'"), "uplink.c.shared_access_key", &["is not base64"]);
    complains(&hub(&format!("{key}, version = '5'")), "uplink.c.version", &["leaves no choice"]);
    complains(&hub(&format!("{key}, url = 'mqtt://h'")), "uplink.c.url", &["without TLS", "mqtts://HOST"]);
    complains(
        "uplink.c = { kind = 'iothub', connection_string = 'HostName=h;DeviceId=d;SharedAccessKey=k;What=7' }",
        "uplink.c.connection_string",
        &["is no connection string", "What"],
    );
    complains(&format!("{V5}uplink.a.device = 'd'"), "uplink.a.device", &["is for kind = \"iothub\""]);
    complains(
        &hub(&format!("{key}, children = 'on-behalf-of'")),
        "uplink.c.children",
        &["module $edgeHub", "connects as d"],
    );
    good(&hub(&format!("{key}, module = '$edgeHub', children = 'on-behalf-of'")), &[], &[]);
    complains(&hub(&format!("{key}, speakers = ['']")), "uplink.c.speakers", &["names nobody"]);
    complains(
        &format!("{V5}uplink.a.speakers = ['app']"),
        "uplink.a.speakers",
        &["is for kind = \"iothub\""],
    );
    let warns = |rest: &str| {
        let config = good(&format!("{}\n{rest}", hub(&format!("{key}, speakers = ['*']"))), &[], &[]);
        config.warnings.iter().any(|warning| warning.key == "uplink.c.speakers")
    };
    assert!(warns("") && !warns("auth.acl = ['allow all #']"));
    let child = hub(&format!("{key}, identity = {{ d1 = {{ cert = 'c' }} }}"));
    complains(
        &child,
        "uplink.c.identity.d1.shared_access_key",
        &["either shared_access_key, or cert and key"],
    );
}

#[test]
fn the_key_of_a_hub_is_in_no_error() {
    let text =
        format!("uplink.c = {{ kind = 'iothub', connection_string = 'HostName=h;SharedAccessKey={KEY}' }}");
    for error in bad(&text, &[], &[]) {
        assert!(!error.to_string().contains(KEY), "{error}");
    }
}
