//! The file: what it takes, what it refuses, and what each change leaves.

use std::os::unix::fs::PermissionsExt as _;

use hub::HubId;
use hub::identity::Auth;
use hub::tree::Tree;

use super::{LocalError, LocalFile, Method, connection_string};

fn id(text: &str) -> HubId {
    HubId::parse(text).unwrap()
}

fn file() -> LocalFile {
    let mut file = LocalFile::new(&id("gw1")).unwrap();
    file.create(&id("d1"), Method::Keys, false, None).unwrap();
    file.create(&id("gw1/filter"), Method::Keys, false, None).unwrap();
    file.create(&id("gw2"), Method::Keys, true, None).unwrap();
    file.create(&id("d2"), Method::Authority, false, Some(&id("gw2"))).unwrap();
    file
}

fn keys(file: &LocalFile, name: &str) -> Vec<String> {
    file.find(&id(name)).unwrap().auth.keys().into_iter().map(str::to_owned).collect()
}

#[test]
fn what_was_written_is_read_again_by_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identities.json");
    let file = file();
    file.write(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // Devices come first in the file.
    let mut read = LocalFile::read(&path, 100).unwrap();
    let mut expected = file;
    read.identities.sort_by(|one, other| one.id.cmp(&other.id));
    expected.identities.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(read, expected);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(LocalFile::read(&path, 100), Err(LocalError::Mode(0o640))));
}

#[test]
fn everybody_in_it_is_below_the_gateway() {
    let file = file();
    let mut tree = Tree::new(file.gateway.clone(), 100);
    for identity in &file.identities {
        tree.set(identity.clone()).unwrap();
    }
    for (who, chain) in [("d1", "d1;gw1"), ("gw1/filter", "gw1/filter;gw1"), ("d2", "d2;gw2;gw1")] {
        assert_eq!(tree.chain_of(&id(who)).unwrap().to_string(), chain);
    }
    assert!(tree.find(&id("gw2/$edgeHub")).is_some() && tree.find(&id("gw1/$edgeHub")).is_some());
}

#[test]
fn keys_are_new_and_rotate_so_that_the_old_one_still_helps() {
    let mut file = file();
    let old = keys(&file, "d1");
    assert_eq!(old.len(), 2);
    assert_ne!(old[0], old[1]);
    assert_eq!(old[0].len(), 44);
    file.rotate(&id("d1")).unwrap();
    let new = keys(&file, "d1");
    assert_eq!(new[1], old[0]);
    assert!(!old.contains(&new[0]));
    assert!(matches!(file.rotate(&id("d2")), Err(LocalError::NoKeys(..))));
    assert!(matches!(file.rotate(&id("new")), Err(LocalError::Unknown(_))));
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let mut file = file();
    let mut create = |name: &str, method, is_edge, parent: Option<&str>| {
        file.create(&id(name), method, is_edge, parent.map(id).as_ref()).unwrap_err()
    };
    assert!(matches!(create("d1", Method::Keys, false, None), LocalError::Exists(_)));
    assert!(matches!(create("dx/m", Method::Keys, false, None), LocalError::NoDevice(_)));
    assert!(matches!(create("d1/m", Method::Authority, false, None), LocalError::Module));
    assert!(matches!(create("d3", Method::Keys, false, Some("d1")), LocalError::NoEdge(_)));
    let short = Method::Thumbprints(vec!["ABCD".to_owned()]);
    assert!(matches!(create("d3", short, false, None), LocalError::Thumbprint(_)));
    assert!(matches!(file.delete(&id("gw1")), Err(LocalError::Gateway(_))));
    assert!(matches!(file.enable(&id("gw1/filter"), false), Err(LocalError::Module)));
    assert!(matches!(LocalFile::new(&id("gw1/m")), Err(LocalError::Module)));
}

#[test]
fn a_device_goes_with_its_modules() {
    let mut file = file();
    file.create(&id("d1/m"), Method::Keys, false, None).unwrap();
    file.enable(&id("d1"), false).unwrap();
    assert!(!file.find(&id("d1")).unwrap().enabled);
    file.delete(&id("d1")).unwrap();
    assert!(file.find(&id("d1")).is_err() && file.find(&id("d1/m")).is_err());
    file.delete(&id("gw1/filter")).unwrap();
    assert!(file.find(&id("gw1")).is_ok());
}

#[test]
fn connection_strings_are_those_of_the_sdks() {
    let mut file = file();
    let thumbprint = "ab".repeat(20);
    file.create(&id("d3"), Method::Thumbprints(vec![thumbprint.clone()]), false, None).unwrap();
    let of = |name: &str| connection_string(file.find(&id(name)).unwrap(), "gw.local").unwrap();
    let key = &keys(&file, "gw1/filter")[0];
    assert_eq!(
        of("gw1/filter"),
        format!("HostName=gw.local;DeviceId=gw1;ModuleId=filter;SharedAccessKey={key}")
    );
    assert_eq!(of("d3"), "HostName=gw.local;DeviceId=d3;x509=true");
    let auth = Auth::Thumbprint { primary: Some(thumbprint), secondary: None };
    assert_eq!(file.find(&id("d3")).unwrap().auth, auth);
    assert!(hub::connection_string::ConnectionString::parse(&of("d1")).is_ok());
}

#[test]
fn mistakes_in_the_file_are_named_and_keys_are_not() {
    let gateway = r#"{"deviceId":"gw1","capabilities":{"iotEdge":true},"deviceScope":"s"}"#;
    let of = |body: &str| format!(r#"{{"format":1,"device":"gw1",{body}}}"#);
    for (text, expected) in [
        (String::new(), "it is not JSON"),
        ("[]".to_owned(), "it is no identity file"),
        (r#"{"format":2,"device":"gw1"}"#.to_owned(), "its format is 2"),
        (of(r#""other":1"#), "a field is missing, unknown"),
        (of(r#""devices":[]"#), "gw1 is no edge device"),
        (of(&format!(r#""devices":[{gateway},{gateway}]"#)), "gw1 stands in it twice"),
        (of(&format!(r#""devices":[{gateway},{{"deviceId":"a b"}}]"#)), "\"a b\" is no id"),
        (
            of(&format!(r#""devices":[{gateway}],"modules":[{{"deviceId":"x","moduleId":"m"}}]"#)),
            "x/m is a module of a device that is not in it",
        ),
        (
            of(&format!(r#""devices":[{gateway},{{"deviceId":"d"}},{{"deviceId":"e"}}]"#)),
            "more than 2 identities",
        ),
        (of(r#""devices":[{"deviceId":"d","authentication":{"symmetricKey":"secret"}}]"#), "of another type"),
    ] {
        let error = LocalFile::parse(text.as_bytes(), 2).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("secret"), "{error} for {text}");
    }
}
