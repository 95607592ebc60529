//! Tests of `identity`: documents of the scope API both ways.

use super::*;

const PAGE: &str = r#"{
  "devices": [
    {"deviceId": "d1", "generationId": "1", "status": "enabled",
     "authentication": {"type": "sas", "symmetricKey": {"primaryKey": "YQ==", "secondaryKey": "Yg=="}},
     "capabilities": {"iotEdge": false}, "deviceScope": "ms-azure-iot-edge://gw1-1"},
    {"deviceId": "gw1", "generationId": "1", "status": "disabled",
     "authentication": {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "ABCD", "secondaryThumbprint": null}},
     "capabilities": {"iotEdge": true}, "deviceScope": "ms-azure-iot-edge://gw1-1", "parentScopes": []},
    {"deviceId": "d3", "authentication": {"type": "certificateAuthority", "symmetricKey": null}},
    {"deviceId": "d4"}
  ],
  "modules": [{"moduleId": "m", "deviceId": "gw1", "generationId": "2",
     "authentication": {"type": "sas", "symmetricKey": {"primaryKey": "Yw==", "secondaryKey": ""}}}],
  "continuationLink": null
}"#;

#[test]
fn a_page_of_the_scope_is_read() {
    let page: ScopePage = serde_json::from_str(PAGE).expect("parses");
    let devices: Vec<Identity> =
        page.devices.iter().map(|it| Identity::try_from(it).expect("an id")).collect();
    assert_eq!(devices[0].auth.keys(), ["YQ==", "Yg=="]);
    assert!(devices[0].enabled && !devices[0].is_edge);
    assert!(!devices[1].enabled && devices[1].is_edge);
    assert!(
        devices[1].auth.has_thumbprint(&["0123", "abcd"]) && !devices[1].auth.has_thumbprint(&["abce", ""])
    );
    assert_eq!(devices[2].auth, Auth::Authority);
    assert_eq!(devices[3].auth, Auth::None);
    let module = Identity::try_from(&page.modules[0]).expect("an id");
    assert_eq!((module.id.as_str(), module.auth.keys()), ("gw1/m", vec!["Yw=="]));
}

#[test]
fn what_is_written_is_read_back() {
    let page: ScopePage = serde_json::from_str(PAGE).expect("parses");
    for device in &page.devices {
        let identity = Identity::try_from(device).expect("an id");
        let document = identity.to_device_document().expect("a device");
        let text = serde_json::to_string(&document).expect("JSON");
        let again: DeviceDocument = serde_json::from_str(&text).expect("parses");
        assert_eq!(Identity::try_from(&again).expect("an id"), identity);
        assert!(identity.to_module_document().is_none());
    }
    let module = Identity::try_from(&page.modules[0]).expect("an id");
    let document = module.to_module_document().expect("a module");
    assert_eq!(Identity::try_from(&document).expect("an id"), module);
}

#[test]
fn keys_are_not_shown() {
    let page: ScopePage = serde_json::from_str(PAGE).expect("parses");
    let identity = Identity::try_from(&page.devices[0]).expect("an id");
    assert!(!format!("{identity:?} {page:?}").contains("YQ=="));
}
