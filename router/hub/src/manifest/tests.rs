//! Tests of `manifest`: every shipped manifest, every mistake.

use super::*;

const MANIFESTS: [(&str, &str); 4] = [
    ("1.0", include_str!("../../../../configs/manifests/schema-1.0.json")),
    ("1.1", include_str!("../../../../configs/manifests/schema-1.1.json")),
    ("1.2", include_str!("../../../../configs/manifests/schema-1.2.json")),
    ("1.3", include_str!("../../../../configs/manifests/schema-1.3.json")),
];

#[track_caller]
fn shipped(version: &str) -> HubConfig {
    let (_, text) = MANIFESTS.iter().find(|(have, _)| *have == version).expect("shipped");
    let document: Value = serde_json::from_str(text).expect("JSON");
    let config = HubConfig::parse(of_manifest(&document).expect("a manifest"), 100).expect("legal");
    assert_eq!(config.schema.to_string(), version);
    config
}

#[track_caller]
fn refused(desired: Value, expected: &[&str]) {
    let Value::Object(desired) = desired else { panic!("an object") };
    let errors = HubConfig::parse(&desired, 3).expect_err("refused");
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expected);
}

#[test]
fn every_shipped_manifest_is_read() {
    let first = shipped("1.0");
    let names: Vec<_> = first.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!((names, first.ttl_secs), (vec!["filter", "toCloud"], Some(7_200)));

    let second = shipped("1.1");
    let of = |name: &str| second.routes.iter().find(|route| route.name == name).expect("a route");
    assert_eq!((of("alerts").priority, of("alerts").ttl_secs), (Some(0), Some(86_400)));
    assert_eq!((of("leafToFilter").priority, of("leafToFilter").ttl_secs), (None, None));

    let third = shipped("1.2");
    assert_eq!((third.ttl_secs, third.store_bytes_max), (None, Some(1 << 30)));
    assert_eq!((third.routes[0].priority, third.routes[0].ttl_secs), (None, None));
    assert_eq!(third.ignored.len(), 1);

    let fourth = shipped("1.3");
    assert_eq!((fourth.routes.len(), fourth.ignored.len()), (2, 1));
}

#[test]
fn desired_properties_are_taken_as_they_are() {
    let document = json!({"schemaVersion": "1.1.0", "storeAndForwardConfiguration": {"timeToLiveSecs": 1}});
    let config = HubConfig::parse(of_manifest(&document).expect("ours"), 1).expect("legal");
    assert!(config.routes.is_empty());
    let nested = json!({"modulesContent": {"$edgeHub": {"properties": {"desired": document}}}});
    assert!(of_manifest(&nested).is_ok());
    for other in
        [json!({}), json!([]), json!({"modulesContent": {}}), json!({"modulesContent": {"$edgeHub": 1}})]
    {
        assert_eq!(of_manifest(&other), Err(ManifestError::NoHub));
    }
}

#[test]
fn every_mistake_at_once() {
    refused(
        json!({
            "schemaVersion": "1.1",
            "routes": {
                "": "FROM /* INTO $upstream",
                "blank": " ",
                "number": 5,
                "object": {"route": "", "priority": 10, "timeToLiveSecs": -1},
            },
            "storeAndForwardConfiguration": {"timeToLiveSecs": "1h", "storeLimits": {"maxSizeBytes": -1}},
        }),
        &[
            "routes: 4 of them; limits.routes_max is 3",
            "Empty route name",
            "routes.blank: the route is blank",
            "routes.number: expected a route, or an object with one, found a number",
            "routes.object: the route is blank",
            "Invalid priority for route: object, priority can only be between 0-9; found 10",
            "routes.object.timeToLiveSecs: expected a number of seconds from 0, found a number",
            "storeAndForwardConfiguration.timeToLiveSecs: expected a number of seconds; negative is for ever, found text",
            "storeAndForwardConfiguration.storeLimits.maxSizeBytes: expected a number of bytes, found a number",
        ],
    );
}

#[test]
fn versions() {
    let store = json!({"timeToLiveSecs": 1});
    refused(json!({"storeAndForwardConfiguration": store}), &["EdgeHub config missing SchemaVersion"]);
    for version in ["1.4", "2.0", "1", "", "1.x", "1.0.0.0.0"] {
        let expected = format!(
            "EdgeHub config contains unsupported SchemaVersion \"{version}\": 1.0, 1.1, 1.2 and 1.3 are known"
        );
        refused(json!({"schemaVersion": version, "storeAndForwardConfiguration": store}), &[&expected]);
    }
    // Objects as routes came with 1.1; the settings became required.
    refused(
        json!({"schemaVersion": "1.0", "routes": {"r": {"route": "FROM /* INTO $upstream"}}}),
        &["routes.r: expected a route, found an object"],
    );
    refused(
        json!({"schemaVersion": "1.1"}),
        &["storeAndForwardConfiguration: expected an object with timeToLiveSecs, found nothing"],
    );
}

#[test]
fn what_has_no_effect_is_judged_all_the_same() {
    refused(
        json!({
            "schemaVersion": "1.3",
            "storeAndForwardConfiguration": {"timeToLiveSecs": 1},
            "mqttBroker": {
                "authorizations": [{"identities": [], "allow": [{"operations": ["mqtt:fly"], "resources": ["a"]}]}],
                "bridges": [{"endpoint": "", "settings": [{"direction": "sideways"}]}],
            },
            "integrity": {"header": {"signercert": ["x"]}, "signature": {"bytes": "x"}},
        }),
        &[
            "mqttBroker.authorizations[0].identities: expected a list of texts, found a list",
            "mqttBroker.authorizations[0].allow[0].operations: expected a list of known operations, found a list",
            "mqttBroker.bridges[0].endpoint: expected a name, found text",
            "mqttBroker.bridges[0].settings[0].direction: expected in, out or both, found text",
            "integrity.header.intermediatecacert: expected a list of texts, found nothing",
            "integrity.signature.algorithm: expected text, found nothing",
        ],
    );
}

#[test]
fn reports() {
    let good = Report { version: Some(("0.1.0", "b", "c")), desired: Some((12, &Ok(()))) };
    let expected = json!({
        "schemaVersion": "1.0",
        "version": {"version": "0.1.0", "build": "b", "commit": "c"},
        "lastDesiredVersion": 12,
        "lastDesiredStatus": {"code": 200, "description": ""},
    });
    assert_eq!(Value::Object(good.to_patch()), expected);
    let refusal = Err("Error parsing route r".to_owned());
    let bad = Report { version: None, desired: Some((13, &refusal)) }.to_patch();
    let text = "Error while parsing desired properties - Error parsing route r";
    assert_eq!(bad["lastDesiredStatus"], json!({"code": 400, "description": text}));

    let of = |id: &str| crate::HubId::parse(id).expect("an id");
    let connected = client_patch(&of("d.1"), ClientStatus::Connected("2024-01-01T00:00:00Z"));
    let expected = json!({"clients": {"d%2E1": {"status": "Connected", "lastConnectedTimeUtc": "2024-01-01T00:00:00Z"}}});
    assert_eq!(Value::Object(connected), expected);
    let gone = client_patch(&of("d1"), ClientStatus::Disconnected("t"));
    assert_eq!(Value::Object(gone), json!({"clients": {"d1": null}}));
    let stays = client_patch(&of("gw/$m"), ClientStatus::Disconnected("t"));
    assert_eq!(stays["clients"]["gw/%24m"]["status"], "Disconnected");
    assert_eq!(Value::Object(no_clients_patch()), json!({"clients": null}));
}
