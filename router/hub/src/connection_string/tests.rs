//! Tests of `connection_string`.

use super::*;

#[test]
fn connection_strings_that_parse() {
    let device = ConnectionString::parse("HostName=h.net;DeviceId=d1;SharedAccessKey=YWJj").expect("parses");
    assert_eq!(
        (device.host.as_str(), device.id.as_str(), device.key.as_deref()),
        ("h.net", "d1", Some("YWJj"))
    );
    let module = ConnectionString::parse(
        "hostname=h.net; DeviceId=gw ;ModuleId=$edgeHub;SharedAccessKey=YWI=;GatewayHostName=up;",
    );
    let module = module.expect("parses");
    assert_eq!((module.id.as_str(), module.gateway.as_deref()), ("gw/$edgeHub", Some("up")));
    let x509 = ConnectionString::parse("HostName=h;DeviceId=d;x509=True").expect("parses");
    assert!(x509.x509 && x509.key.is_none());
    assert_eq!(format!("{device:?}"), "ConnectionString(h.net, d1, a key, x509=false)");
}

#[test]
fn every_error_at_once() {
    let errors =
        ConnectionString::parse("oops;HostName=a;HostName=b;Colour=red;SharedAccessKey=!;x509=maybe")
            .unwrap_err();
    assert_eq!(
        errors,
        [
            ConnectionStringError::Part(1),
            ConnectionStringError::Twice("HostName"),
            ConnectionStringError::Unknown("Colour".to_owned()),
            ConnectionStringError::Value("x509", "true or false: maybe".to_owned()),
            ConnectionStringError::Value("SharedAccessKey", "base64".to_owned()),
            ConnectionStringError::Missing("DeviceId"),
        ]
    );
    let errors = ConnectionString::parse("").unwrap_err();
    assert_eq!(
        errors,
        [
            ConnectionStringError::Missing("HostName"),
            ConnectionStringError::Missing("SharedAccessKey"),
            ConnectionStringError::Missing("DeviceId"),
        ]
    );
    let policy = "HostName=h;SharedAccessKeyName=iothubowner;SharedAccessKey=YWJj;DeviceId=d";
    assert_eq!(ConnectionString::parse(policy).unwrap_err(), [ConnectionStringError::Policy]);
}
