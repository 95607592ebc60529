//! Tests of `mapping`: the worked examples of `reference/edgehub.md` §2.10 and the tables they follow from.

use super::*;

const LEAF: Sender<'_> = Sender { device: "d1", module: None, edge_device: "gw1", model_id: None };
const MODULE: Sender<'_> =
    Sender { device: "gw1", module: Some("filter"), edge_device: "gw1", model_id: None };

#[track_caller]
fn read<'t>(bag: &'t str, sender: Sender<'t>) -> Properties<'t> {
    Properties::read(bag, sender, 64).unwrap_or_else(|error| panic!("{bag}: {error}"))
}

#[track_caller]
fn for_client(bag: &str, sender: Sender<'_>, expected: &str) {
    let mut out = String::new();
    read(bag, sender).bag_for_client(&mut out);
    assert_eq!(out, expected, "{bag}");
}

#[track_caller]
fn for_hub(bag: &str, sender: Sender<'_>, expected: &str) {
    let mut out = String::new();
    read(bag, sender).bag_for_hub(&mut out);
    assert_eq!(out, expected, "{bag}");
}

#[test]
fn what_an_input_receives() {
    let leaf = "%24.ct=application%2Fjson&%24.ce=utf-8&%24.mid=42&level=high";
    for_client(leaf, LEAF, "level=high&%24.ct=application%2Fjson&%24.ce=utf-8&%24.mid=42&%24.cdid=d1");
    for_client("%24.on=alert&%24.cid=abc", MODULE, "%24.cid=abc&%24.cdid=gw1&%24.cmid=filter");
    for_client("", LEAF, "%24.cdid=d1");
    // What a client cannot set stays a property of the application, and what we know wins over it.
    for_client("%24.cdid=other&%24.cmid=x&a=1", LEAF, "millrace-cdid=other&millrace-cmid=x&a=1&%24.cdid=d1");
    for_client(
        "%24.exp=1&ack=full&iothub-operation=o&%24.ifid=i&%24.unknown=u",
        LEAF,
        "%24.unknown=u&%24.exp=1&ack=full&iothub-operation=o&%24.cdid=d1",
    );
}

#[test]
fn what_goes_upstream() {
    let all = "a=1&%24.mid=m&%24.cid=c&%24.ct=t&%24.ce=e&%24.to=o&%24.uid=u&%24.exp=x&%24.on=out&%24.schema=s\
               &%24.ctime=2024&%24.ifid=i&%24.sub=p&ack=full&iothub-operation=op";
    for_hub(
        all,
        MODULE,
        "a=1&%24.mid=m&%24.cid=c&%24.ct=t&%24.ce=e&%24.to=o&%24.uid=u&%24.schema=s&%24.ctime=2024&%24.sub=p",
    );
    let security = "%24.ifid=urn%3Aazureiot%3ASecurity%3ASecurityAgent%3A1";
    for_hub(security, LEAF, security);
    for_hub(
        "mqtt-retain=true&mqtt-dup=true&MessageType=Will",
        LEAF,
        "mqtt-retain=true&mqtt-dup=true&MessageType=Will",
    );
}

#[test]
fn sources_of_routes() {
    for (bag, sender, expected) in [
        ("", LEAF, "/messages/"),
        ("%24.on=out", LEAF, "/messages/"),
        ("", MODULE, "/messages/modules/filter/"),
        ("%24.on=alert", MODULE, "/messages/modules/filter/outputs/alert/"),
        ("%24.on", MODULE, "/messages/modules/filter/"),
        ("messageType=twinChangeNotification", LEAF, "/messages/"),
    ] {
        let mut out = String::new();
        read(bag, sender).source(&mut out);
        assert_eq!(out, expected, "{bag}");
    }
    let mut change = read("", MODULE);
    change.set_system("messageType", Cow::Borrowed("twinChangeNotification"));
    let mut out = String::new();
    change.source(&mut out);
    assert_eq!(out, "/twinChangeNotifications/");
}

#[test]
fn names_as_routes_know_them() {
    let sender = Sender { model_id: Some("dtmi:x;1"), ..MODULE };
    let read = read("level=high&none&%24.cid=c", sender);
    let application: Vec<_> = read.application_properties().iter().map(|it| (it.name, it.value)).collect();
    assert_eq!(application, [("level", Some("high")), ("none", None)]);
    let system: Vec<_> =
        read.system_properties().iter().map(|it| (it.name, it.value.unwrap_or(""))).collect();
    assert_eq!(
        system,
        [
            ("cid", "c"),
            ("connectionDeviceId", "gw1"),
            ("connectionModuleId", "filter"),
            ("edgeHubOriginInterface", "internal"),
            ("modelId", "dtmi:x;1"),
        ]
    );
    assert_eq!(read.bytes(), "levelhigh".len() + "none".len() + "cidc".len());
}

#[test]
fn a_property_can_be_set() {
    let mut read = read("a=1", LEAF);
    read.set(RETAIN, "true");
    read.set("a", "2");
    let mut out = String::new();
    read.bag_for_hub(&mut out);
    assert_eq!(out, "a=2&mqtt-retain=true");
}
